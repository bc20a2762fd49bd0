//! Which log the server runs on: the embedded one, or Kafka's topics.
//!
//! Offsets of one log mean nothing in another: the data directory remembers which log its tick log speaks of.

use std::sync::Arc;

use anyhow::{anyhow, bail};
use pyflare_connectors::{Catalog, Log, Signal};
use pyflare_kafka::{KafkaLog, KafkaOptions, Sasl, SaslMechanism, Tls};
use pyflare_log::{DataDirectory, EmbeddedLog, FileCatalog, LogOptions};

use super::config::Configuration;

const REMEMBERED: &str = "log";
const EMBEDDED: &str = "embedded";

#[derive(Debug, Clone)]
pub enum LogChoice {
    Embedded,
    Kafka(Box<KafkaOptions>),
}

impl LogChoice {
    /// What the settings `log.url` and `kafka.*` mean; `value` gives a setting's text.
    pub fn read(
        value: &dyn Fn(&str) -> anyhow::Result<String>,
        request_bytes: usize,
    ) -> anyhow::Result<LogChoice> {
        let url = value("log.url")?;
        if url == EMBEDDED {
            return Ok(LogChoice::Embedded);
        }
        if !url.starts_with("kafka://") {
            bail!("PF-6005: log.url must be 'embedded' or kafka://host:port[,host:port]");
        }
        let number = |key: &str, least: u64, most: u64| -> anyhow::Result<u64> {
            let text = value(key)?;
            let given = text
                .trim()
                .parse()
                .ok()
                .filter(|given| (least..=most).contains(given));
            given.ok_or_else(|| anyhow!("PF-6002: {key} must be from {least} to {most}, not {text:?}"))
        };
        let file = |key: &str| -> anyhow::Result<Option<std::path::PathBuf>> {
            let text = value(key)?;
            Ok((!text.is_empty()).then(|| text.into()))
        };
        let mut options = KafkaOptions::of_url(&url)?;
        options.topic_prefix = value("kafka.topic_prefix")?;
        options.partitions = number("kafka.partitions", 1, 1_000)? as u32;
        options.replication = match number("kafka.replication", 0, 100)? {
            0 => None,
            replicas => Some(replicas as u32),
        };
        options.retention_hours = number("kafka.retention_hours", 1, 1_000_000)?;
        options.body_bytes = request_bytes;
        let patterns = value("kafka.stream_topics")?;
        let patterns = patterns.split(',').map(str::trim);
        options.stream_topics = patterns
            .filter(|pattern| !pattern.is_empty())
            .map(str::to_string)
            .collect();
        options.tls = match value("kafka.security")?.as_str() {
            "plaintext" => None,
            "tls" => Some(Tls {
                ca_file: file("kafka.ca_file")?,
                certificate_file: file("kafka.certificate_file")?,
                key_file: file("kafka.key_file")?,
            }),
            other => bail!("PF-6005: kafka.security must be 'plaintext' or 'tls', not {other:?}"),
        };
        let mechanism = match value("kafka.sasl_mechanism")?.to_lowercase().as_str() {
            "none" => None,
            "plain" => Some(SaslMechanism::Plain),
            "scram-sha-256" => Some(SaslMechanism::ScramSha256),
            "scram-sha-512" => Some(SaslMechanism::ScramSha512),
            other => bail!(
                "PF-6005: kafka.sasl_mechanism must be 'none', 'plain', 'scram-sha-256' or 'scram-sha-512', not {other:?}"
            ),
        };
        let (username, password) = (value("kafka.username")?, value("kafka.password")?);
        options.sasl = match mechanism {
            Some(mechanism) => Some(Sasl {
                mechanism,
                username,
                password,
            }),
            None if username.is_empty() && password.is_empty() => None,
            None => bail!("PF-6005: kafka.username and kafka.password need kafka.sasl_mechanism"),
        };
        Ok(LogChoice::Kafka(Box::new(options)))
    }

    /// Opens it. Waits for Kafka's brokers: not on a thread that serves.
    pub fn open(
        &self,
        configuration: &Configuration,
        directory: &DataDirectory,
    ) -> anyhow::Result<(Arc<dyn Log>, String)> {
        Ok(match self {
            LogChoice::Embedded => {
                let log = EmbeddedLog::open(LogOptions {
                    directory: directory.log(),
                    cap_bytes: configuration.log_bytes,
                    min_free_bytes: configuration.min_free_bytes,
                    ..LogOptions::default()
                })?;
                (log as Arc<dyn Log>, EMBEDDED.into())
            }
            LogChoice::Kafka(options) => {
                let log = KafkaLog::open((**options).clone())?;
                let identity = log.identity().to_string();
                (log as Arc<dyn Log>, identity)
            }
        })
    }
}

/// Refuses a log that is not the one the data directory was in use with. `has_ticks`: it was in use.
pub fn remember(catalog: &FileCatalog, identity: &str, has_ticks: bool) -> anyhow::Result<()> {
    let known = catalog.get(REMEMBERED)?;
    let known = known.map(|known| String::from_utf8_lossy(&known).into_owned());
    // Directories from before there was a choice have the embedded one.
    let known = known.or_else(|| has_ticks.then(|| EMBEDDED.to_string()));
    match known {
        Some(known) if known != identity => bail!(
            "PF-6024: the data directory was in use with the log {known:?}, and log.url leads to {identity:?}; \
             give back the former log.url and kafka.topic_prefix, or start with another data directory"
        ),
        _ => {
            catalog.put_if_absent(REMEMBERED, identity.as_bytes())?;
            Ok(())
        }
    }
}

/// Whether any topic has a record.
pub fn holds_records(log: &dyn Log) -> bool {
    let holds = |signal| (0..log.partitions(signal)).any(|number| log.end_offset(signal, number) > 0);
    Signal::ALL.into_iter().any(holds)
}
