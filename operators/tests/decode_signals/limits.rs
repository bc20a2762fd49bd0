//! Input that is too much, broken, or grows when it is selected.
use super::rows::*;
use arrow::array::RecordBatch;
use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use pyflare_operators::decode::{BodyEncoding, DecodeError, Decoder, OtlpSignal, WireError, bounded, select};

#[test]
fn ten_thousand_attributes_and_fifty_thousand_spans() {
    let many = (0..10_000)
        .map(|number| words(&format!("key.{number}"), "value"))
        .collect();
    let (_, batch) = decode(
        OtlpSignal::Traces,
        BodyEncoding::Protobuf,
        request(vec![valid(many)]).encode_to_vec(),
    );
    assert_eq!(map(&batch, "attributes", 0).len(), 10_000);
    let flattened = (0..10_000)
        .map(|number| words(&format!("gen_ai.prompt.{number}.content"), "x"))
        .collect();
    let (_, batch) = decode(
        OtlpSignal::Traces,
        BodyEncoding::Protobuf,
        request(vec![valid(flattened)]).encode_to_vec(),
    );
    let input: Vec<serde_json::Value> = serde_json::from_str(&text(&batch, "input", 0).unwrap()).unwrap();
    assert_eq!(input.len(), 10_000);
    let spans = (0..50_000)
        .map(|number| valid(vec![pair("gen_ai.usage.input_tokens", Value::IntValue(number))]))
        .collect();
    let (decoded, batch) = decode(
        OtlpSignal::Traces,
        BodyEncoding::Protobuf,
        request(spans).encode_to_vec(),
    );
    assert_eq!(decoded.rows, 50_000);
    assert_eq!(int(&batch, "input_tokens", 49_999), Some(49_999));
}

#[test]
fn nesting_has_a_limit_and_a_broken_body_leaves_nothing() {
    let nested = |levels: usize| {
        let mut value = AnyValue {
            value: Some(Value::IntValue(1)),
        };
        for _ in 0..levels {
            value = AnyValue {
                value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })),
            };
        }
        request(vec![valid(vec![KeyValue {
            key: "deep".to_owned(),
            value: Some(value),
            ..KeyValue::default()
        }])])
        .encode_to_vec()
    };
    decode(OtlpSignal::Traces, BodyEncoding::Protobuf, nested(47));
    let mut decoder = Decoder::new(OtlpSignal::Traces);
    let good = Bytes::from(request(vec![valid(Vec::new())]).encode_to_vec());
    decoder.decode(&origin(), BodyEncoding::Protobuf, &good).unwrap();
    let error = decoder
        .decode(&origin(), BodyEncoding::Protobuf, &Bytes::from(nested(60)))
        .unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::Malformed {
                cause: WireError::TooDeep,
                ..
            }
        ),
        "{error}"
    );
    let cut = [&good[..], &good[..good.len() - 1]].concat();
    assert!(
        decoder
            .decode(&origin(), BodyEncoding::Protobuf, &Bytes::from(cut))
            .is_err()
    );
    decoder.decode(&origin(), BodyEncoding::Protobuf, &good).unwrap();
    assert_eq!(decoder.rows(), 2);
    assert_eq!(decoder.finish().unwrap().num_rows(), 2);
    assert_eq!(decoder.finish().unwrap().num_rows(), 0);
}

#[test]
fn a_selection_survives_filtering_and_refuses_unknown_names() {
    let mut decoder = Decoder::new(OtlpSignal::Traces);
    let body = pyflare_operators::corpus::real_request(3, 60);
    decoder
        .decode(&origin(), BodyEncoding::Protobuf, &Bytes::from(body))
        .unwrap();
    let batch = decoder.finish().unwrap();
    let whole = select("spans", &batch, &["attributes", "name"]).unwrap();
    assert_eq!(
        select("spans", &batch.slice(20, 10), &["attributes", "name"]).unwrap(),
        whole.slice(20, 10)
    );
    let error = select("spans", &batch, &["no_such"]).unwrap_err();
    assert!(error.to_string().starts_with("PF-1105"));
    assert_eq!(select("spans", &batch, &[]).unwrap().num_rows(), 60);
}

#[test]
fn a_large_resource_is_selected_in_slices() {
    let mut request = request((0..200).map(|_| valid(Vec::new())).collect());
    let long = "x".repeat(1 << 20);
    request.resource_spans[0].resource = Some(Resource {
        attributes: vec![words("long", &long)],
        ..Resource::default()
    });
    let mut decoder = Decoder::new(OtlpSignal::Traces);
    let body = Bytes::from(request.encode_to_vec());
    decoder.decode(&origin(), BodyEncoding::Protobuf, &body).unwrap();
    let batch = decoder.finish().unwrap();
    let slices = bounded(&batch);
    let rows: Vec<usize> = slices.iter().map(RecordBatch::num_rows).collect();
    assert_eq!(rows.iter().sum::<usize>(), 200);
    assert!(rows.iter().all(|rows| (1..=64).contains(rows)), "{rows:?}");
    let last = select("spans", slices.last().unwrap(), &["resource"]).unwrap();
    let expected = ("long".to_owned(), format!("\"{long}\""));
    assert!(map(&last, "resource", last.num_rows() - 1).contains(&expected));
    assert_eq!(bounded(&batch.slice(0, 0)).len(), 1);
}
