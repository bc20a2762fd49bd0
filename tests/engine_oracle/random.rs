//! Random queries over random rows, compared with DataFusion's batch after every request.
//!
//! `PYFLARE_SEED` chooses the first seed, `PYFLARE_PAIRS` how many (query, rows) pairs are compared. The seed is part
//! of every message. Left out of the grammar is what differs from DataFusion, on purpose or by a mistake of its own:
//! rows in error, −0.0 and NaN as keys (one bit pattern here, two in DataFusion), and keys that are constants.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use pyflare_dataflows::{ErasureBy, MonitorDefinition};
use pyflare_operators::fields::stream_schema;
use pyflare_sql::oracle::Prepared;
use pyflare_sql::{PlanScope, Statement};
use rand::Rng;
use rand::rngs::StdRng;

use crate::bed::{Content, add_rows, between, difference, open, view_name};
use crate::erased_history::case;
use crate::erasure::{erase, left, stored_content, subject, wait_for_store};
use crate::grammar::Generator;

const QUERIES: usize = 60;
const REQUESTS: u64 = 10;
const SPANS: usize = 14;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Spans with missing, empty, foreign, huge and special values.
fn hostile_request(random: &mut StdRng, start_ns: u64) -> Vec<u8> {
    let mut one = |of: &[&str]| of[random.random_range(0..of.len())].to_string();
    let mut spans = Vec::new();
    let mut drawn = Vec::new();
    for _ in 0..SPANS {
        drawn.push((
            one(&["a", "ä", "", "日本", "x-a", "?"]),
            one(&["u1", "u2", "", "?"]),
            one(&["chat a", "chat", "ábc", "run"]),
        ));
    }
    for (model, user, name) in drawn {
        let mut attributes = vec![attribute(
            "gen_ai.operation.name",
            Value::StringValue("chat".into()),
        )];
        if model != "?" {
            attributes.push(attribute("gen_ai.response.model", Value::StringValue(model)));
        }
        if user != "?" {
            attributes.push(attribute("user.id", Value::StringValue(user)));
        }
        let tokens = [0, 1, 2, 3, 5, 8, 13, 1 << 40, -4][random.random_range(0..9)];
        if random.random_range(0..6) > 0 {
            attributes.push(attribute("gen_ai.usage.output_tokens", Value::IntValue(tokens)));
        }
        if random.random_range(0..3) > 0 {
            attributes.push(attribute(
                "gen_ai.usage.input_tokens",
                Value::IntValue(random.random_range(0..6)),
            ));
        }
        let special = [
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            0.1,
            0.7,
            1e20,
            5e-324,
            -3.5,
        ];
        if random.random_range(0..4) > 0 {
            attributes.push(attribute(
                "gen_ai.request.temperature",
                Value::DoubleValue(special[random.random_range(0..10)]),
            ));
        }
        let begun = start_ns + random.random_range(0..40) * 1_000_000_000;
        spans.push(Span {
            trace_id: random.random::<[u8; 16]>().to_vec(),
            span_id: random.random::<[u8; 8]>().to_vec(),
            name,
            start_time_unix_nano: begun,
            end_time_unix_nano: begun + random.random_range(0..50),
            attributes,
            status: (random.random_range(0..4) == 0).then(|| Status {
                code: 2,
                ..Status::default()
            }),
            ..Span::default()
        });
    }
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
    .encode_to_vec()
}

