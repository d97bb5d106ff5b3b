//! Meetings while Postgres is away, does not answer, or refuses.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use chrono::TimeDelta;
use plenum::db::{self, cluster::Cluster};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;

use crate::app::{TestApp, soon};

/// A private cluster with our schema.
async fn cluster(folder: &TempDir) -> Cluster {
    // The user `postgres`, as whom it runs where the test is root, has to pass.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(folder.path()).await.unwrap();
    db::migrate(&cluster.connect_options()).await.unwrap();
    cluster
}

fn pool(cluster: &Cluster) -> PgPool {
    PgPool::connect_lazy_with(cluster.connect_options())
}

/// Waits for so many events, and returns those of this kind.
async fn events(test: &TestApp, count: usize, kind: &str) -> Vec<Value> {
    let all = soon("the events", async {
        loop {
            let all = test.events().await;
            if all.len() >= count {
                return all;
            }
            tokio::task::yield_now().await;
        }
    });
    let all = all.await;
    assert_eq!(all.len(), count, "{all:#?}");
    all.into_iter()
        .filter(|event| event["event"] == kind)
        .collect()
}

#[tokio::test]
async fn meetings_go_on_while_postgres_is_gone_for_a_minute_and_their_facts_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = cluster(&folder).await;
    let mut test = TestApp::new(pool(&postgres)).await;
    test.room(json!({ "roomName": "standup" })).await;
    test.room(json!({ "roomName": "short", "ejectAfterElapsedTimeInSec": 45 }))
        .await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    ann.expect("participant-joined").await;
    let mut cem = test.join("short", "Cem").await;

    test.pool.close().await;
    postgres.stop().await.unwrap();
    assert!(ann.is_in().await, "chat goes on");
    ben.until("chat").await;
    assert_eq!(test.refusal("standup").await, "TRY_AGAIN");
    test.advance(TimeDelta::seconds(20));
    ben.send(json!({ "type": "leave" })).await;
    let left = ann.expect("participant-left").await;
    assert_eq!(left["participantId"], ben.id.as_str(), "leaves act at once");
    test.advance(TimeDelta::seconds(24));
    assert!(cem.is_in().await, "not a moment early");
    test.advance(TimeDelta::seconds(1));
    assert_eq!(cem.ended().await, "timeLimit", "deadlines act at once");
    test.advance(TimeDelta::seconds(15));
    assert!(ann.is_in().await);

    let postgres = Cluster::start(folder.path()).await.unwrap();
    test.pool = pool(&postgres);
    let left = events(&test, 8, "participantLeft").await;
    let mut stays: Vec<_> = left
        .iter()
        .map(|event| {
            (
                event["name"].as_str(),
                event["leaveReason"].as_str(),
                event["durationSec"].as_i64(),
            )
        })
        .collect();
    stays.sort_unstable();
    let expected = [("Ben", "left", 20), ("Cem", "timeLimit", 45)];
    assert_eq!(
        stays,
        expected.map(|(name, reason, time)| (Some(name), Some(reason), Some(time)))
    );
    let ended = events(&test, 8, "meetingEnded").await;
    assert_eq!(
        ended[0]["durationSec"], 55,
        "empty since 45, for 10 seconds: {ended:?}"
    );
    let epoch: i64 = sqlx::query_scalar("select epoch from meetings where status = 'live'")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(epoch, 1, "its owner has gone on with it");
    assert!(ann.is_in().await);
    let seconds: Vec<i64> = sqlx::query_scalar("select seconds from usage order by 1")
        .fetch_all(&test.pool)
        .await
        .unwrap();
    assert_eq!(seconds, [20, 45]);
    test.join("standup", "Dana").await;
    test.stop_node().await;
    test.pool.close().await;
    test.db.close().await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn nobody_claims_a_meeting_while_its_owner_may_not_have_renewed_yet() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = cluster(&folder).await;
    let mut test = TestApp::with(pool(&postgres), &["--meeting-lease", "3s"]).await;
    test.room(json!({ "roomName": "standup" })).await;
    let _ann = test.join_resumable("standup", "Ann").await;
    test.pool.close().await;
    postgres.stop().await.unwrap();
    let postgres = Cluster::start(folder.path()).await.unwrap();
    test.pool = pool(&postgres);
    // As of another node, which Postgres's absence kept from renewing.
    let other = "update meetings set owner_node = '\\x0102030405060708090a0b0c', epoch = 7,
                 lease_until = clock_timestamp() - interval '1 min'";
    sqlx::query(other).execute(&test.pool).await.unwrap();
    let up = soon("the claim", async {
        loop {
            let query = "select epoch, extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8 from meetings";
            let (epoch, up): (i64, f64) = sqlx::query_as(query).fetch_one(&test.pool).await.unwrap();
            if epoch == 8 {
                return up;
            }
        }
    })
    .await;
    assert!(up >= 3.0, "claimed {up} s after Postgres's start");
    test.stop_node().await;
    test.pool.close().await;
    test.db.close().await;
    postgres.stop().await.unwrap();
}

#[sqlx::test]
async fn whoever_joined_by_a_commit_whose_answer_was_lost_has_left_again(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    // Ben's commit takes longer than its meeting's owner waits, and comes about.
    for statement in [
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(3); return null; end $$",
        "create constraint trigger slow after insert on participants deferrable initially deferred for each row
         when (new.name = 'Ben') execute function slow()",
    ] {
        sqlx::query(statement).execute(&test.pool).await.unwrap();
    }
    assert_eq!(refusal_of(&test, "Ben").await, "TRY_AGAIN");
    assert!(ann.is_in().await);
    let left = events(&test, 4, "participantLeft").await;
    let what = (
        &left[0]["name"],
        &left[0]["leaveReason"],
        &left[0]["durationSec"],
    );
    assert_eq!(what, (&json!("Ben"), &json!("joinAborted"), &json!(0)));
    test.join("standup", "Cem").await;
    ann.until("participant-joined").await;
    let seqs: Vec<i64> = sqlx::query_scalar("select seq from events order by seq")
        .fetch_all(&test.pool)
        .await
        .unwrap();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

/// The code that refuses this person's join.
async fn refusal_of(test: &TestApp, name: &str) -> String {
    let mut client = test.socket().await;
    let join = json!({ "type": "join", "roomId": "standup", "name": name });
    client.send(join).await;
    let error = client.expect("error").await;
    error["code"].as_str().unwrap().to_owned()
}

#[sqlx::test]
async fn a_meeting_that_postgres_refuses_to_store_is_read_anew(pool: PgPool) {
    let test = TestApp::with(pool, &["--meeting-lease", "3s"]).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join_resumable("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    ann.expect("participant-joined").await;
    for statement in [
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$",
        "create trigger refuse before update on participants for each row when (new.left_at is not null)
         execute function refuse()",
    ] {
        sqlx::query(statement).execute(&test.pool).await.unwrap();
    }
    ben.send(json!({ "type": "leave" })).await;
    ann.expect("participant-left").await;
    assert_eq!(ann.next().await, None, "the meeting is given up here");
    sqlx::query("drop trigger refuse on participants")
        .execute(&test.pool)
        .await
        .unwrap();
    let mut back = test.resume("standup", &ann).await;
    assert!(back.is_in().await);
    let left = events(&test, 4, "participantLeft").await;
    assert_eq!(left[0]["name"], "Ben", "once");
    let epoch: i64 = sqlx::query_scalar("select epoch from meetings")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(epoch, 2);
}
