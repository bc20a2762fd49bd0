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

#[cfg(test)]
thread_local! {
    /// What [`now_ms`] says on this thread, if a test says it.
    pub(crate) static CLOCK: std::cell::Cell<Option<Tick>> = const { std::cell::Cell::new(None) };
}

pub fn now_ms() -> Tick {
    #[cfg(test)]
    if let Some(now) = CLOCK.get() {
        return now;
    }
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
    /// Sessions with `EMIT FINAL`: a row is late once the watermark has passed its own time.
    pub by_watermark: bool,
    /// Bounded from below by `now()`: what stands for the pane's end is the moment at which its rows leave, and the
    /// tick decides, not the mark.
    pub by_tick: bool,
}

impl PaneRule {
    /// A monitor without a window slides over its retention, in panes of at most a hundredth of it.
    pub fn sliding(retention_us: i64, lateness_us: i64) -> PaneRule {
        PaneRule {
            pane_us: (retention_us / 100).max(1_000_000),
            retention_us,
            lateness_us,
            emit_final: false,
            by_watermark: false,
            by_tick: false,
        }
    }

    /// A relation whose rows leave when a condition on `now()` says so.
    pub fn leaving(quantum_us: i64) -> PaneRule {
        PaneRule {
            pane_us: quantum_us,
            retention_us: 0,
            lateness_us: 0,
            emit_final: false,
            by_watermark: false,
            by_tick: true,
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

    /// Rows of panes that end at or before this are late, given the stream's mark before their tick. Rows that do not
    /// fulfil a condition on `now()` any more are not late: they are not asked for.
    pub fn late_until(&self, mark_us: Option<i64>) -> Option<i64> {
        match (self.by_tick, self.emit_final) {
            (true, _) => None,
            (false, true) => self.closed_until(mark_us),
            (false, false) => self.passed(mark_us),
        }
    }

    /// Rows before this time are late, whatever their pane, given the stream's mark before their tick.
    pub fn late_before(&self, mark_us: Option<i64>) -> Option<i64> {
        self.closed_until(mark_us).filter(|_| self.by_watermark)
    }

    /// The pane that ends at `pane_end` leaves once the stream's mark is here.
    pub fn leaves_at(&self, pane_end: i64) -> i64 {
        pane_end
            .saturating_add(self.lateness_us)
            .saturating_add(self.retention_us)
    }

    /// Panes that end at or before this have left the view at a tick, given the stream's mark before it.
    pub fn expired_until(&self, mark_us: Option<i64>, tick: Tick) -> Option<i64> {
        match self.by_tick {
            true => Some(tick_us(tick)),
            false => self.passed(mark_us),
        }
    }

    fn passed(&self, mark_us: Option<i64>) -> Option<i64> {
        mark_us.map(|mark| {
            mark.saturating_sub(self.lateness_us)
                .saturating_sub(self.retention_us)
        })
    }
}

const SECOND_US: i64 = 1_000_000;
const HOUR_US: i64 = 3_600 * SECOND_US;

/// Steps in which `now()` may advance.
const QUANTA_US: [i64; 20] = [
    SECOND_US,
    2 * SECOND_US,
    5 * SECOND_US,
    10 * SECOND_US,
    15 * SECOND_US,
    30 * SECOND_US,
    60 * SECOND_US,
    2 * 60 * SECOND_US,
    5 * 60 * SECOND_US,
    10 * 60 * SECOND_US,
    15 * 60 * SECOND_US,
    30 * 60 * SECOND_US,
    HOUR_US,
    2 * HOUR_US,
    3 * HOUR_US,
    6 * HOUR_US,
    12 * HOUR_US,
    24 * HOUR_US,
    48 * HOUR_US,
    120 * HOUR_US,
];

/// Which rows a condition on `now()` asks for: `now − after < time ≤ now − until`, `now` being the tick floored to the
/// quantum. At a tick a row is there if it has appeared and not yet left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recency {
    pub after_us: Option<i64>,
    pub until_us: Option<i64>,
    pub quantum_us: i64,
}

impl Recency {
    /// The step for bounds of which the longest reaches so far back: about a hundredth of it, a second at least.
    pub fn quantum_us(longest_us: i64) -> i64 {
        let fits = |quantum: &&i64| quantum.saturating_mul(100) >= longest_us;
        *QUANTA_US
            .iter()
            .find(fits)
            .unwrap_or(&QUANTA_US[QUANTA_US.len() - 1])
    }

    /// The tick, microseconds, from which a row of this time is there.
    pub fn appears_at(&self, time_us: i64) -> i64 {
        self.until_us
            .map_or(i64::MIN, |until| self.reaches(time_us, until))
    }

    /// The tick, microseconds, from which it is not there any more.
    pub fn leaves_at(&self, time_us: i64) -> i64 {
        self.after_us
            .map_or(i64::MAX, |after| self.reaches(time_us, after))
    }

    /// When the floored tick is at or above `time + distance`: a multiple of the quantum, so the tick itself is then.
    fn reaches(&self, time_us: i64, distance_us: i64) -> i64 {
        let moment = time_us.saturating_add(distance_us);
        let floor = window_start(moment, self.quantum_us);
        match floor == moment {
            true => moment,
            false => floor.saturating_add(self.quantum_us),
        }
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

    /// Against the definition, at every tick around the moments at which something changes.
    #[test]
    fn a_row_is_there_as_long_as_the_floored_now_says() {
        let bounds = [
            None,
            Some(-3_000_000),
            Some(0),
            Some(1),
            Some(2_000_000),
            Some(7_300_000),
            Some(7_300_001),
        ];
        for quantum_us in [1_000_000, 5_000_000] {
            for (after_us, until_us) in bounds
                .iter()
                .flat_map(|after| bounds.map(|until| (*after, until)))
            {
                let recency = Recency {
                    after_us,
                    until_us,
                    quantum_us,
                };
                for time in [-1_i64, 0, 1, 999_999, 1_000_000, 1_000_001, 4_700_000] {
                    for tick in -15_000..25_000_i64 {
                        let tick = tick * 1_000;
                        let now = window_start(tick, quantum_us);
                        let is_there = after_us.is_none_or(|after| time > now - after)
                            && until_us.is_none_or(|until| time <= now - until);
                        let found = recency.appears_at(time) <= tick && tick < recency.leaves_at(time);
                        assert_eq!(found, is_there, "{recency:?} of {time} at {tick}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_quantum_is_about_a_hundredth() {
        let minute = 60 * SECOND_US;
        for (longest, quantum) in [
            (-SECOND_US, SECOND_US),
            (100 * SECOND_US, SECOND_US),
            (100 * SECOND_US + 1, 2 * SECOND_US),
            (5 * minute, 5 * SECOND_US),
            (HOUR_US, minute),
            (24 * HOUR_US, 15 * minute),
            (366 * 24 * HOUR_US, 120 * HOUR_US),
            (i64::MAX, 120 * HOUR_US),
        ] {
            assert_eq!(Recency::quantum_us(longest), quantum, "of {longest}");
        }
        assert!(QUANTA_US.is_sorted());
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
