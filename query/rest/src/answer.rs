//! A result as the caller wants it: JSON, CSV or an Arrow IPC stream.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pyflare_history::QueryResult;
use pyflare_history::encode::{self, ColumnDescription, Int64Mode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

pub(crate) const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    Json,
    Csv,
    Arrow,
}

/// How JSON writes 64-bit integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Int64 {
    #[default]
    Number,
    String,
}

impl Int64 {
    pub fn mode(self) -> Int64Mode {
        match self {
            Int64::Number => Int64Mode::Number,
            Int64::String => Int64Mode::String,
        }
    }
}

/// The answer as JSON.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the text that `json` writes")]
pub(crate) struct TableAnswer {
    columns: Vec<Column>,
    /// One array per row, values in the order of the columns.
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: Vec<Vec<serde_json::Value>>,
    row_count: usize,
    /// There were more rows than these.
    truncated: bool,
    /// The tick that the answer stands at, RFC 3339.
    as_of: String,
    elapsed_ms: f64,
}

#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the text that `json` writes")]
struct Column {
    name: String,
    #[schema(example = "Timestamp(µs, UTC)")]
    #[serde(rename = "type")]
    type_name: String,
}

/// The format asked for: the explicit one, else the first of `Accept` that we have; JSON where nothing is said.
pub(crate) fn choose(explicit: Option<Format>, headers: &HeaderMap) -> Result<Format, Problem> {
    if let Some(format) = explicit {
        return Ok(format);
    }
    let accepted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    if accepted.is_empty() {
        return Ok(Format::Json);
    }
    let mut best: Option<(f32, Format)> = None;
    for range in accepted.iter().flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let format = match parts.next().unwrap_or("").to_ascii_lowercase().as_str() {
            "application/json" | "application/*" | "*/*" => Format::Json,
            "text/csv" | "text/*" => Format::Csv,
            ARROW_STREAM => Format::Arrow,
            _ => continue,
        };
        let quality = parts
            .find_map(|part| part.strip_prefix("q="))
            .map_or(Some(1.0), |text| text.parse().ok());
        let quality: f32 = quality.unwrap_or(0.0);
        if quality > 0.0 && best.is_none_or(|(known, _)| quality > known) {
            best = Some((quality, format));
        }
    }
    best.map(|(_, format)| format).ok_or_else(|| {
        let shown: String = accepted.join(", ").chars().take(200).collect();
        Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            "PF-5021",
            format!("there is no answer of the type {shown:?}"),
        )
        .with_hint(format!("accept application/json, text/csv or {ARROW_STREAM}"))
    })
}

/// Writes a result. Encoding megabytes takes a while, so it does not happen on a thread that serves requests.
pub(crate) async fn respond(result: QueryResult, format: Format, int64: Int64) -> Result<Response, Problem> {
    let written = tokio::task::spawn_blocking(move || write(&result, format, int64)).await;
    written.map_err(|error| Problem::internal(&error))?
}

fn write(result: &QueryResult, format: Format, int64: Int64) -> Result<Response, Problem> {
    match format {
        Format::Json => Ok(json(result, int64)),
        Format::Csv => {
            let text = encode::csv(&result.schema, &result.batches);
            Ok(with_facts(
                result,
                "text/csv; charset=utf-8; header=present",
                text.into_bytes(),
            ))
        }
        Format::Arrow => {
            let stream = encode::ipc_stream(&result.schema, &result.batches)
                .map_err(|error| Problem::internal(&error))?;
            Ok(with_facts(result, ARROW_STREAM, stream))
        }
    }
}

fn json(result: &QueryResult, int64: Int64) -> Response {
    let columns: Vec<ColumnDescription> = encode::columns(&result.schema);
    let mut out = String::from("{\"columns\":");
    out.push_str(&serde_json::to_string(&columns).unwrap_or_default());
    out.push_str(",\"rows\":[");
    let mut first = true;
    for batch in result.batches.iter().filter(|batch| batch.num_rows() > 0) {
        if !first {
            out.push(',');
        }
        first = false;
        encode::write_rows(&mut out, batch, int64.mode());
    }
    let facts = serde_json::json!({
        "row_count": result.row_count,
        "truncated": result.truncated,
        "as_of": encode::time_of_tick(result.as_of),
        "elapsed_ms": milliseconds(result),
    });
    out.push_str("],");
    out.push_str(&facts.to_string()[1..]);
    ([(header::CONTENT_TYPE, "application/json")], out).into_response()
}

/// CSV and Arrow have no place for what JSON says beside the rows: it goes into headers.
fn with_facts(result: &QueryResult, kind: &'static str, body: Vec<u8>) -> Response {
    let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
    let facts = [
        ("x-pyflare-row-count", result.row_count.to_string()),
        ("x-pyflare-truncated", result.truncated.to_string()),
        ("x-pyflare-as-of", encode::time_of_tick(result.as_of)),
        ("x-pyflare-elapsed-ms", milliseconds(result).to_string()),
    ];
    for (name, value) in facts {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    }
    response
}

fn milliseconds(result: &QueryResult) -> f64 {
    (result.elapsed.as_secs_f64() * 1e6).round() / 1e3
}

/// A small table that the API itself makes.
pub(crate) fn table(
    schema: SchemaRef,
    batch: RecordBatch,
    as_of: u64,
    started: std::time::Instant,
) -> QueryResult {
    QueryResult {
        schema,
        row_count: batch.num_rows(),
        batches: vec![batch],
        truncated: false,
        as_of,
        elapsed: started.elapsed(),
    }
}
