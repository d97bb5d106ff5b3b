//! Apps: their keys, hosts and settings.

use plenum::apps::{self, Error};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::{Tenant, TestApp, soon};

/// What a key reads at a host.
async fn get(test: &TestApp, host: &str, path: &str, key: &str) -> (u16, Value) {
    let request = reqwest::Client::new()
        .get(format!("http://{}{path}", test.address))
        .header("host", host)
        .bearer_auth(key);
    let answer = soon(path, request.send()).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn patch(test: &TestApp, app: &Tenant, body: Value) -> (StatusCode, Value) {
    test.call(app, Method::PATCH, "/api/v1/app", Some(&body))
        .await
}

#[sqlx::test]
async fn an_app_has_settings_of_which_only_those_change_that_are_sent(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let (status, app) = test.get("/api/v1/app").await;
    let defaults = json!({
        "_id": test.app.app.id.to_string(), "name": "acme", "created": "2030-03-17T17:46:40.000Z",
        "branding": {
            "name": null, "logoURL": null, "logoDarkURL": null, "accentColor": null, "backgroundColor": null,
            "backgroundDarkColor": null, "corners": "soft", "theme": "system", "privacyURL": null, "helpURL": null,
        },
        "embedOrigins": null, "dialects": { "mirotalk": true, "mikromeet": true, "plugnmeet": true },
        "anonymousRooms": false, "roomDefaults": {},
        "retention": { "personalDataDays": 90, "eventDays": 30 }, "contactEmail": null,
    });
    assert_eq!((status, &app), (StatusCode::OK, &defaults));

    let change = json!({
        "branding": { "name": "Acme Meetings", "accentColor": "#0D6B57" }, "embedOrigins": ["https://acme.example/"],
        "dialects": { "plugnmeet": false }, "contactEmail": "ops@acme.example",
    });
    let (status, app) = patch(&test, &test.app, change).await;
    assert_eq!(status, StatusCode::OK, "{app}");
    assert_eq!(app["branding"]["accentColor"], "#0d6b57");
    assert_eq!(app["embedOrigins"], json!(["https://acme.example"]));
    assert_eq!(app["dialects"]["plugnmeet"], false);
    assert_eq!(app["dialects"]["mirotalk"], true);

    let change = json!({ "branding": { "name": null }, "embedOrigins": null });
    let (_, after) = patch(&test, &test.app, change).await;
    assert_eq!(after["branding"]["name"], Value::Null);
    assert_eq!(after["branding"]["accentColor"], "#0d6b57");
    assert_eq!(after["embedOrigins"], Value::Null);
    assert_eq!(after["contactEmail"], "ops@acme.example");
    assert_eq!(test.get("/api/v1/app").await.1, after);
    let back = patch(&test, &test.app, after.clone()).await;
    assert_eq!(back, (StatusCode::OK, after), "an answer can be sent back");
}

#[sqlx::test]
async fn settings_that_cannot_be_are_all_named_and_nothing_changes(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let before = test.get("/api/v1/app").await;
    let change = json!({
        "branding": { "name": "Acme", "accentColor": "green" }, "embedOrigins": ["acme.example"],
        "retention": { "eventDays": 0 }, "contactEmail": "ops", "roomDefaults": { "maxParticipants": "many", "enableRTMPOut": true },
    });
    let (status, error) = patch(&test, &test.app, change).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::BAD_REQUEST, &json!("INVALID_REQUEST"))
    );
    let errors = error["errors"].as_array().unwrap();
    let mut fields: Vec<&str> = errors
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    let wrong = [
        "branding.accentColor",
        "contactEmail",
        "embedOrigins",
        "retention.eventDays",
        "roomDefaults.enableRTMPOut",
        "roomDefaults.maxParticipants",
    ];
    assert_eq!(fields, wrong);
    assert_eq!(test.get("/api/v1/app").await, before);
}

#[sqlx::test]
async fn what_is_no_setting_is_told_and_ignored(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let change = json!({ "name": "other", "brandin": {}, "roomDefaults": { "maxParticipant": 5 } });
    let (status, headers, app) = test
        .send(Method::PATCH, "/api/v1/app", &[], Some(&change))
        .await;
    assert_eq!((status, &app["name"]), (StatusCode::OK, &json!("acme")));
    assert_eq!(app["roomDefaults"], json!({}));
    let warnings = headers["plenum-warnings"].to_str().unwrap();
    assert!(
        warnings.contains("did you mean branding?")
            && warnings.contains("did you mean roomDefaults.maxParticipants?"),
        "{warnings}"
    );
}

