//! `pyflare bench`: the figures this project promises, measured on this machine against its own targets.
//!
//! Ratios come from one run, so that a busy host hits both sides alike. Everything happens in temporary directories
//! that are removed afterwards, in this process or (freshness, idle) in a server started for it; durability and
//! deduplication are on.

mod acknowledged;
mod bed;
mod clickhouse;
mod decode;
mod durable;
mod freshness;
mod idle;
mod kafka;
mod keyed;
mod monitors;
mod nexmark;
mod peeks;
mod pipeline;
mod recovery;
mod server;
mod starts;

use std::io::Write;

use anyhow::bail;
use serde_json::{Map, json};

const SMALL: &str = "small (made up: ~860 B spans, 13 attributes)";
const REAL: &str =
    "real (recorded from instrumented clients: prompts and answers, ~6 kB a span, made distinct)";

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Only these parts: decode, views, keyed, everything, freshness, peeks, idle; nexmark, monitors, installs, starts, recovery and memory, which take minutes,
    /// and clickhouse and kafka, which need a server, run only when named
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// About how long each part measures
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Worker threads of the part "everything"
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Millions of spans for the part "memory", of groups for "recovery"
    #[arg(long, default_value_t = 10)]
    millions: u64,
    /// The server that the part "clickhouse" measures, as in store.url; its password is PYFLARE_STORE_PASSWORD
    #[arg(long)]
    clickhouse: Option<String>,
    /// The broker that the part "kafka" measures, as in log.url
    #[arg(long)]
    kafka: Option<String>,
    /// The OpenTelemetry Collector that the part "kafka" compares with: the program, built with an OTLP receiver and a Kafka exporter
    #[arg(long)]
    collector: Option<std::path::PathBuf>,
    /// What the part "kafka" runs as a process of its own: receivers that write to the topics with this prefix
    #[arg(long, hide = true)]
    receive_into: Option<String>,
}

/// The target of a figure.
enum Target {
    AtLeast(f64),
    AtMost(f64),
    None,
}

struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    target: Target,
    corpus: &'static str,
}

fn figure(
    name: impl Into<String>,
    value: f64,
    unit: &'static str,
    target: Target,
    corpus: &'static str,
) -> Figure {
    Figure {
        name: name.into(),
        value,
        unit,
        target,
        corpus,
    }
}

/// The parts, in order.
const PARTS: [&str; 15] = [
    "decode",
    "views",
    "keyed",
    "everything",
    "freshness",
    "peeks",
    "idle",
    "nexmark",
    "monitors",
    "installs",
    "starts",
    "recovery",
    "memory",
    "clickhouse",
    "kafka",
];
/// Parts that take minutes or need a server, and run only when asked for.
const LONG: [&str; 8] = [
    "nexmark",
    "monitors",
    "installs",
    "starts",
    "recovery",
    "memory",
    "clickhouse",
    "kafka",
];

/// Measures and prints.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    if let Some(unknown) = args.only.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!(
            "PF-6040: there is no part {unknown:?}; choose from {}",
            PARTS.join(", ")
        );
    }
    if !(args.seconds.is_finite() && (0.5..=600.0).contains(&args.seconds)) {
        bail!(
            "PF-6041: --seconds is {}; give a number from 0.5 to 600",
            args.seconds
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(prefix) = &args.receive_into {
        return runtime.block_on(acknowledged::receive(args.kafka.as_deref(), prefix));
    }
    let mut figures = Vec::new();
    for part in PARTS {
        let wanted = match args.only.is_empty() {
            true => !LONG.contains(&part),
            false => args.only.iter().any(|only| only == part),
        };
        if !wanted {
            continue;
        }
        eprintln!("measuring {part} …");
        let measured = match part {
            "decode" => decode::measure(args.seconds),
            "views" => runtime.block_on(pipeline::views(args.seconds))?,
            "keyed" => runtime.block_on(keyed::keyed(args.seconds))?,
            "everything" => runtime.block_on(pipeline::everything(args.seconds, args.workers))?,
            "freshness" => runtime.block_on(freshness::freshness(args.seconds))?,
            "peeks" => runtime.block_on(peeks::peeks(args.seconds))?,
            "nexmark" => runtime.block_on(nexmark::nexmark(args.seconds))?,
            "monitors" => runtime.block_on(monitors::monitors(args.seconds))?,
            "installs" => runtime.block_on(monitors::installs())?,
            "starts" => runtime.block_on(starts::starts())?,
            "recovery" => runtime.block_on(recovery::recovery(args.seconds, args.millions))?,
            "clickhouse" => {
                runtime.block_on(clickhouse::clickhouse(args.seconds, args.clickhouse.as_deref()))?
            }
            "kafka" => runtime.block_on(kafka::kafka(
                args.seconds,
                args.kafka.as_deref(),
                args.collector.as_deref(),
            ))?,
            "idle" => runtime.block_on(idle::idle())?,
            _ => runtime.block_on(pipeline::memory(args.millions))?,
        };
        figures.extend(measured);
    }
    let text = match args.json {
        true => as_json(&figures),
        false => as_table(&figures),
    };
    // A reader that has gone, such as `head`, is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn as_json(figures: &[Figure]) -> String {
    let object: Map<_, _> = figures
        .iter()
        .map(|figure| {
            let target = match figure.target {
                Target::AtLeast(bound) => json!({"at_least": bound}),
                Target::AtMost(bound) => json!({"at_most": bound}),
                Target::None => json!(null),
            };
            let value = json!({
                "value": figure.value, "unit": figure.unit, "target": target, "corpus": figure.corpus,
            });
            (figure.name.clone(), value)
        })
        .collect();
    format!("{}\n", serde_json::Value::Object(object))
}

fn as_table(figures: &[Figure]) -> String {
    let mut text = String::new();
    for figure in figures {
        let (target, met) = match figure.target {
            Target::AtLeast(bound) => (format!("≥ {}", number(bound)), figure.value >= bound),
            Target::AtMost(bound) => (format!("≤ {}", number(bound)), figure.value <= bound),
            Target::None => (String::new(), true),
        };
        text += &format!(
            "{} {:<44} {:>12} {:<16} {:<12} {}\n",
            if met { " " } else { "!" },
            figure.name,
            number(figure.value),
            figure.unit,
            target,
            figure.corpus
        );
    }
    text
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{:.0}", value.abs());
            let mut text = String::from(if value < 0.0 { "-" } else { "" });
            for (position, digit) in digits.chars().enumerate() {
                if position > 0 && (digits.len() - position) % 3 == 0 {
                    text.push('\u{202f}');
                }
                text.push(digit);
            }
            text
        }
    }
}
