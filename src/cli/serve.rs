//! `pyflare serve`: everything in one process, started in order and stopped in the reverse one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use pyflare_connectors::{CheckpointStore, Log, TickLog, faults};
use pyflare_dataflows::plan::builtin;
use pyflare_dataflows::{Engine, EngineOptions, MonitorLimits, ViewName};
use pyflare_history::{QueryOptions, QueryService};
use pyflare_live::{Access, Authorize, Failure, FailureKind, Live, LiveLimits, Scope};
use pyflare_log::{DataDirectory, FileCatalog};
use pyflare_otlp::{Admission, AuthRequest, Busy, IngestKeys, OpenMode, ReceiverOptions, Receivers};
use pyflare_rest::{Api, ApiLimits, ReceiverAddresses};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::adapters::{EngineApi, EngineSource, EngineTables, EngineViews};
use super::config::Configuration;
use super::durable;
use super::erasures::EngineErasures;
use super::internals::EngineInternals;
use super::metrics::ServerMetrics;
use super::store::{HistoryStore, StoreChoice};
use super::streams::EngineStreams;

pub fn run(configuration: Configuration) -> anyhow::Result<()> {
    start_logging(&configuration)?;
    arm_faults()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("pyflare-io")
        .build()?;
    let outcome = runtime.block_on(serve(configuration));
    if outcome.is_err() {
        // Threads of a start that failed may be in the store still: the process ends them, not a runtime that goes
        // away under them.
        std::mem::forget(runtime);
    }
    outcome
}

/// Places at which a test wants the process to die or to break a promise; never without the variable.
fn arm_faults() -> anyhow::Result<()> {
    if let Ok(armed) = std::env::var(faults::VARIABLE) {
        faults::arm(&armed)?;
        tracing::warn!(
            armed,
            "{} is set: this server is going to fail on purpose, which is for tests only",
            faults::VARIABLE
        );
    }
    Ok(())
}

