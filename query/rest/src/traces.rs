//! The trace list and one trace.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::DateTime;
use pyflare_history::encode::write_cell;
use pyflare_history::{QueryResult, Scope as QueryScope, TraceFilter, TraceSummary};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::Int64;
use crate::extract::{Caller, Name, Parameters};
use crate::paging::{List, limit};
use crate::problem::Problem;
use crate::state::Api;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TraceParameters {
    /// Traces of a page, at most 1000; default 100.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// RFC 3339; default an hour before `to`.
    from: Option<String>,
    /// RFC 3339, exclusive; default now.
    to: Option<String>,
    service: Option<String>,
    model: Option<String>,
    user: Option<String>,
    session: Option<String>,
    /// `ok`, `error` or `unset`.
    status: Option<String>,
    min_duration_ms: Option<f64>,
    max_duration_ms: Option<f64>,
    /// Text in a span's name, whatever its case.
    q: Option<String>,
    /// `string`: 64-bit integers as strings.
    #[serde(default)]
    #[param(inline)]
    int64: Int64,
}

/// A trace in the list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TraceItem {
    trace_id: String,
    project: String,
    /// Of the root, or of the earliest span while the root has not arrived.
    root_name: String,
    service_name: Option<String>,
    start_time: Option<String>,
    duration_ms: Option<f64>,
    #[schema(value_type = i64)]
    span_count: Count,
    #[schema(value_type = i64)]
    error_count: Count,
    models: Vec<String>,
    #[schema(value_type = Option<i64>)]
    input_tokens: Option<Count>,
    #[schema(value_type = Option<i64>)]
    output_tokens: Option<Count>,
    user_id: Option<String>,
    session_id: Option<String>,
    status: Option<String>,
}

/// A 64-bit integer, as the caller wants it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Count {
    Number(i64),
    Text(String),
}

impl Count {
    fn new(value: i64, int64: Int64) -> Count {
        match int64 {
            Int64::Number => Count::Number(value),
            Int64::String => Count::Text(value.to_string()),
        }
    }
}

impl TraceItem {
    fn of(summary: TraceSummary, int64: Int64) -> TraceItem {
        let count = |value| Count::new(value, int64);
        TraceItem {
            trace_id: summary.trace_id,
            project: summary.project,
            root_name: summary.name,
            service_name: summary.service_name,
            start_time: summary.start_time,
            duration_ms: summary.duration_ns.map(|duration| duration as f64 / 1e6),
            span_count: count(summary.span_count),
            error_count: count(summary.error_count),
            models: summary.models,
            input_tokens: summary.input_tokens.map(count),
            output_tokens: summary.output_tokens.map(count),
            user_id: summary.user_id,
            session_id: summary.session_id,
            status: summary.status,
        }
    }
}

/// Traces, newest first.
#[utoipa::path(get, path = "/api/v1/traces", tag = "traces", params(TraceParameters), responses(
    (status = 200, body = List<TraceItem>),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): State<Api>,
    Caller(scope): Caller,
    Parameters(asked): Parameters<TraceParameters>,
) -> Result<Json<List<TraceItem>>, Problem> {
    let filter = TraceFilter {
        from: time("from", asked.from.as_deref())?,
        to: time("to", asked.to.as_deref())?,
        service: given(asked.service),
        model: given(asked.model),
        user: given(asked.user),
        session: given(asked.session),
        status: status(asked.status)?,
        min_duration_ns: nanoseconds("min_duration_ms", asked.min_duration_ms)?,
        max_duration_ns: nanoseconds("max_duration_ms", asked.max_duration_ms)?,
        q: given(asked.q),
        limit: Some(limit(asked.limit)?),
        cursor: given(asked.cursor),
    };
    let page = api
        .queries
        .list_traces(
            &filter,
            &QueryScope {
                project: scope.project,
            },
        )
        .await
        .map_err(|error| {
            let cursor = filter.cursor.is_some() && error.message.contains("cursor");
            let problem = Problem::from(error);
            if cursor {
                Problem {
                    code: "PF-5007".into(),
                    problem_type: "urn:pyflare:problem:PF-5007".into(),
                    ..problem
                }
            } else {
                problem
            }
        })?;
    let items = page
        .items
        .into_iter()
        .map(|summary| TraceItem::of(summary, asked.int64))
        .collect();
    Ok(Json(List {
        items,
        next_cursor: page.next_cursor,
    }))
}

/// An empty field of a form says nothing.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

fn status(value: Option<String>) -> Result<Option<String>, Problem> {
    match given(value) {
        Some(status) if !["ok", "error", "unset"].contains(&status.as_str()) => Err(Problem::bad_request(
            "PF-5008",
            "status must be ok, error or unset",
        )),
        other => Ok(other),
    }
}

