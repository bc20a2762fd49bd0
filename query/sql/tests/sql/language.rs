//! What the monitor language accepts, and what it becomes.

use pyflare_dataflows::plan::builtin::FILES;
use pyflare_dataflows::{MonitorDefinition, Plan};
use pyflare_operators::fields::type_name;
use pyflare_sql::{PlanScope, Statement, builtin_view, explain, parse};

fn scope() -> PlanScope {
    PlanScope {
        project: Some("shop".into()),
        ..PlanScope::default()
    }
}

fn define(select: &str) -> MonitorDefinition {
    let sql = format!("CREATE MONITOR m AS {select}");
    match parse(&sql, &scope()) {
        Ok(Statement::CreateMonitor(create)) => create.definition,
        other => panic!("{select}\n{other:?}"),
    }
}

fn plan_text(select: &str) -> String {
    explain(&define(select), &PlanScope::default()).unwrap().plan
}

fn columns(definition: &MonitorDefinition) -> Vec<String> {
    let schema = definition.plan.schema().unwrap();
    schema
        .fields()
        .iter()
        .map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
        .collect()
}

#[test]
fn the_built_in_views_plan_and_have_the_promised_columns() {
    let expected: &[(&str, &[&str])] = &[
        (
            "errors",
            &["errors Int64", "requests Int64", "error_rate Float64"],
        ),
        (
            "latency",
            &[
                "p50_ms Float64",
                "p90_ms Float64",
                "p95_ms Float64",
                "p99_ms Float64",
                "avg_ms Float64",
            ],
        ),
        ("requests", &["requests Int64"]),
        (
            "tokens",
            &[
                "input_tokens Int64",
                "output_tokens Int64",
                "cache_read_tokens Int64",
                "cache_write_tokens Int64",
                "reasoning_tokens Int64",
            ],
        ),
    ];
    let names: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for ((name, sql), (_, values)) in FILES.iter().zip(expected) {
        let definition = builtin_view(name, sql).unwrap();
        let mut all = vec![
            "project Utf8",
            "service_name Utf8",
            "model Utf8",
            "window_start Timestamp(µs, UTC)",
            "window_end Timestamp(µs, UTC)",
        ];
        all.extend(*values);
        assert_eq!(columns(&definition), all, "{name}");
        assert_eq!(definition.project, None);
        assert_eq!(definition.retention_us(), 6 * 3_600 * 1_000_000);
        let explained = explain(&definition, &PlanScope::default()).unwrap();
        assert_eq!(
            explained.key,
            ["project", "service_name", "model", "window_start", "window_end"],
            "{name}"
        );
    }
}

#[test]
fn requests_becomes_one_aggregate_over_one_window() {
    let (_, sql) = FILES.iter().find(|(name, _)| *name == "requests").unwrap();
    let explained = explain(&builtin_view("requests.sql", sql).unwrap(), &PlanScope::default()).unwrap();
    let nodes: Vec<&str> = explained
        .plan
        .lines()
        .map(|line| line.trim().split(':').next().unwrap())
        .collect();
    assert_eq!(nodes, ["Aggregate", "Tumble", "Source"], "{}", explained.plan);
}

#[test]
fn the_user_s_filter_by_project_is_the_first_thing_above_the_stream() {
    let text = plan_text("SELECT model, count(*) AS n FROM spans WHERE 1 / duration_ns > 0 GROUP BY model");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines.last(), Some(&"Source: spans"));
    assert_eq!(lines[lines.len() - 2], "Filter: (project = 'shop')");
    assert!(lines[lines.len() - 3].contains("duration_ns"), "{text}");
}

#[test]
fn built_in_views_must_lead_with_the_project_they_group_by() {
    let code = |name: &str, sql: &str| builtin_view(name, sql).unwrap_err().code();
    assert_eq!(
        code(
            "a",
            "CREATE MONITOR a AS SELECT model, count(*) AS n FROM spans GROUP BY model"
        ),
        "PF-4012"
    );
    let swapped = "CREATE MONITOR a AS SELECT count(*) AS project, model FROM spans GROUP BY model";
    assert_eq!(code("a", swapped), "PF-4012");
    let renamed = "CREATE MONITOR a AS SELECT model AS project, count(*) AS n FROM spans GROUP BY model";
    assert_eq!(code("a", renamed), "PF-4012");
    assert_eq!(
        code(
            "b.sql",
            "CREATE MONITOR a AS SELECT project, count(*) AS n FROM spans GROUP BY project"
        ),
        "PF-4012"
    );
    assert_eq!(code("a", "SELECT 1"), "PF-4012");
    assert!(
        builtin_view(
            "a.sql",
            "CREATE MONITOR a AS SELECT project, count(*) AS n FROM spans GROUP BY project"
        )
        .is_ok()
    );
}

