//! The subscribe hub: frames for complete ticks only.
//!
//! Every worker reports what its share of a view changed at a tick; once all have, the changes are one frame. The
//! hub keeps a ring of the last frames per view, so that a subscriber resumes after a reconnect (or after a crash:
//! replay fills the ring again) without gap or repeat, and hands the changes to the history tail.
//!
//! Invariants: frames of one subscription follow on (`lower` of the next is `upper` of the last); a slow subscriber
//! never slows anyone else down: when its bounded queue is full it gets a fresh snapshot with `reset` instead.

mod open_windows;
mod opening;
mod ring;
mod subscriber;
mod watermarks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use pyflare_connectors::faults::{self, Fault};

use self::ring::Ring;
pub(crate) use self::subscriber::NewSubscriber;
pub use self::subscriber::{Event, Frame, Refusal};
use self::subscriber::{State, Subscriber};
use self::watermarks::Watermarks;
use super::checkpoint::ViewCounts;
use super::consolidate::{Changes, TickChanges};
use super::flush::FlusherHandle;
use super::holds::Holds;
use super::messages::{AppliedCommand, Commit, Renewal, ToHub, ViewChange, ViewLeftOut};
use super::rewriting::Rewrite;
use super::tail::HistoryTail;
use super::views::{InstalledView, Relation, RelationId};
use super::worker_link::WorkerLinks;
use crate::time::Tick;

/// Frames that may wait for one subscriber.
pub(crate) const SUBSCRIBER_QUEUE: usize = 256;

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
    watermarks: Watermarks,
    open: BTreeMap<Tick, OpenTick>,
}

