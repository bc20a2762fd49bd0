//! [`KafkaOutputs`]: changes of views in topics, each cut in one transaction.
//!
//! A record of the compacted topic `pyflare_outputs` says, for each output, which cut it has; it is written in the same
//! transaction as the cut's messages. The transactional id belongs to the history of a data directory, so that a process
//! which was taken for dead and wakes up again is fenced by the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use pyflare_connectors::outputs::{OutputBlock, Outputs};
use pyflare_connectors::{LogError, Signal};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::client::{Witness, deliver, is_fencing, is_retriable, meaning};
use crate::feed;
use crate::options::KafkaOptions;
use crate::reader::watermarks;
use crate::topics;

/// The topic that says how far outputs are.
const CUTS: &str = "pyflare_outputs";
const ANSWER: Duration = Duration::from_secs(10);
/// A transaction that takes longer is aborted by the broker.
const TRANSACTION: Duration = Duration::from_secs(120);

/// Rows as messages: a key, if there is one, and a value.
pub type Encode = Arc<dyn Fn(&RecordBatch, &[String]) -> Vec<(Option<Vec<u8>>, Vec<u8>)> + Send + Sync>;

pub struct KafkaOutputs {
    options: KafkaOptions,
    encode: Encode,
    witness: Witness,
    lineage: Mutex<String>,
    writer: Mutex<Option<Writer>>,
    /// Another process has taken over; this one has nothing to say any more.
    is_fenced: AtomicBool,
}

struct Writer {
    producer: BaseProducer<Witness>,
    cuts: BTreeMap<String, u64>,
}

impl KafkaOutputs {
    /// Nothing is asked of the brokers before somebody writes.
    pub fn new(options: KafkaOptions, encode: Encode) -> Arc<KafkaOutputs> {
        Arc::new(KafkaOutputs {
            options,
            encode,
            witness: Witness::default(),
            lineage: Mutex::new(String::new()),
            writer: Mutex::new(None),
            is_fenced: AtomicBool::new(false),
        })
    }

    fn cuts_topic(&self) -> String {
        format!("{}{CUTS}", self.options.topic_prefix)
    }

    /// Takes over from a process before: what it had begun is aborted, what it had committed is known.
    fn open(&self) -> Result<Writer, LogError> {
        if self.is_fenced.load(Ordering::Acquire) {
            return Err(self.fenced());
        }
        topics::ensure_one(
            &self.options,
            &self.witness,
            &self.cuts_topic(),
            topics::Kind::Compacted,
        )?;
        let id = format!("{}pyflare-{}", self.options.topic_prefix, self.lineage.lock());
        let producer: BaseProducer<Witness> = self
            .options
            .client()
            .set("transactional.id", id)
            .set("transaction.timeout.ms", TRANSACTION.as_millis().to_string())
            .set("acks", "all")
            .set("linger.ms", "5")
            // Whoever reads them may not have every codec.
            .set("compression.type", "none")
            .set("allow.auto.create.topics", "false")
            .create_with_context(self.witness.clone())
            .map_err(|error| LogError::Settings {
                detail: error.to_string(),
            })?;
        let since = Instant::now();
        while let Err(error) = producer.init_transactions(ANSWER) {
            if since.elapsed() > 3 * ANSWER || !is_retriable(&error) {
                return Err(self.refusal(&error));
            }
        }
        let cuts = self.read_cuts()?;
        Ok(Writer { producer, cuts })
    }

    /// Everything that the topic says; the newest record of an output counts.
    fn read_cuts(&self) -> Result<BTreeMap<String, u64>, LogError> {
        let topic = self.cuts_topic();
        let consumer: BaseConsumer<Witness> = self
            .options
            .client()
            .set("group.id", "pyflare")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create_with_context(self.witness.clone())
            .map_err(|error| LogError::Settings {
                detail: error.to_string(),
            })?;
        let mut cuts = BTreeMap::new();
        let (first, end) = watermarks(&consumer, &topic, 0, &self.options, &self.witness)?;
        if first >= end {
            return Ok(cuts);
        }
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(&topic, 0, Offset::Beginning)
            .and_then(|()| consumer.assign(&all))
            .map_err(|error| self.refusal(&error))?;
        let mut heard = Instant::now();
        loop {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let text = |bytes: Option<&[u8]>| Some(std::str::from_utf8(bytes?).ok()?.to_string());
                    let output = text(message.key());
                    let cut = text(message.payload()).and_then(|cut| cut.parse().ok());
                    if let (Some(output), Some(cut)) = (output, cut) {
                        cuts.insert(output, cut);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(cuts),
                Some(Err(error)) => self.witness.heard(&error),
                None => {}
            }
            if heard.elapsed() > ANSWER {
                return Err(LogError::NotTaken {
                    topic,
                    detail: "how far outputs are cannot be read".into(),
                });
            }
        }
    }

