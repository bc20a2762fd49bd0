//! Views that begin before they are installed: what was admitted already is read back and folded.
//!
//! A base is a sum over rows, so what the past adds to it can be summed anywhere. A thread of its own reads the stored
//! rows, then those in memory that are not stored yet, into accumulators by key, beside the dataflow; running views
//! notice only the processor's time. Once the sums reach to the newest tick the view is installed, at a tick without
//! rows, and they are the first content of its bases.
//!
//! The install record says since when. A replay sums the same rows again: rows are stored with their ticks and marks,
//! and which of them count is a function of these alone.
//!
//! An erasure is the same with the sign reversed: what its rows added to the bases there are is taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::EngineError;
use super::decoding::ahead;
use super::erasing::Erasing;
use super::erasure::{Erased, ErasureSubject, Erasures, Request};
use super::messages::ToCoordinator;
use super::starting::Reply;
use super::status::Gauges;
use super::streams::{Marks, StreamId, StreamRegistry};
use super::tail::HistoryTail;
use super::views::{InstalledView, ViewName};
use crate::plan::source_schema;
use crate::render::arrange::pane_of;
use crate::render::key::Key;
use crate::render::left_out::LeftOut;
use crate::render::{Admitted, Base, SharedBatch, Tap, Waiting};
use crate::time::Tick;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not, sort_to_indices, take_record_batch};
use arrow::datatypes::Int64Type;
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use pyflare_connectors::{RowRange, Store};
use pyflare_operators::aggregate::Accumulator;
use pyflare_operators::conform::conform;

const MINUTE_MS: Tick = 60_000;
/// After the store failed to hand over the rows of an erasure.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const TICK: &str = "_tick";
const MARK: &str = "_mark";

/// What a base begins with, on one worker.
pub(crate) struct Seed {
    pub base: Arc<Base>,
    pub groups: Vec<(Key, Accumulator)>,
    /// What a condition on `now()` asks for later.
    pub waiting: Waiting,
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
            left_out: BTreeMap::new(),
        }
    }
}

/// What the past adds to the bases that a view needs anew, or what an erasure takes from those there are.
pub(crate) struct Sums {
    folds: Vec<Fold>,
    /// Rows admitted until here are in them.
    upto: Tick,
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

    /// The rows that may count, whenever they came.
    fn named(&self, batch: &RecordBatch) -> Option<RecordBatch> {
        match &self.only {
            None => Some(batch.clone()),
            Some(request) => kept(batch, &request.subject.rows(batch)?),
        }
    }

