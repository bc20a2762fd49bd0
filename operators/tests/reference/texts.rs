//! Values, maps and lists as text, the way the columns show them.

use super::messages::{Any, AnyValue, Event, KeyValue, Resource, Scope, Span};

pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

pub fn json(any: Option<&Any>) -> String {
    match any {
        None => "null".to_owned(),
        Some(Any::Text(text)) => quoted(&lossy(text)),
        Some(Any::Bool(value)) => value.to_string(),
        Some(Any::Int(value)) => value.to_string(),
        Some(Any::Double(value)) if value.is_nan() => "{\"doubleValue\":\"NaN\"}".to_owned(),
        Some(Any::Double(value)) if value.is_infinite() => {
            format!(
                "{{\"doubleValue\":\"{}Infinity\"}}",
                if *value < 0.0 { "-" } else { "" }
            )
        }
        Some(Any::Double(value)) => serde_json::to_string(value).unwrap(),
        Some(Any::Array(list)) => {
            let items: Vec<String> = list.values.iter().map(|item| json(item.any.as_ref())).collect();
            format!("[{}]", items.join(","))
        }
        Some(Any::Map(map)) => json_object(&map.values),
        Some(Any::Bytes(bytes)) => {
            use std::fmt::Write;
            let mut text = String::new();
            for chunk in bytes.chunks(3) {
                let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
                    << (8 * (3 - chunk.len()));
                for digit in 0..4 {
                    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                    let letter = alphabet
                        .chars()
                        .nth((bits >> (18 - 6 * digit) & 63) as usize)
                        .unwrap();
                    write!(text, "{}", if digit <= chunk.len() { letter } else { '=' }).unwrap();
                }
            }
            format!("{{\"bytesValue\":\"{text}\"}}")
        }
    }
}

pub fn json_object(pairs: &[KeyValue]) -> String {
    let members: Vec<String> = pairs
        .iter()
        .map(|pair| format!("{}:{}", quoted(&lossy(&pair.key)), json(any(pair))))
        .collect();
    format!("{{{}}}", members.join(","))
}

pub fn any(pair: &KeyValue) -> Option<&Any> {
    pair.value
        .as_ref()
        .and_then(|value: &AnyValue| value.any.as_ref())
}

pub fn leftovers(span: &Span, held: &[usize]) -> String {
    let mut entries: Vec<String> = span
        .attributes
        .iter()
        .enumerate()
        .filter(|(at, _)| !held.contains(at))
        .map(|(_, pair)| format!("{}={}", lossy(&pair.key), json(any(pair))))
        .collect();
    if !span.trace_state.is_empty() {
        entries.push(format!("otel.trace_state={}", quoted(&lossy(&span.trace_state))));
    }
    for (name, count) in [
        ("dropped_events_count", span.dropped_events),
        ("dropped_links_count", span.dropped_links),
        ("flags", span.flags),
    ] {
        if count != 0 {
            entries.push(format!("otel.{name}={count}"));
        }
    }
    entries.join("\n")
}

pub fn resource_map(resource: &Resource, scope: &Scope, urls: (&[u8], &[u8])) -> String {
    let mut entries: Vec<String> = Vec::new();
    for pair in &resource.attributes {
        entries.push(format!("{}={}", lossy(&pair.key), json(any(pair))));
    }
    if resource.dropped != 0 {
        entries.push(format!(
            "otel.resource.dropped_attributes_count={}",
            resource.dropped
        ));
    }
    for pair in &scope.attributes {
        entries.push(format!("otel.scope.{}={}", lossy(&pair.key), json(any(pair))));
    }
    if !scope.version.is_empty() {
        entries.push(format!("otel.scope.version={}", quoted(&lossy(&scope.version))));
    }
    if scope.dropped != 0 {
        entries.push(format!("otel.scope.dropped_attributes_count={}", scope.dropped));
    }
    for (name, url) in [("resource", urls.0), ("scope", urls.1)] {
        if !url.is_empty() {
            entries.push(format!("otel.{name}.schema_url={}", quoted(&lossy(url))));
        }
    }
    entries.join("\n")
}

pub fn event_json(event: &Event) -> String {
    let mut members = vec![
        format!("\"time_unix_nano\":{}", event.time),
        format!("\"name\":{}", quoted(&lossy(&event.name))),
    ];
    if !event.attributes.is_empty() {
        members.push(format!("\"attributes\":{}", json_object(&event.attributes)));
    }
    if event.dropped != 0 {
        members.push(format!("\"dropped_attributes_count\":{}", event.dropped));
    }
    format!("{{{}}}", members.join(","))
}

pub fn links_json(span: &Span) -> String {
    let links: Vec<String> = span
        .links
        .iter()
        .map(|link| {
            let mut members = Vec::new();
            for (name, bytes) in [("trace_id", &link.trace_id), ("span_id", &link.span_id)] {
                if !bytes.is_empty() {
                    members.push(format!("\"{name}\":\"{}\"", hex(bytes)));
                }
            }
            if !link.trace_state.is_empty() {
                members.push(format!("\"trace_state\":{}", quoted(&lossy(&link.trace_state))));
            }
            if !link.attributes.is_empty() {
                members.push(format!("\"attributes\":{}", json_object(&link.attributes)));
            }
            for (name, number) in [("dropped_attributes_count", link.dropped), ("flags", link.flags)] {
                if number != 0 {
                    members.push(format!("\"{name}\":{number}"));
                }
            }
            format!("{{{}}}", members.join(","))
        })
        .collect();
    format!("[{}]", links.join(","))
}
