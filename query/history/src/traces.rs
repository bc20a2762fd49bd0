//! The trace list and one trace, over `history.spans`.
//!
//! A trace is in the list if one of its spans within the time range meets all conditions (those on duration are about
//! the whole trace). It stands where its newest such span stands, newest first.
//!
//! **How it stays fast.** The range is walked backwards in slices that grow from a minute, so a page of fifty reads the
//! newest minutes and not the whole range: files and row groups outside of a slice are skipped by their bounds on
//! `event_time`. Only the traces found there are then read as a whole, by id, which Bloom filters narrow to the row
//! groups that have them.
//!
//! **How it stays put.** A cursor carries the range, the tick of the first page and the last trace's place; rows of
//! later ticks are invisible to later pages, so nothing moves or comes twice while new spans arrive.

use std::collections::HashMap;
use std::fmt::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::encode;
use crate::failure::{Kind, QueryError};
use crate::service::{QueryRequest, QueryResult, QueryService};
use crate::source::Scope;

const HOUR_US: i64 = 3_600_000_000;
const FIRST_SLICE_US: i64 = 60_000_000;
/// A slice found nothing: the next one is so many times wider.
const SLICE_GROWTH: i64 = 4;
/// Traces looked at together, at most: each more is one more chance that a Bloom filter says "perhaps".
const TOGETHER: usize = 200;
const MOST_TRACES: usize = 1000;
/// Spans of one trace that are returned.
const MOST_SPANS: usize = 100_000;
/// How long before the range a trace in it may have begun and still be shown from its start.
const LONGEST_TRACE_US: i64 = HOUR_US;

/// Which traces to list; times in microseconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct TraceFilter {
    /// Default: an hour before `to`.
    pub from: Option<i64>,
    /// Exclusive; default: now.
    pub to: Option<i64>,
    pub service: Option<String>,
    pub model: Option<String>,
    pub user: Option<String>,
    pub session: Option<String>,
    /// `ok`, `error` or `unset`.
    pub status: Option<String>,
    pub min_duration_ns: Option<i64>,
    pub max_duration_ns: Option<i64>,
    /// Text in the span's name, whatever its case.
    pub q: Option<String>,
    /// Default 50.
    pub limit: Option<usize>,
    pub cursor: Option<String>,
}

/// A trace in the list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceSummary {
    pub trace_id: String,
    pub project: String,
    /// Of the root, or of the earliest span while the root has not arrived.
    pub name: String,
    pub service_name: Option<String>,
    pub start_time: Option<String>,
    pub end_time: Option<String>,
    pub duration_ns: Option<i64>,
    /// Where it stands in the list: its newest span that meets the conditions.
    pub event_time: String,
    pub span_count: i64,
    pub error_count: i64,
    /// `error` if a span failed, else the root's.
    pub status: Option<String>,
    pub services: Vec<String>,
    pub models: Vec<String>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    /// Decimal, as text.
    pub reported_cost: Option<String>,
    pub user_id: Option<String>,
    pub session_id: Option<String>,
}

/// A page of the list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TracePage {
    pub items: Vec<TraceSummary>,
    pub next_cursor: Option<String>,
    #[serde(skip)]
    pub as_of: u64,
}

/// A place in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    newest: i64,
    trace_id: String,
    project: String,
}

/// What a cursor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    from: i64,
    to: i64,
    tick: u64,
    after: Place,
}

impl Cursor {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Cursor, QueryError> {
        let decoded = URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        decoded.ok_or_else(|| {
            QueryError::new(Kind::Request, "the cursor is not one that this server gave out")
                .with_hint("use next_cursor of the page before, or leave it out to begin again")
        })
    }
}

