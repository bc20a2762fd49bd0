//! The tick log on local files, fenced by a generation number.
//!
//! ```text
//! ticks/GENERATION           the newest generation, as text
//! ticks/FENCE                locked while a generation begins or a payload is appended
//! ticks/ticks.journal        the first payloads
//! ticks/ticks-NNNN.journal   those from the position NNNN on
//! ```
//! A file is begun when the last one is large; trimming deletes the files of which nothing is needed.
//!
//! Every append looks at `GENERATION` under the lock: a process that was taken over cannot write another tick,
//! even if it still runs.
//!
//! A full disk is waited out: time stands still until the payload can be written, since an engine without a tick
//! log would have to stop. [`TickLog::give_up`] ends the wait.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyflare_connectors::faults::{self, Step};
use pyflare_connectors::{TickLog, TickLogError, VisitPayload};
use rustix::fs::{FlockOperation, flock};

use crate::journal::{AppendSteps, Journal, JournalError};

/// See the module's head.
#[derive(Debug)]
pub struct FileTickLog {
    directory: PathBuf,
    fence: File,
    writer: Mutex<Option<Journal>>,
    /// A file is not continued beyond so many bytes.
    segment_bytes: u64,
    waiting: AtomicBool,
    given_up: AtomicBool,
}

/// The bytes of a file after which the next one is begun.
const SEGMENT_BYTES: u64 = 4 << 20;
const STEPS: AppendSteps = [Step::TickAppend, Step::TickWritten, Step::TickSynced];
/// How long to wait before a full disk is tried again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(250);
/// How long a start waits for a process that is in the middle of an append. One that was stopped there never ends it.
const TAKE_OVER_WAIT: Duration = Duration::from_secs(10);
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(50);

struct TickJournalError(TickLogError);

impl From<JournalError> for TickJournalError {
    fn from(error: JournalError) -> Self {
        TickJournalError(match error {
            JournalError::Io { path, source } if is_full(&source) => TickLogError::DiskFull { path },
            JournalError::Io { path, source } => TickLogError::Io {
                path,
                detail: source.to_string(),
            },
            JournalError::Corrupt {
                path,
                position,
                detail,
            } => TickLogError::Corrupt {
                path,
                position,
                detail,
            },
        })
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn io_error(path: &Path, error: std::io::Error) -> TickLogError {
    let path = path.display().to_string();
    match is_full(&error) {
        true => TickLogError::DiskFull { path },
        false => TickLogError::Io {
            path,
            detail: error.to_string(),
        },
    }
}

impl FileTickLog {
    /// Opens or creates the tick log in `directory`. Nothing is cut or taken over until a generation begins.
    pub fn open(directory: impl AsRef<Path>) -> Result<Arc<FileTickLog>, TickLogError> {
        FileTickLog::with_segments(directory, SEGMENT_BYTES)
    }

    fn with_segments(
        directory: impl AsRef<Path>,
        segment_bytes: u64,
    ) -> Result<Arc<FileTickLog>, TickLogError> {
        let directory = directory.as_ref().to_path_buf();
        fs::create_dir_all(&directory).map_err(|error| io_error(&directory, error))?;
        let path = directory.join("FENCE");
        let fence = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let fence = fence.map_err(|error| io_error(&path, error))?;
        Ok(Arc::new(FileTickLog {
            directory,
            fence,
            writer: Mutex::new(None),
            segment_bytes,
            waiting: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
        }))
    }

    fn append_once(&self, generation: u64, payload: &[u8]) -> Result<u64, TickLogError> {
        let mut writer = self.writer.lock();
        self.fenced(|| {
            let newest = self.newest_generation()?;
            let Some(journal) = writer.as_mut().filter(|_| newest == generation) else {
                return Err(TickLogError::Fenced {
                    own: generation,
                    newer: newest,
                });
            };
            if journal.len() >= self.segment_bytes {
                let next = journal.next();
                *journal = self.open_journal(next)?;
            }
            let position = journal.next();
            journal
                .append(payload)
                .map_err(|error| TickJournalError::from(error).0)?;
            Ok(position)
        })
    }

    /// The file whose first payload stands at `first`.
    fn journal_path(&self, first: u64) -> PathBuf {
        match first {
            0 => self.directory.join("ticks.journal"),
            first => self.directory.join(format!("ticks-{first:020}.journal")),
        }
    }

    fn open_journal(&self, first: u64) -> Result<Journal, TickLogError> {
        let path = self.journal_path(first);
        let journal = Journal::open_at(&path, first, STEPS, &mut |_| Ok::<(), TickJournalError>(()));
        journal.map_err(|error| error.0)
    }

    /// The first positions of the files there are, in order.
    fn segments(&self) -> Result<Vec<u64>, TickLogError> {
        let failed = |error| io_error(&self.directory, error);
        let mut firsts = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".journal")) else {
                continue;
            };
            let first = match name.strip_prefix("ticks-") {
                Some(number) => number.parse().ok(),
                None => (name == "ticks").then_some(0),
            };
            firsts.extend(first);
        }
        firsts.sort_unstable();
        Ok(firsts)
    }

    /// Hands over every payload of all files; they must follow on.
    fn visit_all(&self, visit: &mut VisitPayload<'_>) -> Result<(), TickLogError> {
        let firsts = self.segments()?;
        for (number, first) in firsts.iter().enumerate() {
            let path = self.journal_path(*first);
            let mut position = *first;
            let mut relay = |payload: &[u8]| {
                let outcome = visit(position, payload).map_err(TickJournalError);
                position += 1;
                outcome
            };
            let (next, torn) = Journal::read_at(&path, *first, &mut relay).map_err(|error| error.0)?;
            if let Some(following) = firsts.get(number + 1)
                && (torn || next != *following)
            {
                return Err(TickLogError::Corrupt {
                    path: path.display().to_string(),
                    position: fs::metadata(&path).map_or(0, |file| file.len()),
                    detail: format!("it ends before entry {next}, and the next file begins with {following}"),
                });
            }
        }
        Ok(())
    }

    /// Runs `action` while no other process appends or takes over.
    fn fenced<T>(&self, action: impl FnOnce() -> Result<T, TickLogError>) -> Result<T, TickLogError> {
        let locked = flock(&self.fence, FlockOperation::LockExclusive);
        locked.map_err(|error| io_error(&self.directory, error.into()))?;
        self.unfenced_after(action)
    }

    /// [`FileTickLog::fenced`], if who is in there ends within [`TAKE_OVER_WAIT`].
    fn fenced_in_time<T>(&self, action: impl FnOnce() -> Result<T, TickLogError>) -> Result<T, TickLogError> {
        let begun = Instant::now();
        loop {
            match flock(&self.fence, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return self.unfenced_after(action),
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < TAKE_OVER_WAIT => {
                    std::thread::sleep(TAKE_OVER_PAUSE);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(TickLogError::Held {
                        path: self.directory.display().to_string(),
                    });
                }
                Err(error) => return Err(io_error(&self.directory, error.into())),
            }
        }
    }

    fn unfenced_after<T>(&self, action: impl FnOnce() -> Result<T, TickLogError>) -> Result<T, TickLogError> {
        let outcome = action();
        flock(&self.fence, FlockOperation::Unlock)
            .map_err(|error| io_error(&self.directory, error.into()))?;
        outcome
    }

    fn newest_generation(&self) -> Result<u64, TickLogError> {
        let path = self.directory.join("GENERATION");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| TickLogError::Corrupt {
                path: path.display().to_string(),
                position: 0,
                detail: format!("{text:?} is not a generation number"),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(io_error(&path, error)),
        }
    }

    fn store_generation(&self, generation: u64) -> Result<(), TickLogError> {
        let path = self.directory.join("GENERATION");
        let unfinished = self.directory.join("GENERATION.new");
        fs::write(&unfinished, format!("{generation}\n"))
            .and_then(|()| File::open(&unfinished))
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&unfinished, &path))
            .and_then(|()| File::open(&self.directory))
            .and_then(|directory| directory.sync_all())
            .map_err(|error| io_error(&path, error))
    }
}

