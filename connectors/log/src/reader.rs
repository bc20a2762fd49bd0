//! Reading records back from a segment file.
//!
//! A body that is not compressed is a slice of the chunk that was read: no copy, and a chunk lives as long as one
//! of its bodies.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pyflare_connectors::{LogError, LogRecord};
use zstd::bulk::Decompressor;

use crate::record::{HEADER_BYTES, MAGIC, RecordHeader};
use crate::segment::{SegmentHeader, corrupt, io_error};

pub(crate) struct SegmentReader {
    path: PathBuf,
    file: File,
    pub header: SegmentHeader,
    /// Bytes that may be read.
    limit: u64,
    chunk_bytes: usize,
    chunk: Bytes,
    chunk_start: u64,
    project: Option<Arc<str>>,
    decompressor: Decompressor<'static>,
}

/// What stands at a position.
pub(crate) enum Found {
    Record {
        header: RecordHeader,
        /// Project, then body as stored.
        payload: Bytes,
        next: u64,
    },
    Nothing {
        why: &'static str,
    },
}

impl SegmentReader {
    /// Opens a segment of which `limit` bytes may be read (all of it when `None`) to take about `body_bytes` of it.
    pub(crate) fn open(path: &Path, limit: Option<u64>, body_bytes: usize) -> Result<Self, LogError> {
        let file = File::open(path).map_err(|error| io_error(path, error))?;
        let header = SegmentHeader::read(path, &file)?;
        let len = file.metadata().map_err(|error| io_error(path, error))?.len();
        Ok(SegmentReader {
            path: path.to_path_buf(),
            file,
            header,
            limit: limit.unwrap_or(len).min(len),
            // Bodies are compressed to a tenth; what is read beyond them is read in vain.
            chunk_bytes: (body_bytes / 8).clamp(64 << 10, 1 << 20),
            chunk: Bytes::new(),
            chunk_start: 0,
            project: None,
            decompressor: Decompressor::new().map_err(|error| io_error(path, error))?,
        })
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// `len` bytes at `position`; `None` if the segment ends before.
    fn bytes(&mut self, position: u64, len: usize) -> Result<Option<Bytes>, LogError> {
        if position
            .checked_add(len as u64)
            .is_none_or(|end| end > self.limit)
        {
            return Ok(None);
        }
        let within = |start: u64, chunk: &Bytes| {
            position >= start && position + len as u64 <= start + chunk.len() as u64
        };
        if !within(self.chunk_start, &self.chunk) {
            let wanted = (self.chunk_bytes.max(len) as u64).min(self.limit - position) as usize;
            let mut chunk = vec![0_u8; wanted];
            self.file
                .read_exact_at(&mut chunk, position)
                .map_err(|error| io_error(&self.path, error))?;
            self.chunk = Bytes::from(chunk);
            self.chunk_start = position;
        }
        let from = (position - self.chunk_start) as usize;
        Ok(Some(self.chunk.slice(from..from + len)))
    }

    /// The record at `position`, checksums verified.
    pub(crate) fn at(&mut self, position: u64) -> Result<Found, LogError> {
        let Some(bytes) = self.bytes(position, HEADER_BYTES)? else {
            return Ok(Found::Nothing {
                why: "the segment ends here",
            });
        };
        let header = match RecordHeader::parse(&bytes, self.header.salt) {
            Ok(header) => header,
            Err(why) => return Ok(Found::Nothing { why }),
        };
        let next = position + header.total_len();
        let Some(payload) = self.bytes(position + HEADER_BYTES as u64, header.payload_len() as usize)? else {
            return Ok(Found::Nothing {
                why: "the segment ends within this record",
            });
        };
        Ok(match header.matches(&payload) {
            true => Found::Record {
                header,
                payload,
                next,
            },
            false => Found::Nothing {
                why: "the checksum of the record body does not match",
            },
        })
    }

    /// Walks headers from the record at `position` (which has `offset`) to the one that has `wanted`.
    pub(crate) fn seek(&mut self, mut position: u64, mut offset: u64, wanted: u64) -> Result<u64, LogError> {
        let mut bytes = [0_u8; HEADER_BYTES];
        while offset < wanted {
            if position + HEADER_BYTES as u64 > self.limit {
                return Err(corrupt(
                    &self.path,
                    position,
                    format!("it ends before offset {wanted}"),
                ));
            }
            self.file
                .read_exact_at(&mut bytes, position)
                .map_err(|error| io_error(&self.path, error))?;
            let header = RecordHeader::parse(&bytes, self.header.salt)
                .map_err(|why| corrupt(&self.path, position, why))?;
            if header.offset != offset {
                return Err(corrupt(
                    &self.path,
                    position,
                    format!("offset {offset} is not where it should be"),
                ));
            }
            position += header.total_len();
            offset += 1;
        }
        Ok(position)
    }

    /// Records `offset..end` from `position` on, until `max_bytes` of bodies; and the position after them.
    pub(crate) fn read(
        &mut self,
        mut position: u64,
        mut offset: u64,
        end: u64,
        max_bytes: usize,
        out: &mut Vec<(u64, LogRecord)>,
    ) -> Result<(u64, u64), LogError> {
        let mut total = 0_usize;
        while offset < end {
            match self.at(position)? {
                Found::Record {
                    header,
                    payload,
                    next,
                } if header.offset == offset => {
                    if !out.is_empty() && total + header.unpacked_body_len() > max_bytes {
                        break;
                    }
                    total += header.unpacked_body_len();
                    let record = header
                        .into_record(payload, &mut self.project, &mut self.decompressor)
                        .map_err(|why| corrupt(&self.path, position, why))?;
                    out.push((offset, record));
                    (position, offset) = (next, offset + 1);
                }
                Found::Record { header, .. } => {
                    let detail = format!("offset {offset} should be here, {} is", header.offset);
                    return Err(corrupt(&self.path, position, detail));
                }
                Found::Nothing { why } => return Err(corrupt(&self.path, position, why)),
            }
        }
        Ok((position, offset))
    }

    /// The position of a record beyond `bad` whose commit began beyond `bad`: proof that `bad` had been durable.
    pub(crate) fn later_commit(&mut self, bad: u64) -> Result<Option<u64>, LogError> {
        let mut position = bad.next_multiple_of(8) + 8;
        while position + HEADER_BYTES as u64 <= self.limit {
            let window = (1_u64 << 20).min(self.limit - position) as usize;
            let Some(bytes) = self.bytes(position, window)? else {
                break;
            };
            let last = window - HEADER_BYTES;
            for at in (0..=last).step_by(8) {
                if bytes[at..at + 4] != MAGIC {
                    continue;
                }
                let found = position + at as u64;
                if let Ok(header) = RecordHeader::parse(&bytes[at..], self.header.salt)
                    && header.commit > bad
                    && header.commit <= found
                {
                    return Ok(Some(found));
                }
            }
            position += (last / 8 * 8 + 8) as u64;
        }
        Ok(None)
    }
}
