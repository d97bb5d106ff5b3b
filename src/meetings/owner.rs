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
    Audience, By, Context, Decision, Effect, Fact, Input, LeaveReason, MediaOffer, Notice, Outbox,
    Refusal, Speaker, State, Status,
    book::{Ask, Book, Decided, answer},
    commit,
    outbox::{Replay, Told},
};
use crate::{
    chat,
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
    Entering(Outbox, oneshot::Sender<Result<Entered, Refusal>>),
    /// A row of `meeting_commands`.
    Command(i64),
    /// A connection that is in, the SFU, or the owner itself.
    Inside,
}

/// Who has come in, or begun to wait.
#[derive(Clone, Copy, Debug)]
pub struct Entered {
    /// The stay, or the one that it would be.
    pub participant: ParticipantId,
    /// Whether they wait.
    pub waits: bool,
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
    book: Book,
    /// The step with Postgres that is under way.
    step: Option<Step>,
    outboxes: HashMap<ParticipantId, Outbox>,
    /// The ways to those who wait to be let in.
    lobby: HashMap<ParticipantId, Outbox>,
    /// Commands that came last: one that is still in its table when that is read is carried again.
    carried: VecDeque<i64>,
    /// What those who can come back were told last, also while their connection is lost.
    replays: HashMap<ParticipantId, Replay>,
    /// What was written last, for who comes in.
    chat: chat::Recent,
    /// Offers that the SFU has not answered yet, each with the slots that were reported since: they name m-lines of the
    /// answer, and are told after it.
    negotiating: HashMap<ParticipantId, Option<Notice>>,
    /// Whom the SFU was too busy to be told to forget.
    unplugged: VecDeque<ParticipantId>,
}

/// A step with Postgres: a commit, or the look-up of one, which says whether it came about.
type Step = Pin<Box<dyn Future<Output = Result<bool, commit::Error>> + Send>>;

