//! The catalog on one local file: all entries in memory, every change appended to a journal.
//!
//! The journal is rewritten when most of it is history. A key is at most 64 KiB long; the whole catalog is
//! meant to be small (definitions and state of monitors and alerts), so it is held in memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use pyflare_connectors::faults::Step;
use pyflare_connectors::{Catalog, CatalogError};

use crate::journal::{AppendSteps, Journal, JournalError};

/// Below this the journal is never rewritten.
const SMALLEST_REWRITE: u64 = 1 << 20;
const STEPS: AppendSteps = [Step::CatalogAppend, Step::CatalogWritten, Step::CatalogSynced];

/// See the module's head.
#[derive(Debug)]
pub struct FileCatalog {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: BTreeMap<String, Vec<u8>>,
    live_bytes: u64,
    journal: Journal,
}

struct CatalogJournalError(CatalogError);

impl From<JournalError> for CatalogJournalError {
    fn from(error: JournalError) -> Self {
        CatalogJournalError(match error {
            JournalError::Io { path, source } => CatalogError::Io {
                path,
                detail: source.to_string(),
            },
            JournalError::Corrupt {
                path,
                position,
                detail,
            } => CatalogError::Corrupt {
                key: path,
                detail: format!("at byte {position}: {detail}"),
            },
        })
    }
}

/// A change on disk: 1 (put) or 0 (delete), the key's length, the key, the value.
fn encode(key: &str, value: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + key.len() + value.map_or(0, <[u8]>::len));
    bytes.push(u8::from(value.is_some()));
    bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(value.unwrap_or_default());
    bytes
}

fn decode(payload: &[u8]) -> Option<(&str, Option<&[u8]>)> {
    let (head, rest) = payload.split_first_chunk::<5>()?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let key = std::str::from_utf8(rest.get(..length)?).ok()?;
    match head[0] {
        0 => Some((key, None)),
        1 => Some((key, Some(&rest[length..]))),
        _ => None,
    }
}

impl FileCatalog {
    /// Opens or creates the catalog in `directory` and reads it.
    pub fn open(directory: impl AsRef<Path>) -> Result<Arc<FileCatalog>, CatalogError> {
        let directory = directory.as_ref();
        fs::create_dir_all(directory).map_err(|error| CatalogError::Io {
            path: directory.display().to_string(),
            detail: error.to_string(),
        })?;
        let path = directory.join("catalog.journal");
        let mut entries: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let journal = Journal::open(&path, STEPS, &mut |payload| {
            let Some((key, value)) = decode(payload) else {
                return Err(CatalogJournalError(CatalogError::Corrupt {
                    key: path.display().to_string(),
                    detail: "a change has a form that this version does not know".to_string(),
                }));
            };
            match value {
                Some(value) => entries.insert(key.to_string(), value.to_vec()),
                None => entries.remove(key),
            };
            Ok(())
        });
        let journal = journal.map_err(|error| error.0)?;
        let live_bytes = entries.iter().map(|(key, value)| entry_bytes(key, value)).sum();
        Ok(Arc::new(FileCatalog {
            path,
            inner: Mutex::new(Inner {
                entries,
                live_bytes,
                journal,
            }),
        }))
    }

    fn change(&self, inner: &mut Inner, key: &str, value: Option<&[u8]>) -> Result<(), CatalogError> {
        inner
            .journal
            .append(&encode(key, value))
            .map_err(|error| CatalogJournalError::from(error).0)?;
        let old = match value {
            Some(value) => {
                inner.live_bytes += entry_bytes(key, value);
                inner.entries.insert(key.to_string(), value.to_vec())
            }
            None => inner.entries.remove(key),
        };
        if let Some(old) = old {
            inner.live_bytes -= entry_bytes(key, &old);
        }
        if inner.journal.len() > SMALLEST_REWRITE.max(inner.live_bytes * 4) {
            let all = inner
                .entries
                .iter()
                .map(|(key, value)| Cow::Owned(encode(key, Some(value))));
            match Journal::replace(&self.path, STEPS, all) {
                Ok(journal) => inner.journal = journal,
                // The change itself is durable; the next one tries again.
                Err(error) => tracing::warn!(%error, "could not rewrite the catalog"),
            }
        }
        Ok(())
    }
}

fn entry_bytes(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len() + 25) as u64
}

impl Catalog for FileCatalog {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(self.inner.lock().entries.get(key).cloned())
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), CatalogError> {
        let mut inner = self.inner.lock();
        self.change(&mut inner, key, Some(value))
    }

    fn put_if_absent(&self, key: &str, value: &[u8]) -> Result<bool, CatalogError> {
        let mut inner = self.inner.lock();
        if inner.entries.contains_key(key) {
            return Ok(false);
        }
        self.change(&mut inner, key, Some(value)).map(|()| true)
    }

    fn delete(&self, key: &str) -> Result<(), CatalogError> {
        let mut inner = self.inner.lock();
        if !inner.entries.contains_key(key) {
            return Ok(());
        }
        self.change(&mut inner, key, None)
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, CatalogError> {
        let inner = self.inner.lock();
        let from = inner.entries.range(prefix.to_string()..);
        let matching = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(matching
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn conforms() {
        let directory = tempfile::tempdir().unwrap();
        let open = || -> Arc<dyn Catalog> { FileCatalog::open(directory.path()).unwrap() };
        pyflare_connectors::conformance::catalog(&open);
    }

    #[test]
    fn history_is_dropped_and_the_entries_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = FileCatalog::open(directory.path()).unwrap();
        for round in 0..200_u32 {
            catalog.put("alert", &vec![round as u8; 50_000]).unwrap();
            catalog
                .put(&format!("key-{:02}", round % 20), &round.to_le_bytes())
                .unwrap();
        }
        let bytes = fs::metadata(directory.path().join("catalog.journal"))
            .unwrap()
            .len();
        assert!(bytes <= SMALLEST_REWRITE + 100_000, "{bytes} bytes");
        let before = catalog.list("").unwrap();
        drop(catalog);
        assert_eq!(
            FileCatalog::open(directory.path()).unwrap().list("").unwrap(),
            before
        );
        assert_eq!(before.len(), 21);
    }

    #[test]
    fn damage_is_refused_with_a_code() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = FileCatalog::open(directory.path()).unwrap();
        catalog.put("a", b"1").unwrap();
        catalog.put("b", b"2").unwrap();
        drop(catalog);
        let path = directory.path().join("catalog.journal");
        let mut bytes = fs::read(&path).unwrap();
        bytes[22] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = FileCatalog::open(directory.path()).unwrap_err();
        assert!(error.to_string().starts_with("PF-2202"), "{error}");
    }
}
