//! HTTP itself: hosts, methods, encodings, connections, and the one shape of every refusal.

use std::collections::HashMap;

use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::app::{TestApp, soon};

/// An answer as it came over the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// By lower-case name.
    headers: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    /// The answer to `request`, a head whose `Host` the caller gives, on a connection of its own.
    pub async fn to(test: &TestApp, request: &str) -> Self {
        Self::at(&test.address, request.as_bytes()).await
    }

    /// The answer of the server at `address`.
    pub async fn at(address: &str, request: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let what = String::from_utf8_lossy(request);
        soon(&what, Self::read(&mut stream, what.starts_with("HEAD"))).await
    }

    pub async fn on(stream: &mut TcpStream, request: &str) -> Self {
        stream.write_all(request.as_bytes()).await.unwrap();
        soon(request, Self::read(stream, request.starts_with("HEAD"))).await
    }

    async fn read(stream: &mut TcpStream, without_body: bool) -> Self {
        let mut bytes = Vec::new();
        let head = loop {
            let ends = |window: &[u8]| window == b"\r\n\r\n";
            if let Some(end) = bytes.windows(4).position(ends) {
                break end;
            }
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "no answer");
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let mut lines = text.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut body = bytes.split_off(head + 4);
        let length = headers.get("content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        while !without_body && body.len() < length {
            assert_ne!(stream.read_buf(&mut body).await.unwrap(), 0, "cut short");
        }
        Self {
            status: status.parse().unwrap(),
            headers,
            body: String::from_utf8(body).unwrap(),
        }
    }

    /// Its headers, by lower-case name.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names of its headers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.headers.keys().map(String::as_str)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The code of an error that has our shape.
    pub fn code(&self) -> String {
        let error: Value = serde_json::from_str(&self.body)
            .unwrap_or_else(|_| panic!("{} is no error of ours: {:?}", self.status, self.body));
        assert_eq!(error["success"], false, "{error}");
        assert_eq!(error["requestId"], self.header("x-request-id"), "{error}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
        error["code"].as_str().unwrap().to_owned()
    }
}

