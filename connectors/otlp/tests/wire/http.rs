//! OTLP/HTTP by raw bytes over a socket, so that nothing of a client library hides what is sent.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use flate2::Compression as Level;
use flate2::write::{GzEncoder, ZlibEncoder};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use pyflare_connectors::{ContentType, Signal};
use pyflare_otlp::{Busy, IngestKeys, Reason, ReceiverOptions, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{Server, always, good, half_bad, open_to_this_machine, options};

const PROTOBUF: &str = "content-type: application/x-protobuf";
const JSON: &str = "content-type: application/json";

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends raw bytes and reads the answer until the server closes the connection.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let bytes = bytes.to_vec();
    // The server may refuse, and close, before everything is written.
    let writer = tokio::spawn(async move {
        let written = writing.write_all(&bytes).await;
        (written, writing)
    });
    let mut answer = Vec::new();
    reading.read_to_end(&mut answer).await.unwrap();
    writer.abort();
    let head_end = answer
        .windows(4)
        .position(|part| part == b"\r\n\r\n")
        .expect("an HTTP answer");
    let head = String::from_utf8_lossy(&answer[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
        .collect();
    Answer {
        status,
        headers,
        body: answer[head_end + 4..].to_vec(),
    }
}

fn message(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for header in headers {
        bytes.push_str(header);
        bytes.push_str("\r\n");
    }
    bytes.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [bytes.as_bytes(), body].concat()
}

async fn post(server: &Server, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    raw(server.http(), &message("POST", path, headers, body)).await
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn protobuf_is_appended_unchanged_in_every_encoding() {
    let server = Server::start().await;
    let (_, body) = good(500);
    let mut zlib = ZlibEncoder::new(Vec::new(), Level::fast());
    zlib.write_all(&body).unwrap();
    let encodings = [
        ("content-encoding: identity", body.clone()),
        ("content-encoding: gzip", gzip(&body)),
        ("content-encoding: zstd", zstd::encode_all(&body[..], 3).unwrap()),
        ("content-encoding: deflate", zlib.finish().unwrap()),
    ];
    for (encoding, bytes) in &encodings {
        let answer = post(&server, "/v1/traces", &[PROTOBUF, encoding], bytes).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, "application/x-protobuf")
        );
        assert!(answer.body.is_empty(), "full success is the empty message");
    }
    let records = server.records(Signal::Traces);
    assert_eq!(records.len(), 4);
    assert!(
        records
            .iter()
            .all(|record| record.body == body && record.content_type == ContentType::Protobuf)
    );
}

#[tokio::test]
async fn chunked_bodies_without_a_length_are_joined() {
    let server = Server::start().await;
    let (_, body) = good(300);
    let mut bytes = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{PROTOBUF}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.chunks(777) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(raw(server.http(), &bytes).await.status, 200);
    assert_eq!(server.records(Signal::Traces)[0].body, body);
}

#[tokio::test]
async fn partial_success_and_errors_come_in_the_encoding_of_the_request() {
    let server = Server::start().await;
    let answer = post(&server, "/v1/traces", &[PROTOBUF], &half_bad(3).encode_to_vec()).await;
    assert_eq!(answer.status, 200);
    let response = ExportTraceServiceResponse::decode(&answer.body[..]).unwrap();
    assert_eq!(response.partial_success.unwrap().rejected_spans, 3);

    let answer = post(&server, "/v1/traces", &[PROTOBUF], &[0xFF; 40]).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (400, "application/x-protobuf")
    );
    // google.rpc.Status: code 3, then the message.
    assert_eq!(answer.body[..3], [0x08, 3, 0x12]);
    assert!(answer.text().contains("PF-1101"), "{}", answer.text());

    let answer = post(&server, "/v1/traces", &[JSON], b"{\"resourceSpans\": [").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (400, "application/json")
    );
    let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(status["code"], 3);
    assert!(
        status["message"].as_str().unwrap().starts_with("PF-1103"),
        "{status}"
    );
    assert_eq!(server.records(Signal::Traces).len(), 1);
}