fn start_logging(configuration: &Configuration) -> anyhow::Result<()> {
    let filter = format!(
        "{level},h2=warn,hyper=warn,hyper_util=warn,datafusion=warn,delta_kernel=warn,buoyant_kernel=warn,buoyant_kernel_engine=warn,deltalake=warn,deltalake_core=warn",
        level = configuration.log_level
    );
    let filter = tracing_subscriber::EnvFilter::try_new(filter).with_context(|| {
        format!(
            "PF-6009: logging.level {:?} is not a level",
            configuration.log_level
        )
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match configuration.json_logs {
        true => subscriber.json().init(),
        false => subscriber.with_target(false).compact().init(),
    }
    Ok(())
}

async fn serve(configuration: Configuration) -> anyhow::Result<()> {
    let keys = IngestKeys::new(configuration.keys.clone(), configuration.insecure_open)?;
    let loopback = configuration.api.ip().to_canonical().is_loopback();
    if keys.open_mode() == OpenMode::Loopback && !loopback {
        bail!(
            "PF-6020: listen.api is {}, which others can reach, and no keys are configured; \
             set auth.keys, or give --insecure-open if everybody may read and write",
            configuration.api
        );
    }
    // Absolute, because the store's paths become URLs.
    let path = std::path::absolute(&configuration.data_dir)?;
    // In a URL it would be an escape, which the store's libraries resolve once too often.
    if configuration.store == StoreChoice::Delta && path.to_string_lossy().contains('%') {
        bail!(
            "PF-6014: the path of the data directory, {}, contains a percent sign, with which the store cannot work; \
             choose another with --data-dir",
            path.display()
        );
    }
    let directory = DataDirectory::open(path)?;
    // Ports first: a server that cannot listen should say so before it replays anything.
    let api_listener = TcpListener::bind(configuration.api).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "PF-6021: the API's address {} is in use; stop what listens there or choose another with --listen-api",
            configuration.api
        ),
        _ => anyhow::anyhow!("PF-6022: the API cannot listen on {}: {error}", configuration.api),
    })?;
    let (api_listener, recovering) = Recovering::start(api_listener)?;
    let (log, directory, configuration) = tokio::task::spawn_blocking(move || {
        let opened = configuration.log.open(&configuration, &directory);
        opened.map(|log| (log, directory, configuration))
    })
    .await??;
    let (log, identity) = log;
    let store = configuration.store.open(directory.tables()).await?;
    let (tick_log, directory, configuration) = {
        let log = Arc::clone(&log);
        tokio::task::spawn_blocking(move || {
            let ticks = durable::open_ticks(
                configuration.ticks,
                (&configuration.log, log.as_ref(), &identity),
                &directory,
            );
            ticks.map(|ticks| (ticks, directory, configuration))
        })
        .await??
    };
    let (engine, checkpoints) = start_engine(
        &configuration,
        &directory,
        Arc::clone(&log),
        Arc::clone(&tick_log),
        store.clone(),
    )
    .await?;
    install_builtin_views(&engine).await?;
    // What the log had before is in them from its first row.
    engine.admit_rows();

    let admission = engine.clone();
    let admission_ticks = Arc::clone(&tick_log);
    let admission: Admission = Arc::new(move |signal| {
        if let Some(reason) = admission_ticks.waits_for() {
            return Err(Busy {
                retry_after_ms: 5_000,
                reason: reason.into(),
            });
        }
        admission.admission(signal).map_err(|busy| Busy {
            retry_after_ms: busy.retry_after_ms,
            reason: busy.reason,
        })
    });
    let receivers = Receivers::bind(
        ReceiverOptions {
            grpc: configuration.otlp_grpc,
            http: configuration.otlp_http,
            open_mode: keys.open_mode(),
            max_body_bytes: configuration.request_bytes,
            max_in_flight_bytes: configuration.request_bytes.saturating_mul(4),
            cors_origins: configuration.cors_origins.clone(),
            ..ReceiverOptions::default()
        },
        log.clone(),
        keys.clone().into_authenticate(),
        Arc::clone(&admission),
    )
    .await?;
    let receiver_handle = receivers.handle();

    let views = Arc::new(EngineViews {
        engine: engine.clone(),
    });
    let limits = LiveLimits {
        connections: configuration.live_connections,
        ..LiveLimits::default()
    };
    let live = Live::new(views.clone(), limits);
    let queries = QueryService::with_internal(
        QueryOptions {
            default_timeout: configuration.query_timeout,
            memory: configuration.query_memory,
            ..QueryOptions::default()
        },
        Arc::new(EngineSource {
            engine: engine.clone(),
            stored: store.is_some(),
        }),
        Arc::new(EngineTables {
            engine: engine.clone(),
            store,
        }),
        Some(Arc::new(EngineInternals {
            engine: engine.clone(),
        })),
    )?;
    let metrics = ServerMetrics {
        engine: engine.clone(),
        receivers: receiver_handle.clone(),
        log: log.clone(),
    };
    let api = Api::new(
        Arc::new(EngineApi {
            engine: engine.clone(),
        }),
        views,
        Arc::clone(&queries),
        live.clone(),
        access(&keys, &configuration),
        Arc::new(metrics),
        ApiLimits::default(),
    )
    .with_streams(
        Arc::new(EngineStreams {
            engine: engine.clone(),
            log: log.clone(),
            admission,
        }),
        configuration.request_bytes,
    )
    .with_erasures(Arc::new(EngineErasures(engine.clone())))
    .with_receivers(ReceiverAddresses {
        otlp_http: receiver_handle.http_address(),
        otlp_grpc: receiver_handle.grpc_address(),
    });
    let api_address = api_listener.local_addr()?;
    // Before the addresses are told: who reads them finds the real service, or waits for it a moment.
    recovering.stop().await;
    announce(
        &configuration,
        &directory,
        receiver_handle.grpc_address(),
        receiver_handle.http_address(),
        api_address,
    )?;

    let (stop, stopping) = watch::channel(false);
    let receiving = tokio::spawn(receivers.run(until(stopping.clone())));
    let service = pyflare_rest::router(api).into_make_service_with_connect_info::<SocketAddr>();
    let serving = tokio::spawn(async move {
        axum::serve(api_listener, service)
            .with_graceful_shutdown(until(stopping))
            .await
    });
    let ended_by = tokio::select! {
        signal = wait_for_signal() => signal.map(|()| None)?,
        failure = wait_for_failure(&engine, &*log) => Some(failure),
    };
    if let Some(failure) = &ended_by {
        tracing::error!(%failure, "stopping: this cannot go on without a restart");
    }
    tracing::info!("shutting down: draining requests, flushing the store");
    stop.send_replace(true);
    let _ = receiving.await;
    live.shutdown(Duration::from_secs(2)).await;
    let _ = tokio::time::timeout(Duration::from_secs(5), serving).await;
    tick_log.give_up();
    if let Some(checkpoints) = &checkpoints {
        checkpoints.give_up();
    }
    let stopping_engine = engine.clone();
    tokio::task::spawn_blocking(move || stopping_engine.shutdown()).await?;
    log.close();
    withdraw(&directory);
    match ended_by.or_else(|| engine.status().failure) {
        Some(failure) => bail!("the server has stopped, start it again: {failure}"),
        None => {
            tracing::info!("stopped; everything acknowledged is durable");
            Ok(())
        }
    }
}

