//! One aggregate's cells for all groups of a combiner, and how a column of input updates them.

use super::extremes::ordered;
use super::pending::{Countable, Pending};
use super::sums::summable;
use super::{
    Cell, CellKind, Comoments, DecimalSum, Extremes, FloatSum, Histogram, IntegerSum, Moments, RowError,
    bucket, wide,
};
use arrow::array::{Array, ArrayAccessor, ArrayRef, AsArray, Float64Array, Int64Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
use arrow::error::ArrowError;

/// The rows of a batch that count, each with its group.
#[derive(Clone, Copy)]
pub(super) struct Selection<'a> {
    pub(super) groups: &'a [u32],
    /// The rows that the groups belong to; all rows in order if absent.
    pub(super) rows: Option<&'a [u32]>,
}

impl Selection<'_> {
    /// Calls back with row and group, except for rows that are NULL.
    #[inline]
    fn each(&self, nulls: Option<&NullBuffer>, mut visit: impl FnMut(usize, usize)) {
        match (self.rows, nulls.filter(|nulls| nulls.null_count() > 0)) {
            (None, None) => {
                self.groups
                    .iter()
                    .enumerate()
                    .for_each(|(row, group)| visit(row, *group as usize));
            }
            (None, Some(nulls)) => {
                nulls
                    .valid_indices()
                    .for_each(|row| visit(row, self.groups[row] as usize));
            }
            (Some(rows), nulls) => {
                for (row, group) in rows.iter().zip(self.groups) {
                    let row = *row as usize;
                    if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                        visit(row, *group as usize);
                    }
                }
            }
        }
    }
}

/// The cells of all groups, as arrays. Histograms and multisets are counted when they are wanted.
pub(super) enum Column {
    Count(Vec<i64>),
    SumInt {
        sums: Vec<i128>,
        counts: Vec<i64>,
    },
    SumDecimal(Vec<DecimalSum>),
    SumFloat(Vec<FloatSum>),
    Moments(Vec<Moments>),
    Comoments(Vec<Comoments>),
    Quantiles {
        pending: Pending<i32>,
        settled: Vec<Histogram>,
    },
    Extremes(Box<ExtremesColumn>),
}

#[derive(Default)]
pub(super) struct ExtremesColumn {
    numbers: Pending<i64>,
    decimals: Pending<i128>,
    bytes: Pending<Box<[u8]>>,
    settled: Vec<Extremes>,
}

/// Whether cells of a kind can take inputs of a type.
pub(super) fn accepts(kind: CellKind, input: Option<&DataType>) -> bool {
    let Some(input) = input else {
        return kind == CellKind::Count;
    };
    let integer = input.is_integer() && *input != DataType::UInt64;
    let float = matches!(input, DataType::Float32 | DataType::Float64);
    let decimal = matches!(input, DataType::Decimal128(..));
    match kind {
        CellKind::Count => true,
        CellKind::SumInt => integer,
        CellKind::SumDecimal { scale } => matches!(input, DataType::Decimal128(_, found) if *found == scale),
        CellKind::SumFloat | CellKind::Moments => float,
        CellKind::Comoments => is_pair(input),
        CellKind::Quantiles => integer || float || decimal || matches!(input, DataType::Duration(_)),
        CellKind::Extremes => {
            let bytes = input.is_string() || input.is_binary();
            integer
                || float
                || decimal
                || input.is_temporal() && !is_interval(input)
                || bytes
                || is_boolean(input)
        }
    }
}

fn is_interval(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(_))
}

/// Whether it is two doubles.
fn is_pair(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Struct(fields)
        if fields.len() == 2 && fields.iter().all(|field| *field.data_type() == DataType::Float64))
}

fn is_boolean(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Boolean)
}

/// Rows whose value a cell of this kind cannot take.
pub(super) fn refused(cell: usize, kind: CellKind, input: Option<&ArrayRef>, errors: &mut Vec<RowError>) {
    match (kind, input) {
        (CellKind::SumFloat | CellKind::Moments, Some(input)) => not_summable(cell, input, None, errors),
        // A row whose values both do not fit is reported twice here, and once by the combiner.
        (CellKind::Comoments, Some(pairs)) => {
            for side in pairs.as_struct().columns() {
                not_summable(cell, side, pairs.nulls(), errors);
            }
        }
        _ => {}
    }
}

