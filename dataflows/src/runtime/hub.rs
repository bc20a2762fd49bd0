//! The subscribe hub: frames for complete ticks only.
//!
//! Every worker reports what its share of a view changed at a tick; once all have, the changes are one frame. The
//! hub keeps a ring of the last frames per view, so that a subscriber resumes after a reconnect (or after a crash:
//! replay fills the ring again) without gap or repeat, and hands the changes to the history tail.
//!
//! Invariants: frames of one subscription follow on (`lower` of the next is `upper` of the last); a slow subscriber
//! never slows anyone else down: when its bounded queue is full it gets a fresh snapshot with `reset` instead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::sync::mpsc;

use super::consolidate::{Changes, TickChanges, consolidate};
use super::flush::FlusherHandle;
use super::holds::{Holds, ReadHold};
use super::messages::{AppliedCommand, PeekRequest, PeekShare, ToHub, ToWorker, ViewChange, ViewLeftOut};
use super::tail::HistoryTail;
use super::views::{InstalledView, Relation, RelationId};
use super::worker_link::WorkerLinks;
use crate::time::Tick;

/// Frames older than this leave the ring.
const RING_MS: u64 = 5 * 60 * 1_000;
/// Bytes of frames kept per view; beyond it the oldest leave earlier.
const RING_BYTES: usize = 16 << 20;
/// Frames that may wait for one subscriber.
pub(crate) const SUBSCRIBER_QUEUE: usize = 256;

/// The net change of the ticks `lower ≤ t < upper`.
#[derive(Debug, Clone)]
pub struct Frame {
    pub lower: Tick,
    pub upper: Tick,
    /// Forget what you had: this is all of it.
    pub reset: bool,
    /// The changed rows; `None` when only time has passed.
    pub batch: Option<RecordBatch>,
    /// The difference of each row, never zero.
    pub diffs: Vec<i64>,
    /// Opaque; hand it back to continue right after this frame.
    pub resume: String,
}

/// What a subscription yields.
#[derive(Debug, Clone)]
pub enum Event {
    Frame(Frame),
    /// The view is gone.
    End {
        reason: String,
    },
}

pub(crate) struct NewSubscriber {
    pub id: u64,
    pub relation: Relation,
    pub project: Option<String>,
    pub snapshot: bool,
    pub progress: bool,
    pub resume: Option<String>,
    pub every_tick: bool,
    pub sender: mpsc::Sender<Event>,
}

enum State {
    /// A snapshot at this tick is being read; changes after it wait.
    AwaitingSnapshot {
        tick: Tick,
        pending: Vec<TickChanges>,
        _hold: ReadHold,
    },
    Live,
    /// The queue was full: a snapshot follows once there is room.
    Lagging,
}

struct Subscriber {
    new: NewSubscriber,
    state: State,
    next_lower: Tick,
}

struct Ring {
    relation: Relation,
    frames: VecDeque<(Tick, TickChanges)>,
    bytes: usize,
    /// The ring holds every change at a tick ≥ this.
    floor: Tick,
}

pub(crate) struct Hub {
    pub receiver: Receiver<ToHub>,
    pub sender: crossbeam_channel::Sender<ToHub>,
    pub workers: Arc<WorkerLinks>,
    pub tail: Arc<HistoryTail>,
    pub keep_tail: bool,
    pub flusher: Option<FlusherHandle>,
    pub holds: Arc<Holds>,
    pub complete: Arc<AtomicU64>,
    pub lineage: String,
    pub complete_listener: tokio::sync::watch::Sender<Tick>,
    state: HubState,
}

#[derive(Default)]
struct HubState {
    rings: BTreeMap<RelationId, Ring>,
    subscribers: BTreeMap<u64, Subscriber>,
    open: BTreeMap<Tick, OpenTick>,
}

#[derive(Default)]
struct OpenTick {
    workers: usize,
    changes: Vec<ViewChange>,
    left_out: Vec<ViewLeftOut>,
    commands: Vec<AppliedCommand>,
}

pub(crate) struct HubOptions {
    pub receiver: Receiver<ToHub>,
    pub sender: crossbeam_channel::Sender<ToHub>,
    pub workers: Arc<WorkerLinks>,
    pub tail: Arc<HistoryTail>,
    pub flusher: Option<FlusherHandle>,
    pub holds: Arc<Holds>,
    pub complete: Arc<AtomicU64>,
    pub lineage: String,
    pub complete_listener: tokio::sync::watch::Sender<Tick>,
}

