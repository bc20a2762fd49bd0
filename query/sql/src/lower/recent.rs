//! Conditions on `now()` become the node `Recent` above the stream.

use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr as Logical, Filter};
use pyflare_dataflows::time::Recency;
use pyflare_dataflows::{Expr, Plan};

use super::Relation;
use super::expression::Scope;
use crate::error::SqlError;
use crate::now::{self, Bound};

/// Puts what a filter says about `now()` into the relation below it; gives what it says besides.
pub(super) fn bounded(
    filter: &Filter,
    mut relation: Relation,
) -> Result<(Relation, Option<Logical>), SqlError> {
    if !now::mentions(&filter.predicate) {
        return Ok((relation, Some(filter.predicate.clone())));
    }
    let mut rest = Vec::new();
    for conjunct in split_conjunction(&filter.predicate) {
        let Some(bounds) = now::bounds(conjunct)? else {
            rest.push(conjunct.clone());
            continue;
        };
        for bound in bounds {
            let scope = Scope {
                schema: filter.input.schema(),
                names: &relation.names,
            };
            let time = scope.lower(&Logical::Column(bound.column.clone()))?;
            check_event_time(&relation.plan, &time)?;
            relation.plan = put(relation.plan, &bound);
        }
    }
    Ok((relation, conjunction(rest)))
}

/// Whether a chain has a condition on `now()`.
pub(super) fn is_bounded(plan: &Plan) -> bool {
    match plan {
        Plan::Recent { .. } => true,
        Plan::Filter { input, .. } | Plan::Project { input, .. } | Plan::Unnest { input, .. } => {
            is_bounded(input)
        }
        _ => false,
    }
}

/// Whether an expression over a plan is the event time of the stream that the plan is a chain over.
fn check_event_time(plan: &Plan, time: &Expr) -> Result<(), SqlError> {
    let Expr::Column(name) = time else {
        return Err(now::misplaced());
    };
    match plan {
        Plan::Source { .. } if plan.time_column() == Some(name) => Ok(()),
        Plan::Source { stream, .. } => Err(now::refused(format!(
            "now() is compared with {name}; it can be compared with {}, the event time of {stream}, only",
            plan.time_column().unwrap_or_default()
        ))),
        Plan::Recent { input, .. } | Plan::Filter { input, .. } => check_event_time(input, time),
        Plan::Project { input, columns } => match columns.iter().find(|column| column.name == *name) {
            Some(column) => check_event_time(input, &column.expr),
            None => Err(now::misplaced()),
        },
        Plan::Unnest { input, column } if column != name => check_event_time(input, time),
        Plan::Tumble { .. } => Err(now::refused("a window has no condition on now()")),
        Plan::View { name, .. } => Err(now::refused(format!(
            "now() is compared with a column of the view {name}; it can be compared with the event time of a stream only"
        ))),
        _ => Err(now::misplaced()),
    }
}

/// The chain with one more bound on its stream; what is bounded already is bounded by both.
fn put(plan: Plan, bound: &Bound) -> Plan {
    let over = |input: Box<Plan>| Box::new(put(*input, bound));
    match plan {
        Plan::Filter { input, predicate } => Plan::Filter {
            input: over(input),
            predicate,
        },
        Plan::Project { input, columns } => Plan::Project {
            input: over(input),
            columns,
        },
        Plan::Unnest { input, column } => Plan::Unnest {
            input: over(input),
            column,
        },
        Plan::Recent {
            input,
            after_us,
            until_us,
            ..
        } => recent(input, after_us, until_us, bound),
        source => recent(Box::new(source), None, None, bound),
    }
}

fn recent(input: Box<Plan>, after_us: Option<i64>, until_us: Option<i64>, bound: &Bound) -> Plan {
    let distance = bound.distance_us;
    let (after_us, until_us) = match bound.is_lower {
        true => (
            Some(after_us.map_or(distance, |after| after.min(distance))),
            until_us,
        ),
        false => (
            after_us,
            Some(until_us.map_or(distance, |until| until.max(distance))),
        ),
    };
    Plan::Recent {
        input,
        after_us,
        until_us,
        // A microsecond more or less decides whether a bound is in or out, and not how coarse it is.
        quantum_us: Recency::quantum_us(after_us.max(until_us).unwrap_or_default() - 1),
    }
}
