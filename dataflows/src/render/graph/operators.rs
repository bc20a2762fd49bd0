//! The operators of a graph, built into a dataflow.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::RowConverter;
use datafusion::physical_expr::PhysicalExpr;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::implementations::ord_neu::OrdKeySpine;
use differential_dataflow::{AsCollection, VecCollection};
use pyflare_operators::aggregate::{Accumulator, Combiner};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline as OnThisWorker;
use timely::dataflow::operators::ToStream;
use timely::dataflow::operators::generic::operator::Operator as _;
use timely::progress::frontier::Antichain;

use super::budget::Meter;
use super::group::grouped;
use super::pairs::{KeyedTrace, product};
use super::rows::{Codec, Errors, Row, Rows, map_batches};
use super::watch::Watch;
use super::{Fold, Join, Node, Operator};
use crate::plan::{JoinKind, MARK};
use crate::render::arrange::{Change, Diff, report_groups};
use crate::render::left_out::project_of;
use crate::render::pipeline::{Pipeline, batch_of, evaluate};
use crate::render::tap::{converter, normalise};
use crate::time::Tick;

const CHECKED: &str = "invariant: the types were checked when the plan was compiled";

/// What all operators of one graph need while they are built.
pub(super) struct Building<'s, 'a> {
    pub scope: Scope<'s, Tick>,
    pub meter: &'a Meter,
    pub watch: &'a RefCell<Watch>,
    pub inputs: &'a [Rows<'s>],
    /// The shared nodes that are built already.
    pub shared: Vec<Rows<'s>>,
    pub errors: &'a Errors,
    /// When the graph starts.
    pub start: Tick,
    /// Whether constants enter on this worker.
    pub first_worker: bool,
}

