//! The engine and the store behind the traits that the query crates ask for.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use pyflare_dataflows::{
    Companion, Engine, EngineError, SubscribeOptions, Subscription, ViewDescription, ViewName,
};
use pyflare_delta::DeltaStore;
use pyflare_history as history;
use pyflare_live as live;
use pyflare_rest as rest;
use pyflare_sql::{PlanScope, SqlError, Statement, ViewColumns};

/// Monitors that live as long as a subscription start with this; users cannot choose such names.
const TEMPORARY: &str = "$";

/// Ad-hoc SQL over the engine.
pub struct EngineSource {
    pub engine: Engine,
    pub stored: bool,
}

struct EngineHold(pyflare_dataflows::ReadHold);

impl history::Hold for EngineHold {
    fn tick(&self) -> u64 {
        self.0.tick()
    }
}

pub(super) fn source_error(error: impl std::fmt::Display) -> history::SourceError {
    history::SourceError(error.to_string())
}

#[async_trait]
impl history::LiveSource for EngineSource {
    fn hold(&self) -> Arc<dyn history::Hold> {
        Arc::new(EngineHold(self.engine.hold()))
    }

    fn views(&self, scope: &history::Scope) -> Vec<history::ViewDescription> {
        let mut views = self.engine.views();
        views.extend(self.engine.companions());
        let visible = views
            .iter()
            .filter(|view| scope.sees(view.name.project.as_deref()) && !is_temporary(&view.name));
        visible
            .map(|view| history::ViewDescription {
                name: view.name.name.clone(),
                project: view.name.project.clone(),
                schema: Arc::clone(&view.schema),
                stored: self.stored && view.companion_of.is_none(),
            })
            .collect()
    }

    fn streams(&self, scope: &history::Scope) -> Vec<history::StreamDescription> {
        let mut streams = history::signal_streams();
        let declared = self.engine.streams().into_iter();
        let seen = declared.filter(|stream| scope.sees(stream.name.project.as_deref()));
        streams.extend(seen.map(|stream| history::StreamDescription {
            name: stream.name.name,
            project: stream.name.project,
            schema: stream.schema,
            table: stream.table,
        }));
        streams
    }

    async fn peek(
        &self,
        view: &history::ViewDescription,
        hold: &Arc<dyn history::Hold>,
        request: history::PeekRequest,
        scope: &history::Scope,
    ) -> Result<Vec<RecordBatch>, history::SourceError> {
        let name = ViewName {
            project: view.project.clone(),
            name: view.name.clone(),
        };
        let found = self
            .engine
            .peek_at(&name, hold.tick(), scope.project.as_deref())
            .await
            .map_err(source_error)?;
        let Some(columns) = request.projection else {
            return Ok(found.batches);
        };
        found
            .batches
            .iter()
            .map(|batch| batch.project(&columns).map_err(source_error))
            .collect()
    }

    async fn tail(
        &self,
        relation: &history::Relation,
        hold: &Arc<dyn history::Hold>,
        _scope: &history::Scope,
    ) -> Result<history::Tail, history::SourceError> {
        let tail = match relation {
            history::Relation::Stream(stream) => match &stream.project {
                None => self.engine.tail(&stream.name, hold.tick()),
                Some(project) => {
                    let name = ViewName::of_project(project, &stream.name);
                    self.engine.stream_tail(&name, hold.tick())
                }
            },
            history::Relation::Changes(view) => {
                let name = ViewName {
                    project: view.project.clone(),
                    name: view.name.clone(),
                };
                self.engine.changes_tail(&name, hold.tick())
            }
        };
        Ok(history::Tail {
            flushed: tail.flushed,
            batches: tail.batches,
        })
    }
}

/// Stored tables; a view's changes lie under a name that also says which incarnation it is.
pub struct DeltaTables {
    pub engine: Engine,
    pub store: Option<Arc<DeltaStore>>,
}

