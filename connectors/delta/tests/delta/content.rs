//! What was appended is what is read: by DataFusion, after merges, across retention, with filters that skip files.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use pyflare_connectors::conformance::queries;
use pyflare_connectors::conformance::store::{FIRST_CUT, definition, rows};
use pyflare_connectors::{Store, TableDefinition, physical};
use pyflare_delta::{DeltaOptions, DeltaStore};

async fn query(store: &DeltaStore, table: &str, sql: &str) -> Vec<RecordBatch> {
    let mut config = SessionConfig::new().with_target_partitions(2);
    config.options_mut().execution.parquet.pushdown_filters = true;
    let context = SessionContext::new_with_config(config);
    context
        .register_table("t", store.provider(table).await.unwrap().unwrap())
        .unwrap();
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

async fn oracle(batches: &[RecordBatch], sql: &str) -> String {
    let context = SessionContext::new();
    let schema = physical::physical_schema(&batches[0].schema()).unwrap();
    let batches = batches
        .iter()
        .map(|batch| physical::conform(batch, &schema).unwrap());
    let batches = batches.collect();
    let table = MemTable::try_new(schema, vec![batches]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    pretty_format_batches(&context.sql(sql).await.unwrap().collect().await.unwrap())
        .unwrap()
        .to_string()
}

fn text(batches: &[RecordBatch]) -> String {
    pretty_format_batches(batches).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_rows_are_the_appended_rows() {
    let place = tempfile::tempdir().unwrap();
    let store = DeltaStore::open_with(
        place.path(),
        DeltaOptions {
            file_grace: Duration::ZERO,
        },
    )
    .unwrap();
    store.ensure_table(&definition("spans")).await.unwrap();
    let mut appended = Vec::new();
    for block in 0..40_i64 {
        let batches = vec![rows(block * 20, 11), rows(block * 20 + 11, 9)];
        appended.extend(batches.clone());
        store
            .append("spans", FIRST_CUT + block as u64 * 1000, batches)
            .await
            .unwrap();
        if block % 13 == 12 {
            store.maintain("spans", FIRST_CUT as i64 * 1000).await.unwrap();
        }
    }
    for round in 0..2 {
        for sql in queries::OF_ROWS {
            assert_eq!(
                text(&query(&store, "spans", sql).await),
                oracle(&appended, sql).await,
                "{sql} ({round})"
            );
        }
        // A day later what is left of the day becomes one file.
        store
            .maintain("spans", FIRST_CUT as i64 * 1000 + 2 * 86_400_000_000)
            .await
            .unwrap();
    }
    let data = std::fs::read_dir(place.path().join("spans"))
        .unwrap()
        .filter(|item| {
            item.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .ends_with(".parquet")
        });
    assert_eq!(data.count(), 1, "replaced files are deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_reads_the_version_it_began_with() {
    let place = tempfile::tempdir().unwrap();
    let store = DeltaStore::open(place.path()).unwrap();
    store.ensure_table(&definition("spans")).await.unwrap();
    for block in 0..8_u64 {
        store
            .append("spans", FIRST_CUT + block, vec![rows(block as i64, 1)])
            .await
            .unwrap();
    }
    let before = store.provider("spans").await.unwrap().unwrap();
    store
        .append("spans", FIRST_CUT + 8, vec![rows(8, 1)])
        .await
        .unwrap();
    store.maintain("spans", FIRST_CUT as i64 * 1000).await.unwrap();
    let context = SessionContext::new();
    context.register_table("t", before).unwrap();
    let found = context
        .sql("SELECT _offset FROM t ORDER BY 1")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let found = concat_batches(&found[0].schema(), &found).unwrap();
    assert_eq!(
        found.column(0).as_primitive::<Int64Type>().values().to_vec(),
        (0..8).collect::<Vec<i64>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_leave_files_unopened() {
    let place = tempfile::tempdir().unwrap();
    let store = DeltaStore::open(place.path()).unwrap();
    store.ensure_table(&definition("spans")).await.unwrap();
    for block in 0..6_u64 {
        store
            .append("spans", FIRST_CUT + block, vec![rows(block as i64 * 100, 100)])
            .await
            .unwrap();
    }
    // With every other file gone, only a scan that does not open them succeeds.
    for block in [0, 1, 2, 4, 5] {
        let cut = FIRST_CUT + block;
        std::fs::remove_file(place.path().join(format!("spans/{cut:016}-{cut:016}.parquet"))).unwrap();
    }
    let sql =
        "SELECT count(*) FROM t WHERE _tick >= 1764000000300 AND _tick < 1764000000400 AND trace_id <> ''";
    let found = query(&store, "spans", sql).await;
    assert_eq!(found[0].column(0).as_primitive::<Int64Type>().value(0), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_at_the_edges_come_back() {
    let place = tempfile::tempdir().unwrap();
    let store = DeltaStore::open(place.path()).unwrap();
    let batch = queries::edges();
    let definition = TableDefinition {
        name: "default/edges".into(),
        schema: batch.schema(),
        retention_us: None,
        time_column: Some("at".into()),
        key: Vec::new(),
    };
    store.ensure_table(&definition).await.unwrap();
    store
        .append("default/edges", FIRST_CUT, vec![batch.clone()])
        .await
        .unwrap();
    for sql in queries::OF_EDGES {
        assert_eq!(
            text(&query(&store, "default/edges", sql).await),
            oracle(std::slice::from_ref(&batch), sql).await,
            "{sql}"
        );
    }
}
