//! What peeks read on one worker: a view's content at one tick, a slice at a time, as far as it is wanted.
//!
//! A [`Content`] keeps the batches it began on, so it is exact at its tick whatever ticks, drops and compaction come
//! between its slices. A [`Reading`] leaves out what is not wanted before anything is sent, and ends when nobody waits
//! for it any more.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::DataType;
use pyflare_operators::aggregate::Accumulator;

use super::messages::{PeekRequest, PeekShare};
use super::reading::Wanted;
use super::worker_views::{Views, WorkerLeaf, WorkerView};
use crate::render::Finish;
use crate::render::arrange::GroupWalk;
use crate::render::graph::rows::Row;
use crate::render::graph::running::RowWalk;
use crate::render::key::Key;
use crate::render::left_out::RowErrors;
use crate::render::tap::{converter, normalise};
use crate::render::walk::{Fuel, Path};
use crate::time::Tick;

/// Rows that are decoded at once: about a millisecond of work.
const ROWS_AT_ONCE: usize = 1_024;

/// A part of the content, with multiplicities.
type Part = (RecordBatch, Vec<i64>);

/// A view's content at one tick, as it is read.
pub(super) struct Content {
    source: Source,
    /// Columns of the view in which nothing but wanted values is found.
    sought: Vec<usize>,
    /// Groups whose result is in error.
    errors: RowErrors,
    /// Rows of a part, at most.
    at_once: usize,
}

enum Source {
    Nothing,
    Part(Part),
    Leaf {
        walk: GroupWalk,
        finish: Rc<Finish>,
        entries: Vec<(Key, Accumulator)>,
    },
    Graph {
        walk: RowWalk,
        rows: Vec<(Row, i64)>,
    },
}

impl Content {
    fn of(source: Source, sought: Vec<usize>) -> Content {
        Content {
            source,
            sought,
            errors: RowErrors::of_groups(),
            at_once: ROWS_AT_ONCE,
        }
    }

    /// In parts of at most so many rows.
    pub fn in_parts(self, rows: usize) -> Content {
        Content {
            at_once: rows.clamp(1, ROWS_AT_ONCE),
            ..self
        }
    }

    pub fn nothing() -> Content {
        Content::of(Source::Nothing, Vec::new())
    }

    pub fn of_companion(part: Part) -> Content {
        Content::of(Source::Part(part), Vec::new())
    }

    /// The next part, if there was fuel enough for one; whether the end is reached.
    pub fn advance(&mut self, fuel: &mut Fuel) -> (Option<Part>, bool) {
        let at_once = self.at_once;
        match &mut self.source {
            Source::Nothing => (None, true),
            Source::Part(_) => match std::mem::replace(&mut self.source, Source::Nothing) {
                Source::Part(part) => (Some(part), true),
                _ => (None, true),
            },
            Source::Leaf {
                walk,
                finish,
                entries,
            } => {
                let ended = walk.advance(fuel, |key, accumulator| {
                    entries.push((key.clone(), accumulator));
                    entries.len() < at_once
                });
                if entries.is_empty() || !ended && entries.len() < at_once {
                    return (None, ended);
                }
                let borrowed: Vec<_> = entries
                    .iter()
                    .map(|(key, accumulator)| (&key[..], accumulator, 1))
                    .collect();
                let finished = finish.rows(&borrowed);
                entries.clear();
                self.errors.add(finished.errors);
                (Some((finished.batch, finished.diffs)), ended)
            }
            Source::Graph { walk, rows } => {
                let ended = walk.advance(fuel, |row, count| {
                    rows.push((row.clone(), count));
                    rows.len() < at_once
                });
                if rows.is_empty() || !ended && rows.len() < at_once {
                    return (None, ended);
                }
                let part = walk.decoded(rows);
                rows.clear();
                (Some(part), ended)
            }
        }
    }

    /// On which groups an expression failed so far.
    pub fn into_errors(self) -> RowErrors {
        self.errors
    }

    /// All of it at once.
    fn whole(mut self) -> (PeekShare, RowErrors) {
        let mut share = Vec::new();
        loop {
            let (part, ended) = self.advance(&mut Fuel::unlimited());
            share.extend(part);
            if ended {
                return (share, self.errors);
            }
        }
    }
}

impl Views {
    /// This worker's share of a view at `tick`.
    pub fn read(&mut self, view: u64, tick: Tick) -> PeekShare {
        self.content(view, tick, &Wanted::default()).whole().0
    }

    /// What a leaf shows at `tick`, of this worker's share of its base.
    pub(super) fn leaf_content(&mut self, leaf: &WorkerLeaf, tick: Tick) -> (PeekShare, RowErrors) {
        self.content_of_leaf(leaf, tick, &Wanted::default()).whole()
    }

    /// Begins to read this worker's share of a view at `asked`.
    pub fn content(&mut self, view: u64, asked: Tick, wanted: &Wanted) -> Content {
        let Some(mut found) = self.views.remove(&view) else {
            return Content::nothing();
        };
        let content = self.content_of(&mut found, asked, wanted);
        self.views.insert(view, found);
        content
    }

