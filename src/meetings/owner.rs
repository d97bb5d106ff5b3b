//! The one task that owns a live meeting: it decides on a copy, commits, applies, acts.
//!
//! While a commit is under way, chat and media go on. When Postgres does not answer, the meeting goes on without it: joins
//! are refused, what has happened anyway (leaves, deadlines) acts at once, and its facts wait here with their times until
//! Postgres is back.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Connection, Context, Decision, Effect, Fact, Input, LeaveReason, MediaOffer, Notice, Refusal,
    Speaker, State, Status, commit, decide, fact,
};
use crate::{
    id::{AppId, BatchId, MeetingId, NodeId, ParticipantId},
    sfu::{self, Source},
};

/// The right to write about a meeting: every write names it, and one that is out of date is refused.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Whose meeting it is.
    pub app: AppId,
    /// Which meeting.
    pub meeting: MeetingId,
    /// The owner.
    pub node: NodeId,
    /// The claim.
    pub epoch: i64,
}

/// An input on its way to the owner.
#[derive(Debug)]
pub struct Envelope {
    /// What happens.
    pub input: Input,
    /// From whom, and who wants to know what came of it.
    pub from: Sender,
}

/// Where an input comes from.
#[derive(Debug)]
pub enum Sender {
    /// A connection that is to be the participant's from now on, if they are let in.
    Entering(Outbox, oneshot::Sender<Result<ParticipantId, Refusal>>),
    /// A row of `meeting_commands`.
    Command(i64),
    /// A connection that is in, the SFU, or the owner itself.
    Inside,
}

/// The way to one connection. The connection closes when it is dropped or full.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// Which connection.
    pub connection: Connection,
    /// What the connection is told, in order.
    pub notices: mpsc::Sender<Notice>,
}

/// What the owner's task holds.
pub struct Owner {
    context: Arc<Context>,
    lease: Lease,
    inbox: mpsc::Receiver<Envelope>,
    /// The way back to itself for what it starts.
    own_inbox: mpsc::Sender<Envelope>,
    /// Cancelled when another node owns the meeting.
    fenced: CancellationToken,
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
    /// The step with Postgres that is under way, and the transaction that it is about.
    step: Option<Step>,
    saving: Option<Saving>,
    /// A transaction whose outcome is not known.
    doubt: Option<Saving>,
    /// Whether Postgres did not store what it was given.
    away: bool,
    /// How often in a row it answered, and refused.
    refusals: u32,
    outboxes: HashMap<ParticipantId, Outbox>,
    /// Offers that the SFU has not answered yet, each with the slots that were reported since: they name m-lines of the
    /// answer, and are told after it.
    negotiating: HashMap<ParticipantId, Option<Notice>>,
    /// Whom the SFU was too busy to be told to forget.
    unplugged: VecDeque<ParticipantId>,
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

/// A step with Postgres: a commit, or the look-up of one, which says whether it came about.
type Step = Pin<Box<dyn Future<Output = Result<bool, commit::Error>> + Send>>;

/// An input, and what was decided of it.
type Decided = (Envelope, Result<Decision, Refusal>);

impl Owner {
    /// The owner of a meeting that is stored as `state` by the transaction `batch`. `first` is decided before anything else.
    pub fn new(
        context: Arc<Context>,
        lease: Lease,
        (state, batch): (State, Option<BatchId>),
        (own_inbox, inbox): (mpsc::Sender<Envelope>, mpsc::Receiver<Envelope>),
        fenced: CancellationToken,
        first: Option<Input>,
    ) -> Self {
        Self {
            context,
            lease,
            inbox,
            own_inbox,
            fenced,
            saved: state.clone(),
            saved_batch: batch,
            state,
            unsaved: Vec::new(),
            waiting: first.into_iter().map(inside).collect(),
            step: None,
            saving: None,
            doubt: None,
            away: false,
            refusals: 0,
            outboxes: HashMap::new(),
            negotiating: HashMap::new(),
            unplugged: VecDeque::new(),
        }
    }

    /// Owns the meeting until it ends, another node claims it, or this node stops.
    pub async fn run(mut self) {
        let (stopping, fenced) = (self.context.stopping.clone(), self.fenced.clone());
        let outcome = tokio::select! {
            outcome = self.own() => outcome,
            () = stopping.cancelled() => tokio::time::timeout(STOP_PATIENCE, self.stop()).await.unwrap_or(Ok(())),
            () = fenced.cancelled() => Err(commit::Error::Fenced),
        };
        let meeting = self.lease.meeting;
        match outcome {
            Ok(()) if self.is_over() => info!(meeting.id = %meeting, "the meeting has ended"),
            Ok(()) => info!(meeting.id = %meeting, "the meeting is given up: this node stops"),
            Err(error) => warn!(meeting.id = %meeting, %error, "the meeting is given up"),
        }
    }

