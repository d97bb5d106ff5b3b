//! One room in virtual time: people, nodes and Postgres act on each other as the script, the world and chance have it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::sync::oneshot;

use super::{
    check,
    log::{Log, Row},
    script::{self, Script, Step},
    world::{Machines, NODES, Turn, World},
};
use crate::{
    id::{BatchId, MeetingId, NodeId, ParticipantId},
    meetings::{
        Command, Connection, Decision, Effect, EndReason, Input, LeaveReason, Outbox, Refusal,
        Speaker, State,
        admission::{self, Applicant},
        book::{Ask, Book, Decided},
        commit,
        owner::{Entered, Envelope, Lease, Sender, inside},
    },
};

/// How much goes wrong in a room beside what befalls the machines.
#[derive(Clone, Copy)]
pub struct Hazards {
    /// The chance that a transaction does not just come about.
    pub transaction: f64,
    /// The longest that one takes, and that timers are late, in milliseconds.
    pub latency: i64,
}

/// What went on in a room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Meetings that were live and ended.
    pub meetings: u64,
    /// Stays.
    pub stays: u64,
    /// Events.
    pub events: u64,
    /// Takeovers.
    pub claims: u64,
    /// Transactions.
    pub transactions: u64,
    /// Transactions whose outcome was not known.
    pub unknown: u64,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.meetings += other.meetings;
        self.stays += other.stays;
        self.events += other.events;
        self.claims += other.claims;
        self.transactions += other.transactions;
        self.unknown += other.unknown;
    }
}

/// A room that is simulated.
pub struct Run<'a> {
    script: &'a Script,
    world: &'a World,
    hazards: Hazards,
    now: DateTime<Utc>,
    rng: SmallRng,
    machines: Machines,
    log: Log,
    /// Those who believe that the meeting is theirs: one, or two while one of them does not know better.
    owners: Vec<Owner>,
    people: BTreeMap<usize, Person>,
    timers: BinaryHeap<Reverse<(DateTime<Utc>, u64, Timer)>>,
    timers_set: u64,
    /// The epochs of a meeting are greater than those of all before it: an epoch names an owner.
    epochs: i64,
    /// When something went wrong that befell this room alone.
    own_troubles: Vec<DateTime<Utc>>,
    /// Who was told that they are in.
    admitted: Vec<ParticipantId>,
    figures: Figures,
}

/// A node's owner of the meeting.
struct Owner {
    node: usize,
    lease: Lease,
    book: Book,
    /// What Postgres is asked, and when the answer comes.
    asked: Option<(DateTime<Utc>, Ask, Fate)>,
    /// When Postgres is tried again.
    retry: Option<DateTime<Utc>>,
    /// When it will notice that the meeting is another's.
    fenced: Option<DateTime<Utc>>,
    /// When commands are carried to it next.
    carry: DateTime<Utc>,
    /// When the next deadline fires.
    due: Option<DateTime<Utc>>,
}

/// What comes of a transaction, if Postgres is reached.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It comes about.
    Fine,
    /// Its answer is lost; whether it came about. Whoever looks for it later knows: while it is under way it holds the
    /// meeting's row, and is waited for.
    Lost(bool),
    /// Postgres refuses it.
    Refused,
    /// The owner dies meanwhile; whether it came about.
    Dies(bool),
}

/// Somebody in front of a page.
struct Person {
    is: Is,
    /// Who they were when they were in last: whom they come back as.
    was: Option<ParticipantId>,
    /// Times that they asked to be let in; each has a connection of its own.
    asked: u32,
    /// Times in a row that they were told to try again.
    refused: u32,
    /// Kept while they wait to be let in.
    answer: Option<oneshot::Receiver<Result<Entered, Refusal>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    /// Out, for good.
    Out,
    /// Out, and about to ask.
    Waiting,
    /// Waits for the answer of the owner with this epoch.
    Asking(i64),
    /// In, by the owner with this epoch.
    In(i64, Speaker),
}

/// What happens later, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Somebody asks to be let in.
    Enter(usize),
    /// Somebody has waited for the answer to this question for as long as they do.
    GiveUp(usize, u32),
    /// An owner notices that a connection is gone.
    Notice(i64, ParticipantId, u64),
    /// The room expires, if this is still its version.
    RoomExpires(i32),
}

