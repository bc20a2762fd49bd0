//! Streams that read topics of others: each message once, named by partition and offset, whatever is killed and however
//! many workers replay it; a topic that cannot be read is its own stream's trouble; what was deleted is a stop, or a gap
//! that every replay agrees on.
//!
//! The topic here is in memory and outlives the engines, with offsets that are left out and messages that are on their way
//! for a while; the real broker is in `connectors/kafka/tests` and `tests/kafka`.

mod broker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use futures::future::join_all;
use pyflare_connectors::ContentType;
use pyflare_dataflows::{Engine, EngineError, EngineOptions, SubscribeOptions, ViewName};
use pyflare_log::FileCheckpoints;
use tokio::sync::watch;

use broker::{Broker, FedLog, Message, Messages};

use crate::bed::{
    Content, Opened, add_rows, all_rows, copy_directory, declared, difference, open_with, request, view_name,
};
use crate::expected::Marks;
use crate::frames::{Transcript, again, follow};
use crate::streams::{DAY, Time, definition, living};

const SECOND_US: i64 = 1_000_000;
const SALES: &str = "CREATE STREAM sales (id BIGINT NOT NULL, at TIMESTAMP, amount DOUBLE)
    WITH (event_time = 'at', lateness = '3 seconds') FROM KAFKA TOPIC 'shop.sales'";
/// Over the same topic, and by the time of its messages.
const LATER: &str = "CREATE STREAM later (id BIGINT) WITH (start = 'latest') FROM KAFKA TOPIC 'shop.sales'";

fn opened(directory: &Path, broker: &Broker, workers: usize) -> Opened {
    opened_passing(directory, broker, workers, false)
}

fn opened_passing(directory: &Path, broker: &Broker, workers: usize, skip_deleted: bool) -> Opened {
    open_with(directory, workers, |options| {
        feed(options, broker);
        options.skip_deleted = skip_deleted;
        options.checkpoints = Some(FileCheckpoints::open(directory.join("checkpoints")).unwrap());
        options.checkpoint_every = Duration::from_secs(3_600);
        options.checkpoint_least_rows = 0;
    })
}

fn feed(options: &mut EngineOptions, broker: &Broker) {
    options.log = Arc::new(FedLog {
        own: Arc::clone(&options.log),
        broker: broker.clone(),
    });
}

fn now_us() -> i64 {
    pyflare_dataflows::time::now_ms() as i64 * 1_000
}

/// What was sent: (partition, offset, row) and the id of every row that fits.
#[derive(Default)]
struct Sent {
    rows: BTreeMap<(i32, i64, i32), i64>,
    rejected: u64,
    unreadable: u64,
    next_id: i64,
}

impl Sent {
    /// A message, some of its offsets empty, some of its rows bad, some of it nothing at all.
    fn send(&mut self, broker: &Broker, partition: usize, at_us: i64) {
        let offset = broker.topics.lock()["shop.sales"][partition].len() as i64;
        let number = offset + partition as i64 * 5;
        let message = |body: Vec<u8>, content_type| {
            Some(Message {
                body: Bytes::from(body),
                content_type,
                sent_us: at_us,
            })
        };
        let mut row = |row: i32| {
            let id = self.next_id;
            self.next_id += 1;
            self.rows.insert((partition as i32, offset, row), id);
            let at = at_us - i64::from(row) * SECOND_US;
            serde_json::json!({"id": id, "at": at, "amount": id as f64 / 8.0, "more": [id]}).to_string()
        };
        let sent = match number % 11 {
            4 => None,
            7 => {
                self.unreadable += 1;
                message(vec![0xff, 0xff, 0xff, 0xff, 1, 2, 3], ContentType::ArrowStream)
            }
            9 => {
                self.rejected += 1;
                let lines = [row(0), "{\"id\": \"x\"}".into(), row(2)];
                message(lines.join("\n").into_bytes(), ContentType::Json)
            }
            _ => message(row(0).into_bytes(), ContentType::Json),
        };
        broker.send("shop.sales", partition, sent);
    }

    fn ids(&self) -> BTreeSet<i64> {
        self.rows.values().copied().collect()
    }
}

