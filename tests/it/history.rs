//! Meetings and stays, read by REST: exact when they are over, of this moment while they last.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::{TestApp, soon};

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

fn iso(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn ids(list: &Value) -> Vec<&str> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item["_id"].as_str().unwrap()).collect()
}

fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item["name"].as_str().unwrap()).collect()
}

impl TestApp {
    async fn read(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// The id of the room's latest meeting.
    async fn latest(&self, room: &str) -> String {
        let list = self
            .read(&format!("/api/v1/meetingsessions?roomName={room}"))
            .await;
        list[0]["_id"].as_str().unwrap().to_owned()
    }

    /// Waits until the meeting reads so.
    async fn until_read(&self, meeting: &str, field: &str, value: Value) -> Value {
        soon(field, async {
            loop {
                let read = self
                    .read(&format!("/api/v1/meetingsession/{meeting}"))
                    .await;
                if read[field] == value {
                    return read;
                }
            }
        })
        .await
    }

    /// A meeting of one person, for so many seconds, and its end; its id.
    async fn hold(&self, room: &str, seconds: i64) -> String {
        let ann = self.join(room, "Ann").await;
        let meeting = self.latest(room).await;
        self.advance(TimeDelta::seconds(seconds));
        ann.close(1000).await;
        soon("the leave", async {
            let present = format!("/api/v1/room/{room}/participants");
            while self.read(&present).await != json!([]) {}
        })
        .await;
        self.advance(TimeDelta::seconds(10));
        self.until_read(&meeting, "status", json!("ended")).await;
        meeting
    }
}

#[sqlx::test]
async fn a_meeting_that_is_over_is_told_to_the_second(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let room = test.room(json!({ "roomName": "standup" })).await;
    let start = test.now();
    let ann = test.join("standup", "Ann").await;
    test.advance(TimeDelta::milliseconds(10_900));
    let ben = test.join("standup", "Ben").await;
    // From 10.9 s to 12.1 s are two seconds on the clock.
    test.advance(TimeDelta::milliseconds(1_200));
    ben.close(1000).await;
    test.events_until("participantLeft").await;
    let meeting = test.latest("standup").await;
    test.advance(TimeDelta::seconds(60));
    let cem = test.join("standup", "Cem").await;
    ann.close(1000).await;
    test.until_read(&meeting, "participantSeconds", json!(2 + 72))
        .await;
    test.advance(TimeDelta::milliseconds(8_000));
    cem.close(1000).await;
    soon("everybody left", async {
        while test.read("/api/v1/room/standup/participants").await != json!([]) {}
    })
    .await;
    let left_at = test.now();
    test.advance(TimeDelta::seconds(10));
    let read = test.until_read(&meeting, "status", json!("ended")).await;
    let ended_at = left_at + TimeDelta::seconds(10);
    let expected = json!({
        "_id": meeting, "room": room["_id"], "roomName": "standup", "status": "ended", "createdAt": iso(start),
        "startedAt": iso(start), "endedAt": iso(ended_at), "durationSec": 90, "maxConcurrent": 2, "participantCount": 3,
        "participantSeconds": 82, "participantMinutes": 1.37, "endReason": "empty",
    });
    assert_eq!(read, expected);
    let billed: i64 = sqlx::query_scalar("select sum(seconds)::bigint from usage")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(billed, 82, "what is read is what is billed");

    let stays = format!("/api/v1/meetingsession/{meeting}/participants");
    assert_eq!(names(&test.read(&stays).await), ["Ann", "Ben", "Cem"]);
    let (_, headers, page) = test
        .send(Method::GET, &format!("{stays}?limit=2"), &[], None)
        .await;
    assert_eq!(names(&page["data"]), ["Ann", "Ben"]);
    assert_eq!(
        (&page["totalCount"], &headers["x-total-count"]),
        (&json!(3), &"3".parse().unwrap())
    );
    let next = headers["link"].to_str().unwrap();
    let (next, _) = next.trim_start_matches('<').split_once('>').unwrap();
    assert_eq!(names(&test.read(next).await["data"]), ["Cem"]);
}

#[sqlx::test]
async fn a_live_meeting_has_the_figures_of_this_moment(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    assert_eq!(
        test.read("/api/v1/room/standup/participants").await,
        json!([])
    );
    assert_eq!(
        test.get("/api/v1/room/nowhere/participants").await.1["code"],
        "ROOM_NOT_FOUND"
    );
    let _ann = test.join("standup", "Ann").await;
    test.advance(TimeDelta::seconds(30));
    let ben = test.join_resumable("standup", "Ben").await;
    test.advance(TimeDelta::seconds(30));
    let meeting = test.latest("standup").await;
    let read = test
        .read(&format!("/api/v1/meetingsession/{meeting}"))
        .await;
    let figures = [
        "status",
        "durationSec",
        "maxConcurrent",
        "participantCount",
        "participantSeconds",
        "participantMinutes",
        "endedAt",
        "endReason",
    ];
    assert_eq!(
        figures.map(|figure| read[figure].clone()),
        [
            json!("live"),
            json!(60),
            json!(2),
            json!(2),
            json!(90),
            json!(1.5),
            Value::Null,
            Value::Null
        ]
    );
    let present = test.read("/api/v1/room/standup/participants").await;
    assert_eq!(names(&present), ["Ann", "Ben"]);

    // Who may come back is in, and counts until the connection was lost.
    let stay = format!("/api/v1/participantsession/{}", ben.id);
    drop(ben);
    soon("the loss", async {
        let away = "select count(*) from participants where away_since is not null";
        while sqlx::query_scalar::<_, i64>(away)
            .fetch_one(&test.pool)
            .await
            .unwrap()
            == 0
        {}
    })
    .await;
    test.advance(TimeDelta::seconds(20));
    let read = test.read(&stay).await;
    assert_eq!(
        (
            &read["durationSec"],
            &read["leftTime"],
            &read["leaveReason"]
        ),
        (&json!(30), &Value::Null, &Value::Null)
    );
    let present = test.read("/api/v1/room/standup/participants").await;
    assert_eq!(names(&present), ["Ann", "Ben"]);
    test.advance(TimeDelta::seconds(10));
    soon("the end of the stay", async {
        while test.read(&stay).await["leaveReason"] != "connectionLost" {}
    })
    .await;
    let present = test.read("/api/v1/room/standup/participants").await;
    assert_eq!(names(&present), ["Ann"]);
}

#[sqlx::test]
async fn a_stay_tells_who_it_was_and_what_they_joined_with(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup", "privacy": "private" }))
        .await;
    let token = test
        .token(json!({
            "roomName": "standup", "isAdmin": true, "name": "Ann", "email": "ann@example.com", "externalUserId": "42",
            "meta": "{\"team\":7}",
        }))
        .await;
    let start = test.now();
    let mut ann = test.socket_as(FIREFOX).await;
    ann.send(json!({ "type": "join", "roomId": "standup", "name": "x", "token": token }))
        .await;
    let own = ann.expect("participant-joined").await;
    let id = own["participantId"].as_str().unwrap();
    test.advance(TimeDelta::seconds(7));
    ann.close(1000).await;
    test.events_until("participantLeft").await;
    let meeting = test.latest("standup").await;
    let read = test.read(&format!("/api/v1/participantsession/{id}")).await;
    let expected = json!({
        "_id": id, "meetingSessionId": meeting, "name": "Ann", "email": "ann@example.com", "externalUserId": "42",
        "meta": "{\"team\":7}", "isAdmin": true, "joinTime": iso(start), "leftTime": iso(start + TimeDelta::seconds(7)),
        "durationSec": 7, "leaveReason": "left", "browser": "Firefox 145", "os": "Linux",
    });
    assert_eq!(read, expected);
}

#[sqlx::test]
async fn meetings_are_listed_newest_first_by_room_state_and_time(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    test.room(json!({ "roomName": "retro" })).await;
    let first = test.hold("standup", 50).await;
    let noon = test.now().timestamp();
    let second = test.hold("retro", 50).await;
    // The name goes on to another room; what was held in the first one is found by it all the same.
    test.delete("/api/v1/room/standup").await;
    test.room(json!({ "roomName": "standup" })).await;
    let _ben = test.join("standup", "Ben").await;
    let list = test.read("/api/v1/meetingsessions").await;
    let third = ids(&list)[0].to_owned();
    assert_eq!(ids(&list), [&*third, &*second, &*first]);
    for (filter, expected) in [
        ("roomName=standup", vec![&third, &first]),
        ("roomName=retro", vec![&second]),
        ("roomName=nowhere", vec![]),
        ("status=ended", vec![&second, &first]),
        ("status=open", vec![]),
        ("live=true", vec![&third]),
        ("live=false&roomName=standup", vec![&first]),
        (&format!("from={noon}"), vec![&third, &second]),
        (&format!("to={noon}"), vec![&first]),
        (&format!("from={noon}&to={}", noon + 1), vec![&second]),
    ] {
        let path = format!("/api/v1/meetingsessions?{filter}");
        let (status, headers, list) = test.send(Method::GET, &path, &[], None).await;
        assert_eq!(status, StatusCode::OK, "{filter}: {list}");
        assert_eq!(ids(&list), expected, "{filter}");
        let total = headers["x-total-count"].to_str().unwrap();
        assert_eq!(total, expected.len().to_string(), "{filter}");
    }

    let mut path = format!("/api/v1/meetingsessions?limit=2&secretKey={}", test.app.key);
    let mut seen = Vec::new();
    for rest in [true, false] {
        let (_, headers, page) = test.send(Method::GET, &path, &[], None).await;
        assert_eq!(
            (&page["totalCount"], page["nextCursor"].is_string()),
            (&json!(3), rest)
        );
        seen.extend(ids(&page["data"]).into_iter().map(str::to_owned));
        if rest {
            let link = headers["link"].to_str().unwrap();
            assert!(!link.contains("secretKey"), "{link}");
            let (target, rel) = link.split_once(">; ").unwrap();
            assert_eq!(rel, "rel=\"next\"");
            target.trim_start_matches('<').clone_into(&mut path);
        } else {
            assert_eq!(headers.get("link"), None);
        }
    }
    assert_eq!(seen, [third, second, first]);

    let wrong = "limit=0&cursor=x&roomName=a%20b&status=over&live=2&from=today&to=-1";
    let (status, error) = test.get(&format!("/api/v1/meetingsessions?{wrong}")).await;
    let fields: Vec<&str> = error["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        fields,
        [
            "limit", "cursor", "roomName", "status", "live", "from", "to"
        ]
    );
}

#[sqlx::test]
async fn what_does_not_exist_is_not_found(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for (path, code) in [
        (
            "meetingsession/61005784c3c9104421af1540",
            "MEETING_NOT_FOUND",
        ),
        ("meetingsession/standup", "MEETING_NOT_FOUND"),
        (
            "meetingsession/61005784c3c9104421af1540/participants",
            "MEETING_NOT_FOUND",
        ),
        (
            "participantsession/61005784c3c9104421af1550",
            "PARTICIPANT_NOT_FOUND",
        ),
        ("participantsession/%FF", "PARTICIPANT_NOT_FOUND"),
    ] {
        let (status, error) = test.get(&format!("/api/v1/{path}")).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::NOT_FOUND, &json!(code)),
            "{path}"
        );
    }
}
