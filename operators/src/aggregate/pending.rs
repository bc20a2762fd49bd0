//! Values waiting to be counted by group.
//!
//! Counting distinct values per group one row at a time costs a cache miss each. So rows are only appended as
//! `(group, value)`; when they are wanted, or too many, they are scattered by group (a counting sort) and each
//! group's values are sorted and tallied.

use super::buckets::Bucket;

/// The most values that wait.
pub(super) const LIMIT: usize = 1 << 20;
/// The most different multiplicities that wait; a batch has +1 or −1.
const DIFFS: usize = 4;

/// A value that can be counted.
pub(super) trait Countable: Ord + Clone + Default {
    /// Sorts `values` as it likes and appends `(value, occurrences)` in ascending order.
    fn tally(values: &mut [Self], tallied: &mut Vec<(Self, i64)>) {
        values.sort_unstable();
        for run in values.chunk_by_mut(|a, b| a == b) {
            tallied.push((std::mem::take(&mut run[0]), run.len() as i64));
        }
    }
}

impl Countable for i64 {}
impl Countable for i128 {}
impl Countable for Box<[u8]> {}

impl Countable for Bucket {
    /// Buckets mostly lie close together: counting beats sorting when the range is not much longer than the
    /// list.
    fn tally(values: &mut [Self], tallied: &mut Vec<(Self, i64)>) {
        const STACK: usize = 512;
        let (low, high) = values
            .iter()
            .fold((Bucket::MAX, Bucket::MIN), |(low, high), value| {
                (low.min(*value), high.max(*value))
            });
        let range = (i64::from(high) - i64::from(low) + 1) as usize;
        if values.len() < 16 || range > STACK {
            values.sort_unstable();
            tallied.extend(
                values
                    .chunk_by(|a, b| a == b)
                    .map(|run| (run[0], run.len() as i64)),
            );
            return;
        }
        let mut counts = [0u32; STACK];
        for value in values.iter() {
            counts[(value - low) as usize] += 1;
        }
        let occupied = counts[..range]
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        tallied.extend(occupied.map(|(place, count)| (low + place as Bucket, i64::from(*count))));
    }
}

/// Rows of one multiplicity.
struct Run<V> {
    diff: i64,
    groups: Vec<u32>,
    values: Vec<V>,
}

/// See the module.
pub(super) struct Pending<V> {
    runs: Vec<Run<V>>,
    scratch: Vec<V>,
    starts: Vec<usize>,
    tallied: Vec<(V, i64)>,
}

impl<V> Default for Pending<V> {
    fn default() -> Self {
        Self {
            runs: Vec::new(),
            scratch: Vec::new(),
            starts: Vec::new(),
            tallied: Vec::new(),
        }
    }
}

impl<V: Countable> Pending<V> {
    /// The number of values that wait.
    pub(super) fn waiting(&self) -> usize {
        self.runs.iter().map(|run| run.values.len()).sum()
    }

    /// Whether `settle` is due before `additional` more rows of this multiplicity are appended.
    pub(super) fn is_full(&self, diff: i64, additional: usize) -> bool {
        let waiting = self.waiting();
        let new_diff = self.runs.iter().all(|run| run.diff != diff);
        (waiting > 0 && waiting + additional > LIMIT) || (new_diff && self.runs.len() >= DIFFS)
    }

    /// Where rows of one multiplicity are appended.
    pub(super) fn run(&mut self, diff: i64) -> (&mut Vec<u32>, &mut Vec<V>) {
        let place = self
            .runs
            .iter()
            .position(|run| run.diff == diff)
            .unwrap_or_else(|| {
                self.runs.push(Run {
                    diff,
                    groups: Vec::new(),
                    values: Vec::new(),
                });
                self.runs.len() - 1
            });
        let run = &mut self.runs[place];
        (&mut run.groups, &mut run.values)
    }

    /// Hands out, for each group with rows, its values in ascending order with their summed multiplicities, at
    /// most once per multiplicity, and forgets them.
    pub(super) fn settle(&mut self, group_count: usize, mut emit: impl FnMut(usize, &[(V, i64)])) {
        let Self {
            runs,
            scratch,
            starts,
            tallied,
        } = self;
        for run in runs.iter_mut() {
            starts.clear();
            starts.resize(group_count + 1, 0);
            for group in &run.groups {
                starts[*group as usize + 1] += 1;
            }
            for place in 0..group_count {
                starts[place + 1] += starts[place];
            }
            scratch.clear();
            scratch.resize(run.values.len(), V::default());
            // Each group's start advances to its end while its values are placed.
            for (group, value) in run.groups.iter().zip(&mut run.values) {
                let next = &mut starts[*group as usize];
                scratch[*next] = std::mem::take(value);
                *next += 1;
            }
            let mut start = 0;
            for (group, end) in starts[..group_count].iter().copied().enumerate() {
                if end > start {
                    tallied.clear();
                    V::tally(&mut scratch[start..end], tallied);
                    tallied.iter_mut().for_each(|(_, count)| *count *= run.diff);
                    emit(group, tallied);
                }
                start = end;
            }
            run.groups.clear();
            run.values.clear();
        }
        runs.retain(|run| run.values.capacity() <= LIMIT);
        if runs.len() >= DIFFS {
            runs.clear();
        }
    }
}
