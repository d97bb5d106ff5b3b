//! A private Postgres server: started with Plenum where no `DATABASE_URL` is given, and stopped with it.
//!
//! It listens on a Unix socket in a directory of its own and never on TCP, it never runs as root, and its data outlives
//! any crash of either process. All of it lies under the data directory:
//!
//! | path | what |
//! | --- | --- |
//! | `postgres/` | the data of Postgres, made by `initdb` at the first start |
//! | `postgres-socket/` | the Unix socket; a path too long for the system is replaced by a short temporary one |
//! | `postgres.log` | what the server says, 8 MiB at most; before that, `postgres.log.1` |
//! | `postgres.lock` | locked by the process that runs the server |

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::mpsc,
    thread,
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};
use tokio::sync::oneshot;

mod programs;
mod server;

use self::server::{PidFile, Server};

/// The database in the cluster that Plenum uses.
const DATABASE: &str = "plenum";
/// The superuser of the cluster. It needs no password: only its own directory's owner and root reach the socket.
const SUPERUSER: &str = "plenum";
/// Names the socket's file; no TCP port is opened.
const PORT: u16 = 5432;

/// A running Postgres server that belongs to this process.
///
/// [`stop`](Self::stop) ends it in order. Dropped, it is stopped in the background; and when the process dies, however that
/// happens, the kernel asks the server to stop. If the server dies, it is started again.
#[derive(Debug)]
pub struct Cluster {
    socket_dir: PathBuf,
    /// Never sends: the server's thread stops the server once this is dropped.
    hold: mpsc::SyncSender<Infallible>,
    stopped: oneshot::Receiver<Result<(), Error>>,
}

impl Cluster {
    /// Starts the server whose files are under `data_dir`, which is made where it is missing, and returns once the server
    /// answers. What a crash left behind is cleared away first.
    ///
    /// # Errors
    ///
    /// [`Error::Running`] when another process runs this cluster; the other variants say what to do about them.
    pub async fn start(data_dir: &Path) -> Result<Self, Error> {
        Self::start_unless(data_dir, std::future::pending()).await
    }

    /// As [`Cluster::start`], given up when `told_to_stop` comes true first: then nothing of it runs when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Abandoned`] where it was given up.
    pub async fn start_unless(
        data_dir: &Path,
        told_to_stop: impl Future<Output = ()>,
    ) -> Result<Self, Error> {
        let data_dir = std::path::absolute(data_dir).map_err(Error::io("resolve", data_dir))?;
        let (hold, lifeline) = mpsc::sync_channel(0);
        let (ready, mut when_ready) = oneshot::channel();
        let (stopping, stopped) = oneshot::channel();
        thread::Builder::new()
            .name("postgres".into())
            .spawn(move || run(&data_dir, &Lifeline(lifeline), ready, stopping))
            .map_err(Error::Thread)?;
        let started = tokio::select! {
            biased;
            started = &mut when_ready => Some(started),
            () = told_to_stop => None,
        };
        let Some(started) = started else {
            drop(hold);
            if let Ok(Ok(_)) = when_ready.await {
                let _ = stopped.await; // it is stopped as any other, and nobody needs to know how that went
            }
            return Err(Error::Abandoned);
        };
        let socket_dir = started.map_err(|_| Error::Abandoned)??;
        let cluster = Self {
            socket_dir,
            hold,
            stopped,
        };
        create_database(&cluster.socket_dir).await?;
        Ok(cluster)
    }

    /// How to connect to the database, as the cluster's superuser.
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(&self.socket_dir, DATABASE)
    }

    /// Whether there is a cluster under `data_dir`, running or not.
    pub fn exists(data_dir: &Path) -> bool {
        data_dir.join(server::DATA).join("PG_VERSION").exists()
    }

    /// How to connect to the cluster of `data_dir` while another process runs it; `None` when none does, or when this user
    /// may not know.
    pub fn running(data_dir: &Path) -> Option<PgConnectOptions> {
        let data = std::path::absolute(data_dir).ok()?.join(server::DATA);
        let file =
            PidFile::read(&data).filter(|file| file.ready && file.names_a_process_in(&data))?;
        Some(connect_options(&file.socket_dir, DATABASE))
    }

    /// Stops the server: connections are closed, what was committed is on disk. Takes 45 s at the very most.
    ///
    /// # Errors
    ///
    /// When the server's end could not be waited for.
    pub async fn stop(self) -> Result<(), Error> {
        drop(self.hold);
        self.stopped.await.map_err(|_| Error::Abandoned)?
    }
}

