//! The bases and views on one worker, and what a tick does to them.
//!
//! A base is fed from its stream and belongs to all views that read it. A view without a graph has no dataflow of its
//! own: it reads its base, and its changes are computed from the base's. A graph is given the changes of its leaves
//! and of the views below it once these are complete at the tick, level by level; so nothing is ever in flight
//! between two dataflows, and a view over others begins with their content at the tick of its installation.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use timely::worker::Worker;

use super::activity::Activity;
use super::messages::{Commit, Renewal, ViewChange, ViewLeftOut};
use super::rewriting::Rewrite;
use super::stepping::{PeerFailed, Stepping};
use super::streams::StreamId;
use super::sums::Seed;
use super::views::{InstalledView, RelationId};
use super::worker_base::{Closing, DecodedBatch, WorkerBase};
use super::worker_starting::Starting;
use crate::render::figures::News;
use crate::render::finish::Finished;
use crate::render::graph::Input;
use crate::render::left_out::{LeftOut, RowErrors};
use crate::render::{Admitted, ArrangedView, Base, Busy, Finish, Ledger, Limits, RunningGraph, Tap};
use crate::time::Tick;

pub(super) struct WorkerView {
    pub(super) installed: Arc<InstalledView>,
    pub(super) leaves: Vec<WorkerLeaf>,
    pub(super) graph: Option<WorkerGraph>,
    /// The tick at which its graph was aborted: that tick changed nothing.
    pub(super) aborted: Option<Tick>,
    /// The tick at which it was stopped: from then on it is empty.
    pub(super) stopped: Option<Tick>,
    /// Until it is installed, if it is fed before.
    pub(super) starting: Option<Starting>,
}

impl WorkerView {
    /// One that was stopped at a tick: it shows nothing.
    fn over(installed: &Arc<InstalledView>, stopped: Tick) -> WorkerView {
        WorkerView {
            installed: Arc::clone(installed),
            leaves: Vec::new(),
            graph: None,
            aborted: None,
            stopped: Some(stopped),
            starting: None,
        }
    }

    /// Whether it takes no more rows.
    pub(super) fn is_over(&self) -> bool {
        self.aborted.is_some() || self.stopped.is_some()
    }
}

pub(super) struct WorkerLeaf {
    pub(super) base: u64,
    pub(super) finish: Rc<Finish>,
}

pub(super) struct WorkerGraph {
    pub(super) running: RunningGraph,
    /// Ids of the views it reads, by input; `None` for a leaf.
    pub(super) sources: Vec<Option<u64>>,
    /// One more than that of the highest graph below.
    pub(super) level: usize,
}

/// All bases and views on one worker.
pub(super) struct Views {
    pub(super) busy: Busy,
    activity: Activity,
    pub(super) slice_rows: usize,
    pub(super) bases: BTreeMap<u64, WorkerBase>,
    next_base: u64,
    pub(super) views: BTreeMap<u64, WorkerView>,
}

/// What happened to the views at one tick.
#[derive(Default)]
pub(super) struct Outcome {
    pub changes: Vec<ViewChange>,
    pub left_out: Vec<ViewLeftOut>,
    pub rewrites: Vec<Rewrite>,
    /// Views whose past is let go of in the store.
    pub renewed: Vec<u64>,
    /// What they show, for the store.
    pub renewals: Vec<Renewal>,
}

impl Outcome {
    pub(super) fn errors(
        &mut self,
        view: &InstalledView,
        tick: Tick,
        errors: RowErrors,
        ledger: &mut Ledger,
    ) {
        if errors.rows > 0 {
            ledger.enter_errors(&view.page(0), tick, &errors, true);
            self.left_out.push(ViewLeftOut {
                view: view.id,
                late_rows: 0,
                error_rows: errors.came(),
                error_sample: errors.sample,
            });
        }
    }

    pub(super) fn change(&mut self, view: u64, batch: RecordBatch, diffs: Vec<i64>, expiry: bool) {
        if batch.num_rows() > 0 {
            self.changes.push(ViewChange {
                relation: RelationId {
                    view,
                    companion: None,
                },
                batch,
                diffs,
                expiry,
            });
        }
    }
}

