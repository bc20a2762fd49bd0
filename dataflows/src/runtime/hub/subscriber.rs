//! One subscriber: what it was promised, what it was told, and what waits for it.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use tokio::sync::mpsc;

use super::open_windows::{OpenWindows, TooMany};
use crate::runtime::consolidate::{Changes, TickChanges, consolidate};
use crate::runtime::holds::ReadHold;
use crate::runtime::views::Relation;
use crate::time::Tick;

/// The net change of the ticks `lower ≤ t < upper`.
#[derive(Debug, Clone)]
pub struct Frame {
    pub lower: Tick,
    pub upper: Tick,
    /// Forget what you had: this is all of it.
    pub reset: bool,
    /// The changed rows; `None` when only time has passed.
    pub batch: Option<RecordBatch>,
    /// The difference of each row, never zero.
    pub diffs: Vec<i64>,
    /// Opaque; hand it back to continue right after this frame.
    pub resume: String,
}

/// What a subscription yields.
#[derive(Debug, Clone)]
pub enum Event {
    Frame(Frame),
    /// All of it was told, or the view is gone.
    End {
        reason: String,
    },
    /// What was asked for is not to be had.
    Refused {
        refusal: Refusal,
        reason: String,
    },
}

/// Why a subscription is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A tick that is not known any more, or has not come.
    Tick,
    /// Closed windows of a view whose rows do not say when their window ends.
    NoWindow,
    /// More rows of open windows than may wait for one subscriber.
    OpenWindows,
}

pub(crate) struct NewSubscriber {
    pub id: u64,
    pub relation: Relation,
    pub project: Option<String>,
    pub snapshot: bool,
    pub progress: bool,
    pub resume: Option<String>,
    pub every_tick: bool,
    /// Begin with the content, or the changes, after this tick instead of the newest.
    pub as_of: Option<Tick>,
    /// End before this tick.
    pub up_to: Option<Tick>,
    /// Only rows whose window the watermark has closed.
    pub closed_windows: bool,
    pub sender: mpsc::Sender<Event>,
}

pub(super) enum State {
    /// A snapshot at this tick is being read; changes after it wait.
    AwaitingSnapshot {
        tick: Tick,
        pending: Vec<(Tick, TickChanges)>,
        _hold: ReadHold,
    },
    Live,
    /// The queue was full: a snapshot follows once there is room.
    Lagging,
    /// Nothing more is told.
    Over,
}

pub(super) struct Subscriber {
    pub new: NewSubscriber,
    pub state: State,
    pub next_lower: Tick,
    /// If it is told closed windows only.
    pub windows: Option<OpenWindows>,
    /// The tick after which the client knows what closed windows held, and the watermark then: a snapshot only tells
    /// what was in open ones.
    pub known: Option<(Tick, i64)>,
}

impl Subscriber {
    /// The tick whose content a snapshot taken at `tick` is to show.
    pub fn shows(&self, tick: Tick) -> Tick {
        let last = self.new.up_to.map_or(Tick::MAX, |up_to| up_to.saturating_sub(1));
        tick.min(self.new.as_of.unwrap_or(Tick::MAX)).min(last)
    }

    /// Sends what a tick changed that has just become complete. The last one before `up_to` may be followed by one
    /// beyond it.
    pub fn tell(&mut self, lineage: &str, tick: Tick, changes: Option<Changes>, watermark: i64) {
        match self.new.up_to.filter(|up_to| *up_to <= tick) {
            None => self.send(lineage, tick + 1, false, changes, watermark),
            Some(up_to) if self.next_lower < up_to => {
                let before = self.windows.as_ref().map_or(i64::MIN, OpenWindows::watermark);
                self.send(lineage, up_to, false, None, before);
            }
            Some(_) => {}
        }
        self.end_at(tick);
    }

    /// Sends what the ticks after the last frame changed, which are complete through `complete`; `watermark` is that of a
    /// tick.
    pub fn catch_up(
        &mut self,
        lineage: &str,
        missed: &[(Tick, TickChanges)],
        complete: Tick,
        watermark: impl Fn(Tick) -> i64,
    ) {
        let end = complete
            .saturating_add(1)
            .min(self.new.up_to.unwrap_or(Tick::MAX));
        let missed: Vec<&(Tick, TickChanges)> = missed.iter().filter(|(tick, _)| *tick < end).collect();
        if self.new.every_tick {
            for (tick, changes) in missed {
                let Some(changes) = changes.net() else { continue };
                // A queue that is full asks for a snapshot.
                if matches!(self.state, State::Live) {
                    self.send(lineage, tick + 1, false, Some(changes), watermark(*tick));
                }
            }
            if matches!(self.state, State::Live) && self.next_lower < end {
                self.send(lineage, end, false, None, watermark(end - 1));
            }
        } else if self.next_lower < end || !missed.is_empty() {
            let missed: Vec<Changes> = missed.iter().flat_map(|(_, changes)| changes.parts()).collect();
            self.send(lineage, end, false, consolidate(&missed), watermark(end - 1));
        }
        self.end_at(complete);
    }

