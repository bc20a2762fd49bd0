//! A small engine in memory with the behaviour [`Views`] promises: for tests, and to read as an example.
//!
//! Each view is a multiset of rows with a bounded history of its changes by tick. A query of the form
//! `SELECT count(*) AS n FROM <view>` is maintained; every other one is refused, as a planner would.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::views::{Event, Frame, SubscribeOptions, Subscription, View, ViewName, Views};
use crate::{Failure, FailureKind};

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    Null,
    Int(i64),
    Text(String),
    /// Microseconds since the Unix epoch.
    Time(i64),
    /// The bits of a double, so that rows have an order.
    Float(u64),
}

pub type Row = Vec<Cell>;

/// Rows with their multiplicities.
pub type Changes = Vec<(Row, i64)>;

/// The engine; cheap to clone.
#[derive(Clone)]
pub struct MemoryEngine {
    state: Arc<Mutex<State>>,
}

struct State {
    upper: u64,
    incarnations: u64,
    /// Ticks whose changes are kept for resuming.
    kept_ticks: usize,
    queue_events: usize,
    relations: BTreeMap<ViewName, Relation>,
}

struct Relation {
    view: Arc<View>,
    incarnation: u64,
    content: BTreeMap<Row, i64>,
    history: VecDeque<(u64, Changes)>,
    /// Changes before it are forgotten.
    horizon: u64,
    /// The view whose rows this one counts.
    counts: Option<ViewName>,
    readers: Vec<Weak<Reader>>,
}

struct Reader {
    project: Option<String>,
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Too slow: what waited was thrown away, a reset is due.
    lagging: bool,
}

/// Milliseconds from one tick to the next.
const TICK: u64 = 100;

impl Default for MemoryEngine {
    fn default() -> MemoryEngine {
        MemoryEngine::new(64, 16)
    }
}

