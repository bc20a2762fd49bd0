//! An engine in a temporary directory, wired as the server wires it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail, ensure};
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use pyflare_connectors::{ContentType, Log, LogRecord, Signal, Store};
use pyflare_dataflows::plan::builtin;
use pyflare_dataflows::{Engine, EngineOptions, ViewName};
use pyflare_delta::DeltaStore;
use pyflare_log::{EmbeddedLog, FileCatalog, FileTickLog, LogOptions};
use pyflare_operators::corpus::Generator;
use pyflare_sql::{PlanScope, Statement};

/// Requests that wait for the disk at the same time while the log is filled.
const APPENDING: usize = 64;
pub const PROJECT: &str = "default";

/// Opens a log, whose files may lie in a directory.
type OpenLog = Box<dyn Fn(&Path) -> anyhow::Result<Arc<dyn Log>> + Send + Sync>;

pub struct Bed {
    pub log: Arc<dyn Log>,
    open: OpenLog,
    directory: tempfile::TempDir,
}

impl Bed {
    /// Prepares a directory whose engine knows the built-in views and nothing else, on the embedded log.
    pub async fn new() -> anyhow::Result<Bed> {
        Bed::on(Box::new(|directory| Ok(open_log(directory)?))).await
    }

    /// The same on another log.
    pub async fn on(open: OpenLog) -> anyhow::Result<Bed> {
        let directory = tempfile::Builder::new().prefix("pyflare-bench-").tempdir()?;
        let bed = Bed {
            log: open(directory.path())?,
            open,
            directory,
        };
        let engine = bed.start(1, None).await?;
        for (name, sql) in builtin::FILES {
            let definition = pyflare_sql::builtin_view(name, sql).map_err(|error| anyhow!("{error}"))?;
            engine.install(definition, true).await?;
        }
        stop(engine).await?;
        Ok(bed)
    }

    /// Where everything of it lies.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Closes the log and opens it again, so that nothing is read from its memory.
    pub fn reopen_log(&mut self) -> anyhow::Result<()> {
        self.log.close();
        self.log = (self.open)(self.directory.path())?;
        Ok(())
    }

    pub fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(DeltaStore::open(self.directory.path().join("tables"))? as Arc<dyn Store>)
    }

    pub async fn start(&self, workers: usize, store: Option<Arc<dyn Store>>) -> anyhow::Result<Engine> {
        self.start_with(workers, store, |_| {}).await
    }

    /// Without a store; workers look up from a read after so long.
    pub async fn start_reading(&self, workers: usize, slice: Option<Duration>) -> anyhow::Result<Engine> {
        let change = |options: &mut EngineOptions| options.read_slice = slice.unwrap_or(options.read_slice);
        self.start_with(workers, None, change).await
    }

    pub async fn start_with(
        &self,
        workers: usize,
        store: Option<Arc<dyn Store>>,
        change: impl FnOnce(&mut EngineOptions),
    ) -> anyhow::Result<Engine> {
        let tick_log = FileTickLog::open(self.directory.path().join("ticks"))?;
        let catalog = FileCatalog::open(self.directory.path().join("catalog"))?;
        let log = Arc::clone(&self.log);
        let mut options =
            EngineOptions::new(log, tick_log, catalog, store, tokio::runtime::Handle::current());
        options.workers = workers;
        change(&mut options);
        Ok(tokio::task::spawn_blocking(move || Engine::start(options)).await??)
    }

    /// Declares streams and installs monitors, in a run of their own; returns nothing that lives.
    pub async fn declare(&self, statements: &[String]) -> anyhow::Result<()> {
        let engine = self.start(1, None).await?;
        for sql in statements {
            let streams = engine.streams().into_iter();
            let scope = PlanScope {
                project: Some(PROJECT.into()),
                streams: streams.map(|stream| stream.definition).collect(),
                views: Vec::new(),
            };
            match pyflare_sql::parse(sql, &scope).map_err(|error| anyhow!("{error}: {sql}"))? {
                Statement::CreateStream { definition, .. } => {
                    engine.create_stream(*definition).await?;
                }
                Statement::CreateMonitor(create) => {
                    engine.install(create.definition, false).await?;
                }
                _ => bail!("a benchmark declares streams and monitors: {sql}"),
            }
        }
        stop(engine).await
    }

    /// Appends rows of a stream, each body an Arrow IPC stream; returns their bytes.
    pub async fn fill_stream(
        &self,
        stream: &str,
        bodies: impl Iterator<Item = Vec<u8>>,
    ) -> anyhow::Result<u64> {
        let records = bodies.map(|body| LogRecord {
            project: PROJECT.into(),
            signal: Signal::Streams,
            stream: Some(stream.into()),
            content_type: ContentType::ArrowStream,
            received_us: now_us(),
            body_hash: uuid::Uuid::new_v4().as_u128(),
            body: body.into(),
        });
        self.append(records).await
    }

    /// Appends requests durably until there are that many spans; returns their bytes.
    pub async fn fill(
        &self,
        generator: &mut Generator,
        make: fn(&mut Generator, usize) -> Vec<u8>,
        spans: u64,
        per_request: usize,
    ) -> anyhow::Result<u64> {
        let records = (0..spans / per_request as u64).map(|_| traces(make(generator, per_request).into()));
        self.append(records).await
    }

    async fn append(&self, records: impl Iterator<Item = LogRecord>) -> anyhow::Result<u64> {
        let mut bytes = 0;
        let mut appending = FuturesUnordered::new();
        for record in records {
            bytes += record.body.len() as u64;
            let log = Arc::clone(&self.log);
            appending.push(async move { log.append(record).await });
            if appending.len() >= APPENDING
                && let Some(appended) = appending.next().await
            {
                appended?;
            }
        }
        while let Some(appended) = appending.next().await {
            appended?;
        }
        Ok(bytes)
    }
}

