//! Walks over the keys of an arrangement at one tick, in steps, past what nobody asks for.
//!
//! A [`Path`] says which keys are wanted: those that begin with one of some prefixes, of some panes where keys lead with a
//! pane. A [`Walk`] seeks from one to the next, forward only, and stops when its fuel is spent; what it has begun to read
//! stays as it was, because a walk keeps the batches it started on, so that ticks may go on between its steps.

use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use differential_dataflow::trace::cursor::Cursor;

use super::arrange::{PANE_BYTES, key_of, pane_of};
use super::key::Key;
use super::tap::{converter, normalise};

/// Most prefixes that a path is made of; conditions that would give more are left to those who filter rows.
const MOST_PREFIXES: usize = 4_096;
/// Positions between two looks at the clock.
const POSITIONS: u32 = 64;

/// How long a walk may go on.
pub(crate) struct Fuel {
    until: Option<Instant>,
    positions: u32,
}

impl Fuel {
    pub fn unlimited() -> Fuel {
        Fuel {
            until: None,
            positions: 0,
        }
    }

    pub fn lasting(slice: Duration) -> Fuel {
        Fuel {
            until: Instant::now().checked_add(slice),
            positions: 0,
        }
    }

    /// Whether there is some left; a position costs.
    fn burns(&mut self) -> bool {
        self.positions += 1;
        !self.positions.is_multiple_of(POSITIONS) || !self.is_spent()
    }

    pub fn is_spent(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Which keys are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    /// Where keys lead with a pane: those that end after the first and not after the second.
    panes: Option<(i64, i64)>,
    /// In order, none the beginning of another; one that is empty wants all.
    prefixes: Vec<Key>,
}

/// What to do at a key.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Visit,
    Seek(Key),
    End,
}

impl Path {
    pub fn everything(panes: Option<(i64, i64)>) -> Path {
        Path {
            panes,
            prefixes: vec![Key::default()],
        }
    }

    /// The keys of these columns whose first ones have wanted values; `wanted` has those of a column, of its type, if
    /// only some are. Also of how many columns it leads to nothing but wanted values.
    pub fn of_columns(
        panes: Option<(i64, i64)>,
        types: &[DataType],
        wanted: impl Fn(usize) -> Option<ArrayRef>,
    ) -> (Path, usize) {
        let mut columns: Vec<ArrayRef> = Vec::new();
        let mut rows = 1;
        for (place, data_type) in types.iter().enumerate() {
            let Some(values) = wanted(place).filter(|values| can_seek(values, data_type)) else {
                break;
            };
            if rows * values.len() > MOST_PREFIXES {
                break;
            }
            // Every row so far with every value.
            let repeated = (0..rows).flat_map(|row| std::iter::repeat_n(row as u64, values.len()));
            let repeated: UInt64Array = repeated.collect();
            let cycled: UInt64Array = (0..rows).flat_map(|_| 0..values.len() as u64).collect();
            rows *= values.len();
            columns.push(values);
            let last = columns.len() - 1;
            for (place, column) in columns.iter_mut().enumerate() {
                let indices = if place == last { &cycled } else { &repeated };
                *column = take(column, indices, None).expect("invariant: indices of these values");
            }
        }
        if columns.is_empty() {
            return (Path::everything(panes), 0);
        }
        let sought = columns.len();
        let types = &types[..sought];
        let columns: Vec<ArrayRef> = columns.into_iter().map(normalise).collect();
        let encoded = converter(types)
            .ok()
            .and_then(|converter| converter.convert_columns(&columns).ok());
        let Some(encoded) = encoded else {
            return (Path::everything(panes), 0);
        };
        let mut prefixes: Vec<Key> = encoded.iter().map(|row| Key::from(row.as_ref())).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        (Path { panes, prefixes }, sought)
    }

    fn turn(&self, key: &[u8]) -> Turn {
        let (pane, rest) = match self.panes {
            None => (None, key),
            Some((after, until)) => match pane_of(key) {
                pane if pane > until => return Turn::End,
                pane if pane <= after => return Turn::Seek(key_of(after.saturating_add(1), &[])),
                pane => (Some(pane), &key[PANE_BYTES..]),
            },
        };
        let next = self.prefixes.partition_point(|prefix| **prefix <= *rest);
        let before = next.checked_sub(1).map(|place| &self.prefixes[place]);
        if before.is_some_and(|prefix| rest.starts_with(prefix)) {
            return Turn::Visit;
        }
        match (self.prefixes.get(next), pane) {
            (Some(prefix), Some(pane)) => Turn::Seek(key_of(pane, prefix)),
            (Some(prefix), None) => Turn::Seek(prefix.clone()),
            (None, Some(pane)) if pane < i64::MAX => Turn::Seek(key_of(pane + 1, &[])),
            (None, _) => Turn::End,
        }
    }
}

/// Whether keys of values that are equal to one of these begin alike. Doubles have two zeros.
fn can_seek(values: &ArrayRef, data_type: &DataType) -> bool {
    values.data_type() == data_type
        && values.null_count() == 0
        && !matches!(
            data_type,
            DataType::Float16 | DataType::Float32 | DataType::Float64
        )
        && !data_type.is_nested()
}

/// A walk that has begun.
pub(crate) struct Walk<C: Cursor> {
    cursor: C,
    storage: C::Storage,
    path: Path,
}

