//! From the accumulators of many groups to an Arrow column.
//!
//! Without a non-NULL input a count is 0 and everything else NULL, as in SQL. Sums and means are computed
//! exactly and rounded once (decimal means are truncated at the scale they are read with). A result that does
//! not fit its type is NULL and reported.

use super::extremes::unordered;
use super::{Accumulator, AggregateError, Cell, CellKind, GroupError, Misfit, Relationship, Spread};
use arrow::array::{Array, BinaryArray};
use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is read from a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reading {
    /// The number of non-NULL inputs, from any cell: `Int64`.
    Count,
    /// `Int64` of integers, `Decimal128` of decimals (of the cell's scale), `Float64` of doubles.
    Sum,
    /// `Float64` of integers and doubles, `Decimal128` (of the cell's scale or a larger one) of decimals.
    Mean,
    /// In the type of the input.
    Minimum,
    /// In the type of the input.
    Maximum,
    /// The number of different non-NULL inputs, from a cell of minimum and maximum: `Int64`.
    Distinct,
    /// `Float64`, of doubles: NaN where an input is infinite or NaN.
    Spread(Spread),
    /// Of pairs of doubles: `Float64`, the number of pairs `Int64`.
    Relationship(Relationship),
    /// `Float64`. Billionths, so that ranks are exact: see [`Histogram::quantile`](super::Histogram::quantile).
    Quantile { billionths: u32 },
}

impl Reading {
    /// The quantile `q`, if `0 ≤ q ≤ 1`, to nine decimals.
    pub fn quantile(q: f64) -> Option<Self> {
        (0.0..=1.0).contains(&q).then(|| Reading::Quantile {
            billionths: (q * 1e9).round() as u32,
        })
    }

    /// The reading in the words of SQL.
    pub fn name(self) -> &'static str {
        match self {
            Reading::Count => "count",
            Reading::Sum => "sum",
            Reading::Mean => "avg",
            Reading::Minimum => "min",
            Reading::Maximum => "max",
            Reading::Distinct => "count(DISTINCT …)",
            Reading::Quantile { .. } => "quantile",
            Reading::Spread(Spread::VariancePopulation) => "var_pop",
            Reading::Spread(Spread::VarianceSample) => "var_samp",
            Reading::Spread(Spread::DeviationPopulation) => "stddev_pop",
            Reading::Spread(Spread::DeviationSample) => "stddev_samp",
            Reading::Relationship(relationship) => relationship.name(),
        }
    }
}

/// The number of rows of each group, `count(*)`.
pub fn row_counts<'a>(groups: impl IntoIterator<Item = &'a Accumulator>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(
        groups.into_iter().map(|group| group.rows),
    ))
}

/// Reads one cell of many groups as a column of `data_type`, with a row per group.
///
/// `cell` is the place of the cell and `kind` its kind. Groups whose result does not fit are NULL in the column
/// and listed in `errors`; a combination of kind, reading and type that makes no sense is an error of the plan.
pub fn read<'a>(
    groups: impl IntoIterator<Item = &'a Accumulator>,
    cell: usize,
    kind: CellKind,
    reading: Reading,
    data_type: &DataType,
    errors: &mut Vec<GroupError>,
) -> Result<ArrayRef, AggregateError> {
    let unreadable = || AggregateError::Reading {
        cell,
        kind: kind.name(),
        reading: reading.name(),
        data_type: data_type.clone(),
    };
    let cells = groups.into_iter().map(move |group| group.cells.get(cell));
    let mut overflow = |group| {
        errors.push(GroupError {
            group,
            misfit: Misfit::Type {
                reading: reading.name(),
                data_type: data_type.clone(),
            },
        });
        None
    };
    let column: ArrayRef = match (reading, kind, data_type) {
        (Reading::Count, _, DataType::Int64) => Arc::new(Int64Array::from_iter_values(cells.map(count))),
        (Reading::Distinct, CellKind::Extremes, DataType::Int64) => {
            let counts = cells.map(|cell| match cell {
                Some(Cell::Extremes(values)) => values.distinct() as i64,
                _ => 0,
            });
            Arc::new(Int64Array::from_iter_values(counts))
        }
        (Reading::Sum, CellKind::SumInt, DataType::Int64) => {
            let sums = cells.enumerate().map(|(group, cell)| match cell {
                Some(Cell::SumInt(sum)) if sum.count > 0 => i64::try_from(sum.value())
                    .ok()
                    .or_else(|| overflow(group).map(|()| 0)),
                _ => None,
            });
            Arc::new(Int64Array::from_iter(sums))
        }
        (Reading::Sum, CellKind::SumDecimal { scale }, DataType::Decimal128(precision, to))
            if scale == *to =>
        {
            let limit = decimal_limit(*precision);
            let sums = cells.enumerate().map(|(group, cell)| match cell {
                Some(Cell::SumDecimal(sum)) if sum.count > 0 => sum
                    .value()
                    .filter(|value| value.unsigned_abs() < limit)
                    .or_else(|| overflow(group).map(|()| 0)),
                _ => None,
            });
            decimals(sums.collect(), data_type).ok_or_else(unreadable)?
        }
        (Reading::Mean, CellKind::SumDecimal { scale }, DataType::Decimal128(precision, to))
            if scale <= *to =>
        {
            let limit = decimal_limit(*precision);
            let digits = (i32::from(*to) - i32::from(scale)).unsigned_abs();
            let means = cells.enumerate().map(|(group, cell)| match cell {
                Some(Cell::SumDecimal(sum)) => sum.mean(digits).and_then(|mean| {
                    mean.filter(|value| value.unsigned_abs() < limit)
                        .or_else(|| overflow(group).map(|()| 0))
                }),
                _ => None,
            });
            decimals(means.collect(), data_type).ok_or_else(unreadable)?
        }
        (Reading::Sum, CellKind::SumFloat, DataType::Float64) => {
            Arc::new(Float64Array::from_iter(cells.map(|cell| match cell {
                Some(Cell::SumFloat(sum)) => sum.value(),
                _ => None,
            })))
        }
        (Reading::Mean, CellKind::SumFloat | CellKind::SumInt, DataType::Float64) => {
            Arc::new(Float64Array::from_iter(cells.map(|cell| match cell {
                Some(Cell::SumFloat(sum)) => sum.mean(),
                Some(Cell::SumInt(sum)) => sum.mean(),
                _ => None,
            })))
        }
        (Reading::Spread(spread), CellKind::Moments, DataType::Float64) => {
            Arc::new(Float64Array::from_iter(cells.map(|cell| match cell {
                Some(Cell::Moments(moments)) => moments.read(spread),
                _ => None,
            })))
        }
        (Reading::Relationship(Relationship::Pairs), CellKind::Comoments, DataType::Int64) => {
            Arc::new(Int64Array::from_iter_values(cells.map(count)))
        }
        (Reading::Relationship(relationship), CellKind::Comoments, DataType::Float64) => {
            Arc::new(Float64Array::from_iter(cells.map(|cell| match cell {
                Some(Cell::Comoments(moments)) => moments.read(relationship),
                _ => None,
            })))
        }
        (Reading::Quantile { billionths }, CellKind::Quantiles, DataType::Float64) => {
            Arc::new(Float64Array::from_iter(cells.map(|cell| match cell {
                Some(Cell::Quantiles(histogram)) => histogram.quantile(billionths),
                _ => None,
            })))
        }
        (Reading::Minimum | Reading::Maximum, CellKind::Extremes, _) => {
            extremes(cells, reading == Reading::Maximum, data_type).ok_or_else(unreadable)?
        }
        _ => return Err(unreadable()),
    };
    Ok(column)
}

