//! The streaming engine: everything that touches timely and differential dataflow, and nothing else does.
//!
//! - [`plan`]: what a monitor computes, as our own serializable plan and expressions;
//! - [`time`]: ticks, marks, panes and expiry, as pure functions;
//! - `render`: plans become operators, the same on all workers;
//! - [`runtime`]: the coordinator (tick gate), the worker loop, hubs, peeks, the history tail.
//!
//! Invariants: a tick record is durable before anything of its tick is emitted; a view's content at a tick is a
//! pure function of the tick log and the log; a frame is sent only when all workers have passed its upper tick.

pub mod plan;
pub mod runtime;
pub mod time;

mod render;

pub use plan::{
    Aggregate, AggregateFunction, Expr, MonitorDefinition, MonitorOptions, NamedExpr, Plan, PlanError,
};
pub use render::{Companion, Figure, check};
pub use runtime::{
    ArrangementFigures, BackfillProgress, Busy, CheckpointStatus, Engine, EngineError, EngineOptions,
    EngineStatus, ErasureBy, ErasureStage, ErasureStatus, ErasureSubject, Event, Frame, GapFigures,
    MonitorFigures, MonitorLimits, OperatorFigures, PeekResult, ReadHold, Refusal, Rejection,
    StreamDescription, StreamFigures, SubscribeOptions, Subscription, Tail, Verification, ViewDescription,
    ViewName, Wanted, is_checkpoint_manifest, lineage, verify,
};
