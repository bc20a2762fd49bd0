//! Pure computation: field declarations, OTLP decoding, accumulators.
//!
//! This crate is the leaf of the workspace. It knows Arrow and small crates, and neither does input or
//! output nor knows of async code or of DataFusion, so that everybody may use it.
pub mod aggregate;
pub mod conform;
pub mod corpus;
pub mod decode;
pub mod fields;
pub mod streams;
