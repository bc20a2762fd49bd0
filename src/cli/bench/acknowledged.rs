//! OTLP/gRPC until Kafka has acknowledged: the receivers of this project beside the OpenTelemetry Collector.
//!
//! Both are processes of their own that do nothing else: requests come in over gRPC and are answered once all in-sync
//! replicas have them (`acks=all`; the Collector without its sending queue). One sender feeds both in turns over the same
//! number of connections. Processor time is the process's own; that of the broker is not in it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pyflare_connectors::Log;
use pyflare_kafka::KafkaLog;
use pyflare_operators::corpus::Generator;
use pyflare_otlp::{AuthRequest, ReceiverOptions, Receivers};
use tokio::net::TcpStream;

use super::bed::{PROJECT, processor_seconds};
use super::kafka::{ROUNDS, median, new_prefix, options};
use super::pipeline::{PER_REQUEST, traffic};
use super::{Figure, SMALL, Target, figure};

const CONNECTIONS: usize = 2;
/// Requests on their way at once, of each connection.
const IN_FLIGHT: usize = 8;
/// Different requests that are sent over and over.
const BODIES: usize = 64;
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const STARTING: Duration = Duration::from_secs(30);

/// A process that takes OTLP and writes it to Kafka.
struct Edge {
    process: Child,
    address: String,
    /// Where the Collector's configuration lies.
    _directory: Option<tempfile::TempDir>,
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub async fn acknowledged(seconds: f64, url: &str, collector: Option<&Path>) -> anyhow::Result<Vec<Figure>> {
    let prefix = new_prefix();
    // Topics, with room for the requests.
    let settings = options(url, &prefix)?;
    let log = tokio::task::spawn_blocking(move || KafkaLog::open(settings)).await??;
    log.close();
    let mut generator = Generator::new(9, traffic(1_000_000, 1_000_000));
    let bodies: Vec<Bytes> = (0..BODIES)
        .map(|_| framed(&generator.small_request(PER_REQUEST)))
        .collect();
    let bodies = Arc::new(bodies);
    let own = own_edge(url, &prefix)?;
    let other = match collector {
        Some(program) => Some(collector_edge(program, url, &prefix).await?),
        None => None,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(feed(&own, &bodies, seconds).await?);
        if let Some(other) = &other {
            theirs.push(feed(other, &bodies, seconds).await?);
        }
    }
    let mut figures = described("receivers to Kafka, acknowledged", &ours);
    if theirs.is_empty() {
        return Ok(figures);
    }
    figures.extend(described("the Collector to Kafka, acknowledged", &theirs));
    let ratio = |of: fn(&Measured) -> f64| -> f64 {
        let ratios = ours.iter().zip(&theirs);
        median(ratios.map(|(ours, theirs)| of(ours) / of(theirs)).collect())
    };
    figures.push(figure(
        "receivers, of the Collector's rate",
        ratio(|side| side.spans_per_second),
        "×",
        Target::AtLeast(1.5),
        SMALL,
    ));
    figures.push(figure(
        "receivers, of the Collector's processor time a span",
        ratio(|side| side.processor_seconds),
        "×",
        Target::AtMost(0.5),
        SMALL,
    ));
    Ok(figures)
}

/// One round.
struct Measured {
    spans_per_second: f64,
    /// Of a million spans.
    processor_seconds: f64,
}

fn described(name: &str, rounds: &[Measured]) -> Vec<Figure> {
    let of = |get: fn(&Measured) -> f64| median(rounds.iter().map(get).collect());
    vec![
        figure(
            name,
            of(|round| round.spans_per_second),
            "spans/s",
            Target::None,
            SMALL,
        ),
        figure(
            format!("{name}, processor"),
            of(|round| round.processor_seconds),
            "s/M spans",
            Target::None,
            SMALL,
        ),
    ]
}

/// Sends for so long; every request must be answered with OK.
async fn feed(edge: &Edge, bodies: &Arc<Vec<Bytes>>, seconds: f64) -> anyhow::Result<Measured> {
    let sent = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let (begin, processor) = (Instant::now(), processor_seconds(edge.process.id())?);
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(&edge.address).await?;
        stream.set_nodelay(true)?;
        let connection = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream));
        let (client, connection) = connection.await?;
        tokio::spawn(connection);
        for _ in 0..IN_FLIGHT {
            let (client, bodies, sent) = (client.clone(), Arc::clone(bodies), Arc::clone(&sent));
            senders.push(tokio::spawn(send(client, bodies, sent, until)));
        }
    }
    for sender in senders {
        sender.await??;
    }
    let taken = begin.elapsed().as_secs_f64();
    let processor = processor_seconds(edge.process.id())? - processor;
    let spans = (sent.load(Ordering::Relaxed) * PER_REQUEST as u64) as f64;
    Ok(Measured {
        spans_per_second: spans / taken,
        processor_seconds: processor / spans * 1e6,
    })
}

