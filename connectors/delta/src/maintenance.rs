//! What a table needs now and then: small files merged, old rows dropped, unreferenced files deleted, the log trimmed.
//!
//! All of it may be interrupted anywhere: a merge is one log entry that says "the same rows, other files", dropped rows
//! are one entry that says so, and a file is deleted only when the current version has not referred to it for a while.
//! None of it touches the application transaction that records the last flush cut.
//!
//! **Merging.** Files come in size classes. Eight neighbours (in order of admission) of a class or below become one
//! file, so a row is rewritten once per class, about twice in its life, and a file that was large from the start never
//! is. Neighbours of different days stay apart, so that a day can be dropped as a whole; what is left of a day that is
//! over is merged whatever its number.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use pyflare_connectors::StoreError;

use crate::commit;
use crate::files::{FileWriter, WrittenFile};
use crate::statistics::Bound;
use crate::table::{StoredFile, Table, blocking, open};

const SIZE_CLASSES: [u64; 3] = [256 * 1024, 2 * 1024 * 1024, 16 * 1024 * 1024];
const NEIGHBOURS: usize = 8;
/// A merge stops taking neighbours here: enough for a good file, and a bound on how long one merge runs.
const MERGED_BYTES: u64 = 64 * 1024 * 1024;
const MERGED_FILES: usize = 256;
/// Merges of one call, so that a call ends.
const MERGES_PER_CALL: usize = 16;
const DAY_MS: u64 = 86_400_000;
/// A temporary file that old has no writer any more.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
/// The log is trimmed every so many versions.
const TRIM_INTERVAL: u64 = 100;

/// What maintenance remembers from call to call.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Since when a file in the table's directory has been without a reference, as far as this process knows.
    unreferenced: HashMap<String, Instant>,
    trimmed_at: u64,
}

/// One round over a table, as of `now_us`; `grace` is how long queries may still read a file after it was replaced.
pub async fn maintain(table: &Arc<Table>, now_us: i64, grace: Duration) -> Result<(), StoreError> {
    let mut sweep = table.maintaining.lock().await;
    expire(table, now_us).await?;
    for _ in 0..MERGES_PER_CALL {
        let now_ms = u64::try_from(now_us / 1000).unwrap_or(0);
        let Some(run) = next_merge(&table.current().files, now_ms / DAY_MS) else {
            break;
        };
        merge(table, run).await?;
    }
    vacuum(table, &mut sweep, grace).await?;
    let version = table.current().version;
    if version >= sweep.trimmed_at + TRIM_INTERVAL {
        let delta = open(&table.name, &table.directory).await?;
        deltalake::checkpoints::cleanup_metadata(&delta, None)
            .await
            .map_err(|error| table.io(error))?;
        sweep.trimmed_at = version;
    }
    Ok(())
}

/// Drops the files all of whose rows are older than the table keeps.
async fn expire(table: &Arc<Table>, now_us: i64) -> Result<(), StoreError> {
    let retention = table.retention.lock().clone();
    let (Some(kept), Some(column)) = (retention.retention_us, retention.time_column) else {
        return Ok(());
    };
    let horizon = now_us.saturating_sub(kept);
    let expired: Vec<StoredFile> = table
        .current()
        .files
        .iter()
        .filter(|file| {
            let bounds = file.statistics.columns.get(&column);
            bounds.is_some_and(|bounds| {
                bounds.nulls == 0 && matches!(bounds.greatest, Some(Bound::Time(newest)) if newest < horizon)
            })
        })
        .cloned()
        .collect();
    if expired.is_empty() {
        return Ok(());
    }
    let entry = commit::expire_entry(&sizes(&expired), format!("{column} < {horizon} (microseconds)"))
        .map_err(|error| table.io(error))?;
    table.replace(&expired, None, entry).await?;
    Ok(())
}

/// The first run of neighbours worth merging.
fn next_merge(files: &[StoredFile], today: u64) -> Option<Vec<StoredFile>> {
    for (class, limit) in SIZE_CLASSES.iter().enumerate() {
        let mut start = 0;
        while start < files.len() {
            let day = day_of(&files[start]);
            let mut end = start;
            let mut bytes = 0;
            while end < files.len()
                && files[end].bytes < *limit
                && day_of(&files[end]) == day
                && bytes + files[end].bytes <= MERGED_BYTES
                && end - start < MERGED_FILES
            {
                bytes += files[end].bytes;
                end += 1;
            }
            let day_is_over = class + 1 == SIZE_CLASSES.len() && day.is_some_and(|day| day < today);
            let enough = if day_is_over { 2 } else { NEIGHBOURS };
            if day.is_some() && end - start >= enough {
                return Some(files[start..end].to_vec());
            }
            start = end.max(start + 1);
        }
    }
    None
}

