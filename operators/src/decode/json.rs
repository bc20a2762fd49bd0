//! OTLP/JSON into protobuf wire bytes, so that both encodings are walked by the same code.
//!
//! The rules are those of protobuf's JSON mapping with OTLP's exceptions: trace and span ids are hexadecimal
//! (base64, which some senders use, is understood where it is not), enumerations are numbers or names, 64-bit
//! integers are numbers or text, field names are lowerCamelCase or snake_case, `null` is an absent field, an
//! unknown field is ignored.
use serde_json::{Map, Value as Json};

use super::error::DecodeError;
use super::otlp::{Kind, Message, Rule};
use super::wire::{FIXED32, FIXED64, VARINT, put_bytes, put_varint};

/// Transcodes a request.
pub(crate) fn transcode(message: &'static Message, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let parsed: Json = serde_json::from_slice(body).map_err(|error| DecodeError::Json {
        detail: error.to_string(),
    })?;
    let Json::Object(members) = parsed else {
        return Err(DecodeError::Json {
            detail: "the body is not an object".to_owned(),
        });
    };
    let mut out = Vec::with_capacity(body.len());
    write_message(message, &members, &mut out)?;
    Ok(out)
}

fn write_message(
    message: &'static Message,
    members: &Map<String, Json>,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    for (name, value) in members {
        let Some(rule) = message.rules.iter().find(|rule| is_named(rule.name, name)) else {
            continue;
        };
        match value {
            Json::Null => {}
            Json::Array(items) if rule.repeated => {
                for item in items {
                    write_field(rule, item, out)?;
                }
            }
            _ if rule.repeated => return Err(wrong(rule, "a list")),
            single => write_field(rule, single, out)?,
        }
    }
    Ok(())
}

/// Whether a JSON key is a field's name, in lowerCamelCase or snake_case.
fn is_named(camel: &str, key: &str) -> bool {
    if camel == key {
        return true;
    }
    let mut rest = key.bytes();
    for letter in camel.bytes() {
        if letter.is_ascii_uppercase() && rest.next() != Some(b'_') {
            return false;
        }
        if rest.next() != Some(letter.to_ascii_lowercase()) {
            return false;
        }
    }
    rest.next().is_none()
}

fn wrong(rule: &Rule, wanted: &str) -> DecodeError {
    DecodeError::Json {
        detail: format!("{} is not {wanted}", rule.name),
    }
}

