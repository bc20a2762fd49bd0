//! One segment file: a header block, then records back to back, then preallocated zeros.
//!
//! ```text
//!  0  "PFLOGSEG"   8  u32 format   12  u32 partition   16  u64 first offset   24  u64 salt
//! 32  topic, zero-padded to 28   60  u32 CRC32C of 0..60   64  zeros up to 4096
//! ```
//! Invariants: a segment appears under its name only with a durable header; writes are whole blocks at block
//! positions (direct I/O where the file system has it); bytes are allocated before they are written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pyflare_connectors::LogError;
use pyflare_connectors::faults::{self, Step};

use crate::block_buffer::BLOCK;
use crate::budget::DiskBudget;
use crate::checksum::crc32c;

pub(crate) const SEGMENT_FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"PFLOGSEG";
const SMALLEST_STEP: u64 = 1 << 20;
const GREATEST_STEP: u64 = 32 << 20;

/// Where records begin.
pub(crate) const FIRST_RECORD: u64 = BLOCK as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub partition: u32,
    pub first_offset: u64,
    pub salt: u64,
}

pub(crate) fn io_error(path: &Path, error: impl std::fmt::Display) -> LogError {
    LogError::Io {
        path: path.display().to_string(),
        detail: error.to_string(),
    }
}

pub(crate) fn corrupt(path: &Path, position: u64, detail: impl Into<String>) -> LogError {
    LogError::Corrupt {
        path: path.display().to_string(),
        position,
        detail: detail.into(),
    }
}

/// Makes a name in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), LogError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io_error(path, error))
}

pub(crate) fn segment_path(directory: &Path, first_offset: u64) -> PathBuf {
    directory.join(format!("{first_offset:020}.segment"))
}

/// The first offsets of the segments in a directory, ascending. Half-made ones are removed.
pub(crate) fn list_segments(directory: &Path) -> Result<Vec<u64>, LogError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| io_error(directory, error))? {
        let path = entry.map_err(|error| io_error(directory, error))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let Some(first) = name.strip_suffix(".segment").and_then(|first| first.parse().ok()) {
            found.push(first);
        } else if name.ends_with(".new") {
            std::fs::remove_file(&path).map_err(|error| io_error(&path, error))?;
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl SegmentHeader {
    fn encode(&self, topic: &str) -> [u8; 64] {
        let mut bytes = [0_u8; 64];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&SEGMENT_FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.partition.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        let name = &topic.as_bytes()[..topic.len().min(28)];
        bytes[32..32 + name.len()].copy_from_slice(name);
        let crc = crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads and checks the header of the segment at `path`.
    pub(crate) fn read(path: &Path, file: &File) -> Result<SegmentHeader, LogError> {
        let mut bytes = [0_u8; 64];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|error| corrupt(path, 0, format!("the segment header cannot be read: {error}")))?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        if bytes[0..8] != MAGIC || crc32c(&bytes[..60]) != word(60) {
            return Err(corrupt(path, 0, "this is not a segment header"));
        }
        if word(8) != SEGMENT_FORMAT {
            return Err(corrupt(
                path,
                8,
                format!("segment format {} is not known to this version", word(8)),
            ));
        }
        Ok(SegmentHeader {
            partition: word(12),
            first_offset: long(16),
            salt: long(24),
        })
    }
}

/// The segment that is being written.
pub(crate) struct ActiveSegment {
    pub path: PathBuf,
    pub header: SegmentHeader,
    file: File,
    /// End of the durable records.
    pub position: u64,
    /// Bytes of the file, all taken from the budget.
    pub allocated: u64,
}

/// The last segment of the process before this one. Nothing is added to it: that process may still run.
pub(crate) struct InheritedSegment {
    pub path: PathBuf,
    /// End of its records.
    pub position: u64,
    /// Bytes of the file, which the budget has adopted.
    pub length: u64,
}

impl InheritedSegment {
    /// Cuts what a crash left behind the records.
    pub(crate) fn cut(&self, budget: &DiskBudget) -> Result<(), LogError> {
        if self.length > self.position {
            cut(&self.path, self.position)?;
            budget.give_back(self.length - self.position);
            tracing::debug!(path = %self.path.display(), position = self.position, "cut the unused end of a segment");
        }
        Ok(())
    }
}

fn cut(path: &Path, position: u64) -> Result<(), LogError> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(position).and_then(|()| file.sync_all()))
        .map_err(|error| io_error(path, error))
}