impl MemoryEngine {
    /// Keeps the changes of `kept_ticks` ticks for resuming, and `queue_events` events per reader.
    pub fn new(kept_ticks: usize, queue_events: usize) -> MemoryEngine {
        let state = State {
            upper: 1_000,
            incarnations: 0,
            kept_ticks,
            queue_events,
            relations: BTreeMap::new(),
        };
        MemoryEngine {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Adds an empty view. Columns are Int64, Utf8View, Float64 or Timestamp(µs).
    pub fn create(
        &self,
        project: Option<&str>,
        name: &str,
        sql: &str,
        columns: Vec<Field>,
        key: Vec<usize>,
    ) -> Arc<View> {
        let name = ViewName {
            project: project.map(str::to_string),
            name: name.to_string(),
        };
        self.state
            .lock()
            .add(name, sql, Arc::new(Schema::new(columns)), key, None, false)
    }

    /// Installs `SELECT count(*) AS n FROM <view>` under a name.
    pub fn install(
        &self,
        project: &str,
        name: &str,
        query: &str,
        temporary: bool,
    ) -> Result<Arc<View>, Failure> {
        let mut state = self.state.lock();
        let target = ViewName {
            project: Some(project.to_string()),
            name: name.to_string(),
        };
        if state.relations.contains_key(&target) {
            return Err(Failure::new(
                FailureKind::Conflict,
                "PF-3001",
                format!("a monitor {name:?} exists"),
            ));
        }
        let words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ["select", "count(*)", "as", "n", "from", relation] = words[..] else {
            return Err(Failure::new(
                FailureKind::Invalid,
                "PF-4010",
                "only SELECT count(*) AS n FROM … is maintained here",
            ));
        };
        let base = state
            .find(Some(project), relation.trim_start_matches("live."))
            .map(|view| view.name.clone());
        let Some(base) = base else {
            return Err(Failure::new(
                FailureKind::Invalid,
                "PF-4003",
                format!("there is no relation {relation:?}"),
            ));
        };
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let rows = state.relations[&base].total();
        let view = state.add(target.clone(), query, schema, Vec::new(), Some(base), temporary);
        if let Some(relation) = state.relations.get_mut(&target) {
            relation.content.insert(vec![Cell::Int(rows)], 1);
        }
        Ok(view)
    }

    pub fn drop_view(&self, name: &ViewName) -> Result<(), Failure> {
        if name.project.is_none() {
            return Err(Failure::new(
                FailureKind::Forbidden,
                "PF-3003",
                "built-in views cannot be dropped",
            ));
        }
        let Some(relation) = self.state.lock().relations.remove(name) else {
            return Err(Failure::new(
                FailureKind::NotFound,
                "PF-3002",
                format!("there is no monitor {:?}", name.name),
            ));
        };
        for reader in relation.readers.iter().filter_map(Weak::upgrade) {
            reader.queue.lock().events.push_back(Event::End {
                reason: "the monitor was dropped".to_string(),
            });
            reader.news.notify_one();
        }
        Ok(())
    }

    /// One tick with these changes; a view that is not named does not change. Returns the new upper.
    pub fn tick(&self, changes: &[(&ViewName, Changes)]) -> u64 {
        let mut state = self.state.lock();
        let (lower, upper) = (state.upper, state.upper + TICK);
        state.upper = upper;
        let mut all: BTreeMap<ViewName, Changes> = BTreeMap::new();
        for (name, rows) in changes {
            all.entry((*name).clone())
                .or_default()
                .extend(rows.iter().cloned());
        }
        for (name, relation) in &state.relations {
            let Some(base) = &relation.counts else { continue };
            let difference: i64 = all.get(base).into_iter().flatten().map(|(_, diff)| diff).sum();
            if let Some(before) = relation.content.keys().next().cloned()
                && difference != 0
                && let [Cell::Int(count)] = before[..]
            {
                all.insert(
                    name.clone(),
                    vec![(before, -1), (vec![Cell::Int(count + difference)], 1)],
                );
            }
        }
        let (kept, most) = (state.kept_ticks, state.queue_events);
        for (name, relation) in &mut state.relations {
            relation.advance(lower, upper, all.remove(name).unwrap_or_default(), kept, most);
        }
        upper
    }

    /// The rows of a view, each as often as it is there.
    pub fn content(&self, name: &ViewName) -> Vec<Row> {
        let state = self.state.lock();
        let rows = state
            .relations
            .get(name)
            .into_iter()
            .flat_map(|relation| &relation.content);
        rows.flat_map(|(row, count)| std::iter::repeat_n(row.clone(), usize::try_from(*count).unwrap_or(0)))
            .collect()
    }

    /// The same as one batch.
    pub fn batch(&self, name: &ViewName) -> Option<RecordBatch> {
        let schema = Arc::clone(&self.state.lock().relations.get(name)?.view.schema);
        let rows = self.content(name);
        Some(rows_to_batch(&schema, rows.iter()))
    }

    /// Ticks complete below this.
    pub fn upper(&self) -> u64 {
        self.state.lock().upper
    }
}

impl State {
    fn add(
        &mut self,
        name: ViewName,
        sql: &str,
        schema: SchemaRef,
        key: Vec<usize>,
        counts: Option<ViewName>,
        temporary: bool,
    ) -> Arc<View> {
        self.incarnations += 1;
        let view = Arc::new(View {
            name: name.clone(),
            sql: sql.to_string(),
            companions: Vec::new(),
            description: None,
            schema,
            key,
            start: self.upper,
            state: "live",
            reason: None,
            rows: 0,
            late_rows: 0,
            errors: 0,
            retention_us: 24 * 3_600_000_000,
            lateness_us: 10_000_000,
            temporary,
        });
        let relation = Relation {
            view: Arc::clone(&view),
            incarnation: self.incarnations,
            content: BTreeMap::new(),
            history: VecDeque::new(),
            horizon: self.upper,
            counts,
            readers: Vec::new(),
        };
        self.relations.insert(name, relation);
        view
    }

    fn find(&self, project: Option<&str>, name: &str) -> Option<&Arc<View>> {
        let mut matches: Vec<&Arc<View>> = self
            .relations
            .values()
            .map(|relation| &relation.view)
            .filter(|view| view.name.name == name && view.visible_to(project))
            .collect();
        if project.is_some() {
            matches.sort_by_key(|view| view.builtin());
            return matches.first().copied();
        }
        if matches.len() == 1 {
            matches.first().copied()
        } else {
            None
        }
    }
}

impl Relation {
    fn total(&self) -> i64 {
        self.content.values().sum()
    }

    fn advance(&mut self, lower: u64, upper: u64, changes: Changes, kept: usize, most: usize) {
        let mut net: BTreeMap<Row, i64> = BTreeMap::new();
        for (row, diff) in changes {
            *net.entry(row).or_default() += diff;
        }
        net.retain(|_, diff| *diff != 0);
        for (row, diff) in &net {
            let count = self.content.entry(row.clone()).or_default();
            *count += diff;
            if *count == 0 {
                self.content.remove(row);
            }
        }
        let net: Changes = net.into_iter().collect();
        self.history.push_back((lower, net.clone()));
        while self.history.len() > kept {
            self.history.pop_front();
            self.horizon = self.history.front().map_or(upper, |(tick, _)| *tick);
        }
        self.readers.retain(|reader| reader.strong_count() > 0);
        for reader in self.readers.iter().filter_map(Weak::upgrade) {
            let frame = self.frame(&reader, lower, upper, false, &net);
            let mut queue = reader.queue.lock();
            if queue.lagging || queue.events.len() >= most {
                queue.events.clear();
                queue.lagging = true;
            } else {
                queue.events.push_back(Event::Frame(frame));
            }
            drop(queue);
            reader.news.notify_one();
        }
    }

    fn frame(&self, reader: &Reader, lower: u64, upper: u64, reset: bool, changes: &Changes) -> Frame {
        let project_column = self.view.schema.index_of("project").ok();
        let rows: Vec<&(Row, i64)> = changes
            .iter()
            .filter(|(row, _)| match (&reader.project, project_column) {
                (Some(project), Some(column)) => row[column] == Cell::Text(project.clone()),
                _ => true,
            })
            .collect();
        let batch = rows_to_batch(&self.view.schema, rows.iter().map(|(row, _)| row));
        let diffs: Vec<i64> = rows.iter().map(|(_, diff)| *diff).collect();
        let batch = (reset || !diffs.is_empty()).then_some(batch);
        Frame {
            lower,
            upper,
            reset,
            batch,
            diffs,
            resume: format!("{}-{upper}", self.incarnation),
        }
    }

    fn snapshot(&self, reader: &Reader, upper: u64) -> Frame {
        let content: Changes = self
            .content
            .iter()
            .map(|(row, count)| (row.clone(), *count))
            .collect();
        self.frame(reader, upper, upper, true, &content)
    }
}

#[async_trait]
impl Views for MemoryEngine {
    fn views(&self) -> Vec<Arc<View>> {
        self.state
            .lock()
            .relations
            .values()
            .map(|relation| Arc::clone(&relation.view))
            .collect()
    }

    fn view(&self, project: Option<&str>, name: &str) -> Option<Arc<View>> {
        self.state.lock().find(project, name).cloned()
    }

    fn subscribe(
        &self,
        view: &ViewName,
        options: SubscribeOptions,
    ) -> Result<Box<dyn Subscription>, Failure> {
        if options.as_of.is_some() || options.up_to.is_some() {
            return Err(Failure::new(
                FailureKind::Invalid,
                "PF-5022",
                "an engine in memory tells the present only",
            ));
        }
        if options.closed_windows {
            return Err(Failure::new(
                FailureKind::Invalid,
                "PF-5034",
                "an engine in memory has no watermark, so no window ever closes",
            ));
        }
        let mut state = self.state.lock();
        let upper = state.upper;
        let Some(relation) = state.relations.get_mut(view) else {
            return Err(Failure::new(
                FailureKind::NotFound,
                "PF-3002",
                format!("there is no view {:?}", view.name),
            ));
        };
        let reader = Arc::new(Reader {
            project: options.project,
            queue: Mutex::default(),
            news: Notify::new(),
        });
        let resumed = options.resume.as_deref().map(|token| {
            let (incarnation, from) = token.split_once('-')?;
            let from: u64 = from.parse().ok()?;
            let known = incarnation.parse() == Ok(relation.incarnation);
            (known && from >= relation.horizon && from <= upper).then_some(from)
        });
        let mut queue = reader.queue.lock();
        match resumed {
            Some(Some(from)) => {
                for (tick, changes) in relation.history.iter().filter(|(tick, _)| *tick >= from) {
                    queue.events.push_back(Event::Frame(relation.frame(
                        &reader,
                        *tick,
                        tick + TICK,
                        false,
                        changes,
                    )));
                }
            }
            Some(None) => queue
                .events
                .push_back(Event::Frame(relation.snapshot(&reader, upper))),
            None if options.snapshot => queue
                .events
                .push_back(Event::Frame(relation.snapshot(&reader, upper))),
            None => {}
        }
        drop(queue);
        relation.readers.push(Arc::downgrade(&reader));
        let view = Arc::clone(&relation.view);
        Ok(Box::new(MemorySubscription {
            reader,
            view,
            state: Arc::clone(&self.state),
        }))
    }

    async fn install_temporary(&self, project: &str, name: &str, query: &str) -> Result<Arc<View>, Failure> {
        self.install(project, name, query, true)
    }

    async fn drop_temporary(&self, view: &ViewName) {
        // Unknown is fine: it is gone.
        let _ = self.drop_view(view);
    }
}

struct MemorySubscription {
    reader: Arc<Reader>,
    view: Arc<View>,
    state: Arc<Mutex<State>>,
}

#[async_trait]
impl Subscription for MemorySubscription {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.schema)
    }

