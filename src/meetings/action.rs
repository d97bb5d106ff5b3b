//! What moderators and the app may do to a meeting: one set of actions, whichever way they come in.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{LeaveReason, Refusal, Role, Speaker};
use crate::{
    id::ParticipantId,
    rooms::{LockSettings, property::PageUrl},
};

/// Who acts.
#[derive(Clone, Debug)]
pub enum By {
    /// A participant, who has to be a moderator.
    Moderator(Speaker),
    /// The app, by its secret key.
    App {
        /// The id of the request that it asked by.
        request: Option<Arc<str>>,
    },
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// Nobody joins by themself any more, or everybody does again. Whoever waits goes on waiting.
    Lock(bool),
    /// Who waits comes in, in the order in which they came.
    Admit(Waiters),
    /// Who waits is sent away.
    Reject {
        /// Who.
        whom: Waiters,
        /// What they are told.
        reason: Option<String>,
    },
    /// Participants are put out, and whoever of them waits is sent away.
    PutOut {
        /// Who. Of an app, those who are not here are passed over.
        whom: Vec<Whom>,
        /// With what consequence.
        how: PutOut,
        /// What they are told.
        reason: Option<String>,
    },
    /// A participant's devices are switched.
    Switch {
        /// Whose.
        target: ParticipantId,
        /// How, in order.
        orders: Vec<Order>,
    },
    /// A participant may do something else from now on.
    Change {
        /// Who.
        target: ParticipantId,
        /// Their role; `None` stays.
        role: Option<Role>,
        /// What they may do; one that is not named stays, `None` is as the room has it.
        permissions: BTreeMap<Permission, Option<bool>>,
    },
    /// The meeting ends.
    End {
        /// Where people go then.
        redirect: Option<PageUrl>,
    },
    /// The app tells people something.
    Message {
        /// Whom; `None` is all.
        to: Option<Vec<ParticipantId>>,
        /// For people.
        text: Option<String>,
        /// For programs.
        data: Option<Value>,
    },
    /// The end that `meetingDurationSec` gives is moved.
    Extend(Extension),
    /// Nothing is done; the answer has who waits.
    ListWaiting,
}

/// Which of those who wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Waiters {
    /// All of them.
    All,
    /// These.
    These(Vec<ParticipantId>),
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Whom {
    /// This stay.
    Participant(ParticipantId),
    /// Every stay of this `externalUserId`.
    User(String),
}

/// With what consequence somebody is put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PutOut {
    /// They may come again.
    Kick,
    /// What they came in with opens this meeting no more.
    Eject,
    /// The same, and who they are is kept out of this meeting.
    Ban,
}

/// What a participant is ordered, or what is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Their microphone is muted.
    Mute,
    /// It is to be on again.
    Unmute,
    /// Their camera is off.
    StopVideo,
    /// Their screen is not to be shared any more.
    StopScreen,
    /// They moderate.
    MakeModerator,
    /// They do not moderate any more.
    RemoveModerator,
    /// They are put out, and may come again.
    Kick,
    /// They are put out, and kept out.
    Ban,
}

/// How the end is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Extension {
    /// So many seconds later, or with less than none earlier.
    By(i64),
    /// To this instant.
    Until(DateTime<Utc>),
}

/// Something that a participant may or may not do; of those who do not moderate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Permission {
    /// Send sound.
    Microphone,
    /// Send their picture.
    Webcam,
    /// Share their screen.
    ScreenSharing,
    /// See the chat.
    Chat,
    /// Write to the chat.
    ChatSend,
    /// Send files in the chat.
    ChatFiles,
    /// Write to one person.
    PrivateChat,
    /// Draw on the whiteboard.
    Whiteboard,
    /// Write on the notepad.
    Notepad,
    /// React.
    Reactions,
}

/// What of a participant's permissions is not as the room's `lockSettings` have it: true is may.
pub type Permissions = BTreeMap<Permission, bool>;

/// What came of an action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Done {
    /// Whom it really concerned.
    pub participants: Vec<ParticipantId>,
    /// Who waits; of [`Action::ListWaiting`].
    pub waiting: Vec<Waits>,
    /// When the meeting ends now; of [`Action::Extend`].
    pub ends_at: Option<DateTime<Utc>>,
}

/// Somebody who waits to be let in, as the app is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// The stay that it would be.
    pub participant: ParticipantId,
    /// Display name.
    pub name: String,
    /// The app's own id of the person.
    pub external_user_id: Option<String>,
    /// Since when they wait.
    pub since: DateTime<Utc>,
}

/// What the app is answered, as it is stored.
pub type Answer = Result<Done, Denial>;

/// Why nothing came of an action of the app. The message tells it what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Denial {
    /// Who is meant is not here.
    #[error("there is nobody with this id in the room's meeting")]
    TargetNotFound,
    /// Whoever waits cannot come in: all places are taken.
    #[error("the room is full: nobody can be let in until somebody has left")]
    RoomFull,
    /// Whoever waits cannot come in: the time of the room, or of their token, is over.
    #[error("the time of the room, or of the token, is over: nobody can be let in")]
    TimeOver,
    /// There is no end that could be moved.
    #[error(
        "this meeting has no end to move: its room has no meetingDurationSec, or nobody has joined yet"
    )]
    NoTimeLimit,
    /// The meeting ended before.
    #[error("nobody meets in this room at the moment")]
    MeetingEnded,
    /// It cannot be done at the moment.
    #[error("the meeting cannot do this at the moment; try again in a few seconds")]
    TryAgain,
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TargetNotFound => Self::TargetNotFound,
            Refusal::RoomFull => Self::RoomFull,
            Refusal::RoomExpired | Refusal::TokenExpired => Self::TimeOver,
            Refusal::NoTimeLimit => Self::NoTimeLimit,
            Refusal::MeetingEnded => Self::MeetingEnded,
            // What is said to people alone.
            _ => Self::TryAgain,
        }
    }
}

impl Action {
    /// What only moderators can do, to say it to others.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Lock(true) => "lock the room",
            Self::Lock(false) => "unlock the room",
            Self::Admit(_) => "admit users",
            Self::Reject { .. } => "reject users",
            Self::End { .. } => "end the meeting",
            Self::PutOut { .. }
            | Self::Switch { .. }
            | Self::Change { .. }
            | Self::Message { .. }
            | Self::Extend(_)
            | Self::ListWaiting => "perform this action",
        }
    }
}

impl PutOut {
    /// Why whoever is put out so has left.
    pub(super) fn reason(self) -> LeaveReason {
        match self {
            Self::Kick => LeaveReason::Kicked,
            Self::Eject => LeaveReason::Ejected,
            Self::Ban => LeaveReason::Banned,
        }
    }
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Microphone,
        Self::Webcam,
        Self::ScreenSharing,
        Self::Chat,
        Self::ChatSend,
        Self::ChatFiles,
        Self::PrivateChat,
        Self::Whiteboard,
        Self::Notepad,
        Self::Reactions,
    ];

    /// Whether the room's `lockSettings` forbid it.
    pub(super) fn is_locked(self, settings: &LockSettings) -> bool {
        match self {
            Self::Microphone => settings.microphone,
            Self::Webcam => settings.webcam,
            Self::ScreenSharing => settings.screen_sharing,
            Self::Chat => settings.chat,
            Self::ChatSend => settings.chat_send,
            Self::ChatFiles => settings.chat_files,
            Self::PrivateChat => settings.private_chat,
            Self::Whiteboard => settings.whiteboard,
            Self::Notepad => settings.notepad,
            Self::Reactions => settings.reactions,
        }
    }
}
