//! Reads of a large view: one key of many, and how fresh the engine stays while all of it is read again and again.
//!
//! The other side of each ratio is measured in the same run: a look-up that reads the whole view, and workers that do not
//! look up from a read before it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use pyflare_dataflows::{Engine, ViewName, Wanted};

use super::bed::{Bed, PROJECT, caught_up, now_us, stop};
use super::freshness::percentile;
use super::{Figure, Target, figure};

const GROUPS: usize = 100_000;
const PER_REQUEST: usize = 50_000;
const CORPUS: &str = "a view of 100,000 groups by a text, with three aggregates";
/// Reads at once while freshness is measured.
const READERS: usize = 4;

pub async fn peeks(seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let bed = Bed::new().await?;
    bed.declare(&[
        "CREATE STREAM facts (key TEXT, at TIMESTAMP) WITH (event_time = 'at')".into(),
        "CREATE MONITOR by_key AS SELECT key, count(*) AS rows, min(at) AS first_at, max(at) AS last_at FROM facts GROUP BY \
         key"
        .into(),
    ])
    .await?;
    let at = now_us() - 60_000_000;
    let bodies = (0..GROUPS / PER_REQUEST).map(|request| body(request * PER_REQUEST, PER_REQUEST, at));
    bed.fill_stream("facts", bodies).await?;
    let mut requests = (GROUPS / PER_REQUEST) as u64;
    let engine = bed.start(1, None).await?;
    caught_up(&engine, requests).await?;
    let mut figures = look_ups(&engine, seconds).await?;
    stop(engine).await?;
    for (slice, what) in [
        (None, "while 4 readers read all"),
        (
            Some(Duration::from_secs(3_600)),
            "while 4 readers read all at a stretch",
        ),
    ] {
        let engine = bed.start_reading(1, slice).await?;
        caught_up(&engine, requests).await?;
        let quiet = freshness(&bed, &engine, &mut requests, seconds / 2.0, 0).await?;
        let busy = freshness(&bed, &engine, &mut requests, seconds, READERS).await?;
        stop(engine).await?;
        if slice.is_none() {
            figures.push(figure(
                "row to view, nobody reads, p99",
                quiet.1,
                "ms",
                Target::None,
                CORPUS,
            ));
        }
        let name = |share: &str| format!("row to view {what}, {share}");
        figures.push(figure(name("p50"), busy.0, "ms", Target::None, CORPUS));
        figures.push(figure(name("p99"), busy.1, "ms", Target::None, CORPUS));
        figures.push(figure(
            format!("reads {what}"),
            busy.2,
            "reads/s",
            Target::None,
            CORPUS,
        ));
    }
    Ok(figures)
}

/// Look-ups of one key, by seeking and by reading all.
async fn look_ups(engine: &Engine, seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let name = ViewName::of_project(PROJECT, "by_key");
    let mut figures = Vec::new();
    for (seeks, what, target) in [
        (true, "one key of 100,000", Target::AtMost(5.0)),
        (false, "one key of 100,000 by reading all", Target::None),
    ] {
        let begun = Instant::now();
        let mut waits = Vec::new();
        while begun.elapsed().as_secs_f64() < seconds / 2.0 || waits.len() < 10 {
            let key = format!("key {}", waits.len() * 7_919 % GROUPS);
            let wanted: ArrayRef = Arc::new(StringArray::from(vec![key]));
            let view = engine.view_named(&name);
            let text = view.map(|view| view.schema.field(0).data_type().clone());
            let wanted = arrow::compute::cast(&wanted, &text.unwrap_or(arrow::datatypes::DataType::Utf8))?;
            let wanted = Wanted {
                equalities: if seeks { vec![(0, wanted)] } else { Vec::new() },
                ..Wanted::default()
            };
            let hold = engine.hold();
            let asked = Instant::now();
            let found = engine.peek_at(&name, hold.tick(), None, wanted).await?;
            waits.push(asked.elapsed());
            let rows: usize = found.batches.iter().map(|batch| batch.num_rows()).sum();
            let expected = if seeks { 1 } else { GROUPS };
            ensure!(rows == expected, "{rows} rows were read, not {expected}");
        }
        waits.sort_unstable();
        let milliseconds = |share: f64| percentile(&waits, share).as_secs_f64() * 1e3;
        figures.push(figure(
            format!("{what}, p50"),
            milliseconds(0.5),
            "ms",
            Target::None,
            CORPUS,
        ));
        figures.push(figure(
            format!("{what}, p99"),
            milliseconds(0.99),
            "ms",
            target,
            CORPUS,
        ));
    }
    Ok(figures)
}

/// From a durable row to its tick being complete, p50 and p99 in milliseconds, and reads per second meanwhile.
async fn freshness(
    bed: &Bed,
    engine: &Engine,
    requests: &mut u64,
    seconds: f64,
    readers: usize,
) -> anyhow::Result<(f64, f64, f64)> {
    let over = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let reading: Vec<_> = (0..readers)
        .map(|_| {
            let (engine, over, reads) = (engine.clone(), Arc::clone(&over), Arc::clone(&reads));
            tokio::spawn(async move {
                let name = ViewName::of_project(PROJECT, "by_key");
                while !over.load(Ordering::Relaxed) {
                    engine.peek(&name, &engine.hold(), None).await?;
                    reads.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let begun = Instant::now();
    let mut waits = Vec::new();
    while begun.elapsed().as_secs_f64() < seconds {
        bed.fill_stream("facts", std::iter::once(body(waits.len(), 1, now_us())))
            .await?;
        *requests += 1;
        let appended = Instant::now();
        caught_up(engine, *requests).await?;
        waits.push(appended.elapsed());
    }
    let rate = reads.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    for reader in reading {
        reader.await??;
    }
    waits.sort_unstable();
    let milliseconds = |share: f64| percentile(&waits, share).as_secs_f64() * 1e3;
    Ok((milliseconds(0.5), milliseconds(0.99), rate))
}

fn body(first: usize, rows: usize, at: i64) -> Vec<u8> {
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(
        (first..first + rows).map(|number| format!("key {number}")),
    ));
    let times = TimestampMicrosecondArray::from_iter_values(std::iter::repeat_n(at, rows));
    let times: ArrayRef = Arc::new(times.with_timezone("+00:00"));
    super::bed::arrow_stream(&[("key", keys), ("at", times)])
}
