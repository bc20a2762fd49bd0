//! What a checkpoint reads of an arrangement.

use std::collections::VecDeque;

use pyflare_operators::aggregate::Accumulator;

use super::arrange::{GroupWalk, PANE_BYTES, pane_of};
use super::changed::ChangedPanes;
use super::panes::PaneGroups;
use super::walk::Fuel;

/// The updates that make up an arrangement at a tick, read in steps while later ticks go on.
pub(crate) enum Dump {
    Keys(GroupWalk, ChangedPanes),
    Panes(VecDeque<(i64, PaneGroups)>),
}

impl Dump {
    /// Goes on as long as there is fuel and `visit`, which is given a pane's end, a group and its accumulator, says so;
    /// a map of a pane is read whole. Whether the end is reached.
    pub fn advance(
        &mut self,
        fuel: &mut Fuel,
        mut visit: impl FnMut(i64, &[u8], &Accumulator) -> bool,
    ) -> bool {
        match self {
            Dump::Keys(walk, wanted) => walk.advance(fuel, |key, accumulator| {
                let end = pane_of(key);
                !wanted.contains(end) || visit(end, &key[PANE_BYTES..], &accumulator)
            }),
            Dump::Panes(maps) => {
                while let Some((end, groups)) = maps.pop_front() {
                    let mut wanted = true;
                    for (group, accumulator) in groups.iter() {
                        wanted &= visit(end, group, accumulator);
                    }
                    if !wanted || fuel.is_spent() {
                        break;
                    }
                }
                maps.is_empty()
            }
        }
    }
}
