//! ClickHouse as the store.
//!
//! One database holds everything: a `MergeTree` table for each table of the contract, under the same name, and the
//! store's own `_pyflare_*` tables (which schema the database has, which flush cuts are complete). PyFlare is the only
//! writer; anybody may read. A flush cut is written part by part, each an insert that ClickHouse commits once however
//! often it is repeated, and becomes visible with the row that declares its cut complete.
//!
//! Data travels as Arrow over ClickHouse's HTTP interface, in both directions.

mod address;
mod client;
mod columns;
mod definition;
mod migrations;
mod predicate;
mod pushdown;
mod removal;
mod scan;
mod syntax;
mod table;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{Fields, Schema};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use pyflare_connectors::{Part, Removal, RowRange, Store, StoreError, TableDefinition, physical};

pub use crate::address::Address;
use crate::client::{Client, failure};
use crate::migrations::ALL;
pub use crate::pushdown::PushDown;
use crate::scan::StoredTable;
use crate::syntax::text;
use crate::table::{Retention, Table};

/// A database that starts together with this process is given a moment.
const START_WITHIN: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A database of tables.
#[derive(Debug)]
pub struct ClickHouseStore {
    client: Arc<Client>,
    tables: tokio::sync::Mutex<HashMap<String, Arc<Table>>>,
}

impl ClickHouseStore {
    /// Connects, and makes the database if it is missing. A server that cannot be reached is tried again for a while.
    pub async fn open(address: Address) -> Result<Arc<ClickHouseStore>, StoreError> {
        ClickHouseStore::open_within(address, START_WITHIN).await
    }

    /// As [`ClickHouseStore::open`], with the time after which a server counts as unreachable.
    pub async fn open_within(
        address: Address,
        patience: Duration,
    ) -> Result<Arc<ClickHouseStore>, StoreError> {
        let client = Arc::new(Client::new(address)?);
        let begun = Instant::now();
        loop {
            match migrations::prepare(&client).await {
                Ok(()) => break,
                Err(error @ StoreError::Unreachable { .. }) if begun.elapsed() < patience => {
                    tracing::warn!(%error, "waiting for the store");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::new(ClickHouseStore {
            client,
            tables: tokio::sync::Mutex::default(),
        }))
    }

    /// A table as it is now, to read with DataFusion; `None` if there is no such table. It reads the blocks that were
    /// complete when it was asked for.
    pub async fn provider(&self, table: &str) -> Result<Option<Arc<dyn TableProvider>>, StoreError> {
        let found = self.find(table).await?;
        Ok(found.map(|table| {
            let stored = StoredTable::new(
                Arc::clone(&self.client),
                table.name.clone(),
                table.path(),
                Arc::clone(&table.schema),
                table.is_complete(),
            );
            Arc::new(stored) as Arc<dyn TableProvider>
        }))
    }

    /// Bytes that inserts into a table carried, since this process opened it.
    pub async fn inserted_bytes(&self, table: &str) -> Result<u64, StoreError> {
        Ok(self.get(table).await?.inserted_bytes())
    }

    /// Deletes everything.
    pub async fn drop_database(&self) -> Result<(), StoreError> {
        self.tables.lock().await.clear();
        let database = syntax::identifier(&self.client.address.database);
        let drop = format!("DROP DATABASE {database} SYNC");
        self.client.execute(ALL, &drop).await
    }

    async fn find(&self, name: &str) -> Result<Option<Arc<Table>>, StoreError> {
        if let Some(detail) = syntax::unfit(name) {
            return Err(StoreError::Name {
                table: name.to_owned(),
                detail: detail.to_owned(),
            });
        }
        let mut tables = self.tables.lock().await;
        if let Some(table) = tables.get(name) {
            return Ok(Some(Arc::clone(table)));
        }
        let loaded = Table::load(&self.client, name).await?.map(Arc::new);
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

    fn database(&self) -> String {
        text(&self.client.address.database)
    }
}

#[async_trait]
impl Store for ClickHouseStore {
    async fn ensure_table(&self, definition: &TableDefinition) -> Result<(), StoreError> {
        let name = &definition.name;
        let refuse = |detail| StoreError::Schema {
            table: name.clone(),
            detail,
        };
        let physical = physical::physical_schema(&definition.schema).map_err(refuse)?;
        let time_column = definition.time_column.as_deref();
        if let Some(column) = time_column
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
                let database = &self.client.address.database;
                let create = definition::create(database, name, &physical, time_column).map_err(refuse)?;
                self.client.execute(name, &create).await?;
                self.get(name).await?
            }
        };
        if let Some(detail) = physical::difference(&table.schema, &physical) {
            return Err(refuse(detail));
        }
        if !definition.key.is_empty() {
            let database = &self.client.address.database;
            let create = definition::create_current(database, name, &physical, &definition.key);
            self.client.execute(name, &create.map_err(refuse)?).await?;
        }
        table.key.lock().clone_from(&definition.key);
        *table.retention.lock() = Retention {
            retention_us: definition.retention_us,
            time_column: definition.time_column.clone(),
        };
        Ok(())
    }

    async fn append_parts(&self, table: &str, cut: u64, parts: Vec<Part>) -> Result<(), StoreError> {
        self.get(table).await?.append(cut, parts, false).await
    }

    async fn renew_parts(&self, table: &str, cut: u64, parts: Vec<Part>) -> Result<(), StoreError> {
        self.get(table).await?.append(cut, parts, true).await
    }

    async fn read_rows(
        &self,
        table: &str,
        range: RowRange<'_>,
        visit: &mut (dyn FnMut(RecordBatch) -> bool + Send),
    ) -> Result<(), StoreError> {
        let Some(stored) = self.find(table).await? else {
            return Ok(());
        };
        let fields: Result<Fields, StoreError> = range
            .columns
            .iter()
            .map(|column| {
                let field = stored.schema.field_with_name(column);
                field.cloned().map_err(|error| failure(table, error))
            })
            .collect();
        let wanted = Arc::new(Schema::new(fields?));
        let bound = |tick: u64| i64::try_from(tick).unwrap_or(i64::MAX);
        let query = format!(
            "SELECT {} FROM {} WHERE {} AND _tick > {} AND _tick <= {}",
            wire::selected(wanted.fields()),
            stored.path(),
            stored.is_complete(),
            bound(range.after),
            bound(range.until)
        );
        let mut rows = scan::select(&self.client, table, &query, wanted.fields()).await?;
        while let Some(batch) = rows.next().await? {
            let batch = wire::received(&batch, &wanted).map_err(|error| failure(table, error))?;
            if !visit(batch) {
                break;
            }
        }
        Ok(())
    }

    async fn remove_rows(&self, table: &str, removal: &Removal) -> Result<u64, StoreError> {
        match self.find(table).await? {
            Some(table) => removal::remove_rows(&self.client, &table, removal).await,
            None => Ok(0),
        }
    }

    async fn settle_changes(&self, table: &str, until: u64) -> Result<(), StoreError> {
        match self.find(table).await? {
            Some(table) => removal::settle_changes(&self.client, &table, until).await,
            None => Ok(()),
        }
    }

    async fn last_cut(&self, table: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.get(table).await?.last_cut())
    }

