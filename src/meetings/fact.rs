//! What has become true in a meeting, and what that makes of it.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Away, Block, EndReason, LeaveReason, Participant, Permissions, Role, Sharing, Shown, Speaker,
    State, Status, Waiting, Warned,
};
use crate::{id::ParticipantId, rooms::Room};

/// Something that has become true; stored, announced and billed.
#[derive(Clone, Debug)]
pub enum Fact {
    /// The first participant joins.
    Started {
        /// When.
        at: DateTime<Utc>,
    },
    /// Somebody is in.
    Joined(Participant),
    /// A participant's connection is lost.
    WentAway {
        /// Who.
        participant: ParticipantId,
        /// How they may come back.
        away: Away,
    },
    /// A lost connection is back.
    CameBack {
        /// Who.
        participant: ParticipantId,
    },
    /// When a participant's time is up has changed.
    Limited {
        /// Whose.
        participant: ParticipantId,
        /// When; never, where there is no limit.
        time_up_at: Option<DateTime<Utc>>,
    },
    /// Another connection speaks for a participant. Not stored: connections are this node's.
    Connected(Speaker),
    /// A stay is over.
    Left {
        /// The stay.
        participant: Participant,
        /// When it ended.
        at: DateTime<Utc>,
        /// Why.
        reason: LeaveReason,
    },
    /// Nobody of whom this is known comes in until the meeting ends.
    Blocked(Block),
    /// One is alone, of several.
    OneLeft {
        /// Since when.
        since: DateTime<Utc>,
    },
    /// The meeting is over.
    Ended {
        /// When.
        at: DateTime<Utc>,
        /// Why.
        reason: EndReason,
    },
    /// The meeting is over before the join that opened it came about. Nobody is told.
    Abandoned {
        /// When.
        at: DateTime<Utc>,
    },
    /// A participant's devices or hand changed. Not stored: nobody can bill or miss it.
    Showed {
        /// Who.
        participant: ParticipantId,
        /// How it is now.
        shown: Shown,
    },
    /// Somebody waits to be let in. Announced; who waits is not stored.
    Knocked(Waiting),
    /// Somebody waits no more: they are in, or have gone. Not stored.
    WaitsNoMore {
        /// Who.
        participant: ParticipantId,
    },
    /// The meeting is locked, is not, or is as its room says.
    Locked(Option<bool>),
    /// The end that `meetingDurationSec` gives is moved by so much in all.
    Extended(TimeDelta),
    /// A participant may do something else from now on.
    Permitted {
        /// Who.
        participant: ParticipantId,
        /// Their role.
        role: Role,
        /// What is not as the room has it.
        permissions: Permissions,
    },
    /// What of a participant's media reaches the others. Not stored.
    Shares {
        /// Whose.
        participant: ParticipantId,
        /// How it is now.
        sharing: Sharing,
    },
    /// Somebody shared something. Not stored by itself: the owner stores since when nobody does.
    Active {
        /// Until then at least.
        at: DateTime<Utc>,
    },
    /// A warning is given. Not stored: after a takeover whoever comes back is warned anew.
    Warned {
        /// To one alone, or to all.
        participant: Option<ParticipantId>,
        /// Of what.
        warned: Warned,
    },
    /// The room's rules are these now. Not stored here: they are the room's.
    Ruled {
        /// The room.
        room: Box<Room>,
        /// Since when.
        at: DateTime<Utc>,
    },
}

impl Fact {
    /// Whether webhooks tell it, and it has a number among the meeting's events.
    pub fn is_announced(&self) -> bool {
        matches!(
            self,
            Self::Started { .. }
                | Self::Joined(_)
                | Self::Left { .. }
                | Self::Knocked(_)
                | Self::Ended { .. }
        )
    }

    /// Whether it must be stored before it is so.
    pub fn is_stored(&self) -> bool {
        !matches!(
            self,
            Self::Showed { .. }
                | Self::Shares { .. }
                | Self::Active { .. }
                | Self::Warned { .. }
                | Self::Connected(_)
                | Self::WaitsNoMore { .. }
                | Self::Ruled { .. }
        )
    }
}

/// Makes a fact true. Total: a fact cannot be refused.
pub fn apply(state: &mut State, fact: &Fact) {
    match fact {
        Fact::Started { at } => {
            state.status = Status::Live;
            state.started_at = Some(*at);
            state.last_at = state.last_at.max(*at);
        }
        Fact::Joined(participant) => {
            state.participants.push(participant.clone());
            state.participant_count += 1;
            state.max_concurrent = state.max_concurrent.max(state.participants.len());
            state.empty_since = None;
            if state.participants.len() > 1 {
                state.one_left_since = None;
            }
            state.last_at = state.last_at.max(participant.joined_at);
        }
        Fact::WentAway { participant, away } => {
            state.change(*participant, |known| known.away = Some(*away))
        }
        Fact::CameBack { participant } => state.change(*participant, |known| known.away = None),
        Fact::Limited {
            participant,
            time_up_at,
        } => state.change(*participant, |known| known.time_up_at = *time_up_at),
        Fact::Connected(by) => {
            state.change(by.participant, |known| known.connection = by.connection)
        }
        Fact::Left {
            participant, at, ..
        } => {
            state
                .participants
                .retain(|known| known.id != participant.id);
            state.last_at = state.last_at.max(*at);
            match state.participants.len() {
                0 => (state.empty_since, state.one_left_since) = (Some(state.last_at), None),
                1 => state.one_left_since = state.one_left_since.or(Some(state.last_at)),
                _ => {}
            }
        }
        Fact::Blocked(block) => {
            Arc::make_mut(&mut state.blocked).insert(block.clone());
        }
        Fact::OneLeft { since } => state.one_left_since = Some(*since),
        Fact::Ended { .. } | Fact::Abandoned { .. } => state.status = Status::Ended,
        Fact::Showed { participant, shown } => {
            state.change(*participant, |known| known.shown = *shown)
        }
        Fact::Knocked(waiting) => {
            state.waiting.push(waiting.clone());
            state.last_at = state.last_at.max(waiting.since);
        }
        Fact::WaitsNoMore { participant } => state
            .waiting
            .retain(|waiting| waiting.request.participant != *participant),
        Fact::Locked(locked) => state.locked = *locked,
        Fact::Extended(by) => state.extended_by = *by,
        Fact::Permitted {
            participant,
            role,
            permissions,
        } => state.change(*participant, |known| {
            known.role = *role;
            known.permissions = permissions.clone();
        }),
        Fact::Shares {
            participant,
            sharing,
        } => state.change(*participant, |known| known.sharing = *sharing),
        Fact::Active { at } => state.last_shared_at = state.last_shared_at.max(Some(*at)),
        Fact::Warned {
            participant: None,
            warned,
        } => warned.record(&mut state.warned),
        Fact::Warned {
            participant: Some(participant),
            warned,
        } => state.change(*participant, |known| warned.record(&mut known.warned)),
        Fact::Ruled { room, at } => {
            state.room = (**room).clone();
            state.ruled_at = *at;
        }
    }
    if fact.is_announced() {
        state.next_seq += 1;
    }
}
