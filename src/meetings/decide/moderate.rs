//! What moderators and the app do to a meeting. The rules are the same for both; who is told is said where it differs.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Decision, Effect, leave, waiting};
use crate::{
    id::ParticipantId,
    meetings::{
        Action, Block, By, Done, EndReason, Extension, Fact, Farewell, Notice, Order, Participant,
        Permission, Permissions, Person, PutOut, Refusal, Role, Shown, State, TurnedAway, Whom,
    },
};

/// Does what is asked.
///
/// # Errors
///
/// [`Refusal::Unauthorized`] from who does not moderate, [`Refusal::NotJoined`] from who is not in; those of the action.
pub fn moderate(
    decision: &mut Decision,
    state: &State,
    by: &By,
    action: &Action,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let moderator = match by {
        By::Moderator(speaker) => {
            let speaker = state.speaker(*speaker)?;
            if speaker.role != Role::Moderator {
                return Err(Refusal::Unauthorized(action.verb()));
            }
            Some(speaker.id)
        }
        By::App { request } => {
            decision.request = request.clone();
            None
        }
    };
    decision.done = match action {
        Action::Lock(is_locked) => lock(decision, *is_locked, moderator),
        Action::Admit(whom) => waiting::admit(decision, state, whom, now)?,
        Action::Reject { whom, reason } => {
            waiting::reject(decision, state, whom, reason.as_deref())?
        }
        Action::PutOut { whom, how, reason } => put_out(
            decision,
            state,
            moderator,
            (whom, *how, reason.as_deref()),
            now,
        )?,
        Action::Switch { target, orders } => switch(decision, state, moderator, *target, orders)?,
        Action::Change {
            target,
            role,
            permissions,
        } => change(decision, state, moderator, *target, *role, permissions)?,
        Action::End { redirect } => {
            let reason = match by {
                By::Moderator(_) => EndReason::EndedByModerator,
                By::App { .. } => EndReason::EndedByApi,
            };
            let redirect = redirect.as_ref().map(|url| Arc::from(url.as_str()));
            leave::end_at(decision, state, now, reason, redirect.as_ref());
            let participants = state.participants.iter();
            concerning(participants.map(|participant| participant.id))
        }
        Action::Message { to, text, data } => {
            let notice = Notice::Message {
                text: text.as_deref().map(Arc::from),
                data: data.clone().map(Arc::new),
            };
            message(decision, state, to.as_deref(), &notice)
        }
        Action::Extend(extension) => extend(decision, state, *extension, now)?,
        Action::ListWaiting => waiting::list(state),
    };
    Ok(())
}

/// Locks or unlocks, and says so whether or not it was so already. Who waits goes on waiting.
fn lock(decision: &mut Decision, is_locked: bool, by: Option<ParticipantId>) -> Done {
    decision.facts.push(Fact::Locked(Some(is_locked)));
    decision.effects.push(Effect::TellAll {
        except: None,
        notice: Notice::Locked { is_locked, by },
    });
    Done::default()
}

/// Puts people out: each hears what is done to them, then why it is over; then the others hear that they have left.
fn put_out(
    decision: &mut Decision,
    state: &State,
    moderator: Option<ParticipantId>,
    (whom, how, reason): (&[Whom], PutOut, Option<&str>),
    now: DateTime<Utc>,
) -> Result<Done, Refusal> {
    let is_meant = |id: ParticipantId, user: Option<&str>| {
        whom.iter().any(|whom| match whom {
            Whom::Participant(wanted) => *wanted == id,
            Whom::User(wanted) => user == Some(wanted),
        })
    };
    let message: Option<Arc<str>> = reason.map(Arc::from);
    let mut done = Done::default();
    for participant in &state.participants {
        let user = participant.identity.external_user_id.as_deref();
        if !is_meant(participant.id, user) {
            continue;
        }
        if let Some(by) = moderator {
            let order = match how {
                PutOut::Kick | PutOut::Eject => Order::Kick,
                PutOut::Ban => Order::Ban,
            };
            let by = Some(by);
            let notice = Notice::Ordered { by, order };
            decision.effects.push(Effect::Tell(participant.id, notice));
        }
        let farewell = Farewell {
            message: message.clone(),
            ..how.reason().into()
        };
        leave::leave(decision, participant, now, farewell);
        block(decision, participant.blocks(how == PutOut::Ban), how);
        done.participants.push(participant.id);
    }
    for waiting in &state.waiting {
        let (id, grant) = (waiting.request.participant, &waiting.request.grant);
        let user = grant
            .as_ref()
            .and_then(|grant| grant.identity.external_user_id.as_deref());
        if is_meant(id, user) {
            let why = TurnedAway::PutOut(message.clone());
            waiting::turn_away(decision, state, waiting, why);
            block(decision, waiting.request.blocks(how == PutOut::Ban), how);
            done.participants.push(id);
        }
    }
    // Also of those who are not here at the moment.
    let banned = whom.iter().filter_map(|whom| match whom {
        Whom::User(user) if how == PutOut::Ban => Some(Block::Person(user.clone())),
        _ => None,
    });
    block(decision, banned, how);
    if moderator.is_some() && done.participants.is_empty() {
        return Err(Refusal::TargetNotFound);
    }
    Ok(done)
}

