//! What a tick says, as it is written to the tick log before anything of the tick is emitted.
//!
//! Replaying the records with the log gives the same admissions at the same ticks, so every view, frame and sink
//! block comes out the same. The encoding is JSON, one object a record, so that it can be read with any tool.

use pyflare_operators::streams::StreamDefinition;
use serde::{Deserialize, Serialize};

use super::erasure::Request;
use super::gaps::Gap;
use super::limits::StopReason;
use super::streams::StreamId;
use crate::plan::MonitorDefinition;
use crate::time::{PartitionMark, Tick};

/// Version of the encoding; a record of a newer one is refused.
pub(crate) const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TickRecord {
    #[serde(rename = "v")]
    pub format: u32,
    pub generation: u64,
    pub tick: Tick,
    /// Partitions that advanced or whose mark changed at this tick.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionCut>,
    /// The streams' marks after this tick, for those that have one: (stream, microseconds).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<(StreamId, i64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Command>,
    /// Records that are passed over, found at this tick or while the ticks before it were replayed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// How far a partition has been admitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionCut {
    /// Of a signal's topic, or of the topic that a user's stream has of its own.
    #[serde(rename = "signal")]
    pub source: StreamId,
    pub partition: u32,
    /// Where reading began, in the first cut of a partition whose log no longer had its beginning then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_offset: Option<u64>,
    /// All records below this offset are admitted at this tick or before.
    pub next_offset: u64,
    #[serde(flatten)]
    pub mark: PartitionMark,
    /// Of the partitions that users' streams share: the mark of each stream that had rows at this tick.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<(u64, PartitionMark)>,
}

/// What changes results apart from rows; applied by all workers after the tick's rows, in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    /// The view takes every row admitted after this tick. Its id is unique for the life of the data directory.
    Install {
        id: u64,
        definition: Box<MonitorDefinition>,
        /// Where it begins in the past: it has the rows admitted after this tick. Then no row is admitted at the tick of
        /// its installation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Tick>,
    },
    Drop {
        id: u64,
    },
    /// Requests of the stream that are admitted after this tick are read by this declaration. Ids of streams are as
    /// unique as those of views.
    CreateStream {
        id: u64,
        definition: Box<StreamDefinition>,
        /// Of a stream with a topic of its own: the offset of each partition at which reading begins.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        starts: Vec<u64>,
    },
    DropStream {
        id: u64,
    },
    /// The view has exceeded a limit: its content is taken back and it takes nothing more.
    Stop {
        id: u64,
        reason: StopReason,
        /// The tick before, if its graph was aborted at that: then nothing of that tick is in the view.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        aborted_at: Option<Tick>,
    },
    /// Rows admitted before are taken back from every base that had begun by then; `rows` of them were found. What the store
    /// has of the views in `let_go` begins anew.
    Erase {
        request: Box<Request>,
        rows: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        let_go: Vec<u64>,
    },
    /// The store has none of an erasure's rows any more.
    EraseDone {
        id: u64,
    },
    /// Sinks write what they hold up to this tick as one block.
    FlushCut,
}

impl TickRecord {
    /// Whether a payload may say something of gaps; most need not be read for them.
    pub fn may_have_gaps(payload: &[u8]) -> bool {
        let word = b"\"gaps\"";
        payload.windows(word.len()).any(|part| part == word)
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("invariant: tick records have text keys only")
    }

    pub fn decode(payload: &[u8]) -> Result<TickRecord, String> {
        let record: TickRecord = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        match record.format {
            FORMAT => Ok(record),
            newer => Err(format!(
                "its format {newer} is not {FORMAT}; use the version of pyflare that wrote it"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pyflare_connectors::Signal;

    use super::*;
    use crate::runtime::erasure::{ErasureBy, ErasureSubject};
    use crate::runtime::limits::Limit;

    #[test]
    fn a_record_survives_encoding() {
        let record = TickRecord {
            format: FORMAT,
            generation: 3,
            tick: 1_700_000_000_000,
            partitions: vec![
                PartitionCut {
                    source: StreamId::Signal(Signal::Traces),
                    partition: 0,
                    first_offset: Some(3),
                    next_offset: 17,
                    mark: PartitionMark {
                        mark_us: Some(5),
                        last_row_tick: Some(1_700_000_000_000),
                    },
                    streams: vec![(9, PartitionMark::default())],
                },
                PartitionCut {
                    source: StreamId::User(12),
                    partition: 2,
                    first_offset: None,
                    next_offset: 5,
                    mark: PartitionMark::default(),
                    streams: Vec::new(),
                },
            ],
            marks: vec![(StreamId::Signal(Signal::Traces), 5), (StreamId::User(9), 7)],
            commands: vec![
                Command::FlushCut,
                Command::Drop { id: 4 },
                Command::Erase {
                    request: Box::new(Request {
                        id: 6,
                        subject: ErasureSubject {
                            project: "p".into(),
                            by: ErasureBy::User,
                            values: vec!["u".into()],
                        },
                        until: 1_699_999_999_900,
                        asked_at: 1_700_000_000_001,
                    }),
                    rows: 3,
                    let_go: vec![2],
                },
                Command::EraseDone { id: 6 },
                Command::Stop {
                    id: 5,
                    reason: StopReason {
                        limit: Limit::MaxTickRows,
                        most: 7,
                    },
                    aborted_at: Some(1_699_999_999_900),
                },
            ],
            gaps: vec![Gap {
                source: StreamId::User(12),
                partition: 2,
                from: 3,
                to: 5,
                found_at: 1_700_000_000_000,
            }],
        };
        assert_eq!(TickRecord::decode(&record.encode()).unwrap(), record);
        assert!(TickRecord::may_have_gaps(&record.encode()));
        let without = TickRecord {
            gaps: Vec::new(),
            ..record
        };
        assert!(!TickRecord::may_have_gaps(&without.encode()));
    }

    #[test]
    fn a_newer_format_is_refused() {
        assert!(
            TickRecord::decode(br#"{"v":99,"generation":1,"tick":1}"#)
                .unwrap_err()
                .contains("format 99")
        );
    }
}
