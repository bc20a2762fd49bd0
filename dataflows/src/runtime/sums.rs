//! What rows of the past add up to, by key and pane of the bases that they feed.
//!
//! Summed beside the dataflow, from rows as they are stored or in memory: what a new base begins with, what an erasure takes
//! from those there are, or what groups were whose panes have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not, sort_to_indices, take_record_batch};
use arrow::datatypes::Int64Type;
use hashbrown::HashMap;
use pyflare_operators::aggregate::Accumulator;
use pyflare_operators::conform::conform;

use super::EngineError;
use super::decoding::ahead;
use super::erasure::{Erased, ErasureSubject, Request};
use super::rewriting::{EndedUntil, MOST_GROUPS, Rewrites, Taken, TakenFrom, Wanted};
use super::streams::{Marks, StreamId};
use super::views::InstalledView;
use crate::plan::source_schema;
use crate::render::arrange::pane_of;
use crate::render::key::Key;
use crate::render::left_out::LeftOut;
use crate::render::{Admitted, Base, SharedBatch, Tap, Waiting};
use crate::time::Tick;

const MINUTE_MS: Tick = 60_000;
const TICK: &str = "_tick";
const MARK: &str = "_mark";
/// Groups that are folded before those that nobody asked for are let go.
const FOLDED_GROUPS: u64 = 50_000;
/// Groups of ended panes that are kept of one base, some hundred bytes each, where panes are wanted as a whole.
const MOST_KNOWN: usize = 2 * MOST_GROUPS;

/// What a base begins with, on one worker.
pub(crate) struct Seed {
    pub base: Arc<Base>,
    pub groups: Vec<(Key, Accumulator)>,
    /// What a condition on `now()` asks for later.
    pub waiting: Waiting,
    /// What the store is told of panes that have ended: the changes by one worker, and by each its share of what is new.
    pub rewrites: Rewrites,
    /// What was left out on the way, by a tick of the minute of admission, or, taken back, by the tick; of all workers one
    /// is told.
    pub left_out: BTreeMap<Tick, LeftOut>,
}

impl Seed {
    pub fn nothing(base: &Arc<Base>) -> Seed {
        Seed {
            base: Arc::clone(base),
            groups: Vec::new(),
            waiting: Waiting::new(),
            rewrites: Rewrites::default(),
            left_out: BTreeMap::new(),
        }
    }
}

/// What the past adds to the bases that a view needs anew, or what an erasure takes from those there are.
pub(crate) struct Sums {
    folds: Vec<Fold>,
    /// Rows admitted until here are in them.
    pub(super) upto: Tick,
    choice: Choice,
    /// Rows that were folded.
    rows: u64,
}

/// Which rows count.
struct Choice {
    /// Those that it names; all, if there is none.
    only: Option<Request>,
    /// None of those that they took back.
    without: Vec<Arc<Erased>>,
}

impl Choice {
    fn subjects(&self) -> impl Iterator<Item = &ErasureSubject> {
        let erased = self.without.iter().filter(|erased| !erased.is_removed);
        let requests = self.only.iter().chain(erased.map(|erased| &erased.request));
        requests.map(|request| &request.subject)
    }

    /// The rows that count.
    fn of(&self, batch: &RecordBatch) -> Option<RecordBatch> {
        let mut rows = match &self.only {
            None => batch.clone(),
            Some(request) => kept(batch, &request.subject.rows(batch)?)?,
        };
        for erased in &self.without {
            if let Some(gone) = erased.rows(&rows) {
                rows = kept(&rows, &not(&gone).ok()?)?;
            }
        }
        Some(rows)
    }
}

fn kept(batch: &RecordBatch, mask: &BooleanArray) -> Option<RecordBatch> {
    let kept = filter_record_batch(batch, mask).expect("invariant: one truth for each row");
    (kept.num_rows() > 0).then_some(kept)
}

pub(super) struct Fold {
    pub(super) base: Arc<Base>,
    stream: StreamId,
    tap: Tap,
    /// Of these keys only; `None`: of all.
    wanted: Option<Wanted>,
    /// The panes that were wanted as a whole have too many groups: those are not wanted any more.
    is_overflowing: bool,
    /// What was taken out of the tap.
    pub(super) groups: HashMap<Key, Accumulator>,
    left_out: BTreeMap<Tick, LeftOut>,
}

/// Groups as they were, those that were asked for.
pub(super) struct Known<'a> {
    pub wanted: &'a Wanted,
    pub groups: &'a HashMap<Key, Accumulator>,
    /// Of whole panes there are too many to be known.
    pub is_overflowing: bool,
}

