//! ORDER BY … LIMIT, and window functions.

use std::collections::BTreeSet;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{NullTreatment, Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::{
    self as df, Expr as Logical, FetchType, LogicalPlan, SkipType, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition,
};
use pyflare_dataflows::plan::{
    Frame, FrameBound, FrameUnit, FramedAggregate, JoinKey, JoinKind, OrderKey, WindowColumn,
};
use pyflare_dataflows::{Expr, NamedExpr, Plan};

use super::aggregate::aggregate_column;
use super::expression::Scope;
use super::join::{schema, side};
use super::{Lowering, Relation, check_copies, passed, unique};
use crate::error::{SqlError, SqlErrorKind};

/// Most rows that ORDER BY … LIMIT keeps.
const MOST_ROWS: u64 = 100_000;

/// Window functions over one partitioning and order.
struct Shared<'a> {
    partition: &'a [Logical],
    order: &'a [SortExpr],
    functions: Vec<(usize, &'a WindowFunction)>,
}

impl Lowering<'_> {
    pub(super) fn limit(&self, limit: &df::Limit) -> Result<Relation, SqlError> {
        let constant = || refused("LIMIT and OFFSET take constants", "write a number");
        let skip = match limit
            .get_skip_type()
            .map_err(|error| SqlError::planning(&error))?
        {
            SkipType::Literal(skip) => skip as u64,
            SkipType::UnsupportedExpr => return Err(constant()),
        };
        let fetch = match limit
            .get_fetch_type()
            .map_err(|error| SqlError::planning(&error))?
        {
            FetchType::Literal(fetch) => fetch.map(|fetch| fetch as u64),
            FetchType::UnsupportedExpr => return Err(constant()),
        };
        self.top(&limit.input, skip, fetch)
    }

    /// The rows `skip + 1` to `skip + fetch` of an ordered relation.
    pub(super) fn top(
        &self,
        plan: &LogicalPlan,
        skip: u64,
        fetch: Option<u64>,
    ) -> Result<Relation, SqlError> {
        match plan {
            LogicalPlan::Projection(projection) => {
                let below = self.top(&projection.input, skip, fetch)?;
                self.project(projection, below)
            }
            LogicalPlan::SubqueryAlias(alias) => self.top(&alias.input, skip, fetch),
            LogicalPlan::Sort(sort) => {
                let fetch = [fetch, sort.fetch.map(|fetch| (fetch as u64).saturating_sub(skip))]
                    .into_iter()
                    .flatten()
                    .min();
                if fetch.is_none_or(|fetch| fetch.saturating_add(skip) > MOST_ROWS) {
                    return Err(refused(
                        &format!("LIMIT and OFFSET keep at most {MOST_ROWS} rows together"),
                        "a view is for looking at: take fewer rows",
                    ));
                }
                let relation = self.node(&sort.input)?;
                let scope = Scope {
                    schema: sort.input.schema(),
                    names: &relation.names,
                };
                let order = order_keys(&sort.expr, &scope)?;
                // Only what is used is kept; a fresh set of names renames nothing.
                let relation = side(relation, &mut BTreeSet::new())?;
                let plan = Plan::Top {
                    input: Box::new(relation.plan),
                    partition: Vec::new(),
                    order,
                    skip,
                    fetch,
                };
                Ok(Relation {
                    plan,
                    names: relation.names,
                })
            }
            _ => Err(refused(
                "LIMIT without ORDER BY would keep whichever rows came first",
                "add ORDER BY",
            )),
        }
    }

    /// The rows for which `row_number()` is 1, if that is the filter: nothing needs to be numbered then.
    pub(super) fn first_of_partitions(&self, filter: &df::Filter) -> Result<Option<Relation>, SqlError> {
        let LogicalPlan::Window(window) = filter.input.as_ref() else {
            return Ok(None);
        };
        let ([expr], Logical::BinaryExpr(comparison)) = (window.window_expr.as_slice(), &filter.predicate)
        else {
            return Ok(None);
        };
        let (Logical::Column(column), df::Operator::Eq, Logical::Literal(ScalarValue::UInt64(Some(1)), _)) =
            (comparison.left.as_ref(), comparison.op, comparison.right.as_ref())
        else {
            return Ok(None);
        };
        let width = window.input.schema().fields().len();
        let params = match window_function(expr)? {
            WindowFunction { fun, params } if fun.name() == "row_number" && !params.order_by.is_empty() => {
                params
            }
            _ => return Ok(None),
        };
        if window.schema.maybe_index_of_column(column) != Some(width) {
            return Ok(None);
        }
        let mut taken = BTreeSet::new();
        let mut relation = side(self.node(&window.input)?, &mut taken)?;
        let scope = Scope {
            schema: window.input.schema(),
            names: &relation.names,
        };
        let partition = params
            .partition_by
            .iter()
            .map(|expr| scope.lower(expr))
            .collect::<Result<Vec<_>, _>>()?;
        let order = order_keys(&params.order_by, &scope)?;
        let number = unique("window_1".to_string(), &mut taken);
        let mut columns: Vec<NamedExpr> = schema(&relation.plan)?
            .fields()
            .iter()
            .map(|field| passed(field.name()))
            .collect();
        columns.push(NamedExpr {
            name: number.clone(),
            expr: scope.lower(&comparison.right)?,
        });
        relation.plan = Plan::Project {
            input: Box::new(Plan::Top {
                input: Box::new(relation.plan),
                partition,
                order,
                skip: 0,
                fetch: Some(1),
            }),
            columns,
        };
        relation.names.push(number);
        Ok(Some(relation))
    }

    pub(super) fn window(&self, window: &df::Window) -> Result<Relation, SqlError> {
        let relation = self.node(&window.input)?;
        let mut taken = BTreeSet::new();
        let mut relation = side(relation, &mut taken)?;
        let width = relation.names.len();
        let mut functions = Vec::with_capacity(window.window_expr.len());
        for (index, expr) in window.window_expr.iter().enumerate() {
            functions.push((index, window_function(expr)?));
        }
        let mut groups: Vec<Shared<'_>> = Vec::new();
        for (index, function) in functions {
            let params = &function.params;
            let known = groups
                .iter_mut()
                .find(|group| group.partition == params.partition_by && group.order == params.order_by);
            match known {
                Some(group) => group.functions.push((index, function)),
                None => groups.push(Shared {
                    partition: &params.partition_by,
                    order: &params.order_by,
                    functions: vec![(index, function)],
                }),
            }
        }
        let mut added: Vec<String> = vec![String::new(); window.window_expr.len()];
        for group in groups {
            let names = relation.names[..width].to_vec();
            let scope = Scope {
                schema: window.input.schema(),
                names: &names,
            };
            let partition = group
                .partition
                .iter()
                .map(|expr| scope.lower(expr))
                .collect::<Result<Vec<_>, _>>()?;
            let order = order_keys(group.order, &scope)?;
            let mut columns = Vec::new();
            let mut aggregates = Vec::new();
            let mut framed = Vec::new();
            for (index, function) in &group.functions {
                let name = unique(format!("window_{}", index + 1), &mut taken);
                added[*index].clone_from(&name);
                match &function.fun {
                    WindowFunctionDefinition::WindowUDF(udwf) => {
                        let params = &function.params;
                        columns.push(WindowColumn {
                            name,
                            function: udwf.name().to_string(),
                            arguments: params
                                .args
                                .iter()
                                .map(|argument| scope.lower(argument))
                                .collect::<Result<Vec<_>, _>>()?,
                            frame: frame(&params.window_frame)?,
                            ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
                        });
                    }
                    WindowFunctionDefinition::AggregateUDF(udaf) => {
                        let params = &function.params;
                        let frame = frame(&params.window_frame)?;
                        let aggregate = Logical::AggregateFunction(df::expr::AggregateFunction::new_udf(
                            udaf.clone(),
                            params.args.clone(),
                            params.distinct,
                            params.filter.clone(),
                            Vec::new(),
                            params.null_treatment,
                        ));
                        let aggregate = aggregate_column(name, &aggregate, &scope)?;
                        match (order.is_empty(), frame.unit) {
                            (false, _) => framed.push(FramedAggregate { aggregate, frame }),
                            (true, FrameUnit::Range) => aggregates.push(aggregate),
                            (true, _) if is_whole(frame) => aggregates.push(aggregate),
                            (true, _) => {
                                return Err(refused(
                                    "a frame without ORDER BY would depend on the order of arrival",
                                    "write OVER (PARTITION BY … ORDER BY … ROWS …), or leave ROWS and GROUPS out",
                                ));
                            }
                        }
                    }
                }
            }
            if !columns.is_empty() || !framed.is_empty() {
                if order.is_empty() {
                    return Err(refused(
                        "a window function without ORDER BY would depend on the order of arrival",
                        "write OVER (PARTITION BY … ORDER BY …)",
                    ));
                }
                relation.plan = Plan::Window {
                    input: Box::new(relation.plan),
                    partition: partition.clone(),
                    order,
                    functions: columns,
                    aggregates: framed,
                };
            }
            if !aggregates.is_empty() {
                check_copies(&relation.plan, 2)?;
                relation.plan = over_partition(relation.plan, &partition, aggregates, &mut taken);
            }
        }
        relation.names.truncate(width);
        relation.names.extend(added);
        Ok(relation)
    }
}

