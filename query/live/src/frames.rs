//! From the engine's frames to the client's: progress thinned out, rows written as JSON.
//!
//! Progress is sent at most every 250 ms. A frame that is held back is not lost but merged into the next one sent,
//! whose `lower` is then the held one's: so the frames that are sent still follow on without gap or overlap.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use pyflare_history::encode::{Int64Mode, write_cell};

use crate::protocol::{frame_head, frame_tail};
use crate::views::Frame;

/// Shortest time between two frames of which the second carries nothing but progress.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Decides which frames go out. Pure: the time is an argument.
pub(crate) struct Pacer {
    progress: bool,
    /// Ticks reported by the engine that the client has not heard of, and the token at their end.
    held: Option<Held>,
    last_sent: Option<Instant>,
}

struct Held {
    lower: u64,
    upper: u64,
    resume: String,
}

impl Pacer {
    pub fn new(progress: bool) -> Pacer {
        Pacer {
            progress,
            held: None,
            last_sent: None,
        }
    }

    /// The frame to send now, if any.
    pub fn push(&mut self, mut frame: Frame, now: Instant) -> Option<Frame> {
        let held = self.held.take();
        if !frame.reset
            && let Some(held) = &held
        {
            debug_assert!(frame.lower >= held.upper, "the engine's frames follow on");
            frame.lower = held.lower;
        }
        if frame.reset || !frame.diffs.is_empty() || self.due(now) {
            self.last_sent = Some(now);
            return Some(frame);
        }
        self.held = Some(Held {
            lower: frame.lower,
            upper: frame.upper,
            resume: frame.resume,
        });
        None
    }

    /// When [`Pacer::flush`] has something to say.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.progress && self.held.is_some();
        let last = self.last_sent.filter(|_| waiting)?;
        Some(last + PROGRESS_INTERVAL)
    }

    /// Held progress as a frame without rows.
    pub fn flush(&mut self, now: Instant) -> Option<Frame> {
        if !self.due(now) {
            return None;
        }
        let held = self.held.take()?;
        self.last_sent = Some(now);
        Some(Frame {
            lower: held.lower,
            upper: held.upper,
            reset: false,
            batch: None,
            diffs: Vec::new(),
            resume: held.resume,
        })
    }

    fn due(&self, now: Instant) -> bool {
        self.progress
            && self
                .last_sent
                .is_none_or(|last| now.duration_since(last) >= PROGRESS_INTERVAL)
    }
}

/// Leaves of each key the row it has now, or, where it has none, the row it had. Differences become 1 and −1; rows that
/// are left out get 0.
pub(crate) fn last_of_each_key(frame: &mut Frame, key: &[usize]) {
    let Some(batch) = &frame.batch else { return };
    let mut of_key: HashMap<String, usize> = HashMap::new();
    for row in 0..batch.num_rows() {
        let mut text = String::new();
        for column in key {
            write_cell(&mut text, batch.column(*column).as_ref(), row, Int64Mode::Number);
            text.push(',');
        }
        let diff = frame.diffs[row].signum();
        frame.diffs[row] = diff;
        if diff == 0 {
            continue;
        }
        match of_key.entry(text) {
            Entry::Vacant(entry) => drop(entry.insert(row)),
            Entry::Occupied(mut entry) => {
                // A row that comes stands for its key; one that goes with it is what it was before.
                let other = if diff > 0 { entry.insert(row) } else { row };
                frame.diffs[other] = 0;
            }
        }
    }
}

