//! Aggregate functions: DataFusion's calls become ours, or counts from which they are computed.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr as Logical;
use datafusion::logical_expr::expr::{
    AggregateFunction as LogicalAggregate, AggregateFunctionParams, NullTreatment,
};
use pyflare_dataflows::plan::{BinaryOp, Branch, Literal, OrderKey, Relationship, Spread};
use pyflare_dataflows::{Aggregate, AggregateFunction, Expr, NamedExpr};

use super::expression::Scope;
use super::order::order_keys;
use crate::error::{SqlError, SqlErrorKind};

/// `bool_and(x)` and `bool_or(x)`: how often x is known, and how often it decides.
pub(super) struct Truth {
    all: bool,
    argument: Expr,
    filter: Option<Expr>,
}

pub(super) fn truth(expr: &Logical, scope: &Scope<'_>) -> Result<Option<Truth>, SqlError> {
    let function = match expr {
        Logical::Alias(alias) => return truth(&alias.expr, scope),
        Logical::AggregateFunction(function) => function,
        _ => return Ok(None),
    };
    let all = match function.func.name() {
        "bool_and" => true,
        "bool_or" => false,
        _ => return Ok(None),
    };
    let (Some(argument), filter) = (function.params.args.first(), &function.params.filter) else {
        return Ok(None);
    };
    Ok(Some(Truth {
        all,
        argument: scope.lower(argument)?,
        filter: filter.as_deref().map(|filter| scope.lower(filter)).transpose()?,
    }))
}

impl Truth {
    /// The count of known values, and that of values that decide: one false for all, one true for any.
    pub fn counts(self, known: String, decided: String) -> [Aggregate; 2] {
        let argument = Box::new(self.argument.clone());
        let decides = match self.all {
            true => Expr::IsFalse(argument),
            false => Expr::IsTrue(argument),
        };
        let decides = match &self.filter {
            Some(filter) => filter.clone().and(decides),
            None => decides,
        };
        let count = |name: String, argument: Option<Expr>, filter: Option<Expr>| Aggregate {
            name,
            function: AggregateFunction::Count,
            argument,
            second: None,
            order: Vec::new(),
            filter,
        };
        [
            count(known, Some(self.argument), self.filter),
            count(decided, None, Some(decides)),
        ]
    }

    pub fn shown(&self, name: String, known: &str, decided: &str) -> NamedExpr {
        let zero = || Expr::Literal(Literal::Int64(0));
        let op = if self.all { BinaryOp::Eq } else { BinaryOp::Gt };
        let expr = Expr::Case {
            operand: None,
            branches: vec![Branch {
                when: Expr::column(known).binary(BinaryOp::Gt, zero()),
                then: Expr::column(decided).binary(op, zero()),
            }],
            otherwise: None,
        };
        NamedExpr { name, expr }
    }
}

/// One aggregate of the SELECT list.
pub(super) fn aggregate_column(
    name: String,
    expr: &Logical,
    scope: &Scope<'_>,
) -> Result<Aggregate, SqlError> {
    let LogicalAggregate { func, params } = match expr {
        Logical::Alias(alias) => return aggregate_column(name, &alias.expr, scope),
        Logical::AggregateFunction(function) => function,
        other => {
            return Err(SqlError::new(
                SqlErrorKind::Aggregate,
                format!("{other} is not an aggregate"),
            ));
        }
    };
    let refused = |message: String| SqlError::new(SqlErrorKind::Aggregate, message);
    // min(DISTINCT x) is min(x).
    if params.distinct && !matches!(func.name(), "min" | "max" | "count" | "string_agg" | "array_agg") {
        return Err(refused(format!(
            "{}(DISTINCT …) is not maintained yet",
            func.name()
        )));
    }
    let argument = params
        .args
        .first()
        .map(|argument| scope.lower(argument))
        .transpose()?;
    let mut filter = params
        .filter
        .as_deref()
        .map(|filter| scope.lower(filter))
        .transpose()?;
    let order = listing_order(func.name(), params, argument.as_ref(), scope)?;
    let second = match (func.name(), params.args.get(1)) {
        ("string_agg", Some(separator)) => Some(constant_text(separator, scope)?),
        (name, Some(second)) if relationship(name).is_some() => Some(scope.lower(second)?),
        _ => None,
    };
    if params.null_treatment == Some(NullTreatment::IgnoreNulls)
        && let Some(argument) = &argument
    {
        let known = Expr::Not(Box::new(Expr::IsNull(Box::new(argument.clone()))));
        filter = Some(match filter {
            Some(filter) => filter.and(known),
            None => known,
        });
    }
    let distinct = params.distinct;
    let descending = params.order_by.first().is_some_and(|order| !order.asc);
    let function = match func.name() {
        "count" if params.distinct => AggregateFunction::CountDistinct,
        "approx_distinct" => AggregateFunction::CountDistinct,
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "median" | "approx_median" => AggregateFunction::Quantile { q: 0.5 },
        "quantile" | "approx_percentile_cont" => {
            let q = constant_quantile(params.args.get(1)).ok_or_else(|| {
                refused(format!(
                    "the quantile of {} is a constant between 0 and 1",
                    func.name()
                ))
            })?;
            AggregateFunction::Quantile {
                q: if descending { 1.0 - q } else { q },
            }
        }
        "var" => AggregateFunction::Spread(Spread::VarianceSample),
        "var_pop" => AggregateFunction::Spread(Spread::VariancePopulation),
        "stddev" => AggregateFunction::Spread(Spread::DeviationSample),
        "stddev_pop" => AggregateFunction::Spread(Spread::DeviationPopulation),
        "string_agg" => AggregateFunction::StringAgg { distinct },
        "array_agg" => AggregateFunction::ArrayAgg { distinct },
        "first_value" => AggregateFunction::First,
        "last_value" => AggregateFunction::Last,
        other => match relationship(other) {
            Some(relationship) => AggregateFunction::Relationship(relationship),
            None => return Err(refused(format!("the aggregate {other} is not maintained yet"))),
        },
    };
    let argument = match (function, argument) {
        (AggregateFunction::Count, None) => None,
        (AggregateFunction::Count, Some(Expr::Literal(literal))) if !matches!(literal, Literal::Null(_)) => {
            None
        }
        (_, Some(argument)) => Some(argument),
        (_, None) => return Err(refused(format!("{} needs an argument", func.name()))),
    };
    Ok(Aggregate {
        name,
        function,
        argument,
        second,
        order,
        filter,
    })
}

