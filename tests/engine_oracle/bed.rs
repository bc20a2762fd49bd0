//! An engine on files of its own, and the traffic it admits.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use bytes::Bytes;
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{
    Appended, ContentType, Log, LogError, LogRecord, Part, Removal, RowRange, Signal, Store, StoreError,
    TableDefinition,
};
use pyflare_dataflows::{Engine, EngineOptions, MonitorDefinition, Tail, ViewName};
use pyflare_delta::DeltaStore;
use pyflare_log::{EmbeddedLog, FileCatalog, FileTickLog, LogOptions};
use pyflare_operators::corpus::{Generator, Traffic};
use pyflare_operators::streams::StreamDefinition;
use pyflare_sql::{PlanScope, Statement};

/// Rows with multiplicities, in a form that compares bit for bit.
pub type Content = std::collections::BTreeMap<OwnedRow, i64>;

pub struct Opened {
    pub engine: Engine,
    pub log: Arc<EmbeddedLog>,
}

pub fn open(directory: &Path, workers: usize) -> Opened {
    open_with(directory, workers, |_| {})
}

/// As [`open`], with other options.
pub fn open_with(directory: &Path, workers: usize, change: impl FnOnce(&mut EngineOptions)) -> Opened {
    let log = EmbeddedLog::open(LogOptions {
        directory: directory.join("log"),
        // The mark is the lesser of two.
        partitions: 2,
        min_free_bytes: 0,
        ..LogOptions::default()
    })
    .unwrap();
    let tick_log = FileTickLog::open(directory.join("ticks")).unwrap();
    let catalog = FileCatalog::open(directory.join("catalog")).unwrap();
    let store = DeltaStore::open(directory.join("tables")).unwrap();
    let runtime = tokio::runtime::Handle::current();
    let mut options = EngineOptions::new(log.clone(), tick_log, catalog, Some(store), runtime);
    options.workers = workers;
    // All rows stay in the tail, where the oracle reads them.
    options.flush_every = Duration::from_secs(3_600);
    options.tick_period = Duration::from_millis(20);
    options.idle_period = Duration::from_millis(50);
    change(&mut options);
    let engine = tokio::task::block_in_place(|| Engine::start(options)).unwrap();
    Opened { engine, log }
}

/// A log that deletes nothing.
pub struct Keeping(Arc<dyn Log>);

impl Keeping {
    pub fn all_of(log: &Arc<dyn Log>) -> Arc<dyn Log> {
        Arc::new(Keeping(Arc::clone(log)))
    }
}

#[async_trait::async_trait]
impl Log for Keeping {
    fn partitions(&self, signal: Signal) -> u32 {
        self.0.partitions(signal)
    }

    fn start_offset(&self, signal: Signal, partition: u32) -> u64 {
        self.0.start_offset(signal, partition)
    }

    async fn append(&self, record: LogRecord) -> Result<Appended, LogError> {
        self.0.append(record).await
    }

    fn end_offset(&self, signal: Signal, partition: u32) -> u64 {
        self.0.end_offset(signal, partition)
    }

    fn read(
        &self,
        signal: Signal,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        self.0.read(signal, partition, offset, max_bytes)
    }

    fn on_append(&self, listener: AppendListener) {
        self.0.on_append(listener);
    }

    fn usage(&self) -> Option<(u64, u64)> {
        self.0.usage()
    }

    fn trim(&self, _signal: Signal, _partition: u32, _offset: u64) -> Result<(), LogError> {
        Ok(())
    }
}

/// A store that takes nothing, so that all rows stay in memory.
pub struct Refusing;

fn refused<T>() -> Result<T, StoreError> {
    Err(StoreError::Missing {
        table: "nothing".into(),
    })
}

#[async_trait::async_trait]
impl Store for Refusing {
    async fn ensure_table(&self, _table: &TableDefinition) -> Result<(), StoreError> {
        refused()
    }

    async fn append_parts(&self, _table: &str, _cut: u64, _parts: Vec<Part>) -> Result<(), StoreError> {
        refused()
    }

    async fn read_rows(
        &self,
        _table: &str,
        _range: RowRange<'_>,
        _visit: &mut (dyn FnMut(RecordBatch) -> bool + Send),
    ) -> Result<(), StoreError> {
        Ok(())
    }

    async fn remove_rows(&self, _table: &str, _removal: &Removal) -> Result<u64, StoreError> {
        refused()
    }

    async fn settle_changes(&self, _table: &str, _until: u64) -> Result<(), StoreError> {
        refused()
    }

    async fn last_cut(&self, _table: &str) -> Result<Option<u64>, StoreError> {
        refused()
    }

    async fn maintain(&self, _table: &str, _now_us: i64) -> Result<(), StoreError> {
        refused()
    }

    async fn size(&self, _table: &str) -> Result<(u64, u64), StoreError> {
        refused()
    }

    async fn tables(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn drop_table(&self, _table: &str) -> Result<(), StoreError> {
        refused()
    }
}

impl Opened {
    pub async fn append(&self, body: Vec<u8>) {
        let project: Arc<str> = Arc::from("default");
        let record = LogRecord {
            body_hash: pyflare_otlp::body_hash(&project, Signal::Traces, &body),
            project,
            signal: Signal::Traces,
            stream: None,
            content_type: ContentType::Protobuf,
            received_us: 1_700_000_000_000_000,
            body: Bytes::from(body),
        };
        self.log.append(record).await.unwrap();
    }