#[test]
fn statements_are_told_apart() {
    let parsed = |sql: &str| parse(sql, &scope()).unwrap();
    assert!(matches!(parsed("show monitors;"), Statement::ShowMonitors));
    assert!(matches!(
        parsed("DROP MONITOR a"),
        Statement::DropMonitor { if_exists: false, .. }
    ));
    assert!(
        matches!(parsed("drop monitor if exists A"), Statement::DropMonitor { if_exists: true, name, cascade: false } if name == "a")
    );
    assert!(matches!(
        parsed("DROP MONITOR a CASCADE"),
        Statement::DropMonitor { cascade: true, .. }
    ));
    assert!(
        matches!(parsed("EXPLAIN MONITOR a"), Statement::ExplainNamedMonitor { name, analyze: false } if name == "a")
    );
    assert!(
        matches!(parsed("explain analyze monitor a"), Statement::ExplainNamedMonitor { name, analyze: true } if name == "a")
    );
    assert!(matches!(parsed("EXPLAIN ANALYZE SELECT 1"), Statement::Query(_)));
    let refused = pyflare_sql::parse(
        "EXPLAIN ANALYZE MONITOR SELECT name FROM spans",
        &PlanScope::default(),
    );
    assert_eq!(refused.unwrap_err().code(), "PF-4001");
    assert!(matches!(
        parsed("EXPLAIN MONITOR SELECT name FROM spans"),
        Statement::ExplainMonitor(_)
    ));
    let commented =
        "-- a comment\n/* another */ create or replace monitor a as select name from spans emit changes;";
    assert!(matches!(parsed(commented), Statement::CreateMonitor(create) if create.or_replace));
    let careful = parsed("CREATE MONITOR IF NOT EXISTS a AS SELECT name FROM spans");
    assert!(matches!(careful, Statement::CreateMonitor(create) if create.if_not_exists));
    for query in [
        "SELECT 1",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "CREATE TABLE monitor (a INT)",
        "",
        "garbage '",
        "ÄÖÜ",
    ] {
        assert!(
            matches!(parsed(query), Statement::Query(text) if text == query),
            "{query}"
        );
    }
}

#[test]
fn options_are_read() {
    let sql = "CREATE MONITOR a WITH (retention = '48 hours', lateness = '1 minute 30 seconds', description = 'It''s mine') \
               AS SELECT name FROM spans";
    let Statement::CreateMonitor(create) = parse(sql, &scope()).unwrap() else {
        panic!()
    };
    assert_eq!(create.definition.retention_us(), 48 * 3_600_000_000);
    assert_eq!(create.definition.lateness_us(), 90_000_000);
    assert_eq!(
        create.definition.options.description.as_deref(),
        Some("It's mine")
    );
}

#[test]
fn an_altered_monitor_is_its_statement_with_other_options() {
    let altered = |created: &str, change: &str| {
        let Statement::CreateMonitor(create) = parse(created, &scope()).unwrap() else {
            panic!("{created}")
        };
        let Statement::AlterMonitor { name, changes, .. } = parse(change, &scope()).unwrap() else {
            panic!("{change}")
        };
        assert_eq!(name, "a");
        let text = changes.statement(&create.definition).unwrap();
        let Statement::CreateMonitor(again) = parse(&text, &scope()).unwrap() else {
            panic!("{text}")
        };
        assert!(again.or_replace);
        assert_eq!(again.definition.plan, create.definition.plan);
        text
    };
    let created = "CREATE MONITOR a WITH (retention = '90 minutes', description = 'It''s ☃ mine')\n  AS /* ☃ */ \
                   SELECT name, 'AS ☃' AS text FROM spans WHERE name <> 'WITH' EMIT CHANGES";
    let rest = "SELECT name, 'AS ☃' AS text FROM spans WHERE name <> 'WITH' EMIT CHANGES";
    for (change, options) in [
        (
            "ALTER MONITOR a SET (retention = '2 days', lateness = '0 seconds', max_rows = 7)",
            " WITH (retention = '2 days', lateness = '0 seconds', description = 'It''s ☃ mine', max_rows = '7')",
        ),
        (
            "alter monitor if exists a set (description = 'new');",
            " WITH (retention = '90 minutes', description = 'new')",
        ),
        ("ALTER MONITOR a RESET (retention, description)", ""),
        (
            "ALTER MONITOR a RESET (max_rows)",
            " WITH (retention = '90 minutes', description = 'It''s ☃ mine')",
        ),
    ] {
        assert_eq!(
            altered(created, change),
            format!("CREATE OR REPLACE MONITOR a{options} AS {rest}"),
            "{change}"
        );
    }
    let closed = "CREATE MONITOR IF NOT EXISTS a AS SELECT window_start, count(*) AS n \
                  FROM TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY 1 EMIT FINAL";
    let text = altered(closed, "ALTER MONITOR a SET (max_updates_per_second = '7')");
    assert!(text.starts_with("CREATE OR REPLACE MONITOR a WITH (max_updates_per_second = '7') AS SELECT"));
    let text = altered(closed, "ALTER MONITOR a SET (max_tick_rows = '1_000')");
    assert!(
        text.starts_with("CREATE OR REPLACE MONITOR a WITH (max_tick_rows = '1000') AS SELECT window_start")
    );
    assert!(text.ends_with("EMIT FINAL"));
}

