//! The end of the stateless part: a tick's rows become one accumulator per (pane, key).
//!
//! A tap belongs to one base and one worker. It reads the worker's share of a tick's batches, leaves out late rows
//! (a pure function of the row's pane and its stream's mark before the tick) and rows on which an expression fails,
//! and folds the rest. Nothing is kept between ticks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use arrow::row::{RowConverter, SortField};
use pyflare_operators::aggregate::{Accumulator, Combiner};

use super::arrange::Key;
use super::leaf::{Base, Direct};
use super::left_out::{LateRows, LeftOut, project_of};
use super::pipeline::{Flow, batch_of, evaluate, evaluate_all};
use super::shared_batch::{Chosen, SharedBatch};
use crate::plan::PlanError;

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

    /// Folds one batch, whose rows' event time is `event_time`.
    pub fn fold(
        &mut self,
        shared: &mut SharedBatch<'_>,
        event_time: &ArrayRef,
        mark_us: Option<i64>,
        left_out: &mut LeftOut,
    ) {
        let base = Arc::clone(&self.base);
        let source = shared.select(&base.source_columns, base.below_input());
        if source.num_rows() == 0 {
            return;
        }
        let late_until = base.rule.late_until(mark_us);
        let direct = base.direct.as_ref();
        if direct
            .and_then(|direct| self.fold_direct(direct, shared, &source, event_time, late_until, left_out))
            .is_none()
        {
            self.fold_copy(shared, source, event_time, late_until, left_out);
        }
    }

    /// Folds the rows that count where they are; `None` if the batch has rows that must be told apart one by one.
    fn fold_direct(
        &mut self,
        direct: &Direct,
        shared: &mut SharedBatch<'_>,
        source: &RecordBatch,
        event_time: &ArrayRef,
        late_until: Option<i64>,
        left_out: &mut LeftOut,
    ) -> Option<()> {
        let base = Arc::clone(&self.base);
        let panes = match &direct.window {
            Some((time, size_us)) => shared.panes(source.column_by_name(time)?, *size_us),
            None => shared.panes(event_time, base.rule.pane_us),
        }?;
        if late_until.is_some_and(|until| panes.lowest <= until) {
            return None;
        }
        let chosen = shared.chosen(&direct.text, &direct.conditions, source)?;
        let rows = match &chosen {
            Chosen::All => None,
            Chosen::Rows(rows) if rows.is_empty() => return Some(()),
            Chosen::Rows(rows) => Some(rows.as_slice()),
        };
        let mut columns = source.columns().to_vec();
        if direct.window.is_some() {
            columns.extend([Arc::clone(&panes.starts), Arc::clone(&panes.ends)]);
        }
        let batch = batch_of(base.below.schema(), columns, source.num_rows());
        let mut arrays = evaluate_all(base.expressions(), &batch).ok()?;
        let rest = arrays.split_off(base.key_types.len());
        self.fold_keys(
            shared,
            (Arc::clone(&panes.panes_array), arrays),
            rest,
            &batch,
            rows,
            left_out,
        );
        Some(())
    }

    /// Runs the chain over a copy of the rows that are left after each step.
    fn fold_copy(
        &mut self,
        shared: &mut SharedBatch<'_>,
        source: RecordBatch,
        event_time: &ArrayRef,
        late_until: Option<i64>,
        left_out: &mut LeftOut,
    ) {
        let base = Arc::clone(&self.base);
        let carried = match base.windowed {
            true => Int64Array::from(vec![0; source.num_rows()]),
            false => shared
                .panes(event_time, base.rule.pane_us)
                .expect("invariant: every row has an event time")
                .panes
                .clone(),
        };
        let flow = base.below.run(
            Flow {
                batch: source,
                carried,
            },
            &mut left_out.errors,
        );
        let flow = drop_late(flow, late_until, &mut left_out.late);
        if flow.batch.num_rows() == 0 {
            return;
        }
        let (mut arrays, flow) = evaluate(base.expressions(), flow, &mut left_out.errors);
        let rest = arrays.split_off(base.key_types.len());
        let panes: ArrayRef = Arc::new(flow.carried);
        self.fold_keys(shared, (panes, arrays), rest, &flow.batch, None, left_out);
    }

    fn fold_keys(
        &mut self,
        shared: &mut SharedBatch<'_>,
        (panes, keys): (ArrayRef, Vec<ArrayRef>),
        rest: Vec<ArrayRef>,
        batch: &RecordBatch,
        rows: Option<&[u32]>,
        left_out: &mut LeftOut,
    ) {
        let arrays = std::iter::once(panes)
            .chain(keys.into_iter().map(normalise))
            .collect();
        let (grouping, numbering) = shared.grouping(&self.converter, arrays);
        let inputs = self.base.cells.inputs(rest);
        let mut bad_rows = Vec::new();
        self.combiner
            .fold_rows(
                &grouping.rows,
                numbering.as_deref(),
                &inputs,
                rows,
                1,
                &mut bad_rows,
            )
            .expect("invariant: the cells were planned for these inputs");
        for bad in bad_rows {
            let project = project_of(batch, bad.row);
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