impl Views {
    /// `slice_rows` at a tick are fed to views that start over much.
    pub fn build(worker: &mut Worker, slice_rows: usize) -> Views {
        Views {
            // Before any dataflow: those that are there already are not heard.
            busy: Busy::register(worker),
            activity: Activity::build(worker),
            slice_rows,
            bases: BTreeMap::new(),
            next_base: 0,
            views: BTreeMap::new(),
        }
    }

    pub fn contains(&self, view: u64) -> bool {
        self.views.contains_key(&view)
    }

    /// One tick: panes expire, rows are folded and what is taken back is subtracted, graphs follow.
    pub fn commit(
        &mut self,
        stepping: &mut Stepping<'_>,
        commit: &Commit,
        (batches, seeds): (&[DecodedBatch], &mut Vec<Seed>),
        ledger: &mut Ledger,
    ) -> Result<Outcome, PeerFailed> {
        let tick = commit.tick;
        let mut outcome = Outcome::default();
        self.stop(stepping.worker.index(), commit, ledger, &mut outcome);
        for base in self.bases.values_mut() {
            base.arranged.open_tick(tick);
            base.arranged.compact(commit.since);
            let mark = commit.marks.of(base.stream);
            let rule = &base.base.rule;
            // Sessions of a day that the watermark passes with their end are shown before it leaves.
            let until = match rule.by_watermark {
                true => base.passed,
                false => rule.expired_until(mark, tick),
            };
            if let Some(until) = until {
                // A mark may pass a window's end and its retention at once: it is shown, and stored, before it leaves.
                let closed = base.closing.as_ref().map_or(until, |closing| closing.now);
                base.arranged.expire(until.min(closed));
            }
        }
        // All bases of a batch while it is in the processor's cache.
        for decoded in batches.iter().filter(|decoded| decoded.in_views) {
            let mut shared = decoded.shared();
            let bases = self.bases.values_mut();
            for base in bases.filter(|base| base.stream == decoded.stream) {
                let begun = Instant::now();
                let at = Admitted {
                    tick,
                    mark_us: commit.marks.of(base.stream),
                };
                let event_time = shared.column(base.base.time_column());
                base.tap.fold(&mut shared, &event_time, at, &mut base.left_out);
                base.folding += begun.elapsed();
            }
        }
        self.take_back(tick, seeds, ledger, &mut outcome);
        let mut missing: BTreeMap<u64, LeftOut> = BTreeMap::new();
        let mut touched = BTreeSet::new();
        for (id, base) in &mut self.bases {
            let arranged = &mut base.arranged;
            let until = base.base.rule.expired_until(commit.marks.of(base.stream), tick);
            base.tap
                .drain(tick, until, |key, accumulator| arranged.update(key, accumulator));
            if arranged.is_touched() {
                touched.insert(*id);
            }
            let left_out = std::mem::take(&mut base.left_out);
            if !left_out.is_empty() {
                missing.insert(*id, left_out);
            }
        }
        self.enter_left_out(tick, missing, ledger, &mut outcome);
        let touched = self.activity.agree(stepping, touched)?;
        for (_, base) in self.bases.iter_mut().filter(|(id, _)| touched.contains(id)) {
            base.arranged.close_tick(tick);
        }
        for (id, base) in &mut self.bases {
            if touched.contains(id) {
                stepping.until(|| base.arranged.is_complete(tick))?;
                base.news.note();
            }
            base.complete(commit);
            base.tell(stepping.worker.index(), &self.busy);
        }
        let levels = self
            .views
            .values()
            .filter_map(|view| view.graph.as_ref().map(|graph| graph.level));
        let levels: BTreeSet<usize> = levels.collect();
        self.follow_leaves(commit, ledger, &mut outcome);
        for level in levels {
            self.follow(stepping, commit, level, ledger, &mut outcome)?;
        }
        for view in self.views.values_mut().filter(|view| !view.is_over()) {
            if let Some(graph) = &mut view.graph {
                graph.running.tell();
            }
        }
        self.renew(tick, &mut outcome);
        Ok(outcome)
    }

