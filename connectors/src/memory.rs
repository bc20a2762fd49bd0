//! Tick log and catalog in memory: for tests, and for servers that need not remember.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Catalog, CatalogError, TickLog, TickLogError};

/// A tick log that lives as long as its last clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryTickLog {
    inner: Arc<Mutex<Ticks>>,
}

#[derive(Debug, Default)]
struct Ticks {
    generation: u64,
    payloads: Vec<Vec<u8>>,
}

impl TickLog for MemoryTickLog {
    fn open_generation(&self) -> Result<u64, TickLogError> {
        let mut inner = self.inner.lock();
        inner.generation += 1;
        Ok(inner.generation)
    }

    fn append(&self, generation: u64, payload: &[u8]) -> Result<(), TickLogError> {
        let mut inner = self.inner.lock();
        if inner.generation != generation {
            return Err(TickLogError::Fenced {
                own: generation,
                newer: inner.generation,
            });
        }
        inner.payloads.push(payload.to_vec());
        Ok(())
    }

    fn read(&self, visit: &mut dyn FnMut(&[u8]) -> Result<(), TickLogError>) -> Result<(), TickLogError> {
        // A visitor may append; it sees what was there when it came.
        let payloads = self.inner.lock().payloads.clone();
        payloads.iter().try_for_each(|payload| visit(payload))
    }
}

/// A catalog that lives as long as its last clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryCatalog {
    entries: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Catalog for MemoryCatalog {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(self.entries.lock().get(key).cloned())
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), CatalogError> {
        self.entries.lock().insert(key.to_string(), value.to_vec());
        Ok(())
    }

    fn put_if_absent(&self, key: &str, value: &[u8]) -> Result<bool, CatalogError> {
        let mut entries = self.entries.lock();
        if entries.contains_key(key) {
            return Ok(false);
        }
        entries.insert(key.to_string(), value.to_vec());
        Ok(true)
    }

    fn delete(&self, key: &str) -> Result<(), CatalogError> {
        self.entries.lock().remove(key);
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, CatalogError> {
        let entries = self.entries.lock();
        let matching = entries
            .range(prefix.to_string()..)
            .take_while(|(key, _)| key.starts_with(prefix));
        Ok(matching
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_log_conforms() {
        let log = MemoryTickLog::default();
        crate::conformance::tick_log(&|| -> Arc<dyn TickLog> { Arc::new(log.clone()) });
    }

    #[test]
    fn the_catalog_conforms() {
        let catalog = MemoryCatalog::default();
        crate::conformance::catalog(&|| -> Arc<dyn Catalog> { Arc::new(catalog.clone()) });
    }
}
