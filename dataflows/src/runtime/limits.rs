//! What a monitor may keep and make, and how one that does more is stopped.
//!
//! A monitor that exceeds a limit is stopped by a logged command at the next tick: its content is taken back, its
//! dataflow goes, everything else goes on. Where the limit was that of one tick, its graph was aborted at that tick
//! already and changed nothing at it; the command says so, and a replay, which sees the command coming, does not begin
//! what was aborted. So what readers saw does not depend on how much a replay, or other workers, would have made.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::coordinator::Coordinator;
use super::messages::AppliedCommand;
use super::tick_record::{Command, TickRecord};
use super::views::InstalledView;
use crate::plan::MonitorDefinition;
use crate::time::Tick;

/// Limits of one monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorLimits {
    /// Rows that one of its operators may keep, over all workers.
    pub rows: u64,
    /// Records that its joins may make at one tick, over all workers; one counts once per 128 bytes.
    pub tick_rows: u64,
    /// Changes of its result, on average of ten seconds, over all workers.
    pub updates_per_second: u64,
}

impl Default for MonitorLimits {
    fn default() -> MonitorLimits {
        MonitorLimits {
            rows: 5_000_000,
            tick_rows: 5_000_000,
            updates_per_second: 5_000_000,
        }
    }
}

impl MonitorLimits {
    /// What holds for a monitor where these are the defaults. Built-in views are not stopped: what they keep depends
    /// on the installation, and nobody could set their options.
    pub fn of(self, definition: &MonitorDefinition) -> MonitorLimits {
        if definition.project.is_none() {
            return MonitorLimits {
                rows: u64::MAX,
                tick_rows: u64::MAX,
                updates_per_second: u64::MAX,
            };
        }
        MonitorLimits {
            rows: definition.options.max_rows.unwrap_or(self.rows),
            tick_rows: definition.options.max_tick_rows.unwrap_or(self.tick_rows),
            updates_per_second: definition
                .options
                .max_updates_per_second
                .unwrap_or(self.updates_per_second),
        }
    }
}

/// A limit on changes is one on so long a time, milliseconds.
const RATE_MS: u64 = 10_000;

/// How often a view's result changes.
#[derive(Default)]
pub(crate) struct Rate {
    ticks: Mutex<Ticks>,
    exceeded: AtomicBool,
}

/// The changes at each of the last ticks that changed something, and their sum.
#[derive(Default)]
struct Ticks {
    changes: VecDeque<(Tick, u64)>,
    sum: u64,
}

impl Rate {
    /// Takes note of the changes of a tick, of which there are at most so many a second. With `enforced` an excess counts.
    pub fn observe(&self, tick: Tick, changes: u64, most: u64, enforced: bool) {
        let mut ticks = self.ticks.lock();
        let Ticks { changes: kept, sum } = &mut *ticks;
        kept.push_back((tick, changes));
        *sum += changes;
        while let Some((oldest, passed)) = kept.front().copied() {
            if oldest + RATE_MS > tick {
                break;
            }
            *sum -= passed;
            kept.pop_front();
        }
        if enforced && *sum > most.saturating_mul(RATE_MS / 1_000) {
            self.exceeded.store(true, Ordering::Release);
        }
    }

    fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Acquire)
    }
}

/// Which limit was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
// Called as the options are, in the tick log too.
#[allow(clippy::enum_variant_names)]
pub(crate) enum Limit {
    MaxRows,
    MaxTickRows,
    MaxUpdatesPerSecond,
}

/// Why a monitor was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StopReason {
    pub limit: Limit,
    pub most: u64,
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let most = self.most;
        match self.limit {
            Limit::MaxRows => write!(
                f,
                "PF-3013: one of its operators keeps more than max_rows = {most} rows; filter or aggregate more, shorten \
                 its retention, or CREATE OR REPLACE it WITH (max_rows = '…')"
            ),
            Limit::MaxTickRows => write!(
                f,
                "PF-3013: its joins made more than max_tick_rows = {most} records at one tick; join by more columns or \
                 aggregate before the join, or CREATE OR REPLACE it WITH (max_tick_rows = '…')"
            ),
            Limit::MaxUpdatesPerSecond => write!(
                f,
                "PF-3013: its result changed more than max_updates_per_second = {most} times a second for ten seconds; filter \
                 or aggregate more, or CREATE OR REPLACE it WITH (max_updates_per_second = '…')"
            ),
        }
    }
}

/// The command by which a monitor is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub id: u64,
    pub reason: StopReason,
    /// The tick before, if its graph was aborted at that.
    pub aborted_at: Option<Tick>,
}

impl InstalledView {
    /// Why it must be stopped after `tick`, if it must.
    fn exceeded(&self, tick: Tick) -> Option<Stop> {
        if self.stopped().is_some() {
            return None;
        }
        let stop = |limit, most, aborted_at| Stop {
            id: self.id,
            reason: StopReason { limit, most },
            aborted_at,
        };
        if self.budget.is_spent() {
            return Some(stop(Limit::MaxTickRows, self.limits.tick_rows, Some(tick)));
        }
        if self.rate.is_exceeded() {
            let most = self.limits.updates_per_second;
            return Some(stop(Limit::MaxUpdatesPerSecond, most, None));
        }
        let bases = self.bases().map(|base| base.figures.greatest());
        let kept = bases.max().unwrap_or(0).max(self.figures.greatest());
        (kept > self.limits.rows).then(|| stop(Limit::MaxRows, self.limits.rows, None))
    }
}

/// The views that were aborted at `tick`, as the record after it says.
pub(super) fn aborted_at(tick: Tick, next: Option<&TickRecord>) -> BTreeSet<u64> {
    let commands = next.iter().flat_map(|next| &next.commands);
    let aborted = commands.filter_map(|command| match command {
        Command::Stop {
            id,
            aborted_at: Some(at),
            ..
        } if *at == tick => Some(*id),
        _ => None,
    });
    aborted.collect()
}

impl Coordinator {
    /// The views that have exceeded a limit by the end of `tick`.
    pub(super) fn exceeded(&self, tick: Tick) -> Vec<Stop> {
        let views = self.views.all();
        views.iter().filter_map(|view| view.exceeded(tick)).collect()
    }

    /// Marks a view as stopped, before anything else is installed; `None` if it is gone.
    pub(super) fn stop(&self, stop: Stop, tick: Tick) -> Option<AppliedCommand> {
        let views = self.views.all();
        let view: &Arc<InstalledView> = views.iter().find(|view| view.id == stop.id)?;
        view.stop(stop.reason, tick);
        tracing::warn!(monitor = %view.name, reason = %stop.reason, "a monitor is stopped");
        Some(AppliedCommand::Stop(stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_ten_seconds() {
        let rate = Rate::default();
        // Ten a second, for a minute; then eleven.
        for tick in 1..=600 {
            rate.observe(tick * 100, 1, 10, true);
            assert!(!rate.is_exceeded(), "at {tick}");
        }
        rate.observe(60_050, 1, 10, true);
        assert!(rate.is_exceeded());
        let burst = Rate::default();
        burst.observe(1, 100, 10, true);
        assert!(!burst.is_exceeded(), "as many at once");
        burst.observe(10_000, 1, 10, false);
        assert!(!burst.is_exceeded(), "a replay");
        burst.observe(10_001, 100, 10, true);
        assert!(burst.is_exceeded());
    }
}