/// Answers at the API's address until the engine is there; both accept from one socket, so that it is never closed.
struct Recovering {
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Recovering {
    /// Begins to answer; gives the listener back for the time after.
    fn start(listener: TcpListener) -> anyhow::Result<(TcpListener, Recovering)> {
        let listener = listener.into_std()?;
        let shared = TcpListener::from_std(listener.try_clone()?)?;
        let (stop, stopping) = watch::channel(false);
        let serving = tokio::spawn(async move {
            axum::serve(shared, pyflare_rest::recovering_router())
                .with_graceful_shutdown(until(stopping))
                .await
        });
        Ok((TcpListener::from_std(listener)?, Recovering { stop, serving }))
    }

    /// Connections end when their answer is written; what comes meanwhile waits for the real service.
    async fn stop(self) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.serving).await;
    }
}

async fn start_engine(
    configuration: &Configuration,
    directory: &DataDirectory,
    log: Arc<dyn Log>,
    tick_log: Arc<dyn TickLog>,
    store: Option<HistoryStore>,
) -> anyhow::Result<(Engine, Option<Arc<dyn CheckpointStore>>)> {
    let catalog = FileCatalog::open(directory.catalog())?;
    let store = store.map(|store| store.as_store());
    let checkpoints = match configuration.checkpoint_every {
        Some(_) => {
            let (choice, catalog) = (configuration.checkpoints.clone(), catalog.clone());
            let folder = directory.checkpoints();
            let opening = move || durable::open_checkpoints(&choice, &folder, catalog.as_ref());
            Some(tokio::task::spawn_blocking(opening).await??)
        }
        None => None,
    };
    let mut options = EngineOptions::new(log, tick_log, catalog, store, tokio::runtime::Handle::current());
    options.checkpoints = checkpoints.clone();
    options.checkpoint_every = configuration.checkpoint_every.unwrap_or(options.checkpoint_every);
    options.outputs = configuration.log.outputs();
    options.skip_deleted = configuration.log.skips_deleted();
    options.workers = configuration.workers;
    options.hold_rows = true;
    options.flush_every = configuration.flush_every;
    options.limits = MonitorLimits {
        rows: configuration.monitor_rows,
        tick_rows: configuration.monitor_tick_rows,
        updates_per_second: configuration.monitor_updates_per_second,
    };
    let retention_us = i64::try_from(configuration.stream_retention.as_micros())?;
    options.stream_retention_us = (retention_us > 0).then_some(retention_us);
    // Recovery replays on this thread and waits for workers: not on one that serves.
    let engine = tokio::task::spawn_blocking(move || Engine::start(options)).await??;
    Ok((engine, checkpoints))
}

