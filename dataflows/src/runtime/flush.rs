//! The flusher: writes what the tail holds to the store, at recorded cuts.
//!
//! A cut is a tick in the tick log, so after a crash the replay makes the same blocks and the store recognises the
//! ones it already has. Changes of monitors that have a topic are written there at the same cuts, after the store, and the
//! topic says which cut it has. Nothing leaves the tail before the store has committed it; a failing store is retried with
//! growing pauses while the tail grows, until the coordinator stops admitting rows.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use pyflare_connectors::faults::{self, Fault, Step};
use pyflare_connectors::{
    LogError, OutputBlock, Outputs, Part, Removal, RowRange, Store, StoreError, TableDefinition, TickLog,
    TickLogError,
};
use pyflare_operators::conform::conform;

use super::consolidate::{
    Changes, DIFF_COLUMN, TICK_COLUMN, changes_schema, consolidate, with_tick_and_diff,
};
use super::engine::Engine;
use super::erasure::Erased;
use super::error::EngineError;
use super::streams::{StreamId, StreamRegistry, signal_schema};
use super::tail::{HistoryTail, ViewBlock, logical};
use super::views::InstalledView;
use crate::plan::MonitorDefinition;
use crate::time::{Tick, tick_us};

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Rows that one thread writes to a file of their own: enough to compress well, few enough that a second of heavy
/// traffic keeps two threads busy.
const PART_ROWS: usize = 64 * 1024;
/// Stored changes that are read before they are summed up.
const SUMMED_AT_ONCE: usize = 256 * 1024;
/// The store merges small files at most this often.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(60);

/// Cuts asked for and not yet written, and whether the store accepts writes.
#[derive(Default)]
pub(crate) struct FlushState {
    pub pending: AtomicUsize,
    pub failing: AtomicBool,
    pub failure: parking_lot::Mutex<Option<String>>,
    pub flushed: AtomicU64,
    pub written_rows: AtomicU64,
    /// The newest block of each stream's table.
    pub stored: parking_lot::Mutex<BTreeMap<String, Tick>>,
    /// Erasures whose rows the store has no more, by id.
    pub removed: parking_lot::Mutex<Vec<u64>>,
    stop: AtomicBool,
}

/// What the flusher has to do.
pub(crate) enum FlushJob {
    /// Write what the tail holds up to a tick.
    Cut(Tick),
    /// Remove the rows of an erasure; of views there are these tables.
    Remove(Arc<Erased>, BTreeSet<String>),
}

#[derive(Clone)]
pub(crate) struct FlusherHandle {
    sender: Sender<FlushJob>,
    pub state: Arc<FlushState>,
}

impl FlusherHandle {
    pub fn flush(&self, tick: Tick) {
        self.state.pending.fetch_add(1, Ordering::AcqRel);
        if self.sender.send(FlushJob::Cut(tick)).is_err() {
            tracing::error!("the flusher has stopped; history is not written any more");
        }
    }

    /// Has the store forget the rows of an erasure; told in [`FlushState::removed`].
    /// `known` are the tables of the views there are: what others have left is deleted.
    pub fn remove(&self, erased: Arc<Erased>, known: BTreeSet<String>) {
        // Who has stopped is asked again after the next start.
        let _ = self.sender.send(FlushJob::Remove(erased, known));
    }

    /// After this a failing write is given up: the log has everything.
    pub fn stop(&self) {
        self.state.stop.store(true, Ordering::Release);
    }
}

