//! Monitors that would take the memory or the processor of all others: they are stopped, nothing else is.

use std::time::{Duration, Instant};

use arrow::array::{AsArray, StringViewArray};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use pyflare_dataflows::{Companion, MonitorDefinition, SubscribeOptions, ViewName};
use tokio::sync::watch;

use crate::bed::{Content, Opened, add_rows, copy_directory, open, view_name};
use crate::cases::planned;
use crate::frames::{Transcript, again, follow};
use crate::graph::planned as planned_over;

const SPANS: u64 = 20_000;
/// Less than the server may ever need for what is admitted; the product would take 50 times as much.
const MOST_BYTES: u64 = 3 << 30;

/// Spans that are all of one kind, in one request.
pub fn alike(request: u64, spans: u64) -> Vec<u8> {
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 60_000_000_000;
    let span = |number: u64| Span {
        // An id of zeros is none.
        trace_id: (request << 32 | (number + 1)).to_be_bytes().repeat(2),
        span_id: (request << 32 | (number + 1)).to_be_bytes().to_vec(),
        kind: 3,
        name: format!("step {}", number % 7),
        start_time_unix_nano: base,
        end_time_unix_nano: base + 1 + number,
        ..Span::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: (0..spans).map(span).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
    .encode_to_vec()
}

/// Every pair of spans: their kind is the same.
const PRODUCT: &str =
    "SELECT a.span_id, b.span_id AS other FROM spans AS a JOIN spans AS b ON a.kind = b.kind";

/// The most memory that this process had at once, bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

async fn stopped(opened: &Opened, name: &ViewName) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let view = opened.engine.view_named(name).unwrap();
        // Its content is taken back at the tick after.
        if let Some(reason) = view.stopped.clone()
            && opened.content(name).await.is_empty()
        {
            return reason;
        }
        assert!(
            Instant::now() < deadline,
            "{name} is stopped: {:?}",
            opened.engine.status()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn messages(opened: &Opened, name: &ViewName) -> Vec<String> {
    let mut errors = name.clone();
    errors.name.push_str(Companion::Errors.suffix());
    let peek = opened
        .engine
        .peek(&errors, &opened.engine.hold(), None)
        .await
        .unwrap();
    let texts = peek.batches.iter().flat_map(|batch| {
        let column: &StringViewArray = batch.column(1).as_string_view();
        column.iter().flatten().map(String::from).collect::<Vec<_>>()
    });
    texts.collect()
}

fn batch_of(definition: &MonitorDefinition, opened: &Opened, tick: u64) -> Content {
    let view = opened.engine.view_named(&view_name(definition)).unwrap();
    let batch = pyflare_sql::oracle::batch(definition, &[opened.rows(tick)]).unwrap();
    let mut content = Content::new();
    add_rows(&view.schema, &batch, None, &mut content);
    content
}

fn everything() -> SubscribeOptions {
    SubscribeOptions {
        snapshot: true,
        ..SubscribeOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_of_all_rows_stops_its_monitor_and_nothing_else() {
    for workers in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), workers);
        let good = planned("CREATE MONITOR good AS SELECT name, count(*) AS calls FROM spans GROUP BY name");
        let joined = planned(
            "CREATE MONITOR joined AS SELECT a.name, a.calls, b.longest FROM (SELECT name, count(*) AS calls FROM spans GROUP BY name) AS a
             JOIN (SELECT name, max(duration_ns) AS longest FROM spans GROUP BY name) AS b ON a.name = b.name",
        );
        let hostile = planned(&format!("CREATE MONITOR hostile AS {PRODUCT}"));
        for definition in [&good, &joined, &hostile] {
            opened.engine.install(definition.clone(), false).await.unwrap();
        }
        let (stop, until) = watch::channel(false);
        let names = [&hostile, &joined].map(view_name);
        let following: Vec<_> = names
            .iter()
            .map(|name| follow(&opened.engine, name, everything(), until.clone()))
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        // A few pairs are shown first, and are to be taken back.
        opened.append(alike(0, 20)).await;
        opened.admitted(1).await;
        assert_eq!(opened.content(&names[0]).await.len(), 400);
        let begun = Instant::now();
        opened.append(alike(1, SPANS)).await;
        let reason = stopped(&opened, &names[0]).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(
            reason.starts_with("PF-3013") && reason.contains("max_tick_rows = 5000000"),
            "{reason}"
        );
        assert!(peak_bytes() < MOST_BYTES, "{} bytes", peak_bytes());
        assert!(opened.content(&names[0]).await.is_empty());
        let told = messages(&opened, &names[0]).await;
        assert!(told.len() == 1 && told[0].starts_with("PF-3013"), "{told:?}");

        // Everything else is exact, and goes on.
        opened.append(alike(2, 500)).await;
        let last = opened.admitted(3).await;
        for definition in [&good, &joined] {
            let content = opened.content(&view_name(definition)).await;
            assert!(
                content == batch_of(definition, &opened, last),
                "{}",
                definition.name
            );
        }
        // What stands on its base, and on itself, can be made anew.
        let over = planned_over(&opened.engine, "over", "SELECT count(*) AS n FROM hostile").unwrap();
        opened.engine.install(over.clone(), false).await.unwrap();
        assert_eq!(opened.content(&view_name(&over)).await.len(), 1);
        opened.engine.drop_monitor(&view_name(&over)).await.unwrap();
        let mild = planned("CREATE MONITOR hostile AS SELECT span_id FROM spans WHERE duration_ns < 5");
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.send(true).unwrap();
        let mut transcripts: Vec<(ViewName, Transcript)> = Vec::new();
        for (name, transcript) in names.iter().zip(following) {
            transcripts.push((name.clone(), transcript.await.unwrap()));
        }
        let seen = transcripts[0].1.contents(last);
        assert_eq!(seen.values().map(Content::len).max(), Some(400));
        assert!(
            seen.values().next_back().unwrap().is_empty(),
            "readers see it go empty"
        );

        for again_on in [2, 1] {
            let copy = tempfile::tempdir().unwrap();
            copy_directory(directory.path(), copy.path());
            let replayed = open(copy.path(), again_on);
            let view = replayed.engine.view_named(&names[0]).unwrap();
            assert_eq!(view.stopped.as_deref(), Some(reason.as_str()));
            for (name, transcript) in &transcripts {
                let replay = again(&replayed.engine, name, &transcript.frames[0]).await;
                transcript.assert_equals(
                    &replay,
                    last,
                    &format!("{name} from {workers} on {again_on} workers"),
                );
            }
            replayed.engine.install(mild.clone(), true).await.unwrap();
            replayed.append(alike(3, 10)).await;
            let tick = replayed.admitted(4).await;
            let view = replayed.engine.view_named(&names[0]).unwrap();
            assert!(view.stopped.is_none() && view.start > last);
            replayed.engine.wait_complete(tick).await;
            assert_eq!(replayed.content(&names[0]).await.len(), 4);
            replayed.shutdown();
        }
        opened.shutdown();
    }
}

/// A join over views that are large already explodes at the tick of its installation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_over_what_is_there_is_stopped_when_it_is_installed() {
    for workers in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), workers);
        let rows = planned("CREATE MONITOR rows AS SELECT span_id, kind FROM spans");
        opened.engine.install(rows.clone(), false).await.unwrap();
        opened.append(alike(1, SPANS)).await;
        opened.admitted(1).await;
        let product = planned_over(
            &opened.engine,
            "product",
            "SELECT a.span_id, b.span_id AS other FROM rows AS a JOIN rows AS b ON a.kind = b.kind",
        )
        .unwrap();
        let begun = Instant::now();
        opened.engine.install(product.clone(), false).await.unwrap();
        let reason = stopped(&opened, &view_name(&product)).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(reason.contains("max_tick_rows"), "{reason}");
        assert!(opened.content(&view_name(&product)).await.is_empty());
        assert_eq!(opened.content(&view_name(&rows)).await.len() as u64, SPANS);
        assert!(peak_bytes() < MOST_BYTES, "{} bytes", peak_bytes());
        opened.shutdown();
        let replayed = open(directory.path(), 3 - workers);
        let view = replayed.engine.view_named(&view_name(&product)).unwrap();
        assert_eq!(view.stopped.as_deref(), Some(reason.as_str()));
        assert_eq!(replayed.content(&view_name(&rows)).await.len() as u64, SPANS);
        replayed.engine.drop_monitor(&view_name(&product)).await.unwrap();
        assert!(replayed.engine.view_named(&view_name(&product)).is_none());
        replayed.shutdown();
    }
}

