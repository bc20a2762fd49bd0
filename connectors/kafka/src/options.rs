//! Where the brokers are, how to speak with them, and what topics are made like.

use std::path::PathBuf;

use pyflare_connectors::LogError;
use rdkafka::ClientConfig;

/// A record is somewhat larger than its body: key, headers, the batch around it.
const AROUND_A_BODY: usize = 64 << 10;

#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// Before the names of all topics.
    pub topic_prefix: String,
    /// Of topics that are made; those that are there keep theirs.
    pub partitions: u32,
    /// Replicas of topics that are made; `None`: as the broker does.
    pub replication: Option<u32>,
    /// How long the broker keeps records of topics that are made.
    pub retention_hours: u64,
    /// The largest body.
    pub body_bytes: usize,
    /// Bytes read ahead, of all partitions of a topic together.
    pub read_ahead_bytes: usize,
    /// Which topics of others streams may be declared over: names, or beginnings of names that end with `*`;
    /// `{project}` stands for the stream's project.
    pub stream_topics: Vec<String>,
    /// Whoever reads passes over records that were deleted before: their loss is no failure of the log.
    pub skip_deleted: bool,
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
}

/// Files in PEM form; none: the system's authorities, and no certificate of ours.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    pub ca_file: Option<PathBuf>,
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

#[derive(Clone)]
pub struct Sasl {
    pub mechanism: SaslMechanism,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Sasl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sasl({:?}, {})", self.mechanism, self.username)
    }
}

impl KafkaOptions {
    /// The options for `kafka://host:port[,host:port]`, with defaults for everything else.
    pub fn of_url(url: &str) -> Result<KafkaOptions, LogError> {
        let brokers = url.strip_prefix("kafka://").unwrap_or_default();
        let is_address = |broker: &str| {
            broker.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok()
            })
        };
        // The URL is not repeated: somebody may have written a password into it.
        if brokers.is_empty() || !brokers.split(',').all(is_address) {
            return Err(LogError::Settings {
                detail: "log.url must be kafka://host:port[,host:port], without user names and paths".into(),
            });
        }
        Ok(KafkaOptions {
            brokers: brokers.into(),
            topic_prefix: String::new(),
            partitions: 4,
            replication: None,
            retention_hours: 168,
            body_bytes: 64 << 20,
            read_ahead_bytes: 64 << 20,
            stream_topics: vec!["*".into()],
            skip_deleted: false,
            tls: None,
            sasl: None,
        })
    }

    /// The largest record, its surroundings included.
    pub(crate) fn record_bytes(&self) -> usize {
        self.body_bytes + AROUND_A_BODY
    }

    /// What all clients have in common.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        let fetch_bytes = self.record_bytes().max(50 << 20);
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "pyflare")
            .set("message.max.bytes", self.record_bytes().to_string())
            .set("fetch.max.bytes", fetch_bytes.to_string())
            .set("receive.message.max.bytes", (fetch_bytes + (1 << 20)).to_string())
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            .set(
                "security.protocol",
                match (&self.tls, &self.sasl) {
                    (None, None) => "plaintext",
                    (Some(_), None) => "ssl",
                    (None, Some(_)) => "sasl_plaintext",
                    (Some(_), Some(_)) => "sasl_ssl",
                },
            );
        if let Some(tls) = &self.tls {
            let files = [
                ("ssl.ca.location", &tls.ca_file),
                ("ssl.certificate.location", &tls.certificate_file),
                ("ssl.key.location", &tls.key_file),
            ];
            for (key, file) in files {
                if let Some(file) = file {
                    config.set(key, file.to_string_lossy());
                }
            }
        }
        if let Some(sasl) = &self.sasl {
            config
                .set(
                    "sasl.mechanisms",
                    match sasl.mechanism {
                        SaslMechanism::Plain => "PLAIN",
                        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
                        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
                    },
                )
                .set("sasl.username", &sasl.username)
                .set("sasl.password", &sasl.password);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_checked_and_not_repeated() {
        let options = KafkaOptions::of_url("kafka://one:9092,two:9093").unwrap();
        assert_eq!(options.brokers, "one:9092,two:9093");
        for wrong in [
            "kafka://",
            "kafka://one",
            "kafka://u:secret@one:9092",
            "redis://one:1",
            "kafka://one:9092/x",
        ] {
            let error = KafkaOptions::of_url(wrong).unwrap_err().to_string();
            assert!(error.contains("PF-2015") && !error.contains("secret"), "{error}");
        }
    }
}
