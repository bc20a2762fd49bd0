//! What a subscriber of closed windows is not told yet: the rows of windows that are still open.
//!
//! What it has been told after a tick is the view restricted to `window_end ≤ W`, W being the view's watermark at that
//! tick. A change of a closed window passes; others wait, and leave, as their net, when the watermark reaches their
//! window's end. Rows whose `window_end` is NULL never pass.
//!
//! Invariant: what waits adds up to the view's rows with `window_end > W`; what it takes is bounded.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema, TimeUnit, TimestampMicrosecondType};

use crate::plan::WINDOW_END;
use crate::runtime::consolidate::{Changes, consolidate};

/// Bytes of rows that may wait for one subscriber.
pub(super) const MOST_BYTES: usize = 32 << 20;
/// Below this nothing is gained by netting what waits.
const FEW_BYTES: usize = 256 << 10;

/// The column that says when a row's window ends.
pub(super) fn window_end_column(schema: &Schema) -> Option<usize> {
    let column = schema.index_of(WINDOW_END).ok()?;
    let is_time = matches!(
        schema.field(column).data_type(),
        DataType::Timestamp(TimeUnit::Microsecond, _)
    );
    is_time.then_some(column)
}

/// More rows wait than may.
#[derive(Debug)]
pub(super) struct TooMany {
    pub bytes: usize,
    pub most: usize,
}

pub(super) struct OpenWindows {
    column: usize,
    most_bytes: usize,
    /// Rows whose window ends at or before it were told.
    watermark: i64,
    waiting: Vec<Changes>,
    bytes: usize,
    /// What waited when it was last netted.
    netted_bytes: usize,
    /// No window of what waits ends before.
    earliest: i64,
}

impl OpenWindows {
    pub fn new(column: usize, most_bytes: usize) -> OpenWindows {
        OpenWindows {
            column,
            most_bytes,
            watermark: i64::MIN,
            waiting: Vec::new(),
            bytes: 0,
            netted_bytes: 0,
            earliest: i64::MAX,
        }
    }

    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    /// Nothing waits, and windows up to `watermark` are closed.
    pub fn restart(&mut self, watermark: i64) {
        self.watermark = watermark;
        self.waiting.clear();
        (self.bytes, self.netted_bytes, self.earliest) = (0, 0, i64::MAX);
    }

    /// What is to be told of these changes, the watermark having come to `watermark` with them.
    pub fn pass(&mut self, changes: Option<Changes>, watermark: i64) -> Result<Option<Changes>, TooMany> {
        self.watermark = self.watermark.max(watermark);
        let mut closed = Vec::new();
        if self.earliest <= self.watermark {
            let waiting = std::mem::take(&mut self.waiting);
            self.restart(self.watermark);
            if let Some(waiting) = consolidate(&waiting) {
                self.divide(waiting, &mut closed);
            }
            self.netted_bytes = self.bytes;
        }
        if let Some(changes) = changes {
            self.divide(changes, &mut closed);
        }
        if self.bytes > FEW_BYTES.min(self.most_bytes) && self.bytes > 2 * self.netted_bytes
            || self.bytes > self.most_bytes
        {
            self.net();
        }
        if self.bytes > self.most_bytes {
            return Err(TooMany {
                bytes: self.bytes,
                most: self.most_bytes,
            });
        }
        Ok(match closed.len() {
            0 | 1 => closed.pop(),
            _ => consolidate(&closed),
        })
    }

    fn divide(&mut self, changes: Changes, closed: &mut Vec<Changes>) {
        let ends = changes
            .batch
            .column(self.column)
            .as_primitive::<TimestampMicrosecondType>();
        let is_closed: BooleanArray = ends
            .iter()
            .map(|end| Some(end.is_some_and(|end| end <= self.watermark)))
            .collect();
        let is_open: BooleanArray = ends
            .iter()
            .map(|end| Some(end.is_some_and(|end| end > self.watermark)))
            .collect();
        let earliest = ends.iter().flatten().filter(|end| *end > self.watermark).min();
        if let Some(earliest) = earliest {
            self.earliest = self.earliest.min(earliest);
            self.wait(kept(&changes, &is_open));
        }
        if is_closed.true_count() > 0 {
            closed.push(kept(&changes, &is_closed));
        }
    }

    fn wait(&mut self, changes: Changes) {
        self.bytes += changes.approximate_bytes();
        self.waiting.push(changes);
    }

