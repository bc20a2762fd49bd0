//! A start from a checkpoint: found, checked as a whole, and only then taken over.
//!
//! Everything is compiled and every file's checksum compared before anything changes, so that a checkpoint that turns
//! out to be damaged costs nothing but the step back to the one before. What was restored is the content at the
//! checkpoint's tick: the workers take it as bases that began in the past, recompute what is derived from them, and nobody
//! is told, for readers and stores know it already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::{HashMap, HashSet};
use pyflare_connectors::CheckpointStore;

use super::decision::{Candidate, Decision, StandsAt, TicksFound, decide};
use super::manifest::{FileEntry, FileKind, Manifest};
use super::state_file::{ENTRIES, key_encoding, read_admitted, read_state};
use crate::render::arrange::key_of;
use crate::render::leaf::Leaf;
use crate::render::{Base, Ledger, WaitingGroups};
use crate::runtime::EngineError;
use crate::runtime::coordinator::Coordinator;
use crate::runtime::messages::{AppliedCommand, RestoredEntry, ToWorker};
use crate::runtime::start::refuse_older_store;
use crate::runtime::streams::{InstalledStream, Marks, StreamRegistry};
use crate::runtime::sums::Seed;
use crate::runtime::topics::Feeding;
use crate::runtime::views::InstalledView;
use crate::time::Tick;

/// Groups that are handed to one worker before it is the next one's turn.
const CHUNK: usize = 4_096;

/// What the tick log has at a position, as manifests tell it; `None`: nothing any more.
pub(in crate::runtime) type RecordAt<'a> = &'a dyn Fn(u64) -> Option<String>;

/// A checkpoint that can be taken over.
struct Prepared {
    manifest: Manifest,
    streams: Vec<Arc<InstalledStream>>,
    bases: BTreeMap<i32, Arc<Base>>,
    views: Vec<Arc<InstalledView>>,
}

