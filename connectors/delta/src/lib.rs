//! Delta Lake tables as the embedded store.
//!
//! One directory per table under `<data>/tables`, each a Delta Lake table that Spark, DuckDB, Polars and everything
//! else that speaks the format can read while PyFlare writes it. A flush cut is one commit: a Parquet file, complete
//! and synced, then a log entry that adds it and records the cut as an application transaction. A crash between the two
//! leaves a file that nothing refers to and that the replayed cut replaces; a repeated cut finds its transaction and
//! does nothing.
//!
//! **Not partitioned**, on purpose. Partitions by project and day would put every flush of every project into files of
//! its own, and anybody who can send a project's name could make ten thousand of them; a day's column would be one that
//! the contract does not have. Files are in order of admission and therefore narrow in time, their bounds on
//! `event_time`, `_tick` and `project` are in the log and in memory, and a query reads only those that its filters
//! leave. Days stay apart when files are merged, so a day is dropped as a whole.

mod commit;
mod files;
mod maintenance;
mod naming;
mod removal;
mod rows;
mod scan;
mod schema;
mod statistics;
mod table;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use pyflare_connectors::{Part, Removal, RowRange, Store, StoreError, TableDefinition, physical};

use crate::scan::StoredTable;
use crate::table::{Retention, Table, failure};

/// How the store behaves beyond its contract.
#[derive(Debug, Clone)]
pub struct DeltaOptions {
    /// How long a file stays after the table has stopped referring to it: queries that began before may still read it.
    pub file_grace: Duration,
}

impl Default for DeltaOptions {
    fn default() -> Self {
        DeltaOptions {
            file_grace: Duration::from_secs(15 * 60),
        }
    }
}

/// A directory of tables.
#[derive(Debug)]
pub struct DeltaStore {
    directory: PathBuf,
    options: DeltaOptions,
    tables: tokio::sync::Mutex<HashMap<String, Arc<Table>>>,
}

impl DeltaStore {
    /// Opens the store, creating its directory; tables are loaded when they are first asked for.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Arc<DeltaStore>, StoreError> {
        DeltaStore::open_with(directory, DeltaOptions::default())
    }

    /// As [`DeltaStore::open`].
    pub fn open_with(
        directory: impl Into<PathBuf>,
        options: DeltaOptions,
    ) -> Result<Arc<DeltaStore>, StoreError> {
        let directory = directory.into();
        let prepare = || {
            std::fs::create_dir_all(&directory)?;
            for item in std::fs::read_dir(&directory)? {
                let item = item?;
                if item.file_name().to_string_lossy().starts_with(DROPPED) {
                    std::fs::remove_dir_all(item.path())?;
                }
            }
            Ok::<(), std::io::Error>(())
        };
        prepare().map_err(|error| failure("(all)", format!("{}: {error}", directory.display())))?;
        Ok(Arc::new(DeltaStore {
            directory,
            options,
            tables: tokio::sync::Mutex::default(),
        }))
    }

    /// The newest version of a table, to read with DataFusion; `None` if there is no such table. It reads what the
    /// version held when it was asked for, however long the query takes (up to [`DeltaOptions::file_grace`] after a
    /// merge). Costs no I/O once the table is loaded.
    pub async fn provider(&self, table: &str) -> Result<Option<Arc<dyn TableProvider>>, StoreError> {
        let stored = self.stored(table).await?;
        Ok(stored.map(|stored| Arc::new(stored) as Arc<dyn TableProvider>))
    }

    async fn stored(&self, table: &str) -> Result<Option<StoredTable>, StoreError> {
        Ok(self.find(table).await?.map(|table| {
            StoredTable::new(
                table.directory.clone(),
                Arc::clone(&table.schema),
                table.current(),
            )
        }))
    }

    async fn find(&self, name: &str) -> Result<Option<Arc<Table>>, StoreError> {
        let directory = self.directory.join(naming::directory_of(name)?);
        let mut tables = self.tables.lock().await;
        if let Some(table) = tables.get(name) {
            return Ok(Some(Arc::clone(table)));
        }
        let loaded = Table::load(name, &directory).await?.map(Arc::new);
        if let Some(table) = &loaded {
            tables.insert(name.to_owned(), Arc::clone(table));
        }
        Ok(loaded)
    }

    async fn get(&self, name: &str) -> Result<Arc<Table>, StoreError> {
        self.find(name).await?.ok_or_else(|| StoreError::Missing {
            table: name.to_owned(),
        })
    }
}

