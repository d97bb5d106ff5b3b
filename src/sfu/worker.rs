//! A worker: the loop that does all input and output of its peers, and alone reads the clock.

use std::{
    io,
    net::SocketAddr,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::{mpsc, oneshot};

use super::{
    Event, NegotiationError,
    dtls::Identity,
    router::{Negotiation, Router},
    socket::{Bell, Inbox, Outbox, Poller, Socket},
};
use crate::id::{MeetingId, ParticipantId};

/// A command, read and checked as far as that needs no worker.
pub enum Order {
    /// See [`Command::Negotiate`](super::Command::Negotiate).
    Negotiate(
        Box<Negotiation>,
        oneshot::Sender<Result<String, NegotiationError>>,
    ),
    /// See [`Command::Remove`](super::Command::Remove).
    Remove(MeetingId, ParticipantId),
    /// See [`Command::Close`](super::Command::Close).
    Close(MeetingId),
}

/// Starts worker `number` on a thread of its own. It ends when the bell says so.
///
/// # Errors
///
/// When the system gives no thread or no poller.
pub fn spawn(
    number: u8,
    identity: Identity,
    addresses: Vec<SocketAddr>,
    socket: Socket,
    bell: Bell,
    orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<Event>,
) -> io::Result<JoinHandle<()>> {
    let poller = Poller::new(&socket, &bell)?;
    let rng = StdRng::from_rng(&mut rand::rng());
    let router = Router::new(number, identity, addresses, rng);
    let worker = Worker {
        router,
        socket,
        bell,
        poller,
        orders,
        events,
    };
    std::thread::Builder::new()
        .name(format!("sfu-{number}"))
        .spawn(move || {
            if let Err(error) = worker.run() {
                tracing::error!(worker = number, %error, "media worker stopped");
            }
        })
}

struct Worker {
    router: Router,
    socket: Socket,
    bell: Bell,
    poller: Poller,
    orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<Event>,
}

impl Worker {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place of the media plane that reads a clock"
    )]
    fn run(mut self) -> io::Result<()> {
        let mut inbox = Inbox::default();
        let mut outbox = Outbox::default();
        let mut now = Instant::now();
        while !self.bell.is_stopped() {
            let due = self
                .router
                .poll_timeout(now)
                .map(|due| due.saturating_duration_since(now));
            self.poller.wait(due.unwrap_or(IDLE).min(IDLE))?;
            now = Instant::now();
            self.bell.silence();
            for _ in 0..BATCHES_PER_TURN {
                self.socket.receive(&mut inbox)?;
                for (buffer, length, from) in inbox.datagrams() {
                    self.router.handle_datagram(buffer, length, from, now);
                }
                self.transmit(&mut outbox);
                if !inbox.is_full() {
                    break;
                }
            }
            self.router.handle_timeout(now);
            for _ in 0..ORDERS_PER_TURN {
                let Ok(order) = self.orders.try_recv() else {
                    break;
                };
                self.handle_order(order, now);
            }
            if !self.orders.is_empty() {
                self.bell.ring(); // the rest in the next turn
            }
            self.transmit(&mut outbox);
            let events = &self.events;
            self.router
                .poll_events(|event| events.try_send(event).is_ok());
        }
        self.router.close_all(now);
        self.transmit(&mut outbox);
        Ok(())
    }

    fn handle_order(&mut self, order: Order, now: Instant) {
        match order {
            Order::Negotiate(negotiation, reply) => {
                // Nobody waits for it: the participant has gone, and will be removed.
                let _unread = reply.send(self.router.negotiate(*negotiation, now));
            }
            Order::Remove(meeting, participant) => self.router.remove(meeting, participant, now),
            Order::Close(meeting) => self.router.close(meeting, now),
        }
    }

    /// Sends all that waits, in full batches. A full socket buffer is loss, which RTP repairs.
    fn transmit(&mut self, outbox: &mut Outbox) {
        loop {
            while let Some(buffer) = outbox.room() {
                let Some((to, length)) = self.router.poll_transmit(buffer) else {
                    break;
                };
                outbox.push(to, length);
            }
            if outbox.is_empty() {
                return;
            }
            self.socket.send(outbox);
        }
    }
}

/// Longest wait; nothing depends on it, it bounds how long a missed wake-up could matter.
const IDLE: Duration = Duration::from_millis(500);
/// Full batches received before timers and commands get their turn.
const BATCHES_PER_TURN: usize = 8;
/// Commands handled per turn: an answer costs some 50 µs, in which packets wait.
const ORDERS_PER_TURN: usize = 16;
