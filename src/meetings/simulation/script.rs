//! What people and an app do to one room, whatever comes of it: written from a seed before anything runs.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::{
    id::{AppId, ParticipantId, RoomId, TokenId},
    meetings::{Connection, Grant, JoinRequest, ResumeHash, Role},
    rooms::{
        Room, Rules,
        property::{Delay, Seconds, UnixSec},
    },
    webhooks::RoomUrls,
};

/// What happens to one room from outside.
pub struct Script {
    /// The room as it is made, and as each change leaves it; each from this time on.
    pub versions: Vec<(DateTime<Utc>, Room)>,
    /// Who wants in; a visit has the number of its place.
    pub visits: Vec<Visit>,
    /// What happens, in its order.
    pub steps: Vec<(DateTime<Utc>, Step)>,
}

/// Somebody who wants in, once.
pub struct Visit {
    /// Whether they can come back when their connection is lost.
    pub resumable: bool,
    /// What their token gives.
    pub grant: Option<Grant>,
    /// How long it takes them to come back.
    pub returns_after: TimeDelta,
}

/// Something that happens from outside; nothing where it does not apply.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// The visit begins: somebody asks to be let in.
    Join(usize),
    /// They close their page.
    Leave(usize),
    /// Their connection is cut. Whoever can come back tries to.
    Lose(usize),
    /// The app changes the room to this version.
    Change(usize),
    /// The app deletes the room.
    Delete,
}

/// A rule of a room: how likely a room has it, and what it is then. A new rule is one more line.
type Rule = (f64, fn(&mut Rules, &mut SmallRng, DateTime<Utc>));
const RULES: &[Rule] = &[
    (0.2, |rules, rng, _| {
        rules.eject_after = Some(Seconds::new(rng.random_range(1..7200)));
    }),
    (0.8, |rules, rng, _| {
        let waits = [0, 1, 10, 60, 3600];
        rules.end_when_empty_after = Delay::new(*waits.choose(rng).unwrap_or(&10));
    }),
    (0.2, |rules, rng, _| {
        rules.max_participants = Some(rng.random_range(1..4));
    }),
    (0.1, |rules, rng, now| {
        let opens = now + TimeDelta::seconds(rng.random_range(-3600..7200));
        rules.not_before = Some(UnixSec(opens));
    }),
    (0.1, |rules, rng, now| {
        let opens = rules.opens_at().unwrap_or(now).max(now);
        rules.expires = Some(UnixSec(
            opens + TimeDelta::seconds(rng.random_range(1..7200)),
        ));
        rules.eject_at_expiry = rng.random_bool(0.8);
    }),
    (0.1, |rules, _, _| rules.locked = true),
    (0.2, |rules, rng, _| {
        rules.meeting_duration = Some(Seconds::new(rng.random_range(1..7200)));
    }),
    (0.1, |rules, rng, _| {
        rules.end_after_no_activity = Some(Seconds::new(rng.random_range(1..7200)));
    }),
    (0.2, |rules, rng, _| {
        rules.end_when_one_left_after = Some(Seconds::new(rng.random_range(1..600)));
    }),
    (0.1, |rules, rng, _| {
        rules.empty_timeout = Some(Seconds::new(rng.random_range(1..600)));
    }),
    (0.1, |rules, _, _| rules.end_when_moderator_leaves = true),
    (0.1, |rules, _, _| rules.first_joiner_moderates = true),
];

