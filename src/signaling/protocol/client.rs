//! What clients send, and the limits of it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer};

use super::Problem;
use crate::{
    json,
    meetings::ChatMessage,
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
