//! The thread that writes checkpoints, and deletes what they have made superfluous.
//!
//! The steps, each durable before the next: state files; the store has everything up to the tick; the manifest; then
//! older checkpoints than the two newest go, and what only they needed of the log and the tick log. A crash anywhere
//! leaves the checkpoints that were there, and files that the next cleaning finds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use pyflare_connectors::faults::{self, Fault, Step};
use pyflare_connectors::{CheckpointStore, Log, TickLog};

use super::dumping::FromDump;
use super::manifest::{FileEntry, FileKind, Manifest};
use super::state_file::{StateWriter, admitted_file};
use super::taking::{Answer, Chain, CheckpointState, CheckpointStatus, Run};
use crate::runtime::EngineError;
use crate::runtime::flush::FlushState;
use crate::runtime::streams::StreamId;
use crate::runtime::tail::HistoryTail;

/// A state file is finished when it is about so large.
const FILE_BYTES: usize = 32 << 20;
/// Before the names of state files.
const FOLDER: &str = "state/";
/// Complete checkpoints that are kept.
const KEPT: usize = 2;
const PAUSE: Duration = Duration::from_millis(20);

/// One checkpoint to be written.
pub(crate) struct Job {
    pub run: Arc<Run>,
    pub portions: Receiver<FromDump>,
    pub workers: usize,
    /// Its new files, and what was counted of its views, are missing yet.
    pub manifest: Manifest,
    /// When requests were admitted, and their hashes.
    pub admitted: Vec<(u64, u128)>,
    pub begun: Instant,
    pub answers: Vec<Answer>,
}

/// See the module.
pub(crate) struct Writer {
    pub store: Arc<dyn CheckpointStore>,
    pub log: Arc<dyn Log>,
    pub tick_log: Arc<dyn TickLog>,
    /// What the store has; `None` without one.
    pub tail: Option<Arc<HistoryTail>>,
    pub state: Arc<CheckpointState>,
    /// What the store has of streams.
    pub stored: Option<Arc<FlushState>>,
    pub jobs: Receiver<Box<Job>>,
}

/// Why a checkpoint was not completed.
enum Failure {
    /// It was called off, or the engine stops.
    CalledOff,
    Failed(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(error.to_string())
    }
}

impl Writer {
    pub fn run(self) {
        while let Ok(job) = self.jobs.recv() {
            self.finish(job);
        }
    }

    /// Writes one checkpoint and tells those who asked for it.
    pub fn finish(&self, mut job: Box<Job>) {
        let outcome = self.write(&mut job);
        let tick = job.run.tick;
        // Workers that still hand over something see that nobody wants it.
        job.run.cancel();
        let answer = match &outcome {
            Ok(()) => Ok(tick),
            Err(Failure::CalledOff) => Err(EngineError::Closed),
            Err(Failure::Failed(detail)) => Err(EngineError::Checkpoint {
                detail: detail.clone(),
            }),
        };
        if let Err(Failure::Failed(detail)) = outcome {
            tracing::error!(%detail, "no checkpoint could be written; the tick log has everything, it is tried again");
            let mut newest = self.state.newest.lock();
            newest.get_or_insert_default().failure = Some(detail);
        }
        self.state.is_busy.store(false, Ordering::Release);
        for reply in job.answers {
            let _ = reply.send(answer.clone());
        }
    }

    fn write(&self, job: &mut Job) -> Result<(), Failure> {
        let Manifest {
            epoch, generation, ..
        } = job.manifest;
        let folder = format!("{FOLDER}{epoch}-{generation}");
        self.write_state(job, &folder)?;
        let admitted = admitted_file(&job.admitted).map_err(Failure::Failed)?;
        let rows = job.admitted.len() as u64;
        let state_files = job.manifest.files.clone();
        let name = format!("{folder}/admitted.parquet");
        let entry = self.write_file((name, FileKind::Admitted, epoch), &admitted, rows)?;
        job.manifest.files.push(entry);
        self.await_store(&job.run)?;
        if let Some(stored) = &self.stored {
            let stored = stored.stored.lock();
            let before = stored.iter().filter(|(_, cut)| **cut <= job.run.tick);
            job.manifest.stored = before.map(|(table, cut)| (table.clone(), *cut)).collect();
        }
        let counted = self.await_counts(&job.run)?;
        for view in &mut job.manifest.views {
            if let Some(counts) = counted.get(&view.id) {
                view.changes = counts.changes;
                view.late_rows = counts.late_rows;
                view.error_rows = counts.error_rows;
                view.error_sample.clone_from(&counts.error_sample);
            }
        }
        self.tick_log.check_generation(generation)?;
        faults::at(Step::CheckpointUnnamed);
        if !self.store.create(&job.manifest.name(), &job.manifest.encode())? {
            return Err(Failure::Failed(format!(
                "checkpoint {epoch} was taken by another process: another server, perhaps one over a copy of this data directory, uses \
                 this place (checkpoints.url), and each needs its own"
            )));
        }
        faults::at(Step::CheckpointComplete);
        *self.state.chain.lock() = Some(Chain { files: state_files });
        let took = job.begun.elapsed();
        let rows: u64 = job.manifest.files.iter().map(|file| file.rows).sum();
        *self.state.newest.lock() = Some(CheckpointStatus {
            epoch,
            tick: job.manifest.tick,
            bytes: job.manifest.bytes(),
            rows,
            took,
            failure: None,
        });
        tracing::debug!(
            epoch,
            tick = job.manifest.tick,
            rows,
            bytes = job.manifest.bytes(),
            took_ms = took.as_millis() as u64,
            "a checkpoint is complete"
        );
        // What cannot be deleted now is found the next time.
        if let Err(Failure::Failed(detail)) = self.clean(generation) {
            tracing::warn!(%detail, "what checkpoints have made superfluous could not be deleted");
        }
        Ok(())
    }

