//! One partition of one topic: its queue, its segments, its tail, and reading from them.
//!
//! Invariants: `end` is the offset after the last durable record; segments are contiguous, the last one is
//! being written; only the writer thread changes segments, save for [`Partition::trim`], which removes whole
//! segments from the front and never the last.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{Appended, LogError, LogRecord, Signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::budget::DiskBudget;
use crate::owner::Owner;
use crate::reader::SegmentReader;
use crate::record;
use crate::segment::{FIRST_RECORD, io_error, sync_directory};
use crate::tail::{SparseIndex, Tail};

/// Bytes that may wait for the writer; further appends wait for room.
const QUEUE_BYTES: usize = 64 << 20;
/// The queue counts in units of this many bytes.
const QUEUE_UNIT: usize = 1 << 10;

pub(crate) type Listeners = Arc<RwLock<Vec<AppendListener>>>;

/// An append that waits for its commit.
pub(crate) struct Pending {
    pub record: LogRecord,
    pub done: oneshot::Sender<Result<Appended, LogError>>,
    _room: OwnedSemaphorePermit,
}

impl Pending {
    pub(crate) fn fail(self, error: LogError) {
        // The caller may have gone away; then nobody needs the answer.
        self.done.send(Err(error)).ok();
    }
}

#[derive(Default)]
pub(crate) struct Queue {
    pub waiting: VecDeque<Pending>,
    pub closed: bool,
    /// Why the writer is gone, if not because it was told to.
    pub failed: Option<LogError>,
}

fn closed(queue: &Queue) -> LogError {
    queue.failed.clone().unwrap_or(LogError::Closed)
}

pub(crate) struct SegmentEntry {
    pub first_offset: u64,
    pub path: PathBuf,
    /// Bytes of durable records and header; `None` once the segment is sealed: the whole file.
    pub readable: Option<u64>,
    pub index: SparseIndex,
}

pub(crate) struct Durable {
    pub segments: Vec<SegmentEntry>,
    pub tail: Tail,
    pub end: u64,
}

/// What all partitions of a log have in common.
#[derive(Clone)]
pub(crate) struct Shared {
    pub budget: Arc<DiskBudget>,
    pub listeners: Listeners,
    pub owner: Arc<Owner>,
}

pub(crate) struct Partition {
    pub signal: Signal,
    pub number: u32,
    pub directory: PathBuf,
    pub segment_bytes: u64,
    pub budget: Arc<DiskBudget>,
    pub queue: Mutex<Queue>,
    pub wake: Condvar,
    pub durable: Mutex<Durable>,
    pub listeners: Listeners,
    pub owner: Arc<Owner>,
    room: Arc<Semaphore>,
    end: AtomicU64,
    /// The writer is asked to end its segment.
    sealing: AtomicBool,
}

impl Partition {
    pub(crate) fn new(
        signal: Signal,
        number: u32,
        directory: PathBuf,
        segment_bytes: u64,
        shared: &Shared,
        durable: Durable,
    ) -> Self {
        let Shared {
            budget,
            listeners,
            owner,
        } = shared.clone();
        let end = AtomicU64::new(durable.end);
        Partition {
            signal,
            number,
            directory,
            segment_bytes,
            budget,
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            durable: Mutex::new(durable),
            listeners,
            owner,
            room: Arc::new(Semaphore::new(QUEUE_BYTES / QUEUE_UNIT)),
            end,
            sealing: AtomicBool::new(false),
        }
    }

    /// What is written from now on goes to another file than what was written before.
    pub(crate) fn seal(&self) {
        // Under the lock, or the writer could look before and sleep after it.
        let _queue = self.queue.lock();
        self.sealing.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(crate) fn is_sealing(&self) -> bool {
        self.sealing.load(Ordering::Acquire)
    }

    pub(crate) fn take_sealing(&self) -> bool {
        self.sealing.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(crate) async fn append(&self, record: LogRecord) -> Result<Appended, LogError> {
        if !record::fits(&record) {
            return Err(LogError::Io {
                path: self.directory.display().to_string(),
                detail: format!("a record of {} bytes is too large for the log", record.body.len()),
            });
        }
        let units = (record.body.len() / QUEUE_UNIT + 1).min(QUEUE_BYTES / QUEUE_UNIT);
        let room = Arc::clone(&self.room).acquire_many_owned(units as u32).await;
        let room = room.map_err(|_| self.gone())?;
        let (done, outcome) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            if queue.closed {
                return Err(closed(&queue));
            }
            queue.waiting.push_back(Pending {
                record,
                done,
                _room: room,
            });
        }
        self.wake.notify_one();
        outcome.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> LogError {
        closed(&self.queue.lock())
    }

    /// Lets the writer finish what waits and refuses what comes.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.room.close();
        self.wake.notify_one();
    }

    /// Called when the writer thread ends in a panic, or may not write any more: nobody may wait for it.
    pub(crate) fn fail(&self, reason: LogError) {
        let waiting = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            queue.failed = Some(reason.clone());
            std::mem::take(&mut queue.waiting)
        };
        self.room.close();
        for pending in waiting {
            pending.fail(reason.clone());
        }
    }

