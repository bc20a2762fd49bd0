//! Whether an engine could start from what lies somewhere, found without starting one.

use std::collections::BTreeMap;

use pyflare_connectors::{CheckpointStore, Signal, TickLog};

use super::EngineError;
use super::checkpoint::{self, TicksFound};
use super::streams::StreamId;
use super::tick_record::{PartitionCut, TickRecord};
use crate::time::Tick;

/// What a start would find.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Records of the tick log, and the tick of the last.
    pub ticks: u64,
    pub last_tick: Option<Tick>,
    /// Checkpoints that are whole, by the tick at which they stand, with their bytes.
    pub checkpoints: Vec<(Tick, u64)>,
    /// The tick of the checkpoint that a start would take; `None`: it would replay everything.
    pub begins_at: Option<Tick>,
    /// From which offset on and up to which a start would read each partition of the log.
    pub needed: BTreeMap<(Signal, u32), (u64, u64)>,
    /// What a start would warn of.
    pub warnings: Vec<String>,
    /// What would stop it.
    pub faults: Vec<String>,
}

/// Reads all tick records and all files of checkpoints.
pub fn verify(
    tick_log: &dyn TickLog,
    checkpoints: Option<&dyn CheckpointStore>,
) -> Result<Verification, EngineError> {
    let mut found = Verification::default();
    let mut records: Vec<(u64, TickRecord)> = Vec::new();
    let mut digests = BTreeMap::new();
    let mut faults = Vec::new();
    let read = tick_log.read(&mut |position, payload| {
        digests.insert(position, checkpoint::digest(payload));
        match TickRecord::decode(payload) {
            Ok(record) => records.push((position, record)),
            Err(detail) => faults.push(format!("record {position} of the tick log: {detail}")),
        }
        Ok(())
    });
    if let Err(error) = read {
        faults.push(error.to_string());
    }
    found.faults = faults;
    found.ticks = records.len() as u64;
    found.last_tick = records.last().map(|(_, record)| record.tick);
    for pair in records.windows(2) {
        if pair[1].1.tick <= pair[0].1.tick {
            found.faults.push(format!(
                "record {} of the tick log has tick {}, after {}",
                pair[1].0, pair[1].1.tick, pair[0].1.tick
            ));
        }
    }
    let ticks = match (records.first(), records.last()) {
        (Some(first), Some(last)) => Some(TicksFound {
            first: (first.0, first.1.tick),
            last: (last.0, last.1.tick),
        }),
        _ => None,
    };
    let begin = checkpoint::inspect(checkpoints, ticks, &|position| digests.get(&position).cloned())?;
    found.checkpoints = begin.whole;
    found.warnings = begin.damaged;
    found.faults.extend(begin.stop);
    let restored = begin.restored;
    found.begins_at = restored.as_ref().map(|manifest| manifest.tick);
    let from = restored.as_ref().map(|manifest| manifest.position);
    // Topics that others write are theirs.
    let own = |cut: &PartitionCut| match cut.source {
        StreamId::Signal(signal) => Some((signal, cut.partition)),
        StreamId::User(_) => None,
    };
    for cut in restored.iter().flat_map(|manifest| &manifest.partitions) {
        let Some(of) = own(cut) else { continue };
        found.needed.insert(of, (cut.next_offset, cut.next_offset));
    }
    let replayed = records
        .iter()
        .filter(|(position, _)| from.is_none_or(|from| *position > from));
    for cut in replayed.flat_map(|(_, record)| &record.partitions) {
        let Some(of) = own(cut) else { continue };
        let needed = found
            .needed
            .entry(of)
            .or_insert((cut.first_offset.unwrap_or(0), cut.next_offset));
        needed.1 = needed.1.max(cut.next_offset);
    }
    Ok(found)
}