/// Waits until a stream has so many rows; returns a tick that has them all.
async fn rows_of(engine: &Engine, stream: &str, rows: usize) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let described = engine.stream("default", stream).unwrap();
        if described.rows >= rows as u64 && described.waiting_messages == 0 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{rows} rows are admitted: {described:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // They are counted before their tick is over.
    engine.wait_complete(engine.status().tick + 1).await;
    engine.status().tick
}

/// Where the rows of a batch came from, each with its id.
fn origins(rows: &RecordBatch) -> Vec<((i32, i64, i32), i64)> {
    let (partitions, numbers) = (
        rows["_partition"].as_primitive::<Int32Type>(),
        rows["_row"].as_primitive::<Int32Type>(),
    );
    let (offsets, ids) = (
        rows["_offset"].as_primitive::<Int64Type>(),
        rows["id"].as_primitive::<Int64Type>(),
    );
    let origin = |row| (partitions.value(row), offsets.value(row), numbers.value(row));
    (0..rows.num_rows())
        .map(|row| (origin(row), ids.value(row)))
        .collect()
}

fn monitors() -> Vec<(&'static str, Time)> {
    let minutes = |emit_final| Time {
        pane_us: 60 * SECOND_US,
        retention_us: 3_600 * SECOND_US,
        emit_final,
    };
    vec![
        (
            "CREATE MONITOR windows WITH (retention = '1 hour') AS SELECT window_start, count(*) AS n, sum(amount) AS amount,
             min(id) AS first, max(id) AS last FROM TUMBLE(sales, at, INTERVAL '1 minute') GROUP BY window_start",
            minutes(false),
        ),
        (
            "CREATE MONITOR finals WITH (retention = '1 hour') AS SELECT window_end, count(*) AS n
             FROM TUMBLE(sales, at, INTERVAL '1 minute') GROUP BY window_end EMIT FINAL",
            minutes(true),
        ),
        ("CREATE MONITOR every AS SELECT id, at, amount FROM sales", DAY),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topics_messages_are_admitted_once_and_replayed_as_they_were_on_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::default();
    broker
        .topics
        .lock()
        .insert("shop.sales".into(), vec![Messages::new(); 3]);
    let base_us = now_us() - 60 * 15 * SECOND_US;
    let mut sent = Sent::default();
    for number in 0..60 {
        sent.send(&broker, number % 3, base_us + number as i64 * SECOND_US);
    }
    let first = opened(directory.path(), &broker, 2);
    let engine = &first.engine;
    let sales = engine.create_stream(declared(SALES)).await.unwrap().definition;
    let past = sent.rows.len();
    rows_of(engine, "sales", past).await;
    engine.create_stream(declared(LATER)).await.unwrap();
    let mut installed = Vec::new();
    for (sql, time) in monitors() {
        let view = engine
            .install(definition(sql, &[Arc::clone(&sales)]), false)
            .await;
        installed.push((view.unwrap(), time));
    }
    let (stop, stopped) = watch::channel(false);
    let following: Vec<_> = installed
        .iter()
        .map(|(view, _)| {
            let options = SubscribeOptions {
                snapshot: true,
                ..SubscribeOptions::default()
            };
            follow(engine, &view_name(&view.definition), options, stopped.clone())
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for number in 60..200_usize {
        if number == 110 {
            broker
                .topics
                .lock()
                .get_mut("shop.sales")
                .unwrap()
                .push(Messages::new());
        }
        let partitions = if number < 110 { 3 } else { 4 };
        sent.send(
            &broker,
            number % partitions,
            base_us + number as i64 * 4 * SECOND_US,
        );
        if number % 7 == 0 {
            first
                .append(request(number as u64, base_us as u64 * 1_000, 5))
                .await;
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
    let last = rows_of(engine, "sales", sent.rows.len()).await;
    let last = last.max(rows_of(engine, "later", sent.rows.len() - past).await);
    let tail = |engine: &Engine, name: &str| {
        all_rows(&engine.stream_tail(&ViewName::of_project("default", name), last))
    };
    let rows = tail(engine, "sales");
    let found = origins(&rows);
    assert_eq!(found.len(), sent.rows.len(), "no row twice");
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), sent.rows);
    let described = engine.stream("default", "sales").unwrap();
    assert_eq!(
        (described.rejected_rows, described.unreadable_messages),
        (sent.rejected, sent.unreadable)
    );
    assert!(sent.rejected > 3 && sent.unreadable > 3);
    let rejections = engine.rejections(&ViewName::of_project("default", "sales"));
    assert_eq!(rejections.len() as u64, sent.rejected + sent.unreadable);
    let codes: BTreeSet<&str> = rejections.iter().map(|rejection| rejection.code).collect();
    assert_eq!(codes, BTreeSet::from(["PF-1201", "PF-1212"]));
    let later: BTreeSet<i64> = origins(&tail(engine, "later"))
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    assert_eq!(
        later,
        sent.ids().into_iter().filter(|id| *id >= past as i64).collect()
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send(true).unwrap();
    let mut transcripts: Vec<(ViewName, Transcript)> = Vec::new();
    for ((view, _), transcript) in installed.iter().zip(following) {
        transcripts.push((view.name.clone(), transcript.await.unwrap()));
    }
    first.shutdown();

    let marks = Marks::read(directory.path(), &1.into());
    for ((view, time), (name, transcript)) in installed.iter().zip(&transcripts) {
        for (tick, shown) in transcript.contents(last) {
            let living = living(&rows, "at", *time, 3 * SECOND_US, &marks, view.start, tick);
            let tables = [("sales", std::slice::from_ref(&living))];
            let batch = pyflare_sql::oracle::batch_over(&view.definition, &tables).unwrap();
            let mut expected = Content::new();
            add_rows(&transcript.schema, &batch, None, &mut expected);
            assert!(
                shown == expected,
                "{name} at {tick}: {}",
                difference(&transcript.schema, &shown, &expected)
            );
        }
    }
    for workers in [1, 2, 4] {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        let replayed = opened(copy.path(), &broker, workers);
        let again = transcripts.iter().map(|(name, transcript)| {
            let engine = &replayed.engine;
            async move { (name, transcript, again(engine, name, &transcript.frames[0]).await) }
        });
        for (name, transcript, replay) in join_all(again).await {
            transcript.assert_equals(&replay, last, &format!("{name} on {workers} workers"));
        }
        let stream = replayed.engine.stream("default", "sales").unwrap();
        assert_eq!(
            (stream.rows, stream.rejected_rows, stream.unreadable_messages),
            (
                described.rows,
                described.rejected_rows,
                described.unreadable_messages
            )
        );
        replayed.shutdown();
    }
}

/// Starts from checkpoints go on behind the last message of each partition, new ones included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_from_checkpoints_and_from_ticks_pass_over_no_message() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::default();
    broker
        .topics
        .lock()
        .insert("shop.sales".into(), vec![Messages::new(); 2]);
    let mut sent = Sent::default();
    let every = ViewName::of_project("default", "every");
    let mut first = None;
    for round in 0..6 {
        let current = opened(directory.path(), &broker, 1 + round % 3);
        let engine = &current.engine;
        if round == 0 {
            let sales = engine.create_stream(declared(SALES)).await.unwrap().definition;
            let (sql, _) = monitors()[2];
            first = Some(engine.install(definition(sql, &[sales]), false).await.unwrap());
        }
        if round == 3 {
            broker
                .topics
                .lock()
                .get_mut("shop.sales")
                .unwrap()
                .push(Messages::new());
        }
        let partitions = if round < 3 { 2 } else { 3 };
        for number in 0..30 {
            sent.send(&broker, number % partitions, now_us());
            if number == 15 && round % 2 == 0 {
                rows_of(engine, "sales", 1).await;
                let checkpoint = engine.checkpoint().await;
                assert!(checkpoint.is_ok(), "{checkpoint:?}");
            }
        }
        rows_of(engine, "sales", sent.rows.len()).await;
        let content = current.content(&every).await;
        assert_eq!(
            content.values().sum::<i64>(),
            sent.rows.len() as i64,
            "round {round}"
        );
        assert!(content.values().all(|count| *count == 1));
        let stream = engine.stream("default", "sales").unwrap();
        assert_eq!(
            (stream.rejected_rows, stream.unreadable_messages),
            (sent.rejected, sent.unreadable)
        );
        // As it is when a process is killed: without a drain.
        match round % 2 {
            0 => drop(current),
            _ => current.shutdown(),
        }
    }
    assert!(first.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_cannot_be_read_is_its_own_streams_trouble() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::default();
    let first = opened(directory.path(), &broker, 1);
    let engine = &first.engine;
    let code = |outcome: Result<(), EngineError>| outcome.unwrap_err().code();
    let missing = engine.create_stream(declared(SALES)).await;
    assert_eq!(code(missing.map(drop)), "PF-2012");
    broker
        .topics
        .lock()
        .insert("shop.sales".into(), vec![Messages::new()]);
    let mut sent = Sent::default();
    sent.send(&broker, 0, now_us());
    engine.create_stream(declared(SALES)).await.unwrap();
    rows_of(engine, "sales", 1).await;
    assert_eq!(
        code(engine.create_stream(declared(SALES)).await.map(drop)),
        "PF-3014"
    );

    let trouble = |engine: &Engine| engine.stream("default", "sales").unwrap().trouble;
    let wait_for = async |engine: &Engine, wanted: bool| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while trouble(engine).is_some() != wanted {
            assert!(Instant::now() < deadline, "trouble: {:?}", trouble(engine));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    broker.refuses.store(true, Ordering::Release);
    sent.send(&broker, 0, now_us());
    wait_for(engine, true).await;
    assert!(trouble(engine).unwrap().contains("PF-2012"));
    // The others go on.
    let requests = engine.status().requests;
    first.append(request(1, now_us() as u64 * 1_000, 5)).await;
    first.admitted(requests + 1).await;
    assert_eq!(engine.stream("default", "sales").unwrap().rows, 1);
    first.shutdown();

    // The topic is needed for the replay.
    let stopped = refused(directory.path(), &broker);
    assert!(
        stopped.contains("PF-2012") && stopped.contains("shop.sales"),
        "{stopped}"
    );

    broker.refuses.store(false, Ordering::Release);
    let second = opened(directory.path(), &broker, 2);
    rows_of(&second.engine, "sales", sent.rows.len()).await;
    second.engine.checkpoint().await.unwrap();
    second.shutdown();
    // Behind a checkpoint it is not, and reading goes on when it is back.
    broker.refuses.store(true, Ordering::Release);
    let third = opened(directory.path(), &broker, 1);
    wait_for(&third.engine, true).await;
    let requests = third.engine.status().requests;
    third.append(request(2, now_us() as u64 * 1_000, 5)).await;
    third.admitted(requests + 1).await;
    third.shutdown();
    broker.refuses.store(false, Ordering::Release);
    let fourth = opened(directory.path(), &broker, 1);
    sent.send(&broker, 0, now_us());
    rows_of(&fourth.engine, "sales", sent.rows.len()).await;

    // A dropped stream is not read any more, and one of that name begins anew.
    let sales = ViewName::of_project("default", "sales");
    fourth.engine.drop_stream(&sales).await.unwrap();
    sent.send(&broker, 0, now_us());
    tokio::time::sleep(Duration::from_millis(200)).await;
    fourth.engine.create_stream(declared(SALES)).await.unwrap();
    rows_of(&fourth.engine, "sales", sent.rows.len()).await;
    fourth.shutdown();
}

/// Why an engine does not start.
fn refused(directory: &Path, broker: &Broker) -> String {
    let log = pyflare_log::EmbeddedLog::open(pyflare_log::LogOptions {
        directory: directory.join("log"),
        partitions: 2,
        min_free_bytes: 0,
        ..pyflare_log::LogOptions::default()
    });
    let tick_log = pyflare_log::FileTickLog::open(directory.join("ticks")).unwrap();
    let catalog = pyflare_log::FileCatalog::open(directory.join("catalog")).unwrap();
    let runtime = tokio::runtime::Handle::current();
    let mut options = EngineOptions::new(log.unwrap(), tick_log, catalog, None, runtime);
    feed(&mut options, broker);
    options.checkpoints = Some(FileCheckpoints::open(directory.join("checkpoints")).unwrap());
    let started = tokio::task::block_in_place(|| Engine::start(options));
    started.err().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_is_a_stop_or_a_gap_that_every_replay_agrees_on() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::default();
    broker
        .topics
        .lock()
        .insert("shop.sales".into(), vec![Messages::new()]);
    let mut sent = Sent::default();
    let every = ViewName::of_project("default", "every");
    let first = opened(directory.path(), &broker, 1);
    let sales = first
        .engine
        .create_stream(declared(SALES))
        .await
        .unwrap()
        .definition;
    let view = first
        .engine
        .install(definition(monitors()[2].0, &[sales]), false)
        .await;
    view.unwrap();
    for _ in 0..10 {
        sent.send(&broker, 0, now_us());
    }
    rows_of(&first.engine, "sales", sent.rows.len()).await;
    first.shutdown();

    let left = |sent: &Sent, from: i64, but: std::ops::Range<i64>| -> i64 {
        let offsets = sent.rows.keys().map(|(_, offset, _)| *offset);
        offsets
            .filter(|offset| *offset >= from && !but.contains(offset))
            .count() as i64
    };
    let found = |engine: &Engine| -> Vec<(String, u32, u64, u64)> {
        let gaps = engine.gaps().into_iter();
        gaps.map(|gap| (gap.topic, gap.partition, gap.from, gap.to))
            .collect()
    };
    let gap = |from, to| ("shop.sales".to_string(), 0, from, to);
    let count = async |opened: &Opened| opened.content(&every).await.values().sum::<i64>();

    // Deleted after it was admitted, and needed for the replay.
    broker.first.store(4, Ordering::Release);
    let stopped = refused(directory.path(), &broker);
    assert!(
        stopped.contains("PF-2005") && stopped.contains("offset 0"),
        "{stopped}"
    );
    let second = opened_passing(directory.path(), &broker, 2, true);
    let deadline = Instant::now() + Duration::from_secs(10);
    while found(&second.engine).is_empty() {
        assert!(Instant::now() < deadline, "the gap is recorded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(found(&second.engine), [gap(0, 4)]);
    let remaining = left(&sent, 4, 0..0);
    assert_eq!(count(&second).await, remaining);
    second.shutdown();
    let third = opened(directory.path(), &broker, 1);
    assert_eq!(
        (count(&third).await, found(&third.engine)),
        (remaining, vec![gap(0, 4)])
    );
    // From here on what is deleted below is not needed by any start.
    third.engine.checkpoint().await.unwrap();
    third.shutdown();

    // Deleted before anybody read it.
    for _ in 0..6 {
        sent.send(&broker, 0, now_us());
    }
    broker.first.store(13, Ordering::Release);
    let fourth = opened(directory.path(), &broker, 1);
    let deadline = Instant::now() + Duration::from_secs(10);
    let trouble = || fourth.engine.stream("default", "sales").unwrap().trouble;
    while trouble().is_none_or(|trouble| !trouble.contains("PF-2005: offset 10")) {
        assert!(Instant::now() < deadline, "{:?}", trouble());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fourth.shutdown();
    let fifth = opened_passing(directory.path(), &broker, 1, true);
    let remaining = left(&sent, 4, 10..13);
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(&fifth).await != remaining {
        assert!(Instant::now() < deadline, "{remaining} rows");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(found(&fifth.engine), [gap(0, 4), gap(10, 13)]);
    fifth.shutdown();
    let sixth = opened(directory.path(), &broker, 4);
    assert_eq!(count(&sixth).await, remaining);
    sixth.engine.checkpoint().await.unwrap();
    sixth.shutdown();
    let seventh = opened(directory.path(), &broker, 1);
    assert_eq!(
        (count(&seventh).await, found(&seventh.engine)),
        (remaining, vec![gap(0, 4), gap(10, 13)])
    );
    seventh.shutdown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_log_says_how_to_get_topics() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open_with(directory.path(), 1, |_| {});
    let refused = opened.engine.create_stream(declared(SALES)).await.unwrap_err();
    assert_eq!(refused.code(), "PF-2016");
    assert!(refused.to_string().contains("--log-url kafka://"), "{refused}");
    opened.shutdown();
}
