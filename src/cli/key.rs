//! `plenum key`

use std::{io::Write, time::Duration};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};

use super::{Table, control, minute, no_app, rewrap, say, storage::Opened};
use crate::{
    apps::{self, AppName, Environment, KeySummary, RotatedKey, SecretKey},
    clock::Clock,
    config::Storage,
    db::Db,
    id::SecretKeyId,
};

/// `plenum key …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Give an app one more secret key, and show it: once.
    ///
    /// An app may have several keys, one for each system that calls Plenum, so that one of them can be replaced without
    /// the others. All open the same. Only a hash of a key is stored: one that is lost cannot be shown again.
    #[command(after_long_help = "\
Examples:
  plenum key create acme
  plenum key create acme --environment test")]
    Create {
        /// The app's name.
        app: AppName,
        /// What it is for. It begins with plenum_live_ or plenum_test_, so that whoever finds it knows how bad that is.
        #[arg(long, value_enum, default_value_t)]
        environment: Environment,
        #[command(flatten)]
        storage: Storage,
    },
    /// List the secret keys of an app, oldest first.
    ///
    /// Shows of each key its id, by which the other commands name it, its environment, what it begins and ends with, when
    /// it was made and when it was used last, and from when it opens nothing, because it expires after a rotation or was
    /// revoked. Times are UTC, and uses are written once a minute.
    #[command(after_long_help = "\
Example:
  plenum key list acme")]
    List {
        /// The app's name.
        app: AppName,
        #[command(flatten)]
        storage: Storage,
    },
    /// Revoke a secret key: it opens nothing from now on.
    ///
    /// A server that runs on the same data directory refuses it at once, any other within a second. This cannot be undone. To replace
    /// a key that is in use, rotate it instead.
    #[command(after_long_help = "\
Example:
  plenum key revoke 0198f3a2c1d4e5f60718293a")]
    Revoke {
        /// The key's id, as `plenum key list` shows it.
        id: SecretKeyId,
        #[command(flatten)]
        storage: Storage,
    },
    /// Replace a secret key by a new one, which is shown once; for a while both open.
    ///
    /// Give the new key to the system that uses the old one before the overlap is over: from then on the old one opens
    /// nothing. `plenum key list` shows whether the old one is still used.
    #[command(after_long_help = "\
Examples:
  plenum key rotate 0198f3a2c1d4e5f60718293a
  plenum key rotate 0198f3a2c1d4e5f60718293a --overlap 1h
  plenum key rotate 0198f3a2c1d4e5f60718293a --overlap 0s    # the old one has leaked")]
    Rotate {
        /// The old key's id, as `plenum key list` shows it.
        id: SecretKeyId,
        /// How long the old key goes on to open, at most 90 days. A key that expires earlier already still does.
        #[arg(long, default_value = "24h", value_parser = overlap)]
        overlap: Duration,
        #[command(flatten)]
        storage: Storage,
    },
    /// Seal all stored secrets anew, under a new master key.
    ///
    /// What Plenum must be able to use, such as the secrets that sign webhooks, is stored sealed under the master key. Replace that
    /// key when it may have leaked, or as often as your rules ask for. Broken off at any point, run it again: nothing is lost,
    /// since what is sealed anew already stays, and both keys open meanwhile. Backups of the
    /// database that were made before need the old key.
    #[command(after_long_help = "\
With a private database (no DATABASE_URL), stop the server, and run this, which makes the new key itself and stores
it as master.key in the data directory:
  plenum key rewrap

With DATABASE_URL, servers go on meanwhile:
  1. make a new key with `openssl rand -base64 32`
  2. restart every server with it as PLENUM_MASTER_KEY, and the old one as PLENUM_MASTER_KEY_PREVIOUS
  3. run `plenum key rewrap` with the same settings
  4. restart every server without PLENUM_MASTER_KEY_PREVIOUS")]
    Rewrap {
        #[command(flatten)]
        storage: Storage,
    },
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create {
            app,
            environment,
            storage,
        } => {
            let opened = Opened::open(&storage).await?;
            let created = create_and_show(&opened.db(), &app, environment).await;
            let told = tell_server(&storage).await;
            let closed = opened.close().await;
            created.and(told).and(closed)
        }
        Command::List { app, storage } => {
            let opened = Opened::look(&storage).await?;
            let opened = opened.with_context(|| no_app(&app))?;
            let keys = list(&opened.db(), &app).await;
            opened.close().await?;
            Ok(table(&keys?).show()?)
        }
        Command::Revoke { id, storage } => {
            let opened = Opened::open(&storage).await?;
            let revoked = revoke(&opened.db(), id).await;
            let told = tell_server(&storage).await;
            opened.close().await?;
            anyhow::ensure!(revoked?, no_key(id));
            say("revoked")?;
            told
        }
        Command::Rotate {
            id,
            overlap,
            storage,
        } => {
            let opened = Opened::open(&storage).await?;
            let rotated = rotate_and_show(&opened.db(), id, overlap).await;
            let told = tell_server(&storage).await;
            let closed = opened.close().await;
            rotated.and(told).and(closed)
        }
        Command::Rewrap { storage } => rewrap::run(&storage).await,
    }
}

