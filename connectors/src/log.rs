//! The durable log of requests as they arrived: topics, partitions, offsets.
//!
//! Invariants every implementation keeps (checked by [`crate::conformance`]):
//! - offsets of a (topic, partition) grow in the order of appending; those of the embedded log are 0, 1, 2, … without
//!   gaps, those of Kafka may begin above 0 (its retention) and leave some out (marks of transactions);
//! - [`Log::append`] resolves only once the record survives `kill -9` and power loss;
//! - [`Log::read`] returns only durable records, bodies byte for byte as they were appended, none passed over;
//! - equal bodies of one project and signal land in one partition (the partition is chosen by the body hash);
//! - when the disk cap is reached, appends are refused with [`LogError::Full`] and reads go on.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::{Feed, FeedOptions};

/// What kind of telemetry a request carries; one log topic each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
    /// Rows of the streams that users declare; a record says of which.
    Streams,
}

impl Signal {
    pub const ALL: [Signal; 4] = [Signal::Traces, Signal::Metrics, Signal::Logs, Signal::Streams];
    /// Those of OpenTelemetry.
    pub const OTLP: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    /// The topic that holds this signal, named as the OpenTelemetry Collector's Kafka exporter names it.
    pub fn topic(self) -> &'static str {
        match self {
            Signal::Traces => "otlp_spans",
            Signal::Metrics => "otlp_metrics",
            Signal::Logs => "otlp_logs",
            Signal::Streams => "user_streams",
        }
    }

    /// The stream that its rows belong to; `None` where each record says it.
    pub fn stream(self) -> Option<&'static str> {
        match self {
            Signal::Traces => Some("spans"),
            Signal::Metrics => Some("metrics"),
            Signal::Logs => Some("logs"),
            Signal::Streams => None,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
            Signal::Streams => "streams",
        })
    }
}

/// How a body is encoded. Bodies are kept decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    Protobuf,
    Json,
    /// A JSON object a line.
    NdJson,
    /// An Arrow IPC stream.
    ArrowStream,
}

/// One accepted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub project: Arc<str>,
    pub signal: Signal,
    /// The project's stream that its rows belong to, for [`Signal::Streams`].
    pub stream: Option<Arc<str>>,
    pub content_type: ContentType,
    /// When the receiver took it, microseconds since the Unix epoch.
    pub received_us: i64,
    /// The deduplication key: a 128-bit hash of (project, signal, decompressed body); for [`Signal::Streams`] of the
    /// sender's idempotency key, without one a random number.
    pub body_hash: u128,
    /// The decompressed request body, unchanged.
    pub body: Bytes,
}

/// Where a record was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub partition: u32,
    pub offset: u64,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    #[error(
        "PF-2001: the log has reached its cap of {cap_bytes} bytes ({used_bytes} used); raise limits.log_gb or free space"
    )]
    Full { cap_bytes: u64, used_bytes: u64 },
    #[error("PF-2002: the disk that holds the log has only {free_bytes} bytes free; free some space")]
    DiskFull { free_bytes: u64 },
    #[error("PF-2003: log input/output failed on {path}: {detail}")]
    Io { path: String, detail: String },
    #[error(
        "PF-2004: the log segment {path} is damaged at byte {position}: {detail}; nothing was changed, restore the data directory from a backup or start with another one"
    )]
    Corrupt {
        path: String,
        position: u64,
        detail: String,
    },
    #[error(
        "PF-2005: offset {offset} of {topic}/{partition} has been deleted; the first kept one is {first}"
    )]
    Trimmed {
        topic: String,
        partition: u32,
        offset: u64,
        first: u64,
    },
    #[error("PF-2006: the log is shutting down")]
    Closed,
    #[error(
        "PF-2007: the log of {topic}/{partition} ends at offset {end}, but what followed had been acknowledged: its end is damaged or missing; nothing was changed, restore the data directory from a backup or start with another one"
    )]
    EndMissing { topic: String, partition: u32, end: u64 },
    #[error(
        "PF-2008: the thread that writes the log has failed; restart the server, what was acknowledged is kept"
    )]
    WriterFailed,
    #[error("PF-2009: Kafka at {brokers} does not answer: {detail}; check log.url and that its brokers run")]
    Unreachable { brokers: String, detail: String },
    #[error(
        "PF-2010: Kafka at {brokers} refuses the credentials: {detail}; check kafka.sasl_mechanism, kafka.username and kafka.password"
    )]
    Credentials { brokers: String, detail: String },
    #[error(
        "PF-2011: there is no secure connection to Kafka at {brokers}: {detail}; check kafka.security, kafka.ca_file, kafka.certificate_file and kafka.key_file"
    )]
    Insecure { brokers: String, detail: String },
    #[error("PF-2012: the Kafka topic {topic} cannot be used: {detail}")]
    Topic { topic: String, detail: String },
    #[error(
        "PF-2013: a record of {bytes} bytes is more than the Kafka topic {topic} takes; send smaller batches or raise the topic's max.message.bytes"
    )]
    TooLarge { topic: String, bytes: usize },
    #[error("PF-2014: Kafka has not taken a record for {topic}: {detail}; try again")]
    NotTaken { topic: String, detail: String },
    #[error("PF-2015: the settings for Kafka do not go together: {detail}")]
    Settings { detail: String },
    #[error(
        "PF-2016: the log of this server is in its data directory, so there is no Kafka topic {topic}; start it on Kafka with --log-url kafka://host:port and a data directory of its own"
    )]
    NoTopics { topic: String },
    #[error(
        "PF-2019: another server with the same data writes to Kafka by now ({topic}); this one stops doing so"
    )]
    Replaced { topic: String },
    #[error("PF-2017: the Kafka topic {topic} is not for streams and monitors: {detail}")]
    NotForStreams { topic: String, detail: String },
    #[error(
        "PF-2018: another server has taken over the log ({path}); this one takes nothing any more and stops"
    )]
    TakenOver { path: String },
}

