//! Postgres: the pools of the two roles, the tenant of a transaction, and the schema.

pub mod cluster;

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use chrono::TimeDelta;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool, PgTransaction,
    Postgres,
    migrate::Migrator,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use tracing::{debug, warn};

use crate::{
    clock::{Clock, Sample},
    id::AppId,
};

/// Settings of the database.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
#[group(skip)]
pub struct Config {
    /// Postgres server to use, as a `postgres://` URL; without it a private cluster runs under the data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// Longest time that one statement may take.
    #[arg(long, env = "PLENUM_DATABASE_STATEMENT_TIMEOUT", default_value = "10s", value_parser = limit)]
    pub database_statement_timeout: Duration,
    /// Longest time that a statement may wait for a lock that another one holds.
    #[arg(long, env = "PLENUM_DATABASE_LOCK_TIMEOUT", default_value = "5s", value_parser = limit)]
    pub database_lock_timeout: Duration,
    /// Longest time that a transaction may stand still between two statements; Postgres then ends its connection.
    #[arg(long, env = "PLENUM_DATABASE_IDLE_TRANSACTION_TIMEOUT", default_value = "15s", value_parser = limit)]
    pub database_idle_transaction_timeout: Duration,
}

impl Config {
    /// `options`, with the limits of these settings on every statement. Migrations run without them.
    pub fn limited(&self, options: PgConnectOptions) -> PgConnectOptions {
        let limits = [
            ("statement_timeout", self.database_statement_timeout),
            ("lock_timeout", self.database_lock_timeout),
            (
                "idle_in_transaction_session_timeout",
                self.database_idle_transaction_timeout,
            ),
        ];
        options.options(limits.map(|(name, limit)| (name, format!("{}ms", limit.as_millis()))))
    }
}

fn limit(text: &str) -> Result<Duration, String> {
    let limit = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    // Postgres takes 0 for no limit at all, and counts milliseconds in 31 bits.
    if (Duration::from_millis(1)..=Duration::from_hours(24)).contains(&limit) {
        Ok(limit)
    } else {
        Err("must be from 1ms to 24h".to_owned())
    }
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `DATABASE_URL` is not one.
    #[error("DATABASE_URL must be a postgres:// URL: {0}")]
    Url(#[source] sqlx::Error),
    /// The server does not let us make or use the two roles.
    #[error(
        "the database user {user:?} can neither use the roles plenum_app and plenum_system nor give itself the right to; \
         have an administrator run:\n  create role plenum_app nologin;\n  create role plenum_system nologin;\n  \
         grant plenum_app, plenum_system to \"{user}\";"
    )]
    Roles {
        /// Who we log in as.
        user: String,
    },
    /// This binary is too old for the schema.
    #[error(
        "this plenum is too old for the database: it knows the schema up to version {known}, and the database needs \
         {minimum} or later; run a newer plenum"
    )]
    TooOld {
        /// Our newest migration.
        known: i64,
        /// What the schema needs at least.
        minimum: i64,
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
    /// For what must not wait behind requests.
    keeper: PgPool,
}

/// A connection of `plenum_system`, which sees every tenant: only store functions that are cross-tenant by nature take one.
#[derive(Debug)]
pub struct System(PoolConnection<Postgres>);

/// Connections of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// How many are open.
    pub open: u32,
    /// How many of them nobody uses.
    pub idle: u32,
    /// How many there can be.
    pub limit: u32,
}

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

/// The schema, as this binary knows it. A newer one, with migrations that are not of this binary, is left as it is.
pub static MIGRATIONS: Migrator = Migrator {
    ignore_missing: true,
    ..sqlx::migrate!()
};

/// How to reach the server of this URL.
pub fn options(url: &SecretString) -> Result<PgConnectOptions, Error> {
    url.expose_secret().parse().map_err(Error::Url)
}