fn time(name: &str, value: Option<&str>) -> Result<Option<i64>, Problem> {
    let Some(text) = value.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    // A plus sign that a client forgot to encode arrives as a space.
    let parsed = DateTime::parse_from_rfc3339(&text.replace(' ', "+"));
    parsed.map(|time| Some(time.timestamp_micros())).map_err(|_| {
        Problem::bad_request("PF-5008", format!("{name} is not a time"))
            .with_hint("write RFC 3339, such as 2026-11-24T05:21:00Z")
    })
}

fn nanoseconds(name: &str, value: Option<f64>) -> Result<Option<i64>, Problem> {
    let Some(milliseconds) = value else {
        return Ok(None);
    };
    let nanoseconds = milliseconds * 1e6;
    // Beyond 2^53 a double no longer holds each nanosecond: 104 days are enough for any trace.
    if !nanoseconds.is_finite() || !(0.0..=9_007_199_254_740_992.0).contains(&nanoseconds) {
        return Err(Problem::bad_request(
            "PF-5008",
            format!("{name} is not a duration in milliseconds"),
        ));
    }
    Ok(Some(nanoseconds.round() as i64))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadTrace {
    /// `string`: 64-bit integers as strings.
    #[serde(default)]
    #[param(inline)]
    int64: Int64,
}

/// A trace with all its spans.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the text that `spans` writes")]
pub(crate) struct TraceAnswer {
    trace_id: String,
    /// Every column of `spans` by its name; `attributes` and `resource` are objects, `events` and `links` arrays.
    #[schema(value_type = Vec<Object>)]
    spans: Vec<serde_json::Value>,
    /// There were more spans than these.
    truncated: bool,
}

/// All spans of a trace, in order of their start.
#[utoipa::path(get, path = "/api/v1/traces/{trace_id}", tag = "traces",
    params(("trace_id" = String, Path, description = "32 lowercase hex digits"), ReadTrace),
    responses(
        (status = 200, body = TraceAnswer),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn read(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(trace_id): Name,
    Parameters(asked): Parameters<ReadTrace>,
) -> Result<Response, Problem> {
    let trace_id = trace_id.to_ascii_lowercase();
    if trace_id.len() != 32 || !trace_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Problem::bad_request(
            "PF-5008",
            "a trace id has 32 hexadecimal digits",
        ));
    }
    let result = api
        .queries
        .trace(
            &trace_id,
            &QueryScope {
                project: scope.project,
            },
        )
        .await?;
    if result.row_count == 0 {
        return Err(
            Problem::new(StatusCode::NOT_FOUND, "PF-5028", "there is no such trace")
                .with_hint("its spans may not have been exported yet, or are past their retention"),
        );
    }
    let text = tokio::task::spawn_blocking(move || spans(&trace_id, &result, asked.int64)).await;
    let text = text.map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

fn spans(trace_id: &str, result: &QueryResult, int64: Int64) -> String {
    let names: Vec<String> = result
        .schema
        .fields()
        .iter()
        .map(|field| serde_json::to_string(field.name()).unwrap_or_default())
        .collect();
    let parsed: Vec<bool> = result
        .schema
        .fields()
        .iter()
        .map(|field| matches!(field.name().as_str(), "events" | "links"))
        .collect();
    let mut out = format!("{{\"trace_id\":\"{trace_id}\",\"spans\":[");
    let (mut first, mut cell) = (true, String::new());
    for batch in &result.batches {
        for row in 0..batch.num_rows() {
            out.push_str(if first { "{" } else { ",{" });
            first = false;
            for (index, column) in batch.columns().iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&names[index]);
                out.push(':');
                if parsed[index] {
                    cell.clear();
                    write_cell(&mut cell, column.as_ref(), row, int64.mode());
                    out.push_str(&array_in(&cell));
                } else {
                    write_cell(&mut out, column.as_ref(), row, int64.mode());
                }
            }
            out.push('}');
        }
    }
    out.push_str(&format!("],\"truncated\":{}}}", result.truncated));
    out
}

/// The array inside a JSON string; nothing inside: the empty array.
fn array_in(cell: &str) -> String {
    let text: Option<String> = serde_json::from_str(cell).unwrap_or(None);
    let array: Option<Vec<Box<serde_json::value::RawValue>>> =
        text.as_deref().and_then(|text| serde_json::from_str(text).ok());
    match (array, text) {
        (Some(_), Some(text)) => text,
        _ => "[]".to_string(),
    }
}
