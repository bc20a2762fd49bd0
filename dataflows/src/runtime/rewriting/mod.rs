//! What stores keep of panes that have ended, when rows are taken back that were in them.
//!
//! Views forget a pane after its retention, stores do not. What a *local* view ([`locality`]) has shown of such a pane is
//! computed again, from the groups as they were and as they are without those rows ([`recomputing`]); the difference is a
//! change that only the store is told. To know the groups as they were, all rows are read that count in them ([`wanted`]).
//!
//! Of any other view, in whose rows panes meet, nobody can say any more what it would have shown: marks passed between one
//! pane's leaving and the next, and are forgotten. Its past is *let go of*: from that tick on the store has of it what it
//! shows, and nothing else. So it is where panes have more groups than can be computed with, and where a view is stopped.

mod locality;
mod recomputing;
mod wanted;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use hashbrown::HashMap;
use pyflare_operators::aggregate::Accumulator;

use super::streams::{Marks, StreamId};
use super::sums::Sums;
use super::views::InstalledView;
use crate::render::Base;
use crate::render::arrange::pane_of;
use crate::render::key::Key;
use crate::render::leaf::Layout;
use crate::time::{Tick, tick_us};

use locality::{Unit, all_bases_of, sources_of, unit_of};
use recomputing::{Group, Groups, difference};
pub(crate) use wanted::Wanted;

/// Groups of ended panes that one view is computed with again, where panes are computed as a whole: some hundred bytes each.
pub(super) const MOST_GROUPS: usize = 2_000_000;
/// Groups that are computed at once where each stands for itself.
const GROUPS_AT_ONCE: usize = 200_000;

/// What an erasure takes from a base.
pub(crate) struct Taken {
    pub base: Arc<Base>,
    /// From no pane at all.
    pub is_nothing: bool,
    /// From groups whose panes have ended.
    pub ended: Vec<(Key, Accumulator)>,
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

/// Which panes will have ended at the tick of an erasure, by base.
#[derive(Default)]
pub(crate) struct EndedUntil {
    until: Vec<(Arc<Base>, Ending)>,
    /// The views that there were then.
    installed: Vec<Arc<InstalledView>>,
}

/// Panes of a base that have ended and whose rows are all stored, microseconds.
#[derive(Clone, Copy)]
struct Ending {
    until: i64,
    /// They begin here, or later.
    from: i64,
}

impl Ending {
    fn has(&self, base: &Base, pane: i64) -> bool {
        pane <= self.until && pane.saturating_sub(base.rule.pane_us) >= self.from
    }
}

/// How long the rows of a stream are stored, microseconds, if not for ever.
pub(crate) type Kept<'a> = &'a dyn Fn(StreamId) -> Option<i64>;

/// From when on all rows of a stream are stored.
fn stored_from(kept_us: Kept<'_>, stream: StreamId, tick: Tick) -> i64 {
    kept_us(stream).map_or(i64::MIN, |kept| tick_us(tick).saturating_sub(kept))
}

impl EndedUntil {
    /// The panes that end within `slack_us` of now are among them: reading takes a while.
    pub fn expected(
        installed: &[Arc<InstalledView>],
        (tick, marks): (Tick, &Marks),
        slack_us: i64,
        kept_us: Kept<'_>,
    ) -> EndedUntil {
        let mut until: Vec<(Arc<Base>, Ending)> = Vec::new();
        for view in installed.iter().filter(|view| view.stopped().is_none()) {
            for (base, stream) in view.bases().zip(&view.streams) {
                if !until.iter().any(|(other, _)| Arc::ptr_eq(base, other)) {
                    let ended = base.rule.expired_until(marks.of(*stream), tick);
                    let ending = Ending {
                        until: ended.map_or(i64::MIN, |ended| ended.saturating_add(slack_us)),
                        from: stored_from(kept_us, *stream, tick),
                    };
                    until.push((Arc::clone(base), ending));
                }
            }
        }
        EndedUntil {
            until,
            installed: installed.to_vec(),
        }
    }

