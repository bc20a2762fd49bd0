//! From the memory layout to the columns somebody asks for.
//!
//! Text, numbers and times are passed on as they are. `attributes`, `resource`, `events`, `links` and
//! `exemplars` are made from the raw wire bytes the batch kept.
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, RecordBatch, RecordBatchOptions, StringViewBuilder,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};

use super::entries::Entries;
use super::error::{DecodeError, WireError};
use super::leftovers::Leftovers;
use super::text::lossy;
use super::value::{
    KeyValue, Value, each_field, separate, write_display, write_double, write_hex, write_text,
};
use super::{OtlpSignal, raw_columns, wire};
use crate::fields::{FieldType, STREAMS, schema_of, stream_fields, stream_number, stream_schema};

/// The layout of a batch in memory: [`stream_schema`], but the columns that are made on demand hold raw wire
/// bytes as `BinaryView`. `None` for a stream that is not declared.
pub fn memory_schema(stream: &str) -> Option<SchemaRef> {
    static SCHEMAS: LazyLock<[SchemaRef; 3]> = LazyLock::new(|| {
        STREAMS.map(|stream| {
            let fields = stream_fields(stream).expect("invariant: every listed stream is declared");
            let raw = raw_columns(stream);
            let columns: Vec<_> = schema_of(fields, FieldType::arrow)
                .fields()
                .iter()
                .enumerate()
                .map(|(number, field)| match raw >> number & 1 {
                    1 => Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView)),
                    _ => Arc::clone(field),
                })
                .collect();
            Arc::new(Schema::new(columns))
        })
    });
    Some(Arc::clone(&SCHEMAS[stream_number(stream)?]))
}

/// Selects columns by name from a batch of the memory layout, in the types of [`stream_schema`].
///
/// The batch may be filtered, sliced or projected; only the columns named here have to be in it.
pub fn select(stream: &str, batch: &RecordBatch, columns: &[&str]) -> Result<RecordBatch, DecodeError> {
    let no_such = |column: &str| DecodeError::NoSuchColumn {
        stream: stream.to_owned(),
        column: column.to_owned(),
    };
    let schema = stream_schema(stream).ok_or_else(|| no_such(columns.first().copied().unwrap_or("*")))?;
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays = Vec::with_capacity(columns.len());
    for &column in columns {
        let field = schema.field_with_name(column).map_err(|_| no_such(column))?;
        let array = batch.column_by_name(column).ok_or_else(|| no_such(column))?;
        arrays.push(match array.as_binary_view_opt() {
            Some(raw) if field.data_type() != array.data_type() => materialise(stream, column, raw)?,
            _ => Arc::clone(array),
        });
        fields.push(field.clone());
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(Schema::new(fields)),
        arrays,
        &options,
    )?)
}

/// Slices of a batch of the memory layout whose wire bytes, each row's counted, stay below a limit of 64 MiB, or have
/// one row. A resource is one for many rows in memory, and is repeated for each when it is selected: a batch may grow
/// by the number of its rows.
pub fn bounded(batch: &RecordBatch) -> Vec<RecordBatch> {
    let raw: Vec<&BinaryViewArray> = batch
        .columns()
        .iter()
        .filter_map(|column| column.as_binary_view_opt())
        .collect();
    // The low half of a view is the length of its value.
    let length = |row: usize| {
        raw.iter()
            .map(|column| column.views()[row] as u32 as usize)
            .sum::<usize>()
    };
    let (mut ranges, mut start, mut bytes) = (Vec::new(), 0, 0);
    for row in 0..batch.num_rows() {
        let more = length(row);
        if bytes + more > SELECTED_BYTES && row > start {
            ranges.push((start, row - start));
            (start, bytes) = (row, 0);
        }
        bytes += more;
    }
    ranges.push((start, batch.num_rows() - start));
    ranges
        .into_iter()
        .map(|(start, rows)| batch.slice(start, rows))
        .collect()
}

/// See [`bounded`].
const SELECTED_BYTES: usize = 64 << 20;

fn materialise(stream: &str, column: &str, raw: &BinaryViewArray) -> Result<ArrayRef, DecodeError> {
    match column {
        "attributes" => {
            let mut leftovers = Leftovers::new(stream);
            maps(raw, |message, entries| leftovers.read(message, entries))
        }
        "resource" => maps(raw, resource_entries),
        "events" => texts(raw, |message, out| list(message, 0x5a, out, write_event)),
        "links" => texts(raw, |message, out| list(message, 0x6a, out, write_link)),
        _ => texts(raw, |message, out| list(message, 0x12, out, write_exemplar)),
    }
}