impl QueryService {
    /// A page of the traces that meet the filter, newest first.
    pub async fn list_traces(&self, filter: &TraceFilter, scope: &Scope) -> Result<TracePage, QueryError> {
        let limit = filter.limit.unwrap_or(50).clamp(1, MOST_TRACES);
        let cursor = filter.cursor.as_deref().map(Cursor::decode).transpose()?;
        let (from, to, tick) = match &cursor {
            Some(cursor) => (cursor.from, cursor.to, cursor.tick),
            None => {
                let tick = self.tick();
                let now = i64::try_from(tick)
                    .unwrap_or(i64::MAX)
                    .saturating_mul(1000)
                    .saturating_add(1);
                let to = filter.to.unwrap_or(now);
                (
                    filter.from.unwrap_or_else(|| to.saturating_sub(HOUR_US)),
                    to,
                    tick,
                )
            }
        };
        if from >= to {
            return Err(QueryError::new(
                Kind::Request,
                "the time range is empty: `from` is not before `to`",
            ));
        }
        let range = Range { from, to, tick };
        let mut after = cursor.map(|cursor| cursor.after);
        let mut end = after
            .as_ref()
            .map_or(to, |place| place.newest.saturating_add(1).min(to));
        let together = (limit + 1).clamp(20, TOGETHER);
        let mut width = FIRST_SLICE_US;
        let mut items: Vec<(Place, TraceSummary)> = Vec::new();
        while end > from && items.len() <= limit {
            let begin = end.saturating_sub(width).max(from);
            let found = self
                .candidates(filter, scope, &range, (begin, end), after.as_ref(), together)
                .await?;
            let more = found.len() == together;
            items.extend(self.summaries(filter, scope, &range, &found).await?);
            if more {
                after = found.last().cloned();
                end = after
                    .as_ref()
                    .map_or(begin, |place| place.newest.saturating_add(1));
            } else {
                end = begin;
                after = None;
                width = width.saturating_mul(SLICE_GROWTH);
            }
        }
        let next_cursor = (items.len() > limit).then(|| {
            items.truncate(limit);
            let after = items[limit - 1].0.clone();
            Cursor {
                from,
                to,
                tick,
                after,
            }
            .encode()
        });
        let items = items.into_iter().map(|(_, summary)| summary).collect();
        Ok(TracePage {
            items,
            next_cursor,
            as_of: tick,
        })
    }

    /// All spans of a trace, in order of their start.
    pub async fn trace(&self, trace_id: &str, scope: &Scope) -> Result<QueryResult, QueryError> {
        self.query(QueryRequest {
            query: "SELECT * FROM history.spans WHERE trace_id = $1 ORDER BY start_unix_nano, span_id"
                .to_owned(),
            params: vec![json!(trace_id)],
            limit: Some(MOST_SPANS),
            timeout: None,
            scope: scope.clone(),
        })
        .await
    }

    /// Traces whose newest matching span within `slice` they are ordered by, at most `together`.
    async fn candidates(
        &self,
        filter: &TraceFilter,
        scope: &Scope,
        range: &Range,
        slice: (i64, i64),
        after: Option<&Place>,
        together: usize,
    ) -> Result<Vec<Place>, QueryError> {
        let mut sql = Text::default();
        sql.push("SELECT project, trace_id, max(event_time) AS newest FROM history.spans WHERE _tick <= ");
        sql.value(json!(range.tick));
        sql.between(slice.0, slice.1);
        sql.conditions(filter);
        sql.push(" GROUP BY project, trace_id");
        if let Some(place) = after {
            let newest = sql.time(place.newest);
            let (trace, project) = (
                sql.parameter(json!(place.trace_id)),
                sql.parameter(json!(place.project)),
            );
            sql.push(&format!(
                " HAVING max(event_time) < {newest} OR (max(event_time) = {newest} AND (trace_id < {trace} OR \
                 (trace_id = {trace} AND project < {project})))"
            ));
        }
        sql.push(&format!(
            " ORDER BY newest DESC, trace_id DESC, project DESC LIMIT {together}"
        ));
        let result = self.ask(sql, scope).await?;
        let mut places = Vec::with_capacity(result.row_count);
        for batch in &result.batches {
            let newest = batch.column(2).as_primitive::<TimestampMicrosecondType>();
            for row in 0..batch.num_rows() {
                places.push(Place {
                    newest: newest.value(row),
                    trace_id: text(batch, 1, row).unwrap_or_default(),
                    project: text(batch, 0, row).unwrap_or_default(),
                });
            }
        }
        Ok(places)
    }

