//! Webhooks as a resource: who makes one, what it gets, and what its app can read, repeat and replace.

use chrono::{DateTime, TimeDelta};
use plenum::webhooks::SigningSecret;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    app::{TestApp, soon},
    receiver::{Receiver, Reply, Request},
};

/// Creates a webhook of the app.
async fn webhook(test: &TestApp, wanted: Value) -> Value {
    let (status, webhook) = test.post("/api/v1/webhooks", &wanted).await;
    assert_eq!(status, StatusCode::OK, "{webhook}");
    webhook
}

fn path(webhook: &Value) -> String {
    format!("/api/v1/webhooks/{}", webhook["_id"].as_str().unwrap())
}

fn delivery_path(webhook: &Value, delivery: &Value) -> String {
    let id = delivery["_id"].as_str().unwrap();
    format!("{}/deliveries/{id}", path(webhook))
}

/// The deliveries of a webhook, the newest first, once none is pending.
async fn settled(test: &TestApp, webhook: &Value) -> Vec<Value> {
    soon("deliveries", async {
        loop {
            let found = deliveries(test, webhook, "").await;
            if found
                .iter()
                .all(|delivery| delivery["outcome"] != "pending")
            {
                return found;
            }
        }
    })
    .await
}

async fn deliveries(test: &TestApp, webhook: &Value, query: &str) -> Vec<Value> {
    let (status, page) = test
        .get(&format!("{}/deliveries{query}", path(webhook)))
        .await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["data"].as_array().unwrap().clone()
}

/// Waits until a delivery has so many attempts that ended, and returns it.
async fn attempted(test: &TestApp, path: &str, count: usize) -> Value {
    soon("attempts", async {
        loop {
            let (_, delivery) = test.get(path).await;
            if delivery["attempts"].as_array().unwrap().len() >= count {
                return delivery;
            }
        }
    })
    .await
}

/// Somebody is in the room and leaves, and the meeting ends.
async fn meet(test: &TestApp, room: &str) {
    test.join(room, "Ann").await.close(1000).await;
    soon("the leave", async {
        while !test
            .events()
            .await
            .iter()
            .any(|event| event["event"] == "participantLeft")
        {}
    })
    .await;
    test.advance(TimeDelta::seconds(11));
    test.events_until("meetingEnded").await;
}

fn verifies(request: &Request, secret: &Value) -> bool {
    standardwebhooks::Webhook::new(secret.as_str().unwrap())
        .unwrap()
        .verify(request.body.as_bytes(), &request.headers)
        .is_ok()
}

fn kinds(requests: &[Request]) -> Vec<String> {
    let kinds = requests
        .iter()
        .map(|request| request.json()["event"].clone());
    kinds
        .map(|kind| kind.as_str().unwrap().to_owned())
        .collect()
}

#[sqlx::test]
async fn an_apps_own_webhook_gets_what_its_filter_lets_through_of_all_rooms_beside_the_rooms_urls(
    pool: PgPool,
) {
    let test = TestApp::at_present(pool).await;
    let receiver = Receiver::open().await;
    let wanted = json!({
        "url": receiver.url("/own"), "events": ["meeting*", "participantLeft"], "description": " The billing ",
    });
    let webhook = webhook(&test, wanted).await;
    test.room(json!({ "roomName": "one", "meetingStartedWebhook": receiver.url("/room") }))
        .await;
    meet(&test, "one").await;
    receiver.arrived(4).await;
    let (own, of_room): (Vec<_>, Vec<_>) = receiver
        .take()
        .into_iter()
        .partition(|request| request.path() == "/own");
    assert_eq!(
        kinds(&own),
        ["meetingStarted", "participantLeft", "meetingEnded"],
        "in their order"
    );
    assert_eq!(kinds(&of_room), ["meetingStarted"]);
    assert_eq!(own[0].id(), of_room[0].id(), "it is the same event");
    let secret = &webhook["secret"];
    assert!(secret.as_str().unwrap().starts_with("whsec_"));
    assert!(own.iter().all(|request| verifies(request, secret)));
    let room_secret = json!(test.app.webhook_secret.reveal().expose_secret());
    assert!(verifies(&of_room[0], &room_secret) && !verifies(&own[0], &room_secret));

    let expected = json!({
        "_id": webhook["_id"], "url": receiver.url("/own"), "enabled": true, "description": "The billing",
        "events": ["meeting*", "participantLeft"], "created": webhook["created"],
    });
    assert_eq!(
        test.get(&path(&webhook)).await.1,
        expected,
        "without the secret"
    );
    let (_, all) = test.get("/api/v1/webhooks").await;
    assert_eq!(
        all,
        json!({ "data": [expected] }),
        "a room's URL is not the app's own"
    );
}

