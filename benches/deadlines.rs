//! How late deadlines are: from when each is due to when its effect is committed, by Postgres's own commit timestamps.
//!
//! 10,000 meetings that nobody is in any more each have a deadline at which they end. The rows are written as an owner that
//! died would leave them; the built server takes the meetings over before the first is due, on a private Postgres that is as
//! durable as in production. Once the deadlines are spread evenly over a second, once they are all at one instant.
//! `script/bench deadlines` runs it.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that fails has nothing to report"
)]

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use plenum::db::cluster::Cluster;
use sqlx::{ConnectOptions, PgConnection};
use tempfile::TempDir;

const MEETINGS: i32 = 10_000;
/// From the begin of the takeover to the first deadline.
const LEAD_SECONDS: i32 = 45;
const KEY: &str = "a-secret-key-of-the-benchmark";

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // built and run by `cargo test --all-targets`, which wants no figures
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!(
        "{MEETINGS} deadlines of {MEETINGS} meetings, {} cores; due to committed in ms\n",
        std::thread::available_parallelism().unwrap()
    );
    println!(
        "{:<26} {:>9} {:>9} {:>9} {:>12} {:>12}",
        "", "p50", "p99", "max", "server CPU s", "Postgres"
    );
    let even = runtime.block_on(run("evenly over one second", 1.0));
    runtime.block_on(run("all at one instant", 0.0));
    println!();
    for (what, figure, aim) in [
        ("p50", even[0], 10.0),
        ("p99", even[1], 50.0),
        ("max", even[2], 250.0),
    ] {
        let word = if figure <= aim { "reached" } else { "MISSED" };
        println!("{what}, evenly: {figure:.0} ms   aim: at most {aim:.0}, {word}");
    }
}

