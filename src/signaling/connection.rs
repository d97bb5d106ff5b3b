//! One client's socket: frames in, notices out.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_ws::{CloseCode, CloseReason, Item, Message, MessageStream, ProtocolError, Session};
use aws_lc_rs::digest;
use bytestring::ByteString;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, future::LocalBoxFuture};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    fragments::{Fragments, Wrong},
    meter::Meter,
    protocol::{self, ClientFrame, Problem, ServerFrame},
    undecoded::Undecoded,
};
use crate::{
    clock::Clock,
    id::ChatMessageId,
    meetings::{
        self, Action, By, Caller, Deliveries, Delivery, Device, Entry, Input, MediaOffer, Meetings,
        Notice, Opening, Outbox, Refusal, ResumeHash, Seat, ShownChange, Speaker,
    },
    rate::Toll,
    rooms::{self, Anonymous, AnonymousRoom, RoomName},
    sfu,
    tokens::TokenText,
};

/// Settings of signaling.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Signaling")]
#[group(skip)]
pub struct Config {
    /// How often a signaling socket is pinged, 100ms to 60s; one that answers neither of two pings is lost. Shorter than
    /// the time after which a proxy in between closes a silent connection.
    #[arg(long, env = "PLENUM_SIGNALING_PING", default_value = "10s", value_parser = ping)]
    pub signaling_ping: Duration,
}

fn ping(text: &str) -> Result<Duration, String> {
    let ping = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_mins(1)).contains(&ping) {
        Ok(ping)
    } else {
        Err("must be from 100ms to 60s".to_owned())
    }
}

/// Who opened a socket.
pub struct Client {
    /// Whose rooms they may join, and where they are.
    pub caller: Caller,
    /// What they have opened it with.
    pub device: Arc<Device>,
    /// The token that the socket was opened with, good for a `join` that brings none.
    pub token: Option<TokenText>,
    /// What the socket cost, given back once somebody comes into a room by it.
    pub toll: Option<Toll>,
}

/// A socket, as it was opened.
pub struct Socket {
    /// The way to the client.
    pub session: Session,
    /// What the client says.
    pub messages: MessageStream,
    /// What has come of that.
    pub undecoded: Undecoded,
}

/// Serves one socket until either side closes it.
///
/// `anonymous` makes rooms for whoever may make one. The client is pinged every `ping_every`. After `stopping` it takes no
/// more joins, and closes once it is in no meeting.
pub async fn connect(
    client: Client,
    socket: Socket,
    meetings: Meetings,
    anonymous: Arc<Anonymous>,
    clock: Clock,
    ping_every: Duration,
    stopping: CancellationToken,
) {
    let Socket {
        session,
        messages,
        undecoded,
    } = socket;
    let (heard, start) = (clock.now(), clock.instant());
    let mut connection = Connection {
        client,
        meetings,
        anonymous,
        clock,
        session,
        place: None,
        entering: None,
        opening: None,
        undecoded,
        fragments: Fragments::default(),
        bytes: Meter::new(
            protocol::BYTES_PER_SECOND,
            protocol::BYTES_PER_SECOND,
            start,
        ),
        frames: Meter::new(
            protocol::FRAMES_PER_SECOND,
            2.0 * protocol::FRAMES_PER_SECOND,
            start,
        ),
        heard,
        unanswered: 0,
    };
    let Err(end) = connection.serve(messages, ping_every, &stopping).await;
    // Before the place is looked at: on the way in there is none yet.
    connection.entering = None;
    if let Some(place) = connection.place.take() {
        let by = place.seat.speaker();
        let now = connection.clock.now();
        let input = match end.how {
            _ if !place.is_welcome => Input::Unheard { by },
            How::OnPurpose => Input::Leave { by, at: now },
            How::Lost => Input::Disconnected { by, since: now },
            How::Silent => Input::Disconnected {
                by,
                since: connection.heard,
            },
        };
        // A meeting that has no room for it, or is over, finds out by itself.
        let _ = place.seat.send(input).await;
    }
    // One that takes nothing any more is not told.
    let _ = tokio::time::timeout(SEND_TIMEOUT, connection.session.close(end.close)).await;
}

