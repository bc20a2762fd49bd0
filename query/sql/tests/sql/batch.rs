//! The batch oracle against answers worked out by hand or by other arithmetic.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, MapBuilder, RecordBatch, StringBuilder,
    StringViewArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use pyflare_dataflows::MonitorDefinition;
use pyflare_operators::fields::stream_schema;
use pyflare_sql::oracle::batch;
use pyflare_sql::{PlanScope, Statement, parse};

/// One span: project, model, time in seconds, duration, temperature.
type Row = (&'static str, Option<&'static str>, i64, i64, Option<f64>);

/// Rows with the columns named here, everything else NULL, or empty where NULL is not allowed.
fn spans(rows: &[Row]) -> RecordBatch {
    let schema: SchemaRef = stream_schema("spans").unwrap();
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "project" => {
                Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef
            }
            "model" => Arc::new(rows.iter().map(|row| row.1).collect::<StringViewArray>()),
            "event_time" => {
                let times =
                    TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2 * 1_000_000));
                Arc::new(times.with_timezone("UTC"))
            }
            "duration_ns" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3))),
            "temperature" => Arc::new(rows.iter().map(|row| row.4).collect::<Float64Array>()),
            "attributes" => attributes(rows),
            _ if field.is_nullable() => new_null_array(field.data_type(), rows.len()),
            _ => filler(field.data_type(), rows.len()),
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

/// The attribute `n` with the row's number, in every second row.
fn attributes(rows: &[Row]) -> ArrayRef {
    let names = arrow::array::MapFieldNames {
        entry: "entries".into(),
        key: "keys".into(),
        value: "values".into(),
    };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for number in 0..rows.len() {
        maps.keys().append_value("other");
        maps.values().append_value("\"x\"");
        if number % 2 == 0 {
            maps.keys().append_value("n");
            maps.values().append_value(number.to_string());
        }
        maps.append(true).unwrap();
    }
    Arc::new(maps.finish())
}

fn filler(data_type: &DataType, rows: usize) -> ArrayRef {
    match data_type {
        DataType::Utf8View => Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n("", rows))),
        DataType::Int32 => Arc::new(arrow::array::Int32Array::from(vec![0; rows])),
        DataType::Map(..) => {
            let template: Vec<Row> = vec![("", None, 0, 0, None); rows];
            attributes(&template)
        }
        other => {
            let zeros = Int64Array::from(vec![0; rows]);
            arrow::compute::cast(&zeros, other).unwrap_or_else(|_| panic!("no filler for {other}"))
        }
    }
}

fn define(select: &str) -> MonitorDefinition {
    let sql = format!("CREATE MONITOR m AS {select}");
    match parse(
        &sql,
        &PlanScope {
            project: Some("a".into()),
            ..PlanScope::default()
        },
    )
    .unwrap()
    {
        Statement::CreateMonitor(create) => create.definition,
        other => panic!("{other:?}"),
    }
}

/// All rows as text, sorted.
fn answer(select: &str, batches: &[RecordBatch]) -> Vec<String> {
    let found = batch(&define(select), batches).unwrap();
    let columns: Vec<_> = found
        .columns()
        .iter()
        .map(|column| arrow::compute::cast(column, &DataType::Utf8).unwrap())
        .collect();
    let mut rows: Vec<String> = (0..found.num_rows())
        .map(|row| {
            let values = columns.iter().map(|column| {
                let texts = column.as_string::<i32>();
                if texts.is_null(row) {
                    "NULL".to_string()
                } else {
                    texts.value(row).to_string()
                }
            });
            values.collect::<Vec<_>>().join("|")
        })
        .collect();
    rows.sort();
    rows
}

const ROWS: &[Row] = &[
    ("a", Some("x"), 59, 10, Some(0.5)),
    ("a", Some("x"), 60, 20, None),
    ("a", None, 61, 30, Some(1.5)),
    ("b", Some("x"), 61, 99, None),
    ("a", Some("x"), -1, 40, None),
];

#[test]
fn windows_are_floors_and_other_projects_are_not_seen() {
    let found = answer(
        "SELECT window_start, window_end, model, count(*) AS n, sum(duration_ns) AS d FROM \
         TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY window_start, window_end, model",
        &[spans(ROWS)],
    );
    assert_eq!(
        found,
        [
            "1969-12-31T23:59:00Z|1970-01-01T00:00:00Z|x|1|40",
            "1970-01-01T00:00:00Z|1970-01-01T00:01:00Z|x|1|10",
            "1970-01-01T00:01:00Z|1970-01-01T00:02:00Z|NULL|1|30",
            "1970-01-01T00:01:00Z|1970-01-01T00:02:00Z|x|1|20",
        ]
    );
}

