//! What can be set about the receivers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who may send without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenMode {
    /// Nobody: every request needs a key.
    Never,
    /// Processes on this machine; listening elsewhere is refused.
    Loopback,
    /// Everybody who can reach the port (`--insecure-open`).
    Anywhere,
}

/// Addresses and limits of the receivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceiverOptions {
    /// OTLP/gRPC; port 0 picks a free one.
    pub grpc: SocketAddr,
    /// OTLP/HTTP; port 0 picks a free one.
    pub http: SocketAddr,
    pub open_mode: OpenMode,
    /// Greatest body, decompressed bytes; larger ones are answered 413 / RESOURCE_EXHAUSTED.
    pub max_body_bytes: usize,
    /// Bytes of bodies in progress over all connections; beyond, requests are answered 503 / UNAVAILABLE.
    pub max_in_flight_bytes: usize,
    pub max_connections: usize,
    /// Origins of web pages that may send, such as `https://app.example.com`; `*` stands for any text within
    /// one, or alone for all of them.
    pub cors_origins: Vec<String>,
    /// A body that brings nothing for this long is given up.
    pub body_idle_timeout: Duration,
    /// How long requests in progress may take to finish at shutdown.
    pub drain_timeout: Duration,
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        ReceiverOptions {
            grpc: (Ipv4Addr::LOCALHOST, 4317).into(),
            http: (Ipv4Addr::LOCALHOST, 4318).into(),
            open_mode: OpenMode::Loopback,
            max_body_bytes: 64 << 20,
            max_in_flight_bytes: 256 << 20,
            max_connections: 4096,
            cors_origins: vec!["http://localhost:*".to_string(), "http://127.0.0.1:*".to_string()],
            body_idle_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
