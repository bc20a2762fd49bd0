//! The one declaration of every column of the streams `spans`, `logs` and `metrics`.
//!
//! A [`Field`] says a column's name, type, meaning and the wire attributes it is read from. Everything else
//! is derived from it: the Arrow schemas, the decoder's alias table, the reference page and the labels of
//! the user interface. To add a column, add a line in `spans.rs`, `logs.rs` or `metrics.rs`.
//!
//! Invariants:
//! * a stream has at most 64 fields (the decoder keeps the presence of a row's columns in one `u64`);
//! * the five hidden origin columns close every stream, in the same order;
//! * the aliases of a field stand in order of precedence: the first meaningful value wins, whatever the
//!   order on the wire.
//!
//! An alias is written as the key of a span's (log record's, data point's) attribute, or as
//! * `key{member}`: a member of an attribute that is a JSON object, as text or as a key-value list;
//! * `key.*`: a list flattened into attributes `key.0.…`, `key.1.…`;
//! * `key{member*}`: the sum of the buckets of that family in such an object;
//! * `key[ms]`: a number in milliseconds, where the column counts nanoseconds;
//! * `key=class`: the presence of the key suggests the class;
//! * `resource:key`: an attribute of the resource;
//! * `event:name` and `event:name{key}`: a span event, or an attribute of it.
mod logs;
mod metrics;
mod reference;
mod spans;

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field as ArrowField, Fields, Schema, SchemaRef, TimeUnit};

pub use logs::LOGS;
pub use metrics::METRICS;
pub use reference::reference_page;
pub use spans::SPANS;

/// Version of the alias tables below. Raised whenever an alias is added, dropped or moved, so that a reader
/// of stored rows can tell by which table they were read.
pub const ALIAS_TABLE_VERSION: u32 = 1;

/// Type of a declared column, in the words of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// UTF-8 text.
    Text,
    /// True or false.
    Bool,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// IEEE double; never −0.0, and NaN has one bit pattern.
    Float64,
    /// `Decimal128(38, 12)`.
    Money,
    /// Microseconds since 1970, UTC.
    Timestamp,
    /// List of text.
    TextList,
    /// Map from text to text.
    TextMap,
}

impl FieldType {
    /// The Arrow type of a column as a monitor sees it.
    pub fn arrow(self) -> DataType {
        match self {
            FieldType::Text => DataType::Utf8View,
            FieldType::Bool => DataType::Boolean,
            FieldType::Int32 => DataType::Int32,
            FieldType::Int64 => DataType::Int64,
            FieldType::Float64 => DataType::Float64,
            FieldType::Money => DataType::Decimal128(38, 12),
            FieldType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            FieldType::TextList => DataType::List(Arc::new(ArrowField::new_list_field(DataType::Utf8, true))),
            FieldType::TextMap => {
                let entry = Fields::from(vec![
                    ArrowField::new("keys", DataType::Utf8, false),
                    ArrowField::new("values", DataType::Utf8, true),
                ]);
                DataType::Map(
                    Arc::new(ArrowField::new("entries", DataType::Struct(entry), false)),
                    false,
                )
            }
        }
    }
}

/// One declared column of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name in SQL, REST, the user interface and the SDK.
    pub name: &'static str,
    /// Its type.
    pub data_type: FieldType,
    /// Whether a row may lack it.
    pub nullable: bool,
    /// Hidden from `SELECT *`.
    pub hidden: bool,
    /// What the user interface writes above it.
    pub label: &'static str,
    /// What it means, in one or two sentences.
    pub description: &'static str,
    /// Unit of a number (`tokens`, `ns`, `USD`).
    pub unit: Option<&'static str>,
    /// Where it is read from, in order of precedence; empty for what the protocol itself carries.
    pub aliases: &'static [&'static str],
}

impl Field {
    const fn new(name: &'static str, data_type: FieldType, label: &'static str) -> Field {
        Field {
            name,
            data_type,
            nullable: true,
            hidden: false,
            label,
            description: "",
            unit: None,
            aliases: &[],
        }
    }

    const fn text(name: &'static str, label: &'static str) -> Field {
        Field::new(name, FieldType::Text, label)
    }

    const fn int(name: &'static str, label: &'static str) -> Field {
        Field::new(name, FieldType::Int64, label)
    }

    const fn float(name: &'static str, label: &'static str) -> Field {
        Field::new(name, FieldType::Float64, label)
    }

    const fn time(name: &'static str, label: &'static str) -> Field {
        Field::new(name, FieldType::Timestamp, label)
    }

    const fn map(name: &'static str, label: &'static str) -> Field {
        Field::new(name, FieldType::TextMap, label).required()
    }

    const fn required(mut self) -> Field {
        self.nullable = false;
        self
    }

    const fn hidden(mut self) -> Field {
        self.hidden = true;
        self
    }

    const fn unit(mut self, unit: &'static str) -> Field {
        self.unit = Some(unit);
        self
    }

    const fn says(mut self, description: &'static str) -> Field {
        self.description = description;
        self
    }

    const fn from(mut self, aliases: &'static [&'static str]) -> Field {
        self.aliases = aliases;
        self
    }
}

/// The hidden origin columns, the same for every stream: (partition, offset, row) names a row for ever.
const TICK: Field = Field::int("_tick", "Tick")
    .required()
    .hidden()
    .unit("ms")
    .says("The tick that admitted the row, in milliseconds since 1970.");
