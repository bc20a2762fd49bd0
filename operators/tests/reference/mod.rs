//! A slow decoder that shares nothing with the fast one but the field declarations: `prost` messages, then
//! one column after the other, one alias after the other. It is meant to be read, not to be quick.
pub mod messages;
mod texts;
mod words;

use std::collections::BTreeMap;

use messages::{Any, Request, Resource, Scope, Span};
use prost::Message;
use pyflare_operators::fields::{Field, FieldType, SPANS};
use serde_json::Value as Json;
use texts::{any, event_json, hex, json, leftovers, links_json, lossy, quoted, resource_map};
use words::{class, normal};

/// One row: every selected column, rendered; null is absent.
pub type Row = BTreeMap<&'static str, String>;

pub const RECEIVED_US: i64 = 1_700_000_000_000_000;
pub const TICK_MS: u64 = 1_800_000_000_000;

/// Rows and rejected rows of a request, or an error where `prost` has one.
pub fn decode(body: &[u8]) -> Result<(Vec<Row>, u32), prost::DecodeError> {
    let request = Request::decode(body)?;
    let (mut rows, mut rejected, mut number) = (Vec::new(), 0, 0);
    for resource_spans in &request.resource_spans {
        let resource = resource_spans.resource.clone().unwrap_or_default();
        for scope_spans in &resource_spans.scope_spans {
            let scope = scope_spans.scope.clone().unwrap_or_default();
            for span in &scope_spans.spans {
                let valid = span.trace_id.len() == 16
                    && span.trace_id.iter().any(|byte| *byte != 0)
                    && span.span_id.len() == 8
                    && span.span_id.iter().any(|byte| *byte != 0)
                    && matches!(span.parent_span_id.len(), 0 | 8);
                if valid {
                    let mut row = row(span, &resource, &scope);
                    row.insert("_row", number.to_string());
                    let urls = (&resource_spans.schema_url[..], &scope_spans.schema_url[..]);
                    row.insert("resource", resource_map(&resource, &scope, urls));
                    rows.push(row);
                } else {
                    rejected += 1;
                }
                number += 1;
            }
        }
    }
    Ok((rows, rejected))
}

/// A value and the attribute that gave it, if it is exactly what that attribute says.
struct Found {
    value: String,
    exact: Option<usize>,
}

fn row(span: &Span, resource: &Resource, scope: &Scope) -> Row {
    let mut row = Row::new();
    let mut held = Vec::new();
    for field in SPANS {
        if let Some(found) = aliased(field, span, resource) {
            held.extend(found.exact);
            row.insert(field.name, found.value);
        }
    }
    row.insert("project", "acme".to_owned());
    row.insert("trace_id", hex(&span.trace_id));
    row.insert("span_id", hex(&span.span_id));
    if span.parent_span_id.iter().any(|byte| *byte != 0) {
        row.insert("parent_span_id", hex(&span.parent_span_id));
    }
    row.insert("name", lossy(&span.name));
    let word = |words: &[&str], number: i32| {
        usize::try_from(number)
            .ok()
            .and_then(|at| words.get(at))
            .map_or(number.to_string(), |word| (*word).to_owned())
    };
    let kinds = [
        "unspecified",
        "internal",
        "server",
        "client",
        "producer",
        "consumer",
    ];
    row.insert("kind", word(&kinds, span.kind));
    let status = span.status.clone().unwrap_or_default();
    row.insert("status", word(&["unset", "ok", "error"], status.code));
    if !status.message.is_empty() {
        row.insert("status_message", lossy(&status.message));
    }
    if !scope.name.is_empty() {
        row.insert("scope_name", lossy(&scope.name));
    }
    let nanos = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    let own = if span.end == 0 || span.end > i64::MAX as u64 {
        RECEIVED_US
    } else {
        nanos(span.end) / 1000
    };
    row.insert("event_time", own.min(TICK_MS as i64 * 1000).to_string());
    row.insert("start_unix_nano", nanos(span.start).to_string());
    if span.start != 0 {
        row.insert("start_time", (nanos(span.start) / 1000).to_string());
    }
    if span.end != 0 {
        row.insert("end_time", (nanos(span.end) / 1000).to_string());
    }
    if span.start != 0 && span.end != 0 {
        let duration = i128::from(span.end) - i128::from(span.start);
        row.insert(
            "duration_ns",
            duration.clamp(i64::MIN.into(), i64::MAX.into()).to_string(),
        );
    }
    derive(&mut row, &mut held, span);
    row.insert("attributes", leftovers(span, &held));
    if !span.events.is_empty() {
        let events: Vec<String> = span.events.iter().map(event_json).collect();
        row.insert("events", format!("[{}]", events.join(",")));
    }
    if !span.links.is_empty() {
        row.insert("links", links_json(span));
    }
    row.insert("dropped_attributes", span.dropped_attributes.to_string());
    row.insert("_tick", TICK_MS.to_string());
    row.insert("_mark", "5".to_owned());
    row.insert("_partition", "3".to_owned());
    row.insert("_offset", "9".to_owned());
    row
}

