//! Somebody goes, for whatever reason; in the end all do.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Decision, Effect, rules};
use crate::{
    id::ParticipantId,
    meetings::{
        Away, EndReason, Fact, Farewell, LeaveReason, Notice, Participant, Role, State, Status,
    },
};

/// A participant's connection is lost, and was last known to stand `since`.
pub fn disconnected(
    decision: &mut Decision,
    participant: &Participant,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) {
    let reason = LeaveReason::ConnectionLost;
    if participant.away.is_some() {
        // Known already.
    } else if participant.resume.is_some() {
        go_away(decision, participant, since, now, reason);
    } else {
        leave(decision, participant, since, reason);
    }
}

/// This node has taken the meeting over: connections that may come back are waited for.
pub fn claimed(
    decision: &mut Decision,
    state: &State,
    renewed_at: DateTime<Utc>,
    reason: LeaveReason,
    now: DateTime<Utc>,
) {
    for participant in &state.participants {
        if participant.resume.is_some() {
            let (since, reason) = match participant.away {
                Some(away) => (away.since, away.reason),
                None => (renewed_at.max(participant.joined_at), reason),
            };
            // The room may have been changed while nobody owned the meeting.
            rules::limit_anew(decision, participant, &state.room, now);
            go_away(decision, participant, since, now, reason);
        } else {
            leave(decision, participant, renewed_at, reason);
        }
    }
}

/// This node stops: whoever cannot come back leaves, and the others are told to.
pub fn shutdown(decision: &mut Decision, state: &State, now: DateTime<Utc>) {
    for participant in &state.participants {
        if participant.resume.is_some() {
            let restarting = Effect::Tell(participant.id, Notice::Restarting);
            decision.effects.push(restarting);
        } else {
            leave(decision, participant, now, LeaveReason::ServerShutdown);
        }
    }
    for waiting in &state.waiting {
        let restarting = Effect::Tell(waiting.request.participant, Notice::Restarting);
        decision.effects.push(restarting);
    }
}

/// The meeting ends, and with it every stay.
pub fn end(decision: &mut Decision, state: &State, at: DateTime<Utc>, reason: EndReason) {
    end_at(decision, state, at, reason, None);
}

/// The meeting ends, and people go to `redirect`.
pub fn end_at(
    decision: &mut Decision,
    state: &State,
    at: DateTime<Utc>,
    reason: EndReason,
    redirect: Option<&Arc<str>>,
) {
    let farewell = Farewell {
        redirect: redirect.cloned(),
        ..LeaveReason::Ended(reason).into()
    };
    let mut at = at.max(state.last_at);
    for participant in &state.participants {
        at = at.max(put_out(decision, participant, at, farewell.clone()));
    }
    // They are in no stay that could end.
    for waiting in &state.waiting {
        let last = Some(Notice::Ended(farewell.clone()));
        let dismiss = Effect::Dismiss(waiting.request.participant, last);
        decision.effects.push(dismiss);
    }
    // Whoever opened it by a call waits to hear of it.
    decision
        .facts
        .push(if state.started_at.is_some() || state.is_awaiting() {
            Fact::Ended { at, reason }
        } else {
            Fact::Abandoned { at }
        });
}

/// Ends one stay among others, who are told.
pub fn leave(
    decision: &mut Decision,
    participant: &Participant,
    at: DateTime<Utc>,
    why: impl Into<Farewell>,
) {
    put_out(decision, participant, at, why.into());
    stop_recording(decision, participant, participant.id);
    let notice = Notice::Left {
        participant: participant.id,
    };
    decision.effects.push(Effect::TellAll {
        except: Some(participant.id),
        notice,
    });
}

/// Ends the stay of somebody who comes in once more, as `newcomer`; the others are told.
pub fn make_room(
    decision: &mut Decision,
    participant: &Participant,
    newcomer: ParticipantId,
    now: DateTime<Utc>,
) {
    put_out(decision, participant, now, LeaveReason::Replaced.into());
    stop_recording(decision, participant, newcomer);
    let notice = Notice::Left {
        participant: participant.id,
    };
    decision.effects.push(Effect::TellAll {
        except: Some(newcomer),
        notice,
    });
}

/// What follows from leaves: where the last moderator has left, the meeting may end; one may be alone. Whoever is waited for is
/// in until that is over.
pub fn follow(decision: &mut Decision, state: &State, now: DateTime<Utc>) {
    let gone = decision.facts.iter().filter_map(|fact| match fact {
        Fact::Left {
            participant, at, ..
        } => {
            let at = participant.away.map_or(*at, |away| away.until.min(now));
            Some((at, participant.role == Role::Moderator))
        }
        _ => None,
    });
    let (mut at, mut moderated) = (None, false);
    for (gone_at, moderates) in gone {
        at = at.max(Some(gone_at));
        moderated |= moderates;
    }
    let Some(at) = at else {
        return;
    };
    let after = decision.after(state).into_owned();
    if after.status == Status::Ended {
        return;
    }
    let moderators = after
        .participants
        .iter()
        .filter(|participant| participant.role == Role::Moderator);
    if after.room.rules.end_when_moderator_leaves && moderated && moderators.count() == 0 {
        end(decision, &after, at, EndReason::ModeratorLeft);
    } else if after.participants.len() == 1 && state.participants.len() > 1 {
        decision.facts.push(Fact::OneLeft { since: at });
    }
}

/// Whoever leaves does not record any more; all hear of it but one.
fn stop_recording(decision: &mut Decision, participant: &Participant, except: ParticipantId) {
    if participant.shown.is_recording {
        decision.effects.push(Effect::TellAll {
            except: Some(except),
            notice: Notice::Recording {
                by: participant.id,
                on: false,
            },
        });
    }
}

/// Ends a stay; returns when it ended. Whoever was away left when their connection was lost, and for that reason: they
/// were not in since.
fn put_out(
    decision: &mut Decision,
    participant: &Participant,
    at: DateTime<Utc>,
    why: Farewell,
) -> DateTime<Utc> {
    let (at, why) = match participant.away {
        Some(away) => (away.since.min(at), away.reason.into()),
        None => (at, why),
    };
    let at = at.max(participant.joined_at);
    decision.facts.push(Fact::Left {
        participant: participant.clone(),
        at,
        reason: why.reason,
    });
    decision.effects.push(Effect::PutOut(participant.id, why));
    decision.effects.push(Effect::Unplug(participant.id));
    at
}

fn go_away(
    decision: &mut Decision,
    participant: &Participant,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    reason: LeaveReason,
) {
    let away = Away {
        since,
        until: now + RESUME_WINDOW,
        reason,
    };
    decision.facts.push(Fact::WentAway {
        participant: participant.id,
        away,
    });
}

/// How long a lost connection may come back.
pub const RESUME_WINDOW: TimeDelta = TimeDelta::seconds(30);
