//! The embedded durable log, tick log and catalog on local files.
//!
//! - [`EmbeddedLog`]: requests as they arrived, in preallocated segment files, group-committed (`log/`).
//! - [`FileTickLog`]: the order of everything, one small durable record a tick (`ticks/`).
//! - [`FileCatalog`]: small named values (`catalog/`).
//! - [`FileCheckpoints`]: the state of views at some ticks (`checkpoints/`).
//! - [`DataDirectory`]: the folder that holds them, with its format version and its lock.
//!
//! Invariant of all of them: what was acknowledged survives `kill -9` and power loss; a torn tail is cut
//! silently because nobody was told it was there; damage anywhere else is refused, naming file and byte.

mod block_buffer;
mod budget;
mod catalog;
mod checkpoints;
mod checksum;
mod compression;
mod directory;
mod embedded;
mod journal;
mod owner;
mod partition;
mod reader;
mod record;
mod recovery;
mod segment;
mod tail;
mod tick_log;
mod whole;
mod writer;

pub use catalog::FileCatalog;
pub use checkpoints::FileCheckpoints;
pub use directory::{DATA_FORMAT, DataDirectory, DataDirectoryError};
pub use embedded::{EmbeddedLog, LogOptions};
pub use pyflare_connectors::memory::{MemoryCatalog, MemoryTickLog};
pub use tick_log::FileTickLog;
pub use whole::{
    PartitionSegments, WholeSegment, check_partition, partitions_of, whole_journal, whole_segment,
};
