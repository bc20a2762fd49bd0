//! The running engine: who decides, who works, who tells.
//!
//! - [`engine`](Engine): the handle everybody uses, and how the parts are stopped; `start`: how they are started,
//!   from `options`; `reading`: views and streams at a tick, subscriptions; `status`: how the parts are doing;
//! - `coordinator`: cuts the log into ticks; `halves`: what the workers do of each; `admission`: what a tick takes, each body once, from which `topics`;
//!   `admission_logged`: what logged ones took;
//!   `deduplication`: the bodies of the last hour; `gaps`: what was passed over; `read_ahead`: the log read beside the work; `tick_record`: what a tick says, durable before anything is emitted;
//! - `checkpoint`: the state at a tick, and the start from it; `replay`: that start, and the ticks after it;
//! - `decoding`: bodies into batches; `worker`: decodes, emits, reads between ticks; `worker_views`, `worker_base`: the views
//!   and bases on it; `worker_reading`: what peeks read of them, a slice at a time; `worker_stops`: how views end there; `activity`:
//!   which of them a tick touches; `stepping`: waiting for timely; `messages`, `worker_link`: how the parts talk;
//! - `installing`: what may be installed and dropped; `backfill`: views that begin in the past; `starting`,
//!   `worker_starting`: views that start over much, in slices; `limits`: which monitors are stopped; `introspection`: what all
//!   this keeps and costs;
//! - `erasure`: rows that are taken back; `erasing`: how that is done, `worker_erasing` on a worker; `rewriting`: what stores keep
//!   of ended panes; `sums`: what rows of the past add up to;
//! - `streams`: what users declared; `stream_commands`: declaring and dropping them;
//! - `hub`: subscriptions; `tail` and `flush`: history beyond the store and the way into it;
//! - `verifying`: whether a start could begin; `holds`: what readers keep from being compacted; `views`: what is installed; `consolidate`: net changes.

mod activity;
mod admission;
mod admission_logged;
mod backfill;
mod checkpoint;
mod consolidate;
mod coordinator;
mod decoding;
mod deduplication;
mod engine;
mod erasing;
mod erasure;
mod error;
mod flush;
mod gaps;
mod halves;
mod holds;
mod hub;
mod installing;
mod introspection;
mod limits;
mod messages;
mod options;
mod read_ahead;
mod reading;
mod replay;
mod rewriting;
#[cfg(test)]
mod simulation;
mod start;
mod starting;
mod status;
mod stepping;
mod stream_commands;
mod streams;
mod sums;
mod tail;
mod tick_record;
mod topics;
mod verifying;
mod views;
mod worker;
mod worker_base;
mod worker_erasing;
mod worker_horizon;
mod worker_link;
mod worker_reading;
mod worker_starting;
mod worker_stops;
mod worker_views;

pub use backfill::BackfillProgress;
pub use checkpoint::{CheckpointStatus, is_checkpoint_manifest};
pub use engine::Engine;
pub use erasure::{ErasureBy, ErasureStage, ErasureStatus, ErasureSubject};
pub use error::EngineError;
pub use gaps::GapFigures;
pub use holds::ReadHold;
pub use hub::{Event, Frame, Refusal};
pub use introspection::{ArrangementFigures, MonitorFigures, OperatorFigures, StreamFigures};
pub use limits::MonitorLimits;
pub use options::EngineOptions;
pub use reading::{PeekResult, SubscribeOptions, Subscription, Wanted};
pub use start::lineage;
pub use status::{Busy, EngineStatus};
pub use streams::{Rejection, StreamDescription};
pub use tail::Tail;
pub use verifying::{Verification, verify};
pub use views::{ViewDescription, ViewName};
