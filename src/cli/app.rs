//! `plenum app`

use std::io::Write;

use anyhow::Context;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::{
    Table, key, no_app, say,
    storage::{self, Opened},
};
use crate::{
    apps::{self, App, AppName, AppSettings, Environment, NewApp, SecretKey},
    clock::Clock,
    config::Storage,
    db::Db,
    privacy,
    webhooks::SigningSecret,
};

/// `plenum app …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create an app, and show its secret key and its webhook secret: once.
    #[command(after_long_help = CREATE_HELP)]
    Create {
        /// Its name, which is its sub-domain: 1 to 63 of a-z, 0-9 and -, with no hyphen at either end.
        name: AppName,
        /// Let it answer on localhost, in the place of whichever app does; a running server does so from its next start on.
        #[arg(long)]
        default: bool,
        #[command(flatten)]
        storage: Storage,
    },
    /// List the apps: name, when it was made, its id, and which one answers on localhost.
    List {
        #[command(flatten)]
        storage: Storage,
    },
    /// Delete an app with all that it has: rooms, meetings, people's data, usage, keys.
    #[command(after_long_help = DELETE_HELP)]
    Delete {
        /// The app's name.
        name: AppName,
        /// Do not ask for the name once more.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        storage: Storage,
    },
    /// Change settings of an app, or show them all.
    #[command(after_long_help = SET_HELP)]
    Set {
        /// The app's name.
        name: AppName,
        /// What to change, each as NAME=VALUE; all settings are shown afterwards, or as they are where none is given.
        #[arg(value_name = "SETTING", value_parser = assignment)]
        changes: Vec<Assignment>,
        #[command(flatten)]
        storage: Storage,
    },
}

const CREATE_HELP: &str = "\
Of the secret key only a hash is kept, so it cannot be shown again; `plenum key create` makes another.

Examples:
  plenum app create acme
  plenum app create acme --default";

const DELETE_HELP: &str = "\
Nothing of it can be had back. Its keys open nothing from then on, and everybody who is in one of its
meetings is told that the meeting is over. Usage goes too: read first what is to be billed.

Examples:
  plenum app delete acme
  plenum app delete acme --yes";

const SET_HELP: &str = "\
A setting in a group has the group's name and a dot before its own. A value is read as JSON where it
is JSON, and as text otherwise; null asks for the default. All changes are made, or none. A running
server follows at once.

Settings:
  branding.name, branding.logoURL, branding.logoDarkURL, branding.privacyURL, branding.helpURL
  branding.accentColor, branding.backgroundColor, branding.backgroundDarkColor   such as '#3250dc'
  branding.corners                square, soft (default) or round
  branding.theme                  system (default), light or dark
  embedOrigins                    origins of pages that may show a room in a frame, with commas; null (default) is any
  dialects.mirotalk, dialects.mikromeet, dialects.plugnmeet   true (default) or false
  anonymousRooms                  whether anybody may make rooms: true or false (default)
  roomDefaults.PROPERTY           any property of a room, such as maxParticipants, for rooms that do not name it
  retention.personalDataDays      1 to 3650, default 90
  retention.eventDays             4 to 365, default 30
  contactEmail                    where the app's people are told what concerns them

Examples:
  plenum app set acme
  plenum app set acme branding.name='Acme Meetings' branding.accentColor='#0d6b57'
  plenum app set acme embedOrigins=https://acme.com,https://staging.acme.com roomDefaults.maxParticipants=10
  plenum app set acme embedOrigins=null";

/// One change of a setting.
#[derive(Clone, Debug)]
pub struct Assignment {
    path: Vec<String>,
    value: Value,
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create {
            name,
            default,
            storage,
        } => create(name, default, &storage).await,
        Command::List { storage } => list(&storage).await,
        Command::Delete { name, yes, storage } => delete(&name, yes, &storage).await,
        Command::Set {
            name,
            changes,
            storage,
        } => set(&name, changes, &storage).await,
    }
}

async fn create(name: AppName, is_default: bool, storage: &Storage) -> anyhow::Result<()> {
    let opened = Opened::open(storage).await?;
    let created = create_and_show(name, is_default, storage, &opened.db()).await;
    let closed = opened.close().await;
    created.and(closed)
}

