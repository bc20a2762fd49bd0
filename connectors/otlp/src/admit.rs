//! From a collected body to an acknowledged record: the path that both protocols share.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use pyflare_connectors::{ContentType, Log, LogRecord, Signal, body_hash};
use pyflare_operators::decode::{BodyEncoding, Checked, OtlpSignal, check};

use crate::auth::{AuthRequest, Authenticate};
use crate::compression::Compression;
use crate::in_flight::{Held, InFlight};
use crate::metrics::{Counters, Transport};
use crate::options::ReceiverOptions;
use crate::refusal::Refusal;
use crate::status::Outcome;

/// Compressed bodies beyond this are decompressed off the network threads: 4 KiB can become 4 MiB.
const INLINE_COMPRESSED: usize = 4 << 10;
/// Bodies beyond this are checked off the network threads (1 MiB takes about a third of a millisecond).
const INLINE_CHECKED: usize = 2 << 20;

/// Why the server asks senders to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    pub retry_after_ms: u64,
    /// A sentence for the sender, such as "the dataflow is 12 s behind".
    pub reason: String,
}

/// Whether requests of a signal may come in now. Asked before the body is read; must be cheap.
pub type Admission = Arc<dyn Fn(Signal) -> Result<(), Busy> + Send + Sync>;

/// What all connections share.
pub(crate) struct Door {
    pub options: ReceiverOptions,
    pub log: Arc<dyn Log>,
    pub authenticate: Authenticate,
    pub admission: Admission,
    pub in_flight: Arc<InFlight>,
    pub counters: Counters,
}

/// A request whose body has been collected.
pub(crate) struct Offered {
    pub signal: Signal,
    pub transport: Transport,
    pub content_type: ContentType,
    pub project: Arc<str>,
    pub compression: Compression,
    pub body: Bytes,
    pub held: Held,
}

struct Prepared {
    body: Bytes,
    hash: u128,
    checked: Checked,
}

fn prepare(
    signal: Signal,
    content_type: ContentType,
    project: &str,
    compression: Compression,
    body: Bytes,
    limit: usize,
    held: &mut Held,
) -> Result<Prepared, Refusal> {
    let body = compression.decompress(body, limit, held)?;
    let of = match signal {
        Signal::Traces => OtlpSignal::Traces,
        Signal::Metrics => OtlpSignal::Metrics,
        Signal::Logs => OtlpSignal::Logs,
        Signal::Streams => unreachable!("invariant: only OTLP's addresses lead here"),
    };
    let encoding = match content_type {
        ContentType::Protobuf => BodyEncoding::Protobuf,
        ContentType::Json => BodyEncoding::Json,
        ContentType::NdJson | ContentType::ArrowStream => {
            unreachable!("invariant: OTLP is protobuf or JSON")
        }
    };
    let checked = check(of, encoding, &body)?;
    let hash = body_hash(project, signal, &body);
    Ok(Prepared { body, hash, checked })
}

impl Door {
    /// What can be decided before the body is read: the project, and whether there is room.
    pub(crate) fn open_for(&self, signal: Signal, request: &AuthRequest<'_>) -> Result<Arc<str>, Refusal> {
        let project = (self.authenticate)(request)?;
        (self.admission)(signal).map_err(|busy| Refusal::Busy {
            reason: busy.reason,
            retry_after_ms: busy.retry_after_ms,
        })?;
        Ok(project)
    }

    /// Decompresses, checks, appends, and counts. Resolves once the body is durable.
    pub(crate) async fn admit(&self, offered: Offered) -> Result<Outcome, Refusal> {
        let Offered {
            signal,
            transport,
            content_type,
            project,
            compression,
            body,
            mut held,
        } = offered;
        let limit = self.options.max_body_bytes;
        let inline = match compression {
            Compression::Identity => body.len() <= INLINE_CHECKED,
            _ => body.len() <= INLINE_COMPRESSED,
        };
        let (prepared, _held) = if inline {
            (
                prepare(
                    signal,
                    content_type,
                    &project,
                    compression,
                    body,
                    limit,
                    &mut held,
                ),
                held,
            )
        } else {
            let project = Arc::clone(&project);
            tokio::task::spawn_blocking(move || {
                let prepared = prepare(
                    signal,
                    content_type,
                    &project,
                    compression,
                    body,
                    limit,
                    &mut held,
                );
                (prepared, held)
            })
            .await
            .map_err(|error| Refusal::Incomplete {
                detail: error.to_string(),
            })?
        };
        let Prepared { body, hash, checked } = prepared?;
        let bytes = body.len() as u64;
        // Nothing to remember: an empty request, or one of which the decoder would reject every row.
        if checked.rows > 0 {
            let record = LogRecord {
                project,
                signal,
                stream: None,
                content_type,
                received_us: now_us(),
                body_hash: hash,
                body,
            };
            self.log.append(record).await.map_err(Refusal::Log)?;
        }
        self.counters
            .accepted(signal, transport, checked.rows, bytes, checked.rejected);
        Ok(Outcome {
            rejected: checked.rejected,
            message: checked.reason.unwrap_or_default(),
        })
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A header's text, empty if it is missing or not text.
pub(crate) fn header(headers: &HeaderMap, name: http::HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
