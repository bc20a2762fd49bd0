//! Figures about the running engine, and why it may ask receivers to wait.

use crate::time::Tick;

/// Why receivers should wait before sending more.
#[derive(Debug, Clone)]
pub struct Busy {
    pub retry_after_ms: u64,
    pub reason: String,
}

/// Figures about the running engine.
#[derive(Debug, Clone, Default)]
pub struct EngineStatus {
    pub workers: usize,
    pub tick: Tick,
    /// The newest tick that all workers have passed.
    pub complete_tick: Tick,
    pub replaying: bool,
    pub failure: Option<String>,
    /// Rows admitted, by stream: spans, metrics, logs.
    pub rows: [u64; 3],
    /// The streams' marks, microseconds.
    pub marks_us: [Option<i64>; 3],
    pub requests: u64,
    pub duplicate_requests: u64,
    pub rejected_rows: u64,
    pub failed_requests: u64,
    pub lag_ms: u64,
    pub last_tick_micros: u64,
    pub admitted_bytes: u64,
    pub tail_bytes: u64,
    pub flushed_tick: Option<Tick>,
    pub flushed_rows: u64,
    pub store_failure: Option<String>,
    pub views: usize,
}
