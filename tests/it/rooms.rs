//! Rooms over REST, in Metered's shapes.

use plenum::id::RoomId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::TestApp;

#[sqlx::test]
async fn a_room_is_created_flat_read_back_and_archived(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let wanted = json!({
        "roomName": "standup", "privacy": "private", "expireUnixSec": 4_102_444_800_i64, "ejectAtRoomExp": true,
        "ejectAfterElapsedTimeInSec": 7200, "maxParticipants": 4, "autoJoin": true,
        "meetingJoinWebhook": "https://example.com/joined", "meetingEndedWebhook": "https://example.com/ended",
    });
    let room = test.room(wanted.clone()).await;
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(&room[field], value, "{field}");
    }
    room["_id"].as_str().unwrap().parse::<RoomId>().unwrap();
    assert_eq!(room["app"], test.app.app.id.to_string());
    assert_eq!(room["created"], "2030-03-17T17:46:40.000Z");
    assert_eq!(
        (&room["archived"], &room["lang"], &room["__v"]),
        (&json!(false), &json!("en"), &json!(0))
    );

    assert_eq!(
        test.get("/api/v1/room/standup").await,
        (StatusCode::OK, room)
    );
    let done = json!({ "success": true, "message": "Room successfully archived" });
    assert_eq!(
        test.delete("/api/v1/room/standup").await,
        (StatusCode::OK, done)
    );
    let (status, error) = test.get("/api/v1/room/standup").await;
    assert_eq!(
        (status, &error["message"], &error["code"]),
        (
            StatusCode::NOT_FOUND,
            &json!("room not found"),
            &json!("ROOM_NOT_FOUND")
        )
    );
    assert_eq!(
        test.delete("/api/v1/room/standup").await.0,
        StatusCode::NOT_FOUND
    );
}

#[sqlx::test]
async fn a_room_needs_nothing_to_be_said_of_it(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let (status, room) = test
        .call(&test.app, Method::POST, "/api/v1/room/", None)
        .await;
    assert_eq!(
        (status, &room["privacy"]),
        (StatusCode::OK, &json!("public"))
    );
    assert_eq!(room["roomName"].as_str().unwrap().len(), 10);
    // As the reference page prints it: zeros are no limits, and "string" is no URL.
    let sample = json!({
        "roomName": "string", "privacy": "public", "expireUnixSec": 0, "ejectAtRoomExp": false, "notBeforeUnixSec": 0,
        "maxParticipants": 0, "autoJoin": true, "enableRequestToJoin": true, "enableChat": true,
        "recordRoom": true, "ejectAfterElapsedTimeInSec": 0, "meetingJoinWebhook": "string", "audioOnlyRoom": false,
    });
    let room = test.room(sample).await;
    for absent in [
        "expireUnixSec",
        "maxParticipants",
        "ejectAfterElapsedTimeInSec",
        "meetingJoinWebhook",
    ] {
        assert_eq!(room[absent], Value::Null, "{absent}");
    }
}

#[sqlx::test]
async fn a_room_name_is_given_once_until_its_room_is_archived(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let wanted = json!({ "roomName": "standup" });
    let first = test.room(wanted.clone()).await;
    let (status, error) = test.post("/api/v1/room", &wanted).await;
    assert_eq!(
        (status, &error["code"], &error["success"]),
        (
            StatusCode::BAD_REQUEST,
            &json!("ROOM_NAME_TAKEN"),
            &json!(false)
        )
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("already exists")
    );
    test.delete("/api/v1/room/standup").await;
    assert_ne!(test.room(wanted).await["_id"], first["_id"]);
}

#[sqlx::test]
async fn every_bad_field_is_named_at_once_and_nothing_is_written(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let wrong = json!({
        "roomName": "no spaces", "expireUnixSec": 1_900_000_000_000_i64, "maxParticipants": -1,
        "ejectAfterElapsedTimeInSec": 9_000_000_000_i64, "meetingLeftWebhook": "ftp://example.com",
    });
    let (status, error) = test.post("/api/v1/room", &wrong).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::BAD_REQUEST, &json!("INVALID_REQUEST"))
    );
    let mut named: Vec<&str> = error["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [
            "ejectAfterElapsedTimeInSec",
            "expireUnixSec",
            "maxParticipants",
            "meetingLeftWebhook",
            "roomName"
        ]
    );
    let rooms: i64 = sqlx::query_scalar("select count(*) from rooms")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(rooms, 0);
}

