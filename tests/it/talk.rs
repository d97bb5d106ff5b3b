//! What people say and show to each other, who hears it, and what a room does not allow.

use plenum::signaling::protocol::LONGEST_REACTION;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::{Client, TestApp, soon};

/// Somebody who moderates the room.
async fn moderator(test: &TestApp, room: &str, name: &str) -> Client {
    let (_, answer) = test
        .post(
            "/api/v1/token",
            &json!({ "roomName": room, "isAdmin": true, "name": name }),
        )
        .await;
    let mut client = test.socket().await;
    client
        .send(json!({ "type": "join", "roomId": room, "name": name, "token": answer["token"] }))
        .await;
    let own = client.expect("participant-joined").await;
    assert_eq!(own["isModerator"], true, "{own}");
    client.id = own["participantId"].as_str().unwrap().to_owned();
    client
}

/// Three who are in, and have heard of each other.
async fn three(test: &TestApp, room: &str) -> [Client; 3] {
    let mut ann = test.join(room, "Ann").await;
    let mut ben = test.join(room, "Ben").await;
    let mut cem = test.join(room, "Cem").await;
    for client in [&mut ann, &mut ben, &mut cem] {
        for _ in 0..2 {
            client.expect("participant-joined").await;
        }
    }
    [ann, ben, cem]
}

/// Asserts that nothing has been said to this client: a frame of its own that is answered is answered next.
async fn heard_nothing(client: &mut Client) {
    client.send_text("?").await;
    assert_eq!(client.expect("error").await["code"], "INVALID_MESSAGE");
}

async fn refused(client: &mut Client, frame: Value) -> String {
    client.send(frame).await;
    client.expect("error").await["code"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[sqlx::test]
async fn in_a_mesh_room_media_is_agreed_upon_between_two_alone(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "mesh", "mediaMode": "mesh" }))
        .await;
    let [mut ann, mut ben, mut cem] = three(&test, "mesh").await;
    for said in [
        json!({ "type": "offer", "sdp": "v=0", "of": "a field that we do not know" }),
        json!({ "type": "answer", "sdp": { "type": "answer", "sdp": "v=0" } }),
        json!({ "type": "ice-candidate", "candidate": null }),
        json!({ "type": "quality-change", "quality": "low" }),
    ] {
        let mut frame = said;
        frame["targetId"] = json!(ben.id);
        // Who it is from is the server's to say.
        frame["participantId"] = json!(cem.id);
        frame["timestamp"] = json!(1);
        ann.send(frame.clone()).await;
        frame["participantId"] = json!(ann.id);
        frame["roomId"] = json!("mesh");
        frame["timestamp"] = json!(test.now().timestamp_millis());
        assert_eq!(ben.next().await.unwrap(), frame);
    }
    // Whoever is not there hears nothing, and nobody is told so.
    let nobody = "0123456789abcdef01234567";
    for target in [nobody, "ben", ""] {
        ann.send(json!({ "type": "offer", "targetId": target, "sdp": "v=0" }))
            .await;
    }
    for client in [&mut ann, &mut ben, &mut cem] {
        heard_nothing(client).await;
    }
    let to_the_sfu = json!({ "type": "offer", "targetId": "sfu", "sdp": "v=0" });
    for _ in 0..2 {
        assert_eq!(
            refused(&mut ann, to_the_sfu.clone()).await,
            "SFU_NOT_ALLOWED"
        );
    }
}

#[sqlx::test]
async fn in_an_sfu_room_nobody_offers_media_to_another(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let [mut ann, mut ben, _cem] = three(&test, "standup").await;
    for mut said in [
        json!({ "type": "offer", "sdp": "v=0" }),
        json!({ "type": "answer", "sdp": "v=0" }),
        json!({ "type": "ice-candidate", "candidate": { "candidate": "" } }),
        json!({ "type": "quality-change", "quality": "high" }),
    ] {
        said["targetId"] = json!(ben.id);
        assert_eq!(refused(&mut ann, said).await, "MESH_NOT_ALLOWED");
    }
    ann.send(json!({ "type": "ice-candidate", "targetId": "sfu", "candidate": null }))
        .await;
    heard_nothing(&mut ann).await;
    heard_nothing(&mut ben).await;
}

