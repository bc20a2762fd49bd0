//! Users' streams, as NDJSON and as Arrow, alone and joined with spans: content at every tick = the batch over the rows
//! admitted until then, late rows, rows from the future and panes that leave by the stream's own time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::ipc::writer::StreamWriter;
use futures::future::join_all;
use pyflare_connectors::ContentType;
use pyflare_dataflows::{EngineError, MonitorDefinition, SubscribeOptions, ViewName};
use pyflare_operators::streams::StreamDefinition;
use pyflare_sql::{PlanScope, Statement};
use tokio::sync::watch;

use crate::bed::{Content, Opened, add_rows, all_rows, copy_directory, declared, open, request, view_name};
use crate::expected::Marks;
use crate::frames::{Transcript, again, follow};

const REQUESTS: i64 = 36;
const ROWS: i64 = 12;
const SECOND_US: i64 = 1_000_000;
/// Event times move so far from one request to the next.
const STEP_US: i64 = 15 * SECOND_US;
const LATENESS_US: i64 = 3 * SECOND_US;
const FUTURE_US: i64 = 60 * SECOND_US;

const ORDERS: &str = "CREATE STREAM orders (id BIGINT NOT NULL, at TIMESTAMP, user_id TEXT, amount DOUBLE,
    price DECIMAL(38, 12)) WITH (event_time = 'at', lateness = '3 seconds')";
const ARRIVALS: &str = "CREATE STREAM arrivals (x BIGINT)";

/// What time does to the rows of a monitor over `orders`.
#[derive(Clone, Copy)]
pub struct Time {
    pub pane_us: i64,
    pub retention_us: i64,
    pub emit_final: bool,
}

pub const DAY: Time = Time {
    pane_us: 864 * SECOND_US,
    retention_us: 86_400 * SECOND_US,
    emit_final: false,
};

fn monitors() -> Vec<(&'static str, Time)> {
    let minutes = |retention_us: i64, emit_final: bool| Time {
        pane_us: 60 * SECOND_US,
        retention_us,
        emit_final,
    };
    vec![
        (
            "CREATE MONITOR windows WITH (retention = '90 seconds') AS
             SELECT window_start, user_id, count(*) AS n, sum(amount) AS amount, sum(price) AS price, max(id) AS newest
             FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_start, user_id",
            minutes(90 * SECOND_US, false),
        ),
        (
            "CREATE MONITOR finals WITH (retention = '1 hour') AS
             SELECT window_end, count(*) AS n, avg(amount) AS mean
             FROM TUMBLE(orders, at, INTERVAL '1 minute') GROUP BY window_end EMIT FINAL",
            minutes(3_600 * SECOND_US, true),
        ),
        ("CREATE MONITOR everything AS SELECT * FROM orders WHERE id % 3 = 0", DAY),
        (
            "CREATE MONITOR with_spans AS SELECT o.user_id, o.n, s.calls FROM
             (SELECT user_id, count(*) AS n FROM orders GROUP BY user_id) AS o
             FULL JOIN (SELECT user_id, count(*) AS calls FROM spans GROUP BY user_id) AS s ON o.user_id = s.user_id",
            DAY,
        ),
        (
            "CREATE MONITOR two_streams AS SELECT o.id, a.x, o.amount FROM orders AS o LEFT JOIN arrivals AS a ON o.id = a.x
             WHERE o.amount > 2",
            DAY,
        ),
        ("CREATE MONITOR totals AS SELECT count(*) AS n, sum(x) AS sum, count(event_time) AS timed FROM arrivals", DAY),
    ]
}

pub fn definition(sql: &str, streams: &[Arc<StreamDefinition>]) -> MonitorDefinition {
    let scope = PlanScope {
        project: Some("default".into()),
        streams: streams.to_vec(),
        ..PlanScope::default()
    };
    match pyflare_sql::parse(sql, &scope).unwrap_or_else(|error| panic!("{sql}: {error}")) {
        Statement::CreateMonitor(create) => create.definition,
        other => panic!("{other:?}"),
    }
}

/// Rows of a request: (id, microseconds, user, amount). Some are late, some far too late, one is from the future.
fn orders(number: i64, base_us: i64) -> Vec<(i64, i64, String, f64)> {
    let row = |index: i64| {
        let id = number * ROWS + index;
        let back = match id % 17 {
            3 => 40 * SECOND_US,
            9 => 400 * SECOND_US,
            _ => index * SECOND_US / 10,
        };
        let ahead = if id % 50 == 49 { 40 * 86_400 * SECOND_US } else { 0 };
        let at = base_us + number * STEP_US - back + ahead;
        (id, at, format!("user-{}", id % 5), (id % 23) as f64 / 7.0)
    };
    (0..ROWS).map(row).collect()
}