/// Makes the built-in views what the files of `dataflows/views` say: new ones are installed, changed ones replaced,
/// those without a file dropped.
async fn install_builtin_views(engine: &Engine) -> anyhow::Result<()> {
    for (name, sql) in builtin::FILES {
        let definition = pyflare_sql::builtin_view(name, sql).map_err(|error| anyhow::anyhow!("{error}"))?;
        let installed = engine.view_named(&ViewName::builtin(*name));
        if installed.is_none_or(|view| view.definition.fingerprint() != definition.fingerprint()) {
            engine.install(definition, true).await?;
        }
    }
    for view in engine.views() {
        let file = builtin::FILES.iter().any(|(name, _)| *name == view.name.name);
        // A subscription's monitor does not outlive the process that held the subscription.
        let orphaned = view.name.name.starts_with('$');
        if (view.name.project.is_none() && !file) || orphaned {
            engine.remove(&view.name).await?;
        }
    }
    Ok(())
}

/// Who may use the API: without keys this machine, with keys their projects.
fn access(keys: &IngestKeys, configuration: &Configuration) -> Access {
    let mut access = Access::open();
    access.allowed_hosts.clone_from(&configuration.allowed_hosts);
    match keys.open_mode() {
        OpenMode::Loopback => access.authorize = open_scope(access.authorize),
        OpenMode::Anywhere => {
            access.open = false;
            access.authorize = open_scope(access.authorize);
        }
        OpenMode::Never => {
            let keys = keys.clone();
            access.open = false;
            access.keys = true;
            access.authorize = Arc::new(move |headers, peer| {
                let peer = peer.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
                let project = keys.authenticate(&AuthRequest { headers, peer });
                let project =
                    project.map_err(|error| Failure::from_error(FailureKind::Unauthorized, &error))?;
                Ok(Scope {
                    project: Some(project.to_string()),
                })
            });
        }
    }
    access
}

/// Without keys the header says which project is meant, as it does when sending: none means `default`, `*` all.
fn open_scope(named: Authorize) -> Authorize {
    Arc::new(move |headers, peer| {
        let scope = named(headers, peer)?;
        Ok(match scope.project.as_deref() {
            None => Scope {
                project: Some("default".into()),
            },
            Some("*") => Scope { project: None },
            Some(_) => scope,
        })
    })
}

fn announce(
    configuration: &Configuration,
    directory: &DataDirectory,
    grpc: SocketAddr,
    http: SocketAddr,
    api: SocketAddr,
) -> anyhow::Result<()> {
    let endpoints = serde_json::json!({
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "otlp_grpc": grpc.to_string(),
        "otlp_http": http.to_string(),
        "api": api.to_string(),
    });
    directory.write_atomically("endpoints.json", endpoints.to_string().as_bytes())?;
    if configuration.keys.is_empty() && configuration.insecure_open {
        eprintln!(
            "*** --insecure-open: everybody who can reach these ports may read and write everything ***"
        );
    }
    println!(
        "PyFlare {} is ready (data in {})",
        env!("CARGO_PKG_VERSION"),
        configuration.data_dir.display()
    );
    println!("  UI and API   http://{api}/");
    println!("  OTLP/HTTP    http://{http}     OTEL_EXPORTER_OTLP_ENDPOINT=http://{http}");
    println!("  OTLP/gRPC    http://{grpc}");
    println!("Ctrl-C stops it; everything acknowledged stays.");
    Ok(())
}

/// Removes the addresses, unless they are those of a server that has taken over.
fn withdraw(directory: &DataDirectory) {
    let file = directory.endpoints_file();
    let own = std::fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .is_none_or(|endpoints| endpoints["pid"] == std::process::id());
    if own {
        let _ = std::fs::remove_file(file);
    }
}

async fn until(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Returns what cannot be mended while the process runs: an engine or a log that has stopped.
async fn wait_for_failure(engine: &Engine, log: &dyn Log) -> String {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if let Some(failure) = log.failure() {
            return failure.to_string();
        }
        if let Some(failure) = engine.status().failure {
            return failure;
        }
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
