//! The embedded log keeps the contract of `Log`, and survives torn tails, damage and full disks.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use pyflare_connectors::conformance::{self, record, written_records};
use pyflare_connectors::{Log, LogError, LogRecord, Signal};
use pyflare_log::{EmbeddedLog, LogOptions};

fn options(directory: &Path) -> LogOptions {
    LogOptions {
        directory: directory.to_path_buf(),
        partitions: 1,
        cap_bytes: 1 << 30,
        min_free_bytes: 0,
        segment_bytes: 300_000,
        tail_bytes: 200_000,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory.join("otlp_spans/0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    paths.sort();
    paths
}

/// Takes away what processes after the first one appended.
fn only_first_segment(directory: &Path) {
    for later in &segments(directory)[1..] {
        fs::remove_file(later).unwrap();
    }
}

/// Appends `count` records one after another, so that each is a commit of its own.
fn fill(log: &EmbeddedLog, from: u64, count: u64, bytes: usize) -> Vec<LogRecord> {
    let records = (from..from + count).map(|number| record(Signal::Traces, number, bytes));
    append(log, records.collect())
}

fn append(log: &EmbeddedLog, records: Vec<LogRecord>) -> Vec<LogRecord> {
    runtime().block_on(async {
        for record in &records {
            log.append(record.clone()).await.unwrap();
        }
    });
    records
}

/// A record whose body repeats itself and therefore compresses.
fn repetitive(number: u64, bytes: usize) -> LogRecord {
    let mut record = record(Signal::Traces, number, 64);
    let whole = record.body.repeat(bytes.div_ceil(64).max(1));
    record.body = whole[..bytes.max(8)].to_vec().into();
    record
}

/// On disk, with header, names and padding.
fn record_bytes(body: u64) -> u64 {
    (64 + body + 15).next_multiple_of(8)
}

fn all(log: &EmbeddedLog) -> Vec<LogRecord> {
    written_records(log, Signal::Traces, 0, 1 << 20)
}

#[test]
fn conforms_with_small_and_large_segments_and_one_or_more_partitions() {
    for (partitions, segment_bytes, tail_bytes) in [
        (1, 1 << 20, 1 << 30),
        (1, 100_000, 0),
        (3, 100_000, 50_000),
        (2, 1 << 28, 1000),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let open = || -> Arc<dyn Log> {
            let options = LogOptions {
                partitions,
                segment_bytes,
                tail_bytes,
                ..options(directory.path())
            };
            EmbeddedLog::open(options).unwrap()
        };
        runtime().block_on(conformance::log(&open));
    }
}

#[test]
fn many_appenders_share_commits_and_every_record_is_there_once() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let mut offsets: Vec<u64> = runtime.block_on(async {
        let tasks: Vec<_> = (0..16_u64)
            .map(|task| {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    let mut offsets = Vec::new();
                    for at in 0..50 {
                        let sent = record(Signal::Traces, task * 1000 + at, 3000);
                        let appended = log.append(sent.clone()).await.unwrap();
                        let read = log.read(Signal::Traces, 0, appended.offset, 1).unwrap();
                        assert_eq!(
                            read,
                            [(appended.offset, sent)],
                            "what is acknowledged can be read"
                        );
                        offsets.push(appended.offset);
                    }
                    offsets
                })
            })
            .collect();
        let mut offsets = Vec::new();
        for task in tasks {
            offsets.extend(task.await.unwrap());
        }
        offsets
    });
    offsets.sort_unstable();
    assert_eq!(offsets, (0..800).collect::<Vec<u64>>());
    let mut numbers: Vec<u64> = all(&log)
        .iter()
        .map(|record| u64::from_le_bytes(record.body[..8].try_into().unwrap()))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), 800);
    numbers.dedup();
    assert_eq!(numbers.len(), 800);
}

#[test]
fn a_read_from_the_tail_hands_out_the_appended_bytes_without_copying() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    let sent = fill(&log, 0, 3, 1000);
    for (offset, read) in log.read(Signal::Traces, 0, 0, usize::MAX).unwrap() {
        assert_eq!(read.body.as_ptr(), sent[offset as usize].body.as_ptr());
    }
}

#[test]
fn cut_anywhere_in_the_last_commit_it_keeps_every_earlier_record() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    let sent = fill(&log, 0, 5, 700);
    drop(log);
    let path = segments(directory.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let last = whole.len() - (64 + 700 + sent[4].project.len()).next_multiple_of(8);
    for cut in (last..whole.len()).step_by(37) {
        only_first_segment(directory.path());
        fs::write(&path, &whole[..cut]).unwrap();
        let log = EmbeddedLog::open(options(directory.path())).unwrap();
        assert_eq!(all(&log), sent[..4]);
        let more = fill(&log, 100, 2, 50);
        drop(log);
        let log = EmbeddedLog::open(options(directory.path())).unwrap();
        assert_eq!(all(&log), [&sent[..4], &more[..]].concat());
    }
}

