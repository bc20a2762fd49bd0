//! Rows out of request bodies, NDJSON or Arrow.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use super::arrow_rows::ArrowReader;
use super::cells::Cells;
use super::definition::StreamDefinition;
use super::json_rows;
use crate::decode::Origin;

/// Rows whose event time is further ahead of their tick than this, in microseconds, are stored but in no view.
pub const FUTURE_LIMIT_US: i64 = 60_000_000;
/// Rejected rows that are told one by one.
const TOLD: usize = 100;
/// Most rows of one request.
const MOST_ROWS: usize = 16 << 20;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowEncoding {
    /// One JSON object a line, `application/x-ndjson`.
    NdJson,
    /// The same, or one JSON object over any number of lines.
    Json,
    /// An Arrow IPC stream, `application/vnd.apache.arrow.stream`.
    Arrow,
}

/// Why a whole body is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("PF-1201: the body is not an Arrow IPC stream: {detail}")]
    NotArrow { detail: String },
    #[error("PF-1202: the Arrow stream does not fit the declaration: {detail}")]
    Columns { detail: String },
    #[error("PF-1203: the body has more than {limit} rows; send it in parts")]
    TooManyRows { limit: usize },
    #[error("PF-1204: the texts of the body come to more than {limit} bytes; send it in parts")]
    TooMuchText { limit: usize },
}

impl StreamError {
    /// The stable code, such as `PF-1201`.
    pub fn code(&self) -> &'static str {
        match self {
            StreamError::NotArrow { .. } => "PF-1201",
            StreamError::Columns { .. } => "PF-1202",
            StreamError::TooManyRows { .. } => "PF-1203",
            StreamError::TooMuchText { .. } => "PF-1204",
        }
    }
}

/// A row that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its number in the body, from 0; blank lines are not rows.
    pub row: u32,
    /// `PF-1210` not a JSON object, `PF-1211` a column that is not declared, `PF-1212` a value that does not fit,
    /// `PF-1213` a required value is missing.
    pub code: &'static str,
    pub detail: String,
}

/// What a body came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    pub rows: u32,
    pub rejected_rows: u32,
    /// The first hundred of them.
    pub rejected: Vec<Rejected>,
    /// The latest event time of the rows, microseconds.
    pub max_event_time_us: Option<i64>,
}

impl Admitted {
    pub(super) fn reject(&mut self, row: u32, code: &'static str, detail: impl FnOnce() -> String) {
        self.rejected_rows += 1;
        if self.rejected.len() < TOLD {
            self.rejected.push(Rejected {
                row,
                code,
                detail: detail(),
            });
        }
    }

    pub(super) fn accept(&mut self, event_time_us: i64) {
        self.rows += 1;
        self.max_event_time_us = self.max_event_time_us.max(Some(event_time_us));
    }
}

/// Where the rows of a stretch came from.
struct Stretch {
    rows: usize,
    project: Arc<str>,
    received_us: i64,
    tick: i64,
    mark_us: Option<i64>,
    partition: i32,
    offset: i64,
}

/// Decodes bodies of one stream into batches. Reusable: one per worker and stream.
pub struct RowDecoder {
    definition: Arc<StreamDefinition>,
    schema: SchemaRef,
    /// Rows of NDJSON that are in no batch yet.
    cells: Cells,
    stretches: Vec<Stretch>,
    numbers: Vec<i32>,
    done: Vec<RecordBatch>,
}

impl RowDecoder {
    pub fn new(definition: Arc<StreamDefinition>) -> RowDecoder {
        RowDecoder {
            schema: definition.schema(),
            cells: Cells::new(&definition),
            definition,
            stretches: Vec::new(),
            numbers: Vec::new(),
            done: Vec::new(),
        }
    }

    /// What a body would come to; nothing is kept of it.
    pub fn check(
        definition: &Arc<StreamDefinition>,
        encoding: RowEncoding,
        body: &Bytes,
    ) -> Result<Admitted, StreamError> {
        let origin = Origin {
            project: &definition.project,
            received_us: 0,
            tick: 0,
            mark_us: None,
            partition: 0,
            offset: 0,
        };
        RowDecoder::new(Arc::clone(definition)).decode(&origin, encoding, body)
    }

