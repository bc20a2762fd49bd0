//! What clients of the broker say of themselves, and what their errors mean to a person.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyflare_connectors::LogError;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};

const LOOK: Duration = Duration::from_millis(1);

/// Hears what a client says about its connections; shared by all clients of a log.
#[derive(Clone, Default)]
pub(crate) struct Witness {
    last: Arc<Mutex<Option<(RDKafkaErrorCode, String)>>>,
    away: Arc<AtomicBool>,
    troubled: Arc<AtomicBool>,
}

impl Witness {
    /// A broker has answered.
    pub fn answered(&self) {
        if self.troubled.swap(false, Ordering::Relaxed) {
            *self.last.lock() = None;
        }
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka answers again");
        }
    }

    /// A consumer is told of its connection's trouble as of a record.
    pub fn heard(&self, error: &KafkaError) {
        let reason = error.to_string();
        self.error(error.clone(), &reason);
    }

    /// What the connection's last trouble means, if there is any.
    pub fn trouble(&self, brokers: &str) -> Option<LogError> {
        let (code, reason) = self.last.lock().clone()?;
        let (brokers, detail) = (brokers.to_string(), reason);
        Some(match code {
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                LogError::Credentials { brokers, detail }
            }
            RDKafkaErrorCode::SSL => LogError::Insecure { brokers, detail },
            _ => LogError::Unreachable { brokers, detail },
        })
    }
}

/// A broker that hangs up because of these also looks like one that is away.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL
    )
}

impl ClientContext for Witness {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        self.troubled.store(true, Ordering::Relaxed);
        let mut last = self.last.lock();
        if code == RDKafkaErrorCode::AllBrokersDown {
            if !self.away.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    reason,
                    "Kafka does not answer; requests are refused until it does"
                );
            }
            // What came before says why.
            last.get_or_insert((code, reason.into()));
        } else if !last
            .as_ref()
            .is_some_and(|(known, _)| is_refusal(*known) && !is_refusal(code))
        {
            *last = Some((code, reason.into()));
        }
    }
}

impl ConsumerContext for Witness {}

impl ProducerContext for Witness {
    type DeliveryOpaque = ();

    /// Of messages in a transaction its end tells.
    fn delivery(&self, _result: &DeliveryResult<'_>, _opaque: ()) {}
}

/// Whether a transaction may be asked to go on after an error.
pub(crate) fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        _ => false,
    }
}

/// Waits until everything that was sent is delivered or has failed. As `flush`, which looks ten times a second only.
pub(crate) fn deliver<C: ProducerContext>(
    producer: &BaseProducer<C>,
    patience: Duration,
) -> Result<(), KafkaError> {
    let since = Instant::now();
    while producer.in_flight_count() > 0 {
        if since.elapsed() > patience {
            return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
        }
        producer.poll(LOOK);
    }
    Ok(())
}

/// Whether another producer has taken this one's transactional id.
pub(crate) fn is_fencing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
        )
    )
}

/// What an error means that a client gave as its answer.
pub(crate) fn meaning(error: &KafkaError, topic: &str, brokers: &str, witness: &Witness) -> LogError {
    let detail = error.to_string();
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition,
        ) => LogError::Topic {
            topic: topic.into(),
            detail: "it is missing; create it again".into(),
        },
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => {
            LogError::Topic {
                topic: topic.into(),
                detail: format!(
                    "{detail}; give the user of kafka.username the right to describe and read it, and to create and write those of the log"
                ),
            }
        }
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::QueueFull,
        ) => witness.trouble(brokers).unwrap_or(LogError::Unreachable {
            brokers: brokers.into(),
            detail,
        }),
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
            LogError::Credentials {
                brokers: brokers.into(),
                detail,
            }
        }
        _ => LogError::NotTaken {
            topic: topic.into(),
            detail,
        },
    }
}
