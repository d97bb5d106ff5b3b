//! The signaling socket: who hears what, and what a wrong frame comes to.

use plenum::id::ParticipantId;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::{Client, TestApp};

#[sqlx::test]
async fn a_newcomer_hears_of_themself_first_then_of_the_others_who_hear_of_them(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    let mut cem = test.join("standup", "Cem").await;
    ann.id.parse::<ParticipantId>().unwrap();

    let frame = ben.expect("participant-joined").await;
    assert_eq!(
        (&frame["participantId"], &frame["name"]),
        (&json!(ann.id), &json!("Ann"))
    );
    for (earlier, name) in [(&ann.id, "Ann"), (&ben.id, "Ben")] {
        let frame = cem.expect("participant-joined").await;
        assert_eq!(
            (&frame["participantId"], &frame["name"]),
            (&json!(earlier), &json!(name)),
            "in order of their joins"
        );
        assert_eq!(frame["resumeToken"], Value::Null);
    }
    for (newcomer, name) in [(&ben.id, "Ben"), (&cem.id, "Cem")] {
        let frame = ann.expect("participant-joined").await;
        assert_eq!(
            frame,
            json!({
                "type": "participant-joined", "roomId": "standup", "participantId": newcomer, "name": name,
                "isModerator": false, "isMuted": false, "isVideoOff": false, "isHandRaised": false,
                "timestamp": test.now().timestamp_millis(),
            })
        );
    }
}

#[sqlx::test]
async fn chat_reaches_everybody_the_writer_included(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    ann.expect("participant-joined").await;
    ben.expect("participant-joined").await;
    let long = "ä".repeat(4096);
    ann.send(json!({ "type": "chat", "text": long, "replyTo": "1-x" }))
        .await;
    for client in [&mut ann, &mut ben] {
        let frame = client.expect("chat").await;
        assert_eq!(
            (&frame["text"], &frame["replyTo"]),
            (&json!(long), &json!("1-x"))
        );
    }
    for wrong in ["", "  ", &format!("{long}a")] {
        ann.send_text(&json!({ "type": "chat", "text": wrong }).to_string())
            .await;
        let error = ann.expect("error").await;
        assert_eq!(error["code"], "INVALID_MESSAGE");
        assert!(
            error["message"].as_str().unwrap().contains("1 to 4096"),
            "{error}"
        );
    }
}

#[sqlx::test]
async fn the_others_hear_what_changes_of_somebodys_devices(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    ann.expect("participant-joined").await;
    ben.expect("participant-joined").await;
    for (change, now) in [
        (json!({ "isMuted": true }), json!([true, false, false])),
        (json!({ "isHandRaised": true }), json!([true, false, true])),
        (json!({ "isMuted": false }), json!([false, false, true])),
    ] {
        let mut frame = change;
        frame["type"] = json!("participant-updated");
        ann.send(frame).await;
        let heard = ben.expect("participant-updated").await;
        assert_eq!(
            json!([heard["isMuted"], heard["isVideoOff"], heard["isHandRaised"]]),
            now
        );
        assert_eq!(heard["participantId"], ann.id.as_str());
    }
    // A latecomer sees how things are; and the writer heard nothing of what they said themself.
    let mut cem = test.join("standup", "Cem").await;
    let seen = cem.expect("participant-joined").await;
    assert_eq!(
        json!([seen["isMuted"], seen["isVideoOff"], seen["isHandRaised"]]),
        json!([false, false, true])
    );
    assert_eq!(ann.expect("participant-joined").await["name"], "Cem");
}

