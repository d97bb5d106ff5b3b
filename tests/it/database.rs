//! The ground: roles, row-level security, migrations.

use plenum::{db, id::AppId};
use serde_json::json;
use sqlx::PgPool;

use crate::app::TestApp;

#[sqlx::test]
async fn the_role_of_operations_sees_the_rows_of_one_tenant_and_none_without(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    assert!(ann.is_in().await);
    let tables = [
        "apps",
        "secret_keys",
        "rooms",
        "meetings",
        "participants",
        "deadlines",
        "events",
    ];
    let own_rows = async |app: AppId, table: &str| -> i64 {
        let mut tx = test.db.begin(app).await.unwrap();
        let column = if table == "apps" { "id" } else { "app_id" };
        let all = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        let own = sqlx::AssertSqlSafe(format!("select count(*) from {table} where {column} = $1"));
        let all: i64 = sqlx::query_scalar(all).fetch_one(&mut *tx).await.unwrap();
        let own: i64 = sqlx::query_scalar(own)
            .bind(app)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(all, own, "{table}: rows of another tenant are seen");
        all
    };
    for table in tables {
        let seen = own_rows(test.app.app.id, table).await;
        // A room that never ends and a participant without a limit have no deadlines.
        assert!(seen > 0 || table == "deadlines", "{table}");
        let of_other = own_rows(other.app.id, table).await;
        assert_eq!(
            of_other > 0,
            table == "apps" || table == "secret_keys",
            "{table}"
        );
    }
    let mut conn = test.pool.acquire().await.unwrap();
    sqlx::query("set role plenum_app")
        .execute(&mut *conn)
        .await
        .unwrap();
    for table in tables {
        let all = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        let seen: i64 = sqlx::query_scalar(all).fetch_one(&mut *conn).await.unwrap();
        assert_eq!(seen, 0, "{table} is seen without a tenant");
    }
    sqlx::query("reset role").execute(&mut *conn).await.unwrap();
}

#[sqlx::test]
async fn every_table_is_under_row_level_security(pool: PgPool) {
    let open: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
         and not relrowsecurity and relname not like '\\_sqlx%'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(open, Vec::<String>::new());
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

#[sqlx::test]
async fn a_user_who_may_not_make_roles_is_told_the_sql_to_run(pool: PgPool) {
    let user = format!("weak_{}", std::process::id());
    let create = sqlx::AssertSqlSafe(format!("create role {user} login"));
    sqlx::query(create).execute(&pool).await.unwrap();
    let outcome = db::migrate(&pool.connect_options().as_ref().clone().username(&user)).await;
    let drop = sqlx::AssertSqlSafe(format!("drop role {user}"));
    sqlx::query(drop).execute(&pool).await.unwrap();
    let message = outcome.unwrap_err().to_string();
    for line in [
        "create role plenum_app nologin;",
        &format!("grant plenum_app, plenum_system to \"{user}\";"),
    ] {
        assert!(message.contains(line), "{message}");
    }
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
            "apps::by_key",            // a key says which app it is of
            "apps::by_name",           // a host says which app it is of
            "apps::default",           // localhost says which app it is of
            "apps::keys",              // an operator's listing
            "apps::list",              // an operator's listing
            "apps::revoke_key",        // an operator's command
            "deadlines::due_of_rooms", // one loop fires the deadlines of all rooms
            "deadlines::next_of_rooms",
            "meetings::claim", // a node takes over whatever nobody owns
            "meetings::clock",
            "meetings::commands", // a node carries the commands of all its meetings
            "meetings::forget_late_commands", // commands that came when their meeting was just over
            "meetings::renew",    // one statement renews all leases of a node
            "meetings::totals",
            "webhooks::claim", // one dispatcher serves all apps
            "webhooks::record",
            "webhooks::record_gone",
        ]
    );
}
