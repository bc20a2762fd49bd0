//! The log in Kafka keeps the contract of `Log` against a real broker, and says what is wrong where something is.

#![allow(clippy::unwrap_used)]

mod broker;
mod feeds;
mod outputs;
mod ticks;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::Broker;
use futures::executor::block_on;
use pyflare_connectors::conformance::{self, Place, record};
use pyflare_connectors::{ContentType, Log, LogError, LogRecord, Signal, body_hash};
use pyflare_kafka::{KafkaLog, KafkaOptions, Sasl, SaslMechanism, Tls};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(20);

type Part = fn(&Broker);

/// One broker for all of it: a test of its own for each would start Java nine times.
#[test]
fn a_real_broker() {
    let Some(mut broker) = Broker::start() else { return };
    // Each has topics of its own, and most of them wait for the broker.
    let parts: [(&str, Part); 9] = [
        ("conforms", conforms),
        ("takes what others wrote", takes_what_others_wrote),
        ("passes over transactions", passes_over_transactions),
        ("names what was deleted", names_what_was_deleted),
        ("speaks securely", speaks_securely),
        ("reads topics of others", feeds::reads_topics_of_others),
        ("writes each cut once", outputs::writes_each_cut_once),
        ("keeps ticks", ticks::keeps_ticks),
        (
            "says when reading is not allowed",
            feeds::says_when_reading_is_not_allowed,
        ),
    ];
    std::thread::scope(|scope| {
        for (name, part) in parts {
            let broker = &broker;
            let run = move || {
                let since = Instant::now();
                part(broker);
                println!("{name}: {:.1} s", since.elapsed().as_secs_f64());
            };
            std::thread::Builder::new()
                .name(name.into())
                .spawn_scoped(scope, run)
                .unwrap();
        }
    });
    says_what_is_wrong(&broker);
    outlives_the_broker(&mut broker);
    ticks::outlives_the_broker(&mut broker);
}

