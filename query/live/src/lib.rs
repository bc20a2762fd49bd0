//! WebSocket subscriptions to live views: `/api/v1/live`.
//!
//! A client subscribes to views (or to a free query, which becomes a monitor for as long as the subscription
//! lives) and receives frames: the net change of the ticks `lower ≤ t < upper`. The frames of one subscription
//! follow on without gap or overlap; `reset` means that this frame is all there is. Nothing a client sends can
//! do more than end its own socket, and nothing it fails to read can grow: every queue on the way is bounded,
//! and the engine replaces what a slow reader missed by a reset.
//!
//! The engine is reached through the traits [`Views`] and [`Subscription`] alone, so this crate compiles and is
//! tested without it (`memory` is the small engine of the tests).

mod access;
mod failure;
mod frames;
// Always compiled: a feature only for tests would make them build half of the workspace a second time.
#[doc(hidden)]
pub mod memory;
mod protocol;
mod service;
mod socket;
mod subscription;
mod views;

pub use access::{Access, Authorize, Scope};
pub use failure::{Failure, FailureKind, Position};
pub use protocol::{ColumnInfo, column_infos};
pub use service::{Live, LiveCounters, LiveError, LiveLimits, upgrade};
pub use views::{Event, Frame, SubscribeOptions, Subscription, View, ViewName, Views};
