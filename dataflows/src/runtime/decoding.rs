//! Request bodies into batches, on one worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::TimestampMicrosecondType;
use pyflare_connectors::{ContentType, Signal};
use pyflare_operators::decode::{self, BodyEncoding, Decoder, Origin, OtlpSignal};
use pyflare_operators::streams::{FUTURE_LIMIT_US, RowDecoder, RowEncoding};

use super::messages::{AdmittedRequest, DecodeSummary};
use super::streams::{InstalledStream, KEPT_REJECTIONS, Marks, Rejection, StreamId};
use super::worker_base::DecodedBatch;
use crate::time::{Tick, tick_us};

/// Rows of one decoded batch: large enough for vectorised evaluation, small enough for the cache.
const BATCH_ROWS: usize = 8_192;

/// The decoders of all streams, and what they made of the tick at hand.
pub(super) struct Decoding {
    signals: [StreamDecoder; 3],
    users: BTreeMap<u64, StreamDecoder>,
    pub batches: Vec<DecodedBatch>,
}

/// What decodes one stream.
struct StreamDecoder {
    stream: StreamId,
    rows: Rows,
    /// Bytes of the bodies whose rows are in no batch yet.
    pending_bytes: u64,
}

enum Rows {
    Otlp(Box<Decoder>),
    User {
        stream: Arc<InstalledStream>,
        decoder: Box<RowDecoder>,
    },
}

impl Decoding {
    pub fn new() -> Decoding {
        let signals = [
            (Signal::Traces, OtlpSignal::Traces),
            (Signal::Metrics, OtlpSignal::Metrics),
            (Signal::Logs, OtlpSignal::Logs),
        ];
        Decoding {
            signals: signals.map(|(signal, of)| StreamDecoder {
                stream: StreamId::Signal(signal),
                rows: Rows::Otlp(Box::new(Decoder::new(of))),
                pending_bytes: 0,
            }),
            users: BTreeMap::new(),
            batches: Vec::new(),
        }
    }

    /// Requests of later ticks may be of this stream.
    pub fn add(&mut self, stream: &Arc<InstalledStream>) {
        let decoder = Box::new(RowDecoder::new(Arc::clone(&stream.definition)));
        self.users.insert(
            stream.id,
            StreamDecoder {
                stream: StreamId::User(stream.id),
                rows: Rows::User {
                    stream: Arc::clone(stream),
                    decoder,
                },
                pending_bytes: 0,
            },
        );
    }

    pub fn remove(&mut self, stream: u64) {
        self.users.remove(&stream);
    }

    /// Decodes a worker's share of a tick into [`Decoding::batches`].
    pub fn decode(&mut self, tick: Tick, marks: &Marks, requests: Vec<AdmittedRequest>) -> DecodeSummary {
        let mut summary = DecodeSummary::default();
        for request in requests {
            let decoder = match request.stream {
                StreamId::Signal(Signal::Traces) => Some(&mut self.signals[0]),
                StreamId::Signal(Signal::Metrics) => Some(&mut self.signals[1]),
                StreamId::Signal(Signal::Logs) => Some(&mut self.signals[2]),
                StreamId::Signal(Signal::Streams) => None,
                StreamId::User(id) => self.users.get_mut(&id),
            };
            let Some(decoder) = decoder else {
                summary.fail("a request of a stream that is not there");
                continue;
            };
            decoder.decode(tick, marks, &request, &mut summary);
            if decoder.rows() >= BATCH_ROWS {
                decoder.finish(tick, &mut self.batches, &mut summary);
            }
        }
        for decoder in self.signals.iter_mut().chain(self.users.values_mut()) {
            decoder.finish(tick, &mut self.batches, &mut summary);
        }
        summary
    }
}

