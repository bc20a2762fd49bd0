//! CRC32C (Castagnoli), the checksum of every record on disk.

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// CRC32C of one run of bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC32C of two runs of bytes as if they were one.
pub(crate) fn crc32c_pair(first: &[u8], second: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(first);
    digest.update(second);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms.
    #[test]
    fn is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c_pair(b"1234", b"56789"), 0xE306_9283);
    }
}
