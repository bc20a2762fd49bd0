//! What stores keep of views when rows are taken back whose panes have ended: of views that can be computed again pane by
//! pane the batch over all rows that are left, of any other one what it shows.

use std::collections::BTreeSet;
use std::path::Path;

use arrow::compute::concat_batches;
use pyflare_dataflows::{Engine, ErasureBy, ErasureStatus, MonitorDefinition};
use pyflare_sql::Statement;

use crate::bed::{Content, Opened, copy_directory, difference, open, view_name};
use crate::cases::{self, Case, Errors, planned};
use crate::erasure::{erase, left, stored_content, subject, texts};
use crate::expected::{Marks, Oracle};
use crate::graph::views_of;
use crate::{first_time, send};

const DAY_US: i64 = 86_400_000_000;
const WINDOW_US: i64 = 30_000_000;
const BRIEF: &str = "retention = '100 seconds', lateness = '5 seconds'";
const CALLS: &str = "SELECT service_name, window_start, count(*) AS calls, max(duration_ns) AS worst
    FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY service_name, window_start";

/// Name, statement, what it is equal to over streams alone, the length of its panes, and whether they can be computed again.
type Further = (&'static str, &'static str, Option<&'static str>, i64, bool);

/// Besides the cases, in the order of installation.
const FURTHER: &[Further] = &[
    (
        "over_join",
        "SELECT window_start, sum(calls) AS calls, max(worst) AS worst FROM brief_join GROUP BY window_start",
        Some(
            "SELECT window_start, sum(calls) AS calls, max(worst) AS worst FROM (
               SELECT a.service_name, a.window_start, a.calls, b.worst
               FROM (SELECT service_name, window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
                     GROUP BY service_name, window_start) AS a
               JOIN (SELECT window_start, max(duration_ns) AS worst FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
                     GROUP BY window_start) AS b ON a.window_start = b.window_start) GROUP BY window_start",
        ),
        WINDOW_US,
        true,
    ),
    (
        "busiest",
        "SELECT service_name, window_start, calls FROM (SELECT service_name, window_start, calls,
           row_number() OVER (PARTITION BY window_start ORDER BY calls DESC, service_name) AS place FROM by_service) WHERE place <= 2",
        Some(
            "SELECT service_name, window_start, calls FROM (SELECT service_name, window_start, calls,
               row_number() OVER (PARTITION BY window_start ORDER BY calls DESC, service_name) AS place FROM (
                 SELECT service_name, window_start, count(*) AS calls, max(duration_ns) AS worst
                 FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') GROUP BY service_name, window_start)) WHERE place <= 2",
        ),
        WINDOW_US,
        true,
    ),
    (
        "without_slow",
        "SELECT u.user_id, u.window_end, u.calls, s.slow
         FROM (SELECT user_id, window_start, window_end, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY user_id, window_start, window_end) AS u
         LEFT JOIN (SELECT window_end AS till, count(*) AS slow FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               WHERE duration_ns > 1900000000 GROUP BY window_end) AS s ON u.window_end = s.till
         WHERE u.calls > 2 OR s.slow IS NULL",
        None,
        WINDOW_US,
        true,
    ),
    (
        "by_service_sessions",
        "SELECT service_name, window_start, window_end, count(*) AS n, sum(output_tokens) AS tokens
         FROM SESSION(spans, event_time, INTERVAL '20 seconds') GROUP BY service_name, window_start, window_end",
        None,
        DAY_US,
        true,
    ),
    (
        "all_sessions",
        "SELECT window_start, window_end, count(*) AS n, max(duration_ns) AS worst
         FROM SESSION(spans, event_time, INTERVAL '3 seconds') GROUP BY window_start, window_end",
        None,
        DAY_US,
        true,
    ),
    (
        "computed_sessions",
        "SELECT upper(model) AS model, window_start, count(*) AS n FROM SESSION(spans, event_time, INTERVAL '15 seconds')
         GROUP BY upper(model), window_start HAVING count(*) > 1",
        None,
        DAY_US,
        true,
    ),
    // Rows that are in one base of two, and a base from which nothing is taken.
    (
        "slow_or_failed",
        "SELECT 'slow' AS kind, service_name, window_start, count(*) AS calls
         FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') WHERE duration_ns > 900000000 GROUP BY service_name, window_start
         UNION ALL SELECT 'nobody', user_id, window_start, count(*)
         FROM TUMBLE(spans, event_time, INTERVAL '30 seconds') WHERE user_id IS NULL GROUP BY user_id, window_start",
        None,
        WINDOW_US,
        true,
    ),
    (
        "of_sessions",
        "SELECT service_name, count(*) AS sessions, sum(n) AS n FROM by_service_sessions GROUP BY service_name",
        Some(
            "SELECT service_name, count(*) AS sessions, sum(n) AS n FROM (
               SELECT service_name, window_start, window_end, count(*) AS n, sum(output_tokens) AS tokens
               FROM SESSION(spans, event_time, INTERVAL '20 seconds') GROUP BY service_name, window_start, window_end)
             GROUP BY service_name",
        ),
        DAY_US,
        false,
    ),
    (
        "latest",
        "SELECT user_id, max(window_start) AS latest, sum(calls) AS calls FROM by_user_window GROUP BY user_id",
        Some(
            "SELECT user_id, max(window_start) AS latest, sum(calls) AS calls FROM (
               SELECT user_id, window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
               GROUP BY user_id, window_start) GROUP BY user_id",
        ),
        WINDOW_US,
        false,
    ),
];

