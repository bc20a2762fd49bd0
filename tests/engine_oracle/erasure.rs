//! Erasures: from their tick on every view and companion shows what it would if the rows had never been there, rows that
//! are stored and rows that are not; what comes later counts; every replay does the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use futures::future::join_all;
use pyflare_connectors::{Log, RowRange, Signal, Store};
use pyflare_dataflows::{
    Companion, Engine, EngineError, EngineOptions, ErasureBy, ErasureStage, ErasureStatus, ErasureSubject,
    SubscribeOptions, ViewDescription, ViewName,
};
use pyflare_delta::DeltaStore;
use pyflare_log::FileCheckpoints;
use pyflare_operators::conform::conform;
use tokio::sync::watch;

use crate::bed::{
    Content, Opened, add_rows, copy_directory, difference, open, open_with, request, view_name,
};
use crate::cases::{self, Case};
use crate::expected::{Marks, Oracle};
use crate::frames::{Transcript, again, follow};
use crate::{SPANS, first_time, relations, send};

pub fn subject(by: ErasureBy, values: &[&str]) -> ErasureSubject {
    ErasureSubject {
        project: "default".into(),
        by,
        values: values.iter().map(|value| (*value).to_string()).collect(),
    }
}

/// Takes rows back and waits until they are.
pub async fn erase(engine: &Engine, subject: ErasureSubject) -> ErasureStatus {
    let id = engine.erase(subject).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = engine.erasures().into_iter().find(|erasure| erasure.id == id);
        let found = found.unwrap();
        if found.stage != ErasureStage::Reading {
            engine.wait_complete(found.retracted_at.unwrap()).await;
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = cast(rows.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
    let values = column.as_string::<i32>().iter();
    values.map(|value| value.map(str::to_string)).collect()
}

fn ticks(rows: &RecordBatch) -> &[i64] {
    let ticks = rows.column_by_name("_tick").unwrap();
    ticks.as_primitive::<Int64Type>().values()
}

/// The rows that are left after these erasures.
pub fn left(rows: &RecordBatch, erasures: &[&ErasureStatus]) -> RecordBatch {
    let mut keep = vec![true; rows.num_rows()];
    for erasure in erasures {
        let column = erasure.subject.by.column().unwrap();
        for ((keep, value), tick) in keep.iter_mut().zip(texts(rows, column)).zip(ticks(rows)) {
            let is_named = value.is_some_and(|value| erasure.subject.values.contains(&value));
            *keep &= !(is_named && *tick as u64 <= erasure.until);
        }
    }
    filter_record_batch(rows, &BooleanArray::from(keep)).unwrap()
}

/// A relation as it was told.
type Followed = (ViewName, Option<Companion>, Transcript);

/// Compares what was followed with the batch over the rows that are left, at every tick with a frame.
fn assert_equals_the_rest(
    (case, transcripts): (&Case, &[Followed]),
    rows: &RecordBatch,
    marks: &Marks,
    erasures: &[ErasureStatus],
    last: u64,
) -> usize {
    let after: Vec<RecordBatch> = (0..=erasures.len())
        .map(|count| left(rows, &erasures[..count].iter().collect::<Vec<_>>()))
        .collect();
    let oracles: Vec<Oracle<'_>> = after.iter().map(|rows| Oracle::new(case, rows, marks)).collect();
    let mut compared = 0;
    for (name, companion, transcript) in transcripts {
        let contents = transcript.contents(last);
        let mut at: BTreeSet<u64> = contents.keys().copied().chain([last]).collect();
        at.extend(erasures.iter().filter_map(|erasure| erasure.retracted_at));
        for tick in at {
            let empty = Content::new();
            let content = contents.range(..=tick).next_back();
            let content = content.map_or(&empty, |(_, content)| content);
            let is_done = |erasure: &&ErasureStatus| erasure.retracted_at.is_some_and(|at| at <= tick);
            let oracle = &oracles[erasures.iter().filter(is_done).count()];
            let expected = match companion {
                None => oracle.view(&transcript.schema, tick),
                Some(Companion::Late) => oracle.late(&transcript.schema, tick),
                Some(Companion::Errors) => oracle.errors(&transcript.schema, tick),
            };
            assert!(
                *content == expected,
                "{name} at {tick}, erased at {:?}: {}",
                erasures
                    .iter()
                    .map(|erasure| erasure.retracted_at)
                    .collect::<Vec<_>>(),
                difference(&transcript.schema, content, &expected)
            );
            compared += 1;
        }
    }
    compared
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_as_if_the_rows_had_never_been_there() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), 2);
    let cases = cases::all();
    let (stop, stopped) = watch::channel(false);
    let mut followed = Vec::new();
    for case in &cases {
        first
            .engine
            .install(case.definition.clone(), false)
            .await
            .unwrap();
        for (name, companion) in relations(case) {
            let options = SubscribeOptions {
                snapshot: true,
                ..SubscribeOptions::default()
            };
            let transcript = follow(&first.engine, &name, options, stopped.clone());
            followed.push((name, companion, transcript));
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let base = first_time();
    send(&first, base, 0..30).await;
    let tick = first.admitted(30).await;
    first.engine.flush().await.unwrap();
    wait_for_store(&first, tick).await;
    // Some of the rows are stored, some are not.
    send(&first, base, 30..45).await;
    let tick = first.admitted(45).await;
    let so_far = first.rows(tick);
    let users: BTreeSet<String> = texts(&so_far, "user_id").into_iter().flatten().collect();
    let users: Vec<&String> = users.iter().collect();
    assert!(users.len() >= 4, "{users:?}");
    let mut erasures = vec![
        erase(
            &first.engine,
            subject(ErasureBy::User, &[users[0], users[1], "nobody"]),
        )
        .await,
    ];
    // What comes later of the same user is new, and what is repeated is not.
    send(&first, base, 45..60).await;
    first.append(request(3, base + 90_000_000_000, SPANS)).await;
    first.admitted(60).await;
    let traces = texts(&so_far, "trace_id");
    let traces: BTreeSet<&str> = traces.iter().flatten().map(String::as_str).take(300).collect();
    let traces: Vec<&str> = traces.into_iter().collect();
    erasures.push(erase(&first.engine, subject(ErasureBy::Trace, &traces)).await);
    erasures.push(erase(&first.engine, subject(ErasureBy::User, &[users[1], users[2]])).await);
    send(&first, base, 60..80).await;
    first.admitted(80).await;
    let last = first.engine.status().complete_tick;
    let rows = remaining(&first, directory.path(), last).await;
    assert_eq!(rows.num_rows(), 80 * SPANS);
    stop.send(true).unwrap();
    let mut transcripts = Vec::new();
    for (name, companion, transcript) in followed {
        transcripts.push((name, companion, transcript.await.unwrap()));
    }
    assert_eq!(first.engine.erasures().len(), 3);
    let mut kept: Vec<Content> = Vec::new();
    for case in &cases {
        kept.push(stored_content(&first, directory.path(), case, last).await);
    }
    first.shutdown();

    let all: Vec<&ErasureStatus> = erasures.iter().collect();
    let mut gone = rows.num_rows();
    for count in 1..=3 {
        let rest = left(&rows, &all[..count]).num_rows();
        assert_eq!(erasures[count - 1].rows as usize, gone - rest, "a row goes once");
        assert!(gone - rest > 50, "erasure {count} names {} rows", gone - rest);
        gone = rest;
    }
    let marks = Marks::read(directory.path(), &"traces".into());
    let mut compared = 0;
    for (case, transcripts) in cases.iter().zip(transcripts.chunks(3)) {
        compared += assert_equals_the_rest((case, transcripts), &rows, &marks, &erasures, last);
    }
    assert!(compared > 1_000, "{compared} contents");
    // What the store has of a view is the batch over all rows that are left, of panes that have ended too.
    let rest = left(&rows, &all);
    let mut rewritten = 0;
    for (case, (transcripts, kept)) in cases.iter().zip(transcripts.chunks(3).zip(&kept)) {
        // In the rows of others panes meet.
        if !case.one_pane {
            continue;
        }
        rewritten += 1;
        let schema = &transcripts[0].2.schema;
        let expected = Oracle::new(case, &rest, &marks).stored(schema, last);
        assert!(
            *kept == expected,
            "stored of {}: {}",
            case.definition.name,
            difference(schema, kept, &expected)
        );
    }
    assert!(rewritten > 8, "{rewritten} views");
    for workers in [1, 2, 4] {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        let replayed = open(copy.path(), workers);
        let again = transcripts.iter().map(|(name, _, transcript)| {
            let engine = &replayed.engine;
            async move { (name, transcript, again(engine, name, &transcript.frames[0]).await) }
        });
        for (name, transcript, replay) in join_all(again).await {
            transcript.assert_equals(&replay, last, &format!("{name} on {workers} workers"));
        }
        assert_eq!(replayed.engine.erasures().len(), 3);
        replayed.shutdown();
    }
}

pub async fn wait_for_store(opened: &Opened, tick: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while opened
        .engine
        .tail("spans", u64::MAX)
        .flushed
        .is_none_or(|flushed| flushed < tick)
    {
        assert!(Instant::now() < deadline, "the store takes the rows");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_erased_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 1);
    for wrong in [subject(ErasureBy::User, &[]), subject(ErasureBy::Project, &["a"])] {
        let refused = opened.engine.erase(wrong).await.unwrap_err();
        assert!(matches!(refused, EngineError::Erasure { .. }), "{refused}");
    }
    assert!(opened.engine.erasures().is_empty());
    let nothing = erase(&opened.engine, subject(ErasureBy::Session, &["nobody"])).await;
    assert_eq!(nothing.rows, 0);
    opened.shutdown();
}

fn removing(directory: &Path, workers: usize) -> Opened {
    open_with(directory, workers, |options: &mut EngineOptions| {
        options.checkpoints = Some(FileCheckpoints::open(directory.join("checkpoints")).unwrap());
        options.checkpoint_every = Duration::from_millis(300);
        options.checkpoint_least_rows = 0;
    })
}

/// The rows of `spans` that are stored until a tick.
async fn stored_rows(directory: &Path, until: u64) -> Vec<RecordBatch> {
    let store = DeltaStore::open(directory.join("tables")).unwrap();
    let schema = pyflare_operators::fields::stream_schema("spans").unwrap();
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let range = RowRange {
        columns: &columns,
        after: 0,
        until,
    };
    let mut batches = Vec::new();
    let mut visit = |batch: RecordBatch| {
        batches.push(conform(&batch, &schema).unwrap());
        true
    };
    store.read_rows("spans", range, &mut visit).await.unwrap();
    batches
}

/// How many changes of a view are stored, and how many of them have this text in a column.
async fn mentions(directory: &Path, view: &ViewDescription, text: &str) -> (usize, usize) {
    let store = DeltaStore::open(directory.join("tables")).unwrap();
    let fields = view.schema.fields().iter();
    let columns: Vec<String> = fields
        .filter(|field| matches!(field.data_type(), DataType::Utf8 | DataType::Utf8View))
        .map(|field| field.name().clone())
        .chain(["_tick".to_string()])
        .collect();
    let range = RowRange {
        columns: &columns,
        after: 0,
        until: u64::MAX >> 1,
    };
    let (mut rows, mut of_text) = (0, 0);
    let mut visit = |batch: RecordBatch| {
        rows += batch.num_rows();
        for column in columns.iter().filter(|column| *column != "_tick") {
            let named = texts(&batch, column).into_iter().flatten();
            of_text += named.filter(|value| value == text).count();
        }
        true
    };
    let read = store.read_rows(&view.changes_table, range, &mut visit).await;
    // One that never changed has none.
    drop(read);
    (rows, of_text)
}

/// Every row there is, stored or not.
async fn remaining(opened: &Opened, directory: &Path, until: u64) -> RecordBatch {
    let tail = opened.engine.tail("spans", until);
    let schema = pyflare_operators::fields::stream_schema("spans").unwrap();
    let mut batches = stored_rows(directory, tail.flushed.unwrap_or(0)).await;
    batches.extend(tail.batches.iter().map(|batch| conform(batch, &schema).unwrap()));
    concat_batches(&schema, &batches).unwrap()
}

/// Once no start needs the rows they are in no file any more, and views still equal the batch over what is stored: while
/// it runs and after kills, on any number of workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_goes_from_log_and_store() {
    let directory = tempfile::tempdir().unwrap();
    let mut opened = removing(directory.path(), 2);
    let cases = cases::all();
    for case in &cases {
        opened
            .engine
            .install(case.definition.clone(), false)
            .await
            .unwrap();
    }
    let base = first_time();
    // One that is dropped leaves a table behind.
    let dropped = cases::planned(
        "CREATE MONITOR gone AS SELECT user_id, count(*) AS calls FROM spans GROUP BY user_id",
    );
    opened.engine.install(dropped, false).await.unwrap();
    let gone = opened
        .engine
        .view_named(&ViewName::of_project("default", "gone"))
        .unwrap();
    let mut erased_rows = 0;
    for (round, workers) in [1, 4, 2].into_iter().enumerate() {
        let (from, to) = (round as u64 * 25, round as u64 * 25 + 20);
        send(&opened, base, from..to).await;
        opened.admitted(20 * (round as u64 + 1)).await;
        if round == 0 {
            let flushed = opened.engine.flush().await.unwrap();
            wait_for_store(&opened, flushed).await;
            assert!(
                mentions(directory.path(), &gone, "user-0").await.0 > 0,
                "it is stored"
            );
            opened.engine.drop_monitor(&gone.name).await.unwrap();
        }
        let before = remaining(&opened, directory.path(), u64::MAX >> 1).await;
        let users: BTreeSet<String> = texts(&before, "user_id").into_iter().flatten().collect();
        let user = users.iter().nth(round).unwrap().clone();
        let start = |opened: &Opened| {
            (0..2)
                .map(|partition| opened.log.start_offset(Signal::Traces, partition))
                .sum::<u64>()
        };
        let log_began = start(&opened);
        let erased = erase(&opened.engine, subject(ErasureBy::User, &[&user])).await;
        assert!(erased.rows > 20, "{erased:?}");
        erased_rows += erased.rows as usize;
        // A kill at once in the second round: what was retracted stays so.
        if round == 1 {
            drop(opened);
            opened = removing(directory.path(), workers);
        }
        let deadline = Instant::now() + Duration::from_secs(40);
        let stage = |opened: &Opened| {
            let all = opened.engine.erasures().into_iter();
            all.filter(|erasure| erasure.id == erased.id)
                .map(|erasure| erasure.stage)
                .next()
        };
        while stage(&opened) != Some(ErasureStage::Removed) {
            assert!(
                Instant::now() < deadline,
                "{:?}, {:?}",
                opened.engine.erasures(),
                opened.engine.checkpoint_status()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(start(&opened) > log_began, "the log has let go of what it had");
        let of_user = |rows: &RecordBatch| {
            let named = texts(rows, "user_id").into_iter().flatten();
            named.filter(|name| *name == user).count()
        };
        let stored = stored_rows(directory.path(), erased.until).await;
        assert_eq!(stored.iter().map(of_user).sum::<usize>(), 0);
        let mut tables = 0;
        for case in &cases {
            let view = opened.engine.view_named(&view_name(&case.definition)).unwrap();
            let (rows, of_user) = mentions(directory.path(), &view, user.as_str()).await;
            assert_eq!(of_user, 0, "changes of {} that say {user}", view.name.name);
            tables += usize::from(rows > 0);
        }
        assert!(tables > 10, "{tables} views have changes in the store");
        assert_eq!(
            mentions(directory.path(), &gone, user.as_str()).await.0,
            0,
            "its table has gone"
        );
        if round == 0 {
            drop(opened);
            opened = removing(directory.path(), workers);
            assert_eq!(stage(&opened), Some(ErasureStage::Removed));
        }
        let statuses = opened.engine.erasures();
        assert!(
            statuses.iter().all(|erasure| erasure.subject.values.is_empty()),
            "{statuses:?}"
        );
        let admitted = opened.engine.status();
        opened.engine.wait_complete(admitted.tick).await;
        let hold = opened.engine.hold();
        let rows = remaining(&opened, directory.path(), hold.tick()).await;
        assert_eq!(rows.num_rows() + erased_rows, (round + 1) * 20 * SPANS);
        let marks = Marks::read(directory.path(), &"traces".into());
        for case in &cases {
            let oracle = Oracle::new(case, &rows, &marks);
            for (name, companion) in relations(case) {
                let peek = opened.engine.peek(&name, &hold, None).await.unwrap();
                let mut content = Content::new();
                for batch in &peek.batches {
                    add_rows(&peek.schema, batch, None, &mut content);
                }
                let expected = match companion {
                    None => oracle.view(&peek.schema, hold.tick()),
                    Some(Companion::Late) => oracle.late(&peek.schema, hold.tick()),
                    Some(Companion::Errors) => oracle.errors(&peek.schema, hold.tick()),
                };
                assert!(
                    content == expected,
                    "{name} in round {round}: {}",
                    difference(&peek.schema, &content, &expected)
                );
            }
        }
    }
    drop(opened);
}

/// The sum of a view's changes, stored or not.
pub async fn stored_content(opened: &Opened, directory: &Path, case: &Case, until: u64) -> Content {
    let name = view_name(&case.definition);
    let view = opened.engine.view_named(&name).unwrap();
    let tail = opened.engine.changes_tail(&name, until);
    let mut content = Content::new();
    let columns: Vec<String> = view
        .schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .chain(["_diff".to_string()])
        .collect();
    let mut add = |batch: &RecordBatch| {
        let places: Vec<usize> = columns
            .iter()
            .map(|name| batch.schema().index_of(name).unwrap())
            .collect();
        let batch = batch.project(&places).unwrap();
        let (rows, diffs) = (0..places.len() - 1, batch.column(places.len() - 1));
        let rows = batch.project(&rows.collect::<Vec<_>>()).unwrap();
        let diffs = diffs.as_primitive::<Int64Type>();
        add_rows(&view.schema, &rows, Some(diffs.values()), &mut content);
    };
    tail.batches.iter().for_each(&mut add);
    if let Some(flushed) = tail.flushed {
        let store = DeltaStore::open(directory.join("tables")).unwrap();
        let range = RowRange {
            columns: &columns,
            after: 0,
            until: flushed,
        };
        let mut visit = |batch: RecordBatch| {
            add(&batch);
            true
        };
        store
            .read_rows(&view.changes_table, range, &mut visit)
            .await
            .unwrap();
    }
    content
}
