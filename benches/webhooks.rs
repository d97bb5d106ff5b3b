//! What webhooks cost, and how soon they go out: from the commit of an event to the first byte at its receiver.
//!
//! Postgres is a private cluster, as durable as in production. The dispatcher runs in a process of its own, so that its CPU time
//! is known; this process holds the receivers. The floor is the same requests to the same receivers by a plain loop of
//! the HTTP client, without a queue, also in a process of its own. `script/bench webhooks` runs it.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that fails has nothing to report"
)]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chrono::Utc;
use clap::Parser;
use futures_util::StreamExt;
use plenum::{
    apps::{self, Environment, NewApp, SecretKey},
    clock::Clock,
    db::{self, Db, cluster::Cluster},
    id::{AppId, EventId, MeetingId, RoomId},
    sealed::MasterKey,
    webhooks::{self, Dispatcher, Event, Kind, Room, RoomUrls, SigningSecret},
};
use rand::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// Endpoints that answer, each with a port of its own.
const HEALTHY: usize = 100;
/// Endpoints that take a connection and say nothing.
const HUNG: usize = 200;
/// Events per second of the measurements of time, and for how many seconds.
const RATE: u32 = 500;
const SECONDS: u32 = 20;
/// Of these the first are not counted: what hangs is not known to, and connections to Postgres are new.
const WARM_UP_SECONDS: u32 = 12;
/// Deliveries of the measurement of throughput.
const BACKLOG: usize = 20_000;
/// What a child is to do, as JSON.
const TASK: &str = "PLENUM_BENCH_TASK";

/// What a child is to do.
#[derive(Serialize, Deserialize)]
enum Task {
    /// Deliver what is in the database, until told to stop. Emits events at the rate if there are URLs.
    Deliver {
        data: PathBuf,
        urls: Vec<String>,
        hung: Vec<String>,
        seconds: u32,
    },
    /// Post so many bodies to these URLs in turn.
    Post {
        urls: Vec<String>,
        count: usize,
        at_once: usize,
    },
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Ok(task) = std::env::var(TASK) {
        return match serde_json::from_str(&task).unwrap() {
            Task::Deliver {
                data,
                urls,
                hung,
                seconds,
            } => {
                runtime.block_on(deliver(&data, &urls, &hung, seconds));
            }
            Task::Post {
                urls,
                count,
                at_once,
            } => runtime.block_on(post(&urls, count, at_once)),
        };
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // built and run by `cargo test --all-targets`, which wants no figures
    }
    runtime.block_on(run());
}

async fn run() {
    let receivers = Receivers::open().await;
    println!(
        "{} cores; {HEALTHY} endpoints that answer at once, over loopback. CPU: of the process, in microseconds per delivery.\n",
        std::thread::available_parallelism().unwrap()
    );

    let alone = latency(&receivers, false).await;
    let beside = latency(&receivers, true).await;
    println!(
        "{:<52} {:>8} {:>8} {:>8}",
        "commit to first byte, ms", "p50", "p99", "max"
    );
    let line = |what: &str, [p50, p99, max]: [f64; 3]| {
        println!("{what:<52} {p50:>8.2} {p99:>8.2} {max:>8.2}")
    };
    line(&format!("{RATE} events per second"), alone);
    line(
        &format!("  with {HUNG} endpoints that hang, to half of all events"),
        beside,
    );
    println!();

    let (rate, own, postgres) = throughput(&receivers).await;
    let (floor_rate, floor, _) = floor(&receivers).await;
    println!(
        "{:<52} {:>8} {:>8} {:>8} {:>12}",
        "throughput", "per s", "CPU", "Postgres", "per core s"
    );
    let line = |what: &str, rate: f64, own: f64, postgres: f64| {
        println!(
            "{what:<52} {rate:>8.0} {own:>8.0} {postgres:>8.0} {:>12.0}",
            1e6 / (own + postgres)
        );
    };
    line(&format!("a backlog of {BACKLOG}"), rate, own, postgres);
    line(
        "  the same requests by the HTTP client alone",
        floor_rate,
        floor,
        0.0,
    );
    println!();
    verdict(
        "p50 of commit to first byte, ms",
        alone[0],
        alone[0] <= 15.0,
        "at most 15",
    );
    verdict(
        "p99 of commit to first byte, ms",
        alone[1],
        alone[1] <= 100.0,
        "at most 100",
    );
    verdict(
        "p99 beside endpoints that hang / without",
        beside[1] / alone[1],
        beside[1] <= alone[1] * 1.1,
        "at most 1.1",
    );
    let per_core = 1e6 / (own + postgres);
    verdict(
        "deliveries per second of CPU, Postgres included",
        per_core,
        per_core >= 2000.0,
        "at least 2000",
    );
    verdict(
        "deliveries per second of CPU of the dispatcher",
        1e6 / own,
        1e6 / own >= 2000.0,
        "at least 2000",
    );
}

