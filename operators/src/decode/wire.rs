//! The protobuf wire format, as far as OTLP needs it: bounded, without copies.
//!
//! Every function takes the rest of a message and moves it forward. Nothing reads beyond the slice it was
//! given, so a field can never reach out of its message. The rules are those of a full protobuf parser:
//! tags of at most 32 bits, varints of at most 64, a known field must have its wire type, an unknown field
//! is skipped. Groups are refused; OTLP has none.
use super::error::WireError;

/// How deep messages may be nested below the request; the limit of the usual protobuf libraries.
pub(crate) const MAX_DEPTH: u32 = 100;

pub(crate) const VARINT: u32 = 0;
pub(crate) const FIXED64: u32 = 1;
pub(crate) const LENGTH: u32 = 2;
pub(crate) const FIXED32: u32 = 5;

/// Reads a varint of at most 64 bits.
#[inline(always)]
pub(crate) fn varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    match **rest {
        [first, ref after @ ..] if first < 0x80 => {
            *rest = after;
            Ok(u64::from(first))
        }
        [first, second, ref after @ ..] if second < 0x80 => {
            *rest = after;
            Ok(u64::from(first & 0x7f) | u64::from(second) << 7)
        }
        _ => long_varint(rest),
    }
}

#[inline(never)]
fn long_varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for (at, &byte) in rest.iter().take(10).enumerate() {
        if at == 9 && byte > 1 {
            return Err(WireError::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *rest = &rest[at + 1..];
            return Ok(value);
        }
    }
    Err(WireError::Truncated)
}

/// Reads a tag; its low three bits are the wire type.
#[inline(always)]
pub(crate) fn tag(rest: &mut &[u8]) -> Result<u32, WireError> {
    let tag = match **rest {
        [first, ref after @ ..] if first < 0x80 => {
            *rest = after;
            u32::from(first)
        }
        _ => u32::try_from(varint(rest)?).map_err(|_| WireError::Tag)?,
    };
    if tag < 8 { Err(WireError::Tag) } else { Ok(tag) }
}

/// Reads a length and the bytes it covers.
#[inline(always)]
pub(crate) fn bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    let length = varint(rest)?;
    if length > rest.len() as u64 {
        return Err(WireError::Truncated);
    }
    let (head, tail) = rest.split_at(length as usize);
    *rest = tail;
    Ok(head)
}

#[inline(always)]
pub(crate) fn fixed64(rest: &mut &[u8]) -> Result<u64, WireError> {
    let (head, tail) = rest.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
    *rest = tail;
    Ok(u64::from_le_bytes(*head))
}

#[inline(always)]
pub(crate) fn fixed32(rest: &mut &[u8]) -> Result<u32, WireError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(WireError::Truncated)?;
    *rest = tail;
    Ok(u32::from_le_bytes(*head))
}

/// Skips the value of an unknown field.
pub(crate) fn skip(wire_type: u32, rest: &mut &[u8]) -> Result<(), WireError> {
    match wire_type {
        VARINT => varint(rest).map(drop),
        FIXED64 => fixed64(rest).map(drop),
        LENGTH => bytes(rest).map(drop),
        FIXED32 => fixed32(rest).map(drop),
        3 | 4 => Err(WireError::Group),
        _ => Err(WireError::Tag),
    }
}

/// Skips an unknown field by its tag, or refuses a known one whose wire type is wrong.
#[cold]
pub(crate) fn other(tag: u32, known: &[u32], rest: &mut &[u8]) -> Result<(), WireError> {
    let wire_type = tag & 7;
    if wire_type == 3 || wire_type == 4 {
        return Err(WireError::Group);
    }
    if known.contains(&(tag >> 3)) {
        Err(WireError::WireType)
    } else {
        skip(wire_type, rest)
    }
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number << 3 | LENGTH));
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn varints_come_back_and_overlong_ones_are_refused() {
        for value in [0, 1, 127, 128, 16383, 16384, u64::from(u32::MAX), u64::MAX] {
            let mut encoded = Vec::new();
            put_varint(&mut encoded, value);
            let mut rest = encoded.as_slice();
            assert_eq!(varint(&mut rest).unwrap(), value);
            assert!(rest.is_empty());
            for cut in 0..encoded.len() {
                assert_eq!(varint(&mut &encoded[..cut]), Err(WireError::Truncated));
            }
        }
        assert_eq!(varint(&mut &[0xff; 11][..]), Err(WireError::Varint));
        assert_eq!(
            varint(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2][..]),
            Err(WireError::Varint)
        );
    }

    #[test]
    fn a_length_cannot_reach_out_of_its_message() {
        assert_eq!(bytes(&mut &[3, 1, 2][..]), Err(WireError::Truncated));
        assert_eq!(
            bytes(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..]),
            Err(WireError::Truncated)
        );
    }

    #[test]
    fn groups_and_field_zero_are_refused() {
        assert_eq!(tag(&mut &[0][..]), Err(WireError::Tag));
        assert_eq!(skip(3, &mut &[][..]), Err(WireError::Group));
        assert_eq!(skip(7, &mut &[][..]), Err(WireError::Tag));
    }
}
