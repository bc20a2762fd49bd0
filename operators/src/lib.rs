//! Pure computation: field declarations, OTLP decoding, accumulators.