fn verdict(what: &str, figure: f64, holds: bool, aim: &str) {
    let word = if holds { "reached" } else { "MISSED" };
    println!("{what:<52} {figure:>8.2}   aim: {aim}, {word}");
}

/// p50, p99 and longest time from an event's commit to the first byte of its webhook, in ms, at endpoints that answer.
async fn latency(receivers: &Receivers, with_hung: bool) -> [f64; 3] {
    let database = Database::start().await;
    receivers.arrived.lock().unwrap().clear();
    let hung = if with_hung {
        receivers.hung.clone()
    } else {
        Vec::new()
    };
    let data = database.folder.path().to_owned();
    let task = Task::Deliver {
        data,
        urls: receivers.healthy.clone(),
        hung,
        seconds: SECONDS + WARM_UP_SECONDS,
    };
    let child = child(&task).wait_with_output().await.unwrap();
    let committed = String::from_utf8(child.stdout).unwrap();
    let arrived = receivers.arrived.lock().unwrap().clone();
    let mut took = Vec::new();
    for line in committed.lines() {
        let (id, at) = line.split_once(' ').unwrap();
        let at: f64 = at.parse().unwrap();
        // One that never came counts as the worst there is.
        took.push(
            arrived
                .get(id)
                .map_or(f64::INFINITY, |arrived| (arrived - at).max(0.0) * 1000.0),
        );
    }
    took.sort_unstable_by(f64::total_cmp);
    database.stop().await;
    [
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1],
    ]
}

/// Deliveries per second, and CPU time of the dispatcher and of Postgres per delivery in microseconds.
async fn throughput(receivers: &Receivers) -> (f64, f64, f64) {
    let database = Database::start().await;
    let emitter = Emitter::new(&database.db, database.app, receivers.healthy.clone()).await;
    for _ in 0..BACKLOG / 100 {
        emitter.emit(100).await;
    }
    sqlx::query("vacuum analyze")
        .execute(&database.pool)
        .await
        .unwrap();
    receivers.arrived.lock().unwrap().clear();
    let task = Task::Deliver {
        data: database.folder.path().to_owned(),
        urls: Vec::new(),
        hung: Vec::new(),
        seconds: 0,
    };
    let postgres = Stat::of_postgres(database.folder.path());
    let mut child = child(&task);
    let pid = child.id().unwrap().to_string();
    receivers.count(1).await;
    let began = Instant::now();
    // All but what is under way at the end, lest the last waits count.
    receivers.count(BACKLOG - 512).await;
    let (took, done) = (
        began.elapsed().as_secs_f64(),
        receivers.arrived.lock().unwrap().len(),
    );
    let own = Stat::read(&pid).unwrap().own;
    let postgres = Stat::of_postgres(database.folder.path()) - postgres;
    drop(child.stdin.take());
    child.wait().await.unwrap();
    database.stop().await;
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
    let done = done as f64;
    (done / took, own / done * 1e6, postgres / done * 1e6)
}

async fn floor(receivers: &Receivers) -> (f64, f64, f64) {
    receivers.arrived.lock().unwrap().clear();
    let task = Task::Post {
        urls: receivers.healthy.clone(),
        count: BACKLOG,
        at_once: 128,
    };
    let child = child(&task);
    let said = String::from_utf8(child.wait_with_output().await.unwrap().stdout).unwrap();
    let figures: Vec<f64> = said
        .split_whitespace()
        .map(|figure| figure.parse().unwrap())
        .collect();
    (figures[0], figures[1], 0.0)
}

fn child(task: &Task) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.env(TASK, serde_json::to_string(task).unwrap());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().unwrap()
}

/// A database with an app.
struct Database {
    cluster: Cluster,
    folder: TempDir,
    db: Db,
    pool: PgPool,
    app: AppId,
}

fn master_key() -> Arc<MasterKey> {
    Arc::new(MasterKey::parse(&MasterKey::text([7; 32])).unwrap())
}

