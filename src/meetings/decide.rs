//! What a meeting decides. Pure: no I/O, no clock, so that days of meetings run in a test in moments.
//!
//! [`decide`] says what an input makes true and what it makes happen, [`apply`] is the only way the state changes, and
//! [`State::deadlines`] says when a rule fires next.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    admission::{self, Grant, Refusal},
    notice::{ChatMessage, Notice, Person},
};
use crate::{
    deadlines::{Key, Kind},
    id::{MeetingId, ParticipantId, TokenId},
    rooms::Room,
    sfu,
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
    /// Stays so far, those that ended included.
    pub participant_count: u32,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When the first participant joined.
    pub started_at: Option<DateTime<Utc>>,
    /// Since when nobody is in.
    pub empty_since: Option<DateTime<Utc>>,
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

/// What a participant may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
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
    /// Nobody was in for `endWhenEmptyAfterSec`.
    Empty,
}

impl EndReason {
    /// The word for it outside.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoomExpired => "roomExpired",
            Self::RoomDeleted => "roomDeleted",
            Self::Empty => "empty",
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
            Self::ServerCrash => "serverCrash",
            Self::ServerShutdown => "serverShutdown",
            Self::Ended(reason) => reason.as_str(),
        }
    }
}

/// Something that happens to a meeting.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody wants in.
    Join(Box<JoinRequest>),
    /// A lost connection is back.
    Resume {
        /// What the client was given when it joined.
        hash: ResumeHash,
        /// The new connection.
        connection: Connection,
    },
    /// A participant leaves by themself.
    Leave {
        /// Who.
        by: Speaker,
        /// When.
        at: DateTime<Utc>,
    },
    /// A participant's connection is lost.
    Disconnected {
        /// Whose.
        by: Speaker,
        /// The last moment when it is known to have stood.
        since: DateTime<Utc>,
    },
    /// A participant says something of their devices.
    Show {
        /// Who.
        by: Speaker,
        /// What changes.
        change: ShownChange,
    },
    /// A participant writes to all.
    Chat {
        /// Who.
        by: Speaker,
        /// What.
        message: ChatMessage,
    },
    /// A participant's media offer.
    Offer {
        /// Who.
        by: Speaker,
        /// The offer.
        offer: MediaOffer,
    },
    /// The SFU has answered a participant's offer.
    Answered {
        /// Who offered.
        by: Speaker,
        /// The answer, or why there is none.
        answer: Result<Arc<str>, Arc<str>>,
    },
    /// What a participant's slots carry has changed.
    Slots {
        /// Whose slots.
        participant: ParticipantId,
        /// All of them.
        slots: Arc<[sfu::SlotView]>,
    },
    /// A deadline of this meeting is due.
    Due(Key),
    /// Somebody with the right to it ends the meeting.
    End {
        /// Why.
        reason: EndReason,
        /// When that became true.
        at: DateTime<Utc>,
    },
    /// The room is so now.
    Rules(Box<Room>),
    /// This node has taken the meeting over.
    Claimed {
        /// The last moment when the owner before is known to have lived.
        renewed_at: DateTime<Utc>,
        /// Why those who do not come back have left.
        reason: LeaveReason,
    },
    /// This node stops.
    Shutdown,
}

impl Input {
    /// Whether nothing of it is ever stored, so that it need not wait for Postgres.
    pub fn is_relayed(&self) -> bool {
        match self {
            Self::Show { .. }
            | Self::Chat { .. }
            | Self::Offer { .. }
            | Self::Answered { .. }
            | Self::Slots { .. } => true,
            Self::Join(_)
            | Self::Resume { .. }
            | Self::Leave { .. }
            | Self::Disconnected { .. }
            | Self::Due(_)
            | Self::End { .. }
            | Self::Rules(_)
            | Self::Claimed { .. }
            | Self::Shutdown => false,
        }
    }
}

/// What a client offers to the SFU.
#[derive(Clone, Debug)]
pub struct MediaOffer {
    /// The session description.
    pub sdp: Arc<str>,
    /// What each sending m-line carries, by its mid.
    pub tracks: Vec<(String, sfu::Source)>,
}

/// Who wants in, and as what.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The stay, if it comes about.
    pub participant: ParticipantId,
    /// The connection that asks.
    pub connection: Connection,
    /// Display name.
    pub name: String,
    /// What their token gives, where they have shown one.
    pub grant: Option<Grant>,
    /// Hash of the token that brings a lost connection back, where the client can do that.
    pub resume: Option<ResumeHash>,
    /// The room as it is now: its rules may have changed since the meeting began.
    pub room: Room,
}