    fn is_over(&self) -> bool {
        self.state.status == Status::Ended && self.is_saved()
    }

    fn is_saved(&self) -> bool {
        self.step.is_none() && self.doubt.is_none() && self.unsaved.is_empty()
    }

    /// Takes what happens, one thing after the other, until the meeting is over.
    async fn own(&mut self) -> Result<(), commit::Error> {
        let clock = self.context.clock.clone();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        while !self.is_over() {
            if self.context.overslept() {
                return Err(commit::Error::Fenced);
            }
            self.unplug();
            if self.step.is_none() {
                self.collect_due();
                self.decide();
            }
            let next_due = self.state.deadlines().into_values().min();
            let (inbox, step) = (&mut self.inbox, &mut self.step);
            let (idle, away) = (step.is_none(), self.away);
            tokio::select! {
                // The owner has a way to itself, so its inbox never ends.
                Some(envelope) = inbox.recv() => self.take(envelope),
                outcome = async {
                    match step {
                        Some(step) => step.await,
                        None => std::future::pending().await,
                    }
                } => self.finish(outcome)?,
                () = async {
                    match next_due {
                        Some(due) => clock.sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                }, if idle => {}
                () = tokio::time::sleep(RETRY), if idle && away => self.retry(),
                _ = sweep.tick() => self.sweep(),
            }
        }
        Ok(())
    }

    /// What must not wait for Postgres does not.
    fn take(&mut self, envelope: Envelope) {
        if envelope.input.is_relayed() {
            self.relay(&envelope.input);
        } else {
            self.waiting.push_back(envelope);
        }
    }

    /// Puts what is due before what waits, the oldest first. What a takeover says of the meeting stays before all.
    fn collect_due(&mut self) {
        let now = self.context.clock.now();
        let mut due: Vec<_> = self
            .state
            .deadlines()
            .into_iter()
            .filter(|(_, due)| *due <= now)
            .collect();
        due.sort_by_key(|(_, due)| *due);
        let claimed = self
            .waiting
            .front()
            .is_some_and(|first| matches!(first.input, Input::Claimed { .. }));
        for (key, _) in due.into_iter().rev() {
            self.waiting
                .insert(usize::from(claimed), inside(Input::Due(key)));
        }
    }

    /// Decides what waits: on a copy that is then to be stored, or while Postgres is away at once.
    fn decide(&mut self) {
        if self.away {
            return self.go_on_without_postgres();
        }
        let now = self.context.clock.now();
        let mut draft = self.state.clone();
        let mut decided: Vec<Decided> = Vec::new();
        for envelope in self.waiting.drain(..self.waiting.len().min(BATCH)) {
            // Whoever has given up waiting is not let in.
            if matches!(&envelope.from, Sender::Entering(_, reply) if reply.is_closed()) {
                continue;
            }
            let outcome = decide::decide(&draft, &envelope.input, now);
            for fact in outcome.iter().flat_map(|decision| &decision.facts) {
                fact::apply(&mut draft, fact); // the next input sees it: ten places are ten joins, also within a batch
            }
            decided.push((envelope, outcome));
        }
        if stored(&decided).next().is_some() || commands(&decided).next().is_some() {
            self.save(draft, decided);
        } else {
            self.state = draft;
            self.act_all(decided);
        }
    }

    /// Begins to store `unsaved` and what was decided, which together make the meeting `after`.
    fn save(&mut self, after: State, decided: Vec<Decided>) {
        let batch = BatchId::new(self.context.clock.now(), &mut rand::rng());
        let change = commit::Change {
            lease: self.lease,
            previous: self.saved_batch,
            batch,
            before: self.saved.clone(),
            after: after.clone(),
            facts: self
                .unsaved
                .iter()
                .chain(stored(&decided))
                .cloned()
                .collect(),
            commands: commands(&decided).collect(),
        };
        self.saving = Some(Saving {
            batch,
            unsaved: self.unsaved.len(),
            after,
            decided,
        });
        let context = self.context.clone();
        self.step = Some(Box::pin(async move {
            let mut rng = SmallRng::from_rng(&mut rand::rng());
            match tokio::time::timeout(PATIENCE, commit::commit(&context.db, &change, &mut rng))
                .await
            {
                Ok(outcome) => outcome?,
                Err(_) => return Err(commit::Error::Unknown("no answer in time".into())),
            }
            if change.facts.iter().any(Fact::is_announced) {
                context.webhooks.notify_one();
            }
            Ok(true)
        }));
    }

    /// What the step with Postgres has come to.
    ///
    /// # Errors
    ///
    /// When the meeting is no longer ours, or cannot be stored as it is.
    fn finish(&mut self, outcome: Result<bool, commit::Error>) -> Result<(), commit::Error> {
        self.step = None;
        match (self.saving.take(), outcome) {
            (_, Err(commit::Error::Fenced)) => return Err(commit::Error::Fenced),
            (Some(saving), Ok(_)) => self.saved(saving),
            (Some(saving), Err(error)) => self.not_saved(saving, error)?,
            (None, Ok(true)) => self.saved_after_all(),
            (None, Ok(false)) => self.doubt = None,
            // Still nobody knows; it is looked up again.
            (None, Err(_)) => {}
        }
        Ok(())
    }

    fn saved(&mut self, saving: Saving) {
        if std::mem::take(&mut self.away) {
            info!(meeting.id = %self.lease.meeting, "Postgres is back, and the meeting is stored");
        }
        self.refusals = 0;
        self.unsaved.drain(..saving.unsaved);
        self.saved_batch = Some(saving.batch);
        // What was decided meanwhile stored nothing, so it is in `state` alone: devices, and without Postgres connections.
        let mut state = saving.after.clone();
        self.unsaved
            .iter()
            .for_each(|fact| fact::apply(&mut state, fact));
        for participant in &mut state.participants {
            if let Some(known) = self.state.find(participant.id) {
                participant.shown = known.shown;
                if saving.decided.is_empty() {
                    participant.connection = known.connection;
                }
            }
        }
        (self.saved, self.state) = (saving.after, state);
        self.act_all(saving.decided);
    }

    /// The inputs are decided again, without Postgres.
    fn not_saved(&mut self, saving: Saving, error: commit::Error) -> Result<(), commit::Error> {
        if !std::mem::replace(&mut self.away, true) {
            warn!(meeting.id = %self.lease.meeting, %error, "Postgres does not store: the meeting goes on, its facts wait");
        }
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
        for (envelope, _) in decided.into_iter().rev() {
            self.waiting.push_front(envelope);
        }
        if matches!(error, commit::Error::Unknown(_)) {
            self.doubt = Some(Saving {
                batch,
                unsaved,
                after,
                decided: Vec::new(),
            });
        }
        Ok(())
    }

    /// A transaction that was in doubt has come about: what it stored is not stored again, and who joined by it without
    /// hearing of it has left.
    fn saved_after_all(&mut self) {
        let Some(Saving { batch, after, .. }) = self.doubt.take() else {
            return;
        };
        let inside = |participant: ParticipantId| after.find(participant).is_some();
        self.unsaved.retain(|fact| match fact {
            Fact::Left { participant, .. } => inside(participant.id),
            Fact::Ended { .. } | Fact::Abandoned { .. } => after.status != Status::Ended,
            _ => true,
        });
        let unheard = after
            .participants
            .iter()
            .filter(|participant| self.saved.find(participant.id).is_none());
        let left = unheard.map(|participant| Fact::Left {
            at: participant.joined_at,
            reason: LeaveReason::ConnectionLost,
            participant: participant.clone(),
        });
        let unsaved: Vec<Fact> = left.chain(std::mem::take(&mut self.unsaved)).collect();
        self.unsaved = unsaved;
        let away = self.away;
        self.saved(Saving {
            batch,
            unsaved: 0,
            after,
            decided: Vec::new(),
        });
        self.away = away || !self.unsaved.is_empty();
    }

    /// While Postgres is away: who wants in is told to try again; whatever else happens acts at once, and its facts wait.
    fn go_on_without_postgres(&mut self) {
        let now = self.context.clock.now();
        for envelope in std::mem::take(&mut self.waiting) {
            let full = self.unsaved.len() >= MOST_UNSAVED;
            match (&envelope.from, &envelope.input) {
                (Sender::Entering(..), Input::Join(_)) => refuse(envelope, Refusal::TryAgain),
                (Sender::Entering(..), _) if full => refuse(envelope, Refusal::TryAgain),
                _ => {
                    let outcome = decide::decide(&self.state, &envelope.input, now);
                    for fact in outcome.iter().flat_map(|decision| &decision.facts) {
                        fact::apply(&mut self.state, fact);
                        if fact.is_stored() {
                            self.unsaved.push(fact.clone());
                        }
                    }
                    self.act(envelope, outcome);
                }
            }
        }
    }

    /// Tries Postgres again: first what became of a transaction, then what is not stored.
    fn retry(&mut self) {
        if let Some(doubt) = &self.doubt {
            let (context, lease, batch) = (self.context.clone(), self.lease, doubt.batch);
            self.step = Some(Box::pin(async move {
                match tokio::time::timeout(PATIENCE, commit::happened(&context.db, &lease, batch))
                    .await
                {
                    Ok(happened) => Ok(happened?),
                    Err(_) => Err(commit::Error::Unknown("no answer in time".into())),
                }
            }));
        } else if self.unsaved.is_empty() {
            // What Postgres refused was a join, and its asker has been refused too: nothing of it is left.
            (self.away, self.refusals) = (false, 0);
        } else {
            self.save(self.state.clone(), Vec::new());
        }
    }

    fn relay(&mut self, input: &Input) {
        // Refused is who is not, or no longer, in: then nobody is to hear of it.
        if let Ok(decision) = decide::decide(&self.state, input, self.context.clock.now()) {
            decision
                .facts
                .iter()
                .for_each(|fact| fact::apply(&mut self.state, fact));
            decision
                .effects
                .into_iter()
                .for_each(|effect| self.take_effect(effect));
        }
    }

    fn act_all(&mut self, decided: Vec<Decided>) {
        for (envelope, outcome) in decided {
            self.act(envelope, outcome);
        }
    }

    fn act(&mut self, envelope: Envelope, outcome: Result<Decision, Refusal>) {
        let decision = match outcome {
            Ok(decision) => decision,
            Err(refusal) => return refuse(envelope, refusal),
        };
        if let (Sender::Entering(outbox, reply), Some(participant)) =
            (envelope.from, decision.entered)
        {
            self.outboxes.insert(participant, outbox);
            // A connection that is gone is noticed as any other that is lost.
            let _ = reply.send(Ok(participant));
        }
        decision
            .effects
            .into_iter()
            .for_each(|effect| self.take_effect(effect));
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Tell(participant, notice) => self.tell(participant, notice),
            Effect::TellAll { except, notice } => {
                let told: Vec<_> = self
                    .outboxes
                    .keys()
                    .copied()
                    .filter(|id| Some(*id) != except)
                    .collect();
                told.into_iter()
                    .for_each(|participant| self.tell(participant, notice.clone()));
            }
            Effect::PutOut(participant, reason) => {
                if reason != LeaveReason::Left {
                    self.tell(participant, Notice::Ended(reason));
                }
                self.outboxes.remove(&participant);
            }
            Effect::Unplug(participant) => {
                self.negotiating.remove(&participant);
                self.unplugged.push_back(participant);
            }
            Effect::Negotiate(by, offer) => self.negotiate(by, &offer),
        }
    }

