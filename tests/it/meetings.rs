//! Meetings: joins, leaves, places, ends, crashes; with their events and their usage.

use chrono::{TimeDelta, Utc};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::PgPool;
use standardwebhooks::Webhook;

use crate::{
    app::{TestApp, soon},
    receiver::Receiver,
};

#[sqlx::test]
async fn a_meeting_begins_with_the_first_join_and_ends_ten_seconds_after_the_last_leave(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    let room = test.room(json!({ "roomName": "standup" })).await;
    let start = test.now();
    let ann = test.join("standup", "Ann").await;
    let ann_id = ann.id.clone();
    test.advance(TimeDelta::milliseconds(2500));
    ann.close(1000).await;
    test.events_until("participantLeft").await;
    test.advance(TimeDelta::seconds(10));
    let kinds = test.events_until("meetingEnded").await;
    assert_eq!(
        kinds,
        [
            "meetingStarted",
            "participantJoined",
            "participantLeft",
            "meetingEnded"
        ]
    );

    let events = test.events().await;
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index + 1);
        assert_eq!(
            (&event["roomName"], &event["roomId"]),
            (&json!("standup"), &room["_id"])
        );
        assert_eq!(event["meetingSessionId"], events[0]["meetingSessionId"]);
    }
    let iso =
        |at: chrono::DateTime<Utc>| json!(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
    let left = &events[2];
    assert_eq!(
        (&left["participantSessionId"], &left["name"]),
        (&json!(ann_id), &json!("Ann"))
    );
    assert_eq!(
        (&left["joinTime"], &left["leftTime"]),
        (&iso(start), &iso(start + TimeDelta::milliseconds(2500)))
    );
    assert_eq!(
        (&left["durationSec"], &left["leaveReason"]),
        (&json!(2), &json!("left"))
    );
    let ended = &events[3];
    assert_eq!(
        (
            &ended["durationSec"],
            &ended["participantCount"],
            &ended["endReason"]
        ),
        (&json!(12), &json!(1), &json!("empty"))
    );
    assert_eq!(usage(&test).await, [2]);

    // The next one who comes begins another meeting.
    let _ben = test.join("standup", "Ben").await;
    let sessions: i64 = sqlx::query_scalar("select count(distinct meeting_id) from events")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(sessions, 2);
}

#[sqlx::test]
async fn a_rooms_webhooks_tell_of_its_meeting_in_order_and_signed(pool: PgPool) {
    // A signature holds for five minutes of the verifier's own time.
    let test = TestApp::at_present(pool).await;
    let receiver = Receiver::open().await;
    let url = |path: &str| receiver.url(path);
    let urls = json!({
        "roomName": "standup", "meetingStartedWebhook": url("/started"), "meetingJoinWebhook": url("/joined"),
        "meetingLeftWebhook": url("/left"), "meetingEndedWebhook": url("/ended"),
    });
    test.room(urls).await;
    test.join("standup", "Ann").await.close(1000).await;
    test.events_until("participantLeft").await;
    test.advance(TimeDelta::seconds(10));
    receiver.arrived(4).await;
    let verifier = Webhook::new(test.app.webhook_secret.reveal().expose_secret()).unwrap();
    let told: Vec<(String, Value)> = receiver
        .take()
        .into_iter()
        .map(|request| {
            verifier
                .verify(request.body.as_bytes(), &request.headers)
                .unwrap();
            (request.path(), request.json()["event"].clone())
        })
        .collect();
    assert_eq!(
        told,
        [
            ("/started".to_owned(), json!("meetingStarted")),
            ("/joined".to_owned(), json!("participantJoined")),
            ("/left".to_owned(), json!("participantLeft")),
            ("/ended".to_owned(), json!("meetingEnded")),
        ]
    );
}

/// The seconds in the ledger, shortest first.
async fn usage(test: &TestApp) -> Vec<i64> {
    sqlx::query_scalar("select seconds from usage order by seconds")
        .fetch_all(&test.pool)
        .await
        .unwrap()
}

#[sqlx::test]
async fn somebody_who_comes_back_in_time_keeps_the_meeting_alive(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    test.join("standup", "Ann").await.close(1001).await;
    test.events_until("participantLeft").await;
    test.advance(TimeDelta::seconds(9));
    let mut ben = test.join("standup", "Ben").await;
    test.advance(TimeDelta::seconds(60));
    assert!(ben.is_in().await);
    let kinds = test.events_until("participantJoined").await;
    assert!(!kinds.contains(&"meetingEnded".to_owned()), "{kinds:?}");
}

