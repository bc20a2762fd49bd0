//! SESSION and interval joins: what they become, and how that is said.

use pyflare_sql::{Explained, PlanScope, SqlError, Statement, explain, parse};

fn planned(select: &str) -> Result<Explained, SqlError> {
    let scope = PlanScope {
        project: Some("shop".into()),
        ..PlanScope::default()
    };
    match parse(&format!("CREATE MONITOR m AS {select}"), &scope)? {
        Statement::CreateMonitor(create) => explain(&create.definition, &scope),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_is_explained() {
    let explained = planned(
        "SELECT user_id, window_end, window_start, count(*) AS n FROM SESSION(spans, event_time, INTERVAL '30 minutes')
         WHERE status = 'error' GROUP BY user_id, window_start, window_end HAVING count(*) > 2",
    )
    .unwrap();
    let plan = &explained.plan;
    assert!(
        plan.contains(
            "Sessions: by user_id; event_time less than 30 minutes apart, cut at midnight; count(*)"
        ),
        "{plan}"
    );
    let (above, below) = plan.split_once("Sessions").unwrap();
    assert!(above.contains("Filter: (aggregate_1 > 2)"), "{plan}");
    assert!(
        below.contains("status") && below.contains("Project: event_time, user_id"),
        "{plan}"
    );
    assert!(
        explained
            .state_bound
            .contains("one accumulator per key and bucket of 30 minutes"),
        "{}",
        explained.state_bound
    );
    assert_eq!(explained.key, ["user_id", "window_start"]);
}

#[test]
fn conditions_on_the_window_stand_above_the_sessions_and_others_below() {
    for condition in ["WHERE", "GROUP BY user_id, window_start, window_end HAVING"] {
        let grouped = if condition == "WHERE" {
            "GROUP BY user_id, window_start, window_end"
        } else {
            ""
        };
        let explained = planned(&format!(
            "SELECT user_id, window_start, window_end, count(*) AS n FROM SESSION(spans, event_time, INTERVAL '5 minutes')
             {condition} user_id <> 'x' AND window_end > TIMESTAMP '2026-01-01T00:00:00Z' {grouped}",
        ))
        .unwrap();
        let (above, below) = explained.plan.split_once("Sessions").unwrap();
        assert!(above.contains("window_end >"), "{}", explained.plan);
        assert!(
            below.contains("user_id != \"x\"") || below.contains("user_id <> 'x'"),
            "{}",
            explained.plan
        );
    }
}

#[test]
fn a_session_that_nobody_groups_is_refused_with_the_way_out() {
    for select in [
        "SELECT span_id, window_start FROM SESSION(spans, event_time, INTERVAL '5 minutes')",
        "SELECT user_id, count(*) AS n FROM SESSION(spans, event_time, INTERVAL '5 minutes') GROUP BY user_id",
        "SELECT s.user_id, s.window_start, count(*) AS n FROM SESSION(spans, event_time, INTERVAL '5 minutes') AS s
         JOIN spans AS o ON s.user_id = o.user_id GROUP BY s.user_id, s.window_start",
        "SELECT user_id, window_start, count(*) AS n FROM SESSION(spans, event_time, INTERVAL '5 minutes')
         WHERE user_id IN (SELECT user_id FROM spans WHERE status = 'error') GROUP BY user_id, window_start",
    ] {
        let error = planned(select).unwrap_err();
        assert_eq!(error.code(), "PF-4006", "{select}: {error}");
        assert!(error.message.contains("SESSION"), "{error}");
        assert!(error.hint.is_some_and(|hint| hint.contains("GROUP BY")), "{select}");
    }
    // Of an end that no watermark tells, and of rows that would leave before their session is final.
    for (from, options) in [
        (
            "SESSION((SELECT user_id, start_time AS moment FROM spans), moment, INTERVAL '5 minutes')",
            "",
        ),
        (
            "SESSION(spans, event_time, INTERVAL '5 minutes')",
            "WITH (retention = '4 minutes')",
        ),
    ] {
        let select =
            format!("SELECT user_id, window_end, count(*) AS n FROM {from} GROUP BY user_id, window_end");
        let sql = format!("CREATE MONITOR ended {options} AS {select} EMIT FINAL");
        let error = parse(&sql, &PlanScope::default()).unwrap_err();
        assert_eq!(error.code(), "PF-4009", "{error}");
        assert!(error.message.contains("EMIT FINAL over SESSION"), "{error}");
    }
    planned(
        "SELECT user_id, window_end, count(*) AS n FROM SESSION((SELECT * FROM spans WHERE status = 'error'), event_time, INTERVAL '5 minutes')
         GROUP BY user_id, window_end EMIT FINAL",
    )
    .unwrap();
    let too_long = planned(
        "SELECT window_end, count(*) AS n FROM SESSION(spans, event_time, INTERVAL '25 hours') GROUP BY window_end",
    );
    assert_eq!(too_long.unwrap_err().code(), "PF-4007");
}

#[test]
fn an_interval_join_says_its_buckets() {
    let join = |kind: &str, on: &str| {
        planned(&format!(
            "SELECT a.span_id, b.span_id AS other FROM spans AS a {kind} spans AS b ON {on}"
        ))
    };
    let near = "b.event_time BETWEEN a.event_time AND a.event_time + INTERVAL '5 minutes'";
    let buckets = "interval join, buckets of 5 minutes";
    for (kind, on, found) in [
        ("JOIN", format!("a.trace_id = b.trace_id AND {near}"), true),
        ("LEFT JOIN", near.to_string(), true),
        (
            "JOIN",
            "a.trace_id = b.trace_id AND a.event_time - b.event_time <= INTERVAL '2 minutes'
             AND b.event_time - a.event_time <= INTERVAL '3 minutes'"
                .to_string(),
            true,
        ),
        (
            "RIGHT JOIN",
            format!("a.trace_id = b.trace_id AND {near} AND a.duration_ns > b.duration_ns"),
            true,
        ),
        ("FULL JOIN", format!("a.trace_id = b.trace_id AND {near}"), false),
        (
            "JOIN",
            "a.trace_id = b.trace_id AND b.event_time > a.event_time".to_string(),
            false,
        ),
    ] {
        let explained = join(kind, &on).unwrap();
        assert_eq!(
            explained.plan.contains(buckets),
            found,
            "{kind} {on}\n{}",
            explained.plan
        );
        assert!(
            !found
                || explained
                    .operators
                    .iter()
                    .any(|line| line.starts_with("interval join"))
        );
    }
    for (kind, on) in [("FULL JOIN", near), ("JOIN", "b.event_time > a.event_time")] {
        let error = join(kind, on).unwrap_err();
        assert_eq!(error.code(), "PF-4006", "{error}");
        assert!(
            error.hint.is_some_and(|hint| hint.contains("BETWEEN a.time")),
            "{kind} {on}"
        );
    }
    let numbers = join("JOIN", "b.duration_ns - a.duration_ns BETWEEN -10 AND 5").unwrap();
    assert!(numbers.plan.contains("buckets of 15"), "{}", numbers.plan);
}