impl<'s> Building<'s, '_> {
    pub fn node(&mut self, node: &Node) -> Rows<'s> {
        if let Operator::Shared(index) = &node.operator {
            return self.shared[*index].clone();
        }
        let first = self.scope.worker().peek_identifier();
        let rows = self.operator(node);
        let counted = self.watch.borrow_mut().count(node.number, rows);
        let operators = first..self.scope.worker().peek_identifier();
        self.watch.borrow_mut().owns(node.number, operators);
        counted
    }

    fn operator(&mut self, node: &Node) -> Rows<'s> {
        match &node.operator {
            Operator::Input(index) => self.inputs[*index].clone(),
            Operator::Shared(index) => self.shared[*index].clone(),
            Operator::Constant(rows) => self.constant(rows),
            Operator::Map(below, pipeline) => {
                let rows = self.node(below);
                self.map(rows, &below.schema, pipeline, "map")
            }
            Operator::Fold(below, fold) => {
                let rows = self.node(below);
                self.fold(rows, node.number, below, fold)
            }
            Operator::Default(below, row) => {
                // Both are one node of the plan.
                let rows = self.operator(below);
                self.default_row(rows, &below.schema, row.columns())
            }
            Operator::Join(join) => self.join(join, node.number),
            Operator::Union(inputs) => {
                let inputs: Vec<Rows<'s>> = inputs.iter().map(|input| self.node(input)).collect();
                differential_dataflow::collection::concatenate(self.scope, inputs)
            }
            Operator::Group(below, choice) => {
                let rows = self.node(below);
                grouped(rows, choice, self.errors, |trace| {
                    self.watch.borrow_mut().keeps(node.number, below.number, trace);
                })
            }
        }
    }

    fn map(&self, rows: Rows<'s>, from: &SchemaRef, pipeline: &Arc<Pipeline>, name: &str) -> Rows<'s> {
        let (pipeline, errors) = (Arc::clone(pipeline), Errors::clone(self.errors));
        let meter = self.meter.clone();
        let encoder = Codec::new(pipeline.schema()).expect(CHECKED);
        map_batches(
            rows,
            name,
            Codec::new(from).expect(CHECKED),
            move |flow, records| {
                if meter.is_spent() {
                    return;
                }
                let came = flow.batch.num_rows();
                let flow = pipeline.run(flow, &mut errors.borrow_mut());
                // A row that is in many windows.
                meter.count(flow.batch.num_rows().saturating_sub(came) as u64, 0);
                let rows = encoder.encode(flow.batch.columns(), flow.batch.num_rows());
                records.extend(rows.into_iter().zip(flow.carried.values().iter().copied()));
            },
        )
    }

    fn fold(&self, rows: Rows<'s>, number: usize, below: &Node, fold: &Arc<Fold>) -> Rows<'s> {
        let (folding, errors) = (Arc::clone(fold), Errors::clone(self.errors));
        let keys = converter(&fold.key_types).expect(CHECKED);
        let mut combiner = Combiner::new(fold.cells.kinds.clone());
        let folded: VecCollection<'s, Tick, Row, Diff> = map_batches(
            rows,
            "fold",
            Codec::new(&below.schema).expect(CHECKED),
            move |flow, records| {
                let mut errors = errors.borrow_mut();
                let (mut arrays, flow) = evaluate(&folding.expressions, flow, &mut errors);
                let rest = arrays.split_off(folding.keys);
                let inputs = folding.cells.inputs(rest);
                let count = flow.batch.num_rows();
                let mut differences: Vec<i64> = flow.carried.values().to_vec();
                differences.sort_unstable();
                differences.dedup();
                let mut bad_rows = Vec::new();
                let encoded = (folding.keys > 0).then(|| {
                    let arrays: Vec<ArrayRef> = arrays.into_iter().map(normalise).collect();
                    keys.convert_columns(&arrays).expect(CHECKED)
                });
                for difference in differences {
                    let mask: BooleanArray = flow
                        .carried
                        .values()
                        .iter()
                        .map(|carried| Some(*carried == difference))
                        .collect();
                    let fits = "invariant: the cells were planned for these inputs";
                    match &encoded {
                        Some(keys) => combiner
                            .fold(keys, &inputs, Some(&mask), difference, &mut bad_rows)
                            .expect(fits),
                        None => combiner
                            .fold(&count, &inputs, Some(&mask), difference, &mut bad_rows)
                            .expect(fits),
                    }
                }
                for bad in bad_rows {
                    let project = project_of(&flow.batch, bad.row);
                    errors.record(project, flow.carried.value(bad.row), bad);
                }
                combiner.drain(|key, accumulator| records.push((Row::from(key), Diff(accumulator))));
            },
        );
        let arranged = folded.arrange_by_self_named("groups");
        self.watch
            .borrow_mut()
            .keeps(number, below.number, &arranged.trace);
        self.folded(arranged, fold)
    }

    /// From changes of accumulators to changes of rows.
    fn folded(
        &self,
        arranged: Arranged<'s, TraceAgent<OrdKeySpine<Row, Tick, Diff>>>,
        fold: &Arc<Fold>,
    ) -> Rows<'s> {
        let mut trace = arranged.trace.clone();
        let mut seen = Antichain::from_elem(0);
        let mut upper = Antichain::from_elem(0);
        let reader = FoldReader::new(fold, self.errors);
        let rows = arranged
            .stream
            .unary::<CapacityContainerBuilder<Vec<(Row, Tick, i64)>>, _, _, _>(
                OnThisWorker,
                "read groups",
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
                                let mut changes = Vec::new();
                                report_groups(batches, before, &mut changes);
                                let updates = reader.updates(&changes);
                                output.session(&capability).give_iterator(updates.into_iter());
                            }
                        });
                        trace.advance_upper(&mut upper);
                        trace.set_logical_compaction(upper.borrow());
                        trace.set_physical_compaction(upper.borrow());
                    }
                },
            );
        rows.as_collection()
    }

    /// Rows that are there from the start.
    fn constant(&mut self, rows: &RecordBatch) -> Rows<'s> {
        let codec = Codec::new(&rows.schema()).expect(CHECKED);
        let encoded = match self.first_worker {
            true => codec.encode(rows.columns(), rows.num_rows()),
            false => Vec::new(),
        };
        let start = self.start;
        encoded
            .into_iter()
            .map(move |row| (row, start, 1))
            .to_stream(self.scope)
            .container::<Vec<_>>()
            .as_collection()
    }

    /// The input, and `row` where the input is empty. The input has at most one row.
    fn default_row(&mut self, rows: Rows<'s>, schema: &SchemaRef, row: &[ArrayRef]) -> Rows<'s> {
        let present = self.constant(&batch_of(schema, row.to_vec(), 1));
        let row = Codec::new(schema).expect(CHECKED).encode(row, 1).remove(0);
        let absent = rows.clone().map(move |_| row.clone()).negate();
        rows.concat(present).concat(absent)
    }

    fn join(&mut self, join: &Join, number: usize) -> Rows<'s> {
        let left = self.node(&join.left);
        let right = self.node(&join.right);
        let left = self.keyed(left, join, &join.left.schema, &join.left_keys);
        let right = self.keyed(right, join, &join.right.schema, &join.right_keys);
        let (meter, watch) = (self.meter, self.watch);
        let like = (join.left.number, join.right.number);
        let pairs = |left: Keyed<'s>, right: Keyed<'s>| {
            let right = may_match(right).arrange_by_key_named("right");
            let left = may_match(left).arrange_by_key_named("left");
            let mut watch = watch.borrow_mut();
            watch.keeps(number, like.0, &left.trace);
            watch.keeps(number, like.1, &right.trace);
            product(left, right, meter)
        };
        let matched = |left: Keyed<'s>, right: Keyed<'s>, like: usize| {
            let left = may_match(left).arrange_by_key_named("left");
            watch.borrow_mut().keeps(number, like, &left.trace);
            matched(left, right)
        };
        let present = |left: Rows<'s>, matching: Rows<'s>, like: usize| {
            let left = left.arrange_by_self_named("left");
            watch.borrow_mut().keeps(number, like, &left.trace);
            present(left, matching)
        };
        // Without those on whose key an expression failed: they are left out of everything.
        let left_rows = left.clone().map(|(_, row)| row);
        let right_rows = right.clone().map(|(_, row)| row);
        match (join.kind, &join.residual) {
            (JoinKind::Inner, None) => pairs(left, right),
            (JoinKind::Inner, Some(residual)) => {
                let pairs = pairs(left, right);
                self.map(pairs, &join.both, residual, "residual")
            }
            (JoinKind::Semi, None) => matched(left, right, like.0),
            (JoinKind::Anti, None) => left_rows.concat(matched(left, right, like.0).negate()),
            (JoinKind::NullAwareAnti, _) => null_aware(left, right),
            (JoinKind::Mark, None) => self.marked(left_rows, matched(left, right, like.0)),
            (JoinKind::Mark, Some(residual)) => {
                let pairs = pairs(left, right);
                let fulfilled = self.map(pairs, &join.both, residual, "residual");
                let matching = self.map(fulfilled, &join.both, &join.to_left, "left side");
                let matched = present(left_rows.clone(), matching, like.0);
                self.marked(left_rows, matched)
            }
            (JoinKind::Semi | JoinKind::Anti, Some(residual)) => {
                let pairs = pairs(left, right);
                let fulfilled = self.map(pairs, &join.both, residual, "residual");
                let matching = self.map(fulfilled, &join.both, &join.to_left, "left side");
                let present = present(left_rows.clone(), matching, like.0);
                match join.kind {
                    JoinKind::Semi => present,
                    _ => left_rows.concat(present.negate()),
                }
            }
            (JoinKind::Left | JoinKind::Right | JoinKind::Full, residual) => {
                let (pairs, left_matched, right_matched) = match residual {
                    None => (
                        pairs(left.clone(), right.clone()),
                        matched(left.clone(), right.clone(), like.0),
                        matched(right, left, like.1),
                    ),
                    Some(residual) => {
                        let candidates = pairs(left, right);
                        let fulfilled = self.map(candidates, &join.both, residual, "residual");
                        let of_left = self.map(fulfilled.clone(), &join.both, &join.to_left, "left side");
                        let of_right = self.map(fulfilled.clone(), &join.both, &join.to_right, "right side");
                        (
                            fulfilled,
                            present(left_rows.clone(), of_left, like.0),
                            present(right_rows.clone(), of_right, like.1),
                        )
                    }
                };
                let mut parts = vec![pairs];
                if join.kind != JoinKind::Right {
                    let nulls = null_row(&join.right.schema);
                    let alone = left_rows.concat(left_matched.negate());
                    parts.push(alone.map(move |row| Row::from([&*row, &*nulls].concat())));
                }
                if join.kind != JoinKind::Left {
                    let nulls = null_row(&join.left.schema);
                    let alone = right_rows.concat(right_matched.negate());
                    parts.push(alone.map(move |row| Row::from([&*nulls, &*row].concat())));
                }
                differential_dataflow::collection::concatenate(self.scope, parts)
            }
        }
    }

    /// Every row with whether it is among those that are matched.
    fn marked(&self, rows: Rows<'s>, matched: Rows<'s>) -> Rows<'s> {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new(MARK, DataType::Boolean, true)]));
        let marks: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
        let marks = Codec::new(&schema).expect(CHECKED).encode(&[marks], 2);
        let with = |rows: Rows<'s>, mark: &Row| {
            let mark = mark.clone();
            rows.map(move |row| Row::from([&*row, &*mark].concat()))
        };
        let unmatched = rows.concat(matched.clone().negate());
        with(matched, &marks[0]).concat(with(unmatched, &marks[1]))
    }

    /// Rows by their key; where NULL matches nothing, the key of a row with a NULL is empty.
    fn keyed(
        &self,
        rows: Rows<'s>,
        join: &Join,
        schema: &SchemaRef,
        keys: &[Arc<dyn PhysicalExpr>],
    ) -> Keyed<'s> {
        let (keys, errors, nulls_equal) = (keys.to_vec(), Errors::clone(self.errors), join.nulls_equal);
        let key_converter: RowConverter = converter(&join.key_types).expect(CHECKED);
        let encoder = Codec::new(schema).expect(CHECKED);
        map_batches(
            rows,
            "key",
            Codec::new(schema).expect(CHECKED),
            move |flow, records| {
                let (arrays, flow) = evaluate(&keys, flow, &mut errors.borrow_mut());
                let count = flow.batch.num_rows();
                let rows = encoder.encode(flow.batch.columns(), count);
                let arrays: Vec<ArrayRef> = arrays.into_iter().map(normalise).collect();
                let encoded =
                    (!arrays.is_empty()).then(|| key_converter.convert_columns(&arrays).expect(CHECKED));
                let diffs = flow.carried.values().iter().copied();
                for (index, (row, diff)) in rows.into_iter().zip(diffs).enumerate() {
                    let missing = !nulls_equal && arrays.iter().any(|array| array.is_null(index));
                    let mut key = vec![u8::from(!missing)];
                    if let (Some(encoded), false) = (&encoded, missing) {
                        key.extend_from_slice(encoded.row(index).as_ref());
                    }
                    records.push(((Row::from(key), row), diff));
                }
            },
        )
    }
}

