//! What every [`Store`] must do. Call [`run`] with a function that opens the store again at the same place: the suite
//! drops one handle and opens the next, as a restart does.

use std::future::Future;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListBuilder,
    MapBuilder, RecordBatch, StringArray, StringBuilder, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit};

use crate::{Part, RowRange, Store, StoreError, TableDefinition};

/// Milliseconds of the first cut; a whole day lies before and after it.
pub const FIRST_CUT: u64 = 1_764_000_000_000;

/// A table with a column of every type of the contract.
pub fn definition(name: &str) -> TableDefinition {
    let batch = rows(0, 1);
    TableDefinition {
        name: name.to_owned(),
        schema: batch.schema(),
        retention_us: None,
        time_column: Some("event_time".to_owned()),
        key: Vec::new(),
    }
}

/// `count` rows whose `_offset` numbers them from `first`; everything else follows from that number.
pub fn rows(first: i64, count: usize) -> RecordBatch {
    let numbers: Vec<i64> = (first..first + count as i64).collect();
    let time = |number: &i64| FIRST_CUT as i64 * 1000 + number * 1000;
    let mut lists = ListBuilder::new(StringBuilder::new());
    let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for number in &numbers {
        for element in 0..number % 3 {
            lists.values().append_value(format!("{element}"));
        }
        lists.append(number % 5 != 0);
        for key in 0..number % 3 {
            maps.keys().append_value(format!("key {key}"));
            maps.values().append_value(format!("\"{number} ü\""));
        }
        maps.append(number % 7 != 0)
            .expect("invariant: as many keys as values");
    }
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (
            "project",
            Arc::new(StringViewArray::from_iter_values(
                numbers.iter().map(|_| "default"),
            )),
            false,
        ),
        (
            "trace_id",
            Arc::new(StringArray::from_iter_values(
                numbers.iter().map(|n| format!("{n:032x}")),
            )),
            false,
        ),
        (
            "event_time",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(numbers.iter().map(time)).with_timezone("UTC"),
            ),
            false,
        ),
        (
            "error",
            Arc::new(BooleanArray::from_iter(
                numbers.iter().map(|n| (n % 4 != 0).then_some(n % 2 == 0)),
            )),
            true,
        ),
        (
            "count",
            Arc::new(Int32Array::from_iter(
                numbers.iter().map(|n| (n % 3 != 0).then_some(*n as i32)),
            )),
            true,
        ),
        (
            "temperature",
            Arc::new(Float64Array::from_iter_values(
                numbers.iter().map(|n| *n as f64 / 7.0),
            )),
            true,
        ),
        (
            "cost",
            Arc::new(
                Decimal128Array::from_iter(
                    numbers
                        .iter()
                        .map(|n| (n % 2 == 0).then_some(i128::from(*n) * 10_i128.pow(24) + 1)),
                )
                .with_data_type(DataType::Decimal128(38, 12)),
            ),
            true,
        ),
        ("labels", Arc::new(lists.finish()), true),
        ("attributes", Arc::new(maps.finish()), true),
        (
            "_tick",
            Arc::new(Int64Array::from_iter_values(
                numbers.iter().map(|n| FIRST_CUT as i64 + n),
            )),
            false,
        ),
        ("_offset", Arc::new(Int64Array::from(numbers.clone())), false),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column, nullable)| Field::new(*name, column.data_type().clone(), *nullable))
        .collect();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, column, _)| column).collect(),
    )
    .expect("invariant: the columns fit the schema made from them")
}

/// The suite.
pub async fn run<S, F, R>(reopen: F)
where
    S: Store,
    F: Fn() -> R,
    R: Future<Output = Arc<S>>,
{
    appending_is_idempotent(&reopen).await;
    a_block_of_parts_is_one_block(&reopen).await;
    definitions_are_checked(&reopen).await;
    rows_of_some_ticks_are_read_back(&reopen).await;
    maintenance_changes_no_row(&reopen).await;
    retention_drops_what_is_old(&reopen).await;
    dropping_is_final(&reopen).await;
    super::conversations::are_stored_once(&reopen).await;
}

