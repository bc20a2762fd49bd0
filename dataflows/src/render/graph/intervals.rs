//! Joins of rows that lie close together: a further key that only such rows have in common.
//!
//! Values are cut into buckets of the interval's width. The side whose rows are kept without a partner has one key a row,
//! the other side one for each bucket that a partner could be in, which are two. So a pair meets in exactly one bucket.
//! Whether it is one is decided afterwards, by the join's condition.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema, TimestampMicrosecondType};

use crate::plan::{Interval, JoinKind, PlanError};

/// The buckets of both sides.
pub(crate) struct Buckets {
    pub left: Placing,
    pub right: Placing,
}

/// In which buckets the rows of one side are.
#[derive(Clone)]
pub(crate) struct Placing {
    column: usize,
    /// The least and the greatest distance from a row's value to that of a partner; `None`: the row itself is placed.
    reach: Option<(i128, i128)>,
    width: i64,
}

impl Buckets {
    pub fn compile(
        interval: &Interval,
        kind: JoinKind,
        left: &Schema,
        right: &Schema,
    ) -> Result<Buckets, PlanError> {
        let place = |schema: &Schema, name: &str| {
            schema.index_of(name).map_err(|_| PlanError::Unsupported {
                detail: format!("an interval of {name}, which is not a column of its side"),
            })
        };
        // lower ≤ right − left ≤ upper.
        let (lower, upper) = (i128::from(interval.lower), i128::from(interval.upper));
        let (of_left, of_right) = match kind {
            JoinKind::Right => (Some((lower, upper)), None),
            _ => (None, Some((-upper, -lower))),
        };
        let placing = |column, reach| Placing {
            column,
            reach,
            width: interval.width(),
        };
        Ok(Buckets {
            left: placing(place(left, &interval.left)?, of_left),
            right: placing(place(right, &interval.right)?, of_right),
        })
    }
}

impl Placing {
    /// The value of each row, as far as it has one.
    pub fn values<'a>(&self, batch: &'a RecordBatch) -> Vec<Option<i64>> {
        let column: &'a dyn Array = batch.column(self.column).as_ref();
        match column.data_type() {
            DataType::Int64 => column.as_primitive::<Int64Type>().iter().collect(),
            _ => column.as_primitive::<TimestampMicrosecondType>().iter().collect(),
        }
    }

    /// The buckets of a value. Where arithmetic would leave the numbers there are, so would every partner.
    pub fn of(&self, value: i64) -> impl Iterator<Item = i64> {
        let width = i128::from(self.width);
        let bucket = |distance: i128| (i128::from(value) + distance).div_euclid(width);
        let (from, to) = self.reach.unwrap_or((0, 0));
        (bucket(from)..=bucket(to)).filter_map(|bucket| i64::try_from(bucket).ok())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::datatypes::Field;

    use super::*;

    /// Partners meet in exactly one bucket, also at the ends of the numbers, and nobody is in more than two if the width is a
    /// number.
    #[test]
    fn whoever_is_near_enough_meets_once() {
        let schema = |name: &str| Schema::new(vec![Field::new(name, DataType::Int64, true)]);
        let ends = [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX];
        let near: Vec<i64> = (-25..25).collect();
        let intervals = [(0, 5), (-3, 3), (4, 4), (-9, -2), (0, 0), (7, 30)];
        let wide = [
            (i64::MIN, i64::MAX),
            (0, i64::MAX),
            (i64::MIN, -1),
            (i64::MAX, i64::MAX),
        ];
        for (lower, upper) in intervals.into_iter().chain(wide) {
            for kind in [JoinKind::Inner, JoinKind::Right] {
                let interval = Interval {
                    left: "a".into(),
                    right: "b".into(),
                    lower,
                    upper,
                };
                let buckets = Buckets::compile(&interval, kind, &schema("a"), &schema("b")).unwrap();
                // An interval that is wider than the greatest number is cut more often.
                let fits = i128::from(upper) - i128::from(lower) <= i128::from(i64::MAX);
                let most = if fits { 2 } else { 4 };
                let values: Vec<i64> = near.iter().chain(&ends).copied().collect();
                for left in &values {
                    for right in &values {
                        let of_left: Vec<i64> = buckets.left.of(*left).collect();
                        let of_right: Vec<i64> = buckets.right.of(*right).collect();
                        assert!(of_left.len() <= most && of_right.len() <= most, "{interval:?}");
                        let single = if kind == JoinKind::Right {
                            &of_right
                        } else {
                            &of_left
                        };
                        assert_eq!(single.len(), 1);
                        let distance = i128::from(*right) - i128::from(*left);
                        let is_near = (i128::from(lower)..=i128::from(upper)).contains(&distance);
                        let met = of_left.iter().filter(|bucket| of_right.contains(bucket)).count();
                        assert!(
                            met == 1 || (met == 0 && !is_near),
                            "{left} and {right}: {interval:?}"
                        );
                    }
                }
            }
        }
    }
}
