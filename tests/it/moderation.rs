//! What moderators and the app may do to a running meeting: who hears what of it, in which order, and what comes of it.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::{Client, TestApp, soon};

/// A room with a moderator in it.
async fn moderated(pool: PgPool, rules: Value) -> (TestApp, Client) {
    let test = TestApp::new(pool).await;
    let mut room = json!({ "roomName": "standup" });
    room.as_object_mut()
        .unwrap()
        .extend(rules.as_object().unwrap().clone());
    test.room(room).await;
    let mod_ = with_token(&test, "Mia", json!({ "isAdmin": true })).await;
    (test, mod_)
}

async fn token(test: &TestApp, claims: &Value) -> String {
    let mut wanted = claims.clone();
    wanted["roomName"] = json!("standup");
    let (status, made) = test.post("/api/v1/token", &wanted).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    made["token"].as_str().unwrap().to_owned()
}

/// Somebody who is in, by a token with these claims.
async fn with_token(test: &TestApp, name: &str, claims: Value) -> Client {
    let token = token(test, &claims).await;
    let mut client = asks(test, name, Some(&token)).await;
    client.id = client.expect("participant-joined").await["participantId"]
        .as_str()
        .unwrap()
        .to_owned();
    client
}

/// A socket that has asked to join.
async fn asks(test: &TestApp, name: &str, token: Option<&str>) -> Client {
    let mut client = test.socket().await;
    client
        .send(json!({ "type": "join", "roomId": "standup", "name": name, "token": token }))
        .await;
    client
}

/// Somebody who waits, and whom the moderators have heard of.
async fn waits(test: &TestApp, name: &str, moderators: &mut [&mut Client]) -> Client {
    let mut client = asks(test, name, None).await;
    let own = client.expect("waiting-room").await;
    client.id = own["participantId"].as_str().unwrap().to_owned();
    assert_eq!(own["name"], name);
    for moderator in moderators {
        assert_eq!(
            moderator.expect("waiting-room").await,
            own,
            "the same frame"
        );
    }
    client
}

async fn call(test: &TestApp, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let path = format!("/api/v1/room/standup/{path}");
    test.call(&test.app, method, &path, Some(&body)).await
}

/// A call that does something to the meeting; whom it concerned.
async fn does(test: &TestApp, path: &str, body: Value) -> Vec<String> {
    let (status, done) = call(test, Method::POST, path, body).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    assert_eq!(
        (&done["success"], &done["pending"]),
        (&json!(true), &json!(false))
    );
    serde_json::from_value(done["participantSessionIds"].clone()).unwrap()
}

#[sqlx::test]
async fn who_comes_to_a_waiting_room_waits_and_every_moderator_hears_of_them(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({ "waitingRoom": true })).await;
    let mut max = with_token(&test, "Max", json!({ "isAdmin": true })).await;
    max.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    let mut ann = waits(&test, "Ann", &mut [&mut mia, &mut max]).await;

    // Whoever waits is not in: nothing is heard of them, and they hear of nothing.
    mia.send(json!({ "type": "chat", "text": "she waits" }))
        .await;
    max.expect("chat").await;
    mia.expect("chat").await;
    for frame in [
        json!({ "type": "chat", "text": "hi" }),
        json!({ "type": "participant-updated", "isMuted": true }),
        json!({ "type": "admit-user", "targetId": ann.id }),
        json!({ "type": "offer", "targetId": "sfu", "sdp": "v=0" }),
    ] {
        ann.send(frame).await;
        assert_eq!(ann.expect("error").await["code"], "NOT_JOINED");
    }

    // Admitted, they hear of themself first, then of the others; the moderators of them, as of everybody who comes in.
    max.send(json!({ "type": "admit-user", "targetId": ann.id }))
        .await;
    let own = ann.expect("participant-joined").await;
    assert_eq!(
        (&own["participantId"], &own["name"]),
        (&json!(ann.id), &json!("Ann"))
    );
    for earlier in [&mia, &max] {
        assert_eq!(
            ann.expect("participant-joined").await["participantId"],
            earlier.id.as_str()
        );
    }
    for moderator in [&mut mia, &mut max] {
        assert_eq!(
            moderator.expect("participant-joined").await["participantId"],
            ann.id.as_str()
        );
    }
    assert!(ann.is_in().await);
    assert_eq!(
        test.events_until("knock").await,
        [
            "meetingStarted",
            "participantJoined",
            "participantJoined",
            "knock",
            "participantJoined"
        ]
    );
    assert_eq!(test.events().await[3]["name"], "Ann");
}

