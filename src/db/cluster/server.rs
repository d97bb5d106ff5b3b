//! The processes and files of the server. Everything here blocks, and is called on the server's own thread.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, Uid, User, geteuid, getpid, getppid, mkdtemp},
};
use tracing::{error, info, warn};

use super::{Error, Lifeline, PORT, SUPERUSER, programs::Search};

/// The folder of the data directory that Postgres calls its own.
pub(super) const DATA: &str = "postgres";

/// What is set on the command line, where no file of the cluster overrides it. The rest keeps Postgres's own defaults
/// (100 connections, durable commits) and can be tuned in `postgres/postgresql.conf`.
const SETTINGS: [&str; 8] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "timezone=UTC",
    "log_timezone=UTC",
    // A failed statement is answered to us and logged by us. Here it would only put what people sent into a file.
    "log_min_messages=log",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_checkpoints=off",
];

/// A cluster that this process has locked, running or not.
pub(super) struct Server {
    data: PathBuf,
    log: Log,
    socket: SocketDir,
    programs: PathBuf,
    account: Account,
    /// Held until this is dropped.
    _lock: File,
}

impl Server {
    /// Makes sure that there is a cluster under `data_dir` and that it is ours alone.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(data_dir).map_err(Error::io("create", data_dir))?;
        // without symbolic links, as the system tells where a process works
        let data_dir = &data_dir
            .canonicalize()
            .map_err(Error::io("resolve", data_dir))?;
        let lock = lock(data_dir)?;
        let data = data_dir.join(DATA);
        let account = Account::for_data(&data)?;
        account.check_way_to(data_dir)?;
        let search = Search::of_this_process();
        let programs = if let Some(release) = release(&data)? {
            search.of_release(release, &data)?
        } else {
            let programs = search.newest()?;
            create_cluster(&programs, &account, &data)?;
            programs
        };
        let socket = SocketDir::create(data_dir, &account)?;
        Ok(Self {
            log: Log(data_dir.join("postgres.log")),
            data,
            socket,
            programs,
            account,
            _lock: lock,
        })
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket.path
    }

    /// Starts the server and waits until it answers.
    pub fn start(&self, lifeline: &Lifeline) -> Result<Child, Error> {
        self.stop_leftover()?;
        let mut tries = LEFTOVER_LIMIT.as_millis() / LEFTOVER_RETRY.as_millis();
        loop {
            self.log.shorten();
            let begin = self.log.len();
            let mut child = self.spawn()?;
            match self.wait_until_ready(&mut child, begin, lifeline) {
                Ok(()) => {
                    info!(process.id = child.id(), "Postgres runs");
                    return Ok(child);
                }
                Err(Error::Exited { said, .. }) if tries > 0 && tells_of_leftover(&said) => {
                    tries -= 1;
                }
                Err(error) => {
                    stop_child(&mut child)?;
                    return Err(error);
                }
            }
            if !lifeline.holds_for(LEFTOVER_RETRY) {
                return Err(Error::Abandoned);
            }
        }
    }

    /// Keeps the server running until it is no longer wanted, then stops it.
    pub fn supervise(&self, mut child: Child, lifeline: &Lifeline) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        while lifeline.holds_for(LOOK) {
            self.log.shorten();
            let Some(status) = child
                .try_wait()
                .map_err(Error::io("wait for", &self.programs))?
            else {
                continue;
            };
            error!(process.status = %status, "Postgres ended by itself and is started again");
            child = loop {
                match self.start(lifeline) {
                    Ok(child) => break child,
                    Err(Error::Abandoned) => return Ok(()),
                    Err(error) => error!(
                        error = &error as &dyn std::error::Error,
                        "Postgres does not start"
                    ),
                }
                if !lifeline.holds_for(pause) {
                    return Ok(());
                }
                pause = (2 * pause).min(LONGEST_PAUSE);
            };
            pause = FIRST_PAUSE;
        }
        stop_child(&mut child)
    }

    fn spawn(&self) -> Result<Child, Error> {
        let log = self.log.open().map_err(Error::io("open", &self.log.0))?;
        let mut command = self.account.command(&self.programs.join("postgres"));
        command
            .arg("-D")
            .arg(&self.data)
            .arg("-k")
            .arg(&self.socket.path)
            .args(["-p", &PORT.to_string()]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command.process_group(0); // Ctrl-C in a terminal reaches us alone, and we stop the server after its users
        stop_with_this_thread(&mut command);
        command
            .spawn()
            .map_err(Error::io("run", &self.programs.join("postgres")))
    }

    fn wait_until_ready(
        &self,
        child: &mut Child,
        log_begin: u64,
        lifeline: &Lifeline,
    ) -> Result<(), Error> {
        // Waits are counted, not timed: it does not matter that they last a little longer than they say.
        for _ in 0..READY_LIMIT.as_millis() / POLL.as_millis() {
            if let Some(status) = child
                .try_wait()
                .map_err(Error::io("wait for", &self.programs))?
            {
                return Err(Error::Exited {
                    status,
                    said: self.log.since(log_begin),
                });
            }
            if PidFile::read(&self.data)
                .is_some_and(|file| file.ready && file.pid.as_raw().cast_unsigned() == child.id())
            {
                return Ok(());
            }
            if !lifeline.holds_for(POLL) {
                return Err(Error::Abandoned);
            }
        }
        Err(Error::NotReady {
            limit: READY_LIMIT,
            said: self.log.since(log_begin),
        })
    }

    /// Stops a server that outlived the process that started it. We hold the lock, so it has no other master.
    fn stop_leftover(&self) -> Result<(), Error> {
        let Some(file) =
            PidFile::read(&self.data).filter(|file| file.names_a_process_in(&self.data))
        else {
            return Ok(());
        };
        warn!(
            process.id = file.pid.as_raw(),
            "an earlier Postgres still uses the data and is stopped"
        );
        stop(file.pid, || Ok(!file.names_a_process_in(&self.data)))
    }
}

