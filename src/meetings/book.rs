//! What a meeting's owner keeps of it: what waits, what is decided, and how much of that is stored. Pure, as deciding is:
//! what is to be stored is handed out and what came of it is handed in, so that lost answers and crashes are tested in
//! virtual time.

use std::{collections::VecDeque, sync::Arc};

use chrono::{DateTime, Utc};

use super::{
    Answer, Decision, Denial, Effect, EndReason, Fact, Input, LeaveReason, Notice, Refusal, State,
    Status,
    commit::{self, Change},
    decide, fact,
    owner::{Envelope, Lease, Sender, inside},
};
use crate::id::{BatchId, ParticipantId};

/// A meeting, as its owner has told it, and as it is stored.
pub struct Book {
    lease: Lease,
    /// The meeting as everybody has been told.
    state: State,
    /// The meeting as it is stored.
    saved: State,
    /// The batch that was stored last.
    saved_batch: Option<BatchId>,
    /// What has happened and is not stored: `saved` with these is `state`.
    unsaved: Vec<Fact>,
    /// Inputs for the next batch, in order.
    waiting: VecDeque<Envelope>,
    /// The transaction that is under way.
    saving: Option<Saving>,
    /// A transaction whose outcome is not known.
    doubt: Option<Saving>,
    /// Whether Postgres did not store what it was given.
    away: bool,
    /// How often in a row it answered, and refused.
    refusals: u32,
    /// Whether also to store that nobody shares any more.
    settles: bool,
}

/// A transaction.
struct Saving {
    batch: BatchId,
    /// How many of `unsaved`, from the first on, it stores.
    unsaved: usize,
    /// The meeting once it is stored.
    after: State,
    /// What was decided for it, and is acted upon once it is stored.
    decided: Vec<Decided>,
}

/// An input, and what was decided of it: to be acted upon.
pub type Decided = (Envelope, Result<Decision, Refusal>);

/// What is asked of Postgres next.
pub enum Ask {
    /// To store this.
    Store(Box<Change>),
    /// Whether this transaction came about.
    Happened(BatchId),
}

impl Book {
    /// Of a meeting that is stored as `state` by the transaction `batch`. `first` is decided before anything else.
    pub fn new(
        lease: Lease,
        (state, batch): (State, Option<BatchId>),
        first: Option<Input>,
    ) -> Self {
        Self {
            lease,
            saved: state.clone(),
            saved_batch: batch,
            state,
            unsaved: Vec::new(),
            waiting: first.into_iter().map(inside).collect(),
            saving: None,
            doubt: None,
            away: false,
            refusals: 0,
            settles: false,
        }
    }

    /// The meeting as everybody has been told.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether Postgres did not store what it was given last.
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// Whether the meeting has ended, and all of it is stored.
    pub fn is_over(&self) -> bool {
        self.state.status == Status::Ended && self.is_saved()
    }

    /// Whether all that has happened is stored.
    pub fn is_saved(&self) -> bool {
        self.saving.is_none() && self.doubt.is_none() && self.unsaved.is_empty()
    }

    /// Whether nothing waits to be decided.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Has an input wait for the next batch.
    pub fn put(&mut self, envelope: Envelope) {
        self.waiting.push_back(envelope);
    }

    /// Decides at once what is never stored.
    pub fn relay(&mut self, input: &Input, now: DateTime<Utc>) -> Vec<Effect> {
        let decision = match decide::decide(&self.state, input, now) {
            Ok(decision) => decision,
            // Who is not, or no longer, in hears nothing.
            Err(refusal) => {
                let by = input
                    .relayed_by()
                    .filter(|by| self.state.speaker(*by).is_ok());
                let told = by.map(|by| Effect::Tell(by.participant, Notice::Refused(refusal)));
                return told.into_iter().collect();
            }
        };
        decision
            .facts
            .iter()
            .for_each(|fact| fact::apply(&mut self.state, fact));
        decision.effects
    }

