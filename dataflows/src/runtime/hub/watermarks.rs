//! How far every view's event time had come at each of the last ticks.
//!
//! The watermark of a view at a tick is the least of `mark − lateness` over the streams below it, by the marks before that
//! tick: what closes the windows of `EMIT FINAL` at the same tick. While a log is replayed, ticks at which nothing
//! happened are passed over, and their marks with them; so what is known begins with the last tick of the replay.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::ring::{RING_MS, Ring};
use crate::plan::DEFAULT_LATENESS_US;
use crate::runtime::streams::Marks;
use crate::runtime::views::{InstalledView, RelationId};
use crate::time::Tick;

/// Marks kept in all; beyond it the oldest ticks leave earlier.
const MOST_MARKS: usize = 500_000;

/// See the module.
#[derive(Default)]
pub(super) struct Watermarks {
    /// From each tick on until the next, the marks that held; equal ones are not repeated.
    marks: VecDeque<(Tick, Arc<Marks>)>,
    kept: usize,
    floor: Tick,
    /// Whether the last tick was not one of a replay.
    live: bool,
}

impl Watermarks {
    /// Takes note of the marks before a tick. `live`: it is not one of a replay, but perhaps of its last tick.
    pub fn push(&mut self, tick: Tick, marks: Arc<Marks>, live: bool) {
        let follows = std::mem::replace(&mut self.live, live) && live;
        if !follows {
            self.marks.clear();
            self.kept = 0;
            self.floor = tick;
        }
        if self.marks.back().is_none_or(|(_, last)| **last != *marks) {
            self.kept += marks.iter().count();
            self.marks.push_back((tick, marks));
        }
        while let Some([(_, oldest), (next, _)]) = self.marks.make_contiguous().get(..2) {
            if next + RING_MS >= tick && self.kept <= MOST_MARKS {
                break;
            }
            self.kept -= oldest.iter().count();
            self.floor = *next;
            self.marks.pop_front();
        }
    }

    /// A view's watermark at a tick, microseconds; `None` if it is not known any more.
    pub fn of(&self, view: &InstalledView, tick: Tick, rings: &BTreeMap<RelationId, Ring>) -> Option<i64> {
        if tick < self.floor {
            return None;
        }
        let after = self.marks.partition_point(|(from, _)| *from <= tick);
        let (_, marks) = self.marks.get(after.checked_sub(1)?)?;
        Some(watermark(view, marks, rings))
    }
}

/// While a stream below has had no row, nothing is closed.
fn watermark(view: &InstalledView, marks: &Marks, rings: &BTreeMap<RelationId, Ring>) -> i64 {
    let own = view.definition.options.lateness_us;
    let of_streams = view.streams.iter().zip(view.bases()).map(|(stream, base)| {
        let declared = base.declared.as_ref().and_then(|declared| declared.lateness_us);
        let lateness_us = own.or(declared).unwrap_or(DEFAULT_LATENESS_US);
        let mark = marks.of(*stream);
        mark.map_or(i64::MIN, |mark| mark.saturating_sub(lateness_us))
    });
    let of_views = view.sources.iter().map(|source| {
        let source = RelationId {
            view: *source,
            companion: None,
        };
        let ring = rings.get(&source);
        ring.map_or(i64::MIN, |ring| watermark(&ring.relation.view, marks, rings))
    });
    of_streams.chain(of_views).min().unwrap_or(i64::MIN)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pyflare_connectors::Signal;

    use super::*;
    use crate::runtime::streams::StreamId;

    fn marks(mark: i64) -> Arc<Marks> {
        let streams = [Signal::Traces, Signal::Logs].map(StreamId::Signal);
        Arc::new(streams.into_iter().map(|stream| (stream, mark)).collect())
    }

    #[test]
    fn old_marks_and_those_of_a_replay_are_forgotten() {
        let mut known = Watermarks::default();
        known.push(10, marks(1), false);
        known.push(20, marks(2), false);
        assert_eq!((known.floor, known.marks.len()), (20, 1));
        known.push(30, marks(2), true);
        assert_eq!(
            (known.floor, known.marks.len()),
            (30, 1),
            "ticks before it may be missing"
        );
        known.push(40, marks(3), true);
        assert_eq!((known.floor, known.marks.len(), known.kept), (30, 2, 4));
        known.push(39 + RING_MS, marks(4), true);
        assert_eq!(known.floor, 30, "at that long ago the first marks held");
        known.push(41 + RING_MS, marks(5), true);
        assert_eq!((known.floor, known.kept), (40, 6));
    }
}