#[sqlx::test]
async fn who_is_rejected_hears_why_and_is_cut_off_and_the_moderators_lists_are_clean(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({ "waitingRoom": true })).await;
    let mut max = with_token(&test, "Max", json!({ "isAdmin": true })).await;
    max.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    let mut ann = waits(&test, "Ann", &mut [&mut mia, &mut max]).await;
    let ben = waits(&test, "Ben", &mut [&mut mia, &mut max]).await;
    mia.send(json!({ "type": "reject-user", "targetId": ann.id, "reason": "Not today." }))
        .await;
    let last = ann.expect("reject-user").await;
    assert_eq!(
        json!([last["participantId"], last["code"], last["reason"]]),
        json!([ann.id, "REJECTED", "Not today."])
    );
    assert_eq!(ann.next().await, None, "the server closes");
    // One whose socket goes is no entry any more either.
    ben.cut();
    for moderator in [&mut mia, &mut max] {
        assert_eq!(
            moderator.expect("waiting-left").await["participantId"],
            ann.id.as_str()
        );
        moderator.expect("waiting-left").await;
    }
    mia.send(json!({ "type": "admit-user", "targetId": ann.id }))
        .await;
    assert_eq!(mia.expect("error").await["code"], "TARGET_NOT_FOUND");
    mia.send(json!({ "type": "reject-user" })).await;
    assert_eq!(mia.expect("error").await["code"], "INVALID_MESSAGE");
    // All of nobody is nobody.
    mia.send(json!({ "type": "admit-user", "all": true })).await;
    assert!(mia.is_in().await);
}

#[sqlx::test]
async fn nobody_answering_for_ten_minutes_is_an_answer(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({ "waitingRoom": true })).await;
    let mut ann = waits(&test, "Ann", &mut [&mut mia]).await;
    test.advance(TimeDelta::seconds(599));
    assert_eq!(
        test.get("/api/v1/room/standup/waiting").await.1["data"][0]["name"],
        "Ann"
    );
    test.advance(TimeDelta::seconds(1));
    let last = soon("the end of waiting", ann.until("reject-user")).await;
    assert_eq!(last["code"], "NOT_ANSWERED");
    assert_eq!(ann.next().await, None);
    mia.until("waiting-left").await;
    assert_eq!(
        test.get("/api/v1/room/standup/waiting").await.1["data"],
        json!([])
    );
}

#[sqlx::test]
async fn a_locked_meeting_has_people_wait_and_unlocking_lets_nobody_in(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let mut ben = test.join("standup", "Ben").await;
    ben.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    ben.send(json!({ "type": "room-locked" })).await;
    let error = ben.expect("error").await;
    assert_eq!(
        json!([error["code"], error["message"]]),
        json!(["UNAUTHORIZED", "Only moderators can lock the room"])
    );
    for _ in 0..2 {
        mia.send(json!({ "type": "room-locked" })).await;
        for client in [&mut mia, &mut ben] {
            let frame = client.expect("room-locked").await;
            assert!(frame["lockedBy"] == frame["participantId"]);
        }
    }
    let mut ann = waits(&test, "Ann", &mut [&mut mia]).await;
    // A moderator passes, and learns that it is locked and who waits.
    let mut max = with_token(&test, "Max", json!({ "isAdmin": true })).await;
    max.expect("participant-joined").await;
    max.expect("participant-joined").await;
    assert_eq!(max.expect("room-locked").await["lockedBy"], Value::Null);
    assert_eq!(
        max.expect("waiting-room").await["participantId"],
        ann.id.as_str()
    );
    mia.expect("participant-joined").await;
    ben.expect("participant-joined").await;

    mia.send(json!({ "type": "room-unlocked" })).await;
    for client in [&mut mia, &mut max, &mut ben] {
        assert_eq!(
            client.expect("room-unlocked").await["unlockedBy"],
            mia_id(&test).await
        );
    }
    let mut cem = test.join("standup", "Cem").await;
    for _ in 0..3 {
        cem.expect("participant-joined").await;
    }
    ann.send(json!({ "type": "chat", "text": "hello?" })).await;
    assert_eq!(
        ann.expect("error").await["code"],
        "NOT_JOINED",
        "still waiting"
    );
    max.expect("participant-joined").await;
    max.send(json!({ "type": "admit-user", "all": true })).await;
    ann.expect("participant-joined").await;
}

/// The id of the first who joined.
async fn mia_id(test: &TestApp) -> Value {
    test.events().await[1]["participantSessionId"].clone()
}

#[sqlx::test]
async fn a_locked_room_without_anybody_who_could_open_refuses(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup", "locked": true }))
        .await;
    assert_eq!(test.refusal("standup").await, "ROOM_LOCKED");
    let mut mia = with_token(&test, "Mia", json!({ "isAdmin": true })).await;
    mia.expect("room-locked").await;
    waits(&test, "Ann", &mut [&mut mia]).await;
    mia.expect("waiting-left").await;
    // What the room says last counts.
    test.put("/api/v1/room/standup", &json!({ "locked": false }))
        .await;
    assert_eq!(mia.expect("room-unlocked").await["unlockedBy"], Value::Null);
    test.join("standup", "Ann").await;
}

#[sqlx::test]
async fn people_without_a_token_may_knock_at_a_private_room_that_says_so(pool: PgPool) {
    let (test, mut mia) = moderated(
        pool,
        json!({ "privacy": "private", "enableRequestToJoin": true }),
    )
    .await;
    let mut ann = waits(&test, "Ann", &mut [&mut mia]).await;
    let mut ben = with_token(&test, "Ben", json!({})).await;
    ben.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    mia.send(json!({ "type": "admit-user", "targetId": ann.id }))
        .await;
    ann.expect("participant-joined").await;
    test.put(
        "/api/v1/room/standup",
        &json!({ "enableRequestToJoin": false }),
    )
    .await;
    soon("the rule", async {
        while test.refusal("standup").await != "TOKEN_REQUIRED" {}
    })
    .await;
}