impl Hub {
    pub fn new(options: HubOptions) -> Hub {
        let HubOptions {
            receiver,
            sender,
            workers,
            tail,
            flusher,
            holds,
            complete,
            lineage,
            complete_listener,
        } = options;
        let keep_tail = flusher.is_some();
        let state = HubState::default();
        Hub {
            receiver,
            sender,
            workers,
            tail,
            keep_tail,
            flusher,
            holds,
            complete,
            lineage,
            complete_listener,
            state,
        }
    }

    pub fn run(mut self) {
        loop {
            match self.receiver.recv_timeout(Duration::from_millis(200)) {
                Ok(ToHub::Tick {
                    tick,
                    changes,
                    left_out,
                    commands,
                }) => {
                    self.on_tick_share(tick, changes, left_out, commands);
                }
                Ok(ToHub::Subscribe(new)) => self.on_subscribe(*new),
                Ok(ToHub::Snapshot {
                    subscriber,
                    tick,
                    shares,
                }) => self.on_snapshot(subscriber, tick, shares),
                Ok(ToHub::Shutdown) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.drop_closed(),
            }
        }
        for (_, subscriber) in std::mem::take(&mut self.state.subscribers) {
            let _ = subscriber.new.sender.try_send(Event::End {
                reason: "the server is shutting down".into(),
            });
        }
    }

    fn complete_tick(&self) -> Tick {
        self.complete.load(Ordering::Acquire)
    }

    fn on_tick_share(
        &mut self,
        tick: Tick,
        changes: Vec<ViewChange>,
        left_out: Vec<ViewLeftOut>,
        commands: Vec<AppliedCommand>,
    ) {
        let open = self.state.open.entry(tick).or_default();
        open.workers += 1;
        open.changes.extend(changes);
        open.left_out.extend(left_out);
        open.commands = commands;
        if open.workers == self.workers.len() {
            let complete = self
                .state
                .open
                .remove(&tick)
                .expect("invariant: it was just there");
            self.on_complete(tick, complete);
        }
    }

    fn on_complete(&mut self, tick: Tick, complete: OpenTick) {
        // First: what a new view shows already is its change at this tick.
        for command in &complete.commands {
            if let AppliedCommand::Install(view) = command {
                self.add_view(view);
            }
        }
        for left_out in complete.left_out {
            let view = RelationId {
                view: left_out.view,
                companion: None,
            };
            if let Some(ring) = self.state.rings.get(&view) {
                let counters = &ring.relation.view.counters;
                counters
                    .late_rows
                    .fetch_add(left_out.late_rows, Ordering::Relaxed);
                counters
                    .error_rows
                    .fetch_add(left_out.error_rows, Ordering::Relaxed);
                if left_out.error_sample.is_some() {
                    *counters.error_sample.lock() = left_out.error_sample;
                }
            }
        }
        let mut by_relation: BTreeMap<RelationId, (Vec<Changes>, Vec<Changes>)> = BTreeMap::new();
        for ViewChange {
            relation,
            batch,
            diffs,
            expiry,
        } in complete.changes
        {
            let (live, all) = by_relation.entry(relation).or_default();
            let changes = Changes { batch, diffs };
            if !expiry {
                live.push(changes.clone());
            }
            all.push(changes);
        }
        let mut frames: BTreeMap<RelationId, TickChanges> = BTreeMap::new();
        for (id, (live, all)) in by_relation {
            let Some(ring) = self.state.rings.get_mut(&id) else {
                continue;
            };
            let only_live = live.len() == all.len();
            let changes = TickChanges::new(all);
            if self.keep_tail && id.companion.is_none() {
                let stored = match only_live {
                    true => changes.clone(),
                    false => TickChanges::new(live),
                };
                self.tail.push_changes(id.view, tick, stored);
            }
            ring.push(tick, changes.clone());
            frames.insert(id, changes);
        }
        let mut flush = false;
        for command in complete.commands {
            match command {
                AppliedCommand::Install(_) | AppliedCommand::CreateStream(_) | AppliedCommand::Stop(_) => {}
                AppliedCommand::DropStream { id } => self.tail.remove_stream(id),
                AppliedCommand::Drop { id } => {
                    self.state.rings.retain(|relation, _| relation.view != id);
                    self.tail.remove_view(id);
                    self.end_subscribers(id);
                }
                AppliedCommand::FlushCut => flush = true,
            }
        }
        self.complete.store(tick, Ordering::Release);
        let _ = self.complete_listener.send(tick);
        if let (true, Some(flusher)) = (flush, &self.flusher) {
            flusher.flush(tick);
        }
        self.deliver(tick, &frames);
    }

    fn add_view(&mut self, view: &Arc<InstalledView>) {
        if self.keep_tail {
            self.tail.add_view(Arc::clone(view));
        }
        for relation in Relation::all_of(view) {
            let ring = Ring {
                floor: view.installed_at,
                relation,
                frames: VecDeque::new(),
                bytes: 0,
            };
            self.state.rings.insert(ring.relation.id(), ring);
        }
    }

