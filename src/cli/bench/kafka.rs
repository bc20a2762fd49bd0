//! Kafka as the log: views computed from its topics beside the same from the embedded log, and what it costs to bring
//! requests there beside the OpenTelemetry Collector.
//!
//! Both sides of a comparison take turns in one run, and what is compared are medians; the broker shares the machine.
//! Topics are made for the run, with a retention of an hour.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use pyflare_connectors::Log;
use pyflare_kafka::{KafkaLog, KafkaOptions};
use pyflare_operators::corpus::Generator;

use super::acknowledged;
use super::bed::{Bed, caught_up, counted, processor_seconds, stop};
use super::pipeline::{PER_REQUEST, check, traffic};
use super::{Figure, SMALL, Target, figure};

pub const ROUNDS: usize = 3;

pub async fn kafka(seconds: f64, url: Option<&str>, collector: Option<&Path>) -> anyhow::Result<Vec<Figure>> {
    let url = url.context(
        "PF-6045: the part kafka measures a broker: name it with --kafka kafka://host:port \
         (tests/support/kafka/kafka.py run DIRECTORY starts one)",
    )?;
    let mut figures = views(seconds, url).await?;
    figures.extend(acknowledged::acknowledged(seconds, url, collector).await?);
    Ok(figures)
}

/// Topics of a run.
pub fn options(url: &str, prefix: &str) -> anyhow::Result<KafkaOptions> {
    Ok(KafkaOptions {
        topic_prefix: prefix.into(),
        retention_hours: 1,
        ..KafkaOptions::of_url(url)?
    })
}

pub fn new_prefix() -> String {
    format!("pyflare-bench-{}.", uuid::Uuid::new_v4().simple())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What one round of one side came to, a second of wall clock and of this process's processors.
#[derive(Default)]
struct Side {
    spans_per_second: Vec<f64>,
    spans_per_processor_second: Vec<f64>,
}

impl Side {
    async fn round(&mut self, bed: &mut Bed, spans: u64) -> anyhow::Result<()> {
        bed.reopen_log()?;
        let (begin, processor) = (Instant::now(), processor_seconds(std::process::id())?);
        let engine = bed.start(1, None).await?;
        caught_up(&engine, spans / PER_REQUEST as u64).await?;
        let taken = begin.elapsed().as_secs_f64();
        let processor = processor_seconds(std::process::id())? - processor;
        check(counted(&engine).await?, spans)?;
        stop(engine).await?;
        self.spans_per_second.push(spans as f64 / taken);
        self.spans_per_processor_second
            .push(spans as f64 / processor.max(0.01));
        Ok(())
    }
}

/// One worker, no store: from each log to all built-in views.
async fn views(seconds: f64, url: &str) -> anyhow::Result<Vec<Figure>> {
    let spans = ((seconds * 100e3) as u64 / PER_REQUEST as u64).max(1) * PER_REQUEST as u64;
    let prefix = new_prefix();
    let (mut own, mut topics) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        own.push(Bed::new().await?);
        let options = options(url, &prefix)?;
        let open = move |_: &Path| Ok(KafkaLog::open(options.clone())? as Arc<dyn Log>);
        topics.push(Bed::on(Box::new(open)).await?);
    }
    // Every bed of Kafka's reads the same topics.
    for bed in own.iter().chain(topics.first()) {
        let mut generator = Generator::new(7, traffic(spans, 1_000_000));
        bed.fill(&mut generator, Generator::small_request, spans, PER_REQUEST)
            .await?;
    }
    let (mut embedded, mut kafka) = (Side::default(), Side::default());
    for (own, topics) in own.iter_mut().zip(&mut topics) {
        embedded.round(own, spans).await?;
        kafka.round(topics, spans).await?;
    }
    let ratios = kafka.spans_per_second.iter().zip(&embedded.spans_per_second);
    let ratio = median(ratios.map(|(kafka, embedded)| kafka / embedded).collect());
    let mut figures = Vec::new();
    for (name, side) in [("embedded log", embedded), ("Kafka", kafka)] {
        let of = |what: &str| format!("{name} to views, 1 worker{what}");
        let rate = median(side.spans_per_second);
        let processor = median(side.spans_per_processor_second);
        figures.push(figure(of(""), rate, "spans/s", Target::None, SMALL));
        figures.push(figure(
            of(", processor"),
            1e6 / processor,
            "s/M spans",
            Target::None,
            SMALL,
        ));
    }
    figures.push(figure(
        "Kafka to views, of the embedded log's rate",
        ratio,
        "×",
        Target::AtLeast(0.8),
        SMALL,
    ));
    Ok(figures)
}