fn not_summable(cell: usize, input: &ArrayRef, nulls: Option<&NullBuffer>, errors: &mut Vec<RowError>) {
    let Ok(values) = floats(input) else { return };
    // Almost always nothing is found, and without a branch per row.
    if values.values().iter().all(|value| summable(*value)) {
        return;
    }
    let found = values
        .iter()
        .enumerate()
        .filter_map(|(row, value)| Some((row, value?)));
    let found = found.filter(|(_, value)| !summable(*value));
    let found = found.filter(|(row, _)| nulls.is_none_or(|nulls| nulls.is_valid(*row)));
    errors.extend(found.map(|(row, value)| RowError { row, cell, value }));
}

impl Column {
    pub(super) fn new(kind: CellKind) -> Self {
        match kind {
            CellKind::Count => Column::Count(Vec::new()),
            CellKind::SumInt => Column::SumInt {
                sums: Vec::new(),
                counts: Vec::new(),
            },
            CellKind::SumDecimal { .. } => Column::SumDecimal(Vec::new()),
            CellKind::SumFloat => Column::SumFloat(Vec::new()),
            CellKind::Moments => Column::Moments(Vec::new()),
            CellKind::Comoments => Column::Comoments(Vec::new()),
            CellKind::Quantiles => Column::Quantiles {
                pending: Pending::default(),
                settled: Vec::new(),
            },
            CellKind::Extremes => Column::Extremes(Box::default()),
        }
    }

    /// Makes room for `groups` groups.
    fn grow(&mut self, groups: usize) {
        match self {
            Column::Count(counts) => counts.resize(groups, 0),
            Column::SumInt { sums, counts } => {
                sums.resize(groups, 0);
                counts.resize(groups, 0);
            }
            Column::SumDecimal(sums) => sums.resize_with(groups, DecimalSum::default),
            Column::SumFloat(sums) => sums.resize_with(groups, FloatSum::default),
            Column::Moments(moments) => moments.resize_with(groups, Moments::default),
            Column::Comoments(moments) => moments.resize_with(groups, Comoments::default),
            Column::Quantiles { settled, .. } => settled.resize_with(groups, Histogram::default),
            Column::Extremes(column) => column.settled.resize_with(groups, Extremes::default),
        }
    }

    /// Adds `diff` copies of the selected rows of an input that [`accepts`] admits and in which nothing is
    /// [`refused`].
    pub(super) fn update(
        &mut self,
        input: Option<&ArrayRef>,
        selection: Selection<'_>,
        groups: usize,
        diff: i64,
    ) -> Result<(), ArrowError> {
        self.grow(groups);
        match (self, input) {
            (Column::Count(counts), input) => {
                let nulls = input.and_then(|input| input.logical_nulls());
                selection.each(nulls.as_ref(), |_, group| counts[group] += diff);
            }
            (_, None) => debug_assert!(false, "only a count has no input"),
            (Column::SumInt { sums, counts }, Some(input)) => {
                let values = integers(input)?;
                let nulls = values.nulls();
                let values = values.values();
                selection.each(nulls, |row, group| {
                    sums[group] = sums[group].wrapping_add(i128::from(values[row]) * i128::from(diff));
                    counts[group] += diff;
                });
            }
            (Column::SumDecimal(sums), Some(input)) => {
                let values = input.as_primitive::<Decimal128Type>();
                selection.each(values.nulls(), |row, group| {
                    let mut term = wide::from_i128(values.value(row));
                    if diff != 1 {
                        wide::scale(&mut term, diff);
                    }
                    wide::add(&mut sums[group].sum, &term);
                    sums[group].count += diff;
                });
            }
            (Column::SumFloat(sums), Some(input)) => {
                let values = floats(input)?;
                selection.each(values.nulls(), |row, group| {
                    sums[group].insert(values.value(row), diff)
                });
            }
            (Column::Moments(moments), Some(input)) => {
                let values = floats(input)?;
                selection.each(values.nulls(), |row, group| {
                    moments[group].insert(values.value(row), diff)
                });
            }
            (Column::Comoments(moments), Some(input)) => {
                let pairs = input.as_struct();
                let (y, x) = (floats(pairs.column(0))?, floats(pairs.column(1))?);
                let known = NullBuffer::union(y.nulls(), x.nulls());
                let known = NullBuffer::union(known.as_ref(), pairs.nulls());
                selection.each(known.as_ref(), |row, group| {
                    moments[group].insert(y.value(row), x.value(row), diff)
                });
            }
            (Column::Quantiles { pending, settled }, Some(input)) => {
                if pending.is_full(diff, selection.groups.len()) {
                    pending.settle(groups, |group, counts| settled[group].include(counts));
                }
                append_buckets(pending, input, selection, diff)?;
            }
            (Column::Extremes(column), Some(input)) => {
                if column.is_full(diff, selection.groups.len()) {
                    column.settle(groups);
                }
                column.append(input, selection, diff)?;
            }
        }
        Ok(())
    }

