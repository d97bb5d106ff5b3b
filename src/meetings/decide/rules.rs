//! The room's rules change while its meeting runs.

use chrono::{DateTime, Utc};

use super::{Decision, Effect};
use crate::{
    meetings::{Fact, Notice, Participant, State},
    rooms::Room,
};

/// The room has changed, and every deadline with it: those of the meeting because they are worked out of its rules, those of
/// stays here. What is over by a new rule was rightly so until now, and ends now. Nobody is put out for want of a place.
pub fn change(decision: &mut Decision, state: &State, room: &Room, now: DateTime<Utc>) {
    if room.version <= state.room.version {
        return; // Read before what is known already.
    }
    decision.facts.push(Fact::Ruled {
        room: Box::new(room.clone()),
        at: now,
    });
    for participant in &state.participants {
        limit_anew(decision, participant, room, now);
    }
    // What the room says last counts, also over what was said in the meeting.
    let is_locked = room.rules.locked;
    if is_locked != state.room.rules.locked {
        decision.facts.push(Fact::Locked(None));
        if is_locked != state.is_locked() {
            decision.effects.push(Effect::TellAll {
                except: None,
                notice: Notice::Locked {
                    is_locked,
                    by: None,
                },
            });
        }
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