#[sqlx::test]
async fn a_body_that_cannot_be_read_is_refused_with_what_is_wrong_and_where(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let http = reqwest::Client::new();
    let post = |body: String| {
        http.post(format!(
            "http://{}/api/v1/room?secretKey={}",
            test.address, test.app.key
        ))
        .body(body)
        .send()
    };
    for (body, status, said) in [
        (
            "{\"roomName\": ".to_owned(),
            StatusCode::BAD_REQUEST,
            "line 1 column 13",
        ),
        (
            "[\"standup\"]".to_owned(),
            StatusCode::BAD_REQUEST,
            "a JSON object",
        ),
        (
            "{\"privacy\": \"secret\"}".to_owned(),
            StatusCode::BAD_REQUEST,
            "public, private",
        ),
        (
            " ".repeat(1024 * 1024 + 1),
            StatusCode::PAYLOAD_TOO_LARGE,
            "1048576 bytes",
        ),
    ] {
        let answer = post(body).await.unwrap();
        assert_eq!(answer.status(), status);
        let id = answer.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let error: Value = answer.json().await.unwrap();
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
        assert_eq!(error["requestId"], id.as_str());
    }
}

#[sqlx::test]
async fn only_a_secret_key_opens_the_api(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let path = "/api/v1/room/standup";
    for wrong in [
        "",
        "?secretKey=",
        "?secretKey=short",
        "?secretKey=plenum_live_00000000000000000000000000000000000000",
    ] {
        let answer = test.fetch(&format!("{path}{wrong}")).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{wrong}");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
    }
    assert_eq!(
        test.fetch(&format!("{path}?secretKey={}", test.app.key))
            .await
            .status(),
        StatusCode::OK
    );
}

#[sqlx::test]
async fn a_room_is_invisible_to_other_apps(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    test.room(json!({ "roomName": "standup" })).await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let foreign = test
            .call(&other, method.clone(), "/api/v1/room/standup", None)
            .await;
        let mut absent = test
            .call(&other, method, "/api/v1/room/nothing", None)
            .await;
        absent.1["requestId"] = foreign.1["requestId"].clone();
        assert_eq!(foreign, absent);
    }
    let (status, _) = test
        .call(
            &other,
            Method::POST,
            "/api/v1/room",
            Some(&json!({ "roomName": "standup" })),
        )
        .await;
    assert_eq!(
        status,
        StatusCode::OK,
        "a name is unique in its app, not beyond"
    );
    assert_eq!(test.get("/api/v1/room/standup").await.0, StatusCode::OK);
    let (_, list) = test.call(&other, Method::GET, "/api/v1/rooms", None).await;
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_ne!(list[0]["app"], test.app.app.id.to_string());
}

#[sqlx::test]
async fn the_page_of_a_room_says_what_state_it_is_in(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let at = test.now().timestamp();
    test.room(json!({ "roomName": "open", "autoJoin": true }))
        .await;
    test.room(json!({ "roomName": "over", "expireUnixSec": at }))
        .await;
    test.room(json!({ "roomName": "closed", "privacy": "private" }))
        .await;
    test.room(json!({ "roomName": "early", "notBeforeUnixSec": at + 60 }))
        .await;
    for (name, status, state) in [
        ("open", StatusCode::OK, "open"),
        ("over", StatusCode::OK, "expired"),
        ("closed", StatusCode::OK, "private"),
        ("early", StatusCode::OK, "notYet"),
        ("nowhere", StatusCode::NOT_FOUND, "notFound"),
    ] {
        let answer = test.fetch(&format!("/{name}?name=Ann")).await;
        assert_eq!(answer.status(), status, "{name}");
        let policy = answer.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(policy.contains("script-src 'self';"), "{policy}");
        let html = answer.text().await.unwrap();
        assert!(
            html.contains(&format!("&quot;state&quot;:&quot;{state}&quot;")),
            "{name}: {html}"
        );
    }
}

