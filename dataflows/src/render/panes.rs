//! What each group adds up to in each pane, where the result does not show the pane.
//!
//! Nobody reads this but expiry: when a pane ends, what its groups added is taken back. So it is a map by the time at
//! which that happens and not an arrangement, which would keep versions that nobody asks for.
//!
//! Invariants: a worker holds the groups that the exchange sends to it; after tick `t` is complete, it holds what the
//! updates of ticks `≤ t` add up to, and perhaps some of `t + 1`, whose panes do not end before `t + 1` is complete.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use pyflare_operators::aggregate::Accumulator;

use super::key::Key;

/// See the module.
#[derive(Default)]
pub(crate) struct Panes {
    by_end: BTreeMap<i64, HashMap<Key, Accumulator>>,
}

impl Panes {
    pub fn add(&mut self, end: i64, group: &[u8], added: &Accumulator) {
        let groups = self.by_end.entry(end).or_default();
        match groups.get_mut(group) {
            None => drop(groups.insert(Key::from(group), added.clone())),
            Some(sum) => {
                sum.add(added);
                if sum.is_zero() {
                    groups.remove(group);
                }
            }
        }
        if groups.is_empty() {
            self.by_end.remove(&end);
        }
    }

    /// The end of the first pane that holds something.
    pub fn lowest(&self) -> i64 {
        self.by_end.keys().next().copied().unwrap_or(i64::MAX)
    }

    /// What is held of panes that end at or before `until`: end, group, accumulator.
    pub fn until(&self, until: i64) -> impl Iterator<Item = (i64, &Key, &Accumulator)> {
        let ended = self.by_end.range(..=until);
        ended.flat_map(|(end, groups)| groups.iter().map(|(group, sum)| (*end, group, sum)))
    }

    /// The number of (group, pane).
    pub fn len(&self) -> usize {
        self.by_end.values().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: i64) -> Accumulator {
        Accumulator {
            rows,
            ..Accumulator::default()
        }
    }

    #[test]
    fn what_is_taken_back_is_gone() {
        let mut panes = Panes::default();
        for (end, group, count) in [(20, "a", 1), (10, "a", 2), (10, "b", 3), (10, "a", 4)] {
            panes.add(end, group.as_bytes(), &rows(count));
        }
        assert_eq!((panes.lowest(), panes.len()), (10, 3));
        let mut ended: Vec<(i64, Vec<u8>, i64)> = panes
            .until(19)
            .map(|(end, group, sum)| (end, group.to_vec(), sum.rows))
            .collect();
        ended.sort();
        assert_eq!(ended, [(10, b"a".to_vec(), 6), (10, b"b".to_vec(), 3)]);
        for (end, group, count) in ended {
            panes.add(end, &group, &rows(-count));
        }
        assert_eq!((panes.lowest(), panes.len()), (20, 1));
        panes.add(20, b"a", &rows(-1));
        assert_eq!((panes.lowest(), panes.len()), (i64::MAX, 0));
    }
}