async fn appending_is_idempotent<S: Store, R: Future<Output = Arc<S>>>(reopen: &impl Fn() -> R) {
    let store = reopen().await;
    let table = "spans";
    store
        .ensure_table(&definition(table))
        .await
        .expect("a table can be created");
    assert_eq!(store.last_cut(table).await, Ok(None), "a new table has no cut");
    assert_eq!(store.size(table).await.expect("a table has a size").1, 0);

    let block = vec![rows(0, 10), rows(10, 5)];
    store
        .append(table, FIRST_CUT, block.clone())
        .await
        .expect("a block can be appended");
    store
        .append(table, FIRST_CUT, block.clone())
        .await
        .expect("a repeated cut is no error");
    store
        .append(table, FIRST_CUT - 1, block)
        .await
        .expect("an earlier cut is no error");
    assert_eq!(store.last_cut(table).await, Ok(Some(FIRST_CUT)));
    assert_eq!(
        store.size(table).await.expect("a table has a size").1,
        15,
        "a repeated cut is there once"
    );

    store
        .append(table, FIRST_CUT + 1, Vec::new())
        .await
        .expect("a block without rows is no error");
    store
        .append(table, FIRST_CUT + 2, vec![rows(0, 0)])
        .await
        .expect("a block without rows is no error");
    assert_eq!(
        store.last_cut(table).await,
        Ok(Some(FIRST_CUT)),
        "a block without rows leaves no trace"
    );

    drop(store);
    let store = reopen().await;
    assert_eq!(
        store.last_cut(table).await,
        Ok(Some(FIRST_CUT)),
        "the last cut outlives the process"
    );
    store
        .ensure_table(&definition(table))
        .await
        .expect("an existing table is fine");
    store
        .append(table, FIRST_CUT, vec![rows(0, 15)])
        .await
        .expect("a repeated cut is no error");
    store
        .append(table, FIRST_CUT + 10_000, vec![rows(15, 1)])
        .await
        .expect("the next block can be appended");
    assert_eq!(store.size(table).await.expect("a table has a size").1, 16);
    assert_eq!(store.last_cut(table).await, Ok(Some(FIRST_CUT + 10_000)));
}

async fn a_block_of_parts_is_one_block<S: Store, R: Future<Output = Arc<S>>>(reopen: &impl Fn() -> R) {
    let store = reopen().await;
    let table = "default/parted_changes";
    store
        .ensure_table(&definition(table))
        .await
        .expect("a table can be created");
    let parts = || {
        vec![
            Part::of(vec![rows(0, 10)]),
            Part::of(Vec::new()),
            Part::of(vec![rows(10, 1), rows(11, 6)]),
            Part::of(vec![rows(17, 3)]),
        ]
    };
    for _ in 0..2 {
        store
            .append_parts(table, FIRST_CUT, parts())
            .await
            .expect("a block in parts can be appended, and again");
        assert_eq!(store.size(table).await.expect("a table has a size").1, 20);
        assert_eq!(store.last_cut(table).await, Ok(Some(FIRST_CUT)));
    }
    store
        .append_parts(
            table,
            FIRST_CUT + 1,
            vec![Part::of(Vec::new()), Part::of(Vec::new())],
        )
        .await
        .expect("parts without rows are no error");
    drop(store);
    let store = reopen().await;
    assert_eq!(store.last_cut(table).await, Ok(Some(FIRST_CUT)));
    assert_eq!(
        store.size(table).await.expect("a table has a size").1,
        20,
        "all parts outlive the process"
    );
}

