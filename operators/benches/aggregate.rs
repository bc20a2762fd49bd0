//! Folding rows into accumulators, adding accumulators, reading quantiles.
//!
//! `cargo bench -p pyflare-operators --bench aggregate`. A tick of 100,000 rows in batches of 8,192; keys are
//! row-encoded (project, service, minute), about 45 bytes, in random order.

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::row::{RowConverter, Rows, SortField};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pyflare_operators::aggregate::{Accumulator, CellKind, Combiner, Reading, bucket, read};
use std::hint::black_box;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: usize = 100_000;
const BATCH: usize = 8_192;

struct Batch {
    keys: Rows,
    integers: ArrayRef,
    floats: ArrayRef,
}

/// SplitMix64: the same rows in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Nanoseconds spread over three decades, as a service's latencies are.
    fn latency(&mut self) -> f64 {
        10f64.powf(6.0 + 3.0 * (self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

fn batches(groups: u64) -> Vec<Batch> {
    let mut random = Random(7);
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let fields = [DataType::Utf8, DataType::Utf8, time]
        .map(SortField::new)
        .to_vec();
    let converter = RowConverter::new(fields).expect("invariant: these types have a row format");
    let mut left = ROWS;
    let mut batches = Vec::new();
    while left > 0 {
        let rows = left.min(BATCH);
        left -= rows;
        let group: Vec<u64> = (0..rows).map(|_| random.next() % groups).collect();
        let latency: Vec<i64> = (0..rows).map(|_| random.latency() as i64).collect();
        let projects: ArrayRef = Arc::new(StringArray::from(vec!["default"; rows]));
        let services: ArrayRef = Arc::new(StringArray::from_iter_values(
            group.iter().map(|group| format!("service-{:06}", group / 4)),
        ));
        let minutes = group.iter().map(|group| (group % 4) as i64 * 60_000_000);
        let minutes: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(minutes));
        let keys = converter.convert_columns(&[projects, services, minutes]);
        let floats = Float64Array::from_iter_values(latency.iter().map(|latency| *latency as f64 * 1e-6));
        batches.push(Batch {
            keys: keys.expect("invariant: columns of the declared types"),
            integers: Arc::new(Int64Array::from(latency)),
            floats: Arc::new(floats),
        });
    }
    batches
}

/// Kinds of cells, and for each whether its input is the integer or the float column.
type Plan = &'static [(CellKind, Option<bool>)];

fn fold(combiner: &mut Combiner, batches: &[Batch], plan: Plan) -> i64 {
    let mut errors = Vec::new();
    for batch in batches {
        let inputs: Vec<Option<ArrayRef>> = plan
            .iter()
            .map(|(_, float)| {
                float.map(|float| Arc::clone(if float { &batch.floats } else { &batch.integers }))
            })
            .collect();
        combiner
            .fold(&batch.keys, &inputs, None, 1, &mut errors)
            .expect("invariant: the batch fits the plan");
    }
    let mut rows = 0;
    combiner.drain(|_, accumulator| rows += accumulator.rows);
    assert_eq!(rows as usize, ROWS);
    rows
}

fn folding(criterion: &mut Criterion) {
    let plans: [(&str, Plan); 6] = [
        ("rows", &[]),
        ("count", &[(CellKind::Count, Some(false))]),
        ("sum_int", &[(CellKind::SumInt, Some(false))]),
        ("sum_float", &[(CellKind::SumFloat, Some(true))]),
        ("quantiles", &[(CellKind::Quantiles, Some(false))]),
        (
            "count_sum_quantiles",
            &[
                (CellKind::Count, Some(false)),
                (CellKind::SumInt, Some(false)),
                (CellKind::Quantiles, Some(false)),
            ],
        ),
    ];
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(ROWS as u64));
    for groups in [10, 1_000, 100_000] {
        let batches = batches(groups);
        for (name, plan) in plans {
            let mut combiner = Combiner::new(plan.iter().map(|(kind, _)| *kind).collect());
            group.bench_function(BenchmarkId::new(name, groups), |bencher| {
                bencher.iter(|| fold(&mut combiner, black_box(&batches), plan));
            });
        }
        let mut combiner = Combiner::new(vec![CellKind::Extremes]);
        group.bench_function(BenchmarkId::new("extremes", groups), |bencher| {
            bencher.iter(|| {
                fold(
                    &mut combiner,
                    black_box(&batches),
                    &[(CellKind::Extremes, Some(false))],
                )
            });
        });
    }
    group.finish();
}

fn accumulator(kinds: &[CellKind], values: usize, seed: u64) -> Accumulator {
    let mut random = Random(seed);
    let input: ArrayRef = Arc::new(Int64Array::from_iter_values(
        (0..values).map(|_| random.latency() as i64),
    ));
    let mut combiner = Combiner::new(kinds.to_vec());
    let inputs: Vec<_> = kinds.iter().map(|_| Some(Arc::clone(&input))).collect();
    combiner
        .fold(&values, &inputs, None, 1, &mut Vec::new())
        .expect("invariant: the batch fits the plan");
    let mut found = Accumulator::default();
    combiner.drain(|_, accumulator| found = accumulator);
    found
}

fn adding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("add");
    let kinds: [(&str, CellKind); 4] = [
        ("count", CellKind::Count),
        ("sum_int", CellKind::SumInt),
        ("quantiles", CellKind::Quantiles),
        ("extremes", CellKind::Extremes),
    ];
    for (name, kind) in kinds {
        for (small, large) in [(1, 100), (100, 100), (100, 100_000)] {
            let (delta, base) = (accumulator(&[kind], small, 1), accumulator(&[kind], large, 2));
            group.bench_function(
                BenchmarkId::new(name, format!("{small}_to_copy_of_{large}")),
                |bencher| {
                    bencher.iter_batched(
                        || (),
                        |()| {
                            let mut sum = base.clone();
                            sum.add(black_box(&delta));
                            sum
                        },
                        BatchSize::SmallInput,
                    );
                },
            );
        }
    }
    group.finish();
}

fn reading(criterion: &mut Criterion) {
    let groups: Vec<Accumulator> = (0..1_000)
        .map(|seed| accumulator(&[CellKind::Quantiles], 1_000, seed))
        .collect();
    let p95 = Reading::quantile(0.95).expect("invariant: 0.95 is a quantile");
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(groups.len() as u64));
    group.bench_function("p95", |bencher| {
        bencher.iter(|| {
            read(
                &groups,
                0,
                CellKind::Quantiles,
                p95,
                &DataType::Float64,
                &mut Vec::new(),
            )
        });
    });
    group.finish();
}

fn placing(criterion: &mut Criterion) {
    let mut random = Random(7);
    let values: Vec<f64> = (0..ROWS).map(|_| random.latency()).collect();
    let mut group = criterion.benchmark_group("bucket");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("of_doubles", |bencher| {
        bencher.iter(|| values.iter().map(|value| i64::from(bucket(*value))).sum::<i64>());
    });
    group.finish();
}

criterion_group!(benches, folding, adding, reading, placing);
criterion_main!(benches);
