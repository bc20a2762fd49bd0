//! What is read when a row is closed: attributes that are JSON documents, flattened lists, span events.
//!
//! A document is JSON text, JSON text inside a JSON string (MLflow), or a key-value list. It is parsed only
//! if a column it could fill is still empty or was filled by a worse alias.
use serde_json::Value as Json;

use super::aliases::{Kind, Member, Reading};
use super::error::WireError;
use super::numbers;
use super::row::RowBuilder;
use super::text::{Body, lossy};
use super::value::{KeyValue, Value, separate, write_text};

impl RowBuilder {
    /// Reads the row's documents, in wire order.
    pub(crate) fn read_documents(&mut self, body: Body<'_>) -> Result<(), WireError> {
        let documents = std::mem::take(&mut self.documents);
        let table = self.table;
        for (number, part) in &documents {
            let members = &table.entries[usize::from(*number)].members;
            if !members
                .iter()
                .any(|member| member.reading.rank < self.rank(usize::from(member.reading.column)))
            {
                continue;
            }
            let pair = KeyValue::read(part.of(body))?;
            if let Some(document) = parse(&pair.value()?)? {
                for member in members {
                    self.read_member(body, member, &document);
                }
            }
        }
        self.documents = documents;
        Ok(())
    }

    fn read_member(&mut self, body: Body<'_>, member: &Member, document: &Json) {
        let reading = member.reading;
        if let Json::Array(items) = document {
            if reading.kind == Kind::FinishReason {
                let reason = items
                    .iter()
                    .find_map(|item| item.get(member.name)?.as_str().filter(|text| !text.is_empty()));
                if let Some(reason) = reason {
                    self.read_first_reason(body, reading, reason.as_bytes());
                }
            }
            return;
        }
        let Json::Object(members) = document else { return };
        if member.family {
            match reading.kind {
                Kind::Count => {
                    let total = family(members, member.name, count, i64::checked_add);
                    self.own_count(reading, total, false);
                }
                _ => {
                    let total = family(members, member.name, money, i128::checked_add);
                    self.own_money(reading, total);
                }
            }
            return;
        }
        let Some(value) = members.get(member.name) else {
            return;
        };
        match reading.kind {
            Kind::Count => self.own_count(reading, count(value), false),
            Kind::Money => self.own_money(reading, money(value)),
            Kind::Number => self.own_number(reading, number(value), false),
            _ => {
                if let Json::String(text) = value {
                    self.own_text(reading, text);
                }
            }
        }
    }

