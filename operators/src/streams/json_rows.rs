//! Rows out of JSON: one object a line, or one in all; its members are the declared columns.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::cells::{Cell, Cells};
use super::definition::StreamDefinition;
use super::rows::{Admitted, StreamError};
use crate::fields::FieldType;

/// Greatest unscaled value of `Decimal128(38, 12)`.
const MOST_MONEY: i128 = 10_i128.pow(38) - 1;
const MONEY_SCALE: usize = 12;

/// Whether a body is one object that takes more than one line.
pub(super) fn is_one_object(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    let Some(end) = body.iter().position(|byte| *byte == b'\n') else {
        return false;
    };
    let is_json = |text: &[u8]| serde_json::from_slice::<IgnoredAny>(text).is_ok();
    !is_json(&body[..end]) && is_json(body)
}

/// Reads all lines of a body, or the whole as one, into `cells`; `numbers` gets the number of each row kept.
#[allow(clippy::too_many_arguments)]
pub(super) fn read(
    definition: &StreamDefinition,
    body: &[u8],
    is_one: bool,
    received_us: i64,
    most_rows: usize,
    cells: &mut Cells,
    numbers: &mut Vec<i32>,
    admitted: &mut Admitted,
) -> Result<(), StreamError> {
    let columns: HashMap<&str, usize> = definition
        .columns
        .iter()
        .enumerate()
        .map(|(place, column)| (column.name.as_str(), place))
        .collect();
    let time = definition.time.as_deref().map(|time| columns[time]);
    let mut row = vec![Cell::Null; definition.columns.len()];
    let mut number = 0_u32;
    for line in body.split(|byte| *byte == b'\n' && !is_one) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if number as usize >= most_rows {
            return Err(StreamError::TooManyRows { limit: most_rows });
        }
        let read = read_row(definition, &columns, line, &mut row).and_then(|()| missing(definition, &row));
        match read {
            Ok(()) => {
                let event_time = match time.map(|place| &row[place]) {
                    Some(Cell::Timestamp(time)) => *time,
                    _ => received_us,
                };
                admitted.accept(event_time);
                numbers.push(number as i32);
                cells.push(&mut row);
            }
            Err((code, detail)) => {
                admitted.reject(number, code, || detail);
                row.fill(Cell::Null);
            }
        }
        number += 1;
    }
    Ok(())
}

type Refused = (&'static str, String);

/// A required value that is not there; the event time is always required.
fn missing(definition: &StreamDefinition, row: &[Cell]) -> Result<(), Refused> {
    let found = definition.columns.iter().zip(row).find(|(column, cell)| {
        let needed = column.required || definition.time.as_deref() == Some(column.name.as_str());
        needed && **cell == Cell::Null
    });
    match found {
        Some((column, _)) => Err(("PF-1213", format!("{} is missing or null", column.name))),
        None => Ok(()),
    }
}

fn read_row(
    definition: &StreamDefinition,
    columns: &HashMap<&str, usize>,
    line: &[u8],
    row: &mut [Cell],
) -> Result<(), Refused> {
    let mut refused = None;
    let seed = RowSeed {
        definition,
        columns,
        row,
        refused: &mut refused,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let read = seed
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    match (refused, read) {
        // A line that is no JSON is said to be so, whatever its beginning looks like.
        (_, Err(error)) => Err(("PF-1210", format!("not a JSON object: {error}"))),
        (Some(refused), Ok(())) => Err(refused),
        (None, Ok(())) => Ok(()),
    }
}

struct RowSeed<'a> {
    definition: &'a StreamDefinition,
    columns: &'a HashMap<&'a str, usize>,
    row: &'a mut [Cell],
    /// The first thing that is wrong with a line of good JSON.
    refused: &'a mut Option<Refused>,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with the stream's columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = vec![false; self.row.len()];
        while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            if self.refused.is_some() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Some(place) = self.columns.get(&*name).copied() else {
                map.next_value::<IgnoredAny>()?;
                if self.definition.leaves_out_other_columns() {
                    continue;
                }
                *self.refused = Some(("PF-1211", format!("the stream has no column {name:?}")));
                continue;
            };
            if std::mem::replace(&mut seen[place], true) {
                map.next_value::<IgnoredAny>()?;
                *self.refused = Some(("PF-1210", format!("{name:?} is there twice")));
                continue;
            }
            let value = map.next_value::<Value>()?;
            match cell(self.definition.columns[place].data_type, value) {
                Ok(cell) => self.row[place] = cell,
                Err(wanted) => {
                    *self.refused = Some(("PF-1212", format!("{name} is not {wanted}")));
                }
            }
        }
        Ok(())
    }
}