#[sqlx::test]
async fn of_two_changes_that_rest_on_the_same_settings_one_is_refused(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let (_, headers, _) = test.send(Method::GET, "/api/v1/app", &[], None).await;
    let tag = headers["etag"].to_str().unwrap().to_owned();
    let change = async |tag: &str, name: &str| {
        let (headers, body) = ([("if-match", tag)], json!({ "branding": { "name": name } }));
        let request = test.send(Method::PATCH, "/api/v1/app", &headers, Some(&body));
        let (status, _, app) = request.await;
        (status, app["branding"]["name"].clone(), app["code"].clone())
    };
    let changed = (StatusCode::OK, json!("A"), Value::Null);
    assert_eq!(change(&tag, "A").await, changed);
    let refused = (
        StatusCode::PRECONDITION_FAILED,
        Value::Null,
        json!("APP_CHANGED"),
    );
    assert_eq!(change(&tag, "B").await, refused);
    assert_eq!(change("\"x-1\"", "B").await, refused);
    assert_eq!(change("*", "C").await.0, StatusCode::OK);
}

#[sqlx::test]
async fn an_apps_settings_are_its_own(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    let before = test.call(&other, Method::GET, "/api/v1/app", None).await;
    let change = json!({
        "_id": other.app.id.to_string(), "name": "other", "branding": { "name": "Acme" },
        "roomDefaults": { "maxParticipants": 2 },
    });
    assert_eq!(patch(&test, &test.app, change).await.0, StatusCode::OK);
    assert_eq!(
        test.call(&other, Method::GET, "/api/v1/app", None).await,
        before
    );
    let room = json!({ "roomName": "standup" });
    let (_, room) = test
        .call(&other, Method::POST, "/api/v1/room", Some(&room))
        .await;
    assert_eq!(room["maxParticipants"], Value::Null);

    // Row-level security stands behind the query that names the app.
    let mut tx = test.db.begin(test.app.app.id).await.unwrap();
    let touched = sqlx::query("update apps set settings = '{}'")
        .execute(&mut *tx)
        .await
        .unwrap();
    assert_eq!(touched.rows_affected(), 1);
    let renamed = sqlx::query("update apps set name = 'mine'")
        .execute(&mut *tx)
        .await;
    assert!(renamed.is_err(), "its name is not the app's to change");
}

#[sqlx::test]
async fn a_new_room_has_the_apps_defaults_where_its_creation_names_nothing_else(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let before = test.room(json!({ "roomName": "before" })).await;
    let defaults = json!({ "roomDefaults": {
        "maxParticipants": 10, "enableChat": true, "lang": "de", "recordComposition": true,
    } });
    assert_eq!(patch(&test, &test.app, defaults).await.0, StatusCode::OK);
    let room = test
        .room(json!({ "roomName": "standup", "lang": "fr", "enableChat": null }))
        .await;
    assert_eq!(
        (&room["maxParticipants"], &room["lang"], &room["enableChat"]),
        (&json!(10), &json!("fr"), &json!(false))
    );
    assert_eq!(room["enableComposition"], true, "as recording it needs");
    assert_eq!(test.get("/api/v1/room/before").await.1, before);

    let mesh = json!({ "roomName": "mesh", "mediaMode": "mesh" });
    let (status, error) = test.post("/api/v1/room", &mesh).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
}

#[sqlx::test]
async fn the_page_may_be_framed_by_the_apps_embed_origins(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let framed_by = async || {
        let page = test.fetch("/standup").await;
        let policy = page.headers()["content-security-policy"].to_str().unwrap();
        policy.split_once("frame-ancestors ").unwrap().1.to_owned()
    };
    assert_eq!(framed_by().await, "*");
    let change = json!({ "embedOrigins": ["https://acme.example", "http://localhost:3000"] });
    patch(&test, &test.app, change).await;
    assert_eq!(
        framed_by().await,
        "'self' https://acme.example http://localhost:3000"
    );
    patch(&test, &test.app, json!({ "embedOrigins": [] })).await;
    assert_eq!(framed_by().await, "'self'");
}

