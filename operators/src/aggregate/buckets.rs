//! Logarithmic buckets that tell numbers apart to within 1 %.
//!
//! An octave `[2^e, 2^(e+1))` is cut into 35 buckets at `2^(e + j/35)`, so neighbouring boundaries differ by
//! γ = 2^(1/35) ≈ 1.0200 ≤ (1 + α)/(1 − α) with α = 1 %. A value is placed by comparing its mantissa with 35
//! integer constants: no logarithm is computed, so the bucket is the same on every machine. A bucket `[a, b)`
//! answers with `2ab/(a + b)`, which is within `(b − a)/(b + a)` = 0.991 % of everything in it.
//!
//! Buckets are numbered in the order of the values: negative numbers mirror positive ones, 0 is zero (of either
//! sign), then come the infinities and, last, NaN.
//!
//! The bound holds for every finite double of the normal range (and zero, exactly); among the subnormals the
//! answer is itself rounded to the next double, which adds half of the smallest double.

/// The bucket of a value.
pub type Bucket = i32;

const PER_OCTAVE: i32 = 35;
/// 2^-1074 to 2^1023.
const OCTAVES: i32 = 2098;
pub(super) const INFINITE: Bucket = OCTAVES * PER_OCTAVE + 1;
pub(super) const NOT_A_NUMBER: Bucket = INFINITE + 1;
const IMPLICIT_BIT: u64 = 1 << 52;

/// The least 53-bit mantissa of each bucket of an octave, `⌈2^(52 + j/35)⌉`, and of the next octave.
const BOUNDARIES: [u64; PER_OCTAVE as usize + 1] = [
    0x10000000000000,
    0x1051ed35254d7b,
    0x10a57de9c16bc8,
    0x10faba81d4e5e0,
    0x1151ab8c56eea3,
    0x11aa59c4115e7e,
    0x1204ce10811782,
    0x12611186bae675,
    0x12bf2d6a54f7db,
    0x131f2b2e54f85d,
    0x1381147622f887,
    0x13e4f316812c30,
    0x144ad116889e7c,
    0x14b2b8b0aaf3c8,
    0x151cb453b9536d,
    0x1588cea3f093be,
    0x15f7127c0ac32a,
    0x16678aee5629f8,
    0x16da4345d1e0ae,
    0x174f47075017a0,
    0x17c6a1f29e2ce7,
    0x18406003b2ae5d,
    0x18bc8d73e16610,
    0x193b36bb158fff,
    0x19bc68911258c0,
    0x1a402feeb9c533,
    0x1ac69a0f5a241d,
    0x1b4fb472022b1b,
    0x1bdb8cdadbe121,
    0x1c6a31548e794e,
    0x1cfbb031a741a5,
    0x1d90180e09c9e4,
    0x1e2777d0676771,
    0x1ec1deabbe3c15,
    0x1f5f5c20dfe5f3,
    0x20000000000000,
];

/// For each value of a mantissa's first eight bits after the leading one: the bucket in which that slot of
/// mantissas begins. A slot is narrower than a bucket, so it meets at most one boundary.
const FIRST: [u8; 256] = {
    let mut first = [0; 256];
    let mut slot = 0;
    let mut bucket = 0;
    while slot < 256 {
        while BOUNDARIES[bucket + 1] <= (256 + slot as u64) << 44 {
            bucket += 1;
        }
        first[slot] = bucket as u8;
        slot += 1;
    }
    first
};

/// The bucket of a value.
#[inline]
pub fn bucket(value: f64) -> Bucket {
    let magnitude = value.to_bits() & !(1 << 63);
    // Zero, subnormals, infinities and NaN: everything whose exponent field is all zeros or all ones.
    let id = if magnitude.wrapping_sub(IMPLICIT_BIT) >= (0x7fe << 52) {
        match special(magnitude) {
            NOT_A_NUMBER => return NOT_A_NUMBER,
            id => id,
        }
    } else {
        place(magnitude >> 52, (magnitude & (IMPLICIT_BIT - 1)) | IMPLICIT_BIT)
    };
    if value.is_sign_negative() { -id } else { id }
}

/// The bucket of `mantissa · 2^(exponent − 1075)`, the mantissa having 53 bits.
#[inline]
fn place(exponent: u64, mantissa: u64) -> Bucket {
    let first = FIRST[(mantissa >> 44 & 0xff) as usize];
    let within = i32::from(first) + i32::from(mantissa >= BOUNDARIES[usize::from(first) + 1]);
    // The smallest subnormal, 2^-1074, has the exponent -51 once its mantissa is normalised.
    (exponent as i32 + 51) * PER_OCTAVE + within + 1
}

