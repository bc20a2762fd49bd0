//! Rows out of lists, and constant rows.

use std::collections::BTreeSet;

use datafusion::logical_expr as df;
use pyflare_dataflows::plan::Column;
use pyflare_dataflows::{Expr, NamedExpr, Plan};

use super::expression::Scope;
use super::{Lowering, Relation, cast, output, unique};
use crate::error::{SqlError, SqlErrorKind};

impl Lowering<'_> {
    /// `unnest(list)`: one list, taken apart once.
    pub(super) fn unnest(&self, unnest: &df::Unnest) -> Result<Relation, SqlError> {
        let relation = self.node(&unnest.input)?;
        let [(list, how)] = unnest.list_type_columns.as_slice() else {
            return Err(refused(
                "unnest takes one list of a SELECT apart",
                "unnest the other one in a monitor of its own, and join the two",
            ));
        };
        if how.depth != 1 || !unnest.struct_type_columns.is_empty() || takes_apart(&relation.plan) {
            return Err(refused(
                "unnest of what comes out of unnest is not maintained",
                "make the inner part a monitor of its own, and read that",
            ));
        }
        if unnest.options.null_handling != datafusion::common::NullHandling::Drop {
            return Err(refused(
                "unnest that keeps rows without elements is not maintained",
                "unite the result with the rows whose list is NULL or empty",
            ));
        }
        // Whatever else shows the same list keeps it whole.
        let mut taken = BTreeSet::new();
        let columns: Vec<NamedExpr> = relation
            .names
            .iter()
            .map(|name| NamedExpr {
                name: unique(name.clone(), &mut taken),
                expr: Expr::column(name),
            })
            .collect();
        let names = unnest
            .dependency_indices
            .iter()
            .map(|index| columns[*index].name.clone())
            .collect();
        let column = columns[*list].name.clone();
        let plan = Plan::Unnest {
            input: Box::new(Plan::Project {
                input: Box::new(relation.plan),
                columns,
            }),
            column,
        };
        Ok(Relation { plan, names })
    }
}

/// What conditions leave that no row can fulfil.
pub(super) fn nothing(empty: &df::EmptyRelation) -> Relation {
    let mut taken = BTreeSet::new();
    let columns: Vec<Column> = empty
        .schema
        .fields()
        .iter()
        .map(|field| Column {
            name: unique(field.name().to_ascii_lowercase(), &mut taken),
            data_type: field.data_type().to_string(),
        })
        .collect();
    let names = columns.iter().map(|column| column.name.clone()).collect();
    Relation {
        plan: Plan::Values {
            columns,
            rows: Vec::new(),
        },
        names,
    }
}

/// `VALUES (…), (…)`.
pub(super) fn values(values: &df::Values) -> Result<Relation, SqlError> {
    let nothing = datafusion::common::DFSchema::empty();
    let scope = Scope {
        schema: &nothing,
        names: &[],
    };
    let mut taken = BTreeSet::new();
    let mut columns = Vec::new();
    let mut types = Vec::new();
    for field in values.schema.fields() {
        let wished = field.name().to_ascii_lowercase();
        let data_type = match output::view_type(field.name(), field.data_type())? {
            Some(data_type) => data_type,
            None => field.data_type().clone(),
        };
        columns.push(Column {
            name: unique(wished, &mut taken),
            data_type: data_type.to_string(),
        });
        types.push(data_type);
    }
    let mut rows = Vec::with_capacity(values.values.len());
    for row in &values.values {
        let constants = row
            .iter()
            .zip(&types)
            .map(|(expr, data_type)| Ok(cast(scope.lower(expr)?, data_type)));
        rows.push(constants.collect::<Result<Vec<Expr>, SqlError>>()?);
    }
    let names = columns.iter().map(|column| column.name.clone()).collect();
    Ok(Relation {
        plan: Plan::Values { columns, rows },
        names,
    })
}

fn takes_apart(plan: &Plan) -> bool {
    matches!(plan, Plan::Unnest { .. }) || plan.inputs().into_iter().any(takes_apart)
}

fn refused(message: &str, hint: &str) -> SqlError {
    SqlError::new(SqlErrorKind::Clause, message).hint(hint)
}
