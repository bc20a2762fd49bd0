//! Where a start begins, decided from what is found, without any input or output.
//!
//! A checkpoint at a tick and the tick records after it are together everything. So a start takes the newest checkpoint
//! that is whole and that the tick log goes on from; what is older is there for when that one is damaged. The log is
//! only ever replayed from its beginning if its beginning is there.

use crate::time::Tick;

/// One checkpoint as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub epoch: u64,
    /// What it says, unless it cannot be read.
    pub stands_at: Result<StandsAt, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StandsAt {
    pub tick: Tick,
    pub position: u64,
}

/// The tick log as it was found: the positions and ticks of its first and last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TicksFound {
    pub first: (u64, Tick),
    pub last: (u64, Tick),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing was ever admitted here.
    Fresh,
    /// No checkpoint is usable, and none is needed: every tick record is there. With what is wrong with each.
    Replay { damaged: Vec<String> },
    /// With what is wrong with those that are newer.
    Restore { epoch: u64, damaged: Vec<String> },
    /// Nothing that is here leads to where the engine was.
    Stop { reason: String },
}

/// Decides where to begin; candidates in any order.
pub(crate) fn decide(candidates: &[Candidate], ticks: Option<TicksFound>) -> Decision {
    let mut newest_first: Vec<&Candidate> = candidates.iter().collect();
    newest_first.sort_by_key(|candidate| std::cmp::Reverse(candidate.epoch));
    let mut damaged = Vec::new();
    for candidate in newest_first {
        let epoch = candidate.epoch;
        let at = match &candidate.stands_at {
            Ok(at) => at,
            Err(reason) => {
                damaged.push(format!("checkpoint {epoch}: {reason}"));
                continue;
            }
        };
        // Its tick was durable before it was begun. An older one would hide that ticks are lost.
        let last = ticks.map_or((0, 0), |ticks| ticks.last);
        if ticks.is_none() || last.0 < at.position || last.1 < at.tick {
            return Decision::Stop {
                reason: format!(
                    "checkpoint {epoch} stands at tick {}, and the tick log ends at {}: its end is damaged or missing",
                    at.tick, last.1
                ),
            };
        }
        // The record after the tick's own is the first that is needed.
        if ticks.is_some_and(|ticks| ticks.first.0 > at.position + 1) {
            damaged.push(format!(
                "checkpoint {epoch} stands at tick {}, and the tick log has nothing before tick {}",
                at.tick,
                ticks.map_or(0, |ticks| ticks.first.1)
            ));
            continue;
        }
        return Decision::Restore { epoch, damaged };
    }
    match ticks {
        None if damaged.is_empty() => Decision::Fresh,
        Some(ticks) if ticks.first.0 == 0 => Decision::Replay { damaged },
        _ => {
            damaged.push("the tick log does not go back to its beginning".into());
            Decision::Stop {
                reason: damaged.join("; "),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(epoch: u64, position: u64) -> Candidate {
        Candidate {
            epoch,
            stands_at: Ok(StandsAt {
                tick: 100 + position,
                position,
            }),
        }
    }

    fn torn(epoch: u64) -> Candidate {
        Candidate {
            epoch,
            stands_at: Err("torn".into()),
        }
    }

    fn ticks(first: u64, last: u64) -> Option<TicksFound> {
        Some(TicksFound {
            first: (first, 100 + first),
            last: (last, 100 + last),
        })
    }

    fn restored(decision: &Decision) -> Option<u64> {
        match decision {
            Decision::Restore { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    #[test]
    fn the_newest_whole_one_is_taken() {
        assert_eq!(decide(&[], None), Decision::Fresh);
        assert_eq!(decide(&[], ticks(0, 9)), Decision::Replay { damaged: Vec::new() });
        let two = [whole(1, 10), whole(2, 20)];
        assert_eq!(restored(&decide(&two, ticks(0, 30))), Some(2));
        assert_eq!(
            restored(&decide(&two, ticks(20, 20))),
            Some(2),
            "nothing came after it"
        );
        assert_eq!(
            restored(&decide(&two, ticks(21, 30))),
            Some(2),
            "trimmed up to it"
        );
        let fallen_back = decide(&[whole(1, 10), torn(2)], ticks(11, 30));
        assert!(
            matches!(&fallen_back, Decision::Restore { epoch: 1, damaged } if damaged.len() == 1),
            "{fallen_back:?}"
        );
        assert!(matches!(
            decide(&[torn(1), torn(2)], ticks(0, 30)),
            Decision::Replay { damaged } if damaged.len() == 2
        ));
    }

    #[test]
    fn what_leads_nowhere_is_a_stop() {
        for (candidates, found) in [
            // The log was trimmed and no checkpoint can be read.
            (vec![torn(1), torn(2)], ticks(11, 30)),
            (vec![], ticks(1, 30)),
            // What could be read begins before what is kept.
            (vec![whole(1, 10), torn(2)], ticks(12, 30)),
            // Ticks were lost that a checkpoint has seen, even where an older one would do.
            (vec![whole(1, 10), whole(2, 20)], ticks(0, 19)),
            (vec![whole(1, 10)], None),
            (vec![torn(1)], None),
        ] {
            let decision = decide(&candidates, found);
            assert!(
                matches!(decision, Decision::Stop { .. }),
                "{candidates:?} {found:?}: {decision:?}"
            );
        }
    }

    /// The steps of the protocol, interrupted anywhere.
    #[derive(Debug, Clone)]
    enum Step {
        Tick,
        /// A checkpoint begins at the last tick.
        Begin,
        /// Its manifest is created.
        Complete,
        /// Older ones than the two newest are deleted, one at a time.
        DeleteOne,
        /// A part of what the oldest has passed leaves the tick log.
        Trim(u64),
        /// The process ends, and another one starts.
        Crash,
    }

    #[derive(Debug, Default)]
    struct World {
        first: u64,
        next: u64,
        begun: Option<u64>,
        /// Epoch, position.
        complete: Vec<(u64, u64)>,
        epochs: u64,
    }

    impl World {
        fn take(&mut self, step: &Step) {
            match step {
                Step::Tick => self.next += 1,
                Step::Begin if self.next > 0 => self.begun = Some(self.next - 1),
                Step::Complete => {
                    if let Some(position) = self.begun.take() {
                        self.epochs += 1;
                        self.complete.push((self.epochs, position));
                    }
                }
                Step::DeleteOne if self.complete.len() > 2 => drop(self.complete.remove(0)),
                Step::Trim(upto) if self.complete.len() >= 2 => {
                    let oldest = self.complete[self.complete.len() - 2].1;
                    self.first = self.first.max((*upto).min(oldest));
                }
                Step::Crash => self.begun = None,
                Step::Begin | Step::DeleteOne | Step::Trim(_) => {}
            }
        }

        fn ticks(&self, lost: u64) -> Option<TicksFound> {
            let next = self.next.saturating_sub(lost);
            (next > self.first).then(|| TicksFound {
                first: (self.first, 100 + self.first),
                last: (next - 1, 100 + next - 1),
            })
        }

        fn candidates(&self, damaged: &[u64]) -> Vec<Candidate> {
            let of = |(epoch, position): &(u64, u64)| match damaged.contains(epoch) {
                true => torn(*epoch),
                false => whole(*epoch, *position),
            };
            self.complete.iter().map(of).collect()
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Tick),
            2 => Just(Step::Begin),
            2 => Just(Step::Complete),
            2 => Just(Step::DeleteOne),
            2 => (0..200_u64).prop_map(Step::Trim),
            1 => Just(Step::Crash),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        /// After every step: a start finds a way, and it is the newest checkpoint; also with any one of those that are
        /// kept damaged; with more damage, or ticks lost that a checkpoint has seen, it goes on from what is whole or stops,
        /// and never leaves out a tick.
        #[test]
        fn wherever_the_process_ends_a_start_goes_on_from_there(
            steps in proptest::collection::vec(step(), 1..120),
            lost in 1..5_u64,
        ) {
            let mut world = World::default();
            for step in &steps {
                world.take(step);
                let ticks = world.ticks(0);
                let decision = decide(&world.candidates(&[]), ticks);
                match world.complete.last() {
                    Some((epoch, _)) => prop_assert_eq!(restored(&decision), Some(*epoch)),
                    None if world.next == 0 => prop_assert_eq!(decision, Decision::Fresh),
                    None => prop_assert_eq!(decision, Decision::Replay { damaged: Vec::new() }),
                }
                for (place, (epoch, _)) in world.complete.iter().enumerate() {
                    let decision = decide(&world.candidates(&[*epoch]), ticks);
                    let left = world.complete.iter().filter(|(other, _)| other != epoch).map(|(other, _)| *other);
                    match left.max() {
                        Some(other) => prop_assert_eq!(restored(&decision), Some(other), "without {}", place),
                        None => prop_assert!(matches!(decision, Decision::Replay { .. }), "{:?}", decision),
                    }
                }
                let all: Vec<u64> = world.complete.iter().map(|(epoch, _)| *epoch).collect();
                if let (false, decision) = (all.is_empty(), decide(&world.candidates(&all), ticks)) {
                    match world.first {
                        0 => prop_assert!(matches!(decision, Decision::Replay { .. }), "{:?}", decision),
                        _ => prop_assert!(matches!(decision, Decision::Stop { .. }), "{:?}", decision),
                    }
                }
                let shortened = world.ticks(lost);
                if let Some((_, position)) = world.complete.last()
                    && shortened.is_none_or(|ticks| ticks.last.0 < *position)
                {
                    let decision = decide(&world.candidates(&[]), shortened);
                    prop_assert!(matches!(decision, Decision::Stop { .. }), "{:?}", decision);
                }
            }
        }
    }
}
