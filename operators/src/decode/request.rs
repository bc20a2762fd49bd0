//! The outer messages, the same for all signals: requests, resources, scopes.
//!
//! A resource or a scope may follow its rows on the wire, and a message may come in several parts. So the
//! rows are read first, and what they share is filled in when their resource is complete.
use smallvec::SmallVec;

use super::aliases::{AliasTable, Kind, Reading};
use super::error::WireError;
use super::otlp;
use super::row::RowBuilder;
use super::text::Body;
use super::value::{KeyValue, Pieces, each_field};
use super::wire;
use super::{Origin, Rejection};
use crate::fields::{Field, ordinal};

/// A signal's rows: what a request's innermost messages become.
pub(crate) trait Rows {
    /// Adds the rows of one span, log record or metric.
    fn item(&mut self, body: Body<'_>, message: &[u8]) -> Result<(), WireError>;
    fn builder(&mut self) -> &mut RowBuilder;
    fn built(&self) -> &RowBuilder;
    fn clock(&mut self) -> &mut Clock;
    fn shared(&self) -> Shared;
}

/// The times of a request, the number of its next row, and what it has come to.
#[derive(Default)]
pub(crate) struct Clock {
    number: i64,
    received_us: i64,
    tick_us: i64,
    pub outcome: Outcome,
}

impl Clock {
    /// Begins a request.
    pub(crate) fn begin(&mut self, origin: &Origin<'_>) {
        let tick_us = i64::try_from(origin.tick)
            .ok()
            .and_then(|tick| tick.checked_mul(1000));
        *self = Clock {
            number: 0,
            received_us: origin.received_us,
            tick_us: tick_us.unwrap_or(i64::MAX),
            outcome: Outcome::default(),
        };
    }

    /// The number of the next row, whether or not it will be rejected.
    #[inline(always)]
    pub(crate) fn next_row(&mut self) -> i64 {
        self.number += 1;
        self.number - 1
    }

    /// The event time of an accepted row: the first time that says something (neither zero nor beyond 2262),
    /// else the time received; never beyond the tick.
    #[inline(always)]
    pub(crate) fn event_time(&mut self, nanos: &[u64]) -> i64 {
        let own = nanos
            .iter()
            .find_map(|&nanos| i64::try_from(nanos).ok().filter(|&nanos| nanos != 0));
        let event_time = own
            .map_or(self.received_us, |nanos| nanos / 1000)
            .min(self.tick_us);
        self.outcome.accept(event_time);
        event_time
    }
}

/// What a request came to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub rejected: u32,
    pub reason: Option<Rejection>,
    pub max_event_time_us: Option<i64>,
}

impl Outcome {
    pub(crate) fn reject(&mut self, reason: Rejection) {
        self.rejected += 1;
        self.reason.get_or_insert(reason);
    }

    #[inline(always)]
    fn accept(&mut self, event_time: i64) {
        self.max_event_time_us = Some(
            self.max_event_time_us
                .map_or(event_time, |max| max.max(event_time)),
        );
    }
}

/// Level of a span, a log record or a metric below the request.
pub(crate) const ITEM_DEPTH: u32 = 3;

/// Ordinals of the columns that rows of a request, a resource or a scope share.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    project: usize,
    scope_name: usize,
    pub resource: usize,
    tick: usize,
    mark: usize,
    partition: usize,
    offset: usize,
}

impl Shared {
    pub(crate) const fn of(fields: &[Field]) -> Shared {
        Shared {
            project: ordinal(fields, "project"),
            scope_name: ordinal(fields, "scope_name"),
            resource: ordinal(fields, "resource"),
            tick: ordinal(fields, "_tick"),
            mark: ordinal(fields, "_mark"),
            partition: ordinal(fields, "_partition"),
            offset: ordinal(fields, "_offset"),
        }
    }
}

/// A scope whose rows are read and whose resource is not complete yet.
struct ScopeRows<'a> {
    end: usize,
    scope: Pieces<'a>,
    schema_url: &'a [u8],
}

/// Walks a request; on an error the caller drops the rows added.
pub(crate) fn walk<R: Rows>(
    rows: &mut R,
    origin: &Origin<'_>,
    body: Body<'_>,
    request: &[u8],
) -> Result<(), WireError> {
    let from = rows.builder().columns.rows();
    rows.clock().begin(origin);
    let mut rest = request;
    while !rest.is_empty() {
        match wire::tag(&mut rest)? {
            0x0a => walk_resource(rows, body, wire::bytes(&mut rest)?)?,
            other => wire::other(other, &[1], &mut rest)?,
        }
    }
    let shared = rows.shared();
    let builder = rows.builder();
    let project = builder.text.own(origin.project);
    let columns = &mut builder.columns;
    columns.fill_wide(shared.project, project);
    columns.fill_narrow(shared.tick, i64::try_from(origin.tick).unwrap_or(i64::MAX));
    if let Some(mark) = origin.mark_us {
        columns.fill_gap_narrow(shared.mark, from, mark);
    }
    columns.fill_narrow(shared.partition, i64::from(origin.partition));
    columns.fill_narrow(shared.offset, i64::try_from(origin.offset).unwrap_or(i64::MAX));
    Ok(())
}