#[sqlx::test]
async fn an_expired_room_is_told_to_the_apps_own_webhooks(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    webhook(
        &test,
        json!({ "url": receiver.url("/"), "events": ["room*"] }),
    )
    .await;
    let expiry = test.now().timestamp() + 60;
    let urls = receiver.url("/room");
    test.room(json!({
        "roomName": "hour", "expireUnixSec": expiry, "meetingStartedWebhook": urls, "meetingEndedWebhook": urls,
    }))
    .await;
    test.advance(TimeDelta::seconds(60));
    receiver.arrived(1).await;
    let [told] = receiver.take().try_into().unwrap();
    assert_eq!(told.path(), "/");
    assert_eq!(told.json()["event"], "roomExpired");
}

#[sqlx::test]
async fn what_cannot_be_a_webhook_is_refused_with_every_wrong_field(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let https = "https://example.com/";
    for (wanted, wrong) in [
        (json!({}), vec!["url"]),
        (json!({ "url": "ftp://example.com/" }), vec!["url"]),
        (
            json!({ "url": "https://ann:secret@example.com/" }),
            vec!["url"],
        ),
        (json!({ "url": "https://example.com:25/" }), vec!["url"]),
        (
            json!({ "url": https, "events": ["meetings*"] }),
            vec!["events"],
        ),
        (
            json!({ "url": https, "events": ["*Ended"] }),
            vec!["events"],
        ),
        (json!({ "url": https, "events": [] }), vec!["events"]),
        (
            json!({ "url": https, "events": vec!["*"; 21] }),
            vec!["events"],
        ),
        (json!({ "url": https, "events": "*" }), vec!["events"]),
        (json!({ "url": https, "enabled": "no" }), vec!["enabled"]),
        (
            json!({ "url": null, "description": "x".repeat(501), "enabled": null }),
            vec!["url", "description", "enabled"],
        ),
    ] {
        let (status, error) = test.post("/api/v1/webhooks", &wanted).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::BAD_REQUEST, &json!("INVALID_REQUEST"))
        );
        let named = error["errors"].as_array().unwrap().iter();
        let named: Vec<&str> = named
            .map(|error| error["field"].as_str().unwrap())
            .collect();
        assert_eq!(named, wrong, "{wanted}");
    }
}

#[sqlx::test]
async fn an_app_has_fifty_webhooks_at_most_however_many_are_asked_for_at_once(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for _ in 0..48 {
        webhook(&test, json!({ "url": "https://example.com/" })).await;
    }
    let wanted = json!({ "url": "https://example.com/" });
    let asked = (0..6).map(|_| test.post("/api/v1/webhooks", &wanted));
    let answers = futures_util::future::join_all(asked).await;
    let made = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::OK);
    assert_eq!(made.count(), 2);
    let (status, error) = test.post("/api/v1/webhooks", &wanted).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::CONFLICT, &json!("TOO_MANY_WEBHOOKS"))
    );
    let (_, all) = test.get("/api/v1/webhooks").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 50);
    test.delete(&path(&all["data"][0])).await;
    webhook(&test, wanted).await;
}

