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
mod error;
mod leftovers;
mod memo;
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

use std::borrow::Cow;

use arrow::array::RecordBatch;
use bytes::Bytes;

pub use error::{DecodeError, WireError};
pub use select::{memory_schema, select};
pub use verify::{Checked, check};

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
}

/// Longest body a decoder takes: what a view can address.
pub const MAX_BODY: usize = i32::MAX as usize;

/// Decodes bodies of one signal into batches. Reusable: one per worker and signal.
pub struct Decoder {
    signal: OtlpSignal,
    rows: SpanRows,
}

impl Decoder {
    /// A decoder for this signal.
    pub fn new(signal: OtlpSignal) -> Decoder {
        Decoder {
            signal,
            rows: SpanRows::new(),
        }
    }

    /// Appends a body's rows. On an error nothing of the body is kept.
    pub fn decode(
        &mut self,
        origin: &Origin<'_>,
        encoding: BodyEncoding,
        body: &Bytes,
    ) -> Result<Decoded, DecodeError> {
        let body = protobuf(self.signal, encoding, body)?;
        let before = self.rows.builder().columns.rows();
        if before >= columns::MAX_ROWS {
            return Err(DecodeError::TooManyRows {
                limit: columns::MAX_ROWS,
            });
        }
        let repaired = self.rows.builder().text.repaired;
        let tick_us = i64::try_from(origin.tick)
            .ok()
            .and_then(|tick| tick.checked_mul(1000))
            .unwrap_or(i64::MAX);
        self.rows.begin(origin.received_us, tick_us);
        let admitted = self.rows.builder().text.admit(&body);
        let (view, request) = admitted.body();
        let walked = request::walk(&mut self.rows, origin, view, request);
        let builder = self.rows.builder();
        let rows = builder.columns.rows() - before;
        if walked.is_err() {
            builder.columns.truncate(before);
        }
        builder.text.release(admitted, walked.is_ok() && rows > 0);
        walked.map_err(|cause| DecodeError::Malformed {
            message: self.signal.request(),
            cause,
        })?;
        let outcome = self.rows.outcome;
        Ok(Decoded {
            rows: rows as u32,
            rejected: outcome.rejected,
            repaired: (self.rows.builder().text.repaired - repaired) as u32,
            max_event_time_us: outcome.max_event_time_us,
        })
    }

    /// Rows appended since the last batch.
    pub fn rows(&self) -> usize {
        self.rows.built().columns.rows()
    }

    /// Finishes the appended rows into one batch of the memory layout.
    pub fn finish(&mut self) -> Result<RecordBatch, DecodeError> {
        let schema = memory_schema(self.signal.stream()).expect("invariant: every signal has a stream");
        let builder = self.rows.builder();
        let buffers = builder.text.take();
        builder.forget();
        builder.columns.finish(schema, buffers)
    }
}

/// Columns of a stream that stay raw bytes in memory.
fn raw_columns(stream: &str) -> u64 {
    match stream {
        "spans" => spans::RAW,
        _ => 0,
    }
}

/// A body as protobuf.
fn protobuf<'a>(
    signal: OtlpSignal,
    encoding: BodyEncoding,
    body: &'a Bytes,
) -> Result<Cow<'a, Bytes>, DecodeError> {
    if body.len() > MAX_BODY {
        return Err(DecodeError::TooLarge {
            bytes: body.len(),
            limit: MAX_BODY,
        });
    }
    let _ = signal;
    match encoding {
        BodyEncoding::Protobuf => Ok(Cow::Borrowed(body)),
        BodyEncoding::Json => Err(DecodeError::Json {
            detail: String::new(),
        }),
    }
}
