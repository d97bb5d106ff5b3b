//! People are warned before time puts them out.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Decision, Effect};
use crate::{
    deadlines::{Kind, Subject},
    id::ParticipantId,
    meetings::{EndReason, Fact, LeaveReason, Notice, Participant, State, Status, Warned},
};

/// An end that people are warned of.
#[derive(Clone, Copy)]
struct Ending {
    of: Kind,
    at: DateTime<Utc>,
    /// When its clock started: nobody is warned then, or before.
    since: Option<DateTime<Utc>>,
    reason: LeaveReason,
}

impl State {
    /// When all are warned next.
    pub fn next_warning(&self) -> Option<DateTime<Utc>> {
        let endings = self.endings();
        endings.filter_map(|end| end.next(&self.warned)).min()
    }

    /// The ends that concern all who are in.
    fn endings(&self) -> impl Iterator<Item = Ending> {
        let room = self.room_ends_at().map(|at| Ending {
            of: Kind::RoomExpires,
            at,
            since: None,
            reason: LeaveReason::Ended(EndReason::RoomExpired),
        });
        let time_up = self.time_up_at().map(|at| Ending {
            of: Kind::MeetingTimeUp,
            at,
            since: self.started_at,
            reason: LeaveReason::Ended(EndReason::DurationReached),
        });
        let is_live = self.status == Status::Live;
        room.into_iter().chain(time_up).filter(move |_| is_live)
    }
}

impl Participant {
    /// When they alone are warned next. Whoever is away is warned once they are back.
    pub fn next_warning(&self) -> Option<DateTime<Utc>> {
        let endings = self.endings().filter(|_| self.away.is_none());
        endings.filter_map(|end| end.next(&self.warned)).min()
    }

    /// The ends that concern them alone.
    fn endings(&self) -> impl Iterator<Item = Ending> {
        let time_up = self.time_up_at.map(|at| Ending {
            of: Kind::ParticipantTimeUp,
            at,
            since: Some(self.joined_at),
            reason: LeaveReason::TimeLimit,
        });
        let expires = self.token_expires_at.map(|at| Ending {
            of: Kind::TokenExpires,
            at,
            since: None,
            reason: LeaveReason::TokenExpired,
        });
        time_up.into_iter().chain(expires)
    }
}

impl Ending {
    /// The leads of the warnings that are still to be given, the longest first. None is given twice for one instant.
    fn leads(self, warned: &[Warned]) -> impl Iterator<Item = TimeDelta> {
        let given = warned
            .iter()
            .find(|known| known.of == self.of && known.ends_at == self.at)
            .map_or(TimeDelta::MAX, |known| known.lead);
        LEADS.into_iter().filter(move |lead| {
            let fits = self.since.is_none_or(|since| self.at - *lead > since);
            fits && *lead < given
        })
    }

    /// When the next warning of it is due.
    fn next(self, warned: &[Warned]) -> Option<DateTime<Utc>> {
        self.leads(warned).next().map(|lead| self.at - lead)
    }

    /// The warning that is due: one, however many were missed, and none of what is over already.
    fn due(self, warned: &[Warned], now: DateTime<Utc>) -> Option<Warned> {
        if self.at <= now {
            return None;
        }
        let passed = self.leads(warned).filter(|lead| self.at - *lead <= now);
        passed.last().map(|lead| Warned {
            of: self.of,
            ends_at: self.at,
            lead,
            at: now,
        })
    }

    fn notice(self) -> Notice {
        Notice::Warning {
            reason: self.reason,
            ends_at: self.at,
        }
    }
}

/// Warns all, or the one whom `subject` means.
pub fn warn(decision: &mut Decision, state: &State, subject: Subject, now: DateTime<Utc>) {
    if subject == state.id.into() {
        for end in state.endings() {
            if let Some(warned) = end.due(&state.warned, now) {
                let participant = None;
                decision.facts.push(Fact::Warned {
                    participant,
                    warned,
                });
                decision.effects.push(Effect::TellAll {
                    except: None,
                    notice: end.notice(),
                });
            }
        }
    } else if let Some(known) = state.find(subject.into()) {
        for end in known.endings() {
            if let Some(warned) = end.due(&known.warned, now) {
                let participant = Some(known.id);
                decision.facts.push(Fact::Warned {
                    participant,
                    warned,
                });
                decision.effects.push(Effect::Tell(known.id, end.notice()));
            }
        }
    }
}

/// Tells somebody who comes in, or has been away `since`, what all were warned of meanwhile and still lies ahead.
pub fn repeat(
    decision: &mut Decision,
    state: &State,
    participant: ParticipantId,
    since: Option<DateTime<Utc>>,
) {
    if state.warned.is_empty() {
        return;
    }
    // A room that was changed by this very join has other ends.
    let after = decision.after(state);
    let told: Vec<Notice> = after
        .endings()
        .filter(|end| {
            after.warned.iter().any(|warned| {
                let is_new = since.is_none_or(|since| warned.at >= since);
                warned.of == end.of && warned.ends_at == end.at && is_new
            })
        })
        .map(Ending::notice)
        .collect();
    for notice in told {
        decision.effects.push(Effect::Tell(participant, notice));
    }
}

/// How long before an end people are warned of it, the longest first.
const LEADS: [TimeDelta; 2] = [TimeDelta::minutes(5), TimeDelta::minutes(1)];
