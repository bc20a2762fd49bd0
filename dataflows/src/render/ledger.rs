//! What views leave out, kept as relations of their own: `<view>$late` and `<view>$errors`.
//!
//! One arrangement holds the companions of all views. A key is `leaves ‖ view ‖ companion ‖ columns`, where
//! `leaves` is the event time at which the row leaves the companion; the count is the accumulator's rows. Late rows
//! and rows in error are counted by the minute in which they were admitted and stay for the view's retention after
//! it; a group whose result is in error stays until the group changes or goes, whose error it then takes along.
//!
//! Invariants: the content is a function of the rows, the tick log and the definitions alone, whatever the number of
//! workers; while nothing is left out, a tick costs one advance of the input.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use pyflare_operators::aggregate::Accumulator;
use timely::worker::Worker;

use super::arrange::{ArrangedView, PANE_BYTES, key_of, pane_of};
use super::changed::ChangedPanes;
use super::dump::Dump;
use super::key::Key;
use super::leaf::Layout;
use super::left_out::{LateRows, RowErrors};
use super::pipeline::batch_of;
use crate::time::{Tick, tick_us, window_start};

const MINUTE_US: i64 = 60_000_000;
/// Where the columns begin in a key: behind when it leaves, the view and the companion.
const COLUMNS_AT: usize = PANE_BYTES + 8 + 1;
/// Of an error that goes with its group.
const NEVER: i64 = i64::MAX;

/// A relation that PyFlare derives from a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Companion {
    /// Rows that came after their pane had left the view.
    Late,
    /// Rows on which an expression failed, and groups whose result is in error.
    Errors,
}

impl Companion {
    pub const ALL: [Companion; 2] = [Companion::Late, Companion::Errors];

    /// What follows the view's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Companion::Late => "$late",
            Companion::Errors => "$errors",
        }
    }

    /// The view's name and the companion, if this is a companion's name.
    pub fn of_name(name: &str) -> Option<(&str, Companion)> {
        Companion::ALL.into_iter().find_map(|companion| {
            let view = name.strip_suffix(companion.suffix())?;
            (!view.is_empty()).then_some((view, companion))
        })
    }

    pub fn description(self) -> &'static str {
        match self {
            Companion::Late => "Rows left out because they came after their pane had left the view",
            Companion::Errors => "Rows left out because an expression failed on them; groups in error",
        }
    }

    /// The columns; the last is the count, the others identify a row.
    pub fn schema(self) -> SchemaRef {
        static SCHEMAS: OnceLock<[SchemaRef; 2]> = OnceLock::new();
        let schemas = SCHEMAS.get_or_init(|| {
            let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
            let late = vec![
                Field::new("project", DataType::Utf8View, false),
                Field::new("pane_start", time.clone(), false),
                Field::new("pane_end", time.clone(), false),
                Field::new("admitted_at", time.clone(), false),
                Field::new("late_rows", DataType::Int64, false),
            ];
            let errors = vec![
                Field::new("project", DataType::Utf8View, false),
                Field::new("error", DataType::Utf8View, false),
                // NULL for the error of a group, which is there as long as the group is.
                Field::new("admitted_at", time, true),
                Field::new("errors", DataType::Int64, false),
            ];
            [late, errors].map(|fields| Arc::new(Schema::new(fields)))
        });
        Arc::clone(&schemas[self as usize])
    }

    pub fn key_columns(self) -> Vec<usize> {
        (0..self.schema().fields().len() - 1).collect()
    }

    fn converter(self) -> RowConverter {
        let schema = self.schema();
        let keys = schema.fields().iter().take(schema.fields().len() - 1);
        RowConverter::new(
            keys.map(|field| SortField::new(field.data_type().clone()))
                .collect(),
        )
        .expect("invariant: texts and times are encoded as rows")
    }
}

/// Whose rows are entered, and how long they stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page<'a> {
    pub view: u64,
    /// The monitor's project; a built-in view's rows say theirs.
    pub project: Option<&'a str>,
    pub pane_us: i64,
    pub retention_us: i64,
}

