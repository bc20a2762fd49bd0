//! Reading a table with DataFusion: columns, conditions and limits go to ClickHouse, rows come as an Arrow stream.
//!
//! What [`predicate`](crate::predicate) translates is decided there alone; every other condition stays with DataFusion,
//! above the scan, and then the limit does too.

use std::sync::Arc;

use arrow::datatypes::{Fields, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableProvider;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
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
        let mut query = format!(
            "SELECT {columns} FROM {} WHERE {}",
            self.path,
            conditions.join(" AND ")
        );
        if let Some(limit) = limit {
            query.push_str(&format!(" LIMIT {limit}"));
        }
        tracing::debug!(table = self.name, query, "asking ClickHouse");
        let partition = Arc::new(Query {
            client: Arc::clone(&self.client),
            table: self.name.clone(),
            query,
            schema: Arc::clone(&wanted),
        });
        let plan = StreamingTableExec::try_new(wanted, vec![partition], None, Vec::new(), false, limit)?;
        Ok(Arc::new(plan))
    }
}

#[derive(Debug)]
struct Query {
    client: Arc<Client>,
    table: String,
    query: String,
    schema: SchemaRef,
}

impl PartitionStream for Query {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (client, table) = (Arc::clone(&self.client), self.table.clone());
        let (query, schema) = (self.query.clone(), Arc::clone(&self.schema));
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
        let schema = Arc::clone(&self.schema);
        Box::pin(RecordBatchStreamAdapter::new(schema, batches.try_flatten()))
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
