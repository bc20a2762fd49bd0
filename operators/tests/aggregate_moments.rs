//! Variances, covariances and regressions against rational numbers of any size.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StructArray};
use arrow::datatypes::{DataType, Field, Float64Type};
use num_bigint::BigInt;
use proptest::prelude::*;
use pyflare_operators::aggregate::{
    Accumulator, CellKind, Combiner, Reading, Relationship, RowError, Spread, read,
};

fn pairs(values: &[(f64, f64)]) -> ArrayRef {
    let side = |name, values: Vec<f64>| {
        let field = Arc::new(Field::new(name, DataType::Float64, true));
        (field, Arc::new(Float64Array::from(values)) as ArrayRef)
    };
    Arc::new(StructArray::from(vec![
        side("y", values.iter().map(|(y, _)| *y).collect()),
        side("x", values.iter().map(|(_, x)| *x).collect()),
    ]))
}

fn folded(kind: CellKind, input: ArrayRef) -> (Accumulator, Vec<RowError>) {
    let mut combiner = Combiner::new(vec![kind]);
    let mut errors = Vec::new();
    combiner
        .fold(&input.len(), &[Some(input)], None, 1, &mut errors)
        .unwrap();
    let mut found = Accumulator::zero(&[kind]);
    combiner.drain(|_, accumulator| found = accumulator);
    (found, errors)
}

fn shown(accumulator: &Accumulator, kind: CellKind, reading: Reading) -> Option<f64> {
    let column = read(
        [accumulator],
        0,
        kind,
        reading,
        &DataType::Float64,
        &mut Vec::new(),
    )
    .unwrap();
    let column = column.as_primitive::<Float64Type>();
    column.is_valid(0).then(|| column.value(0))
}

fn spread(values: &[f64], spread: Spread) -> Option<f64> {
    let (accumulator, errors) = folded(CellKind::Moments, Arc::new(Float64Array::from(values.to_vec())));
    assert!(errors.is_empty());
    shown(&accumulator, CellKind::Moments, Reading::Spread(spread))
}

