//! ClickHouse as a store, against the real engine: its contract, blocks written again, what queries answer, refusals.
#![allow(clippy::unwrap_used)]

mod blocks;
mod conformance;
mod content;
mod current;
mod refusals;
mod service;
