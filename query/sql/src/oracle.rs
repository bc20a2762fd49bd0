//! A monitor's SELECT, run by DataFusion as a batch over given rows: what the view must show.
//!
//! It shares the SQL text, the scalar functions and the aggregate functions with the engine, but neither the
//! lowering nor the dataflow: `TUMBLE(relation, time, size)` is rewritten to a subquery with `date_bin`, `SESSION` to
//! gaps and islands, and the whole of DataFusion's optimizer and executor does the rest. What a monitor adds to SQL is left to the caller:
//! which rows count (late ones do not) and which panes have expired.

mod sessions;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider,
};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr as LogicalExpr, LogicalPlan, TableType};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{Expr, Query, Select, Statement, TableFactor, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use parking_lot::Mutex;
use pyflare_dataflows::MonitorDefinition;
use pyflare_operators::fields;

use crate::aggregates::aggregate_functions;
use crate::statement::{self, Parsed};
use crate::window::{expression, function_name};
use crate::{hidden, lower};

/// The rows that `definition` shows over `batches` of its stream (in the types of `stream_schema`), in any order.
///
/// Columns have the names and types of the view. Runs on a thread of its own, so it may be called from anywhere.
pub fn batch(definition: &MonitorDefinition, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let streams = definition.plan.streams();
    let tables: Vec<(&str, &[RecordBatch])> = streams.into_iter().map(|stream| (stream, batches)).collect();
    batch_over(definition, &tables)
}

/// As [`batch`], over the rows of several relations: streams, and views of the project.
pub fn batch_over(definition: &MonitorDefinition, tables: &[(&str, &[RecordBatch])]) -> Result<RecordBatch> {
    let mut schemas = Vec::with_capacity(tables.len());
    for (name, batches) in tables {
        let schema = match (fields::stream_schema(name), batches.first()) {
            (Some(schema), _) => schema,
            (None, Some(batch)) => batch.schema(),
            (None, None) => return Err(failed("a relation without rows has no columns")),
        };
        schemas.push((*name, schema));
    }
    Prepared::new(definition, &schemas)?.rows(tables)
}

/// A monitor's SELECT, planned once to be run over different rows.
pub struct Prepared {
    definition: MonitorDefinition,
    session: SessionContext,
    plan: LogicalPlan,
    tables: BTreeMap<String, Arc<Changing>>,
}

impl Prepared {
    /// For relations of these names and columns.
    pub fn new(definition: &MonitorDefinition, relations: &[(&str, SchemaRef)]) -> Result<Prepared> {
        let session = SessionContext::new_with_state(session_state());
        let mut tables = BTreeMap::new();
        for (name, schema) in relations {
            let table = Arc::new(Changing {
                schema: Arc::clone(schema),
                batches: Mutex::default(),
            });
            if fields::stream_schema(name).is_none() {
                session.register_table(TableReference::partial("live", *name), table.clone())?;
            }
            session.register_table(*name, table.clone())?;
            tables.insert((*name).to_string(), table);
        }
        let Parsed::Create(create) = statement::parse(&definition.sql)? else {
            return Err(failed("the definition is not a CREATE MONITOR"));
        };
        let mut query = create.query;
        let declared = definition.plan.declared_streams();
        let users: Vec<&str> = declared.iter().map(|(name, _)| *name).collect();
        hidden::hide(&mut query, &users);
        rewrite_windows(&mut query)?;
        let statement = DataFusionStatement::Statement(Box::new(Statement::Query(query)));
        let plan = on_own_thread(async {
            let state = session.state();
            let plan = state.statement_to_plan(statement).await?;
            state.optimize(&plan)
        })?;
        Ok(Prepared {
            definition: definition.clone(),
            session,
            plan,
            tables,
        })
    }

    /// The rows that the monitor shows over these; relations that are not named have none.
    pub fn rows(&self, tables: &[(&str, &[RecordBatch])]) -> Result<RecordBatch> {
        for table in self.tables.values() {
            table.batches.lock().clear();
        }
        for (name, batches) in tables {
            let table = self
                .tables
                .get(*name)
                .ok_or_else(|| failed("a relation that was not prepared"))?;
            for batch in *batches {
                table
                    .batches
                    .lock()
                    .push(match (&self.definition.project, fields::stream_schema(name)) {
                        (Some(project), Some(_)) => of_project(batch, project)?,
                        _ => batch.clone(),
                    });
            }
        }
        let (found_schema, found) = on_own_thread(async {
            let state = self.session.state();
            let physical = state
                .query_planner()
                .create_physical_plan(&self.plan, &state)
                .await?;
            let schema = physical.schema();
            let batches = collect(physical, state.task_ctx()).await?;
            Ok((schema, batches))
        })?;
        let found = concat_batches(&found_schema, &found)?;
        let view = self.definition.plan.schema().map_err(lower::not_planned)?;
        let columns = found
            .columns()
            .iter()
            .zip(view.fields())
            .map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let nullable = view
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect::<Vec<_>>();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(found.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            Arc::new(arrow::datatypes::Schema::new(nullable)),
            columns,
            &options,
        )?)
    }
}

/// A table whose rows change between two runs of one plan.
#[derive(Debug)]
struct Changing {
    schema: SchemaRef,
    batches: Mutex<Vec<RecordBatch>>,
}

#[async_trait]
impl TableProvider for Changing {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[LogicalExpr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batches = self.batches.lock().clone();
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![batches])?;
        table.scan(session, projection, filters, limit).await
    }
}

