//! The secret keys as a running server knows them: whose each one is, and that it was used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Credential, Error, SecretKey, store};
use crate::{cache::Cache, clock::Clock, db::Db, id::SecretKeyId};

/// Tells whose a secret key is, from a [`Cache`], and has uses of keys written in the background.
#[derive(Debug)]
pub struct Keyring {
    db: Db,
    clock: Clock,
    /// By the key's hash.
    credentials: Cache<[u8; 32], Arc<Credential>>,
    /// Uses that are to be written.
    used: Mutex<HashMap<SecretKeyId, DateTime<Utc>>>,
    /// Rung for each of them.
    bell: Notify,
}

impl Keyring {
    /// Knows no key yet.
    pub fn new(db: Db, clock: Clock) -> Self {
        Self {
            db,
            clock,
            credentials: Cache::new(MOST),
            used: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// What this key opens; `None` for one that is unknown, revoked or expired. It counts as a use of the key.
    ///
    /// A key that another process revokes opens nothing within a second, and at once where that process says so
    /// ([`Keyring::forget_all`]).
    ///
    /// # Errors
    ///
    /// [`Error::Database`]: whether it opens anything is not known.
    pub async fn authenticate(&self, key: &SecretKey) -> Result<Option<Arc<Credential>>, Error> {
        let read = async {
            let found = store::by_key(&mut self.db.system().await?, key).await?;
            Ok::<_, Error>(found.map(Arc::new))
        };
        let found = self.credentials.get(key.hash(), &self.clock, read).await?;
        let now = self.clock.now();
        let opens = found.filter(|credential| credential.opens(now));
        if let Some(credential) = &opens {
            self.note_use(credential, now);
        }
        Ok(opens)
    }

    /// Forgets all keys: some were changed in the database, and the changes count from now on.
    pub fn forget_all(&self) {
        self.credentials.clear();
    }

    /// Writes when keys were used, until `stop`; each key's at most once a minute. A write that fails is not repeated: the
    /// next use of the key leads to the next one.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(self.bell.notified())
            .await
            .is_some()
        {
            self.write_uses().await;
        }
        self.write_uses().await;
    }

    fn note_use(&self, credential: &Credential, now: DateTime<Utc>) {
        if credential.last_used_at.is_some_and(|at| now < at + EVERY) {
            return;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < MOST {
            used.entry(credential.key).or_insert(now);
            self.bell.notify_one();
        }
    }

    async fn write_uses(&self) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let write = async { store::write_uses(&mut self.db.system().await?, &used, EVERY).await };
        match timeout(PATIENCE, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "uses of {} keys were not written", used.len()),
            Err(_) => warn!(
                "uses of {} keys were not written: Postgres takes too long",
                used.len()
            ),
        }
    }
}

/// Keys that are known at once, and uses that wait to be written.
const MOST: usize = 10_000;
/// A key's use is written this often at most.
const EVERY: TimeDelta = TimeDelta::minutes(1);
/// A stop waits for the last uses no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);
