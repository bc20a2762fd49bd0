//! Partitions as a whole: the first rows of each, or columns that look at a row's neighbours.
//!
//! Rows are arranged by partition and, within it, in the wanted order, so equal inputs give equal choices whatever
//! the order of arrival. When a partition is touched, what was chosen before is taken back and what is chosen now is
//! added; rows that stay the same cancel. Nothing is kept besides the arrangement itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::physical_expr::PhysicalExpr;
use differential_dataflow::AsCollection;
use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::cursor::{Cursor, cursor_list};
use differential_dataflow::trace::implementations::ord_neu::OrdValSpine;
use differential_dataflow::trace::{BatchCursor, TraceReader};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline as OnThisWorker;
use timely::dataflow::operators::generic::operator::Operator;
use timely::progress::frontier::Antichain;

use super::compiled;
use super::frames::Frames;
use super::rows::{Codec, Errors, Row, Rows, map_batches};
use crate::plan::{Expr, OrderKey, PlanError, Windowing};
use crate::render::left_out::project_of;
use crate::render::pipeline::evaluate;
use crate::render::tap::normalise;
use crate::time::Tick;

/// What becomes of the rows of a partition.
pub(crate) struct Choice {
    /// Partition, then order.
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    partition_types: Vec<DataType>,
    order: Vec<SortField>,
    rule: Rule,
    input_schema: SchemaRef,
}

enum Rule {
    Top { skip: u64, fetch: Option<u64> },
    Windows(Windowing, Frames),
}

impl Choice {
    pub fn top(
        partition: &[Expr],
        order: &[OrderKey],
        skip: u64,
        fetch: Option<u64>,
        schema: &SchemaRef,
    ) -> Result<Choice, PlanError> {
        Choice::new(partition, order, Rule::Top { skip, fetch }, schema)
    }

    pub fn windows(
        partition: &[Expr],
        order: &[OrderKey],
        windowing: Windowing,
        frames: Frames,
        schema: &SchemaRef,
    ) -> Result<Choice, PlanError> {
        Choice::new(partition, order, Rule::Windows(windowing, frames), schema)
    }

    fn new(
        partition: &[Expr],
        order: &[OrderKey],
        rule: Rule,
        schema: &SchemaRef,
    ) -> Result<Choice, PlanError> {
        let (mut expressions, partition_types) = compiled(partition.iter().collect(), schema)?;
        let (ordered, order_types) = compiled(order.iter().map(|key| &key.expr).collect(), schema)?;
        expressions.extend(ordered);
        let order = order_types.into_iter().zip(order).map(|(data_type, key)| {
            SortField::new_with_options(
                data_type,
                SortOptions {
                    descending: key.descending,
                    nulls_first: key.nulls_first,
                },
            )
        });
        Ok(Choice {
            expressions,
            partition_types,
            order: order.collect(),
            rule,
            input_schema: Arc::clone(schema),
        })
    }

    /// The columns of the chosen rows.
    pub fn schema(&self) -> &SchemaRef {
        match &self.rule {
            Rule::Top { .. } => &self.input_schema,
            Rule::Windows(windowing, _) => windowing.schema(),
        }
    }
}

/// Where a row stands in its partition, and the row.
pub(super) type Placed = (Row, Row);
pub(super) type PartitionTrace = TraceAgent<OrdValSpine<Row, Placed, Tick, i64>>;
type PartitionCursor = differential_dataflow::trace::cursor::CursorList<BatchCursor<PartitionTrace>>;
type PartitionBatch = <PartitionTrace as TraceReader>::Batch;

/// Builds the operator; `keeps` is shown what it keeps.
pub(crate) fn grouped<'s>(
    rows: Rows<'s>,
    choice: &Arc<Choice>,
    errors: &Errors,
    keeps: impl FnOnce(&PartitionTrace),
) -> Rows<'s> {
    let checked = "invariant: the types were checked when the plan was compiled";
    let codec = || Codec::new(&choice.input_schema).expect(checked);
    let fields = choice
        .partition_types
        .iter()
        .cloned()
        .map(SortField::new)
        .collect();
    let partitions = RowConverter::new(fields).expect(checked);
    let orders = RowConverter::new(choice.order.clone()).expect(checked);
    let (encoder, errors_below, compiled) = (codec(), Errors::clone(errors), Arc::clone(choice));
    let placed = map_batches(rows, "place", codec(), move |flow, records| {
        let (mut arrays, flow) = evaluate(&compiled.expressions, flow, &mut errors_below.borrow_mut());
        let order = arrays.split_off(compiled.partition_types.len());
        let count = flow.batch.num_rows();
        let rows = encoder.encode(flow.batch.columns(), count);
        let keys = encode(&partitions, arrays, count);
        let places = encode(&orders, order, count);
        let diffs = flow.carried.values().iter().copied();
        records.extend(keys.into_iter().zip(places.into_iter().zip(rows)).zip(diffs));
    });
    let arranged = placed.arrange_by_key_named("partitions");
    keeps(&arranged.trace);
    let mut trace = arranged.trace.clone();
    let mut seen = Antichain::from_elem(0);
    let mut upper = Antichain::from_elem(0);
    let mut chooser = Chooser {
        choice: Arc::clone(choice),
        decoder: codec(),
        encoder: Codec::new(choice.schema()).expect(checked),
        errors: Errors::clone(errors),
    };
    let chosen = arranged
        .stream
        .unary::<CapacityContainerBuilder<Vec<(Row, Tick, i64)>>, _, _, _>(
            OnThisWorker,
            "choose",
            move |_capability, _info| {
                move |input, output| {
                    input.for_each(|capability, spans| {
                        seen.clone_from(&upper);
                        let mut batches = Vec::new();
                        for span in spans.drain(..) {
                            upper.clone_from(span.upper());
                            batches.extend(span.inner);
                        }
                        if !batches.is_empty() {
                            let before = trace
                                .batches_through(seen.borrow())
                                .expect("invariant: seen is a batch boundary");
                            let updates = touched(batches, before, &mut chooser);
                            output.session(&capability).give_iterator(updates.into_iter());
                        }
                    });
                    trace.advance_upper(&mut upper);
                    trace.set_logical_compaction(upper.borrow());
                    trace.set_physical_compaction(upper.borrow());
                }
            },
        );
    chosen.as_collection()
}

