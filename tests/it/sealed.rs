//! The master key, and what is sealed under it.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use chrono::TimeDelta;
use nix::sys::signal::Signal;
use plenum::{
    apps::{self, AppSettings, Environment, NewApp, SecretKey},
    clock::Clock,
    db::Db,
    rooms::{self, RoomChange, Rules},
    sealed::MasterKey,
    webhooks::{
        SigningSecret,
        endpoints::{self, NewEndpoint},
        filter::Pattern,
    },
};
use sqlx::PgPool;

use crate::cli::{MASTER_KEY, Server, data_dir, database_url, plenum, run, text};

const OTHER_MASTER_KEY: &str = "//////////////////////////////////////////8=";

/// Of every sealed column, its table and its name: what [`plenum::sealed::Place`]s are made of in the source. Nothing is
/// sealed but for a place.
fn sealed_columns() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("sealed.rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                for place in source.split("Place::new(").skip(1) {
                    let mut parts = place.split(',');
                    let mut name = || {
                        let literal = parts.next()?.trim().strip_prefix('"')?;
                        Some(literal.strip_suffix('"')?.to_owned())
                    };
                    let named = name().zip(name());
                    found.push(named.unwrap_or_else(|| {
                        panic!("{}: a place names its table and column", path.display())
                    }));
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// How many values are sealed under the master key, by column: of all columns that could hold one.
async fn sealed_under(pool: &PgPool, key: &str) -> Vec<(String, String, i64)> {
    let key = MasterKey::parse(&key.to_owned().into()).unwrap();
    let begins = [&[1], key.id().as_bytes()].concat();
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select table_name::text, column_name::text from information_schema.columns
         where table_schema = 'public' and data_type = 'bytea' order by 1, 2",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut counts = Vec::new();
    for (table, column) in columns {
        let query =
            format!("select count(*) from {table} where substring({column} from 1 for 5) = $1");
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .bind(&begins)
            .fetch_one(pool)
            .await
            .unwrap();
        if count > 0 {
            counts.push((table, column, count));
        }
    }
    counts
}

/// Makes apps, each with a room and a webhook that have a secret, under this master key.
async fn apps_under(pool: &PgPool, key: &str, count: usize) {
    let db = Db::new(&pool.connect_options());
    let key = MasterKey::parse(&key.to_owned().into()).unwrap();
    let mut now = Clock::system().now();
    for number in 0..count {
        now += TimeDelta::milliseconds(1); // ids are in the order of their times
        let new = NewApp {
            name: format!("app-{number}").parse().unwrap(),
            key: SecretKey::generate(Environment::Live, &mut rand::rng()),
            webhook_secret: SigningSecret::generate(&mut rand::rng()),
            is_default: number == 0,
            settings: AppSettings::default(),
        };
        let mut conn = db.system().await.unwrap();
        let app = apps::create(&mut conn, &new, &key, now, &mut rand::rng()).await;
        let app = app.unwrap().id;
        let url = "rtmp://a.rtmp.youtube.com/live2/key".parse().unwrap();
        let room = RoomChange {
            rtmp_out_url: Some(Some(url)),
            ..RoomChange::default()
        };
        let mut tx = db.begin(app).await.unwrap();
        let room = rooms::create(
            &mut tx,
            app,
            room,
            Rules::default(),
            &key,
            now,
            &mut rand::rng(),
        )
        .await;
        room.unwrap();
        let webhook = NewEndpoint {
            url: "https://example.com/".parse().unwrap(),
            events: vec![Pattern::all()],
            description: None,
            enabled: true,
        };
        let webhook = endpoints::create(&mut tx, app, webhook, &key, now, &mut rand::rng()).await;
        webhook.unwrap();
        tx.commit().await.unwrap();
    }
}

#[sqlx::test]
async fn a_rewrap_seals_every_secret_under_the_new_master_key(pool: PgPool) {
    // More than are sealed anew at a time.
    apps_under(&pool, MASTER_KEY, 120).await;
    let sealed = sealed_under(&pool, MASTER_KEY).await;
    let columns: Vec<(String, String)> = sealed
        .iter()
        .map(|(table, column, _)| (table.clone(), column.clone()))
        .collect();
    assert_eq!(
        columns,
        sealed_columns(),
        "the test leaves something in every sealed column"
    );

    let url = database_url(&pool);
    let database = ("DATABASE_URL", url.as_str());
    let alone = [database, ("PLENUM_MASTER_KEY", OTHER_MASTER_KEY)];
    let output = plenum(&["key", "rewrap"], &alone);
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("another master key"),
        "{said}"
    );
    let both = [
        alone[0],
        alone[1],
        ("PLENUM_MASTER_KEY_PREVIOUS", MASTER_KEY),
    ];
    let mut server = Server::spawn(&both);
    server.says("ready");
    let printed = run(&["key", "rewrap"], &both);
    assert!(printed.starts_with("480 secrets"), "{printed}");
    assert_eq!(sealed_under(&pool, MASTER_KEY).await, []);
    assert_eq!(sealed_under(&pool, OTHER_MASTER_KEY).await, sealed);
    server.tell(Signal::SIGTERM);
    assert_eq!(server.end().0.code(), Some(0));

    run(&["app", "create", "beta"], &alone);
    let old = [database, ("PLENUM_MASTER_KEY", MASTER_KEY)];
    assert!(!plenum(&["app", "create", "gamma"], &old).status.success());
    let printed = run(&["key", "rewrap"], &alone);
    assert!(printed.starts_with("0 secrets"), "{printed}");
}

#[sqlx::test]
async fn a_secret_that_a_rewrap_did_not_reach_is_noticed_at_the_start(pool: PgPool) {
    apps_under(&pool, MASTER_KEY, 3).await;
    let url = database_url(&pool);
    let both = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", OTHER_MASTER_KEY),
        ("PLENUM_MASTER_KEY_PREVIOUS", MASTER_KEY),
    ];
    let keep = "create function keep() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
                create trigger keep before update on apps for each row when (old.name = 'app-2') execute function keep()";
    sqlx::raw_sql(keep).execute(&pool).await.unwrap();
    assert!(!plenum(&["key", "rewrap"], &both).status.success());
    let left = sealed_under(&pool, MASTER_KEY).await;
    assert_eq!(left, [("apps".into(), "room_webhook_secret".into(), 1)]);
    let output = plenum(&["app", "create", "beta"], &both[..2]);
    let said = text(&output.stderr);
    assert!(said.contains("another master key"), "{said}");
    run(&["app", "create", "beta"], &both);
    sqlx::raw_sql("drop trigger keep on apps")
        .execute(&pool)
        .await
        .unwrap();
    run(&["key", "rewrap"], &both);
    run(&["app", "create", "gamma"], &both[..2]);
}