#[async_trait]
impl history::StoredTables for DeltaTables {
    async fn provider(&self, table: &str) -> Result<Option<Arc<dyn TableProvider>>, history::SourceError> {
        let Some(store) = &self.store else { return Ok(None) };
        let table = match table.strip_suffix("_changes") {
            Some(view) => {
                let name = match view.split_once('/') {
                    Some((project, name)) => ViewName::of_project(project, name),
                    None => ViewName::builtin(view),
                };
                match self.engine.view_named(&name) {
                    Some(view) => view.changes_table.clone(),
                    None => return Ok(None),
                }
            }
            None => table.to_string(),
        };
        store.provider(&table).await.map_err(source_error)
    }
}

pub(super) fn is_temporary(name: &ViewName) -> bool {
    name.name.starts_with(TEMPORARY)
}

/// What a project's statements are planned with.
pub(super) fn plan_scope(engine: &Engine, project: Option<&str>) -> PlanScope {
    let visible = |view: &&Arc<ViewDescription>| {
        let own = view.name.project.is_none() || view.name.project.as_deref() == project;
        own && !is_temporary(&view.name)
    };
    let views = engine.views();
    let streams = engine.streams().into_iter();
    PlanScope {
        project: project.map(str::to_string),
        streams: streams
            .filter(|stream| stream.name.project.as_deref() == project)
            .map(|stream| stream.definition)
            .collect(),
        views: views
            .iter()
            .filter(visible)
            .map(|view| ViewColumns {
                name: view.name.name.clone(),
                builtin: view.name.project.is_none(),
                schema: Arc::clone(&view.schema),
            })
            .collect(),
    }
}

fn live_name(name: &ViewName) -> live::ViewName {
    live::ViewName {
        project: name.project.clone(),
        name: name.name.clone(),
    }
}

fn engine_name(name: &live::ViewName) -> ViewName {
    ViewName {
        project: name.project.clone(),
        name: name.name.clone(),
    }
}

fn live_view(view: &ViewDescription, replaying: bool) -> live::View {
    let companions = match view.companion_of {
        None => Companion::ALL
            .map(|companion| format!("{}{}", view.name.name, companion.suffix()))
            .to_vec(),
        Some(_) => Vec::new(),
    };
    live::View {
        companions,
        name: live_name(&view.name),
        sql: view.sql.clone(),
        description: view.description.clone(),
        schema: Arc::clone(&view.schema),
        key: view.key.clone(),
        start: view.start,
        state: match &view.stopped {
            Some(_) => "stopped",
            None if replaying => "recovering",
            None => "live",
        },
        reason: view.stopped.clone(),
        rows: view.rows,
        late_rows: view.late_rows,
        errors: view.errors,
        retention_us: view.definition.retention_us(),
        lateness_us: view.definition.lateness_us(),
        temporary: is_temporary(&view.name),
    }
}

pub(super) fn engine_failure(error: &EngineError) -> live::Failure {
    let kind = match error {
        EngineError::Exists { .. } => live::FailureKind::Conflict,
        EngineError::Unknown { .. } | EngineError::UnknownStream { .. } => live::FailureKind::NotFound,
        EngineError::Builtin { .. }
        | EngineError::Companion { .. }
        | EngineError::InUse { .. }
        | EngineError::StreamExists { .. }
        | EngineError::Changed { .. } => live::FailureKind::Conflict,
        EngineError::Plan(_) => live::FailureKind::Invalid,
        EngineError::Closed | EngineError::WorkerFailed => live::FailureKind::Unavailable,
        _ => live::FailureKind::Internal,
    };
    live::Failure::from_error(kind, error)
}

pub(super) fn sql_failure(error: &SqlError) -> live::Failure {
    let position = error.position.map(|at| live::Position {
        line: at.line,
        column: at.column,
    });
    let mut failure =
        live::Failure::new(live::FailureKind::Invalid, error.code(), error.message.clone()).at(position);
    failure.hint = error.hint.clone();
    failure
}

