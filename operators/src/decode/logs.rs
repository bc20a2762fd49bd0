//! A log record into a row of the stream `logs`.
//!
//! A record needs no trace: an id that is missing or all zero is null. An id of another length rejects the
//! record.
use smallvec::SmallVec;

use super::Rejection;
use super::aliases::AliasTable;
use super::columns::Columns;
use super::error::WireError;
use super::otlp;
use super::request::{Clock, ITEM_DEPTH, Rows, Shared};
use super::row::RowBuilder;
use super::spans::{id, saturated};
use super::text::{Body, inline_view};
use super::value::{Pieces, Value};
use super::wire;
use crate::fields::{LOGS, ordinal};

const TRACE_ID: usize = ordinal(LOGS, "trace_id");
const SPAN_ID: usize = ordinal(LOGS, "span_id");
const EVENT_NAME: usize = ordinal(LOGS, "event_name");
const SEVERITY: usize = ordinal(LOGS, "severity");
const SEVERITY_NUMBER: usize = ordinal(LOGS, "severity_number");
const SEVERITY_TEXT: usize = ordinal(LOGS, "severity_text");
const EVENT_TIME: usize = ordinal(LOGS, "event_time");
const TIME: usize = ordinal(LOGS, "time");
const OBSERVED: usize = ordinal(LOGS, "observed_time");
const TIME_NANO: usize = ordinal(LOGS, "time_unix_nano");
const BODY: usize = ordinal(LOGS, "body");
const ATTRIBUTES: usize = ordinal(LOGS, "attributes");
const RESOURCE: usize = ordinal(LOGS, "resource");
const DROPPED: usize = ordinal(LOGS, "dropped_attributes");
const ROW: usize = ordinal(LOGS, "_row");

/// Columns that stay raw bytes in memory.
pub(crate) const RAW: u64 = 1 << ATTRIBUTES | 1 << RESOURCE;

const FIELDS: [u32; 11] = [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12];

/// Rows of the stream `logs`.
pub(crate) struct LogRows {
    builder: RowBuilder,
    clock: Clock,
}

impl LogRows {
    pub(crate) fn new() -> LogRows {
        LogRows {
            builder: RowBuilder::new(Columns::new(LOGS, RAW, 1 << ATTRIBUTES), AliasTable::logs()),
            clock: Clock::default(),
        }
    }
}

/// Checks the ids of a record.
pub(crate) fn log_ids(trace: &[u8], span: &[u8]) -> Result<(), Rejection> {
    match (trace.len(), span.len()) {
        (0 | 16, 0 | 8) => Ok(()),
        _ => Err(Rejection::LogIds),
    }
}

impl Rows for LogRows {
    fn item(&mut self, body: Body<'_>, message: &[u8]) -> Result<(), WireError> {
        let number = self.clock.next_row();
        self.builder.start();
        let (mut trace, mut span): (&[u8], &[u8]) = (&[], &[]);
        let (mut severity_text, mut event_name): (&[u8], &[u8]) = (&[], &[]);
        let (mut severity, mut dropped) = (0u64, 0u64);
        let (mut time, mut observed) = (0, 0);
        let mut text: Pieces<'_> = SmallVec::new();
        let mut rest = message;
        while !rest.is_empty() {
            match wire::tag(&mut rest)? {
                0x32 => {
                    let pair = wire::bytes(&mut rest)?;
                    self.builder.attribute(body, pair, ITEM_DEPTH + 1)?;
                }
                0x09 => time = wire::fixed64(&mut rest)?,
                0x10 => severity = wire::varint(&mut rest)?,
                0x1a => severity_text = wire::bytes(&mut rest)?,
                0x2a => {
                    let piece = wire::bytes(&mut rest)?;
                    otlp::check_value(piece, ITEM_DEPTH + 1)?;
                    text.push(piece);
                }
                0x38 => dropped = wire::varint(&mut rest)?,
                0x45 => drop(wire::fixed32(&mut rest)?),
                0x4a => trace = wire::bytes(&mut rest)?,
                0x52 => span = wire::bytes(&mut rest)?,
                0x59 => observed = wire::fixed64(&mut rest)?,
                0x62 => event_name = wire::bytes(&mut rest)?,
                other => wire::other(other, &FIELDS, &mut rest)?,
            }
        }
        if let Err(reason) = log_ids(trace, span) {
            self.clock.outcome.reject(reason);
            self.builder.columns.drop_row();
            return Ok(());
        }
        let event_time = self.clock.event_time(&[time, observed]);
        let builder = &mut self.builder;
        if let Some(trace) = id::<16>(trace) {
            let (view, _) = builder.text.trace_and_span(&trace, &[0; 8]);
            builder.set_view(TRACE_ID, view);
        }
        if let Some(span) = id::<8>(span) {
            let view = builder.text.span(&span);
            builder.set_view(SPAN_ID, view);
        }
        for (column, written) in [(EVENT_NAME, event_name), (SEVERITY_TEXT, severity_text)] {
            if !written.is_empty() {
                let view = builder.text.view(body, written);
                builder.set_view(column, view);
            }
        }
        if let Some(written) = Value::read(&text)?.text()? {
            let view = builder.text.view(body, &written);
            builder.set_view(BODY, view);
        }
        for (column, nanos) in [(TIME, time), (OBSERVED, observed)] {
            if nanos != 0 {
                builder.set_int(column, saturated(nanos) / 1000);
            }
        }
        let raw = builder.text.raw(body, message);
        let columns = &mut builder.columns;
        columns.set_narrow(EVENT_TIME, event_time);
        columns.set_narrow(TIME_NANO, saturated(time));
        columns.set_wide(SEVERITY, severity_view(severity as i32));
        columns.set_narrow(SEVERITY_NUMBER, i64::from(severity as i32));
        columns.set_wide(ATTRIBUTES, raw);
        columns.set_narrow(DROPPED, i64::from(dropped as u32));
        columns.set_narrow(ROW, number);
        columns.close_row(builder.mask);
        Ok(())
    }

    fn builder(&mut self) -> &mut RowBuilder {
        &mut self.builder
    }

    fn built(&self) -> &RowBuilder {
        &self.builder
    }

    fn clock(&mut self) -> &mut Clock {
        &mut self.clock
    }

    fn shared(&self) -> Shared {
        const SHARED: Shared = Shared::of(LOGS);
        SHARED
    }
}

fn severity_view(number: i32) -> u128 {
    const VIEWS: [u128; 6] = [
        inline_view("trace"),
        inline_view("debug"),
        inline_view("info"),
        inline_view("warn"),
        inline_view("error"),
        inline_view("fatal"),
    ];
    const UNSPECIFIED: u128 = inline_view("unspecified");
    match number {
        1..=24 => VIEWS[(number - 1) as usize / 4],
        _ => UNSPECIFIED,
    }
}
