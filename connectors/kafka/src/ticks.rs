//! [`KafkaTickLog`]: the tick log in a topic of one partition, each payload in a transaction of its own.
//!
//! The transactional id belongs to the topic. Who opens a generation takes it over: what another process had begun is aborted
//! by the broker, and it can commit nothing more. Nobody writes without having read the topic to its end *after* the last
//! take-over of its own, and found no newer generation: so a process that is cut off, by its successor or by a broker that
//! forgot it, takes over once more only to find out.
//!
//! ```text
//! key    kind (1 byte: payload or beginning of a generation) ‖ generation (8) ‖ position (8) ‖ history
//! value  the payload
//! ```
//! Positions count payloads; offsets have gaps, where transactions end. The history is that of the data directory
//! which the ticks belong to. The newest record is never deleted, so that numbers go on behind it.

mod known;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use parking_lot::Mutex;
use pyflare_connectors::faults::{self, Step};
use pyflare_connectors::{LogError, TickLog, TickLogError, VisitPayload};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{Message, Offset, TopicPartitionList};

use self::known::{BEGINNING, Key, Known, PAYLOAD};
use crate::client::{Witness, deliver, is_fencing, is_retriable, meaning};
use crate::options::KafkaOptions;
use crate::reader::watermarks;
use crate::topics;

/// After the prefix.
pub(crate) const TOPIC: &str = "pyflare_ticks";
const ANSWER: Duration = Duration::from_secs(10);
/// How long one attempt to write a record may take; the broker aborts a transaction that takes longer than the latter.
const DELIVERY: Duration = Duration::from_secs(5);
const TRANSACTION: Duration = Duration::from_secs(30);
/// How long is waited for what need not succeed.
const COURTESY: Duration = Duration::from_secs(1);
/// How long to wait before a broker that does not take a payload is tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a process that was cut off lets its successor begin.
const GIVE_WAY: Duration = Duration::from_secs(1);

/// See the module's head.
pub struct KafkaTickLog {
    options: KafkaOptions,
    witness: Witness,
    topic: String,
    history: String,
    identity: String,
    reader: Mutex<BaseConsumer<Witness>>,
    state: Mutex<State>,
    is_waiting: AtomicBool,
    is_given_up: AtomicBool,
}

#[derive(Default)]
struct State {
    known: Known,
    writer: Option<BaseProducer<Writing>>,
    /// The generation that this process has begun.
    own: Option<u64>,
}

/// Called with a record's offset, key and value.
type VisitRecord<'a> = dyn FnMut(i64, Key<'_>, &[u8]) -> Result<(), TickLogError> + 'a;

/// Catches where a record was put.
#[derive(Clone)]
struct Writing {
    witness: Witness,
    put: Arc<Mutex<Option<i64>>>,
}

impl ClientContext for Writing {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.witness.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.witness.error(error, reason);
    }
}

impl ProducerContext for Writing {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        if let Ok(message) = result {
            *self.put.lock() = Some(message.offset());
        }
    }
}

/// Why a payload is not in the log, or perhaps is.
enum Trouble {
    /// It is tried again, after so long.
    Again(LogError, Duration),
    Ended(TickLogError),
}

impl Trouble {
    fn of(error: TickLogError) -> Trouble {
        match error {
            TickLogError::Away { source, .. } => Trouble::Again(*source, PAUSE),
            other => Trouble::Ended(other),
        }
    }
}

impl KafkaTickLog {
    /// Finds the topic, makes it if it is missing, and reads it. Blocks until the brokers have answered. Refuses the ticks
    /// of another history, and a topic that forgets.
    pub fn open(options: KafkaOptions, history: &str) -> Result<Arc<KafkaTickLog>, TickLogError> {
        let witness = Witness::default();
        let topic = format!("{}{TOPIC}", options.topic_prefix);
        let failed = |error: LogError| away(&topic, &error);
        topics::ensure_one(&options, &witness, &topic, topics::Kind::Ticks).map_err(failed)?;
        topics::refuse_forgetful(&options, &witness, &topic).map_err(failed)?;
        let cluster = topics::cluster(&options, &witness).map_err(failed)?;
        let reader = options
            .client()
            .set("group.id", "pyflare")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            // That the end is reached is told so soon.
            .set("fetch.wait.max.ms", "10")
            .create_with_context(witness.clone())
            .map_err(|error| away(&topic, &meaning(&error, &topic, &options.brokers, &witness)))?;
        let log = KafkaTickLog {
            reader: Mutex::new(reader),
            identity: format!("kafka {cluster}/{topic}"),
            options,
            witness,
            topic,
            history: history.into(),
            state: Mutex::default(),
            is_waiting: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
        };
        log.read_on(&mut log.state.lock().known)?;
        Ok(Arc::new(log))
    }

