//! Sums: exact integers underneath, whatever the input type.
//!
//! | sum | bits | unit | can it wrap? |
//! |---|---|---|---|
//! | [`IntegerSum`] | 128 | 1 | not below 2^64 rows of 64-bit integers |
//! | [`DecimalSum`] | 192 | 10^-scale | not below 2^64 rows of `Decimal128` |
//! | [`FloatSum`] | 256 | 2^-128 | not below 2^40 rows of admissible doubles |
//!
//! A double enters [`FloatSum`] exactly when it is a multiple of 2^-128, which every double above 1.3e-23 is;
//! smaller ones are rounded to that grid, nearest and ties to even. A finite double of 2^87 or more has no
//! place in it and is an error of its row. Infinities and NaN are counted apart. The sum is rounded once, when
//! it is read, so it equals the correctly rounded sum of its inputs in any order.

use super::wide;
use serde::{Deserialize, Serialize};

/// Exact sum of integers and the number of values in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IntegerSum {
    pub(super) sum: [u64; 2],
    pub(super) count: i64,
}

/// Exact sum of decimals of one scale and the number of values in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DecimalSum {
    pub(super) sum: [u64; 3],
    pub(super) count: i64,
}

/// Exact sum of doubles (see the module) and the number of values in it, special ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FloatSum {
    pub(super) sum: [u64; 4],
    pub(super) count: i64,
    pub(super) positive_infinities: i64,
    pub(super) negative_infinities: i64,
    pub(super) not_numbers: i64,
}

/// The binary exponent of the unit of [`FloatSum`].
const UNIT_EXPONENT: i32 = -128;
/// The first finite magnitude that a float sum refuses: 2^87.
const LIMIT: f64 = (1u128 << 87) as f64;

/// Whether a float sum can take this value (its magnitude is below 2^87, or it is infinite or NaN).
#[inline]
pub fn summable(value: f64) -> bool {
    value.abs() < LIMIT || !value.is_finite()
}

impl IntegerSum {
    /// The exact sum.
    pub fn value(&self) -> i128 {
        ((u128::from(self.sum[1]) << 64) | u128::from(self.sum[0])) as i128
    }

    /// Sum divided by count, correctly rounded; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        let count = u64::try_from(self.count).ok().filter(|count| *count > 0)?;
        Some(wide::mean(&self.sum, count, 0))
    }

    pub(super) fn add(&mut self, other: &Self) {
        wide::add(&mut self.sum, &other.sum);
        self.count = self.count.wrapping_add(other.count);
    }

    pub(super) fn scale(&mut self, factor: i64) {
        wide::scale(&mut self.sum, factor);
        self.count = self.count.wrapping_mul(factor);
    }

    pub(super) fn is_zero(&self) -> bool {
        self.count == 0 && self.sum == [0; 2]
    }
}

impl DecimalSum {
    /// The exact unscaled sum, when 128 bits hold it.
    pub fn value(&self) -> Option<i128> {
        wide::to_i128(&self.sum)
    }

    /// Sum divided by count in units of 10^-(scale + `digits`), truncated towards zero; `None` without values,
    /// `Some(None)` when 128 bits do not hold it.
    pub fn mean(&self, digits: u32) -> Option<Option<i128>> {
        let count = u64::try_from(self.count).ok().filter(|count| *count > 0)?;
        let (negative, magnitude) = wide::magnitude(&self.sum);
        let quotient = wide::shift_decimal(magnitude, digits).map(|shifted| wide::quotient(&shifted, count));
        let value = quotient.as_ref().and_then(wide::to_i128);
        Some(value.map(|value| if negative { -value } else { value }))
    }

    pub(super) fn add(&mut self, other: &Self) {
        wide::add(&mut self.sum, &other.sum);
        self.count = self.count.wrapping_add(other.count);
    }

    pub(super) fn scale(&mut self, factor: i64) {
        wide::scale(&mut self.sum, factor);
        self.count = self.count.wrapping_mul(factor);
    }

    pub(super) fn is_zero(&self) -> bool {
        self.count == 0 && self.sum == [0; 3]
    }
}

