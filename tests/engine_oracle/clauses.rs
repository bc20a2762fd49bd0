//! The language clause by clause: the monitors of `tests/slt/clauses` on engines with one, two and four workers, their
//! rows in shuffled cuts; content at every tick = DataFusion's batch over the rows admitted until then.
//!
//! The same again with kills: an engine is dropped in the middle of its ticks and the next one, with another number of
//! workers, goes on from the newest checkpoint and the tick log.
//!
//! `tests/clauses/run.py` runs the same files against DuckDB. `PYFLARE_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use pyflare_connectors::ContentType;
use pyflare_dataflows::plan::WINDOW_END;
use pyflare_dataflows::{Companion, Engine, MonitorDefinition, SubscribeOptions, ViewName};
use pyflare_operators::streams::StreamDefinition;
use pyflare_sql::oracle::Prepared;
use pyflare_sql::{PlanScope, Statement};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bed::{
    Content, Opened, Refusing, add_rows, all_rows, as_batch, between, copy_directory, declared, open,
    open_with, view_name,
};
use crate::clause_files::{self, Kind, Record};
use crate::expected::Marks;
use crate::frames::{Transcript, follow};
use crate::graph::views_of;
use crate::recovery::{NEVER, recovering};

const BLOCKS: usize = 10;
const ROWS_OF_BLOCK: usize = 24;
const MINUTE_US: i64 = 60_000_000;

/// A request's rows, all of one stream.
struct Request {
    stream: String,
    rows: Vec<String>,
}

/// Rows as `rows.json` describes them; event time goes forward, and a row is at most eight minutes behind.
fn requests(random: &mut StdRng, folder: &Path) -> Vec<Request> {
    let text = std::fs::read_to_string(folder.join("rows.json")).unwrap();
    let described: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let shares: Vec<&String> = described
        .iter()
        .flat_map(|(name, stream)| std::iter::repeat_n(name, stream["share"].as_u64().unwrap() as usize))
        .collect();
    let start = pyflare_dataflows::time::now_ms() as i64 * 1_000 - 58 * MINUTE_US;
    let step = 50 * MINUTE_US / (BLOCKS * ROWS_OF_BLOCK) as i64;
    let mut numbers = 0;
    let mut made = Vec::new();
    for block in 0..BLOCKS {
        let mut rows: BTreeMap<&String, Vec<String>> = BTreeMap::new();
        for index in 0..ROWS_OF_BLOCK {
            let stream = shares[random.random_range(0..shares.len())];
            let of_stream = rows.entry(stream).or_default();
            if !of_stream.is_empty() && random.random_range(0..12) == 0 {
                of_stream.push(of_stream[random.random_range(0..of_stream.len())].clone());
                continue;
            }
            let moment =
                start + step * (block * ROWS_OF_BLOCK + index) as i64 - random.random_range(0..3 * MINUTE_US);
            let columns = described[stream]["columns"].as_object().unwrap();
            let mut row = serde_json::Map::new();
            for (column, drawn) in columns {
                let value = match drawn.as_str() {
                    Some("number") => {
                        numbers += 1;
                        json!(numbers)
                    }
                    Some("earlier number") => json!(random.random_range(1..=numbers.max(1))),
                    Some("moment") => json!(moment),
                    _ => {
                        let values = drawn.as_array().unwrap();
                        values[random.random_range(0..values.len())].clone()
                    }
                };
                row.insert(column.clone(), value);
            }
            of_stream.push(Value::Object(row).to_string());
        }
        let mut of_block = Vec::new();
        for (stream, mut rows) in rows {
            rows.shuffle(random);
            while !rows.is_empty() {
                let size = [2, 8, 16, 24][random.random_range(0..4)].min(rows.len());
                let stream = stream.clone();
                of_block.push(Request {
                    stream,
                    rows: rows.split_off(rows.len() - size),
                });
            }
        }
        of_block.shuffle(random);
        made.extend(of_block);
    }
    made
}

