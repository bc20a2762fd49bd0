//! The configuration: what the settings say, each by flag > `PYFLARE_*` > TOML > default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::ArgMatches;
use pyflare_clickhouse::Address;

use super::durable::{CheckpointChoice, TickChoice};
use super::log_choice::LogChoice;
use super::settings::SETTINGS;
use super::store::StoreChoice;

/// What `serve` runs with.
#[derive(Debug, Clone)]
pub struct Configuration {
    pub data_dir: PathBuf,
    pub workers: usize,
    pub otlp_grpc: SocketAddr,
    pub otlp_http: SocketAddr,
    pub api: SocketAddr,
    pub cors_origins: Vec<String>,
    pub allowed_hosts: Vec<String>,
    pub keys: Vec<(String, String)>,
    pub insecure_open: bool,
    pub store: StoreChoice,
    pub flush_every: Duration,
    pub ticks: TickChoice,
    pub checkpoints: CheckpointChoice,
    /// `None`: no checkpoints.
    pub checkpoint_every: Option<Duration>,
    pub request_bytes: usize,
    pub log: LogChoice,
    pub log_bytes: u64,
    pub min_free_bytes: u64,
    pub monitor_rows: u64,
    pub monitor_tick_rows: u64,
    pub monitor_updates_per_second: u64,
    pub query_timeout: Duration,
    pub query_memory: usize,
    pub live_connections: usize,
    pub stream_retention: Duration,
    pub json_logs: bool,
    pub log_level: String,
}