    /// Puts what is due before what waits, the oldest first. What a takeover says of the meeting stays before all.
    pub fn collect_due(&mut self, now: DateTime<Utc>) {
        let due = self.state.due(now);
        let claimed = self
            .waiting
            .front()
            .is_some_and(|first| matches!(first.input, Input::Claimed { .. }));
        for key in due.into_iter().rev() {
            self.waiting
                .insert(usize::from(claimed), inside(Input::Due(key)));
        }
    }

    /// Decides what waits: on a copy that is then to be stored by the transaction `batch`, or while Postgres is away at
    /// once. What is returned to be acted upon is so already.
    pub fn decide(&mut self, now: DateTime<Utc>, batch: BatchId) -> (Vec<Decided>, Option<Change>) {
        if self.away {
            return (self.go_on_without_postgres(now), None);
        }
        let settles = std::mem::take(&mut self.settles);
        if self.waiting.is_empty() && !self.is_activity_stale(settles) {
            return (Vec::new(), None);
        }
        let mut draft = self.state.clone();
        let mut decided: Vec<Decided> = Vec::new();
        for envelope in self.waiting.drain(..self.waiting.len().min(BATCH)) {
            // Whoever has given up waiting is not let in.
            if matches!(&envelope.from, Sender::Entering(_, reply) if reply.is_closed()) {
                decided.push((envelope, Err(Refusal::JoinAborted)));
                continue;
            }
            let outcome = decide::decide(&draft, &envelope.input, now);
            for fact in outcome.iter().flat_map(|decision| &decision.facts) {
                fact::apply(&mut draft, fact); // the next input sees it: ten places are ten joins, also within a batch
            }
            decided.push((envelope, outcome));
        }
        if stored(&decided).next().is_some()
            || commands(&decided).next().is_some()
            || self.is_activity_stale(settles)
        {
            (Vec::new(), Some(self.save(draft, decided, batch)))
        } else {
            self.state = draft;
            (decided, None)
        }
    }

    /// Has it stored with the next decision that nobody shares any more. By itself that is not: whoever mutes and unmutes would
    /// cause a transaction each time.
    pub fn settle(&mut self) {
        self.settles = true;
    }

    /// Whether what is stored would let whoever takes the meeting over end it too early, or where it `settles`, too late.
    fn is_activity_stale(&self, settles: bool) -> bool {
        let [stored, known] = [&self.saved, &self.state]
            .map(|state| state.quiet_since().filter(|_| state.minds_quiet()));
        stored != known && (stored.is_some() || settles)
    }

    /// Begins to store `unsaved` and what was decided, which together make the meeting `after`.
    fn save(&mut self, after: State, decided: Vec<Decided>, batch: BatchId) -> Change {
        let (facts, requests) = self
            .unsaved
            .iter()
            .map(|fact| (fact.clone(), None))
            .chain(stored(&decided).map(|(fact, request)| (fact.clone(), request.cloned())))
            .unzip();
        let change = Change {
            lease: self.lease,
            previous: self.saved_batch,
            batch,
            before: self.saved.clone(),
            after: after.clone(),
            facts,
            requests,
            commands: commands(&decided).collect(),
        };
        self.saving = Some(Saving {
            batch,
            unsaved: self.unsaved.len(),
            after,
            decided,
        });
        change
    }

    /// What Postgres is asked when it is tried again: first what became of a transaction, then to store what is not stored,
    /// by the transaction `batch`.
    pub fn retry(&mut self, batch: BatchId) -> Option<Ask> {
        if let Some(doubt) = &self.doubt {
            Some(Ask::Happened(doubt.batch))
        } else if self.unsaved.is_empty() {
            // What Postgres refused was a join, and its asker has been refused too: nothing of it is left.
            (self.away, self.refusals) = (false, 0);
            None
        } else {
            let change = self.save(self.state.clone(), Vec::new(), batch);
            Some(Ask::Store(Box::new(change)))
        }
    }

