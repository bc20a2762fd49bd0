//! The alias table of a stream: from an attribute's key to the columns it may fill.
//!
//! It is made once from the declarations in `fields`; no key is written here. A key finds its entry by a
//! perfect hash over its length and four eight-byte windows (length, first and last eight bytes alone do not
//! tell `gen_ai.usage.output_tokens` from its neighbours).
use std::sync::LazyLock;

use smallvec::SmallVec;

use super::dialects::{Class, Dialect};
use crate::fields::{Field, FieldType, LOGS, METRICS, SPANS};

/// How the value of an attribute becomes the value of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text as it is.
    Text,
    /// Text that may be written as a JSON string, as MLflow writes all its values.
    Unquoted,
    Provider,
    Operation,
    FinishReason,
    Class(Dialect),
    /// Any value suggests this class.
    ClassHint(Class),
    /// A count: an integer, a whole double, or digits; not negative.
    Count,
    Number,
    Money,
    /// Seconds, kept in nanoseconds.
    Seconds,
    /// Milliseconds, kept in nanoseconds.
    Millis,
    /// A time whose distance from the span's start is meant.
    Instant,
    /// The name of the agent or tool, whichever the span is.
    EntityName,
    /// A JSON object or list with members for columns: read when the row is closed, and only if needed.
    Document,
}

/// One column an attribute may fill. The lower the rank, the better the alias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub column: u8,
    pub rank: u8,
    pub kind: Kind,
}

/// A member of an attribute that is a JSON document.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub name: &'static str,
    /// Whether the name stands for a family of buckets to be summed.
    pub family: bool,
    pub reading: Reading,
}

/// One attribute key with everything it may fill.
pub(crate) struct Entry {
    pub key: &'static str,
    pub readings: SmallVec<[Reading; 3]>,
    pub members: Vec<Member>,
}

/// A list flattened into attributes.
pub(crate) struct Flattened {
    /// The key up to and with the point before the number.
    pub prefix: &'static str,
    pub column: u8,
    pub rank: u8,
}

/// A span event that fills a column.
pub(crate) struct EventAlias {
    pub name: &'static str,
    /// The attribute to read, or none where the event's time is meant.
    pub key: Option<&'static str>,
    pub reading: Reading,
}

/// The alias table of one stream.
pub(crate) struct AliasTable {
    pub entries: Vec<Entry>,
    pub flattened: Vec<Flattened>,
    pub events: Vec<EventAlias>,
    /// Attributes of the resource, by key.
    pub resource: Vec<(&'static str, Reading)>,
    seed: u64,
    slots: Box<[u16; SLOTS]>,
}

const SLOTS: usize = 2048;

impl AliasTable {
    pub(crate) fn spans() -> &'static AliasTable {
        static TABLE: LazyLock<AliasTable> = LazyLock::new(|| AliasTable::new(SPANS));
        &TABLE
    }

