//! Statements about streams: what they declare, and what is refused.

use std::sync::Arc;

use pyflare_operators::fields::FieldType;
use pyflare_operators::streams::{StreamDefinition, StreamTopic, TopicStart};
use pyflare_sql::{PlanScope, Statement, parse};

fn scope(streams: Vec<Arc<StreamDefinition>>) -> PlanScope {
    PlanScope {
        project: Some("shop".into()),
        streams,
        ..PlanScope::default()
    }
}

fn declared(sql: &str) -> StreamDefinition {
    match parse(sql, &scope(Vec::new())).unwrap_or_else(|error| panic!("{sql}: {error}")) {
        Statement::CreateStream { definition, .. } => *definition,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_declaration_says_columns_time_and_options() {
    let sql = "create stream Orders (id bigint not null, \"when\" TIMESTAMP WITH TIME ZONE, a text, b BOOLEAN, c int,
        d double precision, e decimal(20, 2), f text[], g json, h varchar)
        WITH (event_time = 'when', lateness = '2 minutes', retention = '7 days', description = 'orders');";
    let stream = declared(sql);
    let types: Vec<FieldType> = stream.columns.iter().map(|column| column.data_type).collect();
    use FieldType::{Bool, Float64, Int32, Int64, Money, Text, TextList, TextMap, Timestamp};
    assert_eq!(
        types,
        [
            Int64, Timestamp, Text, Bool, Int32, Float64, Money, TextList, TextMap, Text
        ]
    );
    let required: Vec<bool> = stream.columns.iter().map(|column| column.required).collect();
    assert_eq!(required.iter().filter(|required| **required).count(), 1);
    assert!(required[0]);
    assert_eq!(
        (stream.project.as_str(), stream.name.as_str()),
        ("shop", "orders")
    );
    assert_eq!(stream.time.as_deref(), Some("when"));
    assert_eq!(stream.lateness_us, Some(120_000_000));
    assert_eq!(stream.retention_us, Some(7 * 86_400_000_000));
    assert_eq!(stream.sql, sql.trim());

    let named = declared("CREATE STREAM s (key INT, index TEXT, \"primary\" TEXT, value DOUBLE)");
    assert_eq!(named.columns.len(), 4, "words of other dialects are names here");
    assert_eq!(declared("CREATE STREAM s (x INT)").time, None);
    let named = declared("CREATE STREAM s (event_time TIMESTAMP, x INT)");
    assert_eq!(named.time.as_deref(), Some("event_time"));
}

#[test]
fn a_stream_may_read_a_kafka_topic() {
    let read = |rest: &str| declared(&format!("CREATE STREAM s (x INT, at TIMESTAMP) {rest}"));
    let topic = |start| StreamTopic {
        name: "shop.orders-v2".into(),
        start,
    };
    let plain = read("FROM KAFKA TOPIC 'shop.orders-v2'");
    assert_eq!(plain.topic, Some(topic(TopicStart::Earliest)));
    let latest = read("WITH (event_time = 'at', start = 'latest') from kafka topic 'shop.orders-v2';");
    assert_eq!(latest.topic, Some(topic(TopicStart::Latest)));
    assert_eq!(latest.time.as_deref(), Some("at"));
    let since = read("FROM KAFKA TOPIC 'shop.orders-v2' WITH (start = '1970-01-01T01:00:01+01:00')");
    assert_eq!(since.topic, Some(topic(TopicStart::Time(1_000_000))));
    assert_eq!(read("WITH (lateness = '1 second')").topic, None);
    let refused = |rest: &str| {
        let sql = format!("CREATE STREAM s (x INT) {rest}");
        let error = parse(&sql, &scope(Vec::new())).err();
        error.unwrap_or_else(|| panic!("accepted: {sql}")).code()
    };
    assert_eq!(refused("WITH (start = 'latest')"), "PF-4004");
    assert_eq!(
        refused("WITH (start = 'yesterday') FROM KAFKA TOPIC 'a'"),
        "PF-4004"
    );
    assert_eq!(refused("FROM KAFKA TOPIC 'a b'"), "PF-4003");
    assert_eq!(refused("FROM KAFKA TOPIC ''"), "PF-4003");
    assert_eq!(refused("FROM KAFKA TOPIC a"), "PF-4001");
    assert_eq!(refused("FROM KAFKA TOPIC 'a' FROM KAFKA TOPIC 'b'"), "PF-4001");
    assert_eq!(refused("FROM PULSAR TOPIC 'a'"), "PF-4001");
}

#[test]
fn the_other_statements_are_told_apart() {
    let read = |sql: &str| parse(sql, &scope(Vec::new())).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert!(matches!(read("SHOW STREAMS;"), Statement::ShowStreams));
    assert!(
        matches!(read("drop stream if exists a"), Statement::DropStream { name, if_exists: true } if name == "a")
    );
    for (sql, wanted) in [
        ("DESCRIBE spans", "spans"),
        ("desc live.requests", "requests"),
        ("DESCRIBE STREAM orders", "orders"),
        ("DESCRIBE monitor", "monitor"),
        ("DESCRIBE \"requests$late\"", "requests$late"),
    ] {
        assert!(
            matches!(read(sql), Statement::Describe { name } if name == wanted),
            "{sql}"
        );
    }
    assert!(matches!(
        read("CREATE STREAM IF NOT EXISTS s (x INT)"),
        Statement::CreateStream {
            if_not_exists: true,
            ..
        }
    ));
    // Of monitors, and of nobody.
    assert!(matches!(read("SHOW MONITORS"), Statement::ShowMonitors));
    assert!(matches!(read("SELECT 1"), Statement::Query(_)));
}

#[test]
fn monitors_read_the_projects_streams() {
    let orders = Arc::new(declared(
        "CREATE STREAM orders (id BIGINT, at TIMESTAMP, price DECIMAL(38, 12)) WITH (event_time = 'at', lateness = '1 second')",
    ));
    let scope = scope(vec![orders]);
    let define = |sql: &str| match parse(sql, &scope).unwrap_or_else(|error| panic!("{sql}: {error}")) {
        Statement::CreateMonitor(create) => create.definition,
        other => panic!("{other:?}"),
    };
    let definition = define("CREATE MONITOR m AS SELECT * FROM orders");
    let schema = definition.plan.schema().unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["project", "id", "at", "price"], "the origin is hidden");
    assert_eq!(definition.lateness_us(), 1_000_000, "the stream's lateness");
    let own = define("CREATE MONITOR m WITH (lateness = '5 seconds') AS SELECT id FROM orders");
    assert_eq!(own.lateness_us(), 5_000_000);
    let windows = define(
        "CREATE MONITOR m AS SELECT window_start, sum(price) AS total FROM HOP(orders, at, INTERVAL '1 minute', INTERVAL '2 minutes') GROUP BY window_start",
    );
    assert_eq!(windows.plan.streams().into_iter().collect::<Vec<_>>(), ["orders"]);
    let error = parse("CREATE MONITOR m AS SELECT * FROM ordres", &scope)
        .err()
        .unwrap_or_else(|| panic!("accepted"));
    assert!(
        error.hint.is_some_and(|hint| hint.contains("orders")),
        "names what there is"
    );
}

