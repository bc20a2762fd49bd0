//! `POST /api/v1/sql`: queries, and the statements about monitors, each answered with a table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use pyflare_history::{QueryRequest, QueryResult, Scope as QueryScope};
use pyflare_live::{FailureKind, Scope};
use pyflare_operators::fields::{stream_fields, type_name};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Format, Int64, TableAnswer, choose, respond, table};
use crate::extract::{Body, Caller, Parameters};
use crate::monitors::{explain_named, read_statement};
use crate::problem::Problem;
use crate::state::{Api, Statement};
use crate::streams::{self, Stream, StreamColumn, stream_named};
use crate::views::MonitorItem;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlRequest {
    /// One statement: a query, or CREATE, DROP, SHOW or EXPLAIN MONITOR, CREATE, DROP or SHOW STREAM, DESCRIBE.
    #[schema(
        example = "SELECT service_name, sum(requests) AS requests FROM requests WHERE window_start > $1 GROUP BY service_name"
    )]
    query: String,
    /// Values for `$1`, `$2`, ….
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    params: Vec<serde_json::Value>,
    /// `json`, `csv` or `arrow`; else `Accept` decides.
    format: Option<Format>,
    /// Rows to return; the answer says whether there were more.
    limit: Option<usize>,
    /// How long the query may take.
    timeout_ms: Option<u64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SqlParameters {
    /// `string`: 64-bit integers as strings.
    #[serde(default)]
    #[param(inline)]
    int64: Int64,
}

/// Runs a statement.
#[utoipa::path(post, path = "/api/v1/sql", tag = "sql", params(SqlParameters), request_body = SqlRequest, responses(
    (status = 200, content(
        (TableAnswer = "application/json"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.arrow.stream"),
    )),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn run(
    State(api): State<Api>,
    Caller(scope): Caller,
    Parameters(asked): Parameters<SqlParameters>,
    headers: HeaderMap,
    Body(request): Body<SqlRequest>,
) -> Result<Response, Problem> {
    // Before anything is done: what cannot be answered is not carried out either.
    let format = choose(request.format, &headers)?;
    let started = Instant::now();
    let result = match leading_word(&request.query).as_deref() {
        Some("select" | "with" | "values" | "(") => None,
        _ => statement(&api, &scope, &request.query, started).await?,
    };
    let result = match result {
        Some(result) => result,
        None => {
            let query = QueryRequest {
                query: request.query,
                params: request.params,
                limit: request.limit,
                timeout: request.timeout_ms.map(Duration::from_millis),
                scope: QueryScope {
                    project: scope.project,
                },
            };
            api.queries.query(query).await?
        }
    };
    respond(result, format, asked.int64).await
}

/// The first word in lower case, after white space and comments.
pub(crate) fn leading_word(sql: &str) -> Option<String> {
    let mut rest = sql.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n')?.1.trim_start();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/")?.1.trim_start();
        } else {
            break;
        }
    }
    if rest.starts_with('(') {
        return Some("(".to_string());
    }
    let end = rest
        .find(|character: char| !character.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_ascii_lowercase())
}

