//! Erasures: a user's, a session's, a trace's or a whole project's rows, taken back from every view and from history.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use async_trait::async_trait;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pyflare_history::QueryRequest;
use pyflare_history::encode::time_of_tick;
use pyflare_live::{Failure, Scope};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::extract::{Body, Caller, Name, Parameters};
use crate::paging::{List, Page, page};
use crate::problem::Problem;
use crate::state::Api;

/// Users, sessions or traces that one request may name.
const MOST_VALUES: usize = 1_000;
/// Traces of theirs that it may take along.
const MOST_TRACES: usize = 500_000;
/// Traces of one command.
const TRACES_AT_ONCE: usize = 20_000;

/// What the values of an erasure are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasureBy {
    Project,
    User,
    Session,
    Trace,
}

/// How far an erasure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasureStage {
    /// Its rows are looked for.
    Reading,
    /// Nobody sees its rows any more; the store and the log still have them.
    Retracted,
    /// They are in neither.
    Removed,
}

/// An erasure, for those who ask.
#[derive(Clone, Debug)]
pub struct Erasure {
    pub id: u64,
    pub project: String,
    pub by: ErasureBy,
    pub values: Vec<String>,
    pub stage: ErasureStage,
    pub rows: u64,
    pub asked_at: u64,
    pub until: u64,
    pub retracted_at: Option<u64>,
}

/// Erasures, as the REST API uses them.
#[async_trait]
pub trait Erasures: Send + Sync + 'static {
    /// Those of the projects that the scope sees.
    fn erasures(&self, scope: &Scope) -> Vec<Erasure>;

    /// Resolves once all rows that are durable now are in views and in history.
    async fn admitted(&self) -> Result<(), Failure>;

    /// Takes rows of the scope's owner back; resolves with the id once a crash cannot forget it. `PF-3020`: not here.
    async fn erase(&self, scope: &Scope, by: ErasureBy, values: Vec<String>) -> Result<u64, Failure>;
}

/// Whose rows go: exactly one of these.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErasureText {
    /// Rows with one of these in `user_id`.
    #[serde(default)]
    #[schema(example = json!(["user-17"]))]
    users: Vec<String>,
    /// Rows with one of these in `session_id`.
    #[serde(default)]
    sessions: Vec<String>,
    /// Rows with one of these in `trace_id`.
    #[serde(default)]
    traces: Vec<String>,
    /// All rows of the caller's project.
    #[serde(default)]
    project: bool,
    /// With `users` or `sessions`: also the other rows of the traces in which they occur. Calls of models seldom name the
    /// user whose words they carry, so that is what happens unless this is `false`.
    whole_traces: Option<bool>,
}

impl ErasureText {
    fn read(self) -> Result<(ErasureBy, Vec<String>, bool), Problem> {
        let refused = |detail: &str| {
            Problem::bad_request("PF-5034", detail)
                .with_hint("such as {\"users\": [\"user-17\"]}, {\"sessions\": […]}, {\"traces\": […]} or {\"project\": true}")
        };
        let ErasureText {
            users,
            sessions,
            traces,
            project,
            whole_traces,
        } = self;
        let given = [
            !users.is_empty(),
            !sessions.is_empty(),
            !traces.is_empty(),
            project,
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err(refused(
                "say whose rows go: users, sessions, traces, or the project",
            ));
        }
        let (by, values) = match given {
            [true, ..] => (ErasureBy::User, users),
            [_, true, ..] => (ErasureBy::Session, sessions),
            [_, _, true, _] => (ErasureBy::Trace, traces),
            _ => (ErasureBy::Project, Vec::new()),
        };
        let may_have_traces = matches!(by, ErasureBy::User | ErasureBy::Session);
        if whole_traces.is_some() && !may_have_traces {
            return Err(refused("whole_traces goes with users or sessions"));
        }
        if values.len() > MOST_VALUES {
            return Err(refused(&format!(
                "{} values are too many at once; {MOST_VALUES} are the most",
                values.len()
            )));
        }
        if values.iter().any(String::is_empty) {
            return Err(refused("an empty text names nobody"));
        }
        Ok((by, values, may_have_traces && whole_traces.unwrap_or(true)))
    }
}

/// An erasure.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErasureItem {
    id: u64,
    project: String,
    by: ErasureBy,
    /// Whose rows; forgotten with the rows.
    values: Vec<String>,
    stage: ErasureStage,
    /// Rows that were found so far.
    rows: u64,
    asked_at: String,
    /// Rows admitted until then are meant; what comes later is new.
    until: String,
    /// When they left every view.
    retracted_at: Option<String>,
}