    /// One transaction.
    fn transact(&self, writer: &Writer, cut: u64, blocks: &[OutputBlock]) -> Result<(), KafkaError> {
        let producer = &writer.producer;
        producer.begin_transaction()?;
        let send = |topic: &str, key: Option<&[u8]>, value: &[u8]| -> Result<(), KafkaError> {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).payload(value);
            record.key = key;
            loop {
                let Err((error, refused)) = producer.send(record) else {
                    return Ok(());
                };
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(error);
                }
                record = refused;
                producer.poll(Duration::from_millis(20));
            }
        };
        for block in blocks {
            for (key, value) in (self.encode)(&block.rows, &block.key) {
                send(&block.topic, key.as_deref(), &value)?;
            }
        }
        let topic = self.cuts_topic();
        let said = cut.to_string();
        for block in blocks {
            let output = self.known_as(&block.output);
            send(&topic, Some(output.as_bytes()), said.as_bytes())?;
        }
        deliver(producer, TRANSACTION)?;
        let since = Instant::now();
        loop {
            match producer.commit_transaction(ANSWER) {
                Ok(()) => return Ok(()),
                // To be asked again: what it comes to is decided by the broker.
                Err(error) if is_retriable(&error) && since.elapsed() < TRANSACTION => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn known_as(&self, output: &str) -> String {
        format!("{}/{output}", self.lineage.lock())
    }

    fn refusal(&self, error: &KafkaError) -> LogError {
        if is_fencing(error) {
            self.is_fenced.store(true, Ordering::Release);
            return self.fenced();
        }
        meaning(error, &self.cuts_topic(), &self.options.brokers, &self.witness)
    }

    fn fenced(&self) -> LogError {
        LogError::Replaced {
            topic: self.cuts_topic(),
        }
    }

    fn with_writer<T>(&self, run: impl FnOnce(&mut Writer) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut held = self.writer.lock();
        if held.is_none() {
            *held = Some(self.open()?);
        }
        let writer = held.as_mut().expect("invariant: it was just opened");
        let outcome = run(writer);
        if outcome.is_err() {
            // What became of the transaction is asked when it is opened again.
            *held = None;
        }
        outcome
    }
}

impl Outputs for KafkaOutputs {
    fn belong_to(&self, lineage: &str) {
        *self.lineage.lock() = lineage.into();
    }

    fn prepare(&self, project: &str, topic: &str) -> Result<(), LogError> {
        feed::allow(topic, project, &self.options)?;
        topics::ensure_one(&self.options, &self.witness, topic, topics::Kind::Log)
    }

    fn last_cut(&self, output: &str) -> Result<Option<u64>, LogError> {
        let output = self.known_as(output);
        self.with_writer(|writer| Ok(writer.cuts.get(&output).copied()))
    }

    fn write(&self, cut: u64, blocks: &[OutputBlock]) -> Result<(), LogError> {
        self.with_writer(|writer| {
            if let Err(error) = self.transact(writer, cut, blocks) {
                let _ = writer.producer.abort_transaction(ANSWER);
                return Err(self.refusal(&error));
            }
            for block in blocks {
                writer.cuts.insert(self.known_as(&block.output), cut);
            }
            Ok(())
        })
    }
}

/// Whether a topic is one of the log's.
pub(crate) fn is_own(name: &str, options: &KafkaOptions) -> bool {
    let own = Signal::ALL
        .into_iter()
        .map(Signal::topic)
        .chain([CUTS, crate::ticks::TOPIC]);
    own.map(|topic| format!("{}{topic}", options.topic_prefix))
        .any(|own| own == name)
}
