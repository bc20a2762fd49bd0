//! Exact minimum and maximum that survive retraction: all values are kept, with their counts.
//!
//! A column of one type fills one of the three multisets: 64-bit numbers (integers, times, booleans and, by the
//! order of their bits, doubles), decimals, or bytes (text and binary, in the order of the bytes, which for
//! UTF-8 is that of the code points). Doubles enter with −0.0 as 0.0 and every NaN as one NaN that is greater
//! than +∞.

use super::multiset::Multiset;
use serde::{Deserialize, Serialize};

/// The values of a group, sorted, with counts; see the module.
///
/// Invariant: one form for one content, so that equality of forms is equality of contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Values", into = "Values")]
pub struct Extremes {
    values: Values,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Values {
    #[default]
    None,
    /// One different number and its count: most groups of high cardinality have no more, and pay for no set.
    Number(i64, i64),
    /// At least two different ones.
    Numbers(Multiset<i64>),
    Decimals(Multiset<i128>),
    Bytes(Multiset<Box<[u8]>>),
}

impl From<Values> for Extremes {
    /// Whatever was written, the form is the one for its content.
    fn from(values: Values) -> Self {
        let values = match values {
            Values::Number(_, 0) => Values::None,
            Values::Numbers(set) => Values::of_numbers(set),
            Values::Decimals(set) => Values::of_decimals(set),
            Values::Bytes(set) => Values::of_bytes(set),
            values => values,
        };
        Extremes { values }
    }
}

impl From<Extremes> for Values {
    fn from(extremes: Extremes) -> Self {
        extremes.values
    }
}

impl Values {
    fn of_numbers(numbers: Multiset<i64>) -> Self {
        if let Some((value, count)) = numbers.only() {
            return Values::Number(*value, *count);
        }
        match numbers.is_empty() {
            true => Values::None,
            false => Values::Numbers(numbers),
        }
    }

    fn of_decimals(decimals: Multiset<i128>) -> Self {
        match decimals.is_empty() {
            true => Values::None,
            false => Values::Decimals(decimals),
        }
    }

    fn of_bytes(bytes: Multiset<Box<[u8]>>) -> Self {
        match bytes.is_empty() {
            true => Values::None,
            false => Values::Bytes(bytes),
        }
    }

    fn plus(self, other: &Values) -> Values {
        let sum = |mut set: Multiset<i64>, other: &Multiset<i64>| {
            set.add(other);
            Values::of_numbers(set)
        };
        match (self, other) {
            (values, Values::None) => values,
            (Values::None, other) => other.clone(),
            (Values::Number(value, count), Values::Number(other, more)) if value == *other => {
                match count.wrapping_add(*more) {
                    0 => Values::None,
                    count => Values::Number(value, count),
                }
            }
            (Values::Number(value, count), Values::Number(other, more)) => {
                let mut entries = [(value, count), (*other, *more)];
                entries.sort_unstable();
                Values::Numbers(Multiset::from_sorted(&entries))
            }
            (Values::Number(value, count), Values::Numbers(set)) => {
                sum(set.clone(), &Multiset::from_sorted(&[(value, count)]))
            }
            (Values::Numbers(set), Values::Number(value, count)) => {
                sum(set, &Multiset::from_sorted(&[(*value, *count)]))
            }
            (Values::Numbers(set), Values::Numbers(other)) => sum(set, other),
            (Values::Decimals(mut set), Values::Decimals(other)) => {
                set.add(other);
                Values::of_decimals(set)
            }
            (Values::Bytes(mut set), Values::Bytes(other)) => {
                set.add(other);
                Values::of_bytes(set)
            }
            (values, _) => {
                debug_assert!(false, "a column of one type fills one multiset");
                values
            }
        }
    }
}

impl Extremes {
    pub(super) fn add(&mut self, other: &Self) {
        self.include(&other.values);
    }

    fn include(&mut self, values: &Values) {
        self.values = std::mem::take(&mut self.values).plus(values);
    }

    /// Adds numbers in strictly ascending order with counts that are not zero.
    pub(super) fn include_numbers(&mut self, counts: &[(i64, i64)]) {
        match counts {
            [(value, count)] => self.include(&Values::Number(*value, *count)),
            _ => self.include(&Values::of_numbers(Multiset::from_sorted(counts))),
        }
    }

    /// As [`include_numbers`](Self::include_numbers), of decimals.
    pub(super) fn include_decimals(&mut self, counts: &[(i128, i64)]) {
        self.include(&Values::of_decimals(Multiset::from_sorted(counts)));
    }

