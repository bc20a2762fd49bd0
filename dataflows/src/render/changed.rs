//! Which panes of an arrangement have changed since the last checkpoint that was taken.

use std::collections::BTreeSet;

/// More panes than this are not told apart: all have changed.
const MOST: usize = 1 << 16;

/// The ends of panes on one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChangedPanes {
    All,
    These(BTreeSet<i64>),
}

impl ChangedPanes {
    pub fn none() -> ChangedPanes {
        ChangedPanes::These(BTreeSet::new())
    }

    pub fn add(&mut self, end: i64) {
        if let ChangedPanes::These(ends) = self
            && ends.insert(end)
            && ends.len() > MOST
        {
            *self = ChangedPanes::All;
        }
    }

    /// Those so far; from here on none have.
    pub fn take(&mut self) -> ChangedPanes {
        std::mem::replace(self, ChangedPanes::none())
    }

    pub fn contains(&self, end: i64) -> bool {
        match self {
            ChangedPanes::All => true,
            ChangedPanes::These(ends) => ends.contains(&end),
        }
    }

    /// All of them lie after the first and not after the second.
    pub fn bounds(&self) -> Option<(i64, i64)> {
        match self {
            ChangedPanes::All => None,
            ChangedPanes::These(ends) => match (ends.first(), ends.last()) {
                (Some(first), Some(last)) => Some((first.saturating_sub(1), *last)),
                _ => Some((i64::MAX, i64::MAX)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_are_all() {
        let mut changed = ChangedPanes::none();
        assert!(!changed.contains(7));
        for end in 0..=MOST as i64 {
            assert_ne!(changed, ChangedPanes::All);
            changed.add(end);
        }
        assert_eq!(changed.take(), ChangedPanes::All);
        changed.add(3);
        changed.add(5);
        assert_eq!(
            (changed.contains(5), changed.contains(4), changed.bounds()),
            (true, false, Some((2, 5)))
        );
    }
}
