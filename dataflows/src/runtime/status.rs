//! Figures about the running engine, and why it may ask receivers to wait.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use parking_lot::Mutex;
use pyflare_connectors::Signal;

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
    /// The tick of the checkpoint that this process began with.
    pub restored_tick: Option<Tick>,
    /// Ticks that it replayed.
    pub replayed_ticks: u64,
    pub failure: Option<String>,
    /// Rows admitted, by signal; those of all users' streams together.
    pub rows: [u64; Signal::ALL.len()],
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

/// Counters that others read while the engine runs.
#[derive(Default)]
pub(crate) struct Gauges {
    pub tick: AtomicU64,
    pub replaying: AtomicBool,
    /// No rows are admitted yet: the views that are to have them are being installed.
    pub holds_rows: AtomicBool,
    /// Zero: none.
    pub restored: AtomicU64,
    pub replayed: AtomicU64,
    pub failed: AtomicBool,
    pub rows: [AtomicU64; Signal::ALL.len()],
    pub requests: AtomicU64,
    pub duplicates: AtomicU64,
    pub rejected_rows: AtomicU64,
    pub failed_requests: AtomicU64,
    /// How long the newest admitted request had waited while more waits; 0 when caught up.
    pub lag_ms: AtomicU64,
    pub tick_micros: AtomicU64,
    pub admitted_bytes: AtomicU64,
    /// Records in the log beyond what is admitted.
    pub backlog_records: AtomicU64,
    pub failure: Mutex<Option<String>>,
    pub marks: [AtomicI64; 3],
}
