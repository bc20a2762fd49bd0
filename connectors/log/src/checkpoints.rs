//! Checkpoints on local files.
//!
//! A file is written beside its place, synced, and linked to its name, which fails if the name is taken; so a file is
//! whole once it has its name. What was left beside by a crash is deleted when the folder is opened.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyflare_connectors::checkpoints::check_name;
use pyflare_connectors::{CheckpointError, CheckpointStore};

/// Where files lie that have no name yet.
const UNFINISHED: &str = ".unfinished";

/// See the module's head.
#[derive(Debug)]
pub struct FileCheckpoints {
    directory: PathBuf,
    next: AtomicU64,
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> CheckpointError + '_ {
    move |error| CheckpointError::Io {
        path: path.display().to_string(),
        detail: error.to_string(),
    }
}

fn sync_directory(path: &Path) -> Result<(), CheckpointError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error(path))
}

impl FileCheckpoints {
    pub fn open(directory: impl AsRef<Path>) -> Result<Arc<FileCheckpoints>, CheckpointError> {
        let directory = directory.as_ref().to_path_buf();
        let unfinished = directory.join(UNFINISHED);
        fs::create_dir_all(&unfinished).map_err(io_error(&directory))?;
        // Those of a process that still runs are its own; a name that it cannot link is an error there.
        for entry in fs::read_dir(&unfinished).map_err(io_error(&unfinished))? {
            let path = entry.map_err(io_error(&unfinished))?.path();
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
        Ok(Arc::new(FileCheckpoints {
            directory,
            next: AtomicU64::new(0),
        }))
    }

    fn path(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        check_name(name)?;
        Ok(self.directory.join(name))
    }

    fn list_into(&self, folder: &Path, files: &mut Vec<(String, u64)>) -> Result<(), CheckpointError> {
        let failed = io_error(folder);
        for entry in fs::read_dir(folder).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = match entry.metadata() {
                // It was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                found => found.map_err(&failed)?,
            };
            if kind.is_dir() {
                self.list_into(&path, files)?;
            } else if let Ok(name) = path.strip_prefix(&self.directory) {
                files.push((name.to_string_lossy().into_owned(), kind.len()));
            }
        }
        Ok(())
    }
}

impl CheckpointStore for FileCheckpoints {
    fn create(&self, name: &str, content: &[u8]) -> Result<bool, CheckpointError> {
        let path = self.path(name)?;
        if path.exists() {
            return Ok(false);
        }
        let folder = path.parent().unwrap_or(&self.directory);
        if !folder.exists() {
            fs::create_dir_all(folder).map_err(io_error(folder))?;
            folder.parent().map_or(Ok(()), sync_directory)?;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let unfinished = self
            .directory
            .join(UNFINISHED)
            .join(format!("{}-{number}", std::process::id()));
        let written = File::create(&unfinished).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
        let linked = written.and_then(|()| fs::hard_link(&unfinished, &path));
        let _ = fs::remove_file(&unfinished);
        match linked {
            Ok(()) => {
                sync_directory(folder)?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        let path = self.path(name)?;
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    fn list(&self) -> Result<Vec<(String, u64)>, CheckpointError> {
        let mut files = Vec::new();
        self.list_into(&self.directory, &mut files)?;
        files.sort();
        Ok(files)
    }

    fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(&path)(error)),
            _ => {}
        }
        // The folder of the last file goes with it; one that holds others stays.
        if let Some(folder) = path.parent().filter(|folder| *folder != self.directory) {
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn conforms() {
        let directory = tempfile::tempdir().unwrap();
        let open = || -> Arc<dyn CheckpointStore> { FileCheckpoints::open(directory.path()).unwrap() };
        pyflare_connectors::conformance::checkpoints(&open);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_no_file_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileCheckpoints::open(directory.path()).unwrap();
        let left = directory.path().join(UNFINISHED).join("1-0");
        fs::write(&left, b"half").unwrap();
        assert_eq!(store.list().unwrap(), []);
        FileCheckpoints::open(directory.path()).unwrap();
        assert!(!left.exists());
    }
}
