//! What monitors write to topics of others, each cut once.
//!
//! Invariants every implementation keeps:
//! - [`Outputs::write`] makes all blocks of a cut visible at once, or none of them, and their cuts with them;
//! - [`Outputs::last_cut`] is the cut of the newest block that is visible, also after `kill -9` in the middle of a write;
//! - a process that was replaced by another one over the same history cannot write any more.

use arrow::array::RecordBatch;

use crate::LogError;

/// The net changes of one view up to a cut.
#[derive(Debug, Clone)]
pub struct OutputBlock {
    /// Tells outputs of one history apart.
    pub output: String,
    pub topic: String,
    /// The view's columns, `_tick` and `_diff`.
    pub rows: RecordBatch,
    /// The columns that tell rows of the view apart; none: equal rows are alike.
    pub key: Vec<String>,
}

/// Topics that changes of views are written to.
pub trait Outputs: Send + Sync + 'static {
    /// Whose they are, before anything else: cuts mean something within one history only.
    fn belong_to(&self, lineage: &str);

    /// Makes sure that a monitor of this project may write to the topic, and that it is there. Waits for its brokers.
    fn prepare(&self, project: &str, topic: &str) -> Result<(), LogError>;

    /// The newest cut that an output has; `None`: it has none yet.
    fn last_cut(&self, output: &str) -> Result<Option<u64>, LogError>;

    /// Writes the blocks of a cut. After an error it is asked for the last cut again.
    fn write(&self, cut: u64, blocks: &[OutputBlock]) -> Result<(), LogError>;
}