impl<'a> Run<'a> {
    /// A room in which nothing has happened yet.
    pub fn new(script: &'a Script, world: &'a World, hazards: Hazards, seed: u64) -> Self {
        let (start, room) = &script.versions[0];
        let mut run = Self {
            script,
            world,
            hazards,
            now: *start,
            rng: SmallRng::seed_from_u64(seed),
            machines: Machines::new(*start),
            log: Log::new(room.clone()),
            owners: Vec::new(),
            people: BTreeMap::new(),
            timers: BinaryHeap::new(),
            timers_set: 0,
            epochs: 0,
            own_troubles: Vec::new(),
            admitted: Vec::new(),
            figures: Figures::default(),
        };
        run.expect_expiry();
        run
    }

    /// Runs until nothing happens any more. `ended` is told each meeting that has ended.
    ///
    /// # Panics
    ///
    /// When a promise is broken.
    pub fn run(mut self, mut ended: impl FnMut(&Row)) -> Figures {
        let (mut steps, mut turns) = (0, 0);
        loop {
            let step = self.script.steps.get(steps).map(|(at, _)| *at);
            let turn = self.world.turns.get(turns).map(|(at, _)| *at);
            let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
            let claim = self.next_claim();
            let owner = self.next_of_owners();
            let next = [
                step,
                turn,
                timer,
                claim.map(|(at, _)| at),
                owner.map(|(at, _)| at),
            ];
            let Some(next) = next.into_iter().flatten().min() else {
                break;
            };
            self.now = self.now.max(next);
            let is_next = |at: Option<DateTime<Utc>>| at == Some(next);
            // The machines first: at that instant they are so.
            if is_next(turn) {
                let (_, turn) = self.world.turns[turns];
                turns += 1;
                self.turn(turn);
            } else if let Some((_, index)) = owner.filter(|(at, _)| *at == next) {
                self.work(index);
            } else if let Some((_, node)) = claim.filter(|(at, _)| *at == next) {
                self.claim(node);
            } else if is_next(step) {
                let (_, step) = self.script.steps[steps];
                steps += 1;
                self.step(step);
            } else if let Some(Reverse((_, _, timer))) = self.timers.pop() {
                self.timer(timer);
            }
            if let Some(row) = self.log.take_ended() {
                self.figures.claims += u64::try_from(row.lease.epoch % 1000).unwrap_or(0);
                self.figures.events += row.events.len() as u64;
                self.figures.stays += row.usage.len() as u64;
                self.figures.meetings += u64::from(!row.events.is_empty());
                check::meeting(
                    &row,
                    self.script,
                    self.world,
                    &self.own_troubles,
                    &self.admitted,
                );
                ended(&row);
                self.admitted.clear();
            }
        }
        if let Some(row) = &self.log.running {
            panic!(
                "meeting {} never ended: {:#?}",
                row.lease.meeting, row.events
            );
        }
        self.figures
    }

    fn set(&mut self, after: TimeDelta, timer: Timer) {
        self.timers_set += 1;
        self.timers
            .push(Reverse((self.now + after, self.timers_set, timer)));
    }

    fn millis(&mut self, longest: i64) -> TimeDelta {
        TimeDelta::milliseconds(self.rng.random_range(0..=longest))
    }

    fn turn(&mut self, turn: Turn) {
        let works = std::array::from_fn::<bool, NODES, _>(|node| self.machines.works(node));
        if let Turn::Stops(node) = turn {
            self.stop(node);
        }
        self.machines.turn(turn, self.now);
        for (node, worked) in works.into_iter().enumerate() {
            match (worked, self.machines.works(node)) {
                (true, false) => self.lapse(node),
                (false, true) => self.back(node),
                _ => {}
            }
        }
        if let Turn::Dies(node) = turn {
            self.drop_owners(|owner| owner.node == node);
        }
    }

    /// The leases of this node are not renewed any more.
    fn lapse(&mut self, node: usize) {
        let renewed_at = self.now - self.millis(if self.hazards.latency == 0 { 0 } else { 2000 });
        let id = self.node_id(node);
        if let Some(row) = &mut self.log.running
            && row.lease.node == id
        {
            row.lapse(renewed_at);
        }
    }