#[test]
fn a_rewrap_of_the_private_database_that_was_broken_off_anywhere_is_ended_by_the_next_one() {
    let data = data_dir();
    let settings = [
        ("PLENUM_DATA_DIR", data.path().to_str().unwrap()),
        ("PATH", "/usr/bin:/bin"),
    ];
    let (file, next) = (
        data.path().join("master.key"),
        data.path().join("master.key.next"),
    );
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    run(&["app", "create", "acme"], &settings);
    let first = read(&file);
    let printed = run(&["key", "rewrap"], &settings);
    assert!(
        printed.starts_with("2 secrets") && printed.contains("backup"),
        "{printed}"
    );
    let second = read(&file);
    assert_ne!(first, second);
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!next.exists());

    // As it is just before the end: all is sealed under the new key, and the old one still stands in the file.
    std::fs::rename(&file, &next).unwrap();
    std::fs::write(&file, &first).unwrap();
    run(&["app", "create", "beta"], &settings);
    let printed = run(&["key", "rewrap"], &settings);
    assert!(printed.starts_with("2 secrets"), "beta's: {printed}");
    assert_eq!(read(&file), second);

    // As it is after the beginning, half a new key written, or a whole one and nothing sealed under it.
    std::fs::write(data.path().join("master.key.next.part"), "AAAA").unwrap();
    std::fs::write(&next, OTHER_MASTER_KEY).unwrap();
    let printed = run(&["key", "rewrap"], &settings);
    assert!(printed.starts_with("4 secrets"), "{printed}");
    assert_eq!(read(&file), OTHER_MASTER_KEY);
    run(&["app", "create", "gamma"], &settings);
}

