//! `now()` in a monitor: a symbol, and the conditions in which it has a meaning.
//!
//! The function cannot be evaluated, so that no rule folds it; it is there after optimizing as it was written. What is
//! understood then are conjuncts that compare a column with `now()` at a constant distance, in any arrangement of the
//! terms. To the microsecond: `time > now − 5 min` and `time >= now − 5 min` are two conditions.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef, IntervalMonthDayNano, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr as logical;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use crate::error::{SqlError, SqlErrorKind};
use crate::options::spoken;

pub(crate) const NAME: &str = "now";
const ALIAS: &str = "current_timestamp";
const FURTHEST_US: i64 = 366 * 86_400 * 1_000_000;
const HINT: &str = "write WHERE event_time > now() - INTERVAL '5 minutes'; of windows, and of whatever else a view shows, \
                    WITH (retention = '1 hour') says how long it stays";

/// The symbol, under its names.
pub(crate) fn function(name: &str) -> Option<Arc<ScalarUDF>> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(Now {
            signature: Signature::nullary(Volatility::Stable),
            aliases: vec![ALIAS.to_string()],
        }))
    });
    [NAME, ALIAS].contains(&name).then(|| Arc::clone(&FUNCTION))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        NAME
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        Ok(Arc::new(Field::new(NAME, self.return_type(&[])?, false)))
    }

    /// Fails, so that it is never folded into a constant.
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Err(misplaced().into())
    }
}

/// A condition on a column: `column > now − distance`, or `column ≤ now − distance`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bound {
    pub column: Column,
    pub is_lower: bool,
    pub distance_us: i64,
}

/// Reads a conjunct that speaks of `now()`; `None` if it does not.
pub(crate) fn bounds(conjunct: &Expr) -> Result<Option<Vec<Bound>>, SqlError> {
    if !mentions(conjunct) {
        return Ok(None);
    }
    match conjunct {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => Ok(Some(vec![comparison(left, *op, right)?])),
        Expr::Between(between) if !between.negated => {
            let mut both = Vec::new();
            for (op, limit) in [(Operator::GtEq, &between.low), (Operator::LtEq, &between.high)] {
                both.push(comparison(&between.expr, op, limit)?);
            }
            Ok(Some(both))
        }
        _ => Err(misplaced()),
    }
}

pub(crate) fn mentions(expr: &Expr) -> bool {
    let is_now = |expr: &Expr| matches!(expr, Expr::ScalarFunction(call) if call.func.name() == NAME);
    datafusion::common::tree_node::TreeNode::exists(expr, |expr| Ok(is_now(expr))).unwrap_or(true)
}

/// Why it cannot stand where it stands.
pub(crate) fn misplaced() -> SqlError {
    refused(
        "now() stands in WHERE only, where the event time of a stream is compared with it at a constant distance",
    )
}

pub(crate) fn refused(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlErrorKind::Volatile, message).hint(HINT)
}

/// `columns + now · n + constant`, in microseconds.
#[derive(Default)]
struct Sum {
    column: Option<(Column, i64)>,
    nows: i64,
    constant_us: i64,
}

impl Sum {
    fn add(self, other: Sum, sign: i64) -> Result<Sum, SqlError> {
        let too_far = || refused("now() is compared at too great a distance");
        let column = match (self.column, other.column) {
            (column, None) => column,
            (None, Some((column, times))) => Some((column, sign * times)),
            (Some((one, times)), Some((other, others))) if one == other => Some((one, times + sign * others)),
            (Some(_), Some(_)) => return Err(misplaced()),
        };
        Ok(Sum {
            column,
            nows: self.nows + sign * other.nows,
            constant_us: sign
                .checked_mul(other.constant_us)
                .and_then(|other| self.constant_us.checked_add(other))
                .ok_or_else(too_far)?,
        })
    }
}

fn comparison(left: &Expr, op: Operator, right: &Expr) -> Result<Bound, SqlError> {
    let Sum {
        column,
        nows,
        constant_us,
    } = sum(left)?.add(sum(right)?, -1)?;
    // column − now + constant ⋚ 0, or its negation.
    let (column, op, constant_us) = match (column, nows) {
        (Some((column, 1)), -1) => (column, op, constant_us),
        (Some((column, -1)), 1) => (column, op.swap().ok_or_else(misplaced)?, -constant_us),
        _ => return Err(misplaced()),
    };
    let (is_lower, distance_us) = match op {
        Operator::Gt => (true, constant_us),
        Operator::GtEq => (true, constant_us + 1),
        Operator::LtEq => (false, constant_us),
        Operator::Lt => (false, constant_us + 1),
        _ => return Err(misplaced()),
    };
    if !(-FURTHEST_US..=FURTHEST_US + 1).contains(&distance_us) {
        return Err(refused(format!(
            "now() is compared at a distance of at most {}",
            spoken(FURTHEST_US)
        )));
    }
    Ok(Bound {
        column,
        is_lower,
        distance_us,
    })
}

fn sum(expr: &Expr) -> Result<Sum, SqlError> {
    match expr {
        Expr::Alias(alias) => sum(&alias.expr),
        Expr::Cast(logical::Cast { expr: inner, field }) if keeps_time(field.data_type()) => sum(inner),
        Expr::Column(column) => Ok(Sum {
            column: Some((column.clone(), 1)),
            ..Sum::default()
        }),
        Expr::ScalarFunction(call) if call.func.name() == NAME => Ok(Sum {
            nows: 1,
            ..Sum::default()
        }),
        Expr::Literal(value, _) => Ok(Sum {
            constant_us: distance_us(value)?,
            ..Sum::default()
        }),
        Expr::Negative(inner) => Sum::default().add(sum(inner)?, -1),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Plus,
            right,
        }) => sum(left)?.add(sum(right)?, 1),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Minus,
            right,
        }) => sum(left)?.add(sum(right)?, -1),
        _ => Err(misplaced()),
    }
}

/// Types between which the planner casts when times and distances meet, and which lose nothing.
fn keeps_time(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, Some(_))
            | DataType::Duration(TimeUnit::Microsecond | TimeUnit::Nanosecond)
            | DataType::Interval(_)
    )
}

fn distance_us(value: &ScalarValue) -> Result<i64, SqlError> {
    let whole = |nanoseconds: i64| match nanoseconds % 1_000 {
        0 => Ok(nanoseconds / 1_000),
        _ => Err(refused(
            "the distance from now() is a whole number of microseconds",
        )),
    };
    match value {
        ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano {
            months: 0,
            days,
            nanoseconds,
        })) => Ok(i64::from(*days) * 86_400_000_000 + whole(*nanoseconds)?),
        ScalarValue::IntervalMonthDayNano(Some(_)) => Err(refused(
            "months and years differ in length and cannot be a distance from now()",
        )),
        ScalarValue::IntervalDayTime(Some(interval)) => {
            Ok(i64::from(interval.days) * 86_400_000_000 + i64::from(interval.milliseconds) * 1_000)
        }
        ScalarValue::DurationMicrosecond(Some(duration)) => Ok(*duration),
        ScalarValue::DurationNanosecond(Some(duration)) => whole(*duration),
        _ => Err(misplaced()),
    }
}