impl Coordinator {
    /// Restores the newest checkpoint that can be. Returns the position of its tick's record; `None`: every record is
    /// to be replayed.
    pub(in crate::runtime) fn restore(
        &mut self,
        ticks: Option<TicksFound>,
        record_at: RecordAt<'_>,
    ) -> Result<Option<u64>, EngineError> {
        let Some(store) = self.checkpoint_store.clone() else {
            return match decide(&[], ticks) {
                Decision::Stop { reason } => Err(EngineError::NoWayBack { reason }),
                _ => Ok(None),
            };
        };
        let (mut candidates, mut manifests) = found(store.as_ref(), record_at)?;
        let newest = candidates.iter().map(|candidate| candidate.epoch).max();
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.next_epoch = newest.unwrap_or(0) + 1;
        }
        loop {
            match decide(&candidates, ticks) {
                Decision::Fresh => return Ok(None),
                Decision::Replay { damaged } => {
                    warn(&damaged);
                    return Ok(None);
                }
                Decision::Stop { reason } => return Err(EngineError::NoWayBack { reason }),
                Decision::Restore { epoch, damaged } => {
                    let manifest = manifests.remove(&epoch);
                    let prepared = manifest
                        .ok_or_else(|| "it is gone".into())
                        .and_then(|manifest| self.prepare(store.as_ref(), manifest));
                    match prepared {
                        Ok(prepared) => {
                            warn(&damaged);
                            let position = prepared.manifest.position;
                            self.take_over(store.as_ref(), prepared)?;
                            return Ok(Some(position));
                        }
                        Err(reason) => {
                            let of_epoch = |candidate: &&mut Candidate| candidate.epoch == epoch;
                            if let Some(candidate) = candidates.iter_mut().find(of_epoch) {
                                candidate.stands_at = Err(reason);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Checks everything that a manifest needs, and compiles what it names.
    fn prepare(&self, store: &dyn CheckpointStore, manifest: Manifest) -> Result<Prepared, String> {
        if manifest.key_encoding != key_encoding() {
            return Err("its keys are encoded as another version of pyflare does it".into());
        }
        for file in &manifest.files {
            content(store, file)?;
        }
        let registry = StreamRegistry::default();
        let mut streams = Vec::new();
        for entry in &manifest.streams {
            let stream = Arc::new(InstalledStream::restored(entry));
            registry.insert(Arc::clone(&stream));
            streams.push(stream);
        }
        let mut bases = BTreeMap::new();
        for entry in &manifest.bases {
            let leaf = Leaf::compile(&entry.origin.plan, entry.origin.times, &[]);
            let base = leaf.map_err(|error| error.to_string())?.base.clone();
            let cells = format!("{:?}", base.cells.kinds);
            if cells != entry.cells {
                return Err(format!(
                    "a base has the cells {cells} now, and had {}",
                    entry.cells
                ));
            }
            bases.insert(entry.id, base);
        }
        let mut views: Vec<Arc<InstalledView>> = Vec::new();
        for entry in &manifest.views {
            let of_view: Option<Vec<Arc<Base>>> = entry
                .bases
                .iter()
                .map(|number| bases.get(number).cloned())
                .collect();
            let of_view = of_view.ok_or("a view names a base that is not there")?;
            let view = InstalledView::restored(entry, &of_view, &views, &registry, self.limits);
            views.push(Arc::new(view.map_err(|error| error.to_string())?));
        }
        Ok(Prepared {
            manifest,
            streams,
            bases,
            views,
        })
    }

    /// Makes a checkpoint the state of this engine, which is new.
    fn take_over(&mut self, store: &dyn CheckpointStore, prepared: Prepared) -> Result<(), EngineError> {
        let Prepared {
            manifest,
            streams,
            bases,
            views,
        } = prepared;
        let unreadable = |detail: String| EngineError::Start {
            detail: format!("checkpoint {}: {detail}", manifest.epoch),
        };
        if let Some(past) = &self.past {
            refuse_older_store(&past.store, &past.runtime, &manifest.stored, manifest.tick)?;
        }
        if let Some(flusher) = &self.flusher {
            *flusher.state.stored.lock() = manifest.stored.clone();
        }
        let mut state = Shares::new(self.workers.len(), bases);
        let mut admitted = Vec::new();
        let mut files: Vec<&FileEntry> = manifest.files.iter().collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.epoch));
        for of_epoch in files.chunk_by(|one, next| one.epoch == next.epoch) {
            for file in of_epoch {
                let content = content(store, file).map_err(unreadable)?;
                let is_newest = file.epoch == manifest.epoch;
                match file.kind {
                    FileKind::State => state.read(content, is_newest).map_err(unreadable)?,
                    FileKind::Admitted => admitted = read_admitted(content).map_err(unreadable)?,
                }
            }
            state.end_epoch();
        }
        self.next_view_id = manifest.next_view_id;
        for erased in &manifest.erasures {
            self.erasing.known.add(erased.clone());
        }
        self.admission.restore(&manifest, admitted);
        let counts = &manifest.counts;
        let gauges = &self.gauges;
        gauges.restored.store(manifest.tick, Ordering::Release);
        gauges
            .rejected_rows
            .store(counts.rejected_rows, Ordering::Relaxed);
        gauges
            .failed_requests
            .store(counts.failed_requests, Ordering::Relaxed);
        gauges
            .admitted_bytes
            .store(counts.admitted_bytes, Ordering::Relaxed);
        for (gauge, rows) in gauges.rows.iter().zip(&counts.rows) {
            gauge.store(*rows, Ordering::Relaxed);
        }
        if self.flusher.is_some() {
            self.tail.release(manifest.tick);
        }
        for (worker, (seeds, entries)) in state.workers.into_iter().enumerate() {
            self.workers.send(worker, ToWorker::Seed(seeds));
            self.workers.send(worker, ToWorker::Entries(entries));
        }
        for stream in &streams {
            // Where it stands is in the manifest.
            if let Some(feeding) = Feeding::reopen(self.log.as_ref(), &stream.definition, Vec::new()) {
                let _ = stream.feeding.set(feeding);
            }
        }
        let created = streams.into_iter().map(AppliedCommand::CreateStream);
        let installed = views.into_iter().map(AppliedCommand::Install);
        let commands = created.chain(installed).collect();
        let marks: Marks = manifest.marks_before.iter().copied().collect();
        self.commit_restored(manifest.tick, Arc::new(marks), commands)
    }
}

/// What each worker begins with.
struct Shares {
    /// The place of each base among the seeds.
    places: HashMap<i32, usize>,
    workers: Vec<(Vec<Seed>, Vec<RestoredEntry>)>,
    /// Panes of which later checkpoints have everything, by base and share; `None`: all panes.
    renewed: HashSet<(i32, i32, Option<i64>)>,
    /// Those of the checkpoint that is being read.
    renewing: Vec<(i32, i32, Option<i64>)>,
    /// The last pane that was looked for, and whether later ones tell it.
    sought: Option<((i32, i32, i64), bool)>,
    /// Rows taken so far.
    rows: usize,
}

impl Shares {
    fn new(workers: usize, bases: BTreeMap<i32, Arc<Base>>) -> Shares {
        let seeds = || -> Vec<Seed> { bases.values().map(Seed::nothing).collect() };
        Shares {
            workers: (0..workers).map(|_| (seeds(), Vec::new())).collect(),
            places: bases.keys().copied().zip(0..).collect(),
            renewed: HashSet::new(),
            renewing: Vec::new(),
            sought: None,
            rows: 0,
        }
    }

    /// What follows was written for an earlier checkpoint.
    fn end_epoch(&mut self) {
        self.renewed.extend(self.renewing.drain(..));
        self.sought = None;
    }

    fn is_renewed(&mut self, base: i32, share: i32, pane: i64) -> bool {
        let wanted = (base, share, pane);
        match self.sought {
            Some((sought, known)) if sought == wanted => known,
            _ => {
                let known = self.renewed.contains(&(base, share, Some(pane)))
                    || self.renewed.contains(&(base, share, None));
                self.sought = Some((wanted, known));
                known
            }
        }
    }

    /// Divides a file's rows among the workers, in any way: the exchange sends each to where it belongs. Entries, and what
    /// waits for its moment, are told by every checkpoint: only those of the newest count.
    fn read(&mut self, content: Vec<u8>, is_newest: bool) -> Result<(), String> {
        read_state(content, |row| {
            let Some(accumulator) = row.accumulator else {
                let pane = (!row.is_of_all_panes()).then_some(row.pane);
                self.renewing.push((row.base, row.share, pane));
                return Ok(());
            };
            let is_kept_by_pane = row.base != ENTRIES && row.moment.is_none();
            if !is_newest {
                let is_there = is_kept_by_pane && self.places.contains_key(&row.base);
                if !is_there || self.is_renewed(row.base, row.share, row.pane) {
                    return Ok(());
                }
            }
            let worker = self.rows / CHUNK % self.workers.len();
            self.rows += 1;
            let (seeds, entries) = &mut self.workers[worker];
            if row.base == ENTRIES {
                entries.push(RestoredEntry {
                    view: Ledger::view_of_entry(row.key).ok_or("an entry without a view")?,
                    leaves: row.pane,
                    rest: row.key.to_vec(),
                    accumulator,
                });
                return Ok(());
            }
            let place = self.places.get(&row.base);
            let seed = place.and_then(|place| seeds.get_mut(*place));
            let seed = seed.ok_or_else(|| format!("a group of base {}, which it does not name", row.base))?;
            let kinds = &seed.base.cells.kinds;
            if accumulator.cells.len() != kinds.len() {
                return Err("an accumulator with other cells than its base has".into());
            }
            let key = key_of(row.pane, row.key);
            match row.moment {
                None => seed.groups.push((key, accumulator)),
                Some(moment) => seed
                    .waiting
                    .entry(moment)
                    .or_insert_with(|| WaitingGroups::new(kinds))
                    .add(key, accumulator),
            }
            Ok(())
        })
    }
}

fn warn(damaged: &[String]) {
    for reason in damaged {
        tracing::warn!(%reason, "a checkpoint cannot be used");
    }
}

/// What a start would find of checkpoints.
pub(in crate::runtime) struct Inspected {
    /// The tick and the bytes of each that is whole.
    pub whole: Vec<(Tick, u64)>,
    /// The one that it would take.
    pub restored: Option<Manifest>,
    /// What it would warn of.
    pub damaged: Vec<String>,
    /// What would stop it.
    pub stop: Option<String>,
}

/// Decides as a start would, having read every file of every checkpoint.
pub(in crate::runtime) fn inspect(
    store: Option<&dyn CheckpointStore>,
    ticks: Option<TicksFound>,
    record_at: RecordAt<'_>,
) -> Result<Inspected, EngineError> {
    let (mut candidates, mut manifests) = match store {
        Some(store) => found(store, record_at)?,
        None => (Vec::new(), BTreeMap::new()),
    };
    for candidate in &mut candidates {
        let (Some(store), Some(manifest)) = (store, manifests.get(&candidate.epoch)) else {
            continue;
        };
        let damage = match manifest.key_encoding == key_encoding() {
            true => manifest.files.iter().find_map(|file| content(store, file).err()),
            false => Some("its keys are encoded as another version of pyflare does it".into()),
        };
        if let Some(reason) = damage {
            candidate.stands_at = Err(reason);
            manifests.remove(&candidate.epoch);
        }
    }
    let mut inspected = Inspected {
        whole: manifests
            .values()
            .map(|manifest| (manifest.tick, manifest.bytes()))
            .collect(),
        restored: None,
        damaged: Vec::new(),
        stop: None,
    };
    match decide(&candidates, ticks) {
        Decision::Fresh => {}
        Decision::Replay { damaged } => inspected.damaged = damaged,
        Decision::Stop { reason } => inspected.stop = Some(reason),
        Decision::Restore { epoch, damaged } => {
            inspected.damaged = damaged;
            inspected.restored = manifests.remove(&epoch);
        }
    }
    Ok(inspected)
}

/// All checkpoints, as far as their manifests say.
fn found(
    store: &dyn CheckpointStore,
    record_at: RecordAt<'_>,
) -> Result<(Vec<Candidate>, BTreeMap<u64, Manifest>), EngineError> {
    let failed = |error: pyflare_connectors::CheckpointError| EngineError::Start {
        detail: error.to_string(),
    };
    let mut candidates = Vec::new();
    let mut manifests = BTreeMap::new();
    for (name, _) in store.list().map_err(failed)? {
        let Some(epoch) = Manifest::epoch_of(&name) else {
            continue;
        };
        let content = store.read(&name).map_err(failed)?.unwrap_or_default();
        let read = Manifest::decode(&content).and_then(|manifest| match manifest.epoch == epoch {
            true => Ok(manifest),
            false => Err(format!("it says that it is checkpoint {}", manifest.epoch)),
        });
        let is_ours = |manifest: &Manifest| {
            let known = record_at(manifest.position).filter(|_| !manifest.record.is_empty());
            known.is_none_or(|known| known == manifest.record)
        };
        let stands_at = match read {
            Ok(manifest) if !is_ours(&manifest) => Err(format!(
                "it stands at tick {}, and the tick log has another record there: it belongs to another history of this data \
                 directory, that of a copy or from before it was restored (see checkpoints.url)",
                manifest.tick
            )),
            Ok(manifest) => {
                let at = StandsAt {
                    tick: manifest.tick,
                    position: manifest.position,
                };
                manifests.insert(epoch, manifest);
                Ok(at)
            }
            Err(reason) => Err(format!("its manifest {name}: {reason}")),
        };
        candidates.push(Candidate { epoch, stands_at });
    }
    Ok((candidates, manifests))
}

/// A file as it was written.
fn content(store: &dyn CheckpointStore, file: &FileEntry) -> Result<Vec<u8>, String> {
    let content = store.read(&file.name).map_err(|error| error.to_string())?;
    let content = content.ok_or_else(|| format!("its file {} is missing", file.name))?;
    match blake3::hash(&content).to_hex().as_str() == file.checksum {
        true => Ok(content),
        false => Err(format!("its file {} is damaged", file.name)),
    }
}
