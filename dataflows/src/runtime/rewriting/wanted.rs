//! Which groups of a base are read again as they were.

use std::collections::BTreeSet;

use arrow::row::RowConverter;
use hashbrown::HashSet;

use super::locality::Unit;
use crate::render::Base;
use crate::render::arrange::{PANE_BYTES, pane_of};
use crate::render::key::Key;
use crate::render::tap::{converter, key_converter};

const CHECKED: &str = "invariant: the base was compiled with its view";

/// Those of these keys, of these panes, or that share a pane and the values at some places with others.
#[derive(Default)]
pub(crate) struct Wanted {
    keys: HashSet<Key>,
    panes: HashSet<i64>,
    units: Option<Units>,
}

/// Panes with the values at some places.
struct Units {
    places: Vec<usize>,
    known: HashSet<Vec<u8>>,
}

impl Wanted {
    /// What has to be known of a base when something is taken, in these panes, from these keys.
    pub fn add<'a>(
        &mut self,
        base: &Base,
        unit: &Unit,
        panes: &BTreeSet<i64>,
        taken: impl Iterator<Item = &'a Key>,
    ) {
        let taken = taken.filter(|key| panes.contains(&pane_of(key)));
        match unit {
            Unit::Group => self.keys.extend(taken.cloned()),
            Unit::Pane => self.panes.extend(panes),
            // Two views that divide the panes differently are rare.
            Unit::Places(places) if self.units.as_ref().is_some_and(|units| units.places != *places) => {
                self.panes.extend(panes);
            }
            Unit::Places(places) => {
                let units = self.units.get_or_insert_with(|| Units {
                    places: places.clone(),
                    known: HashSet::new(),
                });
                units.known.extend(units_of(base, places, taken));
            }
        }
    }

    /// Whether more may be wanted than something is taken from.
    pub fn has_whole_panes(&self) -> bool {
        !self.panes.is_empty() || self.units.is_some()
    }

    /// Only the keys themselves are wanted from here on.
    pub fn forget_panes(&mut self) {
        self.panes = HashSet::new();
        self.units = None;
    }

    pub fn has_key(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }

    /// For each of the keys, whether it is wanted.
    pub fn of<'a>(&self, base: &Base, keys: impl Iterator<Item = &'a Key> + Clone) -> Vec<bool> {
        let mut wanted: Vec<bool> = keys
            .clone()
            .map(|key| self.panes.contains(&pane_of(key)) || self.keys.contains(key))
            .collect();
        if let Some(units) = &self.units {
            for (wanted, unit) in wanted.iter_mut().zip(units_of(base, &units.places, keys)) {
                *wanted |= units.known.contains(&unit);
            }
        }
        wanted
    }

    /// Whether everything is wanted that a unit of these keys asks for.
    pub fn covers<'a>(
        &self,
        base: &Base,
        unit: &Unit,
        panes: &BTreeSet<i64>,
        mut taken: impl Iterator<Item = &'a Key>,
    ) -> bool {
        let has_panes = || panes.iter().all(|pane| self.panes.contains(pane));
        match unit {
            Unit::Group => taken.all(|key| self.keys.contains(key) || self.panes.contains(&pane_of(key))),
            Unit::Pane => has_panes(),
            Unit::Places(places) => match &self.units {
                Some(units) if units.places == *places => {
                    let keys: Vec<&Key> = taken.collect();
                    let mut found = units_of(base, places, keys.iter().copied()).into_iter();
                    found.all(|unit| units.known.contains(&unit)) || has_panes()
                }
                _ => has_panes(),
            },
        }
    }
}

/// The pane of each key with the values at these places.
fn units_of<'a>(base: &Base, places: &[usize], keys: impl Iterator<Item = &'a Key>) -> Vec<Vec<u8>> {
    let of_keys: RowConverter = key_converter(base).expect(CHECKED);
    let of_units = converter(places.iter().map(|place| &base.key_types[*place])).expect(CHECKED);
    let keys: Vec<&Key> = keys.collect();
    if keys.is_empty() {
        return Vec::new();
    }
    let parser = of_keys.parser();
    let columns = of_keys
        .convert_rows(keys.iter().map(|key| parser.parse(key)))
        .expect("invariant: keys were encoded by this converter");
    let chosen: Vec<_> = places.iter().map(|place| columns[place + 1].clone()).collect();
    let values = of_units
        .convert_columns(&chosen)
        .expect("invariant: they are of the key's types");
    let unit = |(key, values): (&&Key, arrow::row::Row<'_>)| [&key[..PANE_BYTES], values.as_ref()].concat();
    keys.iter().zip(values.iter()).map(unit).collect()
}