fn relationship(values: &[(f64, f64)], what: Relationship) -> Option<f64> {
    let (accumulator, errors) = folded(CellKind::Comoments, pairs(values));
    assert!(errors.is_empty());
    shown(&accumulator, CellKind::Comoments, Reading::Relationship(what))
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

/// `n · Σxy − Σx · Σy` in units of 2^-2148.
fn scatter(one: &[f64], other: &[f64]) -> BigInt {
    let products: BigInt = one.iter().zip(other).map(|(a, b)| units(*a) * units(*b)).sum();
    let sum = |values: &[f64]| -> BigInt { values.iter().map(|value| units(*value)).sum() };
    products * one.len() as i64 - sum(one) * sum(other)
}

/// Whether `rounded` is the double nearest to `numerator / denominator` (in units of 2^-2148), ties to even.
fn is_nearest(rounded: f64, numerator: &BigInt, denominator: i64) -> bool {
    let distance = |value: f64| {
        let scaled: BigInt = (units(value) * denominator) << 1074_u32;
        let difference: BigInt = numerator - scaled;
        difference.magnitude().clone()
    };
    [rounded.next_up(), rounded.next_down()]
        .into_iter()
        .all(|neighbour| {
            let (ours, theirs) = (distance(rounded), distance(neighbour));
            ours < theirs || (ours == theirs && rounded.to_bits() & 1 == 0)
        })
}

/// Whether `found` is `numerator / denominator` up to a few units in the last place.
fn is_near(found: f64, numerator: &BigInt, denominator: &BigInt) -> bool {
    let wanted: BigInt = numerator << 1074_u32;
    let distance: BigInt = units(found) * denominator - &wanted;
    (distance.magnitude() << 49_u32) <= *wanted.magnitude()
}

/// Doubles on the grid, from far apart to side by side at a great distance from zero.
fn doubles() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => -1e6..1e6,
        2 => (0u32..40).prop_map(|step| 1e15 + f64::from(step) * 0.125),
        1 => prop::sample::select(vec![0.0, -0.0, 1e-12, 0.1, 1.5e26, -1.5e26, 3.0]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn variances_are_correctly_rounded(values in prop::collection::vec(doubles(), 1..40)) {
        let (n, exact) = (values.len() as i64, scatter(&values, &values));
        let population = spread(&values, Spread::VariancePopulation).unwrap();
        prop_assert!(is_nearest(population, &exact, n * n), "{:e} of {:?}", population, values);
        prop_assert_eq!(spread(&values, Spread::DeviationPopulation), Some(population.sqrt()));
        match spread(&values, Spread::VarianceSample) {
            None => prop_assert_eq!(n, 1),
            Some(sample) => {
                prop_assert!(is_nearest(sample, &exact, n * (n - 1)), "{:e} of {:?}", sample, values);
                prop_assert_eq!(spread(&values, Spread::DeviationSample), Some(sample.sqrt()));
            }
        }
    }

    #[test]
    fn covariances_and_regressions_are_those_of_rational_numbers(
        values in prop::collection::vec((doubles(), doubles()), 2..30),
    ) {
        let n = values.len() as i64;
        let (y, x): (Vec<f64>, Vec<f64>) = values.iter().copied().unzip();
        let (xx, yy, xy) = (scatter(&x, &x), scatter(&y, &y), scatter(&y, &x));
        let of = |what| relationship(&values, what);
        for (what, exact, divisor) in [
            (Relationship::CovariancePopulation, &xy, n * n),
            (Relationship::CovarianceSample, &xy, n * (n - 1)),
            (Relationship::Products, &xy, n),
            (Relationship::SquaresX, &xx, n),
            (Relationship::SquaresY, &yy, n),
        ] {
            let found = of(what).unwrap();
            prop_assert!(is_nearest(found, exact, divisor), "{:?} is {:e} of {:?}", what, found, values);
        }
        match of(Relationship::Slope) {
            None => prop_assert_eq!(&xx, &BigInt::ZERO),
            Some(slope) => {
                prop_assert!(is_near(slope, &xy, &xx));
                let sum = |values: &[f64]| -> BigInt { values.iter().map(|value| units(*value)).sum() };
                let numerator = sum(&y) * &xx - sum(&x) * &xy;
                // Sums are in units of 2^-1074 already.
                let intercept = of(Relationship::Intercept).unwrap();
                let distance = (units(intercept) * &xx * n - &numerator).magnitude().clone();
                prop_assert!((distance << 49) <= numerator.magnitude().clone());
            }
        }
        match of(Relationship::Determination) {
            None => prop_assert!(xx == BigInt::ZERO || yy == BigInt::ZERO),
            Some(square) => {
                prop_assert!(is_near(square, &(&xy * &xy), &(&xx * &yy)));
                let correlation = of(Relationship::Correlation).unwrap();
                prop_assert!((correlation * correlation - square).abs() <= 1e-14);
                prop_assert!(correlation == 0.0 || (correlation < 0.0) == (xy < BigInt::ZERO));
            }
        }
    }
}

#[test]
fn a_great_mean_hides_nothing() {
    let values = [1e15, 1e15 + 1.0, 1e15 + 2.0];
    assert_eq!(spread(&values, Spread::VarianceSample), Some(1.0));
    assert_eq!(spread(&values, Spread::VariancePopulation), Some(2.0 / 3.0));
    let line: Vec<(f64, f64)> = values.iter().map(|x| (2.0 * x + 1.0, *x)).collect();
    assert_eq!(relationship(&line, Relationship::Slope), Some(2.0));
    assert_eq!(relationship(&line, Relationship::Intercept), Some(1.0));
    // A square root of a rounded quotient is up to a unit in the last place off.
    let correlation = relationship(&line, Relationship::Correlation).unwrap();
    assert!((correlation - 1.0).abs() <= 2.0 * f64::EPSILON, "{correlation}");
}

#[test]
fn too_few_values_and_values_that_are_none() {
    assert_eq!(spread(&[], Spread::VariancePopulation), None);
    assert_eq!(spread(&[7.5], Spread::VariancePopulation), Some(0.0));
    assert_eq!(spread(&[7.5], Spread::DeviationSample), None);
    for special in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(spread(&[1.0, special], Spread::VarianceSample).unwrap().is_nan());
        for what in [
            Relationship::CovarianceSample,
            Relationship::Correlation,
            Relationship::Intercept,
        ] {
            assert!(
                relationship(&[(1.0, special), (2.0, 3.0)], what)
                    .unwrap()
                    .is_nan(),
                "{what:?}"
            );
        }
    }
    let flat = [(1.0, 4.0), (2.0, 4.0)];
    for what in [
        Relationship::Slope,
        Relationship::Intercept,
        Relationship::Correlation,
    ] {
        assert_eq!(relationship(&flat, what), None, "{what:?}");
    }
    assert_eq!(relationship(&flat, Relationship::MeanY), Some(1.5));
}

#[test]
fn what_no_sum_takes_is_an_error_of_its_row() {
    let limit = 2f64.powi(87);
    let (accumulator, errors) = folded(
        CellKind::Moments,
        Arc::new(Float64Array::from(vec![1.0, limit, 3.0])),
    );
    assert_eq!(errors.iter().map(|error| error.row).collect::<Vec<_>>(), [1]);
    assert_eq!(accumulator.rows, 2);
    let (accumulator, errors) = folded(
        CellKind::Comoments,
        pairs(&[(limit, limit), (1.0, -limit), (1.0, 2.0)]),
    );
    assert_eq!(errors.iter().map(|error| error.row).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(accumulator.rows, 1);
}
