//! How much the joins of one graph may make at one tick, over all workers.
//!
//! A join by a column with few values makes the product of its sides; it must neither fill the memory nor keep a
//! worker busy for minutes. Workers add up what they make; when the sum passes the limit, all of them stop making more.
//!
//! Invariant: what is counted at a tick only grows, and a graph that is complete on one worker makes nothing more on
//! any; so once a worker sees it complete, all workers agree on whether the budget is spent.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A record counts once per so many bytes.
const RECORD_BYTES: u64 = 128;
/// A worker tells the others after so many records.
const TOLD_AT_ONCE: u64 = 1_024;

/// Shared by all workers.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    made: AtomicU64,
    spent: AtomicBool,
}

impl Budget {
    pub fn new(limit: u64) -> Budget {
        Budget {
            limit,
            made: AtomicU64::new(0),
            spent: AtomicBool::new(false),
        }
    }

    /// More than the limit was made at one tick.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Acquire)
    }
}

/// One worker's hand on the budget of one graph.
#[derive(Clone)]
pub(crate) struct Meter {
    budget: Arc<Budget>,
    /// What all workers had made before the tick at hand.
    before: Rc<Cell<u64>>,
    /// What this one has made and not told yet.
    untold: Rc<Cell<u64>>,
    enforced: Rc<Cell<bool>>,
}

impl Meter {
    pub fn new(budget: &Arc<Budget>) -> Meter {
        Meter {
            budget: Arc::clone(budget),
            before: Rc::default(),
            untold: Rc::default(),
            enforced: Rc::new(Cell::new(true)),
        }
    }

    /// Whether the limit holds, for a budget of which nothing is made yet.
    pub fn enforce(&self, enforced: bool) {
        self.enforced.set(enforced);
    }

    /// Begins a tick. Every worker must do so before any worker makes something at it.
    pub fn open_tick(&self, enforced: bool) {
        self.before.set(self.budget.made.load(Ordering::Acquire));
        self.enforced.set(enforced);
    }

    /// Counts records of so many bytes together.
    pub fn count(&self, records: u64, bytes: u64) {
        let untold = self.untold.get() + records.max(bytes / RECORD_BYTES);
        if untold < TOLD_AT_ONCE.min(self.budget.limit / 16 + 1) {
            self.untold.set(untold);
            return;
        }
        self.untold.set(0);
        let made = self.budget.made.fetch_add(untold, Ordering::AcqRel) + untold;
        if self.enforced.get() && made - self.before.get() > self.budget.limit {
            self.budget.spent.store(true, Ordering::Release);
        }
    }

    /// Whether nothing more is to be made.
    pub fn is_spent(&self) -> bool {
        self.budget.is_spent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_over_workers_counts_and_each_tick_begins_anew() {
        let budget = Arc::new(Budget::new(100));
        let (one, other) = (Meter::new(&budget), Meter::new(&budget));
        for meter in [&one, &other] {
            meter.open_tick(true);
        }
        one.count(60, 0);
        assert!(!other.is_spent());
        for meter in [&one, &other] {
            meter.open_tick(true);
        }
        one.count(60, 0);
        other.count(10, 30 * RECORD_BYTES);
        assert!(!one.is_spent(), "90 at this tick");
        other.count(20, 0);
        assert!(one.is_spent() && other.is_spent());
    }

    #[test]
    fn a_replay_of_what_was_done_is_not_stopped() {
        let meter = Meter::new(&Arc::new(Budget::new(10)));
        meter.open_tick(false);
        meter.count(1_000, 0);
        assert!(!meter.is_spent());
    }
}
