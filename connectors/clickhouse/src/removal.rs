//! Rows that are taken out of a table, by mutations that are waited for.

use arrow::datatypes::Schema;
use pyflare_connectors::{Removal, StoreError};

use crate::client::{Client, failure};
use crate::columns;
use crate::definition;
use crate::syntax::{identifier, text};
use crate::table::Table;

/// Values in one statement, which ClickHouse wants below a length.
const VALUES_AT_ONCE: usize = 2_000;

/// Removes the rows that `removal` names; how many there were.
pub async fn remove_rows(client: &Client, table: &Table, removal: &Removal) -> Result<u64, StoreError> {
    let has = |column: &str| table.schema.field_with_name(column).is_ok();
    if !removal.columns().chain(["_tick"]).all(has) {
        return Ok(0);
    }
    let until = i64::try_from(removal.until).unwrap_or(i64::MAX);
    let of_project = format!("project = {} AND _tick <= {until}", text(&removal.project));
    let conditions: Vec<String> = match &removal.by {
        None => vec![of_project],
        Some((column, values)) => {
            let values: Vec<String> = values.iter().map(|value| text(value)).collect();
            let parts = values.chunks(VALUES_AT_ONCE);
            parts
                .map(|part| format!("{of_project} AND {} IN ({})", identifier(column), part.join(", ")))
                .collect()
        }
    };
    let path = table.path();
    let mut removed = 0;
    for condition in conditions {
        let count = format!("SELECT count() FROM {path} WHERE {condition}");
        let rows = client.number(&table.name, &count).await?.unwrap_or(0);
        if rows > 0 {
            let delete = format!("ALTER TABLE {path} DELETE WHERE {condition} SETTINGS mutations_sync = 1");
            client.execute(&table.name, &delete).await?;
            removed += rows;
        }
    }
    Ok(removed)
}

/// Removes the changes that cancel each other until a tick, and what the current content keeps of rows that are gone.
pub async fn settle_changes(client: &Client, table: &Table, until: u64) -> Result<(), StoreError> {
    let until = i64::try_from(until).map_err(|error| failure(&table.name, error))?;
    let path = table.path();
    // Texts compare as the values do, NULL and NaN among them.
    let row = format!(
        "sipHash128(toString(tuple({})))",
        content(&table.schema).join(", ")
    );
    let delete = format!(
        "ALTER TABLE {path} DELETE WHERE _tick <= {until} AND {row} IN \
         (SELECT {row} FROM {path} WHERE _tick <= {until} GROUP BY {row} HAVING sum(_diff) = 0) \
         SETTINGS mutations_sync = 1"
    );
    client.execute(&table.name, &delete).await?;
    // Whether it has a key is known only once something was written.
    let is_kept = format!(
        "SELECT count() FROM system.tables WHERE database = {} AND name = {}",
        text(&client.address.database),
        text(definition::current(&table.name))
    );
    if definition::current(&table.name) == table.name
        || client.number(&table.name, &is_kept).await? != Some(1)
    {
        return Ok(());
    }
    let current = format!(
        "{}.{}",
        identifier(&client.address.database),
        identifier(definition::current(&table.name))
    );
    // The newest row of each key alone, and then none where that says that there is none.
    for statement in [
        format!("OPTIMIZE TABLE {current} FINAL"),
        format!(
            "ALTER TABLE {current} DELETE WHERE _is_deleted = 1 AND _tick <= {until} SETTINGS mutations_sync = 1"
        ),
    ] {
        client.execute(&table.name, &statement).await?;
    }
    Ok(())
}

/// The columns by which rows of a view are told apart.
fn content(schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    let own = fields.filter(|field| !matches!(field.name().as_str(), "_tick" | "_diff"));
    own.flat_map(|field| {
        let companion = columns::has_companion(field).then(|| identifier(&columns::companion(field.name())));
        std::iter::once(identifier(field.name())).chain(companion)
    })
    .collect()
}
