//! Fires the deadlines of rooms. Several processes may run it: each deadline is taken by one of them.

use std::{pin::Pin, time::Duration};

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{Due, store};
use crate::{clock::Clock, db::Db};

/// What a due deadline of a room does; it [takes](super::take) the deadline in its own transaction.
pub type Effect = Box<dyn Fn(Due) -> Outcome + Send + Sync>;
/// What comes of an [`Effect`]; after an error it is tried again.
pub type Outcome = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

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
            let mut failed = false;
            for due in due {
                debug!(kind = ?due.kind, room.id = %due.room, "deadline");
                if let Err(error) = (self.effect)(due).await {
                    error!(%error, kind = ?due.kind, room.id = %due.room, "a deadline's effect failed; trying again");
                    failed = true;
                }
            }
            if failed {
                return Ok(RETRY);
            }
        }
        let next = store::next_of_rooms(&mut self.db.system().await?).await?;
        let left = next.map_or(TimeDelta::MAX, |next| next - self.clock.now());
        Ok(left.to_std().unwrap_or(Duration::ZERO).min(POLL))
    }
}

/// A deadline that another process set is noticed after this long at most.
const POLL: Duration = Duration::from_millis(200);
/// Pause after Postgres failed.
const RETRY: Duration = Duration::from_secs(1);
/// Deadlines read at once.
const BATCH: i64 = 100;
