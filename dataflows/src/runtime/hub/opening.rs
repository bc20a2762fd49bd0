//! How subscriptions begin: with a snapshot, where a token continues, or at a tick that has passed.

use std::sync::Arc;

use super::open_windows::{MOST_BYTES, OpenWindows, window_end_column};
use super::subscriber::{Event, NewSubscriber, Refusal, State, Subscriber};
use super::{Hub, HubState};
use crate::runtime::consolidate::{Changes, consolidate};
use crate::runtime::messages::{PeekShare, ToHub};
use crate::runtime::views::RelationId;
use crate::time::Tick;

impl Hub {
    pub(super) fn on_subscribe(&mut self, new: NewSubscriber) {
        let id = new.id;
        let complete = self.complete_tick();
        if !self.state.rings.contains_key(&new.relation.id()) {
            let _ = new.sender.try_send(Event::End {
                reason: "the monitor was dropped".into(),
            });
            return;
        }
        let resumed = new.resume.as_deref().and_then(|token| {
            let point = self.resume_point(new.relation.id(), token, complete)?;
            (point.watermark.is_some() == new.closed_windows).then_some(point)
        });
        let ring = &self.state.rings[&new.relation.id()];
        let after = new.as_of.map_or(complete, |as_of| as_of.min(complete));
        let wants_snapshot = new.snapshot || new.resume.is_some();
        let windows = new
            .closed_windows
            .then(|| window_end_column(&new.relation.schema()));
        let mut subscriber = Subscriber {
            next_lower: resumed.map_or(after + 1, |point| point.upper),
            windows: windows
                .flatten()
                .map(|column| OpenWindows::new(column, MOST_BYTES)),
            known: None,
            new,
            state: State::Live,
        };
        let asked = [
            subscriber.new.as_of,
            subscriber.new.up_to.map(|up_to| up_to.saturating_sub(1)),
        ];
        // Content of a tick that has passed is the newest without what came after.
        let oldest = asked.into_iter().flatten().filter(|tick| *tick < complete).min();
        if subscriber.new.as_of.is_some() && subscriber.new.resume.is_some() {
            subscriber.refuse(
                Refusal::Tick,
                "\"resume\" and \"as_of\" both say where to begin; give one of them".into(),
            );
        } else if let Some(oldest) = oldest.filter(|oldest| oldest + 1 < ring.floor) {
            subscriber.refuse(
                Refusal::Tick,
                format!(
                    "tick {oldest} is no longer known: the changes of this view are kept since tick {}",
                    ring.floor
                ),
            );
        } else if let Some(future) = subscriber.new.as_of.filter(|as_of| *as_of > complete) {
            subscriber.refuse(
                Refusal::Tick,
                format!("as_of is tick {future}, which has not come; the newest complete one is {complete}"),
            );
        } else if subscriber.new.closed_windows {
            self.begin_closed_windows(subscriber, resumed, oldest);
            return;
        } else if resumed.is_some() || !wants_snapshot {
            let missed = ring.since(subscriber.next_lower);
            if !missed.is_empty() || resumed.is_some() || subscriber.new.up_to.is_some() {
                subscriber.catch_up(&self.lineage, &missed, complete, |_| i64::MIN);
            }
        } else {
            self.state.subscribers.insert(id, subscriber);
            self.request_snapshot(id);
            return;
        }
        self.state.subscribers.insert(id, subscriber);
    }

    /// Rows of open windows are read first in any case; `oldest` is the oldest tick whose content is asked for.
    fn begin_closed_windows(
        &mut self,
        mut subscriber: Subscriber,
        resumed: Option<ResumePoint>,
        oldest: Option<Tick>,
    ) {
        let id = subscriber.new.id;
        let view = Arc::clone(&subscriber.new.relation.view);
        let complete = self.complete_tick();
        let watermark = |tick| self.state.watermarks.of(&view, tick, &self.state.rings);
        let continued = resumed.and_then(|point| Some((point.upper - 1, point.watermark?)));
        let after = subscriber.next_lower - 1;
        if subscriber.windows.is_none() {
            subscriber.refuse(
                Refusal::NoWindow,
                "there is no column window_end, so no window ever closes; select it, or leave \"envelope\" out".into(),
            );
        } else if let Some(oldest) = oldest.filter(|oldest| watermark(*oldest).is_none()) {
            subscriber.refuse(
                Refusal::Tick,
                format!("which windows were closed at tick {oldest} is no longer known"),
            );
        } else {
            subscriber.known = match (continued, subscriber.new.snapshot) {
                (Some(known), _) => Some(known),
                (None, false) if subscriber.new.resume.is_none() => {
                    Some((after, watermark(after.min(complete)).unwrap_or(i64::MIN)))
                }
                _ => None,
            };
            self.state.subscribers.insert(id, subscriber);
            self.request_snapshot(id);
            return;
        }
        self.state.subscribers.insert(id, subscriber);
    }

