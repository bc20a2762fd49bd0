//! The output schema of every plan node, derived from the plan alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use pyflare_operators::fields;

use super::sessions::sessions_schema;
use super::source::{columns_schema, source_schema};
use super::window::Windowing;
use super::{Aggregate, AggregateFunction, JoinKind, Plan, PlanError, Relationship, compile};

pub const WINDOW_START: &str = "window_start";
pub const WINDOW_END: &str = "window_end";
/// The column of [`JoinKind::Mark`].
pub const MARK: &str = "mark";

impl Plan {
    /// Names and types of the columns this node produces.
    pub fn schema(&self) -> Result<SchemaRef, PlanError> {
        match self {
            Plan::Source { stream, declared } => source_schema(stream, declared.as_ref()),
            Plan::Recent { input, .. } => input.schema(),
            Plan::Filter { input, predicate } => {
                let schema = input.schema()?;
                compile(predicate, &schema)?;
                Ok(schema)
            }
            Plan::Project { input, columns } => {
                let schema = input.schema()?;
                let fields = columns
                    .iter()
                    .map(|column| expression_field(&column.name, &column.expr, &schema));
                Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, _>>()?)))
            }
            Plan::Tumble { input, .. } => {
                let schema = input.schema()?;
                let window = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
                let mut fields: Vec<Field> = schema
                    .fields()
                    .iter()
                    .map(|field| field.as_ref().clone())
                    .collect();
                fields.push(Field::new(WINDOW_START, window.clone(), false));
                fields.push(Field::new(WINDOW_END, window, false));
                Ok(Arc::new(Schema::new(fields)))
            }
            Plan::Unnest { input, column } => {
                let schema = input.schema()?;
                let mut fields: Vec<Field> = schema
                    .fields()
                    .iter()
                    .map(|field| field.as_ref().clone())
                    .collect();
                let unknown = || PlanError::Unsupported {
                    detail: format!("unnest of {column}, which is not a list"),
                };
                let place = schema.index_of(column).map_err(|_| unknown())?;
                let DataType::List(item) = schema.field(place).data_type() else {
                    return Err(unknown());
                };
                fields[place] = Field::new(column, item.data_type().clone(), true);
                Ok(Arc::new(Schema::new(fields)))
            }
            Plan::Values { columns, .. } => columns_schema(columns),
            Plan::Aggregate {
                input,
                keys,
                aggregates,
            } => {
                let schema = input.schema()?;
                let mut fields = Vec::with_capacity(keys.len() + aggregates.len());
                for key in keys {
                    fields.push(expression_field(&key.name, &key.expr, &schema)?);
                }
                for aggregate in aggregates {
                    fields.push(aggregate.field(&schema)?);
                }
                Ok(Arc::new(Schema::new(fields)))
            }
            Plan::Sessions {
                input,
                keys,
                time,
                gap_us,
                aggregates,
            } => sessions_schema(input.schema()?.as_ref(), keys, (time, *gap_us), aggregates),
            Plan::View { columns, .. } => columns_schema(columns),
            Plan::Join {
                kind,
                left,
                right,
                on,
                residual,
                interval,
                ..
            } => {
                let (left, right) = (left.schema()?, right.schema()?);
                if let Some(interval) = interval {
                    interval.check(*kind, residual.is_some(), &left, &right)?;
                }
                for key in on {
                    let left = expression_field("key", &key.left, &left)?;
                    let right = expression_field("key", &key.right, &right)?;
                    if left.data_type() != right.data_type() {
                        return Err(PlanError::Unsupported {
                            detail: format!("a join of {} with {}", left.data_type(), right.data_type()),
                        });
                    }
                }
                let both = joined(&left, &right)?;
                if let Some(residual) = residual {
                    compile(residual, &both)?;
                }
                match kind {
                    JoinKind::Mark => marked(&left),
                    _ if kind.shows_right() => Ok(both),
                    _ => Ok(left),
                }
            }
            Plan::Union { inputs } => {
                let mut schemas = inputs.iter().map(Plan::schema);
                let nothing = || PlanError::Unsupported {
                    detail: "a union of nothing".into(),
                };
                let first = schemas.next().ok_or_else(nothing)??;
                let types = |schema: &SchemaRef| -> Vec<(String, DataType)> {
                    let fields = schema.fields().iter();
                    fields
                        .map(|field| (field.name().clone(), field.data_type().clone()))
                        .collect()
                };
                for schema in schemas {
                    if types(&schema?) != types(&first) {
                        return Err(PlanError::Unsupported {
                            detail: "a union of relations with different columns".into(),
                        });
                    }
                }
                let fields = first
                    .fields()
                    .iter()
                    .map(|field| field.as_ref().clone().with_nullable(true));
                Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
            }
            Plan::Top {
                input,
                partition,
                order,
                ..
            } => {
                let schema = input.schema()?;
                for expr in partition.iter().chain(order.iter().map(|key| &key.expr)) {
                    compile(expr, &schema)?;
                }
                Ok(schema)
            }
            Plan::Window {
                input,
                partition,
                order,
                functions,
                aggregates,
            } => {
                let schema = input.schema()?;
                let window = Windowing::compile(partition, order, functions, aggregates, &schema)?;
                Ok(Arc::clone(window.schema()))
            }
        }
    }

    /// The nodes directly below.
    pub fn inputs(&self) -> Vec<&Plan> {
        match self {
            Plan::Source { .. } | Plan::View { .. } | Plan::Values { .. } => Vec::new(),
            Plan::Recent { input, .. }
            | Plan::Filter { input, .. }
            | Plan::Project { input, .. }
            | Plan::Tumble { input, .. }
            | Plan::Unnest { input, .. }
            | Plan::Aggregate { input, .. }
            | Plan::Sessions { input, .. }
            | Plan::Top { input, .. }
            | Plan::Window { input, .. } => vec![input],
            Plan::Join { left, right, .. } => vec![left, right],
            Plan::Union { inputs } => inputs.iter().collect(),
        }
    }

    /// Nodes in it. They are numbered as they are written: a node, then all of its first input, and so on.
    pub fn size(&self) -> usize {
        1 + self.inputs().into_iter().map(Plan::size).sum::<usize>()
    }

    /// The streams that are read, each once.
    pub fn streams(&self) -> BTreeSet<&str> {
        self.leaves(&|plan| match plan {
            Plan::Source { stream, .. } => Some(stream),
            _ => None,
        })
    }

    /// The views that are read, each once.
    pub fn views(&self) -> BTreeSet<&str> {
        self.leaves(&|plan| match plan {
            Plan::View { name, .. } => Some(name),
            _ => None,
        })
    }

    fn leaves<'a>(&'a self, named: &impl Fn(&'a Plan) -> Option<&'a str>) -> BTreeSet<&'a str> {
        let mut found: BTreeSet<&str> = named(self).into_iter().collect();
        for input in self.inputs() {
            found.extend(input.leaves(named));
        }
        found
    }
}

