//! Finding the topics, and making those that are missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use pyflare_connectors::{LogError, Signal};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use crate::client::{Witness, meaning};
use crate::options::KafkaOptions;

/// How long a start waits for the brokers.
const PATIENCE: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(2);

/// A topic that is there.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub content: Content,
    pub name: String,
    /// As many as there were when it was found.
    pub partitions: u32,
}

/// What a topic's messages are.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Requests of a signal: a topic of the log.
    Requests(Signal),
    /// Rows of one stream: a topic of others.
    Rows { project: Arc<str>, stream: Arc<str> },
}

impl Topic {
    pub fn is_of_others(&self) -> bool {
        matches!(self.content, Content::Rows { .. })
    }
}

impl Content {
    pub fn thread_name(&self) -> &str {
        match self {
            Content::Requests(Signal::Traces) => "traces",
            Content::Requests(Signal::Metrics) => "metrics",
            Content::Requests(Signal::Logs) => "logs",
            Content::Requests(Signal::Streams) => "streams",
            Content::Rows { .. } => "rows",
        }
    }
}

/// The topic is gone, which was there.
pub(crate) fn missing(topic: &Topic) -> LogError {
    let way_out = match topic.content {
        Content::Requests(_) => {
            "create it again, or start with another data directory, since its records are gone"
        }
        Content::Rows { .. } => "create it again, or drop the stream",
    };
    LogError::Topic {
        topic: topic.name.clone(),
        detail: format!("it is missing; {way_out}"),
    }
}

/// The topic of every signal, made if it is missing, and the name of the cluster.
pub(crate) fn ensure(options: &KafkaOptions, witness: &Witness) -> Result<(Vec<Topic>, String), LogError> {
    let mut config = options.client();
    config
        .set("group.id", "pyflare")
        .set("allow.auto.create.topics", "false");
    let failed = |error| LogError::Settings {
        detail: format!("{error}"),
    };
    let asking: BaseConsumer<Witness> = config.create_with_context(witness.clone()).map_err(failed)?;
    let admin = AdminClient::from_config_and_context(&options.client(), witness.clone()).map_err(failed)?;
    let mut topics = Vec::new();
    for signal in Signal::ALL {
        let name = format!("{}{}", options.topic_prefix, signal.topic());
        let partitions = match partitions_of(&asking, &name, options, witness)? {
            Some(partitions) => partitions,
            None => {
                create(&admin, &name, Kind::Log, options, witness)?;
                appear(&asking, &name, options, witness)?
            }
        };
        topics.push(Topic {
            content: Content::Requests(signal),
            name,
            partitions,
        });
    }
    let cluster = asking.client().fetch_cluster_id(ATTEMPT).unwrap_or_default();
    Ok((topics, cluster))
}

/// What a topic that is made keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Records, for as long as the settings say.
    Log,
    /// The newest record of each key, in one partition.
    Compacted,
    /// Records in one partition, until somebody deletes them.
    Ticks,
}

/// Makes a topic if it is missing.
pub(crate) fn ensure_one(
    options: &KafkaOptions,
    witness: &Witness,
    name: &str,
    kind: Kind,
) -> Result<(), LogError> {
    let failed = |error| LogError::Settings {
        detail: format!("{error}"),
    };
    let asking: BaseConsumer<Witness> = options
        .client()
        .set("allow.auto.create.topics", "false")
        .create_with_context(witness.clone())
        .map_err(failed)?;
    if partitions_of(&asking, name, options, witness)?.is_none() {
        let admin =
            AdminClient::from_config_and_context(&options.client(), witness.clone()).map_err(failed)?;
        create(&admin, name, kind, options, witness)?;
        appear(&asking, name, options, witness)?;
    }
    Ok(())
}

