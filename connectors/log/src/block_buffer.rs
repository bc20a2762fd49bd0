//! A growable byte buffer whose first byte is aligned to a disk block, as direct I/O asks.
//!
//! Invariant: [`BlockBuffer::padded`] is a whole number of blocks; the bytes after the written ones are zero.

/// Alignment of memory, file position and length for direct I/O. Every common disk takes 4096.
pub(crate) const BLOCK: usize = 4096;

/// Rounds up to whole blocks.
pub(crate) fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK as u64) * BLOCK as u64
}

#[derive(Debug, Default)]
pub(crate) struct BlockBuffer {
    /// Over-allocated by one block; `start` is its first aligned byte.
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl BlockBuffer {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets the contents and the memory beyond `keep` bytes.
    pub(crate) fn shrink(&mut self, keep: usize) {
        if self.storage.len() > keep.saturating_mul(2) + 2 * BLOCK {
            let kept = self.bytes().to_vec();
            *self = BlockBuffer::default();
            self.extend(&kept);
        }
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let at = self.start + self.len;
        self.storage[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn extend_zeros(&mut self, count: usize) {
        self.reserve(count);
        let at = self.start + self.len;
        self.storage[at..at + count].fill(0);
        self.len += count;
    }

    /// The contents padded with zeros to whole blocks.
    pub(crate) fn padded(&mut self) -> &[u8] {
        let whole = self.len.div_ceil(BLOCK) * BLOCK;
        self.reserve(whole - self.len);
        let (from, to) = (self.start + self.len, self.start + whole);
        self.storage[from..to].fill(0);
        &self.storage[self.start..to]
    }

    /// Drops everything before the block that holds the end, so that the partly filled last block starts the
    /// buffer.
    pub(crate) fn keep_last_block(&mut self) {
        let whole = self.len - self.len % BLOCK;
        let (from, to) = (self.start + whole, self.start + self.len);
        self.storage.copy_within(from..to, self.start);
        self.len -= whole;
    }

    fn reserve(&mut self, more: usize) {
        let needed = (self.len + more).div_ceil(BLOCK) * BLOCK;
        if self.start + needed <= self.storage.len() {
            return;
        }
        let capacity = needed.max(self.storage.len() * 2).max(64 * BLOCK);
        let mut storage = vec![0_u8; capacity + BLOCK];
        let start = storage.as_ptr().align_offset(BLOCK);
        storage[start..start + self.len].copy_from_slice(&self.storage[self.start..self.start + self.len]);
        self.storage = storage;
        self.start = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_padded_and_equal_to_what_was_written() {
        let mut buffer = BlockBuffer::default();
        let mut expected = Vec::new();
        for step in 1..300_usize {
            let piece = vec![step as u8 | 1; step * 37];
            buffer.extend(&piece);
            expected.extend_from_slice(&piece);
            let padded = buffer.padded();
            assert_eq!(padded.as_ptr() as usize % BLOCK, 0);
            assert_eq!(padded.len() % BLOCK, 0);
            assert_eq!(&padded[..expected.len()], &expected[..]);
            assert!(padded[expected.len()..].iter().all(|byte| *byte == 0));
        }
        buffer.keep_last_block();
        let whole = expected.len() / BLOCK * BLOCK;
        assert_eq!(buffer.bytes(), &expected[whole..]);
        buffer.shrink(BLOCK);
        assert_eq!(buffer.bytes(), &expected[whole..]);
        buffer.truncate(3);
        buffer.extend_zeros(2);
        assert_eq!(buffer.len(), 5);
        assert_eq!(buffer.bytes()[3..], [0, 0]);
    }
}
