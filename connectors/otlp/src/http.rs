//! OTLP/HTTP: routes, content types, and answers in the sender's own encoding.

use std::net::SocketAddr;

use ::http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, RETRY_AFTER};
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use pyflare_connectors::{ContentType, Signal};

use crate::admit::{Door, Offered, header};
use crate::auth::AuthRequest;
use crate::body::{collect_plain, linger};
use crate::compression::Compression;
use crate::cors;
use crate::metrics::Transport;
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::status::{Outcome, response_json, response_protobuf, status_json, status_protobuf};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// The signal that a path takes. The second form is where Langfuse SDKs send.
fn signal_of(path: &str) -> Option<Signal> {
    match path.strip_suffix('/').unwrap_or(path) {
        "/v1/traces" | "/api/public/otel/v1/traces" => Some(Signal::Traces),
        "/v1/metrics" => Some(Signal::Metrics),
        "/v1/logs" => Some(Signal::Logs),
        _ => None,
    }
}

/// `application/json; charset=utf-8` and `application/x-protobuf` in any case.
fn content_type_of(value: &str) -> Option<ContentType> {
    let kind = value.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(PROTOBUF) || kind.eq_ignore_ascii_case("application/protobuf") {
        Some(ContentType::Protobuf)
    } else if kind.eq_ignore_ascii_case(JSON) {
        Some(ContentType::Json)
    } else {
        None
    }
}

pub(crate) async fn handle(door: &Door, peer: SocketAddr, mut request: Request<Incoming>) -> Response<Reply> {
    let signal = signal_of(request.uri().path());
    let content_type = content_type_of(header(request.headers(), CONTENT_TYPE));
    let origin = match cors::allowed_origin(request.headers(), &door.options.cors_origins) {
        Ok(origin) => origin,
        Err(refusal) => return refuse(door, signal, content_type, &mut request, &refusal).await,
    };
    let mut response = match accept(door, peer, signal, content_type, &mut request).await {
        Ok(response) => response,
        Err(refusal) => refuse(door, signal, content_type, &mut request, &refusal).await,
    };
    cors::allow(origin, response.headers_mut());
    if request.method() == Method::OPTIONS && response.status().is_success() {
        cors::allow_preflight(request.headers(), response.headers_mut());
    }
    response
}

async fn accept(
    door: &Door,
    peer: SocketAddr,
    signal: Option<Signal>,
    content_type: Option<ContentType>,
    request: &mut Request<Incoming>,
) -> Result<Response<Reply>, Refusal> {
    let signal = signal.ok_or_else(|| Refusal::Path {
        path: request.uri().path().chars().take(200).collect(),
    })?;
    match *request.method() {
        Method::POST => {}
        Method::OPTIONS => {
            let mut response = Response::new(Reply::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        ref method => {
            return Err(Refusal::Method {
                method: method.to_string(),
            });
        }
    }
    let project = door.open_for(
        signal,
        &AuthRequest {
            headers: request.headers(),
            peer,
        },
    )?;
    let content_type = content_type.ok_or_else(|| Refusal::ContentType {
        found: header(request.headers(), CONTENT_TYPE)
            .chars()
            .take(100)
            .collect(),
    })?;
    let encoding = header(request.headers(), CONTENT_ENCODING);
    let compression = Compression::parse(encoding).ok_or_else(|| Refusal::ContentEncoding {
        found: encoding.chars().take(100).collect(),
    })?;

    let mut held = door.in_flight.hold();
    let options = &door.options;
    let body = collect_plain(
        request.body_mut(),
        options.max_body_bytes,
        options.body_idle_timeout,
        &mut held,
    )
    .await?;
    let transport = Transport::Http;
    let offered = Offered {
        signal,
        transport,
        content_type,
        project,
        compression,
        body,
        held,
    };
    let outcome = door.admit(offered).await?;
    Ok(answer(signal, content_type, &outcome))
}

fn answer(signal: Signal, content_type: ContentType, outcome: &Outcome) -> Response<Reply> {
    let (kind, body) = match content_type {
        ContentType::Protobuf => (PROTOBUF, response_protobuf(outcome)),
        _ => (JSON, response_json(signal, outcome)),
    };
    let mut response = Response::new(Reply::data(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn refuse(
    door: &Door,
    signal: Option<Signal>,
    content_type: Option<ContentType>,
    request: &mut Request<Incoming>,
    refusal: &Refusal,
) -> Response<Reply> {
    if let Some(signal) = signal {
        door.counters.refused(signal, Transport::Http, refusal);
    }
    // With HTTP/2 the stream is reset on its own; a client that asked `Expect: 100-continue` has sent nothing.
    if request.version() < Version::HTTP_2
        && !request.headers().contains_key(EXPECT)
        && !request.body().is_end_stream()
    {
        linger(request.body_mut()).await;
    }
    let (code, message, retry_after) = (refusal.grpc_code(), refusal.to_string(), refusal.retry_after());
    let (kind, body) = match content_type {
        Some(ContentType::Protobuf) => (PROTOBUF, status_protobuf(code, &message, retry_after)),
        _ => (JSON, status_json(code, &message, retry_after)),
    };
    let mut response = Response::new(Reply::data(body));
    *response.status_mut() = refusal.http_status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(delay) = retry_after {
        // Whole seconds, never 0: a client that takes it literally would come back at once.
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    match refusal {
        Refusal::Method { .. } => {
            headers.insert(ALLOW, HeaderValue::from_static("POST, OPTIONS"));
        }
        Refusal::ContentEncoding { .. } => {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd, deflate"));
        }
        _ => {}
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_without_their_parameters() {
        assert_eq!(
            content_type_of("application/json; charset=utf-8"),
            Some(ContentType::Json)
        );
        assert_eq!(
            content_type_of(" Application/X-Protobuf"),
            Some(ContentType::Protobuf)
        );
        for wrong in [
            "",
            "text/plain",
            "application/x-protobuffer",
            "json",
            "application/grpc",
        ] {
            assert_eq!(content_type_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_are_those_of_otlp_and_langfuse() {
        assert_eq!(signal_of("/v1/logs"), Some(Signal::Logs));
        assert_eq!(signal_of("/v1/traces/"), Some(Signal::Traces));
        assert_eq!(signal_of("/api/public/otel/v1/traces"), Some(Signal::Traces));
        assert_eq!(signal_of("/v1/traces/x"), None);
        assert_eq!(signal_of("/"), None);
    }
}
