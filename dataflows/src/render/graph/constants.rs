//! Rows that are there from the beginning: those of `VALUES`, and what an aggregate without keys gives over nothing.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::{Schema, SchemaRef};
use pyflare_operators::aggregate::Accumulator;

use crate::plan::{Expr, Plan, PlanError, compile};
use crate::render::cells::Cells;
use crate::render::pipeline::batch_of;

/// The rows of `VALUES`.
pub(super) fn constant(schema: &SchemaRef, rows: &[Vec<Expr>]) -> Result<RecordBatch, PlanError> {
    let nothing: SchemaRef = Arc::new(Schema::empty());
    let one_row = batch_of(&nothing, Vec::new(), 1);
    let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::with_capacity(rows.len()); schema.fields().len()];
    for row in rows {
        for ((expr, field), column) in row.iter().zip(schema.fields()).zip(&mut columns) {
            let failed = |detail: String| PlanError::Expression {
                expression: expr.to_string(),
                detail,
            };
            let value = compile(expr, &nothing)?
                .evaluate(&one_row)
                .and_then(|value| value.into_array(1))
                .map_err(|error| failed(error.strip_backtrace()))?;
            if value.data_type() != field.data_type() {
                return Err(failed(format!("it is not {}", field.data_type())));
            }
            column.push(value);
        }
    }
    let mut arrays = Vec::with_capacity(columns.len());
    for (column, field) in columns.iter().zip(schema.fields()) {
        let parts: Vec<&dyn Array> = column.iter().map(AsRef::as_ref).collect();
        arrays.push(match parts.is_empty() {
            true => new_empty_array(field.data_type()),
            false => concat(&parts).expect("invariant: one type per column"),
        });
    }
    Ok(batch_of(schema, arrays, rows.len()))
}

/// What an aggregate without keys gives over no rows.
pub(super) fn empty_row(plan: &Plan) -> Result<RecordBatch, PlanError> {
    let Plan::Aggregate {
        input, aggregates, ..
    } = plan
    else {
        unreachable!("invariant: called for aggregates");
    };
    let mut cells = Cells::default();
    let outputs = cells.add(aggregates, input.schema()?.as_ref())?;
    let zero = Accumulator::zero(&cells.kinds);
    let columns = outputs.read(&cells.kinds, &[&zero], &mut Vec::new());
    let fields = outputs.fields().map(|field| field.with_nullable(true));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(batch_of(&schema, columns, 1))
}
