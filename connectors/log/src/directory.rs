//! The data directory: its format version, its lock, and the folders inside.
//!
//! Invariants: at most one server holds it (an advisory lock on `LOCK`, which the kernel drops when the process
//! dies, so `kill -9` leaves nothing behind to clean up); a directory written by a newer version is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The layout of the data directory that this version writes.
pub const DATA_FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    #[error(
        "PF-6010: another server (process {pid}) is using the data directory {path}; stop it, or choose another with --data-dir"
    )]
    InUse { path: String, pid: String },
    #[error(
        "PF-6011: the data directory {path} cannot be used ({detail}); make it a folder this user may read and write, or choose another with --data-dir"
    )]
    Unusable { path: String, detail: String },
    #[error(
        "PF-6012: the data directory {path} has format {found}, which is newer than this version's {known}; run the newer version, or choose another directory with --data-dir"
    )]
    Newer { path: String, found: u32, known: u32 },
    #[error(
        "PF-6013: {path} holds other files and is not a data directory; choose an empty or a new one with --data-dir"
    )]
    Foreign { path: String },
}

impl DataDirectoryError {
    /// The stable code, such as `PF-6010`.
    pub fn code(&self) -> &'static str {
        match self {
            DataDirectoryError::InUse { .. } => "PF-6010",
            DataDirectoryError::Unusable { .. } => "PF-6011",
            DataDirectoryError::Newer { .. } => "PF-6012",
            DataDirectoryError::Foreign { .. } => "PF-6013",
        }
    }
}

/// A data directory that this process holds. Dropping it lets the next server in.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl DataDirectory {
    /// Takes the directory, creating it if it is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<DataDirectory, DataDirectoryError> {
        let path = path.as_ref().to_path_buf();
        let unusable = |error: std::io::Error| DataDirectoryError::Unusable {
            path: path.display().to_string(),
            detail: error.to_string(),
        };
        fs::create_dir_all(&path).map_err(unusable)?;
        if !path.join("VERSION").exists() && holds_other_files(&path).map_err(unusable)? {
            return Err(DataDirectoryError::Foreign {
                path: path.display().to_string(),
            });
        }
        let lock = take_lock(&path)?;
        check_version(&path)?;
        for folder in ["log", "ticks", "catalog", "checkpoints", "tables", "vectors"] {
            fs::create_dir_all(path.join(folder)).map_err(unusable)?;
        }
        Ok(DataDirectory { path, _lock: lock })
    }

    /// Refuses a directory that this version does not know, without taking it.
    pub fn check(path: impl AsRef<Path>) -> Result<(), DataDirectoryError> {
        check_version(path.as_ref())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the durable log lies.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the tick log lies.
    pub fn ticks(&self) -> PathBuf {
        self.path.join("ticks")
    }

    /// Where the catalog lies.
    pub fn catalog(&self) -> PathBuf {
        self.path.join("catalog")
    }

    /// Where checkpoints lie.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Where the embedded store's tables lie.
    pub fn tables(&self) -> PathBuf {
        self.path.join("tables")
    }

    /// Where the embedded vector store lies.
    pub fn vectors(&self) -> PathBuf {
        self.path.join("vectors")
    }

    /// The file that says which addresses this server listens on.
    pub fn endpoints_file(&self) -> PathBuf {
        self.path.join("endpoints.json")
    }

    /// Writes a file of the directory so that a reader sees the old content or the new one.
    pub fn write_atomically(&self, name: &str, content: &[u8]) -> Result<(), DataDirectoryError> {
        write_atomically(&self.path, name, content).map_err(|error| DataDirectoryError::Unusable {
            path: self.path.join(name).display().to_string(),
            detail: error.to_string(),
        })
    }
}

