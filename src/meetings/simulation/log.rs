//! Postgres, as far as a room's meetings need it, in memory: it refuses stale epochs and what does not follow its last
//! transaction, and keeps rows and events.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rand::rngs::SmallRng;

use super::run::LEASE;
use crate::{
    deadlines::Key,
    id::{BatchId, MeetingId, NodeId},
    meetings::{
        Command, Connection, LeaveReason, Sharing, Shown, State, Status,
        commit::{self, Change},
        decide::is_stored_deadline,
        owner::Lease,
    },
    rooms::Room,
    usage, webhooks,
};

/// The rows of one room and its meetings.
pub struct Log {
    /// The room.
    pub room: Room,
    /// The meeting that has not ended.
    pub running: Option<Row>,
    /// The meeting that has just ended.
    ended: Option<Row>,
    /// The last transactions of meetings that have ended.
    last: Vec<(MeetingId, Option<BatchId>)>,
    commands_given: i64,
}

/// A meeting's rows.
pub struct Row {
    /// The meeting, as its rows tell.
    state: State,
    /// The transaction before the next.
    batch: Option<BatchId>,
    /// Who may write.
    pub lease: Lease,
    /// Until when, while nobody renews it; `None` while somebody does.
    pub lapses: Option<DateTime<Utc>>,
    /// When its owner is last known to have lived.
    pub renewed_at: DateTime<Utc>,
    /// Whether its owner gave it up in order.
    pub given_up: bool,
    deadlines: BTreeMap<Key, DateTime<Utc>>,
    /// Not obeyed yet.
    pub commands: Vec<(i64, Command)>,
    /// The outbox.
    pub events: Vec<Entry>,
    /// The metering ledger.
    pub usage: Vec<usage::Stay>,
}

/// An event, as it is stored.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was committed.
    pub committed: DateTime<Utc>,
    /// Its number.
    pub seq: i64,
    /// When it came true.
    pub at: DateTime<Utc>,
    /// What came true.
    pub kind: webhooks::Kind,
}

impl Log {
    /// A room without meetings.
    pub fn new(room: Room) -> Self {
        Self {
            room,
            running: None,
            ended: None,
            last: Vec::new(),
            commands_given: 0,
        }
    }

    /// Opens a meeting as `state`, which must not run yet.
    pub fn open(&mut self, lease: Lease, state: State) {
        assert!(self.running.is_none(), "one meeting at a time");
        self.running = Some(Row {
            renewed_at: state.created_at,
            state,
            batch: None,
            lease,
            lapses: None,
            given_up: false,
            deadlines: BTreeMap::new(),
            commands: Vec::new(),
            events: Vec::new(),
            usage: Vec::new(),
        });
    }

    /// Leaves a command for the owner of the meeting that runs.
    pub fn command(&mut self, command: Command) {
        if let Some(row) = &mut self.running {
            self.commands_given += 1;
            row.commands.push((self.commands_given, command));
        }
    }

    /// Writes a change, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`commit::Error::Fenced`] where the epoch is stale, or the change does not follow the last one.
    pub fn commit(
        &mut self,
        change: &Change,
        now: DateTime<Utc>,
        rng: &mut SmallRng,
    ) -> Result<(), commit::Error> {
        let row = self.running.as_mut().filter(|row| {
            (row.lease.meeting, row.lease.node, row.lease.epoch)
                == (change.lease.meeting, change.lease.node, change.lease.epoch)
                && row.batch == change.previous
        });
        let row = row.ok_or(commit::Error::Fenced)?;
        let events = commit::events(change, rng).into_iter();
        row.events.extend(events.filter_map(|event| {
            Some(Entry {
                committed: now,
                seq: event.seq?,
                at: event.at,
                kind: event.kind,
            })
        }));
        row.usage.extend(commit::stays(change));
        let (moved, gone) = commit::moves(change);
        row.deadlines.extend(moved);
        gone.iter().for_each(|key| {
            row.deadlines.remove(key);
        });
        let mut kept = change.after.deadlines();
        kept.retain(|key, _| is_stored_deadline(key));
        row.commands
            .retain(|(id, _)| change.commands.iter().all(|(obeyed, _)| obeyed != id));
        (row.state, row.batch) = (change.after.clone(), Some(change.batch));
        if row.state.status == Status::Ended {
            self.last.push((row.lease.meeting, row.batch));
            self.ended = self.running.take();
        } else {
            assert_eq!(
                row.deadlines, kept,
                "the deadlines that are stored are the meeting's"
            );
        }
        Ok(())
    }

    /// Whether the meeting's last transaction was this one.
    pub fn happened(&self, lease: &Lease, batch: BatchId) -> bool {
        let running = self
            .running
            .iter()
            .map(|row| (row.lease.meeting, row.batch));
        let mut all = running.chain(self.last.iter().copied());
        all.any(|known| known == (lease.meeting, Some(batch)))
    }

    /// The meeting that has just ended, once.
    pub fn take_ended(&mut self) -> Option<Row> {
        self.ended.take()
    }

    /// Makes the meeting that runs `node`'s own, and reads it.
    pub fn claim(&mut self, node: NodeId) -> Option<(Lease, (State, Option<BatchId>))> {
        let row = self.running.as_mut()?;
        row.lease.node = node;
        row.lease.epoch += 1;
        row.lapses = None;
        Some((row.lease, (reread(&row.state, &self.room), row.batch)))
    }
}

impl Row {
    /// Nobody renews the lease any more, which was renewed last at `renewed_at`.
    pub fn lapse(&mut self, renewed_at: DateTime<Utc>) {
        if self.lapses.is_none() {
            self.renewed_at = self.renewed_at.max(renewed_at);
            self.lapses = Some(self.renewed_at + LEASE);
            self.given_up = false;
        }
    }
}

/// What rows tell of a meeting: not its connections, and of those who are away not until when or why.
fn reread(state: &State, room: &Room) -> State {
    let mut state = state.clone();
    state.room = room.clone();
    state.warned.clear();
    for participant in &mut state.participants {
        participant.connection = Connection::default();
        participant.shown = Shown::default();
        participant.sharing = Sharing::default();
        participant.warned.clear();
        if let Some(away) = &mut participant.away {
            away.until = away.since;
            away.reason = LeaveReason::ConnectionLost;
        }
    }
    state
}
