//! The subscribe hub: frames for complete ticks only.
//!
//! Every worker reports what its share of a view changed at a tick; once all have, the changes are one frame. The
//! hub keeps a ring of the last frames per view, so that a subscriber resumes after a reconnect (or after a crash:
//! replay fills the ring again) without gap or repeat, and hands the changes to the history tail.
//!
//! Invariants: frames of one subscription follow on (`lower` of the next is `upper` of the last); a slow subscriber
//! never slows anyone else down: when its bounded queue is full it gets a fresh snapshot with `reset` instead.

mod ring;
mod subscriber;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use self::ring::Ring;
pub use self::subscriber::{Event, Frame};
pub(crate) use self::subscriber::{NewSubscriber, only_project};
use self::subscriber::{State, Subscriber};
use super::consolidate::{Changes, TickChanges, consolidate};
use super::flush::FlusherHandle;
use super::holds::Holds;
use super::messages::{AppliedCommand, PeekShare, ToHub, ViewChange, ViewLeftOut};
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
            self.state.rings.insert(relation.id(), Ring::new(relation));
        }
    }

    fn deliver(&mut self, tick: Tick, frames: &BTreeMap<RelationId, TickChanges>) {
        let mut snapshots = Vec::new();
        let mut closed = Vec::new();
        for (id, subscriber) in &mut self.state.subscribers {
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
                    let changes = changes.and_then(TickChanges::net);
                    subscriber.tell(&self.lineage, tick, changes);
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
        let ring = &self.state.rings[&new.relation.id()];
        let after = new.as_of.map_or(complete, |as_of| as_of.min(complete));
        let wants_snapshot = new.snapshot || new.resume.is_some();
        let mut subscriber = Subscriber {
            next_lower: resumed.unwrap_or(after + 1),
            new,
            state: State::Live,
        };
        let asked = [
            subscriber.new.as_of,
            subscriber.new.up_to.map(|up_to| up_to.saturating_sub(1)),
        ];
        // Content of a tick that has passed is the newest without what came after.
        let oldest = asked.into_iter().flatten().filter(|tick| *tick < complete).min();
        if let Some(oldest) = oldest.filter(|oldest| oldest + 1 < ring.floor) {
            subscriber.refuse(format!(
                "tick {oldest} is no longer known: the changes of this view are kept since tick {}",
                ring.floor
            ));
        } else if let Some(future) = subscriber.new.as_of.filter(|as_of| *as_of > complete) {
            subscriber.refuse(format!(
                "as_of is tick {future}, which has not come; the newest complete one is {complete}"
            ));
        } else if resumed.is_some() || !wants_snapshot {
            let missed = ring.since(subscriber.next_lower);
            if !missed.is_empty() || resumed.is_some() || subscriber.new.up_to.is_some() {
                subscriber.catch_up(&self.lineage, &missed, complete);
            }
        } else {
            self.state.subscribers.insert(id, subscriber);
            self.request_snapshot(id);
            return;
        }
        self.state.subscribers.insert(id, subscriber);
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
        let hub = self.sender.clone();
        let workers = Arc::clone(&self.workers);
        // A thread of its own: the hub must not wait for workers, which may be waiting for the hub.
        let waiting = std::thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || {
                let shares = workers.peek(relation, tick);
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
        let mut parts: Vec<Changes> = shares
            .into_iter()
            .flatten()
            .map(|(batch, diffs)| Changes { batch, diffs })
            .collect();
        subscriber.state = State::Live;
        let shown = subscriber.shows(tick);
        let missed = if shown == tick {
            pending
        } else {
            let missed = self.state.rings.get(&subscriber.new.relation.id());
            let missed = missed.filter(|ring| ring.floor <= shown + 1);
            let Some(missed) = missed.map(|ring| ring.since(shown + 1)) else {
                return subscriber.refuse(format!("tick {shown} is no longer known"));
            };
            for (_, changes) in missed.iter().filter(|(at, _)| *at <= tick) {
                parts.extend(changes.parts().into_iter().map(Changes::negated));
            }
            missed
        };
        // A snapshot that replaces what a slow reader missed is of the newest tick.
        subscriber.new.as_of = None;
        subscriber.send(&self.lineage, shown + 1, true, consolidate(&parts));
        if matches!(subscriber.state, State::Live) {
            match missed.is_empty() && complete == shown {
                true => subscriber.end_at(complete),
                false => subscriber.catch_up(&self.lineage, &missed, complete),
            }
        }
    }
}