impl Sums {
    /// Nothing yet of the bases of `view` that `installed` does not have; rows that were taken back do not count.
    pub fn of(view: &InstalledView, installed: &[Arc<InstalledView>], without: Vec<Arc<Erased>>) -> Sums {
        let choice = Choice { only: None, without };
        Sums::new(new_bases(view, installed), choice)
    }

    /// Nothing yet of what an erasure takes from the bases that have rows until its tick; those that others took back before
    /// are gone already.
    pub fn taking_back(
        request: &Request,
        installed: &[Arc<InstalledView>],
        without: Vec<Arc<Erased>>,
    ) -> Sums {
        let mut bases = all_bases(installed);
        bases.retain(|(base, _)| base.start < request.until);
        let choice = Choice {
            only: Some(request.clone()),
            without,
        };
        Sums::new(bases, choice)
    }

    fn new(bases: Vec<(&Arc<Base>, StreamId)>, choice: Choice) -> Sums {
        let checked = "invariant: the base was compiled with its view";
        let taps = bases.into_iter().map(|(base, stream)| Fold {
            tap: match &choice.only {
                None => Tap::new(Arc::clone(base)).expect(checked),
                Some(_) => Tap::taking_back(Arc::clone(base)).expect(checked),
            },
            base: Arc::clone(base),
            stream,
            wanted: None,
            is_overflowing: false,
            groups: HashMap::new(),
            left_out: BTreeMap::new(),
        });
        let folds: Vec<Fold> = taps.collect();
        let upto = folds.iter().map(|fold| fold.base.start).min().unwrap_or(0);
        Sums {
            folds,
            upto,
            choice,
            rows: 0,
        }
    }

    /// Nothing yet of the whole groups that have to be known, of panes that will have ended.
    pub fn whole(&mut self, ended: &EndedUntil) -> Sums {
        for fold in &mut self.folds {
            fold.settle();
        }
        let taken: Vec<TakenFrom<'_>> = self.folds.iter().map(|fold| (&fold.base, &fold.groups)).collect();
        let mut folds = Vec::new();
        for (base, stream, wanted) in ended.wanted(&taken) {
            folds.push(Fold {
                tap: Tap::new(Arc::clone(&base)).expect("invariant: the base was compiled with its view"),
                base,
                stream,
                wanted: Some(wanted),
                is_overflowing: false,
                groups: HashMap::new(),
                left_out: BTreeMap::new(),
            });
        }
        let upto = folds.iter().map(|fold| fold.base.start).min().unwrap_or(0);
        Sums {
            folds,
            upto,
            choice: Choice {
                only: None,
                without: self.choice.without.clone(),
            },
            rows: 0,
        }
    }

