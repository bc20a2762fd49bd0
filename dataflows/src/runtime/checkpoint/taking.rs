//! When a checkpoint is taken, and what the coordinator says of it.
//!
//! A checkpoint stands at the end of a tick that is a flush cut and has no commands of users. The coordinator tells the
//! workers with the tick's commit, notes how things stand once the tick is complete, and goes on; the workers hand over
//! their state in slices, and a thread of its own writes it ([`super::writing`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::dumping::FromDump;
use super::manifest::{BaseEntry, Counts, FORMAT, FileEntry, Manifest, StreamEntry, ViewEntry};
use super::state_file::key_encoding;
use super::writing::Job;
use crate::render::Base;
use crate::runtime::EngineError;
use crate::runtime::coordinator::Coordinator;
use crate::runtime::streams::Marks;
use crate::runtime::views::InstalledView;
use crate::time::Tick;

/// Without anything new one is taken at least this often, so that the tick log does not grow for ever.
const AT_LEAST_EVERY: Duration = Duration::from_secs(3_600);
const MOST_FILES: usize = 200;
/// Portions that may wait to be written.
const PORTIONS: usize = 16;

/// A tick's record as manifests tell it.
pub(crate) fn digest(record: &[u8]) -> String {
    blake3::hash(record).to_hex().to_string()
}

/// One checkpoint as it is taken.
pub(crate) struct Run {
    pub tick: Tick,
    /// The bases whose state it has, with their numbers.
    pub bases: Vec<(i32, Arc<Base>)>,
    /// Whether it is told everything; else the panes that changed since the last one.
    pub is_full: bool,
    pub portions: Sender<FromDump>,
    /// Of views at the tick, once that is complete.
    pub counted: OnceLock<BTreeMap<u64, ViewCounts>>,
    cancelled: AtomicBool,
}

impl Run {
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// What was counted of a view since it was installed.
#[derive(Debug, Clone, Default)]
pub(crate) struct ViewCounts {
    pub changes: u64,
    pub late_rows: u64,
    pub error_rows: u64,
    pub error_sample: Option<String>,
}

impl ViewCounts {
    pub fn of(view: &InstalledView) -> ViewCounts {
        let counters = &view.counters;
        ViewCounts {
            changes: counters.changes.load(Ordering::Relaxed),
            late_rows: counters.late_rows.load(Ordering::Relaxed),
            error_rows: counters.error_rows.load(Ordering::Relaxed),
            error_sample: counters.error_sample.lock().clone(),
        }
    }
}

/// The newest checkpoint, and how the last attempt went.
#[derive(Debug, Clone, Default)]
pub struct CheckpointStatus {
    pub epoch: u64,
    /// The tick at which it stands.
    pub tick: Tick,
    /// Of all its files.
    pub bytes: u64,
    /// Groups and entries in it.
    pub rows: u64,
    /// How long it took from its tick until it was durable.
    pub took: Duration,
    /// Why the last attempt failed, if it did.
    pub failure: Option<String>,
}

/// Shared by the coordinator and the thread that writes.
#[derive(Default)]
pub(crate) struct CheckpointState {
    pub is_busy: AtomicBool,
    pub newest: Mutex<Option<CheckpointStatus>>,
    pub stop: AtomicBool,
    /// The tick of the older of the two that are kept: no start begins before it. Zero: there are no two.
    pub oldest: AtomicU64,
    /// What the next checkpoint can add to; none after a failure.
    pub chain: Mutex<Option<Chain>>,
}

/// The state files of the last checkpoint: one with everything, and those with what changed since.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub files: Vec<FileEntry>,
}

impl Chain {
    /// Whether another one can be added; else everything is written anew, so that files are not mostly of what is over, nor
    /// many.
    fn can_grow(&self, least_rows: u64) -> bool {
        let Some(first) = self.files.first() else {
            return false;
        };
        let rows = |of_first: bool| -> u64 {
            let files = self
                .files
                .iter()
                .filter(|file| !of_first || file.epoch == first.epoch);
            files.map(|file| file.rows).sum()
        };
        let full = rows(true);
        full >= least_rows && rows(false) * 2 < full * 3 && self.files.len() < MOST_FILES
    }
}

pub(crate) type Answer = oneshot::Sender<Result<Tick, EngineError>>;

