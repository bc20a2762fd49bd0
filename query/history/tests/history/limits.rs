//! Limits hold, refusals say why and where, and nothing but queries runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use pyflare_history::{Position, QueryError, QueryOptions, QueryService};
use serde_json::json;

use crate::house::*;

fn small() -> QueryOptions {
    QueryOptions {
        threads: 2,
        memory: 32 * 1024 * 1024,
        ..QueryOptions::default()
    }
}

fn any_house() -> Arc<House> {
    house_with(&random_spans(9, 300), 9)
}

async fn refusal(service: &QueryService, query: &str) -> QueryError {
    match service.query(request(query)).await {
        Ok(result) => panic!("{query} was answered:\n{}", table(&result)),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_queries_run() {
    let service = service(&any_house(), small());
    for query in [
        "CREATE TABLE x (a INT)",
        "CREATE VIEW x AS SELECT 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "COPY (SELECT 1) TO '/tmp/pyflare-must-not-exist.csv'",
        "INSERT INTO spans SELECT * FROM spans",
        "DELETE FROM spans",
        "UPDATE spans SET name = ''",
        "DROP TABLE spans",
        "SET datafusion.execution.batch_size = 1",
        "BEGIN",
        "PREPARE x AS SELECT 1",
        "EXPLAIN ANALYZE INSERT INTO spans SELECT * FROM spans",
    ] {
        let error = refusal(&service, query).await;
        assert!(
            ["PF-4062", "PF-4060", "PF-4061"].contains(&error.code()),
            "{query}: {error}"
        );
    }
    assert!(!std::path::Path::new("/tmp/pyflare-must-not-exist.csv").exists());
    for query in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
    ] {
        refusal(&service, query).await;
    }
    for query in [
        "SELECT 1",
        "EXPLAIN SELECT * FROM spans",
        "SHOW TABLES",
        "VALUES (1), (2)",
        "EXPLAIN ANALYZE SELECT 1",
    ] {
        service
            .query(request(query))
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_where() {
    let service = service(&any_house(), small());
    let syntax = refusal(&service, "SELECT 1\n  FORM spans").await;
    assert_eq!(syntax.code(), "PF-4060");
    assert_eq!(syntax.position.map(|position| position.line), Some(2), "{syntax}");
    let column = refusal(&service, "SELECT name,\n  nonsense FROM spans").await;
    assert_eq!(column.code(), "PF-4061");
    assert_eq!(column.position, Some(Position { line: 2, column: 3 }), "{column}");
    assert!(column.message.contains("nonsense"), "{column}");
    let table = refusal(&service, "SELECT * FROM nowhere").await;
    assert!(table.message.contains("nowhere"), "{table}");
    assert_eq!(refusal(&service, "").await.status(), 400);
    let text = format!("SELECT '{}'", "x".repeat(200_000));
    assert_eq!(refusal(&service, &text).await.code(), "PF-4064");
    let nested = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    assert_eq!(refusal(&service, &nested).await.status(), 400);
}

/// Chains become trees as deep as they are long, and a stack that overflows would end the process: 3,000 casts did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_nesting_overflows_the_stack() {
    let service = service(&any_house(), small());
    // What opens, what stands in the middle, what closes.
    let nestings = [
        ("(", "1", ")"),
        ("NOT ", "true", ""),
        ("- ", "1", ""),
        ("CASE WHEN true THEN ", "1", " END"),
        ("upper(", "'a'", ")"),
        ("", "1", "::TEXT"),
        ("", "duration_ns", " + 1"),
        ("", "name", " || 'a'"),
        ("", "true", " AND name = 'a'"),
        ("", "true", " OR name = 'a'"),
        ("", "name", " IS NULL"),
        ("", "event_time", " AT TIME ZONE 'UTC'"),
        ("", "attributes", "['k']"),
        ("", "name", ".name"),
        ("[", "1", "]"),
        ("1 IN (", "1", ")"),
        ("EXISTS (SELECT ", "1", ")"),
        ("(SELECT ", "1", ")"),
        ("", "1", " UNION ALL SELECT 1"),
        ("", "1 FROM spans", " JOIN logs ON true"),
    ];
    for (open, middle, close) in nestings {
        for depth in [30, 390, 3_900, 20_000] {
            let from = if middle.contains("FROM") {
                ""
            } else {
                " FROM spans"
            };
            let text = format!(
                "SELECT {}{middle}{}{from}",
                open.repeat(depth),
                close.repeat(depth)
            );
            let mut asked = request(&text);
            asked.timeout = Some(Duration::from_secs(5));
            asked.limit = Some(1);
            if let Err(error) = service.query(asked).await {
                let shown: String = text.chars().take(60).collect();
                assert_ne!(error.status(), 500, "{shown} {depth}: {error}");
                assert!(error.message.len() < 10_000, "{shown} {depth}: {error}");
            }
        }
    }
    // Levels of subqueries add up, and so do relations.
    let mut chained = "WITH s0 AS (SELECT duration_ns AS x FROM spans)".to_owned();
    for step in 1..12 {
        let sum = " + 1".repeat(100);
        chained += &format!(", s{step} AS (SELECT x{sum} AS x FROM s{})", step - 1);
    }
    let listed = vec!["logs"; 300].join(", ");
    for text in [
        format!("{chained} SELECT x FROM s11"),
        format!("SELECT 1 FROM {listed}"),
    ] {
        let started = Instant::now();
        assert_eq!(refusal(&service, &text).await.code(), "PF-4064");
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    // Long lists are no deep trees.
    let listed = vec!["'a-name'"; 9_000].join(", ");
    service
        .query(request(&format!(
            "SELECT count(*) FROM spans WHERE name IN ({listed})"
        )))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_bytes_are_cut_off_and_say_so() {
    let service = service(
        &any_house(),
        QueryOptions {
            default_rows: 100,
            result_bytes: 1 << 20,
            ..small()
        },
    );
    let mut asked = request("SELECT span_id FROM spans ORDER BY span_id");
    let result = service.query(asked.clone()).await.unwrap();
    assert_eq!((result.row_count, result.truncated), (100, true));
    asked.limit = Some(300);
    let result = service.query(asked.clone()).await.unwrap();
    assert_eq!(
        (result.row_count, result.truncated),
        (300, false),
        "all rows, and no more"
    );
    asked.limit = Some(0);
    let result = service.query(asked).await.unwrap();
    assert_eq!(
        (result.row_count, result.truncated, result.schema.fields().len()),
        (0, true, 1)
    );
    let mut wide = request("SELECT repeat('x', 1000) || value FROM generate_series(1, 100000)");
    wide.limit = Some(1_000_000);
    let result = service.query(wide).await.unwrap();
    assert!(
        result.truncated && result.row_count < 20_000,
        "{}",
        result.row_count
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limits_hold_and_free_the_threads() {
    let service = service(
        &any_house(),
        QueryOptions {
            concurrent: 2,
            ..small()
        },
    );
    let endless = [
        "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b WHERE a.value * b.value % 7 = 3",
        "SELECT sum(a.value) FROM generate_series(1, 100000000000) a",
        "SELECT count(*) FROM generate_series(1, 200000) a JOIN generate_series(1, 200000) b ON a.value < b.value",
        "SELECT max(a.value + b.value) FROM generate_series(1, 60000) a CROSS JOIN generate_series(1, 60000) b",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
    ];
    for query in endless {
        let started = Instant::now();
        let mut asked = request(query);
        asked.timeout = Some(Duration::from_millis(300));
        match service.query(asked).await {
            Err(error) => assert!(["PF-4066", "PF-4067"].contains(&error.code()), "{query}: {error}"),
            Ok(result) => panic!("{query} was answered:\n{}", table(&result)),
        }
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{query}: {:?}",
            started.elapsed()
        );
    }
    // Both places are free again within a moment.
    let started = Instant::now();
    for _ in 0..2 {
        service.query(request("SELECT 1")).await.unwrap();
    }
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_limited() {
    let service = service(&any_house(), small());
    for query in [
        "SELECT value * 7919 % 19999999 AS v, count(*) AS n FROM generate_series(1, 20000000) GROUP BY 1 ORDER BY n LIMIT 1",
        "SELECT value FROM generate_series(1, 50000000) ORDER BY value % 1000, value DESC OFFSET 40000000",
    ] {
        let mut asked = request(query);
        asked.timeout = Some(Duration::from_secs(60));
        let error = service.query(asked).await.unwrap_err();
        assert_eq!(error.code(), "PF-4067", "{query}: {error}");
        assert_eq!(error.status(), 422);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn constants_do_not_explode_while_planning() {
    let service = service(&any_house(), small());
    for query in [
        "SELECT length(repeat('x', 500000000))",
        "SELECT length(lpad('x', 500000000, 'y'))",
        "SELECT length(rpad('x', 2000000000))",
        "SELECT cardinality(range(1, 1000000000000))",
        "SELECT cardinality(array_repeat(1, 1000000000))",
        "SELECT generate_series(TIMESTAMP '1970-01-01', TIMESTAMP '2200-01-01', INTERVAL '1 second')",
        "SELECT length(replace(repeat('x', 100000), 'x', repeat('y', 100000)))",
        "SELECT length(regexp_replace(repeat('x', 100000), 'x', repeat('y', 100000), 'g'))",
        "SELECT repeat(name, 1000000000) FROM spans",
    ] {
        let started = Instant::now();
        let error = refusal(&service, query).await;
        assert!(
            ["PF-4065", "PF-4069", "PF-4061"].contains(&error.code()),
            "{query}: {error}"
        );
        assert!(error.message.contains("would produce"), "{query}: {error}");
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{query}: {:?}",
            started.elapsed()
        );
    }
    for query in [
        "SELECT repeat('ab', 3)",
        "SELECT replace(name, 'a', 'bb') FROM spans",
        "SELECT lpad('x', 5)",
    ] {
        service
            .query(request(query))
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_at_once_are_told_so() {
    let service = service(
        &any_house(),
        QueryOptions {
            concurrent: 1,
            waiting: 1,
            ..small()
        },
    );
    let slow = || {
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let mut asked = request("SELECT sum(a.value) FROM generate_series(1, 100000000000) a");
            asked.timeout = Some(Duration::from_secs(2));
            service.query(asked).await
        })
    };
    let waiting = [slow(), slow()];
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = service.query(request("SELECT 1")).await.unwrap_err();
    assert_eq!((error.code(), error.status()), ("PF-4068", 503));
    for query in waiting {
        assert_eq!(query.await.unwrap().unwrap_err().code(), "PF-4066");
    }
    service.query(request("SELECT 1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_take_the_types_of_the_query() {
    let rows = random_spans(4, 300);
    let house = house_with(&rows, 4);
    let service = service(&house, small());
    let expected = rows
        .iter()
        .filter(|span| span.status == "error" && span.span > 100)
        .count();
    let mut asked =
        request("SELECT span_id FROM spans WHERE status = $1 AND _offset > $2 AND event_time > $3");
    asked.params = vec![json!("error"), json!(100), json!("2020-01-01T00:00:00Z")];
    assert_eq!(service.query(asked.clone()).await.unwrap().row_count, expected);
    asked.params.pop();
    assert_eq!(service.query(asked.clone()).await.unwrap_err().code(), "PF-4063");
    asked.params.push(json!("not a time"));
    assert_eq!(service.query(asked.clone()).await.unwrap_err().code(), "PF-4063");
    asked.params[2] = json!({"a": 1});
    assert_eq!(service.query(asked).await.unwrap_err().code(), "PF-4063");
    let mut injection = request("SELECT count(*) FROM spans WHERE name = $1");
    injection.params = vec![json!("' OR true --")];
    let answer = service.query(injection).await.unwrap();
    assert_eq!(
        answer.batches[0].column(0).as_primitive::<Int64Type>().value(0),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn now_is_the_tick() {
    let house = any_house();
    let service = service(&house, small());
    let answer = service
        .query(request("SELECT now() AS n, current_timestamp AS c"))
        .await
        .unwrap();
    let tick = house.content.lock().tick as i64 * 1000;
    for column in answer.batches[0].columns() {
        assert_eq!(column.as_primitive::<TimestampMicrosecondType>().value(0), tick);
    }
    let rows = service
        .query(request(
            "SELECT * FROM spans WHERE event_time > now() - INTERVAL '1 hour'",
        ))
        .await
        .unwrap();
    assert!(rows.row_count > 0);
}