#[test]
fn bodies_that_repeat_themselves_take_a_tenth_of_the_disk_and_come_back_whole() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions {
        tail_bytes: 0,
        ..options(directory.path())
    };
    let log = EmbeddedLog::open(options.clone()).unwrap();
    let sent = append(&log, (0..40).map(|number| repetitive(number, 50_000)).collect());
    assert_eq!(all(&log), sent);
    drop(log);
    let log = EmbeddedLog::open(options).unwrap();
    assert_eq!(all(&log), sent);
    assert!(
        log.usage().unwrap().0 < 40 * 50_000 / 10,
        "{} bytes on disk",
        log.usage().unwrap().0
    );
    let limited = log.read(Signal::Traces, 0, 0, 120_000).unwrap();
    assert_eq!(limited.len(), 2, "limits are about bodies as they were sent");
}

#[test]
fn preallocated_zeros_and_garbage_after_the_last_record_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    let sent = fill(&log, 0, 5, 700);
    drop(log);
    let path = segments(directory.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    for end in [vec![0_u8; 50_000], vec![0xA5; 50_000], b"PFLR".repeat(1000)] {
        only_first_segment(directory.path());
        fs::write(&path, [&whole[..], &end[..]].concat()).unwrap();
        let log = EmbeddedLog::open(options(directory.path())).unwrap();
        assert_eq!(all(&log), sent);
        let length = || fs::metadata(&path).unwrap().len();
        assert_eq!(
            length(),
            (whole.len() + end.len()) as u64,
            "opening repairs nothing"
        );
        let next = fill(&log, 5, 1, 700);
        drop(log);
        assert_eq!(length(), whole.len() as u64, "the first append does");
        assert_eq!(
            segments(directory.path()).len(),
            2,
            "and begins a segment of its own"
        );
        let log = EmbeddedLog::open(options(directory.path())).unwrap();
        assert_eq!(all(&log), [&sent[..], &next[..]].concat());
    }
}

#[test]
fn an_old_record_inside_a_body_cannot_pass_for_a_later_commit() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    fill(&log, 0, 2, 700);
    drop(log);
    let path = segments(directory.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // The records as they stand in another segment, under another salt, in the torn end of this one.
    let other = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(other.path())).unwrap();
    fill(&log, 0, 20, 700);
    drop(log);
    let foreign = fs::read(segments(other.path()).pop().unwrap()).unwrap();
    bytes.extend_from_slice(&[0; 4096]);
    bytes.extend_from_slice(&foreign[4096..]);
    fs::write(&path, bytes).unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    assert_eq!(all(&log).len(), 2);
}

#[test]
fn damage_in_the_middle_is_refused_and_names_file_and_byte() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    fill(&log, 0, 8, 700);
    drop(log);
    let path = segments(directory.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let third = 4096 + 2 * record_bytes(700) as usize;
    for at in [third + 2, third + 30, third + 200] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        match EmbeddedLog::open(options(directory.path())) {
            Err(LogError::Corrupt {
                path: named,
                position,
                ..
            }) => {
                assert_eq!(named, path.display().to_string());
                assert!(
                    position as usize <= at && at < position as usize + 800,
                    "{position} for {at}"
                );
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("damage at byte {at} went unnoticed"),
        }
        assert_eq!(
            fs::read(&path).unwrap(),
            damaged,
            "a damaged file is left as it is"
        );
    }
}

#[test]
fn damage_in_an_older_segment_is_refused_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    let sent = fill(&log, 0, 40, 50_000);
    drop(log);
    let paths = segments(directory.path());
    assert!(paths.len() > 3);
    let mut bytes = fs::read(&paths[1]).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    fs::write(&paths[1], bytes).unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    let mut offset = 0;
    let error = loop {
        match log.read(Signal::Traces, 0, offset, 1) {
            Ok(read) => offset += read.len() as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "PF-2004");
    assert!(
        error.to_string().contains(&paths[1].display().to_string()),
        "{error}"
    );
    assert!((4..12).contains(&offset));
    assert_eq!(log.end_offset(Signal::Traces, 0), sent.len() as u64);
}

