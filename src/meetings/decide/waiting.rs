//! Somebody waits to be let in: they come, are let in or sent away, or go.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Decision, Effect, join};
use crate::meetings::{
    Done, Fact, JoinRequest, Notice, Refusal, Speaker, State, TurnedAway, Waiters, Waiting, Waits,
    admission::{self, Applicant},
};

impl State {
    /// Who waits behind this connection.
    pub fn waiter(&self, by: Speaker) -> Option<&Waiting> {
        self.find_waiting(by.participant)
            .filter(|waiting| waiting.request.connection == by.connection)
    }
}

/// Somebody waits from now on; they and the moderators are told.
///
/// # Errors
///
/// [`Refusal::RoomFull`] when too many wait.
pub fn wait(
    decision: &mut Decision,
    state: &State,
    request: &JoinRequest,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    if state.waiting.len() >= MOST_WAITING {
        return Err(Refusal::RoomFull);
    }
    let waiting = Waiting {
        request: Arc::new(request.clone()),
        since: now,
    };
    let notice = Notice::from(&waiting);
    decision.waits = true;
    decision
        .effects
        .push(Effect::Tell(request.participant, notice.clone()));
    tell_moderators(decision, state, &notice);
    decision.facts.push(Fact::Knocked(waiting));
    Ok(())
}

/// Lets in those who are meant and wait, as far as there are places.
///
/// # Errors
///
/// [`Refusal::TargetNotFound`] where none of them waits; what keeps the first of them out, where none comes in.
pub fn admit(
    decision: &mut Decision,
    state: &State,
    whom: &Waiters,
    now: DateTime<Utc>,
) -> Result<Done, Refusal> {
    let meant = meant(state, whom)?;
    let mut draft = state.clone();
    let (mut done, mut refused) = (Done::default(), None);
    for waiting in meant {
        let request = &waiting.request;
        let id = request.participant;
        // What they waited for was a moderator's word; the rest is asked as of everybody.
        let applicant = Applicant::from(&**request);
        let replaced = match admission::check_admitted(&draft, &applicant, now) {
            Ok(replaced) => replaced,
            Err(refusal) => {
                refused.get_or_insert(refusal);
                continue;
            }
        };
        let mut let_in = Decision::default();
        let_in.facts.push(Fact::WaitsNoMore { participant: id });
        let_in.effects.push(Effect::LetIn(id));
        join::let_in(&mut let_in, &draft, request, &replaced, now);
        for fact in &let_in.facts {
            super::apply(&mut draft, fact);
        }
        decision.facts.append(&mut let_in.facts);
        decision.effects.append(&mut let_in.effects);
        done.participants.push(id);
    }
    match refused {
        Some(refusal) if done.participants.is_empty() => Err(refusal),
        _ => Ok(done),
    }
}

/// Sends those who are meant and wait away.
///
/// # Errors
///
/// [`Refusal::TargetNotFound`] where none of them waits.
pub fn reject(
    decision: &mut Decision,
    state: &State,
    whom: &Waiters,
    reason: Option<&str>,
) -> Result<Done, Refusal> {
    let reason: Option<Arc<str>> = reason.map(Arc::from);
    let mut done = Done::default();
    for waiting in meant(state, whom)? {
        turn_away(
            decision,
            state,
            waiting,
            TurnedAway::Rejected(reason.clone()),
        );
        done.participants.push(waiting.request.participant);
    }
    Ok(done)
}

/// Sends one who waits away, for whatever reason.
pub fn turn_away(decision: &mut Decision, state: &State, waiting: &Waiting, why: TurnedAway) {
    forget(decision, state, waiting, Some(Notice::TurnedAway(why)));
}

/// One who waits has gone by themself.
pub fn gone(decision: &mut Decision, state: &State, waiting: &Waiting) {
    forget(decision, state, waiting, None);
}

/// Shows to somebody who moderates from now on who waits.
pub fn show(decision: &mut Decision, state: &State, moderator: crate::id::ParticipantId) {
    let waiting = state.waiting.iter().map(Notice::from);
    decision
        .effects
        .extend(waiting.map(|notice| Effect::Tell(moderator, notice)));
}

/// Who waits, as the app is told.
pub fn list(state: &State) -> Done {
    let waits = |waiting: &Waiting| {
        let Waiting { request, since } = waiting;
        let grant = request.grant.as_ref();
        Waits {
            participant: request.participant,
            name: request.shown_name().to_owned(),
            external_user_id: grant.and_then(|grant| grant.identity.external_user_id.clone()),
            since: *since,
        }
    };
    Done {
        waiting: state.waiting.iter().map(waits).collect(),
        ..Done::default()
    }
}

fn forget(decision: &mut Decision, state: &State, waiting: &Waiting, last: Option<Notice>) {
    let participant = waiting.request.participant;
    decision.facts.push(Fact::WaitsNoMore { participant });
    decision.effects.push(Effect::Dismiss(participant, last));
    tell_moderators(decision, state, &Notice::WaitsNoMore { participant });
}

fn meant<'a>(state: &'a State, whom: &Waiters) -> Result<Vec<&'a Waiting>, Refusal> {
    let is_meant = |waiting: &&Waiting| match whom {
        Waiters::All => true,
        Waiters::These(ids) => ids.contains(&waiting.request.participant),
    };
    let meant: Vec<_> = state.waiting.iter().filter(is_meant).collect();
    match whom {
        Waiters::These(_) if meant.is_empty() => Err(Refusal::TargetNotFound),
        _ => Ok(meant),
    }
}

fn tell_moderators(decision: &mut Decision, state: &State, notice: &Notice) {
    let told = state
        .moderators()
        .map(|moderator| Effect::Tell(moderator.id, notice.clone()));
    decision.effects.extend(told);
}

/// How long somebody waits before nobody answering is an answer.
pub const KNOCK_WINDOW: TimeDelta = TimeDelta::minutes(10);
/// Who waits in one meeting at most.
const MOST_WAITING: usize = 200;
