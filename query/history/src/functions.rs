//! SQL functions that ad-hoc queries have in a version of their own.
//!
//! `now()` is the query's tick, in microseconds UTC like every time of the contract: DataFusion's own counts
//! nanoseconds, which would cast the column it is compared with and hide it from file statistics.
//!
//! Functions whose result can be much larger than their arguments check its size first. DataFusion folds constants
//! while it plans, outside of the memory limit: `repeat('x', 500000000)` took 27 s and 2.1 GB there.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::failure::{Kind, QueryError};

/// The most that one call may produce for one batch.
const LARGEST_RESULT: u64 = 64 * 1024 * 1024;

/// `now()` at a tick.
pub fn now(tick: u64) -> ScalarUDF {
    ScalarUDF::new_from_impl(Now {
        signature: Signature::nullary(Volatility::Stable),
        aliases: vec!["current_timestamp".to_owned()],
        micros: i64::try_from(tick).unwrap_or(i64::MAX).saturating_mul(1000),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    signature: Signature,
    aliases: Vec<String>,
    micros: i64,
}

impl Now {
    fn value(&self) -> ScalarValue {
        ScalarValue::TimestampMicrosecond(Some(self.micros), Some("UTC".into()))
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new("now", self.return_type(&[])?, false)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value()))
    }

    fn simplify(&self, _: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(self.value(), None)))
    }
}

/// The functions that may grow, each with the bound that is checked before it runs.
pub fn capped(known: impl Fn(&str) -> Option<Arc<ScalarUDF>>) -> Vec<Arc<ScalarUDF>> {
    let growing: [(&str, Growth); 11] = [
        ("repeat", Growth::Times),
        ("lpad", Growth::Length),
        ("rpad", Growth::Length),
        ("array_repeat", Growth::Elements),
        ("array_resize", Growth::Length),
        ("range", Growth::Range),
        ("generate_series", Growth::Range),
        ("replace", Growth::Replacement),
        ("regexp_replace", Growth::Replacement),
        ("concat", Growth::Sum),
        ("concat_ws", Growth::Sum),
    ];
    let cap = |(name, growth)| {
        let inner = known(name)?;
        Some(Arc::new(ScalarUDF::new_from_impl(Capped { inner, growth })))
    };
    growing.into_iter().filter_map(cap).collect()
}

/// How the size of a result follows from the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// Text × count.
    Times,
    /// A length in characters or elements, the second argument.
    Length,
    /// Element, count.
    Elements,
    /// Start, stop, step.
    Range,
    /// Text, pattern, replacement.
    Replacement,
    /// All arguments in a row.
    Sum,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Capped {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl Capped {
    /// An upper bound of the bytes that a call produces.
    fn bound(&self, args: &ScalarFunctionArgs) -> u64 {
        let rows = args.number_rows.max(1);
        let argument = |position: usize| args.args.get(position);
        match self.growth {
            Growth::Times | Growth::Elements => {
                // The result is as large as the sum over rows; a scalar stands in every row.
                let text = |value: &ColumnarValue, row| {
                    if self.growth == Growth::Elements {
                        element_bytes(value)
                    } else {
                        text_bytes(value, row)
                    }
                };
                let count = |value: &ColumnarValue, row| integer(value, row).unwrap_or(0).max(0) as u64;
                match (argument(0), argument(1)) {
                    (Some(what), Some(times)) if scalar(what) && scalar(times) => {
                        text(what, 0).saturating_mul(count(times, 0))
                    }
                    (Some(what), Some(times)) => (0..rows).fold(0, |sum, row| {
                        u64::saturating_add(sum, text(what, row).saturating_mul(count(times, row)))
                    }),
                    _ => 0,
                }
            }
            Growth::Length => match argument(1) {
                Some(length) if scalar(length) && args.args.iter().all(scalar) => {
                    integer(length, 0).unwrap_or(0).max(0) as u64
                }
                Some(length) => (0..rows).fold(0, |sum, row| {
                    u64::saturating_add(sum, integer(length, row).unwrap_or(0).max(0) as u64)
                }),
                None => 0,
            },
            Growth::Range => {
                let (start, stop) = match args.args.len() {
                    1 => (None, argument(0)),
                    _ => (argument(0), argument(1)),
                };
                let step = argument(2);
                let all_scalar = args.args.iter().all(scalar);
                (0..if all_scalar { 1 } else { rows }).fold(0, |sum, row| {
                    let read = |value: Option<&ColumnarValue>| value.and_then(|value| span(value, row));
                    let width = i128::from(read(stop).unwrap_or(0)) - i128::from(read(start).unwrap_or(0));
                    let step = i128::from(read(step).unwrap_or(1)).unsigned_abs().max(1);
                    let elements = u64::try_from(width.unsigned_abs() / step).unwrap_or(u64::MAX);
                    u64::saturating_add(sum, elements.saturating_add(1).saturating_mul(8))
                })
            }
            Growth::Replacement => match (argument(0), argument(2)) {
                (Some(text), Some(replacement)) => {
                    let all_scalar = args.args.iter().all(scalar);
                    (0..if all_scalar { 1 } else { rows }).fold(0, |sum, row| {
                        let pattern = argument(1).map_or(0, |pattern| text_bytes(pattern, row));
                        // A regular expression may match one byte, and its replacement may repeat the match.
                        let shortest = if self.inner.name() == "replace" {
                            pattern.max(1)
                        } else {
                            1
                        };
                        let length = text_bytes(text, row);
                        let matches = length / shortest + 1;
                        u64::saturating_add(
                            sum,
                            length + matches.saturating_mul(text_bytes(replacement, row)),
                        )
                    })
                }
                _ => 0,
            },
            Growth::Sum => {
                if args.args.iter().all(scalar) {
                    return args.args.iter().map(|value| text_bytes(value, 0)).sum();
                }
                let of_scalar = |value: &ColumnarValue| text_bytes(value, 0).saturating_mul(rows as u64);
                let total = |value: &ColumnarValue| match value {
                    ColumnarValue::Array(array) => array.get_array_memory_size() as u64,
                    ColumnarValue::Scalar(_) => of_scalar(value),
                };
                args.args.iter().map(total).fold(0, u64::saturating_add)
            }
        }
    }
}

impl ScalarUDFImpl for Capped {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bound = self.bound(&args);
        // A sum of columns is never larger than what is in memory already, times two; only literals are bounded.
        let limit = match self.growth {
            Growth::Sum | Growth::Replacement if !args.args.iter().all(scalar) => LARGEST_RESULT * 16,
            _ => LARGEST_RESULT,
        };
        if bound > limit {
            let error = QueryError::new(
                Kind::Literal,
                format!(
                    "{}() would produce up to {bound} bytes, more than the {limit} that one call may",
                    self.name()
                ),
            )
            .with_hint("make the text, the count or the range smaller");
            return Err(DataFusionError::External(Box::new(error)));
        }
        self.inner.invoke_with_args(args)
    }
}

