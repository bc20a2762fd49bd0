//! Reading one topic: a consumer with assigned partitions, a thread that fetches, a bounded buffer for each partition.
//!
//! Who reads says from which offset; the thread positions the partition there once, and from then on fetches ahead until
//! the buffer is full. Records stay in the buffer until a read asks for what is behind them. A read never waits for the
//! broker longer than [`SHORT_WAIT`].
//!
//! Invariant: a buffer holds every record of `base..next`, in order. Offsets of that range that are in no record are marks
//! of transactions, aborted records, or messages without a value.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{LogError, LogRecord};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::client::{Witness, missing};
use crate::message;
use crate::options::KafkaOptions;
use crate::topics::{Topic, partitions_of};

/// How long a read waits for records that are known to be there.
const SHORT_WAIT: Duration = Duration::from_millis(5);
/// The thread looks around at least this often.
const LOOK: Duration = Duration::from_millis(50);
const ASK_ENDS_EVERY: Duration = Duration::from_secs(1);
const COMMIT_EVERY: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(5);
/// A broker that has just started does not know its topics yet.
const MISSING_AFTER: Duration = Duration::from_secs(30);

pub(crate) struct TopicReader {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    topic: Topic,
    options: KafkaOptions,
    witness: Witness,
    partitions: Vec<PartitionBuffer>,
    listeners: Arc<RwLock<Vec<AppendListener>>>,
    /// Something for the thread to do.
    work: Mutex<bool>,
    wake: Condvar,
    stop: AtomicBool,
}

struct PartitionBuffer {
    state: Mutex<Buffer>,
    arrived: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Buffer {
    /// The first offset that a record in the buffer may have.
    base: u64,
    /// The offset after the last record that was fetched.
    next: u64,
    records: VecDeque<(u64, LogRecord)>,
    bytes: usize,
    /// The end as the broker tells it, marks of transactions included.
    end: u64,
    /// The offset after the newest record of ours that the broker has acknowledged.
    acknowledged: u64,
    /// Where the thread is to go.
    wanted: Option<u64>,
    is_positioned: bool,
    /// Stays until the log is opened again: nothing is passed over.
    failure: Option<LogError>,
}

impl Buffer {
    fn end(&self) -> u64 {
        self.end.max(self.acknowledged).max(self.next)
    }

    /// Stands at an offset: within the buffer, or where the thread goes next.
    fn go_to(&mut self, offset: u64) {
        let is_here =
            (self.is_positioned || self.wanted.is_some()) && (self.base..=self.next).contains(&offset);
        if is_here {
            self.forget_below(offset);
        } else {
            self.records.clear();
            (self.bytes, self.base, self.next) = (0, offset, offset);
            self.wanted = Some(offset);
        }
    }

