//! Log records and data points, value by value.
use super::rows::*;
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int32Type;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
    summary_data_point::ValueAtQuantile,
};
use prost::Message;
use pyflare_operators::decode::{BodyEncoding, OtlpSignal};

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