/// `None` if there is no such topic. Waits for brokers that do not answer, but not for those that refuse.
pub(crate) fn partitions_of(
    asking: &BaseConsumer<Witness>,
    name: &str,
    options: &KafkaOptions,
    witness: &Witness,
) -> Result<Option<u32>, LogError> {
    let since = Instant::now();
    loop {
        let answer = asking.fetch_metadata(Some(name), ATTEMPT);
        // Errors of connections are heard here.
        while let Some(event) = asking.poll(Duration::ZERO) {
            if let Err(error) = event {
                witness.heard(&error);
            }
        }
        let error = match answer {
            Ok(metadata) => {
                witness.answered();
                let topic = metadata.topics().iter().find(|topic| topic.name() == name);
                match topic.map(|topic| (topic.error(), topic.partitions().len())) {
                    Some((None, partitions)) if partitions > 0 => return Ok(Some(partitions as u32)),
                    Some((Some(error), _)) => {
                        let code = RDKafkaErrorCode::from(error);
                        match code {
                            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                                return Ok(None);
                            }
                            RDKafkaErrorCode::LeaderNotAvailable => {}
                            _ => {
                                let error = rdkafka::error::KafkaError::MetadataFetch(code);
                                return Err(meaning(&error, name, &options.brokers, witness));
                            }
                        }
                        LogError::Topic {
                            topic: name.into(),
                            detail: code.to_string(),
                        }
                    }
                    _ => return Ok(None),
                }
            }
            Err(error) => {
                let known = witness.trouble(&options.brokers);
                match known.unwrap_or_else(|| meaning(&error, name, &options.brokers, witness)) {
                    refused @ (LogError::Credentials { .. } | LogError::Insecure { .. }) => {
                        return Err(refused);
                    }
                    other => other,
                }
            }
        };
        if since.elapsed() > PATIENCE {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn create(
    admin: &AdminClient<Witness>,
    name: &str,
    kind: Kind,
    options: &KafkaOptions,
    witness: &Witness,
) -> Result<(), LogError> {
    let largest = options.record_bytes().to_string();
    let hours = options.retention_hours.saturating_mul(3_600_000).to_string();
    let replication = options.replication.map_or(-1, |replicas| replicas as i32);
    let (partitions, policy) = match kind {
        Kind::Log => (options.partitions as i32, "delete"),
        Kind::Compacted => (1, "compact"),
        Kind::Ticks => (1, "delete"),
    };
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication))
        .set("max.message.bytes", &largest)
        .set("cleanup.policy", policy);
    topic = match kind {
        Kind::Log => topic.set("retention.ms", &hours),
        Kind::Compacted => topic,
        Kind::Ticks => FORGETFUL
            .iter()
            .fold(topic, |topic, (key, value)| topic.set(key, value)),
    };
    let wait = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let results = block_on(admin.create_topics([&topic], &wait));
    let results = results.map_err(|error| meaning(&error, name, &options.brokers, witness))?;
    for result in results {
        match result {
            Ok(_) => tracing::info!(topic = name, partitions, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => {
                return Err(LogError::Topic {
                    topic: name.into(),
                    detail: format!("it is missing and cannot be created ({code}); create it, or allow it"),
                });
            }
        }
    }
    Ok(())
}

/// What a topic must be set to that keeps its records until they are deleted on purpose.
const FORGETFUL: [(&str, &str); 2] = [("retention.ms", "-1"), ("retention.bytes", "-1")];

/// Refuses a topic of which the broker deletes records by itself. A broker that does not tell is believed.
pub(crate) fn refuse_forgetful(
    options: &KafkaOptions,
    witness: &Witness,
    name: &str,
) -> Result<(), LogError> {
    let admin = AdminClient::from_config_and_context(&options.client(), witness.clone());
    let admin = admin.map_err(|error| LogError::Settings {
        detail: format!("{error}"),
    })?;
    let wait = AdminOptions::new().request_timeout(Some(Duration::from_secs(10)));
    let told = block_on(admin.describe_configs([&ResourceSpecifier::Topic(name)], &wait));
    let Some(Ok(settings)) = told.ok().and_then(|told| told.into_iter().next()) else {
        tracing::warn!(
            topic = name,
            "what its settings are is not told; retention.ms and retention.bytes must be -1"
        );
        return Ok(());
    };
    for (key, expected) in FORGETFUL.into_iter().chain([("cleanup.policy", "delete")]) {
        let value = settings.get(key).and_then(|entry| entry.value.as_deref());
        if value.is_some_and(|value| value != expected) {
            return Err(LogError::Topic {
                topic: name.into(),
                detail: format!(
                    "its {key} is {:?}, so the broker would delete what a start needs; set it to {expected:?}",
                    value.unwrap_or_default()
                ),
            });
        }
    }
    Ok(())
}

/// The name of the brokers' cluster.
pub(crate) fn cluster(options: &KafkaOptions, witness: &Witness) -> Result<String, LogError> {
    let asking: Result<BaseConsumer<Witness>, _> = options.client().create_with_context(witness.clone());
    let asking = asking.map_err(|error| LogError::Settings {
        detail: format!("{error}"),
    })?;
    Ok(asking.client().fetch_cluster_id(ATTEMPT).unwrap_or_default())
}

/// Waits until a topic that was just made is known everywhere.
fn appear(
    asking: &BaseConsumer<Witness>,
    name: &str,
    options: &KafkaOptions,
    witness: &Witness,
) -> Result<u32, LogError> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Some(partitions) = partitions_of(asking, name, options, witness)? {
            return Ok(partitions);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(LogError::Topic {
        topic: name.into(),
        detail: "it was created and does not appear".into(),
    })
}