impl<C: Cursor> Walk<C>
where
    C: for<'a> Cursor<Key<'a> = &'a Key>,
{
    pub fn new((cursor, storage): (C, C::Storage), path: Path) -> Walk<C> {
        Walk {
            cursor,
            storage,
            path,
        }
    }

    /// Goes on as long as there is fuel and `visit`, which sees wanted keys, says so; whether the end is reached.
    pub fn advance(
        &mut self,
        fuel: &mut Fuel,
        mut visit: impl FnMut(&mut C, &C::Storage, &Key) -> bool,
    ) -> bool {
        let Walk {
            cursor,
            storage,
            path,
        } = self;
        loop {
            let Some(key) = cursor.get_key(storage) else {
                return true;
            };
            match path.turn(key) {
                Turn::End => return true,
                Turn::Seek(to) => cursor.seek_key(storage, &to),
                Turn::Visit => {
                    let goes_on = visit(cursor, storage, key);
                    cursor.step_key(storage);
                    if !goes_on {
                        return false;
                    }
                }
            }
            if !fuel.burns() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringViewArray};
    use proptest::prelude::*;

    use super::*;

    const TYPES: [DataType; 3] = [DataType::Utf8View, DataType::Int64, DataType::Utf8View];

    type Group = (String, i64, String);

    fn encoded(groups: &[Group]) -> Vec<Key> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(
                groups.iter().map(|group| &group.0),
            )),
            Arc::new(Int64Array::from_iter_values(groups.iter().map(|group| group.1))),
            Arc::new(StringViewArray::from_iter_values(
                groups.iter().map(|group| &group.2),
            )),
        ];
        let rows = converter(&TYPES).unwrap().convert_columns(&columns).unwrap();
        rows.iter().map(|row| Key::from(row.as_ref())).collect()
    }

    /// As a walk over a cursor goes; what was visited, and in how many turns.
    fn walked(keys: &BTreeSet<Key>, path: &Path) -> (Vec<Key>, usize) {
        let mut visited = Vec::new();
        let (mut at, mut turns) = (keys.iter().next().cloned(), 0);
        while let Some(key) = at {
            turns += 1;
            at = match path.turn(&key) {
                Turn::End => None,
                Turn::Seek(to) => {
                    assert!(to > key, "forward only");
                    keys.range(to..).next().cloned()
                }
                Turn::Visit => {
                    visited.push(key.clone());
                    keys.range(key.clone()..).nth(1).cloned()
                }
            };
        }
        (visited, turns)
    }

    fn names() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "",
            "a",
            "aa",
            "b",
            "a\u{0}",
            "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        ])
        .prop_map(str::to_string)
    }

    proptest! {
        #[test]
        fn a_walk_visits_what_a_filter_keeps(
            groups in prop::collection::vec((0i64..4, (names(), -1i64..3, names())), 0..60),
            first in prop::option::of(prop::collection::vec(names(), 1..4)),
            second in prop::option::of(prop::collection::vec(-2i64..4, 1..3)),
            panes in prop::option::of((-1i64..4, 0i64..5)),
            leads in any::<bool>(),
        ) {
            let panes = leads.then(|| panes.unwrap_or((i64::MIN, i64::MAX)));
            let plain: Vec<Group> = groups.iter().map(|(_, group)| group.clone()).collect();
            let keys = encoded(&plain).into_iter().zip(&groups).map(|(key, (pane, group))| {
                (if leads { key_of(*pane, &key) } else { key }, *pane, group.clone())
            });
            let keys: Vec<(Key, i64, Group)> = keys.collect();
            let (path, sought) = Path::of_columns(panes, &TYPES, |place| match place {
                0 => first.as_ref().map(|wanted| Arc::new(StringViewArray::from_iter_values(wanted)) as ArrayRef),
                1 => second.as_ref().map(|wanted| Arc::new(Int64Array::from_iter_values(wanted.iter().copied())) as ArrayRef),
                _ => None,
            });
            let wanted = [first.is_some(), second.is_some()];
            prop_assert_eq!(sought, wanted.iter().take_while(|wanted| **wanted).count());
            let expected: BTreeSet<Key> = keys.iter().filter(|(_, pane, (name, number, _))| {
                panes.is_none_or(|(after, until)| after < *pane && *pane <= until)
                    && first.as_ref().is_none_or(|wanted| wanted.contains(name))
                    // Only the first columns decide where to go.
                    && (first.is_none() || second.as_ref().is_none_or(|wanted| wanted.contains(number)))
            }).map(|(key, ..)| key.clone()).collect();
            let all: BTreeSet<Key> = keys.iter().map(|(key, ..)| key.clone()).collect();
            let (visited, turns) = walked(&all, &path);
            prop_assert_eq!(visited, expected.into_iter().collect::<Vec<_>>());
            prop_assert!(turns <= 2 * all.len() + 2);
        }
    }

    #[test]
    fn a_look_up_seeks() {
        let groups: Vec<Group> = (0..100_000)
            .map(|number| (format!("user {number}"), number, String::new()))
            .collect();
        let keys: BTreeSet<Key> = encoded(&groups).into_iter().collect();
        let wanted: ArrayRef = Arc::new(StringViewArray::from_iter_values([
            "user 7",
            "user 99999",
            "nobody",
        ]));
        let (path, _) = Path::of_columns(None, &TYPES, |place| (place == 0).then(|| Arc::clone(&wanted)));
        let (visited, turns) = walked(&keys, &path);
        assert_eq!(visited.len(), 2);
        assert!(turns < 10, "{turns} turns");
    }

    #[test]
    fn doubles_are_not_sought() {
        let zero: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![0.0]));
        let sought = Path::of_columns(None, &[DataType::Float64], |_| Some(Arc::clone(&zero)));
        assert_eq!(sought, (Path::everything(None), 0));
    }
}
