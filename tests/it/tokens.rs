//! Tokens over REST, and joins with them.

use std::time::Duration;

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use chrono::TimeDelta;
use plenum::{
    id::{TokenId, TokenSecretId},
    sealed::{MasterKey, Place, Sealed, Secret},
    tokens::{self, Data, NewToken, TokenSecret},
};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::{Client, Tenant, TestApp, soon};

impl TestApp {
    /// A token of the app.
    pub async fn token(&self, wanted: Value) -> String {
        self.token_of(&self.app, wanted).await
    }

    pub async fn token_of(&self, app: &Tenant, wanted: Value) -> String {
        let (status, answer) = self
            .call(app, Method::POST, "/api/v1/token", Some(&wanted))
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    /// What `/token/validate` says on this host, asked without a key.
    async fn validate(&self, host: &str, token: &str) -> (StatusCode, Value) {
        let request = self
            .http
            .post(format!("http://{}/api/v1/token/validate", self.address))
            .header("Host", host)
            .json(&json!({ "token": token }));
        let answer = soon("a validation", request.send()).await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// The answer to a join with this token: one's own `participant-joined`, or an `error`.
    async fn try_token(&self, room: &str, token: &str) -> (Client, Value) {
        let mut client = self.socket().await;
        client
            .send_text(
                // Not every token here is one that the document allows.
                &json!({ "type": "join", "roomId": room, "name": "Nina", "token": token })
                    .to_string(),
            )
            .await;
        let frame = client.next().await.unwrap();
        client.id = frame["participantId"].as_str().unwrap().to_owned();
        (client, frame)
    }

    pub async fn join_with(&self, room: &str, token: &str) -> Client {
        let (client, frame) = self.try_token(room, token).await;
        assert_eq!(frame["type"], "participant-joined", "{frame}");
        client
    }

    async fn token_refusal(&self, room: &str, token: &str) -> String {
        let (_, frame) = self.try_token(room, token).await;
        frame["code"].as_str().unwrap().to_owned()
    }

    async fn rotate(&self, overlap: Duration) {
        let app = self.app.app.id;
        let mut tx = self.db.begin(app).await.unwrap();
        tokens::rotate(
            &mut tx,
            app,
            overlap,
            &self.master_key,
            self.now(),
            &mut rand::rng(),
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }

    /// The key that signs an app's tokens, as an attacker never has it.
    async fn signing_key(&self, app: &Tenant) -> Vec<u8> {
        let (id, sealed): (TokenSecretId, Vec<u8>) = sqlx::query_as(
            "select id, secret from token_secrets where app_id = $1 and retires_at is null",
        )
        .bind(app.app.id)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        let place = Place::new("token_secrets", "secret", id.as_bytes());
        let secret: TokenSecret = Sealed::from_stored(sealed)
            .open(&self.master_key, &place)
            .unwrap();
        secret.as_bytes().to_vec()
    }
}

/// Header and payload of a token.
fn parts(token: &str) -> (Value, Value) {
    let decode =
        |part: &str| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    (decode(parts[0]), decode(parts[1]))
}

fn encode(text: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

/// A token of whatever header and payload, signed with HMAC-SHA256 under `key`.
fn signed(key: &[u8], header: &str, payload: &str) -> String {
    signed_by(hmac::HMAC_SHA256, key, header, payload)
}

fn signed_by(algorithm: hmac::Algorithm, key: &[u8], header: &str, payload: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let tag = hmac::sign(&hmac::Key::new(algorithm, key), message.as_bytes());
    format!("{message}.{}", encode(tag))
}

#[sqlx::test]
async fn a_token_has_the_shape_of_metereds_and_says_what_was_sent(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let now = test.now().timestamp();
    let sent = json!({
        "roomName": "standup", "globalToken": false, "isAdmin": true, "name": "Ann", "email": "ann@example.com",
        "meta": "{\"plan\":\"pro\"}\n", "externalUserId": "42", "ejectAfterElapsedTimeInSec": 60, "ejectAtTokenExp": true,
        "joinVideoOn": true, "joinAudioOn": false, "disableVideo": false, "disableAudio": true,
        "disableScreenSharing": true,
    });
    let mut wanted = sent.clone();
    wanted["expireUnixSec"] = json!(now + 3600);
    wanted["notBeforeUnixSec"] = json!(now - 60);
    let token = test.token(wanted).await;
    let (header, payload) = parts(&token);
    assert_eq!(
        (
            &header["typ"],
            &header["alg"],
            header.as_object().unwrap().len()
        ),
        (&json!("JWT"), &json!("HS256"), 3)
    );
    header["kid"]
        .as_str()
        .unwrap()
        .parse::<TokenSecretId>()
        .unwrap();
    payload["jti"].as_str().unwrap().parse::<TokenId>().unwrap();
    let mut data = sent;
    data["appName"] = json!("acme");
    let expected = json!({
        "data": data, "iat": now, "exp": now + 3600, "nbf": now - 60, "jti": payload["jti"],
    });
    assert_eq!(payload, expected);
    assert_eq!(
        test.validate("acme.localhost", &token).await,
        (StatusCode::OK, expected)
    );

    // As the reference page prints it.
    let (_, payload) = parts(
        &test
            .token(json!({ "globalToken": true, "expireUnixSec": 0, "name": "" }))
            .await,
    );
    let expected = json!({
        "data": { "globalToken": true, "appName": "acme" }, "iat": now, "jti": payload["jti"],
    });
    assert_eq!(payload, expected);
}

#[sqlx::test]
async fn every_bad_field_of_a_token_is_named_at_once(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let now = test.now().timestamp();
    let wrong = json!({
        "roomName": "no spaces", "globalToken": "true", "isAdmin": 1, "name": "a\nb", "email": "e".repeat(257), "meta": {},
        "externalUserId": 42, "expireUnixSec": now, "notBeforeUnixSec": now.to_string(),
        "ejectAfterElapsedTimeInSec": -1, "ejectAtTokenExp": "yes", "joinVideoOn": "on", "joinAudioOn": 0,
        "disableVideo": [], "disableAudio": {}, "disableScreenSharing": 1.5,
    });
    let (status, error) = test.post("/api/v1/token", &wrong).await;
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
    let mut sent: Vec<&String> = wrong.as_object().unwrap().keys().collect();
    sent.sort_unstable();
    assert_eq!(named, sent, "{error}");

    for (wanted, field, right) in [
        (json!({}), "roomName", "unless globalToken"),
        (
            json!({ "globalToken": false }),
            "roomName",
            "unless globalToken",
        ),
        (json!({ "roomName": "" }), "roomName", "unless globalToken"),
        (
            json!({ "roomName": "a", "globalToken": true }),
            "globalToken",
            "together with roomName",
        ),
        (json!({ "roomName": "api" }), "roomName", "reserved"),
        (
            json!({ "roomName": "a", "expireUnixSec": now }),
            "expireUnixSec",
            "in the past",
        ),
        (
            json!({ "roomName": "a", "expireUnixSec": now * 1000 }),
            "expireUnixSec",
            "in seconds",
        ),
        (
            json!({ "roomName": "a", "expireUnixSec": now + 9, "notBeforeUnixSec": now + 9 }),
            "notBeforeUnixSec",
            "before expireUnixSec",
        ),
        (
            json!({ "roomName": "a", "ejectAtTokenExp": true }),
            "ejectAtTokenExp",
            "needs expireUnixSec",
        ),
        (
            json!({ "roomName": "a", "meta": "m".repeat(4097) }),
            "meta",
            "4096 bytes",
        ),
        (json!({ "roomName": "a", "meta": "\0" }), "meta", "NUL"),
        (
            json!({ "roomName": "a", "name": "n".repeat(101) }),
            "name",
            "100 characters",
        ),
    ] {
        let (status, error) = test.post("/api/v1/token", &wanted).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wanted}");
        assert_eq!(error["errors"].as_array().unwrap().len(), 1, "{error}");
        assert_eq!(error["errors"][0]["field"], field, "{error}");
        assert!(
            error["message"].as_str().unwrap().contains(right),
            "{error}"
        );
    }
    let long = json!({ "roomName": "a", "meta": "\"".repeat(4096) });
    let (status, error) = test.post("/api/v1/token", &long).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::BAD_REQUEST, &json!("INVALID_REQUEST"))
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("8192 characters"),
        "{error}"
    );
}

#[sqlx::test]
async fn a_misspelt_expiry_is_pointed_out(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let later = test.now().timestamp() + 60;
    let ask = async |body: Value| {
        let request = reqwest::Client::new()
            .post(format!("http://{}/api/v1/token/", test.address))
            .bearer_auth(&test.app.key)
            .json(&body);
        let answer = soon("a token", request.send()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let warnings = answer.headers().get("plenum-warnings").cloned();
        warnings.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(ask(json!({ "roomName": "a" })).await, None);
    for name in [
        "expirationDate",
        "exp",
        "expiresIn",
        "expire_unix_sec",
        "validUntil",
    ] {
        let warning = ask(json!({ "roomName": "a", name: later })).await.unwrap();
        assert!(
            warning.contains(&format!("{name} is not a known field"))
                && warning.contains("THIS TOKEN NEVER EXPIRES: its expiry is expireUnixSec"),
            "{warning}"
        );
        let warning = ask(json!({ "roomName": "a", "expireUnixSec": later, name: later }))
            .await
            .unwrap();
        assert!(!warning.contains("NEVER EXPIRES"), "{warning}");
    }
    let warning = ask(json!({ "roomName": "a", "colour": 1 })).await.unwrap();
    assert_eq!(warning, "\"colour is not a known field and was ignored\"");
}

#[sqlx::test]
async fn a_private_room_is_open_to_who_has_a_token_and_to_nobody_else(pool: PgPool) {
    let test = TestApp::new(pool).await;
    // A token may be older than its room.
    let token = test
        .token(json!({
            "roomName": "board", "isAdmin": true, "name": "Ann", "email": "ann@example.com", "meta": "m",
            "externalUserId": "42",
        }))
        .await;
    test.room(json!({ "roomName": "board", "privacy": "private" }))
        .await;
    assert_eq!(test.refusal("board").await, "TOKEN_REQUIRED");

    let (mut ann, frame) = test.try_token("board", &token).await;
    assert_eq!(
        json!([frame["type"], frame["name"], frame["isModerator"]]),
        json!(["participant-joined", "Ann", true]),
        "the token's name goes before the one entered"
    );
    let guest = test.token(json!({ "globalToken": true })).await;
    let (guest, frame) = test.try_token("board", &guest).await;
    assert_eq!(
        json!([frame["name"], frame["isModerator"]]),
        json!(["Nina", false])
    );
    let seen = ann.expect("participant-joined").await;
    assert_eq!(
        seen.as_object()
            .unwrap()
            .keys()
            .filter(|key| ["email", "meta", "externalUserId"].contains(&key.as_str()))
            .count(),
        0,
        "the others are not told who the app says one is"
    );
    guest.close(1000).await;
    ann.expect("participant-left").await;
    ann.close(1000).await;
    soon("both leaves", async {
        while test.events().await.len() < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let events = test.events().await;
    for (event, kind) in [(1, "participantJoined"), (4, "participantLeft")] {
        let told = &events[event];
        assert_eq!(
            json!([
                told["event"],
                told["name"],
                told["email"],
                told["meta"],
                told["externalUserId"],
                told["isAdmin"]
            ]),
            json!([kind, "Ann", "ann@example.com", "m", "42", true])
        );
    }
    assert_eq!(
        json!([events[2]["name"], events[2]["email"], events[2]["isAdmin"]]),
        json!(["Nina", null, false])
    );
    let (_, payload) = parts(&token);
    let stored: TokenId =
        sqlx::query_scalar("select token_id from participants where external_user_id = '42'")
            .fetch_one(&test.pool)
            .await
            .unwrap();
    assert_eq!(payload["jti"], stored.to_string());
}

#[sqlx::test]
async fn a_public_room_needs_no_token_and_takes_no_bad_one(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "open" })).await;
    test.join("open", "Ben").await;
    assert_eq!(test.token_refusal("open", "none").await, "TOKEN_INVALID");
    let token = test.token(json!({ "roomName": "open" })).await;
    test.join_with("open", &token).await;
}

#[sqlx::test]
async fn what_speaks_against_a_join_is_told_in_one_order(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let now = test.now().timestamp();
    for room in [
        json!({ "roomName": "over", "privacy": "private", "expireUnixSec": now }),
        json!({ "roomName": "full", "privacy": "private", "maxParticipants": 1 }),
    ] {
        test.room(room).await;
    }
    let token = test.token(json!({ "globalToken": true })).await;
    let _inside = test.join_with("full", &token).await;
    let later = test
        .token(json!({ "globalToken": true, "notBeforeUnixSec": now + 60 }))
        .await;
    for (room, token, code) in [
        ("nowhere", "bad", "ROOM_NOT_FOUND"),
        ("over", "bad", "ROOM_EXPIRED"),
        ("over", &token, "ROOM_EXPIRED"),
        ("full", "bad", "TOKEN_INVALID"),
        ("full", "", "TOKEN_INVALID"),
        ("full", &later, "TOKEN_NOT_YET_VALID"),
        ("full", &token, "ROOM_FULL"),
    ] {
        assert_eq!(test.token_refusal(room, token).await, code, "{room}");
    }
    assert_eq!(test.refusal("full").await, "TOKEN_REQUIRED");
}

#[sqlx::test]
async fn a_token_can_be_used_from_its_first_second_on_and_not_in_its_last(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "board", "privacy": "private" }))
        .await;
    let now = test.now().timestamp();
    let window =
        json!({ "roomName": "board", "notBeforeUnixSec": now + 10, "expireUnixSec": now + 20 });
    let token = test.token(window).await;
    let at = async |second: i64| {
        test.advance(TimeDelta::seconds(second - (test.now().timestamp() - now)));
        let (_, checked) = test.validate("acme.localhost", &token).await;
        let (client, frame) = test.try_token("board", &token).await;
        assert_eq!(checked["code"], frame["code"], "both say the same");
        (client, frame["code"].as_str().unwrap_or("in").to_owned())
    };
    assert_eq!(at(9).await.1, "TOKEN_NOT_YET_VALID");
    assert_eq!(at(10).await.1, "in");
    let (mut last, code) = at(19).await;
    assert_eq!(code, "in");
    assert_eq!(at(20).await.1, "TOKEN_EXPIRED");
    test.advance(TimeDelta::hours(1));
    assert!(last.is_in().await, "a token's expiry concerns joins alone");
}

