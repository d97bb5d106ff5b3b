//! What clients send, and the limits of it.

use std::{collections::BTreeMap, sync::Arc};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Problem, SFU};
use crate::{
    id::{ChatMessageId, ParticipantId},
    json,
    meetings::{
        Action, ChatMessage, Order, PutOut, Refusal, Relay, RelayAbout, RelayTarget, Role, Waiters,
        Whom,
    },
    rooms::{CreatorToken, Password},
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
/// Longest reason that somebody is told who is sent away or put out, in characters.
pub const LONGEST_REASON: usize = 200;
/// Longest chat text, in characters.
pub const LONGEST_CHAT: usize = 4096;
/// Longest reaction, in characters; what is longer is cut.
pub const LONGEST_REACTION: usize = 8;

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
        /// The room's password. What cannot be one is as none.
        #[serde(default, deserialize_with = "password")]
        password: Option<Password>,
        /// What the room's maker was given. A wrong one is as none.
        #[serde(default)]
        creator_token: Option<CreatorToken>,
        /// Whether the room is to be made where there is none, if the app lets anybody make rooms.
        #[serde(default)]
        is_host: Option<bool>,
        /// Whether the client can resume: it is then given a `resumeToken`.
        #[serde(default)]
        resumable: bool,
    },
    /// Come back after the connection was lost.
    Resume {
        /// The room's name.
        room_id: String,
        /// As given at the join.
        resume_token: SecretString,
        /// The number of the last frame that it has.
        #[serde(default)]
        last_seq: Option<u64>,
    },
    /// Go. The socket stays, and may join again.
    Leave,
    /// Write to all, or to one.
    Chat {
        /// The text.
        text: String,
        /// The message that it answers.
        #[serde(default)]
        reply_to: Option<String>,
        /// To whom alone.
        #[serde(default)]
        target_id: Option<String>,
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
    /// Let somebody in who waits, or all.
    AdmitUser {
        /// Who.
        #[serde(default)]
        target_id: Option<ParticipantId>,
        /// Whether all are meant.
        #[serde(default)]
        all: bool,
    },
    /// Send somebody away who waits, or all.
    RejectUser {
        /// Who.
        #[serde(default)]
        target_id: Option<ParticipantId>,
        /// Whether all are meant.
        #[serde(default)]
        all: bool,
        /// What they are told.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Have nobody join by themself any more.
    RoomLocked,
    /// Have everybody join by themself again.
    RoomUnlocked,
    /// Do something to a participant.
    ModeratorAction {
        /// To whom.
        target_id: ParticipantId,
        /// What.
        action: ModeratorAction,
        /// What they are told, if they are put out.
        #[serde(default)]
        reason: Option<String>,
    },
    /// End the meeting for all.
    EndMeeting,
    /// Raise one's hand.
    RaiseHand,
    /// Lower it.
    LowerHand,
    /// React.
    Reaction {
        /// A word or an emoji.
        reaction: String,
    },
    /// Say that one records.
    RecordingStarted,
    /// Say that one does not record any more.
    RecordingStopped,
    /// Offer media to the SFU.
    Offer {
        /// The session description.
        sdp: String,
        /// What each sending m-line carries, by its mid.
        #[serde(default)]
        tracks: BTreeMap<String, sfu::Source>,
    },
    /// Say something to another client, which the server passes on.
    #[serde(skip)]
    Relay(Relay),
}

/// What a moderator does to a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModeratorAction {
    /// Mute their microphone.
    Mute,
    /// Have it on again.
    Unmute,
    /// Switch their camera off.
    StopVideo,
    /// Stop the sharing of their screen.
    StopScreen,
    /// Have them moderate.
    MakeModerator,
    /// Have them moderate no more.
    RemoveModerator,
    /// Put them out.
    Kick,
    /// Put them out, and keep them out of this meeting.
    Ban,
}

/// The types of [`ClientFrame`], to tell an unknown type from a malformed frame.
pub const CLIENT_TYPES: &[&str] = &[
    "join",
    "resume",
    "leave",
    "chat",
    "participant-updated",
    "admit-user",
    "reject-user",
    "room-locked",
    "room-unlocked",
    "moderator-action",
    "end-meeting",
    "raise-hand",
    "lower-hand",
    "reaction",
    "recording-started",
    "recording-stopped",
    "offer",
    "answer",
    "ice-candidate",
    "quality-change",
    "file-offer",
    "file-answer",
    FILE_CHUNK,
];