    /// Those of the candidates that belong where they were found, read as a whole.
    async fn summaries(
        &self,
        filter: &TraceFilter,
        scope: &Scope,
        range: &Range,
        candidates: &[Place],
    ) -> Result<Vec<(Place, TraceSummary)>, QueryError> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Text::default();
        sql.push(
            "SELECT project, trace_id, \
             first_value(name ORDER BY parent_span_id IS NULL DESC, start_unix_nano) AS name, \
             first_value(service_name ORDER BY parent_span_id IS NULL DESC, start_unix_nano) AS service_name, \
             first_value(status ORDER BY parent_span_id IS NULL DESC, start_unix_nano) AS status, \
             min(start_time) AS start_time, max(end_time) AS end_time, \
             max(start_unix_nano + duration_ns) - min(start_unix_nano) AS duration_ns, \
             count(*) AS span_count, count(*) FILTER (WHERE status = 'error') AS error_count, \
             array_agg(DISTINCT service_name) FILTER (WHERE service_name IS NOT NULL) AS services, \
             array_agg(DISTINCT model) FILTER (WHERE model IS NOT NULL) AS models, \
             sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, \
             sum(reported_cost) AS reported_cost, max(user_id) AS user_id, max(session_id) AS session_id, \
             max(event_time) FILTER (WHERE true",
        );
        sql.between(range.from, range.to);
        sql.conditions(filter);
        sql.push(") AS newest FROM history.spans WHERE _tick <= ");
        sql.value(json!(range.tick));
        sql.between(
            range.from.saturating_sub(LONGEST_TRACE_US),
            range.to.saturating_add(LONGEST_TRACE_US),
        );
        sql.push(" AND trace_id IN (");
        for (position, place) in candidates.iter().enumerate() {
            sql.push(if position > 0 { ", " } else { "" });
            sql.value(json!(place.trace_id));
        }
        sql.push(") GROUP BY project, trace_id");
        let result = self.ask(sql, scope).await?;
        let mut found = HashMap::with_capacity(result.row_count);
        for batch in &result.batches {
            for row in 0..batch.num_rows() {
                let (newest, summary) = summary(batch, row);
                let place = Place {
                    newest,
                    trace_id: summary.trace_id.clone(),
                    project: summary.project.clone(),
                };
                let long_enough = |least: i64| summary.duration_ns.is_some_and(|duration| duration >= least);
                let short_enough = |most: i64| summary.duration_ns.is_some_and(|duration| duration <= most);
                if filter.min_duration_ns.is_none_or(long_enough)
                    && filter.max_duration_ns.is_none_or(short_enough)
                {
                    found.insert((place.trace_id.clone(), place.project.clone()), (place, summary));
                }
            }
        }
        // A trace whose newest matching span is newer than the slice has had its place before.
        let belongs = |candidate: &Place| {
            let (place, summary) = found.get(&(candidate.trace_id.clone(), candidate.project.clone()))?;
            (place.newest == candidate.newest).then(|| (place.clone(), summary.clone()))
        };
        Ok(candidates.iter().filter_map(belongs).collect())
    }

    async fn ask(&self, sql: Text, scope: &Scope) -> Result<QueryResult, QueryError> {
        self.query(QueryRequest {
            query: sql.sql,
            params: sql.values,
            limit: Some(MOST_SPANS),
            timeout: None,
            scope: scope.clone(),
        })
        .await
    }
}