fn holds_other_files(path: &Path) -> std::io::Result<bool> {
    // A fresh volume has `lost+found`; a server stopped within its first moments has left `LOCK`.
    let ours = |name: &str| name.starts_with('.') || matches!(name, "lost+found" | "LOCK" | "VERSION.new");
    for entry in fs::read_dir(path)? {
        if !entry?.file_name().to_str().is_some_and(ours) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn take_lock(path: &Path) -> Result<File, DataDirectoryError> {
    let lock_path = path.join("LOCK");
    let unusable = |error: std::io::Error| DataDirectoryError::Unusable {
        path: lock_path.display().to_string(),
        detail: error.to_string(),
    };
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(unusable)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).map_err(unusable)?;
            let pid = if pid.trim().is_empty() {
                "unknown".to_string()
            } else {
                pid.trim().to_string()
            };
            return Err(DataDirectoryError::InUse {
                path: path.display().to_string(),
                pid,
            });
        }
        Err(error) => return Err(unusable(error.into())),
    }
    lock.set_len(0).map_err(unusable)?;
    write!(lock, "{}", std::process::id()).map_err(unusable)?;
    Ok(lock)
}

fn check_version(path: &Path) -> Result<(), DataDirectoryError> {
    let version_path = path.join("VERSION");
    let unusable = |detail: String| DataDirectoryError::Unusable {
        path: version_path.display().to_string(),
        detail,
    };
    match fs::read_to_string(&version_path) {
        Ok(text) => {
            let found: u32 = text
                .trim()
                .parse()
                .map_err(|_| unusable(format!("{:?} is not a format version", text.trim())))?;
            if found > DATA_FORMAT {
                return Err(DataDirectoryError::Newer {
                    path: path.display().to_string(),
                    found,
                    known: DATA_FORMAT,
                });
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_atomically(path, "VERSION", format!("{DATA_FORMAT}\n").as_bytes())
                .map_err(|error| unusable(error.to_string()))
        }
        Err(error) => Err(unusable(error.to_string())),
    }
}

fn write_atomically(directory: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    let unfinished = directory.join(format!("{name}.new"));
    let mut file = File::create(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_server_is_refused_and_told_by_whom() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let first = DataDirectory::open(&path).unwrap();
        let refused = DataDirectory::open(&path).unwrap_err();
        assert_eq!(refused.code(), "PF-6010");
        assert!(
            refused.to_string().contains(&std::process::id().to_string()),
            "{refused}"
        );
        drop(first);
        assert!(DataDirectory::open(&path).unwrap().log().is_dir());
    }

    #[test]
    fn newer_foreign_and_unusable_directories_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        drop(DataDirectory::open(&path).unwrap());
        fs::write(path.join("VERSION"), format!("{}\n", DATA_FORMAT + 1)).unwrap();
        assert_eq!(DataDirectory::open(&path).unwrap_err().code(), "PF-6012");
        fs::write(path.join("VERSION"), "what").unwrap();
        assert_eq!(DataDirectory::open(&path).unwrap_err().code(), "PF-6011");

        let foreign = root.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::create_dir(foreign.join("lost+found")).unwrap();
        drop(DataDirectory::open(&foreign).unwrap());
        fs::remove_file(foreign.join("VERSION")).unwrap();
        fs::write(foreign.join("thesis.tex"), "").unwrap();
        assert_eq!(DataDirectory::open(&foreign).unwrap_err().code(), "PF-6013");

        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(DataDirectory::open(&file).unwrap_err().code(), "PF-6011");
        assert_eq!(
            DataDirectory::open(file.join("below")).unwrap_err().code(),
            "PF-6011"
        );
        assert_eq!(
            DataDirectory::open("/proc/pyflare-data").unwrap_err().code(),
            "PF-6011"
        );
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(root.path().join("data")).unwrap();
        directory.write_atomically("endpoints.json", b"{}").unwrap();
        directory
            .write_atomically("endpoints.json", b"{\"pid\": 1}")
            .unwrap();
        assert_eq!(fs::read(directory.endpoints_file()).unwrap(), b"{\"pid\": 1}");
    }
}