impl Script {
    /// The script of room `number` in the world of `seed`: `days` days from `start` on.
    pub fn new(seed: u64, number: u64, start: DateTime<Utc>, days: u32) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let mut rules = Rules::default();
        for (chance, rule) in RULES {
            if rng.random_bool(*chance) {
                rule(&mut rules, &mut rng, start);
            }
        }
        let mut script = Self {
            versions: vec![(start, room(number, rules, start))],
            visits: Vec::new(),
            steps: Vec::new(),
        };
        for day in 0..days {
            let day = start + TimeDelta::days(day.into());
            for _ in 0..rng.random_range(0..3) {
                script.meet(day + millis(&mut rng, 0, 24 * HOUR), &mut rng);
            }
            if rng.random_bool(0.3) {
                script.change(day, &mut rng);
            }
        }
        if rng.random_bool(0.02) {
            let at = start + millis(&mut rng, 0, i64::from(days) * 24 * HOUR);
            script.steps.push((at, Step::Delete));
        }
        script.steps.sort_by_key(|(at, _)| *at);
        script
    }

    /// Some people come together.
    fn meet(&mut self, begin: DateTime<Utc>, rng: &mut SmallRng) {
        for _ in 0..rng.random_range(1..6) {
            let (visit, joins) = (self.visits.len(), begin + millis(rng, 0, HOUR / 4));
            let grant = rng.random_bool(0.4).then(|| grant(visit, joins, rng));
            self.visits.push(Visit {
                resumable: rng.random_bool(0.6),
                grant,
                returns_after: millis(rng, 1, 40_000),
            });
            self.steps.push((joins, Step::Join(visit)));
            let stays = *[MINUTE / 10, 10 * MINUTE, 3 * HOUR]
                .choose(rng)
                .unwrap_or(&HOUR);
            let leaves = joins + millis(rng, 1, stays);
            if rng.random_bool(0.4) {
                let lost = joins + millis(rng, 1, stays);
                self.steps.push((lost, Step::Lose(visit)));
            }
            self.steps.push((leaves, Step::Leave(visit)));
        }
    }

    /// The app changes some rules, as likely as not while people are in.
    fn change(&mut self, day: DateTime<Utc>, rng: &mut SmallRng) {
        let at = match self.steps.last() {
            Some((last, _)) if rng.random_bool(0.5) => *last - millis(rng, 0, HOUR),
            _ => day + millis(rng, 0, 24 * HOUR),
        };
        let Some((latest, room)) = self.versions.last() else {
            return;
        };
        let mut room = room.clone();
        let at = at.max(*latest + TimeDelta::milliseconds(1));
        for (_, rule) in RULES {
            if rng.random_bool(0.2) {
                rule(&mut room.rules, rng, at);
            }
        }
        if rng.random_bool(0.3) {
            room.rules = Rules::default();
        }
        room.version += 1;
        self.steps.push((at, Step::Change(self.versions.len())));
        self.versions.push((at, room));
    }
}

impl Visit {
    /// What the `attempt`-th try of visit `number` to get in asks for.
    pub fn request(&self, number: usize, attempt: u32, room: &Room) -> JoinRequest {
        let participant = participant(number, attempt);
        JoinRequest {
            participant,
            connection: connection(number, attempt),
            name: format!("p{number}"),
            device: Arc::default(),
            grant: self.grant.clone(),
            password: None,
            is_creator: false,
            address: None,
            resume: self.resumable.then(|| resume(participant)),
            room: room.clone(),
        }
    }
}

/// Whoever came in by the `attempt`-th try of a visit.
pub fn participant(visit: usize, attempt: u32) -> ParticipantId {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&(visit as u64).to_be_bytes());
    bytes[8..].copy_from_slice(&attempt.to_be_bytes());
    ParticipantId::from_bytes(bytes)
}

/// The visit that brought this participant.
pub fn visit(participant: ParticipantId) -> usize {
    let bytes = participant.as_bytes();
    bytes[..8]
        .iter()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The connection of a visit, each of which has a number of its own.
pub fn connection(visit: usize, attempt: u32) -> Connection {
    Connection((visit as u64) << 32 | u64::from(attempt))
}

/// What a participant may come back with.
pub fn resume(participant: ParticipantId) -> ResumeHash {
    let mut hash = [0; 32];
    hash[..12].copy_from_slice(participant.as_bytes());
    hash
}

/// Who comes back with this.
pub fn resumed(hash: &ResumeHash) -> ParticipantId {
    let mut bytes = [0; 12];
    bytes.copy_from_slice(&hash[..12]);
    ParticipantId::from_bytes(bytes)
}

fn room(number: u64, rules: Rules, now: DateTime<Utc>) -> Room {
    let mut id = [0; 12];
    id[4..].copy_from_slice(&number.to_be_bytes());
    Room {
        id: RoomId::from_bytes(id),
        app_id: AppId::from_bytes([2; 12]),
        name: format!("room-{number}").parse().unwrap(),
        rules,
        webhooks: RoomUrls::default(),
        password: None,
        rtmp_out_url: None,
        anonymous: false,
        creator: None,
        version: 0,
        created_at: now,
        archived_at: None,
    }
}

fn grant(visit: usize, joins: DateTime<Utc>, rng: &mut SmallRng) -> Grant {
    let mut token = [0; 12];
    token[..8].copy_from_slice(&(visit as u64).to_be_bytes());
    let expires_at = rng
        .random_bool(0.3)
        .then(|| joins + TimeDelta::seconds(rng.random_range(-60..7200)));
    Grant {
        token: TokenId::from_bytes(token),
        role: if rng.random_bool(0.3) {
            Role::Moderator
        } else {
            Role::Participant
        },
        name: None,
        identity: Arc::default(),
        eject_after: rng
            .random_bool(0.3)
            .then(|| TimeDelta::seconds(rng.random_range(1..3600))),
        expires_at,
        eject_at_expiry: expires_at.is_some() && rng.random_bool(0.7),
    }
}

/// A length of time of so many milliseconds, by chance.
fn millis(rng: &mut SmallRng, from: i64, to: i64) -> TimeDelta {
    TimeDelta::milliseconds(rng.random_range(from..to))
}

/// In milliseconds.
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
