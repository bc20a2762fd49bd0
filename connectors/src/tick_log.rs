//! The tick log: the only source of order. A record is durable before anything of its tick is emitted.
//!
//! The connector stores opaque payloads; what a record says is encoded in `dataflows`.

use crate::LogError;

#[derive(Debug, Clone, thiserror::Error)]
pub enum TickLogError {
    #[error("PF-2101: tick log input/output failed on {path}: {detail}")]
    Io { path: String, detail: String },
    #[error(
        "PF-2102: the tick log {path} is damaged at byte {position}: {detail}; nothing was changed, restore the data directory from a backup or start with another one"
    )]
    Corrupt {
        path: String,
        position: u64,
        detail: String,
    },
    #[error("PF-2103: a newer generation ({newer}) has taken over this tick log; this process ({own}) stops")]
    Fenced { own: u64, newer: u64 },
    #[error(
        "PF-2104: the disk that holds the tick log {path} is full; free some space, what was acknowledged is kept"
    )]
    DiskFull { path: String },
    #[error(
        "PF-2105: the tick log {path} is missing, though the data directory was in use; nothing was changed, restore the data directory from a backup or start with another one"
    )]
    Missing { path: String },
    #[error(
        "PF-2106: another process holds the tick log {path} and does not go on; it is stopped or hangs: end it (kill -9), what it acknowledged is kept, and start again"
    )]
    Held { path: String },
    #[error(
        "PF-2107: the tick log {path} belongs to another data directory, of the history {history}; start that one, or give this one a kafka.topic_prefix of its own"
    )]
    Foreign { path: String, history: String },
    #[error("PF-2108: the tick log {path} cannot be reached; what was acknowledged is kept: {source}")]
    Away { path: String, source: Box<LogError> },
}

/// Called with a payload and its position.
pub type VisitPayload<'a> = dyn FnMut(u64, &[u8]) -> Result<(), TickLogError> + 'a;

/// An append-only sequence of payloads with generation fencing.
///
/// Invariants: [`TickLog::append`] returns only once the payload is durable; [`TickLog::read`] yields exactly the
/// appended payloads that were not trimmed, in order, without a torn last one; positions grow, perhaps with gaps; after
/// another process called [`TickLog::open_generation`] everything that an older generation asks for fails with
/// [`TickLogError::Fenced`].
pub trait TickLog: Send + Sync + 'static {
    /// Takes over as the next generation and returns its number.
    fn open_generation(&self) -> Result<u64, TickLogError>;

    /// Appends one payload durably; returns its position.
    fn append(&self, generation: u64, payload: &[u8]) -> Result<u64, TickLogError>;

    /// Hands every payload to `visit`, oldest first.
    fn read(&self, visit: &mut VisitPayload<'_>) -> Result<(), TickLogError>;

    /// Fails if another generation has taken over; to be asked before anything is deleted.
    fn check_generation(&self, generation: u64) -> Result<(), TickLogError>;

    /// Allows payloads at positions below `before` to be deleted; some of them may be kept.
    fn trim(&self, generation: u64, before: u64) -> Result<(), TickLogError>;

    /// Whether no generation ever began here.
    fn is_new(&self) -> Result<bool, TickLogError>;

    /// What a payload waits for that cannot be written at the moment, in words for a sender.
    fn waits_for(&self) -> Option<&'static str> {
        None
    }

    /// From now on what cannot be written is an error at once, as a server that stops needs it.
    fn give_up(&self) {}
}