async fn definitions_are_checked<S: Store, R: Future<Output = Arc<S>>>(reopen: &impl Fn() -> R) {
    let store = reopen().await;
    let missing = "default/nothing_changes";
    assert!(matches!(
        store.last_cut(missing).await,
        Err(StoreError::Missing { .. })
    ));
    assert!(matches!(
        store.append(missing, 1, vec![rows(0, 1)]).await,
        Err(StoreError::Missing { .. })
    ));
    assert!(matches!(
        store.ensure_table(&definition("a//b")).await,
        Err(StoreError::Name { .. })
    ));

    let table = "default/checked_changes";
    store
        .ensure_table(&definition(table))
        .await
        .expect("a table can be created");
    let altered = |change: &dyn Fn(&mut Vec<Field>)| {
        let mut fields: Vec<Field> = rows(0, 1)
            .schema()
            .fields()
            .iter()
            .map(|field| field.as_ref().clone())
            .collect();
        change(&mut fields);
        TableDefinition {
            schema: Arc::new(Schema::new(fields)),
            ..definition(table)
        }
    };
    let refused = [
        altered(&|fields| fields.push(Field::new("more", DataType::Int64, true))),
        altered(&|fields| drop(fields.pop())),
        altered(&|fields| fields[0] = Field::new("project", DataType::Int64, true)),
        altered(&|fields| fields.push(Field::new("odd", DataType::UInt8, true))),
        TableDefinition {
            time_column: Some("project".to_owned()),
            ..definition(table)
        },
    ];
    for definition in refused {
        assert!(
            matches!(
                store.ensure_table(&definition).await,
                Err(StoreError::Schema { .. })
            ),
            "{:?} must be refused",
            definition.schema
        );
    }
    let same = altered(&|fields| {
        let view = fields[1].data_type() == &DataType::Utf8View;
        fields[1] = Field::new(
            "trace_id",
            if view { DataType::Utf8 } else { DataType::Utf8View },
            false,
        );
    });
    store
        .ensure_table(&same)
        .await
        .expect("text is text, however it is held in memory");
    let wrong: SchemaRef = Arc::new(Schema::new(vec![Field::new(
        "event_time",
        DataType::Timestamp(TimeUnit::Microsecond, None),
        true,
    )]));
    assert!(
        store
            .append(table, FIRST_CUT, vec![RecordBatch::new_empty(wrong)])
            .await
            .is_ok()
    );
    assert_eq!(store.last_cut(table).await, Ok(None));
}

async fn rows_of_some_ticks_are_read_back<S: Store, R: Future<Output = Arc<S>>>(reopen: &impl Fn() -> R) {
    let store = reopen().await;
    let table = "default/read_back";
    let columns = ["count", "_offset", "_tick"].map(str::to_owned);
    let first = FIRST_CUT - 1;
    let between = async |store: &S, after: u64, until: u64| {
        let mut found = Vec::new();
        let range = RowRange {
            columns: &columns,
            after,
            until,
        };
        let mut visit = |batch: RecordBatch| {
            assert_eq!(batch.num_columns(), columns.len());
            let offsets = batch["_offset"].as_primitive::<Int64Type>();
            let counts = batch["count"].as_primitive::<Int32Type>();
            for (offset, count) in offsets.iter().zip(counts) {
                let offset = offset.expect("an offset is never NULL");
                assert_eq!(count, (offset % 3 != 0).then_some(offset as i32));
                found.push(offset);
            }
            true
        };
        store
            .read_rows(table, range, &mut visit)
            .await
            .expect("rows can be read");
        found.sort_unstable();
        found
    };
    assert_eq!(
        between(&store, 0, u64::MAX).await,
        Vec::<i64>::new(),
        "no table, no rows"
    );
    store
        .ensure_table(&definition(table))
        .await
        .expect("a table can be created");
    for (cut, from) in [(FIRST_CUT + 9, 0), (FIRST_CUT + 19, 10), (FIRST_CUT + 29, 20)] {
        store
            .append(table, cut, vec![rows(from, 10)])
            .await
            .expect("a block can be appended");
    }
    assert_eq!(
        between(&store, first, u64::MAX).await,
        (0..30).collect::<Vec<i64>>()
    );
    assert_eq!(
        between(&store, FIRST_CUT + 4, FIRST_CUT + 21).await,
        (5..22).collect::<Vec<i64>>()
    );
    assert_eq!(between(&store, FIRST_CUT + 29, u64::MAX).await, Vec::<i64>::new());
    let mut batches = 0;
    let range = RowRange {
        columns: &columns,
        after: first,
        until: u64::MAX,
    };
    let mut visit = |_| {
        batches += 1;
        false
    };
    store
        .read_rows(table, range, &mut visit)
        .await
        .expect("to stop is no failure");
    assert_eq!(batches, 1);
    store.drop_table(table).await.expect("a table can be dropped");
}

