//! Two's complement integers of fixed width, as little-endian arrays of 64-bit limbs.
//!
//! Addition wraps, so every width is a cyclic group: order, splits and retractions cannot matter. The widths
//! in use are chosen so that no admissible sum wraps (128 bits for `Int64`, 192 for `Decimal128`, 256 for
//! scaled doubles); the wrap is only what makes a group of it.
//!
//! The one place that rounds is [`round`]: it is handed an exact magnitude and returns the nearest double.

/// `a += b`.
#[inline]
pub(super) fn add<const N: usize>(a: &mut [u64; N], b: &[u64; N]) {
    let mut carry = false;
    for (limb, other) in a.iter_mut().zip(b) {
        let (sum, first) = limb.overflowing_add(*other);
        let (sum, second) = sum.overflowing_add(u64::from(carry));
        *limb = sum;
        carry = first | second;
    }
}

/// `a = -a`.
#[inline]
pub(super) fn negate<const N: usize>(a: &mut [u64; N]) {
    let mut carry = true;
    for limb in a.iter_mut() {
        let (sum, overflow) = (!*limb).overflowing_add(u64::from(carry));
        *limb = sum;
        carry = overflow;
    }
}

/// `a *= factor`.
pub(super) fn scale<const N: usize>(a: &mut [u64; N], factor: i64) {
    let multiplier = factor.unsigned_abs();
    let mut carry = 0u64;
    for limb in a.iter_mut() {
        let product = u128::from(*limb) * u128::from(multiplier) + u128::from(carry);
        *limb = product as u64;
        carry = (product >> 64) as u64;
    }
    if factor < 0 {
        negate(a);
    }
}

/// Sign-extends a 128-bit integer.
#[inline]
pub(super) fn from_i128<const N: usize>(value: i128) -> [u64; N] {
    let sign = (value >> 127) as u64;
    let mut limbs = [sign; N];
    limbs[0] = value as u64;
    limbs[1] = (value >> 64) as u64;
    limbs
}

/// The value, when 128 bits hold it.
pub(super) fn to_i128<const N: usize>(a: &[u64; N]) -> Option<i128> {
    let value = ((u128::from(a[1]) << 64) | u128::from(a[0])) as i128;
    (from_i128::<N>(value) == *a).then_some(value)
}

/// Sign and magnitude, widened to 256 bits.
pub(super) fn magnitude<const N: usize>(a: &[u64; N]) -> (bool, [u64; 4]) {
    let (negative, absolute) = absolute(a);
    let mut widened = [0; 4];
    widened[..N].copy_from_slice(&absolute);
    (negative, widened)
}

/// The same value in more limbs.
pub(super) fn widened<const N: usize, const M: usize>(a: &[u64; N]) -> [u64; M] {
    let mut widened = [if a[N - 1] >> 63 == 1 { u64::MAX } else { 0 }; M];
    widened[..N].copy_from_slice(a);
    widened
}

/// Sign and magnitude.
pub(super) fn absolute<const N: usize>(a: &[u64; N]) -> (bool, [u64; N]) {
    let negative = a[N - 1] >> 63 == 1;
    let mut absolute = *a;
    if negative {
        negate(&mut absolute);
    }
    (negative, absolute)
}

/// `a · b` of two's complement integers.
pub(super) fn product<const N: usize>(a: &[u64; N], b: &[u64; N]) -> [u64; N] {
    let mut product = [0u64; N];
    for (place, factor) in a.iter().enumerate() {
        let mut carry = 0u64;
        for (limb, other) in product[place..].iter_mut().zip(b) {
            let sum = u128::from(*factor) * u128::from(*other) + u128::from(*limb) + u128::from(carry);
            *limb = sum as u64;
            carry = (sum >> 64) as u64;
        }
    }
    product
}

/// `magnitude /= divisor`, rounded down; says whether something remained.
pub(super) fn divide_by(magnitude: &mut [u64], divisor: u64) -> bool {
    let mut remainder = 0u64;
    for limb in magnitude.iter_mut().rev() {
        let dividend = (u128::from(remainder) << 64) | u128::from(*limb);
        *limb = (dividend / u128::from(divisor)) as u64;
        remainder = (dividend % u128::from(divisor)) as u64;
    }
    remainder != 0
}

/// `magnitude << 128` divided by `divisor`, and whether something remains.
///
/// 128 more bits below the point leave at least 65 significant bits in the quotient of any non-zero magnitude
/// by any 63-bit divisor, enough for [`round`] to round once.
pub(super) fn divide(magnitude: &[u64; 4], divisor: u64) -> ([u64; 6], bool) {
    let mut quotient = [0; 6];
    quotient[2..].copy_from_slice(magnitude);
    let inexact = divide_by(&mut quotient, divisor);
    (quotient, inexact)
}

