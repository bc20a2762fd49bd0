//! Which attribute is this? Answered by expecting the one that followed last time.
//!
//! An emitter writes the same keys in the same order span after span, so after one key the next is nearly
//! always known: its wire prefix (`0a`, length, key, `12`) is compared with two or three sixteen-byte loads
//! instead of hashed (237 against 301 ns a span in a prototype). A miss looks the key up by perfect hash, or
//! among the unmapped keys learned before. After repeated misses (attributes in random order) guessing is
//! suspended, so that a wrong guess does not cost more than it saves.
use super::aliases::{AliasTable, hash};

/// Learned keys at most; further ones are looked up each time.
const LEARNED: usize = 384;
const LEARNED_SLOTS: usize = 1024;
/// No guess from here.
const NOTHING: u16 = u16::MAX;
/// Node of keys that are neither declared nor learned.
const UNKNOWN: u16 = 0;
/// Node before the first attribute of a row.
const START: u16 = 1;
/// Trust in guesses: grows by one with a hit, falls by `MISS_COST` with a miss.
const FULL_TRUST: i32 = 64;
const MISS_COST: i32 = 6;
/// Attributes looked up without a guess once trust is used up.
const SUSPENSION: i32 = -512;

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A declared alias: the number of its entry.
    Alias(u16),
    /// Part of a flattened list: its number.
    Flattened(u8),
    Unmapped,
}

struct Node {
    prefix: Box<[u8]>,
    first: u128,
    last: u128,
    next: u16,
    meaning: Meaning,
}

impl Node {
    fn new(key: &[u8], meaning: Meaning) -> Node {
        let mut prefix = Vec::with_capacity(key.len() + 3);
        prefix.push(0x0a);
        prefix.push(key.len() as u8);
        prefix.extend_from_slice(key);
        prefix.push(0x12);
        let (first, last) = ends(&prefix);
        Node {
            prefix: prefix.into_boxed_slice(),
            first,
            last,
            next: NOTHING,
            meaning,
        }
    }

    /// Whether a key-value pair begins with this key and then a value.
    #[inline(always)]
    fn matches(&self, pair: &[u8]) -> bool {
        let length = self.prefix.len();
        let Some(head) = pair.get(..length) else {
            return false;
        };
        let (first, last) = ends(head);
        first == self.first
            && last == self.last
            && (length <= 32 || head[16..length - 16] == self.prefix[16..length - 16])
    }
}