/// The parts of `postmaster.pid` that we need; it is the server's own word on where it is and how it does.
pub(super) struct PidFile {
    pid: Pid,
    pub socket_dir: PathBuf,
    pub ready: bool,
}

impl PidFile {
    /// The file of the cluster in `data`; `None` where there is none, or not yet a whole one.
    pub fn read(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        Some(Self {
            pid: Pid::from_raw(lines.first()?.trim().parse().ok().filter(|pid| *pid > 0)?),
            socket_dir: lines.get(4)?.into(),
            ready: lines.get(7).is_some_and(|status| status.trim() == "ready"),
        })
    }

    /// Whether its process lives and is the server of `data`, not another one that came by the same number since.
    pub fn names_a_process_in(&self, data: &Path) -> bool {
        fs::read_link(format!("/proc/{}/cwd", self.pid))
            .is_ok_and(|at| data.canonicalize().is_ok_and(|data| at == data))
    }
}

/// Who runs Postgres.
struct Account {
    user: User,
    /// Whether that is somebody else than this process, which is root.
    other: bool,
}

impl Account {
    /// This user, or where this is root: the owner of the cluster, for a new one the user `postgres`.
    fn for_data(data: &Path) -> Result<Self, Error> {
        let own = geteuid();
        let owner = match fs::metadata(data) {
            Ok(found) => Some(Uid::from_raw(found.uid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("look at", data)(error)),
        };
        let user = match owner {
            Some(owner) if owner.is_root() || (owner != own && !own.is_root()) => {
                let wanted = if own.is_root() {
                    "any but root".to_owned()
                } else {
                    own.to_string()
                };
                return Err(Error::Owner {
                    data: data.to_owned(),
                    owner: owner.as_raw(),
                    wanted,
                });
            }
            None if own.is_root() => lookup(User::from_name("postgres"))?.ok_or(Error::NoUser)?,
            owner => {
                let uid = owner.unwrap_or(own);
                lookup(User::from_uid(uid))?.ok_or(Error::Nameless(uid.as_raw()))?
            }
        };
        Ok(Self {
            user,
            other: own.is_root(),
        })
    }

    /// A program to be run by this account, in an environment that nothing of ours leaks into.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/");
        if self.other {
            command
                .uid(self.user.uid.as_raw())
                .gid(self.user.gid.as_raw()); // std drops the other groups too
        }
        command
    }

