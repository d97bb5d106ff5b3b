//! `plenum serve`: opens the database, makes the first apps, runs a node until a signal comes.

use std::{net::TcpListener, sync::Arc};

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use url::Url;

use super::{
    Cli,
    control::Control,
    node::{Node, Parts},
    say,
    storage::{self, Opened},
};
use crate::{
    apps::{self, App, AppName, Environment, NewApp, SecretKey},
    clock::Clock,
    config::{self, Config},
    db::System,
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
    let told_to_stop = stop_on_signal()?;
    // Bound first, so that a second server stops before it touches anything.
    let listener = TcpListener::bind(config.http.bind)
        .with_context(|| format!("PLENUM_BIND: {} cannot be listened on", config.http.bind))?;
    let opened = if config.roles.roles.meetings {
        Opened::open_alone(&config.storage, &told_to_stop).await?
    } else {
        let open = Opened::open_beside(&config.storage);
        told_to_stop.run_until_cancelled(open).await.transpose()?
    };
    let Some(opened) = opened else {
        info!("stopped before the start was through");
        return Ok(());
    };
    let outcome = Box::pin(serve(&config, &opened, listener, &told_to_stop)).await;
    let closed = opened.close().await;
    outcome?;
    info!("stopped");
    closed
}

async fn serve(
    config: &Config,
    opened: &Opened,
    listener: TcpListener,
    told_to_stop: &CancellationToken,
) -> anyhow::Result<()> {
    let url = config.http.url(listener.local_addr()?)?;
    let (db, clock) = (opened.db(), Clock::system());
    // Before anything asks for the time.
    let Some(sampled) = told_to_stop
        .run_until_cancelled(db.sample_clock(&clock))
        .await
    else {
        return Ok(());
    };
    sampled?;
    let mut conn = db.system().await?;
    let master_key = Arc::new(storage::master_key(&config.storage, &mut conn).await?);
    let holds_meetings = config.roles.roles.meetings;
    let (default_app, made) = if holds_meetings {
        first_apps(config, &mut conn, &clock, &master_key).await?
    } else {
        (None, None)
    };
    let default_app = match &config.apps.default_app {
        Some(name) => Some(named(name, &mut conn).await?),
        None => default_app,
    };
    drop(conn);
    if told_to_stop.is_cancelled() {
        return Ok(());
    }
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
    let control = if holds_meetings {
        let control = Control::serve(&config.storage.data_dir, node.keyring());
        let control = control.inspect_err(|error| {
            let error = format_args!("{error:#}");
            warn!(%error, "no control socket: what commands change counts here within a second, and not at once");
        });
        tell(greeting(&url, made.as_ref()));
        control.ok()
    } else {
        None
    };
    info!(%url, "ready");
    told_to_stop.cancelled().await;
    info!("stopping");
    node.stop().await;
    if let Some(control) = control
        && let Err(error) = control.stop().await
    {
        warn!(%error, "the control socket is left");
    }
    db.close().await;
    Ok(())
}

/// Makes the apps that a start makes: the bootstrap's, or at the very first start a demo app, whose keys are shown as soon
/// as they are in use. Returns which app answers on localhost, and the key that was shown.
async fn first_apps(
    config: &Config,
    conn: &mut System,
    clock: &Clock,
    master_key: &MasterKey,
) -> anyhow::Result<(Option<App>, Option<SecretKey>)> {
    let apps::Config {
        default_app: _,
        bootstrap_app,
        bootstrap_secret_key,
        bootstrap_webhook_secret,
    } = &config.apps;
    let existing = apps::list(conn).await?;
    let wanted = match (bootstrap_app, bootstrap_secret_key) {
        (Some(name), Some(key)) => {
            (!existing.iter().any(|app| app.name == *name)).then(|| (name.clone(), key.clone()))
        }
        _ if existing.is_empty() => Some((
            "demo".parse()?,
            SecretKey::generate(Environment::Live, &mut rand::rng()),
        )),
        _ => None,
    };
    let Some((name, key)) = wanted else {
        let named = existing
            .iter()
            .find(|app| Some(&app.name) == bootstrap_app.as_ref())
            .cloned();
        let default = match named {
            Some(app) => Some(app),
            None => apps::default(conn).await?,
        };
        return Ok((default, None));
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
        settings: apps::AppSettings {
            // Whoever reaches a loopback address is on this machine.
            anonymous_rooms: config.http.bind.ip().is_loopback(),
            ..Default::default()
        },
    };
    let app = apps::create(conn, &new, master_key, clock.now(), &mut rand::rng()).await?;
    if bootstrap_app.is_some() {
        return Ok((Some(app), None));
    }
    tell(format_args!(
        "\n  App          {}\n  Secret key   {}   (shown once: keep it)\n  Webhooks     signed with {}   (shown once)",
        app.name,
        key.reveal(),
        webhook_secret.reveal().expose_secret(),
    ));
    Ok((Some(app), Some(key)))
}

/// The app of `PLENUM_DEFAULT_APP`.
async fn named(name: &AppName, conn: &mut System) -> anyhow::Result<App> {
    apps::find(conn, name).await?.with_context(|| {
        format!(
            "PLENUM_DEFAULT_APP: there is no app {name}; `plenum app list` shows the apps, \
             `plenum app create {name}` makes it"
        )
    })
}

/// What whoever starts the server wants to know; `made` is a key that this start has shown.
fn greeting(url: &Url, made: Option<&SecretKey>) -> String {
    let base = url.as_str().trim_end_matches('/');
    let next = match made {
        None => {
            "  Secret key   shown once, when it was made; `plenum key create APP` makes another\n"
                .to_owned()
        }
        Some(key) => format!(
            "\n  Create a room, then open {base}/hello in two windows:\n\n  \
             curl -X POST '{base}/api/v1/room?secretKey={}' \\\n       \
             -H 'Content-Type: application/json' -d '{{\"roomName\": \"hello\"}}'\n",
            key.reveal()
        ),
    };
    format!(
        "\n  Plenum runs.\n\n  Rooms        {base}/{{roomName}}\n  Swagger UI   {base}/docs/\n{next}"
    )
}

/// Says something to whoever started the server. That nobody reads it does not stop a server.
fn tell(text: impl std::fmt::Display) {
    if let Err(error) = say(text) {
        warn!(%error, "standard output cannot be written to; a key that was to be shown there is lost");
    }
}

/// Cancelled by the first signal to stop (SIGTERM, Ctrl-C). The second one ends the process, at once: what is left of the
/// private cluster, the kernel stops.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let told = token.clone();
    // It lives as long as the process, so nothing waits for it.
    TaskTracker::new().spawn(async move {
        for stops in [false, true] {
            let number = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            };
            if stops {
                std::process::exit(128 + number);
            }
            told.cancel();
        }
    });
    Ok(token)
}
