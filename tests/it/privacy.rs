//! What is known of people: removed when it is old, when an app asks for it, and with the app.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool};

use crate::{
    app::{TestApp, soon},
    cli::{MASTER_KEY, plenum, text},
    receiver::Receiver,
};

const DOCUMENT: &str = include_str!("../../docs/privacy.md");

/// The columns that `docs/privacy.md` says hold what tells of people, and those that it says do not.
fn documented() -> (BTreeSet<String>, BTreeSet<String>) {
    let (personal, others) = DOCUMENT.split_once("## Everything else").unwrap();
    let cells = personal.lines().filter_map(|line| line.strip_prefix("| `"));
    let personal = cells.map(|line| line.split('`').next().unwrap().to_owned());
    let mut rest = BTreeSet::new();
    for line in others.lines().filter_map(|line| line.strip_prefix("- `")) {
        let (table, columns) = line.split_once("`: ").unwrap();
        let columns = columns.split(", ");
        rest.extend(columns.map(|column| format!("{table}.{}", column.trim_matches('`'))));
    }
    (personal.collect(), rest)
}

#[sqlx::test]
async fn the_page_on_privacy_has_every_column_of_the_schema(pool: PgPool) {
    let columns: Vec<String> = sqlx::query_scalar(
        "select table_name || '.' || column_name from information_schema.columns
         where table_schema = 'public' and table_name <> '_sqlx_migrations'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let columns: BTreeSet<String> = columns.into_iter().collect();
    let (personal, rest) = documented();
    let twice: Vec<_> = personal.intersection(&rest).collect();
    assert!(
        twice.is_empty(),
        "{twice:?} are said to tell of people, and not to"
    );
    let said: BTreeSet<String> = personal.union(&rest).cloned().collect();
    let missing: Vec<_> = columns.difference(&said).collect();
    assert!(
        missing.is_empty(),
        "say in docs/privacy.md whether these tell of people, why they are there, and for how long: {missing:#?}"
    );
    let gone: Vec<_> = said.difference(&columns).collect();
    assert!(
        gone.is_empty(),
        "docs/privacy.md has columns that are no more: {gone:#?}"
    );
}

/// What is left of people in the stays of an app, by columns that tell of people.
async fn left_in_stays(test: &TestApp, condition: &'static str) -> BTreeMap<String, Vec<String>> {
    let mut left = BTreeMap::new();
    let (personal, _) = documented();
    let columns = personal
        .iter()
        .filter_map(|column| column.strip_prefix("participants."));
    for column in columns {
        let select = format!(
            "select {column}::text from participants where {column} is not null and {condition} order by id"
        );
        let values: Vec<String> = sqlx::query_scalar(AssertSqlSafe(select))
            .fetch_all(&test.pool)
            .await
            .unwrap();
        if !values.is_empty() {
            left.insert(column.to_owned(), values);
        }
    }
    left
}

async fn count(pool: &PgPool, what: &str) -> i64 {
    let select = AssertSqlSafe(format!("select count(*) from {what}"));
    sqlx::query_scalar(select).fetch_one(pool).await.unwrap()
}

/// Waits until there are so many rows.
async fn until(pool: &PgPool, what: &str, rows: i64) {
    soon(what, async {
        while count(pool, what).await != rows {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

impl TestApp {
    /// A token that says who its bearer is.
    async fn token_for(&self, person: &str) -> String {
        self.token(json!({
            "globalToken": true, "name": format!("name-{person}"), "email": format!("{person}@example.com"),
            "externalUserId": person, "meta": format!("meta-{person}"),
        }))
        .await
    }

    async fn erase(&self, person: &str) -> Value {
        let (status, answer) = self.delete(&format!("/api/v1/user/{person}")).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }
}

#[sqlx::test]
async fn who_is_erased_is_nowhere_and_the_others_are(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    let url = receiver.url("/");
    test.room(
        json!({ "roomName": "standup", "meetingJoinWebhook": url, "meetingLeftWebhook": url }),
    )
    .await;
    let (ann, ben) = (test.token_for("ann").await, test.token_for("ben").await);
    let first = test.join_with("standup", &ann).await;
    let stay = first.id.clone();
    let _ben = test.join_with("standup", &ben).await;
    test.advance(TimeDelta::seconds(60));
    first.close(1000).await;
    until(&test.pool, "webhook_attempts", 3).await;
    let answered = "webhook_attempts where answer is not null";
    assert_eq!(count(&test.pool, answered).await, 3);
    let usage_before = count(&test.pool, "usage").await;
    // Somebody who was refused: an event, and no stay.
    sqlx::query(
        r#"insert into events (id, app_id, room_id, meeting_id, seq, kind, at, body)
           select decode(repeat('5', 24), 'hex'), app_id, room_id, meeting_id, 1000, 'refused', at,
               '{"event":"refused","name":"name-ann","externalUserId":"ann"}' from events limit 1"#,
    )
    .execute(&test.pool)
    .await
    .unwrap();

    let erased = test.erase("ann").await;
    assert_eq!(
        erased,
        json!({ "success": true, "message": "User successfully erased", "participantSessions": 1 })
    );
    let everything = everything(&test.pool).await;
    for told in ["name-ann", "ann@example.com", "meta-ann", "\"ann\""] {
        assert!(!everything.contains(told), "{told}: {everything}");
    }
    assert!(everything.contains("name-ben") && everything.contains("ben@example.com"));
    assert_eq!(
        left_in_stays(&test, "left_at is not null").await,
        BTreeMap::new()
    );
    assert_eq!(count(&test.pool, answered).await, 1, "ben's join");
    assert_eq!(count(&test.pool, "usage").await, usage_before);
    let (_, read) = test
        .get(&format!("/api/v1/participantsession/{stay}"))
        .await;
    for field in ["name", "email", "externalUserId", "meta", "browser", "os"] {
        assert_eq!(read[field], Value::Null, "{field}");
    }
    assert_eq!(
        (&read["durationSec"], &read["leaveReason"]),
        (&json!(60), &json!("left"))
    );
    assert_eq!(test.erase("ann").await["participantSessions"], 0);
}

/// All rows of all tables, as text.
async fn everything(pool: &PgPool) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables
         where table_schema = 'public' and table_type = 'BASE TABLE'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut all = String::new();
    for table in tables {
        let select =
            format!("select coalesce(string_agg(to_jsonb(t)::text, e'\\n'), '') from {table} t");
        let rows: String = sqlx::query_scalar(AssertSqlSafe(select))
            .fetch_one(pool)
            .await
            .unwrap();
        all += &rows.replace("\\\"", "\"");
    }
    all
}

#[sqlx::test]
async fn who_is_erased_while_they_are_in_stays_in_and_leaves_nothing(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    test.room(json!({ "roomName": "standup", "meetingLeftWebhook": receiver.url("/") }))
        .await;
    let token = test.token_for("ann").await;
    let mut ann = test.join_with("standup", &token).await;
    assert_eq!(test.erase("ann").await["participantSessions"], 1);
    let (_, present) = test.get("/api/v1/room/standup/participants").await;
    assert_eq!(
        (
            &present[0]["_id"],
            &present[0]["name"],
            &present[0]["externalUserId"]
        ),
        (&json!(ann.id), &Value::Null, &Value::Null)
    );
    assert!(ann.is_in().await);
    test.advance(TimeDelta::seconds(5));
    let stay = ann.id.clone();
    ann.close(1000).await;
    receiver.arrived(1).await;
    let [left] = receiver.take().try_into().unwrap();
    let left = left.json();
    assert_eq!(
        (&left["participantSessionId"], &left["durationSec"]),
        (&json!(stay), &json!(5))
    );
    for field in ["name", "email", "externalUserId", "meta"] {
        assert_eq!(left.get(field), None, "{field}");
    }
    assert_eq!(left_in_stays(&test, "true").await, BTreeMap::new());
    let everything = everything(&test.pool).await;
    assert!(!everything.contains("ann@example.com") && !everything.contains("name-ann"));
}

#[sqlx::test]
async fn an_erasure_is_of_the_apps_own_people_alone(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    test.room(json!({ "roomName": "standup" })).await;
    let token = test.token_for("a/nn ä").await;
    let _ann = test.join_with("standup", &token).await;
    let path = "/api/v1/user/a%2Fnn%20%C3%A4";
    let (_, theirs) = test.call(&other, Method::DELETE, path, None).await;
    assert_eq!(theirs["participantSessions"], 0);
    assert_eq!(
        count(
            &test.pool,
            "participants where external_user_id is not null"
        )
        .await,
        1
    );
    let (_, own) = test.delete(path).await;
    assert_eq!(own["participantSessions"], 1);
    let (status, error) = test.delete("/api/v1/user/a%00b").await;
    assert_eq!(
        (status, &error["errors"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("externalUserId"))
    );
}

#[sqlx::test]
async fn what_is_old_is_removed_day_by_day_and_usage_stays(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    test.room(json!({ "roomName": "standup", "meetingJoinWebhook": receiver.url("/") }))
        .await;
    let token = test.token_for("ann").await;
    let ann = test.join_with("standup", &token).await;
    until(&test.pool, "webhook_attempts", 1).await;
    test.send(
        Method::POST,
        "/api/v1/room",
        &[("Idempotency-Key", "once")],
        Some(&json!({})),
    )
    .await;
    ann.close(1000).await;
    test.events_until("participantLeft").await;
    test.advance(TimeDelta::seconds(10));
    test.events_until("meetingEnded").await;

    test.advance(TimeDelta::days(1));
    until(&test.pool, "idempotency_keys", 0).await;
    test.advance(TimeDelta::days(28));
    until_looked_through(&test).await;
    assert_eq!(count(&test.pool, "events").await, 4, "29 days are not 30");
    // What has not been delivered yet is kept until it has ended.
    let open =
        "update webhook_deliveries set due_at = now() + interval '100 years', outcome = null";
    sqlx::query(open).execute(&test.pool).await.unwrap();
    test.advance(TimeDelta::days(2));
    until(&test.pool, "events", 1).await;
    until_looked_through(&test).await;
    let closed = "update webhook_deliveries set due_at = null, outcome = 'failed'";
    sqlx::query(closed).execute(&test.pool).await.unwrap();
    test.advance(TimeDelta::days(1));
    until(&test.pool, "events", 0).await;
    assert_eq!(count(&test.pool, "webhook_deliveries").await, 0);
    assert_eq!(count(&test.pool, "webhook_attempts").await, 0);

    let personal = left_in_stays(&test, "true").await;
    assert_eq!(personal["email"], ["ann@example.com"]);
    test.advance(TimeDelta::days(60));
    until(&test.pool, "participants where name is not null", 0).await;
    assert_eq!(left_in_stays(&test, "true").await, BTreeMap::new());
    let usage: (i64, i64) = sqlx::query_as("select count(*), sum(seconds)::bigint from usage")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(usage, (1, 0));
}

/// Waits until the app's old data has been looked through today.
async fn until_looked_through(test: &TestApp) {
    soon("a look through", async {
        loop {
            let due = "select min(retention_due_at) from apps";
            let due: chrono::DateTime<chrono::Utc> =
                sqlx::query_scalar(due).fetch_one(&test.pool).await.unwrap();
            if due > test.now() + TimeDelta::hours(1) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[sqlx::test]
async fn events_that_are_kept_longer_than_people_forget_them(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let patch = json!({ "retention": { "personalDataDays": 5, "eventDays": 300 } });
    let (status, _) = test
        .call(&test.app, Method::PATCH, "/api/v1/app", Some(&patch))
        .await;
    assert_eq!(status, StatusCode::OK);
    test.room(json!({ "roomName": "standup" })).await;
    let token = test.token_for("ann").await;
    test.join_with("standup", &token).await.close(1000).await;
    test.events_until("participantLeft").await;
    test.advance(TimeDelta::days(6));
    until(&test.pool, "participants where name is not null", 0).await;
    let told = test.events().await;
    let joined = told
        .iter()
        .find(|event| event["event"] == "participantJoined");
    let joined = joined.unwrap();
    assert!(joined["participantSessionId"].is_string());
    for field in ["name", "email", "externalUserId", "meta"] {
        assert_eq!(joined.get(field), None, "{field}");
    }
}

#[sqlx::test]
async fn a_look_through_that_was_broken_off_is_gone_on_with(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    until_looked_through(&test).await;
    test.stop_node().await;
    test.room_with_old_stays(1_200).await;
    // Somebody has taken the app, and died.
    let taken = test.now() + TimeDelta::minutes(40);
    sqlx::query("update apps set retention_due_at = $1")
        .bind(taken)
        .execute(&test.pool)
        .await
        .unwrap();
    test.start_node();
    test.advance(TimeDelta::minutes(39));
    let old = "participants where name is not null";
    assert_eq!(count(&test.pool, old).await, 1_200, "it is somebody's");
    test.advance(TimeDelta::minutes(1));
    until(&test.pool, old, 0).await;
}

impl TestApp {
    /// So many stays that ended a year ago.
    async fn room_with_old_stays(&self, stays: i32) {
        sqlx::query(
            "with room as (
                 insert into rooms (id, app_id, name, rules, version, created_at)
                 select $1, id, 'old', '{}', 0, $2 from apps returning id, app_id
             ), meeting as (
                 insert into meetings (id, app_id, room_id, status, epoch, renewed_at, next_seq, participant_count, last_at,
                     created_at, ended_at)
                 select id, app_id, id, 'ended', 1, $2, 1, $3, $2, $2, $2 from room returning id, app_id
             )
             insert into participants (id, app_id, meeting_id, name, role, joined_at, left_at)
             select decode(lpad(to_hex(number), 24, '0'), 'hex'), app_id, id, 'Ann', 'participant', $2, $2
             from meeting, generate_series(1, $3) as number",
        )
        .bind(vec![1_u8; 12])
        .bind(self.now() - TimeDelta::days(365))
        .bind(stays)
        .execute(&self.pool)
        .await
        .unwrap();
    }
}

#[sqlx::test]
async fn an_app_is_deleted_with_all_that_it_has(pool: PgPool) {
    let test = TestApp::new(pool.clone()).await;
    let other = test.another_app("other").await;
    let receiver = Receiver::open().await;
    test.room(json!({ "roomName": "standup", "meetingJoinWebhook": receiver.url("/") }))
        .await;
    let wanted = json!({ "roomName": "theirs" });
    test.call(&other, Method::POST, "/api/v1/room", Some(&wanted))
        .await;
    let gone = test.join("standup", "Ann").await;
    gone.close(1000).await;
    let mut ben = test.join("standup", "Ben").await;
    let url = pool.connect_options().to_url_lossy().to_string();
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    let run = async |args: &'static [&'static str]| {
        let settings = settings.map(|(name, value)| (name, value.to_owned()));
        let run = move || {
            let settings: Vec<_> = settings
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            plenum(args, &settings)
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let unsure = run(&["app", "delete", "acme"]).await;
    assert!(!unsure.status.success());
    assert!(
        text(&unsure.stderr).contains("nothing was deleted"),
        "{}",
        text(&unsure.stderr)
    );
    assert!(ben.is_in().await);

    let deleted = run(&["app", "delete", "acme", "--yes"]).await;
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
    assert_eq!(text(&deleted.stdout), "deleted acme\n");
    assert_eq!(ben.until("ended").await["reason"], "roomDeleted");
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.columns
         where table_schema = 'public' and column_name = 'app_id'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    for table in tables {
        let rows = format!("{table} where app_id <> decode('{}', 'hex')", other.app.id);
        assert_eq!(count(&pool, &rows).await, 0, "{table}");
    }
    let (status, _) = test
        .call(&other, Method::GET, "/api/v1/room/theirs", None)
        .await;
    assert_eq!(status, StatusCode::OK);
    let again = run(&["app", "delete", "acme", "--yes"]).await;
    assert!(text(&again.stderr).contains("there is no app acme"));
}
