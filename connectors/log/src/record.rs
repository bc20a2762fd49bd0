//! The bytes of one log record.
//!
//! ```text
//!  0  u32  magic "PFLR"             24  u64   commit: byte of the segment where its group commit begins
//!  4  u32  CRC32C of salt + 8..64   32  i64   received, microseconds since the Unix epoch
//!  8  u8   record format            40  u128  body hash
//!  9  u8   signal                   56  u32   CRC32C of tenant + body
//! 10  u8   content type             60  u32   length of the body before compression, zero if it is not compressed
//! 11  u8   length of the tenant     64  …     tenant, body, zeros up to a multiple of 8
//! 12  u32  length of the body
//! 16  u64  offset
//! ```
//! The tenant is the project; of a user's stream the project, a zero byte and the stream. All integers are little-endian. The salt is the segment's random number: bytes inside a request body can
//! therefore never pass for a record. The commit position lets recovery tell a torn tail from damage: a record
//! whose commit begins beyond a bad place proves that the bad place had been durable. Format 1 knew no compression
//! and is read as it was written.

use std::sync::Arc;

use bytes::Bytes;
use pyflare_connectors::{ContentType, LogRecord, Signal};
use zstd::bulk::Decompressor;

use crate::block_buffer::BlockBuffer;
use crate::checksum::{crc32c, crc32c_pair};
use crate::compression::{StoredBody, unpack};

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const RECORD_FORMAT: u8 = 2;
const FORMAT_WITHOUT_COMPRESSION: u8 = 1;
pub(crate) const MAGIC: [u8; 4] = *b"PFLR";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub signal: Signal,
    pub content_type: ContentType,
    pub tenant_len: u8,
    /// As stored.
    pub body_len: u32,
    /// Before compression; zero if it is not compressed.
    pub unpacked_len: u32,
    pub offset: u64,
    pub commit: u64,
    pub received_us: i64,
    pub body_hash: u128,
    pub payload_crc: u32,
}

/// Bytes that a record takes on disk.
pub(crate) fn encoded_len(record: &LogRecord, body: StoredBody<'_>) -> usize {
    (HEADER_BYTES + tenant_len(record) + body.bytes.len()).next_multiple_of(8)
}

fn tenant_len(record: &LogRecord) -> usize {
    record.project.len() + record.stream.as_ref().map_or(0, |stream| 1 + stream.len())
}

/// Appends the record's bytes. The caller has checked the lengths ([`fits`]).
pub(crate) fn encode(
    record: &LogRecord,
    body: StoredBody<'_>,
    offset: u64,
    commit: u64,
    salt: u64,
    out: &mut BlockBuffer,
) {
    let mut tenant = record.project.as_bytes().to_vec();
    if let Some(stream) = &record.stream {
        tenant.push(0);
        tenant.extend_from_slice(stream.as_bytes());
    }
    let header = RecordHeader {
        signal: record.signal,
        content_type: record.content_type,
        tenant_len: tenant.len() as u8,
        body_len: body.bytes.len() as u32,
        unpacked_len: body.unpacked_len,
        offset,
        commit,
        received_us: record.received_us,
        body_hash: record.body_hash,
        payload_crc: crc32c_pair(&tenant, body.bytes),
    };
    let total = encoded_len(record, body);
    out.extend(&header.encode(salt));
    out.extend(&tenant);
    out.extend(body.bytes);
    out.extend_zeros(total - HEADER_BYTES - tenant.len() - body.bytes.len());
}

/// Whether the record's parts fit the widths of the header.
pub(crate) fn fits(record: &LogRecord) -> bool {
    tenant_len(record) <= u8::MAX as usize && record.body.len() <= (u32::MAX - 4096) as usize
}

impl RecordHeader {
    pub(crate) fn total_len(&self) -> u64 {
        (HEADER_BYTES as u64 + self.payload_len()).next_multiple_of(8)
    }

    pub(crate) fn payload_len(&self) -> u64 {
        u64::from(self.tenant_len) + u64::from(self.body_len)
    }

    pub(crate) fn unpacked_body_len(&self) -> usize {
        match self.unpacked_len {
            0 => self.body_len as usize,
            len => len as usize,
        }
    }

