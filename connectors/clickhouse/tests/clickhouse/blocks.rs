//! Blocks that are written again: after an answer that did not come, after a crash, cut into other parts.

use pyflare_clickhouse::ClickHouseStore;
use pyflare_connectors::conformance::store::{FIRST_CUT, definition, rows};
use pyflare_connectors::{Part, Store, StoreError};

use crate::service::Service;

const TABLE: &str = "spans";

/// Appends as the flusher does: again after a failure.
async fn append(store: &ClickHouseStore, cut: u64, parts: impl Fn() -> Vec<Part>) -> usize {
    for attempt in 1..5 {
        match store.append_parts(TABLE, cut, parts()).await {
            Ok(()) => return attempt,
            Err(error) => eprintln!("attempt {attempt}: {error}"),
        }
    }
    panic!("a block must be written within five attempts")
}

fn offsets(service: &Service, database: &str) -> String {
    service.ask(&format!(
        "SELECT count(), uniqExact(_offset), min(_offset), max(_offset) FROM {database}.spans"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_drops_a_block_it_has_seen() {
    let Some(service) = Service::start() else { return };
    let store = service.store("tokens").await;
    store.ensure_table(&definition(TABLE)).await.unwrap();
    store.append(TABLE, FIRST_CUT, vec![rows(0, 5)]).await.unwrap();
    service.ask("CREATE TABLE tokens.copy AS tokens.spans");
    service.ask("CREATE TABLE tokens.forgetful AS tokens.spans");
    service.ask("ALTER TABLE tokens.forgetful MODIFY SETTING non_replicated_deduplication_window = 0");
    for table in ["copy", "forgetful"] {
        for _ in 0..3 {
            let repeated = format!(
                "INSERT INTO tokens.{table} SETTINGS insert_deduplication_token = 'a/0/1/0' SELECT * FROM tokens.spans LIMIT 5"
            );
            assert_eq!(service.ask(&repeated), "");
        }
    }
    assert_eq!(service.ask("SELECT count() FROM tokens.copy"), "5");
    assert_eq!(
        service.ask("SELECT count() FROM tokens.forgetful"),
        "15",
        "without a window the engine doubles: the setting is what protects"
    );
}

/// A process that dies after some parts, before the cut is declared complete; the next one has the same parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_completes_half_a_block() {
    let Some(service) = Service::start() else { return };
    let parts = || vec![Part::of(vec![rows(10, 10)]), Part::of(vec![rows(20, 7)])];
    let store = service.store("replay").await;
    store.ensure_table(&definition(TABLE)).await.unwrap();
    store.append(TABLE, FIRST_CUT, vec![rows(0, 10)]).await.unwrap();
    store.append_parts(TABLE, FIRST_CUT + 1, parts()).await.unwrap();
    // As if the crash had come before the cut was declared complete, after one of two parts or both.
    for keep in ["_offset < 20", "_offset >= 20 OR _offset < 10", "true"] {
        service.ask(&format!(
            "ALTER TABLE replay.spans DELETE WHERE NOT ({keep}) SETTINGS mutations_sync = 2"
        ));
        service.ask(&format!(
            "ALTER TABLE replay._pyflare_cuts DELETE WHERE cut > {FIRST_CUT} SETTINGS mutations_sync = 2"
        ));
        let again = service.store("replay").await;
        assert_eq!(again.last_cut(TABLE).await, Ok(Some(FIRST_CUT)));
        let attempts = append(&again, FIRST_CUT + 1, parts).await;
        assert_eq!(offsets(&service, "replay"), "27\t27\t0\t26", "kept {keep}");
        assert_eq!(again.last_cut(TABLE).await, Ok(Some(FIRST_CUT + 1)));
        if keep == "true" {
            assert_eq!(attempts, 1, "what is there already is dropped by its token");
        }
    }
}

/// The same, with a replay that cuts the rows into other parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_in_other_parts_leaves_nothing_twice() {
    let Some(service) = Service::start() else { return };
    let first = || vec![Part::of(vec![rows(0, 10)]), Part::of(vec![rows(10, 7)])];
    let other = || {
        vec![
            Part::of(vec![rows(0, 4), rows(4, 9)]),
            Part::of(vec![rows(13, 4)]),
        ]
    };
    let store = service.store("other").await;
    store.ensure_table(&definition(TABLE)).await.unwrap();
    store.append_parts(TABLE, FIRST_CUT, first()).await.unwrap();
    for round in 0..3 {
        service.ask("ALTER TABLE other._pyflare_cuts DELETE WHERE true SETTINGS mutations_sync = 2");
        let again = service.store("other").await;
        assert_eq!(again.last_cut(TABLE).await, Ok(None));
        assert_eq!(
            again
                .provider(TABLE)
                .await
                .unwrap()
                .unwrap()
                .schema()
                .fields()
                .len(),
            11
        );
        let attempts = if round % 2 == 0 {
            append(&again, FIRST_CUT, other).await
        } else {
            append(&again, FIRST_CUT, first).await
        };
        assert!(attempts <= 2, "{attempts} attempts");
        assert_eq!(offsets(&service, "other"), "17\t17\t0\t16", "round {round}");
    }
}

/// The engine is killed between and during blocks; whoever appends goes on once it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_engine_keeps_what_it_acknowledged() {
    let Some(mut service) = Service::start() else {
        return;
    };
    let store = service.store("killed").await;
    store.ensure_table(&definition(TABLE)).await.unwrap();
    store.append(TABLE, FIRST_CUT, vec![rows(0, 100)]).await.unwrap();
    service.kill();
    let away = store.append(TABLE, FIRST_CUT + 1, vec![rows(100, 100)]).await;
    assert!(matches!(away, Err(StoreError::Unreachable { .. })), "{away:?}");
    assert!(away.unwrap_err().to_string().contains("PF-2305"));
    service.start_again();
    assert_eq!(offsets(&service, "killed"), "100\t100\t0\t99");
    for block in 1..4_u64 {
        let first = block as i64 * 100;
        let pending = {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move {
                append(&store, FIRST_CUT + block, || {
                    vec![Part::of(vec![rows(first, 100)])]
                })
                .await
            })
        };
        if block == 2 {
            service.kill();
            service.start_again();
        }
        if pending.await.is_err() {
            append(&store, FIRST_CUT + block, || {
                vec![Part::of(vec![rows(first, 100)])]
            })
            .await;
        }
    }
    assert_eq!(offsets(&service, "killed"), "400\t400\t0\t399");
    let again = service.store("killed").await;
    assert_eq!(again.last_cut(TABLE).await, Ok(Some(FIRST_CUT + 3)));
}
