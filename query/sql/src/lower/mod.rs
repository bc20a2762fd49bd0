//! From DataFusion's logical plan to our [`Plan`].
//!
//! Streams and views, filters and computed columns, windows, aggregates, joins (subqueries have become joins by
//! then), unions, the first rows of an order, window functions: nested in any way. Everything else is refused with
//! the clause it came from.
//!
//! A column is followed by its place: for every node the list of our names stands beside DataFusion's schema, so a
//! projection that only picks, orders or renames columns needs no node of ours. The filter by project is put in
//! here, directly above the stream, where no expression of the monitor has seen a row yet.

mod aggregate;
mod expression;
mod grouping;
mod interval;
mod join;
mod order;
mod output;
mod recent;
mod rows;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;
use datafusion::logical_expr::{self as df, Expr as Logical, LogicalPlan};
use pyflare_dataflows::plan::{Column, DAY_US, WINDOW_END, WINDOW_START};
use pyflare_dataflows::{Expr, NamedExpr, Plan, PlanError};

use self::expression::Scope;
use crate::catalog::{StreamSource, ViewSource};
use crate::error::{SqlError, SqlErrorKind};
use crate::now;
use crate::statement::check_name;
use crate::window::{Windowed, Windows};

/// Lowers an optimized plan; `aliases` are the names that the SELECT list gives with AS.
pub(crate) fn lower(
    logical: &LogicalPlan,
    project: Option<&str>,
    aliases: &BTreeSet<String>,
) -> Result<Plan, SqlError> {
    let relation = Lowering { project }.node(logical)?;
    let given: Vec<(String, bool)> = logical
        .schema()
        .fields()
        .iter()
        .map(|field| {
            let name = field.name().clone();
            let named = aliases.contains(&name) || is_identifier(&name);
            (name, named)
        })
        .collect();
    let names = output::column_names(&given)?;
    let schema = relation.plan.schema().map_err(not_planned)?;
    let mut columns = Vec::with_capacity(names.len());
    for (name, source) in names.into_iter().zip(&relation.names) {
        let field = schema.field_with_name(source).map_err(|_| lost(source))?;
        let column = Expr::column(source);
        let expr = match output::view_type(&name, field.data_type())? {
            Some(data_type) => cast(column, &data_type),
            None => column,
        };
        columns.push(NamedExpr { name, expr });
    }
    let plan = put_names(relation.plan, columns);
    plan.schema().map_err(not_planned)?;
    Ok(plan)
}

fn is_identifier(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What the engine's plan does not accept.
pub(crate) fn not_planned(error: PlanError) -> SqlError {
    let kind = match error {
        PlanError::Unsupported { .. } => SqlErrorKind::Aggregate,
        PlanError::Expression { .. } => SqlErrorKind::Meaning,
        PlanError::UnknownColumn { .. } | PlanError::UnknownStream { .. } => SqlErrorKind::Internal,
    };
    SqlError::new(kind, error.to_string())
}

fn lost(name: &str) -> SqlError {
    SqlError::new(
        SqlErrorKind::Internal,
        format!("the column {name} was lost while planning"),
    )
}

fn cast(expr: Expr, data_type: &DataType) -> Expr {
    Expr::Cast {
        expr: Box::new(expr),
        data_type: data_type.to_string(),
        try_: false,
    }
}

/// A lowered node: its plan, and our name for each column of DataFusion's schema.
struct Relation {
    plan: Plan,
    names: Vec<String>,
}

struct Lowering<'a> {
    project: Option<&'a str>,
}

