//! The Nexmark queries, all at once over one run: each view = the batch over the same events.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::writer::StreamWriter;
use pyflare_connectors::ContentType;
use pyflare_dataflows::ViewName;
use pyflare_operators::corpus::nexmark::{DECLARATIONS, Nexmark, STREAMS};
use pyflare_sql::{PlanScope, Statement};

use crate::bed::{Content, add_rows, copy_directory, open, view_name};

#[path = "../../benches/nexmark/queries.rs"]
#[allow(dead_code, reason = "the targets are for the benchmark")]
mod queries;

use queries::QUERIES;

const REQUESTS: usize = 12;
const EVENTS: usize = 400;

fn body(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nexmark_equals_the_batch_on_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let mut scope = PlanScope {
        project: Some("default".into()),
        ..PlanScope::default()
    };
    for sql in DECLARATIONS {
        let Statement::CreateStream { definition, .. } = pyflare_sql::parse(sql, &scope).unwrap() else {
            panic!("{sql}");
        };
        let created = opened.engine.create_stream(*definition).await.unwrap();
        scope.streams.push(created.definition);
    }
    let mut definitions = Vec::new();
    for query in QUERIES {
        let sql = format!("CREATE MONITOR {} AS {}", query.name, query.select);
        let Statement::CreateMonitor(create) =
            pyflare_sql::parse(&sql, &scope).unwrap_or_else(|error| panic!("{}: {error}", query.name))
        else {
            panic!("{sql}");
        };
        opened
            .engine
            .install(create.definition.clone(), false)
            .await
            .unwrap();
        definitions.push(create.definition);
    }
    // Fifty events a second, so that windows of ten seconds have a few hundred.
    let spacing_us = 20_000;
    let now_us = pyflare_dataflows::time::now_ms() as i64 * 1_000;
    let mut source = Nexmark::new(5, now_us - (REQUESTS * EVENTS) as i64 * spacing_us, spacing_us);
    for _ in 0..REQUESTS {
        for (stream, batch) in STREAMS.iter().zip(source.batches(EVENTS)) {
            opened
                .append_rows(stream, ContentType::ArrowStream, body(&batch))
                .await;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let last = opened.admitted((REQUESTS * STREAMS.len()) as u64).await;
    let rows: Vec<RecordBatch> = STREAMS
        .iter()
        .map(|stream| {
            let tail = opened
                .engine
                .stream_tail(&ViewName::of_project("default", *stream), last);
            concat_batches(&tail.batches[0].schema(), &tail.batches).unwrap()
        })
        .collect();
    assert_eq!(
        rows.iter().map(RecordBatch::num_rows).sum::<usize>(),
        REQUESTS * EVENTS
    );
    let tables: Vec<(&str, &[RecordBatch])> = STREAMS
        .iter()
        .zip(&rows)
        .map(|(stream, rows)| (*stream, std::slice::from_ref(rows)))
        .collect();
    let mut contents = Vec::new();
    for definition in &definitions {
        let name = view_name(definition);
        let schema = Arc::clone(&opened.engine.view_named(&name).unwrap().schema);
        let batch = pyflare_sql::oracle::batch_over(definition, &tables).unwrap();
        let mut expected = Content::new();
        add_rows(&schema, &batch, None, &mut expected);
        let content = opened.content(&name).await;
        assert!(!content.is_empty(), "{name} shows something");
        assert_eq!(content.len(), expected.len(), "rows of {name}");
        assert!(content == expected, "{name} differs from the batch");
        contents.push(content);
    }
    opened.shutdown();
    for workers in [1, 4] {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(directory.path(), copy.path());
        let replayed = open(copy.path(), workers);
        for (definition, content) in definitions.iter().zip(&contents) {
            let again = replayed.content(&view_name(definition)).await;
            assert!(again == *content, "{} on {workers} workers", definition.name);
        }
        replayed.shutdown();
    }
}
