//! The frames of the signaling socket: one JSON object per text frame.

use std::sync::Arc;

pub use client::{
    BYTES_PER_SECOND, CLIENT_TYPES, ClientFrame, FRAMES_PER_SECOND, LONGEST_CHAT, LONGEST_FRAME,
    LONGEST_NAME, LONGEST_REACTION, LONGEST_REASON, ModeratorAction, chat_message, display_name,
    reaction, reason, waiters,
};
pub use server::{SFU, ServerFrame, error, frames, render, room_open};

use crate::meetings::Refusal;

mod client;
mod server;

/// Why a client's frame came to nothing, as the `error` frame says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The frame is not JSON, or a field is missing or wrong.
    #[error("Invalid message format: {0}")]
    InvalidMessage(String),
    /// The frame's type is not known.
    #[error("Unknown message type")]
    UnknownType,
    /// There is nothing in the reaction.
    #[error("Reaction cannot be empty")]
    InvalidReaction,
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
            Self::InvalidReaction => "INVALID_REACTION",
            Self::AlreadyJoined => "ALREADY_JOINED",
            Self::TooFast => "TOO_FAST",
            Self::Negotiating => "TRY_AGAIN",
            Self::NotNegotiated(_) => "NEGOTIATION_FAILED",
            Self::Refused(refusal) => refusal.code(),
        }
    }
}