#[sqlx::test]
async fn a_new_secret_signs_at_once_and_the_old_one_beside_it_for_a_day(pool: PgPool) {
    let test = TestApp::at_present(pool).await;
    let receiver = Receiver::open().await;
    let wanted = json!({ "url": receiver.url("/own"), "events": ["knock"] });
    let webhook = webhook(&test, wanted).await;
    let of_room = receiver.url("/room");
    test.room(json!({ "roomName": "one", "meetingStartedWebhook": of_room }))
        .await;
    drop(test.join("one", "Ann").await);
    receiver.arrived(1).await;
    receiver.take();
    let (_, of_rooms) = test.get("/api/v1/webhooks?roomName=one").await;
    let room_secret = json!(test.app.webhook_secret.reveal().expose_secret());
    for (webhook, old, rotate) in [
        (
            &webhook,
            &webhook["secret"],
            format!("{}/rotate", path(&webhook)),
        ),
        (
            &of_rooms["data"][0],
            &room_secret,
            "/api/v1/webhooks/room-secret/rotate".to_owned(),
        ),
    ] {
        let sign = async || {
            let (status, told) = test
                .post(&format!("{}/test", path(webhook)), &json!({}))
                .await;
            assert_eq!(status, StatusCode::OK, "{told}");
            receiver.arrived(1).await;
            receiver.take().pop().unwrap()
        };
        let (status, rotated) = test.post(&rotate, &json!({})).await;
        assert_eq!(status, StatusCode::OK, "{rotated}");
        let until = rotated["oldSecretSignsUntil"].as_str().unwrap();
        let until = DateTime::parse_from_rfc3339(until).unwrap().to_utc();
        assert_eq!(
            until.timestamp_millis(),
            (test.now() + TimeDelta::days(1)).timestamp_millis()
        );
        let new = &rotated["secret"];
        let request = sign().await;
        assert!(verifies(&request, new) && verifies(&request, old));
        let signatures = request.headers["webhook-signature"].to_str().unwrap();
        let signatures: Vec<&str> = signatures.split(' ').collect();
        let new_secret: SigningSecret = new.as_str().unwrap().parse().unwrap();
        let at: i64 = request.headers["webhook-timestamp"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let at = DateTime::from_timestamp(at, 0).unwrap();
        let expected = new_secret.sign(&request.id(), at, request.body.as_bytes());
        assert_eq!(
            (signatures.len(), signatures[0]),
            (2, expected.as_str()),
            "the new one first"
        );

        let (_, third) = test.post(&rotate, &json!({ "overlapSec": 0 })).await;
        let request = sign().await;
        assert!(verifies(&request, &third["secret"]), "at once");
        assert!(!verifies(&request, new) && !verifies(&request, old));

        let (_, fourth) = test.post(&rotate, &json!({ "overlapSec": 60 })).await;
        assert!(verifies(&sign().await, &third["secret"]));
        test.advance(TimeDelta::seconds(61));
        let request = sign().await;
        assert!(verifies(&request, &fourth["secret"]) && !verifies(&request, &third["secret"]));

        for overlap in [json!(-1), json!(86_401), json!("1d"), json!(1.5)] {
            let (_, error) = test.post(&rotate, &json!({ "overlapSec": overlap })).await;
            assert_eq!(error["errors"][0]["field"], "overlapSec", "{overlap}");
        }
        let mut refused = 0;
        for _ in 0..6 {
            let (status, answer) = test.post(&rotate, &json!({})).await;
            if status != StatusCode::OK {
                assert_eq!(
                    (status, &answer["code"]),
                    (StatusCode::CONFLICT, &json!("TOO_MANY_SECRETS"))
                );
                refused += 1;
            }
        }
        assert!((1..=2).contains(&refused), "{refused}");
        let signatures = sign().await.headers["webhook-signature"].clone();
        assert!(signatures.to_str().unwrap().split(' ').count() <= 6);
    }
}

#[sqlx::test]
async fn a_test_goes_the_way_of_all_events_whatever_the_filter(pool: PgPool) {
    let test = TestApp::at_present(pool).await;
    let receiver = Receiver::open().await;
    let wanted = json!({ "url": receiver.url("/"), "events": ["knock"] });
    let webhook = webhook(&test, wanted).await;
    let send = format!("{}/test", path(&webhook));
    let (status, headers, sent) = test.send(Method::POST, &send, &[], None).await;
    assert_eq!(
        (status, &sent["outcome"]),
        (StatusCode::OK, &json!("pending"))
    );
    receiver.arrived(1).await;
    let [request] = receiver.take().try_into().unwrap();
    assert!(verifies(&request, &webhook["secret"]));
    let expected = json!({
        "id": sent["eventId"], "event": "test", "createdAt": sent["created"], "app": test.app.app.id,
        "requestId": headers["x-request-id"].to_str().unwrap(),
    });
    assert_eq!(
        (request.json(), request.id().into()),
        (expected, sent["eventId"].clone())
    );
    let delivery = attempted(&test, &delivery_path(&webhook, &sent), 1).await;
    assert_eq!(
        (&delivery["outcome"], &delivery["body"]["event"]),
        (&json!("delivered"), &json!("test"))
    );
}

#[sqlx::test]
async fn deliveries_and_their_attempts_can_be_read_by_pages_and_filters(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Status(503));
    let webhook = webhook(&test, json!({ "url": receiver.url("/") })).await;
    test.room(json!({ "roomName": "one" })).await;
    let start = test.now().timestamp();
    meet(&test, "one").await;
    // Each holds the next one back for its two attempts.
    soon("the end", async {
        while receiver.count() < 8 {
            test.advance(TimeDelta::seconds(2));
            // An attempt has its time by the same clock.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut all = settled(&test, &webhook).await;
    // Those of one millisecond stand in any order.
    all.sort_by_key(|found| std::cmp::Reverse(found["seq"].as_i64()));
    let events: Vec<&str> = all
        .iter()
        .map(|found| found["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        [
            "meetingEnded",
            "participantLeft",
            "participantJoined",
            "meetingStarted"
        ]
    );
    assert!(
        all.iter()
            .all(|found| found["outcome"] == "failed" && found["attemptCount"] == 2)
    );
    assert!(all[0].get("nextAttemptAt").is_none() && all[0]["seq"] == 4);

    let (_, delivery) = test.get(&delivery_path(&webhook, &all[0])).await;
    assert_eq!(delivery["body"]["id"], all[0]["eventId"]);
    assert_eq!(
        delivery["body"]["meetingSessionId"],
        all[0]["meetingSessionId"]
    );
    let attempts = delivery["attempts"].as_array().unwrap();
    let told: Vec<_> = attempts
        .iter()
        .map(|tried| {
            [
                &tried["attempt"],
                &tried["status"],
                &tried["answer"],
                &tried["error"],
            ]
        })
        .collect();
    let (answer, error) = (
        json!("fine"),
        json!("answered 503, and only 2xx is success"),
    );
    let status = json!(503);
    assert_eq!(
        told,
        [
            [&json!(1), &status, &answer, &error],
            [&json!(2), &status, &answer, &error]
        ]
    );
    assert!(attempts[0]["latencyMs"].is_i64() && attempts[0]["at"].is_string());

    let (_, first) = test
        .get(&format!("{}/deliveries?limit=3", path(&webhook)))
        .await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = format!("{}/deliveries?limit=3&cursor={cursor}", path(&webhook));
    let (_, rest) = test.get(&rest).await;
    let both = [&first["data"], &rest["data"]].map(|page| page.as_array().unwrap().clone());
    assert_eq!(
        (both[0].len(), both[1].len(), &rest["nextCursor"]),
        (3, 1, &Value::Null)
    );
    assert!(all.iter().all(|found| both.concat().contains(found)));
    for (query, count) in [
        ("?outcome=failed", 4),
        ("?outcome=delivered", 0),
        ("?outcome=pending", 0),
        ("?event=participant*", 2),
        ("?event=meetingEnded", 1),
        ("?event=test", 0),
        (&format!("?fromUnixSec={start}"), 4),
        (&format!("?toUnixSec={start}"), 0),
        (&format!("?fromUnixSec={}", start + 10), 1),
        (&format!("?fromUnixSec={start}&toUnixSec={}", start + 1), 3),
    ] {
        let found = deliveries(&test, &webhook, query).await;
        assert_eq!(found.len(), count, "{query}");
    }
    for wrong in [
        "limit=0",
        "limit=1001",
        "outcome=gone",
        "event=no",
        "cursor=1",
        "fromUnixSec=now",
    ] {
        let (status, error) = test
            .get(&format!("{}/deliveries?{wrong}", path(&webhook)))
            .await;
        let field = wrong.split('=').next().unwrap();
        assert_eq!(
            (status, &error["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field))
        );
    }
}

#[sqlx::test]
async fn what_was_sent_can_be_sent_again_with_the_same_id_and_a_new_schedule(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Status(500));
    let webhook = webhook(&test, json!({ "url": receiver.url("/") })).await;
    let (_, sent) = test
        .post(&format!("{}/test", path(&webhook)), &json!({}))
        .await;
    let delivery = delivery_path(&webhook, &sent);
    attempted(&test, &delivery, 1).await;
    test.advance(TimeDelta::seconds(2));
    let failed = attempted(&test, &delivery, 2).await;
    assert_eq!(failed["outcome"], "failed");

    let (status, again) = test.post(&format!("{delivery}/resend"), &json!({})).await;
    assert_eq!(
        (status, &again["outcome"]),
        (StatusCode::OK, &json!("pending"))
    );
    let waiting = attempted(&test, &delivery, 3).await;
    assert_eq!(waiting["outcome"], "pending", "it has a retry again");
    receiver.answer("/", Reply::Status(200));
    // Without waiting for the time of its retry.
    test.post(&format!("{delivery}/resend"), &json!({})).await;
    let delivered = attempted(&test, &delivery, 4).await;
    assert_eq!(
        (&delivered["outcome"], &delivered["attemptCount"]),
        (&json!("delivered"), &json!(4))
    );
    test.post(&format!("{delivery}/resend"), &json!({})).await;
    attempted(&test, &delivery, 5).await;
    let requests = receiver.take();
    assert!(
        requests
            .iter()
            .all(|request| request.id() == sent["eventId"])
    );
    assert!(
        requests
            .iter()
            .all(|request| request.body == requests[0].body)
    );
}

#[sqlx::test]
async fn one_that_is_being_attempted_is_not_sent_twice_at_once(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Held);
    let webhook = webhook(&test, json!({ "url": receiver.url("/") })).await;
    let (_, sent) = test
        .post(&format!("{}/test", path(&webhook)), &json!({}))
        .await;
    receiver.arrived(1).await;
    let delivery = delivery_path(&webhook, &sent);
    let (_, again) = test.post(&format!("{delivery}/resend"), &json!({})).await;
    assert_eq!(
        (&again["outcome"], &again["attemptCount"]),
        (&json!("pending"), &json!(1))
    );
    receiver.release(Reply::Status(200));
    assert_eq!(attempted(&test, &delivery, 1).await["outcome"], "delivered");
    assert_eq!(receiver.count(), 1);
}

#[sqlx::test]
async fn what_happens_while_a_webhook_is_disabled_is_kept_and_can_be_sent_later(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Status(500));
    let webhook = webhook(&test, json!({ "url": receiver.url("/") })).await;
    let (_, waiting) = test
        .post(&format!("{}/test", path(&webhook)), &json!({}))
        .await;
    attempted(&test, &delivery_path(&webhook, &waiting), 1).await;
    let disable = json!({ "enabled": false });
    let (_, disabled) = test
        .call(&test.app, Method::PATCH, &path(&webhook), Some(&disable))
        .await;
    assert_eq!(disabled["enabled"], false);
    assert!(disabled["disabledAt"].is_string());
    let start = test.now().timestamp();
    test.room(json!({ "roomName": "one" })).await;
    meet(&test, "one").await;
    let skipped = deliveries(&test, &webhook, "?outcome=skipped").await;
    assert_eq!(skipped.len(), 5, "what waited, and what has happened");
    assert_eq!(receiver.take().len(), 1);
    let (one, many) = (
        format!("{}/resend", delivery_path(&webhook, &waiting)),
        format!("{}/resend", path(&webhook)),
    );
    let range = json!({ "fromUnixSec": start, "toUnixSec": start + 60 });
    for (path, body) in [
        (&one, &json!({})),
        (&many, &range),
        (&format!("{}/test", path(&webhook)), &json!({})),
    ] {
        let (status, error) = test.post(path, body).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::CONFLICT, &json!("WEBHOOK_DISABLED"))
        );
    }

    receiver.answer("/", Reply::Status(200));
    let enable = json!({ "enabled": true });
    let (_, enabled) = test
        .call(&test.app, Method::PATCH, &path(&webhook), Some(&enable))
        .await;
    assert_eq!(
        (&enabled["enabled"], enabled.get("disabledAt")),
        (&json!(true), None)
    );
    let later = json!({ "fromUnixSec": start + 60, "toUnixSec": start + 90 });
    let delivered = json!({ "fromUnixSec": 0, "toUnixSec": start + 90, "outcome": "delivered" });
    for none in [later, delivered] {
        let (_, resent) = test.post(&many, &none).await;
        assert_eq!(resent, json!({ "resent": 0, "nextCursor": null }));
    }
    let (_, resent) = test.post(&many, &range).await;
    assert_eq!(resent["resent"], 5, "{resent}");
    let all = settled(&test, &webhook).await;
    assert!(
        all.iter().all(|found| found["outcome"] == "delivered"),
        "{all:?}"
    );
    let ids: std::collections::BTreeSet<String> = receiver.take().iter().map(Request::id).collect();
    assert_eq!(ids.len(), 5);

    for (wrong, field) in [
        (json!({ "toUnixSec": 5 }), "fromUnixSec"),
        (json!({ "fromUnixSec": 5, "toUnixSec": 5 }), "toUnixSec"),
        (
            json!({ "fromUnixSec": 5, "toUnixSec": 6, "outcome": "pending" }),
            "outcome",
        ),
        (
            json!({ "fromUnixSec": 5, "toUnixSec": 6, "cursor": "x" }),
            "cursor",
        ),
    ] {
        let (_, error) = test.post(&many, &wrong).await;
        assert_eq!(error["errors"][0]["field"], field, "{wrong}");
    }
}

