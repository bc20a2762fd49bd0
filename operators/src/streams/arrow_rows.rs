//! Rows out of an Arrow IPC stream.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, TimestampMicrosecondArray,
    UInt32Array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::compute::{CastOptions, cast_with_options, filter, take};
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use bytes::Bytes;

use super::definition::{StreamColumn, StreamDefinition};
use super::json_rows::canonical;
use super::rows::{Admitted, StreamError};
use crate::fields::{FieldType, type_name};

/// Texts may share bytes: a small body can stand for many times its size. What they come to is at most this many times
/// the body's size, or [`LEAST_TEXT`].
const TEXT_FACTOR: usize = 16;
const LEAST_TEXT: usize = 64 << 20;

pub(super) struct ArrowReader<'a> {
    definition: &'a StreamDefinition,
    received_us: i64,
    most_rows: usize,
}

/// Declared columns, and the number of each row in the body.
pub(super) type Read = Vec<(Vec<ArrayRef>, Vec<i32>)>;

impl<'a> ArrowReader<'a> {
    pub fn new(definition: &'a StreamDefinition, received_us: i64, most_rows: usize) -> ArrowReader<'a> {
        ArrowReader {
            definition,
            received_us,
            most_rows,
        }
    }

    pub fn read(&self, body: &Bytes, admitted: &mut Admitted) -> Result<Read, StreamError> {
        let batches = batches(body)?;
        let mut left = LEAST_TEXT.max(body.len().saturating_mul(TEXT_FACTOR));
        let limit = left;
        let mut number = 0_usize;
        let mut read = Vec::with_capacity(batches.len());
        for batch in batches {
            if number + batch.num_rows() > self.most_rows {
                return Err(StreamError::TooManyRows {
                    limit: self.most_rows,
                });
            }
            let mut texts = 0_usize;
            for column in batch.columns() {
                check_type(column.data_type())?;
                texts = texts.saturating_add(text_bytes(column));
            }
            left = left
                .checked_sub(texts)
                .ok_or(StreamError::TooMuchText { limit })?;
            let first = number;
            number += batch.num_rows();
            if batch.num_rows() > 0 {
                let (columns, kept) = self.rows(&batch, first, admitted)?;
                if !kept.is_empty() {
                    read.push((columns, kept));
                }
            }
        }
        Ok(read)
    }

    /// The batch in the declared types, without the rows that do not fit.
    fn rows(
        &self,
        batch: &RecordBatch,
        first: usize,
        admitted: &mut Admitted,
    ) -> Result<(Vec<ArrayRef>, Vec<i32>), StreamError> {
        let schema = batch.schema_ref();
        for (place, field) in schema.fields().iter().enumerate() {
            let known = self
                .definition
                .columns
                .iter()
                .any(|column| column.name == *field.name());
            let twice = schema.fields()[..place]
                .iter()
                .any(|other| other.name() == field.name());
            if !known && self.definition.leaves_out_other_columns() {
                continue;
            }
            if !known || twice {
                return Err(StreamError::Columns {
                    detail: format!(
                        "the column {:?} is {}; the stream has: {}",
                        field.name(),
                        if twice { "there twice" } else { "not declared" },
                        self.declared()
                    ),
                });
            }
        }
        let rows = batch.num_rows();
        let mut good = vec![true; rows];
        let mut columns = Vec::with_capacity(self.definition.columns.len());
        for column in &self.definition.columns {
            let wanted = column.data_type.arrow();
            let Some(given) = batch.column_by_name(&column.name) else {
                columns.push(new_null_array(&wanted, rows));
                continue;
            };
            let refused = || StreamError::Columns {
                detail: format!(
                    "the column {} has the type {}, which does not become {}",
                    column.name,
                    given.data_type(),
                    type_name(&wanted)
                ),
            };
            if !becomes(given.data_type(), column.data_type) {
                return Err(refused());
            }
            let options = CastOptions {
                safe: true,
                ..CastOptions::default()
            };
            // The zone is a way of writing: instants stay what they are, and those without a zone are UTC.
            let step = match (&wanted, given.data_type()) {
                (DataType::Timestamp(unit, _), DataType::Timestamp(_, zone)) => {
                    DataType::Timestamp(*unit, zone.clone())
                }
                (DataType::Timestamp(unit, _), _) => DataType::Timestamp(*unit, None),
                _ => wanted.clone(),
            };
            let cast = cast_with_options(given, &step, &options).map_err(|_| refused())?;
            // What a cast turns into NULL did not fit.
            let (before, after) = (given.logical_nulls(), cast.logical_nulls());
            for (row, good) in good.iter_mut().enumerate() {
                let null =
                    |nulls: &Option<NullBuffer>| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                if *good && null(&after) && !null(&before) {
                    *good = false;
                    admitted.reject((first + row) as u32, "PF-1212", || {
                        format!("{} does not fit {}", column.name, type_name(&wanted))
                    });
                }
            }
            columns.push(normalised(cast));
        }
        for (column, values) in self.definition.columns.iter().zip(&columns) {
            if !self.needs(column) {
                continue;
            }
            for (row, good) in good.iter_mut().enumerate() {
                if *good && values.is_null(row) {
                    *good = false;
                    admitted.reject((first + row) as u32, "PF-1213", || {
                        format!("{} is missing or null", column.name)
                    });
                }
            }
        }
        let numbers: Vec<i32> = (0..rows)
            .filter(|row| good[*row])
            .map(|row| (first + row) as i32)
            .collect();
        if numbers.len() < rows {
            let mask = BooleanArray::new(BooleanBuffer::from(good), None);
            for column in &mut columns {
                *column = filter(column, &mask).map_err(not_arrow)?;
            }
        }
        self.observe(&columns, numbers.len(), admitted);
        Ok((columns, numbers))
    }

    fn observe(&self, columns: &[ArrayRef], rows: usize, admitted: &mut Admitted) {
        let time = self.definition.time.as_deref().and_then(|time| {
            let place = self
                .definition
                .columns
                .iter()
                .position(|column| column.name == time)?;
            columns[place].as_primitive_opt::<TimestampMicrosecondType>()
        });
        for row in 0..rows {
            admitted.accept(
                time.map_or(self.received_us, |times: &TimestampMicrosecondArray| {
                    times.value(row)
                }),
            );
        }
    }

    fn needs(&self, column: &StreamColumn) -> bool {
        column.required || self.definition.time.as_deref() == Some(column.name.as_str())
    }

    fn declared(&self) -> String {
        let names: Vec<&str> = self
            .definition
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        names.join(", ")
    }
}

/// All batches of the stream. The reader of Arrow's format trusts its input in places and panics there.
fn batches(body: &Bytes) -> Result<Vec<RecordBatch>, StreamError> {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut decoder = StreamDecoder::new();
        let mut buffer = Buffer::from(body.clone());
        let mut batches = Vec::new();
        while !buffer.is_empty() {
            let before = buffer.len();
            if let Some(batch) = decoder.decode(&mut buffer)? {
                // Rows that take no bytes could be any number.
                for field in batch.schema_ref().fields() {
                    check_type(field.data_type()).map_err(|error| ArrowError::IpcError(error.to_string()))?;
                }
                if batch.num_columns() == 0 && batch.num_rows() > 0 {
                    return Err(ArrowError::IpcError("a batch without columns".into()));
                }
                batches.push(batch);
            } else if buffer.len() == before {
                break;
            }
        }
        decoder.finish()?;
        match decoder.schema() {
            Some(_) => Ok(batches),
            None => Err(ArrowError::IpcError("it has no schema".into())),
        }
    }));
    match read {
        Ok(read) => read.map_err(not_arrow),
        Err(_) => Err(StreamError::NotArrow {
            detail: "it is damaged".into(),
        }),
    }
}

