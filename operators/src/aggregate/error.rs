//! What can go wrong in an aggregate: with a plan (no result), a row (left out) or a group (read as NULL).

use arrow::datatypes::DataType;

/// An input or a reading that does not fit the kinds of cells, a mistake of the plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AggregateError {
    #[error(
        "PF-3051: aggregate input {cell} has the type {data_type}, which {kind} cannot take; cast it first"
    )]
    InputType {
        cell: usize,
        kind: &'static str,
        data_type: DataType,
    },
    #[error(
        "PF-3052: aggregate input {cell} has {found} rows where the batch has {expected}; evaluate it on the same batch"
    )]
    InputLength {
        cell: usize,
        expected: usize,
        found: usize,
    },
    #[error(
        "PF-3053: the batch brings {found} aggregate inputs for {expected} cells; pass one per cell, in plan order"
    )]
    InputCount { expected: usize, found: usize },
    #[error(
        "PF-3054: aggregate cell {cell} ({kind}) cannot be read as {reading} of type {data_type}; plan a cell that can"
    )]
    Reading {
        cell: usize,
        kind: &'static str,
        reading: &'static str,
        data_type: DataType,
    },
    #[error("PF-3055: a batch touches more than {limit} groups; cut it into smaller batches")]
    TooManyGroups { limit: usize },
}

/// A row that an aggregate left out, entirely.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "PF-3056: the value {value:e} of row {row} is out of range for a float sum (magnitudes below 2^87); filter or scale it"
)]
pub struct RowError {
    /// The row's place in the batch.
    pub row: usize,
    /// The cell that could not take it.
    pub cell: usize,
    pub value: f64,
}

/// A group whose exact result cannot be shown; it is read as NULL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{misfit}")]
pub struct GroupError {
    /// The group's place among those read.
    pub group: usize,
    pub misfit: Misfit,
}

/// Why the result of a group cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("PF-3057: the {reading} of a group does not fit {data_type}; cast the input to a wider type")]
    Type {
        reading: &'static str,
        data_type: DataType,
    },
    #[error(
        "PF-3058: the {reading} of a group is longer than {limit} {unit}; filter, or group by more columns"
    )]
    Length {
        reading: &'static str,
        limit: usize,
        unit: &'static str,
    },
}