#[test]
fn the_cap_refuses_new_records_keeps_the_old_and_trimming_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let capped = LogOptions {
        cap_bytes: 1_000_000,
        ..options(directory.path())
    };
    let log = EmbeddedLog::open(capped.clone()).unwrap();
    let mut sent = 0;
    let refused = runtime().block_on(async {
        loop {
            match log.append(record(Signal::Traces, sent, 20_000)).await {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
        }
    });
    assert_eq!(refused.code(), "PF-2001");
    assert!(sent >= 40, "only {sent} records of 20 kB fitted into 1 MB");
    let (used, cap) = log.usage().unwrap();
    assert!(used <= cap && cap == 1_000_000);
    assert_eq!(all(&log).len() as u64, sent);
    drop(log);

    let log = EmbeddedLog::open(capped).unwrap();
    assert_eq!(all(&log).len() as u64, sent);
    let on_disk: u64 = segments(directory.path())
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert_eq!(log.usage().unwrap().0, on_disk, "usage is what stands on disk");
    log.trim(Signal::Traces, 0, sent - 1).unwrap();
    assert!(log.usage().unwrap().0 < used / 2);
    assert!(matches!(log.read(Signal::Traces, 0, 0, 1), Err(LogError::Trimmed { first, .. }) if first > 0));
    fill(&log, sent, 10, 20_000);
}

#[test]
fn a_disk_kept_free_for_others_refuses_before_it_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(LogOptions {
        min_free_bytes: u64::MAX,
        ..options(directory.path())
    })
    .unwrap();
    let refused = runtime()
        .block_on(log.append(record(Signal::Traces, 0, 100)))
        .unwrap_err();
    assert_eq!(refused.code(), "PF-2002");
    assert!(all(&log).is_empty());
}

#[test]
fn after_close_appends_are_refused_and_reads_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(directory.path())).unwrap();
    let sent = fill(&log, 0, 3, 100);
    log.close();
    let refused = runtime()
        .block_on(log.append(record(Signal::Traces, 9, 100)))
        .unwrap_err();
    assert_eq!(refused.code(), "PF-2006");
    assert_eq!(all(&log), sent);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any sizes, any restarts: what was acknowledged is there, in order, once.
    #[test]
    fn equals_a_list(
        steps in proptest::collection::vec(
            (0..90_000_usize, any::<bool>(), proptest::bool::weighted(0.1)),
            1..60,
        ),
        tail_bytes in 0..300_000_u64,
        segment_bytes in 70_000..400_000_u64,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let options = LogOptions { tail_bytes, segment_bytes, ..options(directory.path()) };
        let mut log = EmbeddedLog::open(options.clone()).unwrap();
        let mut expected = Vec::new();
        for (number, (bytes, repeats, restart)) in steps.into_iter().enumerate() {
            let made = match repeats {
                true => repetitive(number as u64, bytes),
                false => record(Signal::Traces, number as u64, bytes),
            };
            expected.extend(append(&log, vec![made]));
            if restart {
                drop(log);
                log = EmbeddedLog::open(options.clone()).unwrap();
            }
        }
        prop_assert_eq!(all(&log), expected.clone());
        for portion in [1, 100_000] {
            prop_assert_eq!(&written_records(&*log, Signal::Traces, 0, portion), &expected);
        }
    }
}

/// What came before a seal lies in files of its own, which can be deleted although no file is full; also without a record
/// after it, and after a restart.
#[test]
fn what_is_sealed_can_be_trimmed() {
    let place = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(options(place.path())).unwrap();
    fill(&log, 0, 5, 100);
    log.trim(Signal::Traces, 0, 5).unwrap();
    assert_eq!(
        log.start_offset(Signal::Traces, 0),
        0,
        "the file that is written stays"
    );
    log.seal();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while log.start_offset(Signal::Traces, 0) < 5 {
        assert!(std::time::Instant::now() < deadline, "it is sealed");
        std::thread::sleep(std::time::Duration::from_millis(5));
        log.trim(Signal::Traces, 0, 5).unwrap();
    }
    assert_eq!(segments(place.path()).len(), 1);
    // With nothing new a seal makes no file.
    log.seal();
    let more = fill(&log, 5, 2, 100);
    assert_eq!(all_from(&log, 5), more);
    drop(log);
    let log = EmbeddedLog::open(options(place.path())).unwrap();
    assert_eq!(log.start_offset(Signal::Traces, 0), 5);
    assert_eq!(all_from(&log, 5), more);
    assert!(matches!(
        log.read(Signal::Traces, 0, 4, usize::MAX),
        Err(LogError::Trimmed { first: 5, .. })
    ));
}

fn all_from(log: &EmbeddedLog, offset: u64) -> Vec<LogRecord> {
    let records = log.read(Signal::Traces, 0, offset, usize::MAX).unwrap();
    records.into_iter().map(|(_, record)| record).collect()
}
