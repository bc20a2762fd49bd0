//! Views that are stopped, on one worker: their content is taken back, then what they kept goes.

use std::collections::BTreeSet;

use super::messages::{AppliedCommand, Commit, ViewLeftOut};
use super::worker_views::{Outcome, Views, WorkerView};
use crate::render::Ledger;
use crate::render::left_out::RowErrors;

impl Views {
    /// Ends the views that the tick's commands stop: what they showed is taken back.
    pub(super) fn stop(
        &mut self,
        worker: usize,
        commit: &Commit,
        ledger: &mut Ledger,
        outcome: &mut Outcome,
    ) {
        // What nobody can read any more goes.
        let released = |view: &&mut WorkerView| view.stopped.is_some_and(|at| at < commit.since);
        let mut bases = false;
        for view in self.views.values_mut().filter(released) {
            bases |= !view.leaves.is_empty();
            view.leaves.clear();
            view.graph = None;
        }
        if bases {
            self.drop_unused_bases();
        }
        for command in &commit.commands {
            let AppliedCommand::Stop(stop) = command else {
                continue;
            };
            for (batch, diffs) in self.read(stop.id, commit.tick) {
                let back = diffs.iter().map(|diff| -diff).collect();
                outcome.change(stop.id, batch, back, false);
            }
            let Some(view) = self.views.get_mut(&stop.id) else {
                continue;
            };
            view.stopped = Some(commit.tick);
            if worker == 0 {
                let mut errors = RowErrors::default();
                let project = view.installed.definition.project.as_deref();
                errors.record(project.unwrap_or_default(), 1, stop.reason);
                outcome.left_out.push(ViewLeftOut {
                    view: stop.id,
                    late_rows: 0,
                    error_rows: errors.came(),
                    error_sample: errors.sample.clone(),
                });
                ledger.enter_errors(&view.installed.page(0), commit.tick, &errors, false);
            }
        }
    }

    /// Removes the bases that no view reads.
    pub(super) fn drop_unused_bases(&mut self) {
        let leaves = self.views.values().flat_map(|view| &view.leaves);
        let used: BTreeSet<u64> = leaves.map(|leaf| leaf.base).collect();
        self.bases.retain(|id, base| {
            let kept = used.contains(id);
            if !kept {
                self.busy.forget(base.arranged.operators());
            }
            kept
        });
    }
}
