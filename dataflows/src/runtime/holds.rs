//! Read holds: while one is kept, the views can still be read at its tick.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::time::Tick;

/// How far compaction stays behind the newest complete tick, so that a read needs no hold of its own to start.
const SLACK_MS: u64 = 1_000;

#[derive(Default)]
pub(crate) struct Holds {
    counts: Mutex<BTreeMap<Tick, usize>>,
}

/// Keeps the views readable at [`ReadHold::tick`] until it is dropped.
pub struct ReadHold {
    tick: Tick,
    holds: Arc<Holds>,
}

impl ReadHold {
    pub fn tick(&self) -> Tick {
        self.tick
    }
}

impl Drop for ReadHold {
    fn drop(&mut self) {
        let mut counts = self.holds.counts.lock();
        if let Some(count) = counts.get_mut(&self.tick) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tick);
            }
        }
    }
}

impl Holds {
    /// A hold at the newest complete tick.
    pub fn take(self: &Arc<Self>, complete: &AtomicU64) -> ReadHold {
        // Under the lock that `since` takes: compaction never passes a tick between reading and holding it.
        let mut counts = self.counts.lock();
        let tick = complete.load(Ordering::Acquire);
        *counts.entry(tick).or_default() += 1;
        ReadHold {
            tick,
            holds: Arc::clone(self),
        }
    }

    /// Times below this are read by nobody.
    pub fn since(&self, complete: &AtomicU64) -> Tick {
        let counts = self.counts.lock();
        let newest = complete.load(Ordering::Acquire).saturating_sub(SLACK_MS);
        counts.keys().next().map_or(newest, |held| newest.min(*held))
    }
}
