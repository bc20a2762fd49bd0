//! `pyflare verify`: every byte of a backup or a data directory read, and whether a start would find its way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use datafusion::catalog::TableProvider;
use pyflare_connectors::{CheckpointStore, RowRange, Store};
use pyflare_delta::DeltaStore;
use pyflare_log::{DataDirectory, FileCatalog, FileCheckpoints, FileTickLog, check_partition, partitions_of};
use pyflare_objects::ObjectCheckpoints;

use crate::cli::durable;

use super::{DATA, LISTING, Listing, Progress, checksum, spoken_bytes};

/// Reads everything in a backup, or in a data directory that no server uses, and says whether a server could start from it.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A backup or a data directory
    path: PathBuf,
}

/// What was found, line by line, and what is wrong.
#[derive(Default)]
struct Report {
    faults: Vec<String>,
}

impl Report {
    fn line(&self, what: &str, detail: impl std::fmt::Display) {
        println!("{what:<14}{detail}");
    }

    fn fault(&mut self, what: &str, detail: impl std::fmt::Display) {
        println!("{what:<14}FAULT: {detail}");
        self.faults.push(format!("{what}: {detail}"));
    }
}

/// `pyflare verify`.
pub async fn verify(args: VerifyArgs) -> anyhow::Result<()> {
    let path = std::path::absolute(&args.path)?;
    let mut report = Report::default();
    let is_backup = path.join(LISTING).exists();
    let data = match is_backup {
        true => {
            check_listing(&path, &mut report)?;
            path.join(DATA)
        }
        false => path.clone(),
    };
    if !data.join("VERSION").is_file() {
        bail!(
            "PF-6053: {} is neither a backup nor a data directory",
            path.display()
        );
    }
    // A server that writes would be seen in the middle of it.
    let _held = match is_backup {
        true => {
            DataDirectory::check(&data)?;
            None
        }
        false => Some(DataDirectory::open(&data)?),
    };
    let log = check_log(&data, &mut report);
    check_catalog(&data, &mut report);
    let last_tick = check_start(&data, &log, &mut report)?;
    check_tables(&data, last_tick, &mut report).await;
    match report.faults.len() {
        0 => {
            println!("a server can start from it");
            Ok(())
        }
        1 => bail!("PF-6057: something is wrong: {}", report.faults[0]),
        count => bail!(
            "PF-6057: {count} things are wrong, the first of them: {}",
            report.faults[0]
        ),
    }
}

/// Compares every file with its checksum.
fn check_listing(backup: &Path, report: &mut Report) -> anyhow::Result<()> {
    let listing = Listing::read(backup)?;
    let mut progress = Progress::of("read", listing.bytes());
    for file in &listing.files {
        let name = file.path.display();
        match checksum(&backup.join(DATA).join(&file.path), &mut progress) {
            Ok(found) if found == (file.bytes, file.blake3.clone()) => {}
            Ok((bytes, _)) if bytes != file.bytes => {
                report.fault("backup", format!("{name} has {bytes} bytes, not {}", file.bytes));
            }
            Ok(_) => report.fault("backup", format!("{name} has another checksum")),
            Err(error) => report.fault("backup", format!("{name}: {error}")),
        }
    }
    progress.end();
    report.line(
        "backup",
        format!(
            "of {}, by version {}: {} files, {}",
            listing.taken_at,
            listing.version,
            listing.files.len(),
            spoken_bytes(listing.bytes())
        ),
    );
    Ok(())
}

/// The offsets that each partition has, by topic and number.
type Offsets = BTreeMap<(String, u32), (u64, u64)>;

fn check_log(data: &Path, report: &mut Report) -> Offsets {
    let mut offsets = Offsets::new();
    let root = data.join("log");
    let partitions = match partitions_of(&root) {
        Ok(partitions) => partitions,
        Err(error) => {
            report.fault("log", error);
            return offsets;
        }
    };
    let (mut records, mut segments) = (0, 0);
    for partition in &partitions {
        let name = partition.folder.to_string_lossy();
        match check_partition(&root, partition) {
            Ok((first, end)) => {
                records += end - first;
                segments += partition.segments.len();
                let place = name.rsplit_once('/');
                if let Some((topic, Ok(number))) = place.map(|(topic, number)| (topic, number.parse())) {
                    offsets.insert((topic.to_string(), number), (first, end));
                }
            }
            Err(error) => report.fault("log", error),
        }
    }
    match partitions.is_empty() {
        true => report.line("log", "none here (log.url); it is not checked"),
        false => report.line(
            "log",
            format!(
                "{records} requests in {segments} files of {} partitions",
                partitions.len()
            ),
        ),
    }
    offsets
}

