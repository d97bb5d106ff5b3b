//! One client's socket: frames in, notices out.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_ws::{
    AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, ProtocolError, Session,
};
use aws_lc_rs::digest;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, future::LocalBoxFuture};
use rand::RngExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    meter::Meter,
    protocol::{self, Audience, ClientFrame, Problem, ServerFrame},
};
use crate::{
    clock::Clock,
    meetings::{
        self, Action, By, Caller, Device, Entry, Input, MediaOffer, Meetings, Notice, Opening,
        Outbox, Refusal, ResumeHash, Seat, ShownChange, Speaker,
    },
    rate::Toll,
    rooms::{self, Anonymous, AnonymousRoom, RoomName},
    sfu,
    tokens::TokenText,
};

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

/// Serves one socket until either side closes it.
///
/// `anonymous` makes rooms for whoever may make one. After `stopping` it takes no more joins, and closes once it is in no
/// meeting.
pub async fn connect(
    client: Client,
    meetings: Meetings,
    anonymous: Arc<Anonymous>,
    clock: Clock,
    session: Session,
    messages: AggregatedMessageStream,
    stopping: CancellationToken,
) {
    let heard = clock.now();
    let mut connection = Connection {
        client,
        meetings,
        anonymous,
        clock,
        session,
        place: None,
        entering: None,
        opening: None,
        heard,
    };
    let Err(end) = connection.serve(messages, &stopping).await;
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
    let _ = connection.session.close(end.close).await;
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
    /// When the client was last heard of.
    heard: DateTime<Utc>,
}

/// A client on its way into a meeting.
struct Entering {
    outcome: LocalBoxFuture<'static, Result<Seat, Refusal>>,
    room: RoomName,
    notices: mpsc::Receiver<Notice>,
    resume_token: Option<String>,
}

/// A client's place in a meeting.
struct Place {
    room: RoomName,
    seat: Seat,
    notices: mpsc::Receiver<Notice>,
    /// Given to a client that can resume.
    resume_token: Option<String>,
    /// Whether the client was told that it is in.
    is_welcome: bool,
    /// Whether an offer has not been answered yet.
    negotiating: bool,
    /// Whether the client waits to be let in: then it may do nothing but go.
    waits: bool,
}