    /// Enters what bases left out of rows admitted at a tick for every view that reads them.
    fn enter_left_out(
        &self,
        tick: Tick,
        missing: BTreeMap<u64, LeftOut>,
        ledger: &mut Ledger,
        outcome: &mut Outcome,
    ) {
        if missing.is_empty() {
            return;
        }
        let installed = |view: &WorkerView| !view.is_over() && view.starting.is_none();
        for (id, view) in self.views.iter().filter(|(_, view)| installed(view)) {
            let bases: BTreeSet<u64> = view.leaves.iter().map(|leaf| leaf.base).collect();
            for (base, missing) in bases.iter().filter_map(|base| Some((base, missing.get(base)?))) {
                let page = view.installed.page(self.bases[base].base.rule.pane_us);
                ledger.enter_late(&page, tick, &missing.late);
                ledger.enter_errors(&page, tick, &missing.errors, false);
                outcome.left_out.push(ViewLeftOut {
                    view: *id,
                    late_rows: missing.late.rows,
                    error_rows: missing.errors.rows,
                    error_sample: missing.errors.sample.clone(),
                });
            }
        }
    }

    /// The changes of views that are what their leaf shows.
    fn follow_leaves(&self, commit: &Commit, ledger: &mut Ledger, outcome: &mut Outcome) {
        for (id, view) in self.views.iter() {
            if view.graph.is_some() || view.is_over() {
                continue;
            }
            for (finished, expiry) in self.finished(&view.leaves[0], commit) {
                outcome.errors(&view.installed, commit.tick, finished.errors, ledger);
                outcome.change(*id, finished.batch, finished.diffs, expiry);
            }
        }
    }

    /// What a leaf's watermark has passed at a tick.
    fn watermark(&self, leaf: &WorkerLeaf, commit: &Commit) -> Option<i64> {
        let base = &self.bases[&leaf.base];
        base.base.rule.closed_until(commit.marks.of(base.stream))
    }

    /// A leaf's changes: those by rows and by panes that close, and those by which panes end.
    fn finished(&self, leaf: &WorkerLeaf, commit: &Commit) -> Vec<(Finished, bool)> {
        let base = &self.bases[&leaf.base];
        if !base.has_news() {
            return Vec::new();
        }
        let rule = &base.base.rule;
        // What a condition on now() lets go is a change like any other.
        let until = rule.expired_until(commit.marks.of(base.stream), commit.tick);
        let (live, expired) = leaf
            .finish
            .changes(&base.changes, until.filter(|_| !rule.by_tick));
        let mut finished: Vec<(Finished, bool)> =
            live.into_iter().map(|finished| (finished, false)).collect();
        if let Some(closing) = base
            .closing
            .as_ref()
            .filter(|closing| !closing.entries.is_empty())
        {
            let entries = closing.entries.iter();
            let shown: Vec<_> = entries
                .map(|(key, accumulator)| (&key[..], accumulator, 1))
                .collect();
            finished.push((leaf.finish.rows(&shown), false));
        }
        finished.extend(expired.map(|finished| (finished, true)));
        finished
    }

