//! The media plane: forwards what participants send to those who see them, and knows nothing of rooms or tenants.
//!
//! A **worker** is one OS thread that owns a UDP socket, its peers and its clock. Everything but its loop is pure: [`router`]
//! takes datagrams, commands and the time, and says what to send, what happened and when to come back. The outside talks to
//! it by two bounded queues, [`Command`]s in and [`Event`]s out.

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // packets come from strangers
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "a test may panic"
    ),
    allow(
        clippy::disallowed_methods,
        reason = "an instant to start from, as there is no other way to make one"
    )
)]

pub mod client;
mod dtls;
mod ice;
mod peer;
mod router;
mod rtcp;
mod rtp;
mod sdp;
pub mod slab;
mod slot;
mod slots;
pub mod socket;
mod srtp;
mod stun;
mod track;
mod vp8;
mod worker;

use std::{
    collections::HashSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tokio::sync::{mpsc, oneshot};

pub use sdp::{NegotiationError, OFFER_LIMIT, SECTIONS};

use self::{
    dtls::{Identity, IdentityError},
    router::Negotiation,
    sdp::{Kind, Offer},
    socket::{Bell, Socket},
    worker::Order,
};
use crate::id::{MeetingId, ParticipantId};

/// Settings of the media plane.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Media")]
#[group(skip)]
pub struct Config {
    /// UDP port of the first media worker; 0 lets the system choose.
    #[arg(long, env = "PLENUM_MEDIA_PORT_BASE", default_value_t = 40_000)]
    pub media_port_base: u16,
    /// Addresses at which browsers reach the media port, comma separated.
    #[arg(
        long,
        env = "PLENUM_MEDIA_ADDRESSES",
        value_delimiter = ',',
        default_value = "127.0.0.1"
    )]
    pub media_addresses: Vec<IpAddr>,
    /// Address that the media port is bound to; without it all interfaces, or loopback where that alone is announced.
    #[arg(long, env = "PLENUM_MEDIA_BIND")]
    pub media_bind: Option<IpAddr>,
}

impl Config {
    /// The address to bind: what is announced on loopback alone stays on this machine.
    fn bind(&self) -> SocketAddr {
        let ip = match (self.media_bind, &self.media_addresses[..]) {
            (Some(given), _) => given,
            (None, [only]) if only.is_loopback() => *only,
            (None, all) if all.iter().any(IpAddr::is_ipv6) => Ipv6Addr::UNSPECIFIED.into(),
            (None, _) => Ipv4Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, self.media_port_base)
    }
}

/// What a participant sends.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A person's voice.
    Microphone,
    /// A person's picture.
    Camera,
    /// A shared screen.
    Screen,
    /// The sound of what is shared.
    ScreenAudio,
}

impl Source {
    const fn kind(self) -> Kind {
        match self {
            Self::Microphone | Self::ScreenAudio => Kind::Audio,
            Self::Camera | Self::Screen => Kind::Video,
        }
    }
}

/// What the media plane is told to do.
#[derive(Debug)]
pub enum Command {
    /// Answers a participant's offer.
    ///
    /// An offer with the certificate of the one before is about the same connection: more slots, a source more or less, an
    /// ICE restart. One with another certificate begins a new connection and ends the old one, as after a page reload.
    Negotiate {
        /// The meeting; it exists from its first participant's offer on.
        meeting: MeetingId,
        /// The participant.
        peer: ParticipantId,
        /// The offer SDP, at most [`OFFER_LIMIT`] bytes with at most [`SECTIONS`] m-lines.
        offer: String,
        /// What the client sends, by the mid of its m-line. An m-line that sends and is not named stays inactive; each one
        /// that only receives is a slot.
        tracks: Vec<(String, Source)>,
        /// What this participant may send; the rest stays inactive, whatever the client names.
        allowed: HashSet<Source>,
        /// Gets the answer SDP.
        reply: oneshot::Sender<Result<String, NegotiationError>>,
    },
    /// Ends a participant's connection. No event follows about it; the others' slots change.
    Remove {
        /// The meeting.
        meeting: MeetingId,
        /// The participant.
        peer: ParticipantId,
    },
    /// Ends all connections of a meeting.
    Close {
        /// The meeting.
        meeting: MeetingId,
    },
}

/// What happened in the media plane.
///
/// Events say how things are when they are read: while the reader is slow, one that is no longer true is not told at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What a participant's slots show now; follows every negotiation and every change.
    Slots {
        /// The meeting.
        meeting: MeetingId,
        /// Whose slots.
        peer: ParticipantId,
        /// All of its slots, in the order of their m-lines.
        slots: Vec<SlotView>,
    },
    /// Media of a source has begun to arrive.
    Published {
        /// The meeting.
        meeting: MeetingId,
        /// The participant who sends it.
        peer: ParticipantId,
        /// What it is.
        source: Source,
    },
    /// Media of a source has ended: the client said so, withdrew it in an offer, lost its connection, or sent nothing of it
    /// for 5 s.
    Unpublished {
        /// The meeting.
        meeting: MeetingId,
        /// The participant who sent it.
        peer: ParticipantId,
        /// What it was.
        source: Source,
    },
    /// A participant's connection is up; also when a lost one came back.
    Connected {
        /// The meeting.
        meeting: MeetingId,
        /// The participant.
        peer: ParticipantId,
    },
    /// A participant's connection is down. It stays in the meeting until it is removed.
    Lost {
        /// The meeting.
        meeting: MeetingId,
        /// The participant.
        peer: ParticipantId,
        /// Why.
        reason: LostReason,
    },
}

