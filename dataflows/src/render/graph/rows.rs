//! Rows as bytes, and operators that see many of them at once.
//!
//! Invariants: equal rows have equal bytes (one bit pattern for zero and for NaN), the bytes of one schema behind
//! those of another are the bytes of both schemas' columns, and no operator evaluates an expression row by row.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::row::RowConverter;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::{AsCollection, Data, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline as OnThisWorker;
use timely::dataflow::operators::generic::operator::Operator;

use crate::plan::PlanError;
use crate::render::left_out::RowErrors;
use crate::render::pipeline::{Flow, batch_of};
use crate::render::tap::{converter, normalise};
use crate::time::Tick;

/// A row's columns in memcmp-ordered bytes.
pub(crate) use crate::render::key::Key as Row;
/// Maintained rows on one worker.
pub(crate) type Rows<'s> = VecCollection<'s, Tick, Row, i64>;
/// What expressions failed on, until the worker collects it.
pub(crate) type Errors = Rc<RefCell<RowErrors>>;

/// Rows evaluated at once.
const BATCH_ROWS: usize = 8_192;

/// Between rows and columns of one schema.
pub(crate) struct Codec {
    converter: RowConverter,
    schema: SchemaRef,
}

impl Codec {
    pub fn new(schema: &SchemaRef) -> Result<Codec, PlanError> {
        Ok(Codec {
            converter: converter(schema.fields().iter().map(|field| field.data_type()))?,
            schema: schema.clone(),
        })
    }

    pub fn decode<'a>(&self, rows: impl ExactSizeIterator<Item = &'a [u8]>) -> RecordBatch {
        let count = rows.len();
        if self.schema.fields().is_empty() {
            return batch_of(&self.schema, Vec::new(), count);
        }
        let parser = self.converter.parser();
        let columns = self
            .converter
            .convert_rows(rows.map(|row| parser.parse(row)))
            .expect("invariant: rows were encoded in these types");
        batch_of(&self.schema, columns, count)
    }

    /// The rows of columns in this schema's types.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Vec<Row> {
        if columns.is_empty() {
            return vec![Row::default(); rows];
        }
        let columns: Vec<ArrayRef> = columns
            .iter()
            .map(|column| normalise(ArrayRef::clone(column)))
            .collect();
        let encoded = self
            .converter
            .convert_columns(&columns)
            .expect("invariant: columns have the schema's types");
        encoded.iter().map(|row| Row::from(row.as_ref())).collect()
    }
}

/// Applies `logic` to batches of rows that have one time; each row carries its difference.
///
/// `logic` gives records with the difference of each.
pub(crate) fn map_batches<'s, D: Data, R: Semigroup + 'static>(
    rows: Rows<'s>,
    name: &str,
    codec: Codec,
    mut logic: impl FnMut(Flow, &mut Vec<(D, R)>) + 'static,
) -> VecCollection<'s, Tick, D, R> {
    let mapped = rows
        .inner
        .unary::<CapacityContainerBuilder<Vec<(D, Tick, R)>>, _, _, _>(
            OnThisWorker,
            name,
            move |_capability, _info| {
                let mut records: Vec<(D, R)> = Vec::new();
                move |input, output| {
                    input.for_each_stamp(|capability, containers| {
                        let mut updates: Vec<(Row, Tick, i64)> = Vec::new();
                        for container in containers {
                            updates.append(container);
                        }
                        updates.sort_by_key(|(_, tick, _)| *tick);
                        let mut session = output.session(&capability);
                        for at_once in updates.chunk_by(|one, other| one.1 == other.1) {
                            let tick = at_once[0].1;
                            for chunk in at_once.chunks(BATCH_ROWS) {
                                let batch = codec.decode(chunk.iter().map(|(row, ..)| &**row));
                                let carried: Int64Array = chunk.iter().map(|(.., diff)| *diff).collect();
                                logic(Flow { batch, carried }, &mut records);
                                session.give_iterator(
                                    records.drain(..).map(|(record, diff)| (record, tick, diff)),
                                );
                            }
                        }
                    });
                }
            },
        );
    mapped.as_collection()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{AsArray, Float64Array, StringViewArray};
    use arrow::datatypes::{DataType, Field, Float64Type, Schema};

    use super::*;

    #[test]
    fn rows_side_by_side_are_the_rows_of_both_schemas() {
        let left: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Utf8View, true),
            Field::new("b", DataType::Float64, true),
        ]));
        let right: SchemaRef = Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8View, true)]));
        let both: SchemaRef = Arc::new(Schema::new(
            left.fields()
                .iter()
                .chain(right.fields())
                .cloned()
                .collect::<Vec<_>>(),
        ));
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec![Some("größer"), None, Some("")]));
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.0), Some(f64::NAN), None]));
        let left_rows = Codec::new(&left)
            .unwrap()
            .encode(&[Arc::clone(&texts), numbers], 3);
        let right_rows = Codec::new(&right).unwrap().encode(&[texts], 3);
        let joined: Vec<Row> = left_rows
            .iter()
            .zip(right_rows.iter().rev())
            .map(|(left, right)| Row::joined(&[left, right]))
            .collect();
        let batch = Codec::new(&both).unwrap().decode(joined.iter().map(|row| &**row));
        let a: Vec<Option<&str>> = batch.column(0).as_string_view().iter().collect();
        let c: Vec<Option<&str>> = batch.column(2).as_string_view().iter().collect();
        assert_eq!(a, [Some("größer"), None, Some("")]);
        assert_eq!(c, [Some(""), None, Some("größer")]);
        let b = batch.column(1).as_primitive::<Float64Type>();
        assert_eq!(b.value(0).to_bits(), 0.0f64.to_bits(), "one bit pattern for zero");
    }
}
