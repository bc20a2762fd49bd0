//! Records of the log read before a tick wants them, on a thread of their own.
//!
//! Reading verifies and decompresses. While there is a backlog, or a replay, the next records are read as the workers
//! work on the ones before. What is handed out depends on offsets and limits alone, never on how far the thread is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use pyflare_connectors::{Log, LogError, LogRecord, Signal};

use super::EngineError;
use super::start::spawn;

type Records = Vec<(u64, LogRecord)>;

/// Bytes of bodies read at once; of each partition so much is ahead twice at most.
const READ_BYTES: usize = 8 << 20;

struct Ask {
    partition: (Signal, u32),
    offset: u64,
    answer: Sender<Result<Records, LogError>>,
}

pub(crate) struct ReadAhead {
    log: Arc<dyn Log>,
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
    pub fn start(log: Arc<dyn Log>) -> Result<ReadAhead, EngineError> {
        let (asks, asked) = unbounded::<Ask>();
        let reader = Arc::clone(&log);
        let thread = spawn("log-reader", move || {
            for ask in asked {
                let (signal, partition) = ask.partition;
                let read = reader.read(signal, partition, ask.offset, READ_BYTES);
                let _ = ask.answer.send(read);
            }
        })?;
        Ok(ReadAhead {
            log,
            asks: Some(asks),
            thread: Some(thread),
        })
    }

    /// The records `from..end` of a partition until about `max_bytes` of bodies, at least one if there is any. Goes on
    /// reading behind them.
    pub fn take(
        &self,
        ahead: &mut Ahead,
        partition: (Signal, u32),
        from: u64,
        end: u64,
        max_bytes: usize,
    ) -> Result<Records, LogError> {
        let (mut taken, mut bytes, mut next) = (Vec::new(), 0_usize, from);
        while next < end {
            if ahead.records.is_empty() {
                ahead.records = self.following(ahead, partition, next)?.into();
                self.ask(ahead, partition, next);
            }
            let Some((_, record)) = ahead.records.front() else {
                break;
            };
            bytes += record.body.len();
            if !taken.is_empty() && bytes > max_bytes {
                break;
            }
            taken.extend(ahead.records.pop_front());
            next += 1;
        }
        self.ask(ahead, partition, next);
        Ok(taken)
    }

    fn following(
        &self,
        ahead: &mut Ahead,
        (signal, partition): (Signal, u32),
        next: u64,
    ) -> Result<Records, LogError> {
        // The thread answers, or has ended by a panic.
        match ahead.asked.take().and_then(|answer| answer.recv().ok()) {
            Some(answer) => answer,
            None => self.log.read(signal, partition, next, READ_BYTES),
        }
    }

    /// Lets the thread read what comes behind the records at hand, if there is anything yet.
    fn ask(&self, ahead: &mut Ahead, partition: (Signal, u32), next: u64) {
        let offset = ahead.records.back().map_or(next, |(last, _)| last + 1);
        if ahead.asked.is_some() || offset >= self.log.end_offset(partition.0, partition.1) {
            return;
        }
        let (answer, asked) = bounded(1);
        let ask = Ask {
            partition,
            offset,
            answer,
        };
        if self.asks.as_ref().is_some_and(|asks| asks.send(ask).is_ok()) {
            ahead.asked = Some(asked);
        }
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
