//! Fires the deadlines of rooms. Several processes may run it: each deadline is taken by one of them.

use std::{pin::Pin, time::Duration};

use chrono::TimeDelta;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{Due, store};
use crate::{clock::Clock, db::Db};

/// What a due deadline of a room does; it [takes](super::take) the deadline in its own transaction.
pub type Effect = Box<dyn Fn(Due) -> Outcome + Send + Sync>;
/// What comes of an [`Effect`]: whether the deadline was there to be taken. After an error it is tried again.
pub type Outcome = Pin<Box<dyn Future<Output = anyhow::Result<bool>> + Send>>;

/// The loop that fires room deadlines.
pub struct Rooms {
    db: Db,
    clock: Clock,
    effect: Effect,
}

impl Rooms {
    /// A loop over the deadlines of `db`. `effect` is given each deadline that is due.
    pub fn new(db: Db, clock: Clock, effect: Effect) -> Self {
        Self { db, clock, effect }
    }

    /// Fires until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        while let Some(()) = shutdown.run_until_cancelled(self.turn()).await {}
    }

    /// Waits for the next deadline, or for the time to look again, and fires what is due.
    async fn turn(&self) {
        let wait = match self.tick().await {
            Ok(wait) => wait,
            Err(error) => {
                warn!(%error, "room deadlines cannot be read; trying again");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }

    /// Fires what is due; returns how long nothing will be, at most [`POLL`].
    pub async fn tick(&self) -> sqlx::Result<Duration> {
        loop {
            let now = self.clock.now();
            let due = store::due_of_rooms(&mut self.db.system().await?, now, BATCH).await?;
            if due.is_empty() {
                break;
            }
            let count = due.len();
            let fired = futures_util::stream::iter(due)
                .map(|due| self.fire(due))
                .buffer_unordered(AT_ONCE);
            let taken = fired
                .filter(|taken| std::future::ready(*taken))
                .count()
                .await;
            if taken < count {
                // Somebody else holds the rest, or it failed: asked again at once, it would be no different.
                return Ok(if taken == 0 { RETRY } else { POLL });
            }
        }
        let next = store::next_of_rooms(&mut self.db.system().await?).await?;
        let left = next.map_or(TimeDelta::MAX, |next| next - self.clock.now());
        Ok(left.to_std().unwrap_or(Duration::ZERO).min(POLL))
    }

    /// Fires one deadline; whether it was there to be taken.
    async fn fire(&self, due: Due) -> bool {
        debug!(kind = ?due.kind, room.id = %due.room, "deadline");
        (self.effect)(due).await.unwrap_or_else(|error| {
            error!(%error, kind = ?due.kind, room.id = %due.room, "a deadline's effect failed; trying again");
            false
        })
    }
}

/// A deadline that another process set is noticed after this long at most.
const POLL: Duration = Duration::from_millis(200);
/// Pause after Postgres failed.
const RETRY: Duration = Duration::from_secs(1);
/// Deadlines fired at once: many rooms expire on the hour.
const AT_ONCE: usize = 8;
/// Deadlines read at once.
const BATCH: i64 = 100;
