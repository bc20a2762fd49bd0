//! Constants in expressions, in a form that does not depend on how Arrow stores them.
//!
//! Text is text whether Arrow holds it as `Utf8` or `Utf8View`; NaN and zero have one bit pattern; values beyond
//! the usual types travel as text together with their type. A literal that would not come back as it was is not
//! made at all ([`Literal::from_scalar`] gives `None`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano};
use datafusion::scalar::ScalarValue;
use serde::{Deserialize, Serialize};

/// A constant with its type.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Literal {
    /// NULL of a type.
    Null(String),
    Boolean(bool),
    Int64(i64),
    /// Written as text in JSON, because JSON has no NaN and no infinity.
    Float64(#[serde(with = "float_as_text")] f64),
    Text(String),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    Interval {
        months: i32,
        days: i32,
        nanoseconds: i64,
    },
    /// Anything else: its type and its value as Arrow's cast to text writes it.
    Other {
        data_type: String,
        value: String,
    },
}

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Literal::Null(left), Literal::Null(right)) | (Literal::Text(left), Literal::Text(right)) => {
                left == right
            }
            (Literal::Boolean(left), Literal::Boolean(right)) => left == right,
            (Literal::Int64(left), Literal::Int64(right))
            | (Literal::Timestamp(left), Literal::Timestamp(right)) => left == right,
            (Literal::Float64(left), Literal::Float64(right)) => left.to_bits() == right.to_bits(),
            (
                Literal::Interval {
                    months,
                    days,
                    nanoseconds,
                },
                Literal::Interval {
                    months: other_months,
                    days: other_days,
                    nanoseconds: other_nanoseconds,
                },
            ) => months == other_months && days == other_days && nanoseconds == other_nanoseconds,
            (
                Literal::Other { data_type, value },
                Literal::Other {
                    data_type: other_type,
                    value: other_value,
                },
            ) => data_type == other_type && value == other_value,
            _ => false,
        }
    }
}

impl Literal {
    /// A float constant: every NaN is the same one.
    pub fn float64(value: f64) -> Self {
        Literal::Float64(if value.is_nan() { f64::NAN } else { value })
    }

    /// The constant that `scalar` is; `None` for types that have no exact text form (lists, structs, binary).
    pub fn from_scalar(scalar: &ScalarValue) -> Option<Self> {
        if scalar.is_null() {
            let data_type = normalised(scalar.data_type()).to_string();
            DataType::from_str(&data_type).ok()?;
            return Some(Literal::Null(data_type));
        }
        let literal = match scalar {
            ScalarValue::Boolean(Some(value)) => Literal::Boolean(*value),
            ScalarValue::Int64(Some(value)) => Literal::Int64(*value),
            ScalarValue::Float64(Some(value)) => Literal::float64(*value),
            ScalarValue::Utf8(Some(text))
            | ScalarValue::Utf8View(Some(text))
            | ScalarValue::LargeUtf8(Some(text)) => Literal::Text(text.clone()),
            ScalarValue::TimestampMicrosecond(Some(value), Some(zone)) if zone.as_ref() == "UTC" => {
                Literal::Timestamp(*value)
            }
            ScalarValue::IntervalMonthDayNano(Some(value)) => Literal::Interval {
                months: value.months,
                days: value.days,
                nanoseconds: value.nanoseconds,
            },
            other => {
                let literal = match other.cast_to(&DataType::Utf8).ok()? {
                    ScalarValue::Utf8(Some(value)) => Literal::Other {
                        data_type: other.data_type().to_string(),
                        value,
                    },
                    _ => return None,
                };
                if &literal.to_scalar()? != other {
                    return None;
                }
                literal
            }
        };
        Some(literal)
    }

    /// The value for DataFusion; `None` if the type or the text cannot be read.
    pub fn to_scalar(&self) -> Option<ScalarValue> {
        Some(match self {
            Literal::Null(data_type) => {
                ScalarValue::try_new_null(&DataType::from_str(data_type).ok()?).ok()?
            }
            Literal::Boolean(value) => ScalarValue::Boolean(Some(*value)),
            Literal::Int64(value) => ScalarValue::Int64(Some(*value)),
            Literal::Float64(value) => ScalarValue::Float64(Some(*value)),
            Literal::Text(text) => ScalarValue::Utf8(Some(text.clone())),
            Literal::Timestamp(value) => {
                ScalarValue::TimestampMicrosecond(Some(*value), Some(Arc::from("UTC")))
            }
            Literal::Interval {
                months,
                days,
                nanoseconds,
            } => ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(
                *months,
                *days,
                *nanoseconds,
            ))),
            Literal::Other { data_type, value } => {
                ScalarValue::try_from_string(value.clone(), &DataType::from_str(data_type).ok()?).ok()?
            }
        })
    }
}

/// The type under which NULLs of all text types are the same literal.
fn normalised(data_type: DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        other => other,
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Null(_) => out.write_str("NULL"),
            Literal::Boolean(value) => write!(out, "{value}"),
            Literal::Int64(value) => write!(out, "{value}"),
            Literal::Float64(value) => write!(out, "{value:?}"),
            Literal::Text(text) => write!(out, "'{}'", text.replace('\'', "''")),
            Literal::Timestamp(_) => match self
                .to_scalar()
                .and_then(|scalar| scalar.cast_to(&DataType::Utf8).ok())
            {
                Some(ScalarValue::Utf8(Some(text))) => write!(out, "TIMESTAMP '{text}'"),
                _ => out.write_str("TIMESTAMP"),
            },
            Literal::Interval {
                months,
                days,
                nanoseconds,
            } => {
                write!(
                    out,
                    "INTERVAL '{months} months {days} days {nanoseconds} nanoseconds'"
                )
            }
            Literal::Other { data_type, value } => write!(out, "{data_type} '{}'", value.replace('\'', "''")),
        }
    }
}

mod float_as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:?}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|_| de::Error::custom(format!("{text:?} is not a float")))
    }
}