fn encode(converter: &RowConverter, arrays: Vec<ArrayRef>, rows: usize) -> Vec<Row> {
    if arrays.is_empty() {
        return vec![Row::default(); rows];
    }
    let arrays: Vec<ArrayRef> = arrays.into_iter().map(normalise).collect();
    let encoded = converter
        .convert_columns(&arrays)
        .expect("invariant: columns have the key's types");
    encoded.iter().map(|row| Row::from(row.as_ref())).collect()
}

/// What the updates of `batches` change, given what there was before.
fn touched(
    batches: Vec<PartitionBatch>,
    before: Vec<PartitionBatch>,
    chooser: &mut Chooser,
) -> Vec<(Row, Tick, i64)> {
    let (mut cursor, storage) = cursor_list(batches);
    let (mut old_cursor, old_storage) = cursor_list(before);
    let mut updates = Vec::new();
    while let Some(key) = cursor.get_key(&storage) {
        let mut content: BTreeMap<Placed, i64> = BTreeMap::new();
        old_cursor.seek_key(&old_storage, key);
        if old_cursor.get_key(&old_storage) == Some(key) {
            values(&mut old_cursor, &old_storage, |placed, _, diff| {
                add(&mut content, placed, diff)
            });
        }
        let mut by_tick: BTreeMap<Tick, Vec<(Placed, i64)>> = BTreeMap::new();
        values(&mut cursor, &storage, |placed, tick, diff| {
            by_tick.entry(tick).or_default().push((placed.clone(), diff));
        });
        for (tick, changes) in by_tick {
            let mut net: BTreeMap<Row, i64> = BTreeMap::new();
            chooser.choose(&content, -1, &mut net);
            for (placed, diff) in &changes {
                add(&mut content, placed, *diff);
            }
            chooser.choose(&content, 1, &mut net);
            updates.extend(
                net.into_iter()
                    .filter(|(_, diff)| *diff != 0)
                    .map(|(row, diff)| (row, tick, diff)),
            );
        }
        cursor.step_key(&storage);
    }
    updates
}

fn add(content: &mut BTreeMap<Placed, i64>, placed: &Placed, diff: i64) {
    let count = content.entry(placed.clone()).or_default();
    *count += diff;
    if *count == 0 {
        content.remove(placed);
    }
}

/// Every value of the cursor's key, with each of its updates.
fn values(
    cursor: &mut PartitionCursor,
    storage: &Vec<PartitionBatch>,
    mut visit: impl FnMut(&Placed, Tick, i64),
) {
    while let Some(placed) = cursor.get_val(storage) {
        cursor.map_times(storage, |tick, diff| visit(placed, *tick, *diff));
        cursor.step_val(storage);
    }
}

struct Chooser {
    choice: Arc<Choice>,
    decoder: Codec,
    encoder: Codec,
    errors: Errors,
}

impl Chooser {
    /// Adds what is chosen of a partition's rows, `sign` times.
    fn choose(&mut self, content: &BTreeMap<Placed, i64>, sign: i64, into: &mut BTreeMap<Row, i64>) {
        if content.is_empty() {
            return;
        }
        // Counts below zero mean that something was taken back before it came: it is on its way at this tick.
        let present = content.iter().filter(|(_, count)| **count > 0);
        match &self.choice.rule {
            Rule::Top { skip, fetch } => {
                let (mut passed, mut left) = (0, fetch.unwrap_or(u64::MAX));
                for ((_, row), count) in present {
                    let count = count.unsigned_abs();
                    let skipped = count.min(skip.saturating_sub(passed));
                    passed += skipped;
                    let taken = (count - skipped).min(left);
                    left -= taken;
                    if taken > 0 {
                        *into.entry(row.clone()).or_default() += sign * taken.cast_signed();
                    }
                    if left == 0 {
                        break;
                    }
                }
            }
            Rule::Windows(windowing, frames) => {
                // Each copy of a row has a place of its own.
                let rows: Vec<&[u8]> = present
                    .flat_map(|((_, row), count)| {
                        std::iter::repeat_n(&**row, usize::try_from(*count).unwrap_or(0))
                    })
                    .collect();
                let batch = self.decoder.decode(rows.into_iter());
                let mut errors = self.errors.borrow_mut();
                let framed = frames.columns(&batch, |row, error| {
                    errors.record(project_of(&batch, row), sign, error)
                });
                match framed.and_then(|framed| windowing.run(&batch, framed)) {
                    Ok(extended) => {
                        for row in self.encoder.encode(extended.columns(), extended.num_rows()) {
                            *into.entry(row).or_default() += sign;
                        }
                    }
                    Err(error) => {
                        errors.record(project_of(&batch, 0), sign, error.strip_backtrace());
                    }
                }
            }
        }
    }
}
