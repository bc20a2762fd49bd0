//! What was appended is what queries see: the same answers as from memory, whatever ClickHouse decided itself.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use pyflare_clickhouse::PushDown;
use pyflare_connectors::conformance::queries;
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
    for sql in queries::OF_ROWS {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_at_the_edges_come_back() {
    let Some(service) = Service::start() else { return };
    let store = service.store("edges").await;
    let batch = queries::edges();
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
            key: Vec::new(),
        };
        store.ensure_table(&definition).await.unwrap();
        store.append(table, FIRST_CUT, vec![batch.clone()]).await.unwrap();
        for sql in queries::OF_EDGES {
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
    let batch = queries::edges();
    let definition = TableDefinition {
        name: "rows".into(),
        schema: batch.schema(),
        retention_us: None,
        time_column: None,
        key: Vec::new(),
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
