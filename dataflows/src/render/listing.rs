//! Values in an order: lists, texts put together, the first and the last.
//!
//! What is kept of a row is one byte string: the keys of ORDER BY, then the value, encoded so that bytes compare as the
//! rows do. A cell counts these byte strings as it counts values for minimum and maximum; so equal rows give equal
//! listings whatever the order of arrival, and a row can be taken back.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, LargeStringArray, ListArray, UInt32Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, cast, take};
use arrow::datatypes::{DataType, Field};
use arrow::row::{RowConverter, SortField};
use pyflare_operators::aggregate::{Accumulator, Cell, GroupError, Misfit};

use super::tap::normalise;
use crate::plan::{AggregateFunction, OrderKey, PlanError};

/// Most values in the listing of a group.
const MOST_VALUES: usize = 10_000;
/// Longest text that a listing makes of a group, in bytes.
const LONGEST_TEXT: usize = 1 << 20;

/// Between values with their places in an order, and bytes.
#[derive(Debug)]
pub(crate) struct Places {
    converter: RowConverter,
}

impl Places {
    /// For values of a type, ordered by keys of these types and then by themselves, NULL last.
    pub fn new(order: &[OrderKey], order_types: &[DataType], value: &DataType) -> Result<Places, PlanError> {
        let mut fields: Vec<SortField> = order
            .iter()
            .zip(order_types)
            .map(|(key, data_type)| {
                let options = SortOptions {
                    descending: key.descending,
                    nulls_first: key.nulls_first,
                };
                SortField::new_with_options(data_type.clone(), options)
            })
            .collect();
        let last = SortOptions {
            descending: false,
            nulls_first: false,
        };
        fields.push(SortField::new_with_options(value.clone(), last));
        let unordered = |error| PlanError::Unsupported {
            detail: format!("an order of these types: {error}"),
        };
        Ok(Places {
            converter: RowConverter::new(fields).map_err(unordered)?,
        })
    }

    /// The bytes of each row, NULL where `counts` says that the row does not.
    pub fn encode(&self, columns: Vec<ArrayRef>, counts: impl Fn(usize) -> bool) -> ArrayRef {
        let columns: Vec<ArrayRef> = columns.into_iter().map(normalise).collect();
        let rows = self
            .converter
            .convert_columns(&columns)
            .expect("invariant: columns have the types of the order");
        let mut bytes = BinaryBuilder::new();
        for (index, row) in rows.iter().enumerate() {
            match counts(index) {
                true => bytes.append_value(row.as_ref()),
                false => bytes.append_null(),
            }
        }
        Arc::new(bytes.finish())
    }

    fn values<'a>(&self, places: impl Iterator<Item = &'a [u8]>) -> ArrayRef {
        let parser = self.converter.parser();
        let mut columns = self
            .converter
            .convert_rows(places.map(|place| parser.parse(place)))
            .expect("invariant: places were encoded by this converter");
        columns.pop().expect("invariant: the value is the last column")
    }
}

/// How a column is read from places.
pub(crate) struct Listing {
    pub places: Arc<Places>,
    pub function: AggregateFunction,
    /// Between the values of a text.
    pub separator: String,
}

impl Listing {
    /// The column of one cell of many groups; a listing that is too long is NULL and a misfit.
    pub fn read(
        &self,
        groups: &[&Accumulator],
        cell: usize,
        data_type: &DataType,
        misfits: &mut Vec<GroupError>,
    ) -> ArrayRef {
        let mut places: Vec<&[u8]> = Vec::new();
        let mut lengths = Vec::with_capacity(groups.len());
        for (group, accumulator) in groups.iter().enumerate() {
            let before = places.len();
            if let Some(Cell::Extremes(held)) = accumulator.cells.get(cell) {
                match self.function {
                    AggregateFunction::First => {
                        places.extend(held.present_bytes().map(|(place, _)| place).take(1))
                    }
                    AggregateFunction::Last => {
                        places.extend(held.present_bytes().rev().map(|(place, _)| place).take(1));
                    }
                    AggregateFunction::StringAgg { distinct } | AggregateFunction::ArrayAgg { distinct } => {
                        for (place, count) in held.present_bytes() {
                            let count = if distinct { 1 } else { count };
                            let count = usize::try_from(count).unwrap_or(usize::MAX).min(MOST_VALUES + 1);
                            places.extend(std::iter::repeat_n(place, count));
                            if places.len() - before > MOST_VALUES {
                                break;
                            }
                        }
                    }
                    _ => debug_assert!(false, "only these are listings"),
                }
            }
            if places.len() - before > MOST_VALUES {
                places.truncate(before);
                misfits.push(self.too_long(group, MOST_VALUES, "values"));
            }
            lengths.push(places.len() - before);
        }
        let values = self.values_of(&places, data_type);
        match self.function {
            AggregateFunction::ArrayAgg { .. } => lists(values, &lengths, data_type),
            AggregateFunction::StringAgg { .. } => self.texts(&values, &lengths, misfits),
            _ => {
                let mut next = 0;
                let indices: UInt32Array = lengths
                    .iter()
                    .map(|length| {
                        let index = (*length > 0).then_some(next);
                        next += *length as u32;
                        index
                    })
                    .collect();
                take(&values, &indices, None).expect("invariant: indices of these values")
            }
        }
    }

    fn values_of(&self, places: &[&[u8]], data_type: &DataType) -> ArrayRef {
        if places.is_empty() {
            let value = match data_type {
                DataType::List(item) => item.data_type(),
                other => other,
            };
            return new_null_array(value, 0);
        }
        self.places.values(places.iter().copied())
    }

    fn texts(&self, values: &ArrayRef, lengths: &[usize], misfits: &mut Vec<GroupError>) -> ArrayRef {
        let values = cast(values, &DataType::LargeUtf8).expect("invariant: only texts are put together");
        let values = values.as_string::<i64>();
        let mut next = 0;
        let mut texts: Vec<Option<String>> = Vec::with_capacity(lengths.len());
        for (group, length) in lengths.iter().enumerate() {
            let mut text = (*length > 0).then(String::new);
            for index in next..next + length {
                let Some(so_far) = &mut text else { break };
                if index > next {
                    so_far.push_str(&self.separator);
                }
                so_far.push_str(values.value(index));
                if so_far.len() > LONGEST_TEXT {
                    misfits.push(self.too_long(group, LONGEST_TEXT, "bytes"));
                    text = None;
                }
            }
            texts.push(text);
            next += length;
        }
        Arc::new(LargeStringArray::from(texts))
    }

    fn too_long(&self, group: usize, limit: usize, unit: &'static str) -> GroupError {
        let reading = match self.function {
            AggregateFunction::StringAgg { .. } => "string_agg",
            _ => "array_agg",
        };
        GroupError {
            group,
            misfit: Misfit::Length { reading, limit, unit },
        }
    }
}

/// Lists of these lengths, NULL instead of an empty one.
fn lists(values: ArrayRef, lengths: &[usize], data_type: &DataType) -> ArrayRef {
    let item = match data_type {
        DataType::List(item) => Arc::clone(item),
        _ => Arc::new(Field::new_list_field(values.data_type().clone(), true)),
    };
    let present = NullBuffer::from_iter(lengths.iter().map(|length| *length > 0));
    Arc::new(ListArray::new(
        item,
        OffsetBuffer::from_lengths(lengths.iter().copied()),
        values,
        Some(present),
    ))
}
