//! Users' streams: the engine and the log behind the trait that the REST API asks for.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use pyflare_connectors::{ContentType, Log, LogError, LogRecord, Signal};
use pyflare_dataflows::{Engine, StreamDescription, ViewName};
use pyflare_live as live;
use pyflare_operators::fields::type_name;
use pyflare_operators::streams::{Admitted, RowDecoder, RowEncoding};
use pyflare_otlp::{Admission, Busy};
use pyflare_rest as rest;
use pyflare_sql::Statement;

use super::adapters::{engine_failure, plan_scope, sql_failure};

/// Bodies beyond this are checked off the network threads.
const INLINE_CHECKED: usize = 64 << 10;

/// Users' streams for the REST API.
pub struct EngineStreams {
    pub engine: Engine,
    pub log: Arc<dyn Log>,
    pub admission: Admission,
}

#[async_trait]
impl rest::Streams for EngineStreams {
    fn streams(&self, scope: &live::Scope) -> Vec<rest::Stream> {
        let streams = self.engine.streams().into_iter();
        let seen = streams.filter(|stream| match &scope.project {
            Some(project) => stream.definition.project == *project,
            None => true,
        });
        seen.map(|stream| described(&stream)).collect()
    }

    async fn create(&self, scope: &live::Scope, sql: &str) -> Result<bool, live::Failure> {
        let plan_scope = plan_scope(&self.engine, Some(scope.owner()));
        let sql = sql.to_string();
        let parsed = tokio::task::spawn_blocking(move || pyflare_sql::parse(&sql, &plan_scope)).await;
        let (definition, if_not_exists) = match parsed {
            Ok(Ok(Statement::CreateStream {
                definition,
                if_not_exists,
            })) => (definition, if_not_exists),
            Ok(Err(error)) => return Err(sql_failure(&error)),
            _ => {
                return Err(live::Failure::new(
                    live::FailureKind::Invalid,
                    "PF-4001",
                    "a CREATE STREAM statement is expected",
                ));
            }
        };
        if if_not_exists && self.engine.stream(scope.owner(), &definition.name).is_some() {
            return Ok(true);
        }
        let created = self.engine.create_stream(*definition).await;
        created.map(|_| false).map_err(|error| engine_failure(&error))
    }

    async fn drop_stream(&self, scope: &live::Scope, name: &str) -> Result<(), live::Failure> {
        self.engine
            .drop_stream(&ViewName::of_project(scope.owner(), name))
            .await
            .map_err(|error| engine_failure(&error))
    }

    async fn append(
        &self,
        scope: &live::Scope,
        name: &str,
        format: rest::RowFormat,
        idempotency_key: Option<&str>,
        body: Bytes,
    ) -> Result<rest::Appended, live::Failure> {
        (self.admission)(Signal::Streams).map_err(|busy: Busy| {
            live::Failure::new(live::FailureKind::Busy, "PF-1108", busy.reason)
                .with_hint(format!("try again in {} ms", busy.retry_after_ms))
        })?;
        let project = scope.owner();
        let stream = self.engine.stream(project, name).ok_or_else(|| {
            live::Failure::new(
                live::FailureKind::NotFound,
                "PF-3015",
                format!("there is no stream {name} in the project {project}"),
            )
            .with_hint("CREATE STREAM makes one; GET /api/v1/streams lists them")
        })?;
        if let Some(topic) = &stream.definition.topic {
            return Err(live::Failure::new(
                live::FailureKind::Conflict,
                "PF-3025",
                format!("the rows of {name} come from the Kafka topic {}", topic.name),
            )
            .with_hint("write them to the topic, or declare another stream"));
        }
        let (encoding, content_type) = match format {
            rest::RowFormat::NdJson => (RowEncoding::NdJson, ContentType::NdJson),
            rest::RowFormat::Arrow => (RowEncoding::Arrow, ContentType::ArrowStream),
        };
        let definition = Arc::clone(&stream.definition);
        let checked = match body.len() <= INLINE_CHECKED {
            true => RowDecoder::check(&definition, encoding, &body),
            false => {
                let body = body.clone();
                tokio::task::spawn_blocking(move || RowDecoder::check(&definition, encoding, &body))
                    .await
                    .map_err(|error| {
                        live::Failure::new(live::FailureKind::Internal, "PF-5024", error.to_string())
                    })?
            }
        };
        let admitted =
            checked.map_err(|error| live::Failure::from_error(live::FailureKind::Invalid, &error))?;
        if admitted.rows > 0 {
            let record = LogRecord {
                body_hash: request_hash(project, name, idempotency_key),
                project: Arc::from(project),
                signal: Signal::Streams,
                stream: Some(Arc::from(name)),
                content_type,
                received_us: now_us(),
                body,
            };
            self.log
                .append(record)
                .await
                .map_err(|error| log_failure(&error))?;
        }
        Ok(appended(admitted))
    }
}