impl Lowering<'_> {
    fn node(&self, plan: &LogicalPlan) -> Result<Relation, SqlError> {
        match plan {
            LogicalPlan::TableScan(scan) => self.source(scan),
            LogicalPlan::SubqueryAlias(alias) => self.node(&alias.input),
            LogicalPlan::Filter(filter) => {
                join::check_marks(&filter.predicate)?;
                if let Some(firsts) = self.first_of_partitions(filter)? {
                    return Ok(firsts);
                }
                let (mut relation, rest) = recent::bounded(filter, self.node(&filter.input)?)?;
                let scope = Scope {
                    schema: filter.input.schema(),
                    names: &relation.names,
                };
                if let Some(rest) = rest {
                    relation.plan = Plan::Filter {
                        predicate: scope.lower(&rest)?,
                        input: Box::new(relation.plan),
                    };
                }
                Ok(relation)
            }
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => self.top(plan, 0, None),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::Values(values) => rows::values(values),
            LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<Windowed>() {
                Some(Windowed {
                    windows: Windows::Session { .. },
                    ..
                }) => Err(sessions::not_grouped()),
                Some(windowed) => self.windowed(windowed),
                None => Err(refused(extension.node.name())),
            },
            LogicalPlan::EmptyRelation(empty) => match empty.produce_one_row {
                true => {
                    Err(refused("one row that is always the same").hint("select something of what is read"))
                }
                false => Ok(rows::nothing(empty)),
            },
            other => Err(refused(clause_of(other))),
        }
    }

    fn source(&self, scan: &df::TableScan) -> Result<Relation, SqlError> {
        let (mut plan, all_projects) = if let Some(source) = scan.source.downcast_ref::<StreamSource>() {
            let read = Plan::Source {
                stream: source.stream.clone(),
                declared: source.declared.clone(),
            };
            (read, true)
        } else if let Some(ViewSource { view }) = scan.source.downcast_ref::<ViewSource>() {
            let columns = view.schema.fields().iter().map(|field| Column {
                name: field.name().clone(),
                data_type: field.data_type().to_string(),
            });
            let read = Plan::View {
                name: view.name.clone(),
                columns: columns.collect(),
            };
            (read, view.builtin)
        } else {
            return Err(refused("this relation"));
        };
        if let (Some(project), true) = (self.project, all_projects) {
            let predicate = Expr::column("project").equals(Expr::text(project));
            plan = Plan::Filter {
                input: Box::new(plan),
                predicate,
            };
        }
        let names = scan
            .projected_schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        Ok(Relation { plan, names })
    }

    fn projection(&self, projection: &df::Projection) -> Result<Relation, SqlError> {
        let relation = self.node(&projection.input)?;
        self.project(projection, relation)
    }

    /// The projection over its lowered input.
    fn project(&self, projection: &df::Projection, relation: Relation) -> Result<Relation, SqlError> {
        for expr in &projection.expr {
            if !matches!(expr, Logical::Column(_)) {
                join::check_no_marks(expr)?;
            }
        }
        let scope = Scope {
            schema: projection.input.schema(),
            names: &relation.names,
        };
        let lowered = projection
            .expr
            .iter()
            .map(|expr| scope.lower(expr))
            .collect::<Result<Vec<_>, _>>()?;
        let bare: Option<Vec<String>> = lowered
            .iter()
            .map(|expr| match expr {
                Expr::Column(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        if let Some(names) = bare {
            return Ok(Relation {
                names,
                plan: relation.plan,
            });
        }
        let mut taken = BTreeSet::new();
        let mut columns = Vec::with_capacity(lowered.len());
        for (index, (expr, field)) in lowered.into_iter().zip(projection.schema.fields()).enumerate() {
            let wished = if check_name(field.name()).is_ok() {
                field.name().clone()
            } else {
                format!("column_{}", index + 1)
            };
            columns.push(NamedExpr {
                name: unique(wished, &mut taken),
                expr,
            });
        }
        let names = columns.iter().map(|column| column.name.clone()).collect();
        Ok(Relation {
            plan: Plan::Project {
                input: Box::new(relation.plan),
                columns,
            },
            names,
        })
    }

    /// Windows of one length; in place of sessions the days that cut them.
    fn windowed(&self, windowed: &Windowed) -> Result<Relation, SqlError> {
        let relation = self.node(&windowed.input)?;
        if recent::is_bounded(&relation.plan) {
            return Err(now::refused(
                "a window has no condition on now(): its rows would leave it one by one",
            ));
        }
        let schema = relation.plan.schema().map_err(not_planned)?;
        if [WINDOW_START, WINDOW_END]
            .iter()
            .any(|name| schema.index_of(name).is_ok())
        {
            return Err(SqlError::new(
                SqlErrorKind::Window,
                "the relation under a window has a column of that name already",
            )
            .hint("give it another name than window_start or window_end"));
        }
        let scope = Scope {
            schema: windowed.input.schema(),
            names: &relation.names,
        };
        let Expr::Column(time) = scope.lower(&Logical::Column(windowed.time.clone()))? else {
            return Err(lost(&windowed.time.name));
        };
        let mut names = relation.names;
        names.extend([WINDOW_START.to_string(), WINDOW_END.to_string()]);
        let (size_us, slide_us) = match windowed.windows {
            Windows::Tumble { size_us } => (size_us, None),
            Windows::Hop { size_us, slide_us } => (size_us, Some(slide_us)),
            Windows::Session { .. } => (DAY_US, None),
        };
        let plan = Plan::Tumble {
            input: Box::new(relation.plan),
            time,
            size_us,
            slide_us,
        };
        Ok(Relation { plan, names })
    }
}

/// Most nodes that a plan may get by reading a part of it several times.
const MOST_NODES: usize = 2_000;

/// Refuses to read a plan so often: what reads it may be read several times itself, and so on.
fn check_copies(plan: &Plan, copies: usize) -> Result<(), SqlError> {
    fn nodes(plan: &Plan) -> usize {
        1 + plan.inputs().into_iter().map(nodes).sum::<usize>()
    }
    match nodes(plan).saturating_mul(copies) > MOST_NODES {
        true => Err(SqlError::new(
            SqlErrorKind::Limit,
            "groupings and aggregates OVER partitions read what is below them too often",
        )
        .hint("make the inner part a monitor of its own, and read that")),
        false => Ok(()),
    }
}

fn passed(name: &str) -> NamedExpr {
    NamedExpr {
        name: name.to_string(),
        expr: Expr::column(name),
    }
}

fn unique(wished: String, taken: &mut BTreeSet<String>) -> String {
    let name = std::iter::once(wished.clone())
        .chain((2..).map(|number| format!("{wished}_{number}")))
        .find(|name| !taken.contains(name))
        .expect("invariant: there are more numbers than columns");
    taken.insert(name.clone());
    name
}

fn refused(what: &str) -> SqlError {
    SqlError::new(SqlErrorKind::Clause, format!("{what} cannot be maintained yet"))
        .hint("a monitor filters, computes columns, aggregates, joins and unites streams and views")
}

/// The words of SQL for a node that is not lowered.
fn clause_of(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::Sort(_) => "ORDER BY without LIMIT",
        LogicalPlan::Subquery(_) => "a subquery in an expression",
        LogicalPlan::RecursiveQuery(_) => "WITH RECURSIVE",
        _ => "this statement",
    }
}

/// Gives the columns of `plan` their final names, in the nodes there are where that is possible.
fn put_names(plan: Plan, columns: Vec<NamedExpr>) -> Plan {
    let plan = match plan {
        // The topmost projection and the naming are one.
        Plan::Project {
            input,
            columns: computed,
        } => {
            let by_name: BTreeMap<String, Expr> = computed.into_iter().map(|c| (c.name, c.expr)).collect();
            let columns = columns
                .into_iter()
                .map(|column| NamedExpr {
                    name: column.name,
                    expr: column.expr.substitute(&|name| by_name.get(name).cloned()),
                })
                .collect();
            Plan::Project { input, columns }
        }
        other => Plan::Project {
            input: Box::new(other),
            columns,
        },
    };
    name_aggregates(plan)
}

/// Moves names from a projection into the aggregate below it; a projection that is left without work goes.
fn name_aggregates(plan: Plan) -> Plan {
    let Plan::Project {
        mut input,
        mut columns,
    } = plan
    else {
        return plan;
    };
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for column in &columns {
        if let Expr::Column(source) = &column.expr {
            renamed
                .entry(source.clone())
                .or_insert_with(|| column.name.clone());
        }
    }
    if rename(&mut input, &renamed) {
        let new_name = |name: &str| renamed.get(name).map(Expr::column);
        for column in &mut columns {
            column.expr = column.expr.substitute(&new_name);
        }
        let wanted = columns.iter().map(|column| match &column.expr {
            Expr::Column(source) if *source == column.name => Some(source),
            _ => None,
        });
        if aggregate_names(&input).map(Some).eq(wanted) {
            return *input;
        }
    }
    Plan::Project { input, columns }
}

/// The outputs of the aggregate under filters; none where there is no such aggregate.
fn aggregate_names(plan: &Plan) -> impl Iterator<Item = &String> {
    let mut node = plan;
    while let Plan::Filter { input, .. } = node {
        node = input;
    }
    let (keys, aggregates) = match node {
        Plan::Aggregate { keys, aggregates, .. } => (keys.as_slice(), aggregates.as_slice()),
        _ => (&[][..], &[][..]),
    };
    keys.iter()
        .map(|key| &key.name)
        .chain(aggregates.iter().map(|aggregate| &aggregate.name))
}

/// Renames the outputs of the aggregate under filters; says whether there was one and no name clashed.
fn rename(plan: &mut Plan, renamed: &BTreeMap<String, String>) -> bool {
    match plan {
        Plan::Filter { input, predicate } => {
            let done = rename(input, renamed);
            if done {
                *predicate = predicate.substitute(&|name| renamed.get(name).map(Expr::column));
            }
            done
        }
        Plan::Aggregate { keys, aggregates, .. } => {
            let new_name = |name: &String| renamed.get(name).unwrap_or(name).clone();
            let mut all = BTreeSet::new();
            let names = keys
                .iter()
                .map(|key| &key.name)
                .chain(aggregates.iter().map(|a| &a.name));
            if !names.map(new_name).all(|name| all.insert(name)) {
                return false;
            }
            for key in keys {
                key.name = new_name(&key.name);
            }
            for aggregate in aggregates {
                aggregate.name = new_name(&aggregate.name);
            }
            true
        }
        _ => false,
    }
}