#[test]
fn aggregates_ignore_null_and_split_batches_do_not_matter() {
    let select = "SELECT model, count(*) AS n, count(temperature) AS t, sum(temperature) AS s, avg(duration_ns) AS a, \
                  min(duration_ns) AS least, max(duration_ns) AS most, count(*) FILTER (WHERE duration_ns > 10) AS f \
                  FROM spans GROUP BY model";
    let expected = [
        "NULL|1|1|1.5|30.0|30|30|1",
        "x|3|1|0.5|23.333333333333332|10|40|2",
    ];
    assert_eq!(answer(select, &[spans(ROWS)]), expected);
    let split: Vec<RecordBatch> = ROWS.iter().map(|row| spans(&[*row])).collect();
    assert_eq!(answer(select, &split), expected);
}

#[test]
fn filters_having_distinct_and_attributes() {
    let rows = [spans(ROWS)];
    assert_eq!(answer("SELECT DISTINCT model FROM spans", &rows), ["NULL", "x"]);
    assert_eq!(
        answer(
            "SELECT model, count(*) AS n FROM spans GROUP BY model HAVING count(*) > 1",
            &rows
        ),
        ["x|3"]
    );
    assert_eq!(
        answer(
            "SELECT duration_ns AS d FROM spans WHERE model IS NULL OR duration_ns IN (10, 99)",
            &rows
        ),
        ["10", "30"]
    );
    let numbered = answer(
        "SELECT attributes['n'] AS n, attributes['missing'] AS m FROM spans",
        &rows,
    );
    assert_eq!(numbered, ["0|NULL", "2|NULL", "4|NULL", "NULL|NULL"]);
    let subquery = "SELECT window_start, count(*) AS n FROM TUMBLE((SELECT * FROM spans WHERE duration_ns < 40), \
                    event_time, INTERVAL '1 hour') GROUP BY window_start";
    assert_eq!(answer(subquery, &rows), ["1970-01-01T00:00:00Z|3"]);
    let named = "WITH w AS (SELECT event_time AS at, model FROM spans) SELECT window_start, count(*) AS n FROM \
                 TUMBLE(w, at, INTERVAL '1 hour') GROUP BY 1";
    assert_eq!(
        answer(named, &rows),
        ["1969-12-31T23:00:00Z|1", "1970-01-01T00:00:00Z|3"]
    );
}

/// A sum of doubles is the exact sum, rounded once: the order does not matter and nothing is lost on the way.
#[test]
fn float_sums_are_correctly_rounded() {
    let values = [1e16, 1.0, -1e16, 1e-3, 3.0, 1e25, -1e25, 0.1, 0.2, 0.3];
    let forwards: Vec<Row> = values
        .iter()
        .map(|value| ("a", Some("x"), 0, 0, Some(*value)))
        .collect();
    let backwards: Vec<Row> = forwards.iter().rev().copied().collect();
    let exact = exact_sum(&values);
    for rows in [forwards, backwards] {
        let select = "SELECT model, sum(temperature) AS s FROM spans GROUP BY model";
        let found = batch(&define(select), &[spans(&rows)]).unwrap();
        assert_eq!(found.column(1).as_primitive::<Float64Type>().value(0), exact);
    }
}

/// Shewchuk's partial sums, rounded once at the end.
fn exact_sum(values: &[f64]) -> f64 {
    let mut partials: Vec<f64> = Vec::new();
    for value in values {
        let mut x = *value;
        let mut kept = Vec::new();
        for partial in partials {
            let (large, small) = if x.abs() >= partial.abs() {
                (x, partial)
            } else {
                (partial, x)
            };
            let high = large + small;
            let low = small - (high - large);
            if low != 0.0 {
                kept.push(low);
            }
            x = high;
        }
        kept.push(x);
        partials = kept;
    }
    partials.iter().rev().sum()
}

#[test]
fn quantiles_are_within_one_percent_and_integer_sums_do_not_wrap() {
    let rows: Vec<Row> = (1..=1_000)
        .map(|number| ("a", Some("x"), 0, number * number, None))
        .collect();
    let select = "SELECT model, quantile(duration_ns, 0.5) AS p50, approx_percentile_cont(duration_ns, 0.99) AS p99, \
                  approx_percentile_cont(0.01) WITHIN GROUP (ORDER BY duration_ns DESC) AS top, median(duration_ns) AS m \
                  FROM spans GROUP BY model";
    let found = batch(&define(select), &[spans(&rows)]).unwrap();
    let value = |column: usize| found.column(column).as_primitive::<Float64Type>().value(0);
    for (column, rank) in [(1, 500i64), (2, 990), (3, 990), (4, 500)] {
        let exact = (rank * rank) as f64;
        assert!(
            (value(column) - exact).abs() <= exact * 0.01,
            "{column}: {} is not near {exact}",
            value(column)
        );
    }
    let huge: Vec<Row> = vec![
        ("a", Some("x"), 0, i64::MAX, None),
        ("a", Some("x"), 0, i64::MAX, None),
    ];
    let found = batch(
        &define("SELECT model, sum(duration_ns) AS s FROM spans GROUP BY model"),
        &[spans(&huge)],
    )
    .unwrap();
    assert!(found.column(1).as_primitive::<Int64Type>().is_null(0));
}

