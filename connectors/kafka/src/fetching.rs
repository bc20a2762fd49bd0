//! The thread that fetches a topic: a consumer with assigned partitions, never subscribed, each positioned where a reader
//! wants to be.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pyflare_connectors::LogError;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::buffers::PartitionBuffer;
use crate::client::Witness;
use crate::message;
use crate::reader::{ANSWER, Shared, watermarks};
use crate::topics::{missing, partitions_of};

/// The thread looks around at least this often.
const LOOK: Duration = Duration::from_millis(50);
const ASK_ENDS_EVERY: Duration = Duration::from_secs(1);
const COMMIT_EVERY: Duration = Duration::from_secs(5);
const SHORT_ANSWER: Duration = Duration::from_millis(500);
/// A broker that has just started does not know its topics yet.
const MISSING_AFTER: Duration = Duration::from_secs(30);
const OTHERS_MISSING_AFTER: Duration = Duration::from_secs(5);
/// How often a topic of others is looked after.
const LOOK_AFTER: Duration = Duration::from_secs(3);

/// The thread's side.
pub(crate) struct Fetcher {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer<Witness>>,
    /// Of the partitions known so far, and how each is fetched once somebody reads it.
    partitions: Vec<Arc<PartitionBuffer>>,
    queues: Vec<Option<PartitionQueue<Witness>>>,
    /// Bytes that each buffer takes.
    limit: usize,
    /// Since when the broker says that there is no such topic.
    missing_since: Option<Instant>,
    looked_after: Instant,
    asked_ends: Instant,
    committed: (Instant, Vec<u64>),
}

impl Fetcher {
    pub fn new(shared: Arc<Shared>, consumer: Arc<BaseConsumer<Witness>>) -> Fetcher {
        let partitions = shared.partitions.read().clone();
        let count = partitions.len();
        Fetcher {
            limit: shared.limit(),
            shared,
            consumer,
            partitions,
            queues: (0..count).map(|_| None).collect(),
            missing_since: None,
            looked_after: Instant::now(),
            asked_ends: Instant::now(),
            committed: (Instant::now(), vec![0; count]),
        }
    }

    pub fn run(mut self) {
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
                self.shared.tell();
            }
            self.ask_ends();
            self.look_after_topic();
            self.give_up_missing();
            self.commit(false);
            let mut work = self.shared.work.lock();
            if !*work {
                self.shared.waking.wait_for(&mut work, LOOK);
            }
        }
        self.commit(true);
    }

    /// Goes where a reader wants to be.
    fn position(&mut self, number: usize) {
        let wanted = self.partitions[number].state.lock().wanted;
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
            // After an offset that is not there the client fetches no more, and does not seek either.
            if self.queues[number].take().is_some() {
                let mut list = TopicPartitionList::new();
                list.add_partition(topic, number as i32);
                let _ = self.consumer.incremental_unassign(&list);
            }
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
        let mut state = self.partitions[number].state.lock();
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
            let partition = &self.partitions[number];
            if partition.state.lock().bytes >= self.limit {
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
        let record = message::record(message, &self.shared.topic.content);
        let partition = &self.partitions[number];
        let mut state = partition.state.lock();
        if state.wanted.is_some() || offset < state.next {
            return false;
        }
        state.is_answered();
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
                let mut state = self.partitions[number].state.lock();
                // What the end counted beyond the last record are marks of transactions. Of records that came after this
                // was said the broker or an acknowledgement has told.
                if state.wanted.is_none() && state.is_positioned {
                    state.end = state.next;
                    state.is_at_end = true;
                    state.is_answered();
                    drop(state);
                    self.partitions[number].arrived.notify_all();
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
            (number, _, Some(RDKafkaErrorCode::TopicAuthorizationFailed)) => {
                let numbers = number.map_or(0..self.partitions.len(), |number| number..number + 1);
                for number in numbers {
                    let detail = format!("{error}; give the user of kafka.username the right to read it");
                    self.fail(number, stop(detail));
                }
            }
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
                    "a record of partition {number} cannot be read ({error}): it is damaged, or compressed in a way that is not known (zstd, lz4, snappy and gzip are)"
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
            let mut state = self.partitions[number].state.lock();
            state.wanted = Some(state.next);
            return;
        };
        let next = self.partitions[number].state.lock().next;
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
        let partition = &self.partitions[number];
        // That of a stream's topic is told by whoever has the stream.
        if !self.shared.topic.is_of_others() {
            tracing::error!(%failure, "reading Kafka cannot go on");
        }
        let mut state = partition.state.lock();
        state.failure = Some(failure);
        state.is_tried_again = false;
        drop(state);
        partition.arrived.notify_all();
        self.shared.tell();
    }

    /// How far partitions that are behind have to go.
    fn ask_ends(&mut self) {
        if self.asked_ends.elapsed() < ASK_ENDS_EVERY {
            return;
        }
        self.asked_ends = Instant::now();
        let topic = &self.shared.topic.name;
        for (number, partition) in self.partitions.iter().enumerate() {
            if partition.state.lock().bytes < self.limit {
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

    /// Of topics that others may change: finds new partitions, tries again what could not be read, and notices when the
    /// topic is gone.
    fn look_after_topic(&mut self) {
        if !self.shared.topic.is_of_others() || self.looked_after.elapsed() < LOOK_AFTER {
            return;
        }
        self.looked_after = Instant::now();
        let name = self.shared.topic.name.clone();
        let Ok(metadata) = self.consumer.fetch_metadata(Some(&name), SHORT_ANSWER) else {
            return;
        };
        let found = metadata.topics().iter().find(|topic| topic.name() == name);
        let Some(found) = found else { return };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                self.missing_since.get_or_insert_with(Instant::now);
                return;
            }
            Some(_) => return,
        }
        self.missing_since = None;
        for _ in self.partitions.len()..found.partitions().len() {
            // It was made just now, so all that it has is to be read.
            let partition = Arc::new(PartitionBuffer::new(0, 0));
            self.partitions.push(Arc::clone(&partition));
            self.queues.push(None);
            self.committed.1.push(0);
            self.shared.partitions.write().push(partition);
            self.limit = self.shared.limit();
            self.shared.tell();
        }
        for partition in &self.partitions {
            let mut state = partition.state.lock();
            if matches!(state.failure, Some(LogError::Topic { .. })) {
                state.is_tried_again = true;
                state.wanted = Some(state.next);
            }
        }
    }

    /// The loss of a topic of others stops nothing but its stream, which goes on when the topic is back.
    fn missing_after(&self) -> Duration {
        match self.shared.topic.is_of_others() {
            true => OTHERS_MISSING_AFTER,
            false => MISSING_AFTER,
        }
    }

    fn give_up_missing(&mut self) {
        if self
            .missing_since
            .is_none_or(|since| since.elapsed() < self.missing_after())
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
                self.fail(number, missing(topic));
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
        for (number, partition) in self.partitions.iter().enumerate() {
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
