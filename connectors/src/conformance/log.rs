//! What every [`Log`] must do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{ContentType, Log, LogError, LogRecord, Signal};

/// A record whose every part is a function of `number`; its body has `bytes` bytes.
pub fn record(signal: Signal, number: u64, bytes: usize) -> LogRecord {
    // splitmix64: distinct bodies without a dependency on a random number crate.
    let mut state = number;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    let body_hash = u128::from(next()) << 64 | u128::from(next());
    let mut body = number.to_le_bytes().to_vec();
    body.resize_with(bytes.max(8), || next() as u8);
    LogRecord {
        project: Arc::from(if number.is_multiple_of(3) {
            "default"
        } else {
            "another-project"
        }),
        signal,
        stream: (signal == Signal::Streams).then(|| Arc::from("orders")),
        content_type: if number.is_multiple_of(5) {
            ContentType::Json
        } else {
            ContentType::Protobuf
        },
        received_us: 1_700_000_000_000_000 + number as i64,
        body_hash,
        body: Bytes::from(body),
    }
}

/// Where the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this machine: what is durable is read at once, and the disk is ours.
    Here,
    /// On another one: records below the end may be on their way for so long.
    Elsewhere(Duration),
}

/// Everything in a partition, read in portions of `portion` bytes.
pub fn written_records(log: &dyn Log, signal: Signal, partition: u32, portion: usize) -> Vec<LogRecord> {
    records_in(log, signal, partition, portion, Place::Here)
}

fn records_in(log: &dyn Log, signal: Signal, partition: u32, portion: usize, place: Place) -> Vec<LogRecord> {
    let (mut records, mut waited) = (Vec::new(), Instant::now());
    loop {
        let next = records.len() as u64;
        let read = log.read(signal, partition, next, portion).expect("read");
        if read.is_empty() {
            let end = log.end_offset(signal, partition);
            match place {
                Place::Elsewhere(patience) if next < end => {
                    assert!(waited.elapsed() < patience, "{next} of {end} are there in time");
                    continue;
                }
                _ => assert_eq!(next, end, "reading ends at the end offset"),
            }
            return records;
        }
        waited = Instant::now();
        for (offset, record) in read {
            assert_eq!(
                offset,
                records.len() as u64,
                "records come in order, none is passed over"
            );
            records.push(record);
        }
    }
}

/// Checks a log that is empty at first; `open` opens it again after it was dropped.
pub async fn log(open: &dyn Fn() -> Arc<dyn Log>) {
    log_in(open, Place::Here).await;
}

