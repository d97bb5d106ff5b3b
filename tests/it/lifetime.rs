//! How rooms open and are removed, and how meetings begin, end and warn of it.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::{Client, TestApp, soon};

fn iso(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The end of the one meeting: when, after how long, and why.
async fn end(test: &TestApp) -> Value {
    test.events_until("meetingEnded").await;
    let events = test.events().await;
    let ended = events
        .iter()
        .find(|event| event["event"] == "meetingEnded")
        .unwrap();
    json!([ended["createdAt"], ended["durationSec"], ended["endReason"]])
}

/// Waits until so many have left.
async fn left(test: &TestApp, count: usize) {
    soon("a leave", async {
        loop {
            let events = test.events().await;
            let left = events
                .iter()
                .filter(|event| event["event"] == "participantLeft");
            if left.count() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Whether the server has done all that there was to do for this client, which has heard nothing.
async fn hears_nothing(client: &mut Client) {
    client.send_text(r#"{"type":"dance"}"#).await;
    assert_eq!(client.expect("error").await["code"], "UNKNOWN_MESSAGE_TYPE");
}

async fn says(client: &mut Client, what: Value) {
    let mut frame = what;
    frame["type"] = json!("participant-updated");
    client.send(frame).await;
    // The meeting takes one thing after the other.
    client
        .send(json!({ "type": "chat", "text": "so it is" }))
        .await;
    client.until("chat").await;
}

/// Waits until no room has this name any more.
async fn gone(test: &TestApp, room: &str) {
    soon("the end of a room", async {
        while is_there(test, room).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn is_there(test: &TestApp, room: &str) -> bool {
    let query = "select exists (select from rooms where name = $1 and archived_at is null)";
    sqlx::query_scalar(query)
        .bind(room)
        .fetch_one(&test.pool)
        .await
        .unwrap()
}

/// Waits until every meeting has done what was asked of it.
async fn obeyed(test: &TestApp) {
    soon("a command", async {
        let query = "select exists (select from meeting_commands)";
        while sqlx::query_scalar(query)
            .fetch_one(&test.pool)
            .await
            .unwrap()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Waits until no deadline of a room is due any more.
async fn until_fired(test: &TestApp) {
    soon("a deadline", async {
        loop {
            let query = "select count(*) from deadlines where meeting_id is null and due_at <= $1";
            let due: i64 = sqlx::query_scalar(query)
                .bind(test.now())
                .fetch_one(&test.pool)
                .await
                .unwrap();
            if due == 0 {
                return;
            }
        }
    })
    .await;
}

#[sqlx::test]
async fn a_meeting_ends_on_the_second_when_its_duration_is_over(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "hour", "meetingDurationSec": 30 }))
        .await;
    let mut ann = test.join("hour", "Ann").await;
    let start = test.now();
    test.advance(TimeDelta::milliseconds(29_999));
    assert!(ann.is_in().await, "not a moment early");
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ann.ended().await, "durationReached");
    let expected = json!([iso(start + TimeDelta::seconds(30)), 30, "durationReached"]);
    assert_eq!(end(&test).await, expected);
}

#[sqlx::test]
async fn a_duration_that_passes_while_the_server_is_down_is_over_then(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "hour", "meetingDurationSec": 60 }))
        .await;
    let mut ann = test.join_resumable("hour", "Ann").await;
    let start = test.now();
    test.advance(TimeDelta::seconds(50));
    test.stop_node().await;
    assert_eq!(ann.next().await, None);
    test.advance(TimeDelta::seconds(100));
    test.start_node();
    let expected = json!([iso(start + TimeDelta::seconds(60)), 60, "durationReached"]);
    assert_eq!(end(&test).await, expected);
}

#[sqlx::test]
async fn a_rule_that_is_made_for_a_meeting_that_runs_acts_at_once(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for (rule, reason) in [
        (json!({ "meetingDurationSec": 60 }), "durationReached"),
        (
            json!({ "endMeetingAfterNoActivityInSec": 60 }),
            "noActivity",
        ),
        (json!({ "endWhenOneLeftAfterSec": 60 }), "oneLeft"),
        (
            json!({ "expireUnixSec": test.now().timestamp() - 60, "ejectAtRoomExp": true }),
            "roomExpired",
        ),
    ] {
        test.room(json!({ "roomName": reason })).await;
        let mut ann = test.join(reason, "Ann").await;
        test.join(reason, "Ben").await.close(1000).await;
        ann.until("participant-left").await;
        test.advance(TimeDelta::seconds(100));
        assert!(ann.is_in().await);
        let (status, _) = test.put(&format!("/api/v1/room/{reason}"), &rule).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(ann.ended().await, reason);
        soon("the event", async {
            loop {
                let ended =
                    test.events().await.into_iter().find(|event| {
                        event["event"] == "meetingEnded" && event["roomName"] == reason
                    });
                if let Some(ended) = ended {
                    assert_eq!(
                        (&ended["createdAt"], &ended["durationSec"]),
                        (&iso(test.now()), &json!(100)),
                        "it was rightly so until now"
                    );
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[sqlx::test]
async fn a_meeting_ends_in_which_nobody_shares_anything(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    let rules = json!({
        "roomName": "quiet", "mediaMode": "mesh", "endMeetingAfterNoActivityInSec": 60, "endWhenEmptyAfterSec": 300,
    });
    test.room(rules).await;
    let mut ann = test.join_resumable("quiet", "Ann").await;
    let start = test.now();
    test.advance(TimeDelta::seconds(59));
    says(&mut ann, json!({ "isMuted": false })).await;
    test.advance(TimeDelta::seconds(100));
    assert!(ann.is_in().await);
    // A server that goes on with the meeting knows it.
    test.stop_node().await;
    assert_eq!(ann.next().await, None);
    test.start_node();
    let mut ann = test.resume("quiet", &ann).await;
    test.advance(TimeDelta::milliseconds(59_999));
    assert!(ann.is_in().await);
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ann.ended().await, "noActivity");
    let expected = json!([iso(start + TimeDelta::seconds(219)), 219, "noActivity"]);
    assert_eq!(end(&test).await, expected);
}

#[sqlx::test]
async fn media_that_reaches_the_server_unmuted_is_shared(pool: PgPool) {
    let test = TestApp::with(pool, &["--media-addresses", "127.0.0.1"]).await;
    test.room(json!({ "roomName": "quiet", "endMeetingAfterNoActivityInSec": 60 }))
        .await;
    let mut ann = test.join("quiet", "Ann").await;
    let mut media = Box::pin(crate::sfu::Client::new(1)).await;
    let offer = json!({
        "type": "offer", "targetId": "sfu", "sdp": media.offer().await,
        "tracks": { "0": "microphone", "1": "camera" },
    });
    ann.send(offer).await;
    let answer = ann.expect("answer").await;
    media
        .accept(answer["sdp"].as_str().unwrap().to_owned())
        .await;
    let shared =
        "select exists (select from meetings where started_at is not null and quiet_since is null)";
    let mut sequence = 0;
    soon("what is shared", async {
        while !sqlx::query_scalar::<_, bool>(shared)
            .fetch_one(&test.pool)
            .await
            .unwrap()
        {
            media.send(sequence).await;
            sequence += 1;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    test.advance(TimeDelta::seconds(100));
    says(&mut ann, json!({ "isMuted": true, "isVideoOff": true })).await;
    test.advance(TimeDelta::seconds(60));
    assert_eq!(ann.ended().await, "noActivity");
}

#[sqlx::test]
async fn that_nobody_shared_for_a_while_is_known_to_whoever_goes_on_with_the_meeting(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    let rules =
        json!({ "roomName": "quiet", "mediaMode": "mesh", "endMeetingAfterNoActivityInSec": 60 });
    test.room(rules).await;
    let mut ann = test.join_resumable("quiet", "Ann").await;
    says(&mut ann, json!({ "isMuted": false })).await;
    test.advance(TimeDelta::seconds(10));
    says(&mut ann, json!({ "isMuted": true })).await;
    test.advance(TimeDelta::seconds(40));
    test.stop_node().await;
    assert_eq!(ann.next().await, None);
    test.start_node();
    let mut ann = test.resume("quiet", &ann).await;
    test.advance(TimeDelta::milliseconds(19_999));
    assert!(ann.is_in().await);
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ann.ended().await, "noActivity");
}

#[sqlx::test]
async fn a_meeting_ends_in_which_one_is_left(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "pair", "endWhenOneLeftAfterSec": 60 }))
        .await;
    let mut ann = test.join_resumable("pair", "Ann").await;
    test.advance(TimeDelta::seconds(100));
    assert!(ann.is_in().await, "the first waits for the others");
    test.join("pair", "Ben").await.close(1000).await;
    ann.until("participant-left").await;
    test.advance(TimeDelta::seconds(40));
    test.stop_node().await;
    assert_eq!(ann.next().await, None);
    test.start_node();
    let mut ann = test.resume("pair", &ann).await;
    test.advance(TimeDelta::milliseconds(19_999));
    assert!(ann.is_in().await);
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ann.ended().await, "oneLeft");
}

#[sqlx::test]
async fn a_meeting_ends_with_its_last_moderator(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "class", "endWhenModeratorLeaves": true }))
        .await;
    let token = json!({ "roomName": "class", "isAdmin": true });
    let (_, token) = test.post("/api/v1/token", &token).await;
    let mut ann = test.join("class", "Ann").await;
    let mut host = test.socket().await;
    let join =
        json!({ "type": "join", "roomId": "class", "name": "Host", "token": token["token"] });
    host.send(join).await;
    host.expect("participant-joined").await;
    ann.expect("participant-joined").await;
    test.join("class", "Ben").await.close(1000).await;
    ann.until("participant-left").await;
    assert!(ann.is_in().await);
    test.advance(TimeDelta::seconds(7));
    host.send(json!({ "type": "leave" })).await;
    ann.expect("participant-left").await;
    assert_eq!(ann.ended().await, "moderatorLeft");
    assert_eq!(
        end(&test).await,
        json!([iso(test.now()), 7, "moderatorLeft"])
    );
}

#[sqlx::test]
async fn people_are_warned_of_the_end_five_minutes_and_one_minute_before(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "hour", "meetingDurationSec": 600 }))
        .await;
    let mut ann = test.join("hour", "Ann").await;
    let ends_at = (test.now() + TimeDelta::seconds(600)).timestamp_millis();
    test.advance(TimeDelta::milliseconds(299_999));
    assert!(ann.is_in().await);
    test.advance(TimeDelta::milliseconds(1));
    let warning = ann.expect("warning").await;
    assert_eq!(
        json!([warning["reason"], warning["endsAt"], warning["secondsLeft"]]),
        json!(["durationReached", ends_at, 300])
    );
    test.advance(TimeDelta::seconds(100));
    let mut ben = test.join("hour", "Ben").await;
    ben.expect("participant-joined").await;
    ben.expect("chat-history").await;
    assert_eq!(ben.expect("warning").await["secondsLeft"], 200);
    ann.expect("participant-joined").await;
    test.advance(TimeDelta::seconds(140));
    for client in [&mut ann, &mut ben] {
        assert_eq!(client.expect("warning").await["secondsLeft"], 60);
    }
    let longer = json!({ "meetingDurationSec": 1200 });
    test.put("/api/v1/room/hour", &longer).await;
    obeyed(&test).await;
    assert!(ann.is_in().await);
    test.advance(TimeDelta::seconds(360));
    assert_eq!(ann.expect("warning").await["secondsLeft"], 300);
}

#[sqlx::test]
async fn somebody_who_comes_too_early_is_told_when_the_room_opens(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let opens_at = test.now().timestamp() + 60;
    test.room(json!({ "roomName": "later", "notBeforeUnixSec": opens_at }))
        .await;
    let mut ann = test.socket().await;
    let join = json!({ "type": "join", "roomId": "later", "name": "Ann" });
    ann.send(join.clone()).await;
    let refused = ann.expect("error").await;
    assert_eq!(
        (&refused["code"], &refused["opensAtUnixSec"]),
        (&json!("ROOM_NOT_OPEN"), &json!(opens_at))
    );
    test.advance(TimeDelta::milliseconds(59_999));
    hears_nothing(&mut ann).await;
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ann.expect("room-open").await["roomId"], "later");
    ann.send(join).await;
    ann.expect("participant-joined").await;
    hears_nothing(&mut ann).await;
}

#[sqlx::test]
async fn an_opening_that_moves_is_told_when_it_is(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let now = test.now().timestamp();
    let mut waiting = Vec::new();
    for room in ["earlier", "later", "now"] {
        test.room(json!({ "roomName": room, "notBeforeUnixSec": now + 60 }))
            .await;
        let mut client = test.socket().await;
        let join = json!({ "type": "join", "roomId": room, "name": "Ann" });
        client.send(join).await;
        client.expect("error").await;
        waiting.push(client);
    }
    let moved = |seconds: i64| json!({ "notBeforeUnixSec": now + seconds });
    test.put("/api/v1/room/earlier", &moved(30)).await;
    test.put("/api/v1/room/later", &moved(90)).await;
    test.put("/api/v1/room/now", &json!({ "notBeforeUnixSec": null }))
        .await;
    let [earlier, later, at_once] = &mut waiting[..] else {
        panic!("three wait");
    };
    at_once.expect("room-open").await;
    test.advance(TimeDelta::seconds(29));
    hears_nothing(earlier).await;
    test.advance(TimeDelta::seconds(1));
    earlier.expect("room-open").await;
    test.advance(TimeDelta::seconds(59));
    hears_nothing(later).await;
    test.advance(TimeDelta::seconds(1));
    later.expect("room-open").await;
}

#[sqlx::test]
async fn a_meeting_that_a_call_opens_is_there_before_anybody_joins(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let rules = json!({ "roomName": "class", "meetingStart": "api", "emptyTimeoutSec": 120 });
    test.room(rules).await;
    let start = "/api/v1/room/class/start";
    let (status, opened) = test.post(start, &Value::Null).await;
    assert_eq!((status, &opened["isLive"]), (StatusCode::OK, &json!(false)));
    let (_, again) = test.post(start, &Value::Null).await;
    assert_eq!(again, opened, "the create call had opened it");
    assert_eq!(test.events().await, Vec::<Value>::new());
    let ann = test.join("class", "Ann").await;
    let (_, live) = test.post(start, &Value::Null).await;
    let meeting = &opened["meetingSessionId"];
    assert_eq!(
        json!([live["meetingSessionId"], live["isLive"]]),
        json!([meeting, true])
    );
    assert_eq!(&test.events().await[0]["meetingSessionId"], meeting);

    // It ends as any other, and then nobody can join until another one is opened.
    ann.close(1000).await;
    test.events_until("participantLeft").await;
    test.advance(TimeDelta::seconds(10));
    test.events_until("meetingEnded").await;
    assert_eq!(test.refusal("class").await, "MEETING_NOT_OPEN");
    let (_, second) = test.post(start, &Value::Null).await;
    assert_ne!(&second["meetingSessionId"], meeting);
    test.join("class", "Ben").await;
    let (status, error) = test.post("/api/v1/room/nowhere/start", &Value::Null).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::NOT_FOUND, &json!("ROOM_NOT_FOUND"))
    );
}

