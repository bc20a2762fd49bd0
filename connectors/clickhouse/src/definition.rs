//! How a table is declared: engine, partitions, order, indexes.
//!
//! **Partitions are days of admission** (of the flush cut), not of event time: whoever may send a span may give it any
//! time, and a thousand days in one request would be a thousand partitions. Event time is at most the tick, so a day of
//! admission is over when all of it is old, and is dropped as a whole by maintenance. A block has one cut, hence lies in
//! one partition, hence is one part that is there or is not.
//!
//! **The order** is project, then the time column: every page of the UI asks for a project and a range of time. Ids are
//! found by Bloom filters, the few values of services, models and the like by sets.

use arrow::datatypes::{DataType, Schema};

use crate::columns::{self, CUT, Description};
use crate::syntax::{identifier, text};

/// Blocks whose tokens ClickHouse remembers in each table: a replay repeats the last one only.
const REMEMBERED_BLOCKS: u32 = 1000;
/// Columns of ids, which queries look for one by one.
const IDS: [&str; 5] = ["trace_id", "span_id", "session_id", "user_id", "log_id"];
/// Columns with few values in any stretch of time.
const KINDS: [&str; 11] = [
    "service_name",
    "span_class",
    "operation",
    "provider",
    "model",
    "status",
    "name",
    "environment",
    "agent_name",
    "tool_name",
    "metric_name",
];

/// The statement that creates a table, or the column that it cannot have.
pub fn create(
    database: &str,
    table: &str,
    physical: &Schema,
    time_column: Option<&str>,
) -> Result<String, String> {
    let mut lines = column_lines(physical)?;
    lines.push(format!("{CUT} Int64 CODEC(Delta(8), ZSTD(1))"));
    lines.extend(indexes(physical, time_column));
    let description = Description::of(physical)
        .and_then(|description| serde_json::to_string(&description).ok())
        .ok_or("its columns cannot be described")?;
    Ok(format!(
        "CREATE TABLE IF NOT EXISTS {}.{} (\n{}\n) ENGINE = MergeTree \
         PARTITION BY toYYYYMMDD(fromUnixTimestamp64Milli({CUT}, 'UTC')) ORDER BY ({}) \
         SETTINGS non_replicated_deduplication_window = {REMEMBERED_BLOCKS}, \
         fsync_after_insert = 1, fsync_part_directory = 1 COMMENT {}",
        identifier(database),
        identifier(table),
        lines.join(",\n"),
        order(physical, time_column).join(", "),
        text(&description)
    ))
}

/// The statement that creates the table of a view's current content beside that of its changes.
///
/// Of the rows of one key the one with the greatest tick counts, and none if that says so: `SELECT … FINAL`.
pub fn create_current(
    database: &str,
    changes: &str,
    physical: &Schema,
    key: &[String],
) -> Result<String, String> {
    let mut lines = column_lines(&content(physical))?;
    lines.push("_tick UInt64".to_owned());
    lines.push("_is_deleted UInt8".to_owned());
    let key: Vec<String> = key.iter().map(|column| identifier(column)).collect();
    Ok(format!(
        "CREATE TABLE IF NOT EXISTS {}.{} (\n{}\n) ENGINE = ReplacingMergeTree(_tick, _is_deleted) ORDER BY ({}) \
         SETTINGS allow_nullable_key = 1, fsync_after_insert = 1, fsync_part_directory = 1 COMMENT {}",
        identifier(database),
        identifier(current(changes)),
        lines.join(",\n"),
        key.join(", "),
        text(&format!("{CURRENT_COMMENT}{changes}"))
    ))
}

/// What the comment of a table of current content begins with.
pub const CURRENT_COMMENT: &str = "the current content of ";

/// The name of the current content of the view whose changes lie in a table.
pub fn current(changes: &str) -> &str {
    changes.strip_suffix("_changes").unwrap_or(changes)
}

/// The statement that brings the current content to a cut; it may be repeated.
pub fn advance_current(database: &str, changes: &str, physical: &Schema, key: &[String], cut: i64) -> String {
    let content = content(physical);
    let columns = crate::wire::selected(content.fields());
    let key: Vec<String> = key.iter().map(|column| identifier(column)).collect();
    let database = identifier(database);
    // A key that has a new row keeps it; one that has only lost its row is gone.
    format!(
        "INSERT INTO {database}.{} ({columns}, _tick, _is_deleted) \
         SELECT {columns}, toUInt64(_tick), _diff < 0 FROM {database}.{} WHERE {CUT} = {cut} \
         ORDER BY _diff DESC LIMIT 1 BY {}",
        identifier(current(changes)),
        identifier(changes),
        key.join(", ")
    )
}