    fn net(&mut self) {
        let netted = consolidate(&std::mem::take(&mut self.waiting));
        self.bytes = 0;
        if let Some(changes) = netted {
            self.wait(compacted(changes));
        }
        self.netted_bytes = self.bytes;
    }
}

fn kept(changes: &Changes, mask: &BooleanArray) -> Changes {
    let diffs = changes.diffs.iter().zip(mask.values());
    Changes {
        diffs: diffs.filter(|(_, keep)| *keep).map(|(diff, _)| *diff).collect(),
        batch: filter_record_batch(&changes.batch, mask).expect("invariant: mask and batch are equally long"),
    }
}

/// Texts of rows that are gone no longer hold memory.
fn compacted(changes: Changes) -> Changes {
    let columns = changes.batch.columns().iter();
    let columns = columns
        .map(|column| match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()) as ArrayRef,
            _ => Arc::clone(column),
        })
        .collect();
    Changes {
        batch: RecordBatch::try_new(changes.batch.schema(), columns).expect("invariant: same columns"),
        diffs: changes.diffs,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;

    type Row = (Option<i64>, i64);

    fn changes(rows: &[(Row, i64)]) -> Option<Changes> {
        if rows.is_empty() {
            return None;
        }
        let ends: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter(
            rows.iter().map(|((end, _), _)| *end),
        ));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|((_, v), _)| *v)));
        let batch = RecordBatch::try_from_iter_with_nullable([(WINDOW_END, ends, true), ("v", values, true)]);
        Some(Changes {
            batch: batch.unwrap(),
            diffs: rows.iter().map(|(_, diff)| *diff).collect(),
        })
    }

    fn add(content: &mut BTreeMap<Row, i64>, changes: Option<&Changes>) {
        let Some(Changes { batch, diffs }) = changes else {
            return;
        };
        let ends = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let values = batch.column(1).as_any().downcast_ref::<Int64Array>().unwrap();
        for (index, (end, diff)) in ends.iter().zip(diffs).enumerate() {
            *content.entry((end, values.value(index))).or_default() += diff;
        }
        content.retain(|_, count| *count != 0);
    }

    proptest! {
        /// After every tick what was told is the view restricted to closed windows, late changes and marks that stand
        /// still included.
        #[test]
        fn what_was_told_is_the_restriction(
            ticks in prop::collection::vec(
                (prop::collection::vec(((prop::option::weighted(0.9, 0i64..40), 0i64..3), -2i64..3), 0..8), 0i64..4),
                1..40
            )
        ) {
            let mut windows = OpenWindows::new(0, usize::MAX);
            let (mut view, mut told, mut watermark) = (BTreeMap::new(), BTreeMap::new(), 0);
            for (rows, step) in ticks {
                watermark += step;
                let tick = changes(&rows);
                add(&mut view, tick.as_ref());
                let passed = windows.pass(tick, watermark).unwrap();
                add(&mut told, passed.as_ref());
                let mut expected = view.clone();
                expected.retain(|(end, _), _| end.is_some_and(|end| end <= watermark));
                prop_assert_eq!(&told, &expected);
            }
        }
    }

    #[test]
    fn what_waits_is_netted_and_bounded() {
        let mut windows = OpenWindows::new(0, 1 << 20);
        // The same rows come and go: nothing of that adds up.
        for number in 0..2_000 {
            let rows: Vec<(Row, i64)> = (0..50)
                .map(|v| ((Some(1_000), v), if number % 2 == 0 { 1 } else { -1 }))
                .collect();
            assert!(windows.pass(changes(&rows), 0).unwrap().is_none());
        }
        let mut refused = None;
        for number in 0..2_000 {
            let rows: Vec<(Row, i64)> = (0..50).map(|v| ((Some(1_000), number * 50 + v), 1)).collect();
            if let Err(too_many) = windows.pass(changes(&rows), 0) {
                refused = Some((number, too_many));
                break;
            }
        }
        let (after, too_many) = refused.unwrap();
        // 24 bytes a row: a little below 44,000 of them fit.
        assert!((400..1_000).contains(&after), "{after}: {too_many:?}");
        assert!(too_many.bytes > too_many.most);
    }

    #[test]
    fn only_a_time_ends_a_window() {
        let schema = |data_type| {
            Schema::new(vec![
                arrow::datatypes::Field::new("n", DataType::Int64, true),
                arrow::datatypes::Field::new(WINDOW_END, data_type, true),
            ])
        };
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(window_end_column(&schema(utc)), Some(1));
        assert_eq!(window_end_column(&schema(DataType::Int64)), None);
        assert_eq!(window_end_column(&Schema::empty()), None);
    }
}
