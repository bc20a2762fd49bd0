//! The plan of a monitor: what is computed, without any type of DataFusion or differential dataflow in it.
//!
//! A plan is serializable and canonical, so its blake3 [`Plan::fingerprint`] is stable across processes. Columns
//! are referred to by name; every node's output names are unique. `query/sql` lowers DataFusion's logical plans to
//! this form, `render` turns it into operators.

pub mod builtin;
mod expr;
mod schema;
mod sessions;
mod source;
mod window;

use serde::{Deserialize, Serialize};

pub(crate) use expr::guarded;
pub use pyflare_operators::aggregate::{Relationship, Spread};

pub use expr::{BinaryOp, Branch, Expr, Literal, compile, scalar_function, scalar_functions};
pub(crate) use schema::marked;
pub use schema::{MARK, WINDOW_END, WINDOW_START};
pub use sessions::DAY_US;
pub use source::Declared;
pub(crate) use source::source_schema;
pub use window::window_functions;
pub(crate) use window::{Windowing, frame};

/// Why a plan cannot be built or run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlanError {
    #[error("PF-3101: there is no column {name:?}; there are: {available}")]
    UnknownColumn { name: String, available: String },
    #[error("PF-3102: there is no stream {name:?}; there are: spans, logs, metrics")]
    UnknownStream { name: String },
    #[error("PF-3103: the expression {expression} cannot be evaluated: {detail}")]
    Expression { expression: String, detail: String },
    #[error("PF-3104: this plan cannot be maintained: {detail}")]
    Unsupported { detail: String },
}

impl PlanError {
    pub fn code(&self) -> &'static str {
        match self {
            PlanError::UnknownColumn { .. } => "PF-3101",
            PlanError::UnknownStream { .. } => "PF-3102",
            PlanError::Expression { .. } => "PF-3103",
            PlanError::Unsupported { .. } => "PF-3104",
        }
    }
}

/// A relation, computed from streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "node", rename_all = "snake_case")]
pub enum Plan {
    /// All columns of a stream, hidden ones included: of one of `operators::fields`, or of one that a user declared.
    Source {
        stream: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        declared: Option<Declared>,
    },
    /// Rows whose event time lies in `now − after_us < time ≤ now − until_us`, where a bound is given; `now` is the
    /// tick, floored to a multiple of `quantum_us`. Stands directly above a source.
    Recent {
        input: Box<Plan>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_us: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_us: Option<i64>,
        quantum_us: i64,
    },
    /// Rows for which the predicate is true (neither false nor NULL).
    Filter { input: Box<Plan>, predicate: Expr },
    /// Exactly these columns.
    Project {
        input: Box<Plan>,
        columns: Vec<NamedExpr>,
    },
    /// Adds `window_start` and `window_end` (timestamps µs UTC): the tumbling window of `size_us` microseconds,
    /// aligned to the Unix epoch, that holds the timestamp column `time`. Rows whose time is NULL are dropped.
    /// With `slide_us` windows begin that often (HOP), and a row is there once for every window that holds it.
    Tumble {
        input: Box<Plan>,
        time: String,
        size_us: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slide_us: Option<i64>,
    },
    /// Every row once for each element of the list `column`, which becomes the element; rows whose list is NULL or
    /// empty are dropped. Rows with more than 10,000 elements are in error.
    Unnest { input: Box<Plan>, column: String },
    /// Constant rows. Each expression is without columns and has the column's type.
    Values {
        columns: Vec<Column>,
        rows: Vec<Vec<Expr>>,
    },
    /// One row per distinct key. Output columns: the keys, then the aggregates. Without keys: exactly one row, also
    /// on empty input.
    Aggregate {
        input: Box<Plan>,
        keys: Vec<NamedExpr>,
        aggregates: Vec<Aggregate>,
    },
    /// One row per session of each distinct key: rows of one UTC day of which each lies less than `gap_us` after the
    /// one before, by the timestamp column `time`; rows whose time is NULL are in none. Output columns: the keys,
    /// `window_start` (the first time), `window_end` (the last one and the gap), the aggregates.
    Sessions {
        input: Box<Plan>,
        keys: Vec<NamedExpr>,
        time: String,
        gap_us: i64,
        aggregates: Vec<Aggregate>,
    },
    /// All rows of another view, which is maintained by itself. Its columns are part of the plan: a view that is
    /// replaced by one with others must not change the meaning of what is installed over it.
    View { name: String, columns: Vec<Column> },
    /// Pairs of rows whose keys are equal and for which `residual` is true; see [`JoinKind`] for what else. Output:
    /// the columns of `left`, then those of `right` (of a semi or anti join only the former); no name occurs twice.
    Join {
        kind: JoinKind,
        left: Box<Plan>,
        right: Box<Plan>,
        on: Vec<JoinKey>,
        /// Over the columns of both sides.
        residual: Option<Expr>,
        /// What `residual` says about how far the sides lie apart: other pairs need not be looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interval: Option<Interval>,
        /// Whether NULL equals NULL in keys, as in INTERSECT and EXCEPT; else a NULL matches nothing.
        nulls_equal: bool,
    },
    /// The rows of all inputs together. They have the same names and types.
    Union { inputs: Vec<Plan> },
    /// Of each partition the rows number `skip + 1` to `skip + fetch` in the given order; rows that compare equal
    /// are ordered by all their columns, so that the choice does not depend on arrival.
    Top {
        input: Box<Plan>,
        partition: Vec<Expr>,
        order: Vec<OrderKey>,
        skip: u64,
        fetch: Option<u64>,
    },
    /// Adds columns that look at the other rows of a row's partition.
    Window {
        input: Box<Plan>,
        partition: Vec<Expr>,
        order: Vec<OrderKey>,
        functions: Vec<WindowColumn>,
        /// Aggregates of each row's frame, after the functions.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        aggregates: Vec<FramedAggregate>,
    },
}

