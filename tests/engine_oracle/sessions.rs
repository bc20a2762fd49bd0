//! Sessions and interval joins around midnight: content at every tick = the batch over the rows that count, with rows
//! exactly a gap apart, equal times, NULL keys, late rows that merge sessions, and a day that expires. With `EMIT FINAL` the
//! rows that count are those that no watermark had passed, and of their sessions those whose end it has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::future::join_all;
use pyflare_connectors::ContentType;
use pyflare_dataflows::{SubscribeOptions, ViewName};
use pyflare_sql::oracle::Prepared;
use pyflare_sql::{PlanScope, Statement};
use tokio::sync::watch;

use crate::bed::{Content, add_rows, all_rows, copy_directory, declared, difference, open, view_name};
use crate::expected::Marks;
use crate::frames::{Transcript, again, follow};

const VISITS: &str = "CREATE STREAM visits (id BIGINT NOT NULL, at TIMESTAMP, who TEXT, amount DOUBLE)
    WITH (event_time = 'at', lateness = '3 seconds')";
const REQUESTS: i64 = 44;
const ROWS: i64 = 9;
const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;
const STEP_US: i64 = 15 * SECOND_US;
const LATENESS_US: i64 = 3 * SECOND_US;
/// In SESSION a pane is a day; without a window it is a hundredth of the retention.
const SLIDING: i64 = DAY_US / 100;

