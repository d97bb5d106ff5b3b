//! Whoever leads a room that makes its first joiner moderator.

use super::{Decision, Effect, waiting};
use crate::{
    id::ParticipantId,
    meetings::{Fact, Notice, Participant, Person, Role, State},
};

/// Where the host leaves by what was decided, whoever of the others has been in for longest moderates from now on, and
/// everybody is told.
///
/// The host is the moderator who has been in for longest.
pub fn hand_over(decision: &mut Decision, state: &State) {
    let rules = &state.room.rules;
    if !rules.first_joiner_moderates || rules.end_when_moderator_leaves {
        return;
    }
    let leaves = |id: ParticipantId| {
        let is_theirs =
            |fact: &Fact| matches!(fact, Fact::Left { participant, .. } if participant.id == id);
        decision.facts.iter().any(is_theirs)
    };
    let moderates = |known: &&Participant| known.role == Role::Moderator;
    let host = state.participants.iter().find(moderates);
    if host.is_none_or(|host| !leaves(host.id)) {
        return;
    }
    let stays = |known: &&Participant| !leaves(known.id);
    let is_there = |known: &&Participant| stays(known) && known.away.is_none();
    let mut remaining = state.participants.iter();
    let next = remaining.clone().find(is_there).or(remaining.find(stays));
    if let Some(next) = next.filter(|next| next.role != Role::Moderator) {
        let promoted = Person {
            role: Role::Moderator,
            ..Person::from(next)
        };
        decision.facts.push(Fact::Permitted {
            participant: next.id,
            role: Role::Moderator,
            permissions: next.permissions.clone(),
        });
        decision.effects.push(Effect::TellAll {
            except: None,
            notice: Notice::Changed(promoted),
        });
        waiting::show(decision, state, next.id);
    }
}