/// What [`FURTHER`] reads, and is compared itself.
const BELOW: &[(&str, &str)] = &[
    ("by_service", CALLS),
    (
        "by_user_window",
        "SELECT user_id, window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '30 seconds')
         GROUP BY user_id, window_start",
    ),
];

pub fn case(definition: MonitorDefinition, equal: MonitorDefinition, pane_us: i64) -> Case {
    Case {
        definition,
        equal,
        window_us: Some(pane_us),
        rows: "true",
        errors: Errors::None,
        bases: 1,
        one_pane: true,
    }
}

fn over_views(engine: &Engine, sql: &str) -> MonitorDefinition {
    match pyflare_sql::parse(sql, &views_of(engine)).unwrap() {
        Statement::CreateMonitor(create) => create.definition,
        other => panic!("{other:?}"),
    }
}

/// Every case that is installed, and whether its panes can be computed again.
async fn install(engine: &Engine) -> Vec<(Case, bool)> {
    // Rows by themselves are in one pane each; the key that fails is one of several.
    let by_themselves = ["slowest", "brief_rows", "failing_keys"];
    let mut installed = Vec::new();
    for case in cases::all() {
        engine.install(case.definition.clone(), false).await.unwrap();
        let is_local = case.one_pane || by_themselves.contains(&case.definition.name.as_str());
        installed.push((case, is_local));
    }
    let below = BELOW
        .iter()
        .map(|(name, select)| (*name, *select, None, WINDOW_US, true));
    for (name, select, equal, pane_us, is_local) in below.chain(FURTHER.iter().copied()) {
        let sql = |select: &str| format!("CREATE MONITOR {name} WITH ({BRIEF}) AS {select}");
        let definition = over_views(engine, &sql(select));
        engine.install(definition.clone(), false).await.unwrap();
        let equal = equal.map_or_else(|| definition.clone(), |equal| planned(&sql(equal)));
        installed.push((case(definition, equal, pane_us), is_local));
    }
    installed
}