/// Statement, length of its panes, retention.
const MONITORS: &[(&str, i64, i64)] = &[
    (
        "CREATE MONITOR by_who WITH (retention = '2 minutes') AS
         SELECT who, window_start, window_end, count(*) AS n, sum(amount) AS amount, avg(amount) AS mean, min(id) AS first,
           max(at) AS latest, count(DISTINCT id % 3) AS kinds, quantile(id, 1) AS last, bool_or(amount > 3) AS dear
         FROM SESSION(visits, at, INTERVAL '30 seconds') GROUP BY who, window_start, window_end",
        DAY_US,
        120 * SECOND_US,
    ),
    (
        "CREATE MONITOR everyone AS SELECT window_start, window_end, count(*) AS n, min(who) AS who
         FROM SESSION(visits, at, INTERVAL '10 seconds') WHERE id % 7 = 0 GROUP BY window_start, window_end",
        DAY_US,
        DAY_US,
    ),
    (
        "CREATE MONITOR whole_days AS SELECT who, window_start, window_end, count(*) AS n
         FROM SESSION(visits, at, INTERVAL '1 day') GROUP BY who, window_start, window_end",
        DAY_US,
        DAY_US,
    ),
    (
        "CREATE MONITOR computed AS SELECT upper(who) AS who, id % 2 AS odd, date_trunc('minute', window_start) AS minute, window_end,
           count(*) AS n, max(at) FILTER (WHERE amount > 1) AS latest
         FROM SESSION(visits, at, INTERVAL '45 seconds') GROUP BY upper(who), id % 2, date_trunc('minute', window_start), window_end
         HAVING count(*) > 1 AND window_end > TIMESTAMP '1999-01-01T00:00:00Z'",
        DAY_US,
        DAY_US,
    ),
    (
        "CREATE MONITOR of_rows AS SELECT s.who, s.window_start, string_agg(CAST(s.double AS TEXT), ',' ORDER BY s.double) AS ids
         FROM SESSION((SELECT id * 2 AS double, CASE WHEN id % 3 > 0 THEN at END AS moment, who FROM visits WHERE id % 2 = 0), moment, INTERVAL '1 minute') AS s
         WHERE s.who IS NOT NULL GROUP BY s.who, s.window_start",
        DAY_US,
        DAY_US,
    ),
    (
        "CREATE MONITOR of_sessions WITH (retention = '3 minutes') AS SELECT n, count(*) AS sessions, min(window_start) AS first FROM
         (SELECT who, window_start, count(*) AS n FROM SESSION(visits, at, INTERVAL '20 seconds') GROUP BY who, window_start) GROUP BY n",
        DAY_US,
        180 * SECOND_US,
    ),
    (
        "CREATE MONITOR neighbours AS SELECT a.who, a.window_start, b.window_start AS other, a.n * b.n AS product FROM
         (SELECT who, window_start, window_end, count(*) AS n FROM SESSION(visits, at, INTERVAL '30 seconds') GROUP BY who, window_start, window_end) AS a
         LEFT JOIN (SELECT who, window_start, count(*) AS n FROM SESSION(visits, at, INTERVAL '30 seconds') GROUP BY who, window_start) AS b
         ON a.who = b.who AND b.window_start BETWEEN a.window_end AND a.window_end + INTERVAL '1 minute'",
        DAY_US,
        DAY_US,
    ),
    (
        "CREATE MONITOR by_who_final WITH (retention = '2 minutes') AS
         SELECT who, window_start, window_end, count(*) AS n, sum(amount) AS amount, max(at) AS latest
         FROM SESSION(visits, at, INTERVAL '20 seconds') GROUP BY who, window_start, window_end EMIT FINAL",
        DAY_US,
        120 * SECOND_US,
    ),
    (
        "CREATE MONITOR everyone_final AS SELECT window_start, window_end, count(*) AS n, min(who) AS who
         FROM SESSION(visits, at, INTERVAL '10 seconds') WHERE id % 7 < 3 GROUP BY window_start, window_end EMIT FINAL",
        DAY_US,
        DAY_US,
    ),
    (
        "CREATE MONITOR lengths_final AS SELECT n, window_end, count(*) AS sessions, min(window_start) AS first FROM
         (SELECT who, window_start, window_end, count(*) AS n FROM SESSION(visits, at, INTERVAL '12 seconds')
          GROUP BY who, window_start, window_end HAVING count(*) > 1) GROUP BY n, window_end EMIT FINAL",
        DAY_US,
        DAY_US,
    ),
    (
        "CREATE MONITOR of_rows_final AS SELECT s.who, s.window_end, count(*) AS n, max(s.double) AS most
         FROM SESSION((SELECT id * 2 AS double, at AS moment, who FROM visits WHERE id % 2 = 0), moment, INTERVAL '15 seconds') AS s
         WHERE s.who IS NOT NULL GROUP BY s.who, s.window_end EMIT FINAL",
        DAY_US,
        DAY_US,
    ),
    (
        "CREATE MONITOR after AS SELECT a.id, b.id AS other FROM visits AS a JOIN visits AS b
         ON a.who = b.who AND b.at BETWEEN a.at AND a.at + INTERVAL '20 seconds' WHERE a.id <> b.id",
        SLIDING,
        DAY_US,
    ),
    (
        "CREATE MONITOR after_or_not AS SELECT a.id, b.id AS other FROM visits AS a LEFT JOIN visits AS b
         ON a.who = b.who AND b.at > a.at AND b.at <= a.at + INTERVAL '15 seconds' AND b.id % 2 = 1",
        SLIDING,
        DAY_US,
    ),
    (
        "CREATE MONITOR before_or_not AS SELECT a.id, b.id AS other FROM visits AS a RIGHT JOIN visits AS b
         ON b.at >= a.at - INTERVAL '10 seconds' AND b.at < a.at + INTERVAL '5 seconds' AND a.id % 11 = 3",
        SLIDING,
        DAY_US,
    ),
    (
        "CREATE MONITOR both_or_not AS SELECT a.id, b.id AS other FROM visits AS a FULL JOIN visits AS b
         ON a.who = b.who AND b.at BETWEEN a.at - INTERVAL '5 seconds' AND a.at AND a.id > b.id",
        SLIDING,
        DAY_US,
    ),
    (
        "CREATE MONITOR near_numbers AS SELECT a.id, count(*) AS n, max(b.amount) AS most FROM visits AS a JOIN visits AS b
         ON b.id - a.id BETWEEN -2 AND 3 AND a.amount < b.amount GROUP BY a.id",
        SLIDING,
        DAY_US,
    ),
    (
        "CREATE MONITOR followed AS SELECT id, who FROM visits AS a WHERE EXISTS
         (SELECT 1 FROM visits AS b WHERE b.who = a.who AND b.at > a.at AND b.at < a.at + INTERVAL '30 seconds')",
        SLIDING,
        DAY_US,
    ),
    (
        "CREATE MONITOR lonely AS SELECT id, who FROM visits AS a WHERE NOT EXISTS
         (SELECT 1 FROM visits AS b WHERE b.who = a.who AND b.id <> a.id AND b.at BETWEEN a.at - INTERVAL '30 seconds' AND a.at + INTERVAL '30 seconds')",
        SLIDING,
        DAY_US,
    ),
    (
        "CREATE MONITOR followed_or_dear AS SELECT id FROM visits AS a WHERE amount > 6 OR EXISTS
         (SELECT 1 FROM visits AS b WHERE b.who = a.who AND b.at > a.at AND b.at < a.at + INTERVAL '10 seconds')",
        SLIDING,
        DAY_US,
    ),
];

