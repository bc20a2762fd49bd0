//! State files: what bases and companions hold, as Parquet.
//!
//! One row is one group of one pane: `base` (its number in the manifest; −1: an entry of a companion), `share` (the worker
//! that held it), `pane` (its end, or when the entry leaves, microseconds), `moment` (when it appears, microseconds, where a condition on `now()` asks for
//! it later only), `key` (row bytes of the group's columns; of an entry view, companion and columns), `rows` and `cells`
//! (the accumulator: bincode of its cells). A row without cells, not even their number, says that the file has everything
//! of this pane in this share, and files of earlier checkpoints nothing more; with the least of all times as its pane it
//! says so of all panes. A second kind of file has the hashes of admitted requests and when each was
//! admitted, in milliseconds of time that passed while ticks ran.
//!
//! Keys and cells are bytes of this version of PyFlare: the manifest says how they are encoded, and state that is encoded
//! otherwise is not read.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, FixedSizeBinaryArray, Int32Builder, Int64Array, Int64Builder,
    RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use pyflare_operators::aggregate::Accumulator;

/// The base of an entry of a companion.
pub(crate) const ENTRIES: i32 = -1;

/// The pane of a row that speaks of all panes.
const ALL_PANES: i64 = i64::MIN;
/// Rows of a portion that a worker hands over.
const PORTION_ROWS: usize = 16 * 1_024;

fn state_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("base", DataType::Int32, false),
        Field::new("share", DataType::Int32, false),
        Field::new("pane", DataType::Int64, false),
        Field::new("moment", DataType::Int64, true),
        Field::new("key", DataType::Binary, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("cells", DataType::Binary, false),
    ]))
}

fn admitted_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("admitted_ms", DataType::Int64, false),
        Field::new("body_hash", DataType::FixedSizeBinary(16), false),
    ]))
}

/// Collects rows until they are a portion.
pub(crate) struct Portion {
    /// Of all its rows.
    of_share: i32,
    base: Int32Builder,
    share: Int32Builder,
    pane: Int64Builder,
    moment: Int64Builder,
    key: BinaryBuilder,
    rows: Int64Builder,
    cells: BinaryBuilder,
    len: usize,
}

impl Portion {
    /// Of the share of one worker.
    pub fn new(share: usize) -> Portion {
        Portion {
            of_share: share as i32,
            base: Int32Builder::with_capacity(PORTION_ROWS),
            share: Int32Builder::with_capacity(PORTION_ROWS),
            pane: Int64Builder::with_capacity(PORTION_ROWS),
            moment: Int64Builder::with_capacity(PORTION_ROWS),
            key: BinaryBuilder::with_capacity(PORTION_ROWS, 32 * PORTION_ROWS),
            rows: Int64Builder::with_capacity(PORTION_ROWS),
            cells: BinaryBuilder::with_capacity(PORTION_ROWS, 64 * PORTION_ROWS),
            len: 0,
        }
    }

    /// Everything of the pane is told anew; `None`: of all panes.
    pub fn renew(&mut self, base: i32, pane: Option<i64>) {
        self.place(base, pane.unwrap_or(ALL_PANES), None, &[], 0);
        self.cells.append_value([]);
    }

    pub fn push(&mut self, base: i32, pane: i64, moment: Option<i64>, key: &[u8], accumulator: &Accumulator) {
        self.place(base, pane, moment, key, accumulator.rows);
        // Into the builder itself, which keeps what was written as the value that is appended next.
        bincode::serialize_into(&mut self.cells, &accumulator.cells)
            .expect("invariant: cells are plain data, and memory takes them");
        self.cells.append_value([]);
    }

    fn place(&mut self, base: i32, pane: i64, moment: Option<i64>, key: &[u8], rows: i64) {
        self.base.append_value(base);
        self.share.append_value(self.of_share);
        self.pane.append_value(pane);
        self.moment.append_option(moment);
        self.key.append_value(key);
        self.rows.append_value(rows);
        self.len += 1;
    }

    pub fn is_full(&self) -> bool {
        self.len >= PORTION_ROWS
    }

    /// What was collected, if anything.
    pub fn take(&mut self) -> Option<RecordBatch> {
        if self.len == 0 {
            return None;
        }
        self.len = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.base.finish()),
            Arc::new(self.share.finish()),
            Arc::new(self.pane.finish()),
            Arc::new(self.moment.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.rows.finish()),
            Arc::new(self.cells.finish()),
        ];
        let batch = RecordBatch::try_new(state_schema(), columns);
        Some(batch.expect("invariant: columns of the schema, of one length"))
    }
}

/// One row of a state file.
pub(crate) struct StateRow<'a> {
    pub base: i32,
    pub share: i32,
    pub pane: i64,
    pub moment: Option<i64>,
    pub key: &'a [u8],
    /// `None`: the pane is told anew.
    pub accumulator: Option<Accumulator>,
}