/// The order inside a listing. That of `last_value` is DataFusion's too: ascending, of which the last is taken.
fn listing_order(
    name: &str,
    params: &AggregateFunctionParams,
    argument: Option<&Expr>,
    scope: &Scope<'_>,
) -> Result<Vec<OrderKey>, SqlError> {
    let refused = |message: String, hint: &str| SqlError::new(SqlErrorKind::Aggregate, message).hint(hint);
    if !matches!(name, "string_agg" | "array_agg" | "first_value" | "last_value") {
        return Ok(Vec::new());
    }
    let order = order_keys(&params.order_by, scope)?;
    if order.is_empty() && matches!(name, "first_value" | "last_value") {
        return Err(refused(
            format!("{name} without ORDER BY would depend on the order of arrival"),
            "write first_value(x ORDER BY y), or min(x) and max(x)",
        ));
    }
    if params.distinct && order.iter().any(|key| Some(&key.expr) != argument) {
        return Err(refused(
            format!("{name}(DISTINCT x ORDER BY y) has several places for one x"),
            "order by x itself",
        ));
    }
    Ok(order)
}

/// What stands between values: a constant, NULL being none.
fn constant_text(separator: &Logical, scope: &Scope<'_>) -> Result<Expr, SqlError> {
    let mut lowered = scope.lower(separator)?;
    while let Expr::Cast { expr, .. } = lowered {
        lowered = *expr;
    }
    match lowered {
        text @ Expr::Literal(Literal::Text(_)) => Ok(text),
        Expr::Literal(Literal::Null(_)) => Ok(Expr::text("")),
        _ => Err(SqlError::new(
            SqlErrorKind::Aggregate,
            "the separator of string_agg is a constant",
        )
        .hint("write string_agg(x, ', ')")),
    }
}

/// Statistics of pairs, as DataFusion calls them.
fn relationship(name: &str) -> Option<Relationship> {
    Some(match name {
        "covar_pop" => Relationship::CovariancePopulation,
        "covar_samp" => Relationship::CovarianceSample,
        "corr" => Relationship::Correlation,
        "regr_slope" => Relationship::Slope,
        "regr_intercept" => Relationship::Intercept,
        "regr_count" => Relationship::Pairs,
        "regr_r2" => Relationship::Determination,
        "regr_avgx" => Relationship::MeanX,
        "regr_avgy" => Relationship::MeanY,
        "regr_sxx" => Relationship::SquaresX,
        "regr_syy" => Relationship::SquaresY,
        "regr_sxy" => Relationship::Products,
        _ => return None,
    })
}

fn constant_quantile(argument: Option<&Logical>) -> Option<f64> {
    match argument? {
        Logical::Literal(value, _) => match value.cast_to(&DataType::Float64).ok()? {
            ScalarValue::Float64(Some(q)) if (0.0..=1.0).contains(&q) => Some(q),
            _ => None,
        },
        Logical::Cast(cast) => constant_quantile(Some(&cast.expr)),
        _ => None,
    }
}
