//! Filters, projections and windows, fused over Arrow batches.
//!
//! A [`Flow`] is a batch together with one `Int64` array that travels with its rows: the pane below the aggregate,
//! the sign of the change above it. A row whose expression fails (a division by zero, a bad cast) is data, not a
//! failure: it is left out and counted, and all other rows go on. A row is bad only if it fails *alone*, because
//! whether `AND` short-circuits depends on the rest of the batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat, filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use super::left_out::{RowErrors, project_of};
use super::unnest;
use crate::plan::{Plan, PlanError, WINDOW_END, WINDOW_START, compile, guarded, source_schema};
use crate::time::window_start;

/// A batch and the number that travels with each of its rows.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub batch: RecordBatch,
    pub carried: Int64Array,
}

impl Flow {
    fn slice(&self, offset: usize, rows: usize) -> Flow {
        Flow {
            batch: self.batch.slice(offset, rows),
            carried: self.carried.slice(offset, rows),
        }
    }
}

enum Stage {
    Filter(Arc<dyn PhysicalExpr>),
    Project {
        expressions: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    },
    Tumble {
        time: usize,
        size_us: i64,
        slide_us: Option<i64>,
        schema: SchemaRef,
        /// Whether the carried number becomes the window's end.
        sets_pane: bool,
    },
    Unnest(unnest::Elements),
}

/// A chain of stages from one schema to another.
pub(crate) struct Pipeline {
    stages: Vec<Stage>,
    schema: SchemaRef,
    carries_pane: bool,
}

impl Pipeline {
    /// Compiles the nodes between `plan`'s source and its top, keeping only `needed` columns alive.
    ///
    /// Returns the pipeline and the source columns it reads, in stream order.
    pub fn from_source(plan: &Plan, needed: &BTreeSet<String>) -> Result<(Pipeline, Vec<String>), PlanError> {
        match plan {
            Plan::Source { stream, declared } => {
                let schema = source_schema(stream, declared.as_ref())?;
                let kept: Vec<Field> = schema
                    .fields()
                    .iter()
                    .filter(|field| needed.contains(field.name()))
                    .map(|field| field.as_ref().clone())
                    .collect();
                let columns = kept.iter().map(|field| field.name().clone()).collect();
                Ok((
                    Pipeline {
                        stages: Vec::new(),
                        schema: Arc::new(Schema::new(kept)),
                        carries_pane: true,
                    },
                    columns,
                ))
            }
            // Whoever feeds the chain leaves out the rows that are not asked for.
            Plan::Recent { input, .. } => Pipeline::from_source(input, needed),
            Plan::Filter { input, predicate } => {
                let mut needed = needed.clone();
                needed.extend(predicate.columns());
                let (mut pipeline, columns) = Pipeline::from_source(input, &needed)?;
                pipeline.push(plan, &needed)?;
                Ok((pipeline, columns))
            }
            Plan::Project {
                input,
                columns: projected,
            } => {
                let mut below = BTreeSet::new();
                for column in projected.iter().filter(|column| needed.contains(&column.name)) {
                    below.extend(column.expr.columns());
                }
                let (mut pipeline, columns) = Pipeline::from_source(input, &below)?;
                pipeline.push(plan, needed)?;
                Ok((pipeline, columns))
            }
            Plan::Tumble { input, time, .. } => {
                let mut below = needed.clone();
                below.remove(WINDOW_START);
                below.remove(WINDOW_END);
                below.insert(time.clone());
                let (mut pipeline, columns) = Pipeline::from_source(input, &below)?;
                pipeline.push(plan, needed)?;
                Ok((pipeline, columns))
            }
            Plan::Unnest { input, column } => {
                let mut below = needed.clone();
                below.insert(column.clone());
                let (mut pipeline, columns) = Pipeline::from_source(input, &below)?;
                pipeline.push(plan, needed)?;
                Ok((pipeline, columns))
            }
            _ => Err(PlanError::Unsupported {
                detail: "a chain over something else than a stream".into(),
            }),
        }
    }

    /// An empty chain over rows of `schema`, which carry their difference.
    pub fn over(schema: SchemaRef) -> Pipeline {
        Pipeline {
            stages: Vec::new(),
            schema,
            carries_pane: false,
        }
    }

