//! The types a stored table may have, whichever store it lies in.
//!
//! The *physical* schema is what a store holds and gives back: text as `Utf8View` (within lists and maps `Utf8`, as
//! streams hold it), bytes as `BinaryView`, timestamps in microseconds UTC, lists and maps with the child names of the
//! Parquet specification. Batches are brought to it before they are written and come back in it, so a table reads the
//! same whoever wrote which part, and from whichever store.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, MapArray, RecordBatch, RecordBatchOptions, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

/// The physical schema of a declared one, or the name and type of the first column that a table cannot have.
pub fn physical_schema(declared: &Schema) -> Result<SchemaRef, String> {
    let fields: Result<Fields, String> = declared.fields().iter().map(physical_field).collect();
    Ok(Arc::new(Schema::new(fields?)))
}

fn physical_field(field: &FieldRef) -> Result<FieldRef, String> {
    let data_type = physical_type(field.data_type()).ok_or_else(|| {
        format!(
            "column {} has the type {}, which tables do not have",
            field.name(),
            field.data_type()
        )
    })?;
    Ok(Arc::new(Field::new(field.name(), data_type, field.is_nullable())))
}

fn physical_type(declared: &DataType) -> Option<DataType> {
    Some(match declared {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::BinaryView,
        DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64 => {
            declared.clone()
        }
        DataType::Date32 => DataType::Date32,
        DataType::Decimal128(precision, scale) if *scale >= 0 => DataType::Decimal128(*precision, *scale),
        DataType::Timestamp(_, Some(zone)) if matches!(zone.as_ref(), "UTC" | "+00:00" | "Z") => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        DataType::List(element) | DataType::LargeList(element) => {
            let element = Field::new("element", child_type(element.data_type())?, true);
            DataType::List(Arc::new(element))
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else {
                return None;
            };
            let [key, value] = fields.as_ref() else {
                return None;
            };
            let key = Field::new("key", child_type(key.data_type())?, false);
            let value = Field::new("value", child_type(value.data_type())?, true);
            let entries = Field::new("key_value", DataType::Struct(vec![key, value].into()), false);
            DataType::Map(Arc::new(entries), false)
        }
        _ => return None,
    })
}

fn child_type(declared: &DataType) -> Option<DataType> {
    Some(of_child(physical_type(declared)?))
}

/// Text and bytes inside of lists and maps.
pub fn of_child(data_type: DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        other => other,
    }
}

/// What two physical schemas disagree on, in words; `None` where they agree.
pub fn difference(stored: &Schema, declared: &Schema) -> Option<String> {
    for field in declared.fields() {
        match stored.field_with_name(field.name()) {
            Err(_) => return Some(format!("the column {} is not in it", field.name())),
            Ok(found) if found.data_type() != field.data_type() => {
                return Some(format!(
                    "the column {} is {} there and {} here",
                    field.name(),
                    found.data_type(),
                    field.data_type()
                ));
            }
            Ok(_) => {}
        }
    }
    let extra = stored
        .fields()
        .iter()
        .find(|field| declared.field_with_name(field.name()).is_err());
    extra.map(|field| format!("it also has the column {}", field.name()))
}

/// Brings a batch to the physical schema: columns by name, types cast where they differ, names of children replaced
/// without touching the data.
pub fn conform(batch: &RecordBatch, physical: &SchemaRef) -> Result<RecordBatch, String> {
    if batch.schema_ref().fields() == physical.fields() {
        return Ok(batch.clone());
    }
    let mut columns = Vec::with_capacity(physical.fields().len());
    for field in physical.fields() {
        let column = batch
            .column_by_name(field.name())
            .ok_or_else(|| format!("the batch has no column {}", field.name()))?;
        let column = conform_array(column, field.data_type()).map_err(|error| {
            format!(
                "column {} cannot be written as {}: {error}",
                field.name(),
                field.data_type()
            )
        })?;
        if !field.is_nullable() && column.null_count() > 0 {
            return Err(format!(
                "column {} is declared without nulls and has some",
                field.name()
            ));
        }
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(physical), columns, &options)
        .map_err(|error| error.to_string())
}

/// An array as another type; names of children are replaced without touching the data.
pub fn conform_array(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    match (array.as_any().downcast_ref::<MapArray>(), target) {
        (Some(map), DataType::Map(entries_field, ordered)) => {
            let DataType::Struct(fields) = entries_field.data_type() else {
                return cast(array, target);
            };
            let keys = conform_array(map.keys(), fields[0].data_type())?;
            let values = conform_array(map.values(), fields[1].data_type())?;
            let entries = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
            let renamed = MapArray::try_new(
                Arc::clone(entries_field),
                map.offsets().clone(),
                entries,
                map.nulls().cloned(),
                *ordered,
            )?;
            return Ok(Arc::new(renamed));
        }
        (Some(_), _) => return cast(array, target),
        (None, _) => {}
    }
    match (array.as_any().downcast_ref::<ListArray>(), target) {
        (Some(list), DataType::List(element)) => {
            let values = conform_array(list.values(), element.data_type())?;
            let renamed = ListArray::try_new(
                Arc::clone(element),
                list.offsets().clone(),
                values,
                list.nulls().cloned(),
            )?;
            Ok(Arc::new(renamed))
        }
        _ => cast(array, target),
    }
}

/// Columns whose texts repeat over megabytes: an agent sends the whole conversation with each of its calls. What compresses
/// them has to look back far.
const CONVERSATIONS: [&str; 5] = ["input", "output", "attributes", "events", "body"];

/// How far that is, bytes of a column as it lies in memory.
pub const CONVERSATION_BYTES: usize = 16 * 1024 * 1024;

pub fn is_conversation(column: &str) -> bool {
    CONVERSATIONS.contains(&column)
}

/// Whether a column can carry a table's retention.
pub fn carries_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(_, _))
}