fn as_lines(rows: &[(i64, i64, String, f64)]) -> Vec<u8> {
    let lines = rows.iter().map(|(id, at, user, amount)| {
        serde_json::json!({"id": id, "at": at, "user_id": user, "amount": amount, "price": format!("{id}.25")}).to_string()
    });
    let mut lines: Vec<String> = lines.collect();
    // Rejected, and counted in the numbers of the rows behind it.
    lines.insert(1, r#"{"id": 1.5}"#.into());
    lines.join("\n").into_bytes()
}

fn as_arrow(rows: &[(i64, i64, String, f64)]) -> Vec<u8> {
    let prices = Decimal128Array::from_iter_values(rows.iter().map(|row| i128::from(row.0) * 100 + 25));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("price", Arc::new(prices.with_precision_and_scale(30, 2).unwrap())),
        (
            "user_id",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.2))),
        ),
        (
            "id",
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from_iter_values(
                rows.iter().map(|row| row.1),
            )),
        ),
        (
            "amount",
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3))),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

async fn send(opened: &Opened) -> u64 {
    let now_us = pyflare_dataflows::time::now_ms() as i64 * 1_000;
    let base_us = now_us - (REQUESTS + 4) * STEP_US;
    let mut requests = 0;
    for number in 0..REQUESTS {
        let rows = orders(number, base_us);
        match number % 3 {
            0 => {
                opened
                    .append_rows("orders", ContentType::ArrowStream, as_arrow(&rows))
                    .await
            }
            _ => {
                opened
                    .append_rows("orders", ContentType::NdJson, as_lines(&rows))
                    .await
            }
        }
        requests += 1;
        if number % 4 == 1 {
            let lines: String = (0..6)
                .map(|x| format!("{{\"x\": {}}}\n", number * 7 + x))
                .collect();
            opened
                .append_rows("arrivals", ContentType::NdJson, lines.into_bytes())
                .await;
            let start = (base_us + number * STEP_US) as u64 * 1_000;
            opened.append(request(number as u64, start, 10)).await;
            requests += 2;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    requests
}

/// The rows that count at `tick`, by the contract: admitted after the start, neither from the future nor late, and
/// their pane not gone.
pub fn living(
    rows: &RecordBatch,
    at: &str,
    time: Time,
    lateness_us: i64,
    marks: &Marks,
    start: u64,
    tick: u64,
) -> RecordBatch {
    let times = rows[at].as_primitive::<TimestampMicrosecondType>();
    let ticks = rows["_tick"].as_primitive::<Int64Type>();
    let before = rows["_mark"].as_primitive::<Int64Type>();
    let mark = marks.before(tick).map(|mark| mark - lateness_us);
    let lives = |row: usize| {
        let (event, admitted) = (times.value(row), ticks.value(row));
        let pane_end = event - event.rem_euclid(time.pane_us) + time.pane_us;
        let kept = if time.emit_final { 0 } else { time.retention_us };
        let late = before.is_valid(row) && pane_end <= before.value(row) - lateness_us - kept;
        let gone = mark.is_some_and(|mark| pane_end <= mark - time.retention_us);
        let open = time.emit_final && mark.is_none_or(|mark| pane_end > mark);
        let future = event > admitted * 1_000 + FUTURE_US;
        admitted as u64 > start && admitted as u64 <= tick && !late && !gone && !open && !future
    };
    let mask: BooleanArray = (0..rows.num_rows()).map(|row| Some(lives(row))).collect();
    filter_record_batch(rows, &mask).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_streams_equal_the_batch_at_every_tick_and_on_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let engine = &opened.engine;
    let mut streams = Vec::new();
    for sql in [ORDERS, ARRIVALS] {
        let created = engine.create_stream(declared(sql)).await.unwrap();
        streams.push(created.definition);
    }
    let mut installed = Vec::new();
    for (sql, time) in monitors() {
        let view = engine.install(definition(sql, &streams), false).await.unwrap();
        installed.push((view, time));
    }
    let (stop, stopped) = watch::channel(false);
    let following: Vec<_> = installed
        .iter()
        .map(|(view, _)| {
            let options = SubscribeOptions {
                snapshot: true,
                ..SubscribeOptions::default()
            };
            follow(engine, &view_name(&view.definition), options, stopped.clone())
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let requests = send(&opened).await;
    let last = opened.admitted(requests).await;
    let rows = |name: &str| all_rows(&engine.stream_tail(&ViewName::of_project("default", name), last));
    let (orders, arrivals) = (rows("orders"), rows("arrivals"));
    assert_eq!(orders.num_rows() as i64, REQUESTS * ROWS);
    let spans = opened.rows(last);
    let described = engine.stream("default", "orders").unwrap();
    assert_eq!(described.rows as i64, REQUESTS * ROWS);
    assert_eq!(
        (described.rejected_rows as i64, described.future_rows),
        (REQUESTS / 3 * 2, 8)
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send(true).unwrap();
    let mut transcripts: Vec<(ViewName, Transcript)> = Vec::new();
    for ((view, _), transcript) in installed.iter().zip(following) {
        transcripts.push((view.name.clone(), transcript.await.unwrap()));
    }
    opened.shutdown();

    // Views and streams have their ids from one counter: the streams came first.
    let marks = |stream: serde_json::Value| Marks::read(directory.path(), &stream);
    let (order_marks, arrival_marks, span_marks) = (marks(1.into()), marks(2.into()), marks("traces".into()));
    let row_ticks: BTreeSet<u64> = [&orders, &arrivals, &spans]
        .into_iter()
        .flat_map(|rows| rows["_tick"].as_primitive::<Int64Type>().values().to_vec())
        .map(|tick| tick as u64)
        .collect();
    assert!(row_ticks.len() > 15, "{} ticks had rows", row_ticks.len());
    let mut left = 0;
    for ((view, time), (name, transcript)) in installed.iter().zip(&transcripts) {
        let contents = transcript.contents(last);
        for tick in contents
            .keys()
            .chain(&row_ticks)
            .copied()
            .collect::<BTreeSet<_>>()
        {
            let ordered = living(&orders, "at", *time, LATENESS_US, &order_marks, view.start, tick);
            let admitted = orders["_tick"].as_primitive::<Int64Type>().values().iter();
            left += admitted.filter(|at| **at as u64 <= tick).count() - ordered.num_rows();
            let ten_seconds = 10 * SECOND_US;
            let arrived = living(
                &arrivals,
                "event_time",
                DAY,
                ten_seconds,
                &arrival_marks,
                view.start,
                tick,
            );
            let spanned = living(
                &spans,
                "event_time",
                DAY,
                ten_seconds,
                &span_marks,
                view.start,
                tick,
            );
            let tables = [
                ("orders", std::slice::from_ref(&ordered)),
                ("arrivals", std::slice::from_ref(&arrived)),
                ("spans", std::slice::from_ref(&spanned)),
            ];
            let batch = pyflare_sql::oracle::batch_over(&view.definition, &tables).unwrap();
            let mut expected = Content::new();
            add_rows(&transcript.schema, &batch, None, &mut expected);
            let empty = Content::new();
            let shown = contents
                .range(..=tick)
                .next_back()
                .map_or(&empty, |(_, content)| content);
            assert_eq!(shown.len(), expected.len(), "rows of {name} at tick {tick}");
            assert!(*shown == expected, "{name} at tick {tick} differs from the batch");
        }
        assert!(
            contents.values().any(|content| !content.is_empty()),
            "{name} shows something"
        );
    }
    assert!(left > 1_000, "{left} rows were late, gone or from the future");

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_dropped_only_when_nobody_reads_it_and_comes_back_empty() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 1);
    let engine = &opened.engine;
    let name = ViewName::of_project("default", "arrivals");
    let first = engine.create_stream(declared(ARRIVALS)).await.unwrap();
    let code = |outcome: Result<(), EngineError>| outcome.unwrap_err().code();
    assert_eq!(
        code(engine.create_stream(declared(ARRIVALS)).await.map(drop)),
        "PF-3014"
    );
    let sql = "CREATE MONITOR totals AS SELECT count(*) AS n FROM arrivals";
    let view = definition(sql, &[Arc::clone(&first.definition)]);
    engine.install(view.clone(), false).await.unwrap();
    assert_eq!(code(engine.drop_stream(&name).await), "PF-3011");
    let clash = definition("CREATE MONITOR arrivals AS SELECT count(*) AS n FROM spans", &[]);
    assert_eq!(code(engine.install(clash, false).await.map(drop)), "PF-3014");
    let taken = StreamDefinition {
        name: "totals".into(),
        ..declared(ARRIVALS)
    };
    assert_eq!(code(engine.create_stream(taken).await.map(drop)), "PF-3014");
    opened
        .append_rows("arrivals", ContentType::NdJson, b"{\"x\": 1}".to_vec())
        .await;
    opened.admitted(1).await;
    engine.drop_monitor(&view_name(&view)).await.unwrap();
    engine.drop_stream(&name).await.unwrap();
    assert_eq!(code(engine.drop_stream(&name).await), "PF-3015");
    // Planned over what is gone, or is declared otherwise by now.
    assert_eq!(
        code(engine.install(view.clone(), false).await.map(drop)),
        "PF-3012"
    );
    let other = declared("CREATE STREAM arrivals (x TEXT)");
    let second = engine.create_stream(other).await.unwrap();
    assert_ne!(first.table, second.table);
    assert_eq!(code(engine.install(view, false).await.map(drop)), "PF-3012");
    let again = definition(sql, &[second.definition]);
    engine.install(again.clone(), false).await.unwrap();
    opened
        .append_rows(
            "arrivals",
            ContentType::NdJson,
            b"{\"x\": \"one\"}\n{\"x\": 1}".to_vec(),
        )
        .await;
    opened.admitted(2).await;
    let content = opened.content(&view_name(&again)).await;
    assert_eq!(content.values().sum::<i64>(), 1, "one row, which says one");
    let described = engine.stream("default", "arrivals").unwrap();
    assert_eq!((described.rows, described.rejected_rows), (1, 1));
    opened.shutdown();
    let replayed = open(directory.path(), 2);
    assert!(
        replayed.content(&view_name(&again)).await == content,
        "the same after a restart"
    );
    replayed.shutdown();
}
