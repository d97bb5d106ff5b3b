//! What clients are sent.

use std::sync::Arc;

use bytestring::ByteString;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Problem;
use crate::{
    chat,
    id::{ChatMessageId, ParticipantId},
    meetings::{
        Audience, ChatMessage, Notice, Order, Permissions, Person, Refusal, Role, Scene, Shown,
        TurnedAway,
    },
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
    body: Body<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Ours(Message<'a>),
    /// As another client wrote it, its type included.
    Relayed(Arc<Map<String, Value>>),
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
        #[serde(skip_serializing_if = "Option::is_none")]
        room: Option<RoomView>,
    },
    ParticipantLeft,
    ParticipantUpdated {
        is_muted: bool,
        is_video_off: bool,
        is_hand_raised: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        is_moderator: Option<bool>,
    },
    RaiseHand,
    LowerHand,
    Reaction {
        reaction: Arc<str>,
    },
    RecordingStarted {
        started_by: ParticipantId,
    },
    RecordingStopped {
        stopped_by: ParticipantId,
    },
    Chat {
        message_id: ChatMessageId,
        text: Arc<str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reply_to: Option<Arc<str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_id: Option<ParticipantId>,
    },
    ChatHistory {
        messages: Vec<Written>,
    },
    Answer {
        target_id: Option<ParticipantId>,
        sdp: Arc<str>,
    },
    Slots {
        slots: Vec<Slot>,
    },
    Resumed,
    Snapshot {
        frames_lost: bool,
        room: RoomView,
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

/// A room, as who comes in sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RoomView {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<Arc<str>>,
    is_recording: bool,
}

/// A message of before.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    message_id: ChatMessageId,
    participant_id: ParticipantId,
    name: Arc<str>,
    timestamp: i64,
    text: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Arc<str>>,
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

/// The frames that tell `notice` to `audience`, as they are sent: see [`frames`].
pub fn render(notice: &Notice, audience: &Audience<'_>, now: DateTime<Utc>) -> Vec<ByteString> {
    let frames = frames(notice, audience, now).into_iter();
    let texts = frames.filter_map(|frame| serde_json::to_string(&frame).ok());
    texts.map(ByteString::from).collect()
}

/// The frames that tell `notice` to `audience`; none where closing the socket says it.
pub fn frames<'a>(
    notice: &Notice,
    audience: &Audience<'a>,
    now: DateTime<Utc>,
) -> Vec<ServerFrame<'a>> {
    let with = |sender: Sender, timestamp: DateTime<Utc>, body| ServerFrame {
        room_id: audience.room.as_str(),
        participant_id: sender,
        timestamp: timestamp.timestamp_millis(),
        body,
    };
    let frame = |sender, timestamp, message| with(sender, timestamp, Body::Ours(message));
    let joined = |person: &Person, room: Option<&Scene>| {
        let Shown {
            is_muted,
            is_video_off,
            is_hand_raised,
            ..
        } = person.shown;
        let own = audience.resume_token.filter(|_| room.is_some());
        let message = Message::ParticipantJoined {
            name: person.name.clone(),
            is_moderator: person.role == Role::Moderator,
            is_muted,
            is_video_off,
            is_hand_raised,
            resume_token: own.map(|token| token.expose_secret()),
            room: room.map(RoomView::from),
        };
        frame(Sender::Participant(person.id), now, message)
    };
    let told = Sender::of(audience.participant);
    vec![match notice {
        // The newcomer hears of themself first, and so learns who they are; then of the others.
        Notice::Welcome { you, others, room } => {
            let own = joined(you, Some(room));
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
                ..
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
                ..
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
            let ChatMessage {
                id,
                to,
                text,
                reply_to,
            } = message.clone();
            let message = Message::Chat {
                message_id: id,
                text,
                reply_to,
                target_id: to,
            };
            frame(Sender::Participant(*from), *at, message)
        }
        Notice::ChatHistory(lines) => {
            let messages = lines.iter().map(|line| Written::from(&**line)).collect();
            frame(told, now, Message::ChatHistory { messages })
        }
        Notice::Hand {
            participant,
            raised,
        } => {
            let message = if *raised {
                Message::RaiseHand
            } else {
                Message::LowerHand
            };
            frame(Sender::Participant(*participant), now, message)
        }
        Notice::Reaction { from, reaction } => {
            let reaction = reaction.clone();
            frame(
                Sender::Participant(*from),
                now,
                Message::Reaction { reaction },
            )
        }
        Notice::Recording { by, on } => {
            let message = if *on {
                Message::RecordingStarted { started_by: *by }
            } else {
                Message::RecordingStopped { stopped_by: *by }
            };
            frame(Sender::Participant(*by), now, message)
        }
        Notice::Relayed { from, frame } => with(
            Sender::Participant(*from),
            now,
            Body::Relayed(frame.clone()),
        ),
        Notice::Resumed { participant } => {
            frame(Sender::Participant(*participant), now, Message::Resumed)
        }
        Notice::Snapshot {
            participant,
            people,
            is_locked,
            waiting,
            room,
        } => {
            let message = Message::Snapshot {
                frames_lost: true,
                room: RoomView::from(room),
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
            // What has begun counts: of 59.9 s the last one is still there.
            let left = (*ends_at - now).num_milliseconds().max(0);
            let message = Message::Warning {
                reason: reason.as_str(),
                ends_at: ends_at.timestamp_millis(),
                seconds_left: (left + 999) / 1000,
            };
            frame(Sender::Nobody, now, message)
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
        body: Body::Ours(Message::RoomOpen),
    }
}

/// The frame that says that a client's frame came to nothing.
pub fn error(problem: &Problem, now: DateTime<Utc>) -> ServerFrame<'static> {
    ServerFrame {
        room_id: "",
        participant_id: Sender::Nobody,
        timestamp: now.timestamp_millis(),
        body: Body::Ours(Message::Error {
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
        }),
    }
}

impl From<&Scene> for RoomView {
    fn from(scene: &Scene) -> Self {
        let Scene {
            title,
            is_recording,
        } = scene.clone();
        Self {
            title,
            is_recording,
        }
    }
}

impl From<&chat::Line> for Written {
    fn from(line: &chat::Line) -> Self {
        Self {
            message_id: line.id,
            participant_id: line.participant,
            name: line.name.clone(),
            timestamp: line.sent_at.timestamp_millis(),
            text: line.text.clone(),
            reply_to: line.reply_to.clone(),
        }
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