#[test]
fn the_private_database_of_a_running_server_is_not_rewrapped() {
    let data = data_dir();
    let settings = [
        ("PLENUM_DATA_DIR", data.path().to_str().unwrap()),
        ("PATH", "/usr/bin:/bin"),
    ];
    let mut server = Server::spawn(&settings);
    server.says("ready");
    let output = plenum(&["key", "rewrap"], &settings);
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("stop that one first"),
        "{said}"
    );
    assert!(!data.path().join("master.key.next").exists());
    server.tell(Signal::SIGTERM);
    assert_eq!(server.end().0.code(), Some(0));
}

#[sqlx::test]
async fn a_dump_that_is_restored_and_started_with_another_master_key_is_refused_in_one_line(
    pool: PgPool,
) {
    apps_under(&pool, MASTER_KEY, 2).await;
    let url = database_url(&pool);
    let elsewhere = format!("plenum_restored_{}", std::process::id());
    let create = sqlx::AssertSqlSafe(format!("create database {elsewhere}"));
    sqlx::raw_sql(create).execute(&pool).await.unwrap();
    let restored_url = {
        let options = pool.connect_options().as_ref().clone().database(&elsewhere);
        sqlx::ConnectOptions::to_url_lossy(&options).to_string()
    };
    // The programs of Postgres know nothing of settings that are sqlx's own.
    let plain = |url: &str| {
        let mut plain = url::Url::parse(url).unwrap();
        let own = |(name, _): &(_, _)| *name != "statement-cache-capacity";
        let url = url::Url::parse(url).unwrap();
        plain
            .query_pairs_mut()
            .clear()
            .extend_pairs(url.query_pairs().filter(own));
        plain.to_string()
    };
    let mut dump = Command::new("pg_dump")
        .arg(plain(&url))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let restore = Command::new("psql")
        .args(["-q", "-X", "-v", "ON_ERROR_STOP=1", &plain(&restored_url)])
        .stdin(dump.stdout.take().unwrap())
        .output()
        .unwrap();
    let restored = dump.wait().unwrap().success() && restore.status.success();

    let start = |key: &str| {
        let mut server =
            Server::spawn(&[("DATABASE_URL", &restored_url), ("PLENUM_MASTER_KEY", key)]);
        let mut said = String::new();
        if key == MASTER_KEY {
            server.says("ready");
            server.tell(Signal::SIGTERM);
        } else {
            std::io::Read::read_to_string(&mut server.log, &mut said).unwrap();
        }
        (server.end().0.code(), said)
    };
    let starts = restored.then(|| (start(OTHER_MASTER_KEY), start(MASTER_KEY)));
    let drop = sqlx::AssertSqlSafe(format!("drop database {elsewhere} with (force)"));
    sqlx::raw_sql(drop).execute(&pool).await.unwrap();
    let Some(((code, said), right)) = starts else {
        panic!("it was not restored: {}", text(&restore.stderr));
    };
    assert_eq!(right.0, Some(0), "with its own key it starts");
    let last: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("plenum:"))
        .collect();
    assert_eq!((code, last.len()), (Some(1), 1), "{said}");
    assert!(
        last[0].contains("PLENUM_MASTER_KEY: ")
            && last[0].contains("give the PLENUM_MASTER_KEY that it was made with"),
        "{said}"
    );
}
