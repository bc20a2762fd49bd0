//! OTLP bytes into Arrow batches, without message structs in between.
//!
//! * [`check`] is the walk at the door: every length, tag, wire type and nesting depth, and the ids of every
//!   row, without output. A body that passes is decoded without an error later.
//! * [`Decoder`] appends the rows of many requests and finishes them into one batch of the *memory layout*
//!   ([`memory_schema`]): text as views over the bodies, attributes, resource, events and links as raw wire
//!   bytes.
//! * [`select`] makes the columns somebody asks for out of such a batch, in the types of
//!   [`crate::fields::stream_schema`].
//!
//! What is refused and what is kept:
//! * broken wire format, groups, nesting beyond 100 levels: the whole body is an error, no row is kept;
//! * ids that are missing, zero or of the wrong length: the row is rejected and counted;
//! * text that is not UTF-8: the row is kept, wrong bytes become U+FFFD, and the text is counted
//!   ([`Decoded::repaired`]); the attribute also stays in `attributes`;
//! * unknown fields are skipped; a repeated singular field is merged, as protobuf says.
mod aliases;
mod columns;
mod dialects;
mod documents;
mod entries;
mod error;
mod json;
mod leftovers;
mod logs;
mod memo;
mod metrics;
mod numbers;
mod otlp;
mod request;
mod row;
mod select;
mod spans;
mod text;
mod value;
mod verify;
mod wire;

/// Writing the wire format, for made-up traffic.
pub(crate) mod encode {
    pub(crate) use super::wire::{put_bytes, put_varint};
}

/// Reading the wire format, for those who make traffic out of recorded bytes.
pub(crate) mod walk {
    pub(crate) use super::wire::{bytes, skip, tag};
}

use arrow::array::RecordBatch;
use bytes::Bytes;

pub use error::{DecodeError, WireError};
pub use select::{bounded, memory_schema, select};
pub use verify::{Checked, check};

use logs::LogRows;
use metrics::MetricRows;
use request::Rows;
use spans::SpanRows;

/// Which OTLP signal a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OtlpSignal {
    /// Spans.
    Traces,
    /// Data points.
    Metrics,
    /// Log records.
    Logs,
}

impl OtlpSignal {
    /// The stream that the signal's rows belong to.
    pub fn stream(self) -> &'static str {
        match self {
            OtlpSignal::Traces => "spans",
            OtlpSignal::Metrics => "metrics",
            OtlpSignal::Logs => "logs",
        }
    }

    fn message(self) -> &'static otlp::Message {
        match self {
            OtlpSignal::Traces => &otlp::TRACES,
            OtlpSignal::Metrics => &otlp::METRICS,
            OtlpSignal::Logs => &otlp::LOGS,
        }
    }

    fn request(self) -> &'static str {
        match self {
            OtlpSignal::Traces => "ExportTraceServiceRequest",
            OtlpSignal::Metrics => "ExportMetricsServiceRequest",
            OtlpSignal::Logs => "ExportLogsServiceRequest",
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyEncoding {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

/// Where a body came from and when.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The tenant.
    pub project: &'a str,
    /// When the body was received, in microseconds since 1970.
    pub received_us: i64,
    /// The tick that admits it, in milliseconds since 1970.
    pub tick: u64,
    /// The stream's mark before that tick, in microseconds, if it has one.
    pub mark_us: Option<i64>,
    /// Partition of the log.
    pub partition: u32,
    /// Offset in that partition.
    pub offset: u64,
}

/// What a request came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Rows added.
    pub rows: u32,
    /// Rows rejected.
    pub rejected: u32,
    /// Texts that were not valid UTF-8 and were repaired.
    pub repaired: u32,
    /// The latest event time of the rows added, in microseconds.
    pub max_event_time_us: Option<i64>,
}

/// Why a row is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("PF-1110: a span needs a trace id of 16 bytes that are not all zero")]
    TraceId,
    #[error("PF-1111: a span needs a span id of 8 bytes that are not all zero")]
    SpanId,
    #[error("PF-1112: a parent span id has 8 bytes, or none for a root span")]
    ParentSpanId,
    #[error("PF-1113: a log record has a trace id of 16 bytes and a span id of 8, or none")]
    LogIds,
}

/// Longest body a decoder takes: what a view can address.
pub const MAX_BODY: usize = i32::MAX as usize;