/// Why the cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster is in use.
    #[error("another process already runs the database in {}; stop that one first, or use another data directory", .0.display())]
    Running(PathBuf),
    /// There is no Postgres on this machine.
    #[error(
        "PostgreSQL is not installed. Install it with `apt-get install -y postgresql`, or set DATABASE_URL to a server of yours"
    )]
    NotInstalled,
    /// `PG_BIN_DIR` does not lead to Postgres.
    #[error("PG_BIN_DIR is {}, where the programs `postgres` and `initdb` are not both found", .0.display())]
    NotInBinDir(PathBuf),
    /// The cluster needs a release of Postgres that is not here.
    #[error(
        "the database in {} belongs to PostgreSQL {needed}, which is not installed (found: {found}). Install it with \
         `apt-get install -y postgresql-{needed}`, or move the data to another release with pg_upgrade",
        data.display()
    )]
    ReleaseMissing {
        /// The data of the cluster.
        data: PathBuf,
        /// The major release that made it.
        needed: u32,
        /// The releases that are here, in words.
        found: String,
    },
    /// Postgres refuses to run as root, and there is nobody else to run it as.
    #[error(
        "PostgreSQL does not run as root and there is no user `postgres` to run it as; make one with `adduser --system postgres`"
    )]
    NoUser,
    /// Postgres needs the name of its user.
    #[error(
        "the user id {0} has no entry in /etc/passwd, without which PostgreSQL does not start; add one, or run as another user"
    )]
    Nameless(u32),
    /// The data belong to somebody else.
    #[error("{} belongs to the user id {owner}, who is not the one to run PostgreSQL here ({wanted})", data.display())]
    Owner {
        /// The data of the cluster.
        data: PathBuf,
        /// Whose they are.
        owner: u32,
        /// Whose they would have to be.
        wanted: String,
    },
    /// The user of Postgres cannot reach the data.
    #[error(
        "{} is closed to the user `{user}`, as whom PostgreSQL runs. Choose another data directory (PLENUM_DATA_DIR), or let \
         that user pass with `chmod o+x {}`", closed.display(), closed.display()
    )]
    OutOfReach {
        /// The topmost directory on the way to the data that the user may not pass.
        closed: PathBuf,
        /// The user's name.
        user: String,
    },
    /// The first step of a new cluster failed.
    #[error("initdb failed: {0}")]
    InitDb(String),
    /// The server ended instead of starting.
    #[error("PostgreSQL did not start ({status}); it said: {said}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        said: String,
    },
    /// The server did not become ready in time.
    #[error("PostgreSQL was not ready after {} s; it said: {said}", limit.as_secs())]
    NotReady {
        /// How long it was waited for.
        limit: Duration,
        /// The end of its log.
        said: String,
    },
    /// A leftover of an earlier run does not end.
    #[error("an earlier PostgreSQL (process {0}) still uses this data directory and does not stop")]
    Leftover(i32),
    /// The start was given up by the caller, or the thread of the server is gone.
    #[error("the start of PostgreSQL was given up")]
    Abandoned,
    /// No thread could be started.
    #[error("no thread for PostgreSQL could be started")]
    Thread(#[source] io::Error),
    /// A file or process could not be handled.
    #[error("could not {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or program.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The server runs and could not be asked for its database.
    #[error("could not create the database")]
    Database(#[from] sqlx::Error),
}

impl Error {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// Tells the thread of the server whether the server is still wanted.
struct Lifeline(mpsc::Receiver<Infallible>);

impl Lifeline {
    /// Waits for `time`, or until the server is no longer wanted; whether it still is.
    fn holds_for(&self, time: Duration) -> bool {
        matches!(
            self.0.recv_timeout(time),
            Err(mpsc::RecvTimeoutError::Timeout)
        )
    }
}

/// The life of the server's thread. It is a thread, and this one, because the kernel's promise to stop a child with its
/// parent ([`server`]) is about the parent's thread.
fn run(
    data_dir: &Path,
    lifeline: &Lifeline,
    ready: oneshot::Sender<Result<PathBuf, Error>>,
    stopped: oneshot::Sender<Result<(), Error>>,
) {
    let started = Server::open(data_dir).and_then(|server| Ok((server.start(lifeline)?, server)));
    let (child, server) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = ready.send(Err(error)); // nobody waits any more: then nobody needs to know
            return;
        }
    };
    let _ = ready.send(Ok(server.socket_dir().to_owned()));
    let outcome = server.supervise(child, lifeline);
    drop(server); // unlocked before anybody is told, so that the next start is not refused
    let _ = stopped.send(outcome);
}

fn connect_options(socket_dir: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(PORT)
        .username(SUPERUSER)
        .database(database)
}

async fn create_database(socket_dir: &Path) -> Result<(), Error> {
    let mut connection = connect_options(socket_dir, "postgres").connect().await?;
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
    if !exists {
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {DATABASE}")))
            .execute(&mut connection)
            .await?;
    }
    connection.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests;