    /// Counts what is pending; due before [`take`](Self::take).
    pub(super) fn settle(&mut self, groups: usize) {
        self.grow(groups);
        match self {
            Column::Quantiles { pending, settled } => {
                pending.settle(groups, |group, counts| settled[group].include(counts));
            }
            Column::Extremes(column) => column.settle(groups),
            _ => {}
        }
    }

    /// The cell of a group, leaving zero.
    pub(super) fn take(&mut self, group: usize) -> Cell {
        match self {
            Column::Count(counts) => Cell::Count(std::mem::take(&mut counts[group])),
            Column::SumInt { sums, counts } => Cell::SumInt(IntegerSum {
                sum: wide::from_i128(std::mem::take(&mut sums[group])),
                count: std::mem::take(&mut counts[group]),
            }),
            Column::SumDecimal(sums) => Cell::SumDecimal(Box::new(std::mem::take(&mut sums[group]))),
            Column::SumFloat(sums) => Cell::SumFloat(Box::new(std::mem::take(&mut sums[group]))),
            Column::Moments(moments) => Cell::Moments(Box::new(std::mem::take(&mut moments[group]))),
            Column::Comoments(moments) => Cell::Comoments(Box::new(std::mem::take(&mut moments[group]))),
            Column::Quantiles { settled, .. } => Cell::Quantiles(std::mem::take(&mut settled[group])),
            Column::Extremes(column) => Cell::Extremes(std::mem::take(&mut column.settled[group])),
        }
    }

    /// Forgets all groups, keeping memory for about `groups` of them.
    pub(super) fn clear(&mut self, groups: usize) {
        fn reset<T>(cells: &mut Vec<T>, groups: usize) {
            cells.clear();
            cells.shrink_to(groups);
        }
        match self {
            Column::Count(counts) => reset(counts, groups),
            Column::SumInt { sums, counts } => {
                reset(sums, groups);
                reset(counts, groups);
            }
            Column::SumDecimal(sums) => reset(sums, groups),
            Column::SumFloat(sums) => reset(sums, groups),
            Column::Moments(moments) => reset(moments, groups),
            Column::Comoments(moments) => reset(moments, groups),
            Column::Quantiles { settled, .. } => reset(settled, groups),
            Column::Extremes(column) => reset(&mut column.settled, groups),
        }
    }
}

impl ExtremesColumn {
    fn is_full(&self, diff: i64, additional: usize) -> bool {
        self.numbers.is_full(diff, additional)
            || self.decimals.is_full(diff, additional)
            || self.bytes.is_full(diff, additional)
    }

    fn settle(&mut self, groups: usize) {
        let Self {
            numbers,
            decimals,
            bytes,
            settled,
        } = self;
        numbers.settle(groups, |group, counts| settled[group].include_numbers(counts));
        decimals.settle(groups, |group, counts| settled[group].include_decimals(counts));
        bytes.settle(groups, |group, counts| settled[group].include_bytes(counts));
    }

    fn append(&mut self, input: &ArrayRef, selection: Selection<'_>, diff: i64) -> Result<(), ArrowError> {
        match input.data_type() {
            DataType::Float32 | DataType::Float64 => {
                let values = floats(input)?;
                append(&mut self.numbers, values.nulls(), selection, diff, |row| {
                    ordered(values.value(row))
                });
            }
            DataType::Decimal128(..) => {
                let values = input.as_primitive::<Decimal128Type>();
                append(&mut self.decimals, values.nulls(), selection, diff, |row| {
                    values.value(row)
                });
            }
            DataType::Utf8 => append_bytes(&mut self.bytes, input.as_string::<i32>(), selection, diff),
            DataType::LargeUtf8 => append_bytes(&mut self.bytes, input.as_string::<i64>(), selection, diff),
            DataType::Utf8View => append_bytes(&mut self.bytes, input.as_string_view(), selection, diff),
            DataType::Binary => append_bytes(&mut self.bytes, input.as_binary::<i32>(), selection, diff),
            DataType::LargeBinary => append_bytes(&mut self.bytes, input.as_binary::<i64>(), selection, diff),
            DataType::BinaryView => append_bytes(&mut self.bytes, input.as_binary_view(), selection, diff),
            _ => {
                let values = integers(input)?;
                append(&mut self.numbers, values.nulls(), selection, diff, |row| {
                    values.value(row)
                });
            }
        }
        Ok(())
    }
}

