//! The coordinator: the one who says what happens when.
//!
//! It cuts the log into ticks, makes every tick record durable before anything of the tick is emitted, and lets all
//! workers apply commands in one order. A replay feeds the logged records through the same path.
//!
//! Ticks are 100 ms apart under load and a second when idle; an arriving row or a command starts one at once. A tick
//! takes as many bytes as the measured speed allows in one period. While the store lags, ticks go on without rows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use pyflare_connectors::faults::{self, Fault, Step};
use pyflare_connectors::{Catalog, CheckpointStore, Log, TickLog};
use tokio::sync::oneshot;

use super::EngineError;
use super::admission::{Admission, Taken};
use super::backfill::{Backfills, Past, ReadJob};
use super::checkpoint::{Checkpoints, Run};
use super::erasing::ErasureQueue;
use super::flush::FlusherHandle;
use super::holds::Holds;
use super::limits::{MonitorLimits, Stop};
use super::messages::{AppliedCommand, DecodeSummary, FromWorker, Horizon, ToCoordinator};
use super::starting::{Reply, Starting};
use super::status::Gauges;
use super::streams::{InstalledStream, Marks, StreamRegistry};
use super::sums::Sums;
use super::tail::HistoryTail;
use super::tick_record::{FORMAT, TickRecord};
use super::views::{InstalledView, ViewRegistry};
use super::worker_link::WorkerLinks;
use crate::time::{Tick, next_tick};

pub(crate) const FIRST_BUDGET: usize = 8 << 20;
const LEAST_BUDGET: usize = 1 << 20;
/// How long a tick may take while requests wait.
const LONGEST_TICK: Duration = Duration::from_secs(1);
const GREATEST_BUDGET: usize = 64 << 20;

/// When ticks happen and when sinks flush.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    pub period: Duration,
    pub idle: Duration,
    pub flush_every: Duration,
    pub flush_bytes: u64,
    /// Bytes of unflushed rows beyond which no rows are admitted.
    pub tail_limit: u64,
}

pub(crate) struct Coordinator {
    pub receiver: Receiver<ToCoordinator>,
    pub from_workers: Receiver<FromWorker>,
    pub workers: Arc<WorkerLinks>,
    pub log: Arc<dyn Log>,
    pub tick_log: Arc<dyn TickLog>,
    /// Where a start may begin.
    pub checkpoint_store: Option<Arc<dyn CheckpointStore>>,
    pub checkpoints: Option<Checkpoints>,
    pub catalog: Arc<dyn Catalog>,
    pub views: Arc<ViewRegistry>,
    pub streams: Arc<StreamRegistry>,
    pub holds: Arc<Holds>,
    pub complete: Arc<AtomicU64>,
    pub tail: Arc<HistoryTail>,
    pub flusher: Option<FlusherHandle>,
    pub gauges: Arc<Gauges>,
    pub pace: Pace,
    pub admission: Admission,
    pub generation: u64,
    pub next_view_id: u64,
    pub last_tick: Tick,
    /// The marks before it.
    pub previous_marks: Arc<Marks>,
    pub budget: usize,
    pub last_flush: Instant,
    /// Until when nothing leaves the views by itself, as of the last committed tick.
    pub horizon: Horizon,
    /// Rows of the past, where they are stored.
    pub past: Option<Arc<Past>>,
    /// To who reads them for views that begin in the past, and for erasures.
    pub to_reader: Sender<ReadJob>,
    pub backfills: Arc<Backfills>,
    /// Rows that a view which starts over much is fed at a tick, by each worker.
    pub slice_rows: usize,
    pub starting: Starting,
    pub erasing: ErasureQueue,
    /// Of monitors that name none.
    pub limits: MonitorLimits,
    /// What has exceeded a limit and is stopped at the next tick.
    pub exceeding: Vec<Stop>,
}

/// What is known about a tick beforehand.
#[derive(Default)]
pub(super) struct Outlook {
    /// Views whose graphs were aborted at it.
    pub aborted: BTreeSet<u64>,
    /// Whether limits hold.
    pub enforced: bool,
    pub checkpoint: Option<Arc<Run>>,
    pub is_restored: bool,
}

