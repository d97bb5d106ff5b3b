//! Instants at which a rule fires, stored in Postgres.
//!
//! There is one row per kind and subject, set, moved and cancelled in the transaction of the rule that moved it. A
//! meeting's owner fires the deadlines of its meeting and its participants; those of rooms are fired by [`Rooms`].

mod rooms;
mod store;

use std::fmt;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

pub use self::rooms::{Effect, Outcome, Rooms};
use crate::id::{AppId, MeetingId, ParticipantId, RoomId};

/// Which rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "camelCase")]
pub enum Kind {
    /// The room's `expireUnixSec`.
    RoomExpires,
    /// `ejectAfterElapsedTimeInSec` after a participant's join.
    ParticipantTimeUp,
    /// A participant's token expires, and has `ejectAtTokenExp`.
    TokenExpires,
    /// The room is to be removed: it has expired with `deleteOnExp`, or it is anonymous and was not used for a day.
    RoomUnused,
    /// `meetingDurationSec` after the first join.
    MeetingTimeUp,
    /// `endMeetingAfterNoActivityInSec` after somebody shared.
    NoActivity,
    /// `emptyTimeoutSec` after a call opened the meeting.
    NeverJoined,
    /// `endWhenEmptyAfterSec` after the last participant left.
    Empty,
    /// `endWhenOneLeftAfterSec` after one was alone.
    OneLeft,
    /// 5 min and 1 min before people are put out. Never stored.
    Warning,
    /// 30 s after a participant's connection was lost.
    Resume,
    /// 10 minutes after somebody asked to be let in.
    Knock,
}

impl Kind {
    /// Its name where it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoomExpires => "roomExpires",
            Self::ParticipantTimeUp => "participantTimeUp",
            Self::TokenExpires => "tokenExpires",
            Self::RoomUnused => "roomUnused",
            Self::MeetingTimeUp => "meetingTimeUp",
            Self::NoActivity => "noActivity",
            Self::NeverJoined => "neverJoined",
            Self::Empty => "empty",
            Self::OneLeft => "oneLeft",
            Self::Warning => "warning",
            Self::Resume => "resume",
            Self::Knock => "knock",
        }
    }
}

/// Whom a deadline concerns: the bytes of the id that its kind means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct Subject([u8; crate::id::LEN]);

/// A deadline of a meeting or one of its participants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Which rule fires.
    pub kind: Kind,
    /// Whom it concerns.
    pub subject: Subject,
}

/// A stored deadline of a room that is due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Whose room it is.
    pub app: AppId,
    /// Which rule fires.
    pub kind: Kind,
    /// The room.
    pub room: RoomId,
    /// When it was due.
    pub at: DateTime<Utc>,
    version: i64,
}

/// Sets or moves deadlines of a meeting.
pub async fn set_of_meeting(
    conn: &mut PgConnection,
    app: AppId,
    meeting: MeetingId,
    deadlines: &[(&Key, &DateTime<Utc>)],
) -> sqlx::Result<()> {
    store::set(conn, app, Some(meeting), deadlines).await
}

/// Sets or moves a deadline of a room.
pub async fn set_of_room(
    conn: &mut PgConnection,
    app: AppId,
    kind: Kind,
    room: RoomId,
    due_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    let key = Key {
        kind,
        subject: room.into(),
    };
    store::set(conn, app, None, &[(&key, &due_at)]).await
}

/// Cancels deadlines; nothing happens where there are none.
pub async fn cancel(conn: &mut PgConnection, app: AppId, keys: &[&Key]) -> sqlx::Result<()> {
    store::cancel(conn, app, keys).await
}

/// Forgets the deadlines of a meeting that is over. Its subjects are never used again, so no version is used twice.
pub async fn forget(conn: &mut PgConnection, app: AppId, meeting: MeetingId) -> sqlx::Result<()> {
    store::forget(conn, app, meeting).await
}

/// Takes a due deadline, so that it fires once: `false` if it was moved, cancelled or taken since it was read.
///
/// The row stays locked until the transaction ends; whoever dies before that leaves the deadline due.
pub async fn take(conn: &mut PgConnection, due: &Due) -> sqlx::Result<bool> {
    store::take(conn, due).await
}

macro_rules! subjects {
    ($($id:ident)*) => { $(
        impl From<$id> for Subject {
            fn from(id: $id) -> Self {
                Self(*id.as_bytes())
            }
        }
    )* };
}
subjects!(RoomId MeetingId ParticipantId);

impl From<Subject> for ParticipantId {
    fn from(subject: Subject) -> Self {
        Self::from_bytes(subject.0)
    }
}

impl From<Subject> for RoomId {
    fn from(subject: Subject) -> Self {
        Self::from_bytes(subject.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
