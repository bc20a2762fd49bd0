//! The decoder against a slow one built on `prost`: the same rows or the same refusal, never a panic, over
//! generated, shuffled, mutated and recorded payloads.
#![allow(clippy::unwrap_used)]
mod reference;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use pyflare_operators::decode::{
    BodyEncoding, DecodeError, Decoder, Origin, OtlpSignal, WireError, check, memory_schema, select,
};
use pyflare_operators::fields::{SPANS, stream_schema};
use reference::messages::*;
use reference::{RECEIVED_US, Row, TICK_MS};

fn origin() -> Origin<'static> {
    Origin {
        project: "acme",
        received_us: RECEIVED_US,
        tick: TICK_MS,
        mark_us: Some(5),
        partition: 3,
        offset: 9,
    }
}

/// Columns of a batch as the reference renders them.
fn render(array: &dyn Array, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8View => array.as_string_view().value(row).to_owned(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Float64 => format!(
            "{:016x}",
            array.as_primitive::<Float64Type>().value(row).to_bits()
        ),
        DataType::Decimal128(_, _) => array.as_primitive::<Decimal128Type>().value(row).to_string(),
        DataType::Timestamp(_, _) => array
            .as_primitive::<TimestampMicrosecondType>()
            .value(row)
            .to_string(),
        DataType::Map(_, _) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (
                entries.column(0).as_string::<i32>(),
                entries.column(1).as_string::<i32>(),
            );
            let entries: Vec<String> = keys
                .iter()
                .zip(values)
                .map(|(key, value)| format!("{}={}", key.unwrap(), value.unwrap()))
                .collect();
            entries.join("\n")
        }
        other => panic!("no field has the type {other}"),
    })
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let columns: Vec<&str> = SPANS.iter().map(|field| field.name).collect();
    for column in batch.columns() {
        column.to_data().validate_full().unwrap();
    }
    let selected = select("spans", batch, &columns).unwrap();
    assert_eq!(selected.schema(), stream_schema("spans").unwrap());
    (0..selected.num_rows())
        .map(|row| {
            SPANS
                .iter()
                .zip(selected.columns())
                .filter_map(|(field, array)| Some((field.name, render(array, row)?)))
                .collect()
        })
        .collect()
}

