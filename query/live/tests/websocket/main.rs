//! `/api/v1/live` over a real socket, against the small engine in memory.
#![allow(clippy::unwrap_used)]

mod client;
mod frames;
mod limits;
mod lives;
mod messages;