#[derive(Default)]
struct OpenTick {
    workers: usize,
    changes: Vec<ViewChange>,
    rewrites: Vec<Rewrite>,
    renewals: Vec<Renewal>,
    left_out: Vec<ViewLeftOut>,
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
                    commit,
                    changes,
                    rewrites,
                    renewals,
                    left_out,
                }) => {
                    self.on_tick_share(&commit, changes, (rewrites, renewals, left_out));
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
        commit: &Commit,
        changes: Vec<ViewChange>,
        (rewrites, renewals, left_out): (Vec<Rewrite>, Vec<Renewal>, Vec<ViewLeftOut>),
    ) {
        let tick = commit.tick;
        let open = self.state.open.entry(tick).or_default();
        open.workers += 1;
        open.changes.extend(changes);
        open.rewrites.extend(rewrites);
        open.renewals.extend(renewals);
        open.left_out.extend(left_out);
        if open.workers == self.workers.len() {
            let complete = self
                .state
                .open
                .remove(&tick)
                .expect("invariant: it was just there");
            self.on_complete(commit, complete);
        }
    }

    fn on_complete(&mut self, commit: &Commit, complete: OpenTick) {
        let tick = commit.tick;
        self.state
            .watermarks
            .push(tick, Arc::clone(&commit.marks), commit.enforced);
        // First: what a new view shows already is its change at this tick.
        for command in &commit.commands {
            if let AppliedCommand::Install(view) = command {
                self.add_view(view);
            }
        }
        if commit.is_restored {
            return self.on_restored(tick, complete);
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
        let mut rewritten: BTreeMap<u64, Vec<Changes>> = BTreeMap::new();
        for Rewrite { view, batch, diffs } in complete.rewrites {
            rewritten.entry(view).or_default().push(Changes { batch, diffs });
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
                let stored = match (only_live, rewritten.remove(&id.view)) {
                    (true, None) => changes.clone(),
                    (_, rewritten) => {
                        TickChanges::new(live.into_iter().chain(rewritten.into_iter().flatten()).collect())
                    }
                };
                self.tail.push_changes(id.view, tick, stored);
            }
            ring.push(tick, changes.clone());
            let view = &ring.relation.view;
            // What it shows when it is installed is no change.
            if id.companion.is_none() && tick > view.installed_at && !commit.erases() {
                let most = view.limits.updates_per_second;
                view.rate.observe(tick, changes.updates(), most, commit.enforced);
            }
            frames.insert(id, changes);
        }
        if self.keep_tail {
            for (view, changes) in rewritten {
                self.tail.push_changes(view, tick, TickChanges::new(changes));
            }
            let mut renewed: BTreeMap<u64, Vec<Changes>> = BTreeMap::new();
            for Renewal { view, content } in complete.renewals {
                let content = content.into_iter().map(|(batch, diffs)| Changes { batch, diffs });
                renewed.entry(view).or_default().extend(content);
            }
            for (view, content) in renewed {
                self.tail.renew(view, tick, content);
            }
        }
        if let Some(run) = &commit.checkpoint {
            let rings = self.state.rings.values();
            let views = rings.filter(|ring| ring.relation.companion.is_none());
            let counted = views.map(|ring| (ring.relation.view.id, ViewCounts::of(&ring.relation.view)));
            let _ = run.counted.set(counted.collect());
        }
        let mut flush = false;
        for command in &commit.commands {
            match command {
                AppliedCommand::Install(_)
                | AppliedCommand::CreateStream(_)
                | AppliedCommand::Erase(_)
                | AppliedCommand::EraseDone { .. }
                | AppliedCommand::Stop(_) => {}
                AppliedCommand::DropStream { id } => self.tail.remove_stream(*id),
                AppliedCommand::Drop { id } => {
                    self.state.rings.retain(|relation, _| relation.view != *id);
                    self.tail.remove_view(*id);
                    self.end_subscribers(*id);
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

    /// What a checkpoint had is nobody's change; changes are known from the next tick on.
    fn on_restored(&mut self, tick: Tick, complete: OpenTick) {
        for ring in self.state.rings.values_mut() {
            ring.floor = tick + 1;
        }
        let mut shown: BTreeMap<RelationId, Vec<Changes>> = BTreeMap::new();
        for ViewChange {
            relation,
            batch,
            diffs,
            ..
        } in complete.changes
        {
            shown.entry(relation).or_default().push(Changes { batch, diffs });
        }
        for (id, changes) in shown {
            if let Some(ring) = self.state.rings.get(&id) {
                ring.relation.count(TickChanges::new(changes).rows(), 0);
            }
        }
        self.complete.store(tick, Ordering::Release);
        let _ = self.complete_listener.send(tick);
    }

    fn add_view(&mut self, view: &Arc<InstalledView>) {
        if self.keep_tail {
            self.tail.add_view(Arc::clone(view));
        }
        for relation in Relation::all_of(view) {
            self.state.rings.insert(relation.id(), Ring::new(relation));
        }
    }

    fn deliver(&mut self, tick: Tick, frames: &BTreeMap<RelationId, TickChanges>) {
        let mut snapshots = Vec::new();
        let mut closed = Vec::new();
        let HubState {
            subscribers,
            watermarks,
            rings,
            ..
        } = &mut self.state;
        for (id, subscriber) in subscribers {
            if subscriber.new.sender.is_closed() || matches!(subscriber.state, State::Over) {
                closed.push(*id);
                continue;
            }
            let changes = frames.get(&subscriber.new.relation.id());
            match &mut subscriber.state {
                State::AwaitingSnapshot {
                    tick: at, pending, ..
                } => {
                    if let Some(changes) = changes.filter(|_| tick > *at) {
                        pending.push((tick, changes.clone()));
                    }
                }
                State::Live => {
                    let changes = changes.filter(|_| !faults::planted(Fault::FrameDropped));
                    let changes = changes.and_then(TickChanges::net);
                    let watermark = match &subscriber.windows {
                        None => None,
                        Some(_) => watermarks.of(&subscriber.new.relation.view, tick, rings),
                    };
                    subscriber.tell(&self.lineage, tick, changes, watermark.unwrap_or(i64::MIN));
                }
                State::Over => {}
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
}
