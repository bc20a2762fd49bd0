//! The end of the stateless part: a tick's rows become one accumulator per (pane, key).
//!
//! A tap belongs to one base and one worker. It reads the worker's share of a tick's batches, leaves out late rows
//! (a pure function of the row's pane and its stream's mark before the tick) and rows on which an expression fails,
//! and folds the rest. Between ticks only that is kept which a condition on `now()` asks for later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use pyflare_operators::aggregate::{Accumulator, CellKind, Combiner};

use super::arrange::pane_of;
use super::key::Key;
use super::leaf::{Base, Direct};
use super::left_out::{LateRows, LeftOut, project_of};
use super::pipeline::{Flow, batch_of, evaluate, evaluate_all};
use super::shared_batch::{Chosen, SharedBatch};
use crate::plan::PlanError;
use crate::time::{Recency, Tick, tick_us, window_start};

pub(crate) struct Tap {
    base: Arc<Base>,
    converter: RowConverter,
    combiner: Combiner,
    waiting: Waiting,
    /// One; minus one where rows are taken back.
    weight: i64,
}

/// What a condition on `now()` asks for later only, by the moment from which it does.
pub(crate) type Waiting = BTreeMap<i64, WaitingGroups>;

/// What waits for one moment.
pub(crate) struct WaitingGroups {
    combiner: Combiner,
    /// What was taken out of the combiner by a checkpoint, or read from one.
    settled: HashMap<Key, Accumulator>,
}

impl WaitingGroups {
    pub fn new(kinds: &[CellKind]) -> WaitingGroups {
        WaitingGroups {
            combiner: Combiner::new(kinds.to_vec()),
            settled: HashMap::new(),
        }
    }

    pub fn add(&mut self, key: Key, accumulator: Accumulator) {
        match self.settled.entry(key) {
            Entry::Vacant(place) => drop(place.insert(accumulator)),
            Entry::Occupied(mut sum) => sum.get_mut().add(&accumulator),
        }
    }

    /// All of it so far.
    fn settle(&mut self) -> &HashMap<Key, Accumulator> {
        let mut folded = Vec::new();
        self.combiner
            .drain(|key, accumulator| folded.push((Key::from(key), accumulator)));
        for (key, accumulator) in folded {
            self.add(key, accumulator);
        }
        &self.settled
    }

    fn groups(&self) -> u64 {
        (self.combiner.groups() + self.settled.len()) as u64
    }
}

/// When rows came.
#[derive(Clone, Copy)]
pub(crate) struct Admitted {
    pub tick: Tick,
    /// Their stream's mark before it.
    pub mark_us: Option<i64>,
}

/// Encodes a key: the pane, then the group.
pub(crate) fn key_converter(base: &Base) -> Result<RowConverter, PlanError> {
    converter(std::iter::once(&DataType::Int64).chain(&base.key_types))
}

/// Encodes the group alone. Its encoding is the key's without the pane in front.
pub(crate) fn group_converter(base: &Base) -> Result<RowConverter, PlanError> {
    converter(&base.key_types)
}

/// Encodes columns of these types as bytes that compare as the rows do.
pub(crate) fn converter<'a>(
    types: impl IntoIterator<Item = &'a DataType>,
) -> Result<RowConverter, PlanError> {
    let fields = types
        .into_iter()
        .map(|data_type| SortField::new(data_type.clone()))
        .collect();
    RowConverter::new(fields).map_err(|error| PlanError::Unsupported {
        detail: format!("a key of these types: {error}"),
    })
}

impl Tap {
    pub fn new(base: Arc<Base>) -> Result<Tap, PlanError> {
        let converter = key_converter(&base)?;
        let combiner = Combiner::new(base.cells.kinds.clone());
        Ok(Tap {
            base,
            converter,
            combiner,
            waiting: BTreeMap::new(),
            weight: 1,
        })
    }

    /// One that sums up what rows, which were folded before, take with them when they go.
    pub fn taking_back(base: Arc<Base>) -> Result<Tap, PlanError> {
        Ok(Tap {
            weight: -1,
            ..Tap::new(base)?
        })
    }

