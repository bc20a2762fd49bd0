//! Health, status, the metrics page and the OpenAPI document.

use std::collections::BTreeSet;
use std::io::Write;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::server::{Server, TRACE};

#[tokio::test]
async fn health_and_status() {
    let server = Server::new();
    let health = server.get("/healthz").await;
    assert_eq!(
        (health.status.as_u16(), &health.json()["status"]),
        (200, &json!("ok"))
    );
    assert_eq!(server.get("/readyz").await.status, 200);
    let status = server.get("/api/v1/status").await.json();
    assert_eq!(
        (&status["workers"], &status["complete_tick"]),
        (&json!(2), &json!(1100))
    );
    for _ in 0..1000 {
        server.engine.tick(&[]);
    }
    let answer = server.get("/readyz").await;
    assert_eq!(answer.problem(), (503, "PF-5003".into()));
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn callers_are_told_who_they_are() {
    let server = Server::new();
    let nobody = json!({"project": null, "keys": false, "otlp_http": null, "otlp_grpc": null});
    assert_eq!(server.get("/api/v1/caller").await.json(), nobody);
    let red = server.get_as("red", "/api/v1/caller").await.json();
    assert_eq!(red["project"], "red");
}

#[tokio::test]
async fn the_metrics_page_satisfies_promtool() {
    let server = Server::new();
    for path in ["/api/v1/views", "/api/v1/views/none", "/nowhere", "/api/nowhere"] {
        server.get(path).await;
    }
    server
        .send(
            Request::builder().method("EVIL").uri("/api/v1/views"),
            Body::empty(),
        )
        .await;
    let page = server.get("/metrics").await;
    let text = page.text();
    assert!(
        page.header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(
        text.contains("pyflare_http_requests_total{route=\"/api/v1/views\",method=\"GET\",status=\"200\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("route=\"/api/v1/views/{name}\",method=\"GET\",status=\"404\"} 1"),
        "{text}"
    );
    assert!(text.contains("pyflare_view_rows{view=\"a\\\"b\\n\"} 3"), "{text}");
    assert!(text.contains("\npyflare_otlp_rows_total 5\n"), "{text}");
    assert!(!text.contains("nowhere") && !text.contains("EVIL"));
    // Where promtool is installed it has the last word.
    let Ok(mut promtool) = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
    else {
        return;
    };
    promtool.stdin.take().unwrap().write_all(&page.body).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.success() && said.trim().is_empty(),
        "{said}\n{text}"
    );
}

#[tokio::test]
async fn the_openapi_document_is_whole() {
    let server = Server::new();
    let document = server.get("/api/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(
                operation["responses"]
                    .as_object()
                    .is_some_and(|responses| !responses.is_empty()),
                "{path}"
            );
            assert!(
                operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
                "{method} {path}"
            );
            found.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let expected = [
        "DELETE /api/v1/monitors/{name}",
        "DELETE /api/v1/streams/{name}",
        "GET /api/v1/caller",
        "GET /api/v1/erasures",
        "GET /api/v1/erasures/{id}",
        "GET /api/v1/fields",
        "GET /api/v1/live",
        "GET /api/v1/monitors",
        "GET /api/v1/monitors/{name}",
        "GET /api/v1/monitors/{name}/explain",
        "GET /api/v1/status",
        "GET /api/v1/streams",
        "GET /api/v1/streams/{name}",
        "GET /api/v1/traces",
        "GET /api/v1/traces/{trace_id}",
        "GET /api/v1/views",
        "GET /api/v1/views/{name}",
        "GET /healthz",
        "GET /metrics",
        "GET /readyz",
        "POST /api/v1/erasures",
        "POST /api/v1/monitors",
        "POST /api/v1/monitors/explain",
        "POST /api/v1/sql",
        "POST /api/v1/streams/{name}",
    ];
    assert_eq!(found, expected.map(String::from).into_iter().collect());
    // Every documented route exists.
    for route in &found {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{name}", "x").replace("{trace_id}", TRACE);
        let answer = server
            .send(Request::builder().method(method).uri(path), Body::empty())
            .await;
        let code = if answer.status.is_success() {
            String::new()
        } else {
            answer.problem().1
        };
        assert!(code != "PF-5001" && code != "PF-5002", "{route}: {code}");
    }
    // Every reference leads somewhere.
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}