/// Rows by key. The first byte says whether the key may match; if not, there is no more.
type Keyed<'s> = VecCollection<'s, Tick, (Row, Row), i64>;

fn may_match(rows: Keyed<'_>) -> Keyed<'_> {
    rows.filter(|(key, _)| key[0] == 1)
}

/// The left rows whose key is on the right.
fn matched<'s>(left: Arranged<'s, KeyedTrace>, right: Keyed<'s>) -> Rows<'s> {
    let keys = may_match(right)
        .map(|(key, _)| key)
        .distinct_core::<i64>()
        .arrange_by_self_named("keys");
    left.join_core(keys, |_key, left, ()| Some(left.clone()))
}

/// The left rows that are among `matching`, as often as they are on the left.
fn present<'s>(left: Arranged<'s, TraceAgent<OrdKeySpine<Row, Tick, i64>>>, matching: Rows<'s>) -> Rows<'s> {
    let matching = matching.distinct_core::<i64>().arrange_by_self_named("matching");
    left.join_core(matching, |row, (), ()| Some(row.clone()))
}

/// `NOT IN`: rows without an equal on the right, unless there is a NULL on the right; those with a NULL only if
/// nothing is on the right.
fn null_aware<'s>(left: Keyed<'s>, right: Keyed<'s>) -> Rows<'s> {
    let everything = |rows: Keyed<'s>| rows.map(|(_, row)| (Row::default(), row));
    let any = right.clone().map(|_| Row::default());
    let any_null = right
        .clone()
        .filter(|(key, _)| key[0] == 0)
        .map(|_| Row::default());
    let with_key = may_match(left.clone());
    let without_key = everything(left.filter(|(key, _)| key[0] == 0));
    let unequal = with_key
        .clone()
        .map(|(_, row)| row)
        .concat(matched(with_key.arrange_by_key_named("left"), right).negate());
    let unequal = unequal.map(|row| (Row::default(), row));
    let kept = unequal
        .clone()
        .map(|(_, row)| row)
        .concat(among(unequal, any_null).negate());
    let unknown = without_key
        .clone()
        .map(|(_, row)| row)
        .concat(among(without_key, any).negate());
    kept.concat(unknown)
}

/// All rows, if there is one of `keys`.
fn among<'s>(rows: Keyed<'s>, keys: Rows<'s>) -> Rows<'s> {
    let keys = keys.distinct_core::<i64>().arrange_by_self_named("any");
    rows.arrange_by_key_named("all")
        .join_core(keys, |_key, row, ()| Some(row.clone()))
}

fn null_row(schema: &Schema) -> Row {
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| arrow::array::new_null_array(field.data_type(), 1))
        .collect();
    let schema: SchemaRef = Arc::new(schema.clone());
    Codec::new(&schema).expect(CHECKED).encode(&columns, 1).remove(0)
}

