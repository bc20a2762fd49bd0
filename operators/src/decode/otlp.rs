//! The shape of the OTLP messages: one table that the structural walk and the JSON transcoder share.
//!
//! Field numbers and JSON names are those of opentelemetry-proto 1.x. Fields that are not listed are unknown:
//! the walk skips them.
use super::error::WireError;
use super::wire::{self, FIXED32, FIXED64, LENGTH, MAX_DEPTH, VARINT};

/// How a field's value is written on the wire and in JSON.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Bytes,
    /// Bytes that OTLP/JSON writes in hexadecimal: trace and span ids.
    Id,
    Bool,
    Uint32,
    Uint64,
    Sint32,
    Int64,
    /// An enumeration: the names of its values from 0 on.
    Enum(&'static [&'static str]),
    Fixed32,
    Fixed64,
    Sfixed64,
    Double,
    Message(&'static Message),
}

impl Kind {
    fn wire_type(self) -> u32 {
        match self {
            Kind::Text | Kind::Bytes | Kind::Id | Kind::Message(_) => LENGTH,
            Kind::Bool | Kind::Uint32 | Kind::Uint64 | Kind::Sint32 | Kind::Int64 | Kind::Enum(_) => VARINT,
            Kind::Fixed32 => FIXED32,
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => FIXED64,
        }
    }
}

/// One field of a message.
pub(crate) struct Rule {
    pub number: u32,
    /// Its JSON name (lowerCamelCase); the snake_case form is accepted too.
    pub name: &'static str,
    pub kind: Kind,
    pub repeated: bool,
}

/// A message: its fields.
pub(crate) struct Message {
    pub rules: &'static [Rule],
}

