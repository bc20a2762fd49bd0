//! Many monitors: what installing one takes, what a thousand cost, what they cost when nothing happens, and whether the
//! memory of those that are dropped comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use pyflare_dataflows::{Engine, MonitorDefinition, ViewName};
use pyflare_sql::{PlanScope, Statement};

use super::bed::{Bed, PROJECT, arrow_stream, caught_up, now_us, processor_seconds, resident_bytes, stop};
use super::freshness::{percentile, seen};
use super::server::Server;
use super::{Figure, SMALL, Target, figure};

const MANY: usize = 1_000;
const SPANS_PER_SECOND: u64 = 10_000;
const IDLE: Duration = Duration::from_secs(10);
pub(super) const GROUPS: i64 = 100_000;
pub(super) const FACTS: &str = "Arrow rows: a key of 100,000, a number, a time";
pub(super) const STREAM: &str =
    "CREATE STREAM facts (key BIGINT, n BIGINT, at TIMESTAMP) WITH (event_time = 'at')";
/// Monitors that are installed and dropped to see whether memory comes back.
const TURNS: usize = 10_000;

/// What installing and dropping takes, and what a monitor costs that shares a base.
pub async fn installs() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for workers in [1, 2] {
        figures.push(shared_install(workers).await?);
    }
    figures.extend(marginal().await?);
    for workers in [1, 4] {
        figures.push(turnover(workers).await?);
    }
    Ok(figures)
}

/// One of a thousand: 250 sets of keys and filters, and on each of them four monitors. Of every ten one joins, one is an
/// aggregate of aggregates, and two have windows.
fn statement(number: usize) -> String {
    let keys = [
        "service_name",
        "model",
        "name",
        "span_class",
        "status",
        "provider",
    ];
    let set = number / 4;
    let (key, other) = (keys[set % 6], keys[(set + 1 + set / 6 % 5) % 6]);
    // Of every fifty sets one is by user, of whom there are a thousand: each tick changes most of their groups.
    let key = if set % 50 == 49 { "user_id" } else { key };
    let rows = format!("FROM spans WHERE input_tokens > {}", set / 6);
    let grouped = format!("GROUP BY {key}, {other}");
    let select = match number % 10 {
        0 => format!(
            "SELECT a.{key}, a.calls, b.errors FROM (SELECT {key}, count(*) AS calls {rows} {grouped}) AS a \
             LEFT JOIN (SELECT {key}, count(*) AS errors {rows} AND status = 'error' GROUP BY {key}) AS b \
             ON a.{key} = b.{key}"
        ),
        5 => format!(
            "SELECT calls, count(*) AS groups FROM (SELECT {key}, {other}, count(*) AS calls {rows} {grouped}) \
             GROUP BY calls"
        ),
        1 | 6 => format!(
            "SELECT window_start, {key}, count(*) AS calls FROM TUMBLE(spans, event_time, INTERVAL '1 minute') \
             WHERE input_tokens > {} GROUP BY window_start, {key}",
            set / 6
        ),
        2 | 7 => format!("SELECT {key}, {other}, count(*) AS calls {rows} {grouped} HAVING count(*) > 10"),
        3 | 8 => format!("SELECT {other}, {key}, avg(duration_ns) / 1e6 AS mean_ms {rows} {grouped}"),
        _ => format!("SELECT {key}, {other}, count(*) AS calls, avg(duration_ns) AS mean {rows} {grouped}"),
    };
    format!("CREATE MONITOR many_{number} AS {select}")
}

