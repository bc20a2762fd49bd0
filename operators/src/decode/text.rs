//! Text views: sixteen bytes that point into a request's body, or into text the decoder wrote itself.
//!
//! A view that points into a body copies nothing; it pins the body until the batch is gone. Bodies below
//! [`SMALL_BODY`] are copied together, so that a batch of many small requests does not carry thousands of
//! buffers. Hexadecimal ids, normalised and repaired text live in an *arena*.
//!
//! Invariants (the `unsafe` in `columns.rs` rests on them):
//! * a view made here covers bytes of a buffer that this store owns until [`TextStore::take`], at offsets
//!   that do not move;
//! * those bytes are valid UTF-8: checked here, or written as text here.
use std::borrow::Cow;
use std::sync::Arc;

use arrow::buffer::Buffer;
use bytes::Bytes;

/// Bodies below this many bytes are copied into a common chunk.
const SMALL_BODY: usize = 8 * 1024;
/// Capacity of such a chunk.
const CHUNK: usize = 64 * 1024;
/// An arena is closed and a new one opened beyond this size, so that its offsets fit a view.
const ARENA_LIMIT: usize = 1 << 30;

/// Longest text that a view holds itself.
const INLINE: usize = 12;
const NOT_ASCII: u128 = 0x8080_8080_8080_8080_8080_8080_8080_8080;

/// A body being decoded: where its bytes are, and the number of their buffer.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a> {
    /// The whole buffer; the body is a part of it.
    pub base: &'a [u8],
    pub buffer: u32,
}

impl Body<'_> {
    /// Where a part of the body begins in its buffer, or a number beyond the buffer for any other slice.
    #[inline(always)]
    pub(crate) fn offset(&self, part: &[u8]) -> usize {
        (part.as_ptr() as usize).wrapping_sub(self.base.as_ptr() as usize)
    }
}

/// A body admitted to the store; it holds the bytes while they are being decoded.
pub(crate) enum Admitted {
    /// The body is a buffer of its own.
    Whole(Bytes, u32),
    /// The body was copied to the end of the common chunk, from this offset on.
    Copied(Vec<u8>, usize, u32),
}

impl Admitted {
    /// The body, and the buffer around it.
    pub(crate) fn body(&self) -> (Body<'_>, &[u8]) {
        match self {
            Admitted::Whole(bytes, buffer) => (
                Body {
                    base: bytes,
                    buffer: *buffer,
                },
                bytes,
            ),
            Admitted::Copied(chunk, from, buffer) => (
                Body {
                    base: chunk,
                    buffer: *buffer,
                },
                &chunk[*from..],
            ),
        }
    }
}

/// The buffers behind a batch's views.
#[derive(Default)]
pub(crate) struct TextStore {
    /// Closed buffers; `None` stands for the open arena and the open chunk.
    buffers: Vec<Option<Buffer>>,
    arena: Vec<u8>,
    arena_buffer: Option<u32>,
    /// What the last arena came to.
    arena_capacity: usize,
    chunk: Vec<u8>,
    chunk_buffer: Option<u32>,
    /// Texts that were not valid UTF-8 and were repaired.
    pub repaired: u64,
}

impl TextStore {
    fn reserve(&mut self) -> u32 {
        self.buffers.push(None);
        (self.buffers.len() - 1) as u32
    }

    /// Takes a body in; its views stay valid until the batch is taken, whether or not decoding succeeds.
    pub(crate) fn admit(&mut self, body: &Bytes) -> Admitted {
        if body.len() >= SMALL_BODY {
            self.buffers.push(Some(Buffer::from(body.clone())));
            return Admitted::Whole(body.clone(), (self.buffers.len() - 1) as u32);
        }
        if self.chunk.len() + body.len() > CHUNK {
            self.close_chunk();
        }
        let buffer = match self.chunk_buffer {
            Some(buffer) => buffer,
            None => {
                let buffer = self.reserve();
                self.chunk_buffer = Some(buffer);
                self.chunk = Vec::with_capacity(CHUNK);
                buffer
            }
        };
        let mut chunk = std::mem::take(&mut self.chunk);
        let from = chunk.len();
        chunk.extend_from_slice(body);
        Admitted::Copied(chunk, from, buffer)
    }

    /// Ends decoding a body; `keep` says whether any view points into it.
    pub(crate) fn release(&mut self, admitted: Admitted, keep: bool) {
        match admitted {
            Admitted::Whole(_, buffer) => {
                if !keep && buffer as usize + 1 == self.buffers.len() {
                    self.buffers.pop();
                }
            }
            Admitted::Copied(mut chunk, from, _) => {
                if !keep {
                    chunk.truncate(from);
                }
                self.chunk = chunk;
            }
        }
    }

    fn close_chunk(&mut self) {
        if let Some(buffer) = self.chunk_buffer.take() {
            self.buffers[buffer as usize] = Some(Buffer::from_vec(std::mem::take(&mut self.chunk)));
        }
    }

