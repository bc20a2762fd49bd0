//! How long subscriptions and their monitors live, and whose rows they show.

use pyflare_live::Views;
use serde_json::json;

use super::client::*;

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
