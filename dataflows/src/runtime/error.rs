//! What the engine refuses or fails with; each has a stable code.

use crate::plan::PlanError;

#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    #[error("PF-3001: there already is a monitor {name}; drop it first or use CREATE OR REPLACE")]
    Exists { name: String },
    #[error("PF-3002: there is no monitor {name}")]
    Unknown { name: String },
    #[error("PF-3003: {name} is built in; it goes when its file in dataflows/views is deleted")]
    Builtin { name: String },
    #[error("PF-3009: {name} belongs to {view} and goes with it; drop that monitor instead")]
    Companion { name: String, view: String },
    #[error("PF-3011: {name} is read by the monitor {reader}; drop that one first")]
    InUse { name: String, reader: String },
    #[error("PF-3012: {name} has other columns than when the statement was planned; send it again")]
    Changed { name: String },
    #[error("PF-3014: {name} is taken by a stream or a monitor; choose another name or drop what has it")]
    StreamExists { name: String },
    #[error("PF-3015: there is no stream {name}")]
    UnknownStream { name: String },
    #[error("PF-3004: the tick log failed: {detail}")]
    TickLog { detail: String },
    #[error("PF-3005: the log failed: {detail}")]
    Log { detail: String },
    #[error("PF-3006: a worker has failed; restart the server, it recovers from the log")]
    WorkerFailed,
    #[error("PF-3007: the engine is shutting down")]
    Closed,
    #[error("PF-3008: the engine could not start: {detail}")]
    Start { detail: String },
    #[error(
        "PF-3010: the tick log ends at tick {last_tick}, but the store was written up to {cut}: the end of the tick log is damaged or missing; nothing was changed, restore the data directory from a backup or start with another one"
    )]
    TicksLost { last_tick: u64, cut: u64 },
    #[error(
        "PF-3022: the store has {table} up to {cut} only, and the newest checkpoint, at tick {checkpoint}, was taken when it had more: the store is older than the checkpoint, as after restoring one of them alone; nothing was changed, start with a store and checkpoints of one time (checkpoints.url may lead to a new place for a restored data directory)"
    )]
    StoreOlder {
        table: String,
        cut: u64,
        checkpoint: u64,
    },
    #[error("PF-3016: {name} cannot begin in the past: {detail}")]
    Backfill { name: String, detail: String },
    #[error("PF-3017: rows that were admitted before cannot be read back: {detail}")]
    Unreadable { detail: String },
    #[error("PF-3018: no checkpoint could be written: {detail}")]
    Checkpoint { detail: String },
    #[error(
        "PF-3019: nothing here leads back to where the engine was: {reason}; nothing was changed. If checkpoints.url is not what it was, or leads to a place that a restored data directory had before, change it; else restore the data directory from a backup, or start with another one"
    )]
    NoWayBack { reason: String },
    #[error("PF-3020: nothing can be erased here: {detail}")]
    Erasure { detail: String },
    #[error("PF-3021: there is no erasure {id}")]
    UnknownErasure { id: u64 },
    #[error("PF-3026: {name} cannot be written to a topic: {detail}")]
    Output { name: String, detail: String },
    /// A topic of a stream or a monitor.
    #[error(transparent)]
    Topic(#[from] pyflare_connectors::LogError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl EngineError {
    pub fn code(&self) -> &'static str {
        match self {
            EngineError::Exists { .. } => "PF-3001",
            EngineError::Unknown { .. } => "PF-3002",
            EngineError::Builtin { .. } => "PF-3003",
            EngineError::Companion { .. } => "PF-3009",
            EngineError::InUse { .. } => "PF-3011",
            EngineError::Changed { .. } => "PF-3012",
            EngineError::StreamExists { .. } => "PF-3014",
            EngineError::UnknownStream { .. } => "PF-3015",
            EngineError::TickLog { .. } => "PF-3004",
            EngineError::Log { .. } => "PF-3005",
            EngineError::WorkerFailed => "PF-3006",
            EngineError::Closed => "PF-3007",
            EngineError::Start { .. } => "PF-3008",
            EngineError::TicksLost { .. } => "PF-3010",
            EngineError::StoreOlder { .. } => "PF-3022",
            EngineError::Backfill { .. } => "PF-3016",
            EngineError::Unreadable { .. } => "PF-3017",
            EngineError::Checkpoint { .. } => "PF-3018",
            EngineError::NoWayBack { .. } => "PF-3019",
            EngineError::Erasure { .. } => "PF-3020",
            EngineError::UnknownErasure { .. } => "PF-3021",
            EngineError::Output { .. } => "PF-3026",
            EngineError::Topic(error) => error.code(),
            EngineError::Plan(error) => error.code(),
        }
    }
}