    /// The changes of the graphs of one level.
    fn follow(
        &mut self,
        stepping: &mut Stepping<'_>,
        commit: &Commit,
        level: usize,
        ledger: &mut Ledger,
        outcome: &mut Outcome,
    ) -> Result<(), PeerFailed> {
        let tick = commit.tick;
        let mut views = std::mem::take(&mut self.views);
        let mut touched = BTreeSet::new();
        for (id, view) in views.iter_mut().filter(|(_, view)| !view.is_over()) {
            let Some(graph) = view.graph.as_mut().filter(|graph| graph.level == level) else {
                continue;
            };
            let enforced = commit.enforced && !commit.erases();
            graph.running.open_tick(tick, enforced);
            graph
                .running
                .release(tick, |leaf| self.watermark(&view.leaves[leaf], commit));
            graph.running.compact(commit.since);
            let aborted = commit.aborted.contains(id);
            let mut errors = RowErrors::of_groups();
            let rendered = view.installed.rendered.graph.as_ref();
            let inputs = rendered.map_or(&[][..], |graph| graph.inputs.as_slice());
            for (number, (input, source)) in inputs.iter().zip(&graph.sources).enumerate() {
                match (input, source) {
                    (Input::Leaf(leaf), _) => {
                        for (finished, expiry) in self.finished(&view.leaves[*leaf], commit) {
                            if !aborted {
                                graph
                                    .running
                                    .feed(number, finished.batch.columns(), &finished.diffs, expiry);
                            }
                            errors.add(finished.errors);
                        }
                    }
                    (Input::View(_), Some(source)) if !aborted => {
                        let of_source = outcome.changes.iter().filter(|change| {
                            change.relation.view == *source && change.relation.companion.is_none()
                        });
                        for change in of_source {
                            graph
                                .running
                                .feed(number, change.batch.columns(), &change.diffs, change.expiry);
                        }
                    }
                    (Input::View(_), _) => {}
                }
            }
            match &mut view.starting {
                None => outcome.errors(&view.installed, tick, errors, ledger),
                Some(starting) => {
                    starting.note(errors);
                    starting.feed(&mut graph.running, self.slice_rows);
                }
            }
            if aborted {
                graph.running.abort(stepping.worker);
                view.aborted = Some(tick);
            } else if graph.running.is_touched() {
                touched.insert(*id);
            }
        }
        self.views = views;
        let touched = self.activity.agree(stepping, touched)?;
        for (_, view) in self.views.iter_mut().filter(|(id, _)| touched.contains(id)) {
            if let Some(graph) = &mut view.graph {
                graph.running.close_tick(tick);
            }
        }
        for (id, view) in self.views.iter_mut().filter(|(id, _)| touched.contains(id)) {
            let Some(graph) = &mut view.graph else { continue };
            stepping.until(|| graph.running.is_complete(tick) || graph.running.is_spent())?;
            if graph.running.is_spent() {
                graph.running.abort(stepping.worker);
                view.aborted = Some(tick);
                continue;
            }
            graph.running.note();
            let (errors, changes) = (graph.running.take_errors(), graph.running.take_changes());
            if let Some(starting) = &mut view.starting {
                starting.note(errors);
                continue;
            }
            outcome.errors(&view.installed, tick, errors, ledger);
            for (batch, diffs, expiry) in changes {
                outcome.change(*id, batch, diffs, expiry);
            }
        }
        Ok(())
    }

    /// Builds a view at the end of `tick`; what it shows already is its change at that tick.
    pub fn install(
        &mut self,
        stepping: &mut Stepping<'_>,
        commit: &Commit,
        installed: &Arc<InstalledView>,
        seeds: &mut Vec<Seed>,
        ledger: &mut Ledger,
        outcome: &mut Outcome,
    ) -> Result<(), PeerFailed> {
        let tick = commit.tick;
        if let Some((stopped, _)) = installed.stopped_at().filter(|_| commit.is_restored) {
            self.views
                .insert(installed.id, WorkerView::over(installed, stopped));
            return Ok(());
        }
        let mut missing: Vec<(u64, Tick, LeftOut)> = Vec::new();
        let checked = "invariant: the definition was compiled before it was logged";
        let mut leaves = Vec::with_capacity(installed.rendered.leaves.len());
        for leaf in &installed.rendered.leaves {
            let known = self
                .bases
                .iter()
                .find(|(_, base)| Arc::ptr_eq(&base.base, &leaf.base));
            let base = match known {
                Some((id, _)) => *id,
                None => {
                    let stream = installed.streams[leaves.len()];
                    let (base, left_out) = self.add_base(
                        stepping,
                        commit,
                        &leaf.base,
                        stream,
                        &installed.name.to_string(),
                        seeds,
                    )?;
                    let left_out = left_out.into_iter();
                    missing.extend(left_out.map(|(admitted, left_out)| (base, admitted, left_out)));
                    base
                }
            };
            leaves.push(WorkerLeaf {
                base,
                finish: Rc::new(Finish::new(Arc::clone(leaf)).expect(checked)),
            });
        }
        let mut view = WorkerView {
            installed: Arc::clone(installed),
            leaves,
            graph: None,
            aborted: None,
            stopped: None,
            starting: None,
        };
        match &installed.rendered.graph {
            None => {
                let (shown, errors) = self.leaf_content(&view.leaves[0], tick);
                outcome.errors(installed, tick, errors, ledger);
                for (batch, diffs) in shown {
                    outcome.change(installed.id, batch, diffs, false);
                }
            }
            Some(graph) => {
                let name = installed.name.to_string();
                let limits = Limits {
                    budget: &installed.budget,
                    enforced: commit.enforced,
                    figures: &installed.figures,
                };
                let mut running =
                    RunningGraph::build(stepping.worker, &name, graph, tick, &limits, &self.busy)
                        .expect(checked);
                running.release(tick, |leaf| self.watermark(&view.leaves[leaf], commit));
                let aborted = commit.aborted.contains(&installed.id);
                let mut of_views = installed.sources.iter().copied();
                let mut sources = Vec::with_capacity(graph.inputs.len());
                for (number, input) in graph.inputs.iter().enumerate() {
                    let content = match input {
                        Input::Leaf(leaf) => {
                            let (content, errors) = self.leaf_content(&view.leaves[*leaf], tick);
                            outcome.errors(installed, tick, errors, ledger);
                            sources.push(None);
                            content
                        }
                        Input::View(_) => {
                            let source = of_views.next().expect("invariant: every view read has an id");
                            sources.push(Some(source));
                            self.read(source, tick)
                        }
                    };
                    for (batch, diffs) in content.into_iter().filter(|_| !aborted) {
                        running.feed(number, batch.columns(), &diffs, false);
                    }
                }
                if !aborted {
                    running.close_tick(tick);
                    stepping.until(|| running.is_complete(tick) || running.is_spent())?;
                }
                if aborted || running.is_spent() {
                    running.abort(stepping.worker);
                    view.aborted = Some(tick);
                } else {
                    running.note();
                    outcome.errors(installed, tick, running.take_errors(), ledger);
                    for (batch, diffs, expiry) in running.take_changes() {
                        outcome.change(installed.id, batch, diffs, expiry);
                    }
                }
                view.graph = Some(WorkerGraph {
                    running,
                    sources,
                    level: self.level_of(installed),
                });
            }
        }
        self.views.insert(installed.id, view);
        let page = installed.page(0);
        missing.retain(|(_, admitted, _)| !Ledger::is_over(&page, *admitted, tick));
        for (base, admitted, left_out) in missing {
            self.enter_left_out(admitted, BTreeMap::from([(base, left_out)]), ledger, outcome);
        }
        Ok(())
    }