impl ErasureItem {
    fn of(erasure: Erasure) -> ErasureItem {
        ErasureItem {
            id: erasure.id,
            project: erasure.project,
            by: erasure.by,
            values: erasure.values,
            stage: erasure.stage,
            rows: erasure.rows,
            asked_at: time_of_tick(erasure.asked_at),
            until: time_of_tick(erasure.until),
            retracted_at: erasure.retracted_at.map(time_of_tick),
        }
    }
}

/// What a request has begun.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Begun {
    /// One for the rows that name them, and where their traces go along more for these.
    items: Vec<ErasureItem>,
}

fn erasures(api: &Api) -> Result<&Arc<dyn Erasures>, Problem> {
    api.erasures
        .as_ref()
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "PF-5035", "this server erases nothing"))
}

/// Erases rows. Answered once no crash can forget it; the rows leave all views soon after, at one tick.
#[utoipa::path(post, path = "/api/v1/erasures", tag = "erasures", request_body = ErasureText, responses(
    (status = 202, body = Begun),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): State<Api>,
    Caller(scope): Caller,
    Body(asked): Body<ErasureText>,
) -> Result<(StatusCode, Json<Begun>), Problem> {
    let erasures = erasures(&api)?;
    let (by, values, whole_traces) = asked.read()?;
    let traces = match whole_traces {
        true => {
            erasures.admitted().await?;
            traces_of(&api, &scope, by, values.clone()).await?
        }
        false => Vec::new(),
    };
    let mut begun = vec![erasures.erase(&scope, by, values).await?];
    for traces in traces.chunks(TRACES_AT_ONCE) {
        begun.push(erasures.erase(&scope, ErasureBy::Trace, traces.to_vec()).await?);
    }
    let known = erasures.erasures(&scope).into_iter();
    let items = known.filter(|erasure| begun.contains(&erasure.id));
    let items = items.map(ErasureItem::of).collect();
    Ok((StatusCode::ACCEPTED, Json(Begun { items })))
}

/// The traces in which users or sessions occur.
async fn traces_of(
    api: &Api,
    scope: &Scope,
    by: ErasureBy,
    values: Vec<String>,
) -> Result<Vec<String>, Problem> {
    let column = match by {
        ErasureBy::Session => "session_id",
        _ => "user_id",
    };
    let places: Vec<String> = (1..=values.len()).map(|place| format!("${place}")).collect();
    let request = QueryRequest {
        query: format!(
            "SELECT DISTINCT trace_id FROM history.spans WHERE {column} IN ({})",
            places.join(", ")
        ),
        params: values.into_iter().map(Value::String).collect(),
        limit: Some(MOST_TRACES),
        timeout: Some(api.queries.options().longest_timeout),
        scope: pyflare_history::Scope::project(scope.owner()),
    };
    let found = api.queries.query(request).await?;
    if found.truncated {
        return Err(Problem::bad_request(
            "PF-5034",
            format!("they occur in more than {MOST_TRACES} traces; name fewer of them at once"),
        ));
    }
    let mut traces = Vec::with_capacity(found.row_count);
    for batch in &found.batches {
        let column = cast(batch.column(0), &DataType::Utf8).map_err(|error| Problem::internal(&error))?;
        traces.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(traces)
}

/// The erasures so far, in the order in which they were asked for.
#[utoipa::path(get, path = "/api/v1/erasures", tag = "erasures", params(Page), responses(
    (status = 200, body = List<ErasureItem>),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): State<Api>,
    Caller(scope): Caller,
    Parameters(asked): Parameters<Page>,
) -> Result<Json<List<ErasureItem>>, Problem> {
    let mut known = erasures(&api)?.erasures(&scope);
    known.sort_by_key(|erasure| erasure.id);
    let items = known.into_iter().map(ErasureItem::of).collect();
    page(items, &asked, |item: &ErasureItem| {
        (format!("{:020}", item.id), None)
    })
    .map(Json)
}

/// One erasure.
#[utoipa::path(get, path = "/api/v1/erasures/{id}", tag = "erasures", params(("id" = String, Path)), responses(
    (status = 200, body = ErasureItem),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn read(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(id): Name,
) -> Result<Json<ErasureItem>, Problem> {
    let known = erasures(&api)?.erasures(&scope).into_iter();
    let found = known.into_iter().find(|erasure| erasure.id.to_string() == id);
    let found = found.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "PF-3021",
            format!("there is no erasure {id}"),
        )
        .with_hint("GET /api/v1/erasures lists them")
    })?;
    Ok(Json(ErasureItem::of(found)))
}
