//! Why a query has no answer: a stable code, a sentence that says what to do, and where in the text it is.

use datafusion::common::{DataFusionError, SchemaError};
use serde::Serialize;

use crate::source::SourceError;

/// A place in the query's text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

/// What kind of failure it is; decides code and HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Syntax,
    Planning,
    ReadOnly,
    Parameters,
    TooLong,
    Literal,
    TimeLimit,
    MemoryLimit,
    Busy,
    Execution,
    Source,
    Request,
    Internal,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", self.code())]
pub struct QueryError {
    pub kind: Kind,
    pub message: String,
    pub hint: Option<String>,
    pub position: Option<Position>,
}

impl QueryError {
    pub fn new(kind: Kind, message: impl Into<String>) -> QueryError {
        QueryError {
            kind,
            message: message.into(),
            hint: None,
            position: None,
        }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> QueryError {
        self.hint = Some(hint.into());
        self
    }

    pub fn code(&self) -> &'static str {
        match self.kind {
            Kind::Syntax => "PF-4060",
            Kind::Planning => "PF-4061",
            Kind::ReadOnly => "PF-4062",
            Kind::Parameters => "PF-4063",
            Kind::TooLong => "PF-4064",
            Kind::Literal => "PF-4065",
            Kind::TimeLimit => "PF-4066",
            Kind::MemoryLimit => "PF-4067",
            Kind::Busy => "PF-4068",
            Kind::Execution => "PF-4069",
            Kind::Source => "PF-4070",
            Kind::Request => "PF-4071",
            Kind::Internal => "PF-4072",
        }
    }

    /// The HTTP status that says whose turn it is.
    pub fn status(&self) -> u16 {
        match self.kind {
            Kind::TooLong => 413,
            Kind::TimeLimit => 504,
            Kind::Busy => 503,
            Kind::Source => 503,
            Kind::Internal => 500,
            Kind::MemoryLimit | Kind::Execution => 422,
            _ => 400,
        }
    }

    /// A problem met while the text became a plan.
    pub(crate) fn planning(error: &DataFusionError) -> QueryError {
        QueryError::from_datafusion(error, Kind::Planning)
    }

    /// A problem met while the plan ran.
    pub(crate) fn execution(error: &DataFusionError) -> QueryError {
        QueryError::from_datafusion(error, Kind::Execution)
    }

    fn from_datafusion(error: &DataFusionError, otherwise: Kind) -> QueryError {
        let position = error.diagnostic().and_then(|diagnostic| {
            let start = diagnostic.span?.start;
            (start.line > 0).then_some(Position {
                line: start.line,
                column: start.column,
            })
        });
        let root = error.find_root();
        if let DataFusionError::External(external) = root {
            if let Some(ours) = external.downcast_ref::<QueryError>() {
                return ours.clone();
            }
            if let Some(source) = external.downcast_ref::<SourceError>() {
                return source.clone().into();
            }
        }
        let (kind, message) = match root {
            DataFusionError::SQL(parser, _) => return QueryError::syntax(&parser.to_string()),
            DataFusionError::ResourcesExhausted(_) => (
                Kind::MemoryLimit,
                "the query needs more memory than a query may use; narrow the time range, select fewer columns, or group by fewer values".to_owned(),
            ),
            // The planner calls it a bug of its own when types do not fit, in BETWEEN for one.
            DataFusionError::Internal(detail) if detail.contains("coerce types") => {
                (otherwise, shorten(detail))
            }
            DataFusionError::Internal(detail) => (Kind::Internal, detail.clone()),
            DataFusionError::SchemaError(schema, _) => (otherwise, unknown_column(schema)),
            DataFusionError::Plan(detail) => (otherwise, shorten(detail)),
            other => (otherwise, shorten(&other.strip_backtrace())),
        };
        QueryError {
            kind,
            message,
            hint: None,
            position,
        }
    }

    /// A message of the parser, which ends in the place if it knows one.
    pub(crate) fn syntax(message: &str) -> QueryError {
        let text = message.strip_prefix("sql parser error: ").unwrap_or(message);
        let place = text.rfind(" at Line: ").and_then(|at| {
            let (line, column) = text[at + " at Line: ".len()..].split_once(", Column: ")?;
            Some((
                at,
                Position {
                    line: line.parse().ok()?,
                    column: column.trim().parse().ok()?,
                },
            ))
        });
        let (text, position) = match place {
            Some((at, position)) if position.line > 0 => (&text[..at], Some(position)),
            Some((at, _)) => (&text[..at], None),
            None => (text, None),
        };
        QueryError {
            kind: Kind::Syntax,
            message: text.to_owned(),
            hint: None,
            position,
        }
    }
}

/// DataFusion lists every column it knows; a reader wants the unknown one.
fn unknown_column(error: &SchemaError) -> String {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let mut known: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            known.dedup();
            let shown = known.iter().take(40).copied().collect::<Vec<_>>().join(", ");
            let more = if known.len() > 40 { ", …" } else { "" };
            format!(
                "there is no column {}; there are: {shown}{more}",
                field.quoted_flat_name()
            )
        }
        other => other.to_string(),
    }
}

fn shorten(message: &str) -> String {
    const LONGEST: usize = 2000;
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

impl From<SourceError> for QueryError {
    fn from(error: SourceError) -> QueryError {
        QueryError::new(Kind::Source, error.0)
    }
}
