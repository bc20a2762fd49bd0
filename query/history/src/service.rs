//! The query service: text in, batches out, within limits that hold.
//!
//! Queries run on threads of their own. On the runtime that serves requests a 300-ms limit was kept after 13 s,
//! because a query that does not give way kept the timer's thread. What a query costs is bounded before it starts
//! (length of the text, queries at once) and while it runs (time, memory, rows, bytes).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{CatalogProviderList, MemoryCatalogProviderList};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::DiskManagerMode;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::catalog::{CATALOG, Names, NamesCatalog, UNQUALIFIED};
use crate::failure::{Kind, QueryError};
use crate::interrupt::Interrupt;
use crate::source::{InternalRelations, LiveSource, Rule, Scope, StoredTables};
use crate::{functions, parameters, statement, wildcard};

/// Limits of the service; each has a default that suits a machine shared with the engine.
#[derive(Debug, Clone)]
pub struct QueryOptions {
    /// Threads that queries run on.
    pub threads: usize,
    /// Queries that run at once; more wait their turn.
    pub concurrent: usize,
    /// Queries that may wait.
    pub waiting: usize,
    /// Bytes of memory of one query.
    pub memory: usize,
    /// Rows of a result where the request names no limit, and the most it may name.
    pub default_rows: usize,
    pub most_rows: usize,
    /// Bytes of a result, as Arrow holds it.
    pub result_bytes: usize,
    /// Time where the request names none, and the most it may name.
    pub default_timeout: Duration,
    pub longest_timeout: Duration,
    /// Bytes of a query's text.
    pub text_bytes: usize,
}

impl Default for QueryOptions {
    fn default() -> Self {
        QueryOptions {
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)),
            concurrent: 8,
            waiting: 64,
            memory: 512 * 1024 * 1024,
            default_rows: 10_000,
            most_rows: 1_000_000,
            result_bytes: 256 * 1024 * 1024,
            default_timeout: Duration::from_secs(30),
            longest_timeout: Duration::from_secs(600),
            text_bytes: 128 * 1024,
        }
    }
}

/// A query as somebody asks it.
#[derive(Debug, Clone, Default)]
pub struct QueryRequest {
    pub query: String,
    /// Values for `$1`, `$2`, …
    pub params: Vec<Value>,
    pub limit: Option<usize>,
    pub timeout: Option<Duration>,
    pub scope: Scope,
}

/// Its answer.
#[derive(Debug, Clone)]
pub struct QueryResult {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    pub row_count: usize,
    /// Whether there were more rows than these.
    pub truncated: bool,
    /// The tick that the answer stands at, milliseconds since 1970.
    pub as_of: u64,
    pub elapsed: Duration,
}

/// Answers queries; cheap to share.
pub struct QueryService {
    options: QueryOptions,
    live: Arc<dyn LiveSource>,
    stored: Arc<dyn StoredTables>,
    internal: Option<Arc<dyn InternalRelations>>,
    /// `None` only while the service is being dropped.
    runtime: Option<tokio::runtime::Runtime>,
    running: Arc<Semaphore>,
    admitted: Arc<AtomicUsize>,
    session: SessionState,
}

impl QueryService {
    /// Starts the threads.
    pub fn new(
        options: QueryOptions,
        live: Arc<dyn LiveSource>,
        stored: Arc<dyn StoredTables>,
    ) -> Result<Arc<QueryService>, QueryError> {
        QueryService::with_internal(options, live, stored, None)
    }

