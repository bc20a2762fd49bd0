//! A graph as a dataflow on one worker.
//!
//! Its time is finer than the tick: what a tick takes back because panes end comes first, at the even moment, and
//! all else after it, at the odd one; so the two are told apart in the result too, and stores can ignore the former.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use differential_dataflow::input::{Input as _, InputSession};
use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::cursor::{Cursor, CursorList, cursor_list};
use differential_dataflow::trace::implementations::ord_neu::OrdKeySpine;
use differential_dataflow::trace::{BatchCursor, TraceReader};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline as OnThisWorker;
use timely::dataflow::operators::generic::operator::Operator as _;
use timely::dataflow::operators::probe::{Handle as ProbeHandle, Probe};
use timely::progress::frontier::{Antichain, AntichainRef};
use timely::worker::Worker;

use super::Graph;
use super::budget::{Budget, Meter};
use super::operators::Building;
use super::rows::{Codec, Errors, Row, Rows};
use super::watch::Watch;
use super::withheld::Withheld;
use crate::plan::PlanError;
use crate::render::busy::Busy;
use crate::render::figures::{Figures, News};
use crate::render::left_out::RowErrors;
use crate::render::walk::{Fuel, Path, Walk};
use crate::time::Tick;

/// A row of the result, when it changed, and by how much.
type Reported = (Row, Moment, i64);
/// `2 · tick` for expiry, `2 · tick + 1` for the rest.
type Moment = u64;

fn expiry_of(tick: Tick) -> Moment {
    tick * 2
}

fn rest_of(tick: Tick) -> Moment {
    tick * 2 + 1
}

type RowTrace = TraceAgent<OrdKeySpine<Row, Tick, i64>>;

/// What a graph is held to and counted in.
pub(crate) struct Limits<'a> {
    pub budget: &'a Arc<Budget>,
    /// False while the log is replayed: what was done then was within the limits.
    pub enforced: bool,
    pub figures: &'a Arc<Figures>,
}

/// One view's graph on one worker. Between ticks nothing is in flight.
pub(crate) struct RunningGraph {
    /// Timely's index of the dataflow.
    dataflow: usize,
    operators: Range<usize>,
    worker: usize,
    meter: Meter,
    watch: Watch,
    busy: Busy,
    figures: Arc<Figures>,
    news: News,
    inputs: Vec<InputSession<Tick, Row, i64>>,
    encoders: Vec<Codec>,
    result: RowTrace,
    decoder: Rc<Codec>,
    changes: Rc<RefCell<Vec<Reported>>>,
    errors: Errors,
    withheld: Vec<Rc<RefCell<Withheld>>>,
    probe: ProbeHandle<Tick>,
    touched: bool,
}

