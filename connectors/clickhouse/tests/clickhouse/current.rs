//! The current content of a view, kept beside its changes, is what its changes add up to.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use pyflare_connectors::conformance::store::FIRST_CUT;
use pyflare_connectors::{Part, Store, TableDefinition};

use crate::service::Service;

const TABLE: &str = "default/counts@7_changes";

/// Keys (one may be NULL), counts and differences.
fn changes(tick: u64, rows: &[(Option<&str>, i64, i64)]) -> RecordBatch {
    let numbers = |number: fn(&(Option<&str>, i64, i64)) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(number)))
    };
    let ticks = Int64Array::from(vec![tick as i64; rows.len()]);
    RecordBatch::try_from_iter_with_nullable(vec![
        (
            "name",
            Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0))) as ArrayRef,
            true,
        ),
        ("count", numbers(|row| row.1), true),
        ("_tick", Arc::new(ticks), false),
        ("_diff", numbers(|row| row.2), false),
    ])
    .unwrap()
}

fn definition() -> TableDefinition {
    TableDefinition {
        name: TABLE.into(),
        schema: changes(0, &[]).schema(),
        retention_us: None,
        time_column: None,
        key: vec!["name".into()],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_current_content_is_the_sum_of_the_changes() {
    let Some(service) = Service::start() else { return };
    let store = service.store("current").await;
    store.ensure_table(&definition()).await.unwrap();
    assert_eq!(
        store.tables().await.unwrap(),
        [TABLE],
        "the content is not a table of its own"
    );
    let cuts: [&[(Option<&str>, i64, i64)]; 5] = [
        &[(Some("a"), 1, 1), (Some("b"), 5, 1), (None, 9, 1)],
        &[
            (Some("a"), 1, -1),
            (Some("a"), 2, 1),
            (Some("b"), 5, -1),
            (Some(""), 3, 1),
        ],
        &[(None, 9, -1), (None, 10, 1), (Some("b"), 6, 1)],
        &[(Some("a"), 2, -1), (None, 10, -1)],
        &[(Some("a"), 4, 1)],
    ];
    let summed = "SELECT name, count FROM current.`default/counts@7_changes` GROUP BY 1, 2 HAVING sum(_diff) > 0 ORDER BY 1, 2";
    let current = "SELECT name, count FROM current.`default/counts@7` FINAL ORDER BY 1, 2";
    for (number, rows) in cuts.iter().enumerate() {
        let cut = FIRST_CUT + number as u64;
        store.append(TABLE, cut, vec![changes(cut, rows)]).await.unwrap();
        assert_eq!(service.ask(current), service.ask(summed), "after cut {number}");
        if number == 2 {
            // A crash before the cut was declared complete: the block is written again.
            service.ask(&format!(
                "ALTER TABLE current._pyflare_cuts DELETE WHERE cut >= {cut} SETTINGS mutations_sync = 2"
            ));
            let again = service.store("current").await;
            again.ensure_table(&definition()).await.unwrap();
            let block = || vec![changes(cut, rows)];
            if again.append(TABLE, cut, block()).await.is_err() {
                again.append(TABLE, cut, block()).await.unwrap();
            }
            assert_eq!(
                service.ask(current),
                service.ask(summed),
                "after cut {number}, again"
            );
        }
    }
    assert_eq!(service.ask(current), "\t3\na\t4\nb\t6");
    // What expiries were not told of: rows that are there no more, and one that was never there.
    let cut = FIRST_CUT + 10;
    let untold = [
        (Some("b"), 2, -1),
        (Some("c"), 8, 1),
        (Some("a"), 3, -1),
        (Some("a"), 5, 1),
    ];
    store
        .append(TABLE, cut, vec![changes(cut, &untold)])
        .await
        .unwrap();
    // From now on it is this: b as it was, a otherwise, c not at all.
    let cut = cut + 2;
    let gone = [
        (Some(""), 3, -1),
        (Some("a"), 4, -1),
        (Some("a"), 5, -1),
        (Some("a"), 3, 1),
        (Some("b"), 6, -1),
        (Some("b"), 2, 1),
        (Some("c"), 8, -1),
    ];
    let shown = [(Some("a"), 5, 1), (Some("b"), 6, 1)];
    let block = vec![Part::of(vec![changes(cut - 1, &gone), changes(cut, &shown)])];
    store.renew_parts(TABLE, cut, block).await.unwrap();
    assert_eq!(service.ask(summed), "a\t5\nb\t6");
    assert_eq!(service.ask(current), service.ask(summed), "after a renewal");
    store.settle_changes(TABLE, cut).await.unwrap();
    assert_eq!(
        service.ask(current),
        service.ask(summed),
        "settled after a renewal"
    );
    // Another process knows what else there is to settle before it has written anything.
    let fresh = service.store("current").await;
    fresh.settle_changes(TABLE, cut).await.unwrap();
    let gone = "SELECT count() FROM current.`default/counts@7` WHERE _is_deleted = 1";
    assert_eq!(service.ask(gone), "0");
    store.drop_table(TABLE).await.unwrap();
    assert_eq!(
        service.ask("SELECT name FROM system.tables WHERE database = 'current' AND name LIKE 'default%'"),
        ""
    );
}
