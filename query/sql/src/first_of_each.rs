//! `DISTINCT ON (…) … ORDER BY …` as the row of each partition that `row_number()` calls the first.
//!
//! DataFusion would make `first_value(… ORDER BY …)` of every column, and among rows that compare equal each of
//! these may choose another.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::expr_rewriter::normalize_cols;
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, WindowFunctionDefinition,
    col, lit,
};

/// Replaces every DISTINCT ON of a plan, subqueries included.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Distinct(Distinct::On(distinct)) => Ok(Transformed::yes(first_of_each(distinct)?)),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

fn first_of_each(distinct: DistinctOn) -> Result<LogicalPlan> {
    let DistinctOn {
        on_expr,
        select_expr,
        sort_expr,
        input,
        schema,
    } = distinct;
    let on_expr = normalize_cols(on_expr, &input)?;
    let select_expr = normalize_cols(select_expr, &input)?;
    let function = WindowFunction::new(WindowFunctionDefinition::WindowUDF(row_number_udwf()), Vec::new());
    let number = Expr::from(function)
        .partition_by(on_expr)
        .order_by(sort_expr.unwrap_or_default())
        .build()?
        .alias("distinct_on_place");
    let shown = select_expr
        .into_iter()
        .zip(schema.iter())
        .map(|(expr, (qualifier, field))| expr.unalias().alias_qualified(qualifier.cloned(), field.name()));
    LogicalPlanBuilder::from(Arc::unwrap_or_clone(input))
        .window(vec![number])?
        .filter(col("distinct_on_place").eq(lit(1u64)))?
        .project(shown)?
        .build()
}