/// A request of spans, as a receiver hands it to the log.
pub fn traces(body: Bytes) -> LogRecord {
    LogRecord {
        project: PROJECT.into(),
        signal: Signal::Traces,
        stream: None,
        content_type: ContentType::Protobuf,
        received_us: now_us(),
        body_hash: pyflare_otlp::body_hash(PROJECT, Signal::Traces, &body),
        body,
    }
}

fn open_log(directory: &Path) -> anyhow::Result<Arc<EmbeddedLog>> {
    Ok(EmbeddedLog::open(LogOptions {
        directory: directory.join("log"),
        ..LogOptions::default()
    })?)
}

/// Waits until so many requests are admitted and every view is complete with their spans.
pub async fn caught_up(engine: &Engine, requests: u64) -> anyhow::Result<()> {
    let (mut seen, mut moved) = (0, Instant::now());
    loop {
        let status = engine.status();
        if let Some(failure) = status.failure {
            bail!("the engine stopped: {failure}");
        }
        if status.requests >= requests {
            // The count is published after its tick, so the tick read now is theirs or a later one.
            engine.wait_complete(engine.status().tick).await;
            return Ok(());
        }
        if status.requests != seen {
            (seen, moved) = (status.requests, Instant::now());
        }
        ensure!(
            moved.elapsed() < Duration::from_secs(60),
            "the engine has stood still at {seen} of {requests} requests for a minute"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sum of the requests that the view counts: every span once, or the figures are worth nothing.
pub async fn counted(engine: &Engine) -> anyhow::Result<u64> {
    let hold = engine.hold();
    let content = engine.peek(&ViewName::builtin("requests"), &hold, None).await?;
    let mut sum = 0;
    for batch in &content.batches {
        let counts = batch
            .column_by_name("requests")
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
            .ok_or_else(|| anyhow!("the view requests has no integer column requests"))?;
        sum += counts.iter().flatten().sum::<i64>();
    }
    Ok(sum as u64)
}

pub async fn stop(engine: Engine) -> anyhow::Result<()> {
    Ok(tokio::task::spawn_blocking(move || engine.shutdown()).await?)
}

pub fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_micros() as i64)
}

/// Clock ticks per second in `/proc`; Linux fixes this for all its 64-bit machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of a process so far, in seconds.
pub fn processor_seconds(process: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field, in parentheses, may hold anything; user and system time are the 14th and 15th.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: Option<u64> = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(ticks.ok_or_else(|| anyhow!("/proc reads unlike a Linux system's"))? as f64 / TICKS_PER_SECOND)
}

/// Resident memory in bytes.
pub fn resident_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let kibibytes: Option<u64> = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next()?.parse().ok());
    Ok(kibibytes.ok_or_else(|| anyhow!("/proc/self/status reads unlike a Linux system's"))? << 10)
}

/// Lets the allocator return every page that nothing uses, of all its arenas.
pub fn give_back_memory() {
    let (none, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: a control without input and output, named by a C string that lives as long as the program.
    let refused = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"arena.4096.purge".as_ptr(),
            none,
            nothing,
            std::ptr::null_mut(),
            0,
        )
    };
    debug_assert_eq!(refused, 0, "jemalloc knows all its arenas by 4096");
}

/// Columns of equal length as an Arrow IPC stream.
pub fn arrow_stream(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns.iter().cloned())
        .expect("invariant: the columns of a benchmark have one length");
    arrow_bytes(&batch)
}

/// A batch as an Arrow IPC stream.
pub fn arrow_bytes(batch: &RecordBatch) -> Vec<u8> {
    let mut writer =
        StreamWriter::try_new(Vec::new(), &batch.schema()).expect("invariant: writing into memory");
    writer.write(batch).expect("invariant: writing into memory");
    writer.into_inner().expect("invariant: writing into memory")
}
