//! Bodies on disk: Zstandard, unless that saves too little.
//!
//! Spans repeat their keys and most of their values, so the level that costs least already makes a tenth of them,
//! and the disk, which every acknowledgement waits for, has a tenth to write (ADR 005).

use std::io;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

/// One of Zstandard's fast levels.
const LEVEL: i32 = -3;
/// Smaller bodies are stored as they come.
const LEAST_BYTES: usize = 512;

/// A body as it goes to disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredBody<'a> {
    pub bytes: &'a [u8],
    /// Length of the body before it was compressed; zero if it was not.
    pub unpacked_len: u32,
}

impl<'a> StoredBody<'a> {
    pub(crate) fn as_it_came(body: &'a [u8]) -> Self {
        StoredBody {
            bytes: body,
            unpacked_len: 0,
        }
    }
}

/// Compresses one body at a time into a buffer of its own.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    packed: Vec<u8>,
}

impl Packer {
    pub(crate) fn new() -> io::Result<Packer> {
        Ok(Packer {
            compressor: Compressor::new(LEVEL)?,
            packed: Vec::new(),
        })
    }

    /// The body, compressed if that saves an eighth.
    pub(crate) fn pack<'a>(&'a mut self, body: &'a [u8]) -> StoredBody<'a> {
        if body.len() < LEAST_BYTES {
            return StoredBody::as_it_came(body);
        }
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(body.len()));
        match self.compressor.compress_to_buffer(body, &mut self.packed) {
            Ok(_) if self.packed.len() <= body.len() - body.len() / 8 => StoredBody {
                bytes: &self.packed,
                unpacked_len: body.len() as u32,
            },
            _ => StoredBody::as_it_came(body),
        }
    }

    /// Forgets the memory beyond `keep` bytes.
    pub(crate) fn shrink(&mut self, keep: usize) {
        self.packed.clear();
        self.packed.shrink_to(keep);
    }
}

/// The body of `len` bytes that was compressed to `stored`.
pub(crate) fn unpack(
    decompressor: &mut Decompressor<'static>,
    stored: &[u8],
    len: usize,
) -> Result<Bytes, &'static str> {
    match decompressor.decompress(stored, len) {
        Ok(body) if body.len() == len => Ok(Bytes::from(body)),
        _ => Err("the record body cannot be decompressed"),
    }
}
