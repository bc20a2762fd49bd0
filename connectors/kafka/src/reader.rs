//! Reading one topic: bounded buffers, one for each partition, that a thread fills.
//!
//! Who reads says from which offset; the thread ([`crate::fetching`]) positions the partition there once, and from then
//! on fetches ahead until the buffer is full. Records stay in the buffer until a read asks for what is behind them. A
//! read waits for the broker as long as its caller says and no longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{LogError, LogRecord};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::buffers::PartitionBuffer;
use crate::client::Witness;
use crate::fetching::Fetcher;
use crate::options::KafkaOptions;
use crate::topics::Topic;

pub(crate) const ANSWER: Duration = Duration::from_secs(5);

pub(crate) struct TopicReader {
    pub shared: Arc<Shared>,
    pub consumer: Arc<BaseConsumer<Witness>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What readers and the thread share.
pub(crate) struct Shared {
    pub topic: Topic,
    pub options: KafkaOptions,
    pub witness: Witness,
    /// They only become more.
    pub partitions: RwLock<Vec<Arc<PartitionBuffer>>>,
    pub listeners: Arc<RwLock<Vec<AppendListener>>>,
    /// Something for the thread to do.
    pub work: Mutex<bool>,
    pub waking: Condvar,
    pub stop: AtomicBool,
}

impl TopicReader {
    /// Asks for the ends of all partitions, and begins to fetch once somebody reads.
    pub fn open(
        topic: Topic,
        options: &KafkaOptions,
        witness: &Witness,
        listeners: Arc<RwLock<Vec<AppendListener>>>,
    ) -> Result<TopicReader, LogError> {
        let mut config = consuming(options, topic.partitions);
        if topic.is_of_others() {
            // A partition that the client does not know is not fetched.
            config.set("topic.metadata.refresh.interval.ms", "3000");
        }
        let consumer: BaseConsumer<Witness> =
            config
                .create_with_context(witness.clone())
                .map_err(|error| LogError::Settings {
                    detail: error.to_string(),
                })?;
        let mut partitions = Vec::new();
        for number in 0..topic.partitions {
            let (first, end) = watermarks(&consumer, &topic.name, number, options, witness)?;
            partitions.push(Arc::new(PartitionBuffer::new(first, end)));
        }
        let shared = Arc::new(Shared {
            options: options.clone(),
            witness: witness.clone(),
            partitions: RwLock::new(partitions),
            listeners,
            work: Mutex::new(false),
            waking: Condvar::new(),
            stop: AtomicBool::new(false),
            topic,
        });
        let consumer = Arc::new(consumer);
        let fetcher = Fetcher::new(Arc::clone(&shared), Arc::clone(&consumer));
        let thread = std::thread::Builder::new()
            .name(format!("kafka-{}", shared.topic.content.thread_name()))
            .spawn(move || fetcher.run())
            .map_err(|error| LogError::Settings {
                detail: format!("no thread for reading: {error}"),
            })?;
        Ok(TopicReader {
            shared,
            consumer,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub fn topic(&self) -> &Topic {
        &self.shared.topic
    }

    fn partition(&self, number: u32) -> Option<Arc<PartitionBuffer>> {
        let partitions = self.shared.partitions.read();
        partitions.get(number as usize).cloned()
    }

    pub fn end_offset(&self, partition: u32) -> u64 {
        let partition = self.partition(partition);
        partition.map_or(0, |partition| partition.state.lock().end())
    }

    /// A record of ours is durable at `offset`.
    pub fn acknowledged(&self, partition: u32, offset: u64) {
        if let Some(partition) = self.partition(partition) {
            let mut state = partition.state.lock();
            state.acknowledged = state.acknowledged.max(offset + 1);
        }
    }

    /// Fetches from `offset` on as records come.
    pub fn follow(&self, partition: u32, offset: u64) {
        if let Some(partition) = self.partition(partition) {
            let mut state = partition.state.lock();
            state.passes_over(offset);
            state.go_to(offset);
            drop(state);
            self.shared.wake();
        }
    }

    pub fn failure(&self) -> Option<LogError> {
        let partitions = self.shared.partitions.read();
        partitions
            .iter()
            .find_map(|partition| partition.state.lock().failure.clone())
    }

    /// Whether a partition that is followed can be read: something has come of it, or there is nothing.
    pub fn await_answer(&self, partition: u32) -> Result<(), LogError> {
        let Some(partition) = self.partition(partition) else {
            return Ok(());
        };
        let since = Instant::now();
        let mut state = partition.state.lock();
        while since.elapsed() < ANSWER {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.is_at_end || !state.records.is_empty() {
                break;
            }
            partition.arrived.wait_for(&mut state, Duration::from_millis(50));
        }
        Ok(())
    }

    /// Records from `offset` on; waits until `patience` is over for some that are known to be there.
    pub fn read(
        &self,
        partition: u32,
        offset: u64,
        max_bytes: usize,
        patience: Duration,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        let Some(buffer) = self.partition(partition) else {
            return Err(LogError::Topic {
                topic: self.shared.topic.name.clone(),
                detail: format!("it has no partition {partition}"),
            });
        };
        let mut state = buffer.state.lock();
        state.passes_over(offset);
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if offset >= state.end() {
            return Ok(Vec::new());
        }
        state.go_to(offset);
        self.shared.wake();
        if state.records.is_empty() && !patience.is_zero() {
            buffer.arrived.wait_for(&mut state, patience);
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

    /// Nothing more is wanted; the thread ends soon.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.lock().as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub fn close(&self) {
        self.stop();
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
    pub fn wake(&self) {
        *self.work.lock() = true;
        self.waking.notify_one();
    }

    pub fn tell(&self) {
        for listener in self.listeners.read().iter() {
            listener();
        }
    }

    /// Bytes that a partition's buffer takes.
    pub fn limit(&self) -> usize {
        limit(&self.options, self.partitions.read().len())
    }
}

fn limit(options: &KafkaOptions, partitions: usize) -> usize {
    options.read_ahead_bytes / partitions.max(1)
}

/// How a consumer of a topic is set up.
fn consuming(options: &KafkaOptions, partitions: u32) -> ClientConfig {
    let limit = limit(options, partitions as usize);
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
    config
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