/// What the reference and the decoder, used once and used before, say about one body.
fn compare(decoder: &mut Decoder, body: Vec<u8>) {
    let expected = reference::decode(&body);
    let checked = check(OtlpSignal::Traces, BodyEncoding::Protobuf, &body);
    let decoded = decoder.decode(&origin(), BodyEncoding::Protobuf, &Bytes::from(body));
    assert_eq!(
        checked.is_ok(),
        decoded.is_ok(),
        "the door and the decoder disagree"
    );
    let batch = decoder.finish().unwrap();
    assert_eq!(batch.schema(), memory_schema("spans").unwrap());
    match (decoded, expected) {
        (Ok(decoded), Ok((rows, rejected))) => {
            let checked = checked.unwrap();
            assert_eq!(
                (u64::from(decoded.rows), u64::from(decoded.rejected)),
                (checked.rows, checked.rejected)
            );
            assert_eq!((decoded.rows as usize, decoded.rejected), (rows.len(), rejected));
            let latest = rows.iter().map(|row| row["event_time"].parse().unwrap()).max();
            assert_eq!(decoded.max_event_time_us, latest);
            for (ours, theirs) in rows_of(&batch).into_iter().zip(rows) {
                for field in SPANS {
                    assert_eq!(ours.get(field.name), theirs.get(field.name), "{}", field.name);
                }
            }
        }
        (Err(_), Err(_)) => assert_eq!(batch.num_rows(), 0),
        // prost skips the groups that OTLP does not have.
        (
            Err(DecodeError::Malformed {
                cause: WireError::Group,
                ..
            }),
            Ok(_),
        ) => assert_eq!(batch.num_rows(), 0),
        (ours, theirs) => panic!("ours {ours:?}, the reference {theirs:?}"),
    }
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "chat", "completion", "execute_tool", "OpenAI", "openai", "openai.chat", "azure_openai", "\"openai\"",
            "end_turn", "tool_calls", "tool-calls", "max_tokens", "stop", "[\"stop\"]", "[\"tool_calls\",\"x\"]", "[]", "[1",
            "LLM", "\"CHAT_MODEL\"", "RETRIEVER", "agent", "tool", "workflow", "generation", "guardrail",
            "ai.streamText.doStream", "17", " 18 ", "19.0", "-3", "0.0125", "NaN", "2026-11-24T05:00:00.5Z",
            "{\"model\":\"m-1\",\"temperature\":0.5,\"max_tokens\":\"64\"}",
            "{\"max_completion_tokens\":12,\"model\":\"\"}",
            "{\"input\":100,\"output\":40,\"cache_read_input_tokens\":64,\"output_reasoning_tokens\":3,\"input_cache_creation_5m\":7}",
            "{\"prompt_tokens\":5,\"completion_tokens\":6}",
            "{\"input\":0.1,\"output\":0.25}", "{\"total\":\"1.5\"}", "{\"total_cost\":0.75,\"input_tokens\":9,\"output_tokens\":8}",
            "\"{\\\"input_tokens\\\":11}\"", "[{\"finish_reason\":\"tool_calls\"}]", "[{\"role\":\"user\",\"content\":\"hi\"}]",
        ]).prop_map(str::to_owned),
        2 => "[a-z]{0,40}",
        1 => "\\PC{0,20}",
        1 => "[ -~]{60,140}",
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![12 => word().prop_map(String::into_bytes), 1 => prop::collection::vec(any::<u8>(), 0..20)]
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        6 => text().prop_map(|text| Some(Any::Text(text))),
        3 => prop_oneof![0i64..5000, any::<i64>()].prop_map(|int| Some(Any::Int(int))),
        2 => prop_oneof![prop::sample::select(vec![0.0, -0.0, 1.5, 3.0, f64::NAN, f64::INFINITY, 0.001, 1e-7]), 0.0..1e6].prop_map(|double| Some(Any::Double(double))),
        1 => any::<bool>().prop_map(|truth| Some(Any::Bool(truth))),
        1 => prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| Some(Any::Bytes(bytes))),
        1 => Just(None),
    ];
    leaf.prop_map(|any| AnyValue { any })
        .prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|values| AnyValue {
                    any: Some(Any::Array(ArrayValue { values }))
                }),
                prop::collection::vec((text(), prop::option::of(inner)), 0..4).prop_map(|pairs| AnyValue {
                    any: Some(Any::Map(KeyValueList {
                        values: pairs
                            .into_iter()
                            .map(|(key, value)| KeyValue { key, value })
                            .collect()
                    }))
                }),
            ]
        })
}

/// Every key an alias names, and some that none does.
fn keys() -> Vec<String> {
    let mut keys: Vec<String> = vec![
        "server.address".into(),
        "x".into(),
        String::new(),
        "k".repeat(200),
    ];
    for alias in SPANS.iter().flat_map(|field| field.aliases) {
        let key = alias.split(['{', '[', '=']).next().unwrap();
        if let Some(prefix) = key.strip_suffix(".*") {
            for end in [
                ".0.content",
                ".1.role",
                ".0.message.role",
                ".2",
                ".1x",
                ".99999999999999999999999.a",
            ] {
                keys.push(format!("{prefix}{end}"));
            }
        } else {
            keys.push(
                key.trim_start_matches("resource:")
                    .trim_start_matches("event:")
                    .to_owned(),
            );
        }
    }
    keys
}

