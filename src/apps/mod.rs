//! Apps: the tenants, and the secret keys with which their servers call us.

mod keyring;
mod keys;
pub mod settings;
mod store;

use chrono::{DateTime, TimeDelta, Utc};
use rand::{CryptoRng, Rng};
use secrecy::SecretString;
use serde_json::{Map, Value};
use sqlx::{Connection, PgConnection, PgTransaction};

pub use self::{
    keyring::Keyring,
    keys::{Credential, Environment, KeySummary, MalformedKey, SecretKey},
    settings::{AppSettings, Retention},
};
use crate::{
    db,
    id::{AppId, SecretKeyId},
    rooms::Rules,
    sealed::{MasterKey, Sealed, Unsealable},
    tokens,
    webhooks::{
        self, SigningSecret,
        endpoints::{self, RotatedSecret},
        signing,
    },
};

/// Settings of the apps that exist from the start.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Apps")]
#[group(skip)]
pub struct Config {
    /// App that answers on every host that names no app, localhost included; without it, an unknown host is 404 and on
    /// localhost the app answers that the first start or the bootstrap made.
    #[arg(long, env = "PLENUM_DEFAULT_APP")]
    pub default_app: Option<AppName>,
    /// App that the start creates if it is absent; it then answers on localhost.
    #[arg(long, env = "PLENUM_BOOTSTRAP_APP", requires = "bootstrap_secret_key")]
    pub bootstrap_app: Option<AppName>,
    /// Secret key of that app: any text of 24 characters or more.
    #[arg(
        long,
        env = "PLENUM_BOOTSTRAP_SECRET_KEY",
        hide_env_values = true,
        requires = "bootstrap_app"
    )]
    pub bootstrap_secret_key: Option<SecretKey>,
    /// Secret that signs the webhooks of that app's rooms, as `whsec_` and base64; made at random if not given.
    #[arg(
        long,
        env = "PLENUM_BOOTSTRAP_WEBHOOK_SECRET",
        hide_env_values = true,
        requires = "bootstrap_app"
    )]
    pub bootstrap_webhook_secret: Option<SecretString>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its id.
    pub id: AppId,
    /// Its name and sub-domain.
    pub name: AppName,
    /// Whether it answers on localhost.
    pub is_default: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An app with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// The app.
    pub app: App,
    /// What it has set.
    pub settings: AppSettings,
    /// How often that was changed.
    pub version: i32,
}

/// A sub-domain label: 1 to 63 of `a-z 0-9 -`, with no hyphen at either end. Made by `FromStr` alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct AppName(String);

/// An app that is to be made.
pub struct NewApp {
    /// Its name.
    pub name: AppName,
    /// Its first secret key.
    pub key: SecretKey,
    /// Signs the webhooks of its rooms.
    pub webhook_secret: SigningSecret,
    /// Whether it answers on localhost, in the place of whichever app did.
    pub is_default: bool,
    /// What it has set.
    pub settings: AppSettings,
}

/// What came of a key's rotation.
#[derive(Debug)]
pub struct RotatedKey {
    /// The new key's id.
    pub id: SecretKeyId,
    /// The new key.
    pub key: SecretKey,
    /// From when the old one opens nothing.
    pub expires_at: DateTime<Utc>,
}

