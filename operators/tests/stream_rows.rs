//! Rows of users' streams out of NDJSON and Arrow bodies, compared with each other and with what was sent.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Float64Array, Int8Array, Int64Array, NullArray, RecordBatch,
    StringArray, StringViewArray, TimestampMillisecondArray,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Field, Float64Type, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use proptest::prelude::*;
use pyflare_operators::decode::Origin;
use pyflare_operators::fields::FieldType;
use pyflare_operators::streams::{
    Admitted, RowDecoder, RowEncoding, StreamColumn, StreamDefinition, StreamError, StreamTopic, TopicStart,
};

fn column(name: &str, data_type: FieldType, required: bool) -> StreamColumn {
    StreamColumn {
        name: name.into(),
        data_type,
        required,
    }
}

fn definition(time: Option<&str>) -> Arc<StreamDefinition> {
    Arc::new(StreamDefinition {
        project: "default".into(),
        name: "predictions".into(),
        sql: String::new(),
        columns: vec![
            column("id", FieldType::Int64, true),
            column("at", FieldType::Timestamp, false),
            column("label", FieldType::Text, false),
            column("score", FieldType::Float64, false),
            column("price", FieldType::Money, false),
            column("tags", FieldType::TextList, false),
            column("features", FieldType::TextMap, false),
            column("ok", FieldType::Bool, false),
            column("small", FieldType::Int32, false),
        ],
        time: time.map(str::to_string),
        lateness_us: None,
        retention_us: None,
        description: None,
        topic: None,
    })
}

fn origin(tick: u64, offset: u64) -> Origin<'static> {
    Origin {
        project: "default",
        received_us: 77,
        tick,
        mark_us: Some(5),
        partition: 3,
        offset,
    }
}

fn decode(
    definition: &Arc<StreamDefinition>,
    encoding: RowEncoding,
    body: impl Into<Bytes>,
) -> Result<(Admitted, Vec<RecordBatch>), StreamError> {
    let mut decoder = RowDecoder::new(Arc::clone(definition));
    let body = body.into();
    let admitted = decoder.decode(&origin(9, 4), encoding, &body)?;
    assert_eq!(decoder.rows(), admitted.rows as usize);
    assert_eq!(
        RowDecoder::check(definition, encoding, &body).unwrap().rejected,
        admitted.rejected
    );
    Ok((admitted, decoder.finish()))
}

