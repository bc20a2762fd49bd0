//! The engine's handle, and how its parts are started and stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyflare_connectors::{Log, Outputs, Signal};
use tokio::sync::{oneshot, watch};

use super::admission::Admission;
use super::backfill::{BackfillProgress, Backfills, Past, Reader};
use super::checkpoint::{CheckpointState, CheckpointStatus, Checkpoints, Writer};
use super::coordinator::{Coordinator, Pace};
use super::erasing::ErasureQueue;
use super::erasure::Erasures;
use super::error::EngineError;
use super::flush::{Flusher, FlusherHandle, OutputSink};
use super::gaps::Gaps;
use super::holds::{Holds, ReadHold};
use super::hub::{Hub, HubOptions};
use super::messages::{Horizon, ToCoordinator, ToHub, ToWorker};
use super::options::EngineOptions;
use super::read_ahead::ReadAhead;
use super::start::{lineage, refuse_lost_ticks, spawn, start_workers};
use super::starting::Starting;
use super::status::{Busy, EngineStatus, Gauges};
use super::streams::StreamRegistry;
use super::tail::HistoryTail;
use super::views::{Relation, ViewDescription, ViewName, ViewRegistry};
use super::worker::WorkerContext;
use super::worker_link::{WorkerLink, WorkerLinks};
use crate::plan::MonitorDefinition;
use crate::time::Tick;

/// Requests may wait this long in the log before receivers are told to slow down.
const LAG_LIMIT_MS: u64 = 30_000;

pub(super) struct Shared {
    pub(super) log: Arc<dyn Log>,
    pub(super) outputs: Option<Arc<dyn Outputs>>,
    pub(super) gaps: Arc<Gaps>,
    coordinator: crossbeam_channel::Sender<ToCoordinator>,
    pub(super) hub: crossbeam_channel::Sender<ToHub>,
    pub(super) workers: Arc<WorkerLinks>,
    pub(super) views: Arc<ViewRegistry>,
    pub(super) streams: Arc<StreamRegistry>,
    holds: Arc<Holds>,
    complete: Arc<AtomicU64>,
    complete_watch: watch::Receiver<Tick>,
    pub(super) tail: Arc<HistoryTail>,
    pub(super) flusher: Option<FlusherHandle>,
    past: Option<Arc<Past>>,
    backfills: Arc<Backfills>,
    pub(super) erasures: Arc<Erasures>,
    checkpoints: Arc<CheckpointState>,
    /// The thread that writes them.
    writer: Mutex<Option<JoinHandle<()>>>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) subscribers: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    timely: Mutex<Option<timely::communication::WorkerGuards<()>>>,
}

impl Drop for Shared {
    /// Without [`Engine::shutdown`], such as when a test panics, what is in the log is left for the next start.
    fn drop(&mut self) {
        self.stop(false);
    }
}

impl Shared {
    /// Stops the threads in the order in which they depend on each other; does nothing the second time.
    fn stop(&self, drain: bool) {
        let mut threads = std::mem::take(&mut *self.threads.lock());
        if let Some(past) = &self.past {
            past.stop.store(true, Ordering::Release);
        }
        self.checkpoints.stop.store(true, Ordering::Release);
        let _ = self.coordinator.send(ToCoordinator::Shutdown { drain });
        // The coordinator was started last and is the first to end; it has drained by then.
        if let Some(coordinator) = threads.pop() {
            let _ = coordinator.join();
        }
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
        match drain {
            true => self.await_flushes(),
            false => self.flusher.iter().for_each(FlusherHandle::stop),
        }
        self.workers.broadcast(|| ToWorker::Shutdown);
        if let Some(timely) = self.timely.lock().take() {
            for worker in timely.join() {
                if let Err(error) = worker {
                    tracing::error!(%error, "a worker ended in failure");
                }
            }
        }
        let _ = self.hub.send(ToHub::Shutdown);
        if let Some(hub) = threads.pop() {
            let _ = hub.join();
        }
    }