/// Times are multiples of five seconds, so that many are equal, or as far apart as a gap; the middle is midnight.
fn rows_of(number: i64, base_us: i64) -> String {
    let row = |index: i64| {
        let id = number * ROWS + index;
        let back = match id % 19 {
            3 => 40,
            9 => 400,
            _ => index % 4 * 5,
        };
        let at = base_us + number * STEP_US - back * SECOND_US;
        let user = id * 7_919 % 31;
        let who = (user % 8 > 0).then(|| format!("user-{user}"));
        serde_json::json!({"id": id, "at": at, "who": who, "amount": (id % 23) as f64 / 3.0}).to_string()
    };
    (0..ROWS).map(row).collect::<Vec<_>>().join("\n")
}

/// The rows that count at `tick`.
fn living(
    rows: &RecordBatch,
    pane_us: i64,
    retention_us: i64,
    marks: &Marks,
    (start, is_final): (u64, bool),
    tick: u64,
) -> RecordBatch {
    let times = rows["at"].as_primitive::<TimestampMicrosecondType>();
    let ticks = rows["_tick"].as_primitive::<Int64Type>();
    let before = rows["_mark"].as_primitive::<Int64Type>();
    let passed = |mark: i64| mark - LATENESS_US - retention_us;
    // Final sessions are shown for a tick at least before their day leaves.
    let until = match is_final {
        true => marks.before_last(tick).map(passed),
        false => marks.before(tick).map(passed),
    };
    let lives = |row: usize| {
        let pane_end = times.value(row) - times.value(row).rem_euclid(pane_us) + pane_us;
        let late = before.is_valid(row)
            && match is_final {
                true => times.value(row) < before.value(row) - LATENESS_US,
                false => pane_end <= passed(before.value(row)),
            };
        let admitted = ticks.value(row) as u64;
        admitted > start && admitted <= tick && !late && until.is_none_or(|until| pane_end > until)
    };
    let mask: BooleanArray = (0..rows.num_rows()).map(|row| Some(lives(row))).collect();
    filter_record_batch(rows, &mask).unwrap()
}

