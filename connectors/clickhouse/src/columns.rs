//! The columns of a table, three times over: as Arrow holds them (`pyflare_connectors::physical`), as ClickHouse
//! declares them, and as a word that the table's comment keeps, so that the table can be opened without guessing.
//!
//! Everything comes back as it went in. Two things need more than the obvious type for that: ClickHouse's lists and maps
//! cannot be NULL, so a nullable one has a companion column that says so, and its dates end in 2299, so a date is the
//! number of its day. Timestamps are `DateTime64(6, 'UTC')`, whose 64 bits hold any number of microseconds even where
//! ClickHouse would print another year.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use pyflare_connectors::physical::{CONVERSATION_BYTES, is_conversation};
use serde::{Deserialize, Serialize};

/// Which block a row came with.
pub const CUT: &str = "_cut";
const COMPANION: &str = "$null";

/// The column that says where a list or map is NULL.
pub fn companion(column: &str) -> String {
    format!("{column}{COMPANION}")
}

pub fn has_companion(field: &Field) -> bool {
    field.is_nullable() && matches!(field.data_type(), DataType::List(_) | DataType::Map(_, _))
}

/// What a table's comment says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Description {
    /// The version of this description.
    pub pyflare: u32,
    /// Name, type and whether it may be NULL.
    pub columns: Vec<(String, String, bool)>,
}

pub const DESCRIPTION_VERSION: u32 = 1;

impl Description {
    pub fn of(physical: &Schema) -> Option<Description> {
        let columns = physical.fields().iter();
        let columns = columns.map(|field| {
            Some((
                field.name().clone(),
                word(field.data_type())?,
                field.is_nullable(),
            ))
        });
        Some(Description {
            pyflare: DESCRIPTION_VERSION,
            columns: columns.collect::<Option<_>>()?,
        })
    }

    pub fn schema(&self) -> Option<SchemaRef> {
        let fields = self.columns.iter();
        let fields = fields.map(|(name, word, nullable)| Some(Field::new(name, of_word(word)?, *nullable)));
        Some(Arc::new(Schema::new(fields.collect::<Option<Vec<Field>>>()?)))
    }
}

fn word(physical: &DataType) -> Option<String> {
    Some(match physical {
        DataType::Utf8View | DataType::Utf8 => "text".into(),
        DataType::BinaryView | DataType::Binary => "binary".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Int32 => "int32".into(),
        DataType::Int64 => "int64".into(),
        DataType::Float32 => "float32".into(),
        DataType::Float64 => "float64".into(),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(element) => format!("list({})", word(element.data_type())?),
        DataType::Map(entries, _) => {
            let (key, value) = entry(entries)?;
            format!("map({},{})", word(key.data_type())?, word(value.data_type())?)
        }
        _ => return None,
    })
}

fn of_word(word: &str) -> Option<DataType> {
    let inner = |name: &str| word.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    let child = |word: &str| of_word(word).map(pyflare_connectors::physical::of_child);
    Some(match word {
        "text" => DataType::Utf8View,
        "binary" => DataType::BinaryView,
        "boolean" => DataType::Boolean,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ => {
            if let Some((precision, scale)) = inner("decimal").and_then(|inner| inner.split_once(',')) {
                DataType::Decimal128(precision.parse().ok()?, scale.parse().ok()?)
            } else if let Some(element) = inner("list") {
                DataType::List(Arc::new(Field::new("element", child(element)?, true)))
            } else {
                // Keys are scalars, so the first comma outside of parentheses ends the key.
                let inner = inner("map")?;
                let mut depth = 0;
                let comma = inner.char_indices().find(|(_, character)| {
                    match character {
                        '(' => depth += 1,
                        ')' => depth -= 1,
                        _ => {}
                    }
                    *character == ',' && depth == 0
                })?;
                let key = Field::new("key", child(&inner[..comma.0])?, false);
                let value = Field::new("value", child(&inner[comma.0 + 1..])?, true);
                let entries = Field::new("key_value", DataType::Struct(vec![key, value].into()), false);
                DataType::Map(Arc::new(entries), false)
            }
        }
    })
}

