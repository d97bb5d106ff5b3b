//! The ground: roles, row-level security, migrations.

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use plenum::{
    apps,
    clock::{Clock, Sample},
    db::{self, Db},
    id::AppId,
    rooms::{self, RoomChange},
    sealed::MasterKey,
};
use reqwest::Method;
use serde_json::json;
use sqlx::{Executor, PgConnection, PgPool, PgTransaction, postgres::PgConnectOptions};

use crate::app::{TestApp, soon};

/// Every table of ours.
const TABLES: &str = "select relname::text from pg_class
    where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace and relname not like '\\_sqlx%' order by 1";

async fn count(conn: &mut PgConnection, table: &str, of: Option<AppId>) -> i64 {
    let column = if table == "apps" { "id" } else { "app_id" };
    let query = format!("select count(*) from {table} where $1::bytea is null or {column} = $1");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query))
        .bind(of)
        .fetch_one(conn)
        .await
        .unwrap()
}

#[sqlx::test]
async fn the_role_of_operations_sees_the_rows_of_one_tenant_and_none_without(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    // A life that leaves a row in every table.
    let nobody = "http://127.0.0.1:8443/";
    let expires = test.now().timestamp() + 3600;
    let room = json!({
        "roomName": "standup", "meetingLeftWebhook": nobody, "expireUnixSec": expires, "enableChat": true,
    });
    let key = [("idempotency-key", "once")];
    test.send(Method::POST, "/api/v1/room", &key, Some(&room))
        .await;
    let webhook = json!({ "url": nobody, "events": ["knock"] });
    test.post("/api/v1/webhooks", &webhook).await;
    let mut ann = test.join("standup", "Ann").await;
    // Written before the node stops.
    assert!(ann.is_in().await);
    let ban = json!({ "externalUserIds": ["nobody"], "ban": true });
    test.post("/api/v1/room/standup/eject", &ban).await;
    ann.close(1000).await;
    test.events_until("participantLeft").await;
    soon("an attempt", async {
        let mut conn = test.pool.acquire().await.unwrap();
        while count(&mut conn, "webhook_attempts", None).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    test.stop_node().await;
    sqlx::query(
        "insert into meeting_commands (app_id, meeting_id, command, created_at)
         select app_id, id, '{}', created_at from meetings",
    )
    .execute(&test.pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into meeting_blocks (app_id, meeting_id, kind, value) select app_id, id, 'person', '42' from meetings",
    )
    .execute(&test.pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into mails (id, app_id, topic, recipient, subject, body_text, body_html, created_at, due_at)
         select id, id, '', '', '', '', '', created_at, created_at from apps",
    )
    .execute(&test.pool)
    .await
    .unwrap();

    // Of its own: the connections of the node's pools ended with the node.
    let db = Db::new(&test.pool.connect_options());
    let mut owner = test.pool.acquire().await.unwrap();
    let mut nobody = test.pool.acquire().await.unwrap();
    nobody.execute("set role plenum_app").await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(TABLES)
        .fetch_all(&test.pool)
        .await
        .unwrap();
    assert!(tables.len() >= 12, "{tables:?}");
    for table in &tables {
        let own = count(&mut owner, table, Some(test.app.app.id)).await;
        assert!(own > 0, "the test leaves no row in {table}");
        for app in [test.app.app.id, other.app.id] {
            let of_app = count(&mut owner, table, Some(app)).await;
            let mut tx = db.begin(app).await.unwrap();
            let seen = count(&mut tx, table, None).await;
            assert_eq!(seen, of_app, "{table}: what {app} sees and what is theirs");
        }
        let seen = count(&mut nobody, table, None).await;
        assert_eq!(seen, 0, "{table} is seen without a tenant");
    }
    nobody.execute("reset role").await.unwrap();
}

#[sqlx::test]
async fn every_table_is_under_row_level_security(pool: PgPool) {
    let open: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace
         and relname not like '\\_sqlx%' and not (relrowsecurity and exists (
             select from pg_policies where tablename = relname and 'plenum_app' = any (roles)))",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(open, Vec::<String>::new());

    // A policy without `with check` checks new rows by `using`; one of either kind that forgets the tenant lets others in.
    let lax: Vec<String> = sqlx::query_scalar(
        "select format('%s: %s', tablename, policyname) from pg_policies
         where schemaname = 'public' and roles && '{plenum_app,public}'
         and not (coalesce(qual, with_check) ~ '^\\((id|app_id) = plenum_tenant\\(\\)\\)$'
                  and coalesce(with_check, qual) ~ '^\\((id|app_id) = plenum_tenant\\(\\)\\)$'
                  and (tablename = 'apps') = (coalesce(qual, with_check) like '(id %'))",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(lax, Vec::<String>::new());

    let powerful: Vec<String> = sqlx::query_scalar(
        "select rolname::text from pg_roles where rolname in ('plenum_app', 'plenum_system')
         and (rolsuper or rolbypassrls or pg_has_role(rolname, 'plenum_system', 'member') <> (rolname = 'plenum_system'))",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(powerful, Vec::<String>::new());
}

#[sqlx::test(migrations = false)]
async fn several_processes_may_migrate_at_once(pool: PgPool) {
    let options = pool.connect_options();
    let outcomes = futures_util::future::join_all((0..4).map(|_| db::migrate(&options))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(
        db::migrate(&options).await.is_ok(),
        "and again, with nothing to do"
    );
}

/// What a newer binary leaves: a migration that this one does not have, and the minimum that it asks for.
async fn newer_schema(pool: &PgPool, minimum: i64) {
    run(
        pool,
        &format!(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values ({}, 'of a newer binary', true, '', 0);
             create or replace function plenum_schema_minimum() returns bigint
             language sql immutable parallel safe return {minimum}",
            newest() + 1
        ),
    )
    .await;
}

/// The newest migration that this binary has.
fn newest() -> i64 {
    db::MIGRATIONS
        .iter()
        .map(|known| known.version)
        .max()
        .unwrap()
}

#[sqlx::test]
async fn a_binary_older_than_the_schema_runs_and_leaves_it_as_it_is(pool: PgPool) {
    newer_schema(&pool, newest()).await;
    let applied = "select array_agg(version order by version) from _sqlx_migrations";
    let before: Vec<i64> = sqlx::query_scalar(applied).fetch_one(&pool).await.unwrap();
    db::migrate(&pool.connect_options()).await.unwrap();
    let after: Vec<i64> = sqlx::query_scalar(applied).fetch_one(&pool).await.unwrap();
    assert_eq!(after, before);
    TestApp::new(pool)
        .await
        .room(json!({ "roomName": "standup" }))
        .await;
}

#[sqlx::test]
async fn a_binary_older_than_the_schemas_minimum_is_refused(pool: PgPool) {
    newer_schema(&pool, newest() + 1).await;
    let options = pool.connect_options();
    let refused = [
        db::migrate(&options).await.err(),
        db::is_migrated(&options).await.err(),
    ];
    for refused in refused {
        let refused = refused.unwrap().to_string();
        let needed = format!("needs {} or later", newest() + 1);
        assert!(
            refused.contains("too old") && refused.contains(&needed),
            "{refused}"
        );
    }
}

/// What would break the version that runs while the file is applied, and is allowed to a file that raises the minimum.
fn contracts(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    for statement in statements(sql) {
        let words: Vec<&str> = statement.split_whitespace().collect();
        let has = |phrase: &str| format!(" {statement} ").contains(&format!(" {phrase} "));
        for phrase in [
            "rename",
            "truncate",
            "revoke",
            "set not null",
            "set data type",
        ] {
            if has(phrase) {
                found.push(format!("{phrase}: {statement}"));
            }
        }
        if has("alter column") && has("type") {
            found.push(format!("type: {statement}"));
        }
        for (at, _) in words
            .iter()
            .enumerate()
            .filter(|(_, word)| **word == "drop")
        {
            let replaced = match words[at + 1..] {
                ["constraint", name, ..] => {
                    let name = name.trim_end_matches(',');
                    statement.contains(&format!("add constraint {name} "))
                }
                ["default", ..] | ["not", "null", ..] => true, // of a column
                _ => false,
            };
            if !replaced {
                found.push(format!("drop: {statement}"));
            }
        }
        // `default` and `not null` of one column stand between two commas outside of brackets.
        if statement.starts_with("alter table") {
            let has =
                |part: &str, phrase: &str| format!(" {part} ").contains(&format!(" {phrase} "));
            let strict = clauses(&statement).into_iter().filter(|part| {
                has(part, "add column") && has(part, "not null") && !has(part, "default")
            });
            found.extend(strict.map(|part| format!("not null: {part}")));
        }
    }
    found
}

/// The statements of a file, in lower case, with single spaces and without comments. Those of a function's body come apart,
/// which does no harm.
fn statements(sql: &str) -> Vec<String> {
    let code = sql.lines().map(|line| line.split("--").next().unwrap());
    let code = code.collect::<Vec<_>>().join("\n").to_lowercase();
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    code.split(';')
        .map(plain)
        .filter(|text| !text.is_empty())
        .collect()
}

/// The parts between the commas that are in no brackets.
fn clauses(statement: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for letter in statement.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ => {}
        }
        parts.last_mut().unwrap().push(letter);
    }
    parts
}

#[test]
fn what_breaks_the_version_that_still_runs_is_found_in_a_migration() {
    for sql in [
        "drop table rooms",
        "alter table rooms drop column name",
        "ALTER TABLE rooms\n  ALTER COLUMN name TYPE varchar",
        "alter table rooms alter column name set data type varchar",
        "alter table rooms rename column name to title",
        "alter table rooms alter name set not null",
        "alter table rooms add column a text default 'x', add column b text not null",
        "alter table rooms drop constraint rooms_name_check",
        "select 1; truncate rooms -- why",
        "revoke insert on rooms from plenum_app",
        "drop index rooms_name",
    ] {
        assert!(!contracts(sql).is_empty(), "{sql}");
    }
    for sql in [
        "create table drops (name text not null)",
        "alter table rooms add column a text not null default 'x', add column b text",
        "alter table rooms drop constraint a, add constraint a check (b in (1, 2, 3))",
        "alter table rooms alter column name drop not null",
        "create index on rooms (name); -- drop table rooms",
    ] {
        assert_eq!(contracts(sql), Vec::<String>::new(), "{sql}");
    }
}

#[test]
fn a_migration_expands_or_raises_the_minimum() {
    let mut minimum = 0;
    let mut tables = Vec::new();
    for migration in db::MIGRATIONS.iter() {
        let (version, sql) = (migration.version, migration.sql.as_str());
        let statements = statements(sql);
        let raised = statements.iter().find_map(|statement| {
            let (_, body) = statement.split_once("function plenum_schema_minimum()")?;
            body.rsplit(' ').next()?.parse::<i64>().ok()
        });
        match raised {
            Some(raised) if version > 8 => {
                assert!(
                    (minimum + 1..version).contains(&raised),
                    "{version}: {raised}"
                );
                minimum = raised;
            }
            _ => assert_eq!(contracts(sql), Vec::<String>::new(), "migration {version}"),
        }
        let takes_locks = statements.iter().any(|statement| {
            let of_old =
                |table: &String| statement.split(&[' ', '('][..]).any(|word| word == table);
            let alters = [
                "alter table ",
                "create index ",
                "create unique index ",
                "create trigger ",
            ]
            .iter()
            .any(|start| statement.starts_with(start));
            alters && tables.iter().any(of_old)
        });
        let limited = statements[0] == "set local lock_timeout = '5s'";
        assert!(
            version <= 8 || migration.no_tx || limited || !takes_locks,
            "migration {version}"
        );
        let made = statements
            .iter()
            .filter_map(|text| text.strip_prefix("create table "));
        tables.extend(made.filter_map(|text| Some(text.split(' ').next()?.to_owned())));
    }
}

/// A login of the test's own, who is gone when the test is over.
struct Login {
    name: String,
    options: PgConnectOptions,
}

impl Login {
    async fn create(pool: &PgPool, name: &str, may: &str) -> Self {
        let name = format!("{name}_{}", std::process::id());
        run(pool, &format!("create role {name} login {may}")).await;
        run(pool, &format!("grant create on schema public to {name}")).await;
        let options = pool.connect_options().as_ref().clone().username(&name);
        Self { name, options }
    }

    async fn drop(self, pool: &PgPool) {
        run(
            pool,
            &format!("drop owned by {0}; drop role {0}", self.name),
        )
        .await;
    }
}

async fn run(pool: &PgPool, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

#[sqlx::test(migrations = false)]
async fn a_user_who_may_not_use_the_roles_is_told_the_sql_to_run_which_suffices(pool: PgPool) {
    db::migrate(&pool.connect_options()).await.unwrap();
    let user = Login::create(&pool, "weak", "").await;
    run(
        &pool,
        &format!("grant select on _sqlx_migrations to {}", user.name),
    )
    .await;
    let refused = db::migrate(&user.options).await;
    let message = refused.unwrap_err().to_string();
    let grant = format!("grant plenum_app, plenum_system to \"{}\";", user.name);
    for line in ["create role plenum_app nologin;", &grant] {
        assert!(message.contains(line), "{message}");
    }
    run(&pool, &grant).await;
    let outcome = db::migrate(&user.options).await;
    user.drop(&pool).await;
    outcome.unwrap();
}

#[sqlx::test]
async fn a_user_who_may_make_roles_takes_those_that_another_one_made(pool: PgPool) {
    let user = Login::create(&pool, "maker", "createrole").await;
    run(
        &pool,
        &format!("grant select on _sqlx_migrations to {}", user.name),
    )
    .await;
    let migrated = db::migrate(&user.options).await;
    let db = Db::new(&user.options);
    let used = async {
        drop(db.begin(AppId::from_bytes([0; 12])).await?);
        db.ping().await
    };
    let used = used.await;
    db.close().await;
    user.drop(&pool).await;
    migrated.unwrap();
    used.unwrap();
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    db: db::Config,
}

#[sqlx::test]
async fn no_statement_lock_or_idle_transaction_lasts_longer_than_its_limit(pool: PgPool) {
    let limited = |setting: &str| {
        let settings = Settings::parse_from(["plenum", setting, "50ms"]);
        Db::new(&settings.db.limited(pool.connect_options().as_ref().clone()))
    };
    let long = async || {
        let mut conn = limited("--database-statement-timeout").system().await?;
        conn.execute("select pg_sleep(60)").await
    };
    let locked = async || {
        let _held = run_held(&pool, "lock table rooms").await;
        let mut conn = limited("--database-lock-timeout").system().await?;
        conn.execute("select from rooms").await
    };
    let idle = async || {
        let db = limited("--database-idle-transaction-timeout");
        let mut tx = db.begin(AppId::from_bytes([0; 12])).await?;
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut *tx)
            .await?;
        let mut lives = true;
        while lives {
            let asked =
                sqlx::query_scalar("select exists (select from pg_stat_activity where pid = $1)");
            lives = asked.bind(pid).fetch_one(&pool).await?;
        }
        tx.execute("select").await
    };
    for (what, outcome) in [
        ("statement", soon("a statement", long()).await),
        ("lock", soon("a lock", locked()).await),
        ("transaction", soon("a transaction", idle()).await),
    ] {
        let error = outcome.unwrap_err();
        assert!(db::is_away(&error), "{what}: {error}");
    }
}

async fn run_held(pool: &PgPool, sql: &'static str) -> PgTransaction<'static> {
    let mut tx = pool.begin().await.unwrap();
    tx.execute(sql).await.unwrap();
    tx
}

#[sqlx::test]
async fn a_clock_that_was_wrong_is_postgress_after_one_round_of_samples(pool: PgPool) {
    let db = Db::new(&pool.connect_options());
    let clock = Clock::system();
    let asked = clock.instant();
    let hour = TimeDelta::hours(1);
    let real: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&pool)
        .await
        .unwrap();
    clock.follow(&[Sample {
        sent: asked,
        received: asked,
        theirs: real - hour,
    }]);
    let off = db.sample_clock(&clock).await.unwrap();
    assert!((off - hour).abs() < TimeDelta::seconds(5), "{off}");
    let told = clock.now();
    let theirs: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!((theirs - told).abs() < TimeDelta::seconds(5), "{told}");
}

/// Store functions of the role that sees every tenant: each is cross-tenant by nature. Who adds one says why here.
#[test]
fn the_functions_that_see_every_tenant_are_these() {
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src"
    ))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "store.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let concept = path
                    .parent()
                    .unwrap()
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                let functions = text.split("async fn ").skip(1).filter(|function| {
                    let signature = function
                        .split_once('{')
                        .map_or("", |(signature, _)| signature);
                    signature.contains("System")
                });
                let name = |function: &str| function.split(['(', '<']).next().unwrap().to_owned();
                found.extend(functions.map(|function| format!("{concept}::{}", name(function))));
            }
        }
    }
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "apps::any_webhook_secret",     // the start tries the master key on one
            "apps::by_key",                 // a key says which app it is of
            "apps::by_name",                // a host says which app it is of
            "apps::default",                // localhost says which app it is of
            "apps::keys",                   // an operator's listing
            "apps::list",                   // an operator's listing
            "apps::next_retention",         // one loop removes the old data of all apps
            "apps::replace_webhook_secret", // a new master key is for all secrets
            "apps::revoke_key",             // an operator's command
            "apps::revoke_keys",            // as that
            "apps::set_retention",          // one loop removes the old data of all apps
            "apps::take_for_retention",
            "apps::webhook_secrets_not_under", // as that
            "apps::write_uses",                // one loop writes the uses of all keys
            "deadlines::due_of_rooms",         // one loop fires the deadlines of all rooms
            "deadlines::next_of_rooms",
            "endpoints::replace_secret", // a new master key is for all secrets
            "endpoints::secrets_not_under",
            "mail::claim", // one sender serves all apps
            "mail::record",
            "mail::remove",
            "meetings::claim",    // a node takes over whatever nobody owns
            "meetings::commands", // a node carries the commands of all its meetings
            "meetings::forget_late_commands", // commands that came when their meeting was just over
            "meetings::renew",    // one statement renews all leases of a node
            "meetings::totals",
            "rooms::opening_times", // one loop tells all sockets that wait for rooms
            "rooms::replace_rtmp_url", // a new master key is for all secrets
            "rooms::rtmp_urls_not_under",
            "tokens::app_of",    // a token says which app it is of
            "tokens::not_under", // a new master key is for all secrets
            "tokens::replace",
            "webhooks::backlog", // an operator's figures
            "webhooks::claim",   // one dispatcher serves all apps
            "webhooks::record",
            "webhooks::record_failing",
            "webhooks::record_gone",
        ]
    );
}

