//! Rows that are taken out of a table: files are written anew without them.
//!
//! Each file that has some is one log entry ("these rows of this file are gone"), so an interruption leaves a table from
//! which some are gone and that can be gone over again. Files that are replaced are deleted like those of a merge, once
//! no query can be reading them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int64Type};
use arrow::row::{OwnedRow, RowConverter, SortField};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use pyflare_connectors::{Removal, StoreError};

use crate::commit;
use crate::files::{FileWriter, WrittenFile};
use crate::table::{StoredFile, Table, blocking};

const TICK: &str = "_tick";
const DIFF: &str = "_diff";
const BATCH_ROWS: usize = 8_192;
/// Different rows that are summed up at once.
const ROWS_AT_ONCE: u64 = 1_000_000;

/// Removes the rows that `removal` names; how many there were.
pub async fn remove_rows(table: &Arc<Table>, removal: &Removal) -> Result<u64, StoreError> {
    // No merge may move rows meanwhile.
    let _maintaining = table.maintaining.lock().await;
    let mut removed = 0;
    for file in table.current().files.iter() {
        let (worker, input, wanted) = (Arc::clone(table), file.clone(), removal.clone());
        let (written, gone) = blocking(&table.name, move || without(&worker, &input, &wanted)).await?;
        if gone > 0 {
            let rule = format!("erased, of those until {}", removal.until);
            replace(table, std::slice::from_ref(file), written, rule).await?;
            removed += gone;
        }
    }
    Ok(removed)
}

/// Sums the changes of a view up to a tick: rows that came and went until then are gone, of others one is left, with the
/// tick of its last change.
pub async fn settle_changes(table: &Arc<Table>, until: u64) -> Result<(), StoreError> {
    let _maintaining = table.maintaining.lock().await;
    let inputs: Vec<StoredFile> = table.current().files.to_vec();
    if inputs.is_empty() {
        return Ok(());
    }
    let (worker, files) = (Arc::clone(table), inputs.clone());
    let written = blocking(&table.name, move || settled(&worker, &files, until)).await?;
    replace(table, &inputs, written, format!("summed up until {until}")).await
}

async fn replace(
    table: &Arc<Table>,
    inputs: &[StoredFile],
    written: Option<WrittenFile>,
    rule: String,
) -> Result<(), StoreError> {
    let gone: Vec<(String, u64)> = inputs
        .iter()
        .map(|file| (file.path.clone(), file.bytes))
        .collect();
    let entry = commit::rewrite_entry(written.as_ref(), &gone, rule).map_err(|error| table.io(error))?;
    let path = written.as_ref().map(|file| table.directory.join(&file.name));
    if !table.replace(inputs, written, entry).await? {
        path.map(std::fs::remove_file);
        return Err(table.io("its files were replaced meanwhile; let PyFlare be its only writer"));
    }
    Ok(())
}

/// The file without the rows, if any of them are in it; `None`: nothing is left.
fn without(
    table: &Table,
    input: &StoredFile,
    removal: &Removal,
) -> Result<(Option<WrittenFile>, u64), io::Error> {
    let columns: Vec<&str> = removal.columns().chain([TICK]).collect();
    if columns
        .iter()
        .any(|column| table.schema.index_of(column).is_err())
    {
        return Ok((None, 0));
    }
    let mut gone = 0;
    for batch in read(table, input, Some(&columns))? {
        gone += named(&batch?, removal)?.true_count() as u64;
    }
    if gone == 0 || gone == input.statistics.rows {
        return Ok((None, gone));
    }
    let rows = usize::try_from(input.statistics.rows - gone).unwrap_or(usize::MAX);
    let mut writer = FileWriter::create(&table.directory, &table.schema, rows)?;
    let copied = read(table, input, None)?.try_for_each(|batch| {
        let batch = batch?;
        let left = arrow::compute::not(&named(&batch, removal)?).map_err(io::Error::other)?;
        writer.write(&filter_record_batch(&batch, &left).map_err(io::Error::other)?)
    });
    finish(writer, copied, std::slice::from_ref(input)).map(|written| (Some(written), gone))
}

fn finish(
    writer: FileWriter,
    copied: Result<(), io::Error>,
    inputs: &[StoredFile],
) -> Result<WrittenFile, io::Error> {
    if let Err(error) = copied {
        writer.abandon();
        return Err(error);
    }
    // In name order files are in the order of admission.
    let cuts = || {
        inputs
            .iter()
            .filter_map(|file| crate::maintenance::cuts_of(&file.path))
    };
    let first = cuts().map(|cuts| cuts.0).min().unwrap_or(0);
    let last = cuts().map(|cuts| cuts.1).max().unwrap_or(0);
    let suffix = uuid::Uuid::new_v4().simple().to_string();
    writer.finish(&format!("{first:016}-{last:016}-{}.parquet", &suffix[..12]))
}

fn read(
    table: &Table,
    input: &StoredFile,
    columns: Option<&[&str]>,
) -> Result<impl Iterator<Item = Result<RecordBatch, io::Error>>, io::Error> {
    let file = std::fs::File::open(table.directory.join(&input.path))?;
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder =
        ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(io::Error::other)?;
    let mask = match columns {
        None => ProjectionMask::all(),
        Some(columns) => ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied()),
    };
    let reader = builder
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(io::Error::other)?;
    let schema = match columns {
        None => Arc::clone(&table.schema),
        Some(columns) => {
            let mut places: Vec<usize> = columns
                .iter()
                .filter_map(|column| table.schema.index_of(column).ok())
                .collect();
            places.sort_unstable();
            Arc::new(table.schema.project(&places).map_err(io::Error::other)?)
        }
    };
    Ok(reader.map(move |batch| {
        let batch = batch.map_err(io::Error::other)?;
        crate::schema::conform(&batch, &schema).map_err(io::Error::other)
    }))
}

