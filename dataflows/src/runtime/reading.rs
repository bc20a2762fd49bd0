//! Reading from the engine: views at a tick, subscriptions, and what the store does not hold yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use tokio::sync::mpsc;

use super::consolidate::{Changes, repeated};
use super::engine::Engine;
use super::error::EngineError;
use super::holds::ReadHold;
use super::hub::{Event, NewSubscriber, SUBSCRIBER_QUEUE};
use super::messages::ToHub;
use super::streams::{StreamId, signal_of};
use super::tail::Tail;
use super::views::{Relation, ViewName};
use crate::time::Tick;

/// The column of built-in views that says whose a row is.
const PROJECT: &str = "project";

/// What of a view is wanted; by default all.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Rows whose column, by position, is one of these values, which have its type and are not NULL; all of them hold.
    pub equalities: Vec<(usize, ArrayRef)>,
    /// These columns, by position.
    pub projection: Option<Vec<usize>>,
    /// So many rows suffice.
    pub limit: Option<usize>,
}

/// A view's content at one tick.
#[derive(Debug, Clone)]
pub struct PeekResult {
    pub tick: Tick,
    /// Of the columns wanted.
    pub schema: SchemaRef,
    /// Rows in no particular order, repeated as often as they occur.
    pub batches: Vec<RecordBatch>,
    /// How many different rows each worker gave, in no particular order.
    pub rows_by_worker: Vec<usize>,
}

#[derive(Debug, Clone, Default)]
pub struct SubscribeOptions {
    /// Start with everything the view holds.
    pub snapshot: bool,
    /// Also send frames without rows, as time passes.
    pub progress: bool,
    /// A token of an earlier frame, to continue right after it.
    pub resume: Option<String>,
    /// What was missed since that frame comes as it was sent at first, a frame per tick that changed something,
    /// instead of as its net.
    pub every_tick: bool,
    /// Begin with the content, or the changes, after this tick. It must have passed, and what changed since must be known.
    pub as_of: Option<Tick>,
    /// End before this tick.
    pub up_to: Option<Tick>,
    /// Only rows whose `window_end` the view's watermark has reached; needs that column.
    pub closed_windows: bool,
    /// Of built-in views only this project's rows.
    pub project: Option<String>,
}

/// Frames of one view.
pub struct Subscription {
    relation: Relation,
    key: Vec<usize>,
    receiver: mpsc::Receiver<Event>,
}

impl Subscription {
    pub fn schema(&self) -> SchemaRef {
        self.relation.schema()
    }

    /// The columns that identify a row; empty: the whole row does.
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    pub async fn next(&mut self) -> Event {
        self.receiver.recv().await.unwrap_or_else(|| Event::End {
            reason: "the server is shutting down".into(),
        })
    }
}

/// Tells the workers when whoever waited for a peek is gone.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Engine {
    /// A view's content at the hold's tick; `project` narrows built-in views.
    pub async fn peek(
        &self,
        name: &ViewName,
        hold: &ReadHold,
        project: Option<&str>,
    ) -> Result<PeekResult, EngineError> {
        self.peek_at(name, hold.tick(), project, Wanted::default()).await
    }

    /// As [`Engine::peek`], of what is wanted, for a caller that keeps the hold of `tick` elsewhere. Workers seek to wanted
    /// keys, read a slice at a time between ticks, and stop when the future is dropped.
    pub async fn peek_at(
        &self,
        name: &ViewName,
        tick: Tick,
        project: Option<&str>,
        mut wanted: Wanted,
    ) -> Result<PeekResult, EngineError> {
        let unknown = || EngineError::Unknown {
            name: name.to_string(),
        };
        let found = self.shared.views.relation(name).ok_or_else(unknown)?;
        let relation = found.id();
        let mut schema = found.schema();
        if let (Some(project), None, Ok(column)) = (project, &name.project, schema.index_of(PROJECT)) {
            let own: ArrayRef = Arc::new(StringArray::from(vec![project]));
            let own = cast(&own, schema.field(column).data_type()).map_err(|_| EngineError::Closed)?;
            wanted.equalities.push((column, own));
        }
        if let Some(columns) = &wanted.projection {
            schema = Arc::new(schema.project(columns).map_err(|_| unknown())?);
        }
        let workers = Arc::clone(&self.shared.workers);
        let (wanted, given_up) = (Arc::new(wanted), Arc::new(AtomicBool::new(false)));
        let _guard = GiveUp(Arc::clone(&given_up));
        let shares = tokio::task::spawn_blocking(move || workers.peek(relation, tick, &wanted, &given_up))
            .await
            .map_err(|_| EngineError::Closed)?;
        if shares.len() < self.shared.workers.len() {
            return Err(EngineError::WorkerFailed);
        }
        let rows_by_worker = shares
            .iter()
            .map(|share| share.iter().map(|(batch, _)| batch.num_rows()).sum())
            .collect();
        let changes = shares.into_iter().flatten();
        Ok(PeekResult {
            tick,
            schema,
            batches: changes
                .map(|(batch, diffs)| repeated(Changes { batch, diffs }))
                .collect(),
            rows_by_worker,
        })
    }

    pub fn subscribe(&self, name: &ViewName, options: SubscribeOptions) -> Result<Subscription, EngineError> {
        let unknown = || EngineError::Unknown {
            name: name.to_string(),
        };
        let relation = self.shared.views.relation(name).ok_or_else(unknown)?;
        let key = relation.key();
        let (sender, receiver) = mpsc::channel(SUBSCRIBER_QUEUE);
        let new = NewSubscriber {
            id: self.shared.subscribers.fetch_add(1, Ordering::Relaxed),
            relation: relation.clone(),
            project: options.project,
            snapshot: options.snapshot,
            progress: options.progress,
            resume: options.resume,
            every_tick: options.every_tick,
            as_of: options.as_of,
            up_to: options.up_to,
            closed_windows: options.closed_windows,
            sender,
        };
        self.shared
            .hub
            .send(ToHub::Subscribe(Box::new(new)))
            .map_err(|_| EngineError::Closed)?;
        Ok(Subscription {
            relation,
            key,
            receiver,
        })
    }

    /// Rows of a stream that are not yet in the store, up to `tick`.
    pub fn tail(&self, stream: &str, tick: Tick) -> Tail {
        signal_of(stream).map_or_else(Tail::default, |signal| {
            self.shared.tail.stream(StreamId::Signal(signal), tick)
        })
    }

    /// As [`Engine::tail`], of a user's stream.
    pub fn stream_tail(&self, name: &ViewName, tick: Tick) -> Tail {
        let project = name.project.as_deref().unwrap_or_default();
        match self.shared.streams.get(project, &name.name) {
            Some(stream) => self.shared.tail.stream(StreamId::User(stream.id), tick),
            None => Tail::default(),
        }
    }

    /// Changes of a view that are not yet in the store, up to `tick`.
    pub fn changes_tail(&self, name: &ViewName, tick: Tick) -> Tail {
        match self.shared.views.get(name) {
            Some(view) => self.shared.tail.changes(view.id, tick),
            None => Tail::default(),
        }
    }
}