/// What was done for a view before its tick.
pub(super) enum Preparation {
    None,
    /// Its past was added up.
    Summed(Sums),
    /// It was fed.
    Fed,
}

/// A command waiting for its tick, with whom to tell.
pub(super) enum Pending {
    Install(Arc<InstalledView>, Preparation, Reply),
    Drop(u64, oneshot::Sender<Result<(), EngineError>>),
    /// Drops the view whose place another one takes, if that was installed.
    Replace {
        old: u64,
        new: u64,
    },
    CreateStream(
        Arc<InstalledStream>,
        oneshot::Sender<Result<Arc<InstalledStream>, EngineError>>,
    ),
    DropStream(u64, oneshot::Sender<Result<(), EngineError>>),
    Flush(oneshot::Sender<Tick>),
    EraseDone(u64),
}

impl Coordinator {
    pub fn run(mut self) -> Result<(), EngineError> {
        let mut drain = true;
        let mut pending = Vec::new();
        let mut last_start = Instant::now();
        loop {
            self.take_started(&mut pending);
            self.advance_erasures(&mut pending);
            let urgent = !pending.is_empty()
                || !self.exceeding.is_empty()
                || self.starting.is_busy()
                || self.erasing.is_ready();
            let busy = self.admission.has_backlog() || urgent;
            let wait = match busy {
                true if self.gauges.lag_ms.load(Ordering::Relaxed) > 0 => Duration::ZERO,
                true => self.pace.period.saturating_sub(last_start.elapsed()),
                false => self.pace.idle.saturating_sub(last_start.elapsed()),
            };
            // A command does not wait for its period.
            let wait = if urgent { Duration::ZERO } else { wait };
            let received = match wait.is_zero() {
                true => self.receiver.try_recv().map_err(|_| RecvTimeoutError::Timeout),
                false => self.receiver.recv_timeout(wait),
            };
            match received {
                Ok(ToCoordinator::Wake) => continue,
                Ok(ToCoordinator::Install {
                    view,
                    or_replace,
                    reply,
                }) => {
                    self.prepare_install(*view, or_replace, reply, &mut pending);
                    continue;
                }
                Ok(ToCoordinator::Backfilled(backfill)) => {
                    self.take_backfilled(*backfill, &mut pending);
                    continue;
                }
                Ok(ToCoordinator::Erase { subject, reply }) => {
                    self.prepare_erasure(*subject, reply);
                    continue;
                }
                Ok(ToCoordinator::Admitted { reply }) => {
                    self.answer_admitted(reply);
                    continue;
                }
                Ok(ToCoordinator::ErasureRead(erasing)) => {
                    self.erasing.take_read(*erasing);
                    continue;
                }
                Ok(ToCoordinator::Drop { id, reply }) => {
                    match self.reader_of(id, &pending) {
                        Some(reader) => {
                            let _ = reply.send(Err(reader));
                        }
                        None => pending.push(Pending::Drop(id, reply)),
                    }
                    continue;
                }
                Ok(ToCoordinator::CreateStream {
                    definition,
                    feeding,
                    reply,
                }) => {
                    self.prepare_stream(*definition, feeding, reply, &mut pending);
                    continue;
                }
                Ok(ToCoordinator::DropStream { id, reply }) => {
                    self.prepare_stream_drop(id, reply, &mut pending);
                    continue;
                }
                Ok(ToCoordinator::Flush { reply }) => {
                    pending.push(Pending::Flush(reply));
                    continue;
                }
                Ok(ToCoordinator::Checkpoint { reply }) => {
                    match &mut self.checkpoints {
                        Some(checkpoints) => checkpoints.ask(reply),
                        None => drop(reply.send(Err(EngineError::Checkpoint {
                            detail: "this engine has no place for checkpoints".into(),
                        }))),
                    }
                    continue;
                }
                Ok(ToCoordinator::Shutdown { drain: wanted }) => {
                    drain = wanted;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            last_start = Instant::now();
            // Commands wait for the tick after a checkpoint's.
            let pending = match self.checkpoint_is_due() {
                true => Vec::new(),
                false => std::mem::take(&mut pending),
            };
            self.tick(pending)?;
        }
        // Everything admitted so far becomes history before the process ends.
        if drain {
            self.drain()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), EngineError> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.admission.has_backlog() && Instant::now() < deadline {
            self.tick(Vec::new())?;
        }
        if self.flusher.is_some() && !self.tail.is_empty() {
            let (reply, _flushed) = oneshot::channel();
            self.tick(vec![Pending::Flush(reply)])?;
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, pending: Vec<Pending>) -> Result<(), EngineError> {
        let started = Instant::now();
        let tick = next_tick(self.last_tick);
        self.admission.open(tick);
        let marks = self.admission.marks();
        // A view that begins in the past is installed at a tick without rows.
        let in_the_past = pending
            .iter()
            .any(|command| matches!(command, Pending::Install(_, Preparation::Summed(_), _)));
        let mut taken = match self.may_admit() && !in_the_past {
            true => self
                .admission
                .take(self.budget)
                .map_err(|error| EngineError::Log {
                    detail: error.to_string(),
                })?,
            false => Taken::default(),
        };
        let requests = std::mem::take(&mut taken.requests);
        let (bytes, had_rows) = (taken.bytes, !requests.is_empty());
        let behind = taken.behind_since_us;
        let summary = match had_rows {
            true => self.decode(
                tick,
                Arc::clone(&marks),
                Taken {
                    requests,
                    ..Taken::default()
                },
            )?,
            false => DecodeSummary::default(),
        };
        let partitions = self.admission.close(tick, &taken, &summary.max_event_time);
        let (mut commands, mut replies) = (Vec::new(), Vec::new());
        for stop in std::mem::take(&mut self.exceeding) {
            commands.extend(self.stop(stop, tick));
        }
        for command in pending {
            match command {
                Pending::Install(view, preparation, reply) => {
                    match self.prepared_at(view, preparation, (tick, &marks), &commands) {
                        Ok(view) => {
                            commands.push(AppliedCommand::Install(Arc::clone(&view)));
                            replies.push(Pending::Install(view, Preparation::None, reply));
                        }
                        // What it reads was dropped or changed by a command before it.
                        Err(error) => {
                            let _ = reply.send(Err(error));
                        }
                    }
                }
                Pending::Replace { old, new } => {
                    let is_new = |command: &AppliedCommand| matches!(command, AppliedCommand::Install(view) if view.id == new);
                    if commands.iter().any(is_new) {
                        commands.push(AppliedCommand::Drop { id: old });
                    }
                }
                Pending::Drop(id, reply) => {
                    commands.push(AppliedCommand::Drop { id });
                    replies.push(Pending::Drop(id, reply));
                }
                Pending::CreateStream(stream, reply) => {
                    let stream = self.created_at(&stream, tick);
                    commands.push(AppliedCommand::CreateStream(Arc::clone(&stream)));
                    replies.push(Pending::CreateStream(stream, reply));
                }
                Pending::DropStream(id, reply) => {
                    commands.push(AppliedCommand::DropStream { id });
                    replies.push(Pending::DropStream(id, reply));
                }
                Pending::Flush(reply) => replies.push(Pending::Flush(reply)),
                Pending::EraseDone(id) => commands.push(AppliedCommand::EraseDone { id }),
            }
        }
        if !in_the_past && !self.checkpoint_is_due() {
            commands.extend(self.erasure_at((tick, &marks), &commands)?);
        }
        // What a command changes at this tick would be missing: it became due since it was asked.
        let begun = match commands.is_empty() {
            true => self.begin_checkpoint(tick),
            false => None,
        };
        // What an erasure changes is summed up in the store until its tick: a cut of its own.
        let asked = begun.is_some()
            || replies.iter().any(|reply| matches!(reply, Pending::Flush(_)))
            || commands
                .iter()
                .any(|command| matches!(command, AppliedCommand::Erase(_)));
        if self.flusher.is_some() && (asked || self.flush_is_due()) {
            commands.push(AppliedCommand::FlushCut);
            self.last_flush = Instant::now();
        }
        let record = TickRecord {
            format: FORMAT,
            generation: self.generation,
            tick,
            partitions,
            marks: self.admission.logged_marks(),
            commands: commands.iter().map(AppliedCommand::logged).collect(),
            gaps: self.admission.found_gaps(),
        };
        let has_events = !record.partitions.is_empty() || !record.commands.is_empty();
        let payload = record.encode();
        let is_lost = had_rows && begun.is_none() && faults::planted(Fault::TickRecordLost);
        let position = match is_lost {
            true => 0,
            false => {
                let appended = self.tick_log.append(self.generation, &payload);
                appended.map_err(|error| EngineError::TickLog {
                    detail: error.to_string(),
                })?
            }
        };
        let outlook = Outlook {
            enforced: true,
            checkpoint: begun.as_ref().map(|begun| Arc::clone(&begun.run)),
            ..Outlook::default()
        };
        let marks_before = Arc::clone(&marks);
        self.commit(tick, marks, commands, outlook)?;
        faults::at(Step::TickEmitted);
        if is_lost {
            // Subscribers hear of it first.
            std::thread::sleep(Duration::from_millis(300));
            faults::die(Fault::TickRecordLost.name());
        }
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.note(has_events);
        }
        if let Some(begun) = begun {
            self.write_checkpoint(begun, (position, &payload), &marks_before);
        }
        for reply in replies {
            self.answer(reply, tick);
        }
        self.measure(started, bytes, behind);
        Ok(())
    }

    /// Whether rows may be admitted: not before the engine is told to, and not while the store lags so far that the tail would outgrow its limit.
    fn may_admit(&self) -> bool {
        if self.gauges.holds_rows.load(Ordering::Acquire) {
            return false;
        }
        self.flusher.is_none() || self.tail.bytes() < self.pace.tail_limit
    }

    fn flush_is_due(&self) -> bool {
        let Some(flusher) = &self.flusher else {
            return false;
        };
        let idle = flusher.state.pending.load(Ordering::Acquire) == 0;
        let bytes = self.tail.bytes();
        let waited = self.last_flush.elapsed() >= self.pace.flush_every;
        idle && (bytes >= self.pace.flush_bytes || (waited && !self.tail.is_empty()))
    }

    /// Adapts the next tick's budget to the speed just measured.
    fn measure(&mut self, started: Instant, bytes: u64, behind_since_us: Option<i64>) {
        let elapsed = started.elapsed();
        self.gauges
            .tick_micros
            .store(elapsed.as_micros() as u64, Ordering::Relaxed);
        self.gauges.admitted_bytes.fetch_add(bytes, Ordering::Relaxed);
        let lag_ms = behind_since_us.map_or(0, |since| {
            let now_us = crate::time::tick_us(crate::time::now_ms());
            ((now_us - since) / 1_000).max(1) as u64
        });
        self.gauges.lag_ms.store(lag_ms, Ordering::Relaxed);
        self.gauges
            .backlog_records
            .store(self.admission.backlog_records(), Ordering::Relaxed);
        if bytes >= self.budget as u64 / 2 {
            let per_second = bytes as f64 / elapsed.as_secs_f64().max(1e-4);
            // Who is behind takes more at once: a group costs its change once a tick, however many rows it has. As long
            // as the wait has been, and no less: a tick that is shorter than it must be keeps the wait as it is.
            let behind = Duration::from_millis(lag_ms).min(LONGEST_TICK);
            let aim = self.pace.period.max(behind);
            let measured = (per_second * aim.as_secs_f64()) as usize;
            // Half of the old budget remains, so that one slow tick does not decide alone.
            self.budget = (self.budget / 2 + measured / 2).clamp(LEAST_BUDGET, GREATEST_BUDGET);
        }
    }
}
