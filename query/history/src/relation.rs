//! `history.*`: the stored rows of a relation up to the flushed tick F, and the rows in memory beyond it, as one
//! logical plan.
//!
//! Relations are views in DataFusion's sense: the plan is put in place of the name, so filters, columns and limits find
//! their way to the stored files and to the rows in memory by DataFusion's own rules.
//!
//! ```text
//! history.spans:    Filter(_tick ≤ F)(stored) ∪ Filter(_tick > F)(tail), then the scope
//! history.<view>:   the same over <view>_changes, grouped by the whole row; each row Σ _diff times
//! ```

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::{Column, DataFusionError, Result};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::functions_nested::expr_fn::array_repeat;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use pyflare_operators::conform::conform;

use crate::source::{
    Erased, Hold, LiveSource, Relation, Scope, StoredTables, StreamDescription, ViewDescription,
};

/// How many times a row is in a view, while its changes are summed up.
const COPIES: &str = "_copies";

/// A relation of `history` at the tick of a hold.
pub struct History<'a> {
    pub live: &'a dyn LiveSource,
    pub stored: &'a dyn StoredTables,
    pub hold: &'a Arc<dyn Hold>,
    pub scope: &'a Scope,
    /// Partitions for rows in memory.
    pub partitions: usize,
}

impl History<'_> {
    /// `history.<stream>`; `columns` of it.
    pub async fn stream(
        &self,
        stream: &StreamDescription,
        columns: &[String],
    ) -> Result<Arc<dyn TableProvider>> {
        let rows = self
            .rows(&Relation::Stream(stream.clone()), &stream.schema)
            .await?;
        let plan = LogicalPlanBuilder::from(rows)
            .project(columns.iter().map(name_of))?
            .build()?;
        Ok(Arc::new(ViewTable::new(plan, None)))
    }

    /// `history.<view>_changes`.
    pub async fn changes(&self, view: &ViewDescription) -> Result<Arc<dyn TableProvider>> {
        let plan = self
            .rows(&Relation::Changes(view.clone()), &changes_schema(&view.schema))
            .await?;
        Ok(Arc::new(ViewTable::new(plan, None)))
    }

    /// `history.<view>`.
    pub async fn view(&self, view: &ViewDescription) -> Result<Arc<dyn TableProvider>> {
        let changes = self
            .rows(&Relation::Changes(view.clone()), &changes_schema(&view.schema))
            .await?;
        let columns: Vec<Expr> = view
            .schema
            .fields()
            .iter()
            .map(|field| name_of(field.name()))
            .collect();
        let copies = name_of(COPIES);
        let mut repeated = columns.clone();
        repeated.push(array_repeat(lit(true), copies.clone()).alias(COPIES));
        let plan = LogicalPlanBuilder::from(changes)
            .aggregate(columns.clone(), vec![sum(name_of("_diff")).alias(COPIES)])?
            .filter(copies.gt(lit(0_i64)))?
            .project(repeated)?
            .unnest_column(Column::new_unqualified(COPIES))?
            .project(columns)?
            .build()?;
        Ok(Arc::new(ViewTable::new(plan, None)))
    }

    /// Stored rows up to F, and rows in memory beyond it.
    async fn rows(&self, relation: &Relation, schema: &SchemaRef) -> Result<LogicalPlan> {
        let tail = self
            .live
            .tail(relation, self.hold, self.scope)
            .await
            .map_err(external)?;
        // Asked for after F was read: whatever has been flushed since is in it, beyond F, and filtered out.
        let stored = match tail.flushed {
            Some(_) => self.stored.provider(&relation.table()).await.map_err(external)?,
            None => None,
        };
        let schema = match &stored {
            Some(stored) => stored.schema(),
            None => Arc::clone(schema),
        };
        let erased = match relation {
            Relation::Stream(_) => self.live.erased(),
            Relation::Changes(_) => Vec::new(),
        };
        let batches: Result<Vec<RecordBatch>> = tail
            .batches
            .iter()
            .map(|batch| conform(batch, &schema).map_err(DataFusionError::from))
            .collect();
        let mut partitions = vec![Vec::new(); self.partitions.max(1)];
        for (position, batch) in batches?.into_iter().enumerate() {
            let partition = position % partitions.len();
            partitions[partition].push(batch);
        }
        let memory = MemTable::try_new(Arc::clone(&schema), partitions)?;
        let tick = name_of("_tick");
        let newest = i64::try_from(self.hold.tick()).unwrap_or(i64::MAX);
        let oldest = tail
            .flushed
            .map_or(i64::MIN, |flushed| i64::try_from(flushed).unwrap_or(i64::MAX));
        let mut plan = self
            .scoped(
                LogicalPlanBuilder::scan("tail", provider_as_source(Arc::new(memory)), None)?,
                &schema,
                &erased,
            )?
            .filter(tick.clone().gt(lit(oldest)).and(tick.clone().lt_eq(lit(newest))))?;
        if let Some(stored) = stored {
            let flushed = self
                .scoped(
                    LogicalPlanBuilder::scan("stored", provider_as_source(stored), None)?,
                    &schema,
                    &erased,
                )?
                .filter(tick.lt_eq(lit(oldest.min(newest))))?;
            plan = flushed
                .project(names(&schema))?
                .union(plan.project(names(&schema))?.build()?)?;
        }
        plan.project(names(&schema))?.build()
    }

    /// The rows that the scope sees, without those that were taken back.
    fn scoped(
        &self,
        plan: LogicalPlanBuilder,
        schema: &Schema,
        erased: &[Erased],
    ) -> Result<LogicalPlanBuilder> {
        let has = |column: &str| schema.field_with_name(column).is_ok();
        if !has("project") {
            return Ok(plan);
        }
        let mut plan = match &self.scope.project {
            Some(project) => plan.filter(name_of("project").eq(lit(project.as_str())))?,
            None => plan,
        };
        for erased in erased {
            if !self.scope.sees(Some(&erased.project)) {
                continue;
            }
            let until = i64::try_from(erased.until).unwrap_or(i64::MAX);
            let of_project = name_of("project")
                .eq(lit(erased.project.as_str()))
                .and(name_of("_tick").lt_eq(lit(until)));
            let gone = match &erased.by {
                None => of_project,
                Some((column, values)) if has(column) => {
                    let values = values.iter().map(|value| lit(value.as_str())).collect();
                    of_project.and(name_of(column).in_list(values, false))
                }
                Some(_) => continue,
            };
            plan = plan.filter(gone.is_not_true())?;
        }
        Ok(plan)
    }
}

/// The columns of a view's changes.
pub fn changes_schema(view: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = view.fields().iter().cloned().collect();
    for origin in ["_tick", "_diff"] {
        fields.push(Arc::new(arrow::datatypes::Field::new(
            origin,
            DataType::Int64,
            false,
        )));
    }
    Arc::new(Schema::new(fields))
}

fn names(schema: &Schema) -> Vec<Expr> {
    schema
        .fields()
        .iter()
        .map(|field| name_of(field.name()))
        .collect()
}

/// A column by exactly this name, whatever its case.
pub fn name_of(column: impl AsRef<str>) -> Expr {
    Expr::Column(Column::new_unqualified(column.as_ref()))
}

fn external(error: crate::source::SourceError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