const MARK: Field = Field::int("_mark", "Mark")
    .hidden()
    .unit("µs")
    .says("The stream's mark before that tick; null when the stream had none yet.");
const PARTITION: Field = Field::new("_partition", FieldType::Int32, "Partition")
    .required()
    .hidden()
    .says("Partition of the log the row came from.");
const OFFSET: Field = Field::int("_offset", "Offset")
    .required()
    .hidden()
    .says("Offset of its record in that partition.");
const ROW: Field = Field::new("_row", FieldType::Int32, "Row")
    .required()
    .hidden()
    .says("Number of the row in its record, in wire order, rejected rows counted.");

/// The declared fields of a stream (`spans`, `logs`, `metrics`), or `None` for any other name.
pub fn stream_fields(stream: &str) -> Option<&'static [Field]> {
    match stream {
        "spans" => Some(SPANS),
        "logs" => Some(LOGS),
        "metrics" => Some(METRICS),
        _ => None,
    }
}

/// The names of all streams declared here.
pub const STREAMS: [&str; 3] = ["spans", "logs", "metrics"];

/// The Arrow schema a monitor sees, the hidden origin columns at the end.
///
/// Text is `Utf8View`, a timestamp is `Timestamp(µs, "UTC")`, a map is `Map(Utf8, Utf8)` whose values are
/// JSON text.
pub fn stream_schema(stream: &str) -> Option<SchemaRef> {
    static SCHEMAS: LazyLock<[SchemaRef; 3]> =
        LazyLock::new(|| [SPANS, LOGS, METRICS].map(|fields| Arc::new(schema_of(fields, FieldType::arrow))));
    Some(Arc::clone(&SCHEMAS[stream_number(stream)?]))
}

pub(crate) fn stream_number(stream: &str) -> Option<usize> {
    STREAMS.iter().position(|name| *name == stream)
}

pub(crate) fn schema_of(fields: &[Field], data_type: impl Fn(FieldType) -> DataType) -> Schema {
    let columns: Vec<ArrowField> = fields
        .iter()
        .map(|field| ArrowField::new(field.name, data_type(field.data_type), field.nullable))
        .collect();
    Schema::new(columns)
}

/// Position of a field, for constants: fails to compile where the name is not declared.
pub(crate) const fn ordinal(fields: &[Field], name: &str) -> usize {
    let mut number = 0;
    while number < fields.len() {
        if same_text(fields[number].name, name) {
            return number;
        }
        number += 1;
    }
    panic!("no such field is declared")
}

const fn same_text(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The contract's name of an Arrow type, as shown to users: `Utf8` for all kinds of text, `Decimal128(38, 12)`,
/// `Timestamp(µs, UTC)`, `Map(Utf8, Utf8)`.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "Utf8".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "Binary".to_owned(),
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Decimal128(precision, scale) => format!("Decimal128({precision}, {scale})"),
        DataType::Timestamp(unit, zone) => {
            let unit = match unit {
                TimeUnit::Second => "s",
                TimeUnit::Millisecond => "ms",
                TimeUnit::Microsecond => "µs",
                TimeUnit::Nanosecond => "ns",
            };
            match zone {
                Some(zone) => format!("Timestamp({unit}, {zone})"),
                None => format!("Timestamp({unit})"),
            }
        }
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::FixedSizeList(item, _) => format!("List({})", type_name(item.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(entry) if entry.len() == 2 => {
                format!(
                    "Map({}, {})",
                    type_name(entry[0].data_type()),
                    type_name(entry[1].data_type())
                )
            }
            other => format!("Map({other})"),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_stream_ends_with_its_origin_and_fits_one_mask() {
        for stream in STREAMS {
            let fields = stream_fields(stream).unwrap();
            assert!(fields.len() <= 64, "{stream}");
            let tail: Vec<&str> = fields[fields.len() - 5..]
                .iter()
                .map(|field| field.name)
                .collect();
            assert_eq!(tail, ["_tick", "_mark", "_partition", "_offset", "_row"]);
            for field in fields {
                assert!(
                    !field.description.is_empty() && !field.label.is_empty(),
                    "{stream}.{}",
                    field.name
                );
                assert_eq!(field.hidden, field.name.starts_with('_'));
            }
        }
    }

    #[test]
    fn names_and_aliases_are_unique() {
        for stream in STREAMS {
            let fields = stream_fields(stream).unwrap();
            let mut names: Vec<&str> = fields.iter().map(|field| field.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), fields.len());
            for field in fields {
                let mut aliases = field.aliases.to_vec();
                aliases.sort_unstable();
                aliases.dedup();
                assert_eq!(aliases.len(), field.aliases.len(), "{stream}.{}", field.name);
            }
        }
    }

    #[test]
    fn contract_type_names() {
        let schema = stream_schema("spans").unwrap();
        let name = |column: &str| type_name(schema.field_with_name(column).unwrap().data_type());
        assert_eq!(name("trace_id"), "Utf8");
        assert_eq!(name("event_time"), "Timestamp(µs, UTC)");
        assert_eq!(name("reported_cost"), "Decimal128(38, 12)");
        assert_eq!(name("attributes"), "Map(Utf8, Utf8)");
    }
}
