//! From the log to maintained views, with and without the store, and the memory this takes.

use std::time::Instant;

use anyhow::ensure;
use pyflare_operators::corpus::{Generator, Traffic};

use super::bed::{Bed, caught_up, counted, now_us, resident_bytes, stop};
use super::{Figure, REAL, SMALL, Target, figure};

pub const PER_REQUEST: usize = 500;
const HOUR_NS: u64 = 3_600_000_000_000;
/// Event time of the memory measurement, of which built-in views keep the last six hours.
const HOURS: u64 = 10;
const RETAINED_HOURS: u64 = 6;
/// Five for each of 1,000 groups and 60 minutes.
const SPANS_AN_HOUR: u64 = 300_000;

/// Traffic whose last span begins now.
pub fn traffic(spans: u64, spacing_ns: u64) -> Traffic {
    let start_unix_nano = (now_us().max(0) as u64 * 1_000).saturating_sub(spans * spacing_ns);
    Traffic {
        start_unix_nano,
        spacing_ns,
        ..Traffic::default()
    }
}

/// One worker, no store: log bytes to all built-in views.
pub async fn views(seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let small = Corpus {
        name: "small",
        corpus: SMALL,
        make: Generator::small_request,
        spans: (seconds * 300e3) as u64,
    };
    let real = Corpus {
        name: "real",
        corpus: REAL,
        make: Generator::real_request,
        spans: (seconds * 60e3) as u64,
    };
    for corpus in [small, real] {
        let (bed, spans, bytes) = corpus.prepare().await?;
        let begin = Instant::now();
        let engine = bed.start(1, None).await?;
        caught_up(&engine, spans / PER_REQUEST as u64).await?;
        let taken = begin.elapsed().as_secs_f64();
        check(counted(&engine).await?, spans)?;
        stop(engine).await?;
        let (spans_target, bytes_target) = match corpus.name {
            "small" => (Target::AtLeast(400e3), Target::None),
            _ => (Target::None, Target::AtLeast(400.0)),
        };
        let name = |what: &str| format!("log to views, 1 worker, {}{what}", corpus.name);
        figures.push(figure(
            name(""),
            spans as f64 / taken,
            "spans/s",
            spans_target,
            corpus.corpus,
        ));
        figures.push(figure(
            name(", bytes"),
            bytes as f64 / taken / 1e6,
            "MB/s",
            bytes_target,
            corpus.corpus,
        ));
    }
    Ok(figures)
}

/// Delta store and history tail on.
pub async fn everything(seconds: f64, workers: usize) -> anyhow::Result<Vec<Figure>> {
    let corpus = Corpus {
        name: "small",
        corpus: SMALL,
        make: Generator::small_request,
        spans: (seconds * 200e3) as u64,
    };
    let (bed, spans, bytes) = corpus.prepare().await?;
    let store = bed.store()?;
    let begin = Instant::now();
    let engine = bed.start(workers, Some(store.clone())).await?;
    caught_up(&engine, spans / PER_REQUEST as u64).await?;
    let maintained = begin.elapsed().as_secs_f64();
    engine.flush().await?;
    let stored = begin.elapsed().as_secs_f64();
    check(counted(&engine).await?, spans)?;
    let (stored_bytes, stored_rows) = store.size("spans").await?;
    check(stored_rows, spans)?;
    stop(engine).await?;
    let name = |what: &str| format!("everything on, {workers} workers, {what}");
    Ok(vec![
        figure(
            name("views"),
            spans as f64 / maintained,
            "spans/s",
            Target::None,
            SMALL,
        ),
        figure(
            name("all stored"),
            spans as f64 / stored,
            "spans/s",
            Target::AtLeast(200e3),
            SMALL,
        ),
        figure(
            name("stored size"),
            stored_bytes as f64 / spans as f64,
            "bytes/span",
            Target::None,
            SMALL,
        ),
        figure(
            name("received size"),
            bytes as f64 / spans as f64,
            "bytes/span",
            Target::None,
            SMALL,
        ),
    ])
}

/// An hour of event time with 1,000 groups a minute and view, then as many hours with fewer spans in as many groups
/// as it takes for panes to leave (minutes are kept for six hours) and two more.
pub async fn memory(millions: u64) -> anyhow::Result<Vec<Figure>> {
    let spans = millions.max(1) * 1_000_000;
    let spacing = HOUR_NS / spans;
    let start_unix_nano = (now_us().max(0) as u64 * 1_000).saturating_sub(HOURS * HOUR_NS);
    let groups = |start_unix_nano, spacing_ns| Traffic {
        services: 50,
        models: 20,
        start_unix_nano,
        spacing_ns,
        ..Traffic::default()
    };
    let mut generator = Generator::new(11, groups(start_unix_nano, spacing));
    let bed = Bed::new().await?;
    let engine = bed.start(1, None).await?;
    let mut figures = Vec::new();
    let (mut fed, mut greatest) = (0, 0);
    let step = spans / 20;
    for part in 1..=20 {
        fed += step / PER_REQUEST as u64 * PER_REQUEST as u64;
        bed.fill(&mut generator, Generator::small_request, step, PER_REQUEST)
            .await?;
        caught_up(&engine, fed / PER_REQUEST as u64).await?;
        let resident = resident_bytes()?;
        greatest = greatest.max(resident);
        if part % 10 == 0 {
            let name = format!("resident memory after {:.1} M spans", fed as f64 / 1e6);
            figures.push(figure(
                name,
                resident as f64 / f64::from(1 << 20),
                "MiB",
                Target::AtMost(1_024.0),
                SMALL,
            ));
        }
    }
    check(counted(&engine).await?, fed)?;
    let after = groups(start_unix_nano + HOUR_NS, HOUR_NS / SPANS_AN_HOUR);
    let mut generator = Generator::new(12, after);
    for hour in 2..=HOURS {
        fed += SPANS_AN_HOUR;
        bed.fill(
            &mut generator,
            Generator::small_request,
            SPANS_AN_HOUR,
            PER_REQUEST,
        )
        .await?;
        caught_up(&engine, fed / PER_REQUEST as u64).await?;
        let resident = resident_bytes()?;
        greatest = greatest.max(resident);
        if hour >= RETAINED_HOURS {
            let name = format!("resident memory after {hour} hours");
            let mebibytes = resident as f64 / f64::from(1 << 20);
            figures.push(figure(name, mebibytes, "MiB", Target::None, SMALL));
        }
    }
    stop(engine).await?;
    let name = "greatest resident memory";
    figures.push(figure(
        name,
        greatest as f64 / f64::from(1 << 20),
        "MiB",
        Target::AtMost(1_024.0),
        SMALL,
    ));
    Ok(figures)
}

pub struct Corpus {
    pub name: &'static str,
    pub corpus: &'static str,
    pub make: fn(&mut Generator, usize) -> Vec<u8>,
    pub spans: u64,
}

impl Corpus {
    /// A filled log, its spans and bytes.
    pub async fn prepare(&self) -> anyhow::Result<(Bed, u64, u64)> {
        let spans = (self.spans / PER_REQUEST as u64).max(1) * PER_REQUEST as u64;
        let mut generator = Generator::new(7, traffic(spans, 1_000_000));
        let mut bed = Bed::new().await?;
        let bytes = bed.fill(&mut generator, self.make, spans, PER_REQUEST).await?;
        bed.reopen_log()?;
        Ok((bed, spans, bytes))
    }
}

pub fn check(found: u64, sent: u64) -> anyhow::Result<()> {
    ensure!(
        found == sent,
        "PF-6042: {sent} spans were sent and {found} counted; these figures would be worth nothing"
    );
    Ok(())
}
