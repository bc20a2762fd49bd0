//! A broker in memory, which outlives the engines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{
    Appended, ContentType, Feed, FeedOptions, FeedStart, Log, LogError, LogRecord, Signal,
};

/// Of a partition, by offset; `None`: no message has this offset.
pub type Messages = Vec<Option<Message>>;

#[derive(Clone)]
pub struct Message {
    pub body: Bytes,
    pub content_type: ContentType,
    pub sent_us: i64,
}

/// The topics of a broker.
#[derive(Clone, Default)]
pub struct Broker {
    pub topics: Arc<Mutex<BTreeMap<String, Vec<Messages>>>>,
    pub refuses: Arc<AtomicBool>,
    /// The first offset that is kept of partition 0.
    pub first: Arc<AtomicU64>,
    /// Reads so far; every third finds nothing at hand.
    pub reads: Arc<AtomicU32>,
    pub listeners: Arc<Mutex<Vec<AppendListener>>>,
}

impl Broker {
    pub fn send(&self, topic: &str, partition: usize, message: Option<Message>) {
        self.topics.lock().get_mut(topic).unwrap()[partition].push(message);
        for listener in self.listeners.lock().iter() {
            listener();
        }
    }

    pub fn failure(&self, topic: &str) -> Option<LogError> {
        let error = |detail: &str| LogError::Topic {
            topic: topic.into(),
            detail: detail.into(),
        };
        if self.refuses.load(Ordering::Acquire) {
            return Some(error("refused"));
        }
        (!self.topics.lock().contains_key(topic)).then(|| error("it is missing"))
    }
}

/// The embedded log with topics of others beside it.
pub struct FedLog {
    pub own: Arc<dyn Log>,
    pub broker: Broker,
}

pub struct Reading {
    pub topic: FeedOptions,
    pub broker: Broker,
    /// What was asked for and is deleted.
    deleted: Mutex<Option<LogError>>,
    stopped: AtomicBool,
}

impl Reading {
    fn of<T>(&self, partition: u32, get: impl FnOnce(&Messages) -> T) -> Option<T> {
        let topics = self.broker.topics.lock();
        let partitions = topics.get(&*self.topic.topic)?;
        partitions.get(partition as usize).map(get)
    }
}

impl Feed for Reading {
    fn partitions(&self) -> u32 {
        let topics = self.broker.topics.lock();
        topics
            .get(&*self.topic.topic)
            .map_or(0, |found| found.len() as u32)
    }

    fn starts(&self, start: FeedStart) -> Result<Vec<u64>, LogError> {
        let end = |partition| self.end_offset(partition);
        Ok((0..self.partitions())
            .map(|partition| match start {
                FeedStart::Latest => end(partition),
                _ => 0,
            })
            .collect())
    }

    fn first_offset(&self, _partition: u32) -> u64 {
        0
    }

    fn end_offset(&self, partition: u32) -> u64 {
        self.of(partition, |messages| {
            let last = messages.iter().rposition(Option::is_some);
            last.map_or(0, |last| last as u64 + 1)
        })
        .unwrap_or(0)
    }

    fn read(&self, partition: u32, offset: u64, max_bytes: usize) -> Result<Vec<(u64, LogRecord)>, LogError> {
        assert!(!self.stopped.load(Ordering::Acquire), "read after its end");
        self.follow(partition, offset);
        let first = self.broker.first.load(Ordering::Acquire);
        if partition == 0 && offset < first {
            *self.deleted.lock() = Some(LogError::Trimmed {
                topic: self.topic.topic.to_string(),
                partition,
                offset,
                first,
            });
        }
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let number = self.broker.reads.fetch_add(1, Ordering::Relaxed);
        if number % 3 == 1 {
            return Ok(Vec::new());
        }
        let at_hand = 1 + number as usize % 4;
        let read = self.of(partition, |messages| {
            let from = messages.iter().enumerate().skip(offset as usize);
            let found = from.filter_map(|(at, message)| Some((at as u64, message.clone()?)));
            let mut bytes = 0;
            found
                .take(at_hand)
                .take_while(|(_, message)| {
                    let fits = bytes == 0 || bytes + message.body.len() <= max_bytes;
                    bytes += message.body.len();
                    fits
                })
                .map(|(at, message)| {
                    let record = LogRecord {
                        project: Arc::clone(&self.topic.project),
                        signal: Signal::Streams,
                        stream: Some(Arc::clone(&self.topic.stream)),
                        content_type: message.content_type,
                        received_us: message.sent_us,
                        body_hash: 0,
                        body: message.body,
                    };
                    (at, record)
                })
                .collect()
        });
        Ok(read.unwrap_or_default())
    }

    fn follow(&self, partition: u32, offset: u64) {
        if partition == 0 && offset >= self.broker.first.load(Ordering::Acquire) {
            *self.deleted.lock() = None;
        }
    }

    fn failure(&self) -> Option<LogError> {
        let failure = self.broker.failure(&self.topic.topic);
        failure.or_else(|| self.deleted.lock().clone())
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Log for FedLog {
    fn partitions(&self, signal: Signal) -> u32 {
        self.own.partitions(signal)
    }

    async fn append(&self, record: LogRecord) -> Result<Appended, LogError> {
        self.own.append(record).await
    }

    fn end_offset(&self, signal: Signal, partition: u32) -> u64 {
        self.own.end_offset(signal, partition)
    }

    fn read(
        &self,
        signal: Signal,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        self.own.read(signal, partition, offset, max_bytes)
    }

    fn feed(&self, wanted: &FeedOptions) -> Result<Arc<dyn Feed>, LogError> {
        match self.broker.failure(&wanted.topic) {
            Some(failure) => Err(failure),
            None => Ok(Arc::new(Reading {
                topic: wanted.clone(),
                broker: self.broker.clone(),
                deleted: Mutex::new(None),
                stopped: AtomicBool::new(false),
            })),
        }
    }

    fn on_append(&self, listener: AppendListener) {
        self.broker.listeners.lock().push(Arc::clone(&listener));
        self.own.on_append(listener);
    }

    fn usage(&self) -> Option<(u64, u64)> {
        self.own.usage()
    }

    fn trim(&self, signal: Signal, partition: u32, offset: u64) -> Result<(), LogError> {
        self.own.trim(signal, partition, offset)
    }
}
