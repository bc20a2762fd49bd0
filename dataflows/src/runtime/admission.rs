//! What is admitted at a tick: the next records of every partition, each request body once.
//!
//! Deduplication is a function of the log's order and the admission ticks alone, so a replay decides the same. A
//! client's retry re-sends identical bytes; the key is the 128-bit hash of (project, signal, body). Messages of topics
//! that others write are told apart by their offsets alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pyflare_connectors::faults::{self, Fault};
use pyflare_connectors::{Log, LogError, LogRecord, Signal};

use super::checkpoint::Manifest;
use super::deduplication::Seen;
use super::gaps::{Gap, Gaps};
use super::messages::AdmittedRequest;
use super::read_ahead::{Ahead, ReadAhead};
use super::streams::{InstalledStream, Marks, StreamId, StreamRegistry};
use super::tick_record::PartitionCut;
use super::topics::Topic;
use crate::time::{PartitionMark, Tick, stream_mark};

pub(crate) struct Admission {
    pub(super) reader: ReadAhead,
    pub(super) partitions: Vec<Partition>,
    /// The streams that have topics of their own, by id.
    pub(super) fed: BTreeMap<u64, Arc<InstalledStream>>,
    /// Those of them that stand still, since their topic cannot be read.
    standing: BTreeSet<u64>,
    /// Whether records that were deleted before they were read are passed over.
    pub(super) skips_deleted: bool,
    pub(super) gaps: Arc<Gaps>,
    /// Those that no tick record has said yet.
    pub(super) found: Vec<Gap>,
    pub(super) tick: Tick,
    seen: Seen,
    pub(super) marks: Arc<Marks>,
    streams: Arc<StreamRegistry>,
    pub duplicates: u64,
    pub admitted_requests: u64,
    /// Requests for streams that were dropped before they were admitted.
    pub orphaned_requests: u64,
}

pub(super) struct Partition {
    /// The signal whose topic it is of, or the stream whose topic it is of.
    pub source: StreamId,
    pub topic: Topic,
    pub partition: u32,
    pub next_offset: u64,
    pub mark: PartitionMark,
    /// Of the partitions that users' streams share: each stream's mark.
    pub streams: BTreeMap<u64, PartitionMark>,
    pub ahead: Ahead,
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
    pub fn new(
        log: Arc<dyn Log>,
        reader: ReadAhead,
        streams: Arc<StreamRegistry>,
        skips_deleted: bool,
    ) -> Admission {
        let mut partitions = Vec::new();
        for signal in Signal::ALL {
            for partition in 0..log.partitions(signal) {
                let topic = Topic::Own(Arc::clone(&log), signal);
                partitions.push(Partition::new(StreamId::Signal(signal), topic, partition, 0));
            }
        }
        Admission {
            reader,
            partitions,
            fed: BTreeMap::new(),
            standing: BTreeSet::new(),
            skips_deleted,
            gaps: Arc::default(),
            found: Vec::new(),
            tick: 0,
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
            if let Topic::Own(log, signal) = &held.topic {
                held.next_offset = log.start_offset(*signal, held.partition);
                held.began = (held.next_offset > 0).then_some(held.next_offset);
            }
        }
    }

    /// What comes from now on is wanted.
    pub fn follow(&self) {
        for held in &self.partitions {
            held.topic.follow(held.partition, held.next_offset);
        }
    }

    /// A stream is there from the next tick on; if it has a topic of its own, that is admitted from as well.
    pub fn attach(&mut self, stream: &Arc<InstalledStream>) {
        let Some(feeding) = stream.feeding.get() else {
            return;
        };
        let source = StreamId::User(stream.id);
        // A checkpoint has said how far these are.
        let mut known = BTreeSet::new();
        for held in self.partitions.iter_mut().filter(|held| held.source == source) {
            held.topic = feeding.topic.clone();
            known.insert(held.partition);
        }
        for (partition, start) in (0..).zip(&feeding.starts) {
            if !known.contains(&partition) {
                let topic = feeding.topic.clone();
                self.partitions
                    .push(Partition::new(source, topic, partition, *start));
            }
        }
        for held in self.partitions.iter().filter(|held| held.source == source) {
            held.topic.follow(held.partition, held.next_offset);
        }
        self.fed.insert(stream.id, Arc::clone(stream));
    }

    /// Follows partitions that a topic did not have before. All that they have came after the others'.
    fn notice_partitions(&mut self) {
        for (id, stream) in &self.fed {
            let Some(Topic::Others(feed)) = stream.feeding.get().map(|feeding| &feeding.topic) else {
                continue;
            };
            let source = StreamId::User(*id);
            let known = self.partitions.iter().filter(|held| held.source == source);
            for partition in known.count() as u32..feed.partitions() {
                let first = feed.first_offset(partition);
                let mut held = Partition::new(source, Topic::Others(Arc::clone(feed)), partition, first);
                held.began = Some(first);
                feed.follow(partition, first);
                tracing::info!(stream = %stream.name, partition, "the topic has another partition");
                self.partitions.push(held);
            }
        }
    }

