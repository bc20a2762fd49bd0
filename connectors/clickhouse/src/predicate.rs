//! Conditions of a query that ClickHouse may decide, because they mean the same there.
//!
//! Only what is provably the same is translated: comparisons of a column with a literal of its own type, `IN`,
//! `BETWEEN`, `IS NULL`, and `AND`, `OR`, `NOT` over these (both sides know three truth values). Texts compare by bytes
//! on both sides; timestamps as microseconds, integers and decimals of one scale by value. **Floats are left out**:
//! DataFusion orders NaN and -0.0, ClickHouse does not.

use arrow::datatypes::{DataType, Schema};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};
use datafusion::scalar::ScalarValue;

use crate::syntax::{identifier, text};

/// More elements than this are not worth sending.
const LONGEST_LIST: usize = 1000;

/// The condition as ClickHouse's SQL; `None` if it is not known to mean the same there.
pub fn condition(expression: &Expr, schema: &Schema) -> Option<String> {
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => Some(format!(
                "({} AND {})",
                condition(left, schema)?,
                condition(right, schema)?
            )),
            Operator::Or => Some(format!(
                "({} OR {})",
                condition(left, schema)?,
                condition(right, schema)?
            )),
            _ => comparison(left, *op, right, schema),
        },
        Expr::Not(inner) => Some(format!("(NOT {})", condition(inner, schema)?)),
        Expr::IsNull(inner) => Some(format!("({} IS NULL)", scalar_column(inner, schema)?.0)),
        Expr::IsNotNull(inner) => Some(format!("({} IS NOT NULL)", scalar_column(inner, schema)?.0)),
        Expr::Column(_) => match scalar_column(expression, schema)? {
            (name, DataType::Boolean) => Some(name),
            _ => None,
        },
        Expr::Between(Between {
            expr,
            negated,
            low,
            high,
        }) => {
            let (name, data_type) = column(expr, schema)?;
            let (low, high) = (literal(low, data_type)?, literal(high, data_type)?);
            let not = if *negated { "NOT " } else { "" };
            Some(format!("({not}({name} >= {low} AND {name} <= {high}))"))
        }
        Expr::InList(InList { expr, list, negated }) if !list.is_empty() && list.len() <= LONGEST_LIST => {
            let (name, data_type) = column(expr, schema)?;
            let values: Option<Vec<String>> = list.iter().map(|value| literal(value, data_type)).collect();
            let not = if *negated { "NOT " } else { "" };
            Some(format!("({name} {not}IN ({}))", values?.join(", ")))
        }
        _ => None,
    }
}

fn comparison(left: &Expr, operator: Operator, right: &Expr, schema: &Schema) -> Option<String> {
    let sign = |operator| {
        Some(match operator {
            Operator::Eq => "=",
            Operator::NotEq => "<>",
            Operator::Lt => "<",
            Operator::LtEq => "<=",
            Operator::Gt => ">",
            Operator::GtEq => ">=",
            _ => return None,
        })
    };
    if let Some((name, data_type)) = column(left, schema) {
        return Some(format!(
            "({name} {} {})",
            sign(operator)?,
            literal(right, data_type)?
        ));
    }
    let (name, data_type) = column(right, schema)?;
    let turned = operator.swap()?;
    Some(format!(
        "({name} {} {})",
        sign(turned)?,
        literal(left, data_type)?
    ))
}

/// A column whose values ClickHouse compares as DataFusion does.
fn column<'a>(expression: &Expr, schema: &'a Schema) -> Option<(String, &'a DataType)> {
    let (name, data_type) = scalar_column(expression, schema)?;
    is_comparable(data_type).then_some((name, data_type))
}

/// Whether values of a type are equal, less and greater alike on both sides.
pub fn is_comparable(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8View
            | DataType::Boolean
            | DataType::Int32
            | DataType::Int64
            | DataType::Decimal128(_, _)
            | DataType::Timestamp(_, _)
    )
}

fn scalar_column<'a>(expression: &Expr, schema: &'a Schema) -> Option<(String, &'a DataType)> {
    let Expr::Column(column) = expression else {
        return None;
    };
    let data_type = schema.field_with_name(&column.name).ok()?.data_type();
    let is_nested = matches!(data_type, DataType::List(_) | DataType::Map(_, _));
    (!is_nested).then(|| (identifier(&column.name), data_type))
}