    /// Folds one batch, whose rows' event time is `event_time`.
    pub fn fold(
        &mut self,
        shared: &mut SharedBatch<'_>,
        event_time: &ArrayRef,
        at: Admitted,
        left_out: &mut LeftOut,
    ) {
        if self.weight < 0 {
            let mut here = LeftOut::default();
            self.fold_rows(shared, event_time, at, &mut here);
            left_out.take_back(here);
            return;
        }
        self.fold_rows(shared, event_time, at, left_out);
    }

    fn fold_rows(
        &mut self,
        shared: &mut SharedBatch<'_>,
        event_time: &ArrayRef,
        at: Admitted,
        left_out: &mut LeftOut,
    ) {
        let base = Arc::clone(&self.base);
        let source = shared.select(&base.source_columns, base.below_input());
        if source.num_rows() == 0 {
            return;
        }
        let late = base.rule.late_before(at.mark_us);
        if let Some((source, event_time)) =
            late.and_then(|before| self.timely(before, &source, event_time, left_out))
        {
            let panes = base.panes(&event_time);
            self.fold_copy(shared, (source, panes), at, None, left_out);
            return;
        }
        if let Some(recency) = base.recency {
            for (moment, source, event_time) in by_moment(recency, at.tick, &source, event_time) {
                let panes = base.panes(&event_time);
                self.fold_copy(shared, (source, panes), at, moment, left_out);
            }
            return;
        }
        let direct = base.direct.as_ref();
        let folded =
            direct.and_then(|direct| self.fold_direct(direct, shared, &source, event_time, at, left_out));
        if folded.is_none() {
            let panes = base.panes(event_time);
            self.fold_copy(shared, (source, panes), at, None, left_out);
        }
    }

    /// The rows whose time is not before the watermark, if others are among them; those are counted as late.
    fn timely(
        &self,
        before_us: i64,
        source: &RecordBatch,
        event_time: &ArrayRef,
        left_out: &mut LeftOut,
    ) -> Option<(RecordBatch, ArrayRef)> {
        let times = event_time.as_primitive::<TimestampMicrosecondType>();
        let is_late: BooleanArray = times
            .values()
            .iter()
            .map(|time| Some(*time < before_us))
            .collect();
        if is_late.true_count() == 0 {
            return None;
        }
        let chosen = |mask: &BooleanArray| {
            let rows = filter_record_batch(source, mask).expect("invariant: equal lengths");
            (rows, filter(event_time, mask).expect("invariant: equal lengths"))
        };
        let (late, times) = chosen(&is_late);
        let panes = self.base.panes(&times);
        let flow = Flow {
            batch: late,
            carried: panes,
        };
        let flow = self.base.below.run(flow, &mut left_out.errors);
        drop_late(flow, Some(i64::MAX), &mut left_out.late);
        let in_time = arrow::compute::not(&is_late).expect("invariant: a mask without NULL");
        Some(chosen(&in_time))
    }

    /// Folds the rows that count where they are; `None` if the batch has rows that must be told apart one by one.
    fn fold_direct(
        &mut self,
        direct: &Direct,
        shared: &mut SharedBatch<'_>,
        source: &RecordBatch,
        event_time: &ArrayRef,
        at: Admitted,
        left_out: &mut LeftOut,
    ) -> Option<()> {
        let base = Arc::clone(&self.base);
        let late_until = base.rule.late_until(at.mark_us);
        let panes = match &direct.window {
            Some((time, size_us)) => shared.panes(source.column_by_name(time)?, *size_us),
            None => shared.panes(event_time, base.rule.pane_us),
        }?;
        if late_until.is_some_and(|until| panes.lowest <= until) {
            return None;
        }
        let chosen = shared.chosen(&direct.text, &direct.conditions, source)?;
        let rows = match &chosen {
            Chosen::All => None,
            Chosen::Rows(rows) if rows.is_empty() => return Some(()),
            Chosen::Rows(rows) => Some(rows.as_slice()),
        };
        let mut columns = source.columns().to_vec();
        if direct.window.is_some() {
            columns.extend([Arc::clone(&panes.starts), Arc::clone(&panes.ends)]);
        }
        let batch = batch_of(base.below.schema(), columns, source.num_rows());
        let mut arrays = evaluate_all(base.expressions(), &batch).ok()?;
        let rest = arrays.split_off(base.key_types.len());
        self.fold_keys(
            shared,
            (Arc::clone(&panes.panes), arrays),
            rest,
            (&batch, rows),
            None,
            left_out,
        );
        Some(())
    }

