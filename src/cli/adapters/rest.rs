//! The engine for the REST API: statements run, monitors explained.

use std::sync::Arc;

use async_trait::async_trait;
use pyflare_dataflows::{Engine, EngineError, ViewName};
use pyflare_live as live;
use pyflare_rest as rest;
use pyflare_sql::Statement;

use super::{engine_failure, engine_name, is_temporary, live_view, plan_scope, sql_failure};

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
            Statement::AlterMonitor { name, if_exists, .. } => rest::Statement::Alter { name, if_exists },
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

    async fn alter(
        &self,
        scope: &live::Scope,
        name: &live::ViewName,
        sql: &str,
    ) -> Result<(), live::Failure> {
        let name = engine_name(name);
        if name.project.is_none() {
            return Err(engine_failure(&EngineError::Builtin {
                name: name.to_string(),
            }));
        }
        let unknown = || {
            engine_failure(&EngineError::Unknown {
                name: name.to_string(),
            })
        };
        let view = self.engine.view_named(&name).ok_or_else(unknown)?;
        let Statement::AlterMonitor { changes, .. } = self.statement(scope, sql)? else {
            return Err(live::Failure::new(
                live::FailureKind::Invalid,
                "PF-4001",
                "an ALTER MONITOR statement is expected",
            ));
        };
        let altered = changes
            .statement(&view.definition)
            .map_err(|error| sql_failure(&error))?;
        self.create(scope, &altered).await.map(drop)
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
