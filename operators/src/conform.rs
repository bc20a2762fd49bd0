//! Batches of one schema from batches that say the same in other types: stored rows beside those in memory.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, MapArray, RecordBatch, RecordBatchOptions, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

/// Brings a batch to a schema: columns by name, cast where their types differ, children of maps renamed.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref().fields() == schema.fields() {
        return Ok(batch.clone());
    }
    let columns: Result<Vec<ArrayRef>, ArrowError> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => conform_array(column, field.data_type()),
            None => Err(ArrowError::SchemaError(format!(
                "the rows lack the column {}",
                field.name()
            ))),
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns?, &options)
}

fn conform_array(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    let (Some(map), DataType::Map(entries, ordered)) = (array.as_any().downcast_ref::<MapArray>(), target)
    else {
        return cast(array, target);
    };
    let DataType::Struct(fields) = entries.data_type() else {
        return cast(array, target);
    };
    let keys = conform_array(map.keys(), fields[0].data_type())?;
    let values = conform_array(map.values(), fields[1].data_type())?;
    let content = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
    let renamed = MapArray::try_new(
        Arc::clone(entries),
        map.offsets().clone(),
        content,
        map.nulls().cloned(),
        *ordered,
    )?;
    Ok(Arc::new(renamed))
}
