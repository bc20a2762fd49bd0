//! Parquet files: how the columns of a table are encoded, and how a file comes to be complete on disk before anything
//! refers to it.
//!
//! Encodings follow what the columns hold. Ids and free text are different in every row: no dictionary, which would
//! be built and thrown away. Times and counters: delta binary packing. All other text repeats: dictionary. Page
//! statistics are off; chunk statistics are kept where row groups differ (times, `_tick`, `project`); `trace_id` has a
//! Bloom filter, the only way to find one trace without reading all ids. What this costs is measured by the example
//! `write_cost`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use pyflare_connectors::physical::{CONVERSATION_BYTES, is_conversation};

use crate::statistics::{FileStatistics, has_bounds};

/// Rows of a row group: the unit that a query skips or reads, and two of them keep two cores busy.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// A row group is cut earlier when its encoded columns reach this, so that long prompts do not fill memory.
const ROW_GROUP_BYTES: usize = 64 * 1024 * 1024;
/// zstd looks two megabytes back at this level; half a one at its lowest.
const CONVERSATION_LEVEL: i32 = 3;
/// A dictionary that grows beyond this was a mistake for its column; the writer falls back to plain values.
const DICTIONARY_BYTES: usize = 256 * 1024;

/// A trace list asks for fifty ids at once; with one false positive in a hundred it would read every second row group.
const TRACE_ID_FALSE_POSITIVES: f64 = 0.0001;

/// Columns whose values hardly ever repeat within a row group.
const UNREPEATED: [&str; 8] = [
    "trace_id",
    "span_id",
    "parent_span_id",
    "input",
    "output",
    "events",
    "links",
    "body",
];

fn writer_properties(physical: &Schema, rows: usize) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_created_by(concat!("PyFlare ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        // Other columns end their pages by the number of rows.
        .set_data_page_size_limit(CONVERSATION_BYTES)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_coerce_types(true);
    let far = ZstdLevel::try_new(CONVERSATION_LEVEL).expect("invariant: zstd has that level");
    for field in physical.fields() {
        let column = ColumnPath::from(field.name().as_str());
        if is_conversation(field.name()) {
            for column in leaves(field) {
                properties = properties.set_column_compression(column, Compression::ZSTD(far));
            }
        }
        if has_bounds(field) {
            properties = properties.set_column_statistics_enabled(column.clone(), EnabledStatistics::Chunk);
        }
        match field.data_type() {
            DataType::Int32 | DataType::Int64 | DataType::Timestamp(_, _) | DataType::Date32 => {
                properties = properties
                    .set_column_dictionary_enabled(column.clone(), false)
                    .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
            }
            DataType::Float32 | DataType::Float64 => {
                properties = properties.set_column_dictionary_enabled(column, false);
            }
            DataType::Utf8View | DataType::BinaryView if UNREPEATED.contains(&field.name().as_str()) => {
                if field.name() == "trace_id" {
                    properties = properties
                        .set_column_bloom_filter_enabled(column.clone(), true)
                        .set_column_bloom_filter_fpp(column.clone(), TRACE_ID_FALSE_POSITIVES)
                        .set_column_bloom_filter_max_ndv(
                            column.clone(),
                            rows.clamp(1, ROW_GROUP_ROWS) as u64,
                        );
                }
                properties = properties.set_column_dictionary_enabled(column, false);
            }
            _ => {}
        }
    }
    properties.build()
}

/// The columns that a field is written as.
fn leaves(field: &Field) -> Vec<ColumnPath> {
    let mut paths = Vec::new();
    let mut open = vec![(vec![field.name().clone()], field.data_type())];
    while let Some((path, data_type)) = open.pop() {
        let below = |child: &Field| {
            path.iter()
                .cloned()
                .chain([child.name().clone()])
                .collect::<Vec<_>>()
        };
        match data_type {
            DataType::List(child) | DataType::Map(child, _) => {
                open.push((below(child), child.data_type()));
            }
            DataType::Struct(children) => {
                open.extend(children.iter().map(|child| (below(child), child.data_type())));
            }
            _ => paths.push(ColumnPath::new(path)),
        }
    }
    paths
}

/// A file that is being written under a temporary name.
pub struct FileWriter {
    writer: ArrowWriter<BufWriter<File>>,
    temporary: std::path::PathBuf,
    directory: std::path::PathBuf,
    statistics: FileStatistics,
}

/// A file that is complete, durable and under its final name.
#[derive(Debug, Clone)]
pub struct WrittenFile {
    pub name: String,
    pub bytes: u64,
    pub statistics: FileStatistics,
}

impl FileWriter {
    /// `rows` is an estimate that sizes the Bloom filter.
    pub fn create(directory: &Path, physical: &SchemaRef, rows: usize) -> Result<FileWriter, io::Error> {
        let temporary = directory.join(format!("_writing-{}", uuid::Uuid::new_v4().simple()));
        let file = File::create_new(&temporary)?;
        let options = ArrowWriterOptions::new()
            .with_properties(writer_properties(physical, rows))
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(
            BufWriter::with_capacity(256 * 1024, file),
            SchemaRef::clone(physical),
            options,
        )
        .map_err(io::Error::other)?;
        Ok(FileWriter {
            writer,
            temporary,
            directory: directory.to_owned(),
            statistics: FileStatistics::default(),
        })
    }

    /// Adds a batch of the physical schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), io::Error> {
        self.statistics.add(batch);
        self.writer.write(batch).map_err(io::Error::other)
    }

    /// Completes the file and gives it its name, replacing what an interrupted attempt may have left there.
    pub fn finish(mut self, name: &str) -> Result<WrittenFile, io::Error> {
        let finished = self.writer.finish().map_err(io::Error::other);
        let result = finished.and_then(|_| {
            self.writer.inner_mut().flush()?;
            let file = self.writer.inner().get_ref();
            file.sync_data()?;
            let bytes = file.metadata()?.len();
            fs::rename(&self.temporary, self.directory.join(name))?;
            sync_directory(&self.directory)?;
            Ok(bytes)
        });
        match result {
            Ok(bytes) => Ok(WrittenFile {
                name: name.to_owned(),
                bytes,
                statistics: std::mem::take(&mut self.statistics),
            }),
            Err(error) => {
                // The error is what matters; a leftover is swept later.
                let _ = fs::remove_file(&self.temporary);
                Err(error)
            }
        }
    }

    /// Gives up.
    pub fn abandon(self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Makes the names in a directory durable.
pub fn sync_directory(directory: &Path) -> Result<(), io::Error> {
    File::open(directory)?.sync_all()
}