#[sqlx::test]
async fn more_than_one_call_sends_again_is_sent_with_the_cursor(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let webhook = webhook(
        &test,
        json!({ "url": "https://192.0.2.1/", "enabled": false }),
    )
    .await;
    let plant = "with event as (
            insert into events (id, app_id, kind, at, body)
            select substring($2::bytea for 6) || decode(lpad(to_hex(n), 12, '0'), 'hex'), $1, 'test', now(), '{}'
            from generate_series(1, 5001) n returning id
        )
        insert into webhook_deliveries (id, app_id, event_id, endpoint_id, attempt, created_at, outcome, holds_line)
        select id, $1, id, $2, 0, now(), 'skipped', false from event";
    let endpoint: plenum::id::EndpointId = webhook["_id"].as_str().unwrap().parse().unwrap();
    sqlx::query(plant)
        .bind(test.app.app.id)
        .bind(endpoint)
        .execute(&test.pool)
        .await
        .unwrap();
    // Far from due, so that nothing is attempted.
    let now = test.now().timestamp();
    let stop = "create function later() returns trigger language plpgsql as $$
                    begin new.due_at = new.due_at + interval '1 day'; return new; end $$;
                create trigger later before update on webhook_deliveries for each row execute function later()";
    sqlx::raw_sql(stop).execute(&test.pool).await.unwrap();
    let enable = json!({ "enabled": true });
    test.call(&test.app, Method::PATCH, &path(&webhook), Some(&enable))
        .await;
    let resend = format!("{}/resend", path(&webhook));
    let mut range = json!({ "fromUnixSec": now - 5, "toUnixSec": now + 5 });
    let (_, first) = test.post(&resend, &range).await;
    assert_eq!(first["resent"], 5000);
    range["cursor"] = first["nextCursor"].clone();
    let (_, rest) = test.post(&resend, &range).await;
    assert_eq!(rest, json!({ "resent": 1, "nextCursor": null }));
}

