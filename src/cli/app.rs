//! `plenum app`

use secrecy::ExposeSecret;

use super::{
    say,
    storage::{self, Opened},
};
use crate::{
    apps::{self, App, AppName, Environment, NewApp, SecretKey},
    clock::Clock,
    config::Storage,
    db::Db,
    webhooks::SigningSecret,
};

/// `plenum app …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create an app, and show its secret key and its webhook secret: once.
    Create {
        /// Its name: a sub-domain label.
        name: AppName,
        #[command(flatten)]
        storage: Storage,
    },
    /// List the apps.
    List {
        #[command(flatten)]
        storage: Storage,
    },
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { name, storage } => create(name, &storage).await,
        Command::List { storage } => list(&storage).await,
    }
}

async fn create(name: AppName, storage: &Storage) -> anyhow::Result<()> {
    let opened = Opened::open(storage).await?;
    let created = create_and_show(name, storage, &opened.db()).await;
    let closed = opened.close().await;
    created.and(closed)
}

/// The keys are shown as soon as they are in use, whatever else may fail.
async fn create_and_show(name: AppName, storage: &Storage, db: &Db) -> anyhow::Result<()> {
    let clock = Clock::system();
    db.sample_clock(&clock).await?;
    let mut conn = db.system().await?;
    let master_key = storage::master_key(storage, &mut conn).await?;
    let (key, webhook_secret) = (
        SecretKey::generate(Environment::Live, &mut rand::rng()),
        SigningSecret::generate(&mut rand::rng()),
    );
    let new = NewApp {
        name,
        key: key.clone(),
        webhook_secret: webhook_secret.clone(),
        is_default: false,
    };
    let app = apps::create(&mut conn, &new, &master_key, clock.now(), &mut rand::rng()).await?;
    Ok(say(format_args!(
        "app             {}\nsecret key      {}   (shown once)\nwebhook secret  {}   (signs the webhooks of its rooms)",
        app.name,
        key.reveal(),
        webhook_secret.reveal().expose_secret()
    ))?)
}

async fn list(storage: &Storage) -> anyhow::Result<()> {
    let Some(opened) = Opened::look(storage).await? else {
        return Ok(());
    };
    let apps = all(&opened.db()).await;
    opened.close().await?;
    for app in apps? {
        let answers = if app.is_default {
            "   answers on localhost"
        } else {
            ""
        };
        say(format_args!(
            "{}  {}  {}{answers}",
            app.id,
            app.created_at.format("%Y-%m-%d"),
            app.name
        ))?;
    }
    Ok(())
}

async fn all(db: &Db) -> anyhow::Result<Vec<App>> {
    Ok(apps::list(&mut db.system().await?).await?)
}
