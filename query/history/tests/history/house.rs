//! An engine and a store made of vectors: rows with ticks, cut anywhere into a stored and an in-memory part.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, MapBuilder, RecordBatch,
    StringBuilder, StringViewArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::prelude::SessionContext;
use parking_lot::Mutex;
use pyflare_history::{
    Hold, InternalRelations, LiveSource, PeekRequest, QueryOptions, QueryRequest, QueryResult, QueryService,
    Relation, Scope, SourceError, StoredTables, Tail, ViewDescription,
};
use pyflare_operators::fields::stream_schema;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The first tick: a round time.
pub const START: u64 = 1_764_000_000_000;

pub struct At(u64);

impl Hold for At {
    fn tick(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
pub struct Content {
    pub tick: u64,
    /// All rows of a table, by its name; each has `_tick`.
    pub rows: HashMap<String, RecordBatch>,
    /// F of each table.
    pub flushed: HashMap<String, u64>,
    pub views: Vec<(ViewDescription, Vec<RecordBatch>)>,
    pub peeks: Vec<PeekRequest>,
}

#[derive(Default)]
pub struct House {
    pub content: Mutex<Content>,
}

/// The rows of a batch whose tick meets a condition.
pub fn with_tick(batch: &RecordBatch, keep: impl Fn(u64) -> bool) -> RecordBatch {
    use arrow::array::AsArray;
    let ticks = batch.column_by_name("_tick").unwrap().as_primitive::<Int64Type>();
    let mask = BooleanArray::from_iter(ticks.values().iter().map(|tick| Some(keep(*tick as u64))));
    filter_record_batch(batch, &mask).unwrap()
}

fn in_pieces(batch: &RecordBatch, random: &mut StdRng) -> Vec<RecordBatch> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < batch.num_rows() {
        let length = random.random_range(1..=50).min(batch.num_rows() - at);
        pieces.push(batch.slice(at, length));
        at += length;
    }
    pieces
}

#[async_trait]
impl LiveSource for House {
    fn hold(&self) -> Arc<dyn Hold> {
        Arc::new(At(self.content.lock().tick))
    }

    fn views(&self, _: &Scope) -> Vec<ViewDescription> {
        self.content
            .lock()
            .views
            .iter()
            .map(|(view, _)| view.clone())
            .collect()
    }

    async fn peek(
        &self,
        view: &ViewDescription,
        _: &Arc<dyn Hold>,
        request: PeekRequest,
        _: &Scope,
    ) -> Result<Vec<RecordBatch>, SourceError> {
        let mut content = self.content.lock();
        content.peeks.push(request.clone());
        let (_, batches) = content
            .views
            .iter()
            .find(|(known, _)| known.name == view.name && known.project == view.project)
            .ok_or_else(|| SourceError("the view is gone".to_owned()))?;
        let project = |batch: &RecordBatch| match &request.projection {
            Some(columns) => batch.project(columns).unwrap(),
            None => batch.clone(),
        };
        Ok(batches.iter().map(project).collect())
    }

    async fn tail(&self, relation: &Relation, hold: &Arc<dyn Hold>, _: &Scope) -> Result<Tail, SourceError> {
        let content = self.content.lock();
        let flushed = content.flushed.get(&relation.table()).copied();
        let Some(rows) = content.rows.get(&relation.table()) else {
            return Ok(Tail {
                flushed,
                batches: vec![],
            });
        };
        let mut random = StdRng::seed_from_u64(hold.tick());
        // Some rows too many on either side: they must be left out.
        let oldest = flushed.map_or(0, |flushed| flushed.saturating_sub(3));
        let batches = in_pieces(&with_tick(rows, |tick| tick > oldest), &mut random);
        Ok(Tail { flushed, batches })
    }
}

#[async_trait]
impl StoredTables for House {
    async fn provider(&self, table: &str) -> Result<Option<Arc<dyn TableProvider>>, SourceError> {
        let content = self.content.lock();
        let (Some(rows), Some(flushed)) = (content.rows.get(table), content.flushed.get(table)) else {
            return Ok(None);
        };
        // A flush that came after F was read.
        let stored = with_tick(rows, |tick| tick <= flushed + 4);
        let pieces = in_pieces(&stored, &mut StdRng::seed_from_u64(*flushed));
        Ok(Some(Arc::new(
            MemTable::try_new(rows.schema(), vec![pieces]).unwrap(),
        )))
    }
}

pub struct Internals;

#[async_trait]
impl InternalRelations for Internals {
    fn relations(&self) -> Vec<(String, SchemaRef)> {
        vec![("streams".to_owned(), internal().schema())]
    }

