//! What is known of a file without opening it: row count, and least and greatest value of the columns that queries
//! narrow by.
//!
//! Statistics are kept for the columns on which files really differ because rows arrive in time order: timestamps,
//! `_tick`, and `project`. Ids and texts are spread over all files, so bounds on them would cost space and prune
//! nothing. Delta Lake keeps them as JSON in each `add` action; that is the only copy, read back when a table is
//! loaded.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{max, max_string_view, min, min_string_view};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, SecondsFormat};
use serde_json::{Map, Value, json};

/// Longer text bounds would have to be truncated by rules that readers differ about.
const LONGEST_TEXT_BOUND: usize = 64;

/// A bound of one column in one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    Integer(i64),
    /// Microseconds since 1970, UTC.
    Time(i64),
    Text(String),
}

/// One column of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnBounds {
    pub least: Option<Bound>,
    pub greatest: Option<Bound>,
    pub nulls: u64,
}

/// One file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileStatistics {
    pub rows: u64,
    pub columns: BTreeMap<String, ColumnBounds>,
}

/// Whether bounds of this column are kept.
pub fn has_bounds(field: &Field) -> bool {
    match field.data_type() {
        DataType::Timestamp(_, _) => true,
        DataType::Int64 => field.name() == "_tick",
        DataType::Utf8View => field.name() == "project",
        _ => false,
    }
}

/// The value of the table property that tells every Delta writer and reader which columns have statistics.
pub fn indexed_columns(physical: &Schema) -> String {
    let names: Vec<&str> = physical
        .fields()
        .iter()
        .filter(|field| has_bounds(field))
        .map(|field| field.name().as_str())
        .collect();
    names.join(",")
}

impl FileStatistics {
    /// Adds a batch of the physical schema.
    pub fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            if !has_bounds(field) {
                continue;
            }
            let bounds = match field.data_type() {
                DataType::Timestamp(_, _) => {
                    let column = column.as_primitive::<TimestampMicrosecondType>();
                    min(column).map(Bound::Time).zip(max(column).map(Bound::Time))
                }
                DataType::Int64 => {
                    let column = column.as_primitive::<Int64Type>();
                    min(column)
                        .map(Bound::Integer)
                        .zip(max(column).map(Bound::Integer))
                }
                _ => {
                    let column = column.as_string_view();
                    let text = |text: &str| Bound::Text(text.to_owned());
                    min_string_view(column)
                        .map(text)
                        .zip(max_string_view(column).map(text))
                }
            };
            let entry = self.columns.entry(field.name().clone()).or_default();
            entry.nulls += column.null_count() as u64;
            if let Some((least, greatest)) = bounds {
                entry.widen(least, greatest);
            }
        }
    }

    /// As Delta Lake's log holds it.
    pub fn to_json(&self) -> String {
        let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
        for (name, bounds) in &self.columns {
            nulls.insert(name.clone(), json!(bounds.nulls));
            let written = |bound: &Option<Bound>| bound.as_ref().and_then(Bound::to_json);
            if let (Some(low), Some(high)) = (written(&bounds.least), written(&bounds.greatest)) {
                least.insert(name.clone(), low);
                greatest.insert(name.clone(), high);
            }
        }
        json!({"numRecords": self.rows, "minValues": least, "maxValues": greatest, "nullCount": nulls})
            .to_string()
    }

    /// Reads what [`FileStatistics::to_json`] or another Delta writer wrote. Bounds that do not fit the column's type
    /// are left out: a missing bound only costs pruning.
    pub fn from_json(text: &str, physical: &Schema) -> Option<FileStatistics> {
        let parsed: Value = serde_json::from_str(text).ok()?;
        let mut statistics = FileStatistics {
            rows: parsed.get("numRecords")?.as_u64()?,
            columns: BTreeMap::new(),
        };
        for field in physical.fields().iter().filter(|field| has_bounds(field)) {
            let read = |key: &str| Bound::from_json(parsed.get(key)?.get(field.name())?, field.data_type());
            let nulls = parsed
                .get("nullCount")
                .and_then(|nulls| nulls.get(field.name()))
                .and_then(Value::as_u64);
            let Some(nulls) = nulls else { continue };
            let (least, greatest) = (read("minValues"), read("maxValues"));
            if nulls < statistics.rows && (least.is_none() || greatest.is_none()) {
                continue;
            }
            statistics.columns.insert(
                field.name().clone(),
                ColumnBounds {
                    least,
                    greatest,
                    nulls,
                },
            );
        }
        Some(statistics)
    }
}