    /// Runs the chain over a copy of the rows that are left after each step; `moment` is when they appear.
    fn fold_copy(
        &mut self,
        shared: &mut SharedBatch<'_>,
        (batch, carried): (RecordBatch, Int64Array),
        at: Admitted,
        moment: Option<i64>,
        left_out: &mut LeftOut,
    ) {
        let base = Arc::clone(&self.base);
        let flow = base.below.run(Flow { batch, carried }, &mut left_out.errors);
        let flow = drop_late(flow, base.rule.late_until(at.mark_us), &mut left_out.late);
        if flow.batch.num_rows() == 0 {
            return;
        }
        let (mut arrays, flow) = evaluate(base.expressions(), flow, &mut left_out.errors);
        let rest = arrays.split_off(base.key_types.len());
        let panes: ArrayRef = Arc::new(flow.carried);
        self.fold_keys(
            shared,
            (panes, arrays),
            rest,
            (&flow.batch, None),
            moment,
            left_out,
        );
    }

    fn fold_keys(
        &mut self,
        shared: &mut SharedBatch<'_>,
        (panes, keys): (ArrayRef, Vec<ArrayRef>),
        rest: Vec<ArrayRef>,
        (batch, rows): (&RecordBatch, Option<&[u32]>),
        moment: Option<i64>,
        left_out: &mut LeftOut,
    ) {
        let arrays = std::iter::once(panes)
            .chain(keys.into_iter().map(normalise))
            .collect();
        let (grouping, numbering) = shared.grouping(&self.converter, arrays);
        let inputs = self.base.cells.inputs(rest);
        let mut bad_rows = Vec::new();
        let combiner = match moment {
            None => &mut self.combiner,
            Some(moment) => {
                let groups = self.waiting.entry(moment);
                &mut groups
                    .or_insert_with(|| WaitingGroups::new(&self.base.cells.kinds))
                    .combiner
            }
        };
        combiner
            .fold_rows(
                &grouping.rows,
                numbering.as_deref(),
                &inputs,
                rows,
                self.weight,
                &mut bad_rows,
            )
            .expect("invariant: the cells were planned for these inputs");
        for bad in bad_rows {
            let project = project_of(batch, bad.row);
            left_out.errors.record(project, 1, bad);
        }
    }

    /// Hands over the tick's accumulators, and those whose moment has come unless their pane has ended by `until`.
    pub fn drain(&mut self, tick: Tick, until: Option<i64>, mut visit: impl FnMut(Key, Accumulator)) {
        self.combiner
            .drain(|key, accumulator| visit(Key::from(key), accumulator));
        while let Some(moment) = self.waiting.first_entry()
            && *moment.key() <= tick_us(tick)
        {
            let mut waited = moment.remove();
            waited.settle();
            for (key, accumulator) in waited.settled {
                if !accumulator.is_zero() && until.is_none_or(|until| pane_of(&key) > until) {
                    visit(key, accumulator);
                }
            }
        }
    }

    /// The moment, microseconds, at which the next rows appear that are there already.
    pub fn next_appearance(&self) -> i64 {
        self.waiting
            .first_key_value()
            .map_or(i64::MAX, |(moment, _)| *moment)
    }

    /// Groups that were folded and not drained yet.
    pub fn groups(&self) -> u64 {
        self.combiner.groups() as u64 + self.waiting()
    }

    /// Hands over what waits for its moment.
    pub fn take_waiting(&mut self) -> Waiting {
        std::mem::take(&mut self.waiting)
    }