#[sqlx::test]
async fn the_url_of_a_room_is_read_and_enabled_like_a_webhook_and_changed_in_the_room(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Status(410));
    let room = test
        .room(json!({ "roomName": "one", "meetingStartedWebhook": receiver.url("/") }))
        .await;
    drop(test.join("one", "Ann").await);
    receiver.arrived(1).await;
    let (_, found) = test.get("/api/v1/webhooks?roomName=one").await;
    let [webhook] = found["data"].as_array().unwrap().as_slice() else {
        panic!("one URL: {found}");
    };
    let failed = settled(&test, webhook).await;
    assert_eq!((failed.len(), &failed[0]["outcome"]), (1, &json!("failed")));
    let (_, webhook) = test.get(&path(webhook)).await;
    let expected = json!({
        "_id": webhook["_id"], "url": receiver.url("/"), "enabled": false, "disabledAt": webhook["disabledAt"],
        "roomId": room["_id"], "roomName": "one", "created": webhook["created"],
    });
    assert_eq!(webhook, expected, "410 Gone disabled it");

    let url = json!({ "url": receiver.url("/other") });
    for (method, path, body) in [
        (Method::PATCH, path(&webhook), Some(&url)),
        (Method::DELETE, path(&webhook), None),
        (Method::POST, format!("{}/rotate", path(&webhook)), None),
    ] {
        let (status, error) = test.call(&test.app, method, &path, body).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::CONFLICT, &json!("WEBHOOK_OF_ROOM"))
        );
    }
    receiver.answer("/", Reply::Status(200));
    let enable = json!({ "enabled": true });
    let (status, _) = test
        .call(&test.app, Method::PATCH, &path(&webhook), Some(&enable))
        .await;
    assert_eq!(status, StatusCode::OK);
    let resend = format!("{}/resend", delivery_path(&webhook, &failed[0]));
    test.post(&resend, &json!({})).await;
    assert_eq!(settled(&test, &webhook).await[0]["outcome"], "delivered");
    let (status, error) = test.get("/api/v1/webhooks?roomName=nope").await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::NOT_FOUND, &json!("ROOM_NOT_FOUND"))
    );
}

