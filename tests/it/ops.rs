//! What an operator sees to: proxies, limits, TLS, figures, and a database that goes away.

use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures_util::{SinkExt, StreamExt};
use plenum::db::{self, cluster::Cluster};
use reqwest::{Method, StatusCode, Version};
use serde_json::json;
use sqlx::PgPool;
use tokio::net::TcpStream;

use crate::{
    app::{TestApp, soon},
    http::Answer,
};

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
    let long = format!("Content-Length: {}\r\n", 1024 * 1024 + 1);
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
    answers.push((
        503,
        ask(&format!("GET /api/v1/rooms?secretKey={key}"), "").await,
    ));
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

/// A sample of the text format: its name, labels and value.
type Sample = (String, Vec<(String, String)>, f64);

fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split_terminator("\",");
        let label = |label: &str| {
            let (name, value) = label.split_once("=\"").unwrap();
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        };
        (
            name.to_owned(),
            labels.map(label).collect(),
            value.parse().unwrap(),
        )
    };
    lines.map(parse).collect()
}

#[sqlx::test]
async fn the_figures_tell_of_routes_and_this_node_and_of_no_tenant(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let nobody = "http://127.0.0.1:8443/";
    let canary = "canary-room";
    let room = test
        .room(json!({ "roomName": canary, "meetingStartedWebhook": nobody }))
        .await;
    let ann = test.join(canary, "canary-person").await;
    for path in [
        "/canary-room",
        "/nothing/canary-path",
        "/nothing/else",
        "/api/v1/room/canary-other",
    ] {
        test.fetch(path).await;
    }
    let strange = "CANARY /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    Answer::to(&test, strange).await;
    test.get(&format!("/api/v1/room/{canary}")).await;

    let scrape = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = Answer::to(&test, scrape).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let kind = answer.header("content-type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(answer.body.ends_with("# EOF\n"));
    let all = samples(&answer.body);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let given = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let labels: Vec<_> = labels.iter().map(given).collect();
        let found = all
            .iter()
            .find(|sample| sample.0 == name && sample.1 == labels);
        found
            .unwrap_or_else(|| panic!("{name} {labels:?}: {}", answer.body))
            .2
    };
    let requests = |route, method, status| {
        let labels = [("route", route), ("method", method), ("status", status)];
        value("plenum_http_requests_total", &labels)
    };
    assert_eq!(requests("/api/v1/room", "POST", "2xx"), 1.0);
    assert_eq!(requests("/api/v1/room/{roomName}", "GET", "2xx"), 1.0);
    assert_eq!(requests("/api/v1/room/{roomName}", "GET", "4xx"), 1.0);
    assert_eq!(requests("/{roomName}", "GET", "2xx"), 1.0);
    assert_eq!(requests("/ws", "GET", "1xx"), 1.0);
    assert_eq!(requests("none", "GET", "4xx"), 2.0);
    assert_eq!(requests("/health", "OTHER", "4xx"), 1.0);
    let route = [("route", "/api/v1/room"), ("method", "POST")];
    assert_eq!(
        value("plenum_http_request_duration_seconds_count", &route),
        1.0
    );
    assert_eq!(
        value("plenum_http_requests_in_flight", &[]),
        1.0,
        "the scrape"
    );
    assert_eq!(value("plenum_signaling_sockets", &[]), 1.0);
    assert_eq!(value("plenum_meetings", &[]), 1.0);
    let deliveries =
        ["due", "later"].map(|state| value("plenum_webhook_deliveries", &[("state", state)]));
    assert_eq!(deliveries.iter().sum::<f64>(), 1.0);
    let pool = [("pool", "app"), ("state", "idle")];
    assert!(value("plenum_database_connections", &pool) > 0.0);
    assert_eq!(
        value("plenum_database_connections_limit", &[("pool", "app")]),
        16.0
    );
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(value("plenum_build_info", &version), 1.0);
    assert_eq!(value("process_start_time_seconds", &[]), 1_900_000_000.0);
    value("plenum_clock_offset_seconds", &[]);

    let tenants: Vec<&str> = [&room["_id"], &room["app"]]
        .map(|id| id.as_str().unwrap())
        .into();
    for (name, labels, _) in &all {
        for (label, value) in labels {
            let known = [
                "route", "method", "status", "le", "pool", "state", "version",
            ];
            assert!(known.contains(&label.as_str()), "{name} has {label}");
            let tells = |secret: &&&str| value.to_lowercase().contains(**secret);
            let told = ["canary", "acme", &ann.id, &test.app.key.to_lowercase()];
            assert_eq!(told.iter().chain(&tenants).find(tells), None, "{name}");
        }
        let family = |line: &str| {
            line.split(' ')
                .nth(2)
                .is_some_and(|of| name.starts_with(of))
        };
        let helped = answer
            .body
            .lines()
            .any(|line| line.starts_with("# HELP ") && family(line));
        assert!(helped, "{name} has no help");
    }
}

