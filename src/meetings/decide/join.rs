//! Somebody comes in, or comes back.

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, Utc};

use super::{Decision, Effect, leave, rules, waiting, warnings};
use crate::{
    id::ParticipantId,
    meetings::{
        Block, Connection, Fact, JoinRequest, Notice, Participant, Permissions, Person, Refusal,
        ResumeHash, Role, Scene, Sharing, Shown, Speaker, State, Status, Waiting,
        admission::{self, Applicant},
    },
};

/// Somebody wants in.
///
/// # Errors
///
/// Those of [`admission::check`]; [`Refusal::RoomFull`] where too many wait.
pub fn join(
    decision: &mut Decision,
    state: &State,
    request: &JoinRequest,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    decision.entered = Some(request.participant);
    rules::change(decision, state, &request.room, now);
    // The room may have changed since the meeting knew of it.
    let mut ruled = Cow::Borrowed(state);
    for fact in &decision.facts {
        super::apply(ruled.to_mut(), fact);
    }
    let way = admission::check(&ruled.room, &Applicant::from(request), Some(&ruled), now)?;
    if way.must_wait {
        waiting::wait(decision, &ruled, request, now)
    } else {
        let_in(decision, &ruled, request, &way.replaced, now);
        Ok(())
    }
}

/// Somebody is in from now on, whom nothing keeps out: they hear who is in, the others hear of them. The stays in `replaced`
/// make room for theirs.
pub fn let_in(
    decision: &mut Decision,
    state: &State,
    request: &JoinRequest,
    replaced: &[ParticipantId],
    now: DateTime<Utc>,
) {
    let rules = &state.room.rules;
    let grant = request.grant.as_ref();
    let others = || {
        state
            .participants
            .iter()
            .filter(|known| !replaced.contains(&known.id))
    };
    // Before the newcomer is in: what is said of the others is not for them.
    for id in replaced {
        if let Some(known) = state.find(*id) {
            leave::make_room(decision, known, request.participant, now);
        }
    }
    let own_limit = grant.and_then(|grant| grant.eject_after);
    if state.status == Status::Open {
        decision.facts.push(Fact::Started { at: now });
    }
    let participant = Participant {
        id: request.participant,
        name: request.shown_name().to_owned(),
        role: if rules.first_joiner_moderates && others().next().is_none() {
            Role::Moderator
        } else {
            Applicant::from(request).role()
        },
        token: grant.map(|grant| grant.token),
        identity: grant.map_or_else(Arc::default, |grant| grant.identity.clone()),
        device: request.device.clone(),
        address: request.address,
        joined_at: now,
        time_up_at: own_limit
            .or_else(|| rules.longest_stay())
            .map(|limit| now + limit),
        has_own_limit: own_limit.is_some(),
        token_expires_at: grant
            .filter(|grant| grant.eject_at_expiry)
            .and_then(|grant| grant.expires_at),
        resume: request.resume,
        away: None,
        connection: request.connection,
        shown: Shown::default(),
        permissions: Permissions::new(),
        sharing: Sharing::default(),
        warned: Vec::new(),
    };
    let (id, newcomer) = (participant.id, Person::from(&participant));
    let others = others().map(Person::from).collect();
    decision.effects.push(Effect::Tell(
        id,
        Notice::Welcome {
            you: newcomer.clone(),
            others,
            room: Scene::of(state),
        },
    ));
    if state.is_locked() {
        let notice = Notice::Locked {
            is_locked: true,
            by: None,
        };
        decision.effects.push(Effect::Tell(id, notice));
    }
    if participant.role == Role::Moderator {
        waiting::show(decision, state, id);
    }
    decision.effects.push(Effect::ShowChat(id));
    decision.effects.push(Effect::TellAll {
        except: Some(id),
        notice: Notice::Joined(newcomer),
    });
    decision.facts.push(Fact::Joined(participant));
    warnings::repeat(decision, state, id, None);
}

/// A lost connection is back.
///
/// # Errors
///
/// [`Refusal::ResumeFailed`] where nobody who is in has this token, [`Refusal::Ejected`] where whoever had it was put out.
pub fn resume(
    decision: &mut Decision,
    state: &State,
    hash: &ResumeHash,
    last: Option<u64>,
    connection: Connection,
) -> Result<(), Refusal> {
    // A hash of 128 random bits tells nothing by the time that comparing it takes.
    let participant = state
        .participants
        .iter()
        .find(|participant| participant.resume.as_ref() == Some(hash));
    let refusal = if state.blocked.contains(&Block::Resume(*hash)) {
        Refusal::Ejected
    } else {
        Refusal::ResumeFailed
    };
    let participant = participant.ok_or(refusal)?.clone();
    let id = participant.id;
    decision.entered = Some(id);
    if participant.away.is_some() {
        decision.facts.push(Fact::CameBack { participant: id });
    }
    decision.facts.push(Fact::Connected(Speaker {
        participant: id,
        connection,
    }));
    let people = state.participants.iter().map(Person::from).collect();
    let seen: &[Waiting] = match participant.role {
        Role::Moderator => &state.waiting,
        Role::Participant => &[],
    };
    let waiting = seen
        .iter()
        .map(|waiting| (waiting.request.participant, waiting.name()))
        .collect();
    decision.effects.push(Effect::CatchUp {
        participant: id,
        last,
        snapshot: Notice::Snapshot {
            participant: id,
            people,
            is_locked: state.is_locked(),
            waiting,
            room: Scene::of(state),
        },
    });
    if let Some(away) = participant.away {
        warnings::repeat(decision, state, id, Some(away.since));
    }
    Ok(())
}