/// Key and value of a map's entries.
pub fn entry(entries: &Field) -> Option<(&Field, &Field)> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Some((&fields[0], &fields[1])),
        _ => None,
    }
}

/// The type as ClickHouse declares it.
pub fn declared(data_type: &DataType, nullable: bool) -> Option<String> {
    let scalar = match data_type {
        // A list or a map within another one has nowhere to say that it is NULL.
        DataType::List(element) => {
            return match element.data_type() {
                DataType::List(_) | DataType::Map(_, _) => None,
                scalar => Some(format!("Array({})", declared(scalar, true)?)),
            };
        }
        DataType::Map(entries, _) => {
            let (key, value) = entry(entries)?;
            let key = match key.data_type() {
                DataType::Utf8 | DataType::Int32 | DataType::Int64 => declared(key.data_type(), false)?,
                _ => return None,
            };
            return match value.data_type() {
                DataType::List(_) | DataType::Map(_, _) => None,
                scalar => Some(format!("Map({key}, {})", declared(scalar, true)?)),
            };
        }
        DataType::Utf8View | DataType::Utf8 | DataType::BinaryView | DataType::Binary => "String".to_owned(),
        DataType::Boolean => "Bool".to_owned(),
        DataType::Int32 | DataType::Date32 => "Int32".to_owned(),
        DataType::Int64 => "Int64".to_owned(),
        DataType::Float32 => "Float32".to_owned(),
        DataType::Float64 => "Float64".to_owned(),
        DataType::Timestamp(_, _) => "DateTime64(6, 'UTC')".to_owned(),
        DataType::Decimal128(precision, scale) => format!("Decimal({precision}, {scale})"),
        _ => return None,
    };
    Some(match nullable {
        true => format!("Nullable({scalar})"),
        false => scalar,
    })
}

/// How a column is compressed.
pub fn codec(field: &Field) -> String {
    match field.data_type() {
        DataType::Int64 | DataType::Timestamp(_, _) => "CODEC(Delta(8), ZSTD(1))".to_owned(),
        DataType::Int32 | DataType::Date32 | DataType::Float64 | DataType::Float32 | DataType::Boolean => {
            "CODEC(ZSTD(1))".to_owned()
        }
        // The window is as long as the block, 2^24 bytes.
        _ if is_conversation(field.name()) => format!(
            "CODEC(ZSTD(3, 24)) SETTINGS (min_compress_block_size = {CONVERSATION_BYTES}, \
             max_compress_block_size = {CONVERSATION_BYTES})"
        ),
        _ => "CODEC(ZSTD(3))".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_description_is_read_back() {
        let list = |element| DataType::List(Arc::new(Field::new("element", element, true)));
        let map = |key, value| {
            let entries = vec![Field::new("key", key, false), Field::new("value", value, true)];
            DataType::Map(
                Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)),
                false,
            )
        };
        let types = [
            DataType::Utf8View,
            DataType::BinaryView,
            DataType::Boolean,
            DataType::Int32,
            DataType::Int64,
            DataType::Float32,
            DataType::Float64,
            DataType::Date32,
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Decimal128(38, 12),
            list(DataType::Utf8),
            list(list(DataType::Int64)),
            map(DataType::Utf8, DataType::Utf8),
            map(DataType::Utf8, DataType::Decimal128(38, 12)),
        ];
        let fields: Vec<Field> = types
            .iter()
            .enumerate()
            .map(|(number, data_type)| Field::new(format!("c{number}"), data_type.clone(), number % 2 == 0))
            .collect();
        let schema = Schema::new(fields);
        let text = serde_json::to_string(&Description::of(&schema).unwrap()).unwrap();
        let read: Description = serde_json::from_str(&text).unwrap();
        assert_eq!(*read.schema().unwrap(), schema);
        assert_eq!(of_word("map(text)"), None);
        assert_eq!(of_word("decimal(38)"), None);
    }
}
