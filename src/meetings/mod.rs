//! Meetings: the live runs of rooms.
//!
//! A live meeting has one owner, a task on one node ([`owner`]), which holds a lease on it in Postgres. Whatever happens
//! to the meeting goes through that task: [`decide`] says what comes of it, [`commit`] writes it, and only then is it so.

mod action;
pub mod admission;
mod asking;
mod book;
mod commit;
mod decide;
mod fact;
pub mod history;
mod input;
mod notice;
mod openings;
mod outbox;
mod owner;
mod reason;
#[cfg(test)]
mod simulation;
mod state;
mod store;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use rand::Rng;
use sqlx::{PgConnection, PgTransaction};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

pub use self::{
    action::{
        Action, Answer, By, Denial, Done, Extension, Order, Permission, Permissions, PutOut,
        Waiters, Waits, Whom,
    },
    admission::{Grant, Refusal},
    decide::{Decision, Effect},
    fact::Fact,
    input::{Input, JoinRequest, MediaOffer, Relay, RelayAbout, RelayTarget},
    notice::{ChatMessage, Farewell, Notice, Person, Scene, TurnedAway},
    openings::Opening,
    outbox::{Audience, Deliveries, Delivery, Outbox, Render},
    reason::{EndReason, LeaveReason},
    state::{
        Away, Block, Connection, Device, Identity, Participant, ResumeHash, Role, Sharing, Shown,
        ShownChange, Speaker, State, Status, Waiting, Warned,
    },
    store::Opened,
};
use self::{
    admission::Applicant,
    asking::Asking,
    openings::Openings,
    owner::{Entered, Envelope, Lease, Owner, Sender},
};
use crate::{
    chat::Chat,
    clock::Clock,
    db::Db,
    id::{AppId, BatchId, MeetingId, NodeId, ParticipantId, RoomId},
    rate::{self, Buckets, Limit},
    rooms::{
        self, AddressHash, CreatorToken, MeetingStart, Password, PasswordHash, Room, RoomName,
    },
    sealed::MasterKey,
    sfu,
    tokens::{self, TokenText},
};

/// What others ask of a meeting's owner, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// End the meeting.
    End {
        /// Why.
        reason: EndReason,
        /// When that became true.
        at: DateTime<Utc>,
    },
    /// The room has changed: read it anew.
    Rules,
    /// The app acts, and waits for the answer.
    Act {
        /// What it does.
        action: Action,
        /// The id of the request by which it does.
        request: Option<String>,
    },
}

/// Something that an app has asked of a meeting's owner.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Whose meeting it is.
    pub app: AppId,
    /// The row of the command.
    pub command: i64,
    /// What is asked of which meeting, where it has not been handed over yet.
    pub new: Option<(MeetingId, Action, Option<Arc<str>>)>,
}

/// What has come of something that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The owner's answer.
    Answered(Answer),
    /// The meeting ended before the owner came to it.
    Gone,
    /// The owner has not come to it yet. It is stored, and whoever owns the meeting next does it.
    Pending,
}

/// Settings of live meetings.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Meetings")]
#[group(skip)]
pub struct Config {
    /// How long a node owns a meeting without renewing that, 3s to 60s: if the node dies, its meetings are gone on with
    /// elsewhere after this time. The same on all nodes.
    #[arg(long, env = "PLENUM_MEETING_LEASE", default_value = "6s", value_parser = lease)]
    pub meeting_lease: Duration,
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(3)..=Duration::from_secs(60)).contains(&lease) {
        Ok(lease)
    } else {
        Err("must be from 3s to 60s".to_owned())
    }
}

/// What a node's meetings act upon.
pub struct Edges {
    /// Carries the media.
    pub sfu: sfu::Sfu,
    /// Writes what people are told.
    pub render: Render,
    /// Notified of new events.
    pub webhooks: Arc<Notify>,
}

/// The meetings that this node owns. Clones are of the same.
#[derive(Clone)]
pub struct Meetings(Arc<Context>);