#[sqlx::test]
async fn a_wrong_frame_is_answered_with_what_is_wrong_and_the_socket_stays(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut client = test.socket().await;
    for (text, code) in [
        ("hello", "INVALID_MESSAGE"),
        ("null", "INVALID_MESSAGE"),
        ("{}", "INVALID_MESSAGE"),
        (r#"{"type":7}"#, "INVALID_MESSAGE"),
        (r#"{"type":"dance"}"#, "UNKNOWN_MESSAGE_TYPE"),
        (r#"{"type":"participant-left"}"#, "UNKNOWN_MESSAGE_TYPE"),
        (r#"{"type":"join","roomId":"standup"}"#, "INVALID_MESSAGE"),
        (
            r#"{"type":"join","roomId":"standup","name":"  "}"#,
            "INVALID_MESSAGE",
        ),
        (
            r#"{"type":"join","roomId":"nowhere","name":"Ann"}"#,
            "ROOM_NOT_FOUND",
        ),
        (
            r#"{"type":"join","roomId":"no such name!","name":"Ann"}"#,
            "ROOM_NOT_FOUND",
        ),
        (r#"{"type":"chat","text":"hi"}"#, "NOT_JOINED"),
        (
            r#"{"type":"offer","targetId":"sfu","sdp":"v=0"}"#,
            "NOT_JOINED",
        ),
        (
            r#"{"type":"resume","roomId":"standup","resumeToken":"0"}"#,
            "RESUME_FAILED",
        ),
    ] {
        client.send_text(text).await;
        let error = client.expect("error").await;
        assert_eq!(
            (&error["code"], &error["roomId"], &error["participantId"]),
            (&json!(code), &json!(""), &json!("")),
            "{text}"
        );
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    client.send(json!({ "type": "leave" })).await;
    client
        .send(json!({ "type": "join", "roomId": "standup", "name": "Ann" }))
        .await;
    client.expect("participant-joined").await;
    client
        .send(json!({ "type": "join", "roomId": "standup", "name": "Ann" }))
        .await;
    assert_eq!(client.expect("error").await["code"], "ALREADY_JOINED");
    client
        .send(json!({ "type": "offer", "targetId": "sfu", "sdp": "not a description" }))
        .await;
    assert_eq!(client.expect("error").await["code"], "NEGOTIATION_FAILED");
    client
        .send(json!({ "type": "offer", "targetId": "ann", "sdp": "v=0" }))
        .await;
    assert_eq!(client.expect("error").await["code"], "MESH_NOT_ALLOWED");
}

#[sqlx::test]
async fn whoever_leaves_may_come_back_on_the_same_socket_as_somebody_new(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    ben.expect("participant-joined").await;
    ann.expect("participant-joined").await;
    ben.send(json!({ "type": "leave" })).await;
    assert_eq!(
        ann.expect("participant-left").await["participantId"],
        ben.id.as_str()
    );
    ben.send(json!({ "type": "join", "roomId": "standup", "name": "Ben" }))
        .await;
    let again = ben.expect("participant-joined").await;
    assert_ne!(again["participantId"], ben.id.as_str());
    assert_eq!(
        ann.expect("participant-joined").await["participantId"],
        again["participantId"]
    );
}

#[sqlx::test]
async fn a_room_is_found_only_on_its_own_apps_host(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    let (_, room) = test
        .call(
            &other,
            reqwest::Method::POST,
            "/api/v1/room",
            Some(&json!({ "roomName": "theirs" })),
        )
        .await;
    assert_eq!(room["roomName"], "theirs");
    assert_eq!(
        test.refusal("theirs").await,
        "ROOM_NOT_FOUND",
        "the default app answers on loopback"
    );
}

/// Comes back with the number of the last frame; the answer, on the new socket.
async fn resume_after(test: &TestApp, client: &Client, last: u64) -> (Client, Value) {
    let mut back = test.socket().await;
    let token = client.resume_token.clone().unwrap();
    back.send(
        json!({ "type": "resume", "roomId": "standup", "resumeToken": token, "lastSeq": last }),
    )
    .await;
    let answer = back.next().await.unwrap();
    back.resume_token = Some(token);
    (back, answer)
}

#[sqlx::test]
async fn who_comes_back_in_time_is_told_all_that_they_missed_once(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let mut ben = test.socket().await;
    ben.send(json!({ "type": "join", "roomId": "standup", "name": "Ben", "resumable": true }))
        .await;
    let own = ben.expect("participant-joined").await;
    ben.resume_token = own["resumeToken"].as_str().map(str::to_owned);
    let first = own["seq"].as_u64().unwrap();
    assert_eq!(ben.expect("participant-joined").await["seq"], first + 1);
    assert_eq!(ann.expect("participant-joined").await["seq"], Value::Null);

    // Ben gets the first two of six, loses his connection, and with it whatever is under way.
    for number in 0..6 {
        ann.send(json!({ "type": "chat", "text": number.to_string() }))
            .await;
        ann.expect("chat").await;
        if number == 1 {
            assert_eq!(ben.expect("chat").await["text"], "0");
            assert_eq!(ben.expect("chat").await["seq"], first + 3);
        }
    }
    let lost = ben;
    for (last, missed) in [(first + 3, 2..6), (first + 4, 3..6), (first + 7, 6..6)] {
        let (mut back, answer) = resume_after(&test, &lost, last).await;
        assert_eq!(
            (&answer["type"], &answer["participantId"], &answer["seq"]),
            (&json!("resumed"), &own["participantId"], &Value::Null)
        );
        for number in missed {
            let frame = back.expect("chat").await;
            assert_eq!(
                (&frame["text"], &frame["seq"]),
                (&json!(number.to_string()), &json!(first + 2 + number))
            );
        }
        back.send_text("?").await;
        assert_eq!(back.expect("error").await["code"], "INVALID_MESSAGE");
    }
}

#[sqlx::test]
async fn who_missed_more_than_is_kept_is_told_so_and_sees_how_things_are(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let ben = test.join_resumable("standup", "Ben").await;
    ann.expect("participant-joined").await;
    let (back, answer) = resume_after(&test, &ben, 0).await;
    assert_eq!(answer["framesLost"], true, "a number that nothing had");
    let seq = answer["seq"].as_u64().unwrap();
    let (back, answer) = resume_after(&test, &back, seq).await;
    assert_eq!(answer["type"], "resumed", "a snapshot has a number as well");
    back.cut();
    for _ in 0..70 {
        ann.send(json!({ "type": "chat", "text": "a".repeat(4096) }))
            .await;
        ann.expect("chat").await;
    }
    let (back, answer) = resume_after(&test, &ben, seq).await;
    assert_eq!(
        (&answer["type"], &answer["framesLost"]),
        (&json!("snapshot"), &json!(true))
    );
    let last = answer["seq"].as_u64().unwrap();
    assert_eq!(last, seq + 71);

    // Another owner of the meeting knows of nothing that the one before it sent.
    drop(back);
    test.stop_node().await;
    test.start_node();
    let back = test.resume("standup", &ben).await;
    let (_, answer) = resume_after(&test, &back, last).await;
    assert_eq!(answer["type"], "snapshot");
    assert!(answer["seq"].as_u64().unwrap() > last + 1000);
}