/// A result that changes too often is stopped, one that is let change more is not; a replay stops it at the same tick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_often_a_result_changes_is_limited() {
    for workers in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), workers);
        let select = "AS SELECT span_id, kind FROM spans";
        let busy = planned(&format!(
            "CREATE MONITOR busy WITH (max_updates_per_second = '20') {select}"
        ));
        let calm = planned(&format!(
            "CREATE MONITOR calm WITH (max_updates_per_second = '100') {select}"
        ));
        let (busy_name, calm_name) = (view_name(&busy), view_name(&calm));
        opened.engine.install(busy.clone(), false).await.unwrap();
        opened.engine.install(calm.clone(), false).await.unwrap();
        opened.append(alike(1, 200)).await;
        opened.admitted(1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let view = opened.engine.view_named(&busy_name).unwrap();
        assert!(
            view.stopped.is_none(),
            "two hundred changes are twenty a second for ten seconds"
        );
        opened.append(alike(2, 100)).await;
        opened.admitted(2).await;
        let reason = stopped(&opened, &busy_name).await;
        assert!(
            reason.starts_with("PF-3013") && reason.contains("max_updates_per_second = 20 "),
            "{reason}"
        );
        assert!(opened.content(&busy_name).await.is_empty());
        assert_eq!(opened.content(&calm_name).await.len(), 300);
        // What is there when it is installed is no change.
        opened.engine.install(busy.clone(), true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let view = opened.engine.view_named(&busy_name).unwrap();
        assert!(view.stopped.is_none() && view.rows == 300, "{:?}", view.stopped);
        opened.append(alike(3, 300)).await;
        opened.admitted(3).await;
        assert_eq!(stopped(&opened, &busy_name).await, reason);
        opened.shutdown();
        let replayed = open(directory.path(), 3 - workers);
        let view = replayed.engine.view_named(&busy_name).unwrap();
        assert_eq!(view.stopped.as_deref(), Some(reason.as_str()));
        assert!(replayed.content(&busy_name).await.is_empty());
        assert_eq!(replayed.content(&calm_name).await.len(), 600);
        replayed.shutdown();
    }
}

