//! Exact minimum and maximum that survive retraction: all values are kept, with their counts.
//!
//! A column of one type fills one of the three multisets: 64-bit numbers (integers, times, booleans and, by the
//! order of their bits, doubles), decimals, or bytes (text and binary, in the order of the bytes, which for
//! UTF-8 is that of the code points). Doubles enter with −0.0 as 0.0 and every NaN as one NaN that is greater
//! than +∞.

use super::multiset::Multiset;
use serde::{Deserialize, Serialize};

/// The values of a group, sorted, with counts; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extremes {
    pub(super) numbers: Multiset<i64>,
    pub(super) decimals: Multiset<i128>,
    pub(super) bytes: Multiset<Box<[u8]>>,
}

impl Extremes {
    pub(super) fn add(&mut self, other: &Self) {
        self.numbers.add(&other.numbers);
        self.decimals.add(&other.decimals);
        self.bytes.add(&other.bytes);
    }

    pub(super) fn scale(&mut self, factor: i64) {
        self.numbers.scale(factor);
        self.decimals.scale(factor);
        self.bytes.scale(factor);
    }

    pub(super) fn is_zero(&self) -> bool {
        self.numbers.is_empty() && self.decimals.is_empty() && self.bytes.is_empty()
    }

    /// The texts or bytes that are present, in ascending order, with how often each is.
    pub fn present_bytes(&self) -> impl DoubleEndedIterator<Item = (&[u8], u64)> {
        let present = self.bytes.iter().filter(|(_, count)| *count > 0);
        present.map(|(value, count)| (value.as_ref(), count.unsigned_abs()))
    }

    /// The number of values held.
    pub(super) fn total(&self) -> i64 {
        let numbers = self.numbers.iter().map(|(_, count)| count);
        let decimals = self.decimals.iter().map(|(_, count)| count);
        numbers
            .chain(decimals)
            .chain(self.bytes.iter().map(|(_, count)| count))
            .sum()
    }

    /// The number of distinct values held, which is what this cell costs.
    pub fn distinct(&self) -> usize {
        self.numbers.distinct() + self.decimals.distinct() + self.bytes.distinct()
    }
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
