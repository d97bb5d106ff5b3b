//! The command line, as the built binary.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgPool};
use tempfile::TempDir;

use crate::app::{TestApp, soon};

pub const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub fn plenum(args: &[&str], settings: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plenum"))
        .args(args)
        .env_clear()
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

/// Runs a command of the binary that must succeed; what it prints.
pub fn run(args: &[&str], settings: &[(&str, &str)]) -> String {
    let output = plenum(args, settings);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A `plenum serve` of the test's own, on ports that nobody else has.
pub struct Server {
    pub child: Child,
    pub log: BufReader<std::process::ChildStderr>,
    /// Its data directory, unless the test gave one.
    _data: TempDir,
}

impl Server {
    pub fn spawn(settings: &[(&str, &str)]) -> Self {
        let data = data_dir();
        let own = [
            ("PLENUM_DATA_DIR", data.path().to_str().unwrap()),
            ("PLENUM_BIND", "127.0.0.1:0"),
            ("PLENUM_MEDIA_PORT_BASE", "0"),
            ("PLENUM_MASTER_KEY", MASTER_KEY),
        ];
        let mut child = Command::new(env!("CARGO_BIN_EXE_plenum"))
            .arg("serve")
            .env_clear()
            .envs(own)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            log,
            _data: data,
        }
    }

    /// Waits for a line of the log that says `what`, and returns it.
    pub fn says(&mut self, what: &str) -> Value {
        let mut all = String::new();
        loop {
            let begin = all.len();
            let read = self.log.read_line(&mut all).unwrap();
            assert_ne!(read, 0, "it ended without {what:?}: {all}");
            if let Ok(line) = serde_json::from_str::<Value>(&all[begin..])
                && line["message"] == what
            {
                return line;
            }
        }
    }

    pub fn tell(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// How it ends, which must not take long.
    pub fn end(mut self) -> (ExitStatus, String) {
        for _ in 0..2000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut shown = String::new();
                if let Some(mut stdout) = self.child.stdout.take() {
                    stdout.read_to_string(&mut shown).unwrap();
                }
                return (status, shown);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not stop");
    }
}

impl Drop for Server {
    /// Not to outlive a test that fails.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A data directory that the user `postgres` may pass.
pub fn data_dir() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

pub fn database_url(pool: &PgPool) -> String {
    pool.connect_options().to_url_lossy().to_string()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_wrong_setting_stops_the_start_with_one_line_that_names_it_and_says_what_would_be_right() {
    for (name, value, right) in [
        ("PLENUM_BIND", "here", "invalid socket address"),
        (
            "PLENUM_PUBLIC_URL",
            "meet.example.com",
            "must be http:// or https:// and a host",
        ),
        ("PLENUM_BASE_DOMAIN", "https://x", "must be a domain name"),
        ("PLENUM_BOOTSTRAP_APP", "Not An App", "a-z, 0-9 and -"),
        (
            "PLENUM_MEDIA_PORT_BASE",
            "70000",
            "70000 is not in 0..=65535",
        ),
        ("PLENUM_WEBHOOK_TIMEOUT", "10", "time unit needed"),
        ("PLENUM_ROLES", "api,jobs", "api and media go together"),
        ("PLENUM_ROLES", "work", "must be of api, media and jobs"),
        (
            "PLENUM_ALLOW_PRIVATE_WEBHOOKS",
            "perhaps",
            "value was not a boolean",
        ),
        (
            "PLENUM_DATABASE_STATEMENT_TIMEOUT",
            "0s",
            "must be from 1ms to 24h",
        ),
        ("PLENUM_LOG", "verbose", "must be a level"),
        ("PLENUM_LOG", "info,plenum=loud", "must be a level"),
    ] {
        let output = plenum(&["serve"], &[(name, value)]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains(name) && said.contains(value) && said.contains(right),
            "{said}"
        );
    }
}

#[test]
fn a_wrong_secret_is_not_repeated() {
    let app = ("PLENUM_BOOTSTRAP_APP", "acme");
    let output = plenum(
        &["serve"],
        &[app, ("PLENUM_BOOTSTRAP_SECRET_KEY", "too-short-canary")],
    );
    let said = text(&output.stderr);
    assert!(
        said.contains("PLENUM_BOOTSTRAP_SECRET_KEY") && said.contains("24 to 200"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn the_effective_settings_are_printed_with_secrets_masked_and_strange_names_questioned() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plenum.env");
    std::fs::write(
        &file,
        "PLENUM_BIND=0.0.0.0:80\nPLENUM_BASE_DOMAIN=meet.example.com\n",
    )
    .unwrap();
    let output = plenum(
        &["config"],
        &[
            ("PLENUM_CONFIG_FILE", file.to_str().unwrap()),
            ("PLENUM_BIND", "127.0.0.1:9000"),
            ("PLENUM_MASTER_KEY", MASTER_KEY),
            ("PLENUM_BASE_DOMIAN", "x"),
        ],
    );
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        printed.contains("\nPLENUM_BIND=127.0.0.1:9000\n"),
        "the environment goes before the file: {printed}"
    );
    assert!(
        printed.contains("PLENUM_BASE_DOMAIN=meet.example.com\n"),
        "{printed}"
    );
    assert!(
        printed.contains("PLENUM_MASTER_KEY=********\n") && !printed.contains(MASTER_KEY),
        "{printed}"
    );
    assert!(printed.contains(
        "PLENUM_BASE_DOMIAN is not a setting and has no effect; did you mean PLENUM_BASE_DOMAIN?"
    ));
}

#[test]
fn a_value_may_be_the_name_of_a_command() {
    let output = plenum(&["config", "--base-domain", "config"], &[]);
    let printed = text(&output.stdout);
    assert!(printed.contains("PLENUM_BASE_DOMAIN=config\n"), "{printed}");
}

#[test]
fn a_settings_file_is_taken_as_it_stands_and_a_wrong_line_of_it_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plenum.env");
    let read = |content: &str| {
        std::fs::write(&file, content).unwrap();
        let file = ("PLENUM_CONFIG_FILE", file.to_str().unwrap());
        plenum(&["config"], &[file, ("HOME", "/home/ann")])
    };
    let output = read("PLENUM_DATA_DIR=/data/$HOME/${HOME}\n");
    let printed = text(&output.stdout);
    assert!(
        printed.contains("PLENUM_DATA_DIR=/data/$HOME/${HOME}\n"),
        "{printed}"
    );

    let output = read("PLENUM_BIND=127.0.0.1:1\n\nPLENUM_MASTER_KEY canary\n");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said.contains("plenum.env") && said.contains("line 3"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn a_listing_makes_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let settings = [("PLENUM_DATA_DIR", data.to_str().unwrap())];
    let output = plenum(&["app", "list"], &settings);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let output = plenum(&["key", "list", "acme"], &settings);
    let said = text(&output.stderr);
    assert!(said.contains("there is no app acme"), "{said}");
    assert!(!data.exists());
}

#[sqlx::test(migrations = false)]
async fn a_listing_makes_no_schema(pool: PgPool) {
    let url = database_url(&pool);
    let output = plenum(&["app", "list"], &[("DATABASE_URL", &url)]);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let tables: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(tables, 0);
}

#[sqlx::test]
async fn another_master_key_than_the_stored_secrets_need_is_noticed(pool: PgPool) {
    let url = database_url(&pool);
    let right = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    assert!(plenum(&["app", "create", "acme"], &right).status.success());
    let other = "//////////////////////////////////////////8=";
    let wrong = [("DATABASE_URL", url.as_str()), ("PLENUM_MASTER_KEY", other)];
    let created = plenum(&["app", "create", "beta"], &wrong);
    let said = text(&created.stderr);
    assert!(
        !created.status.success() && said.contains("another master key"),
        "{said}"
    );

    let mut server = Server::spawn(&wrong);
    let mut said = String::new();
    server.log.read_to_string(&mut said).unwrap();
    let (status, shown) = server.end();
    assert!(
        !status.success() && said.contains("another master key"),
        "{said}"
    );
    assert!(!shown.contains("Plenum runs"), "{shown}");
    let listed = text(&plenum(&["app", "list"], &right).stdout);
    assert!(!listed.contains("beta"), "{listed}");
}

#[test]
fn a_lost_master_key_is_not_replaced_while_there_are_apps() {
    let data = data_dir();
    let settings = [
        ("PLENUM_DATA_DIR", data.path().to_str().unwrap()),
        ("PATH", "/usr/bin:/bin"),
    ];
    let created = plenum(&["app", "create", "acme"], &settings);
    assert!(created.status.success(), "{created:?}");
    let key = data.path().join("master.key");
    std::fs::remove_file(&key).unwrap();
    let created = plenum(&["app", "create", "beta"], &settings);
    let said = text(&created.stderr);
    assert!(
        !created.status.success() && said.contains("is lost") && said.contains("backup"),
        "{said}"
    );
    assert!(!key.exists());
}

#[test]
fn a_signal_during_the_start_stops_it_at_once_and_in_order() {
    // A Postgres that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://plenum@{}/plenum", silent.local_addr().unwrap());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Server::spawn(&[("DATABASE_URL", &url)]);
        let connection = silent.accept().unwrap();
        server.tell(signal);
        assert_eq!(server.end().0.code(), Some(0), "{signal}");
        drop(connection);
    }
}

#[test]
fn a_signal_while_the_private_cluster_starts_leaves_nothing_running() {
    let data = data_dir();
    let postmaster = data.path().join("postgres/postmaster.pid");
    let mut seen = false;
    for begins in [&data.path().join("postgres.lock"), &postmaster] {
        let server = Server::spawn(&[
            ("PLENUM_DATA_DIR", data.path().to_str().unwrap()),
            ("PATH", "/usr/bin:/bin"),
        ]);
        wait_for(begins);
        seen |= postmaster.exists();
        server.tell(Signal::SIGTERM);
        assert_eq!(server.end().0.code(), Some(0));
        assert!(!postmaster.exists(), "Postgres was not stopped in order");
    }
    assert!(seen);
}

fn wait_for(path: &Path) {
    for _ in 0..3000 {
        if path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{} is not made", path.display());
}

#[sqlx::test]
async fn the_second_signal_ends_a_stop_that_takes_its_time(pool: PgPool) {
    let url = database_url(&pool);
    let mut server = Server::spawn(&[("DATABASE_URL", &url)]);
    let at = server.says("ready")["url"].as_str().unwrap().to_owned();
    let at = at.trim_start_matches("http://").trim_end_matches('/');
    // A request whose body never comes: it is under way, and the stop waits for it.
    let mut slow = TcpStream::connect(at).unwrap();
    let head = "POST /api/v1/room?secretKey=SECRET HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
    let shown = key_shown(&mut server);
    slow.write_all(head.replace("SECRET", &shown).as_bytes())
        .unwrap();
    slow.write_all(b"{").unwrap();
    let pool = pool.clone();
    soon("the request is under way", async {
        let asked = "select count(*) from pg_stat_activity
                     where datname = current_database() and query like '%k.hash = $1%'";
        while sqlx::query_scalar::<_, i64>(asked)
            .fetch_one(&pool)
            .await
            .unwrap()
            == 0
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.tell(Signal::SIGTERM);
    server.says("stopping");
    server.tell(Signal::SIGTERM);
    assert_eq!(server.end().0.code(), Some(128 + 15));
}

/// The secret key that a first start shows.
pub fn key_shown(server: &mut Server) -> String {
    let mut stdout = BufReader::new(server.child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("Secret key") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0);
    }
    server.child.stdout = Some(stdout.into_inner());
    line.split_whitespace().nth(2).unwrap().to_owned()
}

#[sqlx::test]
async fn a_server_whose_greeting_nobody_reads_runs(pool: PgPool) {
    let url = database_url(&pool);
    let mut server = Server::spawn(&[("DATABASE_URL", &url)]);
    drop(server.child.stdout.take());
    server.says("ready");
    server.tell(Signal::SIGTERM);
    assert_eq!(server.end().0.code(), Some(0));
}

#[sqlx::test]
async fn the_first_key_is_shown_even_if_the_start_fails_after_it_was_made(pool: PgPool) {
    let url = database_url(&pool);
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let server = Server::spawn(&[("DATABASE_URL", &url), ("PLENUM_MEDIA_PORT_BASE", &port)]);
    let (status, shown) = server.end();
    assert!(!status.success());
    assert!(
        shown.contains("plenum_live_") && shown.contains("whsec_"),
        "{shown}"
    );
}

#[sqlx::test]
async fn the_default_app_answers_on_the_host_of_the_public_url(pool: PgPool) {
    let url = database_url(&pool);
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = port.local_addr().unwrap().to_string();
    drop(port);
    let mut server = Server::spawn(&[
        ("DATABASE_URL", &url),
        ("PLENUM_BIND", &bind),
        ("PLENUM_PUBLIC_URL", "https://meet.example.com"),
        ("PLENUM_BASE_DOMAIN", "rooms.example.com"),
    ]);
    server.says("ready");
    let key = key_shown(&mut server);
    let http = reqwest::Client::new();
    let create = http
        .post(format!("http://{bind}/api/v1/room?secretKey={key}"))
        .body(r#"{"roomName": "standup"}"#);
    assert_eq!(create.send().await.unwrap().status(), 200);
    for (host, status) in [
        ("meet.example.com", 200),
        ("meet.example.com:443", 200),
        ("demo.rooms.example.com", 200),
        ("localhost", 200),
        ("demo.meet.example.com", 404),
        ("example.com", 404),
    ] {
        let page = http
            .get(format!("http://{bind}/standup"))
            .header("host", host);
        assert_eq!(page.send().await.unwrap().status(), status, "{host}");
    }
    server.tell(Signal::SIGTERM);
    assert_eq!(server.end().0.code(), Some(0));
}

#[sqlx::test]
async fn with_a_default_app_every_host_that_names_none_is_that_apps(pool: PgPool) {
    let url = database_url(&pool);
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = port.local_addr().unwrap().to_string();
    drop(port);
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
        ("PLENUM_BIND", &bind),
        ("PLENUM_BASE_DOMAIN", "example.com"),
        ("PLENUM_DEFAULT_APP", "acme"),
    ];
    let refused = plenum(&["serve"], &settings);
    let said = text(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("PLENUM_DEFAULT_APP: there is no app acme"),
        "{said}"
    );

    let made = plenum(&["app", "create", "acme"], &settings);
    let shown = text(&made.stdout);
    let key = shown
        .split_whitespace()
        .find(|word| word.starts_with("plenum_live_"))
        .unwrap();
    let mut server = Server::spawn(&settings);
    server.says("ready");
    let http = reqwest::Client::new();
    let create = http
        .post(format!("http://{bind}/api/v1/room?secretKey={key}"))
        .body(r#"{"roomName": "standup"}"#);
    assert_eq!(create.send().await.unwrap().status(), 200);
    for (host, status) in [
        ("localhost", 200),
        ("10.0.0.1", 200),
        ("example.com", 200),
        ("meet.example.org", 200),
        ("acme.example.com", 200),
        ("demo.example.com", 404),
        ("nobody.example.com", 404),
    ] {
        let page = http
            .get(format!("http://{bind}/standup"))
            .header("host", host);
        assert_eq!(page.send().await.unwrap().status(), status, "{host}");
    }
    server.tell(Signal::SIGTERM);
    assert_eq!(server.end().0.code(), Some(0));
}

#[sqlx::test]
async fn anonymous_rooms_are_on_in_the_first_app_of_a_loopback_bind_alone(pool: PgPool) {
    let url = database_url(&pool);
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    let is_on = |app: &str| {
        let shown = text(&plenum(&["app", "set", app], &settings).stdout);
        let line = shown
            .lines()
            .find_map(|line| line.strip_prefix("anonymousRooms="));
        line.unwrap_or_else(|| panic!("{shown}")) == "true"
    };
    let start = |settings: &[(&str, &str)]| {
        let mut server = Server::spawn(settings);
        server.says("ready");
        server.tell(Signal::SIGTERM);
        assert_eq!(server.end().0.code(), Some(0));
    };
    start(&[("DATABASE_URL", &url)]);
    assert!(is_on("demo"));
    start(&[
        ("DATABASE_URL", &url),
        ("PLENUM_BIND", "0.0.0.0:0"),
        ("PLENUM_BOOTSTRAP_APP", "public"),
        (
            "PLENUM_BOOTSTRAP_SECRET_KEY",
            "a-key-of-the-test-alone-0001",
        ),
    ]);
    assert!(!is_on("public"));
    assert!(
        plenum(&["app", "create", "acme"], &settings)
            .status
            .success()
    );
    assert!(!is_on("acme"));
}

#[sqlx::test]
async fn settings_of_an_app_are_changed_and_shown(pool: PgPool) {
    let url = database_url(&pool);
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    let run = |args: &[&str]| {
        let output = plenum(args, &settings);
        let (shown, said) = (text(&output.stdout), text(&output.stderr));
        (output.status.success(), shown, said)
    };
    assert!(run(&["app", "create", "acme"]).0);
    let (changed, shown, said) = run(&[
        "app",
        "set",
        "acme",
        "branding.name=Acme Meetings",
        "branding.accentColor=#0d6b57",
        "embedOrigins=https://acme.example, https://staging.acme.example",
        "roomDefaults.maxParticipants=10",
        "roomDefaults.title=\"2030\"",
        "retention.eventDays=7",
    ]);
    assert!(changed, "{said}");
    for line in [
        "branding.name=Acme Meetings",
        "branding.accentColor=#0d6b57",
        "embedOrigins=[\"https://acme.example\",\"https://staging.acme.example\"]",
        "roomDefaults.maxParticipants=10",
        "roomDefaults.title=\"2030\"",
        "retention.eventDays=7",
        "retention.personalDataDays=90",
        "contactEmail=null",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    // What is shown can be given.
    let lines: Vec<&str> = ["app", "set", "acme"]
        .into_iter()
        .chain(shown.lines())
        .collect();
    assert_eq!(run(&lines).1, shown);
    assert_eq!(run(&["app", "set", "acme"]).1, shown);

    let (null, after, _) = run(&["app", "set", "acme", "branding.name=null", "retention=null"]);
    assert!(
        null && after.contains("branding.name=null") && after.contains("retention.eventDays=30")
    );
    for (changes, why) in [
        (
            vec!["contactEmail=ops", "retention.eventDays=1"],
            "retention.eventDays must be from 4 to 365",
        ),
        (
            vec!["contactEmail=ops"],
            "contactEmail must be an e-mail address",
        ),
        (
            vec!["branding.nam=x", "branding.name=x"],
            "there is no setting branding.nam",
        ),
        (vec!["branding.name"], "a change is NAME=VALUE"),
    ] {
        let args: Vec<&str> = ["app", "set", "acme"].into_iter().chain(changes).collect();
        let (done, _, said) = run(&args);
        assert!(!done && said.contains(why), "{said}");
    }
    assert_eq!(
        run(&["app", "set", "acme"]).1,
        after,
        "nothing was changed by those"
    );
    let (found, _, said) = run(&["app", "set", "nobody", "anonymousRooms=true"]);
    assert!(!found && said.contains("there is no app nobody"), "{said}");
}

#[sqlx::test]
async fn rooms_are_listed_with_who_is_in_them(pool: PgPool) {
    let test = TestApp::new(pool.clone()).await;
    let other = test.another_app("other").await;
    test.room(json!({ "roomName": "standup", "expireUnixSec": 1_900_003_600 }))
        .await;
    test.advance(chrono::TimeDelta::seconds(1));
    test.room(json!({ "roomName": "a-room-with-a-long-name", "privacy": "private" }))
        .await;
    let wanted = json!({ "roomName": "retro" });
    test.call(&other, reqwest::Method::POST, "/api/v1/room", Some(&wanted))
        .await;
    let _ann = test.join("standup", "Ann").await;
    let url = database_url(&pool);
    let list = |args: &[&str]| {
        let args: Vec<&str> = ["room", "list"].iter().chain(args).copied().collect();
        let output = plenum(&args, &[("DATABASE_URL", &url)]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let all = list(&[]);
    let lines: Vec<Vec<&str>> = all
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 4, "{all}");
    assert_eq!(
        lines[0],
        [
            "APP", "ROOM", "PRIVACY", "PEOPLE", "CREATED", "EXPIRES", "ID"
        ]
    );
    assert_eq!(
        lines[1][..4],
        ["acme", "a-room-with-a-long-name", "private", "0"]
    );
    assert_eq!(
        lines[2][..8],
        [
            "acme",
            "standup",
            "public",
            "1",
            "2030-03-17",
            "17:46",
            "2030-03-17",
            "18:46"
        ]
    );
    let column = |line: &str, word: &str| line.find(word).unwrap();
    let of: Vec<&str> = all.lines().collect();
    assert_eq!(column(of[0], "PRIVACY"), column(of[1], "private"), "{all}");
    assert_eq!(lines[3][1], "retro");

    let one = list(&["--app", "acme", "--limit", "1"]);
    assert!(
        one.contains("a-room-with-a-long-name") && !one.contains("retro"),
        "{one}"
    );
    assert!(
        one.ends_with("and 1 more: --limit shows up to 1000 of each app\n"),
        "{one}"
    );
    let nobody = plenum(
        &["room", "list", "--app", "nobody"],
        &[("DATABASE_URL", &url)],
    );
    assert!(text(&nobody.stderr).contains("there is no app nobody"));
}

#[sqlx::test]
async fn one_app_answers_on_localhost(pool: PgPool) {
    let url = database_url(&pool);
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    for name in ["first", "second"] {
        let made = plenum(&["app", "create", name, "--default"], &settings);
        assert!(made.status.success(), "{}", text(&made.stderr));
    }
    let listed = text(&plenum(&["app", "list"], &settings).stdout);
    let answering: Vec<&str> = listed
        .lines()
        .filter(|line| line.ends_with("answers on localhost"))
        .collect();
    assert_eq!(answering.len(), 1, "{listed}");
    assert!(answering[0].starts_with("second "), "{listed}");
}

#[sqlx::test]
async fn apps_and_keys_are_made_listed_and_revoked(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    let run = |args: &[&str]| {
        let output = plenum(args, &settings);
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (created, shown, said) = run(&["app", "create", "acme"]);
    assert!(created, "{said}");
    assert!(
        shown.contains("plenum_live_") && shown.contains("whsec_"),
        "{shown}"
    );
    let (again, _, said) = run(&["app", "create", "acme"]);
    assert!(
        !again && said.contains("an app with this name already exists"),
        "{said}"
    );
    assert!(run(&["app", "list"]).1.contains("acme"));

    let (_, made, _) = run(&["key", "create", "acme"]);
    let id = made.split_whitespace().nth(1).unwrap().to_owned();
    assert!(run(&["key", "revoke", &id]).0);
    let listed = run(&["key", "list", "acme"]).1;
    assert!(listed.contains(&id), "{listed}");
    assert_eq!(listed.lines().count(), 1 + 2);
    let (twice, _, said) = run(&["key", "revoke", &id]);
    assert!(!twice && said.contains("no key"), "{said}");
    let (unknown, _, said) = run(&["key", "create", "nobody"]);
    assert!(
        !unknown && said.contains("there is no app nobody"),
        "{said}"
    );
}

#[sqlx::test]
async fn the_secret_of_an_apps_tokens_is_rotated(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    let run = |args: &[&str]| {
        let output = plenum(args, &settings);
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.success(), said)
    };
    let secrets = async || -> Vec<(bool, Vec<u8>)> {
        sqlx::query_as("select retires_at is null, secret from token_secrets order by id")
            .fetch_all(&pool)
            .await
            .unwrap()
    };
    assert!(run(&["app", "create", "acme"]).0);
    let first = secrets().await;
    let (rotated, said) = run(&["token", "rotate", "acme"]);
    assert!(rotated && said.contains("new secret"), "{said}");
    let second = secrets().await;
    assert_eq!(
        (second.len(), &second[0]),
        (2, &(false, first[0].1.clone()))
    );
    assert!(run(&["token", "rotate", "acme", "--overlap", "0s"]).0);
    let third = secrets().await;
    assert_eq!(third.len(), 1);
    assert!(third[0].0 && third[0].1 != second[1].1);

    let (far, said) = run(&["token", "rotate", "acme", "--overlap", "31days"]);
    assert!(!far && said.contains("0s to 30days"), "{said}");
    let (unknown, said) = run(&["token", "rotate", "nobody"]);
    assert!(
        !unknown && said.contains("there is no app nobody"),
        "{said}"
    );
}

#[sqlx::test]
async fn a_given_database_needs_a_given_master_key(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    let output = plenum(&["app", "create", "acme"], &[("DATABASE_URL", &url)]);
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("openssl rand -base64 32"),
        "{said}"
    );
}

#[test]
fn the_page_of_settings_is_the_committed_one_and_has_every_setting() {
    let printed = text(&plenum(&["config", "--reference"], &[]).stdout);
    assert!(
        printed == include_str!("../../docs/settings.md"),
        "update it: plenum config --reference > docs/settings.md"
    );
    let settings = text(&plenum(&["config"], &[]).stdout);
    for line in settings.lines() {
        let name = line.trim_start_matches("# ").split('=').next().unwrap();
        let rows = printed.matches(&format!("\n| `{name}`")).count();
        assert_eq!(rows, 1, "{name}");
    }
    let with_env = [
        ("HOME", "/home/ann"),
        ("PLENUM_BIND", "127.0.0.1:1"),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    let elsewhere = plenum(&["config", "--reference"], &with_env);
    assert_eq!(text(&elsewhere.stdout), printed, "it is the same anywhere");
}

#[test]
fn the_openapi_document_is_the_committed_one() {
    let output = plenum(&["openapi"], &[]);
    let committed = include_str!("../../openapi/plenum.json");
    assert!(
        text(&output.stdout) == committed,
        "update it: plenum openapi > openapi/plenum.json"
    );
}
