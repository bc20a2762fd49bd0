//! What a user's stream is.

use std::sync::Arc;

use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::fields::{FieldType, SPANS};

/// The column that holds the time a row was received, in streams without a time column of their own.
pub const DEFAULT_TIME: &str = "event_time";
/// The columns that say where a row came from, at the end of every stream.
pub const ORIGIN_COLUMNS: [&str; 5] = ["_tick", "_mark", "_partition", "_offset", "_row"];
/// Columns that no declaration may name: a stream has them anyway, or windows add them.
pub const RESERVED_COLUMNS: [&str; 3] = ["project", "window_start", "window_end"];
/// Most columns of a declaration.
pub const MOST_COLUMNS: usize = 500;

/// A stream as `CREATE STREAM` declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamDefinition {
    /// The project that owns it.
    pub project: String,
    pub name: String,
    /// The statement as it was written.
    pub sql: String,
    /// In the order of the declaration; neither `project` nor the origin is among them.
    pub columns: Vec<StreamColumn>,
    /// The declared column that holds the event time; `None`: rows have the time at which they were received, in a
    /// column [`DEFAULT_TIME`].
    pub time: Option<String>,
    /// How far out of order rows may come, microseconds; what monitors over it take unless they say otherwise.
    pub lateness_us: Option<i64>,
    /// How long stored rows are kept, microseconds; `None`: as long as the store keeps rows.
    pub retention_us: Option<i64>,
    pub description: Option<String>,
    /// The topic that its rows come from; `None`: they are sent to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<StreamTopic>,
}

/// A topic of Kafka whose messages are a stream's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTopic {
    pub name: String,
    #[serde(default)]
    pub start: TopicStart,
}

/// Where reading a topic began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicStart {
    /// With the oldest message that was kept when the stream was declared.
    #[default]
    Earliest,
    /// With the first message after the declaration.
    Latest,
    /// With the first message that is not older than this, microseconds since the Unix epoch.
    Time(i64),
}

/// One declared column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamColumn {
    pub name: String,
    pub data_type: FieldType,
    /// `NOT NULL`: a row without it is rejected.
    pub required: bool,
}

impl StreamDefinition {
    /// The column that holds the event time.
    pub fn time_column(&self) -> &str {
        self.time.as_deref().unwrap_or(DEFAULT_TIME)
    }

    /// Whether values that no column was declared for are left out: messages of a topic were not written for this stream.
    /// Who sends rows to the server is told of them instead.
    pub fn leaves_out_other_columns(&self) -> bool {
        self.topic.is_some()
    }

    /// `project`, the declared columns, the time received where no column is the event time, then the hidden origin.
    pub fn schema(&self) -> SchemaRef {
        let mut fields = vec![ArrowField::new("project", FieldType::Text.arrow(), false)];
        fields.extend(
            self.columns
                .iter()
                .map(|column| ArrowField::new(&column.name, column.data_type.arrow(), !column.required)),
        );
        if self.time.is_none() {
            fields.push(ArrowField::new(DEFAULT_TIME, FieldType::Timestamp.arrow(), false));
        }
        let origin = SPANS.iter().filter(|field| field.hidden);
        fields
            .extend(origin.map(|field| ArrowField::new(field.name, field.data_type.arrow(), field.nullable)));
        Arc::new(Schema::new(fields))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_origin_of_a_users_row_is_that_of_any_row() {
        let definition = StreamDefinition {
            project: "default".into(),
            name: "orders".into(),
            sql: String::new(),
            columns: vec![StreamColumn {
                name: "price".into(),
                data_type: FieldType::Money,
                required: true,
            }],
            time: None,
            lateness_us: None,
            retention_us: None,
            description: None,
            topic: None,
        };
        let schema = definition.schema();
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        assert_eq!(names[..3], ["project", "price", "event_time"]);
        assert_eq!(names[3..], ORIGIN_COLUMNS);
        let text = serde_json::to_string(&definition).unwrap();
        assert_eq!(
            serde_json::from_str::<StreamDefinition>(&text).unwrap(),
            definition
        );
    }
}
