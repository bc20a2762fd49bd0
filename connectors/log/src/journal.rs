//! A file of small durable payloads, one `fdatasync` each: what the tick log and the catalog are made of.
//!
//! ```text
//! 0  u32 magic "PFJR"   4  u32 length   8  u64 sequence   16  u32 CRC32C of 4..16 + payload   20  payload
//! ```
//! Invariants: a payload is durable when [`Journal::append`] returns; payloads are numbered one after the other; a torn
//! last payload is cut, since nobody was told of it; a bad place with a later payload behind it is damage.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pyflare_connectors::faults::{self, Step};

use crate::checksum::crc32c_pair;

const HEADER_BYTES: usize = 20;
const MAGIC: [u8; 4] = *b"PFJR";

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is damaged at byte {position}: {detail}")]
    Corrupt {
        path: String,
        position: u64,
        detail: String,
    },
}

/// The readable part of a journal file.
struct Scan {
    end: u64,
    sequence: u64,
    torn: bool,
}

/// The steps of an append: before it is written, before it is durable, and after.
pub(crate) type AppendSteps = [Step; 3];

/// A journal opened for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Something lies behind `end`.
    torn: bool,
    end: u64,
    sequence: u64,
    steps: AppendSteps,
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> JournalError + '_ {
    move |source| JournalError::Io {
        path: path.display().to_string(),
        source,
    }
}

