//! What ad-hoc SQL asks of the rest of the house: the engine's views and in-memory rows, the store's tables, and the
//! relations about PyFlare itself. The binary implements these over the engine and the store; the tests over vectors.
//!
//! All answers of one query belong to one tick, that of its [`Hold`]. Rows up to the flushed tick F come from the
//! store, rows beyond it from [`LiveSource::tail`]; F is read together with the tail, so no row is missing between the
//! two and none is in both.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::scalar::ScalarValue;

/// Whose rows a query may see. Rows of other projects are invisible everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// `None` sees all projects (the operator of the installation).
    pub project: Option<String>,
}

impl Scope {
    pub fn project(name: impl Into<String>) -> Scope {
        Scope {
            project: Some(name.into()),
        }
    }

    pub fn everything() -> Scope {
        Scope { project: None }
    }

    /// Whether something that belongs to `project` (or to nobody in particular) is visible.
    pub fn sees(&self, project: Option<&str>) -> bool {
        match (&self.project, project) {
            (Some(own), Some(other)) => own == other,
            _ => true,
        }
    }
}

/// Keeps the engine's state readable at one tick; dropped when the query is over.
pub trait Hold: Send + Sync {
    fn tick(&self) -> u64;
}

/// A maintained view.
#[derive(Debug, Clone)]
pub struct ViewDescription {
    pub name: String,
    /// The project that the monitor belongs to; `None` for a built-in view, which has `project` as its leading column.
    pub project: Option<String>,
    pub schema: SchemaRef,
    /// Whether its changes are stored, so that `history.<view>` exists.
    pub stored: bool,
}

impl ViewDescription {
    /// The name of the table with its changes.
    pub fn changes_table(&self) -> String {
        match &self.project {
            Some(project) => format!("{project}/{}_changes", self.name),
            None => format!("{}_changes", self.name),
        }
    }
}

/// A stream: `spans`, `metrics`, `logs`, or one that a user declared.
#[derive(Debug, Clone)]
pub struct StreamDescription {
    pub name: String,
    /// The project that it belongs to; `None` for those of OpenTelemetry, which hold the rows of all.
    pub project: Option<String>,
    /// Hidden columns included.
    pub schema: SchemaRef,
    /// The table that holds the flushed part.
    pub table: String,
}

/// The streams of OpenTelemetry.
pub fn signal_streams() -> Vec<StreamDescription> {
    let streams = pyflare_operators::fields::STREAMS.into_iter();
    streams
        .filter_map(|name| {
            Some(StreamDescription {
                name: name.to_owned(),
                project: None,
                schema: pyflare_operators::fields::stream_schema(name)?,
                table: name.to_owned(),
            })
        })
        .collect()
}

/// Something whose rows are partly in the store and partly in memory.
#[derive(Debug, Clone)]
pub enum Relation {
    Stream(StreamDescription),
    /// The changes of a view: its columns, then `_tick` and `_diff`, both Int64. Updates by which panes expire are not
    /// among them.
    Changes(ViewDescription),
}

impl Relation {
    /// The table that holds the flushed part.
    pub fn table(&self) -> String {
        match self {
            Relation::Stream(stream) => stream.table.clone(),
            Relation::Changes(view) => view.changes_table(),
        }
    }
}

/// Rows of streams that were taken back: nobody sees them any more, though a store may have them still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    pub project: String,
    /// The column and the values by which they are told; `None`: all of the project. A stream without the column has none.
    pub by: Option<(String, Vec<String>)>,
    /// Of those admitted until this tick.
    pub until: u64,
}

/// The part of a relation that is not in the store.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// F: all rows with `_tick` ≤ F are in the store. `None` while nothing has been flushed.
    pub flushed: Option<u64>,
    /// The rows with F < `_tick` ≤ the hold's tick. May contain others; they are left out.
    pub batches: Vec<RecordBatch>,
}

/// What a peek need not return.
#[derive(Debug, Clone, Default)]
pub struct PeekRequest {
    /// The columns wanted, by position; `None` is all of them. Batches have exactly these.
    pub projection: Option<Vec<usize>>,
    /// Rows that suffice.
    pub limit: Option<usize>,
    /// Columns and the values, none of them NULL, of which all wanted rows have one. A hint: rows are filtered again.
    pub equalities: Vec<(String, Vec<ScalarValue>)>,
}

/// The engine refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// The engine, as ad-hoc SQL sees it.
#[async_trait]
pub trait LiveSource: Send + Sync {
    /// A read hold at the newest complete tick; all peeks of one query use it.
    fn hold(&self) -> Arc<dyn Hold>;

    /// The views that the scope sees.
    fn views(&self, scope: &Scope) -> Vec<ViewDescription>;

    /// The streams that the scope sees.
    fn streams(&self, _scope: &Scope) -> Vec<StreamDescription> {
        signal_streams()
    }

    /// Which rows of streams were taken back.
    fn erased(&self) -> Vec<Erased> {
        Vec::new()
    }

    /// The content of a view at the hold's tick; of other projects' rows only as much as is convenient, they are
    /// filtered again.
    async fn peek(
        &self,
        view: &ViewDescription,
        hold: &Arc<dyn Hold>,
        request: PeekRequest,
        scope: &Scope,
    ) -> Result<Vec<RecordBatch>, SourceError>;

    /// The stored-up-to tick and the rows beyond it.
    async fn tail(
        &self,
        relation: &Relation,
        hold: &Arc<dyn Hold>,
        scope: &Scope,
    ) -> Result<Tail, SourceError>;
}

/// The store, as ad-hoc SQL sees it.
#[async_trait]
pub trait StoredTables: Send + Sync {
    /// The newest version of a table; `None` if there is none.
    async fn provider(&self, table: &str) -> Result<Option<Arc<dyn TableProvider>>, SourceError>;

    /// Rules by which plans make use of what the store can do itself; they come after all others.
    fn rules(&self) -> Vec<Rule> {
        Vec::new()
    }
}

/// A rule of the physical optimizer.
pub type Rule = Arc<dyn datafusion::physical_optimizer::PhysicalOptimizerRule + Send + Sync>;

/// The relations of `pyflare_internal`.
#[async_trait]
pub trait InternalRelations: Send + Sync {
    fn relations(&self) -> Vec<(String, SchemaRef)>;

    /// The rows that the scope sees.
    async fn rows(&self, relation: &str, scope: &Scope) -> Result<Vec<RecordBatch>, SourceError>;
}