/// On a thread with the stack that deep plans need, so it may be called from anywhere.
fn on_own_thread<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(work)
        };
        let thread = std::thread::Builder::new()
            .stack_size(32 * 1024 * 1024)
            .spawn_scoped(scope, run)?;
        thread.join().map_err(|_| failed("the batch query panicked"))?
    })
}

fn failed(message: impl ToString) -> DataFusionError {
    DataFusionError::Execution(message.to_string())
}

/// A session with all functions and without tables. Registering the functions takes longer than most queries.
fn session_state() -> SessionState {
    static PREPARED: LazyLock<SessionState> = LazyLock::new(|| {
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        for function in aggregate_functions() {
            session.register_udaf(function.as_ref().clone());
        }
        session.state()
    });
    let catalogs = MemoryCatalogProviderList::new();
    let catalog = MemoryCatalogProvider::new();
    for schema in ["public", "live"] {
        // A fresh catalog takes any schema.
        let _ = catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new()));
    }
    catalogs.register_catalog("datafusion".into(), Arc::new(catalog));
    SessionStateBuilder::new_from_existing(PREPARED.clone())
        .with_catalog_list(Arc::new(catalogs))
        .build()
}

fn of_project(batch: &RecordBatch, project: &str) -> Result<RecordBatch> {
    let column = batch
        .column_by_name("project")
        .ok_or_else(|| failed("the rows have no project"))?;
    let text = cast(column, &DataType::Utf8)?;
    let text = datafusion::common::cast::as_string_array(&text)?;
    let mask: BooleanArray = text.iter().map(|value| Some(value == Some(project))).collect();
    Ok(filter_record_batch(batch, &mask)?)
}

fn rewrite_windows(query: &mut Query) -> Result<()> {
    let mut visitor = Windows { error: None };
    let _: ControlFlow<()> = query.visit(&mut visitor);
    visitor.error.map_or(Ok(()), Err)
}

struct Windows {
    error: Option<DataFusionError>,
}

impl VisitorMut for Windows {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let rewritten = sessions::rewritten(select);
        self.replace(
            rewritten.and_then(|sql| sql.as_deref().map(derived).transpose()),
            |subquery| {
                select.selection = None;
                select.from[0].relation = subquery;
            },
        )
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table {
            name,
            alias,
            args: Some(arguments),
            ..
        } = factor
        else {
            return ControlFlow::Continue(());
        };
        let hops = match function_name(name).as_deref() {
            Some("tumble") => false,
            Some("hop") => true,
            _ => return ControlFlow::Continue(()),
        };
        let arguments: Vec<Expr> = arguments.args.iter().filter_map(expression).cloned().collect();
        let (relation, time, slide, size) = match arguments.as_slice() {
            [relation, time, size] if !hops => (relation, time, size, size),
            [relation, time, slide, size] if hops => (relation, time, slide, size),
            _ => return ControlFlow::Continue(()),
        };
        let from = match relation {
            Expr::Subquery(_) => format!("{relation} AS windowed"),
            _ => relation.to_string(),
        };
        let alias = alias
            .as_ref()
            .map_or_else(|| last_word(relation), |alias| alias.name.value.clone());
        let start = format!("date_bin({slide}, {time}, TIMESTAMP '1970-01-01T00:00:00Z')");
        let sql = match hops {
            false => format!(
                "SELECT * FROM (SELECT *, {start} AS window_start, {start} + {size} AS window_end FROM {from} \
                 WHERE {time} IS NOT NULL) AS \"{alias}\""
            ),
            // DataFusion does not multiply intervals. A hundred windows are enough for the tests.
            true => {
                let slide_us = format!("CAST(date_part('epoch', {slide}) * 1000000 AS BIGINT)");
                let numbers: Vec<String> = (0..100).map(|hop| format!("({hop})")).collect();
                let numbers = numbers.join(", ");
                let hopped = format!(
                    "CAST(arrow_cast({start}, 'Timestamp(µs, \"UTC\")') AS BIGINT) - hop * {slide_us}"
                );
                format!(
                    "SELECT * EXCLUDE (hop) FROM (SELECT *, window_start + {size} AS window_end FROM \
                     (SELECT *, arrow_cast({hopped}, 'Timestamp(µs, \"UTC\")') AS window_start FROM {from} \
                     CROSS JOIN (VALUES {numbers}) AS hops(hop) WHERE {time} IS NOT NULL) \
                     WHERE window_start + {size} > {time}) AS \"{alias}\""
                )
            }
        };
        self.replace(derived(&sql).map(Some), |subquery| *factor = subquery)
    }
}

impl Windows {
    fn replace(
        &mut self,
        subquery: Result<Option<TableFactor>>,
        put: impl FnOnce(TableFactor),
    ) -> ControlFlow<()> {
        match subquery {
            Ok(subquery) => {
                subquery.map(put);
                ControlFlow::Continue(())
            }
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

fn last_word(relation: &Expr) -> String {
    match relation {
        Expr::Identifier(identifier) => identifier.value.clone(),
        Expr::CompoundIdentifier(parts) => parts.last().map_or(String::new(), |part| part.value.clone()),
        _ => "windowed".to_string(),
    }
}

/// The relation in FROM of `sql`.
fn derived(sql: &str) -> Result<TableFactor> {
    let dialect = GenericDialect {};
    let query = Parser::new(&dialect)
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_query())
        .map_err(failed)?;
    let select = query
        .body
        .as_select()
        .ok_or_else(|| failed("the rewritten window is not a SELECT"))?;
    let from = select
        .from
        .first()
        .ok_or_else(|| failed("the rewritten window has no FROM"))?;
    Ok(from.relation.clone())
}
