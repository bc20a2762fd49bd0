//! What logged ticks took, taken again; and what is passed over because it is not there any more.

use std::sync::Arc;
use std::time::Duration;

use pyflare_connectors::{LogError, LogRecord};

use super::admission::{Admission, Partition, Taken};
use super::gaps::{Gap, Gaps};
use super::read_ahead::Ahead;
use super::streams::{InstalledStream, StreamId};
use super::tick_record::PartitionCut;
use super::topics::Topic;

/// A replay waits so long before it looks again for what is on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Admission {
    /// Takes exactly the records that a logged tick took.
    pub fn take_logged(&mut self, cuts: &[PartitionCut]) -> Result<Taken, LogError> {
        let mut taken = Taken::default();
        for cut in cuts {
            let index = self.partition_of(cut);
            if let Some(first) = cut.first_offset {
                self.partitions[index].next_offset = first;
            }
            // What a log elsewhere has and has not sent yet is waited for.
            while self.partitions[index].next_offset < cut.next_offset {
                let next = self.partitions[index].next_offset;
                if let Some(to) = self.gaps.behind(cut.source, cut.partition, next) {
                    self.go_on_at(index, to.min(cut.next_offset));
                    continue;
                }
                match self.read_logged(index, cut) {
                    Ok(records) => {
                        if records.is_empty() {
                            std::thread::sleep(LOOK_AGAIN);
                        }
                        self.admit(index, records, &mut taken);
                    }
                    Err(LogError::Trimmed { first, .. }) if self.skips_deleted => {
                        self.pass_over(index, first.min(cut.next_offset));
                    }
                    // All of it: the topic of a stream is gone, or is another one by now.
                    Err(_) if self.skips_deleted && matches!(cut.source, StreamId::User(_)) => {
                        self.pass_over(index, cut.next_offset);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(taken)
    }

    fn read_logged(&mut self, index: usize, cut: &PartitionCut) -> Result<Vec<(u64, LogRecord)>, LogError> {
        let held = &mut self.partitions[index];
        match held.topic.failure() {
            // Reading says it of the partition that it is about, and of what is asked for.
            Some(LogError::Trimmed { .. }) | None => {}
            Some(failure) => return Err(failure),
        }
        let end = held.topic.end_offset(cut.partition);
        if end < cut.next_offset {
            return Err(self.end_missing(cut, end));
        }
        let (next, end) = (held.next_offset, cut.next_offset);
        self.reader
            .take(&mut held.ahead, &held.topic, cut.partition, next, end, usize::MAX)
    }

    /// The partition that a cut is of; one that a topic did not have before becomes known by its first cut.
    fn partition_of(&mut self, cut: &PartitionCut) -> usize {
        let is_meant = |held: &Partition| held.source == cut.source && held.partition == cut.partition;
        if let Some(index) = self.partitions.iter().position(is_meant) {
            return index;
        }
        let topic = match cut.source {
            StreamId::User(id) => self.fed.get(&id).and_then(|stream| stream.feeding.get()),
            StreamId::Signal(_) => None,
        };
        let topic = topic.map_or_else(
            || Topic::Absent(self.end_missing(cut, 0)),
            |feeding| feeding.topic.clone(),
        );
        let held = Partition::new(cut.source, topic, cut.partition, 0);
        self.partitions.push(held);
        self.partitions.len() - 1
    }

    fn end_missing(&self, cut: &PartitionCut, end: u64) -> LogError {
        let topic = match cut.source {
            StreamId::Signal(signal) => Some(signal.topic().to_string()),
            StreamId::User(id) => self.fed.get(&id).and_then(|stream| stream.topic_name()),
        };
        LogError::EndMissing {
            topic: topic.unwrap_or_else(|| "a topic that is not there".into()),
            partition: cut.partition,
            end,
        }
    }

    /// Restores what a logged tick left behind, instead of [`Self::close`].
    pub fn close_logged(&mut self, cuts: &[PartitionCut], marks: &[(StreamId, i64)]) {
        for cut in cuts {
            let index = self.partition_of(cut);
            let held = &mut self.partitions[index];
            held.next_offset = cut.next_offset;
            held.mark = cut.mark;
            held.streams.extend(cut.streams.iter().copied());
        }
        self.marks = Arc::new(marks.iter().copied().collect());
    }

    /// What is missing in the topics of streams is told by these before anybody reads.
    pub(super) fn pass_over_deleted(&mut self, taken: &mut Taken) {
        let failed = |(id, stream): (&u64, &Arc<InstalledStream>)| {
            let failure = stream.feeding.get()?.topic.failure()?;
            match failure {
                LogError::Trimmed { partition, first, .. } => Some((StreamId::User(*id), partition, first)),
                _ => None,
            }
        };
        let deleted: Vec<(StreamId, u32, u64)> = self.fed.iter().filter_map(failed).collect();
        for (source, partition, first) in deleted {
            let is_meant = |held: &Partition| held.source == source && held.partition == partition;
            if let Some(index) = self.partitions.iter().position(is_meant)
                && self.partitions[index].next_offset < first
            {
                self.pass_over(index, first);
                taken.moved.push(index);
            }
        }
    }

    /// Goes on at an offset, and remembers what lies before it.
    pub(super) fn pass_over(&mut self, index: usize, to: u64) {
        let held = &self.partitions[index];
        let gap = Gap {
            source: held.source,
            partition: held.partition,
            from: held.next_offset,
            to,
            found_at: self.tick,
        };
        tracing::warn!(
            ?gap,
            "records that were deleted before they were read are passed over"
        );
        self.go_on_at(index, to);
        self.found.push(gap);
    }

    /// What was read ahead, or failed to be, is of no use any more.
    fn go_on_at(&mut self, index: usize, offset: u64) {
        let held = &mut self.partitions[index];
        held.next_offset = offset;
        held.ahead = Ahead::default();
        held.topic.follow(held.partition, offset);
    }

    /// Gaps that the tick record has to say.
    pub fn found_gaps(&mut self) -> Vec<Gap> {
        let found = std::mem::take(&mut self.found);
        self.gaps.add(found.iter().cloned());
        found
    }

    pub fn gaps(&self) -> Arc<Gaps> {
        Arc::clone(&self.gaps)
    }
}
