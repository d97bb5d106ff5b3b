//! What the people in a meeting are told. The signaling edge puts it into frames.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{LeaveReason, Participant, Role, Shown};
use crate::{id::ParticipantId, sfu};

/// One thing that a connection is told.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The person told is in, and so are these, in the order of their joins.
    Welcome {
        /// Who is told.
        you: Person,
        /// Who is in already.
        others: Arc<[Person]>,
    },
    /// Somebody else is in.
    Joined(Person),
    /// Somebody has left.
    Left {
        /// Who.
        participant: ParticipantId,
    },
    /// Somebody's role or devices were changed for them.
    Changed(Person),
    /// Somebody's devices or hand changed.
    Updated {
        /// Who.
        participant: ParticipantId,
        /// How it is now.
        shown: Shown,
    },
    /// Somebody wrote to all.
    Chat {
        /// Who.
        from: ParticipantId,
        /// What.
        message: ChatMessage,
        /// When.
        at: DateTime<Utc>,
    },
    /// A resumed connection sees who is in.
    Snapshot {
        /// Who resumed.
        participant: ParticipantId,
        /// Everyone, in the order of their joins.
        people: Arc<[Person]>,
    },
    /// The SFU's answer to an offer.
    Answer(Arc<str>),
    /// The SFU refused an offer, and why.
    NotNegotiated(Arc<str>),
    /// What the person's slots carry now.
    Slots(Arc<[sfu::SlotView]>),
    /// The server restarts: the connection closes, and the client comes back by itself.
    Restarting,
    /// It is over for the person; the connection closes.
    Ended(LeaveReason),
}

/// A participant as others see them.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who.
    pub id: ParticipantId,
    /// Display name.
    pub name: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// Their devices and hand.
    pub shown: Shown,
}

/// What somebody wrote.
#[derive(Clone, Debug)]
pub struct ChatMessage {
    /// The text.
    pub text: Arc<str>,
    /// The message that it answers, as the client names it.
    pub reply_to: Option<Arc<str>>,
}

impl From<&Participant> for Person {
    fn from(participant: &Participant) -> Self {
        let Participant {
            id,
            ref name,
            role,
            shown,
            ..
        } = *participant;
        Self {
            id,
            name: name.as_str().into(),
            role,
            shown,
        }
    }
}