fn pairs(most: usize) -> impl Strategy<Value = Vec<KeyValue>> {
    let key = prop_oneof![20 => prop::sample::select(keys()).prop_map(String::into_bytes), 1 => text()];
    let pair =
        (key, prop::option::weighted(0.97, any_value())).prop_map(|(key, value)| KeyValue { key, value });
    prop::collection::vec(pair, 0..most)
}

fn id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => prop::collection::vec(any::<u8>(), length),
        1 => Just(vec![0; length]),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 1_700_000_000_000_000_000u64..1_900_000_000_000_000_000,
        1 => prop::sample::select(vec![0, 1, 999, 1000, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX]),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let names = [
        "exception",
        "First Token Stream Event",
        "gen_ai.content.prompt",
        "gen_ai.content.completion",
        "gen_ai.content.completion.chunk",
        "other",
    ];
    let name = prop::sample::select(names.map(|name| name.as_bytes().to_vec()).to_vec());
    (time(), name, pairs(4), 0..3u32).prop_map(|(time, name, attributes, dropped)| Event {
        time,
        name,
        attributes,
        dropped,
    })
}

fn span() -> impl Strategy<Value = Span> {
    let ids = (id(16), id(8), prop_oneof![2 => Just(Vec::new()), 3 => id(8)]);
    let link =
        (id(16), id(8), text(), pairs(2)).prop_map(|(trace_id, span_id, trace_state, attributes)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped: 0,
            flags: 1,
        });
    let rest = (
        prop::collection::vec(event(), 0..3),
        prop::collection::vec(link, 0..2),
        prop::option::of((text(), -1..5i32)),
        0..3u32,
        -2..9i32,
    );
    (
        ids,
        text(),
        time(),
        time(),
        pairs(16),
        rest,
        prop::option::of(text()),
    )
        .prop_map(
            |(
                (trace_id, span_id, parent_span_id),
                name,
                start,
                end,
                attributes,
                (events, links, status, dropped, kind),
                state,
            )| Span {
                trace_id,
                span_id,
                parent_span_id,
                name,
                start,
                end,
                attributes,
                events,
                links,
                kind,
                trace_state: state.unwrap_or_default(),
                dropped_attributes: dropped,
                dropped_events: dropped / 2,
                dropped_links: dropped,
                flags: dropped * 256,
                status: status.map(|(message, code)| Status { message, code }),
            },
        )
}

fn put(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A request whose messages are put together by hand: parts in any order, singular ones repeated, unknown
/// fields between them.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let scope = (text(), text(), pairs(3)).prop_map(|(name, version, attributes)| {
        Scope {
            name,
            version,
            attributes,
            dropped: 0,
        }
        .encode_to_vec()
    });
    let resource = pairs(6).prop_map(|attributes| {
        Resource {
            attributes,
            dropped: 1,
        }
        .encode_to_vec()
    });
    let unknown = prop::sample::select(vec![
        vec![],
        vec![0xf8, 0x3f, 7],
        vec![0xfa, 0x3f, 2, 9, 9],
        vec![0xfd, 0x3f, 1, 2, 3, 4],
    ]);
    let spans = prop::collection::vec((span(), unknown.clone()), 0..5);
    let scope_spans = (prop::collection::vec(scope, 0..3), spans, text(), any::<u64>()).prop_map(
        |(scopes, spans, url, seed)| {
            let mut parts: Vec<Vec<u8>> = Vec::new();
            for (span, unknown) in spans {
                let mut bytes = span.encode_to_vec();
                bytes.extend_from_slice(&unknown);
                let mut part = Vec::new();
                put(&mut part, 2, &bytes);
                parts.push(part);
            }
            for scope in scopes {
                let mut part = Vec::new();
                put(&mut part, 1, &scope);
                parts.push(part);
            }
            let mut part = Vec::new();
            put(&mut part, 3, &url);
            parts.push(part);
            shuffled(parts, seed)
        },
    );
    let resource_spans = (
        prop::collection::vec(resource, 0..3),
        prop::collection::vec(scope_spans, 0..3),
        unknown,
        any::<u64>(),
    )
        .prop_map(|(resources, scopes, unknown, seed)| {
            let mut parts = vec![unknown];
            for (number, messages) in [(1, resources), (2, scopes)] {
                for message in messages {
                    let mut part = Vec::new();
                    put(&mut part, number, &message);
                    parts.push(part);
                }
            }
            shuffled(parts, seed)
        });
    prop::collection::vec(resource_spans, 0..3).prop_map(|messages| {
        let mut out = Vec::new();
        for message in messages {
            put(&mut out, 1, &message);
        }
        out
    })
}

