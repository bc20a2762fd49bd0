//! Tick log and catalog in memory: for tests, and for servers that need not remember.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Catalog, CatalogError, TickLog, TickLogError, VisitPayload};

/// A tick log that lives as long as its last clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryTickLog {
    inner: Arc<Mutex<Ticks>>,
}

#[derive(Debug, Default)]
struct Ticks {
    generation: u64,
    /// The position of the first payload.
    first: u64,
    payloads: VecDeque<Vec<u8>>,
}

impl Ticks {
    fn check(&self, own: u64) -> Result<(), TickLogError> {
        match self.generation == own {
            true => Ok(()),
            false => Err(TickLogError::Fenced {
                own,
                newer: self.generation,
            }),
        }
    }
}

impl TickLog for MemoryTickLog {
    fn open_generation(&self) -> Result<u64, TickLogError> {
        let mut inner = self.inner.lock();
        inner.generation += 1;
        Ok(inner.generation)
    }

    fn append(&self, generation: u64, payload: &[u8]) -> Result<u64, TickLogError> {
        let mut inner = self.inner.lock();
        inner.check(generation)?;
        inner.payloads.push_back(payload.to_vec());
        Ok(inner.first + inner.payloads.len() as u64 - 1)
    }

    fn read(&self, visit: &mut VisitPayload<'_>) -> Result<(), TickLogError> {
        // A visitor may append; it sees what was there when it came.
        let (first, payloads) = {
            let inner = self.inner.lock();
            (inner.first, inner.payloads.clone())
        };
        let mut positions = first..;
        payloads
            .iter()
            .try_for_each(|payload| visit(positions.next().unwrap_or(u64::MAX), payload))
    }

    fn check_generation(&self, generation: u64) -> Result<(), TickLogError> {
        self.inner.lock().check(generation)
    }

    fn trim(&self, generation: u64, before: u64) -> Result<(), TickLogError> {
        let mut inner = self.inner.lock();
        inner.check(generation)?;
        while inner.first < before && inner.payloads.pop_front().is_some() {
            inner.first += 1;
        }
        Ok(())
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