    pub(super) fn level_of(&self, view: &InstalledView) -> usize {
        let below = view
            .sources
            .iter()
            .filter_map(|source| self.views[source].graph.as_ref());
        below.map(|graph| graph.level + 1).max().unwrap_or(0)
    }

    /// A base, and what its past left out.
    fn add_base(
        &mut self,
        stepping: &mut Stepping<'_>,
        commit: &Commit,
        base: &Arc<Base>,
        stream: StreamId,
        name: &str,
        seeds: &mut Vec<Seed>,
    ) -> Result<(u64, BTreeMap<Tick, LeftOut>), PeerFailed> {
        let tick = commit.tick;
        let id = self.next_base;
        self.next_base += 1;
        let closed = base
            .rule
            .closed_until(commit.marks.of(stream))
            .unwrap_or(i64::MIN);
        // One that begins in the past has its first content at this tick, on all workers.
        let in_the_past = base.start < tick;
        let first = if in_the_past { tick } else { tick + 1 };
        let mut built = WorkerBase {
            stream,
            tap: Tap::new(Arc::clone(base)).expect("invariant: the base was compiled before it was logged"),
            arranged: ArrangedView::build(stepping.worker, name, base.layout, first),
            left_out: LeftOut::default(),
            changes: Vec::new(),
            closing: base.rule.emit_final.then(|| Closing::at(closed, tick)),
            passed: base.rule.expired_until(commit.marks.of(stream), tick),
            changed: 0,
            folding: Duration::ZERO,
            news: News::default(),
            base: Arc::clone(base),
        };
        self.busy.follow(built.arranged.operators());
        let mut left_out = BTreeMap::new();
        if in_the_past {
            if let Some(place) = seeds.iter().position(|seed| Arc::ptr_eq(&seed.base, base)) {
                let seed = seeds.swap_remove(place);
                for (key, accumulator) in seed.groups {
                    built.arranged.update(key, accumulator);
                }
                built.tap.adopt(seed.waiting);
                left_out = seed.left_out;
            }
            built.arranged.close_tick(tick);
            stepping.until(|| built.arranged.is_complete(tick))?;
            built.changed += built.arranged.take_changes().len() as u64;
            built.news.note();
        }
        self.bases.insert(id, built);
        Ok((id, left_out))
    }

    /// Removes a view, and the bases that only it read. Their inputs close with them; an aggregate holds no future
    /// updates, so nothing is released by that.
    pub fn remove(&mut self, view: u64) {
        self.views.remove(&view);
        self.drop_unused_bases();
    }
}
