//! One timely worker: decodes its share of a tick, emits it, and answers peeks between ticks.
//!
//! A tick has two halves. *Decode* turns admitted requests into Arrow batches and reports their greatest event
//! times; the coordinator then makes the tick record durable; *commit* folds the batches into every view's
//! accumulators, steps the dataflows until all workers' contributions are in, and reports what changed. Between
//! ticks nothing is in flight, so panes expire and views are read at exact ticks.
//!
//! No async and no input or output here, and all workers apply the same commands in the same order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use pyflare_connectors::{ContentType, Signal};
use pyflare_operators::decode::{self, BodyEncoding, Decoder, Origin, OtlpSignal};
use timely::worker::Worker;

use super::messages::{
    AdmittedRequest, AppliedCommand, Commit, DecodeSummary, FromWorker, Horizon, PeekRequest, ToHub,
    ToWorker, ViewChange, ViewLeftOut,
};
use super::tail::HistoryTail;
use super::views::{InstalledView, RelationId};
use crate::render::left_out::LeftOut;
use crate::render::{ArrangedView, Finish, KeyCache, Ledger, Tap};
use crate::time::Tick;

/// Rows of one decoded batch: large enough for vectorised evaluation, small enough for the cache.
const BATCH_ROWS: usize = 8_192;
/// Rows of one finished batch when a view is read.
const PEEK_ROWS: usize = 8_192;

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

/// Another worker has ended by a panic.
struct PeerFailed;

/// A view on this worker.
struct WorkerView {
    installed: Arc<InstalledView>,
    signal: Signal,
    tap: Tap,
    finish: Finish,
    arranged: ArrangedView,
    /// Of the tick at hand.
    left_out: LeftOut,
}

/// A decoded batch waiting for its tick's commit.
struct DecodedBatch {
    signal: Signal,
    batch: RecordBatch,
    bytes: u64,
}

struct WorkerState {
    context: WorkerContext,
    decoders: [Decoder; 3],
    batches: Vec<DecodedBatch>,
    views: BTreeMap<u64, WorkerView>,
    /// What the views leave out.
    ledger: Ledger,
}

