//! Streams as plans read them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use pyflare_operators::fields;
use pyflare_operators::streams::{DEFAULT_TIME, StreamDefinition};
use serde::{Deserialize, Serialize};

use super::{Column, Plan, PlanError};
use crate::time::Recency;

/// What a plan has to know of a stream that a user declared. It is part of the plan: a stream that is dropped and
/// declared anew must not change the meaning of what was planned over it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// The project that owns the stream.
    pub project: String,
    /// The column that holds the event time.
    pub time: String,
    /// How far out of order rows may come, microseconds.
    pub lateness_us: Option<i64>,
    /// All columns, hidden ones included.
    pub columns: Vec<Column>,
}

impl Declared {
    pub fn of(definition: &StreamDefinition) -> Declared {
        let schema = definition.schema();
        let columns = schema.fields().iter().map(|field| Column {
            name: field.name().clone(),
            data_type: field.data_type().to_string(),
        });
        Declared {
            project: definition.project.clone(),
            time: definition.time_column().to_string(),
            lateness_us: definition.lateness_us,
            columns: columns.collect(),
        }
    }
}

/// The stream's schema; columns of a declared one may all be NULL as far as a plan knows.
pub(crate) fn source_schema(stream: &str, declared: Option<&Declared>) -> Result<SchemaRef, PlanError> {
    match declared {
        Some(declared) => columns_schema(&declared.columns),
        None => fields::stream_schema(stream).ok_or_else(|| PlanError::UnknownStream { name: stream.into() }),
    }
}

/// The schema that columns stand for.
pub(super) fn columns_schema(columns: &[Column]) -> Result<SchemaRef, PlanError> {
    let field = |column: &Column| {
        let data_type = column
            .data_type
            .parse::<DataType>()
            .map_err(|error| PlanError::Unsupported {
                detail: format!("a column of type {} ({error})", column.data_type),
            })?;
        Ok(Field::new(&column.name, data_type, true))
    };
    let fields = columns.iter().map(field).collect::<Result<Vec<_>, PlanError>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

impl Plan {
    /// What a chain asks for by `now()`.
    pub(crate) fn recency(&self) -> Option<Recency> {
        match self {
            Plan::Recent {
                after_us,
                until_us,
                quantum_us,
                ..
            } => Some(Recency {
                after_us: *after_us,
                until_us: *until_us,
                quantum_us: *quantum_us,
            }),
            Plan::Filter { input, .. }
            | Plan::Project { input, .. }
            | Plan::Tumble { input, .. }
            | Plan::Unnest { input, .. } => input.recency(),
            _ => None,
        }
    }

    /// The event time of a stream.
    pub fn time_column(&self) -> Option<&str> {
        match self {
            Plan::Source { declared, .. } => {
                Some(declared.as_ref().map_or(DEFAULT_TIME, |declared| &declared.time))
            }
            _ => None,
        }
    }

    /// The stream that a chain of filters, projections and windows is over.
    pub(crate) fn chain_source(&self) -> Option<(&str, Option<&Declared>)> {
        match self {
            Plan::Source { stream, declared } => Some((stream, declared.as_ref())),
            Plan::Recent { input, .. }
            | Plan::Filter { input, .. }
            | Plan::Project { input, .. }
            | Plan::Tumble { input, .. }
            | Plan::Unnest { input, .. } => input.chain_source(),
            _ => None,
        }
    }

    /// The declared streams that are read, with their names.
    pub fn declared_streams(&self) -> Vec<(&str, &Declared)> {
        match self {
            Plan::Source {
                stream,
                declared: Some(declared),
            } => vec![(stream, declared)],
            _ => self
                .inputs()
                .into_iter()
                .flat_map(Plan::declared_streams)
                .collect(),
        }
    }
}
