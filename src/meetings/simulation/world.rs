//! What befalls the machines: two nodes that die, stop and start, a Postgres that goes away, and networks between them
//! that are cut. It is the same for all rooms.

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// How many nodes there are.
pub const NODES: usize = 2;

/// What befalls the machines, in its order. At first everything runs.
pub struct World {
    /// What happens when.
    pub turns: Vec<(DateTime<Utc>, Turn)>,
    /// When something was not as it should be: no meeting can be expected to be stored, or to have an owner.
    troubles: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Something that happens to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The node dies, as of `kill -9`.
    Dies(usize),
    /// The node is told to stop, and stops.
    Stops(usize),
    /// The node is started.
    Starts(usize),
    /// The node no longer reaches Postgres.
    Cut(usize),
    /// It does again.
    Mended(usize),
    /// Postgres dies.
    PostgresDies,
    /// Postgres is started.
    PostgresStarts,
}

/// How the machines are.
#[derive(Clone, Debug)]
pub struct Machines {
    /// The nodes.
    pub nodes: [Node; NODES],
    /// Whether Postgres runs.
    pub postgres: bool,
    /// Since when it does or does not.
    pub postgres_since: DateTime<Utc>,
}

/// How a node is.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Whether it runs.
    pub runs: bool,
    /// How often it was started: which process it is.
    pub process: u64,
    /// Whether it is cut off.
    pub cut: bool,
    /// Since when it is so.
    pub since: DateTime<Utc>,
}

impl World {
    /// What befalls the machines in the world of `seed`, from `start` to `end`. After that everything runs.
    pub fn new(seed: u64, start: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut turns = Vec::new();
        for node in 0..NODES {
            happen(&mut turns, &mut rng, (start, end), 12 * HOUR, |chance| {
                let falls = if chance < 0.3 {
                    Turn::Stops(node)
                } else {
                    Turn::Dies(node)
                };
                (falls, Turn::Starts(node))
            });
            happen(&mut turns, &mut rng, (start, end), 48 * HOUR, |_| {
                (Turn::Cut(node), Turn::Mended(node))
            });
        }
        happen(&mut turns, &mut rng, (start, end), 48 * HOUR, |_| {
            (Turn::PostgresDies, Turn::PostgresStarts)
        });
        turns.sort_by_key(|(at, _)| *at);
        let troubles = troubles(&turns, start);
        Self { turns, troubles }
    }

    /// When what takes `time` and was to begin at `due` has happened, at the latest: once nothing was wrong for so long and
    /// for as long as a takeover takes, neither with the machines nor, at the times in `own`, with the room alone.
    pub fn settled(
        &self,
        due: DateTime<Utc>,
        time: TimeDelta,
        own: &[DateTime<Utc>],
    ) -> DateTime<Utc> {
        let mut since = due;
        loop {
            let until = since + time + TAKEOVER;
            let later = self.troubles.partition_point(|(_, end)| *end < since);
            let machines = self.troubles[later..].iter();
            let machines = machines.take_while(|(begin, _)| *begin <= until);
            let own = own.iter().filter(|at| **at >= since && **at <= until);
            let wrong = machines.map(|(_, end)| *end).chain(own.copied()).max();
            match wrong {
                Some(end) => since = end + TimeDelta::microseconds(1),
                None => return until,
            }
        }
    }
}

impl Machines {
    /// As they are at first.
    pub fn new(start: DateTime<Utc>) -> Self {
        let node = Node {
            runs: true,
            process: 1,
            cut: false,
            since: start,
        };
        Self {
            nodes: [node; NODES],
            postgres: true,
            postgres_since: start - TimeDelta::days(1),
        }
    }

    /// Something happens to them.
    pub fn turn(&mut self, turn: Turn, at: DateTime<Utc>) {
        let (Turn::Dies(node)
        | Turn::Stops(node)
        | Turn::Starts(node)
        | Turn::Cut(node)
        | Turn::Mended(node)) = turn
        else {
            self.postgres = turn == Turn::PostgresStarts;
            self.postgres_since = at;
            return;
        };
        let node = &mut self.nodes[node];
        node.since = at;
        match turn {
            Turn::Dies(_) | Turn::Stops(_) => node.runs = false,
            Turn::Starts(_) => {
                node.runs = true;
                node.process += 1;
            }
            _ => node.cut = matches!(turn, Turn::Cut(_)),
        }
    }

    /// Whether the node runs, and reaches Postgres.
    pub fn works(&self, node: usize) -> bool {
        self.postgres && self.nodes[node].runs && !self.nodes[node].cut
    }
}

/// Adds pairs of turns, about one pair in `every` milliseconds; the second comes soon after the first, or late. `which`
/// makes them of a chance.
fn happen(
    turns: &mut Vec<(DateTime<Utc>, Turn)>,
    rng: &mut SmallRng,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
    every: i64,
    which: impl Fn(f64) -> (Turn, Turn),
) {
    let mut at = start;
    loop {
        at += TimeDelta::milliseconds(rng.random_range(1..2 * every));
        let longest = match rng.random_range(0..10) {
            0 => 2 * HOUR,
            1..6 => 120_000,
            _ => 6_000,
        };
        let back = at + TimeDelta::milliseconds(rng.random_range(1..longest));
        if back >= end {
            return;
        }
        let (first, second) = which(rng.random());
        turns.extend([(at, first), (back, second)]);
        at = back;
    }
}

/// Each turn is one, and so is all the time in which no node works.
fn troubles(
    turns: &[(DateTime<Utc>, Turn)],
    start: DateTime<Utc>,
) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let mut machines = Machines::new(start);
    let mut idle: Option<DateTime<Utc>> = None;
    let mut troubles = Vec::new();
    for (at, turn) in turns {
        machines.turn(*turn, *at);
        let works = (0..NODES).any(|node| machines.works(node));
        troubles.push((idle.unwrap_or(*at), *at));
        idle = (!works).then(|| idle.unwrap_or(*at));
    }
    troubles
}

/// In milliseconds.
const HOUR: i64 = 3_600_000;
/// A lease, the time to the next heartbeat, and some transactions that take as long as they may.
const TAKEOVER: TimeDelta = TimeDelta::seconds(16);