fn arrow_body(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn every_type_comes_in_and_bad_rows_are_told_by_number_and_reason() {
    let lines = [
        r#"{"id": 1, "at": "2026-01-31T12:00:00.5Z", "label": "ü", "score": -0.0, "price": 1.25, "tags": ["a", null], "features": {"x": [1, 2], "y": null}, "ok": true, "small": -3}"#,
        "",
        r#"{"id": "9007199254740993", "at": 1000, "score": "NaN"}"#,
        r#"{"id": 2"#,
        r#"[1]"#,
        r#"{"id": 3, "colour": "red"}"#,
        r#"{"id": 3.5, "at": 1}"#,
        r#"{"id": 3, "at": "yesterday"}"#,
        r#"{"at": 1}"#,
        r#"{"id": 4}"#,
        r#"{"id": 4, "id": 5, "at": 1}"#,
        r#"{"id": 4, "at": 1, "small": 3000000000}"#,
        r#"{"id": 4, "at": 1} trailing"#,
        r#"{"id": 6, "at": 2, "label": null}"#,
    ];
    let (admitted, batches) = decode(&definition(Some("at")), RowEncoding::NdJson, lines.join("\n")).unwrap();
    let codes: Vec<(u32, &str)> = admitted.rejected.iter().map(|row| (row.row, row.code)).collect();
    assert_eq!(
        codes,
        [
            (2, "PF-1210"),
            (3, "PF-1210"),
            (4, "PF-1211"),
            (5, "PF-1212"),
            (6, "PF-1212"),
            (7, "PF-1213"),
            (8, "PF-1213"),
            (9, "PF-1210"),
            (10, "PF-1212"),
            (11, "PF-1210"),
        ]
    );
    assert_eq!((admitted.rows, admitted.rejected_rows), (3, 10));
    assert_eq!(admitted.max_event_time_us, Some(1_769_860_800_500_000));
    let [batch] = batches.as_slice() else {
        panic!("one batch")
    };
    let ids = batch["id"].as_primitive::<Int64Type>();
    assert_eq!(ids.values(), &[1, 9_007_199_254_740_993, 6]);
    assert_eq!(batch["_row"].as_primitive::<Int32Type>().values(), &[0, 1, 12]);
    assert_eq!(batch["_tick"].as_primitive::<Int64Type>().values(), &[9, 9, 9]);
    assert_eq!(batch["_offset"].as_primitive::<Int64Type>().values(), &[4, 4, 4]);
    let scores = batch["score"].as_primitive::<Float64Type>();
    assert_eq!(scores.value(0).to_bits(), 0.0_f64.to_bits());
    assert_eq!(scores.value(1).to_bits(), f64::NAN.to_bits());
    assert!(batch["features"].as_map().is_valid(0) && batch["features"].is_null(1));
    assert_eq!(batch["label"].as_string_view().value(0), "ü");
    let features = batch["features"].as_map();
    assert_eq!(features.values().as_string::<i32>().value(0), "[1,2]");
    assert!(features.values().is_null(1));
}

#[test]
fn without_a_time_column_rows_have_the_time_received() {
    let (admitted, batches) = decode(&definition(None), RowEncoding::NdJson, r#"{"id": 1}"#).unwrap();
    assert_eq!(admitted.max_event_time_us, Some(77));
    let times = batches[0]["event_time"].as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.values(), &[77]);
}

#[test]
fn arrow_columns_are_cast_without_rounding() {
    let at = TimestampMillisecondArray::from(vec![Some(1_000), Some(i64::MAX), None, Some(4_000)]);
    let labels: DictionaryArray<arrow::datatypes::Int8Type> = vec!["a", "b", "a", "c"].into_iter().collect();
    let body = arrow_body(vec![
        ("label", Arc::new(labels)),
        (
            "id",
            Arc::new(Int8Array::from(vec![Some(1), Some(2), Some(3), None])),
        ),
        ("at", Arc::new(at)),
        ("score", Arc::new(Float64Array::from(vec![-0.0, 1.0, 2.0, 3.0]))),
    ]);
    let (admitted, batches) = decode(&definition(Some("at")), RowEncoding::Arrow, body).unwrap();
    let codes: Vec<(u32, &str)> = admitted.rejected.iter().map(|row| (row.row, row.code)).collect();
    assert_eq!(codes, [(1, "PF-1212"), (3, "PF-1213"), (2, "PF-1213")]);
    assert_eq!((admitted.rows, admitted.max_event_time_us), (1, Some(1_000_000)));
    assert_eq!(batches[0]["label"].as_string_view().value(0), "a");
    assert_eq!(
        batches[0]["score"]
            .as_primitive::<Float64Type>()
            .value(0)
            .to_bits(),
        0
    );

    for (name, array) in [
        ("id", Arc::new(Float64Array::from(vec![1.0])) as ArrayRef),
        ("colour", Arc::new(Int64Array::from(vec![1]))),
        ("small", Arc::new(StringArray::from(vec!["1"]))),
        ("id", Arc::new(NullArray::new(1 << 40))),
    ] {
        let refused = decode(
            &definition(Some("at")),
            RowEncoding::Arrow,
            arrow_body(vec![(name, array)]),
        );
        let code = refused.unwrap_err().code();
        assert!(matches!(code, "PF-1201" | "PF-1202"), "{name}: {code}");
    }
}

#[test]
fn a_small_body_cannot_stand_for_endless_text() {
    let text = Buffer::from(vec![b'x'; 1 << 20]);
    // A view: length, four bytes of prefix, buffer, offset.
    let view = (1_u128 << 20) | (u128::from(u32::from_le_bytes(*b"xxxx")) << 32);
    let views = ScalarBuffer::from(vec![view; 200]);
    let texts = StringViewArray::try_new(views, vec![text], None).unwrap();
    let ids = Int64Array::from_iter_values(0..200);
    let body = arrow_body(vec![("label", Arc::new(texts)), ("id", Arc::new(ids))]);
    assert!(body.len() < 2 << 20);
    assert_eq!(
        decode(&definition(None), RowEncoding::Arrow, body)
            .unwrap_err()
            .code(),
        "PF-1204"
    );
}

#[test]
fn a_body_that_fails_leaves_nothing_behind() {
    let definition = definition(None);
    let mut decoder = RowDecoder::new(Arc::clone(&definition));
    let good = Bytes::from_static(br#"{"id": 1}"#);
    decoder.decode(&origin(1, 0), RowEncoding::NdJson, &good).unwrap();
    let bad = Bytes::from_static(b"ARROW1");
    assert_eq!(
        decoder
            .decode(&origin(1, 1), RowEncoding::Arrow, &bad)
            .unwrap_err()
            .code(),
        "PF-1201"
    );
    decoder.decode(&origin(1, 2), RowEncoding::NdJson, &good).unwrap();
    let batches = decoder.finish();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 2);
    assert_eq!((decoder.rows(), decoder.finish().len()), (0, 0));
}

proptest! {
    #[test]
    fn both_encodings_give_the_same_rows(
        rows in prop::collection::vec((any::<i64>(), 0_i64..4_000_000_000_000_000, "\\PC{0,20}", any::<f64>()), 1..40)
    ) {
        let definition = definition(Some("at"));
        let lines: Vec<String> = rows.iter().map(|(id, at, label, score)| {
            let score = if score.is_finite() { serde_json::json!(score) } else { serde_json::Value::Null };
            serde_json::json!({"id": id, "at": at, "label": label, "score": score}).to_string()
        }).collect();
        let (_, json) = decode(&definition, RowEncoding::NdJson, lines.join("\n")).unwrap();
        let scores = rows.iter().map(|(.., score)| score.is_finite().then_some(*score));
        let body = arrow_body(vec![
            ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)))),
            ("at", Arc::new(arrow::array::TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1)))),
            ("label", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.2)))),
            ("score", Arc::new(Float64Array::from_iter(scores))),
        ]);
        let (_, arrow) = decode(&definition, RowEncoding::Arrow, body).unwrap();
        prop_assert_eq!(json, arrow);
    }

    #[test]
    fn damaged_arrow_is_refused_or_read_but_never_ends_the_process(
        flips in prop::collection::vec((0_usize..2_000, any::<u8>()), 1..8), cut in 0_usize..2_000,
    ) {
        let mut body = arrow_body(vec![
            ("label", Arc::new(StringArray::from(vec![Some("one"), None, Some("three")])) as ArrayRef),
            ("id", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ]);
        let length = body.len();
        for (at, byte) in flips {
            body[at % length] ^= byte;
        }
        body.truncate(length.saturating_sub(cut % 40));
        let _ = RowDecoder::check(&definition(None), RowEncoding::Arrow, &Bytes::from(body));
    }

    #[test]
    fn no_line_ends_the_process(body in prop::collection::vec(any::<u8>(), 0..300), json in "[\\[\\]{}\":,0-9a-z. \\n]{0,80}") {
        let _ = RowDecoder::check(&definition(Some("at")), RowEncoding::NdJson, &Bytes::from(body));
        let _ = RowDecoder::check(&definition(Some("at")), RowEncoding::NdJson, &Bytes::from(json));
    }
}

