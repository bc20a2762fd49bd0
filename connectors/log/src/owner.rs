//! Who writes the log: the process that opened it last.
//!
//! The data directory's lock keeps a second process out, but a lock can be removed, and some disks do not show locks to
//! other machines. So each process that opens the log leaves its mark in `OWNER`, *before* it looks where the log ends,
//! and never writes to a segment that another has written to. A writer looks at the mark after its records are durable and
//! before anybody is told of them.
//!
//! Invariant: what a process acknowledges is in the log of every process after it. If the mark is still its own, whoever
//! takes over looks for the end later, and finds the records; if not, they are refused, wherever they went.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use pyflare_connectors::LogError;

use crate::segment::io_error;

#[derive(Debug)]
pub(crate) struct Owner {
    path: PathBuf,
    mark: String,
}

impl Owner {
    /// Takes the log in this directory over. The mark need not survive a power cut: no other process does.
    pub(crate) fn take(directory: &Path) -> Result<Owner, LogError> {
        let path = directory.join("OWNER");
        let random = RandomState::new().build_hasher().finish();
        let mark = format!("{} {random:016x}\n", std::process::id());
        let unfinished = directory.join("OWNER.new");
        fs::write(&unfinished, &mark)
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(|error| io_error(&path, error))?;
        Ok(Owner { path, mark })
    }

    /// Refuses once another process has taken over.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let found = fs::read_to_string(&self.path).map_err(|error| io_error(&self.path, error))?;
        match found == self.mark {
            true => Ok(()),
            false => Err(LogError::TakenOver {
                path: self.path.display().to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_one_to_take_it_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = Owner::take(directory.path()).unwrap();
        first.check().unwrap();
        let second = Owner::take(directory.path()).unwrap();
        assert_eq!(first.check().unwrap_err().code(), "PF-2018");
        second.check().unwrap();
    }
}
