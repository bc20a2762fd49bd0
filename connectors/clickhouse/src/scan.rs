//! Reading a table with DataFusion: columns, conditions and limits go to ClickHouse, rows come as an Arrow stream.
//!
//! What [`predicate`](crate::predicate) translates is decided there alone; every other condition stays with DataFusion,
//! above the scan, and then the limit does too. [`pushdown`](crate::pushdown) has ClickHouse aggregate and sort as well.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Fields, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableProvider;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::TryStreamExt;
use pyflare_connectors::StoreError;

use crate::client::{Client, Rows};
use crate::{predicate, wire};

/// The complete blocks of a table, as of when it was asked for.
#[derive(Debug)]
pub struct StoredTable {
    client: Arc<Client>,
    name: String,
    path: String,
    schema: SchemaRef,
    complete: String,
}

impl StoredTable {
    pub fn new(
        client: Arc<Client>,
        name: String,
        path: String,
        schema: SchemaRef,
        complete: String,
    ) -> StoredTable {
        StoredTable {
            client,
            name,
            path,
            schema,
            complete,
        }
    }
}

#[async_trait]
impl TableProvider for StoredTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let decided = filters
            .iter()
            .map(|filter| match predicate::condition(filter, &self.schema) {
                Some(_) => TableProviderFilterPushDown::Exact,
                None => TableProviderFilterPushDown::Unsupported,
            });
        Ok(decided.collect())
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let mut conditions = vec![self.complete.clone()];
        for filter in filters {
            let condition = predicate::condition(filter, &self.schema);
            conditions.push(condition.ok_or_else(|| {
                DataFusionError::Internal(format!("{filter} was not said to be decided by the table"))
            })?);
        }
        // A query that counts rows asks for no column.
        let columns = match wanted.fields().is_empty() {
            true => "1".to_owned(),
            false => wire::selected(wanted.fields()),
        };
        let query = Query {
            selected: columns,
            path: self.path.clone(),
            conditions,
            keys: None,
            order: Vec::new(),
            limit,
        };
        let (client, table) = (Arc::clone(&self.client), self.name.clone());
        Ok(Arc::new(ClickHouseScan::new(client, table, query, wanted)))
    }
}

/// A query of one table, clause by clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub selected: String,
    pub path: String,
    pub conditions: Vec<String>,
    /// `Some` of an aggregate, also of one without keys.
    pub keys: Option<Vec<String>>,
    pub order: Vec<String>,
    pub limit: Option<usize>,
}

impl fmt::Display for Query {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SELECT {} FROM {}", self.selected, self.path)?;
        write!(formatter, " WHERE {}", self.conditions.join(" AND "))?;
        if let Some(keys) = self.keys.as_ref().filter(|keys| !keys.is_empty()) {
            write!(formatter, " GROUP BY {}", keys.join(", "))?;
        }
        if !self.order.is_empty() {
            write!(formatter, " ORDER BY {}", self.order.join(", "))?;
        }
        match self.limit {
            Some(limit) => write!(formatter, " LIMIT {limit}"),
            None => Ok(()),
        }
    }
}

/// Runs a query in ClickHouse; EXPLAIN shows it.
#[derive(Debug)]
pub struct ClickHouseScan {
    client: Arc<Client>,
    table: String,
    pub query: Query,
    properties: Arc<PlanProperties>,
}

impl ClickHouseScan {
    fn new(client: Arc<Client>, table: String, query: Query, schema: SchemaRef) -> ClickHouseScan {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        ClickHouseScan {
            client,
            table,
            query,
            properties: Arc::new(properties),
        }
    }

    /// The same table asked another query.
    pub fn with(&self, query: Query, schema: SchemaRef) -> Arc<dyn ExecutionPlan> {
        let (client, table) = (Arc::clone(&self.client), self.table.clone());
        Arc::new(ClickHouseScan::new(client, table, query, schema))
    }
}

impl DisplayAs for ClickHouseScan {
    fn fmt_as(&self, _format: DisplayFormatType, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "ClickHouseScan: {}", self.query)
    }
}

impl ExecutionPlan for ClickHouseScan {
    fn name(&self) -> &str {
        "ClickHouseScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.is_empty() {
            true => Ok(self),
            false => Err(DataFusionError::Internal("a scan has no children".into())),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (client, table) = (Arc::clone(&self.client), self.table.clone());
        let (query, schema) = (self.query.to_string(), self.schema());
        let batches = futures::stream::once(async move {
            let rows = select(&client, &table, &query, schema.fields())
                .await
                .map_err(external)?;
            Ok::<_, DataFusionError>(futures::stream::try_unfold(rows, move |mut rows| {
                let schema = Arc::clone(&schema);
                async move {
                    match rows.next().await.map_err(external)? {
                        Some(batch) => Ok(Some((wire::received(&batch, &schema)?, rows))),
                        None => Ok(None),
                    }
                }
            }))
        });
        let rows = RecordBatchStreamAdapter::new(self.schema(), batches.try_flatten());
        Ok(make_cooperative(Box::pin(rows)))
    }
}

/// The rows of a query whose columns are [`wire::selected`].
pub async fn select(
    client: &Client,
    table: &str,
    query: &str,
    fields: &Fields,
) -> std::result::Result<Rows, StoreError> {
    let strings = if wire::has_bytes(fields) { "0" } else { "1" };
    client
        .select(table, query, &[("output_format_arrow_string_as_string", strings)])
        .await
}

fn external(error: StoreError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