struct Connection {
    client: Client,
    meetings: Meetings,
    anonymous: Arc<Anonymous>,
    clock: Clock,
    session: Session,
    /// Where the client is in, if it is.
    place: Option<Place>,
    /// The way in that is under way. Dropped with the socket, it comes to nothing.
    entering: Option<Entering>,
    /// The room that it waits for, after it came too early.
    opening: Option<(RoomName, Opening)>,
    undecoded: Undecoded,
    fragments: Fragments,
    /// What the client may still send.
    bytes: Meter,
    frames: Meter,
    /// When the client was last heard of.
    heard: DateTime<Utc>,
    /// Pings since.
    unanswered: u32,
}

/// A client on its way into a meeting.
struct Entering {
    room: RoomName,
    outcome: LocalBoxFuture<'static, Result<Seat, Refusal>>,
    deliveries: Deliveries,
}

/// A client's place in a meeting.
struct Place {
    seat: Seat,
    deliveries: Deliveries,
    /// Whether the client was told that it is in.
    is_welcome: bool,
    /// Whether an offer has not been answered yet.
    negotiating: bool,
    /// Whether the client waits to be let in: then it may do nothing but go.
    waits: bool,
}

/// How a socket ends.
struct End {
    how: How,
    /// What the client is told when it is closed.
    close: Option<CloseReason>,
}

/// What the end of a socket says of its client.
enum How {
    /// It closed the socket as one who leaves.
    OnPurpose,
    /// Its connection broke.
    Lost,
    /// It was not heard of for too long.
    Silent,
}

impl End {
    fn lost(close: impl Into<Option<CloseReason>>) -> Self {
        Self {
            how: How::Lost,
            close: close.into(),
        }
    }

    fn silent() -> Self {
        Self {
            how: How::Silent,
            close: None,
        }
    }
}

impl From<actix_ws::Closed> for End {
    fn from(_: actix_ws::Closed) -> Self {
        Self::lost(None)
    }
}

impl Connection {
    /// Serves the socket until it ends.
    async fn serve(
        &mut self,
        mut messages: MessageStream,
        ping_every: Duration,
        stopping: &CancellationToken,
    ) -> Result<Infallible, End> {
        let mut ping = tokio::time::interval(ping_every);
        ping.reset();
        // What a client says while it comes in is heard once it is decided whether it does.
        let mut held = VecDeque::new();
        loop {
            let outside = self.place.is_none() && self.entering.is_none();
            let (place, entering) = (&mut self.place, &mut self.entering);
            let opening = &mut self.opening;
            let is_entering = entering.is_some();
            if !is_entering && let Some(message) = held.pop_front() {
                self.hear(Some(Ok(message))).await?;
                continue;
            }
            let step = tokio::select! {
                outcome = async {
                    match entering {
                        Some(entering) => (&mut entering.outcome).await,
                        None => std::future::pending().await,
                    }
                } => self.entered(outcome).await,
                delivery = async {
                    match place {
                        Some(place) => place.deliveries.next().await,
                        None => std::future::pending().await,
                    }
                } => self.tell(delivery).await,
                () = async {
                    match opening {
                        Some((_, opening)) => opening.opened().await,
                        None => std::future::pending().await,
                    }
                } => self.tell_open().await,
                message = messages.next(), if held.len() < HELD => {
                    (self.heard, self.unanswered) = (self.clock.now(), 0);
                    if message.as_ref().is_some_and(Result::is_ok) {
                        self.undecoded.clear();
                    }
                    match message {
                        Some(Ok(message)) if is_entering && !is_last(&message) => {
                            held.push_back(message);
                            Ok(())
                        }
                        message => self.hear(message).await,
                    }
                }
                _ = ping.tick() => self.ping().await,
                () = stopping.cancelled(), if outside => Err(End::lost(CloseReason::from(CloseCode::Restart))),
            };
            step?;
        }
    }