impl Database {
    async fn start() -> Self {
        let folder = TempDir::new_in("/tmp").unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), everybody).unwrap(); // Postgres never runs as root: its user must get through
        let cluster = Cluster::start(folder.path()).await.unwrap();
        let options = cluster.connect_options();
        db::migrate(&options).await.unwrap();
        let (db, pool) = (
            Db::new(&options),
            PgPool::connect_with(options).await.unwrap(),
        );
        let new = NewApp {
            name: "bench".parse().unwrap(),
            key: SecretKey::generate(Environment::Live, &mut rand::rng()),
            webhook_secret: SigningSecret::generate(&mut rand::rng()),
            is_default: true,
            settings: apps::AppSettings::default(),
        };
        let mut conn = db.system().await.unwrap();
        let app = apps::create(&mut conn, &new, &master_key(), Utc::now(), &mut rand::rng())
            .await
            .unwrap()
            .id;
        drop(conn);
        Self {
            cluster,
            folder,
            db,
            pool,
            app,
        }
    }

    async fn stop(self) {
        self.db.close().await;
        self.pool.close().await;
        self.cluster.stop().await.unwrap();
    }
}

/// Writes events of many meetings, each of which has one URL.
struct Emitter {
    db: Db,
    app: AppId,
    meetings: Mutex<Vec<(Room, MeetingId, i64)>>,
    turn: Mutex<usize>,
}

impl Emitter {
    async fn new(db: &Db, app: AppId, urls: Vec<String>) -> Self {
        let mut meetings = Vec::new();
        let mut conn = db.begin(app).await.unwrap();
        for url in &urls {
            // As many lines as there may be attempts under way.
            for _ in 0..8 {
                let (now, mut rng) = (Utc::now(), rand::rng());
                let (room, meeting) = (RoomId::new(now, &mut rng), MeetingId::new(now, &mut rng));
                sqlx::query(
                    "with room as (
                        insert into rooms (id, app_id, name, rules, version, created_at)
                        values ($1, $2, encode($1, 'hex'), '{}', 0, $4) returning id
                    )
                    insert into meetings
                        (id, app_id, room_id, status, epoch, renewed_at, next_seq, participant_count, last_at, created_at)
                    select $3, $2, id, 'live', 1, $4, 1, 0, $4, $4 from room",
                )
                .bind(room)
                .bind(app)
                .bind(meeting)
                .bind(now)
                .execute(&mut *conn)
                .await
                .unwrap();
                let urls = RoomUrls {
                    meeting_started: Some(url.clone()),
                    ..RoomUrls::default()
                };
                meetings.push((
                    Room {
                        id: room,
                        name: room.to_string(),
                        urls,
                    },
                    meeting,
                    0,
                ));
            }
        }
        conn.commit().await.unwrap();
        let (meetings, turn) = (Mutex::new(meetings), Mutex::new(0));
        Self {
            db: db.clone(),
            app,
            meetings,
            turn,
        }
    }

    /// Commits so many events, in one transaction; their ids.
    async fn emit(&self, count: usize) -> Vec<EventId> {
        let mut events = Vec::with_capacity(count);
        for _ in 0..count {
            let (mut meetings, mut turn) =
                (self.meetings.lock().unwrap(), self.turn.lock().unwrap());
            // One endpoint after the other, and not one line after the other.
            let index = *turn * 8 % meetings.len() + *turn * 8 / meetings.len() % 8;
            *turn += 1;
            let (room, meeting, seq) = &mut meetings[index];
            *seq += 1;
            let at = Utc::now();
            let id = EventId::new(at, &mut rand::rng());
            events.push(Event {
                id,
                app: self.app,
                room: room.clone(),
                meeting: Some(*meeting),
                seq: Some(*seq),
                request_id: None,
                at,
                kind: Kind::MeetingStarted,
            });
        }
        let mut tx = self.db.begin(self.app).await.unwrap();
        webhooks::emit(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
        events.iter().map(|event| event.id).collect()
    }
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    webhooks: webhooks::Config,
}

