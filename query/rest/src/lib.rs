//! The REST API, its OpenAPI document, the metrics page and the embedded UI, on one address.
//!
//! - `state`: what the binary gives us: the engine behind the trait [`Engine`], the query service, the live service;
//! - `router`: every route once, with the document generated from the handlers;
//! - `guard`: who may ask, what is counted, which headers every answer carries;
//! - `health`, `views`, `monitors`, `streams`, `erasures`, `sql`, `traces`, `fields`, `live`: the handlers;
//! - `answer`: a query's result as JSON, CSV or Arrow; `problem`: every refusal; `extract`: requests, read strictly;
//! - `metrics`: Prometheus text; `ui`: the embedded pages; `recovering`: what is answered before
//!   the engine is there.
//!
//! Invariants: every refusal under `/api` is `application/problem+json` with a stable code; nothing of another project
//! is in any answer; no request, however large or strange, takes more memory than the limits say.

mod answer;
mod erasures;
mod extract;
mod fields;
mod guard;
mod health;
mod live;
mod metrics;
mod monitors;
mod paging;
mod problem;
mod recovering;
mod router;
mod sql;
mod state;
mod streams;
mod traces;
mod ui;
mod views;

pub use erasures::{Erasure, ErasureBy, ErasureStage, Erasures};
pub use metrics::{Family, MetricKind, MetricsSource, Sample};
pub use problem::Problem;
pub use recovering::recovering_router;
pub use router::{openapi, router};
pub use state::{
    Api, ApiLimits, Created, Engine, Explanation, NodeFigures, PlanNode, Readiness, ReceiverAddresses,
    Statement, Status,
};
pub use streams::{Appended, RejectedRow, RowFormat, Stream, StreamColumn, Streams};