fn appended(admitted: Admitted) -> rest::Appended {
    let rejected = admitted.rejected.into_iter().map(|rejected| rest::RejectedRow {
        row: rejected.row,
        code: rejected.code.to_string(),
        detail: rejected.detail,
    });
    rest::Appended {
        accepted: u64::from(admitted.rows),
        rejected: rejected.collect(),
        rejected_rows: u64::from(admitted.rejected_rows),
    }
}

fn described(stream: &StreamDescription) -> rest::Stream {
    let definition = &stream.definition;
    let columns = definition.columns.iter().map(|column| rest::StreamColumn {
        name: column.name.clone(),
        type_name: type_name(&column.data_type.arrow()),
        required: column.required,
    });
    let mut columns: Vec<rest::StreamColumn> = columns.collect();
    if definition.time.is_none() {
        columns.push(rest::StreamColumn {
            name: definition.time_column().to_string(),
            type_name: type_name(&pyflare_operators::fields::FieldType::Timestamp.arrow()),
            required: false,
        });
    }
    rest::Stream {
        project: definition.project.clone(),
        name: definition.name.clone(),
        sql: definition.sql.clone(),
        description: definition.description.clone(),
        columns,
        event_time: definition.time_column().to_string(),
        lateness_us: definition.lateness_us,
        retention_us: definition.retention_us,
        rows: stream.rows,
        rejected_rows: stream.rejected_rows,
        future_rows: stream.future_rows,
        topic: definition.topic.as_ref().map(|topic| topic.name.clone()),
        waiting_messages: stream.waiting_messages,
        unreadable_messages: stream.unreadable_messages,
        trouble: stream.trouble.clone(),
        mark_us: stream.mark_us,
    }
}

/// Equal rows are legitimate in a user's stream: only the sender can say that a request is a repeated one.
fn request_hash(project: &str, stream: &str, idempotency_key: Option<&str>) -> u128 {
    match idempotency_key {
        Some(key) => {
            let mut text = format!("{project}\0{stream}\0").into_bytes();
            text.extend_from_slice(key.as_bytes());
            pyflare_otlp::body_hash(project, Signal::Streams, &text)
        }
        None => uuid::Uuid::new_v4().as_u128(),
    }
}

fn log_failure(error: &LogError) -> live::Failure {
    live::Failure::from_error(live::FailureKind::Unavailable, error)
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_makes_two_requests_the_same() {
        let keyed = request_hash("default", "orders", Some("a"));
        assert_eq!(keyed, request_hash("default", "orders", Some("a")));
        assert_ne!(keyed, request_hash("default", "orders", Some("b")));
        assert_ne!(keyed, request_hash("default", "other", Some("a")));
        assert_ne!(keyed, request_hash("other", "orders", Some("a")));
        assert_ne!(
            request_hash("default", "orders", None),
            request_hash("default", "orders", None)
        );
    }
}
