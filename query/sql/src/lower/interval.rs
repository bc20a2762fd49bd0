//! Conditions that say how far the two sides of a join may lie apart.
//!
//! Comparisons of sums and differences of one column of each side and constants are read as bounds of `right − left`. The
//! condition itself stays as it is and decides; the bounds only tell which pairs need not be looked at, so whatever is
//! not understood is left to it.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, IntervalUnit, Schema, TimeUnit};
use pyflare_dataflows::Expr;
use pyflare_dataflows::plan::{BinaryOp, Interval, JoinKind, Literal};

/// The narrowest bounds on both sides that a condition gives, if it gives any.
pub(super) fn of(kind: JoinKind, condition: &Expr, left: &Schema, right: &Schema) -> Option<Interval> {
    if matches!(kind, JoinKind::Full | JoinKind::NullAwareAnti) {
        return None;
    }
    let mut bounds: BTreeMap<(String, String), (i128, i128)> = BTreeMap::new();
    collect(condition, left, right, &mut bounds);
    let narrowest = bounds
        .into_iter()
        .filter(|(_, (lower, upper))| *lower > i128::MIN && *upper < i128::MAX && lower <= upper)
        .min_by_key(|(_, (lower, upper))| upper - lower);
    let ((left, right), (lower, upper)) = narrowest?;
    Some(Interval {
        left,
        right,
        lower: i64::try_from(lower).ok()?,
        upper: i64::try_from(upper).ok()?,
    })
}

type Bounds = BTreeMap<(String, String), (i128, i128)>;

fn collect(condition: &Expr, left: &Schema, right: &Schema, bounds: &mut Bounds) {
    let Expr::Binary {
        op,
        left: one,
        right: other,
    } = condition
    else {
        return;
    };
    if *op == BinaryOp::And {
        collect(one, left, right, bounds);
        collect(other, left, right, bounds);
        return;
    }
    let (one, other) = without_casts(one, other);
    let mut sum = Sum::default();
    if !matches!(
        op,
        BinaryOp::Eq | BinaryOp::Lt | BinaryOp::LtEq | BinaryOp::Gt | BinaryOp::GtEq
    ) || !sum.add(one, 1)
        || !sum.add(other, -1)
    {
        return;
    }
    // What is compared with zero is `right − left + constant`, or its negative.
    let [(first, first_sign), (second, second_sign)] = sum.columns.as_slice() else {
        return;
    };
    if first_sign + second_sign != 0 {
        return;
    }
    let (of_left, of_right, sign) = match (side(first, left), side(second, right)) {
        (Some(one), Some(other)) if one == other => (first, second, *second_sign),
        _ => match (side(second, left), side(first, right)) {
            (Some(one), Some(other)) if one == other => (second, first, *first_sign),
            _ => return,
        },
    };
    let constant = -sum.constant * i128::from(sign);
    let (lower, upper) = match (op, sign) {
        (BinaryOp::Eq, _) => (constant, constant),
        (BinaryOp::Lt, 1) | (BinaryOp::Gt, -1) => (i128::MIN, constant - 1),
        (BinaryOp::LtEq, 1) | (BinaryOp::GtEq, -1) => (i128::MIN, constant),
        (BinaryOp::Gt, 1) | (BinaryOp::Lt, -1) => (constant + 1, i128::MAX),
        _ => (constant, i128::MAX),
    };
    let known = bounds
        .entry((of_left.clone(), of_right.clone()))
        .or_insert((i128::MIN, i128::MAX));
    *known = (known.0.max(lower), known.1.min(upper));
}

/// A difference of times is compared as an interval, which is exact as long as the constant has neither days nor months:
/// then the difference itself.
fn without_casts<'a>(one: &'a Expr, other: &'a Expr) -> (&'a Expr, &'a Expr) {
    let is_short = |expr: &Expr| {
        let Expr::Literal(Literal::Interval { months, days, .. }) = expr else {
            return false;
        };
        (*months, *days) == (0, 0)
    };
    match (difference(one), difference(other)) {
        (Some(one), None) if is_short(other) => (one, other),
        (None, Some(other)) if is_short(one) => (one, other),
        _ => (one, other),
    }
}

/// What is cast to an interval.
fn difference(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Cast {
            expr,
            data_type,
            try_: false,
        } if data_type.parse::<DataType>().ok() == Some(DataType::Interval(IntervalUnit::MonthDayNano)) => {
            Some(expr)
        }
        _ => None,
    }
}

/// The type of a side's column, if it is one whose values are whole numbers of a unit.
fn side<'a>(name: &str, schema: &'a Schema) -> Option<&'a DataType> {
    let data_type = schema.field_with_name(name).ok()?.data_type();
    match data_type {
        DataType::Int64 => Some(data_type),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => Some(data_type),
        _ => None,
    }
}

/// Columns with their signs, and a constant: of times in microseconds.
#[derive(Default)]
struct Sum {
    columns: Vec<(String, i8)>,
    constant: i128,
}

