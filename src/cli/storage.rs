//! Opens what a command works on: the given Postgres or the private cluster, and the master key.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context;
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;

use crate::{
    config::Storage,
    db::{self, Db, cluster::Cluster},
    sealed::MasterKey,
};

/// The database of this installation, as one command uses it.
pub struct Opened {
    /// How to reach it.
    pub options: PgConnectOptions,
    /// The private cluster, where this command started it.
    cluster: Option<Cluster>,
}

impl Opened {
    /// Finds the database: `DATABASE_URL`, a private cluster that a server runs already, or one that is started for this
    /// command. Its schema is brought up to date.
    pub async fn open(storage: &Storage) -> anyhow::Result<Self> {
        Self::find(storage, true).await
    }

    /// As [`Opened::open`], for the server: a private cluster that is in use already is an error.
    pub async fn open_alone(storage: &Storage) -> anyhow::Result<Self> {
        Self::find(storage, false).await
    }

    async fn find(storage: &Storage, share: bool) -> anyhow::Result<Self> {
        let opened = if let Some(url) = &storage.db.database_url {
            Self {
                options: db::options(url)?,
                cluster: None,
            }
        } else if let Some(options) = Cluster::running(&storage.data_dir).filter(|_| share) {
            Self {
                options,
                cluster: None,
            }
        } else {
            let cluster = Cluster::start(&storage.data_dir).await?;
            Self {
                options: cluster.connect_options(),
                cluster: Some(cluster),
            }
        };
        match db::migrate(&opened.options).await {
            Ok(()) => Ok(opened),
            Err(error) => {
                opened.close().await?;
                Err(error.into())
            }
        }
    }

    /// The pools.
    pub fn db(&self) -> Db {
        Db::new(&self.options)
    }

    /// Stops the cluster, if this command started it.
    pub async fn close(self) -> anyhow::Result<()> {
        if let Some(cluster) = self.cluster {
            cluster.stop().await?;
        }
        Ok(())
    }
}

/// The master key: the one given, or with a private cluster the one beside it, made at the first start.
pub fn master_key(storage: &Storage) -> anyhow::Result<MasterKey> {
    if let Some(given) = &storage.master_key {
        return Ok(MasterKey::parse(given)?);
    }
    if storage.db.database_url.is_some() {
        anyhow::bail!(
            "with DATABASE_URL, PLENUM_MASTER_KEY is needed too: make one with `openssl rand -base64 32` and keep it \
             with your backups, because stored secrets cannot be read without it"
        );
    }
    let path = storage.data_dir.join("master.key");
    let text = match fs::read_to_string(&path) {
        Ok(text) => SecretString::from(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_key(&path)?,
        Err(error) => {
            return Err(error)
                .with_context(|| format!("the master key in {} cannot be read", path.display()));
        }
    };
    MasterKey::parse(&text).with_context(|| format!("the master key in {}", path.display()))
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
        .with_context(context)?;
    Ok(text)
}
