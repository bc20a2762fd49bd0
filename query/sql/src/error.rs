//! What can be wrong with a statement, said so that its author can go on.
//!
//! An error names the clause, says what would work instead, and points at the place where one is known. Its code
//! is stable: tools may match on it, texts may change.

use std::fmt;

use datafusion::common::Diagnostic;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

/// A place in the statement, both numbers starting from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

impl Position {
    /// The place a parser names; nothing for the empty place it uses when it does not know.
    pub(crate) fn of(location: Location) -> Option<Position> {
        (location.line > 0).then_some(Position {
            line: location.line,
            column: location.column,
        })
    }

    pub(crate) fn start(span: Span) -> Option<Position> {
        Position::of(span.start)
    }
}

/// What kind of mistake it is; the code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlErrorKind {
    /// The text is not a statement of the language.
    Syntax,
    /// The text is too long, too deeply nested or would grow without bound.
    Limit,
    /// A name that cannot be one.
    Name,
    /// An option of `WITH (…)` that does not exist or has a bad value.
    MonitorOption,
    /// A column, stream or function that does not exist, or types that do not fit.
    Meaning,
    /// A clause that cannot be maintained.
    Clause,
    /// A window in `FROM` with arguments that do not make a window.
    Window,
    /// A function whose value is not decided by its arguments.
    Volatile,
    /// An aggregate function, or a form of one, that cannot be maintained.
    Aggregate,
    /// Aggregation without groups, or over what is already aggregated.
    Grouping,
    /// An output column with a name or a type that a view cannot have.
    Output,
    /// A built-in view that breaks the rules of built-in views.
    BuiltIn,
    /// The planner failed in a way that is not the author's mistake.
    Internal,
}

impl SqlErrorKind {
    pub fn code(self) -> &'static str {
        match self {
            SqlErrorKind::Syntax => "PF-4001",
            SqlErrorKind::Limit => "PF-4002",
            SqlErrorKind::Name => "PF-4003",
            SqlErrorKind::MonitorOption => "PF-4004",
            SqlErrorKind::Meaning => "PF-4005",
            SqlErrorKind::Clause => "PF-4006",
            SqlErrorKind::Window => "PF-4007",
            SqlErrorKind::Volatile => "PF-4008",
            SqlErrorKind::Aggregate => "PF-4009",
            SqlErrorKind::Grouping => "PF-4010",
            SqlErrorKind::Output => "PF-4011",
            SqlErrorKind::BuiltIn => "PF-4012",
            SqlErrorKind::Internal => "PF-4099",
        }
    }
}

/// A statement that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SqlError {
    pub kind: SqlErrorKind,
    /// One sentence: what is wrong.
    pub message: String,
    /// What would work.
    pub hint: Option<String>,
    pub position: Option<Position>,
}

impl SqlError {
    pub(crate) fn new(kind: SqlErrorKind, message: impl Into<String>) -> Self {
        SqlError {
            kind,
            message: message.into(),
            hint: None,
            position: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn at(mut self, position: Option<Position>) -> Self {
        self.position = self.position.or(position);
        self
    }

    /// The stable code, `PF-40xx`.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// What the planner says about the meaning of a statement.
    pub(crate) fn planning(error: &DataFusionError) -> SqlError {
        if let Some(own) = find_own(error) {
            return own.clone();
        }
        let text = error.find_root().strip_backtrace();
        if let Some(own) = quoted_own(&text) {
            return own;
        }
        let diagnostic: Option<&Diagnostic> = error.diagnostic();
        let position = diagnostic
            .and_then(|diagnostic| diagnostic.span)
            .map(|span| Position {
                line: span.start.line,
                column: span.start.column,
            });
        let kind = match error.find_root() {
            // The planner calls it a bug of its own when types do not fit, in BETWEEN for one.
            DataFusionError::Internal(detail) if !detail.contains("coerce types") => SqlErrorKind::Internal,
            _ => SqlErrorKind::Meaning,
        };
        SqlError::new(kind, plain_sentence(&text)).at(position)
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code(), self.message)?;
        if let Some(Position { line, column }) = self.position {
            write!(out, " (line {line}, column {column})")?;
        }
        if let Some(hint) = &self.hint {
            write!(out, "; {hint}")?;
        }
        Ok(())
    }
}

impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

/// An error of ours that travelled through the planner.
fn find_own(error: &DataFusionError) -> Option<&SqlError> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(own) = current.downcast_ref::<SqlError>() {
            return Some(own);
        }
        if let Some(DataFusionError::External(inner)) = current.downcast_ref::<DataFusionError>()
            && let Some(own) = inner.downcast_ref::<SqlError>()
        {
            return Some(own);
        }
        cause = current.source();
    }
    None
}

/// An error of ours that the planner has put into a sentence: what the type check of an aggregate says arrives as
/// `… failed with: External error: PF-4009: sum takes numbers, not Utf8. No function matches …`.
fn quoted_own(text: &str) -> Option<SqlError> {
    let (_, said) = text.split_once("External error: PF-")?;
    let (digits, message) = said.split_once(": ")?;
    let kind = [
        SqlErrorKind::Aggregate,
        SqlErrorKind::Window,
        SqlErrorKind::Volatile,
    ]
    .into_iter()
    .find(|kind| kind.code().strip_prefix("PF-") == Some(digits))?;
    let message = message.split(". No function matches").next().unwrap_or(message);
    Some(SqlError::new(kind, message))
}

/// The planner's text without its own prefixes and without what only its developers need.
fn plain_sentence(text: &str) -> String {
    const PREFIXES: [&str; 7] = [
        "Internal error: ",
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Optimizer rule failed: ",
    ];
    let mut rest = text.trim();
    while let Some(stripped) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = stripped;
    }
    let rest = ["\n\nbacktrace", "\nThis issue was likely caused"]
        .iter()
        .fold(rest, |rest, end| rest.split(end).next().unwrap_or(rest))
        .trim_end_matches(['.', ' ', '\n']);
    const LONGEST: usize = 1_000;
    match rest.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &rest[..end]),
        None => rest.to_string(),
    }
}
