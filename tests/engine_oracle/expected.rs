//! What a view and its companions must hold at a tick: the contract's rules over the rows admitted until then.
//!
//! Shares neither the lowering nor the dataflow with the engine; marks come from the tick log as it lies on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimestampMicrosecondType};
use pyflare_connectors::TickLog;
use pyflare_log::FileTickLog;

use crate::bed::{Content, add_rows};
use crate::cases::{Case, Errors, planned};

const MINUTE_US: i64 = 60_000_000;
const DIVISION: &str = "Arrow error: Divide by zero error";

/// The mark of a stream after each tick.
pub struct Marks(BTreeMap<u64, Option<i64>>);

impl Marks {
    /// `stream` as the tick log names it: `traces`, or the number of a user's stream.
    pub fn read(directory: &Path, stream: &serde_json::Value) -> Marks {
        let mut marks = BTreeMap::new();
        let log = FileTickLog::open(directory.join("ticks")).unwrap();
        log.read(&mut |_, payload| {
            let record: serde_json::Value = serde_json::from_slice(payload).unwrap();
            let listed = record["marks"].as_array().cloned().unwrap_or_default();
            let of_stream = listed.iter().find(|mark| mark[0] == *stream);
            marks.insert(
                record["tick"].as_u64().unwrap(),
                of_stream.and_then(|mark| mark[1].as_i64()),
            );
            Ok(())
        })
        .unwrap();
        Marks(marks)
    }

    /// As before the tick before this one.
    pub fn before_last(&self, tick: u64) -> Option<i64> {
        let (last, _) = self.0.range(..tick).next_back()?;
        self.before(*last)
    }

    pub fn before(&self, tick: u64) -> Option<i64> {
        self.0.range(..tick).next_back().and_then(|(_, mark)| *mark)
    }
}

/// One admitted row, as far as time is concerned.
struct Row {
    tick: i64,
    pane_end: i64,
    late: bool,
}

/// A row that the monitor would count, with what its companions show of it.
struct Counted {
    project: String,
    row: Row,
    bad: bool,
}

pub struct Oracle<'a> {
    case: &'a Case,
    rows: &'a RecordBatch,
    marks: &'a Marks,
    times: Vec<Row>,
    counted: Vec<Counted>,
}