#[sqlx::test]
async fn every_property_is_stored_returned_and_changed_alone(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let all = r#"{
        "privacy": "private", "notBeforeUnixSec": 1900000100, "expireUnixSec": 4102444800,
        "ejectAtRoomExp": true, "deleteOnExp": true, "maxParticipants": 4, "ejectAfterElapsedTimeInSec": 7200,
        "endMeetingAfterNoActivityInSec": 300, "meetingDurationSec": 3600, "emptyTimeoutSec": 60,
        "endWhenEmptyAfterSec": 0, "endWhenOneLeftAfterSec": 120, "endWhenModeratorLeaves": true,
        "firstJoinerModerates": true, "meetingStart": "api", "mediaMode": "sfu", "duplicateUser": "replace",
        "waitingRoom": true, "locked": true, "enableRequestToJoin": true, "ownerOnlyBroadcast": true,
        "audioOnlyRoom": true, "muteOnStart": true, "adminOnlyWebcams": true, "viewOtherWebcams": false,
        "viewUserList": false, "autoJoin": true, "showInviteBox": false, "enableChat": true,
        "newChatForMeetingSession": false, "enableScreenSharing": false, "joinVideoOn": false, "joinAudioOn": false,
        "enableCamera": false, "enableMicrophone": false, "enableWatermark": true, "enableFileShare": false,
        "enableReactions": false, "enableRaiseHand": false, "enablePolls": false, "enableWhiteboard": false,
        "enableNotepad": false, "enableBreakout": false, "enableExternalMedia": false, "enableExternalLink": false,
        "enableRecording": true, "recordRoom": true, "enableComposition": true, "compositionLayout": "broadcaster",
        "recordComposition": true, "enableRTMPOut": true, "enableLiveStreaming": true, "lang": "pt-BR",
        "title": "Stand-up", "welcomeMessage": "Hello", "logoutURL": "https://example.com/bye",
        "metadata": { "team": "blue", "size": [1, 2] },
        "lockSettings": {
            "microphone": true, "webcam": true, "screenSharing": true, "chat": true, "chatSend": true,
            "chatFiles": true, "privateChat": true, "whiteboard": true, "notepad": true, "reactions": true
        }
    }"#;
    let all: Value = serde_json::from_str(all).unwrap();
    let mut wanted = all.clone();
    wanted["roomName"] = json!("standup");
    wanted["rtmpOutURL"] = json!("rtmp://live.example.com/app/key");
    let room = test.room(wanted.clone()).await;
    let mut named: Vec<&str> = all
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut known = plenum::rooms::NAMES.to_vec();
    named.sort_unstable();
    known.sort_unstable();
    assert_eq!(named, known, "this test names every property");
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&room[name], value, "{name}");
    }

    // Back to its default one after the other: nothing else changes with it.
    let plain = json!({ "roomName": "plain" });
    let (_, defaults) = test.post("/api/v1/room", &plain).await;
    for name in named {
        // What the streams need stays switched on by them.
        let needed = ["enableComposition", "lockSettings"].contains(&name);
        let change = json!({ name: null });
        let (status, changed) = test.put("/api/v1/room/standup", &change).await;
        assert_eq!(status, StatusCode::OK, "{changed}");
        if !needed {
            assert_eq!(changed[name], defaults[name], "{name}");
        }
        let (_, back) = test
            .put("/api/v1/room/standup", &json!({ name: all[name] }))
            .await;
        let mut expected = room.clone();
        expected["__v"] = back["__v"].clone();
        assert_eq!(back, expected, "{name}");
    }
    assert_eq!(
        test.get("/api/v1/room/standup").await.1["__v"],
        2 * known.len()
    );
}