#[sqlx::test]
async fn a_full_room_refuses_and_a_place_is_free_again_after_every_way_out(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "pair", "maxParticipants": 2 }))
        .await;
    let mut ann = test.join("pair", "Ann").await;
    for way_out in 0..4 {
        let mut ben = test.join("pair", "Ben").await;
        ben.expect("participant-joined").await;
        ann.expect("participant-joined").await;
        assert_eq!(test.refusal("pair").await, "ROOM_FULL");
        match way_out {
            0 => ben.send(json!({ "type": "leave" })).await,
            1 => ben.close(1000).await,
            2 => ben.close(4000).await,
            _ => ben.cut(),
        }
        ann.expect("participant-left").await;
    }
    test.join("pair", "Cem").await;
}

#[sqlx::test]
async fn of_many_who_join_at_once_exactly_as_many_get_in_as_there_are_places(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "race", "maxParticipants": 10 }))
        .await;
    let mut sockets = Vec::new();
    for _ in 0..40 {
        sockets.push(test.socket().await);
    }
    let joins = sockets
        .iter_mut()
        .enumerate()
        .map(async |(number, socket)| {
            socket
                .send(json!({ "type": "join", "roomId": "race", "name": format!("p{number}") }))
                .await;
            let frame = socket.next().await.unwrap();
            (frame["type"].clone(), frame["code"].clone())
        });
    let outcomes = futures_util::future::join_all(joins).await;
    let inside = outcomes
        .iter()
        .filter(|(kind, _)| kind == "participant-joined")
        .count();
    let refused = outcomes
        .iter()
        .filter(|(_, code)| code == "ROOM_FULL")
        .count();
    assert_eq!((inside, refused), (10, 30), "{outcomes:?}");
    let meetings: i64 = sqlx::query_scalar("select count(*) from meetings")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(meetings, 1);
}

#[sqlx::test]
async fn rules_refuse_a_join_in_their_order(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let now = test.now().timestamp();
    test.room(json!({ "roomName": "over", "privacy": "private", "expireUnixSec": now }))
        .await;
    test.room(json!({ "roomName": "closed", "privacy": "private", "expireUnixSec": now + 1 }))
        .await;
    assert_eq!(test.refusal("nowhere").await, "ROOM_NOT_FOUND");
    assert_eq!(test.refusal("over").await, "ROOM_EXPIRED");
    assert_eq!(test.refusal("closed").await, "TOKEN_REQUIRED");
    let meetings: i64 = sqlx::query_scalar("select count(*) from meetings")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(meetings, 0, "nobody is let in: no meeting begins");
}

#[sqlx::test]
async fn deleting_a_room_ends_its_meeting(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    test.delete("/api/v1/room/standup").await;
    assert_eq!(ann.ended().await, "roomDeleted");
    test.events_until("meetingEnded").await;
    let commands: i64 = sqlx::query_scalar("select count(*) from meeting_commands")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(
        commands, 0,
        "obeyed in the transaction that ended the meeting"
    );
    assert_eq!(test.refusal("standup").await, "ROOM_NOT_FOUND");
}

