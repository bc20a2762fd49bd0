//! The messages of `/api/v1/live`, JSON text both ways.
//!
//! A client's message is read strictly: unknown types and fields are refused by name, because a misspelt
//! `snapshot` that is silently ignored costs its author an afternoon.

use arrow::datatypes::Schema;
use pyflare_operators::fields::type_name;
use serde::{Deserialize, Serialize};

use crate::{Failure, FailureKind};

/// Longest `id` a client may choose, in bytes.
pub(crate) const LONGEST_ID: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ClientMessage {
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribe {
    pub id: String,
    pub view: Option<String>,
    pub sql: Option<String>,
    #[serde(default = "yes")]
    pub snapshot: bool,
    #[serde(default)]
    pub progress: bool,
    pub resume: Option<String>,
    pub as_of: Option<u64>,
    pub up_to: Option<u64>,
    #[serde(default)]
    pub envelope: Envelope,
    #[serde(default)]
    pub int64: Int64Format,
}

/// How a frame says what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Envelope {
    /// Rows with the change of their number.
    #[default]
    Diff,
    /// Each key at most once: 1 with its row, or −1 with the row it had.
    Upsert,
    /// As `diff`, of the rows whose window is closed.
    Final,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unsubscribe {
    pub id: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Int64Format {
    #[default]
    Number,
    String,
}

fn yes() -> bool {
    true
}

/// Reads a client's message; the second value is its `id` where one could be made out, for the answer.
pub(crate) fn read(text: &str) -> Result<ClientMessage, (Failure, Option<String>)> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| (garbage(&error.to_string()), None))?;
    let id = value
        .get("id")
        .and_then(|id| id.as_str())
        .filter(|id| id.len() <= LONGEST_ID)
        .map(str::to_string);
    if !value.is_object() {
        return Err((garbage("it is not an object"), None));
    }
    let message: ClientMessage =
        serde_json::from_value(value).map_err(|error| (garbage(&error.to_string()), id.clone()))?;
    let given = match &message {
        ClientMessage::Subscribe(subscribe) => &subscribe.id,
        ClientMessage::Unsubscribe(unsubscribe) => &unsubscribe.id,
    };
    if given.is_empty() || given.len() > LONGEST_ID {
        return Err((
            garbage(&format!("\"id\" must have 1 to {LONGEST_ID} bytes")),
            None,
        ));
    }
    Ok(message)
}

fn garbage(detail: &str) -> Failure {
    let detail: String = detail.chars().take(300).collect();
    Failure::new(
        FailureKind::Invalid,
        "PF-5015",
        format!(
            "the message cannot be understood ({detail}); send {{\"type\": \"subscribe\", \"id\", \"view\" | \"sql\", \
             \"snapshot\", \"progress\", \"resume\", \"as_of\", \"up_to\", \"envelope\", \"int64\"}} or {{\"type\": \"unsubscribe\", \"id\"}}"
        ),
    )
}

/// A column as it is described to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnInfo {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
    /// Part of what identifies a row. When no column is, the whole row does.
    pub key: bool,
}

/// The columns of a schema, in order.
pub fn column_infos(schema: &Schema, key: &[usize]) -> Vec<ColumnInfo> {
    let fields = schema.fields().iter().enumerate();
    fields
        .map(|(index, field)| ColumnInfo {
            name: field.name().clone(),
            data_type: type_name(field.data_type()),
            key: key.contains(&index),
        })
        .collect()
}

pub(crate) fn schema_message(id: &str, columns: &[ColumnInfo]) -> String {
    serde_json::json!({"type": "schema", "id": id, "columns": columns}).to_string()
}

/// `message` is the whole sentence; `hint` appears only where there is one.
pub(crate) fn error_message(id: Option<&str>, failure: &Failure) -> String {
    let mut message = serde_json::json!({
        "type": "error", "id": id, "code": failure.code, "message": failure.message,
    });
    if let (Some(hint), Some(fields)) = (&failure.hint, message.as_object_mut()) {
        fields.insert("hint".to_string(), hint.clone().into());
    }
    if let (Some(position), Some(fields)) = (failure.position, message.as_object_mut()) {
        fields.insert(
            "position".to_string(),
            serde_json::json!({"line": position.line, "column": position.column}),
        );
    }
    message.to_string()
}

pub(crate) fn end_message(id: &str, reason: &str) -> String {
    serde_json::json!({"type": "end", "id": id, "reason": reason}).to_string()
}

/// Everything of a frame's message before its rows.
pub(crate) fn frame_head(out: &mut String, id: &str, lower: u64, upper: u64, reset: bool) {
    use std::fmt::Write;
    out.push_str("{\"type\":\"frame\",\"id\":");
    out.push_str(&json_text(id));
    let _ = write!(
        out,
        ",\"lower\":{lower},\"upper\":{upper},\"reset\":{reset},\"rows\":["
    );
}

/// Everything after them.
pub(crate) fn frame_tail(out: &mut String, resume: &str) {
    out.push_str("],\"resume\":");
    out.push_str(&json_text(resume));
    out.push('}');
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_read_with_their_defaults() {
        let ClientMessage::Subscribe(subscribe) =
            read(r#"{"type":"subscribe","id":"a","view":"requests"}"#).unwrap()
        else {
            panic!("not a subscribe");
        };
        assert_eq!(
            (subscribe.id.as_str(), subscribe.view.as_deref()),
            ("a", Some("requests"))
        );
        assert!(subscribe.snapshot && !subscribe.progress && subscribe.int64 == Int64Format::Number);
    }

    #[test]
    fn garbage_is_refused_with_the_id_where_it_has_one() {
        for (text, id) in [
            ("", None),
            ("nonsense", None),
            ("[]", None),
            ("null", None),
            ("3", None),
            (r#"{"type":"subscribe"}"#, None),
            (r#"{"type":"steal","id":"x"}"#, Some("x")),
            (r#"{"type":"subscribe","id":7,"view":"v"}"#, None),
            (r#"{"type":"subscribe","id":"x","viev":"v"}"#, Some("x")),
            (
                r#"{"type":"subscribe","id":"x","view":"v","int64":"hex"}"#,
                Some("x"),
            ),
            (r#"{"type":"subscribe","id":"","view":"v"}"#, None),
        ] {
            let (failure, found) = read(text).unwrap_err();
            assert_eq!(
                (failure.code.as_str(), found.as_deref()),
                ("PF-5015", id),
                "{text}"
            );
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&deep).unwrap_err().0.code, "PF-5015");
    }
}
