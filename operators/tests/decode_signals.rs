//! Logs, metrics, OTLP/JSON and input that is too much: what comes out, value by value.
#![allow(clippy::unwrap_used)]
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
    summary_data_point::ValueAtQuantile,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use pyflare_operators::decode::{
    BodyEncoding, DecodeError, Decoded, Decoder, Origin, OtlpSignal, WireError, check, select,
};
use pyflare_operators::fields::stream_fields;

const TICK: u64 = 1_800_000_000_000;

fn origin() -> Origin<'static> {
    Origin {
        project: "acme",
        received_us: 77,
        tick: TICK,
        mark_us: None,
        partition: 0,
        offset: 0,
    }
}

fn decode(signal: OtlpSignal, encoding: BodyEncoding, body: Vec<u8>) -> (Decoded, RecordBatch) {
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

fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let array = batch.column_by_name(column).unwrap().as_string_view();
    array.is_valid(row).then(|| array.value(row).to_owned())
}

fn int(batch: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let array = batch.column_by_name(column).unwrap().as_primitive::<Int64Type>();
    array.is_valid(row).then(|| array.value(row))
}

fn double(batch: &RecordBatch, column: &str, row: usize) -> Option<f64> {
    let array = batch
        .column_by_name(column)
        .unwrap()
        .as_primitive::<Float64Type>();
    array.is_valid(row).then(|| array.value(row))
}

fn event_time(batch: &RecordBatch, row: usize) -> i64 {
    batch
        .column_by_name("event_time")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>()
        .value(row)
}

fn map(batch: &RecordBatch, column: &str, row: usize) -> Vec<(String, String)> {
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

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn words(key: &str, text: &str) -> KeyValue {
    pair(key, Value::StringValue(text.to_owned()))
}

fn resource() -> Option<Resource> {
    Some(Resource {
        attributes: vec![words("service.name", "shop"), words("host.name", "h1")],
        ..Resource::default()
    })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: "lib".to_owned(),
        version: "2".to_owned(),
        ..InstrumentationScope::default()
    })
}

