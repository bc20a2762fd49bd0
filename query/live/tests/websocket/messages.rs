//! What clients send: garbage, too much of it, and many subscriptions at once.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use pyflare_live::LiveLimits;
use pyflare_live::memory::MemoryEngine;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::client::*;

#[tokio::test]
async fn garbage_is_answered_and_the_socket_goes_on() {
    let server = Server::default().await;
    let mut socket = server.connect().await;
    let deep = "[".repeat(20_000);
    for text in [
        "",
        "nonsense",
        "[]",
        &deep,
        r#"{"type":"subscribe","id":"x"}"#,
        r#"{"type":"unsubscribe","id":"x"}"#,
    ] {
        socket.send(Message::Text(text.into())).await.unwrap();
        let answer = receive(&mut socket).await;
        assert_eq!(answer["type"], "error", "{answer}");
        assert!(answer["code"].as_str().unwrap().starts_with("PF-50"), "{answer}");
    }
    socket
        .send(Message::Binary(vec![0, 159, 146, 150].into()))
        .await
        .unwrap();
    assert_eq!(receive(&mut socket).await["code"], "PF-5015");
    let hostile = "\"; DROP\u{0}\u{202e}\n\\";
    send(
        &mut socket,
        json!({"type": "subscribe", "id": hostile, "view": hostile}),
    )
    .await;
    let answer = receive(&mut socket).await;
    assert_eq!(
        (&answer["code"], &answer["id"]),
        (&json!("PF-5013"), &json!(hostile))
    );
    assert_eq!(answer["hint"], "there are: requests");
    // And still serves.
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "requests"}),
    )
    .await;
    assert_eq!(receive(&mut socket).await["type"], "schema");
    assert!(receive(&mut socket).await["reset"].as_bool().unwrap());
}

#[tokio::test]
async fn endless_garbage_ends_the_socket() {
    let server = Server::default().await;
    let mut socket = server.connect().await;
    for _ in 0..100 {
        socket.send(Message::Text("x".into())).await.unwrap();
    }
    assert_eq!(closed(&mut socket).await, 1008);
}

#[tokio::test]
async fn oversized_messages_close_politely() {
    let server = Server::default().await;
    let mut socket = server.connect().await;
    socket
        .send(Message::Text("x".repeat(100_000).into()))
        .await
        .unwrap();
    assert_eq!(receive(&mut socket).await["code"], "PF-5016");
    assert_eq!(closed(&mut socket).await, 1009);
    // Beyond what is read at all.
    let mut socket = server.connect().await;
    let _ = socket.send(Message::Text("x".repeat(4 << 20).into())).await;
    let last = tokio::time::timeout(Duration::from_secs(10), async {
        let mut last = None;
        while let Some(message) = socket.next().await {
            let broken = message.is_err();
            last = Some(message);
            if broken {
                break;
            }
        }
        last
    });
    assert!(last.await.is_ok(), "the socket stayed open");
    let again = server.connect().await;
    drop(again);
}

#[tokio::test]
async fn subscriptions_are_independent_and_their_ids_are_unique() {
    let limits = LiveLimits {
        subscriptions_per_connection: 2,
        ..LiveLimits::default()
    };
    let server = Server::start(MemoryEngine::default(), limits).await;
    let mut socket = server.connect().await;
    for id in ["a", "b"] {
        send(
            &mut socket,
            json!({"type": "subscribe", "id": id, "view": "requests", "int64": "string"}),
        )
        .await;
        assert_eq!(receive(&mut socket).await["type"], "schema");
        assert_eq!(receive(&mut socket).await["id"], id);
    }
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "requests"}),
    )
    .await;
    assert_eq!(receive(&mut socket).await["code"], "PF-5017");
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "c", "view": "requests"}),
    )
    .await;
    assert_eq!(receive(&mut socket).await["code"], "PF-5030");
    send(&mut socket, json!({"type": "unsubscribe", "id": "a"})).await;
    assert_eq!(
        receive(&mut socket).await,
        json!({"type": "end", "id": "a", "reason": "unsubscribed"})
    );
    server.add("blue", i64::MAX, 1);
    let frame = receive(&mut socket).await;
    assert_eq!(frame["id"], "b");
    assert_eq!(
        frame["rows"],
        json!([[
            1,
            "blue",
            "1970-01-01T00:00:00.000000Z",
            "9223372036854775807",
            "NaN"
        ]])
    );
    send(&mut socket, json!({"type": "unsubscribe", "id": "a"})).await;
    assert_eq!(receive(&mut socket).await["code"], "PF-5018");
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "requests"}),
    )
    .await;
    assert_eq!(receive(&mut socket).await["type"], "schema");
}
