//! The Nexmark queries, one at a time, from the log to the view on one worker.

use std::time::Instant;

use anyhow::ensure;
use pyflare_dataflows::ViewName;
use pyflare_operators::corpus::nexmark::{DECLARATIONS, Nexmark, STREAMS};

use super::bed::{Bed, PROJECT, arrow_bytes, caught_up, now_us, stop};
use super::{Figure, Target, figure};

#[path = "../../../benches/nexmark/queries.rs"]
mod queries;

use queries::QUERIES;

const CORPUS: &str = "Nexmark events as Arrow rows";
const PER_REQUEST: usize = 20_000;
/// So much event time lies between two events: 10,000 a second.
const SPACING_US: i64 = 100;

pub async fn nexmark(seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let requests = ((seconds * 100e3) as usize).div_ceil(PER_REQUEST).max(1);
    let events = requests * PER_REQUEST;
    let start_us = now_us() - events as i64 * SPACING_US;
    let mut source = Nexmark::new(1, start_us, SPACING_US);
    // Of each stream the bodies, in order.
    let mut bodies: [Vec<Vec<u8>>; 3] = Default::default();
    for _ in 0..requests {
        for (stream, batch) in source.batches(PER_REQUEST).iter().enumerate() {
            bodies[stream].push(arrow_bytes(batch));
        }
    }
    let mut figures = Vec::new();
    for query in QUERIES {
        let mut statements: Vec<String> = DECLARATIONS.map(str::to_string).to_vec();
        statements.push(format!("CREATE MONITOR {} AS {}", query.name, query.select));
        let mut bed = Bed::new().await?;
        bed.declare(&statements).await?;
        for request in 0..requests {
            for (stream, bodies) in STREAMS.iter().zip(&bodies) {
                bed.fill_stream(stream, std::iter::once(bodies[request].clone()))
                    .await?;
            }
        }
        bed.reopen_log()?;
        let begin = Instant::now();
        let engine = bed.start(1, None).await?;
        caught_up(&engine, (requests * STREAMS.len()) as u64).await?;
        let taken = begin.elapsed().as_secs_f64();
        let view = engine.view_named(&ViewName::of_project(PROJECT, query.name));
        let (rows, errors) = view.map_or((0, 0), |view| (view.rows, view.errors));
        ensure!(
            rows > 0 && errors == 0,
            "{}: {rows} rows, {errors} errors",
            query.name
        );
        stop(engine).await?;
        let target = query.events_per_second.map_or(Target::None, Target::AtLeast);
        let name = format!("Nexmark {}, 1 worker", query.name);
        figures.push(figure(name, events as f64 / taken, "events/s", target, CORPUS));
    }
    Ok(figures)
}
