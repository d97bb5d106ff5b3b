//! Postgres: the pools of the two roles, the tenant of a transaction, and the schema.

pub mod cluster;

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool, PgTransaction, Postgres,
    migrate::Migrator,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::id::AppId;

/// Settings of the database.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
#[group(skip)]
pub struct Config {
    /// Postgres server to use, as a `postgres://` URL; without it a private cluster runs under the data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `DATABASE_URL` is not one.
    #[error("DATABASE_URL must be a postgres:// URL: {0}")]
    Url(#[source] sqlx::Error),
    /// The server does not let us make or use the two roles.
    #[error(
        "the database user {user:?} can neither use nor make the roles plenum_app and plenum_system; \
         have an administrator run:\n  create role plenum_app nologin;\n  create role plenum_system nologin;\n  \
         grant plenum_app, plenum_system to \"{user}\";"
    )]
    Roles {
        /// Who we log in as.
        user: String,
    },
    /// The schema could not be brought up to date.
    #[error("the database schema could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Postgres refused or is away.
    #[error("Postgres: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// The database, by role. Clones share the pools.
#[derive(Clone, Debug)]
pub struct Db {
    app: PgPool,
    system: PgPool,
}

/// A connection of `plenum_system`, which sees every tenant: only store functions that are cross-tenant by nature take one.
#[derive(Debug)]
pub struct System(PoolConnection<Postgres>);

impl Deref for System {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for System {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

/// The schema, as this binary knows it.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// How to reach the server of this URL.
pub fn options(url: &SecretString) -> Result<PgConnectOptions, Error> {
    url.expose_secret().parse().map_err(Error::Url)
}

/// Brings the schema up to date, one process at a time (an advisory lock).
///
/// # Errors
///
/// [`Error::Roles`] with the SQL to run where the server does not let us make the two roles.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), Error> {
    let mut conn = options
        .clone()
        .disable_statement_logging()
        .connect()
        .await?;
    check_roles(&mut conn).await?;
    MIGRATIONS.run(&mut conn).await?;
    conn.close().await?;
    Ok(())
}

async fn check_roles(conn: &mut PgConnection) -> Result<(), Error> {
    let (user, usable): (String, bool) = sqlx::query_as(
        "select current_user::text,
                (select rolsuper or rolcreaterole from pg_roles where rolname = current_user)
                or (select count(*) = 2 from pg_roles
                    where rolname in ('plenum_app', 'plenum_system') and pg_has_role(current_user, oid, 'member'))",
    )
    .fetch_one(conn)
    .await?;
    if usable {
        Ok(())
    } else {
        Err(Error::Roles { user })
    }
}

impl Db {
    /// The pools over a server whose schema is up to date. Connects when first used.
    pub fn new(options: &PgConnectOptions) -> Self {
        let pool = |role: &'static str, size| {
            PgPoolOptions::new()
                .max_connections(size)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .after_connect(move |conn, _| {
                    Box::pin(async move {
                        conn.execute(role).await?;
                        Ok(())
                    })
                })
                .connect_lazy_with(options.clone().application_name("plenum"))
        };
        Self {
            app: pool("set role plenum_app", 16),
            system: pool("set role plenum_system", 8),
        }
    }

    /// A transaction of `plenum_app` that sees the rows of `app` and no others.
    pub async fn begin(&self, app: AppId) -> sqlx::Result<PgTransaction<'static>> {
        let mut tx = self.app.begin().await?;
        sqlx::query("select set_config('plenum.app_id', $1, true)")
            .bind(app.to_string())
            .execute(&mut *tx)
            .await?;
        Ok(tx)
    }

    /// A connection of `plenum_system`.
    pub async fn system(&self) -> sqlx::Result<System> {
        Ok(System(self.system.acquire().await?))
    }

    /// Asks Postgres for an answer.
    pub async fn ping(&self) -> sqlx::Result<()> {
        self.system().await?.ping().await
    }

    /// Closes the connections once they are free.
    pub async fn close(&self) {
        futures_util::future::join(self.app.close(), self.system.close()).await;
    }
}

/// The name of the constraint that a statement ran against.
pub fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

/// Whether the server could not be asked at all, as against: it answered with an error.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(error) => {
            // 57P0x: the server is shutting down or starting; 08xxx: the connection broke; 53300: too many connections.
            error.code().is_some_and(|code| {
                code.starts_with("57P") || code.starts_with("08") || code == "53300"
            })
        }
        _ => false,
    }
}

/// Long enough for a burst, short enough that a caller still hears of it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
