//! How long operators are at work on one worker, from timely's own log of whom it lets run.
//!
//! Only operators that somebody asked about are followed, and a dataflow in which nothing happens logs nothing.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

/// How long one operator was at work, and how often.
#[derive(Clone, Copy, Default)]
struct Work {
    nanos: u64,
    runs: u64,
    /// Since when it is at work, if it is.
    begun: Option<Duration>,
}

/// By the operator's identifier.
#[derive(Clone, Default)]
pub(crate) struct Busy {
    works: Rc<RefCell<HashMap<usize, Work>>>,
}

impl Busy {
    /// Begins to listen; dataflows that are built later are heard.
    pub fn register(worker: &Worker) -> Busy {
        let busy = Busy::default();
        let works = Rc::clone(&busy.works);
        if let Some(mut register) = worker.log_register() {
            register.insert::<TimelyEventBuilder, _>("timely", move |_time, events| {
                let Some(events) = events else { return };
                let mut works = works.borrow_mut();
                for (at, event) in events.drain(..) {
                    let TimelyEvent::Schedule(schedule) = event else {
                        continue;
                    };
                    let Some(work) = works.get_mut(&schedule.id) else {
                        continue;
                    };
                    match schedule.start_stop {
                        StartStop::Start => work.begun = Some(at),
                        StartStop::Stop => {
                            let begun = work.begun.take();
                            let elapsed = begun.map_or(Duration::ZERO, |begun| at.saturating_sub(begun));
                            work.nanos += elapsed.as_nanos() as u64;
                            work.runs += 1;
                        }
                    }
                }
            });
        }
        busy
    }

    pub fn follow(&self, operators: Range<usize>) {
        let begun = operators.map(|operator| (operator, Work::default()));
        self.works.borrow_mut().extend(begun);
    }

    pub fn forget(&self, operators: Range<usize>) {
        let mut works = self.works.borrow_mut();
        for operator in operators {
            works.remove(&operator);
        }
    }

    /// Microseconds of these together, and how often they ran.
    pub fn of(&self, operators: impl Iterator<Item = usize>) -> (u64, u64) {
        let works = self.works.borrow();
        let (mut nanos, mut runs) = (0, 0);
        for work in operators.filter_map(|operator| works.get(&operator)) {
            nanos += work.nanos;
            runs += work.runs;
        }
        (nanos / 1_000, runs)
    }
}
