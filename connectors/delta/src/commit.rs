//! Entries of a table's log.
//!
//! An entry is composed with deltalake's own actions and serialisation, and put in place the way the log asks for:
//! complete and synced under another name first, then linked to its version's name, which fails if that version
//! exists. deltalake's local store does the same without the syncs, and a power cut could leave it a log entry of
//! zero bytes, which is a table that no reader opens any more.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use chrono::Utc;
use deltalake::kernel::transaction::CommitData;
use deltalake::kernel::{Action, Add, Remove, Transaction};
use deltalake::protocol::{DeltaOperation, SaveMode};

use crate::files::{WrittenFile, sync_directory};

/// The name under which flush cuts are recorded as application transactions.
pub const APPLICATION: &str = "pyflare.flush";

pub fn add(file: &WrittenFile, data_change: bool) -> Action {
    Action::Add(Add {
        path: file.name.clone(),
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: Utc::now().timestamp_millis(),
        data_change,
        stats: Some(file.statistics.to_json()),
        ..Add::default()
    })
}

pub fn remove(path: &str, bytes: u64, data_change: bool) -> Action {
    Action::Remove(Remove {
        path: path.to_owned(),
        data_change,
        deletion_timestamp: Some(Utc::now().timestamp_millis()),
        extended_file_metadata: Some(true),
        partition_values: Some(HashMap::new()),
        size: i64::try_from(bytes).ok(),
        ..Remove::default()
    })
}

/// The block of one flush cut.
pub fn append_entry(files: &[WrittenFile], cut: u64) -> Result<Vec<u8>, io::Error> {
    let operation = DeltaOperation::Write {
        mode: SaveMode::Append,
        partition_by: None,
        predicate: None,
    };
    let cut = i64::try_from(cut)
        .map_err(|_| io::Error::other("the cut is beyond the range of a transaction version"))?;
    let transaction =
        Transaction::new_with_last_update(APPLICATION, cut, Some(Utc::now().timestamp_millis()));
    let added = files.iter().map(|file| add(file, true)).collect();
    entry(added, operation, vec![transaction])
}

/// Small files replaced by a larger one with the same rows.
pub fn merge_entry(
    merged: &WrittenFile,
    replaced: &[(String, u64)],
    target: u64,
) -> Result<Vec<u8>, io::Error> {
    let mut actions = vec![add(merged, false)];
    actions.extend(replaced.iter().map(|(path, bytes)| remove(path, *bytes, false)));
    let target_size = i64::try_from(target).unwrap_or(i64::MAX);
    entry(
        actions,
        DeltaOperation::Optimize {
            predicate: None,
            target_size,
        },
        Vec::new(),
    )
}

/// Files whose rows are older than the table's retention.
pub fn expire_entry(expired: &[(String, u64)], rule: String) -> Result<Vec<u8>, io::Error> {
    let actions = expired
        .iter()
        .map(|(path, bytes)| remove(path, *bytes, true))
        .collect();
    entry(
        actions,
        DeltaOperation::Delete {
            predicate: Some(rule),
        },
        Vec::new(),
    )
}

/// Files of which rows were taken out, and what is left of them.
pub fn rewrite_entry(
    written: Option<&WrittenFile>,
    replaced: &[(String, u64)],
    rule: String,
) -> Result<Vec<u8>, io::Error> {
    let mut actions: Vec<Action> = written.map(|file| add(file, true)).into_iter().collect();
    actions.extend(replaced.iter().map(|(path, bytes)| remove(path, *bytes, true)));
    let operation = DeltaOperation::Delete {
        predicate: Some(rule),
    };
    entry(actions, operation, Vec::new())
}

fn entry(
    actions: Vec<Action>,
    operation: DeltaOperation,
    transactions: Vec<Transaction>,
) -> Result<Vec<u8>, io::Error> {
    let data = CommitData::new(actions, operation, HashMap::new(), transactions);
    data.get_bytes()
        .map(|bytes| bytes.to_vec())
        .map_err(io::Error::other)
}

/// Makes `entry` the log entry of `version`; `false` if that version exists already.
pub fn put(table: &Path, version: u64, entry: &[u8]) -> Result<bool, io::Error> {
    let log = table.join("_delta_log");
    let temporary = log.join(format!("_commit_{}.json.tmp", uuid::Uuid::new_v4()));
    let linked = (|| {
        let mut file = File::create_new(&temporary)?;
        file.write_all(entry)?;
        file.sync_all()?;
        fs::hard_link(&temporary, log.join(format!("{version:020}.json")))
    })();
    // The entry has its own name by now; a leftover is swept later.
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => sync_directory(&log).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}