/// Aggregates of a row's whole partition: the rows joined with their partition's aggregates.
fn over_partition(
    input: Plan,
    partition: &[Expr],
    aggregates: Vec<pyflare_dataflows::Aggregate>,
    taken: &mut BTreeSet<String>,
) -> Plan {
    let keys: Vec<NamedExpr> = partition
        .iter()
        .map(|expr| NamedExpr {
            name: unique("partition".to_string(), taken),
            expr: expr.clone(),
        })
        .collect();
    let on = keys
        .iter()
        .map(|key| JoinKey {
            left: key.expr.clone(),
            right: Expr::column(&key.name),
        })
        .collect();
    Plan::Join {
        kind: JoinKind::Inner,
        left: Box::new(input.clone()),
        right: Box::new(Plan::Aggregate {
            input: Box::new(input),
            keys,
            aggregates,
        }),
        on,
        residual: None,
        interval: None,
        nulls_equal: true,
    }
}

fn refused(message: &str, hint: &str) -> SqlError {
    SqlError::new(SqlErrorKind::Clause, message).hint(hint)
}

fn window_function(expr: &Logical) -> Result<&WindowFunction, SqlError> {
    match expr {
        Logical::Alias(alias) => window_function(&alias.expr),
        Logical::WindowFunction(function) => {
            let params = &function.params;
            let is_aggregate = matches!(function.fun, WindowFunctionDefinition::AggregateUDF(_));
            if !is_aggregate && (params.filter.is_some() || params.distinct) {
                return Err(refused(
                    "FILTER and DISTINCT have no meaning in a window function",
                    "leave them out",
                ));
            }
            Ok(function)
        }
        other => Err(refused(
            &format!("{other} is not a window function"),
            "leave it out",
        )),
    }
}

