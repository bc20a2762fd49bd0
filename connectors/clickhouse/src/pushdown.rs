//! Aggregates and top rows that ClickHouse computes over what it holds.
//!
//! History is a union of stored rows and rows in memory, so a query's aggregate is never over one table. DataFusion
//! aggregates in two steps, partial results first; the partial step of the stored rows is what is moved here, and the
//! final step does not see the difference. Likewise a sort with a limit: the first rows of the stored ones, and the
//! sort goes on above.
//!
//! Only what gives the same partial results, bit by bit, is moved: counts; sums of 64-bit integers and of decimals with
//! all digits, which both wrap around alike; the least and the greatest of values that both compare alike; by keys that
//! both tell apart alike. Sums of floats depend on the order of rows and stay, and so do averages, which are such sums.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use crate::predicate::is_comparable;
use crate::scan::{ClickHouseScan, Query};
use crate::syntax::identifier;

/// The rule that moves them; to be the last one of a session.
#[derive(Debug, Default)]
pub struct PushDown;

impl PhysicalOptimizerRule for PushDown {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if let Some(moved) = aggregate(&node)? {
                return Ok(Transformed::yes(moved));
            }
            match top_rows(&node)? {
                Some(moved) => Ok(Transformed::yes(moved)),
                None => Ok(Transformed::no(node)),
            }
        })
        .data()
    }

    fn name(&self) -> &str {
        "clickhouse_push_down"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What a node reads from: the inputs of a union, or the one input. How rows are dealt out among threads is no matter.
fn sources(input: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn ExecutionPlan>> {
    let input = undealt(input);
    match input.downcast_ref::<UnionExec>() {
        Some(union) => union.inputs().iter().map(undealt).collect(),
        None => vec![input],
    }
}

fn undealt(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.downcast_ref::<RepartitionExec>() {
        Some(dealt) => undealt(dealt.input()),
        None => Arc::clone(plan),
    }
}

/// A partial aggregate whose stored part is ClickHouse's.
fn aggregate(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(partial) = node.downcast_ref::<AggregateExec>() else {
        return Ok(None);
    };
    let is_plain = *partial.mode() == AggregateMode::Partial
        && !partial.group_expr().has_grouping_set()
        && partial.limit_options().is_none()
        && partial.filter_expr().iter().all(Option::is_none);
    if !is_plain {
        return Ok(None);
    }
    let mut any = false;
    let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    for source in sources(partial.input()) {
        if let Some(scan) = source.downcast_ref::<ClickHouseScan>()
            && let Some(query) = aggregated(scan, partial)
        {
            any = true;
            parts.push(scan.with(query, partial.schema()));
            continue;
        }
        let schema = source.schema();
        parts.push(Arc::new(AggregateExec::try_new(
            AggregateMode::Partial,
            Arc::new(partial.group_expr().clone()),
            partial.aggr_expr().to_vec(),
            partial.filter_expr().to_vec(),
            source,
            schema,
        )?));
    }
    if !any {
        return Ok(None);
    }
    let moved = UnionExec::try_new(parts)?;
    let same = moved.schema().fields().len() == node.schema().fields().len()
        && moved
            .schema()
            .fields()
            .iter()
            .zip(node.schema().fields())
            .all(|(one, other)| one.name() == other.name() && one.data_type() == other.data_type());
    Ok(same.then_some(moved))
}

/// The scan's query with the aggregate in it.
fn aggregated(scan: &ClickHouseScan, partial: &AggregateExec) -> Option<Query> {
    let query = &scan.query;
    if query.keys.is_some() || query.limit.is_some() {
        return None;
    }
    let (from, to) = (scan.schema(), partial.schema());
    let keys = partial.group_expr().expr().iter();
    let keys: Option<Vec<String>> = keys.map(|(key, _)| compared(key, &from)).collect();
    let keys = keys?;
    let mut columns = keys.clone();
    for function in partial.aggr_expr() {
        columns.push(partial_result(function, &from)?);
    }
    // A function with a state of several columns is none of ours.
    if columns.len() != to.fields().len() {
        return None;
    }
    // Two equal columns would be one without names of their own.
    let named = columns.iter().enumerate();
    let named = named.map(|(number, column)| format!("{column} AS `_pyflare${number}`"));
    Some(Query {
        selected: match columns.is_empty() {
            true => return None,
            false => named.collect::<Vec<_>>().join(", "),
        },
        keys: Some(keys),
        ..query.clone()
    })
}

fn partial_result(function: &AggregateFunctionExpr, from: &Schema) -> Option<String> {
    let is_plain = !function.is_distinct() && !function.ignore_nulls() && function.order_bys().is_empty();
    let arguments = function.expressions();
    let [argument] = arguments.as_slice() else {
        return None;
    };
    if !is_plain {
        return None;
    }
    match function.fun().name() {
        "count" => match argument.downcast_ref::<Literal>() {
            Some(literal) if !literal.value().is_null() => Some("toInt64(count())".to_owned()),
            Some(_) => None,
            None => {
                let (name, data_type) = column(argument, from)?;
                let is_nested = matches!(data_type, DataType::List(_) | DataType::Map(_, _));
                (!is_nested).then(|| format!("toInt64(count({name}))"))
            }
        },
        "sum" => summed(argument, from).map(|value| format!("sumOrNull({value})")),
        "min" => compared(argument, from).map(|value| format!("minOrNull({value})")),
        "max" => compared(argument, from).map(|value| format!("maxOrNull({value})")),
        _ => None,
    }
}

fn column<'a>(expression: &Arc<dyn PhysicalExpr>, from: &'a Schema) -> Option<(String, &'a DataType)> {
    let column = expression.downcast_ref::<Column>()?;
    let field = from.fields().get(column.index())?;
    Some((identifier(field.name()), field.data_type()))
}

fn compared(expression: &Arc<dyn PhysicalExpr>, from: &Schema) -> Option<String> {
    let (name, data_type) = column(expression, from)?;
    is_comparable(data_type).then_some(name)
}

fn summed(expression: &Arc<dyn PhysicalExpr>, from: &Schema) -> Option<String> {
    if let Some(cast) = expression.downcast_ref::<CastExpr>() {
        let (name, data_type) = column(cast.expr(), from)?;
        let widens = *data_type == DataType::Int32 && *cast.cast_type() == DataType::Int64;
        return widens.then(|| format!("toInt64({name})"));
    }
    let (name, data_type) = column(expression, from)?;
    match data_type {
        DataType::Int64 | DataType::Decimal128(38, _) => Some(name),
        _ => None,
    }
}

/// A sort with a limit that gets no more than the limit from ClickHouse.
fn top_rows(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(sort) = node.downcast_ref::<SortExec>() else {
        return Ok(None);
    };
    let Some(fetch) = sort.fetch() else {
        return Ok(None);
    };
    let mut any = false;
    let mut parts = Vec::new();
    for source in sources(sort.input()) {
        let asked = source
            .downcast_ref::<ClickHouseScan>()
            .and_then(|scan| Some(scan.with(sorted(scan, sort.expr(), fetch)?, scan.schema())));
        any |= asked.is_some();
        parts.push(asked.unwrap_or(source));
    }
    if !any {
        return Ok(None);
    }
    let anew = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(node)
        .replace_children(vec![UnionExec::try_new(parts)?], anew)
        .map(Some)
}

fn sorted(scan: &ClickHouseScan, ordering: &LexOrdering, fetch: usize) -> Option<Query> {
    let query = &scan.query;
    if query.keys.is_some() || query.limit.is_some() || !query.order.is_empty() {
        return None;
    }
    let schema = scan.schema();
    let order = ordering.iter().map(|key| {
        let name = compared(&key.expr, &schema)?;
        let direction = if key.options.descending { "DESC" } else { "ASC" };
        let nulls = if key.options.nulls_first { "FIRST" } else { "LAST" };
        Some(format!("{name} {direction} NULLS {nulls}"))
    });
    Some(Query {
        order: order.collect::<Option<_>>()?,
        limit: Some(fetch),
        ..query.clone()
    })
}
