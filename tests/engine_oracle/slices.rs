//! Graphs that are fed in slices before they are installed: from then on they show what one shows that was there from the
//! first row on, and what a replay shows that feeds it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use pyflare_dataflows::{EngineError, MonitorDefinition, SubscribeOptions, ViewName};
use tokio::sync::watch;

use crate::bed::{Content, copy_directory, difference, open, open_with, view_name};
use crate::frames::{Transcript, again, follow};
use crate::graph::planned;
use crate::{first_time, send};

/// Over bases and views that are there.
const GRAPHS: &[(&str, &str)] = &[
    (
        "joined",
        "SELECT a.user_id, a.model, a.n, b.n AS of_user FROM (SELECT user_id, model, count(*) AS n FROM spans GROUP BY user_id, model) AS a
         LEFT JOIN (SELECT user_id, count(*) AS n FROM spans WHERE output_tokens > 200 GROUP BY user_id) AS b ON a.user_id = b.user_id",
    ),
    (
        "nested",
        "SELECT n, count(*) AS groups, max(user_id) AS one FROM (SELECT user_id, model, count(*) AS n FROM spans GROUP BY user_id, model) GROUP BY n",
    ),
    (
        "highest",
        "SELECT span_id, duration_ns FROM spans WHERE output_tokens > 100 ORDER BY duration_ns DESC, span_id LIMIT 7",
    ),
    (
        "failing",
        "SELECT user_id, 1000 / (n % 2) AS share FROM (SELECT user_id, max(n) AS n
         FROM (SELECT user_id, model, count(*) AS n FROM spans GROUP BY user_id, model) GROUP BY user_id)",
    ),
    (
        "either",
        "SELECT 'user' AS kind, user_id AS name, count(*) AS n FROM spans GROUP BY user_id
         UNION ALL SELECT 'model', model, count(*) FROM spans GROUP BY model",
    ),
    (
        "brief",
        "SELECT a.window_start, a.n, b.worst FROM
         (SELECT window_start, count(*) AS n FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY window_start) AS a
         JOIN (SELECT window_start, max(duration_ns) AS worst FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY window_start) AS b
         ON a.window_start = b.window_start",
    ),
    ("over_a_view", "SELECT model, sum(n) AS n, count(*) AS users FROM joined GROUP BY model"),
];