/// The value in the column's type, or what the column takes.
fn cell(data_type: FieldType, value: Value) -> Result<Cell, &'static str> {
    if value.is_null() {
        return Ok(Cell::Null);
    }
    let cell = match data_type {
        FieldType::Bool => value.as_bool().map(Cell::Bool),
        FieldType::Int32 => whole(&value)
            .and_then(|number| i32::try_from(number).ok())
            .map(Cell::Int32),
        FieldType::Int64 => whole(&value).map(Cell::Int64),
        FieldType::Float64 => float(&value).map(Cell::Float64),
        FieldType::Money => match &value {
            Value::Number(number) => money(&number.to_string()),
            Value::String(text) => money(text.trim()),
            _ => None,
        }
        .map(Cell::Money),
        FieldType::Timestamp => match &value {
            Value::String(text) => time(text),
            Value::Number(number) => number.as_i64(),
            _ => None,
        }
        .map(Cell::Timestamp),
        FieldType::Text => match value {
            Value::String(text) => Some(Cell::Text(text)),
            _ => None,
        },
        FieldType::TextList => texts(value).map(Cell::TextList),
        FieldType::TextMap => match value {
            Value::Object(members) => Some(Cell::TextMap(
                members
                    .into_iter()
                    .map(|(key, value)| (key, (!value.is_null()).then(|| value.to_string())))
                    .collect(),
            )),
            _ => None,
        },
    };
    cell.ok_or(match data_type {
        FieldType::Bool => "true or false",
        FieldType::Int32 => "a whole number of 32 bits",
        FieldType::Int64 => "a whole number of 64 bits, as a number or as text",
        FieldType::Float64 => "a number, or \"NaN\", \"Infinity\" or \"-Infinity\"",
        FieldType::Money => "a decimal number with at most 26 digits before the point and 12 after it",
        FieldType::Timestamp => {
            "a time: RFC 3339 text with a zone, such as \"2026-01-31T12:00:00Z\", or microseconds since 1970"
        }
        FieldType::Text => "text",
        FieldType::TextList => "a list of texts",
        FieldType::TextMap => "an object",
    })
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        // Numbers beyond 2^53 do not survive every JSON library.
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => match text.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            _ => return None,
        },
        _ => return None,
    };
    Some(canonical(number))
}

/// Never −0.0, and NaN has one bit pattern.
pub(super) fn canonical(number: f64) -> f64 {
    if number.is_nan() { f64::NAN } else { number + 0.0 }
}

/// An exact decimal: digits beyond the scale are refused, not rounded, save zeros.
fn money(text: &str) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (before, after) = digits.split_once('.').unwrap_or((digits, ""));
    let all = before.len() + after.len();
    if all == 0
        || all > 100
        || !before
            .bytes()
            .chain(after.bytes())
            .all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    // The value is the digits times ten to this power, once scaled.
    let mut power = i64::from(exponent) - after.len() as i64 + MONEY_SCALE as i64;
    let digits = format!("{before}{after}");
    let mut digits = digits.trim_start_matches('0');
    while power < 0 && digits.ends_with('0') {
        digits = &digits[..digits.len() - 1];
        power += 1;
    }
    if digits.is_empty() {
        return Some(0);
    }
    if power < 0 || digits.len() as i64 + power > 38 {
        return None;
    }
    let value = digits
        .parse::<i128>()
        .ok()?
        .checked_mul(10_i128.checked_pow(power as u32)?)?;
    (value <= MOST_MONEY).then_some(if negative { -value } else { value })
}

/// RFC 3339 to microseconds; finer digits are cut off.
fn time(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let zoned = bytes.last().is_some_and(|last| last.eq_ignore_ascii_case(&b'z'))
        || bytes.len() > 6 && matches!(bytes[bytes.len() - 6], b'+' | b'-') && bytes[bytes.len() - 3] == b':';
    if !zoned || bytes.len() < 17 {
        return None;
    }
    let utc: arrow::array::timezone::Tz = "+00:00".parse().ok()?;
    let parsed = arrow::compute::kernels::cast_utils::string_to_datetime(&utc, text).ok()?;
    Some(parsed.timestamp_micros())
}

fn texts(value: Value) -> Option<Vec<Option<String>>> {
    let Value::Array(items) = value else { return None };
    items
        .into_iter()
        .map(|item| match item {
            Value::String(text) => Some(Some(text)),
            Value::Null => Some(None),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(money("1"), Some(10_i128.pow(12)));
        assert_eq!(money("-0.000000000001"), Some(-1));
        assert_eq!(money("0.0000000000010"), Some(1));
        assert_eq!(money("0.0000000000001"), None);
        assert_eq!(money("1e-12"), Some(1));
        assert_eq!(money("12.5E3"), Some(12_500 * 10_i128.pow(12)));
        assert_eq!(money("99999999999999999999999999.999999999999"), Some(MOST_MONEY));
        assert_eq!(money("100000000000000000000000000"), None);
        for bad in ["", ".", "-", "1.2.3", "0x1", "1e", "1e99999999999", "١"] {
            assert_eq!(money(bad), None, "{bad}");
        }
        assert_eq!(money("0e2000000000"), Some(0));
        assert_eq!(money("1e2000000000"), None);
        assert_eq!(money("1e-2000000000"), None);
    }

    #[test]
    fn times_have_a_zone() {
        assert_eq!(time("1970-01-01T00:00:01Z"), Some(1_000_000));
        assert_eq!(time("1970-01-01T01:00:00.000001+01:00"), Some(1));
        assert_eq!(time("1970-01-01 00:00:00.5z"), Some(500_000));
        for bad in [
            "",
            "now",
            "1970-01-01",
            "1970-01-01T00:00:01",
            "1970-13-01T00:00:01Z",
            "Z",
        ] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