    /// Appends the top node of `plan`; of a projection only the `needed` columns.
    pub fn push(&mut self, plan: &Plan, needed: &BTreeSet<String>) -> Result<(), PlanError> {
        match plan {
            Plan::Filter { predicate, .. } => {
                self.stages.push(Stage::Filter(compile(predicate, &self.schema)?))
            }
            Plan::Project { columns, .. } => {
                let mut expressions = Vec::new();
                let mut fields = Vec::new();
                for column in columns.iter().filter(|column| needed.contains(&column.name)) {
                    let expression = compile(&column.expr, &self.schema)?;
                    let failed = |error: DataFusionError| PlanError::Expression {
                        expression: column.expr.to_string(),
                        detail: error.to_string(),
                    };
                    let data_type = expression.data_type(&self.schema).map_err(failed)?;
                    fields.push(Field::new(&column.name, data_type, true));
                    expressions.push(expression);
                }
                self.schema = Arc::new(Schema::new(fields));
                self.stages.push(Stage::Project {
                    expressions,
                    schema: Arc::clone(&self.schema),
                });
            }
            Plan::Tumble {
                time,
                size_us,
                slide_us,
                ..
            } => {
                let index = self.schema.index_of(time).map_err(|_| PlanError::UnknownColumn {
                    name: time.clone(),
                    available: self
                        .schema
                        .fields()
                        .iter()
                        .map(|f| f.name().as_str())
                        .collect::<Vec<_>>()
                        .join(", "),
                })?;
                if *size_us <= 0 || slide_us.is_some_and(|slide| slide <= 0) {
                    return Err(PlanError::Unsupported {
                        detail: format!("a window of {size_us} microseconds"),
                    });
                }
                let window = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
                let mut fields: Vec<Field> =
                    self.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
                fields.push(Field::new(WINDOW_START, window.clone(), false));
                fields.push(Field::new(WINDOW_END, window, false));
                self.schema = Arc::new(Schema::new(fields));
                self.stages.push(Stage::Tumble {
                    time: index,
                    size_us: *size_us,
                    slide_us: *slide_us,
                    schema: Arc::clone(&self.schema),
                    sets_pane: self.carries_pane,
                });
            }
            Plan::Unnest { column, .. } => {
                let elements = unnest::Elements::compile(column, &self.schema)?;
                self.schema = Arc::clone(elements.schema());
                self.stages.push(Stage::Unnest(elements));
            }
            _ => {
                return Err(PlanError::Unsupported {
                    detail: "something else than a filter, a projection or a window inside a chain".into(),
                });
            }
        }
        Ok(())
    }

