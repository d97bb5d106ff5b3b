//! `plenum key rewrap`: all stored secrets under a new master key.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::Context;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::{
    say,
    storage::{self, Opened},
};
use crate::{apps, config::Storage, db::System, rooms, sealed::MasterKey, tokens, webhooks};

pub async fn run(storage: &Storage) -> anyhow::Result<()> {
    let new_file = storage.master_key.is_none() && storage.db.database_url.is_none();
    let opened = if new_file {
        // Alone: a server would go on with the key that it has read.
        let opened = Opened::open_alone(storage, &CancellationToken::new()).await?;
        opened.context("the database was not opened")?
    } else {
        Opened::open(storage).await?
    };
    let rewrapped = async {
        let mut conn = opened.db().system().await?;
        // Opens all that is stored, or says why not.
        let key = storage::master_key(storage, &mut conn).await?;
        if new_file {
            into_new_file(&storage.data_dir, &mut conn).await
        } else {
            rewrap(&mut conn, &key).await
        }
    };
    let rewrapped = rewrapped.await;
    opened.close().await?;
    let count = rewrapped?;
    say(format_args!("{count} secrets were sealed anew"))?;
    if new_file {
        let path = storage.data_dir.join(storage::MASTER_KEY);
        let path = path.display();
        say(format_args!("{path} is new: keep it with your backups"))?;
    }
    Ok(())
}

/// Seals everything anew that is under another key than the one `key` seals with: a line for each concept that has sealed
/// columns. How many there were.
async fn rewrap(conn: &mut System, key: &MasterKey) -> anyhow::Result<u64> {
    let mut count = rooms::rewrap(conn, key).await?;
    count += tokens::rewrap(conn, key).await?;
    count += webhooks::endpoints::rewrap(conn, key).await?;
    // Last, because each start checks the key by them.
    count += apps::rewrap(conn, key).await?;
    Ok(count)
}

/// The new key is stored beside the old one before anything is sealed under it, and takes its place once nothing is sealed
/// under the old one. Between the two, whoever reads the old one finds the new one too, and opens with both.
async fn into_new_file(data_dir: &Path, conn: &mut System) -> anyhow::Result<u64> {
    let path = data_dir.join(storage::MASTER_KEY);
    let next_path = data_dir.join(storage::NEXT_MASTER_KEY);
    let write = || {
        format!(
            "the new master key cannot be written to {}",
            next_path.display()
        )
    };
    let next = match fs::read_to_string(&next_path) {
        // An earlier rewrap was broken off.
        Ok(text) => SecretString::from(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = MasterKey::text(rand::rng().random());
            store_whole(&next_path, &text).with_context(write)?;
            text
        }
        Err(error) => return Err(error).with_context(write),
    };
    let old = SecretString::from(fs::read_to_string(&path)?);
    let key = MasterKey::parse(&next)?.and_opens(&old)?;
    let count = rewrap(conn, &key).await?;
    fs::rename(&next_path, &path)
        .and_then(|()| storage::sync_dir(data_dir))
        .with_context(|| format!("{} cannot be replaced", path.display()))?;
    Ok(count)
}

/// The file is there with all of its text, or it is not there.
fn store_whole(path: &Path, text: &SecretString) -> io::Result<()> {
    let part = path.with_added_extension("part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(text.expose_secret().as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    path.parent().map_or(Ok(()), storage::sync_dir)
}
