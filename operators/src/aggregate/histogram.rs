//! Counts by logarithmic bucket, for quantiles that can be retracted exactly.
//!
//! The state is the list of `(bucket, count)` in ascending order without zero counts, so equal contents are
//! equal states and rank is a walk. It is kept encoded, in some two bytes per bucket rather than sixteen: a
//! group has a hundred or more buckets, and there are many groups. Each entry is the number of buckets skipped
//! since the one before, then the count with its sign in the lowest bit, both as little-endian base-128 numbers
//! of the shortest form.

use super::buckets::{Bucket, INFINITE, NOT_A_NUMBER, representative};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use std::fmt;

/// The bucket before the first.
const BEFORE: Bucket = -INFINITE - 1;

/// Counts per logarithmic bucket; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Histogram {
    encoded: Box<[u8]>,
}

impl Histogram {
    /// From strictly ascending buckets with non-zero counts.
    pub(super) fn from_sorted(counts: &[(Bucket, i64)]) -> Self {
        let mut encoder = Encoder::new();
        counts
            .iter()
            .for_each(|(bucket, count)| encoder.push(*bucket, *count));
        encoder.finish()
    }

    /// Adds strictly ascending buckets with non-zero counts.
    pub(super) fn include(&mut self, counts: &[(Bucket, i64)]) {
        let other = Self::from_sorted(counts);
        if self.is_zero() {
            *self = other
        } else {
            self.add(&other)
        }
    }

    /// `(bucket, count)` in ascending order of the values; counts are not zero.
    pub fn counts(&self) -> impl Iterator<Item = (Bucket, i64)> + '_ {
        Decoder {
            rest: &self.encoded,
            bucket: BEFORE,
        }
    }

    /// How many values that are not NaN there are.
    pub fn numbers(&self) -> i64 {
        self.counts()
            .map(|(bucket, count)| if bucket == NOT_A_NUMBER { 0 } else { count })
            .sum()
    }

    /// The value of rank `⌈q · n⌉` (at least 1) among the `n` values that are not NaN, in ascending order, to
    /// within 1 %; `None` without such values. `q` is given in billionths, so that the rank is exact: 0.07 of
    /// 100 values is the seventh.
    pub fn quantile(&self, billionths: u32) -> Option<f64> {
        let total = self.numbers();
        if total <= 0 {
            return None;
        }
        let rank = (i128::from(total) * i128::from(billionths) + 999_999_999).div_euclid(1_000_000_000);
        let rank = i64::try_from(rank).unwrap_or(total).clamp(1, total);
        let mut seen = 0;
        self.counts().find_map(|(bucket, count)| {
            seen += count;
            (seen >= rank).then(|| representative(bucket))
        })
    }

    /// Adds another histogram. Stretches of this one between the buckets of the other are copied as they are.
    pub(super) fn add(&mut self, other: &Self) {
        if other.encoded.is_empty() {
            return;
        }
        if self.encoded.len() < other.encoded.len() {
            let small = std::mem::replace(self, other.clone());
            return self.add(&small);
        }
        let mut sum = Encoder::new();
        let mut base = Decoder {
            rest: &self.encoded,
            bucket: BEFORE,
        };
        let mut next = base.next();
        for (bucket, count) in other.counts() {
            if let Some((first, of_first)) = next.filter(|(first, _)| *first < bucket) {
                sum.push(first, of_first);
                let stretch = base.rest;
                let mut last = first;
                let mut after = base.rest;
                next = base.next();
                while let Some((below, _)) = next.filter(|(below, _)| *below < bucket) {
                    last = below;
                    after = base.rest;
                    next = base.next();
                }
                sum.copy(&stretch[..stretch.len() - after.len()], last);
            }
            let present = match next {
                Some((same, present)) if same == bucket => {
                    next = base.next();
                    present
                }
                _ => 0,
            };
            let count = count.wrapping_add(present);
            if count != 0 {
                sum.push(bucket, count);
            }
        }
        if let Some((bucket, count)) = next {
            sum.push(bucket, count);
            sum.copy(base.rest, NOT_A_NUMBER);
        }
        *self = sum.finish();
    }

    pub(super) fn scale(&mut self, factor: i64) {
        let mut product = Encoder::new();
        for (bucket, count) in self.counts() {
            let count = count.wrapping_mul(factor);
            if count != 0 {
                product.push(bucket, count);
            }
        }
        *self = product.finish();
    }

    pub(super) fn is_zero(&self) -> bool {
        self.encoded.is_empty()
    }
}

/// Writes entries one after the other.
struct Encoder {
    bytes: SmallVec<[u8; 1024]>,
    bucket: Bucket,
}

impl Encoder {
    fn new() -> Self {
        Self {
            bytes: SmallVec::new(),
            bucket: BEFORE,
        }
    }

    #[inline]
    fn push(&mut self, bucket: Bucket, count: i64) {
        debug_assert!(bucket > self.bucket && count != 0);
        let skipped = (bucket - self.bucket - 1) as u64;
        let signed = (count << 1 ^ count >> 63) as u64;
        self.bucket = bucket;
        if skipped < 128 && signed < 128 {
            self.bytes.extend_from_slice(&[skipped as u8, signed as u8]);
        } else {
            self.number(skipped);
            self.number(signed);
        }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 128 {
            self.bytes.push(number as u8 | 128);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Appends entries that were encoded behind the bucket written last; `last` is the last of them.
    fn copy(&mut self, encoded: &[u8], last: Bucket) {
        self.bytes.extend_from_slice(encoded);
        self.bucket = last;
    }

    fn finish(self) -> Histogram {
        Histogram {
            encoded: Box::from(self.bytes.as_slice()),
        }
    }
}

/// Reads entries; ends where an entry is cut off.
struct Decoder<'a> {
    rest: &'a [u8],
    bucket: Bucket,
}

impl Decoder<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        let mut shift = 0;
        loop {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            number |= u64::from(byte & 127).checked_shl(shift)?;
            if *byte < 128 {
                return Some(number);
            }
            shift += 7;
        }
    }
}

