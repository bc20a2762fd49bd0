//! Fail points and planted faults: places at which a process can be told to die or to break a promise.
//!
//! `PYFLARE_FAULTS=tick-written:3` kills the process, as `kill -9` does, when it comes to that step for the third time;
//! `PYFLARE_FAULTS=offsets-dropped:20` breaks a promise once, at the twentieth opportunity. Several are separated by
//! commas, and a name alone means the first time. This is how it is shown that no step of the protocols loses or doubles
//! anything, and that the tests would see it if one did.
//!
//! Invariants: without that variable nothing ever happens, at the price of one relaxed load of a flag that is never
//! written; the points are passed once per request, tick or file, never per row; who arms something says so at the start.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The environment variable that arms them.
pub const VARIABLE: &str = "PYFLARE_FAULTS";

macro_rules! points {
    ($(#[$about:meta])* $kind:ident { $($(#[$meaning:meta])* $point:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind { $($(#[$meaning])* $point,)* }

        impl $kind {
            pub const ALL: &[$kind] = &[$($kind::$point,)*];

            pub fn name(self) -> &'static str {
                match self { $($kind::$point => $name,)* }
            }
        }
    };
}

points! {
    /// A step of a protocol, at which a process can be killed.
    Step {
        /// Requests wait for a group commit; nothing is written.
        LogAppend = "log-append",
        /// They are written and not yet durable.
        LogWritten = "log-written",
        /// They are durable, and nobody has been told.
        LogSynced = "log-synced",
        /// A record is about to be produced to Kafka.
        KafkaProduce = "kafka-produce",
        /// Kafka has acknowledged it, and the sender has not been told.
        KafkaAcknowledged = "kafka-acknowledged",
        /// A tick is decided and its rows are decoded; its record is not written.
        TickAppend = "tick-append",
        /// The record is written and not yet durable.
        TickWritten = "tick-written",
        /// The record is durable, and nothing of the tick has been told.
        TickSynced = "tick-synced",
        /// All workers have applied the tick.
        TickEmitted = "tick-emitted",
        /// A change of the catalog is about to be written.
        CatalogAppend = "catalog-append",
        /// It is written and not yet durable.
        CatalogWritten = "catalog-written",
        /// It is durable.
        CatalogSynced = "catalog-synced",
        /// A cut is known and its block is about to be written to the store.
        FlushBegun = "flush-begun",
        /// The block's rows are in the store, which does not count them yet.
        BlockWritten = "block-written",
        /// The store has recorded the cut.
        BlockRecorded = "block-recorded",
        /// A checkpoint's state file is durable.
        CheckpointState = "checkpoint-state",
        /// Everything of a checkpoint is there but its manifest.
        CheckpointUnnamed = "checkpoint-unnamed",
        /// The manifest is durable; what it makes superfluous is still there.
        CheckpointComplete = "checkpoint-complete",
        /// A file of an older checkpoint is deleted.
        CheckpointCollected = "checkpoint-collected",
        /// A partition of the log is trimmed; others and the tick log are not.
        LogTrimmed = "log-trimmed",
        /// The tick log is trimmed too.
        TicksTrimmed = "ticks-trimmed",
        /// The wish for an erasure is durable and not acknowledged yet.
        ErasureAsked = "erasure-asked",
        /// One table of the store is without the rows of an erasure.
        ErasureRemoved = "erasure-removed",
        /// A start has begun a new generation.
        GenerationBegun = "generation-begun",
        /// A start has read the state of a checkpoint.
        Restored = "restored",
        /// A start has replayed the tick log and takes nothing new yet.
        Replayed = "replayed",
    }
}

points! {
    /// A promise that can be broken, once.
    Fault {
        /// Requests are acknowledged and lost with the power a moment later, as if they had not been synced.
        LogSyncSkipped = "log-sync-skipped",
        /// What a tick takes of a partition is passed over.
        OffsetsDropped = "offsets-dropped",
        /// A tick with rows is told and never recorded, and the process dies a moment later.
        TickRecordLost = "tick-record-lost",
        /// A stream's block is written to the store under another cut as well.
        BlockRepeated = "block-repeated",
        /// A checkpoint leaves out a portion of the state.
        StateLost = "state-lost",
        /// A start forgets the hashes of admitted requests.
        HashesForgotten = "hashes-forgotten",
        /// A subscriber is not told what changed at a tick.
        FrameDropped = "frame-dropped",
        /// A base on one worker is not told what an erasure takes from it.
        ErasureForgotten = "erasure-forgotten",
    }
}

