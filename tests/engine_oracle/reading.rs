//! Peeks of what is wanted: conditions on columns, projections and limits give what a filter of the whole gives, and a read
//! that ticks interrupt shows its tick.

use std::time::Duration;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{concat_batches, take};
use pyflare_dataflows::{MonitorDefinition, ViewName, Wanted};
use rand::prelude::*;

use crate::bed::{Content, Opened, add_rows, open, request, view_name};
use crate::cases::planned;

fn monitors() -> Vec<MonitorDefinition> {
    [
        // By group alone; a condition on aggregates, and a column that is computed.
        "calls AS SELECT model, user_id, count(*) AS calls, max(duration_ns) AS worst FROM spans GROUP BY user_id, model",
        "many AS SELECT user_id AS who, count(*) * 2 AS twice FROM spans GROUP BY user_id HAVING count(*) % 3 > 0",
        // Panes lead the key.
        "windows AS SELECT service_name, window_start, model, window_end, count(*) AS calls
         FROM TUMBLE(spans, event_time, INTERVAL '10 seconds') GROUP BY model, window_start, service_name, window_end",
        "closed WITH (lateness = '5 seconds') AS SELECT window_end, model, count(*) AS calls
         FROM TUMBLE(spans, event_time, INTERVAL '10 seconds') GROUP BY model, window_end EMIT FINAL",
        // Rows.
        "slow AS SELECT model, status, duration_ns FROM spans WHERE duration_ns > 300000000",
        "models AS SELECT DISTINCT model, provider, temperature FROM spans",
        // Graphs.
        "shares AS SELECT c.model, c.calls, t.calls AS all_calls FROM (SELECT model, count(*) AS calls FROM spans GROUP BY
         model) AS c CROSS JOIN (SELECT count(*) AS calls FROM spans) AS t",
        "ranked AS SELECT service_name, model, calls, rank() OVER (PARTITION BY service_name ORDER BY calls DESC) AS place
         FROM (SELECT service_name, model, count(*) AS calls FROM spans GROUP BY service_name, model)",
    ]
    .into_iter()
    .map(|monitor| planned(&format!("CREATE MONITOR {monitor}")))
    .collect()
}

/// Up to three values of a column, one of which is perhaps in no row.
fn some_values(column: &ArrayRef, random: &mut StdRng) -> Option<ArrayRef> {
    let present: Vec<u32> = (0..column.len() as u32)
        .filter(|row| column.is_valid(*row as usize))
        .collect();
    let most = random.random_range(1..4);
    let picked: Vec<u32> = present.choose_multiple(random, most).copied().collect();
    (!picked.is_empty()).then(|| take(column, &UInt32Array::from(picked), None).unwrap())
}

/// Where a row of a batch has one of the values, by comparison.
fn has(column: &ArrayRef, row: usize, values: &ArrayRef) -> bool {
    let compare = arrow::array::make_comparator(column, values, Default::default()).unwrap();
    column.is_valid(row) && (0..values.len()).any(|value| compare(row, value).is_eq())
}