#[test]
fn log_records() {
    let records = vec![
        LogRecord {
            time_unix_nano: 1_790_000_000_123_456_789,
            severity_number: 17,
            severity_text: "Error".to_owned(),
            body: Some(AnyValue {
                value: Some(Value::StringValue("it broke".to_owned())),
            }),
            attributes: vec![
                words("user.id", "u1"),
                words("left", "over"),
                words("gen_ai.system", "OpenAI"),
            ],
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            event_name: "gen_ai.user.message".to_owned(),
            flags: 1,
            ..LogRecord::default()
        },
        LogRecord {
            observed_time_unix_nano: 1_790_000_001_000_000_000,
            body: Some(AnyValue {
                value: Some(Value::ArrayValue(ArrayValue {
                    values: vec![AnyValue {
                        value: Some(Value::IntValue(3)),
                    }],
                })),
            }),
            trace_id: vec![0; 16],
            ..LogRecord::default()
        },
        LogRecord {
            trace_id: vec![1; 3],
            ..LogRecord::default()
        },
        LogRecord {
            time_unix_nano: u64::MAX,
            ..LogRecord::default()
        },
    ];
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: resource(),
            scope_logs: vec![ScopeLogs {
                scope: scope(),
                log_records: records,
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    };
    let (decoded, batch) = decode(OtlpSignal::Logs, BodyEncoding::Protobuf, request.encode_to_vec());
    assert_eq!((decoded.rows, decoded.rejected), (3, 1));
    assert_eq!(text(&batch, "body", 0), some("it broke"));
    assert_eq!(text(&batch, "severity", 0), some("error"));
    assert_eq!(text(&batch, "severity_text", 0), some("Error"));
    assert_eq!(text(&batch, "trace_id", 0), some(&"01".repeat(16)));
    assert_eq!(text(&batch, "span_id", 0), some(&"02".repeat(8)));
    assert_eq!(text(&batch, "event_name", 0), some("gen_ai.user.message"));
    assert_eq!(text(&batch, "user_id", 0), some("u1"));
    assert_eq!(text(&batch, "provider", 0), some("openai"));
    assert_eq!(text(&batch, "service_name", 0), some("shop"));
    assert_eq!(text(&batch, "scope_name", 0), some("lib"));
    let left = [
        ("left", "\"over\""),
        ("gen_ai.system", "\"OpenAI\""),
        ("otel.flags", "1"),
    ];
    assert_eq!(
        map(&batch, "attributes", 0),
        left.map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
    assert_eq!(event_time(&batch, 0), 1_790_000_000_123_456);
    assert_eq!(text(&batch, "body", 1), some("[3]"));
    assert_eq!(text(&batch, "trace_id", 1), None);
    assert_eq!(event_time(&batch, 1), 1_790_000_001_000_000);
    assert_eq!(text(&batch, "severity", 1), some("unspecified"));
    assert_eq!(event_time(&batch, 2), 77);
    let rows: Vec<i32> = batch
        .column_by_name("_row")
        .unwrap()
        .as_primitive::<Int32Type>()
        .values()
        .to_vec();
    assert_eq!(rows, [0, 1, 3]);
}

fn metric(name: &str, data: Data) -> Metric {
    Metric {
        name: name.to_owned(),
        unit: "s".to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

#[test]
fn data_points_of_every_type() {
    let time_unix_nano = 1_790_000_000_000_001_000;
    let attributes = vec![words("gen_ai.token.type", "input"), words("left", "over")];
    let number = |value| NumberDataPoint {
        time_unix_nano,
        attributes: attributes.clone(),
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let sample = Exemplar {
        time_unix_nano: 9,
        value: Some(exemplar::Value::AsInt(4)),
        trace_id: vec![1; 16],
        ..Exemplar::default()
    };
    let histogram = HistogramDataPoint {
        time_unix_nano,
        count: 3,
        sum: Some(1.5),
        bucket_counts: vec![1, 2],
        explicit_bounds: vec![0.5],
        min: Some(-0.0),
        exemplars: vec![sample],
        attributes: attributes.clone(),
        ..HistogramDataPoint::default()
    };
    let exponential = ExponentialHistogramDataPoint {
        time_unix_nano,
        count: 2,
        scale: -3,
        zero_count: 1,
        positive: Some(Buckets {
            offset: -2,
            bucket_counts: vec![1, 0, 300],
        }),
        attributes: attributes.clone(),
        ..ExponentialHistogramDataPoint::default()
    };
    let summary = SummaryDataPoint {
        count: 5,
        sum: 2.5,
        quantile_values: vec![ValueAtQuantile {
            quantile: 0.5,
            value: 1.0,
        }],
        attributes: attributes.clone(),
        ..SummaryDataPoint::default()
    };
    let metrics = vec![
        metric(
            "g",
            Data::Gauge(Gauge {
                data_points: vec![
                    number(number_data_point::Value::AsDouble(f64::NAN)),
                    number(number_data_point::Value::AsDouble(-0.0)),
                ],
            }),
        ),
        metric(
            "s",
            Data::Sum(Sum {
                data_points: vec![number(number_data_point::Value::AsInt(-7))],
                aggregation_temporality: 2,
                is_monotonic: true,
            }),
        ),
        metric(
            "h",
            Data::Histogram(Histogram {
                data_points: vec![histogram],
                aggregation_temporality: 1,
            }),
        ),
        metric(
            "e",
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![exponential],
                aggregation_temporality: 0,
            }),
        ),
        metric(
            "q",
            Data::Summary(Summary {
                data_points: vec![summary],
            }),
        ),
        Metric {
            name: "nothing".to_owned(),
            ..Metric::default()
        },
    ];
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: resource(),
            scope_metrics: vec![ScopeMetrics {
                scope: scope(),
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    let (decoded, batch) = decode(
        OtlpSignal::Metrics,
        BodyEncoding::Protobuf,
        request.encode_to_vec(),
    );
    assert_eq!((decoded.rows, decoded.rejected), (6, 0));
    let names: Vec<_> = (0..6)
        .map(|row| text(&batch, "metric_name", row).unwrap())
        .collect();
    assert_eq!(names, ["g", "g", "s", "h", "e", "q"]);
    let types: Vec<_> = (0..6)
        .map(|row| text(&batch, "metric_type", row).unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "gauge",
            "gauge",
            "sum",
            "histogram",
            "exponential_histogram",
            "summary"
        ]
    );
    assert_eq!(
        double(&batch, "value", 0).map(f64::to_bits),
        Some(f64::NAN.to_bits())
    );
    assert_eq!(double(&batch, "value", 1).map(f64::to_bits), Some(0));
    assert_eq!(
        (double(&batch, "value", 2), int(&batch, "value_int", 2)),
        (Some(-7.0), Some(-7))
    );
    assert_eq!(int(&batch, "value_int", 0), None);
    let temporality: Vec<_> = (0..6).map(|row| text(&batch, "temporality", row)).collect();
    assert_eq!(
        temporality,
        [None, None, some("cumulative"), some("delta"), None, None]
    );
    let monotonic = batch.column_by_name("is_monotonic").unwrap().as_boolean();
    assert!(monotonic.value(2) && monotonic.null_count() == 5);
    assert_eq!(
        (int(&batch, "count", 3), double(&batch, "sum", 3)),
        (Some(3), Some(1.5))
    );
    assert_eq!(double(&batch, "min", 3).map(f64::to_bits), Some(0));
    assert_eq!(
        text(&batch, "buckets", 3),
        some("{\"bounds\":[0.5],\"counts\":[1,2]}")
    );
    let sample = format!(
        "[{{\"time_unix_nano\":9,\"value\":4,\"trace_id\":\"{}\"}}]",
        "01".repeat(16)
    );
    assert_eq!(text(&batch, "exemplars", 3), some(&sample));
    let exponential = "{\"scale\":-3,\"zero_count\":1,\"zero_threshold\":0.0,\"positive\":{\"offset\":-2,\"counts\":[1,0,300]},\"negative\":{\"offset\":0,\"counts\":[]}}";
    assert_eq!(text(&batch, "buckets", 4), some(exponential));
    assert_eq!(
        text(&batch, "quantiles", 5),
        some("[{\"quantile\":0.5,\"value\":1.0}]")
    );
    for row in 0..6 {
        assert_eq!(text(&batch, "token_type", row), some("input"));
        assert_eq!(
            map(&batch, "attributes", row),
            [("left".to_owned(), "\"over\"".to_owned())]
        );
        assert_eq!(
            event_time(&batch, row),
            if row < 5 { 1_790_000_000_000_001 } else { 77 }
        );
    }
}

fn valid(attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        attributes,
        ..Span::default()
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
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
