//! How soon an exported span is seen: real OTLP/HTTP into a real server, and its WebSocket out of it.
//!
//! Every request carries one span of a service of its own, so that the frame that shows this request is known. The
//! sender and the reader share the machine with the server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use parking_lot::Mutex;
use prost::Message;
use pyflare_operators::corpus::{Generator, Traffic};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message as Text;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::bed::now_us;
use super::server::Server;
use super::{Figure, SMALL, Target, figure};

const SPANS_PER_SECOND: u64 = 20_000;
const PER_REQUEST: u64 = 200;

type Sent = Arc<Mutex<HashMap<String, Instant>>>;
type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub async fn freshness(seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let server = Arc::new(Server::start().await?);
    let seen = seen(&server, SPANS_PER_SECOND, seconds).await?;
    Ok(vec![
        figure(
            "export call to WebSocket, p50",
            seen.milliseconds(0.5),
            "ms",
            Target::AtMost(120.0),
            SMALL,
        ),
        figure(
            "export call to WebSocket, p99",
            seen.milliseconds(0.99),
            "ms",
            Target::AtMost(300.0),
            SMALL,
        ),
        figure(
            "export call to WebSocket, at",
            seen.spans_per_second,
            "spans/s",
            Target::None,
            SMALL,
        ),
    ])
}

/// How long each request took from its export to the WebSocket.
pub struct Seen {
    /// In ascending order.
    waits: Vec<Duration>,
    /// What was sent in fact.
    pub spans_per_second: f64,
}

impl Seen {
    /// The wait that this share of the requests did not exceed.
    pub fn milliseconds(&self, share: f64) -> f64 {
        percentile(&self.waits, share).as_secs_f64() * 1e3
    }
}

/// Of ascending values the one that a share of them does not exceed.
pub fn percentile(ascending: &[Duration], share: f64) -> Duration {
    let index = ((ascending.len() as f64 * share).ceil() as usize).clamp(1, ascending.len().max(1)) - 1;
    ascending.get(index).copied().unwrap_or_default()
}

/// Sends spans at that rate and watches the view `requests` for them.
pub async fn seen(server: &Arc<Server>, spans_per_second: u64, seconds: f64) -> anyhow::Result<Seen> {
    let sent = Sent::default();
    let socket = subscribe(&server.api).await?;
    let (stop, stopped) = oneshot::channel();
    let watching = tokio::spawn(watch(socket, Arc::clone(&sent), stopped));

    // Event time follows the clock, or the corpus would be late and left out of the views.
    let start_unix_nano = now_us() as u64 * 1_000 - 12_000_000_000;
    let traffic = Traffic {
        start_unix_nano,
        spacing_ns: 1_000_000_000 / spans_per_second,
        ..Traffic::default()
    };
    let mut generator = Generator::new(5, traffic);
    let mut clock = tokio::time::interval(Duration::from_micros(1_000_000 * PER_REQUEST / spans_per_second));
    let mut exports = Vec::new();
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed().as_secs_f64() < seconds {
        clock.tick().await;
        let body = body(&mut generator, number);
        let (server, sent) = (Arc::clone(server), Arc::clone(&sent));
        exports.push(tokio::spawn(async move {
            sent.lock().insert(service(number), Instant::now());
            server.export(body).await
        }));
        number += 1;
    }
    let rate = (number * PER_REQUEST) as f64 / begin.elapsed().as_secs_f64();
    for export in exports {
        export.await??;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while !sent.lock().is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unseen = sent.lock().len();
    let _ = stop.send(());
    let mut waits = watching.await??;
    ensure!(
        unseen == 0,
        "PF-6043: {unseen} of {number} requests never appeared on the WebSocket"
    );
    waits.sort_unstable();
    Ok(Seen {
        waits,
        spans_per_second: rate,
    })
}

async fn subscribe(api: &str) -> anyhow::Result<Socket> {
    let url = format!("ws://{api}/api/v1/live");
    let (mut socket, _) = tokio_tungstenite::connect_async(&url)
        .await
        .with_context(|| format!("PF-6031: no live connection to {url}"))?;
    let subscribe = json!({ "type": "subscribe", "id": "bench", "view": "requests", "snapshot": true });
    socket.send(Text::text(subscribe.to_string())).await?;
    Ok(socket)
}

/// Notes for every service of [`service`] how long after its export it first appeared.
async fn watch(
    mut socket: Socket,
    sent: Sent,
    mut stopped: oneshot::Receiver<()>,
) -> anyhow::Result<Vec<Duration>> {
    let mut waits = Vec::new();
    let mut service_column = None;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = &mut stopped => None,
        };
        let Some(Ok(message)) = message else { break };
        let Text::Text(text) = message else { continue };
        let received = Instant::now();
        let message: serde_json::Value = serde_json::from_str(&text)?;
        match message["type"].as_str() {
            Some("schema") => {
                let columns = message["columns"].as_array();
                service_column = columns
                    .into_iter()
                    .flatten()
                    .position(|column| column["name"] == "service_name");
            }
            Some("frame") => {
                let column = service_column.ok_or_else(|| anyhow!("a frame came before the schema"))?;
                let mut sent = sent.lock();
                for row in message["rows"].as_array().into_iter().flatten() {
                    // The difference comes first.
                    let name = row[column + 1].as_str().unwrap_or_default();
                    waits.extend(sent.remove(name).map(|at| received.duration_since(at)));
                }
            }
            Some("error" | "end") => return Err(anyhow!("the subscription ended: {text}")),
            _ => {}
        }
    }
    Ok(waits)
}

pub fn service(number: u64) -> String {
    format!("seen-{number}")
}

/// Spans of the corpus, and one of a service that nobody else has. Protobuf messages are merged by concatenation.
pub fn body(generator: &mut Generator, number: u64) -> Bytes {
    let mut body = generator.small_request(PER_REQUEST as usize - 1);
    let now = now_us() as u64 * 1_000;
    let name = KeyValue {
        key: "service.name".into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(service(number))),
        }),
        ..KeyValue::default()
    };
    let span = Span {
        trace_id: u128::from(number + 1).to_be_bytes().to_vec(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        name: "seen".into(),
        start_time_unix_nano: now - 1_000_000,
        end_time_unix_nano: now,
        ..Span::default()
    };
    let seen = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![name],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans: vec![span],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    body.extend(seen.encode_to_vec());
    body.into()
}