/// Something that has become true; stored, announced and billed.
#[derive(Clone, Debug)]
pub enum Fact {
    /// The first participant joins.
    Started {
        /// When.
        at: DateTime<Utc>,
    },
    /// Somebody is in.
    Joined(Participant),
    /// A participant's connection is lost.
    WentAway {
        /// Who.
        participant: ParticipantId,
        /// How they may come back.
        away: Away,
    },
    /// A lost connection is back.
    CameBack {
        /// Who.
        participant: ParticipantId,
    },
    /// When a participant's time is up has changed.
    Limited {
        /// Whose.
        participant: ParticipantId,
        /// When; never, where there is no limit.
        time_up_at: Option<DateTime<Utc>>,
    },
    /// Another connection speaks for a participant. Not stored: connections are this node's.
    Connected(Speaker),
    /// A stay is over.
    Left {
        /// The stay.
        participant: Participant,
        /// When it ended.
        at: DateTime<Utc>,
        /// Why.
        reason: LeaveReason,
    },
    /// The meeting is over.
    Ended {
        /// When.
        at: DateTime<Utc>,
        /// Why.
        reason: EndReason,
    },
    /// The meeting is over before anybody came in.
    Abandoned {
        /// When.
        at: DateTime<Utc>,
    },
    /// A participant's devices or hand changed. Not stored: nobody can bill or miss it.
    Showed {
        /// Who.
        participant: ParticipantId,
        /// How it is now.
        shown: Shown,
    },
    /// The room's rules are these now. Not stored here: they are the room's.
    Ruled(Box<Room>),
}

/// Something that happens once the facts before it are stored.
#[derive(Clone, Debug)]
pub enum Effect {
    /// All who are in are told, or all but one.
    TellAll {
        /// Who is not told.
        except: Option<ParticipantId>,
        /// What.
        notice: Notice,
    },
    /// One is told.
    Tell(ParticipantId, Notice),
    /// One is told why it is over for them, and their connection is closed.
    PutOut(ParticipantId, LeaveReason),
    /// The SFU answers an offer.
    Negotiate(Speaker, MediaOffer),
    /// The SFU forgets one.
    Unplug(ParticipantId),
}

/// What an input makes true and makes happen.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// In their order.
    pub facts: Vec<Fact>,
    /// In their order.
    pub effects: Vec<Effect>,
    /// Who has come in by it.
    pub entered: Option<ParticipantId>,
}

/// What `input` makes of the meeting, or why nothing comes of it.
pub fn decide(state: &State, input: &Input, now: DateTime<Utc>) -> Result<Decision, Refusal> {
    if state.status == Status::Ended {
        return Err(Refusal::MeetingEnded);
    }
    let mut decision = Decision::default();
    match input {
        Input::Join(request) => return join(state, request, now),
        Input::Resume { hash, connection } => return resume(state, hash, *connection),
        Input::Leave { by, at } => {
            leave(&mut decision, state.speaker(*by)?, *at, LeaveReason::Left)
        }
        Input::Disconnected { by, since } => {
            let participant = state.speaker(*by)?;
            if participant.away.is_some() {
                // Known already.
            } else if participant.resume.is_some() {
                go_away(
                    &mut decision,
                    participant,
                    *since,
                    now,
                    LeaveReason::ConnectionLost,
                );
            } else {
                leave(
                    &mut decision,
                    participant,
                    *since,
                    LeaveReason::ConnectionLost,
                );
            }
        }
        Input::Show { by, change } => {
            let Participant { id, shown, .. } = *state.speaker(*by)?;
            let shown = change.over(shown);
            decision.facts.push(Fact::Showed {
                participant: id,
                shown,
            });
            let notice = Notice::Updated {
                participant: id,
                shown,
            };
            decision.effects.push(Effect::TellAll {
                except: Some(id),
                notice,
            });
        }
        Input::Chat { by, message } => {
            let from = state.speaker(*by)?.id;
            let notice = Notice::Chat {
                from,
                message: message.clone(),
                at: now,
            };
            decision.effects.push(Effect::TellAll {
                except: None,
                notice,
            });
        }
        Input::Offer { by, offer } => {
            state.speaker(*by)?;
            decision.effects.push(Effect::Negotiate(*by, offer.clone()));
        }
        Input::Answered { by, answer } => {
            state.speaker(*by)?;
            let notice = match answer {
                Ok(answer) => Notice::Answer(answer.clone()),
                Err(why) => Notice::NotNegotiated(why.clone()),
            };
            decision.effects.push(Effect::Tell(by.participant, notice));
        }
        Input::Slots { participant, slots } => {
            decision
                .effects
                .push(Effect::Tell(*participant, Notice::Slots(slots.clone())));
        }
        Input::Due(key) => due(state, *key, now, &mut decision),
        Input::End { reason, at } => end(state, *at, *reason, &mut decision),
        Input::Rules(room) => rule(state, room, now, &mut decision),
        Input::Claimed { renewed_at, reason } => {
            for participant in &state.participants {
                if participant.resume.is_some() {
                    let (since, reason) = match participant.away {
                        Some(away) => (away.since, away.reason),
                        None => ((*renewed_at).max(participant.joined_at), *reason),
                    };
                    // The room may have been changed while nobody owned the meeting.
                    limit_anew(&mut decision, participant, &state.room, now);
                    go_away(&mut decision, participant, since, now, reason);
                } else {
                    leave(&mut decision, participant, *renewed_at, *reason);
                }
            }
        }
        Input::Shutdown => {
            for participant in &state.participants {
                if participant.resume.is_some() {
                    decision
                        .effects
                        .push(Effect::Tell(participant.id, Notice::Restarting));
                } else {
                    leave(&mut decision, participant, now, LeaveReason::ServerShutdown);
                }
            }
        }
    }
    Ok(decision)
}