/// What asks for a WebSocket at this host.
fn upgrade(host: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

#[sqlx::test]
async fn an_app_is_found_by_the_host_of_the_request(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    test.room(json!({ "roomName": "standup" })).await;
    let page = async |host: &str, room: &str| {
        let request = format!("GET /{room} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        Answer::to(&test, &request).await.status
    };
    assert_eq!(page("localhost:8080", "standup").await, 200);
    assert_eq!(page("acme.localhost", "standup").await, 200);
    assert_eq!(page("other.localhost", "standup").await, 404);
    assert_eq!(page("nobody.localhost", "standup").await, 404);

    let wanted = json!({ "roomName": "retro" });
    let method = reqwest::Method::POST;
    test.call(&other, method, "/api/v1/room", Some(&wanted))
        .await;
    assert_eq!(page("other.localhost", "retro").await, 200);
    assert_eq!(page("OTHER.localhost:80", "retro").await, 200);
    assert_eq!(page("localhost", "retro").await, 404);

    for (host, room, answer) in [
        ("other.localhost", "standup", "ROOM_NOT_FOUND"),
        ("localhost", "retro", "ROOM_NOT_FOUND"),
        ("other.localhost", "retro", "participant-joined"),
    ] {
        let stream = TcpStream::connect(&test.address).await.unwrap();
        let url = format!("ws://{host}/ws");
        let (mut socket, _) = soon("a socket", tokio_tungstenite::client_async(url, stream))
            .await
            .unwrap();
        use futures_util::{SinkExt, StreamExt};
        let join = json!({ "type": "join", "roomId": room, "name": "Ann" });
        socket.send(join.to_string().into()).await.unwrap();
        let frame = soon("a frame", socket.next()).await.unwrap().unwrap();
        let frame: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
        let said = [&frame["type"], &frame["code"]];
        assert!(said.contains(&&json!(answer)), "{host} {room}: {frame}");
    }
    let answer = Answer::to(&test, &upgrade("nobody.localhost")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "ROOM_NOT_FOUND")
    );
}

#[sqlx::test]
async fn a_host_that_is_none_is_nobodys_and_forwarded_headers_of_anybody_change_nothing(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    for host in [
        "[",
        "a b",
        "",
        "localhost:port",
        "ann@localhost",
        "::1",
        "%",
        "é",
    ] {
        let request = format!("GET /standup HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(Answer::to(&test, &request).await.status, 404, "{host:?}");
        let answer = Answer::to(&test, &upgrade(host)).await;
        assert_eq!(answer.code(), "ROOM_NOT_FOUND", "{host:?}");
    }
    let two = "GET /standup HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n";
    assert_eq!(Answer::to(&test, two).await.status, 400);
    for header in [
        "X-Forwarded-Host: [",
        "X-Forwarded-Host: other.localhost",
        "Forwarded: host=other.localhost",
    ] {
        let request = format!("GET /standup HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n");
        assert_eq!(Answer::to(&test, &request).await.status, 200, "{header}");
    }
}

#[sqlx::test]
async fn head_is_answered_wherever_get_is_with_its_headers_and_without_a_body(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let room = format!("/api/v1/room/standup?secretKey={}", test.app.key);
    let paths = ["/standup", "/health", "/ready", &room, "/docs/index.html"];
    for path in paths {
        let ask = async |method: &str| {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let mut stream = TcpStream::connect(&test.address).await.unwrap();
            let answer = Answer::on(&mut stream, &request).await;
            // A body of this answer would be taken for the begin of the next.
            let next = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
            assert_eq!(
                Answer::on(&mut stream, next).await.body,
                r#"{"ready":true}"#
            );
            answer
        };
        let (head, get) = (ask("HEAD").await, ask("GET").await);
        assert_eq!((head.status, get.status), (200, 200), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
        assert_eq!(head.body, "", "{path}");
    }
}

#[sqlx::test]
async fn a_method_that_a_path_has_not_is_refused_with_those_that_it_has(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for (path, allowed) in [
        ("/api/v1/app", "GET, HEAD, PATCH, OPTIONS"),
        ("/api/v1/room", "POST, OPTIONS"),
        ("/api/v1/room/standup", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("/health", "GET, HEAD, OPTIONS"),
        ("/standup", "GET, HEAD, OPTIONS"),
        ("/ws", "GET, HEAD, OPTIONS"),
        ("/assets/none.js", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
        ("/docs/index.html", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ] {
        let ask = async |method: &str| {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            Answer::to(&test, &request).await
        };
        let refused = ask("TRACE").await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (405, "METHOD_NOT_ALLOWED"),
            "{path}"
        );
        assert_eq!(refused.header("allow"), allowed, "{path}");
        let options = ask("OPTIONS").await;
        assert_eq!((options.status, options.body.as_str()), (204, ""), "{path}");
        assert_eq!(options.header("allow"), allowed, "{path}");
    }
    let nothing = "PUT /api/v2/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = Answer::to(&test, nothing).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "NOT_FOUND"));
}

#[sqlx::test]
async fn every_refusal_has_the_one_shape(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let key = &test.app.key;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let post = |headers: &str, body: &str| {
        let length = body.len();
        format!(
            "POST /api/v1/room?secretKey={key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
    };
    for (request, status, code, header) in [
        (
            get("/ws"),
            426,
            "UPGRADE_REQUIRED",
            ("upgrade", "websocket"),
        ),
        (
            get("/assets/none.js"),
            404,
            "NOT_FOUND",
            ("cache-control", "no-store"),
        ),
        (
            get(&format!("/api/v1/room/%FF?secretKey={key}")),
            404,
            "ROOM_NOT_FOUND",
            ("", ""),
        ),
        (
            get("/api/v1/room/x"),
            401,
            "UNAUTHORIZED",
            ("www-authenticate", "Bearer"),
        ),
        (
            post("Content-Encoding: gzip\r\n", "{}"),
            415,
            "UNSUPPORTED_ENCODING",
            ("accept-encoding", "identity"),
        ),
        (post("", "{"), 400, "INVALID_REQUEST", ("", "")),
    ] {
        let answer = Answer::to(&test, &request).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{request}"
        );
        assert_eq!(answer.header(header.0), header.1, "{request}");
    }
    let answer = Answer::to(&test, &post("Content-Encoding: Identity\r\n", "{}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[sqlx::test]
async fn the_scheme_of_a_credential_is_written_in_any_case(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let key = &test.app.key;
    for (credential, status) in [
        (format!("Bearer {key}"), 200),
        (format!("bearer {key}"), 200),
        (format!("BEARER  {key}"), 200),
        (format!("Bearer{key}"), 401),
        (format!("Basic {key}"), 401),
        (key.clone(), 401),
    ] {
        let request = format!(
            "GET /api/v1/room/standup HTTP/1.1\r\nHost: localhost\r\nAuthorization: {credential}\r\n\r\n"
        );
        assert_eq!(Answer::to(&test, &request).await.status, status);
    }
}

#[sqlx::test]
async fn the_health_of_the_server_is_told_without_a_database_too(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let _ann = test.join("standup", "Ann").await;
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = Answer::to(&test, request).await;
    let health: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &health["status"]), (200, &json!("ok")));
    let figures = [&health["totalRooms"], &health["totalParticipants"]];
    assert_eq!(figures, [&json!(1), &json!(1)]);

    test.db.close().await;
    let last = soon("no figures", async {
        loop {
            let answer = Answer::to(&test, request).await;
            assert_eq!(answer.status, 200);
            let health: Value = serde_json::from_str(&answer.body).unwrap();
            if health["totalRooms"].is_null() {
                return health;
            }
            tokio::task::yield_now().await;
        }
    });
    let health = last.await;
    assert_eq!(health["totalParticipants"], Value::Null, "{health}");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"), "{health}");
    let ready = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let ready = Answer::to(&test, ready).await;
    assert_eq!((ready.status, ready.code().as_str()), (503, "UNAVAILABLE"));
}

#[sqlx::test]
async fn a_connection_that_was_kept_gets_no_more_work_done_once_the_server_stops(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let _ann = test.join("standup", "Ann").await;
    let mut kept = TcpStream::connect(&test.address).await.unwrap();
    let request = format!(
        "POST /api/v1/room?secretKey={} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        test.app.key
    );
    assert_eq!(Answer::on(&mut kept, &request).await.status, 200);
    // Ann's leave waits for this, and the stop for her leave.
    let mut held = test.pool.begin().await.unwrap();
    sqlx::query("select from meetings for update")
        .execute(&mut *held)
        .await
        .unwrap();
    let ask = async {
        let answer = Answer::on(&mut kept, &request).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "UNAVAILABLE")
        );
        assert_eq!(answer.header("connection"), "close");
        held.rollback().await.unwrap();
    };
    futures_util::future::join(test.stop_node(), ask).await;
    let rooms: i64 = sqlx::query_scalar("select count(*) from rooms")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    assert_eq!(rooms, 2);
}
