//! The log, and the tick log, in Apache Kafka's topics.
//!
//! - [`KafkaLog`]: the requests as they arrived, in `otlp_spans`, `otlp_metrics`, `otlp_logs` and `user_streams`; also
//!   those that an OpenTelemetry Collector writes there.
//! - what streams read of topics that others write: [`pyflare_connectors::Feed`], by [`pyflare_connectors::Log::feed`].
//! - [`KafkaOutputs`]: what monitors write to topics, each cut in one transaction.
//! - [`KafkaTickLog`]: the tick log in `pyflare_ticks`, each record in one transaction.
//! - [`KafkaOptions`]: where the brokers are and how to speak with them.
//!
//! Invariants: a record is acknowledged once all in-sync replicas have it (`acks=all`, idempotent producer); records are
//! read by offset, from where the engine says, never from a position that the broker keeps; what the broker has deleted
//! before it was read is an error that names the range.

mod buffers;
mod client;
mod feed;
mod fetching;
mod log;
mod message;
mod options;
mod outputs;
mod reader;
mod ticks;
mod topics;

pub use log::KafkaLog;
pub use options::{KafkaOptions, Sasl, SaslMechanism, Tls};
pub use outputs::{Encode, KafkaOutputs};
pub use ticks::KafkaTickLog;
