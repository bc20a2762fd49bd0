//! What stores keep of panes that have ended, when rows are taken back that were in them.
//!
//! Views forget a pane after its retention, stores do not. What a *local* view ([`locality`]) has shown of such a pane is
//! computed again, from the groups as they were and as they are without those rows ([`recomputing`]); the difference is a
//! change that only the store is told. To know the groups as they were, all rows are read that count in them ([`wanted`]).
//!
//! Of any other view, in whose rows panes meet, nobody can say any more what it would have shown: marks passed between one
//! pane's leaving and the next, and are forgotten. Its past is *let go of*: from that tick on the store has of it what it
//! shows, and nothing else. So it is where a pane has more groups than can be computed with.

mod locality;
mod recomputing;
mod wanted;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use pyflare_operators::aggregate::Accumulator;

use super::streams::Marks;
use super::sums::Sums;
use super::views::InstalledView;
use crate::render::Base;
use crate::render::arrange::pane_of;
use crate::render::key::Key;
use crate::time::Tick;

pub(crate) use locality::all_bases_of;
use locality::{Unit, unit_of};
use recomputing::{Group, Groups, difference};
pub(crate) use wanted::Wanted;

/// Groups of ended panes that one view is computed with again: some hundred bytes each.
pub(super) const MOST_GROUPS: usize = 2_000_000;

/// What is taken from groups of a base whose panes have ended.
pub(crate) struct Ended {
    pub base: Arc<Base>,
    pub groups: Vec<(Key, Accumulator)>,
}

/// A change of what the store has of a view.
#[derive(Clone)]
pub(crate) struct Rewrite {
    pub view: u64,
    pub batch: RecordBatch,
    pub diffs: Vec<i64>,
}

/// What the store is told besides a tick's changes.
#[derive(Default)]
pub(crate) struct Rewrites {
    pub changes: Vec<Rewrite>,
    /// Views whose past is let go of.
    pub renewed: Vec<u64>,
}

/// Until when panes will have ended at the tick of an erasure, by base.
#[derive(Default)]
pub(crate) struct EndedUntil {
    until: Vec<(Arc<Base>, i64)>,
    /// The views that there were then.
    installed: Vec<Arc<InstalledView>>,
}

impl EndedUntil {
    /// The panes that end within `slack_us` of now are among them: reading takes a while.
    pub fn expected(
        installed: &[Arc<InstalledView>],
        (tick, marks): (Tick, &Marks),
        slack_us: i64,
    ) -> EndedUntil {
        let mut until: Vec<(Arc<Base>, i64)> = Vec::new();
        for view in installed.iter().filter(|view| view.stopped().is_none()) {
            for (base, stream) in view.bases().zip(&view.streams) {
                if !until.iter().any(|(other, _)| Arc::ptr_eq(base, other)) {
                    let ended = base.rule.expired_until(marks.of(*stream), tick);
                    let ended = ended.map_or(i64::MIN, |ended| ended.saturating_add(slack_us));
                    until.push((Arc::clone(base), ended));
                }
            }
        }
        EndedUntil {
            until,
            installed: installed.to_vec(),
        }
    }

    fn of(&self, base: &Base) -> Option<i64> {
        let known = self.until.iter().find(|(other, _)| std::ptr::eq(&**other, base));
        known.map(|(_, until)| *until)
    }

    /// Which groups have to be known as they were, by base; `taken` calls back with the keys that something is taken from.
    pub fn wanted(&self, taken: &dyn Fn(&Base, &mut dyn FnMut(&Key))) -> Vec<(Arc<Base>, Wanted)> {
        let mut wanted: Vec<(Arc<Base>, Wanted)> = Vec::new();
        for view in self.installed.iter().filter(|view| view.stopped().is_none()) {
            let Some(unit) = unit_of(view, &self.installed) else {
                continue;
            };
            let bases = all_bases_of(view, &self.installed);
            let mut panes = BTreeSet::new();
            for (base, _) in &bases {
                let until = self.of(base).unwrap_or(i64::MIN);
                taken(base, &mut |key| {
                    panes.extend(Some(pane_of(key)).filter(|pane| *pane <= until));
                });
            }
            for (base, _) in bases.iter().filter(|_| !panes.is_empty()) {
                let place = wanted.iter().position(|(other, _)| Arc::ptr_eq(base, other));
                let place = place.unwrap_or_else(|| {
                    wanted.push((Arc::clone(base), Wanted::default()));
                    wanted.len() - 1
                });
                wanted[place]
                    .1
                    .add(base, &unit, &panes, &|visit| taken(base, visit));
            }
        }
        wanted
    }
}

