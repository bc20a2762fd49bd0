//! What the coordinator, the workers and the hub tell each other. All channels are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use pyflare_connectors::LogRecord;
use pyflare_operators::aggregate::Accumulator;
use tokio::sync::oneshot;

use super::backfill::Backfill;
use super::checkpoint::{Answer, Run};
use super::erasing::Erasing;
use super::erasure::{Erased, ErasureSubject};
use super::limits::Stop;
use super::reading::Wanted;
use super::rewriting::Rewrite;
use super::streams::{InstalledStream, Marks, Rejection, StreamId};
use super::sums::Seed;
use super::tick_record::Command;
use super::topics::Feeding;
use super::views::{InstalledView, RelationId};
use crate::time::{Tick, tick_us};

/// One admitted request, to be decoded by one worker.
pub(crate) struct AdmittedRequest {
    pub stream: StreamId,
    pub partition: u32,
    pub offset: u64,
    pub record: LogRecord,
}

pub(crate) enum ToWorker {
    /// First half of a tick: decode these requests and report.
    Decode {
        tick: Tick,
        marks: Arc<Marks>,
        requests: Vec<AdmittedRequest>,
    },
    /// Second half: the tick record is durable, emit.
    Commit(Arc<Commit>),
    /// What bases begin with that the next commit installs, or what others lose at it.
    Seed(Vec<Seed>),
    /// What companions begin with at the next commit, which restores a checkpoint.
    Entries(Vec<RestoredEntry>),
    /// Builds a view, and feeds it what is there at a tick from the next one on, in slices.
    Prepare {
        view: Arc<InstalledView>,
        tick: Tick,
    },
    /// Such a view is not wanted any more.
    GiveUp {
        id: u64,
    },
    Peek(PeekRequest),
    Shutdown,
}

/// The second half of a tick.
pub(crate) struct Commit {
    pub tick: Tick,
    /// The streams' marks *before* this tick.
    pub marks: Arc<Marks>,
    pub commands: Vec<AppliedCommand>,
    /// Times below this may be merged.
    pub since: Tick,
    /// Views whose graphs are known to have been aborted at this tick.
    pub aborted: BTreeSet<u64>,
    /// Whether limits hold at this tick: they do not while a log is replayed, which passes over ticks without events.
    pub enforced: bool,
    /// The checkpoint that stands at this tick, if one does.
    pub checkpoint: Option<Arc<Run>>,
    /// Whether this is the state of a checkpoint: it is no change to anybody.
    pub is_restored: bool,
}

impl Commit {
    /// Whether an erasure is subtracted at it. What views do then is nothing that they could have avoided: limits do not hold.
    pub fn erases(&self) -> bool {
        let erases = |command: &AppliedCommand| matches!(command, AppliedCommand::Erase(_));
        self.commands.iter().any(erases)
    }
}

/// An entry of a companion, from a checkpoint.
pub(crate) struct RestoredEntry {
    pub view: u64,
    /// When it leaves, microseconds.
    pub leaves: i64,
    pub rest: Vec<u8>,
    pub accumulator: Accumulator,
}

/// A command with what all workers share of it.
#[derive(Clone)]
pub(crate) enum AppliedCommand {
    Install(Arc<InstalledView>),
    Drop {
        id: u64,
    },
    CreateStream(Arc<InstalledStream>),
    DropStream {
        id: u64,
    },
    Stop(Stop),
    /// Its rows are taken from all bases, by what the workers were given before.
    Erase(Erased),
    /// The store has none of its rows any more.
    EraseDone {
        id: u64,
    },
    FlushCut,
}

impl AppliedCommand {
    pub fn logged(&self) -> Command {
        match self {
            AppliedCommand::Install(view) => Command::Install {
                id: view.id,
                definition: Box::new(view.definition.clone()),
                since: view.since,
            },
            AppliedCommand::Drop { id } => Command::Drop { id: *id },
            AppliedCommand::CreateStream(stream) => Command::CreateStream {
                id: stream.id,
                definition: Box::new((*stream.definition).clone()),
                starts: stream
                    .feeding
                    .get()
                    .map_or_else(Vec::new, |feeding| feeding.starts.clone()),
            },
            AppliedCommand::DropStream { id } => Command::DropStream { id: *id },
            AppliedCommand::Stop(stop) => Command::Stop {
                id: stop.id,
                reason: stop.reason,
                aborted_at: stop.aborted_at,
            },
            AppliedCommand::Erase(erased) => Command::Erase {
                request: Box::new(erased.request.clone()),
                rows: erased.rows,
                let_go: erased.let_go.clone(),
            },
            AppliedCommand::EraseDone { id } => Command::EraseDone { id: *id },
            AppliedCommand::FlushCut => Command::FlushCut,
        }
    }
}

/// What a worker found while decoding its share of a tick.
#[derive(Debug, Default, Clone)]
pub(crate) struct DecodeSummary {
    /// Greatest event time per (stream, partition).
    pub max_event_time: Vec<(StreamId, u32, i64)>,
    pub rows: BTreeMap<StreamId, RowCounts>,
    pub rejected_rows: u64,
    pub failed_requests: u64,
    pub failure_sample: Option<String>,
    /// Of users' streams, the first hundred.
    pub rejections: Vec<(StreamId, Rejection)>,
}

