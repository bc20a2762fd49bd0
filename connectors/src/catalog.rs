//! The catalog: small durable key-value state (monitor definitions, lineage, alert state).

#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    #[error("PF-2201: catalog input/output failed on {path}: {detail}")]
    Io { path: String, detail: String },
    #[error(
        "PF-2202: the catalog entry {key:?} is damaged: {detail}; nothing was changed, restore the data directory from a backup or start with another one"
    )]
    Corrupt { key: String, detail: String },
}

/// A durable ordered map from text keys to bytes. Writes are atomic and durable when they return.
pub trait Catalog: Send + Sync + 'static {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError>;
    fn put(&self, key: &str, value: &[u8]) -> Result<(), CatalogError>;
    /// Writes only if the key is absent; false if it was there.
    fn put_if_absent(&self, key: &str, value: &[u8]) -> Result<bool, CatalogError>;
    fn delete(&self, key: &str) -> Result<(), CatalogError>;
    /// All pairs whose key starts with `prefix`, in key order.
    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, CatalogError>;
}