#[sqlx::test]
async fn a_change_is_refused_whole_or_made_whole(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let room = test
        .room(json!({ "roomName": "standup", "expireUnixSec": 1_900_000_600, "title": "Stand-up" }))
        .await;
    test.room(json!({ "roomName": "other" })).await;
    for (change, code, field) in [
        (
            json!({ "autoJoin": true, "maxParticipants": "many" }),
            "INVALID_REQUEST",
            "maxParticipants",
        ),
        (
            json!({ "autoJoin": true, "notBeforeUnixSec": 1_900_000_600 }),
            "INVALID_REQUEST",
            "notBeforeUnixSec",
        ),
        (
            json!({ "autoJoin": true, "enableRTMPOut": true }),
            "INVALID_REQUEST",
            "rtmpOutURL",
        ),
        (
            json!({ "mediaMode": "mesh", "recordRoom": true }),
            "INVALID_REQUEST",
            "recordRoom",
        ),
        (
            json!({ "autoJoin": true, "roomName": "api" }),
            "INVALID_REQUEST",
            "roomName",
        ),
        (
            json!({ "autoJoin": true, "password": "x".repeat(129) }),
            "INVALID_REQUEST",
            "password",
        ),
        (
            json!({ "autoJoin": true, "roomName": "other" }),
            "ROOM_NAME_TAKEN",
            "",
        ),
    ] {
        let (status, error) = test.put("/api/v1/room/standup", &change).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::BAD_REQUEST, &json!(code)),
            "{change}"
        );
        if !field.is_empty() {
            assert_eq!(error["errors"][0]["field"], field, "{error}");
        }
        assert_eq!(test.get("/api/v1/room/standup").await.1, room, "{change}");
    }
    let (status, renamed) = test
        .put(
            "/api/v1/room/standup",
            &json!({ "roomName": "retro", "expireUnixSec": 0 }),
        )
        .await;
    assert_eq!((status, &renamed["_id"]), (StatusCode::OK, &room["_id"]));
    assert_eq!(
        (&renamed["title"], &renamed["expireUnixSec"]),
        (&json!("Stand-up"), &Value::Null)
    );
    assert_eq!(
        test.get("/api/v1/room/standup").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        test.get("/api/v1/room/retro").await,
        (StatusCode::OK, renamed)
    );
}

#[sqlx::test]
async fn a_room_sent_back_as_it_was_got_is_not_changed_and_nothing_is_warned_of(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let room = test
        .room(json!({ "roomName": "standup", "rtmpOutURL": "rtmp://h/app/key", "password": "open sesame",
                      "meetingJoinWebhook": "https://example.com/a" }))
        .await;
    assert_eq!(room["hasPassword"], true);
    assert!(!room.to_string().contains("sesame"), "{room}");
    let path = "/api/v1/room/standup";
    let (status, headers, mut back) = test.send(Method::PUT, path, &[], Some(&room)).await;
    assert_eq!(
        (status, headers.get("plenum-warnings")),
        (StatusCode::OK, None)
    );
    back["__v"] = room["__v"].clone();
    assert_eq!(back, room);
    let stored: Vec<u8> = sqlx::query_scalar("select rtmp_out_url from rooms")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert!(
        !stored.windows(3).any(|bytes| bytes == b"key"),
        "stream keys are sealed"
    );
    let (_, without) = test
        .put(path, &json!({ "password": null, "rtmpOutURL": "" }))
        .await;
    assert_eq!(
        (&without["hasPassword"], &without["rtmpOutURL"]),
        (&json!(false), &Value::Null)
    );
}

#[sqlx::test]
async fn fields_that_are_not_known_are_accepted_and_told(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let body = json!({ "maxParticipant": 3 });
    let (status, headers, _) = test
        .send(Method::POST, "/api/v1/room", &[], Some(&body))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        headers["plenum-warnings"],
        "\"maxParticipant is not a known field and was ignored; did you mean maxParticipants?\""
    );
}

#[sqlx::test]
async fn a_change_of_what_one_does_not_know_any_more_is_refused(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let (_, headers, room) = test
        .send(
            Method::POST,
            "/api/v1/room",
            &[],
            Some(&json!({ "roomName": "standup" })),
        )
        .await;
    let path = "/api/v1/room/standup";
    let first = headers["etag"].to_str().unwrap();
    let chat = json!({ "enableChat": true });
    let (status, headers, _) = test
        .send(Method::PUT, path, &[("if-match", first)], Some(&chat))
        .await;
    assert_eq!(status, StatusCode::OK);
    let second = headers["etag"].to_str().unwrap();
    assert_ne!(first, second);

    for stale in [first, "nonsense", "\"nonsense\"", &format!("W/{second}")] {
        for method in [Method::PUT, Method::DELETE] {
            let body = Some(&chat).filter(|_| method == Method::PUT);
            let (status, _, error) = test.send(method, path, &[("if-match", stale)], body).await;
            assert_eq!(
                (status, &error["code"]),
                (StatusCode::PRECONDITION_FAILED, &json!("ROOM_CHANGED")),
                "{stale}"
            );
        }
    }
    let unchanged = test
        .send(Method::GET, path, &[("if-none-match", second)], None)
        .await;
    assert_eq!(
        (unchanged.0, unchanged.2),
        (StatusCode::NOT_MODIFIED, Value::Null)
    );
    let (status, _, got) = test
        .send(Method::GET, path, &[("if-none-match", first)], None)
        .await;
    assert_eq!((status, &got["_id"]), (StatusCode::OK, &room["_id"]));
    let any = format!("\"x\", {second}");
    assert_eq!(
        test.send(Method::DELETE, path, &[("if-match", &any)], None)
            .await
            .0,
        StatusCode::OK
    );
}