#[test]
fn what_is_no_stream_is_refused_with_a_way_out() {
    for (sql, code) in [
        ("CREATE STREAM s", "PF-4001"),
        ("CREATE STREAM s ()", "PF-4002"),
        ("CREATE STREAM s (x)", "PF-4001"),
        ("CREATE STREAM s (x INT", "PF-4001"),
        ("CREATE STREAM s (x INT) AS SELECT 1", "PF-4001"),
        ("CREATE STREAM s (x INT, X INT)", "PF-4003"),
        ("CREATE STREAM spans (x INT)", "PF-4003"),
        ("CREATE STREAM a.b (x INT)", "PF-4003"),
        ("CREATE STREAM s (project TEXT)", "PF-4003"),
        ("CREATE STREAM s (_tick BIGINT)", "PF-4003"),
        ("CREATE STREAM s (\"größe\" INT)", "PF-4003"),
        ("CREATE STREAM s (x BYTEA)", "PF-4005"),
        ("CREATE STREAM s (x TIMESTAMP WITHOUT TIME ZONE)", "PF-4005"),
        ("CREATE STREAM s (x DECIMAL(38, 20))", "PF-4005"),
        ("CREATE STREAM s (x INT[])", "PF-4005"),
        ("CREATE STREAM s (x INT DEFAULT 1)", "PF-4006"),
        ("CREATE STREAM s (x INT, PRIMARY KEY (x))", "PF-4006"),
        ("CREATE STREAM s (x INT, UNIQUE (x))", "PF-4006"),
        ("CREATE STREAM s (x INT, CONSTRAINT c CHECK (x > 1))", "PF-4006"),
        ("CREATE STREAM s (x INT,)", "PF-4001"),
        ("CREATE STREAM s (x INT y)", "PF-4001"),
        ("CREATE STREAM s (x INT) WITH (event_time = 'y')", "PF-4004"),
        ("CREATE STREAM s (x INT) WITH (event_time = 'x')", "PF-4004"),
        ("CREATE STREAM s (event_time TEXT)", "PF-4004"),
        ("CREATE STREAM s (x INT) WITH (lateness = 'soon')", "PF-4004"),
        ("CREATE STREAM s (x INT) WITH (colour = 'red')", "PF-4004"),
        ("CREATE STREAM s (x INT) WITH (lateness = 5)", "PF-4004"),
        ("DROP STREAM", "PF-4001"),
        ("DESCRIBE", "PF-4001"),
        ("SHOW STREAMS now", "PF-4001"),
    ] {
        match parse(sql, &scope(Vec::new())) {
            Err(error) => assert_eq!(error.code(), code, "{sql}: {error}"),
            Ok(statement) => panic!("accepted: {sql}\n{statement:?}"),
        }
    }
    let many: Vec<String> = (0..501).map(|number| format!("c{number} INT")).collect();
    let error = parse(
        &format!("CREATE STREAM s ({})", many.join(", ")),
        &scope(Vec::new()),
    );
    assert!(error.is_err_and(|error| error.code() == "PF-4002"));
}
