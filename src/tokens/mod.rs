//! Tokens: signed JWTs that let their bearer join, with a role and limits.
//!
//! A token is not stored. It names the secret of its app that signed it, which is all that is looked up to check it.

mod claims;
mod secrets;
mod store;

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::CryptoRng;
use sqlx::{PgConnection, PgTransaction};

pub use self::{
    claims::{Claims, Data},
    secrets::{LONGEST, TokenSecret, TokenText},
};
use crate::{
    db::System,
    id::{AppId, TokenId, TokenSecretId},
    sealed::{MasterKey, Sealed, Unsealable},
};

/// A token that is to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// What it gives.
    pub data: Data,
    /// From when on one can join with it.
    pub not_before: Option<DateTime<Utc>>,
    /// From when on nobody can.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Why a token is not made, or opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not signed with a secret that the app uses, or does not say what a token says.
    #[error("this token is not valid")]
    Invalid,
    /// Its `exp` is over.
    #[error("this token has expired")]
    Expired,
    /// Its `nbf` is still to come.
    #[error("this token is not valid yet")]
    NotYetValid,
    /// Fields that contradict each other or the time: each one's name, and what would be right.
    #[error("fields contradict each other")]
    Contradictions(Vec<(&'static str, &'static str)>),
    /// What it says does not fit into a token.
    #[error("all fields together are too long: a token has at most {LONGEST} characters")]
    TooLong,
    /// The library could not sign.
    #[error("a token could not be signed")]
    Unsigned,
    /// A stored secret does not open.
    #[error(transparent)]
    Sealed(#[from] Unsealable),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl NewToken {
    /// What speaks against making it at `now`: each field's name, and what would be right.
    pub fn contradictions(&self, now: DateTime<Utc>) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        let is_global = self.data.global_token == Some(true);
        match (&self.data.room_name, is_global) {
            (Some(_), true) => found.push((
                "globalToken",
                "cannot be true together with roomName: send the one that you mean",
            )),
            (None, false) => found.push(("roomName", "must be given, unless globalToken is true")),
            _ => {}
        }
        if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            let right = "is in the past: nobody could join with this token";
            found.push(("expireUnixSec", right));
        }
        let window = self.not_before.zip(self.expires_at);
        if window.is_some_and(|(from, to)| from >= to) {
            found.push(("notBeforeUnixSec", "must be before expireUnixSec"));
        }
        if self.data.eject_at_token_exp == Some(true) && self.expires_at.is_none() {
            found.push(("ejectAtTokenExp", "needs expireUnixSec"));
        }
        found
    }
}

/// Makes a token of `app`, and the app's signing secret where it has none yet.
///
/// # Errors
///
/// [`Error::Contradictions`], [`Error::TooLong`].
pub async fn issue(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    new: NewToken,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<TokenText, Error> {
    let contradictions = new.contradictions(now);
    if !contradictions.is_empty() {
        return Err(Error::Contradictions(contradictions));
    }
    let signing = match store::signing(tx, app).await? {
        Some(signing) => Some(signing),
        None => {
            create_secret(tx, app, master_key, now, rng).await?;
            store::signing(tx, app).await?
        }
    };
    let (id, sealed) = signing.ok_or(sqlx::Error::RowNotFound)?;
    let secret = sealed.open(master_key, &TokenSecret::place(&id))?;
    let claims = Claims {
        data: new.data,
        iat: now.timestamp(),
        exp: new.expires_at.map(|at| at.timestamp()),
        nbf: new.not_before.map(|at| at.timestamp()),
        jti: TokenId::new(now, rng),
    };
    secret.sign(id, &claims)
}

/// What a token says, if `app` signed it and it can be used at `now`. The secret is read from Postgres each time: one that
/// was retired opens nothing from that instant on.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::Expired`], [`Error::NotYetValid`].
pub async fn verify(
    conn: &mut PgConnection,
    app: AppId,
    text: &TokenText,
    master_key: &MasterKey,
    now: DateTime<Utc>,
) -> Result<Claims, Error> {
    let id = text.secret().ok_or(Error::Invalid)?;
    let sealed = store::find(conn, app, id, now)
        .await?
        .ok_or(Error::Invalid)?;
    let secret = sealed.open(master_key, &TokenSecret::place(&id))?;
    let claims = secret.read(text).ok_or(Error::Invalid)?;
    claims.check_window(now)?;
    Ok(claims)
}

/// The app that a token says it is of, which is not checked by that: [`verify`] does.
pub async fn app_of(conn: &mut System, text: &TokenText) -> Result<Option<AppId>, Error> {
    match text.secret() {
        Some(id) => Ok(store::app_of(conn, id).await?),
        None => Ok(None),
    }
}

/// Gives an app a secret to sign with, unless it has one.
pub async fn create_secret(
    conn: &mut PgConnection,
    app: AppId,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<(), Error> {
    let id = TokenSecretId::new(now, rng);
    let sealed = Sealed::seal(
        &TokenSecret::generate(rng),
        master_key,
        &TokenSecret::place(&id),
    )?;
    Ok(store::insert(conn, id, app, &sealed, now).await?)
}

/// Signs with a new secret from now on. Tokens of the secrets before it are valid for another `overlap`, and not at all
/// after that.
pub async fn rotate(
    tx: &mut PgTransaction<'_>,
    app: AppId,
    overlap: Duration,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<(), Error> {
    store::retire(tx, app, now + overlap, now).await?;
    create_secret(tx, app, master_key, now, rng).await
}

/// Seals all secrets anew that are under another key than the one `master_key` seals with; how many there were. Broken off,
/// it goes on where it is called again.
///
/// # Errors
///
/// [`Error::Sealed`] for one that `master_key` does not open.
pub async fn rewrap(conn: &mut System, master_key: &MasterKey) -> Result<u64, Error> {
    let (mut count, mut last) = (0, None);
    loop {
        let batch = store::not_under(conn, master_key.id(), last, REWRAP_BATCH).await?;
        if batch.is_empty() {
            return Ok(count);
        }
        for (id, old) in batch {
            let new = old.reseal(master_key, &TokenSecret::place(&id))?;
            count += store::replace(conn, id, &old, &new).await?;
            last = Some(id);
        }
    }
}

/// Secrets sealed anew with one look-up.
const REWRAP_BATCH: i64 = 100;
