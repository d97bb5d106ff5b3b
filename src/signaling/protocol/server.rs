//! What clients are sent.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Problem;
use crate::{
    id::ParticipantId,
    meetings::{ChatMessage, Notice, Order, Permissions, Person, Refusal, Role, Shown, TurnedAway},
    rooms::RoomName,
    sfu,
};

/// What a client is sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerFrame<'a> {
    room_id: &'a str,
    participant_id: Sender,
    /// Unix milliseconds.
    timestamp: i64,
    #[serde(flatten)]
    message: Message<'a>,
}

/// Whom a frame is of.
#[derive(Clone, Copy, Debug)]
enum Sender {
    Participant(ParticipantId),
    Sfu,
    Nobody,
}

impl Sender {
    fn of(participant: Option<ParticipantId>) -> Self {
        participant.map_or(Self::Nobody, Self::Participant)
    }
}

impl Serialize for Sender {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Participant(id) => id.serialize(serializer),
            Self::Sfu => serializer.serialize_str(SFU),
            Self::Nobody => serializer.serialize_str(""),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
enum Message<'a> {
    ParticipantJoined {
        name: Arc<str>,
        is_moderator: bool,
        is_muted: bool,
        is_video_off: bool,
        is_hand_raised: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        resume_token: Option<&'a str>,
    },
    ParticipantLeft,
    ParticipantUpdated {
        is_muted: bool,
        is_video_off: bool,
        is_hand_raised: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        is_moderator: Option<bool>,
    },
    Chat {
        text: Arc<str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reply_to: Option<Arc<str>>,
    },
    Answer {
        target_id: Option<ParticipantId>,
        sdp: Arc<str>,
    },
    Slots {
        slots: Vec<Slot>,
    },
    Snapshot {
        participants: Vec<Seen>,
        is_locked: bool,
        waiting: Vec<Waiting>,
    },
    WaitingRoom {
        name: Arc<str>,
    },
    WaitingLeft,
    RejectUser {
        code: &'static str,
        reason: Arc<str>,
    },
    RoomLocked {
        locked_by: Option<ParticipantId>,
    },
    RoomUnlocked {
        unlocked_by: Option<ParticipantId>,
    },
    ModeratorAction {
        target_id: Option<ParticipantId>,
        action: Order,
    },
    Permissions {
        permissions: Permissions,
    },
    #[serde(rename = "server-message")]
    FromApp {
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<Arc<str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Arc<serde_json::Value>>,
    },
    RoomOpen,
    Warning {
        reason: &'static str,
        ends_at: i64,
        seconds_left: i64,
    },
    Ended {
        reason: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<Arc<str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        redirect: Option<Arc<str>>,
    },
    Error {
        code: &'static str,
        message: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        opens_at_unix_sec: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_sec: Option<u64>,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Slot {
    mid: String,
    participant_id: Option<ParticipantId>,
    source: Option<sfu::Source>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    participant_id: ParticipantId,
    name: Arc<str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    participant_id: ParticipantId,
    name: Arc<str>,
    is_moderator: bool,
    is_muted: bool,
    is_video_off: bool,
    is_hand_raised: bool,
}

/// Who is told, and in which room.
#[derive(Clone, Copy, Debug)]
pub struct Audience<'a> {
    /// The room.
    pub room: &'a RoomName,
    /// The person told, once they are in.
    pub participant: Option<ParticipantId>,
    /// The token that brings their connection back.
    pub resume_token: Option<&'a str>,
}

/// The frames that tell `notice` to `audience`; none where closing the socket says it.
pub fn frames<'a>(
    notice: &Notice,
    audience: &Audience<'a>,
    now: DateTime<Utc>,
) -> Vec<ServerFrame<'a>> {
    let frame = |sender: Sender, timestamp: DateTime<Utc>, message| ServerFrame {
        room_id: audience.room.as_str(),
        participant_id: sender,
        timestamp: timestamp.timestamp_millis(),
        message,
    };
    let joined = |person: &Person, resume_token| {
        let Shown {
            is_muted,
            is_video_off,
            is_hand_raised,
        } = person.shown;
        let message = Message::ParticipantJoined {
            name: person.name.clone(),
            is_moderator: person.role == Role::Moderator,
            is_muted,
            is_video_off,
            is_hand_raised,
            resume_token,
        };
        frame(Sender::Participant(person.id), now, message)
    };
    let told = Sender::of(audience.participant);
    vec![match notice {
        // The newcomer hears of themself first, and so learns who they are; then of the others.
        Notice::Welcome { you, others } => {
            let own = joined(you, audience.resume_token);
            return std::iter::once(own)
                .chain(others.iter().map(|person| joined(person, None)))
                .collect();
        }
        Notice::Joined(person) => joined(person, None),
        Notice::Left { participant } => frame(
            Sender::Participant(*participant),
            now,
            Message::ParticipantLeft,
        ),
        Notice::Updated { participant, shown } => {
            let Shown {
                is_muted,
                is_video_off,
                is_hand_raised,
            } = *shown;
            let message = Message::ParticipantUpdated {
                is_muted,
                is_video_off,
                is_hand_raised,
                is_moderator: None,
            };
            frame(Sender::Participant(*participant), now, message)
        }
        Notice::Changed(person) => {
            let Shown {
                is_muted,
                is_video_off,
                is_hand_raised,
            } = person.shown;
            let message = Message::ParticipantUpdated {
                is_muted,
                is_video_off,
                is_hand_raised,
                is_moderator: Some(person.role == Role::Moderator),
            };
            frame(Sender::Participant(person.id), now, message)
        }
        Notice::Chat { from, message, at } => {
            let ChatMessage { text, reply_to } = message.clone();
            frame(
                Sender::Participant(*from),
                *at,
                Message::Chat { text, reply_to },
            )
        }
        Notice::Snapshot {
            participant,
            people,
            is_locked,
            waiting,
        } => {
            let message = Message::Snapshot {
                participants: people.iter().map(Seen::from).collect(),
                is_locked: *is_locked,
                waiting: waiting.iter().map(Waiting::from).collect(),
            };
            frame(Sender::Participant(*participant), now, message)
        }
        Notice::Waiting { participant, name } => {
            let name = name.clone();
            frame(
                Sender::Participant(*participant),
                now,
                Message::WaitingRoom { name },
            )
        }
        Notice::WaitsNoMore { participant } => {
            frame(Sender::Participant(*participant), now, Message::WaitingLeft)
        }
        Notice::TurnedAway(why) => {
            let (code, usual, given) = match why {
                TurnedAway::Rejected(given) => ("REJECTED", "You were not let in.", given),
                TurnedAway::PutOut(given) => ("EJECTED", "You were put out.", given),
                TurnedAway::NotAnswered => (
                    "NOT_ANSWERED",
                    "Nobody let you in. Ask the host, and try again.",
                    &None,
                ),
            };
            let reason = given.clone().unwrap_or_else(|| usual.into());
            frame(told, now, Message::RejectUser { code, reason })
        }
        Notice::Locked { is_locked, by } => {
            let message = match is_locked {
                true => Message::RoomLocked { locked_by: *by },
                false => Message::RoomUnlocked { unlocked_by: *by },
            };
            frame(Sender::of(*by), now, message)
        }
        Notice::Ordered { by, order } => {
            let message = Message::ModeratorAction {
                target_id: audience.participant,
                action: *order,
            };
            frame(Sender::of(*by), now, message)
        }
        Notice::Permitted(permissions) => {
            let permissions = permissions.clone();
            frame(told, now, Message::Permissions { permissions })
        }
        Notice::Message { text, data } => {
            let (text, data) = (text.clone(), data.clone());
            frame(Sender::Nobody, now, Message::FromApp { text, data })
        }
        Notice::Refused(refusal) => error(&Problem::Refused(*refusal), now),
        Notice::Answer(sdp) => {
            let message = Message::Answer {
                target_id: audience.participant,
                sdp: sdp.clone(),
            };
            frame(Sender::Sfu, now, message)
        }
        Notice::Slots(slots) => frame(
            Sender::Sfu,
            now,
            Message::Slots {
                slots: slots.iter().map(Slot::from).collect(),
            },
        ),
        Notice::NotNegotiated(why) => error(&Problem::NotNegotiated(why.clone()), now),
        Notice::Warning { reason, ends_at } => {
            let sender = audience
                .participant
                .map_or(Sender::Nobody, Sender::Participant);
            // What has begun counts: of 59.9 s the last one is still there.
            let left = (*ends_at - now).num_milliseconds().max(0);
            let message = Message::Warning {
                reason: reason.as_str(),
                ends_at: ends_at.timestamp_millis(),
                seconds_left: (left + 999) / 1000,
            };
            frame(sender, now, message)
        }
        Notice::Restarting => return Vec::new(),
        Notice::Ended(farewell) => {
            let message = Message::Ended {
                reason: farewell.reason.as_str(),
                message: farewell.message.clone(),
                redirect: farewell.redirect.clone(),
            };
            frame(told, now, message)
        }
    }]
}

