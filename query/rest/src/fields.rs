//! The declared columns of the streams, those of users too, for completion and help.

use axum::Json;
use axum::extract::State;
use pyflare_operators::fields::{STREAMS, stream_fields, type_name};
use serde::Serialize;
use utoipa::ToSchema;

use crate::extract::Caller;
use crate::paging::List;
use crate::problem::Problem;
use crate::state::Api;

/// A declared column of a stream.
#[derive(Serialize, ToSchema)]
pub(crate) struct FieldItem {
    stream: String,
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    nullable: bool,
    /// Left out of `SELECT *`.
    hidden: bool,
    label: String,
    description: String,
    unit: Option<&'static str>,
    /// Attribute keys that it is read from, in order of precedence.
    aliases: &'static [&'static str],
}

/// The declared columns of all streams.
#[utoipa::path(get, path = "/api/v1/fields", tag = "views", responses(
    (status = 200, body = List<FieldItem>),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(State(api): State<Api>, Caller(scope): Caller) -> Json<List<FieldItem>> {
    let items = STREAMS.iter().flat_map(|stream| {
        stream_fields(stream)
            .unwrap_or_default()
            .iter()
            .map(|field| FieldItem {
                stream: (*stream).to_string(),
                name: field.name.to_string(),
                type_name: type_name(&field.data_type.arrow()),
                nullable: field.nullable,
                hidden: field.hidden,
                label: field.label.to_string(),
                description: field.description.to_string(),
                unit: field.unit,
                aliases: field.aliases,
            })
    });
    let declared = api.rows.as_ref().map(|door| door.streams.streams(&scope));
    let declared = declared.iter().flatten().flat_map(|stream| {
        stream.columns.iter().map(|column| FieldItem {
            stream: stream.name.clone(),
            name: column.name.clone(),
            type_name: column.type_name.clone(),
            nullable: !column.required,
            hidden: false,
            label: column.name.clone(),
            description: match column.name == stream.event_time {
                true => "The event time.".to_string(),
                false => String::new(),
            },
            unit: None,
            aliases: &[],
        })
    });
    Json(List {
        items: items.chain(declared).collect(),
        next_cursor: None,
    })
}
