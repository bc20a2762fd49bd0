//! Streams that users declare: what there is, and the door their rows come in by.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use pyflare_live::{Failure, FailureKind, Scope};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

use crate::extract::{Caller, Name, Parameters};
use crate::paging::{List, Page, page};
use crate::problem::Problem;
use crate::state::Api;
use crate::views::spoken;

/// A user's stream, for those who ask.
#[derive(Clone, Debug)]
pub struct Stream {
    pub project: String,
    pub name: String,
    /// The statement that declared it.
    pub sql: String,
    pub description: Option<String>,
    pub columns: Vec<StreamColumn>,
    /// The column that holds the event time.
    pub event_time: String,
    pub lateness_us: Option<i64>,
    pub retention_us: Option<i64>,
    pub rows: u64,
    pub rejected_rows: u64,
    pub future_rows: u64,
    /// The Kafka topic that its rows come from.
    pub topic: Option<String>,
    pub waiting_messages: u64,
    pub unreadable_messages: u64,
    pub trouble: Option<String>,
    /// How far its event time has come, microseconds.
    pub mark_us: Option<i64>,
}

/// A column of a stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
    /// A row without it is rejected.
    pub required: bool,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// `application/x-ndjson`: a JSON object a line.
    NdJson,
    /// `application/vnd.apache.arrow.stream`.
    Arrow,
}

/// What became of the rows of a request.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Appended {
    /// Rows that are durable now.
    pub accepted: u64,
    /// Rows left out, the first hundred of them.
    pub rejected: Vec<RejectedRow>,
    /// How many were left out.
    pub rejected_rows: u64,
}

/// A row that was left out, and why.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RejectedRow {
    /// Its number in the request, from 0; empty lines are not counted.
    pub row: u32,
    #[schema(example = "PF-1212")]
    pub code: String,
    pub detail: String,
}

/// Users' streams, as the REST API uses them.
#[async_trait]
pub trait Streams: Send + Sync + 'static {
    /// Those that the scope sees.
    fn streams(&self, scope: &Scope) -> Vec<Stream>;

    /// Carries out a CREATE STREAM for the scope's owner; true: it was there already.
    async fn create(&self, scope: &Scope, sql: &str) -> Result<bool, Failure>;

    /// `PF-3015` unknown, `PF-3011` a monitor reads it.
    async fn drop_stream(&self, scope: &Scope, name: &str) -> Result<(), Failure>;

    /// Resolves once the rows are durable.
    async fn append(
        &self,
        scope: &Scope,
        name: &str,
        format: RowFormat,
        idempotency_key: Option<&str>,
        body: Bytes,
    ) -> Result<Appended, Failure>;
}

/// The door for rows and what it may hold in memory.
#[derive(Clone)]
pub(crate) struct RowDoor {
    pub streams: Arc<dyn Streams>,
    most_bytes: usize,
    in_flight: Arc<Semaphore>,
}

/// Memory is counted in pieces of this size.
const PIECE: usize = 4 << 10;

impl RowDoor {
    pub fn new(streams: Arc<dyn Streams>, most_bytes: usize) -> RowDoor {
        RowDoor {
            streams,
            most_bytes,
            in_flight: Arc::new(Semaphore::new(most_bytes.div_ceil(PIECE).saturating_mul(4))),
        }
    }

    /// The whole body; what it takes is counted until the permits are dropped.
    async fn collect(&self, body: Body) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Problem> {
        use http_body_util::BodyExt;
        let mut body = body;
        let (mut collected, mut permits) = (BytesMut::new(), Vec::new());
        let mut held = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| {
                Problem::bad_request("PF-5004", "the body broke off before its end; send it again")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let length = collected.len() + data.len();
            if length > self.most_bytes {
                return Err(Problem::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "PF-5005",
                    format!("the body is larger than {} bytes", self.most_bytes),
                )
                .with_hint("send the rows in parts, or raise limits.request_mb"));
            }
            let more = length.div_ceil(PIECE) - held;
            if more > 0 {
                let pieces = u32::try_from(more).unwrap_or(u32::MAX);
                let permit = Arc::clone(&self.in_flight).try_acquire_many_owned(pieces);
                permits.push(permit.map_err(|_| {
                    Problem::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "PF-5032",
                        "too many rows are on their way in at once; try again in a second",
                    )
                })?);
                held += more;
            }
            collected.extend_from_slice(&data);
        }
        Ok((collected.freeze(), permits))
    }
}

pub(crate) fn door(api: &Api) -> Result<&RowDoor, Problem> {
    api.rows.as_ref().ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "PF-5033",
            "this server takes no rows of streams",
        )
    })
}

/// A declared stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamItem {
    name: String,
    project: String,
    /// The statement as it was written.
    sql: String,
    description: Option<String>,
    columns: Vec<StreamColumn>,
    /// The column that holds the event time; `event_time` is the time received where none was declared.
    event_time: String,
    /// What monitors over it take unless they say otherwise.
    #[schema(example = "10 seconds")]
    lateness: Option<String>,
    #[schema(example = "30 days")]
    retention: Option<String>,
    /// Rows admitted since the server was started, replayed ones included.
    rows: u64,
    /// Rows that did not fit the declaration.
    rejected_rows: u64,
    /// Rows more than a minute ahead of the clock: stored, and in no view.
    future_rows: u64,
    /// The Kafka topic that its rows come from; without one they are sent to the server.
    topic: Option<String>,
    /// Messages of the topic that are not admitted yet.
    waiting_messages: u64,
    /// Messages of which nothing could be read.
    unreadable_messages: u64,
    /// Why the topic cannot be read for now.
    trouble: Option<String>,
    /// How far its event time has come; RFC 3339.
    mark: Option<String>,
}

