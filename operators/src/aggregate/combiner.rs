//! Folds Arrow batches into one accumulator per key, column by column.
//!
//! A combiner stands before the exchange of rows between workers: a key that a thousand rows of a tick share
//! leaves as one accumulator. Each batch first yields a dense group number per row ([`Keys`]), then each
//! aggregate passes over its own input and its own arrays of cells.
//!
//! Invariants: the accumulators drained depend on the multiset of rows and multiplicities folded, not on their
//! order or batches; a row in error changes nothing; memory is that of the groups touched since the last drain,
//! plus bounded buffers.

use super::columns::{self, Column, Selection};
use super::group_table::{GroupTable, Keys, Numbering};
use super::{Accumulator, AggregateError, CellKind, RowError};
use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::datatypes::DataType;

/// Memory for this many groups is kept between drains.
const KEPT_GROUPS: usize = 1 << 16;
const KEPT_KEY_BYTES: usize = KEPT_GROUPS * 64;

/// See the module.
pub struct Combiner {
    kinds: Vec<CellKind>,
    table: GroupTable,
    rows: Vec<i64>,
    columns: Vec<Column>,
    /// Of the batch at hand: the rows that count, and their groups.
    selected: Vec<u32>,
    group_of_row: Vec<u32>,
    /// The group of each number of a [`Numbering`].
    group_of_number: Vec<u32>,
}

impl Combiner {
    pub fn new(kinds: Vec<CellKind>) -> Self {
        let columns = kinds.iter().map(|kind| Column::new(*kind)).collect();
        Self {
            kinds,
            table: GroupTable::default(),
            rows: Vec::new(),
            columns,
            selected: Vec::new(),
            group_of_row: Vec::new(),
            group_of_number: Vec::new(),
        }
    }

    /// The kinds of the cells, in plan order.
    pub fn kinds(&self) -> &[CellKind] {
        &self.kinds
    }

    /// The number of keys seen since the last drain.
    pub fn groups(&self) -> usize {
        self.table.len()
    }

    /// Adds `diff` copies of each row of a batch: of all rows, or of those for which `selection` is true.
    ///
    /// `keys` are row-encoded; `inputs` holds one array per cell, or `None` for a count of all rows. A selected
    /// row with a value that some cell cannot take is left out of all of them and reported in `errors`. If the
    /// batch as a whole does not fit, nothing is changed.
    pub fn fold<K: Keys + ?Sized>(
        &mut self,
        keys: &K,
        inputs: &[Option<ArrayRef>],
        selection: Option<&BooleanArray>,
        diff: i64,
        errors: &mut Vec<RowError>,
    ) -> Result<(), AggregateError> {
        if let Some(found) = selection
            .map(|selection| selection.len())
            .filter(|found| *found != keys.len())
        {
            return Err(AggregateError::InputLength {
                cell: inputs.len(),
                expected: keys.len(),
                found,
            });
        }
        let rows: Option<Vec<u32>> = selection.map(|selection| {
            let chosen = selection.values().set_indices().map(|row| row as u32);
            chosen.filter(|row| selection.is_valid(*row as usize)).collect()
        });
        self.fold_rows(keys, None, inputs, rows.as_deref(), diff, errors)
    }

    /// As [`fold`](Self::fold), of the rows named in ascending order, or of all.
    ///
    /// Where many combiners fold one batch by the same keys, a [`Numbering`] of them spares each the look-ups.
    pub fn fold_rows<K: Keys + ?Sized>(
        &mut self,
        keys: &K,
        numbering: Option<&Numbering>,
        inputs: &[Option<ArrayRef>],
        rows: Option<&[u32]>,
        diff: i64,
        errors: &mut Vec<RowError>,
    ) -> Result<(), AggregateError> {
        self.check(keys.len(), inputs)?;
        let in_error = self.refused(inputs, rows, errors);
        let Self {
            table,
            rows: counts,
            group_of_row,
            group_of_number,
            selected,
            ..
        } = self;
        let rows = match in_error.is_empty() {
            true => rows,
            false => {
                selected.clear();
                let mut in_error = in_error.iter().copied().peekable();
                let mut keep = |row: u32| in_error.next_if_eq(&(row as usize)).is_none();
                match rows {
                    Some(rows) => selected.extend(rows.iter().copied().filter(|row| keep(*row))),
                    None => selected.extend((0..keys.len() as u32).filter(|row| keep(*row))),
                }
                Some(selected.as_slice())
            }
        };
        group_of_row.clear();
        let mut count = |group: u32| {
            if group as usize == counts.len() {
                counts.push(0);
            }
            counts[group as usize] += diff;
            group_of_row.push(group);
        };
        match numbering {
            None => each(rows, keys.len(), |row| count(table.intern(keys.key(row)))),
            Some(numbering) => {
                group_of_number.clear();
                group_of_number.resize(numbering.first_row.len(), u32::MAX);
                each(rows, keys.len(), |row| {
                    let number = numbering.of_row[row] as usize;
                    if group_of_number[number] == u32::MAX {
                        let first = numbering.first_row[number] as usize;
                        group_of_number[number] = table.intern(keys.key(first));
                    }
                    count(group_of_number[number]);
                });
            }
        }
        let selection = Selection {
            groups: &self.group_of_row,
            rows,
        };
        let groups = self.table.len();
        for (cell, (column, input)) in self.columns.iter_mut().zip(inputs).enumerate() {
            let updated = column.update(input.as_ref(), selection, groups, diff);
            updated.map_err(|_| input_type(cell, self.kinds[cell], input.as_ref()))?;
        }
        Ok(())
    }

