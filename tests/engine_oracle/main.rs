//! Content at every tick = the same SQL as a DataFusion batch over the rows admitted until then.
//!
//! One engine admits generated traffic with duplicates, late rows and rows in error, past panes that expire, and is
//! watched through subscriptions to every view and companion; the tick log is then replayed with other worker
//! counts, which must give the same frames bit for bit.
#![allow(clippy::unwrap_used)]

mod backfill;
mod bed;
mod cases;
#[path = "../support/clause_files.rs"]
mod clause_files;
mod clauses;
mod closed;
mod erased_history;
mod erasure;
mod expected;
mod frames;
mod functions;
mod grammar;
mod graph;
mod graph_cases;
mod hostile;
mod nexmark;
mod past;
mod random;
mod reading;
mod recovery;
mod sessions;
mod sharing;
mod slices;
mod sliding;
mod streams;
mod topics;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::future::join_all;
use pyflare_dataflows::{Companion, SubscribeOptions, ViewName};
use tokio::sync::watch;

use bed::{Content, Opened, add_rows, copy_directory, open, request, view_name};
use cases::Case;
use expected::{Marks, Oracle};
use frames::{Transcript, again, follow};

const BODIES: u64 = 80;
const SPANS: usize = 40;

/// The view and its companions.
fn relations(case: &Case) -> Vec<(ViewName, Option<Companion>)> {
    let view = view_name(&case.definition);
    let companion = |companion: Companion| {
        let mut name = view.clone();
        name.name.push_str(companion.suffix());
        (name, Some(companion))
    };
    let companions = Companion::ALL.map(companion);
    std::iter::once((view, None)).chain(companions).collect()
}

fn first_time() -> u64 {
    pyflare_dataflows::time::now_ms() * 1_000_000 - 3_000_000_000_000
}

/// Event time runs 40 minutes in 80 requests, of which some step back: within the lateness, or far beyond it.
async fn send(opened: &Opened, base: u64, numbers: Range<u64>) {
    for number in numbers {
        let back = match number % 10 {
            4 => 45,
            6 => 120 + number,
            9 => 600,
            _ => 0,
        };
        let start = base + number * 30_000_000_000 - back * 1_000_000_000;
        let body = request(number, start, SPANS);
        opened.append(body.clone()).await;
        if number % 3 == 0 {
            opened.append(body).await;
        }
        if number % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tick_equals_the_batch_and_every_replay_the_first_run() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), 2);
    let cases = cases::all();
    for case in &cases {
        first
            .engine
            .install(case.definition.clone(), false)
            .await
            .unwrap();
    }
    // Followed from before the first row.
    let (stop, stopped) = watch::channel(false);
    let followed: Vec<_> = cases
        .iter()
        .flat_map(relations)
        .map(|(name, companion)| {
            let options = SubscribeOptions {
                snapshot: true,
                ..SubscribeOptions::default()
            };
            let transcript = follow(&first.engine, &name, options, stopped.clone());
            (name, companion, transcript)
        })
        .collect();
    // Snapshots are taken before the first row, so that all begin with a tick's end.
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(&first, first_time(), 0..BODIES).await;
    first.admitted(BODIES).await;
    let status = first.engine.status();
    assert_eq!(
        status.rows[0],
        BODIES * SPANS as u64,
        "repeated bodies count once"
    );
    assert_eq!(status.duplicate_requests, BODIES.div_ceil(3));

    // A stream without rows lets time pass, and panes expire without a row to push them.
    let brief = ViewName::of_project("default", "brief");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !first.content(&brief).await.is_empty() {
        assert!(Instant::now() < deadline, "panes expire while the stream is idle");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let last = first.engine.status().complete_tick;
    let rows = first.rows(last);
    assert_eq!(rows.num_rows() as u64, BODIES * SPANS as u64);
    let stored: Vec<Content> = cases.iter().map(|case| stored(&first, case, last)).collect();
    stop.send(true).unwrap();
    let mut transcripts: Vec<(ViewName, Option<Companion>, Transcript)> = Vec::new();
    for (name, companion, transcript) in followed {
        transcripts.push((name, companion, transcript.await.unwrap()));
    }
    first.shutdown();

    let marks = Marks::read(directory.path(), &"traces".into());
    let ticks = rows.column_by_name("_tick").unwrap().as_primitive::<Int64Type>();
    let row_ticks: BTreeSet<u64> = ticks.values().iter().map(|tick| *tick as u64).collect();
    assert!(row_ticks.len() > 20, "{} ticks had rows", row_ticks.len());
    let of_each = transcripts.chunks(3).zip(&cases).zip(&stored);
    let (mut late_rows, mut gone_rows) = (0, 0);
    for ((transcripts, case), stored) in of_each {
        let oracle = Oracle::new(case, &rows, &marks);
        if case.one_pane {
            let expected = oracle.stored(&transcripts[0].2.schema, last);
            assert!(!expected.is_empty(), "{} shows something", case.definition.name);
            assert!(
                *stored == expected,
                "{}: {} rows are stored, not {}",
                case.definition.name,
                stored.len(),
                expected.len()
            );
        }
        let (late, gone) = oracle.left_out(last);
        (late_rows, gone_rows) = (late_rows + late, gone_rows + gone);
        for (name, companion, transcript) in transcripts {
            let contents = transcript.contents(last);
            let empty = Content::new();
            for tick in contents
                .keys()
                .chain(&row_ticks)
                .copied()
                .chain([last])
                .collect::<BTreeSet<_>>()
            {
                let content = contents
                    .range(..=tick)
                    .next_back()
                    .map_or(&empty, |(_, content)| content);
                let expected = match companion {
                    None => oracle.view(&transcript.schema, tick),
                    Some(Companion::Late) => oracle.late(&transcript.schema, tick),
                    Some(Companion::Errors) => oracle.errors(&transcript.schema, tick),
                };
                assert_eq!(content.len(), expected.len(), "rows of {name} at tick {tick}");
                assert!(
                    *content == expected,
                    "{name} at tick {tick} differs from the batch"
                );
            }
        }
        for companion in [Companion::Late, Companion::Errors] {
            let transcript = &transcripts[1 + companion as usize].2;
            let expected = match companion {
                Companion::Late => late > 0,
                Companion::Errors => !matches!(case.errors, cases::Errors::None),
            };
            let seen = transcript.frames.iter().any(|frame| frame.batch.is_some());
            assert_eq!(seen, expected, "{}{}", case.definition.name, companion.suffix());
        }
    }
    assert!(late_rows > 100, "{late_rows} rows were late");
    assert!(gone_rows > 1_000, "{gone_rows} rows have left their view");

    for workers in [1, 2, 4] {
        // The directory is copied: each replay starts from the same history.
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
        assert_shares(&replayed, workers).await;
        replayed.shutdown();
    }
}