    /// Rows of a user's stream of the project `default`.
    pub async fn append_rows(&self, stream: &str, content_type: ContentType, body: Vec<u8>) {
        let record = LogRecord {
            body_hash: u128::from_le_bytes(rand::random()),
            project: Arc::from("default"),
            signal: Signal::Streams,
            stream: Some(Arc::from(stream)),
            content_type,
            received_us: (pyflare_dataflows::time::now_ms() * 1_000) as i64,
            body: Bytes::from(body),
        };
        self.log.append(record).await.unwrap();
    }

    /// Waits until so many different requests are admitted and complete; returns that tick.
    pub async fn admitted(&self, requests: u64) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.engine.status().requests < requests {
            let status = self.engine.status();
            assert!(Instant::now() < deadline, "rows are admitted: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let tick = self.engine.status().tick;
        self.engine.wait_complete(tick).await;
        tick
    }

    /// Every row admitted until `tick`, hidden columns included.
    pub fn rows(&self, tick: u64) -> RecordBatch {
        let tail = self.engine.tail("spans", tick);
        concat_batches(&tail.batches[0].schema(), &tail.batches).unwrap()
    }

    pub async fn content(&self, name: &ViewName) -> Content {
        // A replay is over once every tick is emitted, and its last one may not have been told yet.
        self.engine.wait_complete(self.engine.status().tick).await;
        let peek = self.engine.peek(name, &self.engine.hold(), None).await.unwrap();
        let mut content = Content::new();
        for batch in &peek.batches {
            add_rows(&peek.schema, batch, None, &mut content);
        }
        content
    }

    pub fn shutdown(self) {
        tokio::task::block_in_place(|| self.engine.shutdown());
    }
}

pub fn view_name(definition: &MonitorDefinition) -> ViewName {
    ViewName {
        project: definition.project.clone(),
        name: definition.name.clone(),
    }
}

/// Adds rows to a content, each as often as its difference says, else once.
pub fn add_rows(schema: &SchemaRef, batch: &RecordBatch, diffs: Option<&[i64]>, into: &mut Content) {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()).unwrap())
        .collect();
    let fields = schema
        .fields()
        .iter()
        .map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).unwrap();
    let rows = converter.convert_columns(&columns).unwrap();
    for (index, row) in rows.iter().enumerate() {
        *into.entry(row.owned()).or_default() += diffs.map_or(1, |diffs| diffs[index]);
    }
    into.retain(|_, count| *count != 0);
}

/// What is in one content and not in the other, as text; a few rows of each.
pub fn difference(schema: &SchemaRef, found: &Content, expected: &Content) -> String {
    let fields = schema.fields().iter();
    let converter = RowConverter::new(
        fields
            .map(|field| SortField::new(field.data_type().clone()))
            .collect(),
    )
    .unwrap();
    let parser = converter.parser();
    let only = |one: &Content, other: &Content| {
        let rows: Vec<_> = one
            .iter()
            .filter(|(row, count)| other.get(*row) != Some(*count))
            .take(5)
            .collect();
        let columns = converter.convert_rows(rows.iter().map(|(row, _)| parser.parse(row.as_ref())));
        let batch = RecordBatch::try_new(Arc::clone(schema), columns.unwrap());
        let shown = batch.map(|batch| {
            arrow::util::pretty::pretty_format_batches(&[batch])
                .unwrap()
                .to_string()
        });
        let counts: Vec<i64> = rows.iter().map(|(_, count)| **count).collect();
        format!("{} times {counts:?}", shown.unwrap_or_default())
    };
    format!(
        "found only\n{}\nexpected only\n{}",
        only(found, expected),
        only(expected, found)
    )
}

/// A request of `spans` model calls that begin at `start_ns`; the seed decides everything else.
pub fn request(seed: u64, start_ns: u64, spans: usize) -> Vec<u8> {
    let traffic = Traffic {
        services: 3,
        models: 4,
        users: 5,
        start_unix_nano: start_ns,
        errors_per_mille: 100,
        ..Traffic::default()
    };
    Generator::new(seed, traffic).small_request(spans)
}

/// A content as rows.
pub fn as_batch(schema: &SchemaRef, content: &Content) -> RecordBatch {
    let fields = schema
        .fields()
        .iter()
        .map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).unwrap();
    let parser = converter.parser();
    let rows: Vec<_> = content
        .iter()
        .flat_map(|(row, count)| std::iter::repeat_n(row, usize::try_from(*count).unwrap()))
        .collect();
    let columns = converter
        .convert_rows(rows.iter().map(|row| parser.parse(row.as_ref())))
        .unwrap();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options).unwrap()
}

/// The rows of `after < _tick ≤ until`.
pub fn between(rows: &RecordBatch, after: u64, until: u64) -> RecordBatch {
    let ticks = rows.column_by_name("_tick").unwrap().as_primitive::<Int64Type>();
    let mask: BooleanArray = ticks
        .values()
        .iter()
        .map(|tick| Some((*tick as u64) > after && (*tick as u64) <= until))
        .collect();
    filter_record_batch(rows, &mask).unwrap()
}

/// The rows of a tail, in one piece.
pub fn all_rows(tail: &Tail) -> RecordBatch {
    concat_batches(&tail.batches[0].schema(), &tail.batches).unwrap()
}

/// What `CREATE STREAM` declares in the project `default`.
pub fn declared(sql: &str) -> StreamDefinition {
    let scope = PlanScope {
        project: Some("default".into()),
        ..PlanScope::default()
    };
    match pyflare_sql::parse(sql, &scope).unwrap() {
        Statement::CreateStream { definition, .. } => *definition,
        other => panic!("{other:?}"),
    }
}

pub fn copy_directory(from: &Path, to: &Path) {
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
