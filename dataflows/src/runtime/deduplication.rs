//! Which request bodies were admitted within the last hour.

use std::collections::{HashSet, VecDeque};

use crate::time::Tick;

/// The same body within this time is one admission.
const DEDUPLICATION_MS: u64 = 3_600_000;
/// Ticks are at most a second apart; what is longer than this counts as this.
const GREATEST_GAP_MS: u64 = 60_000;

/// Body hashes and when they were admitted, in time that passed while ticks ran.
///
/// A gap between two ticks is a stop of the server or a step of its clock. It counts little, so that a client's retry
/// after it meets its first attempt.
#[derive(Default)]
pub(super) struct Seen {
    now_ms: u64,
    last_tick: Tick,
    hashes: HashSet<u128>,
    order: VecDeque<(u64, u128)>,
}

impl Seen {
    /// As it was when so much time had passed, at the end of a tick.
    pub fn restored(now_ms: u64, last_tick: Tick, admitted: Vec<(u64, u128)>) -> Seen {
        Seen {
            now_ms,
            last_tick,
            hashes: admitted.iter().map(|(_, hash)| *hash).collect(),
            order: admitted.into(),
        }
    }

    /// The hashes, each with when it was admitted, and how much time has passed.
    pub fn kept(&self) -> (Vec<(u64, u128)>, u64) {
        (self.order.iter().copied().collect(), self.now_ms)
    }

    /// False if the hash was already there.
    pub fn insert(&mut self, hash: u128) -> bool {
        let fresh = self.hashes.insert(hash);
        if fresh {
            self.order.push_back((self.now_ms, hash));
        }
        fresh
    }

    /// Time passes until `tick`; what is too old is forgotten.
    pub fn pass(&mut self, tick: Tick) {
        self.now_ms += tick.saturating_sub(self.last_tick).min(GREATEST_GAP_MS);
        self.last_tick = tick;
        while let Some((at, hash)) = self.order.front().copied() {
            if at + DEDUPLICATION_MS >= self.now_ms {
                break;
            }
            self.order.pop_front();
            self.hashes.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks of a second until so many milliseconds later.
    fn run(seen: &mut Seen, milliseconds: u64) {
        let until = seen.last_tick + milliseconds;
        while seen.last_tick < until {
            seen.pass((seen.last_tick + 1_000).min(until));
        }
    }

    #[test]
    fn a_hash_counts_once_within_an_hour_and_again_after_it() {
        let mut seen = Seen::default();
        seen.pass(1_000_000);
        assert!(seen.insert(7));
        run(&mut seen, DEDUPLICATION_MS);
        assert!(!seen.insert(7));
        run(&mut seen, 1);
        assert!(seen.insert(7));
        assert_eq!((seen.hashes.len(), seen.order.len()), (1, 1));
    }

    #[test]
    fn a_stop_or_a_step_of_the_clock_forgets_little() {
        let mut seen = Seen::default();
        seen.pass(1_000_000);
        assert!(seen.insert(7));
        seen.pass(1_000_000 + 48 * DEDUPLICATION_MS);
        assert!(!seen.insert(7));
        run(&mut seen, DEDUPLICATION_MS - GREATEST_GAP_MS);
        assert!(!seen.insert(7));
        run(&mut seen, 1);
        assert!(seen.insert(7));
    }
}