#[sqlx::test]
async fn a_tokens_limits_go_before_the_rooms(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "timed", "ejectAfterElapsedTimeInSec": 60 }))
        .await;
    let now = test.now().timestamp();
    let join = async |limits: Value| {
        let mut wanted = json!({ "roomName": "timed" });
        wanted
            .as_object_mut()
            .unwrap()
            .extend(limits.as_object().unwrap().clone());
        let token = test.token(wanted).await;
        test.join_with("timed", &token).await
    };
    let mut short = join(json!({ "ejectAfterElapsedTimeInSec": 30 })).await;
    let mut expiring = join(json!({ "expireUnixSec": now + 40, "ejectAtTokenExp": true })).await;
    let mut as_the_room =
        join(json!({ "expireUnixSec": now + 50, "ejectAfterElapsedTimeInSec": 0 })).await;
    let mut long = join(json!({ "ejectAfterElapsedTimeInSec": 90 })).await;
    let mut passed = 0;
    for (client, second, reason) in [
        (&mut short, 30, "timeLimit"),
        (&mut expiring, 40, "tokenExpired"),
        (&mut as_the_room, 60, "timeLimit"),
        (&mut long, 90, "timeLimit"),
    ] {
        test.advance(TimeDelta::milliseconds((second - passed) * 1000 - 1));
        let text = format!("still here after {second} s");
        client.send(json!({ "type": "chat", "text": text })).await;
        while client.until("chat").await["text"] != text {}
        test.advance(TimeDelta::milliseconds(1));
        passed = second;
        assert_eq!(client.until("ended").await["reason"], reason, "{second}");
    }
}