    /// Which streams' topics cannot be read for now.
    fn look_for_trouble(&mut self) {
        self.standing.clear();
        for (id, stream) in &self.fed {
            let topic = stream.feeding.get().map(|feeding| &feeding.topic);
            let mut failure = topic.and_then(Topic::failure);
            // Of what lies behind, such as a gap that was read ahead into.
            if let (Some(topic), Some(LogError::Trimmed { partition, first, .. })) = (topic, &failure) {
                let source = StreamId::User(*id);
                let is_meant = |held: &&Partition| held.source == source && held.partition == *partition;
                let next = self.partitions.iter().find(is_meant).map(|held| held.next_offset);
                if let Some(next) = next.filter(|next| next >= first) {
                    topic.follow(*partition, next);
                    failure = topic.failure();
                }
            }
            if failure.is_some() {
                self.standing.insert(*id);
            }
            stream.set_trouble(failure);
        }
    }

    /// The streams' marks after the last tick.
    pub fn marks(&self) -> Arc<Marks> {
        Arc::clone(&self.marks)
    }

    pub fn has_backlog(&self) -> bool {
        self.partitions.iter().any(|held| self.is_behind(held))
    }

    /// Whether there is something to take now or soon.
    fn is_behind(&self, held: &Partition) -> bool {
        let stands = matches!(held.source, StreamId::User(id) if self.standing.contains(&id));
        !stands && held.waiting() > 0
    }

    /// Where the log of each partition of its own topics ends now.
    pub fn ends(&self) -> Vec<u64> {
        let ends = self.own().map(|held| held.topic.end_offset(held.partition));
        ends.collect()
    }

    /// Whether everything before these ends is admitted.
    pub fn has_passed(&self, ends: &[u64]) -> bool {
        self.own().zip(ends).all(|(held, end)| held.next_offset >= *end)
    }

    /// The partitions of the log's own topics, always the same ones.
    fn own(&self) -> impl Iterator<Item = &Partition> {
        let is_own = |held: &&Partition| matches!(held.source, StreamId::Signal(_));
        self.partitions.iter().filter(is_own)
    }

    /// Records in the log that are not admitted yet.
    pub fn backlog_records(&self) -> u64 {
        self.own().map(Partition::waiting).sum()
    }

    /// Every tick begins with this, whether it takes anything or not.
    pub fn open(&mut self, tick: Tick) {
        self.tick = tick;
        self.seen.pass(tick);
    }

    /// Takes records up to about `max_bytes` in all, a fair share from each partition that has any. Topics of others come
    /// to half of it at most while requests wait.
    pub fn take(&mut self, max_bytes: usize) -> Result<Taken, LogError> {
        self.notice_partitions();
        let mut taken = Taken::default();
        if self.skips_deleted {
            self.pass_over_deleted(&mut taken);
        }
        self.look_for_trouble();
        let is_of_others = |held: &Partition| matches!(held.source, StreamId::User(_));
        let waiting: Vec<usize> = (0..self.partitions.len())
            .filter(|index| self.is_behind(&self.partitions[*index]))
            .collect();
        let of_others = waiting
            .iter()
            .filter(|index| is_of_others(&self.partitions[**index]))
            .count();
        let own = waiting.len() - of_others;
        let all = if own > 0 && of_others > 0 {
            max_bytes / 2
        } else {
            max_bytes
        };
        for index in waiting {
            let held = &mut self.partitions[index];
            let (partition, next) = (held.partition, held.next_offset);
            let end = held.topic.end_offset(partition);
            let share = all / if is_of_others(held) { of_others } else { own };
            let read = self
                .reader
                .take(&mut held.ahead, &held.topic, partition, next, end, share.max(1));
            let records = match (read, held.source) {
                (Ok(records), _) => records,
                (Err(LogError::Trimmed { first, .. }), _) if self.skips_deleted => {
                    self.pass_over(index, first);
                    taken.moved.push(index);
                    continue;
                }
                (Err(error), StreamId::Signal(_)) => return Err(error),
                // It is the stream's trouble, and stands still from the next tick on.
                (Err(_), StreamId::User(_)) => continue,
            };
            self.admit(index, records, &mut taken);
            let held = &self.partitions[index];
            if held.next_offset < end && !is_of_others(held) {
                taken.behind_since_us = taken.requests.last().map(|request| request.record.received_us);
            }
        }
        Ok(taken)
    }