fn derive(row: &mut Row, held: &mut Vec<usize>, span: &Span) {
    let class = row.get("span_class").cloned().unwrap_or_else(|| {
        let has = |names: &[&str]| names.iter().any(|name| row.contains_key(name));
        let hint = [
            ("db.system.name", "db"),
            ("db.system", "db"),
            ("http.request.method", "http"),
            ("http.method", "http"),
        ]
        .iter()
        .find(|(key, _)| {
            span.attributes
                .iter()
                .any(|pair| pair.key == key.as_bytes() && any(pair).is_some())
        })
        .map(|(_, class)| *class);
        if has(&["model", "model_requested", "input_tokens", "output_tokens"]) {
            "llm".to_owned()
        } else if has(&["tool_name"]) {
            "tool".to_owned()
        } else if has(&["agent_name"]) {
            "agent".to_owned()
        } else {
            hint.unwrap_or("other").to_owned()
        }
    });
    let entity = span
        .attributes
        .iter()
        .filter(|pair| pair.key == b"traceloop.entity.name")
        .find_map(|pair| text(any(pair)).filter(|text| !text.is_empty()));
    for (name, wanted) in [("tool_name", "tool"), ("agent_name", "agent")] {
        if let Some(entity) = entity
            .clone()
            .filter(|_| class == wanted && !row.contains_key(name))
        {
            row.insert(name, entity);
        }
    }
    row.insert("span_class", class);
    if let Some(requested) = row.get("model_requested").cloned() {
        row.entry("model").or_insert(requested);
    }
    for (total, parts) in [
        ("input_tokens", vec!["cache_read_tokens", "cache_write_tokens"]),
        ("output_tokens", vec!["reasoning_tokens"]),
    ] {
        let number = |name: &str| row.get(name).map(|text| text.parse::<i64>().unwrap());
        let sum = parts
            .iter()
            .filter_map(|part| number(part))
            .fold(0i64, i64::saturating_add);
        if let Some(old) = number(total).filter(|old| sum > *old) {
            row.insert(total, old.saturating_add(sum).to_string());
            let field = SPANS.iter().find(|field| field.name == total).unwrap();
            if let Some(found) = aliased(field, span, &Resource::default()) {
                held.retain(|at| Some(*at) != found.exact);
            }
        }
    }
}

/// The first meaningful value of a field, alias by alias.
fn aliased(field: &Field, span: &Span, resource: &Resource) -> Option<Found> {
    field.aliases.iter().find_map(|alias| {
        if let Some(key) = alias.strip_prefix("resource:") {
            let mut pairs = resource
                .attributes
                .iter()
                .filter(|pair| pair.key == key.as_bytes());
            return pairs.find_map(|pair| {
                Some(Found {
                    value: text(any(pair)).filter(|text| !text.is_empty())?,
                    exact: None,
                })
            });
        }
        if let Some(event) = alias.strip_prefix("event:") {
            return of_event(field, event, span).map(|value| Found { value, exact: None });
        }
        if alias.contains('=') || *alias == "traceloop.entity.name" {
            return None;
        }
        if let Some(prefix) = alias.strip_suffix(".*") {
            return flattened(prefix, span).map(|value| Found { value, exact: None });
        }
        if let Some((key, member)) = alias.strip_suffix('}').and_then(|alias| alias.split_once('{')) {
            let mut pairs = span.attributes.iter().filter(|pair| pair.key == key.as_bytes());
            return pairs.find_map(|pair| {
                Some(Found {
                    value: of_document(field, member, any(pair)?)?,
                    exact: None,
                })
            });
        }
        let (key, unit) = match alias.strip_suffix("[ms]") {
            Some(key) => (key, 1e6),
            None => (*alias, 1e9),
        };
        let mut pairs = span
            .attributes
            .iter()
            .enumerate()
            .filter(|(_, pair)| pair.key == key.as_bytes());
        if field.name == "time_to_first_token_ns" && key.ends_with("completion_start_time") {
            let at = pairs.find_map(|(_, pair)| instant(any(pair)?))?;
            let value = at.saturating_sub(i64::try_from(span.start).unwrap_or(i64::MAX));
            return (span.start != 0 && value >= 0).then(|| Found {
                value: value.to_string(),
                exact: None,
            });
        }
        pairs.find_map(|(at, pair)| {
            let (value, exact) = of_attribute(field, key, unit, any(pair)?)?;
            Some(Found {
                value,
                exact: exact.then_some(at),
            })
        })
    })
}