    fn await_flushes(&self) {
        let Some(flusher) = &self.flusher else {
            return;
        };
        let complete = self.gauges.tick.load(Ordering::Acquire);
        let deadline = Instant::now() + Duration::from_secs(30);
        // The hub asks for the last flush once it has seen the last tick.
        while Instant::now() < deadline
            && (self.complete.load(Ordering::Acquire) < complete
                || flusher.state.pending.load(Ordering::Acquire) > 0)
        {
            if flusher.state.failing.load(Ordering::Acquire) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        flusher.stop();
    }
}

/// The streaming engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
}

impl Engine {
    /// Takes over the tick log, replays what was admitted before, and starts ticking. Blocks until recovered.
    pub fn start(options: EngineOptions) -> Result<Engine, EngineError> {
        let started = Instant::now();
        let generation = options
            .tick_log
            .open_generation()
            .map_err(|error| EngineError::TickLog {
                detail: error.to_string(),
            })?;
        let lineage = lineage(options.catalog.as_ref())?;
        let streams = Arc::new(StreamRegistry::default());
        let admission = Admission::new(
            Arc::clone(&options.log),
            ReadAhead::start()?,
            Arc::clone(&streams),
            options.skip_deleted,
        );
        let gaps = admission.gaps();
        let worker_count = options.workers.max(1);
        let (to_coordinator, coordinator_receiver) = crossbeam_channel::bounded(1_024);
        let (to_hub, hub_receiver) = crossbeam_channel::bounded(4_096);
        let (from_workers, from_workers_receiver) = crossbeam_channel::bounded(4 * worker_count);
        let mut links = Vec::new();
        let mut contexts = Vec::new();
        let tail = Arc::new(HistoryTail::default());
        let failed = Arc::new(AtomicBool::new(false));
        for index in 0..worker_count {
            let (sender, receiver) = crossbeam_channel::bounded(1_024);
            links.push(WorkerLink {
                sender,
                thread: std::sync::OnceLock::new(),
            });
            contexts.push(Some(WorkerContext {
                index,
                receiver,
                coordinator: from_workers.clone(),
                hub: to_hub.clone(),
                tail: options.store.is_some().then(|| Arc::clone(&tail)),
                failed: Arc::clone(&failed),
                slice_rows: options.slice_rows,
                read_slice: options.read_slice,
            }));
        }
        drop(from_workers);
        let workers = Arc::new(WorkerLinks { links });
        let timely = start_workers(worker_count, contexts, &workers)?;

        let mut threads = Vec::new();
        let flusher = match &options.store {
            Some(store) => {
                let retention = options.stream_retention_us;
                let outputs = options.outputs.as_ref().map(|outputs| {
                    outputs.belong_to(&lineage);
                    OutputSink {
                        outputs: Arc::clone(outputs),
                        tick_log: Arc::clone(&options.tick_log),
                        generation,
                    }
                });
                let (flusher, handle) = Flusher::new(
                    Arc::clone(store),
                    options.runtime.clone(),
                    Arc::clone(&tail),
                    Arc::clone(&streams),
                    retention,
                    outputs,
                );
                threads.push(spawn("flusher", move || flusher.run())?);
                Some(handle)
            }
            None => None,
        };
        let holds = Arc::new(Holds::default());
        let complete = Arc::new(AtomicU64::new(0));
        let (complete_listener, complete_watch) = watch::channel(0);
        let hub = Hub::new(HubOptions {
            receiver: hub_receiver,
            sender: to_hub.clone(),
            workers: Arc::clone(&workers),
            tail: Arc::clone(&tail),
            flusher: flusher.clone(),
            holds: Arc::clone(&holds),
            complete: Arc::clone(&complete),
            lineage,
            complete_listener,
        });
        threads.push(spawn("hub", move || hub.run())?);

        let gauges = Arc::new(Gauges::default());
        gauges.holds_rows.store(options.hold_rows, Ordering::Release);
        let views = Arc::new(ViewRegistry::default());
        let erasures = Arc::new(Erasures::default());
        let past = options.store.as_ref().map(|store| {
            Arc::new(Past {
                store: Arc::clone(store),
                runtime: options.runtime.clone(),
                tail: Arc::clone(&tail),
                streams: Arc::clone(&streams),
                erasures: Arc::clone(&erasures),
                retention_us: options.stream_retention_us,
                stop: AtomicBool::new(false),
            })
        });
        let backfills = Arc::new(Backfills::default());
        let (to_reader, jobs) = crossbeam_channel::unbounded();
        let checkpoints = Arc::new(CheckpointState::default());
        let (to_writer, checkpoint_jobs) = crossbeam_channel::unbounded();
        let writer = options.checkpoints.as_ref().map(|store| Writer {
            store: Arc::clone(store),
            log: Arc::clone(&options.log),
            tick_log: Arc::clone(&options.tick_log),
            tail: options.store.is_some().then(|| Arc::clone(&tail)),
            stored: flusher.as_ref().map(|flusher| Arc::clone(&flusher.state)),
            state: Arc::clone(&checkpoints),
            jobs: checkpoint_jobs,
        });
        let mut coordinator = Coordinator {
            receiver: coordinator_receiver,
            from_workers: from_workers_receiver,
            workers: Arc::clone(&workers),
            checkpoints: options.checkpoints.as_ref().map(|_| {
                Checkpoints::new(
                    options.checkpoint_every,
                    options.checkpoint_least_rows,
                    Arc::clone(&checkpoints),
                    to_writer,
                )
            }),
            checkpoint_store: options.checkpoints,
            log: Arc::clone(&options.log),
            tick_log: options.tick_log,
            catalog: options.catalog,
            views: Arc::clone(&views),
            streams: Arc::clone(&streams),
            holds: Arc::clone(&holds),
            complete: Arc::clone(&complete),
            tail: Arc::clone(&tail),
            flusher: flusher.clone(),
            gauges: Arc::clone(&gauges),
            pace: Pace {
                period: options.tick_period,
                idle: options.idle_period,
                flush_every: options.flush_every,
                flush_bytes: options.flush_bytes,
                tail_limit: options.flush_bytes.saturating_mul(4),
            },
            admission,
            generation,
            next_view_id: 1,
            last_tick: 0,
            previous_marks: Arc::default(),
            budget: super::coordinator::FIRST_BUDGET,
            last_flush: Instant::now(),
            horizon: Horizon::NEVER,
            past: past.clone(),
            to_reader,
            backfills: Arc::clone(&backfills),
            slice_rows: options.slice_rows,
            starting: Starting::default(),
            erasing: ErasureQueue::of(Arc::clone(&erasures)),
            limits: options.limits,
            exceeding: Vec::new(),
        };
        let recovered = coordinator.replay().and_then(|replayed| {
            if let Some(store) = &options.store {
                refuse_lost_ticks(store, &options.runtime, coordinator.last_tick)?;
            }
            Ok(replayed)
        });
        // Workers that are not told would be waited for without end when their guard is dropped.
        let replayed = recovered.inspect_err(|_| {
            flusher.iter().for_each(FlusherHandle::stop);
            workers.broadcast(|| ToWorker::Shutdown);
        })?;
        tracing::info!(
            generation,
            from_checkpoint_at = gauges.restored.load(Ordering::Relaxed),
            ticks = replayed,
            elapsed_ms = started.elapsed().as_millis() as u64,
            "engine recovered"
        );
        if let Some(past) = &past {
            let reader = Reader {
                past: Arc::clone(past),
                jobs,
                coordinator: to_coordinator.clone(),
                progress: Arc::clone(&backfills),
                gauges: Arc::clone(&gauges),
            };
            // It ends with the coordinator, which alone has work for it.
            spawn("backfill", move || reader.run())?;
        }
        // It ends with the coordinator as well.
        let writer = match writer {
            Some(writer) => Some(spawn("checkpoints", move || writer.run())?),
            None => None,
        };
        let failure = Arc::clone(&gauges);
        threads.push(spawn("coordinator", move || {
            if let Err(error) = coordinator.run() {
                tracing::error!(%error, "the engine has stopped");
                *failure.failure.lock() = Some(error.to_string());
                failure.failed.store(true, Ordering::Release);
            }
        })?);
        let wake = to_coordinator.clone();
        // A full queue means that the coordinator is awake anyway.
        options.log.on_append(Arc::new(move || {
            let _ = wake.try_send(ToCoordinator::Wake);
        }));
        let shared = Shared {
            log: options.log,
            outputs: options.outputs,
            gaps,
            coordinator: to_coordinator,
            hub: to_hub,
            workers,
            views,
            streams,
            holds,
            complete,
            complete_watch,
            tail,
            flusher,
            past,
            backfills,
            erasures,
            checkpoints,
            writer: Mutex::new(writer),
            gauges,
            subscribers: AtomicU64::new(1),
            threads: Mutex::new(threads),
            timely: Mutex::new(Some(timely)),
        };
        Ok(Engine {
            shared: Arc::new(shared),
        })
    }

