//! Starting the engine's threads: workers, named threads, and the name of this data directory's history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use differential_dataflow::trace::ExertionLogic;
use parking_lot::Mutex;
use pyflare_connectors::{Catalog, Store};

use super::error::EngineError;
use super::messages::FromWorker;
use super::worker::{self, WorkerContext};
use super::worker_link::WorkerLinks;
use crate::time::Tick;

pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, EngineError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| EngineError::Start {
            detail: format!("no thread for the {name}: {error}"),
        })
}

/// A trace of more batches than this is merged although nothing comes.
const BATCHES: usize = 4;
/// As if so many records had come.
const MERGE_EFFORT: usize = 1_000;

/// How much of a trace's merging is done whenever its operator runs, beyond what new records pay for. To merge down to
/// one batch at every tick would write every small arrangement anew each time; a few batches cost a reader little.
fn merge_effort(layers: &[(usize, usize, usize)]) -> Option<usize> {
    let batches: usize = layers
        .iter()
        .filter(|(_, _, records)| *records > 0)
        .map(|(_, batches, _)| batches)
        .sum();
    (batches > BATCHES).then_some(MERGE_EFFORT)
}

pub(super) fn start_workers(
    count: usize,
    contexts: Vec<Option<WorkerContext>>,
    workers: &Arc<WorkerLinks>,
) -> Result<timely::communication::WorkerGuards<()>, EngineError> {
    let mut config = match count {
        1 => timely::Config::thread(),
        count => timely::Config::process(count),
    };
    config
        .worker
        .set::<ExertionLogic>("differential/default_exert_logic".into(), Arc::new(merge_effort));
    let contexts = Mutex::new(contexts);
    let workers = Arc::clone(workers);
    timely::execute(config, move |timely_worker| {
        let index = timely_worker.index();
        let Some(context) = contexts.lock()[index].take() else {
            return;
        };
        let _ = workers.links[index].thread.set(std::thread::current());
        let _guard = FailureGuard {
            coordinator: context.coordinator.clone(),
            failed: Arc::clone(&context.failed),
        };
        worker::run(timely_worker, context);
    })
    .map_err(|detail| EngineError::Start { detail })
}

/// Tells the coordinator and the other workers when a worker ends by a panic, who would otherwise wait for it for ever.
struct FailureGuard {
    coordinator: crossbeam_channel::Sender<FromWorker>,
    failed: Arc<AtomicBool>,
}

impl Drop for FailureGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failed.store(true, Ordering::Release);
            let _ = self.coordinator.try_send(FromWorker::Failed);
        }
    }
}

/// Refuses a tick log that ends before what the store has: ticks were lost, and admitting their rows again at new
/// ticks would store them twice. (That the log has all that the tick log names is found by the replay.)
pub(super) fn refuse_lost_ticks(
    store: &Arc<dyn Store>,
    runtime: &tokio::runtime::Handle,
    last_tick: Tick,
) -> Result<(), EngineError> {
    let stored = async {
        let tables = store.tables().await?;
        let mut newest: Option<Tick> = None;
        // Of views there may be thousands, and none is ahead of the streams.
        for table in tables.iter().filter(|name| !name.ends_with("_changes")) {
            newest = newest.max(store.last_cut(table).await?);
        }
        Ok::<_, pyflare_connectors::StoreError>(newest)
    };
    // On a thread of its own: the caller may be one that serves.
    let newest = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(stored)).join());
    let newest = newest.map_err(|_| EngineError::Start {
        detail: "reading the store's newest cut failed".into(),
    })?;
    match newest {
        Ok(Some(cut)) if cut > last_tick => Err(EngineError::TicksLost { last_tick, cut }),
        Ok(_) => Ok(()),
        Err(error) => Err(EngineError::Start {
            detail: error.to_string(),
        }),
    }
}

/// Refuses a store that ends before what it had when a checkpoint was taken: what is missing would never come again.
pub(super) fn refuse_older_store(
    store: &Arc<dyn Store>,
    runtime: &tokio::runtime::Handle,
    expected: &BTreeMap<String, Tick>,
    checkpoint: Tick,
) -> Result<(), EngineError> {
    let compared = async {
        for (table, expected) in expected {
            let cut = store.last_cut(table).await?;
            if let Some(cut) = cut.filter(|cut| cut < expected) {
                return Ok::<_, pyflare_connectors::StoreError>(Some((table.clone(), cut)));
            }
        }
        Ok(None)
    };
    let older = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(compared)).join());
    let older = older.map_err(|_| EngineError::Start {
        detail: "reading the store's newest cuts failed".into(),
    })?;
    match older {
        Ok(None) => Ok(()),
        Ok(Some((table, cut))) => Err(EngineError::StoreOlder {
            table,
            cut,
            checkpoint,
        }),
        Err(error) => Err(EngineError::Start {
            detail: error.to_string(),
        }),
    }
}

/// Names a data directory's history; part of resume tokens. Chosen when it is asked for the first time.
pub fn lineage(catalog: &dyn Catalog) -> Result<String, EngineError> {
    let failed = |error: pyflare_connectors::CatalogError| EngineError::Start {
        detail: error.to_string(),
    };
    let fresh = uuid::Uuid::new_v4().simple().to_string();
    catalog
        .put_if_absent("lineage", fresh.as_bytes())
        .map_err(failed)?;
    let kept = catalog
        .get("lineage")
        .map_err(failed)?
        .unwrap_or_else(|| fresh.into_bytes());
    Ok(String::from_utf8_lossy(&kept).into_owned())
}