/// The message of a frame. Rows whose multiplicity is zero say nothing and are left out.
pub(crate) fn encode(id: &str, frame: &Frame, int64: Int64Mode) -> String {
    use std::fmt::Write;
    let rows = frame.batch.as_ref().map_or(0, |batch| batch.num_rows());
    let width = frame.batch.as_ref().map_or(0, |batch| batch.num_columns());
    let mut out = String::with_capacity(160 + id.len() + frame.resume.len() + rows * (4 + 12 * width));
    frame_head(&mut out, id, frame.lower, frame.upper, frame.reset);
    if let Some(batch) = &frame.batch {
        let mut first = true;
        for (row, diff) in frame.diffs.iter().enumerate().take(batch.num_rows()) {
            if *diff == 0 {
                continue;
            }
            out.push_str(if first { "[" } else { ",[" });
            first = false;
            let _ = write!(out, "{diff}");
            for column in batch.columns() {
                out.push(',');
                write_cell(&mut out, column.as_ref(), row, int64);
            }
            out.push(']');
        }
    }
    frame_tail(&mut out, &frame.resume);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use proptest::prelude::*;

    use super::*;

    fn progress(lower: u64, upper: u64) -> Frame {
        Frame {
            lower,
            upper,
            reset: false,
            batch: None,
            diffs: Vec::new(),
            resume: format!("r{upper}"),
        }
    }

    fn change(lower: u64, upper: u64, rows: usize) -> Frame {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        Frame {
            batch: Some(batch),
            diffs: vec![1; rows],
            ..progress(lower, upper)
        }
    }

    proptest! {
        /// Whatever the engine reports and however time passes: what is sent follows on, no change is held back,
        /// and progress comes at most four times a second.
        #[test]
        fn frames_sent_follow_on(wants in any::<bool>(), steps in prop::collection::vec((0u64..400, 0usize..3, any::<bool>()), 1..200)) {
            let start = Instant::now();
            let mut pacer = Pacer::new(wants);
            let (mut tick, mut at, mut upper) = (10u64, Duration::ZERO, 10u64);
            let mut quiet: Vec<Duration> = Vec::new();
            for (wait, rows, timer) in steps {
                at += Duration::from_millis(wait);
                let frame = if timer {
                    pacer.flush(start + at)
                } else {
                    tick += 5;
                    let sent = pacer.push(if rows == 0 { progress(tick - 5, tick) } else { change(tick - 5, tick, rows) }, start + at);
                    prop_assert!(rows == 0 || sent.is_some(), "a change was held back");
                    sent
                };
                if let Some(frame) = frame {
                    prop_assert_eq!(frame.lower, upper);
                    prop_assert!(frame.upper > frame.lower);
                    prop_assert_eq!(&frame.resume, &format!("r{}", frame.upper));
                    upper = frame.upper;
                    if frame.diffs.is_empty() { quiet.push(at); prop_assert!(wants); }
                }
            }
            for pair in quiet.windows(2) {
                prop_assert!(pair[1] - pair[0] >= PROGRESS_INTERVAL);
            }
        }
    }

    #[test]
    fn an_upsert_has_each_key_once() {
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "a", "b", "c", "d", "d", "e"]));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values([1, 2, 3, 4, 6, 5, 7]));
        let mut frame = Frame {
            batch: Some(RecordBatch::try_from_iter([("key", keys), ("n", values)]).unwrap()),
            diffs: vec![-1, 1, -1, 1, 1, -1, 0],
            ..progress(1, 5)
        };
        last_of_each_key(&mut frame, &[0]);
        let text = encode("u", &frame, Int64Mode::Number);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value["rows"],
            serde_json::json!([[1, "a", 2], [-1, "b", 3], [1, "c", 4], [1, "d", 6]])
        );
    }

    #[test]
    fn a_frame_is_one_json_object_with_its_rows() {
        let names: ArrayRef = Arc::new(StringArray::from(vec![
            Some("a\"\\\u{7}\u{2028}é"),
            None,
            Some("gone"),
        ]));
        let counts: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN, 0]));
        let batch = RecordBatch::try_from_iter([("name", names), ("n", counts)]).unwrap();
        let frame = Frame {
            batch: Some(batch),
            diffs: vec![1, -2, 0],
            reset: true,
            ..progress(1, 5)
        };
        let text = encode("i\"d", &frame, Int64Mode::String);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "type": "frame", "id": "i\"d", "lower": 1, "upper": 5, "reset": true, "resume": "r5",
                "rows": [[1, "a\"\\\u{7}\u{2028}é", "9223372036854775807"], [-2, null, "-9223372036854775808"]],
            })
        );
    }
}
