//! Coordinator, tick log, checkpoints and recovery in a simulated world, stepped by a seeded scheduler.
//!
//! Everything durable is in memory, behind handles that belong to one *life* of the process. The scheduler decides at
//! every step what happens next: a request, a tick, a command, a checkpoint asked for, a job of its writer, a step of the clock,
//! a kill between any two operations on something durable, before or after it took effect, a process that is stopped,
//! replaced, and goes on. The worker is a stand-in that notes what each tick made.
//!
//! What must hold: a tick is emitted once its record is durable, and says the same whoever emits it; a process that was
//! taken over emits nothing and harms nothing; every request that was acknowledged is admitted at one tick, and no body twice.
//!
//! A failing seed is printed; `SIMULATION_SEED` repeats it, `SIMULATION_RUNS` asks for more of them.
#![allow(clippy::unwrap_used)]

mod process;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;
use pyflare_connectors::memory::MemoryCatalog;
use pyflare_connectors::{ContentType, Log, LogRecord, Signal};
use pyflare_operators::streams::StreamDefinition;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::EngineError;
use super::coordinator::Pending;
use super::streams::StreamId;
use crate::time::{CLOCK, Tick};
use process::Process;
use world::{Broken, Handle, World};

const STEPS: usize = 300;

struct Simulation {
    random: SmallRng,
    world: Arc<Mutex<World>>,
    catalog: MemoryCatalog,
    process: Option<Process>,
    /// Stopped, and taken over since.
    stale: Vec<Process>,
    lives: u32,
    clock: Tick,
    bodies: u64,
    steps: BTreeMap<&'static str, u32>,
}

impl Simulation {
    fn new(seed: u64, broken: Option<Broken>) -> Simulation {
        let world = World {
            broken,
            ..World::default()
        };
        Simulation {
            random: SmallRng::seed_from_u64(seed),
            world: Arc::new(Mutex::new(world)),
            catalog: MemoryCatalog::default(),
            process: None,
            stale: Vec::new(),
            lives: 0,
            clock: 1_700_000_000_000,
            bodies: 0,
            steps: BTreeMap::new(),
        }
    }

    /// Starts a process; it may be killed on the way.
    fn start(&mut self) {
        self.lives += 1;
        let handle = Handle {
            world: Arc::clone(&self.world),
            life: self.lives,
        };
        match Process::start(handle.clone(), &self.catalog) {
            Ok(process) => {
                let restored = process.coordinator.gauges.restored.load(Ordering::Relaxed) > 0;
                *self.steps.entry("starts from a checkpoint").or_default() += u32::from(restored);
                self.process = Some(process);
            }
            Err(error) => assert!(
                self.world.lock().dead.contains(&handle.life),
                "a start is refused though nothing was damaged: {error}"
            ),
        }
    }

    fn step(&mut self) {
        CLOCK.set(Some(self.clock));
        let Some(process) = &mut self.process else {
            self.start();
            return;
        };
        if process.is_dead() {
            self.process = None;
            return;
        }
        let name = match self.random.random_range(0..100) {
            0..30 => {
                self.send();
                "requests"
            }
            30..62 => {
                let outcome = process.coordinator.tick(Vec::new());
                assert!(outcome.is_ok() || process.is_dead(), "{:?}", outcome.err());
                "ticks"
            }
            62..70 => {
                self.command();
                "commands"
            }
            70..77 => {
                let (answer, _) = oneshot::channel();
                if let Some(checkpoints) = &mut process.coordinator.checkpoints {
                    checkpoints.ask(answer);
                }
                "checkpoints asked for"
            }
            77..85 => {
                if let Ok(job) = process.jobs.try_recv() {
                    process.writer.finish(job);
                }
                "checkpoints written"
            }
            85..89 => {
                let back = self.random.random_bool(0.2);
                let by = self.random.random_range(1..5_000);
                self.clock = if back { self.clock - by } else { self.clock + by };
                "steps of the clock"
            }
            89..95 => {
                let operations = self.random.random_range(0..12);
                self.world.lock().kill_in = Some((operations, self.random.random_bool(0.5)));
                "kills"
            }
            95..97 => {
                self.stale.extend(self.process.take());
                self.world.lock().kill_in = None;
                self.start();
                "processes taken over"
            }
            _ => {
                self.wake_a_stale_one();
                "stale processes woken"
            }
        };
        self.clock += self.random.random_range(0..150);
        *self.steps.entry(name).or_default() += 1;
    }

    fn send(&mut self) {
        let Some(process) = &self.process else { return };
        for _ in 0..self.random.random_range(1..4) {
            // Some are sent again.
            let repeated = self.bodies > 0 && self.random.random_bool(0.25);
            let body = match repeated {
                true => self.random.random_range(0..self.bodies),
                false => {
                    self.bodies += 1;
                    self.bodies - 1
                }
            };
            let record = LogRecord {
                project: Arc::from("p"),
                signal: Signal::Traces,
                stream: None,
                content_type: ContentType::Protobuf,
                received_us: (self.clock as i64 - self.random.random_range(0..20_000)) * 1_000,
                body_hash: u128::from(body).wrapping_mul(0x9E37_79B9_7F4A_7C15),
                body: Bytes::from(body.to_le_bytes().to_vec()),
            };
            let appending = std::pin::pin!(Log::append(&process.handle, record));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(appending.poll(&mut context).is_ready(), "nothing is waited for");
        }
    }

