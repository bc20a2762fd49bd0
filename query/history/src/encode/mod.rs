//! Rows as JSON, CSV and Arrow IPC: the one place that knows how a value of the contract is written outside.
//!
//! Numbers follow CONTRACTS: Int64 as JSON numbers or, on request, as strings (JavaScript has 53 bits); decimals and
//! the floats that JSON lacks (NaN, ±∞) as strings; times as RFC 3339 in UTC with microseconds; maps as objects, lists
//! as arrays, bytes as base64.

mod csv;
mod ipc;
mod json;

use arrow::datatypes::Schema;
use serde::Serialize;

pub use csv::csv;
pub use ipc::ipc_stream;
pub use json::{json_rows, write_cell, write_rows, write_time};

/// How 64-bit integers are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Int64Mode {
    #[default]
    Number,
    String,
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnDescription {
    pub name: String,
    /// As the contract calls it: `Utf8`, `Timestamp(µs, UTC)`, …
    #[serde(rename = "type")]
    pub type_name: String,
}

/// The columns of a result.
pub fn columns(schema: &Schema) -> Vec<ColumnDescription> {
    schema
        .fields()
        .iter()
        .map(|field| ColumnDescription {
            name: field.name().clone(),
            type_name: pyflare_operators::fields::type_name(field.data_type()),
        })
        .collect()
}

/// A tick, or any milliseconds since 1970, as RFC 3339.
pub fn time_of_tick(tick: u64) -> String {
    let micros = i64::try_from(tick).unwrap_or(i64::MAX).saturating_mul(1000);
    let mut text = String::new();
    json::write_time(&mut text, micros);
    text
}
