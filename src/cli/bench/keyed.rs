//! Counts and sums by key, over a stream whose rows come as Arrow: what the dataflow itself takes.

use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use pyflare_connectors::Log;
use pyflare_connectors::memory::MemoryLog;
use pyflare_dataflows::ViewName;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::bed::{Bed, PROJECT, caught_up, give_back_memory, now_us, resident_bytes, stop};
use super::{Figure, Target, figure};

const PER_REQUEST: usize = 50_000;
const CORPUS: &str = "Arrow rows: a key, two whole numbers, a time";

/// What a group takes, then one worker with 1,000 and with 100,000 keys, and two workers with 100,000.
pub async fn keyed(seconds: f64) -> anyhow::Result<Vec<Figure>> {
    // Before anything else has used the memory.
    let bytes = bytes_per_group().await?;
    let name = "state of a (group, pane) with 5 aggregates";
    let mut figures = vec![figure(name, bytes, "bytes", Target::AtMost(300.0), CORPUS)];
    let mut of_one = 0.0;
    for (keys, workers) in [(1_000, 1), (100_000, 1), (100_000, 2)] {
        let rows_per_second = if keys == 1_000 { 8e6 } else { 2e6 };
        let requests = ((seconds * rows_per_second) as usize)
            .div_ceil(PER_REQUEST)
            .max(1);
        let rate = rate(keys, workers, requests).await?;
        let (target, name) = match (keys, workers) {
            (1_000, _) => (Target::AtLeast(5e6), "count and sum by key, 1,000 keys, 1 worker"),
            (_, 1) => {
                of_one = rate;
                (
                    Target::AtLeast(1e6),
                    "count and sum by key, 100,000 keys, 1 worker",
                )
            }
            _ => (Target::None, "count and sum by key, 100,000 keys, 2 workers"),
        };
        figures.push(figure(name, rate, "rows/s", target, CORPUS));
        if workers == 2 {
            let ratio = rate / of_one;
            figures.push(figure(
                "2 workers against 1",
                ratio,
                "×",
                Target::AtLeast(1.6),
                CORPUS,
            ));
        }
    }
    Ok(figures)
}

pub fn statements(select: &str) -> Vec<String> {
    vec![
        "CREATE STREAM facts (key BIGINT, n BIGINT, m BIGINT, at TIMESTAMP) WITH (event_time = 'at')".into(),
        format!("CREATE MONITOR by_key AS SELECT {select}"),
    ]
}

/// Rows per second from requests in memory to the view. No log is read: that a disk's log can be read as fast is another
/// part's matter, and its thread would take the second core from the second worker.
async fn rate(keys: i64, workers: usize, requests: usize) -> anyhow::Result<f64> {
    let log = MemoryLog::default();
    let bed = Bed::on(Box::new(move |_| Ok(Arc::new(log.clone()) as Arc<dyn Log>))).await?;
    bed.declare(&statements(
        "key, count(*) AS rows, sum(n) AS total FROM facts GROUP BY key",
    ))
    .await?;
    let mut random = SmallRng::seed_from_u64(7);
    let start_us = now_us() - 60_000_000;
    let bodies = (0..requests).map(|_| {
        body(
            &mut random,
            PER_REQUEST,
            |random| random.random_range(0..keys),
            start_us,
        )
    });
    bed.fill_stream("facts", bodies).await?;
    let begin = Instant::now();
    let engine = bed.start(workers, None).await?;
    caught_up(&engine, requests as u64).await?;
    let taken = begin.elapsed().as_secs_f64();
    let view = engine.view_named(&ViewName::of_project(PROJECT, "by_key"));
    let groups = view.map_or(0, |view| view.rows);
    ensure!(groups == keys as u64, "{groups} of {keys} groups are in the view");
    stop(engine).await?;
    Ok((requests * PER_REQUEST) as f64 / taken)
}

/// Resident memory that a million groups of one pane add to what an engine with a few takes, without history.
async fn bytes_per_group() -> anyhow::Result<f64> {
    const GROUPS: usize = 1_000_000;
    let few = resident_with(PER_REQUEST).await?;
    let many = resident_with(GROUPS + PER_REQUEST).await?;
    Ok((many - few) / GROUPS as f64)
}

/// Resident memory without what the allocator could give back.
fn used_bytes() -> anyhow::Result<u64> {
    give_back_memory();
    resident_bytes()
}

/// Bytes that an engine takes whose view has so many groups.
async fn resident_with(groups: usize) -> anyhow::Result<f64> {
    let bed = Bed::new().await?;
    let select = "window_start, key, count(*) AS rows, sum(n) AS total, min(n) AS least, max(m) AS most, avg(m) AS mean \
                  FROM TUMBLE(facts, at, INTERVAL '1 hour') GROUP BY window_start, key";
    bed.declare(&statements(select)).await?;
    let mut random = SmallRng::seed_from_u64(7);
    let hour_us = 3_600_000_000;
    let start_us = now_us() / hour_us * hour_us;
    let mut next = 0;
    let requests = groups / PER_REQUEST;
    let bodies = (0..requests).map(|_| {
        body(
            &mut random,
            PER_REQUEST,
            |_| {
                next += 1;
                next
            },
            start_us,
        )
    });
    bed.fill_stream("facts", bodies).await?;
    let before = used_bytes()?;
    let engine = bed.start(1, None).await?;
    caught_up(&engine, requests as u64).await?;
    // Traces are merged while nothing happens, for which they take more at first.
    let (mut after, mut alike) = (used_bytes()?, 0);
    for _ in 0..30 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let now = used_bytes()?;
        alike = if now.abs_diff(after) < now / 1_000 {
            alike + 1
        } else {
            0
        };
        after = now;
        if alike == 5 {
            break;
        }
    }
    stop(engine).await?;
    Ok(after as f64 - before as f64)
}

pub fn body(
    random: &mut SmallRng,
    rows: usize,
    mut key: impl FnMut(&mut SmallRng) -> i64,
    start_us: i64,
) -> Vec<u8> {
    let keys: Int64Array = (0..rows).map(|_| key(random)).collect();
    let n: Int64Array = (0..rows).map(|_| random.random_range(0..1_000)).collect();
    let m: Int64Array = (0..rows).map(|_| random.random_range(0..1_000_000)).collect();
    let at = TimestampMicrosecondArray::from_iter_values(
        (0..rows).map(|_| start_us + random.random_range(0..1_000_000)),
    );
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("key", Arc::new(keys)),
        ("n", Arc::new(n)),
        ("m", Arc::new(m)),
        ("at", Arc::new(at.with_timezone("+00:00"))),
    ];
    super::bed::arrow_stream(&columns)
}