/// The keys are shown as soon as they are in use, whatever else may fail.
async fn create_and_show(
    name: AppName,
    is_default: bool,
    storage: &Storage,
    db: &Db,
) -> anyhow::Result<()> {
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
        is_default,
        settings: AppSettings::default(),
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
    let mut table = Table::new(["APP", "CREATED", "ID", ""]);
    for app in apps? {
        let answers = if app.is_default {
            "answers on localhost"
        } else {
            ""
        };
        table.row([
            app.name.to_string(),
            app.created_at.format("%Y-%m-%d").to_string(),
            app.id.to_string(),
            answers.to_owned(),
        ]);
    }
    Ok(table.show()?)
}

async fn all(db: &Db) -> anyhow::Result<Vec<App>> {
    Ok(apps::list(&mut db.system().await?).await?)
}

async fn delete(name: &AppName, is_sure: bool, storage: &Storage) -> anyhow::Result<()> {
    let opened = Opened::open(storage).await?;
    let deleted = confirm_and_delete(&opened.db(), name, is_sure).await;
    let told = key::tell_server(storage).await;
    opened.close().await?;
    deleted?;
    say(format_args!("deleted {name}"))?;
    told
}

async fn confirm_and_delete(db: &Db, name: &AppName, is_sure: bool) -> anyhow::Result<()> {
    let app = apps::find(&mut db.system().await?, name).await?;
    let app = app.with_context(|| no_app(name))?;
    if !is_sure {
        let mut out = std::io::stdout().lock();
        write!(
            out,
            "This deletes {name} with all that it has. Its name, to go on: "
        )?;
        out.flush()?;
        let mut given = String::new();
        std::io::stdin().read_line(&mut given)?;
        anyhow::ensure!(
            given.trim() == name.to_string(),
            "nothing was deleted: that is not its name; --yes goes on without asking"
        );
    }
    let clock = Clock::system();
    db.sample_clock(&clock).await?;
    anyhow::ensure!(privacy::remove_app(db, &clock, app.id).await?, no_app(name));
    Ok(())
}

async fn set(name: &AppName, changes: Vec<Assignment>, storage: &Storage) -> anyhow::Result<()> {
    let opened = if changes.is_empty() {
        Opened::look(storage).await?.with_context(|| no_app(name))?
    } else {
        Opened::open(storage).await?
    };
    let settings = configure(&opened.db(), name, &patch(changes)).await;
    opened.close().await?;
    Ok(show(&settings?.document(), "")?)
}

async fn configure(
    db: &Db,
    name: &AppName,
    patch: &Map<String, Value>,
) -> anyhow::Result<AppSettings> {
    let app = apps::find(&mut db.system().await?, name).await?;
    let app = app.with_context(|| no_app(name))?;
    let mut tx = db.begin(app.id).await?;
    match apps::configure(&mut tx, app.id, patch, None).await {
        Ok(configured) => {
            let (configured, unknown) = configured.with_context(|| no_app(name))?;
            anyhow::ensure!(
                unknown.is_empty(),
                "there is no setting {}; `plenum app set --help` lists them",
                unknown.join(", ")
            );
            tx.commit().await?;
            Ok(configured.settings)
        }
        Err(apps::Error::Settings(wrong)) => {
            let lines = wrong
                .iter()
                .map(|wrong| format!("{} {}", wrong.setting, wrong.right));
            anyhow::bail!(lines.collect::<Vec<_>>().join("\n        "))
        }
        Err(error) => Err(error.into()),
    }
}

fn assignment(text: &str) -> Result<Assignment, String> {
    let (path, value) = text
        .split_once('=')
        .filter(|(path, _)| !path.is_empty())
        .ok_or("a change is NAME=VALUE, such as branding.name='Acme Meetings'")?;
    Ok(Assignment {
        path: path.split('.').map(str::to_owned).collect(),
        value: serde_json::from_str(value).unwrap_or_else(|_| value.into()),
    })
}

/// The merge patch that makes these changes; of two of one setting the later one counts.
fn patch(changes: Vec<Assignment>) -> Map<String, Value> {
    let mut patch = Value::Object(Map::new());
    for Assignment { path, value } in changes {
        let mut place = &mut patch;
        for name in path {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[name];
        }
        *place = value;
    }
    patch.as_object().cloned().unwrap_or_default()
}

/// Prints the settings as they can be given.
fn show(settings: &Map<String, Value>, group: &str) -> std::io::Result<()> {
    for (name, value) in settings {
        match value {
            Value::Object(inner) => show(inner, &format!("{group}{name}."))?,
            // A text that would be read as something else is shown in its quotation marks.
            Value::String(text) if serde_json::from_str::<Value>(text).is_err() => {
                say(format_args!("{group}{name}={text}"))?
            }
            value => say(format_args!("{group}{name}={value}"))?,
        }
    }
    Ok(())
}