#[sqlx::test]
async fn an_opened_meeting_that_nobody_joins_ends_and_the_app_is_told(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    let rules = json!({ "roomName": "class", "meetingStart": "api", "emptyTimeoutSec": 120 });
    test.room(rules).await;
    let opened_at = test.now();
    // Its deadline passes while nobody owns it.
    test.stop_node().await;
    test.advance(TimeDelta::seconds(500));
    test.start_node();
    let expected = json!([iso(opened_at + TimeDelta::seconds(120)), 0, "neverJoined"]);
    assert_eq!(end(&test).await, expected);
    assert_eq!(test.events().await.len(), 1);
    assert_eq!(test.refusal("class").await, "MEETING_NOT_OPEN");
}

#[sqlx::test]
async fn an_opened_meeting_ends_with_its_room(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "class", "meetingStart": "api" }))
        .await;
    test.delete("/api/v1/room/class").await;
    assert_eq!(end(&test).await, json!([iso(test.now()), 0, "roomDeleted"]));

    let expiry = test.now().timestamp() + 60;
    test.room(json!({ "roomName": "short", "meetingStart": "api", "expireUnixSec": expiry }))
        .await;
    test.advance(TimeDelta::seconds(60));
    soon("the second end", async {
        let of_room = |event: &Value| event["roomName"] == "short";
        loop {
            let mut events = test.events().await.into_iter();
            if let Some(ended) = events.find(of_room) {
                return assert_eq!(ended["endReason"], "roomExpired");
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (status, error) = test.post("/api/v1/room/short/start", &Value::Null).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::GONE, &json!("ROOM_EXPIRED"))
    );
}

#[sqlx::test]
async fn a_room_is_deleted_at_its_expiry(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let expiry = test.now().timestamp() + 60;
    test.room(json!({ "roomName": "once", "expireUnixSec": expiry, "deleteOnExp": true }))
        .await;
    test.advance(TimeDelta::milliseconds(59_999));
    assert_eq!(test.get("/api/v1/room/once").await.0, StatusCode::OK);
    test.advance(TimeDelta::milliseconds(1));
    gone(&test, "once").await;
    test.room(json!({ "roomName": "once" })).await;
}

#[sqlx::test]
async fn a_room_in_which_a_meeting_runs_is_deleted_with_its_end(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for ejects in [true, false] {
        let name = format!("once-{ejects}");
        let expiry = test.now().timestamp() + 60;
        let rules = json!({ "roomName": name, "expireUnixSec": expiry, "deleteOnExp": true, "ejectAtRoomExp": ejects });
        test.room(rules).await;
        let mut ann = test.join(&name, "Ann").await;
        test.advance(TimeDelta::seconds(60));
        if ejects {
            assert_eq!(ann.ended().await, "roomExpired");
        } else {
            until_fired(&test).await;
            assert!(ann.is_in().await && is_there(&test, &name).await);
            ann.close(1000).await;
            left(&test, 2).await;
            test.advance(TimeDelta::seconds(10));
        }
        gone(&test, &name).await;
    }
}

#[sqlx::test]
async fn an_expired_room_that_is_to_be_deleted_is(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let expiry = test.now().timestamp() + 60;
    test.room(json!({ "roomName": "once", "expireUnixSec": expiry }))
        .await;
    test.advance(TimeDelta::seconds(100));
    until_fired(&test).await;
    assert!(is_there(&test, "once").await);
    test.put("/api/v1/room/once", &json!({ "deleteOnExp": true }))
        .await;
    gone(&test, "once").await;
}

#[sqlx::test]
async fn an_anonymous_room_is_removed_once_it_was_not_used_for_a_day(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "kept" })).await;
    let room = test.room(json!({ "roomName": "passing" })).await;
    let id: plenum::id::RoomId = room["_id"].as_str().unwrap().parse().unwrap();
    sqlx::query("update rooms set anonymous = true where id = $1")
        .bind(id)
        .execute(&test.pool)
        .await
        .unwrap();
    let mut tx = test.db.begin(test.app.app.id).await.unwrap();
    plenum::rooms::expect_use(&mut tx, test.app.app.id, id, test.now())
        .await
        .unwrap();
    tx.commit().await.unwrap();

    test.advance(TimeDelta::hours(23));
    let ann = test.join("passing", "Ann").await;
    test.advance(TimeDelta::hours(2));
    until_fired(&test).await;
    assert!(is_there(&test, "passing").await, "a meeting runs in it");
    ann.close(1000).await;
    test.events_until("participantLeft").await;
    test.advance(TimeDelta::seconds(10));
    test.events_until("meetingEnded").await;
    test.advance(TimeDelta::hours(24) - TimeDelta::seconds(1));
    until_fired(&test).await;
    assert!(
        is_there(&test, "passing").await,
        "not used for less than a day"
    );
    test.advance(TimeDelta::seconds(1));
    gone(&test, "passing").await;
    assert!(is_there(&test, "kept").await);
}
