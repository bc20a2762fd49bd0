//! Decompression that stops at a limit, whatever the compressed bytes promise.

use std::io::{ErrorKind, Read};

use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::in_flight::Held;
use crate::refusal::Refusal;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Identity,
    Gzip,
    Zstd,
    Deflate,
}

/// Decompressed in portions of this many bytes.
const PORTION: usize = 128 << 10;

impl Compression {
    /// From a `content-encoding` or `grpc-encoding` value.
    pub(crate) fn parse(value: &str) -> Option<Compression> {
        let value = value.trim();
        let is = |name: &str| value.eq_ignore_ascii_case(name);
        if value.is_empty() || is("identity") {
            Some(Compression::Identity)
        } else if is("gzip") || is("x-gzip") {
            Some(Compression::Gzip)
        } else if is("zstd") {
            Some(Compression::Zstd)
        } else if is("deflate") {
            Some(Compression::Deflate)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Compression::Identity => "identity",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Deflate => "deflate",
        }
    }

    /// Decompresses a whole body of at most `limit` bytes, counting what it takes in `held`.
    pub(crate) fn decompress(self, input: Bytes, limit: usize, held: &mut Held) -> Result<Bytes, Refusal> {
        let failed = |error: std::io::Error| Refusal::Decompression {
            encoding: self.name(),
            detail: error.to_string(),
        };
        match self {
            Compression::Identity => Ok(input),
            Compression::Gzip => self.drain(MultiGzDecoder::new(&input[..]), limit, held),
            // "deflate" means zlib (RFC 9110), but some clients send the raw stream.
            Compression::Deflate if is_zlib(&input) => self.drain(ZlibDecoder::new(&input[..]), limit, held),
            Compression::Deflate => self.drain(DeflateDecoder::new(&input[..]), limit, held),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(&input[..]).map_err(failed)?;
                // The window a frame may ask for is memory too.
                let window = usize::BITS - limit.leading_zeros();
                decoder.window_log_max(window.clamp(20, 27)).map_err(failed)?;
                self.drain(decoder, limit, held)
            }
        }
    }

    fn drain(self, mut decoder: impl Read, limit: usize, held: &mut Held) -> Result<Bytes, Refusal> {
        let mut out: Vec<u8> = Vec::new();
        let mut filled = 0;
        loop {
            if filled == out.len() {
                held.grow(PORTION)?;
                out.resize(filled + PORTION, 0);
            }
            match decoder.read(&mut out[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let detail = error.to_string();
                    return Err(Refusal::Decompression {
                        encoding: self.name(),
                        detail,
                    });
                }
            }
            if filled > limit {
                return Err(Refusal::TooLarge { limit_bytes: limit });
            }
        }
        held.shrink(out.len() - filled);
        out.truncate(filled);
        // The body lives on in the log's tail; what was taken too much should not.
        if out.capacity() > filled + filled / 8 + 1024 {
            out.shrink_to_fit();
        }
        Ok(Bytes::from(out))
    }
}

/// Whether the two bytes of a zlib header are there (RFC 1950).
fn is_zlib(input: &[u8]) -> bool {
    match input {
        [method, flags, ..] => method & 0x0F == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use flate2::Compression as Level;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;
    use crate::in_flight::InFlight;

    fn compressed(body: &[u8]) -> Vec<(Compression, Vec<u8>)> {
        let mut gzip = GzEncoder::new(Vec::new(), Level::fast());
        gzip.write_all(body).unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Level::fast());
        zlib.write_all(body).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Level::fast());
        raw.write_all(body).unwrap();
        vec![
            (Compression::Identity, body.to_vec()),
            (Compression::Gzip, gzip.finish().unwrap()),
            (Compression::Deflate, zlib.finish().unwrap()),
            (Compression::Deflate, raw.finish().unwrap()),
            (Compression::Zstd, zstd::encode_all(body, 1).unwrap()),
        ]
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for size in [0, 1, 1000, PORTION, PORTION + 1, 1_000_000] {
            let body: Vec<u8> = (0..size).map(|at: usize| ((at * at) >> 7) as u8).collect();
            for (compression, bytes) in compressed(&body) {
                let in_flight = InFlight::new(1 << 30);
                let mut held = in_flight.hold();
                let out = compression
                    .decompress(Bytes::from(bytes), size, &mut held)
                    .unwrap();
                assert_eq!(out, body, "{compression:?}, {size} bytes");
                if compression != Compression::Identity {
                    assert_eq!(in_flight.used(), size);
                }
            }
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let bomb = vec![0_u8; 50 << 20];
        for (compression, bytes) in compressed(&bomb).into_iter().skip(1) {
            let in_flight = InFlight::new(2 << 20);
            let mut held = in_flight.hold();
            let refused = compression.decompress(Bytes::from(bytes), 1 << 20, &mut held);
            assert!(
                matches!(
                    refused,
                    Err(Refusal::TooLarge {
                        limit_bytes: 1_048_576
                    })
                ),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn garbage_and_cut_streams_are_refused() {
        let body: Vec<u8> = (0..100_000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for (compression, bytes) in compressed(&body).into_iter().skip(1) {
            let in_flight = InFlight::new(1 << 30);
            for wrong in [bytes[..bytes.len() / 2].to_vec(), vec![0xEE; 100]] {
                let refused = compression.decompress(Bytes::from(wrong), 1 << 20, &mut in_flight.hold());
                assert!(
                    matches!(refused, Err(Refusal::Decompression { .. })),
                    "{compression:?}: {refused:?}"
                );
            }
        }
    }

    #[test]
    fn names_are_those_of_the_registries() {
        assert_eq!(Compression::parse(" GZIP "), Some(Compression::Gzip));
        assert_eq!(Compression::parse(""), Some(Compression::Identity));
        assert_eq!(Compression::parse("br"), None);
        assert_eq!(Compression::parse("gzip, gzip"), None);
    }
}
