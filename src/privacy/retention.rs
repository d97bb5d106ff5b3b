//! Removes, once a day for each app, what is older than the app wants it to be kept.
//!
//! An app is taken by one process, for an hour; whoever died is followed then. The work is small transactions, and what is
//! done is done: broken off at any place, it goes on from there.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{BATCH, Error, forget_stays};
use crate::{
    apps::{self, settings},
    clock::Clock,
    db::Db,
    id::AppId,
    idempotency,
    meetings::history,
    webhooks,
};

/// The loop that removes what is old.
pub struct Retention {
    db: Db,
    clock: Clock,
}

/// What was removed, in rows.
#[derive(Debug, Default)]
struct Removed {
    events: u64,
    stays: usize,
    keys: u64,
}

impl Retention {
    /// A loop over the apps of `db`.
    pub fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock }
    }

    /// Removes until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        while let Some(()) = shutdown.run_until_cancelled(self.turn()).await {}
    }

    /// Looks through the apps that are due, one after the other, and waits for the next.
    async fn turn(&self) {
        match Box::pin(self.tick()).await {
            Ok(next) => self.clock.sleep_until(next).await,
            Err(error) => {
                warn!(%error, "old data cannot be removed; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Looks through the apps that are due; returns when to do that again.
    ///
    /// # Errors
    ///
    /// When Postgres refuses or is away. The app at which that happened is due again after an hour.
    pub async fn tick(&self) -> Result<DateTime<Utc>, Error> {
        loop {
            let now = self.clock.now();
            let mut conn = self.db.system().await?;
            let Some((app, keep)) =
                apps::take_for_retention(&mut conn, now, now + TAKEN_FOR).await?
            else {
                let next = apps::next_retention(&mut conn).await?;
                // A new app has nothing that is old, and may wait to be noticed.
                let latest = now + TAKEN_FOR;
                return Ok(next.map_or(latest, |next| next.clamp(now, latest)));
            };
            drop(conn);
            let removed = self.look_through(app, &keep, now).await?;
            if removed.events + removed.keys > 0 || removed.stays > 0 {
                let Removed {
                    events,
                    stays,
                    keys,
                } = removed;
                info!(app.id = %app, events, stays, keys, "removed old data");
            }
            apps::retention_done(&mut self.db.system().await?, app, now + EVERY).await?;
        }
    }

    async fn look_through(
        &self,
        app: AppId,
        keep: &settings::Retention,
        now: DateTime<Utc>,
    ) -> sqlx::Result<Removed> {
        let mut removed = Removed::default();
        // First, so that there are fewer of which the persons have to be removed.
        loop {
            let mut tx = self.db.begin(app).await?;
            let before = now - keep.events.span();
            let events = webhooks::forget_old(&mut tx, app, before, BATCH).await?;
            tx.commit().await?;
            removed.events += events;
            if events == 0 {
                break;
            }
        }
        loop {
            let mut tx = self.db.begin(app).await?;
            let before = now - keep.personal_data.span();
            let stays = history::forget_old(&mut tx, app, before, BATCH).await?;
            forget_stays(&mut tx, app, &stays).await?;
            tx.commit().await?;
            removed.stays += stays.len();
            if stays.is_empty() {
                break;
            }
        }
        loop {
            let mut tx = self.db.begin(app).await?;
            let keys = idempotency::forget_old(&mut tx, app, now, BATCH).await?;
            tx.commit().await?;
            removed.keys += keys;
            if keys == 0 {
                return Ok(removed);
            }
        }
    }
}

/// From one look through an app to the next.
const EVERY: TimeDelta = TimeDelta::days(1);
/// How long nobody else takes an app that somebody has taken, and how long a new app may go unnoticed.
const TAKEN_FOR: TimeDelta = TimeDelta::hours(1);
/// Pause after Postgres failed.
const RETRY: Duration = Duration::from_secs(10);
