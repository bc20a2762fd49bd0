//! OTLP receivers over gRPC and HTTP.
//!
//! A request's way: key checked → admitted (or told to come back) → body collected and decompressed within
//! bounds → walked once, structurally → appended *unchanged* to the durable log → answered. No message structs
//! are built and nothing is encoded again.
//!
//! Invariants:
//! - a success is answered only after the log has made the body durable;
//! - a body is appended whole or not at all: with rejected rows the sender is told how many (partial success)
//!   and the decoder rejects the same rows again; if every row is rejected nothing is appended;
//! - limits count decompressed bytes, and memory held by requests in progress is bounded;
//! - whatever a client sends, the answer is one of the codes in [`Refusal`], never a panic.
//!
//! Both ports speak both protocols: gRPC and plain OTLP/HTTP are told apart by the content type, so a client
//! with the wrong port number still works. What bodies mean is left to `operators`.

mod admit;
mod auth;
mod body;
mod compression;
mod cors;
mod grpc;
mod http;
mod in_flight;
mod metrics;
mod options;
mod receivers;
mod refusal;
mod reply;
mod status;

pub use admit::{Admission, Busy};
pub use auth::{
    AuthFailure, AuthRequest, Authenticate, IngestKeys, KeyError, PROJECT_HEADER, check_project_name,
};
pub use metrics::{ReceiverMetrics, Series, Transport};
pub use options::{OpenMode, ReceiverOptions};
pub use pyflare_connectors::body_hash;
pub use receivers::{ReceiverError, ReceiverHandle, Receivers};
pub use refusal::{Reason, Refusal};
