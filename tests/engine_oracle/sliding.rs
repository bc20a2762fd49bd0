//! Windows that slide by `now()`: content at every tick = the batch over the rows admitted until then, with `now()` as the
//! tick floored to the quantum; while rows come, while none come, and again on any number of workers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Int64Type;
use futures::future::join_all;
use pyflare_connectors::{ContentType, TickLog};
use pyflare_dataflows::{MonitorDefinition, SubscribeOptions, ViewName};
use pyflare_log::FileTickLog;
use pyflare_operators::streams::StreamDefinition;
use pyflare_sql::{PlanScope, Statement};
use tokio::sync::watch;

use crate::bed::{Content, Opened, add_rows, copy_directory, difference, open, request, view_name};
use crate::frames::{Transcript, again, follow};

const REQUESTS: u64 = 36;
const SPANS: usize = 12;
/// How far in the past the spans of a request end, by its number; the bounds below lie in between.
const BACK_MS: [u64; 9] = [0, 1_400, 295_500, 0, 3_700, 3_595_000, 700, 5_000, 301_000];

const ORDERS: &str = "CREATE STREAM orders (id BIGINT, at TIMESTAMP, user_id TEXT) WITH (event_time = 'at')";

/// Options and SELECT, with the seconds in which each `now()` advances, in their order.
const MONITORS: &[(&str, &str, &[i64], &str)] = &[
    (
        "recent",
        "",
        &[1],
        "SELECT model, count(*) AS n, sum(output_tokens) AS tokens, max(duration_ns) AS worst, avg(temperature) AS warmth
         FROM spans WHERE event_time > now() - INTERVAL '4 seconds' GROUP BY model",
    ),
    (
        "rows",
        "",
        &[1],
        "SELECT span_id, model FROM spans WHERE now() - event_time < INTERVAL '6500 milliseconds' AND output_tokens > 100",
    ),
    (
        "kept_by_its_bound",
        "WITH (retention = '1 second', lateness = '0 seconds')",
        &[1],
        "SELECT user_id, count(*) AS n FROM spans WHERE current_timestamp < event_time + INTERVAL '6 seconds' GROUP BY user_id",
    ),
    (
        "minutes",
        "",
        &[5],
        "SELECT model, status, count(*) AS n, min(span_id) AS one FROM spans
         WHERE event_time >= now() - INTERVAL '5 minutes' GROUP BY model, status",
    ),
    (
        "an_hour",
        "",
        &[60],
        "SELECT user_id, count(DISTINCT model) AS models, stddev(duration_ns) AS spread FROM spans
         WHERE NOT event_time <= now() - INTERVAL '1 hour' GROUP BY user_id HAVING count(*) > 2",
    ),
    (
        "between",
        "",
        &[1, 1],
        "SELECT model, count(*) AS n FROM spans
         WHERE event_time BETWEEN now() - INTERVAL '8 seconds' AND now() - INTERVAL '2500 milliseconds' GROUP BY model",
    ),
    (
        "settled",
        "",
        &[1],
        "SELECT service_name, count(*) AS n FROM spans WHERE event_time < now() - INTERVAL '2 seconds' GROUP BY service_name",
    ),
    (
        "until_now",
        "",
        &[1],
        "SELECT span_id FROM spans WHERE event_time <= now() AND output_tokens > 200",
    ),
    (
        "before_and_now",
        "",
        &[1, 1, 1],
        "SELECT coalesce(a.model, b.model) AS model, a.n, b.n AS before FROM
         (SELECT model, count(*) AS n FROM spans WHERE event_time > now() - INTERVAL '3 seconds' GROUP BY model) AS a
         FULL JOIN (SELECT model, count(*) AS n FROM spans
           WHERE event_time <= now() - INTERVAL '3 seconds' AND event_time > now() - INTERVAL '6 seconds' GROUP BY model) AS b
         ON a.model = b.model",
    ),
    (
        "one_side",
        "",
        &[1],
        "SELECT s.span_id, m.n FROM spans AS s JOIN (SELECT model, count(*) AS n FROM spans GROUP BY model) AS m
         ON s.model = m.model WHERE s.event_time > now() - INTERVAL '3 seconds' AND s.output_tokens > 150",
    ),
    (
        "total",
        "",
        &[1],
        "SELECT count(*) AS n, sum(duration_ns) AS whole FROM spans WHERE event_time >= now() - INTERVAL '3 seconds'",
    ),
    (
        "worst",
        "",
        &[1],
        "SELECT span_id, duration_ns FROM spans WHERE event_time > now() - INTERVAL '5 seconds'
         ORDER BY duration_ns DESC, span_id LIMIT 3",
    ),
    (
        "united",
        "",
        &[1, 5],
        "SELECT 'seconds' AS which, model, count(*) AS n FROM spans WHERE event_time > now() - INTERVAL '3 seconds' GROUP BY model
         UNION ALL SELECT 'minutes', model, count(*) FROM spans WHERE event_time > now() - INTERVAL '5 minutes' GROUP BY model",
    ),
    (
        "outside",
        "",
        &[1],
        "SELECT word, count(*) AS n FROM (SELECT unnest(string_to_array(name, ' ')) AS word, event_time AS happened FROM spans) AS w
         WHERE happened > now() - INTERVAL '5 seconds' GROUP BY word",
    ),
    (
        "orders_now",
        "",
        &[1, 1],
        "SELECT user_id, count(*) AS n, max(id) AS newest FROM orders
         WHERE at > now() - INTERVAL '4 seconds' AND at <= now() GROUP BY user_id",
    ),
    (
        "orders_to_come",
        "",
        &[1],
        "SELECT id, at FROM orders WHERE at > now() + INTERVAL '500 milliseconds'",
    ),
    (
        "never",
        "",
        &[1, 1],
        "SELECT id FROM orders WHERE at > now() - INTERVAL '1 second' AND at < now() - INTERVAL '1 second'",
    ),
];

