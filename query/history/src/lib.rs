//! Ad-hoc SQL over live views and stored history.
//!
//! One DataFusion catalog per query: `live.<view>` is a peek of a maintained view; `history.<stream>` and
//! `history.<view>` are the stored rows up to a flushed tick joined with the rows in memory beyond it;
//! `pyflare_internal.*` is about PyFlare itself. Unqualified names mean live first, then history. All relations of a
//! query stand at one tick, and rows of other projects are in none of them.
//!
//! The engine, the store and the internal relations are reached through the traits of [`source`]; nothing here knows
//! how they work. [`encode`] writes results as JSON, CSV and Arrow IPC; [`TraceFilter`] and the methods beside it answer
//! what a trace list asks.

mod catalog;
mod depth;
pub mod encode;
mod failure;
mod functions;
mod interrupt;
mod parameters;
mod peek;
mod relation;
mod service;
pub mod source;
mod statement;
mod traces;
mod wildcard;

pub use failure::{Kind, Position, QueryError};
pub use relation::changes_schema;
pub use service::{QueryOptions, QueryRequest, QueryResult, QueryService};
pub use source::{
    Erased, Hold, InternalRelations, LiveSource, PeekRequest, Relation, Rule, Scope, SourceError,
    StoredTables, StreamDescription, Tail, ViewDescription, signal_streams,
};
pub use traces::{TraceFilter, TracePage, TraceSummary};
