//! Net changes: equal rows meet and their differences add up.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use parking_lot::Mutex;

use crate::time::{Tick, tick_us};

pub(crate) const TICK_COLUMN: &str = "_tick";
pub(crate) const DIFF_COLUMN: &str = "_diff";

/// Rows with the difference of each.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    pub batch: RecordBatch,
    pub diffs: Vec<i64>,
}

impl Changes {
    pub fn negated(mut self) -> Changes {
        self.diffs.iter_mut().for_each(|diff| *diff = -*diff);
        self
    }

    /// Without the texts of rows that are not in it.
    pub fn compacted(mut self) -> Changes {
        let compact = |column: &ArrayRef| match column.as_string_view_opt() {
            Some(texts) => Arc::new(texts.gc()) as ArrayRef,
            None => Arc::clone(column),
        };
        let columns = self.batch.columns().iter().map(compact).collect();
        self.batch = RecordBatch::try_new(self.batch.schema(), columns).expect("invariant: the same values");
        self
    }

    pub fn approximate_bytes(&self) -> usize {
        self.batch.get_array_memory_size() + self.diffs.len() * 8
    }
}

/// What one tick changed in a view. Its net is computed when somebody looks: most views have no subscriber, and a flush
/// nets many ticks at once.
#[derive(Clone)]
pub(crate) struct TickChanges(Arc<Lazy>);

struct Lazy {
    state: Mutex<State>,
    rows: i64,
    updates: u64,
    bytes: usize,
}

enum State {
    Parts(Vec<Changes>),
    Net(Option<Changes>),
}

impl TickChanges {
    pub fn new(parts: Vec<Changes>) -> TickChanges {
        TickChanges(Arc::new(Lazy {
            rows: parts.iter().flat_map(|part| &part.diffs).sum(),
            updates: parts
                .iter()
                .flat_map(|part| &part.diffs)
                .map(|diff| diff.unsigned_abs())
                .sum(),
            bytes: parts.iter().map(Changes::approximate_bytes).sum(),
            state: Mutex::new(State::Parts(parts)),
        }))
    }

    /// The net; `None` if nothing remains.
    pub fn net(&self) -> Option<Changes> {
        let mut state = self.0.state.lock();
        if let State::Parts(parts) = &*state {
            *state = State::Net(consolidate(parts));
        }
        match &*state {
            State::Net(net) => net.clone(),
            State::Parts(_) => unreachable!("invariant: they were just netted"),
        }
    }

    /// Changes that add up to the net.
    pub fn parts(&self) -> Vec<Changes> {
        match &*self.0.state.lock() {
            State::Parts(parts) => parts.clone(),
            State::Net(net) => net.iter().cloned().collect(),
        }
    }

    /// By how many rows the view grew.
    pub fn rows(&self) -> i64 {
        self.0.rows
    }

    /// Rows that came and rows that went, before they were netted.
    pub fn updates(&self) -> u64 {
        self.0.updates
    }

    /// What it took before it was netted.
    pub fn approximate_bytes(&self) -> usize {
        self.0.bytes
    }
}

/// The net of several changes of one view, in row order; `None` if nothing remains.
pub(crate) fn consolidate(parts: &[Changes]) -> Option<Changes> {
    let schema = parts.first()?.batch.schema();
    let fields = schema
        .fields()
        .iter()
        .map(|field| SortField::new(field.data_type().clone()))
        .collect();
    let converter = RowConverter::new(fields).expect("invariant: a view's columns were keys or aggregates");
    let converted: Vec<Rows> = parts
        .iter()
        .map(|changes| {
            converter
                .convert_columns(changes.batch.columns())
                .expect("invariant: one schema per view")
        })
        .collect();
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(converted.iter().map(Rows::num_rows).sum());
    for (part, rows) in converted.iter().enumerate() {
        places.extend((0..rows.num_rows()).map(|index| (part, index)));
    }
    let row = |(part, index): (usize, usize)| converted[part].row(index);
    // Equal rows become neighbours; the first of them, by its place, stands for all.
    places.sort_unstable_by(|left, right| row(*left).cmp(&row(*right)).then(left.cmp(right)));
    let mut diffs: Vec<i64> = Vec::with_capacity(places.len());
    let mut kept = 0;
    for next in 0..places.len() {
        let (part, index) = places[next];
        let diff = parts[part].diffs[index];
        match diffs.last_mut() {
            Some(last) if row(places[kept - 1]) == row(places[next]) => *last += diff,
            _ => {
                // What came before and adds up to nothing gives its place away.
                if diffs.last() == Some(&0) {
                    diffs.pop();
                    kept -= 1;
                }
                diffs.push(diff);
                places[kept] = (part, index);
                kept += 1;
            }
        }
    }
    if diffs.last() == Some(&0) {
        diffs.pop();
        kept -= 1;
    }
    if kept == 0 {
        return None;
    }
    places.truncate(kept);
    let columns: Vec<ArrayRef> = (0..schema.fields().len())
        .map(|column| {
            let arrays: Vec<&dyn Array> = parts
                .iter()
                .map(|part| part.batch.column(column).as_ref())
                .collect();
            interleave(&arrays, &places).expect("invariant: one type per column")
        })
        .collect();
    let batch = RecordBatch::try_new(schema, columns).expect("invariant: one schema per view");
    Some(Changes { batch, diffs })
}

