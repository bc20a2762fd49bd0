//! What a topic of ticks says: the keys of its records, and in which order they may stand.

use std::collections::VecDeque;

pub(super) const PAYLOAD: u8 = 1;
pub(super) const BEGINNING: u8 = 2;

/// What was read of the topic.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub generation: u64,
    /// The position of the next payload.
    pub next: u64,
    /// The position of the oldest payload that is there, and the offsets of all, in order.
    pub first: u64,
    pub offsets: VecDeque<i64>,
    /// Where to read on.
    pub read_to: i64,
}

/// A record's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<'a> {
    pub kind: u8,
    pub generation: u64,
    pub position: u64,
    pub history: &'a [u8],
}

impl<'a> Key<'a> {
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = vec![self.kind];
        bytes.extend(self.generation.to_be_bytes());
        bytes.extend(self.position.to_be_bytes());
        bytes.extend(self.history);
        bytes
    }

    pub fn decode(bytes: &'a [u8]) -> Option<Key<'a>> {
        let (kind, rest) = bytes.split_first()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (position, history) = rest.split_first_chunk()?;
        matches!(*kind, PAYLOAD | BEGINNING).then_some(Key {
            kind: *kind,
            generation: u64::from_be_bytes(*generation),
            position: u64::from_be_bytes(*position),
            history,
        })
    }
}

impl Known {
    /// Takes note of a record; says what is wrong with it.
    pub fn note(&mut self, offset: i64, key: Key<'_>) -> Result<(), String> {
        let is_first = self.generation == 0;
        let follows = match key.kind {
            BEGINNING => key.generation > self.generation,
            _ => is_first || key.generation == self.generation,
        };
        if !follows {
            return Err(format!(
                "it is of generation {}, after one of generation {}",
                key.generation, self.generation
            ));
        }
        if !is_first && key.position != self.next {
            return Err(format!(
                "it stands at position {}, where {} is expected",
                key.position, self.next
            ));
        }
        if is_first {
            self.first = key.position;
        }
        self.generation = key.generation;
        self.next = key.position;
        if key.kind == PAYLOAD {
            self.next += 1;
            self.offsets.push_back(offset);
        }
        self.read_to = offset + 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: u8, generation: u64, position: u64) -> Key<'static> {
        Key {
            kind,
            generation,
            position,
            history: b"abc",
        }
    }

    #[test]
    fn keys_come_back() {
        for kind in [PAYLOAD, BEGINNING] {
            let key = key(kind, 7, u64::MAX);
            assert_eq!(Key::decode(&key.encode()), Some(key));
        }
        for wrong in [&b""[..], b"\x01\x00", &[3; 20]] {
            assert_eq!(Key::decode(wrong), None);
        }
    }

    #[test]
    fn records_follow_on_or_are_refused() {
        let mut known = Known::default();
        let sequence = [
            (BEGINNING, 1, 0),
            (PAYLOAD, 1, 0),
            (PAYLOAD, 1, 1),
            (BEGINNING, 2, 2),
            (PAYLOAD, 2, 2),
        ];
        for (at, (kind, generation, position)) in (0_i64..).zip(sequence) {
            assert_eq!(known.note(at * 2, key(kind, generation, position)), Ok(()));
        }
        assert_eq!((known.generation, known.next, known.first), (2, 3, 0));
        assert_eq!(known.offsets, [2, 4, 8]);
        for (kind, generation, position) in [
            (PAYLOAD, 1, 3),
            (PAYLOAD, 2, 4),
            (PAYLOAD, 2, 2),
            (BEGINNING, 2, 3),
            (PAYLOAD, 3, 3),
        ] {
            let refused = known.clone().note(10, key(kind, generation, position));
            assert!(refused.is_err(), "{kind} {generation} {position}");
        }
        // A topic of which the beginning was deleted.
        let mut known = Known::default();
        assert_eq!(known.note(50, key(PAYLOAD, 4, 20)), Ok(()));
        assert_eq!((known.generation, known.next, known.first), (4, 21, 20));
    }
}
