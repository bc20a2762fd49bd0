//! What an erasure takes from the bases and companions on one worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyflare_connectors::faults::{self, Fault};

use super::messages::Renewal;
use super::sums::Seed;
use super::worker_views::{Outcome, Views, WorkerView};
use crate::render::Ledger;
use crate::render::left_out::LeftOut;
use crate::time::Tick;

impl Views {
    /// Subtracts, at a tick, what the bases that are here are told to lose; what is left are the seeds of new ones.
    pub(super) fn take_back(
        &mut self,
        tick: Tick,
        seeds: &mut Vec<Seed>,
        ledger: &mut Ledger,
        outcome: &mut Outcome,
    ) {
        let mut rest = Vec::new();
        for mut seed in seeds.drain(..) {
            outcome
                .rewrites
                .extend(std::mem::take(&mut seed.rewrites.changes));
            outcome.renewed.append(&mut seed.rewrites.renewed);
            let known = self
                .bases
                .iter_mut()
                .find(|(_, base)| Arc::ptr_eq(&base.base, &seed.base));
            let Some((id, base)) = known else {
                rest.push(seed);
                continue;
            };
            if !seed.groups.is_empty() && faults::planted(Fault::ErasureForgotten) {
                continue;
            }
            for (key, accumulator) in seed.groups {
                base.arranged.update(key, accumulator);
            }
            base.tap.adopt(seed.waiting);
            let id = *id;
            self.leave_in(id, tick, &seed.left_out, ledger);
        }
        *seeds = rest;
    }

    /// Hands over what the views show whose past stores let go of.
    pub(super) fn renew(&mut self, tick: Tick, outcome: &mut Outcome) {
        for view in std::mem::take(&mut outcome.renewed) {
            let is_over = self.views.get(&view).is_none_or(WorkerView::is_over);
            let content = if is_over {
                Vec::new()
            } else {
                self.read(view, tick)
            };
            outcome.renewals.push(Renewal { view, content });
        }
    }

    /// Counts no more, in every view that counted it, what was left out of rows that are taken back.
    fn leave_in(&self, base: u64, tick: Tick, left_out: &BTreeMap<Tick, LeftOut>, ledger: &mut Ledger) {
        let reads =
            |view: &&WorkerView| view.stopped.is_none() && view.leaves.iter().any(|leaf| leaf.base == base);
        for view in self.views.values().filter(reads) {
            let rule = &self.bases[&base].base;
            // With a base of its own it counts from where that begins, else from its installation.
            let installed = &view.installed;
            let counts_from = match installed.since {
                Some(since) if since == rule.start => since,
                _ => installed.installed_at,
            };
            let page = installed.page(rule.rule.pane_us);
            let counted = left_out
                .range(counts_from + 1..)
                .filter(|(admitted, _)| !Ledger::is_over(&page, **admitted, tick));
            for (admitted, left_out) in counted {
                ledger.enter_late(&page, *admitted, &left_out.late);
                ledger.enter_errors(&page, *admitted, &left_out.errors, false);
            }
        }
    }
}