impl TickLog for FileTickLog {
    fn open_generation(&self) -> Result<u64, TickLogError> {
        let mut writer = self.writer.lock();
        self.fenced_in_time(|| {
            let newest = self.newest_generation()?;
            let last = self.segments()?.pop();
            if newest > 0 && last.is_none() {
                return Err(TickLogError::Missing {
                    path: self.journal_path(0).display().to_string(),
                });
            }
            // The journal first: a generation without one is a journal that was lost.
            *writer = Some(self.open_journal(last.unwrap_or(0))?);
            self.store_generation(newest + 1)?;
            faults::at(Step::GenerationBegun);
            Ok(newest + 1)
        })
    }

    fn append(&self, generation: u64, payload: &[u8]) -> Result<u64, TickLogError> {
        loop {
            match self.append_once(generation, payload) {
                Err(TickLogError::DiskFull { path }) if !self.given_up.load(Ordering::Acquire) => {
                    if !self.waiting.swap(true, Ordering::AcqRel) {
                        tracing::error!(
                            %path,
                            "PF-2104: the disk is full; time stands still until some space is freed"
                        );
                    }
                    std::thread::sleep(FULL_DISK_PAUSE);
                }
                outcome => {
                    if self.waiting.swap(false, Ordering::AcqRel) && outcome.is_ok() {
                        tracing::info!("the disk has room again; time goes on");
                    }
                    return outcome;
                }
            }
        }
    }

    fn read(&self, visit: &mut VisitPayload<'_>) -> Result<(), TickLogError> {
        self.visit_all(visit)
    }

    fn check_generation(&self, generation: u64) -> Result<(), TickLogError> {
        match self.newest_generation()? {
            newest if newest == generation => Ok(()),
            newer => Err(TickLogError::Fenced {
                own: generation,
                newer,
            }),
        }
    }

