//! Monitors that begin in the past: from their installation on they show, tick by tick, what one shows that was there from
//! the first row on, of rows that are stored, of rows that are not stored yet, and of those that come meanwhile; their
//! companions too, and again on any number of workers.

use std::time::{Duration, Instant};

use futures::future::join_all;
use pyflare_connectors::ContentType;
use pyflare_dataflows::{
    Companion, Engine, EngineError, EngineOptions, MonitorDefinition, SubscribeOptions, ViewName,
};
use pyflare_log::{EmbeddedLog, FileCatalog, FileTickLog, LogOptions};
use pyflare_sql::{PlanScope, Statement};
use tokio::sync::watch;

use crate::bed::{Opened, copy_directory, declared, difference, open, view_name};
use crate::frames::{Transcript, again, follow};
use crate::{cases, first_time, send};

pub const ORDERS: &str =
    "CREATE STREAM orders (id BIGINT, at TIMESTAMP, user_id TEXT) WITH (event_time = 'at')";
const HOUR_US: i64 = 3_600_000_000;

/// Beside the cases of other tests.
const MORE: &[(&str, &str, &str)] = &[
    (
        "hops",
        "",
        "SELECT model, window_start, count(*) AS n, sum(duration_ns) AS whole
         FROM HOP(spans, event_time, INTERVAL '20 seconds', INTERVAL '1 minute') GROUP BY model, window_start",
    ),
    (
        "from_the_start_time",
        "",
        "SELECT window_start, count(*) AS n, min(span_id) AS one FROM TUMBLE(spans, start_time, INTERVAL '1 minute') GROUP BY window_start",
    ),
    (
        "by_attribute",
        "",
        "SELECT attributes['gen_ai.request.model'] AS model, resource['service.name'] AS service, count(*) AS n
         FROM spans GROUP BY 1, 2",
    ),
    (
        "rows",
        "",
        "SELECT span_id, parent_span_id, attributes, finish_reason, temperature, reported_cost FROM spans WHERE output_tokens > 300",
    ),
    (
        "recent",
        "",
        "SELECT model, count(*) AS n, avg(temperature) AS warmth FROM spans
         WHERE event_time > now() - INTERVAL '49 minutes' AND event_time < now() - INTERVAL '20 minutes' GROUP BY model",
    ),
    (
        "parents",
        "",
        "SELECT a.span_id, b.name FROM spans AS a LEFT JOIN spans AS b ON a.parent_span_id = b.span_id AND a.trace_id = b.trace_id
         WHERE a.output_tokens > 200",
    ),
    (
        "slowest",
        "",
        "SELECT span_id, duration_ns FROM spans ORDER BY duration_ns DESC, span_id LIMIT 5",
    ),
    ("total", "", "SELECT count(*) AS n, sum(temperature) AS warmth FROM spans"),
    (
        "orders_by_user",
        "WITH (lateness = '1 second', retention = '20 seconds')",
        "SELECT user_id, window_start, count(*) AS n, max(id) AS newest FROM TUMBLE(orders, at, INTERVAL '5 seconds')
         GROUP BY user_id, window_start",
    ),
    (
        "orders_and_models",
        "",
        "SELECT o.n AS orders, s.n AS spans FROM (SELECT count(*) AS n FROM orders) AS o CROSS JOIN (SELECT count(*) AS n FROM spans) AS s",
    ),
];

/// Rows of which some are far ahead and in no view, some late.
pub async fn send_orders(opened: &Opened, number: u64) {
    let now_us = pyflare_dataflows::time::now_ms() as i64 * 1_000;
    let line = |index: i64| {
        let id = number as i64 * 10 + index;
        let at = now_us + [0, -7_000_000, 3_600_000_000, -33_000_000][index as usize];
        format!(
            "{{\"id\": {id}, \"at\": {at}, \"user_id\": \"user-{}\"}}\n",
            id % 3
        )
    };
    let rows = (0..4).map(line).collect::<String>().into_bytes();
    opened.append_rows("orders", ContentType::NdJson, rows).await;
}

