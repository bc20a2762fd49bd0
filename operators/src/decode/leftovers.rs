//! Which attributes of a row no column holds exactly: they make the map `attributes`.
//!
//! The row's message is decoded once more, into a row of its own, and asked which attributes filled a column
//! exactly. So the map follows the columns by construction, and costs nothing until somebody selects it.
use smallvec::SmallVec;

use super::OtlpSignal;
use super::entries::Entries;
use super::error::WireError;
use super::logs::LogRows;
use super::metrics::MetricRows;
use super::request::Rows;
use super::row::RowBuilder;
use super::spans::SpanRows;
use super::text::Body;
use super::value::{KeyValue, Value};
use super::wire;

/// Reads the leftovers of row after row of one stream.
pub(crate) enum Leftovers {
    Spans(Box<SpanRows>),
    Logs(Box<LogRows>),
    Metrics(Box<MetricRows>),
}

impl Leftovers {
    pub(crate) fn new(stream: &str) -> Leftovers {
        match OtlpSignal::of_stream(stream) {
            OtlpSignal::Traces => Leftovers::Spans(Box::new(SpanRows::new())),
            OtlpSignal::Logs => Leftovers::Logs(Box::new(LogRows::new())),
            OtlpSignal::Metrics => Leftovers::Metrics(Box::new(MetricRows::new())),
        }
    }

    /// Appends the entries of the row that this message became.
    pub(crate) fn read(&mut self, message: &[u8], entries: &mut Entries) -> Result<(), WireError> {
        let body = Body {
            base: message,
            buffer: 0,
        };
        match self {
            Leftovers::Spans(rows) => {
                rows.item(body, message)?;
                leftover_attributes(rows.builder(), message, 0x4a, entries)?;
                span_entries(message, entries)
            }
            Leftovers::Logs(rows) => {
                rows.item(body, message)?;
                leftover_attributes(rows.builder(), message, 0x32, entries)?;
                log_entries(message, entries)
            }
            Leftovers::Metrics(rows) => {
                rows.read_own(message)?;
                leftover_attributes(rows.builder(), message, 0x0a, entries)
            }
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
    // Attributes beyond the 64th hardly ever fill a column: they are looked up in a list.
    let (mut held, mut held_beyond) = (0u64, SmallVec::<[u32; 8]>::new());
    builder.each_exact_winner(|number| match number {
        1..=64 => held |= 1 << (number - 1),
        _ => held_beyond.push(number),
    });
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
        let is_held = match number {
            1..=64 => held >> (number - 1) & 1 == 1,
            _ => held_beyond.contains(&number),
        };
        if !is_held {
            let pair = KeyValue::read(pair)?;
            entries.add(pair.key, &pair.value()?)?;
        }
    }
    Ok(())
}

/// What a span says beside its attributes and has no column.
fn span_entries(mut rest: &[u8], entries: &mut Entries) -> Result<(), WireError> {
    let (mut state, mut events, mut links, mut flags): (&[u8], u64, u64, u32) = (&[], 0, 0, 0);
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        match tag {
            0x1a => state = wire::bytes(&mut rest)?,
            0x60 => events = wire::varint(&mut rest)?,
            0x70 => links = wire::varint(&mut rest)?,
            0x85 => flags = wire::fixed32(&mut rest)?,
            _ => wire::skip(tag & 7, &mut rest)?,
        }
    }
    if !state.is_empty() {
        entries.add(b"otel.trace_state", &Value::Text(state))?;
    }
    entries.add_count("otel.dropped_events_count", u64::from(events as u32))?;
    entries.add_count("otel.dropped_links_count", u64::from(links as u32))?;
    entries.add_count("otel.flags", u64::from(flags))
}

/// What a log record says beside its attributes and has no column.
fn log_entries(mut rest: &[u8], entries: &mut Entries) -> Result<(), WireError> {
    let mut flags = 0;
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        match tag {
            0x45 => flags = wire::fixed32(&mut rest)?,
            _ => wire::skip(tag & 7, &mut rest)?,
        }
    }
    entries.add_count("otel.flags", u64::from(flags))
}
