//! The arrangement of accumulators: all the state a view has.
//!
//! Keys are `pane ‖ group` as memcmp-ordered row bytes, so panes that expire are one range at the front; the
//! accumulator is the differential *diff*, so a group costs one update, however many rows it stands for. Where the
//! result does not show the pane, the arrangement is by the group alone and sums the panes still alive; what each pane
//! holds of it lies beside it ([`Panes`]), to be taken back when the pane ends.
//!
//! Invariants: an accumulator that sums to zero vanishes; after tick `t` is complete, the trace holds exactly the
//! updates of ticks `≤ t`; compaction is advanced from one place (the worker, as told by the coordinator).

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use differential_dataflow::VecCollection;
use differential_dataflow::difference::{Abelian, IsZero, Monoid, Semigroup};
use differential_dataflow::input::{Input, InputSession};
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::cursor::{Cursor, cursor_list};
use differential_dataflow::trace::implementations::spine_fueled::SpineBatch;
use differential_dataflow::trace::implementations::{KeyBatcher, KeySpine};
use differential_dataflow::trace::{BatchCursor, Navigable, TraceReader};
use pyflare_operators::aggregate::Accumulator;
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::Operator;
use timely::progress::frontier::{Antichain, AntichainRef};
use timely::worker::Worker;
use xxhash_rust::xxh3::xxh3_64;

use super::changed::ChangedPanes;
use super::dump::Dump;
use super::key::Key;
use super::leaf::Layout;
use super::panes::Panes;
use super::walk::{Fuel, Path, Walk};
use crate::time::Tick;

/// Bytes of the pane at the front of a key: a validity byte and a big-endian, sign-flipped `i64`.
pub(crate) const PANE_BYTES: usize = 9;

/// What an update takes besides: its key, time, offsets.
const UPDATE_BYTES: u64 = size_of::<Key>() as u64 + 32;

/// The pane at the front of a key.
pub(crate) fn pane_of(key: &[u8]) -> i64 {
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&key[1..PANE_BYTES]);
    bytes[0] ^= 0x80;
    i64::from_be_bytes(bytes)
}

/// An accumulator as a differential difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Diff(pub Accumulator);

impl IsZero for Diff {
    fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl Semigroup for Diff {
    fn plus_equals(&mut self, other: &Self) {
        self.0.add(&other.0);
    }
}

impl Monoid for Diff {
    fn zero() -> Self {
        Diff(Accumulator::zero(&[]))
    }
}

impl Abelian for Diff {
    fn negate(&mut self) {
        self.0.negate();
    }
}

type KeyTrace = TraceAgent<KeySpine<Key, Tick, Diff>>;

/// What happened to one key at one tick.
#[derive(Debug)]
pub(crate) struct Change {
    pub tick: Tick,
    pub key: Key,
    /// The accumulator before the tick; `None` if the key had no rows, and always in [`Layout::Rows`].
    pub old: Option<Accumulator>,
    /// The accumulator after it; in [`Layout::Rows`] what the tick added.
    pub new: Option<Accumulator>,
}

/// One view's dataflow on one worker.
pub(crate) struct ArrangedView {
    input: InputSession<Tick, (Key, ()), Diff>,
    trace: KeyTrace,
    /// Where keys are groups alone.
    panes: Option<Rc<RefCell<Panes>>>,
    /// Every update below this tick is in the trace, and told.
    complete_below: Rc<Cell<Tick>>,
    changes: Rc<RefCell<Vec<Change>>>,
    /// No key of this worker's share has a pane below this; not maintained beside `panes`.
    lowest_pane: Rc<Cell<i64>>,
    touched: bool,
    changed: ChangedPanes,
    /// The last tick that was closed, by rows or what left, and the one up to which times were merged.
    changed_at: Tick,
    compacted: Tick,
    operators: Range<usize>,
    /// Keys that came and their bytes, accumulators included.
    came: (u64, u64),
}

impl ArrangedView {
    /// Builds the dataflow; it takes updates from `start` on. Every worker must do this in the same order.
    pub fn build(worker: &mut Worker, name: &str, layout: Layout, start: Tick) -> ArrangedView {
        let first = worker.peek_identifier();
        let complete_below = Rc::new(Cell::new(0));
        let changes: Rc<RefCell<Vec<Change>>> = Rc::default();
        let lowest_pane = Rc::new(Cell::new(i64::MAX));
        let panes = (layout == Layout::Merged).then(Rc::default);
        let (mut input, trace) = worker.dataflow_named(name, |scope| {
            // As an arrangement without values wants them, which spares an operator.
            let (input, updates) = scope.new_collection::<(Key, ()), Diff>();
            let arranged = match &panes {
                Some(panes) => arrange_groups(updates, Rc::clone(panes)),
                None => updates.arrange_named("panes", KeyBatcher::new),
            };
            let trace = arranged.trace.clone();
            let lowest = panes.is_none().then(|| Rc::clone(&lowest_pane));
            report_changes(arranged, layout, &changes, lowest, &complete_below);
            (input, trace)
        });
        input.advance_to(start);
        input.flush();
        ArrangedView {
            input,
            trace,
            panes,
            complete_below,
            changes,
            lowest_pane,
            touched: false,
            changed: ChangedPanes::All,
            changed_at: start,
            compacted: 0,
            operators: first..worker.peek_identifier(),
            came: (0, 0),
        }
    }