/// One map per row; equal neighbours (resources) are read once.
fn maps(
    raw: &BinaryViewArray,
    mut read: impl FnMut(&[u8], &mut Entries) -> Result<(), WireError>,
) -> Result<ArrayRef, DecodeError> {
    let mut entries = Entries::with_rows(raw.len());
    let mut last: Option<u128> = None;
    for (row, view) in raw.views().iter().enumerate() {
        if last == Some(*view) {
            entries.repeat_row().map_err(malformed)?;
            continue;
        }
        read(raw.value(row), &mut entries).map_err(malformed)?;
        entries.end_row();
        last = Some(*view);
    }
    Ok(entries.finish()?)
}

fn malformed(cause: WireError) -> DecodeError {
    DecodeError::Malformed {
        message: "row",
        cause,
    }
}

fn texts(
    raw: &BinaryViewArray,
    mut write: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), WireError>,
) -> Result<ArrayRef, DecodeError> {
    let mut builder = StringViewBuilder::with_capacity(raw.len());
    let mut json = Vec::new();
    for message in raw {
        let Some(message) = message else {
            builder.append_null();
            continue;
        };
        json.clear();
        write(message, &mut json).map_err(malformed)?;
        builder.append_value(lossy(&json));
    }
    Ok(Arc::new(builder.finish()))
}

/// A JSON array of the messages in one repeated field.
fn list(
    message: &[u8],
    tag: u32,
    out: &mut Vec<u8>,
    write: fn(&[u8], &mut Object<'_>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    out.push(b'[');
    let mut first = true;
    each_field(&[message], tag, |item| {
        separate(out, &mut first);
        let mut object = Object::new(out);
        write(item, &mut object)?;
        object.close();
        Ok(())
    })?;
    out.push(b']');
    Ok(())
}

/// A JSON object being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, first: true }
    }

    pub(crate) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        separate(self.out, &mut self.first);
        write_text(self.out, name.as_bytes());
        self.out.push(b':');
        self.out
    }

    pub(crate) fn close(self) {
        self.out.push(b'}');
    }

    fn text(&mut self, name: &str, text: &[u8]) {
        if !text.is_empty() {
            write_text(self.member(name), text);
        }
    }

    fn hex(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            let out = self.member(name);
            out.push(b'"');
            write_hex(out, bytes);
            out.push(b'"');
        }
    }

    fn number(&mut self, name: &str, number: u64) {
        if number != 0 {
            write_display(self.member(name), number);
        }
    }

    fn attributes(&mut self, message: &[u8], tag: u32) -> Result<(), WireError> {
        let mut any = false;
        each_field(&[message], tag, |_| {
            any = true;
            Ok(())
        })?;
        if !any {
            return Ok(());
        }
        let mut inner = Object::new(self.member("attributes"));
        each_field(&[message], tag, |pair| {
            let pair = KeyValue::read(pair)?;
            let key = String::from_utf8_lossy(pair.key);
            pair.value()?.write_json(inner.member(&key))
        })?;
        inner.close();
        Ok(())
    }
}

fn write_event(mut rest: &[u8], object: &mut Object<'_>) -> Result<(), WireError> {
    let message = rest;
    let (mut at, mut name, mut dropped): (u64, &[u8], u64) = (0, &[], 0);
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        match tag {
            0x09 => at = wire::fixed64(&mut rest)?,
            0x12 => name = wire::bytes(&mut rest)?,
            0x20 => dropped = wire::varint(&mut rest)?,
            _ => wire::skip(tag & 7, &mut rest)?,
        }
    }
    write_display(object.member("time_unix_nano"), at);
    write_text(object.member("name"), name);
    object.attributes(message, 0x1a)?;
    object.number("dropped_attributes_count", u64::from(dropped as u32));
    Ok(())
}