impl RunningGraph {
    /// Builds the dataflow; its inputs stand at `start`. Every worker must do this in the same order.
    pub fn build(
        worker: &mut Worker,
        name: &str,
        graph: &Graph,
        start: Tick,
        limits: &Limits<'_>,
        busy: &Busy,
    ) -> Result<RunningGraph, PlanError> {
        let (dataflow, first) = (worker.next_dataflow_index(), worker.peek_identifier());
        let meter = Meter::new(limits.budget);
        meter.enforce(limits.enforced);
        let watch = RefCell::new(Watch::default());
        let encoders = graph
            .input_schemas
            .iter()
            .map(Codec::new)
            .collect::<Result<Vec<_>, _>>()?;
        let decoder = Rc::new(Codec::new(&graph.root.schema)?);
        let probe = ProbeHandle::new();
        let changes: Rc<RefCell<Vec<Reported>>> = Rc::default();
        let errors: Errors = Rc::new(RefCell::new(RowErrors::of_groups()));
        let withheld = RefCell::default();
        let first_worker = worker.index() == 0;
        let (mut inputs, result) = worker.dataflow_named(name, |scope| {
            let (inputs, rows): (Vec<_>, Vec<Rows<'_>>) = graph
                .inputs
                .iter()
                .map(|_| scope.new_collection::<Row, i64>())
                .unzip();
            let mut building = Building {
                scope,
                meter: &meter,
                watch: &watch,
                inputs: &rows,
                shared: Vec::with_capacity(graph.shared.len()),
                errors: &errors,
                withheld: &withheld,
                start: rest_of(start),
                first_worker,
            };
            for node in &graph.shared {
                let rows = building.node(node);
                building.shared.push(rows);
            }
            let result = building.node(&graph.root).arrange_by_self_named("result");
            let root = graph.root.number;
            watch.borrow_mut().keeps(root, root, &result.trace);
            let operators = first..scope.worker().peek_identifier();
            watch.borrow_mut().owns(root, operators);
            report(&result.stream, &changes, &probe);
            (inputs, result.trace)
        });
        for input in &mut inputs {
            input.advance_to(expiry_of(start));
            input.flush();
        }
        let operators = first..worker.peek_identifier();
        busy.follow(operators.clone());
        Ok(RunningGraph {
            dataflow,
            operators,
            worker: worker.index(),
            meter,
            watch: watch.into_inner(),
            busy: busy.clone(),
            figures: Arc::clone(limits.figures),
            news: News::default(),
            inputs,
            encoders,
            result,
            decoder,
            changes,
            errors,
            withheld: withheld.into_inner(),
            probe,
            touched: false,
        })
    }

    /// Changes are at `tick` from here on; `enforced` says whether limits hold.
    pub fn open_tick(&mut self, tick: Tick, enforced: bool) {
        self.meter.open_tick(enforced);
        for input in &mut self.inputs {
            input.advance_to(expiry_of(tick));
        }
        self.touched = false;
    }

    /// What waits for the watermark of a leaf to pass it is shown at the end of `tick` if that has.
    pub fn release(&mut self, tick: Tick, watermark: impl Fn(usize) -> Option<i64>) {
        for withheld in &self.withheld {
            let mut withheld = withheld.borrow_mut();
            let watermark = watermark(withheld.leaf);
            self.touched |= withheld.advance(watermark, rest_of(tick));
        }
    }

    /// For each leaf whose watermark something waits for, where it has to be.
    pub fn awaited(&self) -> impl Iterator<Item = (usize, i64)> {
        let awaited = self.withheld.iter().map(|withheld| withheld.borrow());
        awaited.filter_map(|withheld| Some((withheld.leaf, withheld.earliest()?)))
    }

    /// The tick did something here: there will be something to tell.
    pub fn note(&mut self) {
        self.news.note();
    }

    /// Whether something was fed at the tick at hand.
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    /// Changes of an input at the tick at hand; `expiry` says that they are those by which panes end.
    pub fn feed(&mut self, input: usize, columns: &[ArrayRef], diffs: &[i64], expiry: bool) {
        self.touched |= !diffs.is_empty();
        let rows = self.encoders[input].encode(columns, diffs.len());
        let input = &mut self.inputs[input];
        let moment = *input.time() + Moment::from(!expiry);
        for (row, diff) in rows.into_iter().zip(diffs) {
            input.update_at(row, moment, *diff);
        }
    }

    /// Declares that nothing more comes at or before `tick`.
    pub fn close_tick(&mut self, tick: Tick) {
        for input in &mut self.inputs {
            input.advance_to(expiry_of(tick + 1));
            input.flush();
        }
    }

    pub fn is_complete(&self, tick: Tick) -> bool {
        !self.probe.less_equal(&rest_of(tick))
    }

    /// Whether more was made at this tick than may be: then the graph is of no use any more, on no worker.
    pub fn is_spent(&self) -> bool {
        self.meter.is_spent()
    }

    /// Drops the dataflow at once, with all that is in flight; what it showed before can still be read.
    pub fn abort(&mut self, worker: &mut Worker) {
        worker.drop_dataflow(self.dataflow);
        self.inputs.clear();
        self.watch = Watch::default();
        self.changes.borrow_mut().clear();
        let _ = self.take_errors();
        self.figures.clear();
    }

    /// Tells what the operators have done, if that is new and was not told just now.
    pub fn tell(&mut self) {
        if !self.news.is_due() {
            return;
        }
        self.figures
            .set(self.worker, self.watch.figures(&self.busy).into_iter());
    }

    /// What this worker's share of the result changed since the last call; the flag says that panes ended.
    pub fn take_changes(&mut self) -> Vec<(RecordBatch, Vec<i64>, bool)> {
        let changes = std::mem::take(&mut *self.changes.borrow_mut());
        let (expired, rest): (Vec<Reported>, Vec<Reported>) =
            changes.into_iter().partition(|(_, moment, _)| moment % 2 == 0);
        let mut taken = Vec::new();
        for (changes, expiry) in [(rest, false), (expired, true)] {
            if !changes.is_empty() {
                let rows: Vec<(Row, i64)> = changes.into_iter().map(|(row, _, diff)| (row, diff)).collect();
                let (batch, diffs) = self.decoded(&rows);
                taken.push((batch, diffs, expiry));
            }
        }
        taken
    }

    /// On what expressions failed since the last call.
    pub fn take_errors(&mut self) -> RowErrors {
        std::mem::replace(&mut *self.errors.borrow_mut(), RowErrors::of_groups())
    }

    fn decoded(&self, rows: &[(Row, i64)]) -> (RecordBatch, Vec<i64>) {
        decoded(&self.decoder, rows)
    }

    /// Begins to read the rows of a path, of this worker's share, at `tick`, which must not lie below the compaction
    /// frontier now.
    pub fn walk(&mut self, path: Path, tick: Tick) -> RowWalk {
        // The empty frontier never cuts a batch; times are filtered while reading.
        let batches = self
            .result
            .batches_through(Antichain::new().borrow())
            .expect("invariant: an empty frontier is never cut");
        RowWalk {
            walk: Walk::new(cursor_list(batches), path),
            decoder: Rc::clone(&self.decoder),
            tick,
        }
    }

    /// Allows times below `since` to be merged.
    pub fn compact(&mut self, since: Tick) {
        let frontier = [expiry_of(since)];
        self.result.set_logical_compaction(AntichainRef::new(&frontier));
        self.result.set_physical_compaction(AntichainRef::new(&frontier));
    }
}

fn decoded(decoder: &Codec, rows: &[(Row, i64)]) -> (RecordBatch, Vec<i64>) {
    let batch = decoder.decode(rows.iter().map(|(row, _)| &**row));
    (batch, rows.iter().map(|(_, diff)| *diff).collect())
}

/// Reads a result at one tick, in steps.
pub(crate) struct RowWalk {
    walk: Walk<CursorList<BatchCursor<RowTrace>>>,
    decoder: Rc<Codec>,
    tick: Tick,
}

impl RowWalk {
    /// Goes on as long as there is fuel and `visit` says so; whether the end is reached.
    pub fn advance(&mut self, fuel: &mut Fuel, mut visit: impl FnMut(&Row, i64) -> bool) -> bool {
        let until = rest_of(self.tick);
        self.walk.advance(fuel, |cursor, storage, row| {
            let mut count = 0;
            cursor.map_times(storage, |time, diff| {
                if *time <= until {
                    count += *diff;
                }
            });
            count == 0 || visit(row, count)
        })
    }

