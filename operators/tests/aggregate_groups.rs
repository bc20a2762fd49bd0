//! Accumulators are an abelian group, and a combiner's result depends on nothing but the rows.
#![allow(clippy::unwrap_used)]

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, TimeUnit};
use arrow::row::{RowConverter, SortField};
use proptest::prelude::*;
use pyflare_operators::aggregate::{
    Accumulator, AggregateError, CellKind, Combiner, Numbering, Reading, read, row_counts, summable,
};
use std::collections::BTreeMap;
use std::sync::Arc;

const KINDS: [CellKind; 10] = [
    CellKind::Count,
    CellKind::SumInt,
    CellKind::SumDecimal { scale: 12 },
    CellKind::SumFloat,
    CellKind::Quantiles,
    CellKind::Extremes,
    CellKind::Extremes,
    CellKind::Extremes,
    CellKind::Moments,
    CellKind::Comoments,
];

#[derive(Clone, Debug)]
struct Row {
    key: u8,
    integer: Option<i64>,
    float: Option<f64>,
    text: Option<String>,
}

fn row() -> impl Strategy<Value = Row> {
    let integer = prop_oneof![any::<i64>(), Just(i64::MIN), -5i64..5];
    let float = prop_oneof![
        4 => -1e6..1e6,
        1 => any::<f64>().prop_filter("summable", |value| summable(*value)),
        1 => prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324, 1e26]),
    ];
    (
        0u8..4,
        prop::option::of(integer),
        prop::option::of(float),
        prop::option::of("[a-cé]{0,3}"),
    )
        .prop_map(|(key, integer, float, text)| Row {
            key,
            integer,
            float,
            text,
        })
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec(row(), 0..40)
}

/// Keys and inputs of a batch, for [`KINDS`].
fn columns(rows: &[Row]) -> (BinaryArray, Vec<Option<ArrayRef>>) {
    let keys = BinaryArray::from_iter_values(rows.iter().map(|row| vec![b'k', row.key]));
    let integers: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.integer)));
    let floats: ArrayRef = Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.float)));
    let texts: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| row.text.as_deref())));
    let decimals = Decimal128Array::from_iter(rows.iter().map(|row| row.integer.map(i128::from)));
    let decimals: ArrayRef = Arc::new(decimals.with_precision_and_scale(38, 12).unwrap());
    let inputs = vec![
        Some(Arc::clone(&texts)),
        Some(Arc::clone(&integers)),
        Some(Arc::clone(&decimals)),
        Some(Arc::clone(&floats)),
        Some(Arc::clone(&floats)),
        Some(Arc::clone(&floats)),
        Some(texts),
        Some(Arc::clone(&integers)),
        Some(Arc::clone(&floats)),
        Some(pairs(floats, &integers)),
    ];
    (keys, inputs)
}

/// Floats with integers as floats, each side with NULLs of its own.
fn pairs(floats: ArrayRef, integers: &ArrayRef) -> ArrayRef {
    let integers = arrow::compute::cast(integers, &DataType::Float64).unwrap();
    let field = |name| Arc::new(Field::new(name, DataType::Float64, true));
    Arc::new(StructArray::from(vec![
        (field("one"), floats),
        (field("other"), integers),
    ]))
}

fn fold(combiner: &mut Combiner, rows: &[Row], diff: i64) {
    let (keys, inputs) = columns(rows);
    let mut errors = Vec::new();
    combiner.fold(&keys, &inputs, None, diff, &mut errors).unwrap();
    assert!(errors.is_empty());
}

fn drain(combiner: &mut Combiner) -> BTreeMap<Vec<u8>, Accumulator> {
    let mut groups = BTreeMap::new();
    combiner.drain(|key, accumulator| {
        assert!(
            groups.insert(key.to_vec(), accumulator).is_none(),
            "a key came twice"
        );
    });
    groups
}

/// One accumulator for all rows, whatever their keys.
fn total(rows: &[Row]) -> Accumulator {
    let mut combiner = Combiner::new(KINDS.to_vec());
    fold(&mut combiner, rows, 1);
    let mut total = Accumulator::zero(&KINDS);
    drain(&mut combiner)
        .values()
        .for_each(|accumulator| total.add(accumulator));
    total
}

fn sum(a: &Accumulator, b: &Accumulator) -> Accumulator {
    let mut sum = a.clone();
    sum.add(b);
    sum
}

fn negative(a: &Accumulator) -> Accumulator {
    let mut negative = a.clone();
    negative.negate();
    negative
}

