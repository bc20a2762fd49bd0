//! What was fetched of a partition and not yet taken.
//!
//! Invariant: a buffer holds every record of `base..next`, in order. Offsets of that range that are in no record are marks
//! of transactions, aborted records, or messages without a value.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};
use pyflare_connectors::{LogError, LogRecord};

pub(crate) struct PartitionBuffer {
    pub state: Mutex<Buffer>,
    pub arrived: Condvar,
    /// The first offset that was kept when the partition became known.
    pub first: u64,
}

impl PartitionBuffer {
    pub fn new(first: u64, end: u64) -> PartitionBuffer {
        PartitionBuffer {
            state: Mutex::new(Buffer {
                end,
                ..Buffer::default()
            }),
            arrived: Condvar::new(),
            first,
        }
    }
}

#[derive(Default)]
pub(crate) struct Buffer {
    /// The first offset that a record in the buffer may have.
    pub base: u64,
    /// The offset after the last record that was fetched.
    pub next: u64,
    pub records: VecDeque<(u64, LogRecord)>,
    pub bytes: usize,
    /// The end as the broker tells it, marks of transactions included.
    pub end: u64,
    /// The offset after the newest record of ours that the broker has acknowledged.
    pub acknowledged: u64,
    /// Where the thread is to go.
    pub wanted: Option<u64>,
    pub is_positioned: bool,
    /// Everything that there is has been fetched.
    pub is_at_end: bool,
    /// Nothing is passed over: of the log's own topics it stays until the log is opened again.
    pub failure: Option<LogError>,
    /// The partition is tried again; the failure is over once something comes.
    pub is_tried_again: bool,
}

impl Buffer {
    pub fn end(&self) -> u64 {
        self.end.max(self.acknowledged).max(self.next)
    }

    /// Stands at an offset: within the buffer, or where the thread goes next.
    pub fn go_to(&mut self, offset: u64) {
        let is_here =
            (self.is_positioned || self.wanted.is_some()) && (self.base..=self.next).contains(&offset);
        if is_here {
            self.forget_below(offset);
        } else {
            self.records.clear();
            (self.bytes, self.base, self.next) = (0, offset, offset);
            self.wanted = Some(offset);
            self.is_at_end = false;
        }
    }

    /// Who asks for what is behind deleted records goes on there.
    pub fn passes_over(&mut self, offset: u64) {
        if matches!(&self.failure, Some(LogError::Trimmed { first, .. }) if offset >= *first) {
            self.failure = None;
        }
    }

    /// Something came, or there is nothing more: the partition can be read.
    pub fn is_answered(&mut self) {
        if std::mem::take(&mut self.is_tried_again) {
            self.failure = None;
        }
    }

    pub fn forget_below(&mut self, offset: u64) {
        while self.records.front().is_some_and(|(at, _)| *at < offset) {
            if let Some((_, record)) = self.records.pop_front() {
                self.bytes -= record.body.len();
            }
        }
        self.base = offset;
    }
}
