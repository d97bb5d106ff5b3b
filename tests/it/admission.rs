//! Who gets in, by every way in; and that a place is free again after every way out.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Executor, PgPool};

use crate::app::{Client, TestApp, soon};

/// Lets anybody make rooms.
async fn allow_anonymous_rooms(test: &TestApp) {
    let (status, answer) = test
        .call(
            &test.app,
            Method::PATCH,
            "/api/v1/app",
            Some(&json!({ "anonymousRooms": true })),
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// Asks for a room as MikroMeet's page does: without a key.
async fn make_room(test: &TestApp, body: &Value) -> (StatusCode, Value) {
    let url = format!("http://{}/api/rooms", test.address);
    let answer = soon("a room", test.http.post(url).json(body).send()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    (answer.status(), answer.json().await.unwrap())
}

/// The codes of refused joins that the app was told of, once there are `count`.
async fn told_refusals(test: &TestApp, count: usize) -> Vec<Value> {
    soon("events of refused joins", async {
        loop {
            let events = test.room_events().await;
            if events.len() >= count {
                return events;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[sqlx::test]
async fn a_password_opens_a_room_to_who_has_no_token(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for privacy in ["public", "private"] {
        let room = json!({ "roomName": privacy, "privacy": privacy, "password": "open sesame" });
        test.room(room).await;
        for wrong in [
            json!(null),
            json!(""),
            json!("sesame"),
            json!("x".repeat(200)),
        ] {
            let (_, answer) = test
                .ask(json!({ "roomId": privacy, "password": wrong }))
                .await;
            assert_eq!(answer["code"], "INVALID_PASSWORD", "{wrong}");
        }
        let (_, answer) = test
            .ask(json!({ "roomId": privacy, "password": "open sesame" }))
            .await;
        assert_eq!(answer["type"], "participant-joined", "{answer}");
        let token = test.token(json!({ "roomName": privacy })).await;
        let (_, answer) = test.ask(json!({ "roomId": privacy, "token": token })).await;
        assert_eq!(answer["type"], "participant-joined", "{answer}");
    }
}

#[sqlx::test]
async fn after_five_wrong_passwords_a_minute_even_the_right_one_has_to_wait(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for room in ["standup", "other"] {
        test.room(json!({ "roomName": room, "password": "right" }))
            .await;
    }
    for tries in 1..=5 {
        let (_, answer) = test
            .ask(json!({ "roomId": "standup", "password": "wrong" }))
            .await;
        assert_eq!(answer["code"], "INVALID_PASSWORD");
        let retry = answer["retryAfterSec"].as_u64();
        assert_eq!(retry, (tries == 5).then_some(12), "{answer}");
    }
    let right = json!({ "roomId": "standup", "password": "right" });
    let (_, answer) = test.ask(right.clone()).await;
    assert_eq!(
        (&answer["code"], &answer["retryAfterSec"]),
        (&json!("INVALID_PASSWORD"), &json!(12))
    );
    let (_, answer) = test
        .ask(json!({ "roomId": "other", "password": "right" }))
        .await;
    assert_eq!(answer["type"], "participant-joined", "of this room alone");
    test.advance(TimeDelta::seconds(12));
    let (_, answer) = test.ask(right).await;
    assert_eq!(answer["type"], "participant-joined");
}

#[sqlx::test]
async fn a_room_that_is_made_without_a_credential_is_answered_as_mikromeet_answers(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let refused = make_room(&test, &json!({})).await;
    assert_eq!(refused.0, StatusCode::FORBIDDEN, "{}", refused.1);
    assert_eq!(refused.1.as_object().unwrap().len(), 1, "{}", refused.1);
    allow_anonymous_rooms(&test).await;

    let wanted = json!({
        "roomId": "abc123", "title": "Retro", "maxParticipants": 4, "scheduledStart": "2030-01-01T10:00:00Z",
        "scheduledEnd": 1_893_499_200_000_i64,
    });
    let (status, made) = make_room(&test, &wanted).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(
        made,
        json!({
            "roomId": "ABC123", "creatorToken": made["creatorToken"], "title": "Retro",
            "scheduledStart": 1_893_492_000_000_i64, "scheduledEnd": 1_893_499_200_000_i64,
        })
    );
    let (_, room) = test.get("/api/v1/room/ABC123").await;
    assert_eq!(
        json!([
            room["mediaMode"],
            room["firstJoinerModerates"],
            room["maxParticipants"],
            room["title"],
            room["privacy"]
        ]),
        json!(["mesh", true, 4, "Retro", "public"])
    );
    assert_eq!(
        make_room(&test, &wanted).await,
        (
            StatusCode::TOO_MANY_REQUESTS,
            json!({ "error": "Cannot create room. Limit reached or room ID already exists." })
        )
    );
    for wrong in [json!({ "roomId": "no" }), json!({ "maxParticipants": 1 })] {
        assert_eq!(
            make_room(&test, &wrong).await,
            (
                StatusCode::BAD_REQUEST,
                json!({ "error": "Invalid request body" })
            )
        );
    }
    let (_, made) = make_room(&test, &json!({})).await;
    let name = made["roomId"].as_str().unwrap();
    assert!(
        name.len() == 6
            && name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()),
        "{name}"
    );
    assert_eq!(
        made.as_object().unwrap().len(),
        2,
        "what was not given is not answered: {made}"
    );

    let preflight = test.http.request(
        Method::OPTIONS,
        format!("http://{}/api/rooms", test.address),
    );
    let preflight = preflight.send().await.unwrap();
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        preflight.headers()["access-control-allow-methods"],
        "GET, POST, OPTIONS"
    );
    let config: Value = test.fetch("/config").await.json().await.unwrap();
    assert_eq!(
        config,
        json!({ "iceServers": [{ "urls": "stun:stun.cloudflare.com:3478" }] })
    );
}

#[sqlx::test]
async fn an_address_has_ten_anonymous_rooms_without_a_meeting_at_most(pool: PgPool) {
    let test = TestApp::new(pool).await;
    allow_anonymous_rooms(&test).await;
    let made = (0..12).map(async |_| make_room(&test, &json!({})).await.0);
    let statuses = futures_util::future::join_all(made).await;
    let refused = |status: &&StatusCode| **status == StatusCode::TOO_MANY_REQUESTS;
    assert_eq!(statuses.iter().filter(refused).count(), 2, "{statuses:?}");
    let (_, answer) = test.ask(json!({ "roomId": "mine", "isHost": true })).await;
    assert_eq!(answer["code"], "QUOTA_EXCEEDED", "{answer}");
    // One that is in use does not count.
    let room: String = sqlx::query_scalar("select name from rooms limit 1")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    let _ann = test.join(&room, "Ann").await;
    assert_eq!(make_room(&test, &json!({})).await.0, StatusCode::CREATED);
}

#[sqlx::test]
async fn an_address_makes_ten_anonymous_rooms_a_minute_at_most(pool: PgPool) {
    let test = TestApp::with(pool, &["--anonymous-rate-per-minute", "10"]).await;
    for _ in 0..10 {
        let (status, _) = make_room(&test, &json!({ "roomId": "no" })).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    let refused = make_room(&test, &json!({})).await;
    let message = json!({ "error": "Too many requests. Please try again later." });
    assert_eq!(refused, (StatusCode::TOO_MANY_REQUESTS, message));
    test.advance(TimeDelta::seconds(6));
    let (status, _) = make_room(&test, &json!({ "roomId": "no" })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "one has come back");
}

#[sqlx::test]
async fn whoever_made_a_room_moderates_it_and_passes_its_lock_and_not_its_password(pool: PgPool) {
    let test = TestApp::new(pool).await;
    allow_anonymous_rooms(&test).await;
    let (_, made) = make_room(&test, &json!({ "roomId": "ROOM01", "password": "right" })).await;
    let creator = made["creatorToken"].as_str().unwrap();
    let (first, _) = test
        .ask(json!({ "roomId": "ROOM01", "password": "right" }))
        .await;
    test.put("/api/v1/room/ROOM01", &json!({ "locked": true }))
        .await;
    let other = "00000000-0000-4000-8000-000000000000";
    for (password, token, outcome) in [
        ("wrong", creator, "INVALID_PASSWORD"),
        // Whoever made it is in, and could let them in.
        ("right", other, "waiting-room"),
        ("right", creator, "participant-joined"),
    ] {
        let join = json!({ "roomId": "ROOM01", "password": password, "creatorToken": token });
        let (_, answer) = test.ask(join).await;
        let told = answer["code"].as_str().or(answer["type"].as_str());
        assert_eq!(told, Some(outcome), "{answer}");
        if outcome == "participant-joined" {
            assert_eq!(answer["isModerator"], true);
        }
    }
    drop(first);
}

#[sqlx::test]
async fn a_host_makes_a_room_that_there_is_not_and_gets_nothing_in_one_that_there_is(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let host = json!({ "roomId": "party", "isHost": true, "password": "right" });
    let (_, answer) = test.ask(host.clone()).await;
    assert_eq!(
        answer["code"], "ROOM_NOT_FOUND",
        "the app does not let anybody make rooms"
    );
    allow_anonymous_rooms(&test).await;
    let (_ann, answer) = test.ask(host.clone()).await;
    assert_eq!(answer["isModerator"], true, "{answer}");
    let (_, room) = test.get("/api/v1/room/party").await;
    assert_eq!(
        json!([
            room["mediaMode"],
            room["hasPassword"],
            room["maxParticipants"]
        ]),
        json!(["mesh", true, 8])
    );
    let (_ben, answer) = test.ask(host).await;
    assert_eq!(answer["isModerator"], false, "she is the host, he is not");
    let (_, answer) = test.ask(json!({ "roomId": "party", "isHost": true })).await;
    assert_eq!(answer["code"], "INVALID_PASSWORD");

    // Nor does it make anybody a moderator of a room that the app made.
    test.room(json!({ "roomName": "standup" })).await;
    let (_, answer) = test
        .ask(json!({ "roomId": "standup", "isHost": true }))
        .await;
    assert_eq!(answer["isModerator"], false);
}

#[sqlx::test]
async fn of_two_who_make_the_same_room_at_once_both_are_in_it_and_one_moderates(pool: PgPool) {
    let test = TestApp::new(pool).await;
    allow_anonymous_rooms(&test).await;
    let host = json!({ "roomId": "party", "isHost": true });
    let (one, other) = tokio::join!(test.ask(host.clone()), test.ask(host.clone()));
    let moderate = BTreeSet::from([one.1["isModerator"] == true, other.1["isModerator"] == true]);
    assert_eq!(
        moderate,
        BTreeSet::from([false, true]),
        "{one:?} {other:?}",
        one = one.1,
        other = other.1
    );
}

#[sqlx::test]
async fn the_first_joiner_moderates_where_the_room_says_so_and_hands_over_when_they_leave(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    for (room, first_moderates) in [("led", true), ("flat", false)] {
        test.room(json!({ "roomName": room, "firstJoinerModerates": first_moderates }))
            .await;
        let (ann, own) = test.ask(json!({ "roomId": room })).await;
        assert_eq!(own["isModerator"], first_moderates);
        let mut ben = test.join(room, "Ben").await;
        let mut cem = test.join(room, "Cem").await;
        ben.until("participant-joined").await;
        ben.until("participant-joined").await;
        cem.until("participant-joined").await;
        cem.until("participant-joined").await;
        ann.close(1000).await;
        for client in [&mut ben, &mut cem] {
            client.expect("participant-left").await;
        }
        if first_moderates {
            let id = ben.id.clone();
            for client in [&mut ben, &mut cem] {
                let frame = client.expect("participant-updated").await;
                assert_eq!(
                    (&frame["participantId"], &frame["isModerator"]),
                    (&json!(id), &json!(true))
                );
            }
        }
        assert!(cem.is_in().await, "and nothing else is said");
        cem.close(1000).await;
        let roles: Vec<(String, String)> = sqlx::query_as(
            "select p.name, p.role from participants p join meetings m on m.id = p.meeting_id
             join rooms r on r.id = m.room_id where r.name = $1 and p.name = 'Ben'",
        )
        .bind(room)
        .fetch_all(&test.pool)
        .await
        .unwrap();
        let role = if first_moderates {
            "moderator"
        } else {
            "participant"
        };
        assert_eq!(roles, [("Ben".to_owned(), role.to_owned())], "stored");
    }
}

#[sqlx::test]
async fn somebody_who_joins_twice_replaces_themself_is_refused_or_is_in_twice(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for rule in ["replace", "refuse", "allow"] {
        let room = json!({ "roomName": rule, "duplicateUser": rule, "maxParticipants": 2 });
        test.room(room).await;
        let mut other = test.join(rule, "Olga").await;
        let token = test
            .token(json!({ "roomName": rule, "externalUserId": "42" }))
            .await;
        let join = json!({ "roomId": rule, "token": token });
        let (mut first, _) = test.ask(join.clone()).await;
        first.expect("participant-joined").await;
        other.expect("participant-joined").await;
        let (mut second, answer) = test.ask(join).await;
        match rule {
            "replace" => {
                assert_eq!(first.ended().await, "replaced");
                assert_eq!(answer["type"], "participant-joined");
                assert_eq!(second.expect("participant-joined").await["name"], "Olga");
                assert!(
                    second.is_in().await,
                    "and nobody else is said to be in or out"
                );
                assert_eq!(
                    other.expect("participant-left").await["participantId"],
                    first.id.as_str()
                );
                assert_eq!(
                    other.expect("participant-joined").await["participantId"],
                    second.id.as_str()
                );
                let left = test.events().await;
                let left = left
                    .iter()
                    .find(|event| event["event"] == "participantLeft");
                assert_eq!(left.unwrap()["leaveReason"], "replaced");
            }
            "refuse" => {
                assert_eq!(answer["code"], "DUPLICATE_USER");
                assert!(first.is_in().await);
            }
            _ => assert_eq!(answer["code"], "ROOM_FULL", "she would be in twice"),
        }
    }
}

#[sqlx::test]
async fn whoever_was_put_out_stays_out_until_the_meeting_ends_whoever_owns_it(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let mut olga = test.join_resumable("standup", "Olga").await;
    let user = |id: &str| json!({ "roomName": "standup", "externalUserId": id });
    let (ejected, banned) = (test.token(user("1")).await, test.token(user("2")).await);
    let (again, new) = (test.token(user("2")).await, test.token(user("1")).await);
    let (mut ann, _) = test
        .ask(json!({ "roomId": "standup", "token": ejected, "resumable": true }))
        .await;
    ann.expect("participant-joined").await;
    // As an eject writes it.
    sqlx::query(
        "insert into meeting_blocks (app_id, meeting_id, kind, value)
         select app_id, meeting_id, 'token', token_id from participants where external_user_id = '1'
         union all select app_id, meeting_id, 'resume', resume_hash from participants where external_user_id = '1'
         union all select app_id, id, 'person', convert_to('2', 'UTF8') from meetings",
    )
    .execute(&test.pool)
    .await
    .unwrap();
    test.stop_node().await;
    sqlx::query("update participants set left_at = joined_at, leave_reason = 'ejected' where external_user_id = '1'")
        .execute(&test.pool)
        .await
        .unwrap();
    test.start_node();
    olga = test.resume("standup", &olga).await;
    let join = |token: &str| json!({ "roomId": "standup", "token": token });
    for (token, outcome) in [
        (&ejected, json!("EJECTED")),
        (&banned, json!("EJECTED")),
        (&again, json!("EJECTED")),
        (&new, json!(null)),
    ] {
        assert_eq!(test.ask(join(token)).await.1["code"], outcome);
    }
    let resume = json!({ "type": "resume", "roomId": "standup", "resumeToken": ann.resume_token });
    let mut back = test.socket().await;
    back.send(resume).await;
    assert_eq!(back.expect("error").await["code"], "EJECTED");

    // The next meeting knows nothing of it.
    olga.close(1000).await;
    drop(back);
    soon("the end of the meeting", async {
        loop {
            test.advance(TimeDelta::seconds(10));
            let ended = test.events().await;
            if ended.iter().any(|event| event["event"] == "meetingEnded") {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        test.ask(join(&ejected)).await.1["type"],
        "participant-joined"
    );
    let left: i64 = sqlx::query_scalar("select count(*) from meeting_blocks")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[sqlx::test]
async fn of_200_who_join_at_once_ten_get_into_ten_places(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "race", "maxParticipants": 10 }))
        .await;
    let sockets = (0..200).map(|_| test.socket());
    let mut sockets = futures_util::future::join_all(sockets).await;
    let joins = sockets.iter_mut().map(async |socket| {
        loop {
            socket
                .send(json!({ "type": "join", "roomId": "race", "name": "Ann" }))
                .await;
            let frame = socket.next().await.unwrap();
            // Whose meeting is being opened by somebody else asks again.
            if frame["code"] != "TRY_AGAIN" {
                return frame["code"].as_str().unwrap_or("in").to_owned();
            }
        }
    });
    let outcomes = futures_util::future::join_all(joins).await;
    let count = |wanted: &str| outcomes.iter().filter(|outcome| *outcome == wanted).count();
    assert_eq!((count("in"), count("ROOM_FULL")), (10, 190), "{outcomes:?}");
    let inside: i64 = sqlx::query_scalar("select count(*) from participants where left_at is null")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(inside, 10);
}

/// How somebody goes, and why the app hears that they have.
const WAYS_OUT: [(&str, &str); 9] = [
    ("leave", "left"),
    ("page closed", "left"),
    ("closed with an error", "connectionLost"),
    ("connection cut", "connectionLost"),
    ("did not resume", "connectionLost"),
    ("time limit", "timeLimit"),
    ("token expired", "tokenExpired"),
    ("replaced", "replaced"),
    ("meeting ended", "roomDeleted"),
];

#[sqlx::test]
async fn a_place_is_free_again_after_every_way_out(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for (index, (way_out, reason)) in WAYS_OUT.into_iter().enumerate() {
        let room = format!("room{index}");
        let rules = json!({ "roomName": room, "maxParticipants": 1, "duplicateUser": "replace" });
        test.room(rules.clone()).await;
        let token = test
            .token(json!({
                "roomName": room, "externalUserId": "42", "expireUnixSec": test.now().timestamp() + 60,
                "ejectAtTokenExp": way_out == "token expired",
            }))
            .await;
        let limit = json!({ "ejectAfterElapsedTimeInSec": 60 });
        if way_out == "time limit" {
            test.put(&format!("/api/v1/room/{room}"), &limit).await;
        }
        let resumable = way_out == "did not resume";
        let (mut ann, answer) = test
            .ask(json!({ "roomId": room, "token": token, "resumable": resumable }))
            .await;
        assert_eq!(answer["type"], "participant-joined", "{way_out}: {answer}");
        let (_, answer) = test.ask(json!({ "roomId": room })).await;
        assert_eq!(answer["code"], "ROOM_FULL", "{way_out}");
        match way_out {
            "leave" => ann.send(json!({ "type": "leave" })).await,
            "page closed" => ann.close(1001).await,
            "closed with an error" => ann.close(4000).await,
            "connection cut" => ann.cut(),
            "did not resume" => {
                ann.cut();
                soon("the loss", async {
                    let lost =
                        "select exists (select from participants where away_since is not null)";
                    while !sqlx::query_scalar::<_, bool>(lost)
                        .fetch_one(&test.pool)
                        .await
                        .unwrap()
                    {
                        tokio::task::yield_now().await;
                    }
                })
                .await;
                test.advance(TimeDelta::seconds(30));
            }
            "time limit" | "token expired" => {
                test.advance(TimeDelta::seconds(60));
                assert_eq!(ann.ended().await, reason);
            }
            "replaced" => {
                let (again, _) = test.ask(json!({ "roomId": room, "token": token })).await;
                assert_eq!(ann.ended().await, reason);
                again.close(1000).await;
            }
            _ => {
                test.delete(&format!("/api/v1/room/{room}")).await;
                assert_eq!(ann.ended().await, reason);
                test.room(rules).await;
            }
        }
        soon(
            way_out,
            Box::pin(async {
                loop {
                    let (_, answer) = test.ask(json!({ "roomId": room })).await;
                    if answer["type"] == "participant-joined" {
                        break;
                    }
                    let waits = ["ROOM_FULL", "TRY_AGAIN"];
                    assert!(
                        waits.contains(&answer["code"].as_str().unwrap()),
                        "{way_out}: {answer}"
                    );
                }
            }),
        )
        .await;
        let events = test.events().await;
        let of_room = |event: &&Value| event["roomName"] == room.as_str();
        let left = events
            .iter()
            .filter(of_room)
            .find(|event| event["event"] == "participantLeft");
        assert_eq!(left.unwrap()["leaveReason"], reason, "{way_out}");
    }
}

#[sqlx::test]
async fn whoever_is_gone_before_they_are_told_that_they_are_in_leaves_their_place_at_once(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "pair", "maxParticipants": 2 }))
        .await;
    let _ann = test.join("pair", "Ann").await;
    // The join is decided, and cannot be stored yet.
    let mut held = test.pool.begin().await.unwrap();
    held.execute("select from meetings for update")
        .await
        .unwrap();
    let mut ben = test.socket().await;
    ben.send(json!({ "type": "join", "roomId": "pair", "name": "Ben", "resumable": true }))
        .await;
    soon("the commit that waits", async {
        let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock'
                     and datname = current_database())";
        while !sqlx::query_scalar::<_, bool>(waits)
            .fetch_one(&test.pool)
            .await
            .unwrap()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let sockets = async |count: &str| {
        soon("the metric of sockets", async {
            loop {
                let figures = test.fetch("/metrics").await.text().await.unwrap();
                if figures.contains(&format!("plenum_signaling_sockets {count}\n")) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    ben.cut();
    sockets("1").await;
    held.rollback().await.unwrap();
    soon(
        "a free place",
        Box::pin(async {
            while test.ask(json!({ "roomId": "pair" })).await.1["code"] == "ROOM_FULL" {}
        }),
    )
    .await;
    // The time stands still: nobody waited for anything. It could not be known that he had gone, so both are told.
    let of_ben: Vec<Value> = test.events().await;
    let of_ben: Vec<_> = of_ben
        .iter()
        .filter(|event| event["name"] == "Ben")
        .map(|event| (event["event"].clone(), event["leaveReason"].clone()))
        .collect();
    assert_eq!(
        of_ben,
        [
            (json!("participantJoined"), json!(null)),
            (json!("participantLeft"), json!("joinAborted"))
        ]
    );
}

#[sqlx::test]
async fn whoever_is_gone_before_it_is_decided_has_neither_joined_nor_left(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let user = json!({ "roomName": "standup", "externalUserId": "42" });
    let token = test.token(user).await;
    // The token cannot be looked into yet.
    let mut held = test.pool.begin().await.unwrap();
    held.execute("lock table token_secrets in access exclusive mode")
        .await
        .unwrap();
    let mut ann = test.socket().await;
    ann.send(json!({ "type": "join", "roomId": "standup", "name": "Ann", "token": token }))
        .await;
    soon("the look-up that waits", async {
        let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock'
                     and datname = current_database())";
        while !sqlx::query_scalar::<_, bool>(waits)
            .fetch_one(&test.pool)
            .await
            .unwrap()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    ann.cut();
    let told = told_refusals(&test, 1).await;
    held.rollback().await.unwrap();
    assert_eq!(
        json!([told[0]["event"], told[0]["code"], told[0]["name"]]),
        json!(["participantJoinRefused", "JOIN_ABORTED", "Ann"])
    );
    assert_eq!(
        test.events().await,
        [] as [Value; 0],
        "and nothing else is told"
    );
}

#[sqlx::test]
async fn the_app_hears_who_was_refused_and_why_and_no_more_than_ten_times_a_minute(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "full", "maxParticipants": 1 }))
        .await;
    test.room(json!({ "roomName": "private", "privacy": "private" }))
        .await;
    let _ann = test.join("full", "Ann").await;
    let token = test
        .token(json!({ "roomName": "full", "externalUserId": "42", "name": "Ben B." }))
        .await;
    test.ask(json!({ "roomId": "full", "token": token })).await;
    let told = told_refusals(&test, 1).await;
    assert_eq!(
        json!([
            told[0]["event"],
            told[0]["code"],
            told[0]["name"],
            told[0]["externalUserId"],
            told[0]["roomName"]
        ]),
        json!([
            "participantJoinRefused",
            "ROOM_FULL",
            "Ben B.",
            "42",
            "full"
        ])
    );
    assert_ne!(told[0]["meetingSessionId"], Value::Null);
    for _ in 0..15 {
        assert_eq!(test.refusal("private").await, "TOKEN_REQUIRED");
    }
    assert_eq!(test.refusal("nowhere").await, "ROOM_NOT_FOUND");
    let mut test = test;
    test.stop_node().await;
    let told = test.room_events().await;
    let of_private = told.iter().filter(|event| event["roomName"] == "private");
    assert_eq!(of_private.count(), 10);
    assert_eq!(
        told.len(),
        11,
        "a room that there is not is nobody's business"
    );
}

/// A socket from somewhere else, as a trusted proxy says.
async fn from(test: &TestApp, address: &str) -> Result<Client, (u16, Value)> {
    let headers = [("x-forwarded-for", address)];
    Ok(test.socket_with(&headers).await?.0)
}

#[sqlx::test]
async fn an_address_opens_ten_sockets_a_minute_by_which_nobody_comes_in(pool: PgPool) {
    let args = [
        "--anonymous-rate-per-minute",
        "10",
        "--trusted-proxies",
        "127.0.0.1",
    ];
    let test = TestApp::with(pool, &args).await;
    test.room(json!({ "roomName": "class" })).await;
    let school = "203.0.113.9";
    let mut pupils = Vec::new();
    // A whole school comes in from one address.
    for _ in 0..30 {
        let mut pupil = from(&test, school)
            .await
            .unwrap_or_else(|(_, error)| panic!("{error}"));
        pupil
            .send(json!({ "type": "join", "roomId": "class", "name": "Pip" }))
            .await;
        pupil.expect("participant-joined").await;
        pupils.push(pupil);
    }
    for _ in 0..10 {
        let mut stranger = from(&test, school)
            .await
            .unwrap_or_else(|(_, error)| panic!("{error}"));
        stranger
            .send(json!({ "type": "join", "roomId": "nowhere", "name": "Eve" }))
            .await;
        assert_eq!(stranger.expect("error").await["code"], "ROOM_NOT_FOUND");
    }
    let (status, error) = from(&test, school).await.err().unwrap();
    assert_eq!((status, &error["code"]), (429, &json!("RATE_LIMITED")));
    assert!(from(&test, "203.0.113.10").await.is_ok(), "of each address");

    // A token of the app's opens the door, whatever the address has done.
    let token = test.token(json!({ "roomName": "class" })).await;
    let offered = format!("plenum, plenum.token.{token}");
    let headers = [
        ("x-forwarded-for", school),
        ("sec-websocket-protocol", &offered),
    ];
    let (mut bearer, protocol) = test.socket_with(&headers).await.ok().unwrap();
    assert_eq!(
        protocol.as_deref(),
        Some("plenum"),
        "or a browser would close it"
    );
    bearer
        .send(json!({ "type": "join", "roomId": "class", "name": "Ann" }))
        .await;
    assert_eq!(bearer.expect("participant-joined").await["name"], "Ann");
    let forged = format!("plenum, plenum.token.{}", token.replace('.', ".x"));
    let headers = [
        ("x-forwarded-for", school),
        ("sec-websocket-protocol", &forged),
    ];
    assert_eq!(test.socket_with(&headers).await.err().unwrap().0, 429);
    test.advance(TimeDelta::seconds(6));
    assert!(from(&test, school).await.is_ok(), "one has come back");
}

#[sqlx::test]
async fn the_token_of_the_upgrade_is_good_for_a_join_that_brings_none(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "private", "privacy": "private" }))
        .await;
    let token = test
        .token(json!({ "roomName": "private", "isAdmin": true }))
        .await;
    let offered = format!("plenum.token.{token}");
    let headers = [("sec-websocket-protocol", offered.as_str())];
    let (mut ann, protocol) = test.socket_with(&headers).await.ok().unwrap();
    assert_eq!(protocol.as_ref(), Some(&offered), "the only one offered");
    ann.send(json!({ "type": "join", "roomId": "private", "name": "Ann" }))
        .await;
    assert_eq!(ann.expect("participant-joined").await["isModerator"], true);
}