    /// Tells a connection; one that does not keep up is dropped, so that nobody waits for it.
    fn tell(&mut self, participant: ParticipantId, notice: Notice) {
        let answered = matches!(notice, Notice::Answer(_) | Notice::NotNegotiated(_));
        let notice = match self.negotiating.get_mut(&participant) {
            Some(slots) if matches!(notice, Notice::Slots(_)) => {
                *slots = Some(notice);
                return;
            }
            _ => notice,
        };
        let Some(outbox) = self.outboxes.get(&participant) else {
            return;
        };
        if outbox.notices.try_send(notice).is_err() {
            let by = Speaker {
                participant,
                connection: outbox.connection,
            };
            self.outboxes.remove(&participant);
            self.waiting.push_back(inside(Input::Disconnected {
                by,
                since: self.context.clock.now(),
            }));
        } else if answered && let Some(Some(slots)) = self.negotiating.remove(&participant) {
            self.tell(participant, slots);
        }
    }

    /// Finds connections that have gone without a word, as one whose last input found no place in the inbox.
    fn sweep(&mut self) {
        let since = self.context.clock.now();
        let silent = self.state.participants.iter().filter(|participant| {
            let outbox = self.outboxes.get(&participant.id);
            participant.away.is_none() && outbox.is_none_or(|outbox| outbox.notices.is_closed())
        });
        let lost = silent.map(|participant| {
            let by = Speaker {
                participant: participant.id,
                connection: participant.connection,
            };
            inside(Input::Disconnected { by, since })
        });
        self.waiting.extend(lost.collect::<Vec<_>>());
    }