#[test]
fn the_declared_schema_is_the_batch_schema() {
    let definition = definition(Some("at"));
    let (_, batches) = decode(
        &definition,
        RowEncoding::NdJson,
        r#"{"id": 1, "at": 1, "tags": [], "features": {}}"#,
    )
    .unwrap();
    assert_eq!(batches[0].schema(), definition.schema());
    assert_eq!(batches[0].column(0).data_type(), &DataType::Utf8View);
}

fn of_topic() -> Arc<StreamDefinition> {
    Arc::new(StreamDefinition {
        topic: Some(StreamTopic {
            name: "predictions".into(),
            start: TopicStart::Earliest,
        }),
        ..(*definition(None)).clone()
    })
}

#[test]
fn a_message_of_a_topic_may_be_one_object_over_many_lines_and_say_more_than_was_declared() {
    let one = "\n{\n  \"id\": 1,\n  \"other\": {\"a\": [1]},\n  \"label\": \"x\\ny\"\n}\n";
    let (admitted, batches) = decode(&of_topic(), RowEncoding::Json, one).unwrap();
    assert_eq!((admitted.rows, admitted.rejected_rows), (1, 0));
    assert_eq!(batches[0]["label"].as_string_view().value(0), "x\ny");
    let (admitted, _) = decode(&of_topic(), RowEncoding::NdJson, one).unwrap();
    assert_eq!((admitted.rows, admitted.rejected_rows), (0, 5), "line by line");

    let lines = "{\"id\": 1}\n\n{\"id\": \"two\"}\n{\"id\": 3, \"more\": null}";
    let (admitted, _) = decode(&of_topic(), RowEncoding::Json, lines).unwrap();
    let rejected: Vec<_> = admitted.rejected.iter().map(|row| (row.row, row.code)).collect();
    assert_eq!((admitted.rows, rejected), (2, vec![(1, "PF-1212")]));
    for (broken, rows) in [("{\"id\": 1", 1), ("{\n\"id\": 1,\n", 2), ("[{\"id\": 1}]", 1)] {
        let (admitted, _) = decode(&of_topic(), RowEncoding::Json, broken).unwrap();
        assert_eq!((admitted.rows, admitted.rejected_rows), (0, rows), "{broken}");
        assert!(admitted.rejected.iter().all(|row| row.code == "PF-1210"));
    }

    let ids: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
    let more: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let body = arrow_body(vec![("id", ids), ("more", more)]);
    let (admitted, _) = decode(&of_topic(), RowEncoding::Arrow, body.clone()).unwrap();
    assert_eq!(admitted.rows, 2);
    let refused = decode(&definition(None), RowEncoding::Arrow, body).unwrap_err();
    assert_eq!(refused.code(), "PF-1202");
}
