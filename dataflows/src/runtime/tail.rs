//! The in-memory tail of history: rows and view changes beyond the last flushed cut.
//!
//! What the store holds up to the flushed tick `F` and what the tail holds beyond it are together everything, once.
//! Rows of a cut stay here until the store has committed them, so a reader that filters the store by `_tick ≤ F`
//! and takes the tail beyond the same `F` misses nothing and sees nothing twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use pyflare_operators::decode;

use super::consolidate::{Changes, TickChanges, with_tick_and_diff};
use super::streams::{StreamId, signal_schema};
use super::views::InstalledView;
use crate::time::Tick;

/// Rows of one relation beyond the flushed cut.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// The store holds everything up to this tick; `None` if nothing was flushed yet.
    pub flushed: Option<Tick>,
    pub batches: Vec<RecordBatch>,
}

#[derive(Default)]
pub(crate) struct HistoryTail {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    flushed: Option<Tick>,
    streams: BTreeMap<StreamId, VecDeque<StreamRows>>,
    views: BTreeMap<u64, ViewChanges>,
    bytes: u64,
}

struct StreamRows {
    tick: Tick,
    batch: RecordBatch,
    /// Bytes of the requests the rows came in, which string columns still point to.
    bytes: u64,
}

struct ViewChanges {
    view: Arc<InstalledView>,
    changes: VecDeque<(Tick, TickChanges)>,
    /// From which tick on the store has only what it showed then.
    renewals: VecDeque<(Tick, Vec<Changes>)>,
}

/// Everything that one flush cut writes.
pub(crate) struct FlushBlock {
    pub streams: Vec<(StreamId, Vec<RecordBatch>)>,
    pub views: Vec<ViewBlock>,
}

/// What changed in a view.
pub(crate) struct ViewBlock {
    pub view: Arc<InstalledView>,
    pub changes: Vec<Changes>,
    /// What takes the place of all that is stored, before the changes.
    pub renewal: Option<Vec<Changes>>,
}

impl HistoryTail {
    pub fn push_rows(&self, stream: StreamId, tick: Tick, batch: RecordBatch, bytes: u64) {
        let mut inner = self.inner.lock();
        inner.bytes += bytes;
        let rows = StreamRows { tick, batch, bytes };
        inner.streams.entry(stream).or_default().push_back(rows);
    }

    pub fn add_view(&self, view: Arc<InstalledView>) {
        self.inner.lock().views.insert(
            view.id,
            ViewChanges {
                view,
                changes: VecDeque::new(),
                renewals: VecDeque::new(),
            },
        );
    }

    pub fn remove_view(&self, id: u64) {
        self.inner.lock().views.remove(&id);
    }

