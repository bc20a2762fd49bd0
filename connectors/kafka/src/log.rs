//! [`KafkaLog`]: the trait [`Log`] over the four topics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use pyflare_connectors::faults::{self, Step};
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{Appended, Feed, FeedOptions, Log, LogError, LogRecord, Signal};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::client::{Witness, meaning};
use crate::feed::KafkaFeed;
use crate::message;
use crate::options::KafkaOptions;
use crate::reader::{TopicReader, watermarks};
use crate::topics::{self, Content};

/// After this a record counts as not taken; its sender tries again, and the same body is admitted once.
const DELIVERY: Duration = Duration::from_secs(5);
const FULL_QUEUE: Duration = Duration::from_secs(1);
/// How long a read waits for records that are known to be there.
const SHORT_WAIT: Duration = Duration::from_millis(5);
/// Bytes read ahead of a topic that a stream reads.
const FEED_AHEAD: usize = 16 << 20;

type Sender = FutureProducer<Witness>;

pub struct KafkaLog {
    options: KafkaOptions,
    witness: Witness,
    /// Replaced when the broker has thrown it out.
    producer: RwLock<Arc<Sender>>,
    readers: Vec<TopicReader>,
    starts: Vec<Vec<u64>>,
    /// Of topics that streams read. Those that nobody reads any more are joined when another one comes.
    feeds: Mutex<Vec<Arc<TopicReader>>>,
    listeners: Arc<RwLock<Vec<AppendListener>>>,
    identity: String,
    closed: AtomicBool,
}

impl KafkaLog {
    /// Finds the topics, makes those that are missing, and asks how far they go. Blocks until the brokers have answered.
    pub fn open(options: KafkaOptions) -> Result<Arc<KafkaLog>, LogError> {
        let witness = Witness::default();
        let (topics, cluster) = topics::ensure(&options, &witness)?;
        let identity = format!("kafka {cluster}/{}", options.topic_prefix);
        let listeners = Arc::new(RwLock::new(Vec::new()));
        let (mut readers, mut starts) = (Vec::new(), Vec::new());
        let asking = options
            .client()
            .create_with_context(witness.clone())
            .map_err(|error| LogError::Settings {
                detail: error.to_string(),
            })?;
        for topic in topics {
            let firsts = (0..topic.partitions)
                .map(|number| Ok(watermarks(&asking, &topic.name, number, &options, &witness)?.0));
            starts.push(firsts.collect::<Result<Vec<u64>, LogError>>()?);
            readers.push(TopicReader::open(
                topic,
                &options,
                &witness,
                Arc::clone(&listeners),
            )?);
        }
        let producer = RwLock::new(Arc::new(sender(&options, &witness)?));
        Ok(Arc::new(KafkaLog {
            options,
            witness,
            producer,
            readers,
            starts,
            feeds: Mutex::new(Vec::new()),
            listeners,
            identity,
            closed: AtomicBool::new(false),
        }))
    }

    /// The cluster and the topics: offsets mean something in these only.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    fn reader(&self, signal: Signal) -> &TopicReader {
        let found = self.readers.iter().find(|reader| is_of(reader, signal));
        found.expect("invariant: every signal has a topic")
    }

    /// Another producer, if the broker has thrown this one out.
    fn renew(&self, failed: &Arc<Sender>) {
        let Some((code, reason)) = failed.client().fatal_error() else {
            return;
        };
        let mut current = self.producer.write();
        if !Arc::ptr_eq(&current, failed) {
            return;
        }
        tracing::warn!(%code, reason, "the producer is replaced");
        match sender(&self.options, &self.witness) {
            Ok(fresh) => *current = Arc::new(fresh),
            Err(error) => tracing::error!(%error, "there is no new producer"),
        }
    }

    fn refusal(&self, error: &KafkaError, topic: &str, bytes: usize) -> LogError {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::MessageBatchTooLarge
                | RDKafkaErrorCode::InvalidMessageSize,
            ) => LogError::TooLarge {
                topic: topic.into(),
                bytes,
            },
            _ => meaning(error, topic, &self.options.brokers, &self.witness),
        }
    }
}

fn is_of(reader: &TopicReader, signal: Signal) -> bool {
    matches!(reader.topic().content, Content::Requests(of) if of == signal)
}