    /// Joins flattened lists into JSON arrays of objects, where no better alias has filled their column.
    pub(crate) fn read_flattened(&mut self, body: Body<'_>) -> Result<(), WireError> {
        let parts = std::mem::take(&mut self.flattened);
        let table = self.table;
        for (list, flattened) in table.flattened.iter().enumerate() {
            if flattened.rank >= self.rank(usize::from(flattened.column)) {
                continue;
            }
            let mut fields: Vec<(u64, &[u8], Value<'_>)> = Vec::new();
            for (_, part) in parts.iter().filter(|(number, _)| usize::from(*number) == list) {
                let pair = KeyValue::read(part.of(body))?;
                let Some((number, field)) = numbered(&pair.key[flattened.prefix.len()..]) else {
                    continue;
                };
                fields.push((number, field, pair.value()?));
            }
            fields.sort_by_key(|(number, _, _)| *number);
            let joined = join(&fields)?;
            if let Some(joined) = joined {
                let reading = Reading {
                    column: flattened.column,
                    rank: flattened.rank,
                    kind: Kind::Text,
                };
                self.own_text(reading, &lossy(&joined));
            }
        }
        self.flattened = parts;
        Ok(())
    }

    /// Reads a span event: its name is compared with the event aliases.
    pub(crate) fn read_event(
        &mut self,
        body: Body<'_>,
        name: &[u8],
        at: u64,
        start: u64,
        attributes: &[&[u8]],
    ) -> Result<(), WireError> {
        let table = self.table;
        for alias in table.events.iter().filter(|alias| alias.name.as_bytes() == name) {
            match alias.key {
                None => {
                    if start != 0 && at >= start {
                        self.own_duration(alias.reading, i64::try_from(at - start).unwrap_or(i64::MAX));
                    }
                }
                Some(key) => {
                    for pair in attributes {
                        let pair = KeyValue::read(pair)?;
                        if pair.key == key.as_bytes()
                            && let Some(text) = pair.value()?.text()?
                        {
                            self.read_event_text(body, alias.reading, &text);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The number of a list's item and the field of it: `0.message.content` is 0 and `content`.
fn numbered(key: &[u8]) -> Option<(u64, &[u8])> {
    let digits = key.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&key[..digits]).ok()?.parse().ok()?;
    let field = match &key[digits..] {
        [] => &b"content"[..],
        [b'.', field @ ..] => field.strip_prefix(b"message.").unwrap_or(field),
        _ => return None,
    };
    Some((number, field))
}

/// Fields sorted by item as a JSON array of objects, or nothing where there are none.
fn join(fields: &[(u64, &[u8], Value<'_>)]) -> Result<Option<Vec<u8>>, WireError> {
    if fields.is_empty() {
        return Ok(None);
    }
    let mut out = vec![b'['];
    let mut first_item = true;
    for item in fields.chunk_by(|left, right| left.0 == right.0) {
        separate(&mut out, &mut first_item);
        out.push(b'{');
        let mut first_field = true;
        for (_, field, value) in item {
            separate(&mut out, &mut first_field);
            write_text(&mut out, field);
            out.push(b':');
            value.write_json(&mut out)?;
        }
        out.push(b'}');
    }
    out.push(b']');
    Ok(Some(out))
}

/// The document an attribute holds, if it holds one.
fn parse(value: &Value<'_>) -> Result<Option<Json>, WireError> {
    let parsed = match value {
        Value::Text(text) => serde_json::from_slice(text).ok(),
        Value::Map(_) | Value::Array(_) => {
            let mut json = Vec::new();
            value.write_json(&mut json)?;
            serde_json::from_slice(&json).ok()
        }
        _ => None,
    };
    Ok(match parsed {
        Some(Json::String(inner)) => serde_json::from_str(&inner).ok(),
        other => other,
    })
}

fn count(value: &Json) -> Option<i64> {
    match value {
        Json::Number(number) => number
            .as_i64()
            .or_else(|| numbers::whole_double(number.as_f64()?)),
        Json::String(text) => numbers::whole(text),
        _ => None,
    }
}

fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn money(value: &Json) -> Option<i128> {
    match value {
        Json::Number(number) => numbers::money(&number.to_string()),
        Json::String(text) => numbers::money(text),
        _ => None,
    }
}

/// The sum of a family of Langfuse's buckets, which exclude each other; `None` where none is there.
fn family<T: Copy>(
    members: &serde_json::Map<String, Json>,
    name: &str,
    read: fn(&Json) -> Option<T>,
    add: fn(T, T) -> Option<T>,
) -> Option<T> {
    // A total, or OpenAI's own names, already include everything.
    let whole = match name {
        "input" => "prompt_tokens",
        "output" => "completion_tokens",
        "total" => "total",
        _ => "",
    };
    if let Some(value) = members.get(whole).and_then(read) {
        return Some(value);
    }
    let belongs = |key: &str| match name {
        "input" => {
            key == "input"
                || key.starts_with("input_")
                || matches!(key, "cache_read_input_tokens" | "cache_creation_input_tokens")
        }
        "output" => key == "output" || key.starts_with("output_"),
        "cache_read" => matches!(
            key,
            "input_cached_tokens" | "cache_read_input_tokens" | "input_cache_read"
        ),
        "cache_write" => key.starts_with("input_cache_creation") || key == "cache_creation_input_tokens",
        "reasoning" => key.starts_with("output_reasoning"),
        "total" => true,
        _ => false,
    };
    let mut values = members
        .iter()
        .filter(|(key, _)| belongs(key))
        .filter_map(|(_, value)| read(value));
    let first = values.next()?;
    values.try_fold(first, add)
}
