//! What the engine is built from.

use std::sync::Arc;
use std::time::Duration;

use pyflare_connectors::{Catalog, CheckpointStore, Log, Outputs, Store, TickLog};

use super::limits::MonitorLimits;

/// What the engine is built from.
pub struct EngineOptions {
    /// Timely worker threads.
    pub workers: usize,
    pub log: Arc<dyn Log>,
    pub tick_log: Arc<dyn TickLog>,
    pub catalog: Arc<dyn Catalog>,
    /// Where history goes; without it nothing beyond the live views is kept.
    pub store: Option<Arc<dyn Store>>,
    /// For the store's asynchronous calls.
    pub runtime: tokio::runtime::Handle,
    /// Ticks under load are this far apart.
    pub tick_period: Duration,
    /// Ticks without anything to do are this far apart.
    pub idle_period: Duration,
    pub flush_every: Duration,
    /// Bytes of requests after which a flush does not wait for its time.
    pub flush_bytes: u64,
    /// Rows older than this may be deleted from the stored streams, microseconds.
    pub stream_retention_us: Option<i64>,
    /// How long a worker reads for peeks before it looks for other work.
    pub read_slice: Duration,
    /// Rows that a monitor which starts over much is fed at one tick, by each worker, so that others stay fresh.
    pub slice_rows: usize,
    /// Of monitors whose options name none.
    pub limits: MonitorLimits,
    /// Where checkpoints go; without it every start replays the whole log.
    pub checkpoints: Option<Arc<dyn CheckpointStore>>,
    pub checkpoint_every: Duration,
    /// Admits no rows before [`Engine::admit_rows`](super::Engine::admit_rows): a log may have rows before the first
    /// view is installed.
    pub hold_rows: bool,
    /// A checkpoint with fewer rows is written anew each time; of others only the panes that have changed.
    pub checkpoint_least_rows: u64,
    /// Goes on over records that a topic deleted before they were read; else that is a stop.
    pub skip_deleted: bool,
    /// Topics that monitors write their changes to, where there are any.
    pub outputs: Option<Arc<dyn Outputs>>,
}

impl EngineOptions {
    pub fn new(
        log: Arc<dyn Log>,
        tick_log: Arc<dyn TickLog>,
        catalog: Arc<dyn Catalog>,
        store: Option<Arc<dyn Store>>,
        runtime: tokio::runtime::Handle,
    ) -> EngineOptions {
        EngineOptions {
            workers: 1,
            log,
            tick_log,
            catalog,
            store,
            runtime,
            tick_period: Duration::from_millis(100),
            idle_period: Duration::from_secs(1),
            flush_every: Duration::from_secs(10),
            flush_bytes: 128 << 20,
            stream_retention_us: None,
            read_slice: Duration::from_millis(2),
            slice_rows: 8_192,
            limits: MonitorLimits::default(),
            checkpoints: None,
            checkpoint_every: Duration::from_secs(60),
            hold_rows: false,
            checkpoint_least_rows: 20_000,
            skip_deleted: false,
            outputs: None,
        }
    }
}
