//! How others reach the workers: a bounded channel each, and a wake-up.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use crossbeam_channel::Sender;

use super::messages::{PeekRequest, PeekShare, ToWorker};
use super::reading::Wanted;
use super::views::RelationId;
use crate::time::Tick;

pub(crate) struct WorkerLink {
    pub sender: Sender<ToWorker>,
    /// Set by the worker when it starts; a parked worker does not look at its channel.
    pub thread: OnceLock<Thread>,
}

pub(crate) struct WorkerLinks {
    pub links: Vec<WorkerLink>,
}

impl WorkerLinks {
    pub fn len(&self) -> usize {
        self.links.len()
    }

    pub fn send(&self, worker: usize, message: ToWorker) {
        let link = &self.links[worker];
        // A worker that is gone has failed; the coordinator learns it from the missing answer.
        let _ = link.sender.send(message);
        if let Some(thread) = link.thread.get() {
            thread.unpark();
        }
    }

    /// What every worker holds of a relation at a tick; fewer shares if one has failed. Blocks until they have answered, or
    /// have seen that it is given up.
    pub fn peek(
        &self,
        relation: RelationId,
        tick: Tick,
        wanted: &Arc<Wanted>,
        given_up: &Arc<AtomicBool>,
    ) -> Vec<PeekShare> {
        let (reply, shares) = crossbeam_channel::bounded(self.len());
        self.broadcast(|| {
            ToWorker::Peek(PeekRequest {
                relation,
                tick,
                wanted: Arc::clone(wanted),
                given_up: Arc::clone(given_up),
                reply: reply.clone(),
            })
        });
        drop(reply);
        shares.iter().take(self.len()).collect()
    }

    pub fn broadcast(&self, mut message: impl FnMut() -> ToWorker) {
        for worker in 0..self.links.len() {
            self.send(worker, message());
        }
    }
}
