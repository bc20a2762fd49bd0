//! Erasures: from their tick on every view and companion shows what it would if the rows had never been there, rows that
//! are stored and rows that are not; what comes later counts; every replay does the same.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use futures::future::join_all;
use pyflare_dataflows::{
    Companion, Engine, EngineError, ErasureBy, ErasureStage, ErasureStatus, ErasureSubject, SubscribeOptions,
    ViewName,
};
use tokio::sync::watch;

use crate::bed::{Content, Opened, copy_directory, difference, open, request};
use crate::cases::{self, Case};
use crate::expected::{Marks, Oracle};
use crate::frames::{Transcript, again, follow};
use crate::{SPANS, first_time, relations, send};

fn subject(by: ErasureBy, values: &[&str]) -> ErasureSubject {
    ErasureSubject {
        project: "default".into(),
        by,
        values: values.iter().map(|value| (*value).to_string()).collect(),
    }
}

/// Takes rows back and waits until they are.
async fn erase(engine: &Engine, subject: ErasureSubject) -> ErasureStatus {
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

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = cast(rows.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
    let values = column.as_string::<i32>().iter();
    values.map(|value| value.map(str::to_string)).collect()
}

fn ticks(rows: &RecordBatch) -> &[i64] {
    let ticks = rows.column_by_name("_tick").unwrap();
    ticks.as_primitive::<Int64Type>().values()
}

/// The rows that are left after these erasures.
fn left(rows: &RecordBatch, erasures: &[&ErasureStatus]) -> RecordBatch {
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

/// Compares what was followed with the batch over the rows that are left, at every tick with a frame.
fn assert_equals_the_rest(
    (case, transcripts): (&Case, &[(ViewName, Option<Companion>, Transcript)]),
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
    let mut rows = vec![first.rows(tick)];
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
    rows.push(first.rows(last));
    let rows = concat_batches(&rows[0].schema(), &rows).unwrap();
    assert_eq!(rows.num_rows(), 80 * SPANS);
    stop.send(true).unwrap();
    let mut transcripts = Vec::new();
    for (name, companion, transcript) in followed {
        transcripts.push((name, companion, transcript.await.unwrap()));
    }
    assert_eq!(first.engine.erasures().len(), 3);
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

async fn wait_for_store(opened: &Opened, tick: u64) {
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