impl Configuration {
    pub fn read(matches: &ArgMatches) -> anyhow::Result<Configuration> {
        let file = match matches.get_one::<String>("config") {
            Some(path) => read_file(path)?,
            None => BTreeMap::new(),
        };
        let value = |key: &str| -> anyhow::Result<String> {
            let setting = SETTINGS
                .iter()
                .find(|setting| setting.key == key)
                .expect("invariant: the key is in the table");
            if setting.switch && matches.get_flag(key) {
                return Ok("true".into());
            }
            if !setting.switch
                && let Some(given) = matches.get_one::<String>(key)
            {
                return Ok(given.clone());
            }
            match std::env::var(setting.variable()) {
                Ok(given) => Ok(given),
                Err(std::env::VarError::NotPresent) => {
                    Ok(file.get(key).cloned().unwrap_or_else(|| setting.default.into()))
                }
                Err(error) => bail!("PF-6001: {} cannot be read: {error}", setting.variable()),
            }
        };
        let number = |key: &str| -> anyhow::Result<u64> {
            let text = value(key)?;
            text.trim()
                .parse()
                .map_err(|_| anyhow!("PF-6002: {key} must be a whole number, not {text:?}"))
        };
        let address = |key: &str| -> anyhow::Result<SocketAddr> {
            let text = value(key)?;
            let resolved = text.replace("localhost", "127.0.0.1");
            resolved
                .parse()
                .map_err(|_| anyhow!("PF-6003: {key} must be an address like 127.0.0.1:4319, not {text:?}"))
        };
        let list = |key: &str| -> anyhow::Result<Vec<String>> {
            Ok(value(key)?
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(String::from)
                .collect())
        };
        let mut keys = Vec::new();
        for pair in list("auth.keys")? {
            // The key itself never appears in a message.
            let (key, project) = pair
                .split_once('=')
                .ok_or_else(|| anyhow!("PF-6004: auth.keys needs entries like pf_…=project"))?;
            keys.push((key.to_string(), project.to_string()));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = match number("workers")? {
            0 => cores.saturating_sub(1).max(1),
            given if given <= 256 => given as usize,
            given => bail!("PF-6002: workers must be at most 256, not {given}"),
        };
        let store = match value("store.url")?.as_str() {
            "delta" => StoreChoice::Delta,
            "none" => StoreChoice::None,
            // A prefix that is wrong may be that of a URL with a password in it: only what follows ours is read.
            url if url.starts_with("clickhouse:") => {
                StoreChoice::ClickHouse(Address::parse(url, Some(value("store.password")?))?)
            }
            url if url.contains("://") => bail!(
                "PF-6005: store.url begins with {:?}, which is not known to this build; it has 'delta', \
                 'clickhouse://user@host:port/database' and 'none'",
                url.split("://").next().unwrap_or("")
            ),
            other => bail!(
                "PF-6005: store.url {other:?} is not known to this build; it has 'delta', \
                 'clickhouse://user@host:port/database' and 'none'"
            ),
        };
        let json_logs = match value("logging.format")?.as_str() {
            "json" => true,
            "text" => false,
            other => bail!("PF-6005: logging.format must be 'text' or 'json', not {other:?}"),
        };
        let insecure_open = match value("auth.insecure_open")?.as_str() {
            "true" | "1" => true,
            "false" | "0" | "" => false,
            other => bail!("PF-6005: auth.insecure_open must be true or false, not {other:?}"),
        };
        let scaled = |key: &str, shift: u32| -> anyhow::Result<u64> {
            number(key)?
                .checked_mul(1 << shift)
                .ok_or_else(|| anyhow!("PF-6002: {key} is too large"))
        };
        let within = |key: &str, least: u64, most: u64| -> anyhow::Result<u64> {
            let given = number(key)?;
            match (least..=most).contains(&given) {
                true => Ok(given),
                false => bail!("PF-6002: {key} must be from {least} to {most}, not {given}"),
            }
        };
        within("limits.query_memory_mb", 1, 1 << 40)?;
        // A row's text may be six times as long as its bytes (escapes), and an array holds 2 GiB of text.
        let request_bytes = usize::try_from(within("limits.request_mb", 1, 256)? << 20)?;
        let log = LogChoice::read(&value, request_bytes)?;
        Ok(Configuration {
            data_dir: PathBuf::from(value("data_dir")?),
            workers,
            otlp_grpc: address("listen.otlp_grpc")?,
            otlp_http: address("listen.otlp_http")?,
            api: address("listen.api")?,
            cors_origins: list("listen.cors_origins")?,
            allowed_hosts: list("listen.allowed_hosts")?,
            keys,
            insecure_open,
            store,
            flush_every: Duration::from_secs(within("store.flush_seconds", 1, 3_600)?),
            checkpoint_every: match within("checkpoints.seconds", 0, 86_400)? {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            request_bytes,
            ticks: TickChoice::parse(&value("ticks.url")?, &log)?,
            checkpoints: CheckpointChoice::parse(&value("checkpoints.url")?)?,
            log,
            log_bytes: scaled("limits.log_gb", 30)?,
            min_free_bytes: scaled("limits.min_free_gb", 30)?,
            monitor_rows: within("limits.monitor_rows", 1, 1_000_000_000)?,
            monitor_tick_rows: within("limits.monitor_tick_rows", 1, 1_000_000_000)?,
            monitor_updates_per_second: within("limits.monitor_updates_per_second", 1, 1_000_000_000)?,
            query_timeout: Duration::from_secs(within("limits.query_seconds", 1, 86_400)?),
            query_memory: usize::try_from(scaled("limits.query_memory_mb", 20)?)?,
            live_connections: usize::try_from(number("limits.live_connections")?)?,
            stream_retention: Duration::from_secs(within("retention.streams_days", 0, 100_000)? * 86_400),
            json_logs,
            log_level: value("logging.level")?,
        })
    }
}

/// A TOML file as `section.key` → text; an unknown key is refused with the known ones of its section.
fn read_file(path: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("PF-6006: the configuration file {path} cannot be read"))?;
    let table: toml::Table = text
        .parse()
        .with_context(|| format!("PF-6007: {path} is not valid TOML"))?;
    let mut values = BTreeMap::new();
    flatten("", &table, &mut values);
    for key in values.keys() {
        if !SETTINGS.iter().any(|setting| setting.key == key) {
            let known: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
            bail!(
                "PF-6008: {path} sets {key:?}, which is no setting; there are: {}",
                known.join(", ")
            );
        }
    }
    Ok(values)
}

fn flatten(prefix: &str, table: &toml::Table, values: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, values),
            toml::Value::String(text) => {
                values.insert(key, text.clone());
            }
            toml::Value::Array(items) => {
                let texts: Vec<String> = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), String::from))
                    .collect();
                values.insert(key, texts.join(","));
            }
            other => {
                values.insert(key, other.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::settings::serve_command;
    use super::*;

    fn read(arguments: &[&str]) -> anyhow::Result<Configuration> {
        let all = std::iter::once("serve").chain(arguments.iter().copied());
        Configuration::read(&serve_command().try_get_matches_from(all)?)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pyflare.toml");
        std::fs::write(
            &path,
            "data_dir = \"from-file\"\n[listen]\napi = \"127.0.0.1:1\"\n[auth]\nkeys = [\"pf_abc=a\"]\n",
        )
        .unwrap();
        let read = read(&["--config", path.to_str().unwrap(), "--listen-api", "127.0.0.1:2"]).unwrap();
        assert_eq!(read.api.port(), 2);
        assert_eq!(read.data_dir, PathBuf::from("from-file"));
        assert_eq!(read.keys, vec![("pf_abc".to_string(), "a".to_string())]);
        assert_eq!(read.otlp_grpc.port(), 4317);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(
            read(&["--workers", "many"])
                .unwrap_err()
                .to_string()
                .contains("PF-6002")
        );
        assert!(
            read(&["--listen-api", "nowhere"])
                .unwrap_err()
                .to_string()
                .contains("PF-6003")
        );
        assert!(
            read(&["--store-url", "oracle"])
                .unwrap_err()
                .to_string()
                .contains("PF-6005")
        );
        for secret in ["clickhouse://u:secret@h/d", "mysql://u:secret@h/d"] {
            let refused = read(&["--store-url", secret]).unwrap_err().to_string();
            assert!(
                refused.contains("PF-") && !refused.contains("secret"),
                "{refused}"
            );
        }
        for beyond in ["0", "257", "18446744073709551615"] {
            let refused = read(&["--limits-request-mb", beyond]).unwrap_err().to_string();
            assert!(refused.contains("PF-6002"), "{refused}");
        }
        let most = read(&["--limits-request-mb", "256"]).unwrap();
        assert_eq!(most.request_bytes, 256 << 20);
        let kafka = ["--log-url", "kafka://one:9092"];
        assert!(matches!(read(&kafka).unwrap().log, LogChoice::Kafka(_)));
        for (more, code) in [
            (["--kafka-partitions", "0"], "PF-6002"),
            (["--kafka-security", "magic"], "PF-6005"),
            (["--kafka-password", "secret"], "PF-6005"),
            (["--log-url", "kafka://user:secret@one:9092"], "PF-2015"),
        ] {
            let given: Vec<&str> = match more[0] {
                "--log-url" => more.to_vec(),
                _ => kafka.into_iter().chain(more).collect(),
            };
            let refused = read(&given).unwrap_err().to_string();
            assert!(refused.contains(code) && !refused.contains("secret"), "{refused}");
        }
        let message = read(&["--auth-keys", "pf_secret"]).unwrap_err().to_string();
        assert!(message.contains("PF-6004") && !message.contains("pf_secret"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pyflare.toml");
        std::fs::write(&path, "[listen]\nport = 1\n").unwrap();
        assert!(
            read(&["--config", path.to_str().unwrap()])
                .unwrap_err()
                .to_string()
                .contains("PF-6008")
        );
    }
    /// Messages all over the workspace say what to raise or set: those settings are in the table.
    #[test]
    fn messages_name_settings_that_exist() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut open = vec![
            root.join("src"),
            root.join("query"),
            root.join("connectors"),
            root.join("dataflows"),
        ];
        let mut named = 0;
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(
                    std::fs::read_dir(path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for verb in ["raise ", "set ", "configure "] {
                for (at, _) in text.match_indices(verb) {
                    let after = &text[at + verb.len()..];
                    let end = after.find(|c: char| !(c.is_ascii_lowercase() || c == '_' || c == '.'));
                    let word = after[..end.unwrap_or(after.len())].trim_end_matches('.');
                    let section = word.split_once('.').map(|(section, _)| format!("{section}."));
                    let ours = section.is_some_and(|section| {
                        SETTINGS.iter().any(|setting| setting.key.starts_with(&section))
                    });
                    if ours {
                        named += 1;
                        let known = SETTINGS.iter().any(|setting| setting.key == word);
                        assert!(known, "{} names {word}", path.display());
                    }
                }
            }
        }
        assert!(named >= 5, "found only {named}");
    }
}