/// What the meetings of a node share.
pub struct Context {
    db: Db,
    clock: Clock,
    /// Opens the secrets that tokens are signed with.
    master_key: Arc<MasterKey>,
    node: NodeId,
    /// How long a lease lasts.
    lease: Duration,
    sfu: sfu::Sfu,
    /// Writes what people are told.
    render: Render,
    chat: Chat,
    /// Wakes the dispatcher when there are new events.
    webhooks: Arc<Notify>,
    tasks: TaskTracker,
    /// Owners outlive the connection that brought them about, and the HTTP worker that it ran on.
    runtime: tokio::runtime::Handle,
    stopping: CancellationToken,
    /// How long the machine had been suspended when the leases were renewed last, in microseconds.
    asleep: AtomicU64,
    /// Wakes whoever carries commands to owners.
    commands: Notify,
    /// Who waits for the answers to commands on this node.
    asked: Mutex<HashMap<i64, oneshot::Sender<Answer>>>,
    /// Wakes whoever claims meetings that nobody owns.
    unowned: Notify,
    openings: Openings,
    live: Mutex<Live>,
    /// Wrong passwords that an address may try in a room.
    wrong_passwords: Buckets<(IpAddr, RoomId)>,
    /// Refusals of one code that an app is told of one room.
    announced: Buckets<(RoomId, &'static str)>,
    /// Held while a room's meeting is looked up or opened, by the room's hash, so that two who join at once open one.
    opening: [tokio::sync::Mutex<()>; 64],
    hasher: RandomState,
}

#[derive(Default)]
struct Live {
    owners: HashMap<MeetingId, Handle>,
    rooms: HashMap<RoomId, MeetingId>,
}

/// The way to a meeting's owner.
#[derive(Clone)]
struct Handle {
    inbox: mpsc::Sender<Envelope>,
    app: AppId,
    room: RoomId,
    epoch: i64,
    /// Cancelled when another node owns the meeting.
    fenced: CancellationToken,
}

/// A place in a meeting: the way from one connection to the meeting's owner.
#[derive(Debug)]
pub struct Seat {
    /// The stay.
    pub participant: ParticipantId,
    /// Whether they had to wait to be let in when they came.
    pub waits: bool,
    connection: Connection,
    inbox: mpsc::Sender<Envelope>,
}

/// Who calls: on whose host, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The app on whose host they are.
    pub app: AppId,
    /// Their address.
    pub address: IpAddr,
}

/// How somebody comes in.
#[derive(Clone, Debug)]
pub enum Entry {
    /// As somebody new.
    Join {
        /// Display name.
        name: String,
        /// What they join with.
        device: Arc<Device>,
        /// The token that they show.
        token: Option<TokenText>,
        /// The password that they give.
        password: Option<Password>,
        /// The token of the room's creator, as they say.
        creator_token: Option<CreatorToken>,
        /// Hash of the token that brings a lost connection back, where the client can do that.
        resume: Option<ResumeHash>,
    },
    /// As who they were before their connection was lost.
    Resume {
        /// Hash of what they were given for that.
        hash: ResumeHash,
        /// The number of the last frame that they have, where they know one.
        last: Option<u64>,
    },
}

/// Asks the owner of the room's meeting to end it; nothing where the room has none.
///
/// In the transaction of its cause. After the commit, [`Meetings::wake`] makes it happen at once.
pub async fn request_end(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    room: RoomId,
    reason: EndReason,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    store::command(tx, app, room, &Command::End { reason, at }, at).await
}

/// Asks the owners of an app's meetings to end them; as [`request_end`].
pub async fn request_end_of_all(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    reason: EndReason,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    store::command_all(tx, app, &Command::End { reason, at }, at).await
}

/// How many meetings of an app have not ended.
pub async fn running(conn: &mut PgConnection, app: AppId) -> sqlx::Result<i64> {
    store::running(conn, app).await
}

/// Tells the owner of the room's meeting that the room has changed; nothing where the room has no meeting.
///
/// In the transaction of the change. After the commit, [`Meetings::wake`] makes it happen at once.
pub async fn request_rules(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    room: RoomId,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    store::command(tx, app, room, &Command::Rules, now).await
}

