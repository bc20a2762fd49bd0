//! The declared columns of the streams, for completion and help.

use axum::Json;
use pyflare_operators::fields::{STREAMS, stream_fields, type_name};
use serde::Serialize;
use utoipa::ToSchema;

use crate::extract::Caller;
use crate::paging::List;
use crate::problem::Problem;

/// A declared column of a stream.
#[derive(Serialize, ToSchema)]
pub(crate) struct FieldItem {
    stream: &'static str,
    name: &'static str,
    #[serde(rename = "type")]
    type_name: String,
    nullable: bool,
    /// Left out of `SELECT *`.
    hidden: bool,
    label: &'static str,
    description: &'static str,
    unit: Option<&'static str>,
    /// Attribute keys that it is read from, in order of precedence.
    aliases: &'static [&'static str],
}

/// The declared columns of all streams.
#[utoipa::path(get, path = "/api/v1/fields", tag = "views", responses(
    (status = 200, body = List<FieldItem>),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(_caller: Caller) -> Json<List<FieldItem>> {
    let items = STREAMS.iter().flat_map(|stream| {
        stream_fields(stream)
            .unwrap_or_default()
            .iter()
            .map(|field| FieldItem {
                stream,
                name: field.name,
                type_name: type_name(&field.data_type.arrow()),
                nullable: field.nullable,
                hidden: field.hidden,
                label: field.label,
                description: field.description,
                unit: field.unit,
                aliases: field.aliases,
            })
    });
    Json(List {
        items: items.collect(),
        next_cursor: None,
    })
}