/// Makes a fact true. Total: a fact cannot be refused.
pub fn apply(state: &mut State, fact: &Fact) {
    match fact {
        Fact::Started { at } => {
            state.status = Status::Live;
            state.started_at = Some(*at);
            state.last_at = state.last_at.max(*at);
        }
        Fact::Joined(participant) => {
            state.participants.push(participant.clone());
            state.participant_count += 1;
            state.empty_since = None;
            state.last_at = state.last_at.max(participant.joined_at);
        }
        Fact::WentAway { participant, away } => {
            state.change(*participant, |known| known.away = Some(*away))
        }
        Fact::CameBack { participant } => state.change(*participant, |known| known.away = None),
        Fact::Limited {
            participant,
            time_up_at,
        } => state.change(*participant, |known| known.time_up_at = *time_up_at),
        Fact::Connected(by) => {
            state.change(by.participant, |known| known.connection = by.connection)
        }
        Fact::Left {
            participant, at, ..
        } => {
            state
                .participants
                .retain(|known| known.id != participant.id);
            state.last_at = state.last_at.max(*at);
            if state.participants.is_empty() {
                state.empty_since = Some(state.last_at);
            }
        }
        Fact::Ended { .. } | Fact::Abandoned { .. } => state.status = Status::Ended,
        Fact::Showed { participant, shown } => {
            state.change(*participant, |known| known.shown = *shown)
        }
        Fact::Ruled(room) => state.room = (**room).clone(),
    }
    if fact.is_announced() {
        state.next_seq += 1;
    }
}

/// Whether a deadline of a meeting is stored with it; the room's own is stored with the room.
pub fn is_stored_deadline(key: &Key) -> bool {
    key.kind != Kind::RoomExpires
}

impl Fact {
    /// Whether webhooks tell it, and it has a number among the meeting's events.
    pub fn is_announced(&self) -> bool {
        matches!(
            self,
            Self::Started { .. } | Self::Joined(_) | Self::Left { .. } | Self::Ended { .. }
        )
    }

    /// Whether it must be stored before it is so.
    pub fn is_stored(&self) -> bool {
        !matches!(
            self,
            Self::Showed { .. } | Self::Connected(_) | Self::Ruled(_)
        )
    }
}

impl State {
    /// When which rule fires.
    pub fn deadlines(&self) -> BTreeMap<Key, DateTime<Utc>> {
        let mut deadlines = BTreeMap::new();
        if self.status == Status::Ended {
            return deadlines;
        }
        for participant in &self.participants {
            let mut set = |kind, due| {
                deadlines.insert(
                    Key {
                        kind,
                        subject: participant.id.into(),
                    },
                    due,
                );
            };
            if let Some(due) = participant.time_up_at {
                set(Kind::ParticipantTimeUp, due);
            }
            if let Some(due) = participant.token_expires_at {
                set(Kind::TokenExpires, due);
            }
            if let Some(away) = participant.away {
                set(Kind::Resume, away.until);
            }
        }
        if let Some(due) = self
            .room
            .rules
            .expires_at()
            .filter(|_| self.room.rules.eject_at_expiry)
        {
            deadlines.insert(
                Key {
                    kind: Kind::RoomExpires,
                    subject: self.room.id.into(),
                },
                due,
            );
        }
        if let Some(since) = self.empty_since {
            deadlines.insert(
                Key {
                    kind: Kind::Empty,
                    subject: self.id.into(),
                },
                since + self.empty_for(),
            );
        }
        deadlines
    }

