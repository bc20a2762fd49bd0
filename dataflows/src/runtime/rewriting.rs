//! What stores keep of panes that have ended, when rows are taken back that were in them.
//!
//! Views forget a pane after its retention, stores do not. Such a pane is computed again: its groups as they were, from all
//! rows that counted, and as they are without those that are gone. The difference is a change that only the store is told.
//! That is done for views that show the groups of one base by themselves; of joins, views over views and such, the store
//! keeps what they have shown.

use std::sync::Arc;

use arrow::array::RecordBatch;
use pyflare_operators::aggregate::Accumulator;

use super::streams::Marks;
use super::sums::Sums;
use super::views::InstalledView;
use crate::render::arrange::pane_of;
use crate::render::key::Key;
use crate::render::leaf::Layout;
use crate::render::{Base, Finish};
use crate::time::Tick;

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

/// Until when panes will have ended at the tick of an erasure, by base; of bases that are not here nothing is rewritten.
#[derive(Default)]
pub(crate) struct EndedUntil(Vec<(Arc<Base>, i64)>);

impl EndedUntil {
    /// The panes that end within `slack_us` of now are among them: reading takes a while.
    pub fn expected(
        installed: &[Arc<InstalledView>],
        (tick, marks): (Tick, &Marks),
        slack_us: i64,
    ) -> EndedUntil {
        let views = installed.iter().filter(|view| shows_groups(view));
        let until = views.map(|view| {
            let base = &view.rendered.leaves[0].base;
            let until = base.rule.expired_until(marks.of(view.streams[0]), tick);
            (
                Arc::clone(base),
                until.unwrap_or(i64::MIN).saturating_add(slack_us),
            )
        });
        EndedUntil(until.collect())
    }

    pub fn of(&self, base: &Base) -> Option<i64> {
        let known = self.0.iter().find(|(other, _)| std::ptr::eq(&**other, base));
        known.map(|(_, until)| *until)
    }
}

/// Whether each row of a view is a group of one pane of its base, which stores keep when the pane ends.
pub(crate) fn shows_groups(view: &InstalledView) -> bool {
    let [leaf] = view.rendered.leaves.as_slice() else {
        return false;
    };
    view.rendered.graph.is_none()
        && view.stopped().is_none()
        && !matches!(leaf.base.layout, Layout::Merged)
        && !leaf.base.rule.by_tick
}

/// What changes in the store of the views over a base; `None`: the whole of a group is not known.
pub(crate) fn rewrites(
    ended: &Ended,
    whole: &mut Sums,
    installed: &[Arc<InstalledView>],
) -> Option<Vec<Rewrite>> {
    let of_base = |view: &&Arc<InstalledView>| {
        shows_groups(view) && Arc::ptr_eq(&view.rendered.leaves[0].base, &ended.base)
    };
    let views: Vec<&Arc<InstalledView>> = installed.iter().filter(of_base).collect();
    // What ended before all of them were installed was never stored.
    let Some(from) = views.iter().map(|view| view.ended_before()).min() else {
        return Some(Vec::new());
    };
    let mut groups = Vec::new();
    for (key, taken) in ended.groups.iter().filter(|(key, _)| pane_of(key) > from) {
        let before = whole.group(&ended.base, key)?.cloned();
        let Some(before) = before else { continue };
        let mut after = before.clone();
        after.add(taken);
        groups.push((key, before, after));
    }
    let mut changes = Vec::new();
    for view in views {
        let finish = Finish::new(Arc::clone(&view.rendered.leaves[0]))
            .expect("invariant: the definition was compiled before it was installed");
        let mut entries: Vec<(&[u8], &Accumulator, i64)> = Vec::new();
        for (key, before, after) in &groups {
            if pane_of(key) > view.ended_before() {
                entries.push((key, before, -1));
                if !after.is_zero() {
                    entries.push((key, after, 1));
                }
            }
        }
        if entries.is_empty() {
            continue;
        }
        let finished = finish.rows(&entries);
        if finished.batch.num_rows() > 0 {
            changes.push(Rewrite {
                view: view.id,
                batch: finished.batch,
                diffs: finished.diffs,
            });
        }
    }
    Some(changes)
}
