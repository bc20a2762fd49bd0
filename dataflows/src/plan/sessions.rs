//! Sessions and intervals: nodes that compute with times, checked and typed.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::schema::expression_field;
use super::{Aggregate, Interval, JoinKind, NamedExpr, PlanError, WINDOW_END, WINDOW_START};

/// Sessions end at every multiple of this.
pub const DAY_US: i64 = 86_400 * 1_000_000;

/// The columns of sessions over rows of `input`; `time_and_gap` is the column of the time, and the gap.
pub(super) fn sessions_schema(
    input: &Schema,
    keys: &[NamedExpr],
    (time, gap_us): (&str, i64),
    aggregates: &[Aggregate],
) -> Result<SchemaRef, PlanError> {
    if !(1..=DAY_US).contains(&gap_us) {
        return Err(PlanError::Unsupported {
            detail: format!("sessions with a gap of {gap_us} microseconds"),
        });
    }
    let window = time_type();
    if *column(input, time)?.data_type() != window {
        return Err(PlanError::Unsupported {
            detail: format!("sessions by {time}, which is not a timestamp"),
        });
    }
    let mut fields = Vec::with_capacity(keys.len() + aggregates.len() + 2);
    for key in keys {
        fields.push(expression_field(&key.name, &key.expr, input)?);
    }
    fields.push(Field::new(WINDOW_START, window.clone(), false));
    fields.push(Field::new(WINDOW_END, window, false));
    for aggregate in aggregates {
        fields.push(aggregate.field(input)?);
    }
    Ok(Arc::new(Schema::new(fields)))
}

impl Interval {
    /// `decided` says that the join has a condition which decides about pairs.
    pub(super) fn check(
        &self,
        kind: JoinKind,
        decided: bool,
        left: &Schema,
        right: &Schema,
    ) -> Result<(), PlanError> {
        let unsupported = |detail: String| Err(PlanError::Unsupported { detail });
        if !decided {
            return unsupported("an interval without a condition".into());
        }
        if matches!(kind, JoinKind::Full | JoinKind::NullAwareAnti) {
            return unsupported("an interval in a full join or in NOT IN".into());
        }
        let left_type = column(left, &self.left)?.data_type();
        let right_type = column(right, &self.right)?.data_type();
        if left_type != right_type || ![time_type(), DataType::Int64].contains(left_type) {
            return unsupported(format!("an interval between {left_type} and {right_type}"));
        }
        if self.lower > self.upper {
            return unsupported("an interval that no two values fulfil".into());
        }
        Ok(())
    }
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn column<'a>(schema: &'a Schema, name: &str) -> Result<&'a Field, PlanError> {
    schema
        .field_with_name(name)
        .map_err(|_| PlanError::UnknownColumn {
            name: name.to_string(),
            available: schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
}