impl StateRow<'_> {
    /// Of all panes, where it says that they are told anew.
    pub fn is_of_all_panes(&self) -> bool {
        self.pane == ALL_PANES
    }
}

/// A file of portions.
pub(crate) struct StateWriter {
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
}

impl StateWriter {
    pub fn new() -> Result<StateWriter, String> {
        Ok(StateWriter {
            writer: parquet_writer(state_schema())?,
            rows: 0,
        })
    }

    pub fn write(&mut self, portion: &RecordBatch) -> Result<(), String> {
        self.rows += portion.num_rows() as u64;
        self.writer.write(portion).map_err(|error| error.to_string())
    }

    /// About how large the file is by now.
    pub fn bytes(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size()
    }

    /// The file, and its rows.
    pub fn finish(self) -> Result<(Vec<u8>, u64), String> {
        let content = self.writer.into_inner().map_err(|error| error.to_string())?;
        Ok((content, self.rows))
    }
}

fn parquet_writer(schema: SchemaRef) -> Result<ArrowWriter<Vec<u8>>, String> {
    let level = ZstdLevel::try_new(1).map_err(|error| error.to_string())?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_encoding("key".into(), Encoding::DELTA_BYTE_ARRAY)
        .set_column_encoding("cells".into(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
        .set_column_encoding("pane".into(), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding("base".into(), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding("rows".into(), Encoding::DELTA_BINARY_PACKED)
        .set_max_row_group_row_count(Some(512 * 1_024))
        .build();
    ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(|error| error.to_string())
}

fn batches(
    content: Vec<u8>,
    schema: &SchemaRef,
    mut visit: impl FnMut(&RecordBatch) -> Result<(), String>,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(content))
        .map_err(|error| text(&error))?;
    let reader = builder
        .with_batch_size(PORTION_ROWS)
        .build()
        .map_err(|error| text(&error))?;
    for batch in reader {
        let batch = batch.map_err(|error| text(&error))?;
        let fields = batch.schema();
        let types = |schema: &Schema| -> Vec<(String, DataType)> {
            let fields = schema.fields().iter();
            fields
                .map(|field| (field.name().clone(), field.data_type().clone()))
                .collect()
        };
        if types(&fields) != types(schema) {
            return Err(format!("its columns are {fields}, not {schema}"));
        }
        visit(&batch)?;
    }
    Ok(())
}

/// Hands over every row of a state file.
pub(crate) fn read_state(
    content: Vec<u8>,
    mut visit: impl FnMut(StateRow<'_>) -> Result<(), String>,
) -> Result<(), String> {
    batches(content, &state_schema(), |batch| {
        let bases = batch.column(0).as_primitive::<Int32Type>().values();
        let shares = batch.column(1).as_primitive::<Int32Type>().values();
        let panes = batch.column(2).as_primitive::<Int64Type>().values();
        let moments = batch.column(3).as_primitive::<Int64Type>();
        let keys = batch.column(4).as_binary::<i32>();
        let rows = batch.column(5).as_primitive::<Int64Type>().values();
        let cells = batch.column(6).as_binary::<i32>();
        for row in 0..batch.num_rows() {
            let accumulator = match cells.value(row) {
                [] => None,
                encoded => Some(Accumulator {
                    rows: rows[row],
                    cells: bincode::deserialize(encoded)
                        .map_err(|error| format!("an accumulator cannot be read: {error}"))?,
                }),
            };
            visit(StateRow {
                base: bases[row],
                share: shares[row],
                pane: panes[row],
                moment: moments.is_valid(row).then(|| moments.value(row)),
                key: keys.value(row),
                accumulator,
            })?;
        }
        Ok(())
    })
}

/// A file of the hashes of admitted requests, each with when it was admitted.
pub(crate) fn admitted_file(admitted: &[(u64, u128)]) -> Result<Vec<u8>, String> {
    let mut writer = parquet_writer(admitted_schema())?;
    for part in admitted.chunks(PORTION_ROWS) {
        let times = Int64Array::from_iter_values(part.iter().map(|(at, _)| at.cast_signed()));
        let hashes = part.iter().map(|(_, hash)| hash.to_be_bytes());
        let hashes = FixedSizeBinaryArray::try_from_iter(hashes).map_err(|error| error.to_string())?;
        let batch = RecordBatch::try_new(admitted_schema(), vec![Arc::new(times), Arc::new(hashes)]);
        let batch = batch.map_err(|error| error.to_string())?;
        writer.write(&batch).map_err(|error| error.to_string())?;
    }
    writer.into_inner().map_err(|error| error.to_string())
}

/// What [`admitted_file`] was given.
pub(crate) fn read_admitted(content: Vec<u8>) -> Result<Vec<(u64, u128)>, String> {
    let mut admitted = Vec::new();
    batches(content, &admitted_schema(), |batch| {
        let times = batch.column(0).as_primitive::<Int64Type>().values();
        let hashes = batch.column(1).as_fixed_size_binary();
        for (row, time) in times.iter().enumerate() {
            let hash: [u8; 16] = hashes
                .value(row)
                .try_into()
                .map_err(|_| "a hash of another size")?;
            admitted.push((time.cast_unsigned(), u128::from_be_bytes(hash)));
        }
        Ok(())
    })?;
    Ok(admitted)
}

/// Tells encodings of keys apart: the bytes of some rows of every type that keys are made of.
pub(crate) fn key_encoding() -> String {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let integers: ArrayRef = Arc::new(Int64Array::from(vec![Some(-1), None, Some(1 << 40)]));
    let columns: Vec<ArrayRef> = vec![
        Arc::clone(&integers),
        Arc::new(StringArray::from(vec![
            Some(""),
            None,
            Some("a longer text than one block of bytes"),
        ])),
        Arc::new(arrow::array::Float64Array::from(vec![
            Some(-0.5),
            None,
            Some(f64::NAN),
        ])),
        Arc::new(arrow::array::BooleanArray::from(vec![
            Some(true),
            None,
            Some(false),
        ])),
        Arc::new(UInt32Array::from(vec![Some(7), None, Some(u32::MAX)])),
        arrow::compute::cast(&integers, &time).expect("invariant: integers are times"),
    ];
    let fields = columns
        .iter()
        .map(|column| SortField::new(column.data_type().clone()));
    let encoded =
        RowConverter::new(fields.collect()).and_then(|converter| converter.convert_columns(&columns));
    let encoded = encoded.expect("invariant: these types are encoded as rows");
    let mut hasher = blake3::Hasher::new();
    for row in encoded.iter() {
        hasher.update(row.as_ref());
    }
    let cells = bincode::serialize(&Accumulator::zero(&[
        pyflare_operators::aggregate::CellKind::Count,
        pyflare_operators::aggregate::CellKind::SumInt,
    ]));
    hasher.update(&cells.expect("invariant: cells are plain data"));
    hasher.finalize().to_hex()[..16].to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pyflare_operators::aggregate::{Cell, CellKind};

    use super::*;

    #[test]
    fn state_comes_back_as_it_was() {
        let mut accumulator = Accumulator::zero(&[CellKind::Count, CellKind::SumFloat, CellKind::Extremes]);
        accumulator.rows = -3;
        accumulator.cells[0] = Cell::Count(17);
        let written: Vec<(i32, i64, Option<i64>, Vec<u8>)> = (0..40_000)
            .map(|number| {
                let key = vec![number as u8; number % 70];
                let base = (number % 5) as i32 - 1;
                (
                    base,
                    i64::MAX - number as i64,
                    (number % 3 == 0).then_some(number as i64),
                    key,
                )
            })
            .collect();
        let mut portion = Portion::new(3);
        let mut writer = StateWriter::new().unwrap();
        for (base, pane, moment, key) in &written {
            portion.push(*base, *pane, *moment, key, &accumulator);
            if portion.is_full() {
                writer.write(&portion.take().unwrap()).unwrap();
            }
        }
        writer.write(&portion.take().unwrap()).unwrap();
        assert!(portion.take().is_none());
        let mut renewed = Portion::new(1);
        renewed.renew(2, Some(7));
        renewed.renew(2, None);
        renewed.push(2, 7, None, b"k", &Accumulator::default());
        let mut other = StateWriter::new().unwrap();
        other.write(&renewed.take().unwrap()).unwrap();
        let mut seen = Vec::new();
        read_state(other.finish().unwrap().0, |row| {
            seen.push((row.pane, row.is_of_all_panes(), row.accumulator.is_some()));
            Ok(())
        })
        .unwrap();
        assert_eq!(
            seen,
            [(7, false, false), (i64::MIN, true, false), (7, false, true)]
        );
        let (content, rows) = writer.finish().unwrap();
        assert_eq!(rows, 40_000);
        let mut read = Vec::new();
        read_state(content.clone(), |row| {
            assert_eq!((row.accumulator.as_ref(), row.share), (Some(&accumulator), 3));
            read.push((row.base, row.pane, row.moment, row.key.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!(read, written);
        assert!(read_admitted(content).is_err(), "another kind of file");
        assert!(read_state(b"PAR1 nonsense".to_vec(), |_| Ok(())).is_err());
    }

    #[test]
    fn hashes_come_back() {
        let admitted: Vec<(u64, u128)> = (0..20_000).map(|at| (at, u128::MAX - u128::from(at))).collect();
        assert_eq!(
            read_admitted(admitted_file(&admitted).unwrap()).unwrap(),
            admitted
        );
        assert_eq!(read_admitted(admitted_file(&[]).unwrap()).unwrap(), []);
    }

    #[test]
    fn the_encoding_of_keys_is_the_one_that_checkpoints_were_written_with() {
        // A change of this text makes checkpoints unreadable that are there already: they need a way out then.
        assert_eq!(key_encoding(), "cd368c01edaf3409");
    }
}