    /// Checks that this account may pass every directory down to `dir`.
    fn check_way_to(&self, dir: &Path) -> Result<(), Error> {
        let passes = self
            .command(Path::new("/usr/bin/test"))
            .arg("-x")
            .arg(dir)
            .status();
        if passes.is_ok_and(|status| status.success()) {
            return Ok(());
        }
        let is_closed = |dir: &&Path| {
            fs::metadata(dir).is_ok_and(|found| {
                let bit = if found.uid() == self.user.uid.as_raw() {
                    0o100
                } else if found.gid() == self.user.gid.as_raw() {
                    0o010
                } else {
                    0o001
                };
                found.mode() & bit == 0
            })
        };
        let closed = dir
            .ancestors()
            .filter(is_closed)
            .last()
            .unwrap_or(dir)
            .to_owned();
        Err(Error::OutOfReach {
            closed,
            user: self.user.name.clone(),
        })
    }

    /// Makes the directory `path` for this account alone.
    fn create_dir(&self, path: &Path) -> Result<(), Error> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io("create", path)(error))
            }
            _ => self.take(path),
        }
    }

    /// Gives `path` to this account alone.
    fn take(&self, path: &Path) -> Result<(), Error> {
        if self.other {
            chown(
                path,
                Some(self.user.uid.as_raw()),
                Some(self.user.gid.as_raw()),
            )
            .map_err(Error::io("give away", path))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(Error::io("close", path))
    }
}

/// Where the socket is.
struct SocketDir {
    path: PathBuf,
    temporary: bool,
}

impl SocketDir {
    fn create(data_dir: &Path, account: &Account) -> Result<Self, Error> {
        let path = data_dir.join("postgres-socket");
        if is_socket_dir(&path) {
            account.create_dir(&path)?;
            return Ok(Self {
                path,
                temporary: false,
            });
        }
        let template = Path::new("/tmp/plenum-postgres-XXXXXX");
        let path =
            mkdtemp(template).map_err(|errno| Error::io("create", template)(errno.into()))?;
        let dir = Self {
            path,
            temporary: true,
        };
        account.take(&dir.path)?;
        Ok(dir)
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            warn!(error = &error as &dyn std::error::Error, path = %self.path.display(), "a socket directory is left");
        }
    }
}

/// Whether a socket in `dir` has a path that the system takes, and that Postgres does not read as a list.
fn is_socket_dir(dir: &Path) -> bool {
    let name = format!("/.s.PGSQL.{PORT}");
    dir.as_os_str().len() + name.len() <= LONGEST_SOCKET_PATH
        && dir
            .as_os_str()
            .as_bytes()
            .iter()
            .all(|byte| byte.is_ascii_graphic() && !b",\"'\\".contains(byte))
}

/// The file that the server's words go to.
struct Log(PathBuf);

impl Log {
    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.0)
    }

    fn len(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |found| found.len())
    }

    /// Moves what there is to a second file once it is long. The server appends, so it goes on at the new end.
    fn shorten(&self) {
        if self.len() < LONGEST_LOG {
            return;
        }
        let moved =
            fs::copy(&self.0, self.0.with_extension("log.1")).and_then(|_| self.open()?.set_len(0));
        if let Err(error) = moved {
            warn!(error = &error as &dyn std::error::Error, path = %self.0.display(), "the log is not shortened");
        }
    }

    /// What was said since the log was `begin` bytes long: the end of it, where it is much.
    fn since(&self, begin: u64) -> String {
        let mut said = Vec::new();
        let from = begin.max(self.len().saturating_sub(LONGEST_QUOTE));
        let read = File::open(&self.0).and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.take(LONGEST_QUOTE).read_to_end(&mut said)
        });
        match read {
            Ok(0) => "nothing".to_owned(),
            Ok(_) => String::from_utf8_lossy(&said).trim().to_owned(),
            Err(error) => format!("unknown, for {} cannot be read: {error}", self.0.display()),
        }
    }
}

