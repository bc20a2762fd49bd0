//! What a view shows of some groups, before and after something is taken from them: its operators, run once on the
//! thread at hand.

use std::sync::Arc;

use arrow::array::RecordBatch;
use hashbrown::HashMap;
use pyflare_operators::aggregate::Accumulator;
use timely::worker::Worker;

use super::super::consolidate::{Changes, consolidate};
use super::super::views::InstalledView;
use super::locality::sources_of;
use crate::render::graph::Input;
use crate::render::key::Key;
use crate::render::{Base, Budget, Busy, Finish, Leaf, Limits, RunningGraph};
use crate::time::Tick;

/// A group as it was, and as it is, if something was taken from it.
pub(super) struct Group {
    before: Accumulator,
    after: Option<Accumulator>,
}

impl Group {
    pub fn of(whole: &Accumulator) -> Group {
        Group {
            before: whole.clone(),
            after: None,
        }
    }

    pub fn without(whole: &Accumulator, taken: &Accumulator) -> Group {
        let mut group = Group::of(whole);
        group.take(taken);
        group
    }

    /// `taken` is negative.
    pub fn take(&mut self, taken: &Accumulator) {
        let mut after = self.before.clone();
        after.add(taken);
        self.after = Some(after);
    }
}

/// Groups by base.
#[derive(Default)]
pub(super) struct Groups(Vec<(Arc<Base>, HashMap<Key, Group>)>);

impl Groups {
    pub fn insert(&mut self, base: &Arc<Base>, groups: HashMap<Key, Group>) {
        self.0.push((Arc::clone(base), groups));
    }

    fn of(&self, base: &Arc<Base>) -> impl Iterator<Item = (&Key, &Group)> {
        let of_base = self.0.iter().filter(|(other, _)| Arc::ptr_eq(base, other));
        of_base.flat_map(|(_, groups)| groups)
    }
}

/// Rows with their differences.
type Rows = Vec<(RecordBatch, Vec<i64>)>;

/// What a relation shows at first, and how that changes.
#[derive(Default)]
struct Steps {
    first: Rows,
    change: Rows,
}

/// Moments of a graph that runs for itself.
const FIRST: Tick = 1;
const CHANGE: Tick = 2;
const CHECKED: &str = "invariant: the definition was compiled before it was installed";

/// How what the view shows of these groups changes; `None`: not at all.
pub(super) fn difference(
    view: &Arc<InstalledView>,
    installed: &[Arc<InstalledView>],
    groups: Groups,
) -> Option<(RecordBatch, Vec<i64>)> {
    let change = match view.rendered.graph {
        None => of_leaf(&view.rendered.leaves[0], &groups, false).change,
        Some(_) => {
            let (view, installed) = (Arc::clone(view), installed.to_vec());
            timely::execute_directly(move |worker| of_view(worker, &view, &installed, &groups).change)
        }
    };
    let parts = change.into_iter().map(|(batch, diffs)| Changes { batch, diffs });
    let net = consolidate(&parts.collect::<Vec<_>>())?;
    Some((net.batch, net.diffs))
}

fn of_leaf(leaf: &Arc<Leaf>, groups: &Groups, with_first: bool) -> Steps {
    let finish = Finish::new(Arc::clone(leaf)).expect(CHECKED);
    let mut first: Vec<(&[u8], &Accumulator, i64)> = Vec::new();
    let mut change: Vec<(&[u8], &Accumulator, i64)> = Vec::new();
    for (key, group) in groups.of(&leaf.base) {
        if with_first {
            first.push((key, &group.before, 1));
        }
        if let Some(after) = &group.after {
            change.push((key, &group.before, -1));
            if !after.is_zero() {
                change.push((key, after, 1));
            }
        }
    }
    let rows = |entries: Vec<(&[u8], &Accumulator, i64)>| {
        let finished = (!entries.is_empty()).then(|| finish.rows(&entries));
        finished
            .map(|finished| (finished.batch, finished.diffs))
            .into_iter()
            .collect()
    };
    Steps {
        first: rows(first),
        change: rows(change),
    }
}

fn of_view(
    worker: &mut Worker,
    view: &InstalledView,
    installed: &[Arc<InstalledView>],
    groups: &Groups,
) -> Steps {
    let Some(graph) = &view.rendered.graph else {
        return of_leaf(&view.rendered.leaves[0], groups, true);
    };
    let mut sources = sources_of(view, installed);
    let mut inputs: Vec<Steps> = Vec::with_capacity(graph.inputs.len());
    for input in &graph.inputs {
        inputs.push(match input {
            Input::Leaf(leaf) => of_leaf(&view.rendered.leaves[*leaf], groups, true),
            Input::View(_) => {
                let source = sources.next().expect("invariant: every view read is installed");
                of_view(worker, source, installed, groups)
            }
        });
    }
    let budget = Arc::new(Budget::new(u64::MAX));
    let limits = Limits {
        budget: &budget,
        enforced: false,
        figures: &Arc::default(),
    };
    let mut running =
        RunningGraph::build(worker, "erasure", graph, FIRST, &limits, &Busy::default()).expect(CHECKED);
    let mut run = |tick: Tick, rows: &dyn Fn(&Steps) -> &Rows| -> Rows {
        if tick > FIRST {
            running.open_tick(tick, false);
        }
        // All of it is final.
        running.release(tick, |_| Some(i64::MAX));
        for (number, steps) in inputs.iter().enumerate() {
            for (batch, diffs) in rows(steps) {
                running.feed(number, batch.columns(), diffs, false);
            }
        }
        running.close_tick(tick);
        while !running.is_complete(tick) {
            worker.step();
        }
        let changes = running.take_changes().into_iter();
        changes.map(|(batch, diffs, _)| (batch, diffs)).collect()
    };
    let steps = Steps {
        first: run(FIRST, &|steps| &steps.first),
        change: run(CHANGE, &|steps| &steps.change),
    };
    running.abort(worker);
    steps
}
