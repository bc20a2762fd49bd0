//! What is refused: with which code, at which place, and with a way out.

use pyflare_sql::{PlanScope, Position, SqlError, parse};

fn refusal(sql: &str) -> SqlError {
    match parse(
        sql,
        &PlanScope {
            project: Some("shop".into()),
            ..PlanScope::default()
        },
    ) {
        Err(error) => error,
        Ok(statement) => panic!("accepted: {sql}\n{statement:?}"),
    }
}

/// `(SELECT, code, word of the message, place of that text)`; an empty place means that none is known.
fn check(cases: &[(&str, &str, &str, &str)]) {
    const PREFIX: &str = "CREATE MONITOR m AS\n";
    let mut wrong = Vec::new();
    for (select, code, word, place) in cases {
        let error = refusal(&format!("{PREFIX}{select}"));
        let says_how = error.hint.is_some() || ["PF-4001", "PF-4002", "PF-4005", "PF-4009"].contains(code);
        let wanted = (!place.is_empty()).then(|| {
            let column = select
                .find(place)
                .unwrap_or_else(|| panic!("{place} is not in {select}"));
            Position {
                line: 2,
                column: column as u64 + 1,
            }
        });
        let found = error.position.filter(|_| wanted.is_some());
        if error.code() != *code || !error.message.contains(word) || !says_how || found != wanted {
            wrong.push(format!(
                "{select}\n  {error}\n  wanted {code}, {word:?}, {wanted:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn clauses_that_cannot_be_maintained() {
    check(&[
        (
            "SELECT model FROM spans ORDER BY name",
            "PF-4006",
            "ORDER BY",
            "name",
        ),
        (
            "SELECT name FROM spans LIMIT 3",
            "PF-4006",
            "LIMIT without ORDER BY",
            "SELECT",
        ),
        (
            "SELECT name FROM spans FETCH FIRST 3 ROWS ONLY",
            "PF-4006",
            "LIMIT without ORDER BY",
            "",
        ),
        (
            "SELECT name FROM spans ORDER BY name LIMIT 1000000",
            "PF-4006",
            "at most 100000 rows",
            "",
        ),
        (
            "SELECT a.name FROM spans a, logs b",
            "PF-4006",
            "every row with every row",
            "",
        ),
        (
            "SELECT a.name FROM (spans a CROSS JOIN logs b)",
            "PF-4006",
            "every row with every row",
            "",
        ),
        (
            "SELECT a.name FROM spans a JOIN spans b ON a.duration_ns < b.duration_ns",
            "PF-4006",
            "every row with every row",
            "",
        ),
        (
            "SELECT name FROM spans EXCEPT ALL SELECT name FROM spans",
            "PF-4006",
            "EXCEPT ALL",
            "",
        ),
        (
            "SELECT name FROM spans INTERSECT ALL SELECT name FROM spans",
            "PF-4006",
            "INTERSECT ALL",
            "",
        ),
        (
            "SELECT name, row_number() OVER (PARTITION BY model) AS r FROM spans",
            "PF-4006",
            "order of arrival",
            "",
        ),
        (
            "SELECT name, sum(duration_ns) OVER (PARTITION BY model ROWS 3 PRECEDING) AS r FROM spans",
            "PF-4006",
            "order of arrival",
            "",
        ),
        (
            "SELECT name, sum(duration_ns) OVER (ORDER BY duration_ns RANGE BETWEEN 5 PRECEDING AND CURRENT ROW) AS r FROM spans",
            "PF-4006",
            "RANGE",
            "",
        ),
        ("VALUES (1), (2)", "PF-4001", "expected SELECT", "VALUES"),
        (
            "SELECT a + 1 AS b FROM (VALUES (1), (2)) AS v(a)",
            "PF-4006",
            "VALUES",
            "",
        ),
        (
            "SELECT unnest(string_to_array(name, ' ')) AS a, unnest(string_to_array(model, ' ')) AS b FROM spans",
            "PF-4006",
            "one list",
            "",
        ),
        (
            "SELECT unnest(string_to_array(word, 'a')) AS part FROM (SELECT unnest(string_to_array(name, ' ')) AS word FROM spans)",
            "PF-4006",
            "unnest",
            "",
        ),
        (
            "SELECT name FROM spans WHERE status = 'ok' OR trace_id NOT IN (SELECT trace_id FROM logs)",
            "PF-4006",
            "inside another condition",
            "",
        ),
        (
            "SELECT name FROM spans AS s WHERE status = 'ok' OR (EXISTS (SELECT 1 FROM logs AS l WHERE l.trace_id = s.trace_id)) = (name = 'x')",
            "PF-4006",
            "inside another condition",
            "",
        ),
        (
            "SELECT s.name FROM spans s WHERE s.name NOT IN (SELECT l.body FROM logs l WHERE l.trace_id = s.trace_id)",
            "PF-4006",
            "NOT IN",
            "",
        ),
        (
            "SELECT name FROM spans WHERE duration_ns > (SELECT duration_ns FROM spans)",
            "PF-4006",
            "must have one row",
            "",
        ),
        (
            "SELECT name FROM spans WHERE duration_ns > ALL (SELECT 1 FROM logs)",
            "PF-4006",
            "ALL",
            "",
        ),
        (
            "SELECT DISTINCT ON (model) name FROM spans",
            "PF-4006",
            "DISTINCT ON without ORDER BY",
            "SELECT",
        ),
        (
            "SELECT DISTINCT ON (model) name FROM spans ORDER BY model, name LIMIT 3",
            "PF-4006",
            "DISTINCT ON with LIMIT",
            "SELECT",
        ),
        (
            "SELECT DISTINCT ON (model) name FROM spans ORDER BY name",
            "PF-4005",
            "DISTINCT ON",
            "",
        ),
        (
            "SELECT model, count(*) AS n FROM spans GROUP BY model WITH ROLLUP",
            "PF-4006",
            "WITH",
            "",
        ),
        (
            "SELECT count(*) AS n FROM SESSION(spans, event_time, INTERVAL '1 minute')",
            "PF-4006",
            "SESSION",
            "",
        ),
        (
            "SELECT name FROM spans, UNNEST(finish_reason)",
            "PF-4006",
            "UNNEST",
            "",
        ),
        (
            "SELECT name FROM generate_series(1, 10)",
            "PF-4006",
            "generate_series",
            "",
        ),
        (
            "SELECT name FROM spans TABLESAMPLE SYSTEM (10)",
            "PF-4006",
            "TABLESAMPLE",
            "",
        ),
        ("SELECT 1 AS one", "PF-4006", "FROM", "SELECT"),
        (
            "SELECT name FROM spans WHERE name SIMILAR TO 'a%'",
            "PF-4006",
            "SIMILAR TO",
            "",
        ),
        (
            "SELECT name FROM live.requests",
            "PF-4005",
            "no stream or view",
            "",
        ),
        ("SELECT name FROM history.spans", "PF-4006", "history", ""),
        (
            "WITH RECURSIVE a AS (SELECT name FROM spans) SELECT name FROM a",
            "PF-4006",
            "RECURSIVE",
            "",
        ),
        ("SELECT name FROM spans EMIT FINAL", "PF-4009", "EMIT FINAL", ""),
        (
            "SELECT model, count(*) AS n FROM TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY model EMIT FINAL",
            "PF-4009",
            "EMIT FINAL",
            "",
        ),
        ("SELECT name INTO other FROM spans", "PF-4006", "INTO", ""),
    ]);
}

#[test]
fn what_is_not_decided_by_the_row() {
    check(&[
        (
            "SELECT name, now() AS n FROM spans",
            "PF-4008",
            "in WHERE only",
            "",
        ),
        (
            "SELECT name, current_date AS d FROM spans",
            "PF-4008",
            "current_date",
            "current_date",
        ),
        (
            "SELECT name FROM spans WHERE random() < 0.1",
            "PF-4008",
            "random",
            "random",
        ),
        ("SELECT uuid() AS id FROM spans", "PF-4008", "uuid", "uuid"),
    ]);
}

#[test]
fn aggregates_and_groups() {
    check(&[
        (
            "SELECT count(*) AS n FROM spans GROUP BY CUBE (model, name, status, kind, provider)",
            "PF-4010",
            "32 groupings, at most 16",
            "",
        ),
        (
            "SELECT model, grouping(name) AS g FROM spans GROUP BY ROLLUP (model)",
            "PF-4005",
            "grouping",
            "",
        ),
        (
            "SELECT model, bit_and(duration_ns) AS s FROM spans GROUP BY model",
            "PF-4009",
            "bit_and",
            "bit_and",
        ),
        (
            "SELECT model, stddev(name) AS s FROM spans GROUP BY model",
            "PF-4009",
            "numbers",
            "",
        ),
        (
            "SELECT model, corr(duration_ns) AS s FROM spans GROUP BY model",
            "PF-4009",
            "two arguments",
            "",
        ),
        (
            "SELECT model, array_agg(duration_ns) AS s FROM spans GROUP BY model",
            "PF-4011",
            "List",
            "",
        ),
        (
            "SELECT model, first_value(name) AS s FROM spans GROUP BY model",
            "PF-4009",
            "order of arrival",
            "",
        ),
        (
            "SELECT model, string_agg(name, model ORDER BY name) AS s FROM spans GROUP BY model",
            "PF-4009",
            "constant",
            "",
        ),
        (
            "SELECT model, array_agg(DISTINCT name ORDER BY duration_ns) AS s FROM spans GROUP BY model",
            "PF-4009",
            "several places",
            "",
        ),
        (
            "SELECT model, sum(duration_ns ORDER BY name) AS s FROM spans GROUP BY model",
            "PF-4009",
            "no meaning",
            "sum",
        ),
        (
            "SELECT model, percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ns) AS p FROM spans GROUP BY model",
            "PF-4009",
            "percentile_cont",
            "percentile_cont",
        ),
        (
            "SELECT model, sum(name) AS n FROM spans GROUP BY model",
            "PF-4009",
            "numbers",
            "",
        ),
        (
            "SELECT model, quantile(duration_ns, 1.5) AS n FROM spans GROUP BY model",
            "PF-4009",
            "between 0 and 1",
            "",
        ),
        (
            "SELECT model, quantile(duration_ns, temperature) AS n FROM spans GROUP BY model",
            "PF-4009",
            "between 0 and 1",
            "",
        ),
        (
            "SELECT model, quantile(duration_ns) AS n FROM spans GROUP BY model",
            "PF-4009",
            "two arguments",
            "",
        ),
        (
            "SELECT model, name FROM spans GROUP BY model",
            "PF-4005",
            "name",
            "name",
        ),
        ("SELECT name FROM spans WHERE count(*) > 1", "PF-4005", "", ""),
    ]);
}

/// What is read several times, by what is read several times: it would double with every level.
#[test]
fn parts_that_would_multiply() {
    let mut over = "(SELECT model, 0 AS c FROM spans)".to_string();
    let mut grouped = "SELECT model, name FROM spans".to_string();
    for level in 0..18 {
        over = format!("(SELECT model, c + {level} + count(*) OVER () AS c FROM {over} AS r)");
        grouped = format!("SELECT model, name FROM ({grouped}) AS r GROUP BY CUBE (model, name)");
    }
    for select in [format!("SELECT * FROM {over} AS r"), grouped] {
        let error = refusal(&format!("CREATE MONITOR m AS {select}"));
        assert_eq!(error.code(), "PF-4002", "{error}\n{select}");
        assert!(error.hint.is_some(), "{error}");
    }
}

#[test]
fn windows_that_are_none() {
    let cases = [
        "TUMBLE(spans, event_time)",
        "TUMBLE(spans, event_time, INTERVAL '1 month')",
        "TUMBLE(spans, event_time, INTERVAL '0 seconds')",
        "TUMBLE(spans, event_time, INTERVAL '-1 minute')",
        "TUMBLE(spans, event_time, INTERVAL '10 milliseconds')",
        "TUMBLE(spans, event_time, INTERVAL '1000 days')",
        "TUMBLE(spans, event_time, '1 minute')",
        "TUMBLE(spans, event_time, 60)",
        "TUMBLE(spans, name, INTERVAL '1 minute')",
        "TUMBLE(spans, event_time + INTERVAL '1 hour', INTERVAL '1 minute')",
        "TUMBLE('spans', event_time, INTERVAL '1 minute')",
        "TUMBLE((SELECT event_time, 1 AS window_end FROM spans), event_time, INTERVAL '1 minute')",
        "HOP(spans, event_time, INTERVAL '1 minute')",
        "HOP(spans, event_time, INTERVAL '2 minutes', INTERVAL '1 minute')",
        "HOP(spans, event_time, INTERVAL '1 second', INTERVAL '1 day')",
    ];
    for relation in cases {
        let error = refusal(&format!(
            "CREATE MONITOR m AS SELECT window_start, count(*) AS n FROM {relation} GROUP BY 1"
        ));
        assert_eq!(error.code(), "PF-4007", "{relation}\n{error}");
        assert!(error.hint.is_some(), "{error}");
    }
    let nested = "CREATE MONITOR m AS WITH a AS (SELECT name, event_time FROM TUMBLE(spans, event_time, INTERVAL '1 minute')) \
                  SELECT window_start, count(*) AS n FROM TUMBLE(a, event_time, INTERVAL '1 hour') GROUP BY 1";
    assert_eq!(refusal(nested).code(), "PF-4007");
}

#[test]
fn names_types_and_meaning() {
    check(&[
        ("SELECT modle FROM spans", "PF-4005", "modle", "modle"),
        ("SELECT name FROM spnas", "PF-4005", "spnas", ""),
        ("SELECT nosuch(name) FROM spans", "PF-4005", "nosuch", "nosuch"),
        (
            "SELECT name + duration_ns FROM spans WHERE name = 1 + true",
            "PF-4005",
            "",
            "",
        ),
        ("SELECT name FROM spans WHERE duration_ns", "PF-4005", "", ""),
        ("SELECT name AS a, model AS a FROM spans", "PF-4005", "a", ""),
        (
            "SELECT name AS \"Total Cost\" FROM spans",
            "PF-4011",
            "Total Cost",
            "",
        ),
        ("SELECT _tick FROM spans", "PF-4011", "_tick", ""),
        ("SELECT name AS _diff FROM spans", "PF-4011", "_diff", ""),
        ("SELECT NULL AS nothing FROM spans", "PF-4011", "NULL", ""),
        (
            "SELECT end_time - start_time AS took FROM spans",
            "PF-4011",
            "took",
            "",
        ),
        ("SELECT sha256(name) AS hash FROM spans", "PF-4011", "Binary", ""),
    ]);
}

#[test]
fn the_wrapper() {
    let cases = [
        ("CREATE MONITOR a$b AS SELECT name FROM spans", "PF-4003"),
        ("CREATE MONITOR \"Über\" AS SELECT name FROM spans", "PF-4003"),
        ("CREATE MONITOR 1a AS SELECT name FROM spans", "PF-4001"),
        ("CREATE MONITOR a.b AS SELECT name FROM spans", "PF-4003"),
        ("CREATE MONITOR AS SELECT name FROM spans", "PF-4001"),
        ("CREATE MONITOR a SELECT name FROM spans", "PF-4001"),
        ("CREATE MONITOR a AS", "PF-4001"),
        ("CREATE MONITOR a AS INSERT INTO spans VALUES (1)", "PF-4001"),
        ("CREATE MONITOR a AS SELECT name FROM", "PF-4001"),
        ("CREATE MONITOR a AS SELECT name FROM spans WHERE", "PF-4001"),
        ("CREATE MONITOR a AS SELECT 'open FROM spans", "PF-4001"),
        (
            "CREATE MONITOR a AS SELECT name FROM spans; DROP MONITOR a",
            "PF-4001",
        ),
        (
            "CREATE MONITOR a AS SELECT name FROM spans EMIT SOMETIMES",
            "PF-4001",
        ),
        (
            "CREATE OR REPLACE MONITOR IF NOT EXISTS a AS SELECT name FROM spans",
            "PF-4001",
        ),
        (
            "CREATE MONITOR a WITH (retention = '3 fortnights') AS SELECT name FROM spans",
            "PF-4004",
        ),
        (
            "CREATE MONITOR a WITH (retention = 48) AS SELECT name FROM spans",
            "PF-4004",
        ),
        (
            "CREATE MONITOR a WITH (retention = '0 seconds') AS SELECT name FROM spans",
            "PF-4004",
        ),
        (
            "CREATE MONITOR a WITH (lateness = '400 days') AS SELECT name FROM spans",
            "PF-4004",
        ),
        (
            "CREATE MONITOR a WITH (colour = 'red') AS SELECT name FROM spans",
            "PF-4004",
        ),
        (
            "CREATE MONITOR a WITH (lateness = '1 s', lateness = '2 s') AS SELECT name FROM spans",
            "PF-4004",
        ),
        ("DROP MONITOR", "PF-4001"),
        ("DROP MONITOR a, b", "PF-4001"),
        ("DROP MONITOR a CASCADE b", "PF-4001"),
        ("SHOW MONITORS LIKE 'a'", "PF-4001"),
    ];
    let wrong: Vec<String> = cases
        .iter()
        .map(|(sql, code)| (sql, code, refusal(sql)))
        .filter(|(_, code, error)| error.code() != **code)
        .map(|(sql, code, error)| format!("{sql}\n  {error}\n  wanted {code}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let long = format!("CREATE MONITOR {} AS SELECT name FROM spans", "a".repeat(64));
    assert_eq!(refusal(&long).code(), "PF-4003");
}

#[test]
fn syntax_errors_know_their_place() {
    let error = refusal("CREATE MONITOR a AS\nSELECT name,\n  FROM spans WHERE )");
    assert_eq!(error.code(), "PF-4001");
    assert!(
        error.position.is_some_and(|position| position.line == 3),
        "{error}"
    );
    let error = refusal("CREATE MONITOR a AS SELECT 'open FROM spans");
    assert!(error.position.is_some(), "{error}");
}