    /// Declares a stream, or drops it.
    fn command(&mut self) {
        let Some(process) = &mut self.process else { return };
        let coordinator = &mut process.coordinator;
        let mut pending: Vec<Pending> = Vec::new();
        let name = format!("s{}", self.random.random_range(0..3));
        match coordinator.streams.get("p", &name) {
            Some(stream) => {
                let (reply, _) = oneshot::channel();
                pending.push(Pending::DropStream(stream.id, reply));
            }
            None => {
                let (reply, _) = oneshot::channel();
                coordinator.prepare_stream(declared(&name), None, reply, &mut pending);
            }
        }
        let outcome = coordinator.tick(pending);
        assert!(outcome.is_ok() || process.is_dead(), "{:?}", outcome.err());
    }

    /// A process that was taken over can do nothing.
    fn wake_a_stale_one(&mut self) {
        let Some(mut stale) = self.stale.pop() else { return };
        let before = {
            let world = self.world.lock();
            (world.ticks.len(), world.emitted.len())
        };
        while let Ok(job) = stale.jobs.try_recv() {
            stale.writer.finish(job);
        }
        let outcome = stale.coordinator.tick(Vec::new());
        // Fenced at the latest when it wants to log the tick; what it would read may be deleted by then.
        assert!(
            matches!(
                outcome,
                Err(EngineError::TickLog { .. } | EngineError::Log { .. })
            ),
            "a process that was taken over ticks: {outcome:?}"
        );
        let world = self.world.lock();
        assert_eq!(
            before,
            (world.ticks.len(), world.emitted.len()),
            "it left something behind"
        );
    }

    /// Lets everything come to rest and compares what was admitted with what was acknowledged.
    fn finish(&mut self) {
        self.world.lock().kill_in = None;
        while !self.stale.is_empty() {
            self.wake_a_stale_one();
        }
        self.process = None;
        self.start();
        let process = self.process.as_mut().expect("nothing kills it");
        while process.coordinator.admission.has_backlog() {
            process.coordinator.tick(Vec::new()).unwrap();
        }
        let streams: BTreeSet<String> = names(process);
        // Once more, from what is durable.
        self.start();
        let process = self.process.as_ref().expect("nothing kills it");
        assert_eq!(names(process), streams, "streams are there after a restart");
        let world = self.world.lock();
        let (mut offsets, mut bodies) = (BTreeSet::new(), BTreeSet::new());
        for (stream, partition, offset) in world.emitted.values().flatten() {
            let StreamId::Signal(signal) = stream else {
                panic!("no rows of users' streams are sent");
            };
            let place = (*signal, *partition, *offset);
            assert!(offsets.insert(place), "{place:?} is admitted twice");
            assert!(
                bodies.insert(world.bodies[&place]),
                "the body at {place:?} was admitted before"
            );
        }
        for hash in &world.acknowledged {
            assert!(bodies.contains(hash), "{hash:x} was acknowledged and is lost");
        }
        assert!(!bodies.is_empty());
    }
}

fn names(process: &Process) -> BTreeSet<String> {
    let streams = process.coordinator.streams.all();
    streams.iter().map(|stream| stream.name.to_string()).collect()
}

fn declared(name: &str) -> StreamDefinition {
    StreamDefinition {
        project: "p".into(),
        name: name.into(),
        sql: String::new(),
        columns: Vec::new(),
        time: None,
        lateness_us: None,
        retention_us: None,
        description: None,
        topic: None,
    }
}

fn run(seed: u64, broken: Option<Broken>) -> BTreeMap<&'static str, u32> {
    let mut simulation = Simulation::new(seed, broken);
    for _ in 0..STEPS {
        simulation.step();
    }
    simulation.finish();
    simulation.steps
}

#[test]
fn whatever_the_order_of_steps_nothing_is_lost_or_told_twice() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = rand::random::<u32>().into();
            first..first + number("SIMULATION_RUNS").unwrap_or(100)
        }
    };
    let mut steps: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in seeds.clone() {
        // On a thread of its own, as the clock is.
        let ran = std::thread::spawn(move || run(seed, None)).join();
        let Ok(of_seed) = ran else {
            panic!("failed with SIMULATION_SEED={seed}");
        };
        for (name, count) in of_seed {
            *steps.entry(name).or_default() += count;
        }
    }
    println!("seeds {seeds:?}: {steps:?}");
    if seeds.end - seeds.start >= 100 {
        assert!(
            steps.len() >= 10 && steps.values().all(|count| *count > 50),
            "{steps:?}"
        );
    }
}

/// What the simulation is worth: a world that breaks one promise is found out, whichever it is.
#[test]
fn a_broken_promise_is_found() {
    for broken in Broken::ALL {
        let finds = |seed: &u64| {
            let seed = *seed;
            std::thread::spawn(move || run(seed, Some(broken)))
                .join()
                .is_err()
        };
        let found = (0..20).filter(finds).count();
        assert!(found >= 15, "{broken:?} is found by {found} of 20 seeds");
    }
}