/// The frame that tells a socket that the room it waits for is open.
pub fn room_open(room: &RoomName, now: DateTime<Utc>) -> ServerFrame<'_> {
    ServerFrame {
        room_id: room.as_str(),
        participant_id: Sender::Nobody,
        timestamp: now.timestamp_millis(),
        message: Message::RoomOpen,
    }
}

/// The frame that says that a client's frame came to nothing.
pub fn error(problem: &Problem, now: DateTime<Utc>) -> ServerFrame<'static> {
    ServerFrame {
        room_id: "",
        participant_id: Sender::Nobody,
        timestamp: now.timestamp_millis(),
        message: Message::Error {
            code: problem.code(),
            message: problem.to_string(),
            opens_at_unix_sec: match problem {
                Problem::Refused(Refusal::RoomNotOpen { opens_at }) => Some(opens_at.timestamp()),
                _ => None,
            },
            retry_after_sec: match problem {
                Problem::Refused(refusal) => refusal.retry_after_sec(),
                _ => None,
            },
        },
    }
}

impl From<&sfu::SlotView> for Slot {
    fn from(slot: &sfu::SlotView) -> Self {
        let (participant_id, source) = slot.shows.unzip();
        Self {
            mid: slot.mid.clone(),
            participant_id,
            source,
        }
    }
}

impl From<&(ParticipantId, Arc<str>)> for Waiting {
    fn from((participant_id, name): &(ParticipantId, Arc<str>)) -> Self {
        Self {
            participant_id: *participant_id,
            name: name.clone(),
        }
    }
}

impl From<&Person> for Seen {
    fn from(person: &Person) -> Self {
        Self {
            participant_id: person.id,
            name: person.name.clone(),
            is_moderator: person.role == Role::Moderator,
            is_muted: person.shown.is_muted,
            is_video_off: person.shown.is_video_off,
            is_hand_raised: person.shown.is_hand_raised,
        }
    }
}

/// The name that offers are sent to; never a participant's.
pub const SFU: &str = "sfu";
