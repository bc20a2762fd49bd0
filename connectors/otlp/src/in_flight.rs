//! A bound on the memory of requests in progress.
//!
//! Invariant: the sum over all [`Held`] is at most the limit; dropping one gives its bytes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::refusal::Refusal;

#[derive(Debug)]
pub(crate) struct InFlight {
    limit: usize,
    used: AtomicUsize,
}

/// The bytes that one request holds.
#[derive(Debug)]
pub(crate) struct Held {
    in_flight: Arc<InFlight>,
    bytes: usize,
}

impl InFlight {
    pub(crate) fn new(limit: usize) -> Arc<InFlight> {
        Arc::new(InFlight {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        Held {
            in_flight: Arc::clone(self),
            bytes: 0,
        }
    }
}

impl Held {
    /// Takes more bytes; refused if that would exceed the limit.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.in_flight.limit);
        self.in_flight
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|_| Refusal::InFlight)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives some bytes back.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.in_flight.used.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn holds_up_to_the_limit_and_gives_back() {
        let in_flight = InFlight::new(100);
        let mut first = in_flight.hold();
        first.grow(60).unwrap();
        let mut second = in_flight.hold();
        second.grow(40).unwrap();
        assert!(matches!(second.grow(1), Err(Refusal::InFlight)));
        first.shrink(10);
        second.grow(10).unwrap();
        assert!(second.grow(usize::MAX).is_err());
        drop(first);
        assert_eq!(in_flight.used(), 50);
        drop(second);
        assert_eq!(in_flight.used(), 0);
    }
}
