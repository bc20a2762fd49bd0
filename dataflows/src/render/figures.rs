//! What operators have done and keep: counted by each worker, read by whoever asks.
//!
//! A worker tells its figures after ticks that touched them, four times a second at most, so a monitor that nobody
//! feeds costs nothing. Rows that
//! are kept are the updates in the arrangements: those of the last second or so, which are not merged yet, count too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// One operator on one worker, or on all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figure {
    /// Rows that it has given since it was installed, those taken back as well.
    pub rows_out: u64,
    /// Rows in its arrangements.
    pub state_rows: u64,
    /// Their bytes, from the mean of the rows that came.
    pub state_bytes: u64,
    /// Microseconds that it was at work.
    pub busy_us: u64,
    /// How often timely let it run.
    pub runs: u64,
}

impl Figure {
    pub fn add(&mut self, other: Figure) {
        self.rows_out += other.rows_out;
        self.state_rows += other.state_rows;
        self.state_bytes += other.state_bytes;
        self.busy_us += other.busy_us;
        self.runs += other.runs;
    }
}

/// The figures of a base or of a graph, by worker and node of the plan.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Tells the arrangements of this process apart.
    pub number: u64,
    known: Mutex<BTreeMap<(usize, usize), Figure>>,
    /// The rows of the operator that keeps the most, over all workers.
    greatest: AtomicU64,
}

impl Default for Figures {
    fn default() -> Figures {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Figures {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            known: Mutex::default(),
            greatest: AtomicU64::new(0),
        }
    }
}

impl Figures {
    /// Takes over what a worker has counted.
    pub fn set(&self, worker: usize, figures: impl Iterator<Item = (usize, Figure)>) {
        let mut known = self.known.lock();
        known.extend(figures.map(|(node, figure)| ((worker, node), figure)));
        let mut by_node: BTreeMap<usize, u64> = BTreeMap::new();
        for ((_, node), figure) in known.iter() {
            *by_node.entry(*node).or_default() += figure.state_rows;
        }
        let greatest = by_node.into_values().max().unwrap_or(0);
        self.greatest.store(greatest, Ordering::Release);
    }

    /// What is kept is gone.
    pub fn clear(&self) {
        for figure in self.known.lock().values_mut() {
            figure.state_rows = 0;
            figure.state_bytes = 0;
        }
        self.greatest.store(0, Ordering::Release);
    }

    pub fn greatest(&self) -> u64 {
        self.greatest.load(Ordering::Acquire)
    }

    /// By worker and node.
    pub fn all(&self) -> Vec<(usize, usize, Figure)> {
        let known = self.known.lock();
        known
            .iter()
            .map(|((worker, node), figure)| (*worker, *node, *figure))
            .collect()
    }
}

/// A worker tells no more often than this: with a thousand monitors, adding up would cost more than counting.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// Whether there is something to tell.
#[derive(Debug, Default)]
pub(crate) struct News {
    waiting: bool,
    told: Option<Instant>,
}

impl News {
    pub fn note(&mut self) {
        self.waiting = true;
    }

    /// Whether to tell now; then it is told.
    pub fn is_due(&mut self) -> bool {
        if !self.waiting || self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return false;
        }
        self.waiting = false;
        self.told = Some(Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_operator_is_that_of_all_workers_together() {
        let figures = Figures::default();
        let of = |state_rows| Figure {
            state_rows,
            ..Figure::default()
        };
        figures.set(0, [(0, of(5)), (1, of(7))].into_iter());
        assert_eq!(figures.greatest(), 7);
        figures.set(1, [(0, of(4)), (1, of(0))].into_iter());
        assert_eq!(figures.greatest(), 9);
        figures.set(0, [(0, of(1))].into_iter());
        assert_eq!(figures.greatest(), 7);
        figures.clear();
        assert_eq!((figures.greatest(), figures.all().len()), (0, 4));
    }
}
