//! GROUP BY: one grouping, or several over one relation (GROUPING SETS, ROLLUP, CUBE).
//!
//! Several groupings are the union of one aggregate each over the same input. In a grouping's rows the keys that it
//! leaves out are NULL, and DataFusion's number of the grouping, from which `grouping(…)` is computed, tells such a
//! NULL from one that is a key.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{self as df, Expr as Logical, ExprSchemable, GroupingSet};
use pyflare_dataflows::plan::Literal;
use pyflare_dataflows::{Aggregate, Expr, NamedExpr, Plan};

use super::aggregate::{aggregate_column, truth};
use super::expression::Scope;
use super::join::schema;
use super::{Lowering, Relation, cast, check_copies, not_planned, output, passed, sessions, unique};
use crate::error::{SqlError, SqlErrorKind};

/// Most groupings of one GROUP BY: each is an aggregate of its own.
const MOST_SETS: usize = 16;

/// The aggregates of a SELECT and what is shown of them.
pub(super) struct Aggregates {
    pub aggregates: Vec<Aggregate>,
    pub shown: Vec<NamedExpr>,
    /// Whether something is computed from them.
    computed: bool,
}

impl Lowering<'_> {
    pub(super) fn aggregate(&self, aggregate: &df::Aggregate) -> Result<Relation, SqlError> {
        if let Some((rows, gap_us)) = self.above_sessions(&aggregate.input)? {
            return sessions::grouped(aggregate, rows, gap_us);
        }
        let relation = self.node(&aggregate.input)?;
        let scope = Scope {
            schema: aggregate.input.schema(),
            names: &relation.names,
        };
        let mut taken = BTreeSet::new();
        if let [Logical::GroupingSet(sets)] = aggregate.group_expr.as_slice() {
            return grouping_sets(aggregate, sets, &relation.plan, &scope);
        }
        let written: Vec<&Logical> = aggregate.group_expr.iter().collect();
        let keys = group_keys(aggregate, &written, &scope, &mut taken)?;
        let made = aggregates(aggregate, &scope, &mut taken)?;
        let shown: Vec<NamedExpr> = keys
            .iter()
            .map(|key| passed(&key.name))
            .chain(made.shown)
            .collect();
        let names = shown.iter().map(|column| column.name.clone()).collect();
        let mut plan = Plan::Aggregate {
            input: Box::new(relation.plan),
            keys,
            aggregates: made.aggregates,
        };
        if made.computed {
            plan = Plan::Project {
                input: Box::new(plan),
                columns: shown,
            };
        }
        Ok(Relation { plan, names })
    }
}

/// The keys of a GROUP BY, in the types that a view's columns have.
pub(super) fn group_keys(
    aggregate: &df::Aggregate,
    written: &[&Logical],
    scope: &Scope<'_>,
    taken: &mut BTreeSet<String>,
) -> Result<Vec<NamedExpr>, SqlError> {
    let mut keys = Vec::with_capacity(written.len());
    for (index, key) in written.iter().enumerate() {
        let data_type = key
            .get_type(scope.schema)
            .map_err(|error| SqlError::planning(&error))?;
        let lowered = scope.lower(key)?;
        let wished = match &lowered {
            Expr::Column(name) => name.clone(),
            _ => format!("key_{}", index + 1),
        };
        let spoken = aggregate.schema.field(index).name();
        let expr = match output::view_type(spoken, &data_type)? {
            Some(view_type) => cast(lowered, &view_type),
            None => lowered,
        };
        keys.push(NamedExpr {
            name: unique(wished, taken),
            expr,
        });
    }
    Ok(keys)
}

pub(super) fn aggregates(
    aggregate: &df::Aggregate,
    scope: &Scope<'_>,
    taken: &mut BTreeSet<String>,
) -> Result<Aggregates, SqlError> {
    let mut made = Aggregates {
        aggregates: Vec::with_capacity(aggregate.aggr_expr.len()),
        shown: Vec::with_capacity(aggregate.aggr_expr.len()),
        computed: false,
    };
    for (index, expr) in aggregate.aggr_expr.iter().enumerate() {
        let name = unique(format!("aggregate_{}", index + 1), taken);
        match truth(expr, scope)? {
            None => {
                made.shown.push(passed(&name));
                made.aggregates.push(aggregate_column(name, expr, scope)?);
            }
            Some(truth) => {
                made.computed = true;
                let known = unique(format!("{name}_known"), taken);
                let decided = unique(format!("{name}_decided"), taken);
                made.shown.push(truth.shown(name, &known, &decided));
                made.aggregates.extend(truth.counts(known, decided));
            }
        }
    }
    Ok(made)
}

