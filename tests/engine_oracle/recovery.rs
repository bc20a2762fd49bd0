//! Starts from checkpoints: whatever was installed, whenever the process was killed and on any number of workers, every
//! view and companion shows from the checkpoint on what a replay of everything shows, frame by frame; also from an older
//! checkpoint where the newest is damaged. What was lost for good is told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::join_all;
use pyflare_connectors::TickLog;
use pyflare_dataflows::{
    Companion, Engine, EngineError, EngineOptions, Event, MonitorDefinition, SubscribeOptions, ViewName,
};
use pyflare_log::{FileCheckpoints, FileTickLog};
use pyflare_sql::Statement;

use crate::backfill::{ORDERS, definitions, send_orders};
use crate::bed::{Keeping, Opened, copy_directory, declared, open, open_with, request, view_name};
use crate::frames::Transcript;
use crate::graph::{FIRST, OVER_VIEWS, views_of};
use crate::{first_time, send};

const SECONDS: &str = "CREATE MONITOR visits AS SELECT user_id, window_start, window_end, count(*) AS calls, max(duration_ns) AS worst
     FROM SESSION(spans, event_time, INTERVAL '20 seconds') GROUP BY user_id, window_start, window_end";
const ENDED: &str = "CREATE MONITOR ended WITH (lateness = '1 second') AS SELECT user_id, window_start, window_end, count(*) AS calls
     FROM SESSION(spans, event_time, INTERVAL '1 second') GROUP BY user_id, window_start, window_end EMIT FINAL";
const STOPPED: &str =
    "CREATE MONITOR too_many WITH (max_rows = '3') AS SELECT span_id, duration_ns FROM spans";

fn planned(opened: &Opened, sql: &str) -> MonitorDefinition {
    match pyflare_sql::parse(sql, &views_of(&opened.engine)) {
        Ok(Statement::CreateMonitor(create)) => create.definition,
        other => panic!("{sql}: {other:?}"),
    }
}

/// The graph's cases under names of their own.
fn named_apart(text: &str) -> String {
    let statement = text.split("-- equal").next().unwrap_or(text).to_string();
    ["by_model", "over_view", "left_join", "not_in"]
        .iter()
        .fold(statement, |statement, name| {
            let words =
                statement.split_inclusive(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
            words
                .map(|word| {
                    let bare =
                        word.trim_end_matches(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
                    match bare == *name {
                        true => format!("graph_{word}"),
                        false => word.to_string(),
                    }
                })
                .collect()
        })
}

async fn install_all(opened: &Opened) {
    opened.engine.create_stream(declared(ORDERS)).await.unwrap();
    for definition in definitions(opened) {
        opened.engine.install(definition, false).await.unwrap();
    }
    for (name, select) in FIRST.iter().chain(OVER_VIEWS) {
        let sql = format!("CREATE MONITOR graph_{name} AS {}", named_apart(select));
        opened.engine.install(planned(opened, &sql), false).await.unwrap();
    }
    for sql in [SECONDS, ENDED, STOPPED] {
        opened.engine.install(planned(opened, sql), false).await.unwrap();
    }
}

pub fn recovering(directory: &Path, workers: usize, every: Duration) -> Opened {
    open_with(directory, workers, |options: &mut EngineOptions| {
        // The reference replays everything.
        options.log = Keeping::all_of(&options.log);
        options.checkpoints = Some(FileCheckpoints::open(directory.join("checkpoints")).unwrap());
        options.checkpoint_every = every;
        options.checkpoint_least_rows = 0;
    })
}

pub const NEVER: Duration = Duration::from_secs(3_600);

/// The ticks at which the checkpoints stand, the newest last.
fn checkpoints(directory: &Path) -> Vec<(PathBuf, u64)> {
    let folder = directory.join("checkpoints/manifests");
    let mut found: Vec<(PathBuf, u64)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let content = std::fs::read_to_string(&path).unwrap();
            let body: serde_json::Value = serde_json::from_str(content.split_once('\n').unwrap().1).unwrap();
            (path, body["tick"].as_u64().unwrap())
        })
        .collect();
    found.sort();
    found
}

