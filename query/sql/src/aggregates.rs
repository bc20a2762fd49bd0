//! The aggregate functions that are maintained, declared once for planning and for running as a batch.
//!
//! `count`, `min` and `max` are DataFusion's. `sum`, `avg` and the quantiles are our own, because DataFusion's
//! give other numbers: its integer sum wraps, its float sum depends on the order, and its t-digest cannot give
//! back what it took. Ours are the engine's accumulators, so a batch and a maintained view agree to the bit.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::functions_aggregate::{
    array_agg::array_agg_udaf,
    bool_and_or::{bool_and_udaf, bool_or_udaf},
    count::count_udaf,
    first_last::{first_value_udaf, last_value_udaf},
    grouping::grouping_udaf,
    min_max::{max_udaf, min_udaf},
    string_agg::string_agg_udaf,
};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use pyflare_operators::aggregate::{self as kernel, CellKind, Combiner, Reading, Relationship, Spread};

use crate::error::{SqlError, SqlErrorKind};

/// Name and meaning of every maintained aggregate function, aliases included.
pub const FUNCTIONS: [(&str, &str); 25] = [
    (
        "count",
        "count(*) counts rows, count(x) the rows in which x is not NULL, count(DISTINCT x) its different values",
    ),
    (
        "sum",
        "exact for integers and decimals, correctly rounded for floats; an integer sum that does not fit is NULL",
    ),
    (
        "avg",
        "the exact sum divided by the count, rounded once; also called mean",
    ),
    ("min", "the least value"),
    ("max", "the greatest value"),
    (
        "quantile",
        "quantile(x, 0.95): from logarithmic buckets, within 1 % of the true value",
    ),
    (
        "approx_percentile_cont",
        "the same as quantile; WITHIN GROUP (ORDER BY x) is understood",
    ),
    ("median", "quantile(x, 0.5)"),
    ("approx_median", "quantile(x, 0.5)"),
    ("approx_distinct", "count(DISTINCT x), which is exact"),
    (
        "bool_and",
        "whether x is true in all rows in which it is not NULL",
    ),
    ("bool_or", "whether x is true in any row"),
    (
        "var_samp",
        "the variance of a sample, computed exactly and rounded once; also var, variance",
    ),
    ("var_pop", "the variance of all values"),
    ("stddev_samp", "the standard deviation of a sample; also stddev"),
    ("stddev_pop", "the standard deviation of all values"),
    (
        "covar_samp",
        "covar_samp(y, x): the covariance of a sample; also covar",
    ),
    ("covar_pop", "covar_pop(y, x): the covariance of all pairs"),
    ("corr", "corr(y, x): Pearson's correlation"),
    (
        "regr_slope",
        "regr_slope(y, x): of the line through the pairs; also regr_intercept, regr_count, regr_r2, regr_avgx, \
         regr_avgy, regr_sxx, regr_syy, regr_sxy",
    ),
    (
        "string_agg",
        "string_agg(x, ', ' ORDER BY y): the values as one text; without ORDER BY in their own order",
    ),
    (
        "array_agg",
        "array_agg(x ORDER BY y): the values as a list, NULL included; without ORDER BY in their own order",
    ),
    (
        "first_value",
        "first_value(x ORDER BY y): of those that compare equal the least",
    ),
    (
        "last_value",
        "last_value(x ORDER BY y): of those that compare equal the greatest",
    ),
    (
        "grouping",
        "in GROUPING SETS, ROLLUP and CUBE: a bit for each argument, 1 where it is left out of the row's grouping",
    ),
];

/// Which of our own functions it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Own {
    Sum,
    Avg,
    /// With the quantile as second argument.
    Quantile,
    Median,
    /// Different values, of any type.
    Distinct,
    Spread(Spread),
    /// Of two arguments.
    Relationship(Relationship),
}

/// A maintained aggregate as DataFusion sees it.
#[derive(Debug, Clone)]
pub(crate) struct Maintained {
    name: &'static str,
    pub own: Own,
    aliases: Vec<String>,
    signature: Signature,
}