/// Decodes bodies of one signal into batches. Reusable: one per worker and signal.
pub struct Decoder {
    signal: OtlpSignal,
    rows: SignalRows,
}

enum SignalRows {
    Spans(Box<SpanRows>),
    Logs(Box<LogRows>),
    Metrics(Box<MetricRows>),
}

impl Decoder {
    /// A decoder for this signal.
    pub fn new(signal: OtlpSignal) -> Decoder {
        let rows = match signal {
            OtlpSignal::Traces => SignalRows::Spans(Box::new(SpanRows::new())),
            OtlpSignal::Logs => SignalRows::Logs(Box::new(LogRows::new())),
            OtlpSignal::Metrics => SignalRows::Metrics(Box::new(MetricRows::new())),
        };
        Decoder { signal, rows }
    }

    /// Appends a body's rows. On an error nothing of the body is kept.
    pub fn decode(
        &mut self,
        origin: &Origin<'_>,
        encoding: BodyEncoding,
        body: &Bytes,
    ) -> Result<Decoded, DecodeError> {
        if self.rows() >= columns::MAX_ROWS {
            return Err(DecodeError::TooManyRows {
                limit: columns::MAX_ROWS,
            });
        }
        if body.len() > MAX_BODY {
            return Err(DecodeError::TooLarge {
                bytes: body.len(),
                limit: MAX_BODY,
            });
        }
        let transcoded = match encoding {
            BodyEncoding::Protobuf => None,
            BodyEncoding::Json => Some(Bytes::from(json::transcode(self.signal.message(), body)?)),
        };
        let body = transcoded.as_ref().unwrap_or(body);
        if body.len() > MAX_BODY {
            return Err(DecodeError::TooLarge {
                bytes: body.len(),
                limit: MAX_BODY,
            });
        }
        let decoded = match &mut self.rows {
            SignalRows::Spans(rows) => append(rows.as_mut(), origin, body),
            SignalRows::Logs(rows) => append(rows.as_mut(), origin, body),
            SignalRows::Metrics(rows) => append(rows.as_mut(), origin, body),
        };
        decoded.map_err(|cause| DecodeError::Malformed {
            message: self.signal.request(),
            cause,
        })
    }

    /// Rows appended since the last batch.
    pub fn rows(&self) -> usize {
        match &self.rows {
            SignalRows::Spans(rows) => rows.built().columns.rows(),
            SignalRows::Logs(rows) => rows.built().columns.rows(),
            SignalRows::Metrics(rows) => rows.built().columns.rows(),
        }
    }

    /// Finishes the appended rows into one batch of the memory layout.
    pub fn finish(&mut self) -> Result<RecordBatch, DecodeError> {
        let schema = memory_schema(self.signal.stream()).expect("invariant: every signal has a stream");
        let builder = match &mut self.rows {
            SignalRows::Spans(rows) => rows.builder(),
            SignalRows::Logs(rows) => rows.builder(),
            SignalRows::Metrics(rows) => rows.builder(),
        };
        let buffers = builder.text.take();
        builder.forget();
        builder.columns.finish(schema, buffers)
    }
}

/// Appends the rows of a protobuf body, all or none.
fn append<R: Rows>(rows: &mut R, origin: &Origin<'_>, body: &Bytes) -> Result<Decoded, WireError> {
    let before = rows.builder().columns.rows();
    let repaired = rows.builder().text.repaired;
    let admitted = rows.builder().text.admit(body);
    let (view, request) = admitted.body();
    let walked = request::walk(rows, origin, view, request);
    let builder = rows.builder();
    if walked.is_err() {
        builder.columns.truncate(before);
    }
    let added = builder.columns.rows() - before;
    builder.text.release(admitted, added > 0);
    let repaired = builder.text.repaired - repaired;
    walked?;
    let outcome = rows.clock().outcome;
    Ok(Decoded {
        rows: added as u32,
        rejected: outcome.rejected,
        repaired: repaired as u32,
        max_event_time_us: outcome.max_event_time_us,
    })
}

/// Columns of a stream that stay raw bytes in memory.
fn raw_columns(stream: &str) -> u64 {
    match stream {
        "spans" => spans::RAW,
        "logs" => logs::RAW,
        "metrics" => metrics::RAW,
        _ => 0,
    }
}