/// What changes in the store of the views over the bases; `None`: some of the groups as they were are not known.
pub(crate) fn rewrites(
    ended: &[Ended],
    whole: &mut Sums,
    installed: &[Arc<InstalledView>],
    tick: Tick,
) -> Option<Rewrites> {
    let mut rewrites = Rewrites::default();
    // What is installed at this tick begins without the rows.
    let stored = |view: &&Arc<InstalledView>| view.stopped().is_none() && view.installed_at < tick;
    for view in installed.iter().filter(stored) {
        let bases = all_bases_of(view, installed);
        let of_view: Vec<&Ended> = ended
            .iter()
            .filter(|ended| bases.iter().any(|(base, _)| Arc::ptr_eq(base, &ended.base)))
            .collect();
        // What ended before it was installed was never stored.
        let from = view.ended_before();
        let keys = of_view.iter().flat_map(|ended| &ended.groups);
        let panes: BTreeSet<i64> = keys
            .map(|(key, _)| pane_of(key))
            .filter(|pane| *pane > from)
            .collect();
        if panes.is_empty() {
            continue;
        }
        let Some(unit) = unit_of(view, installed) else {
            rewrites.renewed.push(view.id);
            continue;
        };
        match groups(&bases, &unit, &panes, &of_view, whole)? {
            Some(groups) => {
                if let Some((batch, diffs)) = difference(view, installed, groups) {
                    rewrites.changes.push(Rewrite {
                        view: view.id,
                        batch,
                        diffs,
                    });
                }
            }
            None => {
                tracing::warn!(
                    view = %view.name,
                    "too much has ended that an erasure takes something from: what is stored of it is let go of"
                );
                rewrites.renewed.push(view.id);
            }
        }
    }
    Some(rewrites)
}

/// The groups of a view's panes as they were and as they are; `None`: not all are known; inside: they are too many.
fn groups(
    bases: &[(Arc<Base>, super::streams::StreamId)],
    unit: &Unit,
    panes: &BTreeSet<i64>,
    ended: &[&Ended],
    whole: &mut Sums,
) -> Option<Option<Groups>> {
    let mut groups = Groups::default();
    let mut count = 0;
    for (base, _) in bases {
        let taken = ended.iter().find(|ended| Arc::ptr_eq(&ended.base, base));
        let taken = taken.map_or(&[][..], |ended| &ended.groups);
        let is_of = |key: &Key| panes.contains(&pane_of(key));
        let known = whole.groups_of(base)?;
        if known.is_overflowing {
            return Some(None);
        }
        if !known.wanted.covers(
            base,
            unit,
            panes,
            taken.iter().map(|(key, _)| key).filter(|key| is_of(key)),
        ) {
            return None;
        }
        let mut of_base: hashbrown::HashMap<Key, Group> = match unit {
            Unit::Group => taken
                .iter()
                .filter(|(key, _)| is_of(key))
                .filter_map(|(key, _)| Some((key.clone(), Group::of(known.groups.get(key)?))))
                .collect(),
            Unit::Places(_) | Unit::Pane => known
                .groups
                .iter()
                .filter(|(key, _)| is_of(key))
                .map(|(key, whole)| (key.clone(), Group::of(whole)))
                .collect(),
        };
        for (key, taken) in taken {
            if let Some(group) = of_base.get_mut(key) {
                group.take(taken);
            }
        }
        count += of_base.len();
        if count > MOST_GROUPS {
            return Some(None);
        }
        groups.insert(base, of_base);
    }
    Some(Some(groups))
}
