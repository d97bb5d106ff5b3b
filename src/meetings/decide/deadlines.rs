//! Which rule of a meeting fires when, and what it does then.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Decision, leave,
    waiting::{self, KNOCK_WINDOW},
};
use crate::{
    deadlines::{Key, Kind},
    meetings::{EndReason, LeaveReason, State, Status, TurnedAway},
};

impl State {
    /// When which rule fires.
    pub fn deadlines(&self) -> BTreeMap<Key, DateTime<Utc>> {
        let mut deadlines = BTreeMap::new();
        if self.status == Status::Ended {
            return deadlines;
        }
        for participant in &self.participants {
            let mut set = |kind, due| {
                deadlines.insert(
                    Key {
                        kind,
                        subject: participant.id.into(),
                    },
                    due,
                );
            };
            if let Some(due) = participant.time_up_at {
                set(Kind::ParticipantTimeUp, due);
            }
            if let Some(due) = participant.token_expires_at {
                set(Kind::TokenExpires, due);
            }
            if let Some(away) = participant.away {
                set(Kind::Resume, away.until);
            }
        }
        if let Some(due) = self
            .room
            .rules
            .expires_at()
            .filter(|_| self.room.rules.eject_at_expiry)
        {
            deadlines.insert(
                Key {
                    kind: Kind::RoomExpires,
                    subject: self.room.id.into(),
                },
                due,
            );
        }
        for waiting in &self.waiting {
            let key = Key {
                kind: Kind::Knock,
                subject: waiting.request.participant.into(),
            };
            deadlines.insert(key, waiting.since + KNOCK_WINDOW);
        }
        // Nobody has joined yet, and somebody asks to.
        let is_asked_for = self.status == Status::Open && !self.waiting.is_empty();
        if let Some(since) = self.empty_since.filter(|_| !is_asked_for) {
            deadlines.insert(
                Key {
                    kind: Kind::Empty,
                    subject: self.id.into(),
                },
                since + self.empty_for(),
            );
        }
        deadlines
    }

    /// How long the meeting waits for somebody while nobody is in.
    fn empty_for(&self) -> TimeDelta {
        let rule = self.room.rules.end_when_empty_after.into();
        match self.status {
            // The join that opened it is on its way.
            Status::Open => OPEN_FOR.max(rule),
            Status::Live | Status::Ended => rule,
        }
    }
}

pub fn due(decision: &mut Decision, state: &State, key: Key, now: DateTime<Utc>) {
    // A deadline looks at the world when it fires: one that was moved, or no longer applies, does nothing.
    let Some(due) = state
        .deadlines()
        .get(&key)
        .copied()
        .filter(|due| *due <= now)
    else {
        return;
    };
    match key.kind {
        Kind::ParticipantTimeUp => {
            if let Some(participant) = state.find(key.subject.into()) {
                leave::leave(decision, participant, due, LeaveReason::TimeLimit);
            }
        }
        Kind::TokenExpires => {
            if let Some(participant) = state.find(key.subject.into()) {
                leave::leave(decision, participant, due, LeaveReason::TokenExpired);
            }
        }
        Kind::Resume => {
            if let Some(participant) = state.find(key.subject.into()) {
                leave::leave(decision, participant, due, LeaveReason::ConnectionLost);
            }
        }
        Kind::Knock => {
            if let Some(waiting) = state.find_waiting(key.subject.into()) {
                waiting::turn_away(decision, state, waiting, TurnedAway::NotAnswered);
            }
        }
        Kind::Empty => leave::end(decision, state, due, EndReason::Empty),
        // The room's own deadline says so too, through a command; whichever comes first.
        Kind::RoomExpires => leave::end(decision, state, due, EndReason::RoomExpired),
    }
}

/// Whether a deadline of a meeting is stored with it; the room's own is stored with the room, and who waits is not stored.
pub fn is_stored_deadline(key: &Key) -> bool {
    !matches!(key.kind, Kind::RoomExpires | Kind::Knock)
}

/// How long a meeting that nobody has joined yet waits at least.
pub const OPEN_FOR: TimeDelta = TimeDelta::seconds(10);
