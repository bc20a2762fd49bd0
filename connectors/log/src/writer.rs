//! The writer thread of a partition: group commit.
//!
//! It takes everything that waits, compresses and encodes it into one aligned buffer, writes it with one write, makes it
//! durable with one `fdatasync`, and wakes all callers. While the disk works, the next group gathers: the
//! slower the disk, the larger the groups.
//!
//! Invariants: a caller hears of success only after `fdatasync`; after a failed write or `fdatasync` nothing
//! of that file's later bytes is trusted again: the segment ends at its last durable record and a new one
//! begins, so that what was acknowledged stays readable and the log goes on when the disk does; a segment of another
//! process is never written to, and a process that was taken over tells nobody of success ([`crate::owner`]).

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use pyflare_connectors::faults::{self, Fault, Step};
use pyflare_connectors::{Appended, LogError, LogRecord};

use crate::block_buffer::{BLOCK, BlockBuffer};
use crate::compression::{Packer, StoredBody};
use crate::partition::{Partition, Pending, SegmentEntry};
use crate::record::{encode, encoded_len};
use crate::segment::{ActiveSegment, FIRST_RECORD, InheritedSegment, SegmentHeader};
use crate::tail::SparseIndex;

/// A commit is closed when it has this many bytes.
const COMMIT_BYTES: usize = 16 << 20;
/// An idle writer keeps this much of its buffer.
const IDLE_BUFFER_BYTES: usize = 1 << 20;
const IDLE: Duration = Duration::from_secs(5);

pub(crate) struct Writer {
    partition: Arc<Partition>,
    active: Option<ActiveSegment>,
    /// Until the first append.
    inherited: Option<InheritedSegment>,
    /// Begins at the block that holds the end of the durable records.
    buffer: BlockBuffer,
    /// What is in the buffer and not yet durable, with its position in the segment.
    group: Vec<(u64, Pending)>,
}

impl Writer {
    pub(crate) fn new(partition: Arc<Partition>, inherited: Option<InheritedSegment>) -> Writer {
        Writer {
            partition,
            active: None,
            inherited,
            buffer: BlockBuffer::default(),
            group: Vec::new(),
        }
    }

    /// Runs until the partition is closed and its queue is empty.
    pub(crate) fn run(mut self, mut packer: Packer) {
        let partition = Arc::clone(&self.partition);
        let _guard = FailureGuard(Arc::clone(&partition));
        loop {
            let waiting = {
                let mut queue = partition.queue.lock();
                while queue.waiting.is_empty() && !queue.closed && !partition.is_sealing() {
                    if partition.wake.wait_for(&mut queue, IDLE).timed_out() {
                        self.buffer.shrink(IDLE_BUFFER_BYTES);
                        packer.shrink(IDLE_BUFFER_BYTES);
                    }
                }
                if queue.waiting.is_empty() && queue.closed {
                    break;
                }
                mem::take(&mut queue.waiting)
            };
            if partition.take_sealing() && self.holds_records() {
                self.commit();
                self.roll();
                if let Err(error) = self.begin_segment() {
                    tracing::warn!(%error, "no new log segment could be begun; the next record tries it again");
                }
            }
            for pending in waiting {
                match self.place(&pending.record, packer.pack(&pending.record.body)) {
                    Ok(position) => self.group.push((position, pending)),
                    Err(error) => {
                        pending.fail(error.clone());
                        if matches!(error, LogError::TakenOver { .. }) {
                            partition.fail(error);
                        }
                    }
                }
                if self.buffer.len() >= COMMIT_BYTES {
                    self.commit();
                }
            }
            self.commit();
        }
        if let Some(mut active) = self.active.take()
            && let Err(error) = active.seal(&partition.budget)
        {
            tracing::warn!(%error, "could not give back the unused end of a log segment");
        }
    }

    /// Position in the segment where the buffer begins.
    fn buffer_start(active: &ActiveSegment) -> u64 {
        active.position - active.position % BLOCK as u64
    }

    /// Encodes a record into the buffer, rolling to a new segment if the active one is full.
    fn place(&mut self, record: &LogRecord, body: StoredBody<'_>) -> Result<u64, LogError> {
        let bytes = encoded_len(record, body) as u64;
        let end = |writer: &Writer, active: &ActiveSegment| {
            Writer::buffer_start(active) + writer.buffer.len() as u64
        };
        if let Some(active) = &self.active {
            let at = end(self, active);
            if at > FIRST_RECORD && at + bytes > self.partition.segment_bytes {
                self.commit();
                self.roll();
            }
        }
        match self.allocate(bytes) {
            // The file cannot grow, though there is room: perhaps another one can.
            Err(LogError::Io { .. }) if self.holds_records() => {
                self.commit();
                self.roll();
                self.allocate(bytes)?;
            }
            outcome => outcome?,
        }
        let Some(active) = &self.active else {
            return Err(LogError::Closed);
        };
        let position = end(self, active);
        let offset = self.partition.end() + self.group.len() as u64;
        encode(
            record,
            body,
            offset,
            active.position,
            active.header.salt,
            &mut self.buffer,
        );
        Ok(position)
    }

