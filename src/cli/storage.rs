//! Opens what a command works on: the given Postgres or the private cluster, and the master key.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::Context;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    apps,
    config::Storage,
    db::{self, Db, System, cluster::Cluster},
    sealed::MasterKey,
};

/// The database of this installation, as one command uses it.
pub struct Opened {
    /// How to reach it.
    options: PgConnectOptions,
    /// The limits on what is asked of it.
    limits: db::Config,
    /// The private cluster, where this command started it.
    cluster: Option<Cluster>,
}

impl Opened {
    /// Finds the database: `DATABASE_URL`, a private cluster that a server runs already, or one that is started for this
    /// command. Its schema is brought up to date.
    pub async fn open(storage: &Storage) -> anyhow::Result<Self> {
        Self::find(storage).await?.migrated().await
    }

    /// As [`Opened::open`], for the server: a private cluster that is in use already is an error, and `None` is returned
    /// when it is told to stop before the database can be used. Nothing runs then.
    pub async fn open_alone(
        storage: &Storage,
        told_to_stop: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let found = match &storage.db.database_url {
            Some(url) => Self::given(storage, db::options(url)?),
            None => {
                let stop = told_to_stop.cancelled();
                let started = Cluster::start_unless(&storage.data_dir, stop).await;
                if told_to_stop.is_cancelled() && started.is_err() {
                    return Ok(None);
                }
                Self::own(storage, started?)
            }
        };
        let migrated = db::migrate(&found.options);
        match told_to_stop.run_until_cancelled(migrated).await {
            Some(Ok(())) => Ok(Some(found)),
            Some(Err(error)) => {
                found.close().await?;
                Err(error.into())
            }
            None => {
                found.close().await?;
                Ok(None)
            }
        }
    }

    /// As [`Opened::open_alone`], for a process that works beside the server: it starts no private cluster of its own.
    pub async fn open_beside(storage: &Storage) -> anyhow::Result<Self> {
        anyhow::ensure!(
            storage.db.database_url.is_some() || Cluster::running(&storage.data_dir).is_some(),
            "PLENUM_ROLES without api and media needs a database to work on: give DATABASE_URL, or the PLENUM_DATA_DIR \
             of a server that runs on this machine"
        );
        Self::open(storage).await
    }

    /// The database as it is, for a command that only looks: `None` where there is none yet, and none is made.
    pub async fn look(storage: &Storage) -> anyhow::Result<Option<Self>> {
        if storage.db.database_url.is_none() && !Cluster::exists(&storage.data_dir) {
            return Ok(None);
        }
        let found = Self::find(storage).await?;
        match db::is_migrated(&found.options).await {
            Ok(true) => Ok(Some(found)),
            Ok(false) => {
                found.close().await?;
                Ok(None)
            }
            Err(error) => {
                found.close().await?;
                Err(error.into())
            }
        }
    }

    async fn find(storage: &Storage) -> anyhow::Result<Self> {
        Ok(if let Some(url) = &storage.db.database_url {
            Self::given(storage, db::options(url)?)
        } else if let Some(options) = Cluster::running(&storage.data_dir) {
            Self::given(storage, options)
        } else {
            Self::own(storage, Cluster::start(&storage.data_dir).await?)
        })
    }

    fn given(storage: &Storage, options: PgConnectOptions) -> Self {
        Self {
            options,
            limits: storage.db.clone(),
            cluster: None,
        }
    }

    fn own(storage: &Storage, cluster: Cluster) -> Self {
        Self {
            options: cluster.connect_options(),
            limits: storage.db.clone(),
            cluster: Some(cluster),
        }
    }

    async fn migrated(self) -> anyhow::Result<Self> {
        match db::migrate(&self.options).await {
            Ok(()) => Ok(self),
            Err(error) => {
                self.close().await?;
                Err(error.into())
            }
        }
    }

    /// The pools.
    pub fn db(&self) -> Db {
        Db::new(&self.limits.limited(self.options.clone()))
    }

    /// Stops the cluster, if this command started it.
    pub async fn close(self) -> anyhow::Result<()> {
        if let Some(cluster) = self.cluster {
            cluster.stop().await?;
        }
        Ok(())
    }
}

/// The master key: the one given, or with a private cluster the one beside it, made when there is no app yet. While it is
/// being replaced, the other one opens too.
///
/// # Errors
///
/// When it is missing, or is not the one that the secrets in the database are sealed under.
pub async fn master_key(storage: &Storage, conn: &mut System) -> anyhow::Result<MasterKey> {
    let path = storage.data_dir.join(MASTER_KEY);
    let (mut key, from) = if let Some(given) = &storage.master_key {
        let from = "PLENUM_MASTER_KEY".to_owned();
        (MasterKey::parse(given).with_context(|| from.clone())?, from)
    } else if storage.db.database_url.is_some() {
        anyhow::bail!(
            "with DATABASE_URL, PLENUM_MASTER_KEY is needed too: make one with `openssl rand -base64 32` and keep it \
             with your backups, because stored secrets cannot be read without it"
        );
    } else {
        let from = format!("the master key in {}", path.display());
        let text = match read(&path).with_context(|| format!("{from} cannot be read"))? {
            Some(text) => text,
            None => {
                anyhow::ensure!(
                    apps::list(conn).await?.is_empty(),
                    "{from} is lost, and stored secrets cannot be read without it: put it back from your backup"
                );
                make_key(&path)?
            }
        };
        let mut key = MasterKey::parse(&text).with_context(|| from.clone())?;
        let next = storage.data_dir.join(NEXT_MASTER_KEY);
        let context = || format!("the master key in {}", next.display());
        if let Some(text) = read(&next).with_context(context)? {
            warn!("`plenum key rewrap` was broken off; run it again");
            key = key.and_opens(&text).with_context(context)?;
        }
        (key, from)
    };
    if let Some(previous) = &storage.master_key_previous {
        let opens = key.and_opens(previous);
        key = opens.context("PLENUM_MASTER_KEY_PREVIOUS")?;
    }
    apps::check_master_key(conn, &key).await.context(from)?;
    Ok(key)
}

/// The text of a key's file, where there is one.
fn read(path: &Path) -> io::Result<Option<SecretString>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_key(path: &Path) -> anyhow::Result<SecretString> {
    let text = MasterKey::text(rand::rng().random());
    let context = || format!("the master key cannot be written to {}", path.display());
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(context)?;
    file.write_all(text.expose_secret().as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| path.parent().map_or(Ok(()), sync_dir))
        .with_context(context)?;
    Ok(text)
}

/// Returns once the names of a directory's files are on the disk.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// The master key of a private cluster, in the data directory.
pub const MASTER_KEY: &str = "master.key";
/// The one that is to take its place, while `plenum key rewrap` is under way.
pub const NEXT_MASTER_KEY: &str = "master.key.next";
