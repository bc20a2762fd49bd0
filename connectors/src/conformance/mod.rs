//! Conformance suites: one per trait, called by every implementation's tests.
//!
//! A suite takes a function that opens the implementation on the same place again and again, so that it also
//! says what must survive a restart. It panics, with the rule that was broken, where the contract is not kept.

mod catalog;
mod checkpoints;
mod conversations;
mod log;
pub mod queries;
pub mod removal;
pub mod store;
mod tick_log;

pub use catalog::catalog;
pub use checkpoints::checkpoints;
pub use log::{Place, log, log_in, record, written_records};
pub use tick_log::tick_log;