/// Rows of one companion with the difference of each.
pub(crate) struct Entered {
    pub view: u64,
    pub companion: Companion,
    pub batch: RecordBatch,
    pub diffs: Vec<i64>,
    /// Rows whose time in the companion is over.
    pub expiry: bool,
}

/// The companions of all views, on one worker.
pub(crate) struct Ledger {
    arranged: ArrangedView,
    converters: [RowConverter; 2],
    /// Dropped views whose entries go at the next tick.
    forgotten: Vec<u64>,
}

impl Ledger {
    /// Every worker does this first, before any view.
    pub fn build(worker: &mut Worker) -> Ledger {
        Ledger {
            arranged: ArrangedView::build(worker, "left out", Layout::Groups, 0),
            converters: Companion::ALL.map(Companion::converter),
            forgotten: Vec::new(),
        }
    }

    /// Takes out what leaves at `tick`; the tick before must be complete.
    pub fn open_tick(&mut self, tick: Tick, since: Tick) {
        self.arranged.compact(since);
        self.arranged.expire(tick_us(tick));
        if !self.forgotten.is_empty() {
            let forgotten = std::mem::take(&mut self.forgotten);
            // What leaves at this tick is taken out already.
            self.arranged
                .take_back(|key| pane_of(key) > tick_us(tick) && forgotten.contains(&view_of(key)));
        }
    }

    /// Whether what was left out of rows admitted at one tick is not shown any more at another.
    pub fn is_over(page: &Page<'_>, admitted: Tick, tick: Tick) -> bool {
        leaves(window_start(tick_us(admitted), MINUTE_US), page) <= tick_us(tick)
    }

