//! Monitors: create, read, explain, drop.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pyflare_live::{ColumnInfo, Scope, column_infos};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::extract::{Body, Caller, Name, Parameters};
use crate::paging::{List, Page};
use crate::problem::Problem;
use crate::state::{Api, Created, Explanation, NodeFigures, PlanNode, Statement};
use crate::views::{MonitorItem, ViewColumn, items, quoted};

/// All monitors, the built-in ones among them.
#[utoipa::path(get, path = "/api/v1/monitors", tag = "monitors", params(Page), responses(
    (status = 200, body = List<MonitorItem>),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): State<Api>,
    Caller(scope): Caller,
    Parameters(asked): Parameters<Page>,
) -> Result<Json<List<MonitorItem>>, Problem> {
    Ok(Json(items(&api, &scope, &asked)?))
}

/// One monitor.
#[utoipa::path(get, path = "/api/v1/monitors/{name}", tag = "monitors",
    params(("name" = String, Path, description = "The monitor's name")),
    responses(
        (status = 200, body = MonitorItem),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn read(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(name): Name,
) -> Result<Json<MonitorItem>, Problem> {
    Ok(Json(MonitorItem::of(&*api.view(&scope, &name)?)))
}

/// A whole statement, or its parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MonitorText {
    /// `CREATE MONITOR … AS SELECT …`; where it is given, nothing else is.
    #[schema(
        example = "CREATE MONITOR slow_tools AS SELECT tool_name, count(*) AS calls FROM spans WHERE span_class = 'tool' GROUP BY tool_name"
    )]
    sql: Option<String>,
    /// With `query`: the monitor's name.
    name: Option<String>,
    /// The SELECT.
    query: Option<String>,
    /// `retention`, `lateness`, `description`.
    #[serde(default)]
    options: BTreeMap<String, String>,
    /// Take the place of a monitor of that name.
    #[serde(default)]
    or_replace: bool,
}

impl MonitorText {
    /// The statement; `name` where it was given apart.
    fn statement(self, default_name: Option<&str>) -> Result<(String, Option<String>), Problem> {
        let apart =
            self.name.is_some() || self.query.is_some() || self.or_replace || !self.options.is_empty();
        match (self.sql, self.query) {
            (Some(sql), None) if !apart => Ok((sql, None)),
            (None, Some(query)) => {
                let name = self.name.or_else(|| default_name.map(str::to_string));
                let Some(name) = name else {
                    return Err(Problem::bad_request(
                        "PF-5022",
                        "a query needs a \"name\" beside it",
                    ));
                };
                let options: Vec<String> = self
                    .options
                    .iter()
                    .map(|(key, value)| format!("{} = '{}'", quoted(key), value.replace('\'', "''")))
                    .collect();
                let with = if options.is_empty() {
                    String::new()
                } else {
                    format!(" WITH ({})", options.join(", "))
                };
                let create = if self.or_replace {
                    "CREATE OR REPLACE MONITOR"
                } else {
                    "CREATE MONITOR"
                };
                Ok((
                    format!("{create} {}{with} AS\n{query}", quoted(&name)),
                    Some(name),
                ))
            }
            _ => Err(Problem::bad_request(
                "PF-5022",
                "give either \"sql\", or \"name\" and \"query\" with \"options\"",
            )),
        }
    }
}

