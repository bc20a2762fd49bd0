//! Plans become operators, the same on every worker.
//!
//! What a plan reads from a stream is a *leaf* ([`leaf`]): up to its aggregate it runs vectorised on Arrow batches
//! ([`pipeline`]) and ends in a [`tap`], which folds a tick's rows into one accumulator per (pane, key) *before*
//! differential dataflow sees them. The arrangement of these accumulators ([`arrange`]) is the leaf's *base*, shared by
//! all leaves it serves; what lies above is computed from accumulators when they are read or changed ([`finish`]).
//! A plan that is more than one leaf has a [`graph`] above its leaves: joins, unions, orders, further aggregates. What
//! is left out on the way, late rows and rows in error ([`left_out`]), is kept like a view too ([`ledger`]). What
//! operators do and keep is counted ([`figures`], [`busy`]).

pub(crate) mod arrange;
pub(crate) mod busy;
pub(crate) mod cells;
mod chain;
pub(crate) mod changed;
mod dump;
pub(crate) mod figures;
pub(crate) mod finish;
pub(crate) mod graph;
pub(crate) mod key;
pub(crate) mod leaf;
pub(crate) mod ledger;
pub(crate) mod left_out;
pub(crate) mod listing;
pub(crate) mod panes;
pub(crate) mod pipeline;
pub(crate) mod shared_batch;
pub(crate) mod tap;
mod unnest;
pub(crate) mod view;
pub(crate) mod walk;

pub(crate) use arrange::ArrangedView;
pub(crate) use busy::Busy;
pub(crate) use dump::Dump;
pub use figures::Figure;
pub(crate) use figures::Figures;
pub(crate) use finish::Finish;
pub(crate) use graph::budget::Budget;
pub(crate) use graph::running::{Limits, RunningGraph};
pub(crate) use leaf::{Base, Leaf};
pub use ledger::Companion;
pub(crate) use ledger::{Ledger, Page};
pub(crate) use shared_batch::SharedBatch;
pub(crate) use tap::{Admitted, Tap, Waiting, WaitingGroups};
pub(crate) use view::RenderedView;
pub use view::check;