    fn key(&self) -> &[usize] {
        &self.view.key
    }

    async fn next(&mut self) -> Event {
        loop {
            {
                let state = self.state.lock();
                let mut queue = self.reader.queue.lock();
                if queue.lagging
                    && let Some(relation) = state.relations.get(&self.view.name)
                {
                    queue.lagging = false;
                    return Event::Frame(relation.snapshot(&self.reader, state.upper));
                }
                if let Some(event) = queue.events.pop_front() {
                    return event;
                }
            }
            self.reader.news.notified().await;
        }
    }
}

fn rows_to_batch<'a>(schema: &SchemaRef, rows: impl Iterator<Item = &'a Row>) -> RecordBatch {
    let rows: Vec<&Row> = rows.collect();
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| column(field.data_type(), &rows, index));
    let columns: Vec<ArrayRef> = columns.collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .expect("invariant: every column was built from its field")
}

fn column(data_type: &DataType, rows: &[&Row], index: usize) -> ArrayRef {
    let cells = rows.iter().map(|row| &row[index]);
    match data_type {
        DataType::Int64 => Arc::new(Int64Array::from_iter(cells.map(|cell| match cell {
            Cell::Int(value) => Some(*value),
            _ => None,
        }))),
        DataType::Float64 => Arc::new(Float64Array::from_iter(cells.map(|cell| match cell {
            Cell::Float(bits) => Some(f64::from_bits(*bits)),
            _ => None,
        }))),
        DataType::Utf8View => Arc::new(StringViewArray::from_iter(cells.map(|cell| match cell {
            Cell::Text(value) => Some(value.as_str()),
            _ => None,
        }))),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let values = cells.map(|cell| match cell {
                Cell::Time(value) => Some(*value),
                _ => None,
            });
            Arc::new(TimestampMicrosecondArray::from_iter(values).with_timezone_opt(zone.clone()))
        }
        other => new_null_array(other, rows.len()),
    }
}
