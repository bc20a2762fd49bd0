//! What a checkpoint says besides its state files: where the log stood, and what was installed.
//!
//! One JSON document a checkpoint, behind a line with its checksum, so that any tool can read it and damage is found. A
//! checkpoint exists once its manifest does; the files it names are there before.

use std::collections::BTreeMap;

use pyflare_operators::streams::StreamDefinition;
use serde::{Deserialize, Serialize};

use crate::plan::MonitorDefinition;
use crate::render::leaf::Origin;
use crate::runtime::erasure::Erased;
use crate::runtime::gaps::Gap;
use crate::runtime::limits::StopReason;
use crate::runtime::streams::StreamId;
use crate::runtime::tick_record::PartitionCut;
use crate::time::Tick;

/// Version of the encoding; a manifest of a newer one is refused.
pub(crate) const FORMAT: u32 = 1;

const FOLDER: &str = "manifests/";

/// The state of an engine at the end of a tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub format: u32,
    /// Counts checkpoints for the life of the data directory.
    pub epoch: u64,
    pub generation: u64,
    /// Every update at or before this tick is in it, and none after it.
    pub tick: Tick,
    /// Of the tick's record in the tick log.
    pub position: u64,
    /// BLAKE3 of that record: another history of the same data directory, a copy's or a restored one's, has another one there.
    /// Empty where it is not known.
    #[serde(default)]
    pub record: String,
    /// The newest block that the store had of each stream's table then.
    #[serde(default)]
    pub stored: BTreeMap<String, Tick>,
    pub next_view_id: u64,
    /// The streams' marks before the tick, and after it.
    pub marks_before: Vec<(StreamId, i64)>,
    pub marks: Vec<(StreamId, i64)>,
    /// How far every partition has been admitted.
    pub partitions: Vec<PartitionCut>,
    /// Records that were passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Milliseconds that passed while ticks ran, as the hashes of admitted requests count them.
    pub passed_ms: u64,
    pub counts: Counts,
    /// In the order of their ids.
    pub streams: Vec<StreamEntry>,
    /// What is shared by the views' leaves.
    pub bases: Vec<BaseEntry>,
    /// In the order in which they were installed.
    pub views: Vec<ViewEntry>,
    /// Rows that were taken back, in the order in which that came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erasures: Vec<Erased>,
    /// How keys are encoded, told by examples.
    pub key_encoding: String,
    pub files: Vec<FileEntry>,
}

/// Since when the data directory was new.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub requests: u64,
    pub duplicates: u64,
    pub orphaned: u64,
    pub rejected_rows: u64,
    pub failed_requests: u64,
    pub admitted_bytes: u64,
    /// By signal.
    pub rows: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamEntry {
    pub id: u64,
    pub definition: StreamDefinition,
    pub created_at: Tick,
    pub admitted: u64,
    pub rejected: u64,
    pub future: u64,
    #[serde(default)]
    pub unreadable: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BaseEntry {
    /// Its number in state files.
    pub id: i32,
    pub origin: Origin,
    /// What its accumulators are made of; state of other ones cannot be read.
    pub cells: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ViewEntry {
    pub id: u64,
    pub definition: MonitorDefinition,
    /// It has every row admitted after this tick.
    pub start: Tick,
    pub installed_at: Tick,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Tick>,
    /// The views it reads, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<u64>,
    /// The base of each of its leaves, by number; none of a view that is stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<i32>,
    /// Panes that end at or before this, microseconds, had ended when it was installed.
    pub ended: i64,
    /// Since which tick it is stopped, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<(Tick, StopReason)>,
    pub changes: u64,
    pub late_rows: u64,
    pub error_rows: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_sample: Option<String>,
}

/// A file that the checkpoint needs; it may have been written for an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    pub name: String,
    pub kind: FileKind,
    /// The checkpoint it was written for. What a later file says of a pane takes the place of what an earlier one says.
    pub epoch: u64,
    pub bytes: u64,
    pub rows: u64,
    /// BLAKE3 of the content, hexadecimal.
    pub checksum: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileKind {
    /// Groups of bases and entries of companions.
    State,
    /// Hashes of admitted requests.
    Admitted,
}

/// Whether a checkpoint's file is the one that names the others.
pub fn is_checkpoint_manifest(name: &str) -> bool {
    Manifest::epoch_of(name).is_some()
}

impl Manifest {
    /// The name of its file; of two with one epoch only one can be created.
    pub fn name(&self) -> String {
        format!("{FOLDER}{:020}.json", self.epoch)
    }

    /// The epoch in a manifest's name, if it is one.
    pub fn epoch_of(name: &str) -> Option<u64> {
        name.strip_prefix(FOLDER)?.strip_suffix(".json")?.parse().ok()
    }

    pub fn encode(&self) -> Vec<u8> {
        let body = serde_json::to_vec(self).expect("invariant: manifests have text keys only");
        let mut content = format!("{{\"blake3\":\"{}\"}}\n", blake3::hash(&body).to_hex()).into_bytes();
        content.extend_from_slice(&body);
        content
    }

    pub fn decode(content: &[u8]) -> Result<Manifest, String> {
        let end = content.iter().position(|byte| *byte == b'\n');
        let (first, body) = content.split_at(end.ok_or("it has no line with a checksum")? + 1);
        let expected = format!("{{\"blake3\":\"{}\"}}\n", blake3::hash(body).to_hex());
        if first != expected.as_bytes() {
            return Err("its checksum is another one".into());
        }
        let manifest: Manifest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        match manifest.format {
            FORMAT => Ok(manifest),
            newer => Err(format!(
                "its format {newer} is not {FORMAT}; use the version of pyflare that wrote it"
            )),
        }
    }

    /// Bytes of everything it needs, itself left out.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub fn example(epoch: u64) -> Manifest {
        Manifest {
            format: FORMAT,
            epoch,
            generation: 2,
            tick: 1_000 * epoch,
            position: 10 * epoch,
            record: "cd".into(),
            stored: BTreeMap::from([("spans".into(), 4)]),
            next_view_id: 7,
            marks_before: vec![(StreamId::User(3), 5)],
            marks: vec![(StreamId::User(3), 6)],
            partitions: Vec::new(),
            gaps: Vec::new(),
            passed_ms: 0,
            counts: Counts::default(),
            streams: Vec::new(),
            bases: Vec::new(),
            views: Vec::new(),
            erasures: Vec::new(),
            key_encoding: "x".into(),
            files: vec![FileEntry {
                name: format!("state/{epoch}-2/0-0.parquet"),
                kind: FileKind::State,
                epoch,
                bytes: 9,
                rows: 1,
                checksum: "ab".into(),
            }],
        }
    }

    #[test]
    fn it_comes_back_and_any_flipped_bit_is_noticed() {
        let manifest = example(4);
        let content = manifest.encode();
        assert_eq!(Manifest::decode(&content).unwrap(), manifest);
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 4;
            assert!(Manifest::decode(&damaged).is_err(), "byte {at}");
            assert!(Manifest::decode(&content[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(Manifest::epoch_of(&manifest.name()), Some(4));
        assert_eq!(Manifest::epoch_of("state/4.json"), None);
    }
}
