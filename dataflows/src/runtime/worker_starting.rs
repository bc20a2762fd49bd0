//! Views that are fed in slices before they are installed, on one worker.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use timely::worker::Worker;

use super::messages::Commit;
use super::reading::Wanted;
use super::views::InstalledView;
use super::worker_reading::Content;
use super::worker_views::{Outcome, Views, WorkerGraph, WorkerLeaf, WorkerView};
use crate::render::graph::Input;
use crate::render::left_out::RowErrors;
use crate::render::walk::Fuel;
use crate::render::{Finish, Ledger, Limits, RunningGraph};
use crate::time::Tick;

/// What a view has still to be fed with.
pub(super) struct Starting {
    inputs: VecDeque<(usize, Content)>,
    /// On what expressions failed so far.
    errors: RowErrors,
}

impl Starting {
    /// Feeds so many rows, or what is left.
    pub fn feed(&mut self, running: &mut RunningGraph, mut rows: usize) {
        while rows > 0
            && let Some((number, content)) = self.inputs.front_mut()
        {
            let (part, ended) = content.advance(&mut Fuel::unlimited());
            if let Some((batch, diffs)) = part {
                rows = rows.saturating_sub(diffs.len());
                running.feed(*number, batch.columns(), &diffs, false);
            }
            if ended && let Some((_, content)) = self.inputs.pop_front() {
                self.errors.add(content.into_errors());
            }
        }
    }

    pub fn note(&mut self, errors: RowErrors) {
        self.errors.add(errors);
    }
}

impl Views {
    /// Builds a view over what is there, of which it is fed the content at `tick` from the next tick on.
    pub fn prepare(&mut self, worker: &mut Worker, installed: &Arc<InstalledView>, tick: Tick) {
        let checked = "invariant: the definition was compiled before the workers were told";
        let leaves: Vec<WorkerLeaf> = installed
            .rendered
            .leaves
            .iter()
            .map(|leaf| {
                let mut bases = self.bases.iter();
                let base = bases.find(|(_, base)| Arc::ptr_eq(&base.base, &leaf.base));
                WorkerLeaf {
                    base: *base
                        .expect("invariant: a view that starts in slices has no base of its own")
                        .0,
                    finish: Rc::new(Finish::new(Arc::clone(leaf)).expect(checked)),
                }
            })
            .collect();
        let graph = installed
            .rendered
            .graph
            .as_ref()
            .expect("invariant: a graph starts in slices");
        let limits = Limits {
            budget: &installed.budget,
            enforced: true,
            figures: &installed.figures,
        };
        let name = installed.name.to_string();
        let running = RunningGraph::build(worker, &name, graph, tick, &limits, &self.busy).expect(checked);
        let mut of_views = installed.sources.iter().copied();
        let mut sources = Vec::with_capacity(graph.inputs.len());
        let mut inputs = VecDeque::with_capacity(graph.inputs.len());
        for (number, input) in graph.inputs.iter().enumerate() {
            let everything = Wanted::default();
            let content = match input {
                Input::Leaf(leaf) => {
                    sources.push(None);
                    self.content_of_leaf(&leaves[*leaf], tick, &everything)
                }
                Input::View(_) => {
                    let source = of_views.next().expect("invariant: every view read has an id");
                    sources.push(Some(source));
                    self.content(source, tick, &everything)
                }
            };
            inputs.push_back((number, content.in_parts(self.slice_rows)));
        }
        let level = self.level_of(installed);
        let view = WorkerView {
            installed: Arc::clone(installed),
            leaves,
            graph: Some(WorkerGraph {
                running,
                sources,
                level,
            }),
            aborted: None,
            stopped: None,
            starting: Some(Starting {
                inputs,
                errors: RowErrors::of_groups(),
            }),
        };
        self.views.insert(installed.id, view);
    }

    /// Views that have had everything, or made too much, which the flag says.
    pub fn ready(&self) -> Vec<(u64, bool)> {
        let starting = self.views.iter().filter_map(|(id, view)| {
            let is_spent = view.aborted.is_some();
            let starting = view.starting.as_ref()?;
            (is_spent || starting.inputs.is_empty()).then_some((*id, is_spent))
        });
        starting.collect()
    }

    /// Whether the view has been fed already.
    pub fn is_starting(&self, view: u64) -> bool {
        self.views.get(&view).is_some_and(|view| view.starting.is_some())
    }

    /// Shows what a view that has been fed has come to: its first change.
    pub fn publish(
        &mut self,
        commit: &Commit,
        installed: &Arc<InstalledView>,
        ledger: &mut Ledger,
        outcome: &mut Outcome,
    ) {
        let Some(view) = self.views.get_mut(&installed.id) else {
            return;
        };
        view.installed = Arc::clone(installed);
        if let Some(starting) = view.starting.take() {
            outcome.errors(installed, commit.tick, starting.errors, ledger);
        }
        for (batch, diffs) in self.read(installed.id, commit.tick) {
            outcome.change(installed.id, batch, diffs, false);
        }
    }
}