    /// Where a token continues, if the ring still has everything after it.
    fn resume_point(&self, relation: RelationId, token: &str, complete: Tick) -> Option<ResumePoint> {
        let (lineage, rest) = token.split_once('.')?;
        let (incarnation, rest) = rest.split_once('.')?;
        let (upper, watermark) = match rest.split_once('.') {
            None => (rest, None),
            Some((upper, watermark)) => (upper, Some(watermark.parse().ok()?)),
        };
        let upper: Tick = upper.parse().ok()?;
        let ring = self.state.rings.get(&relation)?;
        let known = lineage == self.lineage && incarnation == relation.to_string();
        let held = upper > 0 && upper >= ring.floor && upper <= complete + 1;
        (known && held).then_some(ResumePoint { upper, watermark })
    }

    pub(super) fn request_snapshot(&mut self, id: u64) {
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
                let shares = workers.peek(relation, tick, &Arc::default(), &Arc::default());
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

    pub(super) fn on_snapshot(&mut self, id: u64, tick: Tick, shares: Vec<PeekShare>) {
        let complete = self.complete_tick();
        let HubState {
            subscribers,
            watermarks,
            rings,
            ..
        } = &mut self.state;
        let Some(subscriber) = subscribers.get_mut(&id) else {
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
        let ring = rings.get(&subscriber.new.relation.id());
        let reaches = |shown: Tick| ring.is_some_and(|ring| ring.floor <= shown + 1);
        // A ring that has lost what came after a token meanwhile leaves only a reset.
        let known = subscriber.known.take().filter(|(shown, _)| reaches(*shown));
        let shown = known.map_or_else(|| subscriber.shows(tick), |(shown, _)| shown.min(tick));
        let missed = if shown == tick {
            pending
        } else {
            let Some(missed) = ring.filter(|_| reaches(shown)).map(|ring| ring.since(shown + 1)) else {
                return subscriber.refuse(Refusal::Tick, format!("tick {shown} is no longer known"));
            };
            for (_, changes) in missed.iter().filter(|(at, _)| *at <= tick) {
                parts.extend(changes.parts().into_iter().map(Changes::negated));
            }
            missed
        };
        // A snapshot that replaces what a slow reader missed is of the newest tick.
        subscriber.new.as_of = None;
        let view = Arc::clone(&subscriber.new.relation.view);
        let windows = subscriber.windows.is_some();
        if windows && known.is_none() && watermarks.of(&view, shown, rings).is_none() {
            return subscriber.refuse(
                Refusal::Tick,
                format!("which windows were closed at tick {shown} is no longer known"),
            );
        }
        let watermark = |tick| {
            let of_tick = windows.then(|| watermarks.of(&view, tick, rings));
            of_tick.flatten().unwrap_or(i64::MIN)
        };
        match known {
            Some(known) => subscriber.begin_known(known, consolidate(&parts)),
            None => subscriber.send(
                &self.lineage,
                shown + 1,
                true,
                consolidate(&parts),
                watermark(shown),
            ),
        }
        if matches!(subscriber.state, State::Live) {
            match missed.is_empty() && complete == shown {
                true => subscriber.end_at(complete),
                false => subscriber.catch_up(&self.lineage, &missed, complete, watermark),
            }
        }
    }
}

/// Where a subscription continues.
#[derive(Clone, Copy)]
struct ResumePoint {
    upper: Tick,
    /// Which windows were closed, of a token of closed windows.
    watermark: Option<i64>,
}
