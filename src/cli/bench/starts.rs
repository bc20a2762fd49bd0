//! Monitors that start over much: how fresh others stay meanwhile, and how fast the past is read.
//!
//! The other side of the first is measured in the same run: all content within one tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyflare_dataflows::Engine;

use super::bed::{Bed, caught_up, stop};
use super::monitors::{FACTS, GROUPS, STREAM, definition, facts};
use super::{Figure, Target, figure};

/// Requests of so many rows each.
const REQUESTS: u64 = 40;
const ROWS: usize = 50_000;
const JOIN: &str = "CREATE MONITOR joined AS SELECT a.key, a.total, b.n, b.rows FROM \
    (SELECT key, sum(n) AS total FROM facts GROUP BY key) AS a \
    JOIN (SELECT key, n % 2 AS n, count(*) AS rows FROM facts GROUP BY key, n % 2) AS b ON a.key = b.key";
const PAST: &str = "CREATE MONITOR past WITH (backfill = '1 hour') AS \
    SELECT key, count(*) AS rows, sum(n) AS total FROM facts GROUP BY key";

pub async fn starts() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (slice_rows, what, target) in [
        (None, "in slices", Target::AtMost(500.0)),
        (Some(usize::MAX / 64), "at once", Target::None),
    ] {
        let bed = Bed::new().await?;
        bed.declare(&[
            STREAM.into(),
            // Keeps both sides since one tick, so that another join can read them.
            JOIN.replace("MONITOR joined", "MONITOR first") + " WHERE a.total < 0",
        ])
        .await?;
        bed.fill_stream(
            "facts",
            (0..REQUESTS).map(|number| facts(ROWS, number as i64 * 49_999)),
        )
        .await?;
        let engine = bed
            .start_with(1, None, |options| {
                options.slice_rows = slice_rows.unwrap_or(options.slice_rows);
            })
            .await?;
        caught_up(&engine, REQUESTS).await?;
        // What is kept is told a moment after the tick.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let (took, worst) = started(&bed, &engine, JOIN, REQUESTS).await?;
        let view = engine.view(Some(super::bed::PROJECT), "joined");
        let (rows, stopped) = view.map_or((0, None), |view| (view.rows, view.stopped.clone()));
        anyhow::ensure!(rows as i64 >= GROUPS, "the join has {rows} rows ({stopped:?})");
        stop(engine).await?;
        let name = |of: &str| format!("a join over 100,000 keys starts {what}, {of}");
        figures.push(figure(name("longest wait of a row"), worst, "ms", target, FACTS));
        figures.push(figure(name("until it is there"), took, "ms", Target::None, FACTS));
    }
    let bed = Bed::new().await?;
    bed.declare(&[STREAM.into()]).await?;
    bed.fill_stream(
        "facts",
        (0..REQUESTS).map(|number| facts(ROWS, number as i64 * 49_999)),
    )
    .await?;
    let engine = bed.start(1, Some(bed.store()?)).await?;
    caught_up(&engine, REQUESTS).await?;
    engine.flush().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (took, worst) = started(&bed, &engine, PAST, REQUESTS).await?;
    stop(engine).await?;
    let rows = REQUESTS as f64 * ROWS as f64;
    figures.push(figure(
        "a monitor begins in the past, rows read",
        rows / took * 1e3,
        "rows/s",
        Target::None,
        FACTS,
    ));
    figures.push(figure(
        "a monitor begins in the past, longest wait of a row",
        worst,
        "ms",
        Target::AtMost(500.0),
        FACTS,
    ));
    Ok(figures)
}

/// How long a monitor takes until it is there, and the longest that a row waits meanwhile for its tick, milliseconds.
async fn started(bed: &Bed, engine: &Engine, sql: &str, before: u64) -> anyhow::Result<(f64, f64)> {
    let over = Arc::new(AtomicBool::new(false));
    let installing = tokio::spawn({
        let (engine, definition, over) = (engine.clone(), definition(engine, sql)?, Arc::clone(&over));
        async move {
            let begun = Instant::now();
            let installed = engine.install(definition, false).await;
            over.store(true, Ordering::Release);
            installed.map(|_| begun.elapsed())
        }
    });
    let mut requests = before;
    let mut worst = Duration::ZERO;
    while !over.load(Ordering::Acquire) {
        bed.fill_stream("facts", std::iter::once(facts(1, requests as i64)))
            .await?;
        requests += 1;
        let appended = Instant::now();
        caught_up(engine, requests).await?;
        worst = worst.max(appended.elapsed());
    }
    let took = installing.await??;
    Ok((took.as_secs_f64() * 1e3, worst.as_secs_f64() * 1e3))
}