#[cold]
fn special(magnitude: u64) -> Bucket {
    const INFINITY: u64 = 0x7ff << 52;
    if magnitude == 0 {
        0
    } else if magnitude == INFINITY {
        INFINITE
    } else if magnitude > INFINITY {
        NOT_A_NUMBER
    } else {
        let shift = magnitude.leading_zeros() - 11;
        place(1u64.wrapping_sub(u64::from(shift)), magnitude << shift)
    }
}

/// The number that stands for a bucket: within 1 % of every value in it. NaN for the bucket of NaN.
pub fn representative(bucket: Bucket) -> f64 {
    let id = bucket.abs();
    let magnitude = match id {
        0 => return 0.0,
        INFINITE => f64::INFINITY,
        NOT_A_NUMBER.. => return f64::NAN,
        _ => {
            let (octave, within) = ((id - 1) / PER_OCTAVE, (id - 1) % PER_OCTAVE);
            let unit = 1.0 / IMPLICIT_BIT as f64;
            let low = BOUNDARIES[within as usize] as f64 * unit;
            let high = BOUNDARIES[within as usize + 1] as f64 * unit;
            // Two exact factors and one rounding, also among the subnormals.
            let exponent = octave - 1074;
            let half = exponent / 2;
            2.0 * low * high / (low + high) * power_of_two(half) * power_of_two(exponent - half)
        }
    };
    if bucket < 0 { -magnitude } else { magnitude }
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::BigUint;
    use proptest::prelude::*;

    /// Every boundary is the least integer at or above 2^(52 + j/35), by 35th powers.
    #[test]
    fn boundaries_are_exact() {
        for (place, boundary) in BOUNDARIES.iter().enumerate() {
            let target = BigUint::from(2u8).pow(52 * 35 + place as u32);
            assert!(
                BigUint::from(*boundary).pow(35) >= target,
                "boundary {place} is too small"
            );
            assert!(
                BigUint::from(*boundary - 1).pow(35) < target,
                "boundary {place} is too large"
            );
        }
    }

    /// The largest error lies at the ends of a bucket; all buckets of all octaves are checked.
    #[test]
    fn every_bucket_answers_within_one_percent() {
        for octave in 52..OCTAVES {
            for within in 0..PER_OCTAVE as usize {
                let scale = power_of_two((octave - 1074) / 2) * 2f64.powi(-52);
                let value = |mantissa: u64| {
                    mantissa as f64 * scale * power_of_two(octave - 1074 - (octave - 1074) / 2)
                };
                let (low, high) = (value(BOUNDARIES[within]), value(BOUNDARIES[within + 1] - 1));
                let expected = octave * PER_OCTAVE + within as i32 + 1;
                assert_eq!(
                    (bucket(low), bucket(high)),
                    (expected, expected),
                    "{low:e} {high:e}"
                );
                let answer = representative(expected);
                assert!(
                    (answer - low) / low <= 0.01 && (high - answer) / high <= 0.01,
                    "{low:e}: {answer:e}"
                );
            }
        }
    }

    #[test]
    fn subnormals_and_special_values_have_their_buckets() {
        let smallest = f64::from_bits(1);
        assert_eq!(representative(bucket(smallest)), smallest);
        assert!((representative(bucket(f64::MAX)) / f64::MAX - 1.0).abs() <= 0.01);
        assert_eq!((bucket(0.0), bucket(-0.0)), (0, 0));
        assert_eq!(bucket(f64::INFINITY), INFINITE);
        assert_eq!(bucket(f64::NEG_INFINITY), -INFINITE);
        assert_eq!(
            (bucket(f64::NAN), bucket(-f64::NAN)),
            (NOT_A_NUMBER, NOT_A_NUMBER)
        );
        assert!(representative(NOT_A_NUMBER).is_nan());
        for exponent in 0..52 {
            for value in [f64::from_bits(1 << exponent), f64::from_bits((2 << exponent) - 1)] {
                let error = (representative(bucket(value)) - value).abs();
                assert!(error <= value * 0.01 + smallest, "{value:e}");
            }
        }
    }

    proptest! {
        #[test]
        fn buckets_have_the_order_of_the_values(a: f64, b: f64) {
            let comparison = a.partial_cmp(&b);
            prop_assume!(comparison.is_some());
            let buckets = bucket(a).cmp(&bucket(b));
            prop_assert!(buckets.is_eq() || Some(buckets) == comparison);
            prop_assert_eq!(bucket(-a), -bucket(a));
        }

        #[test]
        fn a_representative_is_near_any_normal_double(value in prop::num::f64::NORMAL) {
            let answer = representative(bucket(value));
            prop_assert!((answer - value).abs() <= value.abs() * 0.01, "{} for {}", answer, value);
        }
    }
}
