//! These run the real server. As root, it runs as the user `postgres`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use sqlx::{ConnectOptions, PgConnection};
use tempfile::TempDir;

use super::*;

/// A directory that the user `postgres` may pass.
fn data_dir() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

async fn connect(cluster: &Cluster) -> PgConnection {
    cluster.connect_options().connect().await.unwrap()
}

async fn remember(cluster: &Cluster, word: &str) {
    let mut db = connect(cluster).await;
    sqlx::query("create table if not exists words (word text)")
        .execute(&mut db)
        .await
        .unwrap();
    sqlx::query("insert into words values ($1)")
        .bind(word)
        .execute(&mut db)
        .await
        .unwrap();
}

async fn remembered(cluster: &Cluster) -> Vec<String> {
    sqlx::query_scalar("select word from words order by word")
        .fetch_all(&mut connect(cluster).await)
        .await
        .unwrap()
}

async fn shown(cluster: &Cluster, setting: &str) -> String {
    let query = sqlx::AssertSqlSafe(format!("show {setting}"));
    sqlx::query_scalar(query)
        .fetch_one(&mut connect(cluster).await)
        .await
        .unwrap()
}

fn postmaster(data_dir: &TempDir) -> Pid {
    let text = fs::read_to_string(data_dir.path().join("postgres/postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
}

fn lives(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits for something that another process does in its own time.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 30 s");
}

#[tokio::test]
async fn it_starts_empty_and_keeps_its_data_over_a_restart() {
    let dir = data_dir();
    let first = Cluster::start(dir.path()).await.unwrap();
    remember(&first, "kept").await;
    first.stop().await.unwrap();
    let second = Cluster::start(dir.path()).await.unwrap();
    assert_eq!(remembered(&second).await, ["kept"]);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn it_is_durable_and_open_to_nobody_else() {
    let dir = data_dir();
    let cluster = Cluster::start(dir.path()).await.unwrap();
    for (setting, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("unix_socket_permissions", "0700"),
        ("server_encoding", "UTF8"),
        ("timezone", "UTC"),
    ] {
        assert_eq!(shown(&cluster, setting).await, value, "{setting}");
    }
    for path in ["postgres", "postgres-socket"] {
        let mode = fs::metadata(dir.path().join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{path}");
    }
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn it_is_gone_once_it_is_stopped() {
    let dir = data_dir();
    let cluster = Cluster::start(dir.path()).await.unwrap();
    let pid = postmaster(&dir);
    cluster.stop().await.unwrap();
    assert!(!lives(pid));
    assert!(
        !dir.path().join("postgres/postmaster.pid").exists(),
        "an orderly shutdown removes it"
    );
    assert!(Cluster::running(dir.path()).is_none());
}

#[tokio::test]
async fn a_second_start_on_the_same_directory_is_refused_and_harms_nothing() {
    let dir = data_dir();
    let cluster = Cluster::start(dir.path()).await.unwrap();
    let error = Cluster::start(dir.path()).await.unwrap_err();
    assert!(matches!(error, Error::Running(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("another process already runs the database"),
        "{error}"
    );
    remember(&cluster, "still here").await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn another_process_finds_the_running_cluster() {
    let dir = data_dir();
    assert!(Cluster::running(dir.path()).is_none());
    let cluster = Cluster::start(dir.path()).await.unwrap();
    let mut db = Cluster::running(dir.path())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let name: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(name, "plenum");
    drop(db);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_killed_is_started_again_with_its_data() {
    let dir = data_dir();
    let cluster = Cluster::start(dir.path()).await.unwrap();
    remember(&cluster, "committed").await;
    let killed = postmaster(&dir);
    kill(killed, Signal::SIGKILL).unwrap();
    until("the next server", async || {
        PidFile::read(&dir.path().join("postgres")).is_some_and(|file| file.ready)
            && postmaster(&dir) != killed
    })
    .await;
    assert_eq!(remembered(&cluster).await, ["committed"]);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_right_after_the_server_was_killed_recovers_it() {
    let dir = data_dir();
    let cluster = Cluster::start(dir.path()).await.unwrap();
    remember(&cluster, "committed").await;
    kill(postmaster(&dir), Signal::SIGKILL).unwrap();
    cluster.stop().await.unwrap();
    assert!(
        dir.path().join("postgres/postmaster.pid").exists(),
        "this is how a crash leaves it"
    );
    let cluster = Cluster::start(dir.path()).await.unwrap();
    assert_eq!(remembered(&cluster).await, ["committed"]);
    cluster.stop().await.unwrap();
}

/// Not a test of its own: another test runs it as a process, to kill that.
#[tokio::test]
#[ignore = "runs until it is killed"]
async fn hold_a_cluster() {
    let dir = std::env::var_os("HOLD_A_CLUSTER").unwrap();
    let cluster = Cluster::start(Path::new(&dir)).await.unwrap();
    remember(&cluster, "committed").await;
    std::future::pending::<()>().await;
}

/// A process that runs the cluster of `dir` and will not stop it.
async fn holder(dir: &TempDir) -> std::process::Child {
    let name = format!(
        "{}::hold_a_cluster",
        module_path!().split_once("::").unwrap().1
    );
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &name])
        .env("HOLD_A_CLUSTER", dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the holder's table", async || {
        let Some(options) = Cluster::running(dir.path()) else {
            return false;
        };
        let Ok(mut db) = options.connect().await else {
            return false;
        };
        sqlx::query("select from words")
            .fetch_optional(&mut db)
            .await
            .is_ok_and(|row| row.is_some())
    })
    .await;
    child
}

#[tokio::test]
async fn the_server_stops_when_its_process_is_killed() {
    let dir = data_dir();
    let mut process = holder(&dir).await;
    let server = postmaster(&dir);
    process.kill().unwrap();
    process.wait().unwrap();
    until("the end of the server", async || !lives(server)).await;
    let log = fs::read_to_string(dir.path().join("postgres.log")).unwrap();
    assert!(log.contains("database system is shut down"), "{log}");
}

#[tokio::test]
async fn a_start_right_after_process_and_server_were_killed_recovers_the_data() {
    for first in ["process", "server"] {
        let dir = data_dir();
        let mut process = holder(&dir).await;
        let server = postmaster(&dir);
        if first == "server" {
            kill(server, Signal::SIGKILL).unwrap();
        }
        process.kill().unwrap();
        let _ = kill(server, Signal::SIGKILL);
        process.wait().unwrap();
        let cluster = Cluster::start(dir.path()).await.unwrap();
        assert_eq!(remembered(&cluster).await, ["committed"], "{first} first");
        cluster.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_start_right_after_the_process_was_killed_waits_for_its_server_to_stop() {
    let dir = data_dir();
    let mut process = holder(&dir).await;
    process.kill().unwrap();
    process.wait().unwrap();
    let cluster = Cluster::start(dir.path()).await.unwrap();
    assert_eq!(remembered(&cluster).await, ["committed"]);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_cluster_stops_too() {
    let dir = data_dir();
    let cluster = Cluster::start(dir.path()).await.unwrap();
    let server = postmaster(&dir);
    drop(cluster);
    until("the end of the server", async || !lives(server)).await;
}

#[tokio::test]
async fn an_initdb_cut_short_is_begun_anew() {
    let dir = data_dir();
    fs::create_dir(dir.path().join("postgres.new")).unwrap();
    fs::write(dir.path().join("postgres.new/PG_VERSION"), "15\n").unwrap();
    Cluster::start(dir.path())
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_gets_a_short_one() {
    let dir = data_dir();
    let deep = dir.path().join("a long name, with a comma ".repeat(4));
    let cluster = Cluster::start(&deep).await.unwrap();
    let socket_dir = cluster.socket_dir.clone();
    assert!(socket_dir.starts_with("/tmp"), "{}", socket_dir.display());
    remember(&cluster, "reached").await;
    cluster.stop().await.unwrap();
    assert!(!socket_dir.exists(), "it is temporary");
}

#[tokio::test]
async fn a_long_log_is_moved_aside_while_the_server_runs() {
    let dir = data_dir();
    let cluster = Cluster::start(dir.path()).await.unwrap();
    let log = dir.path().join("postgres.log");
    fs::OpenOptions::new()
        .append(true)
        .open(&log)
        .unwrap()
        .set_len(9 << 20)
        .unwrap();
    until("a short log", async || {
        fs::metadata(&log).is_ok_and(|found| found.len() < 1 << 20)
    })
    .await;
    cluster.stop().await.unwrap();
    let end = fs::read_to_string(&log).unwrap();
    assert!(
        end.contains("database system is shut down"),
        "the server goes on at the new end: {end}"
    );
    assert!(
        fs::metadata(dir.path().join("postgres.log.1"))
            .unwrap()
            .len()
            > 8 << 20
    );
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    let dir = data_dir();
    Cluster::start(dir.path())
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
    fs::write(
        dir.path().join("postgres/postgresql.auto.conf"),
        "no_such_setting = 1\n",
    )
    .unwrap();
    let error = Cluster::start(dir.path()).await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn a_release_that_is_not_installed_is_named() {
    let dir = data_dir();
    Cluster::start(dir.path())
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
    fs::write(dir.path().join("postgres/PG_VERSION"), "8\n").unwrap();
    let error = Cluster::start(dir.path()).await.unwrap_err();
    assert!(
        matches!(error, Error::ReleaseMissing { needed: 8, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn as_root_a_directory_closed_to_postgres_is_named() {
    if !geteuid().is_root() {
        return; // nobody else is involved then
    }
    let dir = data_dir();
    fs::create_dir_all(dir.path().join("closed/data")).unwrap();
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let error = Cluster::start(&dir.path().join("closed/data"))
        .await
        .unwrap_err();
    let closed = dir.path().canonicalize().unwrap().join("closed");
    assert!(
        matches!(&error, Error::OutOfReach { closed: named, .. } if *named == closed),
        "{error}"
    );
    assert!(error.to_string().contains("PLENUM_DATA_DIR"), "{error}");
}