async fn maintenance_changes_no_row<S: Store, R: Future<Output = Arc<S>>>(reopen: &impl Fn() -> R) {
    let store = reopen().await;
    let table = "default/small_changes";
    store
        .ensure_table(&definition(table))
        .await
        .expect("a table can be created");
    for block in 0..130_u64 {
        let block_rows = vec![rows(block as i64 * 3, 3)];
        store
            .append(table, FIRST_CUT + block * 1000, block_rows)
            .await
            .expect("a block can be appended");
        if block % 17 == 0 {
            store
                .maintain(table, FIRST_CUT as i64 * 1000)
                .await
                .expect("maintenance succeeds");
        }
    }
    for _ in 0..3 {
        store
            .maintain(table, FIRST_CUT as i64 * 1000)
            .await
            .expect("maintenance succeeds again and again");
    }
    assert_eq!(store.size(table).await.expect("a table has a size").1, 390);
    assert_eq!(store.last_cut(table).await, Ok(Some(FIRST_CUT + 129_000)));
    drop(store);
    let store = reopen().await;
    assert_eq!(store.size(table).await.expect("a table has a size").1, 390);
    assert_eq!(
        store.last_cut(table).await,
        Ok(Some(FIRST_CUT + 129_000)),
        "merging keeps the last cut"
    );
    store
        .append(table, FIRST_CUT + 129_000, vec![rows(0, 100)])
        .await
        .expect("a repeated cut is no error");
    assert_eq!(store.size(table).await.expect("a table has a size").1, 390);
}

async fn retention_drops_what_is_old<S: Store, R: Future<Output = Arc<S>>>(reopen: &impl Fn() -> R) {
    const DAY_US: i64 = 86_400_000_000;
    let store = reopen().await;
    let table = "default/kept_changes";
    let kept = TableDefinition {
        retention_us: Some(DAY_US),
        ..definition(table)
    };
    store.ensure_table(&kept).await.expect("a table can be created");
    // Rows of cut 0 are at day 0, rows of cut 1 two days later.
    store
        .append(table, FIRST_CUT, vec![rows(0, 7)])
        .await
        .expect("a block can be appended");
    store
        .append(table, FIRST_CUT + 172_800_000, vec![rows(172_800_000, 4)])
        .await
        .expect("a block can be appended");
    let now = FIRST_CUT as i64 * 1000;
    store
        .maintain(table, now + DAY_US / 2)
        .await
        .expect("maintenance succeeds");
    assert_eq!(
        store.size(table).await.expect("a table has a size").1,
        11,
        "nothing is old enough yet"
    );
    store
        .maintain(table, now + 2 * DAY_US)
        .await
        .expect("maintenance succeeds");
    assert_eq!(
        store.size(table).await.expect("a table has a size").1,
        4,
        "the old rows are gone"
    );
    store
        .maintain(table, now + 9 * DAY_US)
        .await
        .expect("maintenance succeeds");
    assert_eq!(
        store.size(table).await.expect("a table has a size"),
        (0, 0),
        "all rows are gone"
    );
    drop(store);
    let store = reopen().await;
    assert_eq!(
        store.last_cut(table).await,
        Ok(Some(FIRST_CUT + 172_800_000)),
        "the last cut outlives the rows"
    );
}

async fn dropping_is_final<S: Store, R: Future<Output = Arc<S>>>(reopen: &impl Fn() -> R) {
    let store = reopen().await;
    let table = "Team X/gone.changes";
    store
        .ensure_table(&definition(table))
        .await
        .expect("a table can be created");
    store
        .append(table, FIRST_CUT, vec![rows(0, 3)])
        .await
        .expect("a block can be appended");
    assert!(
        store
            .tables()
            .await
            .expect("tables can be listed")
            .contains(&table.to_owned())
    );
    store.drop_table(table).await.expect("a table can be dropped");
    assert!(matches!(
        store.drop_table(table).await,
        Err(StoreError::Missing { .. })
    ));
    assert!(
        !store
            .tables()
            .await
            .expect("tables can be listed")
            .contains(&table.to_owned())
    );
    store
        .ensure_table(&definition(table))
        .await
        .expect("the name is free again");
    assert_eq!(
        store.last_cut(table).await,
        Ok(None),
        "a new table of an old name is new"
    );
    assert_eq!(store.size(table).await.expect("a table has a size").1, 0);
    let expected = [
        "Team X/gone.changes",
        "default/checked_changes",
        "default/kept_changes",
        "default/parted_changes",
        "default/small_changes",
        "spans",
    ];
    assert_eq!(
        store.tables().await.expect("tables can be listed"),
        expected,
        "names are listed as they were given"
    );
}
