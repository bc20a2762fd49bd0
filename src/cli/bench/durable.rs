//! What a durable tick adds until a subscriber sees a row: the same traffic with the tick log on the disk and in memory,
//! in turn.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use pyflare_dataflows::{Engine, Event, SubscribeOptions, ViewName};
use pyflare_operators::corpus::{Generator, Traffic};
use tokio::sync::oneshot;

use super::bed::{Bed, now_us, stop, traces};
use super::freshness::{body, percentile, service};
use super::recovery::forgetting;
use super::{Figure, SMALL, Target, figure};

/// Both ways, one after the other, so often.
const ROUNDS: usize = 5;
const BETWEEN: Duration = Duration::from_millis(23);

/// How much later than without a durable tick log a subscriber sees a row, by the wait that one in a hundred exceeds.
pub async fn durable(seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let each = seconds / ROUNDS as f64;
    let (mut forgotten, mut kept, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let without = p99(each, false).await?;
        let with = p99(each, true).await?;
        forgotten.push(without);
        kept.push(with);
        added.push(with - without);
    }
    let rows = |name, values, target| figure(name, median(values), "ms", target, SMALL);
    Ok(vec![
        rows(
            "durable row to subscriber, ticks in memory, p99",
            forgotten,
            Target::None,
        ),
        rows(
            "durable row to subscriber, ticks on disk, p99",
            kept,
            Target::None,
        ),
        rows(
            "a durable tick adds for the subscriber, p99",
            added,
            Target::AtMost(30.0),
        ),
    ])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Milliseconds from a row being durable to the frame that shows it.
async fn p99(seconds: f64, is_durable: bool) -> anyhow::Result<f64> {
    let bed = Bed::new().await?;
    let engine = match is_durable {
        true => bed.start(1, None).await?,
        false => bed.start_with(1, None, forgetting(&bed)?).await?,
    };
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel();
    let watching = tokio::spawn(watch(engine.clone(), tell, ended));
    let traffic = Traffic {
        start_unix_nano: now_us() as u64 * 1_000 - 12_000_000_000,
        ..Traffic::default()
    };
    let mut generator = Generator::new(5, traffic);
    let mut durable_at = HashMap::new();
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed().as_secs_f64() < seconds {
        bed.log.append(traces(body(&mut generator, number))).await?;
        durable_at.insert(service(number), Instant::now());
        number += 1;
        tokio::time::sleep(BETWEEN).await;
    }
    // Longer than any tick.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _ = end.send(());
    watching.await??;
    stop(engine).await?;
    let mut waits: Vec<Duration> = told
        .into_iter()
        .filter_map(|(name, at): (String, Instant)| {
            Some(at.saturating_duration_since(durable_at.remove(&name)?))
        })
        .collect();
    anyhow::ensure!(
        durable_at.is_empty(),
        "PF-6043: {} of {number} requests were never seen",
        durable_at.len()
    );
    waits.sort_unstable();
    Ok(percentile(&waits, 0.99).as_secs_f64() * 1e3)
}

/// Tells of every service when a frame first has it.
async fn watch(
    engine: Engine,
    tell: std::sync::mpsc::Sender<(String, Instant)>,
    mut ended: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let mut subscription = engine.subscribe(&ViewName::builtin("requests"), SubscribeOptions::default())?;
    loop {
        let event = tokio::select! {
            event = subscription.next() => event,
            _ = &mut ended => return Ok(()),
        };
        let Event::Frame(frame) = event else {
            anyhow::bail!("the subscription ended")
        };
        let at = Instant::now();
        let Some(batch) = &frame.batch else { continue };
        let services = cast(&batch["service_name"], &DataType::Utf8)?;
        let services = services.as_string::<i32>();
        let added = (0..services.len()).filter(|row| frame.diffs[*row] > 0 && services.is_valid(*row));
        for row in added {
            tell.send((services.value(row).to_string(), at))?;
        }
    }
}