#[sqlx::test]
async fn a_lost_connection_comes_back_as_the_same_participant(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let ben = test.join_resumable("standup", "Ben").await;
    ann.expect("participant-joined").await;
    let (id, token) = (ben.id.clone(), ben.resume_token.clone().unwrap());
    ben.cut();
    away(&test, 1).await;
    test.advance(TimeDelta::milliseconds(29_999));

    let mut back = test.socket().await;
    back.send(json!({ "type": "resume", "roomId": "standup", "resumeToken": token }))
        .await;
    let snapshot = back.expect("snapshot").await;
    assert_eq!(snapshot["participantId"], id.as_str());
    let names: Vec<&Value> = snapshot["participants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["Ann", "Ben"]);
    test.advance(TimeDelta::minutes(5));
    back.send(json!({ "type": "chat", "text": "back" })).await;
    assert_eq!(
        ann.expect("chat").await["participantId"],
        id.as_str(),
        "nobody saw them leave"
    );
}

/// Waits until so many connections are lost.
async fn away(test: &TestApp, count: i64) {
    soon("a lost connection", async {
        loop {
            let query = "select count(*) from participants where away_since is not null";
            let away: i64 = sqlx::query_scalar(query)
                .fetch_one(&test.pool)
                .await
                .unwrap();
            if away == count {
                return;
            }
        }
    })
    .await;
}

#[sqlx::test]
async fn a_lost_connection_that_stays_away_has_left_at_the_moment_of_its_loss(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let ben = test.join_resumable("standup", "Ben").await;
    ann.expect("participant-joined").await;
    let token = ben.resume_token.clone().unwrap();
    test.advance(TimeDelta::seconds(7));
    ben.cut();
    away(&test, 1).await;
    test.advance(TimeDelta::seconds(30));
    ann.expect("participant-left").await;
    test.events_until("participantLeft").await;
    let events = test.events().await;
    let left = events.last().unwrap();
    assert_eq!(
        (&left["leaveReason"], &left["durationSec"]),
        (&json!("connectionLost"), &json!(7))
    );
    assert_eq!(usage(&test).await, [7]);

    let mut late = test.socket().await;
    late.send(json!({ "type": "resume", "roomId": "standup", "resumeToken": token }))
        .await;
    assert_eq!(late.expect("error").await["code"], "RESUME_FAILED");
}

#[sqlx::test]
async fn a_resume_takes_the_place_of_a_connection_that_only_seemed_to_stand(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join_resumable("standup", "Ann").await;
    let mut back = test.socket().await;
    back.send(json!({ "type": "resume", "roomId": "standup", "resumeToken": ann.resume_token.clone().unwrap() })).await;
    assert_eq!(
        back.expect("snapshot").await["participantId"],
        ann.id.as_str()
    );
    assert_eq!(ann.next().await, None, "the old connection is closed");
    back.id = ann.id;
    assert!(back.is_in().await);
    assert_eq!(
        test.events_until("participantJoined").await.len(),
        2,
        "nobody left or joined"
    );
}

#[sqlx::test]
async fn a_stop_ends_the_stays_of_those_who_cannot_come_back_and_keeps_the_others(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join_resumable("standup", "Ben").await;
    ann.expect("participant-joined").await;
    ben.expect("participant-joined").await;
    test.advance(TimeDelta::seconds(3));
    test.stop_node().await;
    assert_eq!(ann.ended().await, "serverShutdown");
    assert_eq!(
        ben.expect("participant-left").await["participantId"],
        ann.id.as_str()
    );
    assert_eq!(
        ben.next().await,
        None,
        "the socket closes, the stay goes on"
    );

    test.start_node();
    let mut back = test.resume("standup", &ben).await;
    assert!(back.is_in().await);
    assert_eq!(
        test.events_until("participantLeft").await,
        [
            "meetingStarted",
            "participantJoined",
            "participantJoined",
            "participantLeft"
        ]
    );
}

#[sqlx::test]
async fn an_owner_whose_meeting_was_claimed_by_another_node_writes_nothing_more(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    ann.expect("participant-joined").await;
    ben.expect("participant-joined").await;
    let claim = "update meetings set owner_node = '\\x0102030405060708090a0b0c', epoch = epoch + 1,
                 lease_until = clock_timestamp() + interval '1 hour'";
    sqlx::query(claim).execute(&test.pool).await.unwrap();
    ann.send(json!({ "type": "leave" })).await;
    assert_eq!(
        ben.next().await,
        None,
        "who is still here is sent to the meeting's new owner"
    );
    let kinds = test.events_until("participantJoined").await;
    assert_eq!(
        kinds,
        ["meetingStarted", "participantJoined", "participantJoined"]
    );
    assert_eq!(
        test.refusal("standup").await,
        "TRY_AGAIN",
        "the other node runs the meeting"
    );
}

#[sqlx::test]
async fn after_a_suspend_longer_than_a_lease_a_node_claims_its_meetings_anew(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join_resumable("standup", "Ann").await;
    let expire = "update meetings set lease_until = clock_timestamp() - interval '1 s'";
    sqlx::query(expire).execute(&test.pool).await.unwrap();
    test.clock.suspend(std::time::Duration::from_secs(61));
    // Whatever happens first wakes the owner, which then finds that it is none.
    ann.send(json!({ "type": "chat", "text": "good morning" }))
        .await;
    while ann.next().await.is_some() {}
    let mut back = test.resume("standup", &ann).await;
    assert!(back.is_in().await);
    let epoch: i64 = sqlx::query_scalar("select epoch from meetings")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(epoch, 2);
}

#[sqlx::test]
async fn a_meeting_whose_owner_died_is_taken_over_and_its_stays_are_closed(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let ann = test.join("standup", "Ann").await;
    test.advance(TimeDelta::seconds(20));
    // As `kill -9` leaves it: rows as they were, and a lease that nobody renews.
    let row: (Vec<u8>, i64) = sqlx::query_as("select id, epoch from meetings")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    test.stop_node().await;
    drop(ann);
    for died in [
        "delete from webhook_deliveries",
        "delete from usage",
        "delete from events where kind <> 'meetingStarted' and kind <> 'participantJoined'",
        "update participants set left_at = null, leave_reason = null",
        "update meetings set owner_node = '\\x0102030405060708090a0b0c', lease_until = clock_timestamp() - interval '1 s',
             next_seq = 3, empty_since = null, renewed_at = renewed_at - interval '3 s'",
    ] {
        sqlx::query(died).execute(&test.pool).await.unwrap();
    }
    test.start_node();
    test.events_until("participantLeft").await;
    let left = test.events().await.pop().unwrap();
    assert_eq!(
        (&left["leaveReason"], &left["durationSec"], &left["seq"]),
        (&json!("serverCrash"), &json!(17), &json!(3))
    );
    test.advance(TimeDelta::seconds(10));
    test.events_until("meetingEnded").await;
    let after: (Vec<u8>, i64) = sqlx::query_as("select id, epoch from meetings")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(
        (after.0, after.1),
        (row.0, row.1 + 1),
        "each claim raises the epoch"
    );
    assert_eq!(usage(&test).await, [17]);
}

#[sqlx::test]
async fn a_latecomer_to_a_big_meeting_hears_of_everybody(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "hall" })).await;
    let mut people = Vec::new();
    for number in 0..300 {
        people.push(test.join("hall", &format!("p{number}")).await);
    }
    let mut last = people.pop().unwrap();
    for number in 0..299 {
        assert_eq!(
            last.expect("participant-joined").await["name"],
            format!("p{number}")
        );
    }
    assert!(last.is_in().await);
}

