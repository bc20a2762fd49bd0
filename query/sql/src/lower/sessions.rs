//! SESSION, whose windows are those of the GROUP BY above it.
//!
//! Until its GROUP BY is met, a session's window is the day that cuts it: what stands between SESSION and GROUP BY is
//! lowered over that, and then said of the rows themselves. Conditions there decide which rows there are; those on the
//! window choose among the sessions.

use std::collections::BTreeSet;

use datafusion::logical_expr::{self as df, Expr as Logical, LogicalPlan};
use pyflare_dataflows::plan::{DAY_US, WINDOW_END, WINDOW_START};
use pyflare_dataflows::{Aggregate, Expr, NamedExpr, Plan};

use super::expression::Scope;
use super::grouping::{aggregates, group_keys};
use super::{Lowering, Relation, lost, passed, recent};
use crate::error::{SqlError, SqlErrorKind};
use crate::window::{Windowed, Windows};

const HINT: &str = "write SELECT user_id, window_start, window_end, count(*) FROM SESSION(…) GROUP BY user_id, window_start, \
                    window_end, and what else there is around that";

/// For a SESSION that no GROUP BY gives its keys to.
pub(super) fn not_grouped() -> SqlError {
    refused(
        "SESSION gets its keys from the GROUP BY of the same SELECT, and there is none directly above it",
        HINT,
    )
}

fn refused(message: &str, hint: &str) -> SqlError {
    SqlError::new(SqlErrorKind::Clause, message).hint(hint)
}

