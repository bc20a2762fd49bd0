//! Subscriptions that begin at a tick that has passed, or end before one.

use std::time::Duration;

use pyflare_dataflows::{Event, Frame, SubscribeOptions, Subscription, ViewName};
use tokio::sync::watch;

use crate::bed::{Content, Opened, add_rows, open, open_with, request, view_name};
use crate::cases::planned;
use crate::frames::{Transcript, follow};

/// All frames until the end that is promised, with its reason, or else through a tick.
async fn all(mut subscription: Subscription, through: u64) -> (Transcript, Option<String>) {
    let schema = subscription.schema();
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        let end = match subscription.next().await {
            Event::Frame(frame) => {
                let over = frame.upper > through;
                frames.push(frame);
                if !over {
                    continue;
                }
                None
            }
            Event::End { reason } => Some(reason),
            Event::Refused { reason, .. } => Some(format!("refused: {reason}")),
        };
        return (Transcript { schema, frames }, end);
    }
}

pub async fn told(
    opened: &Opened,
    name: &ViewName,
    options: SubscribeOptions,
) -> (Transcript, Option<String>) {
    let through = match options.up_to {
        Some(_) => u64::MAX,
        None => opened.engine.status().complete_tick,
    };
    let options = SubscribeOptions {
        progress: true,
        ..options
    };
    all(opened.engine.subscribe(name, options).unwrap(), through).await
}

