//! A child process appends and is killed, or runs into a file-size limit in the middle of a write: every
//! record that it acknowledged is there once afterwards.
//!
//! The child is this test binary again, told by environment variables to run `child`; it prints the number of
//! a record once its append has been acknowledged.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyflare_connectors::conformance::{record, written_records};
use pyflare_connectors::{Log, Signal};
use pyflare_log::{EmbeddedLog, LogOptions};

const DIRECTORY: &str = "LOG_CRASH_DIRECTORY";
const FIRST: &str = "LOG_CRASH_FIRST";
const SEGMENT: &str = "LOG_CRASH_SEGMENT";
const FILE_LIMIT: &str = "LOG_CRASH_FILE_LIMIT";

fn options(directory: &Path, segment_bytes: u64) -> LogOptions {
    LogOptions {
        directory: directory.to_path_buf(),
        partitions: 2,
        cap_bytes: 1 << 32,
        min_free_bytes: 0,
        segment_bytes,
        tail_bytes: 1 << 20,
    }
}

/// Not a test of its own: what the child processes run.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let segment: u64 = std::env::var(SEGMENT).unwrap().parse().unwrap();
    if let Ok(limit) = std::env::var(FILE_LIMIT) {
        limit_file_size(limit.parse().unwrap());
    }
    let log = EmbeddedLog::open(options(Path::new(&directory), segment)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..8_u64)
            .map(|task| {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    for at in 0..100_000 {
                        let number = first + at * 8 + task;
                        let bytes = (number * 7919 % 30_000) as usize;
                        let outcome = log.append(record(Signal::Traces, number, bytes)).await;
                        let mut out = std::io::stdout().lock();
                        match outcome {
                            Ok(_) => writeln!(out, "acknowledged {number}").unwrap(),
                            Err(error) => {
                                writeln!(out, "refused {error}").unwrap();
                                return;
                            }
                        }
                        out.flush().unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

fn limit_file_size(bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: both calls only change this process's own limits and signal dispositions.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

fn spawn(directory: &Path, first: u64, segment: u64, file_limit: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--nocapture", "--test-threads", "1"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .env(SEGMENT, segment.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(limit) = file_limit {
        command.env(FILE_LIMIT, limit.to_string());
    }
    command.spawn().unwrap()
}

/// Lets the child run until `enough` says so, then kills it. Returns what it had acknowledged, and its refusals.
fn run_and_kill(mut child: Child, enough: impl Fn(&BTreeSet<u64>, usize) -> bool) -> (BTreeSet<u64>, usize) {
    let mut acknowledged = BTreeSet::new();
    let mut refused = 0;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut killed = false;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        line.clear();
        if output.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // A line without its end was being written when the process died: it counts for nothing.
        if line.ends_with('\n')
            && let Some(number) = line.split("acknowledged ").nth(1)
        {
            acknowledged.insert(number.trim().parse().unwrap());
        }
        refused += usize::from(line.contains("refused PF-"));
        if !killed && (enough(&acknowledged, refused) || Instant::now() > deadline) {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    (acknowledged, refused)
}

/// The numbers of the records in the log, each checked against what was sent.
fn numbers_in(directory: &Path, segment: u64) -> BTreeSet<u64> {
    let log = EmbeddedLog::open(options(directory, segment)).unwrap();
    let mut numbers = BTreeSet::new();
    for partition in 0..2 {
        for read in written_records(&*log, Signal::Traces, partition, 1 << 20) {
            let number = u64::from_le_bytes(read.body[..8].try_into().unwrap());
            assert_eq!(read, record(Signal::Traces, number, read.body.len()));
            assert!(numbers.insert(number), "record {number} is there twice");
        }
    }
    numbers
}

#[test]
fn killed_at_any_moment_it_keeps_every_acknowledged_record_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..8_u64 {
        let child = spawn(directory.path(), round * 1_000_000, 600_000, None);
        let enough = 20 + round as usize * 37;
        let (seen, refused) = run_and_kill(child, |seen, _| seen.len() >= enough);
        assert_eq!(refused, 0);
        assert!(
            seen.len() >= enough,
            "round {round}: the child acknowledged {} records",
            seen.len()
        );
        acknowledged.extend(seen);
        let numbers = numbers_in(directory.path(), 600_000);
        let lost: Vec<_> = acknowledged.difference(&numbers).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged but lost: {lost:?}");
    }
}

/// Under a file-size limit a segment cannot grow to its size; the log goes on in the next one.
#[test]
fn segments_that_cannot_grow_lose_nothing_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let segment = 64 << 20;
    let child = spawn(directory.path(), 0, segment, Some(300_000));
    let (acknowledged, refused) = run_and_kill(child, |seen, _| seen.len() >= 100);
    assert_eq!(refused, 0);
    assert!(acknowledged.len() >= 100);
    let lost: Vec<_> = acknowledged
        .difference(&numbers_in(directory.path(), segment))
        .copied()
        .collect();
    assert!(lost.is_empty(), "acknowledged but lost: {lost:?}");
    let files: usize = (0..2)
        .map(|partition| {
            std::fs::read_dir(directory.path().join(format!("otlp_spans/{partition}")))
                .unwrap()
                .count()
        })
        .sum();
    assert!(
        files > 4,
        "{files} segments of at most 300 kB for 100 records of 15 kB"
    );
}