    pub(crate) fn logs() -> &'static AliasTable {
        static TABLE: LazyLock<AliasTable> = LazyLock::new(|| AliasTable::new(LOGS));
        &TABLE
    }

    pub(crate) fn metrics() -> &'static AliasTable {
        static TABLE: LazyLock<AliasTable> = LazyLock::new(|| AliasTable::new(METRICS));
        &TABLE
    }

    fn new(fields: &'static [Field]) -> AliasTable {
        let mut table = AliasTable {
            entries: Vec::new(),
            flattened: Vec::new(),
            events: Vec::new(),
            resource: Vec::new(),
            seed: 0,
            slots: Box::new([0; SLOTS]),
        };
        for (column, field) in fields.iter().enumerate() {
            for (rank, alias) in field.aliases.iter().enumerate() {
                table.declare(field, column as u8, rank as u8, alias);
            }
        }
        table.seed = (1..)
            .find(|&seed| table.place(seed))
            .expect("invariant: some seed keeps a few hundred keys apart in 2048 slots");
        table
    }

    fn declare(&mut self, field: &Field, column: u8, rank: u8, alias: &'static str) {
        let reading = |key: &str| Reading {
            column,
            rank,
            kind: kind_of(field, key),
        };
        if let Some(key) = alias.strip_prefix("resource:") {
            self.resource.push((key, reading(key)));
        } else if let Some(event) = alias.strip_prefix("event:") {
            let (name, key) = match event.strip_suffix('}').and_then(|event| event.split_once('{')) {
                Some((name, key)) => (name, Some(key)),
                None => (event, None),
            };
            self.events.push(EventAlias {
                name,
                key,
                reading: reading(key.unwrap_or(name)),
            });
        } else if let Some(prefix) = alias.strip_suffix('*').filter(|prefix| prefix.ends_with('.')) {
            self.flattened.push(Flattened { prefix, column, rank });
        } else if let Some((key, name)) = alias.strip_suffix('}').and_then(|alias| alias.split_once('{')) {
            let family = name.ends_with('*');
            let member = Member {
                name: name.trim_end_matches('*'),
                family,
                reading: reading(key),
            };
            let entry = self.entry(key);
            entry.members.push(member);
            if !entry
                .readings
                .iter()
                .any(|reading| reading.kind == Kind::Document)
            {
                entry.readings.push(Reading {
                    column,
                    rank,
                    kind: Kind::Document,
                });
            }
        } else if let Some(key) = alias.strip_suffix("[ms]") {
            self.entry(key).readings.push(Reading {
                column,
                rank,
                kind: Kind::Millis,
            });
        } else if let Some((key, class)) = alias.split_once('=') {
            let class = Class::named(class).expect("invariant: a declared class hint names a class");
            self.entry(key).readings.push(Reading {
                column,
                rank,
                kind: Kind::ClassHint(class),
            });
        } else {
            self.entry(alias).readings.push(reading(alias));
        }
    }

    fn entry(&mut self, key: &'static str) -> &mut Entry {
        let at = match self.entries.iter().position(|entry| entry.key == key) {
            Some(at) => at,
            None => {
                self.entries.push(Entry {
                    key,
                    readings: SmallVec::new(),
                    members: Vec::new(),
                });
                self.entries.len() - 1
            }
        };
        &mut self.entries[at]
    }

    /// Tries to give every key a slot of its own.
    fn place(&mut self, seed: u64) -> bool {
        self.slots.fill(0);
        for (number, entry) in self.entries.iter().enumerate() {
            let slot = &mut self.slots[hash(entry.key.as_bytes(), seed) as usize % SLOTS];
            if *slot != 0 {
                return false;
            }
            *slot = number as u16 + 1;
        }
        true
    }

    /// The entry of a key, by its number.
    #[inline(always)]
    pub(crate) fn find(&self, key: &[u8]) -> Option<u16> {
        let number = self.slots[hash(key, self.seed) as usize % SLOTS].checked_sub(1)?;
        (self.entries[usize::from(number)].key.as_bytes() == key).then_some(number)
    }
}

/// Hash of a key by its length, its first and last sixteen bytes.
#[inline(always)]
pub(crate) fn hash(key: &[u8], seed: u64) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let length = key.len();
    let mut state = seed.wrapping_mul(MULTIPLIER) ^ length as u64;
    let mut mix = |word: u64| {
        state = (state ^ word).wrapping_mul(MULTIPLIER);
        state ^= state >> 29;
    };
    match (key.first_chunk::<16>(), key.last_chunk::<16>()) {
        (Some(first), Some(last)) => {
            let (first, last) = (u128::from_le_bytes(*first), u128::from_le_bytes(*last));
            mix(first as u64);
            mix((first >> 64) as u64);
            mix(last as u64);
            mix((last >> 64) as u64);
        }
        _ => match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
            (Some(first), Some(last)) => {
                mix(u64::from_le_bytes(*first));
                mix(u64::from_le_bytes(*last));
            }
            _ => {
                let mut word = [0u8; 8];
                word[..length].copy_from_slice(key);
                mix(u64::from_le_bytes(word));
            }
        },
    }
    state ^ state >> 32
}

/// How a field reads an attribute, from the field's type and the key's dialect.
fn kind_of(field: &Field, key: &str) -> Kind {
    match field.name {
        "span_class" => Kind::Class(Dialect::of(key)),
        "provider" => Kind::Provider,
        "operation" => Kind::Operation,
        "finish_reason" => Kind::FinishReason,
        "time_to_first_token_ns" if key == "langfuse.observation.completion_start_time" => Kind::Instant,
        "time_to_first_token_ns" => Kind::Seconds,
        _ if key == "traceloop.entity.name" => Kind::EntityName,
        _ => match field.data_type {
            FieldType::Int32 | FieldType::Int64 => Kind::Count,
            FieldType::Float64 => Kind::Number,
            FieldType::Money => Kind::Money,
            _ if key.starts_with("mlflow.") => Kind::Unquoted,
            _ => Kind::Text,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_no_other() {
        for table in [AliasTable::spans(), AliasTable::logs(), AliasTable::metrics()] {
            for (number, entry) in table.entries.iter().enumerate() {
                assert_eq!(table.find(entry.key.as_bytes()), Some(number as u16));
                assert_eq!(table.find(&entry.key.as_bytes()[1..]), None);
                assert_eq!(table.find(format!("{}.x", entry.key).as_bytes()), None);
            }
            assert_eq!(table.find(b""), None);
        }
    }

    #[test]
    fn an_attribute_has_few_readings() {
        for entry in &AliasTable::spans().entries {
            assert!((1..=3).contains(&entry.readings.len()), "{}", entry.key);
        }
    }
}
