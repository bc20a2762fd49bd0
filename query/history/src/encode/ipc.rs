//! Arrow IPC: a stream (`application/vnd.apache.arrow.stream`) with the types of the contract.
//!
//! Views (`Utf8View`, `BinaryView`) become `Utf8` and `Binary`: a view array may pin buffers many times its size, and
//! not every reader knows views.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;

/// The batches as an IPC stream.
pub fn ipc_stream(schema: &Schema, batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let plain = without_views(schema);
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, &plain)?;
    for batch in batches {
        let columns: Result<Vec<ArrayRef>, ArrowError> = batch
            .columns()
            .iter()
            .zip(plain.fields())
            .map(|(column, field)| match column.data_type() == field.data_type() {
                true => Ok(Arc::clone(column)),
                false => cast(column, field.data_type()),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        writer.write(&RecordBatch::try_new_with_options(
            Arc::clone(&plain),
            columns?,
            &options,
        )?)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(out)
}

fn without_views(schema: &Schema) -> SchemaRef {
    let plain = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        DataType::BinaryView => Arc::new(field.as_ref().clone().with_data_type(DataType::Binary)),
        _ => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}