/// What the coordinator knows of checkpoints.
pub(crate) struct Checkpoints {
    pub every: Duration,
    /// A checkpoint with fewer rows is written anew each time.
    pub least_rows: u64,
    pub state: Arc<CheckpointState>,
    pub jobs: Sender<Box<Job>>,
    /// Of the next one.
    pub next_epoch: u64,
    last: Instant,
    /// Whether rows or commands came since.
    changed: bool,
    /// The bases that have numbers in state files.
    numbered: Vec<(i32, Arc<Base>)>,
    next_number: i32,
    asked: Vec<Answer>,
    /// The next one writes everything anew, and another one follows it soon: the files of those before have rows that were
    /// taken back.
    renewals: u32,
}

impl Checkpoints {
    pub fn new(
        every: Duration,
        least_rows: u64,
        state: Arc<CheckpointState>,
        jobs: Sender<Box<Job>>,
    ) -> Checkpoints {
        Checkpoints {
            every,
            least_rows,
            state,
            jobs,
            next_epoch: 1,
            last: Instant::now(),
            changed: false,
            numbered: Vec::new(),
            next_number: 0,
            asked: Vec::new(),
            renewals: 0,
        }
    }

    /// The numbers of these bases, each the same as before; others have none any more.
    fn number(&mut self, bases: &[Arc<Base>]) -> Vec<(i32, Arc<Base>)> {
        let numbered = bases.iter().map(|base| {
            let known = self.numbered.iter().find(|(_, other)| Arc::ptr_eq(base, other));
            let number = known.map_or(self.next_number, |(number, _)| *number);
            self.next_number = self.next_number.max(number + 1);
            (number, Arc::clone(base))
        });
        let numbered: Vec<_> = numbered.collect();
        self.numbered.clone_from(&numbered);
        numbered
    }

    /// One is wanted at the next tick.
    pub fn ask(&mut self, answer: Answer) {
        self.asked.push(answer);
    }

    /// Nothing that was written before shall be needed any more.
    pub fn renew(&mut self) {
        self.renewals = 2;
    }

    /// Takes note of a tick.
    pub fn note(&mut self, has_events: bool) {
        self.changed |= has_events;
    }

    fn is_due(&self) -> bool {
        let waited = self.last.elapsed();
        let due = ((self.changed || self.renewals > 0) && waited >= self.every)
            || waited >= AT_LEAST_EVERY.max(self.every);
        (due || !self.asked.is_empty()) && !self.state.is_busy.load(Ordering::Acquire)
    }
}

/// A checkpoint that has begun with a tick.
pub(crate) struct Begun {
    pub run: Arc<Run>,
    portions: crossbeam_channel::Receiver<FromDump>,
    views: Vec<Arc<InstalledView>>,
    bases_of: Vec<Vec<i32>>,
    chain: Option<Chain>,
}

impl Coordinator {
    /// Whether the next tick shall be one of a checkpoint, without commands.
    pub(in crate::runtime) fn checkpoint_is_due(&self) -> bool {
        // What an excess leads to is decided first.
        self.checkpoints.as_ref().is_some_and(Checkpoints::is_due) && self.exceeding.is_empty()
    }

    /// Begins a checkpoint at `tick`.
    pub(in crate::runtime) fn begin_checkpoint(&mut self, tick: Tick) -> Option<Begun> {
        if !self.checkpoint_is_due() {
            return None;
        }
        let checkpoints = self.checkpoints.as_mut()?;
        let mut views = self.views.all();
        views.sort_by_key(|view| (view.installed_at, view.id));
        let mut bases: Vec<Arc<Base>> = Vec::new();
        let running = |view: &&Arc<InstalledView>| view.stopped().is_none();
        for base in views.iter().filter(running).flat_map(|view| view.bases()) {
            if !bases.iter().any(|other| Arc::ptr_eq(base, other)) {
                bases.push(Arc::clone(base));
            }
        }
        let bases = checkpoints.number(&bases);
        let number_of = |base: &Arc<Base>| {
            let mut numbered = bases.iter();
            numbered.find_map(|(number, other)| Arc::ptr_eq(base, other).then_some(*number))
        };
        let bases_of: Vec<Vec<i32>> = views
            .iter()
            .map(|view| match view.stopped() {
                None => view.bases().filter_map(number_of).collect(),
                Some(_) => Vec::new(),
            })
            .collect();
        let chain = checkpoints
            .state
            .chain
            .lock()
            .take()
            .filter(|chain| chain.can_grow(checkpoints.least_rows) && checkpoints.renewals < 2);
        checkpoints.renewals = checkpoints.renewals.saturating_sub(1);
        let (sender, portions) = bounded(PORTIONS);
        let run = Run {
            tick,
            bases,
            is_full: chain.is_none(),
            portions: sender,
            counted: OnceLock::new(),
            cancelled: AtomicBool::new(false),
        };
        Some(Begun {
            run: Arc::new(run),
            portions,
            views,
            bases_of,
            chain,
        })
    }

