//! A live meeting, as its owner knows it.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};

use super::{JoinRequest, LeaveReason, Permission, Permissions, Refusal};
use crate::{
    deadlines::Kind,
    id::{MeetingId, ParticipantId, TokenId},
    rooms::{AddressHash, MediaMode, Room},
    sfu::Source,
};

/// A live meeting, as its owner knows it.
#[derive(Clone, Debug)]
pub struct State {
    /// Which meeting.
    pub id: MeetingId,
    /// How far it has come.
    pub status: Status,
    /// The room and its rules.
    pub room: Room,
    /// Who is in, in the order of their joins.
    pub participants: Vec<Participant>,
    /// Who was put out and is kept out until the meeting ends.
    pub blocked: Arc<HashSet<Block>>,
    /// Who waits to be let in, in the order in which they came. Not stored: their connections are this node's.
    pub waiting: Vec<Waiting>,
    /// Whether it was locked or unlocked since it began; `None` is as the room has it.
    pub locked: Option<bool>,
    /// By how much the app has moved the end that `meetingDurationSec` gives.
    pub extended_by: TimeDelta,
    /// Stays so far, those that ended included.
    pub participant_count: u32,
    /// People who were in at the same time, at most.
    pub max_concurrent: usize,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When the first participant joined.
    pub started_at: Option<DateTime<Utc>>,
    /// Since when nobody is in. Of one that a call opened, and that nobody has joined: never.
    pub empty_since: Option<DateTime<Utc>>,
    /// Since when one is alone, of several.
    pub one_left_since: Option<DateTime<Utc>>,
    /// The last moment when somebody is known to have shared.
    pub last_shared_at: Option<DateTime<Utc>>,
    /// Since when its room's rules are these: what they end ends then at the earliest.
    pub ruled_at: DateTime<Utc>,
    /// What all have been warned of.
    pub warned: Vec<Warned>,
    /// The latest time at which something became true here: nothing that ends the meeting is earlier.
    pub last_at: DateTime<Utc>,
    /// Number of the next event.
    pub next_seq: i64,
}

/// How far a meeting has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Status {
    /// Nobody has joined yet.
    Open,
    /// From the first join on.
    Live,
    /// Over.
    Ended,
}

impl Status {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Open, Self::Live, Self::Ended];

    /// The word for it outside.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Live => "live",
            Self::Ended => "ended",
        }
    }
}

/// What a participant may do.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    sqlx::Type,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Role {
    /// Leads the meeting.
    Moderator,
    /// Takes part.
    Participant,
}

/// One person's stay.
#[derive(Clone, Debug)]
pub struct Participant {
    /// Which stay.
    pub id: ParticipantId,
    /// Display name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The token that they joined with.
    pub token: Option<TokenId>,
    /// Who the app says that they are, by their token.
    pub identity: Arc<Identity>,
    /// What they joined with; written with the join, and not known to an owner that took the meeting over.
    pub device: Arc<Device>,
    /// Where they joined from, where they are known by nothing else.
    pub address: Option<AddressHash>,
    /// When they joined.
    pub joined_at: DateTime<Utc>,
    /// When their time is up.
    pub time_up_at: Option<DateTime<Utc>>,
    /// Whether their token says so, and the room cannot.
    pub has_own_limit: bool,
    /// When their token puts them out.
    pub token_expires_at: Option<DateTime<Utc>>,
    /// Hash of the token that brings a lost connection back.
    pub resume: Option<ResumeHash>,
    /// Set while the connection is lost.
    pub away: Option<Away>,
    /// The connection that speaks for them; what comes from one that it replaced is ignored.
    pub connection: Connection,
    /// What they say of their devices and their hand.
    pub shown: Shown,
    /// What they may do that the room's `lockSettings` forbid, and the other way round.
    pub permissions: Permissions,
    /// What of their media reaches the others, as far as the server can tell.
    pub sharing: Sharing,
    /// What they alone have been warned of.
    pub warned: Vec<Warned>,
}

/// Somebody who waits to be let in.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// What they asked.
    pub request: Arc<JoinRequest>,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// What is known of somebody who was put out, and lets nobody in until the meeting ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// The token that they joined with.
    Token(TokenId),
    /// What would have brought their connection back.
    Resume(ResumeHash),
    /// Who the app says that they are: `externalUserId`.
    Person(String),
    /// Where they came from.
    Address(AddressHash),
}

/// What tells whether somebody shares. Not stored: media does not outlive its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Their microphone reaches the SFU.
    pub microphone: bool,
    /// Their camera reaches the SFU.
    pub camera: bool,
    /// Their screen reaches the SFU.
    pub screen: bool,
    /// The sound of their screen reaches the SFU.
    pub screen_audio: bool,
    /// They have said whether their microphone is muted.
    pub says_sound: bool,
    /// They have said whether their camera is off.
    pub says_picture: bool,
}