fn text(any: Option<&Any>) -> Option<String> {
    match any? {
        Any::Text(text) => Some(lossy(text)),
        other => Some(json(Some(other))),
    }
}

fn of_attribute(field: &Field, key: &str, unit: f64, any: &Any) -> Option<(String, bool)> {
    let number = || match any {
        Any::Text(text) => std::str::from_utf8(text).ok()?.trim().parse::<f64>().ok(),
        Any::Int(value) => Some(*value as f64),
        Any::Double(value) => Some(*value),
        _ => None,
    };
    match (field.name, field.data_type) {
        ("span_class", _) => match any {
            Any::Text(text) => {
                class(key, std::str::from_utf8(text).ok()?).map(|class| (class.to_owned(), false))
            }
            _ => None,
        },
        ("time_to_first_token_ns", _) => {
            let value = number().filter(|value| value.is_finite() && *value >= 0.0)?;
            Some((((value * unit).round() as i64).to_string(), false))
        }
        (_, FieldType::Int64) => {
            let value = match any {
                Any::Int(value) => *value,
                Any::Double(value) => whole(*value)?,
                Any::Text(text) => {
                    let text = std::str::from_utf8(text).ok()?.trim();
                    text.parse().ok().or_else(|| whole(text.parse().ok()?))?
                }
                _ => return None,
            };
            (value >= 0).then(|| (value.to_string(), matches!(any, Any::Int(_))))
        }
        (_, FieldType::Float64) => {
            let value = number()?;
            let normal = if value.is_nan() {
                f64::NAN
            } else if value == 0.0 {
                0.0
            } else {
                value
            };
            let exact = matches!(any, Any::Double(raw) if raw.to_bits() == normal.to_bits());
            Some((format!("{:016x}", normal.to_bits()), exact))
        }
        (_, FieldType::Money) => {
            let value = match any {
                Any::Text(text) => std::str::from_utf8(text).ok()?.to_owned(),
                Any::Int(value) => value.to_string(),
                Any::Double(value) if value.is_finite() => value.to_string(),
                _ => return None,
            };
            money(&value).map(|value| (value, false))
        }
        ("finish_reason", _) => {
            let first = match any {
                Any::Array(list) => match list.values.first()?.any.as_ref()? {
                    Any::Text(first) => lossy(first),
                    _ => return None,
                },
                Any::Text(list) if list.starts_with(b"[") && std::str::from_utf8(list).is_ok() => {
                    serde_json::from_slice::<Vec<Json>>(list)
                        .ok()?
                        .first()?
                        .as_str()?
                        .to_owned()
                }
                Any::Text(text) => {
                    let raw = lossy(text);
                    let word = if std::str::from_utf8(text).is_ok() {
                        normal("finish_reason", &raw)
                    } else {
                        raw.clone()
                    };
                    return (!raw.is_empty()).then(|| (word.clone(), word.as_bytes() == text.as_slice()));
                }
                other => json(Some(other)),
            };
            (!first.is_empty()).then(|| (normal("finish_reason", &first), false))
        }
        ("provider" | "operation", _) => {
            let raw = text(Some(any)).filter(|raw| !raw.is_empty())?;
            let valid = !matches!(any, Any::Text(text) if std::str::from_utf8(text).is_err());
            let word = if valid { normal(field.name, &raw) } else { raw };
            let exact = matches!(any, Any::Text(text) if word.as_bytes() == text.as_slice());
            Some((word, exact))
        }
        _ => {
            if let Any::Text(raw) = any
                && key.starts_with("mlflow.")
                && let Ok(inner) = serde_json::from_slice::<String>(raw)
            {
                return (!inner.is_empty()).then_some((inner, false));
            }
            let value = text(Some(any)).filter(|value| !value.is_empty())?;
            let exact = matches!(any, Any::Text(text) if value.as_bytes() == text.as_slice());
            Some((value, exact))
        }
    }
}

fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < 9.223_372_036_854_775e18).then_some(value as i64)
}

/// Money of the simple decimal texts that the generator writes, in units of 10^-12.
fn money(text: &str) -> Option<String> {
    let text = text.trim();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if digits.is_empty()
        || !(whole.to_owned() + fraction)
            .bytes()
            .all(|byte| byte.is_ascii_digit())
        || whole.len() > 25
    {
        return None;
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let padded = format!("{fraction:0<13}");
    let units: i128 = format!("{whole}{}", &padded[..12]).parse().ok()?;
    let up = i128::from(padded.as_bytes()[12] >= b'5');
    let units = sign * (units + up);
    Some(units.to_string())
}

fn instant(any: &Any) -> Option<i64> {
    let Any::Text(text) = any else { return None };
    let text = std::str::from_utf8(text).ok()?;
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text).ok()
}

