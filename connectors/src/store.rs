//! The store: where streams and the changes of views are kept for good.
//!
//! Writes happen at flush cuts (recorded in the tick log), so a replay writes the same blocks; every append is
//! idempotent by (table, cut).

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("PF-2301: store input/output failed on table {table}: {detail}")]
    Io { table: String, detail: String },
    #[error("PF-2302: table {table} exists with another schema: {detail}")]
    Schema { table: String, detail: String },
    #[error("PF-2303: there is no table {table}")]
    Missing { table: String },
    #[error("PF-2304: {table:?} cannot be the name of a table: {detail}")]
    Name { table: String, detail: String },
    #[error(
        "PF-2305: the store at {address} cannot be reached: {detail}; what is accepted meanwhile waits in the log and in memory"
    )]
    Unreachable { address: String, detail: String },
    #[error(
        "PF-2306: the store at {address} does not let {user:?} in: {detail}; check the user in store.url and set store.password"
    )]
    Refused {
        address: String,
        user: String,
        detail: String,
    },
    #[error("PF-2307: the database {database} cannot be used as a store: {detail}")]
    Foreign { database: String, detail: String },
    #[error("PF-2308: {url:?} does not name a store: {detail}")]
    Url { url: String, detail: String },
}

/// A table as the engine declares it. Strings may be `Utf8View` and `attributes` may be wire bytes in memory; the
/// store writes the declared contract types.
#[derive(Debug, Clone)]
pub struct TableDefinition {
    /// `spans`, or `<view>_changes`; with the project in front where it is not global: `<project>/<view>_changes`.
    pub name: String,
    pub schema: SchemaRef,
    /// Rows whose `time_column` is older than this may be deleted, microseconds.
    pub retention_us: Option<i64>,
    pub time_column: Option<String>,
    /// Of the changes of a view (with `_tick` and `_diff`): the columns by which its rows are told apart, none if only
    /// all of them together do. A store may keep the current content of such a view beside its changes.
    pub key: Vec<String>,
}

/// Some rows of a block, made batch by batch when they are written, so that a large block need not be in memory
/// twice. The parts of a block may be written at the same time, each by a thread of its own.
pub struct Part {
    pub rows: usize,
    pub batches: Box<dyn Iterator<Item = RecordBatch> + Send>,
}

impl Part {
    pub fn of(batches: Vec<RecordBatch>) -> Part {
        Part {
            rows: batches.iter().map(RecordBatch::num_rows).sum(),
            batches: Box::new(batches.into_iter()),
        }
    }
}

/// Which rows of a stream's table are wanted, and what of them.
#[derive(Debug, Clone, Copy)]
pub struct RowRange<'a> {
    pub columns: &'a [String],
    /// Rows with `after < _tick ≤ until`.
    pub after: u64,
    pub until: u64,
}

/// Rows of a stream that shall be stored no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub project: String,
    /// Those with one of these values in this column; `None`: all rows of the project.
    pub by: Option<(String, BTreeSet<String>)>,
    /// Those with `_tick` ≤ this.
    pub until: u64,
}

impl Removal {
    /// The columns by which the rows are told, `_tick` apart.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let by = self.by.iter().map(|(column, _)| column.as_str());
        std::iter::once("project").chain(by)
    }
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates the table if it is missing and checks its schema otherwise.
    async fn ensure_table(&self, table: &TableDefinition) -> Result<(), StoreError>;

    /// Appends the block of one flush cut, durably, all or nothing. Does nothing if that cut (or a later one) is
    /// already in the table, and nothing for a block without rows, which leaves [`Store::last_cut`] where it was.
    async fn append_parts(&self, table: &str, cut: u64, parts: Vec<Part>) -> Result<(), StoreError>;

    /// [`Store::append_parts`] of changes after which the sum of all is what the view shows, which it may not have been
    /// before: those with the cut as their `_tick` are all that it shows, those before take everything back that was there.
    /// Whatever the store derives from changes is then what the view shows too.
    async fn renew_parts(&self, table: &str, cut: u64, parts: Vec<Part>) -> Result<(), StoreError> {
        self.append_parts(table, cut, parts).await
    }

    /// [`Store::append_parts`] with a block of one part.
    async fn append(&self, table: &str, cut: u64, batches: Vec<RecordBatch>) -> Result<(), StoreError> {
        self.append_parts(table, cut, vec![Part::of(batches)]).await
    }

    /// Hands over rows of a table as it is now, batch by batch and in any order; none if there is no such table. When
    /// `visit` says no the rest is left out.
    async fn read_rows(
        &self,
        table: &str,
        range: RowRange<'_>,
        visit: &mut (dyn FnMut(RecordBatch) -> bool + Send),
    ) -> Result<(), StoreError>;

    /// Removes rows of a stream's table for good; how many there were. None if there is no such table, or if it does not
    /// have the columns. May be repeated after it was interrupted. What held the rows is deleted once no query can be
    /// reading it.
    async fn remove_rows(&self, table: &str, removal: &Removal) -> Result<u64, StoreError>;

    /// Sums the changes of a view with `_tick ≤ until`: of a row that came and went until then nothing is left, any other one
    /// is as often there as before. Nothing if there is no such table.
    async fn settle_changes(&self, table: &str, until: u64) -> Result<(), StoreError>;

    /// The greatest cut in the table, from its own metadata.
    async fn last_cut(&self, table: &str) -> Result<Option<u64>, StoreError>;

    /// Merges small files and deletes what retention allows, as of `now_us`.
    async fn maintain(&self, table: &str, now_us: i64) -> Result<(), StoreError>;

    /// Total bytes and rows of the table's current version.
    async fn size(&self, table: &str) -> Result<(u64, u64), StoreError>;

    /// The names of all tables.
    async fn tables(&self) -> Result<Vec<String>, StoreError>;

    /// Deletes the table and its files.
    async fn drop_table(&self, table: &str) -> Result<(), StoreError>;
}
