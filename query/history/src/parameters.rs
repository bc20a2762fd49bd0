//! Values for `$1`, `$2`, … from JSON, brought to the types that the query gives its parameters.

use arrow::datatypes::DataType;
use datafusion::common::ParamValues;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use serde_json::Value;

use crate::failure::{Kind, QueryError};

/// Puts the values in the plan's parameters.
pub fn bind(plan: LogicalPlan, values: &[Value]) -> Result<LogicalPlan, QueryError> {
    let wanted = plan
        .get_parameter_types()
        .map_err(|error| QueryError::planning(&error))?;
    if wanted.is_empty() && values.is_empty() {
        return Ok(plan);
    }
    for name in wanted.keys() {
        let position: usize = name.trim_start_matches('$').parse().map_err(|_| {
            QueryError::new(Kind::Parameters, format!("the parameter {name} is not numbered"))
                .with_hint("write $1, $2, …; the first value is $1")
        })?;
        if position == 0 || position > values.len() {
            return Err(QueryError::new(
                Kind::Parameters,
                format!("the query uses {name}, and {} values were given", values.len()),
            )
            .with_hint("give one value in \"params\" for each of $1, $2, …"));
        }
    }
    let mut scalars = Vec::with_capacity(values.len());
    for (position, value) in values.iter().enumerate() {
        let name = format!("${}", position + 1);
        let wanted = wanted.get(&name).and_then(Option::as_ref);
        scalars.push(scalar(value, wanted).map_err(|detail| {
            QueryError::new(
                Kind::Parameters,
                format!("the value of {name} cannot be used: {detail}"),
            )
        })?);
    }
    let values: ParamValues = scalars.into();
    plan.with_param_values(values)
        .map_err(|error| QueryError::planning(&error))
}

fn scalar(value: &Value, wanted: Option<&DataType>) -> Result<ScalarValue, String> {
    let natural = match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => ScalarValue::Int64(Some(integer)),
            None => ScalarValue::Float64(Some(number.as_f64().ok_or("the number is too large")?)),
        },
        Value::String(text) => ScalarValue::Utf8View(Some(text.clone())),
        Value::Array(elements) => {
            let element_type = match wanted {
                Some(DataType::List(element)) => Some(element.data_type()),
                _ => None,
            };
            let elements: Result<Vec<ScalarValue>, String> = elements
                .iter()
                .map(|element| scalar(element, element_type))
                .collect();
            let elements = elements?;
            let data_type = elements.first().map_or(DataType::Null, ScalarValue::data_type);
            if elements.iter().any(|element| element.data_type() != data_type) {
                return Err("the elements of a list must be of one type".to_owned());
            }
            ScalarValue::List(ScalarValue::new_list_nullable(&elements, &data_type))
        }
        Value::Object(_) => return Err("objects are not values of SQL; pass the text of the JSON".to_owned()),
    };
    match wanted {
        Some(wanted) if *wanted != natural.data_type() && *wanted != DataType::Null => {
            natural.cast_to(wanted).map_err(|error| error.strip_backtrace())
        }
        _ => Ok(natural),
    }
}
