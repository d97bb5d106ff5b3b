//! What a meeting decides. Pure: no I/O, no clock, so that days of meetings run in a test in moments.
//!
//! [`decide`] says what an input makes true and what it makes happen, [`apply`] is the only way the state changes, and
//! [`State::deadlines`] says when a rule fires next.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    admission::{self, Refusal},
    notice::{ChatMessage, Notice, Person},
};
use crate::{
    deadlines::{Key, Kind},
    id::{MeetingId, ParticipantId},
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
    /// When they joined.
    pub joined_at: DateTime<Utc>,
    /// When their time is up.
    pub time_up_at: Option<DateTime<Utc>>,
    /// Hash of the token that brings a lost connection back.
    pub resume: Option<ResumeHash>,
    /// Set while the connection is lost.
    pub away: Option<Away>,
    /// What they say of their devices and their hand.
    pub shown: Shown,
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
    /// Nobody was in for 10 s.
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
    },
    /// A participant leaves by themself.
    Leave {
        /// Who.
        participant: ParticipantId,
    },
    /// A participant's connection is lost.
    Disconnected {
        /// Who.
        participant: ParticipantId,
    },
    /// A participant says something of their devices.
    Show {
        /// Who.
        participant: ParticipantId,
        /// What changes.
        change: ShownChange,
    },
    /// A participant writes to all.
    Chat {
        /// Who.
        participant: ParticipantId,
        /// What.
        message: ChatMessage,
    },
    /// A participant's media offer.
    Offer {
        /// Who.
        participant: ParticipantId,
        /// The offer.
        offer: MediaOffer,
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
    /// This node has taken the meeting over from one that was last alive at `renewed_at`.
    Claimed {
        /// The last lease renewal.
        renewed_at: DateTime<Utc>,
    },
    /// This node stops.
    Shutdown,
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
    /// Display name.
    pub name: String,
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
    /// All who are in are told.
    TellAll(Notice),
    /// All who are in but one are told.
    TellOthers(ParticipantId, Notice),
    /// One is told.
    Tell(ParticipantId, Notice),
    /// One is told why it is over for them, and their connection is closed.
    PutOut(ParticipantId, LeaveReason),
    /// The SFU answers an offer.
    Negotiate(ParticipantId, MediaOffer),
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
}

