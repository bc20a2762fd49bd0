//! Graphs whose panes expire, whose windows close, or whose join keys fail.
//!
//! All leaves of one monitor have panes of one length, so that which rows live is decided as for a single leaf.

use crate::cases::{Case, Errors, text};

struct Text {
    name: &'static str,
    options: &'static str,
    select: &'static str,
    window_s: Option<i64>,
    rows: &'static str,
    /// How many bases it reads: each leaves out late rows by itself.
    bases: i64,
    /// Every row of the result comes from one pane: what is stored of it is the batch over all rows that were in time.
    one_pane: bool,
}

const BRIEF: &str = "retention = '100 seconds', lateness = '5 seconds'";

const TEXTS: &[Text] = &[
    Text {
        name: "brief_join",
        options: BRIEF,
        select: "SELECT a.service_name, a.window_start, a.calls, b.worst
         FROM (SELECT service_name, window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY service_name, window_start) AS a
         JOIN (SELECT window_start, max(duration_ns) AS worst FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY window_start) AS b ON a.window_start = b.window_start",
        window_s: Some(30),
        rows: "true",
        bases: 2,
        one_pane: true,
    },
    Text {
        name: "brief_neighbours",
        options: BRIEF,
        select: "SELECT a.model, a.window_end AS middle, a.calls, b.calls AS after
         FROM (SELECT model, window_start, window_end, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY model, window_start, window_end) AS a
         LEFT JOIN (SELECT model, window_start, window_end, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY model, window_start, window_end) AS b ON a.model = b.model AND a.window_end = b.window_start",
        window_s: Some(30),
        rows: "true",
        bases: 1,
        one_pane: false,
    },
    Text {
        name: "brief_union",
        options: BRIEF,
        select: "SELECT 'user' AS kind, user_id AS name, window_start, count(*) AS calls
         FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY user_id, window_start
         UNION ALL SELECT 'service', service_name, window_start, count(*)
         FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY service_name, window_start",
        window_s: Some(30),
        rows: "true",
        bases: 2,
        one_pane: true,
    },
    Text {
        name: "brief_top",
        options: BRIEF,
        select: "SELECT span_id, duration_ns FROM spans WHERE output_tokens > 20 ORDER BY duration_ns DESC, span_id LIMIT 5",
        window_s: None,
        rows: "output_tokens > 20",
        bases: 1,
        one_pane: false,
    },
    Text {
        name: "brief_steps",
        options: BRIEF,
        select: "SELECT user_id, window_start, calls, lag(calls) OVER (PARTITION BY user_id ORDER BY window_start) AS before
         FROM (SELECT user_id, window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY user_id, window_start)",
        window_s: Some(30),
        rows: "true",
        bases: 1,
        one_pane: false,
    },
    Text {
        name: "brief_of_counts",
        options: BRIEF,
        select: "SELECT calls, count(*) AS groups, max(worst) AS worst
         FROM (SELECT user_id, window_start, count(*) AS calls, max(duration_ns) AS worst
               FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY user_id, window_start) GROUP BY calls",
        window_s: Some(30),
        rows: "true",
        bases: 1,
        one_pane: false,
    },
    Text {
        name: "brief_total",
        options: BRIEF,
        select: "SELECT count(*) AS calls, sum(output_tokens) AS tokens, max(duration_ns) AS worst FROM spans",
        window_s: None,
        rows: "true",
        bases: 1,
        one_pane: false,
    },
    Text {
        name: "final_join",
        options: "retention = '3 minutes', lateness = '20 seconds'",
        select: "SELECT a.service_name, a.window_end, a.calls, b.worst
         FROM (SELECT service_name, window_end, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY service_name, window_end) AS a
         JOIN (SELECT window_end, max(duration_ns) AS worst FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY window_end) AS b ON a.window_end = b.window_end EMIT FINAL",
        window_s: Some(30),
        rows: "true",
        bases: 2,
        one_pane: true,
    },
    Text {
        name: "final_union",
        options: "retention = '3 minutes', lateness = '50 seconds'",
        select: "SELECT user_id AS name, window_end, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
         GROUP BY user_id, window_end
         UNION ALL SELECT model, window_end, count(*) FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
         GROUP BY model, window_end EMIT FINAL",
        window_s: Some(30),
        rows: "true",
        bases: 2,
        one_pane: true,
    },
];

/// A join key that fails: the row is in no pair and counted, until another row changes it or its pane ends.
fn failing_keys() -> Case {
    const OPTIONS: &str = "retention = '2 minutes', lateness = '5 seconds'";
    let select = |having: &str| {
        format!(
            "SELECT a.model, a.window_start, a.calls, b.part
             FROM (SELECT model, window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
                   GROUP BY model, window_start {having}) AS a
             JOIN (SELECT window_start, count(*) % 2 * 50 + 50 AS part FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
                   GROUP BY window_start) AS b
             ON a.window_start = b.window_start AND 100 / (a.calls % 3) = b.part"
        )
    };
    Case {
        definition: text("failing_keys", OPTIONS, &select("")),
        equal: text("failing_keys", OPTIONS, &select("HAVING count(*) % 3 <> 0")),
        window_us: Some(30_000_000),
        rows: "true",
        errors: Errors::Groups(Box::new(text(
            "bad",
            OPTIONS,
            "SELECT model, window_start FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
             GROUP BY model, window_start HAVING count(*) % 3 = 0",
        ))),
        bases: 2,
        one_pane: false,
    }
}

pub fn all() -> Vec<Case> {
    let plain = TEXTS.iter().map(|case| {
        let definition = text(case.name, case.options, case.select);
        Case {
            equal: definition.clone(),
            definition,
            window_us: case.window_s.map(|seconds| seconds * 1_000_000),
            rows: case.rows,
            errors: Errors::None,
            bases: case.bases,
            one_pane: case.one_pane,
        }
    });
    plain.chain([failing_keys()]).collect()
}
