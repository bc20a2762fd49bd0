//! The command line: what can be typed, and who does it.

mod adapters;
mod backup;
mod bench;
mod client;
mod config;
mod demo;
mod durable;
mod erasures;
mod internals;
mod log_choice;
mod metrics;
mod serve;
mod settings;
mod store;
mod streams;

use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches};

const ABOUT: &str = "Observability for AI and ML in production: OpenTelemetry in, live exact views out";
const EXAMPLES: &str = "\
Examples:
  pyflare serve                                start everything on embedded defaults, data in ./pyflare-data
  pyflare demo                                 send it realistic traffic
  pyflare tail requests                        watch a view change
  pyflare sql \"SELECT * FROM live.latency\"     ask
  pyflare monitor create \"CREATE MONITOR slow AS SELECT …\"

Point any OpenTelemetry SDK at it: OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318";

fn command() -> Command {
    Command::new("pyflare")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(settings::serve_command())
        .subcommand(client::TailArgs::augment_args(
            Command::new("tail").about("Print a view's changes as they happen"),
        ))
        .subcommand(client::SqlArgs::augment_args(
            Command::new("sql").about("Run a query or a monitor statement and print the result"),
        ))
        .subcommand(client::MonitorArgs::augment_args(
            Command::new("monitor").about("List, create, explain and drop monitors"),
        ))
        .subcommand(backup::BackupArgs::augment_args(
            Command::new("backup").about("Copy a data directory to a folder, also while a server uses it"),
        ))
        .subcommand(backup::RestoreArgs::augment_args(
            Command::new("restore").about("Make a data directory from a backup"),
        ))
        .subcommand(backup::VerifyArgs::augment_args(Command::new("verify").about(
            "Read a backup or a data directory and say whether a server can start from it",
        )))
        .subcommand(demo::DemoArgs::augment_args(
            Command::new("demo").about("Send realistic, labelled traffic over OTLP"),
        ))
        .subcommand(bench::BenchArgs::augment_args(
            Command::new("bench").about("Measure this machine against the project's targets"),
        ))
}

/// Reads the command line, does what it says and returns the exit code: 0 done, 1 failed, 2 misused.
pub fn run() -> ExitCode {
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("serve", matches)) => config::Configuration::read(matches).and_then(serve::run),
        Some(("tail", matches)) => client::TailArgs::from_arg_matches(matches)
            .map_err(Into::into)
            .and_then(|args| block_on(client::tail(args))),
        Some(("sql", matches)) => client::SqlArgs::from_arg_matches(matches)
            .map_err(Into::into)
            .and_then(|args| block_on(client::sql(args))),
        Some(("monitor", matches)) => client::MonitorArgs::from_arg_matches(matches)
            .map_err(Into::into)
            .and_then(|args| block_on(client::monitor(args))),
        Some(("backup", matches)) => backup::BackupArgs::from_arg_matches(matches)
            .map_err(Into::into)
            .and_then(backup::backup),
        Some(("restore", matches)) => backup::RestoreArgs::from_arg_matches(matches)
            .map_err(Into::into)
            .and_then(backup::restore),
        Some(("verify", matches)) => backup::VerifyArgs::from_arg_matches(matches)
            .map_err(Into::into)
            .and_then(|args| block_on(backup::verify(args))),
        Some(("demo", matches)) => demo::DemoArgs::from_arg_matches(matches)
            .map_err(Into::into)
            .and_then(|args| block_on(demo::run(args))),
        Some(("bench", matches)) => bench::BenchArgs::from_arg_matches(matches)
            .map_err(Into::into)
            .and_then(bench::run),
        _ => unreachable!("clap demands a known subcommand"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pyflare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(future)
}