fn last_tick(directory: &Path) -> u64 {
    let mut last = 0;
    let log = FileTickLog::open(directory.join("ticks")).unwrap();
    log.read(&mut |_, payload| {
        let record: serde_json::Value = serde_json::from_slice(payload).unwrap();
        last = record["tick"].as_u64().unwrap();
        Ok(())
    })
    .unwrap();
    last
}

/// From a tick on, or from its installation if that was later; nothing if what changed since is too much to be kept.
async fn told(engine: &Engine, name: &ViewName, tick: u64) -> Option<Transcript> {
    let as_of = engine.view_named(name).unwrap().installed_at.max(tick);
    let options = SubscribeOptions {
        snapshot: true,
        as_of: Some(as_of),
        every_tick: true,
        ..SubscribeOptions::default()
    };
    let mut subscription = engine.subscribe(name, options).unwrap();
    let schema = subscription.schema();
    let mut frames = Vec::new();
    loop {
        let patience = Duration::from_millis(if frames.is_empty() { 20_000 } else { 800 });
        let Ok(event) = tokio::time::timeout(patience, subscription.next()).await else {
            break;
        };
        match event {
            Event::Frame(frame) => frames.push(frame),
            Event::Refused { reason, .. } if reason.contains("no longer known") => return None,
            other => panic!("{name}: {other:?}"),
        }
    }
    Some(Transcript { schema, frames })
}

fn relations(engine: &Engine) -> BTreeSet<ViewName> {
    let of = |view: ViewName| {
        let companions = Companion::ALL.map(|companion| ViewName {
            name: format!("{}{}", view.name, companion.suffix()),
            ..view.clone()
        });
        std::iter::once(view).chain(companions)
    };
    engine
        .views()
        .iter()
        .flat_map(|view| of(view.name.clone()))
        .collect()
}

async fn transcripts(opened: &Opened, as_of: u64) -> Vec<(ViewName, Option<Transcript>)> {
    opened.engine.wait_complete(opened.engine.status().tick).await;
    let names = relations(&opened.engine);
    let told = names
        .into_iter()
        .map(|name| async move { (name.clone(), told(&opened.engine, &name, as_of).await) });
    join_all(told).await
}

