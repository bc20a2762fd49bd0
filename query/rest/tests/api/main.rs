//! Every route and every refusal of the API: one test binary, because each one links all of DataFusion.
#![allow(clippy::unwrap_used)]

mod doors;
mod health;
mod monitors;
mod refusals;
mod server;
mod sql;
mod traces;
mod views;
