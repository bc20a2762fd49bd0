//! `POST /api/v1/sql`: queries, statements, projects, limits.

use axum::http::Request;
use serde_json::json;

use crate::server::Server;

#[tokio::test]
async fn sql_answers_queries_and_statements() {
    let server = Server::new();
    let query = json!({"query": "SELECT requests FROM requests WHERE project = $1", "params": ["red"]});
    let answer = server.post("/api/v1/sql", query).await;
    assert_eq!(answer.json()["rows"], json!([[7]]), "{}", answer.text());
    let csv = server
        .post(
            "/api/v1/sql",
            json!({"query": "VALUES (1), (2)", "format": "csv", "limit": 1}),
        )
        .await;
    assert_eq!(
        (csv.text().lines().count(), csv.header("x-pyflare-truncated")),
        (2, "true")
    );
    let arrow = server
        .post(
            "/api/v1/sql",
            json!({"query": "SELECT 1 AS one", "format": "arrow"}),
        )
        .await;
    assert_eq!(
        arrow.header("content-type"),
        "application/vnd.apache.arrow.stream"
    );
    let quoted = server
        .post(
            "/api/v1/sql?int64=string",
            json!({"query": "SELECT 9007199254740993 AS n"}),
        )
        .await;
    assert_eq!(quoted.json()["rows"], json!([["9007199254740993"]]));

    let statement = |query: &str| json!({"query": query});
    let made = server
        .post(
            "/api/v1/sql",
            statement("CREATE MONITOR mine AS SELECT count(*) AS n FROM requests"),
        )
        .await;
    assert_eq!(
        made.json()["rows"],
        json!([["mine", "created"]]),
        "{}",
        made.text()
    );
    let shown = server
        .post("/api/v1/sql", statement("-- all\nSHOW MONITORS"))
        .await
        .json();
    assert_eq!(shown["row_count"], 2);
    assert_eq!(shown["columns"][0], json!({"name": "name", "type": "Utf8"}));
    let explained = server
        .post("/api/v1/sql", statement("EXPLAIN MONITOR mine"))
        .await
        .json();
    assert_eq!(
        explained["rows"],
        json!([["plan", "Aggregate"], ["state", "one row"]])
    );
    let csv = json!({"query": "DROP MONITOR mine", "format": "csv"});
    assert_eq!(
        server.post("/api/v1/sql", csv).await.text(),
        "monitor,outcome\r\nmine,dropped\r\n"
    );
    let absent = server
        .post("/api/v1/sql", statement("DROP MONITOR IF EXISTS mine"))
        .await
        .json();
    assert_eq!(absent["rows"], json!([["mine", "absent"]]));
    assert_eq!(
        server
            .post("/api/v1/sql", statement("DROP MONITOR mine"))
            .await
            .problem()
            .1,
        "PF-5013"
    );

    let wrong = server
        .post(
            "/api/v1/sql",
            statement("SELECT requests,\n  nothing FROM requests"),
        )
        .await;
    assert_eq!(wrong.problem().0, 400);
    assert_eq!(wrong.json()["position"]["line"], 2, "{}", wrong.text());
    let incomplete = server.post("/api/v1/sql", statement("CREATE MONITOR")).await;
    assert_eq!(incomplete.problem(), (400, "PF-4001".into()));
    assert_eq!(incomplete.json()["hint"], "write CREATE MONITOR name AS SELECT …");
    let slow = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    let slow = server
        .post("/api/v1/sql", json!({"query": slow, "timeout_ms": 200}))
        .await;
    assert_eq!(slow.problem().0, 504, "{}", slow.text());
    for hostile in [
        "",
        ";",
        "\u{0}",
        "SELECT '\u{202e}",
        "DELETE FROM requests",
        "SELECT 1; DROP MONITOR mine",
        "SET x = 1",
    ] {
        let answer = server.post("/api/v1/sql", statement(hostile)).await;
        assert_eq!(answer.problem().0, 400, "{hostile:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_query_sees_the_callers_rows_only() {
    let server = Server::new();
    let request = || Request::post("/api/v1/sql").header("content-type", "application/json");
    let body = json!({"query": "SELECT project FROM requests UNION ALL SELECT project FROM history.spans"})
        .to_string();
    let answer = server
        .send(request().header("x-pyflare-project", "red"), body.clone())
        .await;
    assert_eq!(
        answer.json()["rows"],
        json!([["red"], ["red"]]),
        "{}",
        answer.text()
    );
    assert_eq!(server.send(request(), body).await.json()["row_count"], 5);
}
