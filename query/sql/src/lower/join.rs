//! Joins and unions.
//!
//! A join without keys pairs every row with every row, so one side must have at most a handful: an aggregate without
//! GROUP BY, or the first rows of an order; or the condition says how far apart two times may lie (`interval`). What DataFusion cannot say exactly is refused: the mark join of `IN`
//! under OR is two-valued, which is right as long as nothing negates or computes with the mark, and `NOT IN` with a correlation tests the wrong NULLs.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{self as df, Expr as Logical};
use pyflare_dataflows::plan::{JoinKey, JoinKind, MARK};
use pyflare_dataflows::{Expr, NamedExpr, Plan};

use super::expression::Scope;
use super::{Lowering, Relation, cast, interval, lost, not_planned, unique};
use crate::error::{SqlError, SqlErrorKind};

/// Whether marks of `IN (SELECT …)` and EXISTS are used in a way in which it does not matter that they are true or
/// false where SQL says NULL: as they are, joined by AND and OR, to decide whether a row stays.
pub(super) fn check_marks(predicate: &Logical) -> Result<(), SqlError> {
    match predicate {
        Logical::BinaryExpr(binary) if matches!(binary.op, df::Operator::And | df::Operator::Or) => {
            check_marks(&binary.left)?;
            check_marks(&binary.right)
        }
        Logical::Column(_) => Ok(()),
        other => check_no_marks(other),
    }
}

/// Refuses an expression that computes something from a mark.
pub(super) fn check_no_marks(expr: &Logical) -> Result<(), SqlError> {
    let is_mark = |column: &&datafusion::common::Column| {
        let of_subquery = |table: &str| table.starts_with("__correlated_sq");
        column.name == "mark"
            && column
                .relation
                .as_ref()
                .is_some_and(|table| of_subquery(table.table()))
    };
    match expr.column_refs().iter().find(|column| is_mark(column)) {
        Some(_) => Err(inside_another()),
        None => Ok(()),
    }
}

fn inside_another() -> SqlError {
    refused("IN (SELECT …) or EXISTS inside another condition cannot be maintained")
        .hint("put it into WHERE, joined with AND or OR to other conditions and without NOT; NOT EXISTS only with AND")
}

/// Rows that may stand on one side of a join without keys.
const FEW_ROWS: u64 = 1_000;

impl Lowering<'_> {
    pub(super) fn join(&self, join: &df::Join) -> Result<Relation, SqlError> {
        let swapped = matches!(join.join_type, JoinType::RightSemi | JoinType::RightAnti);
        let (left_input, right_input) = match swapped {
            false => (&join.left, &join.right),
            true => (&join.right, &join.left),
        };
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            JoinType::Right => JoinKind::Right,
            JoinType::Full => JoinKind::Full,
            JoinType::LeftSemi | JoinType::RightSemi => JoinKind::Semi,
            JoinType::LeftAnti if join.null_aware => JoinKind::NullAwareAnti,
            JoinType::LeftAnti | JoinType::RightAnti => JoinKind::Anti,
            JoinType::LeftMark => JoinKind::Mark,
            JoinType::RightMark => return Err(inside_another()),
        };
        // The mark is a column of its own.
        let mut taken = BTreeSet::from([MARK.to_string()]);
        let left = side(self.node(left_input)?, &mut taken)?;
        let right = side(self.node(right_input)?, &mut taken)?;
        let left_scope = Scope {
            schema: left_input.schema(),
            names: &left.names,
        };
        let right_scope = Scope {
            schema: right_input.schema(),
            names: &right.names,
        };
        let (left_schema, right_schema) = (schema(&left.plan)?, schema(&right.plan)?);
        let mut on = Vec::with_capacity(join.on.len());
        for (one, other) in &join.on {
            let (one, other) = if swapped { (other, one) } else { (one, other) };
            let key = JoinKey {
                left: left_scope.lower(one)?,
                right: right_scope.lower(other)?,
            };
            on.push(alike(key, &left_schema, &right_schema)?);
        }
        let both_names: Vec<String> = left.names.iter().chain(&right.names).cloned().collect();
        let residual = match &join.filter {
            Some(filter) => {
                let both = left_input
                    .schema()
                    .join(right_input.schema())
                    .map_err(|error| SqlError::planning(&error))?;
                let scope = Scope {
                    schema: &both,
                    names: &both_names,
                };
                Some(scope.lower(filter)?)
            }
            None => None,
        };
        if kind == JoinKind::NullAwareAnti && (on.len() != 1 || residual.is_some()) {
            return Err(refused(
                "NOT IN (SELECT …) with a condition on the outer query cannot be maintained",
            )
            .hint("write NOT EXISTS (SELECT … WHERE inner.x = outer.x AND …)"));
        }
        let existence =
            matches!(kind, JoinKind::Semi | JoinKind::Anti | JoinKind::Mark) && residual.is_none();
        let nulls_equal = join.null_equality == NullEquality::NullEqualsNull;
        let small = few_rows(&left.plan) || few_rows(&right.plan);
        let interval = match &residual {
            Some(residual) if !small && !nulls_equal => {
                interval::of(kind, residual, &left_schema, &right_schema)
            }
            _ => None,
        };
        if on.is_empty() && interval.is_none() && !existence && !small {
            return Err(refused("a join without an equality between both sides would pair every row with every row")
                .hint("join with ON a.x = b.y, or say how far apart two times may lie: b.time BETWEEN a.time AND a.time + INTERVAL '5 minutes' (not in a FULL JOIN); only an aggregate without GROUP BY, or ORDER BY … LIMIT, may be paired with everything"));
        }
        let mut names = match kind.shows_right() {
            true => both_names,
            false => left.names,
        };
        if kind == JoinKind::Mark {
            names.push(MARK.to_string());
        }
        let plan = Plan::Join {
            kind,
            left: Box::new(left.plan),
            right: Box::new(right.plan),
            on,
            residual,
            interval,
            nulls_equal,
        };
        Ok(Relation { plan, names })
    }

    pub(super) fn union(&self, union: &df::Union) -> Result<Relation, SqlError> {
        let mut taken = BTreeSet::new();
        let names: Vec<String> = union
            .schema
            .fields()
            .iter()
            .map(|field| unique(field.name().clone(), &mut taken))
            .collect();
        let mut inputs = Vec::with_capacity(union.inputs.len());
        let mut types: Vec<DataType> = Vec::new();
        for input in &union.inputs {
            let relation = self.node(input)?;
            let found = schema(&relation.plan)?;
            let mut columns = Vec::with_capacity(names.len());
            for (index, (name, source)) in names.iter().zip(&relation.names).enumerate() {
                let data_type = found
                    .field_with_name(source)
                    .map_err(|_| lost(source))?
                    .data_type();
                let wanted = match types.get(index) {
                    Some(wanted) => wanted.clone(),
                    None => {
                        types.push(plain(data_type));
                        plain(data_type)
                    }
                };
                let column = Expr::column(source);
                columns.push(NamedExpr {
                    name: name.clone(),
                    expr: match *data_type == wanted {
                        true => column,
                        false => cast(column, &wanted),
                    },
                });
            }
            inputs.push(Plan::Project {
                input: Box::new(relation.plan),
                columns,
            });
        }
        Ok(Relation {
            plan: Plan::Union { inputs },
            names,
        })
    }
}

