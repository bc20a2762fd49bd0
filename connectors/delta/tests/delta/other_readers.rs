//! A reader that shares no code with the writer's path, Python's delta-rs with Polars, finds the same rows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pyflare_connectors::Store;
use pyflare_connectors::conformance::store::{FIRST_CUT, definition, rows};
use pyflare_delta::{DeltaOptions, DeltaStore};
use serde_json::{Value, json};

const PACKAGES: [&str; 2] = ["deltalake==1.6.6", "polars==2.1.0"];

/// A Python that has the packages, or the reason why there is none.
fn python() -> Result<PathBuf, String> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("delta-readers");
    let python = place.join("bin/python");
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    if !python.exists() {
        run(Command::new("python3").arg("-m").arg("venv").arg(&place))?;
    }
    if run(Command::new(&python).args(["-c", "import deltalake, polars"])).is_err() {
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(PACKAGES))?;
    }
    Ok(python)
}

/// What `rows` puts into row `n`.
fn expected(n: i64) -> Value {
    let time = chrono::DateTime::from_timestamp_micros(FIRST_CUT as i64 * 1000 + n * 1000).unwrap();
    let labels: Vec<String> = (0..n % 3).map(|element| element.to_string()).collect();
    let attributes: serde_json::Map<String, Value> = (0..n % 3)
        .map(|key| (format!("key {key}"), json!(format!("\"{n} ü\""))))
        .collect();
    json!({
        "trace_id": format!("{n:032x}"),
        "event_time": time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        "error": (n % 4 != 0).then_some(n % 2 == 0),
        "count": (n % 3 != 0).then_some(n),
        "temperature": n as f64 / 7.0,
        "cost": (n % 2 == 0).then(|| format!("{}.000000000001", i128::from(n) * 1_000_000_000_000)),
        "labels": (n % 5 != 0).then_some(labels),
        "attributes": (n % 7 != 0).then_some(attributes),
        "tick": FIRST_CUT as i64 + n,
        "offset": n,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_reads_what_was_appended() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => {
            eprintln!("skipped: no Python with {PACKAGES:?}: {reason}");
            return;
        }
    };
    let place = tempfile::tempdir().unwrap();
    let store = DeltaStore::open_with(
        place.path(),
        DeltaOptions {
            file_grace: Duration::ZERO,
        },
    )
    .unwrap();
    store
        .ensure_table(&definition("default/read_changes"))
        .await
        .unwrap();
    // Beyond a checkpoint of the log, and with merged files among the others.
    for block in 0..120_u64 {
        let batches = vec![rows(block as i64 * 2, 2)];
        store
            .append("default/read_changes", FIRST_CUT + block, batches)
            .await
            .unwrap();
        if block == 50 {
            store
                .maintain("default/read_changes", FIRST_CUT as i64 * 1000)
                .await
                .unwrap();
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/delta/read_with_polars.py");
    let output = Command::new(python)
        .arg(script)
        .arg(place.path().join("default.read_changes"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["cut"], json!(FIRST_CUT + 119));
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 240);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row, &expected(number as i64), "row {number}");
    }
    assert_eq!(found["schema"]["cost"], json!("decimal(38,12)"));
    assert_eq!(found["schema"]["event_time"], json!("timestamp"));
    assert_eq!(found["schema"]["trace_id"], json!("string"));
    assert_eq!(found["schema"]["attributes"]["type"], json!("map"));
}
