//! Sessions: rows of a key that lie close together in time.
//!
//! Time is cut into days, and each day into buckets as wide as the gap, so that rows of one bucket are always in one
//! session. What is arranged is an accumulator for each bucket of a *partition*, a key on a day; it has all times of its
//! rows, of which the least and the greatest decide whether it goes on the session of the bucket before. When a
//! partition is touched its buckets are read, and the sessions that are not as they were are taken back and given anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::row::RowConverter;
use differential_dataflow::AsCollection;
use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::cursor::{Cursor, cursor_list};
use differential_dataflow::trace::implementations::ord_neu::OrdValSpine;
use differential_dataflow::trace::{BatchCursor, SpanOf, TraceReader};
use pyflare_operators::aggregate::{Accumulator, Cell};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline as OnThisWorker;
use timely::dataflow::operators::generic::operator::Operator as _;
use timely::progress::frontier::Antichain;

use super::fold::{FoldReader, Shown};
use super::operators::{Building, CHECKED};
use super::rows::{Row, Rows};
use super::{Node, Sessions};
use crate::plan::DAY_US;
use crate::render::arrange::Diff;
use crate::render::tap::converter;
use crate::time::Tick;

type Bucket = i64;
type BucketTrace = TraceAgent<OrdValSpine<Row, Bucket, Tick, Diff>>;
type BucketBatch = <BucketTrace as TraceReader>::Batch;
type BucketCursor = differential_dataflow::trace::cursor::CursorList<BatchCursor<BucketTrace>>;

/// What the bucket at the end of an encoded key takes: whether it is NULL, and eight bytes.
const BUCKET_BYTES: usize = 9;

impl<'s> Building<'s, '_> {
    pub(super) fn sessions(
        &self,
        rows: Rows<'s>,
        number: usize,
        below: &Node,
        sessions: &Arc<Sessions>,
    ) -> Rows<'s> {
        let fold = &sessions.fold;
        let numbers = [DataType::Int64, DataType::Int64];
        let keys = converter(fold.key_types.iter().chain(&numbers)).expect(CHECKED);
        let gap_us = sessions.gap_us;
        let make_keys = Box::new(move |arrays| with_buckets(arrays, gap_us));
        let accumulated = self.accumulated(rows, below, fold, (keys, make_keys), |key| {
            let (partition, bucket) = key.split_at(key.len() - BUCKET_BYTES);
            (Row::from(partition), bucket_of(bucket))
        });
        let arranged = accumulated.arrange_by_key_named("buckets");
        self.watch
            .borrow_mut()
            .keeps(number, below.number, &arranged.trace);
        let mut merging = Merging {
            trace: arranged.trace.clone(),
            seen: Antichain::from_elem(0),
            upper: Antichain::from_elem(0),
            gap_us,
        };
        let reader = SessionReader {
            reader: FoldReader::new(fold, self.errors),
            partitions: converter(fold.key_types.iter().chain(&numbers[..1])).expect(CHECKED),
            keys: fold.key_types.len(),
            gap_us,
        };
        let Some(leaf) = sessions.final_by else {
            let rows = arranged
                .stream
                .unary::<CapacityContainerBuilder<Vec<Update>>, _, _, _>(
                    OnThisWorker,
                    "merge buckets",
                    move |_capability, _info| {
                        move |input, output| {
                            input.for_each(|capability, spans| {
                                let changes = merging.changes(spans);
                                if !changes.is_empty() {
                                    let updates = reader.updates(&changes);
                                    output.session(&capability).give_iterator(updates.into_iter());
                                }
                            });
                            merging.forget();
                        }
                    },
                );
            return rows.as_collection();
        };
        let withheld = self.withheld(leaf);
        let rows = arranged
            .stream
            .unary_frontier::<CapacityContainerBuilder<Vec<Update>>, _, _, _>(
                OnThisWorker,
                "merge buckets to the watermark",
                move |capability, _info| {
                    let mut capability = Some(capability);
                    move |(input, frontier), output| {
                        let mut withheld = withheld.borrow_mut();
                        let mut shown = Vec::new();
                        input.for_each(|_capability, spans| {
                            for change in merging.changes(spans) {
                                let end_us = change.session.last_us.saturating_add(gap_us);
                                let updates = reader.updates(std::slice::from_ref(&change));
                                shown.extend(withheld.take(end_us, updates));
                            }
                        });
                        merging.forget();
                        let frontier = frontier.frontier().first().copied();
                        shown.extend(withheld.due(frontier));
                        if let Some(held) = &capability
                            && !shown.is_empty()
                        {
                            output.session(held).give_iterator(shown.into_iter());
                        }
                        match frontier {
                            Some(moment) => {
                                if let Some(held) = &mut capability {
                                    held.downgrade(&moment);
                                }
                            }
                            None => capability = None,
                        }
                    }
                },
            );
        rows.as_collection()
    }
}

