//! Float sums and means against integers of any size, and against the summation algorithm of Shewchuk (which
//! is what `math.fsum` does): nothing of the code under test is used to say what is right.
#![allow(clippy::unwrap_used)]

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
use num_bigint::BigInt;
use proptest::prelude::*;
use pyflare_operators::aggregate::{Accumulator, CellKind, Combiner, GroupError, Reading, read, summable};
use std::sync::Arc;

/// What one group's rows add up to.
fn accumulate(kind: CellKind, input: ArrayRef) -> Accumulator {
    let mut combiner = Combiner::new(vec![kind]);
    let mut errors = Vec::new();
    combiner
        .fold(&input.len(), &[Some(input)], None, 1, &mut errors)
        .unwrap();
    assert!(errors.is_empty());
    let mut found = Accumulator::default();
    combiner.drain(|_, accumulator| found = accumulator);
    found
}

fn reading(
    accumulator: &Accumulator,
    kind: CellKind,
    reading: Reading,
    data_type: DataType,
) -> (ArrayRef, Vec<GroupError>) {
    let mut errors = Vec::new();
    let column = read([accumulator], 0, kind, reading, &data_type, &mut errors).unwrap();
    (column, errors)
}

fn float(accumulator: &Accumulator, kind: CellKind, what: Reading) -> f64 {
    let (column, errors) = reading(accumulator, kind, what, DataType::Float64);
    assert!(errors.is_empty());
    column.as_primitive::<Float64Type>().value(0)
}

fn float_sum(values: &[f64]) -> f64 {
    let accumulator = accumulate(CellKind::SumFloat, Arc::new(Float64Array::from(values.to_vec())));
    float(&accumulator, CellKind::SumFloat, Reading::Sum)
}

/// A finite double in units of 2^-1074, of which every double is a whole number.
fn units(value: f64) -> BigInt {
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as u32;
    let fraction = bits & ((1 << 52) - 1);
    let units = match exponent {
        0 => BigInt::from(fraction),
        _ => BigInt::from(fraction | 1 << 52) << (exponent - 1),
    };
    if value < 0.0 { -units } else { units }
}

/// Whether `rounded` is the double nearest to `numerator / denominator` (in units of 2^-1074), ties to even.
fn is_nearest(rounded: f64, numerator: &BigInt, denominator: i64) -> bool {
    let distance = |value: f64| (numerator - units(value) * denominator).magnitude().clone();
    [rounded.next_up(), rounded.next_down()]
        .into_iter()
        .all(|neighbour| {
            let (ours, theirs) = (distance(rounded), distance(neighbour));
            ours < theirs || (ours == theirs && rounded.to_bits() & 1 == 0)
        })
}

/// A value on the grid of 2^-128: rounded by integer division, ties to even.
fn on_grid(value: f64) -> BigInt {
    let unit = BigInt::from(1) << (1074 - 128);
    let half: BigInt = &unit / 2;
    let units = units(value);
    let magnitude = BigInt::from(units.magnitude().clone());
    let (mut whole, rest): (BigInt, BigInt) = (&magnitude / &unit, &magnitude % &unit);
    if rest > half || (rest == half && whole.bit(0)) {
        whole += 1;
    }
    if units < BigInt::ZERO {
        -whole * unit
    } else {
        whole * unit
    }
}

/// Shewchuk's partials with the final rounding of `math.fsum`.
fn fsum(values: &[f64]) -> f64 {
    let mut partials: Vec<f64> = Vec::new();
    for value in values {
        let mut x = *value;
        let mut kept = Vec::new();
        for partial in &partials {
            let (a, b) = if x.abs() < partial.abs() {
                (*partial, x)
            } else {
                (x, *partial)
            };
            let high = a + b;
            let low = b - (high - a);
            if low != 0.0 {
                kept.push(low);
            }
            x = high;
        }
        kept.push(x);
        partials = kept;
    }
    let Some(mut high) = partials.pop() else {
        return 0.0;
    };
    let mut low = 0.0;
    while let Some(next) = partials.pop() {
        let before = high;
        high = before + next;
        low = next - (high - before);
        if low != 0.0 {
            break;
        }
    }
    if let Some(next) = partials.last()
        && ((low < 0.0 && *next < 0.0) || (low > 0.0 && *next > 0.0))
    {
        let twice = low * 2.0;
        let up = high + twice;
        if twice == up - high {
            high = up;
        }
    }
    high
}

