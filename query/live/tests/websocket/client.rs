//! A server on the small engine, and a client that keeps what it is told.

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
use pyflare_live::memory::{Cell, MemoryEngine};
use pyflare_live::{Access, Live, LiveLimits, ViewName, Views, upgrade};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub struct Server {
    pub engine: MemoryEngine,
    pub live: Live,
    pub address: SocketAddr,
    pub view: ViewName,
}

impl Server {
    pub async fn start(engine: MemoryEngine, limits: LiveLimits) -> Server {
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

    pub async fn default() -> Server {
        Server::start(MemoryEngine::default(), LiveLimits::default()).await
    }

    pub async fn connect(&self) -> Socket {
        self.connect_to("").await
    }

    pub async fn connect_to(&self, query: &str) -> Socket {
        connect_async(format!("ws://{}/api/v1/live{query}", self.address))
            .await
            .unwrap()
            .0
    }

    pub fn add(&self, project: &str, count: i64, diff: i64) {
        self.engine.tick(&[(&self.view, vec![row(project, count, diff)])]);
    }
}

pub fn row(project: &str, count: i64, diff: i64) -> (Vec<Cell>, i64) {
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

pub async fn send(socket: &mut Socket, message: Value) {
    socket
        .send(Message::Text(message.to_string().into()))
        .await
        .unwrap();
}

/// The next text message, as JSON.
pub async fn receive(socket: &mut Socket) -> Value {
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
pub async fn closed(socket: &mut Socket) -> u16 {
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
pub struct Copy {
    pub rows: BTreeMap<String, i64>,
    pub upper: Option<u64>,
    pub resume: String,
    pub resets: usize,
}

impl Copy {
    pub fn apply(&mut self, frame: &Value) {
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

    pub async fn follow_to(&mut self, socket: &mut Socket, upper: u64) {
        while self.upper.is_none_or(|mine| mine < upper) {
            let frame = receive(socket).await;
            self.apply(&frame);
        }
    }

    /// Compares with the engine's own content, the oracle.
    pub fn check(&self, server: &Server) {
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

pub fn temporary(server: &Server) -> usize {
    server.engine.views().iter().filter(|view| view.temporary).count()
}

pub async fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not happen in 5 s");
}

pub fn refusal<T>(outcome: Result<T, Error>) -> String {
    match outcome.map(|_| ()) {
        Err(Error::Http(response)) => String::from_utf8(response.into_body().unwrap()).unwrap(),
        other => panic!("{other:?}"),
    }
}
