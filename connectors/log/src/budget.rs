//! How much disk the log may take: its own cap, and what must stay free for everybody else.
//!
//! Invariant: bytes are taken before they are written (segments are preallocated), so a granted byte cannot
//! run into a full disk, and the cap is never exceeded.

use std::path::PathBuf;

use parking_lot::Mutex;
use pyflare_connectors::LogError;

use crate::block_buffer::BLOCK;

pub(crate) struct DiskBudget {
    directory: PathBuf,
    cap_bytes: u64,
    min_free_bytes: u64,
    used: Mutex<u64>,
}

impl DiskBudget {
    pub(crate) fn new(directory: PathBuf, cap_bytes: u64, min_free_bytes: u64) -> Self {
        DiskBudget {
            directory,
            cap_bytes,
            min_free_bytes,
            used: Mutex::new(0),
        }
    }

    pub(crate) fn usage(&self) -> (u64, u64) {
        (*self.used.lock(), self.cap_bytes)
    }

    /// Counts bytes that are on disk already.
    pub(crate) fn adopt(&self, bytes: u64) {
        *self.used.lock() += bytes;
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        let mut used = self.used.lock();
        *used = used.saturating_sub(bytes);
    }

    /// Takes `wanted` bytes, or less where there is less room, but at least `needed`.
    pub(crate) fn take(&self, needed: u64, wanted: u64) -> Result<u64, LogError> {
        let mut used = self.used.lock();
        let under_cap = self.cap_bytes.saturating_sub(*used);
        if under_cap < needed {
            return Err(LogError::Full {
                cap_bytes: self.cap_bytes,
                used_bytes: *used,
            });
        }
        let free = self.free_bytes()?;
        let on_disk = free.saturating_sub(self.min_free_bytes);
        if on_disk < needed {
            return Err(LogError::DiskFull { free_bytes: free });
        }
        let granted = wanted.min(under_cap).min(on_disk) / BLOCK as u64 * BLOCK as u64;
        let granted = granted.max(needed);
        *used += granted;
        Ok(granted)
    }

    pub(crate) fn free_bytes(&self) -> Result<u64, LogError> {
        let stat = rustix::fs::statvfs(&self.directory).map_err(|error| LogError::Io {
            path: self.directory.display().to_string(),
            detail: error.to_string(),
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn grants_what_fits_and_refuses_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let budget = DiskBudget::new(directory.path().to_path_buf(), 10 * BLOCK as u64, 0);
        assert_eq!(
            budget.take(BLOCK as u64, 6 * BLOCK as u64).unwrap(),
            6 * BLOCK as u64
        );
        assert_eq!(
            budget.take(BLOCK as u64, 6 * BLOCK as u64).unwrap(),
            4 * BLOCK as u64
        );
        assert_eq!(
            budget.take(BLOCK as u64, BLOCK as u64).unwrap_err().code(),
            "PF-2001"
        );
        budget.give_back(BLOCK as u64);
        assert_eq!(budget.take(BLOCK as u64, BLOCK as u64).unwrap(), BLOCK as u64);

        let starved = DiskBudget::new(directory.path().to_path_buf(), u64::MAX, u64::MAX);
        assert_eq!(
            starved.take(BLOCK as u64, BLOCK as u64).unwrap_err().code(),
            "PF-2002"
        );
    }
}