fn times(a: &Accumulator, factor: i64) -> Accumulator {
    let mut product = a.clone();
    product.scale(factor);
    product
}

fn same(a: ArrayRef, b: ArrayRef) -> bool {
    a.as_ref() == b.as_ref()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Rows chosen by number, keys numbered beforehand, and errors among them: as by a selection of a batch.
    #[test]
    fn numbered_keys_fold_as_keys_do(first in rows(), second in rows(), chosen in prop::collection::vec(any::<bool>(), 40)) {
        let mut by_selection = Combiner::new(KINDS.to_vec());
        let mut by_number = Combiner::new(KINDS.to_vec());
        for (rows, too_large) in [(&first, Some(1e30)), (&second, None)] {
            let (keys, mut inputs) = columns(rows);
            if let (Some(value), Some(floats)) = (too_large, inputs[3].clone()) {
                let floats = floats.as_primitive::<Float64Type>().iter().enumerate();
                let with_errors = floats.map(|(row, float)| if row % 5 == 3 { Some(value) } else { float });
                inputs[3] = Some(Arc::new(with_errors.collect::<Float64Array>()));
            }
            let selection = BooleanArray::from(chosen[..rows.len()].to_vec());
            let numbers: Vec<u32> = (0..rows.len() as u32).filter(|row| chosen[*row as usize]).collect();
            let (mut errors, mut same_errors) = (Vec::new(), Vec::new());
            by_selection.fold(&keys, &inputs, Some(&selection), 1, &mut errors).unwrap();
            let numbering = Numbering::of(&keys);
            by_number.fold_rows(&keys, Some(&numbering), &inputs, Some(&numbers), 1, &mut same_errors).unwrap();
            prop_assert_eq!(format!("{errors:?}"), format!("{same_errors:?}"));
        }
        prop_assert_eq!(drain(&mut by_selection), drain(&mut by_number));
    }

    #[test]
    fn accumulators_are_an_abelian_group(a in rows(), b in rows(), c in rows(), n in -3i64..4) {
        let zero = Accumulator::zero(&KINDS);
        let (a, b, c) = (total(&a), total(&b), negative(&total(&c)));
        prop_assert_eq!(sum(&sum(&a, &b), &c), sum(&a, &sum(&b, &c)));
        prop_assert_eq!(sum(&a, &c), sum(&c, &a));
        prop_assert_eq!(sum(&a, &zero), a.clone());
        prop_assert_eq!(sum(&Accumulator::default(), &a), a.clone());
        prop_assert_eq!(sum(&a, &negative(&a)), zero.clone());
        prop_assert!(sum(&a, &negative(&a)).is_zero());
        prop_assert_eq!(a.is_zero(), a == zero);
        prop_assert_eq!(negative(&negative(&c)), c.clone());
        // Multiples are repeated sums.
        prop_assert_eq!(times(&a, n + 1), sum(&times(&a, n), &a));
        prop_assert_eq!(times(&sum(&a, &c), n), sum(&times(&a, n), &times(&c, n)));
    }

    #[test]
    fn accumulators_survive_encoding(a in rows(), b in rows()) {
        let accumulator = sum(&total(&a), &negative(&total(&b)));
        let bytes = bincode::serialize(&accumulator).unwrap();
        let decoded: Accumulator = bincode::deserialize(&bytes).unwrap();
        prop_assert_eq!(&decoded, &accumulator);
        prop_assert_eq!(bincode::serialize(&decoded).unwrap(), bytes);
        let json = serde_json::to_string(&accumulator).unwrap();
        prop_assert_eq!(serde_json::from_str::<Accumulator>(&json).unwrap(), accumulator);
    }

    /// Shuffled, split over combiners at random and with rows that come and go, the groups are bit-identical.
    #[test]
    fn order_splits_and_retractions_do_not_matter(
        (rows, shuffled) in rows().prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())),
        passing in rows(),
        cuts in prop::collection::vec(1usize..9, 1..6),
    ) {
        let mut whole = Combiner::new(KINDS.to_vec());
        fold(&mut whole, &rows, 1);
        let expected = drain(&mut whole);

        let mut combiners = [Combiner::new(KINDS.to_vec()), Combiner::new(KINDS.to_vec())];
        fold(&mut combiners[0], &passing, 1);
        let mut rest = shuffled.as_slice();
        let mut groups: BTreeMap<Vec<u8>, Accumulator> = BTreeMap::new();
        let mut merge = |drained: BTreeMap<Vec<u8>, Accumulator>| {
            for (key, accumulator) in drained {
                groups.entry(key).or_default().add(&accumulator);
            }
        };
        for (turn, cut) in cuts.iter().cycle().enumerate() {
            let (batch, after) = rest.split_at((*cut).min(rest.len()));
            fold(&mut combiners[turn % 2], batch, 1);
            if turn % 3 == 2 {
                merge(drain(&mut combiners[turn % 2]));
            }
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        fold(&mut combiners[1], &passing, -1);
        combiners.iter_mut().for_each(|combiner| merge(drain(combiner)));
        groups.retain(|_, accumulator| !accumulator.is_zero());
        prop_assert_eq!(groups, expected);
    }

    /// What is read equals what a plain loop over the rows says.
    #[test]
    fn readings_are_those_of_the_rows(rows in rows()) {
        let mut combiner = Combiner::new(KINDS.to_vec());
        fold(&mut combiner, &rows, 1);
        for (key, accumulator) in drain(&mut combiner) {
            let group: Vec<&Row> = rows.iter().filter(|row| row.key == key[1]).collect();
            let mut errors = Vec::new();
            let mut get = |cell: usize, reading, data_type: &DataType| {
                read([&accumulator], cell, KINDS[cell], reading, data_type, &mut errors).unwrap()
            };
            prop_assert_eq!(row_counts([&accumulator]).as_primitive::<Int64Type>().value(0), group.len() as i64);

            let count = |present: usize| -> ArrayRef { Arc::new(Int64Array::from(vec![present as i64])) };
            let texts: Vec<&str> = group.iter().filter_map(|row| row.text.as_deref()).collect();
            prop_assert!(same(get(0, Reading::Count, &DataType::Int64), count(texts.len())));
            prop_assert!(same(get(6, Reading::Count, &DataType::Int64), count(texts.len())));
            let text = |value: Option<&&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value.copied()])) };
            prop_assert!(same(get(6, Reading::Minimum, &DataType::Utf8), text(texts.iter().min())));
            prop_assert!(same(get(6, Reading::Maximum, &DataType::Utf8), text(texts.iter().max())));

            let integers: Vec<i64> = group.iter().filter_map(|row| row.integer).collect();
            let least = TimestampMicrosecondArray::from(vec![integers.iter().min().copied()]);
            let least: ArrayRef = Arc::new(least.with_timezone("UTC"));
            let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
            prop_assert!(same(get(7, Reading::Minimum, &utc), least));
            let greatest: ArrayRef = Arc::new(Int64Array::from(vec![integers.iter().max().copied()]));
            prop_assert!(same(get(7, Reading::Maximum, &DataType::Int64), greatest));

            let mut numbers: Vec<f64> = group.iter().filter_map(|row| row.float).collect();
            numbers.sort_by(|a, b| a.is_nan().cmp(&b.is_nan()).then(a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal)));
            let least = get(5, Reading::Minimum, &DataType::Float64);
            let least = least.as_primitive::<Float64Type>();
            match numbers.first() {
                None => prop_assert!(least.is_null(0)),
                Some(number) => {
                    prop_assert!(least.value(0) == *number || (number.is_nan() && least.value(0).is_nan()));
                }
            }
            numbers.retain(|number| !number.is_nan());
            for percent in [0usize, 1, 7, 25, 50, 90, 95, 99, 100] {
                let reading = Reading::quantile(percent as f64 / 100.0).unwrap();
                let answer = get(4, reading, &DataType::Float64);
                let answer = answer.as_primitive::<Float64Type>();
                prop_assert_eq!(answer.is_null(0), numbers.is_empty());
                if let Some(last) = numbers.len().checked_sub(1) {
                    // The inverse of the empirical distribution, as numpy's `inverted_cdf` has it.
                    let exact = numbers[(numbers.len() * percent).div_ceil(100).saturating_sub(1).min(last)];
                    let error = if exact == answer.value(0) { 0.0 } else { (answer.value(0) - exact).abs() };
                    prop_assert!(error <= exact.abs() * 0.01 + f64::from_bits(1), "{} for {}", answer.value(0), exact);
                }
            }
        }
    }

    /// A mask leaves exactly the rows for which it is false or NULL out.
    #[test]
    fn selecting_is_filtering_before(
        masked in prop::collection::vec((row(), prop::option::of(any::<bool>())), 0..40),
    ) {
        let (rows, mask): (Vec<Row>, Vec<Option<bool>>) = masked.iter().cloned().unzip();
        let (keys, inputs) = columns(&rows);
        let mut combiner = Combiner::new(KINDS.to_vec());
        let mask = BooleanArray::from(mask);
        combiner.fold(&keys, &inputs, Some(&mask), -2, &mut Vec::new()).unwrap();
        let found = drain(&mut combiner);
        let kept: Vec<Row> = masked.into_iter().filter(|(_, kept)| *kept == Some(true)).map(|(row, _)| row).collect();
        fold(&mut combiner, &kept, -2);
        prop_assert_eq!(found, drain(&mut combiner));
    }
}

