//! Why stays and meetings end, in the words that the outside is told.

/// Why a stay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// They left.
    Left,
    /// Their connection was lost and did not come back in time.
    ConnectionLost,
    /// `ejectAfterElapsedTimeInSec` was over.
    TimeLimit,
    /// Their token expired, and has `ejectAtTokenExp`.
    TokenExpired,
    /// They joined once more, and the room has each person in once (`duplicateUser: replace`).
    Replaced,
    /// They were gone before they were told that they are in.
    JoinAborted,
    /// A moderator put them out; they may come again.
    Kicked,
    /// The app put them out.
    Ejected,
    /// They were put out, and are kept out.
    Banned,
    /// The server died and they did not come back in time.
    ServerCrash,
    /// The server was stopped, and their client cannot come back.
    ServerShutdown,
    /// The meeting ended.
    Ended(EndReason),
}

/// Why a meeting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndReason {
    /// The room expired, and its rules put everyone out.
    RoomExpired,
    /// The room was deleted.
    RoomDeleted,
    /// `meetingDurationSec` was over.
    DurationReached,
    /// Nobody shared anything for `endMeetingAfterNoActivityInSec`.
    NoActivity,
    /// A call opened it, and nobody joined for `emptyTimeoutSec`.
    NeverJoined,
    /// Nobody was in for `endWhenEmptyAfterSec`.
    Empty,
    /// The app ended it.
    EndedByApi,
    /// A moderator ended it.
    EndedByModerator,
    /// Only one was in for `endWhenOneLeftAfterSec`.
    OneLeft,
    /// The last moderator left, and the room has `endWhenModeratorLeaves`.
    ModeratorLeft,
}

impl EndReason {
    /// The word for it outside.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoomExpired => "roomExpired",
            Self::RoomDeleted => "roomDeleted",
            Self::DurationReached => "durationReached",
            Self::NoActivity => "noActivity",
            Self::NeverJoined => "neverJoined",
            Self::Empty => "empty",
            Self::EndedByApi => "endedByApi",
            Self::EndedByModerator => "endedByModerator",
            Self::OneLeft => "oneLeft",
            Self::ModeratorLeft => "moderatorLeft",
        }
    }
}

impl LeaveReason {
    /// The word for it outside.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::ConnectionLost => "connectionLost",
            Self::TimeLimit => "timeLimit",
            Self::TokenExpired => "tokenExpired",
            Self::Replaced => "replaced",
            Self::JoinAborted => "joinAborted",
            Self::Kicked => "kicked",
            Self::Ejected => "ejected",
            Self::Banned => "banned",
            Self::ServerCrash => "serverCrash",
            Self::ServerShutdown => "serverShutdown",
            Self::Ended(reason) => reason.as_str(),
        }
    }
}