    pub(crate) fn failure(&self) -> Option<LogError> {
        self.queue.lock().failed.clone()
    }

    /// Makes a commit visible. `position` is the new end of the last segment.
    pub(crate) fn publish(&self, position: u64, records: impl Iterator<Item = (u64, LogRecord)>) {
        let mut durable = self.durable.lock();
        let durable = &mut *durable;
        if let Some(segment) = durable.segments.last_mut() {
            segment.readable = Some(position);
        }
        for (at, record) in records {
            if let Some(segment) = durable.segments.last_mut() {
                segment.index.note(durable.end, at);
            }
            durable.tail.push(record);
            durable.end += 1;
        }
        self.end.store(durable.end, Ordering::Release);
    }

    pub(crate) fn notify(&self) {
        for listener in self.listeners.read().iter() {
            listener();
        }
    }

    pub(crate) fn read(&self, offset: u64, max_bytes: usize) -> Result<Vec<(u64, LogRecord)>, LogError> {
        let mut out = Vec::new();
        let (first_offset, path, readable, start, end) = {
            let durable = self.durable.lock();
            let first = durable
                .segments
                .first()
                .map_or(durable.end, |segment| segment.first_offset);
            if offset < first {
                return Err(self.trimmed(offset, first));
            }
            if offset >= durable.end || durable.tail.read(offset, max_bytes, &mut out) {
                return Ok(out);
            }
            let at = durable
                .segments
                .partition_point(|segment| segment.first_offset <= offset)
                - 1;
            let segment = &durable.segments[at];
            let end = durable
                .segments
                .get(at + 1)
                .map_or(durable.end, |next| next.first_offset);
            let start = segment
                .index
                .before(offset)
                .unwrap_or((segment.first_offset, FIRST_RECORD));
            (
                segment.first_offset,
                segment.path.clone(),
                segment.readable,
                start,
                end,
            )
        };
        let opened = SegmentReader::open(&path, readable, max_bytes);
        if opened.is_err() && !path.exists() {
            // Trimmed between the look and the reading.
            return Err(self.trimmed(offset, self.first_offset()));
        }
        let mut reader = opened?;
        let position = reader.seek(start.1, start.0, offset)?;
        let (position, next) = reader.read(position, offset, end, max_bytes, &mut out)?;
        let mut durable = self.durable.lock();
        if let Ok(at) = durable
            .segments
            .binary_search_by_key(&first_offset, |segment| segment.first_offset)
        {
            durable.segments[at].index.note(next, position);
        }
        Ok(out)
    }

    pub(crate) fn first_offset(&self) -> u64 {
        let durable = self.durable.lock();
        durable
            .segments
            .first()
            .map_or(durable.end, |segment| segment.first_offset)
    }

    fn trimmed(&self, offset: u64, first: u64) -> LogError {
        LogError::Trimmed {
            topic: self.signal.topic().to_string(),
            partition: self.number,
            offset,
            first,
        }
    }

    /// Removes the segments that hold only records below `offset`, oldest first, never the last one.
    pub(crate) fn trim(&self, offset: u64) -> Result<(), LogError> {
        let removed: Vec<PathBuf> = {
            let mut durable = self.durable.lock();
            let keep_from = durable
                .segments
                .windows(2)
                .take_while(|pair| pair[1].first_offset <= offset)
                .count();
            durable
                .segments
                .drain(..keep_from)
                .map(|segment| segment.path)
                .collect()
        };
        for path in &removed {
            let bytes = std::fs::metadata(path)
                .map_err(|error| io_error(path, error))?
                .len();
            std::fs::remove_file(path).map_err(|error| io_error(path, error))?;
            self.budget.give_back(bytes);
        }
        if removed.is_empty() {
            Ok(())
        } else {
            sync_directory(&self.directory)
        }
    }
}
