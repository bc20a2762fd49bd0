//! The encoded keys of one batch, shared by all views that group it alike.
//!
//! Views over one stream mostly group by the same columns (project, service, model and minute), and encoding keys is
//! a large part of what a view costs. A cache lives as long as its batch is being folded, so an array that is the
//! same object holds the same values.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Int64Type;
use arrow::row::{RowConverter, Rows};

/// Different groupings remembered for a batch; monitors beyond that encode for themselves.
const GROUPINGS: usize = 8;

#[derive(Default)]
pub(crate) struct KeyCache {
    groupings: Vec<(Vec<ArrayRef>, Arc<Rows>)>,
}

impl KeyCache {
    /// The arrays' rows in the encoding of `converter`, whose types they have.
    pub fn encode(&mut self, converter: &RowConverter, arrays: Vec<ArrayRef>) -> Arc<Rows> {
        let known = self.groupings.iter().find(|(known, _)| {
            known.len() == arrays.len() && known.iter().zip(&arrays).all(|(one, other)| same(one, other))
        });
        if let Some((_, rows)) = known {
            return Arc::clone(rows);
        }
        let rows = Arc::new(
            converter
                .convert_columns(&arrays)
                .expect("invariant: arrays have the key's types"),
        );
        if self.groupings.len() < GROUPINGS {
            self.groupings.push((arrays, Arc::clone(&rows)));
        }
        rows
    }
}

/// The same object, or equal panes: those every view computes for itself.
fn same(one: &ArrayRef, other: &ArrayRef) -> bool {
    if Arc::ptr_eq(one, other) {
        return true;
    }
    match (
        one.as_primitive_opt::<Int64Type>(),
        other.as_primitive_opt::<Int64Type>(),
    ) {
        (Some(one), Some(other)) => {
            one.nulls().is_none() && other.nulls().is_none() && one.values() == other.values()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{Int64Array, StringViewArray};
    use arrow::datatypes::DataType;
    use arrow::row::SortField;

    use super::*;

    #[test]
    fn equal_groupings_share_rows_and_others_do_not() {
        let converter = RowConverter::new(vec![
            SortField::new(DataType::Int64),
            SortField::new(DataType::Utf8View),
        ])
        .unwrap();
        let panes = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let names: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b"]));
        let equal_names: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "c"]));
        let mut cache = KeyCache::default();
        let mut encode = |arrays: Vec<ArrayRef>| cache.encode(&converter, arrays);
        let first = encode(vec![panes(vec![Some(1), Some(2)]), Arc::clone(&names)]);
        let again = encode(vec![panes(vec![Some(1), Some(2)]), Arc::clone(&names)]);
        assert!(Arc::ptr_eq(&first, &again));
        let other_names = encode(vec![panes(vec![Some(1), Some(2)]), equal_names]);
        assert!(!Arc::ptr_eq(&first, &other_names));
        let other_panes = encode(vec![panes(vec![Some(1), Some(3)]), Arc::clone(&names)]);
        assert!(!Arc::ptr_eq(&first, &other_panes));
        // A slot under a NULL may hold any value.
        let null = encode(vec![panes(vec![Some(1), None]), Arc::clone(&names)]);
        let zero = encode(vec![panes(vec![Some(1), Some(0)]), Arc::clone(&names)]);
        assert!(!Arc::ptr_eq(&null, &zero));
        assert_eq!(names.len(), null.num_rows());
    }
}
