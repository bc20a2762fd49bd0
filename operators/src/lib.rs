//! Pure computation: field declarations, OTLP decoding, accumulators.
pub mod aggregate;
