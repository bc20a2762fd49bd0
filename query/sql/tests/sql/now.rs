//! `now()`: the forms in which it is understood, and where it is refused.

use pyflare_dataflows::Plan;
use pyflare_sql::{PlanScope, SqlError, Statement, explain, parse};

const SECOND: i64 = 1_000_000;

fn scope() -> PlanScope {
    PlanScope {
        project: Some("shop".into()),
        ..PlanScope::default()
    }
}

fn planned(select: &str) -> Result<Plan, SqlError> {
    match parse(&format!("CREATE MONITOR m AS {select}"), &scope())? {
        Statement::CreateMonitor(create) => Ok(create.definition.plan),
        other => panic!("{select}\n{other:?}"),
    }
}

/// After, until and quantum of a bounded source.
type Bounds = (Option<i64>, Option<i64>, i64);

/// Those of every bounded source, in the plan's order.
fn bounds(plan: &Plan) -> Vec<Bounds> {
    let mut found = match plan {
        Plan::Recent {
            input,
            after_us,
            until_us,
            quantum_us,
        } => {
            assert!(matches!(**input, Plan::Source { .. }), "{plan:?}");
            vec![(*after_us, *until_us, *quantum_us)]
        }
        _ => Vec::new(),
    };
    found.extend(plan.inputs().into_iter().flat_map(bounds));
    found
}

#[test]
fn a_bound_is_understood_in_every_form() {
    let minutes = 300 * SECOND;
    let after = (Some(minutes), None, 5 * SECOND);
    let cases = [
        ("event_time > now() - INTERVAL '5 minutes'", after),
        ("now() - INTERVAL '5 minutes' < event_time", after),
        ("now() - event_time < INTERVAL '5 minutes'", after),
        ("INTERVAL '5 minutes' > now() - event_time", after),
        ("event_time + INTERVAL '5 minutes' > now()", after),
        ("event_time - now() > INTERVAL '-5 minutes'", after),
        (
            "event_time > CURRENT_TIMESTAMP - INTERVAL '4 minutes' - INTERVAL '60 seconds'",
            after,
        ),
        ("NOT event_time <= now() - INTERVAL '5 minutes'", after),
        (
            "event_time > now() - INTERVAL '5 minutes' AND event_time > now() - INTERVAL '1 hour' AND status = 'ok'",
            after,
        ),
        (
            "event_time >= now() - INTERVAL '5 minutes'",
            (Some(minutes + 1), None, 5 * SECOND),
        ),
        ("event_time <= now()", (None, Some(0), SECOND)),
        ("event_time < now()", (None, Some(1), SECOND)),
        (
            "event_time BETWEEN now() - INTERVAL '1 day' AND now() - INTERVAL '1 hour'",
            (Some(86_400 * SECOND + 1), Some(3_600 * SECOND), 900 * SECOND),
        ),
        (
            "event_time > now() + INTERVAL '2 seconds'",
            (Some(-2 * SECOND), None, SECOND),
        ),
    ];
    for (condition, wanted) in cases {
        let plan = planned(&format!(
            "SELECT model, count(*) AS n FROM spans WHERE {condition} GROUP BY model"
        ));
        let plan = plan.unwrap_or_else(|error| panic!("{condition}: {error}"));
        assert_eq!(bounds(&plan), [wanted], "{condition}");
    }
}

