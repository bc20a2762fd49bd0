//! Subscriptions to closed windows: at every tick the view restricted to `window_end ≤ W`, where no row is late what
//! `EMIT FINAL` shows, and the same when they are resumed, begun in the past or ended there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use pyflare_dataflows::{Frame, MonitorDefinition, Refusal, SubscribeOptions, ViewName};
use tokio::sync::watch;

use crate::bed::{Content, Opened, add_rows, as_batch, copy_directory, open, request, view_name};
use crate::cases::planned;
use crate::expected::Marks;
use crate::frames::{Transcript, follow};
use crate::past::{added, told};

/// Lateness, microseconds.
const LATENESS: i64 = 20_000_000;

fn monitor(name: &str, select: &str, emit: &str) -> MonitorDefinition {
    planned(&format!(
        "CREATE MONITOR {name} WITH (lateness = '20 seconds', retention = '4 minutes') AS {select} {emit}"
    ))
}

fn monitors() -> Vec<(MonitorDefinition, MonitorDefinition)> {
    let selects = [
        (
            "calls",
            "SELECT model, window_start, window_end, count(*) AS calls, max(duration_ns) AS worst
             FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY model, window_start, window_end",
        ),
        (
            "shares",
            "SELECT m.window_end, m.model, m.calls, a.calls AS all_calls FROM
             (SELECT model, window_end, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
              GROUP BY model, window_end) AS m JOIN
             (SELECT window_end, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY window_end)
              AS a ON m.window_end = a.window_end",
        ),
    ];
    let both = selects.map(|(name, select)| {
        let twin = format!("{name}_final");
        (
            monitor(name, select, "EMIT CHANGES"),
            monitor(&twin, select, "EMIT FINAL"),
        )
    });
    both.into()
}

/// The rows of windows that are closed at a watermark.
fn closed(schema: &SchemaRef, content: &Content, watermark: i64) -> Content {
    let mut all = Content::new();
    for (row, count) in content {
        let one = Content::from([(row.clone(), *count)]);
        let batch = as_batch(schema, &one);
        let ends = batch.column_by_name("window_end").unwrap();
        let ends = ends.as_primitive::<TimestampMicrosecondType>();
        let mask = ends
            .iter()
            .map(|end| Some(end.is_some_and(|end| end <= watermark)));
        let kept = filter_record_batch(&batch, &mask.collect()).unwrap();
        add_rows(schema, &kept, None, &mut all);
    }
    all
}

fn at(contents: &BTreeMap<u64, Content>, tick: u64) -> Content {
    let content = contents.range(..=tick).next_back();
    content.map_or_else(Content::new, |(_, content)| content.clone())
}

fn options() -> SubscribeOptions {
    SubscribeOptions {
        snapshot: true,
        ..SubscribeOptions::default()
    }
}

fn closed_windows() -> SubscribeOptions {
    SubscribeOptions {
        closed_windows: true,
        ..options()
    }
}

/// Event time runs six minutes; with `late`, some requests step back far beyond the lateness.
async fn send(opened: &Opened, late: bool) -> u64 {
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 1_800_000_000_000;
    for number in 0..36_u64 {
        let back = match number % 6 {
            2 => 12,
            5 if late => 95,
            _ => 0,
        };
        let start = base + (number * 10 + 120 - back) * 1_000_000_000;
        opened.append(request(number, start, 20)).await;
        opened.admitted(number + 1).await;
    }
    opened.admitted(36).await
}

struct Followed {
    name: ViewName,
    changes: Transcript,
    closed: Transcript,
    twin: Transcript,
}

