//! Views: what there is, and what is in one now.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use pyflare_history::{QueryRequest, Scope as QueryScope};
use pyflare_live::{ColumnInfo, Scope, View, column_infos};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Format, Int64, TableAnswer, choose, respond};
use crate::extract::{Caller, Name, Parameters};
use crate::paging::{List, Page, page};
use crate::problem::Problem;
use crate::state::Api;

/// A monitor and its view.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MonitorItem {
    pub name: String,
    /// The project that it belongs to; null for a built-in view, which holds every project's rows.
    pub project: Option<String>,
    /// The statement as it was written.
    pub sql: String,
    pub description: Option<String>,
    pub builtin: bool,
    /// Views derived from it, which are read and subscribed to by these names: `<name>$late` counts the rows that
    /// came too late, `<name>$errors` those on which an expression failed.
    #[schema(example = json!(["requests$late", "requests$errors"]))]
    pub companions: Vec<String>,
    #[schema(value_type = Vec<ViewColumn>)]
    pub columns: Vec<ColumnInfo>,
    /// Every row admitted after this time and within retention is in the view; RFC 3339.
    pub start: String,
    /// `live`, `recovering` while the log is replayed, or `stopped` when it exceeded a limit.
    #[schema(example = "live")]
    pub state: &'static str,
    /// Why it is stopped, with the way out.
    pub reason: Option<String>,
    /// Rows in the view, roughly.
    pub rows: u64,
    /// Rows that came too late to be counted.
    pub late_rows: u64,
    /// Rows left out because an expression failed on them.
    pub errors: u64,
    #[schema(example = "24 hours")]
    pub retention: String,
    #[schema(example = "10 seconds")]
    pub lateness: String,
}

#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "describes ColumnInfo in the OpenAPI document")]
pub(crate) struct ViewColumn {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    /// Part of what identifies a row; where no column is, the whole row does.
    key: bool,
}

impl MonitorItem {
    pub fn of(view: &View) -> MonitorItem {
        MonitorItem {
            name: view.name.name.clone(),
            project: view.name.project.clone(),
            sql: view.sql.clone(),
            description: view.description.clone(),
            builtin: view.builtin(),
            companions: view.companions.clone(),
            columns: column_infos(&view.schema, &view.key),
            start: pyflare_history::encode::time_of_tick(view.start),
            state: view.state,
            reason: view.reason.clone(),
            rows: view.rows,
            late_rows: view.late_rows,
            errors: view.errors,
            retention: spoken(view.retention_us),
            lateness: spoken(view.lateness_us),
        }
    }
}

/// A duration the way the options of CREATE MONITOR are written.
pub(crate) fn spoken(microseconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1_000, "millisecond"),
    ];
    let (size, unit) = UNITS
        .into_iter()
        .find(|(size, _)| microseconds != 0 && microseconds % size == 0)
        .unwrap_or((1, "microsecond"));
    let (size, unit) = if microseconds == 0 {
        (1, "second")
    } else {
        (size, unit)
    };
    let count = microseconds / size;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

pub(crate) fn items(api: &Api, scope: &Scope, asked: &Page) -> Result<List<MonitorItem>, Problem> {
    let all = api
        .visible(scope)
        .iter()
        .map(|view| MonitorItem::of(view))
        .collect();
    page(all, asked, |item: &MonitorItem| {
        (item.name.clone(), item.project.clone())
    })
}

/// All views that can be read: the built-in ones and those of monitors.
#[utoipa::path(get, path = "/api/v1/views", tag = "views", params(Page), responses(
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

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadView {
    /// Rows to return.
    limit: Option<usize>,
    /// `json`, `csv` or `arrow`; else `Accept` decides.
    #[param(inline)]
    format: Option<Format>,
    /// `string`: 64-bit integers as strings.
    #[serde(default)]
    #[param(inline)]
    int64: Int64,
}

/// The rows of a view at the newest complete tick.
#[utoipa::path(get, path = "/api/v1/views/{name}", tag = "views",
    params(("name" = String, Path, description = "The view's name"), ReadView),
    responses(
        (status = 200, content(
            (TableAnswer = "application/json"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn read(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(name): Name,
    Parameters(asked): Parameters<ReadView>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let format = choose(asked.format, &headers)?;
    let view = api.view(&scope, name.strip_prefix("live.").unwrap_or(&name))?;
    let query = format!("SELECT * FROM live.{}", quoted(&view.name.name));
    // A monitor is read as its own project, so that a name which several projects use means this one.
    let project = view.name.project.clone().or_else(|| scope.project.clone());
    let request = QueryRequest {
        query,
        limit: asked.limit,
        scope: QueryScope { project },
        ..QueryRequest::default()
    };
    let result = api.queries.query(request).await?;
    respond(result, format, asked.int64).await
}

/// A name as an SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spoken_in_the_largest_whole_unit() {
        for (microseconds, text) in [
            (0, "0 seconds"),
            (1, "1 microsecond"),
            (1_500_000, "1500 milliseconds"),
            (10_000_000, "10 seconds"),
            (60_000_000, "1 minute"),
            (86_400_000_000, "24 hours"),
        ] {
            assert_eq!(spoken(microseconds), text);
        }
    }
}