fn write_link(mut rest: &[u8], object: &mut Object<'_>) -> Result<(), WireError> {
    let message = rest;
    let (mut trace, mut span, mut state): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
    let (mut dropped, mut flags) = (0, 0);
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        match tag {
            0x0a => trace = wire::bytes(&mut rest)?,
            0x12 => span = wire::bytes(&mut rest)?,
            0x1a => state = wire::bytes(&mut rest)?,
            0x28 => dropped = wire::varint(&mut rest)?,
            0x35 => flags = wire::fixed32(&mut rest)?,
            _ => wire::skip(tag & 7, &mut rest)?,
        }
    }
    object.hex("trace_id", trace);
    object.hex("span_id", span);
    object.text("trace_state", state);
    object.attributes(message, 0x22)?;
    object.number("dropped_attributes_count", u64::from(dropped as u32));
    object.number("flags", u64::from(flags));
    Ok(())
}

fn write_exemplar(mut rest: &[u8], object: &mut Object<'_>) -> Result<(), WireError> {
    let message = rest;
    let (mut at, mut trace, mut span): (u64, &[u8], &[u8]) = (0, &[], &[]);
    let mut value = Value::Empty;
    while !rest.is_empty() {
        let tag = wire::tag(&mut rest)?;
        match tag {
            0x11 => at = wire::fixed64(&mut rest)?,
            0x19 => value = Value::Double(f64::from_bits(wire::fixed64(&mut rest)?)),
            0x31 => value = Value::Int(wire::fixed64(&mut rest)? as i64),
            0x22 => span = wire::bytes(&mut rest)?,
            0x2a => trace = wire::bytes(&mut rest)?,
            _ => wire::skip(tag & 7, &mut rest)?,
        }
    }
    write_display(object.member("time_unix_nano"), at);
    match value {
        Value::Double(number) => write_double(object.member("value"), number),
        other => other.write_json(object.member("value"))?,
    }
    object.hex("trace_id", trace);
    object.hex("span_id", span);
    object.attributes(message, 0x3a)
}

/// The resource and what the scope says beyond its name, from the context a batch kept for each scope.
fn resource_entries(context: &[u8], entries: &mut Entries) -> Result<(), WireError> {
    let mut dropped = 0;
    for_each_piece(context, 0x0a, |tag, resource| {
        match tag {
            0x0a => pair_entry(entries, "", wire::bytes(resource)?)?,
            0x10 => dropped = wire::varint(resource)?,
            _ => wire::skip(tag & 7, resource)?,
        }
        Ok(())
    })?;
    entries.add_count(
        "otel.resource.dropped_attributes_count",
        u64::from(dropped as u32),
    )?;
    let mut version = Vec::new();
    dropped = 0;
    for_each_piece(context, 0x12, |tag, scope| {
        match tag {
            0x12 => version = wire::bytes(scope)?.to_vec(),
            0x1a => pair_entry(entries, "otel.scope.", wire::bytes(scope)?)?,
            0x20 => dropped = wire::varint(scope)?,
            _ => wire::skip(tag & 7, scope)?,
        }
        Ok(())
    })?;
    if !version.is_empty() {
        entries.add(b"otel.scope.version", &Value::Text(&version))?;
    }
    entries.add_count("otel.scope.dropped_attributes_count", u64::from(dropped as u32))?;
    for (tag, key) in [
        (0x1a, "otel.resource.schema_url"),
        (0x22, "otel.scope.schema_url"),
    ] {
        each_field(&[context], tag, |url| {
            entries.add(key.as_bytes(), &Value::Text(url))
        })?;
    }
    Ok(())
}

/// Calls `each` with every field of every message in one field of the context.
fn for_each_piece(
    context: &[u8],
    tag: u32,
    mut each: impl FnMut(u32, &mut &[u8]) -> Result<(), WireError>,
) -> Result<(), WireError> {
    each_field(&[context], tag, |mut piece| {
        while !piece.is_empty() {
            let tag = wire::tag(&mut piece)?;
            each(tag, &mut piece)?;
        }
        Ok(())
    })
}

fn pair_entry(entries: &mut Entries, prefix: &str, pair: &[u8]) -> Result<(), WireError> {
    let pair = KeyValue::read(pair)?;
    entries.add_prefixed(prefix, pair.key, &pair.value()?)
}

impl OtlpSignal {
    /// The signal whose rows a stream holds.
    pub(crate) fn of_stream(stream: &str) -> OtlpSignal {
        match stream {
            "logs" => OtlpSignal::Logs,
            "metrics" => OtlpSignal::Metrics,
            _ => OtlpSignal::Traces,
        }
    }
}
