//! What storing a span costs: CPU per row and bytes per row of one flush, by block size.
//!
//! `cargo run --release --workspace --example write_cost [rows of a block] [blocks]`

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, MapBuilder, RecordBatch, StringBuilder, StringViewArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::DataType;
use pyflare_connectors::{Store, TableDefinition};
use pyflare_delta::DeltaStore;
use pyflare_operators::fields::stream_schema;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows: usize = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let blocks: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let place = tempfile::tempdir()?;
    let store = DeltaStore::open(place.path())?;
    let start = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let prepared: Vec<Vec<RecordBatch>> = (0..blocks)
        .map(|block| spans(start + block * 1000, rows))
        .collect();
    let first = prepared
        .first()
        .and_then(|block| block.first())
        .ok_or("there is nothing to write")?;
    runtime.block_on(store.ensure_table(&TableDefinition {
        name: "spans".to_owned(),
        schema: first.schema(),
        retention_us: None,
        time_column: Some("event_time".to_owned()),
        key: Vec::new(),
    }))?;
    let (clock, cpu) = (Instant::now(), processor_seconds()?);
    for (block, batches) in prepared.into_iter().enumerate() {
        runtime.block_on(store.append("spans", start + block as u64 * 1000, batches))?;
    }
    let (clock, cpu) = (clock.elapsed().as_secs_f64(), processor_seconds()? - cpu);
    let (bytes, stored) = runtime.block_on(store.size("spans"))?;
    let count = stored as f64;
    println!(
        "{stored} spans in {blocks} blocks: {:.2} µs CPU, {:.2} µs clock, {:.1} bytes a span",
        cpu * 1e6 / count,
        clock * 1e6 / count,
        bytes as f64 / count
    );
    Ok(())
}

/// User and system time of this process.
fn processor_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<f64>().ok())
            .ok_or("unreadable /proc/self/stat")
    };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Small LLM spans as the decoder delivers them, in batches of 8,192.
pub fn spans(tick: u64, rows: usize) -> Vec<RecordBatch> {
    let mut numbers = 0..rows as u64;
    let mut batches = Vec::new();
    loop {
        let part: Vec<u64> = numbers.by_ref().take(8192).collect();
        if part.is_empty() {
            return batches;
        }
        batches.push(batch(tick, &part));
    }
}

fn mixed(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn batch(tick: u64, numbers: &[u64]) -> RecordBatch {
    let schema = stream_schema("spans").expect("invariant: spans are declared");
    let seed = |number: &u64| mixed(tick.wrapping_mul(1_000_003).wrapping_add(*number));
    let text = |value: &dyn Fn(u64) -> String| -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values(
            numbers.iter().map(|number| value(seed(number))),
        ))
    };
    let integer = |value: &dyn Fn(u64) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(
            numbers.iter().map(|number| value(seed(number))),
        ))
    };
    let time = |back: u64| -> ArrayRef {
        let micros = numbers
            .iter()
            .map(|number| ((tick - back) * 1000 + seed(number) % 1_000_000) as i64);
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "project" => text(&|_| "default".to_owned()),
            "trace_id" => text(&|seed| format!("{seed:016x}{:016x}", mixed(seed))),
            "span_id" => text(&|seed| format!("{:016x}", mixed(seed ^ 1))),
            "parent_span_id" => text(&|seed| format!("{:016x}", mixed(seed ^ 2))),
            "name" => {
                text(&|seed| ["chat gpt-5", "chat claude", "embeddings"][(seed % 3) as usize].to_owned())
            }
            "kind" => text(&|_| "client".to_owned()),
            "status" => text(&|seed| ["ok", "unset", "error"][(seed % 30 / 14) as usize].to_owned()),
            "service_name" => text(&|seed| format!("service-{}", seed % 20)),
            "model" | "model_requested" => text(&|seed| format!("model-{}", seed % 6)),
            "provider" => text(&|seed| ["openai", "anthropic"][(seed % 2) as usize].to_owned()),
            "operation" => text(&|_| "chat".to_owned()),
            "span_class" => text(&|_| "llm".to_owned()),
            "scope_name" => text(&|_| "opentelemetry.instrumentation.openai".to_owned()),
            "user_id" => text(&|seed| format!("user-{}", seed % 5000)),
            "session_id" => text(&|seed| format!("session-{}", seed % 20_000)),
            "event_time" => time(0),
            "end_time" => time(0),
            "start_time" => time(1500),
            "start_unix_nano" => integer(&|seed| ((tick - 1500) * 1_000_000 + seed % 1_000_000_000) as i64),
            "duration_ns" => integer(&|seed| (seed % 3_000_000_000) as i64),
            "input_tokens" => integer(&|seed| (seed % 4000) as i64),
            "output_tokens" => integer(&|seed| (seed % 900) as i64),
            "_tick" | "_mark" => integer(&|_| tick as i64),
            "_offset" => Arc::new(Int64Array::from_iter_values(
                numbers.iter().map(|number| (number / 500) as i64),
            )),
            "_partition" => Arc::new(Int32Array::from(vec![0; numbers.len()])),
            "_row" => Arc::new(Int32Array::from_iter_values(
                numbers.iter().map(|number| (number % 500) as i32),
            )),
            "attributes" => map(numbers, field.data_type(), 3),
            "resource" => map(numbers, field.data_type(), 2),
            _ if field.is_nullable() => new_null_array(field.data_type(), numbers.len()),
            _ => match field.data_type() {
                DataType::Int32 => Arc::new(Int32Array::from(vec![0; numbers.len()])) as ArrayRef,
                DataType::Int64 => Arc::new(Int64Array::from(vec![0; numbers.len()])),
                _ => text(&|_| String::new()),
            },
        })
        .collect();
    RecordBatch::try_new(schema, columns).expect("invariant: the columns are those of the schema")
}

fn map(numbers: &[u64], data_type: &DataType, entries: u64) -> ArrayRef {
    let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for number in numbers {
        for entry in 0..entries {
            maps.keys().append_value(format!("gen_ai.request.option_{entry}"));
            maps.values()
                .append_value(format!("\"{}\"", mixed(number + entry) % 50));
        }
        maps.append(true).expect("invariant: as many keys as values");
    }
    let array: ArrayRef = Arc::new(maps.finish());
    arrow::compute::cast(&array, data_type).expect("invariant: maps differ in names only")
}