/// The days since 1970 of the cut that a file's name begins with; `None` for files that are not ours.
fn day_of(file: &StoredFile) -> Option<u64> {
    Some(cuts_of(&file.path)?.0 / DAY_MS)
}

/// The first and the last cut in the name of a file of ours.
pub fn cuts_of(path: &str) -> Option<(u64, u64)> {
    let mut parts = path.strip_suffix(".parquet")?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

async fn merge(table: &Arc<Table>, run: Vec<StoredFile>) -> Result<(), StoreError> {
    let (worker, inputs) = (Arc::clone(table), run.clone());
    let merged = blocking(&table.name, move || rewrite(&worker, &inputs)).await?;
    let entry = commit::merge_entry(&merged, &sizes(&run), MERGED_BYTES).map_err(|error| table.io(error))?;
    let path = table.directory.join(&merged.name);
    if !table.replace(&run, Some(merged), entry).await? {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn rewrite(table: &Table, inputs: &[StoredFile]) -> Result<WrittenFile, io::Error> {
    let rows: u64 = inputs.iter().map(|file| file.statistics.rows).sum();
    let cuts: Vec<(u64, u64)> = inputs.iter().filter_map(|file| cuts_of(&file.path)).collect();
    let (Some(first), Some(last)) = (
        cuts.iter().map(|cut| cut.0).min(),
        cuts.iter().map(|cut| cut.1).max(),
    ) else {
        return Err(io::Error::other("there is nothing to merge"));
    };
    let mut writer = FileWriter::create(
        &table.directory,
        &table.schema,
        usize::try_from(rows).unwrap_or(usize::MAX),
    )?;
    let copied = inputs.iter().try_for_each(|input| {
        let file = std::fs::File::open(table.directory.join(&input.path))?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .and_then(|builder| builder.with_batch_size(8192).build())
            .map_err(io::Error::other)?;
        for batch in reader {
            let batch = batch.map_err(io::Error::other)?;
            writer.write(&crate::schema::conform(&batch, &table.schema).map_err(io::Error::other)?)?;
        }
        Ok(())
    });
    if let Err(error) = copied {
        writer.abandon();
        return Err(error);
    }
    let suffix = uuid::Uuid::new_v4().simple().to_string();
    writer.finish(&format!("{first:016}-{last:016}-{}.parquet", &suffix[..12]))
}

fn sizes(files: &[StoredFile]) -> Vec<(String, u64)> {
    files.iter().map(|file| (file.path.clone(), file.bytes)).collect()
}

/// Deletes data files that nothing refers to, and temporary files that nobody is writing.
async fn vacuum(table: &Arc<Table>, sweep: &mut Sweep, grace: Duration) -> Result<(), StoreError> {
    // The block of a cut is complete before its log entry is made: while nothing is being committed, a file without a
    // reference is one that was replaced, or that a crash or a caller that went away left behind.
    let _committing = table.committing.lock().await;
    let worker = Arc::clone(table);
    let mut unreferenced = std::mem::take(&mut sweep.unreferenced);
    sweep.unreferenced = blocking(&table.name, move || {
        let mut listed = Vec::new();
        for item in std::fs::read_dir(&worker.directory)? {
            let item = item?;
            if item.file_type()?.is_file() {
                listed.push((item.file_name().to_string_lossy().into_owned(), item.path()));
            }
        }
        let version = worker.current();
        let mut still = HashMap::new();
        for (name, path) in listed {
            let temporary = name.starts_with("_writing-");
            let referenced = version
                .files
                .binary_search_by(|file| file.path.as_str().cmp(&name))
                .is_ok();
            if referenced || !(temporary || name.ends_with(".parquet")) {
                continue;
            }
            if temporary && modified_within(&path, ABANDONED_AFTER) {
                continue;
            }
            let since = unreferenced.remove(&name).unwrap_or_else(Instant::now);
            if since.elapsed() >= grace {
                std::fs::remove_file(&path)?;
            } else {
                still.insert(name, since);
            }
        }
        Ok(still)
    })
    .await?;
    Ok(())
}

fn modified_within(path: &std::path::Path, age: Duration) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| SystemTime::now().duration_since(time).unwrap_or_default() < age)
}