/// A slot as its subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// The m-line.
    pub mid: String,
    /// Whose track it shows, and which; `None` while it is free.
    pub shows: Option<(ParticipantId, Source)>,
}

/// Why a connection is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// The client has not been heard of for 15 s (or never, for 30 s). It may come back, also by an ICE restart.
    Consent,
    /// The client closed it.
    Closed,
    /// The client's certificate is not the one its offer named.
    Fingerprint,
    /// The DTLS handshake failed.
    Handshake,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Consent => "the client is no longer heard of",
            Self::Closed => "the client closed it",
            Self::Fingerprint => "the client's certificate is not the one its offer named",
            Self::Handshake => "the DTLS handshake failed",
        })
    }
}

/// The media plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No address at which clients reach it.
    #[error("PLENUM_MEDIA_ADDRESSES names no address")]
    NoAddress,
    /// The port is taken, or the address is not of this machine.
    #[error("cannot use UDP address {address} for media: {cause}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// The system refused something else.
    #[error("cannot start the media worker: {0}")]
    System(#[from] io::Error),
    /// No certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The media plane has more to do than it can note, or has stopped. What was asked for has not happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the media worker is busy or has stopped")]
pub struct Busy;

/// The media plane.
#[derive(Clone)]
pub struct Sfu {
    shared: Arc<Shared>,
}

struct Shared {
    orders: mpsc::Sender<Order>,
    bell: Bell,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sfu {
    /// Starts the worker. Its events must be read, though it goes on without; the channel closes when the worker has ended.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(config: &Config) -> Result<(Self, mpsc::Receiver<Event>), StartError> {
        if config.media_addresses.is_empty() {
            return Err(StartError::NoAddress);
        }
        let identity = Identity::generate()?;
        let address = config.bind();
        let socket = Socket::bind(address).map_err(|cause| StartError::Bind { address, cause })?;
        let port = socket.local_port()?;
        let announced = config
            .media_addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, port))
            .collect();
        let bell = Bell::new()?;
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (outbox, events) = mpsc::channel(EVENTS);
        let thread = worker::spawn(0, identity, announced, socket, bell.clone(), inbox, outbox)?;
        let shared = Shared {
            orders,
            bell,
            thread: Mutex::new(Some(thread)),
        };
        Ok((
            Self {
                shared: Arc::new(shared),
            },
            events,
        ))
    }

    /// A media plane that takes nothing: for a process that carries no media.
    ///
    /// # Errors
    ///
    /// When the system gives no file descriptor.
    pub fn none() -> io::Result<Self> {
        let (orders, _) = mpsc::channel(1);
        let shared = Shared {
            orders,
            bell: Bell::new()?,
            thread: Mutex::new(None),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Tells the media plane to do something. Returns at once; an offer is checked here, so that a bad one costs the
    /// worker nothing.
    ///
    /// # Errors
    ///
    /// [`Busy`], and then nothing happens and no reply is sent.
    pub fn send(&self, command: Command) -> Result<(), Busy> {
        let order = match command {
            Command::Negotiate {
                meeting,
                peer,
                offer,
                tracks,
                allowed,
                reply,
            } => match Offer::parse(&offer) {
                Ok(offer) => Order::Negotiate(
                    Box::new(Negotiation {
                        meeting,
                        peer,
                        offer,
                        tracks,
                        allowed,
                    }),
                    reply,
                ),
                Err(error) => {
                    // Nobody waits for it: then nobody is to be told.
                    let _unread = reply.send(Err(error));
                    return Ok(());
                }
            },
            Command::Remove { meeting, peer } => Order::Remove(meeting, peer),
            Command::Close { meeting } => Order::Close(meeting),
        };
        self.shared.orders.try_send(order).map_err(|_| Busy)?;
        self.shared.bell.ring();
        Ok(())
    }

    /// Says goodbye to all clients and ends the worker; returns when its thread has ended, which takes milliseconds.
    pub fn stop(&self) {
        self.shared.bell.stop();
        let thread = self
            .shared
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the media worker had panicked");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.bell.stop();
    }
}

/// Commands that wait: a second's worth of everybody in a large meeting joining anew.
const ORDERS: usize = 1_024;
/// Events that wait; beyond, the worker keeps what is new by itself.
const EVENTS: usize = 1_024;