fn grouping_sets(
    aggregate: &df::Aggregate,
    sets: &GroupingSet,
    input: &Plan,
    scope: &Scope<'_>,
) -> Result<Relation, SqlError> {
    let written = sets.distinct_expr();
    let groupings = enumerated(sets, &written)?;
    check_copies(input, groupings.len())?;
    let mut taken = BTreeSet::new();
    let keys = group_keys(aggregate, &written, scope, &mut taken)?;
    let number = unique("grouping".to_string(), &mut taken);
    let made = aggregates(aggregate, scope, &mut taken)?;
    let below = schema(input)?;
    let types = keys
        .iter()
        .map(|key| type_of(&key.expr, &below))
        .collect::<Result<Vec<_>, _>>()?;
    let number_type = aggregate.schema.field(keys.len()).data_type();
    let mut seen: Vec<u64> = Vec::with_capacity(groupings.len());
    let mut inputs = Vec::with_capacity(groupings.len());
    for grouping in &groupings {
        let left_out = (0..keys.len())
            .filter(|key| !grouping.contains(key))
            .fold(0u64, |mask, key| mask | 1 << (keys.len() - 1 - key));
        let ordinal = seen.iter().filter(|mask| **mask == left_out).count() as u64;
        seen.push(left_out);
        let mut columns: Vec<NamedExpr> = keys
            .iter()
            .zip(&types)
            .enumerate()
            .map(|(index, (key, data_type))| NamedExpr {
                name: key.name.clone(),
                expr: match grouping.contains(&index) {
                    true => Expr::column(&key.name),
                    false => Expr::Literal(Literal::Null(data_type.to_string())),
                },
            })
            .collect();
        columns.push(NamedExpr {
            name: number.clone(),
            expr: grouping_number(left_out | ordinal << keys.len(), number_type)?,
        });
        columns.extend(made.shown.iter().cloned());
        let kept = keys.iter().enumerate();
        inputs.push(Plan::Project {
            input: Box::new(Plan::Aggregate {
                input: Box::new(input.clone()),
                keys: kept
                    .filter(|(index, _)| grouping.contains(index))
                    .map(|(_, key)| key.clone())
                    .collect(),
                aggregates: made.aggregates.clone(),
            }),
            columns,
        });
    }
    let names = keys
        .iter()
        .map(|key| &key.name)
        .chain([&number])
        .chain(made.shown.iter().map(|column| &column.name))
        .cloned()
        .collect();
    Ok(Relation {
        plan: Plan::Union { inputs },
        names,
    })
}

/// The groupings, each as the places of its keys among all of them.
fn enumerated(sets: &GroupingSet, written: &[&Logical]) -> Result<Vec<Vec<usize>>, SqlError> {
    let place = |expr: &Logical| written.iter().position(|key| *key == expr);
    let places = |exprs: &[Logical]| -> Vec<usize> { exprs.iter().filter_map(place).collect() };
    let count = match sets {
        GroupingSet::Rollup(exprs) => exprs.len() + 1,
        GroupingSet::Cube(exprs) => 1usize.checked_shl(exprs.len() as u32).unwrap_or(usize::MAX),
        GroupingSet::GroupingSets(sets) => sets.len(),
    };
    if count > MOST_SETS || written.len() > 32 {
        let message =
            format!("GROUP BY makes {count} groupings, at most {MOST_SETS} are maintained together");
        return Err(SqlError::new(SqlErrorKind::Grouping, message)
            .hint("name those you need with GROUPING SETS, or create a monitor for each"));
    }
    Ok(match sets {
        GroupingSet::Rollup(exprs) => (0..count).map(|length| places(&exprs[..length])).collect(),
        GroupingSet::Cube(exprs) => {
            let all = places(exprs);
            let chosen = |mask: usize| {
                let members = all.iter().enumerate();
                members
                    .filter(|(bit, _)| mask >> bit & 1 == 1)
                    .map(|(_, place)| *place)
                    .collect()
            };
            (0..count).map(chosen).collect()
        }
        GroupingSet::GroupingSets(sets) => sets.iter().map(|exprs| places(exprs)).collect(),
    })
}

fn grouping_number(number: u64, data_type: &DataType) -> Result<Expr, SqlError> {
    ScalarValue::UInt64(Some(number))
        .cast_to(data_type)
        .ok()
        .and_then(|value| Literal::from_scalar(&value))
        .map(Expr::Literal)
        .ok_or_else(|| SqlError::new(SqlErrorKind::Internal, "a grouping without a number"))
}

fn type_of(expr: &Expr, schema: &SchemaRef) -> Result<DataType, SqlError> {
    let compiled = pyflare_dataflows::plan::compile(expr, schema).map_err(not_planned)?;
    compiled
        .data_type(schema)
        .map_err(|error| SqlError::planning(&error))
}
