//! `kill -9` at any moment leaves a table that opens, has every acknowledged cut once and no half of any other.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use pyflare_connectors::Store;
use pyflare_connectors::conformance::store::{FIRST_CUT, definition, rows};
use pyflare_delta::{DeltaOptions, DeltaStore};

const DIRECTORY: &str = "PYFLARE_DELTA_CRASH_DIRECTORY";
const BLOCK: usize = 500;

fn options() -> DeltaOptions {
    DeltaOptions {
        file_grace: Duration::ZERO,
    }
}

/// The process that is killed; does nothing where it is run as a test of its own.
#[test]
fn writer() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = DeltaStore::open_with(directory, options()).unwrap();
        store.ensure_table(&definition("spans")).await.unwrap();
        let first = store
            .last_cut("spans")
            .await
            .unwrap()
            .map_or(0, |cut| cut - FIRST_CUT + 1);
        for number in first.. {
            let block = vec![rows(number as i64 * BLOCK as i64, BLOCK)];
            store.append("spans", FIRST_CUT + number, block).await.unwrap();
            println!("acknowledged {number}");
            if number % 9 == 8 {
                store.maintain("spans", FIRST_CUT as i64 * 1000).await.unwrap();
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_writer_loses_nothing_acknowledged() {
    if std::env::var(DIRECTORY).is_ok() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::writer", "--nocapture"])
            .env(DIRECTORY, place.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = None;
        for line in lines.by_ref() {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = Some(number.parse::<u64>().unwrap());
                if number.parse::<u64>().unwrap() % 7 >= round % 7 {
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_micros(round * 1700));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("acknowledged ") {
                acknowledged = Some(number.parse().unwrap());
            }
        }

        let store = DeltaStore::open_with(place.path(), options()).unwrap();
        let last = store.last_cut("spans").await.unwrap().unwrap() - FIRST_CUT;
        assert!(
            last >= acknowledged.unwrap(),
            "round {round}: {last} after {acknowledged:?}"
        );
        let (_, stored) = store.size("spans").await.unwrap();
        assert_eq!(stored, (last + 1) * BLOCK as u64, "round {round}");
        // A replay repeats cuts that are there already.
        store
            .append(
                "spans",
                FIRST_CUT + last,
                vec![rows(last as i64 * BLOCK as i64, BLOCK)],
            )
            .await
            .unwrap();
        assert_eq!(store.size("spans").await.unwrap().1, stored, "round {round}");
        store.maintain("spans", FIRST_CUT as i64 * 1000).await.unwrap();
        let provider = store.provider("spans").await.unwrap().unwrap();
        let context = datafusion::prelude::SessionContext::new();
        context.register_table("t", provider).unwrap();
        let query = "SELECT count(DISTINCT _offset) AS d, count(*) AS n, max(_offset) AS m FROM t";
        let found = context.sql(query).await.unwrap().collect().await.unwrap();
        let values: Vec<i64> = found[0]
            .columns()
            .iter()
            .map(|column| arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(column).value(0))
            .collect();
        assert_eq!(
            values,
            [stored as i64, stored as i64, stored as i64 - 1],
            "round {round}"
        );
    }
    let files: Vec<PathBuf> = std::fs::read_dir(place.path().join("spans"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
        .collect();
    assert!(
        files.len() < 30,
        "merged and orphaned files are deleted: {files:?}"
    );
}