fn refused(message: &str) -> SqlError {
    SqlError::new(SqlErrorKind::Clause, message)
}

pub(super) fn schema(plan: &Plan) -> Result<SchemaRef, SqlError> {
    plan.schema().map_err(not_planned)
}

/// One side of a join: exactly the columns that are used, under names that no other side has.
pub(super) fn side(relation: Relation, taken: &mut BTreeSet<String>) -> Result<Relation, SqlError> {
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    let mut columns = Vec::new();
    for source in &relation.names {
        if !renamed.contains_key(source) {
            let name = unique(source.clone(), taken);
            columns.push(NamedExpr {
                name: name.clone(),
                expr: Expr::column(source),
            });
            renamed.insert(source.clone(), name);
        }
    }
    let names = relation
        .names
        .iter()
        .map(|source| renamed[source].clone())
        .collect();
    let there = schema(&relation.plan)?;
    let there = there.fields().iter().map(|field| field.name());
    let same = there.eq(columns.iter().map(|column| &column.name))
        && columns
            .iter()
            .all(|column| column.expr == Expr::column(&column.name));
    let plan = match same {
        true => relation.plan,
        false => Plan::Project {
            input: Box::new(relation.plan),
            columns,
        },
    };
    Ok(Relation { plan, names })
}

/// Both sides of a key in one type.
fn alike(key: JoinKey, left: &SchemaRef, right: &SchemaRef) -> Result<JoinKey, SqlError> {
    let type_of = |expr: &Expr, schema: &SchemaRef| -> Result<DataType, SqlError> {
        let failed = |error: datafusion::error::DataFusionError| SqlError::planning(&error);
        let compiled = pyflare_dataflows::plan::compile(expr, schema).map_err(not_planned)?;
        compiled.data_type(schema).map_err(failed)
    };
    let (left_type, right_type) = (type_of(&key.left, left)?, type_of(&key.right, right)?);
    if left_type == right_type {
        return Ok(key);
    }
    let (left_plain, right_plain) = (plain(&left_type), plain(&right_type));
    if left_plain != right_plain {
        let (left, right) = (
            pyflare_operators::fields::type_name(&left_type),
            pyflare_operators::fields::type_name(&right_type),
        );
        return Err(SqlError::new(
            SqlErrorKind::Meaning,
            format!("{left} and {right} are compared by a join and have no type in common"),
        )
        .hint("cast one side"));
    }
    let as_plain = |expr: Expr, data_type: DataType| match data_type == left_plain {
        true => expr,
        false => cast(expr, &left_plain),
    };
    Ok(JoinKey {
        left: as_plain(key.left, left_type),
        right: as_plain(key.right, right_type),
    })
}

/// The type with one form for text and one for integers.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        integer if integer.is_integer() => DataType::Int64,
        other => other.clone(),
    }
}

/// Whether a relation has at most a handful of rows, whatever arrives.
fn few_rows(plan: &Plan) -> bool {
    match plan {
        Plan::Aggregate { keys, .. } => keys.is_empty(),
        Plan::Values { rows, .. } => rows.len() as u64 <= FEW_ROWS,
        Plan::Filter { input, .. } | Plan::Project { input, .. } => few_rows(input),
        Plan::Top { partition, fetch, .. } => {
            partition.is_empty() && fetch.is_some_and(|fetch| fetch <= FEW_ROWS)
        }
        Plan::Join {
            kind, left, right, ..
        } => few_rows(left) && (!kind.shows_right() || few_rows(right)),
        _ => false,
    }
}