    /// What Postgres was asked has come to this: whether it came about. Returns what is to be acted upon.
    ///
    /// # Errors
    ///
    /// When the meeting is no longer ours, or cannot be stored as it is.
    pub fn finish(
        &mut self,
        outcome: Result<bool, commit::Error>,
    ) -> Result<Vec<Decided>, commit::Error> {
        match (self.saving.take(), outcome) {
            (_, Err(commit::Error::Fenced)) => return Err(commit::Error::Fenced),
            (Some(saving), Ok(_)) => return Ok(self.saved(saving)),
            (Some(saving), Err(error)) => self.not_saved(saving, error)?,
            (None, Ok(true)) => return Ok(self.saved_after_all()),
            (None, Ok(false)) => {
                let doubt = self.doubt.take();
                self.put_back(doubt.into_iter().flat_map(|doubt| doubt.decided));
            }
            // Still nobody knows; it is looked up again.
            (None, Err(_)) => {}
        }
        Ok(Vec::new())
    }

    fn saved(&mut self, saving: Saving) -> Vec<Decided> {
        (self.away, self.refusals) = (false, 0);
        self.unsaved.drain(..saving.unsaved);
        self.saved_batch = Some(saving.batch);
        // What was decided meanwhile stored nothing, so it is in `state` alone: devices, and without Postgres connections and
        // warnings.
        let mut state = saving.after.clone();
        self.unsaved
            .iter()
            .for_each(|fact| fact::apply(&mut state, fact));
        state.keep_unstored(&self.state);
        if saving.decided.is_empty() {
            for participant in &mut state.participants {
                if let Some(known) = self.state.find(participant.id) {
                    participant.connection = known.connection;
                }
            }
        }
        // Devices that were switched by it are as it says, whatever was said meanwhile.
        let made = saving.decided.iter().flat_map(|(_, outcome)| outcome);
        made.flat_map(|decision| &decision.facts)
            .filter(|fact| matches!(fact, Fact::Showed { .. }))
            .for_each(|fact| fact::apply(&mut state, fact));
        (self.saved, self.state) = (saving.after, state);
        saving.decided
    }

    /// The inputs are decided again, without Postgres.
    fn not_saved(&mut self, saving: Saving, error: commit::Error) -> Result<(), commit::Error> {
        self.away = true;
        if error.is_refusal() {
            self.refusals += 1;
            if self.refusals >= MOST_REFUSALS {
                return Err(error);
            }
        }
        let Saving {
            batch,
            unsaved,
            after,
            decided,
        } = saving;
        if matches!(error, commit::Error::Unknown(_)) {
            // What the app asked for has its answer already, if it came about: it waits for that, as the app does.
            let (asked, others) = decided
                .into_iter()
                .partition(|(envelope, _)| is_asked(envelope));
            self.put_back(others);
            self.doubt = Some(Saving {
                batch,
                unsaved,
                after,
                decided: asked,
            });
        } else {
            self.put_back(decided);
        }
        Ok(())
    }

    /// Has what was decided in vain be decided again, before anything else.
    fn put_back(&mut self, decided: impl IntoIterator<Item = Decided>) {
        let decided: Vec<_> = decided.into_iter().collect();
        for (envelope, _) in decided.into_iter().rev() {
            self.waiting.push_front(envelope);
        }
    }

