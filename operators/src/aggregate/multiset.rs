//! A sorted multiset whose copies share what they have in common.
//!
//! Entries `(value, count)` lie in strictly ascending order, without zero counts, in chunks of at most
//! [`CHUNK`] entries behind reference counts. A copy costs one count; adding a small set to a big one rewrites
//! only the chunks its values fall into (plus the list of chunks, when that is shared).
//!
//! Where chunks end depends on history, what is in them does not: equality, order, hash and encoding look at
//! the entries alone.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The most entries in a chunk: a rewritten chunk of numbers is 4 kB.
const CHUNK: usize = 256;

type Chunk<V> = Arc<[(V, i64)]>;

/// See the module. Counts may be negative: a multiset is also the *difference* of two.
#[derive(Clone, Debug)]
pub struct Multiset<V> {
    /// `None` when empty; no chunk is empty.
    chunks: Option<Arc<Vec<Chunk<V>>>>,
}

impl<V> Default for Multiset<V> {
    fn default() -> Self {
        Self { chunks: None }
    }
}

impl<V> Multiset<V> {
    fn chunks(&self) -> &[Chunk<V>] {
        self.chunks.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Entries in ascending order of their values.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &(V, i64)> {
        self.chunks().iter().flat_map(|chunk| chunk.iter())
    }

    /// The number of distinct values with a non-zero count.
    pub fn distinct(&self) -> usize {
        self.chunks().iter().map(|chunk| chunk.len()).sum()
    }

    /// The entry, if there is just one.
    pub(super) fn only(&self) -> Option<&(V, i64)> {
        match self.chunks() {
            [chunk] if chunk.len() == 1 => chunk.first(),
            _ => None,
        }
    }

    /// The sum of all counts.
    pub(super) fn total(&self) -> i64 {
        self.iter().map(|(_, count)| count).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_none()
    }

    /// The least value that is present (with a positive count).
    pub fn first(&self) -> Option<&V> {
        self.iter().find(|(_, count)| *count > 0).map(|(value, _)| value)
    }

    /// The greatest value that is present (with a positive count).
    pub fn last(&self) -> Option<&V> {
        self.iter()
            .rev()
            .find(|(_, count)| *count > 0)
            .map(|(value, _)| value)
    }
}

impl<V: Ord + Clone> Multiset<V> {
    /// From strictly ascending values with non-zero counts.
    pub(super) fn from_sorted(entries: &[(V, i64)]) -> Self {
        debug_assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let mut chunks = Vec::with_capacity(entries.len().div_ceil(CHUNK));
        push_chunks(entries, &mut chunks);
        Self::from_chunks(chunks)
    }

    fn from_chunks(chunks: Vec<Chunk<V>>) -> Self {
        Self {
            chunks: (!chunks.is_empty()).then(|| Arc::new(chunks)),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        if self.chunks().len() < other.chunks().len() {
            let small = std::mem::replace(self, other.clone());
            return self.add(&small);
        }
        let Some(shared) = &mut self.chunks else { return };
        let chunks = Arc::make_mut(shared);
        let delta: Vec<&(V, i64)> = other.iter().collect();
        let mut merged = Vec::new();
        let mut pieces = Vec::new();
        // From the back, so that a chunk which splits or vanishes does not move those still to be visited.
        let mut end = delta.len();
        while end > 0 {
            let place = chunks
                .partition_point(|chunk| chunk[0].0 <= delta[end - 1].0)
                .saturating_sub(1);
            let start = match place {
                0 => 0,
                _ => delta[..end].partition_point(|(value, _)| *value < chunks[place][0].0),
            };
            merged.clear();
            merge(&chunks[place], &delta[start..end], &mut merged);
            pieces.clear();
            push_chunks(&merged, &mut pieces);
            match pieces.as_mut_slice() {
                [piece] => std::mem::swap(&mut chunks[place], piece),
                _ => drop(chunks.splice(place..=place, pieces.drain(..))),
            }
            end = start;
        }
        if chunks.is_empty() {
            self.chunks = None;
        }
    }

    pub(super) fn scale(&mut self, factor: i64) {
        let scaled: Vec<(V, i64)> = self
            .iter()
            .map(|(value, count)| (value.clone(), count.wrapping_mul(factor)))
            .filter(|(_, count)| *count != 0)
            .collect();
        *self = Self::from_sorted(&scaled);
    }
}

/// Cuts entries into chunks of equal size, none above [`CHUNK`].
fn push_chunks<V: Clone>(entries: &[(V, i64)], chunks: &mut Vec<Chunk<V>>) {
    if entries.is_empty() {
        return;
    }
    let count = entries.len().div_ceil(CHUNK);
    chunks.extend(entries.chunks(entries.len().div_ceil(count)).map(Arc::from));
}

/// The sum of two sorted runs.
fn merge<V: Ord + Clone>(base: &[(V, i64)], delta: &[&(V, i64)], merged: &mut Vec<(V, i64)>) {
    let mut rest = base;
    for (value, count) in delta.iter().copied() {
        let below = rest.partition_point(|(other, _)| other < value);
        merged.extend_from_slice(&rest[..below]);
        rest = &rest[below..];
        let present = match rest.split_first() {
            Some(((other, present), tail)) if other == value => {
                rest = tail;
                *present
            }
            _ => 0,
        };
        let sum = present.wrapping_add(*count);
        if sum != 0 {
            merged.push((value.clone(), sum));
        }
    }
    merged.extend_from_slice(rest);
}

impl<V: PartialEq> PartialEq for Multiset<V> {
    fn eq(&self, other: &Self) -> bool {
        match (&self.chunks, &other.chunks) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => true,
            _ => self.iter().eq(other.iter()),
        }
    }
}

impl<V: Eq> Eq for Multiset<V> {}

impl<V: Ord> PartialOrd for Multiset<V> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<V: Ord> Ord for Multiset<V> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl<V: Hash> Hash for Multiset<V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.distinct());
        self.iter().for_each(|entry| entry.hash(state));
    }
}

