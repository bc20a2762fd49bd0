//! Everything durable, in memory, behind handles that belong to one life of the process.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{
    Appended, CheckpointError, CheckpointStore, Log, LogError, LogRecord, Signal, TickLog, TickLogError,
    VisitPayload,
};

use crate::runtime::streams::StreamId;
use crate::time::Tick;

pub(super) const PARTITIONS: u32 = 2;

/// What a tick made: the offsets that it admitted, by stream and partition.
pub(super) type Made = Vec<(StreamId, u32, u64)>;

/// A promise of the world that it breaks, now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// A request is acknowledged and is not in the log.
    Acknowledged,
    /// A tick is said to be durable and is not in the tick log.
    Durable,
    /// Who was taken over may go on.
    Fenced,
    /// A trim takes all there is.
    Trimmed,
}

impl Broken {
    pub(super) const ALL: [Broken; 4] = [
        Broken::Acknowledged,
        Broken::Durable,
        Broken::Fenced,
        Broken::Trimmed,
    ];
}

/// A promise is broken once in so many times.
const BROKEN_EVERY: u64 = 7;

/// Everything that outlives a process.
#[derive(Default)]
pub(super) struct World {
    pub(super) log: HashMap<(Signal, u32), Partition>,
    /// The hashes of bodies whose senders were told that they are durable.
    pub(super) acknowledged: BTreeSet<u128>,
    /// The hash of every body that was ever durable.
    pub(super) bodies: BTreeMap<(Signal, u32, u64), u128>,
    pub(super) ticks: Vec<(u64, Vec<u8>)>,
    pub(super) next_position: u64,
    pub(super) generation: u64,
    pub(super) checkpoints: BTreeMap<String, Vec<u8>>,
    /// What was emitted at each tick, by whomever.
    pub(super) emitted: BTreeMap<Tick, Made>,
    pub(super) dead: HashSet<u32>,
    /// After so many operations the life that does the next one is killed: before it took effect, or after.
    pub(super) kill_in: Option<(u32, bool)>,
    pub(super) broken: Option<Broken>,
    /// How often it could have been broken.
    pub(super) asked: u64,
}

impl World {
    /// Whether this promise is broken now.
    fn breaks(&mut self, promise: Broken) -> bool {
        if self.broken != Some(promise) {
            return false;
        }
        self.asked += 1;
        // A process asks for some only once.
        matches!(promise, Broken::Fenced | Broken::Trimmed) || self.asked.is_multiple_of(BROKEN_EVERY)
    }
}

#[derive(Default)]
pub(super) struct Partition {
    pub(super) first: u64,
    pub(super) records: Vec<LogRecord>,
}

impl Partition {
    pub(super) fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }
}

/// The world as one life of the process sees it.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) life: u32,
}

impl Handle {
    /// Does something durable, unless this life has ended; `Err`: it ends with this.
    fn durably<T>(&self, action: impl FnOnce(&mut World) -> T) -> Result<T, ()> {
        let mut world = self.world.lock();
        if world.dead.contains(&self.life) {
            return Err(());
        }
        match &mut world.kill_in {
            Some((0, takes_effect)) => {
                let takes_effect = *takes_effect;
                world.kill_in = None;
                world.dead.insert(self.life);
                if takes_effect {
                    action(&mut world);
                }
                Err(())
            }
            Some((operations, _)) => {
                *operations -= 1;
                Ok(action(&mut world))
            }
            None => Ok(action(&mut world)),
        }
    }
}

#[async_trait::async_trait]
impl Log for Handle {
    fn partitions(&self, _signal: Signal) -> u32 {
        PARTITIONS
    }

    async fn append(&self, record: LogRecord) -> Result<Appended, LogError> {
        let (signal, hash) = (record.signal, record.body_hash);
        let partition = (record.body_hash % u128::from(PARTITIONS)) as u32;
        let appended = self.durably(|world| {
            let is_lost = world.breaks(Broken::Acknowledged);
            let held = world.log.entry((signal, partition)).or_default();
            held.records.push(record);
            let offset = held.end() - 1;
            if is_lost && let Some(held) = world.log.get_mut(&(signal, partition)) {
                held.records.pop();
            }
            world.bodies.insert((signal, partition, offset), hash);
            offset
        });
        let offset = appended.map_err(|()| LogError::Closed)?;
        self.world.lock().acknowledged.insert(hash);
        Ok(Appended { partition, offset })
    }

