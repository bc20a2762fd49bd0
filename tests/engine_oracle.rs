//! Content at every tick = the same SQL as a DataFusion batch over the rows admitted until then.
//!
//! One engine admits generated traffic with duplicates and out-of-order event times and is watched through
//! subscriptions; the tick log is then replayed with other worker counts, which must give the same frames bit for
//! bit. The batch shares neither the lowering nor the dataflow with the engine.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use bytes::Bytes;
use pyflare_connectors::{ContentType, Log, LogRecord, Signal};
use pyflare_dataflows::plan::builtin;
use pyflare_dataflows::{Engine, EngineOptions, Event, MonitorDefinition, SubscribeOptions, ViewName};
use pyflare_delta::DeltaStore;
use pyflare_log::{EmbeddedLog, FileCatalog, FileTickLog, LogOptions};
use pyflare_operators::corpus::{Generator, Traffic};
use pyflare_sql::{PlanScope, Statement};

const MONITORS: &[&str] = &[
    "CREATE MONITOR extremes AS SELECT model, window_start, min(duration_ns) AS least, max(duration_ns) AS most,
       max(name) AS last_name, avg(temperature) AS warmth
     FROM TUMBLE(spans, event_time, INTERVAL '10 seconds') GROUP BY model, window_start",
    "CREATE MONITOR filtered AS SELECT service_name, window_end, count(*) AS calls, sum(input_tokens) AS tokens
     FROM TUMBLE(spans, event_time, INTERVAL '1 minute') WHERE output_tokens > 20
     GROUP BY service_name, window_end HAVING count(*) > 3",
    "CREATE MONITOR by_user AS SELECT user_id, count(*) AS calls, sum(output_tokens) AS tokens FROM spans GROUP BY user_id",
    "CREATE MONITOR slowest AS SELECT trace_id, span_id, duration_ns FROM spans WHERE duration_ns > 900000000",
    "CREATE MONITOR models AS SELECT DISTINCT model, provider FROM spans",
];

struct Opened {
    engine: Engine,
    log: Arc<EmbeddedLog>,
}

fn open(directory: &Path, workers: usize) -> Opened {
    let log = EmbeddedLog::open(LogOptions {
        directory: directory.join("log"),
        min_free_bytes: 0,
        ..LogOptions::default()
    })
    .unwrap();
    let tick_log = FileTickLog::open(directory.join("ticks")).unwrap();
    let catalog = FileCatalog::open(directory.join("catalog")).unwrap();
    let store = DeltaStore::open(directory.join("tables")).unwrap();
    let mut options = EngineOptions::new(
        log.clone(),
        tick_log,
        catalog,
        Some(store),
        tokio::runtime::Handle::current(),
    );
    options.workers = workers;
    // All rows stay in the tail, where the oracle reads them.
    options.flush_every = Duration::from_secs(3_600);
    options.tick_period = Duration::from_millis(20);
    let engine = tokio::task::block_in_place(|| Engine::start(options)).unwrap();
    Opened { engine, log }
}

fn definitions() -> Vec<MonitorDefinition> {
    let builtin = builtin::FILES
        .iter()
        .map(|(name, sql)| pyflare_sql::builtin_view(name, sql).unwrap());
    let scope = PlanScope {
        project: Some("default".into()),
    };
    let own = MONITORS
        .iter()
        .map(|sql| match pyflare_sql::parse(sql, &scope).unwrap() {
            Statement::CreateMonitor(create) => create.definition,
            other => panic!("{other:?}"),
        });
    builtin.chain(own).collect()
}

fn view_name(definition: &MonitorDefinition) -> ViewName {
    ViewName {
        project: definition.project.clone(),
        name: definition.name.clone(),
    }
}

fn record(body: Vec<u8>) -> LogRecord {
    let project: Arc<str> = Arc::from("default");
    LogRecord {
        body_hash: pyflare_otlp::body_hash(&project, Signal::Traces, &body),
        project,
        signal: Signal::Traces,
        content_type: ContentType::Protobuf,
        received_us: 1_700_000_000_000_000,
        body: Bytes::from(body),
    }
}

/// Rows with multiplicities, in a form that compares bit for bit.
fn rows_of(
    schema: &SchemaRef,
    batch: &RecordBatch,
    diffs: Option<&[i64]>,
    into: &mut BTreeMap<OwnedRow, i64>,
) {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()).unwrap())
        .collect();
    let fields = schema
        .fields()
        .iter()
        .map(|field| SortField::new(field.data_type().clone()))
        .collect();
    let rows = RowConverter::new(fields)
        .unwrap()
        .convert_columns(&columns)
        .unwrap();
    for (index, row) in rows.iter().enumerate() {
        *into.entry(row.owned()).or_default() += diffs.map_or(1, |diffs| diffs[index]);
    }
    into.retain(|_, count| *count != 0);
}

/// The content of every view after every tick at which it changed.
type Transcript = HashMap<String, BTreeMap<u64, BTreeMap<OwnedRow, i64>>>;