    /// The leases of this node are renewed again, where nobody has claimed the meeting; where somebody has, it is noticed.
    fn back(&mut self, node: usize) {
        let heartbeat = self.now + self.millis(2000);
        if let Some(row) = &mut self.log.running
            && self
                .owners
                .iter()
                .any(|owner| owner.node == node && owner.lease.epoch == row.lease.epoch)
        {
            row.lapses = None;
        }
        let epoch = self.log.running.as_ref().map(|row| row.lease.epoch);
        for owner in &mut self.owners {
            if owner.node == node && Some(owner.lease.epoch) != epoch {
                owner.fenced = Some(heartbeat);
            }
        }
    }

    /// Who has this process as the owner of its meetings.
    fn node_id(&self, node: usize) -> NodeId {
        let mut bytes = [0; 12];
        bytes[0] = u8::try_from(node + 1).unwrap();
        bytes[4..].copy_from_slice(&self.machines.nodes[node].process.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    /// The next claim of a meeting that nobody owns: by whichever node's heartbeat comes first.
    fn next_claim(&self) -> Option<(DateTime<Utc>, usize)> {
        let row = self.log.running.as_ref()?;
        let lapses = row.lapses?;
        let after_start = self.machines.postgres_since + LEASE;
        let claims = (0..NODES)
            .filter(|node| self.machines.works(*node))
            .map(|node| {
                let free = if row.given_up {
                    lapses
                } else {
                    lapses.max(after_start)
                };
                let free = free.max(self.machines.nodes[node].since);
                // Each node has heartbeats of its own.
                let heartbeat = TimeDelta::milliseconds(
                    1 + (free.timestamp_millis() * 7 + 911 * node as i64) % 2000,
                );
                (free + heartbeat, node)
            });
        claims.min()
    }

    fn claim(&mut self, node: usize) {
        let id = self.node_id(node);
        let Some(row) = &self.log.running else { return };
        let (renewed_at, given_up) = (row.renewed_at, row.given_up);
        let Some((lease, stored)) = self.log.claim(id) else {
            return;
        };
        // An owner on the same node is told at once, one on another when it renews.
        self.drop_owners(|owner| owner.node == node);
        let heartbeat = self.now + self.millis(2000);
        for owner in &mut self.owners {
            if self.machines.works(owner.node) {
                owner.fenced = Some(heartbeat);
            }
        }
        let reason = if given_up {
            LeaveReason::ServerShutdown
        } else {
            LeaveReason::ServerCrash
        };
        let first = Some(Input::Claimed { renewed_at, reason });
        self.own(node, lease, Book::new(lease, stored, first));
    }

    fn own(&mut self, node: usize, lease: Lease, book: Book) {
        let owner = Owner {
            node,
            lease,
            book,
            asked: None,
            retry: None,
            fenced: None,
            carry: self.now,
            due: None,
        };
        self.owners.push(owner);
        self.go_on(self.owners.len() - 1);
    }

    /// Some owners are no more; those whom they served notice.
    fn drop_owners(&mut self, which: impl Fn(&Owner) -> bool) {
        let gone: Vec<Owner> = self.owners.extract_if(.., |owner| which(owner)).collect();
        for owner in gone {
            let epoch = owner.lease.epoch;
            if self
                .log
                .running
                .as_ref()
                .is_some_and(|row| row.lease.epoch == epoch)
            {
                // Its node does not renew what it does not own.
                let renewed_at = self.now;
                if let Some(row) = &mut self.log.running {
                    row.lapse(renewed_at);
                }
            }
            let served: Vec<usize> = self
                .people
                .iter()
                .filter(|(_, person)| matches!(person.is, Is::In(by, _) | Is::Asking(by) if by == epoch))
                .map(|(visit, _)| *visit)
                .collect();
            served.into_iter().for_each(|visit| self.cut_off(visit));
        }
    }

    /// Somebody's connection is gone. Whoever can come back tries to.
    fn cut_off(&mut self, visit: usize) {
        let Some(person) = self.people.get_mut(&visit) else {
            return;
        };
        person.answer = None;
        match person.is {
            Is::In(..) if self.script.visits[visit].resumable => {
                person.is = Is::Waiting;
                self.set(self.script.visits[visit].returns_after, Timer::Enter(visit));
            }
            Is::Asking(_) => self.try_again(visit),
            _ => person.is = Is::Out,
        }
    }

    fn try_again(&mut self, visit: usize) {
        if let Some(person) = self.people.get_mut(&visit) {
            person.answer = None;
            person.refused += 1;
            person.is = if person.refused < TRIES {
                Is::Waiting
            } else {
                Is::Out
            };
            self.set(PAUSE, Timer::Enter(visit));
        }
    }

    /// Somebody asks to be let in, as who they were if they were in already.
    fn enter(&mut self, visit: usize) {
        let Some(person) = self.people.get_mut(&visit) else {
            return;
        };
        person.asked += 1;
        let (asked, was) = (person.asked, person.was);
        let index = match self.find_owner(visit, was.is_some()) {
            Ok(index) => index,
            Err(refusal) => return self.refused(visit, refusal),
        };
        let connection = script::connection(visit, asked);
        let input = match was {
            Some(participant) => Input::Resume {
                hash: script::resume(participant),
                last: None,
                connection,
            },
            None => {
                let request = self.script.visits[visit].request(visit, asked, &self.log.room);
                Input::Join(Box::new(request))
            }
        };
        let (reply, answer) = oneshot::channel();
        if let Some(person) = self.people.get_mut(&visit) {
            person.is = Is::Asking(self.owners[index].lease.epoch);
            person.answer = Some(answer);
        }
        self.set(PATIENCE_OF_PEOPLE, Timer::GiveUp(visit, asked));
        let (outbox, _) = Outbox::new(connection, None);
        self.owners[index].book.put(Envelope {
            input,
            from: Sender::Entering(outbox, reply),
        });
        self.go_on(index);
    }

    /// The owner of the room's meeting, as a node finds it; a new one where there is no meeting.
    fn find_owner(&mut self, visit: usize, returns: bool) -> Result<usize, Refusal> {
        let epoch = self.log.running.as_ref().map(|row| row.lease.epoch);
        let current = self
            .owners
            .iter()
            .position(|owner| Some(owner.lease.epoch) == epoch)
            .or_else(|| (0..self.owners.len()).next_back());
        let node = match current {
            Some(index) => Some(self.owners[index].node),
            None => (0..NODES).find(|node| self.machines.works(*node)),
        };
        let node = node.filter(|node| self.machines.works(*node));
        let node = node.ok_or(Refusal::TryAgain)?;
        if self.log.room.archived_at.is_some() {
            return Err(Refusal::RoomNotFound);
        }
        if let Some(index) = current {
            return Ok(index);
        }
        if self.log.running.is_some() {
            return Err(Refusal::TryAgain);
        }
        if returns {
            return Err(Refusal::ResumeFailed);
        }
        let (now, room) = (self.now, self.log.room.clone());
        let request = self.script.visits[visit].request(visit, 0, &room);
        admission::check(&room, &Applicant::from(&request), None, now)?;
        let meeting = MeetingId::new(now, &mut self.rng);
        self.epochs += 1000;
        let lease = Lease {
            app: room.app_id,
            meeting,
            node: self.node_id(node),
            epoch: self.epochs,
        };
        let state = State::open(meeting, room, now);
        self.log.open(lease, state.clone());
        self.own(node, lease, Book::new(lease, (state, None), None));
        Ok(self.owners.len() - 1)
    }

    /// Tells an owner what somebody does.
    fn say(&mut self, epoch: i64, input: Input) {
        let index = self
            .owners
            .iter()
            .position(|owner| owner.lease.epoch == epoch);
        if let Some(index) = index {
            self.owners[index].book.put(inside(input));
            self.go_on(index);
        }
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Enter(visit) => {
                if self
                    .people
                    .get(&visit)
                    .is_some_and(|person| person.is == Is::Waiting)
                {
                    self.enter(visit);
                }
            }
            Timer::GiveUp(visit, asked) => {
                let waits =
                    |person: &Person| person.asked == asked && matches!(person.is, Is::Asking(_));
                if self.people.get(&visit).is_some_and(waits) {
                    self.try_again(visit);
                }
            }
            Timer::Notice(epoch, participant, connection) => {
                let by = Speaker {
                    participant,
                    connection: Connection(connection),
                };
                let since = self.now;
                self.say(epoch, Input::Disconnected { by, since });
            }
            Timer::RoomExpires(version) => {
                let room = &self.log.room;
                let due = room.rules.expires_at();
                let Some(due) = due.filter(|_| room.version == version) else {
                    return;
                };
                if !(0..NODES).any(|node| self.machines.works(node)) {
                    self.set(PAUSE, timer);
                } else if room.rules.eject_at_expiry {
                    let (reason, at) = (EndReason::RoomExpired, due);
                    self.log.command(Command::End { reason, at });
                }
            }
        }
    }

    /// The room's own deadline fires when it is due.
    fn expect_expiry(&mut self) {
        if let Some(due) = self.log.room.rules.expires_at() {
            let after = (due - self.now).max(TimeDelta::zero());
            self.set(after, Timer::RoomExpires(self.log.room.version));
        }
    }

    /// The node is told to stop: its owner stores what it has, tells everybody, and gives the meeting up.
    fn stop(&mut self, node: usize) {
        let Some(index) = self.owners.iter().position(|owner| owner.node == node) else {
            return;
        };
        let epoch = self.owners[index].lease.epoch;
        self.owners[index].book.put(inside(Input::Shutdown));
        for _ in 0..20 {
            let stops = |owner: &Owner| owner.lease.epoch == epoch;
            let Some(index) = self.owners.iter().position(stops) else {
                return;
            };
            let owner = &mut self.owners[index];
            if owner.asked.is_some() {
                self.answer(index);
            } else if owner.book.is_away() {
                let batch = self.batch();
                if let Some(ask) = self.owners[index].book.retry(batch) {
                    self.ask(index, ask);
                }
            } else if owner.book.is_idle() && owner.book.is_saved() {
                break;
            } else {
                self.go_on(index);
            }
        }
        let (now, works) = (self.now, self.machines.works(node));
        if let Some(row) = self
            .log
            .running
            .as_mut()
            .filter(|row| works && row.lease.epoch == epoch)
        {
            (row.lapses, row.given_up, row.renewed_at) = (Some(now), true, now);
        }
        self.drop_owners(|owner| owner.lease.epoch == epoch);
    }

    /// When the next thing happens at an owner: an answer, a retry, a deadline, a command, the end of its claim.
    fn next_of_owners(&self) -> Option<(DateTime<Utc>, usize)> {
        let next = |(index, owner): (usize, &Owner)| {
            let works = self.machines.works(owner.node);
            let commands = self.log.running.as_ref().is_some_and(|row| {
                !row.commands.is_empty() && row.lease.epoch == owner.lease.epoch
            });
            let asked = owner.asked.as_ref().map(|(at, ..)| *at);
            let idle = asked.is_none();
            let all = [
                asked,
                owner.retry.filter(|_| idle),
                owner.due.filter(|_| idle),
                owner.fenced.filter(|_| works),
                Some(owner.carry).filter(|_| works && commands),
            ];
            all.into_iter().flatten().min().map(|at| (at, index))
        };
        self.owners.iter().enumerate().filter_map(next).min()
    }

    /// What happens at an owner now.
    fn work(&mut self, index: usize) {
        let now = self.now;
        let owner = &mut self.owners[index];
        if owner.fenced.is_some_and(|at| at <= now) && self.machines.works(owner.node) {
            let epoch = owner.lease.epoch;
            return self.drop_owners(|owner| owner.lease.epoch == epoch);
        }
        if owner.asked.as_ref().is_some_and(|(at, ..)| *at <= now) {
            return self.answer(index);
        }
        let idle = owner.asked.is_none();
        if idle && owner.retry.is_some_and(|at| at <= now) {
            owner.retry = None;
            let batch = self.batch();
            if let Some(ask) = self.owners[index].book.retry(batch) {
                self.ask(index, ask);
            }
        } else if owner.carry <= now && self.machines.works(owner.node) {
            owner.carry = now + TimeDelta::milliseconds(200);
            let epoch = owner.lease.epoch;
            let row = self
                .log
                .running
                .as_ref()
                .filter(|row| row.lease.epoch == epoch);
            for (id, command) in row.into_iter().flat_map(|row| row.commands.clone()) {
                let input = match command {
                    Command::End { reason, at } => Input::End { reason, at },
                    Command::Rules => Input::Rules(Box::new(self.log.room.clone())),
                    // Nobody acts by call here.
                    Command::Act { .. } => continue,
                };
                self.owners[index].book.put(Envelope {
                    input,
                    from: Sender::Command(id),
                });
            }
        }
        self.go_on(index);
    }

    fn batch(&mut self) -> BatchId {
        BatchId::new(self.now, &mut self.rng)
    }

    /// Lets an owner decide what waits, until it waits for Postgres or for something to happen.
    fn go_on(&mut self, index: usize) {
        while self.owners[index].asked.is_none() {
            let batch = self.batch();
            let (now, owner) = (self.now, &mut self.owners[index]);
            owner.book.collect_due(now);
            let (decided, change) = owner.book.decide(now, batch);
            if let Some(change) = change {
                self.ask(index, Ask::Store(Box::new(change)));
            }
            self.act(index, decided);
            let owner = &self.owners[index];
            if owner.book.is_idle() || owner.asked.is_some() {
                break;
            }
        }
        let late = self.millis(self.hazards.latency);
        let (now, owner) = (self.now, &mut self.owners[index]);
        if owner.book.is_over() {
            let epoch = owner.lease.epoch;
            return self.drop_owners(|owner| owner.lease.epoch == epoch);
        }
        if owner.book.is_away() && owner.retry.is_none() && owner.asked.is_none() {
            owner.retry = Some(now + TimeDelta::milliseconds(200));
        }
        let next = owner.book.state().next_due();
        owner.due = next.map(|due| due.max(now) + late);
    }

    fn ask(&mut self, index: usize, ask: Ask) {
        self.figures.transactions += 1;
        let fate = match (&ask, self.rng.random_range(0..10)) {
            _ if !self.rng.random_bool(self.hazards.transaction) => Fate::Fine,
            (_, 0) => Fate::Refused,
            (Ask::Store(_), 1 | 2) => Fate::Dies(true),
            (Ask::Store(_), 3) => Fate::Dies(false),
            (Ask::Store(_), 4..7) => Fate::Lost(true),
            _ => Fate::Lost(false),
        };
        let reached = self.machines.works(self.owners[index].node);
        let takes = match fate {
            Fate::Lost(_) => PATIENCE,
            _ if reached => self.millis(self.hazards.latency),
            _ => self.millis(2000),
        };
        if !matches!(fate, Fate::Fine) {
            self.own_troubles.push(self.now + takes);
        }
        let fate = if reached { fate } else { Fate::Lost(false) };
        self.owners[index].asked = Some((self.now + takes, ask, fate));
    }

    /// Postgres's answer comes, or does not.
    fn answer(&mut self, index: usize) {
        let owner = &mut self.owners[index];
        let Some((_, ask, fate)) = owner.asked.take() else {
            return;
        };
        let (works, lease) = (self.machines.works(owner.node), owner.lease);
        let away = || Err(commit::Error::Database(sqlx::Error::PoolTimedOut));
        let unknown = || Err(commit::Error::Unknown("the answer was lost".to_owned()));
        let refused = || Err(commit::Error::Database(sqlx::Error::RowNotFound));
        let outcome = match (ask, fate) {
            (Ask::Happened(batch), Fate::Fine) if works => Ok(self.log.happened(&lease, batch)),
            (Ask::Happened(_), _) => away(),
            (Ask::Store(change), Fate::Fine) if works => {
                let stored = self.log.commit(&change, self.now, &mut self.rng);
                stored.map(|()| true)
            }
            // It was on its way when the connection broke.
            (Ask::Store(change), Fate::Fine) => {
                if self.machines.postgres && self.rng.random() {
                    let _ = self.log.commit(&change, self.now, &mut self.rng);
                }
                unknown()
            }
            (Ask::Store(change), Fate::Lost(true)) => {
                if works {
                    let _ = self.log.commit(&change, self.now, &mut self.rng);
                }
                unknown()
            }
            (Ask::Store(_), Fate::Lost(false)) => {
                if self.rng.random() {
                    unknown()
                } else {
                    away()
                }
            }
            (Ask::Store(_), Fate::Refused) => refused(),
            (Ask::Store(change), Fate::Dies(happens)) => {
                if happens && works {
                    let _ = self.log.commit(&change, self.now, &mut self.rng);
                }
                return self.drop_owners(|owner| owner.lease.epoch == lease.epoch);
            }
        };
        if matches!(outcome, Err(commit::Error::Unknown(_))) {
            self.figures.unknown += 1;
        }
        match self.owners[index].book.finish(outcome) {
            Ok(decided) => {
                self.act(index, decided);
                self.go_on(index);
            }
            Err(_) => {
                self.own_troubles.push(self.now);
                self.drop_owners(|owner| owner.lease.epoch == lease.epoch);
            }
        }
    }

    /// What an owner does once it is so.
    fn act(&mut self, index: usize, decided: Vec<Decided>) {
        let epoch = self.owners[index].lease.epoch;
        for (envelope, outcome) in decided {
            match (envelope.from, outcome) {
                (
                    Sender::Entering(outbox, reply),
                    Ok(Decision {
                        entered: Some(participant),
                        waits,
                        effects,
                        ..
                    }),
                ) => {
                    let visit = script::visit(participant);
                    let by = Speaker {
                        participant,
                        connection: outbox.connection,
                    };
                    let entered = Entered { participant, waits };
                    let is_gone = reply.send(Ok(entered)).is_err();
                    if is_gone || waits {
                        let notices = self.millis(5000);
                        self.set(notices, Timer::Notice(epoch, participant, by.connection.0));
                    }
                    match self.people.get_mut(&visit).filter(|_| !is_gone) {
                        // Nobody here waits for a moderator's word.
                        Some(person) if waits => (person.is, person.answer) = (Is::Out, None),
                        Some(person) => {
                            person.is = Is::In(epoch, by);
                            (person.was, person.refused, person.answer) =
                                (Some(participant), 0, None);
                            if matches!(envelope.input, Input::Join(_)) {
                                self.admitted.push(participant);
                            }
                        }
                        None => {}
                    }
                    self.effects(epoch, effects);
                }
                (Sender::Entering(_, reply), Err(refusal)) => {
                    let _ = reply.send(Err(refusal));
                    let asked = match &envelope.input {
                        Input::Join(request) => Some(script::visit(request.participant)),
                        Input::Resume { hash, .. } => Some(script::visit(script::resumed(hash))),
                        _ => None,
                    };
                    if let Some(visit) = asked {
                        self.refused(visit, refusal);
                    }
                }
                (_, Ok(decision)) => self.effects(epoch, decision.effects),
                (_, Err(_)) => {}
            }
        }
    }

    fn effects(&mut self, epoch: i64, effects: Vec<Effect>) {
        for effect in effects {
            let Effect::PutOut(participant, _) = effect else {
                continue;
            };
            if let Some(person) = self.people.get_mut(&script::visit(participant))
                && matches!(person.is, Is::In(by, speaker) if by == epoch && speaker.participant == participant)
            {
                person.is = Is::Out;
            }
        }
    }

    fn refused(&mut self, visit: usize, refusal: Refusal) {
        let Some(person) = self.people.get_mut(&visit) else {
            return;
        };
        match refusal {
            Refusal::TryAgain | Refusal::MeetingEnded | Refusal::RoomChanged => {
                self.try_again(visit)
            }
            Refusal::ResumeFailed => {
                person.was = None;
                self.try_again(visit);
            }
            _ => person.is = Is::Out,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Join(visit) => {
                let person = Person {
                    is: Is::Out,
                    was: None,
                    asked: 0,
                    refused: 0,
                    answer: None,
                };
                self.people.insert(visit, person);
                self.enter(visit);
            }
            Step::Leave(visit) => {
                if let Some(person) = self.people.remove(&visit)
                    && let Is::In(epoch, by) = person.is
                {
                    let at = self.now;
                    self.say(epoch, Input::Leave { by, at });
                }
            }
            Step::Lose(visit) => {
                if let Some(person) = self.people.get_mut(&visit)
                    && let Is::In(epoch, by) = person.is
                {
                    self.cut_off(visit);
                    let since = self.now;
                    self.say(epoch, Input::Disconnected { by, since });
                }
            }
            Step::Change(version) => {
                let (_, room) = &self.script.versions[version];
                let archived_at = self.log.room.archived_at;
                self.log.room = room.clone();
                self.log.room.archived_at = archived_at;
                self.log.command(Command::Rules);
                self.expect_expiry();
            }
            Step::Delete => {
                self.log.room.archived_at = Some(self.now);
                let (reason, at) = (EndReason::RoomDeleted, self.now);
                self.log.command(Command::End { reason, at });
            }
        }
    }
}

/// A transaction that takes longer is in doubt.
const PATIENCE: TimeDelta = TimeDelta::seconds(2);
/// How long somebody waits to be let in.
const PATIENCE_OF_PEOPLE: TimeDelta = TimeDelta::seconds(5);
/// Pause before somebody asks again.
const PAUSE: TimeDelta = TimeDelta::seconds(3);
/// How often somebody asks in a row.
const TRIES: u32 = 5;
/// How long a lease lasts.
pub const LEASE: TimeDelta = TimeDelta::seconds(6);