/// A row, when it changed, and by how much.
type Update = (Row, Tick, i64);

/// Follows the arrangement of buckets.
struct Merging {
    trace: BucketTrace,
    seen: Antichain<Tick>,
    upper: Antichain<Tick>,
    gap_us: i64,
}

impl Merging {
    /// The sessions that these spans change.
    fn changes(&mut self, spans: &mut Vec<SpanOf<BucketTrace>>) -> Vec<Change> {
        self.seen.clone_from(&self.upper);
        let mut batches = Vec::new();
        for span in spans.drain(..) {
            self.upper.clone_from(span.upper());
            batches.extend(span.inner);
        }
        if batches.is_empty() {
            return Vec::new();
        }
        let before = self
            .trace
            .batches_through(self.seen.borrow())
            .expect("invariant: seen is a batch boundary");
        touched(batches, before, self.gap_us)
    }

    /// Lets what was seen be merged.
    fn forget(&mut self) {
        self.trace.advance_upper(&mut self.upper);
        self.trace.set_logical_compaction(self.upper.borrow());
        self.trace.set_physical_compaction(self.upper.borrow());
    }
}

/// Keys whose last one is the time, with day and bucket in its place; rows without a time have no key.
fn with_buckets(mut keys: Vec<ArrayRef>, gap_us: i64) -> (Vec<ArrayRef>, Option<BooleanArray>) {
    let times = keys.pop().expect("invariant: the time is the last key");
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let days: Int64Array = times.unary(|time| time.div_euclid(DAY_US));
    let buckets: Int64Array = times.unary(|time| time.rem_euclid(DAY_US) / gap_us);
    keys.extend([Arc::new(days) as ArrayRef, Arc::new(buckets) as ArrayRef]);
    let with_time =
        (times.null_count() > 0).then(|| (0..times.len()).map(|row| Some(times.is_valid(row))).collect());
    (keys, with_time)
}

/// The bucket that is encoded so.
fn bucket_of(encoded: &[u8]) -> Bucket {
    let number = encoded[1..].try_into().map(u64::from_be_bytes);
    let number = number.expect("invariant: a number is eight bytes behind the first");
    (number ^ 1 << 63).cast_signed()
}

/// A session of a partition: from which to which bucket, and the times of its first and its last row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    buckets: (Bucket, Bucket),
    first_us: i64,
    last_us: i64,
}

/// A session that is there since a tick (1), or not any more (−1).
struct Change {
    partition: Row,
    session: Session,
    accumulator: Accumulator,
    tick: Tick,
    sign: i64,
}

type Buckets = BTreeMap<Bucket, Accumulator>;

/// The sessions that a partition's buckets are.
fn sessions_of(buckets: &Buckets, gap_us: i64) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    for (bucket, accumulator) in buckets {
        let times = match accumulator.cells.first() {
            Some(Cell::Extremes(times)) => times.numbers(),
            _ => None,
        };
        // Without a time something was taken back before it came: it is on its way at this tick.
        let Some((first_us, last_us)) = times else {
            continue;
        };
        match sessions.last_mut() {
            Some(session) if first_us - session.last_us < gap_us => {
                session.buckets.1 = *bucket;
                session.last_us = last_us;
            }
            _ => sessions.push(Session {
                buckets: (*bucket, *bucket),
                first_us,
                last_us,
            }),
        }
    }
    sessions
}

