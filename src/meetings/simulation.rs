//! Thirty days of rooms in virtual time: the real decisions and the real books of owners against a Postgres in memory, while
//! nodes die, answers are lost and rules change. What must hold is told from the events alone ([`check`]).
//!
//! `PLENUM_SIMULATION_ROOMS` says how many rooms, `PLENUM_SIMULATION_SEED` which world. A seed that found something is a line of
//! `simulation/seeds.txt`, and is run always.

mod check;
mod log;
mod run;
mod script;
mod world;

use std::{
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use chrono::{DateTime, TimeDelta, Utc};

use self::{
    run::{Figures, Hazards, Run},
    script::Script,
    world::World,
};

const DAYS: u32 = 30;
/// The world, where the environment names no other: a check of a change has the same outcome each time.
const SEED: u64 = 3;
/// Rooms, where the environment says nothing.
const ROOMS: u64 = 200;

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_900_000_000, 0).unwrap()
}

fn simulate(seed: u64, room: u64, world: &World) -> Figures {
    let script = Script::new(seed, room, start(), DAYS);
    let hazards = Hazards {
        transaction: 0.02,
        latency: 20,
    };
    Run::new(&script, world, hazards, seed ^ room.rotate_left(32)).run(|_| {})
}

fn world(seed: u64) -> World {
    World::new(seed, start(), start() + TimeDelta::days(DAYS.into()))
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

#[test]
fn nothing_is_early_lost_or_done_twice() {
    let seed = setting("PLENUM_SIMULATION_SEED").unwrap_or(SEED);
    let rooms = setting("PLENUM_SIMULATION_ROOMS").unwrap_or(ROOMS);
    println!("PLENUM_SIMULATION_SEED={seed}, {rooms} rooms, {DAYS} days");
    let (world, next, all) = (
        world(seed),
        AtomicU64::new(0),
        Mutex::new(Figures::default()),
    );
    let work = || loop {
        let room = next.fetch_add(1, Relaxed);
        if room >= rooms {
            return;
        }
        let figures = catch_unwind(AssertUnwindSafe(|| simulate(seed, room, &world)));
        let figures = figures.unwrap_or_else(|panic| {
            eprintln!("for simulation/seeds.txt: {seed} {room}");
            resume_unwind(panic)
        });
        *all.lock().unwrap() += figures;
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    println!("{:?}", all.into_inner().unwrap());
}

#[test]
fn what_was_found_once_stays_found() {
    let seeds = include_str!("simulation/seeds.txt").lines();
    for line in seeds.filter(|line| !line.starts_with('#')) {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let [seed, room] = numbers[..] else {
            panic!("a line is a seed and a room: {line}");
        };
        simulate(seed, room, &world(seed));
    }
}
