//! The one task that owns a live meeting: it decides on a copy, commits, applies, acts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{
    Context, Decision, Effect, Fact, Input, LeaveReason, MediaOffer, Notice, Refusal, State,
    Status, commit, decide,
};
use crate::{
    db,
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
    /// The connection with this number; what comes from one that was replaced is ignored.
    Connection(u64),
    /// A row of `meeting_commands`.
    Command(i64),
    /// The owner itself, or its node.
    Node,
}

/// The way to one connection. The connection closes when it is dropped or full.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// Tells the connections of one participant apart.
    pub number: u64,
    /// What the connection is told, in order.
    pub notices: mpsc::Sender<Notice>,
}

/// What the owner's task holds.
pub struct Owner {
    context: Arc<Context>,
    lease: Lease,
    state: State,
    inbox: mpsc::Receiver<Envelope>,
    outboxes: HashMap<ParticipantId, Outbox>,
    /// Inputs for the next batch: those that could not be committed because Postgres was away come first.
    waiting: Vec<Envelope>,
    /// Whether the last batch could not be committed, so that the next one takes its time.
    failed: bool,
}

/// An input, and what was decided of it.
type Decided = (Envelope, Result<Decision, Refusal>);

impl Owner {
    pub fn new(
        context: Arc<Context>,
        lease: Lease,
        state: State,
        inbox: mpsc::Receiver<Envelope>,
    ) -> Self {
        Self {
            context,
            lease,
            state,
            inbox,
            outboxes: HashMap::new(),
            waiting: Vec::new(),
            failed: false,
        }
    }

    /// Owns the meeting until it ends, is claimed by another node, or this node stops.
    pub async fn run(mut self) {
        let stopping = self.context.stopping.clone();
        while self.state.status != Status::Ended {
            let Some(batch) = stopping.run_until_cancelled(self.next_batch()).await else {
                return self.stop().await;
            };
            if batch.is_empty() || !self.handle(batch, self.context.clock.now()).await {
                return;
            }
        }
        info!(meeting.id = %self.lease.meeting, "the meeting has ended");
    }