fn definition(
    sql: &str,
    engine: &Engine,
    streams: &[Arc<StreamDefinition>],
) -> Result<MonitorDefinition, String> {
    let scope = PlanScope {
        streams: streams.to_vec(),
        ..views_of(engine)
    };
    match pyflare_sql::parse(sql, &scope) {
        Ok(Statement::CreateMonitor(create)) => Ok(create.definition),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// A monitor under test.
struct Installed<'a> {
    record: &'a Record,
    definition: MonitorDefinition,
    /// How many rows and groups are in error.
    errors: Option<MonitorDefinition>,
}

async fn install<'a>(
    engine: &Engine,
    records: &[&'a Record],
    streams: &[Arc<StreamDefinition>],
) -> Vec<Installed<'a>> {
    let (mut installed, mut failed) = (Vec::new(), Vec::new());
    for record in records {
        let planned = definition(&record.statement(), engine, streams);
        match (&record.kind, planned) {
            (Kind::Monitor { name, .. }, Ok(planned)) => {
                let outcome = engine.install(planned.clone(), false).await;
                outcome.unwrap_or_else(|error| panic!("{}: {name}: {error}", record.place));
                let errors = record.section("errors").map(|count| {
                    let sql = format!("CREATE MONITOR counted AS {count}");
                    definition(&sql, engine, streams)
                        .unwrap_or_else(|error| panic!("{}: {error}", record.place))
                });
                installed.push(Installed {
                    record,
                    definition: planned,
                    errors,
                });
            }
            (Kind::Refused(code), Err(error)) if error.starts_with(code.as_str()) => {}
            (Kind::Refused(code), planned) => {
                let found = planned.map_or_else(|error| error, |_| "accepted".into());
                failed.push(format!("{}: {found}, not {code}", record.place));
            }
            (_, Err(error)) => failed.push(format!("{}: {error}", record.place)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    installed
}

/// What was admitted and what was shown.
struct Run {
    /// The rows of the streams.
    rows: BTreeMap<String, RecordBatch>,
    marks: Marks,
    contents: BTreeMap<String, BTreeMap<u64, Content>>,
    /// From which tick to which each engine told each monitor; in between nobody listened.
    covered: BTreeMap<String, Vec<(u64, u64)>>,
    schemas: BTreeMap<String, SchemaRef>,
    row_ticks: BTreeSet<u64>,
    last: u64,
}

impl Run {
    fn at(&self, name: &str, tick: u64) -> Content {
        let found = self.contents[name].range(..=tick).next_back();
        found.map_or_else(Content::new, |(_, content)| content.clone())
    }

    /// Whether some engine told the content at this tick: while one was being killed nobody listened.
    fn is_known(&self, name: &str, tick: u64) -> bool {
        let covered = &self.covered[name];
        covered.len() == 1 || covered.iter().any(|(from, to)| (*from..=*to).contains(&tick))
    }

    /// The batch of a monitor at a tick.
    fn batch(
        &self,
        prepared: &Prepared,
        definition: &MonitorDefinition,
        tick: u64,
    ) -> Result<RecordBatch, String> {
        let mut tables: Vec<(String, RecordBatch)> = Vec::new();
        for (stream, rows) in &self.rows {
            tables.push((stream.clone(), between(rows, 0, tick)));
        }
        for view in definition.plan.views() {
            tables.push((
                view.to_string(),
                as_batch(&self.schemas[view], &self.at(view, tick)),
            ));
        }
        let tables: Vec<(&str, &[RecordBatch])> = tables
            .iter()
            .map(|(name, rows)| (name.as_str(), std::slice::from_ref(rows)))
            .collect();
        let batch = prepared.rows(&tables).map_err(|error| error.strip_backtrace())?;
        if !definition.options.emit_final {
            return Ok(batch);
        }
        let passed = self
            .marks
            .before(tick)
            .map(|mark| mark - definition.lateness_us());
        let column = batch.column_by_name(WINDOW_END);
        let column = column.ok_or("a final monitor shows window_end")?;
        let ends = column.as_primitive::<TimestampMicrosecondType>();
        let mask: BooleanArray = (0..batch.num_rows())
            .map(|row| Some(passed.is_some_and(|passed| ends.is_valid(row) && ends.value(row) <= passed)))
            .collect();
        filter_record_batch(&batch, &mask).map_err(|error| error.to_string())
    }

    fn prepare(&self, definition: &MonitorDefinition) -> Result<Prepared, String> {
        let mut relations: Vec<(&str, SchemaRef)> = Vec::new();
        for (stream, rows) in &self.rows {
            relations.push((stream, rows.schema()));
        }
        for view in definition.plan.views() {
            relations.push((view, SchemaRef::clone(&self.schemas[view])));
        }
        Prepared::new(definition, &relations).map_err(|error| error.strip_backtrace())
    }

    /// Compares a view at every tick; says what differs.
    fn check(&self, installed: &Installed<'_>) -> Result<usize, String> {
        let (name, record) = (&installed.definition.name, installed.record);
        let shows_in_the_end = !self.at(name, self.last).is_empty();
        // That every other view shows something is for `tests/clauses/run.py` to see, which sends more rows.
        if record.section("shows nothing in the end").is_some() && shows_in_the_end {
            return Err("shows something in the end".into());
        }
        if record.section("datafusion none").is_some() {
            return Ok(0);
        }
        let equal = match record.section("datafusion") {
            Some(select) => MonitorDefinition {
                sql: format!("CREATE MONITOR {name} AS {select}"),
                ..installed.definition.clone()
            },
            None => installed.definition.clone(),
        };
        let prepared = self.prepare(&equal)?;
        let schema = &self.schemas[name];
        let mut ticks = self.row_ticks.clone();
        ticks.extend(
            self.contents[name]
                .keys()
                .copied()
                .filter(|tick| *tick <= self.last),
        );
        let reads: Vec<&str> = equal.plan.views().into_iter().chain([name.as_str()]).collect();
        ticks.retain(|tick| reads.iter().all(|view| self.is_known(view, *tick)));
        for tick in &ticks {
            let batch = self.batch(&prepared, &equal, *tick)?;
            let mut expected = Content::new();
            add_rows(schema, &batch, None, &mut expected);
            let content = self.at(name, *tick);
            if content != expected {
                let shown = |content: &Content| {
                    let rows = as_batch(schema, content);
                    arrow::util::pretty::pretty_format_batches(&[rows.slice(0, rows.num_rows().min(12))])
                        .unwrap()
                        .to_string()
                };
                let only = |one: &Content, other: &Content| -> Content {
                    let more = one.iter().filter(|(row, count)| other.get(*row) != Some(*count));
                    more.map(|(row, count)| (row.clone(), *count)).collect()
                };
                return Err(format!(
                    "at tick {tick} {} rows, the batch has {}; shown only:\n{}\nin the batch only:\n{}",
                    content.len(),
                    expected.len(),
                    shown(&only(&content, &expected)),
                    shown(&only(&expected, &content)),
                ));
            }
        }
        Ok(ticks.len())
    }
}

/// Follows every view from now on.
fn follow_all(
    engine: &Engine,
    installed: &[Installed<'_>],
    stopped: &watch::Receiver<bool>,
) -> Vec<JoinHandle<Transcript>> {
    let follow_one = |view: &Installed<'_>| {
        let options = SubscribeOptions {
            snapshot: true,
            ..SubscribeOptions::default()
        };
        follow(engine, &view_name(&view.definition), options, stopped.clone())
    };
    installed.iter().map(follow_one).collect()
}

/// Opens what was killed; the first engine of several takes checkpoints when it is told to.
fn open_life(directory: &Path, workers: usize, of_several: bool) -> Opened {
    match of_several {
        true => recovering(directory, workers, NEVER),
        false => open(directory, workers),
    }
}

/// Sends the rows and follows every view, on one engine after the other: each but the last is killed.
async fn run(lives: &[usize], seed: u64) {
    let begun = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let of_several = lives.len() > 1;
    let mut opened = open_life(directory.path(), lives[0], of_several);
    let mut random = StdRng::seed_from_u64(seed);
    let folder = clause_files::folder(env!("CARGO_MANIFEST_DIR"));
    let mut streams = Vec::new();
    for sql in clause_files::streams(&folder) {
        let created = opened.engine.create_stream(declared(&sql)).await.unwrap();
        streams.push(created.definition);
    }
    let files = clause_files::files(&folder);
    let records: Vec<&Record> = files.iter().flat_map(|file| &file.records).collect();
    let installed = install(&opened.engine, &records, &streams).await;
    let requests = requests(&mut random, &folder);
    let mut told: BTreeMap<String, Vec<Transcript>> = BTreeMap::new();
    let mut covered: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    let mut last = 0;
    for (life, workers) in lives.iter().enumerate() {
        if life > 0 {
            drop(opened);
            opened = open_life(directory.path(), *workers, of_several);
            let restored = opened.engine.status().restored_tick;
            assert!(restored.is_some(), "life {life} begins at a checkpoint");
        }
        let (stop, stopped) = watch::channel(false);
        let following = follow_all(&opened.engine, &installed, &stopped);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let share = requests.len() * life / lives.len()..requests.len() * (life + 1) / lives.len();
        let is_last = life + 1 == lives.len();
        // The last ones of a life that is killed come when nobody follows any more, and nobody waits for their ticks.
        let unseen = if is_last {
            share.end
        } else {
            share.end - random.random_range(1..5)
        };
        let checkpoint_before = random.random_range(share.start + 1..unseen);
        for (number, request) in requests.iter().enumerate().take(unseen).skip(share.start) {
            if of_several && !is_last && number == checkpoint_before {
                opened.engine.checkpoint().await.unwrap();
            }
            send(&opened, request).await;
            // Some requests share a tick.
            if random.random_range(0..2) > 0 {
                opened.admitted(number as u64 + 1).await;
            }
        }
        if is_last {
            last = opened.admitted(requests.len() as u64).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let until = opened.engine.status().tick;
        opened.engine.wait_complete(until).await;
        stop.send(true).unwrap();
        for (view, transcript) in installed.iter().zip(following) {
            let transcript = transcript.await.unwrap();
            let name = &view.definition.name;
            let from = transcript.frames[0].upper - 1;
            covered.entry(name.clone()).or_default().push((from, until));
            told.entry(name.clone()).or_default().push(transcript);
        }
        for request in &requests[unseen..share.end] {
            send(&opened, request).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
    }
    let left_out = left_out(&opened.engine, &installed).await;
    let rows = match of_several {
        false => stream_rows(&opened, &streams, last),
        true => {
            // A checkpoint has no rows: those are read from a replay of everything.
            drop(opened);
            let whole = tempfile::tempdir().unwrap();
            copy_directory(directory.path(), whole.path());
            // Nothing leaves the tail for the store.
            let replayed = open_with(whole.path(), 2, |options| {
                options.store = Some(Arc::new(Refusing))
            });
            let rows = stream_rows(&replayed, &streams, last);
            replayed.shutdown();
            rows
        }
    };

    let row_ticks: BTreeSet<u64> = rows
        .values()
        .flat_map(|rows| rows["_tick"].as_primitive::<Int64Type>().values().to_vec())
        .map(|tick| tick as u64)
        .collect();
    assert!(row_ticks.len() > 10, "{} ticks had rows", row_ticks.len());
    let run = Run {
        covered,
        rows,
        // Streams have their ids first: `calls` was declared first.
        marks: Marks::read(directory.path(), &1.into()),
        contents: told
            .iter()
            .map(|(name, lives)| {
                let of_lives = lives
                    .iter()
                    .flat_map(|transcript| changes(transcript.contents(last)));
                (name.clone(), of_lives.collect())
            })
            .collect(),
        schemas: told
            .iter()
            .map(|(name, lives)| (name.clone(), SchemaRef::clone(&lives[0].schema)))
            .collect(),
        row_ticks,
        last,
    };
    let ended = begun.elapsed();
    let outcomes = tokio::task::block_in_place(|| compare(&run, &installed, &left_out));
    let wrong: Vec<&String> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err())
        .collect();
    assert!(
        wrong.is_empty(),
        "seed {seed}, {lives:?} workers: {} of {} differ\n{}",
        wrong.len(),
        outcomes.len(),
        wrong
            .into_iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    );
    let compared: usize = outcomes.into_iter().flatten().sum();
    println!(
        "{lives:?} workers, seed {seed}: {} monitors, {} ticks with rows, run in {:.1} s; {compared} comparisons in {:.1} s",
        installed.len(),
        run.row_ticks.len(),
        ended.as_secs_f64(),
        (begun.elapsed() - ended).as_secs_f64(),
    );
}

/// The contents that are not the ones before.
fn changes(contents: BTreeMap<u64, Content>) -> Vec<(u64, Content)> {
    let mut changes: Vec<(u64, Content)> = Vec::new();
    for (tick, content) in contents {
        if changes.last().is_none_or(|(_, last)| *last != content) {
            changes.push((tick, content));
        }
    }
    changes
}

async fn send(opened: &Opened, request: &Request) {
    let body = request.rows.join("\n").into_bytes();
    opened
        .append_rows(&request.stream, ContentType::NdJson, body)
        .await;
}

/// The rows of every stream, with the ticks that admitted them.
fn stream_rows(
    opened: &Opened,
    streams: &[Arc<StreamDefinition>],
    last: u64,
) -> BTreeMap<String, RecordBatch> {
    let tail = |name: &str| {
        all_rows(
            &opened
                .engine
                .stream_tail(&ViewName::of_project("default", name), last),
        )
    };
    let streams = streams.iter();
    streams
        .map(|stream| (stream.name.clone(), tail(&stream.name)))
        .collect()
}

/// How many late rows and errors each monitor has counted.
async fn left_out(engine: &Engine, installed: &[Installed<'_>]) -> BTreeMap<String, [i64; 2]> {
    let mut left_out = BTreeMap::new();
    for view in installed {
        let mut told = [0, 0];
        for (companion, told) in Companion::ALL.into_iter().zip(&mut told) {
            let mut name = view_name(&view.definition);
            name.name.push_str(companion.suffix());
            let peek = engine.peek(&name, &engine.hold(), None).await.unwrap();
            for batch in &peek.batches {
                let counts = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
                *told += counts.values().iter().sum::<i64>();
            }
        }
        left_out.insert(view.definition.name.clone(), told);
    }
    left_out
}

/// Every monitor at every tick, on two threads.
fn compare(
    run: &Run,
    installed: &[Installed<'_>],
    left_out: &BTreeMap<String, [i64; 2]>,
) -> Vec<Result<usize, String>> {
    let one = |view: &Installed<'_>| {
        let place = |error: String| format!("{}: {}: {error}", view.record.place, view.definition.name);
        let compared = run.check(view).map_err(place)?;
        let errors = match &view.errors {
            None => 0,
            Some(count) => {
                let prepared = run.prepare(count).map_err(place)?;
                let counted = run.batch(&prepared, count, run.last).map_err(place)?;
                counted.column(0).as_primitive::<Int64Type>().value(0)
            }
        };
        let [late, found] = left_out[&view.definition.name];
        match (late, found == errors) {
            (0, true) => Ok(compared),
            _ => Err(place(format!(
                "{late} late rows, {found} errors, must be 0 and {errors}"
            ))),
        }
    };
    let (first, second) = installed.split_at(installed.len() / 2);
    std::thread::scope(|scope| {
        let half = scope.spawn(|| first.iter().map(one).collect::<Vec<_>>());
        let rest: Vec<_> = second.iter().map(one).collect();
        let mut all = half.join().unwrap();
        all.extend(rest);
        all
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_clause_equals_the_batch_at_every_tick_and_on_any_number_of_workers() {
    let seed = std::env::var("PYFLARE_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    for workers in [1, 2, 4] {
        run(&[workers], seed + workers as u64).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_clause_equals_the_batch_after_kills_on_other_numbers_of_workers() {
    let seed = std::env::var("PYFLARE_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let mut lives = vec![1, 2, 4, 2];
    lives.shuffle(&mut StdRng::seed_from_u64(seed));
    run(&lives, seed).await;
}
