//! Which store keeps history, and that store as the engine and as queries see it.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use pyflare_clickhouse::{Address, ClickHouseStore, PushDown};
use pyflare_connectors::{Store, StoreError};
use pyflare_delta::DeltaStore;
use pyflare_history::Rule;

/// What `store.url` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// Tables in the data directory.
    Delta,
    ClickHouse(Address),
    /// No history.
    None,
}

impl StoreChoice {
    /// `directory` is where tables lie that are kept in the data directory.
    pub async fn open(&self, directory: PathBuf) -> Result<Option<HistoryStore>, StoreError> {
        Ok(match self {
            StoreChoice::Delta => Some(HistoryStore::Delta(DeltaStore::open(directory)?)),
            StoreChoice::ClickHouse(address) => Some(HistoryStore::ClickHouse(
                ClickHouseStore::open(address.clone()).await?,
            )),
            StoreChoice::None => None,
        })
    }
}

/// A store that is open.
#[derive(Debug, Clone)]
pub enum HistoryStore {
    Delta(Arc<DeltaStore>),
    ClickHouse(Arc<ClickHouseStore>),
}

impl HistoryStore {
    /// As the engine writes to it.
    pub fn as_store(&self) -> Arc<dyn Store> {
        match self {
            HistoryStore::Delta(store) => Arc::clone(store) as Arc<dyn Store>,
            HistoryStore::ClickHouse(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// A table as it is now, to read with DataFusion.
    pub async fn provider(&self, table: &str) -> Result<Option<Arc<dyn TableProvider>>, StoreError> {
        match self {
            HistoryStore::Delta(store) => store.provider(table).await,
            HistoryStore::ClickHouse(store) => store.provider(table).await,
        }
    }

    /// How queries make use of it.
    pub fn rules(&self) -> Vec<Rule> {
        match self {
            HistoryStore::Delta(_) => Vec::new(),
            HistoryStore::ClickHouse(_) => vec![Arc::new(PushDown)],
        }
    }
}