#[sqlx::test]
async fn what_a_token_gave_outlives_a_restart(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "board", "privacy": "private" }))
        .await;
    let expires = test.now().timestamp() + 20;
    let token = test
        .token(json!({
            "roomName": "board", "isAdmin": true, "externalUserId": "42", "expireUnixSec": expires, "ejectAtTokenExp": true,
        }))
        .await;
    let mut ann = test.socket().await;
    ann.send(json!({ "type": "join", "roomId": "board", "name": "Ann", "token": token, "resumable": true }))
        .await;
    let own = ann.expect("participant-joined").await;
    ann.resume_token = own["resumeToken"].as_str().map(str::to_owned);
    test.stop_node().await;
    test.start_node();
    let mut ann = test.resume("board", &ann).await;
    test.advance(TimeDelta::seconds(20));
    assert_eq!(ann.ended().await, "tokenExpired");
    let events = test.events_until("participantLeft").await;
    let left = &test.events().await[events.len() - 1];
    assert_eq!(
        json!([left["externalUserId"], left["isAdmin"], left["leaveReason"]]),
        json!(["42", true, "tokenExpired"])
    );
}

#[sqlx::test]
async fn another_apps_token_opens_nothing_even_in_a_room_of_the_same_name(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    let private = json!({ "roomName": "board", "privacy": "private" });
    test.room(private.clone()).await;
    test.call(&other, Method::POST, "/api/v1/room", Some(&private))
        .await;
    for wanted in [
        json!({ "roomName": "board", "isAdmin": true }),
        json!({ "globalToken": true }),
    ] {
        let theirs = test.token_of(&other, wanted).await;
        assert_eq!(test.token_refusal("board", &theirs).await, "TOKEN_INVALID");

        let (status, mut foreign) = test.validate("acme.localhost", &theirs).await;
        let (_, mut bad) = test.validate("acme.localhost", "bad").await;
        assert_eq!(
            (status, &foreign["code"]),
            (StatusCode::BAD_REQUEST, &json!("TOKEN_INVALID"))
        );
        for error in [&mut foreign, &mut bad] {
            error["requestId"] = Value::Null;
        }
        assert_eq!(foreign, bad, "a foreign token is as good as none");
        for shared in ["other.localhost", "localhost", "127.0.0.1:8080"] {
            let (status, claims) = test.validate(shared, &theirs).await;
            assert_eq!(
                (status, &claims["data"]["appName"]),
                (StatusCode::OK, &json!("other")),
                "{shared}"
            );
        }
    }
    let (status, _) = test.validate("nobody.localhost", "bad").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[sqlx::test]
async fn an_app_from_before_gets_its_secret_with_its_first_token(pool: PgPool) {
    let test = TestApp::new(pool).await;
    sqlx::query("delete from token_secrets")
        .execute(&test.pool)
        .await
        .unwrap();
    let issued = (0..8).map(|_| test.token(json!({ "globalToken": true })));
    for token in futures_util::future::join_all(issued).await {
        assert_eq!(
            test.validate("acme.localhost", &token).await.0,
            StatusCode::OK
        );
    }
}

#[sqlx::test]
async fn a_rotated_secret_opens_rooms_during_the_overlap_and_not_after(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "board", "privacy": "private" }))
        .await;
    let code = async |token: &str| {
        let (_, checked) = test.validate("acme.localhost", token).await;
        let (_, frame) = test.try_token("board", token).await;
        assert_eq!(checked["code"], frame["code"], "both say the same");
        frame["code"].as_str().unwrap_or("in").to_owned()
    };
    let wanted = json!({ "roomName": "board" });
    let first = test.token(wanted.clone()).await;
    test.rotate(Duration::from_secs(60)).await;
    let second = test.token(wanted.clone()).await;
    assert_ne!(parts(&first).0["kid"], parts(&second).0["kid"]);
    test.advance(TimeDelta::seconds(59));
    assert_eq!([code(&first).await, code(&second).await], ["in", "in"]);
    test.advance(TimeDelta::seconds(1));
    assert_eq!(
        [code(&first).await, code(&second).await],
        ["TOKEN_INVALID", "in"]
    );

    // A leak: nothing of before opens anything, what an overlap had left over included.
    test.rotate(Duration::from_secs(3600)).await;
    let third = test.token(wanted.clone()).await;
    test.rotate(Duration::ZERO).await;
    for old in [&second, &third] {
        assert_eq!(code(old).await, "TOKEN_INVALID");
    }
    assert_eq!(code(&test.token(wanted).await).await, "in");
    let kept: i64 = sqlx::query_scalar("select count(*) from token_secrets")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(kept, 1, "secrets that open nothing are not kept");
}

