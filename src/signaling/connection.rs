//! One client's socket: frames in, notices out.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Session};
use aws_lc_rs::digest;
use futures_util::StreamExt;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::protocol::{self, Audience, ClientFrame, Problem, ServerFrame};
use crate::{
    clock::Clock,
    id::{AppId, ParticipantId},
    meetings::{
        Entry, Input, MediaOffer, Meetings, Notice, Outbox, Refusal, ResumeHash, Seat, ShownChange,
    },
    rooms::RoomName,
};

/// Serves one socket until either side closes it.
///
/// `app` is whose rooms it may join. After `stopping` it takes no more joins, and closes once it is in no meeting.
pub async fn connect(
    app: AppId,
    meetings: Meetings,
    clock: Clock,
    session: Session,
    messages: AggregatedMessageStream,
    stopping: CancellationToken,
) {
    let mut connection = Connection {
        app,
        meetings,
        clock,
        session,
        place: None,
    };
    let (lost, reason) = connection.serve(messages, &stopping).await;
    if let Some(place) = connection.place.take() {
        let participant = place.seat.participant;
        let input = if lost {
            Input::Disconnected { participant }
        } else {
            Input::Leave { participant }
        };
        // A meeting that has ended knows already.
        let _ = place.seat.send(input).await;
    }
    let _ = connection.session.close(reason).await;
}

struct Connection {
    app: AppId,
    meetings: Meetings,
    clock: Clock,
    session: Session,
    /// Where the client is in, if it is.
    place: Option<Place>,
}

/// A client's place in a meeting.
struct Place {
    room: RoomName,
    seat: Seat,
    notices: mpsc::Receiver<Notice>,
    /// Given to a client that can resume.
    resume_token: Option<String>,
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

/// What happens next to a connection.
enum Next {
    Frame(Option<Result<AggregatedMessage, actix_ws::ProtocolError>>),
    Notice(Option<Notice>),
    Ping,
    Stop,
}

impl Connection {
    /// Serves the socket; returns whether it was lost (as against: closed on purpose) and how it is closed.
    async fn serve(
        &mut self,
        mut messages: AggregatedMessageStream,
        stopping: &CancellationToken,
    ) -> (bool, Option<CloseReason>) {
        let mut heard = self.clock.instant();
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.reset();
        loop {
            let outside = self.place.is_none();
            let place = &mut self.place;
            let next = tokio::select! {
                biased;
                notice = async {
                    match place {
                        Some(place) => place.notices.recv().await,
                        None => std::future::pending().await,
                    }
                } => Next::Notice(notice),
                message = messages.next() => Next::Frame(message),
                _ = ping.tick() => Next::Ping,
                () = stopping.cancelled(), if outside => Next::Stop,
            };
            match next {
                Next::Notice(notice) => {
                    if let Some(reason) = self.tell(notice).await {
                        return (true, Some(reason));
                    }
                }
                Next::Frame(message) => {
                    heard = self.clock.instant();
                    match message {
                        Some(Ok(AggregatedMessage::Text(text))) => {
                            if self.handle_text(&text).await.is_err() {
                                return (true, None);
                            }
                        }
                        Some(Ok(AggregatedMessage::Ping(payload))) => {
                            if self.session.pong(&payload).await.is_err() {
                                return (true, None);
                            }
                        }
                        Some(Ok(AggregatedMessage::Pong(_))) => {}
                        Some(Ok(AggregatedMessage::Binary(_))) => {
                            let problem = Problem::InvalidMessage("frames are text".to_owned());
                            if self
                                .send(&protocol::error(&problem, self.clock.now()))
                                .await
                                .is_err()
                            {
                                return (true, None);
                            }
                        }
                        Some(Ok(AggregatedMessage::Close(reason))) => {
                            let code = reason.as_ref().map(|reason| reason.code);
                            let on_purpose =
                                matches!(code, Some(CloseCode::Normal | CloseCode::Away));
                            return (!on_purpose, reason);
                        }
                        Some(Err(error)) => {
                            debug!(%error, "a signaling socket broke its protocol");
                            return (true, Some(CloseCode::Protocol.into()));
                        }
                        None => return (true, None),
                    }
                }
                Next::Ping => {
                    if heard.elapsed() > SILENCE || self.session.ping(b"").await.is_err() {
                        return (true, None);
                    }
                }
                Next::Stop => return (false, Some(CloseCode::Restart.into())),
            }
        }
    }