/// The batch of every monitor, on two threads.
fn batches(prepared: &[Result<Prepared, String>], rows: &RecordBatch) -> Vec<Result<RecordBatch, String>> {
    let run = |prepared: &Result<Prepared, String>| {
        let prepared = prepared.as_ref().map_err(String::clone)?;
        let batch = prepared.rows(&[("spans", std::slice::from_ref(rows))]);
        batch.map_err(|error| error.strip_backtrace())
    };
    let (one, other) = prepared.split_at(prepared.len() / 2);
    std::thread::scope(|scope| {
        let half = scope.spawn(|| one.iter().map(run).collect::<Vec<_>>());
        let rest: Vec<_> = other.iter().map(run).collect();
        let mut all = half.join().unwrap();
        all.extend(rest);
        all
    })
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// What is stored of random queries once rows are taken back from windows that have ended and from others: the batch over all
/// rows that are left, or, where windows meet in a row, what is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_queries_are_stored_without_what_is_erased() {
    let first = number("PYFLARE_SEED", 1);
    let (mut as_if_never_sent, mut let_go, mut changed) = (0, 0, 0);
    for seed in first..first + number("PYFLARE_ERASED_SEEDS", 3) {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), 1 + (seed % 3) as usize);
        let mut generator = Generator::new(seed);
        let mut cases = Vec::new();
        while cases.len() < QUERIES {
            let depth = generator.random.random_range(1..4);
            let relation = generator.relation(depth);
            let sql = format!("CREATE MONITOR m{} AS {}", cases.len(), relation.sql);
            let scope = PlanScope {
                project: Some("default".into()),
                ..PlanScope::default()
            };
            if let Ok(Statement::CreateMonitor(create)) = pyflare_sql::parse(&sql, &scope) {
                let definition = create.definition;
                opened.engine.install(definition.clone(), false).await.unwrap();
                cases.push(case(definition.clone(), definition, 1));
            }
        }
        let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 3_000_000_000_000;
        let mut send = async |from: u64, to: u64, base: u64| {
            for request in from..to {
                let body = hostile_request(&mut generator.random, base + request * 30_000_000_000);
                opened.append(body).await;
            }
            opened.admitted(to).await
        };
        let long_ago = send(0, REQUESTS, base - 3 * 86_400_000_000_000).await;
        let tick = send(REQUESTS, 2 * REQUESTS, base).await;
        let rows = opened.rows(tick);
        let mut before = Vec::new();
        for case in &cases {
            before.push(stored_content(&opened, directory.path(), case, tick).await);
        }
        let erased = erase(&opened.engine, subject(ErasureBy::User, &["u1"])).await;
        let at = erased.retracted_at.unwrap();
        wait_for_store(&opened, at).await;
        let rest = left(&rows, &[&erased]);
        let new = between(&rest, long_ago, tick);
        let spans = stream_schema("spans").unwrap();
        for (case, before) in cases.iter().zip(&before) {
            let view = opened.engine.view_named(&view_name(&case.definition)).unwrap();
            let prepared = tokio::task::block_in_place(|| {
                Prepared::new(&case.definition, &[("spans", SchemaRef::clone(&spans))])
            });
            let content = |rows: &RecordBatch| {
                let batch = tokio::task::block_in_place(|| {
                    prepared
                        .as_ref()
                        .ok()?
                        .rows(&[("spans", std::slice::from_ref(rows))])
                        .ok()
                })?;
                let mut content = Content::new();
                add_rows(&view.schema, &batch, None, &mut content);
                Some(content)
            };
            // DataFusion fails on some of its own plans.
            let (Some(all), Some(shown)) = (content(&rest), content(&new)) else {
                continue;
            };
            let kept = stored_content(&opened, directory.path(), case, at).await;
            assert!(
                kept == all || kept == shown,
                "seed {seed}: neither all that is left nor what is shown is stored of\n{}\n{}",
                case.definition.sql,
                difference(&view.schema, &kept, &all)
            );
            changed += usize::from(kept != *before);
            as_if_never_sent += usize::from(kept == all && kept != shown);
            let_go += usize::from(kept == shown && kept != all);
        }
        opened.shutdown();
    }
    println!("{as_if_never_sent} as if never sent, {let_go} let go of, {changed} changed");
    assert!(as_if_never_sent > 12 && let_go > 30 && changed > 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_queries_equal_the_batch() {
    let (mut seed, pairs) = (number("PYFLARE_SEED", 1), number("PYFLARE_PAIRS", 2_500));
    let mut compared = 0;
    let mut generated = 0;
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    let mut unable: BTreeMap<String, u64> = BTreeMap::new();
    let mut rich = 0;
    while compared < pairs {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), 1 + (seed % 3) as usize);
        let mut generator = Generator::new(seed);
        let mut monitors: Vec<MonitorDefinition> = Vec::new();
        while monitors.len() < QUERIES {
            let depth = generator.random.random_range(1..4);
            let relation = generator.relation(depth);
            generated += 1;
            let sql = format!("CREATE MONITOR m{} AS {}", monitors.len(), relation.sql);
            let scope = PlanScope {
                project: Some("default".into()),
                ..PlanScope::default()
            };
            match pyflare_sql::parse(&sql, &scope) {
                Ok(Statement::CreateMonitor(create)) => {
                    let words = [
                        "JOIN", "SELECT 1", "WINDOW", "TUMBLE", "HOP", "SESSION", "OVER", "(SELECT",
                    ];
                    rich += u64::from(words.iter().any(|word| sql.contains(word)));
                    monitors.push(create.definition);
                }
                Ok(other) => panic!("seed {seed}: {other:?}"),
                Err(error) => {
                    assert_ne!(error.code(), "PF-4099", "seed {seed}: {error}\n{sql}");
                    *refused
                        .entry(format!("{} {}", error.code(), error.message))
                        .or_default() += 1;
                }
            }
        }
        for monitor in &monitors {
            let installed = opened.engine.install(monitor.clone(), false).await;
            installed.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", monitor.sql));
        }
        let spans = stream_schema("spans").unwrap();
        let prepare = |monitor: &MonitorDefinition| {
            let prepared = Prepared::new(monitor, &[("spans", SchemaRef::clone(&spans))]);
            prepared.map_err(|error| error.strip_backtrace())
        };
        let prepared: Vec<_> = tokio::task::block_in_place(|| monitors.iter().map(prepare).collect());
        let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 3_000_000_000_000;
        for request in 0..REQUESTS {
            let body = hostile_request(&mut generator.random, base + request * 30_000_000_000);
            opened.append(body).await;
            let tick = opened.admitted(request + 1).await;
            let rows = opened.rows(tick);
            let mut contents = Vec::new();
            for monitor in &monitors {
                contents.push(opened.content(&view_name(monitor)).await);
            }
            let schema = |monitor: &MonitorDefinition| {
                let view = opened.engine.view_named(&view_name(monitor)).unwrap();
                SchemaRef::clone(&view.schema)
            };
            let schemas: Vec<SchemaRef> = monitors.iter().map(schema).collect();
            let batches = tokio::task::block_in_place(|| batches(&prepared, &rows));
            for (((monitor, schema), content), batch) in
                monitors.iter().zip(&schemas).zip(&contents).zip(batches)
            {
                let batch = match batch {
                    Ok(batch) => batch,
                    // DataFusion fails on some of its own plans.
                    Err(error) => {
                        *unable.entry(error.chars().take(90).collect()).or_default() += 1;
                        continue;
                    }
                };
                let mut expected = Content::new();
                add_rows(schema, &batch, None, &mut expected);
                assert!(
                    *content == expected,
                    "seed {seed}, after request {request}: {} rows, {} in the batch\n{}\n{}",
                    content.len(),
                    expected.len(),
                    monitor.sql,
                    difference(schema, content, &expected)
                );
                compared += 1;
            }
        }
        assert!(
            unable.values().sum::<u64>() * 15 <= compared,
            "DataFusion could not answer: {unable:?}"
        );
        opened.shutdown();
        seed += 1;
    }
    let refusals: u64 = refused.values().sum();
    println!("{compared} pairs compared, {generated} queries, {rich} of them nested; {refusals} refused:");
    for (reason, count) in &refused {
        println!("{count:6} {reason}");
    }
    println!("the batch itself failed for: {unable:?}");
    assert!(
        refusals * 10 <= generated,
        "{refusals} of {generated} queries were refused: {refused:?}"
    );
    assert!(
        rich * 2 > generated,
        "{rich} of {generated} queries nest, join or have windows"
    );
}