impl Lowering<'_> {
    /// Conditions and columns over a SESSION, and its gap; `None` for anything else. In place of sessions are days.
    pub(super) fn above_sessions(&self, plan: &LogicalPlan) -> Result<Option<(Relation, i64)>, SqlError> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.above_sessions(&alias.input),
            LogicalPlan::Projection(projection) => match self.above_sessions(&projection.input)? {
                Some((below, gap_us)) => Ok(Some((self.project(projection, below)?, gap_us))),
                None => Ok(None),
            },
            LogicalPlan::Filter(filter) => match self.above_sessions(&filter.input)? {
                Some((below, gap_us)) => {
                    let (mut relation, rest) = recent::bounded(filter, below)?;
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
                    Ok(Some((relation, gap_us)))
                }
                None => Ok(None),
            },
            LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<Windowed>() {
                Some(windowed) => match windowed.windows {
                    Windows::Session { gap_us } => Ok(Some((self.windowed(windowed)?, gap_us))),
                    _ => Ok(None),
                },
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

/// A GROUP BY over what [`Lowering::above_sessions`] gives.
pub(super) fn grouped(aggregate: &df::Aggregate, rows: Relation, gap_us: i64) -> Result<Relation, SqlError> {
    if matches!(aggregate.group_expr.as_slice(), [Logical::GroupingSet(_)]) {
        return Err(refused(
            "GROUPING SETS, ROLLUP and CUBE over SESSION are not maintained: each grouping has sessions of its own",
            "unite one SELECT … FROM SESSION(…) for each of them with UNION ALL",
        ));
    }
    let scope = Scope {
        schema: aggregate.input.schema(),
        names: &rows.names,
    };
    let mut taken = BTreeSet::from([WINDOW_START.to_string(), WINDOW_END.to_string()]);
    let written: Vec<&Logical> = aggregate.group_expr.iter().collect();
    let keys = group_keys(aggregate, &written, &scope, &mut taken)?;
    let made = aggregates(aggregate, &scope, &mut taken)?;
    let said = Said::of_rows(rows.plan, keys, made.aggregates)?;
    let names: Vec<String> = said
        .keys
        .iter()
        .map(|key| &key.name)
        .chain(made.shown.iter().map(|column| &column.name))
        .cloned()
        .collect();
    let (mut of_window, mut of_rows) = (Vec::new(), Vec::new());
    let mut shown = Vec::with_capacity(names.len());
    for key in said.keys {
        match reads(&key.expr) {
            (true, true) => {
                return Err(refused(
                    "GROUP BY computes with the window of SESSION and with columns of its rows",
                    "group by the columns themselves, and compute with what comes out",
                ));
            }
            (true, false) => {
                of_window.push(key.expr.clone());
                shown.push(key);
            }
            (false, _) => {
                shown.push(passed(&key.name));
                of_rows.push(key);
            }
        }
    }
    if !of_window.iter().any(|key| matches!(key, Expr::Column(_))) {
        return Err(not_grouped());
    }
    if said
        .aggregates
        .iter()
        .flat_map(Aggregate::expressions)
        .any(|expr| reads(expr).0)
    {
        return Err(refused(
            "an aggregate over SESSION reads the window, which is known only with all rows of the session",
            "compute with the window outside the aggregate: date_part('epoch', max(event_time)) - date_part('epoch', window_start)",
        ));
    }
    let (of_sessions, conditions) = conditions(said.conditions, &of_rows)?;
    let mut input = Plan::Tumble {
        input: Box::new(said.input),
        time: said.time.clone(),
        size_us: DAY_US,
        slide_us: None,
    };
    for predicate in conditions {
        input = Plan::Filter {
            input: Box::new(input),
            predicate,
        };
    }
    // Only what is used is kept of a row.
    let mut used = BTreeSet::from([said.time.clone()]);
    used.extend(of_rows.iter().flat_map(|key| key.expr.columns()));
    let read = said.aggregates.iter().flat_map(Aggregate::expressions);
    used.extend(read.flat_map(Expr::columns));
    let mut plan = Plan::Sessions {
        input: Box::new(Plan::Project {
            input: Box::new(input),
            columns: used.iter().map(|name| passed(name)).collect(),
        }),
        keys: of_rows,
        time: said.time,
        gap_us,
        aggregates: said.aggregates,
    };
    for predicate in of_sessions {
        plan = Plan::Filter {
            input: Box::new(plan),
            predicate,
        };
    }
    shown.extend(made.shown);
    Ok(Relation {
        plan: Plan::Project {
            input: Box::new(plan),
            columns: shown,
        },
        names,
    })
}

/// What a GROUP BY and the nodes below it say, over the rows with the window of SESSION.
struct Said {
    keys: Vec<NamedExpr>,
    aggregates: Vec<Aggregate>,
    conditions: Vec<Expr>,
    /// The rows, and their time.
    input: Plan,
    time: String,
}

impl Said {
    fn of_rows(plan: Plan, keys: Vec<NamedExpr>, aggregates: Vec<Aggregate>) -> Result<Said, SqlError> {
        let mut said = Said {
            keys,
            aggregates,
            conditions: Vec::new(),
            input: plan,
            time: String::new(),
        };
        loop {
            said.input = match said.input {
                Plan::Filter { input, predicate } => {
                    said.conditions.push(predicate);
                    *input
                }
                Plan::Project { input, columns } => {
                    let replace = |expr: &mut Expr| {
                        *expr = expr.substitute(&|name| {
                            let column = columns.iter().find(|column| column.name == name);
                            column.map(|column| column.expr.clone())
                        });
                    };
                    said.keys.iter_mut().for_each(|key| replace(&mut key.expr));
                    said.conditions.iter_mut().for_each(replace);
                    for aggregate in &mut said.aggregates {
                        let order = aggregate.order.iter_mut().map(|key| &mut key.expr);
                        let read = aggregate.argument.iter_mut().chain(&mut aggregate.second);
                        read.chain(order).chain(&mut aggregate.filter).for_each(replace);
                    }
                    *input
                }
                Plan::Tumble { input, time, .. } => {
                    said.time = time;
                    said.input = *input;
                    return Ok(said);
                }
                _ => return Err(lost(WINDOW_START)),
            }
        }
    }
}

/// Whether an expression reads the window, and whether it reads anything else.
fn reads(expr: &Expr) -> (bool, bool) {
    let columns = expr.columns();
    let is_window = |name: &String| name == WINDOW_START || name == WINDOW_END;
    (columns.iter().any(is_window), !columns.iter().all(is_window))
}

/// The conditions on sessions, and those on rows.
fn conditions(conditions: Vec<Expr>, keys: &[NamedExpr]) -> Result<(Vec<Expr>, Vec<Expr>), SqlError> {
    let (mut of_sessions, mut of_rows) = (Vec::new(), Vec::new());
    for condition in conditions {
        if !reads(&condition).0 {
            of_rows.push(condition);
            continue;
        }
        let condition = condition.substitute(&|name| {
            let key = keys.iter().find(|key| key.expr == Expr::column(name));
            key.map(|key| Expr::column(&key.name))
        });
        let is_known = |name: &String| {
            name == WINDOW_START || name == WINDOW_END || keys.iter().any(|key| key.name == *name)
        };
        if !condition.columns().iter().all(is_known) {
            return Err(refused(
                "WHERE compares the window of SESSION with columns of its rows",
                "say in WHERE what decides about rows, and in HAVING what decides about sessions",
            ));
        }
        of_sessions.push(condition);
    }
    Ok((of_sessions, of_rows))
}