    fn deliver(&mut self, tick: Tick, frames: &BTreeMap<RelationId, TickChanges>) {
        let mut snapshots = Vec::new();
        let mut closed = Vec::new();
        for (id, subscriber) in &mut self.state.subscribers {
            if subscriber.new.sender.is_closed() {
                closed.push(*id);
                continue;
            }
            let changes = frames.get(&subscriber.new.relation.id());
            match &mut subscriber.state {
                State::AwaitingSnapshot {
                    tick: at, pending, ..
                } => {
                    if let Some(changes) = changes.filter(|_| tick > *at) {
                        pending.push(changes.clone());
                    }
                }
                State::Live => {
                    let changes = changes.and_then(TickChanges::net);
                    subscriber.send(&self.lineage, tick + 1, false, changes);
                }
                State::Lagging => {
                    if subscriber.new.sender.capacity() >= SUBSCRIBER_QUEUE / 2 {
                        snapshots.push(*id);
                    }
                }
            }
        }
        for id in closed {
            self.state.subscribers.remove(&id);
        }
        for id in snapshots {
            self.request_snapshot(id);
        }
    }

    fn drop_closed(&mut self) {
        self.state
            .subscribers
            .retain(|_, subscriber| !subscriber.new.sender.is_closed());
    }

    fn end_subscribers(&mut self, view: u64) {
        self.state.subscribers.retain(|_, subscriber| {
            let ended = subscriber.new.relation.view.id == view;
            if ended {
                let _ = subscriber.new.sender.try_send(Event::End {
                    reason: "the monitor was dropped".into(),
                });
            }
            !ended
        });
    }

    fn on_subscribe(&mut self, new: NewSubscriber) {
        let id = new.id;
        let complete = self.complete_tick();
        if !self.state.rings.contains_key(&new.relation.id()) {
            let _ = new.sender.try_send(Event::End {
                reason: "the monitor was dropped".into(),
            });
            return;
        }
        let resumed = new
            .resume
            .as_deref()
            .and_then(|token| self.resume_point(new.relation.id(), token, complete));
        let wants_snapshot = new.snapshot || new.resume.is_some();
        let next_lower = resumed.unwrap_or(complete + 1);
        let mut subscriber = Subscriber {
            new,
            state: State::Live,
            next_lower,
        };
        match resumed {
            Some(from) => {
                let missed = self.state.rings[&subscriber.new.relation.id()].since(from);
                if subscriber.new.every_tick {
                    for (tick, changes) in missed {
                        let Some(changes) = changes.net() else { continue };
                        // A queue that is full asks for a snapshot.
                        if matches!(subscriber.state, State::Live) {
                            subscriber.send(&self.lineage, tick + 1, false, Some(changes));
                        }
                    }
                    if matches!(subscriber.state, State::Live) {
                        subscriber.send(&self.lineage, complete + 1, false, None);
                    }
                } else {
                    let missed: Vec<Changes> =
                        missed.iter().flat_map(|(_, changes)| changes.parts()).collect();
                    subscriber.send(&self.lineage, complete + 1, false, consolidate(&missed));
                }
                self.state.subscribers.insert(id, subscriber);
            }
            None => {
                self.state.subscribers.insert(id, subscriber);
                if wants_snapshot {
                    self.request_snapshot(id);
                }
            }
        }
    }

    /// The tick from which a token continues, if the ring still has everything after it.
    fn resume_point(&self, relation: RelationId, token: &str, complete: Tick) -> Option<Tick> {
        let (lineage, rest) = token.split_once('.')?;
        let (incarnation, upper) = rest.split_once('.')?;
        let upper: Tick = upper.parse().ok()?;
        let ring = self.state.rings.get(&relation)?;
        let known = lineage == self.lineage && incarnation == relation.to_string();
        (known && upper >= ring.floor && upper <= complete + 1).then_some(upper)
    }

