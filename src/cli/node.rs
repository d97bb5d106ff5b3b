//! A node: all parts of the server put together, started, and stopped in order.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use actix_web::dev::ServerHandle;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::{
    apps::{App, Keyring},
    clock::Clock,
    config::Config,
    db::Db,
    deadlines::{self, Due},
    http::{self, Shared},
    id::NodeId,
    mail,
    meetings::{self, Meetings},
    privacy::Retention,
    rooms,
    sealed::MasterKey,
    sfu::{self, Sfu},
    signaling,
    webhooks::Dispatcher,
};

/// What a node works on.
pub struct Parts {
    /// The database, its schema up to date.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// Opens sealed secrets.
    pub master_key: Arc<MasterKey>,
    /// The app that answers on localhost.
    pub default_app: Option<App>,
    /// Where HTTP comes in.
    pub listener: TcpListener,
}

/// A running node.
pub struct Node {
    meetings: Meetings,
    keyring: Arc<Keyring>,
    sfu: Sfu,
    http: ServerHandle,
    /// Cancelled first: sockets take no more joins.
    stopping: CancellationToken,
    stop_jobs: CancellationToken,
    tasks: TaskTracker,
}

impl Node {
    /// Starts all parts, on the current Tokio runtime.
    ///
    /// # Errors
    ///
    /// When the media ports cannot be bound, the TLS certificate cannot be used, or HTTP cannot be served.
    pub fn start(config: &Config, parts: Parts) -> anyhow::Result<Self> {
        let Parts {
            db,
            clock,
            master_key,
            default_app,
            listener,
        } = parts;
        let roles = config.roles.roles;
        let (sfu, media_events) = if roles.meetings {
            let (sfu, events) = Sfu::start(&config.sfu)?;
            (sfu, Some(events))
        } else {
            (Sfu::none()?, None)
        };
        let wake = Arc::new(Notify::new());
        let id = NodeId::new(clock.now(), &mut rand::rng());
        let meetings = Meetings::new(
            &config.meetings,
            db.clone(),
            clock.clone(),
            master_key.clone(),
            id,
            meetings::Edges {
                sfu: sfu.clone(),
                render: signaling::render,
                webhooks: wake.clone(),
            },
        );
        let rng = SmallRng::from_rng(&mut rand::rng());
        let dispatcher = Dispatcher::new(
            db.clone(),
            clock.clone(),
            &config.webhooks,
            master_key.clone(),
            wake,
            rng,
        )?;
        let mail = mail::Sender::new(db.clone(), clock.clone(), &config.mail)?;
        let keyring = Arc::new(Keyring::new(db.clone(), clock.clone()));
        let anonymous = Arc::new(rooms::Anonymous::new(
            db.clone(),
            clock.clone(),
            master_key.clone(),
            config.http.limits.anonymous_rate_per_minute,
        ));
        let shared = Shared {
            db: db.clone(),
            clock: clock.clone(),
            keyring: keyring.clone(),
            shown_rooms: Arc::new(http::ShownRooms::new(SHOWN_ROOMS)),
            meetings: meetings.clone(),
            anonymous,
            master_key,
            reach: config.webhooks.reach(),
            base_domain: config.http.base_domain.clone(),
            public_host: config.http.public_host(),
            trusted_proxies: config.http.trusted_proxies.clone().into(),
            default_app,
            default_app_everywhere: config.apps.default_app.is_some(),
            ready: Arc::new(AtomicBool::new(false)),
            stopping: CancellationToken::new(),
            signaling_ping: config.signaling.signaling_ping,
            figures: Arc::default(),
            limits: Arc::new(http::Limits::new(&config.http.limits)),
            metrics: Arc::new(http::Metrics::new(clock.now())),
            metrics_token: config.http.metrics_token.clone(),
            started: clock.instant(),
        };
        let (ready, stopping) = (shared.ready.clone(), shared.stopping.clone());
        let certificate = config.http.tls.certificate()?;
        let tls = certificate.as_ref().map(http::Certificate::server_config);
        let routes = if roles.meetings {
            http::Routes::All
        } else {
            http::Routes::Monitoring
        };
        let server = http::serve(
            listener,
            routes,
            shared,
            &config.http.server,
            tls.transpose()?,
        )?;
        let http = server.handle();

        let (tasks, stop_jobs) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(server);
        if let Some(certificate) = certificate {
            tasks.spawn(certificate.follow(clock.clone(), stop_jobs.clone()));
        }
        if roles.jobs {
            tasks.spawn(Arc::new(dispatcher).run(stop_jobs.clone()));
            tasks.spawn(mail.run(stop_jobs.clone()));
            tasks.spawn(Retention::new(db.clone(), clock.clone()).run(stop_jobs.clone()));
            tasks.spawn(room_deadlines(db, clock, meetings.clone()).run(stop_jobs.clone()));
        }
        if let Some(events) = media_events {
            tasks.spawn(keyring.clone().run(stop_jobs.clone()));
            tasks.spawn(carry_media_events(events, meetings.clone()));
            let keeper = meetings.clone();
            tasks.spawn(async move { keeper.run().await });
        }
        ready.store(true, Relaxed);
        Ok(Self {
            meetings,
            keyring,
            sfu,
            http,
            stopping,
            stop_jobs,
            tasks,
        })
    }

    /// What the node knows of secret keys, for whoever changed some.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.keyring.clone()
    }

    /// Stops in order: no new requests, meetings told, jobs finished, connections closed, media closed.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.http.pause().await;
        self.meetings.stop().await;
        self.stop_jobs.cancel();
        self.http.stop(true).await;
        self.sfu.stop();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The loop that fires rooms' deadlines: the one `match` from a due deadline to the operation that it means.
fn room_deadlines(db: Db, clock: Clock, meetings: Meetings) -> deadlines::Rooms {
    let pool = db.clone();
    let effect = move |due: Due| {
        let (db, meetings) = (pool.clone(), meetings.clone());
        let effect = async move {
            let mut rng = SmallRng::from_rng(&mut rand::rng());
            let mut tx = db.begin(due.app).await?;
            let taken = match due.kind {
                deadlines::Kind::RoomExpires => rooms::expire(&mut tx, &due, &mut rng).await?,
                deadlines::Kind::RoomUnused => rooms::remove_unused(&mut tx, &due).await?,
                kind => anyhow::bail!("{kind:?} is no deadline of a room"),
            };
            tx.commit().await?;
            meetings.wake();
            Ok(taken)
        };
        Box::pin(effect) as deadlines::Outcome
    };
    deadlines::Rooms::new(db, clock, Box::new(effect))
}

/// The one `match` from a media event to the operation that it means.
async fn carry_media_events(mut events: mpsc::Receiver<sfu::Event>, meetings: Meetings) {
    while let Some(event) = events.recv().await {
        match event {
            sfu::Event::Slots {
                meeting,
                peer,
                slots,
            } => {
                meetings.tell_slots(meeting, peer, slots.into()).await;
            }
            sfu::Event::Published {
                meeting,
                peer,
                source,
            } => {
                meetings.tell_published(meeting, peer, source, true).await;
            }
            sfu::Event::Unpublished {
                meeting,
                peer,
                source,
            } => {
                meetings.tell_published(meeting, peer, source, false).await;
            }
            // The socket decides who is in a meeting.
            sfu::Event::Connected { .. } | sfu::Event::Lost { .. } => debug!(?event, "media"),
        }
    }
}

/// Rooms that are answered from memory at most, for less than a second each: of 2 KiB, a few MiB.
const SHOWN_ROOMS: usize = 4096;
