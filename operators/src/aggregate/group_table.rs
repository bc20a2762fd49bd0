//! From key bytes to dense group numbers.
//!
//! Keys lie one behind the other in an arena; the table holds a group number and part of the hash. The hash is
//! seeded anew in every process, so that keys made up to collide do not; group numbers follow the order of first
//! sight, and nothing that the table yields depends on the hash.

use arrow::array::{Array, BinaryArray};
use arrow::row::Rows;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Row-encoded keys, one per row of a batch.
pub trait Keys {
    fn len(&self) -> usize;
    fn key(&self, row: usize) -> &[u8];

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Keys for Rows {
    fn len(&self) -> usize {
        self.num_rows()
    }

    #[inline]
    fn key(&self, row: usize) -> &[u8] {
        self.row(row).data()
    }
}

impl Keys for BinaryArray {
    fn len(&self) -> usize {
        Array::len(self)
    }

    #[inline]
    fn key(&self, row: usize) -> &[u8] {
        self.value(row)
    }
}

/// So many rows with the empty key: an aggregate without GROUP BY.
impl Keys for usize {
    fn len(&self) -> usize {
        *self
    }

    fn key(&self, _row: usize) -> &[u8] {
        &[]
    }
}

/// The different keys of a batch, numbered by first sight.
pub struct Numbering {
    pub(super) of_row: Vec<u32>,
    /// By number, a row that has the key.
    pub(super) first_row: Vec<u32>,
}

impl Numbering {
    pub fn of<K: Keys + ?Sized>(keys: &K) -> Numbering {
        let mut table = GroupTable::default();
        let mut first_row = Vec::new();
        let of_row = (0..keys.len()).map(|row| {
            let number = table.intern(keys.key(row));
            if number as usize == first_row.len() {
                first_row.push(row as u32);
            }
            number
        });
        Numbering {
            of_row: of_row.collect(),
            first_row,
        }
    }
}

#[derive(Clone, Copy)]
struct Slot {
    group: u32,
    tag: u32,
}

/// One seed for all tables of the process.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().build_hasher().finish())
}

/// See the module.
pub(super) struct GroupTable {
    seed: u64,
    slots: HashTable<Slot>,
    hashes: Vec<u64>,
    arena: Vec<u8>,
    /// Where each key ends in the arena; it begins where the one before ends.
    ends: Vec<usize>,
}

impl Default for GroupTable {
    fn default() -> Self {
        GroupTable {
            seed: seed(),
            slots: HashTable::default(),
            hashes: Vec::new(),
            arena: Vec::new(),
            ends: Vec::new(),
        }
    }
}

impl GroupTable {
    pub(super) const LIMIT: usize = u32::MAX as usize;

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn key(&self, group: usize) -> &[u8] {
        key(&self.arena, &self.ends, group)
    }

    /// The group of a key, which is new when the number equals the length before. The caller keeps
    /// the number of groups below [`LIMIT`](Self::LIMIT).
    #[inline]
    pub(super) fn intern(&mut self, bytes: &[u8]) -> u32 {
        let hash = xxh3_64_with_seed(bytes, self.seed);
        let tag = (hash >> 32) as u32 ^ hash as u32;
        let Self {
            slots,
            hashes,
            arena,
            ends,
            ..
        } = self;
        let same = |slot: &Slot| slot.tag == tag && key(arena, ends, slot.group as usize) == bytes;
        match slots.entry(hash, same, |slot| hashes[slot.group as usize]) {
            Entry::Occupied(entry) => entry.get().group,
            Entry::Vacant(entry) => {
                let group = ends.len() as u32;
                entry.insert(Slot { group, tag });
                hashes.push(hash);
                arena.extend_from_slice(bytes);
                ends.push(arena.len());
                group
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.hashes.clear();
        self.arena.clear();
        self.ends.clear();
    }

    /// Gives memory back after an unusually large use.
    pub(super) fn shrink(&mut self, groups: usize, bytes: usize) {
        self.hashes.shrink_to(groups);
        self.ends.shrink_to(groups);
        self.arena.shrink_to(bytes);
        let hashes = &self.hashes;
        self.slots.shrink_to(groups, |slot| hashes[slot.group as usize]);
    }
}

#[inline]
fn key<'a>(arena: &'a [u8], ends: &[usize], group: usize) -> &'a [u8] {
    let start = group.checked_sub(1).map_or(0, |before| ends[before]);
    &arena[start..ends[group]]
}