    /// Passes a notice on; returns how to close the socket if it was the last one.
    async fn tell(&mut self, notice: Option<Notice>) -> Option<CloseReason> {
        let Some(notice) = notice else {
            // The meeting dropped us: we were too slow, or somebody resumed in our place, or another node owns it now.
            self.place = None;
            return Some(CloseCode::Restart.into());
        };
        let now = self.clock.now();
        if let Some(place) = &self.place
            && let Some(frame) = protocol::frame(&notice, &place.audience(), now)
            && send(&mut self.session, &frame).await.is_err()
        {
            return Some(CloseCode::Abnormal.into());
        }
        match notice {
            Notice::Ended(_) => {
                self.place = None;
                Some(CloseCode::Normal.into())
            }
            Notice::Restarting => {
                // The stay goes on without a socket: the next owner lets it resume.
                self.place = None;
                Some(CloseCode::Restart.into())
            }
            _ => None,
        }
    }

    /// Obeys a frame; what comes to nothing is answered with an `error` frame.
    async fn handle_text(&mut self, text: &str) -> Result<(), actix_ws::Closed> {
        let outcome = match ClientFrame::parse(text) {
            Ok(frame) => self.handle(frame).await,
            Err(problem) => Err(problem),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(problem) => {
                self.send(&protocol::error(&problem, self.clock.now()))
                    .await
            }
        }
    }

    async fn handle(&mut self, frame: ClientFrame) -> Result<(), Problem> {
        match frame {
            ClientFrame::Join {
                room_id,
                name,
                resumable,
            } => {
                let name = protocol::display_name(&name)?;
                let token = resumable.then(new_resume_token);
                let resume = token.as_deref().map(resume_hash);
                self.enter(&room_id, Entry::Join { name, resume }, token)
                    .await
            }
            ClientFrame::Resume {
                room_id,
                resume_token,
            } => {
                let entry = Entry::Resume(resume_hash(&resume_token));
                self.enter(&room_id, entry, Some(resume_token)).await
            }
            // Leaving twice is leaving.
            ClientFrame::Leave => match self.place.take() {
                Some(place) => {
                    let participant = place.seat.participant;
                    Ok(place.seat.send(Input::Leave { participant }).await?)
                }
                None => Ok(()),
            },
            ClientFrame::Chat { text, reply_to } => {
                let message = protocol::chat_message(text, reply_to)?;
                self.say(|participant| Input::Chat {
                    participant,
                    message,
                })
                .await
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
                self.say(|participant| Input::Show {
                    participant,
                    change,
                })
                .await
            }
            ClientFrame::Offer {
                target_id,
                sdp,
                tracks,
            } => {
                if target_id != protocol::SFU {
                    return Err(Problem::InvalidMessage(
                        "`targetId` of an offer must be \"sfu\"".to_owned(),
                    ));
                }
                let offer = MediaOffer {
                    sdp: sdp.into(),
                    tracks: tracks.into_iter().collect(),
                };
                self.say(|participant| Input::Offer { participant, offer })
                    .await
            }
        }
    }

    async fn enter(
        &mut self,
        room: &str,
        entry: Entry,
        resume_token: Option<String>,
    ) -> Result<(), Problem> {
        if self.place.is_some() {
            return Err(Problem::AlreadyJoined);
        }
        // A text that cannot be a name is the name of no room.
        let room: RoomName = room.parse().map_err(|_| Refusal::RoomNotFound)?;
        let (sender, notices) = mpsc::channel(NOTICES);
        let outbox = Outbox {
            number: NEXT_NUMBER.fetch_add(1, Relaxed),
            notices: sender,
        };
        let seat = self.meetings.enter(self.app, &room, entry, outbox).await?;
        self.place = Some(Place {
            room,
            seat,
            notices,
            resume_token,
        });
        Ok(())
    }

    async fn say(&self, input: impl FnOnce(ParticipantId) -> Input) -> Result<(), Problem> {
        let place = self.place.as_ref().ok_or(Refusal::NotJoined)?;
        Ok(place.seat.send(input(place.seat.participant)).await?)
    }

    async fn send(&mut self, frame: &ServerFrame<'_>) -> Result<(), actix_ws::Closed> {
        send(&mut self.session, frame).await
    }
}

/// Sends a frame. A client that does not take it in time counts as lost.
async fn send(session: &mut Session, frame: &ServerFrame<'_>) -> Result<(), actix_ws::Closed> {
    let Ok(text) = serde_json::to_string(frame) else {
        return Ok(());
    };
    tokio::time::timeout(SEND_TIMEOUT, session.text(text))
        .await
        .unwrap_or(Err(actix_ws::Closed))
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

/// Notices that wait for a slow client at most; one more and it is dropped.
const NOTICES: usize = 256;
/// A client that takes nothing for this long is dropped.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pings keep the ways through proxies open and find clients that are gone.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A client that was silent for this long, pongs included, is gone.
const SILENCE: Duration = Duration::from_secs(25);
