//! Delta Lake tables keep the contract of a store.

use std::time::Duration;

use pyflare_connectors::conformance::{removal, store};
use pyflare_delta::{DeltaOptions, DeltaStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delta_tables_are_a_store() {
    for file_grace in [Duration::ZERO, Duration::from_secs(3600)] {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("tables");
        let options = DeltaOptions { file_grace };
        let reopen = || async { DeltaStore::open_with(&directory, options.clone()).unwrap() };
        store::run(reopen).await;
        removal::run(reopen).await;
    }
}