/// Has the running server know of the change at once. That it does not know yet is no reason to fail: the change is made.
pub(super) async fn tell_server(storage: &Storage) -> anyhow::Result<()> {
    if let Err(error) = control::keys_changed(&storage.data_dir).await {
        writeln!(
            std::io::stderr().lock(),
            "plenum: the running server could not be told, and knows of this within a second: {error:#}"
        )?;
    }
    Ok(())
}

/// The key is shown as soon as it is in use, whatever else may fail.
async fn create_and_show(db: &Db, app: &AppName, environment: Environment) -> anyhow::Result<()> {
    let now = now(db).await?;
    let mut conn = db.system().await?;
    let app = apps::find(&mut conn, app)
        .await?
        .with_context(|| no_app(app))?;
    let key = SecretKey::generate(environment, &mut rand::rng());
    let id = apps::create_key(&mut conn, app.id, &key, now, &mut rand::rng()).await?;
    Ok(say(format_args!(
        "id          {id}\nsecret key  {}   (shown once)",
        key.reveal()
    ))?)
}

/// As [`create_and_show`].
async fn rotate_and_show(db: &Db, old: SecretKeyId, overlap: Duration) -> anyhow::Result<()> {
    let (now, overlap) = (now(db).await?, TimeDelta::from_std(overlap)?);
    let mut conn = db.system().await?;
    let rotated = apps::rotate_key(&mut conn, old, overlap, now, &mut rand::rng()).await?;
    let RotatedKey {
        id,
        key,
        expires_at,
    } = rotated.with_context(|| no_key(old))?;
    Ok(say(format_args!(
        "id          {id}\nsecret key  {}   (shown once)\nold key     {old}   opens until {} UTC",
        key.reveal(),
        minute(expires_at)
    ))?)
}

async fn list(db: &Db, app: &AppName) -> anyhow::Result<Vec<KeySummary>> {
    let mut conn = db.system().await?;
    let app = apps::find(&mut conn, app)
        .await?
        .with_context(|| no_app(app))?;
    Ok(apps::keys(&mut conn, app.id).await?)
}

async fn revoke(db: &Db, id: SecretKeyId) -> anyhow::Result<bool> {
    let now = now(db).await?;
    Ok(apps::revoke_key(&mut db.system().await?, id, now).await?)
}

/// Postgres's time.
async fn now(db: &Db) -> anyhow::Result<DateTime<Utc>> {
    let clock = Clock::system();
    db.sample_clock(&clock).await?;
    Ok(clock.now())
}

fn overlap(text: &str) -> Result<Duration, String> {
    let overlap = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if overlap <= LONGEST_OVERLAP {
        Ok(overlap)
    } else {
        Err("must be at most 90d".to_owned())
    }
}

/// A line per key.
fn table(keys: &[KeySummary]) -> Table<7> {
    let mut table = Table::new([
        "ID",
        "ENVIRONMENT",
        "KEY",
        "CREATED",
        "LAST USED",
        "EXPIRES",
        "REVOKED",
    ]);
    let time = |at: Option<DateTime<Utc>>| at.map_or_else(|| "-".to_owned(), minute);
    for key in keys {
        table.row([
            key.id.to_string(),
            key.environment.to_string(),
            format!("{}…{}", key.prefix.as_deref().unwrap_or(""), key.last_four),
            minute(key.created_at),
            time(key.last_used_at),
            time(key.expires_at),
            time(key.revoked_at),
        ]);
    }
    table
}

fn no_key(id: SecretKeyId) -> String {
    format!("there is no key {id} in use; `plenum key list APP` shows the keys")
}

/// Long enough for any release of a customer's system; who wants longer has two keys.
const LONGEST_OVERLAP: Duration = Duration::from_hours(90 * 24);