#[sqlx::test]
async fn a_private_message_reaches_one_and_its_writer(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let [mut ann, mut ben, mut cem] = three(&test, "standup").await;
    let private = json!({ "type": "chat", "text": "psst", "targetId": ben.id });
    ann.send(private).await;
    let (to_ben, echo) = (ben.expect("chat").await, ann.expect("chat").await);
    assert_eq!(to_ben, echo);
    assert_eq!(
        (&echo["text"], &echo["targetId"]),
        (&json!("psst"), &json!(ben.id))
    );
    heard_nothing(&mut cem).await;
    ann.send(json!({ "type": "chat", "text": "to myself", "targetId": ann.id }))
        .await;
    ann.expect("chat").await;
    heard_nothing(&mut ann).await;
    let nobody = json!({ "type": "chat", "text": "hi", "targetId": "0123456789abcdef01234567" });
    assert_eq!(refused(&mut ann, nobody).await, "TARGET_NOT_FOUND");
    // It is nobody else's later either.
    let mut late = test.join("standup", "Dan").await;
    for _ in 0..3 {
        late.expect("participant-joined").await;
    }
    heard_nothing(&mut late).await;
}

#[sqlx::test]
async fn a_file_goes_to_one_and_its_parts_are_not_counted(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let [mut ann, mut ben, mut cem] = three(&test, "standup").await;
    ann.send(json!({
        "type": "file-offer", "targetId": ben.id, "transferId": "t", "fileName": "notes.pdf", "fileSize": 9, "fileType": "",
    }))
    .await;
    assert_eq!(ben.expect("file-offer").await["fileName"], "notes.pdf");
    ben.send(
        json!({ "type": "file-answer", "targetId": ann.id, "transferId": "t", "accepted": true }),
    )
    .await;
    assert_eq!(
        ann.expect("file-answer").await["participantId"],
        ben.id.as_str()
    );
    // Many more than the 100 other frames that one may send at once; here the clock stands still.
    for index in 0..150 {
        let chunk = "a".repeat(1_000);
        ann.send(json!({
            "type": "file-chunk", "targetId": ben.id, "transferId": "t", "chunk": chunk, "index": index, "total": 150,
        }))
        .await;
        assert_eq!(ben.expect("file-chunk").await["index"], index);
    }
    heard_nothing(&mut ann).await;
    heard_nothing(&mut cem).await;
    // By their bytes they are: 2 MiB at once.
    for index in 0..4 {
        let chunk = "a".repeat(1_000_000);
        let part = json!({
            "type": "file-chunk", "targetId": ben.id, "transferId": "u", "chunk": chunk, "index": index, "total": 4,
        });
        ann.send(part).await;
    }
    assert_eq!(ann.expect("error").await["code"], "TOO_FAST");
    assert_eq!(ann.next().await, None);
}

