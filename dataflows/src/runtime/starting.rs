//! Views that start over much: fed in slices beside the running ones, installed once they have caught up.
//!
//! A graph over what is there begins with all of its inputs' content. Where that is much, the workers build the graph
//! before its install command and feed it some rows at every tick, beside the changes of these ticks; what it shows is
//! nobody's business yet. When it has had everything it is installed, with what it shows then. That is what it would
//! have shown if it had been fed at once, so the command says nothing of this, and a replay feeds it at once.
//!
//! One view starts like this at a time, and nothing that it reads can be dropped meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::EngineError;
use super::coordinator::{Coordinator, Pending, Preparation};
use super::messages::{AppliedCommand, ToWorker};
use super::views::InstalledView;
use crate::plan::MonitorDefinition;
use crate::time::Tick;

pub(super) type Reply = oneshot::Sender<Result<Arc<InstalledView>, EngineError>>;

/// A view is fed in slices if it starts with more than so many of them.
const SLICES: u64 = 4;

/// The view that is being fed, and those that wait for it.
#[derive(Default)]
pub(crate) struct Starting {
    current: Option<Current>,
    waiting: VecDeque<(MonitorDefinition, bool, Reply)>,
}

struct Current {
    view: Arc<InstalledView>,
    or_replace: bool,
    reply: Reply,
    /// Workers that have rows left to feed.
    feeding: BTreeSet<usize>,
    /// It has made more than it may.
    is_spent: bool,
}

impl Starting {
    /// Ticks are wanted, so that it gets on.
    pub fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    pub fn view(&self) -> Option<&Arc<InstalledView>> {
        self.current.as_ref().map(|current| &current.view)
    }

    /// What a worker says at the end of a tick: views that have had everything, and whether they made too much.
    pub fn note(&mut self, worker: usize, ready: &[(u64, bool)]) {
        let Some(current) = &mut self.current else { return };
        if let Some((_, is_spent)) = ready.iter().find(|(view, _)| *view == current.view.id) {
            current.feeding.remove(&worker);
            current.is_spent |= is_spent;
        }
    }
}

impl Coordinator {
    /// Whether a view starts with so much that its first content would hold a tick up.
    pub(super) fn starts_over_much(&self, view: &InstalledView, installed: &[Arc<InstalledView>]) -> bool {
        let is_there = |base: &Arc<crate::render::Base>| {
            let mut others = installed.iter().flat_map(|other| other.bases());
            others.any(|other| Arc::ptr_eq(base, other))
        };
        if view.rendered.graph.is_none() || !view.bases().all(is_there) {
            return false;
        }
        let of_views = |other: &&Arc<InstalledView>| view.sources.contains(&other.id);
        let rows = view.bases().map(|base| base.figures.greatest()).sum::<u64>()
            + installed
                .iter()
                .filter(of_views)
                .map(|source| source.rows())
                .sum::<u64>();
        rows > SLICES * self.slice_rows as u64
    }

    /// Has the workers build the view and feed it from the next tick on, or lets it wait for its turn.
    pub(super) fn start_in_slices(&mut self, view: Arc<InstalledView>, or_replace: bool, reply: Reply) {
        if self.starting.is_busy() {
            let waiting = &mut self.starting.waiting;
            waiting.push_back((view.definition.clone(), or_replace, reply));
            return;
        }
        let tick = self.last_tick;
        self.workers.broadcast(|| ToWorker::Prepare {
            view: Arc::clone(&view),
            tick,
        });
        self.starting.current = Some(Current {
            view,
            or_replace,
            reply,
            feeding: (0..self.workers.len()).collect(),
            is_spent: false,
        });
    }

    /// Installs the view next that has had everything, and lets the next one begin.
    pub(super) fn take_started(&mut self, pending: &mut Vec<Pending>) {
        let is_ready = |current: &mut Current| current.feeding.is_empty();
        let Some(started) = self.starting.current.take_if(is_ready) else {
            return;
        };
        let Current {
            view,
            or_replace,
            reply,
            is_spent,
            ..
        } = started;
        let preparation = match is_spent {
            // It is begun again as any other, exceeds its limit in one tick, and is stopped.
            true => {
                self.give_up(view.id);
                Preparation::None
            }
            false => Preparation::Fed,
        };
        self.enqueue(view, preparation, or_replace, reply, pending);
        if let Some((definition, or_replace, reply)) = self.starting.waiting.pop_front() {
            self.prepare_install(definition, or_replace, reply, pending);
        }
    }

    /// The fed view as installed at `tick`; as a new one, fed at once, if its bases are others by now.
    pub(super) fn fed_at(
        &self,
        fed: &Arc<InstalledView>,
        tick: Tick,
        before: &[AppliedCommand],
    ) -> Result<Arc<InstalledView>, EngineError> {
        let planned = self.installed_at(Arc::clone(fed), tick, before);
        let is_same = planned.as_ref().is_ok_and(|planned| {
            planned.sources == fed.sources
                && planned.bases().count() == fed.bases().count()
                && planned
                    .bases()
                    .zip(fed.bases())
                    .all(|(one, other)| Arc::ptr_eq(one, other))
        });
        if is_same {
            return Ok(Arc::new(fed.at(tick)));
        }
        self.give_up(fed.id);
        planned
    }

    /// Nobody wants the view any more that was fed.
    pub(super) fn give_up(&self, id: u64) {
        self.workers.broadcast(|| ToWorker::GiveUp { id });
    }
}
