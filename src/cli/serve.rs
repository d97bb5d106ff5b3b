//! `plenum serve`: opens the database, makes the first apps, runs a node until a signal comes.

use std::{net::TcpListener, sync::Arc};

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use url::Url;

use super::{
    Cli,
    node::{Node, Parts},
    say,
    storage::{self, Opened},
};
use crate::{
    apps::{self, App, NewApp, SecretKey},
    clock::Clock,
    config::{self, Config},
    db::Db,
    sealed::MasterKey,
    webhooks::SigningSecret,
};

/// Flags of `plenum serve`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    config: Config,
}

pub async fn run(Args { config }: Args) -> anyhow::Result<()> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for warning in config::unknown_names::<Cli>(names) {
        warn!("{warning}");
    }
    if config.webhooks.allow_private_webhooks {
        warn!(
            "PLENUM_ALLOW_PRIVATE_WEBHOOKS is set: webhooks may reach this machine and its network; for development only"
        );
    }
    // Bound first, so that a second server stops before it touches anything.
    let listener = TcpListener::bind(config.http.bind)
        .with_context(|| format!("PLENUM_BIND: {} cannot be listened on", config.http.bind))?;
    let mut told_to_stop = Signals::new()?;
    let opened = Opened::open_alone(&config.storage).await?;
    let outcome = Box::pin(serve(&config, &opened, listener, &mut told_to_stop)).await;
    let closed = opened.close().await;
    outcome?;
    info!("stopped");
    closed
}

async fn serve(
    config: &Config,
    opened: &Opened,
    listener: TcpListener,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let url = config.http.url(listener.local_addr()?)?;
    let (db, clock) = (opened.db(), Clock::system());
    let master_key = Arc::new(storage::master_key(&config.storage)?);
    let (default_app, greeting) = first_apps(config, &db, &clock, &master_key, &url).await?;
    let node = Node::start(
        config,
        Parts {
            db: db.clone(),
            clock,
            master_key,
            default_app,
            listener,
        },
    )?;
    say(greeting)?;
    info!(%url, "ready");
    signals.wait().await;
    info!("stopping");
    node.stop().await;
    db.close().await;
    Ok(())
}

/// The apps that a start makes: the bootstrap's, or at the very first start a demo app. Returns which app answers on
/// localhost, and what to tell whoever started the server.
async fn first_apps(
    config: &Config,
    db: &Db,
    clock: &Clock,
    master_key: &MasterKey,
    url: &Url,
) -> anyhow::Result<(Option<App>, String)> {
    let mut conn = db.system().await?;
    let apps::Config {
        bootstrap_app,
        bootstrap_secret_key,
        bootstrap_webhook_secret,
    } = &config.apps;
    let existing = apps::list(&mut conn).await?;
    let wanted = match (bootstrap_app, bootstrap_secret_key) {
        (Some(name), Some(key)) => {
            (!existing.iter().any(|app| app.name == *name)).then(|| (name.clone(), key.clone()))
        }
        _ if existing.is_empty() => Some(("demo".parse()?, SecretKey::generate(&mut rand::rng()))),
        _ => None,
    };
    let Some((name, key)) = wanted else {
        let named = existing
            .iter()
            .find(|app| Some(&app.name) == bootstrap_app.as_ref())
            .cloned();
        let default = match named {
            Some(app) => Some(app),
            None => apps::default(&mut conn).await?,
        };
        return Ok((default, greeting(url, None)));
    };
    let webhook_secret = match bootstrap_webhook_secret {
        Some(text) => text
            .expose_secret()
            .parse()
            .context("PLENUM_BOOTSTRAP_WEBHOOK_SECRET")?,
        None => SigningSecret::generate(&mut rand::rng()),
    };
    let is_default = !existing.iter().any(|app| app.is_default);
    let new = NewApp {
        name,
        key: key.clone(),
        webhook_secret: webhook_secret.clone(),
        is_default,
    };
    let app = apps::create(&mut conn, &new, master_key, clock.now(), &mut rand::rng()).await?;
    let shown = bootstrap_app
        .is_none()
        .then_some((&app, &key, &webhook_secret));
    let greeting = greeting(url, shown);
    Ok((Some(app), greeting))
}

/// What whoever starts the server wants to know. Keys are shown once: when they are made here.
fn greeting(url: &Url, made: Option<(&App, &SecretKey, &SigningSecret)>) -> String {
    let base = url.as_str().trim_end_matches('/');
    let mut text = format!(
        "\n  Plenum runs.\n\n  Rooms        {base}/{{roomName}}\n  Swagger UI   {base}/docs/\n"
    );
    match made {
        None => text.push_str(
            "  Secret key   shown once, when it was made; `plenum key create APP` makes another\n",
        ),
        Some((app, key, webhook_secret)) => {
            let (key, webhook_secret) = (key.reveal(), webhook_secret.reveal());
            text.push_str(&format!(
                "  App          {}\n  Secret key   {key}   (shown once: keep it)\n  \
                 Webhooks     signed with {}   (shown once)\n\n  \
                 Create a room, then open {base}/hello in two windows:\n\n  \
                 curl -X POST '{base}/api/v1/room?secretKey={key}' \\\n       \
                 -H 'Content-Type: application/json' -d '{{\"roomName\": \"hello\"}}'\n",
                app.name,
                webhook_secret.expose_secret(),
            ));
        }
    }
    text
}

/// What tells the server to stop.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