    fn content_of(&mut self, view: &mut WorkerView, asked: Tick, wanted: &Wanted) -> Content {
        // An aborted tick changed nothing.
        let tick = view.aborted.map_or(asked, |aborted| asked.min(aborted - 1));
        let released = view.graph.is_none() && view.leaves.is_empty();
        if released || view.stopped.is_some_and(|stopped| stopped <= asked) {
            return Content::nothing();
        }
        let Some(graph) = &mut view.graph else {
            return self.content_of_leaf(&view.leaves[0], tick, wanted);
        };
        let fields = view.installed.rendered.schema.fields().iter();
        let types: Vec<DataType> = fields.map(|field| field.data_type().clone()).collect();
        let (path, sought) = Path::of_columns(None, &types, |column| wanted_of(wanted, column));
        let source = Source::Graph {
            walk: graph.running.walk(path, tick),
            rows: Vec::new(),
        };
        Content::of(source, (0..sought).collect())
    }

    pub(super) fn content_of_leaf(&mut self, leaf: &WorkerLeaf, tick: Tick, wanted: &Wanted) -> Content {
        let base = self
            .bases
            .get_mut(&leaf.base)
            .expect("invariant: a view's bases live as long as it");
        let places = &leaf.finish.leaf().key_places;
        let (walk, sought) = base.walk(tick, |place| {
            let columns = wanted.equalities.iter().map(|(column, _)| *column);
            let mut columns = columns.filter(|column| places[*column] == Some(place));
            wanted_of(wanted, columns.next()?)
        });
        let columns = (0..places.len()).filter(|column| places[*column].is_some_and(|place| place < sought));
        // Of a key that is shown twice, with a condition on each, one has led the way.
        let columns = columns.filter(|column| {
            wanted
                .equalities
                .iter()
                .filter(|(other, _)| places[*other] == places[*column])
                .count()
                == 1
        });
        let columns = columns.collect();
        let source = Source::Leaf {
            walk,
            finish: Rc::clone(&leaf.finish),
            entries: Vec::new(),
        };
        Content::of(source, columns)
    }
}

/// The wanted values of a column, if there is one condition on it.
fn wanted_of(wanted: &Wanted, column: usize) -> Option<ArrayRef> {
    let mut on_column = wanted.equalities.iter().filter(|(other, _)| *other == column);
    match (on_column.next(), on_column.next()) {
        (Some((_, values)), None) => Some(Arc::clone(values)),
        _ => None,
    }
}

/// A peek that is being answered.
pub(super) struct Reading {
    request: PeekRequest,
    content: Content,
    share: PeekShare,
    rows: usize,
}

impl Reading {
    pub fn new(request: PeekRequest, content: Content) -> Reading {
        Reading {
            request,
            content,
            share: Vec::new(),
            rows: 0,
        }
    }

    /// Reads on while there is fuel; whether it is over: answered, or given up.
    pub fn advance(&mut self, fuel: &mut Fuel) -> bool {
        loop {
            if self.request.given_up.load(Ordering::Relaxed) {
                return true;
            }
            let (part, ended) = self.content.advance(fuel);
            if let Some(part) = part {
                let (batch, diffs) = restricted(part, &self.request.wanted, &self.content.sought);
                self.rows += diffs.len();
                if !diffs.is_empty() {
                    self.share.push((batch, diffs));
                }
            }
            let suffices = self.request.wanted.limit.is_some_and(|limit| self.rows >= limit);
            if ended || suffices {
                // Whoever asked may have gone in this moment.
                let _ = self.request.reply.send(std::mem::take(&mut self.share));
                return true;
            }
            if fuel.is_spent() {
                return false;
            }
        }
    }
}

/// The rows that fulfil the conditions on columns other than `sought`, of these the columns that are wanted.
fn restricted((batch, diffs): Part, wanted: &Wanted, sought: &[usize]) -> Part {
    let mut mask: Option<BooleanArray> = None;
    for (column, values) in wanted
        .equalities
        .iter()
        .filter(|(column, _)| !sought.contains(column))
    {
        let one = is_one_of(batch.column(*column), values);
        mask = Some(match mask {
            None => one,
            Some(mask) => and(&mask, &one).expect("invariant: both are as long as the batch"),
        });
    }
    let (batch, diffs) = match mask {
        None => (batch, diffs),
        Some(mask) => {
            let kept = diffs.iter().zip(mask.values()).filter(|(_, keep)| *keep);
            let diffs = kept.map(|(diff, _)| *diff).collect();
            let batch = filter_record_batch(&batch, &mask);
            (batch.expect("invariant: mask and batch are equally long"), diffs)
        }
    };
    let batch = match &wanted.projection {
        None => batch,
        Some(columns) => batch
            .project(columns)
            .expect("invariant: the columns were checked before the workers were asked"),
    };
    (batch, diffs)
}

/// Where a column has one of these values, which are not NULL; where their types differ, everywhere.
fn is_one_of(column: &ArrayRef, values: &ArrayRef) -> BooleanArray {
    let everywhere = || BooleanArray::from(vec![true; column.len()]);
    if column.data_type() != values.data_type() {
        return everywhere();
    }
    let Ok(converter) = converter(std::iter::once(column.data_type())) else {
        return everywhere();
    };
    let encoded = |array: &ArrayRef| converter.convert_columns(&[normalise(Arc::clone(array))]);
    match (encoded(column), encoded(values)) {
        (Ok(rows), Ok(values)) => {
            let values: hashbrown::HashSet<&[u8]> = values.iter().map(|row| row.data()).collect();
            rows.iter().map(|row| Some(values.contains(row.data()))).collect()
        }
        _ => everywhere(),
    }
}