/// The columns of a left side with [`MARK`].
pub(crate) fn marked(left: &Schema) -> Result<SchemaRef, PlanError> {
    let mark = Schema::new(vec![Field::new(MARK, DataType::Boolean, true)]);
    joined(left, &mark)
}

fn joined(left: &Schema, right: &Schema) -> Result<SchemaRef, PlanError> {
    let fields = left.fields().iter().chain(right.fields());
    let fields: Vec<Field> = fields
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    let mut names = BTreeSet::new();
    match fields.iter().find(|field| !names.insert(field.name().clone())) {
        Some(field) => Err(PlanError::Unsupported {
            detail: format!("a join whose sides both have a column {}", field.name()),
        }),
        None => Ok(Arc::new(Schema::new(fields))),
    }
}

impl Aggregate {
    /// The type of this aggregate over rows of `input`.
    pub fn field(&self, input: &Schema) -> Result<Field, PlanError> {
        let argument = match &self.argument {
            Some(argument) => Some(expression_field("argument", argument, input)?.data_type().clone()),
            None => None,
        };
        let data_type = match (self.function, argument) {
            (AggregateFunction::Count, _) => return Ok(Field::new(&self.name, DataType::Int64, false)),
            (
                AggregateFunction::CountDistinct,
                Some(
                    DataType::Int64
                    | DataType::Int32
                    | DataType::Float64
                    | DataType::Decimal128(..)
                    | DataType::Utf8View
                    | DataType::Utf8
                    | DataType::LargeUtf8
                    | DataType::Boolean
                    | DataType::Timestamp(TimeUnit::Microsecond, _),
                ),
            ) => return Ok(Field::new(&self.name, DataType::Int64, false)),
            (AggregateFunction::Sum, Some(DataType::Int64 | DataType::Int32)) => DataType::Int64,
            (AggregateFunction::Sum, Some(DataType::Float64)) => DataType::Float64,
            (AggregateFunction::Sum, Some(DataType::Decimal128(_, scale))) => DataType::Decimal128(38, scale),
            (AggregateFunction::Avg, Some(DataType::Int64 | DataType::Int32 | DataType::Float64)) => {
                DataType::Float64
            }
            (
                AggregateFunction::Min | AggregateFunction::Max,
                Some(
                    kept @ (DataType::Int64
                    | DataType::Int32
                    | DataType::Float64
                    | DataType::Decimal128(..)
                    | DataType::Utf8View
                    | DataType::Utf8
                    | DataType::LargeUtf8
                    | DataType::Boolean
                    | DataType::Timestamp(TimeUnit::Microsecond, _)),
                ),
            ) => kept,
            (
                AggregateFunction::Quantile { .. },
                Some(DataType::Int64 | DataType::Int32 | DataType::Float64),
            ) => DataType::Float64,
            (AggregateFunction::Spread(_), Some(DataType::Float64)) => DataType::Float64,
            (AggregateFunction::Relationship(relationship), Some(DataType::Float64)) => {
                let second = match &self.second {
                    Some(second) => expression_field("second", second, input)?.data_type().clone(),
                    None => DataType::Null,
                };
                match (second, relationship) {
                    (DataType::Float64, Relationship::Pairs) => {
                        return Ok(Field::new(&self.name, DataType::Int64, false));
                    }
                    (DataType::Float64, _) => DataType::Float64,
                    (other, _) => {
                        return Err(PlanError::Unsupported {
                            detail: format!("{} with {}", relationship.name(), fields::type_name(&other)),
                        });
                    }
                }
            }
            (AggregateFunction::StringAgg { .. }, Some(text)) if text.is_string() => DataType::LargeUtf8,
            (AggregateFunction::ArrayAgg { .. }, Some(item)) => DataType::new_list(item, true),
            (AggregateFunction::First | AggregateFunction::Last, Some(value)) => value,
            (function, Some(other)) => {
                return Err(PlanError::Unsupported {
                    detail: format!("{function:?} of {} ({})", fields::type_name(&other), self.name),
                });
            }
            (function, None) => {
                return Err(PlanError::Unsupported {
                    detail: format!("{function:?} without an argument"),
                });
            }
        };
        Ok(Field::new(&self.name, data_type, true))
    }
}

pub(super) fn expression_field(name: &str, expr: &super::Expr, schema: &Schema) -> Result<Field, PlanError> {
    let physical = compile(expr, schema)?;
    let as_error = |error: datafusion::error::DataFusionError| PlanError::Expression {
        expression: expr.to_string(),
        detail: error.to_string(),
    };
    let data_type = physical.data_type(schema).map_err(as_error)?;
    let nullable = physical.nullable(schema).map_err(as_error)?;
    Ok(Field::new(name, data_type, nullable))
}