#[sqlx::test]
async fn the_figures_are_for_this_machine_and_for_the_token(pool: PgPool) {
    const TOKEN: &str = "a-token-for-figures";
    let test = TestApp::with(pool, &["--metrics-token", TOKEN]).await;
    let ask = async |path: &str, host: &str, header: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n\r\n");
        Answer::to(&test, &request).await
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    for (host, header, status) in [
        ("localhost:8080", String::new(), 200),
        ("127.0.0.1", String::new(), 200),
        ("[::1]:80", String::new(), 200),
        ("meet.example.com", bearer(TOKEN), 200),
        ("meet.example.com", String::new(), 404),
        ("meet.example.com", bearer("a-token-for-figureS"), 404),
        ("meet.example.com", bearer(""), 404),
        ("localhost", bearer("a-token"), 404),
        ("localhost", "X-Forwarded-For: 127.0.0.1".to_owned(), 404),
        ("localhost", "X-Forwarded-Host: localhost".to_owned(), 404),
        ("localhost", "Forwarded: for=127.0.0.1".to_owned(), 404),
        ("localhost", "Via: 1.1 proxy".to_owned(), 404),
    ] {
        let answer = ask("/metrics", host, &header).await;
        assert_eq!(answer.status, status, "{host} {header}");
        if status == 404 {
            let unknown = ask("/api/nothing", host, &header).await;
            let names = |answer: &Answer| {
                let mut names: Vec<String> = answer.names().map(str::to_owned).collect();
                names.sort();
                names
            };
            assert_eq!(names(&answer), names(&unknown));
            assert_eq!((answer.code(), unknown.status), (unknown.code(), 404));
        }
    }
}

#[sqlx::test]
async fn an_app_that_asks_too_often_is_refused_until_it_has_waited(pool: PgPool) {
    let args = &["--rate-per-second", "2", "--rate-burst", "4"];
    let test = TestApp::with(pool, args).await;
    let other = test.another_app("other").await;
    let ask = async |key: &str| {
        let request =
            format!("GET /api/v1/room/none?secretKey={key} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        Answer::to(&test, &request).await
    };
    for (left, full_in) in [(3, 1), (2, 1), (1, 2), (0, 2)] {
        let answer = ask(&test.app.key).await;
        assert_eq!(answer.status, 404, "{answer:?}");
        assert_eq!(answer.header("ratelimit-policy"), "\"app\";q=4;w=2");
        let state = format!("\"app\";r={left};t={full_in}");
        assert_eq!(answer.header("ratelimit"), state);
    }
    let refused = ask(&test.app.key).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "RATE_LIMITED")
    );
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("ratelimit"), "\"app\";r=0;t=2");
    assert_eq!(
        ask(&other.key).await.status,
        404,
        "others are not concerned"
    );
    test.advance(TimeDelta::milliseconds(499));
    assert_eq!(ask(&test.app.key).await.status, 429);
    test.advance(TimeDelta::milliseconds(1));
    assert_eq!(ask(&test.app.key).await.status, 404);
    assert_eq!(ask(&test.app.key).await.status, 429);
    let health = Answer::to(&test, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((health.status, health.header("ratelimit")), (200, ""));
}