pub fn definitions(opened: &Opened) -> Vec<MonitorDefinition> {
    let streams = opened.engine.streams();
    let scope = PlanScope {
        project: Some("default".into()),
        streams: streams.iter().map(|stream| stream.definition.clone()).collect(),
        ..PlanScope::default()
    };
    let planned = |(name, options, select): &(&str, &str, &str)| match pyflare_sql::parse(
        &format!("CREATE MONITOR more_{name} {options} AS {select}"),
        &scope,
    ) {
        Ok(Statement::CreateMonitor(create)) => create.definition,
        other => panic!("{name}: {other:?}"),
    };
    let cases = cases::all().into_iter().map(|case| case.definition);
    cases.chain(MORE.iter().map(planned)).collect()
}

fn in_the_past(definition: &MonitorDefinition, backfill_us: i64) -> MonitorDefinition {
    let mut past = definition.clone();
    past.name = format!("past_{}", definition.name);
    past.options.backfill_us = Some(backfill_us);
    past
}

fn relations(definition: &MonitorDefinition) -> Vec<ViewName> {
    let view = view_name(definition);
    let companions = Companion::ALL.map(|companion| ViewName {
        name: format!("{}{}", view.name, companion.suffix()),
        ..view.clone()
    });
    std::iter::once(view).chain(companions).collect()
}

