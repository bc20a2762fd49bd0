//! What the live API asks of the engine: views, subscriptions, and monitors that live as long as a subscription.
//!
//! Implementations are cheap to call from async code: nothing here blocks a thread for longer than a lookup.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

use crate::Failure;

/// A view's identity. `project` is `None` for built-in views, which hold the rows of every project.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewName {
    pub project: Option<String>,
    pub name: String,
}

/// A view as clients see it.
#[derive(Clone, Debug)]
pub struct View {
    pub name: ViewName,
    /// The statement as it was written.
    pub sql: String,
    /// Relations derived from it that can be read and subscribed to like it, but are not monitors: `<name>$late`, ….
    pub companions: Vec<String>,
    pub description: Option<String>,
    pub schema: SchemaRef,
    /// Positions of the columns that identify a row; empty when only the whole row does.
    pub key: Vec<usize>,
    /// The tick after which every admitted row within retention is in the view.
    pub start: u64,
    /// `live`, `recovering` while the log is being replayed, or `stopped` when it exceeded a limit.
    pub state: &'static str,
    /// Why it is stopped, with the way out.
    pub reason: Option<String>,
    pub rows: u64,
    pub late_rows: u64,
    /// Rows left out because an expression failed on them.
    pub errors: u64,
    pub retention_us: i64,
    pub lateness_us: i64,
    /// Owned by a subscription and gone with it; never listed.
    pub temporary: bool,
}

impl View {
    pub fn builtin(&self) -> bool {
        self.name.project.is_none()
    }

    /// Whether somebody who may read `project` (`None`: every project) may see this view at all.
    pub fn visible_to(&self, project: Option<&str>) -> bool {
        match (&self.name.project, project) {
            (Some(owner), Some(reader)) => owner == reader,
            _ => true,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Begin with the present content (a frame with `reset`); otherwise with the changes from now on.
    pub snapshot: bool,
    /// Also report ticks in which nothing changed.
    pub progress: bool,
    /// Continue where this token of an earlier frame stood.
    pub resume: Option<String>,
    /// Begin with the content, or the changes, after this tick, which must have passed and be known still.
    pub as_of: Option<u64>,
    /// End before this tick.
    pub up_to: Option<u64>,
    /// Only rows whose `window_end` the watermark has reached; needs that column.
    pub closed_windows: bool,
    /// Only the rows of this project (built-in views hold those of all).
    pub project: Option<String>,
}

/// The net change of the ticks `lower ≤ t < upper`.
#[derive(Clone, Debug)]
pub struct Frame {
    pub lower: u64,
    pub upper: u64,
    /// Forget what you had: this is all of it.
    pub reset: bool,
    /// `None`: nothing changed.
    pub batch: Option<RecordBatch>,
    /// One non-zero multiplicity per row of `batch`.
    pub diffs: Vec<i64>,
    pub resume: String,
}

#[derive(Clone, Debug)]
pub enum Event {
    Frame(Frame),
    /// Nothing follows: all of it was told, the view was dropped, or the engine stops.
    End {
        reason: String,
    },
    /// What was asked for is not to be had, and nothing follows.
    Refused(Failure),
}

/// A running subscription. Dropping it ends it.
///
/// - Frames follow on: each begins where the one before ended, unless `reset` is set.
/// - What waits for a slow reader is bounded; past the bound it is replaced by one frame with `reset`.
/// - [`Subscription::next`] is cancel safe: a call that is dropped before it returns has consumed nothing.
#[async_trait]
pub trait Subscription: Send {
    fn schema(&self) -> SchemaRef;
    fn key(&self) -> &[usize];
    async fn next(&mut self) -> Event;
}

/// The engine's views.
#[async_trait]
pub trait Views: Send + Sync + 'static {
    /// Every view, temporary ones included, in the order of their names.
    fn views(&self) -> Vec<Arc<View>>;

    /// The project's own view of that name, else the built-in one. Without a project: the only match there is.
    fn view(&self, project: Option<&str>, name: &str) -> Option<Arc<View>>;

    fn subscribe(&self, view: &ViewName, options: SubscribeOptions)
    -> Result<Box<dyn Subscription>, Failure>;

    /// Installs a query as a monitor named `name` in `project` that is never listed and does not survive a restart.
    async fn install_temporary(&self, project: &str, name: &str, query: &str) -> Result<Arc<View>, Failure>;

    /// Drops what [`Views::install_temporary`] made. Unknown names are no error: it is gone.
    async fn drop_temporary(&self, view: &ViewName);
}
