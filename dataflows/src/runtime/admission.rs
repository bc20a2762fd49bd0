//! What is admitted at a tick: the next records of every partition, each request body once.
//!
//! Deduplication is a function of the log's order and the admission ticks alone, so a replay decides the same. A
//! client's retry re-sends identical bytes; the key is the 128-bit hash of (project, signal, body).

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use pyflare_connectors::faults::{self, Fault};
use pyflare_connectors::{Log, LogError, Signal};

use super::checkpoint::Manifest;
use super::messages::AdmittedRequest;
use super::read_ahead::{Ahead, ReadAhead};
use super::streams::{Marks, StreamId, StreamRegistry};
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
    marks: Arc<Marks>,
    streams: Arc<StreamRegistry>,
    pub duplicates: u64,
    pub admitted_requests: u64,
    /// Requests for streams that were dropped before they were admitted.
    pub orphaned_requests: u64,
}

struct Partition {
    signal: Signal,
    partition: u32,
    next_offset: u64,
    mark: PartitionMark,
    /// Of the partitions that users' streams share: each stream's mark.
    streams: BTreeMap<u64, PartitionMark>,
    ahead: Ahead,
    /// Where reading began, until a tick record says it.
    began: Option<u64>,
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
    pub fn new(log: Arc<dyn Log>, reader: ReadAhead, streams: Arc<StreamRegistry>) -> Admission {
        let mut partitions = Vec::new();
        for signal in Signal::ALL {
            for partition in 0..log.partitions(signal) {
                partitions.push(Partition {
                    signal,
                    partition,
                    next_offset: 0,
                    mark: PartitionMark::default(),
                    streams: BTreeMap::new(),
                    ahead: Ahead::default(),
                    began: None,
                });
            }
        }
        Admission {
            log,
            reader,
            partitions,
            seen: Seen::default(),
            marks: Arc::default(),
            streams,
            duplicates: 0,
            admitted_requests: 0,
            orphaned_requests: 0,
        }
    }

    /// Begins a history: with the oldest record that each partition has now. The first tick record says where that was,
    /// so that a later start does not take what is the oldest by then.
    pub fn begin(&mut self) {
        for held in &mut self.partitions {
            held.next_offset = self.log.start_offset(held.signal, held.partition);
            held.began = (held.next_offset > 0).then_some(held.next_offset);
        }
    }

    /// What comes from now on is wanted.
    pub fn follow(&self) {
        for held in &self.partitions {
            self.log.follow(held.signal, held.partition, held.next_offset);
        }
    }

    /// The streams' marks after the last tick.
    pub fn marks(&self) -> Arc<Marks> {
        Arc::clone(&self.marks)
    }

    pub fn has_backlog(&self) -> bool {
        self.partitions
            .iter()
            .any(|p| self.log.end_offset(p.signal, p.partition) > p.next_offset)
    }

    /// What comes from now on lies apart from what is there.
    pub fn seal(&self) {
        self.log.seal();
    }

    /// Where the log of each partition ends now.
    pub fn ends(&self) -> Vec<u64> {
        let ends = self
            .partitions
            .iter()
            .map(|p| self.log.end_offset(p.signal, p.partition));
        ends.collect()
    }

