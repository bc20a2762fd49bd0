//! Answers over stored and in-memory rows are those over all rows at once, wherever the cut between the two lies.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use pyflare_history::{QueryOptions, Scope, ViewDescription, changes_schema};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::house::*;

const QUERIES: [&str; 12] = [
    "SELECT span_id, name, event_time, attributes FROM {spans} ORDER BY span_id",
    "SELECT count(*) AS a, count(model) AS b, sum(input_tokens) AS c, sum(reported_cost) AS d, min(event_time) AS e, max(_tick) AS f FROM {spans}",
    "SELECT service_name, status, count(*) AS n FROM {spans} GROUP BY service_name, status ORDER BY 1, 2",
    "SELECT span_id FROM {spans} WHERE _tick BETWEEN 1764000001000 AND 1764000100000 AND status = 'error' ORDER BY 1",
    "SELECT span_id FROM {spans} WHERE event_time >= TIMESTAMP '2025-11-24T16:00:30Z' ORDER BY 1",
    "SELECT trace_id, count(*) AS n FROM {spans} GROUP BY trace_id HAVING count(*) > 4 ORDER BY n DESC, trace_id LIMIT 20",
    "SELECT a.span_id FROM {spans} a JOIN {spans} b ON a.trace_id = b.trace_id AND b.status = 'error' WHERE a.service_name = 'api' ORDER BY 1",
    "SELECT span_id FROM {spans} WHERE user_id IN ('user 1', 'user 3') AND model IS NOT NULL ORDER BY event_time DESC, span_id LIMIT 9",
    "SELECT count(*) AS n FROM (SELECT DISTINCT trace_id FROM {spans} WHERE name ILIKE '%chat%')",
    "WITH s AS (SELECT *, _tick AS t FROM {spans}) SELECT max(t) AS m, count(*) AS n FROM s WHERE t > 1764000050000",
    "SELECT span_id FROM {spans} WHERE false",
    "SELECT name, approx_percentile_cont(duration_ns, 0.5) IS NOT NULL AS p FROM {spans} GROUP BY name ORDER BY name",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_do_not_show() {
    for seed in 0..12 {
        let rows = random_spans(seed, 600);
        let house = house_with(&rows, seed);
        let service = service(&house, QueryOptions::default());
        for query in QUERIES {
            let answer = service
                .query(request(&query.replace("{spans}", "history.spans")))
                .await
                .unwrap();
            let expected = oracle(&spans(&rows), &query.replace("{spans}", "t")).await;
            assert_eq!(table(&answer), expected, "seed {seed}: {query}");
            assert_eq!(answer.as_of, house.content.lock().tick);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_beyond_the_hold_are_invisible() {
    let rows = random_spans(5, 400);
    let house = house_with(&rows, 5);
    let service = service(&house, QueryOptions::default());
    let tick = rows[250].tick;
    house.content.lock().tick = tick;
    let answer = service
        .query(request("SELECT count(*) AS n FROM spans"))
        .await
        .unwrap();
    let visible = with_tick(&spans(&rows), |row| row <= tick);
    assert_eq!(
        table(&answer),
        oracle(&visible, "SELECT count(*) AS n FROM t").await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_projects_are_invisible() {
    let rows = random_spans(6, 500);
    let house = house_with(&rows, 6);
    let service = service(&house, QueryOptions::default());
    let queries = [
        "SELECT project, count(*) AS n FROM {spans} GROUP BY project",
        "SELECT count(*) AS n FROM {spans} WHERE project = 'default' OR true",
        "SELECT count(*) AS n FROM {spans} a JOIN {spans} b ON a.trace_id = b.trace_id",
    ];
    for query in queries {
        let mut asked = request(&query.replace("{spans}", "history.spans"));
        asked.scope = Scope::project("other");
        let own: Vec<Span> = rows
            .iter()
            .filter(|span| span.project == "other")
            .cloned()
            .collect();
        assert!(!own.is_empty());
        let expected = oracle(&spans(&own), &query.replace("{spans}", "t")).await;
        assert_eq!(table(&service.query(asked).await.unwrap()), expected, "{query}");
    }
}

fn view(name: &str, project: Option<&str>) -> ViewDescription {
    let batch = view_rows(&[("default", "api", 1)]);
    ViewDescription {
        name: name.to_owned(),
        project: project.map(str::to_owned),
        schema: batch.schema(),
        stored: true,
    }
}

fn view_rows(rows: &[(&str, &str, i64)]) -> RecordBatch {
    let project: ArrayRef = Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| row.0)));
    let service: ArrayRef = Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| row.1)));
    let requests: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
    RecordBatch::try_from_iter([
        ("project", project),
        ("service_name", service),
        ("requests", requests),
    ])
    .unwrap()
}

