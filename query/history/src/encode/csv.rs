//! CSV as RFC 4180 has it: a header line, CRLF, quotes where a value needs them. Null is the empty field and the empty
//! text is `""`, so they can be told apart; lists and maps are JSON.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};

use super::Int64Mode;
use super::json::write_cell;

/// The batches as one CSV document.
pub fn csv(schema: &Schema, batches: &[RecordBatch]) -> String {
    let mut out = String::new();
    for (position, field) in schema.fields().iter().enumerate() {
        separator(&mut out, position);
        quote(&mut out, field.name());
    }
    out.push_str("\r\n");
    let mut cell = String::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            for (position, column) in batch.columns().iter().enumerate() {
                separator(&mut out, position);
                if column.is_null(row) {
                    continue;
                }
                match column.data_type() {
                    DataType::Utf8 => quote(&mut out, column.as_string::<i32>().value(row)),
                    DataType::Utf8View => quote(&mut out, column.as_string_view().value(row)),
                    DataType::LargeUtf8 => quote(&mut out, column.as_string::<i64>().value(row)),
                    _ => {
                        cell.clear();
                        write_cell(&mut cell, column.as_ref(), row, Int64Mode::Number);
                        // Texts that JSON quotes and CSV need not: times, decimals, base64.
                        let bare = cell.strip_prefix('"').and_then(|cell| cell.strip_suffix('"'));
                        match bare {
                            Some(bare) if !bare.contains('\\') => quote(&mut out, bare),
                            _ => quote(&mut out, &cell),
                        }
                    }
                }
            }
            out.push_str("\r\n");
        }
    }
    out
}

fn separator(out: &mut String, position: usize) {
    if position > 0 {
        out.push(',');
    }
}

fn quote(out: &mut String, value: &str) {
    let plain = !value.is_empty()
        && !value
            .bytes()
            .any(|byte| matches!(byte, b'"' | b',' | b'\r' | b'\n'));
    if plain {
        out.push_str(value);
    } else {
        out.push('"');
        out.push_str(&value.replace('"', "\"\""));
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn values_are_quoted_where_they_must_be() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a,\"b\"\n"), Some(""), None]));
        let number: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NAN, 0.0]));
        let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2]).with_timezone("UTC"));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("t", text, true),
            ("n", number, true),
            ("at", time, true),
        ]);
        let batch = batch.unwrap();
        assert_eq!(
            csv(&batch.schema(), &[batch]),
            "t,n,at\r\n\"a,\"\"b\"\"\n\",1.5,1970-01-01T00:00:00.000000Z\r\n\
             \"\",NaN,1970-01-01T00:00:00.000001Z\r\n,0.0,1970-01-01T00:00:00.000002Z\r\n"
        );
    }
}