    /// Installs a monitor; when this returns, it takes every row admitted after its start tick.
    pub async fn install(
        &self,
        definition: MonitorDefinition,
        or_replace: bool,
    ) -> Result<Arc<ViewDescription>, EngineError> {
        self.prepare_output(&definition).await?;
        let (reply, answer) = oneshot::channel();
        self.ask(ToCoordinator::Install {
            view: Box::new(definition),
            or_replace,
            reply,
        })?;
        let view = answer.await.map_err(|_| EngineError::Closed)??;
        self.wait_complete(view.installed_at).await;
        Ok(Arc::new(view.describe()))
    }

    /// Drops a user's monitor and ends its subscriptions.
    pub async fn drop_monitor(&self, name: &ViewName) -> Result<(), EngineError> {
        if name.project.is_none() {
            return Err(EngineError::Builtin {
                name: name.to_string(),
            });
        }
        self.remove(name).await
    }

    /// Drops any view, built-in ones too: for the start-up that finds a file of `dataflows/views` gone.
    pub async fn remove(&self, name: &ViewName) -> Result<(), EngineError> {
        let relation = self
            .shared
            .views
            .relation(name)
            .ok_or_else(|| EngineError::Unknown {
                name: name.to_string(),
            })?;
        let Relation {
            view,
            companion: None,
        } = relation
        else {
            return Err(EngineError::Companion {
                name: name.to_string(),
                view: relation.view.name.to_string(),
            });
        };
        let (reply, answer) = oneshot::channel();
        self.ask(ToCoordinator::Drop { id: view.id, reply })?;
        answer.await.map_err(|_| EngineError::Closed)?
    }