pub fn added(transcript: &Transcript, from: Content) -> Content {
    let mut content = from;
    for Frame { batch, diffs, .. } in &transcript.frames {
        if let Some(batch) = batch {
            add_rows(&transcript.schema, batch, Some(diffs), &mut content);
        }
    }
    content
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_to_the_past_tells_what_was_then() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let definitions = [
        planned(
            "CREATE MONITOR calls AS SELECT model, count(*) AS calls, max(duration_ns) AS worst FROM spans GROUP BY model",
        ),
        planned(
            "CREATE MONITOR slowest AS SELECT s.span_id, s.model FROM spans AS s JOIN \
             (SELECT model, max(duration_ns) AS worst FROM spans GROUP BY model) AS m \
             ON s.model = m.model AND s.duration_ns = m.worst",
        ),
    ];
    let (stop, stopped) = watch::channel(false);
    let mut followed = Vec::new();
    for definition in &definitions {
        opened.engine.install(definition.clone(), false).await.unwrap();
        let options = SubscribeOptions {
            snapshot: true,
            ..SubscribeOptions::default()
        };
        followed.push(follow(
            &opened.engine,
            &view_name(definition),
            options,
            stopped.clone(),
        ));
    }
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 60_000_000_000;
    for number in 0..20 {
        opened
            .append(request(number, base + number * 1_000_000, 30))
            .await;
        opened.admitted(number + 1).await;
    }
    let complete = opened.admitted(20).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.send(true).unwrap();
    for (definition, follower) in definitions.iter().zip(followed) {
        let name = view_name(definition);
        let reference = follower.await.unwrap().contents(u64::MAX - 1);
        let last = reference.values().next_back().unwrap().clone();
        let ticks: Vec<u64> = reference.keys().copied().collect();
        assert!(ticks.len() > 4, "{} ticks changed {name}", ticks.len());
        for pair in ticks.windows(2) {
            // Also between two ticks that changed something.
            for at in [pair[0], pair[1] - 1] {
                let content = &reference[&pair[0]];
                for every_tick in [false, true] {
                    let begun = SubscribeOptions {
                        snapshot: true,
                        as_of: Some(at),
                        every_tick,
                        ..SubscribeOptions::default()
                    };
                    let (transcript, end) = told(&opened, &name, begun).await;
                    assert_eq!(end, None, "{name} as of {at}");
                    let first = &transcript.frames[0];
                    assert!(first.reset && first.upper == at + 1, "{name} as of {at}");
                    let snapshot = Transcript {
                        schema: transcript.schema.clone(),
                        frames: vec![first.clone()],
                    };
                    assert_eq!(&added(&snapshot, Content::new()), content, "{name} as of {at}");
                    assert_eq!(added(&transcript, Content::new()), last, "{name} from {at} on");
                    assert!(
                        transcript
                            .frames
                            .windows(2)
                            .all(|pair| pair[0].upper == pair[1].lower),
                        "{name}: frames follow on from {at}"
                    );
                }
                let after = SubscribeOptions {
                    as_of: Some(at),
                    ..SubscribeOptions::default()
                };
                let (changes, _) = told(&opened, &name, after).await;
                assert!(changes.frames.iter().all(|frame| !frame.reset));
                assert_eq!(added(&changes, content.clone()), last, "{name} after {at}");
                let ended = SubscribeOptions {
                    snapshot: true,
                    up_to: Some(at + 1),
                    ..SubscribeOptions::default()
                };
                let (before, end) = told(&opened, &name, ended).await;
                assert!(end.is_some_and(|end| end.contains("up_to")), "{name} up to {at}");
                assert_eq!(&added(&before, Content::new()), content, "{name} up to {at}");
                let both = SubscribeOptions {
                    snapshot: true,
                    as_of: Some(ticks[0]),
                    up_to: Some(at + 1),
                    ..SubscribeOptions::default()
                };
                let (between, end) = told(&opened, &name, both).await;
                assert!(end.is_some(), "{name} from the first tick to {at}");
                assert_eq!(
                    &added(&between, Content::new()),
                    content,
                    "{name} from the first tick to {at}"
                );
            }
        }
        for as_of in [1, complete + 1_000_000] {
            let asked = SubscribeOptions {
                snapshot: true,
                as_of: Some(as_of),
                ..SubscribeOptions::default()
            };
            let (nothing, end) = told(&opened, &name, asked).await;
            assert!(nothing.frames.is_empty(), "{name} as of {as_of}");
            assert!(
                end.is_some_and(|end| end.starts_with("refused")),
                "{name} as of {as_of}"
            );
        }
        // One that ends in a moment tells what comes until then, and nothing after.
        let upper = opened.engine.status().tick + 300;
        let options = SubscribeOptions {
            snapshot: true,
            up_to: Some(upper),
            ..SubscribeOptions::default()
        };
        let subscription = opened.engine.subscribe(&name, options).unwrap();
        let (transcript, _) = tokio::join!(all(subscription, u64::MAX), async {
            for number in 0..6 {
                let seed = 100 + number;
                opened.append(request(seed, base + seed * 1_000_000, 30)).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(transcript.1.is_some_and(|end| end.contains("up_to")));
        assert!(transcript.0.frames.iter().all(|frame| frame.upper <= upper));
    }
    opened.shutdown();
}

/// Who reads nothing until it is over gets, in place of what was lost, the content before the end; then the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_a_slow_reader_missed_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open_with(directory.path(), 2, |options| {
        options.tick_period = Duration::from_millis(2);
        options.idle_period = Duration::from_millis(2);
    });
    let definition = planned(
        "CREATE MONITOR calls WITH (lateness = '1 second') AS SELECT model, window_end, count(*) AS calls \
         FROM TUMBLE(spans, event_time, INTERVAL '2 seconds') GROUP BY model, window_end",
    );
    let name = view_name(&definition);
    opened.engine.install(definition, false).await.unwrap();
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 60_000_000_000;
    opened.append(request(0, base, 30)).await;
    opened.admitted(1).await;
    let up_to = opened.engine.status().tick + 1_500;
    let options = |closed_windows| SubscribeOptions {
        snapshot: true,
        progress: true,
        up_to: Some(up_to),
        closed_windows,
        ..SubscribeOptions::default()
    };
    let slow = [false, true].map(|closed| opened.engine.subscribe(&name, options(closed)).unwrap());
    for number in 1..30 {
        opened
            .append(request(number, base + number * 1_000_000_000, 30))
            .await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    while opened.engine.status().complete_tick < up_to + 100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (closed, subscription) in [false, true].into_iter().zip(slow) {
        let (transcript, end) = all(subscription, u64::MAX).await;
        assert!(end.is_some_and(|end| end.contains("up_to")), "closed: {closed}");
        let (place, last) = transcript.frames.iter().enumerate().next_back().unwrap();
        assert!(
            last.reset && last.upper == up_to && place > 100,
            "closed: {closed}, frame {place}, reset: {}, until {} of {up_to}",
            last.reset,
            last.upper
        );
        let lost = Transcript {
            schema: transcript.schema.clone(),
            frames: vec![last.clone()],
        };
        let (anew, _) = told(&opened, &name, options(closed)).await;
        let content = added(&lost, Content::new());
        assert!(content.len() > 5, "closed: {closed}, {} rows", content.len());
        assert!(content == added(&anew, Content::new()), "closed: {closed}");
    }
    opened.shutdown();
}
