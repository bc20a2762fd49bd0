//! A process in the simulated world: the real coordinator and checkpoint writer, and a worker that notes what ticks make.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use parking_lot::Mutex;
use pyflare_connectors::memory::MemoryCatalog;
use pyflare_connectors::{CheckpointStore, Log, TickLog};

use super::world::{Handle, Made, World};
use crate::runtime::EngineError;
use crate::runtime::admission::Admission;
use crate::runtime::backfill::Backfills;
use crate::runtime::checkpoint::{CheckpointState, Checkpoints, FromDump, Job, Writer};
use crate::runtime::coordinator::{Coordinator, FIRST_BUDGET, Pace};
use crate::runtime::erasing::ErasureQueue;
use crate::runtime::limits::MonitorLimits;
use crate::runtime::messages::{DecodeSummary, FromWorker, Horizon, RowCounts, ToWorker};
use crate::runtime::read_ahead::ReadAhead;
use crate::runtime::starting::Starting;
use crate::runtime::streams::StreamRegistry;
use crate::runtime::tick_record::TickRecord;
use crate::runtime::worker_link::{WorkerLink, WorkerLinks};
use crate::time::Tick;

/// A process: the coordinator, who writes its checkpoints, and the world as it sees it.
pub(super) struct Process {
    pub(super) coordinator: Coordinator,
    pub(super) writer: Writer,
    pub(super) jobs: Receiver<Box<Job>>,
    pub(super) handle: Handle,
    /// Keeps the channels open whose other ends nobody needs here.
    _kept: Vec<Box<dyn std::any::Any>>,
}

impl Process {
    pub(super) fn start(handle: Handle, catalog: &MemoryCatalog) -> Result<Process, EngineError> {
        let generation = handle.open_generation().map_err(|error| EngineError::TickLog {
            detail: error.to_string(),
        })?;
        let shared = Arc::new(handle.clone());
        let streams = Arc::new(StreamRegistry::default());
        let log: Arc<dyn Log> = shared.clone();
        let tick_log: Arc<dyn TickLog> = shared.clone();
        let checkpoint_store: Arc<dyn CheckpointStore> = shared;
        let admission = Admission::new(Arc::clone(&log), ReadAhead::start()?, Arc::clone(&streams), false);
        let (to_worker, worker) = crossbeam_channel::bounded(1_024);
        let (from_worker, from_workers) = crossbeam_channel::bounded(4);
        let world = Arc::clone(&handle.world);
        std::thread::spawn(move || stand_in(&worker, &from_worker, &world));
        let links = vec![WorkerLink {
            sender: to_worker,
            thread: std::sync::OnceLock::new(),
        }];
        let (to_coordinator, receiver) = unbounded();
        let (to_reader, reads) = unbounded();
        let (to_writer, jobs) = unbounded();
        let state = Arc::new(CheckpointState::default());
        let far = Duration::from_secs(3_600);
        let writer = Writer {
            stored: None,
            store: Arc::clone(&checkpoint_store),
            log: Arc::clone(&log),
            tick_log: Arc::clone(&tick_log),
            tail: None,
            state: Arc::clone(&state),
            jobs: jobs.clone(),
        };
        let mut coordinator = Coordinator {
            receiver,
            from_workers,
            workers: Arc::new(WorkerLinks { links }),
            log,
            tick_log,
            checkpoint_store: Some(checkpoint_store),
            checkpoints: Some(Checkpoints::new(far, 0, state, to_writer)),
            catalog: Arc::new(catalog.clone()),
            views: Arc::default(),
            streams,
            holds: Arc::default(),
            complete: Arc::new(AtomicU64::new(0)),
            tail: Arc::default(),
            flusher: None,
            gauges: Arc::default(),
            pace: Pace {
                period: far,
                idle: far,
                flush_every: far,
                flush_bytes: u64::MAX,
                tail_limit: u64::MAX,
            },
            admission,
            generation,
            next_view_id: 1,
            last_tick: 0,
            previous_marks: Arc::default(),
            budget: FIRST_BUDGET,
            last_flush: Instant::now(),
            horizon: Horizon::NEVER,
            past: None,
            to_reader,
            backfills: Arc::new(Backfills::default()),
            slice_rows: 1,
            starting: Starting::default(),
            erasing: ErasureQueue::default(),
            limits: MonitorLimits::default(),
            exceeding: Vec::new(),
        };
        coordinator.replay()?;
        Ok(Process {
            coordinator,
            writer,
            jobs,
            handle,
            _kept: vec![Box::new(to_coordinator), Box::new(reads)],
        })
    }

    pub(super) fn is_dead(&self) -> bool {
        self.handle.world.lock().dead.contains(&self.handle.life)
    }
}

/// A worker that notes what each tick admits.
pub(super) fn stand_in(
    orders: &Receiver<ToWorker>,
    answers: &crossbeam_channel::Sender<FromWorker>,
    world: &Mutex<World>,
) {
    let mut made = Made::new();
    for order in orders {
        let answer = match order {
            ToWorker::Decode { requests, .. } => {
                let mut summary = DecodeSummary::default();
                for request in requests {
                    let (stream, partition) = (request.stream, request.partition);
                    summary
                        .max_event_time
                        .push((stream, partition, request.record.received_us));
                    let counts: &mut RowCounts = summary.rows.entry(stream).or_default();
                    counts.admitted += 1;
                    made.push((stream, partition, request.offset));
                }
                FromWorker::Decoded { summary }
            }
            ToWorker::Commit(commit) => {
                let made = std::mem::take(&mut made);
                if !commit.is_restored {
                    emit(&mut world.lock(), commit.tick, made);
                }
                if let Some(run) = &commit.checkpoint {
                    let _ = run.counted.set(BTreeMap::new());
                    let _ = run.portions.send(FromDump::Finished);
                }
                FromWorker::Done {
                    worker: 0,
                    horizon: Horizon::NEVER,
                    ready: Vec::new(),
                }
            }
            _ => continue,
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

pub(super) fn emit(world: &mut World, tick: Tick, made: Made) {
    let is_durable = world
        .ticks
        .iter()
        .any(|(_, payload)| TickRecord::decode(payload).is_ok_and(|record| record.tick == tick));
    assert!(is_durable, "tick {tick} is emitted and its record is not durable");
    match world.emitted.get(&tick) {
        Some(before) => assert_eq!(*before, made, "tick {tick} says something else the second time"),
        None => drop(world.emitted.insert(tick, made)),
    }
}