/// The rows that a list is made from.
struct Range {
    from: i64,
    to: i64,
    tick: u64,
}

/// A query's text with its parameters.
#[derive(Default)]
struct Text {
    sql: String,
    values: Vec<Value>,
}

impl Text {
    fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    /// The name of a new parameter.
    fn parameter(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    fn value(&mut self, value: Value) {
        let name = self.parameter(value);
        self.push(&name);
    }

    /// A time as a literal of the column's own type, so that file statistics apply.
    fn time(&mut self, micros: i64) -> String {
        format!("arrow_cast({micros}, 'Timestamp(Microsecond, Some(\"UTC\"))')")
    }

    fn between(&mut self, from: i64, to: i64) {
        let (from, to) = (self.time(from), self.time(to));
        let _ = write!(self.sql, " AND event_time >= {from} AND event_time < {to}");
    }

    fn conditions(&mut self, filter: &TraceFilter) {
        let equal = [
            ("service_name", &filter.service),
            ("model", &filter.model),
            ("user_id", &filter.user),
            ("session_id", &filter.session),
            ("status", &filter.status),
        ];
        for (column, value) in equal {
            if let Some(value) = value {
                let _ = write!(self.sql, " AND {column} = ");
                self.value(json!(value));
            }
        }
        if let Some(text) = &filter.q {
            self.push(" AND contains(lower(name), ");
            self.value(json!(text.to_lowercase()));
            self.push(")");
        }
    }
}

fn summary(batch: &RecordBatch, row: usize) -> (i64, TraceSummary) {
    let integer = |column: usize| {
        let values = batch.column(column).as_primitive::<Int64Type>();
        values.is_valid(row).then(|| values.value(row))
    };
    let micros = |column: usize| {
        let values = batch.column(column).as_primitive::<TimestampMicrosecondType>();
        values.is_valid(row).then(|| values.value(row))
    };
    let time = |micros: i64| {
        let mut text = String::new();
        encode::write_time(&mut text, micros);
        text
    };
    let texts = |column: usize| {
        let lists = batch.column(column).as_list::<i32>();
        if lists.is_null(row) {
            return Vec::new();
        }
        let values = lists.value(row);
        let values = arrow::compute::cast(&values, &arrow::datatypes::DataType::Utf8).unwrap_or(values);
        let mut texts: Vec<String> = match values.as_string_opt::<i32>() {
            Some(values) => values.iter().flatten().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        texts.sort();
        texts
    };
    let cost = batch.column(14).as_primitive::<Decimal128Type>();
    let error_count = integer(9).unwrap_or(0);
    let newest = micros(17).unwrap_or(i64::MIN);
    let summary = TraceSummary {
        project: text(batch, 0, row).unwrap_or_default(),
        trace_id: text(batch, 1, row).unwrap_or_default(),
        name: text(batch, 2, row).unwrap_or_default(),
        service_name: text(batch, 3, row),
        status: if error_count > 0 {
            Some("error".to_owned())
        } else {
            text(batch, 4, row)
        },
        start_time: micros(5).map(time),
        end_time: micros(6).map(time),
        duration_ns: integer(7),
        span_count: integer(8).unwrap_or(0),
        error_count,
        services: texts(10),
        models: texts(11),
        input_tokens: integer(12),
        output_tokens: integer(13),
        reported_cost: cost.is_valid(row).then(|| cost.value_as_string(row)),
        user_id: text(batch, 15, row),
        session_id: text(batch, 16, row),
        event_time: time(newest),
    };
    (newest, summary)
}

fn text(batch: &RecordBatch, column: usize, row: usize) -> Option<String> {
    let column = batch.column(column);
    if column.is_null(row) {
        return None;
    }
    match column.as_string_view_opt() {
        Some(views) => Some(views.value(row).to_owned()),
        None => column
            .as_string_opt::<i32>()
            .map(|texts| texts.value(row).to_owned()),
    }
}