    fn close_arena(&mut self) {
        if let Some(buffer) = self.arena_buffer.take() {
            self.arena_capacity = self.arena.len();
            self.buffers[buffer as usize] = Some(Buffer::from_vec(std::mem::take(&mut self.arena)));
        }
    }

    /// The open arena with room for `length` bytes, and its buffer number.
    #[inline(always)]
    pub(crate) fn arena(&mut self, length: usize) -> (&mut Vec<u8>, u32) {
        match self.arena_buffer {
            Some(buffer) if self.arena.len() + length <= ARENA_LIMIT => (&mut self.arena, buffer),
            _ => self.open_arena(),
        }
    }

    #[cold]
    fn open_arena(&mut self) -> (&mut Vec<u8>, u32) {
        self.close_arena();
        let buffer = self.reserve();
        self.arena_buffer = Some(buffer);
        self.arena = Vec::with_capacity(self.arena_capacity);
        (&mut self.arena, buffer)
    }

    /// A view of text in the body. Text that is not valid UTF-8 is repaired.
    #[inline(always)]
    pub(crate) fn view(&mut self, body: Body<'_>, text: &[u8]) -> u128 {
        let offset = body.offset(text);
        if let Some(window) = body
            .base
            .get(offset..)
            .and_then(|after| after.first_chunk::<16>())
        {
            let head = u128::from_le_bytes(*window);
            if text.len() <= INLINE {
                let inline = head & ((1u128 << (8 * text.len())) - 1);
                if inline & NOT_ASCII == 0 {
                    return inline << 32 | text.len() as u128;
                }
            } else if is_text(text) && body.base.len() - offset >= text.len() {
                return long_view(text.len(), head as u32, body.buffer, offset);
            }
        }
        self.view_any(body, text)
    }

    /// The same for text that is short, near the body's end, outside it, or not valid UTF-8.
    #[inline(never)]
    fn view_any(&mut self, body: Body<'_>, text: &[u8]) -> u128 {
        match std::str::from_utf8(text) {
            Ok(valid) if valid.len() <= INLINE => inline_view(valid),
            Ok(_)
                if body
                    .base
                    .get(body.offset(text)..)
                    .is_some_and(|after| after.len() >= text.len()) =>
            {
                let head = u32::from_le_bytes([text[0], text[1], text[2], text[3]]);
                long_view(text.len(), head, body.buffer, body.offset(text))
            }
            Ok(valid) => self.own(valid),
            Err(_) => {
                self.repaired += 1;
                self.own(&String::from_utf8_lossy(text))
            }
        }
    }

    /// A view of text that is not in a body: it is copied.
    pub(crate) fn own(&mut self, text: &str) -> u128 {
        if text.len() <= INLINE {
            return inline_view(text);
        }
        let (arena, buffer) = self.arena(text.len());
        let offset = arena.len();
        arena.extend_from_slice(text.as_bytes());
        let bytes = text.as_bytes();
        long_view(
            text.len(),
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            buffer,
            offset,
        )
    }

    /// A view of bytes in the body, which need not be text; for binary columns.
    #[inline(always)]
    pub(crate) fn raw(&mut self, body: Body<'_>, bytes: &[u8]) -> u128 {
        let offset = body.offset(bytes);
        if bytes.len() > INLINE
            && let Some(window) = body.base.get(offset..).and_then(|after| after.first_chunk::<4>())
            && body.base.len() - offset >= bytes.len()
        {
            return long_view(bytes.len(), u32::from_le_bytes(*window), body.buffer, offset);
        }
        self.own_raw(bytes)
    }

    /// A view of bytes that are not in a body: they are copied.
    pub(crate) fn own_raw(&mut self, bytes: &[u8]) -> u128 {
        if bytes.len() <= INLINE {
            let mut view = [0u8; 16];
            view[0] = bytes.len() as u8;
            view[4..4 + bytes.len()].copy_from_slice(bytes);
            return u128::from_le_bytes(view);
        }
        let (arena, buffer) = self.arena(bytes.len());
        let offset = arena.len();
        arena.extend_from_slice(bytes);
        long_view(
            bytes.len(),
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            buffer,
            offset,
        )
    }

    /// Views of a trace id and a span id in lowercase hexadecimal.
    #[inline(always)]
    pub(crate) fn trace_and_span(&mut self, trace: &[u8; 16], span: &[u8; 8]) -> (u128, u128) {
        let (arena, buffer) = self.arena(48);
        let offset = arena.len();
        let mut hex = [0u8; 48];
        hex[..16].copy_from_slice(&hex_of(first_eight(&trace[..8])));
        hex[16..32].copy_from_slice(&hex_of(first_eight(&trace[8..])));
        hex[32..].copy_from_slice(&hex_of(*span));
        arena.extend_from_slice(&hex);
        let head = |at: usize| u32::from_le_bytes([hex[at], hex[at + 1], hex[at + 2], hex[at + 3]]);
        (
            long_view(32, head(0), buffer, offset),
            long_view(16, head(32), buffer, offset + 32),
        )
    }