/// A thousand monitors on a server with one worker: installed over REST, idle, and under traffic.
pub async fn monitors(seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let server = Arc::new(Server::start().await?);
    let mut waits = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let statement = statement(number);
        let begin = Instant::now();
        server.sql(&statement).await?;
        waits.push(begin.elapsed());
    }
    waits.sort_unstable();
    let milliseconds = |share: f64| percentile(&waits, share).as_secs_f64() * 1e3;
    let (before, begin) = (processor_seconds(server.process())?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let idle = (processor_seconds(server.process())? - before) / begin.elapsed().as_secs_f64();
    let (before, begin) = (processor_seconds(server.process())?, Instant::now());
    let seen = seen(&server, SPANS_PER_SECOND, seconds.max(10.0)).await?;
    let busy = (processor_seconds(server.process())? - before) / begin.elapsed().as_secs_f64();
    let name = |what: &str| format!("{MANY} monitors, 1 worker, {what}");
    Ok(vec![
        figure(
            name("install by REST, p50"),
            milliseconds(0.5),
            "ms",
            Target::None,
            SMALL,
        ),
        figure(
            name("install by REST, p99"),
            milliseconds(0.99),
            "ms",
            Target::AtMost(50.0),
            SMALL,
        ),
        figure(
            name("idle"),
            idle * 100.0,
            "% of a core",
            Target::AtMost(5.0),
            SMALL,
        ),
        figure(
            name("rate"),
            seen.spans_per_second,
            "spans/s",
            Target::None,
            SMALL,
        ),
        figure(
            name("freshness, p50"),
            seen.milliseconds(0.5),
            "ms",
            Target::None,
            SMALL,
        ),
        figure(
            name("freshness, p99"),
            seen.milliseconds(0.99),
            "ms",
            Target::AtMost(500.0),
            SMALL,
        ),
        figure(
            name("under traffic"),
            busy * 100.0,
            "% of a core",
            Target::None,
            SMALL,
        ),
    ])
}

pub(super) fn definition(engine: &Engine, sql: &str) -> anyhow::Result<MonitorDefinition> {
    let streams = engine.streams().into_iter();
    let scope = PlanScope {
        project: Some(PROJECT.into()),
        streams: streams.map(|stream| stream.definition).collect(),
        views: Vec::new(),
    };
    match pyflare_sql::parse(sql, &scope) {
        Ok(Statement::CreateMonitor(create)) => Ok(create.definition),
        Ok(_) => Err(anyhow!("a CREATE MONITOR is expected: {sql}")),
        Err(error) => Err(anyhow!("{error}: {sql}")),
    }
}

/// Rows of which each is of the next key.
pub(super) fn facts(rows: usize, first: i64) -> Vec<u8> {
    let keys = Int64Array::from_iter_values((0..rows as i64).map(|row| (first + row) % GROUPS));
    let n = Int64Array::from_iter_values((0..rows as i64).map(|row| row % 1_000));
    let at = TimestampMicrosecondArray::from(vec![now_us(); rows]).with_timezone("+00:00");
    let columns: Vec<(&str, ArrayRef)> =
        vec![("key", Arc::new(keys)), ("n", Arc::new(n)), ("at", Arc::new(at))];
    arrow_stream(&columns)
}

