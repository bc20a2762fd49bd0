//! The files of a data directory as they are at one moment, held while a server goes on.
//!
//! A start from the copy needs: a checkpoint; a store that has everything up to it and nothing beyond the tick log's end; and a
//! log with all that the tick log names. So files are held in this order: checkpoints, tables, tick log, log. Each is behind or
//! level with the next, and what is written meanwhile is beyond the last. Held means linked under another name, so that
//! nothing is lost to trimming, merging or the next checkpoint while it is copied; of files that are still being written, the
//! length that is whole now is noted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use pyflare_connectors::CheckpointStore;
use pyflare_log::{FileCatalog, partitions_of, whole_journal, whole_segment};
use pyflare_objects::ObjectCheckpoints;

use crate::cli::durable;

/// A file to copy.
pub(super) struct Held {
    /// Where it lies now.
    pub source: PathBuf,
    /// Below the data directory.
    pub path: PathBuf,
    /// Only so much of it; all of it if nothing is said.
    pub bytes: Option<u64>,
}

/// Files held; let go when it is dropped.
pub(super) struct Pins {
    folder: PathBuf,
    files: Vec<Held>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("pyflare: {} could not be deleted: {error}", self.folder.display());
        }
    }
}

impl Pins {
    pub fn take(data: &Path) -> anyhow::Result<Pins> {
        let folder = data.join(format!(".backup-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).with_context(|| format!("PF-6055: {} cannot be made", folder.display()))?;
        let mut pins = Pins {
            folder,
            files: Vec::new(),
        };
        pins.hold_all(data)
            .with_context(|| format!("PF-6055: the files of {} could not be held", data.display()))?;
        Ok(pins)
    }

    pub fn files(&self) -> &[Held] {
        &self.files
    }

    pub fn bytes(&self) -> u64 {
        let lengths = self.files.iter().map(|held| {
            let whole = || fs::metadata(&held.source).map_or(0, |file| file.len());
            held.bytes.unwrap_or_else(whole)
        });
        lengths.sum()
    }

    fn hold_all(&mut self, data: &Path) -> anyhow::Result<()> {
        self.hold(data, Path::new("VERSION"), |_| Ok(None))?;
        self.hold(data, Path::new("catalog/catalog.journal"), |path| {
            Ok(Some(whole_journal(path, 0)?))
        })?;
        self.hold_checkpoints_elsewhere()?;
        // The manifests first: what they name is there before them.
        for folder in ["checkpoints/manifests", "checkpoints/state"] {
            for path in files_below(data, Path::new(folder))? {
                self.hold(data, &path, |_| Ok(None))?;
            }
        }
        for table in folders_in(&data.join("tables"))? {
            self.hold_table(data, &table)?;
        }
        self.hold_ticks(data)?;
        self.hold_log(data)
    }

    /// Copies checkpoints that are in an object store into the folder, as if they lay in the data directory.
    fn hold_checkpoints_elsewhere(&mut self) -> anyhow::Result<()> {
        let Some(journal) = self.files.iter().find(|held| held.path.starts_with("catalog")) else {
            return Ok(());
        };
        // As it is now: the server's own file is the server's to open.
        let copied = self.folder.join("catalog");
        fs::create_dir(&copied)?;
        let mut content = fs::read(&journal.source)?;
        content.truncate(usize::try_from(journal.bytes.unwrap_or(u64::MAX)).unwrap_or(usize::MAX));
        fs::write(copied.join("catalog.journal"), content)?;
        let catalog = FileCatalog::open(&copied)?;
        let Some(address) = durable::checkpoints_elsewhere(catalog.as_ref())? else {
            return Ok(());
        };
        let store = ObjectCheckpoints::open(&address, &pyflare_dataflows::lineage(catalog.as_ref())?)?;
        let mut names: Vec<String> = store.list()?.into_iter().map(|(name, _)| name).collect();
        // What is deleted while this reads is not of the newest ones; their manifests come first.
        names.sort_by_key(|name| !pyflare_dataflows::is_checkpoint_manifest(name));
        for name in names {
            if let Some(content) = store.read(&name)? {
                let source = self.folder.join(self.files.len().to_string());
                fs::write(&source, content)?;
                self.files.push(Held {
                    source,
                    path: Path::new("checkpoints").join(name),
                    bytes: None,
                });
            }
        }
        Ok(())
    }

    /// A table's log first: what it names is there before it, and stays for a while after it is named no more.
    fn hold_table(&mut self, data: &Path, table: &Path) -> anyhow::Result<()> {
        let below = table.strip_prefix(data).unwrap_or(table);
        let mut log = files_below(data, &below.join("_delta_log"))?;
        // It names a version that is there by then.
        log.sort_by_key(|path| !path.ends_with("_last_checkpoint"));
        for path in log {
            self.hold(data, &path, |_| Ok(None))?;
        }
        for entry in fs::read_dir(table)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name.ends_with(".parquet") && !name.starts_with('_') {
                self.hold(data, path.strip_prefix(data).unwrap_or(&path), |_| Ok(None))?;
            }
        }
        Ok(())
    }

    fn hold_ticks(&mut self, data: &Path) -> anyhow::Result<()> {
        self.hold(data, Path::new("ticks/GENERATION"), |_| Ok(None))?;
        let first_of = |path: &Path| {
            let name = path.file_stem().and_then(|name| name.to_str())?;
            match name.strip_prefix("ticks-") {
                Some(number) => number.parse::<u64>().ok(),
                None => (name == "ticks").then_some(0),
            }
        };
        let mut journals: Vec<(u64, PathBuf)> = files_below(data, Path::new("ticks"))?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "journal"))
            .filter_map(|path| Some((first_of(&path)?, path)))
            .collect();
        journals.sort();
        for (first, path) in journals {
            self.hold(data, &path, |path| Ok(Some(whole_journal(path, first)?)))?;
        }
        Ok(())
    }

    fn hold_log(&mut self, data: &Path) -> anyhow::Result<()> {
        self.hold(data, Path::new("log/LAYOUT.json"), |_| Ok(None))?;
        for partition in partitions_of(&data.join("log"))? {
            let last = partition.segments.len() - 1;
            for (number, segment) in partition.segments.iter().enumerate() {
                let path = segment.strip_prefix(data).unwrap_or(segment);
                self.hold(data, path, |held| match number == last {
                    true => Ok(Some(whole_segment(held)?.bytes)),
                    false => Ok(None),
                })?;
            }
        }
        Ok(())
    }

    /// Holds a file, if it is there.
    fn hold(
        &mut self,
        data: &Path,
        path: &Path,
        whole: impl FnOnce(&Path) -> anyhow::Result<Option<u64>>,
    ) -> anyhow::Result<()> {
        let original = data.join(path);
        let link = self.folder.join(self.files.len().to_string());
        let source = match fs::hard_link(&original, &link) {
            Ok(()) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A file system without links: what is small enough is copied at once, and the rest had better stay.
            Err(_) => original,
        };
        let bytes = whole(&source)?;
        self.files.push(Held {
            source,
            path: path.to_path_buf(),
            bytes,
        });
        Ok(())
    }
}

fn folders_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(folders),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && !is_hidden {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// The files of a folder and of those in it, as paths below `data`; not what is half written or hidden.
pub(super) fn files_below(data: &Path, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(data.join(folder)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_unfinished = name.starts_with('.') || name.ends_with(".tmp") || name.ends_with(".new");
        let path = folder.join(entry.file_name());
        if is_unfinished {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => files.extend(files_below(data, &path)?),
            false => files.push(path),
        }
    }
    files.sort();
    Ok(files)
}
