//! What one worker hands over for a checkpoint: its share of every base and of the companions, as of the checkpoint's tick.
//!
//! It begins when the tick is complete and keeps what it reads from, so that ticks go on meanwhile; it goes on in slices,
//! a small part of the time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use crossbeam_channel::TrySendError;

use super::state_file::{ENTRIES, Portion};
use super::taking::Run;
use crate::render::arrange::PANE_BYTES;
use crate::render::arrange::pane_of;
use crate::render::changed::ChangedPanes;
use crate::render::walk::Fuel;
use crate::render::{Dump, Ledger};
use crate::runtime::worker_views::Views;

/// A slice is at least so long …
const LEAST_SLICE: Duration = Duration::from_micros(500);
/// … at most so long …
const LONGEST_SLICE: Duration = Duration::from_millis(5);
/// … and of the time that passed since the last one, this part.
const PART_OF_TIME: u32 = 12;

/// From a worker to the thread that writes.
pub(crate) enum FromDump {
    Portion(RecordBatch),
    /// A worker has handed over everything.
    Finished,
}

/// See the module.
pub(crate) struct Dumping {
    run: Arc<Run>,
    sources: VecDeque<(i32, Dump)>,
    portion: Portion,
    unsent: VecDeque<FromDump>,
    is_over: bool,
    paused_at: Instant,
}

impl Dumping {
    /// Begins to read at the checkpoint's tick, which has just been completed.
    pub fn begin(run: &Arc<Run>, worker: usize, views: &mut Views, ledger: &mut Ledger) -> Dumping {
        let mut dumping = Dumping {
            run: Arc::clone(run),
            sources: VecDeque::new(),
            portion: Portion::new(worker),
            unsent: VecDeque::new(),
            is_over: false,
            paused_at: Instant::now(),
        };
        for base in views.bases.values_mut() {
            // One that only stopped views read is not kept.
            let Some((number, _)) = run.bases.iter().find(|(_, other)| Arc::ptr_eq(&base.base, other)) else {
                continue;
            };
            let number = *number;
            let Dumping { portion, unsent, .. } = &mut dumping;
            base.tap.visit_waiting(|moment, key, accumulator| {
                portion.push(
                    number,
                    pane_of(key),
                    Some(moment),
                    &key[PANE_BYTES..],
                    accumulator,
                );
                if portion.is_full() {
                    unsent.extend(portion.take().map(FromDump::Portion));
                }
            });
            let changed = match (base.arranged.take_changed(), run.is_full) {
                (_, true) => ChangedPanes::All,
                (changed, false) => changed,
            };
            if !run.is_full {
                match &changed {
                    ChangedPanes::All => portion.renew(number, None),
                    ChangedPanes::These(ends) => {
                        for end in ends {
                            portion.renew(number, Some(*end));
                            if portion.is_full() {
                                unsent.extend(portion.take().map(FromDump::Portion));
                            }
                        }
                    }
                }
            }
            dumping
                .sources
                .push_back((number, base.arranged.dump(run.tick, changed)));
        }
        dumping.sources.push_back((ENTRIES, ledger.dump(run.tick)));
        dumping
    }

    /// Goes on for a slice; whether it is over.
    pub fn advance(&mut self) -> bool {
        let slice = (self.paused_at.elapsed() / PART_OF_TIME).clamp(LEAST_SLICE, LONGEST_SLICE);
        let mut fuel = Fuel::lasting(slice);
        let over = self.run.is_cancelled() || self.go_on(&mut fuel);
        self.paused_at = Instant::now();
        over
    }

    fn go_on(&mut self, fuel: &mut Fuel) -> bool {
        loop {
            while let Some(next) = self.unsent.pop_front() {
                match self.run.portions.try_send(next) {
                    Ok(()) => {}
                    Err(TrySendError::Full(next)) => {
                        self.unsent.push_front(next);
                        return false;
                    }
                    // Nobody writes it any more.
                    Err(TrySendError::Disconnected(_)) => return true,
                }
            }
            if self.is_over {
                return true;
            }
            if fuel.is_spent() {
                return false;
            }
            let portion = &mut self.portion;
            let Some((base, dump)) = self.sources.front_mut() else {
                self.unsent.extend(portion.take().map(FromDump::Portion));
                self.unsent.push_back(FromDump::Finished);
                self.is_over = true;
                continue;
            };
            let base = *base;
            let ended = dump.advance(fuel, |pane, key, accumulator| {
                // It comes again with the group that is in error.
                if base != ENTRIES || !Ledger::is_standing(pane) {
                    portion.push(base, pane, None, key, accumulator);
                }
                !portion.is_full()
            });
            if portion.is_full() {
                self.unsent.extend(portion.take().map(FromDump::Portion));
            }
            if ended {
                self.sources.pop_front();
            }
        }
    }
}
