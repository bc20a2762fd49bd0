//! Every function that the reference lists, called in a monitor: what it shows is DataFusion's batch of the same call.

use pyflare_dataflows::MonitorDefinition;
use pyflare_sql::functions::{FunctionKind, functions};
use pyflare_sql::{PlanScope, Statement};

use crate::bed::{Content, add_rows, open, request, view_name};

const BODIES: u64 = 4;
const SPANS: usize = 30;

fn statement(number: usize, kind: FunctionKind, sample: &str) -> String {
    let select = match kind {
        FunctionKind::Aggregate if sample.starts_with("grouping") => {
            format!("SELECT model, {sample} AS value FROM spans GROUP BY ROLLUP (model)")
        }
        FunctionKind::Aggregate => format!("SELECT model, {sample} AS value FROM spans GROUP BY model"),
        FunctionKind::Scalar | FunctionKind::Window => {
            format!("SELECT span_id, {sample} AS value FROM spans")
        }
    };
    format!("CREATE MONITOR f{number} AS {select}")
}

/// What is refused is on the reference page with its reason.
fn accepted() -> Vec<MonitorDefinition> {
    let scope = PlanScope {
        project: Some("default".into()),
        ..PlanScope::default()
    };
    let all = functions().into_iter().enumerate();
    let planned = all.filter_map(|(number, function)| {
        let sql = statement(number, function.kind, function.sample?);
        match pyflare_sql::parse(&sql, &scope) {
            Ok(Statement::CreateMonitor(create)) => Some(create.definition),
            _ => None,
        }
    });
    planned.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_function_gives_what_the_batch_gives() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let monitors = accepted();
    assert!(monitors.len() > 150, "{} functions are called", monitors.len());
    for monitor in &monitors {
        let installed = opened.engine.install(monitor.clone(), false).await;
        installed.unwrap_or_else(|error| panic!("{error}\n{}", monitor.sql));
    }
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 600_000_000_000;
    for number in 0..BODIES {
        let body = request(number, base + number * 60_000_000_000, SPANS);
        opened.append(body).await;
    }
    let last = opened.admitted(BODIES).await;
    let rows = opened.rows(last);
    let mut wrong = Vec::new();
    for monitor in &monitors {
        let schema = monitor.plan.schema().unwrap();
        let content = opened.content(&view_name(monitor)).await;
        match pyflare_sql::oracle::batch(monitor, std::slice::from_ref(&rows)) {
            Ok(batch) => {
                let mut expected = Content::new();
                add_rows(&schema, &batch, None, &mut expected);
                if expected.is_empty() || content != expected {
                    wrong.push(format!(
                        "{} rows, the batch has {}: {}",
                        content.len(),
                        expected.len(),
                        monitor.sql
                    ));
                }
            }
            Err(error) => wrong.push(format!("{}: {}", error.strip_backtrace(), monitor.sql)),
        }
    }
    opened.shutdown();
    assert!(
        wrong.is_empty(),
        "{} of {}\n{}",
        wrong.len(),
        monitors.len(),
        wrong.join("\n")
    );
}