/// The engine's views for subscribers.
pub struct EngineViews {
    pub engine: Engine,
}

struct EngineSubscription(Subscription, Vec<usize>);

#[async_trait]
impl live::Subscription for EngineSubscription {
    fn schema(&self) -> arrow::datatypes::SchemaRef {
        self.0.schema()
    }

    fn key(&self) -> &[usize] {
        &self.1
    }

    async fn next(&mut self) -> live::Event {
        match self.0.next().await {
            pyflare_dataflows::Event::Frame(frame) => live::Event::Frame(live::Frame {
                lower: frame.lower,
                upper: frame.upper,
                reset: frame.reset,
                batch: frame.batch,
                diffs: frame.diffs,
                resume: frame.resume,
            }),
            pyflare_dataflows::Event::End { reason } => live::Event::End { reason },
        }
    }
}

#[async_trait]
impl live::Views for EngineViews {
    fn views(&self) -> Vec<Arc<live::View>> {
        let replaying = self.engine.status().replaying;
        self.engine
            .views()
            .iter()
            .map(|view| Arc::new(live_view(view, replaying)))
            .collect()
    }

    fn view(&self, project: Option<&str>, name: &str) -> Option<Arc<live::View>> {
        let view = self.engine.view(project, name)?;
        Some(Arc::new(live_view(&view, false)))
    }

    fn subscribe(
        &self,
        view: &live::ViewName,
        options: live::SubscribeOptions,
    ) -> Result<Box<dyn live::Subscription>, live::Failure> {
        let live::SubscribeOptions {
            snapshot,
            progress,
            resume,
            project,
        } = options;
        let options = SubscribeOptions {
            snapshot,
            progress,
            resume,
            project,
            ..SubscribeOptions::default()
        };
        let subscription = self
            .engine
            .subscribe(&engine_name(view), options)
            .map_err(|error| engine_failure(&error))?;
        let key = subscription.key().to_vec();
        Ok(Box::new(EngineSubscription(subscription, key)))
    }

    async fn install_temporary(
        &self,
        project: &str,
        name: &str,
        query: &str,
    ) -> Result<Arc<live::View>, live::Failure> {
        let statement = format!("CREATE MONITOR subscription AS {query}");
        let scope = plan_scope(&self.engine, Some(project));
        let parsed = tokio::task::spawn_blocking(move || pyflare_sql::parse(&statement, &scope)).await;
        let mut definition = match parsed {
            Ok(Ok(Statement::CreateMonitor(create))) => create.definition,
            Ok(Err(error)) => return Err(sql_failure(&error)),
            _ => {
                return Err(live::Failure::new(
                    live::FailureKind::Invalid,
                    "PF-5014",
                    "a subscription takes one SELECT over a stream, such as SELECT … FROM spans …",
                ));
            }
        };
        definition.name = format!("{TEMPORARY}{}", name.trim_start_matches('$'));
        let view = self
            .engine
            .install(definition, true)
            .await
            .map_err(|error| engine_failure(&error))?;
        Ok(Arc::new(live_view(&view, false)))
    }

    async fn drop_temporary(&self, view: &live::ViewName) {
        if let Err(error) = self.engine.drop_monitor(&engine_name(view)).await {
            tracing::debug!(%error, "a temporary monitor was already gone");
        }
    }
}

/// The engine for the REST API.
pub struct EngineApi {
    pub engine: Engine,
}

impl EngineApi {
    fn statement(&self, scope: &live::Scope, sql: &str) -> Result<Statement, live::Failure> {
        let scope = plan_scope(&self.engine, Some(scope.owner()));
        pyflare_sql::parse(sql, &scope).map_err(|error| sql_failure(&error))
    }
}