/// From the statement to the content, of monitors that read what another one keeps, while rows come in.
async fn shared_install(workers: usize) -> anyhow::Result<Figure> {
    const INSTALLS: usize = 100;
    let bed = Bed::new().await?;
    bed.declare(&[STREAM.into()]).await?;
    let engine = bed.start(workers, None).await?;
    let select = "SELECT key, count(*) AS rows, sum(n) AS total FROM facts GROUP BY key";
    let first = definition(&engine, &format!("CREATE MONITOR first AS {select}"))?;
    engine.install(first, false).await?;
    bed.fill_stream("facts", std::iter::once(facts(GROUPS as usize, 0)))
        .await?;
    caught_up(&engine, 1).await?;
    let mut waits = Vec::with_capacity(INSTALLS);
    for number in 0..INSTALLS {
        // About 10,000 rows a second.
        bed.fill_stream("facts", std::iter::once(facts(2_000, number as i64 * 2_000)))
            .await?;
        let sql = format!(
            "CREATE MONITOR more_{number} AS {select} HAVING count(*) > {}",
            number % 2
        );
        let begin = Instant::now();
        let view = engine.install(definition(&engine, &sql)?, false).await?;
        let hold = engine.hold();
        engine.peek(&view.name, &hold, None).await?;
        waits.push(begin.elapsed());
        drop(hold);
        engine.drop_monitor(&view.name).await?;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    stop(engine).await?;
    waits.sort_unstable();
    let plural = if workers == 1 { "" } else { "s" };
    Ok(figure(
        format!("install over 100,000 shared groups, {workers} worker{plural}, p99"),
        percentile(&waits, 0.99).as_secs_f64() * 1e3,
        "ms",
        Target::AtMost(if workers == 1 { 150.0 } else { 400.0 }),
        FACTS,
    ))
}

/// What a monitor adds that reads what the first one keeps, with another HAVING and select list.
async fn marginal() -> anyhow::Result<Vec<Figure>> {
    const MORE: usize = 10;
    const REQUESTS: usize = 60;
    let mut spent = Vec::new();
    let mut resident = Vec::new();
    for monitors in [0, 1, 1 + MORE] {
        let bed = Bed::new().await?;
        let mut statements = vec![STREAM.to_string()];
        for number in 0..monitors {
            // The first shows everything; the others what hardly ever happens, as alerts do.
            let (select, having) = match number {
                0 => ("key, count(*) AS rows, sum(n) AS total", String::new()),
                _ => (
                    "key, sum(n) / count(*) AS mean",
                    format!(" HAVING sum(n) > {}000000", number),
                ),
            };
            statements.push(format!(
                "CREATE MONITOR m_{number} AS SELECT {select} FROM facts GROUP BY key{having}"
            ));
        }
        bed.declare(&statements).await?;
        let bodies = (0..REQUESTS).map(|number| facts(50_000, number as i64 * 50_000));
        bed.fill_stream("facts", bodies).await?;
        let before = (processor_seconds(std::process::id())?, resident_bytes()?);
        let engine = bed.start(1, None).await?;
        caught_up(&engine, REQUESTS as u64).await?;
        spent.push(processor_seconds(std::process::id())? - before.0);
        resident.push(resident_bytes()?.saturating_sub(before.1) as f64);
        stop(engine).await?;
    }
    let share = |of: &[f64]| (of[2] - of[1]) / MORE as f64 / (of[1] - of[0]).max(1e-9) * 100.0;
    Ok(vec![
        figure(
            "a monitor more on a shared base, processor",
            share(&spent),
            "% of the first",
            Target::AtMost(5.0),
            FACTS,
        ),
        figure(
            "a monitor more on a shared base, memory",
            share(&resident),
            "% of the first",
            Target::AtMost(5.0),
            FACTS,
        ),
    ])
}

/// Memory after ten thousand installs and drops, against that after the first thousand of them.
async fn turnover(workers: usize) -> anyhow::Result<Figure> {
    let bed = Bed::new().await?;
    let engine = bed.start(workers, None).await?;
    let mut settled = 0;
    for number in 0..TURNS {
        let sql = statement(number % MANY).replace("MONITOR many_", "MONITOR turn_");
        let view = engine.install(definition(&engine, &sql)?, false).await?;
        engine.drop_monitor(&view.name).await?;
        if number + 1 == TURNS / 10 {
            settled = resident_bytes()?;
        }
    }
    let end = resident_bytes()?;
    let left = engine.view_named(&ViewName::of_project(PROJECT, "turn_0"));
    anyhow::ensure!(left.is_none(), "a dropped monitor is still there");
    stop(engine).await?;
    let plural = if workers == 1 { "" } else { "s" };
    Ok(figure(
        format!("memory after {TURNS} installs and drops, {workers} worker{plural}"),
        (end as f64 / settled as f64 - 1.0) * 100.0,
        "% more",
        Target::AtMost(5.0),
        "none, after the first thousand of them",
    ))
}
