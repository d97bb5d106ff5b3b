//! Sockets that wait for their rooms to open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::warn;

use crate::{
    clock::Clock,
    db::Db,
    id::AppId,
    rooms::{self, RoomName},
};

/// Those who wait on this node. One loop looks for all of them when their rooms open.
pub struct Openings {
    waiting: Mutex<HashMap<(AppId, RoomName), Sockets>>,
    places: Arc<Semaphore>,
    /// Wakes the loop: somebody waits, or a room was changed.
    changed: Notify,
}

/// Those who wait for one room.
type Sockets = Vec<oneshot::Sender<()>>;

/// A place among those who wait; dropping it gives it up.
#[derive(Debug)]
pub struct Opening {
    opened: oneshot::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

impl Opening {
    /// Returns once the room is open. May be called again when it was broken off.
    pub async fn opened(&mut self) {
        // Only a stopping node forgets who waits.
        if (&mut self.opened).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Openings {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            places: Arc::new(Semaphore::new(MOST_WAITING)),
            changed: Notify::new(),
        }
    }

    /// Waits for a room of `app`; `None` while [`MOST_WAITING`] wait already.
    pub fn wait(&self, app: AppId, room: RoomName) -> Option<Opening> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (sender, opened) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry((app, room)).or_default().push(sender);
        drop(waiting);
        self.changed.notify_one();
        Some(Opening {
            opened,
            _place: place,
        })
    }

    /// Has the rooms looked at now rather than in a moment: one of them may have been changed.
    pub fn look(&self) {
        self.changed.notify_one();
    }

    /// Tells those who wait when their rooms open, for ever.
    pub async fn run(&self, db: &Db, clock: &Clock) {
        loop {
            let rooms = self.rooms();
            if rooms.is_empty() {
                self.changed.notified().await;
                continue;
            }
            let next = self.tell(&rooms, db, clock).await.unwrap_or_else(|error| {
                warn!(%error, "rooms that are waited for cannot be read; trying again");
                None
            });
            tokio::select! {
                () = async {
                    match next {
                        Some(next) => clock.sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                } => {}
                // By another process.
                () = tokio::time::sleep(POLL) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// The rooms that are waited for.
    fn rooms(&self) -> Vec<(AppId, RoomName)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, sockets| {
            sockets.retain(|socket| !socket.is_closed());
            !sockets.is_empty()
        });
        waiting.keys().cloned().collect()
    }

    /// Tells of the rooms that are open, as they are read now: one that was moved is not announced. Returns when the next one
    /// opens.
    async fn tell(
        &self,
        rooms: &[(AppId, RoomName)],
        db: &Db,
        clock: &Clock,
    ) -> sqlx::Result<Option<DateTime<Utc>>> {
        let times = rooms::opening_times(&mut db.system().await?, rooms).await?;
        let now = clock.now();
        let (open, closed): (Vec<_>, Vec<_>) = times
            .into_iter()
            .partition(|(_, opens_at)| opens_at.is_none_or(|opens_at| opens_at <= now));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (room, _) in open {
            for socket in waiting.remove(&room).into_iter().flatten() {
                // Whoever is gone is not told.
                let _ = socket.send(());
            }
        }
        Ok(closed
            .into_iter()
            .filter_map(|(_, opens_at)| opens_at)
            .min())
    }
}

/// Sockets of a node that wait for rooms at most: a waiting one costs some hundred bytes here.
const MOST_WAITING: usize = 20_000;
/// A room that another process changed is noticed after this long at most.
const POLL: Duration = Duration::from_secs(1);