impl Iterator for Decoder<'_> {
    type Item = (Bucket, i64);

    #[inline]
    fn next(&mut self) -> Option<(Bucket, i64)> {
        let (skipped, signed) = match self.rest {
            [skipped @ 0..128, signed @ 0..128, rest @ ..] => {
                self.rest = rest;
                (u64::from(*skipped), u64::from(*signed))
            }
            _ => (self.number()?, self.number()?),
        };
        self.bucket = self.bucket.wrapping_add(skipped as Bucket).wrapping_add(1);
        Some((self.bucket, (signed >> 1) as i64 ^ -((signed & 1) as i64)))
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encoded)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(Encoded)
    }
}

/// Takes an encoded histogram, from formats that know bytes and from those that do not.
struct Encoded;

impl<'de> Visitor<'de> for Encoded {
    type Value = Histogram;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an encoded histogram")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Histogram, E> {
        let histogram = Histogram {
            encoded: Box::from(bytes),
        };
        if histogram.is_canonical() {
            Ok(histogram)
        } else {
            Err(E::custom("not an encoded histogram"))
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Histogram, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        self.visit_bytes(&bytes)
    }
}

impl Histogram {
    /// Whether the bytes are those that the content has.
    fn is_canonical(&self) -> bool {
        let mut encoder = Encoder::new();
        for (bucket, count) in self.counts() {
            if bucket <= encoder.bucket || bucket > NOT_A_NUMBER || count == 0 {
                return false;
            }
            encoder.push(bucket, count);
        }
        encoder.bytes.as_slice() == self.encoded.as_ref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::buckets::bucket;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Buckets near and far apart, counts of one byte and of ten.
    fn model() -> impl Strategy<Value = BTreeMap<Bucket, i64>> {
        let buckets = prop_oneof![36_000..36_300, -INFINITE..=NOT_A_NUMBER, Just(0), Just(INFINITE)];
        let counts = prop_oneof![-70i64..70, any::<i64>(), Just(i64::MIN), Just(1)];
        prop::collection::btree_map(
            buckets,
            counts.prop_filter("not zero", |count| *count != 0),
            0..80,
        )
    }

    fn histogram(model: &BTreeMap<Bucket, i64>) -> Histogram {
        let counts: Vec<(Bucket, i64)> = model.iter().map(|(bucket, count)| (*bucket, *count)).collect();
        Histogram::from_sorted(&counts)
    }

    proptest! {
        #[test]
        fn encoding_loses_nothing(model in model()) {
            let histogram = histogram(&model);
            prop_assert!(histogram.is_canonical());
            prop_assert_eq!(histogram.counts().collect::<BTreeMap<_, _>>(), model);
        }

        #[test]
        fn adding_is_adding_the_counts(a in model(), b in model(), cancelled in prop::collection::vec(any::<prop::sample::Index>(), 0..9)) {
            let mut b = b;
            for index in cancelled.iter().filter(|_| !a.is_empty()) {
                let (bucket, count) = a.iter().nth(index.index(a.len())).unwrap();
                b.insert(*bucket, count.wrapping_neg());
            }
            let mut expected = a.clone();
            for (bucket, count) in &b {
                let sum = expected.entry(*bucket).or_default();
                *sum = sum.wrapping_add(*count);
            }
            expected.retain(|_, count| *count != 0);
            let mut sum = histogram(&a);
            sum.add(&histogram(&b));
            prop_assert_eq!(sum, histogram(&expected));
        }

        /// Bytes from elsewhere are taken only if they are what the content would be written as.
        #[test]
        fn bytes_from_elsewhere_are_checked(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(histogram) = bincode::deserialize::<Histogram>(&bincode::serialize(&bytes).unwrap()) {
                let counts: Vec<(Bucket, i64)> = histogram.counts().collect();
                prop_assert_eq!(Histogram::from_sorted(&counts), histogram);
            }
        }
    }

    #[test]
    fn a_group_costs_two_bytes_a_bucket() {
        let latencies: Vec<(Bucket, i64)> = (0..110)
            .map(|place| (40_000 + 3 * place, 1 + place as i64 % 3))
            .collect();
        assert!(Histogram::from_sorted(&latencies).encoded.len() < 2 * latencies.len() + 4);
    }

    #[test]
    fn ranks_are_exact() {
        let hundred: Vec<(Bucket, i64)> = (1..=100).map(|value| (bucket(f64::from(value)), 1)).fold(
            Vec::new(),
            |mut counts: Vec<(Bucket, i64)>, (bucket, count)| {
                match counts.last_mut() {
                    Some(last) if last.0 == bucket => last.1 += count,
                    _ => counts.push((bucket, count)),
                }
                counts
            },
        );
        let histogram = Histogram::from_sorted(&hundred);
        let at = |billionths| histogram.quantile(billionths).unwrap();
        // In binary floating point 0.07 · 100 is above 7.
        assert_eq!(at(70_000_000), representative(bucket(7.0)));
        assert_eq!(at(70_000_001), representative(bucket(8.0)));
        assert_eq!(at(0), representative(bucket(1.0)));
        assert_eq!(at(1_000_000_000), representative(bucket(100.0)));
    }
}
