//! Which attributes of a row no column holds exactly: they make the map `attributes`.
//!
//! The row's message is decoded once more, into a row of its own, and asked which attributes filled a column
//! exactly. So the map follows the columns by construction, and costs nothing until somebody selects it.
use smallvec::SmallVec;

use super::OtlpSignal;
use super::error::WireError;
use super::request::Rows;
use super::row::RowBuilder;
use super::select::{Entries, count_entry, entry};
use super::spans::SpanRows;
use super::text::Body;
use super::value::{KeyValue, Value};
use super::wire;

/// Reads the leftovers of row after row of one stream.
pub(crate) struct Leftovers {
    signal: OtlpSignal,
    spans: SpanRows,
}

impl Leftovers {
    pub(crate) fn new(stream: &str) -> Leftovers {
        Leftovers {
            signal: OtlpSignal::of_stream(stream),
            spans: SpanRows::new(),
        }
    }

    /// Appends the entries of the row that this message became.
    pub(crate) fn read(&mut self, message: &[u8], entries: &mut Entries) -> Result<(), WireError> {
        match self.signal {
            OtlpSignal::Traces => {
                self.spans.item(
                    Body {
                        base: message,
                        buffer: 0,
                    },
                    message,
                )?;
                leftover_attributes(self.spans.builder(), message, 0x4a, entries)?;
                span_entries(message, entries)
            }
            OtlpSignal::Logs | OtlpSignal::Metrics => Ok(()),
        }
    }
}

/// Appends the attributes that fill no column exactly, and forgets the row.
fn leftover_attributes(
    builder: &mut RowBuilder,
    message: &[u8],
    attribute_tag: u32,
    entries: &mut Entries,
) -> Result<(), WireError> {
    let held: SmallVec<[u32; 48]> = (0..64)
        .filter_map(|column| builder.exact_winner(column))
        .collect();
    builder.columns.truncate(0);
    builder.text.clear();
    builder.forget();
    let mut number = 0;
    let mut rest = message;
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        if tag != attribute_tag {
            wire::skip(tag & 7, &mut rest)?;
            continue;
        }
        let pair = wire::bytes(&mut rest)?;
        number += 1;
        if !held.contains(&number) {
            let pair = KeyValue::read(pair)?;
            entry(entries, pair.key, &pair.value()?)?;
        }
    }
    Ok(())
}

/// What a span says beside its attributes and has no column.
fn span_entries(mut rest: &[u8], entries: &mut Entries) -> Result<(), WireError> {
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        match tag {
            0x1a => {
                let state = wire::bytes(&mut rest)?;
                if !state.is_empty() {
                    entry(entries, b"otel.trace_state", &Value::Text(state))?;
                }
            }
            0x60 => count_entry(entries, "otel.dropped_events_count", wire::varint(&mut rest)?),
            0x70 => count_entry(entries, "otel.dropped_links_count", wire::varint(&mut rest)?),
            0x85 => count_entry(entries, "otel.flags", u64::from(wire::fixed32(&mut rest)?)),
            _ => wire::skip(tag & 7, &mut rest)?,
        }
    }
    Ok(())
}