/// Creates a monitor. 201 with the monitor; 200 if `IF NOT EXISTS` found it there.
#[utoipa::path(post, path = "/api/v1/monitors", tag = "monitors", request_body = MonitorText, responses(
    (status = 201, description = "Created; Location says where it is", body = MonitorItem),
    (status = 200, description = "It was there", body = MonitorItem),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): State<Api>,
    Caller(scope): Caller,
    Body(text): Body<MonitorText>,
) -> Result<Response, Problem> {
    let (sql, name) = text.statement(None)?;
    match read_statement(&api, &scope, &sql).await? {
        // A query that closes its statement and opens another must not create something else.
        Statement::Create { name: read, .. } if name.as_ref().is_none_or(|name| *name == read) => {}
        _ => {
            return Err(
                Problem::bad_request("PF-5022", "this is not one CREATE MONITOR statement")
                    .with_hint("queries go to POST /api/v1/sql"),
            );
        }
    }
    let created = api.engine.create(&scope, &sql).await?;
    let item = MonitorItem::of(created.view());
    if let Created::Existing(_) = created {
        return Ok(Json(item).into_response());
    }
    let location = HeaderValue::from_str(&format!("/api/v1/monitors/{}", percent_encoded(&item.name)));
    let mut response = (StatusCode::CREATED, Json(item)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Drops a monitor and its live view; what is stored stays.
#[utoipa::path(delete, path = "/api/v1/monitors/{name}", tag = "monitors",
    params(("name" = String, Path, description = "The monitor's name")),
    responses(
        (status = 204, description = "Dropped"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn remove(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(name): Name,
) -> Result<StatusCode, Problem> {
    let view = api.view(&scope, &name)?;
    api.engine.drop_monitor(&view.name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a monitor would do.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExplanationAnswer {
    #[schema(value_type = Vec<ViewColumn>)]
    columns: Vec<ColumnInfo>,
    /// The plan, one node a line.
    plan: String,
    /// The plan's nodes, in the order of its lines.
    nodes: Vec<PlanNode>,
    /// With `analyze`: what the operators have done.
    #[serde(skip_serializing_if = "Option::is_none")]
    analyze: Option<Vec<NodeFigures>>,
    /// The SQL planner's logical plan.
    logical: String,
    /// What runs, from the stream to the view.
    operators: Vec<String>,
    /// How much is kept.
    state: String,
    /// Equal for monitors that compute the same.
    fingerprint: String,
}

/// Plans a monitor without creating it.
#[utoipa::path(post, path = "/api/v1/monitors/explain", tag = "monitors", request_body = MonitorText, responses(
    (status = 200, body = ExplanationAnswer),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn explain(
    State(api): State<Api>,
    Caller(scope): Caller,
    Body(text): Body<MonitorText>,
) -> Result<Json<ExplanationAnswer>, Problem> {
    const PREFIX: &str = "EXPLAIN MONITOR ";
    let (sql, _) = text.statement(Some("explained"))?;
    let explained = match crate::sql::leading_word(&sql).as_deref() {
        Some("explain") => read_statement(&api, &scope, &sql).await,
        // Places in the statement are told without the words we put before it.
        _ => read_statement(&api, &scope, &format!("{PREFIX}{sql}"))
            .await
            .map_err(|mut problem| {
                if let Some(position) = problem.position.as_mut().filter(|position| position.line == 1) {
                    position.column = position.column.saturating_sub(PREFIX.len() as u64).max(1);
                }
                problem
            }),
    };
    let explanation = match explained? {
        Statement::Explain(explanation) => *explanation,
        Statement::ExplainNamed { name, analyze } => explain_named(&api, &scope, &name, analyze).await?,
        _ => {
            return Err(Problem::bad_request(
                "PF-5022",
                "this is not one CREATE MONITOR or SELECT statement",
            ));
        }
    };
    Ok(Json(ExplanationAnswer::of(explanation)))
}

impl ExplanationAnswer {
    fn of(explanation: Explanation) -> ExplanationAnswer {
        ExplanationAnswer {
            columns: column_infos(&explanation.schema, &explanation.key),
            plan: explanation.plan,
            nodes: explanation.nodes,
            analyze: explanation.analyze,
            logical: explanation.logical,
            operators: explanation.operators,
            state: explanation.state,
            fingerprint: explanation.fingerprint,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExplainParameters {
    /// Also what the monitor's operators have done since it was installed.
    #[serde(default)]
    analyze: bool,
}

/// Explains a monitor that is there.
#[utoipa::path(get, path = "/api/v1/monitors/{name}/explain", tag = "monitors",
    params(("name" = String, Path, description = "The monitor's name"), ExplainParameters),
    responses(
        (status = 200, body = ExplanationAnswer),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn explain_one(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(name): Name,
    Parameters(asked): Parameters<ExplainParameters>,
) -> Result<Json<ExplanationAnswer>, Problem> {
    let explanation = explain_named(&api, &scope, &name, asked.analyze).await?;
    Ok(Json(ExplanationAnswer::of(explanation)))
}

/// Reads a statement on a thread that may take its time.
pub(crate) async fn read_statement(api: &Api, scope: &Scope, sql: &str) -> Result<Statement, Problem> {
    let (engine, scope, sql) = (Arc::clone(&api.engine), scope.clone(), sql.to_string());
    let read = tokio::task::spawn_blocking(move || engine.read(&scope, &sql)).await;
    Ok(read.map_err(|error| Problem::internal(&error))??)
}

pub(crate) async fn explain_named(
    api: &Api,
    scope: &Scope,
    name: &str,
    analyze: bool,
) -> Result<Explanation, Problem> {
    let view = api.view(scope, name)?;
    let engine = Arc::clone(&api.engine);
    let explained = tokio::task::spawn_blocking(move || engine.explain(&view.name, analyze)).await;
    Ok(explained.map_err(|error| Problem::internal(&error))??)
}

fn percent_encoded(name: &str) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
