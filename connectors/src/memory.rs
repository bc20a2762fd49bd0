//! Log, tick log and catalog in memory: for tests and measurements, and for servers that need not remember.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::log::AppendListener;
use crate::{
    Appended, Catalog, CatalogError, Log, LogError, LogRecord, Signal, TickLog, TickLogError, VisitPayload,
};

/// Partitions of each topic of a [`MemoryLog`].
const PARTITIONS: u32 = 4;

/// A log that lives as long as its last clone; what is read shares its bytes with what was appended.
#[derive(Clone, Default)]
pub struct MemoryLog {
    partitions: Arc<Mutex<HashMap<(Signal, u32), Records>>>,
    listeners: Arc<Mutex<Vec<AppendListener>>>,
}

#[derive(Default)]
struct Records {
    /// The offset of the first record that is kept.
    first: u64,
    kept: VecDeque<LogRecord>,
}

impl Records {
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }
}

#[async_trait]
impl Log for MemoryLog {
    fn partitions(&self, _signal: Signal) -> u32 {
        PARTITIONS
    }

    async fn append(&self, record: LogRecord) -> Result<Appended, LogError> {
        let signal = record.signal;
        let partition = (record.body_hash % u128::from(PARTITIONS)) as u32;
        let offset = {
            let mut partitions = self.partitions.lock();
            let records = partitions.entry((signal, partition)).or_default();
            records.kept.push_back(record);
            records.end() - 1
        };
        let listeners = self.listeners.lock().clone();
        listeners.iter().for_each(|tell| tell());
        Ok(Appended { partition, offset })
    }

    fn end_offset(&self, signal: Signal, partition: u32) -> u64 {
        let partitions = self.partitions.lock();
        partitions.get(&(signal, partition)).map_or(0, Records::end)
    }

    fn read(
        &self,
        signal: Signal,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        if partition >= PARTITIONS {
            return Err(LogError::Topic {
                topic: signal.topic().into(),
                detail: format!("it has {PARTITIONS} partitions, and {partition} is not among them"),
            });
        }
        let partitions = self.partitions.lock();
        let Some(records) = partitions.get(&(signal, partition)) else {
            return Ok(Vec::new());
        };
        let Some(passed) = offset.checked_sub(records.first) else {
            return Err(LogError::Trimmed {
                topic: signal.topic().into(),
                partition,
                offset,
                first: records.first,
            });
        };
        let mut bytes = 0;
        let following = (offset..).zip(records.kept.iter().skip(passed as usize));
        let fitting = following.take_while(|(at, record)| {
            bytes += record.body.len();
            *at == offset || bytes <= max_bytes
        });
        Ok(fitting.map(|(at, record)| (at, record.clone())).collect())
    }

    fn on_append(&self, listener: AppendListener) {
        self.listeners.lock().push(listener);
    }

    fn usage(&self) -> Option<(u64, u64)> {
        let partitions = self.partitions.lock();
        let kept = partitions.values().flat_map(|records| &records.kept);
        Some((kept.map(|record| record.body.len() as u64).sum(), u64::MAX))
    }

    fn trim(&self, signal: Signal, partition: u32, offset: u64) -> Result<(), LogError> {
        if let Some(records) = self.partitions.lock().get_mut(&(signal, partition)) {
            while records.first < offset && records.kept.pop_front().is_some() {
                records.first += 1;
            }
        }
        Ok(())
    }
}

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

    fn is_new(&self) -> Result<bool, TickLogError> {
        Ok(self.inner.lock().generation == 0)
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

    #[tokio::test]
    async fn the_log_conforms() {
        let kept = MemoryLog::default();
        let open = || -> Arc<dyn Log> { Arc::new(kept.clone()) };
        crate::conformance::log(&open).await;
    }

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
