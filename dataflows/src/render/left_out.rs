//! What a view leaves out of a tick: rows that are late and rows, or groups, on which an expression fails.
//!
//! Both are counted by what they have in common, never row by row, so that a flood of them stays small. Messages are
//! counted without the values in them: those are the rows' own, without bound.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Longest message that tells errors apart.
const MESSAGE_CHARACTERS: usize = 200;
const PROJECT: &str = "project";

/// What a tap left out of one tick.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    pub late: LateRows,
    pub errors: RowErrors,
}

impl LeftOut {
    pub fn is_empty(&self) -> bool {
        self.late.rows == 0 && self.errors.rows == 0
    }

    /// What rows left out that are taken back is counted no more.
    pub fn take_back(&mut self, other: LeftOut) {
        for (project, panes) in other.late.by_project() {
            for (end, rows) in panes {
                self.late.add(project, *end, -rows);
            }
        }
        self.errors.rows += other.errors.rows;
        for (key, count) in other.errors.counts {
            *self.errors.counts.entry(key).or_default() -= count;
        }
    }
}

/// Late rows by project and the end of their pane.
#[derive(Debug, Default)]
pub(crate) struct LateRows {
    pub rows: u64,
    counts: BTreeMap<Box<str>, BTreeMap<i64, i64>>,
}

impl LateRows {
    pub fn add(&mut self, project: &str, pane_end: i64, rows: i64) {
        self.rows += rows.unsigned_abs();
        if !self.counts.contains_key(project) {
            self.counts.insert(project.into(), BTreeMap::new());
        }
        if let Some(panes) = self.counts.get_mut(project) {
            *panes.entry(pane_end).or_default() += rows;
        }
    }

    pub fn by_project(&self) -> impl Iterator<Item = (&str, &BTreeMap<i64, i64>)> {
        self.counts.iter().map(|(project, panes)| (&**project, panes))
    }
}

/// Rows, or changes of groups, on which an expression failed, with the first message.
#[derive(Debug, Default)]
pub(crate) struct RowErrors {
    /// How often an expression failed.
    pub rows: u64,
    pub sample: Option<String>,
    /// Whether what travels with a row is its difference.
    weighted: bool,
    /// (project, message without values) → how many there are more now.
    counts: BTreeMap<(Box<str>, Box<str>), i64>,
}

impl RowErrors {
    /// For changes of groups: the error of the row that goes is taken back.
    pub fn of_groups() -> RowErrors {
        RowErrors {
            weighted: true,
            ..RowErrors::default()
        }
    }

    /// One failure; `carried` is the number that travels with the row.
    pub fn record(&mut self, project: &str, carried: i64, message: impl ToString) {
        let message = message.to_string();
        let weight = if self.weighted { carried } else { 1 };
        self.rows += 1;
        *self
            .counts
            .entry((project.into(), without_values(&message).into()))
            .or_default() += weight;
        self.sample.get_or_insert(message);
    }

    /// Those of `other` as well.
    pub fn add(&mut self, other: RowErrors) {
        self.rows += other.rows;
        if self.sample.is_none() {
            self.sample = other.sample;
        }
        for (key, count) in other.counts {
            *self.counts.entry(key).or_default() += count;
        }
    }

    /// What is left when errors that came and went cancel.
    pub fn net(&self) -> impl Iterator<Item = (&(Box<str>, Box<str>), &i64)> {
        self.counts.iter().filter(|(_, count)| **count != 0)
    }

    /// How many came in excess of those that went.
    pub fn came(&self) -> u64 {
        self.net().map(|(_, count)| (*count).max(0).unsigned_abs()).sum()
    }
}

/// The project that a row names, if it does.
pub(crate) fn project_of(batch: &RecordBatch, row: usize) -> &str {
    let Some(column) = batch
        .column_by_name(PROJECT)
        .filter(|column| column.is_valid(row))
    else {
        return "";
    };
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().value(row),
        DataType::Utf8 => column.as_string::<i32>().value(row),
        _ => "",
    }
}

/// The message with `…` for what is quoted in it and for numbers.
fn without_values(message: &str) -> String {
    let mut text = message.to_string();
    for quote in ['\'', '"'] {
        // From the first to the last: a quoted value may hold quotes of its own.
        if let (Some(first), Some(last)) = (text.find(quote), text.rfind(quote))
            && first < last
        {
            text.replace_range(first + 1..last, "…");
        }
    }
    let between = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | ';' | ':' | '[' | ']');
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(between) {
        let end = word.trim_end_matches(between).trim_end_matches('.').len();
        match word[..end].parse::<f64>() {
            Ok(_) => out.extend(["…", &word[end..]]),
            Err(_) => out.push_str(word),
        }
    }
    out.chars().take(MESSAGE_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_without_their_values() {
        for (message, kept) in [
            ("Divide by zero error", "Divide by zero error"),
            (
                "Cast error: Cannot cast string 'it's 5' to value of Int64 type",
                "Cast error: Cannot cast string '…' to value of Int64 type",
            ),
            (
                "Overflow happened on: 9223372036854775807 + -1",
                "Overflow happened on: … + …",
            ),
            (
                "PF-3056: the value 1.5e300 of row 17 is out of range (below 2^87).",
                "PF-3056: the value … of row … is out of range (below 2^87).",
            ),
        ] {
            assert_eq!(without_values(message), kept);
        }
        assert_eq!(without_values(&"x".repeat(10_000)).len(), MESSAGE_CHARACTERS);
    }

    #[test]
    fn errors_that_come_and_go_cancel() {
        let mut errors = RowErrors::of_groups();
        errors.record("a", -1, "bad 1");
        errors.record("a", 1, "bad 2");
        errors.record("b", 1, "bad 1");
        assert_eq!((errors.rows, errors.came()), (3, 1));
        assert_eq!(errors.sample.as_deref(), Some("bad 1"));
        let mut rows = RowErrors::default();
        rows.record("a", -60_000_000, "bad");
        assert_eq!(rows.came(), 1);
    }
}
