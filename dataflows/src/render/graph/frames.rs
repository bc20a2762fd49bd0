//! Aggregates over the frame that each row of a partition has: running sums, moving averages.
//!
//! Accumulators form a group, so a frame is the one before it, plus the rows that enter and minus those that leave. What
//! is shown of a row is what a batch over its frame would give, bit for bit, float sums included.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use arrow::compute::{SortOptions, concat};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::WindowFrame;
use datafusion::logical_expr::window_state::WindowFrameContext;
use datafusion::physical_expr::PhysicalExpr;
use pyflare_operators::aggregate::{Accumulator, Combiner};

use super::compiled;
use crate::plan::{Aggregate, FramedAggregate, OrderKey, PlanError, frame};
use crate::render::cells::{Cells, Outputs};

/// Rows whose aggregates are read at once.
const BLOCK: usize = 256;

/// The framed aggregates of one partitioning and order.
pub(crate) struct Frames {
    order: Vec<Arc<dyn PhysicalExpr>>,
    sorting: Vec<SortOptions>,
    /// In the order of the columns they make.
    framed: Vec<Framed>,
}

struct Framed {
    frame: Arc<WindowFrame>,
    cells: Cells,
    outputs: Outputs,
}

impl Frames {
    pub fn compile(
        order: &[OrderKey],
        aggregates: &[FramedAggregate],
        schema: &SchemaRef,
    ) -> Result<Frames, PlanError> {
        let sorting = order.iter().map(|key| SortOptions {
            descending: key.descending,
            nulls_first: key.nulls_first,
        });
        let mut framed: Vec<Framed> = Vec::new();
        for column in aggregates {
            let mut cells = Cells::default();
            let one: &[Aggregate] = std::slice::from_ref(&column.aggregate);
            let outputs = cells.add(one, schema)?;
            framed.push(Framed {
                frame: Arc::new(frame(column.frame)),
                cells,
                outputs,
            });
        }
        let (expressions, _) = compiled(order.iter().map(|key| &key.expr).collect(), schema)?;
        Ok(Frames {
            order: expressions,
            sorting: sorting.collect(),
            framed,
        })
    }

    /// A column for each aggregate, over the rows of one partition in its order.
    ///
    /// `errors` is told of each row whose value an aggregate cannot take, and of each result that cannot be shown.
    pub fn columns(
        &self,
        partition: &RecordBatch,
        mut errors: impl FnMut(usize, String),
    ) -> Result<Vec<ArrayRef>, DataFusionError> {
        if self.framed.is_empty() {
            return Ok(Vec::new());
        }
        let order = evaluated(&self.order, partition)?;
        self.framed
            .iter()
            .map(|framed| framed.column(partition, &order, &self.sorting, &mut errors))
            .collect()
    }
}

impl Framed {
    fn column(
        &self,
        partition: &RecordBatch,
        order: &[ArrayRef],
        sorting: &[SortOptions],
        errors: &mut impl FnMut(usize, String),
    ) -> Result<ArrayRef, DataFusionError> {
        let rows = partition.num_rows();
        let of_rows = self.accumulators(partition, errors)?;
        let mut context = WindowFrameContext::new(Arc::clone(&self.frame), sorting.to_vec());
        let mut current = Accumulator::zero(&self.cells.kinds);
        let (mut held, mut last): (Range<usize>, Range<usize>) = (0..0, 0..0);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(rows.div_ceil(BLOCK));
        for first in (0..rows).step_by(BLOCK) {
            let mut block = Vec::with_capacity(BLOCK);
            for row in first..rows.min(first + BLOCK) {
                last = context.calculate_range(order, &last, rows, row)?;
                // A frame beyond either end is empty.
                let next = last.start..last.end.max(last.start);
                for entering in of_rows.get(held.end..next.end).unwrap_or_default() {
                    current.add(entering);
                }
                for leaving in of_rows.get(held.start..next.start).unwrap_or_default() {
                    let mut gone = leaving.clone();
                    gone.negate();
                    current.add(&gone);
                }
                held = next;
                block.push(current.clone());
            }
            let groups: Vec<&Accumulator> = block.iter().collect();
            let mut misfits = Vec::new();
            columns.extend(self.outputs.read(&self.cells.kinds, &groups, &mut misfits));
            for misfit in misfits {
                errors(first + misfit.group, misfit.to_string());
            }
        }
        let parts: Vec<&dyn arrow::array::Array> = columns.iter().map(AsRef::as_ref).collect();
        Ok(concat(&parts)?)
    }

    /// What each row adds to the frames it is in.
    fn accumulators(
        &self,
        partition: &RecordBatch,
        errors: &mut impl FnMut(usize, String),
    ) -> Result<Vec<Accumulator>, DataFusionError> {
        let rows = partition.num_rows();
        let inputs = self
            .cells
            .inputs(evaluated(&self.cells.expressions(), partition)?);
        let numbers: Vec<[u8; 4]> = (0..rows as u32).map(u32::to_be_bytes).collect();
        let keys = BinaryArray::from_iter_values(&numbers);
        let mut combiner = Combiner::new(self.cells.kinds.clone());
        let mut bad_rows = Vec::new();
        combiner
            .fold(&keys, &inputs, None, 1, &mut bad_rows)
            .expect("invariant: the cells were planned for these inputs");
        for bad in bad_rows {
            errors(bad.row, bad.to_string());
        }
        let mut of_rows = vec![Accumulator::zero(&self.cells.kinds); rows];
        combiner.drain(|key, accumulator| {
            let number = key.try_into().map(u32::from_be_bytes);
            of_rows[number.expect("invariant: keys are row numbers") as usize] = accumulator;
        });
        Ok(of_rows)
    }
}

fn evaluated(
    expressions: &[Arc<dyn PhysicalExpr>],
    batch: &RecordBatch,
) -> Result<Vec<ArrayRef>, DataFusionError> {
    expressions
        .iter()
        .map(|expression| expression.evaluate(batch)?.into_array(batch.num_rows()))
        .collect()
}