/// What others may know of views, as far as it does not change while time passes.
fn described(engine: &Engine) -> Vec<String> {
    let views = engine.views();
    let described = views.iter().map(|view| {
        format!(
            "{} {} start {} installed {} late {} {:?}",
            view.name, view.incarnation, view.start, view.installed_at, view.late_rows, view.stopped
        )
    });
    described.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_from_a_checkpoint_equals_a_replay_of_everything() {
    let directory = tempfile::tempdir().unwrap();
    let opened = recovering(directory.path(), 2, Duration::from_millis(400));
    install_all(&opened).await;
    let base = first_time();
    let mut opened = Some(opened);
    let mut killed_at = Vec::new();
    for (round, workers) in [1, 4, 2, 1].into_iter().enumerate() {
        let round = round as u64;
        let running = opened.take().unwrap();
        send(&running, base, round * 20..round * 20 + 11).await;
        send_orders(&running, round).await;
        if round == 1 {
            let dropped = ViewName::of_project("default", "graph_steps");
            running.engine.drop_monitor(&dropped).await.unwrap();
            let shared = "CREATE MONITOR shared AS SELECT model, calls FROM
                (SELECT model, count(*) AS calls, max(duration_ns) AS worst FROM spans GROUP BY model) WHERE calls > 30";
            running
                .engine
                .install(planned(&running, shared), false)
                .await
                .unwrap();
        }
        if round == 2 {
            let replaced = "CREATE OR REPLACE MONITOR by_user AS SELECT user_id, count(*) AS n FROM spans GROUP BY user_id";
            running
                .engine
                .install(planned(&running, replaced), true)
                .await
                .unwrap();
        }
        send(&running, base, round * 20 + 11..round * 20 + 20).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        let before = killed_at.last().copied().unwrap_or(0);
        let is_behind = |running: &Opened| {
            let newest = running.engine.checkpoint_status();
            newest.is_none_or(|newest| newest.failure.is_some() || newest.tick <= before)
        };
        while is_behind(&running) {
            let status = running.engine.checkpoint_status();
            assert!(Instant::now() < deadline, "checkpoints are taken: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Some ticks follow the last checkpoint, some are only half done.
        for number in 0..=round {
            let seed = 1_000 + 10 * round + number;
            running
                .append(request(seed, base + seed * 2_000_000_000, 20))
                .await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        // As a kill does: nothing is drained or flushed.
        drop(running);
        killed_at.push(last_tick(directory.path()));
        opened = Some(recovering(directory.path(), workers, Duration::from_millis(400)));
        let restored = opened.as_ref().unwrap().engine.status().restored_tick;
        assert!(
            restored.is_some_and(|restored| restored > before),
            "round {round}: {restored:?}"
        );
    }
    drop(opened);
    let newest = checkpoints(directory.path());
    assert_eq!(newest.len(), 2, "two are kept: {newest:?}");
    let last = last_tick(directory.path());

    // The reference never saw a checkpoint.
    let whole = tempfile::tempdir().unwrap();
    copy_directory(directory.path(), whole.path());
    let replayed = open(whole.path(), 2);
    assert_eq!(replayed.engine.status().restored_tick, None);
    for (place, (_, tick)) in newest.iter().enumerate() {
        assert!(*tick < last, "something was admitted after {tick}");
        let expected = transcripts(&replayed, *tick).await;
        let known = || expected.iter().filter_map(|(_, told)| told.as_ref());
        let changes: usize = known().map(|told| told.frames.len() - 1).sum();
        assert!(changes > 50, "{changes} frames after the checkpoint");
        assert!(
            known().count() * 20 > expected.len() * 19,
            "{} of {}",
            known().count(),
            expected.len()
        );
        for workers in [1, 2, 4] {
            let copy = tempfile::tempdir().unwrap();
            copy_directory(directory.path(), copy.path());
            // The newer one is damaged: one step back.
            for (path, _) in &checkpoints(copy.path())[place + 1..] {
                let mut content = std::fs::read(path).unwrap();
                let at = content.len() / 2;
                content[at] ^= 1;
                std::fs::write(path, content).unwrap();
            }
            let restored = recovering(copy.path(), workers, NEVER);
            assert_eq!(restored.engine.status().restored_tick, Some(*tick));
            let found = transcripts(&restored, *tick).await;
            assert_eq!(found.len(), expected.len());
            for ((name, expected), (_, found)) in expected.iter().zip(&found) {
                let what = format!("{name} on {workers} workers after {tick}");
                let Some(expected) = expected else { continue };
                let found = found
                    .as_ref()
                    .unwrap_or_else(|| panic!("{what}: its changes are not known"));
                let snapshots = (&expected.frames[0], &found.frames[0]);
                assert!(
                    snapshots.0.batch == snapshots.1.batch && snapshots.0.diffs == snapshots.1.diffs,
                    "{what}: the content is {:?}, not {:?}",
                    snapshots.1.batch,
                    snapshots.0.batch
                );
                expected.assert_equals(found, last, &what);
            }
            if place == 1 {
                let both = (described(&restored.engine), described(&replayed.engine));
                assert_eq!(both.0.len(), both.1.len());
                for (restored, replayed) in both.0.iter().zip(&both.1) {
                    assert_eq!(restored, replayed, "{workers} workers");
                }
                // The mark goes on while time passes.
                let orders = |engine: &Engine| {
                    let streams = engine.streams();
                    let counts = streams.iter().map(|stream| {
                        let rows = (stream.rows, stream.rejected_rows, stream.future_rows);
                        (stream.table.clone(), rows)
                    });
                    counts.collect::<Vec<_>>()
                };
                assert_eq!(orders(&restored.engine), orders(&replayed.engine));
                let counted = |engine: &Engine| {
                    let status = engine.status();
                    (
                        status.requests,
                        status.duplicate_requests,
                        status.rows,
                        status.rejected_rows,
                    )
                };
                assert_eq!(counted(&restored.engine), counted(&replayed.engine));
            }
            // A body that was admitted before the checkpoint is known after it.
            let duplicates = restored.engine.status().duplicate_requests;
            restored
                .append(request(3, base + 90_000_000_000, crate::SPANS))
                .await;
            let deadline = Instant::now() + Duration::from_secs(10);
            while restored.engine.status().duplicate_requests == duplicates {
                assert!(Instant::now() < deadline, "a repeated body is recognised");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            drop(restored);
        }
    }
    drop(replayed);
}

/// What a start says that must fail.
fn refused(directory: &Path) -> String {
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| recovering(directory, 1, NEVER)));
    match opened {
        Ok(opened) => panic!("it started at {:?}", opened.engine.status().restored_tick),
        Err(panic) => *panic.downcast::<String>().unwrap(),
    }
}

fn refusal(directory: &Path) -> EngineError {
    let text = refused(directory);
    let reason = text.split("NoWayBack").nth(1).unwrap_or_else(|| panic!("{text}"));
    EngineError::NoWayBack {
        reason: reason.into(),
    }
}

/// Every file of the newest checkpoint, damaged in turn; then both; then ticks that are missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_and_never_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let opened = recovering(directory.path(), 1, NEVER);
    let definition = planned(
        &opened,
        "CREATE MONITOR calls AS SELECT model, count(*) AS calls FROM spans GROUP BY model",
    );
    let name = view_name(&definition);
    opened.engine.install(definition, false).await.unwrap();
    for number in 0..3 {
        opened.append(request(number, first_time(), 20)).await;
        opened.admitted(number + 1).await;
        opened.engine.checkpoint().await.unwrap();
    }
    let expected = opened.content(&name).await;
    drop(opened);
    let kept = checkpoints(directory.path());
    let (newest, older) = (kept[1].1, kept[0].1);
    let all_files: Vec<PathBuf> = walk(&directory.path().join("checkpoints"));
    // Two manifests, hashes of each, and groups, of which the older ones serve both.
    assert!(all_files.len() >= 6, "{all_files:?}");
    for file in &all_files {
        for damage in ["bit", "cut", "gone"] {
            let copy = tempfile::tempdir().unwrap();
            copy_directory(directory.path(), copy.path());
            let damaged = copy.path().join(file.strip_prefix(directory.path()).unwrap());
            let mut content = std::fs::read(&damaged).unwrap();
            match damage {
                "bit" => {
                    let at = content.len() * 2 / 3;
                    content[at] ^= 0x20;
                    std::fs::write(&damaged, content).unwrap();
                }
                "cut" => std::fs::write(&damaged, &content[..content.len() / 2]).unwrap(),
                _ => std::fs::remove_file(&damaged).unwrap(),
            }
            let restored = recovering(copy.path(), 2, NEVER);
            let at = restored.engine.status().restored_tick.unwrap();
            let name_of = file.display();
            assert!(at == newest || at == older, "{name_of}: {damage}");
            assert!(restored.content(&name).await == expected, "{name_of}: {damage}");
            drop(restored);
        }
    }
    // Without any checkpoint everything is replayed, as long as it is there.
    let copy = tempfile::tempdir().unwrap();
    copy_directory(directory.path(), copy.path());
    for file in walk(&copy.path().join("checkpoints")) {
        std::fs::write(file, b"nothing").unwrap();
    }
    let replayed = recovering(copy.path(), 2, NEVER);
    assert_eq!(replayed.engine.status().restored_tick, None);
    assert!(replayed.content(&name).await == expected);
    drop(replayed);
    // A tick log that ends before a checkpoint has lost ticks.
    std::fs::remove_dir_all(copy.path()).unwrap();
    copy_directory(directory.path(), copy.path());
    let ticks = copy.path().join("ticks/ticks.journal");
    let content = std::fs::read(&ticks).unwrap();
    std::fs::write(&ticks, &content[..content.len() / 4]).unwrap();
    let refused = refusal(copy.path());
    assert_eq!(refused.code(), "PF-3019");
    assert!(
        refused.to_string().contains("its end is damaged or missing"),
        "{refused}"
    );
}

/// Copies of a data directory that went on by themselves: what one of them has is not the other's, though their histories have
/// one name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_history_has_left_is_not_taken() {
    let one = tempfile::tempdir().unwrap();
    let opened = recovering(one.path(), 1, NEVER);
    let definition = planned(
        &opened,
        "CREATE MONITOR calls AS SELECT model, count(*) AS calls FROM spans GROUP BY model",
    );
    let name = view_name(&definition);
    opened.engine.install(definition, false).await.unwrap();
    let mut sent = 0;
    let mut go_on = async |opened: &Opened, first: u64, rounds: u64| {
        for number in first..first + rounds {
            opened.append(request(number, first_time(), 20)).await;
            sent += 1;
            opened.admitted(sent).await;
            opened.engine.checkpoint().await.unwrap();
        }
        sent
    };
    let before = go_on(&opened, 0, 2).await;
    drop(opened);
    let other = tempfile::tempdir().unwrap();
    copy_directory(one.path(), other.path());
    let older_store = tempfile::tempdir().unwrap();
    copy_directory(&one.path().join("tables"), &older_store.path().join("tables"));

    // One goes on for a little, the other for longer: its tick log reaches beyond the checkpoints of the first.
    let opened = recovering(one.path(), 1, NEVER);
    go_on(&opened, 10, 2).await;
    drop(opened);
    let opened = recovering(other.path(), 1, NEVER);
    let mut other_sent = before;
    for number in 20..26 {
        opened.append(request(number, first_time(), 30)).await;
        other_sent += 1;
        opened.admitted(other_sent).await;
        opened.engine.checkpoint().await.unwrap();
    }
    let expected = opened.content(&name).await;
    drop(opened);
    let own = checkpoints(other.path());

    // The newest by number are the first one's.
    let mixed = tempfile::tempdir().unwrap();
    copy_directory(other.path(), mixed.path());
    for (place, (manifest, _)) in checkpoints(one.path()).iter().enumerate() {
        let content = std::fs::read_to_string(manifest).unwrap();
        let mut body: serde_json::Value = serde_json::from_str(content.split_once('\n').unwrap().1).unwrap();
        let epoch = 90 + place as u64;
        body["epoch"] = epoch.into();
        let body = body.to_string();
        let head = serde_json::json!({"blake3": blake3::hash(body.as_bytes()).to_hex().to_string()});
        let name = format!("checkpoints/manifests/{epoch:020}.json");
        std::fs::write(mixed.path().join(name), format!("{head}\n{body}")).unwrap();
    }
    for file in walk(&one.path().join("checkpoints/state")) {
        let target = mixed.path().join(file.strip_prefix(one.path()).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        if !target.exists() {
            std::fs::copy(&file, target).unwrap();
        }
    }
    assert_eq!(checkpoints(mixed.path()).len(), own.len() + 2);
    let restored = recovering(mixed.path(), 2, NEVER);
    assert_eq!(
        restored.engine.status().restored_tick,
        Some(own.last().unwrap().1)
    );
    assert!(restored.content(&name).await == expected);
    drop(restored);

    // With a store that is older than the checkpoint there is no way on.
    std::fs::remove_dir_all(other.path().join("tables")).unwrap();
    copy_directory(&older_store.path().join("tables"), &other.path().join("tables"));
    let text = refused(other.path());
    assert!(text.contains("StoreOlder") && text.contains("spans"), "{text}");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(walk(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}