/// Brings the schema up to date, one process at a time (an advisory lock), and makes sure that the two roles can be used.
///
/// # Errors
///
/// [`Error::Roles`] with the SQL to run where the server does not let us make or use the two roles; [`Error::TooOld`] where
/// a newer binary has removed from the schema what this one needs. Neither changes the schema.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), Error> {
    let mut conn = options
        .clone()
        .disable_statement_logging()
        .connect()
        .await?;
    let (user, may_make, exist): (String, bool, bool) = sqlx::query_as(
        "select current_user::text, rolsuper or rolcreaterole,
                (select count(*) = 2 from pg_roles where rolname in ('plenum_app', 'plenum_system'))
         from pg_roles where rolname = current_user",
    )
    .fetch_one(&mut conn)
    .await?;
    // Before anything is changed where that is possible: the first migration makes the roles that are missing.
    if exist {
        take_roles(&mut conn, &user).await?;
    } else if !may_make {
        return Err(Error::Roles { user });
    }
    check_minimum(&mut conn).await?;
    MIGRATIONS.run(&mut conn).await?;
    // Again: a newer binary may have migrated while this one waited for its turn.
    check_minimum(&mut conn).await?;
    if !exist {
        take_roles(&mut conn, &user).await?;
    }
    conn.close().await?;
    Ok(())
}

/// Whether a database has our schema, older or newer than this binary's.
///
/// # Errors
///
/// [`Error::TooOld`], and when Postgres does not answer.
pub async fn is_migrated(options: &PgConnectOptions) -> Result<bool, Error> {
    let mut conn = options.connect().await?;
    let found = sqlx::query_scalar("select to_regclass('public.apps') is not null")
        .fetch_one(&mut conn)
        .await?;
    check_minimum(&mut conn).await?;
    conn.close().await?;
    Ok(found)
}

/// Whether this binary may run against the schema. Any may while there is none, or one from before there was a minimum.
async fn check_minimum(conn: &mut PgConnection) -> Result<(), Error> {
    let exists =
        sqlx::query_scalar("select to_regprocedure('public.plenum_schema_minimum()') is not null");
    if !exists.fetch_one(&mut *conn).await? {
        return Ok(());
    }
    let minimum = sqlx::query_scalar("select public.plenum_schema_minimum()");
    let minimum: i64 = minimum.fetch_one(conn).await?;
    let known = MIGRATIONS.iter().map(|known| known.version).max();
    match known.unwrap_or_default() {
        known if known < minimum => Err(Error::TooOld { known, minimum }),
        _ => Ok(()),
    }
}

/// Makes sure that both roles can be used, by using them; where one cannot, tries to grant it to ourselves.
///
/// From Postgres 16 on, who makes a role is its member without being allowed to `SET ROLE`, and may grant themselves that.
/// In any release the roles may have been made by somebody else, for another database of the same server.
async fn take_roles(conn: &mut PgConnection, user: &str) -> Result<(), Error> {
    let terms = match conn.server_version_num() {
        Some(version) if version >= 16_00_00 => " with set true, inherit false",
        _ => "",
    };
    for (role, set) in [
        ("plenum_app", SET_ROLE_APP),
        ("plenum_system", SET_ROLE_SYSTEM),
    ] {
        if can_be_set(conn, set).await? {
            continue;
        }
        let grant = AssertSqlSafe(format!("grant {role} to current_user{terms}"));
        let granted = sqlx::query(grant).execute(&mut *conn).await;
        if !can_be_set(conn, set).await? {
            debug!(outcome = ?granted, role, "the role cannot be granted to ourselves");
            let user = user.to_owned();
            return Err(Error::Roles { user });
        }
    }
    Ok(())
}

