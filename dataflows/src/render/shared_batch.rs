//! What all bases that are fed with one decoded batch have in common, computed once.
//!
//! Hundreds of monitors over one stream ask for the same columns, filter by the same conditions and group by the same
//! keys. So columns, the rows that fulfil conditions, panes and encoded keys are kept while the batch is being folded,
//! each under what it was made from: a name, the condition as it stands in the plan, the very arrays.
//!
//! Invariant: what is handed out is a function of the batch and of what is asked for, whoever asked first.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::row::{RowConverter, Rows};
use datafusion::physical_expr::PhysicalExpr;
use pyflare_operators::aggregate::Numbering;
use pyflare_operators::decode;

use super::pipeline::batch_of;
use crate::time::window_start;

/// Different groupings remembered for a batch; monitors beyond that encode for themselves.
const GROUPINGS: usize = 64;

/// A condition, with what tells it from others.
pub(crate) struct Condition {
    pub text: String,
    pub compiled: Arc<dyn PhysicalExpr>,
}

/// Rows of a batch, ascending.
#[derive(Clone)]
pub(crate) enum Chosen {
    All,
    Rows(Arc<Vec<u32>>),
}

/// The windows, or sliding panes, that the rows of a batch are in.
pub(crate) struct PaneColumns {
    time: ArrayRef,
    pane_us: i64,
    pub starts: ArrayRef,
    pub ends: ArrayRef,
    /// The ends again, as numbers: the pane of each row.
    pub panes: ArrayRef,
    /// The least of them.
    pub lowest: i64,
}

/// The encoded keys of a batch.
pub(crate) struct Grouping {
    arrays: Vec<ArrayRef>,
    pub rows: Rows,
}

struct KnownGrouping {
    grouping: Arc<Grouping>,
    /// From the second time on that somebody asks.
    numbering: Option<Arc<Numbering>>,
}

/// See the module.
pub(crate) struct SharedBatch<'a> {
    batch: &'a RecordBatch,
    /// The name of a stream that the decoder makes; its maps are made when they are asked for.
    decoded_as: Option<&'static str>,
    columns: HashMap<String, ArrayRef>,
    chosen: HashMap<String, Option<Chosen>>,
    panes: Vec<Arc<PaneColumns>>,
    groupings: Vec<KnownGrouping>,
}

impl<'a> SharedBatch<'a> {
    pub fn new(batch: &'a RecordBatch, decoded_as: Option<&'static str>) -> SharedBatch<'a> {
        SharedBatch {
            batch,
            decoded_as,
            columns: HashMap::new(),
            chosen: HashMap::new(),
            panes: Vec::new(),
            groupings: Vec::new(),
        }
    }

    pub fn column(&mut self, name: &str) -> ArrayRef {
        if let Some(known) = self.columns.get(name) {
            return Arc::clone(known);
        }
        let column = match self.decoded_as {
            Some(stream) => {
                let selected = decode::select(stream, self.batch, &[name])
                    .expect("invariant: the decoder made this batch");
                Arc::clone(selected.column(0))
            }
            None => Arc::clone(
                self.batch
                    .column_by_name(name)
                    .expect("invariant: a base over a stream was checked against its declaration"),
            ),
        };
        self.columns.insert(name.to_string(), Arc::clone(&column));
        column
    }

    pub fn select(&mut self, columns: &[String], schema: &SchemaRef) -> RecordBatch {
        let arrays = columns.iter().map(|column| self.column(column)).collect();
        batch_of(schema, arrays, self.batch.num_rows())
    }

    /// The rows that fulfil all conditions; `None` if one of them fails on a row.
    pub fn chosen(&mut self, text: &str, conditions: &[Condition], source: &RecordBatch) -> Option<Chosen> {
        if let Some(known) = self.chosen.get(text) {
            return known.clone();
        }
        let chosen = choose(conditions, source);
        self.chosen.insert(text.to_string(), chosen.clone());
        chosen
    }

    /// The panes of so many microseconds that hold the times; `None` if a row has no time.
    pub fn panes(&mut self, time: &ArrayRef, pane_us: i64) -> Option<Arc<PaneColumns>> {
        let known = self
            .panes
            .iter()
            .find(|known| known.pane_us == pane_us && Arc::ptr_eq(&known.time, time));
        if let Some(known) = known {
            return Some(Arc::clone(known));
        }
        if time.null_count() > 0 {
            return None;
        }
        let times = time.as_primitive::<TimestampMicrosecondType>();
        let starts: TimestampMicrosecondArray = times.unary(|time| window_start(time, pane_us));
        let ends: TimestampMicrosecondArray = starts.unary(|start| start.saturating_add(pane_us));
        let panes = Int64Array::new(ends.values().clone(), None);
        let found = Arc::new(PaneColumns {
            time: Arc::clone(time),
            pane_us,
            lowest: panes.values().iter().copied().min().unwrap_or(i64::MAX),
            panes: Arc::new(panes),
            starts: Arc::new(starts.with_timezone("UTC")),
            ends: Arc::new(ends.with_timezone("UTC")),
        });
        self.panes.push(Arc::clone(&found));
        Some(found)
    }

    /// The rows of `arrays` in the encoding of `converter`, whose types they have; numbered where others ask too.
    pub fn grouping(
        &mut self,
        converter: &RowConverter,
        arrays: Vec<ArrayRef>,
    ) -> (Arc<Grouping>, Option<Arc<Numbering>>) {
        for known in &mut self.groupings {
            let grouping = &known.grouping;
            let same = |(one, other): (&ArrayRef, &ArrayRef)| Arc::ptr_eq(one, other);
            if grouping.arrays.len() == arrays.len() && grouping.arrays.iter().zip(&arrays).all(same) {
                let numbering = known
                    .numbering
                    .get_or_insert_with(|| Arc::new(Numbering::of(&grouping.rows)));
                return (Arc::clone(grouping), Some(Arc::clone(numbering)));
            }
        }
        let rows = converter
            .convert_columns(&arrays)
            .expect("invariant: arrays have the key's types");
        let grouping = Arc::new(Grouping { arrays, rows });
        if self.groupings.len() < GROUPINGS {
            self.groupings.push(KnownGrouping {
                grouping: Arc::clone(&grouping),
                numbering: None,
            });
        }
        (grouping, None)
    }
}

