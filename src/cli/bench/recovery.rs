//! What it costs never to lose anything: the tick log and checkpoints against both off, and how long a start takes.
//!
//! Both sides of the ratio take the same rows over a million groups that are there already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use pyflare_connectors::TickLog;
use pyflare_dataflows::{Engine, EngineOptions};
use pyflare_log::{FileCheckpoints, FileTickLog, MemoryTickLog};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::bed::{Bed, caught_up, now_us, stop};
use super::durable::durable;
use super::keyed::{body, statements};
use super::{Figure, Target, figure};

const ROWS: usize = 50_000;
const GROUPS: i64 = 1_000_000;
const FACTS: &str = "Arrow rows: a key, two whole numbers, a time; 5 aggregates by key and hour";
const SELECT: &str = "window_start, key, count(*) AS rows, sum(n) AS total, min(n) AS least, max(m) AS most, avg(m) AS mean \
                      FROM TUMBLE(facts, at, INTERVAL '1 hour') GROUP BY window_start, key";
/// A checkpoint is taken so often where nobody says otherwise.
const MINUTE: f64 = 60.0;

pub async fn recovery(seconds: f64, millions: u64) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let off = throughput(seconds, false).await?;
    let on = throughput(seconds, true).await?;
    let lost = (on.took - off.took).max(0.0);
    figures.push(figure(
        "1 M groups, tick log and checkpoints off",
        off.rate(),
        "rows/s",
        Target::None,
        FACTS,
    ));
    figures.push(figure(
        "1 M groups, tick log on, a checkpoint in the run",
        on.rate(),
        "rows/s",
        Target::None,
        FACTS,
    ));
    figures.push(figure("the run took", on.took, "s", Target::None, FACTS));
    figures.push(figure(
        "with a checkpoint a minute, of the rate with both off",
        MINUTE / (MINUTE + lost),
        "×",
        Target::AtLeast(0.93),
        FACTS,
    ));
    figures.push(figure(
        "a tick is durable after, p99",
        durable_tick()?,
        "ms",
        Target::AtMost(30.0),
        "records of 300 bytes",
    ));
    figures.extend(durable(seconds).await?);
    figures.extend(restart(millions).await?);
    Ok(figures)
}

struct Run {
    rows: usize,
    took: f64,
}

impl Run {
    fn rate(&self) -> f64 {
        self.rows as f64 / self.took
    }
}

/// Rows over the groups that are there, with and without what makes them durable.
async fn throughput(seconds: f64, durable: bool) -> anyhow::Result<Run> {
    let bed = Bed::new().await?;
    bed.declare(&monitor()).await?;
    let mut random = SmallRng::seed_from_u64(7);
    let start_us = hour();
    let prefill = fill(&bed, &mut random, GROUPS, start_us).await?;
    let checkpoints = FileCheckpoints::open(bed.path().join("checkpoints"))?;
    let engine = match durable {
        true => {
            bed.start_with(1, None, |options| {
                options.checkpoints = Some(checkpoints);
                options.checkpoint_every = Duration::from_secs(3_600);
            })
            .await?
        }
        false => bed.start_with(1, None, forgetting(&bed)?).await?,
    };
    caught_up(&engine, prefill).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let requests = ((seconds * 1.5e6) as usize).div_ceil(ROWS).max(1);
    let bodies = (0..requests).map(|_| {
        body(
            &mut random,
            ROWS,
            |random| random.random_range(1..=GROUPS),
            start_us,
        )
    });
    let bodies: Vec<Vec<u8>> = bodies.collect();
    let begun = Instant::now();
    let checkpoint = tokio::spawn({
        let engine = engine.clone();
        async move {
            match durable {
                true => engine.checkpoint().await.map(|_| ()),
                false => Ok(()),
            }
        }
    });
    bed.fill_stream("facts", bodies.into_iter()).await?;
    caught_up(&engine, prefill + requests as u64).await?;
    let took = begun.elapsed().as_secs_f64();
    checkpoint.await??;
    stop(engine).await?;
    Ok(Run {
        rows: requests * ROWS,
        took,
    })
}

/// A tick log in memory, which has what the one on disk has so far.
pub fn forgetting(bed: &Bed) -> anyhow::Result<impl FnOnce(&mut EngineOptions) + use<>> {
    let memory = MemoryTickLog::default();
    let generation = memory.open_generation()?;
    FileTickLog::open(bed.path().join("ticks"))?
        .read(&mut |_, payload| memory.append(generation, payload).map(|_| ()))?;
    Ok(move |options: &mut EngineOptions| options.tick_log = Arc::new(memory))
}