fn of_event(field: &Field, alias: &str, span: &Span) -> Option<String> {
    match alias.strip_suffix('}').and_then(|alias| alias.split_once('{')) {
        None => span
            .events
            .iter()
            .filter(|event| event.name == alias.as_bytes())
            .find(|event| span.start != 0 && event.time >= span.start)
            .map(|event| {
                i64::try_from(event.time - span.start)
                    .unwrap_or(i64::MAX)
                    .to_string()
            }),
        Some((name, key)) => span
            .events
            .iter()
            .filter(|event| event.name == name.as_bytes())
            .flat_map(|event| &event.attributes)
            .filter(|pair| pair.key == key.as_bytes())
            .find_map(|pair| of_attribute(field, key, 1e9, any(pair)?).map(|(value, _)| value)),
    }
}

fn flattened(prefix: &str, span: &Span) -> Option<String> {
    let mut items: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for pair in &span.attributes {
        let Some(rest) = pair
            .key
            .strip_prefix(prefix.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"."))
        else {
            continue;
        };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let Ok(number) = lossy(&rest[..digits]).parse() else {
            continue;
        };
        let name = match &rest[digits..] {
            b"" => "content".to_owned(),
            [b'.', name @ ..] => lossy(name.strip_prefix(b"message.").unwrap_or(name)),
            _ => continue,
        };
        items
            .entry(number)
            .or_default()
            .push(format!("{}:{}", quoted(&name), json(any(pair))));
    }
    let items: Vec<String> = items
        .values()
        .map(|members| format!("{{{}}}", members.join(",")))
        .collect();
    (!items.is_empty()).then(|| format!("[{}]", items.join(",")))
}

fn of_document(field: &Field, member: &str, value: &Any) -> Option<String> {
    let document: Json = match value {
        Any::Text(text) => serde_json::from_slice(text).ok()?,
        Any::Map(_) | Any::Array(_) => serde_json::from_str(&json(Some(value))).ok()?,
        _ => return None,
    };
    let document = match document {
        Json::String(inner) => serde_json::from_str(&inner).ok()?,
        other => other,
    };
    if let Json::Array(items) = &document {
        if field.name != "finish_reason" {
            return None;
        }
        let word = items
            .iter()
            .find_map(|item| item.get(member)?.as_str().filter(|word| !word.is_empty()))?;
        return Some(normal("finish_reason", word));
    }
    let members = document.as_object()?;
    if let Some(family) = member.strip_suffix('*') {
        let whole = members.get(match family {
            "input" => "prompt_tokens",
            "output" => "completion_tokens",
            "total" => "total",
            _ => "",
        });
        if let Some(value) = whole.and_then(|value| of_json(field, value)) {
            return Some(value);
        }
        let values: Vec<i128> = members
            .iter()
            .filter(|(key, _)| match family {
                "input" => {
                    *key == "input"
                        || key.starts_with("input_")
                        || ["cache_read_input_tokens", "cache_creation_input_tokens"].contains(&key.as_str())
                }
                "output" => *key == "output" || key.starts_with("output_"),
                "cache_read" => [
                    "input_cached_tokens",
                    "cache_read_input_tokens",
                    "input_cache_read",
                ]
                .contains(&key.as_str()),
                "cache_write" => {
                    key.starts_with("input_cache_creation") || *key == "cache_creation_input_tokens"
                }
                "reasoning" => key.starts_with("output_reasoning"),
                _ => true,
            })
            .filter_map(|(_, value)| of_json(field, value)?.parse().ok())
            .collect();
        return (!values.is_empty()).then(|| values.iter().sum::<i128>().to_string());
    }
    if field.data_type == FieldType::Text {
        return members
            .get(member)?
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned);
    }
    of_json(field, members.get(member)?)
}

fn of_json(field: &Field, value: &Json) -> Option<String> {
    let any = match value {
        Json::Number(number) if field.data_type == FieldType::Money => {
            // Displayed, a double has no exponent.
            let text = number
                .as_i64()
                .map_or_else(|| number.as_f64().unwrap().to_string(), |int| int.to_string());
            Any::Text(text.into_bytes())
        }
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| number.as_f64().map(Any::Double), |int| Some(Any::Int(int)))?,
        Json::String(text) => Any::Text(text.clone().into_bytes()),
        _ => return None,
    };
    of_attribute(field, "", 1e9, &any).map(|(value, _)| value)
}
