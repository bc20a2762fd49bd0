//! Checkpoints: the state at a tick, written beside the running dataflow, and the start from one.
//!
//! A checkpoint at tick F has every update at or before F and none after it. It is made of what cannot be computed
//! again: the groups of bases, what waits there for its moment, the entries of companions, the marks and offsets, the
//! hashes of admitted requests, and what is installed. Graphs and results are computed from that.
//!
//! - `taking`: when one begins, and what the coordinator says of it; `dumping`: what a worker hands over, in slices;
//!   `writing`: the thread that writes and cleans;
//! - `manifest`, `state_file`: what lies in the store;
//! - `decision`: where a start begins, as a pure function; `restoring`: how.

mod decision;
mod dumping;
mod manifest;
mod restoring;
mod state_file;
mod taking;
mod writing;

pub(super) use decision::TicksFound;
pub(super) use dumping::Dumping;
#[cfg(test)]
pub(super) use dumping::FromDump;
pub use manifest::is_checkpoint_manifest;
pub(super) use manifest::{Manifest, StreamEntry, ViewEntry};
pub(super) use restoring::inspect;
pub use taking::CheckpointStatus;
pub(super) use taking::{Answer, CheckpointState, Checkpoints, Run, ViewCounts, digest};
#[cfg(test)]
pub(super) use writing::Job;
pub(super) use writing::Writer;
