//! Asking for the same thing twice, by `Idempotency-Key`, does it once.
//!
//! The key is claimed in the transaction of the effect: whoever asks again while that is under way waits for it, and a
//! request that came to nothing leaves no trace.

mod store;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::zeroize::Zeroizing;
use serde_json::{Map, Value};
use sqlx::{PgConnection, PgTransaction};

use crate::{
    id::{AppId, RoomId},
    sealed::MasterKey,
};

/// A caller's name for one request: 1 to 255 visible ASCII characters. Made by `FromStr` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

/// What a request asks for, as a keyed hash, since there may be a password in it: equal for equal bodies, however they are
/// written.
#[derive(Clone, Debug)]
pub struct Request {
    /// By the master key that seals.
    fingerprint: [u8; 32],
    /// By each that opens.
    all: Vec<[u8; 32]>,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: what is asked for is to be done, and [`done`] to be told.
    New,
    /// The same was asked for before, and this came of it.
    Done(Made),
    /// Something else was asked for under it.
    Other,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A room.
    Room(RoomId),
    /// A command to a meeting, by its row.
    Command(i64),
}

/// The text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 255 visible ASCII characters")]
pub struct MalformedKey;

/// Claims a key for a request, until the transaction ends.
pub async fn claim(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    key: &Key,
    request: &Request,
    now: DateTime<Utc>,
) -> sqlx::Result<Claim> {
    let fingerprint = &request.fingerprint;
    if store::claim(tx, app, key, fingerprint, now, now - KEPT).await? {
        return Ok(Claim::New);
    }
    // Ours is not the first: the one that was has been committed, since a claim waits.
    let (known, made) = store::find(tx, app, key).await?;
    Ok(match made {
        Some(made) if request.all.iter().any(|own| known == own) => Claim::Done(made),
        _ => Claim::Other,
    })
}

/// Notes what came of a request whose key was claimed in this transaction.
pub async fn done(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    key: &Key,
    made: Made,
) -> sqlx::Result<()> {
    store::done(tx, app, key, made).await
}

/// Removes up to `limit` of an app's keys that are too old to count; how many there were.
pub async fn forget_old(
    conn: &mut PgConnection,
    app: AppId,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    store::forget_old(conn, app, now - KEPT, limit).await
}

impl Key {
    /// The key of one of several things that one request asks for.
    ///
    /// # Errors
    ///
    /// [`MalformedKey`] where that would be too long.
    pub fn item(&self, index: usize) -> Result<Self, MalformedKey> {
        format!("{}#{index}", self.0).parse()
    }
}

impl std::str::FromStr for Key {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let fits =
            (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(MalformedKey)
        }
    }
}

impl Request {
    /// The request that calls `operation` with this body.
    pub fn new(operation: &str, body: &Map<String, Value>, master_key: &MasterKey) -> Self {
        // Names are sorted, and nothing but what was said is written.
        let text = Zeroizing::new(format!("{operation}\n{}", serde_json::json!(body)));
        let all = master_key.fingerprints(text.as_bytes());
        Self {
            fingerprint: all.first().copied().unwrap_or_default(),
            all,
        }
    }
}

/// How long a key is kept.
pub const KEPT: TimeDelta = TimeDelta::hours(24);