    async fn hear(&mut self, message: Option<Result<Message, ProtocolError>>) -> Result<(), End> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return self.give_up(&error).await,
            None => return Err(End::lost(None)),
        };
        let length = match &message {
            Message::Text(text) => text.len(),
            Message::Continuation(
                Item::FirstText(bytes)
                | Item::FirstBinary(bytes)
                | Item::Continue(bytes)
                | Item::Last(bytes),
            )
            | Message::Binary(bytes) => bytes.len(),
            _ => 0,
        };
        // A length is exact up to 2^53.
        let bytes = (length + MESSAGE_OVERHEAD) as f64;
        if !self.bytes.take(bytes, self.clock.instant()) {
            return self.too_fast().await;
        }
        match message {
            Message::Text(text) => self.hear_text(&text).await,
            Message::Continuation(item) => match self.fragments.take(item) {
                Ok(Some(text)) => self.hear_text(&text).await,
                Ok(None) => Ok(()),
                Err(Wrong::TooLong) => self.give_up(&ProtocolError::Overflow).await,
                Err(Wrong::Binary) => self.refuse_binary().await,
                Err(Wrong::NotText) => Err(End::lost(CloseReason::from(CloseCode::Invalid))),
            },
            Message::Binary(_) => self.refuse_binary().await,
            Message::Ping(payload) if self.counts() => Ok(self.session.pong(&payload).await?),
            Message::Ping(_) => self.too_fast().await,
            Message::Pong(_) | Message::Nop => Ok(()),
            Message::Close(close) => {
                let code = close.as_ref().map(|close| close.code);
                let on_purpose = matches!(code, Some(CloseCode::Normal | CloseCode::Away));
                Err(End {
                    how: if on_purpose {
                        How::OnPurpose
                    } else {
                        How::Lost
                    },
                    close,
                })
            }
        }
    }

    async fn hear_text(&mut self, text: &str) -> Result<(), End> {
        let frame = ClientFrame::parse(text);
        let is_file_chunk = frame.as_ref().is_ok_and(ClientFrame::is_file_chunk);
        if !is_file_chunk && !self.counts() {
            return self.too_fast().await;
        }
        let outcome = match frame {
            Ok(frame) => self.handle(frame).await,
            Err(problem) => Err(problem),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(problem) => self.refuse(&problem).await,
        }
    }

    /// Counts a frame; whether the client may send it.
    fn counts(&mut self) -> bool {
        self.frames.take(1.0, self.clock.instant())
    }

    async fn too_fast(&mut self) -> Result<(), End> {
        self.refuse(&Problem::TooFast).await?;
        Err(End::lost(CloseReason::from(CloseCode::Policy)))
    }

    async fn refuse_binary(&mut self) -> Result<(), End> {
        if !self.counts() {
            return self.too_fast().await;
        }
        let problem = Problem::InvalidMessage("frames are text".to_owned());
        self.refuse(&problem).await
    }

    /// Closes the socket of a client that does not speak as RFC 6455 has it, or says too much at once.
    async fn give_up(&mut self, error: &ProtocolError) -> Result<(), End> {
        let code = match error {
            _ if self.undecoded.is_full() => CloseCode::Size,
            ProtocolError::Overflow => {
                let limit = format!("a frame has at most {} bytes", protocol::LONGEST_FRAME);
                self.refuse(&Problem::InvalidMessage(limit)).await?;
                CloseCode::Size
            }
            ProtocolError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                CloseCode::Invalid
            }
            error => {
                debug!(%error, "a signaling socket broke its protocol");
                CloseCode::Protocol
            }
        };
        Err(End::lost(CloseReason::from(code)))
    }

    async fn ping(&mut self) -> Result<(), End> {
        if self.unanswered >= MOST_UNANSWERED {
            return Err(End::silent());
        }
        self.unanswered += 1;
        Ok(self.session.ping(b"").await?)
    }

    /// Passes a notice on; the last one ends the socket.
    async fn tell(&mut self, delivery: Option<Delivery>) -> Result<(), End> {
        let restart = || End::lost(CloseReason::from(CloseCode::Restart));
        // The meeting dropped us: we were too slow, or somebody resumed in our place, or another node owns it now.
        let delivery = delivery.ok_or_else(restart)?;
        for frame in delivery.frames() {
            send(&mut self.session, frame).await?;
        }
        let notice = &delivery.told.notice;
        if let Some(place) = &mut self.place {
            if matches!(notice, Notice::Welcome { .. })
                // Whoever only waited until now has come in by the socket.
                && let Some(toll) = self.client.toll.take()
            {
                toll.give_back();
            }
            place.is_welcome = true;
            place.waits &= !matches!(notice, Notice::Welcome { .. });
            place.negotiating &= !matches!(
                notice,
                Notice::Answer(_)
                    | Notice::NotNegotiated(_)
                    | Notice::Refused(Refusal::SfuNotAllowed)
            );
        }
        match notice {
            Notice::Ended(_) | Notice::TurnedAway(_) => {
                self.place = None;
                Err(End::lost(CloseReason::from(CloseCode::Normal)))
            }
            Notice::Restarting => {
                // The stay goes on without a socket: the next owner lets it resume.
                self.place = None;
                Err(restart())
            }
            _ => Ok(()),
        }
    }

    /// Says that the room that is waited for is open: now a `join` may work.
    async fn tell_open(&mut self) -> Result<(), End> {
        match self.opening.take() {
            Some((room, _)) => {
                let frame = protocol::room_open(&room, self.clock.now());
                self.send_own(&frame).await
            }
            None => Ok(()),
        }
    }

    /// Says that a frame came to nothing.
    async fn refuse(&mut self, problem: &Problem) -> Result<(), End> {
        let frame = protocol::error(problem, self.clock.now());
        self.send_own(&frame).await
    }

    /// Sends a frame that is the socket's own, and of no meeting.
    async fn send_own(&mut self, frame: &ServerFrame<'_>) -> Result<(), End> {
        match serde_json::to_string(frame) {
            Ok(text) => send(&mut self.session, text.into()).await,
            Err(_) => Ok(()),
        }
    }

    async fn handle(&mut self, frame: ClientFrame) -> Result<(), Problem> {
        match frame {
            ClientFrame::Join {
                room_id,
                name,
                token,
                password,
                creator_token,
                is_host,
                resumable,
            } => {
                let name = protocol::display_name(&name)?;
                let resume_token = resumable.then(new_resume_token);
                let resume = resume_token.as_ref().map(resume_hash);
                let made = is_host.unwrap_or_default().then(|| AnonymousRoom {
                    password: password.clone(),
                    ..AnonymousRoom::default()
                });
                let entry = Entry::Join {
                    name,
                    device: self.client.device.clone(),
                    token: token.or_else(|| self.client.token.clone()),
                    password,
                    creator_token,
                    resume,
                };
                self.enter(&room_id, entry, resume_token, made)
            }
            ClientFrame::Resume {
                room_id,
                resume_token,
                last_seq,
            } => {
                let entry = Entry::Resume {
                    hash: resume_hash(&resume_token),
                    last: last_seq,
                };
                self.enter(&room_id, entry, Some(resume_token), None)
            }
            // Leaving twice is leaving.
            ClientFrame::Leave => match self.place.take() {
                Some(place) => {
                    let (by, at) = (place.seat.speaker(), self.clock.now());
                    Ok(place.seat.send(Input::Leave { by, at }).await?)
                }
                None => Ok(()),
            },
            ClientFrame::Chat {
                text,
                reply_to,
                target_id,
            } => {
                let id = ChatMessageId::new(self.clock.now(), &mut rand::rng());
                let message = protocol::chat_message(id, text, reply_to, target_id.as_deref())?;
                self.say(|by| Input::Chat { by, message }).await
            }
            ClientFrame::ParticipantUpdated {
                is_muted,
                is_video_off,
                is_hand_raised,
            } => {
                let change = ShownChange {
                    is_muted,
                    is_video_off,
                    is_hand_raised,
                };
                self.say(|by| Input::Show { by, change }).await
            }
            ClientFrame::AdmitUser { target_id, all } => {
                self.act(Action::Admit(protocol::waiters(target_id, all)?))
                    .await
            }
            ClientFrame::RejectUser {
                target_id,
                all,
                reason,
            } => {
                let whom = protocol::waiters(target_id, all)?;
                let reason = protocol::reason(reason)?;
                self.act(Action::Reject { whom, reason }).await
            }
            ClientFrame::RoomLocked => self.act(Action::Lock(true)).await,
            ClientFrame::RoomUnlocked => self.act(Action::Lock(false)).await,
            ClientFrame::ModeratorAction {
                target_id,
                action,
                reason,
            } => {
                let action = action.on(target_id, protocol::reason(reason)?);
                self.act(action).await
            }
            ClientFrame::EndMeeting => self.act(Action::End { redirect: None }).await,
            ClientFrame::RaiseHand => self.say(|by| Input::Hand { by, raised: true }).await,
            ClientFrame::LowerHand => self.say(|by| Input::Hand { by, raised: false }).await,
            ClientFrame::Reaction { reaction } => {
                let reaction = protocol::reaction(&reaction)?;
                self.say(|by| Input::React { by, reaction }).await
            }
            ClientFrame::RecordingStarted => self.say(|by| Input::Record { by, on: true }).await,
            ClientFrame::RecordingStopped => self.say(|by| Input::Record { by, on: false }).await,
            ClientFrame::Relay(message) => self.say(|by| Input::Relay { by, message }).await,
            ClientFrame::Offer { sdp, tracks } => self.offer(sdp, tracks).await,
        }
    }

    async fn offer(
        &mut self,
        sdp: String,
        tracks: BTreeMap<String, sfu::Source>,
    ) -> Result<(), Problem> {
        if sdp.len() > sfu::OFFER_LIMIT {
            let limit = format!("it has more than {} bytes", sfu::OFFER_LIMIT);
            return Err(Problem::NotNegotiated(limit.into()));
        }
        let place = self.place.as_mut().filter(|place| !place.waits);
        let place = place.ok_or(Refusal::NotJoined)?;
        if std::mem::replace(&mut place.negotiating, true) {
            return Err(Problem::Negotiating);
        }
        let offer = MediaOffer {
            sdp: sdp.into(),
            tracks: tracks.into_iter().collect(),
        };
        self.say(|by| Input::Offer { by, offer }).await
    }

    /// Begins to come in. A room that there is not is made as `made`, where that is given.
    fn enter(
        &mut self,
        room: &str,
        entry: Entry,
        resume_token: Option<SecretString>,
        made: Option<AnonymousRoom>,
    ) -> Result<(), Problem> {
        if self.place.is_some() {
            return Err(Problem::AlreadyJoined);
        }
        // A text that cannot be a name is the name of no room.
        let room: RoomName = room.parse().map_err(|_| Refusal::RoomNotFound)?;
        self.opening = None;
        let connection = meetings::Connection(NEXT_NUMBER.fetch_add(1, Relaxed));
        let (outbox, deliveries) = Outbox::new(connection, resume_token);
        let (meetings, anonymous) = (self.meetings.clone(), self.anonymous.clone());
        let (caller, name) = (self.client.caller, room.clone());
        let outcome = async move {
            let Some(made) = made else {
                return meetings.enter(caller, &name, entry, outbox).await;
            };
            match meetings
                .enter(caller, &name, entry.clone(), outbox.clone())
                .await
            {
                Err(Refusal::RoomNotFound) => {
                    let name = Some(name.clone());
                    make(&anonymous, caller, AnonymousRoom { name, ..made }).await?;
                }
                outcome => return outcome,
            }
            meetings.enter(caller, &name, entry, outbox).await
        };
        self.entering = Some(Entering {
            room,
            outcome: Box::pin(outcome),
            deliveries,
        });
        Ok(())
    }

    /// The way in has come to an end, inside or outside.
    async fn entered(&mut self, outcome: Result<Seat, Refusal>) -> Result<(), End> {
        // It may have taken its time.
        self.heard = self.clock.now();
        let entering = self.entering.take();
        match (outcome, entering) {
            (Ok(seat), Some(entering)) => {
                if !seat.waits
                    && let Some(toll) = self.client.toll.take()
                {
                    toll.give_back();
                }
                let waits = seat.waits;
                self.place = Some(Place {
                    seat,
                    deliveries: entering.deliveries,
                    is_welcome: false,
                    negotiating: false,
                    waits,
                });
                Ok(())
            }
            (Err(refusal), entering) => {
                if let (Refusal::RoomNotOpen { .. }, Some(Entering { room, .. })) =
                    (refusal, entering)
                {
                    let opening = self
                        .meetings
                        .wait_for_opening(self.client.caller.app, room.clone());
                    self.opening = opening.map(|opening| (room, opening));
                }
                self.refuse(&refusal.into()).await
            }
            (Ok(_), None) => Ok(()),
        }
    }

    /// Does what only moderators may; whoever does not moderate is refused by the meeting.
    async fn act(&self, action: Action) -> Result<(), Problem> {
        self.say(|by| Input::Moderate {
            by: By::Moderator(by),
            action,
        })
        .await
    }

    async fn say(&self, input: impl FnOnce(Speaker) -> Input) -> Result<(), Problem> {
        let place = self.place.as_ref().filter(|place| !place.waits);
        let place = place.ok_or(Refusal::NotJoined)?;
        Ok(place.seat.send(input(place.seat.speaker())).await?)
    }
}