/// The first and the last bytes, sixteen where there are as many.
#[inline(always)]
fn ends(bytes: &[u8]) -> (u128, u128) {
    if let (Some(first), Some(last)) = (bytes.first_chunk::<16>(), bytes.last_chunk::<16>()) {
        return (u128::from_le_bytes(*first), u128::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        return (
            u128::from(u64::from_le_bytes(*first)),
            u128::from(u64::from_le_bytes(*last)),
        );
    }
    let mut short = [0u8; 16];
    short[..bytes.len()].copy_from_slice(bytes);
    (u128::from_le_bytes(short), 0)
}

/// The guesses of one decoder.
pub(crate) struct Memo {
    table: &'static AliasTable,
    nodes: Vec<Node>,
    /// Nodes of learned keys by hash, linear probing; 0 is free.
    learned: Box<[u16; LEARNED_SLOTS]>,
    current: u16,
    trust: i32,
}

impl Memo {
    pub(crate) fn new(table: &'static AliasTable) -> Memo {
        let mut nodes = vec![
            Node::new(b"", Meaning::Unmapped),
            Node::new(b"", Meaning::Unmapped),
        ];
        for (number, entry) in table.entries.iter().enumerate() {
            nodes.push(Node::new(entry.key.as_bytes(), Meaning::Alias(number as u16)));
        }
        Memo {
            table,
            nodes,
            learned: Box::new([0; LEARNED_SLOTS]),
            current: START,
            trust: FULL_TRUST,
        }
    }

    /// Begins a row.
    #[inline(always)]
    pub(crate) fn start(&mut self) {
        self.current = START;
    }

    /// Reads the key of a pair of the usual shape: key first, then the value. Gives the key's meaning and
    /// what follows the value's tag; `None` for any other shape.
    #[inline(always)]
    pub(crate) fn read<'a>(&mut self, pair: &'a [u8]) -> Option<(Meaning, &'a [u8])> {
        if self.trust > 0 {
            let guess = self.nodes[usize::from(self.current)].next;
            if let Some(node) = self.nodes.get(usize::from(guess))
                && node.matches(pair)
            {
                self.current = guess;
                self.trust = (self.trust + 1).min(FULL_TRUST);
                return Some((node.meaning, &pair[node.prefix.len()..]));
            }
        }
        self.look_up(pair)
    }

    #[inline(never)]
    fn look_up<'a>(&mut self, pair: &'a [u8]) -> Option<(Meaning, &'a [u8])> {
        let [0x0a, length, after @ ..] = pair else {
            return None;
        };
        if *length >= 0x80 {
            return None;
        }
        let (key, value) = after.split_at_checked(usize::from(*length))?;
        let [0x12, value @ ..] = value else { return None };
        let (node, meaning) = match self.table.find(key) {
            Some(number) => (number + 2, Meaning::Alias(number)),
            None => self.look_up_learned(key),
        };
        if self.trust > 0 {
            self.trust -= MISS_COST;
            if self.trust <= 0 {
                self.trust = SUSPENSION;
            }
            self.nodes[usize::from(self.current)].next = node;
        } else {
            self.trust += 1;
            if self.trust == 0 {
                self.trust = FULL_TRUST / 2;
            }
        }
        self.current = node;
        Some((meaning, value))
    }

    fn look_up_learned(&mut self, key: &[u8]) -> (u16, Meaning) {
        let mut slot = hash(key, 1) as usize % LEARNED_SLOTS;
        while self.learned[slot] != 0 {
            let node = self.learned[slot];
            let known = &self.nodes[usize::from(node)];
            if known.prefix[2..known.prefix.len() - 1] == *key {
                return (node, known.meaning);
            }
            slot = (slot + 1) % LEARNED_SLOTS;
        }
        let meaning = self.meaning_of_unknown(key);
        let node = self.nodes.len();
        if node >= LEARNED + self.table.entries.len() {
            return (UNKNOWN, meaning);
        }
        self.nodes.push(Node::new(key, meaning));
        self.learned[slot] = node as u16;
        (node as u16, meaning)
    }

    fn meaning_of_unknown(&self, key: &[u8]) -> Meaning {
        self.table
            .flattened
            .iter()
            .position(|list| {
                key.strip_prefix(list.prefix.as_bytes())
                    .is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
            })
            .map_or(Meaning::Unmapped, |number| Meaning::Flattened(number as u8))
    }

    /// What any key means, without a guess.
    pub(crate) fn meaning(&self, key: &[u8]) -> Meaning {
        match self.table.find(key) {
            Some(number) => Meaning::Alias(number),
            None => self.meaning_of_unknown(key),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair(key: &str) -> Vec<u8> {
        let mut pair = vec![0x0a, key.len() as u8];
        pair.extend_from_slice(key.as_bytes());
        pair.extend_from_slice(&[0x12, 2, 0x18, 1]);
        pair
    }

    #[test]
    fn guesses_never_change_the_answer() {
        let table = AliasTable::spans();
        let mut keys: Vec<String> = table.entries.iter().map(|entry| entry.key.to_owned()).collect();
        keys.extend((0..500).map(|number| format!("unmapped.{number}")));
        keys.extend((0..30).map(|number| format!("gen_ai.prompt.{number}.content")));
        keys.push(String::new());
        let pairs: Vec<Vec<u8>> = keys.iter().map(|key| pair(key)).collect();
        let mut memo = Memo::new(table);
        let mut state = 1u64;
        for round in 0..40_000usize {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = if round / 5000 % 2 == 0 {
                round % 37
            } else {
                (state >> 33) as usize % keys.len()
            };
            if round % 13 == 0 {
                memo.start();
            }
            let (meaning, value) = memo.read(&pairs[at]).unwrap();
            assert_eq!(meaning, memo.meaning(keys[at].as_bytes()), "{}", keys[at]);
            assert_eq!(value, [2, 0x18, 1]);
        }
    }

    #[test]
    fn other_shapes_are_left_to_the_caller() {
        let mut memo = Memo::new(AliasTable::spans());
        assert!(memo.read(&[]).is_none());
        assert!(memo.read(&[0x12, 0, 0x0a, 0]).is_none());
        assert!(memo.read(&[0x0a, 5, b'a']).is_none());
    }
}