fn relations(definition: &MonitorDefinition) -> [ViewName; 2] {
    let view = view_name(definition);
    let errors = ViewName {
        name: format!("{}$errors", view.name),
        ..view.clone()
    };
    [view, errors]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_that_is_fed_in_slices_equals_one_that_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open_with(directory.path(), 2, |options| options.slice_rows = 2);
    let engine = &opened.engine;
    let (stop, stopped) = watch::channel(false);
    let followed = |definition: &MonitorDefinition| {
        let options = SubscribeOptions {
            snapshot: true,
            ..SubscribeOptions::default()
        };
        relations(definition).map(|name| follow(engine, &name, options.clone(), stopped.clone()))
    };
    let mut there = Vec::new();
    for (name, select) in GRAPHS {
        let mut definition = planned(engine, name, select).unwrap();
        if *name == "brief" {
            definition.options.retention_us = Some(100_000_000);
        }
        engine.install(definition.clone(), false).await.unwrap();
        there.push((definition.clone(), followed(&definition)));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let base = first_time();
    send(&opened, base, 0..40).await;
    opened.admitted(40).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let installing = async {
        let mut sliced = Vec::new();
        for (definition, _) in &there {
            let mut definition = definition.clone();
            definition.name = format!("sliced_{}", definition.name);
            let before = engine.status().tick;
            let view = engine.install(definition.clone(), false).await.unwrap();
            sliced.push((view.installed_at - before, followed(&definition)));
        }
        sliced
    };
    let (sliced, ()) = tokio::join!(installing, send(&opened, base, 40..80));
    opened.admitted(80).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last = engine.status().complete_tick;
    stop.send(true).unwrap();
    let mut transcripts: Vec<(ViewName, Transcript)> = Vec::new();
    let (mut compared, mut shown, mut failed) = (0, 0, 0);
    for ((definition, there), (waited, sliced)) in there.into_iter().zip(sliced) {
        for ((name, there), sliced) in relations(&definition).into_iter().zip(there).zip(sliced) {
            let (there, sliced) = (there.await.unwrap(), sliced.await.unwrap());
            let (expected, found) = (there.contents(last), sliced.contents(last));
            let empty = Content::new();
            let first = *found.keys().next().unwrap();
            for tick in expected
                .keys()
                .chain(found.keys())
                .copied()
                .filter(|tick| *tick >= first)
            {
                let at = |contents: &BTreeMap<u64, Content>| {
                    contents
                        .range(..=tick)
                        .next_back()
                        .map_or(&empty, |(_, content)| content)
                        .clone()
                };
                let (expected, found) = (at(&expected), at(&found));
                assert!(
                    expected == found,
                    "{name} at tick {tick}, after {waited} ms: {}",
                    difference(&sliced.schema, &found, &expected)
                );
                compared += 1;
                shown += found.len();
                failed += if name.name.contains('$') { found.len() } else { 0 };
            }
            let sliced_name = ViewName {
                name: format!("sliced_{}", name.name),
                ..name
            };
            transcripts.push((sliced_name, sliced));
        }
    }
    opened.shutdown();
    assert!(
        compared > 100 && shown > 1_000 && failed > 0,
        "{compared} of {shown} rows, {failed} errors"
    );

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
async fn what_is_being_fed_holds_what_it_reads_and_is_stopped_by_its_limits() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open_with(directory.path(), 2, |options| options.slice_rows = 1);
    let engine = &opened.engine;
    let rows = planned(engine, "rows", "SELECT span_id, user_id FROM spans").unwrap();
    engine.install(rows.clone(), false).await.unwrap();
    send(&opened, first_time(), 0..20).await;
    opened.admitted(20).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let select = "SELECT a.span_id, b.n FROM rows AS a JOIN (SELECT user_id, count(*) AS n FROM rows GROUP BY user_id) AS b
                  ON a.user_id = b.user_id";
    let over = planned(engine, "over", select).unwrap();
    let other = planned(engine, "other", &format!("{select} WHERE b.n > 1")).unwrap();
    let starting = tokio::spawn({
        let (engine, over) = (engine.clone(), over.clone());
        async move { engine.install(over, false).await }
    });
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.install(other, false).await }
    });
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(!starting.is_finished(), "it is being fed");
    let held = engine.drop_monitor(&view_name(&rows)).await;
    assert!(matches!(held, Err(EngineError::InUse { .. })), "{held:?}");
    assert!(
        engine.view_named(&view_name(&over)).is_none(),
        "it is not there yet"
    );
    // Other ticks go on.
    let before = engine.status().rows[0];
    send(&opened, first_time(), 20..22).await;
    opened.admitted(22).await;
    assert!(
        engine.status().rows[0] > before && !starting.is_finished(),
        "rows come meanwhile"
    );
    let over = starting.await.unwrap().unwrap();
    let content = opened.content(&over.name).await;
    assert_eq!(content.values().sum::<i64>(), 22 * 40);
    assert!(
        !opened
            .content(&waiting.await.unwrap().unwrap().name)
            .await
            .is_empty()
    );

    let select = "SELECT count(*) AS pairs FROM rows AS a JOIN rows AS b ON a.user_id = b.user_id";
    let mut many = planned(engine, "many", select).unwrap();
    many.options.max_tick_rows = Some(1);
    engine.install(many.clone(), false).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while engine.view_named(&view_name(&many)).unwrap().stopped.is_none() {
        assert!(
            std::time::Instant::now() < deadline,
            "it makes too much and is stopped"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(opened.content(&over.name).await.values().sum::<i64>(), 22 * 40);
    opened.shutdown();
}