impl FloatSum {
    /// Adds `diff` copies of a value for which [`summable`] holds.
    #[inline]
    pub(super) fn insert(&mut self, value: f64, diff: i64) {
        debug_assert!(
            summable(value),
            "the caller keeps out what a float sum cannot take"
        );
        self.count += diff;
        if !value.is_finite() {
            return self.insert_special(value, diff);
        }
        let (mantissa, shift) = on_grid(value);
        let wide = u128::from(mantissa) << (shift % 64);
        let (low, high) = (wide as u64, (wide >> 64) as u64);
        let mut term = match shift / 64 {
            0 => [low, high, 0, 0],
            1 => [0, low, high, 0],
            _ => [0, 0, low, high],
        };
        match diff {
            1 => {}
            -1 => wide::negate(&mut term),
            _ => wide::scale(&mut term, diff),
        }
        if value.is_sign_negative() {
            wide::negate(&mut term);
        }
        wide::add(&mut self.sum, &term);
    }

    #[cold]
    fn insert_special(&mut self, value: f64, diff: i64) {
        if value.is_nan() {
            self.not_numbers += diff;
        } else if value > 0.0 {
            self.positive_infinities += diff;
        } else {
            self.negative_infinities += diff;
        }
    }

    /// The correctly rounded sum; `None` without values. An exact zero reads as +0.0.
    pub fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| {
            self.special()
                .unwrap_or_else(|| wide::nearest(&self.sum, UNIT_EXPONENT))
        })
    }

    /// The exact sum divided by the count, rounded once; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        let count = u64::try_from(self.count).ok().filter(|count| *count > 0)?;
        Some(
            self.special()
                .unwrap_or_else(|| wide::mean(&self.sum, count, UNIT_EXPONENT)),
        )
    }

    /// What infinities and NaN make of the sum, as IEEE 754 addition would.
    fn special(&self) -> Option<f64> {
        let (up, down) = (self.positive_infinities > 0, self.negative_infinities > 0);
        match (self.not_numbers > 0 || (up && down), up, down) {
            (true, ..) => Some(f64::NAN),
            (_, true, _) => Some(f64::INFINITY),
            (_, _, true) => Some(f64::NEG_INFINITY),
            _ => None,
        }
    }

    /// Whether there is neither an infinity nor a NaN in the sum.
    pub(super) fn is_finite(&self) -> bool {
        self.special().is_none()
    }

    pub(super) fn add(&mut self, other: &Self) {
        wide::add(&mut self.sum, &other.sum);
        self.count = self.count.wrapping_add(other.count);
        self.positive_infinities = self.positive_infinities.wrapping_add(other.positive_infinities);
        self.negative_infinities = self.negative_infinities.wrapping_add(other.negative_infinities);
        self.not_numbers = self.not_numbers.wrapping_add(other.not_numbers);
    }

    pub(super) fn scale(&mut self, factor: i64) {
        wide::scale(&mut self.sum, factor);
        self.count = self.count.wrapping_mul(factor);
        self.positive_infinities = self.positive_infinities.wrapping_mul(factor);
        self.negative_infinities = self.negative_infinities.wrapping_mul(factor);
        self.not_numbers = self.not_numbers.wrapping_mul(factor);
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// The magnitude of a finite double below 2^87 as `mantissa · 2^shift` units of 2^-128, rounded to the nearest
/// unit, ties to even. `shift` is at most 162, so three limbs hold the product.
#[inline]
pub(super) fn on_grid(value: f64) -> (u64, u32) {
    const FRACTION: u64 = (1 << 52) - 1;
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let mantissa = (bits & FRACTION) | (1 << 52);
    // Biased exponent e stands for mantissa · 2^(e - 1075), that is 2^(e - 947) units.
    match exponent - 947 {
        shift @ 0.. => (mantissa, shift as u32),
        shift @ -53..0 => {
            let dropped = -shift as u32;
            let whole = mantissa >> dropped;
            let rest = mantissa & ((1 << dropped) - 1);
            let half = 1 << (dropped - 1);
            (
                whole + u64::from(rest > half || (rest == half && whole & 1 == 1)),
                0,
            )
        }
        _ => (0, 0),
    }
}
