//! The streams: those of OpenTelemetry, and those that users declare.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use parking_lot::{Mutex, RwLock};
use pyflare_connectors::{LogError, Signal};
use pyflare_operators::fields;
use pyflare_operators::streams::StreamDefinition;
use serde::{Deserialize, Serialize};

use super::checkpoint::StreamEntry;
use super::messages::RowCounts;
use super::topics::Feeding;
use super::views::ViewName;
use crate::plan::Declared;
use crate::time::Tick;

/// Tells streams apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum StreamId {
    Signal(Signal),
    /// Of a user's stream; unique for the life of the data directory.
    User(u64),
}

/// How far the event time of each stream has come, microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Marks(BTreeMap<StreamId, i64>);

impl Marks {
    pub fn of(&self, stream: StreamId) -> Option<i64> {
        self.0.get(&stream).copied()
    }

    pub fn set(&mut self, stream: StreamId, mark_us: i64) {
        self.0.insert(stream, mark_us);
    }

    pub fn forget(&mut self, stream: StreamId) {
        self.0.remove(&stream);
    }

    pub fn iter(&self) -> impl Iterator<Item = (StreamId, i64)> {
        self.0.iter().map(|(stream, mark)| (*stream, *mark))
    }
}

impl FromIterator<(StreamId, i64)> for Marks {
    fn from_iter<I: IntoIterator<Item = (StreamId, i64)>>(marks: I) -> Marks {
        Marks(marks.into_iter().collect())
    }
}

/// A user's stream as the coordinator and the workers know it.
pub(crate) struct InstalledStream {
    pub id: u64,
    pub name: ViewName,
    pub definition: Arc<StreamDefinition>,
    pub schema: SchemaRef,
    pub created_at: Tick,
    /// Set before it is known to anybody, if it has a topic of its own.
    pub feeding: OnceLock<Feeding>,
    pub counters: StreamCounters,
    /// Why its topic cannot be read for now.
    trouble: Mutex<Option<LogError>>,
    /// The newest rows and messages that were left out, oldest first.
    rejections: Mutex<VecDeque<Rejection>>,
}

/// How many of them are kept.
pub(super) const KEPT_REJECTIONS: usize = 100;

/// A row that does not fit its stream's declaration, or a whole message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub tick: Tick,
    pub partition: u32,
    pub offset: u64,
    /// Its number in the message; `None`: all of it.
    pub row: Option<u32>,
    pub code: &'static str,
    pub detail: String,
}

#[derive(Default)]
pub(crate) struct StreamCounters {
    admitted: AtomicU64,
    rejected: AtomicU64,
    future: AtomicU64,
    unreadable: AtomicU64,
    /// Offsets of its own topic that are not admitted yet.
    waiting: AtomicU64,
    /// Zero: none yet.
    mark_us: AtomicI64,
}

impl InstalledStream {
    pub fn new(id: u64, definition: StreamDefinition, tick: Tick) -> InstalledStream {
        InstalledStream {
            id,
            name: ViewName::of_project(&definition.project, &definition.name),
            schema: definition.schema(),
            definition: Arc::new(definition),
            created_at: tick,
            feeding: OnceLock::new(),
            counters: StreamCounters::default(),
            trouble: Mutex::new(None),
            rejections: Mutex::new(VecDeque::new()),
        }
    }

    /// The same with a topic to read, if it has one.
    pub fn fed(self, feeding: Option<Feeding>) -> InstalledStream {
        InstalledStream {
            feeding: feeding.map(OnceLock::from).unwrap_or_default(),
            ..self
        }
    }

    /// The name of its own topic.
    pub fn topic_name(&self) -> Option<String> {
        Some(self.definition.topic.as_ref()?.name.clone())
    }

    pub fn set_trouble(&self, failure: Option<LogError>) {
        let mut known = self.trouble.lock();
        match (&*known, &failure) {
            (None, Some(failure)) => {
                tracing::error!(stream = %self.name, %failure, "the stream stands still");
            }
            (Some(_), None) => tracing::info!(stream = %self.name, "the stream's topic is read again"),
            _ => {}
        }
        *known = failure;
    }

    pub fn set_waiting(&self, offsets: u64) {
        self.counters.waiting.store(offsets, Ordering::Relaxed);
    }

    pub fn reject(&self, rejection: Rejection) {
        let mut kept = self.rejections.lock();
        if kept.len() == KEPT_REJECTIONS {
            kept.pop_front();
        }
        kept.push_back(rejection);
    }

    pub fn rejections(&self) -> Vec<Rejection> {
        self.rejections.lock().iter().cloned().collect()
    }

    /// As a checkpoint says.
    pub fn restored(entry: &StreamEntry) -> InstalledStream {
        let stream = InstalledStream::new(entry.id, entry.definition.clone(), entry.created_at);
        let counters = &stream.counters;
        counters.admitted.store(entry.admitted, Ordering::Relaxed);
        counters.rejected.store(entry.rejected, Ordering::Relaxed);
        counters.future.store(entry.future, Ordering::Relaxed);
        counters.unreadable.store(entry.unreadable, Ordering::Relaxed);
        stream
    }

    /// What a checkpoint says of it.
    pub fn entry(&self) -> StreamEntry {
        StreamEntry {
            id: self.id,
            definition: (*self.definition).clone(),
            created_at: self.created_at,
            admitted: self.counters.admitted.load(Ordering::Relaxed),
            rejected: self.counters.rejected.load(Ordering::Relaxed),
            future: self.counters.future.load(Ordering::Relaxed),
            unreadable: self.counters.unreadable.load(Ordering::Relaxed),
        }
    }

