//! `plenum migrate`

use super::{say, storage::Opened};
use crate::config::Storage;

/// Flags of `plenum migrate`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    storage: Storage,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    Opened::open(&args.storage).await?.close().await?;
    Ok(say("the database schema is up to date")?)
}