const POINTS: usize = Step::ALL.len() + Fault::ALL.len();

static ARMED: AtomicBool = AtomicBool::new(false);
/// At which time each takes effect; 0: never.
static DUE: [AtomicU64; POINTS] = [const { AtomicU64::new(0) }; POINTS];
static REACHED: [AtomicU64; POINTS] = [const { AtomicU64::new(0) }; POINTS];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultsError {
    #[error(
        "PF-6080: {VARIABLE} names {name:?}, which is neither a fail point ({steps}) nor a planted fault ({faults}); \
         it is for tests: unset it"
    )]
    Unknown {
        name: String,
        steps: String,
        faults: String,
    },
    #[error(
        "PF-6081: {VARIABLE} has {text:?}, which is not a name with the time at which it takes effect, such as tick-written:3"
    )]
    Times { text: String },
}

/// Arms what `text` says; nothing is armed if a part of it is not understood.
pub fn arm(text: &str) -> Result<(), FaultsError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parsed = parts.map(parse).collect::<Result<Vec<_>, _>>()?;
    for (point, times) in &parsed {
        DUE[*point].store(*times, Ordering::Relaxed);
    }
    ARMED.store(!parsed.is_empty(), Ordering::Release);
    Ok(())
}

fn parse(part: &str) -> Result<(usize, u64), FaultsError> {
    let (name, times) = part.split_once(':').unwrap_or((part, "1"));
    let times = times
        .parse()
        .ok()
        .filter(|times| *times > 0)
        .ok_or_else(|| FaultsError::Times { text: part.into() })?;
    let steps = Step::ALL.iter().map(|step| step.name());
    let faults = Fault::ALL.iter().map(|fault| fault.name());
    match steps
        .clone()
        .chain(faults.clone())
        .position(|known| known == name)
    {
        Some(point) => Ok((point, times)),
        None => Err(FaultsError::Unknown {
            name: name.into(),
            steps: steps.collect::<Vec<_>>().join(", "),
            faults: faults.collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Here the process ends if it is told to.
#[inline]
pub fn at(step: Step) {
    if ARMED.load(Ordering::Relaxed) && is_due(step as usize) {
        die(step.name());
    }
}

/// Whether this promise is to be broken now.
#[inline]
pub fn planted(fault: Fault) -> bool {
    let due = ARMED.load(Ordering::Relaxed) && is_due(Step::ALL.len() + fault as usize);
    if due {
        say(&format!("planted fault {}: done", fault.name()));
    }
    due
}

#[cold]
fn is_due(point: usize) -> bool {
    let due = DUE[point].load(Ordering::Relaxed);
    due > 0 && REACHED[point].fetch_add(1, Ordering::Relaxed) + 1 == due
}

/// Ends the process as `kill -9` does: nothing is finished, nothing is cleaned up.
pub fn die(name: &str) -> ! {
    say(&format!("fail point {name}: the process ends here"));
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal was refused, which no system does to a process' own.
    std::process::abort()
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_armed_happens_once_and_what_is_not_understood_arms_nothing() {
        assert!(!planted(Fault::FrameDropped));
        let unknown = arm("frame-dropped, tick-wirtten").unwrap_err().to_string();
        assert!(unknown.starts_with("PF-6080"), "{unknown}");
        assert!(unknown.contains("\"tick-wirtten\"") && unknown.contains("tick-written"));
        for wrong in ["frame-dropped:0", "frame-dropped:x", "frame-dropped:"] {
            assert!(arm(wrong).unwrap_err().to_string().starts_with("PF-6081"));
        }
        assert!(!planted(Fault::FrameDropped));
        arm("frame-dropped:3, state-lost").unwrap();
        let happened: Vec<bool> = (0..5).map(|_| planted(Fault::FrameDropped)).collect();
        assert_eq!(happened, [false, false, true, false, false]);
        assert!(planted(Fault::StateLost) && !planted(Fault::StateLost) && !planted(Fault::BlockRepeated));
        at(Step::TickWritten);
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<&str> = Step::ALL.iter().map(|step| step.name()).collect();
        names.extend(Fault::ALL.iter().map(|fault| fault.name()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS);
    }
}
