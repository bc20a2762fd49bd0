//! What monitors share, what a tick leaves alone, and what is dropped while others want to read it.

use std::collections::BTreeSet;
use std::time::Duration;

use pyflare_dataflows::{EngineError, MonitorDefinition, OperatorFigures, ViewName};

use crate::bed::{Opened, open, request, view_name};
use crate::cases::planned;
use crate::graph::planned as planned_over;
use crate::hostile::alike;

fn base_ns() -> u64 {
    pyflare_dataflows::time::now_ms() * 1_000_000 - 60_000_000_000
}

/// The monitors of each base.
fn bases(opened: &Opened) -> BTreeSet<(u64, Vec<String>)> {
    let arrangements = opened.engine.arrangement_figures().into_iter();
    arrangements
        .filter(|arrangement| arrangement.is_base)
        .map(|arrangement| {
            let names = arrangement.views.into_iter().map(|name| name.name);
            (arrangement.arrangement, names.collect())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitors_that_read_the_same_groups_have_one_base() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let texts = [
        "CREATE MONITOR full AS SELECT model, count(*) AS calls, sum(output_tokens) AS tokens FROM spans GROUP BY model",
        "CREATE MONITOR other_list AS SELECT model, sum(output_tokens) / count(*) AS mean FROM spans GROUP BY model",
        "CREATE MONITOR with_having AS SELECT model, count(*) AS n FROM spans GROUP BY model HAVING count(*) > 3",
        "CREATE MONITOR filtered AS SELECT model, count(*) AS n FROM spans WHERE output_tokens > 7 GROUP BY model",
    ];
    let definitions: Vec<MonitorDefinition> = texts.iter().map(|text| planned(text)).collect();
    for definition in &definitions {
        opened.engine.install(definition.clone(), false).await.unwrap();
    }
    opened.append(request(1, base_ns(), 40)).await;
    opened.admitted(1).await;
    let names = |bases: &BTreeSet<(u64, Vec<String>)>| -> BTreeSet<Vec<String>> {
        bases.iter().map(|(_, names)| names.clone()).collect()
    };
    let of = |lists: &[&[&str]]| -> BTreeSet<Vec<String>> {
        let list = |list: &&[&str]| list.iter().map(|name| (*name).to_string()).collect();
        lists.iter().map(list).collect()
    };
    let first = bases(&opened);
    assert_eq!(
        names(&first),
        of(&[&["full", "other_list", "with_having"], &["filtered"]])
    );
    assert_eq!(first.len(), 2, "an arrangement has one number on all workers");
    let shared = opened.engine.shared_nodes(&definitions[1]);
    let readers: Vec<Vec<String>> = shared
        .values()
        .map(|names| names.iter().map(|name| name.name.clone()).collect())
        .collect();
    assert_eq!(readers, [["full", "with_having"]]);

    opened
        .engine
        .drop_monitor(&view_name(&definitions[0]))
        .await
        .unwrap();
    opened.append(request(2, base_ns(), 10)).await;
    opened.admitted(2).await;
    assert_eq!(
        names(&bases(&opened)),
        of(&[&["other_list", "with_having"], &["filtered"]])
    );
    for definition in &definitions[1..] {
        opened.engine.drop_monitor(&view_name(definition)).await.unwrap();
    }
    assert!(bases(&opened).is_empty());
    opened.shutdown();
}

/// Figures are told four times a second.
async fn told() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}

fn runs(operators: &[OperatorFigures], name: &str) -> u64 {
    let own = operators.iter().filter(|operator| operator.name.name == name);
    own.map(|operator| operator.figure.runs).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_without_rows_for_a_view_does_not_run_its_dataflow() {
    for workers in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), workers);
        // Retention of days: nothing expires meanwhile.
        for text in [
            "CREATE MONITOR fed AS SELECT a.model, a.calls, b.tokens FROM (SELECT model, count(*) AS calls FROM spans GROUP BY model) AS a
             JOIN (SELECT model, sum(output_tokens) AS tokens FROM spans GROUP BY model) AS b ON a.model = b.model",
            "CREATE MONITOR rare AS SELECT a.name, a.calls, b.longest FROM (SELECT name, count(*) AS calls FROM spans WHERE name LIKE 'step%' GROUP BY name) AS a
             JOIN (SELECT name, max(duration_ns) AS longest FROM spans WHERE name LIKE 'step%' GROUP BY name) AS b ON a.name = b.name",
        ] {
            opened.engine.install(planned(text), false).await.unwrap();
        }
        opened
            .append([request(1, base_ns(), 20), alike(1, 10)].concat())
            .await;
        opened.admitted(1).await;
        told().await;
        let before = opened.engine.operator_figures();
        for number in 2..42 {
            opened.append(request(number, base_ns(), 20)).await;
            opened.admitted(number).await;
        }
        // Figures are told when a dataflow is touched: once more.
        opened.append(alike(2, 10)).await;
        opened.admitted(42).await;
        told().await;
        let after = opened.engine.operator_figures();
        let fed = runs(&after, "fed") - runs(&before, "fed");
        let rare = runs(&after, "rare") - runs(&before, "rare");
        assert!(rare > 0 && fed > 40 * 5, "{rare} and {fed} runs");
        assert!(
            rare < fed / 40 * 5,
            "{rare} runs in one tick with rows, {fed} in 40"
        );
        opened.shutdown();
    }
}