#[sqlx::test]
async fn rooms_are_listed_newest_first_and_page_by_page(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let from = test.now().timestamp();
    for number in 0..7 {
        let privacy = if number % 2 == 0 { "public" } else { "private" };
        test.room(json!({ "roomName": format!("room{number}"), "privacy": privacy }))
            .await;
        test.advance(chrono::TimeDelta::seconds(10));
    }
    test.delete("/api/v1/room/room0").await;
    let _ann = test.join("room2", "Ann").await;
    test.events_until("meetingStarted").await;
    let names = |list: &Value| -> Vec<String> {
        let name = |room: &Value| room["roomName"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(name).collect()
    };

    let (status, headers, all) = test.send(Method::GET, "/api/v1/rooms", &[], None).await;
    assert_eq!(
        (status, &headers["x-total-count"]),
        (StatusCode::OK, &"6".parse().unwrap())
    );
    assert_eq!(
        names(&all),
        ["room6", "room5", "room4", "room3", "room2", "room1"]
    );
    assert_eq!(headers.get("link"), None);

    let mut path = "/api/v1/rooms?limit=4&namePrefix=room".to_owned();
    let mut seen = Vec::new();
    for rest in [true, false] {
        let key = format!("{path}&secretKey={}", test.app.key);
        let (_, headers, page) = test.send(Method::GET, &key, &[], None).await;
        assert_eq!(page["totalCount"], 6);
        assert_eq!(page["nextCursor"].is_string(), rest);
        seen.extend(names(&page["data"]));
        if rest {
            let link = headers["link"].to_str().unwrap();
            assert!(!link.contains("secretKey"), "{link}");
            let (target, rel) = link.split_once(">; ").unwrap();
            assert_eq!(rel, "rel=\"next\"");
            path = target.trim_start_matches('<').to_owned();
        } else {
            assert_eq!(headers.get("link"), None);
        }
    }
    assert_eq!(seen, names(&all));

    for (filter, expected) in [
        ("privacy=private", vec!["room5", "room3", "room1"]),
        ("namePrefix=room4", vec!["room4"]),
        ("namePrefix=%25", vec![]),
        ("isLive=true", vec!["room2"]),
        (
            &format!(
                "createdFromUnixSec={}&createdUntilUnixSec={}",
                from + 20,
                from + 40
            ),
            vec!["room3", "room2"],
        ),
    ] {
        let (status, list) = test.get(&format!("/api/v1/rooms?{filter}")).await;
        assert_eq!(
            (status, names(&list)),
            (
                StatusCode::OK,
                expected.iter().map(ToString::to_string).collect()
            ),
            "{filter}"
        );
    }
    let wrong = "limit=0&cursor=x&privacy=secret&createdFromUnixSec=then&isLive=perhaps";
    let (status, error) = test.get(&format!("/api/v1/rooms?{wrong}")).await;
    assert_eq!(
        (status, error["errors"].as_array().unwrap().len()),
        (StatusCode::BAD_REQUEST, 5),
        "{error}"
    );
}

#[sqlx::test]
async fn a_meeting_follows_the_changes_of_its_room(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut ann = test.join("standup", "Ann").await;
    let path = "/api/v1/room/standup";
    let expiry = test.now().timestamp() + 60;
    test.put(
        path,
        &json!({ "maxParticipants": 1, "expireUnixSec": expiry, "ejectAtRoomExp": true }),
    )
    .await;
    assert_eq!(test.refusal("standup").await, "ROOM_FULL");
    test.put(
        path,
        &json!({ "maxParticipants": 0, "notBeforeUnixSec": test.now().timestamp() + 30 }),
    )
    .await;
    assert_eq!(test.refusal("standup").await, "ROOM_NOT_OPEN");
    test.advance(chrono::TimeDelta::seconds(60));
    assert_eq!(ann.ended().await, "roomExpired");
}

#[sqlx::test]
async fn asking_twice_under_one_idempotency_key_creates_one_room(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let post = async |key: &str, body: Value| {
        test.send(
            Method::POST,
            "/api/v1/room",
            &[("idempotency-key", key)],
            Some(&body),
        )
        .await
    };
    let body = json!({ "maxParticipants": 3, "title": "Stand-up" });
    // At once, too: the later ones wait for the first.
    let asked = (0..8).map(|_| post("first", body.clone()));
    let answers = futures_util::future::join_all(asked).await;
    let replays = answers.iter().filter(|(status, headers, room)| {
        assert_eq!(
            (*status, &room["_id"]),
            (StatusCode::OK, &answers[0].2["_id"])
        );
        headers.get("idempotent-replayed").is_some()
    });
    assert_eq!(replays.count(), 7);

    let reordered: Value =
        serde_json::from_str(r#"{ "title": "Stand-up",  "maxParticipants": 3 }"#).unwrap();
    assert_eq!(post("first", reordered).await.2["_id"], answers[0].2["_id"]);
    let (status, _, error) = post("first", json!({ "title": "Retro" })).await;
    assert_eq!(
        (status, &error["code"]),
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!("IDEMPOTENCY_KEY_REUSED")
        )
    );
    assert_ne!(
        post("second", body.clone()).await.2["_id"],
        answers[0].2["_id"]
    );
    let other = test.another_app("other").await;
    let url = format!("http://{}/api/v1/room", test.address);
    let foreign = reqwest::Client::new()
        .post(url)
        .bearer_auth(&other.key)
        .header("idempotency-key", "first");
    let foreign: Value = foreign.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        foreign["app"],
        other.app.id.to_string(),
        "an app's keys are its own"
    );
    for wrong in ["", "a b", &"x".repeat(256)] {
        assert_eq!(
            post(wrong, body.clone()).await.0,
            StatusCode::BAD_REQUEST,
            "{wrong:?}"
        );
    }

    let plain = format!("create room\n{body}");
    let plain = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, plain.as_bytes());
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("select request from idempotency_keys")
        .fetch_all(&test.pool)
        .await
        .unwrap();
    assert!(
        stored.iter().all(|stored| stored != plain.as_ref()),
        "nobody can try passwords against it"
    );

    test.advance(chrono::TimeDelta::hours(24) + chrono::TimeDelta::seconds(1));
    assert_ne!(
        post("first", body.clone()).await.2["_id"],
        answers[0].2["_id"]
    );
    let left: Vec<String> =
        sqlx::query_scalar("select key from idempotency_keys where app_id = $1")
            .bind(test.app.app.id.as_bytes())
            .fetch_all(&test.pool)
            .await
            .unwrap();
    assert_eq!(left, ["first"], "keys are forgotten after a day");
}