/// The statistics of DataFusion itself, which are inexact and well enough conditioned here.
#[test]
fn spreads_and_relationships_are_those_of_datafusion() {
    const STATISTICS: [&str; 16] = [
        "var_samp(temperature)",
        "var_pop(duration_ns)",
        "stddev(duration_ns)",
        "stddev_pop(temperature)",
        "covar_samp(duration_ns, temperature)",
        "covar_pop(duration_ns, temperature)",
        "corr(duration_ns, temperature)",
        "regr_slope(duration_ns, temperature)",
        "regr_intercept(duration_ns, temperature)",
        "CAST(regr_count(duration_ns, temperature) AS DOUBLE)",
        "regr_r2(duration_ns, temperature)",
        "regr_avgx(duration_ns, temperature)",
        "regr_avgy(duration_ns, temperature)",
        "regr_sxx(duration_ns, temperature)",
        "regr_syy(duration_ns, temperature)",
        "regr_sxy(duration_ns, temperature)",
    ];
    let rows: Vec<Row> = (0..500i64)
        .map(|number| {
            let model = ["x", "y", "z"][usize::try_from(number % 3).unwrap()];
            let model = if number == 0 { "alone" } else { model };
            let temperature = (number % 7 > 0).then(|| 0.5 + ((number * 37) % 101) as f64 / 10.0);
            (
                "a",
                Some(model),
                number,
                (number * number * 31) % 977 + number,
                temperature,
            )
        })
        .collect();
    let columns: Vec<String> = STATISTICS
        .iter()
        .enumerate()
        .map(|(place, call)| format!("{call} AS s{place}"))
        .collect();
    let select = format!(
        "SELECT coalesce(model, '') AS model, {} FROM spans GROUP BY coalesce(model, '')",
        columns.join(", ")
    );
    let ours = batch(&define(&select), &[spans(&rows)]).unwrap();
    let session = datafusion::prelude::SessionContext::new();
    session.register_batch("spans", spans(&rows)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let theirs = runtime.block_on(async { session.sql(&select).await.unwrap().collect().await.unwrap() });
    let theirs = arrow::compute::concat_batches(&theirs[0].schema(), &theirs).unwrap();
    assert_eq!((ours.num_rows(), theirs.num_rows()), (4, 4));
    let by_model = |batch: &RecordBatch| -> std::collections::BTreeMap<String, usize> {
        let models = arrow::compute::cast(batch.column(0), &DataType::Utf8).unwrap();
        let models = models.as_string::<i32>();
        (0..batch.num_rows())
            .map(|row| (models.value(row).to_string(), row))
            .collect()
    };
    let places = by_model(&theirs);
    for (model, row) in by_model(&ours) {
        for (place, call) in STATISTICS.iter().enumerate() {
            let value = |batch: &RecordBatch, row: usize| {
                let column = batch.column(place + 1).as_primitive::<Float64Type>();
                column.is_valid(row).then(|| column.value(row))
            };
            match (value(&ours, row), value(&theirs, places[&model])) {
                (Some(ours), Some(theirs)) => {
                    let distance = (ours - theirs).abs();
                    assert!(
                        distance <= 1e-9 * theirs.abs(),
                        "{call} of {model}: {ours} and {theirs}"
                    );
                }
                (ours, theirs) => assert_eq!(ours, theirs, "{call} of {model}"),
            }
        }
    }
}

#[test]
fn the_answer_has_the_view_s_columns() {
    let definition =
        define("SELECT CAST(event_time AS DATE) AS day, length(model) AS l, upper(model) FROM spans");
    let found = batch(&definition, &[spans(ROWS)]).unwrap();
    let view = definition.plan.schema().unwrap();
    for (column, expected) in found.schema().fields().iter().zip(view.fields()) {
        assert_eq!(
            (column.name(), column.data_type()),
            (expected.name(), expected.data_type())
        );
    }
    assert_eq!(
        found
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .value(0),
        0
    );
    let none = batch(&definition, &[]).unwrap();
    assert_eq!((none.num_rows(), none.num_columns()), (0, 3));
}