impl PartialEq for Maintained {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Maintained {}

impl Hash for Maintained {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Maintained {
    fn function(name: &'static str, own: Own, aliases: &[&str]) -> Arc<AggregateUDF> {
        Arc::new(AggregateUDF::new_from_impl(Maintained {
            name,
            own,
            aliases: aliases.iter().map(ToString::to_string).collect(),
            signature: Signature::user_defined(Volatility::Immutable),
        }))
    }
}

fn spread(name: &'static str, spread: Spread, aliases: &[&str]) -> Arc<AggregateUDF> {
    Maintained::function(name, Own::Spread(spread), aliases)
}

fn relationship(relationship: Relationship, aliases: &[&str]) -> Arc<AggregateUDF> {
    Maintained::function(relationship.name(), Own::Relationship(relationship), aliases)
}

/// Whether an aggregate of this name, or with this alias, is maintained.
pub(crate) fn is_maintained(name: &str) -> bool {
    static NAMES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let functions = aggregate_functions();
        let names = functions.iter().flat_map(|function| {
            std::iter::once(function.name().to_string()).chain(function.aliases().iter().cloned())
        });
        names.collect()
    });
    NAMES.contains(name)
}

/// Every maintained aggregate, ready to be registered with a DataFusion session.
pub fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    vec![
        count_udaf(),
        min_udaf(),
        max_udaf(),
        bool_and_udaf(),
        bool_or_udaf(),
        grouping_udaf(),
        string_agg_udaf(),
        array_agg_udaf(),
        first_value_udaf(),
        last_value_udaf(),
        Maintained::function("approx_distinct", Own::Distinct, &[]),
        Maintained::function("sum", Own::Sum, &[]),
        Maintained::function("avg", Own::Avg, &["mean"]),
        Maintained::function("quantile", Own::Quantile, &[]),
        Maintained::function("approx_percentile_cont", Own::Quantile, &[]),
        Maintained::function("median", Own::Median, &[]),
        Maintained::function("approx_median", Own::Median, &[]),
        spread(
            "var",
            Spread::VarianceSample,
            &["var_samp", "var_sample", "variance"],
        ),
        spread("var_pop", Spread::VariancePopulation, &["var_population"]),
        spread("stddev", Spread::DeviationSample, &["stddev_samp"]),
        spread("stddev_pop", Spread::DeviationPopulation, &[]),
        relationship(Relationship::CovarianceSample, &["covar"]),
        relationship(Relationship::CovariancePopulation, &[]),
        relationship(Relationship::Correlation, &[]),
        relationship(Relationship::Slope, &[]),
        relationship(Relationship::Intercept, &[]),
        relationship(Relationship::Pairs, &[]),
        relationship(Relationship::Determination, &[]),
        relationship(Relationship::MeanX, &[]),
        relationship(Relationship::MeanY, &[]),
        relationship(Relationship::SquaresX, &[]),
        relationship(Relationship::SquaresY, &[]),
        relationship(Relationship::Products, &[]),
    ]
}

impl AggregateUDFImpl for Maintained {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn supports_within_group_clause(&self) -> bool {
        self.own == Own::Quantile
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        let (expected, what) = match self.own {
            Own::Quantile => (2, "two arguments, a number and a quantile"),
            Own::Relationship(_) => (2, "two arguments, both numbers"),
            _ => (1, "one argument, a number"),
        };
        if types.len() != expected {
            return Err(refused(format!(
                "{} takes {what}, not {}",
                self.name,
                types.len()
            )));
        }
        if self.own == Own::Distinct {
            return Ok(types.to_vec());
        }
        let number = number_type(&types[0], self.own).ok_or_else(|| {
            let found = pyflare_operators::fields::type_name(&types[0]);
            refused(format!("{} takes numbers, not {found}", self.name))
        })?;
        let mut coerced = vec![number];
        if let (Own::Relationship(_), Some(second)) = (self.own, types.get(1)) {
            let found = pyflare_operators::fields::type_name(second);
            let number = number_type(second, self.own);
            coerced.push(number.ok_or_else(|| refused(format!("{} takes numbers, not {found}", self.name)))?);
        } else if expected == 2 {
            coerced.push(DataType::Float64);
        }
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(match (self.own, types.first()) {
            (Own::Sum, Some(DataType::Decimal128(_, scale))) => DataType::Decimal128(38, *scale),
            (Own::Sum, Some(DataType::Int64))
            | (Own::Distinct, _)
            | (Own::Relationship(Relationship::Pairs), _) => DataType::Int64,
            _ => DataType::Float64,
        })
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> DataFusionResult<Box<dyn Accumulator>> {
        let input = arguments.expr_fields[0].data_type().clone();
        let reading = match self.own {
            Own::Sum => Reading::Sum,
            Own::Avg => Reading::Mean,
            Own::Median => quantile_reading(0.5)?,
            Own::Distinct => Reading::Distinct,
            Own::Spread(spread) => Reading::Spread(spread),
            Own::Relationship(relationship) => Reading::Relationship(relationship),
            Own::Quantile => {
                let literal = arguments
                    .exprs
                    .get(1)
                    .and_then(|expr| expr.downcast_ref::<datafusion::physical_expr::expressions::Literal>());
                let Some(ScalarValue::Float64(Some(q))) = literal.map(|literal| literal.value()) else {
                    return Err(refused("the quantile is a constant between 0 and 1".into()));
                };
                let descending = arguments
                    .order_bys
                    .first()
                    .is_some_and(|order| order.options.descending);
                quantile_reading(if descending { 1.0 - q } else { *q })?
            }
        };
        let kind = match (self.own, &input) {
            (Own::Quantile | Own::Median, _) => CellKind::Quantiles,
            (Own::Distinct, _) => CellKind::Extremes,
            (Own::Spread(_), _) => CellKind::Moments,
            (Own::Relationship(_), _) => CellKind::Comoments,
            (_, DataType::Decimal128(_, scale)) => CellKind::SumDecimal { scale: *scale },
            (_, DataType::Int64 | DataType::Int32) => CellKind::SumInt,
            _ => CellKind::SumFloat,
        };
        Ok(Box::new(Folding {
            reading,
            output: arguments.return_field.data_type().clone(),
            combiner: Combiner::new(vec![kind]),
            group: kernel::Accumulator::zero(&[kind]),
        }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> DataFusionResult<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(
            format!("{}[accumulator]", arguments.name),
            DataType::Binary,
            true,
        ))])
    }
}

