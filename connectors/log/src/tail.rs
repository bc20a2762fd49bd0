//! Where records are found without searching: the newest ones in memory, the others by a sparse index.

use std::collections::VecDeque;

use pyflare_connectors::LogRecord;

/// The newest records of a partition, up to a number of bytes. The bodies are the very `Bytes` that the
/// receiver appended.
#[derive(Debug)]
pub(crate) struct Tail {
    records: VecDeque<LogRecord>,
    first: u64,
    bytes: usize,
    cap_bytes: usize,
}

/// What a record costs beside its body.
const RECORD_OVERHEAD: usize = 128;

impl Tail {
    pub(crate) fn new(next_offset: u64, cap_bytes: usize) -> Self {
        Tail {
            records: VecDeque::new(),
            first: next_offset,
            bytes: 0,
            cap_bytes,
        }
    }

    pub(crate) fn push(&mut self, record: LogRecord) {
        self.bytes += record.body.len() + RECORD_OVERHEAD;
        self.records.push_back(record);
        while self.bytes > self.cap_bytes {
            let Some(oldest) = self.records.pop_front() else {
                break;
            };
            self.bytes -= oldest.body.len() + RECORD_OVERHEAD;
            self.first += 1;
        }
    }

    /// The records from `offset` on, until `max_bytes` of bodies; false if `offset` is older than the tail.
    pub(crate) fn read(&self, offset: u64, max_bytes: usize, out: &mut Vec<(u64, LogRecord)>) -> bool {
        let Some(skip) = offset.checked_sub(self.first) else {
            return false;
        };
        let mut total = 0_usize;
        for (at, record) in self.records.iter().enumerate().skip(skip as usize) {
            if !out.is_empty() && total + record.body.len() > max_bytes {
                break;
            }
            total += record.body.len();
            out.push((self.first + at as u64, record.clone()));
        }
        true
    }
}

/// Positions of some records of a segment, at least [`SparseIndex::STRIDE`] apart, ascending.
#[derive(Debug, Default, Clone)]
pub(crate) struct SparseIndex {
    known: Vec<(u64, u64)>,
}

impl SparseIndex {
    const STRIDE: u64 = 1 << 20;

    /// Remembers where a record is, unless a near one is known.
    pub(crate) fn note(&mut self, offset: u64, position: u64) {
        let at = self.known.partition_point(|(known, _)| *known < offset);
        let far_from_previous =
            at == 0 || position.saturating_sub(self.known[at - 1].1) >= SparseIndex::STRIDE;
        let far_from_next = self
            .known
            .get(at)
            .is_none_or(|(_, next)| next.saturating_sub(position) >= SparseIndex::STRIDE);
        if far_from_previous && far_from_next {
            self.known.insert(at, (offset, position));
        }
    }

    /// The nearest known record at or before `offset`.
    pub(crate) fn before(&self, offset: u64) -> Option<(u64, u64)> {
        let at = self.known.partition_point(|(known, _)| *known <= offset);
        at.checked_sub(1).map(|at| self.known[at])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use pyflare_connectors::{ContentType, Signal};

    use super::*;

    fn record(bytes: usize) -> LogRecord {
        LogRecord {
            project: Arc::from("default"),
            signal: Signal::Traces,
            stream: None,
            content_type: ContentType::Protobuf,
            received_us: 0,
            body_hash: 0,
            body: Bytes::from(vec![0; bytes]),
        }
    }

    #[test]
    fn the_tail_is_bounded_and_hands_out_the_same_bytes() {
        let mut tail = Tail::new(5, 10_000);
        let mut pointers = Vec::new();
        for _ in 0..20 {
            let record = record(1000);
            pointers.push(record.body.as_ptr());
            tail.push(record);
        }
        assert!(tail.bytes <= 10_000);
        let mut out = Vec::new();
        assert!(!tail.read(5, 100, &mut out));
        assert!(tail.read(23, usize::MAX, &mut out));
        assert_eq!(
            out.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(),
            [23, 24]
        );
        assert_eq!(out[1].1.body.as_ptr(), pointers[19]);
        out.clear();
        assert!(tail.read(20, 2500, &mut out));
        assert_eq!(out.len(), 2);
        out.clear();
        assert!(tail.read(25, 10, &mut out) && out.is_empty());
    }

    #[test]
    fn the_index_is_sparse_and_finds_the_nearest_before() {
        let mut index = SparseIndex::default();
        for offset in 0..10_000_u64 {
            index.note(offset, 4096 + offset * 1000);
        }
        assert!(index.known.len() <= 11);
        for offset in [0, 1, 999, 5000, 9999] {
            let (known, position) = index.before(offset).expect("the first record is known");
            assert!(known <= offset && position == 4096 + known * 1000);
        }
    }
}