fn write_field(rule: &Rule, value: &Json, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let number = rule.number;
    let varint = |out: &mut Vec<u8>, value: u64| {
        put_varint(out, u64::from(number << 3 | VARINT));
        put_varint(out, value);
    };
    let fixed64 = |out: &mut Vec<u8>, bits: u64| {
        put_varint(out, u64::from(number << 3 | FIXED64));
        out.extend_from_slice(&bits.to_le_bytes());
    };
    match rule.kind {
        Kind::Message(inner) => {
            let Json::Object(members) = value else {
                return Err(wrong(rule, "an object"));
            };
            let mut bytes = Vec::new();
            write_message(inner, members, &mut bytes)?;
            put_bytes(out, number, &bytes);
        }
        Kind::Text => {
            let text = value.as_str().ok_or_else(|| wrong(rule, "text"))?;
            put_bytes(out, number, text.as_bytes());
        }
        Kind::Id => {
            let text = value.as_str().ok_or_else(|| wrong(rule, "text"))?;
            // What is neither hexadecimal nor base64 becomes an id of no valid length: its row is rejected.
            let id = hexadecimal(text)
                .or_else(|| base64(text))
                .unwrap_or_else(|| vec![0]);
            put_bytes(out, number, &id);
        }
        Kind::Bytes => {
            let text = value.as_str().ok_or_else(|| wrong(rule, "text"))?;
            put_bytes(out, number, &base64(text).ok_or_else(|| wrong(rule, "base64"))?);
        }
        Kind::Bool => varint(
            out,
            u64::from(truth(value).ok_or_else(|| wrong(rule, "true or false"))?),
        ),
        Kind::Enum(names) => {
            let number = match value {
                Json::String(name) => names
                    .iter()
                    .position(|known| known == name)
                    .map(|at| at as i64)
                    .or_else(|| name.parse::<i32>().ok().map(i64::from)),
                other => signed(other).filter(|number| i32::try_from(*number).is_ok()),
            };
            varint(
                out,
                number.ok_or_else(|| wrong(rule, "a value of its enumeration"))? as u64,
            );
        }
        Kind::Uint32 | Kind::Fixed32 => {
            let value = unsigned(value).and_then(|value| u32::try_from(value).ok());
            let value = value.ok_or_else(|| wrong(rule, "a 32-bit number"))?;
            if matches!(rule.kind, Kind::Uint32) {
                varint(out, u64::from(value));
            } else {
                put_varint(out, u64::from(number << 3 | FIXED32));
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        Kind::Sint32 => {
            let value = signed(value).and_then(|value| i32::try_from(value).ok());
            let value = value.ok_or_else(|| wrong(rule, "a 32-bit number"))?;
            varint(out, u64::from((value << 1 ^ value >> 31) as u32));
        }
        Kind::Uint64 => varint(
            out,
            unsigned(value).ok_or_else(|| wrong(rule, "a 64-bit number"))?,
        ),
        Kind::Int64 => varint(
            out,
            signed(value).ok_or_else(|| wrong(rule, "a 64-bit number"))? as u64,
        ),
        Kind::Fixed64 => fixed64(
            out,
            unsigned(value).ok_or_else(|| wrong(rule, "a 64-bit number"))?,
        ),
        Kind::Sfixed64 => fixed64(
            out,
            signed(value).ok_or_else(|| wrong(rule, "a 64-bit number"))? as u64,
        ),
        Kind::Double => fixed64(
            out,
            double(value).ok_or_else(|| wrong(rule, "a number"))?.to_bits(),
        ),
    }
    Ok(())
}

fn truth(value: &Json) -> Option<bool> {
    match value {
        Json::Bool(truth) => Some(*truth),
        Json::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn unsigned(value: &Json) -> Option<u64> {
    match value {
        Json::Number(number) => number
            .as_u64()
            .or_else(|| u64::try_from(super::numbers::whole_double(number.as_f64()?)?).ok()),
        Json::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn signed(value: &Json) -> Option<i64> {
    match value {
        Json::Number(number) => number
            .as_i64()
            .or_else(|| super::numbers::whole_double(number.as_f64()?)),
        Json::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn double(value: &Json) -> Option<f64> {
    match value {
        Json::Number(number) => number.as_f64(),
        // Rust reads "NaN", "Infinity" and "-Infinity" as protobuf writes them.
        Json::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    digits
        .chunks_exact(2)
        .map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8))
        .collect()
}

/// Base64 in the standard or the URL alphabet, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut group = 0u32;
        for &digit in chunk {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            group = group << 6 | u32::from(value);
        }
        group <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_both_forms() {
        assert!(is_named("startTimeUnixNano", "start_time_unix_nano"));
        assert!(is_named("startTimeUnixNano", "startTimeUnixNano"));
        assert!(!is_named("startTimeUnixNano", "start_time_unix"));
        assert!(!is_named("traceId", "traceid"));
    }

    #[test]
    fn base64_comes_back() {
        for length in 0..40u8 {
            let bytes: Vec<u8> = (0..length).map(|at| at.wrapping_mul(91)).collect();
            let mut text = Vec::new();
            super::super::value::write_base64(&mut text, &bytes);
            assert_eq!(base64(&String::from_utf8_lossy(&text)), Some(bytes));
        }
        assert_eq!(base64("a"), None);
        assert_eq!(base64("a!=="), None);
    }
}
