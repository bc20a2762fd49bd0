//! The store's own tables, and the version that says which of them a database has.
//!
//! A database belongs to the store from its first table on: `_pyflare_schema` has a row for each version that the
//! database was brought to. A newer version, or a database with other tables and without versions, is left alone.

use pyflare_connectors::StoreError;

use crate::client::Client;
use crate::syntax::{OWN_TABLES, identifier, text};

/// The table of versions; the first thing that is created.
const VERSIONS: &str = "_pyflare_schema";
/// The cuts that are complete, by table.
pub const CUTS: &str = "_pyflare_cuts";
/// Stands for all tables in errors.
pub const ALL: &str = "(all)";

/// What each version adds to the one before. Statements may be run again: a crash may come between any two.
const MIGRATIONS: [&[&str]; 1] = [&[
    "CREATE TABLE IF NOT EXISTS {database}._pyflare_cuts (table_id String, cut Int64, rows UInt64) \
     ENGINE = ReplacingMergeTree(cut) ORDER BY table_id SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
]];

/// Makes the database what this version needs, or says why it cannot be.
pub async fn prepare(client: &Client) -> Result<(), StoreError> {
    let database = &client.address.database;
    let foreign = |detail: String| StoreError::Foreign {
        database: database.clone(),
        detail,
    };
    let quoted = identifier(database);
    client
        .execute(ALL, &format!("CREATE DATABASE IF NOT EXISTS {quoted}"))
        .await?;
    let names = format!(
        "SELECT name FROM system.tables WHERE database = {} ORDER BY name",
        text(database)
    );
    let names = client.text(ALL, &names).await?;
    if !names.lines().any(|name| name == VERSIONS) {
        if let Some(other) = names.lines().find(|name| !name.starts_with(OWN_TABLES)) {
            return Err(foreign(format!(
                "it has the table {other} of something else; name another database in store.url, it is created if it is missing"
            )));
        }
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {quoted}.{VERSIONS} (version UInt32, written_by String, at DateTime('UTC') DEFAULT now()) \
             ENGINE = MergeTree ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
        );
        client.execute(ALL, &create).await?;
    }
    let known = MIGRATIONS.len() as u64;
    let newest = format!("SELECT max(version) FROM {quoted}.{VERSIONS}");
    let present = client.number(ALL, &newest).await?.unwrap_or(0);
    if present > known {
        return Err(foreign(format!(
            "its schema has version {present} and this PyFlare knows versions up to {known}; \
             start the newer PyFlare that wrote it, or name another database in store.url"
        )));
    }
    for version in present + 1..=known {
        for statement in MIGRATIONS[version as usize - 1] {
            client
                .execute(ALL, &statement.replace("{database}", &quoted))
                .await?;
        }
        let record = format!(
            "INSERT INTO {quoted}.{VERSIONS} (version, written_by) VALUES ({version}, {})",
            text(env!("CARGO_PKG_VERSION"))
        );
        client.execute(ALL, &record).await?;
    }
    Ok(())
}
