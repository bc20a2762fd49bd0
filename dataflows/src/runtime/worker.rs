//! One timely worker: decodes its share of a tick, emits it, and answers peeks between ticks.
//!
//! A tick has two halves. *Decode* turns admitted requests into Arrow batches and reports their greatest event
//! times; the coordinator then makes the tick record durable; *commit* folds the batches into every view's
//! accumulators, steps the dataflows until all workers' contributions are in, and reports what changed. Between
//! ticks nothing is in flight, so panes expire and views are read at exact ticks, a slice at a time.
//!
//! No async and no input or output here, and all workers apply the same commands in the same order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use timely::worker::Worker;

use super::checkpoint::Dumping;
use super::decoding::Decoding;
use super::messages::{
    AdmittedRequest, AppliedCommand, Commit, FromWorker, Horizon, PeekRequest, RestoredEntry, ToHub,
    ToWorker, ViewChange,
};
use super::stepping::{PeerFailed, Stepping};
use super::streams::Marks;
use super::sums::Seed;
use super::tail::HistoryTail;
use super::views::RelationId;
use super::worker_base::DecodedBatch;
use super::worker_reading::{Content, Reading};
use super::worker_views::Views;
use crate::render::Ledger;
use crate::render::walk::Fuel;
use crate::time::Tick;

pub(crate) struct WorkerContext {
    pub index: usize,
    pub receiver: Receiver<ToWorker>,
    pub coordinator: Sender<FromWorker>,
    pub hub: Sender<ToHub>,
    /// Where rows go for history; `None` without a store.
    pub tail: Option<Arc<HistoryTail>>,
    /// Set when a worker has ended by a panic: the others would wait for its share for ever.
    pub failed: Arc<AtomicBool>,
    /// Rows that a view which starts over much is fed at a tick.
    pub slice_rows: usize,
    /// How long it reads before it looks for other work.
    pub read_slice: Duration,
}

struct WorkerState {
    context: WorkerContext,
    decoding: Decoding,
    views: Views,
    /// What the views leave out.
    ledger: Ledger,
    /// Of bases that the next commit installs.
    seeds: Vec<Seed>,
    /// Of companions, at the next commit.
    entries: Vec<RestoredEntry>,
    /// What is being read; the first has the next slice.
    readings: VecDeque<Reading>,
    /// What a checkpoint is given.
    dumping: Option<Dumping>,
}

pub(crate) fn run(worker: &mut Worker, context: WorkerContext) {
    let slice_rows = context.slice_rows;
    let mut state = WorkerState {
        context,
        decoding: Decoding::new(),
        views: Views::build(worker, slice_rows),
        ledger: Ledger::build(worker),
        seeds: Vec::new(),
        entries: Vec::new(),
        dumping: None,
        readings: VecDeque::new(),
    };
    loop {
        match state.context.receiver.try_recv() {
            Ok(ToWorker::Decode {
                tick,
                marks,
                requests,
            }) => state.decode(tick, &marks, requests),
            Ok(ToWorker::Commit(commit)) => {
                if state.commit(worker, &commit).is_err() {
                    break;
                }
            }
            Ok(ToWorker::Prepare { view, tick }) => state.views.prepare(worker, &view, tick),
            Ok(ToWorker::GiveUp { id }) => state.views.remove(id),
            Ok(ToWorker::Seed(seeds)) => state.seeds.extend(seeds),
            Ok(ToWorker::Entries(entries)) => state.entries.extend(entries),
            Ok(ToWorker::Peek(request)) => state.peek(request),
            Ok(ToWorker::Shutdown) | Err(TryRecvError::Disconnected) => break,
            // Idle traces are merged while the worker has nothing else to do.
            Err(TryRecvError::Empty) if state.readings.is_empty() => {
                let pause = match &state.dumping {
                    None => Duration::from_millis(500),
                    Some(_) => Duration::from_millis(1),
                };
                worker.step_or_park(Some(pause));
            }
            Err(TryRecvError::Empty) => drop(worker.step()),
        }
        state.read();
        state.dumping.take_if(|dumping| dumping.advance());
    }
    let failed = Arc::clone(&state.context.failed);
    drop(state);
    while worker.has_dataflows() && !failed.load(Ordering::Acquire) {
        if !worker.step() {
            break;
        }
    }
    // What a failed worker leaves unfinished is finished by nobody, and timely waits for what is installed.
    if failed.load(Ordering::Acquire) {
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    }
}