    fn write_state(&self, job: &mut Job, folder: &str) -> Result<(), Failure> {
        let epoch = job.manifest.epoch;
        let (mut finished, mut number) = (0, 0);
        let mut writer = StateWriter::new().map_err(Failure::Failed)?;
        let finish = |writer: StateWriter, number: &mut u32, files: &mut Vec<FileEntry>| {
            let (content, rows) = writer.finish().map_err(Failure::Failed)?;
            if rows > 0 {
                let name = format!("{folder}/{number:04}.parquet");
                files.push(self.write_file((name, FileKind::State, epoch), &content, rows)?);
                *number += 1;
            }
            Ok::<(), Failure>(())
        };
        while finished < job.workers {
            match job.portions.recv_timeout(Duration::from_millis(200)) {
                // Left out, as an error in what is written would leave it out.
                Ok(FromDump::Portion(_)) if faults::planted(Fault::StateLost) => {}
                Ok(FromDump::Portion(portion)) => {
                    writer.write(&portion).map_err(Failure::Failed)?;
                    if writer.bytes() >= FILE_BYTES {
                        let next = StateWriter::new().map_err(Failure::Failed)?;
                        let full = std::mem::replace(&mut writer, next);
                        finish(full, &mut number, &mut job.manifest.files)?;
                    }
                }
                Ok(FromDump::Finished) => finished += 1,
                Err(RecvTimeoutError::Timeout) => self.go_on(&job.run)?,
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::CalledOff),
            }
        }
        finish(writer, &mut number, &mut job.manifest.files)
    }

    fn write_file(
        &self,
        (name, kind, epoch): (String, FileKind, u64),
        content: &[u8],
        rows: u64,
    ) -> Result<FileEntry, Failure> {
        if !self.store.create(&name, content)? {
            return Err(Failure::Failed(format!(
                "{name} is there already: another process uses this place"
            )));
        }
        faults::at(Step::CheckpointState);
        Ok(FileEntry {
            name,
            kind,
            epoch,
            bytes: content.len() as u64,
            rows,
            checksum: blake3::hash(content).to_hex().to_string(),
        })
    }

    fn go_on(&self, run: &Run) -> Result<(), Failure> {
        match run.is_cancelled() || self.state.stop.load(Ordering::Acquire) {
            true => Err(Failure::CalledOff),
            false => Ok(()),
        }
    }

    /// Waits until the store has everything up to the tick.
    fn await_store(&self, run: &Run) -> Result<(), Failure> {
        let Some(tail) = &self.tail else { return Ok(()) };
        while tail.flushed().is_none_or(|flushed| flushed < run.tick) {
            self.go_on(run)?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn await_counts<'a>(
        &self,
        run: &'a Run,
    ) -> Result<&'a std::collections::BTreeMap<u64, super::taking::ViewCounts>, Failure> {
        loop {
            if let Some(counted) = run.counted.get() {
                return Ok(counted);
            }
            self.go_on(run)?;
            std::thread::sleep(PAUSE);
        }
    }

    /// Keeps the newest checkpoints that can be read and what they need.
    fn clean(&self, generation: u64) -> Result<(), Failure> {
        let files = self.store.list()?;
        let mut manifests: Vec<(u64, &str)> = files
            .iter()
            .filter_map(|(name, _)| Some((Manifest::epoch_of(name)?, name.as_str())))
            .collect();
        manifests.sort_unstable_by(|one, other| other.cmp(one));
        let mut kept: Vec<Manifest> = Vec::new();
        for (_, name) in &manifests {
            if kept.len() == KEPT {
                break;
            }
            let content = self.store.read(name)?.unwrap_or_default();
            kept.extend(Manifest::decode(&content).ok());
        }
        let Some(oldest) = kept.last() else { return Ok(()) };
        let mut needed: BTreeSet<String> = kept.iter().map(Manifest::name).collect();
        needed.extend(
            kept.iter()
                .flat_map(|manifest| manifest.files.iter().map(|file| file.name.clone())),
        );
        // Manifests first: none may name a file that is gone.
        let superfluous = |is_manifest: bool| {
            let files = files.iter().map(|(name, _)| name);
            files.filter(move |name| match is_manifest {
                true => Manifest::epoch_of(name).is_some(),
                // What others may have put there is theirs.
                false => name.starts_with(FOLDER),
            })
        };
        for name in superfluous(true).chain(superfluous(false)) {
            if !needed.contains(name) {
                self.tick_log.check_generation(generation)?;
                self.store.delete(name)?;
                faults::at(Step::CheckpointCollected);
            }
        }
        if kept.len() < KEPT {
            return Ok(());
        }
        for cut in &oldest.partitions {
            self.tick_log.check_generation(generation)?;
            // Topics of others are theirs to delete from.
            if let StreamId::Signal(signal) = cut.source {
                self.log.trim(signal, cut.partition, cut.next_offset)?;
            }
            faults::at(Step::LogTrimmed);
        }
        self.tick_log.trim(generation, oldest.position)?;
        faults::at(Step::TicksTrimmed);
        self.state.oldest.store(oldest.tick, Ordering::Release);
        Ok(())
    }
}