/// Reads the rows of an aggregate from its accumulators.
struct FoldReader {
    fold: Arc<Fold>,
    keys: RowConverter,
    encoder: Codec,
    errors: Errors,
}

impl FoldReader {
    fn new(fold: &Arc<Fold>, errors: &Errors) -> FoldReader {
        FoldReader {
            fold: Arc::clone(fold),
            keys: converter(&fold.key_types).expect(CHECKED),
            encoder: Codec::new(&fold.schema).expect(CHECKED),
            errors: Errors::clone(errors),
        }
    }

    fn updates(&self, changes: &[Change]) -> Vec<(Row, Tick, i64)> {
        let mut entries: Vec<(&[u8], &Accumulator, Tick, i64)> = Vec::with_capacity(changes.len() * 2);
        for change in changes.iter().filter(|change| change.old != change.new) {
            let sides = [(&change.old, -1), (&change.new, 1)];
            entries.extend(sides.into_iter().filter_map(|(side, sign)| {
                side.as_ref()
                    .map(|accumulator| (&*change.key, accumulator, change.tick, sign))
            }));
        }
        let mut columns = match self.fold.keys {
            0 => Vec::new(),
            _ => {
                let parser = self.keys.parser();
                let parsed = entries.iter().map(|(key, ..)| parser.parse(key));
                self.keys
                    .convert_rows(parsed)
                    .expect("invariant: keys were encoded by this fold")
            }
        };
        let groups: Vec<&Accumulator> = entries.iter().map(|(_, accumulator, ..)| *accumulator).collect();
        let mut misfits = Vec::new();
        columns.extend(
            self.fold
                .outputs
                .read(&self.fold.cells.kinds, &groups, &mut misfits),
        );
        let batch = batch_of(&self.fold.schema, columns, entries.len());
        let mut errors = self.errors.borrow_mut();
        for misfit in misfits {
            let group = misfit.group;
            errors.record(project_of(&batch, group), entries[group].3, misfit);
        }
        let rows = self.encoder.encode(batch.columns(), entries.len());
        rows.into_iter()
            .zip(&entries)
            .map(|(row, (_, _, tick, sign))| (row, *tick, *sign))
            .collect()
    }
}