    /// Ends it if everything before its last tick was told.
    pub fn end_at(&mut self, complete: Tick) {
        let reached = self
            .new
            .up_to
            .is_some_and(|up_to| up_to <= complete.saturating_add(1));
        if reached && matches!(self.state, State::Live) {
            self.tell_last(Event::End {
                reason: "all ticks before up_to were told".into(),
            });
        }
    }

    pub fn refuse(&mut self, refusal: Refusal, reason: String) {
        self.tell_last(Event::Refused { refusal, reason });
    }

    fn tell_last(&mut self, event: Event) {
        match self.new.sender.try_send(event) {
            Ok(()) => self.state = State::Over,
            Err(_) => self.lag(),
        }
    }

    /// Sends the net change up to `upper`; without changes only if progress or a reset is wanted. `watermark` is that of the
    /// last tick before `upper`.
    pub fn send(
        &mut self,
        lineage: &str,
        upper: Tick,
        reset: bool,
        changes: Option<Changes>,
        watermark: i64,
    ) {
        let changes = changes.and_then(|changes| self.visible(changes));
        let changes = match &mut self.windows {
            None => changes,
            Some(windows) => {
                if reset {
                    windows.restart(watermark);
                }
                match windows.pass(changes, watermark) {
                    Ok(changes) => changes,
                    Err(too_many) => return self.refuse_open_windows(&too_many),
                }
            }
        };
        if changes.is_none() && !reset && !self.new.progress {
            return;
        }
        let (batch, diffs) = match changes {
            Some(changes) => (Some(changes.batch), changes.diffs),
            None => (None, Vec::new()),
        };
        let lower = if reset {
            self.new.relation.view.installed_at
        } else {
            self.next_lower
        };
        let lower = lower.min(upper);
        let mut resume = format!("{lineage}.{}.{upper}", self.new.relation.id());
        if let Some(windows) = &self.windows {
            resume.push_str(&format!(".{}", windows.watermark()));
        }
        let frame = Frame {
            lower,
            upper,
            reset,
            batch,
            diffs,
            resume,
        };
        match self.new.sender.try_send(Event::Frame(frame)) {
            Ok(()) => self.next_lower = upper,
            Err(_) => self.lag(),
        }
    }

    /// Begins to tell closed windows where a client left off: `content` is the view's at the tick it knows.
    pub fn begin_known(&mut self, (tick, watermark): (Tick, i64), content: Option<Changes>) {
        let content = content.and_then(|content| self.visible(content));
        self.next_lower = tick + 1;
        if let Some(windows) = &mut self.windows {
            windows.restart(watermark);
            // What closed windows held is known.
            if let Err(too_many) = windows.pass(content, watermark) {
                self.refuse_open_windows(&too_many);
            }
        }
    }

    fn refuse_open_windows(&mut self, too_many: &TooMany) {
        self.refuse(
            Refusal::OpenWindows,
            format!(
                "rows of open windows take {} bytes, and {} may wait for one subscription; make the view a monitor with \
                 EMIT FINAL, or subscribe to fewer groups or shorter windows",
                too_many.bytes, too_many.most
            ),
        );
    }

    /// The queue is full: what is missed is replaced by a snapshot.
    fn lag(&mut self) {
        self.state = State::Lagging;
        if let Some(windows) = &mut self.windows {
            windows.restart(i64::MIN);
        }
    }

    /// Of a built-in view only the rows of the subscriber's project.
    fn visible(&self, changes: Changes) -> Option<Changes> {
        let (Some(project), None) = (&self.new.project, &self.new.relation.view.name.project) else {
            return Some(changes);
        };
        only_project(changes, project)
    }
}

/// The rows whose `project` column is this one.
fn only_project(changes: Changes, project: &str) -> Option<Changes> {
    let index = changes.batch.schema().index_of("project").ok()?;
    let mask: BooleanArray = match changes.batch.column(index).data_type() {
        DataType::Utf8View => changes
            .batch
            .column(index)
            .as_string_view()
            .iter()
            .map(|value| Some(value == Some(project)))
            .collect(),
        _ => changes
            .batch
            .column(index)
            .as_string::<i32>()
            .iter()
            .map(|value| Some(value == Some(project)))
            .collect(),
    };
    let diffs: Vec<i64> = changes
        .diffs
        .iter()
        .zip(mask.values())
        .filter(|(_, keep)| *keep)
        .map(|(diff, _)| *diff)
        .collect();
    let batch =
        filter_record_batch(&changes.batch, &mask).expect("invariant: mask and batch are equally long");
    (batch.num_rows() > 0).then_some(Changes { batch, diffs })
}
