//! Reading a table with DataFusion: one version of it, files chosen by their statistics, the rest by Parquet.
//!
//! The list of files and what they hold is in memory, so planning a scan reads nothing. Files that the filters rule
//! out are left out before the plan is made; row groups, pages and Bloom filters are DataFusion's business. Newer
//! files come first, which is what `ORDER BY … DESC LIMIT` wants.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, DFSchema, Result, ScalarValue, Statistics};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::TableProvider;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::ObjectMeta;

use crate::statistics::{Bound, ColumnBounds};
use crate::table::{StoredFile, Version};

/// One version of a table.
#[derive(Debug)]
pub struct StoredTable {
    directory: PathBuf,
    schema: SchemaRef,
    version: Version,
}

impl StoredTable {
    pub fn new(directory: PathBuf, schema: SchemaRef, version: Version) -> StoredTable {
        StoredTable {
            directory,
            schema,
            version,
        }
    }

    /// The files that may hold rows which the filters let through.
    fn relevant(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<StoredFile>> {
        let files = &self.version.files;
        let Some(filter) = conjunction(filters.to_vec()) else {
            return Ok(files.to_vec());
        };
        let names = DFSchema::try_from(Arc::clone(&self.schema))?;
        let predicate = session.create_physical_expr(filter, &names)?;
        // A filter that says nothing about statistics is no reason to fail: then every file is relevant.
        let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema));
        let Ok(pruning) = builder.try_build(predicate) else {
            return Ok(files.to_vec());
        };
        let keep = pruning.prune(&FileBounds {
            files,
            schema: &self.schema,
        })?;
        Ok(files
            .iter()
            .zip(keep)
            .filter(|(_, keep)| *keep)
            .map(|(file, _)| file.clone())
            .collect())
    }

    fn partitioned(&self, file: &StoredFile) -> Result<PartitionedFile> {
        let absolute: PathBuf = if Path::new(&file.path).is_absolute() {
            file.path.clone().into()
        } else {
            self.directory.join(&file.path)
        };
        let location = object_store::path::Path::from_absolute_path(&absolute)
            .map_err(|error| datafusion::error::DataFusionError::External(Box::new(error)))?;
        let meta = ObjectMeta {
            location,
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: file.bytes,
            e_tag: None,
            version: None,
        };
        Ok(PartitionedFile::new_from_meta(meta).with_statistics(Arc::new(statistics_of(file, &self.schema))))
    }
}

#[async_trait]
impl TableProvider for StoredTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        Some(total(&self.version.files, &self.schema))
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut files = self.relevant(session, filters)?;
        if files.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        files.reverse();
        let statistics = total(&files, &self.schema);
        let partitions = session.config().target_partitions().clamp(1, files.len());
        let mut groups = vec![Vec::new(); partitions];
        for (position, file) in files.iter().enumerate() {
            groups[position % partitions].push(self.partitioned(file)?);
        }
        let url = ObjectStoreUrl::local_filesystem();
        let runtime = session.runtime_env();
        let reader = CachedParquetFileReaderFactory::new(
            runtime.object_store(&url)?,
            runtime.cache_manager.get_file_metadata_cache(),
        );
        let options = TableParquetOptions {
            global: session.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(reader));
        let scan = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}

fn scalar(bound: &Bound) -> ScalarValue {
    match bound {
        Bound::Integer(value) => ScalarValue::Int64(Some(*value)),
        Bound::Time(micros) => ScalarValue::TimestampMicrosecond(Some(*micros), Some("UTC".into())),
        Bound::Text(text) => ScalarValue::Utf8View(Some(text.clone())),
    }
}

fn statistics_of(file: &StoredFile, schema: &Schema) -> Statistics {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match file.statistics.columns.get(field.name()) {
            Some(bounds) => {
                let exact = |bound: &Option<Bound>| {
                    bound
                        .as_ref()
                        .map_or(Precision::Absent, |bound| Precision::Exact(scalar(bound)))
                };
                let mut column = ColumnStatistics::new_unknown();
                column.null_count = Precision::Exact(usize::try_from(bounds.nulls).unwrap_or(usize::MAX));
                column.min_value = exact(&bounds.least);
                column.max_value = exact(&bounds.greatest);
                column
            }
            None => ColumnStatistics::new_unknown(),
        })
        .collect();
    Statistics {
        num_rows: rows_of(file),
        total_byte_size: Precision::Absent,
        column_statistics: columns,
    }
}

/// Files that another writer added without statistics count as having none, which is not known.
fn rows_of(file: &StoredFile) -> Precision<usize> {
    match usize::try_from(file.statistics.rows) {
        Ok(rows) if rows > 0 => Precision::Exact(rows),
        _ => Precision::Absent,
    }
}

fn total(files: &[StoredFile], schema: &Schema) -> Statistics {
    let rows = files
        .iter()
        .map(rows_of)
        .fold(Precision::Exact(0), |sum, rows| sum.add(&rows));
    Statistics {
        num_rows: rows,
        ..Statistics::new_unknown(schema)
    }
}

/// The bounds of all files as arrays, one element a file.
struct FileBounds<'a> {
    files: &'a [StoredFile],
    schema: &'a Schema,
}

impl FileBounds<'_> {
    fn values(&self, column: &Column, bound: impl Fn(&ColumnBounds) -> Option<&Bound>) -> Option<ArrayRef> {
        let data_type: &DataType = self.schema.field_with_name(&column.name).ok()?.data_type();
        let null = ScalarValue::try_from(data_type).ok()?;
        let known = |file: &StoredFile| {
            file.statistics
                .columns
                .get(&column.name)
                .and_then(&bound)
                .map(scalar)
        };
        if self.files.iter().all(|file| known(file).is_none()) {
            return None;
        }
        ScalarValue::iter_to_array(
            self.files
                .iter()
                .map(|file| known(file).unwrap_or_else(|| null.clone())),
        )
        .ok()
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |bounds| bounds.least.as_ref())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |bounds| bounds.greatest.as_ref())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts = self
            .files
            .iter()
            .map(|file| file.statistics.columns.get(&column.name).map(|known| known.nulls));
        Some(Arc::new(UInt64Array::from_iter(counts)))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let known = |file: &StoredFile| (file.statistics.rows > 0).then_some(file.statistics.rows);
        Some(Arc::new(UInt64Array::from_iter(self.files.iter().map(known))))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
