//! Admission: the one place that says who may come in.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Identity, Role};
use crate::{
    id::TokenId,
    rooms::{Privacy, Room, RoomName, Rules},
    tokens::{self, Claims},
};

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
    /// The token is none, or not for this room.
    #[error("Your personal link is not valid for this room. Ask whoever sent it for a new one.")]
    TokenInvalid,
    /// The token's time is over.
    #[error("Your personal link has expired. Ask whoever sent it for a new one.")]
    TokenExpired,
    /// The token's time is still to come.
    #[error(
        "Your personal link is not valid yet. Open it again when the meeting is about to start."
    )]
    TokenNotYetValid,
    /// The room is locked.
    #[error("This room is locked. Ask the host to let you in.")]
    RoomLocked,
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

/// What a token gives to its bearer in one room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which token.
    pub token: TokenId,
    /// What its bearer may do.
    pub role: Role,
    /// The name that the others see, whatever the bearer says.
    pub name: Option<String>,
    /// Who the app says that its bearer is.
    pub identity: Arc<Identity>,
    /// How long the stay may last; goes before the room's.
    pub eject_after: Option<TimeDelta>,
    /// From when on nobody can join with it.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether its bearer is put out then.
    pub eject_at_expiry: bool,
}

impl Grant {
    /// What a token that is valid by itself gives in `room`.
    ///
    /// # Errors
    ///
    /// [`Refusal::TokenInvalid`] where it is for another room.
    pub fn new(claims: Claims, room: &RoomName) -> Result<Self, Refusal> {
        if !claims.open(room) {
            return Err(Refusal::TokenInvalid);
        }
        let expires_at = claims.expires_at();
        let data = claims.data;
        Ok(Self {
            token: claims.jti,
            role: if data.is_admin == Some(true) {
                Role::Moderator
            } else {
                Role::Participant
            },
            name: data.name,
            identity: Arc::new(Identity {
                external_user_id: data.external_user_id,
                email: data.email,
                meta: data.meta,
            }),
            eject_after: data.eject_after_elapsed_time_in_sec.map(TimeDelta::from),
            expires_at,
            eject_at_expiry: data.eject_at_token_exp == Some(true),
        })
    }
}

impl Refusal {
    /// What is said of a token that is refused; `None` where nothing is known of it, because it could not be looked into.
    pub fn of_token(error: &tokens::Error) -> Option<Self> {
        match error {
            tokens::Error::Invalid => Some(Self::TokenInvalid),
            tokens::Error::Expired => Some(Self::TokenExpired),
            tokens::Error::NotYetValid => Some(Self::TokenNotYetValid),
            tokens::Error::Contradictions(_)
            | tokens::Error::TooLong
            | tokens::Error::Unsigned
            | tokens::Error::Sealed(_)
            | tokens::Error::Database(_) => None,
        }
    }
}

/// Whether the room is open to anybody at `now`. Asked before a token is looked at.
///
/// # Errors
///
/// [`Refusal::RoomNotOpen`], [`Refusal::RoomExpired`].
pub fn check_time(rules: &Rules, now: DateTime<Utc>) -> Result<(), Refusal> {
    if let Some(opens_at) = rules.opens_at().filter(|opens_at| now < *opens_at) {
        return Err(Refusal::RoomNotOpen { opens_at });
    }
    if rules
        .expires_at()
        .is_some_and(|expires_at| now >= expires_at)
    {
        Err(Refusal::RoomExpired)
    } else {
        Ok(())
    }
}

/// Whether the room lets one more in, who has shown `grant`, with `present` in already.
///
/// # Errors
///
/// [`Refusal::RoomNotOpen`], [`Refusal::RoomExpired`], [`Refusal::TokenExpired`], [`Refusal::TokenRequired`],
/// [`Refusal::RoomLocked`], [`Refusal::RoomFull`], whichever comes first in this order.
pub fn check(
    room: &Room,
    grant: Option<&Grant>,
    present: usize,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let rules = &room.rules;
    check_time(rules, now)?;
    match grant {
        Some(grant) if grant.expires_at.is_some_and(|expires_at| now >= expires_at) => {
            return Err(Refusal::TokenExpired);
        }
        // A join cannot bring a password along: what was locked with one stays so.
        None if rules.privacy == Privacy::Private || room.password.is_some() => {
            return Err(Refusal::TokenRequired);
        }
        _ => {}
    }
    if rules.locked && grant.is_none_or(|grant| grant.role != Role::Moderator) {
        return Err(Refusal::RoomLocked);
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
