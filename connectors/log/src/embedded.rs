//! The embedded log: a topic per signal, a folder per partition, a writer thread each.
//!
//! ```text
//! log/LAYOUT.json                          {"format": 1, "partitions": 1}
//! log/OWNER                                who opened it last
//! log/otlp_spans/0/00000000000000000000.segment
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{Appended, Log, LogError, LogRecord, Signal};
use serde::{Deserialize, Serialize};

use crate::budget::DiskBudget;
use crate::compression::Packer;
use crate::owner::Owner;
use crate::partition::{Durable, Listeners, Partition, SegmentEntry, Shared};
use crate::recovery::recover_last;
use crate::segment::{InheritedSegment, corrupt, io_error, list_segments, segment_path, sync_directory};
use crate::tail::{SparseIndex, Tail};
use crate::writer::Writer;

/// Where the log lies and what it may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogOptions {
    pub directory: PathBuf,
    /// Partitions of each topic. Fixed when the directory is made; later values are ignored with a warning.
    pub partitions: u32,
    /// Bytes on disk over all topics; beyond, appends are refused with PF-2001.
    pub cap_bytes: u64,
    /// Bytes that must stay free on the disk; below, appends are refused with PF-2002.
    pub min_free_bytes: u64,
    /// A segment is closed when the next record would exceed this.
    pub segment_bytes: u64,
    /// Newest records kept in memory, bytes per partition.
    pub tail_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            directory: PathBuf::from("pyflare-data/log"),
            partitions: 1,
            cap_bytes: 64 << 30,
            min_free_bytes: 2 << 30,
            segment_bytes: 256 << 20,
            tail_bytes: 64 << 20,
        }
    }
}

/// The durable log on local files; see the crate's head for what it promises.
///
/// Dropping it finishes what waits, gives unused disk back and joins the writer threads.
pub struct EmbeddedLog {
    /// `partitions[signal][partition]`
    partitions: Vec<Vec<Arc<Partition>>>,
    budget: Arc<DiskBudget>,
    listeners: Listeners,
    writers: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Layout {
    format: u32,
    partitions: u32,
}

const LAYOUT_FORMAT: u32 = 1;

impl EmbeddedLog {
    /// Opens or creates the log and recovers it: the last segment of each partition is checked record by
    /// record; older ones are checked when they are read.
    pub fn open(options: LogOptions) -> Result<Arc<EmbeddedLog>, LogError> {
        fs::create_dir_all(&options.directory).map_err(|error| io_error(&options.directory, error))?;
        let layout = load_layout(&options.directory, options.partitions.max(1))?;
        let budget = Arc::new(DiskBudget::new(
            options.directory.clone(),
            options.cap_bytes,
            options.min_free_bytes,
        ));
        let shared = Shared {
            budget: Arc::clone(&budget),
            listeners: Arc::new(RwLock::new(Vec::new())),
            // Before anybody looks where the log ends.
            owner: Arc::new(Owner::take(&options.directory)?),
        };
        let mut writers = Vec::new();
        let mut partitions = Vec::new();
        for signal in Signal::ALL {
            let mut of_signal = Vec::new();
            for number in 0..layout.partitions {
                let (partition, writer) = open_partition(&options, signal, number, &shared)?;
                writers.push((format!("log-{signal}-{number}"), writer));
                of_signal.push(partition);
            }
            partitions.push(of_signal);
        }
        let log = EmbeddedLog {
            partitions,
            budget,
            listeners: shared.listeners,
            writers: Mutex::new(Vec::new()),
        };
        for (name, writer) in writers {
            let packer = Packer::new().map_err(|error| io_error(&options.directory, error))?;
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || writer.run(packer));
            log.writers
                .lock()
                .push(thread.map_err(|error| io_error(&options.directory, error))?);
        }
        Ok(Arc::new(log))
    }

    /// Finishes what waits, refuses what comes (PF-2006) and joins the writers. Reading goes on.
    pub fn close(&self) {
        for partition in self.partitions.iter().flatten() {
            partition.close();
        }
        for writer in self.writers.lock().drain(..) {
            if writer.join().is_err() {
                tracing::error!("a log writer thread had panicked");
            }
        }
    }

    /// Why a writer thread has ended, if one has: its partition takes nothing until the log is opened again.
    pub fn writer_failure(&self) -> Option<LogError> {
        let partitions = self.partitions.iter().flatten();
        partitions
            .map(|partition| partition.failure())
            .find_map(|failure| failure)
    }

    fn partition(&self, signal: Signal, partition: u32) -> Option<&Arc<Partition>> {
        self.partitions[signal_index(signal)].get(partition as usize)
    }