async fn assert_reads(opened: &Opened, name: &ViewName, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let hold = opened.engine.hold();
    let whole = opened.engine.peek(name, &hold, None).await.unwrap();
    let all = concat_batches(&whole.schema, &whole.batches).unwrap();
    let mut shown = 0;
    for _ in 0..60 {
        let mut equalities = Vec::new();
        for column in 0..all.num_columns() {
            if random.random_bool(0.45)
                && let Some(values) = some_values(all.column(column), &mut random)
            {
                equalities.push((column, values));
            }
        }
        let mut projection: Vec<usize> = (0..all.num_columns()).collect();
        projection.shuffle(&mut random);
        projection.truncate(random.random_range(0..=all.num_columns()));
        let kept: Vec<u32> = (0..all.num_rows())
            .filter(|row| {
                equalities
                    .iter()
                    .all(|(column, values)| has(all.column(*column), *row, values))
            })
            .map(|row| row as u32)
            .collect();
        let limit = random.random_bool(0.3).then(|| random.random_range(1..20));
        let wanted = Wanted {
            equalities,
            projection: Some(projection.clone()),
            limit,
        };
        let shape = format!("{name} {wanted:?}");
        let found = opened
            .engine
            .peek_at(name, hold.tick(), None, wanted)
            .await
            .unwrap();
        let rows: usize = found.batches.iter().map(|batch| batch.num_rows()).sum();
        let schema = all.schema().project(&projection).unwrap();
        assert_eq!(found.schema.fields(), schema.fields(), "{shape}");
        match limit {
            Some(limit) => assert!(rows >= kept.len().min(limit), "{rows} rows, {shape}"),
            None => assert_eq!(rows, kept.len(), "{shape}"),
        }
        if projection.is_empty() {
            continue;
        }
        let indices = UInt32Array::from(kept);
        let expected =
            arrow::compute::take_record_batch(&all.project(&projection).unwrap(), &indices).unwrap();
        let (mut content, mut whole) = (Content::new(), Content::new());
        for batch in &found.batches {
            add_rows(&found.schema, batch, None, &mut content);
        }
        add_rows(&found.schema, &expected, None, &mut whole);
        match limit {
            None => assert!(content == whole, "{shape}"),
            Some(_) => assert!(
                content.iter().all(|(row, count)| whole.get(row) >= Some(count)),
                "{shape}"
            ),
        }
        shown += rows;
    }
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_is_what_a_filter_leaves() {
    for workers in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path(), workers);
        let definitions = monitors();
        for definition in &definitions {
            opened.engine.install(definition.clone(), false).await.unwrap();
        }
        let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 600_000_000_000;
        for number in 0..25 {
            let start = base + number * 7_000_000_000;
            opened.append(request(number, start, 40)).await;
        }
        opened.admitted(25).await;
        // Windows close at a tick after the rows that say so.
        let closed = definitions.iter().find(|definition| definition.name == "closed");
        let closed = view_name(closed.unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while opened.content(&closed).await.is_empty() {
            assert!(std::time::Instant::now() < deadline, "windows close");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (seed, definition) in definitions.iter().enumerate() {
            let name = view_name(definition);
            let shown = assert_reads(&opened, &name, seed as u64).await;
            assert!(shown > 60, "{name}: {shown} rows were read");
        }
        opened.shutdown();
    }
}

/// A read in slices of nothing, so that every tick comes between two of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_ticks_interrupt_shows_its_tick() {
    let directory = tempfile::tempdir().unwrap();
    let opened = crate::bed::open_with(directory.path(), 2, |options| options.read_slice = Duration::ZERO);
    let definitions = monitors();
    for definition in &definitions {
        opened.engine.install(definition.clone(), false).await.unwrap();
    }
    let base = pyflare_dataflows::time::now_ms() * 1_000_000 - 600_000_000_000;
    for number in 0..40 {
        let start = base + number * 7_000_000_000;
        opened.append(request(number, start, 60)).await;
    }
    let mut sent = 40;
    opened.admitted(sent).await;
    for definition in &definitions {
        let name = view_name(definition);
        let hold = opened.engine.hold();
        let before = opened.engine.peek(&name, &hold, None).await.unwrap();
        let (mut first, mut again) = (Content::new(), Content::new());
        for batch in &before.batches {
            add_rows(&before.schema, batch, None, &mut first);
        }
        let reads = async {
            let mut ticks = Vec::new();
            for _ in 0..5 {
                let read = opened.engine.peek(&name, &hold, None).await.unwrap();
                again.clear();
                for batch in &read.batches {
                    add_rows(&read.schema, batch, None, &mut again);
                }
                assert!(again == first, "{name} is read while ticks go on");
                ticks.push(opened.engine.status().complete_tick);
            }
            ticks
        };
        let sends = async {
            for number in sent..sent + 5 {
                opened
                    .append(request(number, base + number * 7_000_000_000, 60))
                    .await;
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        };
        let (_, ()) = tokio::join!(reads, sends);
        sent += 5;
        opened.admitted(sent).await;
        // A read that is given up leaves the workers free.
        drop(tokio::time::timeout(Duration::from_micros(50), opened.engine.peek(&name, &hold, None)).await);
    }
    opened.shutdown();
}