fn followed(
    engine: &Engine,
    definition: &MonitorDefinition,
    stop: &watch::Receiver<bool>,
) -> Vec<tokio::task::JoinHandle<Transcript>> {
    let options = SubscribeOptions {
        snapshot: true,
        ..SubscribeOptions::default()
    };
    let relations = relations(definition);
    relations
        .iter()
        .map(|name| follow(engine, name, options.clone(), stop.clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_begins_in_the_past_equals_one_that_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let engine = &opened.engine;
    engine.create_stream(declared(ORDERS)).await.unwrap();
    let definitions = definitions(&opened);
    let (stop, stopped) = watch::channel(false);
    let mut there = Vec::new();
    for definition in &definitions {
        engine.install(definition.clone(), false).await.unwrap();
        there.push(followed(engine, definition, &stopped));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let base = first_time();
    for block in 0..6 {
        send(&opened, base, block * 8..block * 8 + 8).await;
        send_orders(&opened, block).await;
        if block == 1 || block == 3 {
            opened.admitted(block * 8).await;
            engine.flush().await.unwrap();
        }
    }
    // While rows go on coming, the past is stored, then in memory, then new.
    let coming = async {
        for block in 6..10 {
            send(&opened, base, block * 8..block * 8 + 8).await;
            send_orders(&opened, block).await;
        }
    };
    let installing = async {
        let mut past = Vec::new();
        for (number, definition) in definitions.iter().enumerate() {
            // Each begins before the one before, so that none reads what that one keeps.
            let definition = in_the_past(definition, HOUR_US + number as i64 * 60_000_000);
            let view = engine.install(definition.clone(), false).await;
            let view = view.unwrap_or_else(|error| panic!("{}: {error}", definition.name));
            assert!(
                view.start < view.installed_at - 1_000,
                "{} begins in the past",
                definition.name
            );
            past.push((view.installed_at, followed(engine, &definition, &stopped)));
        }
        past
    };
    let ((), past) = tokio::join!(coming, installing);
    assert!(engine.backfills().is_empty());
    opened.admitted(80 + 10).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let brief = ViewName::of_project("default", "past_brief");
    while !opened.content(&brief).await.is_empty() {
        assert!(Instant::now() < deadline, "panes of the past expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let last = engine.status().complete_tick;
    stop.send(true).unwrap();
    let mut transcripts: Vec<(ViewName, Transcript)> = Vec::new();
    let (mut compared, mut shown, mut left_out) = (0, 0, 0);
    for ((definition, there), (installed_at, past)) in definitions.iter().zip(there).zip(past) {
        for ((name, there), past) in relations(definition).iter().zip(there).zip(past) {
            let (there, past) = (there.await.unwrap(), past.await.unwrap());
            // Short retentions begin together, and bases that others have tell a new reader only what they leave out from
            // then on.
            if definition.retention_us() < HOUR_US && name.name.contains('$') {
                continue;
            }
            let (expected, found) = (there.contents(last), past.contents(last));
            let ticks = expected.keys().chain(found.keys());
            let empty = Default::default();
            for tick in ticks
                .copied()
                .filter(|tick| *tick >= *found.keys().next().unwrap())
            {
                let at = |contents: &std::collections::BTreeMap<u64, crate::bed::Content>| {
                    contents
                        .range(..=tick)
                        .next_back()
                        .map_or(&empty, |(_, content)| content)
                        .clone()
                };
                let (expected, found) = (at(&expected), at(&found));
                assert!(
                    expected == found,
                    "{name} at tick {tick}, installed at {installed_at}: {}",
                    difference(&past.schema, &found, &expected)
                );
                compared += 1;
                shown += found.len();
                left_out += if name.name.contains('$') { found.len() } else { 0 };
            }
            let past_name = ViewName {
                name: format!("past_{}", name.name),
                ..name.clone()
            };
            transcripts.push((past_name, past));
        }
    }
    opened.shutdown();
    assert!(
        compared > 100 && shown > 10_000,
        "{compared} contents of {shown} rows compared"
    );
    assert!(left_out > 0, "{left_out} rows of companions");

    for workers in [1, 2, 4] {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        let replayed = open(copy.path(), workers);
        let again = transcripts.iter().map(|(name, transcript)| {
            let engine = &replayed.engine;
            async move { (name, transcript, again(engine, name, &transcript.frames[0]).await) }
        });
        for (name, transcript, replay) in join_all(again).await {
            transcript.assert_equals(&replay, last, &format!("{name} on {workers} workers"));
        }
        replayed.shutdown();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_begins_in_the_past_is_shared_and_refused_as_anything_else() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 1);
    let engine = &opened.engine;
    send(&opened, first_time(), 0..10).await;
    opened.admitted(10).await;
    let case = &cases::all()[0].definition;
    let mut definition = case.clone();
    definition.project = Some("default".into());
    definition.name = "first".into();
    definition.options.backfill_us = Some(HOUR_US);
    let first = engine.install(definition.clone(), false).await.unwrap();
    assert!(first.rows > 0, "it has rows at once");
    // What is there begins early enough.
    let mut second = definition.clone();
    second.name = "second".into();
    second.options.backfill_us = None;
    let second = engine.install(second, false).await.unwrap();
    assert_eq!(second.start, first.start, "the base is shared");
    let mut later = definition.clone();
    later.name = "later".into();
    later.options.backfill_us = Some(1_000_000);
    assert_eq!(engine.install(later, false).await.unwrap().start, first.start);

    let again = engine.install(definition.clone(), false).await;
    assert!(matches!(again, Err(EngineError::Exists { .. })), "{again:?}");
    let replaced = engine.install(definition.clone(), true).await.unwrap();
    assert!(replaced.installed_at > first.installed_at);
    assert_eq!(replaced.start, first.start, "its own base is old enough");

    let mut many = definition.clone();
    many.name = "many".into();
    many.plan = cases::planned("CREATE MONITOR rows AS SELECT span_id FROM spans").plan;
    many.options.max_rows = Some(20);
    let refused = engine.install(many.clone(), false).await.unwrap_err();
    assert_eq!(refused.code(), "PF-3016");
    assert!(refused.to_string().contains("max_rows = 20"), "{refused}");
    assert!(engine.backfills().is_empty());
    many.options.max_rows = None;
    assert_eq!(engine.install(many, false).await.unwrap().rows, 400);
    let over = crate::graph::planned(engine, "over", "SELECT count(*) AS n FROM first").unwrap();
    let mut over_views = over;
    over_views.options.backfill_us = Some(HOUR_US);
    let refused = engine.install(over_views, false).await.unwrap_err();
    assert!(refused.to_string().contains("only views"), "{refused}");
    opened.shutdown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_store_nothing_begins_in_the_past() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(LogOptions {
        directory: directory.path().join("log"),
        min_free_bytes: 0,
        ..LogOptions::default()
    })
    .unwrap();
    let tick_log = FileTickLog::open(directory.path().join("ticks")).unwrap();
    let catalog = FileCatalog::open(directory.path().join("catalog")).unwrap();
    let runtime = tokio::runtime::Handle::current();
    let options = EngineOptions::new(log, tick_log, catalog, None, runtime);
    let engine = tokio::task::block_in_place(|| Engine::start(options)).unwrap();
    let definition = in_the_past(&cases::all()[0].definition, HOUR_US);
    let refused = engine.install(definition, false).await.unwrap_err();
    assert_eq!(refused.code(), "PF-3016");
    assert!(refused.to_string().contains("store.url"), "{refused}");
    tokio::task::block_in_place(|| engine.shutdown());
}
