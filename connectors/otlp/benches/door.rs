//! The door alone: OTLP/gRPC requests of 500 spans of 808 bytes, structurally checked, durable, acknowledged.
//!
//! The server is a child process, so that its CPU time is its own; the sender shares the machine with it.
//! `cargo bench -p pyflare-otlp --bench door [-- seconds connections requests_in_flight]` prints JSON.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use pyflare_connectors::{Log, Signal};
use pyflare_log::{EmbeddedLog, LogOptions};
use pyflare_otlp::{IngestKeys, ReceiverOptions, Receivers};

/// The allocator of the server binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SERVER: &str = "PYFLARE_DOOR_SERVER";
const SPANS: u64 = 500;
/// Distinct bodies that the sender goes round.
const BODIES: u64 = 64;

fn main() {
    match env::var_os(SERVER) {
        Some(directory) => serve(PathBuf::from(directory)),
        None => send(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// The child: prints its address, then its CPU seconds whenever a line comes in; ends with its input.
fn serve(directory: PathBuf) {
    let log = EmbeddedLog::open(LogOptions {
        directory,
        ..LogOptions::default()
    })
    .expect("a log");
    runtime().block_on(async {
        let any = "127.0.0.1:0".parse().expect("an address");
        let options = ReceiverOptions {
            grpc: any,
            http: any,
            ..ReceiverOptions::default()
        };
        let keys = IngestKeys::new([], false).expect("no keys").into_authenticate();
        let shared: Arc<dyn Log> = Arc::clone(&log) as Arc<dyn Log>;
        let receivers = Receivers::bind(options, shared, keys, Arc::new(|_| Ok(())))
            .await
            .expect("ports");
        let handle = receivers.handle();
        println!("{}", handle.grpc_address());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(receivers.run(async move {
            stopped.await.ok();
        }));
        let input = tokio::task::spawn_blocking(move || {
            for line in std::io::stdin().lock().lines() {
                if line.is_err() {
                    break;
                }
                println!("{}", cpu_seconds());
            }
        });
        input.await.expect("the input ends");
        stop.send(()).ok();
        running.await.expect("the receivers end");
        println!("{}", log.end_offset(Signal::Traces, 0));
    });
}

fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the structure it is given, which is valid when zero.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Server {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the server answers");
        line.trim().to_string()
    }

    fn cpu_seconds(&mut self) -> f64 {
        let input = self
            .input
            .as_mut()
            .expect("invariant: the input is open until the end");
        input
            .write_all(b"cpu\n")
            .and_then(|()| input.flush())
            .expect("the server listens");
        self.line().parse().expect("a number")
    }
}

fn send() {
    let numbers: Vec<u64> = env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let seconds = numbers.first().copied().unwrap_or(8);
    let connections = numbers.get(1).copied().unwrap_or(2);
    let in_flight = numbers.get(2).copied().unwrap_or(16);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut child = Command::new(env::current_exe().expect("this program"))
        .env(SERVER, directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let input = child.stdin.take();
    let output = BufReader::new(child.stdout.take().expect("the server's output"));
    let mut server = Server { child, input, output };
    let address = server.line();

    let bodies: Arc<Vec<Bytes>> = Arc::new((0..BODIES).map(framed_request).collect());
    let body_bytes = bodies[0].len() - 5;
    let accepted = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = runtime();
    let tasks: Vec<_> = (0..connections)
        .map(|connection| {
            let sending = Sending {
                address: address.clone(),
                bodies: Arc::clone(&bodies),
                accepted: Arc::clone(&accepted),
                stop: Arc::clone(&stop),
                first: connection * 7,
                in_flight: in_flight.div_ceil(connections),
            };
            runtime.spawn(sending.run())
        })
        .collect();

    std::thread::sleep(Duration::from_secs(2));
    let (cpu, own_cpu, count, began) = (
        server.cpu_seconds(),
        cpu_seconds(),
        accepted.load(Ordering::Relaxed),
        Instant::now(),
    );
    std::thread::sleep(Duration::from_secs(seconds));
    let elapsed = began.elapsed().as_secs_f64();
    let requests = accepted.load(Ordering::Relaxed) - count;
    let (cpu, own_cpu) = (server.cpu_seconds() - cpu, cpu_seconds() - own_cpu);
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("a sender");
        }
    });
    server.input = None;
    let durable: u64 = server.line().parse().expect("the end offset");
    server.child.wait().expect("the server ends");
    assert!(
        durable >= accepted.load(Ordering::Relaxed),
        "acknowledged but not in the log"
    );

    let spans = (requests * SPANS) as f64;
    println!(
        "{{\"bench\": \"door\", \"spans_per_second\": {:.0}, \"server_cpu_seconds_per_million_spans\": {:.3}, \
         \"sender_cpu_seconds_per_million_spans\": {:.3}, \"requests\": {requests}, \"body_bytes\": {body_bytes}, \
         \"span_bytes\": {}, \"seconds\": {elapsed:.2}, \"connections\": {connections}, \"in_flight\": {in_flight}}}",
        spans / elapsed,
        cpu / spans * 1e6,
        own_cpu / spans * 1e6,
        body_bytes as u64 / SPANS,
    );
}

