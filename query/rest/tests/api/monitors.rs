//! Monitors: created, read, explained, dropped, in pages.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use crate::server::Server;

#[tokio::test]
async fn monitors_are_created_read_explained_and_dropped() {
    let server = Server::new();
    let made = server
        .post(
            "/api/v1/monitors",
            json!({"sql": "CREATE MONITOR mine AS SELECT count(*) AS n FROM requests"}),
        )
        .await;
    assert_eq!(
        (made.status.as_u16(), made.header("location")),
        (201, "/api/v1/monitors/mine")
    );
    assert_eq!(
        (&made.json()["project"], &made.json()["builtin"]),
        (&json!("default"), &json!(false))
    );
    let parts = json!({"name": "other", "query": "SELECT count(*) AS n FROM requests", "options": {"retention": "48 hours"}});
    assert_eq!(server.post("/api/v1/monitors", parts.clone()).await.status, 201);
    assert_eq!(
        server.post("/api/v1/monitors", parts).await.problem(),
        (409, "PF-3001".into())
    );
    let again = json!({"sql": "CREATE MONITOR IF NOT EXISTS mine AS SELECT count(*) AS n FROM requests"});
    assert_eq!(server.post("/api/v1/monitors", again).await.status, 200);
    assert_eq!(
        server.get("/api/v1/views/mine").await.json()["rows"],
        json!([[2]])
    );
    assert_eq!(server.get("/api/v1/monitors/mine").await.json()["name"], "mine");

    // Pages follow on, and a cursor that is not ours is refused.
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server
            .get(&format!("/api/v1/monitors?limit=1{cursor}"))
            .await
            .json();
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["name"].as_str().unwrap().to_string()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["mine", "other", "requests"]);
    assert_eq!(
        server.get("/api/v1/monitors?cursor=%00nonsense").await.problem(),
        (400, "PF-5007".into())
    );
    assert_eq!(
        server.get("/api/v1/monitors?limit=0").await.problem(),
        (400, "PF-5008".into())
    );
    assert_eq!(
        server.get("/api/v1/monitors?limt=1").await.problem(),
        (400, "PF-5008".into())
    );

    let explained = server
        .post(
            "/api/v1/monitors/explain",
            json!({"sql": "SELECT count(*) AS n FROM requests"}),
        )
        .await;
    assert_eq!(explained.json()["operators"], json!(["read", "count"]));
    let node = json!({"node": 0, "inputs": [], "title": "Aggregate", "detail": "", "shared_with": []});
    assert_eq!(
        (&explained.json()["nodes"], explained.json().get("analyze")),
        (&json!([node]), None)
    );
    let named = server.get("/api/v1/monitors/mine/explain").await.json();
    assert_eq!(
        (&named["plan"], named.get("analyze")),
        (&json!("Aggregate"), None)
    );
    let analyzed = server
        .get("/api/v1/monitors/mine/explain?analyze=true")
        .await
        .json();
    let figures = json!({"node": 0, "rows_out": 7, "state_rows": 0, "state_bytes": 0, "busy_us": 0});
    assert_eq!(analyzed["analyze"], json!([figures]));
    let unknown = server.get("/api/v1/monitors/nobody/explain").await;
    assert_eq!(unknown.problem(), (404, "PF-5013".into()));
    let wrong = server.get("/api/v1/monitors/mine/explain?analyse=true").await;
    assert_eq!(wrong.problem(), (400, "PF-5008".into()));
    let wrong = server
        .post("/api/v1/monitors/explain", json!({"sql": "DROP MONITOR mine"}))
        .await;
    assert_eq!(
        (wrong.problem().1.as_str(), &wrong.json()["position"]),
        ("PF-4001", &json!({"line": 1, "column": 4}))
    );
    assert_eq!(server.get("/api/v1/monitors/mine").await.status, 200);

    for body in [
        json!({}),
        json!({"name": "x"}),
        json!({"query": "SELECT 1"}),
        json!({"sql": "CREATE MONITOR x AS SELECT 1", "name": "x"}),
        json!({"sql": "DROP MONITOR mine"}),
        json!({"sql": "SELECT 1"}),
    ] {
        assert_eq!(
            server.post("/api/v1/monitors", body.clone()).await.problem(),
            (400, "PF-5022".into()),
            "{body}"
        );
    }
    let refused = server
        .post(
            "/api/v1/monitors",
            json!({"sql": "CREATE MONITOR x AS SELECT median(y) FROM requests"}),
        )
        .await;
    assert_eq!(refused.problem(), (400, "PF-4010".into()));

    // Another project neither sees nor drops it.
    assert_eq!(
        server.get_as("blue", "/api/v1/monitors/mine").await.problem().1,
        "PF-5013"
    );
    let request = Request::delete("/api/v1/monitors/mine").header("x-pyflare-project", "blue");
    assert_eq!(server.send(request, Body::empty()).await.problem().1, "PF-5013");
    assert_eq!(server.delete("/api/v1/monitors/mine").await.status, 204);
    assert_eq!(
        server.delete("/api/v1/monitors/mine").await.problem(),
        (404, "PF-5013".into())
    );
    assert_eq!(
        server.delete("/api/v1/monitors/requests").await.problem().1,
        "PF-3003"
    );
}