#[test]
fn hidden_columns_are_selected_only_by_name() {
    let star = columns(&define("SELECT * FROM spans"));
    assert!(
        star.iter().any(|column| column == "trace_id Utf8")
            && !star.iter().any(|column| column.starts_with('_'))
    );
    let windowed = columns(&define(
        "SELECT * FROM TUMBLE(spans, event_time, INTERVAL '1 minute')",
    ));
    assert_eq!(windowed.len(), star.len() + 2);
    let fewer = columns(&define("SELECT * EXCLUDE (attributes, _row) FROM spans AS s"));
    assert_eq!(fewer.len(), star.len() - 1);
    let qualified = columns(&define("SELECT s.* FROM spans AS s"));
    assert_eq!(qualified, star);
    assert_eq!(
        columns(&define("SELECT _tick AS tick FROM spans")),
        ["tick Int64"]
    );
    let named = define("WITH spans AS (SELECT name, _offset AS at FROM spans) SELECT * FROM spans");
    assert_eq!(columns(&named), ["name Utf8", "at Int64"]);
}

#[test]
fn everything_the_first_slice_promises_is_accepted() {
    let window = "FROM TUMBLE(spans, event_time, INTERVAL '1 minute')";
    let selects = [
        format!("SELECT window_start, count(*) {window} GROUP BY window_start"),
        format!("SELECT window_end, model, sum(input_tokens) AS s, avg(temperature), min(name), max(event_time) {window} GROUP BY ALL"),
        format!("SELECT window_start, quantile(duration_ns, 0.5), approx_percentile_cont(duration_ns, 0.95), median(temperature), approx_median(duration_ns) {window} GROUP BY 1"),
        format!("SELECT window_start, approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ns) AS p {window} GROUP BY 1"),
        format!("SELECT window_start, count(*) FILTER (WHERE status = 'error') AS e {window} GROUP BY window_start HAVING count(*) > 10"),
        "SELECT DISTINCT model, service_name FROM spans".into(),
        "SELECT DISTINCT lower(model) AS m FROM spans WHERE model IS NOT NULL".into(),
        "SELECT name, CASE WHEN duration_ns > 1000000 THEN 'slow' ELSE 'fast' END AS speed FROM spans".into(),
        "SELECT CAST(duration_ns AS DOUBLE) / 1e6 AS ms, TRY_CAST(attributes['k'] AS BIGINT) AS k FROM spans".into(),
        "SELECT name FROM spans WHERE model IN ('a', 'b') AND name LIKE 'chat%' AND duration_ns BETWEEN 1 AND 10".into(),
        "SELECT name FROM spans WHERE model NOT IN ('a') OR name NOT ILIKE '%x%' OR NOT (kind = 'server')".into(),
        "SELECT coalesce(model, 'none') AS model, nullif(name, '') AS name FROM spans".into(),
        "SELECT date_trunc('hour', event_time) AS hour, count(*) AS n FROM spans GROUP BY 1".into(),
        "SELECT date_bin(INTERVAL '15 minutes', event_time) AS bin, count(*) AS n FROM spans GROUP BY 1".into(),
        "WITH slow AS (SELECT * FROM spans WHERE duration_ns > 1000000) SELECT model, count(*) AS n FROM slow GROUP BY model".into(),
        "WITH slow AS (SELECT model, event_time AS at FROM spans) SELECT window_start, model, count(*) AS n FROM TUMBLE(slow, at, INTERVAL '10 seconds') GROUP BY window_start, model".into(),
        "SELECT m, n * 2 AS twice FROM (SELECT model AS m, count(*) AS n FROM spans GROUP BY model) AS counted WHERE n > 1".into(),
        "SELECT w.window_start, w.model, count(*) AS n FROM TUMBLE(spans, event_time, INTERVAL '1' MINUTE) AS w GROUP BY w.window_start, w.model".into(),
        "SELECT window_start, count(*) AS n FROM TUMBLE((SELECT * FROM spans WHERE status = 'error'), event_time, INTERVAL '1 minute') GROUP BY window_start".into(),
        "SELECT severity_text, count(*) AS n FROM logs GROUP BY 1".into(),
        "SELECT attributes['user.id'] AS user_id, sum(reported_cost) AS cost FROM spans GROUP BY 1".into(),
        "SELECT regexp_replace(name, '[0-9]+', '#') AS shape, count(*) AS n FROM spans WHERE name ~ '^GET' GROUP BY 1".into(),
        "SELECT extract(hour FROM event_time) AS hour, count(*) AS n FROM spans GROUP BY 1".into(),
        "SELECT name FROM spans WHERE event_time >= TIMESTAMP '2026-01-01T00:00:00Z' AND start_time < end_time - INTERVAL '1 second'".into(),
        "SELECT model, min(DISTINCT name) AS first FROM spans GROUP BY model".into(),
        "SELECT upper(name), upper(model), duration_ns + 1 FROM spans".into(),
        "SELECT name, NULL::text AS nothing, 1 AS one, 1.5 AS half, true AS yes FROM spans".into(),
        "(SELECT name FROM spans)".into(),
    ];
    for select in selects {
        let definition = define(&select);
        let text = serde_json::to_string(&definition).unwrap();
        assert_eq!(
            serde_json::from_str::<MonitorDefinition>(&text).unwrap(),
            definition,
            "{select}"
        );
        // Planning again gives the same plan, so the fingerprint is one of the meaning.
        assert_eq!(
            define(&select).fingerprint(),
            definition.fingerprint(),
            "{select}"
        );
    }
}

