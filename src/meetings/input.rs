//! What can happen to a meeting.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{
    Action, By, ChatMessage, Connection, Device, EndReason, Grant, LeaveReason, ResumeHash,
    ShownChange, Speaker,
};
use crate::{
    deadlines::Key,
    id::ParticipantId,
    rooms::{AddressHash, PasswordHash, Room},
    sfu,
};

/// Something that happens to a meeting.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody wants in.
    Join(Box<JoinRequest>),
    /// A lost connection is back.
    Resume {
        /// What the client was given when it joined.
        hash: ResumeHash,
        /// The number of the last frame that it has, where it knows one.
        last: Option<u64>,
        /// The new connection.
        connection: Connection,
    },
    /// A participant leaves by themself.
    Leave {
        /// Who.
        by: Speaker,
        /// When.
        at: DateTime<Utc>,
    },
    /// A participant's connection is lost.
    Disconnected {
        /// Whose.
        by: Speaker,
        /// The last moment when it is known to have stood.
        since: DateTime<Utc>,
    },
    /// Somebody who was let in was gone before they were told.
    Unheard {
        /// Who.
        by: Speaker,
    },
    /// A participant says something of their devices.
    Show {
        /// Who.
        by: Speaker,
        /// What changes.
        change: ShownChange,
    },
    /// A participant raises their hand, or lowers it.
    Hand {
        /// Who.
        by: Speaker,
        /// Whether it is up.
        raised: bool,
    },
    /// A participant reacts.
    React {
        /// Who.
        by: Speaker,
        /// How.
        reaction: Arc<str>,
    },
    /// A participant begins to record, or stops.
    Record {
        /// Who.
        by: Speaker,
        /// Whether they record now.
        on: bool,
    },
    /// A participant's client says something to another's.
    Relay {
        /// Who.
        by: Speaker,
        /// What, and to whom.
        message: Relay,
    },
    /// A participant writes to all, or to one.
    Chat {
        /// Who.
        by: Speaker,
        /// What.
        message: ChatMessage,
    },
    /// A participant's media offer.
    Offer {
        /// Who.
        by: Speaker,
        /// The offer.
        offer: MediaOffer,
    },
    /// The SFU has answered a participant's offer.
    Answered {
        /// Who offered.
        by: Speaker,
        /// The answer, or why there is none.
        answer: Result<Arc<str>, Arc<str>>,
    },
    /// What a participant's slots carry has changed.
    Slots {
        /// Whose slots.
        participant: ParticipantId,
        /// All of them.
        slots: Arc<[sfu::SlotView]>,
    },
    /// A moderator or the app does something to the meeting.
    Moderate {
        /// Who.
        by: By,
        /// What.
        action: Action,
    },
    /// A source of a participant's begins or ceases to reach the SFU.
    Published {
        /// Whose.
        participant: ParticipantId,
        /// Which.
        source: sfu::Source,
        /// Whether it begins.
        is_published: bool,
    },
    /// A deadline of this meeting is due.
    Due(Key),
    /// Somebody with the right to it ends the meeting.
    End {
        /// Why.
        reason: EndReason,
        /// When that became true.
        at: DateTime<Utc>,
    },
    /// The room is so now.
    Rules(Box<Room>),
    /// This node has taken the meeting over.
    Claimed {
        /// The last moment when the owner before is known to have lived.
        renewed_at: DateTime<Utc>,
        /// Why those who do not come back have left.
        reason: LeaveReason,
    },
    /// This node stops.
    Shutdown,
}

impl Input {
    /// Whether nothing of it is ever stored, so that it need not wait for Postgres.
    pub fn is_relayed(&self) -> bool {
        match self {
            Self::Show { .. }
            | Self::Hand { .. }
            | Self::React { .. }
            | Self::Record { .. }
            | Self::Relay { .. }
            | Self::Chat { .. }
            | Self::Offer { .. }
            | Self::Answered { .. }
            | Self::Slots { .. }
            | Self::Published { .. } => true,
            Self::Join(_)
            | Self::Resume { .. }
            | Self::Leave { .. }
            | Self::Disconnected { .. }
            | Self::Unheard { .. }
            | Self::Moderate { .. }
            | Self::Due(_)
            | Self::End { .. }
            | Self::Rules(_)
            | Self::Claimed { .. }
            | Self::Shutdown => false,
        }
    }

    /// Whether somebody comes in by it who was not in.
    pub fn lets_in(&self) -> bool {
        matches!(
            self,
            Self::Join(_)
                | Self::Moderate {
                    action: Action::Admit(_),
                    ..
                }
        )
    }
}

impl Input {
    /// Who is to hear of it when it is relayed and refused.
    pub fn relayed_by(&self) -> Option<Speaker> {
        match self {
            Self::Show { by, .. }
            | Self::Hand { by, .. }
            | Self::React { by, .. }
            | Self::Record { by, .. }
            | Self::Relay { by, .. }
            | Self::Chat { by, .. }
            | Self::Offer { by, .. } => Some(*by),
            _ => None,
        }
    }
}

/// What one client says to another; the meeting does not look into it.
#[derive(Clone, Debug)]
pub struct Relay {
    /// What it is about.
    pub about: RelayAbout,
    /// To whom.
    pub to: RelayTarget,
    /// The frame as the client wrote it, without what the server says of a frame.
    pub frame: Arc<Map<String, Value>>,
}

/// What a relayed message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayAbout {
    /// Media that flows between the two.
    Media,
    /// A file that is offered or sent.
    File,
    /// A file that somebody offered.
    FileAnswer,
}

/// To whom a message is relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayTarget {
    /// To the SFU.
    Sfu,
    /// To this participant, where they are in.
    Participant(ParticipantId),
    /// To nobody whom we know.
    Nobody,
}

/// What a client offers to the SFU.
#[derive(Clone, Debug)]
pub struct MediaOffer {
    /// The session description.
    pub sdp: Arc<str>,
    /// What each sending m-line carries, by its mid.
    pub tracks: Vec<(String, sfu::Source)>,
}

/// Who wants in, and as what.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The stay, if it comes about.
    pub participant: ParticipantId,
    /// The connection that asks.
    pub connection: Connection,
    /// Display name.
    pub name: String,
    /// What they join with.
    pub device: Arc<Device>,
    /// What their token gives, where they have shown one.
    pub grant: Option<Grant>,
    /// The room's password as it was when theirs was found to be it.
    pub password: Option<PasswordHash>,
    /// Whether they have shown the token of the room's creator.
    pub is_creator: bool,
    /// Where they come from, where they are known by nothing else.
    pub address: Option<AddressHash>,
    /// Hash of the token that brings a lost connection back, where the client can do that.
    pub resume: Option<ResumeHash>,
    /// The room as it is now: its rules may have changed since the meeting began.
    pub room: Room,
}

impl JoinRequest {
    /// The name that the others see: the token's goes before the one that was entered.
    pub fn shown_name(&self) -> &str {
        let granted = self.grant.as_ref().and_then(|grant| grant.name.as_deref());
        granted.unwrap_or(&self.name)
    }
}