    /// A transaction that was in doubt has come about: what it stored is not stored again, and who joined by it without
    /// hearing of it has left.
    fn saved_after_all(&mut self) -> Vec<Decided> {
        let Some(Saving {
            batch,
            after,
            decided,
            ..
        }) = self.doubt.take()
        else {
            return Vec::new();
        };
        let made = decided.iter().flat_map(|(_, outcome)| outcome);
        let let_in: Vec<ParticipantId> = made
            .flat_map(|decision| &decision.facts)
            .filter_map(|fact| match fact {
                Fact::Joined(participant) => Some(participant.id),
                _ => None,
            })
            .collect();
        let unheard: Vec<Fact> = after
            .participants
            .iter()
            .filter(|participant| self.saved.find(participant.id).is_none())
            .filter(|participant| !let_in.contains(&participant.id))
            .map(|participant| Fact::Left {
                at: participant.joined_at,
                reason: LeaveReason::JoinAborted,
                participant: participant.clone(),
            })
            .collect();
        let inside = |participant: ParticipantId| after.find(participant).is_some();
        let mut unsaved = std::mem::take(&mut self.unsaved);
        unsaved.retain(|fact| match fact {
            Fact::Left { participant, .. } => inside(participant.id),
            // Somebody was in, so it was not for want of people that it ended: it waits for them anew.
            Fact::Abandoned { .. }
            | Fact::Ended {
                reason: EndReason::Empty,
                ..
            } => unheard.is_empty() && after.status != Status::Ended,
            Fact::Ended { .. } => after.status != Status::Ended,
            _ => true,
        });
        self.unsaved = unheard;
        self.unsaved.extend(unsaved);
        let away = self.away;
        self.saved(Saving {
            batch,
            unsaved: 0,
            after,
            decided: Vec::new(),
        });
        self.away = away || !self.unsaved.is_empty();
        decided
    }

    /// While Postgres is away: who wants in is told to try again; whatever else happens acts at once, and its facts wait.
    fn go_on_without_postgres(&mut self, now: DateTime<Utc>) -> Vec<Decided> {
        // What the app asks for came from Postgres, which is to have the answer.
        let waiting = std::mem::take(&mut self.waiting);
        let (asked, waiting) = waiting.into_iter().partition(is_asked);
        self.waiting = asked;
        let decide = |envelope: Envelope| {
            let full = self.unsaved.len() >= MOST_UNSAVED;
            let outcome = match (&envelope.from, &envelope.input) {
                (_, input) if input.lets_in() => Err(Refusal::TryAgain),
                (Sender::Entering(..), _) if full => Err(Refusal::TryAgain),
                _ => decide::decide(&self.state, &envelope.input, now),
            };
            for fact in outcome.iter().flat_map(|decision| &decision.facts) {
                fact::apply(&mut self.state, fact);
                if fact.is_stored() {
                    self.unsaved.push(fact.clone());
                }
            }
            (envelope, outcome)
        };
        waiting.into_iter().map(decide).collect::<Vec<_>>()
    }
}

/// The facts of a batch that are to be stored, in order, each with the request that asked for it.
fn stored(decided: &[Decided]) -> impl Iterator<Item = (&Fact, Option<&Arc<str>>)> {
    let decisions = decided.iter().flat_map(|(_, outcome)| outcome);
    let facts = decisions.flat_map(|decision| {
        let request = decision.request.as_ref();
        decision.facts.iter().map(move |fact| (fact, request))
    });
    facts.filter(|(fact, _)| fact.is_stored())
}

/// The commands that a batch obeys, with their answers.
fn commands(decided: &[Decided]) -> impl Iterator<Item = (i64, Option<Answer>)> {
    decided.iter().filter_map(|decided| match decided.0.from {
        Sender::Command(id) => Some((id, answer(decided))),
        _ => None,
    })
}

/// What the app is answered, where it waits for that.
pub fn answer((envelope, outcome): &Decided) -> Option<Answer> {
    is_asked(envelope).then(|| match outcome {
        Ok(decision) => Ok(decision.done.clone()),
        Err(refusal) => Err(Denial::from(*refusal)),
    })
}

/// Whether the app waits for an answer to it.
fn is_asked(envelope: &Envelope) -> bool {
    matches!(
        (&envelope.from, &envelope.input),
        (Sender::Command(_), Input::Moderate { .. })
    )
}

/// Inputs decided and committed together at most.
const BATCH: usize = 64;
/// Facts that wait for Postgres at most, before nobody may come back any more: each who does makes more of them.
const MOST_UNSAVED: usize = 4096;
/// Refusals of Postgres in a row after which the meeting is given up, to be read anew by whoever claims it.
const MOST_REFUSALS: u32 = 5;