/// The rows whose `window_end` the watermark has passed at `tick`.
fn ended(batch: &RecordBatch, marks: &Marks, tick: u64) -> RecordBatch {
    let ends = batch["window_end"].as_primitive::<TimestampMicrosecondType>();
    let watermark = marks.before(tick).map(|mark| mark - LATENESS_US);
    let mask = ends
        .iter()
        .map(|end| Some(watermark.is_some_and(|watermark| end.is_some_and(|end| end <= watermark))));
    filter_record_batch(batch, &mask.collect()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_interval_joins_equal_the_batch_at_every_tick_and_on_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let engine = &opened.engine;
    let stream = engine.create_stream(declared(VISITS)).await.unwrap().definition;
    let scope = PlanScope {
        project: Some("default".into()),
        streams: vec![Arc::clone(&stream)],
        ..PlanScope::default()
    };
    let mut installed = Vec::new();
    for (sql, ..) in MONITORS {
        let definition = match pyflare_sql::parse(sql, &scope) {
            Ok(Statement::CreateMonitor(create)) => create.definition,
            other => panic!("{sql}: {other:?}"),
        };
        let view = engine.install(definition, false).await;
        installed.push(view.unwrap_or_else(|error| panic!("{sql}: {error}")));
    }
    let (stop, stopped) = watch::channel(false);
    let following: Vec<_> = installed
        .iter()
        .map(|view| {
            let options = SubscribeOptions {
                snapshot: true,
                ..SubscribeOptions::default()
            };
            follow(engine, &view_name(&view.definition), options, stopped.clone())
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let now_us = pyflare_dataflows::time::now_ms() as i64 * 1_000;
    let midnight_us = now_us - now_us.rem_euclid(DAY_US) - DAY_US;
    for number in 0..REQUESTS {
        let lines = rows_of(number, midnight_us - REQUESTS / 2 * STEP_US).into_bytes();
        opened.append_rows("visits", ContentType::NdJson, lines).await;
        if number % 3 > 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    let last = opened.admitted(REQUESTS as u64).await;
    let rows = all_rows(&engine.stream_tail(&ViewName::of_project("default", "visits"), last));
    assert_eq!(rows.num_rows() as i64, REQUESTS * ROWS);
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send(true).unwrap();
    let mut transcripts: Vec<(ViewName, Transcript)> = Vec::new();
    for (view, transcript) in installed.iter().zip(following) {
        transcripts.push((view.name.clone(), transcript.await.unwrap()));
    }
    opened.shutdown();

    let marks = Marks::read(directory.path(), &1.into());
    let ticks = rows["_tick"].as_primitive::<Int64Type>().values();
    let row_ticks: BTreeSet<u64> = ticks.iter().map(|tick| *tick as u64).collect();
    assert!(row_ticks.len() > 12, "{} ticks had rows", row_ticks.len());
    let mut left = 0;
    for ((view, (_, pane_us, retention_us)), (name, transcript)) in
        installed.iter().zip(MONITORS).zip(&transcripts)
    {
        let prepared = Prepared::new(&view.definition, &[("visits", rows.schema())]).unwrap();
        let contents = transcript.contents(last);
        for tick in contents
            .keys()
            .chain(&row_ticks)
            .copied()
            .collect::<BTreeSet<_>>()
        {
            let is_final = view.definition.options.emit_final;
            let lives = living(
                &rows,
                *pane_us,
                *retention_us,
                &marks,
                (view.start, is_final),
                tick,
            );
            left += ticks.iter().filter(|at| **at as u64 <= tick).count() - lives.num_rows();
            let batch = prepared
                .rows(&[("visits", std::slice::from_ref(&lives))])
                .unwrap();
            let batch = if is_final {
                ended(&batch, &marks, tick)
            } else {
                batch
            };
            let mut expected = Content::new();
            add_rows(&transcript.schema, &batch, None, &mut expected);
            let empty = Content::new();
            let shown = contents
                .range(..=tick)
                .next_back()
                .map_or(&empty, |(_, content)| content);
            assert!(
                *shown == expected,
                "{name} at tick {tick} differs from the batch: {}",
                difference(&transcript.schema, shown, &expected)
            );
        }
        assert!(
            contents.values().any(|content| content.len() > 5),
            "{name} shows something"
        );
    }
    assert!(left > 1_000, "{left} rows were late or gone");

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

/// One hot key: what an interval join takes with its buckets, and without them. `--ignored --nocapture` prints it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_hot_key_of_an_interval_join() {
    const SQL: &str = "CREATE MONITOR hot WITH (max_tick_rows = 1000000000, max_rows = 1000000000) AS
        SELECT a.who, count(*) AS n FROM visits AS a JOIN visits AS b
        ON a.who = b.who AND b.at BETWEEN a.at AND a.at + INTERVAL '2 seconds' GROUP BY a.who";
    let mut took = Vec::new();
    for with_buckets in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), 1);
        let engine = &opened.engine;
        let stream = engine.create_stream(declared(VISITS)).await.unwrap().definition;
        let scope = PlanScope {
            project: Some("default".into()),
            streams: vec![stream],
            ..PlanScope::default()
        };
        let Ok(Statement::CreateMonitor(create)) = pyflare_sql::parse(SQL, &scope) else {
            panic!("it is a monitor")
        };
        let mut definition = create.definition;
        if !with_buckets {
            definition.plan = without_intervals(&definition.plan);
        }
        engine.install(definition.clone(), false).await.unwrap();
        let start_us = pyflare_dataflows::time::now_ms() as i64 * 1_000 - 3_000 * SECOND_US;
        let begun = std::time::Instant::now();
        for block in 0..16 {
            let lines: Vec<String> = (0..500)
                .map(|index| {
                    let id = block * 500 + index;
                    let at = start_us + id * SECOND_US / 5;
                    serde_json::json!({"id": id, "at": at, "who": "one", "amount": 1.0}).to_string()
                })
                .collect();
            opened
                .append_rows("visits", ContentType::NdJson, lines.join("\n").into_bytes())
                .await;
        }
        opened.admitted(16).await;
        let content = opened.content(&view_name(&definition)).await;
        took.push((begun.elapsed(), content));
        opened.shutdown();
    }
    assert!(took[0].1 == took[1].1, "the same result");
    println!(
        "8,000 rows of one key: {:?} in buckets, {:?} without",
        took[0].0, took[1].0
    );
}

fn without_intervals(plan: &pyflare_dataflows::Plan) -> pyflare_dataflows::Plan {
    let mut json = serde_json::to_value(plan).unwrap();
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                if fields.contains_key("residual") {
                    fields.remove("interval");
                }
                fields.values_mut().for_each(strip);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut json);
    serde_json::from_value(json).unwrap()
}