/// The number of values in a cell.
fn count(cell: Option<&Cell>) -> i64 {
    match cell {
        None => 0,
        Some(Cell::Count(count)) => *count,
        Some(Cell::SumInt(sum)) => sum.count,
        Some(Cell::SumDecimal(sum)) => sum.count,
        Some(Cell::SumFloat(sum)) => sum.count,
        Some(Cell::Moments(moments)) => moments.count(),
        Some(Cell::Comoments(moments)) => moments.count(),
        Some(Cell::Quantiles(histogram)) => histogram.counts().map(|(_, count)| count).sum(),
        Some(Cell::Extremes(extremes)) => extremes.total(),
    }
}

/// The first magnitude beyond a precision.
fn decimal_limit(precision: u8) -> u128 {
    10u128.pow(u32::from(precision).min(38))
}

fn decimals(values: Vec<Option<i128>>, data_type: &DataType) -> Option<ArrayRef> {
    let array = Decimal128Array::from(values).with_data_type(data_type.clone());
    Some(Arc::new(array))
}

/// The least or greatest value of each group; nothing if the type is none that a multiset holds.
fn extremes<'a>(
    cells: impl Iterator<Item = Option<&'a Cell>>,
    greatest: bool,
    data_type: &DataType,
) -> Option<ArrayRef> {
    let cells = cells.map(|cell| match cell {
        Some(Cell::Extremes(extremes)) => Some(extremes),
        _ => None,
    });
    let number = |cell: Option<&super::Extremes>| cell?.number(greatest);
    match data_type {
        DataType::Float32 | DataType::Float64 => {
            let values = Float64Array::from_iter(cells.map(|cell| number(cell).map(unordered)));
            cast(&values, data_type).ok()
        }
        DataType::Decimal128(..) => {
            let values = cells.map(|cell| cell?.decimal(greatest));
            decimals(values.collect(), data_type)
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let values = cells.map(|cell| cell?.bytes(greatest).map(String::from_utf8_lossy));
            cast(&StringArray::from_iter(values), data_type).ok()
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let values = cells.map(|cell| cell?.bytes(greatest));
            cast(&BinaryArray::from_iter(values), data_type).ok()
        }
        _ => from_integers(Int64Array::from_iter(cells.map(number)), data_type),
    }
}

/// Integers as another type of numbers, times or booleans.
fn from_integers(values: Int64Array, data_type: &DataType) -> Option<ArrayRef> {
    if !data_type.is_temporal() {
        let possible = data_type.is_integer() || *data_type == DataType::Boolean;
        return possible.then(|| cast(&values, data_type).ok()).flatten();
    }
    // Times are integers with another name.
    let data = match data_type.primitive_width()? {
        8 => values.to_data(),
        4 => cast(&values, &DataType::Int32).ok()?.to_data(),
        _ => return None,
    };
    let data = data.into_builder().data_type(data_type.clone()).build().ok()?;
    Some(arrow::array::make_array(data))
}