/// The monitor of this part, which may keep as much as it is given.
fn monitor() -> Vec<String> {
    let unlimited =
        "CREATE MONITOR by_key WITH (max_rows = '1000000000', max_updates_per_second = '1000000000')";
    let statements = statements(SELECT).into_iter();
    statements
        .map(|sql| sql.replace("CREATE MONITOR by_key", unlimited))
        .collect()
}

/// Appends records as a tick does; the time until one is durable that one in a hundred exceeds, milliseconds.
fn durable_tick() -> anyhow::Result<f64> {
    let directory = tempfile::Builder::new().prefix("pyflare-bench-").tempdir()?;
    let log = FileTickLog::open(directory.path())?;
    let generation = log.open_generation()?;
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let begun = Instant::now();
        log.append(generation, &[7; 300])?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() * 99 / 100])
}

/// A checkpoint of so many million groups, one after little has changed, and a start from them.
async fn restart(millions: u64) -> anyhow::Result<Vec<Figure>> {
    let groups = millions as i64 * 1_000_000;
    let bed = Bed::new().await?;
    bed.declare(&monitor()).await?;
    let mut random = SmallRng::seed_from_u64(7);
    let start_us = hour();
    let mut requests = 0;
    // As many groups in each of some hours, as panes that are over are.
    let hours = 10;
    for hour in 0..hours {
        requests += fill(&bed, &mut random, groups / hours, start_us - hour * 3_600_000_000).await?;
    }
    let checkpoints = || FileCheckpoints::open(bed.path().join("checkpoints"));
    let start = |workers: usize, store: Arc<FileCheckpoints>| {
        bed.start_with(workers, None, |options| {
            options.checkpoints = Some(store);
            options.checkpoint_every = Duration::from_secs(3_600);
        })
    };
    let engine = start(2, checkpoints()?).await?;
    caught_up(&engine, requests).await?;
    let begun = Instant::now();
    engine.checkpoint().await?;
    let took = begun.elapsed().as_secs_f64();
    let first = engine.checkpoint_status().unwrap_or_default();
    ensure!(
        first.rows as i64 >= groups,
        "{} of {groups} groups are in the checkpoint",
        first.rows
    );
    // Groups of one hour change.
    requests += fill(&bed, &mut random, groups / hours / 5, start_us).await?;
    caught_up(&engine, requests).await?;
    engine.checkpoint().await?;
    let second = engine.checkpoint_status().unwrap_or_default();
    kill(engine).await?;
    let begun = Instant::now();
    let engine = start(2, checkpoints()?).await?;
    let started = begun.elapsed().as_secs_f64();
    let status = engine.status();
    ensure!(
        status.restored_tick == Some(second.tick),
        "it began at {:?}",
        status.restored_tick
    );
    stop(engine).await?;
    let plain = first.rows as f64 * PLAIN_BYTES;
    Ok(vec![
        figure(
            "groups in the checkpoint",
            first.rows as f64,
            "rows",
            Target::None,
            FACTS,
        ),
        figure(
            "the first checkpoint, beside nothing else, takes",
            took,
            "s",
            Target::None,
            FACTS,
        ),
        figure(
            "bytes of a group in it",
            first.bytes as f64 / first.rows as f64,
            "bytes",
            Target::None,
            FACTS,
        ),
        figure(
            "of the live data, keys and accumulators",
            first.bytes as f64 / plain,
            "×",
            Target::AtMost(1.5),
            FACTS,
        ),
        figure(
            "the next adds, a tenth of the panes changed",
            (second.bytes as f64 - first.bytes as f64) / first.bytes as f64,
            "of the first",
            Target::None,
            FACTS,
        ),
        figure(
            "from start to live, 2 workers",
            started,
            "s",
            Target::AtMost(30.0),
            FACTS,
        ),
    ])
}

/// Of a key of two whole numbers, the number of rows, and what five aggregates of whole numbers need: two extremes with
/// their counts, two sums, a count.
const PLAIN_BYTES: f64 = 18.0 + 8.0 + 5.0 * 16.0;

/// Each key of `1..=groups` once; returns the number of requests.
async fn fill(bed: &Bed, random: &mut SmallRng, groups: i64, start_us: i64) -> anyhow::Result<u64> {
    let mut next = 0;
    let requests = (groups as usize / ROWS).max(1);
    let bodies = (0..requests).map(|_| {
        body(
            random,
            ROWS,
            |_| {
                next += 1;
                next
            },
            start_us,
        )
    });
    bed.fill_stream("facts", bodies).await?;
    Ok(requests as u64)
}

fn hour() -> i64 {
    let hour_us = 3_600_000_000;
    now_us() / hour_us * hour_us
}

/// Ends it without draining anything.
async fn kill(engine: Engine) -> anyhow::Result<()> {
    Ok(tokio::task::spawn_blocking(move || drop(engine)).await?)
}