#[test]
fn a_row_in_error_changes_nothing_and_is_reported_once() {
    let rows: Vec<Row> = [1.0, 1e30, 2.0, -2f64.powi(87)]
        .into_iter()
        .map(|float| Row {
            key: 0,
            integer: Some(7),
            float: Some(float),
            text: None,
        })
        .collect();
    let (keys, inputs) = columns(&rows);
    let mut combiner = Combiner::new(KINDS.to_vec());
    let mut errors = Vec::new();
    combiner.fold(&keys, &inputs, None, 1, &mut errors).unwrap();
    let reported: Vec<(usize, usize)> = errors.iter().map(|error| (error.row, error.cell)).collect();
    assert_eq!(reported, [(1, 3), (3, 3)]);
    let found = drain(&mut combiner);
    fold(&mut combiner, &[rows[0].clone(), rows[2].clone()], 1);
    assert_eq!(found, drain(&mut combiner));

    // A row that is not selected cannot be in error.
    errors.clear();
    let mask = BooleanArray::from(vec![true, false, true, false]);
    combiner
        .fold(&keys, &inputs, Some(&mask), 1, &mut errors)
        .unwrap();
    assert!(errors.is_empty());
    assert_eq!(found, drain(&mut combiner));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (keys, mut inputs) = columns(&[Row {
        key: 0,
        integer: Some(1),
        float: None,
        text: None,
    }]);
    let mut combiner = Combiner::new(KINDS.to_vec());
    let mut fold = |inputs: &[Option<ArrayRef>]| combiner.fold(&keys, inputs, None, 1, &mut Vec::new());
    assert!(matches!(
        fold(&inputs[1..]),
        Err(AggregateError::InputCount {
            expected: 10,
            found: 9
        })
    ));
    let text = inputs[0].clone();
    let integers = std::mem::replace(&mut inputs[1], text);
    assert!(matches!(
        fold(&inputs),
        Err(AggregateError::InputType { cell: 1, .. })
    ));
    inputs[1] = None;
    assert!(matches!(
        fold(&inputs),
        Err(AggregateError::InputType {
            cell: 1,
            data_type: DataType::Null,
            ..
        })
    ));
    inputs[1] = integers.map(|integers| integers.slice(0, 0));
    assert!(matches!(
        fold(&inputs),
        Err(AggregateError::InputLength {
            cell: 1,
            expected: 1,
            found: 0
        })
    ));
    assert_eq!(combiner.groups(), 0);
}