/// What the updates of `batches` change, given what there was before.
fn touched(batches: Vec<BucketBatch>, before: Vec<BucketBatch>, gap_us: i64) -> Vec<Change> {
    let (mut cursor, storage) = cursor_list(batches);
    let (mut old_cursor, old_storage) = cursor_list(before);
    let mut changes = Vec::new();
    while let Some(partition) = cursor.get_key(&storage) {
        let mut buckets = Buckets::new();
        old_cursor.seek_key(&old_storage, partition);
        if old_cursor.get_key(&old_storage) == Some(partition) {
            values(&mut old_cursor, &old_storage, |bucket, _, added| {
                add(&mut buckets, bucket, added);
            });
        }
        let mut by_tick: BTreeMap<Tick, Vec<(Bucket, Accumulator)>> = BTreeMap::new();
        values(&mut cursor, &storage, |bucket, tick, added| {
            by_tick.entry(tick).or_default().push((bucket, added.clone()));
        });
        let mut old = sessions_of(&buckets, gap_us);
        for (tick, added) in by_tick {
            let mut was: BTreeMap<Bucket, Option<Accumulator>> = BTreeMap::new();
            for (bucket, added) in &added {
                was.entry(*bucket).or_insert_with(|| buckets.get(bucket).cloned());
                add(&mut buckets, *bucket, added);
            }
            let new = sessions_of(&buckets, gap_us);
            let mut change = |session: &Session, accumulator, sign| {
                changes.push(Change {
                    partition: partition.clone(),
                    session: *session,
                    accumulator,
                    tick,
                    sign,
                });
            };
            let is_touched = |session: &Session| {
                let (from, to) = session.buckets;
                was.range(from..=to).next().is_some()
            };
            for session in old.iter().filter(|old| is_touched(old) || !holds(&new, old)) {
                let (from, to) = session.buckets;
                let untouched = buckets
                    .range(from..=to)
                    .filter(|(bucket, _)| !was.contains_key(bucket));
                let mut sum = sum(untouched.map(|(_, accumulator)| accumulator));
                was.range(from..=to)
                    .filter_map(|(_, was)| was.as_ref())
                    .for_each(|was| sum.add(was));
                change(session, sum, -1);
            }
            for session in new.iter().filter(|new| is_touched(new) || !holds(&old, new)) {
                let (from, to) = session.buckets;
                let sum = sum(buckets.range(from..=to).map(|(_, accumulator)| accumulator));
                change(session, sum, 1);
            }
            old = new;
        }
        cursor.step_key(&storage);
    }
    changes
}

/// Whether a session is among those of a partition, which are in order.
fn holds(sessions: &[Session], session: &Session) -> bool {
    let place = sessions.binary_search_by_key(&session.buckets.0, |other| other.buckets.0);
    place.is_ok_and(|place| sessions[place] == *session)
}

fn sum<'a>(accumulators: impl Iterator<Item = &'a Accumulator>) -> Accumulator {
    let mut sum = Accumulator::default();
    accumulators.for_each(|accumulator| sum.add(accumulator));
    sum
}

fn add(buckets: &mut Buckets, bucket: Bucket, added: &Accumulator) {
    let sum = buckets.entry(bucket).or_default();
    sum.add(added);
    if sum.is_zero() {
        buckets.remove(&bucket);
    }
}

/// Every bucket of the cursor's partition, with each of its updates.
fn values(
    cursor: &mut BucketCursor,
    storage: &Vec<BucketBatch>,
    mut visit: impl FnMut(Bucket, Tick, &Accumulator),
) {
    while let Some(bucket) = cursor.get_val(storage) {
        cursor.map_times(storage, |tick, diff| visit(*bucket, *tick, &diff.0));
        cursor.step_val(storage);
    }
}