struct Sending {
    address: String,
    bodies: Arc<Vec<Bytes>>,
    accepted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    first: u64,
    in_flight: u64,
}

impl Sending {
    async fn run(self) {
        let stream = tokio::net::TcpStream::connect(&self.address)
            .await
            .expect("the server listens");
        stream.set_nodelay(true).expect("nodelay");
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.max_send_buf_size(4 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let url = format!(
            "http://{}/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            self.address
        );
        let mut lanes = Vec::new();
        for lane in 0..self.in_flight {
            let (mut sender, url, bodies) = (sender.clone(), url.clone(), Arc::clone(&self.bodies));
            let (accepted, stop) = (Arc::clone(&self.accepted), Arc::clone(&self.stop));
            let mut next = self.first + lane * 13;
            lanes.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let body = bodies[(next % BODIES) as usize].clone();
                    next += 1;
                    let request = hyper::Request::post(&url)
                        .header("content-type", "application/grpc")
                        .header("te", "trailers")
                        .body(Full::new(body))
                        .expect("a request");
                    let response = sender.send_request(request).await.expect("an answer");
                    let body = response.into_body().collect().await.expect("a body");
                    let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
                    assert!(
                        status.is_some_and(|status| status == "0"),
                        "the request was refused"
                    );
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        for lane in lanes {
            lane.await.expect("a lane");
        }
        connection.abort();
    }
}

/// A request behind its gRPC prefix.
fn framed_request(seed: u64) -> Bytes {
    let spans = (0..SPANS).map(|at| span(seed * SPANS + at)).collect();
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", "assistant"),
                    text("service.version", "1.4.2"),
                ],
                ..Default::default()
            }),
            scope_spans: vec![ScopeSpans {
                spans,
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    let message = request.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    Bytes::from(framed)
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_string(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_string()))
}

/// An LLM span of about 808 bytes with 13 attributes.
fn span(number: u64) -> Span {
    let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let trace = u128::from(mixed) << 64 | u128::from(mixed.rotate_left(29));
    let start = 1_700_000_000_000_000_000 + number * 1_000_003;
    let integer = |key: &str, value: u64| attribute(key, Value::IntValue((value % 4000) as i64));
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: mixed.to_be_bytes().to_vec(),
        parent_span_id: mixed.rotate_left(7).to_be_bytes().to_vec(),
        name: "chat gpt-4o-mini".to_string(),
        kind: 3,
        start_time_unix_nano: start,
        end_time_unix_nano: start + mixed % 3_000_000_000,
        attributes: vec![
            text("gen_ai.operation.name", "chat"),
            text("gen_ai.provider.name", "openai"),
            text("gen_ai.request.model", "gpt-4o-mini"),
            text("gen_ai.response.model", "gpt-4o-mini-2024-07-18"),
            text("gen_ai.response.id", &format!("chatcmpl-{mixed:016x}")),
            integer("gen_ai.usage.input_tokens", mixed >> 8),
            integer("gen_ai.usage.output_tokens", mixed >> 20),
            integer("gen_ai.request.max_tokens", 1024),
            attribute("gen_ai.request.temperature", Value::DoubleValue(0.2)),
            text("session.id", &format!("session-{:08x}", mixed as u32)),
            text("user.id", &format!("user-{}", mixed % 10_000)),
            text("server.address", "api.openai.example"),
            text(
                "gen_ai.input.messages",
                "[{\"role\":\"user\",\"parts\":[{\"type\":\"text\",\"content\":\"What is the weather like in Reykjavik tomorrow, and do I need a coat? Answer in one sentence, name the temperature in degrees Celsius and say whether it will rain in the afternoon, because I shall be outside.\"}]}]",
            ),
        ],
        ..Default::default()
    }
}