/// Carries out a statement about monitors or streams; `None`: it is a query.
async fn statement(
    api: &Api,
    scope: &Scope,
    sql: &str,
    started: Instant,
) -> Result<Option<QueryResult>, Problem> {
    let result = match read_statement(api, scope, sql).await? {
        Statement::Query => return Ok(None),
        Statement::Create { .. } => {
            let created = api.engine.create(scope, sql).await?;
            outcome(api, created.word(), &created.view().name.name, started)
        }
        Statement::Drop {
            name,
            if_exists,
            cascade,
        } => {
            let word = match api.view(scope, &name) {
                Ok(view) => {
                    match cascade {
                        true => api.engine.drop_with_readers(&view.name).await?,
                        false => api.engine.drop_monitor(&view.name).await?,
                    }
                    "dropped"
                }
                Err(failure) if if_exists && failure.kind == FailureKind::NotFound => "absent",
                Err(failure) => return Err(failure.into()),
            };
            outcome(api, word, &name, started)
        }
        Statement::Alter { name, if_exists } => {
            let word = match api.view(scope, &name) {
                Ok(view) => {
                    api.engine.alter(scope, &view.name, sql).await?;
                    "altered"
                }
                Err(failure) if if_exists && failure.kind == FailureKind::NotFound => "absent",
                Err(failure) => return Err(failure.into()),
            };
            outcome(api, word, &name, started)
        }
        Statement::Show => {
            let items: Vec<MonitorItem> = api
                .visible(scope)
                .iter()
                .map(|view| MonitorItem::of(view))
                .collect();
            monitors_table(api, &items, started)
        }
        Statement::CreateStream { name, .. } => {
            let existed = streams::door(api)?.streams.create(scope, sql).await?;
            let word = if existed { "exists" } else { "created" };
            stream_outcome(api, word, &name, started)
        }
        Statement::DropStream { name, if_exists } => {
            let word = match stream_named(api, scope, &name) {
                Ok(_) => {
                    streams::door(api)?.streams.drop_stream(scope, &name).await?;
                    "dropped"
                }
                Err(problem) if if_exists && problem.code == "PF-3015" => "absent",
                Err(problem) => return Err(problem),
            };
            stream_outcome(api, word, &name, started)
        }
        Statement::ShowStreams => streams_table(api, scope, started),
        Statement::Describe { name } => describe(api, scope, &name, started),
        Statement::Explain(explanation) => lines_table(api, &explanation.lines, started),
        Statement::ExplainNamed { name, analyze } => {
            let explanation = explain_named(api, scope, &name, analyze).await?;
            lines_table(api, &explanation.lines, started)
        }
    };
    result.map(Some)
}

fn outcome(api: &Api, word: &str, name: &str, started: Instant) -> Result<QueryResult, Problem> {
    made(
        api,
        started,
        vec![("monitor", texts([Some(name)])), ("outcome", texts([Some(word)]))],
    )
}

fn stream_outcome(api: &Api, word: &str, name: &str, started: Instant) -> Result<QueryResult, Problem> {
    made(
        api,
        started,
        vec![("stream", texts([Some(name)])), ("outcome", texts([Some(word)]))],
    )
}

fn streams_table(api: &Api, scope: &Scope, started: Instant) -> Result<QueryResult, Problem> {
    let mut streams = streams::door(api)?.streams.streams(scope);
    streams.sort_by(|left, right| (&left.name, &left.project).cmp(&(&right.name, &right.project)));
    let text = |get: fn(&Stream) -> Option<&str>| texts(streams.iter().map(get));
    let count = |get: fn(&Stream) -> u64| -> ArrayRef {
        let counts = streams
            .iter()
            .map(|stream| i64::try_from(get(stream)).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(counts))
    };
    let columns = vec![
        ("name", text(|stream| Some(&stream.name))),
        ("project", text(|stream| Some(&stream.project))),
        ("event_time", text(|stream| Some(&stream.event_time))),
        ("rows", count(|stream| stream.rows)),
        ("rejected_rows", count(|stream| stream.rejected_rows)),
        ("future_rows", count(|stream| stream.future_rows)),
        ("topic", text(|stream| stream.topic.as_deref())),
        ("waiting_messages", count(|stream| stream.waiting_messages)),
        ("unreadable_messages", count(|stream| stream.unreadable_messages)),
        ("trouble", text(|stream| stream.trouble.as_deref())),
        ("description", text(|stream| stream.description.as_deref())),
        ("sql", text(|stream| Some(&stream.sql))),
    ];
    made(api, started, columns)
}

