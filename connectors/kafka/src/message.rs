//! A record of the log as a message of Kafka, and back.
//!
//! The value is the body, the key its hash, everything else is in headers `pyflare-*`. A message without them is
//! somebody else's: a Collector's request of the project `default`, received at the message's time. Of a topic that a
//! stream reads every message is rows of that stream, whatever its headers say.

use std::sync::Arc;

use bytes::Bytes;
use pyflare_connectors::{ContentType, LogRecord, Signal, body_hash};
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};

use crate::topics::Content;

const FORMAT: &str = "1";
const DEFAULT_PROJECT: &str = "default";

pub(crate) fn headers(record: &LogRecord) -> OwnedHeaders {
    let received = record.received_us.to_string();
    let hash = format!("{:032x}", record.body_hash);
    let text = |key, value| Header {
        key,
        value: Some(value),
    };
    let headers = OwnedHeaders::new_with_capacity(6)
        .insert(text("pyflare-format", FORMAT))
        .insert(text("pyflare-project", &*record.project))
        .insert(text("pyflare-content-type", name(record.content_type)))
        .insert(text("pyflare-received-us", &received))
        .insert(text("pyflare-body-hash", &hash));
    match &record.stream {
        Some(stream) => headers.insert(text("pyflare-stream", stream)),
        None => headers,
    }
}

/// `None` for a message without a value: it says nothing, in any encoding.
pub(crate) fn record(message: &BorrowedMessage<'_>, content: &Content) -> Option<LogRecord> {
    let body = Bytes::copy_from_slice(message.payload()?);
    let sent_us = message
        .timestamp()
        .to_millis()
        .unwrap_or_default()
        .saturating_mul(1_000);
    let signal = match content {
        Content::Requests(signal) => *signal,
        Content::Rows { project, stream } => {
            return Some(LogRecord {
                project: Arc::clone(project),
                signal: Signal::Streams,
                stream: Some(Arc::clone(stream)),
                content_type: rows_are(&body),
                received_us: sent_us,
                // Such messages are told apart by their offsets.
                body_hash: 0,
                body,
            });
        }
    };
    Some(match message.headers().and_then(Fields::of) {
        Some(fields) => LogRecord {
            project: fields.project.into(),
            signal,
            stream: fields.stream.map(Arc::from),
            content_type: fields.content_type,
            received_us: fields.received_us,
            body_hash: fields.body_hash,
            body,
        },
        None => LogRecord {
            project: DEFAULT_PROJECT.into(),
            signal,
            stream: None,
            content_type: guess(&body),
            received_us: sent_us,
            body_hash: body_hash(DEFAULT_PROJECT, signal, &body),
            body,
        },
    })
}

/// JSON begins with a brace, which no request in protobuf does: that would be a field 15 of a kind that is gone.
fn guess(body: &[u8]) -> ContentType {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => ContentType::Json,
        _ => ContentType::Protobuf,
    }
}

/// An Arrow stream begins with the mark of a message, which no text does.
fn rows_are(body: &[u8]) -> ContentType {
    match body.starts_with(&[0xff; 4]) {
        true => ContentType::ArrowStream,
        false => ContentType::Json,
    }
}

/// What our headers say; `None` if they are not all there and well-formed.
struct Fields<'a> {
    project: &'a str,
    stream: Option<&'a str>,
    content_type: ContentType,
    received_us: i64,
    body_hash: u128,
}

impl<'a> Fields<'a> {
    fn of<H: Headers>(headers: &'a H) -> Option<Fields<'a>> {
        let (mut format, mut project, mut stream, mut content_type) = (None, None, None, None);
        let (mut received_us, mut body_hash) = (None, None);
        for header in headers.iter() {
            let value = header.value.and_then(|value| std::str::from_utf8(value).ok());
            match header.key {
                "pyflare-format" => format = value,
                "pyflare-project" => project = value,
                "pyflare-stream" => stream = value,
                "pyflare-content-type" => content_type = value.and_then(content_type_named),
                "pyflare-received-us" => received_us = value.and_then(|value| value.parse().ok()),
                "pyflare-body-hash" => {
                    body_hash = value.and_then(|value| u128::from_str_radix(value, 16).ok());
                }
                _ => {}
            }
        }
        (format == Some(FORMAT)).then_some(())?;
        Some(Fields {
            project: project.filter(|project| !project.is_empty())?,
            stream,
            content_type: content_type?,
            received_us: received_us?,
            body_hash: body_hash?,
        })
    }
}

const NAMES: [(ContentType, &str); 4] = [
    (ContentType::Protobuf, "protobuf"),
    (ContentType::Json, "json"),
    (ContentType::NdJson, "ndjson"),
    (ContentType::ArrowStream, "arrow"),
];

fn name(content_type: ContentType) -> &'static str {
    let named = NAMES.into_iter().find(|(known, _)| *known == content_type);
    named.map_or("protobuf", |(_, name)| name)
}

fn content_type_named(name: &str) -> Option<ContentType> {
    let found = NAMES.into_iter().find(|(_, known)| *known == name);
    found.map(|(content_type, _)| content_type)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pyflare_connectors::conformance::record;

    use super::*;

    #[test]
    fn headers_say_what_the_record_says() {
        let record = record(Signal::Streams, 7, 100);
        let headers = headers(&record);
        let fields = Fields::of(&headers).unwrap();
        assert_eq!(fields.project, &*record.project);
        assert_eq!(fields.stream, record.stream.as_deref());
        assert_eq!(fields.content_type, record.content_type);
        assert_eq!(
            (fields.received_us, fields.body_hash),
            (record.received_us, record.body_hash)
        );
    }

    #[test]
    fn other_peoples_headers_are_not_ours() {
        let none = OwnedHeaders::new();
        assert!(Fields::of(&none).is_none());
        let half = none.insert(Header {
            key: "pyflare-project",
            value: Some("another"),
        });
        assert!(Fields::of(&half).is_none());
    }

    #[test]
    fn encodings_are_told_apart() {
        assert_eq!(guess(b" \n{\"resourceSpans\":[]}"), ContentType::Json);
        assert_eq!(guess(b"\x0a\x02\x12\x00"), ContentType::Protobuf);
        assert_eq!(guess(b""), ContentType::Protobuf);
    }
}
