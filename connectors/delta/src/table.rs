//! One table: its current version in memory, and the two ways it moves on, by appending a block and by replacing
//! files.
//!
//! PyFlare is the only writer of its store (the data directory is locked), so the version in memory is the newest one
//! and a query pays nothing for it. Should somebody else have committed all the same (another tool compacting the
//! table, say), the next entry of ours meets a taken version, the table is loaded anew, and the entry is tried again
//! where that is still right.
//!
//! Files are named `<first cut>-<last cut>[-<part or suffix>].parquet`: in name order they are in the order in which the rows
//! were admitted, and the block of a cut that was written twice because of a crash has the same name both times.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use deltalake::{DeltaTable, DeltaTableBuilder};
use futures::stream::{self, StreamExt};
use parking_lot::{Mutex, RwLock};
use pyflare_connectors::faults::{self, Step};
use pyflare_connectors::{Part, StoreError, TableDefinition};

use crate::files::{FileWriter, WrittenFile};
use crate::statistics::FileStatistics;
use crate::{commit, schema};

/// How often the log is condensed into a checkpoint, in versions.
const CHECKPOINT_INTERVAL: u64 = 100;
/// Somebody else may commit between our looking and our committing, but not for ever.
const COMMIT_ATTEMPTS: usize = 16;

/// A file of the current version.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredFile {
    /// Relative to the table's directory.
    pub path: String,
    pub bytes: u64,
    pub statistics: FileStatistics,
}

/// A version of the table.
#[derive(Debug, Clone, Default)]
pub struct Version {
    pub version: u64,
    pub last_cut: Option<u64>,
    /// By path, which is the order of admission.
    pub files: Arc<Vec<StoredFile>>,
}

#[derive(Debug, Clone, Default)]
pub struct Retention {
    pub retention_us: Option<i64>,
    pub time_column: Option<String>,
}

#[derive(Debug)]
pub struct Table {
    pub name: String,
    pub directory: PathBuf,
    pub schema: SchemaRef,
    pub retention: Mutex<Retention>,
    version: RwLock<Version>,
    /// Held while an entry is made; never while files are merged.
    pub committing: tokio::sync::Mutex<()>,
    /// Held by maintenance, of which one runs at a time.
    pub maintaining: tokio::sync::Mutex<crate::maintenance::Sweep>,
}

impl Table {
    pub fn io(&self, error: impl std::fmt::Display) -> StoreError {
        failure(&self.name, error)
    }

    pub fn current(&self) -> Version {
        self.version.read().clone()
    }

    /// Creates the table; `None` if its directory already holds one.
    pub async fn create(
        directory: &Path,
        definition: &TableDefinition,
        physical: &SchemaRef,
    ) -> Result<Table, StoreError> {
        let name = &definition.name;
        let columns = schema::delta_fields(physical).map_err(|detail| StoreError::Schema {
            table: name.clone(),
            detail,
        })?;
        std::fs::create_dir_all(directory).map_err(|error| failure(name, error))?;
        let properties = [
            (
                "delta.dataSkippingStatsColumns",
                Some(crate::statistics::indexed_columns(physical)),
            ),
            ("delta.checkpointInterval", Some(CHECKPOINT_INTERVAL.to_string())),
            ("delta.logRetentionDuration", Some("interval 1 day".to_owned())),
            (
                "delta.deletedFileRetentionDuration",
                Some("interval 1 day".to_owned()),
            ),
        ];
        let builder =
            DeltaTableBuilder::from_url(url_of(name, directory)?).map_err(|error| failure(name, error))?;
        builder
            .build()
            .map_err(|error| failure(name, error))?
            .create()
            .with_table_name(name)
            .with_columns(columns)
            .with_configuration(
                properties
                    .into_iter()
                    .filter(|(_, value)| value.as_deref() != Some("")),
            )
            .await
            .map_err(|error| failure(name, error))?;
        let log = directory.join("_delta_log");
        let sync = || {
            std::fs::File::open(log.join(format!("{:020}.json", 0)))?.sync_all()?;
            crate::files::sync_directory(&log)?;
            crate::files::sync_directory(directory)?;
            directory.parent().map_or(Ok(()), crate::files::sync_directory)
        };
        sync().map_err(|error| failure(name, error))?;
        Table::load(name, directory)
            .await?
            .ok_or_else(|| StoreError::Missing { table: name.clone() })
    }

