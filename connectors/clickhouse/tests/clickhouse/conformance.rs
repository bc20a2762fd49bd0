//! ClickHouse keeps the contract of a store.

use pyflare_connectors::conformance::{removal, store};

use crate::service::Service;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clickhouse_is_a_store() {
    let Some(service) = Service::start() else { return };
    store::run(|| service.store("conformance")).await;
    removal::run(|| service.store("removal")).await;
}
