//! Topics that others write, as streams read them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use pyflare_connectors::{ContentType, Feed, FeedOptions, FeedStart, Log, LogRecord};
use pyflare_kafka::{KafkaLog, KafkaOptions};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::broker::Broker;
use crate::{PATIENCE, at, options, producer, sasl};

const TOPIC: &str = "shop.sales";
const ARROW: &[u8] = b"\xff\xff\xff\xff\x10\0\0\0";

fn admin(broker: &Broker) -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", broker.port));
    config.create().unwrap()
}

fn create(broker: &Broker, topic: &str, partitions: i32) {
    // These messages are older than any retention.
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    let made = block_on(admin(broker).create_topics([&topic], &AdminOptions::new())).unwrap();
    assert!(made[0].is_ok(), "{made:?}");
}

fn wanted(topic: &str) -> FeedOptions {
    FeedOptions {
        project: "shop".into(),
        stream: "sales".into(),
        topic: topic.into(),
    }
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, body: Option<&[u8]>, time_ms: i64) {
    let mut record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic).partition(partition).timestamp(time_ms);
    record.payload = body;
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

/// `count` messages of a partition, from an offset on.
fn wait_for(feed: &dyn Feed, partition: u32, from: u64, count: usize) -> Vec<(u64, LogRecord)> {
    let since = Instant::now();
    let (mut found, mut next) = (Vec::new(), from);
    feed.follow(partition, from);
    while found.len() < count {
        assert!(since.elapsed() < PATIENCE, "{} of {count} came", found.len());
        let read = feed.read(partition, next, usize::MAX).unwrap();
        next = read.last().map_or(next, |(last, _)| last + 1);
        found.extend(read);
        std::thread::sleep(Duration::from_millis(1));
    }
    found
}

fn fails(feed: &dyn Feed, code: &str) -> String {
    let since = Instant::now();
    loop {
        if let Some(failure) = feed.failure()
            && failure.code() == code
        {
            return failure.to_string();
        }
        let told = feed.failure();
        assert!(
            since.elapsed() < Duration::from_secs(40),
            "{code} is told: {told:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn reads_topics_of_others(broker: &Broker) {
    create(broker, TOPIC, 2);
    let log = KafkaLog::open(options(broker, "fed.", 1)).unwrap();
    let plain = producer(broker, None);
    for (partition, body, time_ms) in [
        (0, Some(&b"{\"id\": 1}"[..]), 1_000),
        (0, None, 2_000),
        (0, Some(ARROW), 3_000),
        (1, Some(&b"  {\"id\": 2}\n{\"id\": 3}"[..]), 4_000),
    ] {
        send(&plain, TOPIC, partition, body, time_ms);
    }
    plain.flush(PATIENCE).unwrap();
    let transactional = producer(broker, Some("feeds"));
    transactional.init_transactions(PATIENCE).unwrap();
    for (body, commits) in [
        (&b"{\"id\": 4}"[..], true),
        (b"never", false),
        (b"{\"id\": 5}", true),
    ] {
        transactional.begin_transaction().unwrap();
        send(&transactional, TOPIC, 1, Some(body), 5_000);
        transactional.flush(PATIENCE).unwrap();
        match commits {
            true => transactional.commit_transaction(PATIENCE).unwrap(),
            false => transactional.abort_transaction(PATIENCE).unwrap(),
        }
    }
    let feed = log.feed(&wanted(TOPIC)).unwrap();
    assert_eq!(feed.partitions(), 2);
    assert_eq!(feed.starts(FeedStart::Earliest).unwrap(), [0, 0]);
    assert_eq!(feed.starts(FeedStart::Latest).unwrap(), [3, 7]);
    assert_eq!(feed.starts(FeedStart::Time(2_500_000)).unwrap(), [2, 0]);
    assert_eq!(feed.starts(FeedStart::Time(4_500_000)).unwrap(), [3, 1]);
    let read = wait_for(&*feed, 0, 0, 2);
    let found: Vec<_> = read
        .iter()
        .map(|(offset, record)| (*offset, record.content_type, record.received_us))
        .collect();
    assert_eq!(
        found,
        [
            (0, ContentType::Json, 1_000_000),
            (2, ContentType::ArrowStream, 3_000_000)
        ]
    );
    let (_, record) = &read[0];
    assert_eq!(
        (&*record.project, record.stream.as_deref()),
        ("shop", Some("sales"))
    );
    let read = wait_for(&*feed, 1, 0, 3);
    let found: Vec<u64> = read.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(found, [0, 1, 5], "aborted messages and marks are passed over");

    // A partition that the topic did not have.
    let more = NewPartitions::new(TOPIC, 3);
    block_on(admin(broker).create_partitions([&more], &AdminOptions::new())).unwrap();
    let since = Instant::now();
    while feed.partitions() < 3 {
        assert!(since.elapsed() < PATIENCE, "the new partition is noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let later = producer(broker, None);
    send(&later, TOPIC, 2, Some(b"{\"id\": 6}"), 6_000);
    later.flush(PATIENCE).unwrap();
    assert_eq!(wait_for(&*feed, 2, feed.first_offset(2), 1)[0].0, 0);

    let refused = |topic: &str| log.feed(&wanted(topic)).err().unwrap().code();
    assert_eq!(refused("shop.nothing"), "PF-2012");
    assert_eq!(refused("fed.otlp_spans"), "PF-2017");

    // What retention deletes before it is read.
    let mut until = TopicPartitionList::new();
    until.add_partition_offset(TOPIC, 0, Offset::Offset(2)).unwrap();
    block_on(admin(broker).delete_records(&until, &AdminOptions::new())).unwrap();
    let behind = log.feed(&wanted(TOPIC)).unwrap();
    behind.follow(0, 0);
    assert!(fails(&*behind, "PF-2005").contains("offset 0 of shop.sales/0"));
    assert!(log.failure().is_none(), "nobody else is affected");
    drop(behind);

    // A topic that goes is missing; one that comes back is read from where reading was, which this one does not have.
    block_on(admin(broker).delete_topics(&[TOPIC], &AdminOptions::new())).unwrap();
    fails(&*feed, "PF-2012");
    create(broker, TOPIC, 3);
    fails(&*feed, "PF-2007");
    feed.stop();
}

pub fn says_when_reading_is_not_allowed(broker: &Broker) {
    create(broker, "private", 1);
    broker.tell("deny private");
    let log = KafkaLog::open(KafkaOptions {
        topic_prefix: "private.".into(),
        sasl: sasl(pyflare_kafka::SaslMechanism::Plain, "tell-nobody"),
        ..at(broker.sasl_port)
    })
    .unwrap();
    let feed: Arc<dyn Feed> = log.feed(&wanted("private")).unwrap();
    let refused = feed.starts(FeedStart::Earliest).unwrap_err();
    assert_eq!(refused.code(), "PF-2012");
    assert!(refused.to_string().contains("right to read"), "{refused}");
    // The right comes, and so do the messages.
    broker.tell("allow private");
    let producer = producer(broker, None);
    send(&producer, "private", 0, Some(b"{}"), 1_000);
    producer.flush(PATIENCE).unwrap();
    let since = Instant::now();
    while feed.failure().is_some() {
        assert!(since.elapsed() < PATIENCE, "it is tried again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(wait_for(&*feed, 0, 0, 1).len(), 1);
}