    /// Monitors that are not installed yet because rows of the past are being read for them.
    pub fn backfills(&self) -> Vec<BackfillProgress> {
        self.shared.backfills.all()
    }

    pub fn views(&self) -> Vec<Arc<ViewDescription>> {
        self.shared
            .views
            .all()
            .iter()
            .map(|view| Arc::new(view.describe()))
            .collect()
    }

    /// What is derived from the views: `<view>$late` and `<view>$errors` of each.
    pub fn companions(&self) -> Vec<Arc<ViewDescription>> {
        let views = self.shared.views.all();
        let relations = views.iter().flat_map(Relation::all_of);
        relations
            .filter(|relation| relation.companion.is_some())
            .map(|relation| Arc::new(relation.describe()))
            .collect()
    }

    /// The project's own view of that name, else the built-in one; without a project any that is unambiguous.
    pub fn view(&self, project: Option<&str>, name: &str) -> Option<Arc<ViewDescription>> {
        self.shared
            .views
            .resolve(project, name)
            .map(|relation| Arc::new(relation.describe()))
    }

    /// Keeps all views readable at the newest complete tick.
    pub fn hold(&self) -> ReadHold {
        self.shared.holds.take(&self.shared.complete)
    }

    /// The view, or the companion, of exactly that name.
    pub fn view_named(&self, name: &ViewName) -> Option<Arc<ViewDescription>> {
        let relation = self.shared.views.relation(name)?;
        Some(Arc::new(relation.describe()))
    }

    /// From now on rows are admitted, where [`EngineOptions::hold_rows`] kept them waiting.
    pub fn admit_rows(&self) {
        self.shared.gauges.holds_rows.store(false, Ordering::Release);
    }

    /// Whether receivers may take more of a signal.
    pub fn admission(&self, _signal: Signal) -> Result<(), Busy> {
        let gauges = &self.shared.gauges;
        if gauges.failed.load(Ordering::Acquire) {
            return Err(Busy {
                retry_after_ms: 10_000,
                reason: "the engine has stopped; see the server's log".into(),
            });
        }
        let lag_ms = gauges.lag_ms.load(Ordering::Relaxed);
        if lag_ms > LAG_LIMIT_MS {
            let reason = format!("the dataflow is {lag_ms} ms behind; send less or add workers");
            return Err(Busy {
                retry_after_ms: 1_000,
                reason,
            });
        }
        Ok(())
    }

