//! Secret keys: what they open and for how long, and the control socket on which commands tell of them.

use std::{
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use chrono::TimeDelta;
use nix::sys::signal::Signal;
use plenum::{
    apps::{self, Environment, SecretKey},
    db::Db,
    id::SecretKeyId,
};
use reqwest::{Method, StatusCode};
use sqlx::PgPool;

use crate::{
    app::{Tenant, TestApp, soon},
    cli::{MASTER_KEY, Server, data_dir, database_url, key_shown, plenum, run, text},
};

impl TestApp {
    /// The status of a request with this key.
    async fn try_key(&self, key: &str) -> StatusCode {
        let tenant = Tenant {
            app: self.app.app.clone(),
            key: key.to_owned(),
            webhook_secret: self.app.webhook_secret.clone(),
        };
        let path = "/api/v1/room/none";
        self.call(&tenant, Method::GET, path, None).await.0
    }

    async fn one_more_key(&self, environment: Environment) -> (SecretKeyId, String) {
        let key = SecretKey::generate(environment, &mut rand::rng());
        let mut conn = self.db.system().await.unwrap();
        let (app, now) = (self.app.app.id, self.now());
        let id = apps::create_key(&mut conn, app, &key, now, &mut rand::rng()).await;
        (id.unwrap(), key.reveal().to_owned())
    }

    async fn first_key(&self) -> apps::KeySummary {
        let mut conn = self.db.system().await.unwrap();
        let keys = apps::keys(&mut conn, self.app.app.id).await.unwrap();
        keys.into_iter().next().unwrap()
    }
}

// A room that is not there: the key was good.
const OPENS: StatusCode = StatusCode::NOT_FOUND;
const OPENS_NOTHING: StatusCode = StatusCode::UNAUTHORIZED;

#[sqlx::test]
async fn a_key_that_another_process_revokes_opens_nothing_900_ms_later(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let (id, key) = test.one_more_key(Environment::Live).await;
    assert_eq!(test.try_key(&key).await, OPENS);
    let mut conn = test.db.system().await.unwrap();
    assert!(apps::revoke_key(&mut conn, id, test.now()).await.unwrap());
    let revoked = test.clock.instant();
    soon("a refusal", async {
        loop {
            let sent = test.clock.instant();
            if test.try_key(&key).await == OPENS_NOTHING {
                return;
            }
            assert!(sent - revoked < Duration::from_millis(900));
        }
    })
    .await;
    assert_eq!(test.try_key(&test.app.key).await, OPENS);
}

#[sqlx::test]
async fn a_rotated_key_opens_until_the_overlap_is_over_and_the_new_one_from_the_start(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    let (old_id, old) = test.one_more_key(Environment::Test).await;
    let mut conn = test.db.system().await.unwrap();
    let day = TimeDelta::hours(24);
    let rotated = apps::rotate_key(&mut conn, old_id, day, test.now(), &mut rand::rng()).await;
    let rotated = rotated.unwrap().unwrap();
    assert_eq!(rotated.expires_at, test.now() + day);
    let new = rotated.key.reveal();
    assert!(new.starts_with("plenum_test_"), "as the old one");
    // A second rotation does not give the old key more time.
    let again = apps::rotate_key(&mut conn, old_id, day * 2, test.now(), &mut rand::rng()).await;
    assert_eq!(again.unwrap().unwrap().expires_at, test.now() + day);

    test.advance(day - TimeDelta::milliseconds(1));
    assert_eq!(
        (test.try_key(&old).await, test.try_key(new).await),
        (OPENS, OPENS)
    );
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(
        (test.try_key(&old).await, test.try_key(new).await),
        (OPENS_NOTHING, OPENS)
    );
    let over = apps::rotate_key(&mut conn, old_id, day, test.now(), &mut rand::rng()).await;
    assert!(over.unwrap().is_none(), "it opens nothing any more");
}

#[sqlx::test]
async fn the_last_use_of_a_key_is_written_once_a_minute(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    let start = test.now();
    assert_eq!(test.first_key().await.last_used_at, None);
    assert_eq!(test.try_key(&test.app.key).await, OPENS);
    soon("the first use", async {
        while test.first_key().await.last_used_at != Some(start) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (later, written) in [(59, 0), (1, 60)] {
        test.advance(TimeDelta::seconds(later));
        assert_eq!(test.try_key(&test.app.key).await, OPENS);
        test.stop_node().await; // it writes what is to be written
        let db = Db::new(&test.pool.connect_options());
        test.db = db;
        let used = test.first_key().await.last_used_at;
        assert_eq!(used, Some(start + TimeDelta::seconds(written)));
        test.start_node();
    }
}

#[sqlx::test]
async fn no_request_waits_for_the_write_of_a_keys_use(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let mut held = test.pool.begin().await.unwrap();
    sqlx::query("select from secret_keys for update")
        .execute(&mut *held)
        .await
        .unwrap();
    for _ in 0..3 {
        assert_eq!(test.try_key(&test.app.key).await, OPENS);
        test.advance(TimeDelta::minutes(2));
    }
    assert_eq!(test.first_key().await.last_used_at, None);
    held.rollback().await.unwrap();
    soon("the use", async {
        while test.first_key().await.last_used_at.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[sqlx::test]
async fn without_postgres_a_key_is_not_called_wrong_unless_it_is_so_by_itself(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let (_, never_seen) = test.one_more_key(Environment::Live).await;
    assert_eq!(test.try_key(&test.app.key).await, OPENS);
    test.db.close().await;
    let away = StatusCode::SERVICE_UNAVAILABLE;
    assert_eq!(test.get("/api/v1/rooms").await.0, away);
    assert_eq!(test.try_key(&never_seen).await, away);
    let mut mistyped = never_seen;
    let last = if mistyped.ends_with('0') { "1" } else { "0" };
    mistyped.replace_range(mistyped.len() - 1.., last);
    assert_eq!(test.try_key(&mistyped).await, OPENS_NOTHING);
}

/// The value of a line of output such as `id   0123…`.
fn value(printed: &str, name: &str) -> String {
    let line = printed.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    value
        .unwrap_or_else(|| panic!("no {name}: {printed}"))
        .to_owned()
}

#[sqlx::test]
async fn the_list_of_keys_tells_what_each_is_in_aligned_columns(pool: PgPool) {
    let url = database_url(&pool);
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    let live = value(&run(&["app", "create", "acme"], &settings), "secret key");
    let made = run(
        &["key", "create", "acme", "--environment", "test"],
        &settings,
    );
    let (id, test) = (value(&made, "id"), value(&made, "secret key"));
    assert!(test.starts_with("plenum_test_"), "{made}");
    let rotated = run(&["key", "rotate", &id, "--overlap", "2h"], &settings);
    assert!(rotated.contains("opens until"), "{rotated}");
    let new_id = value(&rotated, "id");
    run(&["key", "revoke", &new_id], &settings);
    sqlx::query(
        "update secret_keys set last_used_at = '2026-02-03 04:05:06Z' where environment = 'live'",
    )
    .execute(&pool)
    .await
    .unwrap();

    let listed = run(&["key", "list", "acme"], &settings);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 4, "{listed}");
    let titles = [
        "ID",
        "ENVIRONMENT",
        "KEY",
        "CREATED",
        "LAST USED",
        "EXPIRES",
        "REVOKED",
    ];
    let starts: Vec<usize> = titles
        .iter()
        .map(|title| lines[0].find(title).unwrap())
        .collect();
    let cells = |line: &str| {
        let chars: Vec<char> = line.chars().collect();
        let ends = starts.iter().skip(1).copied().chain([usize::MAX]);
        let cell = |(start, end): (usize, usize)| {
            let end = end.min(chars.len());
            chars[start.min(end)..end]
                .iter()
                .collect::<String>()
                .trim()
                .to_owned()
        };
        starts
            .iter()
            .copied()
            .zip(ends)
            .map(cell)
            .collect::<Vec<_>>()
    };
    let is_time =
        |cell: &str| chrono::NaiveDateTime::parse_from_str(cell, "%Y-%m-%d %H:%M").is_ok();
    let keys: Vec<Vec<String>> = lines[1..].iter().map(|line| cells(line)).collect();
    let shown = |key: &str| format!("{}…{}", &key[..12], &key[key.len() - 4..]);
    let [first, old, new] = &keys[..] else {
        panic!("{listed}")
    };
    assert_eq!(first[1..3], ["live", &shown(&live)], "{listed}");
    assert_eq!(first[4..], ["2026-02-03 04:05", "-", "-"], "{listed}");
    assert_eq!(old[..3], [id, "test".to_owned(), shown(&test)], "{listed}");
    assert!(
        old[4] == "-" && is_time(&old[5]) && old[6] == "-",
        "{listed}"
    );
    assert_eq!(new[..2], [new_id, "test".to_owned()], "{listed}");
    assert!(new[5] == "-" && is_time(&new[6]), "{listed}");
    assert!(keys.iter().all(|key| is_time(&key[3])), "{listed}");
    for secret in [live, test] {
        assert!(!listed.contains(&secret[12..46]), "{listed}");
    }
}

#[test]
fn an_overlap_has_a_unit_and_is_90_days_at_most() {
    for (overlap, right) in [("24", "time unit needed"), ("91d", "at most 90d")] {
        let output = plenum(
            &["key", "rotate", &"0".repeat(24), "--overlap", overlap],
            &[],
        );
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(right), "{said}");
    }
}

#[test]
fn the_help_of_each_key_command_has_an_example_that_the_command_line_understands() {
    for command in ["create", "list", "revoke", "rotate", "rewrap"] {
        let help = run(&["key", command, "--help"], &[]);
        let examples: Vec<&str> = help
            .lines()
            .map(|line| line.split('#').next().unwrap().trim())
            .filter(|line| line.starts_with("plenum key"))
            .collect();
        assert!(!examples.is_empty(), "{help}");
        for example in examples {
            let mut args: Vec<&str> = example.split(' ').skip(1).collect();
            args.push("--version");
            let output = plenum(&args, &[]);
            assert!(
                output.status.success(),
                "{example}: {}",
                text(&output.stderr)
            );
        }
    }
}

/// A running server, its settings for commands, its address and its first key.
struct Running {
    server: Server,
    address: String,
    key: String,
}

fn serve(settings: &[(&str, &str)]) -> Running {
    let mut server = Server::spawn(settings);
    let address = server.says("ready")["url"].as_str().unwrap().to_owned();
    let key = key_shown(&mut server);
    Running {
        server,
        address,
        key,
    }
}

impl Running {
    async fn try_key(&self, key: &str) -> StatusCode {
        let url = format!("{}api/v1/room/none?secretKey={key}", self.address);
        soon("an answer", reqwest::get(url)).await.unwrap().status()
    }
}

#[sqlx::test]
async fn a_key_that_a_command_revokes_or_rotates_away_opens_nothing_at_once(pool: PgPool) {
    let (url, data) = (database_url(&pool), data_dir());
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
        ("PLENUM_DATA_DIR", data.path().to_str().unwrap()),
    ];
    let running = serve(&settings);
    for ends in [
        &["key", "revoke"][..],
        &["key", "rotate", "--overlap", "0s"],
    ] {
        let made = run(&["key", "create", "demo"], &settings);
        let (id, key) = (value(&made, "id"), value(&made, "secret key"));
        // All the while the server is asked, so that it knows the key as well as it ever does.
        let over = AtomicBool::new(false);
        let ask = async {
            while !over.load(Relaxed) {
                running.try_key(&key).await;
            }
        };
        let end = async {
            let args: Vec<String> = ends
                .iter()
                .map(|arg| (*arg).to_owned())
                .chain([id])
                .collect();
            let settings = settings.map(|(name, value)| (name, value.to_owned()));
            let command = move || {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let settings = settings
                    .each_ref()
                    .map(|(name, value)| (*name, value.as_str()));
                run(&args, &settings)
            };
            assert_eq!(running.try_key(&key).await, OPENS);
            let printed = tokio::task::spawn_blocking(command).await.unwrap();
            let status = running.try_key(&key).await;
            over.store(true, Relaxed);
            (printed, status)
        };
        let (_, (printed, status)) = futures_util::future::join(ask, end).await;
        assert_eq!(status, OPENS_NOTHING, "{ends:?}");
        if ends[1] == "rotate" {
            assert_eq!(running.try_key(&value(&printed, "secret key")).await, OPENS);
        }
    }
    assert_eq!(running.try_key(&running.key).await, OPENS);
    running.server.tell(Signal::SIGTERM);
    assert_eq!(running.server.end().0.code(), Some(0));
}

#[sqlx::test]
async fn the_control_socket_is_the_servers_own_and_a_killed_servers_is_replaced(pool: PgPool) {
    let (url, data) = (database_url(&pool), data_dir());
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
        ("PLENUM_DATA_DIR", data.path().to_str().unwrap()),
    ];
    let socket = data.path().join("plenum.sock");
    let inode = |path: &Path| {
        let found = std::fs::metadata(path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        std::os::unix::fs::MetadataExt::ino(&found)
    };
    let running = serve(&settings);
    let first = inode(&socket);

    // A live one is left alone, also when the second server stops.
    let mut second = Server::spawn(&settings);
    let warning =
        "no control socket: what commands change counts here within a second, and not at once";
    let error = second.says(warning)["error"].as_str().unwrap().to_owned();
    assert!(error.contains("another server uses"), "{error}");
    second.says("ready");
    second.tell(Signal::SIGTERM);
    assert_eq!(second.end().0.code(), Some(0));
    assert_eq!(inode(&socket), first);

    running.server.tell(Signal::SIGKILL);
    running.server.end();
    assert_eq!(inode(&socket), first, "it is left behind");
    let told = plenum(&["key", "create", "demo"], &settings);
    let said = text(&told.stderr);
    assert!(
        told.status.success() && !said.contains("could not be told"),
        "{said}"
    );
    let mut third = Server::spawn(&settings);
    third.says("ready");
    assert_ne!(inode(&socket), first);
    assert!(!data.path().join(".sock").exists());
    third.tell(Signal::SIGTERM);
    assert_eq!(third.end().0.code(), Some(0));
    assert!(!socket.exists());
}
