//! ClickHouse as the store: what writing costs this process, and how many bytes a span takes there.
//!
//! The server is somebody else's process on the same machine, so spans a second say little here; what counts is the
//! processor time of this one, which decides how many cores of ours a sink needs. Written are the rows read back from
//! the store, all columns, in parts as the flusher makes them; decoding is measured by other parts, and so is turning
//! attributes from wire bytes into maps.
//!
//! The stored size has no target: both corpora repeat a small content many times, which compresses better than traffic
//! does. The recording stored once takes 493 bytes a span where this figure is 63 (`docs/adr/015-clickhouse.md`).

use std::sync::Arc;

use anyhow::{Context, ensure};
use arrow::array::RecordBatch;
use pyflare_clickhouse::{Address, ClickHouseStore};
use pyflare_connectors::{Part, RowRange, Store, TableDefinition};
use pyflare_history::signal_streams;
use pyflare_operators::corpus::Generator;

use super::bed::{caught_up, counted, now_us, processor_seconds, stop};
use super::pipeline::{Corpus, PER_REQUEST, check};
use super::{Figure, REAL, SMALL, Target, figure};

const PART_ROWS: usize = 64 * 1024;
const ROUNDS: u64 = 3;

/// `url` names a server; a database of its own is created there for each run and dropped afterwards.
pub async fn clickhouse(seconds: f64, url: Option<&str>) -> anyhow::Result<Vec<Figure>> {
    let url = url.context(
        "PF-6043: the part clickhouse measures a server: name it with --clickhouse clickhouse://user@host:port \
         (tests/support/clickhouse.py run DIRECTORY starts one)",
    )?;
    let password = std::env::var("PYFLARE_STORE_PASSWORD").ok();
    let mut address = Address::parse(url, password)?;
    address.database = format!("pyflare_bench_{}", uuid::Uuid::new_v4().simple());
    let store = ClickHouseStore::open(address).await?;
    let measured = measure(seconds, &store).await;
    store.drop_database().await?;
    measured
}

async fn measure(seconds: f64, store: &Arc<ClickHouseStore>) -> anyhow::Result<Vec<Figure>> {
    let small = Corpus {
        name: "small",
        corpus: SMALL,
        make: Generator::small_request,
        spans: (seconds * 60e3) as u64,
    };
    let real = Corpus {
        name: "real",
        corpus: REAL,
        make: Generator::real_request,
        spans: (seconds * 15e3) as u64,
    };
    let mut figures = Vec::new();
    for corpus in [small, real] {
        let (bed, spans, bytes) = corpus.prepare().await?;
        let engine = bed.start(1, Some(Arc::clone(store) as Arc<dyn Store>)).await?;
        caught_up(&engine, spans / PER_REQUEST as u64).await?;
        engine.flush().await?;
        check(counted(&engine).await?, spans)?;
        let (stored_bytes, stored_rows) = store.size("spans").await?;
        check(stored_rows, spans)?;
        stop(engine).await?;
        let rate = written(store, spans).await?;
        for table in store.tables().await? {
            store.drop_table(&table).await?;
        }
        let name = |what: &str| format!("ClickHouse, {}, {what}", corpus.name);
        let rate_target = match corpus.name {
            "small" => Target::AtLeast(200e3),
            _ => Target::None,
        };
        let spans = spans as f64;
        figures.push(figure(
            name("a core of ours"),
            rate,
            "spans/s",
            rate_target,
            corpus.corpus,
        ));
        figures.push(figure(
            name("stored size, repeats compressed"),
            stored_bytes as f64 / spans,
            "bytes/span",
            Target::None,
            corpus.corpus,
        ));
        figures.push(figure(
            name("received size"),
            bytes as f64 / spans,
            "bytes/span",
            Target::None,
            corpus.corpus,
        ));
    }
    Ok(figures)
}

/// Spans that a second of processor time of this process writes.
async fn written(store: &Arc<ClickHouseStore>, spans: u64) -> anyhow::Result<f64> {
    let stream = signal_streams()
        .into_iter()
        .find(|stream| stream.table == "spans");
    let schema = stream.context("invariant: spans are a stream")?.schema;
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let mut batches: Vec<RecordBatch> = Vec::new();
    let range = RowRange {
        columns: &columns,
        after: 0,
        until: u64::MAX,
    };
    let mut keep = |batch: RecordBatch| {
        batches.push(batch);
        true
    };
    store.read_rows("spans", range, &mut keep).await?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    check(rows as u64, spans)?;
    let table = TableDefinition {
        name: "again".into(),
        schema,
        retention_us: None,
        time_column: Some("event_time".into()),
        key: Vec::new(),
    };
    store.ensure_table(&table).await?;
    let begin = processor_seconds(std::process::id())?;
    for round in 1..=ROUNDS {
        store
            .append_parts(&table.name, now_us() as u64 / 1000 + round, parts(&batches))
            .await?;
    }
    let taken = processor_seconds(std::process::id())? - begin;
    check(store.size(&table.name).await?.1, spans * ROUNDS)?;
    ensure!(
        taken > 0.0,
        "PF-6044: too little was written to be measured; give more --seconds"
    );
    Ok((spans * ROUNDS) as f64 / taken)
}

fn parts(batches: &[RecordBatch]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut taken = Vec::new();
    let mut rows = 0;
    for batch in batches {
        rows += batch.num_rows();
        taken.push(batch.clone());
        if rows >= PART_ROWS {
            parts.push(Part::of(std::mem::take(&mut taken)));
            rows = 0;
        }
    }
    parts.push(Part::of(taken));
    parts
}