    /// Adds what another tap of the same base has waiting.
    pub fn adopt(&mut self, waiting: Waiting) {
        for (moment, mut other) in waiting {
            other.settle();
            let kinds = &self.base.cells.kinds;
            let here = self.waiting.entry(moment);
            let here = here.or_insert_with(|| WaitingGroups::new(kinds));
            for (key, accumulator) in other.settled {
                here.add(key, accumulator);
            }
        }
    }

    /// Groups that wait for their moment.
    pub fn waiting(&self) -> u64 {
        self.waiting.values().map(WaitingGroups::groups).sum()
    }

    /// Everything that waits: its moment, key and accumulator.
    pub fn visit_waiting(&mut self, mut visit: impl FnMut(i64, &Key, &Accumulator)) {
        for (moment, waiting) in &mut self.waiting {
            for (key, accumulator) in waiting.settle() {
                visit(*moment, key, accumulator);
            }
        }
    }
}

/// The rows that are asked for at the tick or later, by the moment from which they are; `None`: at once.
fn by_moment(
    recency: Recency,
    tick: Tick,
    source: &RecordBatch,
    event_time: &ArrayRef,
) -> Vec<(Option<i64>, RecordBatch, ArrayRef)> {
    let times = event_time.as_primitive::<TimestampMicrosecondType>();
    let now = tick_us(tick);
    let moments: Vec<Option<i64>> = times
        .values()
        .iter()
        .map(|time| {
            let appears = recency.appears_at(*time).max(now);
            (appears < recency.leaves_at(*time)).then_some(appears)
        })
        .collect();
    let distinct: BTreeSet<i64> = moments.iter().flatten().copied().collect();
    let of_moment = |moment: i64| {
        let later = (moment > now).then_some(moment);
        if moments.iter().all(|found| *found == Some(moment)) {
            return (later, source.clone(), Arc::clone(event_time));
        }
        let mask: BooleanArray = moments.iter().map(|found| Some(*found == Some(moment))).collect();
        let rows = filter_record_batch(source, &mask).expect("invariant: equal lengths");
        let times = filter(event_time, &mask).expect("invariant: equal lengths");
        (later, rows, times)
    };
    distinct.into_iter().map(of_moment).collect()
}

impl Base {
    /// The pane of each row, as far as the event time decides it.
    fn panes(&self, event_time: &ArrayRef) -> Int64Array {
        if self.windowed {
            return Int64Array::from(vec![0; event_time.len()]);
        }
        let times = event_time.as_primitive::<TimestampMicrosecondType>();
        let panes = times.values().iter().map(|time| match self.recency {
            Some(recency) if self.rule.by_tick => recency.leaves_at(*time),
            _ => window_start(*time, self.rule.pane_us).saturating_add(self.rule.pane_us),
        });
        Int64Array::from_iter_values(panes)
    }
}

fn drop_late(flow: Flow, late_until: Option<i64>, late_rows: &mut LateRows) -> Flow {
    let Some(until) = late_until else { return flow };
    let panes = flow.carried.values();
    if panes.iter().all(|pane| *pane > until) {
        return flow;
    }
    for (row, pane) in panes.iter().enumerate().filter(|(_, pane)| **pane <= until) {
        late_rows.add(project_of(&flow.batch, row), *pane, 1);
    }
    let on_time: BooleanArray = flow
        .carried
        .values()
        .iter()
        .map(|pane| Some(*pane > until))
        .collect();
    let batch = filter_record_batch(&flow.batch, &on_time).expect("invariant: equal lengths");
    let carried = filter(&flow.carried, &on_time).expect("invariant: equal lengths");
    Flow {
        batch,
        carried: carried.as_primitive().clone(),
    }
}

/// One bit pattern for zero and one for NaN, so that equal values have equal keys.
pub(crate) fn normalise(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(|value| match value {
                value if value.is_nan() => f64::NAN,
                value => value + 0.0,
            }))
        }
        _ => array,
    }
}
