//! A disk that fails in the middle of a group commit, and a writer thread that panics.

#![allow(clippy::unwrap_used)]

use parking_lot::RwLock;
use pyflare_connectors::conformance::record;
use pyflare_connectors::{LogRecord, Signal};

use super::*;
use crate::budget::DiskBudget;
use crate::owner::Owner;
use crate::partition::{Durable, Shared};
use crate::tail::Tail;

fn partition(directory: &std::path::Path) -> Arc<Partition> {
    let budget = Arc::new(DiskBudget::new(directory.to_path_buf(), 1 << 30, 0));
    let durable = Durable {
        segments: Vec::new(),
        tail: Tail::new(0, 0),
        end: 0,
    };
    let shared = Shared {
        budget,
        listeners: Arc::new(RwLock::new(Vec::new())),
        owner: Arc::new(Owner::take(directory).unwrap()),
    };
    let path = directory.to_path_buf();
    Arc::new(Partition::new(Signal::Traces, 0, path, 1 << 20, &shared, durable))
}

/// Queues the records and lets the writer commit them as one group.
fn commit(writer: &mut Writer, records: &[LogRecord], break_disk: bool) -> Vec<Result<Appended, LogError>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let appends: Vec<_> = records
            .iter()
            .map(|record| {
                let (partition, record) = (Arc::clone(&writer.partition), record.clone());
                tokio::spawn(async move { partition.append(record).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let waiting = mem::take(&mut writer.partition.queue.lock().waiting);
        assert_eq!(waiting.len(), records.len());
        for pending in waiting {
            let body = StoredBody::as_it_came(&pending.record.body);
            let position = writer.place(&pending.record, body).unwrap();
            writer.group.push((position, pending));
        }
        if break_disk {
            writer.active.as_mut().unwrap().break_writing();
        }
        writer.commit();
        let mut outcomes = Vec::new();
        for append in appends {
            outcomes.push(append.await.unwrap());
        }
        outcomes
    })
}

fn records(numbers: std::ops::Range<u64>) -> Vec<LogRecord> {
    numbers
        .map(|number| record(Signal::Traces, number, 5000))
        .collect()
}

#[test]
fn a_failed_commit_is_refused_whole_and_the_log_goes_on_in_a_new_segment() {
    for good_before in [0, 3] {
        let directory = tempfile::tempdir().unwrap();
        let partition = partition(directory.path());
        let mut writer = Writer::new(Arc::clone(&partition), None);
        assert!(
            commit(&mut writer, &records(0..good_before), false)
                .iter()
                .all(Result::is_ok)
        );
        let failed = commit(&mut writer, &records(10..13), true);
        assert!(
            failed
                .iter()
                .all(|outcome| matches!(outcome, Err(LogError::Io { .. }))),
            "{failed:?}"
        );
        assert_eq!(partition.end(), good_before);

        let after = commit(&mut writer, &records(20..22), false);
        let offsets: Vec<u64> = after.into_iter().map(|outcome| outcome.unwrap().offset).collect();
        assert_eq!(offsets, [good_before, good_before + 1]);
        let mut expected = records(0..good_before);
        expected.extend(records(20..22));
        let mut read = Vec::new();
        while (read.len() as u64) < partition.end() {
            let next = partition.read(read.len() as u64, usize::MAX).unwrap();
            read.extend(next.into_iter().map(|(_, record)| record));
        }
        assert_eq!(read, expected);

        let mut active = writer.active.take().unwrap();
        active.seal(&partition.budget).unwrap();
        let on_disk: u64 = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name() != "OWNER")
            .map(|entry| entry.metadata().unwrap().len())
            .sum();
        assert_eq!(
            partition.budget.usage().0,
            on_disk,
            "usage is what stands on disk"
        );
    }
}

fn mistaken_listener() {
    panic!("a listener's mistake");
}

#[test]
fn a_writer_that_panics_leaves_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let partition = partition(directory.path());
    partition.listeners.write().push(Arc::new(mistaken_listener));
    let writer = Writer::new(Arc::clone(&partition), None);
    let thread = std::thread::spawn(move || writer.run(Packer::new().unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let patience = Duration::from_secs(10);
        let all = records(0..3);
        // Its commit was durable before the panic.
        tokio::time::timeout(patience, partition.append(all[0].clone()))
            .await
            .unwrap()
            .unwrap();
        for record in &all[1..] {
            let refused = tokio::time::timeout(patience, partition.append(record.clone())).await;
            assert_eq!(refused.unwrap().unwrap_err().code(), "PF-2008");
        }
    });
    assert!(thread.join().is_err());
    assert_eq!(partition.failure().map(|failure| failure.code()), Some("PF-2008"));
}

#[test]
fn who_was_taken_over_tells_nobody_of_success_and_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let first = partition(directory.path());
    let mut writer = Writer::new(Arc::clone(&first), None);
    let told = commit(&mut writer, &records(0..2), false);
    assert!(told.iter().all(Result::is_ok));
    // Another process opens the log, finds two records, and goes on in a segment of its own.
    let _second = Owner::take(directory.path()).unwrap();
    let refused = commit(&mut writer, &records(2..4), false);
    for outcome in refused {
        assert_eq!(outcome.unwrap_err().code(), "PF-2018");
    }
    assert_eq!(first.end(), 2);
    let late = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(first.append(records(4..5).remove(0)));
    assert_eq!(late.unwrap_err().code(), "PF-2018");
}
