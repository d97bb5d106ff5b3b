//! What the people in a meeting are told. The signaling edge puts it into frames.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use serde_json::{Map, Value};

use super::{LeaveReason, Order, Participant, Permissions, Refusal, Role, Shown, State, Waiting};
use crate::{
    chat,
    id::{ChatMessageId, ParticipantId},
    sfu,
};

/// One thing that a connection is told.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The person told is in, and so are these, in the order of their joins.
    Welcome {
        /// Who is told.
        you: Person,
        /// Who is in already.
        others: Arc<[Person]>,
        /// How the room is.
        room: Scene,
    },
    /// Somebody else is in.
    Joined(Person),
    /// Somebody has left.
    Left {
        /// Who.
        participant: ParticipantId,
    },
    /// Somebody waits to be let in: said to them, and to moderators.
    Waiting {
        /// Who.
        participant: ParticipantId,
        /// Display name.
        name: Arc<str>,
    },
    /// Somebody waits no more, and has not come in: said to moderators.
    WaitsNoMore {
        /// Who.
        participant: ParticipantId,
    },
    /// The person told is not let in; their connection closes.
    TurnedAway(TurnedAway),
    /// Nobody joins by themself any more, or everybody does again.
    Locked {
        /// Whether it is locked.
        is_locked: bool,
        /// Which moderator said so, where one did.
        by: Option<ParticipantId>,
    },
    /// Somebody's role or devices were changed for them.
    Changed(Person),
    /// The person told is ordered something, or it was done to them.
    Ordered {
        /// Which moderator, where it was not the app.
        by: Option<ParticipantId>,
        /// What.
        order: Order,
    },
    /// What the person told may do, all of it.
    Permitted(Permissions),
    /// The app tells something.
    Message {
        /// For people.
        text: Option<Arc<str>>,
        /// For programs.
        data: Option<Arc<serde_json::Value>>,
    },
    /// What the person told asked for does not happen.
    Refused(Refusal),
    /// Somebody's devices or hand changed.
    Updated {
        /// Who.
        participant: ParticipantId,
        /// How it is now.
        shown: Shown,
    },
    /// Somebody raised their hand, or lowered it.
    Hand {
        /// Who.
        participant: ParticipantId,
        /// Whether it is up.
        raised: bool,
    },
    /// Somebody reacted.
    Reaction {
        /// Who.
        from: ParticipantId,
        /// How.
        reaction: Arc<str>,
    },
    /// Somebody began to record, or has stopped.
    Recording {
        /// Who.
        by: ParticipantId,
        /// Whether they record now.
        on: bool,
    },
    /// What somebody's client says to the one that is told.
    Relayed {
        /// Who.
        from: ParticipantId,
        /// The frame as their client wrote it, without what the server says of a frame.
        frame: Arc<Map<String, Value>>,
    },
    /// What was written before the person told came in, from the oldest to the newest.
    ChatHistory(Arc<[Arc<chat::Line>]>),
    /// Somebody wrote to all, or to the one that is told.
    Chat {
        /// Who.
        from: ParticipantId,
        /// What.
        message: ChatMessage,
        /// When.
        at: DateTime<Utc>,
    },
    /// A resumed connection is told all that it has missed, after this.
    Resumed {
        /// Who resumed.
        participant: ParticipantId,
    },
    /// A resumed connection, which may have missed something, sees who is in.
    Snapshot {
        /// Who resumed.
        participant: ParticipantId,
        /// Everyone, in the order of their joins.
        people: Arc<[Person]>,
        /// Whether the meeting is locked.
        is_locked: bool,
        /// Who waits to be let in, if the person moderates.
        waiting: Arc<[(ParticipantId, Arc<str>)]>,
        /// How the room is.
        room: Scene,
    },
    /// The SFU's answer to an offer.
    Answer(Arc<str>),
    /// The SFU refused an offer, and why.
    NotNegotiated(Arc<str>),
    /// What the person's slots carry now.
    Slots(Arc<[sfu::SlotView]>),
    /// It will be over for the person before long.
    Warning {
        /// Why.
        reason: LeaveReason,
        /// When.
        ends_at: DateTime<Utc>,
    },
    /// The server restarts: the connection closes, and the client comes back by itself.
    Restarting,
    /// It is over for the person; the connection closes.
    Ended(Farewell),
}

/// What somebody is told at last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Why it is over.
    pub reason: LeaveReason,
    /// What whoever ended it has to say.
    pub message: Option<Arc<str>>,
    /// Where they go.
    pub redirect: Option<Arc<str>>,
}

/// Why somebody who waited is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// A moderator or the app said no, perhaps with a reason.
    Rejected(Option<Arc<str>>),
    /// Nobody answered in time.
    NotAnswered,
    /// They were put out while they waited, perhaps with a reason.
    PutOut(Option<Arc<str>>),
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

/// What who comes in learns of the room beside the people in it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What the page calls the room.
    pub title: Option<Arc<str>>,
    /// Whether somebody records.
    pub is_recording: bool,
}

/// What somebody wrote.
#[derive(Clone, Debug)]
pub struct ChatMessage {
    /// Which message.
    pub id: ChatMessageId,
    /// To whom alone; to all where it names nobody.
    pub to: Option<ParticipantId>,
    /// The text.
    pub text: Arc<str>,
    /// The message that it answers, as the client names it.
    pub reply_to: Option<Arc<str>>,
}

impl Notice {
    /// Brings what it shows of people to how they are in `state`: their devices change while the stay of whom it tells is
    /// being stored, and nobody tells a connection that is not in yet.
    pub(super) fn refresh(&mut self, state: &State) {
        let (people, scene) = match self {
            Self::Welcome { others, room, .. } => (others, room),
            Self::Snapshot { people, room, .. } => (people, room),
            _ => return,
        };
        for person in Arc::make_mut(people) {
            if let Some(known) = state.find(person.id) {
                person.shown = known.shown;
            }
        }
        *scene = Scene::of(state);
    }
}

impl Scene {
    /// The room as it is in `state`.
    pub(super) fn of(state: &State) -> Self {
        let rules = &state.room.rules;
        Self {
            title: rules.title.as_ref().map(|title| title.as_str().into()),
            is_recording: state
                .participants
                .iter()
                .any(|known| known.shown.is_recording),
        }
    }
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

impl From<LeaveReason> for Farewell {
    fn from(reason: LeaveReason) -> Self {
        Self {
            reason,
            message: None,
            redirect: None,
        }
    }
}

impl From<&Waiting> for Notice {
    fn from(waiting: &Waiting) -> Self {
        Self::Waiting {
            participant: waiting.request.participant,
            name: waiting.name(),
        }
    }
}

impl Waiting {
    /// The name that others see.
    pub fn name(&self) -> Arc<str> {
        self.request.shown_name().into()
    }
}