impl ActiveSegment {
    /// Creates the segment and makes its header and its name durable. `replaces`: one without records has its name;
    /// else one of that name is another process'.
    pub(crate) fn create(
        directory: &Path,
        topic: &str,
        header: SegmentHeader,
        replaces: bool,
        budget: &DiskBudget,
    ) -> Result<ActiveSegment, LogError> {
        let path = segment_path(directory, header.first_offset);
        let unfinished = path.with_extension("new");
        let allocated = budget.take(FIRST_RECORD, FIRST_RECORD)?;
        let made = Self::write_header(&unfinished, topic, &header)
            .and_then(|()| match replaces {
                true => std::fs::rename(&unfinished, &path),
                false => {
                    std::fs::hard_link(&unfinished, &path).and_then(|()| std::fs::remove_file(&unfinished))
                }
            })
            .map_err(|error| disk_error(&path, &error, budget))
            .and_then(|()| sync_directory(directory))
            .and_then(|()| open_for_writing(&path).map_err(|error| io_error(&path, error)));
        match made {
            Ok(file) => Ok(ActiveSegment {
                path,
                header,
                file,
                position: FIRST_RECORD,
                allocated,
            }),
            Err(error) => {
                budget.give_back(allocated);
                // The next attempt removes or replaces it; its absence is not relied upon.
                std::fs::remove_file(&unfinished).ok();
                Err(error)
            }
        }
    }

    fn write_header(path: &Path, topic: &str, header: &SegmentHeader) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        let mut block = [0_u8; BLOCK];
        block[..64].copy_from_slice(&header.encode(topic));
        file.write_all_at(&block, 0)?;
        file.sync_all()
    }

    /// Makes sure that the file has `end` bytes, growing it in steps that double up to 32 MiB.
    pub(crate) fn allocate(&mut self, end: u64, limit: u64, budget: &DiskBudget) -> Result<(), LogError> {
        let end = crate::block_buffer::round_up(end);
        if end <= self.allocated {
            return Ok(());
        }
        let needed = end - self.allocated;
        let step = self.allocated.clamp(SMALLEST_STEP, GREATEST_STEP);
        let room = limit.saturating_sub(self.allocated);
        let granted = budget.take(needed, step.min(room).max(needed))?;
        // The file system may have less room than the budget saw, yet enough for this record.
        let grown = preallocate(&self.file, self.allocated, granted)
            .map(|()| granted)
            .or_else(|_| preallocate(&self.file, self.allocated, needed).map(|()| needed));
        match grown {
            Ok(bytes) => {
                self.allocated += bytes;
                budget.give_back(granted - bytes);
                Ok(())
            }
            Err(error) => {
                budget.give_back(granted);
                Err(disk_error(&self.path, &error, budget))
            }
        }
    }

    /// Writes whole blocks at `at` and makes them durable.
    pub(crate) fn write(&self, at: u64, blocks: &[u8], budget: &DiskBudget) -> Result<(), LogError> {
        self.file
            .write_all_at(blocks, at)
            .and_then(|()| {
                faults::at(Step::LogWritten);
                rustix::fs::fdatasync(&self.file).map_err(io::Error::from)
            })
            .map_err(|error| disk_error(&self.path, &error, budget))
    }

    /// Takes the write permission away, as a failing disk would.
    #[cfg(test)]
    pub(crate) fn break_writing(&mut self) {
        self.file = File::open(&self.path).expect("the segment exists");
    }

    /// Gives the unused allocation back. Called when the segment is full, abandoned or closed.
    pub(crate) fn seal(&mut self, budget: &DiskBudget) -> Result<(), LogError> {
        // By name: after a failed write the handle is not relied upon.
        cut(&self.path, self.position)?;
        budget.give_back(self.allocated.saturating_sub(self.position));
        self.allocated = self.position;
        Ok(())
    }
}

fn open_for_writing(path: &Path) -> io::Result<File> {
    // Direct I/O into preallocated blocks costs a third less CPU than the page cache, and what is written is
    // read back from the tail in memory. File systems without it (some tmpfs) answer EINVAL.
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => OpenOptions::new().write(true).open(path),
        opened => opened,
    }
}

fn preallocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), from, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(from + bytes),
        result => result.map_err(io::Error::from),
    }
}

fn disk_error(path: &Path, error: &io::Error, budget: &DiskBudget) -> LogError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => LogError::DiskFull {
            free_bytes: budget.free_bytes().unwrap_or_default(),
        },
        _ => io_error(path, error),
    }
}