#[sqlx::test]
async fn a_change_of_a_webhook_concerns_what_it_names_and_what_waits_goes_to_the_new_url(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/old", Reply::Status(500));
    let wanted = json!({ "url": receiver.url("/old"), "description": "The billing" });
    let webhook = webhook(&test, wanted).await;
    assert_eq!(webhook["events"], json!(["*"]));
    let (_, sent) = test
        .post(&format!("{}/test", path(&webhook)), &json!({}))
        .await;
    attempted(&test, &delivery_path(&webhook, &sent), 1).await;
    let change = json!({ "url": receiver.url("/new"), "events": ["knock"], "eventz": 1 });
    let (_, headers, changed) = test
        .send(Method::PATCH, &path(&webhook), &[], Some(&change))
        .await;
    let mut expected = webhook.clone();
    expected["url"] = json!(receiver.url("/new"));
    expected["events"] = json!(["knock"]);
    expected.as_object_mut().unwrap().remove("secret");
    assert_eq!(changed, expected);
    assert!(
        headers["plenum-warnings"]
            .to_str()
            .unwrap()
            .contains("did you mean events")
    );
    test.advance(TimeDelta::seconds(2));
    assert_eq!(settled(&test, &webhook).await[0]["outcome"], "delivered");
    let paths: Vec<String> = receiver.take().iter().map(Request::path).collect();
    assert_eq!(paths, ["/old", "/new"]);
    let clear = json!({ "description": null, "events": null });
    let (_, cleared) = test
        .call(&test.app, Method::PATCH, &path(&webhook), Some(&clear))
        .await;
    assert_eq!(
        (cleared.get("description"), &cleared["events"]),
        (None, &json!(["*"]))
    );
}