impl StreamItem {
    fn of(stream: Stream) -> StreamItem {
        StreamItem {
            name: stream.name,
            project: stream.project,
            sql: stream.sql,
            description: stream.description,
            columns: stream.columns,
            event_time: stream.event_time,
            lateness: stream.lateness_us.map(spoken),
            retention: stream.retention_us.map(spoken),
            rows: stream.rows,
            rejected_rows: stream.rejected_rows,
            future_rows: stream.future_rows,
            topic: stream.topic,
            waiting_messages: stream.waiting_messages,
            unreadable_messages: stream.unreadable_messages,
            trouble: stream.trouble,
            mark: stream
                .mark_us
                .map(|mark| pyflare_history::encode::time_of_tick((mark / 1_000).unsigned_abs())),
        }
    }
}

/// The streams that users declared.
#[utoipa::path(get, path = "/api/v1/streams", tag = "streams", params(Page), responses(
    (status = 200, body = List<StreamItem>),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): State<Api>,
    Caller(scope): Caller,
    Parameters(asked): Parameters<Page>,
) -> Result<Json<List<StreamItem>>, Problem> {
    let mut streams = door(&api)?.streams.streams(&scope);
    streams.sort_by(|left, right| (&left.name, &left.project).cmp(&(&right.name, &right.project)));
    let items = streams.into_iter().map(StreamItem::of).collect();
    page(items, &asked, |item: &StreamItem| {
        (item.name.clone(), Some(item.project.clone()))
    })
    .map(Json)
}

/// One stream.
#[utoipa::path(get, path = "/api/v1/streams/{name}", tag = "streams", params(("name" = String, Path)), responses(
    (status = 200, body = StreamItem),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn read(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(name): Name,
) -> Result<Json<StreamItem>, Problem> {
    stream_named(&api, &scope, &name).map(|stream| Json(StreamItem::of(stream)))
}

/// The stream of that name that the scope sees, or a refusal that names those there are.
pub(crate) fn stream_named(api: &Api, scope: &Scope, name: &str) -> Result<Stream, Problem> {
    let streams = door(api)?.streams.streams(scope);
    let mut names: Vec<String> = streams.iter().map(|stream| stream.name.clone()).collect();
    streams
        .into_iter()
        .filter(|stream| stream.name == name)
        .min_by_key(|stream| stream.project != scope.owner())
        .ok_or_else(|| {
            names.sort_unstable();
            names.dedup();
            names.truncate(12);
            let hint = match names.is_empty() {
                true => "there is none yet; CREATE STREAM makes one".to_string(),
                false => format!("there are: {}", names.join(", ")),
            };
            Problem::from(Failure::new(
                FailureKind::NotFound,
                "PF-3015",
                format!("there is no stream {name}"),
            ))
            .with_hint(hint)
        })
}

/// Drops a stream that no monitor reads.
#[utoipa::path(delete, path = "/api/v1/streams/{name}", tag = "streams", params(("name" = String, Path)), responses(
    (status = 204, description = "Dropped"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn remove(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(name): Name,
) -> Result<StatusCode, Problem> {
    door(&api)?.streams.drop_stream(&scope, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes rows: NDJSON or an Arrow IPC stream. With `Idempotency-Key` a repeated request counts once within an hour.
#[utoipa::path(post, path = "/api/v1/streams/{name}", tag = "streams",
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    request_body(content((String = "application/x-ndjson"), (Vec<u8> = "application/vnd.apache.arrow.stream"))),
    responses(
        (status = 200, body = Appended),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn append(
    State(api): State<Api>,
    Caller(scope): Caller,
    Name(name): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Appended>, Problem> {
    let door = door(&api)?;
    let format = row_format(&headers)?;
    let key = idempotency_key(&headers)?;
    let (body, _held) = door.collect(body).await?;
    let appended = door.streams.append(&scope, &name, format, key, body).await?;
    match appended.rejected.first() {
        Some(first) if appended.accepted == 0 => Err(Problem::bad_request(
            &first.code,
            format!(
                "none of the {} rows was taken; row {}: {}",
                appended.rejected_rows, first.row, first.detail
            ),
        )),
        _ => Ok(Json(appended)),
    }
}

fn row_format(headers: &HeaderMap) -> Result<RowFormat, Problem> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "PF-5006",
            "rows are taken uncompressed; leave Content-Encoding out",
        ));
    }
    let kind = text(header::CONTENT_TYPE).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Ok(RowFormat::NdJson)
        }
        "application/vnd.apache.arrow.stream" => Ok(RowFormat::Arrow),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "PF-5006",
            "rows are sent as application/x-ndjson (a JSON object a line) or as application/vnd.apache.arrow.stream",
        )
        .with_hint("set the header Content-Type to one of them")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= 256 => Ok(Some(key)),
        _ => Err(Problem::bad_request(
            "PF-5008",
            "the header Idempotency-Key must be 1 to 256 visible ASCII characters",
        )),
    }
}