#[test]
fn readings_that_make_no_sense_are_refused() {
    let zero = Accumulator::zero(&KINDS);
    for (cell, reading, data_type) in [
        (0, Reading::Sum, DataType::Int64),
        (1, Reading::Sum, DataType::Float64),
        (2, Reading::Sum, DataType::Decimal128(38, 10)),
        (3, Reading::Maximum, DataType::Float64),
        (5, Reading::Minimum, DataType::Null),
    ] {
        let column = read([&zero], cell, KINDS[cell], reading, &data_type, &mut Vec::new());
        assert!(
            matches!(column, Err(AggregateError::Reading { .. })),
            "{reading:?} of {:?}",
            KINDS[cell]
        );
    }
    assert!(Reading::quantile(1.1).is_none() && Reading::quantile(f64::NAN).is_none());
}

/// Minimum and maximum come back in the type that went in.
#[test]
fn extremes_of_every_type() {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(0), Some(1)]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("b"), None, Some("a"), Some("b")]));
    use arrow::datatypes::IntervalUnit;
    let types = [
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt32,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(20, 3),
        DataType::Date32,
        DataType::Date64,
        DataType::Time32(TimeUnit::Second),
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Duration(TimeUnit::Millisecond),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
    ];
    for data_type in types {
        let input = match &data_type {
            DataType::Date32 | DataType::Time32(_) => {
                let narrow = arrow::compute::cast(&numbers, &DataType::Int32).unwrap();
                arrow::compute::cast(&narrow, &data_type).unwrap()
            }
            other if other.is_string() || other.is_binary() => arrow::compute::cast(&texts, other).unwrap(),
            other => arrow::compute::cast(&numbers, other).unwrap(),
        };
        let mut combiner = Combiner::new(vec![CellKind::Extremes]);
        combiner
            .fold(
                &input.len(),
                &[Some(Arc::clone(&input))],
                None,
                1,
                &mut Vec::new(),
            )
            .unwrap();
        let groups: Vec<Accumulator> = drain(&mut combiner).into_values().collect();
        for (reading, row) in [(Reading::Minimum, 2), (Reading::Maximum, 0)] {
            let column = read(
                &groups,
                0,
                CellKind::Extremes,
                reading,
                &data_type,
                &mut Vec::new(),
            )
            .unwrap();
            assert_eq!(
                column.as_ref(),
                input.slice(row, 1).as_ref(),
                "{reading:?} of {data_type}"
            );
        }
    }
    let interval = arrow::array::new_null_array(&DataType::Interval(IntervalUnit::DayTime), 1);
    let mut combiner = Combiner::new(vec![CellKind::Extremes]);
    let refused = combiner.fold(&1usize, &[Some(interval)], None, 1, &mut Vec::new());
    assert!(matches!(refused, Err(AggregateError::InputType { cell: 0, .. })));
}