    /// Loads the newest version of the table; `None` if the directory holds none.
    pub async fn load(name: &str, directory: &Path) -> Result<Option<Table>, StoreError> {
        if !directory.join("_delta_log").is_dir() {
            return Ok(None);
        }
        let Some((version, schema)) = read_version(name, directory).await? else {
            return Ok(None);
        };
        Ok(Some(Table {
            name: name.to_owned(),
            directory: directory.to_owned(),
            schema,
            retention: Mutex::default(),
            version: RwLock::new(version),
            committing: tokio::sync::Mutex::default(),
            maintaining: tokio::sync::Mutex::default(),
        }))
    }

    /// Appends the block of a cut; `false` if the table has that cut or a later one, or if there are no rows.
    pub async fn append(self: &Arc<Self>, cut: u64, parts: Vec<Part>) -> Result<bool, StoreError> {
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let _committing = self.committing.lock().await;
        if rows == 0 || self.current().last_cut.is_some_and(|last| last >= cut) {
            return Ok(false);
        }
        let block = self.write_block(cut, parts).await?;
        faults::at(Step::BlockWritten);
        for _ in 0..COMMIT_ATTEMPTS {
            let known = self.current();
            if known.last_cut.is_some_and(|last| last >= cut) {
                return Ok(false);
            }
            let entry = commit::append_entry(&block, cut).map_err(|error| self.io(error))?;
            let block = block.clone();
            let moved = self
                .put(known.version + 1, entry, move |version| {
                    version.last_cut = Some(cut);
                    for file in &block {
                        insert(version, file);
                    }
                })
                .await?;
            if moved {
                faults::at(Step::BlockRecorded);
                return Ok(true);
            }
        }
        Err(self.io("other writers kept committing to the table; let PyFlare be its only writer"))
    }

    /// One file for each part, as many at a time as there are processors. A crash leaves files that nothing refers
    /// to; maintenance removes them.
    async fn write_block(
        self: &Arc<Self>,
        cut: u64,
        parts: Vec<Part>,
    ) -> Result<Vec<WrittenFile>, StoreError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = parts.into_iter().filter(|part| part.rows > 0).enumerate();
        let writes = parts.map(|(number, part)| {
            let table = Arc::clone(self);
            let name = match number {
                0 => format!("{cut:016}-{cut:016}.parquet"),
                _ => format!("{cut:016}-{cut:016}-{number:04}.parquet"),
            };
            async move {
                let name_of_table = table.name.clone();
                blocking(&name_of_table, move || table.write_part(&name, part)).await
            }
        });
        // Every write ends before the block is given up: what a straggler left would come under a name of the retry.
        let written: Vec<Result<WrittenFile, StoreError>> =
            stream::iter(writes).buffered(threads).collect().await;
        written.into_iter().collect()
    }

    fn write_part(&self, name: &str, part: Part) -> Result<WrittenFile, io::Error> {
        let mut writer = FileWriter::create(&self.directory, &self.schema, part.rows)?;
        for batch in part.batches {
            let written = schema::conform(&batch, &self.schema)
                .map_err(io::Error::other)
                .and_then(|batch| writer.write(&batch));
            if let Err(error) = written {
                writer.abandon();
                return Err(error);
            }
        }
        writer.finish(name)
    }

    /// Replaces files by `merged` (or by nothing), if all of them are still in the current version.
    pub async fn replace(
        self: &Arc<Self>,
        replaced: &[StoredFile],
        merged: Option<WrittenFile>,
        entry: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let _committing = self.committing.lock().await;
        let known = self.current();
        let present = replaced.iter().all(|file| {
            known
                .files
                .binary_search_by(|other| other.path.cmp(&file.path))
                .is_ok()
        });
        if !present {
            return Ok(false);
        }
        let gone: Vec<String> = replaced.iter().map(|file| file.path.clone()).collect();
        self.put(known.version + 1, entry, move |version| {
            Arc::make_mut(&mut version.files).retain(|file| !gone.contains(&file.path));
            if let Some(merged) = &merged {
                insert(version, merged);
            }
        })
        .await
    }

    /// Makes one entry; on success the version in memory moves on, else the table is loaded anew.
    async fn put(
        self: &Arc<Self>,
        version: u64,
        entry: Vec<u8>,
        change: impl FnOnce(&mut Version) + Send + 'static,
    ) -> Result<bool, StoreError> {
        let table = Arc::clone(self);
        // In one step of the blocking pool: a caller that goes away cannot leave the entry made and the memory stale.
        let made = blocking(&self.name, move || {
            let made = commit::put(&table.directory, version, &entry)?;
            if made {
                let mut current = table.version.write();
                current.version = version;
                change(&mut current);
            }
            Ok(made)
        })
        .await?;
        if !made {
            tracing::warn!(
                table = self.name,
                version,
                "somebody else committed to the table; loading it anew"
            );
            if let Some((newest, _)) = read_version(&self.name, &self.directory).await? {
                *self.version.write() = newest;
            }
        } else if (version + 1).is_multiple_of(CHECKPOINT_INTERVAL) {
            self.checkpoint(version).await;
        }
        Ok(made)
    }

    /// Condenses the log. A failure costs loading time and nothing else, so it is only reported.
    async fn checkpoint(&self, version: u64) {
        let result = async {
            let url = url_of(&self.name, &self.directory)?;
            deltalake::checkpoints::create_checkpoint_from_table_url_and_cleanup(
                url,
                version,
                Some(false),
                None,
            )
            .await
            .map_err(|error| self.io(error))?;
            let log = self.directory.join("_delta_log");
            blocking(&self.name, move || {
                let of_version = format!("{version:020}.checkpoint");
                for item in std::fs::read_dir(&log)? {
                    let item = item?;
                    let name = item.file_name();
                    let name = name.to_string_lossy();
                    if name.starts_with(&of_version) || name == "_last_checkpoint" {
                        std::fs::File::open(item.path())?.sync_all()?;
                    }
                }
                crate::files::sync_directory(&log)
            })
            .await
        };
        if let Err(error) = result.await {
            tracing::warn!(table = self.name, %error, "the table's log could not be condensed");
        }
    }
}

