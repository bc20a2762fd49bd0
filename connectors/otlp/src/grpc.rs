//! OTLP/gRPC over hyper's HTTP/2, with its own five-byte framing.
//!
//! A codec that decodes into message structs would build what is not needed, and joins bytes that may already
//! be in one piece. The three methods are unary: one message in, one message out, status in the trailers.

use std::net::SocketAddr;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hyper::body::Incoming;
use pyflare_connectors::{ContentType, Signal};

use crate::admit::{Door, Offered, header};
use crate::auth::AuthRequest;
use crate::body::collect_message;
use crate::compression::Compression;
use crate::cors;
use crate::metrics::Transport;
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::status::{response_protobuf, status_protobuf};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Whether a content type is gRPC's, of whatever kind.
pub(crate) fn is_grpc(content_type: &str) -> bool {
    content_type
        .get(..16)
        .is_some_and(|start| start.eq_ignore_ascii_case("application/grpc"))
}

fn is_grpc_protobuf(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/grpc") || kind.eq_ignore_ascii_case("application/grpc+proto")
}

fn signal_of(path: &str) -> Option<Signal> {
    match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Some(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Some(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Some(Signal::Logs),
        _ => None,
    }
}

pub(crate) async fn handle(door: &Door, peer: SocketAddr, mut request: Request<Incoming>) -> Response<Reply> {
    let content_type = header(request.headers(), CONTENT_TYPE);
    if !is_grpc_protobuf(content_type) || request.version() != Version::HTTP_2 {
        // Not gRPC as we speak it: the specification asks for an HTTP status then.
        let refusal = Refusal::ContentType {
            found: content_type.chars().take(100).collect(),
        };
        let mut response = Response::new(Reply::data(refusal.to_string()));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let signal = signal_of(request.uri().path());
    match accept(door, peer, signal, &mut request).await {
        Ok(message) => {
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
            let mut response = Response::new(Reply::with_trailers(framed(&message), trailers));
            response.headers_mut().insert(CONTENT_TYPE, GRPC);
            response
        }
        Err(refusal) => {
            if let Some(signal) = signal {
                door.counters.refused(signal, Transport::Grpc, &refusal);
            }
            refuse(&refusal)
        }
    }
}

async fn accept(
    door: &Door,
    peer: SocketAddr,
    signal: Option<Signal>,
    request: &mut Request<Incoming>,
) -> Result<Vec<u8>, Refusal> {
    let path = || request.uri().path().chars().take(200).collect();
    let signal = signal.ok_or_else(|| Refusal::Path { path: path() })?;
    if request.method() != Method::POST {
        return Err(Refusal::Method {
            method: request.method().to_string(),
        });
    }
    cors::allowed_origin(request.headers(), &door.options.cors_origins)?;
    let project = door.open_for(
        signal,
        &AuthRequest {
            headers: request.headers(),
            peer,
        },
    )?;
    let encoding = header(request.headers(), GRPC_ENCODING);
    let declared = Compression::parse(encoding).ok_or_else(|| Refusal::ContentEncoding {
        found: encoding.chars().take(100).collect(),
    })?;

    let mut held = door.in_flight.hold();
    let options = &door.options;
    let (compressed, body) = collect_message(
        request.body_mut(),
        options.max_body_bytes,
        options.body_idle_timeout,
        &mut held,
    )
    .await?;
    let compression = match (compressed, declared) {
        (false, _) => Compression::Identity,
        (true, Compression::Identity) => {
            return Err(Refusal::Framing {
                detail: "the message is compressed, but grpc-encoding does not say how",
            });
        }
        (true, declared) => declared,
    };
    let (transport, content_type) = (Transport::Grpc, ContentType::Protobuf);
    let offered = Offered {
        signal,
        transport,
        content_type,
        project,
        compression,
        body,
        held,
    };
    Ok(response_protobuf(&door.admit(offered).await?))
}

/// A message behind its prefix, uncompressed.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + message.len());
    out.push(0);
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out
}

/// A response without a message: its status is in the headers.
fn refuse(refusal: &Refusal) -> Response<Reply> {
    let message = refusal.to_string();
    let mut response = Response::new(Reply::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(GRPC_STATUS, HeaderValue::from(refusal.grpc_code()));
    if let Ok(value) = HeaderValue::from_str(&percent_encoded(&message)) {
        headers.insert(GRPC_MESSAGE, value);
    }
    if let Some(delay) = refusal.retry_after() {
        let details = STANDARD_NO_PAD.encode(status_protobuf(refusal.grpc_code(), &message, Some(delay)));
        if let Ok(value) = HeaderValue::from_str(&details) {
            headers.insert(GRPC_DETAILS, value);
        }
    }
    if matches!(refusal, Refusal::ContentEncoding { .. }) {
        headers.insert(
            GRPC_ACCEPT_ENCODING,
            HeaderValue::from_static("identity,gzip,zstd,deflate"),
        );
    }
    response
}

/// `grpc-message`: everything outside of printable ASCII, and `%`, percent-encoded.
fn percent_encoded(message: &str) -> String {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(percent_encoded("100 % é\n"), "100 %25 %C3%A9%0A");
    }

    #[test]
    fn grpc_content_types_are_recognised() {
        assert!(is_grpc("application/grpc+json") && !is_grpc_protobuf("application/grpc+json"));
        assert!(is_grpc_protobuf("application/grpc") && is_grpc_protobuf("Application/gRPC+proto"));
        assert!(!is_grpc("application/json") && !is_grpc("é"));
    }
}
