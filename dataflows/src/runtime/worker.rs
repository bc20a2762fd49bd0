//! One timely worker: decodes its share of a tick, emits it, and answers peeks between ticks.
//!
//! A tick has two halves. *Decode* turns admitted requests into Arrow batches and reports their greatest event
//! times; the coordinator then makes the tick record durable; *commit* folds the batches into every view's
//! accumulators, steps the dataflows until all workers' contributions are in, and reports what changed. Between
//! ticks nothing is in flight, so panes expire and views are read at exact ticks.
//!
//! No async and no input or output here, and all workers apply the same commands in the same order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use pyflare_connectors::{ContentType, Signal};
use pyflare_operators::decode::{self, BodyEncoding, Decoder, Origin, OtlpSignal};
use timely::worker::Worker;

use super::messages::{
    AdmittedRequest, AppliedCommand, Commit, DecodeSummary, FromWorker, Horizon, PeekRequest, ToHub,
    ToWorker, ViewChange,
};
use super::stepping::{PeerFailed, Stepping};
use super::tail::HistoryTail;
use super::views::RelationId;
use super::worker_base::DecodedBatch;
use super::worker_views::Views;
use crate::render::Ledger;
use crate::time::Tick;

/// Rows of one decoded batch: large enough for vectorised evaluation, small enough for the cache.
const BATCH_ROWS: usize = 8_192;
pub(crate) struct WorkerContext {
    pub index: usize,
    pub receiver: Receiver<ToWorker>,
    pub coordinator: Sender<FromWorker>,
    pub hub: Sender<ToHub>,
    /// Where rows go for history; `None` without a store.
    pub tail: Option<Arc<HistoryTail>>,
    /// Set when a worker has ended by a panic: the others would wait for its share for ever.
    pub failed: Arc<AtomicBool>,
}

struct WorkerState {
    context: WorkerContext,
    decoders: [Decoder; 3],
    batches: Vec<DecodedBatch>,
    views: Views,
    /// What the views leave out.
    ledger: Ledger,
}

