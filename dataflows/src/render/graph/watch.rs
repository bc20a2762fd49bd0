//! What the operators of a graph give, keep and cost on one worker.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use differential_dataflow::AsCollection;
use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::implementations::spine_fueled::SpineBatch;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline as OnThisWorker;
use timely::dataflow::operators::generic::operator::Operator as _;
use timely::progress::frontier::AntichainRef;

use super::rows::{Row, Rows};
use crate::render::busy::Busy;
use crate::render::figures::Figure;
use crate::time::Tick;

/// What an update in an arrangement takes besides the row's bytes: key and row as pointers, time, difference, offsets.
const UPDATE_BYTES: u64 = 64;

/// The operators of one graph, by node of the plan.
#[derive(Default)]
pub(crate) struct Watch {
    nodes: BTreeMap<usize, Watched>,
    /// Node by timely's identifier of the operator.
    owners: BTreeMap<usize, usize>,
}

#[derive(Default)]
struct Watched {
    rows_out: Rc<Cell<u64>>,
    bytes_out: Rc<Cell<u64>>,
    kept: Vec<Kept>,
}

struct Kept {
    updates: Box<dyn Fn() -> u64>,
    /// The node whose rows are kept.
    like: usize,
}

impl Watch {
    /// The rows as they are, counted as those of `node`.
    pub fn count<'s>(&mut self, node: usize, rows: Rows<'s>) -> Rows<'s> {
        let watched = self.nodes.entry(node).or_default();
        let (counted, bytes) = (Rc::clone(&watched.rows_out), Rc::clone(&watched.bytes_out));
        let through = rows
            .inner
            .unary::<CapacityContainerBuilder<Vec<(Row, Tick, i64)>>, _, _, _>(
                OnThisWorker,
                "count",
                move |_capability, _info| {
                    move |input, output| {
                        input.for_each(|capability, records| {
                            let of_all: usize = records.iter().map(|(row, ..)| row.len()).sum();
                            counted.set(counted.get() + records.len() as u64);
                            bytes.set(bytes.get() + of_all as u64);
                            output.session(&capability).give_container(records);
                        });
                    }
                },
            );
        through.as_collection()
    }

    /// An arrangement that `node` keeps, of rows like those of the node `like`.
    pub fn keeps<Tr>(&mut self, node: usize, like: usize, trace: &TraceAgent<Tr>)
    where
        Tr: TraceReader<Time = Tick, Batch: SpineBatch> + 'static,
    {
        let mut trace = trace.clone();
        // Reads nothing, so it holds nothing back.
        trace.set_logical_compaction(AntichainRef::new(&[]));
        trace.set_physical_compaction(AntichainRef::new(&[]));
        let updates = Box::new(move || {
            let mut updates = 0;
            trace.map_spans(|span| updates += span.inner.as_ref().map_or(0, SpineBatch::len) as u64);
            updates
        });
        let watched = self.nodes.entry(node).or_default();
        watched.kept.push(Kept { updates, like });
    }

    /// The operators with these identifiers are `node`'s, as far as they are not those of a node below.
    pub fn owns(&mut self, node: usize, operators: Range<usize>) {
        for operator in operators {
            self.owners.entry(operator).or_insert(node);
        }
    }

    pub fn figures(&self, busy: &Busy) -> Vec<(usize, Figure)> {
        let mean_bytes = |node: usize| {
            let watched = self.nodes.get(&node);
            watched.map_or(0, |watched| {
                watched.bytes_out.get() / watched.rows_out.get().max(1)
            })
        };
        let mut operators: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (operator, node) in &self.owners {
            operators.entry(*node).or_default().push(*operator);
        }
        let figure = |(node, watched): (&usize, &Watched)| {
            let mut figure = Figure {
                rows_out: watched.rows_out.get(),
                ..Figure::default()
            };
            for kept in &watched.kept {
                let updates = (kept.updates)();
                figure.state_rows += updates;
                figure.state_bytes += updates * (mean_bytes(kept.like) + UPDATE_BYTES);
            }
            if let Some(operators) = operators.get(node) {
                (figure.busy_us, figure.runs) = busy.of(operators.iter().copied());
            }
            (*node, figure)
        };
        self.nodes.iter().map(figure).collect()
    }
}