    fn trim(&self, generation: u64, before: u64) -> Result<(), TickLogError> {
        self.fenced(|| {
            self.check_generation(generation)?;
            let firsts = self.segments()?;
            // Oldest first: what is left follows on, whenever this is interrupted.
            for files in firsts.windows(2).filter(|files| files[1] <= before) {
                let path = self.journal_path(files[0]);
                fs::remove_file(&path).map_err(|error| io_error(&path, error))?;
            }
            Ok(())
        })
    }

    fn is_new(&self) -> Result<bool, TickLogError> {
        self.newest_generation().map(|newest| newest == 0)
    }

    fn waits_for(&self) -> Option<&'static str> {
        let waits = self.waiting.load(Ordering::Acquire);
        waits.then_some("the server's disk is full; free some space")
    }

    /// A full disk is [`TickLogError::DiskFull`] then.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn conforms() {
        let directory = tempfile::tempdir().unwrap();
        let open = || -> Arc<dyn TickLog> { FileTickLog::open(directory.path()).unwrap() };
        pyflare_connectors::conformance::tick_log(&open);
    }

    #[test]
    fn conforms_in_small_files_and_deletes_them() {
        let directory = tempfile::tempdir().unwrap();
        let open = || FileTickLog::with_segments(directory.path(), 500).unwrap();
        pyflare_connectors::conformance::tick_log(&|| -> Arc<dyn TickLog> { open() });
        let log = open();
        assert_eq!(
            log.segments().unwrap().len(),
            1,
            "everything could go save the last file"
        );
        let generation = log.open_generation().unwrap();
        let first = log.append(generation, b"x").unwrap();
        for _ in 0..200 {
            log.append(generation, &[7; 20]).unwrap();
        }
        let files = log.segments().unwrap();
        assert!(files.len() > 10 && files[0] <= first, "{files:?}");
        log.trim(generation, files[4]).unwrap();
        assert_eq!(log.segments().unwrap(), files[4..]);
        // A file that is missing, or that ends early, is told.
        let path = log.journal_path(files[6]);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let damaged = log.read(&mut |_, _| Ok(())).unwrap_err();
        assert!(matches!(damaged, TickLogError::Corrupt { .. }), "{damaged}");
        fs::remove_file(&path).unwrap();
        let damaged = log.read(&mut |_, _| Ok(())).unwrap_err();
        assert!(matches!(damaged, TickLogError::Corrupt { .. }), "{damaged}");
    }

    #[test]
    fn a_process_that_is_stopped_in_an_append_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let held = FileTickLog::open(directory.path()).unwrap();
        held.open_generation().unwrap();
        flock(&held.fence, FlockOperation::LockExclusive).unwrap();
        let next = FileTickLog::open(directory.path()).unwrap();
        let refused = next.open_generation().unwrap_err();
        assert!(refused.to_string().starts_with("PF-2106"), "{refused}");
        flock(&held.fence, FlockOperation::Unlock).unwrap();
        assert_eq!(next.open_generation().unwrap(), 2);
    }

    #[test]
    fn a_taken_over_writer_cannot_append_behind_the_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let old = FileTickLog::open(directory.path()).unwrap();
        let first = old.open_generation().unwrap();
        old.append(first, b"a").unwrap();
        let new = FileTickLog::open(directory.path()).unwrap();
        let second = new.open_generation().unwrap();
        let fenced = old.append(first, b"lost");
        assert!(
            matches!(fenced, Err(TickLogError::Fenced { own, newer }) if own == first && newer == second)
        );
        // Knowing the newer number does not help a process that did not take over.
        assert!(second > first);
        new.append(second, b"b").unwrap();
        let mut seen = Vec::new();
        new.read(&mut |_, payload| {
            seen.push(payload.to_vec());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [b"a".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn a_lost_journal_is_refused_and_nothing_is_made_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let log = FileTickLog::open(directory.path()).unwrap();
        assert!(log.is_new().unwrap());
        let generation = log.open_generation().unwrap();
        log.append(generation, b"a").unwrap();
        assert!(!log.is_new().unwrap());
        let path = directory.path().join("ticks.journal");
        fs::remove_file(&path).unwrap();
        let again = FileTickLog::open(directory.path()).unwrap();
        assert!(matches!(
            again.open_generation(),
            Err(TickLogError::Missing { .. })
        ));
        assert!(!path.exists());
    }

    #[test]
    fn a_full_disk_is_an_error_once_the_wait_is_given_up() {
        // /dev/full answers every write with ENOSPC.
        let directory = tempfile::tempdir().unwrap();
        let log = FileTickLog::open(directory.path()).unwrap();
        std::os::unix::fs::symlink("/dev/full", directory.path().join("ticks.journal")).unwrap();
        let generation = log.open_generation().unwrap();
        log.give_up();
        let refused = log.append(generation, b"a").unwrap_err();
        assert!(matches!(refused, TickLogError::DiskFull { .. }), "{refused}");
        assert_eq!(log.waits_for(), None);
    }
}
