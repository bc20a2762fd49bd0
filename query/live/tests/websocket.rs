//! `/api/v1/live` over a real socket, against the small engine in memory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, TimeUnit};
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use pyflare_live::memory::{Cell, Changes, MemoryEngine};
use pyflare_live::{Access, Failure, FailureKind, Live, LiveLimits, Scope, ViewName, Views, upgrade};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Server {
    engine: MemoryEngine,
    live: Live,
    address: SocketAddr,
    view: ViewName,
}

impl Server {
    async fn start(engine: MemoryEngine, limits: LiveLimits) -> Server {
        let view = engine
            .create(
                None,
                "requests",
                "CREATE MONITOR requests AS …",
                vec![
                    Field::new("project", DataType::Utf8View, false),
                    Field::new(
                        "window_start",
                        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                        false,
                    ),
                    Field::new("requests", DataType::Int64, false),
                    Field::new("rate", DataType::Float64, true),
                ],
                vec![0, 1],
            )
            .name
            .clone();
        let live = Live::new(Arc::new(engine.clone()), limits);
        let handle = live.clone();
        let route = any(
            move |ConnectInfo(peer): ConnectInfo<SocketAddr>,
                  Query(query): Query<BTreeMap<String, String>>,
                  headers: HeaderMap,
                  request: WebSocketUpgrade| async move {
                let project = query.get("project").map(String::as_str);
                upgrade(&handle, &Access::open(), &headers, Some(peer), project, request).unwrap_or_else(
                    |error| -> Response { (StatusCode::FORBIDDEN, error.0.code).into_response() },
                )
            },
        );
        let router = Router::new().route("/api/v1/live", route);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            axum::serve(
                listener,
                router.into_make_service_with_connect_info::<SocketAddr>(),
            )
            .await
            .unwrap();
        });
        Server {
            engine,
            live,
            address,
            view,
        }
    }

    async fn default() -> Server {
        Server::start(MemoryEngine::default(), LiveLimits::default()).await
    }

    async fn connect(&self) -> Socket {
        self.connect_to("").await
    }

    async fn connect_to(&self, query: &str) -> Socket {
        connect_async(format!("ws://{}/api/v1/live{query}", self.address))
            .await
            .unwrap()
            .0
    }

    fn add(&self, project: &str, count: i64, diff: i64) {
        self.engine.tick(&[(&self.view, vec![row(project, count, diff)])]);
    }
}

fn row(project: &str, count: i64, diff: i64) -> (Vec<Cell>, i64) {
    (
        vec![
            Cell::Text(project.to_string()),
            Cell::Time(0),
            Cell::Int(count),
            Cell::Float(f64::NAN.to_bits()),
        ],
        diff,
    )
}

async fn send(socket: &mut Socket, message: Value) {
    socket
        .send(Message::Text(message.to_string().into()))
        .await
        .unwrap();
}

/// The next text message, as JSON.
async fn receive(socket: &mut Socket) -> Value {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next())
            .await
            .expect("nothing came in 10 s");
        match message.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
            Message::Close(frame) => panic!("closed: {frame:?}"),
            _ => {}
        }
    }
}

/// The close code, after whatever else comes.
async fn closed(socket: &mut Socket) -> u16 {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next())
            .await
            .expect("no close in 10 s");
        match message {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("no close frame: {other:?}"),
        }
    }
}

/// What a client keeps: the multiset it was told of, and how far.
#[derive(Default)]
struct Copy {
    rows: BTreeMap<String, i64>,
    upper: Option<u64>,
    resume: String,
    resets: usize,
}

impl Copy {
    fn apply(&mut self, frame: &Value) {
        assert_eq!(frame["type"], "frame", "{frame}");
        let (lower, upper) = (frame["lower"].as_u64().unwrap(), frame["upper"].as_u64().unwrap());
        if frame["reset"].as_bool().unwrap() {
            self.rows.clear();
            self.resets += 1;
        } else if let Some(before) = self.upper {
            assert_eq!(lower, before, "a gap or an overlap");
        }
        for entry in frame["rows"].as_array().unwrap() {
            let (diff, row) = entry.as_array().unwrap().split_first().unwrap();
            let diff = diff.as_i64().unwrap();
            assert_ne!(diff, 0);
            let count = self.rows.entry(serde_json::to_string(row).unwrap()).or_default();
            *count += diff;
            if *count == 0 {
                self.rows.remove(&serde_json::to_string(row).unwrap());
            }
        }
        self.upper = Some(upper);
        self.resume = frame["resume"].as_str().unwrap().to_string();
    }

    async fn follow_to(&mut self, socket: &mut Socket, upper: u64) {
        while self.upper.is_none_or(|mine| mine < upper) {
            let frame = receive(socket).await;
            self.apply(&frame);
        }
    }

