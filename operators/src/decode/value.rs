//! `AnyValue` and `KeyValue` in full generality, and their JSON text.
//!
//! The wire may repeat a singular field: messages are then merged, and the last of a `oneof` wins. A value is
//! therefore a list of *pieces*, each a whole number of fields, read one after the other. Everything here
//! takes bytes that the structural walk has passed; an error means that it has not.
//!
//! JSON text is lossless: text is a JSON string, an integer has no point, a double always has one, a list and
//! a key-value list are an array and an object (repeated keys are kept), nothing is `null`. What JSON cannot
//! write takes the form OTLP/JSON gives it: `{"bytesValue": "…"}` in base64, `{"doubleValue": "NaN"}`.
use std::borrow::Cow;
use std::io::Write;

use smallvec::SmallVec;

use super::error::WireError;
use super::text::lossy;
use super::wire;

/// Parts of one message, in wire order.
pub(crate) type Pieces<'a> = SmallVec<[&'a [u8]; 1]>;

/// A decoded `AnyValue`.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Empty,
    Text(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    Array(Pieces<'a>),
    Map(Pieces<'a>),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Reads an `AnyValue`, the last member of its `oneof` winning.
    pub(crate) fn read(pieces: &[&'a [u8]]) -> Result<Value<'a>, WireError> {
        let mut value = Value::Empty;
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let tag = wire::tag(&mut rest)?;
                match tag {
                    0x0a => value = Value::Text(wire::bytes(&mut rest)?),
                    0x10 => value = Value::Bool(wire::varint(&mut rest)? != 0),
                    0x18 => value = Value::Int(wire::varint(&mut rest)? as i64),
                    0x21 => value = Value::Double(f64::from_bits(wire::fixed64(&mut rest)?)),
                    0x2a => {
                        let part = wire::bytes(&mut rest)?;
                        match &mut value {
                            Value::Array(parts) => parts.push(part),
                            other => *other = Value::Array(SmallVec::from_slice(&[part])),
                        }
                    }
                    0x32 => {
                        let part = wire::bytes(&mut rest)?;
                        match &mut value {
                            Value::Map(parts) => parts.push(part),
                            other => *other = Value::Map(SmallVec::from_slice(&[part])),
                        }
                    }
                    0x3a => value = Value::Bytes(wire::bytes(&mut rest)?),
                    _ => wire::skip(tag & 7, &mut rest)?,
                }
            }
        }
        Ok(value)
    }

    /// Appends the value's JSON text.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        match self {
            Value::Empty => out.extend_from_slice(b"null"),
            Value::Text(text) => write_text(out, text),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Int(number) => write_display(out, number),
            Value::Double(number) => write_double(out, *number),
            Value::Array(parts) => {
                out.push(b'[');
                let mut first = true;
                each_field(parts, 0x0a, |item| {
                    separate(out, &mut first);
                    Value::read(&[item])?.write_json(out)
                })?;
                out.push(b']');
            }
            Value::Map(parts) => {
                out.push(b'{');
                let mut first = true;
                each_field(parts, 0x0a, |pair| {
                    separate(out, &mut first);
                    let pair = KeyValue::read(pair)?;
                    write_text(out, pair.key);
                    out.push(b':');
                    pair.value()?.write_json(out)
                })?;
                out.push(b'}');
            }
            Value::Bytes(bytes) => {
                out.extend_from_slice(b"{\"bytesValue\":\"");
                write_base64(out, bytes);
                out.extend_from_slice(b"\"}");
            }
        }
        Ok(())
    }

    /// The value as text: text as it is, a scalar as one writes it, anything else as JSON text.
    pub(crate) fn text(&self) -> Result<Option<Cow<'a, [u8]>>, WireError> {
        Ok(match self {
            Value::Empty => None,
            Value::Text(text) => Some(Cow::Borrowed(text)),
            other => {
                let mut json = Vec::new();
                other.write_json(&mut json)?;
                Some(Cow::Owned(json))
            }
        })
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Result<Vec<Value<'a>>, WireError> {
        let mut items = Vec::new();
        if let Value::Array(parts) = self {
            each_field(parts, 0x0a, |item| {
                items.push(Value::read(&[item])?);
                Ok(())
            })?;
        }
        Ok(items)
    }
}

/// A key and the pieces of its value.
pub(crate) struct KeyValue<'a> {
    pub key: &'a [u8],
    pub value: Pieces<'a>,
}

impl<'a> KeyValue<'a> {
    pub(crate) fn read(mut rest: &'a [u8]) -> Result<KeyValue<'a>, WireError> {
        let mut pair = KeyValue {
            key: &[],
            value: SmallVec::new(),
        };
        while !rest.is_empty() {
            let tag = wire::tag(&mut rest)?;
            match tag {
                0x0a => pair.key = wire::bytes(&mut rest)?,
                0x12 => pair.value.push(wire::bytes(&mut rest)?),
                _ => wire::skip(tag & 7, &mut rest)?,
            }
        }
        Ok(pair)
    }

    pub(crate) fn value(&self) -> Result<Value<'a>, WireError> {
        Value::read(&self.value)
    }
}

