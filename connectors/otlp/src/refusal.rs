//! Why a request is not accepted, and what that means in HTTP and in gRPC.

use std::time::Duration;

use ::http::StatusCode;
use pyflare_connectors::LogError;
use pyflare_operators::decode::DecodeError;

use crate::auth::AuthFailure;

/// gRPC status codes used here.
pub(crate) mod grpc_code {
    pub const CANCELLED: u32 = 1;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
    pub const UNAUTHENTICATED: u32 = 16;
}

/// How long a client waits before it tries a full or failing log again.
const LOG_RETRY: Duration = Duration::from_secs(15);
/// How long a client waits before it tries Kafka again.
const KAFKA_RETRY: Duration = Duration::from_secs(2);
/// How long a client waits when too much is in progress here.
const IN_FLIGHT_RETRY: Duration = Duration::from_secs(1);

/// Why a request is not accepted. Every one has a stable code and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Auth(#[from] AuthFailure),
    #[error(
        "PF-1006: web pages of {origin} may not send here; add the origin to the receiver's allowed CORS origins"
    )]
    Origin { origin: String },
    #[error(
        "PF-1007: content type {found:?} is not supported; send application/x-protobuf or application/json, or application/grpc over HTTP/2"
    )]
    ContentType { found: String },
    #[error("PF-1008: content encoding {found:?} is not supported; use gzip, zstd, deflate or none")]
    ContentEncoding { found: String },
    #[error(
        "PF-1009: the body is larger than {limit_bytes} bytes (decompressed); send smaller batches or raise limits.request_mb"
    )]
    TooLarge { limit_bytes: usize },
    #[error("PF-1010: the body cannot be decompressed as {encoding}: {detail}")]
    Decompression { encoding: &'static str, detail: String },
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    #[error("PF-1012: the gRPC message framing is wrong: {detail}")]
    Framing { detail: &'static str },
    #[error("PF-1013: the body did not arrive: {detail}")]
    Incomplete { detail: String },
    #[error("PF-1014: too many requests are in progress; try again")]
    InFlight,
    #[error("PF-1015: {reason}; try again in {retry_after_ms} ms")]
    Busy { reason: String, retry_after_ms: u64 },
    #[error("{0}")]
    Log(LogError),
    #[error(
        "PF-1017: there is nothing at {path}; OTLP/HTTP is POST /v1/traces, /v1/metrics and /v1/logs, OTLP/gRPC the Export methods of opentelemetry.proto.collector"
    )]
    Path { path: String },
    #[error("PF-1018: {method} is not supported here; use POST")]
    Method { method: String },
}

/// A short name of a refusal's kind, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Unauthenticated,
    Forbidden,
    Unsupported,
    TooLarge,
    Malformed,
    Incomplete,
    Busy,
    Log,
}

impl Reason {
    pub const ALL: [Reason; 8] = [
        Reason::Unauthenticated,
        Reason::Forbidden,
        Reason::Unsupported,
        Reason::TooLarge,
        Reason::Malformed,
        Reason::Incomplete,
        Reason::Busy,
        Reason::Log,
    ];

    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Unauthenticated => "unauthenticated",
            Reason::Forbidden => "forbidden",
            Reason::Unsupported => "unsupported",
            Reason::TooLarge => "too_large",
            Reason::Malformed => "malformed",
            Reason::Incomplete => "incomplete",
            Reason::Busy => "busy",
            Reason::Log => "log",
        }
    }
}

impl Refusal {
    pub fn reason(&self) -> Reason {
        match self {
            Refusal::Auth(AuthFailure::MissingKey | AuthFailure::UnknownKey) => Reason::Unauthenticated,
            Refusal::Auth(_) | Refusal::Origin { .. } => Reason::Forbidden,
            Refusal::ContentType { .. }
            | Refusal::ContentEncoding { .. }
            | Refusal::Path { .. }
            | Refusal::Method { .. } => Reason::Unsupported,
            Refusal::TooLarge { .. }
            | Refusal::Malformed(DecodeError::TooLarge { .. })
            | Refusal::Log(LogError::TooLarge { .. }) => Reason::TooLarge,
            Refusal::Decompression { .. } | Refusal::Malformed(_) | Refusal::Framing { .. } => {
                Reason::Malformed
            }
            Refusal::Incomplete { .. } => Reason::Incomplete,
            Refusal::InFlight | Refusal::Busy { .. } => Reason::Busy,
            Refusal::Log(_) => Reason::Log,
        }
    }

    pub fn http_status(&self) -> StatusCode {
        match self {
            Refusal::Auth(AuthFailure::ProjectName { .. }) => StatusCode::BAD_REQUEST,
            Refusal::ContentType { .. } | Refusal::ContentEncoding { .. } => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Refusal::Path { .. } => StatusCode::NOT_FOUND,
            Refusal::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Incomplete { .. } => StatusCode::REQUEST_TIMEOUT,
            // 429 asks this sender to slow down; 503 says that the server cannot take anything at the moment.
            Refusal::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Log(LogError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::InFlight | Refusal::Log(_) => StatusCode::SERVICE_UNAVAILABLE,
            other => match other.reason() {
                Reason::Unauthenticated => StatusCode::UNAUTHORIZED,
                Reason::Forbidden => StatusCode::FORBIDDEN,
                Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            },
        }
    }

    pub(crate) fn grpc_code(&self) -> u32 {
        match self {
            Refusal::Auth(AuthFailure::ProjectName { .. }) => grpc_code::INVALID_ARGUMENT,
            Refusal::Framing { .. } => grpc_code::INTERNAL,
            other => match other.reason() {
                Reason::Unauthenticated => grpc_code::UNAUTHENTICATED,
                Reason::Forbidden => grpc_code::PERMISSION_DENIED,
                Reason::Unsupported => grpc_code::UNIMPLEMENTED,
                // Without RetryInfo this is final for an OTLP client, as it should be.
                Reason::TooLarge => grpc_code::RESOURCE_EXHAUSTED,
                Reason::Malformed => grpc_code::INVALID_ARGUMENT,
                Reason::Incomplete => grpc_code::CANCELLED,
                Reason::Busy | Reason::Log => grpc_code::UNAVAILABLE,
            },
        }
    }

    /// When the client may try again; `None` where trying again cannot help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::InFlight => Some(IN_FLIGHT_RETRY),
            Refusal::Busy { retry_after_ms, .. } => Some(Duration::from_millis(*retry_after_ms)),
            Refusal::Log(LogError::TooLarge { .. }) => None,
            // Kafka comes back by itself, and often soon.
            Refusal::Log(LogError::Unreachable { .. } | LogError::NotTaken { .. }) => Some(KAFKA_RETRY),
            Refusal::Log(_) => Some(LOG_RETRY),
            _ => None,
        }
    }
}