    /// The rows that count of those that came at a tick.
    fn left(&self, rows: RecordBatch, tick: Tick) -> Option<RecordBatch> {
        let mut rows = rows;
        for erased in &self.without {
            if let Some(gone) = erased.rows(&rows, tick) {
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

struct Fold {
    base: Arc<Base>,
    stream: StreamId,
    tap: Tap,
    left_out: BTreeMap<Tick, LeftOut>,
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
    fn groups(&self) -> u64 {
        self.folds.iter().map(|fold| fold.tap.groups()).max().unwrap_or(0)
    }

    fn streams(&self) -> BTreeSet<StreamId> {
        self.folds.iter().map(|fold| fold.stream).collect()
    }

    /// The columns of a stream that are read, those that say when rows came included.
    fn columns(&self, stream: StreamId) -> Vec<String> {
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
    fn add(
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
        let Some(batch) = self.choice.named(&batch) else {
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
            if let Some(rows) = self.choice.left(rows, tick) {
                self.rows += rows.num_rows() as u64;
                self.fold(stream, &rows, at);
            }
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

    /// The sums as what the bases there are lose after `tick`, a share for each worker.
    pub fn retractions(
        self,
        (tick, marks, previous): (Tick, &Marks, &Marks),
        workers: usize,
    ) -> Vec<Vec<Seed>> {
        let mut shares: Vec<Vec<Seed>> = (0..workers).map(|_| Vec::new()).collect();
        for fold in self.folds {
            let base = Arc::clone(&fold.base);
            let of_stream = (tick, marks.of(fold.stream), previous.of(fold.stream));
            fold.share(&base, of_stream, &mut shares);
        }
        shares
    }
}

impl Fold {
    /// Gives each worker a share of the sums, as those of `base`, leaving out what has left it by the tick.
    fn share(
        mut self,
        base: &Arc<Base>,
        (tick, mark, previous): (Tick, Option<i64>, Option<i64>),
        shares: &mut [Vec<Seed>],
    ) {
        let until = base.rule.expired_until(mark, tick);
        // A window that closes at this tick does not leave at it.
        let until = match base.rule.emit_final {
            true => until.min(base.rule.closed_until(previous)),
            false => until,
        };
        let mut groups = Vec::new();
        self.tap.drain(tick, until, |key, accumulator| {
            if until.is_none_or(|until| pane_of(&key) > until) {
                groups.push((key, accumulator));
            }
        });
        let mut waiting = self.tap.take_waiting();
        let mut left_out = self.left_out;
        let share = groups.len().div_ceil(shares.len()).max(1);
        for seeds in shares {
            let rest = groups.split_off(share.min(groups.len()));
            seeds.push(Seed {
                base: Arc::clone(base),
                groups: std::mem::replace(&mut groups, rest),
                waiting: std::mem::take(&mut waiting),
                left_out: std::mem::take(&mut left_out),
            });
        }
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

/// Where rows are that were admitted before.
pub(crate) struct Past {
    pub store: Arc<dyn Store>,
    pub runtime: tokio::runtime::Handle,
    pub tail: Arc<HistoryTail>,
    pub streams: Arc<StreamRegistry>,
    pub erasures: Arc<Erasures>,
    /// How long rows are stored of streams that say nothing else, microseconds.
    pub retention_us: Option<i64>,
    pub stop: AtomicBool,
}

impl Past {
    /// Adds what was admitted until `complete`, a tick that all workers have completed; `go_on` is asked after every
    /// batch.
    pub fn add_until(
        &self,
        sums: &mut Sums,
        complete: Tick,
        go_on: &(dyn Fn(&Sums, usize) -> Result<(), EngineError> + Sync),
    ) -> Result<(), EngineError> {
        for stream in sums.streams() {
            // Read together with what is stored until when: no row is missing between the two, none is in both.
            let tail = self.tail.stream(stream, complete);
            let stored = tail.flushed.map_or(0, |flushed| flushed.min(complete));
            if stored > sums.upto {
                self.add_stored(sums, stream, stored, go_on)?;
            }
            let after = sums.upto.max(stored);
            for batch in &tail.batches {
                sums.add(stream, batch, after, complete)?;
                go_on(sums, batch.num_rows())?;
            }
        }
        sums.upto = sums.upto.max(complete);
        Ok(())
    }

    fn add_stored(
        &self,
        sums: &mut Sums,
        stream: StreamId,
        until: Tick,
        go_on: &(dyn Fn(&Sums, usize) -> Result<(), EngineError> + Sync),
    ) -> Result<(), EngineError> {
        let Some(table) = self.streams.table(stream) else {
            return Ok(());
        };
        let columns = sums.columns(stream);
        let after = sums.upto;
        let range = RowRange {
            columns: &columns,
            after,
            until,
        };
        let mut outcome = Ok(());
        let mut visit = |batch: RecordBatch| {
            outcome = match self.stop.load(Ordering::Acquire) {
                true => Err(EngineError::Closed),
                false => sums
                    .add(stream, &batch, after, until)
                    .and_then(|()| go_on(sums, batch.num_rows())),
            };
            outcome.is_ok()
        };
        // On a thread of its own: the caller may be one that serves.
        let read = std::thread::scope(|scope| {
            let reading = || {
                self.runtime
                    .block_on(self.store.read_rows(&table, range, &mut visit))
            };
            scope.spawn(reading).join()
        });
        match read {
            Ok(Ok(())) => outcome,
            Ok(Err(error)) => Err(EngineError::Unreadable {
                detail: error.to_string(),
            }),
            Err(_) => Err(EngineError::Unreadable {
                detail: format!("reading the table {table} failed"),
            }),
        }
    }
}

/// A view that waits for its past.
pub(crate) struct Backfill {
    pub view: Arc<InstalledView>,
    pub or_replace: bool,
    pub reply: Reply,
    pub sums: Sums,
}

impl Backfill {
    /// Whether what is missing has left the memory meanwhile.
    pub fn is_overtaken(&self, flushed: Option<Tick>) -> bool {
        flushed.is_some_and(|flushed| flushed > self.sums.upto)
    }
}

/// How far a view's past has been read.
#[derive(Debug, Clone)]
pub struct BackfillProgress {
    pub name: ViewName,
    /// Rows admitted after this tick are read.
    pub since: Tick,
    /// When it was asked for.
    pub asked_at: Tick,
    /// Whether it is its turn; one view is read for at a time.
    pub is_reading: bool,
    /// Rows read so far.
    pub rows: u64,
    /// Groups of the largest base so far.
    pub groups: u64,
}

/// All views that wait, by id.
#[derive(Default)]
pub(crate) struct Backfills(Mutex<BTreeMap<u64, BackfillProgress>>);

impl Backfills {
    pub fn all(&self) -> Vec<BackfillProgress> {
        self.0.lock().values().cloned().collect()
    }

    pub fn begin(&self, view: &InstalledView) {
        let progress = BackfillProgress {
            name: view.name.clone(),
            since: view.start,
            asked_at: crate::time::now_ms(),
            is_reading: false,
            rows: 0,
            groups: 0,
        };
        self.0.lock().entry(view.id).or_insert(progress);
    }

    pub fn end(&self, view: u64) {
        self.0.lock().remove(&view);
    }

    fn note(&self, view: u64, rows: usize, groups: u64) {
        if let Some(progress) = self.0.lock().get_mut(&view) {
            progress.is_reading = true;
            progress.rows += rows as u64;
            progress.groups = groups;
        }
    }
}

/// What the past is read for.
pub(crate) enum ReadJob {
    Backfill(Box<Backfill>),
    Erasure(Box<Erasing>),
}

/// The thread that reads the past for one view, or erasure, after the other.
pub(crate) struct Reader {
    pub past: Arc<Past>,
    pub jobs: Receiver<ReadJob>,
    pub coordinator: Sender<ToCoordinator>,
    pub progress: Arc<Backfills>,
    /// They know the newest tick that all workers have completed.
    pub gauges: Arc<Gauges>,
}

impl Reader {
    pub fn run(self) {
        for job in &self.jobs {
            let read = match job {
                ReadJob::Backfill(backfill) => self.read_for_view(backfill),
                ReadJob::Erasure(erasing) => self.read_for_erasure(erasing),
            };
            if read.is_some_and(|read| self.coordinator.send(read).is_err()) {
                return;
            }
        }
    }

    fn read_for_view(&self, mut backfill: Box<Backfill>) -> Option<ToCoordinator> {
        let view = Arc::clone(&backfill.view);
        self.progress.begin(&view);
        let within_limits = |sums: &Sums, rows: usize| {
            let groups = sums.groups();
            self.progress.note(view.id, rows, groups);
            match groups > view.limits.rows {
                true => Err(EngineError::Backfill {
                    name: view.name.to_string(),
                    detail: format!(
                        "it would keep more than max_rows = {} rows; filter or aggregate more, or begin later",
                        view.limits.rows
                    ),
                }),
                false => Ok(()),
            }
        };
        let complete = self.gauges.tick.load(Ordering::Acquire);
        match self.past.add_until(&mut backfill.sums, complete, &within_limits) {
            Ok(()) => Some(ToCoordinator::Backfilled(backfill)),
            Err(error) => {
                self.progress.end(view.id);
                let _ = backfill.reply.send(Err(error));
                None
            }
        }
    }

    /// The store may be away for a while: what was asked for is tried until it is done.
    fn read_for_erasure(&self, mut erasing: Box<Erasing>) -> Option<ToCoordinator> {
        let id = erasing.request.id;
        let note = |sums: &Sums, _: usize| {
            self.past.erasures.note(id, sums.rows());
            Ok(())
        };
        let until = erasing.request.until;
        let read = self.past.add_until(&mut erasing.sums, until, &note);
        erasing.is_complete = read.is_ok();
        if let Err(error) = read {
            if self.past.stop.load(Ordering::Acquire) {
                return None;
            }
            tracing::warn!(%error, erasure = id, "the rows of an erasure could not be read; it is tried again");
            std::thread::sleep(RETRY_AFTER);
        }
        Some(ToCoordinator::ErasureRead(erasing))
    }
}