    pub(super) fn admit(&mut self, index: usize, records: Vec<(u64, LogRecord)>, taken: &mut Taken) {
        let held = &mut self.partitions[index];
        if let Some((last, _)) = records.last() {
            held.next_offset = last + 1;
            taken.moved.push(index);
        }
        let (source, partition) = (held.source, held.partition);
        if !records.is_empty() && faults::planted(Fault::OffsetsDropped) {
            return;
        }
        for (offset, record) in records {
            let stream = match (source, &record.stream) {
                (StreamId::User(_), _) => source,
                (StreamId::Signal(_), _) if !self.seen.insert(record.body_hash) => {
                    self.duplicates += 1;
                    continue;
                }
                (StreamId::Signal(_), None) => source,
                (StreamId::Signal(_), Some(name)) => match self.streams.get(&record.project, name) {
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
        }
    }

    /// Whose partitions hold a stream's rows.
    fn source_of(&self, stream: StreamId) -> StreamId {
        match stream {
            StreamId::User(id) if self.fed.contains_key(&id) => stream,
            StreamId::User(_) => StreamId::Signal(Signal::Streams),
            StreamId::Signal(_) => stream,
        }
    }

    /// Closes the tick: marks advance by what was decoded. Returns what the tick record says of the partitions.
    pub fn close(&mut self, tick: Tick, taken: &Taken, latest: &[(StreamId, u32, i64)]) -> Vec<PartitionCut> {
        let mut moved = BTreeMap::new();
        for (stream, partition, event_time_us) in latest {
            let source = self.source_of(*stream);
            let held = self
                .partitions
                .iter()
                .position(|p| p.source == source && p.partition == *partition);
            let Some(index) = held else { continue };
            let held = &mut self.partitions[index];
            match stream {
                StreamId::User(id) if source != *stream => {
                    let mark = held.streams.entry(*id).or_default();
                    mark.observe(tick, *event_time_us);
                    moved.insert((index, *id), *mark);
                }
                _ => held.mark.observe(tick, *event_time_us),
            }
        }
        let users = self.streams.all();
        let streams = Signal::OTLP.map(StreamId::Signal).into_iter();
        let streams = streams.chain(users.iter().map(|stream| StreamId::User(stream.id)));
        let mut marks = Marks::default();
        for stream in streams {
            let previous = self.marks.of(stream);
            if let Some(mark) = self.mark_of(stream, previous, tick) {
                marks.set(stream, mark);
            }
        }
        for (id, stream) in &self.fed {
            let source = StreamId::User(*id);
            let own = self.partitions.iter().filter(|held| held.source == source);
            stream.set_waiting(own.map(Partition::waiting).sum());
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

    /// The stream's mark after a tick.
    fn mark_of(&self, stream: StreamId, previous: Option<i64>, tick: Tick) -> Option<i64> {
        let source = self.source_of(stream);
        let of_stream: Vec<(PartitionMark, bool)> = self
            .partitions
            .iter()
            .filter(|held| held.source == source)
            .map(|held| {
                let mark = match stream {
                    StreamId::User(id) if source != stream => {
                        held.streams.get(&id).copied().unwrap_or_default()
                    }
                    _ => held.mark,
                };
                (mark, held.waiting() == 0)
            })
            .collect();
        // The past of a topic is read from all of its partitions at once: what one has not shown yet may be older than
        // what another has.
        let is_unseen = |(mark, at_end): &(PartitionMark, bool)| mark.mark_us.is_none() && !at_end;
        match source {
            StreamId::User(_) if of_stream.iter().any(is_unseen) => previous,
            _ => stream_mark(previous, &of_stream, tick),
        }
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
        self.seen.kept()
    }

    /// Stands where a checkpoint does.
    pub fn restore(&mut self, manifest: &Manifest, mut admitted: Vec<(u64, u128)>) {
        if faults::planted(Fault::HashesForgotten) {
            admitted.clear();
        }
        self.gaps.add(manifest.gaps.iter().cloned());
        self.close_logged(&manifest.partitions, &manifest.marks);
        self.duplicates = manifest.counts.duplicates;
        self.admitted_requests = manifest.counts.requests;
        self.orphaned_requests = manifest.counts.orphaned;
        self.seen = Seen::restored(manifest.passed_ms, manifest.tick, admitted);
    }

    /// A stream is gone, and its marks with it.
    pub fn forget(&mut self, stream: u64) {
        let source = StreamId::User(stream);
        self.partitions.retain(|held| held.source != source);
        for partition in &mut self.partitions {
            partition.streams.remove(&stream);
        }
        self.standing.remove(&stream);
        if let Some(fed) = self.fed.remove(&stream)
            && let Some(feeding) = fed.feeding.get()
        {
            feeding.topic.stop();
        }
        Arc::make_mut(&mut self.marks).forget(StreamId::User(stream));
    }

    /// The marks as the tick record lists them.
    pub fn logged_marks(&self) -> Vec<(StreamId, i64)> {
        self.marks.iter().collect()
    }
}

impl Partition {
    pub fn new(source: StreamId, topic: Topic, partition: u32, next_offset: u64) -> Partition {
        Partition {
            source,
            topic,
            partition,
            next_offset,
            mark: PartitionMark::default(),
            streams: BTreeMap::new(),
            ahead: Ahead::default(),
            began: None,
        }
    }

    /// Offsets that are not admitted yet.
    fn waiting(&self) -> u64 {
        let end = self.topic.end_offset(self.partition);
        end.saturating_sub(self.next_offset)
    }

    fn cut(&self) -> PartitionCut {
        PartitionCut {
            source: self.source,
            partition: self.partition,
            first_offset: None,
            next_offset: self.next_offset,
            mark: self.mark,
            streams: Vec::new(),
        }
    }
}