    /// Passes an offer to the SFU; its answer comes back as an input.
    fn negotiate(&mut self, by: Speaker, offer: &MediaOffer) {
        let (reply, answer) = oneshot::channel();
        self.negotiating.insert(by.participant, None);
        let command = sfu::Command::Negotiate {
            meeting: self.lease.meeting,
            peer: by.participant,
            offer: offer.sdp.to_string(),
            tracks: offer.tracks.clone(),
            allowed: EVERY_SOURCE.into(),
            reply,
        };
        // Refused, the reply is dropped, and that is its answer.
        let _ = self.context.sfu.send(command);
        let inbox = self.own_inbox.clone();
        self.context.spawn(async move {
            let answer = match answer.await {
                Ok(Ok(answer)) => Ok(answer.into()),
                Ok(Err(error)) => Err(error.to_string().into()),
                Err(_) => Err("the media server is busy; try again in a few seconds".into()),
            };
            // The meeting may be over.
            let _ = inbox.send(inside(Input::Answered { by, answer })).await;
        });
    }

    /// Has the SFU forget whoever has left; while it is too busy to be told, they are kept for the next time.
    fn unplug(&mut self) {
        while let Some(peer) = self.unplugged.front().copied() {
            let command = sfu::Command::Remove {
                meeting: self.lease.meeting,
                peer,
            };
            if self.context.sfu.send(command).is_err() {
                return;
            }
            self.unplugged.pop_front();
        }
    }