#[sqlx::test]
async fn the_others_see_reactions_and_hands_and_a_latecomer_sees_who_has_a_hand_up(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup", "title": "Daily" }))
        .await;
    let [mut ann, mut ben, mut cem] = three(&test, "standup").await;
    for (sent, seen) in [
        ("thumb", "thumb"),
        ("  clap\t", "clap"),
        ("🎉🎉🎉🎉🎉🎉🎉🎉🎉", "🎉🎉🎉🎉🎉🎉🎉🎉"),
    ] {
        ann.send(json!({ "type": "reaction", "reaction": sent }))
            .await;
        assert_eq!(ben.expect("reaction").await["reaction"], seen);
        assert_eq!(
            cem.expect("reaction").await["participantId"],
            ann.id.as_str()
        );
        assert!(seen.chars().count() <= LONGEST_REACTION);
    }
    for blank in ["", "  \n "] {
        ann.send_text(&json!({ "type": "reaction", "reaction": blank }).to_string())
            .await;
        let error = ann.expect("error").await;
        assert_eq!(
            (&error["code"], &error["message"]),
            (
                &json!("INVALID_REACTION"),
                &json!("Reaction cannot be empty")
            )
        );
    }
    ann.send_text(r#"{"type":"reaction","reaction":1}"#).await;
    assert_eq!(ann.expect("error").await["code"], "INVALID_MESSAGE");
    ann.send(json!({ "type": "raise-hand" })).await;
    ben.send(json!({ "type": "raise-hand" })).await;
    ben.expect("raise-hand").await;
    ben.send(json!({ "type": "lower-hand" })).await;
    for kind in ["raise-hand", "raise-hand", "lower-hand"] {
        cem.expect(kind).await;
    }
    let mut late = test.socket().await;
    late.send(json!({ "type": "join", "roomId": "standup", "name": "Dan" }))
        .await;
    let own = late.expect("participant-joined").await;
    assert_eq!(
        own["room"],
        json!({ "title": "Daily", "isRecording": false })
    );
    for raised in [true, false, false] {
        let other = late.expect("participant-joined").await;
        assert_eq!(other["isHandRaised"], raised, "{other}");
    }
}

#[sqlx::test]
async fn only_moderators_say_that_they_record_and_whoever_comes_learns_it(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = moderator(&test, "standup", "Ann").await;
    let mut ben = test.join("standup", "Ben").await;
    ann.expect("participant-joined").await;
    ben.expect("participant-joined").await;
    for (kind, message) in [
        ("recording-started", "Only moderators can start recording"),
        ("recording-stopped", "Only moderators can stop recording"),
    ] {
        ben.send(json!({ "type": kind })).await;
        let error = ben.expect("error").await;
        assert_eq!(
            (&error["code"], &error["message"]),
            (&json!("UNAUTHORIZED"), &json!(message))
        );
    }
    ann.send(json!({ "type": "recording-started" })).await;
    assert_eq!(
        ann.expect("recording-started").await["startedBy"],
        ann.id.as_str()
    );
    ben.expect("recording-started").await;
    let mut late = test.socket().await;
    late.send(json!({ "type": "join", "roomId": "standup", "name": "Cem" }))
        .await;
    assert_eq!(
        late.expect("participant-joined").await["room"]["isRecording"],
        true
    );
    ben.expect("participant-joined").await;
    // Whoever leaves does not record any more.
    let id = ann.id.clone();
    ann.close(1000).await;
    assert_eq!(
        ben.expect("recording-stopped").await["stoppedBy"],
        id.as_str()
    );
    ben.expect("participant-left").await;
}

#[sqlx::test]
async fn what_a_room_does_not_allow_is_refused_by_the_server(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for (rule, moderators_too, said) in [
        (
            json!({ "enableChat": false }),
            true,
            json!({ "type": "chat", "text": "hi" }),
        ),
        (
            json!({ "lockSettings": { "chat": true } }),
            false,
            json!({ "type": "chat", "text": "hi" }),
        ),
        (
            json!({ "lockSettings": { "chatSend": true } }),
            false,
            json!({ "type": "chat", "text": "hi" }),
        ),
        (
            json!({ "lockSettings": { "privateChat": true } }),
            false,
            json!({ "type": "chat", "text": "hi", "targetId": "other" }),
        ),
        (
            json!({ "enableReactions": false }),
            true,
            json!({ "type": "reaction", "reaction": "clap" }),
        ),
        (
            json!({ "lockSettings": { "reactions": true } }),
            false,
            json!({ "type": "reaction", "reaction": "clap" }),
        ),
        (
            json!({ "enableRaiseHand": false }),
            true,
            json!({ "type": "raise-hand" }),
        ),
        (
            json!({ "enableRaiseHand": false }),
            true,
            json!({ "type": "participant-updated", "isHandRaised": true }),
        ),
        (
            json!({ "enableFileShare": false }),
            true,
            json!({ "type": "file-answer", "targetId": "other", "transferId": "t", "accepted": true }),
        ),
        (
            json!({ "lockSettings": { "chatFiles": true } }),
            false,
            json!({ "type": "file-chunk", "targetId": "other", "transferId": "t", "chunk": "", "index": 0, "total": 1 }),
        ),
    ] {
        let mut room = rule.clone();
        room["roomName"] = json!("strict");
        test.room(room).await;
        let mut host = moderator(&test, "strict", "Host").await;
        let mut guest = test.join("strict", "Guest").await;
        host.expect("participant-joined").await;
        guest.expect("participant-joined").await;
        let to = |other: &Client| {
            let mut frame = said.clone();
            if frame["targetId"] == "other" {
                frame["targetId"] = json!(other.id);
            }
            frame
        };
        assert_eq!(
            refused(&mut guest, to(&host)).await,
            "NOT_ALLOWED",
            "{rule} {said}"
        );
        heard_nothing(&mut host).await;
        if moderators_too {
            assert_eq!(
                refused(&mut host, to(&guest)).await,
                "NOT_ALLOWED",
                "{rule} {said}"
            );
        } else if rule["lockSettings"]["chat"] == true {
            // Whoever may not read the chat does not get it, and nobody writes to them.
            host.send(to(&guest)).await;
            host.expect("chat").await;
            heard_nothing(&mut guest).await;
            let private = json!({ "type": "chat", "text": "hi", "targetId": guest.id });
            assert_eq!(refused(&mut host, private).await, "NOT_ALLOWED");
        } else {
            host.send(to(&guest)).await;
            guest.expect(said["type"].as_str().unwrap()).await;
        }
        test.delete("/api/v1/room/strict").await;
        while host.next().await.is_some() {}
    }
}

#[sqlx::test]
async fn a_rule_that_changes_holds_at_once_for_those_who_are_in(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    assert!(ann.is_in().await);
    test.put("/api/v1/room/standup", &json!({ "enableChat": false }))
        .await;
    soon("the rule", async {
        loop {
            let waiting = sqlx::query_scalar("select count(*) from meeting_commands");
            let waiting: i64 = waiting.fetch_one(&test.pool).await.unwrap();
            if waiting == 0 {
                return;
            }
        }
    })
    .await;
    let said = json!({ "type": "chat", "text": "hi" });
    assert_eq!(refused(&mut ann, said).await, "NOT_ALLOWED");
}

/// The texts of the history that somebody new is shown.
async fn history(test: &TestApp, room: &str) -> Vec<String> {
    let mut client = test.join(room, "Nina").await;
    client.send_text("?").await;
    loop {
        let frame = client.next().await.unwrap();
        match frame["type"].as_str().unwrap() {
            "participant-joined" => {}
            "error" => return Vec::new(),
            "chat-history" => {
                let messages = frame["messages"].as_array().unwrap();
                return messages
                    .iter()
                    .map(|message| message["text"].as_str().unwrap().to_owned())
                    .collect();
            }
            other => panic!("{other}"),
        }
    }
}

async fn end_meeting(test: &TestApp, mut client: Client) {
    client.send(json!({ "type": "leave" })).await;
    let ended = soon("the end", async {
        loop {
            test.advance(chrono::TimeDelta::seconds(11));
            let running: i64 =
                sqlx::query_scalar("select count(*) from meetings where status <> 'ended'")
                    .fetch_one(&test.pool)
                    .await
                    .unwrap();
            if running == 0 {
                return;
            }
        }
    });
    ended.await;
}

#[sqlx::test]
async fn whoever_comes_later_is_shown_what_was_written_in_this_meeting_or_in_all_of_the_room(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "fresh" })).await;
    test.room(json!({ "roomName": "lasting", "newChatForMeetingSession": false }))
        .await;
    for (room, next_meeting) in [("fresh", Vec::new()), ("lasting", vec!["one", "two"])] {
        let mut ann = test.join(room, "Ann").await;
        for text in ["one", "two"] {
            ann.send(json!({ "type": "chat", "text": text, "replyTo": "0" }))
                .await;
            ann.expect("chat").await;
        }
        let mut ben = test.join(room, "Ben").await;
        ben.expect("participant-joined").await;
        let shown = ben.expect("chat-history").await;
        let first = &shown["messages"][0];
        assert_eq!(
            json!([
                first["participantId"],
                first["name"],
                first["text"],
                first["replyTo"],
                first["timestamp"]
            ]),
            json!([ann.id, "Ann", "one", "0", test.now().timestamp_millis()])
        );
        drop(ben);
        end_meeting(&test, ann).await;
        assert_eq!(history(&test, room).await, next_meeting, "{room}");
        test.advance(chrono::TimeDelta::hours(1));
    }
    // With the room goes its chat.
    test.delete("/api/v1/room/lasting").await;
    test.room(json!({ "roomName": "lasting", "newChatForMeetingSession": false }))
        .await;
    assert_eq!(history(&test, "lasting").await, Vec::<String>::new());
    let left: i64 = sqlx::query_scalar("select count(*) from chat_messages c join rooms r on r.id = c.room_id where r.name = 'lasting'")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[sqlx::test]