/// Over the base of `recent`, installed while rows come.
const SECOND: (&str, &str, &[i64], &str) = (
    "shared",
    "",
    &[1],
    "SELECT model, n * 2 AS twice FROM (SELECT model, count(*) AS n FROM spans
     WHERE event_time > now() - INTERVAL '4 seconds' GROUP BY model)",
);

type Monitor = (&'static str, &'static str, &'static [i64], &'static str);

fn definition((name, options, _, select): &Monitor, orders: &Arc<StreamDefinition>) -> MonitorDefinition {
    let scope = PlanScope {
        project: Some("default".into()),
        streams: vec![Arc::clone(orders)],
        ..PlanScope::default()
    };
    match pyflare_sql::parse(&format!("CREATE MONITOR {name} {options} AS {select}"), &scope) {
        Ok(Statement::CreateMonitor(create)) => create.definition,
        other => panic!("{name}: {other:?}"),
    }
}

/// The same with every `now()` as what it is at the tick, and the values of these.
fn at_tick(monitor: &Monitor, definition: &MonitorDefinition, tick: u64) -> (MonitorDefinition, Vec<i64>) {
    let now_us = tick as i64 * 1_000;
    let mut sql = definition.sql.replace("current_timestamp", "now()");
    let mut values = Vec::new();
    for step in monitor.2 {
        let floored = now_us - now_us.rem_euclid(step * 1_000_000);
        values.push(floored);
        sql = sql.replacen(
            "now()",
            &format!("arrow_cast({floored}, 'Timestamp(µs, \"UTC\")')"),
            1,
        );
    }
    assert!(!sql.contains("now()"), "{sql}");
    let definition = MonitorDefinition {
        sql,
        ..definition.clone()
    };
    (definition, values)
}

/// Rows of which some lie ahead of their tick.
fn orders(number: u64) -> Vec<u8> {
    let now_us = pyflare_dataflows::time::now_ms() as i64 * 1_000;
    let line = |index: i64| {
        let id = number as i64 * 10 + index;
        let at = now_us + [0, 1_300_000, -2_200_000, 4_000_000, -9_000_000, 250_001][index as usize];
        format!(
            "{{\"id\": {id}, \"at\": {at}, \"user_id\": \"user-{}\"}}\n",
            id % 3
        )
    };
    (0..6).map(line).collect::<String>().into_bytes()
}

fn all_ticks(directory: &Path) -> Vec<u64> {
    let mut ticks = Vec::new();
    let log = FileTickLog::open(directory.join("ticks")).unwrap();
    log.read(&mut |_, payload| {
        let record: serde_json::Value = serde_json::from_slice(payload).unwrap();
        ticks.push(record["tick"].as_u64().unwrap());
        Ok(())
    })
    .unwrap();
    ticks
}

/// The rows of `after < _tick ≤ until`.
fn between(rows: &RecordBatch, after: u64, until: u64) -> RecordBatch {
    let ticks = rows["_tick"].as_primitive::<Int64Type>();
    let admitted = |tick: &i64| *tick as u64 > after && *tick as u64 <= until;
    let mask: BooleanArray = ticks.values().iter().map(|tick| Some(admitted(tick))).collect();
    filter_record_batch(rows, &mask).unwrap()
}