    async fn rows(&self, relation: &str, _: &Scope) -> Result<Vec<RecordBatch>, SourceError> {
        assert_eq!(relation, "streams");
        Ok(vec![internal()])
    }
}

fn internal() -> RecordBatch {
    let name: ArrayRef = Arc::new(StringViewArray::from(vec!["spans", "logs"]));
    let rows: ArrayRef = Arc::new(Int64Array::from(vec![3, 4]));
    RecordBatch::try_from_iter([("name", name), ("rows", rows)]).unwrap()
}

pub fn service(house: &Arc<House>, options: QueryOptions) -> Arc<QueryService> {
    let live: Arc<dyn LiveSource> = Arc::clone(house) as _;
    let stored: Arc<dyn StoredTables> = Arc::clone(house) as _;
    QueryService::with_internal(options, live, stored, Some(Arc::new(Internals))).unwrap()
}

pub fn request(query: &str) -> QueryRequest {
    QueryRequest {
        query: query.to_owned(),
        ..QueryRequest::default()
    }
}

pub fn table(result: &QueryResult) -> String {
    if result.batches.is_empty() {
        return pretty_format_batches(&[RecordBatch::new_empty(result.schema.clone())])
            .unwrap()
            .to_string();
    }
    pretty_format_batches(&result.batches).unwrap().to_string()
}

/// The same query over all rows at once.
pub async fn oracle(rows: &RecordBatch, query: &str) -> String {
    let context = SessionContext::new();
    context
        .register_table(
            "t",
            Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap()),
        )
        .unwrap();
    let frame = context.sql(query).await.unwrap();
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.unwrap();
    let batch = match batches.first() {
        Some(first) => concat_batches(&first.schema(), &batches).unwrap(),
        None => RecordBatch::new_empty(schema),
    };
    pretty_format_batches(&[batch]).unwrap().to_string()
}

/// A span as the tests think of it.
#[derive(Debug, Clone)]
pub struct Span {
    pub project: &'static str,
    pub trace: u64,
    pub span: u64,
    pub root: bool,
    pub name: String,
    pub service: &'static str,
    pub model: Option<&'static str>,
    pub status: &'static str,
    pub user: Option<String>,
    pub start_us: i64,
    pub duration_us: i64,
    pub tick: u64,
}

impl Span {
    pub fn event_us(&self) -> i64 {
        (self.start_us + self.duration_us).min(self.tick as i64 * 1000)
    }

    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// Spans with ticks that grow, some far behind their tick.
pub fn random_spans(seed: u64, count: usize) -> Vec<Span> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut tick = START;
    (0..count)
        .map(|number| {
            if random.random_bool(0.3) {
                tick += random.random_range(1..2_000);
            }
            let late = if random.random_bool(0.1) {
                random.random_range(0..1_800_000_000)
            } else {
                5_000_000
            };
            let trace = random.random_range(0..(count as u64 / 5).max(1));
            Span {
                project: if trace % 7 == 0 { "other" } else { "default" },
                trace,
                span: number as u64 + 1,
                root: random.random_bool(0.2),
                name: ["chat gpt", "Embed", "tool/search"][random.random_range(0..3)].to_owned(),
                service: ["api", "agent", "rag"][random.random_range(0..3)],
                model: [None, Some("gpt-5"), Some("claude")][random.random_range(0..3)],
                status: ["ok", "unset", "error"][random.random_range(0..10_usize).min(2)],
                user: random
                    .random_bool(0.5)
                    .then(|| format!("user {}", random.random_range(0..5))),
                start_us: tick as i64 * 1000 - late,
                duration_us: random.random_range(0..4_000_000),
                tick,
            }
        })
        .collect()
}