/// Asks the owner of the room's meeting to act; `None` where the room has none. Its answer is kept until `keep_until`.
///
/// After the commit, [`Meetings::outcome`] makes it happen at once, and waits for it.
pub async fn ask(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    room: RoomId,
    action: Action,
    request: Option<String>,
    keep_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Asked>> {
    let command = Command::Act { action, request };
    let asked = store::ask(tx, app, room, &command, keep_until, now).await?;
    let Command::Act { action, request } = command else {
        return Ok(None);
    };
    Ok(asked.map(|(id, meeting)| Asked {
        app,
        command: id,
        new: Some((meeting, action, request.map(Arc::from))),
    }))
}

/// Opens a meeting in a room that has none, before anybody joins; the one that is open or live, where it has one.
///
/// Nobody owns a new one: after the commit, [`Meetings::claim_soon`] changes that at once. In a transaction that holds the room.
pub async fn open(
    tx: &mut PgTransaction<'_>,
    room: &Room,
    now: DateTime<Utc>,
    rng: &mut impl Rng,
) -> sqlx::Result<Opened> {
    store::open_unowned(tx, room.app_id, MeetingId::new(now, rng), room.id, now).await
}

/// Whether the room has a meeting that has not ended.
pub async fn is_running(conn: &mut PgConnection, app: AppId, room: RoomId) -> sqlx::Result<bool> {
    store::is_running(conn, app, room).await
}

/// Meetings that are live, and people who are in them, of all apps.
pub async fn totals(db: &Db) -> sqlx::Result<(i64, i64)> {
    store::totals(&mut db.system().await?).await
}

/// The same of one app.
pub async fn totals_of(conn: &mut PgConnection, app: AppId) -> sqlx::Result<(i64, i64)> {
    store::totals_of(conn, app).await
}

/// How many people are in the meetings of these rooms of an app; a room that nobody is in is left out.
pub async fn people_in(
    conn: &mut PgConnection,
    app: AppId,
    rooms: &[RoomId],
) -> sqlx::Result<HashMap<RoomId, i64>> {
    store::people_in(conn, app, rooms).await
}

impl Meetings {
    /// A node's meetings: none yet. Owners run on the current Tokio runtime.
    pub fn new(
        config: &Config,
        db: Db,
        clock: Clock,
        master_key: Arc<MasterKey>,
        node: NodeId,
        edges: Edges,
    ) -> Self {
        let Edges {
            sfu,
            render,
            webhooks,
        } = edges;
        Self(Arc::new(Context {
            chat: Chat::new(db.clone()),
            db,
            clock,
            master_key,
            node,
            lease: config.meeting_lease,
            sfu,
            render,
            webhooks,
            tasks: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
            stopping: CancellationToken::new(),
            asleep: AtomicU64::new(0),
            commands: Notify::new(),
            asked: Mutex::default(),
            unowned: Notify::new(),
            openings: Openings::new(),
            live: Mutex::default(),
            wrong_passwords: Buckets::new(Limit::per_minute("passwords", WRONG_PASSWORDS)),
            announced: Buckets::new(Limit::per_minute("refusals", ANNOUNCED_REFUSALS)),
            opening: [const { tokio::sync::Mutex::const_new(()) }; 64],
            hasher: RandomState::new(),
        }))
    }

    /// How many meetings this node owns.
    pub fn count(&self) -> usize {
        self.0.owned().len()
    }

    /// Lets somebody into the meeting of a room, which begins if there is none. What they are told goes to `outbox`.
    ///
    /// Whoever drops the future has gone: their place is free again.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] that they are to be told; [`Refusal::TryAgain`] after [`PATIENCE`].
    pub async fn enter(
        &self,
        caller: Caller,
        name: &RoomName,
        entry: Entry,
        outbox: Outbox,
    ) -> Result<Seat, Refusal> {
        let mut asking = Asking::new(self.0.clone(), caller.app);
        let enter = self.enter_in_time(caller, name, entry, outbox, &mut asking);
        let outcome = tokio::time::timeout(PATIENCE, enter).await;
        let outcome = outcome.unwrap_or(Err(Refusal::TryAgain));
        asking.settle(outcome.as_ref().err());
        outcome
    }

    async fn enter_in_time(
        &self,
        caller: Caller,
        name: &RoomName,
        entry: Entry,
        outbox: Outbox,
        asking: &mut Asking,
    ) -> Result<Seat, Refusal> {
        let connection = outbox.connection;
        // A meeting may end, and a room may change, between the look-up and the join: it is looked up again.
        for _ in 0..3 {
            let (room, input) = self
                .look_up(caller, name, &entry, connection, asking)
                .await?;
            let inbox = match self.owner(&room, &input).await {
                Ok(inbox) => inbox,
                Err(Refusal::MeetingEnded | Refusal::RoomChanged) => continue,
                Err(refusal) => return Err(refusal),
            };
            let (reply, answer) = oneshot::channel();
            let from = Sender::Entering(outbox.clone(), reply);
            let Ok(place) = inbox.reserve().await else {
                continue;
            };
            asking.is_with_owner = true;
            place.send(Envelope { input, from });
            let answer = answer.await;
            asking.is_with_owner = false;
            match answer {
                Ok(Ok(Entered { participant, waits })) => {
                    return Ok(Seat {
                        participant,
                        waits,
                        connection,
                        inbox,
                    });
                }
                Ok(Err(Refusal::MeetingEnded | Refusal::RoomChanged)) | Err(_) => {}
                Ok(Err(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::TryAgain)
    }

    /// Waits for what comes of something that was asked, [`PATIENCE`] at most.
    ///
    /// An owner on this node is told at once; one elsewhere, or one to come, finds it in the table.
    pub async fn outcome(&self, asked: Asked) -> sqlx::Result<Outcome> {
        let Asked { app, command, new } = asked;
        let (reply, answer) = oneshot::channel();
        self.0.wait_for(command, reply);
        if let Some((meeting, action, request)) = new
            && let Some(owner) = self.0.owner_of(meeting)
        {
            let by = By::App { request };
            // A full inbox is tried again at the next poll.
            let _ = owner.inbox.try_send(Envelope {
                input: Input::Moderate { by, action },
                from: Sender::Command(command),
            });
        }
        let look = async {
            let mut last = Ok(Outcome::Pending);
            for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
                tokio::time::sleep(POLL).await;
                last = self.look_at(app, command).await;
                if !matches!(last, Ok(Outcome::Pending) | Err(_)) {
                    break;
                }
            }
            last
        };
        tokio::select! {
            Ok(answer) = answer => Ok(Outcome::Answered(answer)),
            last = tokio::time::timeout(PATIENCE, look) => last.unwrap_or(Ok(Outcome::Pending)),
        }
    }

    async fn look_at(&self, app: AppId, command: i64) -> sqlx::Result<Outcome> {
        let mut tx = self.0.db.begin(app).await?;
        let answer = store::answered(&mut tx, app, command).await?;
        Ok(match answer {
            None => Outcome::Gone,
            Some(None) => Outcome::Pending,
            Some(Some(answer)) => match serde_json::from_value(answer) {
                Ok(answer) => Outcome::Answered(answer),
                Err(error) => return Err(sqlx::Error::Decode(error.into())),
            },
        })
    }

    /// Makes commands that were just committed happen now rather than at the next poll.
    pub fn wake(&self) {
        self.0.commands.notify_one();
        self.0.openings.look();
    }

    /// Has meetings that nobody owns, as one that was just opened by a call, claimed now rather than at the next heartbeat.
    pub fn claim_soon(&self) {
        self.0.unowned.notify_one();
    }

    /// A place among those who wait for a room of `app` to open; `None` where too many wait already.
    pub fn wait_for_opening(&self, app: AppId, room: RoomName) -> Option<Opening> {
        self.0.openings.wait(app, room)
    }

    /// Tells a meeting's participant what the SFU reports; waits while the meeting is behind.
    pub async fn tell_slots(
        &self,
        meeting: MeetingId,
        participant: ParticipantId,
        slots: Arc<[sfu::SlotView]>,
    ) {
        self.tell(meeting, Input::Slots { participant, slots })
            .await;
    }

    /// Tells a meeting that a participant's media begins or ceases to reach the SFU; waits while the meeting is behind.
    pub async fn tell_published(
        &self,
        meeting: MeetingId,
        participant: ParticipantId,
        source: sfu::Source,
        is_published: bool,
    ) {
        let input = Input::Published {
            participant,
            source,
            is_published,
        };
        self.tell(meeting, input).await;
    }

    async fn tell(&self, meeting: MeetingId, input: Input) {
        if let Some(owner) = self.0.owner_of(meeting) {
            // A meeting that is over has nobody to tell.
            let _ = owner
                .inbox
                .send(Envelope {
                    input,
                    from: Sender::Inside,
                })
                .await;
        }
    }

    /// Renews leases, follows Postgres's clock, claims meetings that nobody owns and carries commands to owners, until
    /// the node stops.
    pub async fn run(&self) {
        let stopping = &self.0.stopping;
        let heartbeat = RENEW_EVERY.min(self.0.lease / 3);
        let keep = async {
            loop {
                if let Err(error) = self.keep().await {
                    warn!(%error, "leases cannot be renewed; trying again");
                }
                tokio::time::sleep(heartbeat).await;
            }
        };
        let claim = async {
            loop {
                // A full batch is not all there is.
                let wait = match self.claim().await {
                    Ok(CLAIMS..) => Duration::ZERO,
                    Ok(_) => heartbeat,
                    Err(error) => {
                        warn!(%error, "meetings cannot be claimed; trying again");
                        heartbeat
                    }
                };
                // The heartbeat is the path that must be right; the wake only makes it quicker.
                let _ = tokio::time::timeout(wait, self.0.unowned.notified()).await;
            }
        };
        let carry = async {
            loop {
                if let Err(error) = self.carry().await {
                    warn!(%error, "commands cannot be read; trying again");
                }
                // The poll is the path that must be right; the wake only makes it quicker.
                let _ = tokio::time::timeout(POLL, self.0.commands.notified()).await;
            }
        };
        let open = self.0.openings.run(&self.0.db, &self.0.clock);
        let run = futures_util::future::join5::<_, _, _, _, _>(
            Box::pin(keep),
            Box::pin(claim),
            Box::pin(carry),
            Box::pin(open),
            Box::pin(self.0.chat.run()),
        );
        stopping.run_until_cancelled(run).await;
    }

    /// Stops: those who cannot come back leave, the others are told to, and every meeting is given up.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        match tokio::time::timeout(PATIENCE, self.0.chat.write()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the last chat is lost"),
            Err(_) => warn!("the last chat is lost: Postgres does not answer"),
        }
    }

    /// The room as it is, and what whoever wants in asks of its meeting, with all that they have shown looked into.
    async fn look_up(
        &self,
        caller: Caller,
        name: &RoomName,
        entry: &Entry,
        connection: Connection,
        asking: &mut Asking,
    ) -> Result<(Room, Input), Refusal> {
        let app = caller.app;
        let mut tx = self.0.db.begin(app).await.map_err(try_again)?;
        let room = rooms::find(&mut tx, app, name).await.map_err(try_again)?;
        let room = room.ok_or(Refusal::RoomNotFound)?;
        let (name, device, token, password, creator_token, resume) = match entry {
            Entry::Resume { hash, last } => {
                let input = Input::Resume {
                    hash: *hash,
                    last: *last,
                    connection,
                };
                return Ok((room, input));
            }
            Entry::Join {
                name,
                device,
                token,
                password,
                creator_token,
                resume,
            } => (name, device, token, password, creator_token, *resume),
        };
        asking.knows(&room, name);
        let now = self.0.clock.now();
        admission::check_time(&room.rules, now)?;
        if room.rules.meeting_start == MeetingStart::Api
            && self.0.owner_in(room.id).is_none()
            && !store::is_running(&mut tx, app, room.id)
                .await
                .map_err(try_again)?
        {
            return Err(Refusal::MeetingNotOpen);
        }
        let mut grant = None;
        if let Some(token) = token {
            let claims = tokens::verify(&mut tx, app, token, &self.0.master_key, now).await;
            let claims = claims
                .map_err(|error| Refusal::of_token(&error).unwrap_or_else(|| try_again(error)))?;
            let given = Grant::new(claims, &room.name)?;
            asking.knows_bearer(&given);
            grant = Some(given);
        }
        drop(tx); // a password takes its time
        let creator = room.creator.as_ref().zip(creator_token.as_ref());
        let is_creator = creator.is_some_and(|(kept, given)| kept.is_of(given));
        let password = match (&grant, &room.password, password) {
            (None, Some(hash), Some(given)) => {
                self.check_password(caller.address, room.id, hash, given)
                    .await?;
                Some(hash.clone())
            }
            _ => None,
        };
        let address = AddressHash::new(app, caller.address, &self.0.master_key);
        let request = JoinRequest {
            participant: ParticipantId::new(now, &mut rand::rng()),
            connection,
            name: name.clone(),
            device: device.clone(),
            password,
            is_creator,
            address: grant.is_none().then_some(address),
            grant,
            resume,
            room: room.clone(),
        };
        Ok((room, Input::Join(Box::new(request))))
    }

    /// Whether a password is the room's. Outside of the meeting's task: it takes its time.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidPassword`], which costs nothing more once too many were wrong.
    async fn check_password(
        &self,
        address: IpAddr,
        room: RoomId,
        hash: &PasswordHash,
        given: &Password,
    ) -> Result<(), Refusal> {
        let tries = &self.0.wrong_passwords;
        let key = (rate::network(address), room);
        let refusal = |left: rate::Quota| Refusal::InvalidPassword {
            retry_after_sec: left.wait_seconds(1),
        };
        let left = tries.left(&key, self.0.clock.now());
        if left.wait(1) > 0 {
            return Err(refusal(left));
        }
        if hash.is_of(given.clone()).await.map_err(try_again)? {
            Ok(())
        } else {
            Err(refusal(tries.charge(&key, self.0.clock.now())))
        }
    }

    /// The way to the owner of the room's meeting; a new meeting where there is none and `input` may begin one.
    async fn owner(&self, room: &Room, input: &Input) -> Result<mpsc::Sender<Envelope>, Refusal> {
        if let Some(owner) = self.0.owner_in(room.id) {
            return Ok(owner.inbox);
        }
        let slot = usize::try_from(self.0.hasher.hash_one(room.id) % 64).unwrap_or_default();
        let opening = self.0.opening[slot].lock().await;
        if let Some(owner) = self.0.owner_in(room.id) {
            return Ok(owner.inbox);
        }
        if self.0.stopping.is_cancelled() || self.0.overslept() {
            return Err(Refusal::TryAgain);
        }
        if let (Input::Join(request), MeetingStart::Join) = (input, room.rules.meeting_start)
            && let Some(owner) = self.begin(room, request).await?
        {
            return Ok(owner);
        }
        if let Some(owner) = self.adopt(room).await.map_err(try_again)? {
            return Ok(owner);
        }
        drop(opening);
        match (self.owner_node(room).await.map_err(try_again)?, input) {
            // Claimed a moment ago.
            (Some(Some(node)), _) if node == self.0.node => self.arriving(room.id).await,
            // Run by another node, which may have died: its meeting is claimed within seconds.
            (Some(_), _) => Err(Refusal::TryAgain),
            (None, Input::Join(_)) => match room.rules.meeting_start {
                MeetingStart::Api => Err(Refusal::MeetingNotOpen),
                // Archived this moment.
                MeetingStart::Join => Err(Refusal::TryAgain),
            },
            (None, _) => Err(Refusal::ResumeFailed),
        }
    }

    /// Opens a meeting for the join that is on its way; `None` where the room has one already, or is gone.
    async fn begin(
        &self,
        room: &Room,
        request: &JoinRequest,
    ) -> Result<Option<mpsc::Sender<Envelope>>, Refusal> {
        // Nobody is in: what speaks against a join is known before a meeting is opened for it.
        let now = self.0.clock.now();
        admission::check(room, &Applicant::from(request), None, now)?;
        let meeting = MeetingId::new(now, &mut rand::rng());
        let lease = Lease {
            app: room.app_id,
            meeting,
            node: self.0.node,
            epoch: owner::FIRST_EPOCH,
        };
        let opened = match self.open(&lease, room, now).await {
            // It was changed since it was looked up.
            Err(rooms::Error::Changed) => return Err(Refusal::RoomChanged),
            opened => opened.map_err(try_again)?,
        };
        if !opened {
            return Ok(None);
        }
        let state = State::open(meeting, room.clone(), now);
        Ok(Some(self.0.own(lease, (state, None), None)))
    }

    /// Goes on with the room's meeting if nobody owns it, as after a call has opened it; the way to its owner.
    async fn adopt(&self, room: &Room) -> Result<Option<mpsc::Sender<Envelope>>, rooms::Error> {
        let (meetings, app, room) = (self.clone(), room.app_id, room.id);
        let adopt = async move {
            let Context {
                db, node, lease, ..
            } = &*meetings.0;
            let mut tx = db.begin(app).await?;
            let claimed = store::claim_unowned(&mut tx, *node, app, room, *lease).await?;
            tx.commit().await?;
            match claimed {
                Some(claimed) => meetings.take_over(&claimed).await,
                None => Ok(None),
            }
        };
        self.0.to_the_end(adopt).await.unwrap_or(Ok(None))
    }

    /// The way to the owner of a meeting that this node has claimed, and is reading.
    async fn arriving(&self, room: RoomId) -> Result<mpsc::Sender<Envelope>, Refusal> {
        for _ in 0..ARRIVAL_TRIES {
            tokio::time::sleep(ARRIVAL_PAUSE).await;
            if let Some(owner) = self.0.owner_in(room) {
                return Ok(owner.inbox);
            }
        }
        Err(Refusal::TryAgain)
    }

    /// Whether the room has a meeting that has not ended, and which node owns it.
    async fn owner_node(&self, room: &Room) -> Result<Option<Option<NodeId>>, rooms::Error> {
        let mut tx = self.0.db.begin(room.app_id).await?;
        Ok(store::owner_node(&mut tx, room.app_id, room.id).await?)
    }

    async fn open(
        &self,
        lease: &Lease,
        room: &Room,
        now: DateTime<Utc>,
    ) -> Result<bool, rooms::Error> {
        let mut tx = self.0.db.begin(room.app_id).await?;
        let there = rooms::hold(&mut tx, room).await?;
        let opened = there && store::open(&mut tx, lease, room.id, now, self.0.lease).await?;
        tx.commit().await?;
        Ok(opened)
    }

    /// One heartbeat: clock, leases.
    async fn keep(&self) -> sqlx::Result<()> {
        let Context {
            db,
            clock,
            node,
            lease,
            ..
        } = &*self.0;
        let asleep = clock.suspended();
        db.sample_clock(clock).await?;
        let owned = self.0.owned();
        let mut conn = db.keeper().await?;
        if self.0.overslept() {
            warn!(
                "this machine was suspended for longer than a lease: its meetings are claimed anew"
            );
            self.0.fence(owned.into_iter());
        } else if !owned.is_empty() {
            let ours = store::renew(&mut conn, *node, &owned, *lease, clock.now()).await?;
            self.0
                .fence(owned.into_iter().filter(|meeting| !ours.contains(meeting)));
        }
        self.0.asleep.store(micros(asleep), Relaxed);
        store::forget_late_commands(&mut conn, clock.now()).await?;
        Ok(())
    }

    /// Claims some of the meetings that nobody owns, and takes them over; returns how many there were.
    async fn claim(&self) -> sqlx::Result<usize> {
        let meetings = self.clone();
        let claim = async move { meetings.claim_now().await };
        self.0.to_the_end(claim).await.unwrap_or(Ok(0))
    }

    async fn claim_now(&self) -> sqlx::Result<usize> {
        // Until the heartbeat has seen to that, nothing could be owned.
        if self.0.overslept() {
            return Ok(0);
        }
        let mut conn = self.0.db.keeper().await?;
        let limit = i64::try_from(CLAIMS).unwrap_or(i64::MAX);
        let claimed = store::claim(&mut conn, self.0.node, self.0.lease, limit).await?;
        drop(conn);
        futures_util::stream::iter(&claimed)
            .for_each_concurrent(TAKE_OVERS_AT_ONCE, |claimed| {
                self.take_over_in_time(claimed)
            })
            .await;
        Ok(claimed.len())
    }

    async fn take_over_in_time(&self, claimed: &store::Claimed) {
        for _ in 0..TAKE_OVER_TRIES {
            let Err(error) = self.take_over(claimed).await else {
                return;
            };
            warn!(meeting.id = %claimed.id, %error, "a meeting could not be read to take it over");
            tokio::time::sleep(TAKE_OVER_PAUSE).await;
        }
        warn!(meeting.id = %claimed.id, "a meeting cannot be taken over; its lease runs out");
    }

    /// Goes on with a meeting that this node has claimed; the way to its owner.
    async fn take_over(
        &self,
        claimed: &store::Claimed,
    ) -> Result<Option<mpsc::Sender<Envelope>>, rooms::Error> {
        let store::Claimed {
            app_id,
            id,
            room_id,
            epoch,
            renewed_at,
            given_up,
        } = *claimed;
        let mut tx = self.0.db.begin(app_id).await?;
        let row = store::load(&mut tx, app_id, id).await?;
        let Some(room) = rooms::get(&mut tx, app_id, room_id).await? else {
            return Ok(None);
        };
        let participants = store::participants(&mut tx, app_id, id).await?;
        let blocked = store::blocks(&mut tx, app_id, id).await?;
        drop(tx);
        info!(meeting.id = %id, participants = participants.len(), "taking over a meeting");
        let state = State {
            id,
            status: row.status,
            room,
            participants,
            blocked: Arc::new(blocked),
            waiting: Vec::new(),
            locked: row.locked,
            extended_by: TimeDelta::seconds(row.extended_by_sec),
            participant_count: row.participant_count.unsigned_abs(),
            max_concurrent: usize::try_from(row.max_concurrent).unwrap_or_default(),
            created_at: row.created_at,
            started_at: row.started_at,
            empty_since: row.empty_since,
            one_left_since: row.one_left_since,
            // Somebody shared to the last, or no rule asked.
            last_shared_at: row
                .quiet_since
                .or(row.started_at.map(|started_at| renewed_at.max(started_at))),
            ruled_at: row.created_at,
            warned: Vec::new(),
            last_at: row.last_at,
            next_seq: row.next_seq,
        };
        let lease = Lease {
            app: app_id,
            meeting: id,
            node: self.0.node,
            epoch,
        };
        let reason = if given_up {
            LeaveReason::ServerShutdown
        } else {
            LeaveReason::ServerCrash
        };
        let first = Input::Claimed { renewed_at, reason };
        Ok(Some(self.0.own(lease, (state, row.batch_id), Some(first))))
    }

    /// Carries commands to their owners. One that is still in its table the next time is carried again: ending a meeting
    /// twice ends it once.
    async fn carry(&self) -> sqlx::Result<()> {
        let owned = self.0.owned();
        if owned.is_empty() {
            return Ok(());
        }
        let commands = store::commands(&mut self.0.db.system().await?, &owned).await?;
        for store::Carried {
            meeting,
            id,
            command,
        } in commands
        {
            let Some(owner) = self.0.owner_of(meeting) else {
                continue;
            };
            let input = match serde_json::from_value(command) {
                Ok(Command::End { reason, at }) => Input::End { reason, at },
                Ok(Command::Act { action, request }) => {
                    let request = request.map(Arc::from);
                    let by = By::App { request };
                    Input::Moderate { by, action }
                }
                Ok(Command::Rules) => match self.room_of(&owner).await {
                    Ok(Some(room)) => Input::Rules(Box::new(room)),
                    // A room is archived, never removed, while a meeting runs in it.
                    Ok(None) => continue,
                    Err(error) => {
                        warn!(meeting.id = %meeting, %error, "a meeting's room cannot be read; trying again");
                        continue;
                    }
                },
                Err(error) => {
                    warn!(meeting.id = %meeting, command.id = id, %error, "a command cannot be read");
                    continue;
                }
            };
            // A full inbox is tried again at the next poll.
            let _ = owner.inbox.try_send(Envelope {
                input,
                from: Sender::Command(id),
            });
        }
        Ok(())
    }

    async fn room_of(&self, owner: &Handle) -> Result<Option<Room>, rooms::Error> {
        let mut tx = self.0.db.begin(owner.app).await?;
        rooms::get(&mut tx, owner.app, owner.room).await
    }
}

impl Seat {
    /// Who speaks from this place.
    pub fn speaker(&self) -> Speaker {
        Speaker {
            participant: self.participant,
            connection: self.connection,
        }
    }

    /// Tells the meeting what its participant does.
    ///
    /// # Errors
    ///
    /// [`Refusal::MeetingEnded`] once nobody owns the meeting here; [`Refusal::TryAgain`] where it is too far behind.
    pub async fn send(&self, input: Input) -> Result<(), Refusal> {
        let envelope = Envelope {
            input,
            from: Sender::Inside,
        };
        self.inbox
            .send_timeout(envelope, PATIENCE)
            .await
            .map_err(|error| match error {
                mpsc::error::SendTimeoutError::Timeout(_) => Refusal::TryAgain,
                mpsc::error::SendTimeoutError::Closed(_) => Refusal::MeetingEnded,
            })
    }
}

impl Context {
    /// Starts the owner of a meeting.
    fn own(
        self: &Arc<Self>,
        lease: Lease,
        stored: (State, Option<BatchId>),
        first: Option<Input>,
    ) -> mpsc::Sender<Envelope> {
        let (inbox, received) = mpsc::channel(INBOX);
        let fenced = CancellationToken::new();
        let handle = Handle {
            inbox: inbox.clone(),
            app: lease.app,
            room: stored.0.room.id,
            epoch: lease.epoch,
            fenced: fenced.clone(),
        };
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.rooms.insert(stored.0.room.id, lease.meeting);
        // An owner of an earlier claim is not told otherwise that it is out of date.
        if let Some(earlier) = live.owners.insert(lease.meeting, handle) {
            earlier.fenced.cancel();
        }
        drop(live);
        let owner = Owner::new(
            self.clone(),
            lease,
            stored,
            (inbox.clone(), received),
            fenced,
            first,
        );
        self.spawn(owner.run());
        inbox
    }

    /// Runs something that outlives the connection that brought it about, and that a stop waits for.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Does something that must not be left halfway, as a claim whose meeting then has no owner: also where nobody waits for
    /// it any more. `None` after a panic.
    async fn to_the_end<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.tasks.spawn_on(task, &self.runtime).await.ok()
    }

    /// Whether the machine has been suspended for longer than a lease since the leases were renewed: then nothing is ours,
    /// and not even the time is known.
    fn overslept(&self) -> bool {
        micros(self.clock.suspended()).saturating_sub(self.asleep.load(Relaxed))
            > micros(self.lease)
    }

    /// Ends the owners of meetings that another node has claimed.
    fn fence(&self, lost: impl Iterator<Item = MeetingId>) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        lost.filter_map(|meeting| live.owners.get(&meeting))
            .for_each(|owner| owner.fenced.cancel());
    }

    /// Forgets an owner that has ended, and with it the meeting's media; not where a later claim has taken its place.
    fn forget(&self, lease: &Lease, room: RoomId) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live
            .owners
            .get(&lease.meeting)
            .is_none_or(|owner| owner.epoch != lease.epoch)
        {
            return;
        }
        live.owners.remove(&lease.meeting);
        if live.rooms.get(&room) == Some(&lease.meeting) {
            live.rooms.remove(&room);
        }
        drop(live);
        let (sfu, meeting) = (self.sfu.clone(), lease.meeting);
        self.spawn(async move {
            for _ in 0..CLOSE_TRIES {
                if sfu.send(sfu::Command::Close { meeting }).is_ok() {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
            warn!(meeting.id = %meeting, "the media worker was too busy to end a meeting's media");
        });
    }

    /// Has `reply` told what an owner on this node answers to a command.
    fn wait_for(&self, command: i64, reply: oneshot::Sender<Answer>) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, reply| !reply.is_closed());
        asked.insert(command, reply);
    }

    /// Tells whoever waits for the answer to a command on this node.
    fn answered(&self, command: i64, answer: Answer) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reply) = asked.remove(&command) {
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        }
    }

    fn owned(&self) -> Vec<MeetingId> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .owners
            .keys()
            .copied()
            .collect()
    }

    fn owner_of(&self, meeting: MeetingId) -> Option<Handle> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .owners
            .get(&meeting)
            .cloned()
    }

    fn meeting_in(&self, room: RoomId) -> Option<MeetingId> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.rooms.get(&room).copied()
    }

    fn owner_in(&self, room: RoomId) -> Option<Handle> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.owners.get(live.rooms.get(&room)?).cloned()
    }
}