    /// The groups of a base as far as they were asked for.
    pub fn groups_of(&mut self, base: &Arc<Base>) -> Option<Known<'_>> {
        let fold = self.folds.iter_mut().find(|fold| Arc::ptr_eq(&fold.base, base))?;
        fold.settle();
        Some(Known {
            wanted: fold.wanted.as_ref()?,
            groups: &fold.groups,
            is_overflowing: fold.is_overflowing,
        })
    }

    /// Rows admitted until here are in them.
    pub fn upto(&self) -> Tick {
        self.upto
    }

    /// How many erasures it knows of.
    pub fn erasures(&self) -> usize {
        self.choice.without.len()
    }

    /// Rows that were folded so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether all bases there are with rows until its tick are among those that are read for.
    pub fn covers(&self, installed: &[Arc<InstalledView>], until: Tick) -> bool {
        let mut bases = all_bases(installed).into_iter();
        bases.all(|(base, _)| {
            base.start >= until || self.folds.iter().any(|fold| Arc::ptr_eq(&fold.base, base))
        })
    }

    /// Whether there is nothing to be read.
    pub fn is_empty(&self) -> bool {
        self.folds.is_empty()
    }

    /// Groups of the largest base.
    pub(super) fn groups(&self) -> u64 {
        self.folds.iter().map(|fold| fold.tap.groups()).max().unwrap_or(0)
    }

    pub(super) fn streams(&self) -> BTreeSet<StreamId> {
        self.folds.iter().map(|fold| fold.stream).collect()
    }

    /// The columns of a stream that are read, those that say when rows came included.
    pub(super) fn columns(&self, stream: StreamId) -> Vec<String> {
        let mut columns: BTreeSet<&str> = [TICK, MARK].into();
        for fold in self.folds.iter().filter(|fold| fold.stream == stream) {
            columns.insert(fold.base.time_column());
            columns.extend(fold.base.source_columns.iter().map(String::as_str));
            let of_stream = source_schema(&fold.base.stream, fold.base.declared.as_ref());
            let of_stream = of_stream.expect("invariant: the base was compiled over its stream");
            for subject in self
                .choice
                .subjects()
                .filter(|subject| subject.concerns(&of_stream))
            {
                for column in subject.columns() {
                    columns.insert(column);
                }
            }
        }
        columns.into_iter().map(str::to_owned).collect()
    }

    /// Adds the rows of a stream with `after < _tick ≤ until`.
    pub(super) fn add(
        &mut self,
        stream: StreamId,
        batch: &RecordBatch,
        after: Tick,
        until: Tick,
    ) -> Result<(), EngineError> {
        let Some(first) = self.folds.iter().find(|fold| fold.stream == stream) else {
            return Ok(());
        };
        let of_stream = source_schema(&first.base.stream, first.base.declared.as_ref())?;
        let places = self
            .columns(stream)
            .iter()
            .map(|name| of_stream.index_of(name))
            .collect::<Result<Vec<_>, _>>();
        let prepared = places.and_then(|places| {
            let batch = conform(batch, &Arc::new(of_stream.project(&places)?))?;
            in_order(&batch)
        });
        let batch = prepared.map_err(|error| EngineError::Unreadable {
            detail: error.to_string(),
        })?;
        let Some(batch) = self.choice.of(&batch) else {
            return Ok(());
        };
        let ticks = batch[TICK].as_primitive::<Int64Type>();
        let marks = batch[MARK].as_primitive::<Int64Type>();
        let mut start = 0;
        for run in ticks.values().chunk_by(|one, next| one == next) {
            let rows = start..start + run.len();
            start = rows.end;
            let tick = Tick::try_from(run[0]).unwrap_or(0);
            if tick <= after || tick > until {
                continue;
            }
            let at = Admitted {
                tick,
                mark_us: marks.is_valid(rows.start).then(|| marks.value(rows.start)),
            };
            let rows = batch.slice(rows.start, rows.len());
            self.rows += rows.num_rows() as u64;
            self.fold(stream, &rows, at);
        }
        Ok(())
    }

    /// Folds rows that were admitted at one tick.
    fn fold(&mut self, stream: StreamId, rows: &RecordBatch, at: Admitted) {
        let of_stream = |fold: &&mut Fold| fold.stream == stream;
        let Some(time) = self
            .folds
            .iter_mut()
            .find(of_stream)
            .map(|fold| fold.base.time_column())
        else {
            return;
        };
        // Rows of OpenTelemetry's streams are never ahead of their tick.
        let in_views = match stream {
            StreamId::Signal(_) => rows.clone(),
            StreamId::User(_) => {
                let kept = not(&ahead(rows, time, at.tick)).and_then(|kept| filter_record_batch(rows, &kept));
                kept.expect("invariant: one truth for each row")
            }
        };
        let mut shared = SharedBatch::new(&in_views, None);
        // What is taken back is told by the tick: not all views counted it.
        let told_at = match self.choice.only {
            None => at.tick - at.tick % MINUTE_MS,
            Some(_) => at.tick,
        };
        let has_rows = |fold: &&mut Fold| fold.base.start < at.tick;
        for fold in self.folds.iter_mut().filter(of_stream).filter(has_rows) {
            let event_time = shared.column(fold.base.time_column());
            let left_out = fold.left_out.entry(told_at).or_default();
            fold.tap.fold(&mut shared, &event_time, at, left_out);
            if left_out.is_empty() {
                fold.left_out.remove(&told_at);
            }
            if fold.wanted.is_some() && fold.tap.groups() > FOLDED_GROUPS {
                fold.settle();
            }
        }
    }

    /// The sums as what the bases of `view` begin with after `tick`, a share for each worker; `None`: they were summed
    /// for others. The marks are those before the tick and before the previous one.
    pub fn seeds(
        mut self,
        view: &InstalledView,
        installed: &[Arc<InstalledView>],
        (tick, marks, previous): (Tick, &Marks, &Marks),
        workers: usize,
    ) -> Option<Vec<Vec<Seed>>> {
        let mut shares: Vec<Vec<Seed>> = (0..workers).map(|_| Vec::new()).collect();
        for (base, stream) in new_bases(view, installed) {
            let place = self.folds.iter().position(|fold| fold.base.is_like(base))?;
            let fold = self.folds.swap_remove(place);
            let of_stream = (tick, marks.of(stream), previous.of(stream));
            fold.share(base, of_stream, &mut shares);
        }
        Some(shares)
    }

    /// The sums as what the bases there are lose after `tick`, a share for each worker, and what is taken from each.
    pub fn retractions(
        self,
        (tick, marks, previous): (Tick, &Marks, &Marks),
        workers: usize,
    ) -> (Vec<Vec<Seed>>, Vec<Taken>) {
        let mut shares: Vec<Vec<Seed>> = (0..workers).map(|_| Vec::new()).collect();
        let mut taken = Vec::new();
        for fold in self.folds {
            let base = Arc::clone(&fold.base);
            let of_stream = (tick, marks.of(fold.stream), previous.of(fold.stream));
            let is_nothing = fold.groups.is_empty() && fold.tap.groups() == 0;
            let ended = fold.share(&base, of_stream, &mut shares);
            taken.push(Taken {
                base,
                is_nothing,
                ended,
            });
        }
        (shares, taken)
    }
}