impl StreamDecoder {
    fn decode(&mut self, tick: Tick, marks: &Marks, request: &AdmittedRequest, summary: &mut DecodeSummary) {
        let record = &request.record;
        let origin = Origin {
            project: &record.project,
            received_us: record.received_us,
            tick,
            mark_us: marks.of(self.stream),
            partition: request.partition,
            offset: request.offset,
        };
        let (rows, rejected, latest) = match &mut self.rows {
            Rows::Otlp(decoder) => {
                let encoding = match record.content_type {
                    ContentType::Json => BodyEncoding::Json,
                    _ => BodyEncoding::Protobuf,
                };
                match decoder.decode(&origin, encoding, &record.body) {
                    Ok(decoded) => (decoded.rows, decoded.rejected, decoded.max_event_time_us),
                    Err(error) => return summary.fail(error),
                }
            }
            Rows::User { decoder, .. } => {
                let encoding = match record.content_type {
                    ContentType::ArrowStream => RowEncoding::Arrow,
                    ContentType::Json => RowEncoding::Json,
                    _ => RowEncoding::NdJson,
                };
                let rejection = |row, code, detail| Rejection {
                    tick,
                    partition: request.partition,
                    offset: request.offset,
                    row,
                    code,
                    detail,
                };
                match decoder.decode(&origin, encoding, &record.body) {
                    Ok(admitted) => {
                        for row in admitted.rejected {
                            summary.reject(self.stream, rejection(Some(row.row), row.code, row.detail));
                        }
                        (admitted.rows, admitted.rejected_rows, admitted.max_event_time_us)
                    }
                    Err(error) => {
                        summary.reject(self.stream, rejection(None, error.code(), error.to_string()));
                        summary.rows.entry(self.stream).or_default().unreadable += 1;
                        // It is shown with the stream. A topic may be full of such messages.
                        summary.failed_requests += 1;
                        return;
                    }
                }
            }
        };
        let counts = summary.rows.entry(self.stream).or_default();
        counts.admitted += u64::from(rows);
        counts.rejected += u64::from(rejected);
        summary.rejected_rows += u64::from(rejected);
        if let Some(latest) = latest {
            summary.observe(self.stream, request.partition, latest);
        }
        self.pending_bytes += record.body.len() as u64;
    }

    fn rows(&self) -> usize {
        match &self.rows {
            Rows::Otlp(decoder) => decoder.rows(),
            Rows::User { decoder, .. } => decoder.rows(),
        }
    }

    fn finish(&mut self, tick: Tick, into: &mut Vec<DecodedBatch>, summary: &mut DecodeSummary) {
        if self.rows() == 0 {
            return;
        }
        let mut bytes = std::mem::take(&mut self.pending_bytes);
        let stream = self.stream;
        let mut push = |batch: RecordBatch, in_views: bool| {
            if batch.num_rows() > 0 {
                into.push(DecodedBatch {
                    stream,
                    batch,
                    bytes: std::mem::take(&mut bytes),
                    in_views,
                });
            }
        };
        match &mut self.rows {
            Rows::Otlp(decoder) => match decoder.finish() {
                Ok(batch) => decode::bounded(&batch)
                    .into_iter()
                    .for_each(|batch| push(batch, true)),
                Err(error) => summary.fail(error),
            },
            Rows::User { stream, decoder } => {
                let time = stream.definition.time_column();
                for batch in decoder.finish() {
                    let future = ahead(&batch, time, tick);
                    if future.true_count() == 0 {
                        push(batch, true);
                        continue;
                    }
                    let kept = |mask: &BooleanArray| {
                        filter_record_batch(&batch, mask).expect("invariant: one truth for each row")
                    };
                    let counts = summary.rows.entry(StreamId::User(stream.id)).or_default();
                    counts.future += future.true_count() as u64;
                    push(kept(&not(&future).expect("invariant: negation of truths")), true);
                    push(kept(&future), false);
                }
            }
        }
    }
}

/// Which rows are too far ahead of their tick to be in views.
pub(super) fn ahead(batch: &RecordBatch, time: &str, tick: Tick) -> BooleanArray {
    let latest = tick_us(tick).saturating_add(FUTURE_LIMIT_US);
    let times = batch[time].as_primitive::<TimestampMicrosecondType>();
    BooleanArray::from_unary(times, |time| time > latest)
}

impl DecodeSummary {
    /// Adds what another worker found.
    pub(super) fn merge(&mut self, other: DecodeSummary) {
        self.max_event_time.extend(other.max_event_time);
        for (stream, counts) in other.rows {
            let total = self.rows.entry(stream).or_default();
            total.admitted += counts.admitted;
            total.rejected += counts.rejected;
            total.future += counts.future;
            total.unreadable += counts.unreadable;
        }
        self.rejections.extend(other.rejections);
        self.rejected_rows += other.rejected_rows;
        self.failed_requests += other.failed_requests;
        if self.failure_sample.is_none() {
            self.failure_sample = other.failure_sample;
        }
    }

    pub(super) fn fail(&mut self, error: impl std::fmt::Display) {
        self.failed_requests += 1;
        self.failure_sample.get_or_insert_with(|| error.to_string());
    }

    fn reject(&mut self, stream: StreamId, rejection: Rejection) {
        if self.rejections.len() < KEPT_REJECTIONS {
            self.rejections.push((stream, rejection));
        }
    }

    fn observe(&mut self, stream: StreamId, partition: u32, event_time_us: i64) {
        let held = self
            .max_event_time
            .iter_mut()
            .find(|(s, p, _)| (*s, *p) == (stream, partition));
        match held {
            Some((.., latest)) => *latest = (*latest).max(event_time_us),
            None => self.max_event_time.push((stream, partition, event_time_us)),
        }
    }
}
