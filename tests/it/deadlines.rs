//! Deadlines: never early, once in effect, and not lost by a restart.

use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgPool;

use crate::app::TestApp;

#[sqlx::test]
async fn an_expired_room_puts_everybody_out_on_the_second(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let expiry = test.now().timestamp() + 60;
    test.room(json!({ "roomName": "hour", "expireUnixSec": expiry, "ejectAtRoomExp": true }))
        .await;
    let mut ann = test.join("hour", "Ann").await;
    let mut ben = test.join("hour", "Ben").await;
    ann.expect("participant-joined").await;
    ben.expect("participant-joined").await;
    test.advance(TimeDelta::milliseconds(59_999));
    assert!(ann.is_in().await, "not a moment early");
    ben.expect("chat").await;
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ann.ended().await, "roomExpired");
    assert_eq!(ben.ended().await, "roomExpired");
    assert_eq!(test.refusal("hour").await, "ROOM_EXPIRED");
    let kinds = test.events_until("meetingEnded").await;
    assert_eq!(
        kinds,
        [
            "meetingStarted",
            "participantJoined",
            "participantJoined",
            "participantLeft",
            "participantLeft",
            "meetingEnded"
        ]
    );
    for event in test.events().await.iter().skip(3) {
        let reason = event.get("leaveReason").or(event.get("endReason")).unwrap();
        assert_eq!(
            (reason, &event["durationSec"]),
            (&json!("roomExpired"), &json!(60))
        );
    }
}

#[sqlx::test]
async fn an_expired_room_that_ejects_nobody_only_takes_no_more_joins(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let expiry = test.now().timestamp() + 60;
    test.room(json!({ "roomName": "hour", "expireUnixSec": expiry }))
        .await;
    let mut ann = test.join("hour", "Ann").await;
    test.advance(TimeDelta::seconds(61));
    assert_eq!(test.refusal("hour").await, "ROOM_EXPIRED");
    until_fired(&test).await;
    assert!(ann.is_in().await);
}

#[sqlx::test]
async fn an_app_is_told_once_that_a_room_has_expired_with_its_true_time_also_where_nobody_ever_met(
    pool: PgPool,
) {
    let mut test = TestApp::new(pool).await;
    let expiry = test.now().timestamp() + 60;
    let room = test
        .room(json!({ "roomName": "hour", "expireUnixSec": expiry }))
        .await;
    test.room(json!({ "roomName": "gone", "expireUnixSec": expiry }))
        .await;
    test.delete("/api/v1/room/gone").await;
    test.stop_node().await;
    test.advance(TimeDelta::seconds(90));
    test.start_node();
    until_fired(&test).await;
    let events = test.room_events().await;
    assert_eq!(
        events,
        [json!({
            "id": events[0]["id"], "event": "roomExpired", "createdAt": "2030-03-17T17:47:40.000Z",
            "app": test.app.app.id, "roomName": "hour", "roomId": room["_id"],
        })],
        "of the deleted room nothing is told"
    );
}

/// Waits until no deadline of a room is due any more.
async fn until_fired(test: &TestApp) {
    crate::app::soon("a deadline", async {
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
async fn a_participant_is_out_on_the_second_and_the_others_stay(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "short", "ejectAfterElapsedTimeInSec": 60 }))
        .await;
    let mut ann = test.join("short", "Ann").await;
    test.advance(TimeDelta::seconds(30));
    let mut ben = test.join("short", "Ben").await;
    ben.expect("participant-joined").await;
    ann.expect("participant-joined").await;
    test.advance(TimeDelta::milliseconds(29_999));
    assert!(ann.is_in().await);
    ben.expect("chat").await;
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ann.ended().await, "timeLimit");
    assert_eq!(
        ben.expect("participant-left").await["participantId"],
        ann.id.as_str()
    );
    test.advance(TimeDelta::seconds(29));
    assert!(ben.is_in().await);
    test.events_until("participantLeft").await;
    let left = test.events().await.pop().unwrap();
    assert_eq!(
        (&left["leaveReason"], &left["durationSec"]),
        (&json!("timeLimit"), &json!(60))
    );
}

#[sqlx::test]
async fn a_room_that_expires_while_the_server_is_down_is_over_when_it_starts_with_its_true_time(
    pool: PgPool,
) {
    let mut test = TestApp::new(pool).await;
    let expiry = test.now().timestamp() + 60;
    test.room(json!({ "roomName": "hour", "expireUnixSec": expiry, "ejectAtRoomExp": true }))
        .await;
    let mut ann = test.join_resumable("hour", "Ann").await;
    assert_eq!(ann.expect("warning").await["secondsLeft"], 60);
    test.advance(TimeDelta::seconds(50));
    test.stop_node().await;
    assert_eq!(ann.next().await, None);
    test.advance(TimeDelta::seconds(15));
    test.start_node();
    test.events_until("meetingEnded").await;
    let events = test.events().await;
    let ended = events.last().unwrap();
    assert_eq!(
        (&ended["endReason"], &ended["durationSec"]),
        (&json!("roomExpired"), &json!(60))
    );
    assert_eq!(ended["createdAt"], "2030-03-17T17:47:40.000Z");
}

#[sqlx::test]
async fn a_time_limit_survives_a_restart(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "short", "ejectAfterElapsedTimeInSec": 60 }))
        .await;
    let mut ann = test.join_resumable("short", "Ann").await;
    test.advance(TimeDelta::seconds(50));
    test.stop_node().await;
    assert_eq!(ann.next().await, None);
    test.start_node();
    let mut ann = test.resume("short", &ann).await;
    test.advance(TimeDelta::milliseconds(9999));
    assert!(ann.is_in().await);
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ann.ended().await, "timeLimit");
    test.events_until("participantLeft").await;
    let left = test.events().await.pop().unwrap();
    assert_eq!(
        (&left["leaveReason"], &left["durationSec"]),
        (&json!("timeLimit"), &json!(60))
    );
}