/// What `input` makes of the meeting, or why nothing comes of it.
pub fn decide(state: &State, input: &Input, now: DateTime<Utc>) -> Result<Decision, Refusal> {
    if state.status == Status::Ended {
        return Err(Refusal::MeetingEnded);
    }
    let mut decision = Decision::default();
    match input {
        Input::Join(request) => return join(state, request, now),
        Input::Resume { hash } => return resume(state, hash),
        Input::Leave { participant } => {
            if let Some(participant) = state.find(*participant) {
                leave(&mut decision, participant, now, LeaveReason::Left);
            }
        }
        Input::Disconnected { participant } => {
            if let Some(participant) = state
                .find(*participant)
                .filter(|participant| participant.away.is_none())
            {
                if participant.resume.is_some() {
                    go_away(
                        &mut decision,
                        participant,
                        now,
                        now,
                        LeaveReason::ConnectionLost,
                    );
                } else {
                    leave(&mut decision, participant, now, LeaveReason::ConnectionLost);
                }
            }
        }
        Input::Show {
            participant,
            change,
        } => {
            let participant = state.find(*participant).ok_or(Refusal::NotJoined)?;
            let shown = change.over(participant.shown);
            decision.facts.push(Fact::Showed {
                participant: participant.id,
                shown,
            });
            let notice = Notice::Updated {
                participant: participant.id,
                shown,
            };
            decision
                .effects
                .push(Effect::TellOthers(participant.id, notice));
        }
        Input::Chat {
            participant,
            message,
        } => {
            let participant = state.find(*participant).ok_or(Refusal::NotJoined)?;
            decision.effects.push(Effect::TellAll(Notice::Chat {
                from: participant.id,
                message: message.clone(),
                at: now,
            }));
        }
        Input::Offer { participant, offer } => {
            let participant = state.find(*participant).ok_or(Refusal::NotJoined)?;
            decision
                .effects
                .push(Effect::Negotiate(participant.id, offer.clone()));
        }
        Input::Slots { participant, slots } => {
            decision
                .effects
                .push(Effect::Tell(*participant, Notice::Slots(slots.clone())));
        }
        Input::Due(key) => due(state, *key, now, &mut decision),
        Input::End { reason, at } => end(state, *at, *reason, &mut decision),
        Input::Claimed { renewed_at } => {
            for participant in &state.participants {
                if participant.resume.is_some() {
                    let (since, reason) = match participant.away {
                        Some(away) => (away.since, away.reason),
                        None => (
                            (*renewed_at).max(participant.joined_at),
                            LeaveReason::ServerCrash,
                        ),
                    };
                    go_away(&mut decision, participant, since, now, reason);
                } else {
                    leave(
                        &mut decision,
                        participant,
                        *renewed_at,
                        LeaveReason::ServerCrash,
                    );
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
        }
        Fact::Joined(participant) => {
            state.participants.push(participant.clone());
            state.participant_count += 1;
            state.empty_since = None;
        }
        Fact::WentAway { participant, away } => {
            state.change(*participant, |known| known.away = Some(*away))
        }
        Fact::CameBack { participant } => state.change(*participant, |known| known.away = None),
        Fact::Left {
            participant, at, ..
        } => {
            state
                .participants
                .retain(|known| known.id != participant.id);
            if state.participants.is_empty() {
                state.empty_since = Some(*at);
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
        !matches!(self, Self::Showed { .. } | Self::Ruled(_))
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
            if let Some(away) = participant.away {
                set(Kind::Resume, away.until);
            }
        }
        if let Some(since) = self.empty_since {
            deadlines.insert(
                Key {
                    kind: Kind::Empty,
                    subject: self.id.into(),
                },
                since + END_WHEN_EMPTY_AFTER,
            );
        }
        deadlines
    }

    /// The participant with this id, if they are in.
    pub fn find(&self, id: ParticipantId) -> Option<&Participant> {
        self.participants
            .iter()
            .find(|participant| participant.id == id)
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
    let rules = &request.room.rules;
    admission::check(rules, state.participants.len(), now)?;
    let mut decision = Decision::default();
    if request.room != state.room {
        decision
            .facts
            .push(Fact::Ruled(Box::new(request.room.clone())));
    }
    if state.status == Status::Open {
        decision.facts.push(Fact::Started { at: now });
    }
    let participant = Participant {
        id: request.participant,
        name: request.name.clone(),
        role: Role::Participant,
        joined_at: now,
        time_up_at: rules.eject_after.map(|limit| now + limit),
        resume: request.resume,
        away: None,
        shown: Shown::default(),
    };
    // The newcomer hears of themself first, and so learns who they are; then of the others, in the order of their joins.
    let newcomer = Notice::Joined(Person::from(&participant));
    decision
        .effects
        .push(Effect::Tell(participant.id, newcomer.clone()));
    for other in &state.participants {
        decision.effects.push(Effect::Tell(
            participant.id,
            Notice::Joined(Person::from(other)),
        ));
    }
    decision
        .effects
        .push(Effect::TellOthers(participant.id, newcomer));
    decision.facts.push(Fact::Joined(participant));
    Ok(decision)
}

fn resume(state: &State, hash: &ResumeHash) -> Result<Decision, Refusal> {
    // A hash of 128 random bits tells nothing by the time that comparing it takes.
    let participant = state
        .participants
        .iter()
        .find(|participant| participant.resume.as_ref() == Some(hash));
    let participant = participant.ok_or(Refusal::ResumeFailed)?;
    let mut decision = Decision::default();
    if participant.away.is_some() {
        decision.facts.push(Fact::CameBack {
            participant: participant.id,
        });
    }
    let people = state.participants.iter().map(Person::from).collect();
    decision.effects.push(Effect::Tell(
        participant.id,
        Notice::Snapshot {
            participant: participant.id,
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
        Kind::Resume => {
            if let Some(participant) = state.find(key.subject.into())
                && let Some(away) = participant.away
            {
                leave(decision, participant, away.since, away.reason);
            }
        }
        Kind::Empty => end(state, due, EndReason::Empty, decision),
        Kind::RoomExpires => {} // a room's: it comes as an `End`
    }
}

fn end(state: &State, at: DateTime<Utc>, reason: EndReason, decision: &mut Decision) {
    for participant in &state.participants {
        put_out(decision, participant, at, LeaveReason::Ended(reason));
    }
    decision.facts.push(match state.started_at {
        Some(started_at) => Fact::Ended {
            at: at.max(started_at),
            reason,
        },
        None => Fact::Abandoned {
            at: at.max(state.created_at),
        },
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
    decision
        .effects
        .push(Effect::TellOthers(participant.id, notice));
}

fn put_out(
    decision: &mut Decision,
    participant: &Participant,
    at: DateTime<Utc>,
    reason: LeaveReason,
) {
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

/// How long a lost connection may come back.
pub const RESUME_WINDOW: TimeDelta = TimeDelta::seconds(30);
/// How long a meeting waits for somebody once nobody is in.
pub const END_WHEN_EMPTY_AFTER: TimeDelta = TimeDelta::seconds(10);

#[cfg(test)]
mod tests;
