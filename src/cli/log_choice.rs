//! Which log the server runs on: the embedded one, or Kafka's topics.
//!
//! Offsets of one log mean nothing in another: the data directory remembers which log its tick log speaks of.

use std::sync::Arc;

use anyhow::{anyhow, bail};
use arrow::array::RecordBatch;
use pyflare_connectors::{Log, Outputs, Signal};
use pyflare_history::encode::{Int64Mode, write_cell};
use pyflare_kafka::{KafkaLog, KafkaOptions, KafkaOutputs, Sasl, SaslMechanism, Tls};
use pyflare_log::{DataDirectory, EmbeddedLog, LogOptions};

use super::config::Configuration;

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
        options.skip_deleted = match value("kafka.skip_deleted")?.as_str() {
            "true" => true,
            "false" => false,
            other => bail!("PF-6005: kafka.skip_deleted must be true or false, not {other:?}"),
        };
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

impl LogChoice {
    /// Whether records are passed over that were deleted before they were read.
    pub fn skips_deleted(&self) -> bool {
        matches!(self, LogChoice::Kafka(options) if options.skip_deleted)
    }

    /// Where monitors may write their changes to: topics of the log's brokers.
    pub fn outputs(&self) -> Option<Arc<dyn Outputs>> {
        match self {
            LogChoice::Embedded => None,
            LogChoice::Kafka(options) => {
                Some(KafkaOutputs::new((**options).clone(), Arc::new(as_messages)) as Arc<dyn Outputs>)
            }
        }
    }
}

/// Each row as a JSON object, and its key as an array.
fn as_messages(rows: &RecordBatch, key: &[String]) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
    let schema = rows.schema();
    let names: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| serde_json::Value::from(field.name().as_str()).to_string())
        .collect();
    let keys: Vec<_> = key.iter().filter_map(|name| rows.column_by_name(name)).collect();
    let message = |row: usize| {
        let mut value = String::from("{");
        for (place, (name, column)) in names.iter().zip(rows.columns()).enumerate() {
            value.push_str(if place > 0 { "," } else { "" });
            value.push_str(name);
            value.push(':');
            write_cell(&mut value, column.as_ref(), row, Int64Mode::Number);
        }
        value.push('}');
        let mut key = String::from("[");
        for (place, column) in keys.iter().enumerate() {
            key.push_str(if place > 0 { "," } else { "" });
            write_cell(&mut key, column.as_ref(), row, Int64Mode::Number);
        }
        key.push(']');
        ((!keys.is_empty()).then(|| key.into_bytes()), value.into_bytes())
    };
    (0..rows.num_rows()).map(message).collect()
}

/// Whether any topic has a record.
pub fn holds_records(log: &dyn Log) -> bool {
    let holds = |signal| (0..log.partitions(signal)).any(|number| log.end_offset(signal, number) > 0);
    Signal::ALL.into_iter().any(holds)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn changes_are_objects_with_the_key_as_an_array() {
        let columns: [(&str, ArrayRef); 4] = [
            ("shop \"a\"", Arc::new(StringArray::from(vec![Some("x\n"), None]))),
            ("n", Arc::new(Int64Array::from(vec![7, -1]))),
            ("rate", Arc::new(Float64Array::from(vec![f64::NAN, 0.5]))),
            ("_diff", Arc::new(Int64Array::from(vec![1, -1]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap_or_else(|error| panic!("{error}"));
        let texts = |key: &[String]| -> Vec<(Option<String>, String)> {
            let text = |bytes| String::from_utf8(bytes).unwrap_or_default();
            let messages = as_messages(&rows, key).into_iter();
            messages
                .map(|(key, value)| (key.map(text), text(value)))
                .collect()
        };
        let keyed = texts(&["shop \"a\"".into(), "n".into()]);
        assert_eq!(keyed[0].0.as_deref(), Some(r#"["x\n",7]"#));
        assert_eq!(keyed[0].1, r#"{"shop \"a\"":"x\n","n":7,"rate":"NaN","_diff":1}"#);
        assert_eq!(keyed[1].1, r#"{"shop \"a\"":null,"n":-1,"rate":0.5,"_diff":-1}"#);
        assert_eq!(texts(&[])[0].0, None);
    }
}
