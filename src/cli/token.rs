//! `plenum token`

use std::time::Duration;

use anyhow::Context;

use super::{
    no_app, say,
    storage::{self, Opened},
};
use crate::{
    apps::{self, AppName},
    clock::Clock,
    config::Storage,
    db::Db,
    tokens,
};

/// `plenum token …`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Sign an app's tokens with a new secret, at once. Those that are out open rooms for another while, the overlap, and
    /// nothing after it. People who are in a meeting stay in.
    Rotate {
        /// The app's name.
        app: AppName,
        /// How long the tokens that are out stay valid, 0s to 30days. With 0s every token of the app is worthless at once.
        #[arg(long, default_value = "24h", value_parser = overlap)]
        overlap: Duration,
        #[command(flatten)]
        storage: Storage,
    },
}

pub async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Rotate {
        app,
        overlap,
        storage,
    } = command;
    let opened = Opened::open(&storage).await?;
    let rotated = rotate(&opened.db(), &storage, &app, overlap).await;
    let closed = opened.close().await;
    rotated.and(closed)
}

async fn rotate(
    db: &Db,
    storage: &Storage,
    name: &AppName,
    overlap: Duration,
) -> anyhow::Result<()> {
    let clock = Clock::system();
    db.sample_clock(&clock).await?;
    let mut conn = db.system().await?;
    let master_key = storage::master_key(storage, &mut conn).await?;
    let app = apps::find(&mut conn, name)
        .await?
        .with_context(|| no_app(name))?;
    drop(conn);
    let now = clock.now();
    let mut tx = db.begin(app.id).await?;
    tokens::rotate(&mut tx, app.id, overlap, &master_key, now, &mut rand::rng()).await?;
    tx.commit().await?;
    let until = (now + overlap).format("%Y-%m-%d %H:%M:%S UTC");
    Ok(say(format_args!(
        "tokens of {name} are signed with a new secret; those made before open nothing from {until} on"
    ))?)
}

fn overlap(text: &str) -> Result<Duration, String> {
    let overlap = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if overlap <= LONGEST_OVERLAP {
        Ok(overlap)
    } else {
        Err("must be from 0s to 30days".to_owned())
    }
}

/// Longer, and nobody remembers that the old secret still opens rooms.
const LONGEST_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