/// A literal of exactly the column's type.
fn literal(expression: &Expr, data_type: &DataType) -> Option<String> {
    let Expr::Literal(value, _) = expression else {
        return None;
    };
    Some(match (value, data_type) {
        (
            ScalarValue::Utf8(Some(value))
            | ScalarValue::Utf8View(Some(value))
            | ScalarValue::LargeUtf8(Some(value)),
            DataType::Utf8View,
        ) => text(value),
        (ScalarValue::Boolean(Some(value)), DataType::Boolean) => value.to_string(),
        (ScalarValue::Int32(Some(value)), DataType::Int32) => format!("toInt32({})", number(*value)),
        (ScalarValue::Int64(Some(value)), DataType::Int64) => format!("toInt64({})", number(*value)),
        (ScalarValue::Decimal128(Some(value), _, from), DataType::Decimal128(_, to)) if from == to => {
            let scale = usize::try_from(*to).ok()?;
            // As its digits: a decimal of 38 digits is not a number that SQL can spell without rounding.
            let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let sign = if *value < 0 { "-" } else { "" };
            format!("toDecimal128('{sign}{whole}.{fraction}', {scale})")
        }
        (ScalarValue::TimestampMicrosecond(Some(value), Some(_)), DataType::Timestamp(_, Some(_))) => {
            format!(
                "reinterpret(toInt64({}), 'DateTime64(6, \\'UTC\\')')",
                number(*value)
            )
        }
        _ => return None,
    })
}

/// The least number of each width is a text to ClickHouse, because it reads the sign apart from the digits.
fn number(value: impl std::fmt::Display) -> String {
    format!("'{value}'")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use datafusion::prelude::{col, lit};

    use super::*;
    use arrow::datatypes::{Field, TimeUnit};

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("name", DataType::Utf8View, true),
            Field::new("count", DataType::Int64, true),
            Field::new("ratio", DataType::Float64, true),
            Field::new("cost", DataType::Decimal128(38, 12), true),
            Field::new(
                "at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                true,
            ),
            Field::new(
                "labels",
                DataType::List(std::sync::Arc::new(Field::new("element", DataType::Utf8, true))),
                true,
            ),
        ])
    }

    #[test]
    fn what_means_the_same_is_translated() {
        let cost = lit(ScalarValue::Decimal128(Some(-1_500_000_000_000), 38, 12));
        let at = lit(ScalarValue::TimestampMicrosecond(Some(7), Some("UTC".into())));
        for (expression, sql) in [
            (col("name").eq(lit("it's")), "(`name` = 'it\\'s')"),
            (lit(5_i64).lt(col("count")), "(`count` > toInt64('5'))"),
            (
                col("cost").gt_eq(cost),
                "(`cost` >= toDecimal128('-1.500000000000', 12))",
            ),
            (
                col("at").lt(at),
                "(`at` < reinterpret(toInt64('7'), 'DateTime64(6, \\'UTC\\')'))",
            ),
            (
                col("name").is_null().or(col("count").eq(lit(1_i64))),
                "((`name` IS NULL) OR (`count` = toInt64('1')))",
            ),
            (
                col("name").in_list(vec![lit("a"), lit("b")], true),
                "(`name` NOT IN ('a', 'b'))",
            ),
            (col("ratio").is_not_null(), "(`ratio` IS NOT NULL)"),
        ] {
            assert_eq!(
                condition(&expression, &schema()).as_deref(),
                Some(sql),
                "{expression}"
            );
        }
    }

    #[test]
    fn what_may_differ_stays() {
        for expression in [
            col("ratio").gt(lit(0.0)),
            col("name").eq(lit(5_i64)),
            col("count").eq(lit(ScalarValue::Int64(None))),
            col("labels").is_null(),
            col("name").like(lit("a%")),
            col("name").eq(lit("a")).or(col("ratio").eq(lit(1.0))),
            col("name").in_list(vec![lit("a"), lit(ScalarValue::Utf8(None))], false),
        ] {
            assert_eq!(condition(&expression, &schema()), None, "{expression}");
        }
    }
}