    fn request_snapshot(&mut self, id: u64) {
        let hold = self.holds.take(&self.complete);
        let tick = hold.tick();
        let Some(subscriber) = self.state.subscribers.get_mut(&id) else {
            return;
        };
        let relation = subscriber.new.relation.id();
        subscriber.state = State::AwaitingSnapshot {
            tick,
            pending: Vec::new(),
            _hold: hold,
        };
        let (reply, shares) = crossbeam_channel::bounded(self.workers.len());
        let hub = self.sender.clone();
        let workers = Arc::clone(&self.workers);
        // A thread of its own: the hub must not wait for workers, which may be waiting for the hub.
        let waiting = std::thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || {
                workers.broadcast(|| {
                    ToWorker::Peek(PeekRequest {
                        relation,
                        tick,
                        reply: reply.clone(),
                    })
                });
                drop(reply);
                let shares: Vec<PeekShare> = shares.iter().take(workers.len()).collect();
                if shares.len() == workers.len() {
                    let _ = hub.send(ToHub::Snapshot {
                        subscriber: id,
                        tick,
                        shares,
                    });
                }
            });
        if let Err(error) = waiting {
            tracing::warn!(%error, "a snapshot could not be started");
            self.state.subscribers.remove(&id);
        }
    }

    fn on_snapshot(&mut self, id: u64, tick: Tick, shares: Vec<PeekShare>) {
        let complete = self.complete_tick();
        let Some(subscriber) = self.state.subscribers.get_mut(&id) else {
            return;
        };
        let State::AwaitingSnapshot {
            tick: at, pending, ..
        } = &mut subscriber.state
        else {
            return;
        };
        if *at != tick {
            return;
        }
        let pending = std::mem::take(pending);
        let parts: Vec<Changes> = shares
            .into_iter()
            .flatten()
            .map(|(batch, diffs)| Changes { batch, diffs })
            .collect();
        subscriber.state = State::Live;
        subscriber.send(&self.lineage, tick + 1, true, consolidate(&parts));
        let missed: Vec<Changes> = pending.iter().flat_map(TickChanges::parts).collect();
        if complete > tick && matches!(subscriber.state, State::Live) {
            subscriber.send(&self.lineage, complete + 1, false, consolidate(&missed));
        }
    }
}

impl Subscriber {
    /// Sends the net change up to `upper`; without changes only if progress or a reset is wanted.
    fn send(&mut self, lineage: &str, upper: Tick, reset: bool, changes: Option<Changes>) {
        let changes = changes.and_then(|changes| self.visible(changes));
        if changes.is_none() && !reset && !self.new.progress {
            return;
        }
        let (batch, diffs) = match changes {
            Some(changes) => (Some(changes.batch), changes.diffs),
            None => (None, Vec::new()),
        };
        let lower = if reset {
            self.new.relation.view.installed_at
        } else {
            self.next_lower
        };
        let lower = lower.min(upper);
        let resume = format!("{lineage}.{}.{upper}", self.new.relation.id());
        let frame = Frame {
            lower,
            upper,
            reset,
            batch,
            diffs,
            resume,
        };
        match self.new.sender.try_send(Event::Frame(frame)) {
            Ok(()) => self.next_lower = upper,
            Err(_) => self.state = State::Lagging,
        }
    }

    /// Of a built-in view only the rows of the subscriber's project.
    fn visible(&self, changes: Changes) -> Option<Changes> {
        let (Some(project), None) = (&self.new.project, &self.new.relation.view.name.project) else {
            return Some(changes);
        };
        only_project(changes, project)
    }
}

/// The rows whose `project` column is this one.
pub(crate) fn only_project(changes: Changes, project: &str) -> Option<Changes> {
    let index = changes.batch.schema().index_of("project").ok()?;
    let mask: BooleanArray = match changes.batch.column(index).data_type() {
        DataType::Utf8View => changes
            .batch
            .column(index)
            .as_string_view()
            .iter()
            .map(|value| Some(value == Some(project)))
            .collect(),
        _ => changes
            .batch
            .column(index)
            .as_string::<i32>()
            .iter()
            .map(|value| Some(value == Some(project)))
            .collect(),
    };
    let diffs: Vec<i64> = changes
        .diffs
        .iter()
        .zip(mask.values())
        .filter(|(_, keep)| *keep)
        .map(|(diff, _)| *diff)
        .collect();
    let batch =
        filter_record_batch(&changes.batch, &mask).expect("invariant: mask and batch are equally long");
    (batch.num_rows() > 0).then_some(Changes { batch, diffs })
}

impl Ring {
    fn push(&mut self, tick: Tick, changes: TickChanges) {
        self.relation.count(changes.rows(), changes.updates());
        self.bytes += changes.approximate_bytes();
        self.frames.push_back((tick, changes));
        while let Some((oldest, changes)) = self.frames.front() {
            if self.bytes <= RING_BYTES && oldest + RING_MS >= tick {
                break;
            }
            self.floor = oldest + 1;
            self.bytes -= changes.approximate_bytes();
            self.frames.pop_front();
        }
    }

    fn since(&self, from: Tick) -> Vec<(Tick, TickChanges)> {
        self.frames
            .iter()
            .filter(|(tick, _)| *tick >= from)
            .cloned()
            .collect()
    }
}