impl Journal {
    /// Opens or creates the file and hands every payload to `visit`. A torn tail is cut by the first append, so
    /// that a start which is refused leaves the file as it was.
    pub(crate) fn open<E: From<JournalError>>(
        path: &Path,
        steps: AppendSteps,
        visit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Journal, E> {
        Journal::open_at(path, 0, steps, visit)
    }

    /// [`Journal::open`] of a file whose first payload has the number `first`.
    pub(crate) fn open_at<E: From<JournalError>>(
        path: &Path,
        first: u64,
        steps: AppendSteps,
        visit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Journal, E> {
        let existed = path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io_at(path))?;
        if !existed {
            file.sync_all().map_err(io_at(path))?;
            if let Some(directory) = path.parent() {
                File::open(directory)
                    .and_then(|directory| directory.sync_all())
                    .map_err(io_at(path))?;
            }
        }
        let scan = scan(path, &file, first, visit)?;
        Ok(Journal {
            path: path.to_path_buf(),
            file,
            torn: scan.torn,
            end: scan.end,
            sequence: scan.sequence,
            steps,
        })
    }

    /// Hands every whole payload of the file, of which the first has the number `first`, to `visit` without changing it;
    /// a missing file has none. Returns the number that the next payload would have, and whether the last is torn.
    pub(crate) fn read_at<E: From<JournalError>>(
        path: &Path,
        first: u64,
        visit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(u64, bool), E> {
        match File::open(path) {
            Ok(file) => scan(path, &file, first, visit).map(|scan| (scan.sequence, scan.torn)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((first, false)),
            Err(error) => Err(io_at(path)(error).into()),
        }
    }

    /// Bytes of the file, of which the first payload has the number `first`, that are whole; a missing file has none.
    pub(crate) fn whole(path: &Path, first: u64) -> Result<u64, JournalError> {
        match File::open(path) {
            Ok(file) => {
                let scan = scan(path, &file, first, &mut |_| Ok::<(), JournalError>(()))?;
                Ok(scan.end)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(io_at(path)(error)),
        }
    }

    /// The number that the next payload will have.
    pub(crate) fn next(&self) -> u64 {
        self.sequence
    }

    /// Bytes in the file.
    pub(crate) fn len(&self) -> u64 {
        self.end
    }

    /// Appends one payload; durable when it returns. After an error the payload is not in the journal.
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<(), JournalError> {
        if self.torn {
            self.cut()?;
        }
        let bytes = frame(self.sequence, payload);
        let [before_it, after_writing, when_durable] = self.steps;
        faults::at(before_it);
        let written = self.file.write_all_at(&bytes, self.end).and_then(|()| {
            faults::at(after_writing);
            rustix::fs::fdatasync(&self.file).map_err(io::Error::from)
        });
        if let Err(error) = written {
            self.torn = true;
            // If this fails too, the next append tries again before it writes.
            self.cut().ok();
            return Err(io_at(&self.path)(error));
        }
        faults::at(when_durable);
        self.end += bytes.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    fn cut(&mut self) -> Result<(), JournalError> {
        self.file
            .set_len(self.end)
            .and_then(|()| self.file.sync_all())
            .map_err(io_at(&self.path))?;
        self.torn = false;
        Ok(())
    }

    /// Puts a journal with these payloads in the place of the file, atomically.
    pub(crate) fn replace<'a>(
        path: &Path,
        steps: AppendSteps,
        payloads: impl Iterator<Item = std::borrow::Cow<'a, [u8]>>,
    ) -> Result<Journal, JournalError> {
        let mut bytes = Vec::new();
        let mut sequence = 0;
        for payload in payloads {
            bytes.extend_from_slice(&frame(sequence, &payload));
            sequence += 1;
        }
        let unfinished = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unfinished)
            .map_err(io_at(path))?;
        file.write_all_at(&bytes, 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&unfinished, path))
            .map_err(io_at(path))?;
        if let Some(directory) = path.parent() {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(io_at(path))?;
        }
        Ok(Journal {
            path: path.to_path_buf(),
            file,
            torn: false,
            end: bytes.len() as u64,
            sequence,
            steps,
        })
    }
}

fn frame(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    let crc = crc32c_pair(&bytes[4..16], payload);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Length and sequence of the payload whose frame starts `bytes`, if it is whole and its checksum matches.
fn parse(bytes: &[u8]) -> Option<(usize, u64)> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    if header[..4] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let mut sequence = [0_u8; 8];
    sequence.copy_from_slice(&header[8..16]);
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(length)?)?;
    let stored = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
    (crc32c_pair(&header[4..16], payload) == stored).then_some((length, u64::from_le_bytes(sequence)))
}

fn scan<E: From<JournalError>>(
    path: &Path,
    file: &File,
    first: u64,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Scan, E> {
    let len = file.metadata().map_err(io_at(path))?.len();
    let mut window: Vec<u8> = Vec::new();
    let (mut window_start, mut position, mut sequence) = (0_u64, 0_u64, first);
    loop {
        let from = (position - window_start) as usize;
        match window.get(from..).and_then(parse) {
            Some((length, found)) if found == sequence => {
                visit(&window[from + HEADER_BYTES..from + HEADER_BYTES + length])?;
                position += (HEADER_BYTES + length) as u64;
                sequence += 1;
                continue;
            }
            _ => {}
        }
        // Either the window ends within this frame, or no frame stands here: look at more of the file.
        let have = window.len() as u64 + window_start;
        if have < len {
            window.drain(..from);
            window_start = position;
            let more = (len - have).min((1 << 20).max(window.len() as u64)) as usize;
            let old = window.len();
            window.resize(old + more, 0);
            file.read_exact_at(&mut window[old..], have)
                .map_err(io_at(path))?;
            continue;
        }
        let rest = &window[from..];
        for at in 1..rest.len() {
            if rest[at..].starts_with(&MAGIC) && parse(&rest[at..]).is_some_and(|(_, later)| later > sequence)
            {
                return Err(JournalError::Corrupt {
                    path: path.display().to_string(),
                    position,
                    detail: format!("entry {sequence} is unreadable, yet a later one follows"),
                }
                .into());
            }
        }
        return Ok(Scan {
            end: position,
            sequence,
            torn: position < len,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STEPS: AppendSteps = [Step::TickAppend, Step::TickWritten, Step::TickSynced];

    fn payloads(path: &Path) -> Result<Vec<Vec<u8>>, JournalError> {
        let mut seen = Vec::new();
        Journal::read_at(path, 0, &mut |payload| {
            seen.push(payload.to_vec());
            Ok::<(), JournalError>(())
        })?;
        Ok(seen)
    }

    fn open(path: &Path) -> Journal {
        Journal::open(path, STEPS, &mut |_| Ok::<(), JournalError>(())).unwrap()
    }

    #[test]
    fn cut_anywhere_it_keeps_a_prefix_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = open(&path);
        let all: Vec<Vec<u8>> = (0..6_u8).map(|at| vec![at; usize::from(at) * 11]).collect();
        let mut ends = vec![0];
        for payload in &all {
            journal.append(payload).unwrap();
            ends.push(journal.len());
        }
        drop(journal);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut as u64).count() - 1;
            assert_eq!(payloads(&path).unwrap(), all[..whole]);
            let mut journal = open(&path);
            journal.append(b"next").unwrap();
            drop(journal);
            let mut expected = all[..whole].to_vec();
            expected.push(b"next".to_vec());
            assert_eq!(payloads(&path).unwrap(), expected);
        }
    }

    #[test]
    fn damage_before_the_last_payload_is_refused_and_in_the_last_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = open(&path);
        for at in 0..4_u8 {
            journal.append(&[at; 9]).unwrap();
        }
        drop(journal);
        let bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() * 3 / 4;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            match payloads(&path) {
                Ok(seen) => assert!(at >= last && seen.len() == 3, "byte {at}"),
                Err(JournalError::Corrupt { position, .. }) => {
                    assert!(at < last);
                    assert_eq!(position as usize, at / 29 * 29);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_journal_of_many_windows_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let all: Vec<Vec<u8>> = (0..40_u8).map(|at| vec![at; 100_000 + usize::from(at)]).collect();
        Journal::replace(&path, STEPS, all.iter().map(|payload| payload.as_slice().into())).unwrap();
        assert_eq!(payloads(&path).unwrap(), all);
    }
}
