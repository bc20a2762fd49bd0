//! `pyflare demo`: made-up but realistic traffic, sent over real OTLP like any application's.
//!
//! Everything it sends is labelled: each resource carries `pyflare.demo = true` and names its service
//! `demo-…`, so nobody takes it for their own.

mod content;
mod scenes;
mod send;
mod spans;
mod traffic;

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;

use send::{Exporter, Outcome, Target};
use traffic::{Traffic, request};

/// How often a batch is sent; stock SDKs wait longer.
const BATCH_EVERY: Duration = Duration::from_millis(200);
/// Spans in one request at most.
const BATCH_SPANS: usize = 2_000;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Where OTLP/HTTP is listened for
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        default_value = "http://127.0.0.1:4318"
    )]
    endpoint: String,
    /// Send by OTLP/gRPC to this address instead, such as http://127.0.0.1:4317
    #[arg(long, value_name = "ENDPOINT")]
    grpc: Option<String>,
    /// Spans per second, on average
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Stop after so many seconds; without it, go on until Ctrl-C
    #[arg(long)]
    seconds: Option<f64>,
    /// The same seed makes the same traffic
    #[arg(long)]
    seed: Option<u64>,
    /// Project to send to (on a server without keys)
    #[arg(long)]
    project: Option<String>,
    /// An ingest key (pf_…), if the server wants one
    #[arg(long, env = "PYFLARE_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// What has been sent so far.
#[derive(Default)]
struct Progress {
    traces: u64,
    spans: u64,
    rejected: u64,
    failures: u64,
}

/// Sends until the time is over or Ctrl-C.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    ensure!(
        args.rate.is_finite() && args.rate > 0.0 && args.rate <= 100_000.0,
        "PF-6030: --rate is {}; give a number of spans per second between 0 and 100000",
        args.rate
    );
    let target = match &args.grpc {
        Some(endpoint) => Target::Grpc(endpoint.clone()),
        None => Target::Http(args.endpoint.clone()),
    };
    let mut exporter = Exporter::new(target, args.project.as_deref(), args.key.as_deref())?;
    let mut traffic = Traffic::new(args.seed.unwrap_or_else(rand::random));
    println!(
        "Sending about {} spans/s of labelled demo traffic to {}; Ctrl-C stops it.",
        args.rate,
        exporter.target()
    );
    let mut progress = Progress::default();
    let stopped = tokio::select! {
        result = send_all(&args, &mut traffic, &mut exporter, &mut progress) => result,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
    };
    if std::io::stdout().is_terminal() {
        println!();
    }
    println!("Sent {} spans in {} traces.", progress.spans, progress.traces);
    stopped
}

async fn send_all(
    args: &DemoArgs,
    traffic: &mut Traffic,
    exporter: &mut Exporter,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let end = args
        .seconds
        .map(|seconds| begin + Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
    let mut clock = tokio::time::interval(BATCH_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut owed = 0.0;
    let mut credited = begin;
    let mut told = begin;
    while end.is_none_or(|end| Instant::now() < end) {
        clock.tick().await;
        let now = Instant::now();
        // After a pause (a server that was away) the traffic goes on; it does not catch up.
        owed += args.rate * now.duration_since(credited).as_secs_f64().min(2.0);
        credited = now;
        while owed >= 1.0 {
            let mut traces = Vec::new();
            let mut spans = 0;
            while owed >= 1.0 && spans < BATCH_SPANS {
                let trace = traffic.trace(unix_nano());
                owed -= trace.spans() as f64;
                spans += trace.spans();
                traces.push(trace);
            }
            let count = traces.len() as u64;
            let outcome = exporter.send(request(traces), progress.spans == 0).await?;
            match outcome {
                Outcome::Accepted { rejected } => {
                    progress.traces += count;
                    progress.spans += (spans as u64).saturating_sub(rejected);
                    progress.rejected += rejected;
                }
                Outcome::GivenUp => progress.failures += 1,
            }
        }
        if told.elapsed() >= Duration::from_secs(if std::io::stdout().is_terminal() { 1 } else { 10 }) {
            told = Instant::now();
            tell(progress, begin);
        }
    }
    Ok(())
}

/// One line that is overwritten on a terminal, and now and then a line elsewhere.
fn tell(progress: &Progress, begin: Instant) {
    let seconds = begin.elapsed().as_secs_f64();
    let mut line = format!(
        "{:>8} spans  {:>7} traces  {:>7.1} spans/s  {:>6.0} s",
        progress.spans,
        progress.traces,
        progress.spans as f64 / seconds,
        seconds
    );
    if progress.rejected + progress.failures > 0 {
        line += &format!(
            "  {} rejected, {} requests given up",
            progress.rejected, progress.failures
        );
    }
    if std::io::stdout().is_terminal() {
        print!("\r{line}   ");
        // A closed terminal is no reason to stop sending.
        let _ = std::io::stdout().flush();
    } else {
        println!("{line}");
    }
}

fn unix_nano() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos() as u64)
}