fn insert(version: &mut Version, file: &WrittenFile) {
    let files = Arc::make_mut(&mut version.files);
    let stored = StoredFile {
        path: file.name.clone(),
        bytes: file.bytes,
        statistics: file.statistics.clone(),
    };
    match files.binary_search_by(|other| other.path.cmp(&stored.path)) {
        Ok(at) => files[at] = stored,
        Err(at) => files.insert(at, stored),
    }
}

/// Runs file work where it may block.
pub async fn blocking<T: Send + 'static>(
    table: &str,
    work: impl FnOnce() -> Result<T, io::Error> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| failure(table, error)),
        Err(error) => Err(failure(table, error)),
    }
}

pub fn failure(table: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Io {
        table: table.to_owned(),
        detail: error.to_string(),
    }
}

pub fn url_of(table: &str, directory: &Path) -> Result<url::Url, StoreError> {
    let absolute = std::path::absolute(directory).map_err(|error| failure(table, error))?;
    url::Url::from_directory_path(&absolute).map_err(|()| {
        failure(
            table,
            format!("{} is not a path that a URL can name", absolute.display()),
        )
    })
}

/// Loads the table from the files alone and condenses what deltalake says about it.
pub async fn open(table: &str, directory: &Path) -> Result<DeltaTable, StoreError> {
    let builder =
        DeltaTableBuilder::from_url(url_of(table, directory)?).map_err(|error| failure(table, error))?;
    builder.load().await.map_err(|error| failure(table, error))
}

async fn read_version(name: &str, directory: &Path) -> Result<Option<(Version, SchemaRef)>, StoreError> {
    let builder =
        DeltaTableBuilder::from_url(url_of(name, directory)?).map_err(|error| failure(name, error))?;
    let mut delta = builder.build().map_err(|error| failure(name, error))?;
    if !delta
        .verify_deltatable_existence()
        .await
        .map_err(|error| failure(name, error))?
    {
        return Ok(None);
    }
    delta.load().await.map_err(|error| failure(name, error))?;
    let state = delta.snapshot().map_err(|error| failure(name, error))?;
    let physical = schema::physical_of_delta(&state.schema()).map_err(|detail| StoreError::Schema {
        table: name.to_owned(),
        detail,
    })?;
    let last_cut = state
        .transaction_version(delta.log_store().as_ref(), commit::APPLICATION)
        .await
        .map_err(|error| failure(name, error))?
        .and_then(|cut| u64::try_from(cut).ok());
    let mut files: Vec<StoredFile> = state
        .log_data()
        .iter()
        .map(|file| {
            let statistics = file
                .stats()
                .and_then(|text| FileStatistics::from_json(&text, &physical));
            StoredFile {
                path: file.path().into_owned(),
                bytes: u64::try_from(file.size()).unwrap_or(0),
                statistics: statistics.unwrap_or_default(),
            }
        })
        .collect();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Some((
        Version {
            version: state.version(),
            last_cut,
            files: Arc::new(files),
        },
        physical,
    )))
}
