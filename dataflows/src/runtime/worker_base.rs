//! A base on one worker: what feeds it, what a tick changed in it, and with `EMIT FINAL` which panes are closed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use pyflare_operators::aggregate::Accumulator;

use super::messages::Commit;
use super::streams::StreamId;
use crate::render::arrange::{Change, GroupWalk, pane_of};
use crate::render::figures::News;
use crate::render::key::Key;
use crate::render::leaf::Layout;
use crate::render::left_out::LeftOut;
use crate::render::walk::Path;
use crate::render::{ArrangedView, Base, Busy, Figure, SharedBatch, Tap};
use crate::time::Tick;

/// A decoded batch waiting for its tick's commit.
pub(super) struct DecodedBatch {
    pub stream: StreamId,
    pub batch: RecordBatch,
    /// Of the request bodies that it came from.
    pub bytes: u64,
    /// False: the rows are stored and in no view.
    pub in_views: bool,
}

impl DecodedBatch {
    pub fn shared(&self) -> SharedBatch<'_> {
        let decoded_as = match self.stream {
            StreamId::Signal(signal) => signal.stream(),
            StreamId::User(_) => None,
        };
        SharedBatch::new(&self.batch, decoded_as)
    }
}

/// A base on this worker.
pub(super) struct WorkerBase {
    pub base: Arc<Base>,
    pub stream: StreamId,
    pub tap: Tap,
    pub arranged: ArrangedView,
    /// Of the tick at hand.
    pub left_out: LeftOut,
    /// What the tick at hand changed.
    pub changes: Vec<Change>,
    /// With `EMIT FINAL`.
    pub closing: Option<Closing>,
    /// Which panes had ended at the tick before.
    pub passed: Option<i64>,
    /// Changes of keys so far.
    pub changed: u64,
    /// Rows folded into accumulators took so long.
    pub folding: Duration,
    pub news: News,
}

/// Which panes of a base are closed, and so shown.
pub(super) struct Closing {
    /// Panes that end at or before this were closed before the tick at hand …
    before: i64,
    /// … and are now.
    pub now: i64,
    /// What the panes show that the tick at hand closes.
    pub entries: Vec<(Key, Accumulator)>,
    /// From which tick on how far panes were closed, back to the oldest tick that may be read.
    history: VecDeque<(Tick, i64)>,
}

impl Closing {
    pub fn at(closed: i64, tick: Tick) -> Closing {
        Closing {
            before: closed,
            now: closed,
            entries: Vec::new(),
            history: VecDeque::from([(tick, closed)]),
        }
    }

    fn closed_at(&self, tick: Tick) -> i64 {
        let known = self.history.iter().rev().find(|(from, _)| *from <= tick);
        known.map_or(i64::MIN, |(_, closed)| *closed)
    }
}

impl WorkerBase {
    /// Takes over what the completed tick changed.
    pub fn complete(&mut self, commit: &Commit) {
        self.arranged.note_changed();
        self.changes = self.arranged.take_changes();
        debug_assert!(self.changes.iter().all(|change| change.tick == commit.tick));
        self.changed += self.changes.len() as u64;
        self.passed = self
            .base
            .rule
            .expired_until(commit.marks.of(self.stream), commit.tick);
        let Some(closing) = &mut self.closing else { return };
        closing.before = closing.now;
        closing.entries.clear();
        let closed = self.base.rule.closed_until(commit.marks.of(self.stream));
        closing.now = closing.now.max(closed.unwrap_or(i64::MIN));
        if closing.now > closing.before {
            let entries = &mut closing.entries;
            self.arranged
                .read_panes(closing.before, closing.now, commit.tick, |key, accumulator| {
                    entries.push((key.clone(), accumulator));
                });
            closing.history.push_back((commit.tick, closing.now));
        }
        while closing
            .history
            .get(1)
            .is_some_and(|(from, _)| *from <= commit.since)
        {
            closing.history.pop_front();
        }
        // What happens in an open pane is shown once it closes.
        let before = closing.before;
        self.changes.retain(|change| pane_of(&change.key) <= before);
    }

    /// Tells what it keeps and has done, if that is new and was not told just now.
    pub fn tell(&mut self, worker: usize, busy: &Busy) {
        if !self.news.is_due() {
            return;
        }
        let (state_rows, state_bytes) = self.arranged.kept();
        let (busy_us, runs) = busy.of(self.arranged.operators());
        let figure = Figure {
            rows_out: self.changed,
            state_rows: state_rows + self.tap.waiting(),
            state_bytes,
            busy_us: busy_us + self.folding.as_micros() as u64,
            runs,
        };
        self.base.figures.set(worker, std::iter::once((0, figure)));
    }

    pub fn has_news(&self) -> bool {
        !self.changes.is_empty()
            || self
                .closing
                .as_ref()
                .is_some_and(|closing| !closing.entries.is_empty())
    }

    /// Begins to read the keys that are shown at `tick`, of those whose columns have wanted values; also of how many
    /// columns of the key it finds no others.
    pub fn walk(&mut self, tick: Tick, wanted: impl Fn(usize) -> Option<ArrayRef>) -> (GroupWalk, usize) {
        let panes = match (self.base.layout, &self.closing) {
            (Layout::Merged, _) => None,
            (_, None) => Some((i64::MIN, i64::MAX)),
            (_, Some(closing)) => Some((i64::MIN, closing.closed_at(tick))),
        };
        let (path, sought) = Path::of_columns(panes, &self.base.key_types, wanted);
        (self.arranged.walk(path, tick), sought)
    }
}
