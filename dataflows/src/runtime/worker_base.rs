//! A base on one worker: what feeds it, what a tick changed in it, and with `EMIT FINAL` which panes are closed.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use pyflare_connectors::Signal;
use pyflare_operators::aggregate::Accumulator;
use pyflare_operators::decode;

use super::messages::Commit;
use crate::render::arrange::{Change, Key, pane_of};
use crate::render::left_out::LeftOut;
use crate::render::{ArrangedView, Base, Tap};
use crate::time::Tick;

/// A decoded batch waiting for its tick's commit.
pub(super) struct DecodedBatch {
    pub signal: Signal,
    pub batch: RecordBatch,
    /// Of the request bodies that it came from.
    pub bytes: u64,
}

/// A base on this worker.
pub(super) struct WorkerBase {
    pub base: Arc<Base>,
    pub signal: Signal,
    pub tap: Tap,
    pub arranged: ArrangedView,
    /// Of the tick at hand.
    pub left_out: LeftOut,
    /// What the tick at hand changed.
    pub changes: Vec<Change>,
    /// With `EMIT FINAL`.
    pub closing: Option<Closing>,
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
        self.changes = self.arranged.take_changes();
        debug_assert!(self.changes.iter().all(|change| change.tick == commit.tick));
        let Some(closing) = &mut self.closing else { return };
        closing.before = closing.now;
        closing.entries.clear();
        let closed = self.base.rule.closed_until(commit.marks[self.signal as usize]);
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

    pub fn has_news(&self) -> bool {
        !self.changes.is_empty()
            || self
                .closing
                .as_ref()
                .is_some_and(|closing| !closing.entries.is_empty())
    }

    /// Every key that is shown at `tick`.
    pub fn read(&mut self, tick: Tick, visit: impl FnMut(&Key, Accumulator)) {
        match &self.closing {
            None => self.arranged.read(tick, visit),
            Some(closing) => self
                .arranged
                .read_panes(i64::MIN, closing.closed_at(tick), tick, visit),
        }
    }
}

pub(super) fn event_time(batch: &RecordBatch) -> ArrayRef {
    Arc::clone(
        batch
            .column_by_name("event_time")
            .expect("invariant: every stream has an event time"),
    )
}

pub(super) fn select(decoded: &DecodedBatch, columns: &[String]) -> RecordBatch {
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    decode::select(decoded.signal.stream(), &decoded.batch, &names)
        .expect("invariant: the decoder made this batch")
}