#[sqlx::test]
async fn an_address_without_a_valid_key_can_guess_only_so_often(pool: PgPool) {
    let args = &[
        "--unauthorized-per-minute",
        "2",
        "--trusted-proxies",
        "127.0.0.1",
    ];
    let test = TestApp::with(pool, args).await;
    let ask = async |address: &str, key: &str| {
        let request = format!(
            "GET /api/v1/room/none?secretKey={key} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6, {address}\r\n\r\n"
        );
        Answer::to(&test, &request).await
    };
    let (key, wrong) = (
        test.app.key.as_str(),
        "plenum_live_000000000000000000000000",
    );
    for address in ["203.0.113.9", "2001:db8::1"] {
        assert_eq!(
            ask(address, key).await.status,
            404,
            "a valid key is no guess"
        );
        for left in [1, 0] {
            let answer = ask(address, wrong).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "UNAUTHORIZED")
            );
            assert_eq!(answer.header("ratelimit-policy"), "\"address\";q=2;w=60");
            let state = answer.header("ratelimit");
            assert!(
                state.starts_with(&format!("\"address\";r={left};t=")),
                "{state}"
            );
        }
        for wrong in [wrong, ""] {
            let answer = ask(address, wrong).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (429, "RATE_LIMITED"),
                "{wrong}"
            );
            assert_eq!(answer.header("retry-after"), "30");
        }
        assert_eq!(
            ask(address, key).await.status,
            404,
            "a valid key is not kept out by what others send from its address"
        );
    }
    assert_eq!(
        ask("2001:db8::2", wrong).await.status,
        429,
        "its whole network"
    );
    assert_eq!(ask("2001:db8:0:1::1", key).await.status, 404);
    assert_eq!(ask("203.0.113.8", key).await.status, 404);
    test.advance(TimeDelta::seconds(30));
    assert_eq!(ask("203.0.113.9", key).await.status, 404);
    assert_eq!(ask("203.0.113.9", wrong).await.status, 401);
    assert_eq!(ask("203.0.113.9", wrong).await.status, 429);
}

/// A certificate for localhost with its key, as PEM, and the certificate as DER.
fn certificate() -> (String, String, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (
        made.cert.pem(),
        made.signing_key.serialize_pem(),
        made.cert.der().to_vec(),
    )
}