async fn watch(
    engine: &Engine,
    definition: &MonitorDefinition,
    until: u64,
) -> BTreeMap<u64, BTreeMap<OwnedRow, i64>> {
    let options = SubscribeOptions {
        snapshot: true,
        progress: true,
        ..SubscribeOptions::default()
    };
    let mut subscription = engine.subscribe(&view_name(definition), options).unwrap();
    let schema = subscription.schema();
    let mut content = BTreeMap::new();
    let mut transcript = BTreeMap::new();
    let mut last_upper = None;
    loop {
        let Event::Frame(frame) = subscription.next().await else {
            panic!("the view ended")
        };
        if frame.reset {
            content.clear();
        } else if let Some(last) = last_upper {
            assert_eq!(frame.lower, last, "frames follow on");
        }
        last_upper = Some(frame.upper);
        if let Some(batch) = &frame.batch {
            rows_of(&schema, batch, Some(&frame.diffs), &mut content);
            transcript.insert(frame.upper - 1, content.clone());
        }
        if frame.upper > until {
            return transcript;
        }
    }
}

fn admitted_until(rows: &RecordBatch, tick: u64) -> RecordBatch {
    let ticks = rows.column_by_name("_tick").unwrap().as_primitive::<Int64Type>();
    let mask = ticks.iter().map(|at| Some(at.unwrap() <= tick as i64)).collect();
    filter_record_batch(rows, &mask).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tick_equals_the_batch_on_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), 2);
    let definitions = definitions();
    for definition in &definitions {
        first.engine.install(definition.clone(), false).await.unwrap();
    }
    let engine = first.engine.clone();
    // Watched from before the first row.
    let watched = definitions.clone();
    let watchers: Vec<_> = watched
        .into_iter()
        .map(|definition| {
            let engine = engine.clone();
            let (stop, stopped) = tokio::sync::oneshot::channel::<u64>();
            let watcher = tokio::spawn(async move {
                let options = SubscribeOptions {
                    snapshot: true,
                    progress: true,
                    ..SubscribeOptions::default()
                };
                let mut subscription = engine.subscribe(&view_name(&definition), options).unwrap();
                let schema = subscription.schema();
                let (mut content, mut transcript) = (BTreeMap::new(), BTreeMap::new());
                let mut stopped = stopped;
                let mut until = u64::MAX;
                loop {
                    if let Ok(tick) = stopped.try_recv() {
                        until = tick;
                    }
                    let Event::Frame(frame) = subscription.next().await else {
                        panic!("the view ended")
                    };
                    if let Some(batch) = &frame.batch {
                        rows_of(&schema, batch, Some(&frame.diffs), &mut content);
                        transcript.insert(frame.upper - 1, content.clone());
                    }
                    if frame.upper > until {
                        return (definition, transcript);
                    }
                }
            });
            (watcher, stop)
        })
        .collect();

    // Ten minutes ago, so that nothing expires when the stream falls idle.
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 600_000_000_000;
    let mut bodies = Vec::new();
    for batch in 0..60u64 {
        // Event times jump back and forth by minutes, so panes get rows late.
        let start = base + ((batch * 7_919) % 60) * 5_000_000_000;
        let traffic = Traffic {
            services: 3,
            models: 4,
            users: 5,
            start_unix_nano: start,
            errors_per_mille: 100,
            ..Traffic::default()
        };
        let body = Generator::new(batch, traffic).small_request(40);
        first.log.append(record(body.clone())).await.unwrap();
        if batch % 3 == 0 {
            first.log.append(record(body.clone())).await.unwrap();
        }
        bodies.push(body);
        if batch % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while engine.status().requests < 60 {
        assert!(
            std::time::Instant::now() < deadline,
            "rows are admitted: {:?}",
            engine.status()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.status().rows[0], 60 * 40, "repeated bodies count once");
    assert_eq!(engine.status().duplicate_requests, 20);
    let last = engine.status().tick;
    engine.wait_complete(last).await;
    let tail = engine.tail("spans", last);
    let rows = concat_batches(&tail.batches[0].schema(), &tail.batches).unwrap();
    assert_eq!(rows.num_rows(), 60 * 40);
    let mut reference: Transcript = HashMap::new();
    for (watcher, stop) in watchers {
        stop.send(last).unwrap();
        let (definition, transcript) = watcher.await.unwrap();
        assert!(!transcript.is_empty(), "{} was seen to change", definition.name);
        let view = engine.view_named(&view_name(&definition)).unwrap();
        for (tick, content) in transcript.range(..=last) {
            let batch = pyflare_sql::oracle::batch(&definition, &[admitted_until(&rows, *tick)]).unwrap();
            let mut expected = BTreeMap::new();
            rows_of(&view.schema, &batch, None, &mut expected);
            assert_eq!(
                content.len(),
                expected.len(),
                "{} at tick {tick}",
                definition.name
            );
            assert!(
                *content == expected,
                "{} at tick {tick} differs from the batch",
                definition.name
            );
        }
        reference.insert(
            definition.name.clone(),
            transcript.range(..=last).map(|(t, c)| (*t, c.clone())).collect(),
        );
    }
    tokio::task::block_in_place(|| engine.shutdown());
    drop(first);

    for workers in [1, 4] {
        // The log is copied: each replay starts from the same history.
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        let again = open(copy.path(), workers);
        for definition in &definitions {
            let view = again
                .engine
                .view_named(&view_name(definition))
                .expect("monitors survive");
            let newest = watch(&again.engine, definition, again.engine.status().complete_tick).await;
            let (_, replayed) = newest.last_key_value().expect("the snapshot has rows");
            let (_, before) = reference[&definition.name].last_key_value().unwrap();
            assert!(
                replayed == before,
                "{} on {workers} workers ({} columns)",
                definition.name,
                view.schema.fields().len()
            );
        }
        tokio::task::block_in_place(|| again.engine.shutdown());
    }
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}
