//! From a monitor's aggregates to the cells of an accumulator, and back to columns.
//!
//! Aggregates of one argument and filter share a cell: four quantiles of a column are one histogram, `avg` reads
//! what `sum` keeps. An accumulator holds only what the view needs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_expr::PhysicalExpr;
use pyflare_operators::aggregate::{Accumulator, CellKind, GroupError, Reading, read, row_counts};

use super::listing::{Listing, Places};
use crate::plan::{Aggregate, AggregateFunction, Expr, Literal, OrderKey, PlanError, compile};

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

/// What a cell keeps, of what: cells that are equal in this are one.
#[derive(Clone, PartialEq)]
struct Kept {
    kind: CellKind,
    argument: Option<Expr>,
    /// The second value of pairs.
    second: Option<Expr>,
    order: Vec<OrderKey>,
    filter: Option<Expr>,
    /// Whether values are kept with their places in `order`; then whether a NULL is one of them.
    listed: Option<bool>,
}

#[derive(Clone)]
struct CellInput {
    kept: Kept,
    /// The argument, then the second one or the keys of the order.
    compiled: Vec<Arc<dyn PhysicalExpr>>,
    compiled_filter: Option<Arc<dyn PhysicalExpr>>,
    /// The type the argument is fed in.
    data_type: Option<DataType>,
    places: Option<Arc<Places>>,
}

enum Source {
    /// `count(*)`: the accumulator's rows.
    Rows,
    Cell(usize, Reading),
    Listed(usize, Listing),
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
                (Some(_), _, function) if is_listing(function) => self.listing(aggregate, schema)?,
                _ => self.cell(aggregate, schema)?,
            };
            outputs.push(Output { field, source });
        }
        Ok(Outputs { outputs })
    }

    /// Everything that is evaluated for them.
    pub fn arguments(&self) -> impl Iterator<Item = &Expr> {
        self.inputs.iter().flat_map(|input| {
            let kept = &input.kept;
            let order = kept.order.iter().map(|key| &key.expr);
            kept.argument
                .iter()
                .chain(&kept.second)
                .chain(order)
                .chain(&kept.filter)
        })
    }

    /// Whether no row is refused for what these cells are fed with.
    pub fn never_fail(&self) -> bool {
        let refuse = [CellKind::SumFloat, CellKind::Moments, CellKind::Comoments];
        !self.kinds.iter().any(|kind| refuse.contains(kind)) && self.arguments().all(Expr::never_fails)
    }

    /// Whether every cell of `other` is one of these.
    pub fn contain(&self, other: &Cells) -> bool {
        other
            .inputs
            .iter()
            .all(|input| self.position(&input.kept).is_some())
    }

    fn position(&self, kept: &Kept) -> Option<usize> {
        self.inputs.iter().position(|held| held.kept == *kept)
    }

    /// The place of the cell, which is added if it is not there.
    fn place(&mut self, input: CellInput) -> usize {
        match self.position(&input.kept) {
            Some(place) => place,
            None => {
                self.kinds.push(input.kept.kind);
                self.inputs.push(input);
                self.kinds.len() - 1
            }
        }
    }

    fn cell(&mut self, aggregate: &Aggregate, schema: &Schema) -> Result<Source, PlanError> {
        let mut compiled = Vec::new();
        let mut types = Vec::new();
        for expr in aggregate.argument.iter().chain(&aggregate.second) {
            let (expression, data_type) = typed(expr, schema)?;
            compiled.push(expression);
            types.push(data_type);
        }
        let compiled_filter = compiled_filter(aggregate, schema)?;
        let argument_type = aggregate.argument.as_ref().and(types.first().cloned());
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
            (AggregateFunction::Spread(spread), Some(_)) => (CellKind::Moments, Reading::Spread(spread)),
            (AggregateFunction::Relationship(relationship), Some(_)) if types.len() == 2 => {
                (CellKind::Comoments, Reading::Relationship(relationship))
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
        let place = self.place(CellInput {
            kept: Kept {
                kind,
                argument: aggregate.argument.clone(),
                second: aggregate.second.clone(),
                order: Vec::new(),
                filter: aggregate.filter.clone(),
                listed: None,
            },
            compiled,
            compiled_filter,
            data_type,
            places: None,
        });
        Ok(Source::Cell(place, reading))
    }

    fn listing(&mut self, aggregate: &Aggregate, schema: &Schema) -> Result<Source, PlanError> {
        let unsupported = |detail: &str| PlanError::Unsupported {
            detail: format!("the aggregate {}: {detail}", aggregate.name),
        };
        let Some(argument) = &aggregate.argument else {
            return Err(unsupported("it has no argument"));
        };
        let separator = match (&aggregate.second, aggregate.function) {
            (Some(Expr::Literal(Literal::Text(separator))), AggregateFunction::StringAgg { .. }) => {
                separator.clone()
            }
            (None, AggregateFunction::StringAgg { .. }) | (Some(_), _) => {
                return Err(unsupported("only texts have a separator, and it is a constant"));
            }
            (None, _) => String::new(),
        };
        let (value, value_type) = typed(argument, schema)?;
        let mut compiled = vec![value];
        let mut order_types = Vec::with_capacity(aggregate.order.len());
        for key in &aggregate.order {
            let (expression, data_type) = typed(&key.expr, schema)?;
            compiled.push(expression);
            order_types.push(data_type);
        }
        let keeps_nulls = !matches!(aggregate.function, AggregateFunction::StringAgg { .. });
        let places = Places::new(&aggregate.order, &order_types, &value_type)?;
        let place = self.place(CellInput {
            kept: Kept {
                kind: CellKind::Extremes,
                argument: Some(argument.clone()),
                second: None,
                order: aggregate.order.clone(),
                filter: aggregate.filter.clone(),
                listed: Some(keeps_nulls),
            },
            compiled,
            compiled_filter: compiled_filter(aggregate, schema)?,
            data_type: Some(value_type),
            places: Some(Arc::new(places)),
        });
        let places = self.inputs[place].places.clone();
        let listing = Listing {
            places: places.expect("invariant: a listed cell has places"),
            function: aggregate.function,
            separator,
        };
        Ok(Source::Listed(place, listing))
    }

    /// The expressions whose values [`Self::inputs`] expects, in order.
    pub fn expressions(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let inputs = self.inputs.iter();
        inputs
            .flat_map(|input| input.compiled.iter().chain(&input.compiled_filter))
            .cloned()
            .collect()
    }

    /// One array per cell, NULL where the row does not count.
    pub fn inputs(&self, arrays: Vec<ArrayRef>) -> Vec<Option<ArrayRef>> {
        let mut arrays = arrays.into_iter();
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let mut values: Vec<ArrayRef> = arrays.by_ref().take(input.compiled.len()).collect();
            let filter = input
                .compiled_filter
                .as_ref()
                .map(|_| arrays.next().expect("invariant: one array per expression"));
            if let Some(places) = &input.places {
                inputs.push(Some(input.placed(places, values, filter.as_ref())));
                continue;
            }
            if let (Some(argument), Some(wanted)) = (values.first_mut(), &input.data_type)
                && wanted != argument.data_type()
            {
                *argument = cast(argument, wanted).expect("invariant: integers widen and become doubles");
            }
            let mut values = values.into_iter();
            let argument = match (values.next(), filter) {
                (argument, None) => argument,
                (None, Some(filter)) => Some(only_true(&filter, &filter)),
                (Some(argument), Some(filter)) => Some(only_true(&argument, &filter)),
            };
            inputs.push(match (argument, values.next()) {
                (Some(one), Some(other)) => Some(pairs(one, other)),
                (argument, _) => argument,
            });
        }
        inputs
    }
}