/// The certificate that a new connection is shown.
async fn shown(test: &TestApp) -> Vec<u8> {
    let client = reqwest::Client::builder()
        .danger_accept_invalid_certs(true)
        .tls_info(true)
        .build()
        .unwrap();
    let answer = client.get(format!("https://{}/ready", test.address)).send();
    let answer = soon("an answer by TLS", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let info: &reqwest::tls::TlsInfo = answer.extensions().get().unwrap();
    info.peer_certificate().unwrap().to_vec()
}

/// Lets time go by until a new connection is shown `certificate`.
async fn until_shown(test: &TestApp, certificate: &[u8]) {
    let look = async {
        while shown(test).await != certificate {
            test.advance(TimeDelta::seconds(2));
        }
    };
    soon("the new certificate", look).await;
}

#[sqlx::test]
async fn with_a_certificate_everything_goes_by_tls_and_a_new_one_is_taken_while_it_runs(
    pool: PgPool,
) {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let (first, second, third) = (certificate(), certificate(), certificate());
    std::fs::write(&cert, &first.0).unwrap();
    std::fs::write(&key, &first.1).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let args = [
        "--tls-cert".to_owned(),
        path(&cert),
        "--tls-key".to_owned(),
        path(&key),
    ];
    let test = TestApp::with(pool, &args).await;
    let port = test.address.rsplit_once(':').unwrap().1;
    let url = format!("https://localhost:{port}");

    // A client that trusts this certificate alone.
    let trusted = reqwest::Certificate::from_pem(first.0.as_bytes()).unwrap();
    let client = |builder: reqwest::ClientBuilder| {
        let builder = builder
            .tls_certs_only([trusted.clone()])
            .resolve("localhost", test.address.parse().unwrap());
        builder.build().unwrap()
    };
    let create = |client: reqwest::Client, name| {
        let request = client
            .post(format!("{url}/api/v1/room"))
            .bearer_auth(&test.app.key);
        request
            .json(&json!({ "roomName": name, "enableChat": true }))
            .send()
    };
    let (two, one) = (
        client(reqwest::Client::builder()),
        client(reqwest::Client::builder().http1_only()),
    );
    for (client, name, version) in [
        (two, "two", Version::HTTP_2),
        (one, "one", Version::HTTP_11),
    ] {
        let answer = soon(name, create(client, name)).await.unwrap();
        assert_eq!(
            (answer.status(), answer.version()),
            (StatusCode::OK, version)
        );
    }

    let mut roots = rustls::RootCertStore::empty();
    roots.add(first.2.clone().into()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(&test.address).await.unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), stream);
    let stream = soon("TLS", stream).await.unwrap();
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("wss://localhost:{port}/ws"), stream)
            .await
            .unwrap();
    let join = json!({ "type": "join", "roomId": "two", "name": "Ann" });
    socket.send(join.to_string().into()).await.unwrap();
    let frame = soon("a frame", socket.next()).await.unwrap().unwrap();
    assert!(
        frame.to_text().unwrap().contains("participant-joined"),
        "{frame}"
    );

    // A new certificate, whose key comes later; then rubbish; then both at once.
    assert_eq!(shown(&test).await, first.2);
    std::fs::write(&cert, &second.0).unwrap();
    for _ in 0..5 {
        test.advance(TimeDelta::seconds(2));
        assert_eq!(shown(&test).await, first.2, "one half is not used");
    }
    std::fs::write(&key, &second.1).unwrap();
    until_shown(&test, &second.2).await;
    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nrubbish").unwrap();
    for _ in 0..5 {
        test.advance(TimeDelta::seconds(2));
        assert_eq!(shown(&test).await, second.2, "rubbish is not used");
    }
    std::fs::remove_file(&cert).unwrap();
    test.advance(TimeDelta::seconds(2));
    std::fs::write(&cert, &third.0).unwrap();
    std::fs::write(&key, &third.1).unwrap();
    until_shown(&test, &third.2).await;
    socket
        .send(
            json!({ "type": "chat", "text": "still here" })
                .to_string()
                .into(),
        )
        .await
        .unwrap();
    let frame = soon("a frame", socket.next()).await.unwrap().unwrap();
    assert!(frame.to_text().unwrap().contains("still here"), "{frame}");
}

#[tokio::test]
async fn without_postgres_requests_are_told_to_come_back_and_are_served_once_it_is_there_again() {
    // The user `postgres`, as whom it runs where the test is root, has to pass.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(folder.path()).await.unwrap();
    db::migrate(&cluster.connect_options()).await.unwrap();
    let test = TestApp::new(PgPool::connect_lazy_with(cluster.connect_options())).await;
    test.room(json!({ "roomName": "standup" })).await;
    let key = &test.app.key;
    let requests = [
        format!("GET /api/v1/rooms?secretKey={key}"),
        format!("POST /api/v1/room?secretKey={key}"),
        "GET /standup".to_owned(),
        "GET /ready".to_owned(),
    ]
    .map(|line| format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"));
    for request in &requests {
        assert_eq!(Answer::to(&test, request).await.status, 200, "{request}");
    }

    test.pool.close().await;
    cluster.stop().await.unwrap();
    for _ in 0..2 {
        // All at once: no answer waits for another.
        let asked = requests.iter().map(|request| Answer::to(&test, request));
        let asked = futures_util::future::join_all(asked);
        let answers = tokio::time::timeout(Duration::from_secs(8), asked).await;
        for answer in answers.expect("a quick answer") {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (503, "UNAVAILABLE")
            );
            assert_eq!(answer.header("retry-after"), "5");
        }
        let health = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(Answer::to(&test, health).await.status, 200);
    }

    let cluster = Cluster::start(folder.path()).await.unwrap();
    for request in &requests {
        let served = async { while Answer::to(&test, request).await.status != 200 {} };
        soon(request, served).await;
    }
    test.db.close().await;
    cluster.stop().await.unwrap();
}

