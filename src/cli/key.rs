//! `plenum key`

use anyhow::Context;

use super::{say, storage::Opened};
use crate::{
    apps::{self, AppName, SecretKey},
    clock::Clock,
    config::Storage,
    db::Db,
    id::SecretKeyId,
};

/// `plenum key …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Give an app one more secret key, and show it: once.
    Create {
        /// The app's name.
        app: AppName,
        #[command(flatten)]
        storage: Storage,
    },
    /// List the secret keys of an app.
    List {
        /// The app's name.
        app: AppName,
        #[command(flatten)]
        storage: Storage,
    },
    /// Revoke a secret key, at once.
    Revoke {
        /// The key's id, as `plenum key list` shows it.
        id: SecretKeyId,
        #[command(flatten)]
        storage: Storage,
    },
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { app, storage } => {
            let opened = Opened::open(&storage).await?;
            let created = create_and_show(&opened.db(), &app).await;
            let closed = opened.close().await;
            created.and(closed)?;
        }
        Command::List { app, storage } => {
            let opened = Opened::look(&storage).await?;
            let opened = opened.with_context(|| no_app(&app))?;
            let keys = list(&opened.db(), &app).await;
            opened.close().await?;
            for key in keys? {
                let revoked = key
                    .revoked_at
                    .map(|at| format!("   revoked {}", at.format("%Y-%m-%d %H:%M")))
                    .unwrap_or_default();
                say(format_args!(
                    "{}  {}  …{}{revoked}",
                    key.id,
                    key.created_at.format("%Y-%m-%d"),
                    key.last_four
                ))?;
            }
        }
        Command::Revoke { id, storage } => {
            let opened = Opened::open(&storage).await?;
            let revoked = revoke(&opened.db(), id).await;
            opened.close().await?;
            anyhow::ensure!(
                revoked?,
                "there is no key {id} in use; `plenum key list APP` shows the keys"
            );
            say("revoked")?;
        }
    }
    Ok(())
}

/// The key is shown as soon as it is in use, whatever else may fail.
async fn create_and_show(db: &Db, app: &AppName) -> anyhow::Result<()> {
    let clock = Clock::system();
    db.sample_clock(&clock).await?;
    let mut conn = db.system().await?;
    let app = apps::find(&mut conn, app)
        .await?
        .with_context(|| no_app(app))?;
    let key = SecretKey::generate(&mut rand::rng());
    let id = apps::create_key(&mut conn, app.id, &key, clock.now(), &mut rand::rng()).await?;
    Ok(say(format_args!(
        "id          {id}\nsecret key  {}   (shown once)",
        key.reveal()
    ))?)
}

async fn list(db: &Db, app: &AppName) -> anyhow::Result<Vec<apps::KeySummary>> {
    let mut conn = db.system().await?;
    let app = apps::find(&mut conn, app)
        .await?
        .with_context(|| no_app(app))?;
    Ok(apps::keys(&mut conn, app.id).await?)
}

async fn revoke(db: &Db, id: SecretKeyId) -> anyhow::Result<bool> {
    let clock = Clock::system();
    db.sample_clock(&clock).await?;
    Ok(apps::revoke_key(&mut db.system().await?, id, clock.now()).await?)
}

fn no_app(name: &AppName) -> String {
    format!("there is no app {name}; `plenum app list` shows the apps")
}