/// What goes to the store of a view: the sum of its changes, without those by which panes end.
fn stored(opened: &Opened, case: &Case, last: u64) -> Content {
    let name = view_name(&case.definition);
    let view = opened.engine.view_named(&name).unwrap();
    let columns: Vec<usize> = (0..view.schema.fields().len()).collect();
    let mut content = Content::new();
    for batch in opened.engine.changes_tail(&name, last).batches {
        let diffs = batch.column_by_name("_diff").unwrap().as_primitive::<Int64Type>();
        let rows = batch.project(&columns).unwrap();
        add_rows(&view.schema, &rows, Some(diffs.values()), &mut content);
    }
    content
}

/// Every worker holds its share of the groups.
async fn assert_shares(opened: &Opened, workers: usize) {
    let hold = opened.engine.hold();
    for view in ["requests", "latency"] {
        let peek = opened
            .engine
            .peek(&ViewName::builtin(view), &hold, None)
            .await
            .unwrap();
        let shares = peek.rows_by_worker;
        let total: usize = shares.iter().sum();
        let shown: usize = peek.batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!((shares.len(), total), (workers, shown), "{view}: {shares:?}");
        assert!(
            total > 100 && shares.iter().all(|share| share * workers * 2 > total),
            "{view}: {shares:?}"
        );
    }
}

/// The same requests, joined into other bodies in another order, admitted at other ticks by other workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_rows_are_cut_into_requests_does_not_matter() {
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 900_000_000_000;
    let units: Vec<Vec<u8>> = (0..90)
        .map(|number| request(number, base + (number * 37 % 60) * 10_000_000_000, 6))
        .collect();
    // An OTLP request is a list: bodies one behind the other are one body. 53 has no common factor with 90.
    let shuffled: Vec<Vec<u8>> = (0..units.len())
        .map(|index| units[index * 53 % 90].clone())
        .collect();
    let mut results: Vec<Vec<Content>> = Vec::new();
    for (workers, units, cuts, pause) in [(1, &units, vec![1], 0), (4, &shuffled, vec![7, 2, 1, 5], 15)] {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), workers);
        // All rows are on time for a retention of hours.
        let cases: Vec<Case> = cases::all()
            .into_iter()
            .filter(|case| case.definition.retention_us() >= 6 * 3_600_000_000)
            .filter(|case| !case.definition.options.emit_final)
            .collect();
        for case in &cases {
            opened
                .engine
                .install(case.definition.clone(), false)
                .await
                .unwrap();
        }
        let (mut rest, mut bodies) = (units.as_slice(), 0);
        while !rest.is_empty() {
            let (body, after) = rest.split_at(cuts[bodies % cuts.len()].min(rest.len()));
            opened.append(body.concat()).await;
            (rest, bodies) = (after, bodies + 1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        opened.admitted(bodies as u64).await;
        assert_eq!(opened.engine.status().rows[0], 90 * 6);
        let mut contents = Vec::new();
        for case in &cases {
            let content = opened.content(&view_name(&case.definition)).await;
            assert!(!content.is_empty(), "{}", case.definition.name);
            contents.push(content);
        }
        results.push(contents);
        opened.shutdown();
    }
    assert!(
        results[0] == results[1],
        "the same rows give the same views, bit for bit"
    );
}

/// A failing assertion must fail its test, not hang it: the engine ends its threads when nobody holds it any more.
#[test]
fn a_panic_beside_a_running_engine_ends_in_time() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_path_buf();
        let outcome = std::panic::catch_unwind(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let case = &cases::all()[0];
                // On a task, because starting blocks.
                let opened = tokio::spawn(async move { open(&path, 2) }).await.unwrap();
                opened
                    .engine
                    .install(case.definition.clone(), false)
                    .await
                    .unwrap();
                let (_stop, stopped) = watch::channel(false);
                let name = view_name(&case.definition);
                let following = follow(&opened.engine, &name, SubscribeOptions::default(), stopped);
                opened.append(request(1, 1_700_000_000_000_000_000, 10)).await;
                opened.admitted(1).await;
                assert!(following.is_finished(), "as a test that fails");
            });
        });
        done.send(outcome.is_err()).unwrap();
    });
    assert_eq!(ended.recv_timeout(Duration::from_secs(20)), Ok(true));
}