    /// Whether everything before these ends is admitted.
    pub fn has_passed(&self, ends: &[u64]) -> bool {
        self.partitions
            .iter()
            .zip(ends)
            .all(|(p, end)| p.next_offset >= *end)
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
            let missing = |end| LogError::EndMissing {
                topic: cut.signal.topic().into(),
                partition: cut.partition,
                end,
            };
            let index = self
                .partitions
                .iter()
                .position(|p| p.signal == cut.signal && p.partition == cut.partition)
                .ok_or_else(|| missing(0))?;
            if let Some(first) = cut.first_offset {
                self.partitions[index].next_offset = first;
            }
            // What a log elsewhere has and has not sent yet is waited for.
            while self.partitions[index].next_offset < cut.next_offset {
                let held = &mut self.partitions[index];
                let (partition, next) = ((held.signal, held.partition), held.next_offset);
                if self.log.end_offset(cut.signal, cut.partition) < cut.next_offset {
                    return Err(missing(self.log.end_offset(cut.signal, cut.partition)));
                }
                let records =
                    self.reader
                        .take(&mut held.ahead, partition, next, cut.next_offset, usize::MAX)?;
                self.admit(index, records, &mut taken);
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
        let (signal, partition) = (held.signal, held.partition);
        if !records.is_empty() && faults::planted(Fault::OffsetsDropped) {
            return;
        }
        for (offset, record) in records {
            if self.seen.insert(record.body_hash) {
                let stream = match &record.stream {
                    None => StreamId::Signal(signal),
                    Some(name) => match self.streams.get(&record.project, name) {
                        Some(stream) => StreamId::User(stream.id),
                        None => {
                            self.orphaned_requests += 1;
                            continue;
                        }
                    },
                };
                self.admitted_requests += 1;
                taken.bytes += record.body.len() as u64;
                taken.requests.push(AdmittedRequest {
                    stream,
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
    pub fn close(&mut self, tick: Tick, taken: &Taken, latest: &[(StreamId, u32, i64)]) -> Vec<PartitionCut> {
        let mut moved = BTreeMap::new();
        for (stream, partition, event_time_us) in latest {
            let signal = stream.signal();
            let held = self
                .partitions
                .iter()
                .position(|p| p.signal == signal && p.partition == *partition);
            let Some(index) = held else { continue };
            let held = &mut self.partitions[index];
            match stream {
                StreamId::Signal(_) => held.mark.observe(tick, *event_time_us),
                StreamId::User(id) => {
                    let mark = held.streams.entry(*id).or_default();
                    mark.observe(tick, *event_time_us);
                    moved.insert((index, *id), *mark);
                }
            }
        }
        let users = self.streams.all();
        let streams = Signal::OTLP.map(StreamId::Signal).into_iter();
        let streams = streams.chain(users.iter().map(|stream| StreamId::User(stream.id)));
        let mut marks = Marks::default();
        for stream in streams {
            let of_stream: Vec<(PartitionMark, bool)> = self
                .partitions
                .iter()
                .filter(|p| p.signal == stream.signal())
                .map(|p| {
                    let mark = match stream {
                        StreamId::Signal(_) => p.mark,
                        StreamId::User(id) => p.streams.get(&id).copied().unwrap_or_default(),
                    };
                    let at_end = self.log.end_offset(p.signal, p.partition) <= p.next_offset;
                    (mark, at_end)
                })
                .collect();
            if let Some(mark) = stream_mark(self.marks.of(stream), &of_stream, tick) {
                marks.set(stream, mark);
            }
        }
        self.marks = Arc::new(marks);
        let begun = |index: &usize| self.partitions[*index].began.is_some();
        let told: BTreeSet<usize> = (0..self.partitions.len())
            .filter(begun)
            .chain(taken.moved.iter().copied())
            .collect();
        let cuts = told.into_iter().map(|index| {
            let of_partition = moved.range((index, 0)..=(index, u64::MAX));
            let held = &mut self.partitions[index];
            PartitionCut {
                streams: of_partition.map(|((_, id), mark)| (*id, *mark)).collect(),
                first_offset: held.began.take(),
                ..held.cut()
            }
        });
        cuts.collect()
    }

    /// Restores what a logged tick left behind, instead of [`Self::close`].
    pub fn close_logged(&mut self, cuts: &[PartitionCut], marks: &[(StreamId, i64)]) {
        for cut in cuts {
            if let Some(held) = self
                .partitions
                .iter_mut()
                .find(|p| p.signal == cut.signal && p.partition == cut.partition)
            {
                held.next_offset = cut.next_offset;
                held.mark = cut.mark;
                held.streams.extend(cut.streams.iter().copied());
            }
        }
        self.marks = Arc::new(marks.iter().copied().collect());
    }

    /// How far every partition has been admitted.
    pub fn cuts(&self) -> Vec<PartitionCut> {
        let cuts = self.partitions.iter().map(|partition| PartitionCut {
            streams: partition.streams.iter().map(|(id, mark)| (*id, *mark)).collect(),
            ..partition.cut()
        });
        cuts.collect()
    }

    /// The hashes of admitted requests, each with when it was admitted, and how much time has passed.
    pub fn admitted_hashes(&self) -> (Vec<(u64, u128)>, u64) {
        (self.seen.order.iter().copied().collect(), self.seen.now_ms)
    }

    /// Stands where a checkpoint does.
    pub fn restore(&mut self, manifest: &Manifest, mut admitted: Vec<(u64, u128)>) {
        if faults::planted(Fault::HashesForgotten) {
            admitted.clear();
        }
        self.close_logged(&manifest.partitions, &manifest.marks);
        self.duplicates = manifest.counts.duplicates;
        self.admitted_requests = manifest.counts.requests;
        self.orphaned_requests = manifest.counts.orphaned;
        self.seen = Seen {
            now_ms: manifest.passed_ms,
            last_tick: manifest.tick,
            hashes: admitted.iter().map(|(_, hash)| *hash).collect(),
            order: admitted.into(),
        };
    }

    /// A stream is gone, and its marks with it.
    pub fn forget(&mut self, stream: u64) {
        for partition in &mut self.partitions {
            partition.streams.remove(&stream);
        }
        Arc::make_mut(&mut self.marks).forget(StreamId::User(stream));
    }

    /// The marks as the tick record lists them.
    pub fn logged_marks(&self) -> Vec<(StreamId, i64)> {
        self.marks.iter().collect()
    }
}

impl Partition {
    fn cut(&self) -> PartitionCut {
        PartitionCut {
            signal: self.signal,
            partition: self.partition,
            first_offset: None,
            next_offset: self.next_offset,
            mark: self.mark,
            streams: Vec::new(),
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