#[sqlx::test]
async fn a_statement_that_names_its_tenant_leaves_none_behind(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let mut conn = test.db.without_tenant().await.unwrap();
    let (app, key) = (
        test.app.app.id,
        MasterKey::parse(&MasterKey::text([1; 32])).unwrap(),
    );
    let defaults = apps::room_defaults(&mut conn, app).await.unwrap();
    let wanted = RoomChange::default();
    rooms::create(
        &mut conn,
        app,
        wanted,
        defaults,
        &key,
        test.now(),
        &mut rand::rng(),
    )
    .await
    .unwrap();
    assert_eq!(
        count(&mut conn, "rooms", None).await,
        0,
        "nobody's transaction sees nothing"
    );
    let mut tx = test.db.begin(app).await.unwrap();
    assert_eq!(count(&mut tx, "rooms", None).await, 1);
}

#[sqlx::test]
async fn a_transaction_that_nobody_waits_for_any_more_leaves_no_connection_in_one(pool: PgPool) {
    let db = Db::new(&pool.connect_options());
    let app = AppId::from_bytes([1; 12]);
    // Given up at every point of its way: while it connects, while it begins, and once it has begun.
    for micros in (0..4000).step_by(20) {
        let time = std::time::Duration::from_micros(micros);
        let _ = tokio::time::timeout(time, db.begin(app)).await;
    }
    let open = "select count(*) from pg_stat_activity
                where datname = current_database() and state like 'idle in transaction%'";
    soon("all to be rolled back", async {
        while sqlx::query_scalar::<_, i64>(open)
            .fetch_one(&pool)
            .await
            .unwrap()
            > 0
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}