fn walk_resource<R: Rows>(rows: &mut R, body: Body<'_>, message: &[u8]) -> Result<(), WireError> {
    let from = rows.builder().columns.rows();
    let mut resource: Pieces<'_> = SmallVec::new();
    let mut schema_url: &[u8] = &[];
    let mut scopes: SmallVec<[ScopeRows<'_>; 4]> = SmallVec::new();
    let mut rest = message;
    while !rest.is_empty() {
        match wire::tag(&mut rest)? {
            0x0a => {
                let piece = wire::bytes(&mut rest)?;
                otlp::check(&otlp::RESOURCE, piece, 2)?;
                resource.push(piece);
            }
            0x12 => scopes.push(walk_scope(rows, body, wire::bytes(&mut rest)?)?),
            0x1a => schema_url = wire::bytes(&mut rest)?,
            other => wire::other(other, &[1, 2, 3], &mut rest)?,
        }
    }
    let shared = rows.shared();
    let builder = rows.builder();
    for scope in &scopes {
        fill_scope(builder, shared, body, scope, &resource, schema_url)?;
    }
    fill_resource(builder, body, from, &resource)
}

fn walk_scope<'a, R: Rows>(
    rows: &mut R,
    body: Body<'_>,
    message: &'a [u8],
) -> Result<ScopeRows<'a>, WireError> {
    let mut scope: Pieces<'a> = SmallVec::new();
    let mut schema_url: &[u8] = &[];
    let mut rest = message;
    while !rest.is_empty() {
        match wire::tag(&mut rest)? {
            0x12 => rows.item(body, wire::bytes(&mut rest)?)?,
            0x0a => {
                let piece = wire::bytes(&mut rest)?;
                otlp::check(&otlp::SCOPE, piece, 3)?;
                scope.push(piece);
            }
            0x1a => schema_url = wire::bytes(&mut rest)?,
            other => wire::other(other, &[1, 2, 3], &mut rest)?,
        }
    }
    Ok(ScopeRows {
        end: rows.builder().columns.rows(),
        scope,
        schema_url,
    })
}

/// Fills the columns of a scope's rows: its name, and resource and scope as raw bytes for later.
fn fill_scope(
    builder: &mut RowBuilder,
    shared: Shared,
    body: Body<'_>,
    scope: &ScopeRows<'_>,
    resource: &[&[u8]],
    schema_url: &[u8],
) -> Result<(), WireError> {
    let from = builder.columns.wide_len(shared.resource);
    if scope.end == from {
        return Ok(());
    }
    let mut context = Vec::with_capacity(512);
    for piece in resource {
        wire::put_bytes(&mut context, 1, piece);
    }
    for piece in &scope.scope {
        wire::put_bytes(&mut context, 2, piece);
    }
    for (number, url) in [(3, schema_url), (4, scope.schema_url)] {
        if !url.is_empty() {
            wire::put_bytes(&mut context, number, url);
        }
    }
    let view = builder.text.own_raw(&context);
    builder.columns.fill_wide_to(shared.resource, scope.end, view);
    let mut name: &[u8] = &[];
    each_field(&scope.scope, 0x0a, |text| {
        name = text;
        Ok(())
    })?;
    if !name.is_empty() {
        let view = builder.text.view(body, name);
        builder
            .columns
            .fill_gaps(shared.scope_name, from, scope.end, view);
    }
    Ok(())
}

/// Fills the columns that come from the resource, where a row's own attributes have not.
fn fill_resource(
    builder: &mut RowBuilder,
    body: Body<'_>,
    from: usize,
    resource: &[&[u8]],
) -> Result<(), WireError> {
    let end = builder.columns.rows();
    if from == end {
        return Ok(());
    }
    let table: &'static AliasTable = builder.table;
    let mut found: SmallVec<[(Reading, u128); 4]> = SmallVec::new();
    each_field(resource, 0x0a, |pair| {
        let Some((key, value)) = resource_alias(table, pair)? else {
            return Ok(());
        };
        let Some(text) = value.value()?.text()?.filter(|text| !text.is_empty()) else {
            return Ok(());
        };
        match found.iter_mut().find(|(reading, _)| reading.column == key.column) {
            Some((reading, view)) if key.rank < reading.rank => {
                *reading = key;
                *view = builder.text.view(body, &text);
            }
            Some(_) => {}
            None => found.push((key, builder.text.view(body, &text))),
        }
        Ok(())
    })?;
    for (reading, view) in found {
        debug_assert_eq!(reading.kind, Kind::Text);
        builder
            .columns
            .fill_gaps(usize::from(reading.column), from, end, view);
    }
    Ok(())
}

fn resource_alias<'a>(
    table: &AliasTable,
    pair: &'a [u8],
) -> Result<Option<(Reading, KeyValue<'a>)>, WireError> {
    let pair = KeyValue::read(pair)?;
    let alias = table.resource.iter().find(|(key, _)| key.as_bytes() == pair.key);
    Ok(alias.map(|(_, reading)| (*reading, pair)))
}
