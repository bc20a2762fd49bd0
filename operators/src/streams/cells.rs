//! The values of declared columns while rows are collected one by one.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListBuilder, MapBuilder,
    MapFieldNames, StringBuilder, StringViewBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};

use super::definition::StreamDefinition;
use crate::fields::FieldType;

/// One value, checked against its column's type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Float64(f64),
    /// Scaled by 10¹².
    Money(i128),
    /// Microseconds since 1970.
    Timestamp(i64),
    Text(String),
    TextList(Vec<Option<String>>),
    /// Values are JSON text.
    TextMap(Vec<(String, Option<String>)>),
}

/// The collected values, column by column.
pub(super) struct Cells {
    columns: Vec<(FieldType, Vec<Cell>)>,
    rows: usize,
}

impl Cells {
    pub fn new(definition: &StreamDefinition) -> Cells {
        let columns = definition.columns.iter();
        Cells {
            columns: columns.map(|column| (column.data_type, Vec::new())).collect(),
            rows: 0,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a row; `cells` has one for each column and is left with NULLs.
    pub fn push(&mut self, cells: &mut [Cell]) {
        for ((_, column), cell) in self.columns.iter_mut().zip(cells) {
            column.push(std::mem::replace(cell, Cell::Null));
        }
        self.rows += 1;
    }

    pub fn truncate(&mut self, rows: usize) {
        for (_, column) in &mut self.columns {
            column.truncate(rows);
        }
        self.rows = self.rows.min(rows);
    }

    /// The columns as arrays; nothing is left.
    pub fn take(&mut self) -> Vec<ArrayRef> {
        self.rows = 0;
        self.columns
            .iter_mut()
            .map(|(data_type, cells)| array(*data_type, std::mem::take(cells)))
            .collect()
    }
}

/// Calls `$take` on every cell of its kind; any other is NULL.
macro_rules! values {
    ($cells:expr, $kind:path) => {
        $cells.into_iter().map(|cell| match cell {
            $kind(value) => Some(value),
            _ => None,
        })
    };
}

fn array(data_type: FieldType, cells: Vec<Cell>) -> ArrayRef {
    match data_type {
        FieldType::Bool => Arc::new(BooleanArray::from_iter(values!(cells, Cell::Bool))),
        FieldType::Int32 => Arc::new(Int32Array::from_iter(values!(cells, Cell::Int32))),
        FieldType::Int64 => Arc::new(Int64Array::from_iter(values!(cells, Cell::Int64))),
        FieldType::Float64 => Arc::new(Float64Array::from_iter(values!(cells, Cell::Float64))),
        FieldType::Money => {
            let values = Decimal128Array::from_iter(values!(cells, Cell::Money));
            Arc::new(
                values
                    .with_precision_and_scale(38, 12)
                    .expect("invariant: values were checked against the precision"),
            )
        }
        FieldType::Timestamp => {
            let values = TimestampMicrosecondArray::from_iter(values!(cells, Cell::Timestamp));
            Arc::new(values.with_timezone("UTC"))
        }
        FieldType::Text => {
            let mut builder = StringViewBuilder::with_capacity(cells.len());
            for text in values!(cells, Cell::Text) {
                builder.append_option(text);
            }
            Arc::new(builder.finish())
        }
        FieldType::TextList => {
            let DataType::List(item) = data_type.arrow() else {
                unreachable!("invariant: a list of text is an Arrow list")
            };
            let mut builder = ListBuilder::new(StringBuilder::new()).with_field(item);
            for list in values!(cells, Cell::TextList) {
                builder.append_option(list);
            }
            Arc::new(builder.finish())
        }
        FieldType::TextMap => Arc::new(maps(data_type, values!(cells, Cell::TextMap))),
    }
}

fn maps(
    data_type: FieldType,
    cells: impl Iterator<Item = Option<Vec<(String, Option<String>)>>>,
) -> arrow::array::MapArray {
    let DataType::Map(entries, _) = data_type.arrow() else {
        unreachable!("invariant: a map of text is an Arrow map")
    };
    let DataType::Struct(fields) = entries.data_type() else {
        unreachable!("invariant: the entries of a map are a struct")
    };
    let names = MapFieldNames {
        entry: entries.name().clone(),
        key: fields[0].name().clone(),
        value: fields[1].name().clone(),
    };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
        .with_keys_field(Arc::clone(&fields[0]))
        .with_values_field(Arc::new(Field::clone(&fields[1])));
    for map in cells {
        let present = map.is_some();
        for (key, value) in map.into_iter().flatten() {
            builder.keys().append_value(key);
            builder.values().append_option(value);
        }
        builder.append(present).expect("invariant: every key has a value");
    }
    builder.finish()
}