    /// View of a span id in lowercase hexadecimal.
    #[inline(always)]
    pub(crate) fn span(&mut self, span: &[u8; 8]) -> u128 {
        let (arena, buffer) = self.arena(16);
        let offset = arena.len();
        let hex = hex_of(*span);
        arena.extend_from_slice(&hex);
        long_view(
            16,
            u32::from_le_bytes([hex[0], hex[1], hex[2], hex[3]]),
            buffer,
            offset,
        )
    }

    /// Forgets all text, when no view of it is used any more.
    pub(crate) fn clear(&mut self) {
        self.arena.clear();
    }

    /// Closes the store: all buffers of the batch, by their numbers.
    pub(crate) fn take(&mut self) -> Arc<[Buffer]> {
        self.close_arena();
        self.close_chunk();
        // A number reserved for an arena or a chunk is always closed by now.
        self.buffers.drain(..).map(Option::unwrap_or_default).collect()
    }
}

#[inline(always)]
fn first_eight(bytes: &[u8]) -> [u8; 8] {
    [
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ]
}

#[inline(always)]
fn long_view(length: usize, prefix: u32, buffer: u32, offset: usize) -> u128 {
    length as u128 | u128::from(prefix) << 32 | u128::from(buffer) << 64 | (offset as u128) << 96
}

/// View of text of at most twelve bytes.
pub(crate) const fn inline_view(text: &str) -> u128 {
    let bytes = text.as_bytes();
    assert!(bytes.len() <= INLINE);
    let mut view = [0u8; 16];
    view[0] = bytes.len() as u8;
    let mut at = 0;
    while at < bytes.len() {
        view[4 + at] = bytes[at];
        at += 1;
    }
    u128::from_le_bytes(view)
}

/// Whether a view holds its text itself, so that equal views mean equal texts.
#[inline(always)]
pub(crate) fn is_inline(view: u128) -> bool {
    (view as u32) as usize <= INLINE
}

/// Text with U+FFFD for what is not UTF-8; quick for long text that is.
pub(crate) fn lossy(text: &[u8]) -> Cow<'_, str> {
    match simdutf8::basic::from_utf8(text) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(text),
    }
}

/// Whether bytes of at least 13 are UTF-8. Short text is nearly always ASCII, and `simdutf8` only pays from
/// 64 bytes on (203 against 329 ns a span), so ASCII is tried first.
#[inline(always)]
fn is_text(text: &[u8]) -> bool {
    let length = text.len();
    if length < 64 {
        let seen = if length >= 16 {
            let mut seen = 0u128;
            for chunk in text.chunks_exact(16) {
                seen |= load(chunk);
            }
            seen | load(&text[length - 16..])
        } else {
            let words = (text.first_chunk::<8>(), text.last_chunk::<8>());
            let (Some(first), Some(last)) = words else {
                return std::str::from_utf8(text).is_ok();
            };
            u128::from(u64::from_le_bytes(*first) | u64::from_le_bytes(*last))
        };
        if seen & NOT_ASCII == 0 {
            return true;
        }
    }
    simdutf8::basic::from_utf8(text).is_ok()
}

#[inline(always)]
fn load(bytes: &[u8]) -> u128 {
    match bytes.first_chunk::<16>() {
        Some(chunk) => u128::from_le_bytes(*chunk),
        None => NOT_ASCII,
    }
}

/// Eight bytes as sixteen lowercase hexadecimal digits, all at once in registers.
#[inline(always)]
fn hex_of(bytes: [u8; 8]) -> [u8; 16] {
    let low = hex_digits([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let high = hex_digits([bytes[4], bytes[5], bytes[6], bytes[7]]);
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

#[inline(always)]
fn hex_digits(bytes: [u8; 4]) -> u64 {
    let spread = u64::from(u32::from_le_bytes(bytes));
    let spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (spread >> 4 & 0x000f_000f_000f_000f) | (spread & 0x000f_000f_000f_000f) << 8;
    let letters = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    nibbles + 0x3030_3030_3030_3030 + letters * 39
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_agrees_with_formatting() {
        for seed in 0..=255u8 {
            let bytes: [u8; 8] = std::array::from_fn(|at| seed.wrapping_mul(37).wrapping_add(at as u8 * 29));
            let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(&hex_of(bytes), expected.as_bytes());
        }
    }

    #[test]
    fn text_is_recognised_at_every_length() {
        for length in 13..200 {
            let ascii = vec![b'a'; length];
            assert!(is_text(&ascii));
            for at in 0..length {
                let mut broken = ascii.clone();
                broken[at] = 0xff;
                assert!(!is_text(&broken), "{length} {at}");
            }
        }
    }
}
