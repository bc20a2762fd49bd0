//! The start: a checkpoint if there is one, and the logged ticks after it, with what each of them took.
//!
//! A replayed tick goes the way of a new one, save that nothing is decided: the records say it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyflare_connectors::faults::{self, Step};

use super::EngineError;
use super::checkpoint::{TicksFound, digest};
use super::coordinator::{Coordinator, Outlook};
use super::erasure::Erased;
use super::limits::{self, Stop};
use super::messages::AppliedCommand;
use super::streams::{InstalledStream, Marks};
use super::tick_record::{Command, TickRecord};
use super::topics::Feeding;
use crate::time::Tick;

impl Coordinator {
    /// Replays the tick log; everything admitted before comes out as it did.
    pub fn replay(&mut self) -> Result<u64, EngineError> {
        self.gauges.replaying.store(true, Ordering::Release);
        let mut records = Vec::new();
        let tick_log = Arc::clone(&self.tick_log);
        tick_log
            .read(&mut |position, payload| {
                records.push((position, payload.to_vec()));
                Ok(())
            })
            .map_err(|error| EngineError::TickLog {
                detail: error.to_string(),
            })?;
        let decoded = |(_, payload): (u64, Vec<u8>)| {
            TickRecord::decode(&payload).map_err(|detail| EngineError::TickLog {
                detail: format!("a tick record cannot be read: {detail}"),
            })
        };
        let found = match (records.first(), records.last()) {
            (Some(first), Some(last)) => Some(TicksFound {
                first: (first.0, decoded(first.clone())?.tick),
                last: (last.0, decoded(last.clone())?.tick),
            }),
            _ => None,
        };
        for (_, payload) in records
            .iter()
            .filter(|(_, payload)| TickRecord::may_have_gaps(payload))
        {
            let record = decoded((0, payload.clone()))?;
            self.admission.gaps().add(record.gaps);
        }
        let is_fresh = found.is_none();
        let record_at = |position: u64| {
            let place = records
                .binary_search_by_key(&position, |(position, _)| *position)
                .ok()?;
            Some(digest(&records[place].1))
        };
        let restored = self.restore(found, &record_at)?;
        if is_fresh && restored.is_none() {
            self.admission.begin();
        }
        if restored.is_some() {
            faults::at(Step::Restored);
        }
        let mut replayed = 0;
        let after = |(position, _): &(u64, Vec<u8>)| restored.is_none_or(|restored| *position > restored);
        let mut records = records.into_iter().filter(after);
        let mut next = records.next().map(decoded).transpose()?;
        while let Some(record) = next {
            next = records.next().map(decoded).transpose()?;
            self.admission.open(record.tick);
            // The newest tick is always emitted: readers begin there.
            if next.is_some() && self.is_eventless(&record) {
                self.previous_marks = self.admission.marks();
                self.admission.close_logged(&record.partitions, &record.marks);
                continue;
            }
            self.replay_tick(record, next.as_ref())?;
            replayed += 1;
        }
        faults::at(Step::Replayed);
        self.admission.follow();
        self.resume_erasures()?;
        self.gauges.replayed.store(replayed, Ordering::Relaxed);
        self.gauges.replaying.store(false, Ordering::Release);
        Ok(replayed)
    }

    /// Whether a logged tick changed no view: only time passed, and nothing's time was over.
    fn is_eventless(&self, record: &TickRecord) -> bool {
        record.partitions.is_empty()
            && record.commands.is_empty()
            && self.horizon.lies_beyond(record.tick, &self.admission.marks())
    }

    /// `next` is the record after it, which says what was aborted at this tick; what the newest tick leads to has not
    /// been decided yet.
    fn replay_tick(&mut self, record: TickRecord, next: Option<&TickRecord>) -> Result<(), EngineError> {
        let tick = record.tick;
        let outlook = Outlook {
            aborted: limits::aborted_at(tick, next),
            enforced: next.is_none(),
            ..Outlook::default()
        };
        let marks = self.admission.marks();
        let taken = self
            .admission
            .take_logged(&record.partitions)
            .map_err(|error| EngineError::Log {
                detail: error.to_string(),
            })?;
        let mut commands = Vec::new();
        for command in record.commands {
            commands.push(match command {
                Command::Install {
                    id,
                    definition,
                    since,
                } => {
                    self.next_view_id = self.next_view_id.max(id + 1);
                    AppliedCommand::Install(self.replayed_install(
                        id,
                        *definition,
                        (tick, since),
                        &commands,
                    )?)
                }
                Command::Drop { id } => AppliedCommand::Drop { id },
                Command::CreateStream {
                    id,
                    definition,
                    starts,
                } => {
                    self.next_view_id = self.next_view_id.max(id + 1);
                    let feeding = Feeding::reopen(self.log.as_ref(), &definition, starts);
                    let stream = InstalledStream::new(id, *definition, tick).fed(feeding);
                    AppliedCommand::CreateStream(Arc::new(stream))
                }
                Command::DropStream { id } => AppliedCommand::DropStream { id },
                Command::Stop {
                    id,
                    reason,
                    aborted_at,
                } => {
                    let stop = Stop {
                        id,
                        reason,
                        aborted_at,
                    };
                    match self.stop(stop, tick) {
                        Some(command) => command,
                        None => continue,
                    }
                }
                Command::Erase {
                    request,
                    rows,
                    let_go,
                } => {
                    self.next_view_id = self.next_view_id.max(request.id + 1);
                    let erased = Erased {
                        request: *request,
                        at: tick,
                        rows,
                        let_go,
                        is_removed: false,
                    };
                    self.replay_erasure(&erased, &commands)?;
                    AppliedCommand::Erase(erased)
                }
                Command::EraseDone { id } => AppliedCommand::EraseDone { id },
                Command::FlushCut => AppliedCommand::FlushCut,
            });
        }
        if !taken.requests.is_empty() {
            self.decode(tick, Arc::clone(&marks), taken)?;
        }
        self.admission.close_logged(&record.partitions, &record.marks);
        self.commit(tick, marks, commands, outlook)
    }

    /// Installs what a checkpoint had, at its tick.
    pub(super) fn commit_restored(
        &mut self,
        tick: Tick,
        marks_before: Arc<Marks>,
        commands: Vec<AppliedCommand>,
    ) -> Result<(), EngineError> {
        let outlook = Outlook {
            is_restored: true,
            ..Outlook::default()
        };
        self.commit(tick, marks_before, commands, outlook)
    }
}