/// The statements that make the current content what a renewing block says; they may be repeated.
pub fn renew_current(
    database: &str,
    changes: &str,
    physical: &Schema,
    key: &[String],
    cut: i64,
) -> [String; 2] {
    let content = content(physical);
    let columns = crate::wire::selected(content.fields());
    let key: Vec<String> = key.iter().map(|column| identifier(column)).collect();
    let (key, database) = (key.join(", "), identifier(database));
    let (current, changes) = (identifier(current(changes)), identifier(changes));
    let shown = format!("FROM {database}.{changes} WHERE {CUT} = {cut} AND _tick = {cut} AND _diff > 0");
    [
        format!(
            "INSERT INTO {database}.{current} ({columns}, _tick, _is_deleted) \
             SELECT {columns}, toUInt64({cut}), 1 FROM {database}.{current} FINAL \
             WHERE ({key}) NOT IN (SELECT {key} {shown}) SETTINGS transform_null_in = 1"
        ),
        format!(
            "INSERT INTO {database}.{current} ({columns}, _tick, _is_deleted) \
             SELECT {columns}, toUInt64({cut}), 0 {shown} LIMIT 1 BY {key}"
        ),
    ]
}

/// The view's own columns.
fn content(physical: &Schema) -> Schema {
    let fields = physical.fields().iter();
    let own = fields.filter(|field| !matches!(field.name().as_str(), "_tick" | "_diff"));
    Schema::new(own.cloned().collect::<Vec<_>>())
}

fn column_lines(physical: &Schema) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for field in physical.fields() {
        let name = field.name();
        if name == CUT || physical.field_with_name(&columns::companion(name)).is_ok() {
            return Err(format!(
                "the store keeps columns {CUT} and {name}$null of its own"
            ));
        }
        let declared = columns::declared(field.data_type(), field.is_nullable()).ok_or_else(|| {
            format!(
                "column {name} has the type {}, which ClickHouse does not have",
                field.data_type()
            )
        })?;
        let codec = columns::codec(field);
        lines.push(format!("{} {declared} {codec}", identifier(name)));
        if columns::has_companion(field) {
            let companion = identifier(&columns::companion(name));
            lines.push(format!("{companion} Bool CODEC(ZSTD(1))"));
        }
    }
    Ok(lines)
}

fn order(physical: &Schema, time_column: Option<&str>) -> Vec<String> {
    let present = |name: &str| {
        physical
            .field_with_name(name)
            .is_ok_and(|field| !field.is_nullable())
    };
    let time = time_column.filter(|name| present(name));
    let tick = Some("_tick").filter(|name| time.is_none() && present(name));
    let leading = Some("project").filter(|name| present(name));
    let columns = [leading, time, tick].into_iter().flatten();
    let mut order: Vec<String> = columns.map(identifier).collect();
    if order.is_empty() {
        order.push(CUT.to_owned());
    }
    order
}

fn indexes(physical: &Schema, time_column: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    let ranges = ["_tick"].into_iter().chain(time_column);
    let kinds = ["minmax"].into_iter().cycle();
    let ranges = ranges.zip(kinds);
    let ids = IDS.into_iter().map(|name| (name, "bloom_filter(0.01)"));
    let values = KINDS.into_iter().map(|name| (name, "set(256)"));
    for (name, kind) in ranges.chain(ids).chain(values) {
        let is_indexable = physical.field_with_name(name).is_ok_and(|field| {
            matches!(
                field.data_type(),
                DataType::Utf8View | DataType::Int64 | DataType::Timestamp(_, _)
            )
        });
        if is_indexable {
            let granularity = if kind == "bloom_filter(0.01)" { 1 } else { 4 };
            lines.push(format!(
                "INDEX {} {} TYPE {kind} GRANULARITY {granularity}",
                identifier(&format!("index_{name}")),
                identifier(name)
            ));
        }
    }
    lines
}