impl ColumnBounds {
    fn widen(&mut self, least: Bound, greatest: Bound) {
        self.least = Some(match self.least.take() {
            Some(known) => known.min(least),
            None => least,
        });
        self.greatest = Some(match self.greatest.take() {
            Some(known) => known.max(greatest),
            None => greatest,
        });
    }
}

impl Bound {
    /// `None` for what other readers of the log might misread: long texts, and years that RFC 3339 has no place for.
    fn to_json(&self) -> Option<Value> {
        match self {
            Bound::Integer(value) => Some(json!(value)),
            Bound::Time(micros) => {
                let time = DateTime::from_timestamp_micros(*micros)?;
                (0..=9999)
                    .contains(&time.year())
                    .then(|| json!(time.to_rfc3339_opts(SecondsFormat::Micros, true)))
            }
            Bound::Text(text) => (text.len() <= LONGEST_TEXT_BOUND).then(|| json!(text)),
        }
    }

    fn from_json(value: &Value, data_type: &DataType) -> Option<Bound> {
        match data_type {
            DataType::Int64 => value.as_i64().map(Bound::Integer),
            DataType::Timestamp(_, _) => {
                let time = DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
                Some(Bound::Time(time.timestamp_micros()))
            }
            DataType::Utf8View => value.as_str().map(|text| Bound::Text(text.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringViewArray, TimestampMicrosecondArray};
    use arrow::datatypes::TimeUnit;

    use super::*;

    fn batch(times: Vec<Option<i64>>, project: &str) -> RecordBatch {
        let rows = times.len();
        let schema = Schema::new(vec![
            Field::new(
                "event_time",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                true,
            ),
            Field::new("_tick", DataType::Int64, false),
            Field::new("project", DataType::Utf8View, false),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
                Arc::new(Int64Array::from_iter_values(0..rows as i64)),
                Arc::new(StringViewArray::from(vec![project; rows])),
            ],
        )
        .unwrap()
    }

    #[test]
    fn statistics_survive_the_log() {
        let mut statistics = FileStatistics::default();
        statistics.add(&batch(vec![Some(1_700_000_000_123_457), None], "b"));
        statistics.add(&batch(vec![Some(-5), Some(9_223_371_000_000_000)], "a"));
        let schema = batch(vec![], "").schema();
        let read = FileStatistics::from_json(&statistics.to_json(), &schema).unwrap();
        assert_eq!(read, statistics);
        assert_eq!(read.rows, 4);
        assert_eq!(read.columns["event_time"].nulls, 1);
        assert_eq!(read.columns["project"].least, Some(Bound::Text("a".into())));
    }

    #[test]
    fn what_cannot_be_written_is_unknown_and_not_wrong() {
        let mut statistics = FileStatistics::default();
        statistics.add(&batch(vec![Some(i64::MAX), Some(0)], &"x".repeat(100)));
        statistics.add(&batch(vec![None, None], "a"));
        let schema = batch(vec![], "").schema();
        let read = FileStatistics::from_json(&statistics.to_json(), &schema).unwrap();
        assert_eq!(read.rows, 4);
        assert!(!read.columns.contains_key("event_time"));
        assert!(!read.columns.contains_key("project"));
        assert!(read.columns.contains_key("_tick"));
    }
}