#[tokio::test]
async fn json_with_its_quirks_is_accepted() {
    let server = Server::start().await;
    // Ids in hex of either case, 64-bit integers as text or number, enums as numbers, unknown fields, nulls.
    let body = br#"{"resourceSpans":[{"resource":{"attributes":[]},"future":{"a":[1]},"scopeSpans":[{"spans":[
        {"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","parentSpanId":"","name":"a",
         "kind":3,"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":1544712661000000000,
         "attributes":[{"key":"n","value":{"intValue":"7"}},{"key":"m","value":{"intValue":7}}],"status":{}}]}]}]}"#;
    let answer = post(
        &server,
        "/v1/traces",
        &["content-type: application/json; charset=utf-8"],
        body,
    )
    .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
    let records = server.records(Signal::Traces);
    assert_eq!(
        (&records[0].body[..], records[0].content_type),
        (&body[..], ContentType::Json)
    );

    let zero = br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"00000000000000000000000000000000","spanId":"eee19b7ec3c1b174","name":"a"}]}]}]}"#;
    let answer = post(&server, "/v1/traces", &[JSON], zero).await;
    let response: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        response["partialSuccess"]["rejectedSpans"], "1",
        "64-bit integers are text: {response}"
    );
    assert_eq!(server.records(Signal::Traces).len(), 1);
}

#[tokio::test]
async fn truncated_and_mutated_bodies_are_answered_never_a_panic() {
    let server = Server::start().await;
    let (_, body) = good(2);
    let mut accepted = 0;
    for cut in 0..body.len() {
        let answer = post(&server, "/v1/traces", &[PROTOBUF], &body[..cut]).await;
        assert!(matches!(answer.status, 200 | 400), "{answer:?}");
    }
    for at in 0..body.len() {
        let mut mutated = body.clone();
        mutated[at] = mutated[at].wrapping_add(at as u8 | 1);
        let answer = post(&server, "/v1/traces", &[PROTOBUF], &mutated).await;
        assert!(matches!(answer.status, 200 | 400), "{answer:?}");
        accepted += usize::from(answer.status == 200);
    }
    assert!(accepted > 0 && accepted < body.len());
    assert_eq!(post(&server, "/v1/traces", &[PROTOBUF], &body).await.status, 200);
}

#[tokio::test]
async fn wrong_types_encodings_methods_and_paths_are_named() {
    let server = Server::start().await;
    let (_, body) = good(1);
    for kind in [
        "content-type: text/plain",
        "x-nothing: 1",
        "content-type: application/x-protobufs",
    ] {
        let answer = post(&server, "/v1/traces", &[kind], &body).await;
        assert_eq!(answer.status, 415);
        assert!(answer.text().contains("PF-1007"));
    }
    let answer = post(&server, "/v1/traces", &[PROTOBUF, "content-encoding: br"], &body).await;
    assert_eq!(answer.status, 415);
    assert!(answer.text().contains("PF-1008") && answer.header("accept-encoding").contains("zstd"));
    let answer = post(
        &server,
        "/v1/traces",
        &[PROTOBUF, "content-encoding: gzip"],
        &body,
    )
    .await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("PF-1010"));
    let answer = raw(server.http(), &message("GET", "/v1/traces", &[], b"")).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "POST, OPTIONS"));
    assert_eq!(post(&server, "/v2/traces", &[PROTOBUF], &body).await.status, 404);
    assert!(server.records(Signal::Traces).is_empty());
    let metrics = server.handle.metrics();
    let refused = metrics.of(Signal::Traces, Transport::Http).unwrap().refused;
    assert!(
        refused.contains(&(Reason::Unsupported, 5)) && refused.contains(&(Reason::Malformed, 1)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn bombs_and_huge_bodies_are_stopped_at_the_cap() {
    let limited = ReceiverOptions {
        max_body_bytes: 1 << 20,
        ..options()
    };
    let server = Server::with(limited, open_to_this_machine(), always(), |_| {}).await;
    let bomb = gzip(&vec![0_u8; 50 << 20]);
    assert!(bomb.len() < 1 << 20);
    let answer = post(
        &server,
        "/v1/traces",
        &[PROTOBUF, "content-encoding: gzip"],
        &bomb,
    )
    .await;
    assert_eq!(answer.status, 413);
    assert!(answer.text().contains("PF-1009"));

    // 100 MB, announced by a length and in chunks: the answer arrives although the client is still writing.
    let huge = vec![0_u8; 100 << 20];
    assert_eq!(post(&server, "/v1/traces", &[PROTOBUF], &huge).await.status, 413);
    let mut chunked = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{PROTOBUF}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
        huge.len()
    )
    .into_bytes();
    chunked.extend_from_slice(&huge);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert_eq!(raw(server.http(), &chunked).await.status, 413);
    assert_eq!(
        post(&server, "/v1/traces", &[PROTOBUF], &good(1).1).await.status,
        200
    );
    assert_eq!(server.handle.metrics().in_flight_bytes, 0);
}

#[tokio::test]
async fn backpressure_says_when_to_come_back() {
    let busy = Arc::new(|_| {
        Err(Busy {
            retry_after_ms: 1200,
            reason: "behind".to_string(),
        })
    });
    let server = Server::with(options(), open_to_this_machine(), busy, |_| {}).await;
    let answer = post(&server, "/v1/traces", &[PROTOBUF], &good(1).1).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "2"));

    let server = Server::with(options(), open_to_this_machine(), always(), |log| {
        log.min_free_bytes = u64::MAX
    })
    .await;
    let answer = post(
        &server,
        "/v1/traces",
        &[JSON.replace("json", "x-protobuf").as_str()],
        &good(1).1,
    )
    .await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "15"));
    assert!(answer.text().contains("PF-2002"));

    let crowded = ReceiverOptions {
        max_in_flight_bytes: 1000,
        ..options()
    };
    let server = Server::with(crowded, open_to_this_machine(), always(), |_| {}).await;
    let answer = post(&server, "/v1/traces", &[PROTOBUF], &good(100).1).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert_eq!(
        post(&server, "/v1/traces", &[PROTOBUF], &good(1).1).await.status,
        200
    );
}