fn check_catalog(data: &Path, report: &mut Report) {
    match FileCatalog::open(data.join("catalog")) {
        Ok(_) => report.line("catalog", "whole"),
        Err(error) => report.fault("catalog", error),
    }
}

/// Whether a start would find its way; the last tick, or one that is later.
fn check_start(data: &Path, log: &Offsets, report: &mut Report) -> anyhow::Result<Option<u64>> {
    let catalog = FileCatalog::open(data.join("catalog"))?;
    if let Some(place) = durable::ticks_elsewhere(catalog.as_ref())? {
        report.line(
            "tick log",
            format!("in {place} (ticks.url); neither it nor a start is checked"),
        );
        // Whatever the tables have may be in it.
        return Ok(Some(u64::MAX));
    }
    let ticks = FileTickLog::open(data.join("ticks"))?;
    let local = FileCheckpoints::open(data.join("checkpoints"))?;
    // A backup has what was elsewhere.
    let elsewhere = match local.list()?.is_empty() {
        true => durable::checkpoints_elsewhere(catalog.as_ref())?,
        false => None,
    };
    let checkpoints: Arc<dyn CheckpointStore> = match elsewhere {
        Some(address) => {
            report.line("checkpoints", format!("in {address}"));
            let history = pyflare_dataflows::lineage(catalog.as_ref())?;
            ObjectCheckpoints::open(&address, &history)?
        }
        None => local,
    };
    let found = pyflare_dataflows::verify(ticks.as_ref(), Some(checkpoints.as_ref()))?;
    let time = |tick: u64| pyflare_history::encode::time_of_tick(tick);
    report.line(
        "tick log",
        match found.last_tick {
            Some(tick) => format!("{} ticks, the last of {}", found.ticks, time(tick)),
            None => "empty".to_string(),
        },
    );
    for (tick, bytes) in &found.checkpoints {
        report.line(
            "checkpoint",
            format!("of {}, {}", time(*tick), spoken_bytes(*bytes)),
        );
    }
    for warning in &found.warnings {
        report.line("checkpoint", format!("not used: {warning}"));
    }
    for fault in &found.faults {
        report.fault("start", fault);
    }
    for ((signal, partition), (from, until)) in &found.needed {
        let topic = signal.topic();
        match log.get(&(topic.to_string(), *partition)) {
            Some((first, end)) if *first <= *from && *until <= *end => {}
            Some((first, end)) => report.fault(
                "log",
                format!("{topic}/{partition} has the offsets {first} to {end}, and a start needs {from} to {until}"),
            ),
            None if log.is_empty() || from == until => {}
            None => report.fault(
                "log",
                format!("{topic}/{partition} is missing, of which a start needs {from} to {until}"),
            ),
        }
    }
    match found.begins_at {
        Some(tick) => report.line("start", format!("from the checkpoint of {}", time(tick))),
        None => report.line("start", "replays everything"),
    }
    Ok(found.last_tick)
}

/// Reads every row of the embedded store.
async fn check_tables(data: &Path, last_tick: Option<u64>, report: &mut Report) {
    let store = match DeltaStore::open(data.join("tables")) {
        Ok(store) => store,
        Err(error) => return report.fault("tables", error),
    };
    let tables = match store.tables().await {
        Ok(tables) => tables,
        Err(error) => return report.fault("tables", error),
    };
    let (mut rows, mut bytes) = (0, 0);
    for table in &tables {
        match check_table(&store, table, last_tick).await {
            Ok(size) => (bytes, rows) = (bytes + size.0, rows + size.1),
            Err(error) => report.fault("tables", format!("{error:#}")),
        }
    }
    report.line(
        "tables",
        format!("{} with {rows} rows, {}", tables.len(), spoken_bytes(bytes)),
    );
}

async fn check_table(store: &DeltaStore, table: &str, last_tick: Option<u64>) -> anyhow::Result<(u64, u64)> {
    let cut = store.last_cut(table).await?;
    if cut > last_tick {
        bail!(
            "{table} was written up to {}, and the tick log ends at {}",
            cut.unwrap_or(0),
            last_tick.unwrap_or(0)
        );
    }
    let provider = store.provider(table).await?.context("it is gone")?;
    let schema = TableProvider::schema(provider.as_ref());
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let range = RowRange {
        columns: &columns,
        after: 0,
        until: i64::MAX as u64,
    };
    let mut rows = 0;
    let mut visit = |batch: arrow::array::RecordBatch| {
        rows += batch.num_rows() as u64;
        true
    };
    store.read_rows(table, range, &mut visit).await?;
    let size = store.size(table).await?;
    if rows != size.1 {
        bail!("{table} has {rows} rows, and its log says {}", size.1);
    }
    Ok(size)
}
