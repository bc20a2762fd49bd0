//! From a monitor's aggregates to the cells of an accumulator, and back to columns.
//!
//! Aggregates of one argument and filter share a cell: four quantiles of a column are one histogram, `avg` reads
//! what `sum` keeps. An accumulator holds only what the view needs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_expr::PhysicalExpr;
use pyflare_operators::aggregate::{Accumulator, CellKind, GroupError, Reading, read, row_counts};

use crate::plan::{Aggregate, AggregateFunction, Expr, PlanError, compile};

/// The cells of accumulators and what they are fed with.
#[derive(Default, Clone)]
pub(crate) struct Cells {
    pub kinds: Vec<CellKind>,
    inputs: Vec<CellInput>,
}

/// The aggregate columns of a view, read from cells.
#[derive(Default)]
pub(crate) struct Outputs {
    outputs: Vec<Output>,
}

#[derive(Clone)]
struct CellInput {
    argument: Option<Expr>,
    filter: Option<Expr>,
    compiled_argument: Option<Arc<dyn PhysicalExpr>>,
    compiled_filter: Option<Arc<dyn PhysicalExpr>>,
    /// The type the cell is fed with.
    data_type: Option<DataType>,
}

enum Source {
    /// `count(*)`: the accumulator's rows.
    Rows,
    Cell(usize, Reading),
}

struct Output {
    field: Field,
    source: Source,
}

impl Cells {
    /// Adds the cells that `aggregates` over rows of `schema` need, as far as they are not there yet.
    pub fn add(&mut self, aggregates: &[Aggregate], schema: &Schema) -> Result<Outputs, PlanError> {
        let mut outputs = Vec::with_capacity(aggregates.len());
        for aggregate in aggregates {
            let field = aggregate.field(schema)?;
            let source = match (&aggregate.argument, &aggregate.filter, aggregate.function) {
                (None, None, AggregateFunction::Count) => Source::Rows,
                _ => self.cell(aggregate, schema)?,
            };
            outputs.push(Output { field, source });
        }
        Ok(Outputs { outputs })
    }

    /// Arguments and filters.
    pub fn arguments(&self) -> impl Iterator<Item = &Expr> {
        let inputs = self.inputs.iter();
        inputs.flat_map(|input| input.argument.iter().chain(&input.filter))
    }

    /// Whether no row is refused for what these cells are fed with.
    pub fn never_fail(&self) -> bool {
        !self.kinds.contains(&CellKind::SumFloat) && self.arguments().all(Expr::never_fails)
    }

    /// Whether every cell of `other` is one of these.
    pub fn contain(&self, other: &Cells) -> bool {
        let held = |kind: &CellKind, input: &CellInput| {
            self.position(*kind, &input.argument, &input.filter).is_some()
        };
        other
            .kinds
            .iter()
            .zip(&other.inputs)
            .all(|(kind, input)| held(kind, input))
    }

    fn position(&self, kind: CellKind, argument: &Option<Expr>, filter: &Option<Expr>) -> Option<usize> {
        self.kinds
            .iter()
            .zip(&self.inputs)
            .position(|(held, input)| *held == kind && input.argument == *argument && input.filter == *filter)
    }