fn choose(conditions: &[Condition], source: &RecordBatch) -> Option<Chosen> {
    let rows = source.num_rows();
    let mut chosen = Chosen::All;
    for condition in conditions {
        let value = condition.compiled.evaluate(source).ok()?;
        let array = value.into_array(rows).ok()?;
        let truths = array.as_boolean_opt()?;
        if truths.null_count() == 0 && truths.true_count() == rows {
            continue;
        }
        let holds = |row: u32| truths.is_valid(row as usize) && truths.value(row as usize);
        let left = match &chosen {
            Chosen::All => {
                let set = truths.values().set_indices().map(|row| row as u32);
                set.filter(|row| truths.is_valid(*row as usize)).collect()
            }
            Chosen::Rows(before) => before.iter().copied().filter(|row| holds(*row)).collect(),
        };
        chosen = Chosen::Rows(Arc::new(left));
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{Int64Array, StringViewArray};
    use arrow::datatypes::{DataType, Int64Type};
    use arrow::row::SortField;

    use super::*;

    fn batch() -> RecordBatch {
        let times = TimestampMicrosecondArray::from(vec![5, 15, 25]).with_timezone("UTC");
        let columns: [(&str, ArrayRef); 3] = [
            ("at", Arc::new(times)),
            ("name", Arc::new(StringViewArray::from(vec!["a", "b", "a"]))),
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn groupings_are_encoded_once_and_numbered_when_asked_for_again() {
        let batch = batch();
        let mut shared = SharedBatch::new(&batch, None);
        let converter = RowConverter::new(vec![SortField::new(DataType::Utf8View)]).unwrap();
        let names = shared.column("name");
        let (first, numbering) = shared.grouping(&converter, vec![names]);
        assert!(numbering.is_none());
        let names = shared.column("name");
        let (again, numbering) = shared.grouping(&converter, vec![names]);
        assert!(Arc::ptr_eq(&first, &again) && numbering.is_some());
        // Equal values in another array are another grouping.
        let equal: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b", "a"]));
        let (other, numbering) = shared.grouping(&converter, vec![equal]);
        assert!(!Arc::ptr_eq(&first, &other) && numbering.is_none());
    }

    #[test]
    fn panes_are_those_of_the_time_and_the_size() {
        let batch = batch();
        let mut shared = SharedBatch::new(&batch, None);
        let time = shared.column("at");
        let tens = shared.panes(&time, 10).unwrap();
        let ends = |panes: &PaneColumns| panes.panes.as_primitive::<Int64Type>().values().to_vec();
        assert_eq!((ends(&tens), tens.lowest), (vec![10, 20, 30], 10));
        assert!(Arc::ptr_eq(&tens, &shared.panes(&time, 10).unwrap()));
        let twenties = shared.panes(&time, 20).unwrap();
        assert_eq!(ends(&twenties), [20, 20, 40]);
        let unknown: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]));
        assert!(shared.panes(&unknown, 10).is_none());
    }

    #[test]
    fn conditions_hold_where_they_are_true_and_not_where_they_are_null() {
        use datafusion::logical_expr::Operator;
        use datafusion::physical_expr::expressions::{binary, col, lit};
        let batch = batch();
        let schema = batch.schema();
        let at_least = |bound: i64| Condition {
            text: bound.to_string(),
            compiled: binary(col("n", &schema).unwrap(), Operator::GtEq, lit(bound), &schema).unwrap(),
        };
        let mut shared = SharedBatch::new(&batch, None);
        let mut rows = |text: &str, conditions: &[Condition]| match shared.chosen(text, conditions, &batch) {
            Some(Chosen::Rows(rows)) => rows.to_vec(),
            Some(Chosen::All) => vec![0, 1, 2],
            None => Vec::new(),
        };
        assert_eq!(rows("", &[]), [0, 1, 2]);
        assert_eq!(rows("0", &[at_least(0)]), [0, 2]);
        assert_eq!(rows("0 2", &[at_least(0), at_least(2)]), [2]);
        let fails = Condition {
            text: "fails".into(),
            compiled: binary(lit(1_i64), Operator::Divide, lit(0_i64), &schema).unwrap(),
        };
        assert!(shared.chosen("fails", &[fails], &batch).is_none());
    }
}
