//! What is not understood, comes from elsewhere or takes too long is refused with its code.

use axum::body::Body;
use axum::http::Request;
use futures::StreamExt;
use serde_json::json;

use crate::server::{Server, limits_of, queries_of};

#[tokio::test]
async fn what_is_not_understood_is_refused_with_its_code() {
    let server = Server::new();
    assert_eq!(
        server.get("/api/nothing").await.problem(),
        (404, "PF-5001".into())
    );
    assert_eq!(server.get("/api").await.problem(), (404, "PF-5001".into()));
    let wrong = server.send(Request::put("/api/v1/monitors"), Body::empty()).await;
    assert_eq!(wrong.problem(), (405, "PF-5002".into()));
    assert!(wrong.header("allow").contains("POST"), "{:?}", wrong.headers);
    let json = || Request::post("/api/v1/sql").header("content-type", "application/json; charset=utf-8");
    let broken = server.send(json(), "{\n  \"query\": }").await;
    assert_eq!(
        (broken.problem(), &broken.json()["position"]["line"]),
        ((400, "PF-5004".into()), &json!(2))
    );
    for body in [
        "",
        "[]",
        "{}",
        "{\"query\":1}",
        "{\"query\":\"SELECT 1\",\"limt\":1}",
        "\u{feff}{}",
        &"[".repeat(100_000),
    ] {
        assert_eq!(
            server.send(json(), body.to_string()).await.problem(),
            (400, "PF-5004".into())
        );
    }
    assert_eq!(
        server.send(json(), vec![0xff, 0xfe]).await.problem(),
        (400, "PF-5004".into())
    );
    let large = json!({"query": format!("SELECT '{}'", "x".repeat(2 << 20))}).to_string();
    assert_eq!(
        server.send(json(), large).await.problem(),
        (413, "PF-5005".into())
    );
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
    ] {
        let request = Request::post("/api/v1/sql").header("content-type", kind);
        assert_eq!(
            server.send(request, "{\"query\":\"SELECT 1\"}").await.problem(),
            (415, "PF-5006".into())
        );
    }
    assert_eq!(
        server.send(Request::post("/api/v1/sql"), "{}").await.problem(),
        (415, "PF-5006".into())
    );
    assert_eq!(
        server.get("/api/v1/views/%ff").await.problem(),
        (400, "PF-5008".into())
    );
    assert_eq!(
        server
            .get(&format!("/api/v1/views/{}", "x".repeat(20_000)))
            .await
            .problem(),
        (414, "PF-5029".into())
    );
    assert_eq!(
        server.get("/api/v1/views/requests?int64=hex").await.problem(),
        (400, "PF-5008".into())
    );
    assert_eq!(
        server.get("/api/v1/live").await.problem(),
        (426, "PF-5025".into())
    );
}

#[tokio::test]
async fn foreign_pages_and_bad_projects_are_refused() {
    let server = Server::new();
    for (name, value, code) in [
        ("origin", "https://evil.example", "PF-5011"),
        ("host", "evil.example:4319", "PF-5011"),
        ("x-pyflare-project", "a b", "PF-5026"),
    ] {
        let answer = server
            .send(Request::get("/api/v1/views").header(name, value), Body::empty())
            .await;
        assert_eq!(answer.problem().1, code, "{name}");
    }
    let same = Request::get("/api/v1/views")
        .header("host", "localhost:4319")
        .header("origin", "http://localhost:4319");
    assert_eq!(server.send(same, Body::empty()).await.status, 200);
}

/// A body that never arrives whole ends with its request; a WebSocket goes on (`doors`).
#[tokio::test]
async fn requests_that_take_too_long_are_ended() {
    let server = Server::with(queries_of(50), limits_of(50));
    for path in ["/api/v1/sql", "/api/v1/monitors"] {
        let first = Ok::<_, std::io::Error>("{\"sql\": ");
        let body = Body::from_stream(futures::stream::iter([first]).chain(futures::stream::pending()));
        let request = Request::post(path).header("content-type", "application/json");
        let answer = server.send(request, body).await;
        assert_eq!(answer.problem(), (504, "PF-5031".into()), "{path}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("100ms"));
    }
    assert_eq!(server.get("/api/v1/views").await.status, 200);
}