/// A bad token: what is wrong with it, the token, the code that refuses it.
type Bad = (&'static str, String, &'static str);

/// Tokens that no attacker could make, since they are signed with the right secret: each is refused for what it says alone.
fn well_signed(key: &[u8], kid: &str, claims: &Value, now: i64) -> Vec<Bad> {
    let header = format!(r#"{{"typ":"JWT","alg":"HS256","kid":"{kid}"}}"#);
    let payload = claims.to_string();
    assert_eq!(signed(key, &header, &payload).split('.').count(), 3);
    let mut bad = Vec::new();
    for (name, header) in [
        ("alg none", r#"{"typ":"JWT","alg":"none","kid":"KID"}"#),
        (
            "alg in lower case",
            r#"{"typ":"JWT","alg":"hs256","kid":"KID"}"#,
        ),
        (
            "alg with a space",
            r#"{"typ":"JWT","alg":"HS256 ","kid":"KID"}"#,
        ),
        (
            "alg with a look-alike",
            r#"{"typ":"JWT","alg":"НS256","kid":"KID"}"#,
        ),
        ("alg null", r#"{"typ":"JWT","alg":null,"kid":"KID"}"#),
        ("alg a list", r#"{"typ":"JWT","alg":["HS256"],"kid":"KID"}"#),
        (
            "alg an object",
            r#"{"typ":"JWT","alg":{"HS256":null},"kid":"KID"}"#,
        ),
        ("alg a number", r#"{"typ":"JWT","alg":256,"kid":"KID"}"#),
        ("alg missing", r#"{"typ":"JWT","kid":"KID"}"#),
        (
            "alg twice, none first",
            r#"{"typ":"JWT","alg":"none","alg":"HS256","kid":"KID"}"#,
        ),
        (
            "alg twice, none last",
            r#"{"typ":"JWT","alg":"HS256","alg":"none","kid":"KID"}"#,
        ),
        (
            "alg HS384 over an HS256 signature",
            r#"{"typ":"JWT","alg":"HS384","kid":"KID"}"#,
        ),
        (
            "alg HS512 over an HS256 signature",
            r#"{"typ":"JWT","alg":"HS512","kid":"KID"}"#,
        ),
        (
            "alg RS256 over an HS256 signature",
            r#"{"typ":"JWT","alg":"RS256","kid":"KID"}"#,
        ),
        (
            "alg PS256 over an HS256 signature",
            r#"{"typ":"JWT","alg":"PS256","kid":"KID"}"#,
        ),
        (
            "alg ES256 over an HS256 signature",
            r#"{"typ":"JWT","alg":"ES256","kid":"KID"}"#,
        ),
        (
            "alg EdDSA over an HS256 signature",
            r#"{"typ":"JWT","alg":"EdDSA","kid":"KID"}"#,
        ),
        ("kid missing", r#"{"typ":"JWT","alg":"HS256"}"#),
        ("kid null", r#"{"typ":"JWT","alg":"HS256","kid":null}"#),
        ("kid empty", r#"{"typ":"JWT","alg":"HS256","kid":""}"#),
        ("kid a number", r#"{"typ":"JWT","alg":"HS256","kid":1}"#),
        ("kid a list", r#"{"typ":"JWT","alg":"HS256","kid":["KID"]}"#),
        (
            "kid with more behind",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID00"}"#,
        ),
        (
            "kid with a space",
            r#"{"typ":"JWT","alg":"HS256","kid":" KID"}"#,
        ),
        (
            "kid with a NUL",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID\u0000"}"#,
        ),
        (
            "kid twice",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","kid":"KID"}"#,
        ),
        (
            "kid a path",
            r#"{"typ":"JWT","alg":"HS256","kid":"../../../../../../dev/null"}"#,
        ),
        (
            "kid SQL",
            r#"{"typ":"JWT","alg":"HS256","kid":"' union select '\\x00' --"}"#,
        ),
        (
            "kid a command",
            r#"{"typ":"JWT","alg":"HS256","kid":"|/bin/true"}"#,
        ),
        (
            "kid unknown",
            r#"{"typ":"JWT","alg":"HS256","kid":"000000000000000000000000"}"#,
        ),
        ("typ missing", r#"{"alg":"HS256","kid":"KID"}"#),
        ("typ null", r#"{"typ":null,"alg":"HS256","kid":"KID"}"#),
        (
            "typ in lower case",
            r#"{"typ":"jwt","alg":"HS256","kid":"KID"}"#,
        ),
        (
            "typ of another kind of token",
            r#"{"typ":"at+jwt","alg":"HS256","kid":"KID"}"#,
        ),
        ("typ nonsense", r#"{"typ":"💣","alg":"HS256","kid":"KID"}"#),
        (
            "jku",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","jku":"https://example.com/jwks.json"}"#,
        ),
        (
            "jwk",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","jwk":{"kty":"oct","k":"AA"}}"#,
        ),
        (
            "x5u",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","x5u":"https://example.com/x.pem"}"#,
        ),
        (
            "x5c",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","x5c":["MIIB"]}"#,
        ),
        (
            "x5t",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","x5t":"AAAA"}"#,
        ),
        (
            "crit",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","crit":["exp"],"exp":1}"#,
        ),
        (
            "crit of nothing",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","crit":[]}"#,
        ),
        (
            "b64 false",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","b64":false,"crit":["b64"]}"#,
        ),
        (
            "zip",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","zip":"DEF"}"#,
        ),
        (
            "cty of a nested token",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","cty":"JWT"}"#,
        ),
        (
            "enc of an encrypted token",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","enc":"A256GCM"}"#,
        ),
        (
            "an unknown header field",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID","verified":true}"#,
        ),
        ("a header that is a list", r#"["JWT","HS256","KID"]"#),
        ("a header that is text", r#""HS256""#),
        ("an empty header", "{}"),
        ("a header that is nothing", ""),
        ("a header that is no JSON", "HS256"),
        (
            "more behind the header",
            r#"{"typ":"JWT","alg":"HS256","kid":"KID"}{}"#,
        ),
        (
            "a byte order mark",
            "\u{feff}{\"typ\":\"JWT\",\"alg\":\"HS256\",\"kid\":\"KID\"}",
        ),
    ] {
        bad.push((
            name,
            signed(key, &header.replace("KID", kid), &payload),
            "TOKEN_INVALID",
        ));
    }
    let mut say = |name, payload: &str, code| bad.push((name, signed(key, &header, payload), code));
    let with = |pointer: &str, value: Value| {
        let mut changed = claims.clone();
        match pointer.rsplit_once('/').unwrap() {
            ("", field) => changed[field] = value,
            (parent, field) => changed.pointer_mut(parent).unwrap()[field] = value,
        }
        changed.to_string()
    };
    let without = |field: &str| {
        let mut changed = claims.clone();
        changed.as_object_mut().unwrap().remove(field);
        changed.to_string()
    };
    for (name, at, code) in [
        ("expired for 1 s", now - 1, "TOKEN_EXPIRED"),
        ("expired this second", now, "TOKEN_EXPIRED"),
        ("expired long ago", 1, "TOKEN_EXPIRED"),
        ("exp negative", -1, "TOKEN_INVALID"),
        (
            "exp in milliseconds",
            1_900_000_100_000_000,
            "TOKEN_INVALID",
        ),
    ] {
        say(name, &with("/exp", json!(at)), code);
    }
    say(
        "nbf in 1 s",
        &with("/nbf", json!(now + 1)),
        "TOKEN_NOT_YET_VALID",
    );
    for (name, payload) in [
        ("exp as text", with("/exp", json!((now + 60).to_string()))),
        ("exp with a fraction", with("/exp", json!(1_900_000_060.5))),
        ("exp null", with("/exp", Value::Null)),
        ("exp true", with("/exp", json!(true))),
        ("exp a list", with("/exp", json!([now + 60]))),
        ("exp beyond 64 bits", with("/exp", json!(u64::MAX))),
        (
            "exp with an exponent",
            payload.replacen('{', r#"{"exp":1e300,"#, 1),
        ),
        (
            "exp twice",
            payload.replacen('{', &format!(r#"{{"exp":{0},"exp":{0},"#, now + 60), 1),
        ),
        ("nbf as text", with("/nbf", json!("0"))),
        ("nbf null", with("/nbf", Value::Null)),
        ("iat missing", without("iat")),
        ("iat as text", with("/iat", json!("now"))),
        ("iat negative", with("/iat", json!(-1))),
        ("jti missing", without("jti")),
        ("jti malformed", with("/jti", json!("1"))),
        ("data missing", without("data")),
        ("data null", with("/data", Value::Null)),
        (
            "data as text",
            with("/data", json!(claims["data"].to_string())),
        ),
        (
            "data twice",
            payload.replacen('{', r#"{"data":{"globalToken":true,"appName":"acme"},"#, 1),
        ),
        (
            "the claims outside of data",
            json!({ "roomName": "board", "iat": now, "jti": claims["jti"] }).to_string(),
        ),
        ("no room", with("/data/roomName", Value::Null)),
        ("rooms in a list", with("/data/roomName", json!(["board"]))),
        (
            "a room twice",
            payload.replacen(r#""roomName""#, r#""roomName":"x","roomName""#, 1),
        ),
        (
            "globalToken as text",
            with("/data/globalToken", json!("true")),
        ),
        ("globalToken a number", with("/data/globalToken", json!(1))),
        ("isAdmin as text", with("/data/isAdmin", json!("true"))),
        (
            "a negative limit",
            with("/data/ejectAfterElapsedTimeInSec", json!(-1)),
        ),
        (
            "a limit as text",
            with("/data/ejectAfterElapsedTimeInSec", json!("60")),
        ),
        ("no app", with("/data/appName", Value::Null)),
        ("a payload that is a list", json!([claims]).to_string()),
        ("a payload that is null", "null".to_owned()),
        ("a payload that is nothing", String::new()),
        ("a payload that is no JSON", "roomName=board".to_owned()),
        ("a payload in UTF-16", "{\0\"\0}\0".to_owned()),
        ("more behind the payload", format!("{payload}{{}}")),
        ("a nested token", signed(key, &header, &payload)),
        (
            "more than 8 KiB",
            with("/data/meta", json!("m".repeat(8000))),
        ),
    ] {
        say(name, &payload, "TOKEN_INVALID");
    }
    bad
}

/// Tokens as an attacker makes them of one that they have, without the secret.
fn forged(good: &str, other: &str, foreign: &str, guesses: &[(&'static str, Vec<u8>)]) -> Vec<Bad> {
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("a token has three parts");
    };
    let [other_header, other_payload, other_signature] = other.split('.').collect::<Vec<_>>()[..]
    else {
        panic!("a token has three parts");
    };
    let (named, claims) = parts(good);
    let kid = named["kid"].as_str().unwrap();
    let mut admin = claims.clone();
    admin["data"]["isAdmin"] = json!(true);
    let admin = admin.to_string();
    let with_alg = |alg: &str| format!(r#"{{"typ":"JWT","alg":"{alg}","kid":"{kid}"}}"#);
    let mut bad: Vec<Bad> = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let head = encode(with_alg(alg));
        bad.push((
            "alg none, no signature",
            format!("{head}.{}.", encode(&admin)),
            "TOKEN_INVALID",
        ));
        bad.push((
            "alg none, no third part",
            format!("{head}.{}", encode(&admin)),
            "TOKEN_INVALID",
        ));
        bad.push((
            "alg none, the old signature",
            format!("{head}.{payload}.{signature}"),
            "TOKEN_INVALID",
        ));
    }
    for (name, key) in guesses {
        bad.push((
            name,
            signed(key, &with_alg("HS256"), &admin),
            "TOKEN_INVALID",
        ));
        bad.push((
            name,
            signed_by(hmac::HMAC_SHA384, key, &with_alg("HS384"), &admin),
            "TOKEN_INVALID",
        ));
        bad.push((
            name,
            signed_by(hmac::HMAC_SHA512, key, &with_alg("HS512"), &admin),
            "TOKEN_INVALID",
        ));
    }
    let own_key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let public = own_key.public_key().as_ref();
    let (x, y) = public[1..].split_at(32);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) });
    let embedded = json!({ "typ": "JWT", "alg": "ES256", "kid": kid, "jwk": jwk }).to_string();
    for (name, head) in [
        ("their own ES256 key", with_alg("ES256")),
        ("their own ES256 key in jwk", embedded),
    ] {
        let message = format!("{}.{}", encode(head), encode(&admin));
        let signature = own_key
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        bad.push((
            name,
            format!("{message}.{}", encode(signature)),
            "TOKEN_INVALID",
        ));
    }
    let oct = json!({ "typ": "JWT", "alg": "HS256", "kid": kid, "jwk": { "kty": "oct", "k": encode("k") } }).to_string();
    bad.push((
        "their own key in jwk",
        signed(b"k", &oct, &admin),
        "TOKEN_INVALID",
    ));
    bad.push((
        "a public key as the HMAC secret",
        signed(public, &with_alg("HS256"), &admin),
        "TOKEN_INVALID",
    ));

    let last = |part: &str| {
        // The last character of 32 bytes and of many payloads has bits that count for nothing: another one with the same
        // bits that count is not canonical (RFC 4648, section 3.5).
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (rest, end) = part.split_at(part.len() - 1);
        let index = ALPHABET
            .iter()
            .position(|char| *char == end.as_bytes()[0])
            .unwrap();
        format!("{rest}{}", char::from(ALPHABET[index ^ 1]))
    };
    let standard = BASE64_STANDARD_NO_PAD.encode(BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap());
    let reversed: String = signature.chars().rev().collect();
    let json_form =
        json!({ "protected": header, "payload": payload, "signature": signature }).to_string();
    for (name, token) in [
        ("nothing", String::new()),
        ("a space", " ".to_owned()),
        ("a word", "token".to_owned()),
        ("null as text", "null".to_owned()),
        ("undefined as text", "undefined".to_owned()),
        ("one dot", ".".to_owned()),
        ("two dots", "..".to_owned()),
        ("three dots", "...".to_owned()),
        (
            "the payload changed",
            format!("{header}.{}.{signature}", encode(&admin)),
        ),
        (
            "the payload of another",
            format!("{header}.{other_payload}.{signature}"),
        ),
        (
            "the signature of another",
            format!("{header}.{payload}.{other_signature}"),
        ),
        (
            "the parts in another order",
            format!("{payload}.{header}.{signature}"),
        ),
        ("the signature taken off", format!("{header}.{payload}.")),
        (
            "the signature and its dot taken off",
            format!("{header}.{payload}"),
        ),
        ("the header alone", header.to_owned()),
        ("no header", format!(".{payload}.{signature}")),
        ("no payload", format!("{header}..{signature}")),
        ("the last character cut", good[..good.len() - 1].to_owned()),
        ("half of it", good[..good.len() / 2].to_owned()),
        ("the first character cut", good[1..].to_owned()),
        (
            "the signature backwards",
            format!("{header}.{payload}.{reversed}"),
        ),
        (
            "a signature of zeros",
            format!("{header}.{payload}.{}", encode([0; 32])),
        ),
        (
            "a signature of one byte",
            format!("{header}.{payload}.{}", encode([0])),
        ),
        ("a longer signature", format!("{good}AAAA")),
        (
            "the signature twice",
            format!("{header}.{payload}.{signature}{signature}"),
        ),
        ("a fourth part", format!("{good}.{signature}")),
        (
            "five parts, as encrypted tokens have",
            format!("{header}.{payload}.{signature}.{payload}.{signature}"),
        ),
        ("a dot before", format!(".{good}")),
        ("a dot behind", format!("{good}.")),
        ("a dot doubled", good.replacen('.', "..", 1)),
        ("two of them", format!("{good}{good}")),
        (
            "two of them, with a dot",
            format!("{good}.{other_header}.{other_payload}.{other_signature}"),
        ),
        ("two of them, with a comma", format!("{good},{other}")),
        (
            "padding behind the header",
            format!("{header}=.{payload}.{signature}"),
        ),
        (
            "padding behind the payload",
            format!("{header}.{payload}=.{signature}"),
        ),
        ("padding behind the signature", format!("{good}=")),
        (
            "the signature in the other alphabet",
            format!("{header}.{payload}.{}+", &standard[..standard.len() - 1]),
        ),
        (
            "a signature that is not canonical",
            format!("{header}.{payload}.{}", last(signature)),
        ),
        (
            "a payload that is not canonical",
            format!("{header}.{}.{signature}", last(payload)),
        ),
        (
            "a header that is not canonical",
            format!("{}.{payload}.{signature}", last(header)),
        ),
        ("a space before", format!(" {good}")),
        ("a space behind", format!("{good} ")),
        ("a line break behind", format!("{good}\n")),
        ("a line break inside", good.replacen('.', ".\r\n", 1)),
        ("a tab inside", good.replacen('.', "\t.", 1)),
        ("a NUL behind", format!("{good}\0")),
        ("a zero-width space", good.replacen('.', "\u{200b}.", 1)),
        ("full-width dots", good.replace('.', "．")),
        ("dots in percent encoding", good.replace('.', "%2E")),
        ("the scheme before it", format!("Bearer {good}")),
        ("quotes around it", format!("\"{good}\"")),
        ("all in capitals", good.to_ascii_uppercase()),
        ("the JSON serialization", json_form),
        ("of another app", foreign.to_owned()),
        (
            "8193 characters",
            format!("{good}{}", "A".repeat(8193 - good.len())),
        ),
        ("100,000 characters", "A".repeat(100_000)),
        ("100,000 dots", ".".repeat(100_000)),
        ("emoji", "🔑".repeat(100)),
    ] {
        bad.push((name, token, "TOKEN_INVALID"));
    }
    bad
}

#[sqlx::test]
async fn bad_tokens_are_refused_by_the_check_and_by_the_join_all_alike(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other_app = test.another_app("other").await;
    test.room(json!({ "roomName": "board", "privacy": "private" }))
        .await;
    let good = test
        .token(json!({ "roomName": "board", "name": "Zoë" }))
        .await;
    let other = test
        .token(json!({ "roomName": "lobby", "isAdmin": true }))
        .await;
    let foreign = test
        .token_of(&other_app, json!({ "roomName": "board" }))
        .await;
    let (key, their_key) = (
        test.signing_key(&test.app).await,
        test.signing_key(&other_app).await,
    );
    let (header, claims) = parts(&good);
    let kid = header["kid"].as_str().unwrap();
    let their_kid = parts(&foreign).0["kid"].as_str().unwrap().to_owned();
    let guesses = [
        ("an empty secret", Vec::new()),
        ("a secret of zeros", vec![0; 32]),
        ("a common secret", b"secret".to_vec()),
        ("the app's name as secret", b"acme".to_vec()),
        (
            "the app's id as secret",
            test.app.app.id.as_bytes().to_vec(),
        ),
        ("the kid as secret", kid.as_bytes().to_vec()),
        (
            "the app's secret key as secret",
            test.app.key.clone().into_bytes(),
        ),
        (
            "the webhook secret as secret",
            test.app
                .webhook_secret
                .reveal()
                .expose_secret()
                .as_bytes()
                .to_vec(),
        ),
        ("another app's secret under our kid", their_key.clone()),
    ];
    let mut bad = well_signed(&key, kid, &claims, test.now().timestamp());
    bad.extend(forged(&good, &other, &foreign, &guesses));
    let their_header = format!(r#"{{"typ":"JWT","alg":"HS256","kid":"{their_kid}"}}"#);
    bad.push((
        "our claims under another app's kid and secret",
        signed(&their_key, &their_header, &claims.to_string()),
        "TOKEN_INVALID",
    ));
    bad.push((
        "our secret under another app's kid",
        signed(&key, &their_header, &claims.to_string()),
        "TOKEN_INVALID",
    ));
    for token in [&good, &other] {
        assert_eq!(
            test.validate("acme.localhost", token).await.0,
            StatusCode::OK
        );
    }
    assert!(bad.len() >= 150, "{}", bad.len());

    for (name, token, code) in &bad {
        let (status, error) = test.validate("acme.localhost", token).await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::BAD_REQUEST, &json!(code)),
            "{name}: {error}"
        );
        if *code == "TOKEN_INVALID" {
            assert_eq!(
                error["message"], "Invalid request: this token is not valid",
                "{name}"
            );
        }
        let (mut client, frame) = test.try_token("board", token).await;
        assert_eq!(
            (&frame["type"], &frame["code"]),
            (&json!("error"), &json!(code)),
            "{name}: {frame}"
        );
        assert!(
            token.len() < 8 || !format!("{error}{frame}").contains(token.as_str()),
            "{name}"
        );
        client.send(json!({ "type": "leave" })).await;
    }
    // Good tokens, for other doors.
    for room in ["lobby", "Board", "BOARD", "boar", "boards"] {
        let token = test.token(json!({ "roomName": room })).await;
        assert_eq!(
            test.validate("acme.localhost", &token).await.0,
            StatusCode::OK
        );
        assert_eq!(
            test.token_refusal("board", &token).await,
            "TOKEN_INVALID",
            "{room}"
        );
    }
    for room in [
        "", "*", "board ", " board", "board\0", "board\n", "board/", "board%00", "%62oard",
        "bоard", ".",
    ] {
        let mut elsewhere = claims.clone();
        elsewhere["data"]["roomName"] = json!(room);
        let token = signed(&key, &header.to_string(), &elsewhere.to_string());
        assert_eq!(
            test.token_refusal("board", &token).await,
            "TOKEN_INVALID",
            "{room:?}"
        );
    }
    let _inside = test.join_with("board", &good).await;
    assert_eq!(
        test.events_until("participantJoined").await,
        ["meetingStarted", "participantJoined"]
    );
}

#[sqlx::test]
async fn a_token_is_made_with_a_secret_key_and_checked_without(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let post = async |path: &str, body: &str| {
        let request = reqwest::Client::new()
            .post(format!("http://{}{path}", test.address))
            .body(body.to_owned());
        let answer = soon(path, request.send()).await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let (status, error) = post("/api/v1/token", r#"{"globalToken":true}"#).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::UNAUTHORIZED, &json!("UNAUTHORIZED"))
    );
    let path = format!("/api/v1/token?secretKey={}", test.app.key);
    let (status, answer) = post(&path, r#"{"globalToken":true}"#).await;
    assert_eq!(status, StatusCode::OK);
    let token = answer["token"].as_str().unwrap();
    let (status, claims) = post(
        "//api/v1/token/validate/",
        &json!({ "token": token }).to_string(),
    )
    .await;
    assert_eq!(
        (status, &claims["data"]["globalToken"]),
        (StatusCode::OK, &json!(true))
    );
    for body in ["", "{}", r#"{"token":null}"#, r#"{"token":{"a":1}}"#] {
        let (status, error) = post("/api/v1/token/validate", body).await;
        assert_eq!(
            (status, &error["code"], &error["errors"][0]["field"]),
            (
                StatusCode::BAD_REQUEST,
                &json!("INVALID_REQUEST"),
                &json!("token")
            ),
            "{body}"
        );
    }
}

#[sqlx::test]
async fn a_token_that_could_open_nothing_is_made_by_nobody(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let key = MasterKey::parse(&MasterKey::text([1; 32])).unwrap();
    let mut tx = test.db.begin(test.app.app.id).await.unwrap();
    let new = NewToken {
        data: Data {
            eject_at_token_exp: Some(true),
            ..Data::default()
        },
        not_before: None,
        expires_at: None,
    };
    let (app, now) = (test.app.app.id, test.now());
    let refused = tokens::issue(&mut tx, app, new, &key, now, &mut rand::rng()).await;
    let Err(tokens::Error::Contradictions(found)) = refused else {
        panic!("{refused:?}");
    };
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["roomName", "ejectAtTokenExp"]);
}