impl CellInput {
    /// The places of values in their order.
    fn placed(&self, places: &Places, mut values: Vec<ArrayRef>, filter: Option<&ArrayRef>) -> ArrayRef {
        // The value is first among what is evaluated, and last in the order.
        values.rotate_left(1);
        let value = values.last().cloned();
        let known = value
            .filter(|_| self.kept.listed == Some(false))
            .and_then(|value| value.logical_nulls());
        let filter = filter.map(|filter| filter.as_boolean().clone());
        places.encode(values, |row| {
            known.as_ref().is_none_or(|known| known.is_valid(row))
                && filter
                    .as_ref()
                    .is_none_or(|filter| filter.is_valid(row) && filter.value(row))
        })
    }
}

fn is_listing(function: AggregateFunction) -> bool {
    matches!(
        function,
        AggregateFunction::StringAgg { .. }
            | AggregateFunction::ArrayAgg { .. }
            | AggregateFunction::First
            | AggregateFunction::Last
    )
}

fn typed(expr: &Expr, schema: &Schema) -> Result<(Arc<dyn PhysicalExpr>, DataType), PlanError> {
    let compiled = compile(expr, schema)?;
    let data_type = compiled
        .data_type(schema)
        .map_err(|error| PlanError::Expression {
            expression: expr.to_string(),
            detail: error.to_string(),
        })?;
    Ok((compiled, data_type))
}

fn compiled_filter(
    aggregate: &Aggregate,
    schema: &Schema,
) -> Result<Option<Arc<dyn PhysicalExpr>>, PlanError> {
    aggregate
        .filter
        .as_ref()
        .map(|filter| compile(filter, schema))
        .transpose()
}

/// Pairs of doubles, NULL where one of them is.
fn pairs(one: ArrayRef, other: ArrayRef) -> ArrayRef {
    let known = NullBuffer::union(one.logical_nulls().as_ref(), other.logical_nulls().as_ref());
    let fields = ["one", "other"].map(|name| Field::new(name, DataType::Float64, true));
    Arc::new(StructArray::new(fields.to_vec().into(), vec![one, other], known))
}

impl Outputs {
    pub fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        self.outputs.iter().map(|output| output.field.clone())
    }

    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    /// The aggregate columns of many groups; a group whose result cannot be shown is NULL and a misfit.
    pub fn read(
        &self,
        kinds: &[CellKind],
        groups: &[&Accumulator],
        misfits: &mut Vec<GroupError>,
    ) -> Vec<ArrayRef> {
        self.outputs
            .iter()
            .map(|output| match &output.source {
                Source::Rows => row_counts(groups.iter().copied()),
                Source::Listed(cell, listing) => {
                    listing.read(groups, *cell, output.field.data_type(), misfits)
                }
                Source::Cell(cell, reading) => {
                    let kind = kinds[*cell];
                    let data_type = output.field.data_type();
                    let stored = match (kind, data_type) {
                        (CellKind::Extremes, DataType::Int32) if *reading != Reading::Distinct => {
                            &DataType::Int64
                        }
                        _ => data_type,
                    };
                    let array = read(groups.iter().copied(), *cell, kind, *reading, stored, misfits)
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
