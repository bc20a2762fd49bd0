//! What every store of history must make of agents, which send the whole conversation with each of their calls.

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, MapBuilder, RecordBatch, StringBuilder, StringViewArray, TimestampMicrosecondArray,
};

use super::store::FIRST_CUT;
use crate::{Store, TableDefinition};

const CALLS: usize = 60;
const MESSAGE_BYTES: usize = 6_000;
/// Each message is sent sixty times at most and thirty times on average; alone it takes some half of its length.
const LEAST_FACTOR: u64 = 15;

/// A trace of many calls takes little more than its messages, once each.
pub async fn are_stored_once<S: Store, R: Future<Output = Arc<S>>>(reopen: &impl Fn() -> R) {
    let store = reopen().await;
    let table = "conversations";
    let (batch, sent) = calls();
    let definition = TableDefinition {
        name: table.to_owned(),
        schema: batch.schema(),
        retention_us: None,
        time_column: Some("event_time".to_owned()),
        key: Vec::new(),
    };
    store
        .ensure_table(&definition)
        .await
        .expect("a table can be created");
    store
        .append(table, FIRST_CUT, vec![batch])
        .await
        .expect("a block can be appended");
    let (stored, rows) = store.size(table).await.expect("a table has a size");
    assert_eq!(rows, CALLS as u64);
    assert!(
        stored * LEAST_FACTOR < sent,
        "{stored} bytes are stored of {sent} that were sent"
    );
    store.drop_table(table).await.expect("a table can be dropped");
}

/// Each call has all messages before it, as a text and within its attributes; also how many bytes that is.
fn calls() -> (RecordBatch, u64) {
    let mut state = 7;
    let mut messages: Vec<String> = Vec::new();
    let mut inputs = Vec::new();
    let mut attributes = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    let mut sent = 0;
    for _ in 0..CALLS {
        messages.push(message(&mut state));
        let conversation = messages.join("\n");
        sent += 2 * conversation.len() as u64;
        attributes.keys().append_value("gen_ai.input.messages");
        attributes.values().append_value(format!("\"{conversation}\""));
        attributes
            .append(true)
            .expect("invariant: as many keys as values");
        inputs.push(conversation);
    }
    let numbers = 0..CALLS as i64;
    let times = numbers.clone().map(|number| FIRST_CUT as i64 * 1000 + number);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let projects = StringViewArray::from_iter_values(std::iter::repeat_n("default", CALLS));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("project", Arc::new(projects), false),
        ("event_time", Arc::new(times), false),
        ("input", Arc::new(StringViewArray::from_iter_values(inputs)), true),
        ("attributes", Arc::new(attributes.finish()), true),
        (
            "_tick",
            Arc::new(numbers.map(|_| FIRST_CUT as i64).collect::<Int64Array>()),
            false,
        ),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns);
    (batch.expect("invariant: columns of one length"), sent)
}

/// A text that is like no other: numbers of a linear congruential generator (Knuth, MMIX).
fn message(state: &mut u64) -> String {
    let mut text = String::with_capacity(MESSAGE_BYTES + 8);
    while text.len() < MESSAGE_BYTES {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let _ = write!(text, "{:x} ", *state >> 44);
    }
    text
}
