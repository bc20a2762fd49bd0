//! The product of two sides, key by key, that can be left at any pair.
//!
//! Differential dataflow's own join makes all pairs of one key before anybody else comes to turn; with a key that all
//! rows share, that is minutes and all memory. This one gives a container at a time and ends when the graph's budget is
//! spent. Times are ticks, totally ordered: the later one is that of the pair.

use differential_dataflow::AsCollection;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::operators::join::{Fresh, JoinTactic, join_with_tactic};
use differential_dataflow::trace::cursor::{Cursor, CursorList, cursor_list};
use differential_dataflow::trace::implementations::ord_neu::OrdValSpine;
use differential_dataflow::trace::{BatchCursor, TraceReader};

use super::budget::Meter;
use super::rows::{Row, Rows};
use crate::time::Tick;

/// Records of one container.
const CONTAINER_RECORDS: usize = 1_024;

pub(super) type KeyedTrace = TraceAgent<OrdValSpine<Row, Row, Tick, i64>>;
type KeyedBatch = <KeyedTrace as TraceReader>::Batch;
type KeyedCursor = CursorList<BatchCursor<KeyedTrace>>;
type Container = Vec<(Row, Tick, i64)>;

/// The bytes of each left row with those of each right row of the same key behind.
pub(super) fn product<'s>(
    left: Arranged<'s, KeyedTrace>,
    right: Arranged<'s, KeyedTrace>,
    meter: &Meter,
) -> Rows<'s> {
    let tactic = Product { meter: meter.clone() };
    join_with_tactic::<_, _, _, Container>(left, right, "pairs", tactic).as_collection()
}

struct Product {
    meter: Meter,
}

impl JoinTactic<Tick, KeyedBatch, KeyedBatch, Container> for Product {
    fn prep(
        &mut self,
        left: Vec<KeyedBatch>,
        right: Vec<KeyedBatch>,
        _fresh: Fresh,
        meet: Tick,
    ) -> Box<dyn Iterator<Item = Container>> {
        let (left, right) = (Side::over(left), Side::over(right));
        Box::new(Pairs {
            left,
            right,
            meet,
            rights: Loaded::default(),
            at: None,
            edits: Vec::new(),
            meter: self.meter.clone(),
        })
    }
}

struct Side {
    cursor: KeyedCursor,
    storage: Vec<KeyedBatch>,
}

impl Side {
    fn over(batches: Vec<KeyedBatch>) -> Side {
        let (cursor, storage) = cursor_list(batches);
        Side { cursor, storage }
    }

    /// The updates of the current row, those before `meet` as of then.
    fn edits(&mut self, meet: Tick, into: &mut Vec<(Tick, i64)>) {
        into.clear();
        self.cursor.map_times(&self.storage, |tick, diff| {
            into.push(((*tick).max(meet), *diff));
        });
        if into.len() > 1 {
            into.sort_unstable();
            into.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    earlier.1 += later.1;
                }
                same
            });
        }
        into.retain(|(_, diff)| *diff != 0);
    }
}

/// The right rows of one key.
#[derive(Default)]
struct Loaded {
    bytes: Vec<u8>,
    /// Ends of each row in `bytes` and in `edits`.
    ends: Vec<(usize, usize)>,
    edits: Vec<(Tick, i64)>,
}

impl Loaded {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.edits.clear();
    }

    fn row(&self, index: usize) -> (&[u8], &[(Tick, i64)]) {
        let (start, first) = index.checked_sub(1).map_or((0, 0), |before| self.ends[before]);
        let (end, last) = self.ends[index];
        (&self.bytes[start..end], &self.edits[first..last])
    }
}

/// Pairs that are still to be made.
struct Pairs {
    left: Side,
    right: Side,
    /// No pair is earlier than this.
    meet: Tick,
    /// Of the key at hand.
    rights: Loaded,
    /// The right row that comes next, for the current left row; `None`: the next key is to be found.
    at: Option<usize>,
    /// Of the current left row.
    edits: Vec<(Tick, i64)>,
    meter: Meter,
}

impl Pairs {
    /// Goes to the next key that both sides have, and loads its rows.
    fn find_key(&mut self) -> bool {
        loop {
            let left = self.left.cursor.get_key(&self.left.storage);
            let right = self.right.cursor.get_key(&self.right.storage);
            let (Some(left), Some(right)) = (left, right) else {
                return false;
            };
            match left.cmp(right) {
                std::cmp::Ordering::Less => {
                    self.left.cursor.seek_key(&self.left.storage, right);
                    continue;
                }
                std::cmp::Ordering::Greater => {
                    self.right.cursor.seek_key(&self.right.storage, left);
                    continue;
                }
                std::cmp::Ordering::Equal => {}
            }
            self.rights.clear();
            let mut edits = Vec::new();
            while self.right.cursor.val_valid(&self.right.storage) {
                self.right.edits(self.meet, &mut edits);
                if let Some(row) = self.right.cursor.get_val(&self.right.storage)
                    && !edits.is_empty()
                {
                    self.rights.bytes.extend_from_slice(row);
                    self.rights.edits.append(&mut edits);
                    let ends = (self.rights.bytes.len(), self.rights.edits.len());
                    self.rights.ends.push(ends);
                }
                self.right.cursor.step_val(&self.right.storage);
            }
            self.right.cursor.step_key(&self.right.storage);
            self.left.edits(self.meet, &mut self.edits);
            self.at = Some(0);
            return true;
        }
    }

    /// Makes pairs of the current left row until the container is full; `false`: its pairs are all made.
    fn fill(&mut self, container: &mut Container) -> bool {
        let Some(row) = self.left.cursor.get_val(&self.left.storage) else {
            return false;
        };
        let mut at = self.at.unwrap_or(0);
        while !self.edits.is_empty() && at < self.rights.ends.len() {
            if container.len() >= CONTAINER_RECORDS {
                self.at = Some(at);
                return true;
            }
            let (other, edits) = self.rights.row(at);
            for (tick, diff) in &self.edits {
                for (other_tick, other_diff) in edits {
                    let pair = Row::joined(&[row, other]);
                    container.push((pair, *tick.max(other_tick), diff * other_diff));
                }
            }
            at += 1;
        }
        false
    }

    fn next_left(&mut self) {
        self.left.cursor.step_val(&self.left.storage);
        match self.left.cursor.val_valid(&self.left.storage) {
            true => {
                self.left.edits(self.meet, &mut self.edits);
                self.at = Some(0);
            }
            false => {
                self.left.cursor.step_key(&self.left.storage);
                self.at = None;
            }
        }
    }
}

impl Iterator for Pairs {
    type Item = Container;

    fn next(&mut self) -> Option<Container> {
        let mut container = Container::new();
        while !self.meter.is_spent() {
            if self.at.is_none() && !self.find_key() {
                break;
            }
            if self.fill(&mut container) {
                break;
            }
            self.next_left();
        }
        let bytes: usize = container.iter().map(|(row, ..)| row.len()).sum();
        self.meter.count(container.len() as u64, bytes as u64);
        (!container.is_empty()).then_some(container)
    }
}