/// Locks the cluster of `data_dir` for this process, for as long as the file is open.
fn lock(data_dir: &Path) -> Result<File, Error> {
    let path = data_dir.join("postgres.lock");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Running(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

/// The major release that made the cluster in `data`; `None` where there is no cluster yet.
fn release(data: &Path) -> Result<Option<u32>, Error> {
    let path = data.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(release) => Ok(Some(release)),
            Err(error) => Err(Error::io("understand", &path)(io::Error::other(error))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

/// Makes a new cluster beside `data` and moves it there once it is whole: `initdb` cut short leaves nothing that looks
/// like a cluster.
fn create_cluster(programs: &Path, account: &Account, data: &Path) -> Result<(), Error> {
    let new = data.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &new)(error));
        }
        _ => account.create_dir(&new)?,
    }
    let initdb = programs.join("initdb");
    let mut command = account.command(&initdb);
    command
        .arg("-D")
        .arg(&new)
        .args(["-U", SUPERUSER, "--auth-local=trust", "--auth-host=reject"]);
    command.args([
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
        "--no-instructions",
    ]);
    stop_with_this_thread(&mut command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("run", &initdb))?;
    if !output.status.success() {
        return Err(Error::InitDb(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    fs::rename(&new, data).map_err(Error::io("move the new cluster to", data))?;
    let parent = data.parent().unwrap_or(data);
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(Error::io("write", parent))?;
    info!(path = %data.display(), "a new database cluster is made");
    Ok(())
}

/// Has the kernel stop the child of `command`, with a fast shutdown, when the thread that spawns it ends.
#[expect(
    unsafe_code,
    reason = "only the child itself, before it becomes the program, can ask the kernel for this"
)]
fn stop_with_this_thread(command: &mut Command) {
    let parent = getpid();
    let ask = move || {
        prctl::set_pdeathsig(Signal::SIGINT)?;
        // Had the parent died before that, nothing would ever stop us.
        if getppid() == parent {
            Ok(())
        } else {
            Err(Errno::ESRCH.into())
        }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run. `ask` makes two plain system calls; its errors
    // are numbers, so it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(ask);
    }
}

/// Whether the server did not start because processes of an earlier one are not gone yet: its processes end a little after
/// their parent, and a dead parent that nobody has waited for still counts.
fn tells_of_leftover(said: &str) -> bool {
    (said.contains("lock file") && said.contains("already exists"))
        || said.contains("is still in use")
}

fn stop_child(child: &mut Child) -> Result<(), Error> {
    let pid = Pid::from_raw(child.id().cast_signed());
    if child.try_wait().is_ok_and(|status| status.is_some()) {
        return Ok(());
    }
    stop(pid, || Ok(child.try_wait()?.is_some()))
}

/// Stops a server: a fast shutdown (sessions are ended, all is written), then an immediate one (as after a crash), then
/// none of its choice.
fn stop(pid: Pid, mut is_gone: impl FnMut() -> io::Result<bool>) -> Result<(), Error> {
    for (signal, limit) in [
        (Signal::SIGINT, FAST_LIMIT),
        (Signal::SIGQUIT, IMMEDIATE_LIMIT),
        (Signal::SIGKILL, KILL_LIMIT),
    ] {
        if signal != Signal::SIGINT {
            warn!(process.id = pid.as_raw(), signal = %signal, "Postgres does not stop and is told so harder");
        }
        match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(Error::io("stop", Path::new(&pid.to_string()))(errno.into())),
        }
        for _ in 0..limit.as_millis() / POLL.as_millis() {
            if is_gone().map_err(Error::io("wait for", Path::new(&pid.to_string())))? {
                return Ok(());
            }
            thread::sleep(POLL);
        }
    }
    Err(Error::Leftover(pid.as_raw()))
}

fn lookup(found: nix::Result<Option<User>>) -> Result<Option<User>, Error> {
    found.map_err(|errno| Error::io("read", Path::new("/etc/passwd"))(errno.into()))
}

/// Between two looks at a process that starts or stops.
const POLL: Duration = Duration::from_millis(5);
/// Between two looks at a server that runs.
const LOOK: Duration = Duration::from_millis(200);
/// A start takes well under a second; after a crash the server first reads back what it had written since its last
/// checkpoint, up to 1 GiB.
const READY_LIMIT: Duration = Duration::from_mins(5);
/// How long the processes of a server whose parent was killed may take to notice.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(20);
const LEFTOVER_RETRY: Duration = Duration::from_millis(250);
const FAST_LIMIT: Duration = Duration::from_secs(30);
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Before a server that does not start is tried again; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Bytes of the log before it is moved aside.
const LONGEST_LOG: u64 = 8 << 20;
/// Bytes of the log that an error quotes.
const LONGEST_QUOTE: u64 = 4 << 10;
/// Bytes of a socket's path (`sun_path` of unix(7), less its final zero).
const LONGEST_SOCKET_PATH: usize = 107;