/// Doubles whose exponents lie in a range, either sign, with mantissas that cancel and tie.
fn doubles(exponents: std::ops::Range<i32>) -> impl Strategy<Value = f64> {
    let mantissa = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        Just(1),
        (0u32..52).prop_map(|bit| 1 << bit)
    ];
    (exponents, mantissa, any::<bool>()).prop_map(|(exponent, mantissa, negative)| {
        let bits =
            ((exponent + 1023) as u64) << 52 | (mantissa & ((1 << 52) - 1)) | u64::from(negative) << 63;
        f64::from_bits(bits)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn float_sums_and_means_are_correctly_rounded(
        mut values in prop::collection::vec(
            prop_oneof![doubles(-75..87), doubles(-3..3), doubles(-140..-60), doubles(-1022..1)], 1..60),
        cancel: bool,
    ) {
        if cancel {
            // Everything but the last value cancels, down to the small ones.
            let negated: Vec<f64> = values.iter().skip(1).map(|value| -value).collect();
            values.extend(negated);
        }
        let exact: BigInt = values.iter().map(|value| on_grid(*value)).sum();
        let accumulator = accumulate(CellKind::SumFloat, Arc::new(Float64Array::from(values.clone())));
        let sum = float(&accumulator, CellKind::SumFloat, Reading::Sum);
        let mean = float(&accumulator, CellKind::SumFloat, Reading::Mean);
        prop_assert!(is_nearest(sum, &exact, 1), "{:e} of {:?}", sum, values);
        prop_assert!(is_nearest(mean, &exact, values.len() as i64), "{:e} of {:?}", mean, values);
    }

    #[test]
    fn above_the_grid_the_sum_is_that_of_fsum(values in prop::collection::vec(doubles(-75..86), 0..60)) {
        if !values.is_empty() {
            prop_assert_eq!(float_sum(&values).to_bits(), (fsum(&values) + 0.0).to_bits());
        }
    }

    #[test]
    fn integer_sums_are_exact_and_their_means_rounded_once(values in prop::collection::vec(
        prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), -9i64..9], 1..60)) {
        let exact: BigInt = values.iter().map(|value| BigInt::from(*value)).sum();
        let accumulator = accumulate(CellKind::SumInt, Arc::new(Int64Array::from(values.clone())));
        let (column, errors) = reading(&accumulator, CellKind::SumInt, Reading::Sum, DataType::Int64);
        match i64::try_from(&exact) {
            Ok(sum) => {
                prop_assert!(errors.is_empty());
                prop_assert_eq!(column.as_primitive::<Int64Type>().value(0), sum);
            }
            Err(_) => prop_assert!(column.is_null(0) && errors.len() == 1 && errors[0].group == 0),
        }
        let mean = float(&accumulator, CellKind::SumInt, Reading::Mean);
        prop_assert!(is_nearest(mean, &(exact << 1074), values.len() as i64));
    }

    #[test]
    fn decimal_sums_are_exact_even_when_they_do_not_fit(
        values in prop::collection::vec(-99999999999999999999999999999999999999i128..=99999999999999999999999999999999999999, 1..9),
        small: bool,
    ) {
        let values: Vec<i128> = values.into_iter().map(|value| if small { value >> 70 } else { value }).collect();
        let kind = CellKind::SumDecimal { scale: 12 };
        let array = Decimal128Array::from(values.clone()).with_precision_and_scale(38, 12).unwrap();
        let accumulator = accumulate(kind, Arc::new(array));
        let limit = BigInt::from(10).pow(38);
        let exact: BigInt = values.iter().map(|value| BigInt::from(*value)).sum();
        let mean = &exact * 10_000 / values.len() as i64;
        for (what, scale, expected) in [(Reading::Sum, 12, exact), (Reading::Mean, 16, mean)] {
            let (column, errors) = reading(&accumulator, kind, what, DataType::Decimal128(38, scale));
            if expected.magnitude() < limit.magnitude() {
                prop_assert!(errors.is_empty());
                prop_assert_eq!(BigInt::from(column.as_primitive::<Decimal128Type>().value(0)), expected);
            } else {
                prop_assert!(column.is_null(0) && errors.len() == 1);
            }
        }
    }
}

#[test]
fn edges_of_the_float_range() {
    let limit = 2f64.powi(87);
    assert!(!summable(limit) && !summable(-limit) && !summable(f64::MAX));
    assert!(summable(limit.next_down()) && summable(f64::INFINITY) && summable(f64::NAN));
    assert_eq!(
        float_sum(&[limit.next_down(), -limit.next_down(), 2f64.powi(-128)]),
        2f64.powi(-128)
    );
    assert_eq!(float_sum(&[limit.next_down(); 2]), limit.next_down() * 2.0);
    // Half a unit is rounded to the even multiple: 0, and 2 for one and a half.
    assert_eq!(float_sum(&[2f64.powi(-129)]), 0.0);
    assert_eq!(float_sum(&[1.5 * 2f64.powi(-128)]), 2f64.powi(-127));
    assert_eq!(float_sum(&[2f64.powi(-129).next_up()]), 2f64.powi(-128));
    assert_eq!(float_sum(&[f64::from_bits(1), f64::MIN_POSITIVE]), 0.0);
    assert_eq!(float_sum(&[-0.0]).to_bits(), 0.0f64.to_bits());
}

#[test]
fn infinities_and_nan_behave_as_in_addition() {
    assert_eq!(float_sum(&[1.0, f64::INFINITY]), f64::INFINITY);
    assert_eq!(float_sum(&[1.0, f64::NEG_INFINITY]), f64::NEG_INFINITY);
    assert!(float_sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    assert!(float_sum(&[1.0, f64::NAN]).is_nan());
}