fn options(broker: &Broker, prefix: &str, partitions: u32) -> KafkaOptions {
    KafkaOptions {
        topic_prefix: prefix.into(),
        partitions,
        ..KafkaOptions::of_url(&broker.url()).unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn producer(broker: &Broker, transactional: Option<&str>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", broker.port));
    if let Some(id) = transactional {
        config.set("transactional.id", id);
    }
    config.create().unwrap()
}

fn send(producer: &BaseProducer, topic: &str, body: &[u8]) {
    let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).partition(0).payload(body);
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

/// `count` records of a partition, from an offset on.
fn wait_for(log: &dyn Log, from: u64, count: usize) -> Vec<(u64, LogRecord)> {
    let since = Instant::now();
    let (mut found, mut next) = (Vec::new(), from);
    while found.len() < count {
        assert!(since.elapsed() < PATIENCE, "{} of {count} came", found.len());
        let read = log.read(Signal::Traces, 0, next, usize::MAX).unwrap();
        next = read.last().map_or(next, |(last, _)| last + 1);
        found.extend(read);
        // The end is not known before somebody looks.
        std::thread::sleep(Duration::from_millis(1));
    }
    found
}

fn conforms(broker: &Broker) {
    for (prefix, partitions, read_ahead) in [
        ("one.", 1, 64 << 20),
        ("three.", 3, 64 << 20),
        ("small.", 2, 100_000),
    ] {
        let open = || -> Arc<dyn Log> {
            let options = KafkaOptions {
                read_ahead_bytes: read_ahead,
                ..options(broker, prefix, partitions)
            };
            KafkaLog::open(options).unwrap()
        };
        runtime().block_on(conformance::log_in(&open, Place::Elsewhere(PATIENCE)));
    }
}

fn takes_what_others_wrote(broker: &Broker) {
    let log = KafkaLog::open(options(broker, "others.", 1)).unwrap();
    log.follow(Signal::Traces, 0, 0);
    let producer = producer(broker, None);
    let bodies: [&[u8]; 3] = [b"\x0a\x02\x12\x00", b" {\"resourceSpans\": []}", b""];
    for body in bodies {
        send(&producer, "others.otlp_spans", body);
    }
    producer.flush(PATIENCE).unwrap();
    // They are found without an acknowledgement of ours.
    wait_for(&*log, 0, 3);
    let own = record(Signal::Traces, 1, 100);
    runtime().block_on(log.append(own.clone())).unwrap();
    let read = wait_for(&*log, 0, 4);
    let expected = [ContentType::Protobuf, ContentType::Json, ContentType::Protobuf];
    for ((offset, record), (body, content_type)) in read.iter().zip(bodies.iter().zip(expected)) {
        assert_eq!(&record.body[..], *body, "{offset}");
        assert_eq!((&*record.project, record.content_type), ("default", content_type));
        assert_eq!(record.body_hash, body_hash("default", Signal::Traces, body));
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_micros() as i64 - record.received_us;
        assert!(
            (-1_000_000..60_000_000).contains(&age),
            "received at the record's time: {age}"
        );
    }
    assert_eq!(read[3].1, own);
}

fn passes_over_transactions(broker: &Broker) {
    let log = KafkaLog::open(options(broker, "marks.", 1)).unwrap();
    let producer = producer(broker, Some("marks"));
    producer.init_transactions(PATIENCE).unwrap();
    for (body, commit) in [("first", true), ("never", false), ("second", true)] {
        producer.begin_transaction().unwrap();
        send(&producer, "marks.otlp_spans", body.as_bytes());
        send(&producer, "marks.otlp_spans", body.as_bytes());
        producer.flush(PATIENCE).unwrap();
        match commit {
            true => producer.commit_transaction(PATIENCE).unwrap(),
            false => producer.abort_transaction(PATIENCE).unwrap(),
        }
    }
    drop(log);
    let log = KafkaLog::open(options(broker, "marks.", 1)).unwrap();
    assert_eq!(
        log.end_offset(Signal::Traces, 0),
        9,
        "six records and three marks"
    );
    let read = wait_for(&*log, 0, 4);
    let found: Vec<_> = read
        .iter()
        .map(|(offset, record)| (*offset, &record.body[..]))
        .collect();
    let (first, second) = (&b"first"[..], &b"second"[..]);
    assert_eq!(found, [(0, first), (1, first), (6, second), (7, second)]);
    let since = Instant::now();
    while log.end_offset(Signal::Traces, 0) != 8 {
        assert!(
            since.elapsed() < PATIENCE,
            "the end settles behind the last record"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn names_what_was_deleted(broker: &Broker) {
    let log = KafkaLog::open(options(broker, "gone.", 1)).unwrap();
    let records: Vec<LogRecord> = (0..20)
        .map(|number| record(Signal::Traces, number, 100))
        .collect();
    runtime().block_on(async {
        for record in &records {
            log.append(record.clone()).await.unwrap();
        }
    });
    drop(log);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", broker.port));
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let mut until = TopicPartitionList::new();
    until
        .add_partition_offset("gone.otlp_spans", 0, Offset::Offset(12))
        .unwrap();
    block_on(admin.delete_records(&until, &AdminOptions::new())).unwrap();
    let log = KafkaLog::open(options(broker, "gone.", 1)).unwrap();
    assert_eq!(log.start_offset(Signal::Traces, 0), 12);
    let since = Instant::now();
    let error = loop {
        match log.read(Signal::Traces, 0, 5, 1_000) {
            Ok(read) => assert!(read.is_empty(), "nothing is passed over"),
            Err(error) => break error,
        }
        assert!(since.elapsed() < PATIENCE, "the reader is told");
    };
    assert!(
        matches!(&error, LogError::Trimmed { offset: 5, first: 12, partition: 0, topic } if topic == "gone.otlp_spans"),
        "{error}"
    );
    assert_eq!(log.failure().unwrap().code(), "PF-2005");
    assert!(
        log.read(Signal::Traces, 0, 11, 1_000).is_err(),
        "it stays a failure"
    );
    // Who asks for what is left goes on with it.
    let read = wait_for(&*log, 12, 8);
    assert_eq!(read.last().unwrap().1, records[19]);
}

fn sasl(mechanism: SaslMechanism, password: &str) -> Option<Sasl> {
    Some(Sasl {
        mechanism,
        username: "pyflare".into(),
        password: password.into(),
    })
}

fn at(port: u16) -> KafkaOptions {
    KafkaOptions {
        topic_prefix: "secure.".into(),
        ..KafkaOptions::of_url(&format!("kafka://127.0.0.1:{port}")).unwrap()
    }
}

fn speaks_securely(broker: &Broker) {
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256] {
        let log = KafkaLog::open(KafkaOptions {
            sasl: sasl(mechanism, "tell-nobody"),
            ..at(broker.sasl_port)
        })
        .unwrap();
        runtime()
            .block_on(log.append(record(Signal::Traces, 1, 100)))
            .unwrap();
    }
    let tls = Tls {
        ca_file: Some(broker.directory.path().join("ca.pem")),
        ..Tls::default()
    };
    let log = KafkaLog::open(KafkaOptions {
        tls: Some(tls),
        ..at(broker.tls_port)
    })
    .unwrap();
    runtime()
        .block_on(log.append(record(Signal::Traces, 2, 100)))
        .unwrap();
}

fn says_what_is_wrong(broker: &Broker) {
    let refused = |options: KafkaOptions, code: &str, says: &str| {
        let error = KafkaLog::open(options).err().expect("it cannot be opened");
        let text = error.to_string();
        assert_eq!(error.code(), code, "{text}");
        assert!(text.contains(says) && !text.contains("a-secret"), "{text}");
    };
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256] {
        let options = KafkaOptions {
            sasl: sasl(mechanism, "a-secret"),
            ..at(broker.sasl_port)
        };
        refused(options, "PF-2010", "kafka.password");
    }
    let untrusted = KafkaOptions {
        tls: Some(Tls::default()),
        ..at(broker.tls_port)
    };
    refused(untrusted, "PF-2011", "kafka.ca_file");
    refused(at(1), "PF-2009", "127.0.0.1:1");

    let small = KafkaOptions {
        body_bytes: 100_000,
        ..options(broker, "small-bodies.", 1)
    };
    let log = KafkaLog::open(small).unwrap();
    let answer = runtime().block_on(log.append(record(Signal::Traces, 1, 400_000)));
    assert_eq!(answer.unwrap_err().code(), "PF-2013");
    runtime()
        .block_on(log.append(record(Signal::Traces, 2, 90_000)))
        .unwrap();
}

/// Requests are refused while the broker is away and taken when it is back; what was acknowledged is there.
fn outlives_the_broker(broker: &mut Broker) {
    let log = KafkaLog::open(options(broker, "away.", 1)).unwrap();
    let runtime = runtime();
    let mut acknowledged = BTreeSet::new();
    let mut number = 0;
    let mut append = |acknowledged: &mut BTreeSet<u128>| {
        number += 1;
        let record = record(Signal::Traces, number, 2_000);
        let hash = record.body_hash;
        let answer = runtime.block_on(log.append(record));
        if answer.is_ok() {
            acknowledged.insert(hash);
        }
        answer.map(drop)
    };
    for _ in 0..50 {
        append(&mut acknowledged).unwrap();
    }
    broker.kill();
    let since = Instant::now();
    let error = append(&mut acknowledged).unwrap_err();
    assert_eq!(error.code(), "PF-2009", "{error}");
    assert!(since.elapsed() < Duration::from_secs(8), "it does not hang");
    assert!(log.failure().is_none(), "a broker that is away is no failure");
    broker.restart();
    let since = Instant::now();
    while append(&mut acknowledged).is_err() {
        assert!(since.elapsed() < Duration::from_secs(30), "appends go on");
    }
    for _ in 0..50 {
        append(&mut acknowledged).unwrap();
    }
    let read = wait_for(&*log, 0, acknowledged.len());
    let there: BTreeSet<u128> = read.iter().map(|(_, record)| record.body_hash).collect();
    assert!(acknowledged.is_subset(&there), "what was acknowledged is there");
    assert!(
        there.len() <= acknowledged.len() + 2,
        "nothing is there that was not sent"
    );
}
