//! The columns of a batch under construction.
//!
//! A column is addressed by the ordinal of its field. Sixteen-byte values (views, decimals) and eight-byte
//! values (integers, times, doubles, flags) are kept apart; the type of a field says where its values are.
//! A row sets only what it has: a column that lacks a value stays short and is padded when the next value
//! comes or the batch is finished, and one `u64` per row says which columns it set. So a column nobody fills
//! costs nothing, and a bitmap is made only for a column with gaps.
//!
//! Invariant: between rows no column is longer than the number of rows, and the columns that are filled per
//! request or scope are exactly as long as the rows before the request or scope.
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringViewArray, TimestampMicrosecondArray, new_empty_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::SchemaRef;

use super::error::DecodeError;
use crate::fields::{Field, FieldType};

/// Rows a batch can hold: their numbers and bitmaps stay far from 32 bits.
pub(crate) const MAX_ROWS: usize = 1 << 26;

pub(crate) struct Columns {
    fields: &'static [Field],
    /// Columns whose in-memory values are raw bytes instead of the declared type.
    raw: u64,
    /// The column that holds the row's own message, if one does, and all columns that show it.
    row_bytes: Option<usize>,
    row_bytes_in: u64,
    /// Columns every row has.
    required: u64,
    wide: [Vec<u128>; 64],
    narrow: [Vec<i64>; 64],
    masks: Vec<u64>,
    /// Zeroes behind columns that nobody fills.
    zeroes: Buffer,
}

impl Columns {
    /// Columns for these fields. Those in `raw` are kept as bytes; of them, those in `row_bytes_in` all show
    /// the row's own message, which is set once, in the first of them.
    pub(crate) fn new(fields: &'static [Field], raw: u64, row_bytes_in: u64) -> Columns {
        let mut required = 0;
        for (number, field) in fields.iter().enumerate() {
            if !field.nullable {
                required |= 1 << number;
            }
        }
        Columns {
            fields,
            raw,
            row_bytes: (row_bytes_in != 0).then(|| row_bytes_in.trailing_zeros() as usize),
            row_bytes_in,
            required,
            wide: std::array::from_fn(|_| Vec::new()),
            narrow: std::array::from_fn(|_| Vec::new()),
            masks: Vec::new(),
            zeroes: Buffer::from_vec(Vec::<u128>::new()),
        }
    }

    /// Finished rows.
    #[inline(always)]
    pub(crate) fn rows(&self) -> usize {
        self.masks.len()
    }

    /// Sets a sixteen-byte value of the row under construction.
    #[inline(always)]
    pub(crate) fn set_wide(&mut self, column: usize, value: u128) {
        set(&mut self.wide[column & 63], self.masks.len(), value);
    }

    /// Sets an eight-byte value of the row under construction.
    #[inline(always)]
    pub(crate) fn set_narrow(&mut self, column: usize, value: i64) {
        set(&mut self.narrow[column & 63], self.masks.len(), value);
    }

    pub(crate) fn set_double(&mut self, column: usize, value: f64) {
        self.set_narrow(column, normal(value).to_bits() as i64);
    }

    /// The value the row under construction has in a column that its mask says is set.
    pub(crate) fn narrow(&self, column: usize) -> i64 {
        self.narrow[column].get(self.rows()).copied().unwrap_or(0)
    }

    pub(crate) fn wide(&self, column: usize) -> u128 {
        self.wide[column].get(self.rows()).copied().unwrap_or(0)
    }

    /// Ends the row under construction; `mask` says which nullable columns it has.
    #[inline(always)]
    pub(crate) fn close_row(&mut self, mask: u64) {
        self.masks.push(mask);
    }

    /// Drops the row under construction.
    pub(crate) fn drop_row(&mut self) {
        self.truncate(self.rows());
    }