    /// As [`include_numbers`](Self::include_numbers), of bytes.
    pub(super) fn include_bytes(&mut self, counts: &[(Box<[u8]>, i64)]) {
        self.include(&Values::of_bytes(Multiset::from_sorted(counts)));
    }

    pub(super) fn scale(&mut self, factor: i64) {
        self.values = match std::mem::take(&mut self.values) {
            Values::None => Values::None,
            Values::Number(value, count) => match count.wrapping_mul(factor) {
                0 => Values::None,
                count => Values::Number(value, count),
            },
            Values::Numbers(mut set) => {
                set.scale(factor);
                Values::of_numbers(set)
            }
            Values::Decimals(mut set) => {
                set.scale(factor);
                Values::of_decimals(set)
            }
            Values::Bytes(mut set) => {
                set.scale(factor);
                Values::of_bytes(set)
            }
        };
    }

    pub(super) fn is_zero(&self) -> bool {
        matches!(self.values, Values::None)
    }

    /// The greatest or the least number present.
    pub(super) fn number(&self, greatest: bool) -> Option<i64> {
        match &self.values {
            Values::Number(value, count) => (*count > 0).then_some(*value),
            Values::Numbers(set) => end(set, greatest).copied(),
            _ => None,
        }
    }

    /// The least and the greatest number present.
    pub fn numbers(&self) -> Option<(i64, i64)> {
        Some((self.number(false)?, self.number(true)?))
    }

    /// The greatest or the least decimal present.
    pub(super) fn decimal(&self, greatest: bool) -> Option<i128> {
        match &self.values {
            Values::Decimals(set) => end(set, greatest).copied(),
            _ => None,
        }
    }

    /// The last or the first bytes present.
    pub(super) fn bytes(&self, greatest: bool) -> Option<&[u8]> {
        match &self.values {
            Values::Bytes(set) => end(set, greatest).map(AsRef::as_ref),
            _ => None,
        }
    }

    /// The texts or bytes that are present, in ascending order, with how often each is.
    pub fn present_bytes(&self) -> impl DoubleEndedIterator<Item = (&[u8], u64)> {
        let set = match &self.values {
            Values::Bytes(set) => Some(set),
            _ => None,
        };
        let present = set.into_iter().flat_map(Multiset::iter);
        let present = present.filter(|(_, count)| *count > 0);
        present.map(|(value, count)| (value.as_ref(), count.unsigned_abs()))
    }

    /// The number of values held.
    pub(super) fn total(&self) -> i64 {
        match &self.values {
            Values::None => 0,
            Values::Number(_, count) => *count,
            Values::Numbers(set) => set.total(),
            Values::Decimals(set) => set.total(),
            Values::Bytes(set) => set.total(),
        }
    }

    /// The number of distinct values held, which is what this cell costs.
    pub fn distinct(&self) -> usize {
        match &self.values {
            Values::None => 0,
            Values::Number(..) => 1,
            Values::Numbers(set) => set.distinct(),
            Values::Decimals(set) => set.distinct(),
            Values::Bytes(set) => set.distinct(),
        }
    }
}

fn end<V: Ord + Clone>(set: &Multiset<V>, greatest: bool) -> Option<&V> {
    if greatest { set.last() } else { set.first() }
}

/// A double as an integer of the same order.
#[inline]
pub(super) fn ordered(value: f64) -> i64 {
    let canonical = if value.is_nan() {
        f64::NAN.abs()
    } else {
        value + 0.0
    };
    let bits = canonical.to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

/// The double that [`ordered`] made an integer of.
#[inline]
pub(super) fn unordered(key: i64) -> f64 {
    f64::from_bits((key ^ ((key >> 63) as u64 >> 1) as i64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn doubles_keep_their_order_as_integers(a in any::<f64>(), b in any::<f64>()) {
            if let Some(order) = a.partial_cmp(&b) {
                prop_assert_eq!(ordered(a).cmp(&ordered(b)), order);
            }
            prop_assert_eq!(unordered(ordered(a)).to_bits(), if a.is_nan() { f64::NAN.to_bits() } else { (a + 0.0).to_bits() });
        }
    }

    #[test]
    fn one_zero_and_one_nan_above_all() {
        assert_eq!(ordered(-0.0), ordered(0.0));
        assert_eq!(ordered(-f64::NAN), ordered(f64::NAN));
        assert!(ordered(f64::NAN) > ordered(f64::INFINITY));
        assert!(ordered(f64::NEG_INFINITY) < ordered(f64::MIN));
    }
}