/// Which rows of a batch are named.
fn named(batch: &RecordBatch, removal: &Removal) -> Result<BooleanArray, io::Error> {
    let texts = |column: &str| {
        let array = &batch[column];
        arrow::compute::cast(array, &DataType::Utf8).map_err(io::Error::other)
    };
    let projects = texts("project")?;
    let projects = projects.as_string::<i32>();
    let ticks = batch[TICK].as_primitive::<Int64Type>();
    let values = removal
        .by
        .as_ref()
        .map(|(column, values)| Ok::<_, io::Error>((texts(column)?, values)))
        .transpose()?;
    let until = i64::try_from(removal.until).unwrap_or(i64::MAX);
    let is_named = |row: usize| {
        let by_value = values.as_ref().is_none_or(|(texts, values)| {
            let texts = texts.as_string::<i32>();
            texts.is_valid(row) && values.contains(texts.value(row))
        });
        projects.value(row) == removal.project && ticks.value(row) <= until && by_value
    };
    Ok((0..batch.num_rows()).map(|row| Some(is_named(row))).collect())
}

/// All files as one, with what changed until the tick summed up.
fn settled(table: &Table, inputs: &[StoredFile], until: u64) -> Result<Option<WrittenFile>, io::Error> {
    let schema = &table.schema;
    let until = i64::try_from(until).unwrap_or(i64::MAX);
    let (tick_at, diff_at) = (
        schema.index_of(TICK).map_err(io::Error::other)?,
        schema.index_of(DIFF).map_err(io::Error::other)?,
    );
    let content: Vec<usize> = (0..schema.fields().len())
        .filter(|place| *place != tick_at && *place != diff_at)
        .collect();
    let fields = content
        .iter()
        .map(|place| SortField::new(schema.field(*place).data_type().clone()));
    let converter = RowConverter::new(fields.collect()).map_err(io::Error::other)?;
    let rows: u64 = inputs.iter().map(|file| file.statistics.rows).sum();
    let mut writer = FileWriter::create(
        &table.directory,
        schema,
        usize::try_from(rows).unwrap_or(usize::MAX),
    )?;
    let mut written = 0;
    let mut copy = || -> Result<(), io::Error> {
        let passes = rows.div_ceil(ROWS_AT_ONCE).max(1);
        let hasher = RandomState::new();
        for pass in 0..passes {
            let mut sums: HashMap<OwnedRow, (i64, i64)> = HashMap::new();
            for input in inputs {
                for batch in read(table, input, None)? {
                    let batch = batch?;
                    let columns: Vec<_> = content
                        .iter()
                        .map(|place| Arc::clone(batch.column(*place)))
                        .collect();
                    let keys = converter.convert_columns(&columns).map_err(io::Error::other)?;
                    let ticks = batch.column(tick_at).as_primitive::<Int64Type>();
                    let diffs = batch.column(diff_at).as_primitive::<Int64Type>();
                    for (row, key) in keys.iter().enumerate() {
                        let is_of_pass = hasher.hash_one(key.as_ref()) % passes == pass;
                        if ticks.value(row) <= until && is_of_pass {
                            let sum = sums.entry(key.owned()).or_default();
                            sum.0 += diffs.value(row);
                            sum.1 = sum.1.max(ticks.value(row));
                        }
                    }
                }
            }
            sums.retain(|_, (diff, _)| *diff != 0);
            let mut kept: Vec<(OwnedRow, (i64, i64))> = sums.into_iter().collect();
            kept.sort_unstable_by(|one, other| (one.1.1, &one.0).cmp(&(other.1.1, &other.0)));
            for chunk in kept.chunks(BATCH_ROWS) {
                let parser = converter.parser();
                let keys = chunk.iter().map(|(key, _)| parser.parse(key.as_ref()));
                let mut columns = converter.convert_rows(keys).map_err(io::Error::other)?;
                let ticks = chunk.iter().map(|(_, (_, tick))| *tick);
                let diffs = chunk.iter().map(|(_, (diff, _))| *diff);
                let (tick, diff) = (
                    Arc::new(Int64Array::from_iter_values(ticks)),
                    Arc::new(Int64Array::from_iter_values(diffs)),
                );
                // The earlier place first, so that both are right.
                match tick_at < diff_at {
                    true => {
                        columns.insert(tick_at, tick);
                        columns.insert(diff_at, diff);
                    }
                    false => {
                        columns.insert(diff_at, diff);
                        columns.insert(tick_at, tick);
                    }
                }
                let batch = RecordBatch::try_new(Arc::clone(schema), columns).map_err(io::Error::other)?;
                written += batch.num_rows();
                writer.write(&batch)?;
            }
        }
        // What changed later is as it was.
        for input in inputs {
            for batch in read(table, input, None)? {
                let batch = batch?;
                let ticks = batch.column(tick_at).as_primitive::<Int64Type>();
                let later: BooleanArray = ticks.values().iter().map(|tick| Some(*tick > until)).collect();
                let batch = filter_record_batch(&batch, &later).map_err(io::Error::other)?;
                written += batch.num_rows();
                writer.write(&batch)?;
            }
        }
        Ok(())
    };
    let copied = copy();
    if copied.is_ok() && written == 0 {
        writer.abandon();
        return Ok(None);
    }
    finish(writer, copied, inputs).map(Some)
}