/// Whether the login may become this role, which is tried.
async fn can_be_set(conn: &mut PgConnection, set_role: &'static str) -> sqlx::Result<bool> {
    match conn.execute(set_role).await {
        Ok(_) => {
            conn.execute("reset role").await?;
            Ok(true)
        }
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(FORBIDDEN) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

impl Db {
    /// The pools over a server whose schema is up to date. Connects when first used.
    pub fn new(options: &PgConnectOptions) -> Self {
        let pool = |role: &'static str, size| {
            PgPoolOptions::new()
                .max_connections(size)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                // One that was used this moment needs no question whether it still stands.
                .test_before_acquire(false)
                .before_acquire(|conn, meta| {
                    Box::pin(async move {
                        if meta.idle_for > TRUSTED_FOR {
                            conn.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .after_connect(move |conn, _| {
                    Box::pin(async move {
                        conn.execute(role).await?;
                        Ok(())
                    })
                })
                .connect_lazy_with(options.clone().application_name("plenum"))
        };
        Self {
            app: pool(SET_ROLE_APP, 16),
            system: pool(SET_ROLE_SYSTEM, 8),
            keeper: pool(SET_ROLE_SYSTEM, 2),
        }
    }

    /// A transaction of `plenum_app` that sees the rows of `app` and no others.
    ///
    /// To whom it is too long may stop waiting: what they began is then finished, and rolled back. Dropped half-way, it would
    /// leave a connection in the pool that has a transaction open and does not know it (sqlx 0.9 counts one only once it has
    /// begun), and whatever is done on that by itself would not be committed.
    pub async fn begin(&self, app: AppId) -> sqlx::Result<PgTransaction<'static>> {
        // One round trip. An id is hexadecimal digits alone.
        let begin = format!("begin; select set_config('plenum.app_id', '{app}', true)");
        let pool = self.app.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends by itself, within the time limits of Postgres"
        )]
        let begun = tokio::spawn(async move { pool.begin_with(AssertSqlSafe(begin)).await });
        begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }

    /// A connection of `plenum_app` that sees no tenant, for statements that name theirs themselves: such a one is a
    /// transaction of its own, and takes one round trip.
    pub async fn without_tenant(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        self.app.acquire().await
    }

    /// A connection of `plenum_system`.
    pub async fn system(&self) -> sqlx::Result<System> {
        Ok(System(self.system.acquire().await?))
    }

    /// A connection of `plenum_system` that requests do not take: leases are renewed however many there are.
    pub async fn keeper(&self) -> sqlx::Result<System> {
        Ok(System(self.keeper.acquire().await?))
    }

    /// Lets `clock` follow Postgres's time, by the best of a few samples; returns how far it was off. What is worth a
    /// warning is warned of.
    pub async fn sample_clock(&self, clock: &Clock) -> sqlx::Result<TimeDelta> {
        let mut conn = self.keeper().await?;
        let mut samples = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            let sent = clock.instant();
            let theirs = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
                .fetch_one(&mut *conn)
                .await?;
            samples.push(Sample {
                sent,
                received: clock.instant(),
                theirs,
            });
        }
        let off = clock.follow(&samples);
        if off.abs() > WORRYING_OFFSET {
            warn!(
                offset_ms = off.num_milliseconds(),
                "this machine's clock and Postgres's differ"
            );
        }
        Ok(off)
    }

    /// Asks Postgres for an answer.
    pub async fn ping(&self) -> sqlx::Result<()> {
        self.system().await?.ping().await
    }

    /// How the pools are, by name.
    pub fn pools(&self) -> [(&'static str, Connections); 2] {
        [("app", &self.app), ("system", &self.system)].map(|(name, pool)| {
            let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
            let connections = Connections {
                open: pool.size(),
                idle,
                limit: pool.options().get_max_connections(),
            };
            (name, connections)
        })
    }

    /// Closes the connections once they are free.
    pub async fn close(&self) {
        futures_util::future::join3(self.app.close(), self.system.close(), self.keeper.close())
            .await;
    }
}

/// The name of the constraint that a statement ran against.
pub fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

/// Whether the server could not be asked, or did not answer in time, as against: it answered with an error. What was asked
/// may succeed later.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(error) => {
            // 57P0x: the server is shutting down or starting; 08xxx: the connection broke; 53300: too many connections;
            // 57014, 55P03, 25P03: the limits of `Config` on a statement, a lock and a transaction.
            error.code().is_some_and(|code| {
                code.starts_with("57P")
                    || code.starts_with("08")
                    || ["53300", "57014", "55P03", "25P03"].contains(&&*code)
            })
        }
        _ => false,
    }
}

/// Whether two transactions waited for each other, and this one was chosen to be rolled back.
pub fn is_deadlock(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("40P01")
}

const SET_ROLE_APP: &str = "set role plenum_app";
const SET_ROLE_SYSTEM: &str = "set role plenum_system";
/// `insufficient_privilege`
const FORBIDDEN: &str = "42501";
/// Enough for one of them to have had an undisturbed round trip.
const SAMPLES: usize = 3;
/// Clocks that are led by NTP differ by less.
const WORRYING_OFFSET: TimeDelta = TimeDelta::milliseconds(250);
/// For so long after its last use a connection is taken to stand.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Long enough for a burst, short enough that a caller still hears of it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
