//! What every [`Store`] must do when rows are taken out of it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};

use super::store::{FIRST_CUT, definition, rows};
use crate::{Removal, RowRange, Store, TableDefinition};

/// The suite; `reopen` as in [`super::store::run`].
pub async fn run<S, F, R>(reopen: F)
where
    S: Store,
    F: Fn() -> R,
    R: Future<Output = Arc<S>>,
{
    rows_are_removed_for_good(&reopen).await;
    changes_are_summed_up(&reopen).await;
}

fn of(project: &str, values: Option<&[i64]>, until: u64) -> Removal {
    let by = values.map(|values| {
        let values = values.iter().map(|number| format!("{number:032x}"));
        ("trace_id".to_owned(), values.collect())
    });
    Removal {
        project: project.into(),
        by,
        until,
    }
}

async fn offsets(store: &dyn Store, table: &str) -> Vec<i64> {
    let columns = ["_offset".to_owned()];
    let range = RowRange {
        columns: &columns,
        after: 0,
        until: u64::MAX >> 1,
    };
    let mut found = Vec::new();
    let mut visit = |batch: RecordBatch| {
        found.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        true
    };
    store
        .read_rows(table, range, &mut visit)
        .await
        .expect("rows are read");
    found.sort_unstable();
    found
}

async fn rows_are_removed_for_good<S, F, R>(reopen: &F)
where
    S: Store,
    F: Fn() -> R,
    R: Future<Output = Arc<S>>,
{
    let table = "removal";
    let store = reopen().await;
    store
        .ensure_table(&definition(table))
        .await
        .expect("the table is made");
    for block in 0..4 {
        let cut = FIRST_CUT + 100 * (block + 1);
        let batch = rows(100 * block as i64, 100);
        store
            .append(table, cut, vec![batch])
            .await
            .expect("it is appended");
    }
    let until = FIRST_CUT + 249;
    let nobody = of("another", None, until);
    assert_eq!(
        store.remove_rows(table, &nobody).await,
        Ok(0),
        "of another project"
    );
    // Rows 7, 150 and 151 are there until then, 390 is not.
    let named = of("default", Some(&[7, 150, 151, 390, 9_999]), until);
    assert_eq!(store.remove_rows(table, &named).await, Ok(3));
    assert_eq!(store.remove_rows(table, &named).await, Ok(0), "once");
    let left: Vec<i64> = (0..400)
        .filter(|number| ![7, 150, 151].contains(number))
        .collect();
    assert_eq!(offsets(store.as_ref(), table).await, left);
    let strange = Removal {
        by: Some(("no_such_column".into(), ["7".to_owned()].into())),
        ..nobody.clone()
    };
    assert_eq!(store.remove_rows(table, &strange).await, Ok(0), "no such column");
    assert_eq!(store.remove_rows("no_such_table", &named).await, Ok(0));
    drop(store);
    let store = reopen().await;
    store
        .ensure_table(&definition(table))
        .await
        .expect("the table is there");
    assert_eq!(offsets(store.as_ref(), table).await, left, "after a restart");
    // A block that was written before is known, and the next one follows.
    let last = FIRST_CUT + 400;
    assert_eq!(store.last_cut(table).await, Ok(Some(last)));
    store
        .append(table, last, vec![rows(300, 100)])
        .await
        .expect("it is passed over");
    store
        .append(table, last + 100, vec![rows(400, 10)])
        .await
        .expect("it is appended");
    let left: Vec<i64> = left.into_iter().chain(400..410).collect();
    assert_eq!(offsets(store.as_ref(), table).await, left);
    // A whole project until a tick, of which a whole block.
    assert_eq!(
        store.remove_rows(table, &of("default", None, until)).await,
        Ok(247)
    );
    let left: Vec<i64> = (250..410).collect();
    assert_eq!(offsets(store.as_ref(), table).await, left);
    store
        .maintain(table, FIRST_CUT as i64 * 1_000)
        .await
        .expect("it is maintained");
    assert_eq!(offsets(store.as_ref(), table).await, left);
}

/// `(key, value, number, tick, diff)`.
type Change = (Option<&'static str>, f64, i64, u64, i64);

fn changes(changes: &[Change]) -> RecordBatch {
    let keys = StringArray::from_iter(changes.iter().map(|change| change.0));
    let values = Float64Array::from_iter_values(changes.iter().map(|change| change.1));
    let numbers = Int64Array::from_iter_values(changes.iter().map(|change| change.2));
    let ticks = Int64Array::from_iter_values(changes.iter().map(|change| change.3 as i64));
    let diffs = Int64Array::from_iter_values(changes.iter().map(|change| change.4));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(keys),
        Arc::new(values),
        Arc::new(numbers),
        Arc::new(ticks),
        Arc::new(diffs),
    ];
    let schema = Schema::new(vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("value", DataType::Float64, true),
        Field::new("number", DataType::Int64, false),
        Field::new("_tick", DataType::Int64, false),
        Field::new("_diff", DataType::Int64, false),
    ]);
    RecordBatch::try_new(Arc::new(schema), columns).expect("invariant: the columns fit")
}