    /// As [`QueryService::new`], with the relations of `pyflare_internal`.
    pub fn with_internal(
        options: QueryOptions,
        live: Arc<dyn LiveSource>,
        stored: Arc<dyn StoredTables>,
        internal: Option<Arc<dyn InternalRelations>>,
    ) -> Result<Arc<QueryService>, QueryError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("pyflare-query")
            .thread_stack_size(statement::STACK)
            .enable_all()
            .build()
            .map_err(|error| QueryError::new(Kind::Internal, format!("no threads for queries: {error}")))?;
        let session = session(&options, stored.rules())?;
        Ok(Arc::new(QueryService {
            running: Arc::new(Semaphore::new(options.concurrent.max(1))),
            admitted: Arc::default(),
            runtime: Some(runtime),
            options,
            live,
            stored,
            internal,
            session,
        }))
    }

    pub fn options(&self) -> &QueryOptions {
        &self.options
    }

    /// The newest complete tick.
    pub fn tick(&self) -> u64 {
        self.live.hold().tick()
    }

    /// Answers a query. Dropping the future cancels it.
    pub async fn query(&self, request: QueryRequest) -> Result<QueryResult, QueryError> {
        if request.query.len() > self.options.text_bytes {
            return Err(QueryError::new(
                Kind::TooLong,
                format!(
                    "the query is {} bytes long; {} are allowed",
                    request.query.len(),
                    self.options.text_bytes
                ),
            )
            .with_hint("pass long values as parameters: $1, $2, …"));
        }
        let timeout = request
            .timeout
            .unwrap_or(self.options.default_timeout)
            .min(self.options.longest_timeout);
        let rows = request
            .limit
            .unwrap_or(self.options.default_rows)
            .min(self.options.most_rows);
        let names = || {
            Names::new(
                Arc::clone(&self.live),
                Arc::clone(&self.stored),
                self.internal.clone(),
                request.scope.clone(),
                self.options.threads,
            )
        };
        let interrupt = Interrupt::default();
        let task = Task {
            session: self.session.clone(),
            memory: self.options.memory,
            rows,
            bytes: self.options.result_bytes,
            interrupt: interrupt.clone(),
        };
        let (query, params) = (request.query.clone(), request.params.clone());
        self.run(timeout, interrupt, names, |names| {
            task.answer(names, query, params)
        })
        .await
    }

    /// Runs work on the query threads, with a place among the running queries and an end in time.
    async fn run<F>(
        &self,
        timeout: Duration,
        interrupt: Interrupt,
        names: impl FnOnce() -> Names,
        work: impl FnOnce(Names) -> F,
    ) -> Result<QueryResult, QueryError>
    where
        F: Future<Output = Result<QueryResult, QueryError>> + Send + 'static,
    {
        let Some(runtime) = &self.runtime else {
            return Err(QueryError::new(Kind::Busy, "the server is shutting down"));
        };
        let _admission = Admission::take(&self.admitted, self.options.concurrent + self.options.waiting)?;
        let deadline = tokio::time::Instant::now() + timeout;
        let late = || {
            QueryError::new(Kind::TimeLimit, format!("the query took longer than {timeout:?}")).with_hint(
                "narrow the time range (event_time >= now() - INTERVAL '1 hour'), or raise the time limit",
            )
        };
        let place = match tokio::time::timeout_at(deadline, Arc::clone(&self.running).acquire_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(QueryError::new(Kind::Busy, "the server is shutting down")),
            Err(_) => return Err(late()),
        };
        let _stop = StopOnDrop(interrupt);
        let work = work(names());
        let mut handle = AbortOnDrop(runtime.spawn(async move {
            // The place is free again when the work has really ended, not when nobody waits for it any more.
            let _place = place;
            work.await
        }));
        match tokio::time::timeout_at(deadline, &mut handle.0).await {
            Ok(Ok(result)) => result,
            Ok(Err(stopped)) => {
                tracing::error!(error = %stopped, "a query ended unexpectedly");
                Err(QueryError::new(
                    Kind::Internal,
                    "the query ended unexpectedly; the server's log says more",
                ))
            }
            Err(_) => Err(late()),
        }
    }
}

