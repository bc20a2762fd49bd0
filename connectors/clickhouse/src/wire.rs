//! Batches as they travel: Arrow streams whose columns ClickHouse reads and writes without a cast of its own.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, MapArray, RecordBatch, RecordBatchOptions,
    StructArray,
};
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use pyflare_connectors::physical;

use crate::columns::{self, CUT};
use crate::syntax::identifier;

/// The schema of what is inserted.
pub fn sent_schema(physical: &Schema) -> SchemaRef {
    let mut fields: Vec<FieldRef> = Vec::new();
    for field in physical.fields() {
        let is_nested = matches!(field.data_type(), DataType::List(_) | DataType::Map(_, _));
        let nullable = field.is_nullable() && !is_nested;
        let sent = sent_type(field.data_type());
        fields.push(Arc::new(Field::new(field.name(), sent, nullable)));
        if columns::has_companion(field) {
            let name = columns::companion(field.name());
            fields.push(Arc::new(Field::new(name, DataType::Boolean, false)));
        }
    }
    fields.push(Arc::new(Field::new(CUT, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

fn sent_type(physical: &DataType) -> DataType {
    match physical {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Date32 => DataType::Int32,
        DataType::List(element) => DataType::List(sent_field(element)),
        DataType::Map(entries, ordered) => match columns::entry(entries) {
            Some((key, value)) => {
                let fields: Fields = [sent_child(key), sent_child(value)].into_iter().collect();
                let entries = Field::new(entries.name(), DataType::Struct(fields), false);
                DataType::Map(Arc::new(entries), *ordered)
            }
            None => physical.clone(),
        },
        other => other.clone(),
    }
}

fn sent_field(field: &FieldRef) -> FieldRef {
    Arc::new(sent_child(field))
}

fn sent_child(field: &Field) -> Field {
    Field::new(field.name(), sent_type(field.data_type()), field.is_nullable())
}

/// A batch of the physical schema as it is inserted with the block of a cut.
pub fn sent(batch: &RecordBatch, sent: &SchemaRef, cut: i64) -> Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(sent.fields().len());
    let rows = batch.num_rows();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let to = sent_type(field.data_type());
        columns.push(match field.data_type() {
            DataType::List(_) | DataType::Map(_, _) => never_null(column, &to)?,
            _ => cast(column, &to)?,
        });
        if columns::has_companion(field) {
            let nulls = (0..rows).map(|row| Some(column.is_null(row)));
            columns.push(Arc::new(BooleanArray::from_iter(nulls)));
        }
    }
    columns.push(Arc::new(Int64Array::from(vec![cut; rows])));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(sent), columns, &options)
}

/// A list or map without NULLs; what lies where they were is hidden by the companion.
fn never_null(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if let (Some(list), DataType::List(element)) = (column.as_list_opt::<i32>(), to) {
        let values = cast(list.values(), element.data_type())?;
        let list = ListArray::try_new(Arc::clone(element), list.offsets().clone(), values, None)?;
        return Ok(Arc::new(list));
    }
    if let (Some(map), DataType::Map(entries, ordered)) = (column.as_map_opt(), to)
        && let DataType::Struct(fields) = entries.data_type()
    {
        let keys = cast(map.keys(), fields[0].data_type())?;
        let values = cast(map.values(), fields[1].data_type())?;
        let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
        let offsets = map.offsets().clone();
        let map = MapArray::try_new(Arc::clone(entries), offsets, pairs, None, *ordered)?;
        return Ok(Arc::new(map));
    }
    Err(ArrowError::CastError(format!(
        "{} is neither a list nor a map",
        column.data_type()
    )))
}

/// What has to be selected for some columns.
pub fn selected(fields: &Fields) -> String {
    let mut names = Vec::new();
    for field in fields {
        names.push(identifier(field.name()));
        if columns::has_companion(field) {
            names.push(identifier(&columns::companion(field.name())));
        }
    }
    names.join(", ")
}

/// Whether texts have to come as bytes, because some of them are.
pub fn has_bytes(fields: &Fields) -> bool {
    fn is_bytes(data_type: &DataType) -> bool {
        match data_type {
            DataType::Binary | DataType::BinaryView => true,
            DataType::List(child) | DataType::Map(child, _) => is_bytes(child.data_type()),
            DataType::Struct(fields) => fields.iter().any(|field| is_bytes(field.data_type())),
            _ => false,
        }
    }
    fields.iter().any(|field| is_bytes(field.data_type()))
}

/// A batch of [`selected`] columns as the physical schema says.
pub fn received(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let rows = batch.num_rows();
    let mut columns = Vec::with_capacity(wanted.fields().len());
    let mut position = 0;
    for field in wanted.fields() {
        let mut column = received_array(batch.column(position), field.data_type())?;
        position += 1;
        if columns::has_companion(field) {
            let nulls = batch.column(position).as_boolean_opt().ok_or_else(|| {
                ArrowError::CastError(format!("the companion of {} is not boolean", field.name()))
            })?;
            column = nullif(&column, nulls)?;
            position += 1;
        }
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)
}

fn received_array(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match (column.data_type(), to) {
        // By way of bytes that are checked to be text.
        (DataType::Binary, DataType::Utf8View) => cast(&cast(column, &DataType::Utf8)?, to),
        _ => physical::conform_array(column, to),
    }
}
