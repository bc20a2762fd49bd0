//! What is admitted at a tick: the next records of every partition, each request body once.
//!
//! Deduplication is a function of the log's order and the admission ticks alone, so a replay decides the same. A
//! client's retry re-sends identical bytes; the key is the 128-bit hash of (project, signal, body).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use pyflare_connectors::{Log, LogError, Signal};

use super::messages::AdmittedRequest;
use super::tick_record::PartitionCut;
use crate::time::{PartitionMark, Tick, stream_mark};

/// The same body within this time is one admission.
pub(crate) const DEDUPLICATION_MS: u64 = 3_600_000;

pub(crate) struct Admission {
    log: Arc<dyn Log>,
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
    pub fn new(log: Arc<dyn Log>) -> Admission {
        let mut partitions = Vec::new();
        for signal in Signal::ALL {
            for partition in 0..log.partitions(signal) {
                partitions.push(Partition {
                    signal,
                    partition,
                    next_offset: 0,
                    mark: PartitionMark::default(),
                });
            }
        }
        let seen = Seen::default();
        Admission {
            log,
            partitions,
            seen,
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

    /// Takes records up to about `max_bytes` in all, a fair share from each partition that has any.
    pub fn take(&mut self, tick: Tick, max_bytes: usize) -> Result<Taken, LogError> {
        self.seen.forget_before(tick);
        let mut taken = Taken::default();
        let waiting = self
            .partitions
            .iter()
            .filter(|p| self.log.end_offset(p.signal, p.partition) > p.next_offset);
        let share = max_bytes / waiting.count().max(1);
        for index in 0..self.partitions.len() {
            let Partition {
                signal,
                partition,
                next_offset,
                ..
            } = self.partitions[index];
            let end = self.log.end_offset(signal, partition);
            if end > next_offset {
                let records = self.log.read(signal, partition, next_offset, share.max(1))?;
                self.admit(index, tick, records, &mut taken);
                if self.partitions[index].next_offset < end {
                    taken.behind_since_us = taken.requests.last().map(|request| request.record.received_us);
                }
            }
        }
        Ok(taken)
    }

    /// Takes exactly the records that a logged tick took.
    pub fn take_logged(&mut self, tick: Tick, cuts: &[PartitionCut]) -> Result<Taken, LogError> {
        self.seen.forget_before(tick);
        let mut taken = Taken::default();
        for cut in cuts {
            let Some(index) = self
                .partitions
                .iter()
                .position(|p| p.signal == cut.signal && p.partition == cut.partition)
            else {
                continue;
            };
            while self.partitions[index].next_offset < cut.next_offset {
                let from = self.partitions[index].next_offset;
                let mut records = self.log.read(cut.signal, cut.partition, from, 8 << 20)?;
                records.retain(|(offset, _)| *offset < cut.next_offset);
                if records.is_empty() {
                    return Err(LogError::EndMissing {
                        topic: cut.signal.topic().into(),
                        partition: cut.partition,
                        end: from,
                    });
                }
                self.admit(index, tick, records, &mut taken);
            }
        }
        Ok(taken)
    }

    fn admit(
        &mut self,
        index: usize,
        tick: Tick,
        records: Vec<(u64, pyflare_connectors::LogRecord)>,
        taken: &mut Taken,
    ) {
        let held = &mut self.partitions[index];
        if let Some((last, _)) = records.last() {
            held.next_offset = last + 1;
            taken.moved.push(index);
        }
        for (offset, record) in records {
            if self.seen.insert(record.body_hash, tick) {
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

/// Body hashes with the tick of their admission.
#[derive(Default)]
struct Seen {
    hashes: HashMap<u128, Tick>,
    order: VecDeque<(Tick, u128)>,
}

impl Seen {
    /// False if the hash was already there.
    fn insert(&mut self, hash: u128, tick: Tick) -> bool {
        let fresh = !self.hashes.contains_key(&hash);
        if fresh {
            self.hashes.insert(hash, tick);
            self.order.push_back((tick, hash));
        }
        fresh
    }

    fn forget_before(&mut self, tick: Tick) {
        while let Some((at, hash)) = self.order.front().copied() {
            if at + DEDUPLICATION_MS >= tick {
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

    #[test]
    fn a_hash_counts_once_within_an_hour_and_again_after_it() {
        let mut seen = Seen::default();
        assert!(seen.insert(7, 1_000));
        seen.forget_before(1_000 + DEDUPLICATION_MS);
        assert!(!seen.insert(7, 1_000 + DEDUPLICATION_MS));
        seen.forget_before(1_001 + DEDUPLICATION_MS);
        assert!(seen.insert(7, 1_001 + DEDUPLICATION_MS));
    }
}
