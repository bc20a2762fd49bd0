//! Queries over stored and in-memory rows: their answers, the trace list, their limits.
#![allow(clippy::unwrap_used)]

mod answers;
mod house;
mod limits;
mod traces;