    fn has(&self, base: &Base, pane: i64) -> bool {
        let known = self.until.iter().find(|(other, _)| std::ptr::eq(&**other, base));
        known.is_some_and(|(_, ending)| ending.has(base, pane))
    }

    /// Which groups have to be known as they were, by base, where something is taken from these.
    pub fn wanted(&self, taken: &[TakenFrom<'_>]) -> Vec<(Arc<Base>, StreamId, Wanted)> {
        let mut wanted: Vec<(Arc<Base>, StreamId, Wanted)> = Vec::new();
        for view in self.installed.iter().filter(|view| view.stopped().is_none()) {
            let Some(unit) = unit_of(view, &self.installed) else {
                continue;
            };
            let bases = all_bases_of(view, &self.installed);
            let keys = |base: &Arc<Base>| {
                let of_base = taken.iter().find(|(other, _)| Arc::ptr_eq(other, base));
                of_base.into_iter().flat_map(|(_, groups)| groups.keys())
            };
            let mut panes = BTreeSet::new();
            for (base, _) in &bases {
                let of_base = keys(base).map(|key| pane_of(key));
                panes.extend(of_base.filter(|pane| *pane > view.ended_before() && self.has(base, *pane)));
            }
            for (base, stream) in bases.iter().filter(|_| !panes.is_empty()) {
                let place = wanted.iter().position(|(other, ..)| Arc::ptr_eq(base, other));
                let place = place.unwrap_or_else(|| {
                    wanted.push((Arc::clone(base), *stream, Wanted::default()));
                    wanted.len() - 1
                });
                wanted[place].2.add(base, &unit, &panes, keys(base));
            }
        }
        wanted
    }
}

/// The groups of a base that something is taken from.
pub(crate) type TakenFrom<'a> = (&'a Arc<Base>, &'a HashMap<Key, Accumulator>);

/// What changes in the store of the views over the bases; `None`: some of the groups as they were are not known. With `let_go`
/// the past of those views is let go of, and of no other one that is local: it is so decided already.
pub(crate) fn rewrites(
    taken: &[Taken],
    whole: &mut Sums,
    installed: &[Arc<InstalledView>],
    (tick, project, kept_us): (Tick, &str, Kept<'_>),
    let_go: Option<&[u64]>,
) -> Option<Rewrites> {
    let mut rewrites = Rewrites::default();
    // What is installed at this tick begins without the rows.
    for view in installed.iter().filter(|view| view.installed_at < tick) {
        let bases = all_bases_of(view, installed);
        let of_view: Vec<&Taken> = taken
            .iter()
            .filter(|taken| bases.iter().any(|(base, _)| Arc::ptr_eq(base, &taken.base)))
            .collect();
        if is_cut_off(view, installed) {
            // Nobody knows any more which rows were in it.
            let may_concern = view.name.project.as_deref().is_none_or(|of| of == project);
            rewrites.renewed.extend(may_concern.then_some(view.id));
            continue;
        }
        let Some(unit) = unit_of(view, installed) else {
            // What an expiry took from it, stores were not told.
            let forgets =
                |(base, _): &(Arc<Base>, StreamId)| base.layout != Layout::Merged && !base.rule.by_tick;
            let is_touched = of_view.iter().any(|taken| !taken.is_nothing);
            let is_renewed = is_touched && bases.iter().any(forgets);
            rewrites.renewed.extend(is_renewed.then_some(view.id));
            continue;
        };
        let panes = panes_of(view, &bases, &of_view, (tick, kept_us));
        if panes.is_empty() {
            continue;
        }
        let portions = match let_go {
            Some(decided) if decided.contains(&view.id) => None,
            _ => portions(&bases, &unit, &panes, &of_view, whole)?,
        };
        let Some(portions) = portions else {
            tracing::warn!(
                view = %view.name,
                "too much has ended that an erasure takes something from: what is stored of it is let go of"
            );
            rewrites.renewed.push(view.id);
            continue;
        };
        let changes = portions
            .into_iter()
            .filter_map(|groups| difference(view, installed, groups));
        rewrites.changes.extend(changes.map(|(batch, diffs)| Rewrite {
            view: view.id,
            batch,
            diffs,
        }));
    }
    Some(rewrites)
}

/// Whether it is stopped, or reads one that is.
fn is_cut_off(view: &InstalledView, installed: &[Arc<InstalledView>]) -> bool {
    view.stopped().is_some() || sources_of(view, installed).any(|source| is_cut_off(source, installed))
}

/// The panes that a local view has shown, that have ended, and whose rows are all stored.
fn panes_of(
    view: &InstalledView,
    bases: &[(Arc<Base>, StreamId)],
    taken: &[&Taken],
    (tick, kept_us): (Tick, Kept<'_>),
) -> BTreeSet<i64> {
    // What ended before it was installed was never stored.
    let from = view.ended_before();
    let Some((base, stream)) = bases.first() else {
        return BTreeSet::new();
    };
    let ending = Ending {
        until: i64::MAX,
        from: stored_from(kept_us, *stream, tick),
    };
    let panes = taken
        .iter()
        .flat_map(|taken| &taken.ended)
        .map(|(key, _)| pane_of(key));
    panes
        .filter(|pane| *pane > from && ending.has(base, *pane))
        .collect()
}

/// The groups of a view's panes as they were and as they are, in portions of which each can be computed by itself; `None`: not
/// all are known; inside: they are too many.
fn portions(
    bases: &[(Arc<Base>, StreamId)],
    unit: &Unit,
    panes: &BTreeSet<i64>,
    taken: &[&Taken],
    whole: &mut Sums,
) -> Option<Option<Vec<Groups>>> {
    let is_of = |key: &Key| panes.contains(&pane_of(key));
    let mut portions = Vec::new();
    let (mut together, mut count) = (Groups::default(), 0);
    for (base, _) in bases {
        let of_base = taken.iter().find(|taken| Arc::ptr_eq(&taken.base, base));
        let of_base = of_base.map_or(&[][..], |taken| &taken.ended);
        let keys = || of_base.iter().map(|(key, _)| key).filter(|key| is_of(key));
        if *unit == Unit::Group && keys().next().is_none() {
            continue;
        }
        let known = whole.groups_of(base)?;
        if known.is_overflowing && *unit != Unit::Group {
            return Some(None);
        }
        if !known.wanted.covers(base, unit, panes, keys()) {
            return None;
        }
        if *unit == Unit::Group {
            let changed: Vec<(Key, Group)> = of_base
                .iter()
                .filter(|(key, _)| is_of(key))
                .filter_map(|(key, taken)| Some((key.clone(), Group::without(known.groups.get(key)?, taken))))
                .collect();
            let mut changed = changed.into_iter().peekable();
            while changed.peek().is_some() {
                let mut portion = Groups::default();
                portion.insert(base, changed.by_ref().take(GROUPS_AT_ONCE).collect());
                portions.push(portion);
            }
            continue;
        }
        let groups = known.groups.iter().filter(|(key, _)| is_of(key));
        let mut groups: HashMap<Key, Group> = groups
            .map(|(key, whole)| (key.clone(), Group::of(whole)))
            .collect();
        for (key, taken) in of_base {
            if let Some(group) = groups.get_mut(key) {
                group.take(taken);
            }
        }
        count += groups.len();
        if count > MOST_GROUPS {
            return Some(None);
        }
        together.insert(base, groups);
    }
    portions.extend((count > 0).then_some(together));
    Some(Some(portions))
}

/// Takes note of which panes a view has nothing of in the store. It counts for local views, whose panes leave together.
pub(crate) fn note_ended(view: &InstalledView, installed: &[Arc<InstalledView>], marks: &Marks, tick: Tick) {
    if let Some((base, stream)) = all_bases_of(view, installed).first() {
        let until = base.rule.expired_until(marks.of(*stream), tick);
        view.note_ended(until.unwrap_or(i64::MIN));
    }
}
