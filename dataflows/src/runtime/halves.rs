//! The two halves of a tick: all workers decode their shares; once the tick's record is durable, all emit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyflare_connectors::Signal;

use super::EngineError;
use super::admission::Taken;
use super::coordinator::{Coordinator, Outlook};
use super::messages::{AppliedCommand, Commit, DecodeSummary, FromWorker, Horizon, ToWorker};
use super::rewriting::note_ended;
use super::streams::{Marks, StreamId};
use crate::time::Tick;

impl Coordinator {
    /// First half of a tick: every worker decodes its share.
    pub(super) fn decode(
        &mut self,
        tick: Tick,
        marks: Arc<Marks>,
        taken: Taken,
    ) -> Result<DecodeSummary, EngineError> {
        let workers = self.workers.len();
        let mut shares: Vec<(u64, Vec<_>)> = (0..workers).map(|_| (0, Vec::new())).collect();
        for request in taken.requests {
            let lightest = shares
                .iter_mut()
                .min_by_key(|(bytes, _)| *bytes)
                .expect("invariant: there is a worker");
            lightest.0 += request.record.body.len() as u64;
            lightest.1.push(request);
        }
        for (worker, (_, requests)) in shares.into_iter().enumerate() {
            self.workers.send(
                worker,
                ToWorker::Decode {
                    tick,
                    marks: Arc::clone(&marks),
                    requests,
                },
            );
        }
        let mut total = DecodeSummary::default();
        for _ in 0..workers {
            match self.from_workers.recv() {
                Ok(FromWorker::Decoded { summary }) => total.merge(summary),
                Ok(FromWorker::Done { .. }) => unreachable!("a worker decodes before it commits"),
                Ok(FromWorker::Failed) | Err(_) => return Err(EngineError::WorkerFailed),
            }
        }
        if let Some(sample) = &total.failure_sample {
            tracing::warn!(
                requests = total.failed_requests,
                sample,
                "requests could not be decoded and were left out"
            );
        }
        for (stream, counts) in &total.rows {
            match stream {
                StreamId::Signal(signal) => {
                    self.gauges.rows[*signal as usize].fetch_add(counts.admitted, Ordering::Relaxed);
                }
                StreamId::User(id) => {
                    self.gauges.rows[Signal::Streams as usize].fetch_add(counts.admitted, Ordering::Relaxed);
                    if let Some(stream) = self.streams.by_id(*id) {
                        stream.count(*counts);
                    }
                }
            }
        }
        let mut rejections = std::mem::take(&mut total.rejections);
        rejections.sort_by_key(|(_, rejection)| (rejection.partition, rejection.offset, rejection.row));
        for (stream, rejection) in rejections {
            if let StreamId::User(id) = stream
                && let Some(stream) = self.streams.by_id(id)
            {
                stream.reject(rejection);
            }
        }
        self.gauges
            .rejected_rows
            .fetch_add(total.rejected_rows, Ordering::Relaxed);
        self.gauges
            .failed_requests
            .fetch_add(total.failed_requests, Ordering::Relaxed);
        Ok(total)
    }

    /// Second half: the record is durable, everybody emits.
    pub(super) fn commit(
        &mut self,
        tick: Tick,
        marks: Arc<Marks>,
        commands: Vec<AppliedCommand>,
        outlook: Outlook,
    ) -> Result<(), EngineError> {
        let Outlook {
            aborted,
            enforced,
            checkpoint,
            is_restored,
        } = outlook;
        // History hides the rows before a view can show that they are gone.
        for command in &commands {
            if let AppliedCommand::Erase(erased) = command {
                self.note_erased(erased);
            }
        }
        let since = self.holds.since(&self.complete);
        let commit = Arc::new(Commit {
            tick,
            marks,
            commands,
            since,
            aborted,
            enforced,
            checkpoint,
            is_restored,
        });
        self.workers.broadcast(|| ToWorker::Commit(Arc::clone(&commit)));
        let mut done = BTreeSet::new();
        self.horizon = Horizon::NEVER;
        while done.len() < self.workers.len() {
            match self.from_workers.recv() {
                Ok(FromWorker::Done {
                    worker,
                    horizon,
                    ready,
                }) => {
                    self.starting.note(worker, &ready);
                    let known = std::mem::replace(&mut self.horizon, Horizon::NEVER);
                    self.horizon = known.least(horizon);
                    done.insert(worker);
                }
                Ok(FromWorker::Decoded { .. }) => unreachable!("a worker commits after it decoded"),
                Ok(FromWorker::Failed) | Err(_) => return Err(EngineError::WorkerFailed),
            }
        }
        for command in &commit.commands {
            match command {
                AppliedCommand::Install(view) => {
                    if !is_restored {
                        note_ended(view, &self.views.all(), &commit.marks, tick);
                    }
                    self.views.insert(Arc::clone(view));
                    self.keep_in_catalog(view);
                }
                AppliedCommand::Drop { id } => {
                    if let Some(view) = self.views.remove(*id) {
                        self.forget_in_catalog(&view);
                    }
                }
                AppliedCommand::CreateStream(stream) => {
                    self.admission.attach(stream);
                    self.streams.insert(Arc::clone(stream));
                }
                AppliedCommand::DropStream { id } => {
                    self.streams.remove(*id);
                    self.admission.forget(*id);
                }
                AppliedCommand::EraseDone { id } => self.note_removed(*id),
                AppliedCommand::Erase(_) | AppliedCommand::Stop(_) | AppliedCommand::FlushCut => {}
            }
        }
        // While the log is replayed, the next record has the decision.
        if enforced && tick > self.erasing.settles_until() {
            self.exceeding = self.exceeded(tick);
        }
        self.last_tick = tick;
        self.previous_marks = Arc::clone(&commit.marks);
        self.gauges.tick.store(tick, Ordering::Release);
        self.gauges
            .duplicates
            .store(self.admission.duplicates, Ordering::Relaxed);
        self.gauges
            .requests
            .store(self.admission.admitted_requests, Ordering::Relaxed);
        for (stream, mark_us) in self.admission.marks().iter() {
            match stream {
                StreamId::Signal(signal) => {
                    self.gauges.marks[signal as usize].store(mark_us, Ordering::Relaxed)
                }
                StreamId::User(id) => {
                    if let Some(stream) = self.streams.by_id(id) {
                        stream.set_mark(mark_us);
                    }
                }
            }
        }
        Ok(())
    }
}
