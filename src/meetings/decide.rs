//! What a meeting decides. Pure: no I/O, no clock, so that days of meetings run in a test in moments.
//!
//! [`decide`] says what an input makes true and what it makes happen, `fact::apply` is the only way the state
//! changes, and [`State::deadlines`] says when a rule fires next.

mod deadlines;
mod host;
mod join;
mod leave;
mod moderate;
mod rules;
mod talk;
mod waiting;
mod warnings;

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, Utc};

pub use self::deadlines::is_stored_deadline;
use super::{
    Done, Fact, Farewell, Input, LeaveReason, MediaOffer, Notice, Refusal, Speaker, State, Status,
    fact::apply,
};
use crate::{chat, id::ParticipantId};

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
    /// These are told, in this order.
    TellThese(Vec<ParticipantId>, Notice),
    /// One who is back is told what they have missed since the frame of this number, or else this.
    CatchUp {
        /// Who.
        participant: ParticipantId,
        /// The last frame that they have.
        last: Option<u64>,
        /// What stands for what is not known any more.
        snapshot: Notice,
    },
    /// One is shown what was written before.
    ShowChat(ParticipantId),
    /// What somebody wrote to all is kept.
    KeepChat(Arc<chat::Line>),
    /// One is told why it is over for them, and their connection is closed.
    PutOut(ParticipantId, Farewell),
    /// One who waited is in from now on.
    LetIn(ParticipantId),
    /// One who waited is told something at last, if there is something to tell, and their connection is closed.
    Dismiss(ParticipantId, Option<Notice>),
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
    /// Who has come in by it, or begun to wait.
    pub entered: Option<ParticipantId>,
    /// Whether they wait.
    pub waits: bool,
    /// What it comes to for the app that asked for it.
    pub done: Done,
    /// The id of the request that asked for it.
    pub request: Option<Arc<str>>,
}

/// What `input` makes of the meeting, or why nothing comes of it.
pub fn decide(state: &State, input: &Input, now: DateTime<Utc>) -> Result<Decision, Refusal> {
    if state.status == Status::Ended {
        return Err(Refusal::MeetingEnded);
    }
    let mut decision = Decision::default();
    let made = &mut decision;
    match input {
        Input::Join(request) => join::join(made, state, request, now)?,
        Input::Resume {
            hash,
            last,
            connection,
        } => join::resume(made, state, hash, *last, *connection)?,
        Input::Leave { by, .. } | Input::Disconnected { by, .. } | Input::Unheard { by }
            if let Some(waiting) = state.waiter(*by) =>
        {
            waiting::gone(made, state, waiting);
        }
        Input::Leave { by, at } => {
            leave::leave(made, state.speaker(*by)?, *at, LeaveReason::Left);
        }
        Input::Disconnected { by, since } => {
            leave::disconnected(made, state.speaker(*by)?, *since, now);
        }
        Input::Unheard { by } => {
            leave::leave(made, state.speaker(*by)?, now, LeaveReason::JoinAborted);
        }
        Input::Moderate { by, action } => moderate::moderate(made, state, by, action, now)?,
        Input::Show { by, change } => talk::show(made, state, state.speaker(*by)?, *change)?,
        Input::Hand { by, raised } => talk::hand(made, state, state.speaker(*by)?, *raised)?,
        Input::React { by, reaction } => talk::react(made, state, state.speaker(*by)?, reaction)?,
        Input::Record { by, on } => talk::record(made, state.speaker(*by)?, *on)?,
        Input::Relay { by, message } => talk::relay(made, state, state.speaker(*by)?, message)?,
        Input::Chat { by, message } => talk::chat(made, state, state.speaker(*by)?, message, now)?,
        Input::Offer { by, offer } => talk::offer(made, state, *by, offer)?,
        Input::Answered { by, answer } => {
            state.speaker(*by)?;
            let notice = match answer {
                Ok(answer) => Notice::Answer(answer.clone()),
                Err(why) => Notice::NotNegotiated(why.clone()),
            };
            made.effects.push(Effect::Tell(by.participant, notice));
        }
        Input::Slots { participant, slots } => {
            let notice = Notice::Slots(slots.clone());
            made.effects.push(Effect::Tell(*participant, notice));
        }
        Input::Published {
            participant,
            source,
            is_published,
        } => {
            let known = state.find(*participant).ok_or(Refusal::NotJoined)?;
            made.facts.push(Fact::Shares {
                participant: *participant,
                sharing: known.sharing.with(*source, *is_published),
            });
        }
        Input::Due(key) => deadlines::due(made, state, *key, now),
        Input::End { reason, at } => leave::end(made, state, *at, *reason),
        Input::Rules(room) => rules::change(made, state, room, now),
        Input::Claimed { renewed_at, reason } => {
            leave::claimed(made, state, *renewed_at, *reason, now);
        }
        Input::Shutdown => leave::shutdown(made, state, now),
    }
    leave::follow(made, state, now);
    host::hand_over(made, state);
    note_activity(made, state, now);
    Ok(decision)
}

impl Decision {
    /// The meeting once it is so.
    fn after<'a>(&self, state: &'a State) -> Cow<'a, State> {
        let mut after = Cow::Borrowed(state);
        for fact in &self.facts {
            apply(after.to_mut(), fact);
        }
        after
    }
}

/// Before it changes who shares: up to now somebody did.
fn note_activity(decision: &mut Decision, state: &State, now: DateTime<Utc>) {
    let may_end = decision.facts.iter().any(|fact| {
        matches!(
            fact,
            Fact::Showed { .. } | Fact::Shares { .. } | Fact::Left { .. } | Fact::Ruled { .. }
        )
    });
    if may_end && state.is_shared() {
        decision.facts.insert(0, Fact::Active { at: now });
    }
}

#[cfg(test)]
mod tests;