    /// Notes how things stand now that the tick is complete, and lets it be written.
    pub(in crate::runtime) fn write_checkpoint(
        &mut self,
        begun: Begun,
        record: (u64, &[u8]),
        marks_before: &Marks,
    ) {
        let Begun {
            run,
            portions,
            views,
            bases_of,
            chain,
        } = begun;
        // A graph was aborted at the tick, which the next record will say.
        if !self.exceeding.is_empty() {
            run.cancel();
            return;
        }
        let manifest = self.manifest(&run, record, marks_before, &views, bases_of);
        let (admitted, passed_ms) = self.admission.admitted_hashes();
        let workers = self.workers.len();
        let Some(checkpoints) = &mut self.checkpoints else {
            return;
        };
        let manifest = Manifest {
            epoch: checkpoints.next_epoch,
            passed_ms,
            files: chain.map_or_else(Vec::new, |chain| chain.files),
            ..manifest
        };
        checkpoints.next_epoch += 1;
        checkpoints.last = Instant::now();
        checkpoints.changed = false;
        checkpoints.state.is_busy.store(true, Ordering::Release);
        let job = Job {
            run,
            portions,
            workers,
            manifest,
            admitted,
            begun: Instant::now(),
            answers: std::mem::take(&mut checkpoints.asked),
        };
        // Who is gone has said why.
        let _ = checkpoints.jobs.send(Box::new(job));
    }

    fn manifest(
        &self,
        run: &Run,
        (position, record): (u64, &[u8]),
        marks_before: &Marks,
        views: &[Arc<InstalledView>],
        bases_of: Vec<Vec<i32>>,
    ) -> Manifest {
        let gauges = &self.gauges;
        let counts = Counts {
            requests: self.admission.admitted_requests,
            duplicates: self.admission.duplicates,
            orphaned: self.admission.orphaned_requests,
            rejected_rows: gauges.rejected_rows.load(Ordering::Relaxed),
            failed_requests: gauges.failed_requests.load(Ordering::Relaxed),
            admitted_bytes: gauges.admitted_bytes.load(Ordering::Relaxed),
            rows: gauges
                .rows
                .iter()
                .map(|rows| rows.load(Ordering::Relaxed))
                .collect(),
        };
        let mut streams: Vec<StreamEntry> = self.streams.all().iter().map(|stream| stream.entry()).collect();
        streams.sort_by_key(|stream| stream.id);
        let bases = run.bases.iter().map(|(number, base)| BaseEntry {
            id: *number,
            origin: base.origin.clone(),
            cells: format!("{:?}", base.cells.kinds),
        });
        let views = views.iter().zip(bases_of).map(|(view, bases)| ViewEntry {
            id: view.id,
            definition: view.definition.clone(),
            start: view.start,
            installed_at: view.installed_at,
            since: view.since,
            sources: view.sources.clone(),
            bases,
            ended: view.ended_before(),
            stopped: view.stopped_at(),
            // Filled in once they are known.
            changes: 0,
            late_rows: 0,
            error_rows: 0,
            error_sample: None,
        });
        Manifest {
            format: FORMAT,
            epoch: 0,
            generation: self.generation,
            tick: run.tick,
            position,
            record: digest(record),
            // Filled in once it is known.
            stored: BTreeMap::new(),
            next_view_id: self.next_view_id,
            marks_before: marks_before.iter().collect(),
            marks: self.admission.logged_marks(),
            partitions: self.admission.cuts(),
            gaps: self.admission.gaps().all(),
            passed_ms: 0,
            counts,
            streams,
            bases: bases.collect(),
            views: views.collect(),
            erasures: self
                .erasing
                .known
                .erased()
                .iter()
                .map(|erased| (**erased).clone())
                .collect(),
            key_encoding: key_encoding(),
            files: Vec::new(),
        }
    }
}
