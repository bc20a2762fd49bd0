//! The pages and the WebSocket, behind the same door as the API.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures::{SinkExt, Stream, StreamExt};
use pyflare_live::memory::Cell;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::server::{Server, limits_of, queries_of};

#[tokio::test]
async fn the_ui_is_served_with_its_headers() {
    let server = Server::new();
    let page = server.get("/").await;
    assert_eq!(
        (page.status.as_u16(), page.header("cache-control")),
        (200, "no-cache")
    );
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(
        page.header("content-security-policy")
            .contains("script-src 'self'")
    );
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let deep = server.get("/traces/whatever").await;
    assert_eq!(deep.body, page.body);
    let request = Request::get("/").header("if-none-match", page.header("etag"));
    let unchanged = server.send(request, Body::empty()).await;
    assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0));
    assert_eq!(
        server.get("/assets/old-hash.js").await.problem(),
        (404, "PF-5001".into())
    );
    assert_eq!(server.get("/../../../etc/passwd").await.body, page.body);
    assert_eq!(
        server.send(Request::post("/"), Body::empty()).await.problem(),
        (405, "PF-5002".into())
    );
}

#[tokio::test]
async fn the_websocket_is_behind_the_same_door() {
    let server = Server::with(queries_of(50), limits_of(50));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = server
        .router
        .clone()
        .into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    let url = format!("ws://{address}/api/v1/live?project=red");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let subscribe = json!({"type": "subscribe", "id": "a", "view": "requests"}).to_string();
    socket.send(subscribe.into()).await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "schema");
    let frame = next(&mut socket).await;
    assert_eq!(
        frame["rows"],
        json!([[1, "red", "1970-01-01T00:00:00.000000Z", 7, "Infinity"]])
    );
    // Longer than any other request may take.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let row = vec![
        Cell::Text("red".into()),
        Cell::Time(0),
        Cell::Int(8),
        Cell::Float(2.5f64.to_bits()),
    ];
    server.engine.tick(&[(&server.requests, vec![(row, 1)])]);
    let frame = next(&mut socket).await;
    assert_eq!(
        frame["rows"],
        json!([[1, "red", "1970-01-01T00:00:00.000000Z", 8, 2.5]])
    );
    assert_eq!(server.live.open_connections(), 1);
}

/// The next message; a ping is none.
async fn next<S: Stream<Item = Result<Message, tungstenite::Error>> + Unpin>(socket: &mut S) -> Value {
    loop {
        if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}
