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
use super::group_table::{GroupTable, Keys};
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
        self.check(keys.len(), inputs, selection)?;
        let in_error = self.refused(inputs, selection, errors);
        let all = selection.is_none() && in_error.is_empty();
        self.selected.clear();
        if !all {
            let mut in_error = in_error.iter().copied().peekable();
            for row in 0..keys.len() {
                let refused = in_error.next_if_eq(&row).is_some();
                let selected =
                    selection.is_none_or(|selection| selection.is_valid(row) && selection.value(row));
                if selected && !refused {
                    self.selected.push(row as u32);
                }
            }
        }
        self.group_of_row.clear();
        let Self {
            table,
            rows,
            group_of_row,
            selected,
            ..
        } = self;
        if all {
            number(table, rows, group_of_row, 0..keys.len(), keys, diff);
        } else {
            number(
                table,
                rows,
                group_of_row,
                selected.iter().map(|row| *row as usize),
                keys,
                diff,
            );
        }
        let selection = Selection {
            groups: &self.group_of_row,
            rows: (!all).then_some(self.selected.as_slice()),
        };
        let groups = self.table.len();
        for (cell, (column, input)) in self.columns.iter_mut().zip(inputs).enumerate() {
            let updated = column.update(input.as_ref(), selection, groups, diff);
            updated.map_err(|_| input_type(cell, self.kinds[cell], input.as_ref()))?;
        }
        Ok(())
    }

    /// Whether the batch fits the cells and the table.
    fn check(
        &self,
        rows: usize,
        inputs: &[Option<ArrayRef>],
        selection: Option<&BooleanArray>,
    ) -> Result<(), AggregateError> {
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
        match selection
            .map(|selection| selection.len())
            .filter(|found| *found != rows)
        {
            Some(found) => Err(AggregateError::InputLength {
                cell: inputs.len(),
                expected: rows,
                found,
            }),
            None => Ok(()),
        }
    }

    /// Reports the selected rows that some cell cannot take, and returns them in order, once each.
    fn refused(
        &self,
        inputs: &[Option<ArrayRef>],
        selection: Option<&BooleanArray>,
        errors: &mut Vec<RowError>,
    ) -> Vec<usize> {
        let before = errors.len();
        for (cell, (kind, input)) in self.kinds.iter().zip(inputs).enumerate() {
            columns::refused(cell, *kind, input.as_ref(), errors);
        }
        let mut found = errors.split_off(before);
        found.retain(|error| {
            selection.is_none_or(|selection| selection.is_valid(error.row) && selection.value(error.row))
        });
        found.sort_by_key(|error| error.row);
        found.dedup_by_key(|error| error.row);
        let rows = found.iter().map(|error| error.row).collect();
        errors.append(&mut found);
        rows
    }

    /// Hands out every key with what its rows add up to, unless that is zero, and forgets them. The order means
    /// nothing.
    pub fn drain(&mut self, mut emit: impl FnMut(&[u8], Accumulator)) {
        let groups = self.table.len();
        for column in &mut self.columns {
            column.settle(groups);
        }
        for group in 0..groups {
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

/// Numbers the groups of rows and counts the rows of each group.
fn number<K: Keys + ?Sized>(
    table: &mut GroupTable,
    counts: &mut Vec<i64>,
    groups: &mut Vec<u32>,
    rows: impl Iterator<Item = usize>,
    keys: &K,
    diff: i64,
) {
    for row in rows {
        let group = table.intern(keys.key(row));
        if group as usize == counts.len() {
            counts.push(0);
        }
        counts[group as usize] += diff;
        groups.push(group);
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