    /// The stored table of its rows; another incarnation of a name is another table.
    pub fn table(&self) -> String {
        let StreamDefinition { project, name, .. } = &*self.definition;
        format!("{project}/{name}@{}", self.created_at)
    }

    pub fn count(&self, counts: RowCounts) {
        let RowCounts {
            admitted,
            rejected,
            future,
            unreadable,
        } = counts;
        self.counters.admitted.fetch_add(admitted, Ordering::Relaxed);
        self.counters.rejected.fetch_add(rejected, Ordering::Relaxed);
        self.counters.future.fetch_add(future, Ordering::Relaxed);
        self.counters.unreadable.fetch_add(unreadable, Ordering::Relaxed);
    }

    pub fn set_mark(&self, mark_us: i64) {
        self.counters.mark_us.store(mark_us, Ordering::Relaxed);
    }

    pub fn describe(&self) -> StreamDescription {
        let mark_us = self.counters.mark_us.load(Ordering::Relaxed);
        StreamDescription {
            name: self.name.clone(),
            definition: Arc::clone(&self.definition),
            schema: Arc::clone(&self.schema),
            created_at: self.created_at,
            table: self.table(),
            rows: self.counters.admitted.load(Ordering::Relaxed),
            rejected_rows: self.counters.rejected.load(Ordering::Relaxed),
            future_rows: self.counters.future.load(Ordering::Relaxed),
            unreadable_messages: self.counters.unreadable.load(Ordering::Relaxed),
            waiting_messages: self.counters.waiting.load(Ordering::Relaxed),
            trouble: self.trouble.lock().as_ref().map(ToString::to_string),
            mark_us: (mark_us != 0).then_some(mark_us),
        }
    }
}

/// What others may know of a user's stream. Counts are since it was declared.
#[derive(Debug, Clone)]
pub struct StreamDescription {
    pub name: ViewName,
    pub definition: Arc<StreamDefinition>,
    /// All columns, hidden ones included.
    pub schema: SchemaRef,
    pub created_at: Tick,
    /// The stored table of its rows.
    pub table: String,
    pub rows: u64,
    /// Rows that did not fit the declaration, in requests of which others did.
    pub rejected_rows: u64,
    /// Rows more than a minute ahead of their tick: stored, and in no view.
    pub future_rows: u64,
    /// Messages, or requests, of which nothing could be read.
    pub unreadable_messages: u64,
    /// Of its own topic: messages that are not admitted yet, marks of transactions included.
    pub waiting_messages: u64,
    /// Why its own topic cannot be read for now.
    pub trouble: Option<String>,
    /// How far its event time has come, microseconds.
    pub mark_us: Option<i64>,
}

/// The users' streams, by name. Shared by everybody, changed by the coordinator only.
#[derive(Default)]
pub(crate) struct StreamRegistry {
    streams: RwLock<BTreeMap<ViewName, Arc<InstalledStream>>>,
}

impl StreamRegistry {
    pub fn insert(&self, stream: Arc<InstalledStream>) {
        self.streams.write().insert(stream.name.clone(), stream);
    }

    pub fn remove(&self, id: u64) -> Option<Arc<InstalledStream>> {
        let mut streams = self.streams.write();
        let name = streams.values().find(|stream| stream.id == id)?.name.clone();
        streams.remove(&name)
    }

    pub fn get(&self, project: &str, name: &str) -> Option<Arc<InstalledStream>> {
        let streams = self.streams.read();
        streams.get(&ViewName::of_project(project, name)).cloned()
    }

    pub fn by_id(&self, id: u64) -> Option<Arc<InstalledStream>> {
        let streams = self.streams.read();
        streams.values().find(|stream| stream.id == id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<InstalledStream>> {
        self.streams.read().values().cloned().collect()
    }

    /// The stored table of a stream's rows; `None`: it has been dropped.
    pub fn table(&self, stream: StreamId) -> Option<String> {
        match stream {
            StreamId::Signal(signal) => signal.stream().map(str::to_owned),
            StreamId::User(id) => self.by_id(id).map(|stream| stream.table()),
        }
    }

    /// How long a stream's rows are stored, microseconds, where its declaration says so.
    pub fn retention_us(&self, stream: StreamId) -> Option<i64> {
        match stream {
            StreamId::Signal(_) => None,
            StreamId::User(id) => self.by_id(id)?.definition.retention_us,
        }
    }

    /// The stream that a plan means; `None` if there is none or it is declared otherwise by now.
    pub fn meant_by(&self, stream: &str, declared: Option<&Declared>) -> Option<StreamId> {
        match declared {
            None => signal_of(stream).map(StreamId::Signal),
            Some(declared) => {
                let found = self.get(&declared.project, stream)?;
                (Declared::of(&found.definition) == *declared).then_some(StreamId::User(found.id))
            }
        }
    }
}

/// The signal whose rows are that stream.
pub(crate) fn signal_of(stream: &str) -> Option<Signal> {
    Signal::OTLP
        .into_iter()
        .find(|signal| signal.stream() == Some(stream))
}

/// The schema of a signal's stream, as a monitor sees it.
pub(crate) fn signal_schema(signal: Signal) -> SchemaRef {
    signal
        .stream()
        .and_then(fields::stream_schema)
        .expect("invariant: OTLP's signals have streams")
}