    fn holds_records(&self) -> bool {
        let end = |active| Writer::buffer_start(active) + self.buffer.len() as u64;
        self.active
            .as_ref()
            .is_some_and(|active| end(active) > FIRST_RECORD)
    }

    /// Makes sure that there is an active segment with room for `bytes` more.
    fn allocate(&mut self, bytes: u64) -> Result<(), LogError> {
        if self.active.is_none() {
            self.begin_segment()?;
        }
        let Some(active) = &mut self.active else {
            return Err(LogError::Closed);
        };
        let end = Writer::buffer_start(active) + self.buffer.len() as u64 + bytes;
        active.allocate(end, self.partition.segment_bytes, &self.partition.budget)
    }

    /// Ends the active segment; the next record begins another.
    fn roll(&mut self) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        self.buffer.truncate(0);
        if let Err(error) = active.seal(&self.partition.budget) {
            // Its records are durable and readable; only the unused end stays on disk until the next start.
            tracing::warn!(%error, "could not give back the unused end of a log segment");
        }
        let mut durable = self.partition.durable.lock();
        if let Some(segment) = durable.segments.last_mut() {
            segment.readable = Some(active.position);
        }
    }

    fn begin_segment(&mut self) -> Result<(), LogError> {
        let partition = &self.partition;
        let first_offset = partition.end();
        let header = SegmentHeader {
            partition: partition.number,
            first_offset,
            salt: fresh_salt(),
        };
        let topic = partition.signal.topic();
        partition.owner.check()?;
        if let Some(inherited) = self.inherited.take()
            && let Err(error) = inherited.cut(&partition.budget)
        {
            // Its records are readable; only the unused end stays on disk.
            tracing::warn!(%error, "could not give back the unused end of a log segment");
        }
        let replaces = {
            let durable = partition.durable.lock();
            let last = durable.segments.last();
            last.is_some_and(|segment| segment.first_offset == first_offset)
        };
        let active = ActiveSegment::create(&partition.directory, topic, header, replaces, &partition.budget)?;
        self.buffer.truncate(0);
        let mut durable = partition.durable.lock();
        if replaces {
            // The last one was abandoned before it held a record; the new one took its name.
            durable.segments.pop();
            partition.budget.give_back(FIRST_RECORD);
        }
        durable.segments.push(SegmentEntry {
            first_offset,
            path: active.path.clone(),
            readable: Some(active.position),
            index: SparseIndex::default(),
        });
        drop(durable);
        self.active = Some(active);
        Ok(())
    }

    /// Writes the buffer, makes it durable, publishes it and wakes the callers.
    fn commit(&mut self) {
        if self.group.is_empty() {
            return;
        }
        let group = mem::take(&mut self.group);
        let Some(mut active) = self.active.take() else {
            return;
        };
        faults::at(Step::LogAppend);
        if faults::planted(Fault::LogSyncSkipped) {
            self.lose_with_the_power(group);
        }
        let start = Writer::buffer_start(&active);
        let position = start + self.buffer.len() as u64;
        let written = active.write(start, self.buffer.padded(), &self.partition.budget);
        match written.and_then(|()| self.partition.owner.check()) {
            Ok(()) => {
                faults::at(Step::LogSynced);
                active.position = position;
                self.active = Some(active);
                self.buffer.keep_last_block();
                self.acknowledge(group, position);
            }
            Err(error) => {
                tracing::error!(%error, requests = group.len(), "a log commit failed");
                for (_, pending) in group {
                    pending.fail(error.clone());
                }
                if matches!(error, LogError::TakenOver { .. }) {
                    // What lies there now is another process' affair.
                    self.partition.fail(error);
                    return;
                }
                self.active = Some(active);
                self.roll();
            }
        }
    }

    /// What a power cut does to requests that were acknowledged without having been synced.
    fn lose_with_the_power(&self, group: Vec<(u64, Pending)>) -> ! {
        let partition = self.partition.number;
        for (offset, (_, pending)) in (self.partition.end()..).zip(group) {
            pending.done.send(Ok(Appended { partition, offset })).ok();
        }
        std::thread::sleep(Duration::from_millis(300));
        faults::die(Fault::LogSyncSkipped.name())
    }

    fn acknowledge(&self, group: Vec<(u64, Pending)>, position: u64) {
        let first = self.partition.end();
        // Cloning a record clones two reference counts.
        self.partition.publish(
            position,
            group.iter().map(|(at, pending)| (*at, pending.record.clone())),
        );
        for (offset, (_, pending)) in (first..).zip(group) {
            let partition = self.partition.number;
            // The caller may have gone away; the record stays.
            pending.done.send(Ok(Appended { partition, offset })).ok();
        }
        self.partition.notify();
    }
}

/// Tells those who wait when the writer ends by a panic.
struct FailureGuard(Arc<Partition>);

impl Drop for FailureGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(LogError::WriterFailed);
        }
    }
}

/// A random number for a new segment, from the hasher keys that the standard library draws from the system.
fn fresh_salt() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
