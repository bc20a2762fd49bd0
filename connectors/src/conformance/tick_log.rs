//! What every [`TickLog`] must do.

use std::sync::Arc;

use crate::{TickLog, TickLogError};

fn payloads(log: &Arc<dyn TickLog>) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    log.read(&mut |payload| {
        seen.push(payload.to_vec());
        Ok(())
    })
    .expect("read");
    seen
}

/// Checks a tick log that is empty at first; `open` opens it again.
pub fn tick_log(open: &dyn Fn() -> Arc<dyn TickLog>) {
    let log = open();
    assert!(payloads(&log).is_empty(), "a new tick log has no payloads");
    assert!(
        matches!(log.append(1, b"x"), Err(TickLogError::Fenced { .. })),
        "nobody writes without a generation"
    );

    let first = log.open_generation().expect("open_generation");
    let mut expected = Vec::new();
    for at in 0..50_usize {
        let payload = vec![at as u8; at * 7 % 300];
        log.append(first, &payload).expect("append");
        expected.push(payload);
        assert_eq!(
            payloads(&log).len(),
            expected.len(),
            "a payload can be read when append returns"
        );
    }
    assert_eq!(
        payloads(&log),
        expected,
        "payloads come back unchanged and in order"
    );
    drop(log);

    let log = open();
    assert_eq!(payloads(&log), expected, "payloads survive reopening");
    let second = log.open_generation().expect("open_generation");
    assert!(second > first, "generations grow");
    let fenced = log.append(first, b"from the past");
    assert!(
        matches!(fenced, Err(TickLogError::Fenced { own, newer }) if own == first && newer == second),
        "an older generation cannot append"
    );
    log.append(second, b"second").expect("append");
    expected.push(b"second".to_vec());
    assert_eq!(payloads(&log), expected, "nothing of the fenced append is there");

    let stopped = log.read(&mut |_| Err(TickLogError::Fenced { own: 0, newer: 0 }));
    assert!(stopped.is_err(), "an error of the visitor ends the reading");
}