/// A column of a view that a plan reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// As Arrow prints it.
    pub data_type: String,
}

/// Which rows a join gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinKind {
    Inner,
    /// Also the left rows without a match, with NULL for the right columns.
    Left,
    Right,
    Full,
    /// Left rows with a match, each as often as it is on the left.
    Semi,
    /// Left rows without a match.
    Anti,
    /// All left rows, with a column [`MARK`] that says whether there is a match.
    Mark,
    /// `NOT IN`: as `Anti`, but a NULL on the right leaves no row, and a left NULL stays only if nothing is on the
    /// right. Has one key and no residual.
    NullAwareAnti,
}

impl JoinKind {
    /// Whether the output has the columns of the right side.
    pub fn shows_right(self) -> bool {
        matches!(
            self,
            JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full
        )
    }
}

/// `left = right`, over the columns of the left and of the right side. Both have one type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinKey {
    pub left: Expr,
    pub right: Expr,
}

/// `lower ≤ right − left ≤ upper`, of columns that are both times, in microseconds, or both Int64. Not of a full join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    pub left: String,
    pub right: String,
    pub lower: i64,
    pub upper: i64,
}

impl Interval {
    /// How wide the buckets are in which rows meet.
    pub fn width(&self) -> i64 {
        self.upper.saturating_sub(self.lower).max(1)
    }
}

/// One expression of an ORDER BY.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderKey {
    pub expr: Expr,
    pub descending: bool,
    pub nulls_first: bool,
}

/// One window function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowColumn {
    pub name: String,
    /// The function's name in DataFusion.
    pub function: String,
    pub arguments: Vec<Expr>,
    pub frame: Frame,
    pub ignore_nulls: bool,
}

/// An aggregate over the rows of a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FramedAggregate {
    pub aggregate: Aggregate,
    pub frame: Frame,
}

/// Which rows of the partition a window function sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub unit: FrameUnit,
    pub start: FrameBound,
    pub end: FrameBound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameUnit {
    Rows,
    Range,
    Groups,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameBound {
    /// So many rows (or groups) before; `None`: from the first.
    Preceding(Option<u64>),
    CurrentRow,
    /// So many rows (or groups) after; `None`: to the last.
    Following(Option<u64>),
}

/// An expression with the name of the column it makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedExpr {
    pub name: String,
    pub expr: Expr,
}