/// One measurement on an installation of its own; p50, p99 and the longest.
async fn run(what: &str, spread_seconds: f64) -> [f64; 3] {
    let data = TempDir::new_in("/tmp").unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(data.path(), everybody).unwrap(); // Postgres never runs as root: its user must get through
    // Once to make the app; then Postgres is told to note when each transaction was committed.
    drop(serve(&data, &[]).await);
    let cluster = Cluster::start(data.path()).await.unwrap();
    let mut conn = cluster.connect_options().connect().await.unwrap();
    sqlx::query("alter system set track_commit_timestamp = on")
        .execute(&mut conn)
        .await
        .unwrap();
    drop(conn);
    cluster.stop().await.unwrap();
    let cluster = Cluster::start(data.path()).await.unwrap();
    let mut conn = cluster.connect_options().connect().await.unwrap();
    write_meetings(&mut conn, spread_seconds).await;

    let url = cluster.connect_options().to_url_lossy().to_string();
    let master_key = fs::read_to_string(data.path().join("master.key")).unwrap();
    let server = serve(
        &data,
        &[
            ("DATABASE_URL", &url),
            ("PLENUM_MASTER_KEY", master_key.trim()),
        ],
    )
    .await;
    let owned = "select count(*) from meetings where owner_node is not null and status = 'live'";
    until(&mut conn, owned).await;
    let early: bool = sqlx::query_scalar(
        "select clock_timestamp() < (select min(empty_since) + interval '600 s' from meetings)",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert!(early, "the takeover took longer than the deadlines wait");
    let before = cpu_seconds(&server.0, data.path());
    until(
        &mut conn,
        "select count(*) from meetings where status = 'ended'",
    )
    .await;
    let after = cpu_seconds(&server.0, data.path());
    let late: Vec<f64> = sqlx::query_scalar(
        "select extract(epoch from pg_xact_commit_timestamp(xmin) - ended_at)::float8 * 1000 as late
         from meetings order by late",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert!(late[0] >= 0.0, "early by {} ms", -late[0]);
    let quantile = |part: f64| late[((late.len() - 1) as f64 * part) as usize];
    let figures = [quantile(0.5), quantile(0.99), quantile(1.0)];
    println!(
        "{what:<26} {:>9.1} {:>9.1} {:>9.1} {:>12.1} {:>12.1}",
        figures[0],
        figures[1],
        figures[2],
        after.0 - before.0,
        after.1 - before.1
    );
    drop(server);
    drop(conn);
    cluster.stop().await.unwrap();
    figures
}

/// Live meetings whose last participant left some minutes ago, each in a room that waits for ten.
async fn write_meetings(conn: &mut PgConnection, spread_seconds: f64) {
    sqlx::query(
        "insert into rooms (id, app_id, name, rules, version, created_at)
         select decode(lpad(to_hex(n), 24, '0'), 'hex'), (select id from apps), 'room-' || n,
             '{\"endWhenEmptyAfterSec\": 600}', 0, clock_timestamp()
         from generate_series(1, $1) n",
    )
    .bind(MEETINGS)
    .execute(&mut *conn)
    .await
    .unwrap();
    sqlx::query(
        "insert into meetings (id, app_id, room_id, status, epoch, renewed_at, next_seq, participant_count, empty_since,
             last_at, created_at, started_at)
         select r.id, app_id, r.id, 'live', 1, now(), 4, 1, since, since, since, since
         from rooms r, lateral (select now() + make_interval(secs => $2 - 600
             + $3 * substring(name from 6)::int / $1) as since) as s",
    )
    .bind(MEETINGS)
    .bind(f64::from(LEAD_SECONDS))
    .bind(spread_seconds)
    .execute(&mut *conn)
    .await
    .unwrap();
    sqlx::query("analyze").execute(conn).await.unwrap();
}

/// Waits until a query counts all meetings.
async fn until(conn: &mut PgConnection, count: &'static str) {
    for _ in 0..600 {
        let counted: i64 = sqlx::query_scalar(count)
            .fetch_one(&mut *conn)
            .await
            .unwrap();
        if counted == i64::from(MEETINGS) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("not in two minutes: {count}");
}

/// A child that is told to stop with this process.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// A server that is ready.
async fn serve(data: &TempDir, settings: &[(&str, &str)]) -> Process {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = port.local_addr().unwrap().to_string();
    drop(port);
    let server = Command::new(env!("CARGO_BIN_EXE_plenum"))
        .arg("serve")
        .env_remove("DATABASE_URL")
        .env("PLENUM_BIND", &bind)
        .env("PLENUM_DATA_DIR", data.path())
        .env("PLENUM_MEDIA_PORT_BASE", "0")
        .env("PLENUM_LOG", "warn")
        .env("PLENUM_BOOTSTRAP_APP", "bench")
        .env("PLENUM_BOOTSTRAP_SECRET_KEY", KEY)
        .envs(settings.iter().copied())
        .stdout(Stdio::null())
        .stderr(fs::File::create(data.path().join("server.log")).unwrap())
        .spawn()
        .unwrap();
    let server = Process(server);
    for _ in 0..600 {
        let ready = reqwest::get(format!("http://{bind}/ready")).await;
        if ready.is_ok_and(|answer| answer.status().is_success()) {
            return server;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server does not get ready");
}

/// CPU time so far: of the server, and of all processes of the Postgres in `data`, those that ended included.
fn cpu_seconds(server: &Child, data: &std::path::Path) -> (f64, f64) {
    let pid = fs::read_to_string(data.join("postgres/postmaster.pid")).unwrap();
    let postmaster = pid.lines().next().unwrap();
    let processes = fs::read_dir("/proc").unwrap();
    let stats: Vec<Vec<String>> = processes
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            // The name of the program, in parentheses, may have spaces.
            let (pid, rest) = (
                stat.split(' ').next()?.to_owned(),
                stat.rsplit(") ").next()?,
            );
            Some(
                [pid]
                    .into_iter()
                    .chain(rest.split(' ').map(str::to_owned))
                    .collect(),
            )
        })
        .collect();
    let ticks = |fields: &[String], range: std::ops::Range<usize>| -> f64 {
        fields[range]
            .iter()
            .map(|field| field.parse::<f64>().unwrap())
            .sum()
    };
    // Fields of proc(5): user and system time, here from 12 on, and after them those of children that ended.
    let server = stats
        .iter()
        .find(|fields| fields[0] == server.id().to_string());
    let postgres = stats.iter().map(|fields| match (&*fields[0], &*fields[2]) {
        (pid, _) if pid == postmaster => ticks(fields, 12..16),
        (_, parent) if parent == postmaster => ticks(fields, 12..14),
        _ => 0.0,
    });
    let per_second = 100.0; // USER_HZ, the same on every Linux
    (
        server.map_or(0.0, |fields| ticks(fields, 12..14)) / per_second,
        postgres.sum::<f64>() / per_second,
    )
}
