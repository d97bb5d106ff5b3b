//! The control socket: how a command tells the running server of this data directory what it has changed.
//!
//! It is `plenum.sock` in the data directory, HTTP on a Unix socket, for the server's own user and root alone. What a
//! command changes is in the database before the server is told, and the server finds it there within a second in any
//! case; once it was told, it goes by it at once.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::ServerHandle,
    post,
    web::{Data, scope},
};
use anyhow::Context;
use tokio_util::task::TaskTracker;

use crate::apps::Keyring;

/// The control socket of a running server.
pub struct Control {
    server: ServerHandle,
    path: PathBuf,
    /// Locked while the socket is this server's; the kernel unlocks it when the process ends, however that happens.
    _lock: File,
}

impl Control {
    /// Serves the control socket of `data_dir`, which is made where it is missing, on the current Tokio runtime. A socket
    /// that a killed server left is replaced.
    ///
    /// # Errors
    ///
    /// When another server serves it, or the directory does not let us.
    pub fn serve(data_dir: &Path, keyring: Arc<Keyring>) -> anyhow::Result<Self> {
        let path = data_dir.join(SOCKET);
        let lock = lock(data_dir)?;
        let listener =
            bind(data_dir, &path).with_context(|| format!("{} cannot be made", path.display()))?;
        let keyring = Data::from(keyring);
        let routes = move || {
            let family = scope("/control").service(forget_keys);
            App::new().app_data(keyring.clone()).service(family)
        };
        let server = HttpServer::new(routes)
            .workers(1)
            .max_connections(CONNECTIONS)
            .disable_signals()
            .listen_uds(listener)?
            .run();
        let handle = server.handle();
        // It ends with its handle, in `stop`, so nothing else waits for it.
        TaskTracker::new().spawn(server);
        Ok(Self {
            server: handle,
            path,
            _lock: lock,
        })
    }

    /// Stops serving, and removes the socket.
    ///
    /// # Errors
    ///
    /// When the socket cannot be removed; the next server replaces it.
    pub async fn stop(self) -> io::Result<()> {
        self.server.stop(true).await;
        fs::remove_file(self.path)
    }
}

/// Has the running server forget what it knows of secret keys; does nothing where none runs on `data_dir`.
///
/// # Errors
///
/// When there is one, and it cannot be told.
pub async fn keys_changed(data_dir: &Path) -> anyhow::Result<()> {
    let server = reqwest::Client::builder()
        .unix_socket(data_dir.join(SOCKET))
        .no_proxy()
        .timeout(PATIENCE)
        .build()?;
    match server.post(FORGET_KEYS).send().await {
        Ok(answer) => Ok(answer.error_for_status().map(drop)?),
        Err(error) if nobody_listens(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Keys were made, revoked or rotated.
#[post("/keys/forget")]
async fn forget_keys(keyring: Data<Keyring>) -> HttpResponse {
    keyring.forget_all();
    HttpResponse::NoContent().finish()
}

fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let open = || {
        fs::create_dir_all(data_dir)?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(data_dir.join(LOCK))
    };
    let file = open().with_context(|| format!("{} cannot be written to", data_dir.display()))?;
    file.try_lock()
        .with_context(|| format!("another server uses {}", data_dir.display()))?;
    Ok(file)
}

/// A socket at `path` that nobody else could connect to at any time: it is made in a directory that is closed to them, and
/// moved from there. To be called under the lock.
fn bind(data_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    let closed = data_dir.join(CLOSED);
    match fs::remove_dir_all(&closed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => DirBuilder::new().mode(0o700).create(&closed)?,
    }
    let made = closed.join("s"); // short, as paths of sockets must be
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, Permissions::from_mode(0o600))?;
    fs::rename(&made, path)?;
    fs::remove_dir(&closed)?;
    Ok(listener)
}

/// Whether there is no socket, or one that a killed server left.
fn nobody_listens(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            );
        }
        cause = error.source();
    }
    false
}

const SOCKET: &str = "plenum.sock";
const LOCK: &str = "plenum.lock";
/// Where the socket is made.
const CLOSED: &str = ".sock";
/// The host is nobody's: the socket says whom it concerns.
const FORGET_KEYS: &str = "http://localhost/control/keys/forget";
/// Commands are few.
const CONNECTIONS: usize = 16;
/// The server answers without asking anybody.
const PATIENCE: Duration = Duration::from_secs(2);
