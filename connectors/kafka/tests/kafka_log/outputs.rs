//! Changes of views in topics: each cut once, whoever dies in the middle of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use pyflare_connectors::{OutputBlock, Outputs};
use pyflare_kafka::KafkaOutputs;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::broker::Broker;
use crate::{PATIENCE, options, producer, send};

const TOPIC: &str = "results";

fn outputs(broker: &Broker, lineage: &str) -> Arc<KafkaOutputs> {
    let encode = |rows: &RecordBatch, key: &[String]| {
        assert_eq!(key, ["id"]);
        let ids = rows["id"].as_primitive::<Int64Type>();
        ids.values()
            .iter()
            .map(|id| {
                (
                    Some(id.to_string().into_bytes()),
                    format!("row {id}").into_bytes(),
                )
            })
            .collect()
    };
    let outputs = KafkaOutputs::new(options(broker, "out.", 1), Arc::new(encode));
    outputs.belong_to(lineage);
    outputs
}

fn block(output: &str, ids: std::ops::Range<i64>) -> OutputBlock {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    OutputBlock {
        output: output.into(),
        topic: TOPIC.into(),
        rows: RecordBatch::try_from_iter([("id", ids)]).unwrap(),
        key: vec!["id".into()],
    }
}

/// What a consumer that reads committed messages only sees of the topic.
fn committed(broker: &Broker) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{}", broker.port))
        .set("group.id", "reader")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
    consumer.assign(&all).unwrap();
    let (mut seen, since) = (Vec::new(), Instant::now());
    loop {
        assert!(since.elapsed() < PATIENCE, "the end is reached");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => seen.push(String::from_utf8(message.payload().unwrap().to_vec()).unwrap()),
            Some(Err(KafkaError::PartitionEOF(_))) => return seen,
            _ => {}
        }
    }
}

pub fn writes_each_cut_once(broker: &Broker) {
    let first = outputs(broker, "history");
    assert_eq!(
        first.prepare("p", "out.otlp_spans").unwrap_err().code(),
        "PF-2017"
    );
    assert_eq!(
        first.prepare("p", "out.pyflare_outputs").unwrap_err().code(),
        "PF-2017"
    );
    first.prepare("p", TOPIC).unwrap();
    first.prepare("p", TOPIC).unwrap();
    assert_eq!(first.last_cut("7").unwrap(), None);
    first
        .write(10, &[block("7", 0..3), block("8", 100..102)])
        .unwrap();
    assert_eq!(
        (first.last_cut("7").unwrap(), first.last_cut("8").unwrap()),
        (Some(10), Some(10))
    );
    first.write(20, &[block("7", 3..5)]).unwrap();
    drop(first);

    // A process that dies with a transaction open, and the one after it.
    let dying = producer(broker, Some("out.pyflare-history"));
    dying.init_transactions(PATIENCE).unwrap();
    dying.begin_transaction().unwrap();
    send(&dying, TOPIC, b"never");
    dying.flush(PATIENCE).unwrap();
    let second = outputs(broker, "history");
    assert_eq!(
        (second.last_cut("7").unwrap(), second.last_cut("8").unwrap()),
        (Some(20), Some(10))
    );
    assert_eq!(second.last_cut("9").unwrap(), None);
    second.write(30, &[block("8", 102..103)]).unwrap();
    let elsewhere = outputs(broker, "another history");
    assert_eq!(elsewhere.last_cut("7").unwrap(), None);

    // One that was taken for dead.
    let third = outputs(broker, "history");
    third.write(40, &[block("7", 5..6)]).unwrap();
    for _ in 0..2 {
        let refused = second.write(50, &[block("7", 6..7)]).unwrap_err();
        assert_eq!(refused.code(), "PF-2019", "{refused}");
    }
    third.write(50, &[block("7", 6..7)]).unwrap();
    let rows = [0, 1, 2, 100, 101, 3, 4, 102, 5, 6].map(|id| format!("row {id}"));
    assert_eq!(committed(broker), rows);
}