#[sqlx::test]
async fn whoever_sends_too_much_is_put_out_and_has_left(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup", "maxParticipants": 2 }))
        .await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    ann.expect("participant-joined").await;
    for number in 0..200 {
        ben.send(json!({ "type": "chat", "text": format!("{number}") }))
            .await;
    }
    let mut last = Value::Null;
    while let Some(frame) = ben.next().await {
        last = frame;
    }
    assert_eq!(last["code"], "TOO_FAST");
    loop {
        let frame = ann.next().await.unwrap();
        if frame["type"] == "participant-left" {
            break;
        }
        assert_eq!(frame["type"], "chat", "who reads along is not harmed");
    }
    test.join("standup", "Cem").await;
}

#[sqlx::test]
async fn a_room_deleted_at_the_instant_of_its_expiry_is_deleted(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let expiry = test.now().timestamp() + 60;
    let names: Vec<String> = (0..40).map(|number| format!("room{number}")).collect();
    for name in &names {
        test.room(json!({ "roomName": name, "expireUnixSec": expiry, "ejectAtRoomExp": true }))
            .await;
    }
    test.advance(TimeDelta::seconds(60));
    let deletes = names
        .iter()
        .map(async |name| test.delete(&format!("/api/v1/room/{name}")).await.0);
    let outcomes = futures_util::future::join_all(deletes).await;
    assert!(
        outcomes.iter().all(|status| status.is_success()),
        "{outcomes:?}"
    );
}

#[sqlx::test]
async fn while_postgres_stores_nothing_chat_goes_on_leaves_act_and_joins_are_refused(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    let mut cem = test.join("standup", "Cem").await;
    for _ in 0..2 {
        ann.expect("participant-joined").await;
    }
    // Whoever holds the meeting's row keeps its owner from storing anything.
    let mut holder = test.pool.begin().await.unwrap();
    sqlx::query("select from meetings for update")
        .execute(&mut *holder)
        .await
        .unwrap();
    test.advance(TimeDelta::seconds(7));
    ben.send(json!({ "type": "leave" })).await;
    assert!(ann.is_in().await, "chat does not wait");
    assert_eq!(
        ann.expect("participant-left").await["participantId"],
        ben.id.as_str()
    );
    assert_eq!(test.refusal("standup").await, "TRY_AGAIN");
    test.advance(TimeDelta::seconds(600));
    cem.send(json!({ "type": "chat", "text": "still here" }))
        .await;
    ann.expect("chat").await;
    drop(holder);

    soon("the leave", async {
        while !test
            .events()
            .await
            .iter()
            .any(|event| event["event"] == "participantLeft")
        {}
    })
    .await;
    let left = test.events().await.pop().unwrap();
    assert_eq!(
        (&left["name"], &left["durationSec"], &left["seq"]),
        (&json!("Ben"), &json!(7), &json!(5))
    );
    test.join("standup", "Dana").await;
    assert_eq!(usage(&test).await, [7]);
}