#[test]
fn columns_get_speakable_names_and_the_view_s_types() {
    let definition = define(
        "SELECT upper(name), duration_ns + 1, length(name) AS l, CAST(temperature AS REAL) AS t, \
                             CAST(event_time AS DATE) AS day FROM spans",
    );
    let expected = [
        "upper Utf8",
        "column_2 Int64",
        "l Int32",
        "t Float64",
        "day Timestamp(µs, UTC)",
    ];
    assert_eq!(columns(&definition), expected);
    let counted = define(
        "SELECT model, count(*), count(name), count(*) FILTER (WHERE status = 'ok') FROM spans GROUP BY model",
    );
    assert_eq!(
        columns(&counted),
        ["model Utf8", "count Int64", "count_2 Int64", "count_3 Int64"]
    );
}

#[test]
fn names_move_into_the_aggregate_so_that_nothing_runs_above_it() {
    let definition = define("SELECT model AS m, count(*) AS n FROM spans GROUP BY model HAVING count(*) > 3");
    let Plan::Filter { input, predicate } = &definition.plan else {
        panic!("{:?}", definition.plan)
    };
    assert_eq!(predicate.to_string(), "(n > 3)");
    assert!(matches!(input.as_ref(), Plan::Aggregate { .. }));
    assert_eq!(columns(&definition), ["m Utf8", "n Int64"]);
}

#[test]
fn the_same_meaning_has_one_fingerprint_and_another_project_another() {
    let one =
        define("SELECT model, count(*) AS n FROM spans WHERE duration_ns BETWEEN 1 AND 2 GROUP BY model");
    let two = define(
        "select s.model, count(1) n from spans s where s.duration_ns >= 1 and s.duration_ns <= 2 group by 1",
    );
    assert_eq!(one.fingerprint(), two.fingerprint());
    let sql = "CREATE MONITOR m AS SELECT model, count(*) AS n FROM spans WHERE duration_ns BETWEEN 1 AND 2 GROUP BY model";
    let Statement::CreateMonitor(other) = parse(
        sql,
        &PlanScope {
            project: Some("other".into()),
            ..PlanScope::default()
        },
    )
    .unwrap() else {
        panic!()
    };
    assert_ne!(other.definition.fingerprint(), one.fingerprint());
}

#[test]
fn a_project_s_name_is_a_constant_whatever_it_contains() {
    let hostile = PlanScope {
        project: Some("x' OR 'a' = 'a".into()),
        ..PlanScope::default()
    };
    let Statement::CreateMonitor(create) =
        parse("CREATE MONITOR m AS SELECT name FROM spans", &hostile).unwrap()
    else {
        panic!()
    };
    let text = explain(&create.definition, &PlanScope::default()).unwrap().plan;
    assert!(text.contains("(project = 'x'' OR ''a'' = ''a')"), "{text}");
}

#[test]
fn explain_says_what_is_kept() {
    let Statement::ExplainMonitor(explained) = parse(
        "EXPLAIN MONITOR CREATE MONITOR m WITH (retention = '1 hour') AS SELECT window_start, model, count(*) AS n \
         FROM TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY window_start, model",
        &scope(),
    )
    .unwrap() else {
        panic!()
    };
    assert!(
        explained.state_bound.contains("61 windows"),
        "{}",
        explained.state_bound
    );
    assert_eq!(explained.key, ["window_start", "model"]);
    assert!(explained.logical.contains("Tumble"));
    assert!(explained.lines().iter().any(|(topic, _)| *topic == "operators"));
}
