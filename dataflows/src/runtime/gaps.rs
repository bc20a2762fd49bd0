//! Records that a topic no longer had when they were to be read, and that were passed over because somebody said so.
//!
//! A gap is part of the record of the tick after it was found. A replay knows the gaps of all records before it reads the
//! first, so it passes over the same offsets whether it may find gaps of its own or not.

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::streams::StreamId;
use crate::time::Tick;

/// Offsets `from..to` of a partition that nobody will ever read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gap {
    /// Of a signal's topic, or of the topic that a user's stream has of its own.
    #[serde(rename = "signal")]
    pub source: StreamId,
    pub partition: u32,
    pub from: u64,
    pub to: u64,
    /// The tick at which it was found.
    pub found_at: Tick,
}

/// All that are known, in the order in which they were found.
#[derive(Default)]
pub(crate) struct Gaps(RwLock<Vec<Gap>>);

impl Gaps {
    pub fn add(&self, gaps: impl IntoIterator<Item = Gap>) {
        let mut known = self.0.write();
        for gap in gaps {
            if !known.contains(&gap) {
                known.push(gap);
            }
        }
    }

    pub fn all(&self) -> Vec<Gap> {
        self.0.read().clone()
    }

    /// Where reading goes on if an offset lies in a gap.
    pub fn behind(&self, source: StreamId, partition: u32, offset: u64) -> Option<u64> {
        let known = self.0.read();
        let of_partition = known
            .iter()
            .filter(|gap| gap.source == source && gap.partition == partition);
        of_partition
            .filter(|gap| (gap.from..gap.to).contains(&offset))
            .map(|gap| gap.to)
            .max()
    }
}

/// A gap, for those who ask.
#[derive(Debug, Clone)]
pub struct GapFigures {
    /// Whose stream it is; `None`: the records of all projects.
    pub project: Option<String>,
    pub topic: String,
    pub partition: u32,
    pub from: u64,
    pub to: u64,
    pub found_at: Tick,
}

impl Engine {
    /// Records that were passed over because their topic no longer had them. Those of streams that are dropped are
    /// left out.
    pub fn gaps(&self) -> Vec<GapFigures> {
        let figures = |gap: Gap| {
            let (project, topic) = match gap.source {
                StreamId::Signal(signal) => (None, signal.topic().to_string()),
                StreamId::User(id) => {
                    let stream = self.shared.streams.by_id(id)?;
                    (stream.name.project.clone(), stream.topic_name()?)
                }
            };
            Some(GapFigures {
                project,
                topic,
                partition: gap.partition,
                from: gap.from,
                to: gap.to,
                found_at: gap.found_at,
            })
        };
        self.shared.gaps.all().into_iter().filter_map(figures).collect()
    }
}
