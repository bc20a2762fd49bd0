//! How others reach the workers: a bounded channel each, and a wake-up.

use std::sync::OnceLock;
use std::thread::Thread;

use crossbeam_channel::Sender;

use super::messages::ToWorker;

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

    pub fn broadcast(&self, mut message: impl FnMut() -> ToWorker) {
        for worker in 0..self.links.len() {
            self.send(worker, message());
        }
    }
}