#[sqlx::test]
async fn people_may_wait_for_a_moderator_who_is_not_there_yet(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup", "waitingRoom": true }))
        .await;
    let mut ann = waits(&test, "Ann", &mut []).await;
    // Longer than a meeting waits for the join that opened it.
    test.advance(TimeDelta::seconds(120));
    let mut mia = with_token(&test, "Mia", json!({ "isAdmin": true })).await;
    let seen = mia.expect("waiting-room").await;
    assert_eq!(seen["participantId"], ann.id.as_str());
    mia.send(json!({ "type": "admit-user", "targetId": ann.id }))
        .await;
    ann.expect("participant-joined").await;
    assert_eq!(
        test.events_until("meetingStarted").await,
        [
            "knock",
            "meetingStarted",
            "participantJoined",
            "participantJoined"
        ]
    );
}

#[sqlx::test]
async fn admitting_asks_anew_whether_there_is_a_place(pool: PgPool) {
    let (test, mut mia) =
        moderated(pool, json!({ "waitingRoom": true, "maxParticipants": 3 })).await;
    let mut ann = waits(&test, "Ann", &mut [&mut mia]).await;
    let mut ben = waits(&test, "Ben", &mut [&mut mia]).await;
    let mut cem = waits(&test, "Cem", &mut [&mut mia]).await;
    let admitted = does(&test, "waiting/admit", json!({ "all": true })).await;
    assert_eq!(
        admitted,
        [ann.id.clone(), ben.id.clone()],
        "in the order in which they came"
    );
    ann.expect("participant-joined").await;
    ben.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    mia.send(json!({ "type": "admit-user", "targetId": cem.id }))
        .await;
    assert_eq!(mia.expect("error").await["code"], "ROOM_FULL");
    let (status, error) = call(
        &test,
        Method::POST,
        "waiting/admit",
        json!({ "participantSessionIds": [cem.id] }),
    )
    .await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::CONFLICT, &json!("ROOM_FULL"))
    );
    // A full room keeps nobody waiting.
    assert_eq!(test.refusal("standup").await, "ROOM_FULL");
    ann.until("participant-joined").await;
    ann.close(1000).await;
    mia.expect("participant-left").await;
    mia.send(json!({ "type": "admit-user", "targetId": cem.id }))
        .await;
    cem.expect("participant-joined").await;
}

#[sqlx::test]
async fn the_end_of_a_meeting_is_told_to_who_waits(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({ "waitingRoom": true })).await;
    let mut ann = waits(&test, "Ann", &mut [&mut mia]).await;
    mia.send(json!({ "type": "end-meeting" })).await;
    assert_eq!(mia.ended().await, "endedByModerator");
    assert_eq!(ann.ended().await, "endedByModerator");
    let events = test.events_until("meetingEnded").await;
    assert_eq!(
        events,
        [
            "meetingStarted",
            "participantJoined",
            "knock",
            "participantLeft",
            "meetingEnded"
        ]
    );
    let stays: i64 = sqlx::query_scalar("select count(*) from participants")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(stays, 1, "who waited has no stay");
}