#[test]
fn a_bound_is_found_below_joins_unions_and_names() {
    let second = |seconds: i64| (Some(seconds * SECOND), None, SECOND);
    let cases: [(&str, Vec<Bounds>); 4] = [
        (
            "SELECT name FROM (SELECT name, event_time AS happened FROM spans) AS s WHERE happened > now() - INTERVAL '9 seconds'",
            vec![second(9)],
        ),
        (
            "SELECT s.name FROM spans AS s JOIN logs AS l ON s.trace_id = l.trace_id
             WHERE s.event_time > now() - INTERVAL '9 seconds' AND l.event_time > now() - INTERVAL '8 seconds'",
            vec![second(9), second(8)],
        ),
        (
            "SELECT trace_id FROM (SELECT trace_id, event_time FROM spans UNION ALL SELECT trace_id, event_time FROM logs) AS u
             WHERE event_time > now() - INTERVAL '9 seconds'",
            vec![second(9), second(9)],
        ),
        (
            "SELECT name FROM spans WHERE trace_id IN (SELECT trace_id FROM logs WHERE event_time > now() - INTERVAL '7 seconds')",
            vec![second(7)],
        ),
    ];
    for (select, wanted) in cases {
        let plan = planned(select).unwrap_or_else(|error| panic!("{select}: {error}"));
        assert_eq!(bounds(&plan), wanted, "{select}");
    }
}

#[test]
fn elsewhere_it_is_refused() {
    let recent = "event_time > now() - INTERVAL '5 minutes'";
    let cases = [
        ("SELECT now() AS n, name FROM spans".to_string(), "in WHERE only"),
        ("SELECT now() - event_time AS age FROM spans".to_string(), "in WHERE only"),
        (format!("SELECT model, count(*) FILTER (WHERE {recent}) AS n FROM spans GROUP BY model"), "in WHERE only"),
        ("SELECT model FROM spans GROUP BY model HAVING max(event_time) > now() - INTERVAL '5 minutes'".to_string(), "in WHERE only"),
        (format!("SELECT name FROM spans WHERE status = 'error' OR {recent}"), "in WHERE only"),
        ("SELECT name FROM spans WHERE event_time = now()".to_string(), "in WHERE only"),
        ("SELECT name FROM spans WHERE event_time > date_trunc('hour', now())".to_string(), "in WHERE only"),
        ("SELECT name FROM spans WHERE event_time > now() - duration_ns * INTERVAL '1 second'".to_string(), ""),
        ("SELECT name FROM spans WHERE start_time > now() - INTERVAL '5 minutes'".to_string(), "the event time of spans"),
        ("SELECT name FROM spans WHERE event_time > now() - INTERVAL '1 month'".to_string(), "months"),
        ("SELECT name FROM spans WHERE event_time > now() - INTERVAL '1000 days'".to_string(), "at most 366 days"),
        (
            format!("SELECT window_start, count(*) AS n FROM TUMBLE(spans, event_time, INTERVAL '1 minute') WHERE {recent} GROUP BY window_start"),
            "a window",
        ),
        (
            "SELECT window_start, count(*) AS n FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
             WHERE window_end > now() - INTERVAL '1 hour' GROUP BY window_start"
                .to_string(),
            "a window",
        ),
        (
            "SELECT a.name FROM spans AS a JOIN spans AS b ON a.trace_id = b.trace_id AND a.event_time + (b.event_time - now()) > a.start_time"
                .to_string(),
            "",
        ),
    ];
    let mut wrong = Vec::new();
    for (select, word) in cases {
        match planned(&select) {
            Err(error) if word.is_empty() => assert!(
                error.hint.is_some() || error.code() == "PF-4005",
                "{select}: {error}"
            ),
            Err(error)
                if error.code() == "PF-4008" && error.message.contains(word) && error.hint.is_some() => {}
            Err(error) => wrong.push(format!("{select}\n  {error}")),
            Ok(plan) => wrong.push(format!("{select}\n  accepted: {plan:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn it_is_explained() {
    let sql = "CREATE MONITOR m AS SELECT model, count(*) AS n FROM spans
               WHERE event_time BETWEEN now() - INTERVAL '1 hour' AND now() - INTERVAL '5 minutes' GROUP BY model";
    let Ok(Statement::CreateMonitor(create)) = parse(sql, &scope()) else {
        panic!("{sql}");
    };
    let explained = explain(&create.definition, &scope()).unwrap();
    assert!(
        explained
            .plan
            .contains("Recent: now − 1 hour ≤ event_time ≤ now − 5 minutes; now in steps of 1 minute"),
        "{}",
        explained.plan
    );
}
