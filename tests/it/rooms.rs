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
            "`public` or `private`",
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
async fn only_a_secret_key_in_use_opens_the_api(pool: PgPool) {
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

    let mut conn = test.db.system().await.unwrap();
    let key = plenum::apps::keys(&mut conn, test.app.app.id)
        .await
        .unwrap()[0]
        .id;
    assert!(
        plenum::apps::revoke_key(&mut conn, key, test.now())
            .await
            .unwrap()
    );
    assert_eq!(test.get(path).await.0, StatusCode::UNAUTHORIZED);
}

#[sqlx::test]
async fn a_room_is_invisible_to_other_apps(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    test.room(json!({ "roomName": "standup" })).await;
    for method in [Method::GET, Method::DELETE] {
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
    for (name, status, state) in [
        ("open", StatusCode::OK, "open"),
        ("over", StatusCode::OK, "expired"),
        ("closed", StatusCode::OK, "private"),
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