/// One aggregate column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    pub name: String,
    pub function: AggregateFunction,
    /// The argument; `None` only for `count(*)`.
    pub argument: Option<Expr>,
    /// The second one: the explaining side of pairs; what stands between the values of a text, a constant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<Expr>,
    /// The order of what is listed or chosen from, before that of the values themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<OrderKey>,
    /// `FILTER (WHERE …)`.
    pub filter: Option<Expr>,
}

impl Aggregate {
    /// Everything that is evaluated for a row.
    pub fn expressions(&self) -> impl Iterator<Item = &Expr> {
        self.argument
            .iter()
            .chain(&self.second)
            .chain(self.order.iter().map(|key| &key.expr))
            .chain(&self.filter)
    }
}

/// The aggregates that can be maintained exactly under retraction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateFunction {
    /// Rows (no argument) or non-NULL arguments.
    Count,
    /// Different non-NULL arguments: all of them are kept, with their counts.
    CountDistinct,
    /// Int64 → Int64 (row error when it does not fit), Float64 → Float64 (correctly rounded), Decimal → Decimal.
    Sum,
    /// Correctly rounded sum divided by the count, Float64.
    Avg,
    Min,
    Max,
    /// Logarithmic buckets with 1 % relative error; the quantile in 0..=1.
    Quantile {
        q: f64,
    },
    /// Of doubles: variances and deviations, computed exactly and rounded once.
    Spread(Spread),
    /// Of pairs of doubles: covariances, correlation, regression.
    Relationship(Relationship),
    /// The values as one text, in order, with the second argument between them.
    StringAgg {
        distinct: bool,
    },
    /// The values as a list, in order, NULL included.
    ArrayAgg {
        distinct: bool,
    },
    /// The first value in the order; of those that compare equal the least.
    First,
    /// The last value in the order; of those that compare equal the greatest.
    Last,
}

/// What `CREATE MONITOR … WITH (…)` sets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MonitorOptions {
    /// How long a pane stays in the live view after its window's end; default 24 h.
    pub retention_us: Option<i64>,
    /// How far behind the mark the watermark runs; default 10 s.
    pub lateness_us: Option<i64>,
    pub description: Option<String>,
    /// `EMIT FINAL`: only windows that the watermark has closed; rows that come later are late.
    #[serde(default)]
    pub emit_final: bool,
    /// Rows that one of its operators may keep; default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
    /// Records that its joins may make at one tick; default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tick_rows: Option<u64>,
    /// How long before its installation the rows that it has may have been admitted; default: only those after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill_us: Option<i64>,
    /// Changes of its result, on average of ten seconds; default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_updates_per_second: Option<u64>,
    /// The topic that its changes are written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka_topic: Option<String>,
}

/// A monitor as it is installed and kept in the catalog and in the tick log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MonitorDefinition {
    /// The project whose rows it sees; `None` for built-in views, which are computed once for all projects and
    /// have `project` as their leading column.
    pub project: Option<String>,
    pub name: String,
    /// The statement as it was written.
    pub sql: String,
    pub plan: Plan,
    pub options: MonitorOptions,
}

pub const DEFAULT_RETENTION_US: i64 = 24 * 3_600 * 1_000_000;
pub const DEFAULT_LATENESS_US: i64 = 10 * 1_000_000;

impl MonitorDefinition {
    pub fn retention_us(&self) -> i64 {
        self.options.retention_us.unwrap_or(DEFAULT_RETENTION_US)
    }

    /// Its own, else the greatest of the streams it reads, else the default.
    pub fn lateness_us(&self) -> i64 {
        let declared = self.plan.declared_streams().into_iter();
        self.options
            .lateness_us
            .or_else(|| declared.filter_map(|(_, declared)| declared.lateness_us).max())
            .unwrap_or(DEFAULT_LATENESS_US)
    }

    /// Hash of everything that decides the content: plan, project, retention and lateness, not the name.
    pub fn fingerprint(&self) -> String {
        let canonical = serde_json::json!({
            "project": self.project,
            "plan": self.plan,
            "retention_us": self.retention_us(),
            "lateness_us": self.lateness_us(),
            "emit_final": self.options.emit_final,
        });
        blake3::hash(canonical.to_string().as_bytes()).to_hex()[..32].to_string()
    }
}
