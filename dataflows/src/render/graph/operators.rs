//! The operators of a graph, built into a dataflow.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::RowConverter;
use datafusion::physical_expr::PhysicalExpr;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::ord_neu::OrdKeySpine;
use differential_dataflow::{AsCollection, VecCollection};
use timely::dataflow::Scope;
use timely::dataflow::operators::ToStream;

use super::budget::Meter;
use super::group::grouped;
use super::intervals::Placing;
use super::pairs::{KeyedTrace, product};
use super::rows::{Codec, Errors, Row, Rows, map_batches};
use super::watch::Watch;
use super::withheld::Withheld;
use super::{Join, Node, Operator};
use crate::plan::{JoinKind, MARK};
use crate::render::pipeline::{Pipeline, batch_of, evaluate};
use crate::render::tap::{converter, normalise};
use crate::time::Tick;

pub(super) const CHECKED: &str = "invariant: the types were checked when the plan was compiled";

/// What all operators of one graph need while they are built.
pub(super) struct Building<'s, 'a> {
    pub scope: Scope<'s, Tick>,
    pub meter: &'a Meter,
    pub watch: &'a RefCell<Watch>,
    pub inputs: &'a [Rows<'s>],
    /// The shared nodes that are built already.
    pub shared: Vec<Rows<'s>>,
    pub errors: &'a Errors,
    /// What is kept back by watermarks.
    pub withheld: &'a RefCell<Vec<Rc<RefCell<Withheld>>>>,
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
            Operator::Sessions(below, sessions) => {
                let rows = self.node(below);
                self.sessions(rows, node.number, below, sessions)
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
        let (of_left, of_right) = match &join.buckets {
            Some(buckets) => (Some(&buckets.left), Some(&buckets.right)),
            None => (None, None),
        };
        let left = self.keyed(left, join, &join.left.schema, (&join.left_keys, of_left));
        let right = self.keyed(right, join, &join.right.schema, (&join.right_keys, of_right));
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
        // Without those on whose key an expression failed: they are left out of everything. (Of the side of an interval
        // join that is in several buckets nothing but pairs is asked for.)
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
                let (keeps_left, keeps_right) = (join.kind != JoinKind::Right, join.kind != JoinKind::Left);
                let (pairs, left_matched, right_matched) = match residual {
                    None => (
                        pairs(left.clone(), right.clone()),
                        keeps_left.then(|| matched(left.clone(), right.clone(), like.0)),
                        keeps_right.then(|| matched(right.clone(), left.clone(), like.1)),
                    ),
                    Some(residual) => {
                        let candidates = pairs(left, right);
                        let fulfilled = self.map(candidates, &join.both, residual, "residual");
                        let side = |to_side, name| self.map(fulfilled.clone(), &join.both, to_side, name);
                        let left_matched = keeps_left
                            .then(|| present(left_rows.clone(), side(&join.to_left, "left side"), like.0));
                        let right_matched = keeps_right
                            .then(|| present(right_rows.clone(), side(&join.to_right, "right side"), like.1));
                        (fulfilled, left_matched, right_matched)
                    }
                };
                let mut parts = vec![pairs];
                if let Some(left_matched) = left_matched {
                    let nulls = null_row(&join.right.schema);
                    let alone = left_rows.concat(left_matched.negate());
                    parts.push(alone.map(move |row| Row::joined(&[&row, &nulls])));
                }
                if let Some(right_matched) = right_matched {
                    let nulls = null_row(&join.left.schema);
                    let alone = right_rows.concat(right_matched.negate());
                    parts.push(alone.map(move |row| Row::joined(&[&nulls, &row])));
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
            rows.map(move |row| Row::joined(&[&row, &mark]))
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
        (keys, placing): (&[Arc<dyn PhysicalExpr>], Option<&Placing>),
    ) -> Keyed<'s> {
        let (keys, errors, nulls_equal) = (keys.to_vec(), Errors::clone(self.errors), join.nulls_equal);
        let placing = placing.cloned();
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
                let places = placing
                    .as_ref()
                    .map(|placing| (placing, placing.values(&flow.batch)));
                for (index, (row, diff)) in rows.into_iter().zip(diffs).enumerate() {
                    let missing = !nulls_equal && arrays.iter().any(|array| array.is_null(index));
                    let key = || {
                        let mut key = vec![1];
                        if let Some(encoded) = &encoded {
                            key.extend_from_slice(encoded.row(index).as_ref());
                        }
                        key
                    };
                    let before = records.len();
                    match (&places, missing) {
                        (_, true) => {}
                        (None, false) => records.push(((Row::from(&key()[..]), row.clone()), diff)),
                        (Some((placing, values)), false) => {
                            for bucket in values[index].into_iter().flat_map(|value| placing.of(value)) {
                                let mut key = key();
                                key.extend_from_slice(&bucket.to_be_bytes());
                                records.push(((Row::from(&key[..]), row.clone()), diff));
                            }
                        }
                    }
                    if records.len() == before {
                        records.push(((Row::from(&[0][..]), row), diff));
                    }
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