async fn send(opened: &Opened, number: u64) {
    let back = BACK_MS[number as usize % BACK_MS.len()];
    let start = (pyflare_dataflows::time::now_ms() - back) * 1_000_000;
    opened.append(request(number, start, SPANS)).await;
    opened
        .append_rows("orders", ContentType::NdJson, orders(number))
        .await;
    opened.admitted(number * 2 + 2).await;
    tokio::time::sleep(Duration::from_millis(220)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sliding_windows_equal_the_batch_at_every_tick_and_on_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let engine = &opened.engine;
    let scope = PlanScope {
        project: Some("default".into()),
        ..PlanScope::default()
    };
    let Ok(Statement::CreateStream {
        definition: stream, ..
    }) = pyflare_sql::parse(ORDERS, &scope)
    else {
        panic!("{ORDERS}");
    };
    let stream = engine.create_stream(*stream).await.unwrap().definition;
    let (stop, stopped) = watch::channel(false);
    let mut installed = Vec::new();
    for number in 0..REQUESTS {
        let monitors: &[Monitor] = match number {
            0 => MONITORS,
            _ if number == REQUESTS / 2 => &[SECOND],
            _ => &[],
        };
        for monitor in monitors {
            let definition = definition(monitor, &stream);
            let view = engine.install(definition.clone(), false).await;
            let view = view.unwrap_or_else(|error| panic!("{}: {error}", monitor.0));
            let options = SubscribeOptions {
                snapshot: true,
                ..SubscribeOptions::default()
            };
            let following = follow(engine, &view_name(&definition), options, stopped.clone());
            installed.push((*monitor, definition, view.start, view.installed_at, following));
        }
        if !monitors.is_empty() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        send(&opened, number).await;
    }
    let rows =
        |tail: pyflare_dataflows::Tail| concat_batches(&tail.batches[0].schema(), &tail.batches).unwrap();
    let last_row = engine.status().tick;
    // Nothing comes any more, and rows leave all the same.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let last = engine.status().tick;
    let spans = rows(engine.tail("spans", last));
    let ordered = rows(engine.stream_tail(&ViewName::of_project("default", "orders"), last));
    assert_eq!(spans.num_rows() as u64, REQUESTS * SPANS as u64);
    assert_eq!(ordered.num_rows() as u64, REQUESTS * 6);
    stop.send(true).unwrap();
    let mut followed = Vec::new();
    for (monitor, definition, start, from, following) in installed {
        followed.push((monitor, definition, start, from, following.await.unwrap()));
    }
    opened.shutdown();

    let ticks: Vec<u64> = all_ticks(directory.path())
        .into_iter()
        .filter(|tick| *tick <= last)
        .collect();
    let mut compared = 0;
    for workers in [1, 2, 4] {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        let replayed = open(copy.path(), workers);
        let again = followed.iter().map(|(_, definition, _, _, transcript)| {
            let (engine, name) = (&replayed.engine, view_name(definition));
            async move { again(engine, &name, &transcript.frames[0]).await }
        });
        let replays = join_all(again).await;
        for ((monitor, definition, start, from, transcript), replay) in followed.iter().zip(replays) {
            let what = format!("{} on {workers} workers", monitor.0);
            transcript.assert_equals(&replay, last, &what);
            if workers == 1 {
                let tables = [&spans, &ordered];
                compared += compare(
                    monitor,
                    definition,
                    (*start, *from),
                    transcript,
                    tables,
                    (&ticks, last),
                );
            }
            let emptied = [
                "recent",
                "rows",
                "kept_by_its_bound",
                "between",
                "before_and_now",
                "orders_to_come",
                "never",
            ];
            let contents = transcript.contents(last);
            let shown = contents.values().filter(|content| !content.is_empty()).count();
            assert_eq!(shown > 0, monitor.0 != "never", "{what} shows something");
            if emptied.contains(&monitor.0) {
                assert!(
                    contents.values().next_back().unwrap().is_empty(),
                    "{what} is empty in the end"
                );
                let changed = contents.keys().filter(|tick| **tick > last_row).count();
                assert_eq!(changed > 1, monitor.0 != "never", "{what} changes without rows");
            }
        }
        replayed.shutdown();
    }
    assert!(compared > 1_000, "{compared} contents compared");
    println!(
        "{compared} contents compared with a batch, at {} ticks",
        ticks.len()
    );
}

/// Compares the content at every tick; gives how many different batches that took.
fn compare(
    monitor: &Monitor,
    definition: &MonitorDefinition,
    (start, from): (u64, u64),
    transcript: &Transcript,
    [spans, orders]: [&RecordBatch; 2],
    (ticks, last): (&[u64], u64),
) -> usize {
    let contents = transcript.contents(last);
    let first = contents.keys().next().copied().unwrap_or(last);
    let mut batches: BTreeMap<(usize, Vec<i64>), Content> = BTreeMap::new();
    for tick in ticks
        .iter()
        .copied()
        .filter(|tick| *tick > from && *tick >= first)
    {
        let (equal, values) = at_tick(monitor, definition, tick);
        let (spans, orders) = (between(spans, start, tick), between(orders, start, tick));
        let key = (spans.num_rows() + orders.num_rows(), values);
        let expected = batches.entry(key).or_insert_with(|| {
            let tables = [
                ("spans", std::slice::from_ref(&spans)),
                ("orders", std::slice::from_ref(&orders)),
            ];
            let batch = pyflare_sql::oracle::batch_over(&equal, &tables)
                .unwrap_or_else(|error| panic!("{}: {error}\n{}", monitor.0, equal.sql));
            let mut content = Content::new();
            add_rows(&transcript.schema, &batch, None, &mut content);
            content
        });
        let found = contents.range(..=tick).next_back();
        let empty = Content::new();
        let found = found.map_or(&empty, |(_, content)| content);
        assert!(
            found == expected,
            "{} at tick {tick} differs from the batch: {}",
            monitor.0,
            difference(&transcript.schema, found, expected)
        );
    }
    batches.len()
}
