//! Which rule of a meeting fires when, and what it does then.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Decision, leave,
    waiting::{self, KNOCK_WINDOW},
    warnings,
};
use crate::{
    deadlines::{Key, Kind, Subject},
    meetings::{EndReason, LeaveReason, State, Status, TurnedAway},
};

impl State {
    /// When which rule fires.
    pub fn deadlines(&self) -> BTreeMap<Key, DateTime<Utc>> {
        let mut deadlines = BTreeMap::new();
        self.each_deadline(|key, due| {
            deadlines.insert(key, due);
        });
        deadlines
    }

    /// When the next rule fires.
    pub fn next_due(&self) -> Option<DateTime<Utc>> {
        let mut next: Option<DateTime<Utc>> = None;
        self.each_deadline(|_, due| next = Some(next.map_or(due, |next| next.min(due))));
        next
    }

    /// The rules that fire by `now`, the oldest first.
    pub fn due(&self, now: DateTime<Utc>) -> Vec<Key> {
        let mut due = Vec::new();
        self.each_deadline(|key, at| {
            if at <= now {
                due.push((at, key));
            }
        });
        due.sort_unstable();
        due.into_iter().map(|(_, key)| key).collect()
    }

    /// When this rule fires.
    fn deadline(&self, wanted: Key) -> Option<DateTime<Utc>> {
        let mut found = None;
        self.each_deadline(|key, due| {
            if key == wanted {
                found = Some(due);
            }
        });
        found
    }

    /// Goes through all that is to fire. An owner does that for each input, so nothing is collected here.
    fn each_deadline(&self, mut each: impl FnMut(Key, DateTime<Utc>)) {
        if self.status == Status::Ended {
            return;
        }
        let mut set = |kind, subject: Subject, due: Option<DateTime<Utc>>| {
            if let Some(due) = due {
                each(Key { kind, subject }, due);
            }
        };
        for participant in &self.participants {
            let subject = participant.id.into();
            set(Kind::ParticipantTimeUp, subject, participant.time_up_at);
            set(Kind::TokenExpires, subject, participant.token_expires_at);
            set(
                Kind::Resume,
                subject,
                participant.away.map(|away| away.until),
            );
            set(Kind::Warning, subject, participant.next_warning());
        }
        for waiting in &self.waiting {
            let subject = waiting.request.participant.into();
            set(Kind::Knock, subject, Some(waiting.since + KNOCK_WINDOW));
        }
        let meeting = self.id.into();
        set(Kind::RoomExpires, self.room.id.into(), self.room_ends_at());
        set(Kind::MeetingTimeUp, meeting, self.time_up_at());
        set(Kind::NoActivity, meeting, self.no_activity_at());
        set(Kind::NeverJoined, meeting, self.never_joined_at());
        set(Kind::Empty, meeting, self.empty_at());
        set(Kind::OneLeft, meeting, self.one_left_at());
        set(Kind::Warning, meeting, self.next_warning());
    }

    /// When the room's expiry ends it. One that is open and that nobody may join any more is over.
    pub(super) fn room_ends_at(&self) -> Option<DateTime<Utc>> {
        let rules = &self.room.rules;
        let ends = rules.eject_at_expiry || self.status == Status::Open;
        let at = rules.expires_at().filter(|_| ends)?;
        Some(self.ruled(at))
    }

    /// When it has lasted long enough.
    pub(super) fn time_up_at(&self) -> Option<DateTime<Utc>> {
        self.ends_at().map(|at| self.ruled(at))
    }

    fn no_activity_at(&self) -> Option<DateTime<Utc>> {
        let limit = TimeDelta::from(self.room.rules.end_after_no_activity?);
        Some(self.ruled(self.quiet_since()? + limit))
    }

    fn never_joined_at(&self) -> Option<DateTime<Utc>> {
        let limit = TimeDelta::from(
            self.room
                .rules
                .empty_timeout
                .filter(|_| self.is_awaiting())?,
        );
        Some(self.ruled(self.created_at + limit))
    }

    fn empty_at(&self) -> Option<DateTime<Utc>> {
        // Nobody has joined yet, and somebody asks to.
        let is_asked_for = self.status == Status::Open && !self.waiting.is_empty();
        let since = self.empty_since.filter(|_| !is_asked_for)?;
        let rule = self.room.rules.end_when_empty_after.into();
        Some(match self.status {
            // The join that opened it is on its way.
            Status::Open => since + OPEN_FOR.max(rule),
            Status::Live | Status::Ended => self.ruled(since + rule),
        })
    }

    fn one_left_at(&self) -> Option<DateTime<Utc>> {
        let limit = TimeDelta::from(self.room.rules.end_when_one_left_after?);
        Some(self.ruled(self.one_left_since? + limit))
    }

    /// The time at which a rule ends the meeting that would have done so at `due`: not before it was made.
    fn ruled(&self, due: DateTime<Utc>) -> DateTime<Utc> {
        due.max(self.ruled_at)
    }
}

pub fn due(decision: &mut Decision, state: &State, key: Key, now: DateTime<Utc>) {
    // A deadline looks at the world when it fires: one that was moved, or no longer applies, does nothing.
    let Some(due) = state.deadline(key).filter(|due| *due <= now) else {
        return;
    };
    let end = match key.kind {
        Kind::ParticipantTimeUp | Kind::TokenExpires | Kind::Resume => {
            let reason = match key.kind {
                Kind::ParticipantTimeUp => LeaveReason::TimeLimit,
                Kind::TokenExpires => LeaveReason::TokenExpired,
                _ => LeaveReason::ConnectionLost,
            };
            if let Some(participant) = state.find(key.subject.into()) {
                leave::leave(decision, participant, due, reason);
            }
            return;
        }
        Kind::Knock => {
            if let Some(waiting) = state.find_waiting(key.subject.into()) {
                waiting::turn_away(decision, state, waiting, TurnedAway::NotAnswered);
            }
            return;
        }
        Kind::Warning => return warnings::warn(decision, state, key.subject, now),
        // The room's own deadline says so too, through a command; whichever comes first.
        Kind::RoomExpires => EndReason::RoomExpired,
        Kind::MeetingTimeUp => EndReason::DurationReached,
        Kind::NoActivity => EndReason::NoActivity,
        Kind::NeverJoined => EndReason::NeverJoined,
        Kind::Empty => EndReason::Empty,
        Kind::OneLeft => EndReason::OneLeft,
        // A room's, which meetings do not have.
        Kind::RoomUnused => return,
    };
    leave::end(decision, state, due, end);
}

/// Whether a deadline of a meeting is stored with it: the room's own is stored with the room; who waits, and warnings, are not
/// stored.
pub fn is_stored_deadline(key: &Key) -> bool {
    !matches!(key.kind, Kind::RoomExpires | Kind::Knock | Kind::Warning)
}

/// How long a meeting that nobody has joined yet waits at least.
pub const OPEN_FOR: TimeDelta = TimeDelta::seconds(10);