/// Calls `each` with every length-delimited field of that tag, in all pieces.
pub(crate) fn each_field<'a>(
    pieces: &[&'a [u8]],
    wanted: u32,
    mut each: impl FnMut(&'a [u8]) -> Result<(), WireError>,
) -> Result<(), WireError> {
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let tag = wire::tag(&mut rest)?;
            if tag == wanted {
                each(wire::bytes(&mut rest)?)?;
            } else {
                wire::skip(tag & 7, &mut rest)?;
            }
        }
    }
    Ok(())
}

/// Writes a comma before all but the first element.
pub(crate) fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::take(first) {
        out.push(b',');
    }
}

/// Appends a JSON string; what is not UTF-8 becomes U+FFFD.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_escaped(out, lossy(text).as_bytes());
    out.push(b'"');
}

/// Appends the inside of a JSON string. Prompts and answers are long and mostly need no escape: whole blocks are
/// looked at before any byte is.
fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    for block in text.chunks(32) {
        // Without an early end, so that it is one comparison of vectors.
        if !block.iter().fold(false, |found, byte| found | special(*byte)) {
            out.extend_from_slice(block);
            continue;
        }
        for &byte in block {
            let letter = match byte {
                b'"' | b'\\' => byte,
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0x08 => b'b',
                0x0c => b'f',
                0x00..0x20 => {
                    let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                    out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
                    continue;
                }
                _ => {
                    out.push(byte);
                    continue;
                }
            };
            out.extend_from_slice(&[b'\\', letter]);
        }
    }
}

pub(crate) fn write_display(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    write!(out, "{number}").expect("invariant: writing a number into memory does not fail");
}

/// Appends a double so that it is read back exactly.
pub(crate) fn write_double(out: &mut Vec<u8>, number: f64) {
    if number.is_finite() {
        serde_json::to_writer(out, &number).expect("invariant: writing a number into memory does not fail");
        return;
    }
    let name = if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    out.extend_from_slice(b"{\"doubleValue\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\"}");
}

/// Appends bytes in padded base64.
pub(crate) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let group = u32::from(chunk[0]) << 16
            | u32::from(*chunk.get(1).unwrap_or(&0)) << 8
            | u32::from(*chunk.get(2).unwrap_or(&0));
        for digit in 0..4 {
            if digit <= chunk.len() {
                out.push(DIGITS[(group >> (18 - 6 * digit) & 63) as usize]);
            } else {
                out.push(b'=');
            }
        }
    }
}

/// Appends bytes in lowercase hexadecimal.
pub(crate) fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn json(value: &[u8]) -> String {
        let mut out = Vec::new();
        Value::read(&[value]).unwrap().write_json(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_kind_of_value_has_its_own_json() {
        assert_eq!(json(&[]), "null");
        assert_eq!(json(b"\x0a\x02\"a"), "\"\\\"a\"");
        assert_eq!(json(&[0x18, 7]), "7");
        assert_eq!(json(&[&[0x21][..], &7f64.to_le_bytes()].concat()), "7.0");
        assert_eq!(json(&[&[0x21][..], &(-0f64).to_le_bytes()].concat()), "-0.0");
        assert_eq!(
            json(&[&[0x21][..], &f64::NAN.to_le_bytes()].concat()),
            "{\"doubleValue\":\"NaN\"}"
        );
        assert_eq!(json(b"\x3a\x02ab"), "{\"bytesValue\":\"YWI=\"}");
        assert_eq!(json(b"\x0a\x01\xff"), "\"\u{fffd}\"");
    }

    #[test]
    fn text_is_escaped_as_serde_does() {
        let all: String = (0..300u32).filter_map(char::from_u32).collect();
        for start in 0..40 {
            let text: String = all.chars().skip(start).collect();
            let mut out = Vec::new();
            write_text(&mut out, text.as_bytes());
            assert_eq!(
                String::from_utf8(out).unwrap(),
                serde_json::to_string(&text).unwrap()
            );
        }
    }

    #[test]
    fn a_oneof_keeps_its_last_member_and_merges_equal_messages() {
        assert_eq!(json(&[0x18, 7, 0x10, 1]), "true");
        let one = [0x2a, 4, 0x0a, 2, 0x18, 1];
        let two = [0x2a, 4, 0x0a, 2, 0x18, 2];
        assert_eq!(json(&[one, two].concat()), "[1,2]");
        assert_eq!(json(&[&one[..], &[0x18, 3], &two].concat()), "[2]");
    }
}