/// Makes a room for somebody who comes as its host. That somebody else was quicker does not matter.
async fn make(anonymous: &Anonymous, caller: Caller, room: AnonymousRoom) -> Result<(), Refusal> {
    let made = match anonymous.charge(caller.address) {
        Ok(()) => anonymous.create(caller.app, caller.address, room).await,
        Err(refused) => Err(refused),
    };
    match made {
        Ok(_) | Err(rooms::Refused::Room(rooms::Error::NameTaken)) => Ok(()),
        Err(rooms::Refused::NotAllowed) => Err(Refusal::RoomNotFound),
        Err(rooms::Refused::TooFast { retry_after_sec }) => Err(Refusal::QuotaExceeded {
            retry_after_sec: Some(retry_after_sec),
        }),
        Err(rooms::Refused::Quota) => Err(Refusal::QuotaExceeded {
            retry_after_sec: None,
        }),
        Err(error) => {
            warn!(%error, "a room could not be made for its host");
            Err(Refusal::TryAgain)
        }
    }
}

/// Whether nothing is heard after it.
fn is_last(message: &Message) -> bool {
    matches!(message, Message::Close(_))
}

/// Sends a frame. A client that does not take it in time counts as silent.
async fn send(session: &mut Session, frame: ByteString) -> Result<(), End> {
    match tokio::time::timeout(SEND_TIMEOUT, session.text(frame)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(End::silent()),
    }
}

/// 128 random bits in hexadecimal.
fn new_resume_token() -> SecretString {
    hex::encode(rand::rng().random::<[u8; 16]>()).into()
}

fn resume_hash(token: &SecretString) -> ResumeHash {
    let mut hash = ResumeHash::default();
    let token = token.expose_secret().as_bytes();
    hash.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    hash
}

/// Numbers connections, so that what comes from a replaced one can be told apart.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// Frames that are held back at most while their client comes in; more wait in the socket.
const HELD: usize = 32;
/// A client that takes nothing for this long is dropped.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has answered none of so many pings is gone.
const MOST_UNANSWERED: u32 = 2;
/// What a message costs beside its bytes.
const MESSAGE_OVERHEAD: usize = 32;