    /// Whether the batch fits the cells and the table.
    fn check(&self, rows: usize, inputs: &[Option<ArrayRef>]) -> Result<(), AggregateError> {
        if inputs.len() != self.kinds.len() {
            return Err(AggregateError::InputCount {
                expected: self.kinds.len(),
                found: inputs.len(),
            });
        }
        if rows > GroupTable::LIMIT - self.table.len() {
            return Err(AggregateError::TooManyGroups {
                limit: GroupTable::LIMIT,
            });
        }
        for (cell, (kind, input)) in self.kinds.iter().zip(inputs).enumerate() {
            if !columns::accepts(*kind, input.as_ref().map(|input| input.data_type())) {
                return Err(input_type(cell, *kind, input.as_ref()));
            }
            if let Some(found) = input
                .as_ref()
                .map(|input| input.len())
                .filter(|found| *found != rows)
            {
                return Err(AggregateError::InputLength {
                    cell,
                    expected: rows,
                    found,
                });
            }
        }
        Ok(())
    }

    /// Reports the selected rows that some cell cannot take, and returns them in order, once each.
    fn refused(
        &self,
        inputs: &[Option<ArrayRef>],
        rows: Option<&[u32]>,
        errors: &mut Vec<RowError>,
    ) -> Vec<usize> {
        let before = errors.len();
        for (cell, (kind, input)) in self.kinds.iter().zip(inputs).enumerate() {
            columns::refused(cell, *kind, input.as_ref(), errors);
        }
        let mut found = errors.split_off(before);
        found.retain(|error| rows.is_none_or(|rows| rows.binary_search(&(error.row as u32)).is_ok()));
        found.sort_by_key(|error| error.row);
        found.dedup_by_key(|error| error.row);
        let rows = found.iter().map(|error| error.row).collect();
        errors.append(&mut found);
        rows
    }

    /// Hands out every key with what its rows add up to, unless that is zero, and forgets them; in ascending order,
    /// because who receives them sorts them, and here keys lie side by side.
    pub fn drain(&mut self, mut emit: impl FnMut(&[u8], Accumulator)) {
        let groups = self.table.len();
        for column in &mut self.columns {
            column.settle(groups);
        }
        let mut order: Vec<u32> = (0..groups as u32).collect();
        let table = &self.table;
        order.sort_unstable_by(|a, b| table.key(*a as usize).cmp(table.key(*b as usize)));
        for group in order.into_iter().map(|group| group as usize) {
            let cells = self.columns.iter_mut().map(|column| column.take(group)).collect();
            let accumulator = Accumulator {
                rows: self.rows[group],
                cells,
            };
            if !accumulator.is_zero() {
                emit(self.table.key(group), accumulator);
            }
        }
        for column in &mut self.columns {
            column.clear(KEPT_GROUPS);
        }
        self.rows.clear();
        self.rows.shrink_to(KEPT_GROUPS);
        self.table.clear();
        self.table.shrink(KEPT_GROUPS, KEPT_KEY_BYTES);
    }
}

/// Calls back with the rows named, or with all of so many.
#[inline]
fn each(rows: Option<&[u32]>, all: usize, visit: impl FnMut(usize)) {
    match rows {
        Some(rows) => rows.iter().map(|row| *row as usize).for_each(visit),
        None => (0..all).for_each(visit),
    }
}

fn input_type(cell: usize, kind: CellKind, input: Option<&ArrayRef>) -> AggregateError {
    let data_type = input.map_or(DataType::Null, |input| input.data_type().clone());
    AggregateError::InputType {
        cell,
        kind: kind.name(),
        data_type,
    }
}
