//! What is admitted at a tick: the next records of every partition, each request body once.
//!
//! Deduplication is a function of the log's order and the admission ticks alone, so a replay decides the same. A
//! client's retry re-sends identical bytes; the key is the 128-bit hash of (project, signal, body).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use pyflare_connectors::{Log, LogError, Signal};

use super::messages::AdmittedRequest;
use super::read_ahead::{Ahead, ReadAhead};
use super::tick_record::PartitionCut;
use crate::time::{PartitionMark, Tick, stream_mark};

/// The same body within this time is one admission.
const DEDUPLICATION_MS: u64 = 3_600_000;
/// Ticks are at most a second apart; what is longer than this counts as this.
const GREATEST_GAP_MS: u64 = 60_000;

pub(crate) struct Admission {
    log: Arc<dyn Log>,
    reader: ReadAhead,
    partitions: Vec<Partition>,
    seen: Seen,
    marks: [Option<i64>; 3],
    pub duplicates: u64,
    pub admitted_requests: u64,
}

struct Partition {
    signal: Signal,
    partition: u32,
    next_offset: u64,
    mark: PartitionMark,
    ahead: Ahead,
}

/// What one tick takes.
#[derive(Default)]
pub(crate) struct Taken {
    pub requests: Vec<AdmittedRequest>,
    pub bytes: u64,
    /// Partitions whose offset moved.
    pub moved: Vec<usize>,
    /// Received time of the newest request taken while more waits, microseconds.
    pub behind_since_us: Option<i64>,
}

impl Admission {
    pub fn new(log: Arc<dyn Log>, reader: ReadAhead) -> Admission {
        let mut partitions = Vec::new();
        for signal in Signal::ALL {
            for partition in 0..log.partitions(signal) {
                partitions.push(Partition {
                    signal,
                    partition,
                    next_offset: 0,
                    mark: PartitionMark::default(),
                    ahead: Ahead::default(),
                });
            }
        }
        Admission {
            log,
            reader,
            partitions,
            seen: Seen::default(),
            marks: [None; 3],
            duplicates: 0,
            admitted_requests: 0,
        }
    }

    /// The streams' marks after the last tick.
    pub fn marks(&self) -> [Option<i64>; 3] {
        self.marks
    }

    pub fn has_backlog(&self) -> bool {
        self.partitions
            .iter()
            .any(|p| self.log.end_offset(p.signal, p.partition) > p.next_offset)
    }

    /// Records in the log that are not admitted yet.
    pub fn backlog_records(&self) -> u64 {
        self.partitions
            .iter()
            .map(|p| {
                self.log
                    .end_offset(p.signal, p.partition)
                    .saturating_sub(p.next_offset)
            })
            .sum()
    }

    /// Every tick begins with this, whether it takes anything or not.
    pub fn open(&mut self, tick: Tick) {
        self.seen.pass(tick);
    }

    /// Takes records up to about `max_bytes` in all, a fair share from each partition that has any.
    pub fn take(&mut self, max_bytes: usize) -> Result<Taken, LogError> {
        let mut taken = Taken::default();
        let waiting = self
            .partitions
            .iter()
            .filter(|p| self.log.end_offset(p.signal, p.partition) > p.next_offset);
        let share = max_bytes / waiting.count().max(1);
        for index in 0..self.partitions.len() {
            let held = &mut self.partitions[index];
            let (partition, next) = ((held.signal, held.partition), held.next_offset);
            let end = self.log.end_offset(held.signal, held.partition);
            if end > next {
                let records = self
                    .reader
                    .take(&mut held.ahead, partition, next, end, share.max(1))?;
                self.admit(index, records, &mut taken);
                if self.partitions[index].next_offset < end {
                    taken.behind_since_us = taken.requests.last().map(|request| request.record.received_us);
                }
            }
        }
        Ok(taken)
    }

    /// Takes exactly the records that a logged tick took.
    pub fn take_logged(&mut self, cuts: &[PartitionCut]) -> Result<Taken, LogError> {
        let mut taken = Taken::default();
        for cut in cuts {
            let Some(index) = self
                .partitions
                .iter()
                .position(|p| p.signal == cut.signal && p.partition == cut.partition)
            else {
                continue;
            };
            let held = &mut self.partitions[index];
            let (partition, next) = ((held.signal, held.partition), held.next_offset);
            let records = self
                .reader
                .take(&mut held.ahead, partition, next, cut.next_offset, usize::MAX)?;
            self.admit(index, records, &mut taken);
            if self.partitions[index].next_offset < cut.next_offset {
                return Err(LogError::EndMissing {
                    topic: cut.signal.topic().into(),
                    partition: cut.partition,
                    end: self.partitions[index].next_offset,
                });
            }
        }
        Ok(taken)
    }