/// Groups of a base, rows of a graph's operator: what is kept has a limit of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_monitor_keeps_is_limited() {
    for workers in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), workers);
        let groups = planned(
            "CREATE MONITOR groups WITH (max_rows = '1000') AS SELECT span_id, count(*) AS n FROM spans GROUP BY span_id",
        );
        let same =
            planned("CREATE MONITOR same AS SELECT span_id, count(*) AS n FROM spans GROUP BY span_id");
        let graph = planned(
            "CREATE MONITOR graph WITH (max_rows = 1000) AS SELECT a.span_id, b.calls FROM spans AS a
             JOIN (SELECT name, count(*) AS calls FROM spans GROUP BY name) AS b ON a.name = b.name",
        );
        for definition in [&groups, &same, &graph] {
            opened.engine.install(definition.clone(), false).await.unwrap();
        }
        opened.append(alike(0, 400)).await;
        let tick = opened.admitted(1).await;
        for definition in [&groups, &same, &graph] {
            let view = opened.engine.view_named(&view_name(definition)).unwrap();
            assert_eq!(view.stopped, None, "{}", definition.name);
            assert!(opened.content(&view_name(definition)).await == batch_of(definition, &opened, tick));
        }
        opened.append(alike(1, 1_500)).await;
        opened.admitted(2).await;
        for definition in [&groups, &graph] {
            let reason = stopped(&opened, &view_name(definition)).await;
            assert!(reason.contains("max_rows = 1000"), "{reason}");
            assert!(opened.content(&view_name(definition)).await.is_empty());
        }
        opened.append(alike(2, 300)).await;
        let last = opened.admitted(3).await;
        let content = opened.content(&view_name(&same)).await;
        assert_eq!(content.len(), 2_200);
        assert!(content == batch_of(&same, &opened, last));
        opened.shutdown();
        let replayed = open(directory.path(), 3 - workers);
        for definition in [&groups, &graph] {
            let view = replayed.engine.view_named(&view_name(definition)).unwrap();
            assert!(view.stopped.is_some(), "{}", definition.name);
        }
        assert_eq!(replayed.content(&view_name(&same)).await.len(), 2_200);
        replayed.shutdown();
    }
}