    async fn maintain(&self, table: &str, now_us: i64) -> Result<(), StoreError> {
        self.get(table).await?.expire(now_us).await
    }

    async fn size(&self, table: &str) -> Result<(u64, u64), StoreError> {
        self.get(table).await?;
        let query = format!(
            "SELECT sum(bytes_on_disk), sum(rows) FROM system.parts WHERE active AND database = {} AND table = {}",
            self.database(),
            text(table)
        );
        let size = self.client.text(table, &query).await?;
        let numbers = size.trim().split_once('\t');
        numbers
            .and_then(|(bytes, rows)| Some((bytes.parse().ok()?, rows.parse().ok()?)))
            .ok_or_else(|| failure(table, format!("{size:?} is no size")))
    }

    async fn tables(&self) -> Result<Vec<String>, StoreError> {
        let query = format!(
            "SELECT base64Encode(name) FROM system.tables WHERE database = {} AND NOT startsWith(name, {}) \
             AND NOT startsWith(comment, {})",
            self.database(),
            text(syntax::OWN_TABLES),
            text(definition::CURRENT_COMMENT)
        );
        let names = self.client.text(ALL, &query).await?;
        let decoded = names.lines().map(|name| {
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, name).ok()?;
            String::from_utf8(bytes).ok()
        });
        let mut names = decoded
            .collect::<Option<Vec<String>>>()
            .ok_or_else(|| failure(ALL, "a table's name is not UTF-8"))?;
        names.sort();
        Ok(names)
    }

    async fn drop_table(&self, table: &str) -> Result<(), StoreError> {
        let known = self.get(table).await?;
        self.tables.lock().await.remove(table);
        known.delete().await
    }
}
