//! The engine's views for subscribers.

use std::sync::Arc;

use async_trait::async_trait;
use pyflare_dataflows::{Engine, Refusal, SubscribeOptions, Subscription};
use pyflare_live as live;
use pyflare_sql::Statement;

use super::{TEMPORARY, engine_failure, engine_name, live_view, plan_scope, sql_failure};

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
            pyflare_dataflows::Event::Refused { refusal, reason } => {
                let (kind, code) = match refusal {
                    Refusal::Tick => (live::FailureKind::Invalid, "PF-5022"),
                    Refusal::NoWindow => (live::FailureKind::Invalid, "PF-5034"),
                    Refusal::OpenWindows => (live::FailureKind::TooLarge, "PF-5035"),
                };
                live::Event::Refused(live::Failure::new(kind, code, reason))
            }
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
            as_of,
            up_to,
            closed_windows,
            project,
        } = options;
        let options = SubscribeOptions {
            snapshot,
            progress,
            resume,
            as_of,
            up_to,
            closed_windows,
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
