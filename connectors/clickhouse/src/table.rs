//! One table and the blocks appended to it.
//!
//! **A block is complete when its cut is in `_pyflare_cuts`**, which is written after all of its parts are committed.
//! Readers ask for rows up to the last complete cut, so half a block is never seen.
//!
//! **A part is written once**: it is one insert into one partition, carries a token made of the table, the cut, its
//! number and its content, and ClickHouse drops a block whose token it has seen. So a retry after an answer that did not
//! come, and a replay after a crash, repeat inserts without harm. Should a replay cut the rows into other parts than the
//! first run did, the tokens differ and the rows would be there twice; therefore the first block after a start and every
//! block after a failure is counted before it is declared complete, and where the number is wrong what lies beyond the
//! last complete cut is deleted and written again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use futures::stream::{self, StreamExt};
use parking_lot::{Mutex, RwLock};
use pyflare_connectors::faults::{self, Step};
use pyflare_connectors::{Part, StoreError, physical};
use xxhash_rust::xxh3::xxh3_128;

use crate::client::{Client, failure};
use crate::columns::{CUT, Description};
use crate::definition;
use crate::migrations::CUTS;
use crate::syntax::{identifier, text};
use crate::wire;

/// A part of a block is one insert; one with more bytes is divided.
const INSERT_BYTES: usize = 128 << 20;
/// Room for whatever is inserted, so that ClickHouse never divides an insert by a rule of its own.
const ONE_BLOCK: [(&str, &str); 6] = [
    ("min_insert_block_size_rows", "1000000000"),
    ("min_insert_block_size_bytes", "4294967296"),
    ("max_insert_block_size", "1000000000"),
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    ("max_insert_threads", "1"),
];

type Batches = Box<dyn Iterator<Item = RecordBatch> + Send>;

#[derive(Debug, Clone, Default)]
pub struct Retention {
    pub retention_us: Option<i64>,
    pub time_column: Option<String>,
}

/// What is known about blocks that were begun.
#[derive(Debug)]
struct Writing {
    /// Something may lie beyond the last complete cut.
    is_suspect: bool,
    /// Distinguishes tokens of blocks written again from those of the rows that were deleted.
    attempt: Option<String>,
}

#[derive(Debug)]
pub struct Table {
    pub name: String,
    pub schema: SchemaRef,
    pub retention: Mutex<Retention>,
    /// The key of the view whose changes these are, if its current content is kept too.
    pub key: Mutex<Vec<String>>,
    client: Arc<Client>,
    sent: SchemaRef,
    /// ClickHouse's id of the table, which a later table of the same name does not have.
    id: String,
    last_cut: RwLock<Option<u64>>,
    writing: tokio::sync::Mutex<Writing>,
    inserted_bytes: AtomicU64,
}

impl Table {
    /// `database.table` as SQL spells it.
    pub fn path(&self) -> String {
        format!(
            "{}.{}",
            identifier(&self.client.address.database),
            identifier(&self.name)
        )
    }

