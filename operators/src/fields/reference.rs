//! The reference page of all declared fields, rendered from the declarations.
use std::fmt::Write;

use super::{ALIAS_TABLE_VERSION, STREAMS, stream_fields, type_name};

/// Renders the Markdown page that documents every declared field.
pub fn reference_page() -> String {
    let mut page = String::from("# Fields\n\n");
    let _ = writeln!(
        page,
        "What the columns of the streams mean and where they are read from. This page is rendered from the \
         declarations in `operators/src/fields`; the alias table is version {ALIAS_TABLE_VERSION}.\n\n\
         The first alias with a meaningful value wins, whatever the order on the wire. `key{{member}}` is a \
         member of an attribute that holds a JSON object, `key{{member*}}` a sum over a family of its buckets, \
         `key.*` a list flattened into numbered attributes, `key[ms]` a number in milliseconds, `key=class` a \
         class suggested by the key's presence, `resource:` an attribute of the resource, `event:` a span \
         event. Columns whose names begin with `_` are hidden from `SELECT *`.\n\n\
         Numbers are normalised: −0.0 is read as 0.0, and every NaN has one bit pattern. Text that is not \
         valid UTF-8 keeps its row; each wrong byte sequence is replaced by U+FFFD."
    );
    for stream in STREAMS {
        let Some(fields) = stream_fields(stream) else {
            continue;
        };
        let _ = writeln!(
            page,
            "\n## `{stream}`\n\n| column | type | meaning | read from |\n|---|---|---|---|"
        );
        for field in fields {
            let aliases: Vec<String> = field.aliases.iter().map(|alias| format!("`{alias}`")).collect();
            let null = if field.nullable { ", nullable" } else { "" };
            let unit = field.unit.map(|unit| format!(" ({unit})")).unwrap_or_default();
            let _ = writeln!(
                page,
                "| `{}` | {}{null} | {}{unit} | {} |",
                field.name,
                type_name(&field.data_type.arrow()),
                field.description.replace('|', "\\|"),
                aliases.join(", ")
            );
        }
    }
    page
}