/// Keeps people out by what is known of them; whoever was only kicked may come again.
fn block(decision: &mut Decision, by: impl IntoIterator<Item = Block>, how: PutOut) {
    if how != PutOut::Kick {
        decision.facts.extend(by.into_iter().map(Fact::Blocked));
    }
}

/// Switches devices: everybody hears how they are now, then the participant what they were ordered.
///
/// A client obeys by itself. That media of one who does not is not forwarded either takes a command to the SFU, which it has
/// none for: `Effect` is where it goes.
fn switch(
    decision: &mut Decision,
    state: &State,
    by: Option<ParticipantId>,
    target: ParticipantId,
    orders: &[Order],
) -> Result<Done, Refusal> {
    let participant = state.find(target).ok_or(Refusal::TargetNotFound)?;
    let before = participant.shown;
    let shown = orders
        .iter()
        .fold(before, |shown: Shown, order| match order {
            Order::Mute => Shown {
                is_muted: true,
                ..shown
            },
            Order::Unmute => Shown {
                is_muted: false,
                ..shown
            },
            Order::StopVideo => Shown {
                is_video_off: true,
                ..shown
            },
            _ => shown,
        });
    decision.facts.push(Fact::Showed {
        participant: target,
        shown,
    });
    let person = Person {
        shown,
        ..Person::from(participant)
    };
    tell_of(decision, person);
    for order in orders {
        tell_order(decision, target, by, *order);
    }
    Ok(concerning([target]))
}

/// Changes what a participant may do. Of their role everybody hears; of their permissions, they.
fn change(
    decision: &mut Decision,
    state: &State,
    by: Option<ParticipantId>,
    target: ParticipantId,
    role: Option<Role>,
    change: &BTreeMap<Permission, Option<bool>>,
) -> Result<Done, Refusal> {
    let before = state.find(target).ok_or(Refusal::TargetNotFound)?;
    let mut after = before.clone();
    after.role = role.unwrap_or(before.role);
    for (permission, value) in change {
        match value {
            Some(may) => after.permissions.insert(*permission, *may),
            None => after.permissions.remove(permission),
        };
    }
    decision.facts.push(Fact::Permitted {
        participant: target,
        role: after.role,
        permissions: after.permissions.clone(),
    });
    if let Some(role) = role {
        tell_of(decision, Person::from(&after));
        let order = match role {
            Role::Moderator => Order::MakeModerator,
            Role::Participant => Order::RemoveModerator,
        };
        tell_order(decision, target, by, order);
        if before.role != Role::Moderator && role == Role::Moderator {
            waiting::show(decision, state, target);
        }
    }
    let (had, has) = (permitted(state, before), permitted(state, &after));
    if had != has {
        decision
            .effects
            .push(Effect::Tell(target, Notice::Permitted(has)));
    }
    Ok(concerning([target]))
}

/// Tells people something: all who are in, or those of them who are named.
fn message(
    decision: &mut Decision,
    state: &State,
    to: Option<&[ParticipantId]>,
    notice: &Notice,
) -> Done {
    let told = state
        .participants
        .iter()
        .map(|participant| participant.id)
        .filter(|id| to.is_none_or(|to| to.contains(id)));
    let done = concerning(told);
    let told = done
        .participants
        .iter()
        .map(|id| Effect::Tell(*id, notice.clone()));
    decision.effects.extend(told);
    done
}

/// Moves the end that `meetingDurationSec` gives; never into the past.
fn extend(
    decision: &mut Decision,
    state: &State,
    extension: Extension,
    now: DateTime<Utc>,
) -> Result<Done, Refusal> {
    let ends_at = state.ends_at().ok_or(Refusal::NoTimeLimit)?;
    let wanted = match extension {
        Extension::By(seconds) => {
            let by = TimeDelta::try_seconds(seconds).ok_or(Refusal::NoTimeLimit)?;
            ends_at.checked_add_signed(by).ok_or(Refusal::NoTimeLimit)?
        }
        Extension::Until(at) => at,
    };
    // Whole seconds, which is what is stored; and never earlier than asked for.
    let moved = (wanted.max(now) - ends_at).num_milliseconds();
    let moved = TimeDelta::seconds(moved.div_euclid(1000) + i64::from(moved.rem_euclid(1000) > 0));
    decision
        .facts
        .push(Fact::Extended(state.extended_by + moved));
    Ok(Done {
        ends_at: Some(ends_at + moved),
        ..Done::default()
    })
}

/// Everything that a participant may do or not.
fn permitted(state: &State, participant: &Participant) -> Permissions {
    Permission::ALL
        .into_iter()
        .map(|what| (what, state.may(participant, what)))
        .collect()
}

fn tell_of(decision: &mut Decision, person: Person) {
    decision.effects.push(Effect::TellAll {
        except: None,
        notice: Notice::Changed(person),
    });
}

fn tell_order(
    decision: &mut Decision,
    target: ParticipantId,
    by: Option<ParticipantId>,
    order: Order,
) {
    decision
        .effects
        .push(Effect::Tell(target, Notice::Ordered { by, order }));
}

fn concerning(participants: impl IntoIterator<Item = ParticipantId>) -> Done {
    Done {
        participants: participants.into_iter().collect(),
        ..Done::default()
    }
}