fn not_arrow(error: ArrowError) -> StreamError {
    StreamError::NotArrow {
        detail: error.to_string(),
    }
}

/// Types that a column may have: those whose values take room, so that a body bounds its rows.
fn check_type(data_type: &DataType) -> Result<(), StreamError> {
    let good = match data_type {
        DataType::Dictionary(_, value) => !value.is_nested() && check_type(value).is_ok(),
        DataType::List(item) | DataType::LargeList(item) => is_text(item.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.iter().all(|field| is_text(field.data_type())),
            _ => false,
        },
        other => other.is_numeric() || other.is_temporal() || is_text(other) || *other == DataType::Boolean,
    };
    match good {
        true => Ok(()),
        false => Err(StreamError::Columns {
            detail: format!(
                "a column of type {data_type}; there may be numbers, texts, booleans, times, lists of text and maps of text"
            ),
        }),
    }
}

/// Whether values of a type are values of a column without rounding or guessing.
fn becomes(given: &DataType, column: FieldType) -> bool {
    let given = match given {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    match column {
        FieldType::Bool => *given == DataType::Boolean,
        FieldType::Int32 | FieldType::Int64 => given.is_integer(),
        FieldType::Float64 => given.is_integer() || given.is_floating(),
        FieldType::Money => match given {
            DataType::Decimal32(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal128(_, scale)
            | DataType::Decimal256(_, scale) => *scale <= 12,
            other => other.is_integer(),
        },
        FieldType::Timestamp => matches!(
            given,
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
        ),
        FieldType::Text => is_text(given),
        FieldType::TextList => matches!(given, DataType::List(_) | DataType::LargeList(_)),
        FieldType::TextMap => matches!(given, DataType::Map(..)),
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// What the texts of a column come to if every one is written out. Only views and dictionaries can share bytes.
fn text_bytes(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Utf8View => {
            let lengths = column.as_string_view().lengths();
            lengths.map(|length| length as usize).sum()
        }
        DataType::Utf8 => column.as_string::<i32>().value_data().len(),
        DataType::LargeUtf8 => column.as_string::<i64>().value_data().len(),
        DataType::List(_) => text_bytes(column.as_list::<i32>().values()),
        DataType::LargeList(_) => text_bytes(column.as_list::<i64>().values()),
        DataType::Map(..) => {
            let map = column.as_map();
            text_bytes(map.keys()).saturating_add(text_bytes(map.values()))
        }
        DataType::Dictionary(_, value) if is_text(value) => {
            let dictionary = column.as_any_dictionary();
            if dictionary.values().is_empty() {
                return 0;
            }
            let lengths = text_lengths(dictionary.values());
            let keys = dictionary.normalized_keys();
            keys.into_iter().map(|key| lengths[key]).sum()
        }
        _ => 0,
    }
}

fn text_lengths(texts: &ArrayRef) -> Vec<usize> {
    match texts.data_type() {
        DataType::Utf8View => {
            let lengths = texts.as_string_view().lengths();
            lengths.map(|length| length as usize).collect()
        }
        DataType::LargeUtf8 => {
            let texts = texts.as_string::<i64>();
            (0..texts.len())
                .map(|place| texts.value_length(place) as usize)
                .collect()
        }
        _ => {
            let texts = texts.as_string::<i32>();
            (0..texts.len())
                .map(|place| texts.value_length(place) as usize)
                .collect()
        }
    }
}

/// Floats as the contract has them; dictionaries and slices do not keep their neighbours alive.
fn normalised(column: ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            let floats = column.as_primitive::<Float64Type>();
            let canonical: Float64Array = floats.unary(canonical);
            Arc::new(canonical)
        }
        DataType::Timestamp(..) => {
            let times = column.as_primitive::<TimestampMicrosecondType>().clone();
            Arc::new(times.with_timezone("UTC"))
        }
        DataType::Utf8View => {
            let views = column.as_string_view();
            Arc::new(views.gc())
        }
        DataType::List(_) | DataType::Map(..) if column.offset() > 0 => {
            let all = UInt32Array::from_iter_values(0..column.len() as u32);
            take(&column, &all, None).unwrap_or(column)
        }
        _ => column,
    }
}
