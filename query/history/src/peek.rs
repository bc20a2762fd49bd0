//! `live.<view>`: a peek of a maintained view, made when the query is planned for execution, at the query's tick.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use pyflare_operators::conform::conform;

use crate::source::{Hold, InternalRelations, LiveSource, PeekRequest, Scope, ViewDescription};

/// A maintained view as a table.
pub struct PeekTable {
    pub live: Arc<dyn LiveSource>,
    pub hold: Arc<dyn Hold>,
    pub scope: Scope,
    pub view: ViewDescription,
}

impl std::fmt::Debug for PeekTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PeekTable")
            .field("view", &self.view.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for PeekTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match equality(filter) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let equalities: Vec<(String, Vec<ScalarValue>)> = filters.iter().filter_map(equality).collect();
        // Rows are filtered again after the peek, so a limit would count the wrong ones.
        let limit = limit.filter(|_| equalities.is_empty());
        let request = PeekRequest {
            projection: projection.cloned(),
            limit,
            equalities,
        };
        let batches = self
            .live
            .peek(&self.view, &self.hold, request, &self.scope)
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        rows(session, projection, &self.schema(), batches).await
    }
}

/// A relation about PyFlare itself as a table.
pub struct InternalTable {
    pub source: Arc<dyn InternalRelations>,
    pub scope: Scope,
    pub name: String,
    pub schema: SchemaRef,
}

impl std::fmt::Debug for InternalTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("InternalTable")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for InternalTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batches = self
            .source
            .rows(&self.name, &self.scope)
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let batches: Result<Vec<RecordBatch>> = batches
            .iter()
            .map(|batch| conform(batch, &self.schema).map_err(DataFusionError::from))
            .collect();
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![batches?])?;
        table.scan(session, projection, &[], None).await
    }
}

async fn rows(
    session: &dyn Session,
    projection: Option<&Vec<usize>>,
    schema: &SchemaRef,
    batches: Vec<RecordBatch>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let projected = match projection {
        Some(columns) => Arc::new(schema.project(columns)?),
        None => Arc::clone(schema),
    };
    let batches: Result<Vec<RecordBatch>> = batches
        .iter()
        .map(|batch| conform(batch, &projected).map_err(DataFusionError::from))
        .collect();
    MemTable::try_new(projected, vec![batches?])?
        .scan(session, None, &[], None)
        .await
}

/// `column = literal`, either way round, `column IN (literal, …)`, and such conditions on one column under OR.
fn equality(filter: &Expr) -> Option<(String, Vec<ScalarValue>)> {
    let (name, mut values) = match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _))
            | (Expr::Literal(value, _), Expr::Column(column)) => (column.name.clone(), vec![value.clone()]),
            _ => return None,
        },
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => {
            let ((name, mut values), (other, others)) = (equality(left)?, equality(right)?);
            if name != other {
                return None;
            }
            values.extend(others);
            (name, values)
        }
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) => {
            let Expr::Column(column) = expr.as_ref() else {
                return None;
            };
            let values = list.iter().map(|value| match value {
                Expr::Literal(value, _) => Some(value.clone()),
                _ => None,
            });
            (column.name.clone(), values.collect::<Option<Vec<_>>>()?)
        }
        _ => return None,
    };
    // Nothing equals NULL.
    values.retain(|value| !value.is_null());
    (!values.is_empty()).then_some((name, values))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn what_a_column_may_be_is_read_from_conditions() {
        let text = |values: &[&str]| {
            Some((
                "a".to_string(),
                values.iter().map(|text| ScalarValue::from(*text)).collect(),
            ))
        };
        assert_eq!(equality(&col("a").eq(lit("x"))), text(&["x"]));
        assert_eq!(equality(&lit("x").eq(col("a"))), text(&["x"]));
        let either = col("a")
            .eq(lit("x"))
            .or(col("a").in_list(vec![lit("y"), lit("z")], false));
        assert_eq!(equality(&either), text(&["x", "y", "z"]));
        let null = lit(ScalarValue::Utf8(None));
        assert_eq!(
            equality(&col("a").in_list(vec![lit("y"), null.clone()], false)),
            text(&["y"])
        );
        for other in [
            col("a").eq(null),
            col("a").in_list(vec![lit("y")], true),
            col("a").eq(lit("x")).or(col("b").eq(lit("x"))),
            col("a").eq(lit("x")).or(col("a").gt(lit("x"))),
            col("a").eq(col("b")),
            col("a").in_list(vec![col("b")], false),
        ] {
            assert_eq!(equality(&other), None, "{other}");
        }
    }
}