    /// Updates are at `tick` from here on.
    pub fn open_tick(&mut self, tick: Tick) {
        self.input.advance_to(tick);
        self.touched = false;
    }

    /// Whether there were updates at the tick at hand.
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    pub fn update(&mut self, key: Key, accumulator: Accumulator) {
        self.touched = true;
        self.came.0 += 1;
        self.came.1 +=
            (key.heap_bytes() + size_of::<Accumulator>() + size_of_val(&accumulator.cells[..])) as u64;
        self.input.update((key, ()), Diff(accumulator));
    }

    /// Timely's identifiers of its operators.
    pub fn operators(&self) -> Range<usize> {
        self.operators.clone()
    }

    /// Updates that are kept, and roughly their bytes.
    pub fn kept(&self) -> (u64, u64) {
        let mut updates = 0;
        self.trace
            .map_spans(|span| updates += span.inner.as_ref().map_or(0, SpineBatch::len) as u64);
        updates += self.panes.as_ref().map_or(0, |panes| panes.borrow().len()) as u64;
        let (keys, bytes) = self.came;
        (updates, updates * (bytes / keys.max(1) + UPDATE_BYTES))
    }

    /// Declares that nothing more comes at or before `tick`.
    pub fn close_tick(&mut self, tick: Tick) {
        self.changed_at = self.changed_at.max(tick);
        self.input.advance_to(tick + 1);
        self.input.flush();
    }