/// The columns of a stream, else of a view.
fn describe(api: &Api, scope: &Scope, name: &str, started: Instant) -> Result<QueryResult, Problem> {
    struct Column {
        name: String,
        type_name: String,
        key: bool,
        nullable: bool,
        description: Option<String>,
    }
    let columns: Vec<Column> = if let Some(fields) = stream_fields(name) {
        let shown = fields.iter().filter(|field| !field.hidden);
        shown
            .map(|field| Column {
                name: field.name.to_string(),
                type_name: type_name(&field.data_type.arrow()),
                key: false,
                nullable: field.nullable,
                description: Some(field.description.to_string()),
            })
            .collect()
    } else if let Ok(stream) = stream_named(api, scope, name) {
        let described =
            |column: &StreamColumn| (column.name == stream.event_time).then(|| "the event time".to_string());
        stream
            .columns
            .iter()
            .map(|column| Column {
                name: column.name.clone(),
                type_name: column.type_name.clone(),
                key: false,
                nullable: !column.required,
                description: described(column),
            })
            .collect()
    } else {
        let view = api.view(scope, name)?;
        let fields = view.schema.fields().iter().enumerate();
        fields
            .map(|(place, field)| Column {
                name: field.name().clone(),
                type_name: type_name(field.data_type()),
                key: view.key.contains(&place),
                nullable: true,
                description: None,
            })
            .collect()
    };
    let text = |get: fn(&Column) -> Option<&str>| texts(columns.iter().map(get));
    let truth = |get: fn(&Column) -> bool| -> ArrayRef {
        Arc::new(
            columns
                .iter()
                .map(|column| Some(get(column)))
                .collect::<BooleanArray>(),
        )
    };
    let table = vec![
        ("column", text(|column| Some(&column.name))),
        ("type", text(|column| Some(&column.type_name))),
        ("key", truth(|column| column.key)),
        ("nullable", truth(|column| column.nullable)),
        ("description", text(|column| column.description.as_deref())),
    ];
    made(api, started, table)
}

fn lines_table(api: &Api, lines: &[(String, String)], started: Instant) -> Result<QueryResult, Problem> {
    let topics = texts(lines.iter().map(|(topic, _)| Some(topic.as_str())));
    made(
        api,
        started,
        vec![
            ("topic", topics),
            ("text", texts(lines.iter().map(|(_, text)| Some(text.as_str())))),
        ],
    )
}

fn monitors_table(api: &Api, items: &[MonitorItem], started: Instant) -> Result<QueryResult, Problem> {
    let text = |get: fn(&MonitorItem) -> Option<&str>| texts(items.iter().map(get));
    let count = |get: fn(&MonitorItem) -> u64| -> ArrayRef {
        let counts = items
            .iter()
            .map(|item| i64::try_from(get(item)).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(counts))
    };
    let builtin: BooleanArray = items.iter().map(|item| Some(item.builtin)).collect();
    let columns = vec![
        ("name", text(|item| Some(&item.name))),
        ("project", text(|item| item.project.as_deref())),
        ("builtin", Arc::new(builtin) as ArrayRef),
        ("state", text(|item| Some(item.state))),
        ("reason", text(|item| item.reason.as_deref())),
        ("start", text(|item| Some(&item.start))),
        ("rows", count(|item| item.rows)),
        ("late_rows", count(|item| item.late_rows)),
        ("errors", count(|item| item.errors)),
        ("retention", text(|item| Some(&item.retention))),
        ("lateness", text(|item| Some(&item.lateness))),
        ("description", text(|item| item.description.as_deref())),
        ("sql", text(|item| Some(&item.sql))),
    ];
    made(api, started, columns)
}

fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn made(api: &Api, started: Instant, columns: Vec<(&str, ArrayRef)>) -> Result<QueryResult, Problem> {
    let fields = columns.iter().map(|(name, column)| match column.data_type() {
        DataType::Utf8 => Field::new(*name, DataType::Utf8, true),
        other => Field::new(*name, other.clone(), false),
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(|error| Problem::internal(&error))?;
    Ok(table(schema, batch, api.engine.status().complete_tick, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leading_word_is_found_behind_comments() {
        for (sql, word) in [
            ("SELECT 1", Some("select")),
            ("  -- why\n /* and\nhow */ Create MONITOR x", Some("create")),
            ("(SELECT 1)", Some("(")),
            ("", None),
            ("-- only", None),
            ("/* open", None),
            ("é", None),
            ("1", None),
        ] {
            assert_eq!(leading_word(sql).as_deref(), word, "{sql}");
        }
    }
}