    /// Stores what has happened so far, ends the stays of those who cannot come back, and gives the meeting up.
    async fn stop(&mut self) -> Result<(), commit::Error> {
        self.inbox.close();
        while let Ok(envelope) = self.inbox.try_recv() {
            self.take(envelope);
        }
        self.waiting.push_back(inside(Input::Shutdown));
        while !(self.waiting.is_empty() && self.is_saved()) {
            if let Some(step) = &mut self.step {
                let outcome = step.await;
                self.finish(outcome)?;
            } else if self.away {
                self.decide();
                tokio::time::sleep(RETRY).await;
                self.retry();
            } else {
                self.decide();
            }
        }
        self.unplug();
        if self.state.status != Status::Ended {
            commit::release(&self.context.db, &self.lease, self.context.clock.now()).await?;
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.context.forget(&self.lease, self.state.room.id);
    }
}

fn inside(input: Input) -> Envelope {
    Envelope {
        input,
        from: Sender::Inside,
    }
}

/// The facts of a batch that are to be stored, in order.
fn stored(decided: &[Decided]) -> impl Iterator<Item = &Fact> {
    let facts = decided
        .iter()
        .flat_map(|(_, outcome)| outcome.iter().flat_map(|decision| &decision.facts));
    facts.filter(|fact| fact.is_stored())
}

/// The commands that a batch obeys.
fn commands(decided: &[Decided]) -> impl Iterator<Item = i64> {
    decided
        .iter()
        .filter_map(|(envelope, _)| match envelope.from {
            Sender::Command(id) => Some(id),
            _ => None,
        })
}

fn refuse(envelope: Envelope, refusal: Refusal) {
    if let Sender::Entering(_, reply) = envelope.from {
        // Whoever asked may be gone.
        let _ = reply.send(Err(refusal));
    }
}

/// What a participant may send: no rule of a room forbids anything yet.
const EVERY_SOURCE: [Source; 4] = [
    Source::Microphone,
    Source::Camera,
    Source::Screen,
    Source::ScreenAudio,
];
/// Inputs decided and committed together at most.
const BATCH: usize = 64;
/// A transaction that takes longer is in doubt.
const PATIENCE: Duration = Duration::from_secs(2);
/// Facts that wait for Postgres at most, before nobody may come back any more: each who does makes more of them.
const MOST_UNSAVED: usize = 4096;
/// Refusals of Postgres in a row after which the meeting is given up, to be read anew by whoever claims it.
const MOST_REFUSALS: u32 = 5;
/// Pause before Postgres is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How often connections that have gone without a word are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long a stop waits for Postgres.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