#[sqlx::test]
async fn a_deleted_webhook_gets_nothing_more_and_is_not_there(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Status(500));
    let webhook = webhook(&test, json!({ "url": receiver.url("/") })).await;
    let (_, sent) = test
        .post(&format!("{}/test", path(&webhook)), &json!({}))
        .await;
    let delivery = delivery_path(&webhook, &sent);
    attempted(&test, &delivery, 1).await;
    let (status, done) = test.delete(&path(&webhook)).await;
    let deleted = json!({ "success": true, "message": "Webhook successfully deleted" });
    assert_eq!((status, done), (StatusCode::OK, deleted));
    test.room(json!({ "roomName": "one" })).await;
    meet(&test, "one").await;
    let open = "select count(*) from webhook_deliveries where due_at is not null";
    let open: i64 = sqlx::query_scalar(open)
        .fetch_one(&test.pool)
        .await
        .unwrap();
    let secrets = "select count(*) from webhook_secrets";
    let secrets: i64 = sqlx::query_scalar(secrets)
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!((open, secrets, receiver.take().len()), (0, 0, 1));
    for path in [
        path(&webhook),
        format!("{}/deliveries", path(&webhook)),
        delivery,
    ] {
        let (status, error) = test.get(&path).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::NOT_FOUND, &json!("WEBHOOK_NOT_FOUND"))
        );
    }
    assert_eq!(test.get("/api/v1/webhooks").await.1, json!({ "data": [] }));
    assert_eq!(test.delete(&path(&webhook)).await.0, StatusCode::NOT_FOUND);
}