    pub fn is_complete(&self, tick: Tick) -> bool {
        self.complete_below.get() > tick
    }

    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.borrow_mut())
    }

    /// No key of this worker's share has a pane below this, as far as is known.
    pub fn lowest_pane(&self) -> i64 {
        match &self.panes {
            Some(panes) => panes.borrow().lowest(),
            None => self.lowest_pane.get(),
        }
    }

    /// The end of the first pane after `after` that has a key on this worker; keys must show the pane.
    pub fn next_pane(&mut self, after: i64) -> Option<i64> {
        debug_assert!(self.panes.is_none(), "keys without a pane");
        let (mut cursor, storage) = cursor_over(&mut self.trace);
        cursor.seek_key(&storage, &first_key_after(after));
        while let Some(key) = cursor.get_key(&storage) {
            let pane = pane_of(key);
            if sum_through(&mut cursor, &storage, Tick::MAX).is_some() {
                return Some(pane);
            }
            cursor.step_key(&storage);
        }
        None
    }

    /// Every key of the panes with `after < end ≤ until` at `tick`, with its accumulator; keys must show the pane.
    pub fn read_panes(
        &mut self,
        after: i64,
        until: i64,
        tick: Tick,
        mut visit: impl FnMut(&Key, Accumulator),
    ) {
        debug_assert!(self.panes.is_none(), "keys without a pane");
        let (mut cursor, storage) = cursor_over(&mut self.trace);
        cursor.seek_key(&storage, &first_key_after(after));
        while let Some(key) = cursor.get_key(&storage).filter(|key| pane_of(key) <= until) {
            if let Some(accumulator) = sum_through(&mut cursor, &storage, tick) {
                visit(key, accumulator);
            }
            cursor.step_key(&storage);
        }
    }

    /// Takes back every pane that ended at or before `until`, at the input's current tick.
    ///
    /// The trace must be complete up to the tick before: then what it holds of those panes is final.
    pub fn expire(&mut self, until: i64) {
        if self.lowest_pane() > until {
            return;
        }
        if let Some(panes) = &self.panes {
            let panes = Rc::clone(panes);
            for (end, group, accumulator) in panes.borrow().until(until) {
                let mut accumulator = accumulator.clone();
                accumulator.negate();
                self.update(key_of(end, group), accumulator);
            }
            return;
        }
        let (mut cursor, storage) = cursor_over(&mut self.trace);
        let mut expired = Vec::new();
        let mut lowest = i64::MAX;
        while let Some(key) = cursor.get_key(&storage) {
            let pane = pane_of(key);
            let accumulator = sum_through(&mut cursor, &storage, Tick::MAX);
            if pane > until {
                if accumulator.is_some() {
                    lowest = pane;
                    break;
                }
            } else if let Some(mut accumulator) = accumulator {
                accumulator.negate();
                expired.push((key.clone(), accumulator));
            }
            cursor.step_key(&storage);
        }
        self.lowest_pane.set(lowest);
        for (key, accumulator) in expired {
            self.update(key, accumulator);
        }
    }

    /// Takes back every key of this worker's share that is wanted, under the same condition; keys must show the pane.
    pub fn take_back(&mut self, wanted: impl Fn(&[u8]) -> bool) {
        debug_assert!(self.panes.is_none(), "keys without a pane");
        let mut found = Vec::new();
        self.read(Tick::MAX, |key, accumulator| {
            if wanted(key) {
                found.push((key.clone(), accumulator));
            }
        });
        for (key, mut accumulator) in found {
            accumulator.negate();
            self.update(key, accumulator);
        }
    }

    /// Every key with rows at `tick`, with its accumulator. `tick` must not lie below the compaction frontier.
    pub fn read(&mut self, tick: Tick, mut visit: impl FnMut(&Key, Accumulator)) {
        let mut walk = self.walk(Path::everything(None), tick);
        walk.advance(&mut Fuel::unlimited(), |key, accumulator| {
            visit(key, accumulator);
            true
        });
    }

    /// Begins to read the keys of a path at `tick`, which must not lie below the compaction frontier now.
    pub fn walk(&mut self, path: Path, tick: Tick) -> GroupWalk {
        GroupWalk {
            walk: Walk::new(cursor_over(&mut self.trace), path),
            tick,
        }
    }

    /// Takes note of the panes that the changes of a tick touched, before they are taken.
    pub fn note_changed(&mut self) {
        match &self.panes {
            Some(panes) => {
                let ends = panes.borrow_mut().take_changed();
                ends.into_iter().for_each(|end| self.changed.add(end));
            }
            None => {
                let mut noted = None;
                for change in self.changes.borrow().iter() {
                    let end = pane_of(&change.key);
                    if noted != Some(end) {
                        self.changed.add(end);
                        noted = Some(end);
                    }
                }
            }
        }
    }

    /// Which panes have changed since this was asked; at first all have.
    pub fn take_changed(&mut self) -> ChangedPanes {
        self.changed.take()
    }

    /// Begins to read what it must be given in these panes to be as it is at `tick`, the last one, when that is complete.
    pub fn dump(&mut self, tick: Tick, wanted: ChangedPanes) -> Dump {
        match &self.panes {
            Some(panes) => Dump::Panes(panes.borrow().shared(|end| wanted.contains(end)).collect()),
            None => {
                let path = Path::everything(wanted.bounds());
                Dump::Keys(self.walk(path, tick), wanted)
            }
        }
    }

    /// Allows times below `since` to be merged.
    pub fn compact(&mut self, since: Tick) {
        // All its times are merged already.
        if self.compacted > self.changed_at {
            return;
        }
        self.compacted = since;
        let frontier = [since];
        self.trace.set_logical_compaction(AntichainRef::new(&frontier));
        self.trace.set_physical_compaction(AntichainRef::new(&frontier));
    }
}

