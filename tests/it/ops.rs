//! What an operator sees to: proxies, limits, TLS, figures, and a database that goes away.

use serde_json::json;
use sqlx::PgPool;

use crate::{app::TestApp, http::Answer};

#[sqlx::test]
async fn a_trusted_proxy_says_which_host_was_asked_for(pool: PgPool) {
    let test = TestApp::with(pool, &["--trusted-proxies", "192.0.2.1,127.0.0.0/8"]).await;
    test.another_app("other").await;
    test.room(json!({ "roomName": "standup" })).await;
    for (header, status) in [
        ("X-Forwarded-Host: acme.localhost", 200),
        ("X-Forwarded-Host: other.localhost", 404),
        ("X-Forwarded-Host: acme.localhost:8443", 200),
        ("X-Forwarded-Host: [", 404),
        ("Forwarded: for=203.0.113.9;host=acme.localhost", 200),
        ("Forwarded: for=203.0.113.9;host=other.localhost", 404),
        ("X-Forwarded-For: 203.0.113.9", 404),
    ] {
        let request = format!("GET /standup HTTP/1.1\r\nHost: inside\r\n{header}\r\n\r\n");
        assert_eq!(Answer::to(&test, &request).await.status, status, "{header}");
    }
}

#[sqlx::test]
async fn trailing_and_doubled_slashes_change_nothing(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let ask = async |method: &str, path: &str, body: &str| {
        let (key, length) = (&test.app.key, body.len());
        let request = format!(
            "{method} {path}?secretKey={key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        Answer::to(&test, &request).await
    };
    let shapes = [
        "/api/v1/room",
        "/api/v1/room/",
        "//api/v1//room",
        "/api///v1/room///",
    ];
    for (index, path) in shapes.iter().enumerate() {
        let (name, deep) = (format!("room-{index}"), path.trim_end_matches('/'));
        let body = json!({ "roomName": name, "maxParticipants": 7 }).to_string();
        let made = ask("POST", path, &body).await;
        assert_eq!(made.status, 200, "{path}: {made:?}");
        assert!(made.body.contains(&name), "the body is read: {made:?}");
        for end in ["", "/", "//"] {
            let room = format!("{deep}//{name}{end}");
            let found = ask("GET", &room, "").await;
            assert_eq!(
                (found.status, found.body),
                (200, made.body.clone()),
                "{room}"
            );
            assert_eq!(ask("HEAD", &room, "").await.status, 200, "{room}");
            assert_eq!(ask("OPTIONS", &room, "").await.status, 204, "{room}");
        }
        let gone = ask("DELETE", &format!("{path}//{name}/"), "").await;
        assert_eq!(gone.status, 200, "{path}: {gone:?}");
    }
    for path in [
        "//health/",
        "/ready//",
        "/docs/index.html/",
        "//openapi.json",
    ] {
        assert_eq!(ask("GET", path, "").await.status, 200, "{path}");
    }
    assert_eq!(
        ask("GET", "//", "").await.status,
        ask("GET", "/", "").await.status
    );
}

#[sqlx::test]
async fn every_answer_is_kept_by_nobody_and_names_no_page_to_others(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let key = &test.app.key;
    let long = " ".repeat(1024 * 1024 + 1);
    let long = format!("Content-Length: {}\r\n\r\n{long}", long.len());
    let ask = async |line: &str, headers: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        Answer::to(&test, &request).await
    };
    let post = format!("POST /api/v1/room?secretKey={key}");
    let get = format!("GET /api/v1/room/standup?secretKey={key}");
    let mut answers = vec![
        (200, ask(&get, "").await),
        (200, ask("GET /standup", "").await),
        (200, ask("GET /health", "").await),
        (401, ask("GET /api/v1/room/standup", "").await),
        (404, ask("GET /nothing/here", "").await),
        (404, ask("GET /nobody", "").await),
        (404, ask("GET /assets/none.js", "").await),
        (405, ask("PUT /health", "").await),
        (204, ask("OPTIONS /health", "").await),
        (413, ask(&post, &long).await),
        (415, ask(&post, "Content-Encoding: gzip\r\n").await),
        (426, ask("GET /ws", "").await),
        (400, ask(&post, "Content-Length: 1\r\n\r\n{").await),
    ];
    test.db.close().await;
    answers.push((503, ask(&get, "").await));
    answers.push((503, ask("GET /standup", "").await));
    for (status, answer) in answers {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
        assert_eq!(
            answer.header("referrer-policy"),
            "no-referrer",
            "{answer:?}"
        );
        assert_eq!(
            answer.header("x-content-type-options"),
            "nosniff",
            "{answer:?}"
        );
        assert!(!answer.header("x-request-id").is_empty(), "{answer:?}");
    }
}