/// The spans as a batch of the stream.
pub fn spans(rows: &[Span]) -> RecordBatch {
    let schema = stream_schema("spans").unwrap();
    let text = |value: &dyn Fn(&Span) -> Option<String>| -> ArrayRef {
        Arc::new(StringViewArray::from_iter(rows.iter().map(value)))
    };
    let integer = |value: &dyn Fn(&Span) -> Option<i64>| -> ArrayRef {
        Arc::new(Int64Array::from_iter(rows.iter().map(value)))
    };
    let time = |value: &dyn Fn(&Span) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(value)).with_timezone("UTC"))
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "project" => text(&|span| Some(span.project.to_owned())),
            "trace_id" => text(&|span| Some(span.trace_id())),
            "span_id" => text(&|span| Some(format!("{:016x}", span.span))),
            "parent_span_id" => text(&|span| (!span.root).then(|| format!("{:016x}", span.span - 1))),
            "name" => text(&|span| Some(span.name.clone())),
            "service_name" => text(&|span| Some(span.service.to_owned())),
            "model" => text(&|span| span.model.map(str::to_owned)),
            "status" => text(&|span| Some(span.status.to_owned())),
            "user_id" => text(&|span| span.user.clone()),
            "event_time" => time(&Span::event_us),
            "start_time" => time(&|span| span.start_us),
            "end_time" => time(&|span| span.start_us + span.duration_us),
            "start_unix_nano" => integer(&|span| Some(span.start_us * 1000)),
            "duration_ns" => integer(&|span| Some(span.duration_us * 1000)),
            "input_tokens" => integer(&|span| span.model.map(|_| span.span as i64 % 1000)),
            "reported_cost" => Arc::new(
                Decimal128Array::from_iter(
                    rows.iter()
                        .map(|span| span.model.map(|_| i128::from(span.span) * 1_000_000)),
                )
                .with_precision_and_scale(38, 12)
                .unwrap(),
            ),
            "attributes" => {
                let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
                for span in rows {
                    maps.keys().append_value("span");
                    maps.values().append_value(span.span.to_string());
                    maps.append(true).unwrap();
                }
                arrow::compute::cast(&(Arc::new(maps.finish()) as ArrayRef), field.data_type()).unwrap()
            }
            "_tick" => integer(&|span| Some(span.tick as i64)),
            "_offset" => integer(&|span| Some(span.span as i64)),
            _ if field.is_nullable() => new_null_array(field.data_type(), rows.len()),
            _ => default_of(field.data_type(), rows.len()),
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

fn default_of(data_type: &DataType, rows: usize) -> ArrayRef {
    match data_type {
        DataType::Utf8View => Arc::new(StringViewArray::from(vec![""; rows])),
        DataType::Int32 => Arc::new(Int32Array::from(vec![0; rows])),
        DataType::Int64 => Arc::new(Int64Array::from(vec![0; rows])),
        DataType::Float64 => Arc::new(Float64Array::from(vec![0.0; rows])),
        DataType::Boolean => Arc::new(BooleanArray::from(vec![false; rows])),
        DataType::Map(_, _) => {
            let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
            for _ in 0..rows {
                maps.append(true).unwrap();
            }
            arrow::compute::cast(&(Arc::new(maps.finish()) as ArrayRef), data_type).unwrap()
        }
        other => panic!("no default for {other}"),
    }
}

/// A house with spans, cut at a random place.
pub fn house_with(rows: &[Span], seed: u64) -> Arc<House> {
    let mut random = StdRng::seed_from_u64(seed);
    let house = House::default();
    {
        let mut content = house.content.lock();
        let newest = rows.iter().map(|span| span.tick).max().unwrap_or(START);
        content.tick = newest;
        content.rows.insert("spans".to_owned(), spans(rows));
        match random.random_range(0..6) {
            0 => {}
            1 => drop(content.flushed.insert("spans".to_owned(), newest)),
            _ => drop(
                content
                    .flushed
                    .insert("spans".to_owned(), random.random_range(START - 2..newest + 2)),
            ),
        }
    }
    Arc::new(house)
}
