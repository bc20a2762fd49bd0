//! What cannot be a store is refused, with what it is and what to do.

use std::time::Duration;

use pyflare_clickhouse::{Address, ClickHouseStore};
use pyflare_connectors::conformance::store::definition;
use pyflare_connectors::{Store, StoreError};

use crate::service::Service;

async fn refusal(address: Address) -> String {
    let refused = ClickHouseStore::open_within(address, Duration::ZERO).await;
    refused.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_of_others_are_left_alone() {
    let Some(service) = Service::start() else { return };
    service.ask("CREATE DATABASE foreign");
    service.ask("CREATE TABLE foreign.orders (id Int64) ENGINE = MergeTree ORDER BY id");
    let refused = refusal(service.address("foreign")).await;
    assert!(
        refused.contains("PF-2307") && refused.contains("orders"),
        "{refused}"
    );
    assert_eq!(
        service.ask("SELECT count() FROM system.tables WHERE database = 'foreign'"),
        "1"
    );

    let store = service.store("newer").await;
    store.ensure_table(&definition("spans")).await.unwrap();
    drop(store);
    service.store("newer").await;
    service.ask("INSERT INTO newer._pyflare_schema (version, written_by) VALUES (99, 'later')");
    let refused = refusal(service.address("newer")).await;
    assert!(refused.contains("PF-2307") && refused.contains("99"), "{refused}");

    service.ask("CREATE DATABASE unnumbered ENGINE = Memory");
    let store = service.store("unnumbered").await;
    let refused = store
        .ensure_table(&definition("spans"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("PF-2307") && refused.contains("Atomic"),
        "{refused}"
    );

    let store = service.store("mixed").await;
    service.ask("CREATE TABLE mixed.spans (id Int64) ENGINE = MergeTree ORDER BY id");
    assert!(matches!(
        store.ensure_table(&definition("spans")).await,
        Err(StoreError::Schema { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_passwords_and_silent_addresses_are_named() {
    let Some(service) = Service::start() else { return };
    let url = format!("clickhouse://pyflare@127.0.0.1:{}/secured", service.port);
    let with = |password: &str| Address::parse(&url, Some(password.to_owned())).unwrap();
    let refused = refusal(with("a guess")).await;
    assert!(
        refused.contains("PF-2306") && refused.contains("store.password"),
        "{refused}"
    );
    assert!(!refused.contains("a guess"), "{refused}");
    let store = ClickHouseStore::open(with("tell-nobody")).await.unwrap();
    store.ensure_table(&definition("spans")).await.unwrap();
    assert!(!format!("{store:?}").contains("tell-nobody"));

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let nowhere = Address::parse(&format!("clickhouse://127.0.0.1:{port}"), None).unwrap();
    let refused = refusal(nowhere).await;
    assert!(
        refused.contains("PF-2305") && refused.contains(&port.to_string()),
        "{refused}"
    );
}