/// As [`log`], for logs in a place. The checks are the same; only waiting is allowed elsewhere.
pub async fn log_in(open: &dyn Fn() -> Arc<dyn Log>, place: Place) {
    let log = open();
    let partitions = log.partitions(Signal::Traces);
    assert!(partitions >= 1, "a topic has a partition");
    for signal in Signal::ALL {
        for partition in 0..log.partitions(signal) {
            assert_eq!(log.end_offset(signal, partition), 0, "a new log is empty");
            log.follow(signal, partition, 0);
            assert!(log.read(signal, partition, 0, 1000).expect("read").is_empty());
        }
    }

    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    log.on_append(Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));

    // Sequential appends of every signal, of many sizes.
    let mut expected: Vec<Vec<LogRecord>> = vec![Vec::new(); partitions as usize];
    for number in 0..60_u64 {
        let bytes = [8, 100, 4096, 70_000, 3][(number % 5) as usize];
        let sent = record(Signal::Traces, number, bytes);
        let appended = log.append(sent.clone()).await.expect("append");
        let of_partition = &mut expected[appended.partition as usize];
        assert_eq!(
            appended.offset,
            of_partition.len() as u64,
            "offsets are 0, 1, 2, …"
        );
        of_partition.push(sent);
        assert_eq!(
            log.end_offset(Signal::Traces, appended.partition),
            of_partition.len() as u64
        );
    }
    log.append(record(Signal::Logs, 1, 50)).await.expect("append");
    if let Place::Elsewhere(patience) = place {
        let since = Instant::now();
        while heard.load(Ordering::Relaxed) == 0 && since.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(heard.load(Ordering::Relaxed) > 0, "listeners hear of new records");

    // The same body goes to the same partition.
    let again = record(Signal::Traces, 7, 4096);
    let appended = log.append(again.clone()).await.expect("append");
    assert!(
        expected[appended.partition as usize].contains(&again),
        "equal bodies of a project and signal meet in one partition"
    );
    expected[appended.partition as usize].push(again);

    let check = |log: &Arc<dyn Log>, when: &str| {
        for partition in 0..partitions {
            for portion in [1, 5000, usize::MAX] {
                let read = records_in(&**log, Signal::Traces, partition, portion, place);
                let expected = &expected[partition as usize];
                let differing = read.iter().zip(expected).position(|(one, other)| one != other);
                assert!(
                    differing.is_none() && read.len() == expected.len(),
                    "{} records of {} come back unchanged {when}, in portions of {portion}; the first other one: {differing:?}",
                    read.len(),
                    expected.len()
                );
            }
        }
        let logs: usize = (0..log.partitions(Signal::Logs))
            .map(|at| log.end_offset(Signal::Logs, at) as usize)
            .sum();
        assert_eq!(logs, 1, "topics are separate {when}");
    };
    check(&log, "at once");
    match (place, log.usage()) {
        (Place::Here, None) => panic!("the disk's usage is known"),
        (_, Some((used, cap))) => assert!(used > 0 && used <= cap, "usage is counted and within the cap"),
        (Place::Elsewhere(_), None) => {}
    }

    let end = log.end_offset(Signal::Traces, 0);
    assert!(
        log.read(Signal::Traces, 0, end, 10).expect("read").is_empty(),
        "nothing stands at the end offset"
    );
    assert!(
        log.read(Signal::Traces, 0, end + 5, 10).expect("read").is_empty(),
        "nor beyond"
    );
    assert!(
        log.read(Signal::Traces, partitions, 0, 10).is_err(),
        "there is no such partition"
    );
    let portion = patiently(&*log, 0, 0, 5000, place);
    let bytes: usize = portion.iter().map(|(_, record)| record.body.len()).sum();
    assert!(portion.len() == 1 || bytes <= 5000, "a portion keeps to its size");

    drop(log);
    let log = open();
    check(&log, "after reopening");

    // Appending goes on where it ended, and trimming never hides a record that was not named.
    let more = record(Signal::Traces, 1000, 300);
    let appended = log.append(more.clone()).await.expect("append");
    let of_partition = &mut expected[appended.partition as usize];
    assert_eq!(
        appended.offset,
        of_partition.len() as u64,
        "offsets go on after reopening"
    );
    of_partition.push(more);
    let keep = appended.offset - 1;
    log.trim(Signal::Traces, appended.partition, keep).expect("trim");
    let kept = patiently(&*log, appended.partition, keep, usize::MAX, place);
    let kept: Vec<LogRecord> = kept.into_iter().map(|(_, record)| record).collect();
    assert_eq!(
        kept,
        expected[appended.partition as usize][keep as usize..],
        "trim keeps from its offset on"
    );
    match log.read(Signal::Traces, appended.partition, 0, 1) {
        Ok(read) if read.is_empty() && place != Place::Here => {}
        Ok(read) => assert_eq!(read.first().map(|(offset, _)| *offset), Some(0)),
        Err(error) => assert!(matches!(error, LogError::Trimmed { first, .. } if first <= keep)),
    }
    drop(log);
    let log = open();
    let kept = patiently(&*log, appended.partition, keep, usize::MAX, place);
    assert_eq!(kept.len(), 2, "trim and offsets survive reopening");
}

/// What a read of traces gives, in several parts where they come so.
fn patiently(
    log: &dyn Log,
    partition: u32,
    offset: u64,
    max_bytes: usize,
    place: Place,
) -> Vec<(u64, LogRecord)> {
    let since = Instant::now();
    let mut read: Vec<(u64, LogRecord)> = Vec::new();
    loop {
        let next = read.last().map_or(offset, |(last, _)| last + 1);
        let bytes: usize = read.iter().map(|(_, record)| record.body.len()).sum();
        let part = log.read(Signal::Traces, partition, next, max_bytes.saturating_sub(bytes));
        let part = part.expect("read");
        let more: usize = part.iter().map(|(_, record)| record.body.len()).sum();
        // A part has at least one record, which need not fit any more.
        if read.is_empty() || bytes + more <= max_bytes {
            read.extend(part);
        } else {
            return read;
        }
        let is_all = next >= log.end_offset(Signal::Traces, partition);
        match place {
            Place::Elsewhere(patience) if !is_all && since.elapsed() < patience => {}
            // A read may end with the file that the records are in.
            Place::Here if !is_all && more > 0 => {}
            _ => return read,
        }
    }
}
