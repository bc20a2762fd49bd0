//! The engine and the store behind the traits that the query crates ask for: names, scopes and errors in their words.

mod history;
mod live;
mod rest;

use std::sync::Arc;

use pyflare_connectors::LogError;
use pyflare_dataflows::{Companion, Engine, EngineError, ViewDescription, ViewName};
use pyflare_history::SourceError;
use pyflare_sql::{PlanScope, SqlError, ViewColumns};

pub use self::history::{EngineSource, EngineTables};
pub use self::live::EngineViews;
pub use self::rest::EngineApi;

/// Monitors that live as long as a subscription start with this; users cannot choose such names.
const TEMPORARY: &str = "$";

pub(in crate::cli) fn source_error(error: impl std::fmt::Display) -> SourceError {
    SourceError(error.to_string())
}

pub(in crate::cli) fn is_temporary(name: &ViewName) -> bool {
    name.name.starts_with(TEMPORARY)
}

/// What a project's statements are planned with.
pub(in crate::cli) fn plan_scope(engine: &Engine, project: Option<&str>) -> PlanScope {
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

pub(super) fn live_name(name: &ViewName) -> pyflare_live::ViewName {
    pyflare_live::ViewName {
        project: name.project.clone(),
        name: name.name.clone(),
    }
}

pub(super) fn engine_name(name: &pyflare_live::ViewName) -> ViewName {
    ViewName {
        project: name.project.clone(),
        name: name.name.clone(),
    }
}

pub(super) fn live_view(view: &ViewDescription, replaying: bool) -> pyflare_live::View {
    let companions = match view.companion_of {
        None => Companion::ALL
            .map(|companion| format!("{}{}", view.name.name, companion.suffix()))
            .to_vec(),
        Some(_) => Vec::new(),
    };
    pyflare_live::View {
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

pub(in crate::cli) fn engine_failure(error: &EngineError) -> pyflare_live::Failure {
    let kind = match error {
        EngineError::Exists { .. } => pyflare_live::FailureKind::Conflict,
        EngineError::Unknown { .. }
        | EngineError::UnknownStream { .. }
        | EngineError::UnknownErasure { .. } => pyflare_live::FailureKind::NotFound,
        EngineError::Builtin { .. }
        | EngineError::Companion { .. }
        | EngineError::InUse { .. }
        | EngineError::StreamExists { .. }
        | EngineError::Changed { .. } => pyflare_live::FailureKind::Conflict,
        EngineError::Plan(_) | EngineError::Backfill { .. } | EngineError::Erasure { .. } => {
            pyflare_live::FailureKind::Invalid
        }
        EngineError::Topic(
            LogError::Topic { .. } | LogError::NoTopics { .. } | LogError::NotForStreams { .. },
        ) => pyflare_live::FailureKind::Invalid,
        EngineError::Output { .. } => pyflare_live::FailureKind::Invalid,
        EngineError::Topic(_) => pyflare_live::FailureKind::Unavailable,
        EngineError::Unreadable { .. } | EngineError::Closed | EngineError::WorkerFailed => {
            pyflare_live::FailureKind::Unavailable
        }
        _ => pyflare_live::FailureKind::Internal,
    };
    pyflare_live::Failure::from_error(kind, error)
}

pub(in crate::cli) fn sql_failure(error: &SqlError) -> pyflare_live::Failure {
    let position = error.position.map(|at| pyflare_live::Position {
        line: at.line,
        column: at.column,
    });
    let mut failure = pyflare_live::Failure::new(
        pyflare_live::FailureKind::Invalid,
        error.code(),
        error.message.clone(),
    )
    .at(position);
    failure.hint = error.hint.clone();
    failure
}