#[sqlx::test]
async fn webhooks_and_deliveries_are_invisible_to_other_apps(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    let webhook = webhook(&test, json!({ "url": receiver.url("/") })).await;
    let (_, sent) = test
        .post(&format!("{}/test", path(&webhook)), &json!({}))
        .await;
    attempted(&test, &delivery_path(&webhook, &sent), 1).await;
    let other = test.another_app("other").await;
    let (own, delivery) = (path(&webhook), delivery_path(&webhook, &sent));
    let range = json!({ "fromUnixSec": 1, "toUnixSec": 2_000_000_000_i64 });
    for (method, path, body) in [
        (Method::GET, own.clone(), None),
        (
            Method::PATCH,
            own.clone(),
            Some(&json!({ "enabled": false })),
        ),
        (Method::DELETE, own.clone(), None),
        (Method::POST, format!("{own}/rotate"), None),
        (Method::POST, format!("{own}/test"), None),
        (Method::POST, format!("{own}/resend"), Some(&range)),
        (Method::GET, format!("{own}/deliveries"), None),
        (Method::GET, delivery.clone(), None),
        (Method::POST, format!("{delivery}/resend"), None),
    ] {
        let (status, error) = test.call(&other, method, &path, body).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::NOT_FOUND, &json!("WEBHOOK_NOT_FOUND")),
            "{path}"
        );
    }
    let (_, all) = test
        .call(&other, Method::GET, "/api/v1/webhooks", None)
        .await;
    assert_eq!(all, json!({ "data": [] }));
    let (_, seen) = test.get(&own).await;
    assert_eq!(seen["enabled"], true);
}