    /// Waits for inputs or a deadline; empty when nobody can reach this meeting any more.
    async fn next_batch(&mut self) -> Vec<Envelope> {
        if std::mem::take(&mut self.failed) {
            tokio::time::sleep(RETRY).await;
        }
        loop {
            let now = self.context.clock.now();
            let deadlines = self.state.deadlines();
            let next = deadlines.values().min().copied();
            let mut due: Vec<_> = deadlines
                .into_iter()
                .filter(|(_, due)| *due <= now)
                .collect();
            // What was due before is decided before, and all of it before what has only just come.
            due.sort_by_key(|(_, due)| *due);
            let due = due.into_iter().map(|(key, _)| Envelope {
                input: Input::Due(key),
                from: Sender::Node,
            });
            let mut batch = std::mem::take(&mut self.waiting);
            batch.extend(due);
            while batch.len() < BATCH
                && let Ok(envelope) = self.inbox.try_recv()
            {
                batch.push(envelope);
            }
            if !batch.is_empty() {
                return batch;
            }
            let clock = &self.context.clock;
            let until_due = async move {
                match next {
                    Some(due) => clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                envelope = self.inbox.recv() => match envelope {
                    // The rest of the batch is what has come meanwhile.
                    Some(envelope) => self.waiting.push(envelope),
                    None => return Vec::new(),
                },
                () = until_due => {}
            }
        }
    }

    /// Decides a batch on a copy, commits it, and only then makes it so; `false` where the meeting is no longer ours.
    async fn handle(&mut self, batch: Vec<Envelope>, now: DateTime<Utc>) -> bool {
        let mut draft = self.state.clone();
        let mut decided = Vec::with_capacity(batch.len());
        for envelope in batch {
            if !self.is_current(&envelope) {
                continue;
            }
            let outcome = decide::decide(&draft, &envelope.input, now);
            for fact in outcome.iter().flat_map(|decision| &decision.facts) {
                decide::apply(&mut draft, fact); // the next input sees it: ten places are ten joins, also within a batch
            }
            decided.push((envelope, outcome));
        }
        match self.commit(&draft, &decided, now).await {
            Ok(()) => {
                self.state = draft;
                for (envelope, outcome) in decided {
                    self.act(envelope, outcome);
                }
                true
            }
            Err(commit::Error::Fenced) => {
                warn!(meeting.id = %self.lease.meeting, "another node has claimed the meeting");
                false
            }
            Err(commit::Error::Database(error)) if db::is_away(&error) => {
                warn!(meeting.id = %self.lease.meeting, %error, "Postgres is away: the meeting's facts wait");
                self.failed = true;
                for (envelope, _) in decided {
                    self.put_back(envelope);
                }
                true
            }
            Err(error) if decided.len() > 1 => {
                warn!(meeting.id = %self.lease.meeting, %error, "a batch failed; trying its inputs one by one");
                for (envelope, _) in decided {
                    if !Box::pin(self.handle(vec![envelope], now)).await {
                        return false;
                    }
                }
                true
            }
            Err(error) => {
                error!(meeting.id = %self.lease.meeting, %error, "an input could not be stored");
                self.failed = true;
                for (envelope, _) in decided {
                    refuse(envelope);
                }
                true
            }
        }
    }

    /// Whether the input is from where it claims to be: not from a connection that has been replaced.
    fn is_current(&self, envelope: &Envelope) -> bool {
        let Sender::Connection(number) = envelope.from else {
            return true;
        };
        let participant = match envelope.input {
            Input::Leave { participant }
            | Input::Disconnected { participant }
            | Input::Show { participant, .. }
            | Input::Chat { participant, .. }
            | Input::Offer { participant, .. } => participant,
            _ => return true,
        };
        self.outboxes
            .get(&participant)
            .is_none_or(|outbox| outbox.number == number)
    }

    async fn commit(
        &self,
        draft: &State,
        decided: &[Decided],
        now: DateTime<Utc>,
    ) -> Result<(), commit::Error> {
        let facts = decided
            .iter()
            .flat_map(|(_, outcome)| outcome.iter().flat_map(|decision| &decision.facts));
        let facts: Vec<&Fact> = facts.filter(|fact| fact.is_stored()).collect();
        let commands: Vec<i64> = decided
            .iter()
            .filter_map(|(envelope, _)| match envelope.from {
                Sender::Command(id) => Some(id),
                _ => None,
            })
            .collect();
        if facts.is_empty() && commands.is_empty() {
            return Ok(());
        }
        let batch = BatchId::new(now, &mut rand::rng());
        let Self {
            context,
            lease,
            state,
            ..
        } = self;
        let change = commit::Change {
            lease,
            batch,
            before: state,
            after: draft,
            facts: &facts,
            commands: &commands,
        };
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        match commit::commit(&context.db, &change, &mut rng).await {
            Err(commit::Error::Unknown(error)) => self.look_up(batch, error).await?,
            outcome => outcome?,
        }
        if facts.iter().any(|fact| fact.is_announced()) {
            self.context.webhooks.notify_one();
        }
        Ok(())
    }

    /// Finds out whether a batch was committed whose answer was lost. Until that is known nothing else can be decided.
    async fn look_up(&self, batch: BatchId, error: sqlx::Error) -> Result<(), commit::Error> {
        loop {
            match commit::happened(&self.context.db, &self.lease, batch).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(error.into()),
                Err(away) if self.context.stopping.is_cancelled() => return Err(away.into()),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Keeps what has happened anyway, to try it again. Joins are refused, since people wait for them; a command stays
    /// in its table and a deadline in the state, so both come again by themselves.
    fn put_back(&mut self, envelope: Envelope) {
        match (&envelope.from, &envelope.input) {
            (Sender::Entering(..), _) => refuse(envelope),
            (Sender::Command(_), _) | (_, Input::Due(_)) => {}
            _ if self.waiting.len() < MOST_WAITING => self.waiting.push(envelope),
            _ => {
                warn!(meeting.id = %self.lease.meeting, "too much waits for Postgres: an input is lost")
            }
        }
    }

    fn act(&mut self, envelope: Envelope, outcome: Result<Decision, Refusal>) {
        let decision = match (outcome, envelope.from) {
            (Ok(decision), Sender::Entering(outbox, reply)) => {
                let entered = decision.effects.iter().find_map(|effect| match effect {
                    Effect::Tell(participant, _) => Some(*participant),
                    _ => None,
                });
                if let Some(participant) = entered {
                    self.outboxes.insert(participant, outbox);
                    // A connection that is gone already says so next, as any that is lost.
                    let _ = reply.send(Ok(participant));
                }
                decision
            }
            (Ok(decision), _) => decision,
            (Err(refusal), Sender::Entering(_, reply)) => {
                let _ = reply.send(Err(refusal));
                return;
            }
            (Err(_), _) => return,
        };
        for effect in decision.effects {
            self.take_effect(effect);
        }
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Tell(participant, notice) => self.tell(participant, notice),
            Effect::TellAll(notice) => {
                for participant in self
                    .state
                    .participants
                    .iter()
                    .map(|participant| participant.id)
                    .collect::<Vec<_>>()
                {
                    self.tell(participant, notice.clone());
                }
            }
            Effect::TellOthers(except, notice) => {
                for participant in self
                    .outboxes
                    .keys()
                    .copied()
                    .filter(|id| *id != except)
                    .collect::<Vec<_>>()
                {
                    self.tell(participant, notice.clone());
                }
            }
            Effect::PutOut(participant, reason) => {
                if reason != LeaveReason::Left {
                    self.tell(participant, Notice::Ended(reason));
                }
                self.outboxes.remove(&participant);
            }
            Effect::Unplug(participant) => {
                self.context.command_sfu(sfu::Command::Remove {
                    meeting: self.lease.meeting,
                    peer: participant,
                });
            }
            Effect::Negotiate(participant, offer) => self.negotiate(participant, &offer),
        }
    }

    /// Tells a connection; one that does not keep up is dropped, so that nobody waits for it.
    fn tell(&mut self, participant: ParticipantId, notice: Notice) {
        if let Some(outbox) = self.outboxes.get(&participant)
            && outbox.notices.try_send(notice).is_err()
        {
            self.outboxes.remove(&participant);
        }
    }

    /// Passes an offer to the SFU, and its answer to the participant.
    fn negotiate(&self, participant: ParticipantId, offer: &MediaOffer) {
        let Some(outbox) = self.outboxes.get(&participant).cloned() else {
            return;
        };
        let (reply, answer) = oneshot::channel();
        self.context.command_sfu(sfu::Command::Negotiate {
            meeting: self.lease.meeting,
            peer: participant,
            offer: offer.sdp.to_string(),
            tracks: offer.tracks.clone(),
            allowed: EVERY_SOURCE.into(),
            reply,
        });
        self.context.tasks.spawn(async move {
            let notice = match answer.await {
                Ok(Ok(answer)) => Notice::Answer(answer.into()),
                Ok(Err(error)) => Notice::NotNegotiated(error.to_string().into()),
                Err(_) => Notice::NotNegotiated(
                    "the media server is busy; try again in a few seconds".into(),
                ),
            };
            // A connection that is full or gone is noticed by the next notice to it.
            let _ = outbox.notices.try_send(notice);
        });
    }

    /// Ends the stays of those who cannot come back, and gives the meeting up.
    async fn stop(mut self) {
        let now = self.context.clock.now();
        let shutdown = Envelope {
            input: Input::Shutdown,
            from: Sender::Node,
        };
        if self.handle(vec![shutdown], now).await
            && self.state.status != Status::Ended
            && let Err(error) = commit::release(&self.context.db, &self.lease, now).await
        {
            warn!(meeting.id = %self.lease.meeting, %error, "the meeting could not be given up: its lease runs out by itself");
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.context.forget(self.lease.meeting, self.state.room.id);
        self.context.command_sfu(sfu::Command::Close {
            meeting: self.lease.meeting,
        });
    }
}

fn refuse(envelope: Envelope) {
    if let Sender::Entering(_, reply) = envelope.from {
        // Whoever asked may be gone.
        let _ = reply.send(Err(Refusal::TryAgain));
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
/// Inputs that wait for Postgres at most; those beyond are lost, as a crash would lose them.
const MOST_WAITING: usize = 1024;
/// Pause before inputs that wait are tried again.
const RETRY: Duration = Duration::from_millis(200);
