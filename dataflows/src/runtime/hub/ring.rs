//! The last frames of one relation, for subscribers that come back or ask for a tick that has passed.

use std::collections::VecDeque;

use crate::runtime::consolidate::TickChanges;
use crate::runtime::views::Relation;
use crate::time::Tick;

/// Frames older than this leave the ring.
pub(super) const RING_MS: u64 = 5 * 60 * 1_000;
/// Bytes of frames kept per view; beyond it the oldest leave earlier.
const RING_BYTES: usize = 16 << 20;

pub(super) struct Ring {
    pub relation: Relation,
    frames: VecDeque<(Tick, TickChanges)>,
    bytes: usize,
    /// The ring holds every change at a tick ≥ this.
    pub floor: Tick,
}

impl Ring {
    pub fn new(relation: Relation) -> Ring {
        Ring {
            floor: relation.view.installed_at,
            relation,
            frames: VecDeque::new(),
            bytes: 0,
        }
    }

    pub fn push(&mut self, tick: Tick, changes: TickChanges) {
        self.relation.count(changes.rows(), changes.updates());
        self.bytes += changes.approximate_bytes();
        self.frames.push_back((tick, changes));
        while let Some((oldest, changes)) = self.frames.front() {
            if self.bytes <= RING_BYTES && oldest + RING_MS >= tick {
                break;
            }
            self.floor = oldest + 1;
            self.bytes -= changes.approximate_bytes();
            self.frames.pop_front();
        }
    }

    pub fn since(&self, from: Tick) -> Vec<(Tick, TickChanges)> {
        self.frames
            .iter()
            .filter(|(tick, _)| *tick >= from)
            .cloned()
            .collect()
    }
}
