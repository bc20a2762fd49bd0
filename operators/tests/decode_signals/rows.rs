//! What the tests send, and how they read what comes out.
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use pyflare_operators::decode::{BodyEncoding, Decoded, Decoder, Origin, OtlpSignal, check, select};
use pyflare_operators::fields::stream_fields;

pub const TICK: u64 = 1_800_000_000_000;

pub fn origin() -> Origin<'static> {
    Origin {
        project: "acme",
        received_us: 77,
        tick: TICK,
        mark_us: None,
        partition: 0,
        offset: 0,
    }
}

pub fn decode(signal: OtlpSignal, encoding: BodyEncoding, body: Vec<u8>) -> (Decoded, RecordBatch) {
    let mut decoder = Decoder::new(signal);
    let checked = check(signal, encoding, &body).unwrap();
    let decoded = decoder.decode(&origin(), encoding, &Bytes::from(body)).unwrap();
    assert_eq!(
        (checked.rows, checked.rejected),
        (decoded.rows.into(), decoded.rejected.into())
    );
    let batch = decoder.finish().unwrap();
    let columns: Vec<&str> = stream_fields(signal.stream())
        .unwrap()
        .iter()
        .map(|field| field.name)
        .collect();
    (decoded, select(signal.stream(), &batch, &columns).unwrap())
}

pub fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let array = batch.column_by_name(column).unwrap().as_string_view();
    array.is_valid(row).then(|| array.value(row).to_owned())
}

pub fn int(batch: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let array = batch.column_by_name(column).unwrap().as_primitive::<Int64Type>();
    array.is_valid(row).then(|| array.value(row))
}

pub fn double(batch: &RecordBatch, column: &str, row: usize) -> Option<f64> {
    let array = batch
        .column_by_name(column)
        .unwrap()
        .as_primitive::<Float64Type>();
    array.is_valid(row).then(|| array.value(row))
}

pub fn event_time(batch: &RecordBatch, row: usize) -> i64 {
    batch
        .column_by_name("event_time")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>()
        .value(row)
}

pub fn map(batch: &RecordBatch, column: &str, row: usize) -> Vec<(String, String)> {
    let entries = batch.column_by_name(column).unwrap().as_map().value(row);
    let (keys, values) = (
        entries.column(0).as_string::<i32>(),
        entries.column(1).as_string::<i32>(),
    );
    keys.iter()
        .zip(values)
        .map(|(key, value)| (key.unwrap().to_owned(), value.unwrap().to_owned()))
        .collect()
}

pub fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

pub fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

pub fn words(key: &str, text: &str) -> KeyValue {
    pair(key, Value::StringValue(text.to_owned()))
}

pub fn resource() -> Option<Resource> {
    Some(Resource {
        attributes: vec![words("service.name", "shop"), words("host.name", "h1")],
        ..Resource::default()
    })
}

pub fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: "lib".to_owned(),
        version: "2".to_owned(),
        ..InstrumentationScope::default()
    })
}
pub fn valid(attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        attributes,
        ..Span::default()
    }
}

pub fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: resource(),
            scope_spans: vec![ScopeSpans {
                scope: scope(),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}
