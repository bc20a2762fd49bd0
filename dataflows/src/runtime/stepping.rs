//! Letting timely run until something is complete, as long as all workers are there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use timely::worker::Worker;

/// Another worker has ended by a panic.
pub(super) struct PeerFailed;

pub(super) struct Stepping<'a> {
    pub worker: &'a mut Worker,
    failed: &'a AtomicBool,
}

impl<'a> Stepping<'a> {
    /// `failed` is set when a worker has ended by a panic.
    pub fn new(worker: &'a mut Worker, failed: &'a AtomicBool) -> Stepping<'a> {
        Stepping { worker, failed }
    }

    pub fn until(&mut self, done: impl Fn() -> bool) -> Result<(), PeerFailed> {
        while !done() {
            if self.failed.load(Ordering::Acquire) {
                return Err(PeerFailed);
            }
            self.worker.step_or_park(Some(Duration::from_millis(10)));
        }
        Ok(())
    }
}
