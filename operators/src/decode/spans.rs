//! A span message into a row of the stream `spans`.
//!
//! The row keeps the span's own message as raw bytes; attributes, events and links are made from it when
//! somebody selects them. A span without valid ids is rejected, whatever else it says; a span whose wire
//! format is broken refuses its whole request, as any protobuf parser would.
use smallvec::SmallVec;

use super::Rejection;
use super::aliases::AliasTable;
use super::columns::Columns;
use super::dialects::Class;
use super::error::WireError;
use super::otlp;
use super::request::{Clock, ITEM_DEPTH, Rows, Shared};
use super::row::RowBuilder;
use super::text::{Body, inline_view};
use super::value::each_field;
use super::wire;
use crate::fields::{SPANS, ordinal};

const TRACE_ID: usize = ordinal(SPANS, "trace_id");
const SPAN_ID: usize = ordinal(SPANS, "span_id");
const PARENT: usize = ordinal(SPANS, "parent_span_id");
const NAME: usize = ordinal(SPANS, "name");
const KIND: usize = ordinal(SPANS, "kind");
const STATUS: usize = ordinal(SPANS, "status");
const STATUS_MESSAGE: usize = ordinal(SPANS, "status_message");
const EVENT_TIME: usize = ordinal(SPANS, "event_time");
const START_TIME: usize = ordinal(SPANS, "start_time");
const END_TIME: usize = ordinal(SPANS, "end_time");
const START_NANO: usize = ordinal(SPANS, "start_unix_nano");
const DURATION: usize = ordinal(SPANS, "duration_ns");
const CLASS: usize = ordinal(SPANS, "span_class");
const MODEL_REQUESTED: usize = ordinal(SPANS, "model_requested");
const MODEL: usize = ordinal(SPANS, "model");
const INPUT_TOKENS: usize = ordinal(SPANS, "input_tokens");
const OUTPUT_TOKENS: usize = ordinal(SPANS, "output_tokens");
const CACHE_READ: usize = ordinal(SPANS, "cache_read_tokens");
const CACHE_WRITE: usize = ordinal(SPANS, "cache_write_tokens");
const REASONING: usize = ordinal(SPANS, "reasoning_tokens");
const AGENT_NAME: usize = ordinal(SPANS, "agent_name");
const TOOL_NAME: usize = ordinal(SPANS, "tool_name");
const ATTRIBUTES: usize = ordinal(SPANS, "attributes");
const RESOURCE: usize = ordinal(SPANS, "resource");
const EVENTS: usize = ordinal(SPANS, "events");
const LINKS: usize = ordinal(SPANS, "links");
const DROPPED: usize = ordinal(SPANS, "dropped_attributes");
const ROW: usize = ordinal(SPANS, "_row");

/// Columns that stay raw bytes in memory.
pub(crate) const RAW: u64 = 1 << ATTRIBUTES | 1 << RESOURCE | 1 << EVENTS | 1 << LINKS;
/// Those of them that show the span's own message.
const OWN_BYTES: u64 = 1 << ATTRIBUTES | 1 << EVENTS | 1 << LINKS;
/// Any of these makes a span without a declared class an `llm` span.
const MODEL_CALL: u64 = 1 << MODEL | 1 << MODEL_REQUESTED | 1 << INPUT_TOKENS | 1 << OUTPUT_TOKENS;