pub(super) fn order_keys(order: &[SortExpr], scope: &Scope<'_>) -> Result<Vec<OrderKey>, SqlError> {
    order
        .iter()
        .map(|key| {
            Ok(OrderKey {
                expr: scope.lower(&key.expr)?,
                descending: !key.asc,
                nulls_first: key.nulls_first,
            })
        })
        .collect()
}

/// Whether every row's frame is its whole partition.
fn is_whole(frame: Frame) -> bool {
    frame.start == FrameBound::Preceding(None) && frame.end == FrameBound::Following(None)
}

fn frame(frame: &df::WindowFrame) -> Result<Frame, SqlError> {
    let unit = match frame.units {
        WindowFrameUnits::Rows => FrameUnit::Rows,
        WindowFrameUnits::Range => FrameUnit::Range,
        WindowFrameUnits::Groups => FrameUnit::Groups,
    };
    let rows = |value: &ScalarValue| -> Result<Option<u64>, SqlError> {
        if value.is_null() {
            return Ok(None);
        }
        match (unit, value) {
            (FrameUnit::Rows | FrameUnit::Groups, ScalarValue::UInt64(rows)) => Ok(*rows),
            _ => Err(refused(
                "RANGE with a distance cannot be maintained yet",
                "use ROWS BETWEEN n PRECEDING AND …",
            )),
        }
    };
    let bound = |bound: &WindowFrameBound| -> Result<FrameBound, SqlError> {
        Ok(match bound {
            WindowFrameBound::Preceding(value) => FrameBound::Preceding(rows(value)?),
            WindowFrameBound::CurrentRow => FrameBound::CurrentRow,
            WindowFrameBound::Following(value) => FrameBound::Following(rows(value)?),
        })
    };
    Ok(Frame {
        unit,
        start: bound(&frame.start_bound)?,
        end: bound(&frame.end_bound)?,
    })
}
