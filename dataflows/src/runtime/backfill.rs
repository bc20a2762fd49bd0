//! Views that begin before they are installed: what was admitted already is read back and folded.
//!
//! A base is a sum over rows, so what the past adds to it can be summed anywhere. A thread of its own reads the stored
//! rows, then those in memory that are not stored yet, into accumulators by key, beside the dataflow; running views
//! notice only the processor's time. Once the sums reach to the newest tick the view is installed, at a tick without
//! rows, and they are the first content of its bases.
//!
//! The install record says since when. A replay sums the same rows again: rows are stored with their ticks and marks,
//! and which of them count is a function of these alone.
//!
//! An erasure is the same with the sign reversed: what its rows added to the bases there are is taken back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use pyflare_connectors::{RowRange, Store};

use super::EngineError;
use super::erasing::Erasing;
use super::erasure::Erasures;
use super::messages::ToCoordinator;
use super::starting::Reply;
use super::status::Gauges;
use super::streams::{StreamId, StreamRegistry};
use super::sums::Sums;
use super::tail::HistoryTail;
use super::views::{InstalledView, ViewName};
use crate::time::Tick;

/// After the store failed to hand over the rows of an erasure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where rows are that were admitted before.
pub(crate) struct Past {
    pub store: Arc<dyn Store>,
    pub runtime: tokio::runtime::Handle,
    pub tail: Arc<HistoryTail>,
    pub streams: Arc<StreamRegistry>,
    pub erasures: Arc<Erasures>,
    /// How long rows are stored of streams that say nothing else, microseconds.
    pub retention_us: Option<i64>,
    pub stop: AtomicBool,
}

impl Past {
    /// Adds what was admitted until `complete`, a tick that all workers have completed; `go_on` is asked after every
    /// batch.
    pub fn add_until(
        &self,
        sums: &mut Sums,
        complete: Tick,
        go_on: &(dyn Fn(&Sums, usize) -> Result<(), EngineError> + Sync),
    ) -> Result<(), EngineError> {
        for stream in sums.streams() {
            // Read together with what is stored until when: no row is missing between the two, none is in both.
            let tail = self.tail.stream(stream, complete);
            let stored = tail.flushed.map_or(0, |flushed| flushed.min(complete));
            if stored > sums.upto {
                self.add_stored(sums, stream, stored, go_on)?;
            }
            let after = sums.upto.max(stored);
            for batch in &tail.batches {
                sums.add(stream, batch, after, complete)?;
                go_on(sums, batch.num_rows())?;
            }
        }
        sums.upto = sums.upto.max(complete);
        Ok(())
    }

    fn add_stored(
        &self,
        sums: &mut Sums,
        stream: StreamId,
        until: Tick,
        go_on: &(dyn Fn(&Sums, usize) -> Result<(), EngineError> + Sync),
    ) -> Result<(), EngineError> {
        let Some(table) = self.streams.table(stream) else {
            return Ok(());
        };
        let columns = sums.columns(stream);
        let after = sums.upto;
        let range = RowRange {
            columns: &columns,
            after,
            until,
        };
        let mut outcome = Ok(());
        let mut visit = |batch: RecordBatch| {
            outcome = match self.stop.load(Ordering::Acquire) {
                true => Err(EngineError::Closed),
                false => sums
                    .add(stream, &batch, after, until)
                    .and_then(|()| go_on(sums, batch.num_rows())),
            };
            outcome.is_ok()
        };
        // On a thread of its own: the caller may be one that serves.
        let read = std::thread::scope(|scope| {
            let reading = || {
                self.runtime
                    .block_on(self.store.read_rows(&table, range, &mut visit))
            };
            scope.spawn(reading).join()
        });
        match read {
            Ok(Ok(())) => outcome,
            Ok(Err(error)) => Err(EngineError::Unreadable {
                detail: error.to_string(),
            }),
            Err(_) => Err(EngineError::Unreadable {
                detail: format!("reading the table {table} failed"),
            }),
        }
    }
}

/// A view that waits for its past.
pub(crate) struct Backfill {
    pub view: Arc<InstalledView>,
    pub or_replace: bool,
    pub reply: Reply,
    pub sums: Sums,
}

impl Backfill {
    /// Whether what is missing has left the memory meanwhile.
    pub fn is_overtaken(&self, flushed: Option<Tick>) -> bool {
        flushed.is_some_and(|flushed| flushed > self.sums.upto)
    }
}