const FIELDS: [u32; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// Rows of the stream `spans`.
pub(crate) struct SpanRows {
    builder: RowBuilder,
    clock: Clock,
}

impl SpanRows {
    pub(crate) fn new() -> SpanRows {
        SpanRows {
            builder: RowBuilder::new(Columns::new(SPANS, RAW, OWN_BYTES), AliasTable::spans()),
            clock: Clock::default(),
        }
    }

    fn times(&mut self, start: u64, end: u64) {
        let event_time = self.clock.event_time(&[end]);
        let columns = &mut self.builder.columns;
        columns.set_narrow(EVENT_TIME, event_time);
        columns.set_narrow(START_NANO, saturated(start));
        if start != 0 {
            self.builder.set_int(START_TIME, saturated(start) / 1000);
        }
        if end != 0 {
            self.builder.set_int(END_TIME, saturated(end) / 1000);
        }
        if start != 0 && end != 0 {
            let duration = i128::from(end) - i128::from(start);
            let duration = duration.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
            self.builder.set_int(DURATION, duration);
        }
    }

    /// Derives what no single attribute says: class, names, the model that answered, inclusive totals.
    #[inline(always)]
    fn derive(&mut self) {
        let builder = &mut self.builder;
        let mask = builder.mask;
        let class = builder.class.unwrap_or_else(|| {
            if mask & MODEL_CALL != 0 {
                Class::Llm
            } else if mask >> TOOL_NAME & 1 == 1 {
                Class::Tool
            } else if mask >> AGENT_NAME & 1 == 1 {
                Class::Agent
            } else {
                builder.hint.unwrap_or(Class::Other)
            }
        });
        builder.columns.set_wide(CLASS, RowBuilder::class_view(class));
        if let Some(name) = builder.entity_name {
            match class {
                Class::Tool if !builder.has(TOOL_NAME) => builder.set_view(TOOL_NAME, name),
                Class::Agent if !builder.has(AGENT_NAME) => builder.set_view(AGENT_NAME, name),
                _ => {}
            }
        }
        if mask >> MODEL & 1 == 0 && mask >> MODEL_REQUESTED & 1 == 1 {
            let model = builder.columns.wide(MODEL_REQUESTED);
            builder.set_view(MODEL, model);
        }
        if mask & (1 << CACHE_READ | 1 << CACHE_WRITE | 1 << REASONING) != 0 {
            include(builder, INPUT_TOKENS, &[CACHE_READ, CACHE_WRITE]);
            include(builder, OUTPUT_TOKENS, &[REASONING]);
        }
    }
}

/// Makes a total inclusive: parts that exceed it were counted apart by the emitter, and are added.
fn include(builder: &mut RowBuilder, total: usize, parts: &[usize]) {
    let part: i64 = parts
        .iter()
        .filter(|&&column| builder.has(column))
        .fold(0, |sum, &column| {
            sum.saturating_add(builder.columns.narrow(column))
        });
    if builder.has(total) && part > builder.columns.narrow(total) {
        let inclusive = builder.columns.narrow(total).saturating_add(part);
        builder.set_int(total, inclusive);
    }
}

#[inline(always)]
pub(crate) fn saturated(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

/// Reads an id; `None` if it is of another length or all zero.
#[inline(always)]
pub(crate) fn id<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let id: [u8; N] = bytes.try_into().ok()?;
    (id != [0; N]).then_some(id)
}

/// Checks the ids of a span; a parent of zeroes is no parent.
#[inline(always)]
pub(crate) fn ids(trace: &[u8], span: &[u8], parent: &[u8]) -> Result<([u8; 16], [u8; 8]), Rejection> {
    let trace = id::<16>(trace).ok_or(Rejection::TraceId)?;
    let span = id::<8>(span).ok_or(Rejection::SpanId)?;
    if !matches!(parent.len(), 0 | 8) {
        return Err(Rejection::ParentSpanId);
    }
    Ok((trace, span))
}

impl Rows for SpanRows {
    #[inline]
    fn item(&mut self, body: Body<'_>, message: &[u8]) -> Result<(), WireError> {
        let number = self.clock.next_row();
        self.builder.start();
        let (mut trace, mut span, mut parent): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let (mut name, mut status_message): (&[u8], &[u8]) = (&[], &[]);
        let (mut kind, mut status, mut dropped) = (0u64, 0u64, 0u64);
        let (mut start, mut end) = (0, 0);
        let mut events: SmallVec<[&[u8]; 4]> = SmallVec::new();
        let mut links = false;
        let mut rest = message;
        while !rest.is_empty() {
            match wire::tag(&mut rest)? {
                0x4a => loop {
                    let pair = wire::bytes(&mut rest)?;
                    self.builder.attribute(body, pair, ITEM_DEPTH + 1)?;
                    // Attributes stand together: no dispatch between them.
                    match rest {
                        [0x4a, after @ ..] => rest = after,
                        _ => break,
                    }
                },
                0x0a => trace = wire::bytes(&mut rest)?,
                0x12 => span = wire::bytes(&mut rest)?,
                0x1a => drop(wire::bytes(&mut rest)?),
                0x22 => parent = wire::bytes(&mut rest)?,
                0x2a => name = wire::bytes(&mut rest)?,
                0x30 => kind = wire::varint(&mut rest)?,
                0x39 => start = wire::fixed64(&mut rest)?,
                0x41 => end = wire::fixed64(&mut rest)?,
                0x50 => dropped = wire::varint(&mut rest)?,
                0x5a => {
                    let event = wire::bytes(&mut rest)?;
                    otlp::check(&otlp::EVENT, event, ITEM_DEPTH + 1)?;
                    events.push(event);
                }
                0x6a => {
                    otlp::check(&otlp::LINK, wire::bytes(&mut rest)?, ITEM_DEPTH + 1)?;
                    links = true;
                }
                0x60 | 0x70 => drop(wire::varint(&mut rest)?),
                0x7a => read_status(wire::bytes(&mut rest)?, &mut status, &mut status_message)?,
                0x85 => drop(wire::fixed32(&mut rest)?),
                other => wire::other(other, &FIELDS, &mut rest)?,
            }
        }
        let (trace, span) = match ids(trace, span, parent) {
            Ok(ids) => ids,
            Err(reason) => {
                self.clock.outcome.reject(reason);
                self.builder.columns.drop_row();
                return Ok(());
            }
        };
        self.times(start, end);
        let builder = &mut self.builder;
        if let Some(parent) = id::<8>(parent) {
            let view = builder.text.span(&parent);
            builder.set_view(PARENT, view);
        }
        if !status_message.is_empty() {
            let view = builder.text.view(body, status_message);
            builder.set_view(STATUS_MESSAGE, view);
        }
        if !builder.documents.is_empty() {
            builder.read_documents(body)?;
        }
        if !builder.flattened.is_empty() {
            builder.read_flattened(body)?;
        }
        if !events.is_empty() {
            builder.mask |= 1 << EVENTS;
            read_events(builder, body, &events, start)?;
        }
        if let Some((at, reading)) = builder.instant
            && start != 0
        {
            builder.own_duration(reading, at.saturating_sub(saturated(start)));
        }
        if links {
            builder.mask |= 1 << LINKS;
        }
        self.derive();
        let builder = &mut self.builder;
        let (trace, span) = builder.text.trace_and_span(&trace, &span);
        let name = builder.text.view(body, name);
        let raw = builder.text.raw(body, message);
        let columns = &mut builder.columns;
        columns.set_wide(TRACE_ID, trace);
        columns.set_wide(SPAN_ID, span);
        columns.set_wide(NAME, name);
        columns.set_wide(KIND, kind_view(kind as i32));
        columns.set_wide(STATUS, status_view(status as i32));
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
        const SHARED: Shared = Shared::of(SPANS);
        SHARED
    }
}

/// Reads a status; a second one in the same span is merged.
fn read_status<'a>(mut rest: &'a [u8], code: &mut u64, message: &mut &'a [u8]) -> Result<(), WireError> {
    while !rest.is_empty() {
        match wire::tag(&mut rest)? {
            0x12 => *message = wire::bytes(&mut rest)?,
            0x18 => *code = wire::varint(&mut rest)?,
            other => wire::other(other, &[2, 3], &mut rest)?,
        }
    }
    Ok(())
}