/// Whoever comes first wins; the other one is told so, and the engine goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_dropped_or_replaced_while_a_reader_is_installed() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), 2);
    let engine = &opened.engine;
    let first = planned("CREATE MONITOR read AS SELECT model, count(*) AS calls FROM spans GROUP BY model");
    let second = planned(
        "CREATE MONITOR read AS SELECT service_name, max(duration_ns) AS worst FROM spans GROUP BY service_name",
    );
    let read = view_name(&first);
    let (mut changed, mut unknown, mut in_use, mut installed) = (0, 0, 0, 0);
    for round in 0..60 {
        engine.install(first.clone(), true).await.unwrap();
        let reader = planned_over(engine, "reader", "SELECT max(calls) AS most FROM read").unwrap();
        let change = async {
            if round % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(round % 7)).await;
            }
            match round % 2 {
                0 => engine.install(second.clone(), true).await.map(drop),
                _ => engine.drop_monitor(&read).await,
            }
        };
        let (change, reading) = match round % 4 < 2 {
            true => {
                let both = tokio::join!(change, engine.install(reader.clone(), false));
                (both.0, both.1)
            }
            false => {
                let both = tokio::join!(engine.install(reader.clone(), false), change);
                (both.1, both.0)
            }
        };
        match (&change, &reading) {
            (Ok(()), Err(EngineError::Changed { .. })) => changed += 1,
            (Ok(()), Err(EngineError::Unknown { .. })) => unknown += 1,
            (Err(EngineError::InUse { .. }), Ok(_)) => {
                in_use += 1;
                engine.drop_monitor(&view_name(&reader)).await.unwrap();
            }
            other => panic!("round {round}: {other:?}"),
        }
        // Both are whole: what is there is read, and what is not is not there.
        let there = engine.view_named(&read).is_some();
        if there {
            installed += 1;
            opened.content(&read).await;
        }
        assert!(
            engine
                .view_named(&ViewName::of_project("default", "reader"))
                .is_none()
        );
        assert_eq!(engine.status().failure, None);
    }
    assert!(
        changed > 0 && unknown > 0,
        "{changed} changed, {unknown} unknown, {in_use} in use, {installed} there"
    );
    opened.append(request(1, base_ns(), 20)).await;
    opened.admitted(1).await;
    engine.install(first.clone(), true).await.unwrap();
    opened.append(request(2, base_ns(), 20)).await;
    opened.admitted(2).await;
    assert!(!opened.content(&read).await.is_empty());
    opened.shutdown();
}
