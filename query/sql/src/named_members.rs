//! A name for what `IN (SELECT …)` compares with, where it has none.
//!
//! Under OR, DataFusion looks for the compared column on the right side of the join twice, as the condition has it
//! and as the subquery has it. What comes out of an aggregate without AS is found both times, and then is there twice.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr::InSubquery;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

/// The name; each subquery is a relation of its own.
const MEMBER: &str = "member";

/// Names the members of every `IN (SELECT …)` of a plan, subqueries included.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|plan| {
        plan.map_expressions(|expr| {
            expr.transform(|expr| match expr {
                Expr::InSubquery(member) => named(member),
                other => Ok(Transformed::no(other)),
            })
        })
    })?;
    Ok(rewritten.data)
}

fn named(mut member: InSubquery) -> Result<Transformed<Expr>> {
    let column = match member.subquery.subquery.schema().iter().next() {
        Some((None, field)) => Some(Column::from_name(field.name())),
        _ => None,
    };
    let Some(column) = column else {
        return Ok(Transformed::no(Expr::InSubquery(member)));
    };
    let subquery = Arc::unwrap_or_clone(member.subquery.subquery);
    let projected = LogicalPlanBuilder::from(subquery).project([Expr::Column(column).alias(MEMBER)])?;
    member.subquery.subquery = Arc::new(projected.build()?);
    Ok(Transformed::yes(Expr::InSubquery(member)))
}