/// Directories of dropped tables that are still being deleted.
const DROPPED: &str = ".dropped-";

#[async_trait]
impl Store for DeltaStore {
    async fn ensure_table(&self, definition: &TableDefinition) -> Result<(), StoreError> {
        let name = &definition.name;
        let refuse = |detail| StoreError::Schema {
            table: name.clone(),
            detail,
        };
        let physical = schema::physical_schema(&definition.schema).map_err(refuse)?;
        if let Some(column) = &definition.time_column
            && !physical
                .field_with_name(column)
                .is_ok_and(|field| physical::carries_time(field.data_type()))
        {
            return Err(refuse(format!(
                "the time column {column} is not a timestamp of the table"
            )));
        }
        let table = match self.find(name).await? {
            Some(table) => table,
            None => {
                let directory = self.directory.join(naming::directory_of(name)?);
                let mut tables = self.tables.lock().await;
                match tables.get(name) {
                    Some(table) => Arc::clone(table),
                    None => {
                        let created = Arc::new(Table::create(&directory, definition, &physical).await?);
                        tables.insert(name.clone(), Arc::clone(&created));
                        created
                    }
                }
            }
        };
        if let Some(detail) = schema::difference(&table.schema, &physical) {
            return Err(refuse(detail));
        }
        *table.retention.lock() = Retention {
            retention_us: definition.retention_us,
            time_column: definition.time_column.clone(),
        };
        Ok(())
    }

    async fn append_parts(&self, table: &str, cut: u64, parts: Vec<Part>) -> Result<(), StoreError> {
        self.get(table).await?.append(cut, parts).await.map(|_| ())
    }

    async fn read_rows(
        &self,
        table: &str,
        range: RowRange<'_>,
        visit: &mut (dyn FnMut(RecordBatch) -> bool + Send),
    ) -> Result<(), StoreError> {
        let Some(stored) = self.stored(table).await? else {
            return Ok(());
        };
        let read = rows::read(stored, range, visit).await;
        read.map_err(|error| failure(table, error))
    }

    async fn remove_rows(&self, table: &str, removal: &Removal) -> Result<u64, StoreError> {
        match self.find(table).await? {
            Some(table) => removal::remove_rows(&table, removal).await,
            None => Ok(0),
        }
    }

    async fn settle_changes(&self, table: &str, until: u64) -> Result<(), StoreError> {
        match self.find(table).await? {
            Some(table) => removal::settle_changes(&table, until).await,
            None => Ok(()),
        }
    }

    async fn last_cut(&self, table: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.get(table).await?.current().last_cut)
    }

    async fn maintain(&self, table: &str, now_us: i64) -> Result<(), StoreError> {
        maintenance::maintain(&self.get(table).await?, now_us, self.options.file_grace).await
    }

    async fn size(&self, table: &str) -> Result<(u64, u64), StoreError> {
        let version = self.get(table).await?.current();
        let files = version.files.iter();
        Ok(files.fold((0, 0), |(bytes, rows), file| {
            (bytes + file.bytes, rows + file.statistics.rows)
        }))
    }

    async fn tables(&self) -> Result<Vec<String>, StoreError> {
        let list = || {
            let mut names = Vec::new();
            for item in std::fs::read_dir(&self.directory)? {
                let item = item?;
                if item.path().join("_delta_log").is_dir() {
                    names.extend(naming::table_of(&item.file_name().to_string_lossy()));
                }
            }
            names.sort();
            Ok::<_, std::io::Error>(names)
        };
        list().map_err(|error| failure("(all)", error))
    }

    async fn drop_table(&self, table: &str) -> Result<(), StoreError> {
        let known = self.get(table).await?;
        self.tables.lock().await.remove(table);
        let grave = self
            .directory
            .join(format!("{DROPPED}{}", uuid::Uuid::new_v4().simple()));
        let directory = known.directory.clone();
        let root = self.directory.clone();
        table::blocking(table, move || {
            // A rename first: whatever happens next, there is no half-deleted table.
            std::fs::rename(&directory, &grave)?;
            files::sync_directory(&root)?;
            std::fs::remove_dir_all(&grave)
        })
        .await
    }
}