    pub fn enter_late(&mut self, page: &Page<'_>, tick: Tick, late: &LateRows) {
        let admitted = window_start(tick_us(tick), MINUTE_US);
        let (mut projects, mut ends, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (project, panes) in late.by_project() {
            for (end, rows) in panes {
                projects.push(page.project.unwrap_or(project));
                ends.push(*end);
                counts.push(*rows);
            }
        }
        let starts = ends.iter().map(|end| end.saturating_sub(page.pane_us));
        let columns = vec![
            Arc::new(StringViewArray::from_iter_values(projects)) as ArrayRef,
            times(starts.map(Some)),
            times(ends.iter().copied().map(Some)),
            times(std::iter::repeat_n(Some(admitted), ends.len())),
        ];
        self.enter(page, Companion::Late, leaves(admitted, page), &columns, &counts);
    }

    /// `standing` errors belong to groups and are taken back with them.
    pub fn enter_errors(&mut self, page: &Page<'_>, tick: Tick, errors: &RowErrors, standing: bool) {
        let admitted = (!standing).then(|| window_start(tick_us(tick), MINUTE_US));
        let (mut projects, mut messages, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for ((project, message), count) in errors.net() {
            projects.push(page.project.unwrap_or(project));
            messages.push(&**message);
            counts.push(*count);
        }
        let columns = vec![
            Arc::new(StringViewArray::from_iter_values(projects)) as ArrayRef,
            Arc::new(StringViewArray::from_iter_values(messages)),
            times(std::iter::repeat_n(admitted, counts.len())),
        ];
        let until = admitted.map_or(NEVER, |admitted| leaves(admitted, page));
        self.enter(page, Companion::Errors, until, &columns, &counts);
    }

    fn enter(
        &mut self,
        page: &Page<'_>,
        companion: Companion,
        until: i64,
        columns: &[ArrayRef],
        counts: &[i64],
    ) {
        let rows = self.converters[companion as usize]
            .convert_columns(columns)
            .expect("invariant: columns have the companion's types");
        for (row, count) in rows.iter().zip(counts) {
            let row = row.as_ref();
            let mut key = Vec::with_capacity(COLUMNS_AT + row.len());
            // As the row format writes an integer that is not NULL.
            key.push(1);
            key.extend_from_slice(&(until ^ i64::MIN).to_be_bytes());
            key.extend_from_slice(&page.view.to_be_bytes());
            key.push(companion as u8);
            key.extend_from_slice(row);
            let count = Accumulator {
                rows: *count,
                ..Accumulator::default()
            };
            self.arranged.update(Key::from(&key[..]), count);
        }
    }

    /// Begins to read the entries at `tick`, which is complete. Those of groups in error come again with the groups:
    /// [`Ledger::is_standing`].
    pub fn dump(&mut self, tick: Tick) -> Dump {
        self.arranged.dump(tick, ChangedPanes::All)
    }

    /// Whether an entry goes with its group, by when it leaves.
    pub fn is_standing(leaves: i64) -> bool {
        leaves == NEVER
    }

    /// Takes an entry that was read by [`Ledger::dump`].
    pub fn adopt(&mut self, leaves: i64, rest: &[u8], count: Accumulator) {
        self.arranged.update(key_of(leaves, rest), count);
    }

    /// The view that an entry read by [`Ledger::dump`] is of.
    pub fn view_of_entry(rest: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(*rest.first_chunk()?))
    }

    pub fn close_tick(&mut self, tick: Tick) {
        self.arranged.close_tick(tick);
    }

    pub fn is_complete(&self, tick: Tick) -> bool {
        self.arranged.is_complete(tick)
    }

    /// No entry of this worker's share leaves before this, microseconds; at once if a view is to be forgotten.
    pub fn next_leave(&self) -> i64 {
        match self.forgotten.is_empty() {
            true => self.arranged.lowest_pane(),
            false => i64::MIN,
        }
    }

    /// The view was dropped: its entries go at the next tick.
    pub fn forget(&mut self, view: u64) {
        self.forgotten.push(view);
    }

    /// What the tick changed, by companion.
    pub fn take_changes(&mut self, tick: Tick) -> Vec<Entered> {
        let changes = self.arranged.take_changes();
        let mut entries: BTreeMap<(u64, Companion, bool), Vec<Entry<'_>>> = BTreeMap::new();
        for change in &changes {
            let expiry = pane_of(&change.key) <= tick_us(tick);
            let side = (view_of(&change.key), companion_of(&change.key), expiry);
            let entries = entries.entry(side).or_default();
            for (accumulator, sign) in [(&change.old, -1), (&change.new, 1)] {
                if let Some(accumulator) = accumulator {
                    entries.push((&change.key[COLUMNS_AT..], accumulator.rows, sign));
                }
            }
        }
        let entered = entries.into_iter().map(|((view, companion, expiry), entries)| {
            let (batch, diffs) = self.rows(companion, &entries);
            Entered {
                view,
                companion,
                batch,
                diffs,
                expiry,
            }
        });
        entered.collect()
    }

    /// This worker's share of a companion at `tick`.
    pub fn read(&mut self, view: u64, companion: Companion, tick: Tick) -> (RecordBatch, Vec<i64>) {
        let mut found: Vec<(Key, i64)> = Vec::new();
        self.arranged.read(tick, |key, accumulator| {
            if view_of(key) == view && companion_of(key) == companion {
                found.push((key.clone(), accumulator.rows));
            }
        });
        let entries: Vec<Entry<'_>> = found
            .iter()
            .map(|(key, rows)| (&key[COLUMNS_AT..], *rows, 1))
            .collect();
        self.rows(companion, &entries)
    }

    fn rows(&self, companion: Companion, entries: &[Entry<'_>]) -> (RecordBatch, Vec<i64>) {
        let converter = &self.converters[companion as usize];
        let parser = converter.parser();
        let mut columns = converter
            .convert_rows(entries.iter().map(|(columns, ..)| parser.parse(columns)))
            .expect("invariant: keys were encoded by this converter");
        columns.push(Arc::new(Int64Array::from_iter_values(
            entries.iter().map(|(_, rows, _)| *rows),
        )));
        let batch = batch_of(&companion.schema(), columns, entries.len());
        (batch, entries.iter().map(|(.., sign)| *sign).collect())
    }
}

/// Columns, count, difference.
type Entry<'a> = (&'a [u8], i64, i64);

fn leaves(admitted: i64, page: &Page<'_>) -> i64 {
    admitted
        .saturating_add(MINUTE_US)
        .saturating_add(page.retention_us)
}

fn view_of(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key[PANE_BYTES..PANE_BYTES + 8]);
    u64::from_be_bytes(bytes)
}