impl LogError {
    /// The stable code, such as `PF-2001`.
    pub fn code(&self) -> &'static str {
        match self {
            LogError::Full { .. } => "PF-2001",
            LogError::DiskFull { .. } => "PF-2002",
            LogError::Io { .. } => "PF-2003",
            LogError::Corrupt { .. } => "PF-2004",
            LogError::Trimmed { .. } => "PF-2005",
            LogError::Closed => "PF-2006",
            LogError::EndMissing { .. } => "PF-2007",
            LogError::WriterFailed => "PF-2008",
            LogError::Unreachable { .. } => "PF-2009",
            LogError::Credentials { .. } => "PF-2010",
            LogError::Insecure { .. } => "PF-2011",
            LogError::Topic { .. } => "PF-2012",
            LogError::TooLarge { .. } => "PF-2013",
            LogError::NotTaken { .. } => "PF-2014",
            LogError::Settings { .. } => "PF-2015",
            LogError::NoTopics { .. } => "PF-2016",
            LogError::NotForStreams { .. } => "PF-2017",
            LogError::TakenOver { .. } => "PF-2018",
            LogError::Replaced { .. } => "PF-2019",
        }
    }
}

/// Called after records became durable. Must not block.
pub type AppendListener = Arc<dyn Fn() + Send + Sync>;

/// The deduplication key: a 128-bit hash of (project, signal, decompressed body).
pub fn body_hash(project: &str, signal: Signal, body: &[u8]) -> u128 {
    let signal = match signal {
        Signal::Traces => 1,
        Signal::Metrics => 2,
        Signal::Logs => 3,
        Signal::Streams => 4,
    };
    xxh3_128_with_seed(body, xxh3_64_with_seed(project.as_bytes(), signal))
}

/// A durable, partitioned, append-only log.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Partitions of the signal's topic; fixed for the life of the data directory.
    fn partitions(&self, signal: Signal) -> u32;

    /// The first offset that a reader who begins now may ask for.
    fn start_offset(&self, _signal: Signal, _partition: u32) -> u64 {
        0
    }

    /// Appends a record; resolves once it is durable.
    async fn append(&self, record: LogRecord) -> Result<Appended, LogError>;

    /// The offset after the last record that this process knows to be durable.
    fn end_offset(&self, signal: Signal, partition: u32) -> u64;

    /// Durable records from `offset` on, in order, until `max_bytes` of bodies are exceeded (at least one
    /// record if there is one). Recently appended records come from memory.
    ///
    /// Must not block for long: of records below the end that are still on their way from another machine it returns
    /// fewer or none, and has them later.
    fn read(
        &self,
        signal: Signal,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError>;

    /// Somebody will read the partition from `offset` on: from now on what others append is noticed.
    fn follow(&self, _signal: Signal, _partition: u32, _offset: u64) {}

    /// Begins to read a topic that others write, where the log is among such topics. Waits for its brokers. What comes
    /// is told to the same listeners.
    fn feed(&self, wanted: &FeedOptions) -> Result<Arc<dyn Feed>, LogError> {
        Err(LogError::NoTopics {
            topic: wanted.topic.to_string(),
        })
    }

    /// Registers a listener for new durable records.
    fn on_append(&self, listener: AppendListener);

    /// Bytes on disk and the cap; `None` where others see to that.
    fn usage(&self) -> Option<(u64, u64)>;

    /// What the log cannot recover from while the process runs.
    fn failure(&self) -> Option<LogError> {
        None
    }

    /// Finishes what waits, and refuses what comes.
    fn close(&self) {}

    /// What comes from now on is kept apart from what is there, so that [`Log::trim`] can delete all of that.
    fn seal(&self) {}

    /// Deletes records below `offset`; only what a checkpoint covers may be passed.
    fn trim(&self, signal: Signal, partition: u32, offset: u64) -> Result<(), LogError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_projects_signals_and_bodies_apart() {
        let hash = body_hash("default", Signal::Traces, b"body");
        assert_eq!(hash, body_hash("default", Signal::Traces, b"body"));
        assert_ne!(hash, body_hash("default", Signal::Logs, b"body"));
        assert_ne!(hash, body_hash("other", Signal::Traces, b"body"));
        assert_ne!(hash, body_hash("default", Signal::Traces, b"bodY"));
    }
}