type Summed = BTreeMap<(Option<String>, u64, i64), (i64, usize)>;

/// For each row how often it is there, and in how many changes.
async fn summed(store: &dyn Store, table: &str) -> Summed {
    let columns = ["key", "value", "number", "_tick", "_diff"].map(str::to_owned);
    let range = RowRange {
        columns: &columns,
        after: 0,
        until: u64::MAX >> 1,
    };
    let mut found = Summed::new();
    let mut visit = |batch: RecordBatch| {
        let keys = arrow::compute::cast(batch.column(0), &DataType::Utf8).expect("a text");
        for row in 0..batch.num_rows() {
            let key = keys
                .as_string::<i32>()
                .iter()
                .nth(row)
                .flatten()
                .map(str::to_owned);
            let value = batch.column(1).as_primitive::<Float64Type>().value(row).to_bits();
            let number = batch.column(2).as_primitive::<Int64Type>().value(row);
            let sum = found.entry((key, value, number)).or_default();
            sum.0 += batch.column(4).as_primitive::<Int64Type>().value(row);
            sum.1 += 1;
        }
        true
    };
    store
        .read_rows(table, range, &mut visit)
        .await
        .expect("changes are read");
    found
}

async fn changes_are_summed_up<S, F, R>(reopen: &F)
where
    S: Store,
    F: Fn() -> R,
    R: Future<Output = Arc<S>>,
{
    let table = "settled_changes";
    let tick = |number: u64| FIRST_CUT + number;
    let blocks: [Vec<Change>; 3] = [
        vec![
            (Some("gone"), 1.5, 1, tick(1), 1),
            (Some("stays"), 0.1, 2, tick(1), 1),
            (None, f64::NAN, 3, tick(1), 2),
            (Some(""), -0.0, 4, tick(1), 1),
        ],
        vec![
            (Some("gone"), 1.5, 1, tick(2), -1),
            (None, f64::NAN, 3, tick(2), -2),
            (Some("ü'\\"), f64::INFINITY, 5, tick(2), 1),
            (Some(""), -0.0, 4, tick(2), -1),
        ],
        vec![
            (Some("ü'\\"), f64::INFINITY, 5, tick(3), -1),
            (Some(""), -0.0, 4, tick(3), 1),
        ],
    ];
    let store = reopen().await;
    let definition = TableDefinition {
        name: table.into(),
        schema: changes(&blocks[0]).schema(),
        retention_us: None,
        time_column: None,
        key: vec!["number".into()],
    };
    store.ensure_table(&definition).await.expect("the table is made");
    for (number, block) in blocks.iter().enumerate() {
        let cut = tick(number as u64 + 1);
        store
            .append(table, cut, vec![changes(block)])
            .await
            .expect("it is appended");
    }
    let before = summed(store.as_ref(), table).await;
    assert_eq!(before.len(), 5);
    for _ in 0..2 {
        store
            .settle_changes(table, tick(2))
            .await
            .expect("it is summed up");
        let after = summed(store.as_ref(), table).await;
        let numbers: Vec<(i64, (i64, usize))> = after.iter().map(|(row, sum)| (row.2, *sum)).collect();
        let mut numbers = numbers;
        numbers.sort_unstable();
        // What cancelled until then is gone; what cancelled later is as it was.
        assert_eq!(numbers, [(2, (1, 1)), (4, (1, 1)), (5, (0, 2))], "{after:?}");
        for (row, sum) in &after {
            assert_eq!(before[row].0, sum.0, "{row:?}");
        }
    }
    assert_eq!(store.last_cut(table).await, Ok(Some(tick(3))));
    store
        .settle_changes("no_such_changes", 1)
        .await
        .expect("there is nothing to do");
    drop(store);
    let store = reopen().await;
    store.ensure_table(&definition).await.expect("the table is there");
    store
        .settle_changes(table, tick(9))
        .await
        .expect("it is summed up");
    let after = summed(store.as_ref(), table).await;
    assert!(after.keys().all(|row| [2, 4].contains(&row.2)), "{after:?}");
}