    /// Appends a body's rows. On an error nothing of the body is kept.
    pub fn decode(
        &mut self,
        origin: &Origin<'_>,
        encoding: RowEncoding,
        body: &Bytes,
    ) -> Result<Admitted, StreamError> {
        let mut admitted = Admitted::default();
        match encoding {
            RowEncoding::NdJson | RowEncoding::Json => {
                let is_one = encoding == RowEncoding::Json && json_rows::is_one_object(body);
                let (before, mut numbers) = (self.cells.rows(), Vec::new());
                let read = json_rows::read(
                    &self.definition,
                    body,
                    is_one,
                    origin.received_us,
                    MOST_ROWS,
                    &mut self.cells,
                    &mut numbers,
                    &mut admitted,
                );
                if let Err(error) = read {
                    self.cells.truncate(before);
                    return Err(error);
                }
                if admitted.rows > 0 {
                    self.stretches.push(Stretch::of(origin, admitted.rows as usize));
                    self.numbers.extend(numbers);
                }
            }
            RowEncoding::Arrow => {
                // Rows keep the order in which they came.
                self.close();
                let read = ArrowReader::new(&self.definition, origin.received_us, MOST_ROWS)
                    .read(body, &mut admitted)?;
                for (columns, numbers) in read {
                    let stretch = [Stretch::of(origin, numbers.len())];
                    self.done.push(self.batch(columns, &stretch, numbers));
                }
            }
        }
        Ok(admitted)
    }

    /// Rows appended since the last [`RowDecoder::finish`].
    pub fn rows(&self) -> usize {
        self.cells.rows() + self.done.iter().map(RecordBatch::num_rows).sum::<usize>()
    }

    /// The rows appended, in the stream's schema.
    pub fn finish(&mut self) -> Vec<RecordBatch> {
        self.close();
        std::mem::take(&mut self.done)
    }

    fn close(&mut self) {
        if self.cells.rows() == 0 {
            return;
        }
        let columns = self.cells.take();
        let stretches = std::mem::take(&mut self.stretches);
        let numbers = std::mem::take(&mut self.numbers);
        let batch = self.batch(columns, &stretches, numbers);
        self.done.push(batch);
    }

    /// Puts the project, the time received and the origin around declared columns.
    fn batch(&self, declared: Vec<ArrayRef>, stretches: &[Stretch], numbers: Vec<i32>) -> RecordBatch {
        fn each<'a, T: Clone + 'a>(
            stretches: &'a [Stretch],
            value: impl Fn(&'a Stretch) -> T + 'a,
        ) -> impl Iterator<Item = T> + 'a {
            stretches
                .iter()
                .flat_map(move |stretch| std::iter::repeat_n(value(stretch), stretch.rows))
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        columns.push(Arc::new(StringViewArray::from_iter_values(each(
            stretches,
            |stretch| Arc::clone(&stretch.project),
        ))));
        columns.extend(declared);
        if self.definition.time.is_none() {
            let times = TimestampMicrosecondArray::from_iter_values(each(stretches, |of| of.received_us));
            columns.push(Arc::new(times.with_timezone("UTC")));
        }
        columns.push(Arc::new(Int64Array::from_iter_values(each(stretches, |of| {
            of.tick
        }))));
        columns.push(Arc::new(Int64Array::from_iter(each(stretches, |of| of.mark_us))));
        columns.push(Arc::new(Int32Array::from_iter_values(each(stretches, |of| {
            of.partition
        }))));
        columns.push(Arc::new(Int64Array::from_iter_values(each(stretches, |of| {
            of.offset
        }))));
        columns.push(Arc::new(Int32Array::from(numbers)));
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .expect("invariant: the columns are made by the declaration")
    }
}

impl Stretch {
    fn of(origin: &Origin<'_>, rows: usize) -> Stretch {
        Stretch {
            rows,
            project: Arc::from(origin.project),
            received_us: origin.received_us,
            tick: i64::try_from(origin.tick).unwrap_or(i64::MAX),
            mark_us: origin.mark_us,
            partition: i32::try_from(origin.partition).unwrap_or(i32::MAX),
            offset: i64::try_from(origin.offset).unwrap_or(i64::MAX),
        }
    }
}
