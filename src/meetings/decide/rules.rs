//! The room's rules change while its meeting runs.

use chrono::{DateTime, Utc};

use super::Decision;
use crate::{
    meetings::{Fact, Participant, State},
    rooms::Room,
};

/// The room has changed. Limits of stays move with it; nobody is put out for want of a place.
pub fn change(decision: &mut Decision, state: &State, room: &Room, now: DateTime<Utc>) {
    if room.version <= state.room.version {
        return; // Read before what is known already.
    }
    decision.facts.push(Fact::Ruled(Box::new(room.clone())));
    for participant in &state.participants {
        limit_anew(decision, participant, room, now);
    }
}

/// Moves the limit of a stay to where the room has it now. Whoever has been in for longer already was rightly in until now; a
/// limit that is over already stays so.
pub fn limit_anew(
    decision: &mut Decision,
    participant: &Participant,
    room: &Room,
    now: DateTime<Utc>,
) {
    let limit = room.rules.longest_stay();
    let time_up_at = limit.map(|limit| (participant.joined_at + limit).max(now));
    let is_over = participant.time_up_at.is_some_and(|due| due <= now);
    if !participant.has_own_limit && !is_over && participant.time_up_at != time_up_at {
        decision.facts.push(Fact::Limited {
            participant: participant.id,
            time_up_at,
        });
    }
}

/// The one that was changed last.
pub fn newer<'a>(one: &'a Room, other: &'a Room) -> &'a Room {
    if other.version > one.version {
        other
    } else {
        one
    }
}