    /// Drops all rows from `rows` on, and whatever is set of the next.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.masks.truncate(rows);
        for column in &mut self.wide {
            column.truncate(rows);
        }
        for column in &mut self.narrow {
            column.truncate(rows);
        }
    }

    /// Gives all rows that do not reach a column yet the same value.
    pub(crate) fn fill_wide(&mut self, column: usize, value: u128) {
        self.wide[column].resize(self.masks.len(), value);
    }

    /// The same for an eight-byte value.
    pub(crate) fn fill_narrow(&mut self, column: usize, value: i64) {
        self.narrow[column].resize(self.masks.len(), value);
    }

    /// Gives the rows that do not reach a column yet the same value, up to row `end`.
    pub(crate) fn fill_wide_to(&mut self, column: usize, end: usize, value: u128) {
        self.wide[column].resize(end, value);
    }

    /// How many rows reach a column.
    pub(crate) fn wide_len(&self, column: usize) -> usize {
        self.wide[column].len()
    }

    /// Gives the rows of a range a value in a nullable column, except those that have one.
    pub(crate) fn fill_gaps(&mut self, column: usize, from: usize, end: usize, value: u128) {
        let bit = 1u64 << column;
        let values = &mut self.wide[column];
        let masks = &mut self.masks[from..end];
        if masks.iter().all(|mask| mask & bit == 0) && values.len() <= from {
            values.resize(from, 0);
            values.resize(end, value);
            masks.iter_mut().for_each(|mask| *mask |= bit);
            return;
        }
        if values.len() < end {
            values.resize(end, 0);
        }
        for (mask, slot) in masks.iter_mut().zip(&mut values[from..end]) {
            if *mask & bit == 0 {
                *mask |= bit;
                *slot = value;
            }
        }
    }

    /// Gives all rows from `from` on the same value in a nullable column that rows do not set themselves.
    pub(crate) fn fill_gap_narrow(&mut self, column: usize, from: usize, value: i64) {
        self.narrow[column].resize(from, 0);
        self.narrow[column].resize(self.masks.len(), value);
        self.masks[from..]
            .iter_mut()
            .for_each(|mask| *mask |= 1 << column);
    }

    /// Makes the batch and empties the columns.
    pub(crate) fn finish(
        &mut self,
        schema: SchemaRef,
        buffers: Arc<[Buffer]>,
    ) -> Result<RecordBatch, DecodeError> {
        let rows = self.rows();
        let (any, all) = self
            .masks
            .iter()
            .fold((0, !0), |(any, all), mask| (any | mask, all & mask));
        let (any, all) = (any | self.required, all | self.required);
        let mut bitmaps = Bitmaps::default();
        if any != all {
            bitmaps = Bitmaps::new(&self.masks);
        }
        if self.zeroes.len() < rows * 16 {
            self.zeroes = Buffer::from_vec(vec![0u128; rows.next_power_of_two()]);
        }
        let raw_rows = self.row_bytes.map(|column| values(&mut self.wide[column], rows));
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.fields.len());
        for number in 0..self.fields.len() {
            let nulls = if any >> number & 1 == 0 {
                Some(NullBuffer::new_null(rows))
            } else if all >> number & 1 == 1 {
                None
            } else {
                Some(bitmaps.nulls(number, rows))
            };
            let given = if any >> number & 1 == 0 {
                Some(self.zeroes.clone())
            } else if self.row_bytes_in >> number & 1 == 1 {
                raw_rows.clone()
            } else {
                None
            };
            arrays.push(self.array(number, rows, given, nulls, &buffers));
        }
        self.masks.clear();
        if rows == 0 {
            arrays = schema
                .fields()
                .iter()
                .map(|field| new_empty_array(field.data_type()))
                .collect();
        }
        Ok(RecordBatch::try_new(schema, arrays)?)
    }

    fn array(
        &mut self,
        number: usize,
        rows: usize,
        given: Option<Buffer>,
        nulls: Option<NullBuffer>,
        buffers: &Arc<[Buffer]>,
    ) -> ArrayRef {
        let data_type = self.fields[number].data_type;
        let raw = self.raw >> number & 1 == 1;
        if raw || matches!(data_type, FieldType::Text | FieldType::Money) {
            let buffer = given.unwrap_or_else(|| values(&mut self.wide[number], rows));
            if raw {
                let views = ScalarBuffer::new(buffer, 0, rows);
                // SAFETY: as below; binary views need no UTF-8.
                return Arc::new(unsafe {
                    BinaryViewArray::new_unchecked(views, Arc::clone(buffers), nulls)
                });
            }
            if data_type == FieldType::Money {
                let array = Decimal128Array::new(ScalarBuffer::new(buffer, 0, rows), nulls);
                let typed = array.with_precision_and_scale(38, 12);
                return Arc::new(typed.expect("invariant: 38 digits with 12 decimals are a decimal"));
            }
            let views = ScalarBuffer::new(buffer, 0, rows);
            // SAFETY: every view was made by `TextStore` (its invariants: the bytes it covers lie in one of
            // `buffers`, do not move, and are valid UTF-8), or is zero, the empty text.
            return Arc::new(unsafe { StringViewArray::new_unchecked(views, Arc::clone(buffers), nulls) });
        }
        let buffer = given.unwrap_or_else(|| values(&mut self.narrow[number], rows));
        match data_type {
            FieldType::Timestamp => Arc::new(
                TimestampMicrosecondArray::new(ScalarBuffer::new(buffer, 0, rows), nulls)
                    .with_timezone("UTC"),
            ),
            FieldType::Float64 => Arc::new(Float64Array::new(ScalarBuffer::new(buffer, 0, rows), nulls)),
            FieldType::Int32 => {
                let wide: ScalarBuffer<i64> = ScalarBuffer::new(buffer, 0, rows);
                Arc::new(Int32Array::new(
                    wide.iter().map(|&value| value as i32).collect(),
                    nulls,
                ))
            }
            FieldType::Bool => {
                let wide: ScalarBuffer<i64> = ScalarBuffer::new(buffer, 0, rows);
                Arc::new(BooleanArray::new(
                    BooleanBuffer::collect_bool(rows, |row| wide[row] != 0),
                    nulls,
                ))
            }
            _ => Arc::new(Int64Array::new(ScalarBuffer::new(buffer, 0, rows), nulls)),
        }
    }
}