/// Rows of one stream at one tick.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RowCounts {
    pub admitted: u64,
    pub rejected: u64,
    /// Admitted, but too far ahead of the tick to be in a view.
    pub future: u64,
    /// Requests of which nothing could be read.
    pub unreadable: u64,
}

pub(crate) enum FromWorker {
    Decoded {
        summary: DecodeSummary,
    },
    Done {
        worker: usize,
        horizon: Horizon,
        /// Views that have been fed everything before they are installed; the flag says that they made too much.
        ready: Vec<(u64, bool)>,
    },
    /// It ended by a panic.
    Failed,
}

/// Until when nothing leaves a worker's views if nothing arrives.
#[derive(Debug, Clone)]
pub(crate) struct Horizon {
    /// No pane expires while its stream's mark lies below, microseconds; of streams that are not here, never.
    pub marks: BTreeMap<StreamId, i64>,
    /// No entry leaves a companion, and nothing that is bounded by `now()` appears or leaves, while the tick lies below,
    /// microseconds.
    pub tick: i64,
}

impl Horizon {
    pub const NEVER: Horizon = Horizon {
        marks: BTreeMap::new(),
        tick: i64::MAX,
    };

    /// The earlier of both.
    pub fn least(mut self, other: Horizon) -> Horizon {
        for (stream, mark) in other.marks {
            self.observe(stream, mark);
        }
        self.tick = self.tick.min(other.tick);
        self
    }

    /// Something leaves once the stream's mark is here.
    pub fn observe(&mut self, stream: StreamId, mark_us: i64) {
        let known = self.marks.entry(stream).or_insert(i64::MAX);
        *known = (*known).min(mark_us);
    }

    /// Whether a tick without rows and commands changes nothing.
    pub fn lies_beyond(&self, tick: Tick, marks: &Marks) -> bool {
        let mut horizons = self.marks.iter();
        tick_us(tick) < self.tick
            && horizons.all(|(stream, horizon)| marks.of(*stream).is_none_or(|mark| mark < *horizon))
    }
}

/// Read one view's share at a tick.
pub(crate) struct PeekRequest {
    pub relation: RelationId,
    pub tick: Tick,
    pub wanted: Arc<Wanted>,
    /// Set when nobody waits for the answer any more.
    pub given_up: Arc<AtomicBool>,
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

/// A worker's share of what a view shows that begins anew in the store.
pub(crate) struct Renewal {
    pub view: u64,
    pub content: PeekShare,
}

pub(crate) enum ToHub {
    /// Everything one worker has to say about one tick.
    Tick {
        commit: Arc<Commit>,
        changes: Vec<ViewChange>,
        /// What only stores are told.
        rewrites: Vec<Rewrite>,
        renewals: Vec<Renewal>,
        left_out: Vec<ViewLeftOut>,
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
    CreateStream {
        definition: Box<pyflare_operators::streams::StreamDefinition>,
        feeding: Option<Feeding>,
        reply: oneshot::Sender<Result<Arc<InstalledStream>, super::EngineError>>,
    },
    DropStream {
        id: u64,
        reply: oneshot::Sender<Result<(), super::EngineError>>,
    },
    /// Take rows back; answered with the erasure's id once the wish is durable.
    Erase {
        subject: Box<ErasureSubject>,
        reply: oneshot::Sender<Result<u64, super::EngineError>>,
    },
    /// Say when all that is durable now is admitted.
    Admitted {
        reply: oneshot::Sender<()>,
    },
    /// What an erasure takes back.
    ErasureRead(Box<Erasing>),
    /// What a view's past adds up to, as far as it was complete.
    Backfilled(Box<Backfill>),
    /// New durable records, or something else to look at.
    Wake,
    Flush {
        reply: oneshot::Sender<Tick>,
    },
    /// Take a checkpoint now; answered once it is durable.
    Checkpoint {
        reply: Answer,
    },
    /// Stop; with `drain` only once everything in the log is admitted and flushed.
    Shutdown {
        drain: bool,
    },
}

#[cfg(test)]
mod tests {
    use pyflare_connectors::Signal;

    use super::*;

    #[test]
    fn a_tick_is_eventless_until_a_mark_or_the_tick_reaches_the_horizon() {
        let [traces, metrics, _] = Signal::OTLP.map(StreamId::Signal);
        let mut late = Horizon::NEVER;
        late.observe(traces, 5_000);
        let soon = Horizon {
            tick: 9_000,
            ..Horizon::NEVER
        };
        let horizon = late.least(soon);
        let at = |mark: i64| [(traces, mark), (metrics, 7_000)].into_iter().collect::<Marks>();
        assert!(horizon.lies_beyond(8, &at(4_999)));
        assert!(!horizon.lies_beyond(8, &at(5_000)), "a pane expires");
        assert!(!horizon.lies_beyond(9, &Marks::default()), "an entry leaves");
        assert!(Horizon::NEVER.lies_beyond(u64::MAX / 2_000_000, &at(i64::MAX - 1)));
    }
}