#[tokio::test]
async fn langfuse_clients_are_let_in_by_their_secret_key() {
    let keys = [("pf_0123456789abcdef".to_string(), "shop".to_string())];
    let keys = IngestKeys::new(keys, false).unwrap().into_authenticate();
    let server = Server::with(options(), keys, always(), |_| {}).await;
    let (_, body) = good(1);
    let path = "/api/public/otel/v1/traces";
    assert_eq!(post(&server, path, &[PROTOBUF], &body).await.status, 401);
    // base64 of "pk-lf-1:pf_0123456789abcdef"
    let basic = "authorization: Basic cGstbGYtMTpwZl8wMTIzNDU2Nzg5YWJjZGVm";
    assert_eq!(post(&server, path, &[PROTOBUF, basic], &body).await.status, 200);
    assert_eq!(&*server.records(Signal::Traces)[0].project, "shop");
}

#[tokio::test]
async fn open_mode_takes_the_project_from_the_header_and_checks_it() {
    let server = Server::start().await;
    let (_, body) = good(1);
    assert_eq!(
        post(
            &server,
            "/v1/traces",
            &[PROTOBUF, "x-pyflare-project: team-a"],
            &body
        )
        .await
        .status,
        200
    );
    assert_eq!(&*server.records(Signal::Traces)[0].project, "team-a");
    let answer = post(
        &server,
        "/v1/traces",
        &[PROTOBUF, "x-pyflare-project: ../etc"],
        &body,
    )
    .await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("PF-1004"));
}

#[tokio::test]
async fn browsers_ask_first_and_only_allowed_pages_may_send() {
    let app = vec!["https://*.example.com".to_string()];
    let server = Server::with(
        ReceiverOptions {
            cors_origins: app,
            ..options()
        },
        open_to_this_machine(),
        always(),
        |_| {},
    )
    .await;
    let asking = [
        "origin: https://app.example.com",
        "access-control-request-method: POST",
        "access-control-request-headers: content-type,x-pyflare-project",
    ];
    let answer = raw(server.http(), &message("OPTIONS", "/v1/traces", &asking, b"")).await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://app.example.com"
    );
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "content-type,x-pyflare-project"
    );
    assert!(answer.header("access-control-allow-methods").contains("POST"));

    let (_, body) = good(1);
    let answer = post(&server, "/v1/traces", &[PROTOBUF, asking[0]], &body).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, "https://app.example.com")
    );
    for method in ["OPTIONS", "POST"] {
        let evil = [PROTOBUF, "origin: https://evil.test"];
        let answer = raw(server.http(), &message(method, "/v1/traces", &evil, &body)).await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (403, "")
        );
    }
    assert_eq!(server.records(Signal::Traces).len(), 1);
}