/// Why a block is not written.
#[derive(Debug, thiserror::Error)]
enum FlushError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Output(#[from] LogError),
    #[error(transparent)]
    Generation(#[from] TickLogError),
}

/// Topics that changes go to, and who says whether this process still may write there.
pub(crate) struct OutputSink {
    pub outputs: Arc<dyn Outputs>,
    pub tick_log: Arc<dyn TickLog>,
    pub generation: u64,
}

pub(crate) struct Flusher {
    store: Arc<dyn Store>,
    runtime: tokio::runtime::Handle,
    tail: Arc<HistoryTail>,
    streams: Arc<StreamRegistry>,
    receiver: Receiver<FlushJob>,
    state: Arc<FlushState>,
    /// The newest cut each table is known to have.
    written: HashMap<String, Option<Tick>>,
    maintained: std::time::Instant,
    /// Erasures whose rows are to be removed when nothing waits to be written.
    removals: VecDeque<(Arc<Erased>, BTreeSet<String>)>,
    stream_retention_us: Option<i64>,
    outputs: Option<OutputSink>,
}

impl Flusher {
    pub fn new(
        store: Arc<dyn Store>,
        runtime: tokio::runtime::Handle,
        tail: Arc<HistoryTail>,
        streams: Arc<StreamRegistry>,
        stream_retention_us: Option<i64>,
        outputs: Option<OutputSink>,
    ) -> (Flusher, FlusherHandle) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let state = Arc::new(FlushState::default());
        let handle = FlusherHandle {
            sender,
            state: Arc::clone(&state),
        };
        let maintained = std::time::Instant::now();
        let written = HashMap::new();
        (
            Flusher {
                store,
                runtime,
                tail,
                streams,
                receiver,
                state,
                written,
                maintained,
                removals: VecDeque::new(),
                stream_retention_us,
                outputs,
            },
            handle,
        )
    }

    /// Runs until every handle is gone; cuts already asked for are written first.
    pub fn run(mut self) {
        loop {
            match self.receiver.recv_timeout(Duration::from_secs(1)) {
                Ok(FlushJob::Cut(tick)) => {
                    if !self.write_until_done(tick) {
                        break;
                    }
                    self.state.flushed.store(tick, Ordering::Release);
                    self.state.pending.fetch_sub(1, Ordering::AcqRel);
                }
                Ok(FlushJob::Remove(erased, known)) => self.removals.push_back((erased, known)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Cuts may come more often than anything times out.
            if self.receiver.is_empty() {
                self.remove();
                self.maintain();
            }
        }
    }

    fn write_until_done(&mut self, tick: Tick) -> bool {
        let mut pause = RETRY_FIRST;
        loop {
            match self.write(tick) {
                Ok(()) => {
                    self.state.failing.store(false, Ordering::Release);
                    self.tail.release(tick);
                    return true;
                }
                Err(error) => {
                    tracing::warn!(%error, cut = tick, "a block could not be written; it stays in memory and is tried again");
                    *self.state.failure.lock() = Some(error.to_string());
                    self.state.failing.store(true, Ordering::Release);
                    if self.state.stop.load(Ordering::Acquire) {
                        return false;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
            }
        }
    }

    fn write(&mut self, cut: Tick) -> Result<(), FlushError> {
        faults::at(Step::FlushBegun);
        let block = self.tail.block(cut);
        for (stream, batches) in block.streams {
            let Some(table) = self.stream_table(stream) else {
                continue;
            };
            if self.is_written(&table, cut)? {
                self.note_stored(&table.name, cut);
                continue;
            }
            let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
            let repeated = faults::planted(Fault::BlockRepeated).then(|| batches.clone());
            self.append(&table.name, cut, parts(stream, batches))?;
            if let Some(batches) = repeated {
                self.append(&table.name, cut + 1, parts(stream, batches))?;
            }
            self.note_stored(&table.name, cut);
            self.state.written_rows.fetch_add(rows as u64, Ordering::Relaxed);
        }
        let mut outputs = Vec::new();
        for ViewBlock {
            view,
            mut changes,
            renewal,
        } in block.views
        {
            let table = TableDefinition {
                name: view.changes_table(),
                schema: changes_schema(&view.rendered.schema),
                retention_us: None,
                time_column: None,
                key: key_names(&view),
            };
            let is_stored = self.is_written(&table, cut)?;
            let topic = self.topic_of(&view, cut)?;
            if is_stored && topic.is_none() {
                continue;
            }
            let is_renewed = renewal.is_some();
            let mut rows = Vec::new();
            if let Some(content) = renewal {
                // A tick before it there is nothing any more.
                let stored = stored_content(self.store.as_ref(), &view, cut - 1);
                let stored = self.runtime.block_on(stored)?.map(Changes::negated);
                rows.extend(stored.map(|gone| with_tick_and_diff(&gone, cut - 1)));
                changes.extend(content);
            }
            rows.extend(consolidate(&changes).map(|net| with_tick_and_diff(&net, cut)));
            if rows.is_empty() {
                continue;
            }
            if let Some(topic) = topic {
                outputs.push(OutputBlock {
                    output: view.id.to_string(),
                    topic,
                    rows: concat_batches(rows[0].schema_ref(), &rows)
                        .expect("invariant: one schema per view"),
                    key: key_names(&view),
                });
            }
            match (is_stored, is_renewed) {
                (true, _) => {}
                (false, false) => self.append(&table.name, cut, vec![Part::of(rows)])?,
                (false, true) => self.renew(&table.name, cut, vec![Part::of(rows)])?,
            }
        }
        match &self.outputs {
            Some(sink) if !outputs.is_empty() => {
                sink.tick_log.check_generation(sink.generation)?;
                Ok(sink.outputs.write(cut, &outputs)?)
            }
            _ => Ok(()),
        }
    }

    /// The topic that a view's changes of this cut are still to be written to.
    fn topic_of(&self, view: &InstalledView, cut: Tick) -> Result<Option<String>, FlushError> {
        let (Some(sink), Some(topic)) = (&self.outputs, &view.definition.options.kafka_topic) else {
            return Ok(None);
        };
        sink.tick_log.check_generation(sink.generation)?;
        let last = sink.outputs.last_cut(&view.id.to_string())?;
        Ok(last.is_none_or(|last| last < cut).then(|| topic.clone()))
    }

    /// Where a stream's rows go; `None`: it has been dropped.
    fn stream_table(&self, stream: StreamId) -> Option<TableDefinition> {
        match stream {
            StreamId::Signal(signal) => Some(TableDefinition {
                name: signal.stream()?.to_string(),
                schema: signal_schema(signal),
                retention_us: self.stream_retention_us,
                time_column: Some("event_time".into()),
                key: Vec::new(),
            }),
            StreamId::User(id) => {
                let stream = self.streams.by_id(id)?;
                Some(TableDefinition {
                    name: stream.table(),
                    schema: Arc::clone(&stream.schema),
                    retention_us: stream.definition.retention_us.or(self.stream_retention_us),
                    time_column: Some(stream.definition.time_column().to_string()),
                    key: Vec::new(),
                })
            }
        }
    }

    /// Makes sure the table exists; true if it already has this cut (after a crash the replay comes by again).
    fn is_written(&mut self, table: &TableDefinition, cut: Tick) -> Result<bool, StoreError> {
        if !self.written.contains_key(&table.name) {
            let store = Arc::clone(&self.store);
            let last = self.runtime.block_on(async {
                store.ensure_table(table).await?;
                store.last_cut(&table.name).await
            })?;
            self.written.insert(table.name.clone(), last);
        }
        Ok(self.written[&table.name].is_some_and(|last| last >= cut))
    }

    fn append(&mut self, table: &str, cut: Tick, parts: Vec<Part>) -> Result<(), StoreError> {
        self.runtime
            .block_on(self.store.append_parts(table, cut, parts))?;
        self.written.insert(table.to_string(), Some(cut));
        Ok(())
    }

    fn renew(&mut self, table: &str, cut: Tick, parts: Vec<Part>) -> Result<(), StoreError> {
        self.runtime.block_on(self.store.renew_parts(table, cut, parts))?;
        self.written.insert(table.to_string(), Some(cut));
        Ok(())
    }

    fn note_stored(&self, table: &str, cut: Tick) {
        self.state.stored.lock().insert(table.to_string(), cut);
    }

    /// Removes the rows of the oldest erasure that waits, from the streams' tables and from what views have shown.
    fn remove(&mut self) {
        let Some((erased, known)) = self.removals.pop_front() else {
            return;
        };
        match self
            .runtime
            .block_on(remove(self.store.as_ref(), &erased, &known))
        {
            Ok((rows, dropped)) => {
                self.written.retain(|table, _| !dropped.contains(table));
                tracing::info!(
                    erasure = erased.request.id,
                    rows,
                    "the rows of an erasure are stored no more"
                );
                self.state.removed.lock().push(erased.request.id);
            }
            Err(error) => {
                tracing::warn!(%error, erasure = erased.request.id, "the rows of an erasure could not be removed from the store; it is tried again");
                self.removals.push_front((erased, known));
            }
        }
    }

    fn maintain(&mut self) {
        if self.maintained.elapsed() < MAINTENANCE_EVERY {
            return;
        }
        self.maintained = std::time::Instant::now();
        let now_us = tick_us(crate::time::now_ms());
        for table in self.written.keys() {
            if let Err(error) = self.runtime.block_on(self.store.maintain(table, now_us)) {
                tracing::warn!(%error, table, "the store could not be maintained; it is tried again in a minute");
            }
        }
    }
}

impl Engine {
    /// The topic that a monitor is to be written to must be there, and a store, whose cuts are its cuts as well.
    pub(super) async fn prepare_output(&self, definition: &MonitorDefinition) -> Result<(), EngineError> {
        let Some(topic) = definition.options.kafka_topic.clone() else {
            return Ok(());
        };
        let Some(outputs) = self.shared.outputs.clone() else {
            return Err(EngineError::Topic(LogError::NoTopics { topic }));
        };
        if self.shared.flusher.is_none() {
            return Err(EngineError::Output {
                name: definition.name.clone(),
                detail: "changes are written with those in the store, and there is none (store.url)".into(),
            });
        }
        let project = definition.project.clone().unwrap_or_default();
        let prepared = tokio::task::spawn_blocking(move || outputs.prepare(&project, &topic)).await;
        Ok(prepared.map_err(|_| EngineError::Closed)??)
    }
}

/// How many rows were removed, and which tables were dropped.
async fn remove(
    store: &dyn Store,
    erased: &Erased,
    known: &BTreeSet<String>,
) -> Result<(u64, Vec<String>), StoreError> {
    let subject = &erased.request.subject;
    let by = subject.by.column();
    let removal = Removal {
        project: subject.project.clone(),
        by: by.map(|column| (column.to_string(), subject.values.iter().cloned().collect())),
        until: erased.request.until,
    };
    let (mut rows, mut dropped) = (0, Vec::new());
    for table in store.tables().await? {
        let is_of = table
            .split_once('/')
            .is_none_or(|(project, _)| project == subject.project);
        match table.ends_with("_changes") {
            _ if !is_of => {}
            // Nobody corrects what a view has left that is not there any more, and nobody can ask for it.
            true if !known.contains(&table) && installed_at(&table).is_some_and(|at| at <= erased.at) => {
                store.drop_table(&table).await?;
                dropped.push(table);
            }
            true => store.settle_changes(&table, erased.at).await?,
            false => rows += store.remove_rows(&table, &removal).await?,
        }
        faults::at(Step::ErasureRemoved);
    }
    Ok((rows, dropped))
}

/// When the view was installed whose changes a table has.
fn installed_at(table: &str) -> Option<Tick> {
    let (_, at) = table.strip_suffix("_changes")?.rsplit_once('@')?;
    at.parse().ok()
}

/// The sum of a view's changes that are stored until a tick.
async fn stored_content(
    store: &dyn Store,
    view: &InstalledView,
    until: Tick,
) -> Result<Option<Changes>, StoreError> {
    let table = view.changes_table();
    let schema = changes_schema(&view.rendered.schema);
    let names = schema.fields().iter().map(|field| field.name().clone());
    let columns: Vec<String> = names.filter(|name| name != TICK_COLUMN).collect();
    let range = RowRange {
        columns: &columns,
        after: 0,
        until,
    };
    let mut parts: Vec<Changes> = Vec::new();
    let (mut rows, mut summed) = (0, 0);
    let mut unreadable = None;
    let mut visit = |batch: RecordBatch| {
        match changes_of(&batch, &view.rendered.schema) {
            Ok(changes) => parts.push(changes),
            Err(error) => unreadable = Some(error),
        }
        rows += batch.num_rows();
        // Most of what changed came and went.
        if rows > 2 * summed + SUMMED_AT_ONCE {
            parts = consolidate(&parts).map(Changes::compacted).into_iter().collect();
            summed = parts.iter().map(|part| part.diffs.len()).sum();
            rows = summed;
        }
        unreadable.is_none()
    };
    store.read_rows(&table, range, &mut visit).await?;
    match unreadable {
        Some(error) => Err(StoreError::Io {
            table,
            detail: error.to_string(),
        }),
        None => Ok(consolidate(&parts)),
    }
}

/// Rows of a changes table, its `_diff` among them, as changes.
fn changes_of(batch: &RecordBatch, view: &SchemaRef) -> Result<Changes, ArrowError> {
    let fields = view.fields().iter().cloned();
    let diff = Arc::new(Field::new(DIFF_COLUMN, DataType::Int64, false));
    let both = Arc::new(Schema::new(fields.chain([diff]).collect::<Vec<_>>()));
    let batch = conform(batch, &both)?;
    let (diffs, columns) = batch.columns().split_last().expect("invariant: it has _diff");
    Ok(Changes {
        batch: RecordBatch::try_new(Arc::clone(view), columns.to_vec())?,
        diffs: diffs.as_primitive::<Int64Type>().values().to_vec(),
    })
}

fn key_names(view: &InstalledView) -> Vec<String> {
    let columns = view.rendered.key_columns.iter();
    columns
        .map(|column| view.rendered.schema.field(*column).name().clone())
        .collect()
}

/// Divides a block so that several threads can write it; attributes are materialised as they are written.
fn parts(stream: StreamId, batches: Vec<RecordBatch>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut batches = batches.into_iter().peekable();
    while batches.peek().is_some() {
        let mut rows = 0;
        let mut taken = Vec::new();
        while rows < PART_ROWS
            && let Some(batch) = batches.next()
        {
            rows += batch.num_rows();
            taken.push(batch);
        }
        let batches = taken.into_iter().map(move |batch| logical(stream, &batch));
        parts.push(Part {
            rows,
            batches: Box::new(batches),
        });
    }
    parts
}
