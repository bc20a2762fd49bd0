//! The table of settings: one for flags, environment variables, TOML keys, defaults and help.
//!
//! The same words everywhere: `listen.api` is `--listen-api`, `PYFLARE_LISTEN_API` and `api` in the TOML section
//! `[listen]`.

use clap::{Arg, ArgAction, Command};

pub(super) struct Setting {
    pub key: &'static str,
    pub default: &'static str,
    help: &'static str,
    pub switch: bool,
}

const fn setting(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting {
        key,
        default,
        help,
        switch: false,
    }
}

pub(super) const SETTINGS: &[Setting] = &[
    setting("data_dir", "./pyflare-data", "Where everything is kept"),
    setting(
        "workers",
        "0",
        "Dataflow worker threads; 0: one less than the cores, at least one",
    ),
    setting(
        "listen.otlp_grpc",
        "127.0.0.1:4317",
        "OTLP over gRPC; port 0 picks a free one",
    ),
    setting(
        "listen.otlp_http",
        "127.0.0.1:4318",
        "OTLP over HTTP, protobuf and JSON",
    ),
    setting("listen.api", "127.0.0.1:4319", "REST, WebSocket and the web UI"),
    setting(
        "listen.cors_origins",
        "http://localhost:*,http://127.0.0.1:*",
        "Web pages that may send OTLP, separated by commas",
    ),
    setting(
        "listen.allowed_hosts",
        "",
        "Host names under which a proxy on this machine publishes the API",
    ),
    setting(
        "auth.keys",
        "",
        "Keys and their projects, 'pf_…=project' separated by commas; none: open mode, loopback only",
    ),
    Setting {
        key: "auth.insecure_open",
        default: "false",
        help: "Accept everybody who can reach the ports, without keys",
        switch: true,
    },
    setting(
        "log.url",
        "embedded",
        "The log: 'embedded', or Kafka's topics: kafka://host:port[,host:port]",
    ),
    setting("kafka.topic_prefix", "", "Before the names of Kafka topics"),
    setting("kafka.partitions", "4", "Partitions of topics that are created"),
    setting(
        "kafka.replication",
        "0",
        "Replicas of topics that are created; 0: as the brokers do",
    ),
    setting(
        "kafka.retention_hours",
        "168",
        "How long Kafka keeps records of topics that are created",
    ),
    Setting {
        key: "kafka.skip_deleted",
        default: "false",
        help: "Go on over records that Kafka deleted before they were read, recording the gap",
        switch: true,
    },
    setting(
        "kafka.stream_topics",
        "*",
        "Topics that streams may read and monitors may write, separated by commas: names, or beginnings that end with *; {project} is the stream's project",
    ),
    setting(
        "kafka.security",
        "plaintext",
        "Connections to Kafka: 'plaintext' or 'tls'",
    ),
    setting(
        "kafka.ca_file",
        "",
        "PEM file of the authorities that may sign Kafka's certificate; none: those of the system",
    ),
    setting(
        "kafka.certificate_file",
        "",
        "PEM file of this client's certificate for Kafka",
    ),
    setting("kafka.key_file", "", "PEM file of its private key"),
    setting(
        "kafka.sasl_mechanism",
        "none",
        "How to log in to Kafka: 'none', 'plain', 'scram-sha-256' or 'scram-sha-512'",
    ),
    setting("kafka.username", "", "User name for Kafka"),
    setting(
        "kafka.password",
        "",
        "Password for Kafka; the environment is a better place for it than a flag",
    ),
    setting(
        "store.url",
        "delta",
        "History: 'delta' (tables in the data directory), 'clickhouse://user@host:port/database' (with '?secure=true' over TLS) or 'none'",
    ),
    setting(
        "store.password",
        "",
        "The password of the user in store.url; better given in the environment or the file than as a flag",
    ),
    setting(
        "store.flush_seconds",
        "10",
        "Rows reach the store at least this often",
    ),
    setting(
        "ticks.url",
        "embedded",
        "The tick log: 'embedded' (in the data directory), or 'kafka': a topic of the brokers in log.url",
    ),
    setting(
        "checkpoints.url",
        "local",
        "Where checkpoints lie: 'local' (in the data directory), or s3://, gs:// or az://bucket/path; credentials come from the environment",
    ),
    setting(
        "checkpoints.seconds",
        "60",
        "A checkpoint is taken so often while something comes; a start replays what came after it. 0: none, every start replays the whole log",
    ),
    setting(
        "limits.request_mb",
        "64",
        "Largest request body, decompressed, at most 256",
    ),
    setting("limits.log_gb", "64", "The log refuses new data beyond this"),
    setting(
        "limits.min_free_gb",
        "2",
        "The log refuses new data when the disk has less free",
    ),
    setting(
        "limits.monitor_rows",
        "5000000",
        "Rows that one operator of a monitor may keep, where its option max_rows says nothing else",
    ),
    setting(
        "limits.monitor_tick_rows",
        "5000000",
        "Records that a monitor's joins may make at one tick, where its option max_tick_rows says nothing else",
    ),
    setting(
        "limits.monitor_updates_per_second",
        "5000000",
        "Changes of a monitor's result, on average of ten seconds, where its option max_updates_per_second says nothing else",
    ),
    setting(
        "limits.query_seconds",
        "30",
        "Time limit of a query that names none",
    ),
    setting("limits.query_memory_mb", "512", "Memory of one query"),
    setting("limits.live_connections", "256", "WebSocket connections at once"),
    setting(
        "retention.streams_days",
        "30",
        "Stored spans, logs and metrics older than this may be deleted",
    ),
    setting(
        "logging.format",
        "text",
        "The server's own log on standard error: 'text' or 'json'",
    ),
    setting("logging.level", "info", "Which of it: error, warn, info, debug"),
];

impl Setting {
    pub fn flag(&self) -> String {
        // The two switches that people type are shorter than their section.
        match self.key {
            "auth.insecure_open" => "insecure-open".into(),
            key => key.replace(['.', '_'], "-"),
        }
    }

    pub fn variable(&self) -> String {
        format!("PYFLARE_{}", self.key.replace('.', "_").to_uppercase())
    }
}

/// The `serve` command with a flag per setting.
pub fn serve_command() -> Command {
    let mut command = Command::new("serve")
        .about("Start receivers, engine, store, API and UI in one process")
        .after_help(
            "Every flag is also an environment variable and a key of the TOML file: --listen-api is \
             PYFLARE_LISTEN_API and, in the section [listen], api = \"…\". Flags win over the environment, \
             the environment over the file.",
        )
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .env("PYFLARE_CONFIG")
                .hide_env_values(true)
                .help("A TOML file with any of the settings below"),
        );
    for setting in SETTINGS {
        let help = match setting.default {
            "" => format!("{} [env: {}]", setting.help, setting.variable()),
            default => format!(
                "{} [default: {default}] [env: {}]",
                setting.help,
                setting.variable()
            ),
        };
        let argument = Arg::new(setting.key).long(setting.flag()).help(help);
        command = command.arg(match setting.switch {
            true => argument.action(ArgAction::SetTrue),
            false => argument.value_name("VALUE"),
        });
    }
    command
}