async fn contents(opened: &Opened, directory: &Path, cases: &[(Case, bool)], until: u64) -> Vec<Content> {
    let mut contents = Vec::new();
    for (case, _) in cases {
        contents.push(stored_content(opened, directory, case, until).await);
    }
    contents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_keep_of_ended_panes_what_the_rest_comes_to() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), 2);
    let cases = install(&first.engine).await;
    // One that a limit stops: nobody knows any more whose rows it has shown.
    let stopped =
        planned("CREATE MONITOR stopped WITH (max_rows = '50') AS SELECT span_id, user_id FROM spans");
    first.engine.install(stopped.clone(), false).await.unwrap();
    let stopped = case(stopped.clone(), stopped, WINDOW_US);
    let settled = planned(&format!(
        "CREATE MONITOR settled WITH ({BRIEF}) AS SELECT span_id, user_id FROM spans WHERE event_time < now() - INTERVAL '1 minute'"
    ));
    first.engine.install(settled.clone(), false).await.unwrap();
    let settled = case(settled.clone(), settled, WINDOW_US);
    // Three days before, so that days have ended too.
    let base = first_time();
    send(&first, base - 3 * 86_400_000_000_000, 0..30).await;
    let tick = first.admitted(30).await;
    let mut rows = vec![first.rows(tick)];
    let flushed = first.engine.flush().await.unwrap();
    crate::erasure::wait_for_store(&first, flushed).await;
    send(&first, base, 30..60).await;
    let tick = first.admitted(60).await;
    rows.push(first.rows(tick));
    let rows = concat_batches(&rows[0].schema(), &rows).unwrap();
    let users: BTreeSet<String> = texts(&rows, "user_id").into_iter().flatten().collect();
    let users: Vec<&String> = users.iter().collect();
    let mut erasures: Vec<ErasureStatus> = Vec::new();
    let mut last: Vec<Content> = Vec::new();
    let marks_of = || Marks::read(directory.path(), &"traces".into());
    for (count, user) in [users[0], users[2]].into_iter().enumerate() {
        let before = contents(&first, directory.path(), &cases, tick).await;
        let erased = erase(&first.engine, subject(ErasureBy::User, &[user])).await;
        let at = erased.retracted_at.unwrap();
        crate::erasure::wait_for_store(&first, at).await;
        erasures.push(erased);
        let rest = left(&rows, &erasures.iter().collect::<Vec<_>>());
        let kept = contents(&first, directory.path(), &cases, at).await;
        let marks = marks_of();
        let mut changed = 0;
        for (((case, is_local), kept), before) in cases.iter().zip(&kept).zip(&before) {
            let schema = &first
                .engine
                .view_named(&view_name(&case.definition))
                .unwrap()
                .schema;
            let oracle = Oracle::new(case, &rest, &marks);
            let expected = match is_local {
                true => oracle.stored(schema, at),
                false => oracle.view(schema, at),
            };
            assert!(
                *kept == expected,
                "stored of {} after erasure {count}: {}",
                case.definition.name,
                difference(schema, kept, &expected)
            );
            changed += usize::from(kept != before);
            assert!(!is_local || !expected.is_empty(), "{}", case.definition.name);
        }
        assert!(changed + 3 > cases.len(), "{changed} of {} views", cases.len());
        let view = first.engine.view_named(&view_name(&stopped.definition)).unwrap();
        assert!(view.stopped.is_some());
        assert!(
            stored_content(&first, directory.path(), &stopped, at)
                .await
                .is_empty()
        );
        // Whether a row that waited was ever shown depends on the ticks.
        let schema = &first
            .engine
            .view_named(&view_name(&settled.definition))
            .unwrap()
            .schema;
        let kept_of_it = stored_content(&first, directory.path(), &settled, at).await;
        let shown = first.content(&view_name(&settled.definition)).await;
        assert!(
            kept_of_it == shown && !shown.is_empty(),
            "stored of settled after erasure {count}: {}",
            difference(schema, &kept_of_it, &shown)
        );
        last = kept;
    }
    first.shutdown();

    // The log alone comes to the same, on any number of workers.
    for workers in [1, 4] {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        std::fs::remove_dir_all(copy.path().join("tables")).unwrap();
        let replayed = open(copy.path(), workers);
        let at = erasures[1].retracted_at.unwrap();
        replayed.engine.wait_complete(at).await;
        crate::erasure::wait_for_store(&replayed, at).await;
        let again = contents(&replayed, copy.path(), &cases, at).await;
        for (((case, _), again), last) in cases.iter().zip(&again).zip(&last) {
            assert!(again == last, "{} on {workers} workers", case.definition.name);
        }
        replayed.shutdown();
    }
}