impl Message {
    #[inline]
    pub(crate) fn rule(&self, number: u32) -> Option<&'static Rule> {
        self.rules.iter().find(|rule| rule.number == number)
    }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Rule {
    Rule {
        number,
        name,
        kind,
        repeated: false,
    }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Rule {
    Rule {
        number,
        name,
        kind,
        repeated: true,
    }
}

const fn attributes(number: u32) -> Rule {
    many(number, "attributes", Kind::Message(&KEY_VALUE))
}

pub(crate) static ANY_VALUE: Message = Message {
    rules: &[
        one(1, "stringValue", Kind::Text),
        one(2, "boolValue", Kind::Bool),
        one(3, "intValue", Kind::Int64),
        one(4, "doubleValue", Kind::Double),
        one(5, "arrayValue", Kind::Message(&ARRAY_VALUE)),
        one(6, "kvlistValue", Kind::Message(&KEY_VALUE_LIST)),
        one(7, "bytesValue", Kind::Bytes),
    ],
};
pub(crate) static ARRAY_VALUE: Message = Message {
    rules: &[many(1, "values", Kind::Message(&ANY_VALUE))],
};
pub(crate) static KEY_VALUE_LIST: Message = Message {
    rules: &[many(1, "values", Kind::Message(&KEY_VALUE))],
};
pub(crate) static KEY_VALUE: Message = Message {
    rules: &[
        one(1, "key", Kind::Text),
        one(2, "value", Kind::Message(&ANY_VALUE)),
    ],
};
pub(crate) static SCOPE: Message = Message {
    rules: &[
        one(1, "name", Kind::Text),
        one(2, "version", Kind::Text),
        attributes(3),
        one(4, "droppedAttributesCount", Kind::Uint32),
    ],
};
pub(crate) static RESOURCE: Message = Message {
    rules: &[attributes(1), one(2, "droppedAttributesCount", Kind::Uint32)],
};

const SPAN_KIND: &[&str] = &[
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];
const STATUS_CODE: &[&str] = &["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];
const TEMPORALITY: &[&str] = &[
    "AGGREGATION_TEMPORALITY_UNSPECIFIED",
    "AGGREGATION_TEMPORALITY_DELTA",
    "AGGREGATION_TEMPORALITY_CUMULATIVE",
];
const SEVERITY: &[&str] = &[
    "SEVERITY_NUMBER_UNSPECIFIED",
    "SEVERITY_NUMBER_TRACE",
    "SEVERITY_NUMBER_TRACE2",
    "SEVERITY_NUMBER_TRACE3",
    "SEVERITY_NUMBER_TRACE4",
    "SEVERITY_NUMBER_DEBUG",
    "SEVERITY_NUMBER_DEBUG2",
    "SEVERITY_NUMBER_DEBUG3",
    "SEVERITY_NUMBER_DEBUG4",
    "SEVERITY_NUMBER_INFO",
    "SEVERITY_NUMBER_INFO2",
    "SEVERITY_NUMBER_INFO3",
    "SEVERITY_NUMBER_INFO4",
    "SEVERITY_NUMBER_WARN",
    "SEVERITY_NUMBER_WARN2",
    "SEVERITY_NUMBER_WARN3",
    "SEVERITY_NUMBER_WARN4",
    "SEVERITY_NUMBER_ERROR",
    "SEVERITY_NUMBER_ERROR2",
    "SEVERITY_NUMBER_ERROR3",
    "SEVERITY_NUMBER_ERROR4",
    "SEVERITY_NUMBER_FATAL",
    "SEVERITY_NUMBER_FATAL2",
    "SEVERITY_NUMBER_FATAL3",
    "SEVERITY_NUMBER_FATAL4",
];

pub(crate) static EVENT: Message = Message {
    rules: &[
        one(1, "timeUnixNano", Kind::Fixed64),
        one(2, "name", Kind::Text),
        attributes(3),
        one(4, "droppedAttributesCount", Kind::Uint32),
    ],
};
pub(crate) static LINK: Message = Message {
    rules: &[
        one(1, "traceId", Kind::Id),
        one(2, "spanId", Kind::Id),
        one(3, "traceState", Kind::Text),
        attributes(4),
        one(5, "droppedAttributesCount", Kind::Uint32),
        one(6, "flags", Kind::Fixed32),
    ],
};
pub(crate) static STATUS: Message = Message {
    rules: &[
        one(2, "message", Kind::Text),
        one(3, "code", Kind::Enum(STATUS_CODE)),
    ],
};
pub(crate) static SPAN: Message = Message {
    rules: &[
        one(1, "traceId", Kind::Id),
        one(2, "spanId", Kind::Id),
        one(3, "traceState", Kind::Text),
        one(4, "parentSpanId", Kind::Id),
        one(5, "name", Kind::Text),
        one(6, "kind", Kind::Enum(SPAN_KIND)),
        one(7, "startTimeUnixNano", Kind::Fixed64),
        one(8, "endTimeUnixNano", Kind::Fixed64),
        attributes(9),
        one(10, "droppedAttributesCount", Kind::Uint32),
        many(11, "events", Kind::Message(&EVENT)),
        one(12, "droppedEventsCount", Kind::Uint32),
        many(13, "links", Kind::Message(&LINK)),
        one(14, "droppedLinksCount", Kind::Uint32),
        one(15, "status", Kind::Message(&STATUS)),
        one(16, "flags", Kind::Fixed32),
    ],
};
static SCOPE_SPANS: Message = Message {
    rules: &[
        one(1, "scope", Kind::Message(&SCOPE)),
        many(2, "spans", Kind::Message(&SPAN)),
        one(3, "schemaUrl", Kind::Text),
    ],
};
static RESOURCE_SPANS: Message = Message {
    rules: &[
        one(1, "resource", Kind::Message(&RESOURCE)),
        many(2, "scopeSpans", Kind::Message(&SCOPE_SPANS)),
        one(3, "schemaUrl", Kind::Text),
    ],
};
pub(crate) static TRACES: Message = Message {
    rules: &[many(1, "resourceSpans", Kind::Message(&RESOURCE_SPANS))],
};

pub(crate) static LOG_RECORD: Message = Message {
    rules: &[
        one(1, "timeUnixNano", Kind::Fixed64),
        one(2, "severityNumber", Kind::Enum(SEVERITY)),
        one(3, "severityText", Kind::Text),
        one(5, "body", Kind::Message(&ANY_VALUE)),
        attributes(6),
        one(7, "droppedAttributesCount", Kind::Uint32),
        one(8, "flags", Kind::Fixed32),
        one(9, "traceId", Kind::Id),
        one(10, "spanId", Kind::Id),
        one(11, "observedTimeUnixNano", Kind::Fixed64),
        one(12, "eventName", Kind::Text),
    ],
};
static SCOPE_LOGS: Message = Message {
    rules: &[
        one(1, "scope", Kind::Message(&SCOPE)),
        many(2, "logRecords", Kind::Message(&LOG_RECORD)),
        one(3, "schemaUrl", Kind::Text),
    ],
};
static RESOURCE_LOGS: Message = Message {
    rules: &[
        one(1, "resource", Kind::Message(&RESOURCE)),
        many(2, "scopeLogs", Kind::Message(&SCOPE_LOGS)),
        one(3, "schemaUrl", Kind::Text),
    ],
};
pub(crate) static LOGS: Message = Message {
    rules: &[many(1, "resourceLogs", Kind::Message(&RESOURCE_LOGS))],
};

pub(crate) static EXEMPLAR: Message = Message {
    rules: &[
        one(2, "timeUnixNano", Kind::Fixed64),
        one(3, "asDouble", Kind::Double),
        one(4, "spanId", Kind::Id),
        one(5, "traceId", Kind::Id),
        one(6, "asInt", Kind::Sfixed64),
        many(7, "filteredAttributes", Kind::Message(&KEY_VALUE)),
    ],
};
pub(crate) static NUMBER_POINT: Message = Message {
    rules: &[
        one(2, "startTimeUnixNano", Kind::Fixed64),
        one(3, "timeUnixNano", Kind::Fixed64),
        one(4, "asDouble", Kind::Double),
        many(5, "exemplars", Kind::Message(&EXEMPLAR)),
        one(6, "asInt", Kind::Sfixed64),
        attributes(7),
        one(8, "flags", Kind::Uint32),
    ],
};
pub(crate) static HISTOGRAM_POINT: Message = Message {
    rules: &[
        one(2, "startTimeUnixNano", Kind::Fixed64),
        one(3, "timeUnixNano", Kind::Fixed64),
        one(4, "count", Kind::Fixed64),
        one(5, "sum", Kind::Double),
        many(6, "bucketCounts", Kind::Fixed64),
        many(7, "explicitBounds", Kind::Double),
        many(8, "exemplars", Kind::Message(&EXEMPLAR)),
        attributes(9),
        one(10, "flags", Kind::Uint32),
        one(11, "min", Kind::Double),
        one(12, "max", Kind::Double),
    ],
};
pub(crate) static BUCKETS: Message = Message {
    rules: &[
        one(1, "offset", Kind::Sint32),
        many(2, "bucketCounts", Kind::Uint64),
    ],
};
pub(crate) static EXPONENTIAL_POINT: Message = Message {
    rules: &[
        attributes(1),
        one(2, "startTimeUnixNano", Kind::Fixed64),
        one(3, "timeUnixNano", Kind::Fixed64),
        one(4, "count", Kind::Fixed64),
        one(5, "sum", Kind::Double),
        one(6, "scale", Kind::Sint32),
        one(7, "zeroCount", Kind::Fixed64),
        one(8, "positive", Kind::Message(&BUCKETS)),
        one(9, "negative", Kind::Message(&BUCKETS)),
        one(10, "flags", Kind::Uint32),
        many(11, "exemplars", Kind::Message(&EXEMPLAR)),
        one(12, "min", Kind::Double),
        one(13, "max", Kind::Double),
        one(14, "zeroThreshold", Kind::Double),
    ],
};
static QUANTILE: Message = Message {
    rules: &[one(1, "quantile", Kind::Double), one(2, "value", Kind::Double)],
};
pub(crate) static SUMMARY_POINT: Message = Message {
    rules: &[
        one(2, "startTimeUnixNano", Kind::Fixed64),
        one(3, "timeUnixNano", Kind::Fixed64),
        one(4, "count", Kind::Fixed64),
        one(5, "sum", Kind::Double),
        many(6, "quantileValues", Kind::Message(&QUANTILE)),
        attributes(7),
        one(8, "flags", Kind::Uint32),
    ],
};
static GAUGE: Message = Message {
    rules: &[many(1, "dataPoints", Kind::Message(&NUMBER_POINT))],
};
static SUM: Message = Message {
    rules: &[
        many(1, "dataPoints", Kind::Message(&NUMBER_POINT)),
        one(2, "aggregationTemporality", Kind::Enum(TEMPORALITY)),
        one(3, "isMonotonic", Kind::Bool),
    ],
};
static HISTOGRAM: Message = Message {
    rules: &[
        many(1, "dataPoints", Kind::Message(&HISTOGRAM_POINT)),
        one(2, "aggregationTemporality", Kind::Enum(TEMPORALITY)),
    ],
};
static EXPONENTIAL_HISTOGRAM: Message = Message {
    rules: &[
        many(1, "dataPoints", Kind::Message(&EXPONENTIAL_POINT)),
        one(2, "aggregationTemporality", Kind::Enum(TEMPORALITY)),
    ],
};
static SUMMARY: Message = Message {
    rules: &[many(1, "dataPoints", Kind::Message(&SUMMARY_POINT))],
};
pub(crate) static METRIC: Message = Message {
    rules: &[
        one(1, "name", Kind::Text),
        one(2, "description", Kind::Text),
        one(3, "unit", Kind::Text),
        one(5, "gauge", Kind::Message(&GAUGE)),
        one(7, "sum", Kind::Message(&SUM)),
        one(9, "histogram", Kind::Message(&HISTOGRAM)),
        one(10, "exponentialHistogram", Kind::Message(&EXPONENTIAL_HISTOGRAM)),
        one(11, "summary", Kind::Message(&SUMMARY)),
        many(12, "metadata", Kind::Message(&KEY_VALUE)),
    ],
};
static SCOPE_METRICS: Message = Message {
    rules: &[
        one(1, "scope", Kind::Message(&SCOPE)),
        many(2, "metrics", Kind::Message(&METRIC)),
        one(3, "schemaUrl", Kind::Text),
    ],
};
static RESOURCE_METRICS: Message = Message {
    rules: &[
        one(1, "resource", Kind::Message(&RESOURCE)),
        many(2, "scopeMetrics", Kind::Message(&SCOPE_METRICS)),
        one(3, "schemaUrl", Kind::Text),
    ],
};
pub(crate) static METRICS: Message = Message {
    rules: &[many(1, "resourceMetrics", Kind::Message(&RESOURCE_METRICS))],
};

/// Walks a whole message: every length, tag, wire type and depth. `depth` is the level of this message, 0
/// for the request.
pub(crate) fn check(message: &'static Message, mut rest: &[u8], depth: u32) -> Result<(), WireError> {
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        check_field(message, tag, &mut rest, depth)?;
    }
    Ok(())
}

/// Walks the value of one field of a message whose tag has been read.
pub(crate) fn check_field(
    message: &'static Message,
    tag: u32,
    rest: &mut &[u8],
    depth: u32,
) -> Result<(), WireError> {
    let wire_type = tag & 7;
    let Some(rule) = message.rule(tag >> 3) else {
        return wire::skip(wire_type, rest);
    };
    if let Kind::Message(inner) = rule.kind {
        if wire_type != LENGTH {
            return Err(mismatch(wire_type));
        }
        if depth >= MAX_DEPTH {
            return Err(WireError::TooDeep);
        }
        let bytes = wire::bytes(rest)?;
        if std::ptr::eq(inner, &raw const KEY_VALUE) {
            return check_key_value(bytes, depth + 1);
        }
        return check(inner, bytes, depth + 1);
    }
    if wire_type == rule.kind.wire_type() {
        return wire::skip(wire_type, rest);
    }
    if wire_type == LENGTH && rule.repeated {
        return check_packed(rule.kind.wire_type(), wire::bytes(rest)?);
    }
    Err(mismatch(wire_type))
}

fn mismatch(wire_type: u32) -> WireError {
    match wire_type {
        3 | 4 => WireError::Group,
        6 | 7 => WireError::Tag,
        _ => WireError::WireType,
    }
}

fn check_packed(element: u32, mut packed: &[u8]) -> Result<(), WireError> {
    while !packed.is_empty() {
        wire::skip(element, &mut packed)?;
    }
    Ok(())
}

/// Walks a key-value pair; the usual shape (key, then a value that is one scalar) without the table.
#[inline]
pub(crate) fn check_key_value(pair: &[u8], depth: u32) -> Result<(), WireError> {
    if let [0x0a, key_length, after @ ..] = pair
        && *key_length < 0x80
        && let Some([0x12, value @ ..]) = after.get(usize::from(*key_length)..)
    {
        let mut value = value;
        if let Ok(length) = wire::varint(&mut value)
            && length == value.len() as u64
        {
            return check_value(value, depth + 1);
        }
    }
    check(&KEY_VALUE, pair, depth)
}

/// Walks an `AnyValue` at level `depth`.
#[inline]
pub(crate) fn check_value(value: &[u8], depth: u32) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::TooDeep);
    }
    if let Some(Scalar::Text(_) | Scalar::Int(_) | Scalar::Double(_)) = Scalar::read(value) {
        return Ok(());
    }
    check(&ANY_VALUE, value, depth)
}

