//! JSON. The text is written directly; the tree of values is for callers that go on working with it.

use std::fmt::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Int64Mode;

/// The rows of a batch as `[value, …]`, each followed by a comma save the last; the caller writes the brackets around
/// and the commas between batches.
pub fn write_rows(out: &mut String, batch: &RecordBatch, mode: Int64Mode) {
    for row in 0..batch.num_rows() {
        if row > 0 {
            out.push(',');
        }
        out.push('[');
        for (position, column) in batch.columns().iter().enumerate() {
            if position > 0 {
                out.push(',');
            }
            write_cell(out, column.as_ref(), row, mode);
        }
        out.push(']');
    }
}

/// The rows of a batch as JSON values.
pub fn json_rows(batch: &RecordBatch, mode: Int64Mode) -> Vec<Vec<Value>> {
    let mut text = String::new();
    (0..batch.num_rows())
        .map(|row| {
            let cell = |column: &arrow::array::ArrayRef| {
                text.clear();
                write_cell(&mut text, column.as_ref(), row, mode);
                serde_json::from_str(&text).unwrap_or(Value::Null)
            };
            batch.columns().iter().map(cell).collect()
        })
        .collect()
}

/// One value.
pub fn write_cell(out: &mut String, array: &dyn Array, row: usize, mode: Int64Mode) {
    if array.is_null(row) {
        out.push_str("null");
        return;
    }
    match array.data_type() {
        DataType::Null => out.push_str("null"),
        DataType::Boolean => out.push_str(if array.as_boolean().value(row) {
            "true"
        } else {
            "false"
        }),
        DataType::Int8 => number(out, array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => number(out, array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => number(out, array.as_primitive::<Int32Type>().value(row)),
        DataType::UInt8 => number(out, array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => number(out, array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => number(out, array.as_primitive::<UInt32Type>().value(row)),
        DataType::Int64 => wide(out, array.as_primitive::<Int64Type>().value(row), mode),
        DataType::UInt64 => wide(out, array.as_primitive::<UInt64Type>().value(row), mode),
        DataType::Float32 => float(out, f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => float(out, array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, _) => {
            let decimals = array.as_primitive::<Decimal128Type>();
            let _ = write!(out, "\"{}\"", decimals.value_as_string(row));
        }
        DataType::Utf8 => text(out, array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(out, array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(out, array.as_string_view().value(row)),
        DataType::Binary => bytes(out, array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(out, array.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytes(out, array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => bytes(out, array.as_fixed_size_binary().value(row)),
        DataType::Timestamp(unit, _) => {
            out.push('"');
            write_time(out, timestamp_micros(array, row, *unit));
            out.push('"');
        }
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            out.push('"');
            let date = chrono::DateTime::from_timestamp(i64::from(days) * 86_400, 0);
            let _ = match date {
                Some(date) => write!(out, "{}", date.format("%Y-%m-%d")),
                None => write!(out, "{days}"),
            };
            out.push('"');
        }
        DataType::List(_) => list(out, array.as_list::<i32>().value(row).as_ref(), mode),
        DataType::LargeList(_) => list(out, array.as_list::<i64>().value(row).as_ref(), mode),
        DataType::ListView(_) => list(out, array.as_list_view::<i32>().value(row).as_ref(), mode),
        DataType::FixedSizeList(_, _) => list(out, array.as_fixed_size_list().value(row).as_ref(), mode),
        DataType::Map(_, _) => {
            let map = array.as_map();
            let (start, end) = (
                map.value_offsets()[row] as usize,
                map.value_offsets()[row + 1] as usize,
            );
            out.push('{');
            for entry in start..end {
                if entry > start {
                    out.push(',');
                }
                key(out, map.keys().as_ref(), entry, mode);
                out.push(':');
                write_cell(out, map.values().as_ref(), entry, mode);
            }
            out.push('}');
        }
        DataType::Struct(fields) => {
            let structure = array.as_struct();
            out.push('{');
            for (position, field) in fields.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                text(out, field.name());
                out.push(':');
                write_cell(out, structure.column(position).as_ref(), row, mode);
            }
            out.push('}');
        }
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[row];
            write_cell(out, dictionary.values().as_ref(), key, mode);
        }
        // Intervals, durations, times of day: as SQL prints them.
        _ => match ArrayFormatter::try_new(array, &FormatOptions::default()) {
            Ok(formatter) => text(out, &formatter.value(row).to_string()),
            Err(_) => out.push_str("null"),
        },
    }
}

fn number(out: &mut String, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}

fn wide(out: &mut String, value: impl std::fmt::Display, mode: Int64Mode) {
    let _ = match mode {
        Int64Mode::Number => write!(out, "{value}"),
        Int64Mode::String => write!(out, "\"{value}\""),
    };
}

/// The shortest text that reads back as the same number.
fn float(out: &mut String, value: f64) {
    if value.is_finite() {
        out.push_str(ryu::Buffer::new().format_finite(value));
    } else {
        out.push_str(match value {
            value if value.is_nan() => "\"NaN\"",
            value if value > 0.0 => "\"Infinity\"",
            _ => "\"-Infinity\"",
        });
    }
}

/// A JSON string; runs of ordinary characters are copied as they are.
pub(super) fn text(out: &mut String, value: &str) {
    out.push('"');
    let mut copied = 0;
    for (at, byte) in value.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&value[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            other => {
                let _ = write!(out, "\\u{other:04x}");
            }
        }
    }
    out.push_str(&value[copied..]);
    out.push('"');
}

/// Keys of objects are text whatever the map's keys are.
fn key(out: &mut String, keys: &dyn Array, entry: usize, mode: Int64Mode) {
    let start = out.len();
    write_cell(out, keys, entry, mode);
    if !out[start..].starts_with('"') {
        let plain = out.split_off(start);
        text(out, &plain);
    }
}

fn bytes(out: &mut String, value: &[u8]) {
    out.push('"');
    STANDARD.encode_string(value, out);
    out.push('"');
}

fn list(out: &mut String, elements: &dyn Array, mode: Int64Mode) {
    out.push('[');
    for element in 0..elements.len() {
        if element > 0 {
            out.push(',');
        }
        write_cell(out, elements, element, mode);
    }
    out.push(']');
}

fn timestamp_micros(array: &dyn Array, row: usize, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => array
            .as_primitive::<TimestampSecondType>()
            .value(row)
            .saturating_mul(1_000_000),
        TimeUnit::Millisecond => array
            .as_primitive::<TimestampMillisecondType>()
            .value(row)
            .saturating_mul(1000),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row),
        TimeUnit::Nanosecond => array
            .as_primitive::<TimestampNanosecondType>()
            .value(row)
            .div_euclid(1000),
    }
}

/// Microseconds since 1970 as `2026-11-24T05:21:00.123456Z`, without chrono's formatting machinery.
pub fn write_time(out: &mut String, micros: i64) {
    let days = micros.div_euclid(86_400_000_000);
    let of_day = micros.rem_euclid(86_400_000_000);
    let (year, month, day) = civil(days);
    let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = match year {
        0..=9999 => write!(out, "{year:04}"),
        _ => write!(out, "{year:+07}"),
    };
    let _ = write!(
        out,
        "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z"
    );
}

/// Year, month and day of a number of days since 1970-01-01, in the proleptic Gregorian calendar: eras of 400 years
/// that begin on the first of March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int64Array, ListArray, MapBuilder,
        StringBuilder, StringViewArray, TimestampMicrosecondArray,
    };
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values(column: ArrayRef, mode: Int64Mode) -> Vec<Value> {
        let batch = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let mut text = String::from("[");
        write_rows(&mut text, &batch, mode);
        text.push(']');
        let direct: Vec<Vec<Value>> = serde_json::from_str(&text).unwrap();
        assert_eq!(direct, json_rows(&batch, mode), "both ways say the same");
        direct.into_iter().flatten().collect()
    }

    #[test]
    fn numbers_follow_the_contract() {
        let integers: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(-1), None]));
        assert_eq!(
            values(Arc::clone(&integers), Int64Mode::Number),
            [json!(i64::MAX), json!(-1), Value::Null]
        );
        assert_eq!(
            values(integers, Int64Mode::String),
            [json!("9223372036854775807"), json!("-1"), Value::Null]
        );
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![
            0.1,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            1e300,
            -0.0,
        ]));
        assert_eq!(
            values(floats, Int64Mode::Number),
            [
                json!(0.1),
                json!("NaN"),
                json!("Infinity"),
                json!("-Infinity"),
                json!(1e300),
                json!(-0.0)
            ]
        );
        let money = Decimal128Array::from(vec![1_500_000_000_000, -1])
            .with_precision_and_scale(38, 12)
            .unwrap();
        assert_eq!(
            values(Arc::new(money), Int64Mode::Number),
            [json!("1.500000000000"), json!("-0.000000000001")]
        );
    }

    #[test]
    fn nested_values_and_bytes() {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("a \"key\"");
        map.values().append_value("{\"x\": 1}\n\u{1}");
        map.keys().append_value("b");
        map.values().append_null();
        map.append(true).unwrap();
        map.append(true).unwrap();
        map.append(false).unwrap();
        assert_eq!(
            values(Arc::new(map.finish()), Int64Mode::Number),
            [
                json!({"a \"key\"": "{\"x\": 1}\n\u{1}", "b": null}),
                json!({}),
                Value::Null
            ]
        );
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None]);
        assert_eq!(
            values(Arc::new(lists), Int64Mode::String),
            [json!(["1", null]), Value::Null]
        );
        let binary = BinaryArray::from_vec(vec![b"\x00\xff\x10"]);
        assert_eq!(values(Arc::new(binary), Int64Mode::Number), [json!("AP8Q")]);
    }

    proptest! {
        #[test]
        fn text_reads_back(strings in prop::collection::vec(any::<Option<String>>(), 1..20)) {
            let column = StringViewArray::from_iter(strings.iter().map(|text| text.as_deref()));
            let read = values(Arc::new(column), Int64Mode::Number);
            let expected: Vec<Value> = strings.into_iter().map(|text| json!(text)).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn floats_read_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let read = values(Arc::new(Float64Array::from(vec![value])), Int64Mode::Number);
            prop_assert_eq!(read[0].as_f64().unwrap().to_bits(), value.to_bits());
        }

        #[test]
        fn times_are_what_chrono_says(micros in -62_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let column = TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC");
            let read = values(Arc::new(column), Int64Mode::Number);
            let time = chrono::DateTime::from_timestamp_micros(micros).unwrap();
            prop_assert_eq!(read[0].as_str().unwrap(), time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
        }
    }

    #[test]
    fn extreme_times_do_not_panic() {
        for micros in [i64::MIN, i64::MAX, 0, -1] {
            let mut text = String::new();
            write_time(&mut text, micros);
            assert!(text.ends_with('Z'));
        }
    }
}