impl Fold {
    /// Takes what is folded out of the tap, of the keys that are asked for.
    fn settle(&mut self) {
        let mut folded: Vec<(Key, Accumulator)> = Vec::new();
        self.tap
            .drain(0, None, |key, accumulator| folded.push((key, accumulator)));
        let keys = folded.iter().map(|(key, _)| key);
        let wanted = self.wanted.as_ref().map(|wanted| wanted.of(&self.base, keys));
        for (place, (key, accumulator)) in folded.into_iter().enumerate() {
            if wanted.as_ref().is_none_or(|wanted| wanted[place]) {
                match self.groups.get_mut(&key) {
                    Some(sum) => sum.add(&accumulator),
                    None => drop(self.groups.insert(key, accumulator)),
                }
            }
        }
        if let Some(wanted) = &mut self.wanted
            && wanted.has_whole_panes()
            && self.groups.len() > MOST_KNOWN
        {
            self.is_overflowing = true;
            wanted.forget_panes();
            self.groups.retain(|key, _| wanted.has_key(key));
        }
    }

    /// Gives each worker a share of the sums, as those of `base`; what has left that by the tick is given back.
    fn share(
        mut self,
        base: &Arc<Base>,
        (tick, mark, previous): (Tick, Option<i64>, Option<i64>),
        shares: &mut [Vec<Seed>],
    ) -> Vec<(Key, Accumulator)> {
        let until = base.rule.expired_until(mark, tick);
        // A window that closes at this tick does not leave at it.
        let until = match (base.rule.emit_final, base.rule.by_watermark) {
            (true, _) => until.min(base.rule.closed_until(previous)),
            (_, true) => base.rule.expired_until(previous, tick),
            _ => until,
        };
        let (mut groups, mut ended) = (Vec::new(), Vec::new());
        let settled = std::mem::take(&mut self.groups);
        let mut sort = |key: Key, accumulator| match until.is_none_or(|until| pane_of(&key) > until) {
            true => groups.push((key, accumulator)),
            false => ended.push((key, accumulator)),
        };
        for (key, accumulator) in settled {
            sort(key, accumulator);
        }
        // Also what has waited for its moment until its pane had ended.
        self.tap.drain(tick, None, sort);
        let mut waiting = self.tap.take_waiting();
        let mut left_out = self.left_out;
        let share = groups.len().div_ceil(shares.len()).max(1);
        for seeds in shares {
            let rest = groups.split_off(share.min(groups.len()));
            seeds.push(Seed {
                base: Arc::clone(base),
                groups: std::mem::replace(&mut groups, rest),
                waiting: std::mem::take(&mut waiting),
                rewrites: Rewrites::default(),
                left_out: std::mem::take(&mut left_out),
            });
        }
        ended
    }
}

/// Every base there is, with its stream.
fn all_bases(installed: &[Arc<InstalledView>]) -> Vec<(&Arc<Base>, StreamId)> {
    let mut found: Vec<(&Arc<Base>, StreamId)> = Vec::new();
    for view in installed.iter().filter(|view| view.stopped_at().is_none()) {
        for (base, stream) in view.bases().zip(&view.streams) {
            if !found.iter().any(|(other, _)| Arc::ptr_eq(base, other)) {
                found.push((base, *stream));
            }
        }
    }
    found
}

/// The bases of a view that nobody installed has, with their streams.
fn new_bases<'a>(
    view: &'a InstalledView,
    installed: &[Arc<InstalledView>],
) -> Vec<(&'a Arc<Base>, StreamId)> {
    let mut found: Vec<(&Arc<Base>, StreamId)> = Vec::new();
    for (base, stream) in view.bases().zip(&view.streams) {
        let known = found.iter().any(|(other, _)| Arc::ptr_eq(base, other))
            || installed
                .iter()
                .any(|view| view.bases().any(|other| Arc::ptr_eq(base, other)));
        if !known {
            found.push((base, *stream));
        }
    }
    found
}

/// The rows in the order of their ticks.
fn in_order(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let ticks = batch[TICK].as_primitive::<Int64Type>();
    if ticks.values().is_sorted() {
        return Ok(batch.clone());
    }
    take_record_batch(batch, &sort_to_indices(&batch[TICK], None, None)?)
}
