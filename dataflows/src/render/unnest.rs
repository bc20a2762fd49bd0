//! A row for each element of a list.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::left_out::{RowErrors, project_of};
use super::pipeline::{Flow, batch_of, keep};
use crate::plan::PlanError;

/// Most elements of the list of one row; a row with more is in error.
const MOST_ELEMENTS: usize = 10_000;

/// Which column is a list, and what comes out.
pub(super) struct Elements {
    column: usize,
    schema: SchemaRef,
}

impl Elements {
    pub fn compile(column: &str, schema: &SchemaRef) -> Result<Elements, PlanError> {
        let unknown = || PlanError::Unsupported {
            detail: format!("unnest of {column}, which is not a list"),
        };
        let place = schema.index_of(column).map_err(|_| unknown())?;
        let DataType::List(item) = schema.field(place).data_type() else {
            return Err(unknown());
        };
        let mut fields: Vec<Field> = schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone())
            .collect();
        fields[place] = Field::new(column, item.data_type().clone(), true);
        Ok(Elements {
            column: place,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Every row as often as its list has elements, with one of them in the list's place.
    pub fn of(&self, flow: Flow, errors: &mut RowErrors) -> Flow {
        let flow = without_long(flow, self.column, errors);
        let lists = flow.batch.column(self.column).as_list::<i32>();
        let mut rows = Vec::new();
        let mut elements = Vec::new();
        for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
            let (first, length) = (lists.value_offsets()[row], lists.value_length(row));
            for element in first..first + length {
                rows.push(row as u32);
                elements.push(element.unsigned_abs());
            }
        }
        let (rows, elements) = (UInt32Array::from(rows), UInt32Array::from(elements));
        let values = take(lists.values(), &elements, None).expect("invariant: elements of these lists");
        let batch = take_record_batch(&flow.batch, &rows).expect("invariant: rows of this batch");
        let carried = take(&flow.carried, &rows, None).expect("invariant: rows of this batch");
        let mut columns = batch.columns().to_vec();
        columns[self.column] = values;
        Flow {
            batch: batch_of(&self.schema, columns, rows.len()),
            carried: carried.as_primitive().clone(),
        }
    }
}

/// The flow without rows whose list is too long, which are errors.
fn without_long(flow: Flow, column: usize, errors: &mut RowErrors) -> Flow {
    let lists = flow.batch.column(column).as_list::<i32>();
    let is_short = |row: usize| lists.is_null(row) || lists.value_length(row) as usize <= MOST_ELEMENTS;
    let short: BooleanArray = (0..lists.len()).map(|row| Some(is_short(row))).collect();
    if short.true_count() == short.len() {
        return flow;
    }
    for row in (0..short.len()).filter(|row| !short.value(*row)) {
        let message = format!("PF-3059: a list of more than {MOST_ELEMENTS} elements is not taken apart");
        errors.record(project_of(&flow.batch, row), flow.carried.value(row), message);
    }
    keep(flow, &short)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::builder::{ListBuilder, StringBuilder};
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::*;

    #[test]
    fn rows_are_multiplied_by_their_elements_and_long_lists_are_errors() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a"), None, Some("b")]);
        lists.append_null();
        lists.append_value(Vec::<Option<&str>>::new());
        lists.append_value(vec![Some("x"); MOST_ELEMENTS + 1]);
        lists.append_value([Some("c")]);
        let lists: ArrayRef = Arc::new(lists.finish());
        let names: ArrayRef = Arc::new(StringArray::from(vec!["one", "two", "three", "four", "five"]));
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("name", DataType::Utf8, true),
            Field::new("list", lists.data_type().clone(), true),
        ]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![names, lists]).unwrap();
        let carried = Int64Array::from(vec![1, 2, 3, 4, 5]);
        let mut errors = RowErrors::of_groups();
        let elements = Elements::compile("list", &schema).unwrap();
        // A slice begins in the middle of the list's values.
        for (from, names, values, carry) in [
            (
                0,
                vec!["one", "one", "one", "five"],
                vec![Some("a"), None, Some("b"), Some("c")],
                vec![1, 1, 1, 5],
            ),
            (1, vec!["five"], vec![Some("c")], vec![5]),
        ] {
            let flow = Flow {
                batch: batch.slice(from, 5 - from),
                carried: carried.slice(from, 5 - from),
            };
            let flow = elements.of(flow, &mut errors);
            let shown: Vec<&str> = flow.batch.column(0).as_string::<i32>().iter().flatten().collect();
            let taken: Vec<Option<&str>> = flow.batch.column(1).as_string::<i32>().iter().collect();
            assert_eq!(
                (shown, taken, flow.carried.values().to_vec()),
                (names, values, carry)
            );
        }
        assert_eq!(errors.rows, 2);
        assert!(Elements::compile("name", &schema).is_err());
    }
}