/// A warning that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warned {
    /// Of which rule.
    pub of: Kind,
    /// When that ends it.
    pub ends_at: DateTime<Utc>,
    /// How long before that the warning was due.
    pub lead: TimeDelta,
    /// When it was given.
    pub at: DateTime<Utc>,
}

/// Who the app says that somebody is. For the app alone: the others in the meeting are not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The app's own id of the person.
    pub external_user_id: Option<String>,
    /// Their address.
    pub email: Option<String>,
    /// What else the app wants to be told of them.
    pub meta: Option<String>,
}

/// What somebody joins with, as their browser says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Name and major version.
    pub browser: Option<String>,
    /// Operating system.
    pub os: Option<String>,
}

/// Tells the connections of one node apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection(pub u64);

/// A participant, speaking through a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Who.
    pub participant: ParticipantId,
    /// Through which connection.
    pub connection: Connection,
}

/// A lost connection that may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// The last moment when it is known to have stood.
    pub since: DateTime<Utc>,
    /// Until when it may come back.
    pub until: DateTime<Utc>,
    /// Why the participant has left if it does not.
    pub reason: LeaveReason,
}

/// SHA-256 of a resume token.
pub type ResumeHash = [u8; 32];

/// What a participant says of themself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Microphone muted.
    pub is_muted: bool,
    /// Camera off.
    pub is_video_off: bool,
    /// Hand raised.
    pub is_hand_raised: bool,
    /// Recording, on their own device.
    pub is_recording: bool,
}

/// A change of [`Shown`]: what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShownChange {
    /// Microphone muted.
    pub is_muted: Option<bool>,
    /// Camera off.
    pub is_video_off: Option<bool>,
    /// Hand raised.
    pub is_hand_raised: Option<bool>,
}

impl State {
    /// A meeting that is opened at `now`, which nobody has joined yet.
    pub fn open(id: MeetingId, room: Room, now: DateTime<Utc>) -> Self {
        Self {
            id,
            status: Status::Open,
            room,
            participants: Vec::new(),
            blocked: Arc::default(),
            waiting: Vec::new(),
            locked: None,
            extended_by: TimeDelta::zero(),
            participant_count: 0,
            max_concurrent: 0,
            created_at: now,
            started_at: None,
            empty_since: Some(now),
            one_left_since: None,
            last_shared_at: None,
            ruled_at: now,
            warned: Vec::new(),
            last_at: now,
            next_seq: 1,
        }
    }

    /// The participant with this id, if they are in.
    pub fn find(&self, id: ParticipantId) -> Option<&Participant> {
        self.participants
            .iter()
            .find(|participant| participant.id == id)
    }

    /// Who waits with this id.
    pub fn find_waiting(&self, id: ParticipantId) -> Option<&Waiting> {
        self.waiting
            .iter()
            .find(|waiting| waiting.request.participant == id)
    }

    /// Those who moderate.
    pub fn moderators(&self) -> impl Iterator<Item = &Participant> {
        self.participants
            .iter()
            .filter(|participant| participant.role == Role::Moderator)
    }

    /// Whether nobody joins by themself.
    pub fn is_locked(&self) -> bool {
        self.locked.unwrap_or(self.room.rules.locked)
    }

    /// Whether a participant may do something: moderators may do everything.
    pub fn may(&self, participant: &Participant, what: Permission) -> bool {
        participant.role == Role::Moderator
            || participant
                .permissions
                .get(&what)
                .copied()
                .unwrap_or(!what.is_locked(&self.room.rules.lock_settings))
    }

    /// When the meeting ends by the room's `meetingDurationSec` and what the app has moved that by; `None` where that has no
    /// end, or nobody has joined yet.
    pub fn ends_at(&self) -> Option<DateTime<Utc>> {
        let duration = self.room.rules.meeting_duration.map(TimeDelta::from)?;
        self.started_at?
            .checked_add_signed(duration)?
            .checked_add_signed(self.extended_by)
    }

    /// The participant for whom this connection speaks.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotJoined`] when they are not in, or another connection speaks for them by now.
    pub fn speaker(&self, by: Speaker) -> Result<&Participant, Refusal> {
        let participant = self
            .find(by.participant)
            .filter(|known| known.connection == by.connection);
        participant.ok_or(Refusal::NotJoined)
    }

    /// Whether a call opened it and nobody has joined it yet; not where the join that opened it is on its way.
    pub fn is_awaiting(&self) -> bool {
        self.status == Status::Open && self.empty_since.is_none()
    }

