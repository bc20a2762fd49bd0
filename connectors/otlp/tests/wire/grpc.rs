//! OTLP/gRPC by a client that nobody here wrote.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::logs::v1::{LogRecord as OtlpLog, ResourceLogs, ScopeLogs};
use prost::Message;
use pyflare_connectors::{ContentType, Signal};
use pyflare_otlp::{Busy, IngestKeys, ReceiverOptions, Transport, body_hash};
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

use crate::server::{Server, always, good, half_bad, open_to_this_machine, options, request, span};

async fn client(server: &Server) -> TraceServiceClient<Channel> {
    TraceServiceClient::connect(server.grpc_url()).await.unwrap()
}

#[tokio::test]
async fn a_request_is_appended_unchanged_and_answered_with_full_success() {
    let server = Server::start().await;
    let (request, bytes) = good(3);
    let response = client(&server).await.export(request).await.unwrap().into_inner();
    assert_eq!(response.partial_success, None);
    let records = server.records(Signal::Traces);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].body, bytes);
    assert_eq!(records[0].content_type, ContentType::Protobuf);
    assert_eq!(&*records[0].project, "default");
    assert_eq!(records[0].body_hash, body_hash("default", Signal::Traces, &bytes));
    assert!(records[0].received_us > 1_700_000_000_000_000);
    let series = server.handle.metrics();
    let series = series.of(Signal::Traces, Transport::Grpc).unwrap();
    assert_eq!(
        (series.requests, series.rows, series.bytes),
        (1, 3, bytes.len() as u64)
    );
}

#[tokio::test]
async fn gzip_and_zstd_are_decompressed_before_the_append() {
    let server = Server::start().await;
    let (request, bytes) = good(200);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = client(&server)
            .await
            .send_compressed(encoding)
            .accept_compressed(encoding);
        client.export(request.clone()).await.unwrap();
    }
    let records = server.records(Signal::Traces);
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.body == bytes));
    assert_eq!(
        records[0].body_hash, records[1].body_hash,
        "the key is of the decompressed body"
    );
}

