//! Aggregates as elements of abelian groups.
//!
//! An [`Accumulator`] holds what a group's rows add up to: the number of rows and one [`Cell`] per aggregate.
//! Accumulators can be added and negated, and every law of an abelian group holds *bit for bit*: whatever the
//! order in which rows arrive, however they are split over batches and workers and whatever is retracted, the
//! same rows give equal accumulators. So they serve as differences in an incremental computation, and the
//! result is the one of a batch over the rows that remain.
//!
//! - [`wide`](self): integers of fixed width, and the one place that rounds;
//! - [`IntegerSum`], [`DecimalSum`], [`FloatSum`]: exact sums;
//! - [`Moments`], [`Comoments`]: variances, covariances and regressions;
//! - [`Histogram`]: quantiles by logarithmic buckets;
//! - [`Extremes`]: minimum and maximum, from a sorted multiset;
//! - [`Combiner`]: folds Arrow batches into accumulators by key, column by column;
//! - [`Reading`]: turns the accumulators of many groups into an Arrow column.
//!
//! Left to others: evaluating inputs and keys (which arrive with −0.0 and NaN normalised), and what becomes of
//! rows and groups in error.

mod accumulator;
mod buckets;
mod columns;
mod combiner;
mod error;
mod extremes;
mod group_table;
mod histogram;
mod moments;
mod multiset;
mod pending;
mod reading;
mod sums;
mod wide;

pub use accumulator::{Accumulator, Cell, CellKind};
pub use buckets::{Bucket, bucket, representative};
pub use combiner::Combiner;
pub use error::{AggregateError, GroupError, Misfit, RowError};
pub use extremes::Extremes;
pub use group_table::{Keys, Numbering};
pub use histogram::Histogram;
pub use moments::{Comoments, Moments, Relationship, Spread};
pub use multiset::Multiset;
pub use reading::{Reading, read, row_counts};
pub use sums::{DecimalSum, FloatSum, IntegerSum, summable};