fn scalar(value: &ColumnarValue) -> bool {
    matches!(value, ColumnarValue::Scalar(_))
}

fn text_bytes(value: &ColumnarValue, row: usize) -> u64 {
    let length = match value {
        ColumnarValue::Scalar(scalar) => match scalar.try_as_str() {
            Some(text) => text.map_or(0, str::len),
            None => scalar.size(),
        },
        ColumnarValue::Array(array) => match array.data_type() {
            _ if row >= array.len() || array.is_null(row) => 0,
            DataType::Utf8 => array.as_string::<i32>().value(row).len(),
            DataType::LargeUtf8 => array.as_string::<i64>().value(row).len(),
            DataType::Utf8View => array.as_string_view().value(row).len(),
            _ => 16,
        },
    };
    length as u64
}

/// The size of the element that `array_repeat` repeats.
fn element_bytes(value: &ColumnarValue) -> u64 {
    match value {
        ColumnarValue::Scalar(scalar) => scalar.size() as u64,
        ColumnarValue::Array(array) => {
            (array.get_array_memory_size() / array.len().max(1)).clamp(1, 4096) as u64
        }
    }
}

fn integer(value: &ColumnarValue, row: usize) -> Option<i64> {
    match value {
        ColumnarValue::Scalar(scalar) => match scalar.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(value) => value,
            _ => None,
        },
        ColumnarValue::Array(array) => {
            let integers: ArrayRef = match array.data_type() {
                DataType::Int64 => Arc::clone(array),
                _ => cast(
                    &array.slice(row.min(array.len()), usize::from(row < array.len())),
                    &DataType::Int64,
                )
                .ok()?,
            };
            let row = if array.data_type() == &DataType::Int64 {
                row
            } else {
                0
            };
            let integers = integers.as_primitive::<Int64Type>();
            (row < integers.len() && integers.is_valid(row)).then(|| integers.value(row))
        }
    }
}

/// A bound or a step of a range as a number: integers as they are, times and intervals in nanoseconds.
fn span(value: &ColumnarValue, row: usize) -> Option<i64> {
    const DAY: i64 = 86_400_000_000_000;
    let scalar = match value {
        ColumnarValue::Scalar(scalar) => scalar.clone(),
        ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row).ok()?,
    };
    match &scalar {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => Some(
            (i64::from(interval.months) * 30 * DAY)
                .saturating_add(i64::from(interval.days) * DAY)
                .saturating_add(interval.nanoseconds),
        ),
        ScalarValue::IntervalDayTime(Some(interval)) => Some(
            (i64::from(interval.days) * DAY).saturating_add(i64::from(interval.milliseconds) * 1_000_000),
        ),
        ScalarValue::IntervalYearMonth(Some(months)) => Some(i64::from(*months) * 30 * DAY),
        ScalarValue::Date32(Some(days)) => Some(i64::from(*days).saturating_mul(DAY)),
        ScalarValue::TimestampSecond(Some(value), _) => Some(value.saturating_mul(1_000_000_000)),
        ScalarValue::TimestampMillisecond(Some(value), _) => Some(value.saturating_mul(1_000_000)),
        ScalarValue::TimestampMicrosecond(Some(value), _) => Some(value.saturating_mul(1_000)),
        ScalarValue::TimestampNanosecond(Some(value), _) => Some(*value),
        _ => integer(value, row),
    }
}
