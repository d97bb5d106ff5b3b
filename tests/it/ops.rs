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
