//! The end of the stateless part: a tick's rows become one accumulator per (pane, key).
//!
//! A tap belongs to one base and one worker. It reads the worker's share of a tick's batches, leaves out late rows
//! (a pure function of the row's pane and its stream's mark before the tick) and rows on which an expression fails,
//! and folds the rest. Nothing is kept between ticks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use pyflare_operators::aggregate::{Accumulator, Combiner};

use super::arrange::Key;
use super::key_cache::KeyCache;
use super::leaf::Base;
use super::left_out::{LateRows, LeftOut, project_of};
use super::pipeline::{Flow, batch_of, evaluate};
use crate::plan::PlanError;
use crate::time::window_start;

pub(crate) struct Tap {
    base: Arc<Base>,
    converter: RowConverter,
    combiner: Combiner,
}

/// Encodes a key: the pane, then the group.
pub(crate) fn key_converter(base: &Base) -> Result<RowConverter, PlanError> {
    converter(std::iter::once(&DataType::Int64).chain(&base.key_types))
}

/// Encodes the group alone. Its encoding is the key's without the pane in front.
pub(crate) fn group_converter(base: &Base) -> Result<RowConverter, PlanError> {
    converter(&base.key_types)
}

/// Encodes columns of these types as bytes that compare as the rows do.
pub(crate) fn converter<'a>(
    types: impl IntoIterator<Item = &'a DataType>,
) -> Result<RowConverter, PlanError> {
    let fields = types
        .into_iter()
        .map(|data_type| SortField::new(data_type.clone()))
        .collect();
    RowConverter::new(fields).map_err(|error| PlanError::Unsupported {
        detail: format!("a key of these types: {error}"),
    })
}

impl Tap {
    pub fn new(base: Arc<Base>) -> Result<Tap, PlanError> {
        let converter = key_converter(&base)?;
        let combiner = Combiner::new(base.cells.kinds.clone());
        Ok(Tap {
            base,
            converter,
            combiner,
        })
    }

    /// Folds one batch. `source` holds the base's source columns, `event_time` the rows' event time; `cache` is
    /// the batch's own.
    pub fn fold(
        &mut self,
        source: &RecordBatch,
        event_time: &ArrayRef,
        mark_us: Option<i64>,
        cache: &mut KeyCache,
        left_out: &mut LeftOut,
    ) {
        let rows = source.num_rows();
        if rows == 0 {
            return;
        }
        let carried = match self.base.windowed {
            true => Int64Array::from(vec![0; rows]),
            false => {
                let pane_us = self.base.rule.pane_us;
                let times = event_time.as_primitive::<TimestampMicrosecondType>();
                Int64Array::new(
                    times
                        .unary::<_, TimestampMicrosecondType>(|time| {
                            window_start(time, pane_us).saturating_add(pane_us)
                        })
                        .values()
                        .clone(),
                    None,
                )
            }
        };
        let batch = batch_of(self.base.below_input(), source.columns().to_vec(), rows);
        let flow = self.base.below.run(Flow { batch, carried }, &mut left_out.errors);
        let flow = drop_late(flow, self.base.rule.late_until(mark_us), &mut left_out.late);
        if flow.batch.num_rows() == 0 {
            return;
        }
        let keys = self.base.key_types.len();
        let (mut arrays, flow) = evaluate(self.base.expressions(), flow, &mut left_out.errors);
        let rest = arrays.split_off(keys);
        let mut key_arrays: Vec<ArrayRef> = Vec::with_capacity(keys + 1);
        key_arrays.push(Arc::new(flow.carried.clone()));
        key_arrays.extend(arrays.into_iter().map(normalise));
        let encoded = cache.encode(&self.converter, key_arrays);
        let inputs = self.base.cells.inputs(rest);
        let mut bad_rows = Vec::new();
        self.combiner
            .fold(&*encoded, &inputs, None, 1, &mut bad_rows)
            .expect("invariant: the cells were planned for these inputs");
        for bad in bad_rows {
            let project = project_of(&flow.batch, bad.row);
            left_out.errors.record(project, 1, bad);
        }
    }

    /// Hands over the tick's accumulators and starts afresh.
    pub fn drain(&mut self, mut visit: impl FnMut(Key, Accumulator)) {
        self.combiner
            .drain(|key, accumulator| visit(Key::from(key), accumulator));
    }
}

fn drop_late(flow: Flow, late_until: Option<i64>, late_rows: &mut LateRows) -> Flow {
    let Some(until) = late_until else { return flow };
    let panes = flow.carried.values();
    if panes.iter().all(|pane| *pane > until) {
        return flow;
    }
    for (row, pane) in panes.iter().enumerate().filter(|(_, pane)| **pane <= until) {
        late_rows.add(project_of(&flow.batch, row), *pane, 1);
    }
    let on_time: BooleanArray = flow
        .carried
        .values()
        .iter()
        .map(|pane| Some(*pane > until))
        .collect();
    let batch = arrow::compute::filter_record_batch(&flow.batch, &on_time).expect("invariant: equal lengths");
    let carried = arrow::compute::filter(&flow.carried, &on_time).expect("invariant: equal lengths");
    Flow {
        batch,
        carried: carried.as_primitive().clone(),
    }
}

/// One bit pattern for zero and one for NaN, so that equal values have equal keys.
pub(crate) fn normalise(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(|value| match value {
                value if value.is_nan() => f64::NAN,
                value => value + 0.0,
            }))
        }
        _ => array,
    }
}
