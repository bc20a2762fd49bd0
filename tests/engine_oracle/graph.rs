//! Joins, unions, aggregates of aggregates, subqueries, orders, window functions, views over views: content at every
//! tick = DataFusion's batch over the rows admitted until then, whenever the monitor was installed and on any number
//! of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use futures::future::join_all;
use pyflare_dataflows::{Engine, MonitorDefinition, SubscribeOptions, ViewName};
use pyflare_sql::{PlanScope, Statement, ViewColumns};
use tokio::sync::watch;

use crate::bed::{
    Content, add_rows, as_batch, between, copy_directory, difference, open, request, view_name,
};
use crate::frames::{Transcript, again, follow};

const BODIES: u64 = 24;
const SPANS: usize = 25;

/// Name and SELECT; what follows `-- equal` is run as the batch instead, where rows in error are left out.
pub const FIRST: &[(&str, &str)] = &[
    ("by_model", "SELECT model, count(*) AS calls, sum(output_tokens) AS tokens, max(duration_ns) AS worst FROM spans GROUP BY model"),
    (
        "inner_join",
        "SELECT a.model, a.calls, b.worst FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model) AS a
         JOIN (SELECT model, max(duration_ns) AS worst FROM spans WHERE status = 'error' GROUP BY model) AS b
         ON a.model = b.model",
    ),
    (
        "left_join",
        "SELECT a.user_id, a.calls, b.calls AS errors, coalesce(b.calls, 0) * 100 / a.calls AS percent
         FROM (SELECT user_id, count(*) AS calls FROM spans GROUP BY user_id) AS a
         LEFT JOIN (SELECT user_id, count(*) AS calls FROM spans WHERE status = 'error' GROUP BY user_id) AS b
         ON a.user_id = b.user_id AND b.calls > 1",
    ),
    (
        "right_join",
        "SELECT a.service_name, b.service_name AS other, a.calls, b.worst
         FROM (SELECT service_name, count(*) AS calls FROM spans WHERE output_tokens > 200 GROUP BY service_name) AS a
         RIGHT JOIN (SELECT service_name, max(duration_ns) AS worst FROM spans GROUP BY service_name) AS b
         ON a.service_name = b.service_name AND a.calls < 30",
    ),
    (
        "full_join",
        "SELECT a.window_start AS one, b.window_start AS other, a.calls, b.calls AS slow
         FROM (SELECT window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY window_start) AS a
         FULL JOIN (SELECT window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '5 minutes') GROUP BY window_start) AS b
         ON a.window_start = b.window_start",
    ),
    (
        "self_join",
        "SELECT c.span_id, p.span_id AS twin, c.duration_ns - p.duration_ns AS longer
         FROM spans AS c JOIN spans AS p ON c.user_id = p.user_id AND c.model = p.model
         WHERE c.duration_ns > 900000000 AND p.duration_ns > 950000000 AND c.span_id <> p.span_id",
    ),
    (
        "members",
        "SELECT span_id, user_id FROM spans WHERE user_id IN
         (SELECT user_id FROM spans GROUP BY user_id HAVING count(*) % 2 = 0) AND duration_ns > 800000000",
    ),
    (
        "strangers",
        "SELECT model, span_id FROM spans AS s WHERE output_tokens > 250 AND NOT EXISTS
         (SELECT 1 FROM spans AS e WHERE e.status = 'error' AND e.user_id = s.user_id AND e.duration_ns > s.duration_ns)",
    ),
    (
        "not_in",
        "SELECT user_id, count(*) AS calls FROM spans WHERE output_tokens NOT IN
         (SELECT output_tokens FROM spans WHERE status = 'error' AND output_tokens IS NOT NULL) GROUP BY user_id",
    ),
    (
        "members_or",
        "SELECT span_id, user_id FROM spans WHERE duration_ns > 950000000 OR output_tokens > 280 AND (user_id IN
         (SELECT user_id FROM spans GROUP BY user_id HAVING count(*) % 3 = 0) OR status = 'error')",
    ),
    (
        "exists_or",
        "SELECT s.model, count(*) AS n FROM spans AS s WHERE s.output_tokens > 290 OR EXISTS
         (SELECT 1 FROM spans AS e WHERE e.user_id = s.user_id AND e.duration_ns > s.duration_ns AND e.status = 'error' AND e.model = s.model)
         OR s.span_id IN (SELECT min(span_id) FROM spans GROUP BY model) GROUP BY s.model
         -- equal SELECT s.model, count(*) AS n FROM spans AS s WHERE s.output_tokens > 290 OR EXISTS
         (SELECT 1 FROM spans AS e WHERE e.user_id = s.user_id AND e.duration_ns > s.duration_ns AND e.status = 'error' AND e.model = s.model)
         OR s.span_id IN (SELECT min(span_id) AS one FROM spans GROUP BY model) GROUP BY s.model",
    ),
    ("not_in_null", "SELECT span_id FROM spans WHERE span_id NOT IN (SELECT CASE WHEN output_tokens = (SELECT max(output_tokens) FROM spans) AND (SELECT count(*) FROM spans) > 100 THEN NULL ELSE 'x' END FROM spans)"),
    (
        "together",
        "SELECT model AS name, count(*) AS n FROM spans GROUP BY model UNION ALL
         SELECT service_name, count(*) FROM spans GROUP BY service_name UNION ALL SELECT 'all', count(*) FROM spans",
    ),
    ("either", "SELECT user_id FROM spans WHERE status = 'error' UNION SELECT user_id FROM spans WHERE output_tokens > 280"),
    ("both", "SELECT model, user_id FROM spans WHERE status = 'error' INTERSECT SELECT model, user_id FROM spans WHERE output_tokens > 200"),
    ("only", "SELECT model, user_id FROM spans EXCEPT SELECT model, user_id FROM spans WHERE status = 'error'"),
    (
        "of_counts",
        "SELECT calls, count(*) AS users, max(tokens) AS most FROM
         (SELECT user_id, model, count(*) AS calls, sum(output_tokens) AS tokens FROM spans GROUP BY user_id, model) GROUP BY calls",
    ),
    (
        "hops",
        "SELECT model, window_start, count(*) AS calls, max(duration_ns) AS worst
         FROM HOP(spans, event_time, INTERVAL '1 minute', INTERVAL '150 seconds') GROUP BY model, window_start",
    ),
    (
        "hops_joined",
        "SELECT h.window_end, h.calls, t.calls AS all_calls
         FROM (SELECT window_end, count(*) AS calls FROM HOP(spans, event_time, INTERVAL '2 minutes', INTERVAL '4 minutes')
               WHERE status = 'error' GROUP BY window_end) AS h
         JOIN (SELECT window_end, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '2 minutes') GROUP BY window_end) AS t
         ON h.window_end = t.window_end",
    ),
    ("totals", "SELECT count(*) AS calls, sum(output_tokens) AS tokens, avg(temperature) AS warmth, min(model) AS first FROM spans"),
    ("no_totals", "SELECT count(*) AS calls, sum(output_tokens) AS tokens, max(model) AS last FROM spans WHERE output_tokens > 1000000"),
    ("nested_totals", "SELECT count(*) AS models, sum(calls) AS calls FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model HAVING count(*) > 20)"),
    ("slowest", "SELECT span_id, model, duration_ns FROM spans ORDER BY duration_ns DESC, span_id LIMIT 7 OFFSET 2"),
    ("few_models", "SELECT model, calls + 1 AS more FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model) ORDER BY calls, model LIMIT 2"),
    (
        "two_each",
        "SELECT model, span_id, row_number() OVER (PARTITION BY model ORDER BY duration_ns DESC, span_id) AS place
         FROM spans QUALIFY row_number() OVER (PARTITION BY model ORDER BY duration_ns DESC, span_id) <= 2",
    ),
    (
        "steps",
        "SELECT user_id, window_start, calls, lag(calls) OVER (PARTITION BY user_id ORDER BY window_start) AS before,
           lead(calls, 2, 0) OVER (PARTITION BY user_id ORDER BY window_start) AS later,
           rank() OVER (PARTITION BY user_id ORDER BY calls DESC) AS place
         FROM (SELECT user_id, window_start, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '2 minutes') GROUP BY user_id, window_start)",
    ),
    ("above", "SELECT span_id, duration_ns FROM spans WHERE duration_ns > (SELECT avg(duration_ns) * 1.8 FROM spans)"),
    (
        "above_own",
        "SELECT s.span_id FROM spans AS s WHERE s.duration_ns >= (SELECT max(t.duration_ns) FROM spans AS t WHERE t.model = s.model)",
    ),
    (
        "distincts",
        "SELECT service_name, count(DISTINCT user_id) AS users, count(DISTINCT output_tokens) AS sizes, approx_distinct(model) AS models,
           bool_and(output_tokens > 10) AS all_long, bool_or(output_tokens > 299) AS any_longest FROM spans GROUP BY service_name",
    ),
    (
        "shares",
        "SELECT model, calls, sum(calls) OVER () AS whole, max(calls) OVER (PARTITION BY provider) AS most
         FROM (SELECT model, provider, count(*) AS calls FROM spans GROUP BY model, provider)",
    ),
    (
        "paired",
        "SELECT m.model, m.calls, t.n FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model) AS m CROSS JOIN (SELECT count(*) AS n FROM spans) AS t WHERE m.calls * 5 > t.n",
    ),
    ("empty_or_not", "SELECT model, 1 AS side FROM spans WHERE 1 > 2 UNION ALL SELECT model, count(*) FROM spans GROUP BY model"),
    ("count_of_nothing", "SELECT count(*) AS n, max(duration_ns) AS worst FROM spans WHERE status = 'ok' AND false"),
    (
        "beside_nothing",
        "SELECT a.model, b.calls FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model) AS a
         LEFT JOIN (SELECT model, count(*) AS calls FROM spans WHERE NULL GROUP BY model) AS b ON a.model = b.model",
    ),
    ("empty", "SELECT name, attributes, duration_ns FROM spans WHERE model = 'x' AND false"),
    ("constant_group", "SELECT 'all' AS whole, count(*) AS calls, max(duration_ns) AS worst FROM spans WHERE output_tokens > 290 GROUP BY 'all'"),
    (
        "worst_each",
        "SELECT DISTINCT ON (model) model, span_id, duration_ns FROM spans ORDER BY model, duration_ns DESC, span_id",
    ),
    (
        "busiest_each",
        "SELECT d.window_start, d.model, d.calls, m.worst FROM
         (SELECT DISTINCT ON (window_start) window_start, model, calls FROM
            (SELECT window_start, model, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY window_start, model)
          ORDER BY window_start, calls DESC, model) AS d
         JOIN (SELECT model, max(duration_ns) AS worst FROM spans GROUP BY model) AS m ON d.model = m.model",
    ),
    (
        "rolled_up",
        "SELECT provider, model, grouping(model) AS over_models, grouping(provider, model) AS level, count(*) AS calls,
           avg(temperature) AS warmth, bool_or(status = 'error') AS failed FROM spans GROUP BY ROLLUP (provider, model)",
    ),
    (
        "windows_rolled_up",
        "SELECT window_start, model, status, sum(output_tokens) AS tokens FROM TUMBLE(spans, event_time, INTERVAL '1 minute')
         GROUP BY GROUPING SETS ((window_start, model), (window_start, status), (model), ()) HAVING count(*) > 3",
    ),
    (
        "cubed_join",
        "SELECT a.service_name, b.provider, upper(a.model) AS model, count(*) AS n, max(a.duration_ns) AS worst
         FROM spans AS a JOIN (SELECT provider, max(duration_ns) AS worst FROM spans GROUP BY provider) AS b
         ON a.provider = b.provider AND a.duration_ns * 2 > b.worst GROUP BY CUBE (a.service_name, b.provider, upper(a.model))",
    ),
    (
        "spreads",
        "SELECT model, var_samp(temperature) AS a, var_pop(duration_ns) AS b, stddev(output_tokens) AS c, stddev_pop(temperature) AS d,
           covar_samp(output_tokens, duration_ns) AS e, corr(output_tokens, duration_ns) AS f, regr_slope(duration_ns, output_tokens) AS g,
           regr_intercept(duration_ns, output_tokens) AS h, regr_count(temperature, output_tokens) AS i, regr_r2(duration_ns, output_tokens) AS j,
           var_samp(duration_ns) FILTER (WHERE status = 'error') AS k FROM spans GROUP BY model",
    ),
    (
        "spreads_of_counts",
        "SELECT provider, stddev(calls) AS a, covar_pop(calls, worst) AS b, regr_avgx(worst, calls) AS c FROM
         (SELECT provider, user_id, count(*) AS calls, max(duration_ns) AS worst FROM spans GROUP BY provider, user_id) GROUP BY provider",
    ),
    (
        "listed",
        "SELECT model, string_agg(DISTINCT user_id, ', ' ORDER BY user_id DESC) AS users, array_agg(status ORDER BY duration_ns, span_id) AS statuses,
           string_agg(name, '' ORDER BY duration_ns DESC, span_id) FILTER (WHERE output_tokens > 280) AS names,
           first_value(span_id ORDER BY duration_ns DESC, span_id) AS slowest, last_value(user_id ORDER BY duration_ns, span_id) AS by_whom,
           array_agg(DISTINCT service_name ORDER BY service_name) AS services FROM spans GROUP BY model
         -- equal SELECT a.model, a.users, b.statuses, c.names, c.slowest, b.by_whom, d.services FROM
           (SELECT model, string_agg(DISTINCT user_id, ', ' ORDER BY user_id DESC) AS users FROM spans GROUP BY model) AS a
           JOIN (SELECT model, array_agg(status ORDER BY duration_ns, span_id) AS statuses, last_value(user_id ORDER BY duration_ns, span_id) AS by_whom
             FROM spans GROUP BY model) AS b ON a.model IS NOT DISTINCT FROM b.model
           JOIN (SELECT model, string_agg(name, '' ORDER BY duration_ns DESC, span_id) FILTER (WHERE output_tokens > 280) AS names,
             first_value(span_id ORDER BY duration_ns DESC, span_id) AS slowest FROM spans GROUP BY model) AS c ON a.model IS NOT DISTINCT FROM c.model
           JOIN (SELECT model, array_agg(DISTINCT service_name ORDER BY service_name) AS services FROM spans GROUP BY model) AS d
             ON a.model IS NOT DISTINCT FROM d.model",
    ),
    (
        "listed_groups",
        "SELECT calls, string_agg(model, '+' ORDER BY model) AS models, first_value(worst ORDER BY worst DESC) AS worst, min(users) AS users FROM
         (SELECT model, count(*) % 5 AS calls, max(duration_ns) AS worst, string_agg(DISTINCT user_id, '' ORDER BY user_id) AS users FROM spans GROUP BY model) GROUP BY calls
         -- equal WITH models AS (SELECT model, count(*) % 5 AS calls, max(duration_ns) AS worst, string_agg(DISTINCT user_id, '' ORDER BY user_id) AS users FROM spans GROUP BY model)
           SELECT a.calls, a.models, b.worst, b.users FROM (SELECT calls, string_agg(model, '+' ORDER BY model) AS models FROM models GROUP BY calls) AS a
           JOIN (SELECT calls, max(worst) AS worst, min(users) AS users FROM models GROUP BY calls) AS b ON a.calls = b.calls",
    ),
    (
        "running",
        "SELECT user_id, window_start, sum(calls) OVER (PARTITION BY user_id ORDER BY window_start) AS so_far,
           avg(calls) OVER (PARTITION BY user_id ORDER BY window_start ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS moving,
           max(worst) OVER (PARTITION BY user_id ORDER BY calls GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS near,
           count(*) OVER (PARTITION BY user_id ORDER BY calls DESC) AS peers,
           sum(warmth) OVER (PARTITION BY user_id ORDER BY window_start ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING) AS coming,
           stddev(warmth) OVER (PARTITION BY user_id ORDER BY window_start DESC ROWS 3 PRECEDING) AS spread
         FROM (SELECT user_id, window_start, count(*) AS calls, max(duration_ns) AS worst, sum(temperature) AS warmth
               FROM TUMBLE(spans, event_time, INTERVAL '1 minute') GROUP BY user_id, window_start)",
    ),
    (
        "words",
        "SELECT word, count(*) AS n, max(duration_ns) AS worst FROM
         (SELECT duration_ns, unnest(string_to_array(name || ' ' || model, ' ')) AS word FROM spans WHERE output_tokens > 150) GROUP BY word",
    ),
    ("pieces", "SELECT span_id, name, unnest(string_to_array(name, 'a')) AS piece FROM spans WHERE duration_ns > 900000000"),
    (
        "users_again",
        "SELECT model, unnest(users) AS user_id FROM (SELECT model, array_agg(DISTINCT user_id ORDER BY user_id) AS users FROM spans GROUP BY model)",
    ),
    (
        "priced",
        "SELECT p.word, p.price * s.calls AS cost, s.calls FROM (SELECT status, count(*) AS calls FROM spans GROUP BY status) AS s
         RIGHT JOIN (VALUES ('error', 5, 'bad'), ('ok', 2, 'good'), ('unset', 1, 'fair'), ('never', 9, 'none')) AS p(status, price, word) ON s.status = p.status",
    ),
    (
        "scaled",
        "SELECT m.model, m.calls * f.factor AS scaled FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model) AS m
         CROSS JOIN (VALUES (1), (10)) AS f(factor) UNION ALL SELECT 'none', column1 FROM (VALUES (7))",
    ),
    (
        "thirds",
        "SELECT a.model, 100 / (a.calls % 3) AS part FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model) AS a
         JOIN (SELECT model FROM spans GROUP BY model) AS b ON a.model = b.model
         -- equal SELECT model, 100 / (calls % 3) AS part FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model) WHERE calls % 3 <> 0",
    ),
];