    /// The cluster and the topic.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    fn damaged(&self, offset: i64, detail: impl Into<String>) -> TickLogError {
        TickLogError::Corrupt {
            path: self.topic.clone(),
            position: offset.max(0) as u64,
            detail: detail.into(),
        }
    }

    fn meaning(&self, error: &KafkaError) -> LogError {
        meaning(error, &self.topic, &self.options.brokers, &self.witness)
    }

    fn failed(&self, error: &KafkaError) -> TickLogError {
        away(&self.topic, &self.meaning(error))
    }

    /// Reads committed records from an offset to the end. What is known to be committed below `until` may not be told as such
    /// by the broker for a moment, and is waited for.
    fn visit(&self, (from, until): (i64, i64), visit: &mut VisitRecord<'_>) -> Result<(), TickLogError> {
        let consumer = self.reader.lock();
        let (first, end) = self.ends(&consumer)?;
        let from = from.max(first);
        if from >= end {
            return Ok(());
        }
        let outcome = self.visit_from(&consumer, (from, until), visit);
        let _ = consumer.unassign();
        outcome
    }

    /// The first offset, and the one after the last.
    fn ends(&self, consumer: &BaseConsumer<Witness>) -> Result<(i64, i64), TickLogError> {
        let ends = watermarks(consumer, &self.topic, 0, &self.options, &self.witness);
        let (first, end) = ends.map_err(|error| away(&self.topic, &error))?;
        Ok((first as i64, end as i64))
    }

    fn visit_from(
        &self,
        consumer: &BaseConsumer<Witness>,
        (from, until): (i64, i64),
        visit: &mut VisitRecord<'_>,
    ) -> Result<(), TickLogError> {
        let go_to = |offset: i64| {
            let mut all = TopicPartitionList::new();
            all.add_partition_offset(&self.topic, 0, Offset::Offset(offset))
                .and_then(|()| consumer.assign(&all))
                .map_err(|error| self.failed(&error))
        };
        go_to(from)?;
        let (mut next, mut heard) = (from, Instant::now());
        loop {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let offset = message.offset();
                    next = offset + 1;
                    let key = message.key().and_then(Key::decode);
                    let key = key.ok_or_else(|| self.damaged(offset, "it is not a record of a tick log"))?;
                    if key.history != self.history.as_bytes() {
                        return Err(TickLogError::Foreign {
                            path: self.topic.clone(),
                            history: String::from_utf8_lossy(key.history).into_owned(),
                        });
                    }
                    visit(offset, key, message.payload().unwrap_or_default())?;
                }
                Some(Err(KafkaError::PartitionEOF(_))) if next < until => go_to(next)?,
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.witness.answered();
                    return Ok(());
                }
                Some(Err(error)) => self.witness.heard(&error),
                None => {}
            }
            if heard.elapsed() > ANSWER {
                let trouble = self.witness.trouble(&self.options.brokers);
                return Err(away(
                    &self.topic,
                    &trouble.unwrap_or(LogError::NotTaken {
                        topic: self.topic.clone(),
                        detail: "it cannot be read".into(),
                    }),
                ));
            }
        }
    }

    /// Takes note of what was written since.
    fn read_on(&self, known: &mut Known) -> Result<(), TickLogError> {
        let from = known.read_to;
        self.visit((from, from), &mut |offset, key, _| {
            known
                .note(offset, key)
                .map_err(|detail| self.damaged(offset, detail))
        })
    }

    /// Cuts off whoever writes, and reads on to what it has left.
    fn take_over(&self, state: &mut State) -> Result<(), TickLogError> {
        state.writer = None;
        let context = Writing {
            witness: self.witness.clone(),
            put: Arc::default(),
        };
        let producer: BaseProducer<Writing> = self
            .options
            .client()
            .set(
                "transactional.id",
                format!("{}{TOPIC}", self.options.topic_prefix),
            )
            .set("transaction.timeout.ms", TRANSACTION.as_millis().to_string())
            .set("message.timeout.ms", DELIVERY.as_millis().to_string())
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("retry.backoff.ms", "10")
            .set("retry.backoff.max.ms", "200")
            .set("compression.type", "none")
            .set("allow.auto.create.topics", "false")
            .create_with_context(context)
            .map_err(|error| self.failed(&error))?;
        let since = Instant::now();
        while let Err(error) = producer.init_transactions(ANSWER) {
            if since.elapsed() > 3 * ANSWER
                || !is_retriable(&error)
                || self.is_given_up.load(Ordering::Acquire)
            {
                return Err(self.failed(&error));
            }
        }
        self.read_on(&mut state.known)?;
        state.writer = Some(producer);
        Ok(())
    }

    /// One record in one transaction.
    fn transact(
        &self,
        producer: &BaseProducer<Writing>,
        key: &[u8],
        value: &[u8],
    ) -> Result<i64, KafkaError> {
        *producer.context().put.lock() = None;
        faults::at(Step::TickAppend);
        producer.begin_transaction()?;
        let record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&self.topic).partition(0).key(key).payload(value);
        producer.send(record).map_err(|(error, _)| error)?;
        deliver(producer, DELIVERY)?;
        faults::at(Step::TickWritten);
        let since = Instant::now();
        loop {
            match producer.commit_transaction(DELIVERY) {
                Ok(()) => break,
                // To be asked again: what it comes to is decided by the broker.
                Err(error) if is_retriable(&error) && since.elapsed() < DELIVERY => {}
                Err(error) => return Err(error),
            }
        }
        faults::at(Step::TickSynced);
        self.witness.answered();
        let put = *producer.context().put.lock();
        put.ok_or(KafkaError::Canceled)
    }

    /// Appends one record, unless it is found that an attempt before has done so.
    fn append_once(
        &self,
        state: &mut State,
        kind: u8,
        generation: u64,
        position: u64,
        payload: &[u8],
    ) -> Result<(), Trouble> {
        let still_newest = |known: &Known| match (kind, known.generation) {
            (BEGINNING, newest) if newest < generation => Ok(()),
            (PAYLOAD, newest) if newest == generation => Ok(()),
            (_, newer) => Err(Trouble::Ended(TickLogError::Fenced {
                own: generation,
                newer,
            })),
        };
        if state.writer.is_none() {
            // A successor that is found by reading need not be disturbed.
            self.read_on(&mut state.known).map_err(Trouble::of)?;
            still_newest(&state.known)?;
            self.take_over(state).map_err(Trouble::of)?;
        }
        still_newest(&state.known)?;
        if kind == PAYLOAD && state.known.next == position + 1 {
            return Ok(());
        }
        let key = Key {
            kind,
            generation,
            position,
            history: self.history.as_bytes(),
        };
        let producer = state.writer.as_ref().expect("invariant: it was taken over");
        match self.transact(producer, &key.encode(), payload) {
            Ok(offset) => state
                .known
                .note(offset, key)
                .map_err(|detail| Trouble::Ended(self.damaged(offset, detail))),
            Err(error) => {
                // What became of it is read after the next take-over.
                let _ = producer.abort_transaction(COURTESY);
                state.writer = None;
                let pause = if is_fencing(&error) { GIVE_WAY } else { PAUSE };
                Err(Trouble::Again(self.meaning(&error), pause))
            }
        }
    }

    /// Appends one record, however long the brokers are away.
    fn append_record(
        &self,
        state: &mut State,
        kind: u8,
        generation: u64,
        payload: &[u8],
    ) -> Result<u64, TickLogError> {
        let position = state.known.next;
        let outcome = loop {
            match self.append_once(state, kind, generation, position, payload) {
                Ok(()) => break Ok(position),
                Err(Trouble::Ended(error)) => break Err(error),
                Err(Trouble::Again(error, _)) if self.is_given_up.load(Ordering::Acquire) => {
                    break Err(away(&self.topic, &error));
                }
                Err(Trouble::Again(error, pause)) => {
                    if !self.is_waiting.swap(true, Ordering::AcqRel) {
                        tracing::warn!(%error, "Kafka does not take the tick; time stands still until it does");
                    }
                    std::thread::sleep(pause);
                }
            }
        };
        if self.is_waiting.swap(false, Ordering::AcqRel) && outcome.is_ok() {
            tracing::info!("Kafka takes ticks again; time goes on");
        }
        outcome
    }

    /// What others have written meanwhile is known afterwards.
    fn look(&self, state: &mut State, generation: u64) -> Result<(), TickLogError> {
        if state.known.generation == generation {
            let (_, end) = self.ends(&self.reader.lock())?;
            // Behind the last record that is known stands the end of its transaction, and behind that nobody else can write
            // before it.
            if end > state.known.read_to + 1 {
                self.read_on(&mut state.known)?;
            }
        }
        match state.known.generation {
            newest if newest == generation && state.own == Some(generation) => Ok(()),
            newer => Err(TickLogError::Fenced {
                own: generation,
                newer,
            }),
        }
    }
}