#[inline(always)]
fn set<T: Copy + Default>(column: &mut Vec<T>, row: usize, value: T) {
    if column.len() == row {
        column.push(value);
    } else {
        set_apart(column, row, value);
    }
}

/// Sets a value after a gap, or once more.
#[inline(never)]
fn set_apart<T: Copy + Default>(column: &mut Vec<T>, row: usize, value: T) {
    column.resize(row, T::default());
    column.push(value);
}

/// The values of a column as a buffer; the column keeps an empty vector of the same capacity.
fn values<T: Copy + Default + arrow::datatypes::ArrowNativeType>(column: &mut Vec<T>, rows: usize) -> Buffer {
    column.resize(rows, T::default());
    let next = Vec::with_capacity(rows);
    Buffer::from_vec(std::mem::replace(column, next))
}

/// One double for each value: −0.0 is 0.0, and NaN has one bit pattern.
#[inline(always)]
pub(crate) fn normal(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

/// Bitmaps of all columns: the rows' masks, transposed 64 at a time.
#[derive(Default)]
struct Bitmaps {
    words: Vec<[u64; 64]>,
}

impl Bitmaps {
    fn new(masks: &[u64]) -> Bitmaps {
        let words = masks
            .chunks(64)
            .map(|chunk| {
                let mut square = [0u64; 64];
                square[..chunk.len()].copy_from_slice(chunk);
                transpose(&mut square);
                square
            })
            .collect();
        Bitmaps { words }
    }

    fn nulls(&self, column: usize, rows: usize) -> NullBuffer {
        let words: Vec<u64> = self.words.iter().map(|square| square[column]).collect();
        NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(words), 0, rows))
    }
}

/// Transposes a square of bits: bit `c` of word `r` becomes bit `r` of word `c`.
fn transpose(square: &mut [u64; 64]) {
    let mut half = 32;
    let mut mask = 0x0000_0000_ffff_ffffu64;
    while half != 0 {
        let mut row = 0;
        while row < 64 {
            let swap = ((square[row] >> half) ^ square[row + half]) & mask;
            square[row] ^= swap << half;
            square[row + half] ^= swap;
            row = (row + half + 1) & !half;
        }
        half >>= 1;
        mask ^= mask << half;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_moves_every_bit() {
        for row in 0..64 {
            for column in 0..64 {
                let mut square = [0u64; 64];
                square[row] = 1 << column;
                transpose(&mut square);
                assert!(
                    square
                        .iter()
                        .enumerate()
                        .all(|(at, word)| *word == u64::from(at == column) << row)
                );
            }
        }
    }

    #[test]
    fn doubles_have_one_form() {
        assert_eq!(normal(-0.0).to_bits(), 0);
        assert_eq!(
            normal(f64::from_bits(0xfff8_0000_0000_0123)).to_bits(),
            f64::NAN.to_bits()
        );
        assert_eq!(normal(-1.5), -1.5);
    }
}
