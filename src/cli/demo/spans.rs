//! Small builders for OTLP spans and their attributes.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

/// A value of an attribute.
pub fn value(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

pub fn attribute(key: &str, of: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(value(of)),
        ..KeyValue::default()
    }
}

/// Times of a span, nanoseconds since 1970.
#[derive(Clone, Copy)]
pub struct Interval {
    pub start: u64,
    pub end: u64,
}

impl Interval {
    /// The interval of that length that begins right after this one.
    pub fn then(self, nanos: u64) -> Interval {
        Interval {
            start: self.end,
            end: self.end + nanos,
        }
    }
}

/// A span in the making.
pub struct Draft(Span);

impl Draft {
    pub fn new(
        trace: &[u8; 16],
        id: [u8; 8],
        parent: Option<[u8; 8]>,
        name: impl Into<String>,
        time: Interval,
    ) -> Draft {
        Draft(Span {
            trace_id: trace.to_vec(),
            span_id: id.to_vec(),
            parent_span_id: parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            name: name.into(),
            kind: SpanKind::Internal as i32,
            start_time_unix_nano: time.start,
            end_time_unix_nano: time.end,
            ..Span::default()
        })
    }

    /// A call of something outside of the process.
    pub fn client(mut self) -> Draft {
        self.0.kind = SpanKind::Client as i32;
        self
    }

    pub fn server(mut self) -> Draft {
        self.0.kind = SpanKind::Server as i32;
        self
    }

    fn with(mut self, key: &str, value: Value) -> Draft {
        self.0.attributes.push(attribute(key, value));
        self
    }

    pub fn text(self, key: &str, text: impl Into<String>) -> Draft {
        self.with(key, Value::StringValue(text.into()))
    }

    pub fn int(self, key: &str, number: i64) -> Draft {
        self.with(key, Value::IntValue(number))
    }

    pub fn double(self, key: &str, number: f64) -> Draft {
        self.with(key, Value::DoubleValue(number))
    }

    pub fn flag(self, key: &str, flag: bool) -> Draft {
        self.with(key, Value::BoolValue(flag))
    }

    pub fn texts(self, key: &str, texts: &[&str]) -> Draft {
        let values = texts
            .iter()
            .map(|text| value(Value::StringValue((*text).to_owned())))
            .collect();
        self.with(key, Value::ArrayValue(ArrayValue { values }))
    }

    /// Ends in an error, with the exception as an event.
    pub fn failed(mut self, error: &str, message: &str) -> Draft {
        self.0.status = Some(Status {
            message: message.to_owned(),
            code: StatusCode::Error as i32,
        });
        self.0.events.push(Event {
            time_unix_nano: self.0.end_time_unix_nano,
            name: "exception".to_owned(),
            attributes: vec![
                attribute("exception.type", Value::StringValue(error.to_owned())),
                attribute("exception.message", Value::StringValue(message.to_owned())),
            ],
            dropped_attributes_count: 0,
        });
        self.text("error.type", error)
    }

    pub fn finish(self) -> Span {
        self.0
    }
}
