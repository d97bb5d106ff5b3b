//! Several processes on one database, some of which die.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use nix::sys::signal::Signal;
use plenum::clock::Clock;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    app::{Client, soon},
    cli::{Server, database_url, plenum},
};

const KEY: &str = "a-secret-key-of-the-roles-tests";

/// Processes on one database, with one app.
struct Installation {
    url: String,
    pool: PgPool,
    clock: Clock,
}

/// One of them.
struct Process {
    server: Server,
    address: String,
}

impl Installation {
    fn new(pool: PgPool) -> Self {
        let url = database_url(&pool);
        let clock = Clock::system();
        Self { url, pool, clock }
    }

    fn start(&self, roles: &str) -> Process {
        let mut server = Server::spawn(&[
            ("DATABASE_URL", &self.url),
            ("PLENUM_ROLES", roles),
            ("PLENUM_MEETING_LEASE", "3s"),
            ("PLENUM_BOOTSTRAP_APP", "acme"),
            ("PLENUM_BOOTSTRAP_SECRET_KEY", KEY),
        ]);
        let ready = server.says("ready");
        let url = ready["url"].as_str().unwrap();
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        Process {
            address: address.to_owned(),
            server,
        }
    }

    /// The event of this kind about this room, and how long after its time it was there to be seen.
    async fn event(&self, kind: &str, room: &str) -> (Value, TimeDelta) {
        soon(kind, async {
            loop {
                let query =
                    "select body from events where kind = $1 and body::jsonb->>'roomName' = $2";
                let found: Option<String> = sqlx::query_scalar(query)
                    .bind(kind)
                    .bind(room)
                    .fetch_optional(&self.pool)
                    .await
                    .unwrap();
                if let Some(body) = found {
                    let event: Value = serde_json::from_str(&body).unwrap();
                    let late = self.clock.now() - at(&event["createdAt"]);
                    return (event, late);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// A unix time in whole seconds, at least so many from now.
    fn in_seconds(&self, seconds: i64) -> i64 {
        self.clock.now().timestamp() + seconds + 1
    }

    async fn until(&self, unix_sec: i64) {
        let at = DateTime::from_timestamp(unix_sec, 0).unwrap();
        soon("the time", self.clock.sleep_until(at)).await;
    }
}

impl Process {
    async fn get(&self, path: &str) -> StatusCode {
        let url = format!("http://{}{path}", self.address);
        reqwest::get(url).await.unwrap().status()
    }

    async fn room(&self, rules: Value) {
        let url = format!("http://{}/api/v1/room", self.address);
        let made = reqwest::Client::new()
            .post(url)
            .bearer_auth(KEY)
            .json(&rules);
        assert_eq!(made.send().await.unwrap().status(), 200);
    }

    /// Somebody who is in the room, and can come back.
    async fn join(&self, room: &str) -> Client {
        let mut client = Client::connect(&self.address).await.unwrap();
        let join = json!({ "type": "join", "roomId": room, "name": "Ann", "resumable": true });
        client.send(join).await;
        client.expect("participant-joined").await;
        client
    }

    /// As of `kill -9`.
    fn dies(self) {
        self.server.tell(Signal::SIGKILL);
        assert!(!self.server.end().0.success());
    }
}

fn at(time: &Value) -> DateTime<Utc> {
    time.as_str().unwrap().parse().unwrap()
}

#[sqlx::test]
async fn a_process_for_jobs_tells_how_it_is_and_answers_nothing_else(pool: PgPool) {
    let all = Installation::new(pool);
    let main = all.start("api,media,jobs");
    let jobs = all.start("jobs");
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(jobs.get(path).await, 200, "{path}");
    }
    main.room(json!({ "roomName": "standup" })).await;
    for path in [
        "/standup",
        "/ws",
        "/docs/",
        "/openapi.json",
        "/api/v1/rooms",
    ] {
        assert_eq!(jobs.get(path).await, 404, "{path}");
    }
    jobs.server.tell(Signal::SIGTERM);
    assert_eq!(jobs.server.end().0.code(), Some(0));
    main.dies();
}

#[test]
fn a_process_for_jobs_has_no_database_of_its_own() {
    let data = crate::cli::data_dir();
    let dir = data.path().to_str().unwrap();
    let refused = plenum(&["serve", "--roles", "jobs"], &[("PLENUM_DATA_DIR", dir)]);
    let said = crate::cli::text(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("give DATABASE_URL"),
        "{said}"
    );
}

#[sqlx::test]
async fn what_one_process_leaves_the_other_does_at_once(pool: PgPool) {
    let all = Installation::new(pool);
    let main = all.start("api,media,jobs");
    let jobs = all.start("jobs");
    let expiry = all.in_seconds(2);
    main.room(json!({ "roomName": "first", "expireUnixSec": expiry }))
        .await;
    let second = all.in_seconds(5);
    main.room(json!({ "roomName": "second", "expireUnixSec": second }))
        .await;
    jobs.dies();
    let (event, late) = all.event("roomExpired", "first").await;
    assert_eq!(at(&event["createdAt"]).timestamp(), expiry);
    assert!(late < TimeDelta::seconds(1), "{late}");

    let jobs = all.start("jobs");
    main.dies();
    let (event, late) = all.event("roomExpired", "second").await;
    assert_eq!(at(&event["createdAt"]).timestamp(), second);
    assert!(late < TimeDelta::seconds(1), "{late}");
    let count: i64 = sqlx::query_scalar("select count(*) from events where kind = 'roomExpired'")
        .fetch_one(&all.pool)
        .await
        .unwrap();
    assert_eq!(count, 2, "each by one of them");
    jobs.dies();
}

#[sqlx::test]
async fn a_meeting_whose_node_died_ends_in_time_on_another(pool: PgPool) {
    let all = Installation::new(pool);
    let (first, second) = (all.start("api,media"), all.start("api,media,jobs"));
    let expiry = all.in_seconds(3);
    let room = json!({ "roomName": "hour", "expireUnixSec": expiry, "ejectAtRoomExp": true });
    first.room(room).await;
    let ann = first.join("hour").await;
    first.dies();
    let (event, late) = all.event("meetingEnded", "hour").await;
    assert_eq!(event["endReason"], "roomExpired");
    assert_eq!(at(&event["createdAt"]).timestamp(), expiry);
    assert!(late < TimeDelta::seconds(8), "{late}");
    drop(ann);
    second.dies();
}

#[sqlx::test]
async fn what_was_due_while_nothing_ran_happens_at_the_start_and_has_its_true_time(pool: PgPool) {
    let all = Installation::new(pool);
    let first = all.start("api,media,jobs");
    let expiry = all.in_seconds(3);
    let room = json!({ "roomName": "hour", "expireUnixSec": expiry, "ejectAtRoomExp": true });
    first.room(room).await;
    let ann = first.join("hour").await;
    first.dies();
    drop(ann);
    all.until(expiry + 1).await;
    let again = all.start("api,media,jobs");
    for kind in ["roomExpired", "meetingEnded"] {
        let (event, _) = all.event(kind, "hour").await;
        let time = at(&event["createdAt"]);
        assert_eq!(
            (time.timestamp(), time.timestamp_subsec_millis()),
            (expiry, 0)
        );
    }
    let seqs: Vec<i64> =
        sqlx::query_scalar("select seq from events where seq is not null order by seq")
            .fetch_all(&all.pool)
            .await
            .unwrap();
    assert_eq!(seqs, [1, 2, 3, 4]);
    again.dies();
}
