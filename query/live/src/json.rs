//! Arrow cells as JSON, the one way this API writes them.
//!
//! Int64 is a number, or a string where the reader asks for it (browsers lose integers above 2^53); decimals,
//! ±∞ and NaN are strings; times are RFC 3339 in UTC with the microseconds they have; binary is lowercase hex;
//! lists are arrays, maps and structs objects. Nothing is cut or rounded.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, SecondsFormat, Utc};

/// How cells are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellFormat {
    /// 64-bit integers as strings.
    pub int64_as_string: bool,
}

/// Contract name of a type, as columns are described to clients: `Utf8`, `Int64`, `Timestamp(µs, UTC)`, ….
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "Utf8".to_string(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "Binary".to_string(),
        DataType::Timestamp(unit, zone) => {
            let zone = if zone.is_some() { ", UTC" } else { "" };
            format!("Timestamp({}{zone})", unit_name(unit))
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            format!("List({})", type_name(item.data_type()))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!(
                    "Map({}, {})",
                    type_name(fields[0].data_type()),
                    type_name(fields[1].data_type())
                )
            }
            other => format!("Map({other})"),
        },
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("Decimal({precision}, {scale})")
        }
        other => other.to_string(),
    }
}

fn unit_name(unit: &TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "µs",
        TimeUnit::Nanosecond => "ns",
    }
}

/// Writes the rows of one batch; the columns' types are looked at once, not per cell.
pub struct RowWriter<'a> {
    columns: Vec<Cells<'a>>,
}

impl<'a> RowWriter<'a> {
    pub fn new(batch: &'a RecordBatch, format: CellFormat) -> RowWriter<'a> {
        let columns = batch
            .columns()
            .iter()
            .map(|column| Cells::new(column.as_ref(), format))
            .collect();
        RowWriter { columns }
    }

    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// The cell as a JSON value.
    pub fn cell(&self, out: &mut String, column: usize, row: usize) {
        self.columns[column].write(out, row);
    }

    /// `,value,value…`: the cells of a row, each after a comma.
    pub fn append_cells(&self, out: &mut String, row: usize) {
        for column in &self.columns {
            out.push(',');
            column.write(out, row);
        }
    }

    /// `[value,value…]`.
    pub fn row(&self, out: &mut String, row: usize) {
        out.push('[');
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            column.write(out, row);
        }
        out.push(']');
    }
}

/// A string as a JSON string.
pub(crate) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let mut written = 0;
    for (index, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f | 0x7f => "",
            _ => continue,
        };
        out.push_str(&text[written..index]);
        if escape.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escape);
        }
        written = index + 1;
    }
    out.push_str(&text[written..]);
    out.push('"');
}