#[sqlx::test]
async fn a_request_that_came_to_nothing_leaves_its_idempotency_key_free(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let post = async |name: &str| {
        let headers = [("idempotency-key", "key")];
        test.send(
            Method::POST,
            "/api/v1/room",
            &headers,
            Some(&json!({ "roomName": name })),
        )
        .await
    };
    assert_eq!(post("standup").await.2["code"], "ROOM_NAME_TAKEN");
    assert_eq!(post("retro").await.0, StatusCode::OK);
}

#[sqlx::test]
async fn many_rooms_are_created_and_deleted_each_by_itself(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "taken" })).await;
    let path = "/api/v1/rooms/batch-create";
    let body = json!({ "rooms": [
        { "roomName": "monday", "colour": "red" }, { "roomName": "taken" }, { "maxParticipants": -1 }, {}, 5,
    ] });
    let headers = [("idempotency-key", "week")];
    let (status, _, made) = test.send(Method::POST, path, &headers, Some(&body)).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let results = made["results"].as_array().unwrap();
    let statuses: Vec<i64> = results
        .iter()
        .map(|result| result["status"].as_i64().unwrap())
        .collect();
    assert_eq!(statuses, [200, 400, 400, 200, 400]);
    assert_eq!(results[0]["result"]["roomName"], "monday");
    assert!(
        results[0]["warnings"][0]
            .as_str()
            .unwrap()
            .contains("colour")
    );
    assert_eq!(results[1]["error"]["code"], "ROOM_NAME_TAKEN");
    assert_eq!(results[2]["error"]["errors"][0]["field"], "maxParticipants");

    // Asked again, what was done stays and what was not is tried again.
    test.delete("/api/v1/room/taken").await;
    let (_, _, again) = test.send(Method::POST, path, &headers, Some(&body)).await;
    assert_eq!(
        again["results"][0]["result"]["_id"],
        results[0]["result"]["_id"]
    );
    assert_eq!(
        again["results"][3]["result"]["_id"],
        results[3]["result"]["_id"]
    );
    assert_eq!(again["results"][1]["status"], 200);

    let names = json!({ "roomNames": ["monday", "nowhere", "taken"] });
    let (status, gone) = test.post("/api/v1/rooms/batch-delete", &names).await;
    assert_eq!(status, StatusCode::OK);
    let statuses: Vec<i64> = gone["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["status"].as_i64().unwrap())
        .collect();
    assert_eq!(statuses, [200, 404, 200]);
    let other = test.another_app("other").await;
    let left = json!({ "roomNames": [again["results"][3]["result"]["roomName"]] });
    let (_, foreign) = test
        .call(
            &other,
            Method::POST,
            "/api/v1/rooms/batch-delete",
            Some(&left),
        )
        .await;
    assert_eq!(foreign["results"][0]["error"]["code"], "ROOM_NOT_FOUND");

    for (path, wrong) in [
        (path, json!({})),
        (path, json!({ "rooms": [] })),
        (path, json!({ "rooms": vec![json!({}); 101] })),
        ("/api/v1/rooms/batch-delete", json!({ "roomNames": [] })),
        (
            "/api/v1/rooms/batch-delete",
            json!({ "roomNames": "monday" }),
        ),
    ] {
        let (status, error) = test.post(path, &wrong).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::BAD_REQUEST, &json!("INVALID_REQUEST")),
            "{wrong}"
        );
    }
}