    fn cell(&mut self, aggregate: &Aggregate, schema: &Schema) -> Result<Source, PlanError> {
        let compiled = |expr: &Option<Expr>| expr.as_ref().map(|expr| compile(expr, schema)).transpose();
        let compiled_argument = compiled(&aggregate.argument)?;
        let compiled_filter = compiled(&aggregate.filter)?;
        let argument_type = match &compiled_argument {
            Some(argument) => Some(argument.data_type(schema).map_err(|error| {
                PlanError::Expression {
                    expression: aggregate
                        .argument
                        .as_ref()
                        .map_or_else(String::new, ToString::to_string),
                    detail: error.to_string(),
                }
            })?),
            None => None,
        };
        let unsupported = || PlanError::Unsupported {
            detail: format!("the aggregate {}", aggregate.name),
        };
        let (kind, reading) = match (aggregate.function, &argument_type) {
            (AggregateFunction::Count, _) => (CellKind::Count, Reading::Count),
            (AggregateFunction::Sum | AggregateFunction::Avg, Some(data_type)) => {
                let kind = match data_type {
                    DataType::Int32 | DataType::Int64 => CellKind::SumInt,
                    DataType::Float64 => CellKind::SumFloat,
                    DataType::Decimal128(_, scale) => CellKind::SumDecimal { scale: *scale },
                    _ => return Err(unsupported()),
                };
                (
                    kind,
                    if aggregate.function == AggregateFunction::Sum {
                        Reading::Sum
                    } else {
                        Reading::Mean
                    },
                )
            }
            (AggregateFunction::CountDistinct, Some(_)) => (CellKind::Extremes, Reading::Distinct),
            (AggregateFunction::Min, Some(_)) => (CellKind::Extremes, Reading::Minimum),
            (AggregateFunction::Max, Some(_)) => (CellKind::Extremes, Reading::Maximum),
            (AggregateFunction::Quantile { q }, Some(_)) => {
                let reading = Reading::quantile(q).ok_or_else(|| PlanError::Unsupported {
                    detail: format!("the quantile {q}, which is not between 0 and 1"),
                })?;
                (CellKind::Quantiles, reading)
            }
            _ => return Err(unsupported()),
        };
        let data_type = match kind {
            CellKind::Count => argument_type,
            CellKind::SumInt => Some(DataType::Int64),
            CellKind::Quantiles => Some(DataType::Float64),
            CellKind::Extremes => argument_type.map(|data_type| match data_type {
                DataType::Int32 => DataType::Int64,
                kept => kept,
            }),
            _ => argument_type,
        };
        let found = self.position(kind, &aggregate.argument, &aggregate.filter);
        let index = found.unwrap_or_else(|| {
            self.kinds.push(kind);
            self.inputs.push(CellInput {
                argument: aggregate.argument.clone(),
                filter: aggregate.filter.clone(),
                compiled_argument,
                compiled_filter,
                data_type,
            });
            self.kinds.len() - 1
        });
        Ok(Source::Cell(index, reading))
    }

    /// The expressions whose values [`Self::inputs`] expects, in order.
    pub fn expressions(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let inputs = self.inputs.iter();
        inputs
            .flat_map(|input| input.compiled_argument.iter().chain(&input.compiled_filter))
            .cloned()
            .collect()
    }

    /// One array per cell, NULL where the row does not count.
    pub fn inputs(&self, arrays: Vec<ArrayRef>) -> Vec<Option<ArrayRef>> {
        let mut arrays = arrays.into_iter();
        let mut next = || arrays.next().expect("invariant: one array per expression");
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let argument = input.compiled_argument.as_ref().map(|_| next());
            let filter = input.compiled_filter.as_ref().map(|_| next());
            let argument = argument.map(|array| match &input.data_type {
                Some(wanted) if wanted != array.data_type() => {
                    cast(&array, wanted).expect("invariant: integers widen and become doubles")
                }
                _ => array,
            });
            inputs.push(match (argument, filter) {
                (argument, None) => argument,
                (None, Some(filter)) => Some(only_true(&filter, &filter)),
                (Some(argument), Some(filter)) => Some(only_true(&argument, &filter)),
            });
        }
        inputs
    }
}

impl Outputs {
    pub fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        self.outputs.iter().map(|output| output.field.clone())
    }

    /// The aggregate columns of many groups; a group whose result does not fit its type is NULL and a misfit.
    pub fn read(
        &self,
        kinds: &[CellKind],
        groups: &[&Accumulator],
        misfits: &mut Vec<GroupError>,
    ) -> Vec<ArrayRef> {
        self.outputs
            .iter()
            .map(|output| match output.source {
                Source::Rows => row_counts(groups.iter().copied()),
                Source::Cell(cell, reading) => {
                    let kind = kinds[cell];
                    let data_type = output.field.data_type();
                    let stored = match (kind, data_type) {
                        (CellKind::Extremes, DataType::Int32) if reading != Reading::Distinct => {
                            &DataType::Int64
                        }
                        _ => data_type,
                    };
                    let array = read(groups.iter().copied(), cell, kind, reading, stored, misfits)
                        .expect("invariant: the reading was planned for its cell");
                    match stored == data_type {
                        true => array,
                        false => cast(&array, data_type).expect("invariant: the values came from this type"),
                    }
                }
            })
            .collect()
    }
}

/// The array with NULL wherever `filter` is not true.
fn only_true(array: &ArrayRef, filter: &ArrayRef) -> ArrayRef {
    let filter = filter.as_boolean();
    // NULL is not true.
    let mask = if filter.null_count() > 0 {
        arrow::compute::prep_null_mask_filter(filter)
    } else {
        filter.clone()
    };
    let excluded = arrow::compute::not(&mask).expect("invariant: negation of a mask cannot fail");
    nullif(array, &excluded).expect("invariant: mask and array come from one batch")
}