    /// Whether anybody shares.
    pub fn is_shared(&self) -> bool {
        let mode = self.room.rules.media_mode;
        self.participants
            .iter()
            .any(|participant| participant.shares(mode))
    }

    /// Since when nobody shares, at first since its start; `None` while somebody does, or it has not begun.
    pub fn quiet_since(&self) -> Option<DateTime<Utc>> {
        if self.is_shared() {
            None
        } else {
            self.started_at.max(self.last_shared_at)
        }
    }

    /// Whether a rule asks since when nobody shares.
    pub fn minds_quiet(&self) -> bool {
        self.room.rules.end_after_no_activity.is_some()
    }

    /// Takes over from `other`, the same meeting, what is not stored and may have changed there meanwhile.
    pub(super) fn keep_unstored(&mut self, other: &Self) {
        self.last_shared_at = self.last_shared_at.max(other.last_shared_at);
        keep_warned(&mut self.warned, &other.warned);
        for participant in &mut self.participants {
            if let Some(known) = other.find(participant.id) {
                participant.shown = known.shown;
                participant.sharing = known.sharing;
                keep_warned(&mut participant.warned, &known.warned);
            }
        }
    }

    /// Whether this participant may read the chat.
    pub(super) fn reads_chat(&self, participant: &Participant) -> bool {
        self.room.rules.enable_chat && self.may(participant, Permission::Chat)
    }

    pub(super) fn change(&mut self, id: ParticipantId, change: impl FnOnce(&mut Participant)) {
        if let Some(participant) = self
            .participants
            .iter_mut()
            .find(|participant| participant.id == id)
        {
            change(participant);
        }
    }
}

impl Participant {
    /// Whether something of theirs reaches the others, unmuted. In a mesh the server does not see media: there it is so when
    /// they say so themself.
    pub fn shares(&self, mode: MediaMode) -> bool {
        let Shown {
            is_muted,
            is_video_off,
            ..
        } = self.shown;
        let Sharing {
            microphone,
            camera,
            screen,
            screen_audio,
            says_sound,
            says_picture,
        } = self.sharing;
        match mode {
            MediaMode::Sfu => {
                (microphone && !is_muted) || (camera && !is_video_off) || screen || screen_audio
            }
            MediaMode::Mesh => (says_sound && !is_muted) || (says_picture && !is_video_off),
        }
    }

    /// What keeps them out once they are put out: their token and their connection; with a ban whoever they are, too, as far as
    /// that is known.
    pub fn blocks(&self, is_ban: bool) -> Vec<Block> {
        let token = self.token.map(Block::Token);
        let resume = self.resume.map(Block::Resume);
        let person = self.identity.external_user_id.clone().map(Block::Person);
        let banned = person.or(self.address.map(Block::Address));
        let banned = banned.filter(|_| is_ban);
        [token, resume, banned].into_iter().flatten().collect()
    }
}

impl JoinRequest {
    /// The same of somebody who only waits.
    pub fn blocks(&self, is_ban: bool) -> Vec<Block> {
        let grant = self.grant.as_ref();
        let token = grant.map(|grant| Block::Token(grant.token));
        let person = grant.and_then(|grant| grant.identity.external_user_id.clone());
        let address = self.address.filter(|_| grant.is_none());
        let banned = person.map(Block::Person).or(address.map(Block::Address));
        let banned = banned.filter(|_| is_ban);
        [token, banned].into_iter().flatten().collect()
    }
}

impl Sharing {
    /// The same with a source that begins or ceases to reach the SFU.
    pub fn with(mut self, source: Source, is_published: bool) -> Self {
        *match source {
            Source::Microphone => &mut self.microphone,
            Source::Camera => &mut self.camera,
            Source::Screen => &mut self.screen,
            Source::ScreenAudio => &mut self.screen_audio,
        } = is_published;
        self
    }
}

impl Warned {
    /// Puts it among others, in the place of an earlier one of the same rule.
    pub(super) fn record(self, warned: &mut Vec<Self>) {
        warned.retain(|known| known.of != self.of);
        warned.push(self);
    }
}

/// Of the warnings of each rule, the one given last.
fn keep_warned(warned: &mut Vec<Warned>, others: &[Warned]) {
    for other in others {
        let known = warned.iter().find(|known| known.of == other.of);
        if known.is_none_or(|known| known.at < other.at) {
            other.record(warned);
        }
    }
}

impl ShownChange {
    /// `shown`, changed by it.
    pub fn over(self, shown: Shown) -> Shown {
        Shown {
            is_muted: self.is_muted.unwrap_or(shown.is_muted),
            is_video_off: self.is_video_off.unwrap_or(shown.is_video_off),
            is_hand_raised: self.is_hand_raised.unwrap_or(shown.is_hand_raised),
            ..shown
        }
    }
}
