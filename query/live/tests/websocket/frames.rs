//! Frames: a snapshot, what follows on it, and going on after a break.

use std::time::Duration;

use pyflare_live::LiveLimits;
use pyflare_live::memory::{Changes, MemoryEngine};
use serde_json::json;

use super::client::*;

#[tokio::test]
async fn frames_follow_on_from_a_snapshot() {
    let server = Server::default().await;
    server.add("blue", 1, 2);
    let mut socket = server.connect().await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "live.requests", "progress": true}),
    )
    .await;
    assert_eq!(
        receive(&mut socket).await,
        json!({"type": "schema", "id": "a", "columns": [
            {"name": "project", "type": "Utf8", "key": true},
            {"name": "window_start", "type": "Timestamp(µs, UTC)", "key": true},
            {"name": "requests", "type": "Int64", "key": false},
            {"name": "rate", "type": "Float64", "key": false},
        ]})
    );
    let mut copy = Copy::default();
    copy.apply(&receive(&mut socket).await);
    assert_eq!(copy.resets, 1);
    copy.check(&server);
    for step in 0..50i64 {
        let changes: Changes = (0..step % 4)
            .map(|index| row("blue", index, if step % 3 == 0 && step > 3 { -1 } else { 2 }))
            .collect();
        server.engine.tick(&[(&server.view, changes)]);
        tokio::time::sleep(Duration::from_millis(u64::try_from(step % 3).unwrap() * 5)).await;
    }
    copy.follow_to(&mut socket, server.engine.upper()).await;
    copy.check(&server);
    assert_eq!(copy.resets, 1);
}

#[tokio::test]
async fn progress_comes_at_most_four_times_a_second_and_only_when_asked_for() {
    let server = Server::default().await;
    let mut socket = server.connect().await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "quiet", "view": "requests"}),
    )
    .await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "told", "view": "requests", "progress": true}),
    )
    .await;
    for _ in 0..4 {
        receive(&mut socket).await;
    }
    let begun = std::time::Instant::now();
    for _ in 0..60 {
        server.engine.tick(&[]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let periods = usize::try_from(begun.elapsed().as_millis() / 250).unwrap() + 2;
    server.add("end", 1, 1);
    let (mut progress, mut done) = (0, 0);
    while done < 2 {
        let frame = receive(&mut socket).await;
        if frame["rows"].as_array().unwrap().is_empty() {
            assert_eq!(frame["id"], "told");
            progress += 1;
        } else {
            done += 1;
        }
    }
    assert!(
        (2..=periods).contains(&progress),
        "{progress} of at most {periods}"
    );
}

#[tokio::test]
async fn a_resumed_subscription_goes_on_where_it_stood() {
    let server = Server::default().await;
    let mut copy = Copy::default();
    let mut socket = server.connect().await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "requests"}),
    )
    .await;
    receive(&mut socket).await;
    server.add("blue", 1, 1);
    copy.follow_to(&mut socket, server.engine.upper()).await;
    drop(socket);
    for count in 0..10 {
        server.add("blue", count, 1);
    }
    let mut socket = server.connect().await;
    let message = json!({"type": "subscribe", "id": "b", "view": "requests", "resume": copy.resume});
    send(&mut socket, message).await;
    receive(&mut socket).await;
    copy.follow_to(&mut socket, server.engine.upper()).await;
    copy.check(&server);
    assert_eq!(copy.resets, 1, "only the first snapshot");
}

#[tokio::test]
async fn a_token_that_is_expired_or_nonsense_starts_with_a_reset() {
    let server = Server::start(MemoryEngine::new(4, 16), LiveLimits::default()).await;
    for count in 0..20 {
        server.add("blue", count, 1);
    }
    for token in [
        "1-1000",
        "9-1",
        "",
        "-",
        "1-",
        "\u{0}",
        "1-99999999999999999999",
        "1-18446744073709551615",
    ] {
        let mut socket = server.connect().await;
        send(
            &mut socket,
            json!({"type": "subscribe", "id": "a", "view": "requests", "resume": token}),
        )
        .await;
        receive(&mut socket).await;
        let mut copy = Copy::default();
        copy.apply(&receive(&mut socket).await);
        assert_eq!(copy.resets, 1, "{token:?}");
        copy.check(&server);
    }
}