    pub fn status(&self) -> EngineStatus {
        let gauges = &self.shared.gauges;
        let flush = self.shared.flusher.as_ref().map(|flusher| &flusher.state);
        EngineStatus {
            workers: self.shared.workers.len(),
            tick: gauges.tick.load(Ordering::Acquire),
            complete_tick: self.shared.complete.load(Ordering::Acquire),
            replaying: gauges.replaying.load(Ordering::Acquire),
            restored_tick: match gauges.restored.load(Ordering::Acquire) {
                0 => None,
                tick => Some(tick),
            },
            replayed_ticks: gauges.replayed.load(Ordering::Relaxed),
            failure: gauges.failure.lock().clone(),
            rows: Signal::ALL.map(|signal| gauges.rows[signal as usize].load(Ordering::Relaxed)),
            marks_us: [0, 1, 2].map(|signal| {
                let mark = gauges.marks[signal].load(Ordering::Relaxed);
                (mark != i64::MIN && mark != 0).then_some(mark)
            }),
            requests: gauges.requests.load(Ordering::Relaxed),
            duplicate_requests: gauges.duplicates.load(Ordering::Relaxed),
            rejected_rows: gauges.rejected_rows.load(Ordering::Relaxed),
            failed_requests: gauges.failed_requests.load(Ordering::Relaxed),
            lag_ms: gauges.lag_ms.load(Ordering::Relaxed),
            last_tick_micros: gauges.tick_micros.load(Ordering::Relaxed),
            admitted_bytes: gauges.admitted_bytes.load(Ordering::Relaxed),
            tail_bytes: self.shared.tail.bytes(),
            flushed_tick: self.shared.tail.flushed(),
            flushed_rows: flush.map_or(0, |state| state.written_rows.load(Ordering::Relaxed)),
            store_failure: flush
                .filter(|state| state.failing.load(Ordering::Acquire))
                .and_then(|state| state.failure.lock().clone()),
            views: self.shared.views.all().len(),
        }
    }

    /// Requests in the log that are not admitted yet, in bytes, estimated from the mean of those admitted.
    pub fn backlog_bytes(&self) -> u64 {
        let gauges = &self.shared.gauges;
        let requests = gauges.requests.load(Ordering::Relaxed).max(1);
        gauges.backlog_records.load(Ordering::Relaxed)
            * (gauges.admitted_bytes.load(Ordering::Relaxed) / requests)
    }

    /// The newest complete tick, as it changes.
    pub fn complete_ticks(&self) -> watch::Receiver<Tick> {
        self.shared.complete_watch.clone()
    }

    /// Waits until all workers have passed `tick`.
    pub async fn wait_complete(&self, tick: Tick) {
        let mut ticks = self.shared.complete_watch.clone();
        let _ = ticks.wait_for(|complete| *complete >= tick).await;
    }

    /// Makes everything admitted so far durable in the store; returns the cut.
    pub async fn flush(&self) -> Result<Tick, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(ToCoordinator::Flush { reply })?;
        let cut = answer.await.map_err(|_| EngineError::Closed)?;
        while self.shared.flusher.is_some() && self.shared.tail.flushed().is_none_or(|flushed| flushed < cut)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(cut)
    }

    /// Takes a checkpoint; returns its tick once it is durable.
    pub async fn checkpoint(&self) -> Result<Tick, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(ToCoordinator::Checkpoint { reply })?;
        answer.await.map_err(|_| EngineError::Closed)?
    }

    /// The newest checkpoint of this process, and how the last attempt went.
    pub fn checkpoint_status(&self) -> Option<CheckpointStatus> {
        self.shared.checkpoints.newest.lock().clone()
    }

    /// Drains the log, flushes the store and joins every thread. Blocks.
    pub fn shutdown(&self) {
        self.shared.stop(true);
    }

    pub(super) fn ask(&self, message: ToCoordinator) -> Result<(), EngineError> {
        if self.shared.gauges.failed.load(Ordering::Acquire) {
            return Err(EngineError::WorkerFailed);
        }
        self.shared
            .coordinator
            .try_send(message)
            .map_err(|_| EngineError::Closed)
    }
}