    fn known_partition(&self, signal: Signal, partition: u32) -> Result<&Arc<Partition>, LogError> {
        self.partition(signal, partition).ok_or_else(|| LogError::Io {
            path: format!("{}/{partition}", signal.topic()),
            detail: format!(
                "there is no such partition; the topic has {}",
                self.partitions(signal)
            ),
        })
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    fn partitions(&self, signal: Signal) -> u32 {
        self.partitions[signal_index(signal)].len() as u32
    }

    async fn append(&self, record: LogRecord) -> Result<Appended, LogError> {
        let partitions = &self.partitions[signal_index(record.signal)];
        let chosen = (record.body_hash % partitions.len() as u128) as usize;
        partitions[chosen].append(record).await
    }

    fn end_offset(&self, signal: Signal, partition: u32) -> u64 {
        self.partition(signal, partition)
            .map_or(0, |partition| partition.end())
    }

    fn read(
        &self,
        signal: Signal,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        self.known_partition(signal, partition)?.read(offset, max_bytes)
    }

    fn on_append(&self, listener: AppendListener) {
        self.listeners.write().push(listener);
    }

    fn usage(&self) -> Option<(u64, u64)> {
        Some(self.budget.usage())
    }

    fn failure(&self) -> Option<LogError> {
        self.writer_failure()
    }

    fn close(&self) {
        EmbeddedLog::close(self);
    }

    fn start_offset(&self, signal: Signal, partition: u32) -> u64 {
        let known = self.known_partition(signal, partition);
        known.map_or(0, |partition| partition.first_offset())
    }

    fn seal(&self) {
        for partition in self.partitions.iter().flatten() {
            partition.seal();
        }
    }

    fn trim(&self, signal: Signal, partition: u32, offset: u64) -> Result<(), LogError> {
        self.known_partition(signal, partition)?.trim(offset)
    }
}

fn signal_index(signal: Signal) -> usize {
    match signal {
        Signal::Traces => 0,
        Signal::Metrics => 1,
        Signal::Logs => 2,
        Signal::Streams => 3,
    }
}

fn load_layout(directory: &Path, partitions: u32) -> Result<Layout, LogError> {
    let path = directory.join("LAYOUT.json");
    match fs::read(&path) {
        Ok(bytes) => {
            let layout: Layout =
                serde_json::from_slice(&bytes).map_err(|error| corrupt(&path, 0, error.to_string()))?;
            if layout.format != LAYOUT_FORMAT || layout.partitions == 0 {
                return Err(corrupt(&path, 0, "the layout is not one this version knows"));
            }
            if layout.partitions != partitions {
                tracing::warn!(
                    kept = layout.partitions,
                    asked = partitions,
                    "the log keeps the number of partitions it was made with"
                );
            }
            Ok(layout)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let layout = Layout {
                format: LAYOUT_FORMAT,
                partitions,
            };
            let text = serde_json::to_vec(&layout).map_err(|error| io_error(&path, error))?;
            let unfinished = directory.join("LAYOUT.json.new");
            fs::File::create(&unfinished)
                .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
                .and_then(|()| fs::rename(&unfinished, &path))
                .map_err(|error| io_error(&path, error))?;
            sync_directory(directory)?;
            Ok(layout)
        }
        Err(error) => Err(io_error(&path, error)),
    }
}

fn open_partition(
    options: &LogOptions,
    signal: Signal,
    number: u32,
    shared: &Shared,
) -> Result<(Arc<Partition>, Writer), LogError> {
    let directory = options.directory.join(signal.topic()).join(number.to_string());
    fs::create_dir_all(&directory).map_err(|error| io_error(&directory, error))?;
    let firsts = list_segments(&directory)?;
    let mut segments = Vec::with_capacity(firsts.len());
    let mut inherited = None;
    let mut end = 0;
    for (at, first_offset) in firsts.iter().copied().enumerate() {
        let path = segment_path(&directory, first_offset);
        let mut entry = SegmentEntry {
            first_offset,
            path: path.clone(),
            readable: None,
            index: SparseIndex::default(),
        };
        if at + 1 == firsts.len() {
            let recovered = recover_last(&path)?;
            if recovered.header.first_offset != first_offset || recovered.header.partition != number {
                return Err(corrupt(&path, 0, "this segment belongs elsewhere"));
            }
            end = recovered.next_offset;
            entry.readable = Some(recovered.position);
            entry.index = recovered.index;
            inherited = Some(InheritedSegment {
                path: path.clone(),
                position: recovered.position,
                length: recovered.length,
            });
        }
        let bytes = fs::metadata(&path).map_err(|error| io_error(&path, error))?.len();
        shared.budget.adopt(bytes);
        segments.push(entry);
    }
    let durable = Durable {
        segments,
        tail: Tail::new(end, options.tail_bytes as usize),
        end,
    };
    let segment_bytes = options.segment_bytes.max(1 << 16);
    let partition = Partition::new(signal, number, directory, segment_bytes, shared, durable);
    let partition = Arc::new(partition);
    let writer = Writer::new(Arc::clone(&partition), inherited);
    Ok((partition, writer))
}