    /// Compares with the engine's own content, the oracle.
    fn check(&self, server: &Server) {
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for row in server.engine.content(&server.view) {
            let [Cell::Text(project), _, Cell::Int(count), _] = &row[..] else {
                panic!("{row:?}")
            };
            let text = json!([project, "1970-01-01T00:00:00.000000Z", count, "NaN"]).to_string();
            *expected.entry(text).or_default() += 1;
        }
        assert_eq!(self.rows, expected);
    }
}

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

#[tokio::test]
async fn a_query_lives_as_long_as_its_subscription() {
    let server = Server::default().await;
    server.add("blue", 1, 3);
    let mut socket = server.connect().await;
    let sql = "SELECT count(*) AS n FROM requests";
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "q", "sql": sql, "resume": "1-1000"}),
    )
    .await;
    assert_eq!(
        receive(&mut socket).await["columns"],
        json!([{"name": "n", "type": "Int64", "key": false}])
    );
    let frame = receive(&mut socket).await;
    assert_eq!(
        (&frame["reset"], &frame["rows"]),
        (&json!(true), &json!([[1, 3]]))
    );
    server.add("blue", 2, 4);
    let frame = receive(&mut socket).await;
    assert_eq!(frame["rows"], json!([[-1, 3], [1, 7]]));
    assert_eq!(temporary(&server), 1);
    // Nobody else can subscribe to it by its name.
    let name = server
        .engine
        .views()
        .iter()
        .find(|view| view.temporary)
        .unwrap()
        .name
        .name
        .clone();
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "thief", "view": name}),
    )
    .await;
    assert_eq!(receive(&mut socket).await["code"], "PF-5013");
    send(&mut socket, json!({"type": "unsubscribe", "id": "q"})).await;
    assert_eq!(receive(&mut socket).await["type"], "end");
    assert_eq!(temporary(&server), 0);
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "q", "sql": "SELECT median(x) FROM requests"}),
    )
    .await;
    let refused = receive(&mut socket).await;
    assert_eq!(
        (&refused["type"], &refused["code"]),
        (&json!("error"), &json!("PF-4010"))
    );
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "q", "sql": sql, "view": "requests"}),
    )
    .await;
    assert_eq!(receive(&mut socket).await["code"], "PF-5019");
    // A connection that vanishes leaves nothing behind either.
    send(&mut socket, json!({"type": "subscribe", "id": "q", "sql": sql})).await;
    receive(&mut socket).await;
    drop(socket);
    eventually(|| temporary(&server) == 0 && server.live.open_connections() == 0).await;
}

fn temporary(server: &Server) -> usize {
    server.engine.views().iter().filter(|view| view.temporary).count()
}

async fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not happen in 5 s");
}

#[tokio::test]
async fn a_dropped_monitor_ends_its_subscriptions() {
    let server = Server::default().await;
    let view = server
        .engine
        .install("default", "mine", "SELECT count(*) AS n FROM requests", false)
        .unwrap();
    let mut socket = server.connect().await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "mine"}),
    )
    .await;
    receive(&mut socket).await;
    receive(&mut socket).await;
    server.engine.drop_view(&view.name).unwrap();
    let end = receive(&mut socket).await;
    assert_eq!(
        (&end["type"], &end["reason"]),
        (&json!("end"), &json!("the monitor was dropped"))
    );
}

#[tokio::test]
async fn a_project_sees_its_own_rows_and_monitors_only() {
    let server = Server::default().await;
    server.add("blue", 1, 1);
    server.add("red", 2, 1);
    server
        .engine
        .install("red", "secret", "SELECT count(*) AS n FROM requests", false)
        .unwrap();
    let mut socket = server.connect_to("?project=blue").await;
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "a", "view": "requests"}),
    )
    .await;
    receive(&mut socket).await;
    let frame = receive(&mut socket).await;
    assert_eq!(
        frame["rows"],
        json!([[1, "blue", "1970-01-01T00:00:00.000000Z", 1, "NaN"]])
    );
    send(
        &mut socket,
        json!({"type": "subscribe", "id": "s", "view": "secret"}),
    )
    .await;
    let refused = receive(&mut socket).await;
    assert_eq!(
        (&refused["code"], &refused["hint"]),
        (&json!("PF-5013"), &json!("there are: requests"))
    );
    server.add("red", 3, 1);
    server.add("blue", 4, 1);
    let frame = receive(&mut socket).await;
    assert_eq!(
        frame["rows"],
        json!([[1, "blue", "1970-01-01T00:00:00.000000Z", 4, "NaN"]])
    );
}

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

fn refusal<T>(outcome: Result<T, Error>) -> String {
    match outcome.map(|_| ()) {
        Err(Error::Http(response)) => String::from_utf8(response.into_body().unwrap()).unwrap(),
        other => panic!("{other:?}"),
    }
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