async fn send(
    mut client: http2::SendRequest<Full<Bytes>>,
    bodies: Arc<Vec<Bytes>>,
    sent: Arc<AtomicU64>,
    until: Instant,
) -> anyhow::Result<()> {
    while Instant::now() < until {
        let number = sent.fetch_add(1, Ordering::Relaxed) as usize;
        let request = Request::post(format!("http://localhost{EXPORT}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(bodies[number % bodies.len()].clone()))?;
        client.ready().await?;
        let response = client.send_request(request).await?;
        let mut status = response.headers().get("grpc-status").cloned();
        let answer = response.into_body().collect().await?;
        if let Some(trailers) = answer.trailers() {
            status = trailers.get("grpc-status").cloned().or(status);
        }
        let is_ok = status.as_ref().is_some_and(|status| status == "0");
        ensure!(is_ok, "PF-6044: a request was refused: grpc-status {status:?}");
    }
    Ok(())
}

/// A message behind its prefix, uncompressed.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

fn own_edge(url: &str, prefix: &str) -> anyhow::Result<Edge> {
    let binary = match std::env::var_os("PYFLARE_BENCH_BINARY") {
        Some(binary) => binary.into(),
        None => std::env::current_exe()?,
    };
    let mut process = Command::new(binary)
        .args(["bench", "--kafka", url, "--receive-into", prefix])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("PF-6044: the receivers to measure do not start")?;
    let mut line = String::new();
    if let Some(output) = process.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    ensure!(
        !line.trim().is_empty(),
        "PF-6044: the receivers to measure ended; what they said is above"
    );
    Ok(Edge {
        process,
        address: line.trim().to_string(),
        _directory: None,
    })
}

/// The receivers as `serve` has them, over the topics with that prefix; ends with its standard input.
pub async fn receive(url: Option<&str>, prefix: &str) -> anyhow::Result<()> {
    let settings = options(url.context("PF-6045: --receive-into needs --kafka")?, prefix)?;
    let log = tokio::task::spawn_blocking(move || KafkaLog::open(settings)).await??;
    let any = ReceiverOptions {
        grpc: ([127, 0, 0, 1], 0).into(),
        http: ([127, 0, 0, 1], 0).into(),
        ..ReceiverOptions::default()
    };
    let project: Arc<str> = PROJECT.into();
    let everybody = Arc::new(move |_: &AuthRequest<'_>| Ok(Arc::clone(&project)));
    let receivers = Receivers::bind(any, log.clone(), everybody, Arc::new(|_| Ok(()))).await?;
    println!("{}", receivers.handle().grpc_address());
    std::io::stdout().flush()?;
    let ended = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        while std::io::stdin()
            .lock()
            .read_line(&mut line)
            .is_ok_and(|read| read > 0)
        {}
    });
    receivers
        .run(async {
            let _ = ended.await;
        })
        .await;
    log.close();
    Ok(())
}

/// A Collector between a free port and the topics, configured as its documentation says for `acks=all`.
async fn collector_edge(program: &Path, url: &str, prefix: &str) -> anyhow::Result<Edge> {
    let directory = tempfile::Builder::new().prefix("pyflare-bench-").tempdir()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let brokers = url.strip_prefix("kafka://").ok_or_else(|| anyhow!("{url}"))?;
    let configuration = format!(
        "receivers:
  otlp: {{protocols: {{grpc: {{endpoint: {address}, max_recv_msg_size_mib: 64}}}}}}
exporters:
  kafka:
    brokers: [{brokers}]
    traces: {{topic: {prefix}otlp_spans, encoding: otlp_proto}}
    producer: {{required_acks: -1, max_message_bytes: 10000000}}
    sending_queue: {{enabled: false}}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [kafka]}}
"
    );
    let file = directory.path().join("collector.yaml");
    std::fs::write(&file, configuration)?;
    let process = Command::new(program)
        .arg("--config")
        .arg(format!("file:{}", file.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("PF-6044: the Collector does not start")?;
    let mut edge = Edge {
        process,
        address,
        _directory: Some(directory),
    };
    let begin = Instant::now();
    while TcpStream::connect(&edge.address).await.is_err() {
        if let Some(status) = edge.process.try_wait()? {
            bail!("PF-6044: the Collector ended: {status}; what it said is above");
        }
        ensure!(
            begin.elapsed() < STARTING,
            "PF-6044: the Collector was not ready in time"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(edge)
}