async fn run(late: bool) -> (tempfile::TempDir, Opened, Vec<Followed>, u64) {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let (stop, stopped) = watch::channel(false);
    let mut followed = Vec::new();
    for (definition, twin) in monitors() {
        for definition in [&definition, &twin] {
            opened.engine.install(definition.clone(), false).await.unwrap();
        }
        let follow = |name: &ViewName, options| follow(&opened.engine, name, options, stopped.clone());
        let (name, twin) = (view_name(&definition), view_name(&twin));
        let changes = follow(&name, options());
        let closed = follow(&name, closed_windows());
        followed.push((name, changes, closed, follow(&twin, options())));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let last = send(&opened, late).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.send(true).unwrap();
    let mut transcripts = Vec::new();
    for (name, changes, closed, twin) in followed {
        transcripts.push(Followed {
            name,
            changes: changes.await.unwrap(),
            closed: closed.await.unwrap(),
            twin: twin.await.unwrap(),
        });
    }
    (directory, opened, transcripts, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_windows_are_the_restriction_at_every_tick() {
    for late in [false, true] {
        let (directory, opened, followed, last) = run(late).await;
        let marks = Marks::read(directory.path(), &"traces".into());
        for Followed {
            name,
            changes,
            closed: told,
            twin,
        } in &followed
        {
            let schema = &changes.schema;
            let (changes, told, twin) = (changes.contents(last), told.contents(last), twin.contents(last));
            let ticks: BTreeSet<u64> = changes.keys().chain(told.keys()).copied().collect();
            let (mut different, mut shown, mut revised) = (BTreeSet::new(), 0, 0);
            let mut before = Content::new();
            for tick in ticks {
                let watermark = marks.before(tick).map_or(i64::MIN, |mark| mark - LATENESS);
                let expected = closed(schema, &at(&changes, tick), watermark);
                let found = at(&told, tick);
                assert!(found == expected, "{name} at {tick}, late rows: {late}");
                if !late {
                    assert!(found == at(&twin, tick), "{name} at {tick} and EMIT FINAL");
                }
                revised += before.keys().filter(|row| !found.contains_key(*row)).count();
                shown = shown.max(found.len());
                different.insert(found.len());
                before = found;
            }
            assert!(
                shown > 10 && different.len() > 3,
                "{name}: {shown} rows, {different:?}"
            );
            assert!(
                !late || revised > 0,
                "{name}: windows leave, and late rows revise"
            );
        }
        opened.shutdown();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_windows_continue_begin_and_end_where_it_is_asked() {
    let (directory, opened, followed, last) = run(true).await;
    let mut tokens: Vec<(ViewName, Frame, Content)> = Vec::new();
    for Followed { name, closed, .. } in &followed {
        let contents = closed.contents(last);
        let end = at(&contents, last);
        let through = |frame: &Frame| frame.upper <= last + 1;
        for frame in closed.frames.iter().filter(|frame| through(frame)).step_by(7) {
            let (tick, content) = (frame.upper - 1, at(&contents, frame.upper - 1));
            for every_tick in [false, true] {
                let resumed = SubscribeOptions {
                    resume: Some(frame.resume.clone()),
                    up_to: Some(last + 1),
                    every_tick,
                    ..closed_windows()
                };
                let (rest, _) = told(&opened, name, resumed).await;
                assert!(
                    rest.frames.iter().all(|frame| !frame.reset),
                    "{name} after {tick}"
                );
                assert!(
                    rest.frames.first().is_none_or(|first| first.lower == frame.upper),
                    "{name} follows on"
                );
                assert!(added(&rest, content.clone()) == end, "{name} after {tick}");
            }
            let begun = SubscribeOptions {
                as_of: Some(tick),
                up_to: Some(tick + 1),
                ..closed_windows()
            };
            let (then, _) = told(&opened, name, begun).await;
            assert!(added(&then, Content::new()) == content, "{name} as of {tick}");
            let after = SubscribeOptions {
                snapshot: false,
                as_of: Some(tick),
                up_to: Some(last + 1),
                ..closed_windows()
            };
            let (rest, _) = told(&opened, name, after).await;
            assert!(rest.frames.iter().all(|frame| !frame.reset));
            assert!(
                added(&rest, content.clone()) == end,
                "{name} changes after {tick}"
            );
            let ended = SubscribeOptions {
                up_to: Some(tick + 1),
                ..closed_windows()
            };
            let (then, reason) = told(&opened, name, ended).await;
            assert!(reason.is_some_and(|reason| reason.contains("up_to")));
            assert!(added(&then, Content::new()) == content, "{name} up to {tick}");
            tokens.push((name.clone(), frame.clone(), content));
        }
        // A token of all changes does not say which windows were closed, and the other way round.
        let frame = &closed.frames[closed.frames.len() / 2];
        let all = SubscribeOptions {
            resume: Some(frame.resume.clone()),
            ..options()
        };
        let (all, _) = told(&opened, name, all).await;
        assert!(all.frames[0].reset, "{name}");
    }
    opened.shutdown();
    // After a crash too: ticks that a replay passes over have moved the watermark.
    let copy = tempfile::tempdir().unwrap();
    copy_directory(directory.path(), copy.path());
    let replayed = open(copy.path(), 1);
    replayed.admitted(0).await;
    for (name, frame, content) in tokens {
        let soon = SubscribeOptions {
            up_to: Some(replayed.engine.status().tick + 150),
            ..closed_windows()
        };
        let resumed = SubscribeOptions {
            resume: Some(frame.resume.clone()),
            ..soon.clone()
        };
        let ((rest, _), (anew, _)) =
            tokio::join!(told(&replayed, &name, resumed), told(&replayed, &name, soon));
        assert!(
            rest.frames.iter().all(|frame| !frame.reset),
            "{name} after a crash"
        );
        let (found, expected) = (added(&rest, content), added(&anew, Content::new()));
        assert!(found == expected, "{name} after {} and a crash", frame.upper - 1);
        let begun = SubscribeOptions {
            as_of: Some(frame.upper - 1),
            ..closed_windows()
        };
        let mut subscription = replayed.engine.subscribe(&name, begun).unwrap();
        match subscription.next().await {
            pyflare_dataflows::Event::Refused { refusal, .. } => assert_eq!(refusal, Refusal::Tick),
            other => panic!("what was closed before the crash is not known: {other:?}"),
        }
    }
    replayed.shutdown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_window_nothing_closes() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 1);
    let definition =
        planned("CREATE MONITOR models AS SELECT model, count(*) AS n FROM spans GROUP BY model");
    opened.engine.install(definition.clone(), false).await.unwrap();
    let name = view_name(&definition);
    let mut subscription = opened.engine.subscribe(&name, closed_windows()).unwrap();
    match subscription.next().await {
        pyflare_dataflows::Event::Refused { refusal, reason } => {
            assert_eq!(refusal, Refusal::NoWindow);
            assert!(reason.contains("window_end"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let both = SubscribeOptions {
        as_of: Some(1),
        resume: Some("x".into()),
        ..options()
    };
    let (nothing, end) = told(&opened, &name, both).await;
    assert!(nothing.frames.is_empty() && end.is_some_and(|end| end.contains("give one of them")));
    opened.shutdown();
}