/// Reads keys with their accumulators at one tick, in steps.
pub(crate) struct GroupWalk {
    walk: Walk<KeyCursor>,
    tick: Tick,
}

impl GroupWalk {
    /// Goes on as long as there is fuel and `visit` says so; whether the end is reached.
    pub fn advance(&mut self, fuel: &mut Fuel, mut visit: impl FnMut(&Key, Accumulator) -> bool) -> bool {
        let tick = self.tick;
        self.walk.advance(fuel, |cursor, storage, key| {
            match sum_through(cursor, storage, tick) {
                Some(accumulator) => visit(key, accumulator),
                None => true,
            }
        })
    }
}

/// No key of a pane that ends at or before `pane` lies at or above it.
fn first_key_after(pane: i64) -> Key {
    key_of(pane.saturating_add(1), &[])
}

type KeyCursor = differential_dataflow::trace::cursor::CursorList<BatchCursor<KeyTrace>>;
type KeyBatch = <KeyTrace as TraceReader>::Batch;

fn cursor_over(trace: &mut KeyTrace) -> (KeyCursor, Vec<KeyBatch>) {
    // The empty frontier never cuts a batch; times are filtered while reading.
    let batches = trace
        .batches_through(Antichain::new().borrow())
        .expect("invariant: an empty frontier is never cut");
    cursor_list(batches)
}

/// The sum of the current key's updates up to `tick`; `None` if it is zero.
fn sum_through(cursor: &mut KeyCursor, storage: &Vec<KeyBatch>, tick: Tick) -> Option<Accumulator> {
    let mut sum: Option<Accumulator> = None;
    cursor.map_times(storage, |time, diff| {
        if *time <= tick {
            match sum.as_mut() {
                Some(sum) => sum.add(&diff.0),
                None => sum = Some(diff.0.clone()),
            }
        }
    });
    sum.filter(|sum| !sum.is_zero())
}

/// Arranges updates by group alone, and enters them by pane on the way.
fn arrange_groups<'scope>(
    updates: VecCollection<'scope, Tick, (Key, ()), Diff>,
    panes: Rc<RefCell<Panes>>,
) -> Arranged<'scope, KeyTrace> {
    type Update = ((Key, ()), Tick, Diff);
    let by_group = Exchange::new(|((key, ()), ..): &Update| xxh3_64(&key[PANE_BYTES..]));
    let groups = updates
        .inner
        .unary::<CapacityContainerBuilder<Vec<Update>>, _, _, _>(by_group, "panes", |_, _| {
            move |input, output| {
                input.for_each(|capability, updates| {
                    let mut panes = panes.borrow_mut();
                    let mut session = output.session(&capability);
                    for ((key, ()), tick, diff) in updates.drain(..) {
                        let group = &key[PANE_BYTES..];
                        panes.add(pane_of(&key), group, &diff.0);
                        session.give(((Key::from(group), ()), tick, diff));
                    }
                });
            }
        });
    arrange_core::<_, _, KeyBatcher<Key, Tick, Diff>, KeySpine<Key, Tick, Diff>>(
        groups,
        Pipeline,
        "groups",
        KeyBatcher::new,
    )
}

/// As [`pane_of`] reads it.
pub(crate) fn key_of(pane: i64, group: &[u8]) -> Key {
    Key::joined(&[&[1], &(pane ^ i64::MIN).to_be_bytes(), group])
}

fn lower_to_first_pane(lowest: &Cell<i64>, batches: &[KeyBatch]) {
    for batch in batches {
        // Keys are sorted and lead with the pane.
        if let Some(key) = batch.cursor().get_key(batch) {
            lowest.set(lowest.get().min(pane_of(key)));
        }
    }
}

