//! What the coordinator, the workers and the hub tell each other. All channels are bounded.

use std::sync::Arc;

use arrow::array::RecordBatch;
use pyflare_connectors::{LogRecord, Signal};
use tokio::sync::oneshot;

use super::tick_record::Command;
use super::views::{InstalledView, RelationId};
use crate::time::{Tick, tick_us};

/// One admitted request, to be decoded by one worker.
pub(crate) struct AdmittedRequest {
    pub signal: Signal,
    pub partition: u32,
    pub offset: u64,
    pub record: LogRecord,
}

pub(crate) enum ToWorker {
    /// First half of a tick: decode these requests and report.
    Decode {
        tick: Tick,
        marks: [Option<i64>; 3],
        requests: Vec<AdmittedRequest>,
    },
    /// Second half: the tick record is durable, emit.
    Commit(Arc<Commit>),
    Peek(PeekRequest),
    Shutdown,
}

/// The second half of a tick.
pub(crate) struct Commit {
    pub tick: Tick,
    /// The streams' marks *before* this tick.
    pub marks: [Option<i64>; 3],
    pub commands: Vec<AppliedCommand>,
    /// Times below this may be merged.
    pub since: Tick,
}

/// A command with what all workers share of it.
#[derive(Clone)]
pub(crate) enum AppliedCommand {
    Install(Arc<InstalledView>),
    Drop { id: u64 },
    FlushCut,
}

impl AppliedCommand {
    pub fn logged(&self) -> Command {
        match self {
            AppliedCommand::Install(view) => Command::Install {
                id: view.id,
                definition: Box::new(view.definition.clone()),
            },
            AppliedCommand::Drop { id } => Command::Drop { id: *id },
            AppliedCommand::FlushCut => Command::FlushCut,
        }
    }
}

/// What a worker found while decoding its share of a tick.
#[derive(Debug, Default, Clone)]
pub(crate) struct DecodeSummary {
    /// Greatest event time per (signal, partition).
    pub max_event_time: Vec<(Signal, u32, i64)>,
    pub rows: [u64; 3],
    pub rejected_rows: u64,
    pub failed_requests: u64,
    pub failure_sample: Option<String>,
}

pub(crate) enum FromWorker {
    Decoded {
        summary: DecodeSummary,
    },
    Done {
        worker: usize,
        horizon: Horizon,
    },
    /// It ended by a panic.
    Failed,
}

/// Until when nothing leaves a worker's views if nothing arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Horizon {
    /// No pane expires while its stream's mark lies below, microseconds.
    pub marks: [i64; 3],
    /// No entry leaves a companion while the tick lies below, microseconds.
    pub tick: i64,
}

impl Horizon {
    pub const NEVER: Horizon = Horizon {
        marks: [i64::MAX; 3],
        tick: i64::MAX,
    };

    /// The earlier of both.
    pub fn least(self, other: Horizon) -> Horizon {
        Horizon {
            marks: [0, 1, 2].map(|signal| self.marks[signal].min(other.marks[signal])),
            tick: self.tick.min(other.tick),
        }
    }

    /// Whether a tick without rows and commands changes nothing.
    pub fn lies_beyond(&self, tick: Tick, marks: &[Option<i64>; 3]) -> bool {
        tick_us(tick) < self.tick
            && marks
                .iter()
                .zip(self.marks)
                .all(|(mark, horizon)| mark.is_none_or(|mark| mark < horizon))
    }
}

/// Read one view's share at a tick.
pub(crate) struct PeekRequest {
    pub relation: RelationId,
    pub tick: Tick,
    pub reply: crossbeam_channel::Sender<PeekShare>,
}

/// One worker's share of a view's content, with multiplicities.
pub(crate) type PeekShare = Vec<(RecordBatch, Vec<i64>)>;

/// What the share of a view, or of a companion, changed at one tick.
pub(crate) struct ViewChange {
    pub relation: RelationId,
    pub batch: RecordBatch,
    pub diffs: Vec<i64>,
    /// Retractions by which panes leave the live view; stores ignore them.
    pub expiry: bool,
}

/// Rows that a view left out at one tick.
pub(crate) struct ViewLeftOut {
    pub view: u64,
    pub late_rows: u64,
    pub error_rows: u64,
    pub error_sample: Option<String>,
}

pub(crate) enum ToHub {
    /// Everything one worker has to say about one tick.
    Tick {
        tick: Tick,
        changes: Vec<ViewChange>,
        left_out: Vec<ViewLeftOut>,
        commands: Vec<AppliedCommand>,
    },
    Subscribe(Box<super::hub::NewSubscriber>),
    Snapshot {
        subscriber: u64,
        tick: Tick,
        shares: Vec<PeekShare>,
    },
    Shutdown,
}

/// What users ask of the coordinator.
pub(crate) enum ToCoordinator {
    Install {
        view: Box<crate::plan::MonitorDefinition>,
        or_replace: bool,
        reply: oneshot::Sender<Result<Arc<InstalledView>, super::EngineError>>,
    },
    Drop {
        id: u64,
        reply: oneshot::Sender<Result<(), super::EngineError>>,
    },
    /// New durable records, or something else to look at.
    Wake,
    Flush {
        reply: oneshot::Sender<Tick>,
    },
    /// Stop; with `drain` only once everything in the log is admitted and flushed.
    Shutdown {
        drain: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_eventless_until_a_mark_or_the_tick_reaches_the_horizon() {
        let late = Horizon {
            marks: [5_000, i64::MAX, i64::MAX],
            ..Horizon::NEVER
        };
        let soon = Horizon {
            tick: 9_000,
            ..Horizon::NEVER
        };
        let horizon = late.least(soon);
        assert!(horizon.lies_beyond(8, &[Some(4_999), Some(7_000), None]));
        assert!(
            !horizon.lies_beyond(8, &[Some(5_000), None, None]),
            "a pane expires"
        );
        assert!(!horizon.lies_beyond(9, &[None; 3]), "an entry leaves");
        assert!(Horizon::NEVER.lies_beyond(u64::MAX / 2_000_000, &[Some(i64::MAX - 1); 3]));
    }
}