/// Over views, installed after those.
pub const OVER_VIEWS: &[(&str, &str)] = &[
    (
        "over_view",
        "SELECT calls % 4 AS rest, count(*) AS models, sum(tokens) AS tokens FROM by_model GROUP BY calls % 4",
    ),
    (
        "view_joined",
        "SELECT s.span_id, v.worst FROM spans AS s JOIN live.by_model AS v ON s.model = v.model AND s.duration_ns = v.worst",
    ),
    ("over_over", "SELECT max(models) AS most FROM over_view"),
    (
        "over_graph",
        "SELECT l.user_id, n.calls FROM left_join AS l LEFT JOIN not_in AS n ON l.user_id = n.user_id",
    ),
];

/// Installed while rows come: over what is there, and afresh.
const SECOND: &[(&str, &str)] = &[
    (
        "shared",
        "SELECT model, calls FROM (SELECT model, count(*) AS calls, max(duration_ns) AS worst FROM spans GROUP BY model) WHERE calls > 30",
    ),
    (
        "shared_join",
        "SELECT model, users FROM (SELECT model, max(duration_ns) AS worst, sum(output_tokens) AS users FROM spans GROUP BY model) WHERE worst > (SELECT min(worst) FROM by_model)",
    ),
    (
        "fresh",
        "SELECT status, model, count(*) AS calls FROM spans GROUP BY status, model",
    ),
    (
        "fresh_join",
        "SELECT a.provider, b.n FROM (SELECT provider, count(*) AS c FROM spans WHERE output_tokens > 7 GROUP BY provider) AS a JOIN (SELECT provider, count(*) AS n FROM spans WHERE output_tokens > 9 GROUP BY provider) AS b ON a.provider = b.provider",
    ),
];

