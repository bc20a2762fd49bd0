//! How much of a file is whole, found without changing it: for copies of a directory that a server may be writing, and
//! for checking one that nobody does.

use std::fs;
use std::path::{Path, PathBuf};

use pyflare_connectors::{LogError, TickLogError};

use crate::journal::{Journal, JournalError};
use crate::recovery::recover_last;
use crate::segment::io_error;

/// How often a file that is being written is looked at until it is seen between two writes.
const LOOKS: usize = 20;

/// A file of the embedded log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeSegment {
    pub path: PathBuf,
    pub first_offset: u64,
    /// The offset after its last whole record.
    pub next_offset: u64,
    /// Bytes up to there.
    pub bytes: u64,
}

/// The segments of one partition, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSegments {
    /// The folder's path below that of the log, such as `otlp_spans-0`.
    pub folder: PathBuf,
    pub segments: Vec<PathBuf>,
}

/// Every record of a segment, checked; what is torn at its end is not counted.
pub fn whole_segment(path: &Path) -> Result<WholeSegment, LogError> {
    let mut looks = 1;
    loop {
        match recover_last(path) {
            Ok(recovered) => {
                return Ok(WholeSegment {
                    path: path.to_path_buf(),
                    first_offset: recovered.header.first_offset,
                    next_offset: recovered.next_offset,
                    bytes: recovered.position,
                });
            }
            // Half of a block may have been read before it was written, and the next one after it was.
            Err(LogError::Corrupt { .. }) if looks < LOOKS => looks += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The partitions of an embedded log and their segments.
pub fn partitions_of(directory: &Path) -> Result<Vec<PartitionSegments>, LogError> {
    let mut found = Vec::new();
    collect(directory, directory, &mut found)?;
    found.sort_by(|one, other| one.folder.cmp(&other.folder));
    Ok(found)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<PartitionSegments>) -> Result<(), LogError> {
    let mut segments = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(folder, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| io_error(folder, error))?.path();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "segment") {
            segments.push(path);
        }
    }
    segments.sort();
    if !segments.is_empty() {
        found.push(PartitionSegments {
            folder: folder.strip_prefix(root).unwrap_or(folder).to_path_buf(),
            segments,
        });
    }
    Ok(())
}

/// Checks that the segments of a partition follow on; its first offset and the one after its last record.
pub fn check_partition(root: &Path, partition: &PartitionSegments) -> Result<(u64, u64), LogError> {
    let mut whole: Vec<WholeSegment> = Vec::new();
    for path in &partition.segments {
        let segment = whole_segment(path)?;
        if let Some(before) = whole.last()
            && before.next_offset != segment.first_offset
        {
            return Err(LogError::Corrupt {
                path: before.path.display().to_string(),
                position: before.bytes,
                detail: format!(
                    "it ends before offset {}, and the next segment begins with {}",
                    before.next_offset, segment.first_offset
                ),
            });
        }
        whole.push(segment);
    }
    match (whole.first(), whole.last()) {
        (Some(first), Some(last)) => Ok((first.first_offset, last.next_offset)),
        _ => Err(LogError::Io {
            path: root.join(&partition.folder).display().to_string(),
            detail: "the partition has no segment".into(),
        }),
    }
}

/// Bytes that are whole of a journal (a file of the tick log, or the catalog's) whose first entry has the number `first`; a
/// missing file has none.
pub fn whole_journal(path: &Path, first: u64) -> Result<u64, TickLogError> {
    let mut looks = 1;
    loop {
        match Journal::whole(path, first) {
            Ok(bytes) => return Ok(bytes),
            Err(JournalError::Corrupt { .. }) if looks < LOOKS => looks += 1,
            Err(JournalError::Corrupt {
                path,
                position,
                detail,
            }) => {
                return Err(TickLogError::Corrupt {
                    path,
                    position,
                    detail,
                });
            }
            Err(JournalError::Io { path, source }) => {
                return Err(TickLogError::Io {
                    path,
                    detail: source.to_string(),
                });
            }
        }
    }
}
