//! What is admitted from: the log's own topics, and those that others write, one for each stream declared over one.
//!
//! A topic of others that cannot be read stands still and is visible on its stream; nothing else waits for it. Only a
//! replay that needs its messages stops.

use std::sync::Arc;

use pyflare_connectors::{Feed, FeedOptions, FeedStart, Log, LogError, LogRecord, Signal};
use pyflare_operators::streams::{StreamDefinition, TopicStart};

/// Where the records of a partition are.
#[derive(Clone)]
pub(crate) enum Topic {
    Own(Arc<dyn Log>, Signal),
    /// Of one stream.
    Others(Arc<dyn Feed>),
    /// Such a topic, which cannot be opened.
    Absent(LogError),
}

impl Topic {
    /// The offset after the last record that is known to be there.
    pub fn end_offset(&self, partition: u32) -> u64 {
        match self {
            Topic::Own(log, signal) => log.end_offset(*signal, partition),
            Topic::Others(feed) => feed.end_offset(partition),
            Topic::Absent(_) => 0,
        }
    }

    pub fn read(
        &self,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        match self {
            Topic::Own(log, signal) => log.read(*signal, partition, offset, max_bytes),
            Topic::Others(feed) => feed.read(partition, offset, max_bytes),
            Topic::Absent(error) => Err(error.clone()),
        }
    }

    /// What comes from now on is wanted.
    pub fn follow(&self, partition: u32, offset: u64) {
        match self {
            Topic::Own(log, signal) => log.follow(*signal, partition, offset),
            Topic::Others(feed) => feed.follow(partition, offset),
            Topic::Absent(_) => {}
        }
    }

    pub fn failure(&self) -> Option<LogError> {
        match self {
            Topic::Own(..) => None,
            Topic::Others(feed) => feed.failure(),
            Topic::Absent(error) => Some(error.clone()),
        }
    }

    pub fn stop(&self) {
        if let Topic::Others(feed) = self {
            feed.stop();
        }
    }
}

/// The topic of a stream that was declared over one, and where reading it began.
#[derive(Clone)]
pub(crate) struct Feeding {
    pub topic: Topic,
    /// By partition. Part of the command that declares the stream, so that a replay begins there.
    pub starts: Vec<u64>,
}

impl Feeding {
    /// For a stream that is being declared. Waits for brokers; `None`: its rows are sent to the server.
    pub fn open(log: &dyn Log, definition: &StreamDefinition) -> Result<Option<Feeding>, LogError> {
        let Some(topic) = &definition.topic else {
            return Ok(None);
        };
        let feed = log.feed(&options(definition, &topic.name))?;
        let starts = feed.starts(match topic.start {
            TopicStart::Earliest => FeedStart::Earliest,
            TopicStart::Latest => FeedStart::Latest,
            TopicStart::Time(time_us) => FeedStart::Time(time_us),
        })?;
        let topic = Topic::Others(feed);
        Ok(Some(Feeding { topic, starts }))
    }

    /// For a stream that was declared before. A topic that cannot be read is no reason not to start.
    pub fn reopen(log: &dyn Log, definition: &StreamDefinition, starts: Vec<u64>) -> Option<Feeding> {
        let topic = definition.topic.as_ref()?;
        let topic = match log.feed(&options(definition, &topic.name)) {
            Ok(feed) => Topic::Others(feed),
            Err(error) => Topic::Absent(error),
        };
        Some(Feeding { topic, starts })
    }
}

fn options(definition: &StreamDefinition, topic: &str) -> FeedOptions {
    FeedOptions {
        project: definition.project.as_str().into(),
        stream: definition.name.as_str().into(),
        topic: topic.into(),
    }
}