pub(crate) fn run(worker: &mut Worker, context: WorkerContext) {
    let decoders = [OtlpSignal::Traces, OtlpSignal::Metrics, OtlpSignal::Logs].map(Decoder::new);
    let mut state = WorkerState {
        context,
        decoders,
        batches: Vec::new(),
        views: BTreeMap::new(),
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
        let mut left_out = Vec::new();
        self.ledger.open_tick(tick, commit.since);
        for view in self.views.values_mut() {
            view.arranged.compact(commit.since);
            let mark = commit.marks[view.signal as usize];
            if let Some(until) = view.tap.view().rule.expired_until(mark) {
                view.arranged.expire(until);
            }
        }
        // All views of a batch while it is in the processor's cache.
        for decoded in &self.batches {
            let event_time = event_time(&decoded.batch);
            let mut cache = KeyCache::default();
            for view in self
                .views
                .values_mut()
                .filter(|view| view.signal == decoded.signal)
            {
                let mark = commit.marks[view.signal as usize];
                let source = select(decoded, &view.tap.view().source_columns);
                view.tap
                    .fold(&source, &event_time, mark, &mut cache, &mut view.left_out);
            }
        }
        for (id, view) in &mut self.views {
            let missing = std::mem::take(&mut view.left_out);
            let arranged = &mut view.arranged;
            view.tap
                .drain(|key, accumulator| arranged.update(key, accumulator));
            arranged.close_tick(tick);
            if missing.late.rows > 0 || missing.errors.rows > 0 {
                let page = view.installed.page();
                self.ledger.enter_late(&page, tick, &missing.late);
                self.ledger.enter_errors(&page, tick, &missing.errors, false);
                left_out.push(ViewLeftOut {
                    view: *id,
                    late_rows: missing.late.rows,
                    error_rows: missing.errors.rows,
                    error_sample: missing.errors.sample,
                });
            }
        }
        for view in self.views.values() {
            self.step_until(worker, || view.arranged.is_complete(tick))?;
        }
        let mut changes = self.changes(commit, &mut left_out);
        self.ledger.close_tick(tick);
        self.step_until(worker, || self.ledger.is_complete(tick))?;
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
            self.apply(worker, tick, command);
        }
        let commands = commit.commands.clone();
        let _ = self.context.hub.send(ToHub::Tick {
            tick,
            changes,
            left_out,
            commands,
        });
        let _ = self.context.coordinator.send(FromWorker::Done {
            worker: self.context.index,
            horizon: self.horizon(),
        });
        Ok(())
    }

    fn step_until(&self, worker: &mut Worker, done: impl Fn() -> bool) -> Result<(), PeerFailed> {
        while !done() {
            if self.context.failed.load(Ordering::Acquire) {
                return Err(PeerFailed);
            }
            worker.step_or_park(Some(Duration::from_millis(10)));
        }
        Ok(())
    }

    fn horizon(&self) -> Horizon {
        let mut horizon = Horizon {
            tick: self.ledger.next_leave(),
            ..Horizon::NEVER
        };
        for view in self.views.values() {
            let leaves = view.tap.view().rule.leaves_at(view.arranged.lowest_pane());
            let mark = &mut horizon.marks[view.signal as usize];
            *mark = leaves.min(*mark);
        }
        horizon
    }

    fn changes(&mut self, commit: &Commit, left_out: &mut Vec<ViewLeftOut>) -> Vec<ViewChange> {
        let mut reported = Vec::new();
        for (id, view) in &mut self.views {
            let changes = view.arranged.take_changes();
            if changes.is_empty() {
                continue;
            }
            debug_assert!(changes.iter().all(|change| change.tick == commit.tick));
            let until = view
                .tap
                .view()
                .rule
                .expired_until(commit.marks[view.signal as usize]);
            let (live, expired) = view.finish.changes(&changes, until);
            for (finished, expiry) in [(live, false), (expired, true)] {
                let Some(finished) = finished else { continue };
                if finished.errors.rows > 0 {
                    let page = view.installed.page();
                    self.ledger
                        .enter_errors(&page, commit.tick, &finished.errors, true);
                    left_out.push(ViewLeftOut {
                        view: *id,
                        late_rows: 0,
                        error_rows: finished.errors.came(),
                        error_sample: finished.errors.sample,
                    });
                }
                if finished.batch.num_rows() > 0 {
                    reported.push(ViewChange {
                        relation: RelationId {
                            view: *id,
                            companion: None,
                        },
                        batch: finished.batch,
                        diffs: finished.diffs,
                        expiry,
                    });
                }
            }
        }
        reported
    }

    fn apply(&mut self, worker: &mut Worker, tick: Tick, command: &AppliedCommand) {
        match command {
            AppliedCommand::Install(installed) => {
                let rendered = &installed.rendered;
                let checked = "invariant: the definition was compiled before it was logged";
                let view = WorkerView {
                    signal: super::flush::stream_of(&rendered.stream)
                        .expect("invariant: a source is a signal's stream"),
                    tap: Tap::new(Arc::clone(rendered)).expect(checked),
                    finish: Finish::new(Arc::clone(rendered)).expect(checked),
                    arranged: ArrangedView::build(
                        worker,
                        &installed.name.to_string(),
                        rendered.layout,
                        tick + 1,
                    ),
                    left_out: LeftOut::default(),
                    installed: Arc::clone(installed),
                };
                self.views.insert(installed.id, view);
            }
            // Its input closes with it; an aggregate holds no future updates, so nothing is released by that.
            AppliedCommand::Drop { id } => {
                self.views.remove(id);
                self.ledger.forget(*id);
            }
            AppliedCommand::FlushCut => {}
        }
    }

    fn peek(&mut self, request: PeekRequest) {
        let RelationId { view: id, companion } = request.relation;
        let Some(view) = self.views.get_mut(&id) else {
            let _ = request.reply.send(Vec::new());
            return;
        };
        if let Some(companion) = companion {
            let share = self.ledger.read(id, companion, request.tick);
            let _ = request.reply.send(vec![share]);
            return;
        }
        let mut share = Vec::new();
        let mut entries = Vec::with_capacity(PEEK_ROWS);
        let finish = &view.finish;
        let mut finish_entries = |entries: &mut Vec<(crate::render::arrange::Key, _)>| {
            let borrowed: Vec<_> = entries
                .iter()
                .map(|(key, accumulator)| (&key[..], accumulator, 1))
                .collect();
            let finished = finish.rows(&borrowed);
            share.push((finished.batch, finished.diffs));
            entries.clear();
        };
        view.arranged.read(request.tick, |key, accumulator| {
            entries.push((key.clone(), accumulator));
            if entries.len() == PEEK_ROWS {
                finish_entries(&mut entries);
            }
        });
        if !entries.is_empty() {
            finish_entries(&mut entries);
        }
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

fn event_time(batch: &RecordBatch) -> ArrayRef {
    Arc::clone(
        batch
            .column_by_name("event_time")
            .expect("invariant: every stream has an event time"),
    )
}

fn select(decoded: &DecodedBatch, columns: &[String]) -> RecordBatch {
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    decode::select(decoded.signal.stream(), &decoded.batch, &names)
        .expect("invariant: the decoder made this batch")
}
