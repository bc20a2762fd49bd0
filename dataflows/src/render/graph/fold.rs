//! Aggregates over rows that are themselves maintained: accumulators by key, and the rows read from them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::row::RowConverter;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::implementations::ord_neu::OrdKeySpine;
use differential_dataflow::{AsCollection, Data, VecCollection};
use pyflare_operators::aggregate::{Accumulator, Combiner};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline as OnThisWorker;
use timely::dataflow::operators::generic::operator::Operator as _;
use timely::progress::frontier::Antichain;

use super::operators::{Building, CHECKED};
use super::rows::{Codec, Errors, Row, Rows, map_batches};
use super::{Fold, Node};
use crate::render::arrange::{Change, Diff, report_groups};
use crate::render::left_out::project_of;
use crate::render::pipeline::{batch_of, evaluate};
use crate::render::tap::{converter, normalise};
use crate::time::Tick;

/// The columns of keys from what was evaluated for them, and which rows have one, if not all.
pub(super) type MakeKeys = dyn Fn(Vec<ArrayRef>) -> (Vec<ArrayRef>, Option<BooleanArray>);

impl<'s> Building<'s, '_> {
    pub(super) fn fold(&self, rows: Rows<'s>, number: usize, below: &Node, fold: &Arc<Fold>) -> Rows<'s> {
        let as_they_are = Box::new(|arrays| (arrays, None));
        let keys = converter(&fold.key_types).expect(CHECKED);
        let folded = self.accumulated(rows, below, fold, (keys, as_they_are), |key| Row::from(key));
        let arranged = folded.arrange_by_self_named("groups");
        self.watch
            .borrow_mut()
            .keeps(number, below.number, &arranged.trace);
        self.folded(arranged, fold)
    }

    /// What rows add to the accumulators of their keys; `record` makes of a key's bytes what is arranged.
    pub(super) fn accumulated<D: Data>(
        &self,
        rows: Rows<'s>,
        below: &Node,
        fold: &Arc<Fold>,
        (keys, make_keys): (RowConverter, Box<MakeKeys>),
        record: impl Fn(&[u8]) -> D + 'static,
    ) -> VecCollection<'s, Tick, D, Diff> {
        let (folding, errors) = (Arc::clone(fold), Errors::clone(self.errors));
        let mut combiner = Combiner::new(fold.cells.kinds.clone());
        map_batches(
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
                let (arrays, with_key) = make_keys(arrays);
                let encoded = (!arrays.is_empty()).then(|| {
                    let arrays: Vec<ArrayRef> = arrays.into_iter().map(normalise).collect();
                    keys.convert_columns(&arrays).expect(CHECKED)
                });
                let has_key = |row: usize| with_key.as_ref().is_none_or(|with_key| with_key.value(row));
                for difference in differences {
                    let carried = flow.carried.values().iter().enumerate();
                    let mask: BooleanArray = carried
                        .map(|(row, carried)| Some(*carried == difference && has_key(row)))
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
                combiner.drain(|key, accumulator| records.push((record(key), Diff(accumulator))));
            },
        )
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
        let keys = converter(&fold.key_types).expect(CHECKED);
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
                                let updates = updates(&reader, &keys, &changes);
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
}

fn updates(reader: &FoldReader, keys: &RowConverter, changes: &[Change]) -> Vec<(Row, Tick, i64)> {
    let mut encoded: Vec<&[u8]> = Vec::with_capacity(changes.len() * 2);
    let mut shown: Vec<Shown<'_>> = Vec::with_capacity(changes.len() * 2);
    for change in changes.iter().filter(|change| change.old != change.new) {
        for (side, sign) in [(&change.old, -1), (&change.new, 1)] {
            if let Some(accumulator) = side {
                encoded.push(&change.key);
                shown.push((accumulator, change.tick, sign));
            }
        }
    }
    reader.rows(reader.keys(keys, &encoded), &shown)
}

/// What one row is read from, when it changed, and whether it is there since (1) or not any more (−1).
pub(super) type Shown<'a> = (&'a Accumulator, Tick, i64);

/// Reads the rows of an aggregate from its accumulators.
pub(super) struct FoldReader {
    fold: Arc<Fold>,
    encoder: Codec,
    errors: Errors,
}

impl FoldReader {
    pub fn new(fold: &Arc<Fold>, errors: &Errors) -> FoldReader {
        FoldReader {
            fold: Arc::clone(fold),
            encoder: Codec::new(&fold.schema).expect(CHECKED),
            errors: Errors::clone(errors),
        }
    }

    /// The columns of keys that `converter` has encoded.
    pub fn keys(&self, converter: &RowConverter, encoded: &[&[u8]]) -> Vec<ArrayRef> {
        if self.fold.key_types.is_empty() {
            return Vec::new();
        }
        let parser = converter.parser();
        converter
            .convert_rows(encoded.iter().map(|key| parser.parse(key)))
            .expect("invariant: keys were encoded by this fold")
    }

    /// Rows with these first columns, and then the aggregates.
    pub fn rows(&self, mut columns: Vec<ArrayRef>, shown: &[Shown<'_>]) -> Vec<(Row, Tick, i64)> {
        let groups: Vec<&Accumulator> = shown.iter().map(|(accumulator, ..)| *accumulator).collect();
        let mut misfits = Vec::new();
        columns.extend(
            self.fold
                .outputs
                .read(&self.fold.cells.kinds, &groups, &mut misfits),
        );
        let batch = batch_of(&self.fold.schema, columns, shown.len());
        let mut errors = self.errors.borrow_mut();
        for misfit in misfits {
            let group = misfit.group;
            errors.record(project_of(&batch, group), shown[group].2, misfit);
        }
        let rows = self.encoder.encode(batch.columns(), shown.len());
        rows.into_iter()
            .zip(shown)
            .map(|(row, (_, tick, sign))| (row, *tick, *sign))
            .collect()
    }
}