impl Sum {
    /// Adds an expression, or its negative; says whether it was understood.
    fn add(&mut self, expr: &Expr, sign: i8) -> bool {
        match expr {
            Expr::Column(name) => {
                self.columns.push((name.clone(), sign));
                true
            }
            Expr::Literal(literal) => match whole(literal) {
                Some(constant) => {
                    self.constant += i128::from(constant) * i128::from(sign);
                    true
                }
                None => false,
            },
            Expr::Binary {
                op: op @ (BinaryOp::Plus | BinaryOp::Minus),
                left,
                right,
            } => {
                let of_right = if *op == BinaryOp::Plus { sign } else { -sign };
                self.add(left, sign) && self.add(right, of_right)
            }
            _ => false,
        }
    }
}

/// A constant distance.
fn whole(literal: &Literal) -> Option<i64> {
    match literal {
        Literal::Int64(value) => Some(*value),
        Literal::Interval {
            months: 0,
            days,
            nanoseconds,
        } if nanoseconds % 1_000 == 0 => {
            let days_us = i64::from(*days).checked_mul(86_400_000_000)?;
            days_us.checked_add(nanoseconds / 1_000)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::datatypes::Field;

    use super::*;

    fn column(name: &str) -> Expr {
        Expr::column(name)
    }

    fn seconds(seconds: i64) -> Expr {
        Expr::Literal(Literal::Interval {
            months: 0,
            days: 0,
            nanoseconds: seconds * 1_000_000_000,
        })
    }

    fn found(condition: &Expr) -> Option<(i64, i64)> {
        let side = |time: &str, number: &str, real: &str| {
            let time_type = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
            Schema::new(vec![
                Field::new(time, time_type, true),
                Field::new(number, DataType::Int64, true),
                Field::new(real, DataType::Float64, true),
            ])
        };
        let (left, right) = (side("a", "n", "x"), side("b", "m", "y"));
        of(JoinKind::Inner, condition, &left, &right).map(|found| (found.lower, found.upper))
    }

    #[test]
    fn bounds_are_read_in_any_form() {
        let between = |low: Expr, high: Expr| {
            let low = column("b").binary(BinaryOp::GtEq, low);
            low.and(column("b").binary(BinaryOp::Lt, high))
        };
        let later = column("a").binary(BinaryOp::Plus, seconds(5));
        let earlier = column("a").binary(BinaryOp::Minus, seconds(2));
        assert_eq!(found(&between(column("a"), later.clone())), Some((0, 4_999_999)));
        assert_eq!(
            found(&between(earlier.clone(), later.clone())),
            Some((-2_000_000, 4_999_999))
        );
        assert_eq!(found(&between(later, earlier)), None, "no pair fulfils it");
        let turned = column("a").binary(BinaryOp::LtEq, column("b")).and(
            column("b")
                .binary(BinaryOp::Minus, seconds(5))
                .binary(BinaryOp::Lt, column("a")),
        );
        assert_eq!(found(&turned), Some((0, 4_999_999)));
        let number = column("m").binary(BinaryOp::Minus, column("n"));
        let near = number
            .clone()
            .binary(BinaryOp::Gt, Expr::int64(-3))
            .and(Expr::int64(7).binary(BinaryOp::GtEq, number));
        assert_eq!(found(&near), Some((-2, 7)));
    }

    /// An interval of a day is more than one of 25 hours: they are compared part by part.
    #[test]
    fn differences_are_read_where_intervals_compare_as_times_do() {
        let difference = |low: Expr, high: Expr| {
            let difference = Expr::Cast {
                expr: Box::new(column("b").binary(BinaryOp::Minus, column("a"))),
                data_type: DataType::Interval(IntervalUnit::MonthDayNano).to_string(),
                try_: false,
            };
            let above = difference.clone().binary(BinaryOp::GtEq, low);
            above.and(high.binary(BinaryOp::Gt, difference))
        };
        assert_eq!(
            found(&difference(seconds(-2), seconds(3))),
            Some((-2_000_000, 2_999_999))
        );
        let day = Expr::Literal(Literal::Interval {
            months: 0,
            days: 1,
            nanoseconds: 0,
        });
        assert_eq!(found(&difference(seconds(0), day)), None);
    }

    #[test]
    fn what_is_not_understood_gives_no_bounds() {
        let month = Expr::Literal(Literal::Interval {
            months: 1,
            days: 0,
            nanoseconds: 0,
        });
        for (one, other) in [
            (column("b"), column("a").binary(BinaryOp::Plus, month)),
            (
                column("b"),
                column("a").binary(BinaryOp::Multiply, Expr::int64(2)),
            ),
            (column("y"), column("x")),
            (column("m"), column("m").binary(BinaryOp::Plus, Expr::int64(2))),
            (column("m").binary(BinaryOp::Plus, column("n")), Expr::int64(2)),
        ] {
            let both = one
                .clone()
                .binary(BinaryOp::GtEq, other.clone())
                .and(one.binary(BinaryOp::LtEq, other));
            assert_eq!(found(&both), None, "{both}");
        }
        let one_sided = column("b").binary(BinaryOp::GtEq, column("a"));
        assert_eq!(found(&one_sided), None);
    }
}