    fn encode(&self, salt: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0_u8; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8] = RECORD_FORMAT;
        bytes[9] = match self.signal {
            Signal::Traces => 1,
            Signal::Metrics => 2,
            Signal::Logs => 3,
            Signal::Streams => 4,
        };
        bytes[10] = match self.content_type {
            ContentType::Protobuf => 1,
            ContentType::Json => 2,
            ContentType::NdJson => 3,
            ContentType::ArrowStream => 4,
        };
        bytes[11] = self.tenant_len;
        bytes[12..16].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.commit.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.received_us.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.body_hash.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[60..64].copy_from_slice(&self.unpacked_len.to_le_bytes());
        let crc = crc32c_pair(&salt.to_le_bytes(), &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header, or says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8], salt: u64) -> Result<RecordHeader, &'static str> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err("the record header is cut off");
        };
        if bytes[0..4] != MAGIC {
            return Err("no record begins here");
        }
        let stored = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        if crc32c_pair(&salt.to_le_bytes(), &bytes[8..]) != stored {
            return Err("the checksum of the record header does not match");
        }
        if !matches!(bytes[8], RECORD_FORMAT | FORMAT_WITHOUT_COMPRESSION) {
            return Err("the record format is not one this version knows");
        }
        let signal = match bytes[9] {
            1 => Signal::Traces,
            2 => Signal::Metrics,
            3 => Signal::Logs,
            4 => Signal::Streams,
            _ => return Err("the signal is not one this version knows"),
        };
        let content_type = match bytes[10] {
            1 => ContentType::Protobuf,
            2 => ContentType::Json,
            3 => ContentType::NdJson,
            4 => ContentType::ArrowStream,
            _ => return Err("the content type is not one this version knows"),
        };
        let word = |at: usize| {
            let mut word = [0_u8; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Ok(RecordHeader {
            signal,
            content_type,
            tenant_len: bytes[11],
            body_len: u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            unpacked_len: u32::from_le_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]),
            offset: word(16),
            commit: word(24),
            received_us: word(32) as i64,
            body_hash: u128::from(word(40)) | (u128::from(word(48)) << 64),
            payload_crc: u32::from_le_bytes([bytes[56], bytes[57], bytes[58], bytes[59]]),
        })
    }

    /// Whether `payload` (tenant, then body) is what was written.
    pub(crate) fn matches(&self, payload: &[u8]) -> bool {
        crc32c(payload) == self.payload_crc
    }

    /// The record. A body that is not compressed is a slice of `payload`; `project` is reused if it is the same.
    pub(crate) fn into_record(
        self,
        payload: Bytes,
        project: &mut Option<Arc<str>>,
        decompressor: &mut Decompressor<'static>,
    ) -> Result<LogRecord, &'static str> {
        let tenant = std::str::from_utf8(&payload[..self.tenant_len as usize])
            .map_err(|_| "the project is not UTF-8")?;
        let (name, stream) = match self.signal {
            Signal::Streams => tenant
                .split_once('\0')
                .map(|(project, stream)| (project, Some(Arc::from(stream))))
                .ok_or("the record does not name its stream")?,
            _ => (tenant, None),
        };
        let project = match project {
            Some(known) if **known == *name => Arc::clone(known),
            _ => Arc::clone(project.insert(Arc::from(name))),
        };
        let stored = payload.slice(self.tenant_len as usize..);
        let body = match self.unpacked_len {
            0 => stored,
            len => unpack(decompressor, &stored, len as usize)?,
        };
        Ok(LogRecord {
            project,
            signal: self.signal,
            stream,
            content_type: self.content_type,
            received_us: self.received_us,
            body_hash: self.body_hash,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::compression::Packer;

    fn read(bytes: &[u8], salt: u64) -> Result<LogRecord, &'static str> {
        let header = RecordHeader::parse(bytes, salt)?;
        let payload =
            Bytes::copy_from_slice(&bytes[HEADER_BYTES..HEADER_BYTES + header.payload_len() as usize]);
        if !header.matches(&payload) {
            return Err("another payload");
        }
        header.into_record(payload, &mut None, &mut Decompressor::new().unwrap())
    }

    /// Random bytes, which do not compress, and repeated ones, which do.
    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let piece = proptest::collection::vec(any::<u8>(), 0..2000);
        (piece, 1..20_usize).prop_map(|(piece, times)| piece.repeat(times))
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            project in "[a-z0-9_-]{1,64}",
            body in bodies(),
            offset: u64, commit: u64, received_us: i64, body_hash: u128, salt: u64,
            json: bool,
            stream in proptest::option::of("[a-z_]{1,63}"),
        ) {
            let record = LogRecord {
                project: Arc::from(project.as_str()),
                signal: if stream.is_some() { Signal::Streams } else { Signal::Logs },
                stream: stream.as_deref().map(Arc::from),
                content_type: if json { ContentType::Json } else { ContentType::Protobuf },
                received_us,
                body_hash,
                body: Bytes::from(body),
            };
            let mut buffer = BlockBuffer::default();
            let mut packer = Packer::new().unwrap();
            let stored = packer.pack(&record.body);
            encode(&record, stored, offset, commit, salt, &mut buffer);
            prop_assert_eq!(buffer.len(), encoded_len(&record, stored));
            prop_assert!(stored.bytes.len() <= record.body.len());
            let header = RecordHeader::parse(buffer.bytes(), salt).unwrap();
            prop_assert_eq!((header.offset, header.commit), (offset, commit));
            prop_assert_eq!(header.total_len() as usize, buffer.len());
            prop_assert_eq!(read(buffer.bytes(), salt).unwrap(), record);
            prop_assert!(RecordHeader::parse(buffer.bytes(), salt ^ 1).is_err());
        }

        #[test]
        fn one_flipped_bit_is_noticed(bit in 0..(64 + 3 + 50) * 8_usize) {
            let record = record_of(vec![7_u8; 50]);
            let mut buffer = BlockBuffer::default();
            encode(&record, StoredBody::as_it_came(&record.body), 1, 2, 3, &mut buffer);
            let mut bytes = buffer.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&bytes, 3).is_err());
        }
    }

    #[test]
    fn what_repeats_takes_less_room_and_the_first_format_is_read() {
        let record = record_of(b"gen_ai.usage.input_tokens".repeat(400));
        let mut packer = Packer::new().unwrap();
        let packed = packer.pack(&record.body);
        assert!(packed.bytes.len() < record.body.len() / 10);
        assert_eq!(packed.unpacked_len as usize, record.body.len());

        let mut buffer = BlockBuffer::default();
        encode(
            &record,
            StoredBody::as_it_came(&record.body),
            1,
            2,
            3,
            &mut buffer,
        );
        let mut bytes = buffer.bytes().to_vec();
        bytes[8] = FORMAT_WITHOUT_COMPRESSION;
        let crc = crc32c_pair(&3_u64.to_le_bytes(), &bytes[8..HEADER_BYTES]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(read(&bytes, 3).unwrap(), record);
    }

    #[test]
    fn a_body_that_does_not_decompress_to_its_length_is_refused() {
        let record = record_of(b"gen_ai.usage.input_tokens".repeat(400));
        let mut packer = Packer::new().unwrap();
        let packed = packer.pack(&record.body);
        for (bytes, unpacked_len) in [
            (&b"this is no Zstandard frame"[..], 10_000),
            (packed.bytes, packed.unpacked_len - 1),
            (packed.bytes, packed.unpacked_len + 1),
        ] {
            let mut buffer = BlockBuffer::default();
            let stored = StoredBody { bytes, unpacked_len };
            encode(&record, stored, 1, 2, 3, &mut buffer);
            assert_eq!(
                read(buffer.bytes(), 3),
                Err("the record body cannot be decompressed")
            );
        }
    }

    fn record_of(body: Vec<u8>) -> LogRecord {
        LogRecord {
            project: Arc::from("abc"),
            signal: Signal::Traces,
            stream: None,
            content_type: ContentType::Protobuf,
            received_us: 5,
            body_hash: 9,
            body: Bytes::from(body),
        }
    }
}
