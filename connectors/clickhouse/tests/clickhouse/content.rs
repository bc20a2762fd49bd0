//! What was appended is what queries see: the same answers as from memory, whatever ClickHouse decided itself.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int32Array, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use pyflare_clickhouse::PushDown;
use pyflare_connectors::conformance::store::{FIRST_CUT, definition, rows};
use pyflare_connectors::{Store, TableDefinition, physical};

use crate::service::Service;

async fn answer(table: Arc<dyn TableProvider>, sql: &str) -> String {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    context.register_table("t", table).unwrap();
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

fn in_memory(batches: &[RecordBatch]) -> Arc<dyn TableProvider> {
    let schema = physical::physical_schema(&batches[0].schema()).unwrap();
    let batches = batches
        .iter()
        .map(|batch| physical::conform(batch, &schema).unwrap())
        .collect();
    Arc::new(MemTable::try_new(schema, vec![batches]).unwrap())
}

const QUERIES: [&str; 12] = [
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_answer_as_from_memory() {
    let Some(service) = Service::start() else { return };
    let store = service.store("content").await;
    store.ensure_table(&definition("spans")).await.unwrap();
    let mut appended = Vec::new();
    for block in 0..12_i64 {
        let batches = vec![rows(block * 20, 11), rows(block * 20 + 11, 9)];
        appended.extend(batches.clone());
        let cut = FIRST_CUT + block as u64 * 1000;
        store.append("spans", cut, batches).await.unwrap();
    }
    for sql in QUERIES {
        let stored = store.provider("spans").await.unwrap().unwrap();
        assert_eq!(
            answer(stored, sql).await,
            answer(in_memory(&appended), sql).await,
            "{sql}"
        );
    }
    let before = store.provider("spans").await.unwrap().unwrap();
    let more = vec![rows(500, 5)];
    store.append("spans", FIRST_CUT + 100_000, more).await.unwrap();
    let count = "SELECT count(*) FROM t";
    assert_eq!(
        answer(before, count).await,
        answer(in_memory(&appended), count).await,
        "a query reads the blocks that were complete when it began"
    );
}

/// Values at the edges of every type, which some store or wire has lost before.
fn edges() -> RecordBatch {
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
        maps.append(row % 3 != 1).unwrap();
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
                    .unwrap(),
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
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

const EDGES: [&str; 14] = [
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_at_the_edges_come_back() {
    let Some(service) = Service::start() else { return };
    let store = service.store("edges").await;
    let batch = edges();
    // With bytes, and without: then texts come as texts.
    for (table, dropped) in [("default/edges", None), ("default/texts", Some("raw"))] {
        let kept: Vec<usize> = (0..batch.num_columns())
            .filter(|index| Some(batch.schema().field(*index).name().as_str()) != dropped)
            .collect();
        let batch = batch.project(&kept).unwrap();
        let definition = TableDefinition {
            name: table.into(),
            schema: batch.schema(),
            retention_us: None,
            time_column: Some("at".into()),
        };
        store.ensure_table(&definition).await.unwrap();
        store.append(table, FIRST_CUT, vec![batch.clone()]).await.unwrap();
        for sql in EDGES {
            let stored = store.provider(table).await.unwrap().unwrap();
            let expected = answer(in_memory(std::slice::from_ref(&batch)), sql).await;
            assert_eq!(answer(stored, sql).await, expected, "{table}: {sql}");
        }
        let stored = store.provider(table).await.unwrap().unwrap();
        let at = stored.schema().field_with_name("at").unwrap().data_type().clone();
        assert!(matches!(at, DataType::Timestamp(_, Some(_))));
    }
}

/// Aggregates and sorts over rows of which half are stored and half in memory, as history is; with whether ClickHouse
/// takes its part of them.
const HALVES: [(&str, bool); 17] = [
    ("SELECT count(*) FROM t", true),
    (
        "SELECT count(*), count(text), count(float), count(flag) FROM t",
        true,
    ),
    (
        "SELECT text, count(*), min(at), max(at), min(text), max(text) FROM t GROUP BY text ORDER BY text",
        true,
    ),
    (
        "SELECT flag, sum(big), sum(small), count(small) FROM t GROUP BY flag ORDER BY flag",
        true,
    ),
    (
        "SELECT sum(big), min(big), max(big), min(money), max(money) FROM t WHERE big IS NOT NULL",
        true,
    ),
    (
        "SELECT flag, text, sum(money) FROM t WHERE _tick <> 1 GROUP BY flag, text ORDER BY flag, text",
        true,
    ),
    (
        "SELECT count(*), sum(big), min(at), max(text) FROM t WHERE _tick > 1000",
        true,
    ),
    (
        "SELECT text, sum(big) FROM t WHERE _tick > 1000 GROUP BY text",
        true,
    ),
    ("SELECT DISTINCT small, flag FROM t ORDER BY small, flag", true),
    (
        "SELECT count(*), count(*) + 1, min(_tick), max(_tick) - min(_tick) FROM t HAVING count(*) > 1",
        true,
    ),
    ("SELECT * FROM t ORDER BY at DESC, _tick LIMIT 5", true),
    (
        "SELECT text, big FROM t ORDER BY text NULLS FIRST, big DESC NULLS LAST, _tick LIMIT 7",
        true,
    ),
    (
        "SELECT _tick, float FROM t ORDER BY float DESC, _tick LIMIT 7",
        false,
    ),
    (
        "SELECT float, count(*) FROM t GROUP BY float ORDER BY float",
        false,
    ),
    ("SELECT min(float), max(half) FROM t", false),
    (
        "SELECT count(DISTINCT text), count(*) FILTER (WHERE flag) FROM t",
        false,
    ),
    ("SELECT count(*) FROM t WHERE text LIKE '%Z'", false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_are_aggregated_where_they_lie() {
    let Some(service) = Service::start() else { return };
    let store = service.store("halves").await;
    let batch = edges();
    let definition = TableDefinition {
        name: "rows".into(),
        schema: batch.schema(),
        retention_us: None,
        time_column: None,
    };
    store.ensure_table(&definition).await.unwrap();
    // Twice, so that groups have more than one row.
    for cut in [FIRST_CUT, FIRST_CUT + 1] {
        store.append("rows", cut, vec![batch.clone()]).await.unwrap();
    }
    for (sql, moves) in HALVES {
        let state = SessionStateBuilder::new()
            .with_config(SessionConfig::new().with_target_partitions(2))
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(PushDown))
            .build();
        let context = SessionContext::new_with_state(state);
        let stored = store.provider("rows").await.unwrap().unwrap();
        context.register_table("stored", stored).unwrap();
        context
            .register_table("tail", in_memory(std::slice::from_ref(&batch)))
            .unwrap();
        let both = "CREATE VIEW t AS SELECT * FROM stored UNION ALL SELECT * FROM tail";
        context.sql(both).await.unwrap().collect().await.unwrap();
        let found = context.sql(sql).await.unwrap().collect().await.unwrap();
        let found = pretty_format_batches(&found).unwrap().to_string();
        let expected = answer(in_memory(&[batch.clone(), batch.clone(), batch.clone()]), sql).await;
        assert_eq!(found, expected, "{sql}");
        let plan = context.sql(&format!("EXPLAIN {sql}")).await.unwrap();
        let plan = pretty_format_batches(&plan.collect().await.unwrap())
            .unwrap()
            .to_string();
        let moved = ["_pyflare$0", " LIMIT "];
        let is_moved = plan
            .lines()
            .any(|line| line.contains("ClickHouseScan") && moved.iter().any(|part| line.contains(part)));
        assert_eq!(is_moved, moves, "{sql}\n{plan}");
    }
}
