//! The output schema of every plan node, derived from the plan alone.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use pyflare_operators::fields;

use super::{Aggregate, AggregateFunction, Plan, PlanError, compile};

pub const WINDOW_START: &str = "window_start";
pub const WINDOW_END: &str = "window_end";

impl Plan {
    /// Names and types of the columns this node produces.
    pub fn schema(&self) -> Result<SchemaRef, PlanError> {
        match self {
            Plan::Source { stream } => {
                fields::stream_schema(stream).ok_or_else(|| PlanError::UnknownStream { name: stream.clone() })
            }
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
        }
    }

    /// The stream at the bottom.
    pub fn stream(&self) -> &str {
        match self {
            Plan::Source { stream } => stream,
            Plan::Filter { input, .. }
            | Plan::Project { input, .. }
            | Plan::Tumble { input, .. }
            | Plan::Aggregate { input, .. } => input.stream(),
        }
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
                    | DataType::Utf8View
                    | DataType::Utf8
                    | DataType::Boolean
                    | DataType::Timestamp(TimeUnit::Microsecond, _)),
                ),
            ) => kept,
            (
                AggregateFunction::Quantile { .. },
                Some(DataType::Int64 | DataType::Int32 | DataType::Float64),
            ) => DataType::Float64,
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

fn expression_field(name: &str, expr: &super::Expr, schema: &Schema) -> Result<Field, PlanError> {
    let physical = compile(expr, schema)?;
    let as_error = |error: datafusion::error::DataFusionError| PlanError::Expression {
        expression: expr.to_string(),
        detail: error.to_string(),
    };
    let data_type = physical.data_type(schema).map_err(as_error)?;
    let nullable = physical.nullable(schema).map_err(as_error)?;
    Ok(Field::new(name, data_type, nullable))
}