impl WorkerState {
    fn decode(&mut self, tick: Tick, marks: &Marks, requests: Vec<AdmittedRequest>) {
        let summary = self.decoding.decode(tick, marks, requests);
        let _ = self.context.coordinator.send(FromWorker::Decoded { summary });
    }

    fn commit(&mut self, worker: &mut Worker, commit: &Arc<Commit>) -> Result<(), PeerFailed> {
        let tick = commit.tick;
        self.ledger.open_tick(tick, commit.since);
        for entry in self.entries.drain(..) {
            // A view that was dropped at that tick has none any more.
            let is_of = |command: &AppliedCommand| matches!(command, AppliedCommand::Install(view) if view.id == entry.view);
            if commit.commands.iter().any(is_of) {
                self.ledger.adopt(entry.leaves, &entry.rest, entry.accumulator);
            }
        }
        let failed = Arc::clone(&self.context.failed);
        let mut stepping = Stepping::new(worker, &failed);
        let mut outcome = self.views.commit(
            &mut stepping,
            commit,
            (&self.decoding.batches, &mut self.seeds),
            &mut self.ledger,
        )?;
        for command in &commit.commands {
            if let AppliedCommand::Install(installed) = command {
                if self.views.is_starting(installed.id) {
                    self.views
                        .publish(commit, installed, &mut self.ledger, &mut outcome);
                    continue;
                }
                let seeds = &mut self.seeds;
                self.views.install(
                    &mut stepping,
                    commit,
                    installed,
                    seeds,
                    &mut self.ledger,
                    &mut outcome,
                )?;
            }
        }
        self.seeds.clear();
        self.ledger.close_tick(tick);
        stepping.until(|| self.ledger.is_complete(tick))?;
        let mut changes = outcome.changes;
        changes.extend(
            self.ledger
                .take_changes(tick)
                .into_iter()
                .map(|entered| ViewChange {
                    relation: RelationId {
                        view: entered.view,
                        companion: Some(entered.companion),
                    },
                    batch: entered.batch,
                    diffs: entered.diffs,
                    expiry: entered.expiry,
                }),
        );
        if let Some(tail) = &self.context.tail {
            for decoded in self.decoding.batches.drain(..) {
                let DecodedBatch {
                    stream, batch, bytes, ..
                } = decoded;
                tail.push_rows(stream, tick, batch, bytes);
            }
        }
        self.decoding.batches.clear();
        for command in &commit.commands {
            match command {
                AppliedCommand::Drop { id } => {
                    self.views.remove(*id);
                    self.ledger.forget(*id);
                }
                AppliedCommand::CreateStream(stream) => self.decoding.add(stream),
                AppliedCommand::DropStream { id } => self.decoding.remove(*id),
                AppliedCommand::Install(_)
                | AppliedCommand::Stop(_)
                | AppliedCommand::Erase(_)
                | AppliedCommand::EraseDone { .. }
                | AppliedCommand::FlushCut => {}
            }
        }
        if let Some(run) = &commit.checkpoint {
            self.dumping = Some(Dumping::begin(
                run,
                self.context.index,
                &mut self.views,
                &mut self.ledger,
            ));
        }
        let _ = self.context.hub.send(ToHub::Tick {
            commit: Arc::clone(commit),
            changes,
            rewrites: outcome.rewrites,
            renewals: outcome.renewals,
            left_out: outcome.left_out,
        });
        let _ = self.context.coordinator.send(FromWorker::Done {
            worker: self.context.index,
            ready: self.views.ready(),
            horizon: self.views.horizon().least(Horizon {
                tick: self.ledger.next_leave(),
                ..Horizon::NEVER
            }),
        });
        Ok(())
    }

    fn peek(&mut self, request: PeekRequest) {
        let RelationId { view, companion } = request.relation;
        let content = match companion {
            Some(companion) if self.views.contains(view) => {
                Content::of_companion(self.ledger.read(view, companion, request.tick))
            }
            Some(_) => Content::nothing(),
            None => self.views.content(view, request.tick, &request.wanted),
        };
        self.readings.push_back(Reading::new(request, content));
    }

    /// Reads a slice for one of the peeks; whatever happens meanwhile, they read their tick.
    fn read(&mut self) {
        let Some(mut reading) = self.readings.pop_front() else {
            return;
        };
        if !reading.advance(&mut Fuel::lasting(self.context.read_slice)) {
            self.readings.push_back(reading);
        }
    }
}