    /// How long the meeting waits for somebody while nobody is in.
    fn empty_for(&self) -> TimeDelta {
        let rule = self.room.rules.end_when_empty_after.into();
        match self.status {
            // The join that opened it is on its way.
            Status::Open => OPEN_FOR.max(rule),
            Status::Live | Status::Ended => rule,
        }
    }

    /// The participant with this id, if they are in.
    pub fn find(&self, id: ParticipantId) -> Option<&Participant> {
        self.participants
            .iter()
            .find(|participant| participant.id == id)
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

    fn change(&mut self, id: ParticipantId, change: impl FnOnce(&mut Participant)) {
        if let Some(participant) = self
            .participants
            .iter_mut()
            .find(|participant| participant.id == id)
        {
            change(participant);
        }
    }
}

impl ShownChange {
    fn over(self, shown: Shown) -> Shown {
        Shown {
            is_muted: self.is_muted.unwrap_or(shown.is_muted),
            is_video_off: self.is_video_off.unwrap_or(shown.is_video_off),
            is_hand_raised: self.is_hand_raised.unwrap_or(shown.is_hand_raised),
        }
    }
}

fn join(state: &State, request: &JoinRequest, now: DateTime<Utc>) -> Result<Decision, Refusal> {
    let mut decision = Decision {
        entered: Some(request.participant),
        ..Decision::default()
    };
    rule(state, &request.room, now, &mut decision);
    let room = newer(&state.room, &request.room);
    let rules = &room.rules;
    let grant = request.grant.as_ref();
    admission::check(room, grant, state.participants.len(), now)?;
    let own_limit = grant.and_then(|grant| grant.eject_after);
    if state.status == Status::Open {
        decision.facts.push(Fact::Started { at: now });
    }
    let participant = Participant {
        id: request.participant,
        name: grant
            .and_then(|grant| grant.name.clone())
            .unwrap_or_else(|| request.name.clone()),
        role: grant.map_or(Role::Participant, |grant| grant.role),
        token: grant.map(|grant| grant.token),
        identity: grant.map_or_else(Arc::default, |grant| grant.identity.clone()),
        joined_at: now,
        time_up_at: own_limit
            .or_else(|| rules.longest_stay())
            .map(|limit| now + limit),
        has_own_limit: own_limit.is_some(),
        token_expires_at: grant
            .filter(|grant| grant.eject_at_expiry)
            .and_then(|grant| grant.expires_at),
        resume: request.resume,
        away: None,
        connection: request.connection,
        shown: Shown::default(),
    };
    let (id, newcomer) = (participant.id, Person::from(&participant));
    let others = state.participants.iter().map(Person::from).collect();
    decision.effects.push(Effect::Tell(
        id,
        Notice::Welcome {
            you: newcomer.clone(),
            others,
        },
    ));
    decision.effects.push(Effect::TellAll {
        except: Some(id),
        notice: Notice::Joined(newcomer),
    });
    decision.facts.push(Fact::Joined(participant));
    Ok(decision)
}

fn resume(state: &State, hash: &ResumeHash, connection: Connection) -> Result<Decision, Refusal> {
    // A hash of 128 random bits tells nothing by the time that comparing it takes.
    let participant = state
        .participants
        .iter()
        .find(|participant| participant.resume.as_ref() == Some(hash));
    let participant = participant.ok_or(Refusal::ResumeFailed)?.clone();
    let id = participant.id;
    let mut decision = Decision {
        entered: Some(id),
        ..Decision::default()
    };
    if participant.away.is_some() {
        decision.facts.push(Fact::CameBack { participant: id });
    }
    decision.facts.push(Fact::Connected(Speaker {
        participant: id,
        connection,
    }));
    let people = state.participants.iter().map(Person::from).collect();
    decision.effects.push(Effect::Tell(
        id,
        Notice::Snapshot {
            participant: id,
            people,
        },
    ));
    Ok(decision)
}

fn due(state: &State, key: Key, now: DateTime<Utc>, decision: &mut Decision) {
    // A deadline looks at the world when it fires: one that was moved, or no longer applies, does nothing.
    let Some(due) = state
        .deadlines()
        .get(&key)
        .copied()
        .filter(|due| *due <= now)
    else {
        return;
    };
    match key.kind {
        Kind::ParticipantTimeUp => {
            if let Some(participant) = state.find(key.subject.into()) {
                leave(decision, participant, due, LeaveReason::TimeLimit);
            }
        }
        Kind::TokenExpires => {
            if let Some(participant) = state.find(key.subject.into()) {
                leave(decision, participant, due, LeaveReason::TokenExpired);
            }
        }
        Kind::Resume => {
            if let Some(participant) = state.find(key.subject.into()) {
                leave(decision, participant, due, LeaveReason::ConnectionLost);
            }
        }
        Kind::Empty => end(state, due, EndReason::Empty, decision),
        // The room's own deadline says so too, through a command; whichever comes first.
        Kind::RoomExpires => end(state, due, EndReason::RoomExpired, decision),
    }
}

/// The room has changed. Limits of stays move with it; nobody is put out for want of a place.
fn rule(state: &State, room: &Room, now: DateTime<Utc>, decision: &mut Decision) {
    if room.version <= state.room.version {
        return; // Read before what is known already.
    }
    decision.facts.push(Fact::Ruled(Box::new(room.clone())));
    for participant in &state.participants {
        limit_anew(decision, participant, room, now);
    }
}

/// Moves the limit of a stay to where the room has it now. Whoever has been in for longer already was rightly in until now; a
/// limit that is over already stays so.
fn limit_anew(decision: &mut Decision, participant: &Participant, room: &Room, now: DateTime<Utc>) {
    let limit = room.rules.longest_stay();
    let time_up_at = limit.map(|limit| (participant.joined_at + limit).max(now));
    let is_over = participant.time_up_at.is_some_and(|due| due <= now);
    if !participant.has_own_limit && !is_over && participant.time_up_at != time_up_at {
        decision.facts.push(Fact::Limited {
            participant: participant.id,
            time_up_at,
        });
    }
}

/// The one that was changed last.
fn newer<'a>(one: &'a Room, other: &'a Room) -> &'a Room {
    if other.version > one.version {
        other
    } else {
        one
    }
}

fn end(state: &State, at: DateTime<Utc>, reason: EndReason, decision: &mut Decision) {
    let mut at = at.max(state.last_at);
    for participant in &state.participants {
        at = at.max(put_out(
            decision,
            participant,
            at,
            LeaveReason::Ended(reason),
        ));
    }
    decision.facts.push(match state.started_at {
        Some(_) => Fact::Ended { at, reason },
        None => Fact::Abandoned { at },
    });
}

/// Ends one stay among others, who are told.
fn leave(
    decision: &mut Decision,
    participant: &Participant,
    at: DateTime<Utc>,
    reason: LeaveReason,
) {
    put_out(decision, participant, at, reason);
    let notice = Notice::Left {
        participant: participant.id,
    };
    decision.effects.push(Effect::TellAll {
        except: Some(participant.id),
        notice,
    });
}

/// Ends a stay; returns when it ended. Whoever was away left when their connection was lost, and for that reason: they
/// were not in since.
fn put_out(
    decision: &mut Decision,
    participant: &Participant,
    at: DateTime<Utc>,
    reason: LeaveReason,
) -> DateTime<Utc> {
    let (at, reason) = match participant.away {
        Some(away) => (away.since.min(at), away.reason),
        None => (at, reason),
    };
    let at = at.max(participant.joined_at);
    decision.facts.push(Fact::Left {
        participant: participant.clone(),
        at,
        reason,
    });
    decision
        .effects
        .push(Effect::PutOut(participant.id, reason));
    decision.effects.push(Effect::Unplug(participant.id));
    at
}

fn go_away(
    decision: &mut Decision,
    participant: &Participant,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    reason: LeaveReason,
) {
    let away = Away {
        since,
        until: now + RESUME_WINDOW,
        reason,
    };
    decision.facts.push(Fact::WentAway {
        participant: participant.id,
        away,
    });
}

/// How long a meeting that nobody has joined yet waits at least.
pub const OPEN_FOR: TimeDelta = TimeDelta::seconds(10);
/// How long a lost connection may come back.
pub const RESUME_WINDOW: TimeDelta = TimeDelta::seconds(30);

#[cfg(test)]
mod tests;