/// Reads the events whose names are aliases; all of them have passed the structural walk.
fn read_events(
    builder: &mut RowBuilder,
    body: Body<'_>,
    events: &[&[u8]],
    start: u64,
) -> Result<(), WireError> {
    for event in events {
        let (mut name, mut at): (&[u8], u64) = (&[], 0);
        let mut rest = *event;
        while !rest.is_empty() {
            let tag = wire::tag(&mut rest)?;
            match tag {
                0x09 => at = wire::fixed64(&mut rest)?,
                0x12 => name = wire::bytes(&mut rest)?,
                _ => wire::skip(tag & 7, &mut rest)?,
            }
        }
        if builder
            .table
            .events
            .iter()
            .any(|alias| alias.name.as_bytes() == name)
        {
            let mut attributes: SmallVec<[&[u8]; 8]> = SmallVec::new();
            each_field(&[event], 0x1a, |pair| {
                attributes.push(pair);
                Ok(())
            })?;
            builder.read_event(body, name, at, start, &attributes)?;
        }
    }
    Ok(())
}

fn kind_view(kind: i32) -> u128 {
    const VIEWS: [u128; 6] = [
        inline_view("unspecified"),
        inline_view("internal"),
        inline_view("server"),
        inline_view("client"),
        inline_view("producer"),
        inline_view("consumer"),
    ];
    usize::try_from(kind)
        .ok()
        .and_then(|kind| VIEWS.get(kind).copied())
        .unwrap_or_else(|| number_view(kind))
}

fn status_view(status: i32) -> u128 {
    const VIEWS: [u128; 3] = [inline_view("unset"), inline_view("ok"), inline_view("error")];
    usize::try_from(status)
        .ok()
        .and_then(|status| VIEWS.get(status).copied())
        .unwrap_or_else(|| number_view(status))
}

/// View of a number's digits: an `i32` has at most eleven characters.
#[cold]
pub(crate) fn number_view(number: i32) -> u128 {
    inline_view(&number.to_string())
}