/// A monitor in words; only the project's own monitors and built-in views are named.
fn explanation(engine: &Engine, explained: pyflare_sql::Explained) -> rest::Explanation {
    let project = explained.definition.project.as_deref();
    let seen = |name: &&ViewName| {
        let own = name.project.is_none() || name.project.as_deref() == project;
        own && !is_temporary(name)
    };
    let mut shared = engine.shared_nodes(&explained.definition);
    let nodes = explained.nodes.iter().map(|node| rest::PlanNode {
        node: node.node,
        inputs: node.inputs.clone(),
        title: node.title.clone(),
        detail: node.detail.clone(),
        shared_with: {
            let readers = shared.remove(&node.node).unwrap_or_default();
            let readers = readers.iter().filter(seen);
            readers.map(|name| name.name.clone()).collect()
        },
    });
    let nodes = nodes.collect();
    let key = explained
        .key
        .iter()
        .filter_map(|name| explained.schema.index_of(name).ok())
        .collect();
    rest::Explanation {
        lines: explained
            .lines()
            .into_iter()
            .map(|(topic, text)| (topic.to_string(), text))
            .collect(),
        schema: Arc::clone(&explained.schema),
        key,
        plan: explained.plan,
        logical: explained.logical,
        nodes,
        analyze: None,
        operators: explained.operators,
        state: explained.state_bound,
        fingerprint: explained.fingerprint,
    }
}

#[async_trait]
impl rest::Engine for EngineApi {
    fn read(&self, scope: &live::Scope, sql: &str) -> Result<rest::Statement, live::Failure> {
        Ok(match self.statement(scope, sql)? {
            Statement::CreateMonitor(create) => rest::Statement::Create {
                name: create.name,
                or_replace: create.or_replace,
                if_not_exists: create.if_not_exists,
            },
            Statement::DropMonitor {
                name,
                if_exists,
                cascade,
            } => rest::Statement::Drop {
                name,
                if_exists,
                cascade,
            },
            Statement::ShowMonitors => rest::Statement::Show,
            Statement::ExplainMonitor(explained) => {
                rest::Statement::Explain(Box::new(explanation(&self.engine, *explained)))
            }
            Statement::ExplainNamedMonitor { name, analyze } => {
                rest::Statement::ExplainNamed { name, analyze }
            }
            Statement::CreateStream {
                definition,
                if_not_exists,
            } => rest::Statement::CreateStream {
                name: definition.name,
                if_not_exists,
            },
            Statement::DropStream { name, if_exists } => rest::Statement::DropStream { name, if_exists },
            Statement::ShowStreams => rest::Statement::ShowStreams,
            Statement::Describe { name } => rest::Statement::Describe { name },
            Statement::Query(_) => rest::Statement::Query,
        })
    }

    async fn create(&self, scope: &live::Scope, sql: &str) -> Result<rest::Created, live::Failure> {
        let plan_scope = plan_scope(&self.engine, Some(scope.owner()));
        let sql = sql.to_string();
        let parsed = tokio::task::spawn_blocking(move || pyflare_sql::parse(&sql, &plan_scope)).await;
        let create = match parsed {
            Ok(Ok(Statement::CreateMonitor(create))) => create,
            Ok(Err(error)) => return Err(sql_failure(&error)),
            _ => {
                return Err(live::Failure::new(
                    live::FailureKind::Invalid,
                    "PF-4001",
                    "a CREATE MONITOR statement is expected",
                ));
            }
        };
        let name = ViewName::of_project(scope.owner(), create.name.clone());
        let existing = self.engine.view_named(&name);
        if let (Some(view), true) = (&existing, create.if_not_exists) {
            return Ok(rest::Created::Existing(Arc::new(live_view(view, false))));
        }
        let installed = self.engine.install(create.definition, create.or_replace).await;
        let view = Arc::new(live_view(
            &*installed.map_err(|error| engine_failure(&error))?,
            false,
        ));
        Ok(match existing {
            Some(_) => rest::Created::Replaced(view),
            None => rest::Created::New(view),
        })
    }

