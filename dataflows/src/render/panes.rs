//! What each group adds up to in each pane, where the result does not show the pane.
//!
//! Nobody reads this but expiry: when a pane ends, what its groups added is taken back. So it is a map by the time at
//! which that happens and not an arrangement, which would keep versions that nobody asks for.
//!
//! A checkpoint reads a tick's content while later ticks go on: it shares the maps, and who changes a shared one copies
//! it first. So that such a copy is short, a pane with many groups is several maps.
//!
//! Invariants: a worker holds the groups that the exchange sends to it; after tick `t` is complete, it holds what the
//! updates of ticks `≤ t` add up to, and perhaps some of `t + 1`, whose panes do not end before `t + 1` is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use hashbrown::HashMap;
use pyflare_operators::aggregate::Accumulator;
use xxhash_rust::xxh3::xxh3_64;

use super::key::Key;

/// Groups with what they add up to; perhaps shared with a checkpoint.
pub(crate) type PaneGroups = Rc<HashMap<Key, Accumulator>>;

/// A pane with more groups is divided into so many maps.
const UNDIVIDED: usize = 8_192;
const MAPS: usize = 256;

/// See the module.
#[derive(Default)]
pub(crate) struct Panes {
    by_end: BTreeMap<i64, Pane>,
    /// The end that was noted last.
    noted: Option<i64>,
    changed: BTreeSet<i64>,
}

/// One map, or [`MAPS`] by the hash of the group.
struct Pane(Vec<PaneGroups>);

impl Pane {
    fn map_of(&mut self, group: &[u8]) -> &mut PaneGroups {
        let place = match self.0.len() {
            1 => 0,
            maps => xxh3_64(group) as usize % maps,
        };
        &mut self.0[place]
    }

    fn len(&self) -> usize {
        self.0.iter().map(|groups| groups.len()).sum()
    }

    fn groups(&self) -> impl Iterator<Item = (&Key, &Accumulator)> {
        self.0.iter().flat_map(|groups| groups.iter())
    }

    fn divide_if_large(&mut self) {
        if self.0.len() > 1 || self.0[0].len() <= UNDIVIDED {
            return;
        }
        let whole = std::mem::take(Rc::make_mut(&mut self.0[0]));
        self.0 = vec![PaneGroups::default(); MAPS];
        for (group, sum) in whole {
            Rc::make_mut(self.map_of(&group)).insert(group, sum);
        }
    }
}

impl Panes {
    pub fn add(&mut self, end: i64, group: &[u8], added: &Accumulator) {
        if self.noted != Some(end) {
            self.noted = Some(end);
            self.changed.insert(end);
        }
        let pane = self
            .by_end
            .entry(end)
            .or_insert_with(|| Pane(vec![PaneGroups::default()]));
        let groups = Rc::make_mut(pane.map_of(group));
        match groups.get_mut(group) {
            None => drop(groups.insert(Key::from(group), added.clone())),
            Some(sum) => {
                sum.add(added);
                if sum.is_zero() {
                    groups.remove(group);
                }
            }
        }
        if groups.is_empty() && pane.len() == 0 {
            self.by_end.remove(&end);
        } else {
            pane.divide_if_large();
        }
    }

    /// The ends of panes to which something was added since this was asked.
    pub fn take_changed(&mut self) -> BTreeSet<i64> {
        self.noted = None;
        std::mem::take(&mut self.changed)
    }

    /// The panes that are wanted as they are now, map by map: end, groups.
    pub fn shared(&self, wanted: impl Fn(i64) -> bool) -> impl Iterator<Item = (i64, PaneGroups)> {
        let panes = self.by_end.iter().filter(move |(end, _)| wanted(**end));
        panes.flat_map(|(end, pane)| pane.0.iter().map(|groups| (*end, Rc::clone(groups))))
    }

    /// The end of the first pane that holds something.
    pub fn lowest(&self) -> i64 {
        self.by_end.keys().next().copied().unwrap_or(i64::MAX)
    }

    /// What is held of panes that end at or before `until`: end, group, accumulator.
    pub fn until(&self, until: i64) -> impl Iterator<Item = (i64, &Key, &Accumulator)> {
        let ended = self.by_end.range(..=until);
        ended.flat_map(|(end, pane)| pane.groups().map(|(group, sum)| (*end, group, sum)))
    }

    /// The number of (group, pane).
    pub fn len(&self) -> usize {
        self.by_end.values().map(Pane::len).sum()
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

    #[test]
    fn what_is_shared_stays_as_it_was_and_large_panes_are_divided() {
        let mut panes = Panes::default();
        let group = |number: usize| number.to_string().into_bytes();
        for number in 0..3 * UNDIVIDED {
            panes.add(10, &group(number), &rows(1));
        }
        assert_eq!(panes.len(), 3 * UNDIVIDED);
        let shared: Vec<(i64, PaneGroups)> = panes.shared(|_| true).collect();
        assert_eq!(shared.len(), MAPS);
        for number in 0..2 * UNDIVIDED {
            panes.add(10, &group(number), &rows(-1));
        }
        panes.add(20, b"new", &rows(1));
        assert_eq!((panes.len(), panes.until(10).count()), (UNDIVIDED + 1, UNDIVIDED));
        let kept: i64 = shared
            .iter()
            .flat_map(|(_, groups)| groups.values().map(|sum| sum.rows))
            .sum();
        assert_eq!(kept, 3 * UNDIVIDED as i64);
        for number in 2 * UNDIVIDED..3 * UNDIVIDED {
            panes.add(10, &group(number), &rows(-1));
        }
        assert_eq!((panes.lowest(), panes.len()), (20, 1));
    }
}