fn append<V: Countable>(
    pending: &mut Pending<V>,
    nulls: Option<&NullBuffer>,
    selection: Selection<'_>,
    diff: i64,
    value: impl Fn(usize) -> V,
) {
    let (groups, values) = pending.run(diff);
    groups.reserve(selection.groups.len());
    values.reserve(selection.groups.len());
    selection.each(nulls, |row, group| {
        groups.push(group as u32);
        values.push(value(row));
    });
}

fn append_bytes<A, T>(pending: &mut Pending<Box<[u8]>>, values: A, selection: Selection<'_>, diff: i64)
where
    A: ArrayAccessor<Item = T>,
    T: AsRef<[u8]>,
{
    append(pending, values.nulls(), selection, diff, |row| {
        Box::from(values.value(row).as_ref())
    });
}

fn append_buckets(
    pending: &mut Pending<i32>,
    input: &ArrayRef,
    selection: Selection<'_>,
    diff: i64,
) -> Result<(), ArrowError> {
    match input.data_type() {
        DataType::Float32 | DataType::Float64 => {
            let values = floats(input)?;
            append(pending, values.nulls(), selection, diff, |row| {
                bucket(values.value(row))
            });
        }
        DataType::Decimal128(_, scale) => {
            let values = input.as_primitive::<Decimal128Type>();
            let unit = 10i128.pow(u32::from(scale.unsigned_abs()).min(38)) as f64;
            let unit = if *scale < 0 { 1.0 / unit } else { unit };
            append(pending, values.nulls(), selection, diff, |row| {
                bucket(values.value(row) as f64 / unit)
            });
        }
        _ => {
            let values = integers(input)?;
            append(pending, values.nulls(), selection, diff, |row| {
                bucket(values.value(row) as f64)
            });
        }
    }
    Ok(())
}

/// Integers, times and booleans as `Int64`; for 64-bit types this copies nothing.
fn integers(input: &ArrayRef) -> Result<Int64Array, ArrowError> {
    primitive::<Int64Type>(input, &DataType::Int64)
}

fn floats(input: &ArrayRef) -> Result<Float64Array, ArrowError> {
    primitive::<Float64Type>(input, &DataType::Float64)
}

fn primitive<T: arrow::array::ArrowPrimitiveType>(
    input: &ArrayRef,
    wanted: &DataType,
) -> Result<PrimitiveArray<T>, ArrowError> {
    let same_width = input.data_type().is_temporal() && input.data_type().primitive_width() == Some(8);
    if same_width || input.data_type() == wanted {
        let data = input.to_data().into_builder().data_type(wanted.clone()).build()?;
        return Ok(PrimitiveArray::from(data));
    }
    Ok(cast(input, wanted)?.as_primitive::<T>().clone())
}

#[cfg(test)]
mod tests {
    use super::super::pending::LIMIT;
    use super::*;
    use std::sync::Arc;

    /// Rows may come without end between two drains; what waits to be counted does not grow with them.
    #[test]
    fn what_waits_is_bounded() {
        let input: ArrayRef = Arc::new(Int64Array::from_iter_values((0..100_000).map(|row| row % 97)));
        let groups = vec![0; input.len()];
        let selection = Selection {
            groups: &groups,
            rows: None,
        };
        for kind in [CellKind::Quantiles, CellKind::Extremes] {
            let mut column = Column::new(kind);
            for diff in (0..25).map(|round| 1 + round % 7) {
                assert!(column.update(Some(&input), selection, 1, diff).is_ok());
                let waiting = match &column {
                    Column::Quantiles { pending, .. } => pending.waiting(),
                    Column::Extremes(column) => column.numbers.waiting(),
                    _ => 0,
                };
                assert!((1..=LIMIT).contains(&waiting), "{waiting} values wait");
            }
        }
    }
}