#[tokio::test]
async fn metrics_and_logs_have_services_and_topics_of_their_own() {
    let server = Server::start().await;
    let logs = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            scope_logs: vec![ScopeLogs {
                log_records: vec![OtlpLog {
                    time_unix_nano: 1,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    let mut client = LogsServiceClient::connect(server.grpc_url()).await.unwrap();
    client.export(logs.clone()).await.unwrap();
    assert_eq!(server.records(Signal::Logs)[0].body, logs.encode_to_vec());
    assert!(server.records(Signal::Traces).is_empty());

    let mut client = MetricsServiceClient::connect(server.grpc_url()).await.unwrap();
    client
        .export(ExportMetricsServiceRequest::default())
        .await
        .unwrap();
    assert!(
        server.records(Signal::Metrics).is_empty(),
        "an empty request leaves nothing behind"
    );
}

#[tokio::test]
async fn rejected_rows_are_counted_and_the_body_kept_unless_all_are() {
    let server = Server::start().await;
    let mut client = client(&server).await;
    let mixed = half_bad(4);
    let partial = client
        .export(mixed.clone())
        .await
        .unwrap()
        .into_inner()
        .partial_success
        .unwrap();
    assert_eq!(partial.rejected_spans, 4);
    assert!(
        partial.error_message.contains("trace id"),
        "{}",
        partial.error_message
    );
    assert_eq!(server.records(Signal::Traces)[0].body, mixed.encode_to_vec());

    let mut bad = span(1);
    bad.span_id = vec![1, 2, 3];
    let mut zero = span(2);
    zero.span_id = vec![0; 8];
    let partial = client
        .export(request(vec![bad, zero]))
        .await
        .unwrap()
        .into_inner()
        .partial_success
        .unwrap();
    assert_eq!(partial.rejected_spans, 2);
    assert_eq!(server.records(Signal::Traces).len(), 1, "nothing to keep");
}

#[tokio::test]
async fn large_requests_pass_and_too_large_ones_are_refused_for_good() {
    let limited = ReceiverOptions {
        max_body_bytes: 8 << 20,
        ..options()
    };
    let server = Server::with(limited, open_to_this_machine(), always(), |_| {}).await;
    let (request, bytes) = good(60_000);
    assert!(bytes.len() > 4 << 20 && bytes.len() < 8 << 20, "{}", bytes.len());
    client(&server).await.export(request).await.unwrap();
    assert_eq!(server.records(Signal::Traces)[0].body, bytes);

    let (request, bytes) = good(120_000);
    assert!(bytes.len() > 8 << 20);
    for encoding in [None, Some(CompressionEncoding::Gzip)] {
        let mut client = client(&server).await;
        if let Some(encoding) = encoding {
            client = client.send_compressed(encoding);
        }
        let status = client.export(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().starts_with("PF-1009"), "{}", status.message());
        assert!(
            status.details().is_empty(),
            "no RetryInfo: trying again cannot help"
        );
    }
    assert_eq!(server.records(Signal::Traces).len(), 1);
}

#[tokio::test]
async fn a_hundred_megabyte_message_is_refused_and_the_next_one_served() {
    let server = Server::start().await;
    let mut huge = span(1);
    huge.name = "x".repeat(100 << 20);
    let mut client = client(&server).await;
    let status = client.export(request(vec![huge])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    client.export(good(1).0).await.unwrap();
    assert_eq!(server.handle.metrics().in_flight_bytes, 0);
}

#[tokio::test]
async fn a_lagging_dataflow_and_a_full_log_ask_to_retry() {
    let busy = Arc::new(|signal| match signal {
        Signal::Traces => Err(Busy {
            retry_after_ms: 2500,
            reason: "the dataflow is behind".to_string(),
        }),
        _ => Ok(()),
    });
    let server = Server::with(options(), open_to_this_machine(), busy, |_| {}).await;
    let status = client(&server).await.export(good(1).0).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("the dataflow is behind"));
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(
        details.contains("type.googleapis.com/google.rpc.RetryInfo"),
        "{details:?}"
    );

    let server = Server::with(options(), open_to_this_machine(), always(), |log| {
        log.cap_bytes = 300_000
    })
    .await;
    let mut client = client(&server).await;
    let mut accepted = 0;
    let status = loop {
        match client.export(good(1000).0).await {
            Ok(_) => accepted += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("PF-2001"), "{}", status.message());
    assert!(!status.details().is_empty());
    assert!(accepted > 0);
    assert_eq!(
        server.records(Signal::Traces).len(),
        accepted,
        "what was acknowledged is there"
    );
}

#[tokio::test]
async fn keys_decide_the_project() {
    let keys = [("pf_0123456789abcdef".to_string(), "shop".to_string())];
    let keys = IngestKeys::new(keys, false).unwrap().into_authenticate();
    let server = Server::with(options(), keys, always(), |_| {}).await;
    let mut client = client(&server).await;
    assert_eq!(
        client.export(good(1).0).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let with = |name: &'static str, value: &str| {
        let mut request = tonic::Request::new(good(1).0);
        request.metadata_mut().insert(name, value.parse().unwrap());
        request
    };
    let wrong = client
        .export(with("authorization", "Bearer pf_0123456789abcdeX"))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), Code::Unauthenticated);
    client
        .export(with("authorization", "Bearer pf_0123456789abcdef"))
        .await
        .unwrap();
    client
        .export(with("x-pyflare-key", "pf_0123456789abcdef"))
        .await
        .unwrap();
    let records = server.records(Signal::Traces);
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| &*record.project == "shop"));
}

/// A call by hand: path, headers and the bytes of its body. Answers HTTP status, gRPC status and message.
async fn call(server: &Server, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, String, String) {
    let stream = tokio::net::TcpStream::connect(server.handle.grpc_address())
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut request = hyper::Request::post(format!("http://{}{path}", server.handle.grpc_address()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let head = response.headers().clone();
    let trailers = response
        .into_body()
        .collect()
        .await
        .unwrap()
        .trailers()
        .cloned()
        .unwrap_or_default();
    let text = |name: &str| {
        let value = head.get(name).or(trailers.get(name));
        value
            .map(|value| value.to_str().unwrap().to_string())
            .unwrap_or_default()
    };
    (status, text("grpc-status"), text("grpc-message"))
}

#[tokio::test]
async fn broken_framing_unknown_methods_and_encodings_are_refused_with_their_codes() {
    let server = Server::start().await;
    let export = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let grpc = ("content-type", "application/grpc");
    let (_, message) = good(2);
    let framed =
        |flag: u8, len: usize, message: &[u8]| [&[flag][..], &(len as u32).to_be_bytes(), message].concat();
    let whole = framed(0, message.len(), &message);
    assert_eq!(call(&server, export, &[grpc], whole.clone()).await.1, "0");

    let cases: [(Vec<u8>, &str, &str); 8] = [
        (Vec::new(), "13", "PF-1012"),
        (whole[..3].to_vec(), "13", "PF-1012"),
        (whole[..whole.len() - 1].to_vec(), "13", "PF-1012"),
        ([&whole[..], &whole[..]].concat(), "13", "PF-1012"),
        (framed(7, message.len(), &message), "13", "PF-1012"),
        (framed(1, message.len(), &message), "13", "PF-1012"),
        (framed(0, u32::MAX as usize, &message), "8", "PF-1009"),
        (framed(0, 50, &[0xFF; 50]), "3", "PF-1101"),
    ];
    for (body, code, error) in cases {
        let (status, grpc_status, text) = call(&server, export, &[grpc], body.clone()).await;
        assert_eq!(
            (status, grpc_status.as_str()),
            (200, code),
            "{text} for {:?}",
            &body[..body.len().min(6)]
        );
        assert!(text.starts_with(error), "{text}");
    }
    let unknown = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export";
    let (_, code, text) = call(&server, unknown, &[grpc], whole.clone()).await;
    assert_eq!(code, "12");
    assert!(text.starts_with("PF-1017"), "{text}");
    let (_, code, text) = call(
        &server,
        export,
        &[grpc, ("grpc-encoding", "snappy")],
        whole.clone(),
    )
    .await;
    assert_eq!(code, "12");
    assert!(text.starts_with("PF-1008"), "{text}");
    let (status, ..) = call(
        &server,
        export,
        &[("content-type", "application/grpc+json")],
        whole.clone(),
    )
    .await;
    assert_eq!(status, 415);
    // Plain OTLP over the gRPC port is served as well.
    let plain = call(
        &server,
        "/v1/traces",
        &[("content-type", "application/x-protobuf")],
        message,
    )
    .await;
    assert_eq!(plain.0, 200);
    assert_eq!(server.records(Signal::Traces).len(), 2);
}

#[tokio::test]
async fn many_clients_at_once_are_each_answered_once_durable() {
    let server = Server::start().await;
    let channel = Channel::from_shared(server.grpc_url())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let tasks: Vec<_> = (0..32_u64)
        .map(|task| {
            let mut client = TraceServiceClient::new(channel.clone());
            tokio::spawn(async move {
                for at in 0..10 {
                    let spans = (0..50)
                        .map(|number| span(task * 10_000 + at * 100 + number))
                        .collect();
                    client.export(request(spans)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task)
            .await
            .unwrap()
            .unwrap();
    }
    let mut hashes: Vec<u128> = server
        .records(Signal::Traces)
        .iter()
        .map(|record| record.body_hash)
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 320);
    assert_eq!(
        server
            .handle
            .metrics()
            .of(Signal::Traces, Transport::Grpc)
            .unwrap()
            .rows,
        16_000
    );
}