fn sender(options: &KafkaOptions, witness: &Witness) -> Result<Sender, LogError> {
    let mut config = options.client();
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", DELIVERY.as_millis().to_string())
        .set("request.timeout.ms", DELIVERY.as_millis().to_string())
        .set("linger.ms", "1")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.kbytes", (512 << 10).to_string())
        .set("retry.backoff.ms", "50")
        .set("allow.auto.create.topics", "false");
    config
        .create_with_context(witness.clone())
        .map_err(|error| LogError::Settings {
            detail: error.to_string(),
        })
}

#[async_trait]
impl Log for KafkaLog {
    fn partitions(&self, signal: Signal) -> u32 {
        self.reader(signal).topic().partitions
    }

    fn start_offset(&self, signal: Signal, partition: u32) -> u64 {
        let at = self.readers.iter().position(|reader| is_of(reader, signal));
        let starts = at.and_then(|at| self.starts[at].get(partition as usize));
        starts.copied().unwrap_or_default()
    }

    async fn append(&self, record: LogRecord) -> Result<Appended, LogError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(LogError::Closed);
        }
        let reader = self.reader(record.signal);
        let topic = &reader.topic().name;
        let partition = (record.body_hash % u128::from(reader.topic().partitions)) as i32;
        let key = record.body_hash.to_be_bytes();
        let message = FutureRecord::to(topic)
            .partition(partition)
            .key(&key[..])
            .payload(&record.body[..])
            .headers(message::headers(&record));
        let producer = Arc::clone(&self.producer.read());
        faults::at(Step::KafkaProduce);
        match producer.send(message, FULL_QUEUE).await {
            Ok(delivery) => {
                faults::at(Step::KafkaAcknowledged);
                self.witness.answered();
                let appended = Appended {
                    partition: delivery.partition as u32,
                    offset: delivery.offset as u64,
                };
                reader.acknowledged(appended.partition, appended.offset);
                Ok(appended)
            }
            Err((error, _)) => {
                self.renew(&producer);
                Err(self.refusal(&error, topic, record.body.len()))
            }
        }
    }

    fn end_offset(&self, signal: Signal, partition: u32) -> u64 {
        self.reader(signal).end_offset(partition)
    }

    fn read(
        &self,
        signal: Signal,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        self.reader(signal).read(partition, offset, max_bytes, SHORT_WAIT)
    }

    fn follow(&self, signal: Signal, partition: u32, offset: u64) {
        self.reader(signal).follow(partition, offset);
    }

    fn feed(&self, wanted: &FeedOptions) -> Result<Arc<dyn Feed>, LogError> {
        let options = KafkaOptions {
            read_ahead_bytes: self.options.read_ahead_bytes.min(FEED_AHEAD),
            ..self.options.clone()
        };
        let feed = KafkaFeed::open(wanted, &options, &self.witness, Arc::clone(&self.listeners))?;
        let mut feeds = self.feeds.lock();
        feeds.retain(|reader| !reader.has_ended());
        feeds.push(Arc::clone(&feed.reader));
        Ok(Arc::new(feed))
    }

    fn on_append(&self, listener: AppendListener) {
        self.listeners.write().push(listener);
    }

    fn usage(&self) -> Option<(u64, u64)> {
        None
    }

    fn failure(&self) -> Option<LogError> {
        let failure = self.readers.iter().find_map(TopicReader::failure);
        failure.filter(|failure| !(self.options.skip_deleted && matches!(failure, LogError::Trimmed { .. })))
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Nobody is told of a record before it is acknowledged, so nothing that was promised waits here.
        if let Err(error) = self.producer.read().flush(DELIVERY) {
            tracing::warn!(%error, "some records that nobody was told of are not written");
        }
        let feeds = std::mem::take(&mut *self.feeds.lock());
        feeds.iter().for_each(|reader| reader.stop());
        feeds.iter().for_each(|reader| reader.close());
        self.readers.iter().for_each(TopicReader::close);
    }

    /// The broker deletes by its own retention.
    fn trim(&self, _signal: Signal, _partition: u32, _offset: u64) -> Result<(), LogError> {
        Ok(())
    }
}