impl Place {
    fn audience(&self) -> Audience<'_> {
        Audience {
            room: &self.room,
            participant: Some(self.seat.participant),
            resume_token: self.resume_token.as_deref(),
        }
    }
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
        mut messages: AggregatedMessageStream,
        stopping: &CancellationToken,
    ) -> Result<Infallible, End> {
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.reset();
        let start = self.clock.instant();
        let mut bytes = Meter::new(
            protocol::BYTES_PER_SECOND,
            protocol::BYTES_PER_SECOND,
            start,
        );
        let mut frames = Meter::new(
            protocol::FRAMES_PER_SECOND,
            2.0 * protocol::FRAMES_PER_SECOND,
            start,
        );
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
                notice = async {
                    match place {
                        Some(place) => place.notices.recv().await,
                        None => std::future::pending().await,
                    }
                } => self.tell(notice).await,
                () = async {
                    match opening {
                        Some((_, opening)) => opening.opened().await,
                        None => std::future::pending().await,
                    }
                } => self.tell_open().await,
                message = messages.next(), if held.len() < HELD => {
                    self.heard = self.clock.now();
                    let instant = self.clock.instant();
                    let length = match &message {
                        Some(Ok(AggregatedMessage::Text(text))) => text.len(),
                        _ => 0,
                    };
                    // A length is exact up to 2^53.
                    if bytes.take(length as f64, instant) && frames.take(1.0, instant) {
                        match message {
                            Some(Ok(message)) if is_entering && !is_last(&message) => {
                                held.push_back(message);
                                Ok(())
                            }
                            message => self.hear(message).await,
                        }
                    } else {
                        self.refuse(&Problem::TooFast).await.and_then(|()| Err(End::lost(CloseReason::from(CloseCode::Policy))))
                    }
                }
                _ = ping.tick() => self.ping().await,
                () = stopping.cancelled(), if outside => Err(End::lost(CloseReason::from(CloseCode::Restart))),
            };
            step?;
        }
    }

    async fn hear(
        &mut self,
        message: Option<Result<AggregatedMessage, ProtocolError>>,
    ) -> Result<(), End> {
        match message {
            Some(Ok(AggregatedMessage::Text(text))) => {
                let outcome = match ClientFrame::parse(&text) {
                    Ok(frame) => self.handle(frame).await,
                    Err(problem) => Err(problem),
                };
                // A join may have taken its time, in which nothing could be heard.
                self.heard = self.clock.now();
                match outcome {
                    Ok(()) => Ok(()),
                    Err(problem) => self.refuse(&problem).await,
                }
            }
            Some(Ok(AggregatedMessage::Ping(payload))) => Ok(self.session.pong(&payload).await?),
            Some(Ok(AggregatedMessage::Pong(_))) => Ok(()),
            Some(Ok(AggregatedMessage::Binary(_))) => {
                self.refuse(&Problem::InvalidMessage("frames are text".to_owned()))
                    .await
            }
            Some(Ok(AggregatedMessage::Close(close))) => {
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
            Some(Err(ProtocolError::Overflow)) => {
                let limit = format!("a frame has at most {} bytes", protocol::LONGEST_FRAME);
                self.refuse(&Problem::InvalidMessage(limit)).await?;
                Err(End::lost(CloseReason::from(CloseCode::Size)))
            }
            Some(Err(error)) => {
                debug!(%error, "a signaling socket broke its protocol");
                Err(End::lost(CloseReason::from(CloseCode::Protocol)))
            }
            None => Err(End::lost(None)),
        }
    }

    async fn ping(&mut self) -> Result<(), End> {
        if self.clock.now() - self.heard > SILENCE {
            return Err(End::silent());
        }
        Ok(self.session.ping(b"").await?)
    }

    /// Passes a notice on; the last one ends the socket.
    async fn tell(&mut self, notice: Option<Notice>) -> Result<(), End> {
        let restart = || End::lost(CloseReason::from(CloseCode::Restart));
        // The meeting dropped us: we were too slow, or somebody resumed in our place, or another node owns it now.
        let notice = notice.ok_or_else(restart)?;
        let now = self.clock.now();
        if let Some(place) = &mut self.place {
            if matches!(notice, Notice::Answer(_) | Notice::NotNegotiated(_)) {
                place.negotiating = false;
            }
            if matches!(notice, Notice::Welcome { .. }) {
                place.waits = false;
                // Whoever only waited until now has come in by the socket.
                if let Some(toll) = self.client.toll.take() {
                    toll.give_back();
                }
            }
            for frame in protocol::frames(&notice, &place.audience(), now) {
                send(&mut self.session, &frame).await?;
            }
            place.is_welcome = true;
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
                send(&mut self.session, &frame).await
            }
            None => Ok(()),
        }
    }

    /// Says that a frame came to nothing.
    async fn refuse(&mut self, problem: &Problem) -> Result<(), End> {
        send(
            &mut self.session,
            &protocol::error(problem, self.clock.now()),
        )
        .await
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
                let resume = resume_token.as_deref().map(resume_hash);
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
            } => {
                let entry = Entry::Resume(resume_hash(&resume_token));
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
            ClientFrame::Chat { text, reply_to } => {
                let message = protocol::chat_message(text, reply_to)?;
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
            ClientFrame::Offer {
                target_id,
                sdp,
                tracks,
            } => self.offer(&target_id, sdp, tracks).await,
        }
    }

    async fn offer(
        &mut self,
        target: &str,
        sdp: String,
        tracks: BTreeMap<String, sfu::Source>,
    ) -> Result<(), Problem> {
        if target != protocol::SFU {
            return Err(Problem::InvalidMessage(
                "`targetId` of an offer must be \"sfu\"".to_owned(),
            ));
        }
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
        resume_token: Option<String>,
        made: Option<AnonymousRoom>,
    ) -> Result<(), Problem> {
        if self.place.is_some() {
            return Err(Problem::AlreadyJoined);
        }
        // A text that cannot be a name is the name of no room.
        let room: RoomName = room.parse().map_err(|_| Refusal::RoomNotFound)?;
        self.opening = None;
        let (sender, notices) = mpsc::channel(NOTICES);
        let connection = meetings::Connection(NEXT_NUMBER.fetch_add(1, Relaxed));
        let outbox = Outbox {
            connection,
            notices: sender,
        };
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
            outcome: Box::pin(outcome),
            room,
            notices,
            resume_token,
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
                let Entering {
                    room,
                    notices,
                    resume_token,
                    ..
                } = entering;
                let waits = seat.waits;
                self.place = Some(Place {
                    room,
                    seat,
                    notices,
                    resume_token,
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
fn is_last(message: &AggregatedMessage) -> bool {
    matches!(message, AggregatedMessage::Close(_))
}

/// Sends a frame. A client that does not take it in time counts as silent.
async fn send(session: &mut Session, frame: &ServerFrame<'_>) -> Result<(), End> {
    let Ok(text) = serde_json::to_string(frame) else {
        return Ok(());
    };
    match tokio::time::timeout(SEND_TIMEOUT, session.text(text)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(End::silent()),
    }
}

/// 128 random bits in hexadecimal.
fn new_resume_token() -> String {
    hex::encode(rand::rng().random::<[u8; 16]>())
}

fn resume_hash(token: &str) -> ResumeHash {
    let mut hash = ResumeHash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

/// Numbers connections, so that what comes from a replaced one can be told apart.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// Frames that are held back at most while their client comes in; more wait in the socket.
const HELD: usize = 32;
/// Notices that wait for a slow client at most; one more and it is dropped.
const NOTICES: usize = 256;
/// A client that takes nothing for this long is dropped.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pings keep the ways through proxies open and find clients that are gone.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A client that was silent for this long, pongs included, is gone.
const SILENCE: TimeDelta = TimeDelta::seconds(25);
