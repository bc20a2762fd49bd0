//! Views and the declared columns of the streams.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::server::Server;

#[tokio::test]
async fn views_are_read_in_three_formats() {
    let server = Server::new();
    let list = server.get("/api/v1/views").await.json();
    assert_eq!(list["items"][0]["name"], "requests");
    assert_eq!(list["items"][0]["builtin"], true);
    assert_eq!(list["items"][0]["retention"], "24 hours");
    assert_eq!(
        list["items"][0]["columns"][0],
        json!({"name": "project", "type": "Utf8", "key": true})
    );
    assert_eq!(list["next_cursor"], Value::Null);

    let answer = server.get_as("blue", "/api/v1/views/requests?int64=string").await;
    let table = answer.json();
    assert_eq!(
        table["columns"][1],
        json!({"name": "window_start", "type": "Timestamp(µs, UTC)"})
    );
    assert_eq!(
        table["rows"],
        json!([["blue", "1970-01-01T00:00:00.000000Z", "9223372036854775807", 1.5]])
    );
    assert_eq!(
        (&table["row_count"], &table["truncated"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(table["as_of"], "1970-01-01T00:00:01.100000Z");
    assert!(table["elapsed_ms"].is_number());
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");

    let both = server.get("/api/v1/views/requests?limit=1").await.json();
    assert_eq!(
        (&both["row_count"], &both["truncated"]),
        (&json!(1), &json!(true))
    );

    let csv = server
        .get_as("red", "/api/v1/views/live.requests?format=csv")
        .await;
    assert!(csv.header("content-type").starts_with("text/csv"));
    assert_eq!(csv.header("x-pyflare-row-count"), "1");
    assert_eq!(
        csv.text(),
        "project,window_start,requests,rate\r\nred,1970-01-01T00:00:00.000000Z,7,Infinity\r\n"
    );

    let request = Request::get("/api/v1/views/requests")
        .header("accept", "text/html, application/vnd.apache.arrow.stream");
    let stream = server.send(request, Body::empty()).await;
    let reader = arrow::ipc::reader::StreamReader::try_new(&stream.body[..], None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);

    let request = Request::get("/api/v1/views/requests").header("accept", "image/png");
    assert_eq!(
        server.send(request, Body::empty()).await.problem(),
        (406, "PF-5021".into())
    );
    let unknown = server.get("/api/v1/views/%22%3B%20DROP").await;
    assert_eq!(unknown.problem(), (404, "PF-5013".into()));
    assert_eq!(unknown.json()["hint"], "there are: requests");
}

#[tokio::test]
async fn fields_are_the_declared_columns() {
    let server = Server::new();
    let items = server.get("/api/v1/fields").await.json()["items"].clone();
    let declared: usize = pyflare_operators::fields::STREAMS
        .iter()
        .map(|stream| pyflare_operators::fields::stream_fields(stream).unwrap().len())
        .sum();
    assert_eq!(items.as_array().unwrap().len(), declared);
    let model = items
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["name"] == "model" && item["stream"] == "spans")
        .unwrap();
    assert_eq!(
        (&model["type"], &model["nullable"]),
        (&json!("Utf8"), &json!(true))
    );
}
