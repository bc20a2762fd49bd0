//! The monitor language, checked from outside: one test binary, because each one links all of DataFusion.
#![allow(clippy::unwrap_used)]

mod batch;
mod front_door;
mod language;
mod nearness;
mod now;
mod reference;
mod refusals;
mod slt;
mod streams;
