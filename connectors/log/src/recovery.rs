//! What the last segment of a partition holds after a crash.
//!
//! The rule: walk the records; at the first place where none stands, look further. If a record of a *later*
//! commit is found, the bad place had been durable and the segment is damaged (PF-2004). If not, the bad place
//! belongs to a commit that nobody was told about, and the segment is cut there.
//!
//! A damaged last commit looks like a torn one: nothing in the segment can tell them apart. The tick log can,
//! since it never names an offset that was not durable; the engine compares the two at start. Until then nothing
//! is changed: the first append cuts the segment and begins another, so that a refused start leaves what may be repaired.

use std::path::Path;

use pyflare_connectors::LogError;

use crate::reader::{Found, SegmentReader};
use crate::segment::{FIRST_RECORD, SegmentHeader, corrupt};
use crate::tail::SparseIndex;

pub(crate) struct Recovered {
    pub header: SegmentHeader,
    /// End of the records.
    pub position: u64,
    /// End of the file: what lies behind the records is torn or unused.
    pub length: u64,
    pub next_offset: u64,
    pub index: SparseIndex,
}

/// Checks every record of the segment and says where its torn tail begins.
pub(crate) fn recover_last(path: &Path) -> Result<Recovered, LogError> {
    let mut reader = SegmentReader::open(path, None, 8 << 20)?;
    let header = reader.header;
    let (mut position, mut next_offset) = (FIRST_RECORD, header.first_offset);
    let mut index = SparseIndex::default();
    let why = loop {
        match reader.at(position)? {
            Found::Record { header, next, .. } if header.offset == next_offset => {
                index.note(next_offset, position);
                (position, next_offset) = (next, next_offset + 1);
            }
            Found::Record { .. } => break "a record with another offset stands here",
            Found::Nothing { why } => break why,
        }
    };
    if let Some(later) = reader.later_commit(position)? {
        let detail = format!("{why}, but records of a later commit follow at byte {later}");
        return Err(corrupt(path, position, detail));
    }
    Ok(Recovered {
        header,
        position,
        length: reader.limit(),
        next_offset,
        index,
    })
}