fn try_again(error: impl std::fmt::Display) -> Refusal {
    warn!(%error, "a join could not be looked into");
    Refusal::TryAgain
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Wrong passwords that an address may try in a room, at once and per minute.
const WRONG_PASSWORDS: NonZeroU32 = NonZeroU32::new(5).unwrap();
/// Refusals of one code that an app is told of one room, at once and per minute: a stranger can make any number of them.
const ANNOUNCED_REFUSALS: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Leases are renewed this often, and at least three times while they last: two renewals may fail.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// A command from another process is noticed after this long at most.
const POLL: Duration = Duration::from_millis(200);
/// How long somebody waits for a meeting.
const PATIENCE: Duration = Duration::from_secs(5);
/// Inputs that wait for an owner at most.
const INBOX: usize = 1024;
/// Tries to end a meeting's media.
const CLOSE_TRIES: usize = 50;
/// Meetings claimed at once at most: few enough to be read long before their leases run out.
const CLAIMS: usize = 100;
/// Of them, meetings that are read at once: joins need connections too.
const TAKE_OVERS_AT_ONCE: usize = 8;
/// Tries to read a claimed meeting; Postgres answered a moment ago.
const TAKE_OVER_TRIES: usize = 5;
/// Looks for the owner of a meeting that was claimed a moment ago.
const ARRIVAL_TRIES: usize = 50;
/// Pause between them.
const ARRIVAL_PAUSE: Duration = Duration::from_millis(10);
/// Pause between tries to read a claimed meeting.
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(200);
