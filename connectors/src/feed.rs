//! Topics that others write and of which every message is rows of one declared stream.
//!
//! Invariants every implementation keeps:
//! - a message is named by (partition, offset) for ever; offsets grow and may leave some out;
//! - the content type of a message is a function of its bytes;
//! - [`Feed::read`] returns messages in order and passes over none, and never waits: what is still on its way comes later;
//! - partitions are numbered from 0 and only ever become more.

use std::sync::Arc;

use crate::{LogError, LogRecord};

/// What is read, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedOptions {
    /// The project and the stream that its rows belong to.
    pub project: Arc<str>,
    pub stream: Arc<str>,
    pub topic: Arc<str>,
}

/// Where reading a topic begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedStart {
    /// With the oldest message that is kept.
    Earliest,
    /// With the first message that comes from now on.
    Latest,
    /// With the first message that is not older than this, microseconds since the Unix epoch.
    Time(i64),
}

/// A topic of somebody else's, read by offset.
pub trait Feed: Send + Sync + 'static {
    /// How many partitions are known by now.
    fn partitions(&self) -> u32;

    /// The offset of every partition at which reading begins.
    fn starts(&self, start: FeedStart) -> Result<Vec<u64>, LogError>;

    /// The first offset that was kept when the partition became known.
    fn first_offset(&self, partition: u32) -> u64;

    /// The offset after the last message that is known to be there.
    fn end_offset(&self, partition: u32) -> u64;

    /// The messages at hand from `offset` on, until `max_bytes` of bodies are exceeded.
    fn read(&self, partition: u32, offset: u64, max_bytes: usize) -> Result<Vec<(u64, LogRecord)>, LogError>;

    /// Somebody will read the partition from `offset` on.
    fn follow(&self, partition: u32, offset: u64);

    /// Why nothing more can be read for now.
    fn failure(&self) -> Option<LogError>;

    /// Nobody reads any more. Returns at once.
    fn stop(&self);
}
