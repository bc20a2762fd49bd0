//! The trace list equals the one computed naively over all spans, page by page, while new spans arrive.

use std::collections::BTreeMap;

use pyflare_history::{QueryOptions, Scope, TraceFilter};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::house::*;

/// Newest matching event time and id of each trace in the list, in order.
fn naive(rows: &[Span], filter: &TraceFilter, scope: &Scope, tick: u64) -> Vec<(i64, String, String)> {
    let to = filter.to.unwrap_or(tick as i64 * 1000 + 1);
    let from = filter.from.unwrap_or(to - 3_600_000_000);
    let visible: Vec<&Span> = rows
        .iter()
        .filter(|span| span.tick <= tick && scope.sees(Some(span.project)))
        .collect();
    let is = |wanted: &Option<String>, value: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
    };
    let mut newest: BTreeMap<(String, String), i64> = BTreeMap::new();
    for span in &visible {
        let meets = (from..to).contains(&span.event_us())
            && is(&filter.service, Some(span.service))
            && is(&filter.model, span.model)
            && is(&filter.user, span.user.as_deref())
            && is(&filter.status, Some(span.status))
            && filter
                .q
                .as_ref()
                .is_none_or(|text| span.name.to_lowercase().contains(&text.to_lowercase()));
        if meets {
            let place = newest
                .entry((span.trace_id(), span.project.to_owned()))
                .or_insert(i64::MIN);
            *place = (*place).max(span.event_us());
        }
    }
    let hour = 3_600_000_000;
    let duration = |trace: &str| {
        let spans = visible
            .iter()
            .filter(|span| span.trace_id() == trace && (from - hour..to + hour).contains(&span.event_us()));
        let (start, end) = spans.fold((i64::MAX, i64::MIN), |(start, end), span| {
            (
                start.min(span.start_us),
                end.max(span.start_us + span.duration_us),
            )
        });
        (end - start) * 1000
    };
    let mut list: Vec<(i64, String, String)> = newest
        .into_iter()
        .filter(|((trace, _), _)| {
            filter
                .min_duration_ns
                .is_none_or(|least| duration(trace) >= least)
                && filter.max_duration_ns.is_none_or(|most| duration(trace) <= most)
        })
        .map(|((trace, project), newest)| (newest, trace, project))
        .collect();
    list.sort();
    list.reverse();
    list
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_the_naive_list() {
    for seed in 0..10 {
        let mut random = StdRng::seed_from_u64(seed + 100);
        let rows = random_spans(seed, 500);
        let house = house_with(&rows, seed);
        let service = service(&house, QueryOptions::default());
        let newest = rows.last().unwrap().tick;
        let some = |random: &mut StdRng, value: &str| random.random_bool(0.3).then(|| value.to_owned());
        let mut filter = TraceFilter {
            service: some(&mut random, "api"),
            model: some(&mut random, "gpt-5"),
            user: some(&mut random, "user 2"),
            status: some(&mut random, "error"),
            q: some(&mut random, "CHAT"),
            min_duration_ns: random.random_bool(0.3).then_some(3_000_000_000),
            from: random
                .random_bool(0.5)
                .then_some(START as i64 * 1000 - 1_000_000_000),
            limit: Some(random.random_range(1..40)),
            ..TraceFilter::default()
        };
        if seed == 0 {
            filter = TraceFilter {
                limit: Some(7),
                ..TraceFilter::default()
            };
        }
        let scope = if seed % 3 == 0 {
            Scope::project("default")
        } else {
            Scope::everything()
        };
        // Half of the ticks are there when the list is begun; the rest arrives between its pages.
        let first = rows[rows.len() / 2].tick;
        house.content.lock().tick = first;
        let expected = naive(&rows, &filter, &scope, first);
        let mut listed = Vec::new();
        loop {
            let page = service.list_traces(&filter, &scope).await.unwrap();
            assert!(page.items.len() <= filter.limit.unwrap());
            for item in &page.items {
                let spans: Vec<&Span> = rows
                    .iter()
                    .filter(|span| {
                        span.tick <= first
                            && span.trace_id() == item.trace_id
                            && scope.sees(Some(span.project))
                    })
                    .collect();
                assert!(item.span_count as usize <= spans.len());
                assert_eq!(item.status.as_deref() == Some("error"), item.error_count > 0);
                listed.push((
                    item.event_time.clone(),
                    item.trace_id.clone(),
                    item.project.clone(),
                ));
            }
            house.content.lock().tick = newest;
            match page.next_cursor {
                Some(cursor) => filter.cursor = Some(cursor),
                None => break,
            }
        }
        let expected: Vec<(String, String, String)> = expected
            .into_iter()
            .map(|(micros, trace, project)| {
                let time = chrono::DateTime::from_timestamp_micros(micros).unwrap();
                (
                    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
                    trace,
                    project,
                )
            })
            .collect();
        assert_eq!(listed, expected, "seed {seed}: {filter:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_has_all_its_spans_in_order() {
    let rows = random_spans(11, 400);
    let house = house_with(&rows, 11);
    let service = service(&house, QueryOptions::default());
    let wanted = rows[17].trace_id();
    let answer = service.trace(&wanted, &Scope::everything()).await.unwrap();
    let query = format!(
        "SELECT * EXCLUDE (_tick, _mark, _partition, _offset, _row) FROM t WHERE trace_id = '{wanted}' ORDER BY start_unix_nano, span_id"
    );
    assert_eq!(table(&answer), oracle(&spans(&rows), &query).await);
    let foreign = rows.iter().find(|span| span.project == "other").unwrap();
    let answer = service
        .trace(&foreign.trace_id(), &Scope::project("default"))
        .await
        .unwrap();
    assert_eq!(answer.row_count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused() {
    let service = service(&house_with(&random_spans(1, 10), 1), QueryOptions::default());
    for cursor in ["", "x", "e30", "🙂"] {
        let filter = TraceFilter {
            cursor: Some(cursor.to_owned()),
            ..TraceFilter::default()
        };
        assert_eq!(
            service
                .list_traces(&filter, &Scope::everything())
                .await
                .unwrap_err()
                .code(),
            "PF-4071"
        );
    }
    let filter = TraceFilter {
        from: Some(5),
        to: Some(5),
        ..TraceFilter::default()
    };
    assert_eq!(
        service
            .list_traces(&filter, &Scope::everything())
            .await
            .unwrap_err()
            .code(),
        "PF-4071"
    );
}