    /// The condition that it begins with, if it begins with one.
    pub fn first_condition(&self) -> Option<&Arc<dyn PhysicalExpr>> {
        match self.stages.first() {
            Some(Stage::Filter(predicate)) => Some(predicate),
            _ => None,
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Runs the chain; rows on which an expression fails are left out and counted in `errors`.
    pub fn run(&self, flow: Flow, errors: &mut RowErrors) -> Flow {
        self.stages
            .iter()
            .fold(flow, |flow, stage| stage.run(flow, errors))
    }
}

impl Stage {
    fn run(&self, flow: Flow, errors: &mut RowErrors) -> Flow {
        match self {
            Stage::Filter(predicate) => {
                let (mut arrays, flow) = evaluate(std::slice::from_ref(predicate), flow, errors);
                let mask = arrays.pop().expect("invariant: one array per expression");
                keep(flow, mask.as_boolean())
            }
            Stage::Unnest(elements) => elements.of(flow, errors),
            Stage::Project { expressions, schema } => {
                let (arrays, flow) = evaluate(expressions, flow, errors);
                let rows = flow.batch.num_rows();
                Flow {
                    batch: batch_of(schema, arrays, rows),
                    carried: flow.carried,
                }
            }
            Stage::Tumble {
                time,
                size_us,
                slide_us,
                schema,
                sets_pane,
            } => windows(flow, *time, *size_us, *slide_us, schema, *sets_pane),
        }
    }
}

/// A batch of `rows` rows whose arrays were computed to match `schema`.
pub(crate) fn batch_of(schema: &SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)
        .expect("invariant: arrays have the types that their expressions declared")
}

pub(super) fn keep(flow: Flow, mask: &BooleanArray) -> Flow {
    if mask.null_count() == 0 && mask.true_count() == mask.len() {
        return flow;
    }
    let batch = filter_record_batch(&flow.batch, mask).expect("invariant: the mask is as long as the batch");
    let carried = filter(&flow.carried, mask).expect("invariant: the mask is as long as the batch");
    Flow {
        batch,
        carried: carried.as_primitive().clone(),
    }
}

fn windows(
    flow: Flow,
    time: usize,
    size_us: i64,
    slide_us: Option<i64>,
    schema: &SchemaRef,
    sets_pane: bool,
) -> Flow {
    let flow = match flow.batch.column(time).null_count() {
        0 => flow,
        _ => {
            let present =
                arrow::compute::is_not_null(flow.batch.column(time)).expect("invariant: any array has nulls");
            keep(flow, &present)
        }
    };
    let (flow, starts) = match slide_us {
        None => {
            let times = flow.batch.column(time).as_primitive::<TimestampMicrosecondType>();
            let starts: TimestampMicrosecondArray = times.unary(|time_us| window_start(time_us, size_us));
            (flow, starts)
        }
        Some(slide_us) => hops(flow, time, size_us, slide_us),
    };
    let ends: TimestampMicrosecondArray = starts.unary(|start| start.saturating_add(size_us));
    let carried = match sets_pane {
        true => Int64Array::new(ends.values().clone(), None),
        false => flow.carried,
    };
    let mut arrays = flow.batch.columns().to_vec();
    arrays.push(Arc::new(starts.with_timezone("UTC")));
    arrays.push(Arc::new(ends.with_timezone("UTC")));
    let rows = flow.batch.num_rows();
    Flow {
        batch: batch_of(schema, arrays, rows),
        carried,
    }
}

/// Every row once for each window that holds it, with the starts of these windows.
fn hops(flow: Flow, time: usize, size_us: i64, slide_us: i64) -> (Flow, TimestampMicrosecondArray) {
    let times = flow.batch.column(time).as_primitive::<TimestampMicrosecondType>();
    let mut rows = Vec::with_capacity(times.len());
    let mut starts = Vec::with_capacity(times.len());
    for (row, time_us) in times.values().iter().enumerate() {
        let mut start = window_start(*time_us, slide_us);
        while start.saturating_add(size_us) > *time_us && start > i64::MIN + slide_us {
            rows.push(row as u32);
            starts.push(start);
            start -= slide_us;
        }
    }
    let rows = UInt32Array::from(rows);
    let batch = take_record_batch(&flow.batch, &rows).expect("invariant: rows of this batch");
    let carried = take(&flow.carried, &rows, None).expect("invariant: rows of this batch");
    let flow = Flow {
        batch,
        carried: carried.as_primitive().clone(),
    };
    (flow, TimestampMicrosecondArray::from(starts))
}

/// Evaluates all expressions over the flow. Rows on which one of them fails alone are dropped from the flow.
pub(crate) fn evaluate(
    expressions: &[Arc<dyn PhysicalExpr>],
    flow: Flow,
    errors: &mut RowErrors,
) -> (Vec<ArrayRef>, Flow) {
    if let Ok(arrays) = evaluate_all(expressions, &flow.batch) {
        return (arrays, flow);
    }
    let mut pieces: Vec<Vec<ArrayRef>> = Vec::new();
    let mut good = vec![false; flow.batch.num_rows()];
    bisect(expressions, &flow, 0, &mut pieces, &mut good, errors);
    let arrays = (0..expressions.len())
        .map(|index| {
            let parts: Vec<&dyn Array> = pieces.iter().map(|piece| piece[index].as_ref()).collect();
            match parts.is_empty() {
                true => arrow::array::new_empty_array(
                    &expressions[index]
                        .data_type(&flow.batch.schema())
                        .expect("invariant: compiled before"),
                ),
                false => concat(&parts).expect("invariant: one type per expression"),
            }
        })
        .collect();
    (arrays, keep(flow, &BooleanArray::from(good)))
}

fn bisect(
    expressions: &[Arc<dyn PhysicalExpr>],
    flow: &Flow,
    offset: usize,
    pieces: &mut Vec<Vec<ArrayRef>>,
    good: &mut [bool],
    errors: &mut RowErrors,
) {
    let rows = flow.batch.num_rows();
    if rows == 0 {
        return;
    }
    match evaluate_all(expressions, &flow.batch) {
        Ok(arrays) => {
            good[offset..offset + rows].fill(true);
            pieces.push(arrays);
        }
        Err(error) if rows == 1 => {
            let project = project_of(&flow.batch, 0);
            errors.record(project, flow.carried.value(0), error.strip_backtrace());
        }
        Err(_) => {
            let half = rows / 2;
            let (first, second) = (flow.slice(0, half), flow.slice(half, rows - half));
            bisect(expressions, &first, offset, pieces, good, errors);
            bisect(expressions, &second, offset + half, pieces, good, errors);
        }
    }
}

pub(crate) fn evaluate_all(
    expressions: &[Arc<dyn PhysicalExpr>],
    batch: &RecordBatch,
) -> Result<Vec<ArrayRef>, DataFusionError> {
    let evaluated = expressions
        .iter()
        .map(|expression| expression.evaluate(batch)?.into_array(batch.num_rows()));
    guarded(|| evaluated.collect())
}
