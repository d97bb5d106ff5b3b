//! `plenum app`

use secrecy::ExposeSecret;

use super::{
    say,
    storage::{self, Opened},
};
use crate::{
    apps::{self, AppName, NewApp, SecretKey},
    clock::Clock,
    config::Storage,
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
    let master_key = storage::master_key(storage)?;
    let (key, webhook_secret) = (
        SecretKey::generate(&mut rand::rng()),
        SigningSecret::generate(&mut rand::rng()),
    );
    let new = NewApp {
        name,
        key: key.clone(),
        webhook_secret: webhook_secret.clone(),
        is_default: false,
    };
    let now = Clock::system().now();
    let created = apps::create(
        &mut opened.db().system().await?,
        &new,
        &master_key,
        now,
        &mut rand::rng(),
    )
    .await;
    opened.close().await?;
    say(format_args!("app             {}", created?.name))?;
    say(format_args!(
        "secret key      {}   (shown once)",
        key.reveal()
    ))?;
    Ok(say(format_args!(
        "webhook secret  {}   (signs the webhooks of its rooms)",
        webhook_secret.reveal().expose_secret()
    ))?)
}

async fn list(storage: &Storage) -> anyhow::Result<()> {
    let opened = Opened::open(storage).await?;
    let apps = apps::list(&mut opened.db().system().await?).await;
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