    fn end_offset(&self, signal: Signal, partition: u32) -> u64 {
        let world = self.world.lock();
        world.log.get(&(signal, partition)).map_or(0, Partition::end)
    }

    fn read(
        &self,
        signal: Signal,
        partition: u32,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        let world = self.world.lock();
        let Some(held) = world.log.get(&(signal, partition)) else {
            return Ok(Vec::new());
        };
        if offset < held.first {
            return Err(LogError::Trimmed {
                topic: signal.topic().into(),
                partition,
                offset,
                first: held.first,
            });
        }
        let records = held.records.iter().skip((offset - held.first) as usize);
        let numbered = (offset..).zip(records.cloned());
        Ok(numbered.take(max_bytes.div_ceil(64)).collect())
    }

    fn on_append(&self, _listener: AppendListener) {}

    fn usage(&self) -> Option<(u64, u64)> {
        None
    }

    fn trim(&self, signal: Signal, partition: u32, offset: u64) -> Result<(), LogError> {
        let trimmed = self.durably(|world| {
            let takes_all = world.breaks(Broken::Trimmed);
            if let Some(held) = world.log.get_mut(&(signal, partition)) {
                let gone = offset.saturating_sub(held.first).min(held.records.len() as u64);
                let gone = if takes_all {
                    held.records.len() as u64
                } else {
                    gone
                };
                held.records.drain(..gone as usize);
                held.first += gone;
            }
        });
        trimmed.map_err(|()| LogError::Closed)
    }
}

pub(super) fn dead_ticks() -> TickLogError {
    TickLogError::Io {
        path: "ticks".into(),
        detail: "killed".into(),
    }
}

impl TickLog for Handle {
    fn open_generation(&self) -> Result<u64, TickLogError> {
        let opened = self.durably(|world| {
            world.generation += 1;
            world.generation
        });
        opened.map_err(|()| dead_ticks())
    }

    fn append(&self, generation: u64, payload: &[u8]) -> Result<u64, TickLogError> {
        self.check_generation(generation)?;
        let appended = self.durably(|world| {
            let position = world.next_position;
            if !world.breaks(Broken::Durable) {
                world.ticks.push((position, payload.to_vec()));
                world.next_position += 1;
            }
            position
        });
        appended.map_err(|()| dead_ticks())
    }

    fn read(&self, visit: &mut VisitPayload<'_>) -> Result<(), TickLogError> {
        let ticks = self.world.lock().ticks.clone();
        ticks
            .iter()
            .try_for_each(|(position, payload)| visit(*position, payload))
    }

    fn check_generation(&self, generation: u64) -> Result<(), TickLogError> {
        let mut world = self.world.lock();
        let newer = world.generation;
        match newer == generation || world.breaks(Broken::Fenced) {
            true => Ok(()),
            false => Err(TickLogError::Fenced {
                own: generation,
                newer,
            }),
        }
    }

    fn trim(&self, generation: u64, before: u64) -> Result<(), TickLogError> {
        self.check_generation(generation)?;
        let trimmed = self.durably(|world| {
            // Some of what may go stays, as in files.
            let keep = before.saturating_sub(before % 3);
            world.ticks.retain(|(position, _)| *position >= keep);
        });
        trimmed.map_err(|()| dead_ticks())
    }

    fn is_new(&self) -> Result<bool, TickLogError> {
        Ok(self.world.lock().generation == 0)
    }
}

pub(super) fn dead_checkpoints() -> CheckpointError {
    CheckpointError::Io {
        path: "checkpoints".into(),
        detail: "killed".into(),
    }
}

impl CheckpointStore for Handle {
    fn create(&self, name: &str, content: &[u8]) -> Result<bool, CheckpointError> {
        let created = self.durably(|world| match world.checkpoints.contains_key(name) {
            true => false,
            false => world.checkpoints.insert(name.into(), content.to_vec()).is_none(),
        });
        created.map_err(|()| dead_checkpoints())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        Ok(self.world.lock().checkpoints.get(name).cloned())
    }

    fn list(&self) -> Result<Vec<(String, u64)>, CheckpointError> {
        let world = self.world.lock();
        let files = world.checkpoints.iter();
        Ok(files
            .map(|(name, content)| (name.clone(), content.len() as u64))
            .collect())
    }

    fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        let deleted = self.durably(|world| drop(world.checkpoints.remove(name)));
        deleted.map_err(|()| dead_checkpoints())
    }
}