fn away(topic: &str, error: &LogError) -> TickLogError {
    TickLogError::Away {
        path: topic.into(),
        source: Box::new(error.clone()),
    }
}

impl TickLog for KafkaTickLog {
    fn open_generation(&self) -> Result<u64, TickLogError> {
        let mut state = self.state.lock();
        loop {
            self.take_over(&mut state)?;
            let next = state.known.generation + 1;
            match self.append_record(&mut state, BEGINNING, next, &[]) {
                Ok(_) => {
                    state.own = Some(next);
                    faults::at(Step::GenerationBegun);
                    return Ok(next);
                }
                // Another one began meanwhile: the later comes after it.
                Err(TickLogError::Fenced { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn append(&self, generation: u64, payload: &[u8]) -> Result<u64, TickLogError> {
        let mut state = self.state.lock();
        if state.own != Some(generation) {
            return Err(TickLogError::Fenced {
                own: generation,
                newer: state.known.generation,
            });
        }
        let outcome = self.append_record(&mut state, PAYLOAD, generation, payload);
        if outcome.is_err() {
            // It may be there nevertheless, so nothing may follow that takes its position for its own.
            state.own = None;
        }
        outcome
    }

    fn read(&self, visit: &mut VisitPayload<'_>) -> Result<(), TickLogError> {
        let until = self.state.lock().known.read_to;
        let mut known = Known::default();
        self.visit((0, until), &mut |offset, key, payload| {
            known
                .note(offset, key)
                .map_err(|detail| self.damaged(offset, detail))?;
            match key.kind {
                PAYLOAD => visit(key.position, payload),
                _ => Ok(()),
            }
        })
    }

    fn check_generation(&self, generation: u64) -> Result<(), TickLogError> {
        self.look(&mut self.state.lock(), generation)
    }

    fn trim(&self, generation: u64, before: u64) -> Result<(), TickLogError> {
        let mut state = self.state.lock();
        self.look(&mut state, generation)?;
        let known = &mut state.known;
        // The newest record stays.
        let gone = before
            .saturating_sub(known.first)
            .min((known.offsets.len() as u64).saturating_sub(1));
        let Some(until) = known.offsets.get(gone as usize).copied().filter(|_| gone > 0) else {
            return Ok(());
        };
        let admin = AdminClient::from_config_and_context(&self.options.client(), self.witness.clone())
            .map_err(|error| self.failed(&error))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, Offset::Offset(until))
            .map_err(|error| self.failed(&error))?;
        let wait = AdminOptions::new().operation_timeout(Some(ANSWER));
        let deleted = block_on(admin.delete_records(&list, &wait)).map_err(|error| self.failed(&error))?;
        if let Some(Err(error)) = deleted
            .elements()
            .first()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::error)
        {
            return Err(self.failed(&error));
        }
        known.offsets.drain(..gone as usize);
        known.first += gone;
        Ok(())
    }

    fn is_new(&self) -> Result<bool, TickLogError> {
        Ok(self.state.lock().known.generation == 0)
    }

    fn waits_for(&self) -> Option<&'static str> {
        let waits = self.is_waiting.load(Ordering::Acquire);
        waits.then_some("Kafka does not take ticks; see the server's log")
    }

    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }
}