impl<'a> Oracle<'a> {
    pub fn new(case: &'a Case, rows: &'a RecordBatch, marks: &'a Marks) -> Oracle<'a> {
        let times = rows_in_time(case, rows);
        let bad = match case.errors {
            Errors::Rows(condition) => condition,
            _ => "false",
        };
        let query = planned(&format!(
            "CREATE MONITOR counted AS SELECT project AS owner, event_time AS happened, _tick AS tick, _mark AS mark,
               coalesce({bad}, false) AS bad FROM spans WHERE {}",
            case.rows
        ));
        let found = pyflare_sql::oracle::batch(&query, std::slice::from_ref(rows)).unwrap();
        let renamed = RecordBatch::try_from_iter([
            ("event_time", Arc::clone(found.column(1))),
            ("_tick", Arc::clone(found.column(2))),
            ("_mark", Arc::clone(found.column(3))),
        ])
        .unwrap();
        let owners = cast(found.column(0), &DataType::Utf8).unwrap();
        let counted = rows_in_time(case, &renamed)
            .into_iter()
            .enumerate()
            .map(|(index, row)| Counted {
                project: owners.as_string::<i32>().value(index).to_string(),
                row,
                bad: found.column(4).as_boolean().value(index),
            })
            .collect();
        Oracle {
            case,
            rows,
            marks,
            times,
            counted,
        }
    }

    /// Rows that were too late for the view, and rows in it that have left since, at `tick`.
    pub fn left_out(&self, tick: u64) -> (usize, usize) {
        let admitted = self.times.iter().filter(|row| row.tick <= tick as i64);
        let until = self.expired_until(tick);
        let late = self.counted.iter().filter(|counted| counted.row.late).count();
        let gone = admitted
            .filter(|row| !row.late && Some(row.pane_end) <= until)
            .count();
        (late, gone)
    }

    fn expired_until(&self, tick: u64) -> Option<i64> {
        let definition = &self.case.definition;
        let mark = self.marks.before(tick)?;
        let until = mark - definition.lateness_us() - definition.retention_us();
        if !definition.options.emit_final {
            return Some(until);
        }
        // A window that closes at this tick does not leave at it.
        let closed = self.marks.before_last(tick)? - definition.lateness_us();
        Some(until.min(closed))
    }

    /// The rows that count at `tick`: admitted, and their pane still there.
    fn living(&self, tick: u64) -> RecordBatch {
        let until = self.expired_until(tick);
        let definition = &self.case.definition;
        let closed = self
            .marks
            .before(tick)
            .map(|mark| mark - definition.lateness_us());
        let is_shown =
            |row: &Row| !definition.options.emit_final || closed.is_some_and(|closed| row.pane_end <= closed);
        let lives = |row: &Row| {
            row.tick <= tick as i64
                && !row.late
                && until.is_none_or(|until| row.pane_end > until)
                && is_shown(row)
        };
        let mask: BooleanArray = self.times.iter().map(|row| Some(lives(row))).collect();
        filter_record_batch(self.rows, &mask).unwrap()
    }

    pub fn view(&self, schema: &SchemaRef, tick: u64) -> Content {
        let batch = pyflare_sql::oracle::batch(&self.case.equal, &[self.living(tick)]).unwrap();
        let mut content = Content::new();
        add_rows(schema, &batch, None, &mut content);
        content
    }

    /// What a store has of the view at `tick`: it does not take back what expires.
    pub fn stored(&self, schema: &SchemaRef, tick: u64) -> Content {
        let definition = &self.case.definition;
        let closed = self
            .marks
            .before(tick)
            .map(|mark| mark - definition.lateness_us());
        let is_shown =
            |row: &Row| !definition.options.emit_final || closed.is_some_and(|closed| row.pane_end <= closed);
        let counts = |row: &Row| row.tick <= tick as i64 && !row.late && is_shown(row);
        let mask: BooleanArray = self.times.iter().map(|row| Some(counts(row))).collect();
        let rows = filter_record_batch(self.rows, &mask).unwrap();
        let batch = pyflare_sql::oracle::batch(&self.case.equal, &[rows]).unwrap();
        let mut content = Content::new();
        add_rows(schema, &batch, None, &mut content);
        content
    }

    /// Rows stay in a companion for the retention after the minute in which they were admitted.
    fn shown(&self, admitted: i64, tick: u64) -> bool {
        admitted + MINUTE_US + self.case.definition.retention_us() > tick as i64 * 1_000
    }

    pub fn late(&self, schema: &SchemaRef, tick: u64) -> Content {
        let mut counts: BTreeMap<(String, i64, i64), i64> = BTreeMap::new();
        for Counted { project, row, .. } in &self.counted {
            let admitted = minute(row.tick);
            if row.late && row.tick <= tick as i64 && self.shown(admitted, tick) {
                *counts
                    .entry((project.clone(), row.pane_end, admitted))
                    .or_default() += self.case.bases;
            }
        }
        let pane_us = pane_us(self.case);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(counts.keys().map(|key| &key.0))),
            times_column(counts.keys().map(|key| Some(key.1 - pane_us))),
            times_column(counts.keys().map(|key| Some(key.1))),
            times_column(counts.keys().map(|key| Some(key.2))),
            Arc::new(counts.values().copied().collect::<Int64Array>()),
        ];
        content_of(schema, columns)
    }

    pub fn errors(&self, schema: &SchemaRef, tick: u64) -> Content {
        let mut counts: BTreeMap<(String, Option<i64>), i64> = BTreeMap::new();
        for Counted { project, row, bad } in &self.counted {
            let admitted = minute(row.tick);
            if *bad && !row.late && row.tick <= tick as i64 && self.shown(admitted, tick) {
                *counts.entry((project.clone(), Some(admitted))).or_default() += 1;
            }
        }
        if let Errors::Groups(query) = &self.case.errors {
            let groups = pyflare_sql::oracle::batch(query, &[self.living(tick)])
                .unwrap()
                .num_rows();
            if groups > 0 {
                counts.insert(("default".into(), None), groups as i64);
            }
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(counts.keys().map(|key| &key.0))),
            Arc::new(StringViewArray::from_iter_values(counts.keys().map(|_| DIVISION))),
            times_column(counts.keys().map(|key| key.1)),
            Arc::new(counts.values().copied().collect::<Int64Array>()),
        ];
        content_of(schema, columns)
    }
}

fn pane_us(case: &Case) -> i64 {
    // Without a window: a hundredth of the retention, a second at least.
    case.window_us
        .unwrap_or((case.definition.retention_us() / 100).max(1_000_000))
}

fn rows_in_time(case: &Case, rows: &RecordBatch) -> Vec<Row> {
    let (pane_us, definition) = (pane_us(case), &case.definition);
    let column = |name: &str| rows.column_by_name(name).unwrap();
    let at = column("event_time").as_primitive::<TimestampMicrosecondType>();
    let ticks = column("_tick").as_primitive::<Int64Type>();
    let marks = column("_mark").as_primitive::<Int64Type>();
    let row = |index: usize| {
        let time = at.value(index);
        let pane_end = time - time.rem_euclid(pane_us) + pane_us;
        let mark = marks.is_valid(index).then(|| marks.value(index));
        // A final window takes no more rows; any other takes them until it leaves.
        let kept = if definition.options.emit_final {
            0
        } else {
            definition.retention_us()
        };
        let expired = mark.map(|mark| mark - definition.lateness_us() - kept);
        Row {
            tick: ticks.value(index),
            pane_end,
            late: expired.is_some_and(|until| pane_end <= until),
        }
    };
    (0..rows.num_rows()).map(row).collect()
}

fn minute(tick: i64) -> i64 {
    tick * 1_000 - (tick * 1_000).rem_euclid(MINUTE_US)
}

fn times_column(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn content_of(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Content {
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).unwrap();
    let mut content = Content::new();
    add_rows(schema, &batch, None, &mut content);
    content
}
