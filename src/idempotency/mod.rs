//! Asking for the same thing twice, by `Idempotency-Key`, does it once.
//!
//! The key is claimed in the transaction of the effect: whoever asks again while that is under way waits for it, and a
//! request that came to nothing leaves no trace.

mod store;

use aws_lc_rs::digest;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use sqlx::PgTransaction;

use crate::id::{AppId, RoomId};

/// A caller's name for one request: 1 to 255 visible ASCII characters. Made by `FromStr` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

/// What a request asks for, as a hash: equal for equal bodies, however they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request([u8; 32]);

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: what is asked for is to be done, and [`done`] to be told.
    New,
    /// The same was asked for before, and this room came of it.
    Done(RoomId),
    /// Something else was asked for under it.
    Other,
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
    request: Request,
    now: DateTime<Utc>,
) -> sqlx::Result<Claim> {
    if store::claim(tx, app, key, request, now, now - KEPT).await? {
        return Ok(Claim::New);
    }
    // Ours is not the first: the one that was has been committed, since a claim waits.
    let (known, room) = store::find(tx, app, key).await?;
    Ok(match room {
        Some(room) if known == request => Claim::Done(room),
        _ => Claim::Other,
    })
}

/// Notes what came of a request whose key was claimed in this transaction.
pub async fn done(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    key: &Key,
    room: RoomId,
) -> sqlx::Result<()> {
    store::done(tx, app, key, room).await
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
    pub fn new(operation: &str, body: &Map<String, Value>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(operation.as_bytes());
        context.update(b"\n");
        // Names are sorted, and nothing but what was said is written.
        context.update(serde_json::json!(body).to_string().as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

/// How long a key is kept.
const KEPT: TimeDelta = TimeDelta::hours(24);