    fn forget_below(&mut self, offset: u64) {
        while self.records.front().is_some_and(|(at, _)| *at < offset) {
            if let Some((_, record)) = self.records.pop_front() {
                self.bytes -= record.body.len();
            }
        }
        self.base = offset;
    }
}

impl TopicReader {
    /// Asks for the ends of all partitions, and begins to fetch once somebody reads.
    pub fn open(
        topic: Topic,
        options: &KafkaOptions,
        witness: &Witness,
        listeners: Arc<RwLock<Vec<AppendListener>>>,
    ) -> Result<TopicReader, LogError> {
        let limit = options.read_ahead_bytes / topic.partitions.max(1) as usize;
        let mut config = options.client();
        config
            .set("group.id", "pyflare")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("allow.auto.create.topics", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.message.max.bytes", (4 << 20).to_string())
            .set("queued.max.messages.kbytes", (limit >> 10).max(1_024).to_string());
        let consumer: BaseConsumer<Witness> =
            config
                .create_with_context(witness.clone())
                .map_err(|error| LogError::Settings {
                    detail: error.to_string(),
                })?;
        let mut partitions = Vec::new();
        for number in 0..topic.partitions {
            let (_, end) = watermarks(&consumer, &topic.name, number, options, witness)?;
            partitions.push(PartitionBuffer {
                state: Mutex::new(Buffer {
                    end,
                    ..Buffer::default()
                }),
                arrived: Condvar::new(),
                limit,
            });
        }
        let shared = Arc::new(Shared {
            options: options.clone(),
            witness: witness.clone(),
            partitions,
            listeners,
            work: Mutex::new(false),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            topic,
        });
        let fetcher = Fetcher::new(Arc::clone(&shared), Arc::new(consumer));
        let thread = std::thread::Builder::new()
            .name(format!("kafka-{}", shared.topic.signal))
            .spawn(move || fetcher.run())
            .map_err(|error| LogError::Settings {
                detail: format!("no thread for reading: {error}"),
            })?;
        Ok(TopicReader {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub fn topic(&self) -> &Topic {
        &self.shared.topic
    }

    pub fn end_offset(&self, partition: u32) -> u64 {
        let partition = self.shared.partitions.get(partition as usize);
        partition.map_or(0, |partition| partition.state.lock().end())
    }

    /// A record of ours is durable at `offset`.
    pub fn acknowledged(&self, partition: u32, offset: u64) {
        if let Some(partition) = self.shared.partitions.get(partition as usize) {
            let mut state = partition.state.lock();
            state.acknowledged = state.acknowledged.max(offset + 1);
        }
    }

    /// Fetches from `offset` on as records come.
    pub fn follow(&self, partition: u32, offset: u64) {
        if let Some(partition) = self.shared.partitions.get(partition as usize) {
            partition.state.lock().go_to(offset);
            self.shared.wake();
        }
    }

    pub fn failure(&self) -> Option<LogError> {
        let partitions = self.shared.partitions.iter();
        partitions
            .filter_map(|partition| partition.state.lock().failure.clone())
            .next()
    }

    pub fn read(
        &self,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        let Some(buffer) = self.shared.partitions.get(partition as usize) else {
            return Err(LogError::Topic {
                topic: self.shared.topic.name.clone(),
                detail: format!("it has no partition {partition}"),
            });
        };
        let mut state = buffer.state.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if offset >= state.end() {
            return Ok(Vec::new());
        }
        state.go_to(offset);
        self.shared.wake();
        if state.records.is_empty() {
            buffer.arrived.wait_for(&mut state, SHORT_WAIT);
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for (at, record) in &state.records {
            bytes += record.body.len();
            if !taken.is_empty() && bytes > max_bytes {
                break;
            }
            taken.push((*at, record.clone()));
        }
        Ok(taken)
    }

    pub fn close(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads Kafka had panicked");
        }
    }
}

impl Drop for TopicReader {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn wake(&self) {
        *self.work.lock() = true;
        self.wake.notify_one();
    }
}

/// The first offset that is kept and the end, of one partition.
pub(crate) fn watermarks(
    consumer: &BaseConsumer<Witness>,
    topic: &str,
    partition: u32,
    options: &KafkaOptions,
    witness: &Witness,
) -> Result<(u64, u64), LogError> {
    let since = Instant::now();
    loop {
        match consumer.fetch_watermarks(topic, partition as i32, ANSWER) {
            Ok((first, end)) => return Ok((first.max(0) as u64, end.max(0) as u64)),
            // A broker that has just started is not the leader of everything yet.
            Err(_) if since.elapsed() < ANSWER => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(crate::client::meaning(&error, topic, &options.brokers, witness)),
        }
    }
}

/// The thread's side.
struct Fetcher {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer<Witness>>,
    queues: Vec<Option<PartitionQueue<Witness>>>,
    /// Since when the broker says that there is no such topic.
    missing_since: Option<Instant>,
    asked_ends: Instant,
    committed: (Instant, Vec<u64>),
}

impl Fetcher {
    fn new(shared: Arc<Shared>, consumer: Arc<BaseConsumer<Witness>>) -> Fetcher {
        let count = shared.partitions.len();
        Fetcher {
            shared,
            consumer,
            queues: (0..count).map(|_| None).collect(),
            missing_since: None,
            asked_ends: Instant::now(),
            committed: (Instant::now(), vec![0; count]),
        }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            *self.shared.work.lock() = false;
            // Errors of the connection are heard here; records come through the partitions' own queues.
            while let Some(event) = self.consumer.poll(Duration::ZERO) {
                match event {
                    Ok(message) => {
                        self.keep(message.partition() as usize, &message);
                    }
                    Err(error) => self.note(None, &error),
                }
            }
            let mut has_new = false;
            for number in 0..self.queues.len() {
                self.position(number);
                has_new |= self.fetch(number);
            }
            if has_new {
                self.shared.witness.answered();
                self.missing_since = None;
                for listener in self.shared.listeners.read().iter() {
                    listener();
                }
            }
            self.ask_ends();
            self.give_up_missing();
            self.commit(false);
            let mut work = self.shared.work.lock();
            if !*work {
                self.shared.wake.wait_for(&mut work, LOOK);
            }
        }
        self.commit(true);
    }

    /// Goes where a reader wants to be.
    fn position(&mut self, number: usize) {
        let wanted = self.shared.partitions[number].state.lock().wanted;
        let Some(offset) = wanted else { return };
        let topic = &self.shared.topic.name;
        let target = Offset::Offset(offset as i64);
        let moved = match &self.queues[number] {
            Some(_) => self.consumer.seek(topic, number as i32, target, ANSWER),
            None => {
                let mut list = TopicPartitionList::new();
                list.add_partition_offset(topic, number as i32, target)
                    .and_then(|()| self.consumer.incremental_assign(&list))
            }
        };
        if let Err(error) = moved {
            tracing::debug!(%error, topic, number, offset, "cannot be positioned yet");
            return;
        }
        if self.queues[number].is_none() {
            let mut queue = self.consumer.split_partition_queue(topic, number as i32);
            let shared = Arc::clone(&self.shared);
            if let Some(queue) = &mut queue {
                queue.set_nonempty_callback(move || shared.wake());
            }
            self.queues[number] = queue;
        }
        let mut state = self.shared.partitions[number].state.lock();
        // Somebody may want to be elsewhere by now.
        if state.wanted == Some(offset) {
            state.wanted = None;
            state.is_positioned = true;
        }
    }

    /// Moves what has come into the buffer while there is room; whether there was anything.
    fn fetch(&mut self, number: usize) -> bool {
        let mut has_new = false;
        loop {
            let partition = &self.shared.partitions[number];
            if partition.state.lock().bytes >= partition.limit {
                return has_new;
            }
            let event = match &self.queues[number] {
                Some(queue) => queue.poll(Duration::ZERO),
                None => None,
            };
            match event {
                Some(Ok(message)) => has_new |= self.keep(number, &message),
                Some(Err(error)) => {
                    let error = error.clone();
                    self.note(Some(number), &error);
                }
                None => return has_new,
            }
        }
    }

    fn keep(&self, number: usize, message: &BorrowedMessage<'_>) -> bool {
        let offset = message.offset().max(0) as u64;
        let record = message::record(message, self.shared.topic.signal);
        let partition = &self.shared.partitions[number];
        let mut state = partition.state.lock();
        if state.wanted.is_some() || offset < state.next {
            return false;
        }
        let Some(record) = record else { return false };
        state.bytes += record.body.len();
        state.records.push_back((offset, record));
        state.next = offset + 1;
        drop(state);
        partition.arrived.notify_all();
        true
    }

    fn note(&mut self, number: Option<usize>, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        let topic = self.shared.topic.name.clone();
        let stop = |detail: String| LogError::Topic {
            topic: topic.clone(),
            detail,
        };
        match (number, error, code) {
            (Some(number), KafkaError::PartitionEOF(_), _) => {
                self.shared.witness.answered();
                self.missing_since = None;
                let mut state = self.shared.partitions[number].state.lock();
                // What the end counted beyond the last record are marks of transactions. Of records that came after this
                // was said the broker or an acknowledgement has told.
                if state.wanted.is_none() && state.is_positioned {
                    state.end = state.next;
                }
            }
            (Some(number), _, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)) => {
                self.out_of_range(number);
            }
            (
                _,
                _,
                Some(
                    RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownPartition,
                ),
            ) => {
                self.missing_since.get_or_insert_with(Instant::now);
            }
            (Some(number), _, Some(RDKafkaErrorCode::TopicAuthorizationFailed)) => self.fail(
                number,
                stop(format!("{error}; give the user of kafka.username the right to read it")),
            ),
            (
                Some(number),
                _,
                Some(
                    RDKafkaErrorCode::BadCompression
                    | RDKafkaErrorCode::NotImplemented
                    | RDKafkaErrorCode::BadMessage,
                ),
            ) => self.fail(
                number,
                stop(format!(
                    "a record of partition {number} cannot be read ({error}); its producers may use lz4, snappy, gzip or no compression, and not zstd"
                )),
            ),
            _ => tracing::debug!(%error, topic, "Kafka"),
        }
    }

    /// The broker does not have the offset that is wanted next: says which range is missing.
    fn out_of_range(&mut self, number: usize) {
        let Shared {
            topic,
            options,
            witness,
            ..
        } = &*self.shared;
        let Ok((first, end)) = watermarks(&self.consumer, &topic.name, number as u32, options, witness)
        else {
            // The position is taken anew, and so is the answer.
            let mut state = self.shared.partitions[number].state.lock();
            state.wanted = Some(state.next);
            return;
        };
        let next = self.shared.partitions[number].state.lock().next;
        let partition = number as u32;
        let failure = match next < first {
            true => LogError::Trimmed {
                topic: topic.name.clone(),
                partition,
                offset: next,
                first,
            },
            false => LogError::EndMissing {
                topic: topic.name.clone(),
                partition,
                end,
            },
        };
        self.fail(number, failure);
    }

    fn fail(&self, number: usize, failure: LogError) {
        let partition = &self.shared.partitions[number];
        tracing::error!(%failure, "reading Kafka cannot go on");
        partition.state.lock().failure = Some(failure);
        partition.arrived.notify_all();
        for listener in self.shared.listeners.read().iter() {
            listener();
        }
    }

    /// How far partitions that are behind have to go.
    fn ask_ends(&mut self) {
        if self.asked_ends.elapsed() < ASK_ENDS_EVERY {
            return;
        }
        self.asked_ends = Instant::now();
        let topic = &self.shared.topic.name;
        for (number, partition) in self.shared.partitions.iter().enumerate() {
            if partition.state.lock().bytes < partition.limit {
                continue;
            }
            let asked = self
                .consumer
                .fetch_watermarks(topic, number as i32, Duration::from_millis(500));
            if let Ok((_, end)) = asked {
                let mut state = partition.state.lock();
                state.end = state.end.max(end.max(0) as u64);
            }
        }
    }

    fn give_up_missing(&mut self) {
        if self
            .missing_since
            .is_none_or(|since| since.elapsed() < MISSING_AFTER)
        {
            return;
        }
        let Shared {
            topic,
            options,
            witness,
            ..
        } = &*self.shared;
        self.missing_since = None;
        if let Ok(None) = partitions_of(&self.consumer, &topic.name, options, witness) {
            for number in 0..self.queues.len() {
                self.fail(number, missing(&topic.name));
            }
        }
    }

    /// Tells the broker how far reading is, for those who look there; nothing here depends on it.
    fn commit(&mut self, last: bool) {
        let (at, told) = &mut self.committed;
        if !last && at.elapsed() < COMMIT_EVERY {
            return;
        }
        *at = Instant::now();
        let mut list = TopicPartitionList::new();
        for (number, partition) in self.shared.partitions.iter().enumerate() {
            let base = partition.state.lock().base;
            if base > told[number] && self.queues[number].is_some() {
                told[number] = base;
                let offset = Offset::Offset(base as i64);
                let _ = list.add_partition_offset(&self.shared.topic.name, number as i32, offset);
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "offsets are not told");
        }
    }
}
