//! The tick log in a topic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use pyflare_connectors::{TickLog, TickLogError, conformance};
use pyflare_kafka::KafkaTickLog;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use super::broker::Broker;
use super::{PATIENCE, options, producer, send};
use rdkafka::producer::Producer;

fn open(broker: &Broker, prefix: &str) -> Arc<KafkaTickLog> {
    KafkaTickLog::open(options(broker, prefix, 1), "ours").unwrap()
}

fn payloads(log: &dyn TickLog) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    log.read(&mut |_, payload| {
        seen.push(payload.to_vec());
        Ok(())
    })
    .unwrap();
    seen
}

pub fn keeps_ticks(broker: &Broker) {
    conformance::tick_log(&|| -> Arc<dyn TickLog> { open(broker, "ticks.") });
    cuts_off_who_was_taken_over(broker);
    two_that_take_over_at_once_end_with_one(broker);
    refuses_what_is_not_its_own(broker);
}

fn cuts_off_who_was_taken_over(broker: &Broker) {
    let old = open(broker, "taken.");
    let first = old.open_generation().unwrap();
    old.append(first, b"a").unwrap();
    let new = open(broker, "taken.");
    assert!(!new.is_new().unwrap());
    let second = new.open_generation().unwrap();
    assert!(second > first);
    // It finds out by itself, and its successor is not disturbed.
    for refused in [
        old.append(first, b"lost").map(drop),
        old.check_generation(first),
        old.trim(first, 1),
    ] {
        assert!(
            matches!(refused, Err(TickLogError::Fenced { own, newer }) if own == first && newer == second),
            "{refused:?}"
        );
    }
    let since = Instant::now();
    new.append(second, b"b").unwrap();
    assert!(
        since.elapsed() < Duration::from_millis(900),
        "it need not take over again"
    );
    assert_eq!(payloads(&*new), [b"a", b"b"]);
}

/// Whoever is in charge in the end has all that was promised, in one order.
fn two_that_take_over_at_once_end_with_one(broker: &Broker) {
    let promised: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..3_u8)
            .map(|racer| {
                scope.spawn(move || {
                    let log = open(broker, "race.");
                    let mut promised = Vec::new();
                    for round in 0..3 {
                        let generation = log.open_generation().unwrap();
                        for number in 0..4 {
                            let payload = vec![racer, round, number];
                            match log.append(generation, &payload) {
                                Ok(_) => promised.push(payload),
                                Err(TickLogError::Fenced { own, newer }) => {
                                    assert!(own == generation && newer > own);
                                    break;
                                }
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                    promised
                })
            })
            .collect();
        racers
            .into_iter()
            .flat_map(|racer| racer.join().unwrap())
            .collect()
    });
    let mut kept = payloads(&*open(broker, "race."));
    let mut sorted = promised;
    sorted.sort();
    kept.sort();
    assert_eq!(kept, sorted, "what was promised is there once, and nothing else");
}

fn refuses_what_is_not_its_own(broker: &Broker) {
    let log = open(broker, "foreign.");
    let generation = log.open_generation().unwrap();
    log.append(generation, b"a").unwrap();
    let refused = |history: &str, prefix: &str| {
        let opened = KafkaTickLog::open(options(broker, prefix, 1), history);
        opened.err().expect("it cannot be opened").to_string()
    };
    let text = refused("theirs", "foreign.");
    assert!(text.starts_with("PF-2107") && text.contains("ours"), "{text}");
    // What is no tick, written by somebody else.
    let other = producer(broker, None);
    send(&other, "foreign.pyflare_ticks", b"hello");
    other.flush(PATIENCE).unwrap();
    let text = refused("ours", "foreign.");
    assert!(text.starts_with("PF-2102"), "{text}");
    // A topic of which the broker deletes.
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", broker.port));
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let topic =
        NewTopic::new("forgets.pyflare_ticks", 1, TopicReplication::Fixed(1)).set("retention.ms", "60000");
    block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    let text = refused("ours", "forgets.");
    assert!(
        text.starts_with("PF-2108") && text.contains("retention.ms"),
        "{text}"
    );
}

/// A payload waits while the broker is away, is then there once, and one that is given up is an error.
pub fn outlives_the_broker(broker: &mut Broker) {
    let log = open(broker, "patient.");
    let generation = log.open_generation().unwrap();
    log.append(generation, b"before").unwrap();
    broker.kill();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| log.append(generation, b"during"));
        let since = Instant::now();
        while log.waits_for().is_none() {
            assert!(since.elapsed() < Duration::from_secs(60), "it says that it waits");
            std::thread::sleep(Duration::from_millis(10));
        }
        broker.restart();
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(log.waits_for(), None);
    log.append(generation, b"after").unwrap();
    assert_eq!(payloads(&*log), [&b"before"[..], b"during", b"after"]);
    let mut waits: Vec<Duration> = (0..200_u8)
        .map(|number| {
            let since = Instant::now();
            log.append(generation, &[number]).unwrap();
            since.elapsed()
        })
        .collect();
    waits.sort();
    println!("an append takes {:?}, of 200 two {:?}", waits[100], waits[198]);
    broker.kill();
    log.give_up();
    let refused = log.append(generation, b"never");
    assert!(matches!(refused, Err(TickLogError::Away { .. })), "{refused:?}");
    broker.restart();
}