/// Hands every key's change at every tick to `changes`, and says how far that is complete.
fn report_changes<'scope>(
    arranged: Arranged<'scope, KeyTrace>,
    layout: Layout,
    changes: &Rc<RefCell<Vec<Change>>>,
    lowest: Option<Rc<Cell<i64>>>,
    complete_below: &Rc<Cell<Tick>>,
) {
    let changes = Rc::clone(changes);
    let complete_below = Rc::clone(complete_below);
    let mut trace = arranged.trace.clone();
    let mut seen = Antichain::from_elem(0);
    let mut upper = Antichain::from_elem(0);
    // It is scheduled whenever its frontier moves, so that a probe behind it would say the same.
    arranged
        .stream
        .unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Pipeline,
            "changes",
            move |_capability, _info| {
                move |(input, frontier), _output| {
                    seen.clone_from(&upper);
                    let mut batches = Vec::new();
                    input.for_each(|_capability, spans| {
                        for span in spans.drain(..) {
                            upper.clone_from(span.upper());
                            batches.extend(span.inner);
                        }
                    });
                    if let Some(lowest) = &lowest {
                        lower_to_first_pane(lowest, &batches);
                    }
                    if !batches.is_empty() {
                        let mut changes = changes.borrow_mut();
                        match layout {
                            Layout::Rows => report_rows(batches, &mut changes),
                            Layout::Groups | Layout::Merged => {
                                let before = trace
                                    .batches_through(seen.borrow())
                                    .expect("invariant: seen is a batch boundary");
                                report_groups(batches, before, &mut changes);
                            }
                        }
                    }
                    trace.advance_upper(&mut upper);
                    trace.set_logical_compaction(upper.borrow());
                    trace.set_physical_compaction(upper.borrow());
                    let complete = frontier.frontier().first().copied();
                    complete_below.set(complete.unwrap_or(Tick::MAX));
                }
            },
        );
}

/// Multiplicities are linear: what a tick adds is what changes.
fn report_rows(batches: Vec<KeyBatch>, changes: &mut Vec<Change>) {
    let (mut cursor, storage) = cursor_list(batches);
    while let Some(key) = cursor.get_key(&storage) {
        cursor.map_times(&storage, |time, diff| {
            changes.push(Change {
                tick: *time,
                key: key.clone(),
                old: None,
                new: Some(diff.0.clone()),
            });
        });
        cursor.step_key(&storage);
    }
}

pub(crate) fn report_groups(batches: Vec<KeyBatch>, before: Vec<KeyBatch>, changes: &mut Vec<Change>) {
    let (mut cursor, storage) = cursor_list(batches);
    let (mut old_cursor, old_storage) = cursor_list(before);
    let mut updates: Vec<(Tick, Accumulator)> = Vec::new();
    while let Some(key) = cursor.get_key(&storage) {
        old_cursor.seek_key(&old_storage, key);
        let mut current = match old_cursor.get_key(&old_storage) == Some(key) {
            true => sum_through(&mut old_cursor, &old_storage, Tick::MAX),
            false => None,
        };
        cursor.map_times(&storage, |time, diff| updates.push((*time, diff.0.clone())));
        if let [(tick, _)] = updates[..] {
            // As it nearly always is: one batch of one tick.
            let Some((_, added)) = updates.pop() else { continue };
            let new = match &current {
                None => Some(added),
                Some(old) => {
                    let mut new = added;
                    new.add(old);
                    Some(new)
                }
            };
            changes.push(Change {
                tick,
                key: key.clone(),
                old: current,
                new: new.filter(|sum| !sum.is_zero()),
            });
            cursor.step_key(&storage);
            continue;
        }
        updates.sort_by_key(|(time, _)| *time);
        for (tick, added) in updates.drain(..) {
            let old = current.clone();
            match current.as_mut() {
                Some(current) => current.add(&added),
                None => current = Some(added),
            }
            current = current.filter(|sum| !sum.is_zero());
            match changes.last_mut() {
                // Several updates of one key at one tick are one change.
                Some(last) if last.tick == tick && last.key == *key => last.new = current.clone(),
                _ => changes.push(Change {
                    tick,
                    key: key.clone(),
                    old,
                    new: current.clone(),
                }),
            }
        }
        cursor.step_key(&storage);
    }
}