/// What frames that are relayed have at least; whatever else is in them is relayed with it.
#[derive(Debug, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
#[expect(dead_code, reason = "it is read to see whether all is there")]
enum Relayed {
    Offer {
        target_id: String,
        sdp: Value,
    },
    Answer {
        target_id: String,
        sdp: Value,
    },
    IceCandidate {
        target_id: String,
        candidate: Value,
    },
    QualityChange {
        target_id: String,
        quality: Quality,
    },
    FileOffer {
        target_id: String,
        transfer_id: String,
        file_name: String,
        file_size: u64,
        file_type: String,
    },
    FileAnswer {
        target_id: String,
        transfer_id: String,
        accepted: bool,
    },
    FileChunk {
        target_id: String,
        transfer_id: String,
        chunk: String,
        index: u64,
        total: u64,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Quality {
    High,
    Medium,
    Low,
}

impl ModeratorAction {
    /// What it does to the meeting.
    pub fn on(self, target: ParticipantId, reason: Option<String>) -> Action {
        let switch = |order| Action::Switch {
            target,
            orders: vec![order],
        };
        let make = |role| Action::Change {
            target,
            role: Some(role),
            permissions: BTreeMap::new(),
        };
        let put_out = |how| Action::PutOut {
            whom: vec![Whom::Participant(target)],
            how,
            reason,
        };
        match self {
            Self::Mute => switch(Order::Mute),
            Self::Unmute => switch(Order::Unmute),
            Self::StopVideo => switch(Order::StopVideo),
            Self::StopScreen => switch(Order::StopScreen),
            Self::MakeModerator => make(Role::Moderator),
            Self::RemoveModerator => make(Role::Participant),
            Self::Kick => put_out(PutOut::Kick),
            Self::Ban => put_out(PutOut::Ban),
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
        #[serde(rename_all = "camelCase")]
        struct Typed {
            r#type: String,
            #[serde(default)]
            target_id: Value,
        }
        let Typed { r#type, target_id } = json::read(text.as_bytes())?;
        let about = match r#type.as_str() {
            "offer" if target_id == SFU => None,
            "offer" | "answer" | "ice-candidate" | "quality-change" => Some(RelayAbout::Media),
            "file-offer" | FILE_CHUNK => Some(RelayAbout::File),
            "file-answer" => Some(RelayAbout::FileAnswer),
            known if CLIENT_TYPES.contains(&known) => None,
            _ => return Err(Problem::UnknownType),
        };
        let Some(about) = about else {
            return Ok(json::read(text.as_bytes())?);
        };
        let _: Relayed = json::read(text.as_bytes())?;
        let mut frame: Map<String, Value> = json::read(text.as_bytes())?;
        for ours in ["roomId", "participantId", "timestamp", "seq"] {
            frame.remove(ours);
        }
        let to = match target_id.as_str() {
            Some(SFU) => RelayTarget::Sfu,
            Some(id) => id
                .parse()
                .map_or(RelayTarget::Nobody, RelayTarget::Participant),
            None => RelayTarget::Nobody,
        };
        Ok(Self::Relay(Relay {
            about,
            to,
            frame: Arc::new(frame),
        }))
    }

    /// Whether it is part of a file: these are limited by their bytes, and not counted.
    pub fn is_file_chunk(&self) -> bool {
        matches!(self, Self::Relay(relay) if relay.frame.get("type").is_some_and(|kind| kind == FILE_CHUNK))
    }
}

impl From<json::Unreadable> for Problem {
    fn from(error: json::Unreadable) -> Self {
        Self::InvalidMessage(error.to_string())
    }
}

fn password<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Password>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()))
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

/// Who is meant of those who wait.
///
/// # Errors
///
/// [`Problem::InvalidMessage`] where neither somebody nor all are.
pub fn waiters(target: Option<ParticipantId>, all: bool) -> Result<Waiters, Problem> {
    match (target, all) {
        (_, true) => Ok(Waiters::All),
        (Some(id), false) => Ok(Waiters::These(vec![id])),
        (None, false) => Err(Problem::InvalidMessage(
            "`targetId` must name somebody who waits, or `all` be true".to_owned(),
        )),
    }
}

/// What somebody is told who is sent away or put out; a blank one is none.
///
/// # Errors
///
/// [`Problem::InvalidMessage`] when it is longer than [`LONGEST_REASON`].
pub fn reason(text: Option<String>) -> Result<Option<String>, Problem> {
    let text = text.map(|text| text.trim().to_owned());
    let text = text.filter(|text| !text.is_empty());
    if text
        .as_ref()
        .is_some_and(|text| text.chars().count() > LONGEST_REASON)
    {
        return Err(Problem::InvalidMessage(format!(
            "`reason` must have at most {LONGEST_REASON} characters"
        )));
    }
    Ok(text)
}

/// A chat message, with the id that it is to have.
///
/// # Errors
///
/// [`Problem::InvalidMessage`] when the text is empty, longer than [`LONGEST_CHAT`], or cannot be stored;
/// [`Refusal::TargetNotFound`] when its target can be nobody.
pub fn chat_message(
    id: ChatMessageId,
    text: String,
    reply_to: Option<String>,
    target: Option<&str>,
) -> Result<ChatMessage, Problem> {
    if text.trim().is_empty() || text.chars().count() > LONGEST_CHAT || text.contains('\0') {
        return Err(Problem::InvalidMessage(format!(
            "`text` must have 1 to {LONGEST_CHAT} characters, none of them U+0000"
        )));
    }
    if reply_to
        .as_ref()
        .is_some_and(|id| id.len() > LONGEST_NAME || id.contains('\0'))
    {
        return Err(Problem::InvalidMessage(format!(
            "`replyTo` must have at most {LONGEST_NAME} characters, none of them U+0000"
        )));
    }
    let to = target.map(|id| id.parse().map_err(|_| Refusal::TargetNotFound));
    Ok(ChatMessage {
        id,
        to: to.transpose()?,
        text: text.into(),
        reply_to: reply_to.map(Arc::from),
    })
}

/// A reaction: its first [`LONGEST_REACTION`] characters.
///
/// # Errors
///
/// [`Problem::InvalidReaction`] when nothing is in it but spaces.
pub fn reaction(reaction: &str) -> Result<Arc<str>, Problem> {
    let reaction: String = reaction.trim().chars().take(LONGEST_REACTION).collect();
    if reaction.is_empty() {
        Err(Problem::InvalidReaction)
    } else {
        Ok(reaction.into())
    }
}

const FILE_CHUNK: &str = "file-chunk";
