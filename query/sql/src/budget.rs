//! How large a statement can become while it is planned and run.
//!
//! Short SQL can mean a lot: `repeat('x', 500000000)` folds into half a gigabyte while planning, and a column that
//! concatenates itself with itself through ten subqueries grows a thousandfold. So before anything is folded,
//! every expression gets a *weight*: the number of nodes it has once all columns are replaced by what computes
//! them, times what growing functions multiply. The weight is bounded, and with it planning time, memory and the
//! length of what a row can become.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

use crate::error::{SqlError, SqlErrorKind};

/// Greatest weight of one expression.
const HEAVIEST: u64 = 100_000;
/// Greatest constant with which text may be repeated or padded.
const MOST_REPETITIONS: u64 = 1_000;
/// Bytes of a constant that weigh as much as one node.
const BYTES_PER_NODE: u64 = 16;

/// Functions that make lists as long as their argument says.
const UNBOUNDED: [&str; 6] = [
    "range",
    "generate_series",
    "gen_series",
    "array_repeat",
    "array_resize",
    "list_resize",
];

pub(crate) fn check(plan: &LogicalPlan) -> Result<(), SqlError> {
    weights(plan).map(|_| ())
}

/// The weights of a plan's output columns.
fn weights(plan: &LogicalPlan) -> Result<Vec<u64>, SqlError> {
    let width = plan.schema().fields().len();
    match plan {
        LogicalPlan::Projection(projection) => {
            let input = Input::of(&projection.input)?;
            projection.expr.iter().map(|expr| input.bounded(expr)).collect()
        }
        LogicalPlan::Filter(filter) => {
            let input = Input::of(&filter.input)?;
            input.bounded(&filter.predicate)?;
            Ok(input.weights)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let input = Input::of(&aggregate.input)?;
            let mut weights = Vec::with_capacity(width);
            for key in &aggregate.group_expr {
                weights.push(input.bounded(key)?);
            }
            for expr in &aggregate.aggr_expr {
                input.bounded(expr)?;
            }
            // An aggregate is a barrier: nothing above it is folded into what is below.
            weights.resize(width, 1);
            Ok(weights)
        }
        LogicalPlan::SubqueryAlias(alias) => weights(&alias.input),
        LogicalPlan::Distinct(Distinct::All(input)) => weights(input),
        other => {
            let mut below = Vec::new();
            for input in other.inputs() {
                below = weights(input)?;
            }
            below.resize(width, 1);
            Ok(below)
        }
    }
}

struct Input<'a> {
    schema: &'a DFSchema,
    weights: Vec<u64>,
}

impl<'a> Input<'a> {
    fn of(plan: &'a LogicalPlan) -> Result<Self, SqlError> {
        Ok(Input {
            schema: plan.schema(),
            weights: weights(plan)?,
        })
    }

    fn bounded(&self, expr: &Expr) -> Result<u64, SqlError> {
        let weight = self.weight(expr)?;
        if weight > HEAVIEST {
            return Err(SqlError::new(
                SqlErrorKind::Limit,
                "an expression repeats or lengthens its parts too often",
            )
            .hint("use a column fewer times in what is computed from it, or shorten constants"));
        }
        Ok(weight)
    }

    fn weight(&self, expr: &Expr) -> Result<u64, SqlError> {
        match expr {
            Expr::Column(column) => {
                let index = self.schema.maybe_index_of_column(column);
                Ok(index
                    .and_then(|index| self.weights.get(index).copied())
                    .unwrap_or(1))
            }
            Expr::Literal(value, _) => Ok(1 + text_length(value).unwrap_or(0) / BYTES_PER_NODE),
            Expr::ScalarFunction(call) => self.call(call.name(), &call.args),
            other => self.sum(children(other)),
        }
    }

    fn sum<'e>(&self, children: impl IntoIterator<Item = &'e Expr>) -> Result<u64, SqlError> {
        let mut total = 1u64;
        for child in children {
            total = total.saturating_add(self.weight(child)?);
        }
        Ok(total)
    }

    fn call(&self, name: &str, arguments: &[Expr]) -> Result<u64, SqlError> {
        let argument = |index: usize| arguments.get(index);
        if UNBOUNDED.contains(&name) {
            return Err(SqlError::new(
                SqlErrorKind::Limit,
                format!("{name} makes lists of unbounded length"),
            ));
        }
        match (name, arguments) {
            ("repeat", [text, count]) => {
                let count = constant_count(name, count)?;
                Ok(self.weight(text)?.saturating_mul(count.max(1)))
            }
            ("lpad" | "rpad", [_, count, ..]) => {
                let count = constant_count(name, count)?;
                Ok(self.sum(arguments)?.saturating_add(count / BYTES_PER_NODE))
            }
            ("replace" | "regexp_replace" | "translate" | "overlay", [text, ..]) => {
                let replacement = argument(2).map_or(Ok(1), |replacement| match replacement {
                    Expr::Literal(value, _) => Ok(text_length(value).unwrap_or(1).max(1)),
                    other => self
                        .weight(other)
                        .map(|weight| weight.saturating_mul(BYTES_PER_NODE)),
                })?;
                Ok(self
                    .sum(arguments)?
                    .saturating_add(self.weight(text)?.saturating_mul(replacement)))
            }
            ("encode", [bytes, ..]) => Ok(self.weight(bytes)?.saturating_mul(2).saturating_add(1)),
            _ => self.sum(arguments),
        }
    }
}

/// The direct children of an expression.
fn children(expr: &Expr) -> Vec<&Expr> {
    let mut children = Vec::new();
    expr.apply_children(|child| {
        children.push(child);
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("invariant: collecting references does not fail");
    children
}

fn constant_count(name: &str, count: &Expr) -> Result<u64, SqlError> {
    let constant = match count {
        Expr::Literal(value, _) => match value.cast_to(&arrow::datatypes::DataType::Int64) {
            Ok(ScalarValue::Int64(Some(count))) => Some(count.max(0).unsigned_abs()),
            _ => None,
        },
        _ => None,
    };
    constant
        .filter(|count| *count <= MOST_REPETITIONS)
        .ok_or_else(|| {
            SqlError::new(
                SqlErrorKind::Limit,
                format!("the length in {name} must be a constant of at most {MOST_REPETITIONS}"),
            )
        })
}

fn text_length(value: &ScalarValue) -> Option<u64> {
    value.try_as_str().flatten().map(|text| text.len() as u64)
}