/// How far a view's past has been read.
#[derive(Debug, Clone)]
pub struct BackfillProgress {
    pub name: ViewName,
    /// Rows admitted after this tick are read.
    pub since: Tick,
    /// When it was asked for.
    pub asked_at: Tick,
    /// Whether it is its turn; one view is read for at a time.
    pub is_reading: bool,
    /// Rows read so far.
    pub rows: u64,
    /// Groups of the largest base so far.
    pub groups: u64,
}

/// All views that wait, by id.
#[derive(Default)]
pub(crate) struct Backfills(Mutex<BTreeMap<u64, BackfillProgress>>);

impl Backfills {
    pub fn all(&self) -> Vec<BackfillProgress> {
        self.0.lock().values().cloned().collect()
    }

    pub fn begin(&self, view: &InstalledView) {
        let progress = BackfillProgress {
            name: view.name.clone(),
            since: view.start,
            asked_at: crate::time::now_ms(),
            is_reading: false,
            rows: 0,
            groups: 0,
        };
        self.0.lock().entry(view.id).or_insert(progress);
    }

    pub fn end(&self, view: u64) {
        self.0.lock().remove(&view);
    }

    fn note(&self, view: u64, rows: usize, groups: u64) {
        if let Some(progress) = self.0.lock().get_mut(&view) {
            progress.is_reading = true;
            progress.rows += rows as u64;
            progress.groups = groups;
        }
    }
}

/// What the past is read for.
pub(crate) enum ReadJob {
    Backfill(Box<Backfill>),
    Erasure(Box<Erasing>),
}

/// The thread that reads the past for one view, or erasure, after the other.
pub(crate) struct Reader {
    pub past: Arc<Past>,
    pub jobs: Receiver<ReadJob>,
    pub coordinator: Sender<ToCoordinator>,
    pub progress: Arc<Backfills>,
    /// They know the newest tick that all workers have completed.
    pub gauges: Arc<Gauges>,
}

impl Reader {
    pub fn run(self) {
        for job in &self.jobs {
            let read = match job {
                ReadJob::Backfill(backfill) => self.read_for_view(backfill),
                ReadJob::Erasure(erasing) => self.read_for_erasure(erasing),
            };
            if read.is_some_and(|read| self.coordinator.send(read).is_err()) {
                return;
            }
        }
    }

    fn read_for_view(&self, mut backfill: Box<Backfill>) -> Option<ToCoordinator> {
        let view = Arc::clone(&backfill.view);
        self.progress.begin(&view);
        let within_limits = |sums: &Sums, rows: usize| {
            let groups = sums.groups();
            self.progress.note(view.id, rows, groups);
            match groups > view.limits.rows {
                true => Err(EngineError::Backfill {
                    name: view.name.to_string(),
                    detail: format!(
                        "it would keep more than max_rows = {} rows; filter or aggregate more, or begin later",
                        view.limits.rows
                    ),
                }),
                false => Ok(()),
            }
        };
        let complete = self.gauges.tick.load(Ordering::Acquire);
        match self.past.add_until(&mut backfill.sums, complete, &within_limits) {
            Ok(()) => Some(ToCoordinator::Backfilled(backfill)),
            Err(error) => {
                self.progress.end(view.id);
                let _ = backfill.reply.send(Err(error));
                None
            }
        }
    }

    /// The store may be away for a while: what was asked for is tried until it is done.
    fn read_for_erasure(&self, mut erasing: Box<Erasing>) -> Option<ToCoordinator> {
        let id = erasing.request.id;
        let note = |sums: &Sums, _: usize| {
            self.past.erasures.note(id, sums.rows());
            Ok(())
        };
        let until = erasing.request.until;
        // It comes again where only the newest rows are missing.
        let mut read = match erasing.is_complete {
            true => Ok(()),
            false => self.past.add_until(&mut erasing.sums, until, &note),
        };
        if read.is_ok() {
            let known = erasing.whole.take();
            let mut whole = known.unwrap_or_else(|| erasing.sums.whole(&erasing.ended));
            while read.is_ok() && !whole.is_empty() {
                let complete = self.gauges.tick.load(Ordering::Acquire);
                read = self.past.add_until(&mut whole, complete, &|_, _| Ok(()));
                // What is in memory then is added at the tick.
                if self.past.tail.flushed() <= Some(whole.upto()) {
                    break;
                }
            }
            erasing.whole = Some(whole);
        }
        erasing.is_complete = read.is_ok();
        if let Err(error) = read {
            if self.past.stop.load(Ordering::Acquire) {
                return None;
            }
            tracing::warn!(%error, erasure = id, "the rows of an erasure could not be read; it is tried again");
            std::thread::sleep(RETRY_AFTER);
        }
        Some(ToCoordinator::ErasureRead(erasing))
    }
}
