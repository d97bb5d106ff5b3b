//! Admission: the one place that says who may come in.

use chrono::{DateTime, Utc};

use crate::rooms::{Privacy, Rules};

/// Why somebody does not get in, or what they asked for does not happen. The message tells them what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such room.
    #[error("This room does not exist. Check the link, or ask whoever sent it.")]
    RoomNotFound,
    /// The room is not open yet.
    #[error("This room is not open yet. Come back when the meeting begins.")]
    RoomNotOpen {
        /// When it opens.
        opens_at: DateTime<Utc>,
    },
    /// The room's time is over.
    #[error("This room has expired. Ask the host for a new link.")]
    RoomExpired,
    /// The room is private.
    #[error("This room is private. Open the personal link that you were sent.")]
    TokenRequired,
    /// All places are taken.
    #[error("This room is full. Try again when somebody has left.")]
    RoomFull,
    /// The meeting ended before this could happen.
    #[error("This meeting has ended.")]
    MeetingEnded,
    /// The person is not in a meeting.
    #[error("Join a room first.")]
    NotJoined,
    /// The resume token is unknown, or its time is over.
    #[error("This connection cannot be resumed. Join again.")]
    ResumeFailed,
    /// We cannot do it at the moment.
    #[error("The server is busy. Try again in a few seconds.")]
    TryAgain,
}

/// Whether the rules let one more in, with `present` in already.
///
/// # Errors
///
/// [`Refusal::RoomNotOpen`], [`Refusal::RoomExpired`], [`Refusal::TokenRequired`], [`Refusal::RoomFull`], whichever comes
/// first in this order.
pub fn check(rules: &Rules, present: usize, now: DateTime<Utc>) -> Result<(), Refusal> {
    if let Some(opens_at) = rules.opens_at().filter(|opens_at| now < *opens_at) {
        return Err(Refusal::RoomNotOpen { opens_at });
    }
    if rules
        .expires_at()
        .is_some_and(|expires_at| now >= expires_at)
    {
        return Err(Refusal::RoomExpired);
    }
    if rules.privacy == Privacy::Private {
        return Err(Refusal::TokenRequired);
    }
    let places = rules.max_participants.map_or(usize::MAX, |places| {
        usize::try_from(places).unwrap_or(usize::MAX)
    });
    if present >= places {
        Err(Refusal::RoomFull)
    } else {
        Ok(())
    }
}