/// A column with its type known.
enum Cells<'a> {
    Null,
    Bool(&'a BooleanArray),
    Int8(&'a PrimitiveArray<Int8Type>),
    Int16(&'a PrimitiveArray<Int16Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>, bool),
    UInt8(&'a PrimitiveArray<UInt8Type>),
    UInt16(&'a PrimitiveArray<UInt16Type>),
    UInt32(&'a PrimitiveArray<UInt32Type>),
    UInt64(&'a PrimitiveArray<UInt64Type>, bool),
    Float16(&'a PrimitiveArray<Float16Type>),
    Float32(&'a PrimitiveArray<Float32Type>),
    Float64(&'a PrimitiveArray<Float64Type>),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    BinaryView(&'a BinaryViewArray),
    Timestamp(TimeUnit, ArrayRef),
    Date32(&'a PrimitiveArray<Date32Type>),
    Date64(&'a PrimitiveArray<Date64Type>),
    List(&'a ListArray, Box<Cells<'a>>),
    LargeList(&'a LargeListArray, Box<Cells<'a>>),
    Map(&'a MapArray, Box<Cells<'a>>, Box<Cells<'a>>),
    Struct(&'a StructArray, Vec<(&'a str, Cells<'a>)>),
    Dictionary(&'a dyn Array, Vec<Option<usize>>, Box<Cells<'a>>),
    /// Decimals, intervals, durations, times of day: what Arrow prints, as a string.
    Shown(&'a dyn Array),
}

impl<'a> Cells<'a> {
    fn new(array: &'a dyn Array, format: CellFormat) -> Cells<'a> {
        let text = format.int64_as_string;
        match array.data_type() {
            DataType::Null => Cells::Null,
            DataType::Boolean => Cells::Bool(array.as_boolean()),
            DataType::Int8 => Cells::Int8(array.as_primitive()),
            DataType::Int16 => Cells::Int16(array.as_primitive()),
            DataType::Int32 => Cells::Int32(array.as_primitive()),
            DataType::Int64 => Cells::Int64(array.as_primitive(), text),
            DataType::UInt8 => Cells::UInt8(array.as_primitive()),
            DataType::UInt16 => Cells::UInt16(array.as_primitive()),
            DataType::UInt32 => Cells::UInt32(array.as_primitive()),
            DataType::UInt64 => Cells::UInt64(array.as_primitive(), text),
            DataType::Float16 => Cells::Float16(array.as_primitive()),
            DataType::Float32 => Cells::Float32(array.as_primitive()),
            DataType::Float64 => Cells::Float64(array.as_primitive()),
            DataType::Utf8 => Cells::Utf8(array.as_string()),
            DataType::LargeUtf8 => Cells::LargeUtf8(array.as_string()),
            DataType::Utf8View => Cells::Utf8View(array.as_string_view()),
            DataType::Binary => Cells::Binary(array.as_binary()),
            DataType::LargeBinary => Cells::LargeBinary(array.as_binary()),
            DataType::BinaryView => Cells::BinaryView(array.as_binary_view()),
            DataType::Timestamp(unit, _) => Cells::timestamp(array, *unit),
            DataType::Date32 => Cells::Date32(array.as_primitive()),
            DataType::Date64 => Cells::Date64(array.as_primitive()),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Cells::List(list, Box::new(Cells::new(list.values().as_ref(), format)))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                Cells::LargeList(list, Box::new(Cells::new(list.values().as_ref(), format)))
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                let keys = Box::new(Cells::new(map.keys().as_ref(), format));
                Cells::Map(map, keys, Box::new(Cells::new(map.values().as_ref(), format)))
            }
            DataType::Struct(fields) => {
                let record = array.as_struct();
                let columns = fields.iter().zip(record.columns());
                let cells = columns
                    .map(|(field, column)| (field.name().as_str(), Cells::new(column.as_ref(), format)));
                Cells::Struct(record, cells.collect())
            }
            DataType::Dictionary(_, _) => {
                let dictionary = array.as_any_dictionary();
                let positions = (0..array.len()).zip(dictionary.normalized_keys());
                let positions = positions
                    .map(|(row, position)| array.is_valid(row).then_some(position))
                    .collect();
                Cells::Dictionary(
                    array,
                    positions,
                    Box::new(Cells::new(dictionary.values().as_ref(), format)),
                )
            }
            _ => Cells::Shown(array),
        }
    }

    /// Any unit as an Int64 array of the same length: a cast to Int64 keeps the count of units.
    fn timestamp(array: &'a dyn Array, unit: TimeUnit) -> Cells<'a> {
        match arrow::compute::cast(array, &DataType::Int64) {
            Ok(counts) => Cells::Timestamp(unit, counts),
            Err(_) => Cells::Shown(array),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Cells::Null => true,
            Cells::Bool(array) => array.is_null(row),
            Cells::Int8(array) => array.is_null(row),
            Cells::Int16(array) => array.is_null(row),
            Cells::Int32(array) => array.is_null(row),
            Cells::Int64(array, _) => array.is_null(row),
            Cells::UInt8(array) => array.is_null(row),
            Cells::UInt16(array) => array.is_null(row),
            Cells::UInt32(array) => array.is_null(row),
            Cells::UInt64(array, _) => array.is_null(row),
            Cells::Float16(array) => array.is_null(row),
            Cells::Float32(array) => array.is_null(row),
            Cells::Float64(array) => array.is_null(row),
            Cells::Utf8(array) => array.is_null(row),
            Cells::LargeUtf8(array) => array.is_null(row),
            Cells::Utf8View(array) => array.is_null(row),
            Cells::Binary(array) => array.is_null(row),
            Cells::LargeBinary(array) => array.is_null(row),
            Cells::BinaryView(array) => array.is_null(row),
            Cells::Timestamp(_, array) => array.is_null(row),
            Cells::Date32(array) => array.is_null(row),
            Cells::Date64(array) => array.is_null(row),
            Cells::List(array, _) => array.is_null(row),
            Cells::LargeList(array, _) => array.is_null(row),
            Cells::Map(array, _, _) => array.is_null(row),
            Cells::Struct(array, _) => array.is_null(row),
            Cells::Dictionary(_, positions, _) => positions[row].is_none(),
            Cells::Shown(array) => array.is_null(row),
        }
    }

    fn write(&self, out: &mut String, row: usize) {
        if self.is_null(row) {
            out.push_str("null");
            return;
        }
        match self {
            Cells::Null => out.push_str("null"),
            Cells::Bool(array) => out.push_str(if array.value(row) { "true" } else { "false" }),
            Cells::Int8(array) => write_integer(out, array.value(row), false),
            Cells::Int16(array) => write_integer(out, array.value(row), false),
            Cells::Int32(array) => write_integer(out, array.value(row), false),
            Cells::Int64(array, text) => write_integer(out, array.value(row), *text),
            Cells::UInt8(array) => write_integer(out, array.value(row), false),
            Cells::UInt16(array) => write_integer(out, array.value(row), false),
            Cells::UInt32(array) => write_integer(out, array.value(row), false),
            Cells::UInt64(array, text) => write_integer(out, array.value(row), *text),
            Cells::Float16(array) => write_float(out, f64::from(array.value(row))),
            Cells::Float32(array) => {
                let value = array.value(row);
                // Written as the shortest decimal of the *single*: widening first would print its noise digits.
                if value.is_finite() {
                    write_number(out, &value)
                } else {
                    write_float(out, f64::from(value))
                }
            }
            Cells::Float64(array) => write_float(out, array.value(row)),
            Cells::Utf8(array) => write_text(out, array.value(row)),
            Cells::LargeUtf8(array) => write_text(out, array.value(row)),
            Cells::Utf8View(array) => write_text(out, array.value(row)),
            Cells::Binary(array) => write_hex(out, array.value(row)),
            Cells::LargeBinary(array) => write_hex(out, array.value(row)),
            Cells::BinaryView(array) => write_hex(out, array.value(row)),
            Cells::Timestamp(unit, counts) => {
                write_time(out, *unit, counts.as_primitive::<Int64Type>().value(row))
            }
            Cells::Date32(array) => write_date(out, i64::from(array.value(row)) * 86_400_000),
            Cells::Date64(array) => write_date(out, array.value(row)),
            Cells::List(array, values) => {
                let offsets = array.value_offsets();
                write_list(out, values, offsets[row] as usize..offsets[row + 1] as usize);
            }
            Cells::LargeList(array, values) => {
                let offsets = array.value_offsets();
                write_list(out, values, offsets[row] as usize..offsets[row + 1] as usize);
            }
            Cells::Map(array, keys, values) => {
                let offsets = array.value_offsets();
                out.push('{');
                for entry in offsets[row] as usize..offsets[row + 1] as usize {
                    if entry > offsets[row] as usize {
                        out.push(',');
                    }
                    keys.write_key(out, entry);
                    out.push(':');
                    values.write(out, entry);
                }
                out.push('}');
            }
            Cells::Struct(_, columns) => {
                out.push('{');
                for (index, (name, cells)) in columns.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_text(out, name);
                    out.push(':');
                    cells.write(out, row);
                }
                out.push('}');
            }
            Cells::Dictionary(_, positions, values) => match positions[row] {
                Some(position) => values.write(out, position),
                None => out.push_str("null"),
            },
            Cells::Shown(array) => write_text(out, &shown(*array, row)),
        }
    }

    /// Keys of a map are strings whatever their type.
    fn write_key(&self, out: &mut String, row: usize) {
        match self {
            Cells::Utf8(_) | Cells::LargeUtf8(_) | Cells::Utf8View(_) if !self.is_null(row) => {
                self.write(out, row)
            }
            _ => {
                let mut value = String::new();
                self.write(&mut value, row);
                write_text(out, value.trim_matches('"'));
            }
        }
    }
}

fn write_list(out: &mut String, values: &Cells<'_>, range: std::ops::Range<usize>) {
    out.push('[');
    for (index, row) in range.enumerate() {
        if index > 0 {
            out.push(',');
        }
        values.write(out, row);
    }
    out.push(']');
}

fn write_integer(out: &mut String, value: impl std::fmt::Display, text: bool) {
    let quote = if text { "\"" } else { "" };
    let _ = write!(out, "{quote}{value}{quote}");
}

fn write_number(out: &mut String, value: &impl serde::Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => out.push_str(&text),
        Err(_) => out.push_str("null"),
    }
}

fn write_float(out: &mut String, value: f64) {
    if value.is_finite() {
        write_number(out, &value);
    } else if value.is_nan() {
        out.push_str("\"NaN\"");
    } else {
        out.push_str(if value > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        });
    }
}

fn write_hex(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out.push('"');
}

/// RFC 3339 in UTC. A time outside the calendar's years is written as its count of units, in a string.
fn write_time(out: &mut String, unit: TimeUnit, count: i64) {
    let time = match unit {
        TimeUnit::Second => DateTime::from_timestamp(count, 0),
        TimeUnit::Millisecond => DateTime::from_timestamp_millis(count),
        TimeUnit::Microsecond => DateTime::from_timestamp_micros(count),
        TimeUnit::Nanosecond => Some(DateTime::from_timestamp_nanos(count)),
    };
    match time {
        Some(time) => {
            let _ = write!(out, "\"{}\"", time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        }
        None => write_integer(out, count, true),
    }
}

fn write_date(out: &mut String, milliseconds: i64) {
    match DateTime::<Utc>::from_timestamp_millis(milliseconds) {
        Some(time) => {
            let _ = write!(out, "\"{}\"", time.format("%Y-%m-%d"));
        }
        None => write_integer(out, milliseconds, true),
    }
}

fn shown(array: &dyn Array, row: usize) -> String {
    let options = FormatOptions::default();
    match ArrayFormatter::try_new(array, &options) {
        Ok(formatter) => formatter.value(row).to_string(),
        Err(_) => Arc::new(array.data_type().clone()).to_string(),
    }
}