/// Why an operation on apps was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name belongs to another app.
    #[error("an app with this name already exists")]
    NameTaken,
    /// The same key was given to another app.
    #[error("this secret key is already in use")]
    KeyTaken,
    /// Settings that cannot be, all of them.
    #[error("some settings cannot be as given")]
    Settings(Vec<settings::Wrong>),
    /// The settings are not as the caller knows them: they were changed meanwhile.
    #[error("the app was changed meanwhile: get it again")]
    Changed,
    /// A stored secret does not open.
    #[error(transparent)]
    Sealed(#[from] Unsealable),
    /// The secret of its rooms' webhooks could not be replaced.
    #[error(transparent)]
    Webhooks(#[from] webhooks::Error),
    /// No secret could be made for its tokens.
    #[error(transparent)]
    Tokens(#[from] tokens::Error),
    /// Postgres refused or is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The text is not an app's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an app's name is 1 to 63 of a-z, 0-9 and -, with no hyphen at either end")]
pub struct MalformedName;

/// Creates an app with its first key and a secret for its tokens: all or nothing.
///
/// # Errors
///
/// [`Error::NameTaken`], [`Error::KeyTaken`].
pub async fn create(
    conn: &mut db::System,
    new: &NewApp,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<App, Error> {
    let id = AppId::new(now, rng);
    let secret = Sealed::seal(&new.webhook_secret, master_key, &signing::secret_place(&id))?;
    let key = SecretKeyId::new(now, rng);
    let mut tx = conn.begin().await?;
    if new.is_default {
        store::without_default(&mut tx).await?;
    }
    store::insert(&mut tx, id, new, &secret, now).await?;
    store::insert_key(&mut tx, key, id, &new.key, now).await?;
    tokens::create_secret(&mut tx, id, master_key, now, rng).await?;
    tx.commit().await?;
    Ok(App {
        id,
        name: new.name.clone(),
        is_default: new.is_default,
        created_at: now,
    })
}

/// The app with this name.
pub async fn find(conn: &mut db::System, name: &AppName) -> Result<Option<App>, Error> {
    Ok(store::by_name(conn, name).await?)
}

/// The app that answers on localhost.
pub async fn default(conn: &mut db::System) -> Result<Option<App>, Error> {
    Ok(store::default(conn).await?)
}

/// The app with its settings, of which it is the tenant.
pub async fn configured(conn: &mut PgConnection, id: AppId) -> Result<Option<Configured>, Error> {
    Ok(store::configured(conn, id).await?)
}

/// Changes the settings of an app by a merge patch (RFC 7396): what it does not name stays, and `null` asks for the default.
/// Returns the app as it is then, and what the patch names that is no setting. `None` where there is no such app.
///
/// With `expected`, only where the settings have one of these versions.
///
/// # Errors
///
/// [`Error::Settings`], [`Error::Changed`].
pub async fn configure(
    tx: &mut PgTransaction<'_>,
    id: AppId,
    patch: &Map<String, Value>,
    expected: Option<&[i32]>,
) -> Result<Option<(Configured, Vec<String>)>, Error> {
    let Some(mut app) = store::lock_configured(tx, id).await? else {
        return Ok(None);
    };
    if expected.is_some_and(|versions| !versions.contains(&app.version)) {
        return Err(Error::Changed);
    }
    let patched = app.settings.patched(patch).map_err(Error::Settings)?;
    if patched.settings != app.settings {
        app.settings = patched.settings;
        app.version += 1;
        store::configure(tx, id, &app.settings, app.version).await?;
    }
    Ok(Some((app, patched.unknown)))
}

/// Takes an app whose old data is to be looked through, and says what it wants to be kept. Nobody else takes it before
/// `until`: whoever took it and died is followed then.
pub async fn take_for_retention(
    conn: &mut db::System,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<(AppId, Retention)>, Error> {
    let taken = store::take_for_retention(conn, now, until).await?;
    Ok(taken.map(|(app, settings)| (app, settings.retention)))
}

/// An app's old data has been looked through; when that is next due.
pub async fn retention_done(
    conn: &mut db::System,
    app: AppId,
    next: DateTime<Utc>,
) -> Result<(), Error> {
    Ok(store::set_retention(conn, app, next).await?)
}

/// When the next app's old data is to be looked through; `None` while there is no app.
pub async fn next_retention(conn: &mut db::System) -> Result<Option<DateTime<Utc>>, Error> {
    Ok(store::next_retention(conn).await?)
}

/// The rules that an app has for new rooms.
pub async fn room_defaults(conn: &mut PgConnection, id: AppId) -> Result<Rules, Error> {
    let settings = store::settings(conn, id).await?;
    Ok(settings.map_or_else(Rules::default, |settings| settings.room_defaults.rules()))
}

/// Opens a stored secret, to see that `master_key` is the one that they are sealed under. Any key is, while there is no app.
///
/// # Errors
///
/// [`Error::Sealed`] where some secret is under another key: with this one, that webhook could not be signed.
pub async fn check_master_key(conn: &mut db::System, master_key: &MasterKey) -> Result<(), Error> {
    let found = store::any_webhook_secret(conn, &master_key.ids()).await?;
    if let Some((app, sealed)) = found {
        sealed.open(master_key, &signing::secret_place(&app))?;
    }
    Ok(())
}

/// Seals all secrets of apps anew that are under another key than the one `master_key` seals with; how many there were.
/// Broken off, it goes on where it is called again.
///
/// # Errors
///
/// [`Error::Sealed`] for one that `master_key` does not open.
pub async fn rewrap(conn: &mut db::System, master_key: &MasterKey) -> Result<u64, Error> {
    let (mut count, mut last) = (0, None);
    loop {
        let key = master_key.id();
        let batch = store::webhook_secrets_not_under(conn, key, last, REWRAP_BATCH).await?;
        if batch.is_empty() {
            return Ok(count);
        }
        for (app, old) in batch {
            let new = old.reseal(master_key, &signing::secret_place(&app))?;
            count += store::replace_webhook_secret(conn, app, &old, &new).await?;
            last = Some(app);
        }
    }
}

/// Gives the URLs of an app's rooms a new secret that signs their webhooks; those before it sign along for `overlap`. `None`
/// where there is no such app.
///
/// # Errors
///
/// [`Error::Webhooks`] with [`TooManySecrets`](webhooks::Error::TooManySecrets).
pub async fn rotate_webhook_secret(
    tx: &mut PgTransaction<'_>,
    id: AppId,
    overlap: TimeDelta,
    master_key: &MasterKey,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<Option<RotatedSecret>, Error> {
    let Some(old) = store::lock_webhook_secret(tx, id).await? else {
        return Ok(None);
    };
    let place = signing::secret_place(&id);
    let old = old.open(master_key, &place)?;
    let old_until =
        endpoints::retire_room_secret(tx, id, &old, overlap, master_key, now, rng).await?;
    let secret = SigningSecret::generate(rng);
    let sealed = Sealed::seal(&secret, master_key, &place)?;
    store::set_webhook_secret(tx, id, &sealed).await?;
    Ok(Some(RotatedSecret { secret, old_until }))
}

/// All apps, by name.
pub async fn list(conn: &mut db::System) -> Result<Vec<App>, Error> {
    Ok(store::list(conn).await?)
}

/// Gives an app one more secret key.
///
/// # Errors
///
/// [`Error::KeyTaken`].
pub async fn create_key(
    conn: &mut db::System,
    app: AppId,
    key: &SecretKey,
    now: DateTime<Utc>,
    rng: &mut impl Rng,
) -> Result<SecretKeyId, Error> {
    let id = SecretKeyId::new(now, rng);
    store::insert_key(conn, id, app, key, now).await?;
    Ok(id)
}

/// The secret keys of an app, oldest first.
pub async fn keys(conn: &mut db::System, app: AppId) -> Result<Vec<KeySummary>, Error> {
    Ok(store::keys(conn, app).await?)
}

/// Gives an app a new secret key of the same environment in the place of one that opens, which opens nothing once `overlap`
/// is over; `None` where there is no such key.
pub async fn rotate_key(
    conn: &mut db::System,
    id: SecretKeyId,
    overlap: TimeDelta,
    now: DateTime<Utc>,
    rng: &mut impl CryptoRng,
) -> Result<Option<RotatedKey>, Error> {
    let expires_at = now.checked_add_signed(overlap);
    let expires_at = expires_at.unwrap_or(DateTime::<Utc>::MAX_UTC);
    let mut tx = conn.begin().await?;
    let expired = store::expire_key(&mut tx, id, now, expires_at).await?;
    let Some((app, environment, expires_at)) = expired else {
        return Ok(None);
    };
    let (id, key) = (
        SecretKeyId::new(now, rng),
        SecretKey::generate(environment, rng),
    );
    store::insert_key(&mut tx, id, app, &key, now).await?;
    tx.commit().await?;
    Ok(Some(RotatedKey {
        id,
        key,
        expires_at,
    }))
}

/// Revokes a key at once; whether there was one in use.
pub async fn revoke_key(
    conn: &mut db::System,
    id: SecretKeyId,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    Ok(store::revoke_key(conn, id, now).await?)
}

/// Revokes all keys of an app at once.
pub async fn revoke_keys(
    conn: &mut db::System,
    app: AppId,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    Ok(store::revoke_keys(conn, app, now).await?)
}

/// Removes an app with all that it has, in one transaction however long it takes; whether there was one.
pub async fn remove(conn: &mut db::System, app: AppId) -> Result<bool, Error> {
    let mut tx = conn.begin().await?;
    let removed = store::remove(&mut tx, app).await?;
    tx.commit().await?;
    Ok(removed)
}

impl std::fmt::Display for AppName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for AppName {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, MalformedName> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let ends = !text.starts_with('-') && !text.ends_with('-');
        if (1..=63).contains(&text.len()) && text.bytes().all(inner) && ends {
            Ok(Self(text.to_owned()))
        } else {
            Err(MalformedName)
        }
    }
}

/// Secrets that a rewrap holds at a time.
const REWRAP_BATCH: i64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apps_name_is_a_sub_domain_label() {
        for right in ["a", "acme", "acme-2", "0", &"a".repeat(63)] {
            assert!(right.parse::<AppName>().is_ok(), "{right:?}");
        }
        for wrong in ["", "-a", "a-", "Acme", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert_eq!(wrong.parse::<AppName>(), Err(MalformedName), "{wrong:?}");
        }
    }
}
