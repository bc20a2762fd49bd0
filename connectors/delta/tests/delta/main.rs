//! Delta Lake as a store: its contract, what is read back and by whom, crashes.
#![allow(clippy::unwrap_used)]

mod conformance;
mod content;
mod crash;
mod other_readers;
