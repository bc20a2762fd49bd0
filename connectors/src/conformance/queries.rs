//! Queries that every store's tables answer alike, and as the same rows in memory do: the texts, and the rows.
//!
//! This crate has no SQL. A store's tests run the texts with DataFusion over a table `t`, once stored and once in memory.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int32Array, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Schema};

/// Over [`super::store::rows`], of which there are at least 60.
pub const OF_ROWS: [&str; 12] = [
    "SELECT * FROM t ORDER BY _offset",
    "SELECT count(*), count(error), count(labels), count(attributes), sum(count), sum(cost), min(event_time), max(event_time) FROM t",
    "SELECT trace_id, cost FROM t WHERE trace_id = '0000000000000000000000000000002a' ORDER BY _offset",
    "SELECT _offset FROM t WHERE event_time >= arrow_cast(1764000000000000 + 200000, 'Timestamp(Microsecond, Some(\"UTC\"))') ORDER BY 1",
    "SELECT _offset, attributes FROM t WHERE _tick BETWEEN 1764000000005 AND 1764000000040 AND error ORDER BY 1",
    "SELECT project, count(*) FROM t WHERE project = 'nobody' GROUP BY project",
    "SELECT labels, count(*) FROM t GROUP BY labels ORDER BY 1",
    "SELECT cost, temperature FROM t ORDER BY event_time DESC LIMIT 7",
    "SELECT _offset FROM t WHERE NOT (error OR count > 20) ORDER BY 1",
    "SELECT _offset FROM t WHERE error IS NULL AND temperature > 3.5 AND trace_id LIKE '%1' ORDER BY 1",
    "SELECT _offset FROM t WHERE count IN (1, 2, 700) OR cost > 500000000000000 ORDER BY 1",
    "SELECT count(*) FROM (SELECT _offset FROM t WHERE _offset >= 3 LIMIT 11)",
];

/// Values at the edges of every type, which some store or wire has lost before.
pub fn edges() -> RecordBatch {
    let text = StringArray::from(vec![
        Some(""),
        Some("ünï\u{0}\u{1f600}\n\t'\\`"),
        None,
        Some("\\N"),
        Some("\u{feff}z"),
        Some("Z"),
    ]);
    let floats = [
        f64::NAN,
        -0.0,
        0.0,
        f64::INFINITY,
        f64::MIN_POSITIVE,
        f64::NEG_INFINITY,
    ];
    let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for row in 0..6 {
        for key in 0..row {
            // Keys may repeat and values may be missing.
            maps.keys().append_value(if key < 2 { "same" } else { "" });
            maps.values().append_option((key != 1).then_some("v\u{0}"));
        }
        maps.append(row % 3 != 1)
            .expect("invariant: the columns of the suite fit each other");
    }
    let times = [
        i64::MIN,
        -1,
        0,
        253_402_300_800_000_000,
        32_503_680_000_000_000,
        i64::MAX,
    ];
    let decimal = 10_i128.pow(38) - 1;
    let decimals = [Some(decimal), Some(-decimal), None, Some(0), Some(1), Some(-1)];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(text)),
        ("float", Arc::new(Float64Array::from_iter_values(floats))),
        (
            "half",
            Arc::new(Float32Array::from_iter(
                floats.map(|value| (value != 0.0).then_some(value as f32)),
            )),
        ),
        (
            "big",
            Arc::new(Int64Array::from(vec![
                Some(i64::MIN),
                Some(i64::MAX),
                None,
                Some(0),
                Some(-1),
                Some(1),
            ])),
        ),
        (
            "small",
            Arc::new(Int32Array::from(vec![
                Some(i32::MIN),
                Some(i32::MAX),
                None,
                Some(0),
                Some(-1),
                Some(1),
            ])),
        ),
        (
            "flag",
            Arc::new(BooleanArray::from(vec![
                Some(true),
                Some(false),
                None,
                None,
                Some(true),
                Some(false),
            ])),
        ),
        (
            "money",
            Arc::new(
                Decimal128Array::from_iter(decimals)
                    .with_precision_and_scale(38, 12)
                    .expect("invariant: the columns of the suite fit each other"),
            ),
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        ),
        (
            "day",
            Arc::new(Date32Array::from(vec![
                Some(-800_000),
                Some(0),
                None,
                Some(800_000),
                Some(19_000),
                Some(1),
            ])),
        ),
        (
            "raw",
            Arc::new(BinaryArray::from_iter(vec![
                Some(&[0xff, 0x00][..]),
                Some(b""),
                None,
                Some(b"x"),
                Some(&[0xc3]),
                Some(b"y"),
            ])),
        ),
        ("map", Arc::new(maps.finish())),
        ("_tick", Arc::new(Int64Array::from_iter_values(1..7))),
    ];
    let fields = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), *name != "_tick"));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(schema), columns)
        .expect("invariant: the columns of the suite fit each other")
}

/// Over [`edges`].
pub const OF_EDGES: [&str; 14] = [
    "SELECT * FROM t ORDER BY _tick",
    "SELECT _tick FROM t WHERE float = arrow_cast('NaN', 'Float64') ORDER BY 1",
    "SELECT _tick FROM t WHERE float < 0 ORDER BY 1",
    "SELECT _tick, float FROM t WHERE float >= 0 ORDER BY float",
    "SELECT _tick FROM t WHERE text > 'A' ORDER BY text",
    "SELECT _tick FROM t WHERE text <> '\\N' ORDER BY 1",
    "SELECT _tick FROM t WHERE text IN ('', 'Z') OR text IS NULL ORDER BY 1",
    "SELECT _tick FROM t WHERE big > 9223372036854775806 OR big = -9223372036854775808 ORDER BY 1",
    "SELECT _tick FROM t WHERE small = arrow_cast(-2147483648, 'Int32') ORDER BY 1",
    "SELECT _tick FROM t WHERE money >= arrow_cast('99999999999999999999999999.999999999999', 'Decimal128(38, 12)') OR money < arrow_cast(0, 'Decimal128(38, 12)') ORDER BY 1",
    "SELECT _tick FROM t WHERE at >= arrow_cast(0, 'Timestamp(Microsecond, Some(\"UTC\"))') ORDER BY 1",
    "SELECT _tick FROM t WHERE at < arrow_cast(-5, 'Timestamp(Microsecond, Some(\"UTC\"))') ORDER BY 1",
    "SELECT _tick FROM t WHERE NOT flag ORDER BY 1",
    "SELECT _tick FROM t WHERE map IS NULL ORDER BY 1",
];
