//! Delta Lake tables keep the contract of a store.

use std::time::Duration;

use pyflare_connectors::conformance::store;
use pyflare_delta::{DeltaOptions, DeltaStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delta_tables_are_a_store() {
    for file_grace in [Duration::ZERO, Duration::from_secs(3600)] {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("tables");
        let options = DeltaOptions { file_grace };
        store::run(|| async { DeltaStore::open_with(&directory, options.clone()).unwrap() }).await;
    }
}
