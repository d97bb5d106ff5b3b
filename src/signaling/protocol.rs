//! The frames of the signaling socket: one JSON object per text frame.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    id::ParticipantId,
    json,
    meetings::{ChatMessage, Notice, Person, Refusal, Role, Shown},
    rooms::RoomName,
    sfu,
    tokens::TokenText,
};

/// Longest frame that a client may send, in bytes.
pub const LONGEST_FRAME: usize = 1024 * 1024;
/// Bytes that a client may send per second, and at once.
pub const BYTES_PER_SECOND: f64 = 2.0 * 1024.0 * 1024.0;
/// Frames that a client may send per second; twice as many at once.
pub const FRAMES_PER_SECOND: f64 = 50.0;
/// Longest display name, in characters.
pub const LONGEST_NAME: usize = 100;
/// Longest chat text, in characters.
pub const LONGEST_CHAT: usize = 4096;

/// What a client sends.
#[derive(Debug, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum ClientFrame {
    /// Come in. Must be the first frame, or the first after `leave`.
    Join {
        /// The room's name.
        room_id: String,
        /// Display name.
        name: String,
        /// The token of the person's link.
        #[serde(default)]
        token: Option<TokenText>,
        /// Whether the client can resume: it is then given a `resumeToken`.
        #[serde(default)]
        resumable: bool,
    },
    /// Come back after the connection was lost.
    Resume {
        /// The room's name.
        room_id: String,
        /// As given at the join.
        resume_token: String,
    },
    /// Go. The socket stays, and may join again.
    Leave,
    /// Write to all.
    Chat {
        /// The text.
        text: String,
        /// The message that it answers.
        #[serde(default)]
        reply_to: Option<String>,
    },
    /// Say how one's devices and hand are.
    ParticipantUpdated {
        /// Microphone muted.
        #[serde(default)]
        is_muted: Option<bool>,
        /// Camera off.
        #[serde(default)]
        is_video_off: Option<bool>,
        /// Hand raised.
        #[serde(default)]
        is_hand_raised: Option<bool>,
    },
    /// Offer media to the SFU.
    Offer {
        /// Always `sfu`.
        target_id: String,
        /// The session description.
        sdp: String,
        /// What each sending m-line carries, by its mid.
        #[serde(default)]
        tracks: BTreeMap<String, sfu::Source>,
    },
}

/// The types of [`ClientFrame`], to tell an unknown type from a malformed frame.
pub const CLIENT_TYPES: &[&str] = &[
    "join",
    "resume",
    "leave",
    "chat",
    "participant-updated",
    "offer",
];

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
#[derive(Debug)]
enum Sender {
    Participant(ParticipantId),
    Sfu,
    Nobody,
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
    },
    Ended {
        reason: &'static str,
    },
    Error {
        code: &'static str,
        message: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        opens_at_unix_sec: Option<i64>,
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
struct Seen {
    participant_id: ParticipantId,
    name: Arc<str>,
    is_moderator: bool,
    is_muted: bool,
    is_video_off: bool,
    is_hand_raised: bool,
}

/// Why a client's frame came to nothing, as the `error` frame says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The frame is not JSON, or a field is missing or wrong.
    #[error("Invalid message format: {0}")]
    InvalidMessage(String),
    /// The frame's type is not known.
    #[error("Unknown message type")]
    UnknownType,
    /// The socket is in a room already.
    #[error("Already in a room: leave it first, or open another connection.")]
    AlreadyJoined,
    /// The client sends more than it may.
    #[error("You send too much at once: slow down.")]
    TooFast,
    /// The offer before this one has not been answered yet.
    #[error("The offer before this one has not been answered yet.")]
    Negotiating,
    /// The SFU refused the offer.
    #[error("The media offer was refused: {0}")]
    NotNegotiated(Arc<str>),
    /// The meeting refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Problem {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidMessage(_) => "INVALID_MESSAGE",
            Self::UnknownType => "UNKNOWN_MESSAGE_TYPE",
            Self::AlreadyJoined => "ALREADY_JOINED",
            Self::TooFast => "TOO_FAST",
            Self::Negotiating => "TRY_AGAIN",
            Self::NotNegotiated(_) => "NEGOTIATION_FAILED",
            Self::Refused(refusal) => match refusal {
                Refusal::RoomNotFound => "ROOM_NOT_FOUND",
                Refusal::RoomNotOpen { .. } => "ROOM_NOT_OPEN",
                Refusal::RoomExpired => "ROOM_EXPIRED",
                Refusal::TokenRequired => "TOKEN_REQUIRED",
                Refusal::TokenInvalid => "TOKEN_INVALID",
                Refusal::TokenExpired => "TOKEN_EXPIRED",
                Refusal::TokenNotYetValid => "TOKEN_NOT_YET_VALID",
                Refusal::RoomLocked => "ROOM_LOCKED",
                Refusal::RoomFull => "ROOM_FULL",
                Refusal::MeetingEnded => "MEETING_ENDED",
                Refusal::NotJoined => "NOT_JOINED",
                Refusal::ResumeFailed => "RESUME_FAILED",
                Refusal::TryAgain => "TRY_AGAIN",
            },
        }
    }
}

impl ClientFrame {
    /// The frame in this text.
    ///
    /// # Errors
    ///
    /// [`Problem::UnknownType`], or [`Problem::InvalidMessage`] that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Typed {
            r#type: String,
        }
        let invalid = |error: json::Unreadable| Problem::InvalidMessage(error.to_string());
        let Typed { r#type } = json::read(text.as_bytes()).map_err(invalid)?;
        if !CLIENT_TYPES.contains(&r#type.as_str()) {
            return Err(Problem::UnknownType);
        }
        json::read(text.as_bytes()).map_err(invalid)
    }
}

/// A display name: what is left without spaces at its ends.
///
/// # Errors
///
/// [`Problem::InvalidMessage`] when it is empty, longer than [`LONGEST_NAME`], or has control characters.
pub fn display_name(name: &str) -> Result<String, Problem> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control)
    {
        let wanted =
            format!("`name` must have 1 to {LONGEST_NAME} characters and no control characters");
        return Err(Problem::InvalidMessage(wanted));
    }
    Ok(name.to_owned())
}

/// A chat message.
///
/// # Errors
///
/// [`Problem::InvalidMessage`] when the text is empty or longer than [`LONGEST_CHAT`].
pub fn chat_message(text: String, reply_to: Option<String>) -> Result<ChatMessage, Problem> {
    if text.trim().is_empty() || text.chars().count() > LONGEST_CHAT {
        return Err(Problem::InvalidMessage(format!(
            "`text` must have 1 to {LONGEST_CHAT} characters"
        )));
    }
    if reply_to.as_ref().is_some_and(|id| id.len() > LONGEST_NAME) {
        return Err(Problem::InvalidMessage(format!(
            "`replyTo` must have at most {LONGEST_NAME} characters"
        )));
    }
    Ok(ChatMessage {
        text: text.into(),
        reply_to: reply_to.map(Arc::from),
    })
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
            };
            frame(Sender::Participant(*participant), now, message)
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
        } => {
            let participants = people.iter().map(Seen::from).collect();
            frame(
                Sender::Participant(*participant),
                now,
                Message::Snapshot { participants },
            )
        }
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
        Notice::Restarting => return Vec::new(),
        Notice::Ended(reason) => {
            let sender = audience
                .participant
                .map_or(Sender::Nobody, Sender::Participant);
            frame(
                sender,
                now,
                Message::Ended {
                    reason: reason.as_str(),
                },
            )
        }
    }]
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