async fn chat_is_stored_within_a_second_and_outlives_a_restart_of_the_server(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join_resumable("standup", "Ann").await;
    ann.send(json!({ "type": "chat", "text": "one" })).await;
    ann.expect("chat").await;
    let stored = tokio::time::timeout(std::time::Duration::from_secs(1), async {
        loop {
            let stored: Vec<String> = sqlx::query_scalar("select text from chat_messages")
                .fetch_all(&test.pool)
                .await
                .unwrap();
            if stored == ["one"] {
                return;
            }
        }
    });
    stored.await.unwrap();
    ann.send(json!({ "type": "chat", "text": "two" })).await;
    ann.expect("chat").await;
    test.stop_node().await;
    test.start_node();
    let mut back = test.resume("standup", &ann).await;
    let history = back.expect("chat-history").await;
    assert_eq!(
        json!([
            history["messages"][0]["text"],
            history["messages"][1]["text"]
        ]),
        json!(["one", "two"]),
        "a stop writes what waits"
    );
}

#[sqlx::test]
async fn a_history_has_the_last_hundred_messages(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut writers = [
        test.join("standup", "Ann").await,
        test.join("standup", "Ben").await,
    ];
    for number in 0..130 {
        // One alone may not write as much at once.
        let (writer, text) = (&mut writers[number % 2], number.to_string());
        writer.send(json!({ "type": "chat", "text": text })).await;
        while writer.until("chat").await["text"] != text.as_str() {}
    }
    let shown = history(&test, "standup").await;
    let last: Vec<String> = (30..130).map(|number| number.to_string()).collect();
    assert_eq!(shown, last);
}