fn companion_of(key: &[u8]) -> Companion {
    Companion::ALL[usize::from(key[COLUMNS_AT - 1])]
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_companion_is_named_after_its_view() {
        assert_eq!(
            Companion::of_name("requests$late"),
            Some(("requests", Companion::Late))
        );
        assert_eq!(Companion::of_name("$1$errors"), Some(("$1", Companion::Errors)));
        for name in ["requests", "$late", "requests$", "requests$lates"] {
            assert_eq!(Companion::of_name(name), None, "{name}");
        }
    }

    /// Everything that is entered, left out, taken back and read, on one worker.
    #[test]
    fn entries_add_up_leave_in_time_and_go_with_their_view() {
        timely::execute_directly(|worker| {
            let mut ledger = Ledger::build(worker);
            let page = |view| Page {
                view,
                project: None,
                pane_us: MINUTE_US,
                retention_us: 3 * MINUTE_US,
            };
            let mut late = LateRows::default();
            late.add("blue", 5 * MINUTE_US, 2);
            let mut errors = RowErrors::of_groups();
            errors.record("blue", 1, "Divide by zero error");
            let minute = 600_000;
            let tick = |ledger: &mut Ledger, worker: &mut Worker, tick, enter: &dyn Fn(&mut Ledger)| {
                ledger.open_tick(tick, tick.saturating_sub(1));
                enter(ledger);
                ledger.close_tick(tick);
                while !ledger.is_complete(tick) {
                    worker.step();
                }
                ledger.take_changes(tick)
            };
            let count = |ledger: &mut Ledger, view, companion, at| {
                let (batch, diffs) = ledger.read(view, companion, at);
                let counts = batch.column(batch.num_columns() - 1);
                let counts = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(counts);
                let total: i64 = counts
                    .values()
                    .iter()
                    .zip(&diffs)
                    .map(|(count, diff)| count * diff)
                    .sum();
                (batch.num_rows(), total)
            };
            tick(&mut ledger, worker, minute, &|ledger| {
                for view in [1, 2] {
                    ledger.enter_late(&page(view), minute, &late);
                    ledger.enter_errors(&page(view), minute, &errors, true);
                }
            });
            let changes = tick(&mut ledger, worker, minute + 1, &|ledger| {
                ledger.enter_late(&page(1), minute + 1, &late);
            });
            assert_eq!(changes.len(), 1);
            assert_eq!(
                changes[0].diffs,
                [-1, 1],
                "the row with 2 makes room for the row with 4"
            );
            assert_eq!(count(&mut ledger, 1, Companion::Late, minute + 1), (1, 4));
            assert_eq!(count(&mut ledger, 2, Companion::Late, minute + 1), (1, 2));
            ledger.forget(2);
            tick(&mut ledger, worker, minute + 2, &|_| ());
            assert_eq!(count(&mut ledger, 2, Companion::Late, minute + 2), (0, 0));
            assert_eq!(count(&mut ledger, 2, Companion::Errors, minute + 2), (0, 0));
            let before = minute + 4 * 60_000 - 1;
            tick(&mut ledger, worker, before, &|_| ());
            assert_eq!(count(&mut ledger, 1, Companion::Late, before), (1, 4));
            let changes = tick(&mut ledger, worker, before + 1, &|_| ());
            assert!(changes.iter().all(|change| change.expiry) && changes.len() == 1);
            assert_eq!(count(&mut ledger, 1, Companion::Late, before + 1), (0, 0));
            assert_eq!(count(&mut ledger, 1, Companion::Errors, before + 1), (1, 1));
            let mut gone = RowErrors::of_groups();
            gone.record("blue", -1, "Divide by zero error");
            tick(&mut ledger, worker, before + 2, &|ledger| {
                ledger.enter_errors(&page(1), before + 2, &gone, true);
            });
            assert_eq!(count(&mut ledger, 1, Companion::Errors, before + 2), (0, 0));
        });
    }
}