fn refused(message: String) -> DataFusionError {
    SqlError::new(SqlErrorKind::Aggregate, message).into()
}

fn quantile_reading(q: f64) -> DataFusionResult<Reading> {
    Reading::quantile(q).ok_or_else(|| refused("the quantile is a constant between 0 and 1".into()))
}

/// The type a number is aggregated in.
fn number_type(data_type: &DataType, own: Own) -> Option<DataType> {
    if matches!(own, Own::Spread(_) | Own::Relationship(_)) {
        return (data_type.is_numeric() || data_type.is_null()).then_some(DataType::Float64);
    }
    match data_type {
        DataType::Null => Some(DataType::Int64),
        integer if integer.is_integer() => Some(DataType::Int64),
        float if float.is_floating() => Some(DataType::Float64),
        DataType::Decimal128(precision, scale) if own == Own::Sum => {
            Some(DataType::Decimal128(*precision, *scale))
        }
        decimal if decimal.is_decimal() && own != Own::Sum => Some(DataType::Float64),
        _ => None,
    }
}

/// One group's accumulator, as the engine keeps it.
struct Folding {
    reading: Reading,
    output: DataType,
    combiner: Combiner,
    group: kernel::Accumulator,
}

impl fmt::Debug for Folding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Folding({})", self.reading.name())
    }
}

fn failed(error: impl fmt::Display) -> DataFusionError {
    DataFusionError::Execution(error.to_string())
}

impl Accumulator for Folding {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        // A value that no sum can take (a float of 2^87 or more) is left out, as in the maintained view.
        let mut left_out = Vec::new();
        let input = match self.combiner.kinds() {
            [CellKind::Comoments] => {
                let sides = values[..2].iter().zip(["one", "other"]);
                let sides = sides.map(|(side, name)| {
                    let field = Field::new(name, DataType::Float64, true);
                    (Arc::new(field), Arc::clone(side))
                });
                Some(Arc::new(StructArray::from(sides.collect::<Vec<_>>())) as ArrayRef)
            }
            _ => Some(Arc::clone(&values[0])),
        };
        self.combiner
            .fold(&values[0].len(), &[input], None, 1, &mut left_out)
            .map_err(failed)?;
        let group = &mut self.group;
        self.combiner.drain(|_, accumulator| group.add(&accumulator));
        Ok(())
    }

    /// For frames that leave rows behind.
    fn retract_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        self.group.negate();
        self.update_batch(values)?;
        self.group.negate();
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let kind = self.combiner.kinds()[0];
        let mut unreadable = Vec::new();
        let column = kernel::read(
            [&self.group],
            0,
            kind,
            self.reading,
            &self.output,
            &mut unreadable,
        )
        .map_err(failed)?;
        ScalarValue::try_from_array(&column, 0)
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(
            serde_json::to_vec(&self.group).map_err(failed)?,
        ))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let states = datafusion::common::cast::as_binary_array(&states[0])?;
        for state in states.iter().flatten() {
            self.group.add(&serde_json::from_slice(state).map_err(failed)?);
        }
        Ok(())
    }
}
