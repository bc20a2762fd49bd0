//! `google.rpc.Status` and the OTLP export responses, written by hand: a handful of fields each.
//!
//! Field numbers are those of `google/rpc/status.proto`, `google/rpc/error_details.proto` and
//! `opentelemetry/proto/collector/*/v1/*_service.proto`.

use std::time::Duration;

use pyflare_connectors::Signal;
use serde_json::json;

/// What became of an accepted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Rows rejected, and why the first of them was.
    pub rejected: u64,
    pub message: String,
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        varint(u64::from(field) << 3, out);
        varint(value, out);
    }
}

fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(field) << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// `google.rpc.Status`, with `RetryInfo` where there is a delay.
pub(crate) fn status_protobuf(code: u32, message: &str, retry_after: Option<Duration>) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 80);
    number(1, u64::from(code), &mut out);
    bytes(2, message.as_bytes(), &mut out);
    if let Some(delay) = retry_after {
        let mut duration = Vec::new();
        number(1, delay.as_secs(), &mut duration);
        number(2, u64::from(delay.subsec_nanos()), &mut duration);
        let mut retry_info = Vec::new();
        bytes(1, &duration, &mut retry_info);
        let mut any = Vec::new();
        bytes(1, b"type.googleapis.com/google.rpc.RetryInfo", &mut any);
        bytes(2, &retry_info, &mut any);
        bytes(3, &any, &mut out);
    }
    out
}

/// `google.rpc.Status` as protobuf's JSON.
pub(crate) fn status_json(code: u32, message: &str, retry_after: Option<Duration>) -> Vec<u8> {
    let status = match retry_after {
        Some(delay) => json!({
            "code": code,
            "message": message,
            "details": [{
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{}.{:09}s", delay.as_secs(), delay.subsec_nanos()),
            }],
        }),
        None => json!({ "code": code, "message": message }),
    };
    status.to_string().into_bytes()
}

/// `Export*ServiceResponse`: empty for full success.
pub(crate) fn response_protobuf(outcome: &Outcome) -> Vec<u8> {
    let mut out = Vec::new();
    if outcome.rejected > 0 {
        let mut partial = Vec::new();
        number(1, outcome.rejected, &mut partial);
        bytes(2, outcome.message.as_bytes(), &mut partial);
        bytes(1, &partial, &mut out);
    }
    out
}

/// `Export*ServiceResponse` as protobuf's JSON.
pub(crate) fn response_json(signal: Signal, outcome: &Outcome) -> Vec<u8> {
    if outcome.rejected == 0 {
        return b"{}".to_vec();
    }
    let rejected = match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
        Signal::Streams => "rejectedRows",
    };
    // 64-bit integers are text in protobuf's JSON.
    let partial = json!({ rejected: outcome.rejected.to_string(), "errorMessage": outcome.message });
    json!({ "partialSuccess": partial }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
    use prost::Message;

    use super::*;

    #[test]
    fn responses_are_what_the_generated_code_reads() {
        let full = ExportTraceServiceResponse::decode(
            &response_protobuf(&Outcome {
                rejected: 0,
                message: String::new(),
            })[..],
        );
        assert_eq!(full.unwrap().partial_success, None);
        let outcome = Outcome {
            rejected: 300,
            message: "zero trace id".to_string(),
        };
        let partial = ExportTraceServiceResponse::decode(&response_protobuf(&outcome)[..]).unwrap();
        let partial = partial.partial_success.unwrap();
        assert_eq!(
            (partial.rejected_spans, partial.error_message.as_str()),
            (300, "zero trace id")
        );
        let json: serde_json::Value =
            serde_json::from_slice(&response_json(Signal::Traces, &outcome)).unwrap();
        assert_eq!(json["partialSuccess"]["rejectedSpans"], "300");
        assert_eq!(json["partialSuccess"]["errorMessage"], "zero trace id");
    }

    #[test]
    fn a_status_with_retry_info_has_the_documented_fields() {
        let bytes = status_protobuf(14, "busy", Some(Duration::from_millis(1500)));
        // code = 14, message = "busy", then one Any.
        assert_eq!(bytes[..8], [0x08, 14, 0x12, 4, b'b', b'u', b's', b'y']);
        assert_eq!(bytes[8], 0x1a);
        assert!(
            bytes
                .windows(40)
                .any(|part| part == b"type.googleapis.com/google.rpc.RetryInfo")
        );
        // RetryInfo { retry_delay: Duration { seconds: 1, nanos: 500000000 } }
        let mut retry = vec![0x0a, 8, 0x08, 1, 0x10];
        varint(500_000_000, &mut retry);
        assert!(bytes.ends_with(&retry), "{bytes:?}");
        let json = status_json(14, "busy \"x\"", Some(Duration::from_millis(1500)));
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["details"][0]["retryDelay"], "1.500000000s");
    }
}