pub(crate) fn run(worker: &mut Worker, context: WorkerContext) {
    let decoders = [OtlpSignal::Traces, OtlpSignal::Metrics, OtlpSignal::Logs].map(Decoder::new);
    let mut state = WorkerState {
        context,
        decoders,
        batches: Vec::new(),
        views: Views::build(worker),
        ledger: Ledger::build(worker),
    };
    loop {
        match state.context.receiver.try_recv() {
            Ok(ToWorker::Decode {
                tick,
                marks,
                requests,
            }) => state.decode(tick, marks, requests),
            Ok(ToWorker::Commit(commit)) => {
                if state.commit(worker, &commit).is_err() {
                    break;
                }
            }
            Ok(ToWorker::Peek(request)) => state.peek(request),
            Ok(ToWorker::Shutdown) | Err(TryRecvError::Disconnected) => break,
            // Idle traces are merged while the worker has nothing else to do.
            Err(TryRecvError::Empty) => {
                worker.step_or_park(Some(Duration::from_millis(500)));
            }
        }
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
    fn decode(&mut self, tick: Tick, marks: [Option<i64>; 3], requests: Vec<AdmittedRequest>) {
        let mut summary = DecodeSummary::default();
        let mut pending_bytes = [0u64; 3];
        for request in requests {
            let AdmittedRequest {
                signal,
                partition,
                offset,
                record,
            } = request;
            let origin = Origin {
                project: &record.project,
                received_us: record.received_us,
                tick,
                mark_us: marks[signal as usize],
                partition,
                offset,
            };
            let encoding = match record.content_type {
                ContentType::Protobuf => BodyEncoding::Protobuf,
                ContentType::Json => BodyEncoding::Json,
            };
            let decoder = &mut self.decoders[signal as usize];
            match decoder.decode(&origin, encoding, &record.body) {
                Ok(decoded) => {
                    summary.rows[signal as usize] += u64::from(decoded.rows);
                    summary.rejected_rows += u64::from(decoded.rejected);
                    if let Some(latest) = decoded.max_event_time_us {
                        summary.observe(signal, partition, latest);
                    }
                    pending_bytes[signal as usize] += body_bytes(&record.body);
                }
                Err(error) => {
                    summary.failed_requests += 1;
                    summary.failure_sample.get_or_insert_with(|| error.to_string());
                }
            }
            if self.decoders[signal as usize].rows() >= BATCH_ROWS {
                self.finish_batch(signal, &mut pending_bytes, &mut summary);
            }
        }
        for signal in Signal::ALL {
            self.finish_batch(signal, &mut pending_bytes, &mut summary);
        }
        let _ = self.context.coordinator.send(FromWorker::Decoded { summary });
    }

    fn finish_batch(&mut self, signal: Signal, pending_bytes: &mut [u64; 3], summary: &mut DecodeSummary) {
        let decoder = &mut self.decoders[signal as usize];
        if decoder.rows() == 0 {
            return;
        }
        let bytes = std::mem::take(&mut pending_bytes[signal as usize]);
        match decoder.finish() {
            Ok(batch) => {
                let mut bytes = bytes;
                self.batches
                    .extend(decode::bounded(&batch).into_iter().map(|batch| DecodedBatch {
                        signal,
                        batch,
                        bytes: std::mem::take(&mut bytes),
                    }));
            }
            Err(error) => {
                summary.failed_requests += 1;
                summary.failure_sample.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn commit(&mut self, worker: &mut Worker, commit: &Commit) -> Result<(), PeerFailed> {
        let tick = commit.tick;
        self.ledger.open_tick(tick, commit.since);
        let failed = Arc::clone(&self.context.failed);
        let mut stepping = Stepping::new(worker, &failed);
        let mut outcome = self
            .views
            .commit(&mut stepping, commit, &self.batches, &mut self.ledger)?;
        for command in &commit.commands {
            if let AppliedCommand::Install(installed) = command {
                self.views
                    .install(&mut stepping, commit, installed, &mut self.ledger, &mut outcome)?;
            }
        }
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
            for DecodedBatch { signal, batch, bytes } in self.batches.drain(..) {
                tail.push_rows(signal, tick, batch, bytes);
            }
        }
        self.batches.clear();
        for command in &commit.commands {
            if let AppliedCommand::Drop { id } = command {
                self.views.remove(*id);
                self.ledger.forget(*id);
            }
        }
        let commands = commit.commands.clone();
        let _ = self.context.hub.send(ToHub::Tick {
            tick,
            changes,
            left_out: outcome.left_out,
            commands,
        });
        let _ = self.context.coordinator.send(FromWorker::Done {
            worker: self.context.index,
            horizon: self.views.horizon().least(Horizon {
                tick: self.ledger.next_leave(),
                ..Horizon::NEVER
            }),
        });
        Ok(())
    }

    fn peek(&mut self, request: PeekRequest) {
        let RelationId { view, companion } = request.relation;
        let share = match companion {
            Some(companion) if self.views.contains(view) => {
                vec![self.ledger.read(view, companion, request.tick)]
            }
            Some(_) => Vec::new(),
            None => self.views.read(view, request.tick),
        };
        let _ = request.reply.send(share);
    }
}

impl DecodeSummary {
    fn observe(&mut self, signal: Signal, partition: u32, event_time_us: i64) {
        let held = self
            .max_event_time
            .iter_mut()
            .find(|(s, p, _)| (*s, *p) == (signal, partition));
        match held {
            Some((.., latest)) => *latest = (*latest).max(event_time_us),
            None => self.max_event_time.push((signal, partition, event_time_us)),
        }
    }
}

fn body_bytes(body: &Bytes) -> u64 {
    body.len() as u64
}