#[sqlx::test]
async fn what_postgres_cannot_give_back_is_refused(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for (field, value) in [
        ("title", json!("a\0b")),
        ("welcomeMessage", json!("\u{7}")),
        ("metadata", json!({ "a": "\0" })),
        ("metadata", json!({ "a": [{ "\0": 1 }] })),
        ("metadata", json!({ "a": f64::MAX })),
        ("logoutURL", json!("https://example.com/\0")),
        ("meetingJoinWebhook", json!("https://exa\0mple.com/")),
    ] {
        let (status, answer) = test.post("/api/v1/room", &json!({ field: value })).await;
        let is_clear = answer["errors"][0]["field"] == field;
        assert!(
            status == StatusCode::BAD_REQUEST && is_clear || status == StatusCode::OK,
            "{answer}"
        );
    }
    let large =
        json!({ "roomName": "large", "metadata": { "a": -1e300, "b": 1e-320, "c": u64::MAX } });
    let room = test.room(large).await;
    assert_eq!(test.get("/api/v1/room/large").await.1, room);
    assert_eq!(test.get("/api/v1/rooms").await.0, StatusCode::OK);
    let (status, error) = test.get("/api/v1/rooms?namePrefix=%00").await;
    assert_eq!(
        (status, &error["errors"][0]["field"]),
        (StatusCode::BAD_REQUEST, &json!("namePrefix"))
    );
}

#[sqlx::test]
async fn a_room_that_is_locked_or_has_a_password_is_not_open_to_everybody(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "secret", "password": "open sesame" }))
        .await;
    test.room(json!({ "roomName": "shut", "locked": true }))
        .await;
    assert_eq!(test.refusal("secret").await, "INVALID_PASSWORD");
    assert_eq!(test.refusal("shut").await, "ROOM_LOCKED");
}
