//! The edge of the world, as traits: what the engine asks of a log, a tick log, a catalog, a store and a place for
//! checkpoints.
//!
//! One crate per outside system implements them (`connectors/log` on local files, `connectors/delta` on Delta
//! Lake, …). A trait with two implementations has one conformance suite, in [`conformance`], that both pass.
//! [`faults`] are the places at which tests kill a process. Nothing here knows what a span means.

pub mod catalog;
pub mod checkpoints;
pub mod conformance;
pub mod faults;
pub mod feed;
pub mod log;
pub mod memory;
pub mod outputs;
pub mod physical;
pub mod store;
pub mod tick_log;

pub use catalog::{Catalog, CatalogError};
pub use checkpoints::{CheckpointError, CheckpointStore};
pub use feed::{Feed, FeedOptions, FeedStart};
pub use log::{Appended, ContentType, Log, LogError, LogRecord, Signal, body_hash};
pub use outputs::{OutputBlock, Outputs};
pub use store::{Part, Removal, RowRange, Store, StoreError, TableDefinition};
pub use tick_log::{TickLog, TickLogError, VisitPayload};
