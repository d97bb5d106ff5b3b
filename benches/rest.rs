//! What REST costs: creates and reads of rooms over loopback, next to two floors that are measured in the same run.
//!
//! The server is the built binary with a private Postgres of its own, as durable as in production. `wrk` finds out how much
//! it can do, `oha` how long creates take at a fixed rate, counted from when each should have been sent. The floor of a
//! create is `pgbench` with the very statements of one, taken from Postgres's log; that of a read is an actix server
//! that answers every request with the same bytes. `script/bench rest` installs the tools and runs it.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that fails has nothing to report"
)]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use actix_web::{App, HttpResponse, HttpServer, web};
use plenum::db::cluster::Cluster;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tempfile::TempDir;

/// Connections, of the load tools and of pgbench.
const CLIENTS: &str = "16";
/// Seconds of one measurement, and of what goes before it unmeasured.
const SECONDS: &str = "10";
const WARM_UP_SECONDS: &str = "2";
/// Creates per second of the measurement at a fixed rate.
const RATE: &str = "500";
const KEY: &str = "a-secret-key-of-the-benchmark";
/// Where the child that is the constant server finds its answer.
const CONSTANT: &str = "PLENUM_BENCH_CONSTANT";

fn main() {
    if let Ok(answer) = std::env::var(CONSTANT) {
        return constant_server(answer);
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // built and run by `cargo test --all-targets`, which wants no figures
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let bench = Bench::start().await;
    let room = json!({
        "privacy": "public", "maxParticipants": 10, "autoJoin": true, "expireUnixSec": 4_102_444_800_i64,
    });
    let made = bench.create(&room).await;
    let rooms = format!("{}/api/v1/room", bench.url);
    let one = format!("{rooms}/{}", made["roomName"].as_str().unwrap());
    let transaction = bench.transaction_of_a_create(&room).await;
    println!(
        "{} cores; {CLIENTS} connections, {SECONDS} s each. Cores: CPU time of the process over the time it took.\n",
        std::thread::available_parallelism().unwrap()
    );
    println!("The transaction of a create:");
    for statement in &transaction.statements {
        println!(
            "    {}",
            statement.split_whitespace().collect::<Vec<_>>().join(" ")
        );
    }
    println!();

    let body = room.to_string();
    let create = bench.measure(|seconds| wrk(&rooms, seconds, &["POST", &body]));
    let floor = bench.measure(|seconds| pgbench(&bench, &transaction, seconds, None));
    let steady_floor = bench.measure(|seconds| pgbench(&bench, &transaction, seconds, Some(RATE)));
    let steady = bench.measure(|seconds| oha(&rooms, seconds, &body));
    let read = bench.measure(|seconds| wrk(&one, seconds, &[]));
    let answer = bench.get(&one).await;
    let constant = Constant::start(&answer).await;
    let plain = constant
        .bench
        .measure(|seconds| wrk(&constant.bench.url, seconds, &[]));

    println!(
        "{:<34} {:>9} {:>7} {:>9} {:>11} {:>8} {:>8} {:>8}",
        "", "per s", "cores", "Postgres", "per core s", "p50 ms", "p99 ms", "p999 ms"
    );
    let line = |what: &str, figures: &Figures| {
        let Figures {
            load,
            server,
            postgres,
        } = figures;
        println!(
            "{what:<34} {:>9.0} {server:>7.2} {postgres:>9.2} {:>11.0} {:>8.2} {:>8.2} {:>8.2}",
            load.rate,
            load.rate / (server + postgres),
            load.p50,
            load.p99,
            load.p999
        );
    };
    line("create", &create);
    line("  its transaction by pgbench", &floor);
    line(&format!("create at {RATE}/s, from when due"), &steady);
    line("  its transaction by pgbench", &steady_floor);
    line("read", &read);
    line("  the same bytes, constant", &plain);
    println!();
    verdict(
        "create p99 at a fixed rate, ms",
        steady.load.p99,
        steady.load.p99 <= 8.0,
        "at most 8",
    );
    for (what, own, floor) in [
        ("create / pgbench", &create, &floor),
        ("read / constant", &read, &plain),
    ] {
        let share = own.load.rate / floor.load.rate;
        verdict(what, share, share >= 0.6, "at least 0.6");
    }
}

fn verdict(what: &str, figure: f64, holds: bool, aim: &str) {
    let word = if holds { "reached" } else { "MISSED" };
    println!("{what:<34} {figure:>9.2}   aim: {aim}, {word}");
}

/// A server, the CPU time of its processes, and where it answers.
struct Bench {
    server: Process,
    /// Of the private Postgres, where there is one.
    postgres: Option<u32>,
    url: String,
    http: Client,
    data: TempDir,
}

/// A child that ends with this process.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// What one measurement found.
struct Figures {
    load: Load,
    /// Cores that the server and its Postgres kept busy.
    server: f64,
    postgres: f64,
}

/// What a load tool says: requests per second, and times in ms.
struct Load {
    rate: f64,
    p50: f64,
    p99: f64,
    p999: f64,
}

/// The statements of a transaction, and their parameters in the form of literals.
struct Transaction {
    statements: Vec<String>,
    parameters: Vec<Vec<String>>,
    /// What of the parameters must be another in each transaction: the room's id and its name.
    id: String,
    name: String,
}

impl Bench {
    async fn start() -> Self {
        let data = TempDir::new_in("/tmp").unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(data.path(), everybody).unwrap(); // Postgres never runs as root: its user must get through
        let bind = free_address();
        let server = Command::new(env!("CARGO_BIN_EXE_plenum"))
            .arg("serve")
            .env("PLENUM_BIND", &bind)
            .env("PLENUM_DATA_DIR", data.path())
            .env("PLENUM_MEDIA_PORT_BASE", "0")
            // As good as no limit.
            .env("PLENUM_RATE_PER_SECOND", "1000000")
            .env("PLENUM_RATE_BURST", "1000000")
            .env("PLENUM_BOOTSTRAP_APP", "bench")
            .env("PLENUM_BOOTSTRAP_SECRET_KEY", KEY)
            .env_remove("DATABASE_URL")
            .stdout(Stdio::null())
            .stderr(fs::File::create(data.path().join("server.log")).unwrap())
            .spawn()
            .unwrap();
        let (server, http) = (Process(server), Client::new());
        let url = format!("http://{bind}");
        wait_for(&http, &format!("{url}/ready")).await;
        let pid = fs::read_to_string(data.path().join("postgres/postmaster.pid")).unwrap();
        let postgres = Some(pid.lines().next().unwrap().parse().unwrap());
        Self {
            server,
            postgres,
            url,
            http,
            data,
        }
    }

    /// Creates a room, once the server has found its connections to Postgres gone where [`set`] ended them.
    async fn create(&self, room: &Value) -> Value {
        for _ in 0..100 {
            let request = self.http.post(format!("{}/api/v1/room", self.url));
            let answer = request.bearer_auth(KEY).json(room).send().await.unwrap();
            if answer.status().is_success() {
                return answer.json().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no room can be created");
    }

    async fn get(&self, url: &str) -> String {
        let request = self.http.get(url).bearer_auth(KEY);
        request.send().await.unwrap().text().await.unwrap()
    }

    fn options(&self) -> PgConnectOptions {
        Cluster::running(self.data.path()).unwrap()
    }

    /// What a create sends to Postgres between `begin` and `commit`, by Postgres's own log.
    async fn transaction_of_a_create(&self, room: &Value) -> Transaction {
        let mut conn = self.options().connect().await.unwrap();
        set(
            &mut conn,
            &[
                "set log_statement = 'all'",
                "set log_error_verbosity = 'default'",
            ],
        )
        .await;
        // The second is without what a connection does once.
        self.create(room).await;
        let made = self.create(room).await;
        set(&mut conn, &["reset all"]).await;
        self.create(room).await;
        let (id, name) = (
            made["_id"].as_str().unwrap(),
            made["roomName"].as_str().unwrap(),
        );
        let log = fs::read_to_string(self.data.path().join("postgres.log")).unwrap();
        Transaction::find(&log, id, name)
    }

    /// Runs a load, once to warm up and once to measure.
    fn measure(&self, run: impl Fn(&str) -> Load) -> Figures {
        run(WARM_UP_SECONDS);
        let (server, postgres) = self.cpu_seconds();
        let began = Instant::now();
        let load = run(SECONDS);
        let took = began.elapsed().as_secs_f64();
        let (server_after, postgres_after) = self.cpu_seconds();
        Figures {
            load,
            server: (server_after - server) / took,
            postgres: (postgres_after - postgres) / took,
        }
    }

    /// CPU time so far: of the server, and of all processes of its Postgres.
    fn cpu_seconds(&self) -> (f64, f64) {
        let server = Stat::read(&self.server.0.id().to_string()).unwrap().own;
        let Some(postmaster) = self.postgres else {
            return (server, 0.0);
        };
        let processes = fs::read_dir("/proc").unwrap();
        let stats = processes.filter_map(|entry| Stat::read(entry.ok()?.file_name().to_str()?));
        let postgres = stats.filter_map(|stat| match (stat.pid, stat.parent) {
            (pid, _) if pid == postmaster => Some(stat.own + stat.of_ended_children),
            (_, parent) if parent == postmaster => Some(stat.own),
            _ => None,
        });
        (server, postgres.sum())
    }
}

/// Settings for all of the database, and its connections anew, so that they have them.
async fn set(conn: &mut PgConnection, settings: &[&str]) {
    for setting in settings {
        let statement = sqlx::AssertSqlSafe(format!("alter database plenum {setting}"));
        sqlx::query(statement).execute(&mut *conn).await.unwrap();
    }
    let others = "select pg_terminate_backend(pid, 5000) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query(others).execute(conn).await.unwrap();
}

impl Transaction {
    /// The transaction of the log that stored the room `id` of this name.
    fn find(log: &str, id: &str, name: &str) -> Self {
        // An entry begins with a time and the process in brackets; its further lines begin with a tab.
        let mut entries: Vec<(&str, String)> = Vec::new();
        for line in log.lines() {
            let head = line.split_once("] ").filter(|_| !line.starts_with('\t'));
            if let Some((head, text)) = head {
                let process = head.rsplit('[').next().unwrap();
                entries.push((process, text.trim_start().to_owned()));
            } else if let Some((_, entry)) = entries.last_mut() {
                entry.push('\n');
                entry.push_str(line);
            }
        }
        let stores =
            |entry: &str| entry.starts_with("DETAIL") && entry.contains(id) && entry.contains(name);
        let (process, _) = entries.iter().find(|(_, entry)| stores(entry)).unwrap();
        let mut transaction = Self {
            statements: Vec::new(),
            parameters: Vec::new(),
            id: id.to_owned(),
            name: name.to_owned(),
        };
        let (mut open, mut found) = (false, false);
        for (_, entry) in entries.iter().filter(|(other, _)| other == process) {
            if let Some(parameters) = entry.strip_prefix("DETAIL:  parameters: ") {
                *transaction.parameters.last_mut().unwrap() = literals(parameters);
                found |= stores(entry);
                continue;
            }
            // `LOG:  statement: …` or `LOG:  execute sqlx_s_1: …`
            let Some(statement) = entry.splitn(3, ": ").nth(2) else {
                continue;
            };
            let begins = statement
                .get(..5)
                .is_some_and(|word| word.eq_ignore_ascii_case("begin"));
            let commits = statement.eq_ignore_ascii_case("commit");
            if found && (!open || commits) {
                break;
            }
            if begins || commits || !open {
                transaction.statements.clear();
                transaction.parameters.clear();
                open = begins;
            }
            // What goes along with `begin` is a statement too.
            let own = match statement.split_once(';') {
                Some((_, along)) if begins => along.trim(),
                _ if begins || commits => "",
                _ => statement,
            };
            if !own.is_empty() {
                transaction.statements.push(own.to_owned());
                transaction.parameters.push(Vec::new());
            }
        }
        transaction
    }

    /// As a script for pgbench, and the variables that it needs: a parameter is one here too.
    fn script(&self) -> (String, Vec<String>) {
        let hex = "lpad(to_hex(:id::bigint), 24, '0')";
        let mut script =
            "\\set n :n + 1\n\\set id :client_id * 1000000000 + :n\nbegin;\n".to_owned();
        let mut variables = Vec::new();
        for (index, statement) in self.statements.iter().enumerate() {
            let mut statement = statement.clone();
            for (number, literal) in self.parameters[index].iter().enumerate().rev() {
                let place = format!("${}", number + 1);
                let value = literal.trim_matches('\'').replace("''", "'");
                let own = if literal == "NULL" {
                    literal.clone()
                } else if value == format!("\\x{}", self.id) {
                    format!("decode({hex}, 'hex')")
                } else if let Some((before, after)) = value.split_once(&self.id) {
                    format!("('{before}' || {hex} || '{after}')")
                } else if value == self.name {
                    "('b' || :id::text)".to_owned()
                } else {
                    let variable = format!("p{index}_{number}");
                    variables.push(format!("{variable}={value}"));
                    format!(":{variable}")
                };
                statement = statement.replace(&place, &own);
            }
            script += &format!("{statement};\n");
        }
        (script + "commit;\n", variables)
    }
}

/// The values of `$1 = 'a', $2 = NULL`, as they stand.
fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while let Some((_, value)) = rest.split_once(" = ") {
        let mut quoted = false;
        let end = value.find(|letter: char| {
            quoted ^= letter == '\'';
            !quoted && letter == ','
        });
        let (value, further) = value.split_at(end.unwrap_or(value.len()));
        found.push(value.trim().to_owned());
        rest = further;
    }
    found
}

/// CPU seconds of a process, by `/proc/<pid>/stat`.
struct Stat {
    pid: u32,
    parent: u32,
    own: f64,
    of_ended_children: f64,
}

impl Stat {
    fn read(pid: &str) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |from: usize| -> Option<f64> {
            let sum = fields.get(from)?.parse::<f64>().ok()?
                + fields.get(from + 1)?.parse::<f64>().ok()?;
            Some(sum / TICKS_PER_SECOND)
        };
        Some(Self {
            pid: pid.parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            own: ticks(11)?,
            of_ended_children: ticks(13)?,
        })
    }
}

/// `USER_HZ`, which is the same on all that Linux runs on here.
const TICKS_PER_SECOND: f64 = 100.0;

fn wrk(url: &str, seconds: &str, request: &[&str]) -> Load {
    let output = Command::new("wrk")
        .args(["-t", "1", "-c", CLIENTS, "-d", seconds, "-s"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/rest.lua"))
        .args(["-H", &format!("Authorization: Bearer {KEY}"), url, "--"])
        .args(request)
        .output()
        .unwrap();
    let text = said(&output);
    let line = text.lines().find(|line| line.starts_with('{')).unwrap();
    let found: Value = serde_json::from_str(line).unwrap();
    assert_eq!(found["errors"], 0, "{text}");
    let ms = |name: &str| found[name].as_f64().unwrap() / 1e3;
    Load {
        rate: found["rate"].as_f64().unwrap(),
        p50: ms("p50"),
        p99: ms("p99"),
        p999: ms("p999"),
    }
}

fn oha(url: &str, seconds: &str, body: &str) -> Load {
    let output = Command::new("oha")
        .args([
            "--no-tui",
            "--output-format",
            "json",
            "--latency-correction",
            "-q",
            RATE,
            "-c",
            CLIENTS,
        ])
        .args([
            "-z",
            &format!("{seconds}s"),
            "-m",
            "POST",
            "-T",
            "application/json",
            "-d",
            body,
        ])
        .args(["-H", &format!("Authorization: Bearer {KEY}"), url])
        .output()
        .unwrap();
    let found: Value = serde_json::from_str(&said(&output)).unwrap();
    let answers = found["statusCodeDistribution"].as_object().unwrap();
    assert!(answers.keys().all(|status| status == "200"), "{answers:?}");
    let ms = |name: &str| found["latencyPercentiles"][name].as_f64().unwrap() * 1e3;
    Load {
        rate: found["summary"]["requestsPerSec"].as_f64().unwrap(),
        p50: ms("p50"),
        p99: ms("p99"),
        p999: ms("p99.9"),
    }
}

/// With a rate, times count from when a transaction is due.
fn pgbench(bench: &Bench, transaction: &Transaction, seconds: &str, rate: Option<&str>) -> Load {
    let folder = TempDir::new().unwrap();
    let (script, variables) = transaction.script();
    fs::write(folder.path().join("create.sql"), script).unwrap();
    let options = bench.options();
    let socket = options.get_socket().unwrap();
    // Every run has ids of its own.
    let first = match (rate, seconds == SECONDS) {
        (None, false) => "n=0",
        (None, true) => "n=100000000",
        (Some(_), false) => "n=200000000",
        (Some(_), true) => "n=300000000",
    };
    let output = Command::new(pgbench_program())
        .current_dir(folder.path())
        .env("PGOPTIONS", "-c role=plenum_app")
        .arg("--host")
        .arg(socket)
        .args([
            "--username",
            options.get_username(),
            "--no-vacuum",
            "--protocol",
            "prepared",
            "--log",
        ])
        .args([
            "--client",
            CLIENTS,
            "--jobs",
            "1",
            "--time",
            seconds,
            "--file",
            "create.sql",
            "--define",
            first,
        ])
        .args(variables.iter().flat_map(|variable| ["--define", variable]))
        .args(rate.iter().flat_map(|rate| ["--rate", rate]))
        .arg(options.get_database().unwrap())
        .output()
        .unwrap();
    let text = said(&output);
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .unwrap();
    let logs = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.to_string_lossy().contains("pgbench_log"));
    let mut times: Vec<f64> = logs
        .flat_map(|path| {
            fs::read_to_string(path)
                .unwrap()
                .lines()
                .map(transaction_ms)
                .collect::<Vec<_>>()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Load {
        rate: rate.split(' ').next().unwrap().parse().unwrap(),
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
    }
}

/// The third field of a line of pgbench's log: microseconds.
fn transaction_ms(line: &str) -> f64 {
    let time = line.split(' ').nth(2).unwrap();
    time.parse::<f64>().unwrap() / 1e3
}

fn pgbench_program() -> PathBuf {
    let releases = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let programs = releases.map(|release| release.unwrap().path().join("bin/pgbench"));
    programs
        .filter(|path| path.exists())
        .max()
        .unwrap_or_else(|| PathBuf::from("pgbench"))
}

/// What a tool printed, which must have succeeded.
fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// An actix server that answers everything with the same bytes, in a process of its own.
struct Constant {
    bench: Bench,
}

impl Constant {
    async fn start(answer: &str) -> Self {
        let bind = free_address();
        let child = Command::new(std::env::current_exe().unwrap())
            .env(CONSTANT, format!("{bind} {answer}"))
            .spawn()
            .unwrap();
        let bench = Bench {
            server: Process(child),
            postgres: None,
            url: format!("http://{bind}"),
            http: Client::new(),
            data: TempDir::new().unwrap(),
        };
        wait_for(&bench.http, &bench.url).await;
        Self { bench }
    }
}

fn constant_server(given: String) {
    let (bind, answer) = given.split_once(' ').unwrap();
    let answer = answer.to_owned();
    let server = HttpServer::new(move || {
        let answer = web::Bytes::from(answer.clone());
        App::new().default_service(web::to(move || {
            let answer = answer.clone();
            async {
                HttpResponse::Ok()
                    .content_type("application/json")
                    .body(answer)
            }
        }))
    });
    let server = server.bind(bind).unwrap();
    actix_web::rt::System::new().block_on(server.run()).unwrap();
}

fn free_address() -> String {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().to_string()
}

async fn wait_for(http: &Client, url: &str) {
    for _ in 0..600 {
        if http
            .get(url)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nothing answers at {url}");
}