    /// Loads a table that exists; `None` if it does not.
    pub async fn load(client: &Arc<Client>, name: &str) -> Result<Option<Table>, StoreError> {
        let database = &client.address.database;
        let find = format!(
            "SELECT toString(uuid), base64Encode(comment) FROM system.tables WHERE database = {} AND name = {}",
            text(database),
            text(name)
        );
        let found = client.text(name, &find).await?;
        let Some((id, comment)) = found.trim_end_matches('\n').split_once('\t') else {
            return Ok(None);
        };
        if id.chars().all(|digit| matches!(digit, '0' | '-')) {
            return Err(StoreError::Foreign {
                database: database.clone(),
                detail: "its engine gives tables no ids; use a database of the engine Atomic, as CREATE DATABASE makes it"
                    .to_owned(),
            });
        }
        let foreign = || StoreError::Schema {
            table: name.to_owned(),
            detail: format!(
                "what has this name in the database {database} was not written by this version of PyFlare; \
                 rename it or use another database"
            ),
        };
        let schema = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, comment)
            .ok()
            .and_then(|comment| serde_json::from_slice::<Description>(&comment).ok())
            .filter(|description| description.pyflare == crate::columns::DESCRIPTION_VERSION)
            .and_then(|description| description.schema())
            .ok_or_else(foreign)?;
        // An insert of a process that has ended may still run; what it writes has to be there before it is counted.
        let stop = format!("KILL QUERY WHERE startsWith(query_id, 'pyflare-{id}') SYNC");
        if let Err(error) = client.execute(name, &stop).await {
            tracing::warn!(table = name, %error, "inserts of an earlier process could not be stopped");
        }
        let cut = format!(
            "SELECT maxOrNull(cut) FROM {}.{CUTS} WHERE table_id = {}",
            identifier(database),
            text(id)
        );
        let last_cut = client.number(name, &cut).await?;
        Ok(Some(Table {
            name: name.to_owned(),
            sent: wire::sent_schema(&schema),
            schema,
            retention: Mutex::default(),
            key: Mutex::default(),
            client: Arc::clone(client),
            id: id.to_owned(),
            last_cut: RwLock::new(last_cut),
            writing: tokio::sync::Mutex::new(Writing {
                is_suspect: true,
                attempt: None,
            }),
            inserted_bytes: AtomicU64::new(0),
        }))
    }

    pub fn last_cut(&self) -> Option<u64> {
        *self.last_cut.read()
    }

    /// Bytes of Arrow streams inserted by this process.
    pub fn inserted_bytes(&self) -> u64 {
        self.inserted_bytes.load(Ordering::Relaxed)
    }

    /// The condition for rows of complete blocks.
    pub fn is_complete(&self) -> String {
        match self.last_cut() {
            Some(cut) => format!("{CUT} <= {cut}"),
            None => "false".to_owned(),
        }
    }

    fn is_beyond(&self) -> String {
        match self.last_cut() {
            Some(cut) => format!("{CUT} > {cut}"),
            None => "true".to_owned(),
        }
    }

    /// Appends the block of a cut, unless the table has that cut or a later one, or there are no rows.
    /// With `renews` the block says all of the current content.
    pub async fn append(
        self: &Arc<Self>,
        cut: u64,
        parts: Vec<Part>,
        renews: bool,
    ) -> Result<(), StoreError> {
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let mut writing = self.writing.lock().await;
        if rows == 0 || self.last_cut().is_some_and(|last| last >= cut) {
            return Ok(());
        }
        let cut = i64::try_from(cut).map_err(|_| failure(&self.name, "the cut is beyond 63 bits"))?;
        let was_suspect = std::mem::replace(&mut writing.is_suspect, true);
        self.write_parts(cut, parts, writing.attempt.as_deref()).await?;
        faults::at(Step::BlockWritten);
        if was_suspect {
            self.count(rows as u64, &mut writing).await?;
        }
        let key = self.key.lock().clone();
        if !key.is_empty() {
            let database = &self.client.address.database;
            let statements = match renews {
                false => vec![definition::advance_current(
                    database,
                    &self.name,
                    &self.schema,
                    &key,
                    cut,
                )],
                true => definition::renew_current(database, &self.name, &self.schema, &key, cut).into(),
            };
            for statement in statements {
                self.client.execute(&self.name, &statement).await?;
            }
        }
        let complete = format!(
            "INSERT INTO {}.{CUTS} (table_id, cut, rows) VALUES ({}, {cut}, {rows})",
            identifier(&self.client.address.database),
            text(&self.id)
        );
        self.client.execute(&self.name, &complete).await?;
        faults::at(Step::BlockRecorded);
        *self.last_cut.write() = Some(cut as u64);
        *writing = Writing {
            is_suspect: false,
            attempt: None,
        };
        Ok(())
    }

    /// Makes sure that exactly the block's rows lie beyond the last complete cut.
    async fn count(&self, rows: u64, writing: &mut Writing) -> Result<(), StoreError> {
        let beyond = self.is_beyond();
        let count = format!("SELECT count() FROM {} WHERE {beyond}", self.path());
        let found = self.client.number(&self.name, &count).await?.unwrap_or(0);
        if found == rows {
            return Ok(());
        }
        let delete = format!(
            "ALTER TABLE {} DELETE WHERE {beyond} SETTINGS mutations_sync = 2",
            self.path()
        );
        self.client.execute(&self.name, &delete).await?;
        writing.attempt = Some(uuid::Uuid::new_v4().simple().to_string());
        Err(failure(
            &self.name,
            format!(
                "{found} rows lay beyond the last complete cut and {rows} should; what an earlier attempt left has been \
                 deleted and the block is written again"
            ),
        ))
    }

    async fn write_parts(
        self: &Arc<Self>,
        cut: i64,
        parts: Vec<Part>,
        attempt: Option<&str>,
    ) -> Result<(), StoreError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = parts.into_iter().filter(|part| part.rows > 0).enumerate();
        let attempt = attempt.map_or_else(String::new, |attempt| format!("/{attempt}"));
        let writes = parts.map(|(number, part)| {
            let table = Arc::clone(self);
            let token = format!("{}/0/{cut}/{number}{attempt}", self.id);
            async move { table.write_part(cut, &token, part).await }
        });
        // Every write ends before the block is given up, so that a retry meets no straggler.
        let written: Vec<Result<(), StoreError>> = stream::iter(writes).buffered(threads).collect().await;
        written.into_iter().collect()
    }

    async fn write_part(self: &Arc<Self>, cut: i64, token: &str, part: Part) -> Result<(), StoreError> {
        let Part { batches, .. } = part;
        let mut rest = Some(batches);
        let mut number = 0;
        while let Some(batches) = rest.take() {
            let table = Arc::clone(self);
            let (stream, more) = tokio::task::spawn_blocking(move || table.encode(cut, batches))
                .await
                .map_err(|error| failure(&self.name, error))??;
            rest = more;
            let Some(stream) = stream else { break };
            self.inserted_bytes
                .fetch_add(stream.len() as u64, Ordering::Relaxed);
            let token = format!("{token}.{number}/{:032x}", xxh3_128(&stream));
            number += 1;
            let statement = format!(
                "INSERT INTO {} ({}) FORMAT ArrowStream",
                self.path(),
                self.sent
                    .fields()
                    .iter()
                    .map(|field| identifier(field.name()))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            let query_id = format!("pyflare-{}-{}", self.id, uuid::Uuid::new_v4().simple());
            let mut settings = ONE_BLOCK.to_vec();
            settings.push(("insert_deduplication_token", &token));
            settings.push(("query_id", &query_id));
            self.client
                .insert(&self.name, &statement, stream, &settings)
                .await?;
        }
        Ok(())
    }

    /// An Arrow stream of as many batches as one insert takes, and the batches that are left.
    fn encode(
        &self,
        cut: i64,
        mut batches: Batches,
    ) -> Result<(Option<Vec<u8>>, Option<Batches>), StoreError> {
        let io = |error: arrow::error::ArrowError| failure(&self.name, error);
        let mut writer = StreamWriter::try_new(Vec::new(), &self.sent).map_err(io)?;
        let mut is_empty = true;
        while let Some(batch) = batches.next() {
            if batch.num_rows() == 0 {
                continue;
            }
            let batch =
                physical::conform(&batch, &self.schema).map_err(|detail| failure(&self.name, detail))?;
            writer
                .write(&wire::sent(&batch, &self.sent, cut).map_err(io)?)
                .map_err(io)?;
            is_empty = false;
            if writer.get_ref().len() >= INSERT_BYTES {
                return Ok((Some(writer.into_inner().map_err(io)?), Some(batches)));
            }
        }
        let stream = writer.into_inner().map_err(io)?;
        Ok(((!is_empty).then_some(stream), None))
    }

    /// Deletes the days all of whose rows are older than the table keeps, as of `now_us`.
    pub async fn expire(&self, now_us: i64) -> Result<(), StoreError> {
        const DAY_MS: i64 = 86_400_000;
        let retention = self.retention.lock().clone();
        let (Some(kept), Some(column)) = (retention.retention_us, retention.time_column) else {
            return Ok(());
        };
        let _writing = self.writing.lock().await;
        let horizon = now_us.saturating_sub(kept);
        // Whole days, and only those that can be over: what was admitted later is hardly older.
        let before = (horizon / 1000).saturating_add(DAY_MS).div_euclid(DAY_MS) * DAY_MS;
        let column = identifier(&column);
        let over = format!(
            "SELECT _partition_id FROM {} WHERE {CUT} < {before} GROUP BY _partition_id \
             HAVING countIf(isNull({column})) = 0 AND max(toUnixTimestamp64Micro({column})) < {horizon}",
            self.path()
        );
        for day in self.client.text(&self.name, &over).await?.lines() {
            let drop = format!("ALTER TABLE {} DROP PARTITION ID {}", self.path(), text(day));
            self.client.execute(&self.name, &drop).await?;
            tracing::info!(
                table = self.name,
                day,
                "dropped a day that is older than the table keeps"
            );
        }
        Ok(())
    }

    /// Deletes the table.
    pub async fn delete(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        // While the changes are there the table is known, and whoever was interrupted comes again.
        let current = format!(
            "DROP TABLE IF EXISTS {}.{} SYNC",
            identifier(&self.client.address.database),
            identifier(definition::current(&self.name))
        );
        if definition::current(&self.name) != self.name {
            self.client.execute(&self.name, &current).await?;
        }
        self.client
            .execute(&self.name, &format!("DROP TABLE {} SYNC", self.path()))
            .await?;
        let forget = format!(
            "ALTER TABLE {}.{CUTS} DELETE WHERE table_id = {}",
            identifier(&self.client.address.database),
            text(&self.id)
        );
        self.client.execute(&self.name, &forget).await
    }
}
