//! What a server must not lose, opened as the settings say: the tick log and the checkpoints.
//!
//! Both belong to the history of one data directory. The directory remembers where they are, so that whoever starts it with
//! other settings is told, and `pyflare backup` finds them.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use pyflare_connectors::{Catalog, CheckpointStore, Log, TickLog, TickLogError};
use pyflare_kafka::KafkaTickLog;
use pyflare_log::{DataDirectory, FileCatalog, FileCheckpoints, FileTickLog};
use pyflare_objects::{Address, ObjectCheckpoints};

use super::log_choice::{self, LogChoice};

/// Under which keys the catalog remembers, and what it says of the data directory itself.
const LOG: &str = "log";
const TICKS: &str = "ticks";
const CHECKPOINTS: &str = "checkpoints";
const EMBEDDED: &str = "embedded";
const LOCAL: &str = "local";

/// Where the ticks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickChoice {
    Embedded,
    /// With the brokers of the log.
    Kafka,
}

impl TickChoice {
    pub fn parse(text: &str, log: &LogChoice) -> anyhow::Result<TickChoice> {
        match (text, log) {
            ("embedded", _) => Ok(TickChoice::Embedded),
            ("kafka", LogChoice::Kafka(_)) => Ok(TickChoice::Kafka),
            ("kafka", LogChoice::Embedded) => {
                bail!("PF-6005: ticks.url 'kafka' needs Kafka's brokers in log.url: kafka://host:port")
            }
            (other, _) => bail!("PF-6005: ticks.url must be 'embedded' or 'kafka', not {other:?}"),
        }
    }
}

/// Where the checkpoints are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointChoice {
    Local,
    Objects(Address),
}

impl CheckpointChoice {
    pub fn parse(text: &str) -> anyhow::Result<CheckpointChoice> {
        match text {
            LOCAL => Ok(CheckpointChoice::Local),
            url => Ok(CheckpointChoice::Objects(Address::parse(url)?)),
        }
    }
}

/// The tick log, which is new only where the embedded log is; a history over Kafka begins with what is there. Waits for
/// Kafka's brokers: not on a thread that serves.
pub fn open_ticks(
    choice: TickChoice,
    (log_choice, log, log_identity): (&LogChoice, &dyn Log, &str),
    directory: &DataDirectory,
) -> anyhow::Result<Arc<dyn TickLog>> {
    let catalog = FileCatalog::open(directory.catalog())?;
    let embedded = FileTickLog::open(directory.ticks())?;
    let was_embedded = !embedded.is_new()?;
    let (ticks, identity) = match (choice, log_choice) {
        (TickChoice::Kafka, LogChoice::Kafka(options)) => {
            let history = pyflare_dataflows::lineage(catalog.as_ref())?;
            let ticks = KafkaTickLog::open((**options).clone(), &history)?;
            let identity = ticks.identity().to_string();
            (ticks as Arc<dyn TickLog>, identity)
        }
        _ => (embedded as Arc<dyn TickLog>, EMBEDDED.to_string()),
    };
    let is_new = ticks.is_new()?;
    if is_new && matches!(log_choice, LogChoice::Embedded) && log_choice::holds_records(log) {
        bail!(TickLogError::Missing {
            path: directory.ticks().display().to_string(),
        });
    }
    remember(
        catalog.as_ref(),
        (LOG, "log.url and kafka.topic_prefix"),
        log_identity,
        was_embedded,
    )?;
    remember(
        catalog.as_ref(),
        (TICKS, "ticks.url and kafka.topic_prefix"),
        &identity,
        was_embedded,
    )?;
    Ok(ticks)
}

/// Refuses what is not what the data directory was in use with. `was_embedded`: it was in use before anything was remembered.
fn remember(
    catalog: &dyn Catalog,
    (key, settings): (&str, &str),
    identity: &str,
    was_embedded: bool,
) -> anyhow::Result<()> {
    let known = remembered(catalog, key)?;
    // Directories from before there was a choice have what is embedded.
    match known.or_else(|| was_embedded.then(|| EMBEDDED.to_string())) {
        Some(known) if known != identity => bail!(
            "PF-6024: the data directory was in use with the {key} {known:?}, and {settings} lead to {identity:?}; \
             give back the former settings, or start with another data directory"
        ),
        _ => {
            catalog.put_if_absent(key, identity.as_bytes())?;
            Ok(())
        }
    }
}

fn remembered(catalog: &dyn Catalog, key: &str) -> anyhow::Result<Option<String>> {
    let known = catalog.get(key)?;
    Ok(known.map(|known| String::from_utf8_lossy(&known).into_owned()))
}

/// Whether a data directory's ticks are elsewhere; where, in words.
pub fn ticks_elsewhere(catalog: &dyn Catalog) -> anyhow::Result<Option<String>> {
    Ok(remembered(catalog, TICKS)?.filter(|known| known != EMBEDDED))
}

/// Where a data directory's checkpoints are, if they are in an object store.
pub fn checkpoints_elsewhere(catalog: &dyn Catalog) -> anyhow::Result<Option<Address>> {
    let known = remembered(catalog, CHECKPOINTS)?.filter(|known| known != LOCAL);
    Ok(known.map(|url| Address::parse(&url)).transpose()?)
}

/// The checkpoints. Those that lie in the data directory are moved to an object store that has none. Waits for the
/// store: not on a thread that serves.
pub fn open_checkpoints(
    choice: &CheckpointChoice,
    folder: &Path,
    catalog: &dyn Catalog,
) -> anyhow::Result<Arc<dyn CheckpointStore>> {
    let local = FileCheckpoints::open(folder)?;
    let (store, place): (Arc<dyn CheckpointStore>, String) = match choice {
        CheckpointChoice::Local => (local, LOCAL.into()),
        CheckpointChoice::Objects(address) => {
            let objects = ObjectCheckpoints::open(address, &pyflare_dataflows::lineage(catalog)?)?;
            match (objects.list()?.is_empty(), local.list()?.is_empty()) {
                (true, _) => move_all(local.as_ref(), objects.as_ref(), address)?,
                (false, false) => tracing::warn!(
                    "the data directory has checkpoints too, which are not looked at: {address} has others; where this start \
                     fails, start once without checkpoints.url, or give another place, to which they are moved"
                ),
                (false, true) => {}
            }
            (objects, address.to_string())
        }
    };
    let before = remembered(catalog, CHECKPOINTS)?.unwrap_or_else(|| LOCAL.into());
    if before != place {
        if store.list()?.is_empty() {
            tracing::warn!(
                "the checkpoints of this data directory are in {before:?}, and in {place:?}, where this start looks, there are \
                 none; without them a start may be impossible: then give back the former checkpoints.url"
            );
        }
        catalog.put(CHECKPOINTS, place.as_bytes())?;
    }
    Ok(store)
}

/// State first, and what names it last: a move that is interrupted has moved nothing that counts, and begins again.
fn move_all(from: &dyn CheckpointStore, to: &dyn CheckpointStore, place: &Address) -> anyhow::Result<()> {
    let mut files = from.list()?;
    files.sort_by_key(|(name, _)| pyflare_dataflows::is_checkpoint_manifest(name));
    for (name, _) in &files {
        if let Some(content) = from.read(name)? {
            to.create(name, &content)?;
        }
    }
    for (name, _) in files.iter().rev() {
        from.delete(name)?;
    }
    if !files.is_empty() {
        tracing::info!(files = files.len(), %place, "the checkpoints were moved there");
    }
    Ok(())
}