impl Drop for QueryService {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Admission(Arc<AtomicUsize>);

impl Admission {
    fn take(admitted: &Arc<AtomicUsize>, most: usize) -> Result<Admission, QueryError> {
        let before = admitted.fetch_add(1, Ordering::Relaxed);
        let admission = Admission(Arc::clone(admitted));
        if before >= most {
            return Err(QueryError::new(Kind::Busy, "too many queries are waiting")
                .with_hint("try again in a moment"));
        }
        Ok(admission)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct StopOnDrop(Interrupt);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What all queries share: configuration, functions, caches of file footers.
fn session(options: &QueryOptions, rules: Vec<Rule>) -> Result<SessionState, QueryError> {
    let mut config = SessionConfig::new()
        .with_target_partitions(options.threads.max(1))
        .with_information_schema(true)
        .with_default_catalog_and_schema(CATALOG, UNQUALIFIED)
        .with_create_default_catalog_and_schema(false);
    let entries = config.options_mut();
    entries.sql_parser.collect_spans = true;
    entries.execution.parquet.pushdown_filters = true;
    entries.execution.parquet.reorder_filters = true;
    // A trace list asks for up to 200 traces by id.
    entries.execution.parquet.max_in_list_size = 256;
    let runtime = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(
            datafusion::execution::disk_manager::DiskManagerBuilder::default()
                .with_mode(DiskManagerMode::Disabled),
        )
        .build_arc()
        .map_err(|error| QueryError::planning(&error))?;
    let mut builder = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features();
    for rule in rules {
        builder = builder.with_physical_optimizer_rule(rule);
    }
    let mut session = builder.build();
    let known = session.scalar_functions().clone();
    for function in functions::capped(|name| known.get(name).cloned()) {
        register(&mut session, function)?;
    }
    Ok(session)
}

fn register(
    session: &mut SessionState,
    function: Arc<datafusion::logical_expr::ScalarUDF>,
) -> Result<(), QueryError> {
    use datafusion::execution::FunctionRegistry;
    session
        .register_udf(function)
        .map(|_| ())
        .map_err(|error| QueryError::planning(&error))
}

/// One query on its way.
struct Task {
    session: SessionState,
    memory: usize,
    rows: usize,
    bytes: usize,
    interrupt: Interrupt,
}

impl Task {
    async fn answer(
        mut self,
        mut names: Names,
        query: String,
        params: Vec<Value>,
    ) -> Result<QueryResult, QueryError> {
        let started = Instant::now();
        let as_of = names.hold.tick();
        let mut statement = statement::read(&self.session, &query)?;
        let hidden = names.hidden_columns();
        if wildcard::mentions(&query, &hidden) {
            names.show_hidden();
            if let Statement::Statement(sql) = &mut statement {
                wildcard::hide(sql.as_mut(), &hidden, &|name| {
                    let part = |position: usize| {
                        let ident = name.0.get(position)?.as_ident()?;
                        Some(match ident.quote_style {
                            Some(_) => ident.value.clone(),
                            None => ident.value.to_lowercase(),
                        })
                    };
                    match (name.0.len(), part(0), part(1)) {
                        (1, Some(table), _) => names.is_stream(None, &table),
                        (2, Some(schema), Some(table)) => names.is_stream(Some(&schema), &table),
                        _ => false,
                    }
                })?;
            }
        }
        self.prepare(names)?;
        let plan = self
            .session
            .statement_to_plan(statement)
            .await
            .map_err(|error| QueryError::planning(&error))?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|_| statement::read_only())?;
        let plan = parameters::bind(plan, &params)?;
        self.collect(plan, as_of, started).await
    }

    /// Gives the session the query's names, its `now()` and its memory.
    fn prepare(&mut self, names: Names) -> Result<(), QueryError> {
        register(&mut self.session, Arc::new(functions::now(names.hold.tick())))?;
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(NamesCatalog(Arc::new(names))));
        let runtime = RuntimeEnv {
            memory_pool: Arc::new(GreedyMemoryPool::new(self.memory)),
            ..self.session.runtime_env().as_ref().clone()
        };
        self.session = SessionStateBuilder::new_from_existing(self.session.clone())
            .with_runtime_env(Arc::new(runtime))
            .with_catalog_list(Arc::new(catalogs))
            .build();
        Ok(())
    }

    /// One row more than is returned tells whether there are more; the planner makes use of the limit, a sort above all.
    fn limited(&self, plan: LogicalPlan) -> Result<LogicalPlan, QueryError> {
        match plan {
            LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_) => Ok(plan),
            plan => LogicalPlanBuilder::from(plan)
                .limit(0, Some(self.rows.saturating_add(1)))
                .and_then(LogicalPlanBuilder::build)
                .map_err(|error| QueryError::planning(&error)),
        }
    }

    async fn collect(
        &self,
        plan: LogicalPlan,
        as_of: u64,
        started: Instant,
    ) -> Result<QueryResult, QueryError> {
        let plan = self.limited(plan)?;
        let plan = self
            .session
            .optimize(&plan)
            .map_err(|error| QueryError::planning(&error))?;
        let plan = self
            .interrupt
            .watch(plan)
            .map_err(|error| QueryError::planning(&error))?;
        let plan = self
            .session
            .query_planner()
            .create_physical_plan(&plan, &self.session)
            .await
            .map_err(|error| QueryError::planning(&error))?;
        let mut stream =
            execute_stream(plan, self.session.task_ctx()).map_err(|error| QueryError::execution(&error))?;
        let schema = stream.schema();
        let (mut batches, mut row_count, mut bytes, mut truncated) = (Vec::new(), 0, 0, false);
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| QueryError::execution(&error))?;
            if self.interrupt.is_set() {
                return Err(QueryError::new(Kind::TimeLimit, "the query was cancelled"));
            }
            if batch.num_rows() == 0 {
                continue;
            }
            let room = self.rows - row_count;
            bytes += batch.get_array_memory_size();
            if batch.num_rows() > room || bytes > self.bytes {
                let kept = if bytes > self.bytes { 0 } else { room };
                truncated = true;
                row_count += kept;
                if kept > 0 {
                    batches.push(batch.slice(0, kept));
                }
                break;
            }
            row_count += batch.num_rows();
            batches.push(batch);
        }
        Ok(QueryResult {
            schema,
            batches,
            row_count,
            truncated,
            as_of,
            elapsed: started.elapsed(),
        })
    }
}