impl<V: Serialize> Serialize for Multiset<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut sequence = serializer.serialize_seq(Some(self.distinct()))?;
        for entry in self.iter() {
            sequence.serialize_element(entry)?;
        }
        sequence.end()
    }
}

impl<'de, V: Deserialize<'de> + Ord + Clone> Deserialize<'de> for Multiset<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = Vec::<(V, i64)>::deserialize(deserializer)?;
        let ascending = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !ascending || entries.iter().any(|(_, count)| *count == 0) {
            let reason = "a multiset's values must ascend and its counts must not be zero";
            return Err(serde::de::Error::custom(reason));
        }
        Ok(Self::from_sorted(&entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn multiset(entries: &BTreeMap<i64, i64>) -> Multiset<i64> {
        let present: Vec<(i64, i64)> = entries
            .iter()
            .map(|(v, c)| (*v, *c))
            .filter(|(_, c)| *c != 0)
            .collect();
        Multiset::from_sorted(&present)
    }

    fn well_formed(set: &Multiset<i64>) -> bool {
        let chunks = set.chunks();
        chunks
            .iter()
            .all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK)
            && set.iter().zip(set.iter().skip(1)).all(|(a, b)| a.0 < b.0)
            && set.iter().all(|(_, count)| *count != 0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Against a plain map, with ranges that make chunks split, merge with their neighbours and vanish.
        #[test]
        fn adding_is_adding_the_counts(
            steps in prop::collection::vec((0i64..3000, 1usize..2000, 1i64..4, -1i64..=1), 1..12),
        ) {
            let mut set = Multiset::default();
            let mut model: BTreeMap<i64, i64> = BTreeMap::new();
            for (start, length, stride, count) in steps {
                let delta: BTreeMap<i64, i64> =
                    (0..length as i64).map(|place| (start + place * stride, count)).collect();
                let before = set.clone();
                let encoded = format!("{:?}", before.iter().collect::<Vec<_>>());
                set.add(&multiset(&delta));
                for (value, count) in delta {
                    *model.entry(value).or_default() += count;
                }
                model.retain(|_, count| *count != 0);
                prop_assert!(well_formed(&set));
                prop_assert_eq!(&set, &multiset(&model));
                prop_assert_eq!(set.cmp(&multiset(&model)), Ordering::Equal);
                prop_assert_eq!(format!("{:?}", before.iter().collect::<Vec<_>>()), encoded, "a copy changed");
                let present = || model.iter().filter(|(_, count)| **count > 0).map(|(value, _)| value);
                prop_assert_eq!((set.first(), set.last()), (present().next(), present().next_back()));
            }
        }
    }

    /// A small change to a large set leaves all chunks but one where they are.
    #[test]
    fn a_small_change_shares_the_rest() {
        let large: Vec<(i64, i64)> = (0..100_000).map(|value| (value, 1)).collect();
        let before = Multiset::from_sorted(&large);
        let mut after = before.clone();
        after.add(&Multiset::from_sorted(&[(50_000, -1)]));
        let kept = after
            .chunks()
            .iter()
            .zip(before.chunks())
            .filter(|(a, b)| Arc::ptr_eq(a, b))
            .count();
        assert_eq!(kept, before.chunks().len() - 1);
        assert_eq!(after.distinct(), 99_999);
    }
}
