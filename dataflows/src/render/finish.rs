//! From keys and accumulators to rows of a leaf.
//!
//! What lies above the aggregate (HAVING, the select list) is computed when accumulators change or are read, many
//! at once. A change of a group is its old row with −1 and its new row with +1; rows that stay the same cancel.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::row::RowConverter;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use pyflare_operators::aggregate::Accumulator;

use super::arrange::{Change, PANE_BYTES, pane_of};
use super::leaf::{Layout, Leaf};
use super::left_out::{RowErrors, project_of};
use super::pipeline::{Flow, batch_of};
use super::tap::{group_converter, key_converter};
use crate::plan::PlanError;

/// Turns the accumulators of a base into the rows of one of its leaves; one per worker.
pub(crate) struct Finish {
    leaf: Arc<Leaf>,
    converter: RowConverter,
    /// A condition on aggregates alone: what does not fulfil it needs no keys.
    having: Option<Arc<dyn PhysicalExpr>>,
}

/// Rows with the difference of each.
pub(crate) struct Finished {
    pub batch: RecordBatch,
    pub diffs: Vec<i64>,
    pub errors: RowErrors,
}

impl Finish {
    pub fn new(leaf: Arc<Leaf>) -> Result<Finish, PlanError> {
        let converter = match leaf.base.layout {
            Layout::Merged => group_converter(&leaf.base)?,
            Layout::Rows | Layout::Groups => key_converter(&leaf.base)?,
        };
        let groups = leaf.finish_schema.fields().len() - leaf.outputs.len();
        let on_aggregates = |condition: &&Arc<dyn PhysicalExpr>| {
            let columns = collect_columns(condition);
            columns.iter().all(|column| column.index() >= groups)
        };
        let having = leaf.above.first_condition().filter(on_aggregates).cloned();
        Ok(Finish {
            leaf,
            converter,
            having,
        })
    }

    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// Those of the entries that fulfil the condition on aggregates; `None` if that cannot be said of all at once.
    fn fulfilling<'a>(
        &self,
        having: &Arc<dyn PhysicalExpr>,
        entries: &[(&'a [u8], &'a Accumulator, i64)],
    ) -> Option<Vec<(&'a [u8], &'a Accumulator, i64)>> {
        let leaf = &self.leaf;
        let mut misfits = Vec::new();
        let groups: Vec<&Accumulator> = entries.iter().map(|(_, accumulator, _)| *accumulator).collect();
        let outputs = leaf.outputs.read(&leaf.base.cells.kinds, &groups, &mut misfits);
        if !misfits.is_empty() {
            return None;
        }
        let keys = leaf.finish_schema.fields().len() - leaf.outputs.len();
        let unread = leaf.finish_schema.fields().iter().take(keys);
        let unread = unread.map(|field| new_null_array(field.data_type(), entries.len()));
        let batch = batch_of(
            &leaf.finish_schema,
            unread.chain(outputs).collect(),
            entries.len(),
        );
        let holds = having.evaluate(&batch).ok()?.into_array(entries.len()).ok()?;
        let holds = holds.as_boolean_opt()?;
        let places = holds.values().set_indices();
        Some(
            places
                .filter(|place| holds.is_valid(*place))
                .map(|place| entries[place])
                .collect(),
        )
    }

    /// The columns of the entries' keys, without the pane.
    fn decoded(&self, entries: &[(&[u8], &Accumulator, i64)]) -> Vec<ArrayRef> {
        // A change is two entries of one key, which is decoded once.
        let mut keys: Vec<&[u8]> = Vec::with_capacity(entries.len());
        let mut places: Vec<u32> = Vec::with_capacity(entries.len());
        for (key, ..) in entries {
            if !keys.last().is_some_and(|last| std::ptr::eq(*last, *key)) {
                keys.push(key);
            }
            places.push(keys.len() as u32 - 1);
        }
        let parser = self.converter.parser();
        let mut columns = self
            .converter
            .convert_rows(keys.iter().map(|key| parser.parse(key)))
            .expect("invariant: keys were encoded by this converter");
        if self.leaf.base.layout != Layout::Merged {
            columns.remove(0);
        }
        if keys.len() < entries.len() {
            let places = UInt32Array::from(places);
            for column in &mut columns {
                *column = take(column, &places, None).expect("invariant: places of these keys");
            }
        }
        columns
    }

    /// The rows that stand for these keys, each with the given difference.
    pub fn rows(&self, entries: &[(&[u8], &Accumulator, i64)]) -> Finished {
        let fulfilling = self
            .having
            .as_ref()
            .and_then(|having| self.fulfilling(having, entries));
        let entries = fulfilling.as_deref().unwrap_or(entries);
        let mut errors = RowErrors::of_groups();
        let mut misfits = Vec::new();
        let leaf = &self.leaf;
        let mut columns = leaf.group_columns(&self.decoded(entries));
        let groups: Vec<&Accumulator> = entries.iter().map(|(_, accumulator, _)| *accumulator).collect();
        columns.extend(leaf.outputs.read(&leaf.base.cells.kinds, &groups, &mut misfits));
        let diffs = match leaf.base.layout {
            Layout::Rows => entries
                .iter()
                .map(|(_, accumulator, sign)| accumulator.rows * sign)
                .collect::<Vec<_>>(),
            Layout::Groups | Layout::Merged => entries.iter().map(|(.., sign)| *sign).collect(),
        };
        let batch = batch_of(&leaf.finish_schema, columns, entries.len());
        for misfit in misfits {
            let group = misfit.group;
            errors.record(project_of(&batch, group), diffs[group], misfit);
        }
        let flow = leaf.above.run(
            Flow {
                batch,
                carried: Int64Array::from(diffs),
            },
            &mut errors,
        );
        let rows = flow.batch.num_rows();
        let batch = batch_of(&leaf.schema, flow.batch.columns().to_vec(), rows);
        Finished {
            batch,
            diffs: flow.carried.values().to_vec(),
            errors,
        }
    }

    /// What the changes of one tick do to the view: (updates, retractions of panes that ended by `expired_until`).
    pub fn changes(
        &self,
        changes: &[Change],
        expired_until: Option<i64>,
    ) -> (Option<Finished>, Option<Finished>) {
        let mut live: Vec<(&[u8], &Accumulator, i64)> = Vec::new();
        let mut expired: Vec<(&[u8], &Accumulator, i64)> = Vec::new();
        for change in changes {
            if change.old == change.new {
                continue;
            }
            let has_pane = self.leaf.base.layout != Layout::Merged && change.key.len() >= PANE_BYTES;
            let gone = has_pane && expired_until.is_some_and(|until| pane_of(&change.key) <= until);
            let side = if gone { &mut expired } else { &mut live };
            side.extend(change.old.as_ref().map(|old| (&change.key[..], old, -1)));
            side.extend(change.new.as_ref().map(|new| (&change.key[..], new, 1)));
        }
        let finish = |entries: Vec<_>| (!entries.is_empty()).then(|| self.rows(&entries));
        (finish(live), finish(expired))
    }
}
