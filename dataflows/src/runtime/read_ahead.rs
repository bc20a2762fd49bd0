//! Records of the log read before a tick wants them, on a thread of their own.
//!
//! Reading verifies and decompresses. While there is a backlog, or a replay, the next records are read as the workers
//! work on the ones before. What is handed out depends on offsets and limits alone, never on how far the thread is.

use std::collections::VecDeque;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use pyflare_connectors::{LogError, LogRecord};

use super::EngineError;
use super::start::spawn;
use super::topics::Topic;

type Records = Vec<(u64, LogRecord)>;

/// Bytes of bodies read at once; of each partition so much is ahead twice at most.
const READ_BYTES: usize = 8 << 20;

struct Ask {
    topic: Topic,
    partition: u32,
    offset: u64,
    answer: Sender<Result<Records, LogError>>,
}

pub(crate) struct ReadAhead {
    /// `None` when it ends, which ends the thread.
    asks: Option<Sender<Ask>>,
    thread: Option<JoinHandle<()>>,
}

/// What is read of one partition and not yet taken.
#[derive(Default)]
pub(crate) struct Ahead {
    records: VecDeque<(u64, LogRecord)>,
    /// The records that follow.
    asked: Option<Receiver<Result<Records, LogError>>>,
}

impl ReadAhead {
    pub fn start() -> Result<ReadAhead, EngineError> {
        let (asks, asked) = unbounded::<Ask>();
        let thread = spawn("log-reader", move || {
            for ask in asked {
                let read = ask.topic.read(ask.partition, ask.offset, READ_BYTES);
                let _ = ask.answer.send(read);
            }
        })?;
        Ok(ReadAhead {
            asks: Some(asks),
            thread: Some(thread),
        })
    }

    /// The records `from..end` of a partition until about `max_bytes` of bodies, at least one if there is any at hand.
    /// Goes on reading behind them.
    pub fn take(
        &self,
        ahead: &mut Ahead,
        topic: &Topic,
        partition: u32,
        from: u64,
        end: u64,
        max_bytes: usize,
    ) -> Result<Records, LogError> {
        let (mut taken, mut bytes, mut next) = (Vec::new(), 0_usize, from);
        while next < end {
            if ahead.records.is_empty() {
                ahead.records = following(ahead, topic, partition, next)?.into();
                self.ask(ahead, topic, partition, next);
            }
            let Some((offset, record)) = ahead.records.front() else {
                break;
            };
            let offset = *offset;
            bytes += record.body.len();
            if offset >= end || (!taken.is_empty() && bytes > max_bytes) {
                break;
            }
            taken.extend(ahead.records.pop_front());
            next = offset + 1;
        }
        self.ask(ahead, topic, partition, next);
        Ok(taken)
    }

    /// Lets the thread read what comes behind the records at hand, if there is anything yet.
    fn ask(&self, ahead: &mut Ahead, topic: &Topic, partition: u32, next: u64) {
        let offset = ahead.records.back().map_or(next, |(last, _)| last + 1);
        if ahead.asked.is_some() || offset >= topic.end_offset(partition) {
            return;
        }
        let (answer, asked) = bounded(1);
        let ask = Ask {
            topic: topic.clone(),
            partition,
            offset,
            answer,
        };
        if self.asks.as_ref().is_some_and(|asks| asks.send(ask).is_ok()) {
            ahead.asked = Some(asked);
        }
    }
}

fn following(ahead: &mut Ahead, topic: &Topic, partition: u32, next: u64) -> Result<Records, LogError> {
    // The thread answers, or has ended by a panic.
    match ahead.asked.take().and_then(|answer| answer.recv().ok()) {
        // What was still on its way then may be there now.
        Some(answer) if !matches!(&answer, Ok(records) if records.is_empty()) => answer,
        _ => topic.read(partition, next, READ_BYTES),
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use proptest::prelude::*;
    use pyflare_connectors::conformance::record;
    use pyflare_connectors::{Log, Signal};
    use pyflare_log::{EmbeddedLog, LogOptions};

    use super::*;

    fn append(log: &EmbeddedLog, sizes: &[usize], expected: &mut Records) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for bytes in sizes {
            let offset = expected.len() as u64;
            let record = record(Signal::Traces, offset, *bytes);
            runtime.block_on(log.append(record.clone())).unwrap();
            expected.push((offset, record));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whatever is asked for in whatever portions while the log grows: each record once and in order, no more
        /// than the limits allow, and nothing missing that they allow.
        #[test]
        fn hands_out_what_the_log_has(
            rounds in proptest::collection::vec(
                (
                    proptest::collection::vec(prop_oneof![0..2_000_usize, 3_000_000..6_000_000_usize], 0..4),
                    0..12_000_000_usize,
                    0..5_u64,
                ),
                1..12,
            ),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let options = LogOptions {
                directory: directory.path().to_path_buf(),
                min_free_bytes: 0,
                tail_bytes: 1_000_000,
                ..LogOptions::default()
            };
            let log = EmbeddedLog::open(options).unwrap();
            let topic = Topic::Own(Arc::clone(&log) as Arc<dyn Log>, Signal::Traces);
            let reader = ReadAhead::start().unwrap();
            let (mut ahead, mut expected, mut next) = (Ahead::default(), Records::new(), 0);
            for (sizes, max_bytes, withheld) in rounds {
                append(&log, &sizes, &mut expected);
                let end = (expected.len() as u64).saturating_sub(withheld).max(next);
                let taken = reader.take(&mut ahead, &topic, 0, next, end, max_bytes).unwrap();
                let upto = next as usize + taken.len();
                prop_assert_eq!(&taken[..], &expected[next as usize..upto]);
                prop_assert!(upto as u64 <= end);
                let bytes = |records: &[(u64, LogRecord)]| -> usize {
                    records.iter().map(|(_, record)| record.body.len()).sum()
                };
                prop_assert!(taken.len() <= 1 || bytes(&taken) <= max_bytes);
                let one_more = bytes(&expected[next as usize..(upto + 1).min(expected.len())]);
                prop_assert!(upto as u64 == end || (!taken.is_empty() && one_more > max_bytes));
                next = upto as u64;
            }
            let rest = reader.take(&mut ahead, &topic, 0, next, expected.len() as u64, usize::MAX).unwrap();
            prop_assert_eq!(&rest[..], &expected[next as usize..]);
        }
    }
}