fn shuffled(mut parts: Vec<Vec<u8>>, mut seed: u64) -> Vec<u8> {
    for at in (1..parts.len()).rev() {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        parts.swap(at, (seed >> 33) as usize % (at + 1));
    }
    parts.concat()
}

fn cases(default: u32) -> ProptestConfig {
    // `PYFLARE_DECODE_CASES=1000000 cargo test …` runs as long as one likes.
    let cases = std::env::var("PYFLARE_DECODE_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default);
    ProptestConfig {
        cases,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn generated_requests_decode_like_the_reference(bodies in prop::collection::vec(request(), 1..3)) {
        let mut decoder = Decoder::new(OtlpSignal::Traces);
        for body in bodies {
            compare(&mut decoder, body);
        }
    }

    #[test]
    fn mutated_requests_decode_like_the_reference(
        body in request(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..5),
    ) {
        let mut body = body;
        for (at, byte, what) in changes {
            if body.is_empty() {
                break;
            }
            let at = at.index(body.len());
            match what {
                0 => body.truncate(at),
                1 => body.insert(at, byte),
                2 => drop(body.remove(at)),
                _ => body[at] = byte,
            }
        }
        compare(&mut Decoder::new(OtlpSignal::Traces), body);
    }

    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for signal in [OtlpSignal::Traces, OtlpSignal::Logs, OtlpSignal::Metrics] {
            for encoding in [BodyEncoding::Protobuf, BodyEncoding::Json] {
                let checked = check(signal, encoding, &body);
                let decoded = Decoder::new(signal).decode(&origin(), encoding, &Bytes::from(body.clone()));
                assert_eq!(checked.is_ok(), decoded.is_ok());
            }
        }
    }
}

#[test]
fn recorded_requests_decode_like_the_reference() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/otlp");
    let Ok(files) = std::fs::read_dir(folder) else {
        return;
    };
    let mut seen = 0;
    for file in files {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".pb") {
            continue;
        }
        let body = std::fs::read(&path).unwrap();
        let signal = match &name {
            name if name.contains("-traces-") => OtlpSignal::Traces,
            name if name.contains("-logs-") => OtlpSignal::Logs,
            _ => OtlpSignal::Metrics,
        };
        seen += 1;
        let mut decoder = Decoder::new(signal);
        let decoded = decoder
            .decode(&origin(), BodyEncoding::Protobuf, &Bytes::from(body.clone()))
            .unwrap();
        assert!(decoded.rows > 0 && decoded.rejected == 0, "{name}");
        let batch = decoder.finish().unwrap();
        let schema = stream_schema(signal.stream()).unwrap();
        let columns: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        assert_eq!(
            select(signal.stream(), &batch, &columns).unwrap().schema(),
            schema
        );
        if signal == OtlpSignal::Traces {
            let (rows, _) = reference::decode(&body).unwrap();
            for (ours, theirs) in rows_of(&batch).into_iter().zip(rows) {
                for field in SPANS
                    .iter()
                    .filter(|field| field.name != "span_class" && field.name != "operation")
                {
                    assert_eq!(
                        ours.get(field.name),
                        theirs.get(field.name),
                        "{name}: {}",
                        field.name
                    );
                }
            }
        }
    }
    assert!(seen == 0 || seen > 20, "{seen}");
}