struct SessionReader {
    reader: FoldReader,
    /// Of the keys and the day.
    partitions: RowConverter,
    keys: usize,
    gap_us: i64,
}

impl SessionReader {
    fn updates(&self, changes: &[Change]) -> Vec<Update> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.keys + 2);
        if self.keys > 0 {
            let partitions: Vec<&[u8]> = changes.iter().map(|change| &*change.partition).collect();
            columns.extend(self.reader.keys(&self.partitions, &partitions));
            columns.truncate(self.keys);
        }
        let times = |time: &dyn Fn(&Session) -> i64| -> ArrayRef {
            let times = changes.iter().map(|change| time(&change.session));
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
        };
        columns.push(times(&|session| session.first_us));
        columns.push(times(&|session| session.last_us.saturating_add(self.gap_us)));
        let shown: Vec<Shown<'_>> = changes
            .iter()
            .map(|change| (&change.accumulator, change.tick, change.sign))
            .collect();
        self.reader.rows(columns, &shown)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::datatypes::TimeUnit;
    use pyflare_operators::aggregate::{CellKind, Combiner};

    use super::*;

    const MINUTE: i64 = 60_000_000;

    #[test]
    fn the_bucket_is_read_as_it_was_encoded() {
        let numbers = vec![i64::MIN, -2, 0, 1, 86_400, i64::MAX];
        let column: ArrayRef = Arc::new(Int64Array::from(numbers.clone()));
        let rows = converter(&[DataType::Int64])
            .unwrap()
            .convert_columns(&[column])
            .unwrap();
        let read: Vec<i64> = rows.iter().map(|row| bucket_of(row.as_ref())).collect();
        assert_eq!(read, numbers);
        assert!(rows.iter().all(|row| row.as_ref().len() == BUCKET_BYTES));
    }

    #[test]
    fn buckets_begin_with_their_day() {
        let times = TimestampMicrosecondArray::from(vec![
            Some(-1),
            Some(0),
            None,
            Some(DAY_US - 1),
            Some(DAY_US + 7 * MINUTE),
        ]);
        let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
        assert!(matches!(
            times.data_type(),
            DataType::Timestamp(TimeUnit::Microsecond, _)
        ));
        let (keys, with_time) = with_buckets(vec![times], 7 * MINUTE);
        let numbers = |place: usize| {
            let column: &Int64Array = keys[place].as_primitive();
            column.iter().collect::<Vec<_>>()
        };
        assert_eq!(numbers(0), [Some(-1), Some(0), None, Some(0), Some(1)]);
        assert_eq!(numbers(1), [Some(205), Some(0), None, Some(205), Some(1)]);
        assert_eq!(with_time.unwrap().false_count(), 1);
    }

    /// Against rows one by one.
    #[test]
    fn sessions_of_buckets_are_those_of_their_rows() {
        let gap = 10;
        for seed in 0..500_u64 {
            let mut state = seed.wrapping_mul(6_364_136_223_846_793_005) + 1;
            let mut draw = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(7);
                (state >> 33) % below
            };
            let count = draw(12);
            let mut times: Vec<i64> = (0..count).map(|_| draw(120) as i64).collect();
            let mut buckets = Buckets::new();
            for time in &times {
                let mut combiner = Combiner::new(vec![CellKind::Extremes]);
                let input: ArrayRef = Arc::new(Int64Array::from(vec![*time]));
                combiner
                    .fold(&1_usize, &[Some(input)], None, 1, &mut Vec::new())
                    .unwrap();
                combiner.drain(|_, accumulator| add(&mut buckets, time / gap, &accumulator));
            }
            times.sort_unstable();
            let mut expected: Vec<(i64, i64)> = Vec::new();
            for time in times {
                match expected.last_mut() {
                    Some((_, last)) if time - *last < gap => *last = time,
                    _ => expected.push((time, time)),
                }
            }
            let found: Vec<(i64, i64)> = sessions_of(&buckets, gap)
                .iter()
                .map(|session| (session.first_us, session.last_us))
                .collect();
            assert_eq!(found, expected, "seed {seed}");
        }
    }
}
