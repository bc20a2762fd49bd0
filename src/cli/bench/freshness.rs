//! How soon an exported span is seen, and what a server without traffic costs.
//!
//! Freshness goes over real OTLP/HTTP on loopback and ends at the engine's subscription, which is what the
//! WebSocket sends on; the hop to a browser is not in it. Every request carries one span of a service of its own,
//! so that the frame that shows this request is known.

use std::collections::HashMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use parking_lot::Mutex;
use prost::Message;
use pyflare_connectors::Log;
use pyflare_dataflows::{Event, SubscribeOptions, Subscription, ViewName};
use pyflare_operators::corpus::{Generator, Traffic};
use pyflare_otlp::{IngestKeys, ReceiverOptions, Receivers};

use super::bed::{Bed, PROJECT, now_us, processor_seconds, stop};
use super::{Figure, SMALL, Target, figure};

const SPANS_PER_SECOND: u64 = 20_000;
const PER_REQUEST: u64 = 200;
const MONITORS: usize = 20;
const IDLE: Duration = Duration::from_secs(10);

type Sent = Arc<Mutex<HashMap<String, Instant>>>;

pub async fn freshness(seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let bed = Bed::new().await?;
    let engine = bed.start(1, Some(bed.store()?)).await?;
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let receivers = Receivers::bind(
        ReceiverOptions {
            grpc: any_port,
            http: any_port,
            ..ReceiverOptions::default()
        },
        bed.log.clone() as Arc<dyn Log>,
        IngestKeys::new([], false)?.into_authenticate(),
        Arc::new(|_| Ok(())),
    )
    .await?;
    let url = format!("http://{}/v1/traces", receivers.handle().http_address());
    let serving = tokio::spawn(receivers.run(pending()));
    let options = SubscribeOptions {
        snapshot: true,
        project: Some(PROJECT.into()),
        ..SubscribeOptions::default()
    };
    let subscription = engine.subscribe(&ViewName::builtin("requests"), options)?;
    let sent = Sent::default();
    let watching = tokio::spawn(watch(subscription, Arc::clone(&sent)));

    let client = Client::builder(TokioExecutor::new()).build_http();
    // Event time follows the clock, or the corpus would be late and left out of the views.
    let start_unix_nano = now_us() as u64 * 1_000 - 12_000_000_000;
    let traffic = Traffic {
        start_unix_nano,
        spacing_ns: 1_000_000_000 / SPANS_PER_SECOND,
        ..Traffic::default()
    };
    let mut generator = Generator::new(5, traffic);
    let mut clock = tokio::time::interval(Duration::from_micros(1_000_000 * PER_REQUEST / SPANS_PER_SECOND));
    let mut exports = Vec::new();
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed().as_secs_f64() < seconds {
        clock.tick().await;
        let body = body(&mut generator, number);
        let service = service(number);
        let (client, url, sent) = (client.clone(), url.clone(), Arc::clone(&sent));
        exports.push(tokio::spawn(async move {
            let request = Request::post(url)
                .header("content-type", "application/x-protobuf")
                .body(Full::new(body))?;
            sent.lock().insert(service, Instant::now());
            let response = client.request(request).await?;
            ensure!(
                response.status().is_success(),
                "a request was refused: HTTP {}",
                response.status()
            );
            response.into_body().collect().await?;
            Ok(())
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
    stop(engine).await?;
    serving.abort();
    let mut waits = watching.await??;
    ensure!(
        unseen == 0,
        "PF-6043: {unseen} of {number} requests never appeared in the subscription"
    );
    waits.sort_unstable();
    let milliseconds = |share: f64| {
        let index = ((waits.len() as f64 * share).ceil() as usize).clamp(1, waits.len()) - 1;
        waits[index].as_secs_f64() * 1e3
    };
    Ok(vec![
        figure(
            "export call to subscription, p50",
            milliseconds(0.5),
            "ms",
            Target::AtMost(120.0),
            SMALL,
        ),
        figure(
            "export call to subscription, p99",
            milliseconds(0.99),
            "ms",
            Target::AtMost(300.0),
            SMALL,
        ),
        figure(
            "export call to subscription, at",
            rate,
            "spans/s",
            Target::None,
            SMALL,
        ),
    ])
}

/// Notes for every service of [`service`] how long after its export it first appeared.
async fn watch(mut subscription: Subscription, sent: Sent) -> anyhow::Result<Vec<Duration>> {
    let column = subscription.schema().index_of("service_name")?;
    let mut waits = Vec::new();
    loop {
        let frame = match subscription.next().await {
            Event::Frame(frame) => frame,
            Event::End { .. } => return Ok(waits),
        };
        let received = Instant::now();
        let Some(batch) = frame.batch else { continue };
        let names = cast(batch.column(column), &DataType::Utf8)?;
        let mut sent = sent.lock();
        for name in names.as_string::<i32>().iter().flatten() {
            waits.extend(sent.remove(name).map(|at| received.duration_since(at)));
        }
    }
}

fn service(number: u64) -> String {
    format!("seen-{number}")
}

/// Spans of the corpus, and one of a service that nobody else has. Protobuf messages are merged by concatenation.
fn body(generator: &mut Generator, number: u64) -> Bytes {
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

/// Processor time without traffic, with monitors that hold rows.
pub async fn idle() -> anyhow::Result<Vec<Figure>> {
    let bed = Bed::new().await?;
    let engine = bed.start(1, Some(bed.store()?)).await?;
    let scope = pyflare_sql::PlanScope {
        project: Some(PROJECT.into()),
    };
    for number in 0..MONITORS {
        let sql = format!(
            "CREATE MONITOR idle_{number} AS SELECT service_name, window_start, window_end, count(*) AS spans, \
             avg(duration_ns) AS mean FROM TUMBLE(spans, event_time, INTERVAL '1 minute') \
             WHERE input_tokens > {number} GROUP BY service_name, window_start, window_end"
        );
        match pyflare_sql::parse(&sql, &scope).map_err(|error| anyhow!("{error}"))? {
            pyflare_sql::Statement::CreateMonitor(create) => engine.install(create.definition, false).await?,
            _ => return Err(anyhow!("a CREATE MONITOR was read as another statement")),
        };
    }
    let start_unix_nano = now_us() as u64 * 1_000 - 20_000_000_000;
    let mut generator = Generator::new(
        3,
        Traffic {
            start_unix_nano,
            ..Traffic::default()
        },
    );
    bed.fill(&mut generator, Generator::small_request, 20_000, 500)
        .await?;
    super::bed::caught_up(&engine, 40).await?;
    engine.flush().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, begin) = (processor_seconds()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let share = (processor_seconds()? - before) / begin.elapsed().as_secs_f64() * 100.0;
    stop(engine).await?;
    let name = format!("idle processor, {MONITORS} monitors");
    Ok(vec![figure(
        name,
        share,
        "% of a core",
        Target::AtMost(2.0),
        "none, after 20,000 small spans",
    )])
}