/// The schema of `<view>_changes`: the view's columns, the tick and the difference.
pub(crate) fn changes_schema(view: &Schema) -> SchemaRef {
    let mut fields: Vec<Field> = view
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    fields.push(Field::new(TICK_COLUMN, DataType::Int64, false));
    fields.push(Field::new(DIFF_COLUMN, DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

/// The rows of `<view>_changes`.
pub(crate) fn with_tick_and_diff(changes: &Changes, tick: Tick) -> RecordBatch {
    let rows = changes.batch.num_rows();
    let mut columns = changes.batch.columns().to_vec();
    columns.push(Arc::new(Int64Array::from(vec![tick_us(tick) / 1_000; rows])));
    columns.push(Arc::new(Int64Array::from(changes.diffs.clone())));
    RecordBatch::try_new(changes_schema(changes.batch.schema_ref()), columns)
        .expect("invariant: two columns were added")
}

/// Rows repeated as often as their multiplicity says.
pub(crate) fn repeated(changes: Changes) -> RecordBatch {
    if changes.diffs.iter().all(|diff| *diff == 1) {
        return changes.batch;
    }
    let indices: UInt32Array = changes
        .diffs
        .iter()
        .enumerate()
        .flat_map(|(row, diff)| std::iter::repeat_n(row as u32, (*diff).max(0) as usize))
        .collect();
    let columns: Vec<ArrayRef> = changes
        .batch
        .columns()
        .iter()
        .map(|column| take(column, &indices, None).expect("invariant: indices lie within the batch"))
        .collect();
    RecordBatch::try_new(changes.batch.schema(), columns).expect("invariant: same schema")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn changes(values: &[i64], diffs: &[i64]) -> Changes {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        Changes {
            batch: RecordBatch::try_from_iter([("v", column)]).unwrap(),
            diffs: diffs.to_vec(),
        }
    }

    #[test]
    fn equal_rows_cancel_and_the_rest_is_sorted() {
        let net = consolidate(&[changes(&[3, 1, 2], &[1, 1, 1]), changes(&[1, 2], &[-1, 1])]).unwrap();
        assert_eq!(
            net.batch.column(0).as_ref(),
            &Int64Array::from(vec![2, 3]) as &dyn Array
        );
        assert_eq!(net.diffs, vec![2, 1]);
        assert!(consolidate(&[changes(&[1], &[1]), changes(&[1], &[-1])]).is_none());
    }
    proptest::proptest! {
        #[test]
        fn the_net_is_that_of_a_map(parts in proptest::collection::vec(proptest::collection::vec((0_i64..6, -2_i64..3), 0..12), 1..5)) {
            let mut wanted = std::collections::BTreeMap::new();
            for (value, diff) in parts.iter().flatten() {
                *wanted.entry(*value).or_insert(0) += diff;
            }
            wanted.retain(|_, diff| *diff != 0);
            let parts: Vec<Changes> = parts
                .iter()
                .map(|part| {
                    let (values, diffs): (Vec<i64>, Vec<i64>) = part.iter().copied().unzip();
                    changes(&values, &diffs)
                })
                .collect();
            let net = consolidate(&parts).map_or_else(Vec::new, |net| {
                let values = net.batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().clone();
                values.values().iter().copied().zip(net.diffs).collect()
            });
            proptest::prop_assert_eq!(net, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}