#[sqlx::test]
async fn a_key_is_refused_on_another_apps_host_and_good_where_no_app_is_named(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    let name =
        async |host: &str, app: &Tenant| match get(&test, host, "/api/v1/app", &app.key).await {
            (200, app) => app["name"].as_str().unwrap().to_owned(),
            (status, error) => format!("{status} {}", error["code"].as_str().unwrap()),
        };
    for host in [
        "localhost",
        "127.0.0.1:8080",
        "[::1]",
        "10.0.0.1",
        "example.com",
    ] {
        assert_eq!(name(host, &test.app).await, "acme", "{host}");
        assert_eq!(name(host, &other).await, "other", "{host}");
    }
    for host in ["acme.localhost", "ACME.Localhost:8080", "acme.localhost."] {
        assert_eq!(name(host, &test.app).await, "acme", "{host}");
        assert_eq!(name(host, &other).await, "403 WRONG_HOST", "{host}");
    }
    assert_eq!(name("nobody.localhost", &other).await, "403 WRONG_HOST");
    let (_, error) = get(&test, "acme.localhost", "/api/v1/room/standup", &other.key).await;
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("send it to other.localhost"), "{message}");
    let unknown = "a-key-that-nobody-ever-made";
    let (status, _) = get(&test, "acme.localhost", "/api/v1/app", unknown).await;
    assert_eq!(status, 401);
}

#[sqlx::test]
async fn health_counts_one_app_on_its_host_and_all_elsewhere(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let other = test.another_app("other").await;
    test.room(json!({ "roomName": "standup" })).await;
    let wanted = json!({ "roomName": "retro" });
    test.call(&other, Method::POST, "/api/v1/room", Some(&wanted))
        .await;
    let _ann = test.join("standup", "Ann").await;
    let ben = test.join("standup", "Ben").await;
    let health = async |host: &str| {
        let (status, health) = get(&test, host, "/health", "none").await;
        let figures = [
            &health["totalRooms"],
            &health["totalParticipants"],
            &health["peakParticipants"],
        ];
        (status, figures.map(Value::as_i64))
    };
    let all = [Some(1), Some(2), Some(2)];
    for host in ["localhost", "10.0.0.1"] {
        assert_eq!(health(host).await, (200, all), "{host}");
    }
    assert_eq!(health("ACME.localhost:8080").await, (200, all));
    assert_eq!(
        health("other.localhost").await,
        (200, [Some(0), Some(0), Some(0)])
    );
    assert_eq!(health("nobody.localhost").await, (404, [None; 3]));

    ben.close(1000).await;
    let later = (200, [Some(1), Some(1), Some(2)]);
    soon("the leave", async {
        while health("acme.localhost").await != later {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[sqlx::test]
async fn an_apps_key_is_stored_only_as_a_hash_and_its_webhook_secret_only_sealed(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let stored: Vec<Vec<u8>> = sqlx::query_scalar(
        "select hash || convert_to(last_four, 'utf8') from secret_keys union all select room_webhook_secret from apps",
    )
    .fetch_all(&test.pool)
    .await
    .unwrap();
    assert_eq!(stored.len(), 2);
    let secret = secrecy::ExposeSecret::expose_secret(&test.app.webhook_secret.reveal()).to_owned();
    for stored in stored {
        let hidden = |text: &str| {
            !stored
                .windows(8)
                .any(|window| window == &text.as_bytes()[12..20])
        };
        assert!(hidden(&test.app.key) && hidden(&secret));
    }
}

#[sqlx::test]
async fn an_apps_name_is_given_once(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let mut conn = test.db.system().await.unwrap();
    let new = plenum::apps::NewApp {
        name: "acme".parse().unwrap(),
        key: plenum::apps::SecretKey::generate(Default::default(), &mut rand::rng()),
        webhook_secret: plenum::webhooks::SigningSecret::generate(&mut rand::rng()),
        is_default: false,
        settings: plenum::apps::AppSettings::default(),
    };
    let key = plenum::sealed::MasterKey::parse(&plenum::sealed::MasterKey::text([7; 32])).unwrap();
    let again = apps::create(&mut conn, &new, &key, test.now(), &mut rand::rng()).await;
    assert!(matches!(again, Err(Error::NameTaken)), "{again:?}");
    assert_eq!(apps::list(&mut conn).await.unwrap().len(), 1);
}
