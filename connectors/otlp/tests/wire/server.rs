//! A receiver on free ports over an embedded log, and requests to send to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use pyflare_connectors::conformance::written_records;
use pyflare_connectors::{Log, LogRecord, Signal};
use pyflare_log::{EmbeddedLog, LogOptions};
use pyflare_otlp::{Admission, Authenticate, IngestKeys, ReceiverHandle, ReceiverOptions, Receivers};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct Server {
    pub log: Arc<EmbeddedLog>,
    pub handle: ReceiverHandle,
    pub stop: Option<oneshot::Sender<()>>,
    pub running: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

pub fn log_options(directory: &Path) -> LogOptions {
    LogOptions {
        directory: directory.to_path_buf(),
        partitions: 1,
        cap_bytes: 1 << 32,
        min_free_bytes: 0,
        segment_bytes: 64 << 20,
        tail_bytes: 64 << 20,
    }
}

pub fn options() -> ReceiverOptions {
    let any = "127.0.0.1:0".parse().unwrap();
    ReceiverOptions {
        grpc: any,
        http: any,
        ..ReceiverOptions::default()
    }
}

pub fn open_to_this_machine() -> Authenticate {
    IngestKeys::new([], false).unwrap().into_authenticate()
}

pub fn always() -> Admission {
    Arc::new(|_| Ok(()))
}

impl Server {
    pub async fn start() -> Server {
        Server::with(options(), open_to_this_machine(), always(), |_| {}).await
    }

    pub async fn with(
        options: ReceiverOptions,
        authenticate: Authenticate,
        admission: Admission,
        change_log: impl FnOnce(&mut LogOptions),
    ) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let mut log_options = log_options(directory.path());
        change_log(&mut log_options);
        let log = EmbeddedLog::open(log_options).unwrap();
        let shared: Arc<dyn Log> = Arc::clone(&log) as Arc<dyn Log>;
        let receivers = Receivers::bind(options, shared, authenticate, admission)
            .await
            .unwrap();
        let handle = receivers.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(receivers.run(async move {
            stopped.await.ok();
        }));
        Server {
            log,
            handle,
            stop: Some(stop),
            running,
            _directory: directory,
        }
    }

    pub fn http(&self) -> SocketAddr {
        self.handle.http_address()
    }

    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.handle.grpc_address())
    }

    /// Everything appended so far.
    pub fn records(&self, signal: Signal) -> Vec<LogRecord> {
        written_records(&*self.log, signal, 0, usize::MAX)
    }
}

pub fn span(number: u64) -> Span {
    Span {
        trace_id: (u128::from(number) + 1).to_be_bytes().to_vec(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        name: format!("chat {number}"),
        start_time_unix_nano: 1_700_000_000_000_000_000 + number,
        end_time_unix_nano: 1_700_000_001_000_000_000 + number,
        attributes: vec![KeyValue {
            key: "gen_ai.request.model".to_string(),
            value: Some(AnyValue {
                value: Some(Value::StringValue("gpt-x".to_string())),
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans,
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

/// A request of so many good spans, and its bytes.
pub fn good(count: u64) -> (ExportTraceServiceRequest, Vec<u8>) {
    let request = request((0..count).map(span).collect());
    let bytes = request.encode_to_vec();
    (request, bytes)
}

/// Good spans and as many whose trace id is all zero.
pub fn half_bad(count: u64) -> ExportTraceServiceRequest {
    let zero = |number| Span {
        trace_id: vec![0; 16],
        ..span(number)
    };
    request(
        (0..count)
            .flat_map(|number| [span(number), zero(number)])
            .collect(),
    )
}