    async fn drop_with_readers(&self, name: &live::ViewName) -> Result<(), live::Failure> {
        // Each step ends with a monitor less, or with the refusal.
        let mut waiting = vec![engine_name(name)];
        while let Some(next) = waiting.last() {
            match self.engine.drop_monitor(next).await {
                Ok(()) => drop(waiting.pop()),
                Err(EngineError::InUse { reader, .. }) => match reader.rsplit_once('/') {
                    Some((project, reader)) => waiting.push(ViewName::of_project(project, reader)),
                    None => return Err(engine_failure(&EngineError::Builtin { name: reader })),
                },
                // A reader that has gone meanwhile is what was wanted.
                Err(EngineError::Unknown { .. }) if waiting.len() > 1 => drop(waiting.pop()),
                Err(error) => return Err(engine_failure(&error)),
            }
        }
        Ok(())
    }

    async fn drop_monitor(&self, name: &live::ViewName) -> Result<(), live::Failure> {
        self.engine
            .drop_monitor(&engine_name(name))
            .await
            .map_err(|error| engine_failure(&error))
    }

    fn explain(&self, name: &live::ViewName, analyze: bool) -> Result<rest::Explanation, live::Failure> {
        let name = engine_name(name);
        let view = self.engine.view_named(&name);
        let view = view.ok_or_else(|| {
            engine_failure(&EngineError::Unknown {
                name: name.to_string(),
            })
        })?;
        let scope = plan_scope(&self.engine, view.name.project.as_deref());
        let explained =
            pyflare_sql::explain(&view.definition, &scope).map_err(|error| sql_failure(&error))?;
        let mut explanation = explanation(&self.engine, explained);
        if analyze {
            let figures = self.engine.operators_by_node(&name).unwrap_or_default();
            let figures: Vec<rest::NodeFigures> = figures
                .into_iter()
                .map(|(node, figure)| rest::NodeFigures {
                    node,
                    rows_out: figure.rows_out,
                    state_rows: figure.state_rows,
                    state_bytes: figure.state_bytes,
                    busy_us: figure.busy_us,
                })
                .collect();
            explanation.lines.extend(figures.iter().map(|figures| {
                let text = format!(
                    "node {}: {} rows out, {} rows kept in about {} bytes, {} µs busy",
                    figures.node, figures.rows_out, figures.state_rows, figures.state_bytes, figures.busy_us
                );
                ("analyze".to_string(), text)
            }));
            explanation.analyze = Some(figures);
        }
        Ok(explanation)
    }

    fn status(&self) -> rest::Status {
        let status = self.engine.status();
        let rows = [("spans", 0), ("metrics", 1), ("logs", 2)];
        rest::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            tick: status.tick,
            complete_tick: status.complete_tick,
            workers: status.workers as u64,
            replaying: status.replaying,
            lag_ms: status.lag_ms,
            rows_admitted: rows
                .into_iter()
                .map(|(name, index)| (name.to_string(), status.rows[index]))
                .collect(),
            duplicates: status.duplicate_requests,
            late_rows: self.engine.views().iter().map(|view| view.late_rows).sum(),
            decode_errors: status.failed_requests,
            rejected_rows: status.rejected_rows,
            log_backlog_bytes: self.engine.backlog_bytes(),
            flushed_cut: status.flushed_tick,
        }
    }

    fn readiness(&self) -> rest::Readiness {
        let status = self.engine.status();
        let mut reasons = Vec::new();
        if status.replaying {
            reasons.push("the log is being replayed".to_string());
        }
        if let Some(failure) = status.failure {
            reasons.push(format!("the engine has stopped: {failure}"));
        }
        if let Some(failure) = status.store_failure {
            reasons.push(format!("the store refuses writes: {failure}"));
        }
        if status.lag_ms > 10_000 {
            reasons.push(format!("the dataflow is {} ms behind", status.lag_ms));
        }
        rest::Readiness { reasons }
    }
}
