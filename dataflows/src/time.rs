//! Ticks, marks, panes and expiry, as pure functions.
//!
//! A *tick* is a `u64` in milliseconds: the moment rows are admitted. Event time is data, in microseconds. A
//! stream's *mark* is how far its event time has come; the watermark of a monitor is `mark − lateness`. Every
//! decision here depends on the row and on the tick log only, never on the order of arrival.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub type Tick = u64;

/// How long a partition without rows may hold back its stream's mark before its tick counts instead.
pub const IDLE_AFTER_MS: u64 = 10_000;

/// The tick as an event time.
pub fn tick_us(tick: Tick) -> i64 {
    i64::try_from(tick).unwrap_or(i64::MAX).saturating_mul(1_000)
}

/// The next tick: now, but always later than the previous one.
pub fn next_tick(previous: Tick) -> Tick {
    now_ms().max(previous + 1)
}

pub fn now_ms() -> Tick {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// How event time of one partition has advanced; part of the tick record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionMark {
    /// The greatest `min(event_time, tick)` seen, microseconds.
    pub mark_us: Option<i64>,
    /// The last tick that admitted a row of it.
    pub last_row_tick: Option<Tick>,
}

impl PartitionMark {
    pub fn observe(&mut self, tick: Tick, max_event_time_us: i64) {
        let seen = max_event_time_us.min(tick_us(tick));
        self.mark_us = Some(self.mark_us.map_or(seen, |mark| mark.max(seen)));
        self.last_row_tick = Some(tick);
    }

    /// The partition's contribution to its stream's mark at `tick`; `at_end` says that its log has no more rows.
    fn effective(&self, tick: Tick, at_end: bool) -> Option<i64> {
        match (self.mark_us, self.last_row_tick) {
            (Some(_), Some(last)) if at_end && tick >= last + IDLE_AFTER_MS => Some(tick_us(tick)),
            (mark, _) => mark,
        }
    }
}

/// The mark of a stream after `tick`: the minimum over its partitions, never falling below `previous`.
///
/// A partition that never had a row does not hold the stream back.
pub fn stream_mark(previous: Option<i64>, partitions: &[(PartitionMark, bool)], tick: Tick) -> Option<i64> {
    let current = partitions
        .iter()
        .filter_map(|(mark, at_end)| mark.effective(tick, *at_end))
        .min();
    match (previous, current) {
        (Some(previous), Some(current)) => Some(previous.max(current)),
        (previous, current) => previous.or(current),
    }
}

/// How a view keeps time: when its panes end, how late rows may be, when panes leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaneRule {
    /// Length of a pane in microseconds: the window's size, or the quantum of a sliding retention.
    pub pane_us: i64,
    pub retention_us: i64,
    pub lateness_us: i64,
    /// `EMIT FINAL`: a row is late once its pane is closed, not only when it has expired.
    pub emit_final: bool,
}

impl PaneRule {
    /// A monitor without a window slides over its retention, in panes of at most a hundredth of it.
    pub fn sliding(retention_us: i64, lateness_us: i64) -> PaneRule {
        PaneRule {
            pane_us: (retention_us / 100).max(1_000_000),
            retention_us,
            lateness_us,
            emit_final: false,
        }
    }

    /// Panes that end at or before this are closed: the watermark has passed them.
    pub fn closed_until(&self, mark_us: Option<i64>) -> Option<i64> {
        mark_us.map(|mark| mark.saturating_sub(self.lateness_us))
    }

    /// The pane that ends at `pane_end` closes once the stream's mark is here.
    pub fn closes_at(&self, pane_end: i64) -> i64 {
        pane_end.saturating_add(self.lateness_us)
    }

    /// Rows of panes that end at or before this are late, given the stream's mark before their tick.
    pub fn late_until(&self, mark_us: Option<i64>) -> Option<i64> {
        match self.emit_final {
            true => self.closed_until(mark_us),
            false => self.expired_until(mark_us),
        }
    }

    /// The pane that ends at `pane_end` leaves once the stream's mark is here.
    pub fn leaves_at(&self, pane_end: i64) -> i64 {
        pane_end
            .saturating_add(self.lateness_us)
            .saturating_add(self.retention_us)
    }

    /// Panes that end at or before this have left the view, given the stream's mark.
    pub fn expired_until(&self, mark_us: Option<i64>) -> Option<i64> {
        mark_us.map(|mark| {
            mark.saturating_sub(self.lateness_us)
                .saturating_sub(self.retention_us)
        })
    }
}

/// Start of the aligned interval of `size_us` that holds `time_us` (floor, also before 1970).
pub fn window_start(time_us: i64, size_us: i64) -> i64 {
    time_us.saturating_sub(time_us.rem_euclid(size_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_floors() {
        assert_eq!(window_start(61_000_000, 60_000_000), 60_000_000);
        assert_eq!(window_start(60_000_000, 60_000_000), 60_000_000);
        assert_eq!(window_start(-1, 60_000_000), -60_000_000);
        assert_eq!(window_start(i64::MIN, 60_000_000), i64::MIN);
    }

    #[test]
    fn a_mark_never_falls_and_never_passes_the_tick() {
        let mut partition = PartitionMark::default();
        partition.observe(1_000, 5_000_000_000);
        assert_eq!(partition.mark_us, Some(1_000_000));
        partition.observe(2_000, 0);
        assert_eq!(partition.mark_us, Some(1_000_000));
        assert_eq!(
            stream_mark(Some(3_000_000), &[(partition, false)], 2_000),
            Some(3_000_000)
        );
    }

    #[test]
    fn an_idle_partition_lets_the_tick_count_only_at_the_end_of_its_log() {
        let mut partition = PartitionMark::default();
        partition.observe(1_000, 500_000);
        let later = 1_000 + IDLE_AFTER_MS;
        assert_eq!(stream_mark(None, &[(partition, true)], later - 1), Some(500_000));
        assert_eq!(
            stream_mark(None, &[(partition, true)], later),
            Some(tick_us(later))
        );
        assert_eq!(stream_mark(None, &[(partition, false)], later), Some(500_000));
        assert_eq!(
            stream_mark(
                None,
                &[(partition, false), (PartitionMark::default(), true)],
                later
            ),
            Some(500_000)
        );
    }
}