    pub fn decoded(&self, rows: &[(Row, i64)]) -> (RecordBatch, Vec<i64>) {
        decoded(&self.decoder, rows)
    }
}

impl Drop for RunningGraph {
    fn drop(&mut self) {
        self.busy.forget(self.operators.clone());
    }
}

/// Hands every change of the result to `changes`, and lets `probe` follow.
fn report<'s>(
    stream: &timely::dataflow::Stream<'s, Tick, Vec<differential_dataflow::trace::SpanOf<RowTrace>>>,
    changes: &Rc<RefCell<Vec<Reported>>>,
    probe: &ProbeHandle<Tick>,
) {
    let changes = Rc::clone(changes);
    let reported = stream
        .clone()
        .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
            OnThisWorker,
            "changes",
            move |_capability, _info| {
                move |input, _output| {
                    input.for_each(|_capability, spans| {
                        let batches: Vec<_> = spans.drain(..).filter_map(|span| span.inner).collect();
                        let (mut cursor, storage) = cursor_list(batches);
                        let mut changes = changes.borrow_mut();
                        while let Some(row) = cursor.get_key(&storage) {
                            cursor.map_times(&storage, |moment, diff| {
                                changes.push((row.clone(), *moment, *diff))
                            });
                            cursor.step_key(&storage);
                        }
                    });
                }
            },
        );
    reported.probe_with(probe);
}