    fn admit(&mut self, index: usize, records: Vec<(u64, pyflare_connectors::LogRecord)>, taken: &mut Taken) {
        let held = &mut self.partitions[index];
        if let Some((last, _)) = records.last() {
            held.next_offset = last + 1;
            taken.moved.push(index);
        }
        for (offset, record) in records {
            if self.seen.insert(record.body_hash) {
                self.admitted_requests += 1;
                taken.bytes += record.body.len() as u64;
                let (signal, partition) = (held.signal, held.partition);
                taken.requests.push(AdmittedRequest {
                    signal,
                    partition,
                    offset,
                    record,
                });
            } else {
                self.duplicates += 1;
            }
        }
    }

    /// Closes the tick: marks advance by what was decoded. Returns what the tick record says of the partitions.
    pub fn close(&mut self, tick: Tick, taken: &Taken, latest: &[(Signal, u32, i64)]) -> Vec<PartitionCut> {
        for (signal, partition, event_time_us) in latest {
            if let Some(held) = self
                .partitions
                .iter_mut()
                .find(|p| p.signal == *signal && p.partition == *partition)
            {
                held.mark.observe(tick, *event_time_us);
            }
        }
        for signal in Signal::ALL {
            let of_signal = self.partitions.iter().filter(|p| p.signal == signal);
            let marks: Vec<(PartitionMark, bool)> = of_signal
                .map(|p| {
                    (
                        p.mark,
                        self.log.end_offset(p.signal, p.partition) <= p.next_offset,
                    )
                })
                .collect();
            self.marks[signal as usize] = stream_mark(self.marks[signal as usize], &marks, tick);
        }
        taken
            .moved
            .iter()
            .map(|index| self.partitions[*index].cut())
            .collect()
    }

    /// Restores what a logged tick left behind, instead of [`Self::close`].
    pub fn close_logged(&mut self, cuts: &[PartitionCut], marks: &[(Signal, i64)]) {
        for cut in cuts {
            if let Some(held) = self
                .partitions
                .iter_mut()
                .find(|p| p.signal == cut.signal && p.partition == cut.partition)
            {
                held.next_offset = cut.next_offset;
                held.mark = cut.mark;
            }
        }
        for (signal, mark) in marks {
            self.marks[*signal as usize] = Some(*mark);
        }
    }

    /// The marks as the tick record lists them.
    pub fn logged_marks(&self) -> Vec<(Signal, i64)> {
        Signal::ALL
            .into_iter()
            .filter_map(|signal| Some((signal, self.marks[signal as usize]?)))
            .collect()
    }
}

impl Partition {
    fn cut(&self) -> PartitionCut {
        PartitionCut {
            signal: self.signal,
            partition: self.partition,
            next_offset: self.next_offset,
            mark: self.mark,
        }
    }
}

/// Body hashes and when they were admitted, in time that passed while ticks ran.
///
/// A gap between two ticks is a stop of the server or a step of its clock. It counts little, so that a client's retry
/// after it meets its first attempt.
#[derive(Default)]
struct Seen {
    now_ms: u64,
    last_tick: Tick,
    hashes: HashSet<u128>,
    order: VecDeque<(u64, u128)>,
}

impl Seen {
    /// False if the hash was already there.
    fn insert(&mut self, hash: u128) -> bool {
        let fresh = self.hashes.insert(hash);
        if fresh {
            self.order.push_back((self.now_ms, hash));
        }
        fresh
    }

    /// Time passes until `tick`; what is too old is forgotten.
    fn pass(&mut self, tick: Tick) {
        self.now_ms += tick.saturating_sub(self.last_tick).min(GREATEST_GAP_MS);
        self.last_tick = tick;
        while let Some((at, hash)) = self.order.front().copied() {
            if at + DEDUPLICATION_MS >= self.now_ms {
                break;
            }
            self.order.pop_front();
            self.hashes.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks of a second until so many milliseconds later.
    fn run(seen: &mut Seen, milliseconds: u64) {
        let until = seen.last_tick + milliseconds;
        while seen.last_tick < until {
            seen.pass((seen.last_tick + 1_000).min(until));
        }
    }

    #[test]
    fn a_hash_counts_once_within_an_hour_and_again_after_it() {
        let mut seen = Seen::default();
        seen.pass(1_000_000);
        assert!(seen.insert(7));
        run(&mut seen, DEDUPLICATION_MS);
        assert!(!seen.insert(7));
        run(&mut seen, 1);
        assert!(seen.insert(7));
        assert_eq!((seen.hashes.len(), seen.order.len()), (1, 1));
    }

    #[test]
    fn a_stop_or_a_step_of_the_clock_forgets_little() {
        let mut seen = Seen::default();
        seen.pass(1_000_000);
        assert!(seen.insert(7));
        seen.pass(1_000_000 + 48 * DEDUPLICATION_MS);
        assert!(!seen.insert(7));
        run(&mut seen, DEDUPLICATION_MS - GREATEST_GAP_MS);
        assert!(!seen.insert(7));
        run(&mut seen, 1);
        assert!(seen.insert(7));
    }
}