/// Changes of a view, and the content after each tick.
fn random_changes(seed: u64) -> (RecordBatch, BTreeMap<(&'static str, &'static str, i64), i64>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut content = BTreeMap::new();
    let mut changes: Vec<(&'static str, &'static str, i64, i64, i64)> = Vec::new();
    for tick in 0..200 {
        let key = (
            ["default", "other"][random.random_range(0..2)],
            ["api", "agent"][random.random_range(0..2)],
            random.random_range(0..6),
        );
        let known: i64 = content.get(&key).copied().unwrap_or(0);
        let diff = if known > 0 && random.random_bool(0.5) {
            -random.random_range(1..=known)
        } else {
            random.random_range(1..4)
        };
        *content.entry(key).or_insert(0) += diff;
        changes.push((key.0, key.1, key.2, START as i64 + tick, diff));
    }
    content.retain(|_, copies| *copies != 0);
    let rows = view_rows(
        &changes
            .iter()
            .map(|change| (change.0, change.1, change.2))
            .collect::<Vec<_>>(),
    );
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_iter_values(
        changes.iter().map(|change| change.3),
    )));
    columns.push(Arc::new(Int64Array::from_iter_values(
        changes.iter().map(|change| change.4),
    )));
    (
        RecordBatch::try_new(changes_schema(&rows.schema()), columns).unwrap(),
        content,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_of_a_view_is_the_sum_of_its_changes() {
    for seed in 0..20 {
        let (changes, content) = random_changes(seed);
        let house = house_with(&random_spans(1, 5), 1);
        {
            let mut inside = house.content.lock();
            inside.tick = START + 1000;
            inside.views = vec![(view("requests", None), vec![])];
            inside.rows.insert("requests_changes".to_owned(), changes.clone());
            if seed % 4 > 0 {
                inside
                    .flushed
                    .insert("requests_changes".to_owned(), START + seed * 10);
            }
        }
        let service = service(&house, QueryOptions::default());
        let mut expected = Vec::new();
        for ((project, service_name, requests), copies) in &content {
            expected.extend(std::iter::repeat_n(
                (*project, *service_name, *requests),
                *copies as usize,
            ));
        }
        let query = "SELECT * FROM {v} ORDER BY project, service_name, requests";
        let answer = service
            .query(request(&query.replace("{v}", "history.requests")))
            .await
            .unwrap();
        assert_eq!(
            table(&answer),
            oracle(&view_rows(&expected), &query.replace("{v}", "t")).await,
            "seed {seed}"
        );

        let mut asked = request(&query.replace("{v}", "history.requests"));
        asked.scope = Scope::project("other");
        let own: Vec<_> = expected.iter().filter(|row| row.0 == "other").copied().collect();
        let answer = service.query(asked).await.unwrap();
        assert_eq!(
            table(&answer),
            oracle(&view_rows(&own), &query.replace("{v}", "t")).await,
            "seed {seed}"
        );

        let query = "SELECT _tick, _diff, requests FROM {v} ORDER BY _tick";
        let answer = service
            .query(request(&query.replace("{v}", "history.requests_changes")))
            .await
            .unwrap();
        assert_eq!(
            table(&answer),
            oracle(&changes, &query.replace("{v}", "t")).await,
            "seed {seed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_views_come_first_and_keep_to_their_project() {
    let house = house_with(&random_spans(2, 50), 2);
    let live = view_rows(&[("default", "api", 7), ("other", "api", 8), ("default", "rag", 9)]);
    let own = view_rows(&[("default", "mine", 1)]);
    let (mut spans_view, foreign) = (view("spans", None), view("secret", Some("other")));
    spans_view.stored = false;
    house.content.lock().views = vec![
        (view("requests", None), vec![live.clone()]),
        (spans_view, vec![own.clone()]),
        (foreign, vec![own.clone()]),
    ];
    let service = service(&house, QueryOptions::default());
    let ask = async |query: &str, scope: &Scope| {
        let mut asked = request(query);
        asked.scope = scope.clone();
        service.query(asked).await
    };
    let (everything, default) = (Scope::everything(), Scope::project("default"));
    let rows = ask("SELECT * FROM requests ORDER BY requests", &everything)
        .await
        .unwrap();
    assert_eq!(
        table(&rows),
        oracle(&live, "SELECT * FROM t ORDER BY requests").await
    );
    let rows = ask("SELECT * FROM live.requests ORDER BY requests", &default)
        .await
        .unwrap();
    assert_eq!(
        table(&rows),
        oracle(
            &live,
            "SELECT * FROM t WHERE project = 'default' ORDER BY requests"
        )
        .await
    );
    let rows = ask(
        "SELECT requests FROM requests WHERE service_name = 'rag'",
        &default,
    )
    .await
    .unwrap();
    assert_eq!(
        table(&rows),
        oracle(&live, "SELECT requests FROM t WHERE service_name = 'rag'").await
    );
    let hint = house.content.lock().peeks.last().unwrap().clone();
    assert!(
        hint.equalities.iter().any(|(column, _)| column == "service_name"),
        "{hint:?}"
    );
    // A live view of a stream's name hides the stream, which stays reachable by its full name.
    assert_eq!(ask("SELECT * FROM spans", &default).await.unwrap().row_count, 1);
    assert!(
        ask("SELECT * FROM history.spans", &default)
            .await
            .unwrap()
            .row_count
            > 1
    );
    assert_eq!(
        ask("SELECT * FROM live.secret", &everything)
            .await
            .unwrap()
            .row_count,
        1
    );
    assert_eq!(
        ask("SELECT * FROM live.secret", &default)
            .await
            .unwrap_err()
            .code(),
        "PF-4061"
    );
    assert_eq!(
        ask("SELECT * FROM pyflare_internal.streams WHERE rows > 3", &default)
            .await
            .unwrap()
            .row_count,
        1
    );
    let names = ask(
        "SELECT table_schema, table_name FROM information_schema.tables",
        &default,
    )
    .await
    .unwrap();
    assert!(
        table(&names).contains("requests") && !table(&names).contains("secret"),
        "{}",
        table(&names)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_columns_can_be_named_and_are_not_in_wildcards() {
    let rows = random_spans(3, 80);
    let house = house_with(&rows, 3);
    let service = service(&house, QueryOptions::default());
    let columns = async |query: &str| -> Vec<String> {
        let answer = service
            .query(request(query))
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        answer
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    };
    let all: Vec<String> = spans(&rows)
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let shown: Vec<String> = all
        .iter()
        .filter(|name| !name.starts_with('_'))
        .cloned()
        .collect();
    let with = |extra: &[&str]| -> Vec<String> {
        shown
            .iter()
            .cloned()
            .chain(extra.iter().map(|name| (*name).to_owned()))
            .collect()
    };
    for query in [
        "SELECT * FROM spans",
        "SELECT * FROM history.spans WHERE _tick > 0",
        "SELECT s.* FROM spans AS s ORDER BY s._offset",
        "SELECT history.spans.* FROM history.spans WHERE history.spans._row = 0",
        "SELECT * FROM (SELECT * FROM spans WHERE _tick > 0)",
        "WITH spans2 AS (SELECT * FROM spans WHERE \"_mark\" IS NULL) SELECT * FROM spans2",
    ] {
        assert_eq!(columns(query).await, shown, "{query}");
    }
    assert_eq!(columns("SELECT *, _tick FROM spans").await, with(&["_tick"]));
    assert_eq!(
        columns("SELECT * FROM (SELECT *, _tick FROM spans) AS inner_rows").await,
        with(&["_tick"])
    );
    assert_eq!(
        columns("WITH s AS (SELECT *, _row FROM spans) SELECT * FROM s").await,
        with(&["_row"])
    );
    assert_eq!(
        columns("SELECT * EXCLUDE (name) FROM spans WHERE _tick > 0")
            .await
            .len(),
        shown.len() - 1
    );
    let twice = columns("SELECT * FROM spans a JOIN spans b ON a._offset = b._offset").await;
    assert_eq!(twice.len(), 2 * shown.len());
    let shared = columns("SELECT * FROM spans a JOIN spans b USING (span_id) WHERE a._tick > 0").await;
    assert_eq!(shared.len(), 2 * shown.len() - 1);
    assert_eq!(
        columns("SELECT _tick, _mark, _partition, _offset, _row FROM spans")
            .await
            .len(),
        5
    );
    // The text of a literal is not a column.
    assert_eq!(columns("SELECT * FROM spans WHERE name <> '_tick'").await, shown);
}