pub fn views_of(engine: &Engine) -> PlanScope {
    let columns = |view: &std::sync::Arc<pyflare_dataflows::ViewDescription>| ViewColumns {
        name: view.name.name.clone(),
        builtin: view.name.project.is_none(),
        schema: SchemaRef::clone(&view.schema),
    };
    PlanScope {
        project: Some("default".into()),
        views: engine.views().iter().map(columns).collect(),
        ..PlanScope::default()
    }
}

pub fn planned(engine: &Engine, name: &str, select: &str) -> Result<MonitorDefinition, String> {
    let select = select.split("-- equal").next().unwrap();
    match pyflare_sql::parse(&format!("CREATE MONITOR {name} AS {select}"), &views_of(engine)) {
        Ok(Statement::CreateMonitor(create)) => Ok(create.definition),
        other => Err(format!("{name}: {other:?}")),
    }
}

struct Installed {
    select: &'static str,
    definition: MonitorDefinition,
    start: u64,
    from: u64,
}

async fn install(engine: &Engine, monitors: &[(&'static str, &'static str)]) -> Vec<Installed> {
    let (mut installed, mut failed) = (Vec::new(), Vec::new());
    for (name, select) in monitors {
        let definition = match planned(engine, name, select) {
            Ok(definition) => definition,
            Err(error) => {
                failed.push(error);
                continue;
            }
        };
        let view = engine
            .install(definition.clone(), false)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        installed.push(Installed {
            select,
            definition,
            start: view.start,
            from: view.installed_at,
        });
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    installed
}

fn followed(
    engine: &Engine,
    installed: &[Installed],
    stop: &watch::Receiver<bool>,
) -> Vec<(ViewName, tokio::task::JoinHandle<Transcript>)> {
    let follow = |installed: &Installed| {
        let name = view_name(&installed.definition);
        let options = SubscribeOptions {
            snapshot: true,
            ..SubscribeOptions::default()
        };
        let transcript = follow(engine, &name, options, stop.clone());
        (name, transcript)
    };
    installed.iter().map(follow).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphs_equal_the_batch_at_every_tick_and_on_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let engine = &opened.engine;
    let mut installed = install(engine, FIRST).await;
    installed.extend(install(engine, OVER_VIEWS).await);
    let (stop, stopped) = watch::channel(false);
    let mut following = followed(engine, &installed, &stopped);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 1_500_000_000_000;
    for number in 0..BODIES {
        opened
            .append(request(number, base + number * 20_000_000_000, SPANS))
            .await;
        // Each at a tick of its own, however slow the machine is.
        opened.admitted(number + 1).await;
        if number == BODIES / 2 {
            let second = install(engine, SECOND).await;
            following.extend(followed(engine, &second, &stopped));
            installed.extend(second);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let last = opened.admitted(BODIES).await;
    let rows = opened.rows(last);
    assert_eq!(rows.num_rows() as u64, BODIES * SPANS as u64);
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send(true).unwrap();
    let mut transcripts: Vec<(ViewName, Transcript)> = Vec::new();
    for (name, transcript) in following {
        transcripts.push((name, transcript.await.unwrap()));
    }
    opened.shutdown();

    let ticks = rows.column_by_name("_tick").unwrap().as_primitive::<Int64Type>();
    let row_ticks: BTreeSet<u64> = ticks.values().iter().map(|tick| *tick as u64).collect();
    assert!(row_ticks.len() > 10, "{} ticks had rows", row_ticks.len());
    let mut contents: BTreeMap<String, BTreeMap<u64, Content>> = BTreeMap::new();
    for (name, transcript) in &transcripts {
        contents.insert(name.name.clone(), transcript.contents(last));
    }
    let at = |name: &str, tick: u64| -> Content {
        let found = contents[name].range(..=tick).next_back();
        found.map_or_else(Content::new, |(_, content)| content.clone())
    };
    let schemas: BTreeMap<String, SchemaRef> = transcripts
        .iter()
        .map(|(name, transcript)| (name.name.clone(), SchemaRef::clone(&transcript.schema)))
        .collect();
    let mut wrong = Vec::new();
    for view in &installed {
        let name = &view.definition.name;
        for tick in row_ticks
            .iter()
            .copied()
            .filter(|tick| *tick > view.from)
            .chain([last])
        {
            let admitted = between(&rows, view.start, tick);
            let equal = match view.select.split_once("-- equal") {
                Some((_, select)) => MonitorDefinition {
                    sql: format!("CREATE MONITOR {name} AS {select}"),
                    ..view.definition.clone()
                },
                None => view.definition.clone(),
            };
            let read: Vec<(String, RecordBatch)> = view
                .definition
                .plan
                .views()
                .into_iter()
                .map(|source| (source.to_string(), as_batch(&schemas[source], &at(source, tick))))
                .collect();
            let mut tables: Vec<(&str, &[RecordBatch])> = read
                .iter()
                .map(|(source, batch)| (source.as_str(), std::slice::from_ref(batch)))
                .collect();
            tables.push(("spans", std::slice::from_ref(&admitted)));
            let batch = match pyflare_sql::oracle::batch_over(&equal, &tables) {
                Ok(batch) => batch,
                Err(error) => {
                    wrong.push(format!("{name}: {}", error.strip_backtrace()));
                    break;
                }
            };
            let mut expected = Content::new();
            add_rows(&schemas[name], &batch, None, &mut expected);
            let content = at(name, tick);
            if content != expected {
                let difference = difference(&schemas[name], &content, &expected);
                wrong.push(format!("{name} at tick {tick}: {difference}"));
                break;
            }
        }
        // A NULL on the right takes everything away.
        assert_eq!(
            at(name, last).is_empty(),
            ["not_in_null", "empty"].contains(&name.as_str()),
            "what {name} shows in the end"
        );
        let shown = contents[name]
            .values()
            .filter(|content| !content.is_empty())
            .count();
        assert_eq!(shown > 0, name != "empty", "{name} shows something");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    for workers in [1, 2, 4] {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        let replayed = open(copy.path(), workers);
        let again = transcripts.iter().map(|(name, transcript)| {
            let engine = &replayed.engine;
            async move { (name, transcript, again(engine, name, &transcript.frames[0]).await) }
        });
        for (name, transcript, replay) in join_all(again).await {
            transcript.assert_equals(&replay, last, &format!("{name} on {workers} workers"));
        }
        replayed.shutdown();
    }
}
