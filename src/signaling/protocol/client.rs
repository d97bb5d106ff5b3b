//! What clients send, and the limits of it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer};

use super::Problem;
use crate::{
    id::ParticipantId,
    json,
    meetings::{Action, ChatMessage, Order, PutOut, Role, Waiters, Whom},
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
    "offer",
];

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
