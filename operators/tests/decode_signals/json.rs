//! OTLP/JSON says the same as protobuf.
use super::rows::*;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use pyflare_operators::decode::{BodyEncoding, OtlpSignal, check};

#[test]
fn json_says_the_same_as_protobuf() {
    let json = r#"{"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}},
                                    {"key": "host.name", "value": {"string_value": "h1"}}]},
        "scope_spans": [{"scope": {"name": "lib", "version": "2"}, "unknownField": [1, {"a": null}], "spans": [{
            "traceId": "0101010101010101010101010101010A", "span_id": "0202020202020202", "parentSpanId": "",
            "name": "chat", "kind": "SPAN_KIND_CLIENT", "startTimeUnixNano": "1790000000000000000",
            "end_time_unix_nano": 1790000001000000000, "flags": 257, "status": {"code": 2, "message": "bad"},
            "attributes": [
                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "12"}},
                {"key": "gen_ai.usage.output_tokens", "value": {"intValue": 13}},
                {"key": "gen_ai.request.temperature", "value": {"doubleValue": 1}},
                {"key": "n", "value": {"doubleValue": "NaN"}}, {"key": "b", "value": {"bytesValue": "AQI="}},
                {"key": "t", "value": {"boolValue": true}}, {"key": "none", "value": null},
                {"key": "l", "value": {"arrayValue": {"values": [{"stringValue": ""}]}}}],
            "events": [{"timeUnixNano": "5", "name": "exception",
                        "attributes": [{"key": "exception.type", "value": {"stringValue": "Timeout"}}]}]
        }, {"traceId": "zz", "spanId": "0202020202020202"}]}]}]}"#;
    let mut trace_id = vec![1; 16];
    trace_id[15] = 10;
    let span = Span {
        trace_id,
        span_id: vec![2; 8],
        name: "chat".to_owned(),
        kind: 3,
        start_time_unix_nano: 1_790_000_000_000_000_000,
        end_time_unix_nano: 1_790_000_001_000_000_000,
        flags: 257,
        status: Some(opentelemetry_proto::tonic::trace::v1::Status {
            code: 2,
            message: "bad".to_owned(),
        }),
        attributes: vec![
            pair("gen_ai.usage.input_tokens", Value::IntValue(12)),
            pair("gen_ai.usage.output_tokens", Value::IntValue(13)),
            pair("gen_ai.request.temperature", Value::DoubleValue(1.0)),
            pair("n", Value::DoubleValue(f64::NAN)),
            pair("b", Value::BytesValue(vec![1, 2])),
            pair("t", Value::BoolValue(true)),
            KeyValue {
                key: "none".to_owned(),
                ..KeyValue::default()
            },
            pair(
                "l",
                Value::ArrayValue(ArrayValue {
                    values: vec![AnyValue {
                        value: Some(Value::StringValue(String::new())),
                    }],
                }),
            ),
        ],
        events: vec![opentelemetry_proto::tonic::trace::v1::span::Event {
            time_unix_nano: 5,
            name: "exception".to_owned(),
            attributes: vec![words("exception.type", "Timeout")],
            ..Default::default()
        }],
        ..Span::default()
    };
    let invalid = Span {
        trace_id: vec![0],
        span_id: vec![2; 8],
        ..Span::default()
    };
    let (from_json, ours) = decode(OtlpSignal::Traces, BodyEncoding::Json, json.as_bytes().to_vec());
    let (from_protobuf, theirs) = decode(
        OtlpSignal::Traces,
        BodyEncoding::Protobuf,
        request(vec![span, invalid]).encode_to_vec(),
    );
    assert_eq!(from_json, from_protobuf);
    assert_eq!(ours, theirs);
    assert_eq!(text(&ours, "error_type", 0), some("Timeout"));
    assert_eq!(int(&ours, "input_tokens", 0), Some(12));
}

#[test]
fn json_that_is_not_otlp_is_refused_with_a_code() {
    for body in [
        "",
        "[]",
        "{",
        "{\"resourceSpans\": 1}",
        "{\"resourceSpans\": [7]}",
        "{\"resourceSpans\": [{\"scopeSpans\": [{\"spans\": [{\"kind\": \"NO_SUCH_KIND\"}]}]}]}",
        "{\"resourceSpans\": [{\"scopeSpans\": [{\"spans\": [{\"startTimeUnixNano\": \"-1\"}]}]}]}",
    ] {
        let error = check(OtlpSignal::Traces, BodyEncoding::Json, body.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("PF-1103"), "{error}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(check(OtlpSignal::Traces, BodyEncoding::Json, deep.as_bytes()).is_err());
    assert_eq!(
        check(OtlpSignal::Traces, BodyEncoding::Json, b"{}").unwrap().rows,
        0
    );
}

#[test]
fn recorded_json_decodes() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/otlp");
    let Ok(files) = std::fs::read_dir(folder) else {
        return;
    };
    for file in files
        .map(Result::unwrap)
        .filter(|file| file.file_name().to_string_lossy().ends_with(".json"))
    {
        let name = file.file_name().to_string_lossy().into_owned();
        let signal = match &name {
            name if name.contains("-traces-") => OtlpSignal::Traces,
            name if name.contains("-logs-") => OtlpSignal::Logs,
            name if name.contains("-metrics-") => OtlpSignal::Metrics,
            _ => continue,
        };
        let (decoded, _) = decode(signal, BodyEncoding::Json, std::fs::read(file.path()).unwrap());
        assert!(decoded.rows > 0 && decoded.rejected == 0, "{name}");
    }
}