/// The child that delivers. It prints the id of each event and when it was committed.
async fn deliver(data: &Path, urls: &[String], hung: &[String], seconds: u32) {
    let options = Cluster::running(data).unwrap();
    let (db, clock) = (Db::new(&options), Clock::system());
    let config = Settings::parse_from(["bench", "--allow-private-webhooks"]).webhooks;
    let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let rng = SmallRng::from_rng(&mut rand::rng());
    let dispatcher =
        Dispatcher::new(db.clone(), clock, &config, master_key(), wake.clone(), rng).unwrap();
    let dispatcher = tokio::spawn(Arc::new(dispatcher).run(stop.clone()));
    if urls.is_empty() {
        // Until the other end is closed.
        let closed = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()));
        closed.await.unwrap().unwrap();
        std::process::exit(0);
    }
    let pool = PgPool::connect_with(options).await.unwrap();
    let app = sqlx::query_scalar("select id from apps")
        .fetch_one(&pool)
        .await
        .unwrap();
    let healthy = Arc::new(Emitter::new(&db, app, urls.to_vec()).await);
    let hung = match hung {
        [] => None,
        hung => Some(Emitter::new(&db, app, hung.to_vec()).await),
    };
    let committed = Arc::new(Mutex::new(Vec::new()));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..RATE * seconds {
        ticks.tick().await;
        let counts = number >= RATE * WARM_UP_SECONDS;
        if let Some(hung) = hung.as_ref().filter(|_| number % 2 == 1) {
            hung.emit(1).await;
            wake.notify_one();
            continue;
        }
        let (healthy, committed, wake) = (healthy.clone(), committed.clone(), wake.clone());
        tasks.spawn(async move {
            let ids = healthy.emit(1).await;
            let at = now();
            wake.notify_one();
            if counts {
                committed.lock().unwrap().push((ids[0], at));
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (id, at) in committed.lock().unwrap().iter() {
        println!("{id} {at:.6}");
    }
    drop(dispatcher); // what hangs is not waited for
    std::process::exit(0);
}

/// The child that only posts. It prints requests per second, and CPU time per request in microseconds.
async fn post(urls: &[String], count: usize, at_once: usize) {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(0)
        .no_proxy()
        .build()
        .unwrap();
    let body = "x".repeat(300);
    let began = Instant::now();
    let requests = (0..count).map(|number| {
        let request = client
            .post(&urls[number % urls.len()])
            .header("webhook-id", number)
            .body(body.clone());
        tokio::spawn(async move { request.send().await.unwrap().bytes().await.unwrap() })
    });
    let mut requests = futures_util::stream::iter(requests).buffer_unordered(at_once);
    while requests.next().await.is_some() {}
    let took = began.elapsed().as_secs_f64();
    let own = Stat::read("self").unwrap().own;
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
    let count = count as f64;
    println!("{} {}", count / took, own / count * 1e6);
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// Where webhooks go.
struct Receivers {
    healthy: Vec<String>,
    hung: Vec<String>,
    /// When the first byte of each webhook came.
    arrived: Arc<Mutex<HashMap<String, f64>>>,
}

impl Receivers {
    async fn open() -> Self {
        let arrived = Arc::new(Mutex::new(HashMap::new()));
        let (mut healthy, mut hung) = (Vec::new(), Vec::new());
        for number in 0..HEALTHY + HUNG {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let answers = number < HEALTHY;
            if answers { &mut healthy } else { &mut hung }.push(url);
            let arrived = arrived.clone();
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    let arrived = arrived.clone();
                    tokio::spawn(async move {
                        let mut request = vec![0; 8192];
                        let Ok(mut length) = socket.read(&mut request).await else {
                            return;
                        };
                        let at = now();
                        if !answers {
                            tokio::time::sleep(Duration::from_secs(60)).await;
                            return;
                        }
                        while !is_whole(&request[..length]) {
                            match socket.read(&mut request[length..]).await {
                                Ok(more) if more > 0 => length += more,
                                _ => return,
                            }
                        }
                        let head = String::from_utf8_lossy(&request[..length]).into_owned();
                        if let Some(id) = header(&head, "webhook-id") {
                            arrived.lock().unwrap().entry(id.to_owned()).or_insert(at);
                        }
                        let _ = socket
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                            .await;
                    });
                }
            });
        }
        Self {
            healthy,
            hung,
            arrived,
        }
    }

    /// Returns once so many webhooks came.
    async fn count(&self, count: usize) {
        while self.arrived.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| {
            line.split_once(": ")
                .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        })
        .map(|(_, value)| value)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
        header(head, "content-length")
            .is_some_and(|length| body.len() >= length.parse::<usize>().unwrap())
    })
}

/// What `/proc` says of a process.
struct Stat {
    pid: u32,
    parent: u32,
    /// Its CPU time in seconds.
    own: f64,
    of_ended_children: f64,
}

impl Stat {
    fn read(process: &str) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let pid = text.split(' ').next()?.parse().ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields[field].parse::<f64>().unwrap() / 100.0;
        Some(Self {
            pid,
            parent: fields[1].parse().ok()?,
            own: ticks(11) + ticks(12),
            of_ended_children: ticks(13) + ticks(14),
        })
    }

    /// CPU time so far of the Postgres in this folder.
    fn of_postgres(folder: &Path) -> f64 {
        let pid = fs::read_to_string(folder.join("postgres/postmaster.pid")).unwrap();
        let postmaster: u32 = pid.lines().next().unwrap().parse().unwrap();
        let processes = fs::read_dir("/proc").unwrap();
        let stats = processes.filter_map(|entry| Self::read(entry.ok()?.file_name().to_str()?));
        let own = stats.filter_map(|stat| match (stat.pid, stat.parent) {
            (pid, _) if pid == postmaster => Some(stat.own + stat.of_ended_children),
            (_, parent) if parent == postmaster => Some(stat.own),
            _ => None,
        });
        own.sum()
    }
}
