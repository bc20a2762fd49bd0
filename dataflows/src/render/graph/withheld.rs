//! What is kept back until a watermark has passed it.
//!
//! The operator that keeps it back, and the worker that knows the watermark, share a [`Withheld`]. What a tick's watermark
//! sets free is shown at that tick's end, once everything that comes at the tick has come: what is shown then is final.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use super::operators::Building;
use super::rows::Row;
use crate::time::Tick;

/// See the module's head. Times are microseconds of event time, moments those of the graph.
#[derive(Debug)]
pub(crate) struct Withheld {
    /// The leaf whose watermark it is.
    pub leaf: usize,
    /// What ends at or before this is shown.
    shown_until: i64,
    /// What `shown_until` is to be at the end of the tick at hand, and that tick's last moment.
    next: (i64, Tick),
    rows: BTreeMap<(i64, Row), i64>,
}

impl Withheld {
    fn of(leaf: usize) -> Withheld {
        Withheld {
            leaf,
            shown_until: i64::MIN,
            next: (i64::MIN, 0),
            rows: BTreeMap::new(),
        }
    }

    /// The watermark of a tick, whose last moment this is; whether that sets something free.
    pub fn advance(&mut self, watermark: Option<i64>, moment: Tick) -> bool {
        let watermark = watermark.unwrap_or(i64::MIN).max(self.next.0);
        self.next = (watermark, moment);
        self.earliest().is_some_and(|end| end <= watermark)
    }

    /// The end of what is set free next.
    pub fn earliest(&self) -> Option<i64> {
        self.rows.first_key_value().map(|((end, _), _)| *end)
    }

    /// Keeps changes of what ends at `end_us` back, or gives them as they are if that is shown already.
    pub fn take(&mut self, end_us: i64, updates: Vec<(Row, Tick, i64)>) -> Vec<(Row, Tick, i64)> {
        if end_us <= self.shown_until {
            return updates;
        }
        for (row, _, diff) in updates {
            match self.rows.entry((end_us, row)) {
                Entry::Vacant(place) => drop(place.insert(diff)),
                Entry::Occupied(mut count) => {
                    *count.get_mut() += diff;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
        }
        Vec::new()
    }

    /// What the watermark sets free, once the frontier of what comes has passed the tick at hand.
    pub fn due(&mut self, frontier: Option<Tick>) -> Vec<(Row, Tick, i64)> {
        let (until, moment) = self.next;
        if frontier.is_none_or(|frontier| frontier <= moment) || until <= self.shown_until {
            return Vec::new();
        }
        self.shown_until = until;
        let mut due = Vec::new();
        while let Some(first) = self.rows.first_entry()
            && first.key().0 <= until
        {
            let ((_, row), count) = first.remove_entry();
            due.push((row, moment, count));
        }
        due
    }
}

impl Building<'_, '_> {
    /// One for an operator of this graph.
    pub(super) fn withheld(&self, leaf: usize) -> Rc<RefCell<Withheld>> {
        let withheld = Rc::new(RefCell::new(Withheld::of(leaf)));
        self.withheld.borrow_mut().push(Rc::clone(&withheld));
        withheld
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        Row::from(text.as_bytes())
    }

    #[test]
    fn what_the_watermark_has_passed_is_shown_at_the_end_of_its_tick() {
        let mut withheld = Withheld::of(0);
        assert!(!withheld.advance(None, 3));
        assert_eq!(withheld.take(50, vec![(row("a"), 3, 1), (row("b"), 3, 1)]), []);
        assert_eq!(withheld.take(90, vec![(row("c"), 3, 1)]), []);
        assert_eq!(withheld.due(Some(4)), []);
        assert_eq!(withheld.earliest(), Some(50));
        // What is taken back before it was shown never is.
        assert_eq!(withheld.take(50, vec![(row("b"), 5, -1)]), []);
        assert!(withheld.advance(Some(60), 5));
        assert_eq!(withheld.due(Some(5)), [], "more may come at this tick");
        assert_eq!(withheld.due(Some(6)), [(row("a"), 5, 1)]);
        assert_eq!(withheld.earliest(), Some(90));
        // What is shown changes at once.
        assert_eq!(withheld.take(50, vec![(row("a"), 6, -1)]), [(row("a"), 6, -1)]);
        // A watermark never falls.
        assert!(!withheld.advance(Some(10), 7));
        assert_eq!(withheld.take(60, vec![(row("d"), 7, 1)]), [(row("d"), 7, 1)]);
        assert!(withheld.advance(Some(90), 9));
        assert_eq!(withheld.due(None), [], "the graph ends");
    }
}
