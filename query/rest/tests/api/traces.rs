//! Traces: listed, filtered, read.

use serde_json::json;

use crate::server::{OTHER_TRACE, Server, TRACE};

#[tokio::test]
async fn traces_are_listed_filtered_and_read() {
    let server = Server::new();
    let list = server.get("/api/v1/traces").await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
    let first = &list["items"][0];
    assert_eq!(
        (&first["trace_id"], &first["root_name"]),
        (&json!(TRACE), &json!("answer <b>\"'; DROP"))
    );
    assert_eq!(
        (&first["span_count"], &first["error_count"], &first["status"]),
        (&json!(2), &json!(1), &json!("error"))
    );
    assert_eq!(
        (&first["duration_ms"], &first["models"], &first["input_tokens"]),
        (&json!(400.0), &json!(["gpt"]), &json!(12))
    );
    for (filter, count) in [
        ("user=ada", 1),
        ("model=gpt", 1),
        ("model=none", 0),
        ("status=error", 1),
        ("q=LONE", 1),
        ("service=shop", 2),
        ("min_duration_ms=300", 1),
        ("max_duration_ms=150.5", 1),
        ("to=1970-01-01T00:00:00.42Z", 1),
        ("from=1970-01-01T00:00:00.42%2B00:00", 1),
        ("user=&session=", 2),
        ("q=%27%3B%20DROP", 1),
        ("q=%25", 0),
    ] {
        let list = server.get(&format!("/api/v1/traces?{filter}")).await.json();
        assert_eq!(
            list["items"].as_array().map(Vec::len),
            Some(count),
            "{filter}: {list}"
        );
    }
    let page = server.get("/api/v1/traces?limit=1&int64=string").await.json();
    assert_eq!(page["items"][0]["span_count"], "2");
    let next = format!(
        "/api/v1/traces?limit=1&cursor={}",
        page["next_cursor"].as_str().unwrap()
    );
    assert_eq!(
        server.get(&next).await.json()["items"][0]["trace_id"],
        OTHER_TRACE
    );
    assert_eq!(
        server.get("/api/v1/traces?cursor=nonsense").await.problem(),
        (400, "PF-5007".into())
    );
    for bad in [
        "from=yesterday",
        "status=late",
        "min_duration_ms=NaN",
        "max_duration_ms=-1",
        "limit=x",
        "usr=ada",
        "limit=1001",
    ] {
        assert_eq!(
            server.get(&format!("/api/v1/traces?{bad}")).await.problem(),
            (400, "PF-5008".into()),
            "{bad}"
        );
    }

    let trace = server
        .get(&format!("/api/v1/traces/{}?int64=string", TRACE.to_uppercase()))
        .await
        .json();
    let spans = trace["spans"].as_array().unwrap();
    assert_eq!((spans.len(), &trace["trace_id"]), (2, &json!(TRACE)));
    assert_eq!(
        (&spans[0]["span_id"], &spans[0]["events"]),
        (&json!("1"), &json!([]))
    );
    assert_eq!(
        (&spans[1]["events"][0]["name"], &spans[1]["duration_ns"]),
        (&json!("exception"), &json!("250000000"))
    );
    assert_eq!(spans[0]["attributes"], json!({"server.port": "443"}));
    assert!(spans[0].get("_tick").is_none());
    assert_eq!(
        server.get(&format!("/api/v1/traces/{OTHER_TRACE}")).await.json()["spans"][0]["events"],
        json!([])
    );
    assert_eq!(
        server
            .get_as("red", &format!("/api/v1/traces/{TRACE}"))
            .await
            .problem(),
        (404, "PF-5028".into())
    );
    assert_eq!(
        server.get("/api/v1/traces/xyz").await.problem(),
        (400, "PF-5008".into())
    );
    assert_eq!(
        server.get_as("red", "/api/v1/traces").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
