//! What every [`TickLog`] must do.

use std::sync::Arc;

use crate::{TickLog, TickLogError};

fn numbered(log: &Arc<dyn TickLog>) -> Vec<(u64, Vec<u8>)> {
    let mut seen = Vec::new();
    log.read(&mut |position, payload| {
        seen.push((position, payload.to_vec()));
        Ok(())
    })
    .expect("read");
    assert!(
        seen.is_sorted_by(|(one, _), (next, _)| one < next),
        "positions grow"
    );
    seen
}

fn payloads(log: &Arc<dyn TickLog>) -> Vec<Vec<u8>> {
    numbered(log).into_iter().map(|(_, payload)| payload).collect()
}

/// Checks a tick log that is empty at first; `open` opens it again.
pub fn tick_log(open: &dyn Fn() -> Arc<dyn TickLog>) {
    let log = open();
    assert!(payloads(&log).is_empty(), "a new tick log has no payloads");
    assert!(
        matches!(log.append(1, b"x"), Err(TickLogError::Fenced { .. })),
        "nobody writes without a generation"
    );

    assert!(log.is_new().expect("is_new"), "nothing ever began here");
    let first = log.open_generation().expect("open_generation");
    assert!(!log.is_new().expect("is_new"), "now something has");
    assert_eq!(log.waits_for(), None, "nothing waits");
    let mut expected = Vec::new();
    for at in 0..50_usize {
        let payload = vec![at as u8; at * 7 % 300];
        let position = log.append(first, &payload).expect("append");
        expected.push(payload);
        let newest = numbered(&log).pop().map(|(position, _)| position);
        assert_eq!(newest, Some(position), "append tells the position");
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

    let stopped = log.read(&mut |_, _| Err(TickLogError::Fenced { own: 0, newer: 0 }));
    assert!(stopped.is_err(), "an error of the visitor ends the reading");

    log.check_generation(second)
        .expect("the newest generation is in charge");
    let before = numbered(&log);
    let keep = before[before.len() / 2].0;
    for refused in [log.check_generation(first), log.trim(first, keep)] {
        assert!(
            matches!(refused, Err(TickLogError::Fenced { own, newer }) if own == first && newer == second),
            "an older generation is told"
        );
    }
    log.trim(second, keep).expect("trim");
    let kept = numbered(&log);
    assert!(
        before.ends_with(&kept) && kept.first().is_some_and(|(position, _)| *position <= keep),
        "what is kept is kept with its positions, and everything from the given one on is"
    );
    drop(log);
    let log = open();
    assert_eq!(numbered(&log), kept, "trimming and positions survive reopening");
    let third = log.open_generation().expect("open_generation");
    let position = log.append(third, b"third").expect("append");
    assert_eq!(
        numbered(&log).last(),
        Some(&(position, b"third".to_vec())),
        "positions go on after a trim"
    );
    log.trim(third, u64::MAX).expect("everything may go");
    let position_after = log.append(third, b"after everything").expect("append");
    assert!(position_after > position, "positions never repeat");
}
