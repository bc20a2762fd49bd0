//! Slow and dead readers, limits, keys and the end of the server.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::StreamExt;
use pyflare_live::memory::{Changes, MemoryEngine};
use pyflare_live::{Access, Failure, FailureKind, Live, LiveLimits, Scope, upgrade};
use serde_json::json;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::client::*;

#[tokio::test]
async fn a_slow_reader_is_reset_and_ends_up_with_the_truth() {
    let limits = LiveLimits {
        queued_bytes: 64 * 1024,
        ..LiveLimits::default()
    };
    let server = Server::start(MemoryEngine::new(64, 4), limits).await;
    let mut socket = server.connect().await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "requests"}),
    )
    .await;
    assert_eq!(receive(&mut socket).await["type"], "schema");
    // Far more than the socket's buffers hold, while nobody reads.
    let wide = "w".repeat(20_000);
    for count in 0..2_000 {
        server.engine.tick(&[(
            &server.view,
            vec![
                row(&wide, count, 1),
                row(&wide, count - 5, if count < 5 { 1 } else { -1 }),
            ],
        )]);
        if count % 50 == 0 {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut copy = Copy::default();
    copy.follow_to(&mut socket, server.engine.upper()).await;
    copy.check(&server);
    assert!(copy.resets >= 2, "{} resets", copy.resets);
}

#[tokio::test]
async fn a_dead_reader_is_let_go() {
    let limits = LiveLimits {
        queued_bytes: 64 * 1024,
        write_timeout: Duration::from_millis(300),
        ping_interval: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(400),
        ..LiveLimits::default()
    };
    let server = Server::start(MemoryEngine::default(), limits).await;
    // One that reads lives on: its pongs are signs of life.
    let mut reading = server.connect().await;
    let reader = tokio::spawn(async move {
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        while let Ok(Some(message)) = tokio::time::timeout_at(until, reading.next()).await {
            assert!(!matches!(message.unwrap(), Message::Close(_)));
        }
    });
    // One that never reads does not answer pings.
    let mut dead = server.connect().await;
    send(
        &mut dead,
        json!({"type": "subscribe", "id": "a", "sql": "SELECT count(*) AS n FROM requests"}),
    )
    .await;
    eventually(|| server.live.open_connections() == 2 && temporary(&server) == 1).await;
    eventually(|| server.live.open_connections() == 1 && temporary(&server) == 0).await;
    reader.await.unwrap();
}

#[tokio::test]
async fn connections_are_limited_and_foreign_pages_are_refused() {
    let server = Server::start(
        MemoryEngine::default(),
        LiveLimits {
            connections: 1,
            ..LiveLimits::default()
        },
    )
    .await;
    let first = server.connect().await;
    let url = format!("ws://{}/api/v1/live", server.address);
    assert_eq!(refusal(connect_async(&url).await), "PF-5012");
    drop(first);
    eventually(|| server.live.open_connections() == 0).await;
    let mut request = url.as_str().into_client_request().unwrap();
    request
        .headers_mut()
        .insert("origin", "https://evil.example".parse().unwrap());
    assert_eq!(refusal(connect_async(request).await), "PF-5011");
    let mut request = url.as_str().into_client_request().unwrap();
    request
        .headers_mut()
        .insert("origin", format!("http://{}", server.address).parse().unwrap());
    assert!(connect_async(request).await.is_ok());
}

#[tokio::test]
async fn a_frame_above_the_limit_ends_that_subscription_only() {
    let server = Server::start(
        MemoryEngine::default(),
        LiveLimits {
            frame_rows: 10,
            ..LiveLimits::default()
        },
    )
    .await;
    let many: Changes = (0..11).map(|count| row("blue", count, 1)).collect();
    server.engine.tick(&[(&server.view, many)]);
    let mut socket = server.connect().await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "requests"}),
    )
    .await;
    receive(&mut socket).await;
    assert_eq!(receive(&mut socket).await["code"], "PF-5020");
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "sql": "SELECT count(*) AS n FROM requests"}),
    )
    .await;
    receive(&mut socket).await;
    assert_eq!(receive(&mut socket).await["rows"], json!([[1, 11]]));
}

#[tokio::test]
async fn a_shutdown_says_goodbye() {
    let server = Server::default().await;
    let mut socket = server.connect().await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "sql": "SELECT count(*) AS n FROM requests"}),
    )
    .await;
    receive(&mut socket).await;
    let live = server.live.clone();
    let stopping = tokio::spawn(async move { live.shutdown(Duration::from_secs(5)).await });
    assert_eq!(closed(&mut socket).await, 1001);
    stopping.await.unwrap();
    assert_eq!((server.live.open_connections(), temporary(&server)), (0, 0));
    assert_eq!(
        refusal(connect_async(format!("ws://{}/api/v1/live", server.address)).await),
        "PF-5027"
    );
}

#[tokio::test]
async fn a_page_shows_its_key_as_a_subprotocol() {
    let engine = MemoryEngine::default();
    let live = Live::new(Arc::new(engine), LiveLimits::default());
    let mut access = Access::open();
    access.open = false;
    access.keys = true;
    access.authorize =
        Arc::new(
            |headers, _peer| match headers.get("x-pyflare-key").map(|key| key.as_bytes()) {
                Some(b"pf_k\xc3\xa9y, with/odd=bytes") => Ok(Scope {
                    project: Some("blue".to_string()),
                }),
                _ => Err(Failure::new(
                    FailureKind::Unauthorized,
                    "PF-1001",
                    "a key is needed",
                )),
            },
        );
    let route = any(move |headers: HeaderMap, request: WebSocketUpgrade| async move {
        upgrade(&live, &access, &headers, None, None, request)
            .unwrap_or_else(|error| -> Response { (StatusCode::UNAUTHORIZED, error.0.code).into_response() })
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/", route))
            .await
            .unwrap()
    });
    let connect = |offered: &'static str| async move {
        let mut request = format!("ws://{address}/").into_client_request().unwrap();
        request
            .headers_mut()
            .insert("sec-websocket-protocol", offered.parse().unwrap());
        connect_async(request).await
    };
    let (_socket, answer) = connect("pyflare, pyflare.key.cGZfa8OpeSwgd2l0aC9vZGQ9Ynl0ZXM")
        .await
        .unwrap();
    // The key is not said back.
    assert_eq!(answer.headers()["sec-websocket-protocol"], "pyflare");
    for refused in ["pyflare", "pyflare, pyflare.key.cGZf", "pyflare, pyflare.key.!"] {
        match connect(refused).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{refused}"),
            other => panic!("{refused}: {other:?}"),
        }
    }
}