/// `magnitude / divisor`, rounded down.
pub(super) fn quotient(magnitude: &[u64; 4], divisor: u64) -> [u64; 4] {
    let (shifted, _) = divide(magnitude, divisor);
    [shifted[2], shifted[3], shifted[4], shifted[5]]
}

/// `magnitude · 10^digits`, or nothing when it needs more than 255 bits.
pub(super) fn shift_decimal(mut magnitude: [u64; 4], digits: u32) -> Option<[u64; 4]> {
    for _ in 0..digits {
        if magnitude[3] >> 59 != 0 {
            return None;
        }
        scale(&mut magnitude, 10);
    }
    Some(magnitude)
}

/// The double nearest to `±(magnitude + ε) · 2^exponent`, ties to even, where ε is a positive amount below one
/// when `inexact` and zero otherwise.
///
/// The caller keeps the result within the normal range, and the magnitude at 55 bits or more when `inexact`.
pub(super) fn round(negative: bool, magnitude: &[u64], inexact: bool, exponent: i32) -> f64 {
    let Some(top_limb) = magnitude.iter().rposition(|limb| *limb != 0) else {
        return 0.0;
    };
    let top = top_limb * 64 + 63 - magnitude[top_limb].leading_zeros() as usize;
    let (kept, dropped) = if top <= 52 {
        debug_assert!(!inexact, "a short inexact magnitude cannot be rounded correctly");
        (magnitude[0], 0)
    } else {
        let dropped = top - 52;
        let kept = window(magnitude, dropped) & ((1 << 53) - 1);
        let half = bit(magnitude, dropped - 1);
        let below = inexact || any_below(magnitude, dropped - 1);
        let up = half && (below || kept & 1 == 1);
        (kept + u64::from(up), dropped)
    };
    let value = kept as f64 * power_of_two(exponent + dropped as i32);
    if negative { -value } else { value }
}

/// 64 bits from bit `start` upwards.
fn window(limbs: &[u64], start: usize) -> u64 {
    let (limb, offset) = (start / 64, start % 64);
    let low = limbs[limb] >> offset;
    match limbs.get(limb + 1) {
        Some(next) if offset > 0 => low | next << (64 - offset),
        _ => low,
    }
}

fn bit(limbs: &[u64], position: usize) -> bool {
    limbs[position / 64] >> (position % 64) & 1 == 1
}

fn any_below(limbs: &[u64], position: usize) -> bool {
    let (limb, offset) = (position / 64, position % 64);
    limbs[..limb].iter().any(|limb| *limb != 0) || limbs[limb] & ((1 << offset) - 1) != 0
}

/// `2^exponent` for an exponent of the normal range.
fn power_of_two(exponent: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&exponent));
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// `numerator / count`, correctly rounded, for an integer numerator scaled by `2^-exponent`.
pub(super) fn mean<const N: usize>(numerator: &[u64; N], count: u64, exponent: i32) -> f64 {
    let (negative, magnitude) = magnitude(numerator);
    let (quotient, inexact) = divide(&magnitude, count);
    round(negative, &quotient, inexact, exponent - 128)
}