/// Keys from arrow's row format, more of them than fit the first table, drained and used again.
#[test]
fn many_groups_with_row_encoded_keys() {
    let converter = RowConverter::new(vec![
        SortField::new(DataType::Utf8),
        SortField::new(DataType::Int64),
    ])
    .unwrap();
    let mut combiner = Combiner::new(vec![CellKind::Count, CellKind::SumInt]);
    for round in 1..4 {
        let numbers: Vec<i64> = (0..100_000).map(|row| row % 30_011).collect();
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(
            numbers.iter().map(|n| format!("n{}", n % 17)),
        ));
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers));
        let rows = converter.convert_columns(&[names, Arc::clone(&numbers)]).unwrap();
        combiner
            .fold(&rows, &[None, Some(numbers)], None, round, &mut Vec::new())
            .unwrap();
        assert_eq!(combiner.groups(), 30_011);
        let mut rows = 0;
        combiner.drain(|key, accumulator| {
            let columns = converter.convert_rows([converter.parser().parse(key)]).unwrap();
            let number = columns[1].as_primitive::<Int64Type>().value(0);
            let copies = if number < 100_000 - 3 * 30_011 { 4 } else { 3 };
            assert_eq!(accumulator.rows, copies * round);
            let sum = read(
                [&accumulator],
                1,
                CellKind::SumInt,
                Reading::Sum,
                &DataType::Int64,
                &mut Vec::new(),
            );
            assert_eq!(
                sum.unwrap().as_primitive::<Int64Type>().value(0),
                number * copies * round
            );
            rows += accumulator.rows;
        });
        assert_eq!((rows, combiner.groups()), (100_000 * round, 0));
    }
}

/// More values than may wait are counted in between, with the same result.
#[test]
fn long_runs_are_counted_in_between() {
    let values: Vec<i64> = (0..200_000).map(|row| (row * 7919) % 5_003).collect();
    let keys = BinaryArray::from_iter_values(values.iter().map(|value| [(value % 3) as u8]));
    let kinds = vec![CellKind::Quantiles, CellKind::Extremes];
    let input: ArrayRef = Arc::new(Int64Array::from(values));
    let inputs = [Some(Arc::clone(&input)), Some(input)];
    let mut combiner = Combiner::new(kinds.clone());
    combiner.fold(&keys, &inputs, None, 1, &mut Vec::new()).unwrap();
    let once = drain(&mut combiner);
    for diff in [1, 2, -1, 3, 5, 1, 1, 1, -4] {
        combiner
            .fold(&keys, &inputs, None, diff, &mut Vec::new())
            .unwrap();
    }
    let expected: BTreeMap<Vec<u8>, Accumulator> =
        once.iter().map(|(key, a)| (key.clone(), times(a, 9))).collect();
    assert_eq!(drain(&mut combiner), expected);
    for diff in [1, -1] {
        combiner
            .fold(&keys, &inputs, None, diff, &mut Vec::new())
            .unwrap();
    }
    assert!(
        drain(&mut combiner).is_empty(),
        "what cancels out is not reported"
    );
}
