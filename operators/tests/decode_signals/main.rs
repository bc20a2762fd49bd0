//! Logs, metrics, OTLP/JSON and input that is too much: what comes out, value by value.
#![allow(clippy::unwrap_used)]

mod json;
mod limits;
mod rows;
mod signals;