/// The double nearest to an integer scaled by `2^-exponent`.
pub(super) fn nearest<const N: usize>(value: &[u64; N], exponent: i32) -> f64 {
    let (negative, magnitude) = magnitude(value);
    let mut widened = [0; 6];
    widened[..4].copy_from_slice(&magnitude);
    round(negative, &widened, false, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::{BigInt, BigUint, Sign};
    use proptest::prelude::*;

    fn big<const N: usize>(a: &[u64; N]) -> BigInt {
        let bytes: Vec<u8> = a.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        BigInt::from_signed_bytes_le(&bytes)
    }

    fn unsigned(a: &[u64]) -> BigUint {
        BigUint::from_bytes_le(&a.iter().flat_map(|limb| limb.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// Modulo 2^(64 N), in the range of two's complement.
    fn wrapped(value: BigInt, bits: usize) -> BigInt {
        let modulus = BigInt::from(1) << bits;
        let rest = ((value % &modulus) + &modulus) % &modulus;
        if rest >= BigInt::from(1) << (bits - 1) {
            rest - modulus
        } else {
            rest
        }
    }

    /// Limbs that make carries run.
    fn limb() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(1), Just(1 << 63)]
    }

    proptest! {
        #[test]
        fn arithmetic_is_that_of_integers_modulo_two_to_the_width(
            a in prop::array::uniform4(limb()),
            b in prop::array::uniform4(limb()),
            factor: i64,
        ) {
            let mut sum = a;
            add(&mut sum, &b);
            prop_assert_eq!(big(&sum), wrapped(big(&a) + big(&b), 256));
            let mut negative = a;
            negate(&mut negative);
            prop_assert_eq!(big(&negative), wrapped(-big(&a), 256));
            let mut product = a;
            scale(&mut product, factor);
            prop_assert_eq!(big(&product), wrapped(big(&a) * factor, 256));
        }

        #[test]
        fn products_and_quotients_are_those_of_integers(
            a in prop::array::uniform8(limb()),
            b in prop::array::uniform8(limb()),
            divisor in 1u64..,
        ) {
            prop_assert_eq!(big(&product(&a, &b)), wrapped(big(&a) * big(&b), 512));
            prop_assert_eq!(big(&widened::<8, 16>(&a)), big(&a));
            let (negative, magnitude) = absolute(&a);
            let exact = big(&a);
            prop_assert_eq!((negative, &unsigned(&magnitude)), (exact.sign() == Sign::Minus, exact.magnitude()));
            let mut quotient = a;
            let inexact = divide_by(&mut quotient, divisor);
            prop_assert_eq!(unsigned(&quotient), unsigned(&a) / divisor);
            prop_assert_eq!(inexact, unsigned(&a) % divisor != BigUint::ZERO);
        }

        #[test]
        fn widening_keeps_the_value(value: i128) {
            prop_assert_eq!(big(&from_i128::<3>(value)), BigInt::from(value));
            prop_assert_eq!(to_i128(&from_i128::<4>(value)), Some(value));
            let (negative, absolute) = magnitude(&from_i128::<2>(value));
            prop_assert_eq!((negative, unsigned(&absolute)), (value < 0, BigUint::from(value.unsigned_abs())));
        }

        #[test]
        fn division_is_exact(a in prop::array::uniform4(limb()), divisor in 1u64..) {
            let (quotient, inexact) = divide(&a, divisor);
            let shifted = unsigned(&a) << 128;
            prop_assert_eq!(unsigned(&quotient), &shifted / divisor);
            prop_assert_eq!(inexact, &shifted % divisor != BigUint::ZERO);
            prop_assert_eq!(unsigned(&super::quotient(&a, divisor)), unsigned(&a) / divisor);
        }

        #[test]
        fn decimal_digits_are_appended_or_refused(a in prop::array::uniform4(limb()), digits in 0u32..40) {
            let exact = unsigned(&a) * BigUint::from(10u8).pow(digits);
            match shift_decimal(a, digits) {
                Some(shifted) => prop_assert_eq!(unsigned(&shifted), exact),
                None => prop_assert!(exact.bits() >= 252),
            }
        }

        /// Nearest, ties to even: neither neighbour is nearer, nor as near with an even mantissa.
        #[test]
        fn rounding_is_to_the_nearest_even(
            high in prop::array::uniform2(limb()),
            low in prop::array::uniform4(limb()),
            exponent in -256i32..0,
            negative: bool,
        ) {
            let limbs = [low[0], low[1], low[2], low[3], high[0], high[1]];
            let rounded = round(negative, &limbs, false, exponent);
            let sign = if negative { Sign::Minus } else { Sign::Plus };
            // In units of 2^-1074, of which every double is a whole number.
            let exact = BigInt::from_biguint(sign, unsigned(&limbs)) << (1074 + exponent);
            let distance = |value: f64| (&exact - in_smallest_units(value)).magnitude().clone();
            for neighbour in [rounded.next_up(), rounded.next_down()] {
                let (ours, theirs) = (distance(rounded), distance(neighbour));
                prop_assert!(ours < theirs || (ours == theirs && rounded.to_bits() & 1 == 0));
            }
        }
    }

    fn in_smallest_units(value: f64) -> BigInt {
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as u32;
        let fraction = bits & ((1 << 52) - 1);
        let units = match exponent {
            0 => BigInt::from(fraction),
            _ => BigInt::from(fraction | 1 << 52) << (exponent - 1),
        };
        if value < 0.0 { -units } else { units }
    }

    #[test]
    fn an_inexact_half_rounds_up() {
        // 2^53 + 1 lies between two doubles; with a remainder it is nearer to the upper one.
        let tie = [(1 << 53) + 1, 0, 0, 0, 0, 0];
        assert_eq!(round(false, &tie, false, 0), 2f64.powi(53));
        let longer = [0, (1 << 53) + 1, 0, 0, 0, 0];
        assert_eq!(round(false, &longer, true, -64), 2f64.powi(53) + 2.0);
    }
}