/// An `AnyValue` that holds exactly one scalar, the usual case.
#[derive(Clone, Copy)]
pub(crate) enum Scalar<'a> {
    Text(&'a [u8]),
    Int(i64),
    Double(f64),
}

impl<'a> Scalar<'a> {
    #[inline(always)]
    pub(crate) fn read(value: &'a [u8]) -> Option<Scalar<'a>> {
        match value {
            [0x0a, after @ ..] => {
                let mut text = after;
                let length = wire::varint(&mut text).ok()?;
                (length == text.len() as u64).then_some(Scalar::Text(text))
            }
            [0x18, after @ ..] => {
                let mut rest = after;
                let number = wire::varint(&mut rest).ok()?;
                rest.is_empty().then_some(Scalar::Int(number as i64))
            }
            [0x21, after @ ..] => {
                let bytes: [u8; 8] = after.try_into().ok()?;
                Some(Scalar::Double(f64::from_le_bytes(bytes)))
            }
            _ => None,
        }
    }
}

/// The text of an `AnyValue` that is a list of exactly one text, as reasons to finish usually are.
#[inline]
pub(crate) fn list_of_one_text(value: &[u8]) -> Option<&[u8]> {
    let [0x2a, list_length, 0x0a, item_length, 0x0a, text_length, text @ ..] = value else {
        return None;
    };
    let length = text.len();
    let exact = length < 0x70
        && usize::from(*text_length) == length
        && usize::from(*item_length) == length + 2
        && usize::from(*list_length) == length + 4;
    exact.then_some(text)
}