#[sqlx::test]
async fn a_server_that_stops_is_not_ready(pool: PgPool) {
    let mut test = TestApp::new(pool).await;
    let ready = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
    test.room(json!({ "roomName": "standup" })).await;
    let _ann = test.join("standup", "Ann").await;
    let mut kept = TcpStream::connect(&test.address).await.unwrap();
    assert_eq!(Answer::on(&mut kept, ready).await.status, 200);
    // Ann's leave waits for this, and the stop for her leave.
    let mut held = test.pool.begin().await.unwrap();
    sqlx::query("select from meetings for update")
        .execute(&mut *held)
        .await
        .unwrap();
    let ask = async {
        let answer = Answer::on(&mut kept, ready).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "UNAVAILABLE")
        );
        assert!(!answer.header("retry-after").is_empty());
        held.rollback().await.unwrap();
    };
    futures_util::future::join(test.stop_node(), ask).await;
}

#[sqlx::test]
async fn a_request_that_comes_too_slowly_or_is_too_long_is_given_up(pool: PgPool) {
    let args = [
        "--http-header-timeout",
        "1s",
        "--http-body-timeout",
        "300ms",
        "--http-body-limit",
        "65536",
    ];
    let test = TestApp::with(pool, &args).await;
    let post = format!(
        "POST /api/v1/room?secretKey={} HTTP/1.1\r\nHost: localhost\r\n",
        test.app.key
    );
    let slow = Answer::to(&test, &format!("{post}Content-Length: 2\r\n\r\n{{")).await;
    assert_eq!((slow.status, slow.code().as_str()), (408, "BODY_TOO_SLOW"));
    let begun = Answer::to(&test, "GET /health HTTP/1.1\r\nHost: loc").await;
    assert_eq!(begun.status, 408);
    for request in [
        format!("{post}Content-Length: 65537\r\n\r\n"),
        format!(
            "{post}Transfer-Encoding: chunked\r\n\r\n10001\r\n{}\r\n0\r\n\r\n",
            " ".repeat(65537)
        ),
    ] {
        let long = Answer::to(&test, &request).await;
        assert_eq!((long.status, long.code().as_str()), (413, "BODY_TOO_LARGE"));
    }
}

#[sqlx::test]
async fn a_wrong_key_is_told_before_a_wrong_body_is_read(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for _ in 0..20 {
        let request = "POST /api/v1/room?secretKey=plenum_live_wrong HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n{";
        let answer = Answer::to(&test, request).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "UNAUTHORIZED")
        );
    }
}

#[sqlx::test]
async fn each_item_of_a_batch_counts_as_a_request(pool: PgPool) {
    let test = TestApp::with(pool, &["--rate-per-second", "1", "--rate-burst", "5"]).await;
    let batch = |count: usize| json!({ "rooms": vec![json!({}); count] });
    let path = "/api/v1/rooms/batch-create";
    let (status, headers, _) = test.send(Method::POST, path, &[], Some(&batch(4))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["ratelimit"], "\"app\";r=1;t=4");
    let (status, _, error) = test.send(Method::POST, path, &[], Some(&batch(2))).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("RATE_LIMITED"))
    );
}

#[sqlx::test]
async fn an_address_can_try_tokens_only_so_often(pool: PgPool) {
    let test = TestApp::with(pool, &["--unauthorized-per-minute", "2"]).await;
    let good = test
        .post("/api/v1/token", &json!({ "globalToken": true }))
        .await
        .1;
    let path = "/api/v1/token/validate";
    for expected in [400, 400, 429] {
        assert_eq!(
            test.post(path, &json!({ "token": "wrong" })).await.0,
            expected
        );
    }
    assert_eq!(
        test.post(path, &good).await.0,
        200,
        "a good one is no guess"
    );
}