impl Owner {
    /// The owner of a meeting that is stored as `state` by the transaction `batch`. `first` is decided before anything else.
    pub fn new(
        context: Arc<Context>,
        lease: Lease,
        stored: (State, Option<BatchId>),
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
            book: Book::new(lease, stored, first),
            step: None,
            outboxes: HashMap::new(),
            lobby: HashMap::new(),
            carried: VecDeque::new(),
            replays: HashMap::new(),
            chat: chat::Recent::default(),
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
            Ok(()) if self.book.is_over() => info!(meeting.id = %meeting, "the meeting has ended"),
            Ok(()) => info!(meeting.id = %meeting, "the meeting is given up: this node stops"),
            Err(error) => warn!(meeting.id = %meeting, %error, "the meeting is given up"),
        }
    }

    /// Reads what was written before this node owned the meeting, and in a room with one chat for all its meetings before
    /// this one.
    async fn read_chat(&mut self) {
        let whole_room = !self.book.state().room.rules.new_chat_for_meeting;
        if self.lease.epoch == FIRST_EPOCH && !whole_room {
            return;
        }
        let read = self.context.chat.recent(self.place(), whole_room);
        match tokio::time::timeout(commit::PATIENCE, read).await {
            Ok(Ok(recent)) => self.chat = recent,
            Ok(Err(error)) => {
                warn!(meeting.id = %self.lease.meeting, %error, "what was written before cannot be read")
            }
            Err(_) => {
                warn!(meeting.id = %self.lease.meeting, "what was written before cannot be read in time")
            }
        }
    }

    fn place(&self) -> chat::Place {
        chat::Place {
            app: self.lease.app,
            room: self.book.state().room.id,
            meeting: self.lease.meeting,
        }
    }

    /// Takes what happens, one thing after the other, until the meeting is over.
    async fn own(&mut self) -> Result<(), commit::Error> {
        self.read_chat().await;
        let clock = self.context.clock.clone();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        while !self.book.is_over() {
            if self.context.overslept() {
                return Err(commit::Error::Fenced);
            }
            self.unplug();
            while self.step.is_none() {
                self.book.collect_due(clock.now());
                self.decide();
                if self.book.is_idle() {
                    break;
                }
            }
            let next_due = self.book.state().next_due();
            let (inbox, step) = (&mut self.inbox, &mut self.step);
            let (idle, away) = (step.is_none(), self.book.is_away());
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
        if let (Sender::Command(id), Input::Moderate { .. }) = (&envelope.from, &envelope.input) {
            if self.carried.contains(id) {
                return;
            }
            self.carried.push_back(*id);
            if self.carried.len() > MOST_CARRIED {
                self.carried.pop_front();
            }
        }
        if envelope.input.is_relayed() {
            self.relay(&envelope.input);
        } else {
            self.book.put(envelope);
        }
    }

    /// Decides what waits, and begins to store it where it has to be.
    fn decide(&mut self) {
        let (decided, change) = self.book.decide(self.context.clock.now(), self.new_batch());
        if let Some(change) = change {
            self.store(change);
        }
        self.act_all(decided);
    }

    fn store(&mut self, change: commit::Change) {
        let context = self.context.clone();
        self.step = Some(Box::pin(async move {
            let mut rng = SmallRng::from_rng(&mut rand::rng());
            commit::commit(&context.db, &change, &mut rng).await?;
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
        let was_away = self.book.is_away();
        let why = outcome.as_ref().err().map(ToString::to_string);
        let decided = self.book.finish(outcome)?;
        let meeting = self.lease.meeting;
        match (was_away, self.book.is_away()) {
            (false, true) => {
                let error = why.unwrap_or_default();
                warn!(meeting.id = %meeting, error, "Postgres does not store: the meeting goes on, its facts wait");
            }
            (true, false) => {
                info!(meeting.id = %meeting, "Postgres is back, and the meeting is stored")
            }
            _ => {}
        }
        self.act_all(decided);
        Ok(())
    }

    /// Tries Postgres again.
    fn retry(&mut self) {
        match self.book.retry(self.new_batch()) {
            None => {}
            Some(Ask::Store(change)) => self.store(*change),
            Some(Ask::Happened(batch)) => {
                let (context, lease) = (self.context.clone(), self.lease);
                self.step = Some(Box::pin(async move {
                    match tokio::time::timeout(
                        commit::PATIENCE,
                        commit::happened(&context.db, &lease, batch),
                    )
                    .await
                    {
                        Ok(happened) => Ok(happened?),
                        Err(_) => Err(commit::Error::Unknown("no answer in time".into())),
                    }
                }));
            }
        }
    }

    fn new_batch(&self) -> BatchId {
        BatchId::new(self.context.clock.now(), &mut rand::rng())
    }

    fn relay(&mut self, input: &Input) {
        let effects = self.book.relay(input, self.context.clock.now());
        effects
            .into_iter()
            .for_each(|effect| self.take_effect(effect));
    }

    fn act_all(&mut self, decided: Vec<Decided>) {
        for (envelope, outcome) in decided {
            self.act(envelope, outcome);
        }
    }

    fn act(&mut self, envelope: Envelope, outcome: Result<Decision, Refusal>) {
        let decided = (envelope, outcome);
        if let (Sender::Command(id), Some(answer)) = (&decided.0.from, answer(&decided)) {
            self.context.answered(*id, answer);
        }
        let (envelope, outcome) = decided;
        let decision = match outcome {
            Ok(decision) => decision,
            Err(refusal) => {
                if let (Refusal::JoinAborted, Input::Join(request)) = (refusal, &envelope.input) {
                    self.context.announce_gone(request);
                }
                return self.refuse(envelope, refusal);
            }
        };
        if let (Sender::Entering(outbox, reply), Some(participant)) =
            (envelope.from, decision.entered)
        {
            let waits = decision.waits;
            if waits {
                self.lobby.insert(participant, outbox);
            } else {
                self.let_in(participant, outbox);
            }
            // A connection that is gone is noticed when it is told that it is in.
            let _ = reply.send(Ok(Entered { participant, waits }));
        }
        decision
            .effects
            .into_iter()
            .for_each(|effect| self.take_effect(effect));
        // An offer of the connection before is not answered any more.
        if let Some(participant) = decision.entered
            && let Some(Some(slots)) = self.negotiating.remove(&participant)
        {
            self.tell(participant, slots);
        }
    }

    /// Whoever is told by this is in.
    fn let_in(&mut self, participant: ParticipantId, outbox: Outbox) {
        if outbox.resume_token.is_some() {
            let replay = || Replay::new(self.lease.epoch);
            self.replays.entry(participant).or_insert_with(replay);
        }
        self.outboxes.insert(participant, outbox);
    }

    /// The way to somebody who is in, or waits to be let in.
    fn outbox(&self, participant: ParticipantId) -> Option<&Outbox> {
        let waits = self.lobby.get(&participant);
        self.outboxes.get(&participant).or(waits)
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Tell(participant, notice) => self.tell(participant, notice),
            Effect::TellThese(participants, notice) => self.tell_these(participants, notice),
            Effect::TellAll { except, notice } => {
                let away = self
                    .replays
                    .keys()
                    .filter(|id| !self.outboxes.contains_key(id));
                let all = self.outboxes.keys().chain(away).copied();
                let told = all.filter(|id| Some(*id) != except).collect();
                self.tell_these(told, notice);
            }
            Effect::CatchUp {
                participant,
                last,
                snapshot,
            } => self.catch_up(participant, last, snapshot),
            Effect::ShowChat(participant) => self.show_chat(participant),
            Effect::KeepChat(line) => {
                self.chat.push(line.clone());
                self.context.chat.keep(self.place(), line);
            }
            Effect::PutOut(participant, farewell) => {
                if farewell.reason != LeaveReason::Left {
                    self.tell(participant, Notice::Ended(farewell));
                }
                self.outboxes.remove(&participant);
                self.replays.remove(&participant);
            }
            Effect::LetIn(participant) => {
                if let Some(outbox) = self.lobby.remove(&participant) {
                    self.let_in(participant, outbox);
                }
            }
            Effect::Dismiss(participant, last) => {
                if let Some(last) = last {
                    self.tell(participant, last);
                }
                self.lobby.remove(&participant);
            }
            Effect::Unplug(participant) => {
                self.negotiating.remove(&participant);
                self.unplugged.push_back(participant);
            }
            Effect::Negotiate(by, offer) => self.negotiate(by, &offer),
        }
    }

    /// Tells several the same, in the same frames.
    fn tell_these(&mut self, participants: Vec<ParticipantId>, notice: Notice) {
        let told = Arc::new(self.render(notice, None));
        for participant in participants {
            self.post(participant, told.clone());
        }
    }

    /// Tells one who is back what they have missed, as far as it is known, or how things are.
    fn catch_up(&mut self, participant: ParticipantId, last: Option<u64>, snapshot: Notice) {
        let Some(replay) = self.replays.get_mut(&participant) else {
            return;
        };
        let Some(missed) = last.and_then(|last| replay.since(last)) else {
            replay.clear();
            self.tell(participant, snapshot);
            return self.show_chat(participant);
        };
        let resumed = self.render(Notice::Resumed { participant }, Some(participant));
        if let Some(outbox) = self.outboxes.get(&participant) {
            // The first thing that it is told finds room.
            outbox.post(Arc::new(resumed.followed_by(missed)), None);
        }
    }

    fn show_chat(&mut self, participant: ParticipantId) {
        let state = self.book.state();
        let may_read = state
            .find(participant)
            .is_some_and(|known| state.reads_chat(known));
        if may_read && !self.chat.is_empty() {
            self.tell(participant, Notice::ChatHistory(self.chat.lines()));
        }
    }

    /// The frames of a notice to one, or to several.
    fn render(&self, mut notice: Notice, participant: Option<ParticipantId>) -> Told {
        notice.refresh(self.book.state());
        let outbox = participant.and_then(|participant| self.outbox(participant));
        let audience = Audience {
            room: &self.book.state().room.name,
            participant,
            resume_token: outbox.and_then(|outbox| outbox.resume_token.as_deref()),
        };
        let frames = (self.context.render)(&notice, &audience, self.context.clock.now());
        Told::new(notice, frames)
    }

    /// Tells one.
    fn tell(&mut self, participant: ParticipantId, notice: Notice) {
        let answered = matches!(notice, Notice::Answer(_) | Notice::NotNegotiated(_));
        let notice = match self.negotiating.get_mut(&participant) {
            Some(slots) if matches!(notice, Notice::Slots(_)) => {
                *slots = Some(notice);
                return;
            }
            _ => notice,
        };
        let told = Arc::new(self.render(notice, Some(participant)));
        self.post(participant, told);
        if answered && let Some(Some(slots)) = self.negotiating.remove(&participant) {
            self.tell(participant, slots);
        }
    }

    /// Sends frames to a connection, and keeps them for the case that it is lost. One that does not keep up is dropped, so
    /// that nobody waits for it.
    fn post(&mut self, participant: ParticipantId, told: Arc<Told>) {
        let replay = self.replays.get_mut(&participant);
        let first = replay.map(|replay| replay.push(&told));
        let Some(outbox) = self.outbox(participant) else {
            return;
        };
        if !outbox.post(told.clone(), first) {
            let by = Speaker {
                participant,
                connection: outbox.connection,
            };
            self.outboxes.remove(&participant);
            self.lobby.remove(&participant);
            let since = self.context.clock.now();
            self.book.put(inside(match told.notice {
                Notice::Welcome { .. } => Input::Unheard { by },
                _ => Input::Disconnected { by, since },
            }));
        }
    }

    /// Finds connections that have gone without a word, as one whose last input found no place in the inbox.
    fn sweep(&mut self) {
        let since = self.context.clock.now();
        let silent = self.book.state().participants.iter().filter(|participant| {
            let outbox = self.outboxes.get(&participant.id);
            participant.away.is_none() && outbox.is_none_or(Outbox::is_closed)
        });
        let lost = silent.map(|participant| {
            let by = Speaker {
                participant: participant.id,
                connection: participant.connection,
            };
            inside(Input::Disconnected { by, since })
        });
        let waiting = self
            .book
            .state()
            .waiting
            .iter()
            .map(|waiting| &waiting.request);
        let gone = waiting.filter(|request| {
            let outbox = self.lobby.get(&request.participant);
            outbox.is_none_or(Outbox::is_closed)
        });
        let gone = gone.map(|request| {
            let by = Speaker {
                participant: request.participant,
                connection: request.connection,
            };
            inside(Input::Disconnected { by, since })
        });
        let lost: Vec<_> = lost.chain(gone).collect();
        lost.into_iter().for_each(|lost| self.book.put(lost));
        // Whom a lost answer of Postgres left neither in nor waiting finds out by the end of their connection.
        let state = self.book.state();
        self.lobby.retain(|id, _| state.find_waiting(*id).is_some());
        self.book.settle();
    }

    /// Tells who asked that nothing comes of it.
    fn refuse(&mut self, envelope: Envelope, refusal: Refusal) {
        match (envelope.from, envelope.input) {
            (Sender::Entering(_, reply), _) => {
                // Whoever asked may be gone.
                let _ = reply.send(Err(refusal));
            }
            (
                Sender::Inside,
                Input::Moderate {
                    by: By::Moderator(by),
                    ..
                },
            ) => {
                let outbox = self.outboxes.get(&by.participant);
                if outbox.is_some_and(|outbox| outbox.connection == by.connection) {
                    self.tell(by.participant, Notice::Refused(refusal));
                }
            }
            _ => {}
        }
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
        self.book.put(inside(Input::Shutdown));
        self.book.settle();
        while !(self.book.is_idle() && self.book.is_saved()) {
            if let Some(step) = &mut self.step {
                let outcome = step.await;
                self.finish(outcome)?;
            } else if self.book.is_away() {
                self.decide();
                tokio::time::sleep(RETRY).await;
                self.retry();
            } else {
                self.decide();
            }
        }
        self.unplug();
        if self.book.state().status != Status::Ended {
            commit::release(&self.context.db, &self.lease, self.context.clock.now()).await?;
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.context.forget(&self.lease, self.book.state().room.id);
    }
}

pub(super) fn inside(input: Input) -> Envelope {
    Envelope {
        input,
        from: Sender::Inside,
    }
}

/// What a participant may send: no rule of a room forbids anything yet.
const EVERY_SOURCE: [Source; 4] = [
    Source::Microphone,
    Source::Camera,
    Source::Screen,
    Source::ScreenAudio,
];
/// Commands that are remembered; as many as are read at once.
const MOST_CARRIED: usize = 1000;
/// The epoch of whoever opens a meeting.
pub const FIRST_EPOCH: i64 = 1;
/// Pause before Postgres is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How often connections that have gone without a word are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long a stop waits for Postgres.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