    /// Rows of a dropped stream are not stored any more.
    pub fn remove_stream(&self, id: u64) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let rows = inner.streams.remove(&StreamId::User(id));
        inner.bytes -= rows.iter().flatten().map(|rows| rows.bytes).sum::<u64>();
    }

    pub fn push_changes(&self, view: u64, tick: Tick, changes: TickChanges) {
        if let Some(tail) = self.inner.lock().views.get_mut(&view) {
            tail.changes.push_back((tick, changes));
        }
    }

    /// From `tick` on the store has of a view what it shows then, and what changes later.
    pub fn renew(&self, view: u64, tick: Tick, content: Vec<Changes>) {
        if let Some(tail) = self.inner.lock().views.get_mut(&view) {
            tail.renewals.push_back((tick, content));
        }
    }

    /// Bytes of requests whose rows are not yet stored.
    pub fn bytes(&self) -> u64 {
        self.inner.lock().bytes
    }

    pub fn is_empty(&self) -> bool {
        let inner = self.inner.lock();
        inner.streams.values().all(VecDeque::is_empty)
            && inner
                .views
                .values()
                .all(|view| view.changes.is_empty() && view.renewals.is_empty())
    }

    pub fn flushed(&self) -> Option<Tick> {
        self.inner.lock().flushed
    }

    /// What the cut at `tick` has to write. Nothing is removed until [`Self::release`].
    pub fn block(&self, tick: Tick) -> FlushBlock {
        let inner = self.inner.lock();
        let streams = inner.streams.iter().map(|(stream, rows)| {
            let rows = rows.iter().take_while(|rows| rows.tick <= tick);
            (*stream, rows.map(|rows| rows.batch.clone()).collect::<Vec<_>>())
        });
        let views = inner.views.values().map(|view| {
            let renewal = view.renewals.iter().rfind(|(at, _)| *at <= tick);
            // What changed until then is in what it showed then.
            let after = renewal.map_or(0, |(at, _)| *at);
            let changes = view.changes.iter().take_while(|(at, _)| *at <= tick);
            let changes = changes.filter(|(at, _)| *at > after);
            ViewBlock {
                view: Arc::clone(&view.view),
                changes: changes.flat_map(|(_, changes)| changes.parts()).collect(),
                renewal: renewal.map(|(_, content)| content.clone()),
            }
        });
        let has_something = |block: &ViewBlock| !block.changes.is_empty() || block.renewal.is_some();
        FlushBlock {
            streams: streams.filter(|(_, batches)| !batches.is_empty()).collect(),
            views: views.filter(has_something).collect(),
        }
    }

    /// Forgets everything up to `tick`, which the store has committed.
    pub fn release(&self, tick: Tick) {
        let mut released = Vec::new();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.flushed = Some(tick);
        for stream in inner.streams.values_mut() {
            while stream.front().is_some_and(|rows| rows.tick <= tick) {
                let rows = stream.pop_front();
                inner.bytes -= rows.as_ref().map_or(0, |rows| rows.bytes);
                released.push(rows);
            }
        }
        for view in inner.views.values_mut() {
            while view.changes.front().is_some_and(|(at, _)| *at <= tick) {
                view.changes.pop_front();
            }
            while view.renewals.front().is_some_and(|(at, _)| *at <= tick) {
                view.renewals.pop_front();
            }
        }
        // Freeing many batches takes a while: not under the lock.
        drop(guard);
        drop(released);
    }

    /// The rows of a stream beyond the flushed cut, up to `tick`, with the columns a monitor sees.
    pub fn stream(&self, stream: StreamId, tick: Tick) -> Tail {
        let inner = self.inner.lock();
        let rows = inner.streams.get(&stream).into_iter().flatten();
        let rows = rows.take_while(|rows| rows.tick <= tick);
        let kept: Vec<RecordBatch> = rows.map(|rows| rows.batch.clone()).collect();
        let flushed = inner.flushed;
        drop(inner);
        Tail {
            flushed,
            batches: kept.iter().map(|batch| logical(stream, batch)).collect(),
        }
    }

    /// A view's changes beyond the flushed cut, up to `tick`: its columns, `_tick` and `_diff`.
    pub fn changes(&self, view: u64, tick: Tick) -> Tail {
        let inner = self.inner.lock();
        let Some(tail) = inner.views.get(&view) else {
            return Tail {
                flushed: inner.flushed,
                batches: Vec::new(),
            };
        };
        let kept = tail.changes.iter().take_while(|(at, _)| *at <= tick);
        let kept: Vec<(Tick, TickChanges)> = kept.cloned().collect();
        let flushed = inner.flushed;
        drop(inner);
        let net = kept.iter().filter_map(|(at, changes)| Some((at, changes.net()?)));
        Tail {
            flushed,
            batches: net
                .map(|(at, changes)| with_tick_and_diff(&changes, *at))
                .collect(),
        }
    }
}

/// All columns of the stream, those kept as wire bytes materialised.
pub(crate) fn logical(stream: StreamId, batch: &RecordBatch) -> RecordBatch {
    let StreamId::Signal(signal) = stream else {
        return batch.clone();
    };
    let schema = signal_schema(signal);
    let columns: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let stream = signal.stream().expect("invariant: OTLP's signals have streams");
    decode::select(stream, batch, &columns).expect("invariant: the decoder made this batch")
}