#[sqlx::test]
async fn muting_is_heard_by_all_and_ordered_of_one(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    for client in [&mut mia, &mut ann] {
        client.until("participant-joined").await;
    }
    ann.until("participant-joined").await;
    mia.until("participant-joined").await;
    ben.until("participant-joined").await;
    ben.until("participant-joined").await;
    for (action, state) in [
        ("mute", json!([false, true, false, false])),
        ("stop-video", json!([false, true, true, false])),
        ("unmute", json!([false, false, true, false])),
    ] {
        mia.send(json!({ "type": "moderator-action", "targetId": ann.id, "action": action }))
            .await;
        let target = ann.id.clone();
        for client in [&mut mia, &mut ben, &mut ann] {
            let frame = client.expect("participant-updated").await;
            let shown =
                ["isModerator", "isMuted", "isVideoOff", "isHandRaised"].map(|name| &frame[name]);
            assert_eq!(
                (&frame["participantId"], json!(shown)),
                (&json!(target), state.clone())
            );
        }
        let order = ann.expect("moderator-action").await;
        assert_eq!(
            json!([order["participantId"], order["targetId"], order["action"]]),
            json!([mia.id, ann.id, action])
        );
    }
    // Nobody else is ordered anything, and a latecomer sees how it is.
    let mut cem = test.join("standup", "Cem").await;
    cem.expect("participant-joined").await;
    let seen = cem.expect("participant-joined").await;
    assert_eq!(
        (&seen["isMuted"], &seen["isVideoOff"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(ben.expect("participant-joined").await["name"], "Cem");
    assert_eq!(mia.expect("participant-joined").await["name"], "Cem");
}

#[sqlx::test]
async fn only_moderators_moderate_and_what_is_asked_for_must_make_sense(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let mut ann = test.join("standup", "Ann").await;
    ann.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    for (frame, sentence) in [
        (
            json!({ "type": "room-locked" }),
            "Only moderators can lock the room",
        ),
        (
            json!({ "type": "room-unlocked" }),
            "Only moderators can unlock the room",
        ),
        (
            json!({ "type": "moderator-action", "targetId": mia.id, "action": "kick" }),
            "Only moderators can perform this action",
        ),
        (
            json!({ "type": "admit-user", "targetId": mia.id }),
            "Only moderators can admit users",
        ),
        (
            json!({ "type": "reject-user", "targetId": mia.id }),
            "Only moderators can reject users",
        ),
        (
            json!({ "type": "end-meeting" }),
            "Only moderators can end the meeting",
        ),
    ] {
        ann.send(frame).await;
        let error = ann.expect("error").await;
        assert_eq!(
            json!([error["code"], error["message"]]),
            json!(["UNAUTHORIZED", sentence])
        );
    }
    let nobody = "0".repeat(24);
    mia.send(json!({ "type": "moderator-action", "targetId": nobody, "action": "kick" }))
        .await;
    let error = mia.expect("error").await;
    assert_eq!(
        json!([error["code"], error["message"]]),
        json!(["TARGET_NOT_FOUND", "Target participant not found"])
    );
    let wrong = json!({ "type": "moderator-action", "targetId": ann.id, "action": "dance" });
    mia.send_text(&wrong.to_string()).await;
    let error = mia.expect("error").await;
    assert_eq!(error["code"], "INVALID_MESSAGE");
    assert!(
        error["message"].as_str().unwrap().contains("`kick`"),
        "{error}"
    );
    assert!(ann.is_in().await, "and nothing of it was done or said");
}

#[sqlx::test]
async fn a_new_moderator_is_announced_and_learns_who_waits(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let mut ann = test.join("standup", "Ann").await;
    ann.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    mia.send(json!({ "type": "room-locked" })).await;
    mia.expect("room-locked").await;
    ann.expect("room-locked").await;
    let mut ben = waits(&test, "Ben", &mut [&mut mia]).await;
    mia.send(json!({ "type": "moderator-action", "targetId": ann.id, "action": "make-moderator" }))
        .await;
    let target = ann.id.clone();
    for client in [&mut mia, &mut ann] {
        let frame = client.expect("participant-updated").await;
        assert_eq!(
            (&frame["participantId"], &frame["isModerator"]),
            (&json!(target), &json!(true))
        );
    }
    assert_eq!(
        ann.expect("moderator-action").await["action"],
        "make-moderator"
    );
    assert_eq!(
        ann.expect("waiting-room").await["participantId"],
        ben.id.as_str()
    );
    ann.send(json!({ "type": "admit-user", "targetId": ben.id }))
        .await;
    ben.expect("participant-joined").await;
    ann.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    mia.send(
        json!({ "type": "moderator-action", "targetId": ann.id, "action": "remove-moderator" }),
    )
    .await;
    assert_eq!(
        ann.expect("participant-updated").await["isModerator"],
        false
    );
    ann.expect("moderator-action").await;
    ann.send(json!({ "type": "room-unlocked" })).await;
    assert_eq!(ann.until("error").await["code"], "UNAUTHORIZED");
}

#[sqlx::test]
async fn a_kicked_client_hears_it_is_cut_off_and_may_come_again(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    for client in [&mut mia, &mut ann, &mut ben] {
        client.until("participant-joined").await;
    }
    ben.until("participant-joined").await;
    mia.until("participant-joined").await;
    ann.until("participant-joined").await;
    mia.send(json!({ "type": "moderator-action", "targetId": ann.id, "action": "kick", "reason": "Be nice." }))
        .await;
    assert_eq!(ann.expect("moderator-action").await["action"], "kick");
    let ended = ann.expect("ended").await;
    assert_eq!(
        json!([ended["reason"], ended["message"]]),
        json!(["kicked", "Be nice."])
    );
    // The socket is closed, and what is sent on it still is heard by nobody: the others hear that they have left, and no more.
    ann.send(json!({ "type": "chat", "text": "still here" }))
        .await;
    assert_eq!(ann.next().await, None);
    for client in [&mut mia, &mut ben] {
        assert_eq!(
            client.expect("participant-left").await["participantId"],
            ann.id.as_str()
        );
    }
    assert!(mia.is_in().await);
    ben.expect("chat").await;
    assert!(ben.is_in().await);
    let mut again = test.join("standup", "Ann").await;
    assert_ne!(again.id, ann.id);
    again.until("participant-joined").await;
    let left = test.events().await;
    let left = left
        .iter()
        .find(|event| event["event"] == "participantLeft")
        .unwrap();
    assert_eq!(left["leaveReason"], "kicked");
}

#[sqlx::test]
async fn a_banned_person_stays_out_whatever_token_they_have(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let claims = json!({ "externalUserId": "u-ann" });
    let mut ann = with_token(&test, "Ann", claims.clone()).await;
    ann.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    mia.send(json!({ "type": "moderator-action", "targetId": ann.id, "action": "ban" }))
        .await;
    ann.expect("moderator-action").await;
    assert_eq!(ann.ended().await, "banned");
    mia.expect("participant-left").await;
    let fresh = token(&test, &claims).await;
    let mut again = asks(&test, "Ann", Some(&fresh)).await;
    assert_eq!(again.expect("error").await["code"], "EJECTED");
    // Also once somebody else owns the meeting.
    let mut test = test;
    test.stop_node().await;
    test.start_node();
    let mut mia = with_token_soon(&test, "Mia", json!({ "isAdmin": true })).await;
    let mut again = asks(&test, "Ann", Some(&fresh)).await;
    assert_eq!(again.expect("error").await["code"], "EJECTED");
    // Until the meeting is over.
    mia.send(json!({ "type": "end-meeting" })).await;
    assert_eq!(mia.ended().await, "endedByModerator");
    soon("the next meeting", async {
        loop {
            let mut again = asks(&test, "Ann", Some(&fresh)).await;
            match again.next().await.unwrap() {
                frame if frame["type"] == "participant-joined" => return,
                frame => {
                    assert!(["EJECTED", "TRY_AGAIN"].contains(&frame["code"].as_str().unwrap()))
                }
            }
        }
    })
    .await;
}

/// The same as [`with_token`], once the meeting has an owner again.
async fn with_token_soon(test: &TestApp, name: &str, claims: Value) -> Client {
    let token = token(test, &claims).await;
    soon("a join", async {
        loop {
            let mut client = asks(test, name, Some(&token)).await;
            match client.next().await.unwrap() {
                frame if frame["type"] == "participant-joined" => {
                    client.id = frame["participantId"].as_str().unwrap().to_owned();
                    return client;
                }
                frame => assert_eq!(frame["code"], "TRY_AGAIN", "{frame}"),
            }
        }
    })
    .await
}

#[sqlx::test]
async fn the_app_ejects_several_and_the_answer_names_those_who_were_here(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let ann_token = token(&test, &json!({ "externalUserId": "u-ann" })).await;
    let mut ann = asks(&test, "Ann", Some(&ann_token)).await;
    ann.id = ann.expect("participant-joined").await["participantId"]
        .as_str()
        .unwrap()
        .to_owned();
    ann.until("participant-joined").await;
    let mut ben = test.join("standup", "Ben").await;
    ben.until("participant-joined").await;
    ann.until("participant-joined").await;
    let nobody = "0".repeat(24);
    let headers = [("x-request-id", "eject-1")];
    let body = json!({
        "participantSessionIds": [ben.id, nobody, "no id"], "externalUserIds": ["u-ann", "u-nobody"], "reason": "Over.",
    });
    let (status, _, done) = test
        .send(
            Method::POST,
            "/api/v1/room/standup/eject",
            &headers,
            Some(&body),
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{done}");
    assert_eq!(done["participantSessionIds"], json!([ann.id, ben.id]));
    for client in [&mut ann, &mut ben] {
        let ended = client.until("ended").await;
        assert_eq!(
            json!([ended["reason"], ended["message"]]),
            json!(["ejected", "Over."])
        );
        assert_eq!(client.next().await, None);
    }
    assert_eq!(
        mia.until("participant-left").await["participantId"],
        ann.id.as_str()
    );
    assert_eq!(
        mia.expect("participant-left").await["participantId"],
        ben.id.as_str()
    );
    let events = test.events().await;
    let left: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "participantLeft")
        .collect();
    assert_eq!(left.len(), 2);
    for left in left {
        assert_eq!(
            json!([left["leaveReason"], left["requestId"]]),
            json!(["ejected", "eject-1"])
        );
    }
    assert_eq!(
        events[0]["requestId"],
        Value::Null,
        "nothing else was caused by it"
    );
    // The token opens this meeting no more; another one does, since they were not banned.
    let mut again = asks(&test, "Ann", Some(&ann_token)).await;
    assert_eq!(again.expect("error").await["code"], "EJECTED");
    with_token(&test, "Ann", json!({ "externalUserId": "u-ann" })).await;
    // Somebody who is not here can be banned as well.
    let body = json!({ "externalUserIds": ["u-cem"], "ban": true });
    assert_eq!(does(&test, "eject", body).await, [""; 0]);
    let cem = token(&test, &json!({ "externalUserId": "u-cem" })).await;
    let mut cem = asks(&test, "Cem", Some(&cem)).await;
    assert_eq!(cem.expect("error").await["code"], "EJECTED");
}

#[sqlx::test]
async fn the_app_ends_the_meeting_and_sends_people_on(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    for wrong in [json!("javascript:alert(1)"), json!(7), json!("/thanks")] {
        let (status, error) = call(&test, Method::POST, "end", json!({ "redirect": wrong })).await;
        assert_eq!(
            (status, &error["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!("redirect"))
        );
    }
    let headers = [("x-request-id", "end-1")];
    let body = json!({ "redirect": "https://example.com/thanks" });
    let (status, _, done) = test
        .send(
            Method::POST,
            "/api/v1/room/standup/end",
            &headers,
            Some(&body),
        )
        .await;
    assert_eq!(
        (status, &done["participantSessionIds"]),
        (StatusCode::OK, &json!([mia.id]))
    );
    let ended = mia.expect("ended").await;
    assert_eq!(
        json!([ended["reason"], ended["redirect"]]),
        json!(["endedByApi", "https://example.com/thanks"])
    );
    assert_eq!(mia.next().await, None);
    let events = test.events().await;
    let last = events.last().unwrap();
    assert_eq!(
        json!([last["event"], last["endReason"], last["requestId"]]),
        json!(["meetingEnded", "endedByApi", "end-1"])
    );
    // Another join begins another one; until then nobody meets.
    for (method, path, body) in calls(&mia.id) {
        let (status, error) = call(&test, method, &path, body).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::CONFLICT, &json!("NO_LIVE_MEETING")),
            "{path}"
        );
    }
    assert_eq!(
        test.get("/api/v1/room/standup/waiting").await.1["data"],
        json!([])
    );
    test.join("standup", "Ann").await;
}

/// Every call that does something to a meeting.
fn calls(participant: &str) -> Vec<(Method, String, Value)> {
    let these = json!({ "participantSessionIds": [participant] });
    [
        (Method::POST, "eject".to_owned(), these.clone()),
        (Method::POST, "end".to_owned(), json!({})),
        (
            Method::POST,
            format!("participants/{participant}/mute"),
            json!({ "audio": true }),
        ),
        (
            Method::PATCH,
            format!("participants/{participant}"),
            json!({ "role": "moderator" }),
        ),
        (Method::POST, "message".to_owned(), json!({ "text": "hi" })),
        (Method::POST, "extend".to_owned(), json!({ "seconds": 60 })),
        (Method::POST, "lock".to_owned(), json!({})),
        (Method::POST, "unlock".to_owned(), json!({})),
        (Method::POST, "waiting/admit".to_owned(), these.clone()),
        (Method::POST, "waiting/reject".to_owned(), these),
    ]
    .into()
}

#[sqlx::test]
async fn another_app_does_nothing_to_a_meeting(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({ "waitingRoom": true })).await;
    let mut ann = waits(&test, "Ann", &mut [&mut mia]).await;
    let other = test.another_app("other").await;
    for own_room in [false, true] {
        if own_room {
            let room = json!({ "roomName": "standup" });
            test.call(&other, Method::POST, "/api/v1/room", Some(&room))
                .await;
        }
        let code = if own_room {
            "NO_LIVE_MEETING"
        } else {
            "ROOM_NOT_FOUND"
        };
        for (method, path, body) in calls(&mia.id).into_iter().chain(calls(&ann.id)) {
            let path = format!("/api/v1/room/standup/{path}");
            let (_, error) = test.call(&other, method, &path, Some(&body)).await;
            assert_eq!(error["code"], code, "{path}");
        }
        let (_, waiting) = test
            .call(&other, Method::GET, "/api/v1/room/standup/waiting", None)
            .await;
        assert!(!waiting.to_string().contains("Ann"), "{waiting}");
    }
    assert!(mia.is_in().await, "with nothing said before");
    ann.send(json!({ "type": "leave" })).await;
    mia.expect("waiting-left").await;
}

#[sqlx::test]
async fn the_app_mutes_promotes_and_permits(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({ "lockSettings": { "chatSend": true } })).await;
    let mut ann = test.join("standup", "Ann").await;
    ann.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    let path = format!("participants/{}", ann.id);
    let mute = format!("{path}/mute");
    assert_eq!(
        does(
            &test,
            &mute,
            json!({ "audio": true, "video": true, "screen": true })
        )
        .await,
        [ann.id.clone()]
    );
    let shown = ann.expect("participant-updated").await;
    assert_eq!(
        (&shown["isMuted"], &shown["isVideoOff"]),
        (&json!(true), &json!(true))
    );
    for action in ["mute", "stop-video", "stop-screen"] {
        let order = ann.expect("moderator-action").await;
        assert_eq!(
            json!([order["participantId"], order["action"]]),
            json!(["", action])
        );
    }
    mia.expect("participant-updated").await;
    for wrong in [
        json!({}),
        json!({ "video": false }),
        json!({ "audio": "yes" }),
    ] {
        let (status, _) = call(&test, Method::POST, &mute, wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }

    let (status, _) = call(
        &test,
        Method::PATCH,
        &path,
        json!({ "permissions": { "chatSend": true } }),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    let permissions = ann.expect("permissions").await["permissions"].clone();
    assert_eq!(
        (&permissions["chatSend"], &permissions["webcam"]),
        (&json!(true), &json!(true))
    );
    let (status, _) = call(
        &test,
        Method::PATCH,
        &path,
        json!({ "permissions": { "chatSend": null } }),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        ann.expect("permissions").await["permissions"]["chatSend"],
        false
    );
    let (status, _) = call(&test, Method::PATCH, &path, json!({ "isAdmin": true })).await;
    assert_eq!(status, StatusCode::OK);
    for client in [&mut mia, &mut ann] {
        assert_eq!(
            client.expect("participant-updated").await["isModerator"],
            true
        );
    }
    for wrong in [
        json!({}),
        json!({ "role": "king" }),
        json!({ "role": "moderator", "isAdmin": false }),
        json!({ "permissions": { "dance": true } }),
    ] {
        let (status, _) = call(&test, Method::PATCH, &path, wrong.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let nobody = "0".repeat(24);
    for id in [&nobody, "x"] {
        let (status, error) = call(
            &test,
            Method::PATCH,
            &format!("participants/{id}"),
            json!({ "isAdmin": true }),
        )
        .await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::NOT_FOUND, &json!("TARGET_NOT_FOUND"))
        );
    }
    let role: String = sqlx::query_scalar("select role from participants where name = 'Ann'")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(role, "moderator", "whoever takes the meeting over knows");
}

#[sqlx::test]
async fn the_app_tells_all_or_some(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let mut ann = test.join("standup", "Ann").await;
    ann.expect("participant-joined").await;
    mia.expect("participant-joined").await;
    let body = json!({ "text": "Five minutes left.", "data": { "kind": "warning" } });
    assert_eq!(
        does(&test, "message", body).await,
        [mia.id.clone(), ann.id.clone()]
    );
    for client in [&mut mia, &mut ann] {
        let frame = client.expect("server-message").await;
        assert_eq!(
            json!([frame["participantId"], frame["text"], frame["data"]["kind"]]),
            json!(["", "Five minutes left.", "warning"])
        );
    }
    let body = json!({ "to": [ann.id, "0".repeat(24)], "text": "You are next." });
    assert_eq!(does(&test, "message", body).await, [ann.id.clone()]);
    assert_eq!(ann.expect("server-message").await["text"], "You are next.");
    assert!(mia.is_in().await, "and heard nothing");
    for wrong in [
        json!({}),
        json!({ "to": [], "text": "x" }),
        json!({ "text": "x".repeat(4097) }),
        json!({ "data": "x".repeat(17_000) }),
        json!({ "text": "a\u{0}b" }),
        json!({ "data": "a\u{0}b" }),
    ] {
        let (status, _) = call(&test, Method::POST, "message", wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}

#[sqlx::test]
async fn the_app_locks_lists_and_rejects(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    assert_eq!(does(&test, "lock", json!({})).await, [""; 0]);
    let locked = mia.expect("room-locked").await;
    assert_eq!(
        (&locked["lockedBy"], &locked["participantId"]),
        (&Value::Null, &json!(""))
    );
    let mut ann = waits(&test, "Ann", &mut [&mut mia]).await;
    let (_, list) = test.get("/api/v1/room/standup/waiting").await;
    assert_eq!(
        list["data"],
        json!([{ "participantSessionId": ann.id, "name": "Ann", "waitingSince": "2030-03-17T17:46:40.000Z" }])
    );
    assert_eq!(
        does(
            &test,
            "waiting/reject",
            json!({ "all": true, "reason": "Over." })
        )
        .await,
        [ann.id.clone()]
    );
    assert_eq!(ann.expect("reject-user").await["reason"], "Over.");
    does(&test, "unlock", json!({})).await;
    // A lock is known to whoever takes the meeting over.
    does(&test, "lock", json!({})).await;
    let locked: Option<bool> = sqlx::query_scalar("select locked from meetings")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(locked, Some(true));
}

#[sqlx::test]
async fn the_end_that_a_duration_gives_can_be_moved(pool: PgPool) {
    let (test, _mia) = moderated(pool, json!({ "meetingDurationSec": 3600 })).await;
    let start = test.now().timestamp();
    let (status, done) = call(&test, Method::POST, "extend", json!({ "seconds": 600 })).await;
    assert_eq!(
        (status, &done["endsAtUnixSec"]),
        (StatusCode::OK, &json!(start + 4200))
    );
    let (_, done) = call(
        &test,
        Method::POST,
        "extend",
        json!({ "untilUnixSec": start + 1800 }),
    )
    .await;
    assert_eq!(done["endsAtUnixSec"], start + 1800);
    let (_, done) = call(&test, Method::POST, "extend", json!({ "seconds": -86_400 })).await;
    assert_eq!(done["endsAtUnixSec"], start, "never into the past");
    let moved: i64 = sqlx::query_scalar("select extended_by_sec from meetings")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(moved, -3600);
    for wrong in [
        json!({}),
        json!({ "seconds": 0 }),
        json!({ "seconds": 1, "untilUnixSec": start }),
        json!({ "seconds": 1e12 }),
    ] {
        let (status, _) = call(&test, Method::POST, "extend", wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}

#[sqlx::test]
async fn a_meeting_without_a_duration_has_no_end_to_move(pool: PgPool) {
    let (test, _mia) = moderated(pool, json!({})).await;
    let (status, error) = call(&test, Method::POST, "extend", json!({ "seconds": 600 })).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::CONFLICT, &json!("NO_TIME_LIMIT"))
    );
}

#[sqlx::test]
async fn asking_again_with_the_same_key_does_it_once(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    let headers = [("idempotency-key", "tell-1")];
    let path = "/api/v1/room/standup/message";
    let body = json!({ "text": "once" });
    let (first, _, done) = test.send(Method::POST, path, &headers, Some(&body)).await;
    let (second, again, same) = test.send(Method::POST, path, &headers, Some(&body)).await;
    assert_eq!((first, second), (StatusCode::OK, StatusCode::OK));
    assert_eq!(done, same);
    assert_eq!(again["idempotent-replayed"], "true");
    mia.expect("server-message").await;
    assert!(mia.is_in().await, "and heard it once");
    let other = json!({ "text": "twice" });
    let (status, _, error) = test.send(Method::POST, path, &headers, Some(&other)).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (422, &json!("IDEMPOTENCY_KEY_REUSED"))
    );
    // The same words about something else are another request.
    let path = "/api/v1/room/standup/lock";
    let (status, ..) = test.send(Method::POST, path, &headers, None).await;
    assert_eq!(status.as_u16(), 422);
    // A request that came to nothing leaves its key free.
    let headers = [("idempotency-key", "later-1")];
    mia.send(json!({ "type": "end-meeting" })).await;
    mia.ended().await;
    let (status, ..) = test.send(Method::POST, path, &headers, None).await;
    assert_eq!(status, StatusCode::CONFLICT);
    test.join("standup", "Ann").await;
    let (status, ..) = test.send(Method::POST, path, &headers, None).await;
    assert_eq!(status, StatusCode::OK);
}

#[sqlx::test]
async fn what_is_asked_of_an_owner_elsewhere_is_found_in_the_table(pool: PgPool) {
    let (test, mut mia) = moderated(pool, json!({})).await;
    // As another node leaves it.
    let command = json!({ "act": { "action": { "putOut": {
        "whom": [{ "participant": mia.id }], "how": "eject", "reason": null } }, "request": "r-1" } });
    sqlx::query(
        "insert into meeting_commands (app_id, meeting_id, command, created_at, keep_until)
         select app_id, id, $1, now(), now() from meetings",
    )
    .bind(sqlx::types::Json(command))
    .execute(&test.pool)
    .await
    .unwrap();
    assert_eq!(mia.ended().await, "ejected");
    let answer: Value =
        sqlx::query_scalar("select answer from meeting_commands where answer is not null")
            .fetch_one(&test.pool)
            .await
            .unwrap();
    assert_eq!(
        answer["Ok"]["participants"],
        json!([mia.id]),
        "stored with what was done"
    );
}

#[sqlx::test]
async fn while_nobody_owns_the_meeting_the_caller_is_told_that_it_is_still_to_be_done(
    pool: PgPool,
) {
    let (mut test, mia) = moderated(pool, json!({})).await;
    test.stop_node().await;
    drop(mia);
    // Another node, which died.
    sqlx::query(
        "update meetings set status = 'live', ended_at = null, end_reason = null, owner_node = '\\x000000000000000000000001',
             lease_until = now() + interval '1 hour'",
    )
    .execute(&test.pool)
    .await
    .unwrap();
    test.start_node();
    let (status, answer) = call(&test, Method::POST, "lock", json!({})).await;
    assert_eq!(
        (status, &answer["pending"]),
        (StatusCode::ACCEPTED, &json!(true)),
        "{answer}"
    );
    sqlx::query("update meetings set lease_until = now() - interval '1 second'")
        .execute(&test.pool)
        .await
        .unwrap();
    soon("the lock", async {
        let locked = "select locked from meetings";
        while sqlx::query_scalar::<_, Option<bool>>(locked)
            .fetch_one(&test.pool)
            .await
            .unwrap()
            != Some(true)
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[sqlx::test]
async fn who_is_to_moderate_because_nobody_is_in_waits_for_nobody(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let rules = json!({ "roomName": "standup", "waitingRoom": true, "firstJoinerModerates": true });
    test.room(rules).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = waits(&test, "Ben", &mut [&mut ann]).await;
    ann.send(json!({ "type": "admit-user", "targetId": ben.id }))
        .await;
    ben.until("participant-joined").await;
    ben.until("participant-joined").await;
    ann.expect("participant-joined").await;
    let cem = waits(&test, "Cem", &mut [&mut ann]).await;
    // Whoever takes over learns who waits.
    ann.close(1000).await;
    ben.expect("participant-left").await;
    assert_eq!(ben.expect("participant-updated").await["isModerator"], true);
    assert_eq!(
        ben.expect("waiting-room").await["participantId"],
        cem.id.as_str()
    );
}

#[sqlx::test]
async fn a_socket_by_which_somebody_only_waits_counts_against_their_address(pool: PgPool) {
    let test = TestApp::with(pool, &["--anonymous-rate-per-minute", "3"]).await;
    test.room(json!({ "roomName": "standup", "waitingRoom": true }))
        .await;
    let mut ann = waits(&test, "Ann", &mut []).await;
    let _ben = waits(&test, "Ben", &mut []).await;
    let _cem = waits(&test, "Cem", &mut []).await;
    let (status, _) = test.socket_with(&[]).await.err().unwrap();
    assert_eq!(status, 429);
    let these = json!({ "participantSessionIds": [ann.id] });
    does(&test, "waiting/admit", these).await;
    ann.expect("participant-joined").await;
    assert!(ann.is_in().await);
    assert!(test.socket_with(&[]).await.is_ok(), "hers counts no more");
}
